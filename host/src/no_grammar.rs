//! Replaces `grammar` in a build without grammars.

use crate::error::Result;
#[cfg(feature = "tokenizer")]
use crate::text::Language;

/// The form of an answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Rules<'a> {
    /// JSON that is valid against a JSON schema.
    JsonSchema(&'a str),
    /// A text that a regular expression matches whole.
    Regex(&'a str),
    /// A text that the rule `start` of a grammar in Lark's notation produces.
    Lark(&'a str),
}

/// A model's tokens in the form that grammars use; never built.
#[derive(Clone, Debug)]
pub enum Vocabulary {}

/// A grammar; never built.
#[derive(Clone, Debug)]
pub enum Grammar {}

/// The state of an answer within its grammar; never built.
#[derive(Debug)]
pub enum Following {}

#[cfg(feature = "tokenizer")]
impl Vocabulary {
    /// Always an error.
    ///
    /// # Errors
    /// Always, because this build has no grammars.
    pub fn of(_: &Language) -> Result<Self> {
        Err(crate::error::Error::Usage("this build has no grammars: build it with the feature `grammar`".into()))
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
    /// Whether no token can follow.
    pub fn is_over(&self) -> bool {
        match *self {}
    }

    /// The next token, if the grammar allows only one.
    pub fn forced(&mut self) -> Option<u32> {
        match *self {}
    }

    /// Computes the tokens that may follow.
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

    /// Continues after a token.
    ///
    /// # Errors
    /// None.
    pub fn accept(&mut self, _: u32) -> Result<()> {
        match *self {}
    }
}
