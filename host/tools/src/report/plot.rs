//! Line charts and heat maps as inline SVG.
//!
//! This is not done by a library because the page follows the reader's light or dark mode: its shapes have classes, and
//! the colours are in the page's style sheet, while plotting crates write fixed colours. They also have no tooltips,
//! and some with logarithmic axes label only whole decades.

use minijinja::HtmlEscape;
use std::fmt::Write;

/// Width of a panel. A chart's height is [`HEIGHT`]; a heat map's depends on its rows.
const WIDTH: f64 = 480.0;
const HEIGHT: f64 = 310.0;
/// Space around the plotting area: left, top, bottom.
const LEFT: f64 = 62.0;
const TOP: f64 = 34.0;
const BOTTOM: f64 = 46.0;
/// Space to the right of a chart, and of a heat map, which has its scale there.
const RIGHT: f64 = 16.0;
const SCALE: f64 = 64.0;
/// The ratio of the largest to the smallest value that a logarithmic heat map distinguishes.
const SHADES: f64 = 1000.0;
/// Larger values are drawn at this one, so that sums and differences stay finite.
const HUGE: f64 = 1e200;

/// How values are spread along an axis.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub enum Spread {
    /// Evenly.
    #[default]
    Linear,
    /// By their logarithm; values of 0 or less are at the lower edge.
    Log,
}

/// An axis.
#[derive(Clone, Debug, Default)]
pub struct Axis {
    /// Title of the axis.
    pub title: String,
    /// How values are spread.
    pub spread: Spread,
    /// Values that the axis must include.
    pub covers: Vec<f64>,
    /// Whether only whole numbers are labelled.
    pub whole: bool,
}

impl Axis {
    /// An even axis.
    pub fn linear(title: &str) -> Self {
        Axis { title: title.into(), ..Axis::default() }
    }

    /// A logarithmic axis.
    pub fn log(title: &str) -> Self {
        Axis { title: title.into(), spread: Spread::Log, ..Axis::default() }
    }

    /// The same axis, made to include these values.
    pub fn covering(self, values: &[f64]) -> Self {
        Axis { covers: values.to_vec(), ..self }
    }

    /// The same axis for whole numbers, such as those of layers.
    pub fn whole(self) -> Self {
        Axis { whole: true, ..self }
    }
}

/// Shape of the marks of a curve, which distinguishes curves without colours.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Mark {
    Circle,
    Square,
    Diamond,
    Up,
    Down,
    Cross,
    Plus,
    Star,
    Ring,
    Dot,
}

/// The look of a curve. Its colour is in the style sheet, under the class `c` and the look's number.
#[derive(Clone, Copy, Debug)]
struct Look {
    mark: Mark,
    hollow: bool,
    dash: &'static str,
}

/// The looks of curves, by the number of [`Series::look`].
const LOOKS: [Look; 15] = [
    Look { mark: Mark::Square, hollow: false, dash: "" },
    Look { mark: Mark::Cross, hollow: false, dash: "2 3" },
    Look { mark: Mark::Diamond, hollow: false, dash: "" },
    Look { mark: Mark::Circle, hollow: false, dash: "" },
    Look { mark: Mark::Up, hollow: false, dash: "" },
    Look { mark: Mark::Down, hollow: false, dash: "" },
    Look { mark: Mark::Square, hollow: true, dash: "" },
    Look { mark: Mark::Plus, hollow: false, dash: "" },
    Look { mark: Mark::Circle, hollow: true, dash: "6 4" },
    Look { mark: Mark::Ring, hollow: true, dash: "1 4" },
    Look { mark: Mark::Diamond, hollow: true, dash: "4 2" },
    Look { mark: Mark::Up, hollow: true, dash: "4 2" },
    Look { mark: Mark::Down, hollow: true, dash: "6 2" },
    Look { mark: Mark::Star, hollow: false, dash: "" },
    Look { mark: Mark::Dot, hollow: false, dash: "" },
];

/// The look of the dense model.
pub const DENSE: usize = LOOKS.len() - 2;
/// The look of a curve that is alone in its chart.
pub const ALONE: usize = LOOKS.len() - 1;

