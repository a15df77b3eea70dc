// The model of the documentation's examples: the story model, if the crate is in its repository. A published crate has
// no model: there the examples are compiled, and end at once.

/// The model's bytes, at an address with the alignment of an image.
pub fn image() -> Option<&'static [u8]> {
    let host = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("../host");
    if !host.exists() {
        return None;
    }
    let bytes = std::fs::read(host.join("models/story.sllm")).unwrap();
    // Words of eight bytes are aligned to at least four.
    let mut words = vec![0_u64; bytes.len().div_ceil(8)];
    for (word, bytes) in words.iter_mut().zip(bytes.chunks(8)) {
        let mut whole = [0; 8];
        whole[..bytes.len()].copy_from_slice(bytes);
        *word = u64::from_ne_bytes(whole);
    }
    let words: &'static [u64] = words.leak();
    // SAFETY: the words have at least this number of bytes, and are never freed.
    Some(unsafe { std::slice::from_raw_parts(words.as_ptr().cast(), bytes.len()) })
}
