//! Calibrations that are killed and started again.

use super::{QUICK, packed};
use safetensors::SafeTensors;
use shadowllm_tests::folder::Random;
use shadowllm_tests::program::{Place, Run, finish};
use std::process::{Child, Stdio};
use std::time::{Duration, Instant};

/// Long enough to be killed, with the state saved after every window; the interruption is before the budgets.
const LONG: &str = "calibrate model.sllm --text text.txt --tokens 9600 --window 24 --budget-windows 0 --keep-every 0 \
    -t 2 -o out.sllm";
const STATE: &str = "out.sllm.calibration";
/// Windows before it is killed.
const SEEN: u32 = 150;

/// Number of windows in the saved state, 0 without a state.
fn seen(place: &Place) -> u32 {
    let Ok(bytes) = std::fs::read(place.path(STATE)) else { return 0 };
    let state = SafeTensors::deserialize(&bytes).unwrap();
    u32::from_le_bytes(state.tensor("done").unwrap().data().try_into().unwrap())
}

fn begin(place: &Place, more: &str) -> Child {
    place.command(&format!("{LONG} {more}")).stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap()
}

/// Waits until the number of windows in the state is as wanted.
fn wait(place: &Place, child: &mut Child, wanted: impl Fn(u32) -> bool) -> u32 {
    let start = Instant::now();
    loop {
        let now = seen(place);
        if wanted(now) {
            return now;
        }
        assert!(child.try_wait().unwrap().is_none(), "it ended with a state of {now} windows");
        assert!(start.elapsed() < Duration::from_secs(120), "a state of {now} windows after two minutes");
        std::thread::sleep(Duration::from_millis(1));
    }
}

/// A calibration that was killed in the middle (by SIGKILL, which it cannot handle).
fn killed() -> (Place, u32) {
    let place = packed("neuron");
    let mut child = begin(&place, "");
    wait(&place, &mut child, |n| n >= SEEN);
    child.kill().unwrap();
    child.wait().unwrap();
    let at = seen(&place);
    assert!(!place.path("out.sllm").exists(), "an image before it is calibrated");
    (place, at)
}

/// Checks that the image is complete and can be used, and that no state is left.
fn holds(place: &Place) {
    assert!(!place.path(STATE).exists(), "the state was left");
    let Run { out, .. } = place.works("run out.sllm -p hello -n 4 --greedy --policy shadow --density 0.5 --json");
    let value: serde_json::Value = serde_json::from_str(&out).unwrap();
    assert_eq!(value["policy"], "shadow");
}

#[test]
fn a_killed_calibration_continues() {
    let (place, before) = killed();
    let mut child = begin(&place, "");
    let first = wait(&place, &mut child, |n| n != before);
    assert!(first > before, "it started over: the state had {before} windows and now has {first}");
    assert!(child.wait().unwrap().success());
    holds(&place);
}

#[test]
fn with_other_options_it_starts_over() {
    for other in ["--seed 2", "--rank 64", "--policies shadow"] {
        let (place, before) = killed();
        let mut child = begin(&place, other);
        let first = wait(&place, &mut child, |n| n != before);
        assert!(first < before, "{other}: it went on from {before} to {first}");
        child.kill().unwrap();
        child.wait().unwrap();
    }
}

/// Another image has the same shape and the same norms, but other numbers in its matrices, or another layout.
#[test]
fn with_another_image_it_starts_over() {
    for other in ["--format q4_0 --layout neuron", "--format q8_0 --layout mixed"] {
        let (place, before) = killed();
        place.works(&format!("pack model -o model.sllm {other}"));
        let mut child = begin(&place, "");
        let first = wait(&place, &mut child, |n| n != before);
        assert!(first < before, "{other}: it went on from {before} to {first}");
        child.kill().unwrap();
        child.wait().unwrap();
    }
}

/// The number of threads does not change a calibration.
#[test]
fn with_other_threads_it_continues() {
    let (place, before) = killed();
    let mut child =
        place.command(&LONG.replace("-t 2", "-t 1")).stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap();
    let first = wait(&place, &mut child, |n| n != before);
    assert!(first > before, "it started over: the state had {before} windows and now has {first}");
    child.kill().unwrap();
    child.wait().unwrap();
}

#[test]
fn a_state_that_is_none() {
    let place = packed("neuron");
    place.write(STATE, "something else");
    let words = [STATE, "not the state of an interrupted calibration", "remove it"];
    place.fails(1, LONG, &words);
    // The state of another calibration is ignored.
    let state = safetensors::serialize([("done", view(&[7, 0, 0, 0]))], None).unwrap();
    place.write(STATE, state);
    assert_eq!(finish(place.command(&LONG.replace("9600", "480"))).code, Some(0));
    holds(&place);
}

fn view(bytes: &[u8]) -> safetensors::tensor::TensorView<'_> {
    safetensors::tensor::TensorView::new(safetensors::Dtype::U32, vec![bytes.len() / 4], bytes).unwrap()
}

/// Number of measurements that the search for budgets has saved.
fn measured(place: &Place) -> usize {
    let Ok(bytes) = std::fs::read(place.path("out.sllm.costs")) else { return 0 };
    SafeTensors::deserialize(&bytes).unwrap().tensor("costs").unwrap().shape()[0] / 2
}

