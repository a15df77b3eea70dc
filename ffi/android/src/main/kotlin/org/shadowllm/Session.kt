package org.shadowllm

import java.io.ByteArrayOutputStream
import java.io.DataOutputStream
import java.nio.ByteBuffer
import org.shadowllm.ShadowllmException.Status

/** Options of a session and of its sampler. The defaults are the library's. */
data class SessionOptions(
    /** Positions of prompt and answer together; 0: the context that the model was trained for, at most 2048. */
    val context: Int = 0,
    /** 0: one per core, on devices with fast and slow cores one per fast core. */
    val threads: Int = 0,
    /** Divides the logits; 0 takes the likeliest token. */
    val temperature: Float = 0.8f,
    /** Only the k likeliest; 0 for all. */
    val topK: Int = 40,
    /** Only the likeliest that together reach this probability; 1 for all. */
    val topP: Float = 0.95f,
    /** Only tokens at least this share as likely as the likeliest; 0 for all. */
    val minP: Float = 0.05f,
    /** Above 1 makes the last 64 tokens less likely. */
    val repetitionPenalty: Float = 1f,
    /** The same seed, texts and options give the same answer everywhere. */
    val seed: Long = 0,
    /** Subtracted from the logits of the last 64 tokens, once. */
    val presencePenalty: Float = 0f,
    /** Subtracted from a token's logit for each time it is among the last 64. */
    val frequencyPenalty: Float = 0f,
    /** MB of the weights that stay in memory; the rest is read from the file for each token. 0 leaves that to the system. */
    val memoryBudget: Int = 0,
) {
    init {
        require(context >= 0 && threads >= 0 && topK >= 0 && memoryBudget >= 0) {
            "context, threads, topK and memoryBudget are never negative"
        }
    }
}

/** A token of an answer. */
class Token(
    val id: Int,
    /** Complete characters; several tokens may make one. */
    val text: String,
    /** Whether it belongs to a block in which the model thinks before it answers. */
    val isThought: Boolean,
    val tokensPerSecond: Double,
    /** Share of the skippable bytes read. */
    val density: Double,
    /** Natural logarithm of its probability, and the likeliest ids with theirs, if [Constraints.logprobs] asks for them. */
    val logprob: Double,
    val top: List<Pair<Int, Float>>,
)

/** Rules of an answer's form. */
sealed class Rules(internal val kind: Int, internal val text: String) {
    /** JSON that is valid against a JSON schema. */
    class JsonSchema(schema: String) : Rules(1, schema)

    /** A text that a regular expression matches whole. */
    class Regex(regex: String) : Rules(2, regex)

    /** A text that the rule `start` of a grammar in Lark's notation produces. */
    class Lark(grammar: String) : Rules(3, grammar)
}

/** Compiled rules, for any number of answers of the model's sessions. Made by [Session.grammar]; close it after use. */
class Grammar internal constructor(pointer: Long) : AutoCloseable {
    internal val handle = Handle(pointer, "grammar", Native::grammarFree)

    override fun close() = handle.close()
}

/** What an answer is held to. */
class Constraints(
    /** Texts before which the answer ends. */
    val stop: List<String> = emptyList(),
    /** Added to the logits of tokens; minus infinity excludes a token. */
    val bias: Map<Int, Float> = emptyMap(),
    /** The number of likeliest tokens that come with each token and its log-probability; 0 for none of both. */
    val logprobs: Int = 0,
    val grammar: Grammar? = null,
    /** Above 0 makes tokens less likely that would lengthen a repetition ("DRY"). */
    val dryMultiplier: Float = 0f,
    val dryBase: Float = 1.75f,
    val dryAllowedLength: Int = 2,
    /** Number of last tokens in which repetitions are looked for; 0 for all. */
    val dryLast: Int = 0,
) {
    init {
        require(logprobs >= 0 && dryAllowedLength >= 0 && dryLast >= 0) { "numbers of tokens are never negative" }
    }
}

/** A message of a conversation. */
data class Message(val role: String, val content: String)

/** The end of a generation, with its figures. */
data class Generation(
    val stop: Stop,
    /** Tokens of the prompt that were read now; the session had read the others before. */
    val promptTokens: Long,
    val generatedTokens: Long,
    val firstTokenSeconds: Double,
    val prefillTokensPerSecond: Double,
    val decodeTokensPerSecond: Double,
    /** The index in [Constraints.stop] of the stop string that ended it. */
    val stopString: Int? = null,
    /** Of the generated tokens, the only ones that the grammar allowed. */
    val forcedTokens: Long = 0,
) {
    /** In the order of shadowllm.h, from 1. */
    enum class Stop { END, MAX_TOKENS, CONTEXT_FULL, CALLBACK, STOP_STRING }
}

