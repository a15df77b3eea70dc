//! The cores to run on: on machines with fast and slow cores, the fast ones.
//!
//! A step of a forward pass ends with its slowest task, so a slow core makes all others wait.

use std::path::Path;

/// Cores that a session's threads may run on.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Cores {
    /// Their numbers, ascending; empty if the system does not report them.
    pub ids: Vec<usize>,
    /// Whether slower cores were left out, so that threads must be restricted to these.
    pub chosen: bool,
}

impl Cores {
    /// All cores that this process may use.
    pub fn all() -> Cores {
        Cores { ids: allowed(), chosen: false }
    }

    /// The fast cores among those that this process may use.
    pub fn fastest() -> Cores {
        fastest_of(allowed(), Path::new("/sys/devices/system/cpu"))
    }

    /// The best number of threads: one per core, but no more than the process gets processor time for.
    pub fn threads(&self) -> usize {
        let granted = std::thread::available_parallelism().map_or(1, usize::from);
        if self.ids.is_empty() { granted } else { granted.min(self.ids.len()) }
    }

    /// Restricts the calling thread to these cores; returns whether the system did so.
    pub fn bind(&self) -> bool {
        !self.ids.is_empty() && bind(&self.ids)
    }
}

/// The cores that have at least two thirds of the fastest one's capacity, according to the kernel's files in `folder`.
fn fastest_of(ids: Vec<usize>, folder: &Path) -> Cores {
    let number = |id: usize, file: &str| -> Option<u64> {
        std::fs::read_to_string(folder.join(format!("cpu{id}")).join(file)).ok()?.trim().parse().ok()
    };
    for file in ["cpu_capacity", "cpufreq/cpuinfo_max_freq"] {
        let speeds: Option<Vec<u64>> = ids.iter().map(|id| number(*id, file)).collect();
        let Some(speeds) = speeds else { continue };
        let best = speeds.iter().copied().max().unwrap_or(0);
        let fast: Vec<usize> =
            ids.iter().zip(&speeds).filter(|(_, s)| **s * 3 >= best * 2).map(|(id, _)| *id).collect();
        let chosen = fast.len() < ids.len();
        return Cores { ids: fast, chosen };
    }
    Cores { ids, chosen: false }
}

#[cfg(any(target_os = "linux", target_os = "android"))]
fn allowed() -> Vec<usize> {
    // SAFETY: a set of cores consists of bits, and all zeros is a valid set.
    let mut set: libc::cpu_set_t = unsafe { std::mem::zeroed() };
    // SAFETY: the size passed is that of the set; 0 is the calling thread.
    if unsafe { libc::sched_getaffinity(0, size_of::<libc::cpu_set_t>(), &mut set) } != 0 {
        return Vec::new();
    }
    // SAFETY: the numbers are below the size of the set.
    (0..8 * size_of::<libc::cpu_set_t>()).filter(|id| unsafe { libc::CPU_ISSET(*id, &set) }).collect()
}

#[cfg(any(target_os = "linux", target_os = "android"))]
fn bind(ids: &[usize]) -> bool {
    // SAFETY: a set of cores consists of bits, and all zeros is a valid set.
    let mut set: libc::cpu_set_t = unsafe { std::mem::zeroed() };
    for id in ids.iter().filter(|id| **id < 8 * size_of::<libc::cpu_set_t>()) {
        // SAFETY: the number is below the size of the set.
        unsafe { libc::CPU_SET(*id, &mut set) };
    }
    // SAFETY: the size passed is that of the set; 0 is the calling thread.
    unsafe { libc::sched_setaffinity(0, size_of::<libc::cpu_set_t>(), &set) == 0 }
}

/// The core that runs the calling thread; the largest number if the system does not say.
#[cfg(any(target_os = "linux", target_os = "android"))]
pub fn here() -> usize {
    // SAFETY: the call takes no arguments and changes nothing.
    usize::try_from(unsafe { libc::sched_getcpu() }).unwrap_or(usize::MAX)
}

/// The largest number: this system does not say which core runs a thread.
#[cfg(not(any(target_os = "linux", target_os = "android")))]
pub fn here() -> usize {
    usize::MAX
}

#[cfg(not(any(target_os = "linux", target_os = "android")))]
fn allowed() -> Vec<usize> {
    Vec::new()
}

#[cfg(not(any(target_os = "linux", target_os = "android")))]
fn bind(_ids: &[usize]) -> bool {
    false
}

#[cfg(test)]
mod tests {
    use super::*;

    fn machine(file: &str, speeds: &[u64]) -> Cores {
        let folder = std::env::temp_dir().join(format!("shadowllm-cores-{}-{}", std::process::id(), speeds.len()));
        for (id, speed) in speeds.iter().enumerate() {
            let path = folder.join(format!("cpu{id}")).join(file);
            std::fs::create_dir_all(path.parent().unwrap()).unwrap();
            std::fs::write(path, format!("{speed}\n")).unwrap();
        }
        let cores = fastest_of((0..speeds.len()).collect(), &folder);
        std::fs::remove_dir_all(folder).unwrap();
        cores
    }

    #[test]
    fn slow_cores_are_left_out() {
        // A phone: four slow, three fast, one faster still.
        let phone = machine("cpu_capacity", &[279, 279, 279, 279, 870, 870, 870, 1024]);
        assert_eq!(phone, Cores { ids: vec![4, 5, 6, 7], chosen: true });
        let board = machine("cpufreq/cpuinfo_max_freq", &[1_400_000, 1_400_000, 2_200_000, 2_200_000, 2_200_000]);
        assert_eq!(board, Cores { ids: vec![2, 3, 4], chosen: true });
    }

    #[test]
    fn equal_cores_are_all_used() {
        assert_eq!(machine("cpu_capacity", &[1024, 1024]), Cores { ids: vec![0, 1], chosen: false });
        assert_eq!(fastest_of(vec![0, 3], Path::new("/nowhere")), Cores { ids: vec![0, 3], chosen: false });
    }

    #[cfg(target_os = "linux")]
    #[test]
    fn a_bound_thread_stays_on_its_core() {
        let all = Cores::all();
        let one = Cores { ids: vec![all.ids[0]], chosen: true };
        let bound = std::thread::spawn(move || (one.bind(), allowed())).join().unwrap();
        assert_eq!(bound, (true, vec![all.ids[0]]));
    }
}
