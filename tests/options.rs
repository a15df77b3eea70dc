//! Options of the command line: what some of them change, and that every one is tried somewhere.

use serde_json::Value;
use shadowllm_core::Format;
use shadowllm_host::dry::Dry;
use shadowllm_host::{Controls, Model, Options, SamplerOptions};
use shadowllm_tests::program::{Place, finish};
use shadowllm_tests::{pack_to, vectors};
use std::collections::BTreeSet;
use std::path::Path;
use std::process::Stdio;

/// A question with the text of the story model's end token, number 1, which also begins each question of its template.
const QUESTION: &str = "Is</s>it";
const END: u32 = 1;

fn story() -> Place {
    let place = Place::new();
    place.copy(&vectors("../../host/models/story.sllm"), "story.sllm");
    place
}

fn ids(place: &Place, arguments: &str) -> Vec<u32> {
    serde_json::from_str(&place.works(&format!("tokenize {arguments}")).out).unwrap()
}

#[test]
fn tokenize_takes_control_tokens_for_text_unless_told() {
    let place = story();
    for (options, ends) in [("", 0), ("--control-tokens", 1), ("--chat", 1), ("--chat --control-tokens", 2)] {
        let ids = ids(&place, &format!("story.sllm {QUESTION} {options}"));
        assert_eq!(ids.iter().filter(|id| **id == END).count(), ends, "{options}: {ids:?}");
    }
}

#[test]
fn run_takes_control_tokens_for_text_unless_told() {
    let place = story();
    place.write("talk", format!("{QUESTION}\n"));
    let mut read = BTreeSet::new();
    for option in ["", "--control-tokens"] {
        let expected = ids(&place, &format!("story.sllm {QUESTION} --chat {option}")).len();
        let prompted = place.command(&format!("run story.sllm {QUESTION} -n 1 --greedy --json {option}"));
        let mut chat = place.command(&format!("run story.sllm -n 1 --greedy --json {option}"));
        chat.stdin(Stdio::from(std::fs::File::open(place.path("talk")).unwrap()));
        for command in [prompted, chat] {
            let run = finish(command);
            let value: Value = serde_json::from_str(&run.out).unwrap_or_else(|e| panic!("{e}: {}{}", run.out, run.err));
            assert_eq!(value["figures"]["prompt_tokens"], expected, "{option}: {value}");
        }
        read.insert(expected);
    }
    assert_eq!(read.len(), 2, "as a control token, the text is fewer tokens");
}

#[test]
fn the_beginning_token_can_be_left_out() {
    let place = Place::new();
    place.copy(&vectors("brown-opt"), "model");
    place.begin_texts();
    let (with, without) = (ids(&place, "model hello"), ids(&place, "model hello --no-special"));
    assert_eq!((with[0], &with[1..]), (1, &without[..]));
    assert!(!without.is_empty());
}

/// Each option about repetitions changes the answer, to the one that the same numbers give a program.
#[test]
fn repetitions_are_avoided_as_told() {
    const PROMPT: &str = "The dog and the cat and the dog and the";
    let place = Place::new();
    pack_to(&vectors("brown-opt"), Format::Q4_0, &place.path("brown.sllm"));
    let model = Model::open(place.path("brown.sllm")).unwrap();
    let strong = Dry { multiplier: 1e6, allowed_length: 1, ..Dry::default() };
    let cases = [
        ("", Dry::default()),
        ("--dry-multiplier 1e6 --dry-allowed-length 1", strong),
        ("--dry-multiplier 1e6 --dry-allowed-length 3", Dry { allowed_length: 3, ..strong }),
        ("--dry-multiplier 1e6 --dry-allowed-length 1 --dry-penalty-last-n 8", Dry { last: 8, ..strong }),
        ("--dry-multiplier 0.5 --dry-allowed-length 1", Dry { multiplier: 0.5, ..strong }),
        ("--dry-multiplier 0.5 --dry-allowed-length 1 --dry-base 9", Dry { multiplier: 0.5, base: 9.0, ..strong }),
    ];
    let mut answers = Vec::new();
    for (options, dry) in cases {
        let mut command = place.command(&format!("run brown.sllm -n 48 --greedy --json {options}"));
        command.args(["-p", PROMPT]);
        let answer: Value = serde_json::from_str(&finish(command).out).unwrap();
        let sampling = SamplerOptions { temperature: 0.0, ..SamplerOptions::default() };
        let controls = Controls { dry, ..Controls::default() };
        let same = Options { max_tokens: 48, sampling, controls, threads: Some(1), ..Options::default() };
        let expected = model.session(same).unwrap().generate(PROMPT).unwrap().complete().unwrap().text;
        assert_eq!(answer["text"], expected, "{options}");
        assert!(!answers.contains(&expected), "{options} changes nothing: {expected}");
        answers.push(expected);
    }
    // Pairs of words that come again.
    let again = |text: &str| {
        let words: Vec<&str> = text.split_whitespace().collect();
        words.len() - 1 - words.windows(2).collect::<BTreeSet<_>>().len()
    };
    assert!(again(&answers[0]) > 4 && again(&answers[1]) == 0, "{answers:#?}");
}

