"""
Decides what this machine can do and how a run uses it: precision, threads, processes and memory.

Presets set none of these, so that they work on every machine. `--bf16` and `--num_threads` override what is detected.
"""

import ctypes
import os
import platform
import sys
import time

import torch
from transformers import TrainingArguments
from transformers.utils import is_torch_bf16_gpu_available

from .cores import BusyCores, num_cores, num_free_cores

SECONDS_OF_LOOKING = 0.1
MOST_LOADING_PROCESSES = 8
# Constants from glibc's malloc.h.
M_TRIM_THRESHOLD, M_MMAP_MAX = -1, -4
# Multiplying bfloat16 matrices of this size takes about a twentieth of a second on the slowest processors.
SIDE_OF_TRIAL_MATRICES = 256


# Precision


def computes_in_bfloat16(device: torch.device) -> bool:
    """
    Whether the device has instructions for bfloat16. Without them torch still computes in it, but slowly: on a
    processor with only AVX2, matrix products take a hundred times as long as in float32.
    """
    if device.type == "cuda":
        return torch.cuda.is_bf16_supported(including_emulation=False)
    if device.type == "cpu":
        # This is the capability of torch's own kernels, which ATEN_CPU_CAPABILITY lowers.
        return "AVX512" in torch.backends.cpu.get_cpu_capability() and torch.cpu._is_avx512_bf16_supported()
    return device.type != "meta" and is_torch_bf16_gpu_available()


def fastest_dtype(device: torch.device) -> torch.dtype:
    """bfloat16 where the device has instructions for it, otherwise float32."""
    return torch.bfloat16 if computes_in_bfloat16(device) else torch.float32


def computing_dtype(training: TrainingArguments) -> torch.dtype:
    """The precision in which a run computes wherever that is safe."""
    if training.bf16:
        return torch.bfloat16
    return torch.float16 if training.fp16 else torch.float32


def cost_of_bfloat16() -> float:
    """How many times slower than float32 this processor multiplies bfloat16 matrices; measured."""
    return _seconds_of_a_product(torch.bfloat16) / _seconds_of_a_product(torch.float32)


def _seconds_of_a_product(dtype: torch.dtype) -> float:
    matrix = torch.ones(SIDE_OF_TRIAL_MATRICES, SIDE_OF_TRIAL_MATRICES, dtype=dtype)
    seconds = []
    for _ in range(3):
        began = time.perf_counter()
        matrix @ matrix
        seconds.append(time.perf_counter() - began)
    return min(seconds)


def default_device(use_cpu: bool = False) -> torch.device:
    """The accelerator if there is one, unless the CPU is requested."""
    # current_accelerator() alone returns what torch was built for, even on a machine that has none.
    has_one = torch.accelerator.is_available() and not use_cpu
    return torch.accelerator.current_accelerator() if has_one else torch.device("cpu")


# Threads


class ThreadsForFreeCores:
    """
    Makes torch use one thread per core that other programs leave free, now and whenever `adapt` is called.

    Threads wait for each other in every layer. A thread that shares its core with another program delays all of them,
    so that one thread can be faster than two. There are never more than torch had before this class lowered the number.
    """

    _lowered: tuple[int, int] | None = None  # number set by the last run of this process, and number before that

    def __init__(self):
        number = torch.get_num_threads()
        is_ours = self._lowered is not None and self._lowered[0] == number
        self.most = self._lowered[1] if is_ours else number
        self._busy_cores = BusyCores()
        if self.most > 1:
            time.sleep(SECONDS_OF_LOOKING)
        self.adapt()

    def adapt(self) -> None:
        """Set the number of threads to the cores that have been free since the last call."""
        number = min(num_free_cores(self._busy_cores.since_last()), self.most)
        torch.set_num_threads(number)
        ThreadsForFreeCores._lowered = (number, self.most)


def num_loading_processes(device: torch.device) -> int:
    """Processes that read videos while `device` trains: none when training on a CPU, which needs all its cores."""
    if device.type == "cpu":
        return 0
    num_trainings = int(os.environ.get("LOCAL_WORLD_SIZE", 1))  # set by torchrun: its processes on this machine
    return max(min(num_cores() // num_trainings - 1, MOST_LOADING_PROCESSES), 0)


# Memory


def keep_freed_memory() -> None:
    """
    Make the C library keep the memory of freed tensors for later ones, instead of returning it to the system, which
    clears every page again: that costs a fifth of a training step on long clips. Only works with glibc.
    """
    if sys.platform != "linux" or platform.libc_ver()[0] != "glibc":
        return
    libc = ctypes.CDLL(None)
    libc.mallopt(M_MMAP_MAX, 0)
    libc.mallopt(M_TRIM_THRESHOLD, -1)


# Everything together


def prepare_machine(device: torch.device, num_threads: int | None = None) -> ThreadsForFreeCores | None:
    """
    Set up threads and memory for a run that computes on `device`. Returns the object that adapts the number of threads
    to other programs, or None if a number is given.
    """
    if device.type == "cpu":
        keep_freed_memory()
    if num_threads is None:
        return ThreadsForFreeCores()
    torch.set_num_threads(num_threads)
    return None


def describe_machine(device: torch.device, dtype: torch.dtype) -> str:
    """One line: the device, its precision and number of threads, and the cost of bfloat16 where it is slow."""
    precision = str(dtype).removeprefix("torch.")
    if device.type != "cpu":
        name = torch.cuda.get_device_name(device) if device.type == "cuda" else device.type
        return f"Computing in {precision} on {name}."
    has_bfloat16 = computes_in_bfloat16(device)
    line = (
        f"Computing in {precision} on a processor {'with' if has_bfloat16 else 'without'} bfloat16 "
        f"({torch.backends.cpu.get_cpu_capability()}), in {torch.get_num_threads()} thread(s) on {num_cores()} core(s)."
    )
    if dtype == torch.bfloat16 and not has_bfloat16:
        line += (
            f" A matrix product in bfloat16 takes this processor {cost_of_bfloat16():.0f} times as long as in float32: "
            "leave the precision unset to have it chosen for you."
        )
    return line