impl Mark {
    /// The outline around (x, y).
    fn path(self, x: f64, y: f64) -> String {
        let round = |r: f64| format!("M{:.1} {y:.1}a{r} {r} 0 1 0 {d} 0a{r} {r} 0 1 0 -{d} 0z", x - r, d = 2.0 * r);
        match self {
            Mark::Circle => round(4.0),
            Mark::Ring => round(6.5),
            Mark::Dot => round(3.0),
            Mark::Square => format!("M{:.1} {:.1}h7v7h-7z", x - 3.5, y - 3.5),
            Mark::Diamond => format!("M{x:.1} {:.1}l4.8 4.8l-4.8 4.8l-4.8 -4.8z", y - 4.8),
            Mark::Up => format!("M{x:.1} {:.1}l4.6 8h-9.2z", y - 5.0),
            Mark::Down => format!("M{x:.1} {:.1}l4.6 -8h-9.2z", y + 5.0),
            Mark::Cross => format!("M{:.1} {:.1}l7 7m0 -7l-7 7", x - 3.5, y - 3.5),
            Mark::Plus => format!("M{:.1} {y:.1}h9m-4.5 -4.5v9", x - 4.5),
            Mark::Star => format!(
                "M{x:.1} {:.1}l1.8 4.4l4.7 .4l-3.6 3.1l1.1 4.6l-4 -2.5l-4 2.5l1.1 -4.6l-3.6 -3.1l4.7 -.4z",
                y - 6.8
            ),
        }
    }

    /// Whether the outline is closed.
    fn is_closed(self) -> bool {
        !matches!(self, Mark::Cross | Mark::Plus)
    }
}

impl Look {
    fn of(number: usize) -> Look {
        LOOKS[number.min(ALONE)]
    }

    fn mark(self, x: f64, y: f64, note: &str) -> String {
        let fill = if self.mark.is_closed() && !self.hollow { "full" } else { "hollow" };
        let path = self.mark.path(x, y);
        format!("<path class=\"{fill}\" d=\"{path}\"><title>{}</title></path>", HtmlEscape(note))
    }
}

/// A point of a curve.
#[derive(Clone, Debug)]
pub struct Point {
    /// Value on the horizontal axis.
    pub x: f64,
    /// Value on the vertical axis.
    pub y: f64,
    /// The tooltip.
    pub note: String,
}

/// A curve.
#[derive(Clone, Debug)]
pub struct Series {
    /// Number of its look (colour, marks, dashes).
    pub look: usize,
    /// Its points, in the order in which they are joined.
    pub points: Vec<Point>,
}

/// A line across the chart.
#[derive(Clone, Debug)]
pub struct Rule {
    /// Its value on the axis that it crosses.
    pub at: f64,
    /// Whether it is vertical, at an x.
    pub upright: bool,
    /// Its text.
    pub label: String,
}

/// A line chart.
#[derive(Clone, Debug, Default)]
pub struct Chart {
    /// Title, above the chart.
    pub title: String,
    /// Horizontal axis, below.
    pub x: Axis,
    /// Vertical axis, on the left.
    pub y: Axis,
    /// Curves.
    pub series: Vec<Series>,
    /// Lines across.
    pub rules: Vec<Rule>,
}

/// An axis with its range and place.
struct Placed {
    spread: Spread,
    lo: f64,
    hi: f64,
    from: f64,
    to: f64,
}

impl Placed {
    /// An axis for all values that can be shown, between the pixels `from` and `to`.
    fn new(axis: &Axis, values: &[f64], from: f64, to: f64) -> Self {
        let all = values.iter().chain(&axis.covers).copied().filter(|v| v.is_finite());
        let shown = all.map(|v| v.clamp(-HUGE, HUGE)).filter(|v| axis.spread == Spread::Linear || *v > 1.0 / HUGE);
        let (lo, hi) = shown.fold((f64::INFINITY, f64::NEG_INFINITY), |(lo, hi), v| (lo.min(v), hi.max(v)));
        let (lo, hi) = if lo <= hi { (lo, hi) } else { (0.1, 1.0) };
        let (lo, hi) = match axis.spread {
            Spread::Linear if axis.whole => (lo - 0.5, hi + 0.5),
            Spread::Linear => {
                // A single value gets a range proportional to itself.
                let apart = hi - lo > 1e-9 * hi.abs().max(lo.abs());
                let room = if apart { 0.05 * (hi - lo) } else { (0.1 * hi.abs()).max(0.05) };
                (lo - room, hi + room)
            }
            Spread::Log => {
                let room = if hi / lo > 1.0 + 1e-9 { (hi / lo).powf(0.06) } else { 2.0 };
                (lo / room, hi * room)
            }
        };
        Placed { spread: axis.spread, lo, hi, from, to }
    }

