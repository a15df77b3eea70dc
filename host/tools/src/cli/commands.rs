//! Commands in a chat: lines that begin with a slash.

use crate::dial::suited;
use crate::print;
use shadowllm_core::sparsity::Policy;
use shadowllm_host::map::map_file;
use shadowllm_host::text::Message;
use shadowllm_host::{Chat, Error, Result, SamplerOptions};
use shadowllm_tools::output::{Output, refuse_overwrite};
use std::io::Write;
use std::path::PathBuf;

/// The meaning of a line.
#[derive(Debug, PartialEq, Eq)]
pub enum Next {
    /// It is a message.
    Message,
    /// It was a command, which is done.
    Done,
    /// The chat ends.
    Leave,
}

const HELP: &str = "\
/clear, /reset              forget the conversation
/system TEXT                say what the model is to be, and begin anew
/density DENSITY [POLICY]   read less (1 reads everything)
/policy POLICY              choose in another way what is read
/temperature TEMPERATURE    choose tokens more freely (0: the likeliest)
/stats                      figures of the whole conversation
/save FILE, /load FILE      keep the conversation in a file; continue it without reading it again
/bye                        leave (as Ctrl-D)
Ctrl-C stops an answer. A line that ends with \\ goes on in the next one; lines between \"\"\" and \"\"\" are one message.
A message that begins with a slash needs a space before it.";

/// Runs a line if it is a command: a slash, and letters up to the first space.
pub fn command(chat: &mut Chat, line: &str) -> Result<Next> {
    let Some(words) = line.strip_prefix('/') else { return Ok(Next::Message) };
    let (name, rest) = words.split_once(char::is_whitespace).unwrap_or((words, ""));
    if !name.chars().all(|c| c.is_ascii_alphabetic()) && name != "?" {
        return Ok(Next::Message);
    }
    let done = match name {
        "bye" | "exit" | "quit" => return Ok(Next::Leave),
        "help" | "?" => {
            print::note(HELP);
            Ok(())
        }
        "clear" | "reset" => {
            chat.clear();
            print::note("[the conversation starts over]");
            Ok(())
        }
        "system" => {
            chat.set_system(Some(rest.trim()).filter(|text| !text.is_empty()).map(str::to_owned));
            print::note("[the conversation starts over]");
            Ok(())
        }
        "density" => density(chat, rest),
        "policy" => policy(chat, rest),
        "stats" => {
            print::note(stats(chat));
            Ok(())
        }
        "save" => save(chat, rest.trim()),
        "load" => load(chat, rest.trim()),
        "temperature" => temperature(chat, rest),
        _ => Err(Error::Usage(format!("there is no command /{name}: /help lists all commands"))),
    };
    // A mistyped command does not end the conversation.
    if let Err(e) = done {
        print::note(format_args!("[{e}]"));
    }
    Ok(Next::Done)
}

fn density(chat: &mut Chat, words: &str) -> Result<()> {
    let mut words = words.split_whitespace();
    let density = words.next().and_then(|word| crate::dial::density(word).ok());
    let Some(density) = density.filter(|d| *d > 0.0 && *d <= 1.0) else {
        return Err(Error::Usage("give a number above 0 and at most 1, as /density 0.8 or 80%".into()));
    };
    let named = words.next().map(crate::dial::policy).transpose();
    let named = named.map_err(|names| Error::Usage(format!("the policy is {names}")))?;
    set(chat, named, density)
}

/// Another policy at the same density.
fn policy(chat: &mut Chat, name: &str) -> Result<()> {
    let named = crate::dial::policy(name.trim());
    let named = named.map_err(|names| Error::Usage(format!("give the policy as /policy prompt: {names}")))?;
    let density = chat.session().engine().dial().density;
    set(chat, Some(named), density)
}

fn set(chat: &mut Chat, named: Option<Policy>, density: f32) -> Result<()> {
    let policy = suited(chat.session().model().file(), named, density)?;
    // All else that the chat began with stays.
    let dial = chat.session().options().dial.with(policy, density);
    chat.set_dial(&dial)?;
    let policy = chat.session().engine().policy();
    print::note(match policy {
        Policy::Off => "[everything is read]".to_owned(),
        policy => format!("[{:.0} % of what can be skipped is read; policy {}]", 100.0 * density, policy.name()),
    });
    Ok(())
}

/// The figures of all answers together.
fn stats(chat: &Chat) -> String {
    let session = chat.session();
    let (engine, totals) = (session.engine(), session.engine().totals());
    let per = |count: u64, nanoseconds: u64| count as f64 / (nanoseconds as f64 / 1e9).max(1e-9);
    let decoded = totals.decoded_tokens.max(1) as f64;
    format!(
        "[{} messages; {} of {} positions used; {} tokens read at {:.1} t/s; {} generated at {:.1} t/s, {:.1} MB of weights \
         per token, {:.1} % of what can be skipped; policy {}]",
        chat.messages().len(),
        engine.position(),
        engine.options().context,
        totals.prompt_tokens,
        per(totals.prompt_tokens, totals.prefill_nanoseconds),
        totals.decoded_tokens,
        per(totals.decoded_tokens, totals.decode_nanoseconds),
        totals.weights as f64 / decoded / 1e6,
        100.0 * totals.density(),
        engine.policy().name(),
    )
}

