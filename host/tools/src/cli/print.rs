//! Standard output and standard error, each of which may be full or closed.

use shadowllm_host::{Error, Result};
use std::fmt::Display;
use std::io::{ErrorKind, Write};
use std::path::Path;

/// What messages call standard output.
const STDOUT: &str = "standard output";

/// Writes to standard output at once.
pub fn text(text: impl Display) -> Result<()> {
    let mut out = std::io::stdout().lock();
    write!(out, "{text}").and_then(|()| out.flush()).map_err(|e| Error::io("write to", Path::new(STDOUT), e))
}

/// Writes a line to standard output.
pub fn line(line: impl Display) -> Result<()> {
    text(format_args!("{line}\n"))
}

/// Writes a value as JSON to standard output.
pub fn json(value: &serde_json::Value) -> Result<()> {
    line(format_args!("{value:#}"))
}

/// Writes a line to standard error. When that fails there is nowhere to report it, and it is no reason to stop.
pub fn note(line: impl Display) {
    let _ = writeln!(std::io::stderr(), "{line}");
}

/// Whether an error says that the reader of standard output is gone.
pub fn is_closed(e: &Error) -> bool {
    matches!(e, Error::Io { path, source, .. } if path == Path::new(STDOUT) && source.kind() == ErrorKind::BrokenPipe)
}
