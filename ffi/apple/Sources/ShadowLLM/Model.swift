import CShadowLLM
import Foundation

/// A failure of the library: a status of shadowllm.h and its message.
public struct ShadowLLMError: LocalizedError, CustomStringConvertible {
    public let status: Int32
    public let description: String

    init(status: Int32, description: String) {
        self.status = status
        self.description = description
    }

    /// The last failure of this thread. Make it directly after the call.
    init(_ status: Int32) {
        self.init(status: status, description: String(cString: sllm_last_error_message()))
    }

    public var errorDescription: String? { description }

    public var isCancelled: Bool { status == SLLM_STATUS_CANCELLED }
}

func check(_ status: Int32) throws {
    if status != SLLM_STATUS_OK { throw ShadowLLMError(status) }
}

/// A text for C, where a NUL character would end it.
func withoutNul(_ text: String) throws -> String {
    guard !text.utf8.contains(0) else {
        throw ShadowLLMError(status: SLLM_STATUS_INVALID_ARGUMENT, description: "a text contains a NUL character")
    }
    return text
}

/// An object that C has made.
func required(_ pointer: OpaquePointer?) throws -> OpaquePointer {
    guard let pointer else { throw ShadowLLMError(status: SLLM_STATUS_INTERNAL, description: "the library made no object") }
    return pointer
}

/// A packed model, mapped from its file: immutable, for any number of sessions on any threads.
public final class Model: @unchecked Sendable {
    let pointer: OpaquePointer

    /// Maps an image. `preload` reads the whole file now, `verify` compares it with its checksums; `progress` gets the bytes
    /// done and the total, and returns whether to continue.
    public init(path: String, preload: Bool = false, verify: Bool = false,
                progress: ((UInt64, UInt64) -> Bool)? = nil) throws {
        guard sllm_version() / 1000 == UInt32(SLLM_VERSION_MAJOR) * 1000 + UInt32(SLLM_VERSION_MINOR) else {
            throw ShadowLLMError(status: SLLM_STATUS_UNSUPPORTED, description: "library and header differ")
        }
        var options = sllm_load_options()
        try check(sllm_load_options_defaults(&options, UInt32(MemoryLayout<sllm_load_options>.size)))
        options.preload = preload ? 1 : 0
        options.verify = verify ? 1 : 0
        let box = Progress(progress)
        options.progress = { user, done, total in
            Unmanaged<Progress>.fromOpaque(user!).takeUnretainedValue().call?(done, total) == false ? 1 : 0
        }
        options.progress_user = Unmanaged.passUnretained(box).toOpaque()
        let path = try withoutNul(path)
        var model: OpaquePointer?
        try withExtendedLifetime(box) { try check(sllm_model_open(path, &options, &model)) }
        pointer = try required(model)
    }

    deinit {
        var model: OpaquePointer? = pointer
        sllm_model_free(&model)
    }

    public func info() throws -> sllm_model_info {
        var info = sllm_model_info()
        info.struct_size = UInt32(MemoryLayout<sllm_model_info>.size)
        try check(sllm_model_get_info(pointer, &info))
        return info
    }

    /// The memory that a session will take, before any is taken.
    public func memory(context: UInt32 = 0) throws -> sllm_memory {
        var options = try Machine(context: context, threads: 0, memoryBudget: 0).options(self)
        var memory = sllm_memory()
        memory.struct_size = UInt32(MemoryLayout<sllm_memory>.size)
        try check(sllm_estimate_memory(pointer, &options, &memory))
        return memory
    }
}

private final class Progress {
    let call: ((UInt64, UInt64) -> Bool)?
    init(_ call: ((UInt64, UInt64) -> Bool)?) { self.call = call }
}

/// Positions of a session where no number is given: less than the library's, for the memory of phones.
let defaultContext: UInt32 = 2048

/// What a session may take of the machine.
struct Machine {
    let context: UInt32
    let threads: UInt32
    let memoryBudget: UInt32

    func options(_ model: Model) throws -> sllm_session_options {
        var options = sllm_session_options()
        try check(sllm_session_options_defaults(&options, UInt32(MemoryLayout<sllm_session_options>.size)))
        options.context = context > 0 ? context : min(defaultContext, try model.info().trained_context)
        options.threads = threads
        options.memory_budget = memoryBudget
        return options
    }
}
