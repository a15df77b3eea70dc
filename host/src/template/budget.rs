//! What a template may use up. A template comes with a model, so it may come from anybody.

use minijinja::value::ValueKind;
use minijinja::{Error, ErrorKind, Value};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

scoped_tls::scoped_thread_local! {
    /// The flag that cancels what this thread renders.
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

/// Steps of a template at most: a thousand times what the longest conversations take.
pub const STEPS: u64 = 10_000_000;
/// Seconds at most.
const TIME: Duration = Duration::from_secs(10);
/// Bytes of one value, and of the prompt.
pub const LARGEST: usize = 64 << 20;
/// Bytes of all values that are made.
const ALL: usize = 512 << 20;
/// Elements of a list, with those of the lists in it.
const ELEMENTS: usize = 1 << 20;
/// Lists in lists.
const DEPTH: usize = 100;
/// Bytes that an element of a list takes.
const ELEMENT: usize = 48;

/// Why a template is stopped.
pub fn refused(why: &str) -> Error {
    Error::new(ErrorKind::InvalidOperation, format!("it was stopped, because it {why}"))
}

/// What is left to one rendering.
pub struct Budget {
    made: AtomicUsize,
    end: Instant,
}

impl Budget {
    /// A whole one.
    pub fn new() -> Self {
        Budget { made: AtomicUsize::new(0), end: Instant::now() + TIME }
    }

    /// Looks at the time and the flag.
    pub fn tick(&self) -> Result<(), Error> {
        if is_cancelled() {
            return Err(refused("was cancelled"));
        }
        if Instant::now() > self.end {
            return Err(refused("takes more than 10 seconds"));
        }
        Ok(())
    }

    /// Counts bytes that are made.
    pub fn spend(&self, bytes: usize) -> Result<(), Error> {
        self.tick()?;
        let before = self.made.fetch_add(bytes.min(ALL), Ordering::Relaxed);
        if bytes > LARGEST || before + bytes > ALL { Err(refused("makes too much text")) } else { Ok(()) }
    }

    /// Looks at a value that was made.
    pub fn admit(&self, value: &Value) -> Result<(), Error> {
        match value.as_str() {
            Some(text) => self.spend(text.len()),
            None => self.spend(ELEMENT * Weight::of(value)?.elements),
        }
    }
}

/// How much there is of a value.
#[derive(Default)]
pub struct Weight {
    /// Elements of lists and maps, at all depths; 1 for other values.
    pub elements: usize,
    /// Bytes of all texts in it.
    pub bytes: usize,
}

impl Weight {
    /// Of a value. What it shares counts as often as it is there, as it does when the value is written.
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
            // One that does not know its length may be read once only.
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
