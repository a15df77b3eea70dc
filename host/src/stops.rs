//! Stop strings: texts before which an answer ends, however they are divided into tokens.

use crate::error::{Error, Result};

/// The most stop strings.
const MOST: usize = 64;
/// The most bytes of a stop string.
const LONGEST: usize = 1024;

/// Finds stop strings in a text that comes in pieces, and holds back text that may be the beginning of one.
#[derive(Clone, Debug, Default)]
pub struct Stops {
    strings: Vec<String>,
    /// The end of the text so far, where a stop string may have begun.
    held: String,
    found: Option<usize>,
}

/// Checks the number and the lengths of stop strings.
///
/// # Errors
/// Names the string: an empty one, one of more than 1024 bytes; more than 64.
pub fn check(strings: &[String]) -> Result<()> {
    if strings.len() > MOST {
        return Err(Error::Usage(format!("{} stop strings are given: give {MOST} at most", strings.len())));
    }
    match strings.iter().position(|s| s.is_empty() || s.len() > LONGEST) {
        Some(i) if strings[i].is_empty() => {
            Err(Error::Usage(format!("stop string {} is empty, and would end every answer: leave it out", i + 1)))
        }
        Some(i) => {
            Err(Error::Usage(format!("stop string {} has {} bytes: give {LONGEST} at most", i + 1, strings[i].len())))
        }
        None => Ok(()),
    }
}

impl Stops {
    /// A search for these stop strings.
    ///
    /// # Errors
    /// As [`check`].
    pub fn new(strings: &[String]) -> Result<Self> {
        check(strings)?;
        Ok(Stops { strings: strings.to_vec(), held: String::new(), found: None })
    }

    /// Adds text and returns text that is certainly not a part of a stop string. Text after a stop string is dropped.
    pub fn push(&mut self, text: &str) -> String {
        if self.strings.is_empty() {
            return text.to_owned();
        }
        if self.found.is_some() {
            return String::new();
        }
        self.held.push_str(text);
        // The stop string that begins first; of several, the first in the list.
        let first = |(i, s): (usize, &String)| self.held.find(s.as_str()).map(|at| (at, i));
        if let Some((at, i)) = self.strings.iter().enumerate().filter_map(first).min() {
            self.found = Some(i);
            let mut before = std::mem::take(&mut self.held);
            before.truncate(at);
            return before;
        }
        let begins = |at: &usize| self.strings.iter().any(|s| s.starts_with(&self.held[*at..]));
        let longest = self.strings.iter().map(String::len).max().unwrap_or(0);
        let from = self.held.len().saturating_sub(longest);
        let mut places = self.held.char_indices().map(|(at, _)| at).skip_while(|at| *at < from);
        let at = places.find(begins).unwrap_or(self.held.len());
        let rest = self.held.split_off(at);
        std::mem::replace(&mut self.held, rest)
    }

    /// The text that was held back, after the last piece.
    pub fn finish(&mut self) -> String {
        std::mem::take(&mut self.held)
    }

    /// The index of the stop string that was found.
    pub fn found(&self) -> Option<usize> {
        self.found
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn run(strings: &[&str], pieces: &[&str]) -> (Vec<String>, String, Option<usize>) {
        let strings: Vec<String> = strings.iter().map(ToString::to_string).collect();
        let mut stops = Stops::new(&strings).unwrap();
        let out = pieces.iter().map(|piece| stops.push(piece)).collect();
        (out, stops.finish(), stops.found())
    }

    #[test]
    fn the_beginning_of_a_stop_string_is_held_back() {
        let texts = |all: &[&str]| all.iter().map(ToString::to_string).collect::<Vec<_>>();
        assert_eq!(run(&["\nUser:"], &["a\n", "Us", "ual"]), (texts(&["a", "", "\nUsual"]), String::new(), None));
        assert_eq!(run(&["\nUser:"], &["a\n", "Us", "er: b"]), (texts(&["a", "", ""]), String::new(), Some(0)));
        assert_eq!(run(&["\nUser:"], &["a\nUs"]), (texts(&["a"]), "\nUs".into(), None));
        // The first in the text, whatever the order of the list; overlapping beginnings.
        assert_eq!(run(&["cd", "bc"], &["abcd"]), (texts(&["a"]), String::new(), Some(1)));
        assert_eq!(run(&["aab"], &["a", "a", "a", "b", "c"]), (texts(&["", "", "a", "", ""]), String::new(), Some(0)));
        assert_eq!(run(&["é!"], &["caf", "é", "?"]), (texts(&["caf", "", "é?"]), String::new(), None));
        assert_eq!(run(&[], &["a"]), (texts(&["a"]), String::new(), None));
    }

    #[test]
    fn any_cut_of_a_text_gives_the_same() {
        let text = "one stop two sto three stop";
        for cut in 1..text.len() {
            let (out, rest, found) = run(&["stop two", "xyz"], &[&text[..cut], &text[cut..]]);
            assert_eq!((out.concat() + &rest, found), ("one ".into(), Some(0)), "{cut}");
        }
    }

    #[test]
    fn useless_stop_strings_are_refused() {
        assert!(check(&["a".into(), String::new()]).unwrap_err().to_string().contains("stop string 2 is empty"));
        assert!(check(&["a".repeat(1025)]).unwrap_err().to_string().contains("1025 bytes"));
        assert!(check(&vec!["a".into(); 65]).unwrap_err().to_string().contains("65 stop strings"));
    }
}
