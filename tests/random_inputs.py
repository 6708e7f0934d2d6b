"""Random inputs that come back from the printed seed of a run, whatever tests ran before in the same process."""

import functools
import os
import random
import zlib
from collections.abc import Callable
from typing import Any, TypeVar

import numpy as np
import torch

Function = TypeVar("Function", bound=Callable[..., Any])
# One for all tests of a run and its processes, so that the printed one repeats the shared corpus, too.
SEED_VARIABLE = "FLALLM_TEST_SEED"
if not os.environ.get(SEED_VARIABLE):
    os.environ[SEED_VARIABLE] = str(random.SystemRandom().randrange(2**31))


def seed_of_run() -> int:
    return int(os.environ[SEED_VARIABLE])


def seed_generators(name: str = "") -> None:
    """Python's, NumPy's and torch's; inputs of different names are independent."""
    seed = (seed_of_run() + zlib.crc32(name.encode())) % 2**31
    random.seed(seed)
    np.random.seed(seed)
    torch.manual_seed(seed)


def random_generator() -> np.random.Generator:
    """`np.random.default_rng()` takes its numbers from elsewhere, and a failure would not come back."""
    return np.random.default_rng(np.random.randint(2**31))


def built_once(build: Function) -> Function:
    """`functools.cache` for what tests share: the first test that asks gets the same random numbers as any other."""

    @functools.cache
    @functools.wraps(build)
    def build_seeded(*args: Any) -> Any:
        states = random.getstate(), np.random.get_state()
        with torch.random.fork_rng(devices=[]):
            seed_generators(f"{build.__name__}{args}")
            try:
                return build(*args)
            finally:
                random.setstate(states[0])
                np.random.set_state(states[1])

    return build_seeded
