//! The figures of the page, and their texts.

use super::plot::{ALONE, Axis, Chart, DENSE, HeatMap, Point, Row, Rule, Series, Spread, short, swatch};
use super::record::{LayerQuality, Quality};
use crate::compare::Outcome;
use crate::times::Time;
use shadowllm_core::sparsity::Policy;

/// Policies and scorers, in the order of their looks (colour, mark and dashes).
const NAMES: [&str; DENSE] = [
    "static",
    "random",
    "prompt",
    "shadow",
    "per-layer",
    "gate",
    "input",
    "input-top",
    "oracle",
    "auto",
    "mixed",
    "prompt-input",
    "output",
];
/// If the largest perplexity is this many times the smallest, the axis is logarithmic.
const FAR: f64 = 4.0;

/// Names, each with a drawing of its look.
pub type Legend = Vec<(String, String)>;

fn look(name: &str) -> usize {
    NAMES.iter().position(|n| *n == name).unwrap_or(DENSE)
}

/// A legend of these names, each once, in the order of [`NAMES`].
pub fn legend_of<'a>(names: impl Iterator<Item = &'a str>) -> Legend {
    let mut names: Vec<&str> = names.collect();
    names.sort_by_key(|n| look(n));
    names.dedup();
    names.into_iter().map(|n| (n.to_owned(), swatch(look(n)))).collect()
}

/// One curve per policy, from the densest to the sparsest.
fn curves(rows: &[Outcome], x: impl Fn(&Outcome) -> f64, y: impl Fn(&Outcome) -> f64) -> Vec<Series> {
    // The dense model is drawn separately.
    let mut names: Vec<&str> = rows.iter().map(|r| r.policy).filter(|policy| *policy != "off").collect();
    // `auto` is drawn first, so that the policy that it stands for covers it.
    names.sort_by_key(|n| (*n != "auto", look(n)));
    names.dedup();
    let curve = |name: &str| {
        let mut rows: Vec<&Outcome> = rows.iter().filter(|r| r.policy == name).collect();
        rows.sort_by(|a, b| b.density.total_cmp(&a.density));
        let points = rows.iter().map(|r| Point { x: x(r), y: y(r), note: note(r) });
        Series { look: look(name), points: points.collect() }
    };
    names.into_iter().map(curve).collect()
}

fn note(r: &Outcome) -> String {
    let used = if r.policy == r.used { String::new() } else { format!(" ({})", r.used) };
    format!(
        "{}{used} at {}: realised {}, KL {}, perplexity {}, top-1 {} %, {} MB/token",
        r.policy,
        short(f64::from(r.density)),
        short(r.realised_density),
        short(r.kl),
        short(r.perplexity),
        short(100.0 * r.top1),
        short(r.bytes_per_token / 1e6)
    )
}

/// KL divergence and perplexity against the realised density, which can differ from the one that was set.
pub fn against_density(rows: &[Outcome]) -> Vec<String> {
    let x = || Axis::linear("realised density");
    let density = |r: &Outcome| r.realised_density;
    let kl = Chart {
        title: "Divergence from the dense model".into(),
        x: x(),
        y: Axis::log("KL divergence, nats"),
        series: curves(rows, density, |r| r.kl),
        rules: Vec::new(),
    };
    let dense = rows.first().map_or(f64::NAN, |r| r.dense_perplexity);
    let all = || rows.iter().map(|r| r.perplexity).chain([dense]).filter(|p| p.is_finite());
    let far = all().fold(0.0, f64::max) > FAR * all().fold(f64::INFINITY, f64::min);
    let perplexity = Chart {
        title: "Perplexity".into(),
        x: x(),
        y: if far { Axis::log("perplexity") } else { Axis::linear("perplexity") },
        series: curves(rows, density, |r| r.perplexity),
        rules: vec![Rule { at: dense, upright: false, label: format!("dense {}", short(dense)) }],
    };
    vec![kl.svg(), perplexity.svg()]
}

/// Bytes that a token of the dense model reads: as measured, because zeros are not read by it either; if it was not measured,
/// all of them.
pub fn dense_bytes(rows: &[Outcome]) -> f64 {
    let measured = rows.iter().find(|r| r.policy == Policy::Off.name()).map(|r| r.bytes_per_token);
    let all = || rows.iter().map(|r| r.bytes_per_token / r.share).find(|d| d.is_finite());
    measured.or_else(all).unwrap_or(f64::NAN)
}

/// KL divergence and agreement against the bytes read, with the dense model for comparison.
pub fn against_bytes(rows: &[Outcome]) -> Vec<String> {
    let megabytes = |r: &Outcome| r.bytes_per_token / 1e6;
    let dense = dense_bytes(rows) / 1e6;
    let chart = |title: &str, y: Axis, dense_y: f64, of: &dyn Fn(&Outcome) -> f64| {
        let note = format!("dense: {} MB/token", short(dense));
        let point = Series { look: DENSE, points: vec![Point { x: dense, y: dense_y, note }] };
        let series = curves(rows, megabytes, of).into_iter().chain([point]).collect();
        let rules = vec![Rule { at: dense, upright: true, label: "dense".into() }];
        Chart { title: title.into(), x: Axis::linear("MB of weights read per token"), y, series, rules }.svg()
    };
    vec![
        chart("Divergence for what is read", Axis::log("KL divergence, nats"), 0.0, &|r| r.kl),
        chart("Agreement for what is read", Axis::linear("same likeliest token, %"), 100.0, &|r| 100.0 * r.top1),
    ]
}

/// The looks of times: measured, predicted, and as memory alone allows.
const TIMES: [(&str, usize); 3] = [("measured", ALONE), ("predicted", 8), ("reading from memory alone", 1)];

