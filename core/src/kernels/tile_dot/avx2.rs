//! AVX2: `vpmaddubsw` multiplies unsigned by signed bytes and adds neighbours in 16 bits, saturating. Unsigned codes are
//! taken as they are. Of signed ones |w| * (x with w's sign) keeps every pair below 2^15 (128 * 127 * 2 = 32512), so
//! nothing saturates; of smaller codes several pairs fit.

use super::{Bytes, Entries, Fives, Nibbles, Quads, SignedFives, SignedSixes, Stored, Tile, TileDot, weigh};
use crate::kernels::heads::Heads;
use crate::simd::Proof;
use crate::simd::avx2::Avx2Lanes;
use core::arch::x86_64::*;
use core::marker::PhantomData;

/// `[quad][half]`: outputs 0..8 and 8..16 of four inputs.
type Codes = [[__m256i; 2]; 8];

/// Codes in registers.
pub(in crate::kernels) trait Unpack: Stored {
    /// Whether registers hold signed bytes.
    const SIGNED: bool;
    /// Quads whose products fit into 16 bits.
    const TOGETHER: usize;

    /// Reads them.
    fn unpack(&self, isa: Proof<Avx2Lanes>, table: &[i8; 16]) -> Codes;

    /// What the sum of 32 products begins at, where the codes in registers are not less what they stand for.
    #[inline(always)]
    fn start(_offset: i32) -> i32 {
        0
    }
}

/// Adds the products of quads `FROM..TO`.
/// ```text
/// for every quad: sums += codes * (the quad's four inputs, broadcast)
///         signed: sums += |codes| * (the same with the signs of the codes)
/// ```
#[inline(always)]
fn add<S: Unpack, const FROM: usize, const TO: usize>(
    _: Proof<Avx2Lanes>,
    codes: &Codes,
    x: &[i8; 32],
    start: i32,
) -> [__m256i; 2] {
    // SAFETY: the proof is one of AVX2; `quad` is below 8, and there are 32 inputs.
    unsafe {
        let ones = _mm256_set1_epi16(1);
        let mut sums = [_mm256_set1_epi32(start); 2];
        for first in (FROM..TO).step_by(S::TOGETHER) {
            let mut pairs = [_mm256_setzero_si256(); 2];
            for (quad, w) in codes.iter().enumerate().skip(first).take(S::TOGETHER) {
                let xs = _mm256_set1_epi32(x.as_ptr().cast::<i32>().add(quad).read_unaligned());
                for (pairs, w) in pairs.iter_mut().zip(*w) {
                    let products = if S::SIGNED {
                        _mm256_maddubs_epi16(_mm256_abs_epi8(w), _mm256_sign_epi8(xs, w))
                    } else {
                        _mm256_maddubs_epi16(w, xs)
                    };
                    *pairs = if quad == first { products } else { _mm256_add_epi16(*pairs, products) };
                }
            }
            for (sum, pairs) in sums.iter_mut().zip(pairs) {
                *sum = _mm256_add_epi32(*sum, _mm256_madd_epi16(pairs, ones));
            }
        }
        sums
    }
}

#[inline(always)]
fn floats(isa: Proof<Avx2Lanes>, sums: [__m256i; 2]) -> Avx2Lanes {
    // SAFETY: the proof is one of AVX2.
    unsafe { Avx2Lanes::new(isa, _mm256_cvtepi32_ps(sums[0]), _mm256_cvtepi32_ps(sums[1])) }
}

#[inline(always)]
fn nibbles(_: Proof<Avx2Lanes>, packed: &Quads<4>) -> Codes {
    // SAFETY: the proof is one of AVX2; `quad` is below 4, and there are four times 64 bytes.
    unsafe {
        let low = _mm256_set1_epi8(15);
        let mut codes = [[low; 2]; 8];
        for quad in 0..4 {
            let p = packed.as_ptr().add(quad).cast::<__m256i>();
            let halves = [_mm256_loadu_si256(p), _mm256_loadu_si256(p.add(1))];
            for (h, v) in halves.into_iter().enumerate() {
                codes[quad][h] = _mm256_and_si256(v, low);
                codes[quad + 4][h] = _mm256_and_si256(_mm256_srli_epi16::<4>(v), low);
            }
        }
        codes
    }
}

/// Nibbles with a fifth bit.
#[inline(always)]
fn fives(isa: Proof<Avx2Lanes>, low: &Quads<4>, upper: &Quads<1>) -> Codes {
    let mut codes = nibbles(isa, low);
    // SAFETY: the proof is one of AVX2; `half` is below 2, and there are 64 bytes.
    unsafe {
        let fifth = _mm256_set1_epi8(16);
        for half in 0..2 {
            let upper = _mm256_loadu_si256(upper.as_ptr().cast::<__m256i>().add(half));
            let shifted = [
                _mm256_slli_epi16::<4>(upper),
                _mm256_slli_epi16::<3>(upper),
                _mm256_slli_epi16::<2>(upper),
                _mm256_slli_epi16::<1>(upper),
                upper,
                _mm256_srli_epi16::<1>(upper),
                _mm256_srli_epi16::<2>(upper),
                _mm256_srli_epi16::<3>(upper),
            ];
            for (codes, bits) in codes.iter_mut().zip(shifted) {
                codes[half] = _mm256_or_si256(codes[half], _mm256_and_si256(bits, fifth));
            }
        }
    }
    codes
}

