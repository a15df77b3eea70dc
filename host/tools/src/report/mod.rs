//! A page about a calibrated model: what skipping costs and saves, also in time, which parts are used, and how good
//! predictors are.
//! It is a single file without scripts, and needs no other files.

mod figures;
mod plot;
mod record;

pub use record::{LayerQuality, Quality};

use crate::compare::Outcome;
use crate::shipped::calibration;
use crate::times::{Time, conclusion};
use figures::Legend;
use minijinja::syntax::SyntaxConfig;
use minijinja::value::Serde;
use minijinja::{Environment, Error as TemplateError};
pub use plot::short;
use serde::Serialize;
use serde_json::Value;
use shadowllm_core::image::{Role, SectionKind, Storage};
use shadowllm_core::sparsity::{Dial, Policy};
use shadowllm_core::{Error as Refusal, Model, Session};
use shadowllm_host::model::LoadedModel;
use shadowllm_host::{Error, Result};
use std::collections::BTreeMap;
use std::fmt::Display;

/// Densities that are measured by default.
pub const DENSITIES: [f32; 7] = [0.9, 0.8, 0.7, 0.6, 0.5, 0.4, 0.3];

/// Policies that are measured by default: those that calibration prepares, and those for comparison.
pub fn policies() -> Vec<Policy> {
    let more = |p: &Policy| p.plan().baseline || *p == Policy::PromptInput;
    Policy::ALL.into_iter().filter(|p| p.calibrated() || more(p)).collect()
}

/// A text and what was measured on it.
#[derive(Clone, Debug, Serialize)]
pub struct Measured {
    /// Its name.
    pub name: String,
    /// Number of tokens.
    pub tokens: usize,
    /// A row for each policy and density.
    pub rows: Vec<Outcome>,
}

/// The contents of the page.
#[derive(Clone, Debug, Default, Serialize)]
pub struct Report {
    /// The model's name.
    pub name: String,
    /// Facts about the model and the measurement.
    pub facts: Vec<(String, String)>,
    /// The command that makes the page again.
    pub command: String,
    /// Policies that were left out, with the reasons.
    pub notes: Vec<String>,
    /// Texts.
    pub texts: Vec<Measured>,
    /// Calibration's record of quality, if the image has it.
    pub quality: Option<Quality>,
    /// Times of a token, if they were measured.
    pub times: Option<Times>,
}

/// Times of a token, and what they are compared with.
#[derive(Clone, Debug, Serialize)]
pub struct Times {
    /// Threads.
    pub threads: usize,
    /// Bytes per second that these threads read from memory.
    pub bandwidth: f64,
    /// From reading everything to reading little.
    pub rows: Vec<Time>,
}

/// A table of the page: its head and its rows.
#[derive(Serialize)]
struct Table {
    head: Vec<String>,
    rows: Vec<TableRow>,
}

/// A row; `best` rows are highlighted.
#[derive(Serialize)]
struct TableRow {
    cells: Vec<String>,
    best: bool,
}

/// A text's part of the page; drawings are SVG.
#[derive(Serialize)]
struct TextPart {
    name: String,
    tokens: usize,
    scored: usize,
    dense: String,
    conclusion: Vec<String>,
    density: Vec<String>,
    bytes: Vec<String>,
    table: Table,
}

/// The parts that need a quality record.
#[derive(Serialize)]
struct QualityPart {
    used: Vec<String>,
    predictors: Vec<String>,
    legend: Legend,
    means: Table,
}

/// The part about time.
#[derive(Serialize)]
struct TimePart {
    figures: Vec<String>,
    legend: Legend,
    /// The policy at the least density.
    policy: &'static str,
    conclusion: Vec<String>,
    threads: usize,
    bandwidth: String,
}

/// The values for the page's template.
#[derive(Serialize)]
struct Parts<'a> {
    report: &'a Report,
    legend: Legend,
    texts: Vec<TextPart>,
    quality: Option<QualityPart>,
    times: Option<TimePart>,
}

