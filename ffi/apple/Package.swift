// swift-tools-version: 5.9
// ffi/apple/xcframework.sh puts CShadowLLM.xcframework beside this file first. Released packages name it by address and
// checksum instead: .binaryTarget(name:url:checksum:).
import PackageDescription

let package = Package(
    name: "ShadowLLM",
    platforms: [.iOS(.v15), .macOS(.v12)],
    products: [.library(name: "ShadowLLM", targets: ["ShadowLLM"])],
    targets: [
        .binaryTarget(name: "CShadowLLM", path: "CShadowLLM.xcframework"),
        .target(name: "ShadowLLM", dependencies: ["CShadowLLM"], resources: [.copy("PrivacyInfo.xcprivacy")]),
    ]
)
