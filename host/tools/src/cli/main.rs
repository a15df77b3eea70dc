//! The command `shadowllm`.
//!
//! Modules, lowest first: `print`, `live`, `setup`, `dial`, `controls`, `answer`, `commands`, `chat`, then a module for each
//! command.

mod answer;
mod architecture;
mod bandwidth;
mod batch;
mod bench;
mod cache;
#[cfg(feature = "calibrate")]
mod calibrate;
mod chat;
mod commands;
mod controls;
mod demo;
mod dial;
mod eval;
mod inspect;
mod inspect_source;
mod live;
mod logits;
mod pace;
mod pack;
mod print;
mod report;
mod roofline;
mod run;
mod setup;
#[cfg(feature = "tasks")]
mod tasks;
mod tokenize;

use clap::error::{ContextKind, ContextValue, ErrorKind};
use clap::{CommandFactory, FromArgMatches, Parser, Subcommand};
use shadowllm_host::Error;
use std::process::ExitCode;

/// On-device LLM inference that does not read what a token does not need.
#[derive(Parser)]
#[command(
    name = "shadowllm",
    version,
    max_term_width = 100,
    after_help = "Exit codes: 0 done, 1 failed, 2 wrong usage. Downloads and images packed on the way lie in \
        ~/.cache/shadowllm (or $XDG_CACHE_HOME/shadowllm): shadowllm cache list"
)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Fetch a small model, pack it and let it answer a question.
    #[command(after_help = "Example:\n  shadowllm demo -p 'Why is the sky blue?'")]
    Demo(demo::Options),
    /// Pack a Hugging Face folder or a GGUF file into an image.
    #[command(after_help = "Examples:\n  shadowllm pack SmolLM2-135M/ -o smollm2.sllm --format q4_0\n  \
        shadowllm pack model.gguf -o model.sllm\n  shadowllm pack --synthetic tinyllama-1.1b --format q4_0 -o random.sllm")]
    Pack(pack::Options),
    /// Show what an image holds.
    #[command(
        after_help = "Examples:\n  shadowllm inspect smollm2.sllm --verify\n  shadowllm inspect model.gguf --json"
    )]
    Inspect(inspect::Options),
    /// Generate text: from a prompt, a file, or in a chat.
    #[command(
        alias = "chat",
        after_help = "Examples:\n  shadowllm run smollm2.sllm 'Why is the sky blue?' -n 64\n  \
        shadowllm run smollm2.sllm            # chat; /help lists commands\n  \
        shadowllm run smollm2.sllm --density 0.8   # reads less\n  \
        echo 'Why is the sky blue?' | shadowllm run smollm2.sllm -f -\n  \
        shadowllm run model.gguf --raw -p 'Once upon a time' --greedy"
    )]
    Run(Box<run::Options>),
    /// Show the token ids of a text.
    #[command(after_help = "Examples:\n  shadowllm tokenize smollm2.sllm 'Why is the sky blue?' --pieces\n  \
        shadowllm tokenize smollm2.sllm -f text.txt > ids.json && \\\n    \
        shadowllm logits smollm2.sllm --ids ids.json -o logits.safetensors")]
    Tokenize(tokenize::Options),
    /// Write the logits of given token ids to a safetensors file.
    #[command(
        after_help = "Example:\n  echo '[1, 2, 3]' > ids.json && \\\n    shadowllm logits smollm2.sllm --ids ids.json -o logits.safetensors"
    )]
    Logits(logits::Options),
    /// Measure the perplexity of a text, or the accuracy on task sets.
    #[command(
        after_help = "Examples:\n  shadowllm eval smollm2.sllm --text book.txt --window 512 --max-windows 40\n  \
        shadowllm eval smollm2.sllm --text book.txt --policy input,gate \\\n    --density 0.9,0.7,0.5\n  \
        shadowllm eval smollm2.sllm --tasks all --limit 200 --json\n  \
        shadowllm eval smollm2.sllm --tasks piqa,arc_easy --tasks-dir unpacked-wheel"
    )]
    Eval(eval::Options),
    /// Learn from a text what a model's tokens need, and write it into a copy of the image.
    #[cfg(feature = "calibrate")]
    #[command(
        after_help = "Example:\n  shadowllm calibrate smollm2.sllm --text book.txt --tokens 200000 \\\n    -o smollm2-sparse.sllm"
    )]
    Calibrate(calibrate::Options),
    /// Show on one page what skipping costs and saves, the time of a token by density, what is used, and how good
    /// predictors are.
    #[command(after_help = "Examples:\n  shadowllm report smollm2-sparse.sllm --text book.txt -o report.html\n  \
        shadowllm report smollm2-sparse.sllm --text a.txt --text b.txt \\\n    \
        --policy input,gate,shadow --density 0.8,0.5 \\\n    -o report.html --data report.csv")]
    Report(report::Options),
    /// Measure prefill and decode speed.
    #[command(after_help = "Example:\n  shadowllm bench smollm2.sllm -p 512 -n 128 -t 1,2 -r 5 --json")]
    Bench(bench::Options),
    /// Show what limits decoding here: times by density, predicted and measured, and every kernel beside the memory.
    #[command(after_help = "Example:\n  shadowllm roofline smollm2.sllm -t 1")]
    Roofline(roofline::Options),
    /// List or clear the cache: downloads, and images packed on the way.
    #[command(after_help = "Examples:\n  shadowllm cache list\n  shadowllm cache clear")]
    Cache(cache::Options),
}

