//! Limits of templates. A template comes with a model, so it may come from anybody.

use minijinja::value::ValueKind;
use minijinja::{Error, ErrorKind, Value};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

scoped_tls::scoped_thread_local! {
    /// The flag that cancels rendering on this thread.
    static CANCEL: AtomicBool
}

/// Calls `body`, which is cancelled when the flag is raised.
pub fn cancelled_by<R>(flag: Option<&AtomicBool>, body: impl FnOnce() -> R) -> R {
    match flag {
        Some(flag) => CANCEL.set(flag, body),
        None => body(),
    }
}

/// Whether this thread's work is cancelled.
pub fn is_cancelled() -> bool {
    CANCEL.is_set() && CANCEL.with(|flag| flag.load(Ordering::Relaxed))
}

/// The most steps of a template: a thousand times those of the longest conversations.
pub const STEPS: u64 = 10_000_000;
/// The longest time.
const TIME: Duration = Duration::from_secs(10);
/// The most bytes of one value, and of the prompt.
pub const LARGEST: usize = 64 << 20;
/// The most bytes of all values that are made.
const ALL: usize = 512 << 20;
/// The most elements of a list, including those of nested lists.
const ELEMENTS: usize = 1 << 20;
/// The deepest nesting of lists.
const DEPTH: usize = 100;
/// Bytes that each element of a list counts as.
const ELEMENT: usize = 48;

/// The error for a template that is stopped.
pub fn refused(why: &str) -> Error {
    Error::new(ErrorKind::InvalidOperation, format!("it was stopped, because it {why}"))
}

/// What one rendering may still use.
pub struct Budget {
    made: AtomicUsize,
    end: Instant,
}

impl Budget {
    /// A full budget.
    pub fn new() -> Self {
        Budget { made: AtomicUsize::new(0), end: Instant::now() + TIME }
    }

    /// Checks the time and the flag.
    pub fn tick(&self) -> Result<(), Error> {
        if is_cancelled() {
            return Err(refused("was cancelled"));
        }
        if Instant::now() > self.end {
            return Err(refused("takes more than 10 seconds"));
        }
        Ok(())
    }

    /// Counts bytes of new values.
    pub fn spend(&self, bytes: usize) -> Result<(), Error> {
        self.tick()?;
        let before = self.made.fetch_add(bytes.min(ALL), Ordering::Relaxed);
        if bytes > LARGEST || before + bytes > ALL { Err(refused("makes too much text")) } else { Ok(()) }
    }

    /// Checks a new value.
    pub fn admit(&self, value: &Value) -> Result<(), Error> {
        match value.as_str() {
            Some(text) => self.spend(text.len()),
            None => self.spend(ELEMENT * Weight::of(value)?.elements),
        }
    }
}

/// The size of a value.
#[derive(Default)]
pub struct Weight {
    /// Elements of lists and maps, at all depths; 1 for other values.
    pub elements: usize,
    /// Bytes of all texts in it.
    pub bytes: usize,
}

impl Weight {
    /// The size of a value. Shared parts count each time that they occur, as they do when the value is written.
    pub fn of(value: &Value) -> Result<Weight, Error> {
        let mut weight = Weight::default();
        weight.add(value, 0)?;
        Ok(weight)
    }

    fn add(&mut self, value: &Value, depth: usize) -> Result<(), Error> {
        self.elements += 1;
        self.bytes += value.as_str().map(str::len).or(value.as_bytes().map(<[u8]>::len)).unwrap_or(0);
        if self.bytes > LARGEST {
            return Err(refused("makes too much text"));
        }
        let len = match value.kind() {
            // A sequence that does not know its length can be read only once, so it counts as empty.
            ValueKind::Seq | ValueKind::Iterable | ValueKind::Map => value.len().unwrap_or(0),
            _ => 0,
        };
        if len > ELEMENTS || self.elements > ELEMENTS {
            return Err(refused("makes lists that are too long"));
        }
        if len == 0 {
            return Ok(());
        }
        if depth == DEPTH {
            return Err(refused("makes lists in lists without an end"));
        }
        for item in value.try_iter()? {
            self.add(&item, depth + 1)?;
            if value.kind() == ValueKind::Map {
                self.add(&value.get_item(&item)?, depth + 1)?;
            }
        }
        Ok(())
    }
}
