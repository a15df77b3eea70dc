import CShadowLLM

/// A message of a conversation.
public struct Message: Codable, Equatable, Sendable {
    /// "system", "user", "assistant" or another role that the model's template knows.
    public var role: String
    public var content: String

    public init(role: String, content: String) {
        self.role = role
        self.content = content
    }
}

/// A saved session: from it another session of the same model goes on, also in another process, without reading anything
/// again. Its states are in the machine's own form. The dial and the variables of the template are not saved: set them in the
/// session that loads it.
public struct SavedSession: Codable, Sendable {
    /// Each in JSON, with all its fields.
    public let messages: [String]
    public let session: [UInt8]
    public let sampler: [UInt8]

    public init(messages: [String], session: [UInt8], sampler: [UInt8]) {
        self.messages = messages
        self.session = session
        self.sampler = sampler
    }
}

extension Session {
    /// The messages so far, answers included. Of those added as JSON, the other fields are left out.
    public func messages() throws -> [Message] {
        try readEach { chat, index in
            var (role, content): (UnsafePointer<CChar>?, UnsafePointer<CChar>?) = (nil, nil)
            var (roleLength, contentLength) = (0, 0)
            try check(sllm_chat_message(chat, index, &role, &roleLength, &content, &contentLength))
            return Message(role: role.map { utf8($0, roleLength) } ?? "", content: content.map { utf8($0, contentLength) } ?? "")
        }
    }

    /// The messages with all their fields, each in JSON.
    private func wholeMessages() throws -> [String] {
        try readEach { chat, index in
            var json: UnsafePointer<CChar>?
            var length = 0
            try check(sllm_chat_message_json(chat, index, &json, &length))
            return json.map { utf8($0, length) } ?? ""
        }
    }

    private func readEach<Read>(_ read: (OpaquePointer, Int) throws -> Read) throws -> [Read] {
        guard native.hasChat else { return [] }
        let chat = try native.chat()
        var count = 0
        try check(sllm_chat_count(chat, &count))
        return try (0..<count).map { try read(chat, $0) }
    }

    /// Keeps the first messages and removes the others: takes back a question, or an answer that should be generated again.
    public func truncate(to count: Int) throws {
        try check(sllm_chat_truncate(try native.chat(), count))
    }

    /// The state of the session, of its sampler, and the messages with all their fields; not the dial, and not the variables
    /// of the template.
    public func save() throws -> SavedSession {
        var size = 0
        try check(sllm_session_state_size(native.session, &size))
        var state = [UInt8](repeating: 0, count: size)
        var written = 0
        try check(sllm_session_save(native.session, &state, state.count, &written))
        return SavedSession(messages: try wholeMessages(), session: Array(state[..<written]), sampler: try native.saveSampler())
    }

    /// Goes on from a saved session of the same model, whose messages take the place of this one's.
    public func load(_ saved: SavedSession) throws {
        try check(sllm_session_load(native.session, saved.session, saved.session.count))
        try native.loadSampler(saved.sampler)
        if native.hasChat || !saved.messages.isEmpty {
            try clear()
            for message in saved.messages { try add(json: message) }
        }
    }

    /// A second session that goes on from here: with the same messages, dial and random state.
    public func fork() throws -> Session { try Session(forking: self) }
}
