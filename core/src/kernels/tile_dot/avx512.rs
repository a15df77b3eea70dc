//! AVX-512 with VNNI: `vpdpbusd` multiplies unsigned weights by signed inputs, four in each lane, and each lane is an
//! output. Signed weights are shifted by half of their range (in the table, by flipping a bit, or by using their
//! unsigned codes as they are stored). The sum starts at minus the shift times the sum of the inputs, which takes the
//! shift out again exactly.

use super::{
    Bytes, Entries, Fives, Nibbles, Quads, SignedFives, SignedFours, SignedSixes, Stored, Tile, TileDot, weigh,
};
use crate::kernels::call::Offset;
use crate::kernels::heads::Heads;
use crate::simd::Proof;
use crate::simd::avx512::Avx512Lanes;
use core::arch::x86_64::*;
use core::marker::PhantomData;

/// Eight quads of 16 outputs.
type Codes = [__m512i; 8];

/// Codes in registers, unsigned.
pub(in crate::kernels) trait Unpack: Stored {
    /// The difference between codes in registers and the integers that they stand for.
    const SHIFT: i32;

    /// Reads them.
    fn unpack(&self, isa: Proof<Avx512Lanes>, table: &[i8; 16]) -> Codes;

    /// Their dot products with the inputs of one token; `offset` is for a shift of 128.
    #[inline(always)]
    fn dot_once(&self, isa: Proof<Avx512Lanes>, table: &[i8; 16], x: &[i8; 32], offset: i32) -> Avx512Lanes {
        dot(isa, &self.unpack(isa, table), x, start(Self::SHIFT, offset))
    }
}

/// [`Unpack::dot_once`] of nibbles less `SHIFT`, 0 or 8. The high ones are multiplied where they are, so that their sum is 16
/// times as large, and is shifted once.
#[inline(always)]
fn dot_nibbles<const SHIFT: i32>(isa: Proof<Avx512Lanes>, packed: &Quads<4>, x: &[i8; 32], offset: i32) -> Avx512Lanes {
    // SAFETY: `Proof` shows that the processor has AVX-512 F and VNNI; `i` is below 4, `packed` has four times 64 bytes, and `x`
    // has 32 inputs.
    unsafe {
        let x = x.as_ptr().cast::<i32>();
        let mut low = _mm512_setzero_si512();
        let mut high = if SHIFT == 0 { low } else { _mm512_set1_epi32(offset) };
        for i in 0..4 {
            let v = _mm512_loadu_si512(packed.as_ptr().add(i).cast());
            let (first, second) = (x.add(i).read_unaligned(), x.add(4 + i).read_unaligned());
            low = _mm512_dpbusd_epi32(low, _mm512_and_si512(v, _mm512_set1_epi8(15)), _mm512_set1_epi32(first));
            high = _mm512_dpbusd_epi32(high, _mm512_and_si512(v, _mm512_set1_epi8(-16)), _mm512_set1_epi32(second));
        }
        Avx512Lanes::new(isa, _mm512_cvtepi32_ps(_mm512_add_epi32(low, _mm512_srai_epi32::<4>(high))))
    }
}

/// Dot products of eight quads of inputs, each broadcast, with eight registers of weights.
#[inline(always)]
fn dot(isa: Proof<Avx512Lanes>, codes: &Codes, x: &[i8; 32], start: i32) -> Avx512Lanes {
    // SAFETY: `Proof` shows that the processor has AVX-512 F and VNNI; the quads are below 8, and `x` has 32 inputs.
    unsafe {
        let x = x.as_ptr().cast::<i32>();
        // Two chains, so that the next product does not wait for the last one's four cycles.
        let mut a = _mm512_set1_epi32(start);
        let mut b = _mm512_setzero_si512();
        for i in 0..4 {
            a = _mm512_dpbusd_epi32(a, codes[2 * i], _mm512_set1_epi32(x.add(2 * i).read_unaligned()));
            b = _mm512_dpbusd_epi32(b, codes[2 * i + 1], _mm512_set1_epi32(x.add(2 * i + 1).read_unaligned()));
        }
        Avx512Lanes::new(isa, _mm512_cvtepi32_ps(_mm512_add_epi32(a, b)))
    }
}

