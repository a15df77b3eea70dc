//! What a source would become, or why it could not be packed or run, found out without packing it.

use super::{Arrangement, Formats, layout};
use crate::import::Source;
use shadowllm_core::image::{Architecture, Config, Storage};
use shadowllm_host::Result;
use std::collections::BTreeMap;

/// The result that packing a source would have.
#[derive(Clone, Debug, Default)]
pub struct Outlook {
    /// Number of matrices of each number format.
    pub formats: BTreeMap<&'static str, usize>,
    /// The obstacles, one sentence each; empty if there are none.
    pub refused: Vec<String>,
}

/// The result of packing a source with its own formats, in the arrangement for heads and neurons.
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
