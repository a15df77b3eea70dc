//! The parts of Python that templates use: how values are written, JSON, methods of texts.

use super::budget::{ELEMENTS, largest, refused};
use minijinja::value::{Kwargs, Rest, Tuple, ValueKind};
use minijinja::{Error, ErrorKind, Value};
use std::fmt::Write;

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
                match item.kind() {
                    ValueKind::None => out.push("\"null\"")?,
                    ValueKind::Bool => self.string(if item.is_true() { "true" } else { "false" }, out)?,
                    _ => self.string(&text(item)?, out)?,
                }
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

/// Python's `str.splitlines`.
fn lines(text: &str) -> Vec<&str> {
    let ends = ['\n', '\r', '\u{b}', '\u{c}', '\u{1c}', '\u{1d}', '\u{1e}', '\u{85}', '\u{2028}', '\u{2029}'];
    let mut lines = Vec::new();
    let mut rest = text;
    while let Some(at) = rest.find(ends) {
        lines.push(&rest[..at]);
        let end = if rest[at..].starts_with("\r\n") { 2 } else { rest[at..].chars().next().map_or(1, char::len_utf8) };
        rest = &rest[at + end..];
    }
    lines.extend(Some(rest).filter(|rest| !rest.is_empty()));
    lines
}

/// The filter `indent`, by a number of spaces or by a text.
pub fn indent(
    value: &Value,
    width: Option<Value>,
    first: Option<bool>,
    blank: Option<bool>,
    named: Kwargs,
) -> Result<String, Error> {
    let width = width.map_or_else(|| named.get::<Option<Value>>("width"), |width| Ok(Some(width)))?;
    let flag = |given: Option<bool>, name: &str| given.map_or_else(|| named.get::<Option<bool>>(name), |v| Ok(Some(v)));
    let (first, blank) = (flag(first, "first")?.unwrap_or(false), flag(blank, "blank")?.unwrap_or(false));
    named.assert_all_used()?;
    let before = match width.as_ref().map(|width| (width.as_str(), width)) {
        None => " ".repeat(4),
        Some((Some(text), _)) => text.to_owned(),
        Some((None, width)) => {
            let width = usize::try_from(i64::try_from(width.clone())?.max(0)).unwrap_or(usize::MAX);
            if width > largest() {
                return Err(refused("makes too much text"));
            }
            " ".repeat(width)
        }
    };
    let text = text(value)? + "\n";
    let mut out = Text::default();
    for (i, line) in lines(&text).into_iter().enumerate() {
        out.push(if i > 0 { "\n" } else { "" })?;
        out.push(if if i == 0 { first } else { blank || !line.is_empty() } { &before } else { "" })?;
        out.push(line)?;
    }
    Ok(out.0)
}

/// `value[start:stop:step]`, each of which may be none.
pub fn slice(value: Value, start: Value, stop: Value, step: Value) -> Result<Value, Error> {
    let number = |v: Value| if v.is_none() { Ok(None) } else { i64::try_from(v).map(Some) };
    let (start, stop, step) = (number(start)?, number(stop)?, number(step)?.unwrap_or(1));
    let bad = |why: String| Err(Error::new(ErrorKind::InvalidOperation, why));
    if step == 0 {
        return bad("a slice has the step 0".into());
    }
    match value.kind() {
        ValueKind::Undefined | ValueKind::None => Ok(Value::from(Vec::<Value>::new())),
        ValueKind::String => {
            let letters: Vec<char> = value.as_str().unwrap_or_default().chars().collect();
            Ok(picked(&letters, start, stop, step).collect::<String>().into())
        }
        ValueKind::Seq | ValueKind::Iterable => {
            let items: Vec<Value> = value.try_iter()?.take(ELEMENTS + 1).collect();
            let items: Vec<Value> = picked(&items, start, stop, step).collect();
            Ok(if value.is_tuple() { Value::from(Tuple::from(items)) } else { Value::from(items) })
        }
        kind => bad(format!("{kind} cannot be sliced")),
    }
}

/// The items of a slice.
fn picked<T: Clone>(items: &[T], start: Option<i64>, stop: Option<i64>, step: i64) -> impl Iterator<Item = T> {
    let len = items.len() as i64;
    // Places before the first item and after the last one, in the direction of the step.
    let (least, most) = if step > 0 { (0, len) } else { (-1, len - 1) };
    let place = |at: i64| if at < 0 { at.saturating_add(len).max(least) } else { at.min(most) };
    let start = start.map_or(if step > 0 { least } else { most }, place);
    let stop = stop.map_or(if step > 0 { most } else { least }, place);
    let places = std::iter::successors(Some(start), move |at| at.checked_add(step));
    let places = places.take_while(move |at| if step > 0 { *at < stop } else { *at > stop });
    places.filter_map(|at| items.get(usize::try_from(at).ok()?).cloned())
}

