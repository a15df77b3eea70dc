//! An engine's session together with the memory and the model that it borrows. Lifetimes are extended only in this
//! file.

use crate::error::Result;
use crate::handle::Model;
use crate::model::SessionMemory;
use shadowllm_core::{Session, SessionOptions};
use std::mem::MaybeUninit;
use std::ptr::NonNull;

/// A session that owns its memory and its model.
pub struct Owned {
    // Dropped in this order: the session borrows from both others.
    session: Session<'static, 'static>,
    memory: Memory,
    // Keeps the image mapped.
    _model: Model,
}

/// A session's memory, on the heap. It has a raw pointer, because the session has the only reference.
struct Memory(NonNull<[MaybeUninit<u8>]>);

// SAFETY: like a box, it has the only pointer to its bytes on the heap, and bytes may move between threads.
unsafe impl Send for Memory {}

// SAFETY: a shared reference to it gives no access to the bytes, only their number.
unsafe impl Sync for Memory {}

impl Drop for Memory {
    fn drop(&mut self) {
        // SAFETY: it came from `Box::into_raw`, it is freed nowhere else, and the session that used it was dropped
        // before.
        drop(unsafe { Box::from_raw(self.0.as_ptr()) });
    }
}

impl Owned {
    /// A session at position 0.
    ///
    /// # Errors
    /// When the options are out of range, or there is not enough memory.
    pub fn new(model: Model, options: SessionOptions) -> Result<Self> {
        let size = Session::memory_required(model.file().model(), &options)?.size();
        let pointer = Box::into_raw(SessionMemory::new(size)?.into_boxed());
        // SAFETY: a box's pointer is not null.
        let memory = Memory(unsafe { NonNull::new_unchecked(pointer) });
        // SAFETY: the image is in a mapping that `model` shares and that does not move; it lives as long as `_model`,
        // which is dropped after the session.
        let engine = unsafe {
            std::mem::transmute::<shadowllm_core::Model<'_>, shadowllm_core::Model<'static>>(*model.file().model())
        };
        // SAFETY: the bytes do not move when `Memory` does, nothing else refers to them, and `memory` is dropped after
        // the session.
        let bytes: &'static mut [MaybeUninit<u8>] = unsafe { &mut *memory.0.as_ptr() };
        Ok(Owned { session: Session::new(engine, options, bytes)?, memory, _model: model })
    }

    /// The engine's session, for reading.
    pub fn get(&self) -> &Session<'_, '_> {
        &self.session
    }

    /// Calls a closure with the engine's session. The closure must work for every lifetime, so that no borrow can leave
    /// the session, and nothing short-lived can get into it.
    pub fn with<R>(&mut self, body: impl for<'s> FnOnce(&mut Session<'s, 's>) -> R) -> R {
        body(&mut self.session)
    }

    /// Bytes of its memory.
    pub fn bytes(&self) -> usize {
        self.memory.0.len()
    }
}
