//! What the fuzz targets do, one function each. `README.md` says how they are run.

mod images;
mod script;
mod sources;
mod texts;

pub use images::{image, live, predictor, state};
pub use sources::{gguf, safetensors, tasks};
pub use texts::{chat, template, tokenizer};

use std::path::PathBuf;
use std::sync::OnceLock;

/// A fuzz target's program: `$target` is one of the functions above.
#[macro_export]
macro_rules! target {
    ($target:ident) => {
        libfuzzer_sys::fuzz_target!(|data: &[u8]| $crate::$target(data));
    };
}

/// Makes a panic the end of the program, and so a finding, except where the library itself makes it an error.
fn panics_are_findings() {
    static ONCE: OnceLock<()> = OnceLock::new();
    ONCE.get_or_init(|| {
        // libFuzzer's own ends the program at every panic.
        std::panic::set_hook(Box::new(|info| {
            if !shadowllm_host::text_guard::is_guarded() {
                eprintln!("{info}\n{}", std::backtrace::Backtrace::force_capture());
                std::process::abort();
            }
        }));
    });
}

/// A folder for the files of this process, in memory where the system has a place for that.
fn folder() -> &'static PathBuf {
    static FOLDER: OnceLock<PathBuf> = OnceLock::new();
    FOLDER.get_or_init(|| {
        let memory = PathBuf::from("/dev/shm");
        let parent = if memory.is_dir() { memory } else { std::env::temp_dir() };
        let folder = parent.join(format!("shadowllm-fuzz-{}", std::process::id()));
        std::fs::create_dir_all(&folder).expect("a folder for files");
        folder
    })
}