/// Arguments in the order of these names, which they may be given by.
fn ordered(arguments: &[Value], names: &[&str]) -> Result<Vec<Option<Value>>, Error> {
    let (given, named) = match arguments.split_last() {
        Some((last, given)) if last.is_kwargs() => (given, Kwargs::try_from(last.clone())?),
        _ => (arguments, Kwargs::from_iter(Vec::<(String, Value)>::new())),
    };
    if given.len() > names.len() {
        return Err(ErrorKind::TooManyArguments.into());
    }
    let at = |i: usize| match given.get(i) {
        Some(value) => Ok(Some(value.clone())),
        None => named.get::<Option<Value>>(names[i]),
    };
    let all: Result<Vec<_>, Error> = (0..names.len()).map(at).collect();
    named.assert_all_used()?;
    Ok(all?.into_iter().map(|value| value.filter(|value| !value.is_none())).collect())
}

/// Methods of Python that minijinja's collection lacks or knows in part; `None` for other methods.
pub fn method(value: &Value, name: &str, arguments: &[Value]) -> Option<Result<Value, Error>> {
    let part = arguments.first();
    match (value.as_str(), name, arguments.len()) {
        (Some(text), "split" | "rsplit", _) => Some(split(text, name == "rsplit", arguments)),
        (Some(text), "ljust" | "rjust" | "center" | "zfill", _) => Some(wide(text, name, arguments)),
        (Some(text), "splitlines", 0) => Some(Ok(lines(text).into_iter().map(Value::from).collect())),
        (Some(text), "title", 0) => Some(Ok(title(text).into())),
        (Some(text), "index", _) => Some(index(text, arguments)),
        // From a letter, or up to one.
        (Some(text), "startswith" | "endswith" | "find" | "count", 2..) => Some(within(text, name, arguments)),
        (Some(text), ..) => in_parts(text, name, part.and_then(Value::as_str)),
        (None, "index", 1) if value.kind() == ValueKind::Seq => Some(place(value, part?)),
        _ => None,
    }
}

/// Every run of letters with a large one first, unlike the filter `title`.
fn title(text: &str) -> String {
    let (mut titled, mut inside) = (String::with_capacity(text.len()), false);
    for letter in text.chars() {
        match inside {
            true => titled.extend(letter.to_lowercase()),
            false => titled.extend(letter.to_uppercase()),
        }
        inside = letter.is_alphabetic();
    }
    titled
}

/// Methods that take a text from another one or divide it once.
fn in_parts(text: &str, name: &str, part: Option<&str>) -> Option<Result<Value, Error>> {
    let three = |a: &str, b: &str, c: &str| Value::from(Tuple::from(vec![a.into(), b.into(), c.into()]));
    let value = match (name, part) {
        ("removeprefix", Some(part)) => Value::from(text.strip_prefix(part).unwrap_or(text)),
        ("removesuffix", Some(part)) => Value::from(text.strip_suffix(part).unwrap_or(text)),
        ("partition" | "rpartition", Some("")) => return Some(Err(empty(name))),
        ("partition", Some(part)) => match text.split_once(part) {
            Some((before, after)) => three(before, part, after),
            None => three(text, "", ""),
        },
        ("rpartition", Some(part)) => match text.rsplit_once(part) {
            Some((before, after)) => three(before, part, after),
            None => three("", "", text),
        },
        _ => return None,
    };
    Some(Ok(value))
}

fn empty(name: &str) -> Error {
    Error::new(ErrorKind::InvalidOperation, format!("{name} at an empty text"))
}

fn missing(what: &Value) -> Error {
    Error::new(ErrorKind::InvalidOperation, format!("index of {what}, which is not there"))
}

/// The place of an item in a list.
fn place(list: &Value, item: &Value) -> Result<Value, Error> {
    list.try_iter()?.position(|other| other == *item).map(Value::from).ok_or_else(|| missing(item))
}

/// The letters before a text in another one.
fn index(text: &str, arguments: &[Value]) -> Result<Value, Error> {
    let found = within(text, "find", arguments)?;
    if found == Value::from(-1) { Err(missing(&arguments.first().cloned().unwrap_or_default())) } else { Ok(found) }
}

