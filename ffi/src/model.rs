//! Models: references that keep a packed image usable.

use crate::object::{Kind, Tag, Tagged, check, place, room};
use crate::session;
use crate::status::{null, status};
use crate::structs::{self, Out, put, slice, sllm_memory, sllm_model_info, sllm_session_options, wanted};
use core::ffi::{c_char, c_void};
use core::sync::atomic::{AtomicUsize, Ordering};
use shadowllm_core::image::SectionKind;
use shadowllm_core::{Isa, Model};

/// A model with its reference count.
#[repr(C)]
pub struct sllm_model {
    tag: Tag,
    references: AtomicUsize,
    /// Whether it is a box of its own (else in memory that the caller gave).
    boxed: bool,
    /// The engine's model; its image lives as long as `_keeper`, or by the caller's promise.
    pub model: Model<'static>,
    #[cfg(feature = "std")]
    pub loaded: Option<shadowllm_host::model::LoadedModel>,
}

impl Kind for sllm_model {
    const TAG: u32 = u32::from_le_bytes(*b"modl");
}

// SAFETY: repr(C), the tag first.
unsafe impl Tagged for sllm_model {}

impl sllm_model {
    /// One more reference.
    pub fn retain(&self) -> Reference {
        self.references.fetch_add(1, Ordering::Relaxed);
        Reference(self)
    }
}

/// A reference that gives itself back.
pub struct Reference(*const sllm_model);

impl Reference {
    pub fn model(&self) -> &sllm_model {
        // SAFETY: the count that this reference is part of keeps the model alive.
        unsafe { &*self.0 }
    }
}

impl Drop for Reference {
    fn drop(&mut self) {
        // SAFETY: this reference was counted.
        unsafe { release(self.0.cast_mut()) }
    }
}

// SAFETY: a model never changes, and its count is atomic.
unsafe impl Send for Reference {}
// SAFETY: as above.
unsafe impl Sync for Reference {}

/// Gives a reference back; the last one ends the model.
///
/// # Safety
/// The reference was counted and is not used any more.
unsafe fn release(model: *mut sllm_model) {
    // SAFETY: alive, since a reference is.
    let found = unsafe { &*model };
    if found.references.fetch_sub(1, Ordering::AcqRel) != 1 {
        return;
    }
    found.tag.kill();
    #[cfg(feature = "std")]
    if found.boxed {
        // SAFETY: boxed ones come from `Box::into_raw`, and this was the last reference.
        drop(unsafe { Box::from_raw(model) });
        return;
    }
    // SAFETY: the last reference; the memory is the caller's.
    unsafe { core::ptr::drop_in_place(&mut (*model).model) };
}

/// A new model on the heap, with one reference.
#[cfg(feature = "std")]
pub fn boxed(loaded: shadowllm_host::model::LoadedModel) -> *mut sllm_model {
    // SAFETY: the image lives as long as `loaded`, which is dropped with the model.
    let model = unsafe { core::mem::transmute::<Model<'_>, Model<'static>>(*loaded.model()) };
    let (tag, references) = (Tag::new::<sllm_model>(), AtomicUsize::new(1));
    Box::into_raw(Box::new(sllm_model { tag, references, boxed: true, model, loaded: Some(loaded) }))
}

/// Bytes that [`sllm_model_init`] needs.
#[unsafe(no_mangle)]
pub extern "C" fn sllm_model_size() -> usize {
    room::<sllm_model>()
}

/// A model over an image in memory, in memory that the caller gives.
///
/// # Safety
/// See the header.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn sllm_model_init(
    memory: *mut c_void,
    size: usize,
    image: *const c_void,
    image_size: usize,
    model: *mut *mut sllm_model,
) -> i32 {
    status(|| {
        #[cfg(feature = "std")]
        crate::hosted::quiet();
        wanted(model)?;
        let (at, _) = place::<sllm_model>(memory, size)?;
        if image.is_null() {
            return Err(null("the image is NULL"));
        }
        // SAFETY: the caller keeps the image in place.
        let bytes: &'static [u8] = unsafe { slice(image.cast(), image_size)? };
        let parsed = Model::parse(bytes)?;
        let value = sllm_model {
            tag: Tag::new::<sllm_model>(),
            references: AtomicUsize::new(1),
            boxed: false,
            model: parsed,
            #[cfg(feature = "std")]
            loaded: None,
        };
        // SAFETY: `place` found room; the output is not NULL.
        unsafe {
            at.write(value);
            put(model, at);
        }
        Ok(())
    })
}

