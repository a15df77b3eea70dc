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
    /// Subtracted from the logits of the last 64 tokens, once.
    public var presencePenalty: Float = 0
    /// Subtracted from a token's logit for each time it is among the last 64.
    public var frequencyPenalty: Float = 0
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
        options.presence_penalty = presencePenalty
        options.frequency_penalty = frequencyPenalty
        options.seed = seed
        return options
    }
}

/// How much is skipped.
public enum Sparsity: Int32, Sendable { case off, light, medium, strong }

/// One conversation with a model, or one text that is continued. Generating happens on a thread of its own, one generation
/// at a time: a call during a generation fails with SLLM_STATUS_BUSY.
public actor Session {
    nonisolated let native: Native
    private let model: Model

    /// `context` 0 is the context that the model was trained for, at most 2048 positions. `memoryBudget`, in MB, keeps so
    /// much of the weights in memory and reads the rest from the file for each token; 0 leaves that to the system. Builds
    /// a tokenizer, which takes tens of milliseconds: make it off the main actor.
    public init(_ model: Model, context: UInt32 = 0, threads: UInt32 = 0, memoryBudget: UInt32 = 0,
                sampling: Sampling = Sampling()) throws {
        self.model = model
        native = try Native(model, Machine(context: context, threads: threads, memoryBudget: memoryBudget), sampling)
    }

    init(forking other: Session) throws {
        model = other.model
        native = try Native(forking: other.native, other.model)
    }

    /// Stops the running answer; its text so far stays in the conversation.
    public nonisolated func cancel() { native.cancel() }

    /// Rules that answers can be held to, compiled.
    public func grammar(_ rules: Rules) throws -> Grammar { try Grammar(native.tokenizer, rules) }

    /// Adds a message with all its fields, a JSON object with a role: the result of a tool, or an answer with tool calls.
    public func add(json: String) throws { try check(sllm_chat_add_json(try native.chat(), try withoutNul(json))) }

    /// Gives the chat template a variable besides the messages, in JSON: "tools", "documents", "enable_thinking"; nil
    /// removes it.
    public func setVariable(_ name: String, json: String?) throws {
        try check(sllm_chat_set_variable(try native.chat(), try withoutNul(name), try json.map(withoutNul)))
    }

    /// The prompt that the model's template makes of the messages.
    public func prompt() throws -> String {
        let chat = try native.chat()
        return try text { sllm_chat_render(chat, $0, $1, $2) }
    }

    /// Adds a message; roles are "system", "user" and "assistant". Texts must not contain NUL characters.
    public func add(role: String, _ content: String) throws {
        let (role, content) = (try withoutNul(role), try withoutNul(content))
        try check(sllm_chat_add(try native.chat(), role, content))
    }

    /// Removes all messages.
    public func clear() throws { try check(sllm_chat_clear(try native.chat())) }

    /// Answers the messages. Ending the iteration, or cancelling its task, cancels the generation, also while the model
    /// reads the prompt. The text so far stays in the conversation; without any text, and after a failure, the messages
    /// are as they were. `onEnd` gets the figures of an answer that was not cancelled, before the iteration ends.
    public nonisolated func answer(
        maxTokens: UInt32 = 256, constraints: Constraints = Constraints(), onEnd: (@Sendable (Generation) -> Void)? = nil
    ) -> AsyncThrowingStream<String, Error> {
        native.stream(maxTokens, constraints, onEnd, { $0.text.isEmpty ? nil : $0.text }, answering)
    }

    /// `answer`, token by token.
    public nonisolated func tokens(
        maxTokens: UInt32 = 256, constraints: Constraints = Constraints(), onEnd: (@Sendable (Generation) -> Void)? = nil
    ) -> AsyncThrowingStream<Token, Error> {
        native.stream(maxTokens, constraints, onEnd, { $0 }, answering)
    }

    /// Reads a plain text after the tokens that the session has read, and continues it; otherwise like `answer`.
    public nonisolated func continueText(
        _ text: String, maxTokens: UInt32 = 256, constraints: Constraints = Constraints(),
        onEnd: (@Sendable (Generation) -> Void)? = nil
    ) -> AsyncThrowingStream<String, Error> {
        native.stream(maxTokens, constraints, onEnd, { $0.text.isEmpty ? nil : $0.text }) { native, options, result in
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

    /// Sets how much is skipped by what people want. `maxLoss` is the growth of perplexity that is allowed (0.01: one
    /// percent), as calibration measured it; below 0: 5 percent where it was measured. `secondsPerToken` above 0 reads no
    /// less than that time asks for: the session must have read nothing, and 20 to 40 tokens are decoded to measure times.
    /// Returns the expected seconds of a token, 0 without `secondsPerToken`.
    @discardableResult
    public func setPace(secondsPerToken: Double = 0, maxLoss: Float = -1) throws -> Double {
        var expected = 0.0
        try check(sllm_session_set_pace(native.session, secondsPerToken, maxLoss, &expected))
        return expected
    }

    public func stats() throws -> sllm_stats {
        var stats = sllm_stats()
        stats.struct_size = UInt32(MemoryLayout<sllm_stats>.size)
        try check(sllm_session_get_stats(native.session, &stats))
        return stats
    }
}

private let answering: Native.Generate = { native, options, result in
    sllm_chat_generate(try native.chat(), native.session, native.sampler, options, result)
}