/// The same for the four quads of each half, with sums that begin at `starts`.
#[inline(always)]
fn halves(isa: Proof<Avx512Lanes>, codes: &Codes, x: &[i8; 32], starts: [i32; 2]) -> [Avx512Lanes; 2] {
    // SAFETY: `Proof` shows that the processor has AVX-512 F and VNNI; the quads are below 8, and `x` has 32 inputs.
    unsafe {
        let x = x.as_ptr().cast::<i32>();
        let mut sums = starts.map(|start| _mm512_set1_epi32(start));
        for i in 0..4 {
            for half in 0..2 {
                let quad = _mm512_set1_epi32(x.add(4 * half + i).read_unaligned());
                sums[half] = _mm512_dpbusd_epi32(sums[half], codes[4 * half + i], quad);
            }
        }
        sums.map(|sum| Avx512Lanes::new(isa, _mm512_cvtepi32_ps(sum)))
    }
}

/// Unpacks four registers of nibbles to eight of bytes.
#[inline(always)]
fn nibbles(_: Proof<Avx512Lanes>, packed: &Quads<4>) -> Codes {
    // SAFETY: `Proof` shows that the processor has AVX-512 F; `i` is below 4, and `packed` has four times 64 bytes.
    unsafe {
        let low = _mm512_set1_epi8(15);
        let mut codes = [low; 8];
        for i in 0..4 {
            let v = _mm512_loadu_si512(packed.as_ptr().add(i).cast());
            codes[i] = _mm512_and_si512(v, low);
            codes[i + 4] = _mm512_and_si512(_mm512_srli_epi16::<4>(v), low);
        }
        codes
    }
}

/// Nibbles with a fifth bit.
#[inline(always)]
fn fives(isa: Proof<Avx512Lanes>, low: &Quads<4>, upper: &Quads<1>) -> Codes {
    let mut codes = nibbles(isa, low);
    // SAFETY: `Proof` shows that the processor has AVX-512 F; `upper` has 64 bytes.
    unsafe {
        let bits = fifth_bits(isa, _mm512_loadu_si512(upper.as_ptr().cast()));
        for (code, bits) in codes.iter_mut().zip(bits) {
            *code = _mm512_or_si512(*code, bits);
        }
    }
    codes
}

/// The fifth bits of eight quads, in their place: bit q of every byte belongs to quad q.
#[inline(always)]
pub(in crate::kernels) fn fifth_bits(_: Proof<Avx512Lanes>, upper: __m512i) -> [__m512i; 8] {
    // SAFETY: `Proof` shows that the processor has AVX-512 F and BW.
    unsafe {
        let mut shifted = [
            _mm512_slli_epi16::<4>(upper),
            _mm512_slli_epi16::<3>(upper),
            _mm512_slli_epi16::<2>(upper),
            _mm512_slli_epi16::<1>(upper),
            upper,
            _mm512_srli_epi16::<1>(upper),
            _mm512_srli_epi16::<2>(upper),
            _mm512_srli_epi16::<3>(upper),
        ];
        // A loop: in a closure that `map` calls, the intrinsics would become calls.
        for bits in &mut shifted {
            *bits = _mm512_and_si512(*bits, _mm512_set1_epi8(16));
        }
        shifted
    }
}

/// Shifted by flipping the sign bit.
impl Unpack for Bytes {
    const SHIFT: i32 = 128;

    #[inline(always)]
    fn unpack(&self, _: Proof<Avx512Lanes>, _table: &[i8; 16]) -> Codes {
        // SAFETY: `Proof` shows that the processor has AVX-512 F; `i` is below 8, and the type has eight times 64
        // bytes.
        unsafe {
            let flip = _mm512_set1_epi8(-128);
            let mut codes = [flip; 8];
            for (i, c) in codes.iter_mut().enumerate() {
                *c = _mm512_xor_si512(_mm512_loadu_si512(self.quads.as_ptr().add(i).cast()), flip);
            }
            codes
        }
    }
}

/// The table is shifted.
impl Unpack for Entries {
    const SHIFT: i32 = 128;

    #[inline(always)]
    fn unpack(&self, isa: Proof<Avx512Lanes>, table: &[i8; 16]) -> Codes {
        let mut codes = nibbles(isa, &self.quads);
        // SAFETY: `Proof` shows that the processor has AVX-512 F and BW; the table has 16 bytes.
        unsafe {
            let lut = _mm_xor_si128(_mm_loadu_si128(table.as_ptr().cast()), _mm_set1_epi8(-128));
            let lut = _mm512_broadcast_i32x4(lut);
            for c in &mut codes {
                *c = _mm512_shuffle_epi8(lut, *c);
            }
        }
        codes
    }
}

impl Unpack for Nibbles {
    const SHIFT: i32 = 0;

    #[inline(always)]
    fn unpack(&self, isa: Proof<Avx512Lanes>, _table: &[i8; 16]) -> Codes {
        nibbles(isa, &self.quads)
    }

