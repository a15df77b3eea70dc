package org.shadowllm

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
) {
    init {
        require(context >= 0 && threads >= 0 && topK >= 0) { "context, threads and topK are never negative" }
    }
}

/** A token of an answer. */
class Token(val text: String, val tokensPerSecond: Double, /** Share of the skippable bytes read. */ val density: Double)

/** The end of a generation, with its figures. */
data class Generation(
    val stop: Stop,
    /** Tokens of the prompt that were read now; the session had read the others before. */
    val promptTokens: Long,
    val generatedTokens: Long,
    val firstTokenSeconds: Double,
    val prefillTokensPerSecond: Double,
    val decodeTokensPerSecond: Double,
) {
    /** In the order of shadowllm.h, from 1. */
    enum class Stop { END, MAX_TOKENS, CONTEXT_FULL, CALLBACK }
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
    fun answer(maxTokens: Int = 256, onToken: (Token) -> Boolean): Generation = generate(Run(), null, maxTokens, onToken)

    /** Reads a plain text after the tokens that the session has read, and continues it; otherwise like [answer]. */
    @JvmOverloads
    fun continueText(text: String, maxTokens: Int = 256, onToken: (Token) -> Boolean): Generation =
        generate(Run(), text, maxTokens, onToken)

    internal fun generate(run: Run, text: String?, maxTokens: Int, onToken: (Token) -> Boolean): Generation {
        val sink = TokenSink { bytes, speed, density ->
            bytes.isEmpty() || onToken(Token(String(bytes, Charsets.UTF_8), speed, density))
        }
        return handle.use { pointer ->
            begin(run)
            val v = try {
                Native.sessionGenerate(pointer, text?.toByteArray(), maxTokens, sink)
            } finally {
                synchronized(lock) {
                    running = null
                    Native.sessionResetCancel(pointer)
                }
            }
            Generation(Generation.Stop.entries[v[0].toInt() - 1], v[1].toLong(), v[2].toLong(), v[3], v[4], v[5])
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
