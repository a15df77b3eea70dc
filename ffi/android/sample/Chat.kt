// A chat on the console over the Kotlin classes: Chat.kt MODEL.sllm. Each line of the input is a question; the answer comes
// piece by piece, thoughts in parentheses, its figures go to standard error. `/save FILE`, `/load FILE` and `/new` do what they
// say. An application does the same with a screen in place of the console, and collects the flow in its own scope, whose end
// then ends the answer.
import java.io.File
import kotlin.system.exitProcess
import kotlinx.coroutines.runBlocking
import org.shadowllm.Generation
import org.shadowllm.Model
import org.shadowllm.Session
import org.shadowllm.SessionOptions
import org.shadowllm.ShadowllmException
import org.shadowllm.tokenFlow

private suspend fun answer(session: Session, question: String) {
    session.add("user", question)
    var end: Generation? = null
    var thinks = false
    session.tokenFlow { end = it }.collect { token ->
        if (token.isThought != thinks) print(if (token.isThought) "(" else ")\n")
        thinks = token.isThought
        print(token.text)
        System.out.flush()
    }
    println()
    end?.let { System.err.println("[%d tokens, %.1f a second, %s]".format(it.generatedTokens, it.decodeTokensPerSecond, it.stop)) }
}

/** Does what a line asks for; a failure is said, and the chat goes on. */
private suspend fun line(session: Session, text: String) = try {
    when {
        text.isBlank() -> {}
        text == "/new" -> session.clear()
        text.startsWith("/save ") -> File(text.removePrefix("/save ")).writeBytes(session.save())
        text.startsWith("/load ") -> session.load(File(text.removePrefix("/load ")).readBytes())
        else -> answer(session, text)
    }
} catch (failure: ShadowllmException) {
    System.err.println(failure.message)
} catch (failure: java.io.IOException) {
    System.err.println(failure.message)
}

fun main(arguments: Array<String>) {
    if (arguments.size != 1) {
        System.err.println("usage: Chat MODEL.sllm")
        exitProcess(2)
    }
    try {
        Model.open(arguments[0]).use { model ->
            // Random numbers differ from run to run.
            model.newSession(SessionOptions(seed = System.nanoTime())).use { session ->
                runBlocking { generateSequence(::readlnOrNull).forEach { line(session, it) } }
            }
        }
    } catch (failure: ShadowllmException) {
        System.err.println(failure.message)
        exitProcess(1)
    }
}
