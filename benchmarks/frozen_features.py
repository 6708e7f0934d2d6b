"""
SpaMo's recipe on a frozen ViT that learned without labels, beside both stages of FLa-LLM, on the rendered corpus of the
quickstart.

    python benchmarks/frozen_features.py --seeds 0 1 2

For each seed: the quickstart's corpus; a ViT of 2.6 million parameters that learns from the frames of its training
clips alone (label_free_vit.py); how many signs can be told from the ViT's features (sign_readout.py), beside a ViT with
random weights and beside pixels; the quickstart's language model; both stages of FLa-LLM as in the quickstart; SpaMo's
recipe on the ViT's cached features, with low-rank adapters in the language model and with the whole of it trained; and
the speed of training with and without the cache. Each part runs in a fresh process with one thread, of which the
processor's time, the time that passes and the peak memory are told (the corpus is rendered by several processes). The
tables of docs/frozen-features.md and its figures (.json) are written at the end; `--report_only True` writes them again
from existing results. What an earlier run of the same sizes finished is kept. A small run, in some minutes:

    python benchmarks/frozen_features.py --seeds 0 --output_dir outputs/tiny --report outputs/tiny/page.md \
        --num_train_clips 16 --num_dev_clips 20 --num_test_clips 4 --num_text_only_sentences 100 --num_steps 4 \
        --spamo_epochs 4 --warm_up_steps 2 --stage1_epochs 1 --stage2_epochs 1 --language_model_epochs 1
"""

import statistics
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import label_free_vit
import torch
from benchmark_parts import DOCS, check_counts, command_line, run_benchmark
from label_free_vit import IMAGE_SIZE, build_vit, frame_features, normalise, read_frames, save_vit
from quickstart import processor_seconds
from seeded_parts import heading, measure_parts
from sign_readout import read_signed_clips, share_of_signs_told
from torch.nn import functional
from transformers import TrainerCallback, ViTModel

from train_scripts.arguments.dataclass_parser import flags
from train_scripts.arguments.quickstart_arguments import QuickstartArguments
from train_scripts.clips.clip_folders import read_metadata
from train_scripts.commands.quickstart import (
    CORPUS,
    CORPUS_RESOLUTION,
    WORK,
    Folders,
    TimeLeft,
    make_corpus,
    pretrain,
    seconds_of_steps,
    test_model,
    train_stage1,
    train_stage2,
)
from train_scripts.machine.machine import fastest_dtype, prepare_machine
from train_scripts.stages import llm_fine_tuning

PAGE = DOCS / "frozen-features.md"
TABLE_START = "<!-- written by benchmarks/frozen_features.py -->"
EPOCHS = ("language_model_epochs", "stage1_epochs", "stage2_epochs")
OF_QUICKSTART = ("num_train_clips", "num_dev_clips", "num_test_clips", "num_text_only_sentences", *EPOCHS)
OF_SPAMO = ("num_steps", "spamo_epochs", "warm_up_steps")
SIZES = (*OF_QUICKSTART, *OF_SPAMO)
READOUT_CLIPS = 400
TEXT_MODEL_SIZE = 192  # of the quickstart's language model
CLIPS_OF_STEP, EPOCHS_OF_CLOCK = 15, 5
FLA_LLM, CACHE = "FLa-LLM, stage 2", "speed of the cache"
SPAMO, SPAMO_IN_FULL = "SpaMo, low-rank adapters", "SpaMo, whole text model"
WAYS_TO_READ = {
    "videos": {"cache_features": False},
    "decoded videos in memory": {"cache_features": False, "keep_decoded_videos": True},
    "cached features": {"cache_features": True},
}
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
    language_model_epochs: float = field(
        default=QuickstartArguments.language_model_epochs, metadata={"help": "Epochs of the language model."}
    )
    stage1_epochs: float = field(default=QuickstartArguments.stage1_epochs, metadata={"help": "Epochs of stage 1."})
    stage2_epochs: float = field(default=QuickstartArguments.stage2_epochs, metadata={"help": "Epochs of stage 2."})
    num_steps: int = field(default=4000, metadata={"help": "Steps of the ViT's training, of 32 frames each."})
    spamo_epochs: float = field(default=20, metadata={"help": "Epochs of SpaMo's recipe."})
    warm_up_steps: int = field(default=600, metadata={"help": "Of these, first steps of the alignment alone."})

    def __post_init__(self):
        check_counts(self, "num_steps", "warm_up_steps")

    def of_quickstart(self, seed: int) -> QuickstartArguments:
        sizes = {name: getattr(self, name) for name in OF_QUICKSTART}
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
    losses = label_free_vit.pretrain(vit, clips, arguments.num_steps, fastest_dtype(device))
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


def train_language_model(arguments: BenchmarkArguments, seed: int) -> dict[str, Any]:
    return run_quickstart_step("language model", pretrain, arguments, seed)


