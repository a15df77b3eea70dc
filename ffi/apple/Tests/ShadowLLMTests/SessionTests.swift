import XCTest

import ShadowLLM

/// Two small models, made by tests/c/run.sh models: one that continues texts, one with a chat template.
final class SessionTests: XCTestCase {
    private func model(_ name: String) throws -> Model {
        guard let folder = ProcessInfo.processInfo.environment["SHADOWLLM_MODELS"] else {
            throw XCTSkip("SHADOWLLM_MODELS names no folder with models")
        }
        return try Model(path: "\(folder)/\(name).sllm")
    }

    private func collect(_ pieces: AsyncThrowingStream<String, Error>) async throws -> String {
        var text = ""
        for try await piece in pieces { text += piece }
        return text
    }

    private func failure(_ body: () async throws -> Void) async -> ShadowLLMError? {
        do { try await body() } catch { return error as? ShadowLLMError }
        return nil
    }

    func testErrors() async throws {
        XCTAssertThrowsError(try Model(path: "/nowhere.sllm")) { XCTAssertEqual(($0 as? ShadowLLMError)?.status, 6) }
        XCTAssertThrowsError(try Model(path: "/etc/passwd")) { XCTAssertTrue($0.localizedDescription.contains("image"), "\($0)") }
        let session = try Session(model("plain"), context: 64)
        let noTemplate = await failure { try await session.add(role: "user", "Hello") }
        XCTAssertEqual(noTemplate?.status, 8)
        let nul = await failure { try await session.add(role: "user", "a\0b") }
        XCTAssertEqual(nul?.status, 1)
        let chat = try Session(model("chat"))
        let nuls: [(String, () async throws -> Void)] = [
            ("a path", { _ = try Model(path: "a\0b") }),
            ("JSON", { try await chat.add(json: "{\"role\": \"user\", \"content\": \"a\"}\0") }),
            ("a name", { try await chat.setVariable("enable_thinking\0", json: "true") }),
            ("a value", { try await chat.setVariable("enable_thinking", json: "true\0") }),
        ]
        for (what, call) in nuls {
            let refused = await failure(call)
            XCTAssertTrue(refused?.status == 1 && refused?.description.contains("NUL") == true, "\(what): \(String(describing: refused))")
        }
        let bad = await failure { _ = try await session.grammar(.jsonSchema("{")) }
        XCTAssertEqual(bad?.status, 1)
        var empty = Constraints()
        empty.stop = [""]
        let constraints = empty
        let refused = await failure { _ = try await self.collect(session.continueText("The", constraints: constraints)) }
        XCTAssertTrue(refused?.description.contains("empty") == true, "\(String(describing: refused))")
    }

    func testConstraints() async throws {
        var greedy = Sampling()
        greedy.temperature = 0
        let session = try Session(model("plain"), context: 256, sampling: greedy)
        let free = try await collect(session.continueText("The jury said", maxTokens: 24))
        let word = free.split(separator: " ").map(String.init)[2]
        var constraints = Constraints()
        constraints.stop = ["never in it", word]
        try await session.rewind(to: 0)
        let ended = Box<Generation>()
        let stopped = try await collect(session.continueText("The jury said", constraints: constraints) { ended.set($0) })
        XCTAssertTrue(!stopped.contains(word) && free.hasPrefix(stopped), stopped)
        XCTAssertTrue(ended.value?.stop == .stopString && ended.value?.stopString == 1)

        constraints = Constraints()
        constraints.grammar = try await session.grammar(.regex("[0-9]{3}"))
        try await session.rewind(to: 0)
        let digits = try await collect(session.continueText("The jury said", constraints: constraints))
        XCTAssertTrue(digits.count == 3 && digits.allSatisfy(\.isNumber), digits)
        XCTAssertTrue(try parseToolCalls("<tool_call>{\"name\": \"clock\", \"arguments\": {}}</tool_call>").contains("clock"))
        let noTime = try await session.setPace()
        XCTAssertEqual(noTime, 0)
        let statistics = try await session.stats()
        XCTAssertGreaterThan(statistics.decoded_tokens, 0)
        XCTAssertGreaterThan(try model("plain").memory().session_bytes, 0)
    }

    func testRepetitions() async throws {
        var greedy = Sampling()
        greedy.temperature = 0
        let session = try Session(model("plain"), context: 128, sampling: greedy)
        var texts: [String] = []
        for (multiplier, base, length, last) in [
            (0, 1.75, 2, 0), (1000, 1.75, 2, 0), (1000, 1.75, 40, 0), (1000, 1.75, 2, 3), (1e-3, 1, 2, 0), (1e-3, 1e6, 2, 0),
        ] as [(Float, Float, UInt32, UInt32)] {
            var constraints = Constraints()
            constraints.dryMultiplier = multiplier
            constraints.dryBase = base
            constraints.dryAllowedLength = length
            constraints.dryLast = last
            try await session.rewind(to: 0)
            texts.append(try await collect(session.continueText("The jury said", maxTokens: 64, constraints: constraints)))
        }
        // A penalty changes the text, unless it is of longer repetitions, looks back too little, or is too slight.
        XCTAssertEqual(texts.map { $0 == texts[0] }, [true, false, true, true, true, false], "\(texts)")
    }

