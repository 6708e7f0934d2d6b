"""
The quickstart beside the quickstart with its switches off: float32, convolutions in NCHW, padding through the CNN,
AdamW not fused, videos decoded again in every epoch, and only as many cached operations as torch keeps by default.

    python benchmarks/quickstart.py --seed 0  # and 1 and 2

Both run at the same time, each in a process with one thread, from corpus to test scores. This measures BLEU-4 and
processor time, which other load on the machine hardly affects. Results of each seed are kept; the table of
docs/quickstart-speed.md and its figures (.json) have all of them, and `--report_only True` writes them again from
existing results. A small run, in a minute:

    python benchmarks/quickstart.py --output_dir outputs/tiny --report outputs/tiny/page.md --num_train_clips 16 \
        --num_dev_clips 20 --num_test_clips 4 --num_text_only_sentences 100 --stage1_epochs 1 --stage2_epochs 1 \
        --language_model_epochs 1
"""

import json
import multiprocessing
import os
import resource
import statistics
import sys
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from contextlib import redirect_stderr, redirect_stdout
from dataclasses import dataclass, field, fields
from pathlib import Path
from types import ModuleType
from typing import Any

import torch
from benchmark_parts import DOCS, RESULTS_FILE, check_sizes, command_line, processor_name, run_benchmark
from visual_initialing import encode_in_nchw, encode_padding_too

from modeling_flallm import FLaLLMVisionModel
from train_scripts.arguments.dataclass_parser import flags
from train_scripts.commands.quickstart import STEPS, WORK, Folders, QuickstartArguments, run_steps, test_model
from train_scripts.runs import training
from train_scripts.stages import llm_fine_tuning, pretrain_language_model, visual_initialing

PAGE = DOCS / "quickstart-speed.md"
TABLE_START = "<!-- written by benchmarks/quickstart.py -->"
ON, OFF = "as it is", "switches off"
TEST = "test of both stages"
KEPT_OPERATIONS_OF_TORCH = 1024


@dataclass
class BenchmarkArguments(QuickstartArguments):
    """Sizes of both quickstarts, which are those of `flallm quickstart`, and where the results go."""

    output_dir: str = field(default="outputs/quickstart", metadata={"help": "Folder of both runs and the results."})
    report: str = field(default=str(PAGE), metadata={"help": "Page to write; figures land beside it."})
    report_only: bool = field(default=False, metadata={"help": "Run nothing, report what there is."})


def switch_off() -> None:
    """For the rest of this process."""
    os.environ["ONEDNN_PRIMITIVE_CACHE_CAPACITY"] = str(KEPT_OPERATIONS_OF_TORCH)
    _add_flags(pretrain_language_model, bf16=False, optim="adamw_torch")
    _add_flags(visual_initialing, bf16=False, optim="adamw_torch", keep_decoded_videos=False)
    _add_flags(llm_fine_tuning, bf16=False, optim="adamw_torch", keep_decoded_videos=False)
    training.prepare_visual_encoder = lambda model, arguments: None
    FLaLLMVisionModel._encode_chunk = encode_in_nchw
    FLaLLMVisionModel._encode_frames = encode_padding_too


def _add_flags(stage: ModuleType, **values: Any) -> None:
    train = stage.train
    stage.train = lambda argv, callbacks: train([*argv, *flags(**values)], callbacks)


def processor_seconds() -> float:
    """Of this process and its child processes that have ended."""
    usages = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    return sum(usage.ru_utime + usage.ru_stime for usage in usages)


def test_both(folders: Folders) -> dict[str, float]:
    parts = {"stage 1": (folders.stage1, folders.test_stage1), "stage 2": (folders.model, folders.test)}
    return {name: test_model(model, folders, output)[0]["bleu4"] for name, (model, output) in parts.items()}


