//! Predictor sections that are cut off, have flipped bits, or are hostile: they are refused or harmless, and do not
//! affect sessions that do not use them.

use shadowllm_core::image::{ENTRY_LEN, HEADER_LEN as IMAGE_HEADER, SECTION_LEN, Section, SectionKind, crc32};
use shadowllm_core::sparsity::{HEADER_LEN, Policy};
use shadowllm_core::{Error, Image, KvFormat, Model, Serial, Session, SessionOptions};
use shadowllm_tests::folder::Random;
use shadowllm_tests::sparse::{dial, made_up_ids, small_models};
use std::mem::MaybeUninit;

const OPTIONS: SessionOptions =
    SessionOptions { context: 16, batch: 8, logit_rows: 1, ahead: 0, kv: KvFormat::F16, sparsity: true };

fn section(bytes: &[u8]) -> Section {
    Image::parse(bytes).unwrap().section_info(SectionKind::Predictor)
}

/// Opens an image and runs every policy; returns whether the predictor was accepted.
fn run(bytes: &[u8]) -> Result<(), Error> {
    let model = Model::parse(bytes)?;
    let size = Session::memory_required(&model, &OPTIONS)?.size();
    let mut memory = vec![MaybeUninit::uninit(); size];
    let mut session = Session::new(model, OPTIONS, &mut memory).unwrap();
    let ids = made_up_ids(6, model.config().vocab);
    for policy in Policy::ALL {
        if session.set_dial(&dial(policy, 0.37)).is_ok() {
            session.rewind(0).unwrap();
            session.prefill(&Serial, &ids[..3]).unwrap();
            ids[3..].iter().for_each(|id| assert!(!session.decode(&Serial, *id).unwrap().is_empty()));
        }
    }
    Ok(())
}

/// Logits of a session that skips nothing and uses no predictor.
fn dense(bytes: &[u8]) -> Vec<f32> {
    let model = Model::parse(bytes).unwrap();
    let options = SessionOptions { sparsity: false, ..OPTIONS };
    let mut memory = vec![MaybeUninit::uninit(); Session::memory_required(&model, &options).unwrap().size()];
    let mut session = Session::new(model, options, &mut memory).unwrap();
    session.prefill(&Serial, &made_up_ids(6, model.config().vocab)).unwrap().to_vec()
}

/// Bytes of the section's header and table.
fn head(section: &[u8]) -> usize {
    HEADER_LEN + ENTRY_LEN * u32::from_le_bytes(section[32..36].try_into().unwrap()) as usize
}

#[test]
fn hostile_predictors_are_refused_or_harmless() {
    let mut random = Random(21);
    let mut pick = |n: usize| (f64::from(random.draw().abs()) * 1e6) as usize % n;
    let (mut taken, mut refused) = (0, 0);
    for small in small_models() {
        let (good, plain) = (small.calibrated, dense(small.plain));
        let at = section(good);
        let head = head(&good[at.offset..at.offset + at.len]);
        for round in 0..600 {
            let mut bytes = good.to_vec();
            for _ in 0..1 + pick(4) {
                // Often in the head, where a byte has much effect.
                let place = if round % 3 == 0 { pick(at.len) } else { 8 + pick(head - 8) };
                bytes[at.offset + place] = [0, 1, 2, 15, 16, 32, 64, 127, 128, 255][pick(10)];
            }
            match run(&bytes) {
                Ok(()) => taken += 1,
                Err(Error::BadPredictor(_) | Error::ForeignPredictor) => refused += 1,
                Err(e) => panic!("{}: {e}", small.name),
            }
            if round % 50 == 0 {
                assert!(shadowllm_tests::same_bits(&dense(&bytes), &plain), "{}", small.name);
            }
        }
    }
    assert!(taken > 100 && refused > 100, "{taken} taken, {refused} refused: the mutations test too little");
}

/// NaN in every place.
#[test]
fn predictors_of_no_numbers_are_harmless() {
    for small in small_models() {
        let at = section(small.calibrated);
        let head = head(&small.calibrated[at.offset..at.offset + at.len]);
        for word in [f32::NAN, f32::INFINITY, f32::NEG_INFINITY, -f32::NAN, f32::MAX, f32::MIN_POSITIVE] {
            let mut bytes = small.calibrated.to_vec();
            let data = &mut bytes[at.offset + head.next_multiple_of(64)..at.offset + at.len];
            data.as_chunks_mut::<4>().0.iter_mut().for_each(|w| *w = word.to_le_bytes());
            run(&bytes).unwrap();
        }
    }
}

/// The image with a predictor section cut to `len` bytes, its checksum right.
fn cut(good: &[u8], len: usize) -> Vec<u8> {
    let mut bytes = good.to_vec();
    let rows = u32::from_le_bytes(bytes[28..32].try_into().unwrap()) as usize;
    for row in bytes[IMAGE_HEADER..IMAGE_HEADER + rows * SECTION_LEN].chunks_exact_mut(SECTION_LEN) {
        if row[..4] == (SectionKind::Predictor as u32).to_le_bytes() {
            row[16..24].copy_from_slice(&(len as u64).to_le_bytes());
        }
    }
    let head = u32::from_le_bytes(bytes[12..16].try_into().unwrap()) as usize;
    bytes[24..28].fill(0);
    let sum = crc32(&bytes[..head], 0);
    bytes[24..28].copy_from_slice(&sum.to_le_bytes());
    bytes
}

#[test]
fn every_cut_of_a_predictor_is_refused() {
    for small in &small_models()[..2] {
        let at = section(small.calibrated);
        let head = head(&small.calibrated[at.offset..at.offset + at.len]);
        let plain = dense(small.plain);
        for len in (1..head + 8).chain((head..at.len).step_by(997)).chain([at.len - 1]) {
            let bytes = cut(small.calibrated, len);
            match run(&bytes) {
                Err(Error::BadPredictor(_)) => {}
                other => panic!("{}, cut at {len} of {}: {other:?}", small.name, at.len),
            }
            assert!(len % 16 != 0 || shadowllm_tests::same_bits(&dense(&bytes), &plain));
        }
        // An empty section is the same as none.
        assert_eq!(run(&cut(small.calibrated, 0)), Ok(()));
        assert_eq!(run(&cut(small.calibrated, at.len)), Ok(()));
    }
}
