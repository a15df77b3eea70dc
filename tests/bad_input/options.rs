//! Options out of range, unknown names, options that contradict each other: wrong usage, exit code 2.

use super::{brown, gguf};
use safetensors::tensor::Dtype;
use shadowllm_tests::folder::{Folder, Shape};
use shadowllm_tests::program::{Place, program};
use shadowllm_tests::vectors;

const RUN: &str = "run brown.sllm -p hello";

fn wrong(arguments: &str, words: &[&str]) {
    let place = brown();
    place.write("text.txt", "one two three ".repeat(200));
    place.write("ids.json", "[1, 2]");
    place.fails(2, arguments, words);
}

#[test]
fn no_command_or_an_unknown_one() {
    wrong("", &["Usage", "pack", "run"]);
    wrong("paint", &["unrecognized subcommand 'paint'"]);
    wrong("run", &["<MODEL>"]);
    wrong("pack -o out.sllm", &["<SOURCE>"]);
    wrong("pack brown.sllm", &["--output"]);
}

/// Commands and options of other programs: the error says what to use here.
#[test]
fn habits() {
    wrong("serve brown.sllm", &["there is no server", "shadowllm run"]);
    wrong("pull smollm2", &["models are files here"]);
    wrong("quantize a b", &["shadowllm pack FILE.gguf --format"]);
    wrong(&format!("{RUN} --n-gpu-layers 9"), &["everything runs on the CPU"]);
    wrong(&format!("{RUN} -ngl 9"), &["there is no option -ngl", "everything runs on the CPU"]);
    wrong(&format!("{RUN} -n 4 -ngl 9"), &["there is no option -ngl", "everything runs on the CPU"]);
    wrong("run -hf owner/name", &["there is no option -hf", "not fetched by name"]);
    wrong(&format!("{RUN} -cnv"), &["there is no option -cnv", "a chat"]);
    wrong(&format!("{RUN} -sys Be-brief"), &["there is no option -sys", "--system TEXT"]);
    wrong(&format!("{RUN} --lora x"), &["'--lora'", "not supported"]);
    wrong(&format!("{RUN} --chat-template chatml"), &["model's own chat template", "--raw"]);
    wrong(&format!("{RUN} --mlock"), &["--in-memory"]);
    wrong("server", &["there is no server"]);
    wrong("show brown.sllm", &["shadowllm inspect MODEL"]);
    wrong("ps", &["there is no server"]);
    wrong("embed brown.sllm", &["not computed"]);
    wrong("-m brown.sllm", &["shadowllm run -m MODEL"]);
    wrong("tokenize brown.sllm", &["give a text to tokenize"]);
    wrong("tokenize brown.sllm word --chat", &["no chat template", "leave --chat out"]);
    wrong("cache clear nothing.sllm", &["the cache has no entry nothing.sllm", "cache list"]);
}

#[test]
fn habits_that_work() {
    let place = brown();
    let plain = place.works("run brown.sllm -p hello -n 4 --greedy --context 64 --seed 1");
    let other = place.works("run -m brown.sllm -p hello -n 4 --temp 0 -c 64 -s 1 --repeat-penalty 1");
    assert_eq!(plain.out, other.out);
    assert_eq!(place.works("chat brown.sllm hello --max-tokens 4 --greedy").out, plain.out);
    assert_eq!(
        place.works("run brown.sllm hello -n 9 --n-predict 4 --greedy").out,
        plain.out,
        "the last number counts"
    );
    let ids = place.works("tokenize brown.sllm hello").out;
    place.write("ids.json", &ids);
    place.works("logits brown.sllm --ids ids.json -o l.safetensors");
    let pieces = place.works("tokenize brown.sllm hello --json").out;
    let value: serde_json::Value = serde_json::from_str(&pieces).unwrap();
    assert_eq!(value["ids"], serde_json::from_str::<serde_json::Value>(&ids).unwrap());
    assert!(
        value["pieces"].as_array().unwrap().iter().filter_map(|p| p.as_str()).collect::<String>().contains("hello")
    );
}

