"""
Long videos: joins clips of the quickstart's corpus to one video, splits it at rests and translates it piece by piece.

    python benchmarks/long_video.py --quickstart_output quickstart_output

For each length of the pause between two sentences (a still picture: the last of one clip, then the first of the next),
a table shows how many of the joints are found within half a second, and BLEU-4 of the whole text beside that of the
same clips translated one by one. A second table compares the time and memory of a long video with those of a short one.
A small run, in a few seconds:

    python benchmarks/long_video.py --num_clips 6 --pauses 0.5 --minutes 0.5 1
"""

import itertools
import multiprocessing
import random
import resource
import sys
import tempfile
import time
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import av
import numpy as np
import torch

from modeling_flallm import SignLanguageTranslationPipeline
from modeling_flallm.own_processing import decode_video
from train_scripts.arguments.command_line import run_command
from train_scripts.arguments.data_arguments import DataArguments
from train_scripts.arguments.dataclass_parser import parse_arguments
from train_scripts.clips.splits import load_split
from train_scripts.runs.trained_models import load_trained
from train_scripts.scores.metrics import translation_scores

FRAMES_PER_SECOND = 25
TOLERANCE_IN_SECONDS = 0.5


@dataclass
class BenchmarkArguments:
    """What is joined, and how."""

    quickstart_output: str = field(default="quickstart_output", metadata={"help": "Folder of corpus/ and model/."})
    split: str = field(default="test", metadata={"help": "Split of the corpus that the clips are taken from."})
    num_clips: int = field(default=40, metadata={"help": "Clips that are joined."})
    pauses: list[float] = field(
        default_factory=lambda: [0.0, 0.2, 0.5, 1.0, 3.0], metadata={"help": "Seconds between two sentences."}
    )
    minutes: list[float] = field(default_factory=lambda: [3.0, 30.0], metadata={"help": "Lengths to take the time of."})
    seed: int = field(default=0, metadata={"help": "Seed of the choice of clips."})

    def __post_init__(self):
        if self.num_clips < 2:
            raise ValueError(f"--num_clips must be 2 or more, got {self.num_clips}.")
        if min([*self.pauses, *self.minutes]) < 0:
            raise ValueError("--pauses and --minutes must be 0 or more.")


def load_translator(folder: Path) -> SignLanguageTranslationPipeline:
    model, processor = load_trained(str(folder / "model"))
    return SignLanguageTranslationPipeline(model=model, processor=processor, device="cpu")


def choose_clips(arguments: BenchmarkArguments) -> list[tuple[Path, str]]:
    """-> files and their sentences"""
    folder = Path(arguments.quickstart_output) / "corpus"
    rows = load_split(DataArguments(dataset=[str(folder)]), arguments.split)
    clips = [(Path(row["video"]["path"]), row["text"]) for row in rows]
    if len(clips) < arguments.num_clips:
        raise ValueError(f"--num_clips {arguments.num_clips}: the split has {len(clips)} clips.")
    return random.Random(arguments.seed).sample(clips, arguments.num_clips)


def frames_shown(num_frames: int, fps: float) -> list[int]:
    """Which frame of a clip is on the screen at each picture of the long video."""
    steps = np.arange(round(num_frames * FRAMES_PER_SECOND / fps))
    return np.minimum(steps * fps / FRAMES_PER_SECOND, num_frames - 1).astype(int).tolist()