    /// The pixel of a value; that of the nearest end if the value is out of range.
    fn at(&self, v: f64) -> f64 {
        let share = match self.spread {
            Spread::Linear => (v - self.lo) / (self.hi - self.lo),
            Spread::Log if v <= self.lo => 0.0,
            Spread::Log => (v / self.lo).ln() / (self.hi / self.lo).ln(),
        };
        self.from + share.clamp(0.0, 1.0) * (self.to - self.from)
    }

    /// Values with labels, and values with only a faint line.
    fn ticks(&self, most: usize, whole: bool) -> (Vec<f64>, Vec<f64>) {
        let decades = if self.spread == Spread::Log { (self.hi / self.lo).log10() } else { 0.0 };
        if decades < 0.9 {
            return (self.even_ticks(most, whole), Vec::new());
        }
        let (first, last) = (self.lo.log10().floor() as i32, self.hi.log10().ceil() as i32);
        let inside = |v: &f64| (self.lo..=self.hi).contains(v);
        let of = |digits: &[i32], every: i32| -> Vec<f64> {
            let decades = (first..=last).filter(|e| e % every == 0);
            decades.flat_map(|e| digits.iter().map(move |d| f64::from(*d) * 10f64.powi(e))).filter(inside).collect()
        };
        let every = (decades / most as f64).ceil().max(1.0) as i32;
        let labelled = match decades {
            d if d < 2.0 => of(&[1, 2, 5], 1),
            d if d < 3.0 => of(&[1, 3], 1),
            _ => of(&[1], every),
        };
        (labelled, if decades < 5.0 { of(&[2, 3, 4, 5, 6, 7, 8, 9], 1) } else { Vec::new() })
    }

    /// Multiples of 1, 2 or 5 times a power of ten.
    fn even_ticks(&self, most: usize, whole: bool) -> Vec<f64> {
        let rough = (self.hi - self.lo) / most as f64;
        let power = 10f64.powf(rough.log10().floor());
        let step = [1.0, 2.0, 5.0, 10.0].map(|m| m * power).into_iter().find(|s| *s >= rough).unwrap_or(rough);
        let step = if whole { step.max(1.0) } else { step };
        let first = (self.lo / step).ceil();
        let count = ((self.hi / step).floor() - first).clamp(0.0, 4.0 * most as f64) as usize;
        (0..=count).map(|i| (first + i as f64) * step).filter(|v| (self.lo..=self.hi).contains(v)).collect()
    }
}

/// A number in a few characters.
pub fn short(v: f64) -> String {
    let size = v.abs();
    if !v.is_finite() {
        return "–".into();
    }
    if size == 0.0 {
        return "0".into();
    }
    if !(1e-3..1e5).contains(&size) {
        return format!("{v:.1e}").replace(".0e", "e");
    }
    let decimals = (3 - size.log10().floor() as i32).clamp(0, 6) as usize;
    let text = format!("{v:.decimals$}");
    if text.contains('.') { text.trim_end_matches('0').trim_end_matches('.').to_owned() } else { text }
}

/// The beginning of a drawing of this height.
fn open(height: f64, title: &str) -> String {
    let title = HtmlEscape(title);
    format!(
        "<svg viewBox=\"0 0 {WIDTH} {height:.0}\" role=\"img\" aria-label=\"{title}\">\
        <text class=\"title\" x=\"{LEFT}\" y=\"18\">{title}</text>"
    )
}

/// Writing into a string cannot fail.
macro_rules! put {
    ($out:expr, $($arg:tt)*) => { let _ = write!($out, $($arg)*); };
}

fn text(out: &mut String, class: &str, x: f64, y: f64, content: &str) {
    put!(out, "<text class=\"{class}\" x=\"{x:.1}\" y=\"{y:.1}\">{}</text>", HtmlEscape(content));
}