impl Report {
    /// The page.
    ///
    /// # Errors
    /// None that depend on the values.
    pub fn html(&self) -> Result<String> {
        let broken = |e: TemplateError| Error::Other(format!("the page cannot be made: {e:#}"));
        let mut page = Environment::new();
        page.set_syntax(SyntaxConfig::builder().trim_blocks(true).lstrip_blocks(true).build().map_err(broken)?);
        page.add_template("page.html", include_str!("page.html")).map_err(broken)?;
        page.get_template("page.html").and_then(|t| t.render(Serde(self.parts()))).map_err(broken)
    }

    fn parts(&self) -> Parts<'_> {
        Parts {
            report: self,
            legend: figures::legend_of(self.texts.iter().flat_map(|t| &t.rows).map(|r| r.policy)),
            texts: self.texts.iter().map(Measured::part).collect(),
            quality: self.quality.as_ref().filter(|q| !q.layers.is_empty()).map(quality_part),
            times: self.times.as_ref().filter(|t| !t.rows.is_empty()).map(time_part),
        }
    }
}

impl Measured {
    fn part(&self) -> TextPart {
        let first = self.rows.first();
        TextPart {
            name: self.name.clone(),
            tokens: self.tokens,
            scored: first.map_or(0, |r| r.tokens),
            dense: first.map_or("–".into(), |r| short(r.dense_perplexity)),
            conclusion: self.conclusion(),
            density: figures::against_density(&self.rows),
            bytes: figures::against_bytes(&self.rows),
            table: self.table(),
        }
    }

    /// The most important results: the fewest bytes for nearly the same quality, and which policies `auto` stands for.
    fn conclusion(&self) -> Vec<String> {
        let runs = |r: &&Outcome| Policy::from_name(r.policy).is_some_and(|p| p.plan().saves());
        let dense = figures::dense_bytes(&self.rows);
        let near = |r: &&Outcome| r.perplexity <= 1.01 * r.dense_perplexity && r.bytes_per_token < dense;
        let cheapest = self.rows.iter().filter(runs).filter(near).min_by(|a, b| a.share.total_cmp(&b.share));
        let first = match cheapest {
            Some(r) => format!(
                "the least bytes for at most 1 % more perplexity: {} % of all bytes ({} MB per token), by policy {} at density \
                 {}, with a perplexity of {} instead of {}.",
                fixed(100.0 * r.share, 1),
                fixed(r.bytes_per_token / 1e6, 1),
                r.used,
                short(f64::from(r.density)),
                fixed(r.perplexity, 3),
                fixed(r.dense_perplexity, 3)
            ),
            None => "nothing that was measured saves bytes for at most 1 % more perplexity.".to_owned(),
        };
        let taken = self.rows.iter().filter(|r| r.policy == Policy::Auto.name());
        let taken: Vec<String> = taken.map(|r| format!("{} at {}", r.used, short(f64::from(r.density)))).collect();
        let auto = (!taken.is_empty()).then(|| format!("policy auto takes {}.", taken.join(", ")));
        if self.rows.is_empty() { Vec::new() } else { std::iter::once(first).chain(auto).collect() }
    }

    fn table(&self) -> Table {
        let head = [
            "policy",
            "target",
            "realised",
            "perplexity",
            "KL",
            "± KL",
            "top-1 %",
            "of all bytes %",
            "MB/token",
            "predictor %",
            "its time %",
            "tokens/s",
        ];
        let rows = self.rows.iter().map(|r| TableRow { cells: cells(r), best: self.is_best(r) });
        Table { head: head.map(str::to_owned).to_vec(), rows: rows.collect() }
    }

