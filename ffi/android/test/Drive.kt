package org.shadowllm

import java.io.File
import java.io.FileDescriptor
import java.io.FileInputStream
import java.nio.file.Files
import java.util.concurrent.CountDownLatch
import java.util.concurrent.atomic.AtomicBoolean
import java.util.concurrent.atomic.AtomicInteger
import kotlin.concurrent.thread
import kotlin.system.exitProcess
import kotlinx.coroutines.Dispatchers
import kotlinx.coroutines.awaitCancellation
import kotlinx.coroutines.cancelAndJoin
import kotlinx.coroutines.delay
import kotlinx.coroutines.flow.collect
import kotlinx.coroutines.flow.take
import kotlinx.coroutines.flow.toList
import kotlinx.coroutines.launch
import kotlinx.coroutines.runBlocking
import kotlinx.coroutines.withTimeoutOrNull
import org.shadowllm.ShadowllmException.Status

// Drives the library in a JVM: `say IMAGE SEED TOKENS PROMPT` prints an answer, `all PLAIN CHAT [LARGE]` tries
// everything, on an image without a chat template, one with a template, and a large one.

private val failures = AtomicInteger()
private val checks = AtomicInteger()

private fun expect(what: String, holds: Boolean) {
    checks.incrementAndGet()
    if (!holds) {
        failures.incrementAndGet()
        println("FAILED: $what")
    }
}

private inline fun <reified E : Throwable> fails(what: String, call: () -> Unit): E? {
    val thrown = runCatching(call).exceptionOrNull()
    expect("$what: ${E::class.simpleName}, not $thrown", thrown is E)
    return thrown as? E
}

private inline fun fails(what: String, status: Status, call: () -> Unit) {
    val thrown = fails<ShadowllmException>(what, call) ?: return
    expect("$what: $status, not ${thrown.status}", thrown.status == status)
    expect("$what: a message", !thrown.message.isNullOrEmpty())
}

private fun Session.text(maxTokens: Int): String = buildString {
    answer(maxTokens) { append(it.text); true }
}

private fun models(plain: String) {
    fails("no file", Status.IO) { Model.open("/nowhere/é.sllm") }
    fails("no image", Status.BAD_IMAGE) { Model.open("/etc/passwd") }
    fails("NUL in a path", Status.INVALID_ARGUMENT) { Model.open("a\u0000b") }
    fails("no descriptor", Status.INVALID_ARGUMENT) { Model.open(-1) }
    fails("negative offset", Status.INVALID_ARGUMENT) { Model.open(0, offset = -4) }
    fails("negative context", fun() { SessionOptions(context = -1) })
    val seen = mutableListOf<Pair<Long, Long>>()
    Model.open(plain, preload = true, verify = true) { done, total -> seen.add(done to total) }.use { model ->
        expect("progress to the end", seen.size >= 2 && seen.first().first == 0L && seen.last().run { first == second })
        expect("size", model.info.imageBytes == File(plain).length())
        expect("no template", model.info.hasTokenizer && !model.info.hasChatTemplate)
        expect("estimate", model.sessionBytes() > model.sessionBytes(SessionOptions(context = 16)))
        fails("negative temperature", Status.INVALID_ARGUMENT) { model.newSession(SessionOptions(temperature = -1f)) }
    }
    fails("cancelled loading", Status.CANCELLED) { Model.open(plain, preload = true) { _, _ -> false } }
    val odd = fails<IllegalStateException>("exception in progress") { Model.open(plain, preload = true) { _, _ -> error("odd") } }
    expect("the exception itself", odd?.message == "odd")

    // An image inside a larger file, as in an application's package.
    val package_ = Files.createTempFile("package", ".bin").toFile()
    package_.writeBytes(ByteArray(64) + File(plain).readBytes() + ByteArray(100))
    FileInputStream(package_).use { stream ->
        val fd = FileDescriptor::class.java.getDeclaredField("fd").apply { isAccessible = true }.getInt(stream.fd)
        Model.open(fd, 64, File(plain).length()).use { expect("inside a file", it.info.vocab > 0) }
        fails("at a wrong place", Status.BAD_IMAGE) { Model.open(fd, 68, 1000) }
    }
    package_.delete()

    val model = Model.open(plain)
    val session = model.newSession()
    model.close()
    model.close()
    fails<IllegalStateException>("session of a closed model") { model.newSession() }
    expect("a session outlives its model", session.continueText("The", 4) { true }.generatedTokens == 4L)
    session.close()
    session.close()
    fails<IllegalStateException>("closed session") { session.continueText("The", 4) { true } }
    fails<IllegalStateException>("closed session's position") { session.position }
    session.cancel()
}