fn line(out: &mut String, class: &str, from: (f64, f64), to: (f64, f64)) {
    let ((x1, y1), (x2, y2)) = (from, to);
    put!(out, "<line class=\"{class}\" x1=\"{x1:.1}\" y1=\"{y1:.1}\" x2=\"{x2:.1}\" y2=\"{y2:.1}\"/>");
}

/// The titles of both axes of an area that ends at (right, bottom).
fn axis_titles(out: &mut String, x: &str, y: &str, right: f64, bottom: f64) {
    text(out, "axis mid", (LEFT + right) / 2.0, bottom + 36.0, x);
    let (at, middle) = (16.0, (TOP + bottom) / 2.0);
    let y = HtmlEscape(y);
    put!(out, "<text class=\"axis mid\" transform=\"translate({at} {middle:.1}) rotate(-90)\">{y}</text>");
}

impl Chart {
    /// The drawing.
    pub fn svg(&self) -> String {
        let (right, bottom) = (WIDTH - RIGHT, HEIGHT - BOTTOM);
        let rules = |upright| self.rules.iter().filter(move |r| r.upright == upright).map(|r| r.at);
        let points = || self.series.iter().flat_map(|s| &s.points).filter(|p| p.is_shown());
        let x = Placed::new(&self.x, &points().map(|p| p.x).chain(rules(true)).collect::<Vec<_>>(), LEFT, right);
        let y = Placed::new(&self.y, &points().map(|p| p.y).chain(rules(false)).collect::<Vec<_>>(), bottom, TOP);
        let mut out = open(HEIGHT, &self.title);
        self.grid(&mut out, &x, &y);
        axis_titles(&mut out, &self.x.title, &self.y.title, right, bottom);
        if points().next().is_none() {
            text(&mut out, "tick mid", (LEFT + right) / 2.0, (TOP + bottom) / 2.0, "nothing to show");
        }
        for rule in self.rules.iter().filter(|r| r.at.is_finite()) {
            rule.draw(&mut out, &x, &y);
        }
        for series in &self.series {
            series.draw(&mut out, &x, &y);
        }
        out.push_str("</svg>");
        out
    }

    fn grid(&self, out: &mut String, x: &Placed, y: &Placed) {
        let ((xs, faint_xs), (ys, faint_ys)) = (x.ticks(7, self.x.whole), y.ticks(6, self.y.whole));
        let (top, bottom) = (y.to, y.from);
        for (class, values) in [("faint", faint_xs), ("grid", xs.clone())] {
            values.iter().map(|v| x.at(*v)).for_each(|at| line(out, class, (at, top), (at, bottom)));
        }
        for (class, values) in [("faint", faint_ys), ("grid", ys.clone())] {
            values.iter().map(|v| y.at(*v)).for_each(|at| line(out, class, (x.from, at), (x.to, at)));
        }
        xs.iter().for_each(|v| text(out, "tick mid", x.at(*v), bottom + 17.0, &short(*v)));
        ys.iter().for_each(|v| text(out, "tick end", x.from - 7.0, y.at(*v) + 4.0, &short(*v)));
        line(out, "edge", (x.from, bottom), (x.to, bottom));
        line(out, "edge", (x.from, top), (x.from, bottom));
    }
}

impl Rule {
    /// Draws the line; its text is beside the chart's title, where no curve can cross it.
    fn draw(&self, out: &mut String, x: &Placed, y: &Placed) {
        if self.upright {
            line(out, "rule", (x.at(self.at), y.to), (x.at(self.at), y.from));
        } else {
            line(out, "rule", (x.from, y.at(self.at)), (x.to, y.at(self.at)));
        }
        text(out, "tick end", x.to - 30.0, 18.0, &self.label);
        line(out, "rule", (x.to - 25.0, 14.0), (x.to, 14.0));
    }
}

impl Point {
    /// Whether it can be drawn.
    fn is_shown(&self) -> bool {
        self.x.is_finite() && self.y.is_finite()
    }
}

