//! Conversations of `shadowllm run`: reading messages, answering them, and Ctrl-C.

use crate::answer::{Show, as_json, summary, whole};
use crate::commands::{Next, command};
use crate::print;
use rustyline::error::ReadlineError;
use shadowllm_host::conversation::Reply;
use shadowllm_host::{Chat, Error, Result, Stop};
use std::io::IsTerminal;
use std::sync::atomic::{AtomicBool, Ordering};

/// Around a message of several lines.
const QUOTES: &str = "\"\"\"";
/// The note when a conversation does not fit any more.
const OVER: &str = "[the context is full: the conversation starts over]";

/// Messages: typed at a terminal, or the whole of standard input.
pub enum Lines {
    /// Typed by a user.
    Editor(Box<rustyline::DefaultEditor>),
    /// From a pipe or a file.
    Given(String),
}

impl Lines {
    /// Those of standard input.
    pub fn new() -> Result<Self> {
        if !std::io::stdin().is_terminal() {
            return print::standard_input().map(Lines::Given);
        }
        let editor = rustyline::DefaultEditor::new();
        editor.map(|e| Lines::Editor(Box::new(e))).map_err(|e| Error::Other(format!("no line editing: {e}")))
    }

    /// A text with empty lines is one prompt, because messages are never empty.
    pub fn or_prompt(self) -> (Option<String>, Option<Lines>) {
        match self {
            Lines::Given(text) if text.trim().lines().any(|line| line.trim().is_empty()) => (Some(text), None),
            lines => (None, Some(lines)),
        }
    }
}

/// A conversation: each line is a message.
pub fn chat(mut chat: Chat, lines: Lines, json: bool) -> Result<()> {
    match lines {
        Lines::Editor(editor) => {
            interrupt::watch(chat.session_mut());
            typed(&mut chat, *editor, json)
        }
        Lines::Given(text) => {
            let mut refused = None;
            for line in text.lines().filter(|line| !line.trim().is_empty()) {
                refused = turn(&mut chat, line, json)?.or(refused);
            }
            refused.map_or(Ok(()), Err)
        }
    }
}

/// Messages typed by a user, until the end of input or two Ctrl-C.
fn typed(chat: &mut Chat, mut editor: rustyline::DefaultEditor, json: bool) -> Result<()> {
    let mut leaving = false;
    loop {
        match message(&mut editor) {
            Ok(line) if line.trim().is_empty() => {}
            Ok(line) => {
                // Without history the chat still works.
                let _ = editor.add_history_entry(&line);
                match command(chat, &line)? {
                    Next::Leave => return Ok(()),
                    Next::Done => {}
                    Next::Message => {
                        let _answering = interrupt::answering();
                        turn(chat, &line, json)?;
                    }
                }
            }
            Err(ReadlineError::Eof) => return Ok(()),
            Err(ReadlineError::Interrupted) if leaving => return Ok(()),
            Err(ReadlineError::Interrupted) => {
                print::note("[Ctrl-C once more, or Ctrl-D, leaves]");
                leaving = true;
                continue;
            }
            Err(e) => return Err(Error::Other(format!("cannot read standard input: {e}"))),
        }
        leaving = false;
    }
}

/// A message: a line and those that continue it, or lines between triple quotes.
fn message(editor: &mut rustyline::DefaultEditor) -> rustyline::Result<String> {
    let mut text = editor.readline("> ")?;
    if let Some(begun) = text.trim_start().strip_prefix(QUOTES) {
        let mut text = begun.to_owned();
        while !text.trim_end().ends_with(QUOTES) {
            let line = editor.readline(". ")?;
            text.push('\n');
            text.push_str(&line);
        }
        let end = text.trim_end().len() - QUOTES.len();
        text.truncate(end);
        return Ok(text.trim_matches('\n').to_owned());
    }
    while text.ends_with('\\') {
        text.pop();
        text.push('\n');
        text.push_str(&editor.readline(". ")?);
    }
    Ok(text)
}

/// Asks a question and shows the answer. If the question is impossible, the reason is shown and returned, and the
/// conversation continues.
fn turn(chat: &mut Chat, line: &str, json: bool) -> Result<Option<Error>> {
    let is_full = |e: &Error| matches!(e, Error::Engine { source: shadowllm_core::Error::ContextFull { .. }, .. });
    let mut reply = answer(chat, line, json);
    if chat.messages().len() > 1 && reply.as_ref().is_err_and(is_full) {
        print::note(OVER);
        chat.clear();
        reply = answer(chat, line, json);
    }
    match reply {
        Ok(reply) => {
            print::note(summary(&reply.figures));
            if reply.stop == Stop::ContextFull {
                print::note(OVER);
                chat.clear();
            }
            Ok(None)
        }
        Err(e) if is_full(&e) => {
            print::note(format_args!("shadowllm: this message is too long: {e}"));
            Ok(Some(e))
        }
        Err(Error::Engine { source: shadowllm_core::Error::Cancelled, .. }) => Ok(None),
        Err(e) => Err(e),
    }
}

fn answer(chat: &mut Chat, line: &str, json: bool) -> Result<Reply> {
    let reply = whole(chat.ask(line)?, if json { Show::Nothing } else { Show::Answer })?;
    if json {
        print::line(as_json(&reply, chat.session()))?
    } else {
        print::line("")?
    }
    if reply.stop == Stop::Cancelled {
        print::note("[stopped; what was said stays in the conversation]");
    }
    Ok(reply)
}

/// Ctrl-C: once ends the answer, twice the program.
mod interrupt {
    use super::{AtomicBool, Ordering};
    use shadowllm_host::Session;

    /// Raised by Ctrl-C.
    static STOP: AtomicBool = AtomicBool::new(false);

    /// Lets Ctrl-C end the session's answers.
    pub fn watch(session: &mut Session) {
        session.set_cancel(Some(&STOP));
    }

    /// While this value lives, Ctrl-C ends the answer.
    pub struct Answering {
        #[cfg(unix)]
        before: libc::sigaction,
    }

    #[cfg(unix)]
    extern "C" fn stop(_: libc::c_int) {
        if STOP.swap(true, Ordering::SeqCst) {
            crate::live::abandon();
            // SAFETY: POSIX allows `_exit` in a signal handler.
            unsafe { libc::_exit(130) }
        }
    }

    /// Begins to watch.
    pub fn answering() -> Answering {
        STOP.store(false, Ordering::SeqCst);
        Answering {
            #[cfg(unix)]
            // SAFETY: both structures are plain data, and the handler only accesses atomics, writes, or ends the process, which
            // POSIX allows.
            before: unsafe {
                let mut new: libc::sigaction = std::mem::zeroed();
                let mut before: libc::sigaction = std::mem::zeroed();
                new.sa_sigaction = stop as extern "C" fn(libc::c_int) as libc::sighandler_t;
                new.sa_flags = libc::SA_RESTART;
                libc::sigaction(libc::SIGINT, &new, &mut before);
                before
            },
        }
    }

    impl Drop for Answering {
        fn drop(&mut self) {
            #[cfg(unix)]
            // SAFETY: the structure is one that the system filled in.
            unsafe {
                libc::sigaction(libc::SIGINT, &self.before, std::ptr::null_mut());
            }
            STOP.store(false, Ordering::SeqCst);
        }
    }
}
