//! Decoding allocates nothing: neither the core (which cannot) nor the host's loop around it.

use shadowllm_core::sample::{Sampler, SamplerOptions};
use shadowllm_core::{Format, KvFormat, SessionOptions};
use shadowllm_host::generate::generate;
use shadowllm_host::model::LoadedModel;
use shadowllm_host::pool::Pool;
use shadowllm_tests::{fixture_ids, pack_to, vectors};
use std::alloc::{GlobalAlloc, Layout, System};
use std::sync::atomic::{AtomicUsize, Ordering};

struct Counting;
static COUNT: AtomicUsize = AtomicUsize::new(0);

// SAFETY: every call is passed on to the system's allocator, whose guarantees hold.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        COUNT.fetch_add(1, Ordering::Relaxed);
        // SAFETY: the caller meets the requirements of this method, which are those of the system's allocator.
        unsafe { System.alloc(layout) }
    }
    unsafe fn dealloc(&self, p: *mut u8, layout: Layout) {
        // SAFETY: the caller meets the requirements of this method, which are those of the system's allocator.
        unsafe { System.dealloc(p, layout) }
    }
}

#[global_allocator]
static ALLOCATOR: Counting = Counting;

#[test]
fn nothing_is_allocated_per_token() {
    let temp = tempfile::tempdir().unwrap();
    for family in ["qwen2", "opt-postnorm-proj"] {
        let image = temp.path().join("model.sllm");
        pack_to(&vectors("models").join(family), Format::Q4_0, &image);
        let model = LoadedModel::open(&image, None).unwrap();
        let options =
            SessionOptions { context: 200, batch: 16, logit_rows: 1, ahead: 0, kv: KvFormat::F16, sparsity: false };
        let mut memory = model.memory(&options).unwrap();
        let mut session = model.session(options, &mut memory).unwrap();
        let pool = Pool::new(2).unwrap();
        // Threads allocate when they start, so all must have started.
        std::thread::sleep(std::time::Duration::from_millis(200));
        let options = SamplerOptions { repetition_penalty: 1.1, ..SamplerOptions::default() };
        let mut sampler = Sampler::new(options).unwrap();
        let mut counts = Vec::with_capacity(128);
        let ids = fixture_ids(family);
        let (_, _) = generate(&mut session, &pool, &mut sampler, &ids, 100, &mut |_, _| {
            counts.push(COUNT.load(Ordering::Relaxed));
            Ok(true)
        })
        .unwrap();
        assert!(counts.len() > 20, "{family} stopped after {} tokens", counts.len());
        // The first tokens warm up; then nothing.
        assert_eq!(counts[4], counts[counts.len() - 1], "{family}");
    }
}