def train_fla_llm_stage1(arguments: BenchmarkArguments, seed: int) -> dict[str, Any]:
    return run_quickstart_step("stage 1", train_stage1, arguments, seed)


def train_fla_llm_stage2(arguments: BenchmarkArguments, seed: int) -> dict[str, Any]:
    run_quickstart_step("stage 2", train_stage2, arguments, seed)
    return score(arguments.folders(seed), arguments.folders(seed).model)


def run_quickstart_step(name: str, step: Callable, arguments: BenchmarkArguments, seed: int) -> dict[str, Any]:
    of_quickstart = arguments.of_quickstart(seed)
    step(of_quickstart, arguments.folders(seed), TimeLeft({name: seconds_of_steps(WORK, of_quickstart)[name]}))
    return {}


def score(folders: Folders, model: Path) -> dict[str, Any]:
    """BLEU-4 on the test clips, with its interval, and that of the signer who is understood worst."""
    scores, _ = test_model(model, folders, model.with_name(f"test_{model.name}"))
    interval = scores["confidence_intervals"]["bleu4"]
    return {
        "bleu4": scores["bleu4"],
        "interval": [interval["low"], interval["high"]],
        "worst_signer": next(iter(scores["by_signer"])),
        "worst_bleu4": scores["worst_signer_bleu4"],
    }


def spamo_flags(folders: Folders) -> dict[str, Any]:
    """SpaMo's preset with the ViT, and the sizes, frames and choice of the checkpoint of the quickstart's stage 2."""
    return {
        "config": "spamo_llm_fine_tuning",
        "dataset": folders.corpus,
        "vision_model_name_or_path": vit_folder(folders),
        "vision_pooling": "mean",
        "vision_scales": 1,
        "text_model_name_or_path": folders.language_model,
        "frame_sampling_rate": 0.25,
        "frame_size": CORPUS_RESOLUTION,
        "crop_size": IMAGE_SIZE,
        "projection_size": TEXT_MODEL_SIZE,
        "temporal_blocks": "K5",
        "adapter_hidden_size": TEXT_MODEL_SIZE,
        "per_device_eval_batch_size": 50,
        "num_beams": 4,
        "generation_num_beams": 1,
        "generation_max_length": 40,
        "feature_cache_dir": folders.output / "features",
        **CORPUS,
    }


def train_spamo(arguments: BenchmarkArguments, seed: int, model: str, lora: bool, **more: Any) -> dict[str, Any]:
    """Train and test SpaMo's recipe. `more`: further flags"""
    folders = arguments.folders(seed)
    output = folders.output / model
    llm_fine_tuning.train(
        flags(
            **{**spamo_flags(folders), **more},
            lora=lora,
            num_train_epochs=arguments.spamo_epochs,
            alignment_warm_up_steps=arguments.warm_up_steps,
            eval_strategy="steps",
            save_strategy="steps",
            eval_steps=0.33333333,
            save_steps=0.33333333,
            save_total_limit=1,
            disable_tqdm=True,
            seed=seed,
            output_dir=output,
        )
    )
    return score(folders, output)


def train_spamo_with_adapters(arguments: BenchmarkArguments, seed: int) -> dict[str, Any]:
    """Computes and keeps the features, which the next part reads."""
    return train_spamo(arguments, seed, "spamo_adapters", lora=True, learning_rate=0.004)


def train_spamo_in_full(arguments: BenchmarkArguments, seed: int) -> dict[str, Any]:
    return train_spamo(arguments, seed, "spamo_full", lora=False, learning_rate=0.002)


class StepClock(TrainerCallback):
    """The processor's seconds at the end of each step, reading its clips included."""

    def __init__(self):
        self.seconds: list[float] = []

    def on_step_end(self, args, state, control, **kwargs):
        self.seconds.append(processor_seconds())

    def median_step(self, num_steps: int) -> float:
        """Of the last `num_steps`."""
        times = self.seconds[-num_steps - 1 :]
        return statistics.median(after - before for before, after in zip(times, times[1:], strict=False))


def measure_cache(arguments: BenchmarkArguments, seed: int) -> dict[str, Any]:
    """
    Clips of each second of the processor, in the epochs behind the first, of the same training steps from videos, from
    decoded videos in memory and from the cache. It trains on the dev clips, as a few are enough.
    """
    folders = arguments.folders(seed)
    batch = min(CLIPS_OF_STEP, arguments.num_dev_clips)
    steps_of_epoch = arguments.num_dev_clips // batch
    rates = {}
    for number, (way, options) in enumerate(WAYS_TO_READ.items()):
        clock = StepClock()
        more = {
            "train_split": "dev",
            "eval_strategy": "no",
            "save_strategy": "no",
            "load_best_model_at_end": False,
            "lora": True,
            "alignment_warm_up_steps": 0,
            "max_steps": EPOCHS_OF_CLOCK * steps_of_epoch,
            "dataloader_drop_last": True,
            "per_device_train_batch_size": batch,
            "disable_tqdm": True,
            "output_dir": folders.output / f"speed_{number}",
        }
        llm_fine_tuning.train(flags(**{**spamo_flags(folders), **more, **options}), [clock])
        rates[way] = batch / clock.median_step((EPOCHS_OF_CLOCK - 1) * steps_of_epoch)
    return {"clips_per_second": rates}


