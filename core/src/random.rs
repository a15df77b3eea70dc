//! Pseudo-random numbers: SplitMix64 (Steele, Lea, Flood 2014).

/// Advances the state and returns 64 random bits.
pub fn next(state: &mut u64) -> u64 {
    *state = state.wrapping_add(0x9e37_79b9_7f4a_7c15);
    let mut z = *state;
    z = (z ^ z >> 30).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z = (z ^ z >> 27).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ z >> 31
}

/// Advances the state and returns a number in 0..1: the upper 24 bits, as many as a float holds exactly.
pub fn uniform(state: &mut u64) -> f32 {
    (next(state) >> 40) as f32 / (1u32 << 24) as f32
}