    #[inline(always)]
    fn dot_once(&self, isa: Proof<Avx512Lanes>, _table: &[i8; 16], x: &[i8; 32], offset: i32) -> Avx512Lanes {
        dot_nibbles::<{ Self::SHIFT }>(isa, &self.quads, x, offset)
    }
}

impl Unpack for SignedFours {
    const SHIFT: i32 = 8;

    #[inline(always)]
    fn unpack(&self, isa: Proof<Avx512Lanes>, _table: &[i8; 16]) -> Codes {
        nibbles(isa, &self.quads)
    }

    #[inline(always)]
    fn dot_once(&self, isa: Proof<Avx512Lanes>, _table: &[i8; 16], x: &[i8; 32], offset: i32) -> Avx512Lanes {
        dot_nibbles::<{ Self::SHIFT }>(isa, &self.quads, x, offset)
    }
}

impl Unpack for Fives {
    const SHIFT: i32 = 0;

    #[inline(always)]
    fn unpack(&self, isa: Proof<Avx512Lanes>, _table: &[i8; 16]) -> Codes {
        fives(isa, &self.low, &self.upper)
    }
}

impl Unpack for SignedFives {
    const SHIFT: i32 = 16;

    #[inline(always)]
    fn unpack(&self, isa: Proof<Avx512Lanes>, _table: &[i8; 16]) -> Codes {
        fives(isa, &self.low, &self.upper)
    }
}

impl Unpack for SignedSixes {
    const SHIFT: i32 = 32;

    #[inline(always)]
    fn unpack(&self, isa: Proof<Avx512Lanes>, _table: &[i8; 16]) -> Codes {
        let mut codes = nibbles(isa, &self.low);
        // SAFETY: `Proof` shows that the processor has AVX-512 F and BW; `part` is below 2, and `upper` has twice 64
        // bytes.
        unsafe {
            let mask = _mm512_set1_epi8(48);
            for part in 0..2 {
                let upper = _mm512_loadu_si512(self.upper.as_ptr().add(part).cast());
                let shifted = [
                    _mm512_slli_epi16::<4>(upper),
                    _mm512_slli_epi16::<2>(upper),
                    upper,
                    _mm512_srli_epi16::<2>(upper),
                ];
                for (i, bits) in shifted.into_iter().enumerate() {
                    let code = &mut codes[4 * part + i];
                    *code = _mm512_or_si512(*code, _mm512_and_si512(bits, mask));
                }
            }
        }
        codes
    }
}

/// The value at which a sum of codes shifted by `shift` begins: `offset` is for a shift of 128, and codes that are not shifted
/// need none.
#[inline(always)]
pub(in crate::kernels) const fn start(shift: i32, offset: i32) -> i32 {
    if shift == 0 { 0 } else { offset >> (128 / shift).trailing_zeros() }
}

/// The dot products of a kind of tiles.
pub(in crate::kernels) struct Dot<T>(PhantomData<T>);

impl<H: Heads, S: Unpack> TileDot for Dot<Tile<H, S>> {
    type L = Avx512Lanes;
    type H = H;
    type S = S;
    type Codes<'a> = (Codes, [Avx512Lanes; 2]);
    const TOKENS: usize = 8;
    /// Decoding most formats costs less than to store the codes and load them again. Measured on a Zen 4, 8 to 32 tokens at once:
    /// 4-bit blocks 0.82 to 0.90 of the time; K-quants 0.9 with 8 tokens, 0.98 to 1.03 with 16 and 24, 1.04 in a prefill.
    const MANY: usize = if H::SUPERS > 0 { 32 } else { usize::MAX };

    #[inline(always)]
    fn decode<'a>(isa: Proof<Avx512Lanes>, tile: &'a Tile<H, S>, table: &[i8; 16]) -> Self::Codes<'a> {
        (tile.codes.unpack(isa, table), tile.heads.halves(isa))
    }

    #[inline(always)]
    fn dot(isa: Proof<Avx512Lanes>, (codes, integers): &Self::Codes<'_>, x: &[i8; 32], offset: Offset) -> Avx512Lanes {
        if H::HALVED {
            let [all, first] = offset;
            return weigh(halves(isa, codes, x, [start(S::SHIFT, first), start(S::SHIFT, all - first)]), integers);
        }
        dot(isa, codes, x, start(S::SHIFT, offset[0]))
    }

    #[inline(always)]
    fn dot_once(
        isa: Proof<Avx512Lanes>,
        tile: &Tile<H, S>,
        table: &[i8; 16],
        x: &[i8; 32],
        offset: Offset,
    ) -> Avx512Lanes {
        if H::HALVED {
            return Self::dot(isa, &Self::decode(isa, tile, table), x, offset);
        }
        tile.codes.dot_once(isa, table, x, offset[0])
    }
}
