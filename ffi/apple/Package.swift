// swift-tools-version: 6.0
// On Apple's systems ffi/apple/xcframework.sh puts CShadowLLM.xcframework beside this file first; released packages name it
// by address and checksum instead: .binaryTarget(name:url:checksum:). On Linux the installed C library is used
// (ffi/install.sh), in a folder that is not searched with: -Xcc -I... -Xlinker -L...
import PackageDescription

#if os(Linux)
let library = Target.systemLibrary(name: "CShadowLLM", path: "Linux")
#else
let library = Target.binaryTarget(name: "CShadowLLM", path: "CShadowLLM.xcframework")
#endif

let package = Package(
    name: "ShadowLLM",
    platforms: [.iOS(.v15), .macOS(.v12)],
    products: [.library(name: "ShadowLLM", targets: ["ShadowLLM"])],
    targets: [
        library,
        .target(name: "ShadowLLM", dependencies: ["CShadowLLM"], resources: [.copy("PrivacyInfo.xcprivacy")]),
        .executableTarget(name: "Ask", dependencies: ["ShadowLLM"]),
        .testTarget(name: "ShadowLLMTests", dependencies: ["ShadowLLM"]),
    ]
)
