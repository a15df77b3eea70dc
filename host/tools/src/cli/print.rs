//! Standard input, standard output and standard error, each of which may be full or closed.

use shadowllm_host::{Error, Result};
use std::borrow::Cow;
use std::fmt::Display;
use std::io::{ErrorKind, IsTerminal, Read, Write};
use std::path::Path;

/// The name of standard output in messages.
const STDOUT: &str = "standard output";

/// The whole of standard input.
pub fn standard_input() -> Result<String> {
    let bad = |e: &dyn std::fmt::Display| Error::Other(format!("cannot read standard input: {e}"));
    let mut bytes = Vec::new();
    std::io::stdin().lock().read_to_end(&mut bytes).map_err(|e| bad(&e))?;
    String::from_utf8(bytes).map_err(|e| {
        let at = e.utf8_error().valid_up_to();
        bad(&format_args!(
            "it is not UTF-8 text (byte {at} is the first that is wrong): convert it, for example with iconv"
        ))
    })
}

/// Writes to standard output at once.
pub fn text(text: impl Display) -> Result<()> {
    let mut out = std::io::stdout().lock();
    write!(out, "{text}").and_then(|()| out.flush()).map_err(|e| Error::io("write to", Path::new(STDOUT), e))
}

/// Writes a line to standard output.
pub fn line(line: impl Display) -> Result<()> {
    text(format_args!("{line}\n"))
}

/// A text of a file or a model without the characters that a terminal obeys, which could move, colour or forge what it shows;
/// escaped, with `lines` and tabs left as they are.
pub fn harmless(text: &str, lines: bool) -> String {
    let obeyed = |c: char| c.is_control() && !(lines && matches!(c, '\n' | '\t'));
    let mut shown = String::with_capacity(text.len());
    for c in text.chars() {
        if obeyed(c) { shown.extend(c.escape_default()) } else { shown.push(c) }
    }
    shown
}

/// Whether standard output is a terminal.
pub fn terminal() -> bool {
    std::io::stdout().is_terminal()
}

/// A text of a file or a model as standard output gets it: harmless for a terminal, else as it is.
pub fn shown(text: &str, terminal: bool) -> Cow<'_, str> {
    // Without the first half of some systems' line breaks.
    if terminal { harmless(&text.replace('\r', ""), true).into() } else { text.into() }
}

/// Whether standard output shows colours and dimmed text.
pub fn colors() -> bool {
    std::env::var_os("NO_COLOR").is_none_or(|value| value.is_empty()) && terminal()
}

/// Text on standard output, of which some is shown dimmed at a terminal, unless NO_COLOR is set.
#[derive(Default)]
pub struct Dim {
    on: bool,
}

impl Dim {
    /// Writes a text at once.
    pub fn text(&mut self, what: &str, dimmed: bool) -> Result<()> {
        if dimmed != self.on {
            self.on = dimmed;
            self.switch()?;
        }
        text(shown(what, terminal()))
    }

    /// Writes the following text as usual.
    pub fn end(&mut self) -> Result<()> {
        if std::mem::take(&mut self.on) { self.switch() } else { Ok(()) }
    }

    fn switch(&self) -> Result<()> {
        if colors() { text(if self.on { "\x1b[2m" } else { "\x1b[0m" }) } else { Ok(()) }
    }
}

/// Writes a value as JSON to standard output.
pub fn json(value: &serde_json::Value) -> Result<()> {
    line(format_args!("{value:#}"))
}

/// Writes values with the same fields to standard output as CSV, after a line with the names of the fields.
pub fn csv(rows: &[serde_json::Value]) -> Result<()> {
    text(as_csv(rows)?)
}

/// Values with the same fields as CSV; items of lists are separated by spaces.
pub fn as_csv(rows: &[serde_json::Value]) -> Result<String> {
    use serde_json::Value;
    let cell = |value: &Value| match value {
        Value::Null => String::new(),
        Value::String(text) => text.clone(),
        Value::Array(all) => all.iter().map(Value::to_string).collect::<Vec<_>>().join(" "),
        other => other.to_string(),
    };
    let bad = |e: csv::Error| Error::Other(e.to_string());
    let mut writer = csv::Writer::from_writer(Vec::new());
    if let Some(first) = rows.first().and_then(Value::as_object) {
        writer.write_record(first.keys()).map_err(bad)?;
    }
    for row in rows.iter().filter_map(Value::as_object) {
        writer.write_record(row.values().map(cell)).map_err(bad)?;
    }
    let bytes = writer.into_inner().map_err(|e| Error::Other(e.to_string()))?;
    String::from_utf8(bytes).map_err(|e| Error::Other(e.to_string()))
}

/// Writes an error to standard error, with what files bring into it made harmless.
pub fn failure(e: &Error) {
    note(harmless(&format!("shadowllm: {e}"), true));
}

/// Writes a line to standard error. A failure is ignored: it cannot be reported, and is not a reason to stop.
pub fn note(line: impl Display) {
    let _ = writeln!(std::io::stderr(), "{line}");
}

/// Whether an error says that the reader of standard output is gone.
pub fn is_closed(e: &Error) -> bool {
    matches!(e, Error::Io { path, source, .. } if path == Path::new(STDOUT) && source.kind() == ErrorKind::BrokenPipe)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn terminals_get_nothing_to_obey() {
        let text = "a\n\tb\u{1b}[2J\r\u{7}\u{9b}é\u{301}";
        assert_eq!(harmless(text, true), "a\n\tb\\u{1b}[2J\\r\\u{7}\\u{9b}é\u{301}");
        assert_eq!(harmless("a\nb", false), "a\\nb");
    }
}