private fun fails(what: String, call: () -> Unit) = fails<IllegalArgumentException>(what, call)

private fun plainText(model: Model) = model.newSession(SessionOptions(context = 64, temperature = 0f)).use { session ->
    fails("no template", Status.UNSUPPORTED) { session.add("user", "Hello") }
    fails("no template to answer by", Status.UNSUPPORTED) { session.answer { true } }
    expect("no time is asked for", session.setPace() == 0.0)
    fails("a loss that is no number", Status.INVALID_ARGUMENT) { session.setPace(maxLoss = Float.NaN) }
    session.setSparsity(Sparsity.MEDIUM)
    session.setSparsity(Sparsity.OFF)
    fails("no tokens", Status.INVALID_ARGUMENT) { session.continueText("The", 0) { true } }
    expect("nothing read", session.position == 0L)
    fails("too long", Status.CONTEXT_FULL) { session.continueText("The jury said. ".repeat(100)) { true } }
    expect("nothing read of what is too long", session.position == 0L)
    fails("forwards", Status.INVALID_ARGUMENT) { session.rewind(1) }
    fails("before the beginning", Status.INVALID_ARGUMENT) { session.rewind(-1) }

    val first = StringBuilder()
    var result = session.continueText("The jury said", 8) { first.append(it.text); true }
    expect("8 tokens", result.generatedTokens == 8L && result.stop == Generation.Stop.MAX_TOKENS && result.promptTokens > 0)
    expect("statistics: ${session.stats}", session.stats.run { decodedTokens > 0 && weightBytes > 0 && density in 0.01..1.0 && sessionBytes > 0 })
    session.rewind(0)
    val again = StringBuilder()
    session.continueText("The jury said", 8) { again.append(it.text); true }
    expect("the same text again", first.isNotEmpty() && first.toString() == again.toString())

    session.rewind(0)
    result = session.continueText("The jury said", 8) { false }
    expect("stopped", result.stop == Generation.Stop.CALLBACK && result.generatedTokens == 1L)
    session.rewind(0)
    result = session.continueText("The jury said", 500) { true }
    expect("context full", result.stop == Generation.Stop.CONTEXT_FULL && session.position <= 64)
    session.rewind(0)
    val odd = fails<IllegalStateException>("exception in a callback") { session.continueText("The", 8) { error("odd") } }
    expect("the exception itself", odd?.message == "odd")
    session.rewind(0)
    session.continueText("The", 2) {
        fails("from inside", Status.BUSY) { session.position }
        fails("generating inside", Status.BUSY) { session.continueText("A", 1) { true } }
        true
    }
    session.rewind(0)
    fails("cancelled from inside", Status.CANCELLED) { session.continueText("The", 50) { session.cancel(); true } }
    session.cancel()
    session.rewind(0)
    expect("a cancel of nothing stops nothing", session.continueText("The", 4) { true }.generatedTokens == 4L)
}

private fun chats(model: Model) = model.newSession(SessionOptions(seed = 7)).use { session ->
    val text = "naïve – 1984 😀 日本"
    session.add("user", text)
    expect("the prompt has the text: ${session.prompt}", text in session.prompt)
    session.clear()
    fails("not calibrated", Status.UNSUPPORTED) { session.setSparsity(Sparsity.MEDIUM) }
    fails("no messages", Status.INVALID_ARGUMENT) { session.prompt }
    fails("nothing to answer", Status.INVALID_ARGUMENT) { session.answer { true } }
    fails("NUL in a message", Status.INVALID_ARGUMENT) { session.add("user", "a\u0000b") }
    session.add("user", "Who was the mayor?")
    val before = session.prompt
    val answer = session.text(12)
    expect("an answer is added", answer.isNotEmpty() && session.prompt.startsWith(before.removeSuffix("assistant:")) &&
        answer.trim() in session.prompt)
    model.newSession(SessionOptions(seed = 7)).use { other ->
        other.add("user", "Who was the mayor?")
        var end: Generation? = null
        val pieces = runBlocking { other.answerFlow(12) { end = it }.toList() }
        expect("figures at the end: $end", end?.run { generatedTokens in 1..12 && promptTokens > 0 } == true)
        expect("a flow has the same text, in pieces", pieces.joinToString("") == answer && pieces.size > 1)
    }
}

