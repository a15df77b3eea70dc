//! Models larger than memory: which pages of a mapped image to keep, and when to request the others.
//!
//! A token goes through the layers in order, so the pages that were just read are needed last, and a system that keeps
//! the most recently read pages keeps the wrong ones. Here pages are kept by how often tokens need them. A page's
//! *heat* is a moving average over tokens: pages above a bound stay, pages at the bound stay as far as they fit, and
//! the others are read ahead of their layer and given back after it. If heads and neurons are chosen ahead, only their
//! pages are requested. Inputs are not chosen ahead, so their pages are always read. Experts are requested when a layer's
//! router has chosen them.

use crate::error::{Error, Result};
use crate::model::LoadedModel;
use crate::signals::blocked;
use memmap2::{Advice, Mmap, UncheckedAdvice};
use shadowllm_core::Units;
use shadowllm_core::image::{Image, LayerShape, Role, SectionKind, Storage};
use std::fs::File;
use std::ops::Range;
#[cfg(any(target_os = "linux", target_os = "android"))]
use std::os::fd::AsRawFd;
use std::sync::mpsc::{Sender, channel};
use std::sync::{Arc, Condvar, Mutex};
use std::thread::JoinHandle;

/// Bytes of a page; a system's larger pages are requested in parts.
const PAGE: usize = 4096;
/// The most bytes in a request, because the system truncates longer ones.
const REQUEST: usize = 512 << 10;
/// The heat that a token adds to a page that it needs. Every token reduces all heat by an eighth.
const WARMTH: u8 = 31;
/// If not all pages of the same heat fit, pages stay or go in runs of this number, 1 MB.
const RUN: usize = 256;

/// Neighbouring layers that are partly in memory: one is given back, one is read, one is requested.
const UNDER_WAY: usize = 3;
/// Number of tokens after which the looked-up embeddings are given back.
const TABLE_TOKENS: usize = 16;

/// Units of a tensor that can be left out one by one.
#[derive(Clone, Copy, PartialEq)]
enum Unit {
    Whole,
    Heads,
    Neurons,
    Experts,
}

/// Evenly spaced runs of bytes of a layer.
struct Part {
    unit: Unit,
    start: usize,
    bytes: usize,
    stride: usize,
    count: usize,
}

impl Part {
    /// The bytes of run `i`.
    fn run(&self, i: usize) -> Range<usize> {
        self.start + i * self.stride..self.start + i * self.stride + self.bytes
    }

    /// The bytes that will be read, as far as it is known before the layer, run by run.
    fn runs<'a>(&'a self, active: Option<&'a Units>, layer: usize) -> Box<dyn Iterator<Item = Range<usize>> + 'a> {
        let chosen = match self.unit {
            Unit::Whole => None,
            Unit::Heads => active.and_then(|a| a.heads(layer)),
            Unit::Neurons => active.and_then(|a| a.neurons(layer)),
            Unit::Experts => Some(&[][..]),
        };
        match chosen {
            Some(list) => Box::new(self.listed(list)),
            None => Box::new((0..self.count).map(|i| self.run(i))),
        }
    }

    /// The bytes of the listed runs.
    fn listed<'a>(&'a self, list: &'a [u32]) -> impl Iterator<Item = Range<usize>> + 'a {
        list.iter().map(|i| *i as usize).filter(|i| *i < self.count).map(|i| self.run(i))
    }
}

/// A layer, or the tensors after the last layer.
#[derive(Default)]
struct Stage {
    parts: Vec<Part>,
    /// The range of its pages.
    pages: Range<usize>,
}

/// A request to the reading thread.
enum Request {
    Read(Vec<Range<usize>>),
    GiveBack(Vec<Range<usize>>),
}

