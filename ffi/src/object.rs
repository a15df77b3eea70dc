//! The objects that handles point to: a first word that says their kind, a lock that refuses instead of waiting, and
//! poison after a panic. And the memory of objects.

use crate::status::{Failure, Result, SLLM_STATUS_BUFFER_TOO_SMALL, SLLM_STATUS_BUSY, SLLM_STATUS_INTERNAL};
use crate::status::{SLLM_STATUS_INVALID_HANDLE, invalid};
use core::cell::UnsafeCell;
use core::ffi::c_void;
use core::sync::atomic::{AtomicBool, AtomicU32, AtomicUsize, Ordering};

/// First word of freed objects.
const DEAD: u32 = u32::from_le_bytes(*b"dead");

/// A kind of object.
pub trait Kind {
    /// The first word of objects of this kind.
    const TAG: u32;
}

/// First word of every object.
#[repr(transparent)]
pub struct Tag(AtomicU32);

impl Tag {
    pub fn new<K: Kind>() -> Tag {
        Tag(AtomicU32::new(K::TAG))
    }

    pub fn kill(&self) {
        self.0.store(DEAD, Ordering::Relaxed);
    }
}

/// An object whose first field is a [`Tag`], of its own kind.
///
/// # Safety
/// The type must be `repr(C)` and begin with a [`Tag`].
pub unsafe trait Tagged: Kind {}

/// The object that a handle points to.
///
/// # Safety
/// The pointer must be NULL or to an object of this library that is not freed before `'a` ends. (A freed object is
/// recognised as long as its memory was not used again.)
pub unsafe fn check<'a, T: Tagged>(handle: *const T) -> Result<&'a T> {
    if handle.is_null() {
        return Err(invalid("the object is NULL"));
    }
    if !handle.is_aligned() {
        return Err(Failure::Fixed(SLLM_STATUS_INVALID_HANDLE, "the pointer is not to an object of this library"));
    }
    // SAFETY: not NULL and aligned, checked above, and every object of this library begins with a tag.
    let tag = unsafe { &*handle.cast::<Tag>() }.0.load(Ordering::Relaxed);
    match tag {
        // SAFETY: the tag is that of `T`, and the object lives for `'a` by the caller's word.
        tag if tag == T::TAG => Ok(unsafe { &*handle }),
        DEAD => Err(Failure::Fixed(SLLM_STATUS_INVALID_HANDLE, "the object was freed before")),
        _ => Err(Failure::Fixed(SLLM_STATUS_INVALID_HANDLE, "the pointer is not to an object of this kind")),
    }
}

/// A value that one call at a time may use.
#[repr(C)]
pub struct Object<T: 'static> {
    tag: Tag,
    busy: AtomicBool,
    poisoned: AtomicBool,
    /// A flag that any thread may raise at any time.
    pub raised: AtomicBool,
    /// How far the call is, for any thread to see at any time.
    pub reached: AtomicUsize,
    /// Bytes of the object's heap memory; 0 for memory that the caller gave.
    pub heap_bytes: usize,
    value: UnsafeCell<T>,
}

impl<T: Kind> Kind for Object<T> {
    const TAG: u32 = T::TAG;
}

// SAFETY: the type is repr(C), and its first field is the tag.
unsafe impl<T: Kind> Tagged for Object<T> {}

impl<T: Kind> Object<T> {
    pub fn new(value: T, heap_bytes: usize) -> Self {
        Object {
            tag: Tag::new::<T>(),
            busy: AtomicBool::new(false),
            poisoned: AtomicBool::new(false),
            raised: AtomicBool::new(false),
            reached: AtomicUsize::new(0),
            heap_bytes,
            value: UnsafeCell::new(value),
        }
    }

    /// Takes the object for one call; a poisoned object only if `even_poisoned`.
    fn lock(&self, even_poisoned: bool) -> Result<Lock<'_>> {
        if self.busy.swap(true, Ordering::Acquire) {
            let message = "the object is in use by another call, on another thread or around this callback";
            return Err(Failure::Fixed(SLLM_STATUS_BUSY, message));
        }
        let lock = Lock(&self.busy);
        if self.poisoned.load(Ordering::Relaxed) && !even_poisoned {
            let message = "an error inside the library broke this object: free it and make a new one";
            return Err(Failure::Fixed(SLLM_STATUS_INTERNAL, message));
        }
        Ok(lock)
    }

    /// Runs one call on the value. A panic goes on to the boundary, and poisons each object on its way: all that the
    /// call uses may be half changed.
    pub fn with<R>(&self, body: impl FnOnce(&mut T) -> Result<R>) -> Result<R> {
        let _lock = self.lock(false)?;
        // SAFETY: the lock is held, so there is no other reference.
        let value = unsafe { &mut *self.value.get() };
        let poison = Poison(&self.poisoned);
        let result = body(value);
        core::mem::forget(poison);
        result
    }
}

/// Poisons an object when it is dropped: a call that returns forgets it.
struct Poison<'a>(&'a AtomicBool);

impl Drop for Poison<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

/// The right to use an object; given back when dropped.
struct Lock<'a>(&'a AtomicBool);

impl Drop for Lock<'_> {
    fn drop(&mut self) {
        self.0.store(false, Ordering::Release);
    }
}

