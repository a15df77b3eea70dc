"""What else the machine does: load, other processes' and the hypervisor's share of the processor."""

import contextlib
import fcntl
import os
import platform
import resource
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

STAT = Path("/proc/stat")


def describe():
    """The machine, for the report."""
    return {
        "cpu": cpu_field("model name") or platform.processor() or platform.machine(),
        "family": cpu_field("cpu family"),
        "model": cpu_field("model\t"),
        "caches": caches(),
        "cores": os.cpu_count(),
        "system": platform.platform(),
        "load": os.getloadavg(),
    }


def words(machine):
    """[`describe`] in a line: figures of one kind of processor say little of another."""
    numbers = [f"{name} {machine[name]}" for name in ("family", "model") if machine[name]]
    sizes = [f"{level} {size}" for level, size in machine["caches"].items()]
    return ", ".join([machine["cpu"], *numbers, f"{machine['cores']} cores", *sizes])


def cpu_field(name):
    """A line of the system's description of the first processor; None where it has no such line."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return None
    return next((line.split(":", 1)[1].strip() for line in lines if line.startswith(name)), None)


def caches():
    """Sizes of the second and third caches, where the system reports them."""
    sizes = {}
    for index in sorted(Path("/sys/devices/system/cpu/cpu0/cache").glob("index*")):
        try:
            level, size = ((index / field).read_text().strip() for field in ("level", "size"))
        except OSError:
            continue
        if level in ("2", "3"):
            sizes[f"L{level}"] = size
    return sizes


@dataclass(frozen=True)
class Usage:
    """Processor seconds in a span of time; those of others and stolen are None where the system does not report them."""

    wall: float
    others: float | None
    steal: float | None

    def taken(self):
        """Cores taken away, on average, by other processes and by the hypervisor; 0 where this is not known."""
        return (self.others + self.steal) / self.wall if self.others is not None else 0.0


class Watch:
    """Counts since it was made."""

    def __init__(self):
        self.start = self.counters()

    @staticmethod
    def counters():
        """Wall clock, this process and the children it has waited for, all processes, steal: in seconds."""
        used = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
        own = sum(u.ru_utime + u.ru_stime for u in used)
        busy, steal = Watch.system()
        return time.monotonic(), own, busy, steal

    @staticmethod
    def system():
        """Busy and stolen time of the whole machine (proc(5): user nice system idle iowait irq softirq steal)."""
        if not STAT.exists():
            return None, None
        ticks = [int(n) for n in STAT.read_text().splitlines()[0].split()[1:9]]
        user, nice, system, _idle, _iowait, irq, softirq, steal = (n / os.sysconf("SC_CLK_TCK") for n in ticks)
        return user + nice + system + irq + softirq, steal

    def usage(self):
        """The time used since then."""
        wall, own, busy, steal = (None if a is None else b - a for a, b in zip(self.start, self.counters()))
        return Usage(wall, None if busy is None else max(busy - own, 0.0), steal)


def wait_until_quiet(limit, seconds):
    """Waits until others take less than `limit` cores, for a limited time."""
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        watch = Watch()
        time.sleep(1.0)
        if watch.usage().taken() < limit:
            return


@contextlib.contextmanager
def alone(note):
    """Makes a second comparison on this machine wait: two at once would disturb each other."""
    with open(Path(tempfile.gettempdir()) / f"shadowllm-compare-{os.getuid()}.lock", "w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            note("another comparison is running on this machine: waiting for its end")
            fcntl.flock(lock, fcntl.LOCK_EX)
        yield