impl Series {
    fn draw(&self, out: &mut String, x: &Placed, y: &Placed) {
        let look = Look::of(self.look);
        put!(out, "<g class=\"c{}\">", self.look.min(ALONE));
        // A missing point is a gap in the line.
        for run in self.points.split(|p| !p.is_shown()).filter(|run| run.len() > 1) {
            let at: Vec<String> = run.iter().map(|p| format!("{:.1},{:.1}", x.at(p.x), y.at(p.y))).collect();
            put!(out, "<polyline points=\"{}\" stroke-dasharray=\"{}\"/>", at.join(" "), look.dash_or_none());
        }
        for p in self.points.iter().filter(|p| p.is_shown()) {
            out.push_str(&look.mark(x.at(p.x), y.at(p.y), &p.note));
        }
        out.push_str("</g>");
    }
}

impl Look {
    fn dash_or_none(self) -> &'static str {
        if self.dash.is_empty() { "none" } else { self.dash }
    }
}

/// A drawing of a look, for a legend.
pub fn swatch(look: usize) -> String {
    let (number, look) = (look.min(ALONE), Look::of(look));
    let dash = look.dash_or_none();
    let mark = look.mark.path(18.0, 8.0);
    let fill = if look.mark.is_closed() && !look.hollow { "full" } else { "hollow" };
    format!(
        "<svg class=\"swatch\" viewBox=\"0 0 36 16\" aria-hidden=\"true\"><g class=\"c{number}\">\
        <polyline points=\"1,8 35,8\" stroke-dasharray=\"{dash}\"/><path class=\"{fill}\" d=\"{mark}\"/></g></svg>"
    )
}

/// A row of a heat map.
#[derive(Clone, Debug)]
pub struct Row {
    /// Text to the left of the row.
    pub label: String,
    /// The values of its cells.
    pub values: Vec<f64>,
}

/// A heat map: the stronger the colour, the larger the value.
#[derive(Clone, Debug, Default)]
pub struct HeatMap {
    /// Title, above the map.
    pub title: String,
    /// Title of the columns, below.
    pub x_title: String,
    /// Title of the rows, on the left.
    pub y_title: String,
    /// The word for a column, in a cell's tooltip.
    pub column: String,
    /// Rows, from the top.
    pub rows: Vec<Row>,
    /// Number of the first column.
    pub first: usize,
    /// How values are spread over the colours.
    pub spread: Spread,
}

impl HeatMap {
    /// The drawing.
    pub fn svg(&self) -> String {
        let columns = self.rows.iter().map(|r| r.values.len()).max().unwrap_or(0).max(1);
        let tall = (330.0 / self.rows.len().max(1) as f64).clamp(7.0, 22.0);
        let (right, bottom) = (WIDTH - SCALE, TOP + tall * self.rows.len().max(5) as f64);
        let wide = (right - LEFT) / columns as f64;
        let mut values: Vec<f64> = self.rows.iter().flat_map(|r| &r.values).copied().collect();
        if self.spread == Spread::Log {
            // A few tiny values must not compress the colours of all others.
            let most = values.iter().copied().filter(|v| v.is_finite()).fold(0.0, f64::max);
            values.retain(|v| *v >= most / SHADES);
        }
        let axis = Axis { spread: self.spread, ..Axis::default() };
        let scale = Placed::new(&axis, &values, bottom, TOP);
        let mut out = open(bottom + BOTTOM, &self.title);
        for (i, row) in self.rows.iter().enumerate() {
            self.cells(&mut out, row, TOP + i as f64 * tall, (wide, tall), &scale);
        }
        self.labels(&mut out, (columns, wide), tall, bottom);
        axis_titles(&mut out, &self.x_title, &self.y_title, right, bottom);
        colours(&mut out, right + 14.0, &scale);
        out.push_str("</svg>");
        out
    }

    fn cells(&self, out: &mut String, row: &Row, top: f64, (wide, tall): (f64, f64), scale: &Placed) {
        let name = HtmlEscape(&row.label);
        for (j, v) in row.values.iter().enumerate().filter(|(_, v)| v.is_finite()) {
            let (x, strength) = (LEFT + j as f64 * wide, strength(*v, scale));
            let (y_title, column, n, v) = (&self.y_title, &self.column, j + self.first, short(*v));
            put!(out, "<rect class=\"cell\" x=\"{x:.2}\" y=\"{top:.2}\" width=\"{wide:.2}\" height=\"{tall:.2}\"");
            put!(out, " fill-opacity=\"{strength:.3}\"><title>{y_title} {name}, {column} {n}: {v}</title></rect>");
        }
    }

