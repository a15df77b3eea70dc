//! What the memory gives for runs of bytes of which some are skipped, without any arithmetic: the limit of all kernels that
//! skip. Times of the runs that are read, by their length and by the share that is read, compared with reading all; first as
//! the processor prefetches by itself, then prefetched 8 KB ahead into the second cache, as the kernels do.
//!
//! ```text
//! cargo bench -p shadowllm-benches --bench runs
//! ```

use shadowllm_core::random;
use std::hint::black_box;
use std::time::Instant;

/// Far more than the caches hold.
const REGION: usize = 512 << 20;
/// The part that one measurement reads, at another place each time.
const PART: usize = 64 << 20;
const LENGTHS: [usize; 6] = [512, 1024, 1536, 2304, 4480, 9216];
const SHARES: [f32; 4] = [1.0, 0.9, 0.8, 0.6];
/// Rounds; all shares are measured in turns, and the sums count.
const ROUNDS: usize = 9;

/// Numbers in a cache line.
const LINE: usize = 64 / size_of::<u64>();
/// How far ahead lines are prefetched, in lines that are read.
const AHEAD: usize = 128;

/// Sums one number of every cache line at these places.
fn read(part: &[u64], lines: &[u32], ahead: Option<usize>) -> u64 {
    let mut sum = 0u64;
    for (i, line) in lines.iter().enumerate() {
        if let Some(ahead) = ahead {
            prefetch(&part[lines[(i + ahead).min(lines.len() - 1)] as usize * LINE]);
        }
        sum = sum.wrapping_add(part[*line as usize * LINE]);
    }
    sum
}

/// Prefetches into the second cache; on other processors than x86, nowhere.
fn prefetch(at: &u64) {
    // SAFETY: a prefetch is a hint, which no address can make fail.
    #[cfg(target_arch = "x86_64")]
    unsafe {
        use core::arch::x86_64::{_MM_HINT_T1, _mm_prefetch};
        _mm_prefetch::<_MM_HINT_T1>(core::ptr::from_ref(at).cast());
    }
    #[cfg(not(target_arch = "x86_64"))]
    let _ = at;
}

/// The cache lines of a random share of runs of this many bytes.
fn chosen(length: usize, share: f32, state: &mut u64) -> Vec<u32> {
    let each = (length / 64) as u32;
    let runs = (0..(PART / length) as u32).filter(|_| random::uniform(state) < share);
    runs.flat_map(|run| run * each..(run + 1) * each).collect()
}

fn main() {
    // Not zeros, because every page must be separate memory.
    let words = vec![1u64; REGION / size_of::<u64>()];
    let mut state = 1;
    for ahead in [None, Some(AHEAD)] {
        println!("{}", if ahead.is_some() { "prefetched" } else { "not prefetched" });
        println!("bytes of a run | {}", SHARES.map(|s| format!("{s:>18}")).join(" | "));
        for length in LENGTHS {
            let mut seconds = [0.0; SHARES.len()];
            for _ in 0..ROUNDS {
                for (share, seconds) in SHARES.into_iter().zip(&mut seconds) {
                    let at = random::next(&mut state) as usize % ((REGION - PART) / 4096) * (4096 / 8);
                    let (part, lines) = (&words[at..at + PART / 8], chosen(length, share, &mut state));
                    let start = Instant::now();
                    black_box(read(part, &lines, ahead));
                    *seconds += start.elapsed().as_secs_f64();
                }
            }
            println!("{length:>14} | {}", cells(&seconds).join(" | "));
        }
    }
}

/// The speed-up over reading all, and the rate.
fn cells(seconds: &[f64; SHARES.len()]) -> Vec<String> {
    let cell = |(share, s): (f32, &f64)| {
        let rate = f64::from(share) * (PART * ROUNDS) as f64 / s / 1e9;
        format!("{:>18}", format!("{:>5.2} ({rate:>4.1} GB/s)", seconds[0] / s))
    };
    SHARES.into_iter().zip(seconds).map(cell).collect()
}
