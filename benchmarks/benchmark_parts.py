"""Shared by the benchmarks: drawn clips, corpora of these, and the page of results."""

import json
import os
import shlex
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import av
import numpy as np
from PIL import Image

from processing import decode_video
from train_scripts.arguments.command_line import run_command
from train_scripts.arguments.dataclass_parser import parse_arguments

DOCS = Path(__file__).resolve().parent.parent / "docs"
TABLE_END = "<!-- end of what the benchmark writes -->"
RESULTS_FILE = "results.json"
HEIGHT, WIDTH = 260, 210  # PHOENIX14T
WORDS_OF_SENTENCE = 20


def moving_picture(num_frames: int, height: int, width: int, generator: np.random.Generator) -> np.ndarray:
    """-> uint8 `(frames, height, width, 3)`: a blurred scene with a moving patch and camera noise"""
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


def write_clip(video: Path, frames: np.ndarray, pictures: Path) -> list[Path]:
    """Write an mp4 file, and its decoded frames as PNG files in the folder `pictures` -> the PNG files"""
    pictures.mkdir(parents=True, exist_ok=True)
    write_mp4(video, frames)
    paths = [pictures / f"images{index:04d}.png" for index in range(len(frames))]
    for path, frame in zip(paths, decode_video(video).frames, strict=True):
        Image.fromarray(frame.permute(1, 2, 0).numpy()).save(path)
    return paths


@dataclass
class Corpus:
    """`pictures` holds the PNG files of each clip of the video folder `folder`."""

    folder: Path
    pictures: list[list[Path]]
    sentences: list[str]


def make_corpus(folder: Path, lengths: Sequence[int], generator: np.random.Generator) -> Corpus:
    """Make a training split of clips of so many frames; their PNG files are in a folder beside it."""
    (folder / "train").mkdir(parents=True, exist_ok=True)
    corpus = Corpus(folder, [], [])
    lines = ["file_name,text"]
    for number, num_frames in enumerate(lengths):
        video, pictures = folder / "train" / f"{number}.mp4", folder.with_name(f"{folder.name}_png") / str(number)
        corpus.pictures.append(write_clip(video, moving_picture(num_frames, HEIGHT, WIDTH, generator), pictures))
        corpus.sentences.append(" ".join(f"w{word}" for word in generator.integers(60, size=WORDS_OF_SENTENCE)))
        lines.append(f"{video.name},{corpus.sentences[-1]}")
    (folder / "train" / "metadata.csv").write_text("\n".join(lines) + "\n", encoding="utf-8")
    return corpus


def processor_name() -> str:
    """The processor's name on Linux, "a CPU" elsewhere."""
    path = Path("/proc/cpuinfo")
    lines = path.read_text(encoding="utf-8").splitlines() if path.is_file() else []
    return next((line.partition(":")[2].strip() for line in lines if line.startswith("model name")), "a CPU")


def check_counts(arguments: Any, *names: str) -> None:
    """
    Raises:
        ValueError: if one of these arguments is below 1.
    """
    if min(getattr(arguments, name) for name in names) < 1:
        *others, last = (f"--{name}" for name in names)
        names_of_all = f"{', '.join(others)} and {last}" if others else last
        raise ValueError(f"{names_of_all} must be 1 or more.")


def check_sizes(output_dir: Path, found: Mapping[str, Any], wanted: Mapping[str, Any]) -> None:
    """
    Raises:
        ValueError: if the sizes `found` in the folder's results are not those that are `wanted`.
    """
    different = [f"--{name} {found[name]}" for name, value in wanted.items() if found[name] != value]
    if different:
        raise ValueError(f"{output_dir} holds results of {' '.join(different)}. Pass these, or name another folder.")


def command_line(file_name: str, values: Mapping[str, Any]) -> str:
    """The command that runs the benchmark with these arguments; a list gives several values of one argument."""
    lists = {name: value if isinstance(value, list) else [value] for name, value in values.items()}
    texts = (f"--{name} {shlex.join(map(str, each))}" for name, each in lists.items())
    return " ".join([f"python benchmarks/{file_name}", *texts])


def write_json(path: Path, values: Any) -> None:
    unfinished = path.with_suffix(f".{os.getpid()}")
    unfinished.write_text(json.dumps(values, indent=2) + "\n", encoding="utf-8")
    unfinished.replace(path)  # so that an existing file is complete


def write_page(page: Path, table_start: str, text: str) -> None:
    """
    Replace the text between the two marks of the page, or start a page.

    Raises:
        ValueError: if the page has no marks.
    """
    old = page.read_text(encoding="utf-8") if page.is_file() else f"{table_start}\n{TABLE_END}\n"
    before, start, rest = old.partition(table_start)
    _, end, after = rest.partition(TABLE_END)
    if not (start and end):
        raise ValueError(f"{page} must hold the lines {table_start!r} and {TABLE_END!r}: the table goes between them.")
    page.write_text(f"{before}{table_start}\n{text}\n{TABLE_END}{after}", encoding="utf-8")


def write_report(
    output_dir: Path,
    page: Path,
    table_start: str,
    format_report: Callable[[Mapping[str, Any]], str],
    figures: str | None = None,
) -> None:
    """
    Write the results in `output_dir` to the page, and as its figures (.json) beside it.

    Args:
        figures: name of the file of figures. Default: that of the page, which is enough for one table.

    Raises:
        ValueError: if there are no results, or the page has no marks.
    """
    results = output_dir / RESULTS_FILE
    if not results.is_file():
        raise ValueError(f"--output_dir {output_dir} holds no results. Run without --report_only first.")
    report = json.loads(results.read_text(encoding="utf-8"))
    page.parent.mkdir(parents=True, exist_ok=True)
    write_page(page, table_start, format_report(report))
    write_json(page.with_name(figures or f"{page.stem}.json"), report)


def measure_and_report(
    arguments: Any,
    measure: Callable[[Any], Mapping[str, Any]],
    format_report: Callable[[Mapping[str, Any]], str],
    table_start: str,
    figures: str | None = None,
) -> None:
    """
    `arguments` have `output_dir`, `report` (the page) and `report_only`, with which nothing is measured; `figures` as
    in `write_report`.
    """
    if not arguments.report_only:
        Path(arguments.output_dir).mkdir(parents=True, exist_ok=True)
        write_json(Path(arguments.output_dir) / RESULTS_FILE, measure(arguments))
    write_report(Path(arguments.output_dir), Path(arguments.report), table_start, format_report, figures)


def run_benchmark(
    argv: Sequence[str] | None,
    kind_of_arguments: type,
    description: str,
    measure: Callable[[Any], Mapping[str, Any]],
    format_report: Callable[[Mapping[str, Any]], str],
    table_start: str,
    figures: str | None = None,
) -> int:
    """Run the command of a benchmark -> its exit status; `figures` as in `write_report`"""

    def run(given: Sequence[str]) -> None:
        (arguments,) = parse_arguments((kind_of_arguments,), given, description=description)
        measure_and_report(arguments, measure, format_report, table_start, figures)

    return run_command(run, argv)
