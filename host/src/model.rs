//! A packed model, memory-mapped.

use crate::error::{Error, Result};
use crate::map::{copied, map_file, map_part};
use memmap2::Mmap;
use shadowllm_core::image::{Image, SectionKind};
use shadowllm_core::{Cpu, Isa, Kernels, Model, Session, SessionOptions};
use std::fs::File;
use std::mem::MaybeUninit;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

/// An image in memory, ready to use.
pub struct LoadedModel {
    // Borrows `mapping`; declared before it, so dropped before it.
    model: Model<'static>,
    #[cfg_attr(not(unix), expect(dead_code, reason = "it keeps the image's bytes"))]
    mapping: Option<Arc<Mmap>>,
    /// The mapped file, and the offset of the image in it; `None` for a copy in memory.
    #[cfg_attr(not(unix), expect(dead_code, reason = "read for memory budgets, which are for Unix"))]
    file: Option<(File, u64)>,
    path: PathBuf,
    load_time: Duration,
}

/// The processor; on Arm, the operating system reports its features.
pub fn cpu() -> Cpu {
    #[cfg(target_arch = "aarch64")]
    {
        use std::arch::is_aarch64_feature_detected as has;
        // SAFETY: the operating system has reported these features.
        unsafe { Cpu::assume(Isa::of_arm(has!("dotprod"), has!("i8mm"))) }
    }
    #[cfg(not(target_arch = "aarch64"))]
    Cpu::detect()
}

/// The instruction sets that kernels can run with here, slowest first.
pub fn isas() -> Vec<Isa> {
    Isa::ALL.into_iter().filter(|isa| Kernels::for_isa(cpu(), *isa).is_some()).collect()
}

fn parse(path: &Path, bytes: &'static [u8], isa: Option<Isa>) -> Result<Model<'static>> {
    let image = Image::parse(bytes).map_err(|source| Error::Engine { path: Some(path.to_owned()), source })?;
    let kernels = match isa {
        None => Kernels::best(cpu()),
        Some(isa) => Kernels::for_isa(cpu(), isa).ok_or_else(|| {
            let names: Vec<_> = isas().iter().map(|i| i.name()).collect();
            Error::Usage(format!("{} does not run on this machine; these do: {}", isa.name(), names.join(", ")))
        })?,
    };
    Ok(Model::new(image, kernels))
}

/// Options of loading, beside mapping the file and checking its head.
#[derive(Default)]
pub struct Loading<'a> {
    /// Forces an instruction set (for tests and comparisons).
    pub isa: Option<Isa>,
    /// Reads the whole file, so that the first token does not wait for it.
    pub preload: bool,
    /// Compares every section with its checksum, which reads the whole file.
    pub verify: bool,
    /// Copies the whole file to memory, so that later changes of the file, for example on a network drive, do not
    /// matter. On Linux the copy lies on huge pages, if there are any, which decodes faster than a mapped file.
    pub in_memory: bool,
    /// Called with the bytes done and the total; returns whether to continue.
    pub progress: Option<&'a mut dyn FnMut(u64, u64) -> bool>,
}

/// Bytes between two reports of progress.
const STEP: usize = 1 << 20;

impl Loading<'_> {
    fn report(&mut self, done: usize, all: usize) -> Result<()> {
        let go_on = self.progress.as_mut().is_none_or(|report| report(done as u64, all as u64));
        if go_on { Ok(()) } else { Err(shadowllm_core::Error::Cancelled.into()) }
    }

    /// Reads as much of the file as the options require.
    fn read(&mut self, path: &Path, image: &Image) -> Result<()> {
        let all = image.bytes().len();
        self.report(0, all)?;
        let sections = SectionKind::ALL.into_iter().filter(|_| self.verify || self.preload);
        let mut done = 0;
        for kind in sections.collect::<Vec<_>>() {
            let mut hash = crc32fast::Hasher::new();
            for part in image.section(kind).chunks(STEP) {
                if self.verify {
                    hash.update(part);
                } else {
                    part.iter().step_by(PAGE).for_each(|byte| _ = std::hint::black_box(*byte));
                }
                done += part.len();
                self.report(done.min(all - 1), all)?;
            }
            if self.verify && hash.finalize() != image.section_info(kind).crc {
                let message =
                    format!("its {} section is damaged (checksum mismatch): copy or pack it again", kind.name());
                return Err(Error::file(path, message));
            }
        }
        self.report(all, all)
    }
}

/// The smallest page: touching one byte of each is enough to read a file.
const PAGE: usize = 4096;

impl LoadedModel {
    /// Maps and checks an image; `isa` forces an instruction set (for tests and comparisons).
    ///
    /// # Errors
    /// Names the file and what is wrong with it.
    pub fn open(path: &Path, isa: Option<Isa>) -> Result<Self> {
        Self::open_with(path, Loading { isa, ..Loading::default() })
    }

    /// [`LoadedModel::open`] with all options of loading.
    ///
    /// # Errors
    /// As [`LoadedModel::open`]; [`shadowllm_core::Error::Cancelled`].
    pub fn open_with(path: &Path, loading: Loading) -> Result<Self> {
        let start = Instant::now();
        let (mapping, file) = map_file(path)?;
        Self::mapped(mapping, (file, 0), path, start, loading)
    }

