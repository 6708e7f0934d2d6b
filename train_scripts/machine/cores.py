"""Processor cores: how many this process may use, and how many others keep busy. Imports nothing heavy."""

import os
import sys
import time
from pathlib import Path

CGROUP_LIMIT = Path("/sys/fs/cgroup/cpu.max")
PROCESSOR_TIMES = Path("/proc/stat")


def num_cores() -> int:
    """Cores' worth of time that this process may use: of the cores it may run on, what its container allows."""
    return max(min(len(_own_cores()), _cores_of_container()), 1)


def _own_cores() -> set[int]:
    """Numbers of the cores that this process may run on."""
    return os.sched_getaffinity(0) if hasattr(os, "sched_getaffinity") else set(range(os.cpu_count() or 1))


def _cores_of_container() -> int:
    try:
        limit, period = CGROUP_LIMIT.read_text().split()
    except (OSError, ValueError):
        return sys.maxsize
    return sys.maxsize if limit == "max" else -(-int(limit) // int(period))


class BusyCores:
    """How many of the cores that this process may run on are kept busy by others, from one question to the next."""

    def __init__(self):
        self._seen = self._look()

    def since_last(self) -> float:
        """Their mean number since the last question; 0 where the system does not tell (it is not Linux)."""
        (before, busy_before), (now, busy) = self._seen, self._look()
        self._seen = (now, busy)
        if busy is None or busy_before is None or now <= before:
            return 0.0
        return max(busy - busy_before, 0.0) / (now - before)

    @staticmethod
    def _look() -> tuple[float, float | None]:
        """-> now, and the busy seconds of these cores up to now, without those of this process."""
        try:
            lines = [line.split() for line in PROCESSOR_TIMES.read_text().splitlines()]
        except OSError:
            return time.monotonic(), None
        names = {f"cpu{number}" for number in _own_cores()}
        ticks = sum(_busy_ticks(values) for name, *values in lines if name in names)
        return time.monotonic(), ticks / os.sysconf("SC_CLK_TCK") - time.process_time()


def _busy_ticks(values: list[str]) -> int:
    """Of what a line says of a core: neither idle nor waiting for a disk, nor taken by the host."""
    user, nice, system, _, _, irq, soft_irq = map(int, values[:7])
    return user + nice + system + irq + soft_irq


def num_free_cores(busy: float) -> int:
    """Cores that this process may use where others keep so many busy of those that it may run on; at least one."""
    return max(min(num_cores(), len(_own_cores()) - round(busy)), 1)