/// The last stages take longest on large models: their measurements are not repeated.
#[test]
fn a_calibration_killed_in_its_last_stages_continues_there() {
    let place = packed("neuron");
    let short = "calibrate model.sllm --text text.txt --tokens 960 --window 24 --budget-windows 2 --keep-every 0 -t 2 \
        -o out.sllm";
    let start = |place: &Place| place.command(short).stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap();
    let until = |child: &mut Child, wanted: &dyn Fn(usize) -> bool| loop {
        let now = measured(&place);
        if wanted(now) {
            return now;
        }
        assert!(child.try_wait().unwrap().is_none(), "it ended with {now} measurements");
        std::thread::sleep(Duration::from_millis(1));
    };
    let mut child = start(&place);
    until(&mut child, &|n| n >= 20);
    child.kill().unwrap();
    child.wait().unwrap();
    let before = measured(&place);
    let mut child = start(&place);
    let next = until(&mut child, &|n| n != before);
    assert!(next > before, "it started over: there were {before} measurements, and now there are {next}");
    assert!(child.wait().unwrap().success());
    assert!(!place.path("out.sllm.costs").exists(), "the measurements were left behind");
    holds(&place);
}

/// What was measured stays until the output is written, which may fail.
#[test]
fn a_calibration_that_cannot_write_keeps_its_measurements() {
    let place = packed("neuron");
    let short = "calibrate model.sllm --text text.txt --tokens 960 --window 24 --budget-windows 2 --keep-every 0 -t 2 \
        -o out.sllm";
    let mut child = place.command(short).stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap();
    while measured(&place) < 20 {
        assert!(child.try_wait().unwrap().is_none(), "it ended early");
        std::thread::sleep(Duration::from_millis(1));
    }
    // No file can take the place of a folder.
    std::fs::create_dir(place.path("out.sllm")).unwrap();
    assert!(!child.wait().unwrap().success());
    let kept = measured(&place);
    assert!(kept >= 20, "{kept} measurements");
    std::fs::remove_dir(place.path("out.sllm")).unwrap();
    place.works(short);
    assert!(!place.path("out.sllm.costs").exists(), "the measurements were left behind");
    holds(&place);
}

/// The first search of one is the last of the other: what one has measured says nothing to the other.
#[test]
fn a_killed_search_for_budgets_is_not_one_for_costs() {
    let place = packed("neuron");
    place.works(&format!("{QUICK} --policies static -o calibrated.sllm"));
    let again =
        "calibrate calibrated.sllm --text text.txt --tokens 480 --window 24 --budget-windows 2 --keep-every 0 -t 2";
    place.works(&format!("{again} --keep=budgets -o whole.sllm"));
    let mut command = place.command(&format!("{again} --keep -o out.sllm"));
    let mut child = command.stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap();
    while measured(&place) < 8 {
        assert!(child.try_wait().unwrap().is_none(), "it ended early");
        std::thread::sleep(Duration::from_millis(1));
    }
    child.kill().unwrap();
    child.wait().unwrap();
    assert!(measured(&place) >= 8);
    place.works(&format!("{again} --keep=budgets -o out.sllm"));
    assert!(place.read("out.sllm") == place.read("whole.sllm"), "costs of another search");
}

/// Killed at any moment, again and again: the output is the earlier image or a whole new one, what was saved stays saved, and
/// the calibration comes to its end. (Not with the same bits: the windows from which training draws are not saved.)
#[test]
fn a_calibration_killed_at_any_moment() {
    let place = packed("neuron");
    let earlier = place.read("model.sllm");
    let short = "calibrate model.sllm --text text.txt --tokens 2400 --window 24 --budget-windows 2 --keep-every 0 -t 2";
    let start = Instant::now();
    place.works(&format!("{short} -o out.sllm"));
    let (took, size) = (start.elapsed(), place.read("out.sllm").len());
    place.write("out.sllm", &earlier);
    let whole = |image: &[u8]| {
        assert_eq!(image.len(), size);
        place.works("inspect out.sllm --verify");
    };
    let (mut windows, mut costs, mut random) = (0, 0, Random(11));
    for _ in 0..12 {
        let mut command = place.command(&format!("{short} -o out.sllm"));
        let mut child = command.stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap();
        std::thread::sleep(took.mul_f32(random.draw().abs() / 4.0));
        // It may be done already.
        let _ = child.kill();
        let done = child.wait().unwrap().success();
        let now = place.read("out.sllm");
        assert!(!done || now != earlier);
        if now != earlier {
            whole(&now);
            place.write("out.sllm", &earlier);
            (windows, costs) = (0, 0);
            continue;
        }
        let (w, c) = (seen(&place), measured(&place));
        assert!(w >= windows && c >= costs, "{w} windows and {c} measurements, after {windows} and {costs}");
        (windows, costs) = (w, c);
    }
    place.works(&format!("{short} -o out.sllm"));
    whole(&place.read("out.sllm"));
    let left: Vec<_> = place.files().into_keys().filter(|file| file.to_string_lossy().contains("out.sllm")).collect();
    assert_eq!(left, [place.path("out.sllm")]);
    holds(&place);
}

/// States are saved as often as was asked for, and what is lost is at most what came after the last one.
#[test]
fn the_state_is_saved_as_often_as_asked() {
    let place = packed("neuron");
    let often = LONG.replace("--keep-every 0", "--keep-every 1").replace("9600", "48000");
    let mut command = place.command(&often);
    let mut child = command.stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap();
    let saved = || std::fs::metadata(place.path(STATE)).unwrap().modified().unwrap();
    let mut at = wait(&place, &mut child, |n| n > 0);
    for _ in 0..2 {
        let before = saved();
        let next = wait(&place, &mut child, |n| n != at);
        let between = saved().duration_since(before).unwrap().as_secs_f64();
        assert!(next > at && between > 0.95, "{between} s from window {at} to {next}");
        at = next;
    }
    child.kill().unwrap();
    child.wait().unwrap();
    assert!(seen(&place) >= at);
}
