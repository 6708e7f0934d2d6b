"""
Decoding and preprocessing speed of one thread: mp4 files through `FLaLLMVideoProcessor` against the usual way of the
field, one PNG file per frame: PIL open, PIL resize to 256 x 256, crop 224 x 224, ToTensor and Normalize frame by frame.

    python benchmarks/decode_and_preprocess.py --output_dir outputs/decode_and_preprocess

Both ways get the same pixels: clips are encoded, decoded, and the decoded frames are saved as PNG. They take turns
within one run, and every ratio is of neighbouring turns, so that other load on the machine affects both. The table of
docs/decode-and-preprocess.md and its figures (.json) are written at the end; `--report_only True` writes them again
from existing results. A small run, in a few seconds:

    python benchmarks/decode_and_preprocess.py --output_dir outputs/tiny --report outputs/tiny/page.md \
        --num_clips 1 --num_frames 8 --num_rounds 2
"""

import statistics
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import av
import numpy as np
import torch
from benchmark_parts import (
    DOCS,
    HEIGHT,
    WIDTH,
    check_counts,
    command_line,
    moving_picture,
    processor_name,
    run_benchmark,
    write_clip,
)
from PIL import Image
from torchvision import transforms
from transformers.image_utils import IMAGENET_DEFAULT_MEAN, IMAGENET_DEFAULT_STD

from processing import FLaLLMVideoProcessor

PAGE = DOCS / "decode-and-preprocess.md"
TABLE_START = "<!-- written by benchmarks/decode_and_preprocess.py -->"
SIZES = ((HEIGHT, WIDTH), (512, 512))  # height, width: PHOENIX14T, CSL-Daily
SAMPLING_RATES = (1.0, 0.25)
FRAME_SIZE, CROP_SIZE = 256, 224
MARGIN = (FRAME_SIZE - CROP_SIZE) // 2
# Both resize with antialiasing, but with different fixed-point arithmetic: values of 0 to 255 may differ by this much.
LARGEST_DIFFERENCE_IN_LEVELS = 1.01


@dataclass
class BenchmarkArguments:
    """How much is measured."""

    output_dir: str = field(
        default="outputs/decode_and_preprocess", metadata={"help": "Folder of clips and results; may exist."}
    )
    report: str = field(default=str(PAGE), metadata={"help": "Page to write; figures land beside it."})
    report_only: bool = field(default=False, metadata={"help": "Measure nothing, report what there is."})
    num_clips: int = field(default=4, metadata={"help": "Clips of each size."})
    num_frames: int = field(default=100, metadata={"help": "Frames of each clip; 100 are 4 seconds."})
    num_rounds: int = field(default=7, metadata={"help": "Turns of the two ways."})
    seed: int = field(default=0, metadata={"help": "Seed of the clips."})

    def __post_init__(self):
        check_counts(self, "num_clips", "num_frames", "num_rounds")


def make_clips(arguments: BenchmarkArguments, height: int, width: int) -> list[tuple[Path, list[Path]]]:
    """-> for each clip its mp4 file and its PNG files, which are the decoded frames of the mp4"""
    generator = np.random.default_rng([arguments.seed, height, width])
    folder = Path(arguments.output_dir) / f"{width}x{height}"
    clips = []
    for number in range(arguments.num_clips):
        video, pictures = folder / f"{number}.mp4", folder / str(number)
        frames = moving_picture(arguments.num_frames, height, width, generator)
        clips.append((video, write_clip(video, frames, pictures)))
    return clips


class Ours:
    """mp4 -> `(frames, 3, 224, 224)`"""

    def __init__(self, frame_sampling_rate: float):
        self.processor = FLaLLMVideoProcessor(frame_sampling_rate=frame_sampling_rate, max_num_frames=None)

    def __call__(self, clip: tuple[Path, list[Path]]) -> torch.Tensor:
        return self.processor(clip[0], return_tensors="pt")["pixel_values_videos"][0]


class FrameByFrame:
    """PNG files -> `(frames, 3, 224, 224)`, opening only the files that are sampled"""

    def __init__(self, frame_sampling_rate: float):
        self.sample = FLaLLMVideoProcessor(
            frame_sampling_rate=frame_sampling_rate, max_num_frames=None
        ).sample_frame_indices
        self.transform = transforms.Compose(
            [transforms.ToTensor(), transforms.Normalize(IMAGENET_DEFAULT_MEAN, IMAGENET_DEFAULT_STD)]
        )

    def __call__(self, clip: tuple[Path, list[Path]]) -> torch.Tensor:
        paths = [clip[1][index] for index in self.sample(len(clip[1]))]
        frames = torch.zeros(len(paths), 3, CROP_SIZE, CROP_SIZE)
        for index, path in enumerate(paths):
            with Image.open(path) as picture:
                resized = picture.convert("RGB").resize((FRAME_SIZE, FRAME_SIZE), Image.Resampling.BILINEAR)
            cropped = resized.crop((MARGIN, MARGIN, MARGIN + CROP_SIZE, MARGIN + CROP_SIZE))
            frames[index] = self.transform(cropped)
        return frames