/// The file that a command names.
fn file(name: &str, command: &str) -> Result<PathBuf> {
    if name.is_empty() {
        return Err(Error::Usage(format!("name the file, as /{command} rivers.chat")));
    }
    Ok(PathBuf::from(name))
}

fn save(chat: &Chat, name: &str) -> Result<()> {
    let path = file(name, "save")?;
    refuse_overwrite(&path, &[chat.session().model().file().path().to_owned()])?;
    let saved = chat.save()?;
    // An earlier one stays until this one is whole.
    let mut output = Output::create(&path)?;
    output.file().write_all(&saved).map_err(|e| Error::io("write to", &path, e))?;
    output.finish()?;
    print::note(format_args!(
        "[{} messages saved, {:.1} MB: /load {name} continues]",
        chat.messages().len(),
        saved.len() as f64 / 1e6
    ));
    Ok(())
}

fn load(chat: &mut Chat, name: &str) -> Result<()> {
    let path = file(name, "load")?;
    // Mapped, which refuses a pipe instead of waiting for it.
    chat.load(&map_file(&path)?.0)?;
    for message in chat.messages() {
        print::line(said(message, print::terminal()))?;
    }
    print::note(format_args!("[{} messages, all of them read]", chat.messages().len()));
    Ok(())
}

/// Who said what, as standard output gets it.
fn said(message: &Message, terminal: bool) -> String {
    print::shown(&format!("{}: {}", message.role, message.content.trim()), terminal).into_owned()
}

fn temperature(chat: &mut Chat, words: &str) -> Result<()> {
    let wrong = || Error::Usage("give a number that is 0 or more, as /temperature 0.8".into());
    let temperature = words.trim().parse().map_err(|_| wrong())?;
    let options = SamplerOptions { temperature, ..chat.session().options().sampling };
    chat.set_sampling(options)?;
    print::note(format_args!("[temperature {temperature}]"));
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use shadowllm_host::{Model, Options};

    /// A terminal obeys nothing that a saved chat says; a file gets it as it is.
    #[test]
    fn what_was_said_is_harmless() {
        let message = Message::new("a\x1b[2Jb", "one\r\n\x1b]0;two\x07 ");
        assert_eq!(said(&message, true), "a\\u{1b}[2Jb: one\n\\u{1b}]0;two\\u{7}");
        assert_eq!(said(&message, false), "a\x1b[2Jb: one\r\n\x1b]0;two\x07");
    }

    /// The chat takes a density as the option does.
    #[test]
    fn densities_are_those_of_the_option() {
        let model = Model::open("../models/story.sllm").unwrap();
        let mut chat = model.chat(Options { threads: Some(1), ..Options::default() }).unwrap();
        for (words, expected) in [("80%", 0.8), ("0.6", 0.6), ("50% random", 0.5)] {
            density(&mut chat, words).unwrap();
            assert_eq!(chat.session().engine().dial().density, expected, "{words}");
        }
        for words in ["", "80 %", "0%", "101%", "nan", "x"] {
            assert!(density(&mut chat, words).is_err(), "{words}");
        }
    }

    /// A saved chat takes the place of an earlier one when it is whole, and does not write over it.
    #[test]
    fn a_chat_is_saved_whole() {
        let folder = tempfile::tempdir().unwrap();
        let [kept, linked] = ["kept", "linked"].map(|name| folder.path().join(name));
        std::fs::write(&kept, "an earlier one").unwrap();
        std::fs::hard_link(&kept, &linked).unwrap();
        let model = Model::open("../models/story.sllm").unwrap();
        let mut chat = model.chat(Options { max_tokens: 4, threads: Some(1), ..Options::default() }).unwrap();
        let _ = chat.ask("What color is the sky?").unwrap().complete().unwrap();
        save(&chat, kept.to_str().unwrap()).unwrap();
        let said = chat.messages().to_vec();
        chat.clear();
        load(&mut chat, kept.to_str().unwrap()).unwrap();
        assert_eq!(chat.messages(), said);
        assert_eq!(std::fs::read(&linked).unwrap(), b"an earlier one");
        let error = save(&chat, folder.path().to_str().unwrap()).unwrap_err().to_string();
        assert!(error.contains("is a folder"), "{error}");
        // Neither the model itself nor a pipe.
        let model = folder.path().join("model.sllm");
        std::fs::copy("../models/story.sllm", &model).unwrap();
        let chat = Model::open(&model).unwrap().chat(Options { threads: Some(1), ..Options::default() }).unwrap();
        let error = save(&chat, model.to_str().unwrap()).unwrap_err().to_string();
        assert!(error.contains("would replace"), "{error}");
        #[cfg(unix)]
        {
            let pipe = folder.path().join("pipe");
            assert!(std::process::Command::new("mkfifo").arg(&pipe).status().unwrap().success());
            let mut chat = chat;
            let error = load(&mut chat, pipe.to_str().unwrap()).unwrap_err().to_string();
            assert!(error.contains("is a pipe"), "{error}");
        }
    }
}