/** Answers that are held to something. */
private fun held(model: Model) = model.newSession(SessionOptions(context = 256, temperature = 0f)).use { session ->
    fun text(constraints: Constraints, maxTokens: Int = 64): Pair<String, Generation> {
        session.rewind(0)
        val text = StringBuilder()
        val end = session.continueText("The jury said", maxTokens, constraints) { text.append(it.text); true }
        return text.toString() to end
    }
    val (free, _) = text(Constraints(), 24)
    val word = free.trim().split(" ")[2]
    val (stopped, end) = text(Constraints(stop = listOf("never in it", word)))
    expect("stopped before $word: $stopped", word !in stopped && end.stop == Generation.Stop.STOP_STRING && end.stopString == 1)
    fails("an empty stop string", Status.INVALID_ARGUMENT) { text(Constraints(stop = listOf(""))) }
    fails("NUL in a stop string", Status.INVALID_ARGUMENT) { text(Constraints(stop = listOf("a\u0000"))) }

    val ids = mutableListOf<Token>()
    session.rewind(0)
    session.continueText("The jury said", 4, Constraints(logprobs = 3)) { ids.add(it) }
    expect("likelihoods", ids.size == 4 && ids.all { it.logprob < 0 && it.top.size == 3 && it.top[0].second >= it.top[1].second })
    val other = mutableListOf<Int>()
    session.rewind(0)
    session.continueText("The jury said", 4, Constraints(bias = mapOf(ids[0].id to Float.NEGATIVE_INFINITY))) { other.add(it.id) }
    expect("an excluded token", ids[0].id !in other)
    fails("a token out of range", Status.INVALID_ARGUMENT) { text(Constraints(bias = mapOf(-1 to 1f))) }

    session.grammar(Rules.JsonSchema("""{"type": "object", "properties": {"ok": {"type": "boolean"}}, "required": ["ok"], "additionalProperties": false}""")).use {
        val (json, done) = text(Constraints(grammar = it))
        expect("JSON: $json", json == """{"ok": true}""" || json == """{"ok": false}""")
        expect("forced: $done", done.forcedTokens > 0 && done.stop == Generation.Stop.END)
    }
    session.grammar(Rules.Regex("[0-9]{3}")).use {
        expect("three digits", text(Constraints(grammar = it)).first.matches(kotlin.text.Regex("[0-9]{3}")))
    }
    session.grammar(Rules.Lark("start: \"a\" | \"bc\"")).use { expect("a grammar", text(Constraints(grammar = it)).first in listOf("a", "bc")) }
    fails("no schema", Status.INVALID_ARGUMENT) { session.grammar(Rules.JsonSchema("{")) }
    fails("no regular expression", Status.INVALID_ARGUMENT) { session.grammar(Rules.Regex("(")) }
    val closed = session.grammar(Rules.Regex("a"))
    closed.close()
    fails<IllegalStateException>("a closed grammar") { text(Constraints(grammar = closed)) }
    fails("a negative penalty", Status.INVALID_ARGUMENT) { text(Constraints(dryMultiplier = -1f)) }
    val calls = parseToolCalls("<tool_call>{\"name\": \"clock\", \"arguments\": {}}</tool_call>")
    expect("tool calls: $calls", "\"clock\"" in calls)
}

/** The penalty of repetitions: each of its numbers changes the answer. */
private fun repetitions(model: Model) = model.newSession(SessionOptions(context = 128, temperature = 0f)).use { session ->
    fun tokens(dry: Constraints): List<String> {
        val texts = mutableListOf<String>()
        session.rewind(0)
        session.continueText("The jury said", 64, dry) { texts.add(it.text); true }
        return texts
    }
    // No repetition goes across the marks.
    fun repeats(texts: List<String>) =
        texts.windowed(3).filter { run -> run.none { text -> text.any { it in "\n:\"*" } } }.run { size > toSet().size }
    val free = tokens(Constraints())
    val held = tokens(Constraints(dryMultiplier = 1000f))
    expect("repetitions: $free, $held", repeats(free) && !repeats(held))
    expect("long ones only", tokens(Constraints(dryMultiplier = 1000f, dryAllowedLength = 40)) == free)
    expect("in the last tokens only", tokens(Constraints(dryMultiplier = 1000f, dryLast = 3)) == free)
    val slight = listOf(1f, 1e6f).map { tokens(Constraints(dryMultiplier = 1e-3f, dryBase = it)) }
    expect("a penalty that grows: $slight", slight[0] == free && slight[1] != free)
}