/// The legend of times.
pub fn time_legend() -> Legend {
    TIMES.map(|(name, look)| (name.to_owned(), swatch(look))).to_vec()
}

/// The time of a token against the density that was set and against the bytes read.
pub fn times(rows: &[Time], bandwidth: f64) -> Vec<String> {
    let megabytes = |t: &Time| t.bytes as f64 / 1e6;
    let curve = |which: usize, x: &dyn Fn(&Time) -> f64, seconds: &dyn Fn(&Time) -> f64| {
        let (name, look) = TIMES[which];
        let point = |t: &Time| {
            let (y, held_out) = (1e3 * seconds(t), if which == 1 && !t.fitted { " from other densities" } else { "" });
            let (density, mb) = (short(f64::from(t.density)), short(megabytes(t)));
            Point { x: x(t), y, note: format!("{} at {density}, {mb} MB: {} ms {name}{held_out}", t.policy, short(y)) }
        };
        Series { look, points: rows.iter().map(point).collect() }
    };
    let chart = |title: &str, axis: &str, x: &dyn Fn(&Time) -> f64| Chart {
        title: title.into(),
        x: Axis::linear(axis),
        y: Axis::linear("ms per token").covering(&[0.0]),
        series: vec![curve(1, x, &|t| t.predicted_seconds), curve(0, x, &|t| t.measured_seconds)],
        rules: Vec::new(),
    };
    let density = chart("Time of a token by density", "density", &|t| f64::from(t.density));
    let mut bytes = chart("Time of a token for what is read", "MB of weights read per token", &megabytes);
    bytes.series.insert(0, curve(2, &megabytes, &|t| t.bytes as f64 / bandwidth));
    vec![density.svg(), bytes.svg()]
}

/// Rows of a heat map, one for each layer after the first, in percent.
fn layer_rows(q: &Quality, of: impl Fn(&LayerQuality) -> &[f64]) -> Vec<Row> {
    let percent = |l: &LayerQuality| of(l).iter().map(|v| 100.0 * v).collect();
    q.layers.iter().enumerate().map(|(i, l)| Row { label: (i + 1).to_string(), values: percent(l) }).collect()
}

/// Figures of the heads and neurons that are used.
pub fn used(q: &Quality) -> Vec<String> {
    let heads = HeatMap {
        title: "Heads: % of their layer's importance".into(),
        x_title: "head".into(),
        y_title: "layer".into(),
        column: "head".into(),
        rows: layer_rows(q, |l| &l.heads),
        ..HeatMap::default()
    };
    let runs = q.layers.iter().map(|l| l.neurons.len()).max().unwrap_or(0);
    let neurons = HeatMap {
        title: "Neurons: % of their layer's importance".into(),
        x_title: format!("neurons, sorted by importance, in {runs} runs"),
        y_title: "layer".into(),
        column: "run".into(),
        rows: layer_rows(q, |l| &l.neurons),
        first: 1,
        spread: Spread::Log,
    };
    let active = by_layer(q, ALONE, "active", |l| 100.0 * l.active);
    let active = Chart {
        title: "Active neurons".into(),
        x: Axis::linear("layer").whole(),
        y: Axis::linear("% of neurons that are not zero").covering(&[0.0]),
        series: vec![active],
        rules: Vec::new(),
    };
    vec![heads.svg(), neurons.svg(), active.svg()]
}

/// A curve with one point for each layer.
fn by_layer(q: &Quality, look: usize, name: &str, of: impl Fn(&LayerQuality) -> f64) -> Series {
    let point = |(i, l): (usize, &LayerQuality)| {
        let y = of(l);
        Point { x: (i + 1) as f64, y, note: format!("{name}, layer {}: {}", i + 1, short(y)) }
    };
    Series { look, points: q.layers.iter().enumerate().map(point).collect() }
}

/// Figures of how well predictors find the important neurons.
pub fn predictors(q: &Quality) -> Vec<String> {
    let find = |names: &[&'static str]| -> Vec<(&'static str, usize)> {
        names.iter().filter_map(|n| Some((*n, q.scorer(n)?))).collect()
    };
    let x = || Axis::linear("layer").whole();
    let ranks = find(&["static", "shadow", "per-layer"]);
    let rank = Chart {
        title: "Rank agreement with the true importance".into(),
        x: x(),
        y: Axis::linear("Spearman's correlation"),
        series: ranks.iter().map(|(n, i)| by_layer(q, look(n), n, |l| l.rank[*i])).collect(),
        rules: Vec::new(),
    };
    let mean = q.scorer("static");
    let gain = |(n, i): &(&str, usize)| by_layer(q, look(n), n, |l| l.rank[*i] - mean.map_or(0.0, |m| l.rank[m]));
    let gains = Chart {
        title: "Rank agreement: gain over static".into(),
        x: x(),
        y: Axis::linear("difference"),
        series: find(&["shadow", "per-layer"]).iter().filter(|_| mean.is_some()).map(gain).collect(),
        rules: vec![Rule { at: 0.0, upright: false, label: "static".into() }],
    };
    let all = find(&["static", "shadow", "per-layer", "oracle"]);
    let captured = q.captured_at.iter().take(4).enumerate().map(|(at, share)| Chart {
        title: format!("Importance held by the best {:.0} % of neurons", 100.0 * share),
        x: x(),
        y: Axis::linear("% of the layer's").covering(&[0.0, 100.0]),
        series: all.iter().map(|(n, i)| by_layer(q, look(n), n, |l| 100.0 * l.captured[*i][at])).collect(),
        rules: Vec::new(),
    });
    [rank, gains].into_iter().chain(captured).map(|c| c.svg()).collect()
}