/// The pages of one image.
pub struct Residency {
    stages: Vec<Stage>,
    /// For every page: how often earlier tokens needed it, whether this token does, and whether it is in memory or
    /// requested.
    heat: Vec<u8>,
    wanted: Vec<bool>,
    held: Vec<bool>,
    /// Number of pages that may stay: the budget less the pages of layers that are partly in memory.
    room: usize,
    /// The heat that pages need to stay, and how many of 256 runs with exactly this heat do.
    bound: (u8, u16),
    /// The stage that is being read.
    at: usize,
    /// The embedding, of which each token looks up a row, and the number of tokens until its pages are given back.
    table: Option<Range<usize>>,
    table_tokens: usize,
    /// Requests sent so far; the number of the last request for each stage; requests carried out.
    sent: u64,
    requested: Vec<u64>,
    done: Arc<(Mutex<u64>, Condvar)>,
    system: Option<Sender<Request>>,
    worker: Option<JoinHandle<()>>,
}

impl Residency {
    /// For a model in a file, of whose weights at most `budget` bytes may be in memory.
    ///
    /// # Errors
    /// [`Error::Usage`] for a budget of less than three layers, or a model that is not in a file.
    pub fn new(model: &LoadedModel, budget: usize) -> Result<Self> {
        let path = model.path();
        let (Some(mapping), Some((file, begins))) = (model.mapping(), model.file()) else {
            return Err(Error::Usage(format!(
                "{} is in memory as a whole, so a memory budget has no effect: open it as a file",
                path.display()
            )));
        };
        // The open file is used, because its name may now belong to another file.
        let file = file.try_clone().map_err(|e| Error::io("read", path, e))?;
        let stages = stages(model);
        let sizes: Vec<usize> = stages.iter().map(|s| s.pages.len()).collect();
        let under_way = sizes.windows(UNDER_WAY.min(sizes.len())).map(|w| w.iter().sum()).max().unwrap_or(0);
        let Some(room) = (budget / PAGE).checked_sub(under_way) else {
            return Err(Error::Usage(format!(
                "the memory budget must hold {UNDER_WAY} neighbouring layers of {}: give {} MB or more",
                path.display(),
                (under_way * PAGE).div_ceil(1_000_000)
            )));
        };
        let pages = mapping.len().div_ceil(PAGE);
        let (sender, requests) = channel();
        let done = Arc::new((Mutex::new(0), Condvar::new()));
        let report = Arc::clone(&done);
        let worker = std::thread::Builder::new().name("shadowllm-reader".into());
        let work = move || {
            // This is only advice, which can make reading slower or faster, but never wrong.
            let _ = mapping.advise(Advice::Random);
            for request in requests {
                carry_out(&mapping, (&file, begins), request);
                if let Ok(mut done) = report.0.lock() {
                    *done += 1;
                }
                report.1.notify_all();
            }
        };
        let worker = blocked(|| worker.spawn(work));
        let worker = worker.map_err(|e| Error::Resources(format!("cannot start a thread: {e}")))?;
        Ok(Residency {
            sent: 0,
            requested: vec![0; stages.len()],
            done,
            stages,
            heat: vec![0; pages],
            wanted: vec![false; pages],
            held: vec![false; pages],
            room,
            bound: (0, 0),
            at: 0,
            table: table(model),
            table_tokens: TABLE_TOKENS,
            system: Some(sender),
            worker: Some(worker),
        })
    }

    /// Called before a stage is read: gives back the stage before, and requests the next one.
    pub fn stage(&mut self, stage: usize, active: Option<&Units>) {
        if stage >= self.stages.len() {
            return;
        }
        self.give_back(self.at);
        if stage == 0 {
            self.bound = self.next_token();
            (0..self.stages.len()).for_each(|s| self.give_back(s));
            self.give_back_table();
        }
        self.at = stage;
        self.ask(stage, active);
        // Choices for later layers may be known only after the first layer, so before that whole layers are not
        // requested.
        let next = stage + 1;
        if next < self.stages.len() && (stage > 0 || active.is_none()) {
            self.ask(next, active);
        }
        self.wait(stage);
    }

    /// Called when the router of a stage has chosen: requests the experts.
    pub fn experts(&mut self, stage: usize, experts: &[u32]) {
        let Some(s) = self.stages.get(stage) else { return };
        for run in s.parts.iter().filter(|part| part.unit == Unit::Experts).flat_map(|part| part.listed(experts)) {
            self.wanted[run.start / PAGE..run.end.div_ceil(PAGE)].fill(true);
        }
        self.request(stage);
        self.wait(stage);
    }

