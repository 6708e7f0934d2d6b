"""
Translation on a Ray cluster: how fast, and whether every clip has one result when a machine is lost.

    python benchmarks/cluster.py

Short rendered clips are translated by `flallm translate` alone, by one and by two processes of a cluster of two
"machines" (two groups of Ray's processes on this one, with a core each), and once more while one of the two is killed
when half of the clips are finished. The model is the quickstart's, hardly trained: what it says does not matter here.
The table of docs/cluster.md and its figures (.json) are written at the end; `--report_only True` writes them again from
existing results.
"""

import os
import shutil
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import ray
import torch
from benchmark_parts import DOCS, check_counts, command_line, processor_name, run_benchmark
from ray.cluster_utils import Cluster
from seeded_parts import heading

from train_scripts.arguments.quickstart_arguments import QuickstartArguments
from train_scripts.commands.quickstart import (
    WORK,
    Folders,
    make_corpus,
    pretrain,
    run_steps,
    train_stage1,
    train_stage2,
)
from train_scripts.runs.translation_results import journal_path

PAGE = DOCS / "cluster.md"
TABLE_START = "<!-- written by benchmarks/cluster.py -->"
ALONE, LOSES_A_MACHINE = "one process, without Ray", "two machines, one killed half way"
# How many processes of the cluster, or None for none.
WAYS = {ALONE: None, "one machine": 1, "two machines": 2, LOSES_A_MACHINE: 2}
SECONDS_BETWEEN_LOOKS = 0.2


@dataclass
class BenchmarkArguments:
    """How much is translated."""

    output_dir: str = field(default="outputs/cluster", metadata={"help": "Folder of all runs and results."})
    report: str = field(default=str(PAGE), metadata={"help": "Page to write; figures land beside it."})
    report_only: bool = field(default=False, metadata={"help": "Translate nothing, report what there is."})
    num_clips: int = field(default=2000, metadata={"help": "Clips to translate."})
    seed: int = field(default=0, metadata={"help": "Of the corpus and of the model."})

    def __post_init__(self):
        check_counts(self, "num_clips")


def start_cluster() -> tuple[Cluster, Any]:
    """-> a cluster of two machines with a core each, and the one that can be killed"""
    cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 1, "include_dashboard": False})
    return cluster, cluster.add_node(num_cpus=1)


def translate(way: str, folders: Folders, arguments: BenchmarkArguments) -> dict[str, Any]:
    """Translate all clips in this way -> how long it took, and the lines that it wrote"""
    output = folders.output / f"{way.replace(' ', '_').replace(',', '')}.tsv"
    command = [sys.executable, "-m", "train_scripts", "translate", "--model", str(folders.model), "--device", "cpu"]
    command += ["--dtype", "float32", "--num_threads", "1", "--num_workers", "1", "--num_beams", "1"]
    command += ["--output", str(output), str(folders.test_clips)]
    cluster, machine = start_cluster() if WAYS[way] else (None, None)
    if cluster is not None:
        command += ["--ray_address", cluster.address, "--ray_workers", str(WAYS[way])]
    environment = {**os.environ, "CUDA_VISIBLE_DEVICES": "", "OMP_NUM_THREADS": "1"}
    began = time.monotonic()
    try:
        running = subprocess.Popen(command, env=environment)
        if way == LOSES_A_MACHINE:
            _wait_for(journal_path(output), arguments.num_clips // 2, running)
            cluster.remove_node(machine, allow_graceful=False)
        if running.wait() != 0:
            raise RuntimeError(f"flallm translate failed with exit status {running.returncode}: see above.")
    finally:
        if cluster is not None:
            cluster.shutdown()
    lines = output.read_text(encoding="utf-8").splitlines()
    return {"seconds": time.monotonic() - began, "lines": lines}


def _wait_for(journal: Path, num_lines: int, running: subprocess.Popen) -> None:
    """Until so many lines are there, or the command has ended."""
    while running.poll() is None:
        if journal.is_file() and len(journal.read_text(encoding="utf-8").splitlines()) > num_lines:
            return
        time.sleep(SECONDS_BETWEEN_LOOKS)


def measure(arguments: BenchmarkArguments) -> dict[str, Any]:
    folders = Folders(Path(arguments.output_dir) / "run")
    shutil.rmtree(folders.output, ignore_errors=True)
    of_quickstart = QuickstartArguments(
        output_dir=str(folders.output),
        seed=arguments.seed,
        num_train_clips=64,
        num_dev_clips=30,
        num_test_clips=arguments.num_clips,
        num_text_only_sentences=500,
        language_model_epochs=1,
        stage1_epochs=1,
        stage2_epochs=1,
    )
    steps = {"corpus": make_corpus, "language model": pretrain, "stage 1": train_stage1, "stage 2": train_stage2}
    run_steps(steps, of_quickstart, folders, WORK)
    results = {}
    for way in WAYS:
        print(f"=== {way}", flush=True)
        results[way] = translate(way, folders, arguments)
    expected = Counter(results[ALONE]["lines"])
    values = {name: getattr(arguments, name) for name in ("num_clips", "seed")}
    versions = f"torch {torch.__version__}, ray {ray.__version__}"
    return {
        "machine": f"{processor_name()}, {versions}",
        "arguments": values,
        "ways": {way: _facts(result, expected) for way, result in results.items()},
    }


def _facts(result: Mapping[str, Any], expected: Counter) -> dict[str, Any]:
    clips = Counter(line.split("\t")[0] for line in result["lines"])
    return {
        "seconds": result["seconds"],
        "results": len(clips),
        "duplicates": sum(clips.values()) - len(clips),
        "as_alone": sum((Counter(result["lines"]) & expected).values()),
    }


def format_report(report: Mapping[str, Any]) -> str:
    num_clips = report["arguments"]["num_clips"]
    lines = [f"On {report['machine']}:", "", f"    {command_line('cluster.py', report['arguments'])}", ""]
    names = (
        "how",
        "clips with a result",
        "duplicates",
        "sentences as without Ray",
        "clips per second",
        "beside one machine",
    )
    lines += heading(*names)
    of_one = report["ways"]["one machine"]["seconds"]
    for way, facts in report["ways"].items():
        cells = [way, f"{facts['results']} of {num_clips}", str(facts["duplicates"]), str(facts["as_alone"])]
        cells += [f"{num_clips / facts['seconds']:.1f}", f"{of_one / facts['seconds']:.2f}"]
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


def main(argv: Sequence[str] | None = None) -> int:
    return run_benchmark(argv, BenchmarkArguments, __doc__, measure, format_report, TABLE_START)


if __name__ == "__main__":
    sys.exit(main())
