"""What tests make the Space's reading processes do. Imports nothing heavy, because every process imports it."""

import os
import signal
from pathlib import Path

import decoding
import numpy as np


def crash(path: str) -> None:
    os.kill(os.getpid(), signal.SIGSEGV)


def never_end(path: str) -> None:
    while True:
        pass


def fill_the_memory(path: str) -> float:
    return np.ones(decoding.MEMORY_FOR_ONE_VIDEO_IN_BYTES, np.uint8).sum()


def write_a_file(path: str) -> None:
    Path(path).write_bytes(b"kept")
