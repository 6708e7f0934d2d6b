"""
Isolated signs from real landmarks: a small Uni-Sign learns to write the word of a clip, from a file of landmarks of ten
signs in Indian Sign Language (MediaPipe, 30 takes of each word, 30 frames a take).

    python benchmarks/isolated_recognition.py --landmarks isl_10_words.npz

The file holds `landmarks` (clips, frames, numbers) in a layout that `flallm` reads, and the `word` and the number of
the `take` of each clip. The first takes of each word are for training, the others for the test; the seeds change the
weights, the augmentation and the order of the clips, never the split. A seed that has its results in the folder is not
run again, so that a run can be interrupted, and `--seeds 0 1` and `--seeds 2` can run in parallel. A small run:

    python benchmarks/isolated_recognition.py --landmarks isl_10_words.npz --output_dir outputs/tiny \
        --report outputs/tiny/page.md --seeds 0 --max_steps 2
"""

import csv
import json
import sys
import time
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from benchmark_parts import DOCS, check_counts, check_sizes, processor_name, run_benchmark, write_json

from processing import read_poses, write_poses
from train_scripts.arguments.dataclass_parser import flags
from train_scripts.commands import evaluate_model
from train_scripts.scores.metrics import comparable
from train_scripts.stages import pose_pretraining, pretrain_language_model

PAGE = DOCS / "isolated-recognition.md"
TABLE_START = "<!-- written by benchmarks/isolated_recognition.py -->"
FRAMES_PER_SECOND = 30.0  # not stated in the file; no number here depends on it
FAST = {"use_cpu": True, "bf16": False, "report_to": "none", "disable_tqdm": True}
POSE_WIDTHS = ["--pose_widths", "16", "32", "64"]
ENCODER = {"frame_sampling_rate": 0.5, "smoothing_seconds": 0.03}
AUGMENTATION = {"rotation_degrees": 8.0, "scale": 0.1, "joint_noise": 0.005, "speed": 0.2, "frame_jitter": True}
AUGMENTATION |= {"horizontal_flip": 0.5}  # the signers use the one hand in some takes and the other in others
LANGUAGE_MODEL = {"hidden_size": 64, "feed_forward_size": 128, "layers": 1, "attention_heads": 2, "num_train_epochs": 1}


@dataclass
class BenchmarkArguments:
    """Which landmarks, and how long to train; the defaults take a few minutes of one core."""

    landmarks: str | None = field(default=None, metadata={"help": "File of landmarks, isl_10_words.npz. Required."})
    output_dir: str = field(
        default="outputs/isolated_recognition", metadata={"help": "Folder of models and results; may exist."}
    )
    report: str = field(default=str(PAGE), metadata={"help": "Page to write; its figures (.json) land beside it."})
    report_only: bool = field(default=False, metadata={"help": "Train nothing, report what there is."})
    seeds: list[int] = field(default_factory=lambda: [0, 1, 2, 3, 4], metadata={"help": "Seeds to run."})
    num_training_takes: int = field(default=20, metadata={"help": "Takes of each word for training, the first ones."})
    max_steps: int = field(default=500, metadata={"help": "Steps of the optimiser."})
    batch_size: int = field(default=16, metadata={"help": "Clips of a step."})
    learning_rate: float = field(default=0.0015, metadata={"help": "Peak learning rate."})

    def __post_init__(self):
        check_counts(self, "num_training_takes", "max_steps", "batch_size")
        if self.landmarks is None and not self.report_only:
            raise ValueError("`--landmarks` must name the file of landmarks, isl_10_words.npz.")

    def settings(self) -> dict[str, float]:
        """What must be equal in all results of one folder."""
        names = ("num_training_takes", "max_steps", "batch_size", "learning_rate")
        return {name: getattr(self, name) for name in names}


def write_corpus(landmarks: Path, folder: Path, num_training_takes: int) -> dict[str, int]:
    """A data set of poses with the splits train and test -> their numbers of clips"""
    with np.load(landmarks, allow_pickle=False) as file:
        clips = list(
            zip(file["landmarks"].astype(np.float32), file["word"].tolist(), file["take"].tolist(), strict=True)
        )
    places = {word: sorted(take for _, other, take in clips if other == word) for word in {clip[1] for clip in clips}}
    rows: dict[str, list[dict[str, str]]] = {"train": [], "test": []}
    for values, word, take in clips:
        split = "train" if places[word].index(take) < num_training_takes else "test"
        name = f"{word}_{take}.safetensors"
        (folder / split).mkdir(parents=True, exist_ok=True)
        write_poses(folder / split / name, read_poses(values, frames_per_second=FRAMES_PER_SECOND))
        rows[split].append({"poses": name, "text": word})
    for split, of_split in rows.items():
        with (folder / split / "metadata.csv").open("w", encoding="utf-8", newline="") as file:
            writer = csv.DictWriter(file, ["poses", "text"])
            writer.writeheader()
            writer.writerows(of_split)
    (folder / "words.txt").write_text("\n".join(sorted(places)) + "\n", encoding="utf-8")
    return {split: len(of_split) for split, of_split in rows.items()}