    /// Waits until a stage has been requested, because reading earlier would load page by page.
    fn wait(&self, stage: usize) {
        let Ok(mut done) = self.done.0.lock() else { return };
        while *done < self.requested[stage] {
            match self.done.1.wait(done) {
                Ok(now) => done = now,
                Err(_) => return,
            }
        }
    }

    /// Updates the heat of all pages after a token; returns the heat that pages need to stay, so that they fit.
    fn next_token(&mut self) -> (u8, u16) {
        let mut counts = [0usize; 256];
        for page in self.stages.iter().flat_map(|s| s.pages.clone()) {
            let heat = &mut self.heat[page];
            *heat -= heat.div_ceil(8);
            if std::mem::take(&mut self.wanted[page]) {
                *heat = heat.saturating_add(WARMTH);
            }
            counts[usize::from(*heat)] += 1;
        }
        let mut left = self.room;
        for heat in (0..=255).rev() {
            let count = counts[usize::from(heat)];
            if count > left {
                return (heat, (256 * left / count) as u16);
            }
            left -= count;
        }
        (0, 256)
    }

    /// Whether a page stays.
    fn stays(&self, page: usize) -> bool {
        let place = ((page / RUN) as u32).wrapping_mul(0x9e37_79b9) >> 24;
        let (bound, runs) = self.bound;
        self.heat[page] > bound || self.heat[page] == bound && place < u32::from(runs)
    }

    /// Requests what is known to be read of a stage.
    fn ask(&mut self, stage: usize, active: Option<&Units>) {
        let s = &self.stages[stage];
        for run in s.parts.iter().flat_map(|part| part.runs(active, stage)) {
            self.wanted[run.start / PAGE..run.end.div_ceil(PAGE)].fill(true);
        }
        self.request(stage);
    }

    /// Requests the wanted pages of a stage that are not in memory; neighbouring pages are one request.
    fn request(&mut self, stage: usize) {
        let mut missing = Pages::default();
        for page in self.stages[stage].pages.clone() {
            if self.wanted[page] && !std::mem::replace(&mut self.held[page], true) {
                missing.add(page);
            }
        }
        if self.send(missing, Request::Read) {
            self.requested[stage] = self.sent;
        }
    }

    /// Gives back the pages of a stage that do not stay.
    fn give_back(&mut self, stage: usize) {
        let mut gone = Pages::default();
        for page in self.stages[stage].pages.clone() {
            if self.held[page] && !self.stays(page) {
                self.held[page] = false;
                gone.add(page);
            }
        }
        self.send(gone, Request::GiveBack);
    }

    fn give_back_table(&mut self) {
        self.table_tokens -= 1;
        if self.table_tokens == 0 {
            self.table_tokens = TABLE_TOKENS;
            let pages = self.table.iter().map(|t| t.start.div_ceil(PAGE)..t.end / PAGE).collect();
            self.send(Pages(pages), Request::GiveBack);
        }
    }

    /// Sends a request for pages; returns whether there were any.
    fn send(&mut self, pages: Pages, request: fn(Vec<Range<usize>>) -> Request) -> bool {
        let runs = pages.0.into_iter().map(|run| run.start * PAGE..run.end * PAGE).collect::<Vec<_>>();
        // If the reading thread is gone, reading is slower, but not wrong.
        let sent = !runs.is_empty() && self.system.as_ref().is_some_and(|s| s.send(request(runs)).is_ok());
        self.sent += u64::from(sent);
        sent
    }
}

impl Drop for Residency {
    fn drop(&mut self) {
        self.system = None;
        if let Some(worker) = self.worker.take() {
            // The thread only ends by returning, so its result has no information.
            let _ = worker.join();
        }
    }
}

/// Runs of pages.
#[derive(Default)]
struct Pages(Vec<Range<usize>>);

impl Pages {
    fn add(&mut self, page: usize) {
        match self.0.last_mut() {
            Some(run) if run.end == page => run.end += 1,
            _ => self.0.push(page..page + 1),
        }
    }
}