def run_way(way: str, arguments: BenchmarkArguments) -> dict[str, Any]:
    """Processor seconds of each step, and BLEU-4 of both stages on the test clips. Call it in a separate process."""
    torch.set_num_threads(1)
    if way == OFF:
        switch_off()
    output = Path(arguments.output_dir) / f"{way.replace(' ', '_')}_{arguments.seed}"
    seconds: dict[str, float] = {}
    scores: dict[str, float] = {}

    def timed(name: str, step: Callable) -> Callable:
        def call(*of_step: Any) -> None:
            before = processor_seconds()
            step(*of_step)
            seconds[name] = processor_seconds() - before

        return call

    steps = {**STEPS, TEST: lambda arguments, folders, time_left: scores.update(test_both(folders))}
    with open(f"{output}.log", "w", encoding="utf-8") as log, redirect_stdout(log), redirect_stderr(log):
        timed_steps = {name: timed(name, step) for name, step in steps.items()}
        run_steps(timed_steps, arguments, Folders(output), WORK | {TEST: WORK["test"]})
    return {"seconds": seconds, "bleu4": scores}


def kept_results(arguments: BenchmarkArguments) -> dict[str, Any]:
    """
    The results of other seeds.

    Raises:
        ValueError: if they have other sizes.
    """
    names = [each.name for each in fields(QuickstartArguments) if each.name not in ("output_dir", "seed")]
    sizes = {name: getattr(arguments, name) for name in names}
    file = Path(arguments.output_dir) / RESULTS_FILE
    if not file.is_file():
        return {"machine": f"{processor_name()}, torch {torch.__version__}", "sizes": sizes, "seeds": {}}
    results = json.loads(file.read_text(encoding="utf-8"))
    check_sizes(file.parent, results["sizes"], sizes)
    return results


def measure(arguments: BenchmarkArguments) -> dict[str, Any]:
    results = kept_results(arguments)
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(2, mp_context=context) as pool:
        runs = {way: pool.submit(run_way, way, arguments) for way in (ON, OFF)}
        results["seeds"][str(arguments.seed)] = {way: run.result() for way, run in runs.items()}
    return results


def mean_seconds(runs: Sequence[Mapping[str, Any]], way: str, step: str) -> float:
    return statistics.mean(run[way]["seconds"][step] for run in runs)


def format_report(results: Mapping[str, Any]) -> str:
    runs = list(results["seeds"].values())
    steps = list(runs[0][ON]["seconds"])
    lines = [
        f"Each in one thread of {results['machine']}; seeds {', '.join(results['seeds'])}:",
        "",
        *(f"    {command_line('quickstart.py', {**results['sizes'], 'seed': seed})}" for seed in results["seeds"]),
        "",
        "| processor time, mean of the seeds | switches off | as it is | faster by |",
        "| --- | --- | --- | --- |",
    ]
    means = {step: [mean_seconds(runs, way, step) for way in (OFF, ON)] for step in steps}
    means["**all**"] = [sum(seconds) for seconds in zip(*means.values(), strict=True)]
    lines += [f"| {step} | {off:.0f} s | {on:.0f} s | {off / on:.2f} |" for step, (off, on) in means.items()]
    lines += ["", f"| BLEU-4, test clips | {' | '.join(f'seed {seed}' for seed in results['seeds'])} | mean |"]
    lines.append(f"| --- {'| --- ' * len(runs)}| --- |")
    for stage in runs[0][ON]["bleu4"]:
        for way in (OFF, ON):
            scores = [run[way]["bleu4"][stage] for run in runs]
            cells = " | ".join(f"{score:.2f}" for score in [*scores, statistics.mean(scores)])
            lines.append(f"| {stage}, {way} | {cells} |")
    ratios = [sum(run[OFF]["seconds"].values()) / sum(run[ON]["seconds"].values()) for run in runs]
    return "\n".join([*lines, "", f"Faster by, seed by seed: {', '.join(f'{ratio:.2f}' for ratio in ratios)}."])


def main(argv: Sequence[str] | None = None) -> int:
    return run_benchmark(
        argv, BenchmarkArguments, "The quickstart with and without its switches.", measure, format_report, TABLE_START
    )


if __name__ == "__main__":
    sys.exit(main())
