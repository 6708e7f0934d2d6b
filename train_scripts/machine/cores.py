"""Processor cores: how many this process may use, and how many other processes keep busy. Imports nothing heavy."""

import os
import sys
import time
from pathlib import Path

CGROUP_LIMIT = Path("/sys/fs/cgroup/cpu.max")
PROCESSOR_TIMES = Path("/proc/stat")


def num_cores() -> int:
    """Number of cores this process may use: its CPU affinity, capped by the CPU quota of its container."""
    return max(min(len(_own_cores()), _cores_of_container()), 1)


def _own_cores() -> set[int]:
    """Numbers of the cores this process may run on."""
    return os.sched_getaffinity(0) if hasattr(os, "sched_getaffinity") else set(range(os.cpu_count() or 1))


def _cores_of_container() -> int:
    try:
        limit, period = CGROUP_LIMIT.read_text().split()
    except (OSError, ValueError):
        return sys.maxsize
    return sys.maxsize if limit == "max" else -(-int(limit) // int(period))


class BusyCores:
    """Measures how many of the cores this process may run on were kept busy by other processes since the last call."""

    def __init__(self):
        self._seen = self._look()

    def since_last(self) -> float:
        """Their average number since the last call; 0 where the system does not report it (anything but Linux)."""
        (before, busy_before), (now, busy) = self._seen, self._look()
        self._seen = (now, busy)
        if busy is None or busy_before is None or now <= before:
            return 0.0
        return max(busy - busy_before, 0.0) / (now - before)

    @staticmethod
    def _look() -> tuple[float, float | None]:
        """-> current time, and the seconds these cores have been busy so far, excluding this process."""
        try:
            lines = [line.split() for line in PROCESSOR_TIMES.read_text().splitlines()]
        except OSError:
            return time.monotonic(), None
        names = {f"cpu{number}" for number in _own_cores()}
        ticks = sum(_busy_ticks(values) for name, *values in lines if name in names)
        return time.monotonic(), ticks / os.sysconf("SC_CLK_TCK") - time.process_time()


def _busy_ticks(values: list[str]) -> int:
    """Ticks of one core's line that were neither idle, nor waiting for a disk, nor taken by the host."""
    user, nice, system, _, _, irq, soft_irq = map(int, values[:7])
    return user + nice + system + irq + soft_irq


def num_free_cores(busy: float) -> int:
    """Number of cores left for this process when other processes keep `busy` of its cores busy; at least one."""
    return max(min(num_cores(), len(_own_cores()) - round(busy)), 1)