impl Unpack for Bytes {
    const SIGNED: bool = true;
    const TOGETHER: usize = 1;

    #[inline(always)]
    fn unpack(&self, _: Proof<Avx2Lanes>, _table: &[i8; 16]) -> Codes {
        // SAFETY: 512 bytes, which are eight quads of two registers.
        unsafe { self.quads.as_ptr().cast::<Codes>().read_unaligned() }
    }
}

impl Unpack for Entries {
    const SIGNED: bool = true;
    const TOGETHER: usize = 1;

    #[inline(always)]
    fn unpack(&self, isa: Proof<Avx2Lanes>, table: &[i8; 16]) -> Codes {
        let mut codes = nibbles(isa, &self.quads);
        // SAFETY: the proof is one of AVX2; the table has 16 bytes.
        unsafe {
            let lut = _mm256_broadcastsi128_si256(_mm_loadu_si128(table.as_ptr().cast()));
            for c in codes.as_flattened_mut() {
                *c = _mm256_shuffle_epi8(lut, *c);
            }
        }
        codes
    }
}

impl Unpack for Nibbles {
    const SIGNED: bool = false;
    // 15 * 127 * 2 * 8 = 30480.
    const TOGETHER: usize = 8;

    #[inline(always)]
    fn unpack(&self, isa: Proof<Avx2Lanes>, _table: &[i8; 16]) -> Codes {
        nibbles(isa, &self.quads)
    }
}

impl Unpack for Fives {
    const SIGNED: bool = false;
    // 31 * 127 * 2 * 4 = 31496.
    const TOGETHER: usize = 4;

    #[inline(always)]
    fn unpack(&self, isa: Proof<Avx2Lanes>, _table: &[i8; 16]) -> Codes {
        fives(isa, &self.low, &self.upper)
    }
}

impl Unpack for SignedFives {
    const SIGNED: bool = false;
    const TOGETHER: usize = 4;

    #[inline(always)]
    fn unpack(&self, isa: Proof<Avx2Lanes>, _table: &[i8; 16]) -> Codes {
        fives(isa, &self.low, &self.upper)
    }

    /// -16 times the sum of the inputs.
    #[inline(always)]
    fn start(offset: i32) -> i32 {
        offset / 8
    }
}

impl Unpack for SignedSixes {
    const SIGNED: bool = true;
    // 32 * 127 * 2 * 4 = 32512.
    const TOGETHER: usize = 4;

    #[inline(always)]
    fn unpack(&self, isa: Proof<Avx2Lanes>, _table: &[i8; 16]) -> Codes {
        let mut codes = nibbles(isa, &self.low);
        // SAFETY: the proof is one of AVX2; `part` and `half` are below 2, and there are twice 64 bytes.
        unsafe {
            let (mask, less) = (_mm256_set1_epi8(48), _mm256_set1_epi8(32));
            for part in 0..2 {
                for half in [0, 1] {
                    let upper = _mm256_loadu_si256(self.upper.as_ptr().cast::<__m256i>().add(2 * part + half));
                    let shifted = [
                        _mm256_slli_epi16::<4>(upper),
                        _mm256_slli_epi16::<2>(upper),
                        upper,
                        _mm256_srli_epi16::<2>(upper),
                    ];
                    for (i, bits) in shifted.into_iter().enumerate() {
                        let code = &mut codes[4 * part + i][half];
                        *code = _mm256_sub_epi8(_mm256_or_si256(*code, _mm256_and_si256(bits, mask)), less);
                    }
                }
            }
        }
        codes
    }
}

/// The dot products of a kind of tiles.
pub(in crate::kernels) struct Dot<T>(PhantomData<T>);

impl<H: Heads, S: Unpack> TileDot for Dot<Tile<H, S>> {
    type L = Avx2Lanes;
    type H = H;
    type S = S;
    type Codes<'a> = (Codes, [Avx2Lanes; 2]);
    const TOKENS: usize = 4;

    #[inline(always)]
    fn decode<'a>(isa: Proof<Avx2Lanes>, tile: &'a Tile<H, S>, table: &[i8; 16]) -> Self::Codes<'a> {
        (tile.codes.unpack(isa, table), tile.heads.halves(isa))
    }

    #[inline(always)]
    fn dot(isa: Proof<Avx2Lanes>, (codes, halves): &Self::Codes<'_>, x: &[i8; 32], offset: i32) -> Avx2Lanes {
        if H::HALVED {
            let (first, second) = (add::<S, 0, 4>(isa, codes, x, 0), add::<S, 4, 8>(isa, codes, x, 0));
            return weigh([floats(isa, first), floats(isa, second)], halves);
        }
        floats(isa, add::<S, 0, 8>(isa, codes, x, S::start(offset)))
    }
}
