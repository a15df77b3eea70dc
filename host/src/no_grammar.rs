//! In place of `grammar` in a build without it: there is no grammar to follow.

use crate::error::{Error, Result};
#[cfg(feature = "tokenizer")]
use crate::text::Language;

/// What an answer may be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Rules<'a> {
    /// JSON that is valid against a JSON schema.
    JsonSchema(&'a str),
    /// A text that a regular expression matches whole.
    Regex(&'a str),
    /// What the rule `start` of a grammar in Lark's notation makes.
    Lark(&'a str),
}

/// A model's tokens, as grammars see them: there are none.
#[derive(Clone, Debug)]
pub enum Vocabulary {}

/// A grammar: there is none.
#[derive(Clone, Debug)]
pub enum Grammar {}

/// A grammar that an answer follows: there is none.
#[derive(Debug)]
pub enum Following {}

#[cfg(feature = "tokenizer")]
impl Vocabulary {
    /// Always an error.
    ///
    /// # Errors
    /// That this build has no grammars.
    pub fn of(_: &Language) -> Result<Self> {
        Err(Error::Usage("this build follows no grammars: build it with the feature `grammar`".into()))
    }
}

impl Grammar {
    /// There is no vocabulary to make one of.
    ///
    /// # Errors
    /// None.
    pub fn new(vocabulary: &Vocabulary, _: Rules) -> Result<Self> {
        match *vocabulary {}
    }

    /// Begins an answer.
    pub fn follow(&self) -> Following {
        match *self {}
    }
}

impl Following {
    /// Whether nothing can follow any more.
    pub fn is_over(&self) -> bool {
        match *self {}
    }

    /// The next token, where the grammar leaves no choice.
    pub fn forced(&mut self) -> Option<u32> {
        match *self {}
    }

    /// Finds out what may follow.
    ///
    /// # Errors
    /// None.
    pub fn look(&mut self) -> Result<()> {
        match *self {}
    }

    /// Whether a token may follow.
    pub fn allows(&self, _: u32) -> bool {
        match *self {}
    }

    /// Goes on after a token.
    ///
    /// # Errors
    /// None.
    pub fn accept(&mut self, _: u32) -> Result<()> {
        match *self {}
    }
}
