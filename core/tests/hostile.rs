//! Images from anybody, on machines of any word: those of impossible sizes, and the model that ships with its head changed.
//! `.ci/run i686` runs this where products of sizes have 32 bits.

use shadowllm_core::format::{Geometry, Order};
use shadowllm_core::image::arch::{Attention, Block, Globals, Layer, Mlp, Norm, Norming, Norms, Op, Positions, write};
use shadowllm_core::image::roles::ROLES;
use shadowllm_core::image::{
    Architecture, Entry, GLOBAL, HEADER_LEN, MAGIC, SECTION_LEN, SectionKind, Storage, VERSION, crc32,
};
use shadowllm_core::kernels::{Activation, Attend, KvView};
use shadowllm_core::random::next;
use shadowllm_core::sample::{Sampler, SamplerOptions};
use shadowllm_core::sparsity::{Dial, Policy};
use shadowllm_core::{
    Cpu, Error, Executor, Format, Hooks, Image, Isa, Kernels, KvFormat, Model, Serial, Session, SessionOptions,
};
use std::mem::MaybeUninit;

/// What an image is made of.
#[derive(Clone, Copy)]
struct Shape {
    d: usize,
    layers: usize,
    heads: usize,
    head_dim: usize,
    neurons: usize,
    group: usize,
    positions: usize,
    vocab: usize,
    format: Format,
}

const SMALL: Shape = Shape {
    d: 32,
    layers: 2,
    heads: 2,
    head_dim: 32,
    neurons: 32,
    group: 1,
    positions: 64,
    vocab: 64,
    format: Format::Q4_0,
};

impl Shape {
    fn section(&self) -> Vec<u8> {
        let norm = Norm { kind: Norming::Rms, eps: 1e-5 };
        let norms = Norms { input: Some(norm), output: None, stream: None };
        let attention =
            Attention { heads: self.heads, kv_heads: 1, head_dim: self.head_dim, scale: 0.1, ..Attention::NONE };
        let activation = Activation::Relu;
        let mlp = Mlp { neurons: self.neurons, activation, group: self.group, ..Mlp::NONE };
        let kind = Layer::of(&[Block { norms, op: Op::Attention(attention) }, Block { norms, op: Op::Mlp(mlp) }]);
        let globals = Globals {
            d_model: self.d,
            d_embed: self.d,
            layers: self.layers,
            vocab: self.vocab,
            max_positions: self.positions,
            positions: Positions::Learned,
            embed_scale: 1.0,
            logit_scale: 1.0,
            final_norm: Some(norm),
            ..Globals::NONE
        };
        let mut bytes = Vec::new();
        write(&globals, &[kind], &vec![0; self.layers], &mut |byte| bytes.push(byte)).unwrap();
        bytes
    }

    /// An image of zeros; where `shared`, all its tensors are the same bytes.
    fn image(&self, shared: bool) -> Vec<u8> {
        let section = self.section();
        let arch = Architecture::parse(&section).unwrap();
        let (mut table, mut end) = (Vec::new(), 0);
        for layer in [GLOBAL].into_iter().chain(0..self.layers as u16) {
            let kind = if layer == GLOBAL { Layer::default() } else { arch.layer(layer.into()) };
            for row in ROLES.iter().filter(|row| row.role.in_layers() == (layer != GLOBAL)) {
                let Some(place) = arch.place(row.role, &kind, 0) else { continue };
                if row.role.needed(&place) != Some(true) {
                    continue;
                }
                let (rows, cols) = row.role.shape(&place);
                let (storage, bytes) = if row.role.is_matrix() {
                    let geometry = row.role.geometry(&place, self.format);
                    (Storage::Tiles(geometry), geometry.span().unwrap())
                } else {
                    let len = row.role.outputs(&place).width();
                    (Storage::Vector { len }, 4 * len)
                };
                let offset = if shared { 0 } else { end };
                end = (offset + bytes.next_multiple_of(64)).max(end);
                let role = row.role;
                let entry = Entry { role, layer, rows, cols, offset, storage, experts: 0, expert_stride: 0 };
                table.extend(entry.to_bytes());
            }
        }
        image(&section, &table, end)
    }
}

