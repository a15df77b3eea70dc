package org.shadowllm

/**
 * The JNI functions, for the classes of this package only, which make sure that no object is used after it was freed.
 * They are registered by name and signature, and the library looks up [Progress], [TokenSink] and [ShadowllmException]
 * in the same way: consumer-rules.pro keeps the names of all four.
 */
internal object Native {
    init {
        System.loadLibrary("shadowllm_jni")
    }

    @JvmStatic external fun modelOpen(path: ByteArray, preload: Boolean, verify: Boolean, progress: Progress?): Long
    @JvmStatic external fun modelOpenFd(
        fd: Int, offset: Long, length: Long, preload: Boolean, verify: Boolean, progress: Progress?,
    ): Long
    @JvmStatic external fun modelFree(model: Long)
    @JvmStatic external fun modelInfo(model: Long): LongArray
    @JvmStatic external fun modelSessionBytes(model: Long, context: Int, threads: Int): Long

    @JvmStatic external fun sessionNew(
        model: Long, context: Int, threads: Int, temperature: Float, topK: Int, topP: Float, minP: Float,
        repetitionPenalty: Float, presencePenalty: Float, frequencyPenalty: Float, seed: Long, memoryBudget: Int,
    ): Long
    @JvmStatic external fun sessionFree(session: Long)
    @JvmStatic external fun sessionAdd(session: Long, role: ByteArray, content: ByteArray)
    @JvmStatic external fun sessionClear(session: Long)
    @JvmStatic external fun sessionPrompt(session: Long): ByteArray
    @JvmStatic external fun sessionGenerate(
        session: Long, prompt: ByteArray?, maxTokens: Int, stop: Array<ByteArray>, biased: IntArray, biases: FloatArray,
        logprobs: Int, grammar: Long, dry: FloatArray, sink: TokenSink,
    ): DoubleArray
    @JvmStatic external fun sessionCancel(session: Long)
    @JvmStatic external fun sessionResetCancel(session: Long)
    @JvmStatic external fun sessionPosition(session: Long): Long
    @JvmStatic external fun sessionRewind(session: Long, position: Long)
    @JvmStatic external fun sessionSetSparsity(session: Long, level: Int)
    @JvmStatic external fun sessionSetPace(session: Long, secondsPerToken: Double, maxLoss: Float): Double
    @JvmStatic external fun sessionStats(session: Long): DoubleArray
    @JvmStatic external fun sessionAddJson(session: Long, json: ByteArray)
    @JvmStatic external fun sessionSetVariable(session: Long, name: ByteArray, json: ByteArray?)
    @JvmStatic external fun sessionMessages(session: Long, whole: Boolean): Array<ByteArray>
    @JvmStatic external fun sessionTruncate(session: Long, count: Int)
    @JvmStatic external fun sessionSave(session: Long): ByteArray
    @JvmStatic external fun sessionLoad(session: Long, state: ByteArray)
    @JvmStatic external fun sessionFork(session: Long): Long
    @JvmStatic external fun grammarNew(session: Long, kind: Int, rules: ByteArray): Long
    @JvmStatic external fun grammarFree(grammar: Long)
    @JvmStatic external fun parseToolCalls(answer: ByteArray): ByteArray
}

/** Gets each token from the library; false stops. */
internal fun interface TokenSink {
    fun onToken(
        text: ByteArray, tokensPerSecond: Double, density: Double, id: Int, thought: Boolean, logprob: Double,
        topIds: IntArray, topLogprobs: FloatArray,
    ): Boolean
}

/**
 * A native object and the number of calls that use it. After [close] no call begins, and the last call to end frees the
 * object: closing never waits, and no object is freed during a call on another thread.
 */
internal class Handle(private val pointer: Long, private val name: String, private val free: (Long) -> Unit) {
    private var calls = 0
    private var closed = false

    inline fun <T> use(call: (Long) -> T): T {
        val entered = enter()
        try {
            return call(entered)
        } finally {
            leave()
        }
    }

    fun close() {
        val unused = synchronized(this) {
            if (closed) return
            closed = true
            calls == 0
        }
        if (unused) free(pointer)
    }

    /** For cancelling, the one call that is allowed during another: does nothing unless a call uses the object. */
    fun ifInUse(call: (Long) -> Unit) = synchronized(this) { if (calls > 0) call(pointer) }

    fun enter(): Long = synchronized(this) {
        check(!closed) { "the $name is closed" }
        calls++
        pointer
    }

    fun leave() {
        val last = synchronized(this) { --calls == 0 && closed }
        if (last) free(pointer)
    }
}
