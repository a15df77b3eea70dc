//! The page about a calibrated model: complete, well-formed and self-contained, whatever the numbers.

use quick_xml::Reader;
use quick_xml::events::Event;
use serde_json::{Value, json};
use shadowllm_core::sparsity::Policy;
use shadowllm_host::model::LoadedModel;
use shadowllm_tests::program::Place;
use shadowllm_tests::vectors;
use shadowllm_tools::compare::Outcome;
use shadowllm_tools::report::{self, DENSITIES, LayerQuality, Measured, Quality, Report, Times};
use shadowllm_tools::times::Time;

/// A row of made-up figures; the lower the density, the worse.
fn row(policy: Policy, density: f32) -> Outcome {
    let (d, worse) = (f64::from(density), 1.0 + policy as u8 as f64 / 4.0);
    Outcome {
        policy: policy.name(),
        used: if policy == Policy::Auto { "gate" } else { policy.name() },
        density,
        perplexity: 20.0 + worse * (1.0 - d).powi(2) * 30.0,
        dense_perplexity: 20.0,
        kl: worse * (1.0 - d).powi(3),
        kl_error: 0.001,
        nll_error: 0.002,
        top1: 1.0 - 0.5 * (1.0 - d),
        realised_density: d,
        share: 0.3 + 0.7 * d,
        bytes_per_token: 1e8 * (0.3 + 0.7 * d),
        predictor_bytes_per_token: 1e6,
        predictor_time: 0.03,
        tokens_per_second: 100.0 / d,
        tokens: 768,
    }
}

fn rows() -> Vec<Outcome> {
    report::policies().into_iter().flat_map(|p| DENSITIES.map(|d| row(p, d))).collect()
}

fn quality(layers: usize, heads: usize) -> Quality {
    let layer = |l: usize| LayerQuality {
        captured: [0.3, 0.4, 0.5, 0.9].map(|c| [c, c + 0.02, c + 0.04, c + 0.08]),
        rank: [0.2, 0.3, 0.4, 1.0],
        active: 0.1 + l as f64 / 100.0,
        heads: (0..heads).map(|h| ((h + l) % heads) as f64 / (heads * heads) as f64).collect(),
        neurons: (0..32).map(|r| 0.5f64.powi(r)).collect(),
    };
    Quality {
        captured_at: vec![0.1, 0.2, 0.3, 0.5],
        scorers: ["static", "shadow", "per-layer", "oracle"].map(str::to_owned).to_vec(),
        layers: (1..layers).map(layer).collect(),
    }
}

/// A time that was predicted a fifth too long, except where it was measured for that.
fn time(density: f32, seconds: f64) -> Time {
    Time {
        policy: if density == 1.0 { "off" } else { "auto" },
        density,
        bytes: (1e8 * density) as usize,
        predicted_seconds: if density == 0.8 { 1.2 * seconds } else { seconds },
        measured_seconds: seconds,
        fitted: density != 0.8,
    }
}

/// A report of two texts with names that need care.
fn made_up(rows: Vec<Outcome>, quality: Option<Quality>) -> Report {
    let text = |name: &str| Measured { name: name.into(), tokens: 5000, rows: rows.clone() };
    Report {
        name: "a <small> & \"odd\" model".into(),
        facts: vec![("source".into(), "a folder <b>here</b> & there".into())],
        command: "shadowllm report 'a<b>.sllm' \\\n  --text 'x & y'".into(),
        notes: vec!["Policy input-top is left out: it's <odd>.".into()],
        texts: vec![text("one.txt"), text("<two> & 'three'.txt")],
        quality,
        times: Some(Times { threads: 2, bandwidth: 1e10, rows: [1.0, 0.8, 0.5].map(|d| time(d, 0.01)).to_vec() }),
    }
}

