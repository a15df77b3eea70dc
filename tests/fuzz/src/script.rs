//! An input as a script: which image is changed, how, and what a session does with it.

use shadowllm_core::image::{HEADER_LEN, SECTION_LEN, SectionKind, crc32};
use shadowllm_core::sample::{Sampler, SamplerOptions};
use shadowllm_core::sparsity::{Allocation, Dial, Policy};
use shadowllm_core::{Cpu, Image, Isa, Kernels, KvFormat, Model, Serial, Session, SessionOptions};
use std::mem::MaybeUninit;
use std::sync::OnceLock;

/// The bytes that are left; zeros after them.
pub struct Script<'a>(pub &'a [u8]);

impl Script<'_> {
    pub fn byte(&mut self) -> u8 {
        let (first, rest) = self.0.split_first().unwrap_or((&0, &[]));
        self.0 = rest;
        *first
    }

    pub fn word(&mut self) -> u32 {
        u32::from_le_bytes([0; 4].map(|_: u8| self.byte()))
    }

    /// A number below `n`.
    pub fn below(&mut self, n: usize) -> usize {
        let most = n.max(1);
        (if most <= 256 { self.byte().into() } else { self.word() as usize }) % most
    }

    pub fn one_of<T: Copy>(&mut self, all: &[T]) -> T {
        all[self.below(all.len())]
    }

    /// Kernels of an instruction set that this machine has.
    pub fn kernels(&mut self) -> &'static Kernels {
        let isa = self.one_of(&[Isa::Avx2, Isa::Scalar, Isa::Avx512]);
        Kernels::for_isa(Cpu::detect(), isa).unwrap_or_else(|| Kernels::best(Cpu::detect()))
    }
}

/// The images that scripts change (`SHADOWLLM_FUZZ_BASES`): without texts, whole, and those with a predictor.
pub fn bases(calibrated: bool) -> &'static [Vec<u8>] {
    static BASES: OnceLock<[Vec<Vec<u8>>; 2]> = OnceLock::new();
    let all = BASES.get_or_init(|| {
        let folder = std::env::var("SHADOWLLM_FUZZ_BASES").expect("SHADOWLLM_FUZZ_BASES names the folder of images");
        let mut paths: Vec<_> = std::fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path()).collect();
        paths.sort();
        let all: Vec<Vec<u8>> = paths.iter().map(|path| without_texts(std::fs::read(path).unwrap())).collect();
        let calibrated = all.iter().filter(|bytes| place(bytes, SectionKind::Predictor).1 > 0).cloned().collect();
        [all, calibrated]
    });
    &all[usize::from(calibrated)]
}

/// Begin and length of a section.
pub fn place(bytes: &[u8], kind: SectionKind) -> (usize, usize) {
    let section = Image::parse(bytes).unwrap().section_info(kind);
    (section.offset, section.len)
}

/// Cuts off what lies after the weights and the predictor, so that reading beyond them is noticed.
fn without_texts(mut bytes: Vec<u8>) -> Vec<u8> {
    let ends = [SectionKind::Weights, SectionKind::Predictor].map(|kind| place(&bytes, kind));
    let end = ends.into_iter().map(|(at, len)| at + len).max().unwrap();
    let rows = u32::from_le_bytes(bytes[28..32].try_into().unwrap()) as usize;
    for row in bytes[HEADER_LEN..HEADER_LEN + rows * SECTION_LEN].chunks_exact_mut(SECTION_LEN) {
        let texts = [SectionKind::Tokenizer, SectionKind::Chat, SectionKind::Provenance];
        if texts.iter().any(|kind| row[..4] == (*kind as u32).to_le_bytes()) {
            row[..4].copy_from_slice(&99u32.to_le_bytes());
            row[8..24].fill(0);
        }
    }
    bytes.truncate(end);
    bytes[16..24].copy_from_slice(&(end as u64).to_le_bytes());
    resign(&mut bytes);
    bytes.shrink_to_fit();
    assert!(Image::parse(&bytes).is_ok());
    bytes
}

/// Makes the head's checksum right.
pub fn resign(bytes: &mut [u8]) {
    let head = u32::from_le_bytes(bytes[12..16].try_into().unwrap()) as usize;
    bytes[24..28].fill(0);
    if let Some(head) = bytes.get(..head) {
        let sum = crc32(head, 0);
        bytes[24..28].copy_from_slice(&sum.to_le_bytes());
    }
}

/// Numbers at which sizes go wrong.
const EDGES: [u64; 24] = [
    0,
    1,
    2,
    3,
    4,
    7,
    8,
    15,
    16,
    17,
    31,
    32,
    33,
    64,
    255,
    256,
    4096,
    65535,
    65536,
    1 << 20,
    1 << 26,
    0x7fff_ffff,
    0xffff_ffff,
    u64::MAX,
];

