//! `shadowllm report`.

use crate::bandwidth::read_bandwidth;
use crate::dial::DialOptions;
use crate::print;
use crate::setup::{MACHINE, ModelOptions, pool, session_options, steps};
use clap::Args;
use sha2::{Digest, Sha256};
use shadowllm_core::SessionOptions;
use shadowllm_core::sparsity::{Dial, Policy};
use shadowllm_host::model::LoadedModel;
use shadowllm_host::pace::Ladder;
use shadowllm_host::pool::Pool;
use shadowllm_host::text::{Text, read};
use shadowllm_host::{Error, Result};
use shadowllm_tools::cache::Skipping;
use shadowllm_tools::compare::{Windows, compare, with_dense};
use shadowllm_tools::eval::{begin_windows, beginning};
use shadowllm_tools::output::{Output, is_same, refuse_overwrite};
use shadowllm_tools::report::{self as engine, DENSITIES, Measured, Report, Times};
use shadowllm_tools::times::times;
use std::io::Write;
use std::path::{Path, PathBuf};

/// Options of `report`.
#[derive(Args)]
pub struct Options {
    #[command(flatten)]
    model: ModelOptions,
    /// Text to measure on, UTF-8; each of several texts gets a part of the page.
    #[arg(long, required = true)]
    text: Vec<PathBuf>,
    /// Tokens per window; windows do not overlap.
    #[arg(long, default_value_t = 256)]
    window: usize,
    /// The most windows of a text.
    #[arg(long, default_value_t = 6)]
    max_windows: usize,
    /// The first tokens of a window that are read densely; the rest is decoded under the policy and scored. Half a window
    /// by default.
    #[arg(long)]
    dense_prefix: Option<usize>,
    #[command(flatten)]
    dial: DialOptions,
    /// Threads; one per core by default.
    #[arg(short, long, help_heading = MACHINE)]
    threads: Option<usize>,
    /// Page to write (HTML, in one file).
    #[arg(short, long)]
    output: PathBuf,
    /// Also write the page's data to a file for programs: a name that ends in .csv gets the rows, any other name
    /// everything as JSON.
    #[arg(long, value_name = "FILE")]
    data: Option<PathBuf>,
}

/// A text's tokens.
struct Tokens<'a> {
    path: &'a Path,
    /// With what the tokenizer puts before a text at the beginning of every window.
    ids: Vec<u32>,
    /// Tokens of the text alone.
    own: usize,
}

/// Runs the command.
pub fn report(o: &Options) -> Result<()> {
    let inputs = [o.text.clone(), vec![o.model.path().to_owned()]].concat();
    for output in [Some(&o.output), o.data.as_ref()].into_iter().flatten() {
        refuse_overwrite(output, &inputs)?;
    }
    if o.data.as_ref().is_some_and(|data| is_same(data, &o.output)) {
        return Err(Error::Usage("--data and --output name the same file: name another".into()));
    }
    let dial = o.dial.or(&engine::policies(), &DENSITIES);
    let dials = dial.all()?;
    // Created before the long work, so that an error is reported at once.
    let mut page = Output::create(&o.output)?;
    let mut data = o.data.as_deref().map(Output::create).transpose()?;
    let contents = o.text.iter().map(|path| read(path)).collect::<Result<Vec<_>>>()?;
    let model = calibrated(o.model.open_for(Skipping::Layers)?)?;
    let text = Text::of(&model)?;
    let before = beginning(&text)?;
    let encode = |(path, content): (_, &String)| {
        let ids = text.encode(content, false)?;
        Ok(Tokens { path, own: ids.len(), ids: begin_windows(&ids, &before, o.window)? })
    };
    let texts = o.text.iter().map(PathBuf::as_path).zip(&contents).map(encode).collect::<Result<Vec<_>>>()?;
    let pool = o.model.within(pool(o.threads)?, &model)?;
    let (texts, notes, times) = measure(o, &pool, &model, &texts, &dials)?;
    let report = Report {
        name: model.path().file_stem().unwrap_or_default().to_string_lossy().into_owned(),
        facts: facts(o, &model, !before.is_empty())?,
        command: command(o, &dial),
        notes,
        texts,
        quality: engine::quality(&model)?,
        times,
    };
    let write = |out: &mut Output, path: &Path, content: &str| {
        out.file().write_all(content.as_bytes()).map_err(|e| Error::io("write to", path, e))
    };
    write(&mut page, &o.output, &report.html()?)?;
    if let (Some(out), Some(path)) = (&mut data, &o.data) {
        write(out, path, &for_programs(path, &report)?)?;
    }
    page.finish()?;
    data.map_or(Ok(()), Output::finish)?;
    let settings = report.texts.first().map_or(0, |t| t.rows.len());
    let (path, texts) = (o.output.display(), o.text.len());
    let texts = if texts == 1 { "one text".to_owned() } else { format!("{texts} texts") };
    print::line(format_args!("{path}: {settings} policies and densities, measured on {texts}"))
}

/// The report for programs.
fn for_programs(path: &Path, report: &Report) -> Result<String> {
    let bad = |e: serde_json::Error| Error::Other(e.to_string());
    if path.extension().is_none_or(|end| end != "csv") {
        return Ok(format!("{}\n", serde_json::to_string_pretty(report).map_err(bad)?));
    }
    let mut rows = Vec::new();
    for text in &report.texts {
        for row in &text.rows {
            let mut row = serde_json::to_value(row).map_err(bad)?;
            row["text"] = text.name.as_str().into();
            rows.push(row);
        }
    }
    print::as_csv(&rows)
}