def largest_difference_in_levels(ours: torch.Tensor, theirs: torch.Tensor) -> float:
    """
    Largest difference between two normalised clips, in levels of 0 to 255.

    Raises:
        ValueError: if they differ in shape, or by more than rounding.
    """
    if ours.shape != theirs.shape:
        raise ValueError(f"Both ways must give the same frames, got {tuple(ours.shape)} and {tuple(theirs.shape)}.")
    levels = (ours - theirs).abs() * torch.tensor(IMAGENET_DEFAULT_STD)[:, None, None] * 255
    largest = levels.max().item()
    if largest > LARGEST_DIFFERENCE_IN_LEVELS:
        raise ValueError(f"The two ways must differ by rounding only, got {largest:.2f} of 255 levels.")
    return largest


def seconds_of(way: Callable[[Any], torch.Tensor], clips: Sequence[Any]) -> float:
    """Processor time for all clips, which does not include other processes."""
    before = time.process_time()
    for clip in clips:
        way(clip)
    return time.process_time() - before


def compare(clips: Sequence[Any], frame_sampling_rate: float, num_rounds: int) -> dict[str, Any]:
    """
    -> frames of the videos per second of processor time, a value for each round and way

    Raises:
        ValueError: if the two ways give different pixels.
    """
    ways = {"ours": Ours(frame_sampling_rate), "frame_by_frame": FrameByFrame(frame_sampling_rate)}
    difference = max(largest_difference_in_levels(*(way(clip) for way in ways.values())) for clip in clips)
    num_frames = sum(len(pictures) for _, pictures in clips)
    rates: dict[str, list[float]] = {name: [] for name in ways}
    for round_number in range(num_rounds):
        order = list(ways) if round_number % 2 == 0 else list(ways)[::-1]
        for name in order:
            rates[name].append(num_frames / seconds_of(ways[name], clips))
    return {"largest_difference_in_levels": difference, "frames_per_second": rates}


def measure(arguments: BenchmarkArguments) -> dict[str, Any]:
    """All sizes and sampling rates, on one thread."""
    torch.set_num_threads(1)
    results = []
    for height, width in SIZES:
        clips = make_clips(arguments, height, width)
        for rate in SAMPLING_RATES:
            compared = compare(clips, rate, arguments.num_rounds)
            results.append({"height": height, "width": width, "frame_sampling_rate": rate, **compared})
            print(format_row(results[-1]), flush=True)
    names = ("num_clips", "num_frames", "num_rounds", "seed")
    return {
        "sizes": {name: getattr(arguments, name) for name in names},
        "machine": f"one thread of {processor_name()}, PyAV {av.__version__}, torch {torch.__version__}",
        "results": results,
    }


def ratios(result: Mapping[str, Any]) -> list[float]:
    rates = result["frames_per_second"]
    return [ours / theirs for ours, theirs in zip(rates["ours"], rates["frame_by_frame"], strict=True)]


def format_row(result: Mapping[str, Any]) -> str:
    rates = result["frames_per_second"]
    cells = [f"{result['width']} x {result['height']}", f"{result['frame_sampling_rate']:.0%}"]
    cells += [f"{statistics.median(rates[name]):,.0f}" for name in ("ours", "frame_by_frame")]
    values = ratios(result)
    cells += [f"**{statistics.median(values):.1f}** ({min(values):.1f} to {max(values):.1f})"]
    cells += [f"{result['largest_difference_in_levels']:.2f}"]
    return f"| {' | '.join(cells)} |"


def format_report(report: Mapping[str, Any]) -> str:
    """Command, machine and table in Markdown."""
    sizes = report["sizes"]
    titles = ["pixels", "frames kept", "ours, frames/s", "frame by frame, frames/s", "ratio", "largest difference"]
    lines = [
        f"{sizes['num_clips']} clips of {sizes['num_frames']} frames for each size, {sizes['num_rounds']} rounds, on "
        f"{report['machine']}:",
        "",
        f"    {command_line('decode_and_preprocess.py', sizes)}",
        "",
        f"| {' | '.join(titles)} |",
        f"| {' | '.join(['---'] * len(titles))} |",
        *map(format_row, report["results"]),
        "",
        "Frames of the video per second of processor time, also where only a part of them is kept: medians of the "
        "rounds. The ratio is the median of the rounds' own ratios (lowest to highest). The difference is of pixels "
        "before normalisation, of 255 levels.",
    ]
    return "\n".join(lines)


def main(argv: Sequence[str] | None = None) -> int:
    return run_benchmark(argv, BenchmarkArguments, "Decode and preprocess rate.", measure, format_report, TABLE_START)


if __name__ == "__main__":
    sys.exit(main())
