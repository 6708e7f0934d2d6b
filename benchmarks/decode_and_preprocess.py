"""
Decode and preprocess rate of one thread: mp4 files through `FLaLLMVideoProcessor` against one PNG file a frame, as the
field does it: PIL open, PIL resize to 256 x 256, crop 224 x 224, ToTensor and Normalize frame by frame.

    python benchmarks/decode_and_preprocess.py --output_dir outputs/decode_and_preprocess

Both ways get the same pixels: clips are encoded, decoded, and the decoded frames are saved as PNG. The two ways take
turns within one run, and every ratio is of two neighbours, so that what else the machine does hits both. The table of
docs/decode-and-preprocess.md and its figures (.json) are written at the end; `--report_only True` writes them again
from the results that are there. Small, in a few seconds:

    python benchmarks/decode_and_preprocess.py --output_dir outputs/tiny --report outputs/tiny/page.md \
        --num_clips 1 --num_frames 8 --num_rounds 2
"""

import json
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
from PIL import Image
from torchvision import transforms
from transformers.image_utils import IMAGENET_DEFAULT_MEAN, IMAGENET_DEFAULT_STD

from processing import FLaLLMVideoProcessor, decode_video
from train_scripts.arguments import parse_arguments
from train_scripts.training import run_command

PAGE = Path(__file__).resolve().parent.parent / "docs" / "decode-and-preprocess.md"
TABLE_START = "<!-- written by benchmarks/decode_and_preprocess.py -->"
TABLE_END = "<!-- end of what the benchmark writes -->"
RESULTS_FILE = "results.json"
SIZES = ((260, 210), (512, 512))  # height, width: PHOENIX14T, CSL-Daily
SAMPLING_RATES = (1.0, 0.25)
FRAME_SIZE, CROP_SIZE = 256, 224
MARGIN = (FRAME_SIZE - CROP_SIZE) // 2
# Both resize with antialiasing, in fixed-point arithmetic of their own: values of 0 to 255 may differ by this much.
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
        if min(self.num_clips, self.num_frames, self.num_rounds) < 1:
            raise ValueError("--num_clips, --num_frames and --num_rounds must be 1 or more.")