    /// Draws the numbers of rows and columns, spaced so that they can be read.
    fn labels(&self, out: &mut String, (columns, wide): (usize, f64), tall: f64, bottom: f64) {
        let every =
            |size: f64, room: f64| [1, 2, 5, 10, 20, 50, 100, 200].into_iter().find(|n| *n as f64 * size >= room);
        for j in (0..columns).step_by(every(wide, 22.0).unwrap_or(columns)) {
            let label = (j + self.first).to_string();
            text(out, "tick mid", LEFT + (j as f64 + 0.5) * wide, bottom + 17.0, &label);
        }
        for (i, row) in self.rows.iter().enumerate().step_by(every(tall, 13.0).unwrap_or(1)) {
            text(out, "tick end", LEFT - 7.0, TOP + (i as f64 + 0.5) * tall + 4.0, &row.label);
        }
    }
}

/// Opacity of a value's cell; the smallest value is still visible.
fn strength(v: f64, scale: &Placed) -> f64 {
    0.04 + 0.96 * (scale.at(v) - scale.from) / (scale.to - scale.from)
}

/// Draws the scale of the colours.
fn colours(out: &mut String, left: f64, scale: &Placed) {
    const STEPS: usize = 24;
    let tall = (scale.from - scale.to) / STEPS as f64;
    for i in 0..STEPS {
        let (y, opacity) = (scale.to + i as f64 * tall, 0.04 + 0.96 * (1.0 - (i as f64 + 0.5) / STEPS as f64));
        put!(out, "<rect class=\"cell\" x=\"{left:.1}\" y=\"{y:.2}\" width=\"10\" height=\"{tall:.2}\"");
        put!(out, " fill-opacity=\"{opacity:.3}\"/>");
    }
    for v in scale.ticks(5, false).0 {
        text(out, "tick", left + 14.0, scale.at(v) + 4.0, &short(v));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn placed(spread: Spread, values: &[f64]) -> Placed {
        Placed::new(&Axis { spread, ..Axis::default() }, values, 0.0, 100.0)
    }

    #[test]
    fn ticks_are_round_and_few() {
        assert_eq!(placed(Spread::Linear, &[0.3, 0.9]).ticks(7, false).0.len(), 7);
        let (labelled, faint) = placed(Spread::Log, &[0.001, 0.3]).ticks(6, false);
        let labels: Vec<String> = labelled.iter().map(|v| short(*v)).collect();
        assert_eq!(labels, ["0.001", "0.003", "0.01", "0.03", "0.1", "0.3"]);
        assert!(faint.contains(&0.02));
        // Less than a decade has even labels, many decades have sparse ones.
        assert!(placed(Spread::Log, &[20.0, 60.0]).ticks(6, false).0.len() >= 3);
        assert!(placed(Spread::Log, &[1e-12, 1e150]).ticks(6, false).0.len() <= 8);
        let layers = Placed::new(&Axis::linear("layer").whole(), &[1.0, 3.0], 0.0, 100.0);
        assert_eq!(layers.ticks(7, true).0, [1.0, 2.0, 3.0]);
    }

    #[test]
    fn any_values_have_a_place() {
        for spread in [Spread::Linear, Spread::Log] {
            for values in [&[][..], &[0.0], &[-1.0], &[f64::NAN], &[f64::INFINITY, 1.0], &[f64::MAX, f64::MIN_POSITIVE]]
            {
                let axis = placed(spread, values);
                assert!(axis.lo < axis.hi && axis.lo.is_finite() && axis.hi.is_finite(), "{values:?}");
                assert!(values.iter().filter(|v| v.is_finite()).all(|v| (0.0..=100.0).contains(&axis.at(*v))));
                assert!(axis.ticks(6, false).0.len() < 30);
            }
        }
    }

    #[test]
    fn numbers_are_short() {
        let cases = [(0.0, "0"), (0.25, "0.25"), (30.0, "30"), (1234.6, "1235"), (2e6, "2e6"), (0.0004, "4e-4")];
        cases.iter().for_each(|(v, expected)| assert_eq!(short(*v), *expected));
        assert_eq!(short(0.1 + 0.2), "0.3");
        assert_eq!(short(f64::NAN), "–");
    }
}