/// Each kind of use has an image of its own in the cache, and the list tells them apart.
#[test]
fn images_in_the_cache() {
    let place = Place::new();
    place.copy(&vectors("brown-opt"), "model");
    place.works("run model -p hello -n 1");
    place.works("run model -p hello -n 1 --density 0.8");
    let shown = place.works("cache list").out;
    for layout in ["dense", "neuron"] {
        assert!(shown.contains(&format!("layout {layout}, from Hugging Face folder model,")), "{layout}: {shown}");
    }
    let listed: serde_json::Value = serde_json::from_str(&place.works("cache list --json").out).unwrap();
    let layouts: Vec<_> =
        listed["kept"].as_array().unwrap().iter().map(|row| row["layout"].as_str().unwrap()).collect();
    assert!(layouts.len() == 2 && layouts.contains(&"dense"), "{listed}");
}

/// A density without a policy: for a model that is not calibrated, a policy that needs no calibration is used, and the
/// output says so.
#[test]
fn a_density_is_enough() {
    let place = brown();
    let run = place.works("run brown.sllm -p hello -n 4 --greedy --density 0.5 --json");
    for words in ["not calibrated: policy prompt", "much quality", "pack --layout input", "shadowllm calibrate"] {
        assert!(run.err.contains(words), "{words}: {}", run.err);
    }
    let value: serde_json::Value = serde_json::from_str(&run.out).unwrap();
    assert_eq!(value["policy"], "prompt");
    place.write("text.txt", "one two three ".repeat(200));
    let table = place.works("eval brown.sllm --text text.txt --window 64 --max-windows 1 --density 0.5 --csv").out;
    let lines: Vec<&str> = table.lines().collect();
    assert!(lines.len() == 3 && lines[0].contains("realised_density"), "{table}");
    assert!(lines[1].contains("off") && lines[2].contains("prompt"), "{table}");
    // The dense model goes first, and once.
    let dials = "--policy random,off --density 0.5,0.3";
    let table = place.works(&format!("eval brown.sllm --text text.txt --window 64 --max-windows 1 {dials} --csv")).out;
    let names: Vec<&str> = table.lines().skip(1).map(|line| line.split(',').next().unwrap()).collect();
    assert_eq!(names, ["off", "random", "random"], "{table}");
    assert!(table.contains(",0.3,"), "densities as they were written: {table}");
}

#[test]
fn things_that_do_not_go_together() {
    wrong("run brown.sllm -p hello -f text.txt", &["cannot be used with"]);
    wrong("pack brown.sllm --synthetic tiny -o out.sllm", &["cannot be used with"]);
    wrong("pack --synthetic tiny --context 100 -o out.sllm", &["cannot be used with"]);
    for dial in ["--policy gate", "--density 0.1", "--share heads=1", "--refresh 2", "--output-window 3"] {
        wrong(&format!("logits brown.sllm --ids ids.json --mask m -o l.st {dial}"), &["cannot be used with"]);
    }
}

#[test]
fn threads() {
    let out_of_range = |n: &str, arguments: &str| {
        wrong(&format!("{arguments} -t {n}"), &[&format!("{n} threads are out of range"), "1 to 512", "cores"]);
    };
    for n in ["0", "1000"] {
        out_of_range(n, RUN);
        out_of_range(n, "eval brown.sllm --text text.txt");
        out_of_range(n, "logits brown.sllm --ids ids.json -o l.safetensors");
        out_of_range(n, "bench brown.sllm -p 1 -n 1");
        out_of_range(n, "demo --offline");
    }
    wrong("bench brown.sllm -p 1 -n 1 -t 1,0", &["0 threads are out of range"]);
    wrong(&format!("{RUN} -t many"), &["invalid value 'many'"]);
}

/// Threads are checked before a model is packed.
#[test]
fn threads_are_looked_at_first() {
    let place = Place::new();
    place.write("tiny.gguf", gguf().bytes());
    place.write("ids.json", "[1]");
    place.write("text.txt", "text");
    place.fails(2, "logits tiny.gguf --ids ids.json -o l.safetensors -t 0", &["0 threads"]);
    place.fails(2, "run tiny.gguf -p hi -t 0", &["0 threads"]);
    place.fails(2, "eval tiny.gguf --text text.txt -t 0", &["0 threads"]);
    place.fails(2, "bench tiny.gguf -t 0", &["0 threads"]);
}

#[test]
fn number_formats() {
    let names = ["'q9_9'", "f32", "q4_0", "apot4"];
    wrong("pack --synthetic tiny -o out.sllm --format q9_9", &[&["--format"], &names[..]].concat());
    wrong("pack --synthetic tiny -o out.sllm --output-format q9_9", &[&["--output-format"], &names[..]].concat());
    wrong(&format!("{RUN} --kv f64"), &["'f64'", "--kv", "f16 or f32"]);
}

