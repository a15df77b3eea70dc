package org.shadowllm

import kotlinx.coroutines.Dispatchers
import kotlinx.coroutines.channels.Channel
import kotlinx.coroutines.channels.awaitClose
import kotlinx.coroutines.flow.Flow
import kotlinx.coroutines.flow.buffer
import kotlinx.coroutines.flow.callbackFlow
import kotlinx.coroutines.flow.filter
import kotlinx.coroutines.flow.flowOn
import kotlinx.coroutines.flow.map
import kotlinx.coroutines.launch

/**
 * [Session.answer] as a flow of text. Each collection generates a new answer, on a thread of [Dispatchers.IO]. For a slow
 * collector text is stored, at most a context of it. When the collector is cancelled or stops early, the generation is
 * cancelled, also while it reads the prompt, and the collection ends after it has stopped: the session is then free again.
 * [onEnd] gets the figures of an answer that was not cancelled, on that thread, before the flow ends.
 */
fun Session.answerFlow(
    maxTokens: Int = 256, constraints: Constraints = Constraints(), onEnd: (Generation) -> Unit = {},
): Flow<String> = tokens(null, maxTokens, constraints, onEnd).texts()

/** [answerFlow], token by token. */
fun Session.tokenFlow(
    maxTokens: Int = 256, constraints: Constraints = Constraints(), onEnd: (Generation) -> Unit = {},
): Flow<Token> = tokens(null, maxTokens, constraints, onEnd)

/** [Session.continueText] as a flow of text, like [answerFlow]. */
fun Session.continueFlow(
    text: String, maxTokens: Int = 256, constraints: Constraints = Constraints(), onEnd: (Generation) -> Unit = {},
): Flow<String> = tokens(text, maxTokens, constraints, onEnd).texts()

private fun Flow<Token>.texts(): Flow<String> = map { it.text }.filter { it.isNotEmpty() }

private fun Session.tokens(
    text: String?, maxTokens: Int, constraints: Constraints, onEnd: (Generation) -> Unit,
): Flow<Token> = callbackFlow {
    val run = Session.Run()
    launch {
        // The channel is closed with the failure, and this coroutine does not fail: a cancelled collection then ends as
        // cancelled, although the generation failed.
        close(
            runCatching { onEnd(generate(run, text, maxTokens, constraints) { trySend(it).isSuccess }) }.exceptionOrNull(),
        )
    }
    awaitClose { cancel(run) }
    // Room for the whole text: a generation that waited for its collector could not be cancelled meanwhile.
}.buffer(Channel.UNLIMITED).flowOn(Dispatchers.IO)
