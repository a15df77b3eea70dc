//! Outputs: missing folders, full disks, closed pipes.

use super::{brown, folder, image};
use shadowllm_tests::program::{Place, finish, program};
use shadowllm_tests::skipped;
use std::process::Command;

/// The reference model, ids, and an earlier output of each command.
fn place() -> Place {
    let place = image("opt");
    place.write("ids.json", "[1, 2, 3]");
    place.write("out.sllm", "an earlier image");
    place.write("l.safetensors", "earlier logits");
    std::fs::create_dir(place.path("folder")).unwrap();
    place
}

fn pack_and_logits(place: &Place, code: i32, output: &str, words: &[&str]) {
    place.fails(code, &format!("pack model -o {output}"), words);
    place.fails(code, &format!("logits model.sllm --ids ids.json -o {output}"), words);
}

#[test]
fn a_folder_that_is_missing() {
    pack_and_logits(&place(), 1, "nowhere/out", &["cannot write to nowhere: ", "make the folder first"]);
}

#[test]
fn a_folder_as_output() {
    pack_and_logits(&place(), 1, "folder", &["folder: is a folder", "name a file"]);
    pack_and_logits(&place(), 1, ".", &[".: is a folder", "name a file"]);
}

#[test]
fn a_file_in_place_of_a_folder() {
    pack_and_logits(&place(), 1, "ids.json/out", &["cannot write to ids.json: ", "ot a directory"]);
}

/// As root, the device could be replaced by a file.
#[test]
fn a_device_as_output() {
    use std::os::unix::fs::FileTypeExt;
    let place = place();
    let _listener = std::os::unix::net::UnixListener::bind(place.path("socket")).unwrap();
    pack_and_logits(&place, 1, "socket", &["socket: is a device or similar", "name a file"]);
    pack_and_logits(&place, 1, "/dev/null", &["/dev/null: is a device or similar"]);
    assert!(std::fs::metadata("/dev/null").unwrap().file_type().is_char_device());
}

#[test]
fn an_output_that_is_an_input() {
    let place = place();
    let pack = "would replace";
    place.fails(2, "pack model -o model/model.safetensors", &[pack, "model/model.safetensors", "name another"]);
    place.fails(2, "pack model -o model/../model/config.json", &[pack, "config.json"]);
    place.fails(2, "logits model.sllm --ids ids.json -o ids.json", &[pack, "ids.json", "name another"]);
    place.fails(2, "logits model.sllm --ids ids.json -o ./model.sllm", &[pack, "model.sllm"]);
    // An image beside the tensors may be replaced.
    place.works("pack model -o model/own.sllm");
    place.works("pack model -o model/own.sllm");
}

#[test]
fn a_folder_that_may_not_be_written() {
    use std::os::unix::fs::PermissionsExt;
    let place = place();
    let mode = |mode| std::fs::set_permissions(place.path("folder"), std::fs::Permissions::from_mode(mode)).unwrap();
    mode(0o555);
    if std::fs::write(place.path("folder/probe"), "").is_ok() {
        return skipped("a folder that may not be written: this user (root) may write to any");
    }
    pack_and_logits(&place, 1, "folder/out", &["cannot write to folder: ", "ermission denied", "you may write to"]);
    mode(0o755);
}

/// The program in a shell, after `setup`.
fn shell(place: &Place, setup: &str, arguments: &str) -> Command {
    let mut command = Command::new("sh");
    command.arg("-c").arg(format!("{setup} && exec \"$0\" {arguments}")).arg(program());
    command.current_dir(place.path("")).env("XDG_CACHE_HOME", place.path("cache"));
    command
}

#[test]
fn a_limit_on_file_sizes() {
    let place = place();
    let words = ["cannot write to out.sllm: ", "ulimit -f"];
    place.refuses(1, shell(&place, "ulimit -f 100", "pack model -o out.sllm"), &words);
    place.refuses(1, shell(&place, "ulimit -f 100", "pack model -o new.sllm"), &["new.sllm", "ulimit -f"]);
    let words = ["cannot write to l.safetensors: ", "ulimit -f"];
    let logits = "logits model.sllm --ids ids.json -o l.safetensors";
    place.refuses(1, shell(&place, "ulimit -f 3", logits), &words);
    // A folder in place of an image: nothing unfinished stays in the cache.
    let words = ["cache/shadowllm/model-", "ulimit -f"];
    place.refuses(1, shell(&place, "ulimit -f 100", "logits model --ids ids.json -o l.safetensors"), &words);
}

/// Mounts a disk of 256 KB with an earlier output, in a separate mount namespace; its files after the command are
/// listed on standard output.
fn on_a_small_disk(place: &Place, namespace: &[&str], arguments: &str) -> Command {
    let script = "mount -t tmpfs -o size=256k tmpfs folder && echo earlier > folder/out || exit 99
        \"$0\" \"$@\"; code=$?; ls -A folder; cat folder/out; exit $code";
    let mut command = Command::new("unshare");
    command.args(namespace).args(["sh", "-c", script]).arg(program());
    command.args(arguments.split_whitespace()).current_dir(place.path("")).env("XDG_CACHE_HOME", place.path("cache"));
    command
}