/// The page, which must be complete, well-formed and self-contained, and must not show NaN or infinities.
fn page(report: &Report) -> String {
    let page = report.html().unwrap();
    let mut reader = Reader::from_str(&page);
    let (mut depth, mut drawings) = (0, 0);
    loop {
        match reader.read_event().unwrap_or_else(|e| panic!("{e} at {}", reader.error_position())) {
            Event::Start(tag) => {
                drawings += usize::from(tag.name().as_ref() == "svg");
                tag.attributes().for_each(|a| assert!(a.is_ok(), "{a:?}"));
                depth += 1;
            }
            Event::End(_) => depth -= 1,
            Event::Eof => break,
            _ => {}
        }
    }
    assert_eq!(depth, 0);
    assert!(drawings >= 4 * report.texts.len(), "{drawings}");
    for outside in ["http", "url(", "src=", "<script", "<link", "@import"] {
        assert!(!page.contains(outside), "{outside}");
    }
    let words = page.split(|c: char| !c.is_ascii_alphanumeric());
    words.for_each(|w| assert!(!["nan", "inf"].contains(&w.to_ascii_lowercase().as_str()), "{w}"));
    page
}

#[test]
fn a_page_of_everything() {
    let page = page(&made_up(rows(), Some(quality(30, 9))));
    if let Ok(path) = std::env::var("REPORT_PAGE") {
        std::fs::write(path, &page).unwrap();
    }
    for policy in report::policies() {
        let name = policy.name();
        let shown = if name == "auto" { "auto (gate)" } else { name };
        assert!(page.contains(&format!("<td>{shown}</td>")), "{name}");
        assert!(page.contains(&format!("<title>{shown} at 0.5: realised 0.5, KL ")), "{name}");
        assert!(page.contains(&format!("</svg>{name}</li>")), "{name}");
    }
    for words in ["a &lt;small&gt; &amp; ", "&lt;two&gt;", "layer 29, head 8: ", "layer 1, run 32: ", "dense 20"] {
        assert!(page.contains(words), "{words}");
    }
    for words in [
        "auto at 0.8, 80 MB: 12 ms predicted from other densities",
        "auto at 0.8, 80 MB: 10 ms measured",
        "auto at 0.5, 50 MB: 5 ms reading from memory alone",
        "error 20 % on average, 20 % at most",
        "2 threads, memory read at 10.0 GB/s",
    ] {
        assert!(page.contains(words), "{words}");
    }
    // 29 layers of 9 heads and 32 runs, and two scales of 24 colours.
    assert_eq!(page.matches("class=\"cell\"").count(), 29 * (9 + 32) + 2 * 24);
    // The best of the seven policies that can be run, in two texts.
    assert_eq!(page.matches("class=\"best\"").count(), 2 * DENSITIES.len());
}

#[test]
fn without_a_quality_record() {
    for none in [None, Some(Quality::default())] {
        let page = page(&made_up(rows(), none));
        assert_eq!(page.matches("calibrate it again").count(), 2);
        assert!(!page.contains("class=\"cell\""));
    }
}

#[test]
fn one_of_each() {
    page(&made_up(vec![row(Policy::Shadow, 0.5)], Some(quality(2, 1))));
    page(&made_up(vec![row(Policy::Off, 1.0)], None));
    page(&made_up(DENSITIES.map(|d| row(Policy::Input, d)).to_vec(), Some(quality(81, 64))));
    let times = made_up(rows(), None).times.map(|t| Times { rows: Vec::new(), ..t });
    for none in [times, None] {
        let page = page(&Report { times: none, ..made_up(rows(), None) });
        assert!(page.contains("No policy was measured that saves reads") && !page.contains("ms per token"));
    }
    let empty = made_up(Vec::new(), None);
    assert!(page(&empty).contains("nothing to show"));
}

