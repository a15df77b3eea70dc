//! One list of fields for both directions: a description's fields are visited in order by a [`Codec`] that reads them
//! from little-endian words or writes them.

use super::head::u32_at;
use crate::error::Error;

/// A value that is stored as a number of its own.
pub(super) trait Coded: Copy {
    /// The number.
    fn code(self) -> u32;
    /// The value with this number.
    fn from_code(code: u32) -> Option<Self>;
}

/// Enums with stored codes; unknown codes are refused.
macro_rules! coded {
    (@one [$($scope:tt)*] $(#[$doc:meta])* $name:ident { $($(#[$vdoc:meta])* $value:ident = $code:literal,)* }) => {
        $(#[$doc])*
        #[derive(Clone, Copy, Debug, PartialEq, Eq)]
        $($scope)* enum $name { $($(#[$vdoc])* $value = $code),* }

        impl crate::image::words::Coded for $name {
            fn code(self) -> u32 {
                self as u32
            }
            fn from_code(code: u32) -> Option<Self> {
                match code { $($code => Some($name::$value),)* _ => None }
            }
        }
    };
    () => {};
    ($(#[$doc:meta])* enum $name:ident $body:tt $($rest:tt)*) => {
        coded!(@one [] $(#[$doc])* $name $body);
        coded!($($rest)*);
    };
    ($(#[$doc:meta])* $name:ident $body:tt $($rest:tt)*) => {
        coded!(@one [pub] $(#[$doc])* $name $body);
        coded!($($rest)*);
    };
}
pub(super) use coded;

impl Coded for crate::kernels::Activation {
    fn code(self) -> u32 {
        self as u32
    }
    fn from_code(code: u32) -> Option<Self> {
        u8::try_from(code).ok().and_then(Self::from_code)
    }
}

/// Visits fields in the order of their words.
pub(super) trait Codec {
    /// A word.
    fn word(&mut self, word: &mut u32);
    /// Records that a word has a value that no writer writes.
    fn refuse(&mut self);

    /// An index or an amount.
    fn count(&mut self, n: &mut usize) {
        let mut word = *n as u32;
        self.word(&mut word);
        *n = word as usize;
    }

    /// A token.
    fn id(&mut self, id: &mut u32) {
        self.word(id);
    }

    /// A float.
    fn number(&mut self, x: &mut f32) {
        let mut word = x.to_bits();
        self.word(&mut word);
        *x = f32::from_bits(word);
    }

    /// 0 or 1.
    fn flag(&mut self, flag: &mut bool) {
        let mut word = u32::from(*flag);
        self.word(&mut word);
        if word > 1 {
            self.refuse();
        }
        *flag = word == 1;
    }

    /// A code.
    fn code<T: Coded>(&mut self, value: &mut T) {
        let mut word = value.code();
        self.word(&mut word);
        match T::from_code(word) {
            Some(found) => *value = found,
            None => self.refuse(),
        }
    }

    /// A code, or 0 for an absent value.
    fn optional_code<T: Coded>(&mut self, there: &mut bool, value: &mut T) {
        let mut word = if *there { value.code() } else { 0 };
        self.word(&mut word);
        *there = word != 0;
        match T::from_code(word) {
            Some(found) => *value = found,
            None if word == 0 => {}
            None => self.refuse(),
        }
    }
}

/// Words that are read or written.
pub(super) enum Words<'a> {
    /// From these bytes.
    Read {
        /// The part's bytes.
        raw: &'a [u8],
        /// Next word.
        at: usize,
        /// Whether a word was refused.
        bad: bool,
    },
    /// To this function, a byte at a time.
    Write {
        /// Takes a byte.
        put: &'a mut dyn FnMut(u8),
        /// Words written since the last restart.
        at: usize,
    },
}

impl<'a> Words<'a> {
    /// Reads from `raw`.
    pub(super) fn read(raw: &'a [u8]) -> Self {
        Words::Read { raw, at: 0, bad: false }
    }

    /// Writes to `put`.
    pub(super) fn write(put: &'a mut dyn FnMut(u8)) -> Self {
        Words::Write { put, at: 0 }
    }

    /// Counts words from 0 again.
    pub(super) fn restart(&mut self) {
        if let Words::Write { at, .. } = self {
            *at = 0;
        }
    }

    /// Writes zeros up to `len` words since the restart.
    pub(super) fn pad(&mut self, len: usize) {
        while let Words::Write { at, .. } = self
            && *at < len
        {
            self.word(&mut 0);
        }
    }

    /// Writes one byte.
    pub(super) fn byte(&mut self, byte: u8) {
        if let Words::Write { put, .. } = self {
            put(byte);
        }
    }

    /// Ends reading: the remaining words must be zero, and every code must have been known.
    ///
    /// # Errors
    /// [`Error::Malformed`].
    pub(super) fn end(self) -> Result<(), Error> {
        let Words::Read { raw, at, bad } = self else { return Ok(()) };
        let zero = raw.get(4 * at..).is_some_and(|rest| rest.iter().all(|b| *b == 0));
        match zero && !bad {
            true => Ok(()),
            false => Err(Error::Malformed("the architecture has a code that this version does not know")),
        }
    }
}

impl Codec for Words<'_> {
    fn word(&mut self, word: &mut u32) {
        match self {
            Words::Read { raw, at, .. } => {
                *word = u32_at(raw, 4 * *at);
                *at += 1;
            }
            Words::Write { put, at } => {
                word.to_le_bytes().into_iter().for_each(put);
                *at += 1;
            }
        }
    }

    fn refuse(&mut self) {
        if let Words::Read { bad, .. } = self {
            *bad = true;
        }
    }
}