/** What is saved, loaded or forked goes on, and is not read again. */
private fun kept(model: Model) = model.newSession(SessionOptions(seed = 9)).use { session ->
    session.add("user", "Who was the mayor?")
    val first = session.text(12)
    expect("messages: ${session.messages}", session.messages.map { it.role } == listOf("user", "assistant") &&
        session.messages[1].content == first)
    val position = session.position
    val saved = session.save()
    session.fork().use { fork ->
        model.newSession(SessionOptions(seed = 1)).use { loaded ->
            loaded.add("user", "Something else.")
            loaded.load(saved)
            expect("the same messages", loaded.messages == session.messages && loaded.position == position)
            val fresh = model.newSession()
            session.messages.forEach { fresh.add(it.role, it.content) }
            val answers = listOf(session, fork, loaded, fresh).map {
                it.add("user", "And who was it before?")
                val text = StringBuilder()
                val end = it.answer(12) { token -> text.append(token.text); true }
                text.toString() to end.promptTokens
            }
            fresh.close()
            expect("one continuation: $answers", answers.take(3).toSet().size == 1)
            // The last one has read nothing before.
            expect("only what is new is read: $answers", answers[0].second < answers[3].second)
            loaded.truncate(1)
            expect("taken back", loaded.messages.size == 1)
            fails("more than there are", Status.INVALID_ARGUMENT) { loaded.truncate(5) }
        }
    }
    fails("a state that is cut off", Status.BAD_STATE) { session.load(saved.copyOf(saved.size / 2)) }
    fails("no state", Status.BAD_STATE) { session.load(ByteArray(3)) }
    fails("nothing", Status.BAD_STATE) { session.load(ByteArray(0)) }
    expect("as it was", session.messages.size == 4)

    // A cancelled answer stays, with what was said.
    session.clear()
    session.add("user", "Who was the mayor?")
    fails("cancelled", Status.CANCELLED) { session.answer(40) { session.cancel(); true } }
    expect("what was said: ${session.messages}", session.messages.size == 2 && session.messages[1].content.isNotEmpty())
    session.addJson("""{"role": "user", "content": "And then?"}""")
    expect("a message from JSON", session.messages.last() == Message("user", "And then?"))
    fails("no message", Status.INVALID_ARGUMENT) { session.addJson("[]") }
    session.setVariable("enable_thinking", "false")
    session.setVariable("enable_thinking", null)
    fails("no JSON", Status.INVALID_ARGUMENT) { session.setVariable("tools", "{") }
    expect("goes on", session.text(4).isNotEmpty())
}

