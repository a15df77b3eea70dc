package org.shadowllm

/** A failure of the library. The message says what was wrong and what to do about it. */
class ShadowllmException internal constructor(val status: Status, message: String) : RuntimeException(message) {
    /** For JNI: a code of shadowllm.h and a message in UTF-8. */
    @Suppress("unused")
    private constructor(code: Int, message: ByteArray) : this(Status.of(code), String(message, Charsets.UTF_8))

    /** The codes of shadowllm.h, in their order, from 1. */
    enum class Status {
        INVALID_ARGUMENT,
        INVALID_HANDLE,
        BUSY,
        OUT_OF_MEMORY,
        BUFFER_TOO_SMALL,
        IO,
        BAD_IMAGE,
        UNSUPPORTED,
        TOKEN_OUT_OF_RANGE,
        CONTEXT_FULL,
        CANCELLED,
        INVALID_UTF8,
        NO_LOGITS,
        BAD_STATE,
        INTERNAL,

        /** A code of a library newer than this class. */
        UNKNOWN;

        internal companion object {
            fun of(code: Int): Status = if (code in 1..INTERNAL.ordinal + 1) entries[code - 1] else UNKNOWN
        }
    }
}
