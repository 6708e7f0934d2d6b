"""
What corpora up to 25,000 hours cost, and how stragglers and failures change that: arithmetic on measured rates, and a
simulation.

    python benchmarks/scale_plan.py

The plan is the recipe whose rates were measured on a GPU: features of frozen encoders, kept, then training with
low-rank adapters from them (docs/pretrained-encoders.md). Reading videos is scaled by their pixels from what
docs/decode-and-preprocess.md measured. Prices, sizes of videos and rates of failure are assumptions: the flags change
them. The tables of docs/scale-plan.md and its figures (.json) are written at the end.
"""

import heapq
import json
import math
import random
import statistics
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from benchmark_parts import DOCS, check_counts, command_line, run_benchmark
from seeded_parts import heading

PAGE = DOCS / "scale-plan.md"
TABLE_START = "<!-- written by benchmarks/scale_plan.py -->"
FRAMES_PER_SECOND = 25
# docs/pretrained-encoders.md, on one H100: frames through the frozen encoders, and steps of 16 clips of 116 frames.
FRAMES_OF_ENCODERS = 376.8
FRAMES_OF_TRAINING = 31.4 * 116
SECONDS_OF_A_STEP = 0.510
BYTES_OF_GRADIENTS = 49.4e6 * 4
BYTES_OF_A_FRAME = 3072 * 2  # kept features: CLIP ViT-L at two sizes and VideoMAE-L, in float16
STEP_DEVIATION = 0.05  # of the logarithm of the time of a step on one GPU
GPUS_OF_A_MACHINE = 8
HOPELESS = 100
TASK_DEVIATION = 0.5  # of the logarithm of the time of a task: videos differ in length and in pixels


@dataclass(frozen=True)
class Corpus:
    """Published numbers, and an assumed size of the videos."""

    hours: float
    clips: int
    pixels: int
    gigabytes_per_hour: float


CORPORA = {
    "PHOENIX14T": Corpus(10.5, 8_257, 210 * 260, 0.1),
    "How2Sign": Corpus(80, 35_191, 1280 * 720, 0.5),
    "YouTube-ASL": Corpus(984, 610_193, 1280 * 720, 0.5),
    "25,000 hours": Corpus(25_000, 15_500_000, 1280 * 720, 0.5),
}
LARGEST = CORPORA["25,000 hours"]


@dataclass
class BenchmarkArguments:
    """What things cost, and how often they fail."""

    output_dir: str = field(default="outputs/scale_plan", metadata={"help": "Folder of the results."})
    report: str = field(default=str(PAGE), metadata={"help": "Page to write; figures land beside it."})
    report_only: bool = field(default=False, metadata={"help": "Simulate nothing, report what there is."})
    price_of_gpu_hour: float = field(default=2.5, metadata={"help": "Of one H100."})
    price_of_core_hour: float = field(default=0.04, metadata={"help": "Of one processor core."})
    price_of_terabyte_month: float = field(default=20.0, metadata={"help": "Of storage."})
    gigabits_per_second: float = field(default=10.0, metadata={"help": "Of the network of one machine."})
    num_epochs: int = field(default=10, metadata={"help": "Of training."})
    gpu_hours_between_failures: float = field(
        default=50_700.0,
        metadata={"help": "Of one GPU. Default: 419 interruptions in 54 days of 16,384 H100s (arXiv 2407.21783)."},
    )
    hours_between_preemptions: float = field(
        default=24.0, metadata={"help": "Of one machine that the provider may take back."}
    )
    minutes_to_restart: float = field(
        default=5.0, metadata={"help": "Until a new machine, or the job, computes again."}
    )
    num_runs: int = field(default=20, metadata={"help": "Runs of each simulation."})
    seed: int = field(default=0, metadata={"help": "Of the simulation."})

    def __post_init__(self):
        check_counts(self, "num_epochs", "num_runs")


# ------------------------------------------------------------------------------------------------------ cost


def decoded_frames_per_second(pixels: int) -> float:
    """Of one core, with all frames kept: measured, or scaled by the pixels from the larger size that was measured."""
    results = json.loads((DOCS / "decode-and-preprocess.json").read_text(encoding="utf-8"))["results"]
    measured = {
        row["height"] * row["width"]: statistics.median(row["frames_per_second"]["ours"])
        for row in results
        if row["frame_sampling_rate"] == 1.0
    }
    largest = max(measured)
    return measured.get(pixels, measured[largest] * largest / pixels)


