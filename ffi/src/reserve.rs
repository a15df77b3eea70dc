//! A reserve of memory. Rust ends the process when a small allocation fails; here the allocation is taken from the
//! reserve and the call ends normally. Later calls return an error until the reserve is complete again.

use crate::status::{Failure, Result, SLLM_STATUS_OUT_OF_MEMORY};
use std::alloc::{GlobalAlloc, Layout, System};
use std::cell::UnsafeCell;
use std::sync::atomic::{AtomicU64, Ordering};

/// Bytes of the reserve. Pages that are never used take no memory.
const SIZE: usize = 4 << 20;
/// Bytes that must be left at the beginning of a call that allocates.
const LEFT: usize = SIZE / 2;

/// The system's memory, and the reserve when that is used up.
struct Reserve {
    bytes: UnsafeCell<[u8; SIZE]>,
    /// Bytes given out (upper half), and the number of live allocations in them (lower half). The bytes are free again
    /// when the last allocation is.
    given: AtomicU64,
}

// SAFETY: the counter gives every byte to one allocation at a time.
unsafe impl Sync for Reserve {}

#[global_allocator]
static RESERVE: Reserve = Reserve { bytes: UnsafeCell::new([0; SIZE]), given: AtomicU64::new(0) };

impl Reserve {
    fn has(&self, at: *mut u8) -> bool {
        let start = self.bytes.get().addr();
        (start..start + SIZE).contains(&at.addr())
    }

    fn take(&self, layout: Layout) -> *mut u8 {
        let start = self.bytes.get().addr();
        let place = |given: u64| {
            let at = (start + (given >> 32) as usize).checked_next_multiple_of(layout.align())? - start;
            let end = at.checked_add(layout.size())?;
            (end <= SIZE).then_some((at, end))
        };
        let next = |given: u64| place(given).map(|(_, end)| (end as u64) << 32 | ((given & 0xffff_ffff) + 1));
        let Ok(given) = self.given.fetch_update(Ordering::AcqRel, Ordering::Acquire, next) else {
            return std::ptr::null_mut();
        };
        match place(given) {
            // SAFETY: the place ends within the reserve.
            Some((at, _)) => unsafe { self.bytes.get().cast::<u8>().add(at) },
            None => std::ptr::null_mut(),
        }
    }

    fn give_back(&self) {
        let next = |given: u64| Some(if given & 0xffff_ffff == 1 { 0 } else { given - 1 });
        // The closure always has an answer.
        let _ = self.given.fetch_update(Ordering::AcqRel, Ordering::Acquire, next);
    }
}

// SAFETY: every allocation is the system's or a part of the reserve that no other has, and goes back to where it is from.
unsafe impl GlobalAlloc for Reserve {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        // SAFETY: the caller's layout is not empty.
        let at = unsafe { System.alloc(layout) };
        if at.is_null() { self.take(layout) } else { at }
    }

    unsafe fn alloc_zeroed(&self, layout: Layout) -> *mut u8 {
        // SAFETY: the caller's layout is not empty.
        let mut at = unsafe { System.alloc_zeroed(layout) };
        if at.is_null() {
            at = self.take(layout);
            if !at.is_null() {
                // SAFETY: `take` gave this number of bytes.
                unsafe { at.write_bytes(0, layout.size()) };
            }
        }
        at
    }

    unsafe fn dealloc(&self, at: *mut u8, layout: Layout) {
        if self.has(at) {
            return self.give_back();
        }
        // SAFETY: it is the system's, and the caller's word holds for the layout.
        unsafe { System.dealloc(at, layout) }
    }

    unsafe fn realloc(&self, at: *mut u8, layout: Layout, size: usize) -> *mut u8 {
        if !self.has(at) {
            // SAFETY: it is the system's, and the caller's word holds for layout and size.
            let moved = unsafe { System.realloc(at, layout, size) };
            if !moved.is_null() {
                return moved;
            }
        }
        // SAFETY: the caller of `realloc` promises that the size is not 0 and, rounded up to the alignment, at most
        // isize::MAX.
        let new = unsafe { Layout::from_size_align_unchecked(size, layout.align()) };
        // SAFETY: the new layout is not empty; both places have the smaller number of bytes; the old one is not used again.
        unsafe {
            let moved = if self.has(at) { self.alloc(new) } else { self.take(new) };
            if !moved.is_null() {
                moved.copy_from_nonoverlapping(at, layout.size().min(size));
                self.dealloc(at, layout);
            }
            moved
        }
    }
}

/// Refuses a call that allocates while the system has no memory: the reserve is for calls that have begun.
pub fn check_reserve() -> Result<()> {
    if (RESERVE.given.load(Ordering::Relaxed) >> 32) as usize > SIZE - LEFT {
        return Err(Failure::Fixed(SLLM_STATUS_OUT_OF_MEMORY, "the system has no more memory"));
    }
    Ok(())
}

/// Refuses a call that will need about `each` bytes for each of `count` parts when the system does not have them.
pub fn wanted(count: usize, each: usize) -> Result<()> {
    check_reserve()?;
    // More than the address space is more than the system has.
    let bytes = count.saturating_mul(each);
    let mut probe = Vec::<u8>::new();
    probe.try_reserve_exact(bytes).map_err(|_| {
        Failure::Text(
            SLLM_STATUS_OUT_OF_MEMORY,
            format!("the system does not have the {} MB that this takes", bytes >> 20),
        )
    })?;
    std::hint::black_box(probe.as_ptr());
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_reserve_is_complete_after_all_of_it_was_freed() {
        static RESERVE: Reserve = Reserve { bytes: UnsafeCell::new([0; SIZE]), given: AtomicU64::new(0) };
        let layout = |size, align| Layout::from_size_align(size, align).unwrap();
        let one = RESERVE.take(layout(100, 8));
        let two = RESERVE.take(layout(1 << 20, 4096));
        assert!(RESERVE.has(one) && RESERVE.has(two) && two.is_aligned() && two.addr().is_multiple_of(4096));
        assert!(two.addr() - one.addr() >= 100);
        assert!(RESERVE.take(layout(SIZE, 1)).is_null());
        // SAFETY: they came from the reserve, with these layouts; the third is moved before it is freed.
        unsafe {
            one.write_bytes(7, 100);
            let three = RESERVE.realloc(one, layout(100, 8), 200);
            assert_eq!(std::slice::from_raw_parts(three, 100), [7; 100]);
            RESERVE.dealloc(three, layout(200, 8));
            RESERVE.dealloc(two, layout(1 << 20, 4096));
        }
        assert_eq!(RESERVE.given.load(Ordering::Relaxed), 0);
        assert!(!RESERVE.take(layout(SIZE - 8, 1)).is_null());
    }

    /// A product that wraps would be 0 here; where words have 32 bits, a text of 64 MB is such a one.
    #[test]
    fn more_than_the_address_space_is_refused() {
        let refused = wanted(1 << (usize::BITS - 6), 64);
        assert_eq!(refused.err().map(|e| e.code()), Some(SLLM_STATUS_OUT_OF_MEMORY));
        assert!(wanted(1 << 10, 64).is_ok());
    }
}
