"""Shared by all tests: no network, a Hugging Face cache for each run, one thread, fresh random inputs."""

import gc
import logging
import multiprocessing
import os
import tempfile
from collections import Counter
from collections.abc import Iterator
from typing import Any
from unittest import mock

gc.disable()  # until all is imported and collected, of which nothing can be freed

HUGGING_FACE_HOME = tempfile.TemporaryDirectory(prefix="flallm-tests-")
os.environ.update(
    HF_HOME=HUGGING_FACE_HOME.name,
    HF_HUB_OFFLINE="1",
    HF_DATASETS_OFFLINE="1",
    HF_EVALUATE_OFFLINE="1",
    TOKENIZERS_PARALLELISM="false",
    MPLBACKEND="Agg",
    OMP_NUM_THREADS="1",  # of the processes that tests start, which would otherwise take each other's cores
    SSL_CERT_DIR=HUGGING_FACE_HOME.name,  # without certificates, which each client of the Space would read anew
)
os.environ.pop("SSL_CERT_FILE", None)  # it would come first

import pytest  # noqa: E402  (the environment has to be set before anything of Hugging Face is imported)
import torch  # noqa: E402
from random_inputs import SEED_VARIABLE, seed_generators, seed_of_run  # noqa: E402


def pytest_configure(config: pytest.Config) -> None:
    """
    Tiny models are fastest on one thread, and their sums are then always in the same order. pytest-xdist hands out the
    files in our order, not those of many tests first.
    """
    torch.set_num_threads(1)
    config.option.loadscopereorder = False


def pytest_unconfigure() -> None:
    HUGGING_FACE_HOME.cleanup()


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """
    Files with many slow tests first, so that no worker ends with a long file while the others have nothing left. Skip
    tests marked `gpu` on a machine without one.
    """
    num_slow = Counter(item.path for item in items if item.get_closest_marker("slow"))
    items.sort(key=lambda item: -num_slow[item.path])
    if torch.cuda.is_available():
        return
    for item in items:
        if item.get_closest_marker("gpu"):
            item.add_marker(pytest.mark.skip(reason="needs a GPU"))


@pytest.hookimpl(wrapper=True)
def pytest_collection() -> Iterator[Any]:
    """Exclude imported modules from garbage collection: with them, each Trainer's takes a quarter of a second."""
    try:
        return (yield)
    finally:
        gc.freeze()
        gc.enable()


@pytest.fixture(autouse=True)
def seed() -> int:
    """Seed of the random inputs: new in each run, printed when a test fails, set by FLALLM_TEST_SEED."""
    print(f"random inputs: repeat with {SEED_VARIABLE}={seed_of_run()}")
    seed_generators()
    return seed_of_run()


@pytest.hookimpl(wrapper=True)
def pytest_fixture_setup(fixturedef: pytest.FixtureDef[Any]) -> Iterator[Any]:
    """What tests of a file or a run share must not depend on the tests before, either."""
    if fixturedef.scope != "function":
        seed_generators(fixturedef.argname)
    return (yield)


@pytest.fixture(autouse=True)
def levels_of_loggers() -> Iterator[None]:
    """A command that a test runs in this process may lower the log level; later tests must not be silenced."""
    loggers = [logging.getLogger(name) for name in ("transformers", "datasets", "huggingface_hub", "evaluate")]
    levels = [logger.level for logger in loggers]
    yield
    for logger, level in zip(loggers, levels, strict=True):
        logger.setLevel(level)


@pytest.fixture(scope="module")
def forked_workers() -> Iterator[None]:
    """
    Worker processes are forked from one that has imported everything: importing takes them longer than what they do.
    From the first test of a file that uses this to the end of the file.
    """
    from two_processes import start_server

    from train_scripts.machine import process_pool

    start_server()
    get_context = multiprocessing.get_context
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(
            multiprocessing, "get_context", lambda way=None: get_context("forkserver" if way == "spawn" else way)
        )
        patch.setattr(process_pool, "SPAWN", get_context("forkserver"))
        yield


@pytest.fixture(scope="session", autouse=True)
def short_sentences() -> Iterator[int]:
    """
    Models that are trained write at most 12 tokens, also when they have been saved: one that has hardly been trained
    writes up to its limit, which takes longer than everything else. -> the limit outside of tests
    """
    from train_scripts.runs import generation_defaults

    limit = generation_defaults.MOST_TOKENS
    with mock.patch.object(generation_defaults, "MOST_TOKENS", 12):
        yield limit


@pytest.fixture
def sentences_of_any_length(short_sentences: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """The limit outside of tests, for a test of it."""
    from train_scripts.runs import generation_defaults

    monkeypatch.setattr(generation_defaults, "MOST_TOKENS", short_sentences)


@pytest.fixture
def one_worker_is_this_process(monkeypatch: pytest.MonkeyPatch) -> None:
    """`num_workers=1` without a separate process, which would take seconds to import torch."""
    from train_scripts.corpora import inspected_clips, prepared_videos

    run_in_processes = prepared_videos.run_in_processes

    def run_here(function, tasks, num_workers, *arguments):
        if num_workers > 1:
            return run_in_processes(function, tasks, num_workers, *arguments)
        return ((task, function(task)) for task in tasks)

    for module in (inspected_clips, prepared_videos):
        monkeypatch.setattr(module, "run_in_processes", run_here)


@pytest.fixture
def trainers(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """The Trainers of the commands that a test runs, each with the weights and buffers that it started from."""
    from tiny_corpus import copy_of_weights

    from train_scripts.runs import training

    made: list[training.FLaLLMTrainer] = []

    class RecordedTrainer(training.FLaLLMTrainer):
        def __init__(self, *arguments: Any, **named_arguments: Any):
            super().__init__(*arguments, **named_arguments)
            self.weights_before = copy_of_weights(self.model)
            made.append(self)

    monkeypatch.setattr(training, "FLaLLMTrainer", RecordedTrainer)
    return made