def cost_of(corpus: Corpus, arguments: BenchmarkArguments) -> dict[str, float]:
    """Hours, terabytes and money of one corpus."""
    frames = corpus.hours * 3600 * FRAMES_PER_SECOND
    videos, features = corpus.hours * corpus.gigabytes_per_hour / 1000, frames * BYTES_OF_A_FRAME / 1e12
    gpu_hours = frames / FRAMES_OF_ENCODERS / 3600
    training = arguments.num_epochs * frames / FRAMES_OF_TRAINING / 3600
    cores = frames / decoded_frames_per_second(corpus.pixels) / 3600
    money = (gpu_hours + training) * arguments.price_of_gpu_hour + cores * arguments.price_of_core_hour
    return {
        "frames": frames,
        "terabytes_of_videos": videos,
        "terabytes_of_features": features,
        "download_hours": videos * 8e3 / arguments.gigabits_per_second / 3600,
        "core_hours": cores,
        "cores_for_a_gpu": FRAMES_OF_ENCODERS / decoded_frames_per_second(corpus.pixels),
        "gpu_hours_of_features": gpu_hours,
        "gpu_hours_of_training": training,
        "money": money + (videos + features) * arguments.price_of_terabyte_month,
    }


# ------------------------------------------------------------------------------------------------ simulation


def simulate_tasks(
    num_tasks: int,
    hours_of_a_task: float,
    num_workers: int,
    hours_between_failures: float,
    hours_to_restart: float,
    deviation: float,
    draws: random.Random,
) -> float:
    """
    Hours until all tasks are done by workers that take one at a time. A worker that fails loses its task, which goes to
    the next free one, and another takes its place after some time.
    """
    waiting = [hours_of_a_task * math.exp(draws.gauss(-(deviation**2) / 2, deviation)) for _ in range(num_tasks)]
    workers = [(0.0, draws.expovariate(1 / hours_between_failures)) for _ in range(num_workers)]
    heapq.heapify(workers)
    finished = 0.0
    while waiting:
        free_at, fails_at = heapq.heappop(workers)
        hours = waiting.pop()
        if free_at + hours <= fails_at:
            finished = max(finished, free_at + hours)
            heapq.heappush(workers, (free_at + hours, fails_at))
            continue
        waiting.insert(0, hours)
        back_at = fails_at + hours_to_restart
        heapq.heappush(workers, (back_at, back_at + draws.expovariate(1 / hours_between_failures)))
    return finished


def simulate_training(
    hours: float,
    num_gpus: int,
    gpu_hours_between_failures: float,
    hours_between_checkpoints: float,
    hours_to_restart: float,
    draws: random.Random,
) -> float:
    """
    Hours of a training that would take `hours` without failures: each one sends it back to the last checkpoint.
    Infinite if it takes more than `HOPELESS` times as long.
    """
    done, clock = 0.0, 0.0
    while clock < HOPELESS * hours:
        until_failure = draws.expovariate(num_gpus / gpu_hours_between_failures)
        if done + until_failure >= hours:
            return clock + hours - done
        clock += until_failure + hours_to_restart
        done = (done + until_failure) // hours_between_checkpoints * hours_between_checkpoints
    return math.inf


def slowest_of(num_gpus: int, deviation: float, draws: random.Random, num_steps: int = 200) -> float:
    """How much longer a step takes when all wait for the slowest, beside the mean of one GPU."""
    steps = [max(math.exp(draws.gauss(0, deviation)) for _ in range(num_gpus)) for _ in range(num_steps)]
    return statistics.mean(steps) / math.exp(deviation**2 / 2)


def share_of_network(num_gpus: int, arguments: BenchmarkArguments) -> float:
    """Of the time of a step, if gradients are sent around after it among machines whose GPUs share a network."""
    machines = math.ceil(num_gpus / GPUS_OF_A_MACHINE)
    seconds = 2 * (machines - 1) / machines * BYTES_OF_GRADIENTS * 8 / (arguments.gigabits_per_second * 1e9)
    return seconds / (SECONDS_OF_A_STEP + seconds)


TASKS_IN_MINUTES = (1, 10, 60, 240)
NUM_WORKERS = 64
NUMBERS_OF_GPUS = (8, 64, 512)
CHECKPOINTS_IN_MINUTES = (10, 60)


