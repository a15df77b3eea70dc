package org.shadowllm

import org.shadowllm.ShadowllmException.Status

/** How a session reads and chooses. The defaults are the library's. */
data class SessionOptions(
    /** Positions, prompt and answer together; 0: what the model was trained for, 4096 at most. */
    val context: Int = 0,
    /** 0: one a core, on devices with fast and slow cores the fast ones only. */
    val threads: Int = 0,
    /** Divides the logits; 0 takes the likeliest token. */
    val temperature: Float = 0.8f,
    /** Only the k likeliest; 0 for all. */
    val topK: Int = 40,
    /** Only the likeliest that together reach this probability; 1 for all. */
    val topP: Float = 0.95f,
    /** Only those at least this share as likely as the likeliest; 0 for all. */
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

/** How a generation ended and what it took. */
data class Generation(
    val stop: Stop,
    /** Read now; what the session had read before is not read again. */
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
    /** Of the process; 0 where the system does not tell. */
    val peakMemoryBytes: Long,
    /** Share of the skippable bytes that decoding read. */
    val density: Double,
    val prefillTokensPerSecond: Double,
    val decodeTokensPerSecond: Double,
)

/** How much is skipped, in the order of shadowllm.h, from 0. */
enum class Sparsity { OFF, LIGHT, MEDIUM, STRONG }

/**
 * One conversation with a model, or one text that goes on. To be closed.
 *
 * For one thread at a time: a call that comes while another is under way, also one from within `onToken`, fails with
 * [Status.BUSY]. [cancel] and [close] may be called from any thread at any time. Generating takes long and calls back on
 * the thread it was called on; [answerFlow] and [continueFlow] generate on a thread of their own.
 */
class Session internal constructor(pointer: Long) : AutoCloseable {
    private val handle = Handle(pointer, "session", Native::sessionFree)
    private val lock = Any()
    private var running: Run? = null

    /** One generation, so that a cancel that comes too early or too late for it stops no other. */
    internal class Run {
        var cancelled = false
    }

    /** Adds a message; roles are "system", "user" and "assistant". Texts must not contain NUL characters. */
    fun add(role: String, content: String) =
        handle.use { Native.sessionAdd(it, role.toByteArray(), content.toByteArray()) }

    /** Forgets all messages. */
    fun clear() = handle.use(Native::sessionClear)

    /** What the model will read: the messages by its template. */
    val prompt: String get() = String(handle.use(Native::sessionPrompt), Charsets.UTF_8)

    /**
     * Answers the messages and adds the answer to them. [onToken] gets each token with text and returns whether to go on;
     * what it throws is thrown from here. After a failure or a cancel the messages are as they were.
     */
    @JvmOverloads
    fun answer(maxTokens: Int = 256, onToken: (Token) -> Boolean): Generation = generate(Run(), null, maxTokens, onToken)

    /** Continues a plain text behind what the session has read; otherwise like [answer]. */
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
        if (run.cancelled) throw ShadowllmException(Status.CANCELLED, "cancelled before it began")
        if (running != null) throw ShadowllmException(Status.BUSY, "the session is generating already")
        running = run
    }

    /**
     * Makes the generation under way, if there is one, fail with [Status.CANCELLED] within a layer, also while it reads
     * the prompt. The session stays usable.
     */
    fun cancel() = synchronized(lock) { running?.let { cancel(it) } ?: Unit }

    internal fun cancel(run: Run): Unit = synchronized(lock) {
        run.cancelled = true
        // Under way means that the handle is in use, so what it points to is there.
        if (running === run) handle.ifInUse(Native::sessionCancel)
    }

    /** Tokens read so far. */
    val position: Long get() = handle.use(Native::sessionPosition)

    /** Goes back to an earlier position and forgets what came behind it. */
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

    /** Cancels what is under way and gives the session back. Harmless the second time. */
    override fun close() {
        handle.close()
        cancel()
    }
}