/** Sums since the session began. */
data class Stats(
    val promptTokens: Long,
    val decodedTokens: Long,
    /** Read by decoding. */
    val weightBytes: Long,
    val sessionBytes: Long,
    /** Of the process; 0 where the system does not report it. */
    val peakMemoryBytes: Long,
    /** Share of the skippable bytes that decoding read. */
    val density: Double,
    val prefillTokensPerSecond: Double,
    val decodeTokensPerSecond: Double,
)

/** How much is skipped, in the order of shadowllm.h, from 0. */
enum class Sparsity { OFF, LIGHT, MEDIUM, STRONG }

/**
 * One conversation with a model, or one text that is continued. Close it after use.
 *
 * For one thread at a time: a call during another one, even from `onToken`, fails with [Status.BUSY]. [cancel] and [close]
 * may be called from any thread at any time. Generating takes long and calls back on the caller's thread; [answerFlow]
 * and [continueFlow] generate on a thread of their own.
 */
class Session internal constructor(pointer: Long) : AutoCloseable {
    private val handle = Handle(pointer, "session", Native::sessionFree)
    private val lock = Any()
    private var running: Run? = null

    /** One generation. A cancel names the generation that it stops, so that one too early or too late stops no other. */
    internal class Run {
        var cancelled = false
    }

    /** Adds a message; roles are "system", "user" and "assistant". Texts must not contain NUL characters. */
    fun add(role: String, content: String) =
        handle.use { Native.sessionAdd(it, role.toByteArray(), content.toByteArray()) }

    /** Adds a message with all its fields, a JSON object with a role: the result of a tool, or an answer with tool calls. */
    fun addJson(json: String) = handle.use { Native.sessionAddJson(it, json.toByteArray()) }

    /** Gives the chat template a variable in JSON: "tools", "documents", "enable_thinking"; null removes it. */
    fun setVariable(name: String, json: String?) =
        handle.use { Native.sessionSetVariable(it, name.toByteArray(), json?.toByteArray()) }

    /** The messages so far, answers included. Of those added by [addJson], the other fields are left out. */
    val messages: List<Message>
        get() = handle.use { Native.sessionMessages(it, false) }.map { String(it, Charsets.UTF_8) }
            .chunked(2) { Message(it[0], it[1]) }

    /** Keeps the first messages and removes the others: takes back a question, or an answer to be generated again. */
    fun truncate(count: Int) = handle.use { Native.sessionTruncate(it, count) }

    /** Rules that answers can be held to, compiled. */
    fun grammar(rules: Rules): Grammar =
        Grammar(handle.use { Native.grammarNew(it, rules.kind, rules.text.toByteArray()) })

    /**
     * The state of the session and of its sampler, and the messages with all their fields: from it a session of the same
     * model goes on, also in another process, without reading anything again. The dial and the variables of the template are
     * not saved: set them ([setSparsity], [setVariable]) in the session that loads it.
     */
    fun save(): ByteArray {
        val bytes = ByteArrayOutputStream()
        DataOutputStream(bytes).use { out ->
            val (state, texts) = handle.use { Native.sessionSave(it) to Native.sessionMessages(it, true) }
            for (part in listOf(state, *texts)) {
                out.writeInt(part.size)
                out.write(part)
            }
        }
        return bytes.toByteArray()
    }

    /** Goes on from what [save] returned; its messages, even if there are none, take the place of this session's. */
    fun load(saved: ByteArray) {
        val parts = mutableListOf<ByteArray>()
        val input = ByteBuffer.wrap(saved)
        while (input.hasRemaining()) {
            val size = if (input.remaining() >= 4) input.getInt() else -1
            if (size !in 0..input.remaining()) throw ShadowllmException(Status.BAD_STATE, "the saved session is cut off")
            parts += ByteArray(size).also(input::get)
        }
        if (parts.isEmpty()) throw ShadowllmException(Status.BAD_STATE, "this is no saved session")
        handle.use { session ->
            Native.sessionLoad(session, parts[0])
            // A model without a chat template refuses the call.
            if (parts.size > 1 || Native.sessionMessages(session, false).isNotEmpty()) Native.sessionClear(session)
            parts.drop(1).forEach { Native.sessionAddJson(session, it) }
        }
    }

    /** A second session that goes on from here, with the same messages, sparsity and random state. Close it after use. */
    fun fork(): Session = Session(handle.use(Native::sessionFork))

    /** Removes all messages. */
    fun clear() = handle.use(Native::sessionClear)

    /** The prompt that the model's template makes of the messages. */
    val prompt: String get() = String(handle.use(Native::sessionPrompt), Charsets.UTF_8)

    /**
     * Answers the messages and adds the answer to them. [onToken] gets each token that completes some text and returns
     * whether to continue; its exceptions are thrown from here. After a failure the messages are as they were, but they keep
     * the text so far of an answer that is cancelled after its first token.
     */
    @JvmOverloads
    fun answer(
        maxTokens: Int = 256, constraints: Constraints = Constraints(), onToken: (Token) -> Boolean,
    ): Generation = generate(Run(), null, maxTokens, constraints, onToken)

