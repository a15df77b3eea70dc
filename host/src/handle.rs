//! A shared model: it is cheap to clone, and lives as long as a session uses it.

use crate::error::Result;
#[cfg(feature = "tokenizer")]
use crate::grammar::{Grammar, Rules, Vocabulary};
use crate::model::{LoadedModel, Loading};
#[cfg(feature = "tokenizer")]
use crate::text::Language;
use std::path::Path;
use std::sync::Arc;
#[cfg(feature = "tokenizer")]
use std::sync::OnceLock;

/// A model. Its clones are the same model.
#[derive(Clone)]
pub struct Model(Arc<Shared>);

struct Shared {
    file: LoadedModel,
    /// Read on first use.
    #[cfg(feature = "tokenizer")]
    language: OnceLock<Language>,
    /// Built with the first grammar.
    #[cfg(feature = "tokenizer")]
    vocabulary: OnceLock<Vocabulary>,
}

impl Model {
    /// Maps and checks an image (`.sllm`).
    ///
    /// # Errors
    /// Names the file and what is wrong with it.
    pub fn open(path: impl AsRef<Path>) -> Result<Self> {
        Self::open_with(path, Loading::default())
    }

    /// [`Model::open`] with all options of loading.
    ///
    /// # Errors
    /// As [`LoadedModel::open_with`].
    pub fn open_with(path: impl AsRef<Path>, loading: Loading) -> Result<Self> {
        Ok(LoadedModel::open_with(path.as_ref(), loading)?.into())
    }

    /// An image that is part of the program (`include_bytes!`); `name` is used in place of its path.
    ///
    /// # Errors
    /// Says what is wrong with the image.
    pub fn from_static(name: &str, bytes: &'static [u8]) -> Result<Self> {
        Ok(LoadedModel::from_static(name, bytes, None)?.into())
    }

    /// The image.
    pub fn file(&self) -> &LoadedModel {
        &self.0.file
    }

    /// Tokenizer and chat template.
    ///
    /// # Errors
    /// As [`Language::of`].
    #[cfg(feature = "tokenizer")]
    pub fn language(&self) -> Result<&Language> {
        if let Some(language) = self.0.language.get() {
            return Ok(language);
        }
        let language = Language::of(&self.0.file)?;
        Ok(self.0.language.get_or_init(|| language))
    }

    /// A grammar for answers of this model.
    ///
    /// # Errors
    /// As [`Vocabulary::of`] and [`Grammar::new`].
    #[cfg(feature = "tokenizer")]
    pub fn grammar(&self, rules: Rules) -> Result<Grammar> {
        if self.0.vocabulary.get().is_none() {
            // If two threads build one at the same time, one of the two is kept.
            let _ = self.0.vocabulary.set(Vocabulary::of(self.language()?)?);
        }
        match self.0.vocabulary.get() {
            Some(vocabulary) => Grammar::new(vocabulary, rules),
            None => Grammar::new(&Vocabulary::of(self.language()?)?, rules),
        }
    }
}

impl From<LoadedModel> for Model {
    fn from(file: LoadedModel) -> Self {
        Model(Arc::new(Shared {
            file,
            #[cfg(feature = "tokenizer")]
            language: OnceLock::new(),
            #[cfg(feature = "tokenizer")]
            vocabulary: OnceLock::new(),
        }))
    }
}