/// An image of these sections, and weights that are zeros.
fn image(section: &[u8], table: &[u8], weights: usize) -> Vec<u8> {
    let arch_at = (HEADER_LEN + 3 * SECTION_LEN).next_multiple_of(64);
    let table_at = (arch_at + section.len()).next_multiple_of(64);
    let head = table_at + table.len();
    let weights_at = head.next_multiple_of(4096);
    let mut bytes = vec![0; weights_at + weights];
    let len = bytes.len() as u64;
    bytes[..8].copy_from_slice(&MAGIC);
    bytes[8..12].copy_from_slice(&VERSION.to_le_bytes());
    bytes[12..16].copy_from_slice(&(head as u32).to_le_bytes());
    bytes[16..24].copy_from_slice(&len.to_le_bytes());
    bytes[28..32].copy_from_slice(&3u32.to_le_bytes());
    let sections = [
        (SectionKind::Architecture, arch_at, section.len()),
        (SectionKind::Tensors, table_at, table.len()),
        (SectionKind::Weights, weights_at, weights),
    ];
    for (i, (kind, at, len)) in sections.into_iter().enumerate() {
        let row = &mut bytes[HEADER_LEN + i * SECTION_LEN..][..SECTION_LEN];
        row[..4].copy_from_slice(&(kind as u32).to_le_bytes());
        row[8..16].copy_from_slice(&(at as u64).to_le_bytes());
        row[16..24].copy_from_slice(&(len as u64).to_le_bytes());
    }
    bytes[arch_at..arch_at + section.len()].copy_from_slice(section);
    bytes[table_at..head].copy_from_slice(table);
    resign(&mut bytes);
    bytes
}

/// Makes the head's checksum right.
fn resign(bytes: &mut [u8]) {
    let head = u32::from_le_bytes(bytes[12..16].try_into().unwrap()) as usize;
    bytes[24..28].fill(0);
    if let Some(head) = bytes.get(..head) {
        let sum = crc32(head, 0);
        bytes[24..28].copy_from_slice(&sum.to_le_bytes());
    }
}

/// Memory that a session is given here at most.
const ROOM: usize = 1 << 28;

/// Makes a session and reads a prompt and a token by every policy. `Ok(false)`: it wants more memory than there is.
fn run(bytes: &[u8], options: SessionOptions, prompt: usize) -> Result<bool, Error> {
    let model = Model::parse(bytes)?;
    let size = Session::memory_required(&model, &options)?.size();
    if size > ROOM {
        return Ok(false);
    }
    let mut memory = vec![MaybeUninit::uninit(); size];
    let mut session = Session::new(model, options, &mut memory).unwrap();
    for policy in Policy::ALL {
        if session.set_dial(&Dial { policy, density: 0.4, ..Dial::default() }).is_ok() {
            session.rewind(0).unwrap();
            // A changed vocabulary may be too small for the tokens: an error is right.
            if session.prefill(&Serial, &vec![1; prompt]).is_ok() {
                session.decode(&Serial, 2).map(drop)?;
            }
        }
    }
    Ok(true)
}

const OPTIONS: SessionOptions =
    SessionOptions { context: 16, batch: 4, logit_rows: 1, ahead: 0, kv: KvFormat::F16, sparsity: true };

#[test]
fn tensors_have_bytes_of_their_own() {
    assert_eq!(run(&SMALL.image(false), OPTIONS, 3), Ok(true));
    for shape in [SMALL, Shape { layers: 1, ..SMALL }, Shape { layers: 4096, neurons: 1 << 15, ..SMALL }] {
        let refused = run(&shape.image(true), OPTIONS, 3);
        assert_eq!(refused, Err(Error::Malformed("tensors overlap")), "{} layers", shape.layers);
    }
}

/// Two threads, each with every other task.
struct Threads;

impl Hooks for Threads {}

