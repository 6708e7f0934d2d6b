"""
Clips of other frame rates than a model was trained on: how well it translates them, sampled as in training or not.

    python benchmarks/frame_rates.py --outputs quickstart_output quickstart_uni_sign_output

Each clip of the test split is shown at the frame rates of web cameras in the dark up to those of phones: at each moment
the frame that was on screen then, so that its seconds stay the same. The table of docs/frame-rates.md and its figures
(.json) are written at the end; `--report_only True` writes them again from existing results.
"""

import dataclasses
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from benchmark_parts import DOCS, check_counts, command_line, processor_name, run_benchmark
from seeded_parts import heading

from modeling_flallm import SignLanguageTranslationPipeline
from processing import Poses, decode_video, read_poses
from train_scripts.arguments.data_arguments import DatasetArguments
from train_scripts.clips.splits import load_split
from train_scripts.runs.trained_models import load_trained
from train_scripts.scores.metrics import translation_scores

PAGE = DOCS / "frame-rates.md"
TABLE_START = "<!-- written by benchmarks/frame_rates.py -->"


@dataclass
class BenchmarkArguments:
    """Which models see which clips."""

    outputs: list[str] = field(
        default_factory=lambda: ["quickstart_output", "quickstart_uni_sign_output"],
        metadata={"help": "Folders that the quickstart left, with corpus/ and model/."},
    )
    frame_rates: list[float] = field(
        default_factory=lambda: [8.0, 12.5, 15.0, 20.0, 25.0, 30.0, 50.0, 60.0],
        metadata={"help": "Frames per second of the clips."},
    )
    num_clips: int = field(default=150, metadata={"help": "At most so many clips of the test split."})
    output_dir: str = field(default="outputs/frame_rates", metadata={"help": "Folder of the results."})
    report: str = field(default=str(PAGE), metadata={"help": "Page to write; figures land beside it."})
    report_only: bool = field(default=False, metadata={"help": "Measure nothing, report what there is."})

    def __post_init__(self):
        check_counts(self, "num_clips")
        if min(self.frame_rates) <= 0:
            raise ValueError(f"--frame_rates must be above 0, got {min(self.frame_rates):g}.")


def places(num_frames: int, frame_rate: float, wanted: float) -> np.ndarray:
    """-> the frame that is on screen at each moment of a clip at the wanted rate"""
    moments = np.arange(max(round(num_frames / frame_rate * wanted), 1)) / wanted
    return np.minimum((moments * frame_rate + 1e-6).astype(int), num_frames - 1)


def at_frame_rate(clip: Any, frame_rate: float) -> Any:
    """What the pipeline takes of a decoded video or of poses"""
    if isinstance(clip, Poses):
        shown = places(len(clip), clip.frames_per_second, frame_rate)
        return dataclasses.replace(
            clip, keypoints=clip.keypoints[shown], scores=clip.scores[shown], frames_per_second=frame_rate
        )
    return clip.frames[places(len(clip.frames), clip.fps, frame_rate)]


def read_clips(rows: Sequence[Mapping[str, Any]], column: str) -> list[Any]:
    return [read_poses(row[column]) if column == "poses" else decode_video(row[column]["path"]) for row in rows]


def measure_model(folder: Path, arguments: BenchmarkArguments) -> dict[str, Any]:
    """BLEU-4 by frame rate, as in training and by the fraction of frames alone."""
    model, processor = load_trained(str(folder / "model"), dtype=torch.float32)
    translator = SignLanguageTranslationPipeline(model=model, processor=processor, device="cpu")
    modality, part = processor.modality, processor.modality.part
    split = load_split(DatasetArguments(dataset=str(folder / "corpus")), "test", arguments.num_clips)
    clips, texts = read_clips(split, modality.column), [row["text"] for row in split]
    training_fps = part.training_fps
    if training_fps is None:
        raise ValueError(f"{folder}/model does not know the frame rates of its training clips. Train it again.")
    rows = []
    for frame_rate in arguments.frame_rates:
        row = {"frame_rate": frame_rate}
        for name, known in (("as_in_training", training_fps), ("by_fraction", None)):
            part.training_fps = known
            said = [translator(at_frame_rate(clip, frame_rate), source_fps=frame_rate) for clip in clips]
            scores = translation_scores([each["translation_text"] for each in said], texts)
            row[name] = round(scores["bleu4"], 1)
        rows.append(row)
        print(folder, row, flush=True)
    return {"reads": modality.words.clips, "training_fps": training_fps, "num_clips": len(clips), "rows": rows}


def measure(arguments: BenchmarkArguments) -> dict[str, Any]:
    names = ("outputs", "frame_rates", "num_clips")
    return {
        "arguments": {name: getattr(arguments, name) for name in names},
        "machine": processor_name(),
        "models": [measure_model(Path(folder), arguments) for folder in arguments.outputs],
    }


def format_report(report: Mapping[str, Any]) -> str:
    lines = [f"On {report['machine']}:", "", f"    {command_line('frame_rates.py', report['arguments'])}", ""]
    lines += heading("model of", "trained on", "clips", "frames per second", "by the fraction alone", "as in training")
    for model in report["models"]:
        trained = "{:g} to {:g} frames per second".format(*model["training_fps"])
        for row in model["rows"]:
            scores = f"{row['by_fraction']:.1f} | {row['as_in_training']:.1f}"
            lines.append(f"| {model['reads']} | {trained} | {model['num_clips']} | {row['frame_rate']:g} | {scores} |")
    return "\n".join(lines)


def main(argv: Sequence[str] | None = None) -> int:
    return run_benchmark(argv, BenchmarkArguments, __doc__, measure, format_report, TABLE_START)


if __name__ == "__main__":
    sys.exit(main())
