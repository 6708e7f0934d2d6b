"""
Two processes that compute together, as `torchrun` starts them, or one. They are forked from a process that has imported
everything once: importing takes them longer than what they do. It has no threads, unlike the one that runs the tests.
"""

import importlib
import os
import socket
import sys
from collections.abc import Callable
from multiprocessing import forkserver
from typing import Any

import pytest
import torch
from benchmark_modules import load_benchmark
from torch import multiprocessing

SECONDS_TO_WAIT = 240
IMPORTS_EVERYTHING = "imports_of_workers"


def in_two_processes(function: Callable[..., None], *arguments: Any) -> None:
    """Call `function(rank, *arguments)` in each; what it raises in one is raised here."""
    _in_processes(2, function, *arguments)


def in_another_process(function: Callable[..., None], *arguments: Any) -> None:
    """Call `function(0, *arguments)` there; what it raises is raised here."""
    _in_processes(1, function, *arguments)


def _in_processes(count: int, function: Callable[..., None], *arguments: Any) -> None:
    start_server()
    context = multiprocessing.start_processes(function, arguments, nprocs=count, join=False, start_method="forkserver")
    try:
        assert context.join(SECONDS_TO_WAIT) or context.join(SECONDS_TO_WAIT), "waited in vain"
    finally:
        for process in context.processes:
            process.kill()


def start_server() -> None:
    """Unless it runs already. It imports from PYTHONPATH, and takes no notice of what cannot be found there."""
    multiprocessing.set_forkserver_preload([IMPORTS_EVERYTHING])
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PYTHONPATH", os.pathsep.join(sys.path))
        forkserver.ensure_running()


def command_in_two_processes(module: str, arguments: list[str]) -> None:
    """Run a module of `train_scripts` with the environment of `torchrun`."""
    in_two_processes(_run_command, module, [str(argument) for argument in arguments], unused_port())


def sharded_command_in_two_processes(command: str, arguments: list[str]) -> None:
    """Run a command of `flallm`, such as "train visual-initialing", that may shard its model on CPUs."""
    words = [*command.split(), *map(str, arguments)]
    in_two_processes(_run_sharded_command, words, unused_port())


def unused_port() -> int:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return listener.getsockname()[1]


def as_process(rank: int, port: int) -> None:
    """Give this process the environment of `torchrun`."""
    torch.set_num_threads(1)
    os.environ.update(
        RANK=str(rank),
        LOCAL_RANK=str(rank),
        WORLD_SIZE="2",
        LOCAL_WORLD_SIZE="2",
        MASTER_ADDR="127.0.0.1",
        MASTER_PORT=str(port),
        CUDA_VISIBLE_DEVICES="",
    )


def _run_command(rank: int, module: str, arguments: list[str], port: int) -> None:
    as_process(rank, port)
    assert importlib.import_module(f"train_scripts.{module}").main(arguments) == 0


def _run_sharded_command(rank: int, words: list[str], port: int) -> None:
    as_process(rank, port)
    benchmark = load_benchmark("sharding_on_cpus")
    benchmark.shard_on_cpus()
    assert benchmark.main(words) == 0
