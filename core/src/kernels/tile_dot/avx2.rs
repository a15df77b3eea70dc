//! AVX2: `vpmaddubsw` multiplies unsigned by signed bytes and adds neighbours in 16 bits, saturating. Unsigned codes
//! are used as they are. For signed ones, |w| * (x with w's sign) keeps every pair below 2^15 (128 * 127 * 2 = 32512),
//! so nothing saturates; for smaller codes the sums of several pairs fit.

use super::{
    Bytes, Entries, Fives, Nibbles, Quads, SignedFives, SignedFours, SignedSixes, Stored, Tile, TileDot, weigh,
};
use crate::kernels::call::Offset;
use crate::kernels::heads::Heads;
use crate::simd::avx2::Avx2Lanes;
use crate::simd::{Lanes, Proof};
use core::arch::x86_64::*;
use core::marker::PhantomData;

/// `[half]`: outputs 0..8 and 8..16 of four inputs.
type Quad = [__m256i; 2];
/// `[quad][half]`
type Codes = [Quad; 8];

/// Codes in registers.
pub(in crate::kernels) trait Unpack: Stored {
    /// The difference between codes in registers and the integers that they stand for; `None` where registers hold
    /// signed bytes.
    const SHIFT: Option<i32>;
    /// Quads whose products fit into 16 bits.
    const TOGETHER: usize;
    /// What products need besides the codes.
    type Magnitudes: Magnitudes;

    /// Reads quad `quad`, below 4, and the fourth one after it.
    fn two(&self, isa: Proof<Avx2Lanes>, table: &[i8; 16], quad: usize) -> [Quad; 2];

    /// Reads all of them.
    #[inline(always)]
    fn unpack(&self, isa: Proof<Avx2Lanes>, table: &[i8; 16]) -> Codes {
        // SAFETY: `Proof` shows that the processor has AVX2.
        let mut codes = [[unsafe { _mm256_setzero_si256() }; 2]; 8];
        for quad in 0..4 {
            [codes[quad], codes[quad + 4]] = self.two(isa, table, quad);
        }
        codes
    }
}

/// The value at which the sum of products begins. `offset` is for a shift of 128; codes that are not shifted need none.
#[inline(always)]
pub(in crate::kernels) fn start<S: Unpack>(offset: i32) -> i32 {
    match S::SHIFT {
        Some(shift) if shift > 0 => offset >> (128 / shift).trailing_zeros(),
        _ => 0,
    }
}

/// Codes times inputs, with neighbouring products added.
#[inline(always)]
pub(in crate::kernels) fn products<S: Unpack>(_: Proof<Avx2Lanes>, w: __m256i, x: __m256i) -> __m256i {
    // SAFETY: `Proof` shows that the processor has AVX2.
    unsafe {
        if S::SHIFT.is_none() {
            _mm256_maddubs_epi16(_mm256_abs_epi8(w), _mm256_sign_epi8(x, w))
        } else {
            _mm256_maddubs_epi16(w, x)
        }
    }
}

/// What the products of a tile need besides its codes: nothing, or the magnitudes of signed codes.
pub(in crate::kernels) trait Magnitudes: Copy {
    /// Those of a tile's codes.
    fn of(isa: Proof<Avx2Lanes>, codes: &Codes) -> Self;

    /// One half's codes of a quad times inputs, with neighbouring products added.
    fn products(&self, isa: Proof<Avx2Lanes>, codes: &Codes, quad: usize, half: usize, x: __m256i) -> __m256i;
}

impl Magnitudes for () {
    #[inline(always)]
    fn of(_: Proof<Avx2Lanes>, _: &Codes) -> Self {}

    #[inline(always)]
    fn products(&self, _: Proof<Avx2Lanes>, codes: &Codes, quad: usize, half: usize, x: __m256i) -> __m256i {
        // SAFETY: `Proof` shows that the processor has AVX2.
        unsafe { _mm256_maddubs_epi16(codes[quad][half], x) }
    }
}