#[test]
fn a_disk_that_is_full() {
    let place = place();
    // As root of a user namespace, or as root.
    let ways: [&[&str]; 2] = [&["--mount", "--map-root-user"], &["--mount"]];
    let works = |way: &&&[&str]| on_a_small_disk(&place, way, "--version").status().is_ok_and(|s| s.success());
    let Some(way) = ways.iter().find(works) else {
        return skipped("a full disk: no file system may be mounted here");
    };
    let ids: Vec<u32> = (0..250).collect();
    place.write("ids.json", format!("{ids:?}"));
    for arguments in ["pack model -o folder/out", "logits model.sllm --ids ids.json -o folder/out"] {
        let run = finish(on_a_small_disk(&place, way, arguments));
        assert_eq!((run.code, run.out.as_str()), (Some(1), "out\nearlier\n"), "{arguments}: {}", run.err);
        assert!(run.err.contains("cannot write to folder/out: "), "{}", run.err);
        assert!(run.err.contains("free some space, or name another folder"), "{}", run.err);
    }
}

/// Whenever a run is killed, its output is the old file or the new one, and the next run works.
#[test]
fn an_output_is_the_old_or_the_new_one_whenever_a_run_is_killed() {
    let place = Place::new();
    let mut versions = Vec::new();
    for format in ["f32", "q8_0"] {
        place.works(&format!("pack --synthetic tiny --format {format} -o x.sllm"));
        versions.push(place.read("x.sllm"));
    }
    assert_ne!(versions[0], versions[1]);
    for milliseconds in [0, 1, 2, 3, 5, 8, 13, 21, 34, 55, 89, 144] {
        let mut command = place.command("pack --synthetic tiny --format f32 -o x.sllm");
        let mut child =
            command.stdout(std::process::Stdio::null()).stderr(std::process::Stdio::null()).spawn().unwrap();
        std::thread::sleep(std::time::Duration::from_millis(milliseconds));
        // It may be done already.
        let _ = child.kill();
        child.wait().unwrap();
        let now = place.read("x.sllm");
        assert!(versions.contains(&now), "after {milliseconds} ms: {} bytes", now.len());
        place.works("pack --synthetic tiny --format q8_0 -o x.sllm");
        assert_eq!(place.read("x.sllm"), versions[1]);
        assert_eq!(place.files().len(), 1, "{:?}", place.files().keys());
    }
}

/// A pipe without a reader.
fn closed() -> std::io::PipeWriter {
    std::io::pipe().unwrap().1
}

#[test]
fn a_reader_that_is_gone() {
    let place = brown();
    place.copy(&place.path("brown.sllm"), "model.sllm");
    place.write("ids.json", "[1]");
    place.write("text.txt", "some words to score");
    let commands = [
        "run brown.sllm -p hello -n 64",
        "run brown.sllm -p hello -n 4 --json",
        "inspect brown.sllm",
        "inspect brown.sllm --json",
        "eval brown.sllm --text text.txt",
        "bench brown.sllm -p 1 -n 1 -r 1",
        "bench brown.sllm -p 1 -n 1 -r 1 --batch 2 --json",
        "logits brown.sllm --ids ids.json -o l.safetensors",
        "pack --synthetic tiny -o out.sllm",
        "demo --offline -n 4",
        "--help",
    ];
    for arguments in commands {
        let mut command = place.command(arguments);
        command.stdout(closed());
        let run = finish(command);
        assert_eq!(run.code, Some(0), "{arguments}: {}", run.err);
        assert!(!run.err.contains("shadowllm: "), "{arguments}: {}", run.err);
    }
}

/// `shadowllm run ... | head -c 1`: the pipe closes in the middle of the text.
#[test]
fn a_reader_that_leaves() {
    use std::io::Read;
    let place = brown();
    let (mut reader, writer) = std::io::pipe().unwrap();
    let mut command = place.command("run brown.sllm -p hello -n 200 --seed 1");
    command.stdout(writer).stderr(std::process::Stdio::piped());
    let child = command.spawn().unwrap();
    drop(command);
    reader.read_exact(&mut [0]).unwrap();
    drop(reader);
    let output = child.wait_with_output().unwrap();
    let err = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.code() == Some(0) && !err.contains("panicked") && !err.contains("shadowllm"), "{err}");
}

#[test]
fn standard_error_that_is_closed() {
    let place = folder("opt");
    place.write("ids.json", "[1]");
    let with = |arguments: &str| {
        let mut command = place.command(arguments);
        command.stderr(closed());
        finish(command).code
    };
    assert_eq!(with("logits model --ids ids.json -o l.safetensors"), Some(0));
    assert_eq!(with("run nothing -p hello"), Some(1));
    assert_eq!(with("run nothing -p hello --temperature -1"), Some(2));
    assert_eq!(with("pack"), Some(2));
}

#[cfg(target_os = "linux")]
#[test]
fn standard_output_to_a_full_disk() {
    let place = brown();
    for arguments in ["run brown.sllm -p hello -n 4", "inspect brown.sllm --json", "bench brown.sllm -p 1 -n 0 -r 1"] {
        let mut command = place.command(arguments);
        command.stdout(std::fs::OpenOptions::new().write(true).open("/dev/full").unwrap());
        place.refuses(1, command, &["cannot write to standard output: ", "free some space"]);
    }
}