/// Where a change is made, and how many bytes wide it is.
fn target(bytes: &[u8], script: &mut Script, predictor_only: bool) -> (usize, usize) {
    let at = |kind| place(bytes, kind);
    let head = u32::from_le_bytes(bytes[12..16].try_into().unwrap()) as usize;
    // Fields of a row of a table: code, format, order, experts, layer, shape, place, length.
    let fields = [
        (0, 1),
        (1, 1),
        (2, 1),
        (3, 1),
        (4, 2),
        (8, 4),
        (12, 4),
        (16, 4),
        (20, 4),
        (24, 4),
        (28, 4),
        (32, 8),
        (40, 8),
        (48, 4),
        (56, 8),
    ];
    let (predictor, predictor_len) = at(SectionKind::Predictor);
    if predictor_only {
        let rows = u32::from_le_bytes(bytes[predictor + 32..predictor + 36].try_into().unwrap()) as usize;
        return match script.byte() % 4 {
            0 => (predictor + 8 + 4 * script.below(14), 4),
            1 | 2 => {
                let (field, width) = script.one_of(&fields);
                (predictor + 64 + 64 * script.below(rows) + field, width)
            }
            _ => (predictor + script.word() as usize % predictor_len, 4),
        };
    }
    let (architecture, architecture_len) = at(SectionKind::Architecture);
    let (tensors, tensors_len) = at(SectionKind::Tensors);
    let (weights, weights_len) = at(SectionKind::Weights);
    match script.byte() % 8 {
        0 | 1 => (architecture + 4 * script.below(architecture_len / 4), 4),
        2..=4 => {
            let (field, width) = script.one_of(&fields);
            (tensors + 64 * script.below(tensors_len / 64) + field, width)
        }
        5 => (12 + script.word() as usize % (head - 12), 1),
        6 => (HEADER_LEN + script.below(7) * SECTION_LEN + script.one_of(&[0, 4, 8, 16]), 8),
        _ if predictor_len > 0 => (predictor + script.word() as usize % predictor_len.min(4096), 4),
        _ => (weights + script.word() as usize % weights_len.max(1), 4),
    }
}

/// Changes an image as the script says.
pub fn patch(bytes: &mut [u8], script: &mut Script, predictor_only: bool) {
    let original = bytes.to_vec();
    for _ in 0..1 + script.below(6) {
        let (at, width) = target(&original, script, predictor_only);
        let end = (at + width).min(bytes.len());
        if at >= end {
            continue;
        }
        let mut old = [0; 8];
        old[..end - at].copy_from_slice(&bytes[at..end]);
        let old = u64::from_le_bytes(old);
        let how = script.byte();
        let value = match how % 6 {
            0 => script.one_of(&EDGES),
            1 => script.word().into(),
            2 => old.wrapping_add(script.byte() as i8 as u64),
            3 => u64::from(script.word()) & 0xffff,
            4 => old.wrapping_mul(script.one_of(&[2, 3, 16, 32])),
            _ => (u64::from(script.word()) & 0xffff) << script.below(48),
        };
        let new = value.to_le_bytes();
        bytes[at..end].copy_from_slice(&new[..end - at]);
        let (tensors, len) = place(&original, SectionKind::Tensors);
        // The same field in all layers, often: a layer's tensors must agree.
        if how & 0x80 != 0 && (tensors..tensors + len).contains(&at) {
            let (row, field) = ((at - tensors) / 64, (at - tensors) % 64);
            let role = original[tensors + 64 * row];
            for other in (tensors..tensors + len).step_by(64).filter(|other| original[*other] == role) {
                bytes[other + field..other + field + end - at].copy_from_slice(&new[..end - at]);
            }
        }
    }
}

/// Memory of a session at most; larger ones are another question.
const LARGEST: usize = 1 << 26;

/// Runs a model a little, as the script says; `between` is called between its steps.
pub fn session(model: Model, script: &mut Script, between: &mut dyn FnMut()) {
    let flags = script.byte();
    let options = SessionOptions {
        context: 1 + script.below(40),
        batch: 1 + script.below(9),
        logit_rows: 1,
        ahead: 0,
        kv: if flags & 1 == 0 { KvFormat::F16 } else { KvFormat::F32 },
        sparsity: flags & 2 != 0,
    };
    let Ok(size) = Session::memory_required(&model, &options) else { return };
    if size.size() > LARGEST {
        return;
    }
    let mut memory = vec![MaybeUninit::uninit(); size.size()];
    let mut session = Session::new(model, options, &mut memory).expect("memory of the size that was asked for");
    let vocab = model.config().vocab;
    let sampling = SamplerOptions { repetition_penalty: 1.1, ..SamplerOptions::default() };
    let mut sampler = Sampler::new(sampling).unwrap();
    for _ in 0..3 {
        between();
        if options.sparsity {
            let allocation = script.one_of(&[Allocation::Global, Allocation::Local, Allocation::Hybrid]);
            let density = (1 + script.below(20)) as f32 / 20.0;
            let (policy, refresh) = (script.one_of(&Policy::ALL), script.below(3));
            // Refused where the model has no tables for it.
            let _ = session.set_dial(&Dial { policy, density, refresh, allocation, ..Dial::default() });
        }
        let ids: Vec<u32> = (0..1 + script.below(12)).map(|_| (script.byte() as usize * 7 % vocab) as u32).collect();
        between();
        // Refused where the context is full.
        let _ = session.prefill(&Serial, &ids);
        for _ in 0..2 {
            between();
            if let Ok(token) = session.sample(&mut sampler) {
                sampler.accept(token);
                let _ = session.decode(&Serial, token);
            }
        }
        let mut state = vec![0; session.state_size()];
        session.save(&mut state).expect("room of the size that was asked for");
        session.load(&state).expect("its own state");
        if flags & 4 != 0 {
            // Refused where a window has forgotten.
            let _ = session.rewind(session.position() / 2);
        }
    }
}