    /// Whether no other policy at that density is closer to the dense model. Only policies that save bytes count: not
    /// the oracle, which computes everything first, nor `auto`, which stands for another policy.
    fn is_best(&self, row: &Outcome) -> bool {
        let runs = |r: &&Outcome| Policy::from_name(r.policy).is_some_and(|p| p.plan().saves());
        let rivals = self.rows.iter().filter(|r| r.density == row.density && r.kl.is_finite()).filter(runs);
        let least = rivals.map(|r| r.kl).fold(f64::INFINITY, f64::min);
        runs(&row) && row.kl <= least
    }
}

/// A number with `decimals` decimals; a dash if it is not finite.
fn fixed(v: f64, decimals: usize) -> String {
    if v.is_finite() && v.abs() < 1e7 { format!("{v:.decimals$}") } else { short(v) }
}

fn cells(r: &Outcome) -> Vec<String> {
    let dense = r.policy == Policy::Off.name();
    let name = if dense {
        "dense".to_owned()
    } else if r.policy == r.used {
        r.policy.to_owned()
    } else {
        format!("{} ({})", r.policy, r.used)
    };
    let first = [(f64::from(r.density), 2), (r.realised_density, 3), (r.perplexity, 3)];
    // Divergences go over many orders of magnitude.
    let divergence = [r.kl, r.kl_error].map(short);
    let rest = [
        (100.0 * r.top1, 1),
        (100.0 * r.share, 1),
        (r.bytes_per_token / 1e6, 2),
        (100.0 * r.predictor_bytes_per_token / r.bytes_per_token, 1),
        (100.0 * r.predictor_time, 1),
        (r.tokens_per_second, 1),
    ];
    let [first, rest] = [&first[..], &rest].map(|all| all.iter().map(|(v, decimals)| fixed(*v, *decimals)));
    std::iter::once(name).chain(first).chain(divergence).chain(rest).collect()
}

fn time_part(t: &Times) -> TimePart {
    TimePart {
        figures: figures::times(&t.rows, t.bandwidth),
        legend: figures::time_legend(),
        policy: t.rows.last().map_or("", |r| r.policy),
        conclusion: conclusion(&t.rows),
        threads: t.threads,
        bandwidth: fixed(t.bandwidth / 1e9, 1),
    }
}

fn quality_part(q: &Quality) -> QualityPart {
    let head = ["scorer".into(), "rank agreement".into()].into_iter();
    let head = head.chain(q.captured_at.iter().take(4).map(|at| format!("best {:.0} %", 100.0 * at)));
    let scored = q.scorers.iter().filter_map(|name| Some((name, q.scorer(name)?)));
    let rows = scored.map(|(name, i)| {
        let captured = (0..q.captured_at.len().min(4)).map(|at| q.mean(|l| l.captured[i][at]));
        let numbers = std::iter::once(q.mean(|l| l.rank[i])).chain(captured);
        TableRow { cells: std::iter::once(name.clone()).chain(numbers.map(|v| fixed(v, 3))).collect(), best: false }
    });
    QualityPart {
        used: figures::used(q),
        predictors: figures::predictors(q),
        legend: figures::legend_of(q.scorers.iter().map(String::as_str).filter(|name| q.scorer(name).is_some())),
        means: Table { head: head.collect(), rows: rows.collect() },
    }
}

/// The policy whose times are shown: `auto` if it is among these dials, else the first that saves reads; and the least
/// density of the dials.
pub fn timed(dials: &[Dial]) -> Option<(Policy, f32)> {
    let named = |p: &&Dial| p.policy == Policy::Auto;
    let saves = |p: &&Dial| p.policy.plan().saves();
    let dial = dials.iter().find(named).or_else(|| dials.iter().find(saves))?;
    Some((dial.policy, dials.iter().map(|d| d.density).fold(1.0, f32::min)))
}

/// Why a policy has nothing to skip in a model, whose engine would then read everything without a word.
pub fn idle(model: &Model, policy: Policy) -> Option<&'static str> {
    let without = policy == Policy::Output && model.image().matrix(Role::OutputSketch, 0).is_none();
    without.then_some(
        "the image has no sketch of its output matrix, so policy output has nothing to skip: pack it with --sketch yes",
    )
}