impl Magnitudes for Codes {
    #[inline(always)]
    fn of(_: Proof<Avx2Lanes>, codes: &Codes) -> Self {
        let mut magnitudes = *codes;
        for w in magnitudes.as_flattened_mut() {
            // SAFETY: `Proof` shows that the processor has AVX2.
            *w = unsafe { _mm256_abs_epi8(*w) };
        }
        magnitudes
    }

    #[inline(always)]
    fn products(&self, _: Proof<Avx2Lanes>, codes: &Codes, quad: usize, half: usize, x: __m256i) -> __m256i {
        // SAFETY: `Proof` shows that the processor has AVX2.
        unsafe { _mm256_maddubs_epi16(self[quad][half], _mm256_sign_epi8(x, codes[quad][half])) }
    }
}

/// The products of quads `FROM..TO` for `N` tokens, added to `starts`.
/// ```text
/// for every quad and token: sums += codes * (the quad's four inputs, broadcast)
///                   signed: sums += |codes| * (the same with the signs of the codes)
/// ```
#[inline(always)]
fn add<S: Unpack, const N: usize, const FROM: usize, const TO: usize>(
    isa: Proof<Avx2Lanes>,
    (codes, magnitudes): (&Codes, &S::Magnitudes),
    x: &[&[i8; 32]; N],
    starts: [i32; N],
) -> [[__m256i; 2]; N] {
    // SAFETY: `Proof` shows that the processor has AVX2; `quad` is below 8, and `x` has 32 inputs.
    unsafe {
        let ones = _mm256_set1_epi16(1);
        let mut sums = [[_mm256_setzero_si256(); 2]; N];
        for i in 0..N {
            sums[i] = [_mm256_set1_epi32(starts[i]); 2];
        }
        for first in (FROM..TO).step_by(S::TOGETHER) {
            let mut pairs = [[_mm256_setzero_si256(); 2]; N];
            for quad in first..first + S::TOGETHER.min(TO - FROM) {
                for i in 0..N {
                    let xs = _mm256_set1_epi32(x[i].as_ptr().cast::<i32>().add(quad).read_unaligned());
                    for half in 0..2 {
                        let products = magnitudes.products(isa, codes, quad, half, xs);
                        if S::TOGETHER == 1 {
                            sums[i][half] = _mm256_add_epi32(sums[i][half], _mm256_madd_epi16(products, ones));
                        } else if quad == first {
                            pairs[i][half] = products;
                        } else {
                            pairs[i][half] = _mm256_add_epi16(pairs[i][half], products);
                        }
                    }
                }
            }
            if S::TOGETHER == 1 {
                continue;
            }
            for (sums, pairs) in sums.iter_mut().zip(pairs) {
                for (sum, pairs) in sums.iter_mut().zip(pairs) {
                    *sum = _mm256_add_epi32(*sum, _mm256_madd_epi16(pairs, ones));
                }
            }
        }
        sums
    }
}

/// The products of one token, added to `starts`: those of the first and of the second four quads if they are `HALVED`,
/// else all of them in the first sums. Codes are multiplied as they are unpacked, so that they stay in registers.
#[inline(always)]
fn once<S: Unpack, const HALVED: bool>(
    isa: Proof<Avx2Lanes>,
    codes: &S,
    table: &[i8; 16],
    x: &[i8; 32],
    starts: [i32; 2],
) -> [Quad; 2] {
    // SAFETY: `Proof` shows that the processor has AVX2; `quad` is below 4, and `x` has 32 inputs.
    unsafe {
        let (ones, zero) = (_mm256_set1_epi16(1), _mm256_setzero_si256());
        let mut sums = starts.map(|start| [_mm256_set1_epi32(start); 2]);
        let mut pairs = [[zero; 2]; 2];
        for quad in 0..4 {
            let two = codes.two(isa, table, quad);
            for (part, w) in two.iter().enumerate() {
                let xs = _mm256_set1_epi32(x.as_ptr().cast::<i32>().add(quad + 4 * part).read_unaligned());
                for half in 0..2 {
                    let products = products::<S>(isa, w[half], xs);
                    // All eight quads' products, or those of each four, fit into 16 bits together, or two, or one.
                    let at = if S::TOGETHER == 8 { 0 } else { part };
                    let pair = &mut pairs[at][half];
                    let first = quad % S::TOGETHER.min(4) == 0 && (S::TOGETHER < 8 || part == 0);
                    *pair = if first { products } else { _mm256_add_epi16(*pair, products) };
                    if S::TOGETHER < 8 && (quad + 1) % S::TOGETHER == 0 {
                        let sum = &mut sums[if HALVED { part } else { 0 }][half];
                        *sum = _mm256_add_epi32(*sum, _mm256_madd_epi16(*pair, ones));
                    }
                }
            }
        }
        if S::TOGETHER == 8 {
            for (sum, pair) in sums[0].iter_mut().zip(pairs[0]) {
                *sum = _mm256_add_epi32(*sum, _mm256_madd_epi16(pair, ones));
            }
        }
        sums
    }
}

