"""Processor cores: how many this process may use, and how many others keep busy. Imports nothing heavy."""

import os
import sys
import time
from pathlib import Path

CGROUP_LIMIT = Path("/sys/fs/cgroup/cpu.max")
PROCESSOR_TIMES = Path("/proc/stat")


def num_cores() -> int:
    """Cores that this process may use: of the machine, by its affinity, and by the limit of its container."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return max(min(cores, _cores_of_container()), 1)


def _cores_of_container() -> int:
    try:
        limit, period = CGROUP_LIMIT.read_text().split()
    except (OSError, ValueError):
        return sys.maxsize
    return sys.maxsize if limit == "max" else -(-int(limit) // int(period))


class BusyCores:
    """Cores that other processes keep busy, from one question to the next."""

    def __init__(self):
        self._seen = self._look()

    def since_last(self) -> float:
        """Their mean number since the last question; 0 where the system does not tell (it is not Linux)."""
        (before, busy_before), (now, busy) = self._seen, self._look()
        self._seen = (now, busy)
        return 0.0 if busy is None or now <= before else max(busy - busy_before, 0.0) / (now - before)

    @staticmethod
    def _look() -> tuple[float, float | None]:
        """-> now, and the busy seconds of all cores up to now, without those of this process."""
        try:
            first_line = PROCESSOR_TIMES.read_text().splitlines()[0]
        except OSError:
            return time.monotonic(), None
        user, nice, system, _, _, irq, soft_irq = map(int, first_line.split()[1:8])
        ticks_per_second = os.sysconf("SC_CLK_TCK")
        busy = (user + nice + system + irq + soft_irq) / ticks_per_second
        return time.monotonic(), busy - time.process_time()


def num_free_cores(busy: float) -> int:
    """Cores that this process may use and others leave to it, which keep so many busy; at least one."""
    return max(num_cores() - round(busy), 1)