PARTS: dict[str, Callable[[BenchmarkArguments, int], dict[str, Any]]] = {
    "corpus": render,
    "ViT without labels": train_vit,
    "readout": tell_signs,
    "language model": train_language_model,
    "FLa-LLM, stage 1": train_fla_llm_stage1,
    FLA_LLM: train_fla_llm_stage2,
    SPAMO: train_spamo_with_adapters,
    SPAMO_IN_FULL: train_spamo_in_full,
    CACHE: measure_cache,
}

# The parts that each system needs, the corpus aside.
SYSTEMS = {
    FLA_LLM: ["language model", "FLa-LLM, stage 1", FLA_LLM],
    SPAMO: ["language model", "ViT without labels", SPAMO],
    SPAMO_IN_FULL: ["language model", "ViT without labels", SPAMO_IN_FULL],
}


def measure(arguments: BenchmarkArguments) -> dict[str, Any]:
    return measure_parts(arguments, PARTS, SIZES)


def mean_of(runs: Sequence[Mapping[str, Any]], part: str, name: str) -> float:
    return statistics.mean(run[part][name] for run in runs)


def format_report(results: Mapping[str, Any]) -> str:
    """Command, machine and the tables in Markdown."""
    seeds, runs = list(results["seeds"]), list(results["seeds"].values())
    command = command_line("frozen_features.py", {"seeds": [int(seed) for seed in seeds], **results["sizes"]})
    tables = (scores_table, parts_table, readout_table, cache_table)
    lines = [f"In one thread of {results['machine']}; seeds {', '.join(seeds)}:", "", f"    {command}"]
    return "\n\n".join(["\n".join(lines), *("\n".join(table(seeds, runs)) for table in tables)])


def scores_table(seeds: Sequence[str], runs: Sequence[Mapping[str, Any]]) -> list[str]:
    """One row for each system, with the time of all parts that it needs."""
    lines = heading(
        "BLEU-4, test clips (worst signer)", *(f"seed {seed}" for seed in seeds), "mean", "minutes of the processor"
    )
    for system, parts in SYSTEMS.items():
        cells = [
            f"{of_system['bleu4']:.2f} [{of_system['interval'][0]:.2f}, {of_system['interval'][1]:.2f}] "
            f"({of_system['worst_bleu4']:.2f})"
            for of_system in (run[system] for run in runs)
        ]
        minutes = sum(mean_of(runs, part, "processor_seconds") for part in parts) / 60
        cells += [f"{mean_of(runs, system, 'bleu4'):.2f}", f"{minutes:.1f}"]
        lines.append(f"| {system} | {' | '.join(cells)} |")
    return lines


def parts_table(seeds: Sequence[str], runs: Sequence[Mapping[str, Any]]) -> list[str]:
    lines = heading("part, mean of the seeds", "minutes", "minutes of the processor", "peak memory")
    for part in PARTS:
        minutes = [mean_of(runs, part, name) / 60 for name in ("seconds", "processor_seconds")]
        memory = mean_of(runs, part, "peak_gigabytes")
        lines.append(f"| {part} | {minutes[0]:.1f} | {minutes[1]:.1f} | {memory:.1f} GB |")
    return lines


def readout_table(seeds: Sequence[str], runs: Sequence[Mapping[str, Any]]) -> list[str]:
    lines = heading("signs told, of the test clips", *(f"seed {seed}" for seed in seeds), "mean")
    for way in runs[0]["readout"]["share"]:
        shares = [run["readout"]["share"][way] for run in runs]
        cells = " | ".join(f"{share:.1%}" for share in [*shares, statistics.mean(shares)])
        lines.append(f"| {way} | {cells} |")
    return lines


def cache_table(seeds: Sequence[str], runs: Sequence[Mapping[str, Any]]) -> list[str]:
    rates = {
        way: statistics.mean(run[CACHE]["clips_per_second"][way] for run in runs)
        for way in runs[0][CACHE]["clips_per_second"]
    }
    slowest = min(rates.values())
    lines = heading("training reads", "clips per second of the processor", "faster by")
    return lines + [f"| {way} | {rate:.1f} | {rate / slowest:.1f} |" for way, rate in rates.items()]


def main(argv: Sequence[str] | None = None) -> int:
    description = "SpaMo's recipe on a frozen ViT that learned without labels."
    return run_benchmark(argv, BenchmarkArguments, description, measure, format_report, TABLE_START)


if __name__ == "__main__":
    sys.exit(main())