def moving_picture(num_frames: int, height: int, width: int, generator: np.random.Generator) -> np.ndarray:
    """-> uint8 `(frames, height, width, 3)`: a blurred scene with a patch that moves, and a camera's noise"""
    coarse = generator.integers(0, 256, (height // 24 + 2, width // 24 + 2, 3), dtype=np.uint8)
    scene = np.asarray(Image.fromarray(coarse).resize((width, height), Image.Resampling.BICUBIC)).astype(np.int16)
    patch = generator.integers(0, 256, (height // 4, width // 4, 3), dtype=np.int16)
    frames = np.empty((num_frames, height, width, 3), np.uint8)
    for index, phase in enumerate(np.linspace(0, 4 * np.pi, num_frames)):
        top, left = int((1 + np.sin(phase)) * height * 0.35), int((1 + np.cos(phase)) * width * 0.35)
        frame = scene.copy()
        frame[top : top + len(patch), left : left + patch.shape[1]] = patch // 2 + 64
        frames[index] = np.clip(frame + generator.normal(0, 3, frame.shape), 0, 255)
    return frames


def write_mp4(path: Path, frames: np.ndarray) -> None:
    """H.264 at 25 frames per second with x264's own settings."""
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx264", rate=25)
        stream.height, stream.width = frames.shape[1:3]
        stream.pix_fmt = "yuv420p"
        for frame in frames:
            container.mux(stream.encode(av.VideoFrame.from_ndarray(frame, format="rgb24")))
        container.mux(stream.encode())


def make_clips(arguments: BenchmarkArguments, height: int, width: int) -> list[tuple[Path, list[Path]]]:
    """-> for each clip its mp4 file and its PNG files, which hold the frames of the mp4 as they are decoded"""
    generator = np.random.default_rng([arguments.seed, height, width])
    folder = Path(arguments.output_dir) / f"{width}x{height}"
    clips = []
    for number in range(arguments.num_clips):
        video, pictures = folder / f"{number}.mp4", folder / str(number)
        pictures.mkdir(parents=True, exist_ok=True)
        write_mp4(video, moving_picture(arguments.num_frames, height, width, generator))
        paths = [pictures / f"images{index:04d}.png" for index in range(arguments.num_frames)]
        for path, frame in zip(paths, decode_video(video).frames, strict=True):
            Image.fromarray(frame.permute(1, 2, 0).numpy()).save(path)
        clips.append((video, paths))
    return clips


class Ours:
    """mp4 -> `(frames, 3, 224, 224)`"""

    def __init__(self, frame_sampling_rate: float):
        self.processor = FLaLLMVideoProcessor(frame_sampling_rate=frame_sampling_rate, max_num_frames=None)

    def __call__(self, clip: tuple[Path, list[Path]]) -> torch.Tensor:
        return self.processor(clip[0], return_tensors="pt")["pixel_values_videos"][0]


class FrameByFrame:
    """PNG files -> `(frames, 3, 224, 224)`, opening no file that is not sampled"""

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
    Largest difference of two normalised clips, in levels of 0 to 255.

    Raises:
        ValueError: if they have not the same frames, or differ by more than rounding.
    """
    if ours.shape != theirs.shape:
        raise ValueError(f"Both ways must give the same frames, got {tuple(ours.shape)} and {tuple(theirs.shape)}.")
    levels = (ours - theirs).abs() * torch.tensor(IMAGENET_DEFAULT_STD)[:, None, None] * 255
    largest = levels.max().item()
    if largest > LARGEST_DIFFERENCE_IN_LEVELS:
        raise ValueError(f"The two ways must differ by rounding only, got {largest:.2f} of 255 levels.")
    return largest


def seconds_of(way: Callable[[Any], torch.Tensor], clips: Sequence[Any]) -> float:
    """Processor time for all clips: what others take of the machine does not count."""
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


def processor_name() -> str:
    """As Linux names it; elsewhere only that it is a CPU."""
    path = Path("/proc/cpuinfo")
    lines = path.read_text(encoding="utf-8").splitlines() if path.is_file() else []
    return next((line.partition(":")[2].strip() for line in lines if line.startswith("model name")), "a CPU")


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
    command = " ".join(f"--{name} {value}" for name, value in sizes.items())
    lines = [
        f"{sizes['num_clips']} clips of {sizes['num_frames']} frames for each size, {sizes['num_rounds']} rounds, on "
        f"{report['machine']}:",
        "",
        f"    python benchmarks/decode_and_preprocess.py {command}",
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


def write_report(
    output_dir: Path, page: Path, table_start: str, format_report: Callable[[Mapping[str, Any]], str]
) -> None:
    """
    Replace what stands between the two marks of the page, or begin a page; write the figures beside it.

    Raises:
        ValueError: if there are no results, or the page has no marks.
    """
    results = output_dir / RESULTS_FILE
    if not results.is_file():
        raise ValueError(f"--output_dir {output_dir} holds no results. Run without --report_only first.")
    report = json.loads(results.read_text(encoding="utf-8"))
    text = page.read_text(encoding="utf-8") if page.is_file() else f"{table_start}\n{TABLE_END}\n"
    before, start, rest = text.partition(table_start)
    _, end, after = rest.partition(TABLE_END)
    if not (start and end):
        raise ValueError(f"{page} must hold the lines {table_start!r} and {TABLE_END!r}: the table goes between them.")
    page.parent.mkdir(parents=True, exist_ok=True)
    write_json(page.with_suffix(".json"), report)
    page.write_text(f"{before}{table_start}\n{format_report(report)}\n{TABLE_END}{after}", encoding="utf-8")


def write_json(path: Path, values: Any) -> None:
    path.write_text(json.dumps(values, indent=2) + "\n", encoding="utf-8")


def run(argv: Sequence[str] | None = None) -> None:
    (arguments,) = parse_arguments((BenchmarkArguments,), argv, description="Decode and preprocess rate.")
    if not arguments.report_only:
        Path(arguments.output_dir).mkdir(parents=True, exist_ok=True)
        write_json(Path(arguments.output_dir) / RESULTS_FILE, measure(arguments))
    write_report(Path(arguments.output_dir), Path(arguments.report), TABLE_START, format_report)


def main(argv: Sequence[str] | None = None) -> int:
    return run_command(lambda: run(argv))


if __name__ == "__main__":
    sys.exit(main())