def measure(arguments: BenchmarkArguments) -> dict[str, Any]:
    draws = random.Random(arguments.seed)
    restart = arguments.minutes_to_restart / 60
    gpu_hours = cost_of(LARGEST, arguments)["gpu_hours_of_features"]
    tasks = {}
    for minutes in TASKS_IN_MINUTES:
        of_task = minutes / 60
        hours = [
            simulate_tasks(
                math.ceil(gpu_hours / of_task),
                of_task,
                NUM_WORKERS,
                arguments.hours_between_preemptions,
                restart,
                TASK_DEVIATION,
                draws,
            )
            for _ in range(arguments.num_runs)
        ]
        tasks[minutes] = [gpu_hours / NUM_WORKERS / each for each in hours]
    return {
        "arguments": {name: getattr(arguments, name) for name in SETTINGS},
        "corpora": {name: cost_of(corpus, arguments) for name, corpus in CORPORA.items()},
        "tasks": tasks,
        "training": [_training(number, arguments, restart, draws) for number in NUMBERS_OF_GPUS],
    }


def _training(num_gpus: int, arguments: BenchmarkArguments, restart: float, draws: random.Random) -> dict[str, Any]:
    """Of the largest corpus: which share of the time is useful."""
    hours = cost_of(LARGEST, arguments)["gpu_hours_of_training"] / num_gpus
    of_a_machine = arguments.hours_between_preemptions * GPUS_OF_A_MACHINE
    rates = {"failures": arguments.gpu_hours_between_failures, "preemptions": of_a_machine}
    useful = {
        kind: {
            minutes: statistics.mean(
                hours / simulate_training(hours, num_gpus, rate, minutes / 60, restart, draws)
                for _ in range(arguments.num_runs)
            )
            for minutes in CHECKPOINTS_IN_MINUTES
        }
        for kind, rate in rates.items()
    }
    return {
        "num_gpus": num_gpus,
        "hours": hours,
        "slowest": slowest_of(num_gpus, STEP_DEVIATION, draws),
        "network": share_of_network(num_gpus, arguments),
        "useful": useful,
        "megabytes_read_per_second": num_gpus * FRAMES_OF_TRAINING * BYTES_OF_A_FRAME / 1e6,
    }


SETTINGS = tuple(
    name for name in BenchmarkArguments.__dataclass_fields__ if name not in ("output_dir", "report", "report_only")
)


def format_report(report: Mapping[str, Any]) -> str:
    lines = ["", f"    {command_line('scale_plan.py', report['arguments'])}", ""]
    lines += heading(
        "corpus", "frames, millions", "videos, TB", "kept features, TB", "download, hours", "cores that feed one GPU",
        "core hours", "GPU hours, features", f"GPU hours, {report['arguments']['num_epochs']} epochs", "money",
    )  # fmt: skip
    for name, of_corpus in report["corpora"].items():
        cells = [name, f"{of_corpus['frames'] / 1e6:,.1f}"]
        cells += [
            f"{of_corpus[key]:,.2f}" for key in ("terabytes_of_videos", "terabytes_of_features", "download_hours")
        ]
        cells += [f"{of_corpus['cores_for_a_gpu']:.1f}"]
        cells += [f"{of_corpus[key]:,.1f}" for key in ("core_hours", "gpu_hours_of_features", "gpu_hours_of_training")]
        lines.append(f"| {' | '.join(cells)} | {of_corpus['money']:,.0f} |")
    lines += ["", f"Features of 25,000 hours on {NUM_WORKERS} GPUs that may be taken back:", ""]
    lines += heading("minutes of a task", "share of the time that is useful", "worst run")
    for minutes, shares in report["tasks"].items():
        lines.append(f"| {minutes} | {statistics.mean(shares):.0%} | {min(shares):.0%} |")
    lines += ["", "Training on 25,000 hours:", ""]
    every = [f"a checkpoint every {minutes} min" for minutes in CHECKPOINTS_IN_MINUTES]
    lines += heading(
        "GPUs", "hours without loss", "slowest of a step", "network, of a step", "features read, MB/s",
        *(f"useful, {kind}, {each}" for kind in ("failures", "preemptions") for each in every),
    )  # fmt: skip
    for row in report["training"]:
        cells = [str(row["num_gpus"]), f"{row['hours']:,.1f}", f"{row['slowest']:.2f} times", f"{row['network']:.0%}"]
        cells.append(f"{row['megabytes_read_per_second']:,.0f}")
        for kind in ("failures", "preemptions"):
            cells += [f"{share:.1%}" if share else "never ends" for share in row["useful"][kind].values()]
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines).strip("\n")


def main(argv: Sequence[str] | None = None) -> int:
    return run_benchmark(argv, BenchmarkArguments, __doc__, measure, format_report, TABLE_START)


if __name__ == "__main__":
    sys.exit(main())
