"""
Whether the memory of a training on a stream stays the same, however many rows it has read.

    python benchmarks/streamed_memory.py

A data set of tiny clips is written as Parquet files, as the Hub keeps it, and stage 1 trains on it with `--streaming`'s
own reading: the rows of the files, the shuffle buffer, a loading process that decodes and augments, the collator, and a
step of a tiny model. Each row is read once; a few clips repeat, each row with a sentence of its own. The files are
read from the disk in place of the network. The table of docs/scale.md and its figures (streamed_memory.json) are
written at the end; `--report_only True` writes them again from existing results.
"""

import random
import shutil
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import datasets
import numpy as np
import psutil
import torch
import transformers
from benchmark_parts import (
    DOCS,
    check_counts,
    command_line,
    moving_picture,
    processor_name,
    run_benchmark,
    write_mp4,
)
from seeded_parts import heading
from transformers import TrainerCallback, set_seed

from train_scripts.arguments.commands import COMMANDS
from train_scripts.arguments.dataclass_parser import flags
from train_scripts.arguments.training_arguments import FLaLLMTrainingArguments
from train_scripts.clips.augmentation import ClipAugmentation
from train_scripts.clips.collators import TranslationCollator
from train_scripts.clips.streaming import ClipStream, HubRows, MixedClips, StreamedClipDataset
from train_scripts.runs.tokenizers import train_tokenizer
from train_scripts.runs.trainers import FLaLLMTrainer
from train_scripts.runs.training import build_trainer, prepare_visual_encoder, start_run
from train_scripts.runs.training_clips import TrainingClips
from train_scripts.stages.visual_initialing import build_model

PAGE = DOCS / "scale.md"
FIGURES = "streamed_memory.json"
TABLE_START = "<!-- written by benchmarks/streamed_memory.py -->"
MEGABYTE = 1e6
NUM_CLIPS = 8
FRAMES_OF_A_CLIP = 8
SIZE_IN_PIXELS = 32
WORDS = [f"{first}{second}" for first in ("ba", "de", "ki", "lo", "nu") for second in ("m", "r", "s", "t")]
REPORTED_SHARES = (0.1, 0.25, 0.5, 1.0)  # of the rows
SIZES = {
    "frame_size": 36,
    "crop_size": SIZE_IN_PIXELS,
    "backbone_width": 8,
    "visual_hidden_size": 24,
    "adapter_hidden_size": 20,
    "light_hidden_size": 16,
    "light_feed_forward_size": 24,
    "light_layers": 1,
    "light_attention_heads": 2,
}
AUGMENTATION = {"brightness": 0.2, "rotation_degrees": 5, "speed": 0.1, "frame_drop": 0.05}


@dataclass
class BenchmarkArguments:
    """How much is read."""

    output_dir: str = field(default="outputs/streamed_memory", metadata={"help": "Folder of files and results."})
    report: str = field(default=str(PAGE), metadata={"help": "Page to write; figures land beside it."})
    report_only: bool = field(default=False, metadata={"help": "Read nothing, report what there is."})
    num_rows: int = field(default=100_000, metadata={"help": "Rows to read, a multiple of --rows_between_looks."})
    rows_between_looks: int = field(default=5000, metadata={"help": "Look at the memory after so many rows."})
    rows_of_file: int = field(default=2000, metadata={"help": "Rows of each Parquet file."})
    batch_size: int = field(default=50, metadata={"help": "Rows of a step."})
    num_workers: int = field(default=1, metadata={"help": "Processes that decode; 0: the one that trains."})
    seed: int = field(default=0, metadata={"help": "Of clips, sentences, weights and order."})

    def __post_init__(self):
        check_counts(self, "num_rows", "rows_between_looks", "rows_of_file", "batch_size")
        if self.num_rows % self.rows_between_looks or self.rows_between_looks % self.batch_size:
            raise ValueError(
                "--num_rows must be a multiple of --rows_between_looks, and that one of --batch_size, got "
                f"{self.num_rows}, {self.rows_between_looks} and {self.batch_size}."
            )


class NoteMemory(TrainerCallback):
    """Resident bytes of this process and of those that it has started, after every so many rows."""

    def __init__(self, arguments: BenchmarkArguments):
        self.batch_size, self.every = arguments.batch_size, arguments.rows_between_looks
        self.notes: list[dict[str, float]] = []

    def on_step_end(self, args, state, control, **kwargs):
        num_rows = state.global_step * self.batch_size
        if num_rows % self.every == 0:
            own = psutil.Process()
            reading = sum(child.memory_info().rss for child in own.children(recursive=True))
            values = {"rows": num_rows, "training": own.memory_info().rss / MEGABYTE, "reading": reading / MEGABYTE}
            self.notes.append(values)
            print(", ".join(f"{name} {value:,.0f}" for name, value in values.items()), flush=True)