const NO_SERVER: &str = "there is no server; shadowllm run MODEL is a chat, and include/shadowllm.h is for programs";
const ON_CPU: &str = "everything runs on the CPU: leave it out";
const BY_PATH: &str = "models are files here and are not fetched by name: download a .gguf, or a Hugging Face folder, and name its \
    path; shadowllm demo fetches one";
const CHATS: &str = "run without a prompt is a chat: leave it out";

/// Commands and options of other programs that do not exist here, with what to use instead.
const HABITS: [(&str, &str); 28] = [
    ("serve", NO_SERVER),
    ("server", NO_SERVER),
    ("ps", "there is no server, so no model stays in memory when a command has ended"),
    ("show", "shadowllm inspect MODEL"),
    ("embed", "embeddings of texts are not computed here"),
    ("embedding", "embeddings of texts are not computed here"),
    (
        "pull",
        "models are files here: shadowllm run FILE.gguf, or a folder from Hugging Face; shadowllm demo fetches one",
    ),
    ("list", "models are files here; shadowllm cache list shows what was fetched and packed"),
    ("ls", "models are files here; shadowllm cache list shows what was fetched and packed"),
    ("rm", "models are files here; shadowllm cache clear removes what was fetched and packed"),
    ("quantize", "shadowllm pack FILE.gguf --format q4_0 -o FILE.sllm"),
    ("convert", "shadowllm pack FOLDER -o FILE.sllm"),
    ("perplexity", "shadowllm eval MODEL --text FILE"),
    ("-m", "shadowllm run -m MODEL"),
    ("-p", "shadowllm run MODEL -p PROMPT"),
    ("--n-gpu-layers", ON_CPU),
    ("-ngl", ON_CPU),
    ("--interactive", CHATS),
    ("-cnv", CHATS),
    ("--conversation", CHATS),
    ("-no-cnv", "a prompt (-p) has one answer, and --raw continues it as plain text: leave it out"),
    ("-sys", "--system TEXT"),
    ("-hf", BY_PATH),
    ("-hfr", BY_PATH),
    ("--hf-repo", BY_PATH),
    ("--lora", "adapters are not supported: merge it into the model before it is packed"),
    ("--chat-template", "the model's own chat template is used; --raw goes without one"),
    ("--mlock", "--in-memory"),
];

/// Whether this is an option of several letters after one dash that was given. It is read as an option of one letter and its
/// value (`-ngl` as `-n gl`), or as a question for help (`-hf`).
fn run_together(habit: &str) -> bool {
    let letters = habit.len() > 2 && habit.starts_with('-') && !habit.starts_with("--");
    letters && std::env::args_os().skip(1).take_while(|a| a != "--").any(|a| a == habit)
}

