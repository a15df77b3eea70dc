//! Faults that users have reported of other programs: lost answers, leftover files, links, pipes, prompts of every
//! kind.

use super::{brown, edit, folder};
use serde_json::{Value, json};
use shadowllm_host::model::LoadedModel;
use shadowllm_host::text::Template;
use shadowllm_host::{Model, Options, SamplerOptions, Stop};
use shadowllm_tests::folder::{Folder, Shape};
use shadowllm_tests::program::{Place, Run, finish, program};
use shadowllm_tests::vectors;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

/// A model with this chat template, as a folder and packed.
fn talker(template: &str) -> Place {
    let place = Place::new();
    place.copy(&vectors("brown-opt"), "model");
    edit(&place, "model/tokenizer_config.json", |c| c["chat_template"] = template.into());
    place.works("pack model -o model.sllm");
    place
}

const SAY: &str = "{% for m in messages %}{{ m.content }} {% endfor %}";

/// Runs the program with a text on standard input.
fn piped(place: &Place, arguments: &str, input: &[u8]) -> Run {
    place.write("input", input);
    let mut command = place.command(arguments);
    command.stdin(Stdio::from(std::fs::File::open(place.path("input")).unwrap()));
    finish(command)
}

fn answers(run: &Run) -> usize {
    run.err.matches(" generated at ").count()
}

#[test]
fn a_chat_as_json_says_every_answer() {
    let run = piped(&talker(SAY), "run model.sllm --json --greedy -n 3", b"a\nb\n");
    let lines: Vec<Value> = run.out.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    assert_eq!((run.code, lines.len()), (Some(0), 2), "{}", run.out);
    assert!(lines.iter().all(|l| l["text"].is_string() && l["figures"]["generated_tokens"] == 3), "{lines:?}");
}

#[test]
fn a_history_that_is_full_starts_over() {
    let place = talker(SAY);
    let lines = "he had a house\n".repeat(6);
    let run = piped(&place, "run model.sllm --greedy -n 4 --context 32", lines.as_bytes());
    assert_eq!((run.code, answers(&run)), (Some(0), 6), "{}", run.err);
    assert!(run.err.contains("starts over"), "{}", run.err);
    // One message that never fits is refused, and the others are answered.
    let long = format!("a\n{}\nb\n", "he had ".repeat(40));
    let run = piped(&place, "run model.sllm --greedy -n 4 --context 32", long.as_bytes());
    assert_eq!((run.code, answers(&run)), (Some(1), 2), "{}", run.err);
    assert!(run.err.contains("this message is too long") && run.err.contains("do not fit"), "{}", run.err);
}

#[test]
fn a_text_with_empty_lines_is_one_prompt() {
    let place = talker(SAY);
    for (arguments, input, expected) in [
        ("run model.sllm -n 1", "a\n\nb\n", 1),
        ("run model.sllm -n 1", "a\nb\n", 2),
        ("run model.sllm -n 1", "\n\na\n\n", 1),
        ("run model.sllm -n 1 -f -", "a\nb\nc\n", 1),
    ] {
        let run = piped(&place, arguments, input.as_bytes());
        assert_eq!((run.code, answers(&run)), (Some(0), expected), "{input:?}: {}", run.err);
    }
    let run = piped(&place, "run model.sllm -n 1 -f -", b"a\xff");
    assert!(run.code == Some(1) && run.err.contains("standard input") && run.err.contains("UTF-8"), "{}", run.err);
}

/// `-p` and `--system` take any next argument.
#[test]
fn texts_may_begin_with_a_dash() {
    let place = talker(SAY);
    for words in [vec!["-p", "- a list"], vec!["-p", "-5 + 3"], vec!["-p", "a", "--system", "- be kind"]] {
        let mut command = place.command("run model.sllm -n 1");
        command.args(&words);
        let run = finish(command);
        assert_eq!(run.code, Some(0), "{words:?}: {}", run.err);
    }
    // A wrong number is not taken for an option.
    for (option, value) in [("-n", "-1"), ("--top-k", "-1"), ("--seed", "-1"), ("--context", "-5"), ("-t", "-2")] {
        let run = place.run(&format!("run model.sllm -p a {option} {value}"));
        assert_eq!(run.code, Some(2));
        assert!(run.err.contains(&format!("invalid value '{value}'")) && !run.err.contains("-- -"), "{}", run.err);
    }
}

