//! How fast the cores read memory, which limits the speed of decoding.

use shadowllm_core::Executor;
use shadowllm_host::pool::Pool;
use std::hint::black_box;
use std::time::Instant;

/// Bytes read at a time: far more than any cache holds.
const BYTES: usize = 256 << 20;
/// Numbers in a cache line.
const LINE: usize = 64 / size_of::<u64>();
/// Streams that a core reads in parallel; the best number depends on the machine.
const STREAMS: [usize; 4] = [1, 2, 4, 8];
/// Number of measurements, of which the fastest counts.
const ROUNDS: usize = 3;

/// The most bytes per second that the pool's threads read together.
pub fn read_bandwidth(pool: &Pool) -> f64 {
    // Not zeros, because every page must be separate memory.
    let memory = vec![1u64; BYTES / size_of::<u64>()];
    let threads = pool.size();
    let part = memory.len() / threads;
    let mut best = 0f64;
    for streams in STREAMS {
        for _ in 0..ROUNDS {
            let start = Instant::now();
            pool.run(threads, &|i| {
                black_box(touch(&memory[i * part..(i + 1) * part], streams));
            });
            best = best.max(BYTES as f64 / start.elapsed().as_secs_f64());
        }
    }
    best
}

/// Reads one number of every cache line.
fn touch(memory: &[u64], streams: usize) -> u64 {
    let length = memory.len() / streams / LINE * LINE;
    let mut sum = 0u64;
    for at in (0..length).step_by(LINE) {
        for s in 0..streams {
            sum = sum.wrapping_add(memory[s * length + at]);
        }
    }
    sum
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_line_is_touched_once() {
        let memory = vec![1u64; 64 * LINE];
        for streams in STREAMS {
            assert_eq!(touch(&memory, streams), 64);
        }
    }
}
