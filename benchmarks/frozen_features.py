"""
A frozen ViT that learned without labels, on the rendered corpus of the quickstart.

    python benchmarks/frozen_features.py --seeds 0 1 2

For each seed: the quickstart's corpus; a ViT of 2.6 million parameters that learns from the frames of its training
clips alone (label_free_vit.py); and how many signs can be told from the ViT's features (sign_readout.py), beside a ViT
with random weights and beside pixels. The processor's time, the time that passes and the peak memory of each part are
those of a fresh process. The tables of docs/frozen-features.md and its figures (.json) are written at the end;
`--report_only True` writes them again from existing results. What an earlier run of the same sizes finished is kept. A
small run, in a minute:

    python benchmarks/frozen_features.py --seeds 0 --output_dir outputs/tiny --report outputs/tiny/page.md \
        --num_train_clips 16 --num_dev_clips 30 --num_test_clips 4 --num_text_only_sentences 100 --num_steps 4
"""

import json
import multiprocessing
import statistics
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from benchmark_parts import (
    DOCS,
    RESULTS_FILE,
    check_counts,
    check_sizes,
    command_line,
    processor_name,
    run_benchmark,
    write_json,
)
from label_free_vit import build_vit, frame_features, normalise, pretrain, read_frames, save_vit
from peak_memory import GIGABYTE, peak_resident_bytes
from quickstart import processor_seconds
from sign_readout import read_signed_clips, share_of_signs_told
from torch.nn import functional
from transformers import ViTModel

from train_scripts.arguments.command_arguments import QuickstartArguments
from train_scripts.clips.clip_folders import read_metadata
from train_scripts.commands.quickstart import CORPUS_RESOLUTION, Folders, TimeLeft, make_corpus
from train_scripts.machine.machine import fastest_dtype, prepare_machine

PAGE = DOCS / "frozen-features.md"
TABLE_START = "<!-- written by benchmarks/frozen_features.py -->"
SIZES = ("num_train_clips", "num_dev_clips", "num_test_clips", "num_text_only_sentences", "num_steps")
READOUT_CLIPS = 400
PIXELS, RANDOM_VIT, TRAINED_VIT = "16 x 16 pixels", "ViT, random weights", "ViT, trained without labels"


@dataclass
class BenchmarkArguments:
    """Sizes, and where the results go."""

    output_dir: str = field(default="outputs/frozen_features", metadata={"help": "Folder of all runs and results."})
    report: str = field(default=str(PAGE), metadata={"help": "Page to write; figures land beside it."})
    report_only: bool = field(default=False, metadata={"help": "Run nothing, report what there is."})
    seeds: list[int] = field(default_factory=lambda: [0, 1, 2], metadata={"help": "A corpus and a run for each."})
    num_train_clips: int = field(default=QuickstartArguments.num_train_clips, metadata={"help": "Training clips."})
    num_dev_clips: int = field(default=QuickstartArguments.num_dev_clips, metadata={"help": "Dev clips."})
    num_test_clips: int = field(default=QuickstartArguments.num_test_clips, metadata={"help": "Test clips."})
    num_text_only_sentences: int = field(
        default=QuickstartArguments.num_text_only_sentences, metadata={"help": "Sentences for the language model."}
    )
    num_steps: int = field(default=4000, metadata={"help": "Steps of the ViT's training, of 32 frames each."})

    def __post_init__(self):
        check_counts(self, "num_steps")

    def of_quickstart(self, seed: int) -> QuickstartArguments:
        sizes = {name: getattr(self, name) for name in SIZES if name != "num_steps"}
        return QuickstartArguments(output_dir=str(self.folders(seed).output), seed=seed, **sizes)

    def folders(self, seed: int) -> Folders:
        return Folders(Path(self.output_dir) / f"seed_{seed}")


def vit_folder(folders: Folders) -> Path:
    return folders.output / "vit"


def render(arguments: BenchmarkArguments, seed: int) -> dict[str, Any]:
    make_corpus(arguments.of_quickstart(seed), arguments.folders(seed), TimeLeft({"corpus": 1}))
    return {}