// SAFETY: each number is even or odd, and the scope waits for both threads.
unsafe impl Executor for Threads {
    fn width(&self) -> usize {
        2
    }

    fn run(&self, tasks: usize, task: &(dyn Fn(usize) + Sync)) {
        std::thread::scope(|threads| {
            threads.spawn(|| (1..tasks).step_by(2).for_each(task));
            (0..tasks).step_by(2).for_each(task);
        });
    }
}

/// What a session does, in portable code: `.ci/run miri` runs this where undefined behaviour is an error. There it takes
/// minutes, so each format has one policy.
#[test]
fn a_session_from_beginning_to_end() {
    // SAFETY: every processor has portable code.
    let portable = Kernels::for_isa(unsafe { Cpu::assume(Isa::Scalar) }, Isa::Scalar).unwrap();
    let cases = [(Format::Q4_0, 1, Policy::Off), (Format::F16, 8, Policy::Prompt), (Format::Q8_0, 32, Policy::Random)];
    for (format, group, policy) in cases {
        let image = Shape { format, group, layers: 2, heads: 1, vocab: 32, ..SMALL }.image(false);
        // Vectors of bytes may begin at any address, and under Miri they do; images may not.
        let mut room = vec![0; image.len() + 8];
        let start = room.as_ptr().align_offset(8);
        let bytes = &mut room[start..start + image.len()];
        bytes.copy_from_slice(&image);
        let (weights, mut state) = (Image::parse(bytes).unwrap().section_info(SectionKind::Weights).offset, 5);
        bytes[weights..].as_chunks_mut::<8>().0.iter_mut().for_each(|b| *b = next(&mut state).to_le_bytes());
        let model = Model::new(Image::parse(bytes).unwrap(), portable);
        let options = SessionOptions { batch: 2, ..OPTIONS };
        let size = Session::memory_required(&model, &options).unwrap().size();
        let mut memory = vec![MaybeUninit::uninit(); size];
        let mut session = Session::new(model, options, &mut memory).unwrap();
        session.set_dial(&Dial { policy, density: 0.5, ..Dial::default() }).unwrap();
        session.prefill(&Threads, &[1, 2, 3]).unwrap();
        session.decode(&Threads, 7).unwrap();
        let mut saved = vec![0; session.state_size()];
        session.save(&mut saved).unwrap();
        session.rewind(2).unwrap();
        session.load(&saved).unwrap();
        let token = session.sample(&mut Sampler::new(SamplerOptions::default()).unwrap()).unwrap();
        session.decode(&Serial, token).unwrap();
        assert_eq!(session.position(), 5);
    }
}

/// A session of a window restores the tiles of keys that its window reaches into, and no others: these are not read.
#[test]
fn a_session_from_beginning_to_end_leaves_unwritten_keys_alone() {
    // SAFETY: every processor has portable code.
    let kernels = Kernels::for_isa(unsafe { Cpu::assume(Isa::Scalar) }, Isa::Scalar).unwrap();
    let (width, first, window) = (16, 40, 8);
    let mut keys = [MaybeUninit::<[f32; 16]>::uninit(); 48];
    keys[32..].fill(MaybeUninit::new([1.0; 16]));
    let mut values = [MaybeUninit::<[f32; 16]>::uninit(); 48];
    values[first + 1 - window..=first].fill(MaybeUninit::new([3.0; 16]));
    let kv =
        KvView { format: KvFormat::F32, keys: keys.as_ptr().cast(), values: values.as_ptr().cast(), ring: usize::MAX };
    let (q, mut out) = ([1.0; 16], [0.0; 16]);
    let attend = Attend {
        q: q.as_ptr(),
        token_stride: width,
        head_stride: width,
        tokens: 1,
        heads: 1,
        picked: None,
        head_width: width,
        first,
        window,
        cap: 0.0,
        sinks: None,
        kv,
    };
    // SAFETY: the query, its output, and the positions that the window shows are there: all others are not read.
    unsafe { kernels.attend(&attend, out.as_mut_ptr()) };
    assert!(out.iter().all(|x| (x - 3.0).abs() < 1e-6), "{out:?}");
}