#[inline(always)]
fn floats(isa: Proof<Avx2Lanes>, sums: [__m256i; 2]) -> Avx2Lanes {
    // SAFETY: `Proof` shows that the processor has AVX2.
    unsafe { Avx2Lanes::new(isa, _mm256_cvtepi32_ps(sums[0]), _mm256_cvtepi32_ps(sums[1])) }
}

/// Nibbles of two quads.
#[inline(always)]
fn nibbles(_: Proof<Avx2Lanes>, packed: &Quads<4>, quad: usize) -> [Quad; 2] {
    let packed = packed[quad].as_ptr().cast::<__m256i>();
    // SAFETY: `Proof` shows that the processor has AVX2; a packed quad has 64 bytes.
    unsafe {
        let low = _mm256_set1_epi8(15);
        let v = [_mm256_loadu_si256(packed), _mm256_loadu_si256(packed.add(1))];
        let high = |v| _mm256_and_si256(_mm256_srli_epi16::<4>(v), low);
        [[_mm256_and_si256(v[0], low), _mm256_and_si256(v[1], low)], [high(v[0]), high(v[1])]]
    }
}

/// The fifth bits of a quad, in their place: bit q of every byte of `upper` belongs to quad q.
#[inline(always)]
fn fifth_bit(_: Proof<Avx2Lanes>, upper: __m256i, quad: usize) -> __m256i {
    // SAFETY: `Proof` shows that the processor has AVX2.
    unsafe {
        let bits = match quad {
            0 => _mm256_slli_epi16::<4>(upper),
            1 => _mm256_slli_epi16::<3>(upper),
            2 => _mm256_slli_epi16::<2>(upper),
            3 => _mm256_slli_epi16::<1>(upper),
            4 => upper,
            5 => _mm256_srli_epi16::<1>(upper),
            6 => _mm256_srli_epi16::<2>(upper),
            _ => _mm256_srli_epi16::<3>(upper),
        };
        _mm256_and_si256(bits, _mm256_set1_epi8(16))
    }
}

/// Those of eight quads.
#[inline(always)]
pub(in crate::kernels) fn fifth_bits(isa: Proof<Avx2Lanes>, upper: __m256i) -> [__m256i; 8] {
    let mut bits = [upper; 8];
    for (quad, bits) in bits.iter_mut().enumerate() {
        *bits = fifth_bit(isa, upper, quad);
    }
    bits
}

/// The fifth and sixth bits of one of four quads, in their place: bits 2q and 2q + 1 of every byte of `upper` belong to
/// quad q.
#[inline(always)]
fn upper_two(_: Proof<Avx2Lanes>, upper: __m256i, quad: usize) -> __m256i {
    // SAFETY: `Proof` shows that the processor has AVX2.
    unsafe {
        let bits = match quad {
            0 => _mm256_slli_epi16::<4>(upper),
            1 => _mm256_slli_epi16::<2>(upper),
            2 => upper,
            _ => _mm256_srli_epi16::<2>(upper),
        };
        _mm256_and_si256(bits, _mm256_set1_epi8(48))
    }
}