def train_vit(arguments: BenchmarkArguments, seed: int) -> dict[str, Any]:
    """On the frames of the training clips, of which nothing else is read."""
    device = torch.device("cpu")
    prepare_machine(device)
    folders, vit = arguments.folders(seed), build_vit(seed)
    split = folders.corpus / "train"
    clips = read_frames([split / row["file_name"] for row in read_metadata(split, "text")])
    losses = pretrain(vit, clips, arguments.num_steps, fastest_dtype(device))
    save_vit(vit, vit_folder(folders))
    last = losses[-len(losses) // 10 :]
    return {
        "num_frames": sum(map(len, clips)),
        "num_parameters": vit.num_parameters(),
        "first_loss": losses[0],
        "last_loss": statistics.mean(last),
    }


def small_pixels(frames: torch.Tensor) -> torch.Tensor:
    """uint8 `(frames, 3, 64, 64)` -> `(frames, 3 * 16 * 16)`"""
    return functional.avg_pool2d(normalise(frames), 4).flatten(1)


def tell_signs(arguments: BenchmarkArguments, seed: int) -> dict[str, Any]:
    """-> the share of the test clips' signs that are told from each kind of features"""
    folders = arguments.folders(seed)
    splits = {
        split: read_signed_clips(folders.corpus, split, READOUT_CLIPS, seed, CORPUS_RESOLUTION)
        for split in ("train", "dev", "test")
    }
    untrained = build_vit(seed).eval()
    trained = ViTModel.from_pretrained(vit_folder(folders), add_pooling_layer=False)
    ways = {
        PIXELS: small_pixels,
        RANDOM_VIT: lambda frames: frame_features(untrained, normalise(frames)),
        TRAINED_VIT: lambda frames: frame_features(trained, normalise(frames)),
    }
    return {"share": {name: share_of_signs_told(splits, way) for name, way in ways.items()}}


PARTS: dict[str, Callable[[BenchmarkArguments, int], dict[str, Any]]] = {
    "corpus": render,
    "ViT without labels": train_vit,
    "readout": tell_signs,
}


def run_part(name: str, arguments: BenchmarkArguments, seed: int) -> dict[str, Any]:
    """What the part returns, with its time and memory. Call it in a fresh process."""
    began, of_processor = time.monotonic(), processor_seconds()
    result = PARTS[name](arguments, seed)
    return {
        **result,
        "seconds": time.monotonic() - began,
        "processor_seconds": processor_seconds() - of_processor,
        "peak_gigabytes": peak_resident_bytes() / GIGABYTE,
    }


def kept_results(arguments: BenchmarkArguments) -> dict[str, Any]:
    """
    What earlier runs finished.

    Raises:
        ValueError: if they have other sizes.
    """
    sizes = {name: getattr(arguments, name) for name in SIZES}
    file = Path(arguments.output_dir) / RESULTS_FILE
    if not file.is_file():
        return {"machine": f"{processor_name()}, torch {torch.__version__}", "sizes": sizes, "seeds": {}}
    results = json.loads(file.read_text(encoding="utf-8"))
    check_sizes(file.parent, results["sizes"], sizes)
    return results


def measure(arguments: BenchmarkArguments) -> dict[str, Any]:
    results = kept_results(arguments)
    context = multiprocessing.get_context("spawn")
    for seed in arguments.seeds:
        of_seed = results["seeds"].setdefault(str(seed), {})
        for name in PARTS:
            if name not in of_seed:
                print(f"=== seed {seed}: {name}", flush=True)
                with ProcessPoolExecutor(1, mp_context=context) as pool:
                    of_seed[name] = pool.submit(run_part, name, arguments, seed).result()
                write_json(Path(arguments.output_dir) / RESULTS_FILE, results)
    return results


def mean_of(runs: Sequence[Mapping[str, Any]], part: str, name: str) -> float:
    return statistics.mean(run[part][name] for run in runs)


def format_report(results: Mapping[str, Any]) -> str:
    seeds, runs = list(results["seeds"]), list(results["seeds"].values())
    command = command_line("frozen_features.py", {"seeds": [int(seed) for seed in seeds], **results["sizes"]})
    lines = [
        f"On {results['machine']}, means of the seeds {', '.join(seeds)}:",
        "",
        f"    {command}",
        "",
        "| part | minutes | minutes of the processor | peak memory |",
        "| --- | --- | --- | --- |",
    ]
    for part in PARTS:
        minutes = [mean_of(runs, part, name) / 60 for name in ("seconds", "processor_seconds")]
        memory = mean_of(runs, part, "peak_gigabytes")
        lines.append(f"| {part} | {minutes[0]:.1f} | {minutes[1]:.1f} | {memory:.1f} GB |")
    lines += ["", f"| signs told, of the test clips | {' | '.join(f'seed {seed}' for seed in seeds)} | mean |"]
    lines.append(f"| --- {'| --- ' * len(seeds)}| --- |")
    for way in runs[0]["readout"]["share"]:
        shares = [run["readout"]["share"][way] for run in runs]
        cells = " | ".join(f"{share:.1%}" for share in [*shares, statistics.mean(shares)])
        lines.append(f"| {way} | {cells} |")
    return "\n".join(lines)


def main(argv: Sequence[str] | None = None) -> int:
    description = "A frozen ViT that learned without labels."
    return run_benchmark(argv, BenchmarkArguments, description, measure, format_report, TABLE_START)


if __name__ == "__main__":
    sys.exit(main())