/** Messages that are more than a text are saved whole; a session without messages takes them away where it is loaded. */
private fun whole(model: Model) = model.newSession().use { session ->
    val fields = listOf(""""tool_calls":[{"function":{"name":"clock","arguments":{}}}]""", """"name":"clock"""", """"tool_call_id":"1"""")
    val before = session.save()
    session.addJson("""{"role": "user", "content": [{"type": "text", "text": "naïve"}]}""")
    session.addJson("""{"role": "assistant", "content": null, ${fields[0]}}""")
    session.addJson("""{"role": "tool", "content": "12:00", ${fields[1]}, ${fields[2]}}""")
    val saved = session.save()
    model.newSession().use { loaded ->
        loaded.add("user", "Something else.")
        loaded.load(saved)
        expect("the same prompt: ${loaded.prompt}", loaded.prompt == session.prompt && "naïve" in loaded.prompt)
        val again = String(loaded.save(), Charsets.UTF_8)
        expect("all fields", fields.all { it in again })
        loaded.load(before)
        expect("no messages: ${loaded.messages}", loaded.messages.isEmpty())
        loaded.load(before)
        fails("none to answer", Status.INVALID_ARGUMENT) { loaded.answer { true } }
    }
}

/** Messages that are read while another thread removes them are whole, or the call is refused. */
private fun readAndRemoved(model: Model) = model.newSession().use { session ->
    val message = Message("user", "mayor ".repeat(2000))
    fun unlessBusy(call: () -> Unit) {
        val thrown = runCatching(call).exceptionOrNull()
        if (thrown != null && (thrown as? ShadowllmException)?.status != Status.BUSY) throw thrown
    }
    val ended = AtomicBoolean()
    var failure: Throwable? = null
    val removing = thread {
        failure = runCatching {
            while (!ended.get()) {
                unlessBusy { session.add(message.role, message.content) }
                unlessBusy { session.truncate(0) }
            }
        }.exceptionOrNull()
    }
    var (read, whole) = 0 to 0
    val from = System.nanoTime()
    while (read < 500 && System.nanoTime() - from < 20e9) unlessBusy {
        val messages = session.messages
        read += messages.size
        whole += messages.count { it == message }
    }
    ended.set(true)
    removing.join()
    expect("whole messages: $whole of $read, $failure", failure == null && read > 0 && whole == read)
}

private fun threads(model: Model) {
    fun write(): String = model.newSession(SessionOptions(threads = 1, seed = 3)).use { session ->
        buildString { session.continueText("The jury said", 24) { append(it.text); true } }
    }
    val alone = write()
    val same = AtomicInteger()
    List(8) { thread { if (write() == alone) same.incrementAndGet() } }.forEach { it.join() }
    expect("8 threads write what one writes", same.get() == 8)

    // Closing while another thread generates: the generation ends as cancelled, and its objects stay until then.
    val session = model.newSession(SessionOptions(context = 256))
    val begun = CountDownLatch(1)
    var ended: Throwable? = null
    val generating = thread {
        ended = runCatching { session.continueText("The jury said", 250) { begun.countDown(); true } }.exceptionOrNull()
    }
    begun.await()
    fails("two threads at once", Status.BUSY) { session.continueText("The", 4) { true } }
    session.close()
    generating.join()
    expect("closed during a generation: $ended", (ended as? ShadowllmException)?.status == Status.CANCELLED)
    fails<IllegalStateException>("closed") { session.stats }

    // Opening, using, closing and cancelling on four threads at the same time.
    repeat(20) {
        val shared = model.newSession(SessionOptions(context = 128, threads = 1))
        val calls = listOf<() -> Unit>({ shared.continueText("The", 20) { true } }, { shared.stats }, { shared.cancel() }, { shared.close() })
        calls.map { call ->
            thread {
                val thrown = runCatching(call).exceptionOrNull()
                expect("in disorder: $thrown", thrown == null || thrown is IllegalStateException || thrown is ShadowllmException)
            }
        }.forEach { it.join() }
        shared.close()
    }
}

private fun flows(model: Model) = runBlocking {
    val session = model.newSession(SessionOptions(context = 256))
    // A collector that takes a few pieces stops the generation.
    expect("two pieces", session.continueFlow("The jury said", 240).take(2).toList().size == 2)
    expect("stopped early", session.position in 3..200)
    session.rewind(0)
    val job = launch(Dispatchers.Default) { session.continueFlow("The jury said", 240).collect { delay(1) } }
    while (!job.isCompleted && runCatching { session.position }.exceptionOrNull() == null) delay(1)
    job.cancelAndJoin()
    expect("cancelled", job.isCancelled)
    session.rewind(0)
    val stuck = launch(Dispatchers.Default) { session.continueFlow("The jury said", 240).collect { awaitCancellation() } }
    val from = System.nanoTime()
    while (runCatching { session.position }.getOrDefault(0L) < 100 && System.nanoTime() - from < 20e9) delay(10)
    expect("generated ahead of a slow collector", session.position >= 100)
    expect("a slow collector can be cancelled", withTimeoutOrNull(5000) { stuck.cancelAndJoin() } != null)
    session.rewind(0)
    expect("usable after", session.continueFlow("The", 4).toList().isNotEmpty())
    fails("failures come to the collector", Status.CONTEXT_FULL) {
        runBlocking { session.continueFlow("The jury said. ".repeat(200)).collect {} }
    }
    val odd = fails<IllegalStateException>("a collector's exception") {
        runBlocking { session.rewind(0); session.continueFlow("The", 40).collect { error("odd") } }
    }
    expect("the exception itself", odd?.message == "odd")
    session.close()
    fails<IllegalStateException>("closed") { runBlocking { session.continueFlow("The").collect {} } }
    Unit
}

/** Cancelling a flow while the model still reads the prompt. */
private fun longPrefill(model: Model) = model.newSession(SessionOptions(context = 2048)).use { session ->
    session.add("user", "Name three rivers. ".repeat(300))
    val pieces = AtomicInteger()
    var milliseconds = 0.0
    runBlocking {
        val whole = System.nanoTime()
        expect("an answer", session.answerFlow(1).toList().size <= 1)
        val seconds = (System.nanoTime() - whole) / 1e9
        session.rewind(0)
        session.clear()
        session.add("user", "Name three lakes!! ".repeat(300))
        val job = launch(Dispatchers.Default) { session.answerFlow(16).collect { pieces.incrementAndGet() } }
        delay((seconds * 400).toLong())
        expect("the generation runs", job.isActive)
        val from = System.nanoTime()
        job.cancelAndJoin()
        milliseconds = (System.nanoTime() - from) / 1e6
        println("prefill: %.2f s; cancelled inside it, over after %.1f ms".format(seconds, milliseconds))
        expect("cancelled inside the prompt", pieces.get() == 0 && job.isCancelled)
        expect("at once: $milliseconds ms of ${seconds * 1e3}", milliseconds < 500 * maxOf(0.2, seconds))
    }
    session.clear()
    session.add("user", "Name three rivers.")
    expect("usable after", session.text(8).isNotEmpty())
}

/** Calls that Kotlin's types exclude, by reflection. */
private fun natives() {
    val method = { name: String -> Native::class.java.declaredMethods.single { it.name == name }.apply { isAccessible = true } }
    fun call(name: String, vararg arguments: Any?) {
        try {
            method(name).invoke(null, *arguments)
        } catch (thrown: java.lang.reflect.InvocationTargetException) {
            throw thrown.targetException
        }
    }
    fails("null path", Status.INVALID_ARGUMENT) { call("modelOpen", null, false, false, null) }
    fails("null model", Status.INVALID_HANDLE) { call("modelInfo", 0L) }
    fails("null model's session", Status.INVALID_HANDLE) { call("sessionNew", 0L, 0, 0, 0f, 0, 1f, 0f, 1f, 0f, 0f, 0L, 0) }
    for (name in listOf("sessionClear", "sessionPrompt", "sessionCancel", "sessionResetCancel", "sessionPosition", "sessionStats", "sessionSave", "sessionFork"))
        fails("null session, $name", Status.INVALID_HANDLE) { call(name, 0L) }
    fails("null session, messages", Status.INVALID_HANDLE) { call("sessionMessages", 0L, true) }
    fails("null session, rewind", Status.INVALID_HANDLE) { call("sessionRewind", 0L, 0L) }
    fails("null session, set", Status.INVALID_HANDLE) { call("sessionSetSparsity", 0L, 1) }
    fails("null session, add", Status.INVALID_HANDLE) { call("sessionAdd", 0L, null, null) }
    fails("null session, generate", Status.INVALID_HANDLE) { call("sessionGenerate", 0L, null, 1, null, null, null, 0, 0L, null, null) }
    fails("null session, load", Status.INVALID_HANDLE) { call("sessionLoad", 0L, null) }
    fails("null session, pace", Status.INVALID_HANDLE) { call("sessionSetPace", 0L, 0.0, 0f) }
    fails("null session, truncate", Status.INVALID_HANDLE) { call("sessionTruncate", 0L, 1) }
    fails("null session, JSON", Status.INVALID_HANDLE) { call("sessionAddJson", 0L, null) }
    fails("null session, variable", Status.INVALID_HANDLE) { call("sessionSetVariable", 0L, null, null) }
    fails("null session, grammar", Status.INVALID_HANDLE) { call("grammarNew", 0L, 1, null) }
    fails("null answer", Status.INVALID_ARGUMENT) { call("parseToolCalls", null) }
    call("grammarFree", 0L)
    call("sessionFree", 0L)
    call("modelFree", 0L)
    val codes = (1..15).map { Status.of(it).name }
    expect("names of statuses", codes.first() == "INVALID_ARGUMENT" && codes.last() == "INTERNAL" && Status.of(99) == Status.UNKNOWN)
}

fun main(arguments: Array<String>) {
    if (arguments.size == 5 && arguments[0] == "say") {
        Model.open(arguments[1]).use { model ->
            model.newSession(SessionOptions(seed = arguments[2].toLong())).use { session ->
                session.add("user", arguments[4])
                System.out.write(session.text(arguments[3].toInt()).toByteArray())
                System.out.flush()
            }
        }
        return
    }
    if (arguments.firstOrNull() == "statuses") {
        Status.entries.forEach { if (it != Status.UNKNOWN) println("${it.name} ${it.ordinal + 1}") }
        return
    }
    natives()
    models(arguments[1])
    Model.open(arguments[1]).use { plainText(it); held(it); repetitions(it); threads(it); flows(it) }
    Model.open(arguments[2]).use { chats(it); kept(it); whole(it); readAndRemoved(it) }
    if (arguments.size > 3) Model.open(arguments[3]).use(::longPrefill)
    println("$checks checks, $failures failures")
    exitProcess(if (failures.get() == 0 && checks.get() > 100) 0 else 1)
}