#[test]
fn instruction_sets() {
    wrong(&format!("{RUN} --isa mmx"), &["'mmx'", "--isa", "scalar", "avx2", "neon"]);
    let other = if cfg!(target_arch = "x86_64") { "neon" } else { "avx2" };
    let words = [&format!("{other} does not run on this machine"), "these do: scalar"];
    wrong(&format!("{RUN} --isa {other}"), &words.map(|w| w as &str));
    wrong(&format!("bench brown.sllm -p 1 -n 1 --isa {other}"), &words.map(|w| w as &str));
}

#[test]
fn synthetic_shapes() {
    wrong("pack --synthetic gpt-5 -o out.sllm", &["there is no shape gpt-5", "tinyllama-1.1b", "tiny"]);
}

#[test]
fn windows() {
    let eval = "eval brown.sllm --text text.txt";
    wrong(&format!("{eval} --window 1"), &["--window must be at least 2"]);
    wrong(&format!("{eval} --window 0"), &["--window must be at least 2"]);
    wrong(&format!("{eval} --window 257"), &["257 positions", "brown.sllm has 256", "a smaller --window"]);
    wrong(eval, &["512 positions", "brown.sllm has 256", "a smaller --window"]);
    wrong(&format!("{eval} --window 64 --max-windows 0"), &["--max-windows must be at least 1"]);
    let eval = format!("{eval} --policy random --density 0.5");
    wrong(&format!("{eval} --window 64 --max-windows 0"), &["--max-windows must be at least 1"]);
    for prefix in [63, u64::MAX - 1, u64::MAX] {
        let words = ["none to score", "--dense-prefix", "a longer --window"];
        wrong(&format!("{eval} --window 64 --dense-prefix {prefix}"), &words);
    }
}

#[test]
fn contexts() {
    wrong(&format!("{RUN} --context 0"), &["the context must be at least 1"]);
    wrong(&format!("{RUN} --context 257"), &["257 positions", "brown.sllm has 256", "a smaller --context"]);
    wrong(&format!("{RUN} --context 18446744073709551615"), &["positions", "a smaller --context"]);
    wrong(&format!("{RUN} --context -1"), &["'-1'"]);
}

/// A model without learned positions runs beyond those it was trained for, and a note says so.
#[test]
fn contexts_beyond_the_trained_one() {
    let place = Place::new();
    place.copy(&vectors("brown-opt/tokenizer.json"), "model/tokenizer.json");
    let shape = Shape { d: 64, ffn: 96, heads: [2, 1, 32], vocab: 2048, layers: 1 };
    Folder::llama(shape, false, false, &serde_json::json!({})).write(&place.path("model"), Dtype::F32, 1);
    place.works("pack model -o model.sllm");
    let said =
        |context: &str| place.works(&format!("run model.sllm -p hello -n 2 {context}")).err.contains("beyond the 128");
    assert!(said("-c 129") && !said("-c 128") && !said(""));
}

/// Models without learned positions allow longer contexts.
#[test]
fn contexts_beyond_the_limit() {
    let place = Place::new();
    place.works("pack --synthetic tiny -o tiny.sllm");
    place.fails(2, "bench tiny.sllm -p 99999999999 -n 1", &["the context must be", "67108864"]);
    let most = u64::MAX;
    place.fails(2, &format!("bench tiny.sllm -p 1 -n 1 -d {most}"), &["the context must be", "67108864"]);
    place.fails(2, &format!("bench tiny.sllm -p {most} -n 1"), &["the context must be", "67108864"]);
}

