//! Commands in a chat: lines that begin with a slash.

use crate::dial::suited;
use crate::print;
use shadowllm_core::sparsity::Policy;
use shadowllm_host::{Chat, Error, Result, SamplerOptions};

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
/clear                      forget the conversation
/system TEXT                say what the model is to be, and begin anew
/density DENSITY [POLICY]   read less (1 reads everything)
/temperature TEMPERATURE    choose tokens more freely (0: the likeliest)
/bye                        leave (as Ctrl-D)
Ctrl-C stops an answer. A message that begins with a slash needs a space before it.";

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
        "clear" => {
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
    let density = words.next().and_then(|word| word.parse().ok());
    let Some(density) = density.filter(|d| *d > 0.0 && *d <= 1.0) else {
        return Err(Error::Usage("give a number above 0 and at most 1, as /density 0.8".into()));
    };
    let named = words.next().map(crate::dial::policy).transpose();
    let named = named.map_err(|names| Error::Usage(format!("the policy is {names}")))?;
    let dial = suited(chat.session().model().file(), named, density)?;
    chat.set_dial(&dial)?;
    let policy = chat.session().engine().policy();
    print::note(match policy {
        Policy::Off => "[everything is read]".to_owned(),
        policy => format!("[{:.0} % of what can be skipped is read; policy {}]", 100.0 * density, policy.name()),
    });
    Ok(())
}

fn temperature(chat: &mut Chat, words: &str) -> Result<()> {
    let wrong = || Error::Usage("give a number that is 0 or more, as /temperature 0.8".into());
    let temperature = words.trim().parse().map_err(|_| wrong())?;
    let options = SamplerOptions { temperature, ..chat.session().options().sampling };
    chat.set_sampling(options)?;
    print::note(format_args!("[temperature {temperature}]"));
    Ok(())
}
