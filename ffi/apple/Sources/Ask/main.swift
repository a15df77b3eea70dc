// A command line over the package: Ask MODEL.sllm QUESTION
import Foundation
import ShadowLLM

guard CommandLine.arguments.count == 3 else {
    FileHandle.standardError.write(Data("usage: Ask MODEL.sllm QUESTION\n".utf8))
    exit(2)
}
do {
    let session = try Session(Model(path: CommandLine.arguments[1]))
    try await session.add(role: "user", CommandLine.arguments[2])
    let pieces = session.answer { end in
        FileHandle.standardError.write(Data("[\(end.generatedTokens) tokens, \(end.stop)]\n".utf8))
    }
    for try await piece in pieces {
        FileHandle.standardOutput.write(Data(piece.utf8))
    }
    print()
} catch {
    FileHandle.standardError.write(Data("\(error)\n".utf8))
    exit(1)
}