#[test]
fn sampling() {
    wrong(&format!("{RUN} --temperature -1"), &["temperature must be 0 or more"]);
    wrong(&format!("{RUN} --temperature nan"), &["temperature must be 0 or more"]);
    wrong(&format!("{RUN} --temperature hot"), &["invalid value 'hot'", "--temperature"]);
    wrong(&format!("{RUN} --top-p 2"), &["top-p must be above 0 and at most 1"]);
    wrong(&format!("{RUN} --top-p 0"), &["top-p must be above 0 and at most 1"]);
    wrong(&format!("{RUN} --top-p -0.5"), &["top-p must be above 0 and at most 1"]);
    wrong(&format!("{RUN} --min-p 1"), &["min-p must be at least 0 and below 1"]);
    wrong(&format!("{RUN} --min-p -1"), &["min-p must be at least 0 and below 1"]);
    wrong(&format!("{RUN} --repetition-penalty 0"), &["repetition penalty must be above 0"]);
    wrong(&format!("{RUN} --repetition-penalty -2"), &["repetition penalty must be above 0"]);
    wrong(&format!("{RUN} -n -1"), &["'-1'", "a number of tokens", "--context"]);
    wrong(&format!("{RUN} --seed -1"), &["'-1'", "leave it out"]);
    wrong(&format!("{RUN} -n 99999999999999999999"), &["invalid value"]);
}

#[test]
fn answers() {
    wrong(&format!("{RUN} --stop="), &["stop string 1 is empty", "leave it out"]);
    wrong(&format!("{RUN} --stop=a --stop={}", "b".repeat(1025)), &["stop string 2 has 1025 bytes"]);
    wrong(&format!("{RUN} --logit-bias the=1"), &["the=1", "--logit-bias", "shadowllm tokenize"]);
    wrong(&format!("{RUN} --logit-bias 7"), &["'7'", "as 42=-1.5"]);
    wrong(&format!("{RUN} --logit-bias 7=nan"), &["token 7"]);
    wrong(&format!("{RUN} --logit-bias 99999999=1"), &["token 99999999 has a bias", "0 to"]);
    wrong(&format!("{RUN} --logprobs 2"), &["--json"]);
    wrong(&format!("{RUN} --logprobs 65 --json"), &["65", "64 at most"]);
    wrong(&format!("{RUN} --json-schema {{"), &["JSON schema cannot be followed", "is not JSON"]);
    wrong(&format!("{RUN} --regex ("), &["regular expression cannot be followed"]);
    wrong(&format!("{RUN} --regex a --json-schema {{}}"), &["--regex", "cannot be used with", "--json-schema"]);
    wrong("run brown.sllm --grammar -", &["standard input holds the grammar", "-p"]);
    wrong(&format!("{RUN} --template-var thinking"), &["--template-var thinking", "enable_thinking=false"]);
    wrong(&format!("{RUN} --template-var a=b"), &["variable a is not JSON", "quotes"]);
    wrong(&format!("{RUN} --template-var messages=[]"), &["the conversation itself"]);
    wrong(&format!("{RUN} --presence-penalty inf"), &["presence penalty must be a number"]);
    wrong(&format!("{RUN} --frequency-penalty nan"), &["frequency penalty must be a number"]);
}

#[test]
fn nothing_to_measure() {
    wrong("bench brown.sllm -p 0 -n 0", &["nothing to measure", "-p, -n and --batch"]);
    wrong("bench brown.sllm --batch 2 --csv", &["--batch", "--csv"]);
    wrong("bench brown.sllm --batch 0", &["--batch", "at least one token"]);
    wrong("bench brown.sllm --batch 2,100", &["--batch 100", "4 passes", "context of 256"]);
    wrong("bench brown.sllm -r 0", &["nothing to measure", "-r"]);
    wrong("bench brown.sllm", &["512 positions", "brown.sllm has 256", "a smaller -p"]);
}

#[cfg(target_os = "linux")]
#[test]
fn a_session_larger_than_the_memory() {
    let place = Place::new();
    place.works("pack --synthetic tiny -o tiny.sllm");
    let mut command = std::process::Command::new("sh");
    command.args(["-c", "ulimit -v 2000000 && exec \"$0\" bench tiny.sllm -p 1 -n 1 -d 60000000"]).arg(program());
    command.current_dir(place.path(""));
    place.refuses(1, command, &["the session needs ", " MB of memory", "a shorter context"]);
}

/// More repetitions than there is memory for results: the command begins, and can be stopped.
#[test]
fn endless_repetitions_begin() {
    let place = brown();
    let mut command = place.command("bench brown.sllm -p 1 -n 1 -t 1 -r 18446744073709551615");
    let mut child = command.stderr(std::process::Stdio::null()).spawn().unwrap();
    std::thread::sleep(std::time::Duration::from_millis(300));
    assert!(child.try_wait().unwrap().is_none(), "it ended at once");
    child.kill().unwrap();
    child.wait().unwrap();
}
