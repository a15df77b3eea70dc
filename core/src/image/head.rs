//! Header and section table.

use crate::error::Error;

/// The first eight bytes.
pub const MAGIC: [u8; 8] = *b"SLLMIMG\0";
/// The version that this build writes, and the only one that it reads.
pub const VERSION: u32 = 4;
/// Bytes of the fixed header.
pub const HEADER_LEN: usize = 64;
/// Bytes of a row of the section table.
pub const SECTION_LEN: usize = 32;
/// The most rows of the section table.
const MAX_SECTIONS: usize = 16;

/// What a section holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u32)]
pub enum SectionKind {
    /// The model's description ([`super::Architecture`]).
    Architecture = 1,
    /// The tensor table.
    Tensors = 2,
    /// All weights.
    Weights = 3,
    /// `tokenizer.json`, UTF-8.
    Tokenizer = 4,
    /// Chat template (Jinja) with the special tokens it may name, JSON.
    Chat = 5,
    /// Where the model came from and how it was packed, JSON.
    Provenance = 6,
    /// Calibrated predictors and thresholds ([`crate::sparsity::Predictor`]).
    Predictor = 7,
}

impl SectionKind {
    /// All kinds.
    pub const ALL: [SectionKind; 7] = [
        SectionKind::Architecture,
        SectionKind::Tensors,
        SectionKind::Weights,
        SectionKind::Tokenizer,
        SectionKind::Chat,
        SectionKind::Provenance,
        SectionKind::Predictor,
    ];

    /// Name in reports.
    pub const fn name(self) -> &'static str {
        match self {
            SectionKind::Architecture => "architecture",
            SectionKind::Tensors => "tensors",
            SectionKind::Weights => "weights",
            SectionKind::Tokenizer => "tokenizer",
            SectionKind::Chat => "chat",
            SectionKind::Provenance => "provenance",
            SectionKind::Predictor => "predictor",
        }
    }
}

/// A section's place.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Section {
    /// First byte in the file.
    pub offset: usize,
    /// Bytes.
    pub len: usize,
    /// CRC-32 of the bytes (not checked at load, because that would read the whole file).
    pub crc: u32,
}

/// The sections by kind.
#[derive(Clone, Copy)]
pub(super) struct Sections([Section; SectionKind::ALL.len()]);

impl Sections {
    pub(super) fn info(&self, kind: SectionKind) -> Section {
        self.0[kind as usize - 1]
    }

    pub(super) fn get<'a>(&self, bytes: &'a [u8], kind: SectionKind) -> &'a [u8] {
        let s = self.info(kind);
        bytes.get(s.offset..s.offset + s.len).unwrap_or(&[])
    }
}

/// Little-endian u32 at `at`; 0 after the end.
pub(crate) fn u32_at(bytes: &[u8], at: usize) -> u32 {
    bytes.get(at..at + 4).and_then(|b| b.try_into().ok()).map_or(0, u32::from_le_bytes)
}

/// Little-endian u64 at `at`; 0 after the end.
pub(crate) fn u64_at(bytes: &[u8], at: usize) -> u64 {
    bytes.get(at..at + 8).and_then(|b| b.try_into().ok()).map_or(0, u64::from_le_bytes)
}

/// Checks the header and returns the sections, all inside the file.
pub(super) fn parse(bytes: &[u8]) -> Result<Sections, Error> {
    let found = bytes.len() as u64;
    if bytes.len() < MAGIC.len() || bytes[..MAGIC.len()] != MAGIC {
        return Err(Error::NotAnImage);
    }
    if bytes.len() < HEADER_LEN {
        return Err(Error::Truncated { expected: HEADER_LEN as u64, found });
    }
    let version = u32_at(bytes, 8);
    if version != VERSION {
        return Err(Error::OtherVersion { found: version, known: VERSION });
    }
    let (head_len, file_len) = (u32_at(bytes, 12) as usize, u64_at(bytes, 16));
    if found < head_len as u64 {
        return Err(Error::Truncated { expected: file_len.max(head_len as u64), found });
    }
    let count = u32_at(bytes, 28) as usize;
    if head_len < HEADER_LEN || count > MAX_SECTIONS || HEADER_LEN + count * SECTION_LEN > head_len {
        return Err(Error::Malformed("its lengths contradict each other"));
    }
    if header_crc(&bytes[..head_len]) != u32_at(bytes, 24) {
        return Err(Error::Corrupt);
    }
    if found < file_len {
        return Err(Error::Truncated { expected: file_len, found });
    }
    sections(bytes, count, head_len)
}

fn sections(bytes: &[u8], count: usize, head_len: usize) -> Result<Sections, Error> {
    let mut sections = [Section::default(); SectionKind::ALL.len()];
    for i in 0..count {
        let at = HEADER_LEN + i * SECTION_LEN;
        let (kind, crc) = (u32_at(bytes, at), u32_at(bytes, at + 4));
        let (offset, len) = (u64_at(bytes, at + 8), u64_at(bytes, at + 16));
        let end = offset.checked_add(len).ok_or(Error::Malformed("a section's length overflows"))?;
        if end > bytes.len() as u64 {
            return Err(Error::Malformed("a section ends after the end of the file"));
        }
        // Sections of a kind that this version does not know are ignored: they are additions that it does not need.
        let Some(slot) = (kind as usize).checked_sub(1).and_then(|k| sections.get_mut(k)) else { continue };
        *slot = Section { offset: offset as usize, len: len as usize, crc };
    }
    let covered = |kind: SectionKind| {
        let s = sections[kind as usize - 1];
        s.len > 0 && s.offset + s.len <= head_len
    };
    if !covered(SectionKind::Architecture) || !covered(SectionKind::Tensors) {
        return Err(Error::Malformed("the architecture or the tensor table lies outside the checked header"));
    }
    Ok(Sections(sections))
}

/// The header's checksum: CRC-32 over it, with the checksum's own field (bytes 24..28) as zero.
fn header_crc(head: &[u8]) -> u32 {
    let state = crc32(&head[..24], 0);
    let state = crc32(&[0; 4], state);
    crc32(&head[28..], state)
}

/// CRC-32 (IEEE 802.3, reflected) of `bytes`, continuing from `crc` (0 at the start).
pub fn crc32(bytes: &[u8], crc: u32) -> u32 {
    /// The polynomial's effect on four bits.
    const NIBBLES: [u32; 16] = {
        let mut table = [0; 16];
        let mut i = 0;
        while i < 16 {
            let mut c = i as u32;
            let mut bit = 0;
            while bit < 4 {
                c = if c & 1 == 1 { c >> 1 ^ 0xedb8_8320 } else { c >> 1 };
                bit += 1;
            }
            table[i] = c;
            i += 1;
        }
        table
    };
    let mut state = !crc;
    for &byte in bytes {
        state ^= u32::from(byte);
        state = state >> 4 ^ NIBBLES[(state & 15) as usize];
        state = state >> 4 ^ NIBBLES[(state & 15) as usize];
    }
    !state
}
