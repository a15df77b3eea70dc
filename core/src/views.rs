//! Views on memory that several tasks share.

use core::marker::PhantomData;
use core::ops::Range;

/// A mutable slice that tasks of one step write to at disjoint ranges.
pub struct Disjoint<'a, T> {
    start: *mut T,
    len: usize,
    owner: PhantomData<&'a mut [T]>,
}

// SAFETY: the ranges handed out are disjoint by the contract of `range`, so sharing the view is like
// sending the parts of `split_at_mut` to several threads.
unsafe impl<T: Send> Sync for Disjoint<'_, T> {}
// SAFETY: as above; the view owns the exclusive borrow.
unsafe impl<T: Send> Send for Disjoint<'_, T> {}

impl<'a, T> Disjoint<'a, T> {
    /// Takes the exclusive borrow apart.
    pub fn new(slice: &'a mut [T]) -> Self {
        Disjoint { start: slice.as_mut_ptr(), len: slice.len(), owner: PhantomData }
    }

    /// Elements in all.
    pub fn len(&self) -> usize {
        self.len
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// First element, for kernels that write through pointers; the contract of [`Disjoint::range`] holds
    /// for what they write.
    pub fn as_ptr(&self) -> *mut T {
        self.start
    }

    /// The elements of `range`.
    ///
    /// # Panics
    /// When the range is not inside the slice.
    ///
    /// # Safety
    /// No other live reference obtained from this view may overlap `range`.
    #[allow(clippy::mut_from_ref, reason = "disjointness is the caller's promise")]
    pub unsafe fn range(&self, range: Range<usize>) -> &mut [T] {
        assert!(range.start <= range.end && range.end <= self.len, "range outside the shared slice");
        // SAFETY: inside the slice (checked above); no live reference overlaps it, which the caller of this function ensures.
        unsafe { core::slice::from_raw_parts_mut(self.start.add(range.start), range.end - range.start) }
    }
}