/// The dense model skips neurons that are zero too: it is drawn where it was measured, and what reads as much saves nothing.
#[test]
fn a_dense_model_that_does_not_read_everything() {
    let of = |policy, megabytes: f64| Outcome {
        bytes_per_token: 1e6 * megabytes,
        share: megabytes / 4.0,
        perplexity: 20.0,
        ..row(policy, 0.9)
    };
    let beside = |megabytes| page(&made_up(vec![of(Policy::Off, 3.0), of(Policy::Static, megabytes)], None));
    let same = beside(3.0);
    assert!(same.contains("dense: 3 MB") && same.contains("nothing that was measured saves bytes"));
    assert!(beside(2.5).contains("62.5 % of all bytes (2.5 MB per token), by policy static"));
}

/// A divergence that is small is not shown as none.
#[test]
fn a_small_divergence() {
    let small = Outcome { kl: 4e-5, kl_error: 2.5e-6, ..row(Policy::Static, 0.9) };
    let page = page(&made_up(vec![Outcome { kl: 0.0, kl_error: 0.0, ..row(Policy::Off, 1.0) }, small], None));
    assert!(page.contains("<td>0</td>") && page.contains("<td>4e-5</td>") && page.contains("<td>2.5e-6</td>"));
}

#[test]
fn numbers_at_extremes() {
    let values = [0.0, -0.0, f64::NAN, f64::INFINITY, f64::MAX, f64::MIN_POSITIVE, 1e30, 1.0, 1.0 + 1e-15];
    for a in values {
        for b in values {
            let odd = |r: &Outcome| Outcome {
                kl: a,
                perplexity: b,
                dense_perplexity: a,
                top1: b,
                share: a,
                bytes_per_token: b,
                predictor_bytes_per_token: a,
                predictor_time: a,
                tokens_per_second: b,
                ..r.clone()
            };
            let mixed = rows().iter().enumerate().map(|(i, r)| if i % 3 == 0 { r.clone() } else { odd(r) }).collect();
            page(&made_up(mixed, None));
            page(&made_up(rows().iter().map(odd).collect(), None));
            let mut odd = quality(4, 3);
            odd.layers.iter_mut().for_each(|l| (l.active, l.rank[1], l.heads[0], l.neurons[1]) = (a, b, a, b));
            odd.layers[1].captured = [[a; 4]; 4];
            page(&made_up(rows(), Some(odd)));
            let odd = Time { predicted_seconds: b, ..time(0.8, a) };
            let times = Times { threads: 1, bandwidth: b, rows: vec![time(1.0, 0.1), odd, time(0.4, a)] };
            page(&Report { times: Some(times), ..made_up(Vec::new(), None) });
        }
    }
}

#[test]
fn the_record_in_a_provenance() {
    let kept = json!({"source": "x", "calibration": {"tokens": 9, "quality": quality(5, 2)}});
    assert_eq!(Quality::of(&kept).unwrap().layers.len(), 4);
    for damage in [json!({}), json!(null), json!({"calibration": null}), json!({"calibration": {"quality": [1, 2]}})] {
        assert!(Quality::of(&damage).is_none(), "{damage}");
    }
    let mut short = kept.clone();
    short["calibration"]["quality"]["layers"][1]["rank"] = json!([0.5]);
    assert!(Quality::of(&short).is_none());
    // A predictor that was not trained is not shown at all.
    let mut untrained = quality(3, 2);
    untrained.layers.iter_mut().for_each(|l| (l.captured[1], l.rank[1]) = ([0.0; 4], 0.0));
    assert_eq!((untrained.scorer("shadow"), untrained.scorer("per-layer")), (None, Some(2)));
    let page = page(&made_up(vec![row(Policy::Static, 0.5)], Some(untrained)));
    assert!(!page.contains("shadow, layer"));
}

/// A small model, `plain.sllm`, and calibrated, `model.sllm`.
fn calibrated() -> Place {
    let place = Place::new();
    let source = vectors("brown-opt");
    place.works(&format!("pack {} --format q4_0 -o plain.sllm", source.display()));
    place.copy(&vectors("brown-heldout.txt"), "book.txt");
    place.works("calibrate plain.sllm --text book.txt --tokens 700 --window 32 --budget-windows 0 -o model.sllm");
    place
}