/// Those of four quads.
#[inline(always)]
pub(in crate::kernels) fn upper_twos(isa: Proof<Avx2Lanes>, upper: __m256i) -> [__m256i; 4] {
    let mut bits = [upper; 4];
    for (quad, bits) in bits.iter_mut().enumerate() {
        *bits = upper_two(isa, upper, quad);
    }
    bits
}

/// Nibbles of two quads with a fifth bit.
#[inline(always)]
fn fives(isa: Proof<Avx2Lanes>, low: &Quads<4>, upper: &Quads<1>, quad: usize) -> [Quad; 2] {
    let mut two = nibbles(isa, low, quad);
    for (part, quads) in two.iter_mut().enumerate() {
        for (half, code) in quads.iter_mut().enumerate() {
            // SAFETY: `Proof` shows that the processor has AVX2; `half` is below 2, and `upper` has 64 bytes.
            unsafe {
                let upper = _mm256_loadu_si256(upper.as_ptr().cast::<__m256i>().add(half));
                *code = _mm256_or_si256(*code, fifth_bit(isa, upper, quad + 4 * part));
            }
        }
    }
    two
}

impl Unpack for Bytes {
    const SHIFT: Option<i32> = None;
    const TOGETHER: usize = 1;
    type Magnitudes = Codes;

    #[inline(always)]
    fn two(&self, _: Proof<Avx2Lanes>, _table: &[i8; 16], quad: usize) -> [Quad; 2] {
        let read = |quad: usize| {
            // SAFETY: a quad has 64 bytes, which are two registers; any bytes will do.
            unsafe { self.quads[quad].as_ptr().cast::<Quad>().read_unaligned() }
        };
        [read(quad), read(quad + 4)]
    }
}

impl Unpack for Entries {
    const SHIFT: Option<i32> = None;
    const TOGETHER: usize = 1;
    type Magnitudes = Codes;

    #[inline(always)]
    fn two(&self, isa: Proof<Avx2Lanes>, table: &[i8; 16], quad: usize) -> [Quad; 2] {
        let mut two = nibbles(isa, &self.quads, quad);
        // SAFETY: `Proof` shows that the processor has AVX2; the table has 16 bytes.
        unsafe {
            let lut = _mm256_broadcastsi128_si256(_mm_loadu_si128(table.as_ptr().cast()));
            for c in two.as_flattened_mut() {
                *c = _mm256_shuffle_epi8(lut, *c);
            }
        }
        two
    }
}

impl Unpack for Nibbles {
    const SHIFT: Option<i32> = Some(0);
    // 15 * 127 * 2 * 8 = 30480.
    const TOGETHER: usize = 8;
    type Magnitudes = ();

    #[inline(always)]
    fn two(&self, isa: Proof<Avx2Lanes>, _table: &[i8; 16], quad: usize) -> [Quad; 2] {
        nibbles(isa, &self.quads, quad)
    }
}

impl Unpack for SignedFours {
    const SHIFT: Option<i32> = Some(8);
    const TOGETHER: usize = 8;
    type Magnitudes = ();

    #[inline(always)]
    fn two(&self, isa: Proof<Avx2Lanes>, _table: &[i8; 16], quad: usize) -> [Quad; 2] {
        nibbles(isa, &self.quads, quad)
    }
}

impl Unpack for Fives {
    const SHIFT: Option<i32> = Some(0);
    // 31 * 127 * 2 * 4 = 31496.
    const TOGETHER: usize = 4;
    type Magnitudes = ();

    #[inline(always)]
    fn two(&self, isa: Proof<Avx2Lanes>, _table: &[i8; 16], quad: usize) -> [Quad; 2] {
        fives(isa, &self.low, &self.upper, quad)
    }
}

impl Unpack for SignedFives {
    const SHIFT: Option<i32> = Some(16);
    const TOGETHER: usize = 4;
    type Magnitudes = ();

    #[inline(always)]
    fn two(&self, isa: Proof<Avx2Lanes>, _table: &[i8; 16], quad: usize) -> [Quad; 2] {
        fives(isa, &self.low, &self.upper, quad)
    }
}

