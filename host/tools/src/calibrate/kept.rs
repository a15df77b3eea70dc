//! The measurements of an interrupted search for budgets, saved so that they need not be repeated.

use super::budget::Cost;
use super::checkpoint::Checkpoint;
use shadowllm_host::Result;
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

/// Measurements, by the number of the search and their number in it.
pub struct Kept {
    path: PathBuf,
    /// Identifies model, predictors and text.
    key: String,
    every: Duration,
    saved: Instant,
    search: u32,
    costs: BTreeMap<(u32, u32), Cost>,
}

impl Kept {
    /// The measurements of an interrupted search, if its `key` is the same.
    ///
    /// # Errors
    /// When the file exists but cannot be read.
    pub fn open(path: &Path, key: String, every: Duration) -> Result<Self> {
        let mut costs = BTreeMap::new();
        if let Some(kept) = Checkpoint::read(path, &key)? {
            let (jobs, found) = (kept.u32("jobs")?, kept.f64("costs")?);
            for (job, cost) in jobs.as_chunks::<2>().0.iter().zip(found.as_chunks::<3>().0) {
                costs.insert((job[0], job[1]), Cost { kl: cost[0], read: cost[1], loss: cost[2] });
            }
        }
        Ok(Kept { path: path.to_owned(), key, every, saved: Instant::now(), search: 0, costs })
    }

    /// Begins the next search.
    pub fn next_search(&mut self) {
        self.search += 1;
    }

    /// A measurement of this search that was made before.
    pub fn get(&self, job: usize) -> Option<Cost> {
        self.costs.get(&(self.search, job as u32)).copied()
    }

    /// Adds a measurement, and saves all of them from time to time.
    ///
    /// # Errors
    /// When the file cannot be written.
    pub fn put(&mut self, job: usize, cost: Cost) -> Result<()> {
        self.costs.insert((self.search, job as u32), cost);
        if self.saved.elapsed() < self.every {
            return Ok(());
        }
        let mut kept = Checkpoint::default();
        let jobs: Vec<u32> = self.costs.keys().flat_map(|(search, job)| [*search, *job]).collect();
        let costs: Vec<f64> = self.costs.values().flat_map(|cost| [cost.kl, cost.read, cost.loss]).collect();
        kept.put_u32("jobs".into(), &jobs);
        kept.put_f64("costs".into(), &costs);
        kept.write(&self.path, &self.key)?;
        self.saved = Instant::now();
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn measurements_outlive_the_search_they_are_of() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("costs");
        let open = |key: &str| Kept::open(&path, key.into(), Duration::ZERO).unwrap();
        let mut first = open("one");
        first.next_search();
        first.put(3, Cost { kl: 0.25, read: 0.5, loss: 0.75 }).unwrap();
        first.next_search();
        first.put(3, Cost { kl: 1.0, read: 0.125, loss: 2.0 }).unwrap();
        drop(first);
        let mut again = open("one");
        again.next_search();
        assert_eq!(again.get(3).map(|c| (c.kl, c.read, c.loss)), Some((0.25, 0.5, 0.75)));
        assert!(again.get(2).is_none());
        again.next_search();
        assert_eq!(again.get(3).map(|c| (c.kl, c.read, c.loss)), Some((1.0, 0.125, 2.0)));
        let mut other = open("another");
        other.next_search();
        assert!(other.get(3).is_none(), "of another model or text");
    }
}