    /// An image inside an open file, `offset` bytes from its beginning, and up to its end if no length is given. `name`
    /// is used in place of its path.
    ///
    /// # Errors
    /// As [`LoadedModel::open_with`].
    pub fn open_part(
        name: &Path,
        file: &std::fs::File,
        offset: u64,
        len: Option<u64>,
        loading: Loading,
    ) -> Result<Self> {
        let start = Instant::now();
        let own = file.try_clone().map_err(|e| Error::io("read", name, e))?;
        Self::mapped(map_part(name, file, offset, len)?, (own, offset), name, start, loading)
    }

    fn mapped(mapping: Mmap, file: (File, u64), path: &Path, start: Instant, mut loading: Loading) -> Result<Self> {
        let (mapping, file) = if loading.in_memory { (copied(path, &mapping)?, None) } else { (mapping, Some(file)) };
        // SAFETY: the mapping's address does not change when the struct moves, and `model` is private and dropped
        // before the mapping; methods return only borrows as short as that of `self`.
        let bytes: &'static [u8] = unsafe { std::slice::from_raw_parts(mapping.as_ptr(), mapping.len()) };
        let model = parse(path, bytes, loading.isa)?;
        loading.read(path, model.image())?;
        let (mapping, path) = (Some(Arc::new(mapping)), path.to_owned());
        Ok(LoadedModel { model, mapping, file, path, load_time: start.elapsed() })
    }

    /// Checks an image that is in static memory (`include_bytes!`); `name` is used in place of its path.
    ///
    /// # Errors
    /// Says what is wrong with the image.
    pub fn from_static(name: &str, bytes: &'static [u8], isa: Option<Isa>) -> Result<Self> {
        Self::from_static_with(name, bytes, Loading { isa, ..Loading::default() })
    }

    /// [`LoadedModel::from_static`] with all options of loading.
    ///
    /// # Errors
    /// As [`LoadedModel::from_static`]; [`shadowllm_core::Error::Cancelled`].
    pub fn from_static_with(name: &str, bytes: &'static [u8], mut loading: Loading) -> Result<Self> {
        let start = Instant::now();
        let model = parse(Path::new(name), bytes, loading.isa)?;
        loading.read(Path::new(name), model.image())?;
        Ok(LoadedModel { model, mapping: None, file: None, path: name.into(), load_time: start.elapsed() })
    }

    /// The engine's model.
    pub fn model(&self) -> &Model<'_> {
        &self.model
    }

    /// The file.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// The mapping, for advising the system about its pages.
    #[cfg(unix)]
    pub(crate) fn mapping(&self) -> Option<Arc<Mmap>> {
        self.mapping.clone()
    }

    /// The mapped file, and the offset of the image in it.
    #[cfg(unix)]
    pub(crate) fn file(&self) -> Option<(&File, u64)> {
        self.file.as_ref().map(|(file, begins)| (file, *begins))
    }

    /// Bytes of the file.
    pub fn file_bytes(&self) -> usize {
        self.model.image().bytes().len()
    }

    /// How long mapping and checking took.
    pub fn load_time(&self) -> Duration {
        self.load_time
    }

    /// A text section.
    ///
    /// # Errors
    /// When it is not UTF-8.
    pub fn text(&self, kind: SectionKind) -> Result<&str> {
        let bytes = self.model.image().section(kind);
        std::str::from_utf8(bytes)
            .map_err(|_| Error::file(&self.path, format!("its {} section is not UTF-8; pack it again", kind.name())))
    }

    /// Memory for a session.
    ///
    /// # Errors
    /// When the options are out of range, or the memory is not available.
    pub fn memory(&self, options: &SessionOptions) -> Result<SessionMemory> {
        let size = Session::memory_required(&self.model, options)?.size();
        SessionMemory::new(size)
    }

    /// A session in that memory.
    ///
    /// # Errors
    /// When the options are out of range, or the memory is too small for them.
    pub fn session<'m>(&'m self, options: SessionOptions, memory: &'m mut SessionMemory) -> Result<Session<'m, 'm>> {
        Ok(Session::new(self.model, options, memory.bytes())?)
    }
}

/// A session's memory. The system provides only pages that are written to.
pub struct SessionMemory(Vec<MaybeUninit<u8>>);

impl SessionMemory {
    /// Memory of `size` bytes.
    ///
    /// # Errors
    /// When the system does not have enough memory.
    pub fn new(size: usize) -> Result<Self> {
        let mut bytes = Vec::new();
        bytes.try_reserve_exact(size).map_err(|_| {
            Error::Resources(format!(
                "the session needs {} MB of memory, which is not available: choose a shorter context",
                size >> 20
            ))
        })?;
        // SAFETY: the vector has this capacity, and MaybeUninit needs no initialisation.
        unsafe { bytes.set_len(size) };
        Ok(SessionMemory(bytes))
    }

    /// The bytes.
    pub fn bytes(&mut self) -> &mut [MaybeUninit<u8>] {
        &mut self.0
    }

    /// The number of bytes.
    pub fn size(&self) -> usize {
        self.0.len()
    }

    /// The bytes as a box.
    pub(crate) fn into_boxed(self) -> Box<[MaybeUninit<u8>]> {
        self.0.into_boxed_slice()
    }
}