#[test]
fn the_command_and_its_refusals() {
    let place = calibrated();
    let measure = "--text book.txt --window 24 --max-windows 2";
    let run = place.works(&format!("report model.sllm {measure} --density 0.8,0.4 -o page.html --data page.json"));
    assert!(run.out.contains("page.html"), "{}", run.out);
    let page = String::from_utf8(place.read("page.html")).unwrap();
    let value: Value = serde_json::from_slice(&place.read("page.json")).unwrap();
    // No matrix is stored by input, and no budgets were searched.
    let notes = value["notes"].to_string();
    assert!(notes.contains("Policy input is left out: ") && notes.contains("Policy auto is left out: "), "{notes}");
    let rows = value["texts"][0]["rows"].as_array().unwrap();
    assert_eq!(rows.len(), 15, "the dense model and 14 settings");
    assert!(page.contains("<td>dense</td>") && page.contains("1 % more perplexity"));
    assert!(value["facts"].to_string().contains("SHA-256"), "{value}");
    // Auto is left out, so the first policy that saves is timed, in steps of 5 % down to the least density.
    let times = value["times"]["rows"].as_array().unwrap();
    assert_eq!((times.len(), &times[0]["policy"], &times[12]["policy"]), (13, &json!("off"), &json!("static")));
    assert!(times[0]["bytes"].as_u64() > times[12]["bytes"].as_u64() && times[12]["density"] == 0.4f32, "{value}");
    assert!(
        times.iter().all(|t| t["predicted_seconds"].as_f64() > Some(0.0) && t["measured_seconds"].as_f64() > Some(0.0))
    );
    assert_eq!(page.matches(" ms measured</title>").count(), 2 * times.len(), "two drawings");
    for row in &rows[1..] {
        assert!(page.contains(&format!("<td>{}</td>", row["policy"].as_str().unwrap())));
    }
    // Calibration has stored its record: 7 layers of 6 heads and 32 runs.
    let model = LoadedModel::open(&place.path("model.sllm"), None).unwrap();
    assert_eq!(report::quality(&model).unwrap().map(|q| q.layers.len()), Some(7));
    assert_eq!(page.matches("class=\"cell\"").count(), 7 * (6 + 32) + 2 * 24);

    // The command on the page makes the same page.
    let command = value["command"].as_str().unwrap().replace("\\\n", " ");
    place.works(command.strip_prefix("shadowllm ").unwrap());
    let again: Value = serde_json::from_slice(&place.read("page.json")).unwrap();
    for part in ["command", "facts", "notes", "quality"] {
        assert_eq!(again[part], value[part], "{part}");
    }

    let one = format!("{measure} --policy static --density 0.5");
    for machine in ["--kv f32 --in-memory --verify", "--isa scalar --memory-budget 900000000"] {
        place.works(&format!("report model.sllm {one} {machine} -o page.html --data page.json"));
        let value: Value = serde_json::from_slice(&place.read("page.json")).unwrap();
        let command = value["command"].as_str().unwrap().replace(" \\\n ", "");
        assert!(command.contains(machine), "{command}");
    }
    place.fails(
        1,
        &format!("report plain.sllm {one} -o new.html"),
        &["is not calibrated", "shadowllm calibrate plain.sllm"],
    );
    place.fails(1, &format!("report model.sllm {one} -o nowhere/new.html"), &["nowhere", "make the folder first"]);
    place.fails(
        1,
        &format!("report model.sllm {one} -o new.html --data nowhere/x"),
        &["nowhere", "make the folder first"],
    );
    for same in ["x", "./x"] {
        place.fails(2, &format!("report model.sllm {one} -o x --data {same}"), &["same file", "name another"]);
    }
    place.fails(2, &format!("report model.sllm {one} -o book.txt"), &["would replace", "name another"]);
    place.fails(
        2,
        &format!("report model.sllm {measure} --policy input -o new.html"),
        &["no policy is left", "--layout input"],
    );
    place.fails(2, &format!("report model.sllm {measure} --density 0 -o new.html"), &["density", "above 0"]);
    place.fails(
        2,
        "report model.sllm --text book.txt --window 8 --dense-prefix 8 -o new.html",
        &["book.txt", "longer --window"],
    );
    place.fails(
        2,
        "report model.sllm --text book.txt --max-windows 0 -o new.html",
        &["--max-windows must be at least"],
    );
    place.fails(2, "report model.sllm --text book.txt --window 1000 -o new.html", &["256", "smaller --window"]);
}

