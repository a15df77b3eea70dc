//! What a source would become, and why it could not be packed or its image not be run: found without packing it.

use super::{Arrangement, Formats, layout};
use crate::import::Source;
use shadowllm_core::image::{Architecture, Config, Storage};
use shadowllm_host::Result;
use std::collections::BTreeMap;

/// What packing a source would give.
#[derive(Clone, Debug, Default)]
pub struct Outlook {
    /// How many matrices there would be of each number format.
    pub formats: BTreeMap<&'static str, usize>,
    /// What is in the way, a sentence each; empty where nothing is.
    pub refused: Vec<String>,
}

/// What packing a source with its own numbers, for its heads and neurons, would give.
pub fn outlook(source: &dyn Source) -> Outlook {
    let mut outlook = Outlook::default();
    let described = describe(source, &mut outlook);
    let problems = [described.err(), source.tokenizer().err(), source.chat().err()];
    outlook.refused.extend(problems.into_iter().flatten().map(|e| e.to_string()));
    outlook
}

fn describe(source: &dyn Source, outlook: &mut Outlook) -> Result<()> {
    let failed = |e: shadowllm_core::Error| shadowllm_host::Error::file(source.path(), e.to_string());
    let spec = Arrangement::DENSE.of(source.spec());
    let section = spec.section().map_err(failed)?;
    let arch = Architecture::parse(&section).map_err(failed)?;
    outlook.refused.extend(Config::of(&arch).err().map(|e| e.to_string()));
    layout::check(source, &spec, &arch)?;
    for entry in layout::plan(source, &arch, Formats::OWN)?.iter().flat_map(|part| &part.entries) {
        if let Storage::Tiles(g) = entry.storage {
            *outlook.formats.entry(g.format.name()).or_default() += entry.experts.max(1);
        }
    }
    Ok(())
}
