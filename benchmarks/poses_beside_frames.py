"""
Clips per second of poses beside frames, in training and in translating: the same rendered clips, as videos and as
poses, the same sentences and text models of one size.

    python benchmarks/poses_beside_frames.py --output_dir outputs/poses_beside_frames

"quickstart" has the presets of both quickstarts; "published sizes" has FLa-LLM's ResNet-18 at 224 px on every fourth of
the frames, as in its preset, and Uni-Sign's pose encoder on all frames, both in front of a text model of Light-T's size
with random weights. Measured is the processor time of one thread: of an optimiser step with reading its clips, and of
translating clips from files to sentences of equally many tokens. The sides take turns, and ratios are of neighbours.
The table of docs/poses-beside-frames.md and its figures (.json) are written at the end; `--report_only True` writes
them again from existing results. A small run, in a minute:

    python benchmarks/poses_beside_frames.py --output_dir outputs/tiny --report outputs/tiny/page.md \
        --sizes quickstart --num_clips 2 --num_steps 1 --num_rounds 1
"""

import statistics
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch
from benchmark_parts import DOCS, check_counts, command_line, processor_name, run_benchmark
from frozen_features import StepClock
from quickstart import processor_seconds
from transformers import AutoModelForSeq2SeqLM, pipeline

from modeling_flallm import light_transformer_config
from train_scripts.arguments.corpus_arguments import CorpusArguments
from train_scripts.arguments.dataclass_parser import flags
from train_scripts.clips.clip_folders import read_metadata
from train_scripts.commands.generate_corpus import generate_corpus
from train_scripts.runs.tokenizers import train_tokenizer
from train_scripts.stages import pose_pretraining, visual_initialing

PAGE = DOCS / "poses-beside-frames.md"
TABLE_START = "<!-- written by benchmarks/poses_beside_frames.py -->"
NUM_TOKENS = 12  # of each sentence that is written
NUM_BEAMS = 4
VOCABULARY_SIZE = 400
FRAMES, POSES = "frames", "poses"
JOBS = ("training", "translating")


@dataclass(frozen=True)
class Size:
    """`flags_of` each side; the width, layers, heads and feed-forward width of the text model; pixels of the clips."""

    flags_of: Mapping[str, Mapping[str, Any]]
    text_model: tuple[int, int, int, int]
    resolution: int


SIZES = {
    "quickstart": Size(
        {FRAMES: {"config": "quickstart_visual_initialing"}, POSES: {"config": "quickstart_uni_sign_pose_pretraining"}},
        (192, 1, 4, 384),
        72,
    ),
    "published sizes": Size(
        {
            FRAMES: {"config": "paper_visual_initialing", "imagenet_weights": False},
            POSES: {"config": "uni_sign_pose_pretraining"},
        },
        (512, 3, 8, 2048),
        256,
    ),
}


@dataclass
class BenchmarkArguments:
    """How much is measured."""

    output_dir: str = field(default="outputs/poses_beside_frames", metadata={"help": "Folder of clips and results."})
    report: str = field(default=str(PAGE), metadata={"help": "Page to write; figures land beside it."})
    report_only: bool = field(default=False, metadata={"help": "Measure nothing, report what there is."})
    sizes: list[str] = field(default_factory=lambda: list(SIZES), metadata={"help": f"Of {', '.join(SIZES)}."})
    num_clips: int = field(default=8, metadata={"help": "Clips of a step, and of the corpus."})
    num_steps: int = field(default=3, metadata={"help": "Steps of a round, of which the median counts."})
    num_rounds: int = field(default=3, metadata={"help": "How often both sides take turns."})
    seed: int = field(default=0, metadata={"help": "Seed of clips and weights."})

    def __post_init__(self):
        unknown = [size for size in self.sizes if size not in SIZES]
        if unknown:
            raise ValueError(f"--sizes must be of {', '.join(map(repr, SIZES))}, got {unknown[0]!r}.")
        check_counts(self, "num_clips", "num_steps", "num_rounds")


def save_text_model(size: Size, sentences: Sequence[str], folder: Path) -> None:
    """A text model with random weights, and a tokenizer of these sentences."""
    tokenizer = train_tokenizer(sentences, VOCABULARY_SIZE)
    width, layers, heads, feed_forward = size.text_model
    sides = {
        f"{side}_{name}": value
        for side in ("encoder", "decoder")
        for name, value in (("layers", layers), ("attention_heads", heads), ("ffn_dim", feed_forward))
    }
    config = light_transformer_config(
        vocab_size=len(tokenizer),
        d_model=width,
        pad_token_id=tokenizer.pad_token_id,
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
        decoder_start_token_id=tokenizer.eos_token_id,
        **sides,
    )
    AutoModelForSeq2SeqLM.from_config(config).save_pretrained(folder)
    tokenizer.save_pretrained(folder)


