"""Shared by benchmarks of several parts for each seed: every part in a fresh process, and what is finished is kept."""

import json
import multiprocessing
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import Any

import torch
from benchmark_parts import RESULTS_FILE, check_sizes, processor_name, write_json
from peak_memory import GIGABYTE, peak_resident_bytes
from quickstart import processor_seconds

Part = Callable[[Any, int], dict[str, Any]]


def run_part(part: Part, arguments: Any, seed: int) -> dict[str, Any]:
    """What the part returns, with its time and memory. Call it in a fresh process."""
    torch.set_num_threads(1)
    began, of_processor = time.monotonic(), processor_seconds()
    result = part(arguments, seed)
    return {
        **result,
        "seconds": time.monotonic() - began,
        "processor_seconds": processor_seconds() - of_processor,
        "peak_gigabytes": peak_resident_bytes() / GIGABYTE,
    }


def kept_results(arguments: Any, names: Sequence[str]) -> dict[str, Any]:
    """
    What earlier runs finished.

    Args:
        names: the arguments that have to be the same.

    Raises:
        ValueError: if they are not.
    """
    sizes = {name: getattr(arguments, name) for name in names}
    file = Path(arguments.output_dir) / RESULTS_FILE
    if not file.is_file():
        return {"machine": f"{processor_name()}, torch {torch.__version__}", "sizes": sizes, "seeds": {}}
    results = json.loads(file.read_text(encoding="utf-8"))
    check_sizes(file.parent, results["sizes"], sizes)
    return results


def measure_parts(arguments: Any, parts: Mapping[str, Part], names: Sequence[str]) -> dict[str, Any]:
    """Run what is not finished of the `parts` for each of `arguments.seeds`. `names`: as in `kept_results`"""
    results = kept_results(arguments, names)
    context = multiprocessing.get_context("spawn")
    for seed in arguments.seeds:
        of_seed = results["seeds"].setdefault(str(seed), {})
        for name, part in parts.items():
            if name not in of_seed:
                print(f"=== seed {seed}: {name}", flush=True)
                with ProcessPoolExecutor(1, mp_context=context) as pool:
                    of_seed[name] = pool.submit(run_part, part, arguments, seed).result()
                write_json(Path(arguments.output_dir) / RESULTS_FILE, results)
    return results


def heading(*cells: str) -> list[str]:
    """Of a table in Markdown."""
    return [f"| {' | '.join(cells)} |", f"| {' | '.join('---' for _ in cells)} |"]