/// The calibrated model that ships.
fn story() -> Vec<u8> {
    std::fs::read(concat!(env!("CARGO_MANIFEST_DIR"), "/../host/models/story.sllm")).unwrap()
}

/// Products of the largest sizes: an error where a word cannot hold them, more memory than there is where it can.
#[test]
fn sizes_that_multiply_are_refused_or_wanted() {
    let wide = Shape { heads: 4096, head_dim: 512, layers: 1, positions: 1 << 16, vocab: 16, ..SMALL };
    let many = SessionOptions { context: 1 << 16, batch: 1 << 16, ..OPTIONS };
    let lists = Shape { layers: 512, neurons: 1 << 13, d: 16, ..SMALL };
    for (what, shape, options) in [("a batch of heads", wide, many), ("lists of neurons", lists, many)] {
        let bytes = shape.image(false);
        for options in [options, SessionOptions { batch: 1 << 15, ..options }, SessionOptions { batch: 1, ..options }] {
            match run(&bytes, options.within(options.context.min(shape.positions)), 2) {
                Ok(_) => {}
                Err(Error::MemoryTooSmall { .. } | Error::BadOption(_)) if usize::BITS == 32 => {}
                Err(other) => panic!("{what}, {options:?}: {other:?}"),
            }
        }
    }
    let most = SessionOptions {
        context: 1 << 26,
        batch: 1 << 16,
        logit_rows: 1 << 16,
        ahead: 0,
        kv: KvFormat::F32,
        sparsity: true,
    };
    assert!(matches!(run(&story(), most, 1), Ok(false) | Err(Error::MemoryTooSmall { .. } | Error::BadOption(_))));
}

/// A word of 32 bits counts the outputs of a large vocabulary, and all of its bytes (`.ci/run i686` runs this with such words).
#[test]
fn a_large_vocabulary_fits_into_words_of_32_bits() {
    let (panels, k_blocks) = (151_936 / 16, 896 / 32);
    let (format, order) = (Format::Q8_0, Order::Rows);
    let mut g =
        Geometry { format, order, panels, k_blocks, units_per_group: panels, group_stride: 0, group_width: 151_936 };
    g.group_stride = g.unit_bytes() * panels;
    assert_eq!(g.span(), Some(151_936 * 896 / 32 * 34));
}

/// Its head, changed by somebody who can compute a checksum.
#[test]
fn a_changed_head_is_refused_or_harmless() {
    let mut bytes = story();
    let head = u32::from_le_bytes(bytes[12..16].try_into().unwrap()) as usize;
    let whole = bytes[..head].to_vec();
    let (predictor, predictor_head) = {
        let section = Image::parse(&bytes).unwrap().section_info(SectionKind::Predictor);
        let rows = u32::from_le_bytes(bytes[section.offset + 32..section.offset + 36].try_into().unwrap()) as usize;
        (section.offset, 64 + 64 * rows)
    };
    let tables = bytes[predictor..predictor + predictor_head].to_vec();
    assert_eq!(run(&bytes, OPTIONS, 3), Ok(true));
    let (mut ran, mut refused, mut state) = (0, 0, 11);
    let mut pick = |n: usize| (next(&mut state) % n as u64) as usize;
    for round in 0..300 {
        let places = if round % 3 == 0 { (predictor + 8, predictor_head - 8) } else { (12, head - 12) };
        for _ in 0..1 + pick(3) {
            let at = places.0 + pick(places.1);
            bytes[at] = [0, 1, 2, 8, 15, 16, 17, 18, 19, 20, 31, 32, 64, 127, 128, 255][pick(16)];
        }
        resign(&mut bytes);
        match run(&bytes, OPTIONS, 3) {
            Ok(_) => ran += 1,
            Err(_) => refused += 1,
        }
        bytes[..head].copy_from_slice(&whole);
        bytes[predictor..predictor + predictor_head].copy_from_slice(&tables);
    }
    assert!(ran > 30 && refused > 30, "{ran} ran, {refused} refused: the changes test too little");
}