def pictures_with_pauses(clips: Iterable[Path], pause_in_seconds: float, joints: list[float]) -> Iterator[np.ndarray]:
    """Yield uint8 pictures `(height, width, 3)` of all clips; the seconds where they are joined go to `joints`."""
    num_still = round(pause_in_seconds * FRAMES_PER_SECOND)
    num_pictures = 0
    for number, clip in enumerate(clips):
        video = decode_video(clip)
        frames = video.frames[frames_shown(len(video.frames), video.fps)].permute(0, 2, 3, 1).numpy()
        before, behind = (0 if number == 0 else num_still - num_still // 2), num_still // 2
        if number > 0:
            joints.append(num_pictures / FRAMES_PER_SECOND)
        frames = np.concatenate([frames[:1].repeat(before, 0), frames, frames[-1:].repeat(behind, 0)])
        num_pictures += len(frames)
        yield from frames


def write_video(path: Path, pictures: Iterator[np.ndarray]) -> None:
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx264", rate=FRAMES_PER_SECOND, options={"preset": "veryfast", "threads": "1"})
        first = next(pictures)
        stream.height, stream.width = first.shape[:2]
        for picture in itertools.chain([first], pictures):
            container.mux(stream.encode(av.VideoFrame.from_ndarray(np.ascontiguousarray(picture), format="rgb24")))
        container.mux(stream.encode())


def match_boundaries(found: Sequence[float], true: Sequence[float]) -> int:
    """How many of the found seconds lie within the tolerance of a true one, each true one counted once."""
    unmatched = sorted(true)
    matches = 0
    for second in found:
        nearest = min(unmatched, key=lambda other: abs(other - second), default=np.inf)
        if abs(nearest - second) <= TOLERANCE_IN_SECONDS:
            unmatched.remove(nearest)
            matches += 1
    return matches


def bleu4(texts: Iterable[str], references: Iterable[str]) -> float:
    """BLEU-4 of all texts as one, so that it does not matter where a sentence was cut."""
    return translation_scores([" ".join(texts)], [" ".join(references)])["bleu4"]


def compare_with_clips(arguments: BenchmarkArguments, folder: Path) -> Iterator[str]:
    """Yield the rows of the first table."""
    translator = load_translator(Path(arguments.quickstart_output))
    clips = choose_clips(arguments)
    references = [text for _, text in clips]
    alone = bleu4((translator(str(file))["translation_text"] for file, _ in clips), references)
    yield "| pause | joints | pieces | found (recall) | right (precision) | BLEU-4 long | BLEU-4 clip by clip |"
    yield "| --- | --- | --- | --- | --- | --- | --- |"
    for pause in arguments.pauses:
        video, joints = folder / "joined.mp4", []
        write_video(video, pictures_with_pauses((file for file, _ in clips), pause, joints))
        segments = translator.processor.video_processor.split_at_rests(str(video))
        pairs = itertools.pairwise(segments)
        found = [(earlier.caption_end + later.caption_start) / 2 for earlier, later in pairs]
        matches = match_boundaries(found, joints)
        texts = (answer["translation_text"] for answer in translator.translate_long(str(video), segments))
        yield (
            f"| {pause:g} s | {len(joints)} | {len(segments)} | {matches / len(joints):.1%} "
            f"| {matches / max(1, len(found)):.1%} | {bleu4(texts, references):.1f} | {alone:.1f} |"
        )


def measure_one(quickstart_output: str, video: str, results: multiprocessing.Queue) -> None:
    """Runs in a separate process, so that the peak memory is that of this video."""
    torch.set_num_threads(1)
    translator = load_translator(Path(quickstart_output))
    begin = time.perf_counter()
    segments = translator.processor.video_processor.split_at_rests(video)
    split = time.perf_counter()
    num_answers = sum(1 for _ in translator.translate_long(video, segments))
    seconds = split - begin, time.perf_counter() - split
    results.put((*seconds, num_answers, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024))


def measure_lengths(arguments: BenchmarkArguments, folder: Path) -> Iterator[str]:
    """Yield the rows of the second table."""
    clips = [file for file, _ in choose_clips(arguments)]
    yield "| length | frames | answers | split | translate | seconds per minute of video | highest memory |"
    yield "| --- | --- | --- | --- | --- | --- | --- |"
    spawn = multiprocessing.get_context("spawn")
    for minutes in arguments.minutes:
        num_frames = round(minutes * 60 * FRAMES_PER_SECOND)
        video, results = folder / f"{minutes:g}.mp4", spawn.Queue()
        write_video(video, _endless(clips, num_frames))
        process = spawn.Process(target=measure_one, args=(arguments.quickstart_output, str(video), results))
        process.start()
        process.join()
        if process.exitcode != 0:
            raise ValueError(f"The process that translated {minutes:g} minutes ended with status {process.exitcode}.")
        split, translate, num_answers, mebibytes = results.get()
        yield (
            f"| {minutes:g} min | {num_frames:,} | {num_answers} | {split:.1f} s | {translate:.1f} s "
            f"| {(split + translate) / minutes:.2f} | {mebibytes:,.0f} MiB |"
        )


def _endless(clips: Sequence[Path], num_frames: int) -> Iterator[np.ndarray]:
    """The clips over and over again, with half a second between them."""
    num_left = num_frames
    while num_left > 0:
        for picture in pictures_with_pauses(clips, 0.5, []):
            if num_left == 0:
                return
            num_left -= 1
            yield picture


def run(argv: Sequence[str] | None = None) -> None:
    (arguments,) = parse_arguments((BenchmarkArguments,), argv, description="Long videos, cut and translated.")
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory(prefix="flallm-long-video-") as folder:
        for row in compare_with_clips(arguments, Path(folder)):
            print(row, flush=True)
        print()
        for row in measure_lengths(arguments, Path(folder)):
            print(row, flush=True)


def main(argv: Sequence[str] | None = None) -> int:
    return run_command(run, argv)


if __name__ == "__main__":
    sys.exit(main())
