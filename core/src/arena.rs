//! Typed slices of one piece of memory that the caller gives.

use crate::error::Error;
use core::mem::{MaybeUninit, align_of, size_of};

/// Every slice starts at a multiple of this, a cache line and the widest vector.
pub const ALIGN: usize = 64;

/// Types of which an arena makes slices: values without a destructor.
pub trait Plain: Copy + Default {}
macro_rules! plain {
    ($($t:ty)*) => { $(impl Plain for $t {})* };
}
plain!(i8 u8 u16 i32 u32 f32 u64 [i32; 2] [f32; 2]);

/// Hands out consecutive slices. Measuring and carving are one code path: [`Arena::measure`] makes an
/// arena without memory that only counts, so the size required is the size used.
pub struct Arena<'a> {
    memory: Option<&'a mut [MaybeUninit<u8>]>,
    used: usize,
    given: usize,
}

impl<'a> Arena<'a> {
    /// An arena that only counts.
    pub fn measure() -> Self {
        Arena { memory: None, used: 0, given: usize::MAX }
    }

    /// An arena in `memory`, whose start is rounded up to [`ALIGN`] (that loss is part of [`Arena::needed`]).
    pub fn new(memory: &'a mut [MaybeUninit<u8>]) -> Self {
        let given = memory.len();
        let skip = memory.as_ptr().align_offset(ALIGN).min(given);
        Arena { memory: Some(&mut memory[skip..]), used: 0, given }
    }

    /// Whether it only counts. Its slices are then empty.
    pub fn measures(&self) -> bool {
        self.given == usize::MAX
    }

    /// Bytes handed out so far, with room to align any start.
    pub fn needed(&self) -> usize {
        self.used.saturating_add(ALIGN - 1)
    }

    /// A slice of `len` zeros, or `&mut []` when measuring.
    ///
    /// # Errors
    /// [`Error::MemoryTooSmall`] when it does not fit.
    pub fn zeros<T: Plain>(&mut self, len: usize) -> Result<&'a mut [T], Error> {
        let raw = self.uninit::<T>(len)?;
        for slot in raw.iter_mut() {
            slot.write(T::default());
        }
        // SAFETY: every element was just written.
        Ok(unsafe { &mut *(raw as *mut [MaybeUninit<T>] as *mut [T]) })
    }

    /// [`Arena::zeros`] for `rows` rows of `width`. Where the product is more than this machine can address, no memory
    /// is enough.
    ///
    /// # Errors
    /// [`Error::MemoryTooSmall`] when it does not fit.
    pub fn rows<T: Plain>(&mut self, rows: usize, width: usize) -> Result<&'a mut [T], Error> {
        self.zeros(rows.saturating_mul(width))
    }

    /// A slice of `len` elements that are not written yet (so that untouched pages stay untouched), or
    /// `&mut []` when measuring.
    ///
    /// # Errors
    /// [`Error::MemoryTooSmall`] when it does not fit.
    pub fn uninit<T: Plain>(&mut self, len: usize) -> Result<&'a mut [MaybeUninit<T>], Error> {
        self.take(len)
    }

    /// A slice of `len` values, the `i`th of them `make(i)`, or `&[]` when measuring.
    ///
    /// # Errors
    /// [`Error::MemoryTooSmall`] when it does not fit; errors of `make`.
    pub fn fill<T: Copy + 'a>(
        &mut self,
        len: usize,
        mut make: impl FnMut(usize) -> Result<T, Error>,
    ) -> Result<&'a [T], Error> {
        let raw = self.take::<T>(len)?;
        for (i, slot) in raw.iter_mut().enumerate() {
            slot.write(make(i)?);
        }
        // SAFETY: every element was just written.
        Ok(unsafe { &*(raw as *const [MaybeUninit<T>] as *const [T]) })
    }

    fn take<T: Copy>(&mut self, len: usize) -> Result<&'a mut [MaybeUninit<T>], Error> {
        const { assert!(align_of::<T>() <= ALIGN) };
        let bytes = len.checked_mul(size_of::<T>()).and_then(|b| b.checked_next_multiple_of(ALIGN));
        let Some(bytes) = bytes else {
            return Err(Error::MemoryTooSmall { needed: usize::MAX, given: self.given });
        };
        self.used = self.used.saturating_add(bytes);
        let Some(memory) = self.memory.take() else { return Ok(&mut []) };
        if memory.len() < bytes {
            return Err(Error::MemoryTooSmall { needed: self.needed(), given: self.given });
        }
        let (head, rest) = memory.split_at_mut(bytes);
        self.memory = Some(rest);
        // SAFETY: `head` is aligned to ALIGN (the start was rounded up and every length is a multiple of it), it has
        // room for at least `len` elements, and its borrow for 'a is exclusive, since `split_at_mut` removed it from
        // the rest.
        Ok(unsafe { core::slice::from_raw_parts_mut(head.as_mut_ptr().cast(), len) })
    }
}