fn carry_out(mapping: &Mmap, (file, begins): (&File, u64), request: Request) {
    match request {
        Request::Read(runs) => {
            for run in runs {
                for at in run.clone().step_by(REQUEST) {
                    let end = run.end.min(at + REQUEST).min(mapping.len());
                    let _ = mapping.advise_range(Advice::WillNeed, at, end - at);
                }
            }
        }
        Request::GiveBack(runs) => {
            for run in &runs {
                let len = run.end.min(mapping.len()) - run.start;
                // SAFETY: the file is mapped read-only, so dropped pages are read again with the same contents.
                let _ = unsafe { mapping.unchecked_advise_range(UncheckedAdvice::DontNeed, run.start, len) };
            }
            if let (Some(first), Some(last)) = (runs.first(), runs.last()) {
                forget(file, begins, first.start..last.end);
            }
        }
    }
}

/// Also removes pages that are no longer mapped from the system's cache, if the system can. The image begins at byte
/// `begins` of the file.
fn forget(file: &File, begins: u64, bytes: Range<usize>) {
    #[cfg(any(target_os = "linux", target_os = "android"))]
    {
        let (at, len) = (begins as libc::off_t + bytes.start as libc::off_t, bytes.len() as libc::off_t);
        // SAFETY: the descriptor is that of an open file; the call only gives advice.
        unsafe { libc::posix_fadvise(file.as_raw_fd(), at, len, libc::POSIX_FADV_DONTNEED) };
    }
    #[cfg(not(any(target_os = "linux", target_os = "android")))]
    let _ = (file, begins, bytes);
}

/// The embedding, if it is not also the output matrix.
fn table(model: &LoadedModel) -> Option<Range<usize>> {
    let (image, mut entries) = (model.model().image(), model.model().image().entries());
    entries.find(|e| e.role == Role::Output)?;
    let entry = image.entries().find(|e| e.role == Role::Embed)?;
    let start = weights_at(image) + entry.offset;
    Some(start..start + entry.bytes())
}

/// The offset of the weights in the image.
fn weights_at(image: &Image) -> usize {
    image.section(SectionKind::Weights).as_ptr().addr() - image.bytes().as_ptr().addr()
}

/// The stages of all layers, and the output's stage after them.
fn stages(model: &LoadedModel) -> Vec<Stage> {
    let (image, c) = (model.model().image(), model.model().config());
    let weights = weights_at(image);
    let mut stages: Vec<Stage> = (0..=c.layers).map(|_| Stage::default()).collect();
    let has_output = image.entries().any(|e| e.role == Role::Output);
    for entry in image.entries() {
        let output = if has_output { Role::Output } else { Role::Embed };
        let stage = match entry.role {
            role if role.in_layers() => usize::from(entry.layer),
            role if role == output => c.layers,
            _ => continue,
        };
        let shape = LayerShape::of(&image.arch().layer(entry.layer.into()));
        let start = weights + entry.offset;
        stages[stage].parts.push(match entry.experts {
            0 => part(&entry.storage, entry.role, start, &shape),
            count => {
                let one = part(&entry.storage, entry.role, start, &shape);
                let bytes = one.run(one.count - 1).end - start;
                Part { unit: Unit::Experts, start, bytes, stride: entry.expert_stride, count }
            }
        });
    }
    for stage in &mut stages {
        stage.parts.sort_by_key(|p| p.start);
        let first = stage.parts.first().map_or(0, |p| p.start / PAGE);
        let end = stage.parts.iter().map(|p| p.start + (p.count - 1) * p.stride + p.bytes).max();
        stage.pages = first..end.map_or(first, |end| end.div_ceil(PAGE));
    }
    stages
}

fn part(storage: &Storage, role: Role, start: usize, shape: &LayerShape) -> Part {
    let g = match storage {
        Storage::Vector { len } => return Part { unit: Unit::Whole, start, bytes: 4 * len, stride: 0, count: 1 },
        Storage::Tiles(geometry) => geometry,
    };
    let count = g.units() / g.units_per_group;
    let unit = match role {
        Role::Q | Role::O if count == shape.heads => Unit::Heads,
        Role::Gate | Role::Up | Role::Down if count == shape.groups() => Unit::Neurons,
        _ => Unit::Whole,
    };
    Part { unit, start, bytes: g.units_per_group * g.unit_bytes() + g.shared_bytes(), stride: g.group_stride, count }
}