class Side:
    """One way to read clips: `seconds_of` a job for one clip, with a model of one size on one corpus."""

    def __init__(self, name: str, size: Size, arguments: BenchmarkArguments, folder: Path):
        self.name, self.arguments, self.folder, self.num_models = name, arguments, folder, 0
        self.flags = {
            **size.flags_of[name],
            "dataset": folder / "corpus",
            "max_steps": arguments.num_steps + 1,
            "per_device_train_batch_size": arguments.num_clips,
            "gradient_accumulation_steps": 1,
            "eval_strategy": "no",
            "save_strategy": "no",
            "load_best_model_at_end": False,
            "keep_decoded_videos": False,
            "bf16": False,
            "num_threads": 1,
            "disable_tqdm": True,
            "seed": arguments.seed,
        }
        text_model = folder / "text_model"
        of_stage = {"tokenizer_name_or_path": text_model} if name == FRAMES else {"text_model_name_or_path": text_model}
        self.flags |= of_stage
        column = "file_name" if name == FRAMES else "poses"
        rows = read_metadata(folder / "corpus" / "train", "text")
        self.clips = [str(folder / "corpus" / "train" / row[column]) for row in rows]

    @property
    def model(self) -> Path:
        """That of the last `training`."""
        return self.folder / f"{self.name}_{self.num_models}"

    def training(self) -> float:
        clock = StepClock()
        stage = visual_initialing if self.name == FRAMES else pose_pretraining
        self.num_models += 1
        stage.train(flags(**self.flags, output_dir=self.model), [clock])
        return clock.median_step(self.arguments.num_steps) / self.arguments.num_clips

    def translating(self) -> float:
        """With the model of the last `training`."""
        translate = pipeline("sign-language-translation", model=str(self.model), device="cpu")
        options = {"num_beams": NUM_BEAMS, "min_new_tokens": NUM_TOKENS, "max_new_tokens": NUM_TOKENS}
        translate(self.clips[:1], **options)
        started = processor_seconds()
        translate(self.clips, batch_size=len(self.clips), **options)
        return (processor_seconds() - started) / len(self.clips)


def measure_size(name: str, arguments: BenchmarkArguments) -> dict[str, dict[str, list[float]]]:
    """-> seconds a clip of each job and side, in rounds."""
    size, folder = SIZES[name], Path(arguments.output_dir) / name.replace(" ", "_")
    if not (folder / "corpus").exists():
        generate_corpus(
            CorpusArguments(
                output_dir=str(folder / "corpus"),
                num_train_clips=arguments.num_clips,
                num_dev_clips=1,
                num_test_clips=1,
                resolution=size.resolution,
                poses=True,
                seed=arguments.seed,
            )
        )
    sentences = [row["text"] for row in read_metadata(folder / "corpus" / "train", "text")]
    save_text_model(size, sentences, folder / "text_model")
    sides = [Side(side, size, arguments, folder) for side in (FRAMES, POSES)]
    seconds: dict[str, dict[str, list[float]]] = {job: {side.name: [] for side in sides} for job in JOBS}
    for _ in range(arguments.num_rounds):
        for job in JOBS:
            for side in sides:
                run: Callable[[], float] = getattr(side, job)
                seconds[job][side.name].append(run())
    return seconds


def measure(arguments: BenchmarkArguments) -> dict[str, Any]:
    torch.set_num_threads(1)
    torch.manual_seed(arguments.seed)
    kept = ("output_dir", "report", "report_only", "sizes")
    return {
        "machine": processor_name(),
        "torch": torch.__version__,
        "arguments": {name: value for name, value in asdict(arguments).items() if name not in kept},
        "seconds": {name: measure_size(name, arguments) for name in arguments.sizes},
    }


def format_report(report: Mapping[str, Any]) -> str:
    values = {"sizes": list(report["seconds"]), **report["arguments"]}
    lines = [
        f"In one thread of {report['machine']}, float32, torch {report['torch']}:",
        "",
        f"    {command_line('poses_beside_frames.py', values)}",
        "",
        "| clips per second | frames | poses | ratio (lowest to highest of the rounds) |",
        "|---|---|---|---|",
    ]
    for size, seconds in report["seconds"].items():
        for job in JOBS:
            frames, poses = seconds[job][FRAMES], seconds[job][POSES]
            ratios = sorted(one / other for one, other in zip(frames, poses, strict=True))
            cells = (f"{1 / statistics.median(each):.2f}" for each in (frames, poses))
            ratio = f"{statistics.median(ratios):.1f} ({ratios[0]:.1f} to {ratios[-1]:.1f})"
            lines.append(f"| {size}, {job} | {' | '.join(cells)} | {ratio} |")
    return "\n".join(lines)


def main(argv: Sequence[str] | None = None) -> int:
    return run_benchmark(argv, BenchmarkArguments, __doc__, measure, format_report, TABLE_START)


if __name__ == "__main__":
    sys.exit(main())
