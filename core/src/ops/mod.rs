//! The steps of a layer, cut into tasks for an [`crate::Executor`].
//!
//! Each step is one `run` of the executor. Its tasks write disjoint ranges, so the bits are the same for every number
//! of threads and every order of the tasks.

pub mod attention;
pub mod buffer;
pub mod experts;
pub mod feed_forward;
pub mod linear;
pub mod output;
pub mod residual;

use crate::exec::Executor;
use core::ops::Range;

/// Cuts `items` into about four tasks a thread and runs `work` on each range.
pub fn for_ranges(exec: &dyn Executor, items: usize, work: &(dyn Fn(Range<usize>) + Sync)) {
    let threads = exec.width().max(1);
    if items == 0 {
        return;
    }
    if threads == 1 || items == 1 {
        return work(0..items);
    }
    let chunk = items.div_ceil(4 * threads);
    exec.run(items.div_ceil(chunk), &|i| work(i * chunk..((i + 1) * chunk).min(items)));
}