def write_rows(folder: Path, arguments: BenchmarkArguments) -> list[str]:
    """Parquet files of clips and sentences -> the files"""
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    generator, draws = np.random.default_rng(arguments.seed), random.Random(arguments.seed)
    contents = []
    for number in range(NUM_CLIPS):
        path = folder / f"{number}.mp4"
        write_mp4(path, moving_picture(FRAMES_OF_A_CLIP, SIZE_IN_PIXELS, SIZE_IN_PIXELS, generator))
        contents.append(path.read_bytes())
    files = []
    for first in range(0, arguments.num_rows, arguments.rows_of_file):
        numbers = range(first, min(first + arguments.rows_of_file, arguments.num_rows))
        rows = {
            "text": [f"{' '.join(draws.choices(WORDS, k=6))} {number}" for number in numbers],
            "video": [{"bytes": contents[number % NUM_CLIPS], "path": None} for number in numbers],
        }
        files.append(str(folder / f"train-{len(files):05}.parquet"))
        datasets.Dataset.from_dict(rows).cast_column("video", datasets.Video()).to_parquet(files[-1])
    return files


def open_rows(files: Sequence[str], arguments: BenchmarkArguments) -> MixedClips:
    """As `open_streams` opens a data set on the Hub, with the default shuffle buffer."""
    rows = datasets.load_dataset("parquet", data_files=list(files), split="train", streaming=True).decode(False)
    return MixedClips([ClipStream(HubRows(rows, "rows", "train"), 1000, arguments.seed)], [1.0], arguments.seed)


def build(files: Sequence[str], arguments: BenchmarkArguments, note: NoteMemory) -> FLaLLMTrainer:
    """The Trainer of stage 1 on the rows."""
    folder = Path(arguments.output_dir)
    tokenizer_folder = folder / "tokenizer"
    train_tokenizer([*WORDS, *map(str, range(100))], 300).save_pretrained(tokenizer_folder)
    stage, data, video, augmentation, training = COMMANDS["train visual-initialing"].parse(
        flags(
            **SIZES,
            **AUGMENTATION,
            dataset=folder / "rows",
            streaming=True,
            tokenizer_name_or_path=tokenizer_folder,
            output_dir=folder / "run",
            max_steps=arguments.num_rows // arguments.batch_size,
            per_device_train_batch_size=arguments.batch_size,
            dataloader_num_workers=arguments.num_workers,
            logging_steps=arguments.rows_between_looks // arguments.batch_size,
            eval_strategy="no",
            save_strategy="no",
            load_best_model_at_end=False,
            use_cpu=True,
            bf16=False,
            num_threads=1,
            disable_tqdm=True,
            report_to="none",
            seed=arguments.seed,
        ),
        FLaLLMTrainingArguments,
    )
    callbacks = [note, *start_run(training)]
    set_seed(training.seed)
    model, processor = build_model(stage, video)
    prepare_visual_encoder(model, training)
    drawn = ClipAugmentation(augmentation, video)
    rows = StreamedClipDataset(processor, data.text_column, drawn)
    clips = TrainingClips(rows, None, open_rows(files, arguments), drawn)
    collator = TranslationCollator(processor)
    return build_trainer(FLaLLMTrainer, model, clips, collator, training, callbacks, processing_class=processor)


def measure(arguments: BenchmarkArguments) -> dict[str, Any]:
    note = NoteMemory(arguments)
    files = write_rows(Path(arguments.output_dir) / "rows", arguments)
    build(files, arguments, note).train()
    names = ("num_rows", "rows_between_looks", "rows_of_file", "batch_size", "num_workers", "seed")
    versions = f"torch {torch.__version__}, transformers {transformers.__version__}, datasets {datasets.__version__}"
    return {
        "machine": f"{processor_name()}, {versions}",
        "arguments": {name: getattr(arguments, name) for name in names},
        "megabytes": note.notes,
    }


def reported(notes: Sequence[Mapping[str, float]]) -> list[Mapping[str, float]]:
    """The notes at a tenth, a quarter, a half and all of the rows."""
    last = notes[-1]["rows"]
    wanted = [next(note for note in notes if note["rows"] >= share * last) for share in REPORTED_SHARES]
    return [note for index, note in enumerate(wanted) if note not in wanted[:index]]


def format_report(report: Mapping[str, Any]) -> str:
    lines = [f"On {report['machine']}:", "", f"    {command_line('streamed_memory.py', report['arguments'])}", ""]
    lines += heading("rows", "training process, MB", "reading process, MB", "both, beside the first line")
    chosen = reported(report["megabytes"])
    for note in chosen:
        change = sum(note[name] - chosen[0][name] for name in ("training", "reading"))
        cells = [f"{note['rows']:,}", f"{note['training']:,.0f}", f"{note['reading']:,.0f}"]
        lines.append(f"| {' | '.join(cells)} | {'' if note is chosen[0] else f'{change:+,.0f} MB'} |")
    return "\n".join(lines)


def main(argv: Sequence[str] | None = None) -> int:
    return run_benchmark(argv, BenchmarkArguments, __doc__, measure, format_report, TABLE_START, FIGURES)


if __name__ == "__main__":
    sys.exit(main())
