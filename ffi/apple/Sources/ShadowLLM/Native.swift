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
    private let sampling: Sampling
    private let lock = NSLock()
    private var running: Run?

    init(_ model: Model, _ machine: Machine, _ sampling: Sampling) throws {
        self.sampling = sampling
        var options = try machine.options(model)
        var choosing = try sampling.options()
        let info = try model.info()
        try check(sllm_tokenizer_new(model.pointer, &tokenizer))
        try check(sllm_sampler_new(&choosing, &sampler))
        try check(sllm_session_new(model.pointer, &options, &session))
        if info.has_chat_template != 0 { try check(sllm_chat_new(tokenizer, &conversation)) }
    }

    /// A fork. The tokenizer is the same object, which C keeps alive for the chat; a session without one makes its own.
    init(forking other: Native, _ model: Model) throws {
        sampling = other.sampling
        var choosing = try sampling.options()
        try check(sllm_tokenizer_new(model.pointer, &tokenizer))
        try check(sllm_sampler_new(&choosing, &sampler))
        try check(sllm_session_fork(other.session, &session))
        if other.conversation != nil { try check(sllm_chat_fork(other.conversation, &conversation)) }
        try loadSampler(other.saveSampler())
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

    var hasChat: Bool { conversation != nil }

    func saveSampler() throws -> [UInt8] {
        var state = [UInt8](repeating: 0, count: sllm_sampler_state_size())
        try check(sllm_sampler_save(sampler, &state, state.count))
        return state
    }

    func loadSampler(_ state: [UInt8]) throws {
        try check(sllm_sampler_load(sampler, state, state.count))
    }

    typealias Generate = @Sendable (
        Native, UnsafePointer<sllm_generate_options>, UnsafeMutablePointer<sllm_generation>
    ) throws -> Int32
    typealias OnEnd = @Sendable (Generation) -> Void

    func stream<Piece: Sendable>(
        _ maxTokens: UInt32, _ constraints: Constraints, _ onEnd: OnEnd?,
        _ piece: @escaping @Sendable (Token) -> Piece?, _ generate: @escaping Generate
    ) -> AsyncThrowingStream<Piece, Error> {
        AsyncThrowingStream { continuation in
            let run = Run { token in
                guard let piece = piece(token) else { return true }
                if case .terminated = continuation.yield(piece) { return false }
                return true
            }
            continuation.onTermination = { _ in self.cancel(run) }
            DispatchQueue.global(qos: .userInitiated).async {
                do {
                    let generation = try self.generate(run, maxTokens, constraints, generate)
                    onEnd?(generation)
                    continuation.finish()
                } catch {
                    continuation.finish(throwing: error)
                }
            }
        }
    }

    private func generate(_ run: Run, _ maxTokens: UInt32, _ constraints: Constraints,
                          _ generate: Generate) throws -> Generation {
        try begin(run)
        defer { end() }
        var options = sllm_generate_options()
        try check(sllm_generate_options_defaults(&options, UInt32(MemoryLayout<sllm_generate_options>.size)))
        options.max_tokens = maxTokens
        options.user = Unmanaged.passUnretained(run).toOpaque()
        options.on_token = { user, token in
            guard let user, let token else { return 0 }
            return Unmanaged<Run>.fromOpaque(user).takeUnretainedValue().onToken(Token(token.pointee)) ? 0 : 1
        }
        var result = sllm_generation()
        result.struct_size = UInt32(MemoryLayout<sllm_generation>.size)
        try withExtendedLifetime(run) {
            try constraints.with(&options) { try check(generate(self, $0, &result)) }
        }
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

    /// Stops the running generation, if there is one.
    func cancel() {
        lock.lock()
        defer { lock.unlock() }
        if let running {
            running.cancelled = true
            sllm_session_cancel(session)
        }
    }
}

/// A generation. `cancelled` is accessed under the lock of its session.
fileprivate final class Run: @unchecked Sendable {
    let onToken: @Sendable (Token) -> Bool
    var cancelled = false
    init(_ onToken: @escaping @Sendable (Token) -> Bool) { self.onToken = onToken }
}
