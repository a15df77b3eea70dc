//! The parts of Python that templates use: how values are written, JSON, dates.

use super::budget::{largest, refused};
use minijinja::value::{Kwargs, Rest, Tuple, ValueKind};
use minijinja::{Error, ErrorKind, Value};
use std::fmt::Write;
use std::time::{SystemTime, UNIX_EPOCH};

/// Text of limited length.
#[derive(Default)]
struct Text(String);

impl Text {
    fn push(&mut self, text: &str) -> Result<(), Error> {
        if self.0.len() + text.len() > largest() {
            return Err(refused("makes too much text"));
        }
        self.0.push_str(text);
        Ok(())
    }
}

/// The deepest nesting of lists.
const DEPTH: usize = 100;

fn deeper(depth: usize) -> Result<usize, Error> {
    if depth == DEPTH { Err(refused("writes lists in lists without an end")) } else { Ok(depth + 1) }
}

/// A value as Python's `str` writes it: `None`, `True`, `['a', 1]`.
pub fn text(value: &Value) -> Result<String, Error> {
    let mut out = Text::default();
    match value.as_str() {
        Some(text) => out.push(text)?,
        None => repr(value, &mut out, 0)?,
    }
    Ok(out.0)
}

/// As Python's `repr`.
fn repr(value: &Value, out: &mut Text, depth: usize) -> Result<(), Error> {
    let depth = deeper(depth)?;
    match value.kind() {
        ValueKind::Undefined => Ok(()),
        ValueKind::None => out.push("None"),
        ValueKind::Bool => out.push(if value.is_true() { "True" } else { "False" }),
        ValueKind::Seq | ValueKind::Iterable => {
            let (open, close) = if value.is_tuple() { ("(", ")") } else { ("[", "]") };
            out.push(open)?;
            let mut count = 0;
            for item in value.try_iter()? {
                out.push(if count > 0 { ", " } else { "" })?;
                repr(&item, out, depth)?;
                count += 1;
            }
            out.push(if count == 1 && value.is_tuple() { "," } else { "" })?;
            out.push(close)
        }
        ValueKind::Map => {
            out.push("{")?;
            for (i, key) in value.try_iter()?.enumerate() {
                out.push(if i > 0 { ", " } else { "" })?;
                repr(&key, out, depth)?;
                out.push(": ")?;
                repr(&value.get_item(&key)?, out, depth)?;
            }
            out.push("}")
        }
        ValueKind::String => quote(value.as_str().unwrap_or_default(), out),
        ValueKind::Number => out.push(&number(value, ["nan", "inf"])),
        _ => out.push(&value.to_string()),
    }
}

/// A number as Python writes it; `names` are those of what is no number and of infinity.
fn number(value: &Value, names: [&str; 2]) -> String {
    let float = if value.is_integer() { None } else { f64::try_from(value.clone()).ok() };
    let Some(float) = float else { return value.to_string() };
    if float.is_nan() {
        return names[0].into();
    }
    if float.is_infinite() {
        return if float > 0.0 { names[1].into() } else { format!("-{}", names[1]) };
    }
    let short = format!("{float:e}");
    let (digits, exponent) = short.split_once('e').unwrap_or((&short, "0"));
    match exponent.parse::<i32>().unwrap_or(0) {
        -4..16 if float.fract() == 0.0 => format!("{float}.0"),
        -4..16 => float.to_string(),
        exponent => format!("{digits}e{}{:02}", if exponent < 0 { '-' } else { '+' }, exponent.abs()),
    }
}

fn quote(text: &str, out: &mut Text) -> Result<(), Error> {
    let mark = if text.contains('\'') && !text.contains('"') { '"' } else { '\'' };
    let mut quoted = String::from(mark);
    for c in text.chars() {
        match c {
            '\\' => quoted.push_str("\\\\"),
            '\n' => quoted.push_str("\\n"),
            '\r' => quoted.push_str("\\r"),
            '\t' => quoted.push_str("\\t"),
            c if c == mark => quoted.extend(['\\', c]),
            c if c.is_control() => _ = write!(quoted, "\\x{:02x}", u32::from(c)),
            c => quoted.push(c),
        }
    }
    quoted.push(mark);
    out.push(&quoted)
}

/// How JSON is written.
struct Json {
    indent: Option<String>,
    item: String,
    key: String,
    ascii: bool,
    sorted: bool,
}

/// The most spaces of an indentation.
const INDENT: usize = 64;