/// The model, which must be calibrated.
fn calibrated(model: LoadedModel) -> Result<LoadedModel> {
    let refused = |source| Error::Engine { path: Some(model.path().to_owned()), source };
    if model.model().predictor().map_err(refused)?.is_some() {
        return Ok(model);
    }
    let path = model.path().display();
    Err(Error::file(
        model.path(),
        format!("is not calibrated: make a calibrated copy with shadowllm calibrate {path} --text TEXT -o COPY"),
    ))
}

/// What was measured, which policies were left out, and the times of a token.
type Found = (Vec<Measured>, Vec<String>, Option<Times>);

/// Measures all dials on all texts; the notes say which were left out.
fn measure(o: &Options, pool: &Pool, model: &LoadedModel, texts: &[Tokens], dials: &[Dial]) -> Result<Found> {
    let options = session_options(model, o.window.max(Ladder::CONTEXT), o.model.kv, "a smaller --window")?;
    let options = SessionOptions { logit_rows: options.batch.min(16), sparsity: true, ..options };
    let mut memory = model.memory(&options)?;
    let mut session = model.session(options, &mut memory)?;
    let (dials, notes) = engine::servable(&mut session, dials)?;
    if dials.is_empty() {
        return Err(Error::Usage(format!("no policy is left to measure. {}", notes.join(" "))));
    }
    let timed = engine::timed(&dials);
    let base = dials[0].with(Policy::Off, 1.0);
    let dials = with_dense(&dials);
    for t in texts {
        windows(o, t).all().map_err(|e| Error::Usage(format!("{}: {e}", t.path.display())))?;
    }
    let mut measured = Vec::new();
    for t in texts {
        let bar = steps(t.path.display().to_string());
        let rows = compare(&mut session, pool, &windows(o, t), &dials, &mut |done, all| {
            bar.set_length(all as u64);
            bar.set_position(done as u64);
        })?;
        bar.finish_and_clear();
        measured.push(Measured { name: t.path.display().to_string(), tokens: t.own, rows });
    }
    let times = timed.map(|(policy, least)| -> Result<Times> {
        session.rewind(0)?;
        let rows = times(&mut session, pool, &base, Some(policy), least)?;
        Ok(Times { threads: pool.size(), bandwidth: read_bandwidth(pool), rows })
    });
    Ok((measured, notes, times.transpose()?))
}

fn windows<'a>(o: &Options, text: &'a Tokens) -> Windows<'a> {
    Windows { ids: &text.ids, window: o.window, context: context(o), most: o.max_windows }
}

fn context(o: &Options) -> usize {
    o.dense_prefix.unwrap_or(o.window / 2)
}

/// The model's facts, and how it was measured: whether windows are `begun` by a token of the tokenizer.
fn facts(o: &Options, model: &LoadedModel, begun: bool) -> Result<Vec<(String, String)>> {
    let mut facts = engine::facts(model)?;
    let (window, context, most) = (o.window, context(o), o.max_windows);
    let begun = if begun { ", each begun by the tokenizer's beginning token" } else { "" };
    let how = format!("at most {most} windows of {window} tokens, after {context} read densely{begun}");
    facts.push(("measured".into(), how));
    let (isa, threads) = (model.model().kernels().isa().name(), o.threads.unwrap_or_else(Pool::cores));
    for path in &o.text {
        let bytes = std::fs::read(path).map_err(|e| Error::io("read", path, e))?;
        let sum: String = Sha256::digest(&bytes).iter().map(|b| format!("{b:02x}")).collect();
        facts.push(("text's SHA-256".into(), format!("{}: {sum}", path.display())));
    }
    facts.push(("run".into(), format!("{isa}, threads: {threads}, shadowllm {}", env!("CARGO_PKG_VERSION"))));
    Ok(facts)
}

/// A word in the quotes of a shell command.
fn quoted(word: &str) -> String {
    let plain = |c: char| c.is_ascii_alphanumeric() || "-_./,=+:@%".contains(c);
    if !word.is_empty() && word.chars().all(plain) { word.into() } else { format!("'{}'", word.replace('\'', "'\\''")) }
}

/// The command that makes the page again, with every choice spelt out, an option a line.
fn command(o: &Options, dial: &DialOptions) -> String {
    let path = |p: &Path| p.display().to_string();
    let mut lines = vec![format!("shadowllm report {}", quoted(&path(o.model.path())))];
    for (name, value) in o.model.given() {
        lines.push(value.map_or(format!("--{name}"), |value| format!("--{name} {}", quoted(&value))));
    }
    let mut put = |name: &str, value: String| lines.push(format!("--{name} {}", quoted(&value)));
    o.text.iter().for_each(|text| put("text", path(text)));
    dial.arguments().into_iter().for_each(|(name, value)| put(name, value));
    put("window", o.window.to_string());
    put("dense-prefix", context(o).to_string());
    put("max-windows", o.max_windows.to_string());
    let named = [("threads", o.threads.map(|n| n.to_string())), ("data", o.data.as_deref().map(path))];
    named.into_iter().filter_map(|(name, value)| Some((name, value?))).for_each(|(name, value)| put(name, value));
    put("output", path(&o.output));
    lines.join(" \\\n  ")
}