def run_seed(
    arguments: BenchmarkArguments, folder: Path, corpus: Path, language_model: Path, seed: int
) -> dict[str, Any]:
    """Train and translate the test split -> its accuracy, and which words are wrong"""
    begin = time.process_time()
    run = {"dataset": corpus, "evaluation_split": "test", "max_evaluation_clips": 1, "eval_strategy": "no"}
    run |= {"save_strategy": "no", "load_best_model_at_end": False, "keep_decoded_videos": True, "seed": seed, **FAST}
    pose_pretraining.train(
        POSE_WIDTHS
        + flags(
            config="uni_sign_pose_pretraining",
            output_dir=folder / "model",
            text_model_name_or_path=language_model,
            spoken_language="en",
            sign_language="ins",
            keep_aspect_ratio=True,
            label_smoothing=0.1,
            num_beams=1,
            max_steps=arguments.max_steps,
            per_device_train_batch_size=arguments.batch_size,
            gradient_accumulation_steps=1,
            learning_rate=arguments.learning_rate,
            warmup_steps=20,
            logging_steps=50,
            word_presence_loss_weight=2.0,
            **run,
            **ENCODER,
            **AUGMENTATION,
        )
    )
    test = {"model": folder / "model", "dataset": corpus, "split": "test", "output_dir": folder / "test"}
    _, rows = evaluate_model.run_evaluation(flags(**test, device="cpu", batch_size=25, disable_tqdm=True))
    pairs = [(comparable(row["reference"]), comparable(row["prediction"])) for row in rows]
    wrong = Counter(pair for pair in pairs if pair[0] != pair[1])
    print(f"seed {seed}: {len(pairs) - wrong.total()} of {len(pairs)} right", flush=True)
    return {
        "num_clips": len(pairs),
        "accuracy": 1 - wrong.total() / len(pairs),
        "processor_seconds": time.process_time() - begin,
        "wrong": [[*pair, count] for pair, count in wrong.most_common()],
        "settings": arguments.settings(),
    }


def measure(arguments: BenchmarkArguments) -> dict[str, Any]:
    """
    Results of all seeds in the output folder: those that are there, and those that are run now.

    Raises:
        ValueError: for a folder with results of other settings.
    """
    folder = Path(arguments.output_dir)
    corpus, language_model = folder / "corpus", folder / "language_model"
    if not (corpus / "words.txt").exists():
        write_corpus(Path(arguments.landmarks), corpus, arguments.num_training_takes)
        pretrain_language_model.train(
            flags(text_file=corpus / "words.txt", output_dir=language_model, **LANGUAGE_MODEL, **FAST)
        )
    for seed in arguments.seeds:
        path = folder / f"seed_{seed}.json"
        if not path.exists():
            write_json(path, run_seed(arguments, folder / f"seed_{seed}", corpus, language_model, seed))
    found = {int(path.stem.removeprefix("seed_")): path for path in folder.glob("seed_*.json")}
    results = {str(seed): json.loads(found[seed].read_text(encoding="utf-8")) for seed in sorted(found)}
    for result in results.values():
        check_sizes(folder, result["settings"], arguments.settings())
    return {
        "processor": processor_name(),
        "torch": torch.__version__,
        "settings": arguments.settings(),
        "num_clips": {split: _num_rows(corpus / split) for split in ("train", "test")},
        "seeds": results,
    }


def _num_rows(split_folder: Path) -> int:
    return len((split_folder / "metadata.csv").read_text(encoding="utf-8").splitlines()) - 1


def format_report(report: Mapping[str, Any]) -> str:
    """The results as Markdown."""
    seeds, settings = report["seeds"], report["settings"]
    accuracies = [result["accuracy"] for result in seeds.values()]
    wrong: Counter[tuple[str, str]] = Counter()
    for result in seeds.values():
        for word, written, count in result["wrong"]:
            wrong[word, written] += count
    seconds = sum(result["processor_seconds"] for result in seeds.values()) / len(seeds)
    lines = [
        f"Training on {report['num_clips']['train']} clips, the first {settings['num_training_takes']} takes of each "
        f"word; test on {report['num_clips']['test']}, the others. {settings['max_steps']} steps of "
        f"{settings['batch_size']} clips, {seconds:.0f} s of processor time a seed, on one of {report['processor']}, "
        f"torch {report['torch']}.",
        "",
        "| seed | right | of | accuracy |",
        "| --- | --- | --- | --- |",
        *(
            f"| {seed} | {round(result['accuracy'] * result['num_clips'])} | {result['num_clips']} "
            f"| {result['accuracy']:.1%} |"
            for seed, result in seeds.items()
        ),
        f"| mean | | | {sum(accuracies) / len(accuracies):.1%} |",
        "",
        "| sign | written | clips, all seeds together |",
        "| --- | --- | --- |",
        *(f"| {word} | {written or '(nothing)'} | {count} |" for (word, written), count in wrong.most_common()),
        *(["| none is wrong | | |"] if not wrong else []),
    ]
    return "\n".join(lines)


def main(argv: Sequence[str] | None = None) -> int:
    return run_benchmark(argv, BenchmarkArguments, __doc__, measure, format_report, TABLE_START)


if __name__ == "__main__":
    sys.exit(main())