/// The filter `tojson`, as the Hugging Face library defines it: `json.dumps` without escaping letters.
pub fn to_json(value: &Value, Rest(given): Rest<Value>, options: Kwargs) -> Result<String, Error> {
    let named = |name: &str, at: usize| options.get::<Option<Value>>(name).map(|v| v.or(given.get(at).cloned()));
    let indent = named("indent", 1)?.filter(|v| !v.is_none()).map(|v| match v.as_usize() {
        Some(n) if n > INDENT => Err(refused("indents too far")),
        Some(n) => Ok(" ".repeat(n)),
        None => Ok(v.as_str().unwrap_or_default().chars().take(INDENT).collect()),
    });
    let indent = indent.transpose()?;
    let mut json = Json {
        item: if indent.is_some() { ",".into() } else { ", ".into() },
        key: ": ".into(),
        ascii: named("ensure_ascii", 0)?.is_some_and(|v| v.is_true()),
        sorted: named("sort_keys", 3)?.is_some_and(|v| v.is_true()),
        indent,
    };
    if let Some(pair) = named("separators", 2)?.filter(|v| !v.is_none()) {
        let part = |i: usize| Ok::<_, Error>(pair.get_item_by_index(i)?.as_str().unwrap_or_default().to_owned());
        (json.item, json.key) = (part(0)?, part(1)?);
    }
    options.assert_all_used()?;
    let mut out = Text::default();
    json.write(value, &mut out, 0)?;
    Ok(out.0)
}

impl Json {
    fn line(&self, out: &mut Text, depth: usize) -> Result<(), Error> {
        let Some(indent) = &self.indent else { return Ok(()) };
        out.push("\n")?;
        (0..depth).try_for_each(|_| out.push(indent))
    }

    fn write(&self, value: &Value, out: &mut Text, depth: usize) -> Result<(), Error> {
        let inner = deeper(depth)?;
        let (open, close, is_map) = match value.kind() {
            ValueKind::None => return out.push("null"),
            ValueKind::Undefined => {
                return Err(Error::new(ErrorKind::InvalidOperation, "tojson of a value that is not defined"));
            }
            ValueKind::Bool => return out.push(if value.is_true() { "true" } else { "false" }),
            ValueKind::String => return self.string(value.as_str().unwrap_or_default(), out),
            ValueKind::Map => ("{", "}", true),
            ValueKind::Seq | ValueKind::Iterable => ("[", "]", false),
            ValueKind::Number => return out.push(&number(value, ["NaN", "Infinity"])),
            _ => return out.push(&value.to_string()),
        };
        out.push(open)?;
        let mut items: Vec<Value> = value.try_iter()?.collect();
        if is_map && self.sorted {
            items.sort();
        }
        for (i, item) in items.iter().enumerate() {
            out.push(if i > 0 { &self.item } else { "" })?;
            self.line(out, inner)?;
            if is_map {
                self.string(&text(item)?, out)?;
                out.push(&self.key)?;
                self.write(&value.get_item(item)?, out, inner)?;
            } else {
                self.write(item, out, inner)?;
            }
        }
        if !items.is_empty() {
            self.line(out, depth)?;
        }
        out.push(close)
    }

    fn string(&self, text: &str, out: &mut Text) -> Result<(), Error> {
        let mut quoted = String::with_capacity(text.len() + 2);
        quoted.push('"');
        for c in text.chars() {
            match c {
                '"' => quoted.push_str("\\\""),
                '\\' => quoted.push_str("\\\\"),
                '\n' => quoted.push_str("\\n"),
                '\r' => quoted.push_str("\\r"),
                '\t' => quoted.push_str("\\t"),
                '\u{8}' => quoted.push_str("\\b"),
                '\u{c}' => quoted.push_str("\\f"),
                c if u32::from(c) < 0x20 || (self.ascii && !c.is_ascii()) => {
                    for unit in c.encode_utf16(&mut [0; 2]) {
                        // Writing to a text does not fail.
                        let _ = write!(quoted, "\\u{unit:04x}");
                    }
                }
                c => quoted.push(c),
            }
        }
        quoted.push('"');
        out.push(&quoted)
    }
}

/// Methods of Python strings that minijinja's collection lacks; `None` for other methods.
pub fn method(text: &str, name: &str, arguments: &[Value]) -> Option<Result<Value, Error>> {
    let part = arguments.first().and_then(Value::as_str);
    let three = |a: &str, b: &str, c: &str| Value::from(Tuple::from(vec![a.into(), b.into(), c.into()]));
    let value = match (name, part) {
        ("removeprefix", Some(part)) => Value::from(text.strip_prefix(part).unwrap_or(text)),
        ("removesuffix", Some(part)) => Value::from(text.strip_suffix(part).unwrap_or(text)),
        ("partition" | "rpartition" | "rsplit", Some("")) => {
            return Some(Err(Error::new(ErrorKind::InvalidOperation, format!("{name} at an empty text"))));
        }
        ("partition", Some(part)) => match text.split_once(part) {
            Some((before, after)) => three(before, part, after),
            None => three(text, "", ""),
        },
        ("rpartition", Some(part)) => match text.rsplit_once(part) {
            Some((before, after)) => three(before, part, after),
            None => three("", "", text),
        },
        ("rsplit", Some(part)) => {
            let most = arguments.get(1).and_then(Value::as_usize).map_or(usize::MAX, |n| n.saturating_add(1));
            let mut parts: Vec<Value> = text.rsplitn(most, part).map(Value::from).collect();
            parts.reverse();
            Value::from(parts)
        }
        _ => return None,
    };
    Some(Ok(value))
}