#[test]
fn a_sketch_is_added_where_it_is_asked_for() {
    let place = Place::new();
    let pack = format!("pack {} -o model.sllm --format q8_0 --layout dense", vectors("models/qwen3").display());
    for (option, has) in [("", false), ("--sketch no", false), ("--sketch auto", false), ("--sketch yes", true)] {
        let said = place.works(&format!("{pack} {option}")).out;
        assert_eq!(said.contains("sketch of the output matrix"), has, "{option}: {said}");
        let held = place.works("inspect model.sllm --json").out;
        assert_eq!(held.contains("output.sketch"), has, "{option}: {held}");
    }
}

/// An option that no test and no check of the program names, by its long name or its letter, could do anything.
#[test]
fn every_option_is_tried_somewhere() {
    let place = Place::new();
    let sources = sources();
    let (mut pages, mut untried, mut seen) = (vec![String::new()], Vec::new(), 0);
    while let Some(command) = pages.pop() {
        let help = place.works(&format!("{command} --help")).out;
        pages.extend(commands(&help).map(|name| format!("{command} {name}")));
        for (long, letter) in options(&help) {
            seen += 1;
            let tried = |source: &String| names(source, long) || letter.is_some_and(|letter| names(source, letter));
            if !sources.iter().any(tried) {
                untried.push(format!("{command} {long}"));
            }
        }
    }
    assert!(seen > 100, "only {seen} options were found");
    assert!(untried.is_empty(), "no test names these: {untried:#?}");
}

/// The tests, and the checks of the program in Python.
fn sources() -> Vec<String> {
    let here = Path::new(env!("CARGO_MANIFEST_DIR"));
    let entries = |folder: &Path| -> Vec<_> { std::fs::read_dir(folder).unwrap().map(|e| e.unwrap().path()).collect() };
    let folders = entries(here).into_iter().filter(|p| p.is_dir()).chain([here.to_owned(), here.join("../.ci")]);
    let files: Vec<_> = folders.flat_map(|folder| entries(&folder)).collect();
    let is_source = |p: &&std::path::PathBuf| p.extension().is_some_and(|e| e == "rs" || e == "py");
    files.iter().filter(is_source).map(|p| std::fs::read_to_string(p).unwrap()).collect()
}

/// The commands of a help page.
fn commands(help: &str) -> impl Iterator<Item = &str> {
    let list = help.lines().skip_while(|line| *line != "Commands:").skip(1).map_while(|line| line.strip_prefix("  "));
    list.map(|line| line.split(' ').next().unwrap_or_default()).filter(|name| !name.is_empty() && *name != "help")
}

/// The long options of a help page with their letters.
fn options(help: &str) -> impl Iterator<Item = (&str, Option<&str>)> {
    help.lines().filter_map(|line| {
        let entry = line.strip_prefix("  ").filter(|l| l.starts_with('-') || l.starts_with("    --"))?;
        let mut words = entry.split(|c: char| !in_name(c)).filter(|word| !word.is_empty());
        let first = words.next()?;
        match first.strip_prefix("--") {
            Some(_) => Some((first, None)),
            None => Some((words.next().filter(|long| long.starts_with("--"))?, Some(first))),
        }
    })
}

fn in_name(c: char) -> bool {
    c.is_ascii_alphanumeric() || c == '-'
}

/// Whether a text has an option as a word of its own.
fn names(text: &str, option: &str) -> bool {
    let whole = |at: usize| !text[..at].ends_with(in_name) && !text[at + option.len()..].starts_with(in_name);
    text.match_indices(option).any(|(at, _)| whole(at))
}