#[test]
fn options_that_would_do_nothing() {
    let place = brown();
    let run = "run brown.sllm -p hello -n 1";
    for (option, name) in
        [("--refresh 2", "--refresh"), ("--share heads=1", "--share"), ("--allocation local", "--allocation")]
    {
        place.fails(2, &format!("{run} {option}"), &[name, "nothing is skipped", "--policy"]);
    }
    place.fails(2, &format!("{run} --policy off --density 0.5"), &["--density", "nothing is skipped"]);
    for option in ["--density 0.5", "--refresh 2", "--share heads=1", "--allocation local"] {
        let words = [option.split(' ').next().unwrap(), "policy output reads everything", "another --policy"];
        place.fails(2, &format!("{run} --policy output {option}"), &words);
    }
    place.fails(2, &format!("{run} --policy output --density 1.5"), &["--density 1.5", "at most 1"]);
    place.fails(2, &format!("{run} --system be"), &["no chat template", "--system"]);
    place.fails(2, &format!("{run} --raw --system be"), &["cannot be used with"]);
    place.write("tools.json", "[]");
    place.fails(2, &format!("{run} --tools tools.json"), &["no chat template", "--tools has no place"]);
    place.fails(2, &format!("{run} --template-var a=1"), &["no chat template", "--template-var has no place"]);
    place.fails(2, &format!("{run} --greedy --temperature 1"), &["cannot be used with"]);
    place.fails(2, "run brown.sllm --raw", &["--raw continues a text", "-p or -f"]);
}

#[test]
fn density_one_reads_everything_and_a_small_one_little() {
    let place = brown();
    place.works("run brown.sllm -p hello -n 1 --density 1");
    place.copy(&vectors("../../host/models/story.sllm"), "story.sllm");
    let read = |density: &str| {
        let run = place.works(&format!("run story.sllm -p hi -n 20 --greedy --json --density {density}"));
        serde_json::from_str::<Value>(&run.out).unwrap()["figures"]["bytes_per_token"].as_u64().unwrap()
    };
    let all = ["1", "0.2", "0.03", "0.02", "0.001"].map(read);
    assert!(all.is_sorted_by(|a, b| a >= b), "{all:?}");
}

#[test]
fn a_template_of_its_own_file_goes_first() {
    let place = talker("OLD");
    place.write("model/chat_template.jinja", "NEW");
    place.works("pack model -o model.sllm");
    let model = LoadedModel::open(&place.path("model.sllm"), None).unwrap();
    assert_eq!(Template::of(&model).unwrap().source, "NEW");
    place.write("model/chat_template.jinja", b"\xff");
    place.fails(1, "pack model -o model.sllm", &["chat_template.jinja: is not UTF-8"]);
}

/// A model can have more end tokens than its description.
#[test]
fn the_ninth_end_token_ends() {
    let place = talker(SAY);
    let answer = || {
        let model = Model::open(place.path("model.sllm")).unwrap();
        let sampling = SamplerOptions { temperature: 0.0, ..SamplerOptions::default() };
        let mut session = model.session(Options { max_tokens: 12, sampling, ..Options::default() }).unwrap();
        session.generate("The jury said").unwrap().complete().unwrap()
    };
    let before = answer();
    let end = before.ids[4];
    let at = before.ids.iter().position(|id| *id == end).unwrap();
    let others = (0..1000u32).filter(|id| !before.ids.contains(id)).take(8);
    edit(&place, "model/config.json", |c| c["eos_token_id"] = others.chain([end]).collect::<Vec<_>>().into());
    place.works("pack model -o model.sllm");
    let after = answer();
    assert_eq!((after.ids.as_slice(), after.stop), (&before.ids[..at], Stop::EndOfText));
    assert_eq!(after.figures.generated_tokens, at);
}

