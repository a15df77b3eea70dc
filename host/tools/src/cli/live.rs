//! A line below an answer at a terminal, while it is written: tokens per second and bytes per token.

use crate::print;
use shadowllm_host::{Figures, Result};
use std::io::IsTerminal;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

/// The figures change no more often than this, so that they can be read.
const PERIOD: Duration = Duration::from_millis(200);
/// Clears everything after the cursor.
const CLEAR: &str = "\x1b[J";
/// Whether a line is shown. For Ctrl-C, which may end the program.
static SHOWN: AtomicBool = AtomicBool::new(false);

/// The line, and where the answer is.
pub struct Live {
    /// Columns of the terminal; 0 where nothing is shown.
    columns: usize,
    /// Letters in the answer's last line on the screen.
    column: usize,
    figures: String,
    made: Instant,
}

impl Live {
    /// A line, if `wanted` and standard output is a terminal that can show one.
    pub fn new(wanted: bool) -> Self {
        let able = std::env::var_os("TERM").is_none_or(|name| name != "dumb") && std::io::stdout().is_terminal();
        let size = if wanted && able { console::Term::stdout().size_checked() } else { None };
        // The last line is the answer's where there are few.
        let columns = size.filter(|(rows, _)| *rows > 2).map_or(0, |(_, columns)| usize::from(columns));
        Live { columns, column: 0, figures: String::new(), made: Instant::now() }
    }

    /// Takes the line away, because this text is written next.
    pub fn before(&mut self, text: &str) -> Result<()> {
        if self.columns == 0 {
            return Ok(());
        }
        for letter in text.chars() {
            self.column = after(self.column, letter, self.columns);
        }
        clear()
    }

    /// Shows the figures so far.
    pub fn show(&mut self, figures: &Figures) -> Result<()> {
        // With a letter in the last column, terminals differ in where they are after it.
        if self.columns == 0 || self.column == self.columns || figures.tokens_per_second == 0.0 {
            return Ok(());
        }
        if self.figures.is_empty() || self.made.elapsed() >= PERIOD {
            let (speed, bytes) = (figures.tokens_per_second, figures.bytes_per_token as f64 / 1e6);
            let text = format!("[{} tokens at {speed:.1} t/s, {bytes:.1} MB read per token]", figures.generated_tokens);
            self.figures = text.chars().take(self.columns - 1).collect();
            self.made = Instant::now();
        }
        SHOWN.store(true, Ordering::Relaxed);
        // One line down and up again makes sure that there is a line below; then the place is kept (7) and restored (8).
        let (dim, plain) = if print::colors() { ("\x1b[2m", "\x1b[0m") } else { ("", "") };
        print::text(format_args!("\x1bD\x1bM\x1b7\x1b[B\r{dim}{}{plain}\x1b8", self.figures))
    }
}

impl Drop for Live {
    fn drop(&mut self) {
        // Whoever writes next meets the same failure.
        let _ = clear();
    }
}

fn clear() -> Result<()> {
    if SHOWN.swap(false, Ordering::Relaxed) { print::text(CLEAR) } else { Ok(()) }
}

/// Takes the line away when the program ends at once. May be called in a signal handler.
#[cfg(unix)]
pub fn abandon() {
    if SHOWN.load(Ordering::Relaxed) {
        // SAFETY: the bytes are there; POSIX allows `write` in a signal handler.
        let _ = unsafe { libc::write(libc::STDOUT_FILENO, CLEAR.as_ptr().cast(), CLEAR.len()) };
    }
}

/// The column after a letter; `columns` itself after one in the last column.
fn after(column: usize, letter: char, columns: usize) -> usize {
    match letter {
        '\n' | '\r' => 0,
        '\t' => (column / 8 * 8 + 8).min(columns - 1),
        _ => {
            let width = console::measure_text_width(letter.encode_utf8(&mut [0; 4]));
            if column + width > columns { width } else { column + width }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::after;

    #[test]
    fn columns_are_those_of_a_terminal() {
        let end = |text: &str| text.chars().fold(0, |column, letter| after(column, letter, 8));
        assert_eq!([end(""), end("four"), end("four\nto"), end("a\tb")], [0, 4, 2, 8]);
        // A full line ends at its last column until the next letter comes.
        assert_eq!([end("eight..."), end("eight...n"), end("eight...\n")], [8, 1, 0]);
        // Wide letters are not divided.
        assert_eq!([end("日本語文"), end("1日本語文"), end("e\u{301}")], [8, 2, 1]);
    }
}