/// Today's date in the template's format, in coordinated universal time.
pub fn strftime_now(format: &str) -> String {
    let seconds = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |d| d.as_secs());
    strftime(format, seconds)
}

const MONTHS: [&str; 12] = [
    "January",
    "February",
    "March",
    "April",
    "May",
    "June",
    "July",
    "August",
    "September",
    "October",
    "November",
    "December",
];
const DAYS: [&str; 7] = ["Sunday", "Monday", "Tuesday", "Wednesday", "Thursday", "Friday", "Saturday"];

/// A time, in seconds since 1970, as C's `strftime` writes it.
fn strftime(format: &str, seconds: u64) -> String {
    let (days, second) = (seconds / 86400, seconds % 86400);
    let (mut year, mut day) = (1970, days);
    let leap = |year: u64| year.is_multiple_of(4) && (!year.is_multiple_of(100) || year.is_multiple_of(400));
    let length = |year: u64| 365 + u64::from(leap(year));
    while day >= length(year) {
        day -= length(year);
        year += 1;
    }
    let (of_year, mut month) = (day + 1, 0);
    let lengths = [31, 28 + u64::from(leap(year)), 31, 30, 31, 30, 31, 31, 30, 31, 30, 31];
    while day >= lengths[month] {
        day -= lengths[month];
        month += 1;
    }
    let (hour, minute, weekday) = (second / 3600, second / 60 % 60, ((days + 4) % 7) as usize);
    let mut out = String::new();
    let mut letters = format.chars();
    while let Some(letter) = letters.next() {
        if letter != '%' {
            out.push(letter);
            continue;
        }
        let part = match letters.next() {
            Some('Y') => year.to_string(),
            Some('y') => format!("{:02}", year % 100),
            Some('m') => format!("{:02}", month + 1),
            Some('d') => format!("{:02}", day + 1),
            Some('e') => format!("{:2}", day + 1),
            Some('j') => format!("{of_year:03}"),
            Some('B') => MONTHS[month].into(),
            Some('b' | 'h') => MONTHS[month][..3].into(),
            Some('A') => DAYS[weekday].into(),
            Some('a') => DAYS[weekday][..3].into(),
            Some('H') => format!("{hour:02}"),
            Some('I') => format!("{:02}", (hour + 11) % 12 + 1),
            Some('p') => if hour < 12 { "AM" } else { "PM" }.into(),
            Some('M') => format!("{minute:02}"),
            Some('S') => format!("{:02}", second % 60),
            Some('F') => format!("{year}-{:02}-{:02}", month + 1, day + 1),
            Some('T') => format!("{hour:02}:{minute:02}:{:02}", second % 60),
            Some('Z') => "UTC".into(),
            Some('z') => "+0000".into(),
            Some('%') => "%".into(),
            Some(other) => format!("%{other}"),
            None => "%".into(),
        };
        out.push_str(&part);
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_pythons() {
        // `print(x)` of Python 3.
        for (float, text) in [
            (1.0, "1.0"),
            (-0.5, "-0.5"),
            (1e-7, "1e-07"),
            (1.5e-5, "1.5e-05"),
            (0.0001, "0.0001"),
            (1e15, "1000000000000000.0"),
            (1e16, "1e+16"),
            (1.25e100, "1.25e+100"),
            (0.1, "0.1"),
            (0.0, "0.0"),
            (-0.0, "-0.0"),
            (f64::INFINITY, "inf"),
            (f64::NEG_INFINITY, "-inf"),
            (f64::NAN, "nan"),
        ] {
            assert_eq!(number(&Value::from(float), ["nan", "inf"]), text);
        }
        assert_eq!(number(&Value::from(7), ["", ""]), "7");
    }

    #[test]
    fn dates_are_those_of_the_calendar() {
        // As `date -u -d @N` writes them.
        assert_eq!(strftime("%d %B %Y %H:%M:%S %a %j %I %p", 0), "01 January 1970 00:00:00 Thu 001 12 AM");
        assert_eq!(strftime("%Y-%m-%d %A %%", 951_782_400), "2000-02-29 Tuesday %");
        assert_eq!(strftime("%e %b %y %F %T", 1_767_225_599), "31 Dec 25 2025-12-31 23:59:59");
    }
}
