import CShadowLLM

/// Options of the sampler. The defaults are the library's.
public struct Sampling: Sendable {
    /// Divides the logits; 0 takes the likeliest token.
    public var temperature: Float = 0.8
    /// Only the k likeliest; 0 for all.
    public var topK: UInt32 = 40
    /// Only the likeliest that together reach this probability; 1 for all.
    public var topP: Float = 0.95
    /// Only tokens at least this share as likely as the likeliest; 0 for all.
    public var minP: Float = 0.05
    /// Above 1 makes the last 64 tokens less likely.
    public var repetitionPenalty: Float = 1
    /// The same seed, texts and options give the same answer everywhere.
    public var seed: UInt64 = 0

    public init() {}

    func options() throws -> sllm_sampler_options {
        var options = sllm_sampler_options()
        try check(sllm_sampler_options_defaults(&options, UInt32(MemoryLayout<sllm_sampler_options>.size)))
        options.temperature = temperature
        options.top_k = topK
        options.top_p = topP
        options.min_p = minP
        options.repetition_penalty = repetitionPenalty
        options.seed = seed
        return options
    }
}

/// How much is skipped.
public enum Sparsity: Int32, Sendable { case off, light, medium, strong }

/// The end of a generation, with its figures.
public struct Generation: Sendable {
    public enum Stop: Int32, Sendable { case end = 1, maxTokens, contextFull, callback }
    public let stop: Stop
    /// Tokens of the prompt that were read now; the session had read the others before.
    public let promptTokens: UInt64
    public let generatedTokens: UInt64
    public let firstTokenSeconds: Double
    public let prefillTokensPerSecond: Double
    public let decodeTokensPerSecond: Double

    init(_ result: sllm_generation) {
        stop = Stop(rawValue: result.stop) ?? .callback
        promptTokens = result.prompt_tokens
        generatedTokens = result.generated_tokens
        firstTokenSeconds = result.first_token_seconds
        prefillTokensPerSecond = result.prefill_tokens_per_second
        decodeTokensPerSecond = result.decode_tokens_per_second
    }
}

/// One conversation with a model, or one text that is continued. Generating happens on a thread of its own, one generation
/// at a time: a call during a generation fails with SLLM_STATUS_BUSY.
public actor Session {
    private let native: Native

    /// `context` 0 is the context that the model was trained for, at most 2048 positions. Builds a tokenizer, which
    /// takes tens of milliseconds: make it off the main actor.
    public init(_ model: Model, context: UInt32 = 0, threads: UInt32 = 0, sampling: Sampling = Sampling()) throws {
        native = try Native(model, context: context, threads: threads, sampling: sampling)
    }

    /// Adds a message; roles are "system", "user" and "assistant". Texts must not contain NUL characters.
    public func add(role: String, _ content: String) throws {
        guard !role.utf8.contains(0), !content.utf8.contains(0) else {
            throw ShadowLLMError(status: SLLM_STATUS_INVALID_ARGUMENT, description: "a text contains a NUL character")
        }
        try check(sllm_chat_add(try native.chat(), role, content))
    }

    /// Removes all messages.
    public func clear() throws { try check(sllm_chat_clear(try native.chat())) }

    /// Answers the messages. Ending the iteration, or cancelling its task, cancels the generation, also while the model
    /// reads the prompt. The text so far stays in the conversation; without any text, and after a failure, the messages
    /// are as they were. `onEnd` gets the figures of an answer that was not cancelled, before the iteration ends.
    public nonisolated func answer(
        maxTokens: UInt32 = 256, onEnd: (@Sendable (Generation) -> Void)? = nil
    ) -> AsyncThrowingStream<String, Error> {
        native.stream(maxTokens, onEnd) { native, options, result in
            sllm_chat_generate(try native.chat(), native.session, native.sampler, options, result)
        }
    }

    /// Reads a plain text after the tokens that the session has read, and continues it; otherwise like `answer`.
    public nonisolated func continueText(
        _ text: String, maxTokens: UInt32 = 256, onEnd: (@Sendable (Generation) -> Void)? = nil
    ) -> AsyncThrowingStream<String, Error> {
        native.stream(maxTokens, onEnd) { native, options, result in
            // With a length, so that a NUL inside the text does not end it.
            sllm_generate(native.session, native.tokenizer, native.sampler, text, text.utf8.count, options, result)
        }
    }

    /// Tokens read so far.
    public func position() throws -> Int {
        var position: Int = 0
        try check(sllm_session_position(native.session, &position))
        return position
    }

    /// Goes back to an earlier position and forgets all tokens after it.
    public func rewind(to position: Int) throws {
        try check(sllm_session_rewind(native.session, position))
    }

    /// SLLM_STATUS_UNSUPPORTED for a model that is not calibrated.
    public func setSparsity(_ level: Sparsity) throws {
        try check(sllm_session_set_sparsity(native.session, level.rawValue))
    }

    public func stats() throws -> sllm_stats {
        var stats = sllm_stats()
        stats.struct_size = UInt32(MemoryLayout<sllm_stats>.size)
        try check(sllm_session_get_stats(native.session, &stats))
        return stats
    }
}
