//! What the memory gives for runs of bytes of which some are skipped, without any arithmetic: the limit of all kernels that
//! skip. Times of the runs that are read, by their length and by the share that is read, compared with reading all.
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

/// Sums one number of every cache line of the runs.
fn read(part: &[u64], runs: &[u32], length: usize) -> u64 {
    let words = length / size_of::<u64>();
    let lines = runs.iter().flat_map(|run| part[*run as usize * words..][..words].iter().step_by(8));
    lines.fold(0, |sum, word| sum.wrapping_add(*word))
}

fn main() {
    // Not zeros, because every page must be separate memory.
    let words = vec![1u64; REGION / size_of::<u64>()];
    let mut state = 1;
    println!("bytes of a run | {}", SHARES.map(|s| format!("{s:>18}")).join(" | "));
    for length in LENGTHS {
        let mut seconds = [0.0; SHARES.len()];
        for _ in 0..ROUNDS {
            for (share, seconds) in SHARES.into_iter().zip(&mut seconds) {
                let at = random::next(&mut state) as usize % ((REGION - PART) / 4096) * (4096 / 8);
                let part = &words[at..at + PART / 8];
                let runs: Vec<u32> =
                    (0..(PART / length) as u32).filter(|_| random::uniform(&mut state) < share).collect();
                let start = Instant::now();
                black_box(read(part, &runs, length));
                *seconds += start.elapsed().as_secs_f64();
            }
        }
        let cell = |(share, s): (f32, &f64)| {
            let rate = f64::from(share) * (PART * ROUNDS) as f64 / s / 1e9;
            format!("{:>5.2} ({rate:>4.1} GB/s)", seconds[0] / s)
        };
        let cells: Vec<String> = SHARES.into_iter().zip(&seconds).map(cell).collect();
        println!("{length:>14} | {}", cells.iter().map(|c| format!("{c:>18}")).collect::<Vec<_>>().join(" | "));
    }
}
