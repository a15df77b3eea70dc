package org.shadowllm

/** Gets the progress of loading, in bytes; false cancels it. Called on the thread that opens the model. */
fun interface Progress {
    fun onProgress(done: Long, total: Long): Boolean
}

/** Facts about a model. */
data class ModelInfo(
    /** Token ids are below this. */
    val vocab: Int,
    val layers: Int,
    /** Of the residual stream. */
    val width: Int,
    /** Positions it was trained for. */
    val trainedContext: Int,
    val hasTokenizer: Boolean,
    /** Whether [Session.add] and [Session.answer] can be used. */
    val hasChatTemplate: Boolean,
    /** Whether [Session.setSparsity] can be used. */
    val isCalibrated: Boolean,
    val imageBytes: Long,
    /** Of weights, read to decode a token when nothing is skipped. */
    val bytesPerToken: Long,
)

/**
 * A packed model, mapped from its file: immutable, for any number of threads and sessions. Close it after use; sessions
 * continue without it. Failures are [ShadowllmException], use after closing is [IllegalStateException].
 */
class Model private constructor(pointer: Long) : AutoCloseable {
    private val handle = Handle(pointer, "model", Native::modelFree)

    val info: ModelInfo = try {
        val v = Native.modelInfo(pointer)
        ModelInfo(
            v[0].toInt(), v[1].toInt(), v[2].toInt(), v[3].toInt(), v[4] != 0L, v[5] != 0L, v[6] != 0L, v[7], v[8],
        )
    } catch (failure: Throwable) {
        handle.close()
        throw failure
    }

    /** Bytes that a session with these options will take, before any are taken. */
    fun sessionBytes(options: SessionOptions = SessionOptions()): Long =
        handle.use { Native.modelSessionBytes(it, options.context, options.threads) }

    /** Builds a tokenizer, which takes tens of milliseconds: call it off the main thread. */
    fun newSession(options: SessionOptions = SessionOptions()): Session = Session(
        handle.use {
            with(options) {
                Native.sessionNew(
                    it, context, threads, temperature, topK, topP, minP, repetitionPenalty, presencePenalty, frequencyPenalty,
                    seed, memoryBudget,
                )
            }
        },
    )

    /** Frees the model. A second call does nothing. */
    override fun close() = handle.close()

    companion object {
        /**
         * Maps an image. [preload] reads the whole file now, [verify] compares it with its checksums. Either takes long:
         * call it off the main thread then.
         */
        @JvmStatic
        @JvmOverloads
        fun open(path: String, preload: Boolean = false, verify: Boolean = false, progress: Progress? = null): Model =
            Model(Native.modelOpen(path.toByteArray(), preload, verify, progress))

        /**
         * Maps an image in an open file at [offset]; a [length] of 0 is the rest of the file. The descriptor stays the
         * caller's and may be closed afterwards. From an application's assets (which must not be compressed:
         * `androidResources { noCompress += "sllm" }`):
         *
         *     context.assets.openFd("model.sllm").use {
         *         Model.open(it.parcelFileDescriptor.fd, it.startOffset, it.length)
         *     }
         */
        @JvmStatic
        @JvmOverloads
        fun open(
            fd: Int,
            offset: Long = 0,
            length: Long = 0,
            preload: Boolean = false,
            verify: Boolean = false,
            progress: Progress? = null,
        ): Model = Model(Native.modelOpenFd(fd, offset, length, preload, verify, progress))
    }
}