/// Methods that look at a text between two places of it.
fn within(text: &str, name: &str, arguments: &[Value]) -> Result<Value, Error> {
    let [what, start, stop] = &ordered(arguments, &["", "", ""])?[..] else { unreachable!("three names") };
    let what = what.as_ref().ok_or(ErrorKind::MissingArgument)?;
    let all =
        if what.as_str().is_none() && name.ends_with("with") { what.try_iter()?.collect() } else { vec![what.clone()] };
    let bad = || Error::new(ErrorKind::InvalidOperation, format!("{name} of {}, which is no text", what.kind()));
    let all: Vec<&str> = all.iter().map(|part| part.as_str().ok_or_else(bad)).collect::<Result<_, _>>()?;
    let letters: Vec<char> = text.chars().collect();
    let number = |v: &Option<Value>| v.clone().map(i64::try_from).transpose();
    let (start, stop) = (number(start)?, number(stop)?);
    let len = letters.len() as i64;
    let before = start.map_or(0, |at| if at < 0 { at.saturating_add(len).max(0) } else { at });
    let inside: String = picked(&letters, start, stop, 1).collect();
    let one = all.first().copied().unwrap_or_default();
    Ok(match name {
        // Behind the end is not even an empty text.
        _ if before > len => {
            if name == "find" {
                (-1).into()
            } else if name == "count" {
                0.into()
            } else {
                false.into()
            }
        }
        "startswith" => all.iter().any(|part| inside.starts_with(part)).into(),
        "endswith" => all.iter().any(|part| inside.ends_with(part)).into(),
        "count" => inside.matches(one).count().into(),
        _ => inside.find(one).map_or(-1, |at| before + inside[..at].chars().count() as i64).into(),
    })
}

/// `split` and, from the end, `rsplit`.
fn split(text: &str, from_end: bool, arguments: &[Value]) -> Result<Value, Error> {
    let [part, most] = &ordered(arguments, &["sep", "maxsplit"])?[..] else { unreachable!("two names") };
    let most = most.clone().map(i64::try_from).transpose()?.and_then(|most| usize::try_from(most).ok());
    let most = most.unwrap_or(usize::MAX - 1);
    let mut parts: Vec<&str> =
        match part.as_ref().map(|part| part.as_str().ok_or(ErrorKind::InvalidOperation)).transpose()? {
            Some("") => return Err(empty("split")),
            Some(part) if from_end => text.rsplitn(most + 1, part).collect(),
            Some(part) => text.splitn(most + 1, part).collect(),
            None => words(text, from_end, most),
        };
    if from_end {
        parts.reverse();
    }
    Ok(parts.into_iter().map(Value::from).collect())
}

/// Words between spaces; the last one in the direction of reading holds the rest.
fn words(text: &str, from_end: bool, most: usize) -> Vec<&str> {
    let mut words = Vec::new();
    let mut rest = if from_end { text.trim_end() } else { text.trim_start() };
    while words.len() < most {
        let cut = if from_end { rest.rfind(char::is_whitespace) } else { rest.find(char::is_whitespace) };
        let Some(at) = cut else { break };
        let (before, after) = rest.split_at(at);
        let (word, left) =
            if from_end { (after.trim_start(), before.trim_end()) } else { (before, after.trim_start()) };
        words.push(word);
        rest = left;
    }
    words.extend(Some(rest).filter(|rest| !rest.is_empty()));
    words
}

/// A text made wider with spaces, or with zeros after its sign.
fn wide(text: &str, name: &str, arguments: &[Value]) -> Result<Value, Error> {
    let [width, fill] = &ordered(arguments, &["", ""])?[..] else { unreachable!("two names") };
    let width = usize::try_from(width.clone().ok_or(ErrorKind::MissingArgument)?).unwrap_or(0);
    let fill = match fill.as_ref().map(|fill| fill.as_str().unwrap_or_default()) {
        None => {
            if name == "zfill" {
                "0"
            } else {
                " "
            }
        }
        // The width alone then limits the length.
        Some(fill) if name != "zfill" && fill.chars().count() == 1 => fill,
        Some(_) => {
            let message = "the fill must be one character, and zfill has none";
            return Err(Error::new(ErrorKind::InvalidOperation, message));
        }
    };
    let more = width.saturating_sub(text.chars().count());
    let left = match name {
        "ljust" => 0,
        "center" => more / 2 + (more & width & 1),
        _ => more,
    };
    let (sign, rest) = text.split_at(usize::from(name == "zfill" && text.starts_with(['+', '-'])));
    Ok(Value::from([sign, &fill.repeat(left), rest, &fill.repeat(more - left)].concat()))
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
}