/// Ends the object that `*slot` points to, if any, and sets `*slot` to NULL.
///
/// # Safety
/// As for [`check`], for `*slot`; no other call uses the object any more.
pub unsafe fn free<T: Kind>(slot: *mut *mut Object<T>) -> Result<()> {
    if slot.is_null() {
        return Err(invalid("the pointer to the object is NULL"));
    }
    // SAFETY: not NULL, checked above, and the caller's variable.
    let object = unsafe { *slot };
    if object.is_null() {
        return Ok(());
    }
    // SAFETY: the object is not freed before the end of this function, by the caller's word.
    let found = unsafe { check(object) }?;
    // Stays locked: a late call finds the object busy or dead.
    core::mem::forget(found.lock(true)?);
    found.tag.kill();
    let heap_bytes = found.heap_bytes;
    // SAFETY: `slot` is the caller's variable; the lock above is held for good, so there is no other reference to the
    // value, and the object was made in `heap_bytes` bytes from `take`, or in memory of the caller (0).
    unsafe {
        *slot = core::ptr::null_mut();
        core::ptr::drop_in_place((*object).value.get());
        give_back(object, heap_bytes);
    }
    Ok(())
}

/// As [`free`], for an object that is never locked.
///
/// # Safety
/// As for [`check`], for `*slot`, which is from `Box::into_raw`; no other call uses the object any more.
#[cfg(feature = "tokenizer")]
pub unsafe fn unbox<T: Tagged>(slot: *mut *mut T) -> Result<()> {
    if slot.is_null() {
        return Err(invalid("the pointer to the object is NULL"));
    }
    // SAFETY: not NULL, checked above, and the caller's variable.
    let object = unsafe { *slot };
    if object.is_null() {
        return Ok(());
    }
    // SAFETY: the object is not freed before the end of this function, by the caller's word; it begins with a tag, as all
    // that are `Tagged`, and is from `Box::into_raw`.
    unsafe {
        check(object)?;
        (*object.cast::<Tag>()).kill();
        *slot = core::ptr::null_mut();
        drop(Box::from_raw(object));
    }
    Ok(())
}

/// Frees memory that [`take`] gave.
///
/// # Safety
/// `bytes` is 0, or `object` is in this number of bytes from [`take`] and is not used any more.
#[cfg(feature = "std")]
pub unsafe fn give_back<T>(object: *mut T, bytes: usize) {
    if bytes > 0 {
        // SAFETY: `take` accepted the same layout when it gave this memory.
        unsafe {
            let layout = std::alloc::Layout::from_size_align_unchecked(bytes, ALIGN);
            std::alloc::dealloc(object.cast(), layout);
        }
    }
}

#[cfg(not(feature = "std"))]
pub unsafe fn give_back<T>(_: *mut T, _: usize) {}

/// Alignment of objects in memory: at least any object's.
pub const ALIGN: usize = 64;

/// Heap memory for an object and the bytes that follow it.
#[cfg(feature = "std")]
pub fn take(bytes: usize) -> Result<*mut u8> {
    use crate::status::SLLM_STATUS_OUT_OF_MEMORY;
    let none = || {
        let message = format!("the system does not have {} MB of memory: ask for a shorter context", bytes >> 20);
        Failure::Text(SLLM_STATUS_OUT_OF_MEMORY, message)
    };
    let layout = std::alloc::Layout::from_size_align(bytes.max(1), ALIGN).map_err(|_| none())?;
    // SAFETY: the size is at least 1.
    let memory = unsafe { std::alloc::alloc(layout) };
    if memory.is_null() { Err(none()) } else { Ok(memory) }
}

/// A new object on the heap.
#[cfg(feature = "std")]
pub fn boxed<T: Kind>(value: T) -> Result<*mut Object<T>> {
    const { assert!(align_of::<Object<T>>() <= ALIGN) };
    let bytes = size_of::<Object<T>>();
    let memory = take(bytes)?.cast::<Object<T>>();
    // SAFETY: new memory of the object's size, aligned to `ALIGN`.
    unsafe { memory.write(Object::new(value, bytes)) };
    Ok(memory)
}

/// A place for a `T`, aligned, in memory that a caller gave, and how many bytes follow the `T`.
pub fn place<T>(memory: *mut c_void, size: usize) -> Result<(*mut T, usize)> {
    const { assert!(align_of::<T>() <= ALIGN) };
    if memory.is_null() {
        return Err(invalid("the memory is NULL"));
    }
    // Whether the object fits does not depend on the alignment of the memory.
    if size < room::<T>() {
        return Err(Failure::Fixed(
            SLLM_STATUS_BUFFER_TOO_SMALL,
            "the memory is smaller than the library's ..._size function says",
        ));
    }
    let skip = memory.cast::<u8>().align_offset(ALIGN);
    // SAFETY: `skip` is below `ALIGN`, which `room` adds to the size of `T`, and `size` is at least that.
    let at = unsafe { memory.cast::<u8>().add(skip) };
    Ok((at.cast(), size - skip - size_of::<T>()))
}

/// Bytes that [`place`] needs, whatever the alignment.
pub const fn room<T>() -> usize {
    size_of::<T>() + ALIGN - 1
}