impl Unpack for SignedSixes {
    const SHIFT: Option<i32> = Some(32);
    // 63 * 127 * 2 * 2 = 32004.
    const TOGETHER: usize = 2;
    type Magnitudes = ();

    #[inline(always)]
    fn two(&self, isa: Proof<Avx2Lanes>, _table: &[i8; 16], quad: usize) -> [Quad; 2] {
        let mut two = nibbles(isa, &self.low, quad);
        for (part, quads) in two.iter_mut().enumerate() {
            for (half, code) in quads.iter_mut().enumerate() {
                // SAFETY: `Proof` shows that the processor has AVX2; `part` and `half` are below 2, and `upper` has twice
                // 64 bytes.
                unsafe {
                    let upper = _mm256_loadu_si256(self.upper.as_ptr().cast::<__m256i>().add(2 * part + half));
                    *code = _mm256_or_si256(*code, upper_two(isa, upper, quad));
                }
            }
        }
        two
    }
}

/// The dot products of a kind of tiles.
pub(in crate::kernels) struct Dot<T>(PhantomData<T>);

impl<H: Heads, S: Unpack> TileDot for Dot<Tile<H, S>> {
    type L = Avx2Lanes;
    type H = H;
    type S = S;
    type Codes<'a> = (Codes, S::Magnitudes, [Avx2Lanes; 2]);
    /// The sums of four tokens take half of the registers, and codes are read from memory once for all four.
    const TOKENS: usize = 4;
    const AT_ONCE: usize = 4;

    #[inline(always)]
    fn decode<'a>(isa: Proof<Avx2Lanes>, tile: &'a Tile<H, S>, table: &[i8; 16]) -> Self::Codes<'a> {
        let codes = tile.codes.unpack(isa, table);
        (codes, S::Magnitudes::of(isa, &codes), tile.heads.halves(isa))
    }

    #[inline(always)]
    fn dot_once(
        isa: Proof<Avx2Lanes>,
        tile: &Tile<H, S>,
        table: &[i8; 16],
        x: &[i8; 32],
        [all, first]: Offset,
    ) -> Avx2Lanes {
        if !H::HALVED {
            return floats(isa, once::<S, false>(isa, &tile.codes, table, x, [start::<S>(all), 0])[0]);
        }
        let starts = [start::<S>(first), start::<S>(all - first)];
        let [first, second] = once::<S, true>(isa, &tile.codes, table, x, starts);
        weigh([floats(isa, first), floats(isa, second)], &tile.heads.halves(isa))
    }

    #[inline(always)]
    fn dot(isa: Proof<Avx2Lanes>, codes: &Self::Codes<'_>, x: &[i8; 32], offset: Offset) -> Avx2Lanes {
        Self::dots(isa, codes, &[x], &[offset])[0]
    }

    #[inline(always)]
    fn dots<const N: usize>(
        isa: Proof<Avx2Lanes>,
        (codes, magnitudes, halves): &Self::Codes<'_>,
        x: &[&[i8; 32]; N],
        offsets: &[Offset; N],
    ) -> [Avx2Lanes; N] {
        let codes = (codes, magnitudes);
        let (mut starts, mut dots) = ([[0; N]; 2], [Avx2Lanes::splat(isa, 0.0); N]);
        for i in 0..N {
            let [all, first] = offsets[i];
            starts[0][i] = start::<S>(if H::HALVED { first } else { all });
            starts[1][i] = start::<S>(all - first);
        }
        if H::HALVED {
            let first = add::<S, N, 0, 4>(isa, codes, x, starts[0]);
            let second = add::<S, N, 4, 8>(isa, codes, x, starts[1]);
            for i in 0..N {
                dots[i] = weigh([floats(isa, first[i]), floats(isa, second[i])], halves);
            }
            return dots;
        }
        let sums = add::<S, N, 0, 8>(isa, codes, x, starts[0]);
        for i in 0..N {
            dots[i] = floats(isa, sums[i]);
        }
        dots
    }
}
