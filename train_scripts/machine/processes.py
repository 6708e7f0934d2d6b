"""Commands that several processes share: how they start, and how they tell the time that is left."""

from datetime import timedelta

import torch
from accelerate import PartialState

from .machine import default_device, describe_machine, fastest_dtype, prepare_machine

# A process that is done waits for the others. The usual ten minutes are too short for a corpus.
LONGEST_WAIT = timedelta(days=7)


def start_processes(device: str | None, dtype: str | None, num_threads: int | None) -> tuple[torch.device, torch.dtype]:
    """
    Set up processes and machine, and print how it computes. Returns the device of this process, and its precision.

    Args:
        device: "cpu" or the accelerator's name; None for the accelerator if there is one.
        dtype: None for `fastest_dtype`.

    Raises:
        ValueError: for a device that this machine has not, or one of several.
    """
    known = list(dict.fromkeys((default_device().type, "cpu")))
    if device not in (None, *known):
        raise ValueError(
            f"--device must be {' or '.join(known)}, got {device!r}. Of several GPUs, CUDA_VISIBLE_DEVICES chooses "
            "one, and torchrun uses all."
        )
    # Without being told, processes on CPUs would not know of each other.
    is_on_cpu = "cpu" in (device, default_device().type)
    state = PartialState(cpu=is_on_cpu, timeout=LONGEST_WAIT)
    own = torch.device("cpu") if is_on_cpu else state.device
    precision = fastest_dtype(own) if dtype is None else getattr(torch, dtype)
    prepare_machine(own, num_threads)
    if state.is_main_process:
        print(describe_machine(own, precision), flush=True)
    return own, precision


def in_words(seconds: float) -> str:
    """`"12 s"`, `"34 min"` or `"5 h"`, rounded."""
    if seconds >= 2.5 * 3600:
        return f"{seconds / 3600:.0f} h"
    return f"{seconds / 60:.0f} min" if seconds >= 90 else f"{seconds:.0f} s"
