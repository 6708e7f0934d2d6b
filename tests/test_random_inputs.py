"""What tests share is drawn from the seed of the run, whatever ran before in the same process."""

import random
from pathlib import Path

import numpy as np
import pytest
import torch
from random_inputs import built_once, seed_generators


def draw() -> tuple[float, float, float]:
    return random.random(), np.random.rand(), torch.rand(()).item()


@pytest.fixture(scope="module")
def drawn() -> tuple[float, float, float]:
    return draw()


def drawn_after(name: str) -> tuple[float, float, float]:
    seed_generators(name)
    return draw()


def test_fixtures_of_a_file_repeat(drawn):
    assert drawn == drawn_after("drawn") == drawn_after("drawn") != drawn_after("another")


def test_what_is_built_once_repeats_and_leaves_the_numbers_of_the_test_alone():
    def inputs(size: int) -> tuple[float, float, float]:
        return draw()

    before = drawn_after("test")
    seed_generators("test")
    random.random()
    first = built_once(inputs)
    values = first(3)
    assert (np.random.rand(), torch.rand(()).item()) == before[1:]
    assert first(3) is values and first(4) != values
    assert built_once(inputs)(3) == values


def test_no_test_draws_from_a_generator_without_a_seed():
    unseeded = "np.random." + "default_rng()"
    files = [path for path in Path(__file__).parent.glob("*.py") if path.name != "random_inputs.py"]
    assert not [path.name for path in files if unseeded in path.read_text(encoding="utf-8")]
