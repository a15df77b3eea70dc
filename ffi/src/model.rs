//! Models: reference-counted, over an image in the caller's memory or one that `load` mapped.

use crate::args::{Out, put, slice, wanted};
use crate::message::boundary;
use crate::object::{Kind, Tag, Tagged, check, place, room};
use crate::status::invalid;
use crate::structs::sllm_model_info;
use core::ffi::{c_char, c_void};
use core::sync::atomic::{AtomicUsize, Ordering};
use shadowllm_core::image::SectionKind;
use shadowllm_core::{Model, SessionOptions};

/// A model with its reference count.
#[repr(C)]
pub struct sllm_model {
    tag: Tag,
    references: AtomicUsize,
    /// Whether the model is a box on the heap; else it is in memory that the caller gave.
    boxed: bool,
    /// The engine's model. Its image lives as long as `loaded`, or as long as the caller promised.
    pub model: Model<'static>,
    /// The mapped image, for models that `load` made.
    #[cfg(feature = "std")]
    pub loaded: Option<shadowllm_host::model::LoadedModel>,
}

impl Kind for sllm_model {
    const TAG: u32 = u32::from_le_bytes(*b"modl");
}

// SAFETY: the type is repr(C), and its first field is the tag.
unsafe impl Tagged for sllm_model {}

impl sllm_model {
    /// Counts one more reference.
    pub fn retain(&self) -> Reference {
        self.references.fetch_add(1, Ordering::Relaxed);
        Reference(self)
    }
}

/// A counted reference; dropping it gives it back.
pub struct Reference(*const sllm_model);

impl Reference {
    pub fn model(&self) -> &sllm_model {
        // SAFETY: this reference is counted, and a model lives as long as its count is above 0.
        unsafe { &*self.0 }
    }
}

impl Drop for Reference {
    fn drop(&mut self) {
        // SAFETY: this reference was counted by `retain`, and dropping is its last use.
        unsafe { release(self.0.cast_mut()) }
    }
}

// SAFETY: only the count of a model changes, and it is atomic.
unsafe impl Send for Reference {}
// SAFETY: a shared reference to a model only changes its count, which is atomic.
unsafe impl Sync for Reference {}

/// Gives a reference back; giving back the last one ends the model.
///
/// # Safety
/// The reference was counted, and this is its last use.
unsafe fn release(model: *mut sllm_model) {
    // SAFETY: the reference is still counted, so the model is alive.
    let found = unsafe { &*model };
    if found.references.fetch_sub(1, Ordering::AcqRel) != 1 {
        return;
    }
    found.tag.kill();
    #[cfg(feature = "std")]
    if found.boxed {
        // SAFETY: `boxed` models come from `Box::into_raw`, and the count says that this was the last reference.
        drop(unsafe { Box::from_raw(model) });
        return;
    }
    // SAFETY: the count says that this was the last reference; the memory itself is the caller's.
    unsafe { core::ptr::drop_in_place(&mut (*model).model) };
}

/// A new model on the heap, with one reference.
#[cfg(feature = "std")]
pub fn boxed(loaded: shadowllm_host::model::LoadedModel) -> *mut sllm_model {
    // SAFETY: the image lives as long as `loaded`, which is stored beside the model and is dropped with it.
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
    boundary(|| {
        #[cfg(feature = "std")]
        crate::message::log_panics();
        wanted(model)?;
        let (at, _) = place::<sllm_model>(memory, size)?;
        if image.is_null() {
            return Err(invalid("the image is NULL"));
        }
        // SAFETY: not NULL, checked above; the header asks the caller to keep the image in place for the model's life.
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
        // SAFETY: `place` found room for the value; `model` is not NULL, checked by `wanted`.
        unsafe {
            at.write(value);
            put(model, at);
        }
        Ok(())
    })
}

/// Counts one more reference.
///
/// # Safety
/// See the header.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn sllm_model_retain(model: *mut sllm_model) -> i32 {
    boundary(|| {
        // SAFETY: handles are NULL or live objects, by the header's rules.
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
    boundary(|| {
        if model.is_null() {
            return Err(invalid("the pointer to the object is NULL"));
        }
        // SAFETY: not NULL, checked above; handles are NULL or live objects, by the header's rules.
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

/// Whether the chat section holds a template.
fn has_template(model: &Model) -> bool {
    let chat = model.image().section(SectionKind::Chat);
    let key = b"\"template\":";
    let value = chat.windows(key.len()).position(|w| w == key).map(|at| chat[at + key.len()..].trim_ascii_start());
    value.is_some_and(|v| v.starts_with(b"\"") && !v.starts_with(b"\"\""))
}

/// Facts about a model.
///
/// # Safety
/// See the header.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn sllm_model_get_info(model: *const sllm_model, info: *mut sllm_model_info) -> i32 {
    boundary(|| {
        // SAFETY: handles are NULL or live objects and structures as large as their struct_size, by the header's rules.
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
            isa: model.kernels().isa().c_name().as_ptr(),
            most_context: c.most_positions.min(SessionOptions::MOST_CONTEXT) as u32,
            reserved: 0,
        });
        Ok(())
    })
}

/// The tokens that end a text.
///
/// # Safety
/// See the header.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn sllm_model_end_tokens(
    model: *const sllm_model,
    tokens: *mut *const u32,
    count: *mut usize,
) -> i32 {
    boundary(|| {
        // SAFETY: handles are NULL or live objects, by the header's rules.
        let found = unsafe { check(model) }?.model.config().eos();
        wanted(tokens)?;
        wanted(count)?;
        // SAFETY: not NULL, checked by `wanted`.
        unsafe {
            put(tokens, found.as_ptr());
            put(count, found.len());
        }
        Ok(())
    })
}

/// The image's record of its origin.
///
/// # Safety
/// See the header.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn sllm_model_metadata(
    model: *const sllm_model,
    json: *mut *const c_char,
    length: *mut usize,
) -> i32 {
    boundary(|| {
        // SAFETY: handles are NULL or live objects, by the header's rules.
        let found = unsafe { check(model) }?.model.image().section(SectionKind::Provenance);
        wanted(json)?;
        wanted(length)?;
        // SAFETY: not NULL, checked by `wanted`.
        unsafe {
            put(json, found.as_ptr().cast());
            put(length, found.len());
        }
        Ok(())
    })
}

/// Whether a token ends a text.
///
/// # Safety
/// See the header.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn sllm_model_is_end(model: *const sllm_model, token: u32, is_end: *mut i32) -> i32 {
    boundary(|| {
        // SAFETY: handles are NULL or live objects, by the header's rules.
        let c = unsafe { check(model) }?.model.config();
        wanted(is_end)?;
        let (id, vocab) = (token, c.vocab as u32);
        if id >= vocab {
            return Err(shadowllm_core::Error::TokenOutOfRange { id, vocab }.into());
        }
        // SAFETY: not NULL, checked by `wanted`.
        unsafe { put(is_end, i32::from(c.eos().contains(&token))) };
        Ok(())
    })
}