/// What policy `output` reads does not depend on the density, so it is measured once; without a sketch it is left out.
#[test]
fn the_sketch_is_measured_once() {
    let place = calibrated();
    let measure = "--text book.txt --window 24 --max-windows 1 -o page.html --data page.json";
    place.fails(2, &format!("report model.sllm {measure} --policy output"), &["no policy is left", "--sketch yes"]);
    let source = vectors("brown-opt");
    place.works(&format!("pack {} --format q8_0 --sketch yes -o plain.sllm", source.display()));
    let learn = "calibrate plain.sllm --text book.txt --tokens 700 --window 32 --budget-windows 0 --policies static";
    place.works(&format!("{learn} -o model.sllm"));
    for (choice, expected) in [
        ("--policy off", &[("off", 1.0)][..]),
        ("--policy output", &[("off", 1.0), ("output", 1.0)]),
        ("--policy static,output --density 0.5", &[("off", 1.0), ("static", 0.5), ("output", 1.0)]),
    ] {
        place.works(&format!("report model.sllm {measure} {choice}"));
        let value: Value = serde_json::from_slice(&place.read("page.json")).unwrap();
        let rows = value["texts"][0]["rows"].as_array().unwrap();
        let found: Vec<_> =
            rows.iter().map(|r| (r["policy"].as_str().unwrap(), r["density"].as_f64().unwrap())).collect();
        assert_eq!(found, expected, "{choice}");
        // The command on the page makes the same page.
        place.works(value["command"].as_str().unwrap().replace("\\\n", " ").strip_prefix("shadowllm ").unwrap());
    }
}

/// If the tokenizer begins texts with a token, calibration and reports begin their windows with it, as `eval` does.
#[test]
fn windows_begin_as_in_eval() {
    let place = Place::new();
    place.copy(&vectors("brown-opt"), "model");
    place.copy(&vectors("brown-heldout.txt"), "book.txt");
    place.begin_texts();
    place.works("pack model --format q4_0 -o plain.sllm");
    let learn = "--tokens 700 --window 32 --budget-windows 0 --policies static --json";
    let made = place.works(&format!("calibrate plain.sllm --text book.txt {learn} -o model.sllm")).out;
    let made: Value = serde_json::from_str(&made).unwrap();
    assert_eq!(made["quality"]["captured_at"], json!([0.1, 0.2, 0.3, 0.5]));
    // 31 tokens of the text in each window.
    assert_eq!(made["tokens"], 700 + 700usize.div_ceil(31));
    let measure = "model.sllm --text book.txt --window 24 --max-windows 2 --policy static --density 0.5";
    place.works(&format!("report {measure} -o page.html --data page.json"));
    let page: Value = serde_json::from_slice(&place.read("page.json")).unwrap();
    let eval: Value = serde_json::from_str(&place.works(&format!("eval {measure} --json")).out).unwrap();
    for row in 0..2 {
        for figure in ["perplexity", "dense_perplexity", "kl", "tokens"] {
            assert_eq!(page["texts"][0]["rows"][row][figure], eval["rows"][row][figure], "{figure} of row {row}");
        }
    }
    assert!(page["facts"].to_string().contains("begun by the tokenizer's beginning token"), "{}", page["facts"]);
}
