//! The command `shadowllm`: it is built once and run in temporary folders, with checks for runs that must fail.

use serde_json::{Value, json};
use std::collections::BTreeMap;
use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::OnceLock;

/// The program, built with the same profile and target as the test, because `cargo test` does not build programs of
/// other packages.
///
/// # Panics
/// When it cannot be built.
pub fn program() -> &'static Path {
    static PROGRAM: OnceLock<PathBuf> = OnceLock::new();
    PROGRAM.get_or_init(build)
}

fn build() -> PathBuf {
    let place = BuildPlace::of(&std::env::current_exe().unwrap());
    let program = place.folder.join(format!("shadowllm{}", std::env::consts::EXE_SUFFIX));
    let mut cargo = Command::new(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
    cargo.args(["build", "--quiet", "--package", "shadowllm-tools", "--bin", "shadowllm"]);
    cargo.arg("--manifest-path").arg(Path::new(env!("CARGO_MANIFEST_DIR")).join("../Cargo.toml"));
    cargo.arg("--profile").arg(&place.profile).arg("--target-dir").arg(&place.target);
    cargo.args(place.triple.iter().flat_map(|t| ["--target", t]));
    match cargo.status() {
        Ok(status) => assert!(status.success(), "{cargo:?} failed"),
        // Without cargo, a program that was copied here is used.
        Err(e) => assert!(program.is_file(), "{}: not there, and cargo cannot be run: {e}", program.display()),
    }
    program
}

/// The path that Cargo gave a test when it built it: `<target>[/<triple>]/<profile>/deps/<test>`.
struct BuildPlace {
    folder: PathBuf,
    target: PathBuf,
    triple: Option<String>,
    profile: String,
}

impl BuildPlace {
    fn of(test: &Path) -> BuildPlace {
        let folder = test.ancestors().nth(2).unwrap().to_owned();
        let name = |p: &Path| p.file_name().unwrap_or_default().to_string_lossy().into_owned();
        let above = folder.parent().unwrap();
        let triple = Some(name(above)).filter(|n| n.starts_with(std::env::consts::ARCH) && n.contains('-'));
        let target = if triple.is_some() { above.parent().unwrap() } else { above };
        let profile = if name(&folder) == "debug" { "dev".into() } else { name(&folder) };
        BuildPlace { target: target.to_owned(), triple, profile, folder }
    }
}

/// A command that runs the program, through the runner that Cargo was given for another architecture.
fn command() -> Command {
    let triple = BuildPlace::of(&std::env::current_exe().unwrap()).triple.unwrap_or_default();
    let name = format!("CARGO_TARGET_{}_RUNNER", triple.to_uppercase().replace('-', "_"));
    let runner = std::env::var(name).unwrap_or_default();
    let mut words = runner.split_whitespace().map(OsString::from).chain([program().into()]);
    let mut command = Command::new(words.next().unwrap());
    command.args(words);
    command
}

/// The results of a run.
pub struct Run {
    /// Exit code; `None` when a signal ended it.
    pub code: Option<i32>,
    /// Standard output.
    pub out: String,
    /// Standard error.
    pub err: String,
}

/// A folder in which the program runs, with its own cache.
pub struct Place(tempfile::TempDir);

impl Place {
    /// An empty folder.
    ///
    /// # Panics
    /// When the folder cannot be created.
    #[allow(clippy::new_without_default, reason = "it makes a folder")]
    pub fn new() -> Place {
        Place(tempfile::tempdir().unwrap())
    }

    /// A path in it.
    pub fn path(&self, name: &str) -> PathBuf {
        self.0.path().join(name)
    }

    /// Writes a file.
    ///
    /// # Panics
    /// When it cannot.
    pub fn write(&self, name: &str, bytes: impl AsRef<[u8]>) {
        std::fs::create_dir_all(self.path(name).parent().unwrap()).unwrap();
        std::fs::write(self.path(name), bytes).unwrap();
    }

    /// Reads a file.
    ///
    /// # Panics
    /// When it cannot.
    pub fn read(&self, name: &str) -> Vec<u8> {
        std::fs::read(self.path(name)).unwrap_or_else(|e| panic!("{name}: {e}"))
    }

    /// Lets the tokenizer of the folder `model` put token 1 before texts.
    ///
    /// # Panics
    /// When it cannot.
    pub fn begin_texts(&self) {
        let mut tokenizer: Value = serde_json::from_slice(&self.read("model/tokenizer.json")).unwrap();
        tokenizer["post_processor"] = json!({"type": "TemplateProcessing", "pair": [],
            "single": [{"SpecialToken": {"id": "</s>", "type_id": 0}}, {"Sequence": {"id": "A", "type_id": 0}}],
            "special_tokens": {"</s>": {"id": "</s>", "ids": [1], "tokens": ["</s>"]}}});
        self.write("model/tokenizer.json", tokenizer.to_string());
    }

    /// Copies a file, or the files of a folder.
    ///
    /// # Panics
    /// When it cannot.
    pub fn copy(&self, from: &Path, name: &str) {
        if from.is_file() {
            return self.write(name, std::fs::read(from).unwrap());
        }
        for entry in std::fs::read_dir(from).unwrap() {
            let entry = entry.unwrap();
            self.copy(&entry.path(), &format!("{name}/{}", entry.file_name().to_string_lossy()));
        }
    }

    /// Every file in it, hidden ones too, with its bytes.
    ///
    /// # Panics
    /// When one cannot be read.
    pub fn files(&self) -> BTreeMap<PathBuf, Vec<u8>> {
        let (mut files, mut folders) = (BTreeMap::new(), vec![self.0.path().to_owned()]);
        while let Some(folder) = folders.pop() {
            for entry in std::fs::read_dir(folder).unwrap() {
                let path = entry.unwrap().path();
                if path.is_dir() {
                    folders.push(path);
                } else {
                    let bytes = if path.is_file() { std::fs::read(&path).unwrap() } else { Vec::new() };
                    files.insert(path, bytes);
                }
            }
        }
        files
    }

    /// The program with these arguments (separated by spaces) and empty standard input.
    pub fn command(&self, arguments: &str) -> Command {
        let mut command = command();
        command.args(arguments.split_whitespace()).current_dir(self.0.path()).stdin(Stdio::null());
        command.env("XDG_CACHE_HOME", self.path("cache")).env_remove("RUST_BACKTRACE");
        command
    }

    /// Runs the program, which may fail but must not panic.
    pub fn run(&self, arguments: &str) -> Run {
        finish(self.command(arguments))
    }

    /// Runs the program, which must succeed.
    pub fn works(&self, arguments: &str) -> Run {
        let run = self.run(arguments);
        assert_eq!(run.code, Some(0), "{arguments}: {}", run.err);
        run
    }

    /// Runs the program, which must end with this exit code, write these words to standard error and nothing to
    /// standard output, and change, add or remove no file.
    pub fn fails(&self, code: i32, arguments: &str, words: &[&str]) {
        self.refuses(code, self.command(arguments), words);
    }

    /// The same for a command.
    pub fn refuses(&self, code: i32, command: Command, words: &[&str]) {
        let (before, what) = (self.files(), format!("{command:?}"));
        let run = finish(command);
        assert_eq!(run.code, Some(code), "{what}: {}", run.err);
        assert_eq!(run.out, "", "{what}: standard output");
        for word in words {
            assert!(run.err.contains(word), "{what}: {word:?} is not in: {}", run.err);
        }
        let after = self.files();
        assert!(before.keys().eq(after.keys()), "{what} left {:?}, not {:?}", after.keys(), before.keys());
        let changed: Vec<_> = before.iter().filter(|(path, bytes)| after[*path] != **bytes).map(|f| f.0).collect();
        assert!(changed.is_empty(), "{what} changed {changed:?}");
    }
}

/// Runs a command, which may fail but must not panic.
///
/// # Panics
/// When it cannot be started, or when it panicked.
pub fn finish(mut command: Command) -> Run {
    let output = command.output().unwrap_or_else(|e| panic!("{command:?}: {e}"));
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    let run = Run { code: output.status.code(), out: text(&output.stdout), err: text(&output.stderr) };
    assert!(!run.err.contains("panicked") && run.code != Some(101), "{command:?}: {}", run.err);
    run
}