    func testLikelihoods() async throws {
        let session = try Session(model("chat"))
        try await session.add(role: "user", "Who was the mayor?")
        var constraints = Constraints()
        constraints.logprobs = 3
        let ended = Box<Generation>()
        var tokens: [Token] = []
        for try await token in session.tokens(maxTokens: 8, constraints: constraints, onEnd: { ended.set($0) }) { tokens.append(token) }
        XCTAssertFalse(tokens.isEmpty)
        XCTAssertTrue(tokens.allSatisfy { $0.top.isEmpty || ($0.top.count == 3 && $0.logprob < 0 && $0.top[0].logprob >= $0.top[1].logprob) })
        XCTAssertEqual(ended.value.map { Int($0.generatedTokens) }, tokens.filter { !$0.top.isEmpty }.count)
        XCTAssertGreaterThan(ended.value?.promptTokens ?? 0, 0)
    }

    func testWhatIsKeptIsNotReadAgain() async throws {
        let model = try model("chat")
        let session = try Session(model)
        try await session.add(role: "user", "Who was the mayor?")
        let first = try await collect(session.answer(maxTokens: 12))
        let messages = try await session.messages()
        XCTAssertEqual(messages, [Message(role: "user", content: "Who was the mayor?"), Message(role: "assistant", content: first)])
        let position = try await session.position()
        // Through JSON, as an application would keep it.
        let saved = try JSONDecoder().decode(SavedSession.self, from: JSONEncoder().encode(try await session.save()))
        let fork = try await session.fork()
        var other = Sampling()
        other.seed = 99
        let loaded = try Session(model, sampling: other)
        try await loaded.add(role: "user", "Something else.")
        try await loaded.load(saved)
        let loadedPosition = try await loaded.position()
        XCTAssertEqual(loadedPosition, position)
        let fresh = try Session(model)
        for message in messages { try await fresh.add(role: message.role, message.content) }
        var answers: [String] = []
        var read: [UInt64] = []
        for each in [session, fork, loaded, fresh] {
            try await each.add(role: "user", "And who was it before?")
            let ended = Box<Generation>()
            answers.append(try await collect(each.answer(maxTokens: 12) { ended.set($0) }))
            read.append(ended.value?.promptTokens ?? 0)
        }
        XCTAssertTrue(answers[0] == answers[1] && answers[0] == answers[2], "\(answers)")
        // The last one has read nothing before.
        XCTAssertTrue(read[0] == read[1] && read[0] == read[2] && read[0] < read[3], "\(read)")
        try await loaded.truncate(to: 1)
        let left = try await loaded.messages().count
        XCTAssertEqual(left, 1)
        let damaged = SavedSession(messages: [], session: Array(saved.session.dropLast(9)), sampler: saved.sampler)
        let refused = await failure { try await session.load(damaged) }
        XCTAssertNotNil(refused)
    }

    func testMessagesAreSavedWhole() async throws {
        let model = try model("chat")
        let session = try Session(model)
        let before = try await session.save()
        let fields = ["\"tool_calls\":[{\"function\":{\"name\":\"clock\",\"arguments\":{}}}]", "\"name\":\"clock\"", "\"tool_call_id\":\"1\""]
        try await session.add(json: "{\"role\": \"user\", \"content\": [{\"type\": \"text\", \"text\": \"naïve\"}]}")
        try await session.add(json: "{\"role\": \"assistant\", \"content\": null, \(fields[0])}")
        try await session.add(json: "{\"role\": \"tool\", \"content\": \"12:00\", \(fields[1]), \(fields[2])}")
        let saved = try await session.save()
        let loaded = try Session(model)
        try await loaded.load(saved)
        let (prompt, again) = (try await session.prompt(), try await loaded.prompt())
        XCTAssertTrue(prompt == again && prompt.contains("naïve"), "\(prompt) \(again)")
        let messages = try await loaded.save().messages
        let all = messages.joined(separator: "\n")
        XCTAssertTrue(messages == saved.messages && fields.allSatisfy { all.contains($0) }, all)
        // Saved before there were messages.
        try await loaded.load(before)
        let left = try await loaded.messages()
        XCTAssertTrue(left.isEmpty, "\(left)")
    }

    func testACancelledAnswerIsKept() async throws {
        let session = try Session(model("chat"))
        try await session.add(role: "user", "Who was the mayor?")
        let cancelled = await failure {
            for try await _ in session.answer(maxTokens: 400) { session.cancel() }
        }
        XCTAssertEqual(cancelled?.isCancelled, true)
        let messages = try await session.messages()
        XCTAssertEqual(messages.count, 2)
        XCTAssertFalse(messages[1].content.isEmpty)
        // Ending the iteration cancels as well.
        try await session.add(role: "user", "And then?")
        for try await _ in session.answer(maxTokens: 400) { break }
        while true {
            let failed = await failure { _ = try await session.position() }
            if failed == nil { break }
        }
        let after = try await session.messages().count
        XCTAssertEqual(after, 4)
        try await session.add(json: "{\"role\": \"user\", \"content\": \"Well?\"}")
        try await session.setVariable("enable_thinking", json: "false")
        let prompt = try await session.prompt()
        XCTAssertTrue(prompt.contains("Well?"))
    }
}

/// A value that another thread sets.
private final class Box<Value: Sendable>: @unchecked Sendable {
    private let lock = NSLock()
    private var stored: Value?

    var value: Value? {
        lock.lock()
        defer { lock.unlock() }
        return stored
    }

    func set(_ value: Value) {
        lock.lock()
        defer { lock.unlock() }
        stored = value
    }
}