/// Adds what to use instead of other programs' commands and options.
fn with_habits(mut error: clap::Error) -> clap::Error {
    let wrong = [ContextKind::InvalidSubcommand, ContextKind::InvalidValue, ContextKind::InvalidArg];
    let wrong = wrong.into_iter().find_map(|kind| error.get(kind));
    let wrong = wrong.map(ToString::to_string).unwrap_or_default();
    if let Some((habit, instead)) = HABITS.iter().find(|(habit, _)| run_together(habit)) {
        return Cli::command()
            .error(ErrorKind::UnknownArgument, format!("there is no option {habit}\n\n  tip: {instead}"));
    }
    if let Some((_, instead)) = HABITS.iter().find(|(habit, _)| *habit == wrong) {
        error.remove(ContextKind::SuggestedSubcommand);
        error.remove(ContextKind::SuggestedArg);
        error.insert(ContextKind::Suggested, ContextValue::StyledStrs(vec![(*instead).into()]));
    }
    error
}

/// Makes a write beyond the limit on file sizes (`ulimit -f`) fail like one to a full disk, instead of ending the
/// program and leaving an unfinished file.
fn take_file_limits_as_errors() {
    #[cfg(unix)]
    // SAFETY: ignoring a signal installs no handler, and nothing else in the program changes this signal.
    unsafe {
        libc::signal(libc::SIGXFSZ, libc::SIG_IGN);
    }
}

/// Makes calibration run one window on each thread; candle's own threads would work on one window at a time.
fn one_window_per_thread() {
    // SAFETY: this is the first thing that the program does, so no other threads exist that could read the environment.
    unsafe { std::env::set_var("CANDLE_NUM_THREADS", "1") }
}

/// The arguments. Numbers that begin with a dash are allowed as values, so that errors about them are understandable.
fn arguments() -> Cli {
    let numbers = |a: clap::Arg| if a.get_action().takes_values() { a.allow_negative_numbers(true) } else { a };
    let command = Cli::command().mut_subcommands(|c| c.mut_args(numbers).max_term_width(100));
    let found = command.try_get_matches().and_then(|matches| Cli::from_arg_matches(&matches));
    found.unwrap_or_else(|e| with_habits(e).exit())
}

/// Turns panics of this program or of a library into a sentence and an exit code.
fn say_panics() {
    std::panic::set_hook(Box::new(|panic| {
        // A panic that becomes an error is not shown.
        if !shadowllm_host::text_guard::is_guarded() {
            print::note(format_args!("shadowllm: an error inside the program, please report it: {panic}"));
        }
    }));
}

fn main() -> ExitCode {
    one_window_per_thread();
    take_file_limits_as_errors();
    say_panics();
    shadowllm_tools::output::remove_on_signals();
    std::panic::catch_unwind(command).unwrap_or(ExitCode::FAILURE)
}

fn command() -> ExitCode {
    let result = match arguments().command {
        Command::Demo(o) => demo::demo(&o),
        Command::Pack(o) => pack::pack(&o),
        Command::Inspect(o) => inspect::inspect(&o),
        Command::Run(o) => run::run(&o),
        Command::Tokenize(o) => tokenize::tokenize(&o),
        Command::Cache(o) => cache::cache(&o),
        Command::Logits(o) => logits::logits(&o),
        Command::Eval(o) => eval::eval(&o),
        #[cfg(feature = "calibrate")]
        Command::Calibrate(o) => calibrate::calibrate(&o),
        Command::Report(o) => report::report(&o),
        Command::Bench(o) => bench::bench(&o),
        Command::Roofline(o) => roofline::roofline(&o),
    };
    match result {
        Ok(()) => ExitCode::SUCCESS,
        // The reader (such as `| head`) has closed the pipe.
        Err(e) if print::is_closed(&e) => ExitCode::SUCCESS,
        Err(e) => {
            print::failure(&e);
            let usage = matches!(e, Error::Usage(_))
                || matches!(
                    e,
                    Error::Engine {
                        source: shadowllm_core::Error::BadOption(_) | shadowllm_core::Error::BadDensity,
                        ..
                    }
                );
            ExitCode::from(if usage { 2 } else { 1 })
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A line that a terminal of 80 columns breaks would be two commands when it is pasted.
    #[test]
    fn examples_can_be_pasted() {
        for command in Cli::command().get_subcommands() {
            let examples = command.get_after_help().unwrap_or_else(|| panic!("{command} has no example")).to_string();
            let long: Vec<&str> = examples.lines().filter(|line| line.len() > 79).collect();
            assert!(long.is_empty(), "{command}: {long:?}");
            assert!(examples.contains("\n  shadowllm ") || examples.contains("\n    shadowllm "), "{command}");
        }
    }
}