#[test]
fn an_interrupted_pack_leaves_nothing() {
    let place = Place::new();
    place.write("out/keep", "");
    let files = || std::fs::read_dir(place.path("out")).unwrap().map(|e| e.unwrap().path()).collect::<Vec<_>>();
    let begin = || {
        let pack = place.command("pack --synthetic smollm2-135m --format f32 -o out/x.sllm");
        // Background programs of a shell ignore SIGINT, those of nohup SIGHUP, and the tests' programs would inherit it.
        let mut command = Command::new("env");
        if cfg!(target_os = "linux") {
            command.arg("--default-signal");
        }
        command.arg(pack.get_program()).args(pack.get_args());
        command.envs(pack.get_envs().filter_map(|(name, value)| Some((name, value?))));
        command.current_dir(pack.get_current_dir().expect("a place"));
        let child = command.stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap();
        let start = Instant::now();
        while !files().iter().any(|f| f.metadata().is_ok_and(|m| m.len() > 1_000_000)) {
            assert!(start.elapsed() < Duration::from_secs(60), "nothing was written");
            std::thread::sleep(Duration::from_millis(5));
        }
        child
    };
    for signal in ["INT", "TERM", "HUP"] {
        let mut child = begin();
        assert!(Command::new("kill").arg(format!("-{signal}")).arg(child.id().to_string()).status().unwrap().success());
        assert!(!child.wait().unwrap().success());
        assert_eq!(files(), [place.path("out/keep")], "after SIG{signal}");
    }
    // A killed run cannot clean up, so the next one does; files that another run is still writing stay.
    let mut killed = begin();
    killed.kill().unwrap();
    killed.wait().unwrap();
    assert_eq!(files().len(), 2);
    place.works("pack --synthetic tiny -o out/tiny.sllm");
    assert_eq!(files().len(), 2, "keep and tiny.sllm: {:?}", files());
    std::fs::remove_file(place.path("out/tiny.sllm")).unwrap();
    let mut other = begin();
    place.works("pack --synthetic tiny -o out/tiny.sllm");
    assert_eq!(files().len(), 3, "keep, tiny.sllm and what the other writes: {:?}", files());
    other.kill().unwrap();
    other.wait().unwrap();
}

/// A model with one number changed.
fn with_number(x: f32) -> Place {
    let shape = Shape { d: 64, ffn: 96, heads: [2, 1, 32], vocab: 96, layers: 2 };
    let mut model = Folder::llama(shape, false, true, &json!({}));
    model.tensors.get_mut("model.layers.1.mlp.down_proj.weight").unwrap().1[40] = x;
    let place = Place::new();
    place.write("model/config.json", "");
    model.write(&place.path("model"), safetensors::tensor::Dtype::F32, 1);
    place
}

#[test]
fn weights_that_are_no_numbers() {
    for (x, word) in [(f32::NAN, "NaN"), (f32::INFINITY, "inf"), (f32::NEG_INFINITY, "-inf")] {
        let place = with_number(x);
        for format in ["f32", "f16", "q8_0", "q4_0"] {
            for layout in ["dense", "input"] {
                let pack = format!("pack model -o out.sllm --format {format} --layout {layout}");
                place.fails(1, &pack, &["model.layers.1.mlp.down_proj.weight", word, "not a finite number"]);
            }
        }
    }
    let place = with_number(7e4);
    for format in ["f16", "q8_0", "q4_0"] {
        let words = ["model.layers.1.mlp.down_proj.weight", "70000", format, "--format f32"];
        place.fails(1, &format!("pack model -o out.sllm --format {format}"), &words);
    }
    place.works("pack model -o out.sllm --format f32");
}