/// One more reference.
///
/// # Safety
/// See the header.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn sllm_model_retain(model: *mut sllm_model) -> i32 {
    status(|| {
        // SAFETY: the header's rules for handles.
        core::mem::forget(unsafe { check(model) }?.retain());
        Ok(())
    })
}

/// Gives a reference back.
///
/// # Safety
/// See the header.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn sllm_model_free(model: *mut *mut sllm_model) -> i32 {
    status(|| {
        if model.is_null() {
            return Err(null("the pointer to the object is NULL"));
        }
        // SAFETY: the caller's variable, and the header's rules for handles.
        unsafe {
            if !(*model).is_null() {
                check(*model)?;
                release(*model);
                *model = core::ptr::null_mut();
            }
        }
        Ok(())
    })
}

/// Name of an instruction set, with a NUL.
fn isa_name(isa: Isa) -> *const c_char {
    let name = match isa {
        Isa::Scalar => c"scalar",
        Isa::Avx2 => c"avx2",
        Isa::Avx512 => c"avx512",
        Isa::Neon => c"neon",
        Isa::NeonDot => c"neon-dotprod",
        Isa::NeonI8mm => c"neon-i8mm",
        Isa::Simd128 => c"simd128",
        _ => c"other",
    };
    name.as_ptr()
}

/// Whether the chat section holds a template.
fn has_template(model: &Model) -> bool {
    let chat = model.image().section(SectionKind::Chat);
    let key = b"\"template\":";
    let value = chat.windows(key.len()).position(|w| w == key).map(|at| chat[at + key.len()..].trim_ascii_start());
    value.is_some_and(|v| v.starts_with(b"\"") && !v.starts_with(b"\"\""))
}

/// What a model is.
///
/// # Safety
/// See the header.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn sllm_model_get_info(model: *const sllm_model, info: *mut sllm_model_info) -> i32 {
    status(|| {
        // SAFETY: the header's rules for handles and structures.
        let (model, out) = unsafe { (check(model)?, Out::new(info)?) };
        let (model, c) = (&model.model, model.model.config());
        let has = |kind| u32::from(!model.image().section(kind).is_empty());
        out.write(sllm_model_info {
            struct_size: 0,
            vocab: c.vocab as u32,
            layers: c.layers as u32,
            width: c.d_model as u32,
            heads: c.heads as u32,
            kv_heads: c.kv_heads as u32,
            neurons: c.ffn as u32,
            trained_context: c.max_positions as u32,
            bos: c.bos.map_or(-1, |id| id as i32),
            has_tokenizer: has(SectionKind::Tokenizer),
            has_chat_template: u32::from(has_template(model)),
            is_calibrated: has(SectionKind::Predictor),
            image_bytes: model.image().bytes().len() as u64,
            bytes_per_token: model.weight_bytes_per_token() as u64,
            isa: isa_name(model.kernels().isa()),
        });
        Ok(())
    })
}

/// Whether a token ends a text.
///
/// # Safety
/// See the header.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn sllm_model_is_end(model: *const sllm_model, token: u32, is_end: *mut i32) -> i32 {
    status(|| {
        // SAFETY: the header's rules for handles.
        let c = unsafe { check(model) }?.model.config();
        wanted(is_end)?;
        let (id, vocab) = (token, c.vocab as u32);
        if id >= vocab {
            return Err(shadowllm_core::Error::TokenOutOfRange { id, vocab }.into());
        }
        // SAFETY: not NULL.
        unsafe { put(is_end, i32::from(c.eos().contains(&token))) };
        Ok(())
    })
}

/// What a session will take.
///
/// # Safety
/// See the header.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn sllm_estimate_memory(
    model: *const sllm_model,
    options: *const sllm_session_options,
    memory: *mut sllm_memory,
) -> i32 {
    status(|| {
        // SAFETY: the header's rules for handles and structures.
        let (model, options, out) =
            unsafe { (check(model)?, structs::read(options, session::DEFAULTS)?, Out::new(memory)?) };
        let (session_bytes, kv_bytes) = session::bytes(&model.model, &options)?;
        let image_bytes = model.model.image().bytes().len() as u64;
        out.write(sllm_memory {
            struct_size: 0,
            reserved: 0,
            session_bytes: session_bytes as u64,
            kv_bytes: kv_bytes as u64,
            image_bytes,
            total_bytes: session_bytes as u64 + image_bytes,
        });
        Ok(())
    })
}
