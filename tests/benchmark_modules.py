"""The benchmarks as modules, and the results on their pages."""

import importlib
import json
import sys
from pathlib import Path
from types import ModuleType

BENCHMARKS = Path(__file__).resolve().parent.parent / "benchmarks"


def load_benchmark(name: str) -> ModuleType:
    """Import a benchmark; they import each other by name, as when one of them is run."""
    sys.path.insert(0, str(BENCHMARKS))
    try:
        return importlib.import_module(name)
    finally:
        sys.path.remove(str(BENCHMARKS))


def read_page(benchmark: ModuleType) -> tuple[str, dict]:
    """The results on the page of a benchmark, and the figures beside the page."""
    page = benchmark.PAGE.read_text(encoding="utf-8")
    block = page.partition(benchmark.TABLE_START)[2].partition(load_benchmark("benchmark_parts").TABLE_END)[0]
    figures = getattr(benchmark, "FIGURES", f"{benchmark.PAGE.stem}.json")
    return block.strip(), json.loads(benchmark.PAGE.with_name(figures).read_text(encoding="utf-8"))
