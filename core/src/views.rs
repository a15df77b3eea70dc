//! Views on memory that several tasks share.

use core::marker::PhantomData;
use core::ops::Range;

/// A mutable slice that tasks of one step write to at disjoint ranges.
pub struct Disjoint<'a, T> {
    start: *mut T,
    len: usize,
    owner: PhantomData<&'a mut [T]>,
}

// SAFETY: callers of `range` promise that live ranges do not overlap, so sharing the view is like sending the parts of
// `split_at_mut` to several threads.
unsafe impl<T: Send> Sync for Disjoint<'_, T> {}
// SAFETY: the view holds an exclusive borrow of elements that may be sent to another thread.
unsafe impl<T: Send> Send for Disjoint<'_, T> {}

impl<'a, T> Disjoint<'a, T> {
    /// A view on the slice, whose exclusive borrow it keeps.
    pub fn new(slice: &'a mut [T]) -> Self {
        Disjoint { start: slice.as_mut_ptr(), len: slice.len(), owner: PhantomData }
    }

    /// The number of elements.
    pub fn len(&self) -> usize {
        self.len
    }

    /// Whether the slice is empty.
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// The address of the first element, for kernels that write through pointers; their writes must keep to the rules
    /// of [`Disjoint::range`].
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
        // SAFETY: the range is inside the slice (checked above), and the caller promises that no live reference
        // overlaps it.
        unsafe { core::slice::from_raw_parts_mut(self.start.add(range.start), range.end - range.start) }
    }
}
