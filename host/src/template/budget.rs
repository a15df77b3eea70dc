//! Limits of templates. A template comes with a model, so it may come from anybody.

use crate::clock::used;
use minijinja::value::ValueKind;
use minijinja::{Error, ErrorKind, Value};
use std::cell::Cell;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Duration;

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
/// The longest time of the processor.
const TIME: Duration = Duration::from_millis(1500);
/// Values, and bytes of them, after which the time is looked at again.
const VALUES: usize = 64;
const BYTES: usize = 64 << 10;
/// The most bytes of a template's source: many times those of any model.
pub const SOURCE: usize = 256 << 10;
/// The most bytes of one value, and of the prompt: a constant and a multiple of the messages' own bytes.
const LARGEST: Share = Share { base: 512 << 10, times: 8 };
/// The most bytes of all values that are made. A template that adds one message after the other to a text or list makes
/// values of the whole conversation times half its messages.
const ALL: Share = Share { base: 16 << 20, times: 128 };
/// The most elements of a list, including those of nested lists.
pub const ELEMENTS: usize = 1 << 18;
/// The deepest nesting of lists.
const DEPTH: usize = 100;
/// Bytes that each element of a list counts as.
const ELEMENT: usize = 48;

/// What is allowed for an input.
struct Share {
    base: usize,
    times: usize,
}

impl Share {
    const fn of(&self, input: usize) -> usize {
        self.base.saturating_add(self.times.saturating_mul(input))
    }
}

thread_local! {
    /// The most bytes of one value on this thread.
    static ROOM: Cell<usize> = const { Cell::new(LARGEST.of(0)) };
}

/// The most bytes of one value, on the thread that renders.
pub fn largest() -> usize {
    ROOM.get()
}

/// The error for a template that is stopped.
pub fn refused(why: &str) -> Error {
    Error::new(ErrorKind::InvalidOperation, format!("it was stopped, because it {why}"))
}

/// What one rendering may still use.
pub struct Budget {
    made: AtomicUsize,
    values: AtomicUsize,
    all: usize,
    end: Duration,
}

impl Budget {
    /// A full budget for a template that gets this value.
    pub fn of(input: &Value) -> Result<Self, Error> {
        ROOM.set(usize::MAX);
        let weight = Weight::of(input)?;
        let bytes = weight.bytes + ELEMENT * weight.elements;
        ROOM.set(LARGEST.of(bytes));
        let end = used() + TIME;
        Ok(Budget { made: AtomicUsize::new(0), values: AtomicUsize::new(0), all: ALL.of(bytes), end })
    }

    /// Checks the flag and, now and then, the time; counts bytes of new values.
    fn count(&self, bytes: usize) -> Result<(), Error> {
        if is_cancelled() {
            return Err(refused("was cancelled"));
        }
        let values = self.values.fetch_add(1, Ordering::Relaxed);
        if (values % VALUES == VALUES - 1 || bytes > BYTES) && used() > self.end {
            return Err(refused("takes longer than any model's does"));
        }
        let before = self.made.fetch_add(bytes.min(self.all), Ordering::Relaxed);
        if before + bytes > self.all { Err(refused("makes too much text")) } else { Ok(()) }
    }

    /// Counts a new text.
    pub fn spend(&self, bytes: usize) -> Result<(), Error> {
        if bytes > largest() {
            return Err(refused("makes too much text"));
        }
        self.count(bytes)
    }

    /// Checks a new value. The parts of a list were counted when they were made. A sequence that would be computed at each
    /// use becomes a list.
    pub fn admitted(&self, value: Value) -> Result<Value, Error> {
        if let Some(text) = value.as_str() {
            return self.spend(text.len()).map(|()| value);
        }
        let computed = match value.kind() {
            ValueKind::Iterable => value.len().is_none(),
            // A list of lists that are read one after the other.
            ValueKind::Seq => !value.is_tuple() && value.downcast_object_ref::<Vec<Value>>().is_none(),
            _ => false,
        };
        let value = if computed { value.try_iter()?.take(ELEMENTS + 1).collect() } else { value };
        Weight::of(&value)?;
        self.count(ELEMENT * length(&value).unwrap_or(1)).map(|()| value)
    }
}

/// The number of a list's or map's elements, where it is known.
fn length(value: &Value) -> Option<usize> {
    match value.kind() {
        ValueKind::Seq | ValueKind::Iterable => value.len(),
        ValueKind::Map => value.len().map(|len| 2 * len),
        _ => None,
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
        if self.bytes > largest() {
            return Err(refused("makes too much text"));
        }
        let len = match value.kind() {
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
