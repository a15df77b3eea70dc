import CShadowLLM

/// A token of an answer.
public struct Token: Sendable {
    public let id: UInt32
    /// Empty while a character is incomplete, or a stop string may have begun.
    public let text: String
    /// Whether it belongs to a block in which the model thinks before it answers.
    public let isThought: Bool
    public let tokensPerSecond: Double
    /// Share of the skippable bytes that was read.
    public let density: Double
    /// Natural logarithm of its probability, and the likeliest tokens with theirs, if `Constraints.logprobs` asks for them.
    public let logprob: Double
    public let top: [Likely]

    public struct Likely: Sendable, Equatable {
        public let id: UInt32
        public let logprob: Float
    }

    init(_ token: sllm_token) {
        id = token.id
        text = token.text.map { utf8(UnsafeRawPointer($0), token.text_length) } ?? ""
        isThought = token.thought != 0
        tokensPerSecond = token.tokens_per_second
        density = token.density
        logprob = token.logprob
        top = UnsafeBufferPointer(start: token.top, count: token.top == nil ? 0 : token.top_count)
            .map { Likely(id: $0.token, logprob: $0.logprob) }
    }
}

func utf8(_ start: UnsafeRawPointer, _ count: Int) -> String {
    String(decoding: UnsafeRawBufferPointer(start: start, count: count), as: UTF8.self)
}

/// The form of an answer.
public enum Rules: Sendable {
    /// JSON that is valid against a JSON schema.
    case jsonSchema(String)
    /// A text that a regular expression matches whole.
    case regex(String)
    /// A text that the rule `start` of a grammar in Lark's notation produces.
    case lark(String)
}

/// Compiled rules, for any number of answers. Made by `Session.grammar`.
public final class Grammar: @unchecked Sendable {
    let pointer: OpaquePointer

    init(_ tokenizer: OpaquePointer?, _ rules: Rules) throws {
        let (kind, text): (Int32, String) = switch rules {
        case .jsonSchema(let text): (SLLM_GRAMMAR_JSON_SCHEMA, text)
        case .regex(let text): (SLLM_GRAMMAR_REGEX, text)
        case .lark(let text): (SLLM_GRAMMAR_LARK, text)
        }
        var grammar: OpaquePointer?
        try check(sllm_grammar_new(tokenizer, kind, text, text.utf8.count, &grammar))
        pointer = try required(grammar)
    }

    deinit {
        var grammar: OpaquePointer? = pointer
        sllm_grammar_free(&grammar)
    }
}

/// What an answer is held to.
public struct Constraints: Sendable {
    /// Texts before which the answer ends.
    public var stop: [String] = []
    /// Added to the logits of tokens; minus infinity excludes a token.
    public var bias: [UInt32: Float] = [:]
    /// The number of likeliest tokens that come with each token and its log-probability; 0 for none of both.
    public var logprobs: UInt32 = 0
    public var grammar: Grammar?
    /// Above 0 makes tokens less likely that would lengthen a repetition ("DRY").
    public var dryMultiplier: Float = 0
    public var dryBase: Float = 1.75
    public var dryAllowedLength: UInt32 = 2
    /// Number of last tokens in which repetitions are looked for; 0 for all.
    public var dryLast: UInt32 = 0
    /// Whether the texts of control tokens in messages become control tokens.
    public var controlTokens = false

    public init() {}

    /// Calls `body` with options of C that hold to this.
    func with<R>(_ options: inout sllm_generate_options,
                 _ body: (UnsafePointer<sllm_generate_options>) throws -> R) throws -> R {
        options.logprobs = logprobs
        options.control_tokens = controlTokens ? 1 : 0
        options.dry_multiplier = dryMultiplier
        options.dry_base = dryBase
        options.dry_allowed_length = dryAllowedLength
        options.dry_last = dryLast
        options.grammar = grammar?.pointer
        let biases = bias.map { sllm_bias(token: $0.key, bias: $0.value) }.sorted { $0.token < $1.token }
        let texts = try stop.map { Array(try withoutNul($0).utf8CString) }
        // One block of memory, so that the pointers into it hold during the call.
        let bytes = texts.flatMap { $0 }
        return try withExtendedLifetime(grammar) {
            try bytes.withUnsafeBufferPointer { bytes in
                var next = 0
                let strings: [UnsafePointer<CChar>?] = texts.map { text in
                    defer { next += text.count }
                    return bytes.baseAddress! + next
                }
                return try strings.withUnsafeBufferPointer { strings in
                    try biases.withUnsafeBufferPointer { biases in
                        options.stop = strings.baseAddress
                        options.stop_count = strings.count
                        options.bias = biases.baseAddress
                        options.bias_count = biases.count
                        return try body(&options)
                    }
                }
            }
        }
    }
}

/// The end of a generation, with its figures.
public struct Generation: Sendable {
    public enum Stop: Int32, Sendable { case end = 1, maxTokens, contextFull, callback, stopString }
    public let stop: Stop
    /// The index in `Constraints.stop` of the stop string that ended it.
    public let stopString: Int?
    /// Tokens of the prompt that were read now; the session had read the others before.
    public let promptTokens: UInt64
    public let generatedTokens: UInt64
    /// Of these, the only ones that the grammar allowed.
    public let forcedTokens: UInt64
    public let firstTokenSeconds: Double
    public let prefillTokensPerSecond: Double
    public let decodeTokensPerSecond: Double

    init(_ result: sllm_generation) {
        stop = Stop(rawValue: result.stop) ?? .callback
        stopString = result.stop_string >= 0 ? Int(result.stop_string) : nil
        promptTokens = result.prompt_tokens
        generatedTokens = result.generated_tokens
        forcedTokens = result.forced_tokens
        firstTokenSeconds = result.first_token_seconds
        prefillTokensPerSecond = result.prefill_tokens_per_second
        decodeTokensPerSecond = result.decode_tokens_per_second
    }
}

/// The tool calls in an answer, in the conventions of Hermes and Qwen, Llama 3, Mistral and Gemma, as JSON:
/// `{"text": the rest of the answer, "calls": [{"name": "...", "arguments": {...}}]}`.
public func parseToolCalls(_ answer: String) throws -> String {
    try text { sllm_parse_tool_calls(answer, answer.utf8.count, $0, $1, $2) }
}

/// A text of C, which is asked for its length first.
func text(_ call: (UnsafeMutablePointer<CChar>?, Int, UnsafeMutablePointer<Int>) -> Int32) throws -> String {
    var length = 0
    try check(call(nil, 0, &length))
    var bytes = [CChar](repeating: 0, count: length + 1)
    try check(call(&bytes, bytes.count, &length))
    return bytes.withUnsafeBytes { utf8($0.baseAddress!, length) }
}