#[test]
fn rotations_that_are_impossible() {
    let scaling = |value: Value, word: &str| {
        let place = folder("llama-mha");
        edit(&place, "model/config.json", |c| {
            c["rope_parameters"] = value;
            c["rope_parameters"]["rope_theta"] = 10000.0.into();
        });
        place.fails(1, "pack model -o out.sllm", &["config.json", word]);
    };
    scaling(json!({"rope_type": "linear", "factor": 0.0}), "RoPE scaling of type linear");
    scaling(json!({"rope_type": "linear", "factor": -4.0}), "RoPE scaling of type linear");
    let llama3 = |factor: f64, low: f64| {
        json!({"rope_type": "llama3", "factor": factor, "low_freq_factor": low, "high_freq_factor": 4.0,
               "original_max_position_embeddings": 64})
    };
    scaling(json!({"rope_type": "linear", "factor": 1e-30}), "RoPE scaling of type linear");
    let yarn = json!({"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 0});
    scaling(yarn, "original_max_position_embeddings 0, which is not positive");
    scaling(llama3(8.0, 4.0), "low_freq_factor 4 below its high one, 4");
    scaling(llama3(0.0, 1.0), "RoPE scaling of type llama3");
    scaling(llama3(-8.0, 1.0), "RoPE scaling of type llama3");
}

#[test]
fn links_in_a_model_folder() {
    let place = talker(SAY);
    symlink("../../blobs/gone", place.path("model/pytorch_model.bin")).unwrap();
    place.works("pack model -o out.sllm");
    place.works("run model -p a -n 1");
    // An index that is left over from when the model had several parts.
    place.write("model/model.safetensors.index.json", r#"{"weight_map": {"x": "model-00001-of-00002.safetensors"}}"#);
    place.works("pack model -o out.sllm");
    place.works("run model -p a -n 1");
}

#[test]
fn a_folder_without_a_tokenizer() {
    let place = folder("opt");
    let words = [
        "model has neither tokenizer.json nor tokenizer.model",
        "(vocab.json and merges.txt are not read",
        "cannot read or write text",
        "save_pretrained",
    ];
    let said = |run: &Run| words.iter().all(|word| run.err.contains(word));
    assert!(said(&place.works("pack model -o out.sllm")));
    place.write("ids.json", "[1]");
    assert!(said(&place.works("logits model --ids ids.json -o l.safetensors")));
    place.fails(1, "run out.sllm -p a", &["no tokenizer"]);
    // A link to nothing says that there should be one.
    symlink("gone", place.path("model/tokenizer.json")).unwrap();
    place.fails(1, "pack model -o out.sllm", &["model/tokenizer.json", "nor a link to one that is there"]);
}

#[test]
fn other_files_in_place_of_a_model() {
    let place = talker(SAY);
    let files: [(&str, &[u8]); 4] = [
        ("pointer of Git LFS", b"version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 12345\n"),
        ("web page", b"\n<!DOCTYPE html><html></html>"),
        ("zip archive", b"PK\x03\x04............................"),
        ("compressed", b"\x1f\x8b\x08............................."),
    ];
    for (what, bytes) in files {
        place.write("x.gguf", bytes);
        place.write("x.sllm", bytes);
        for arguments in ["run x.gguf -p a", "pack x.gguf -o out.sllm", "run x.sllm -p a", "inspect x.sllm"] {
            let run = place.run(arguments);
            assert_eq!(run.code, Some(1), "{arguments}");
            assert!(run.err.contains(what) && !run.err.contains("pack the model first"), "{arguments}: {}", run.err);
        }
        let whole = place.read("model/model.safetensors");
        place.write("model/model.safetensors", bytes);
        place.fails(1, "pack model -o out.sllm", &["model.safetensors", what]);
        place.write("model/model.safetensors", whole);
    }
    place.write("model/tokenizer.json", files[0].1);
    place.fails(1, "pack model -o out.sllm", &["tokenizer.json", "Git LFS"]);
}

#[test]
fn a_pipe_or_device_in_place_of_a_model() {
    let place = Place::new();
    assert!(Command::new("mkfifo").arg(place.path("pipe")).status().unwrap().success());
    for file in ["pipe", "/dev/null", "/dev/tty"] {
        for arguments in ["inspect", "run -p a", "pack -o out.sllm", "bench"] {
            let mut command = Command::new("timeout");
            command.arg("20").arg(program()).args(arguments.split(' ')).arg(file).current_dir(place.path(""));
            command.env("XDG_CACHE_HOME", place.path("cache")).stdin(Stdio::null());
            let run = finish(command);
            assert_eq!(run.code, Some(1), "{arguments} {file}: {}", run.err);
            assert!(run.err.contains("pipe, a device or similar"), "{arguments} {file}: {}", run.err);
        }
    }
}

#[test]
fn outputs_follow_links_and_keep_modes() {
    let place = folder("opt");
    let mode = |name: &str| std::fs::metadata(place.path(name)).unwrap().permissions().mode() & 0o777;
    place.write("big/x.sllm", "");
    std::fs::set_permissions(place.path("big/x.sllm"), std::fs::Permissions::from_mode(0o600)).unwrap();
    symlink("big/x.sllm", place.path("link.sllm")).unwrap();
    place.works("pack model -o link.sllm");
    assert!(std::fs::symlink_metadata(place.path("link.sllm")).unwrap().is_symlink());
    assert_eq!((place.read("big/x.sllm").len(), mode("big/x.sllm")), (place.read("link.sllm").len(), 0o600));
    assert!(place.read("big/x.sllm").len() > 1000);
    // A link to a file that does not exist yet, and a chain of links.
    symlink("big/new.sllm", place.path("one")).unwrap();
    symlink("one", place.path("two")).unwrap();
    place.works("pack model -o two");
    assert!(
        place.read("big/new.sllm").len() > 1000 && std::fs::symlink_metadata(place.path("two")).unwrap().is_symlink()
    );
    symlink("circle", place.path("circle")).unwrap();
    place.fails(1, "pack model -o circle", &["circle", "name a file"]);
    // An open file is not replaced, whoever the user is.
    let mut command = place.command("pack model -o /dev/stdout");
    command.stdout(std::fs::File::create(place.path("redirected")).unwrap());
    let run = finish(command);
    assert!(run.code == Some(1) && run.err.contains("/dev/stdout: is a device or similar"), "{}", run.err);
    assert!(std::fs::symlink_metadata("/dev/stdout").unwrap().is_symlink());
}

/// A chat whose answers take seconds and hardly ever end early.
const SLOW: &str = "run story.sllm --isa scalar -t 1 -n 500 --seed 1 --temperature 9 --top-k 0 --top-p 1 --min-p 0 --logit-bias 1=-100";

/// A terminal: Ctrl-C ends the answer and keeps it, an empty line does nothing, two Ctrl-C leave.
#[test]
fn ctrl_c_in_a_chat() {
    let place = Place::new();
    place.copy(&vectors("../../host/models/story.sllm"), "story.sllm");
    let script = r#"
import os, pty, select, sys, time
pid, fd = pty.fork()
if pid == 0: os.execv(sys.argv[1], sys.argv[1:])
seen = b""
def until(text, seconds=40):
    global seen
    end = time.time() + seconds
    while text not in seen:
        if time.time() > end: print("NOT SEEN", text, seen[-600:]); os.kill(pid, 9); sys.exit(1)
        if select.select([fd], [], [], .2)[0]:
            try: seen += os.read(fd, 65536)
            except OSError: seen += b"<closed>"; break
def wait(text): until(text); globals().update(seen=seen[seen.index(text) + len(text):])
wait(b"> ")
os.write(fd, b"\r"); wait(b"> ")
os.write(fd, b"a\r"); time.sleep(.5)
os.write(fd, b"\x03"); wait(b"[stopped"); wait(b"generated"); wait(b"> ")
os.write(fd, b"b\r"); time.sleep(.5)
os.write(fd, b"\x03"); wait(b"[stopped"); wait(b"> ")
os.write(fd, b"half a line\x03"); wait(b"once more"); wait(b"> ")
os.write(fd, b"\x03"); until(b"<closed>")
sys.exit(os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]))
"#;
    let mut command = Command::new("python3");
    command.args(["-c", script]).arg(program()).args(SLOW.split(' '));
    command.current_dir(place.path("")).env("TERM", "xterm");
    let Ok(output) = command.output() else { return shadowllm_tests::skipped("Ctrl-C: no Python") };
    let (out, err) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    assert!(output.status.success(), "{out}{err}");
}