    /** Reads a plain text after the tokens that the session has read, and continues it; otherwise like [answer]. */
    @JvmOverloads
    fun continueText(
        text: String, maxTokens: Int = 256, constraints: Constraints = Constraints(), onToken: (Token) -> Boolean,
    ): Generation = generate(Run(), text, maxTokens, constraints, onToken)

    internal fun generate(
        run: Run, text: String?, maxTokens: Int, constraints: Constraints, onToken: (Token) -> Boolean,
    ): Generation {
        val sink = TokenSink { bytes, speed, density, id, thought, logprob, topIds, topLogprobs ->
            val top = topIds.zip(topLogprobs.asIterable())
            (bytes.isEmpty() && constraints.logprobs == 0) ||
                onToken(Token(id, String(bytes, Charsets.UTF_8), thought, speed, density, logprob, top))
        }
        val grammar = constraints.grammar ?: return generate(run, text, maxTokens, constraints, 0, sink)
        return grammar.handle.use { generate(run, text, maxTokens, constraints, it, sink) }
    }

    private fun generate(
        run: Run, text: String?, maxTokens: Int, constraints: Constraints, grammar: Long, sink: TokenSink,
    ): Generation {
        val stop = constraints.stop.map { it.toByteArray() }.toTypedArray()
        val biases = constraints.bias.entries.toList()
        val dry = constraints.run { floatArrayOf(dryMultiplier, dryBase, dryAllowedLength.toFloat(), dryLast.toFloat()) }
        return handle.use { pointer ->
            begin(run)
            val v = try {
                Native.sessionGenerate(
                    pointer, text?.toByteArray(), maxTokens, stop, biases.map { it.key }.toIntArray(),
                    biases.map { it.value }.toFloatArray(), constraints.logprobs, grammar, dry, sink,
                )
            } finally {
                synchronized(lock) {
                    running = null
                    Native.sessionResetCancel(pointer)
                }
            }
            Generation(
                Generation.Stop.entries[v[0].toInt() - 1], v[1].toLong(), v[2].toLong(), v[3], v[4], v[5],
                v[6].toInt().takeIf { it >= 0 }, v[7].toLong(),
            )
        }
    }

    private fun begin(run: Run) = synchronized(lock) {
        if (run.cancelled) throw ShadowllmException(Status.CANCELLED, "cancelled before the generation began")
        if (running != null) throw ShadowllmException(Status.BUSY, "the session is generating already")
        running = run
    }

    /**
     * Makes the current generation, if any, fail with [Status.CANCELLED] within a layer, also while it reads the prompt. The
     * session stays usable.
     */
    fun cancel() = synchronized(lock) { running?.let { cancel(it) } ?: Unit }

    internal fun cancel(run: Run): Unit = synchronized(lock) {
        run.cancelled = true
        // A running generation is a call that uses the handle, so its object is not freed.
        if (running === run) handle.ifInUse(Native::sessionCancel)
    }

    /** Tokens read so far. */
    val position: Long get() = handle.use(Native::sessionPosition)

    /** Goes back to an earlier position and forgets all tokens after it. */
    fun rewind(position: Long) = handle.use { Native.sessionRewind(it, position) }

    /** [Status.UNSUPPORTED] for a model that is not calibrated. */
    fun setSparsity(level: Sparsity) = handle.use { Native.sessionSetSparsity(it, level.ordinal) }

    /**
     * Sets how much is skipped by what people want. [maxLoss] is the growth of perplexity that is allowed (0.01: one percent),
     * as calibration measured it; below 0: 5 percent where it was measured. [secondsPerToken] above 0 reads no less than that
     * time asks for: the session must have read nothing, and 20 to 40 tokens are decoded to measure times. Returns the
     * expected seconds of a token, 0 without [secondsPerToken].
     */
    @JvmOverloads
    fun setPace(secondsPerToken: Double = 0.0, maxLoss: Float = -1f): Double =
        handle.use { Native.sessionSetPace(it, secondsPerToken, maxLoss) }

    val stats: Stats
        get() {
            val v = handle.use(Native::sessionStats)
            return Stats(
                v[0].toLong(), v[1].toLong(), v[2].toLong(), v[3].toLong(), v[4].toLong(), v[5], v[6], v[7],
            )
        }

    /** Cancels the current generation and frees the session. A second call does nothing. */
    override fun close() {
        handle.close()
        cancel()
    }
}

/**
 * The tool calls in an answer, in the conventions of Hermes and Qwen, Llama 3, Mistral and Gemma, as JSON:
 * `{"text": the rest of the answer, "calls": [{"name": "...", "arguments": {...}}]}`.
 */
fun parseToolCalls(answer: String): String = String(Native.parseToolCalls(answer.toByteArray()), Charsets.UTF_8)