/// The dials that the session supports, and a sentence for every policy that it does not.
///
/// # Errors
/// An error that does not depend on the image: a density out of range.
pub fn servable(session: &mut Session, dials: &[Dial]) -> Result<(Vec<Dial>, Vec<String>)> {
    let mut refused: BTreeMap<u8, String> = BTreeMap::new();
    let mut leave_out = |policy: Policy, why: &dyn Display| {
        let note = || format!("Policy {} is left out: {why}.", policy.name());
        refused.entry(policy as u8).or_insert_with(note);
    };
    for dial in dials {
        match session.set_dial(dial) {
            Err(e @ (Refusal::NoPredictor(_) | Refusal::NotByInput)) => leave_out(dial.policy, &Error::from(e)),
            Err(e @ Refusal::BadDensity) => return Err(Error::Usage(e.to_string())),
            other => other?,
        }
        if let Some(why) = idle(session.model(), dial.policy) {
            leave_out(dial.policy, &why);
        }
    }
    let served = dials.iter().filter(|d| !refused.contains_key(&(d.policy as u8))).copied().collect();
    Ok((served, refused.into_values().collect()))
}

/// The image's provenance.
pub(crate) fn provenance(model: &LoadedModel) -> Result<Value> {
    Ok(serde_json::from_str(model.text(SectionKind::Provenance)?).unwrap_or(Value::Null))
}

/// Calibration's record of quality in the image's provenance; `None` if it is missing or cannot be read.
///
/// # Errors
/// When the provenance is not text.
pub fn quality(model: &LoadedModel) -> Result<Option<Quality>> {
    Ok(Quality::of(&provenance(model)?))
}

/// Facts about the model: its file, shape, formats and provenance.
///
/// # Errors
/// When the provenance is not text.
pub fn facts(model: &LoadedModel) -> Result<Vec<(String, String)>> {
    let (m, c) = (model.model(), model.model().config());
    let shape = format!("{} layers, {} heads, {} neurons a layer, width {}", c.layers, c.heads, c.ffn, c.d_model);
    let mut facts = vec![
        ("file".into(), format!("{}, {:.1} MB", model.path().display(), model.file_bytes() as f64 / 1e6)),
        ("shape".into(), shape),
        ("formats".into(), formats(model)),
        (
            "weights".into(),
            format!("{:.2} MB per token when nothing is skipped", m.weight_bytes_per_token() as f64 / 1e6),
        ),
    ];
    let mut provenance = provenance(model)?;
    if provenance["calibration"].is_string() {
        provenance["calibration"] = calibration(&provenance["calibration"]).into();
    }
    let of = |prefix: &str, value: &Value| -> Vec<(String, String)> {
        let plain = |v: &Value| match v {
            Value::String(s) => Some(s.clone()),
            Value::Number(_) | Value::Bool(_) => Some(v.to_string()),
            _ => None,
        };
        value.as_object().into_iter().flatten().filter_map(|(k, v)| Some((format!("{prefix}{k}"), plain(v)?))).collect()
    };
    facts.extend(of("", &provenance));
    facts.extend(of("calibration: ", &provenance["calibration"]));
    Ok(facts)
}

/// The megabytes of each number format.
fn formats(model: &LoadedModel) -> String {
    let mut bytes: BTreeMap<&str, usize> = BTreeMap::new();
    for e in model.model().image().entries() {
        let name = match e.storage {
            Storage::Vector { .. } => "f32",
            Storage::Tiles(g) => g.format.name(),
        };
        *bytes.entry(name).or_default() += e.bytes();
    }
    let all: Vec<String> = bytes.iter().map(|(name, n)| format!("{name} {:.2} MB", *n as f64 / 1e6)).collect();
    all.join(", ")
}
