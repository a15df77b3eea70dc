import CShadowLLM
import Dispatch
import Foundation

/// The C objects of a session; a running generation keeps them alive. The library refuses two calls at the same time
/// (SLLM_STATUS_BUSY); cancelling is allowed at any time.
final class Native: @unchecked Sendable {
    private(set) var session: OpaquePointer?
    private(set) var tokenizer: OpaquePointer?
    private(set) var sampler: OpaquePointer?
    private var conversation: OpaquePointer?
    private let lock = NSLock()
    private var running: Run?

    init(_ model: Model, context: UInt32, threads: UInt32, sampling: Sampling) throws {
        var options = try sessionOptions(model, context: context, threads: threads)
        var choosing = try sampling.options()
        let info = try model.info()
        try check(sllm_tokenizer_new(model.pointer, &tokenizer))
        try check(sllm_sampler_new(&choosing, &sampler))
        try check(sllm_session_new(model.pointer, &options, &session))
        if info.has_chat_template != 0 { try check(sllm_chat_new(tokenizer, &conversation)) }
    }

    deinit {
        sllm_chat_free(&conversation)
        sllm_session_free(&session)
        sllm_sampler_free(&sampler)
        sllm_tokenizer_free(&tokenizer)
    }

    /// Fails, with the library's reason, for a model without a chat template.
    func chat() throws -> OpaquePointer {
        if conversation == nil { try check(sllm_chat_new(tokenizer, &conversation)) }
        return try required(conversation)
    }

    typealias Generate = @Sendable (
        Native, UnsafePointer<sllm_generate_options>, UnsafeMutablePointer<sllm_generation>
    ) throws -> Int32
    typealias OnEnd = @Sendable (Generation) -> Void

    func stream(_ maxTokens: UInt32, _ onEnd: OnEnd?,
                _ generate: @escaping Generate) -> AsyncThrowingStream<String, Error> {
        AsyncThrowingStream { continuation in
            let run = Run(continuation)
            continuation.onTermination = { _ in self.cancel(run) }
            DispatchQueue.global(qos: .userInitiated).async {
                do {
                    let generation = try self.generate(run, maxTokens, generate)
                    onEnd?(generation)
                    continuation.finish()
                } catch {
                    continuation.finish(throwing: error)
                }
            }
        }
    }

    private func generate(_ run: Run, _ maxTokens: UInt32, _ generate: Generate) throws -> Generation {
        try begin(run)
        defer { end() }
        var options = sllm_generate_options()
        try check(sllm_generate_options_defaults(&options, UInt32(MemoryLayout<sllm_generate_options>.size)))
        options.max_tokens = maxTokens
        options.user = Unmanaged.passUnretained(run).toOpaque()
        options.on_token = { user, token in
            let run = Unmanaged<Run>.fromOpaque(user!).takeUnretainedValue()
            guard let token = token?.pointee, token.text_length > 0, let text = token.text else { return 0 }
            let bytes = UnsafeRawBufferPointer(start: text, count: token.text_length)
            if case .terminated = run.continuation.yield(String(decoding: bytes, as: UTF8.self)) { return 1 }
            return 0
        }
        var result = sllm_generation()
        result.struct_size = UInt32(MemoryLayout<sllm_generation>.size)
        try withExtendedLifetime(run) { try check(generate(self, &options, &result)) }
        return Generation(result)
    }

    // A cancel names the generation that it stops, so that one too early or too late stops no other.

    private func begin(_ run: Run) throws {
        lock.lock()
        defer { lock.unlock() }
        if run.cancelled { throw CancellationError() }
        if running != nil { throw ShadowLLMError(status: SLLM_STATUS_BUSY, description: "the session is generating already") }
        running = run
    }

    private func end() {
        lock.lock()
        defer { lock.unlock() }
        running = nil
        sllm_session_reset_cancel(session)
    }

    private func cancel(_ run: Run) {
        lock.lock()
        defer { lock.unlock() }
        run.cancelled = true
        if running === run { sllm_session_cancel(session) }
    }
}

private final class Run: @unchecked Sendable {
    let continuation: AsyncThrowingStream<String, Error>.Continuation
    var cancelled = false
    init(_ continuation: AsyncThrowingStream<String, Error>.Continuation) { self.continuation = continuation }
}
