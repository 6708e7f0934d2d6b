"""
From video files to sentences: `flallm translate` beside a plain baseline written in the usual way of the field: one PNG
file per frame, resized by PIL, ResNet-18 at 224 px in float32 and NCHW, one clip after the other.

    python benchmarks/inference.py --output_dir outputs/inference

Weights are random, clips are drawn, and all ways use the same language model, search with 4 beams and write the same
number of tokens. This measures the processor time of one thread per clip; overlapping reading, encoding and writing
only changes the wall-clock time, which the figures (.json) have, too. The tables of docs/inference-speed.md and its
figures are written at the end; `--report_only True` writes them again from existing results. A small run, in under a
minute:

    python benchmarks/inference.py --output_dir outputs/tiny --report outputs/tiny/page.md --size tiny \
        --num_clips 2 --num_frames 68 --num_tokens 3 --num_rounds 1
"""

import itertools
import statistics
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from unittest import mock

import torch
from benchmark_parts import (
    DOCS,
    HEIGHT,
    WIDTH,
    Corpus,
    check_counts,
    command_line,
    make_corpus,
    moving_picture,
    processor_name,
    run_benchmark,
    write_mp4,
)
from decode_and_preprocess import FrameByFrame
from feature_cache import TEXT_MODELS, PlainEncoder, build_model
from numpy.random import default_rng

from modeling_flallm import FLaLLMForTranslation
from modeling_flallm.own_processing import FLaLLMProcessor
from train_scripts.arguments.data_arguments import VideoArguments
from train_scripts.machine.machine import fastest_dtype
from train_scripts.runs import video_translation
from train_scripts.runs.quantization import quantize_on_cpu
from train_scripts.runs.tokenizers import train_tokenizer
from train_scripts.runs.training import build_processor

PAGE = DOCS / "inference-speed.md"
TABLE_START = "<!-- written by benchmarks/inference.py -->"
NUM_BEAMS = 4
GROWTH = (1, 2, 4)
# bfloat16 on processors that compute in it; elsewhere the names of the ways are wrong about it.
FASTEST = fastest_dtype(torch.device("cpu"))
BASELINES = ("plain, all frames", "plain, a quarter of the frames")
# name: (share of the frames, clips in a batch, dtype, int8, overlapped)
WAYS = {
    "ours, one clip after the other": (0.25, 1, torch.float32, False, False),
    "and in batches": (0.25, 8, torch.float32, False, False),
    "and in bfloat16": (0.25, 8, FASTEST, False, False),
    "**and overlapped: the default**": (0.25, 8, FASTEST, False, True),
    "with `--quantization int8`": (0.25, 8, FASTEST, True, True),
    "the default, with all frames": (1.0, 8, FASTEST, False, True),
    "int8, with all frames": (1.0, 8, FASTEST, True, True),
}


@dataclass
class BenchmarkArguments:
    """How much is measured."""

    output_dir: str = field(default="outputs/inference", metadata={"help": "Folder of clips and results."})
    report: str = field(default=str(PAGE), metadata={"help": "Page to write; figures land beside it."})
    report_only: bool = field(default=False, metadata={"help": "Measure nothing, report what there is."})
    size: str = field(default="12+12 layers", metadata={"help": f"Language model: {', '.join(TEXT_MODELS)}."})
    num_clips: int = field(default=8, metadata={"help": "Clips; of the slow baseline a quarter of them."})
    num_frames: int = field(default=86, metadata={"help": "Frames of each clip."})
    num_tokens: int = field(default=20, metadata={"help": "Tokens of each sentence."})
    num_rounds: int = field(default=2, metadata={"help": "Turns of all ways."})
    seed: int = field(default=0, metadata={"help": "Seed of clips and weights."})

    def __post_init__(self):
        if self.size not in TEXT_MODELS:
            raise ValueError(f"--size must be one of {', '.join(map(repr, TEXT_MODELS))}, got {self.size!r}.")
        check_counts(self, "num_clips", "num_frames", "num_tokens", "num_rounds")


class AtOnce:
    """An executor that runs everything in the calling thread, so that nothing overlaps."""

    def __init__(self, max_workers: int):
        self.value: Any = None

    def __enter__(self) -> "AtOnce":
        return self

    def __exit__(self, *error: Any) -> None:
        pass

    def submit(self, function: Callable[[Any], Any], item: Any) -> "AtOnce":
        done = AtOnce(1)
        done.value = function(item)
        return done

    def result(self) -> Any:
        return self.value

    def cancel(self) -> None:
        pass


class Ways:
    """Processor and wall-clock seconds per clip, for each way of translating"""

    def __init__(self, corpus: Corpus, processor: FLaLLMProcessor, arguments: BenchmarkArguments):
        self.corpus, self.processor, self.arguments = corpus, processor, arguments
        self.videos = sorted((corpus.folder / "train").glob("*.mp4"))
        torch.manual_seed(arguments.seed)
        self.plain_encoder = PlainEncoder().eval()
        self.models = {
            kind: self._model(*kind) for kind in dict.fromkeys((dtype, int8) for _, _, dtype, int8, _ in WAYS.values())
        }

    def _model(self, dtype: torch.dtype, int8: bool) -> FLaLLMForTranslation:
        model = build_model(self.arguments.size, self.processor, self.arguments.seed).eval()
        if int8:
            quantize_on_cpu(model)
            model.vision_model.to(dtype)
        else:
            model.to(dtype)
        model.generation_config.min_new_tokens = self.arguments.num_tokens
        model.generation_config.max_new_tokens = self.arguments.num_tokens
        return model

    @torch.no_grad()
    def plain(self, frame_sampling_rate: float) -> dict[str, float]:
        read, model = FrameByFrame(frame_sampling_rate), self.models[(torch.float32, False)]
        clips = self.corpus.pictures[: max(len(self.corpus.pictures) // 4, 1)]
        with stopwatch(len(clips)) as seconds:
            for pictures in clips:
                features = self.plain_encoder(read((Path(), pictures)))
                model.generate(visual_features=features[None], num_beams=NUM_BEAMS)
        return seconds

    def ours(
        self,
        frame_sampling_rate: float,
        batch_size: int,
        dtype: torch.dtype,
        int8: bool,
        overlapped: bool,
        videos: Sequence[Path] | None = None,
    ) -> dict[str, float]:
        videos = self.videos if videos is None else videos
        self.processor.video_processor.frame_sampling_rate = frame_sampling_rate
        pool = video_translation.ThreadPoolExecutor if overlapped else AtOnce
        with mock.patch.object(video_translation, "ThreadPoolExecutor", pool), stopwatch(len(videos)) as seconds:
            model = self.models[(dtype, int8)]
            done = list(
                video_translation.translate_videos(model, self.processor, videos, batch_size, num_beams=NUM_BEAMS)
            )
        errors = [translation.error for translation in done if translation.error]
        if errors:
            raise ValueError(f"No clip may fail, but {len(errors)} did: {errors[0]}")
        return seconds


class stopwatch:
    """Seconds per clip of what runs in its `with` block."""

    def __init__(self, num_clips: int):
        self.num_clips = num_clips

    def __enter__(self) -> dict[str, float]:
        self.seconds: dict[str, float] = {}
        self.before = time.process_time(), time.perf_counter()
        return self.seconds

    def __exit__(self, *error: Any) -> None:
        now = time.process_time(), time.perf_counter()
        for name, first, last in zip(("processor", "clock"), self.before, now, strict=True):
            self.seconds[name] = (last - first) / self.num_clips


def measure_ways(ways: Ways, num_rounds: int) -> dict[str, list[dict[str, float]]]:
    """All ways in turn, `num_rounds` times, after one uncounted clip."""
    seconds: dict[str, list[dict[str, float]]] = {name: [] for name in (*BASELINES, *WAYS)}
    for settings in WAYS.values():
        ways.ours(*settings, videos=ways.videos[:1])
    for _ in range(num_rounds):
        for name, rate in zip(BASELINES, (1.0, VideoArguments().frame_sampling_rate), strict=True):
            seconds[name].append(ways.plain(rate))
        for name, settings in WAYS.items():
            seconds[name].append(ways.ours(*settings))
        print({name: round(values[-1]["processor"], 3) for name, values in seconds.items()}, flush=True)
    return seconds


def measure_growth(ways: Ways, arguments: BenchmarkArguments) -> dict[str, list[dict[str, float]]]:
    """The default way with more clips, and with longer ones: totals, which must grow linearly."""
    settings = WAYS["**and overlapped: the default**"]
    base = ways.videos[: max(len(ways.videos) // 2, 1)]
    growth: dict[str, list[dict[str, float]]] = {"clips": [], "frames": []}
    for factor in GROWTH:
        videos = list(itertools.islice(itertools.cycle(base), len(base) * factor))
        seconds = ways.ours(*settings, videos=videos)["processor"] * len(videos)
        growth["clips"].append({"number": len(videos), "processor": seconds})
        videos = list(_clips_of_length(arguments, len(base), arguments.num_frames * factor))
        seconds = ways.ours(*settings, videos=videos)["processor"] * len(videos)
        growth["frames"].append({"number": arguments.num_frames * factor, "processor": seconds})
    return growth


def _clips_of_length(arguments: BenchmarkArguments, num_clips: int, num_frames: int) -> Iterator[Path]:
    folder = Path(arguments.output_dir) / "lengths"
    folder.mkdir(exist_ok=True)
    for number in range(num_clips):
        path = folder / f"{num_frames}_{number}.mp4"
        write_mp4(path, moving_picture(num_frames, HEIGHT, WIDTH, default_rng([arguments.seed, number])))
        yield path


def measure(arguments: BenchmarkArguments) -> dict[str, Any]:
    torch.set_num_threads(1)
    lengths = [arguments.num_frames] * arguments.num_clips
    corpus = make_corpus(Path(arguments.output_dir) / "corpus", lengths, default_rng(arguments.seed))
    processor = build_processor(VideoArguments(), train_tokenizer(corpus.sentences, 400))
    ways = Ways(corpus, processor, arguments)
    names = ("size", "num_clips", "num_frames", "num_tokens", "num_rounds", "seed")
    return {
        "arguments": {name: getattr(arguments, name) for name in names},
        "machine": f"{processor_name()}, torch {torch.__version__}, one thread for each part of the work",
        "num_parameters": sum(p.numel() for p in ways.models[(torch.float32, False)].parameters()),
        "seconds_per_clip": measure_ways(ways, arguments.num_rounds),
        "growth": measure_growth(ways, arguments),
    }


def format_ways(seconds: Mapping[str, Sequence[Mapping[str, float]]]) -> list[str]:
    medians = {name: statistics.median(value["processor"] for value in values) for name, values in seconds.items()}
    lines = [
        "| way | processor, s/clip | to the baseline, all frames | to the baseline, a quarter of them |",
        "| --- | --- | --- | --- |",
    ]
    for name, median in medians.items():
        ratios = [f"{medians[baseline] / median:.1f}" for baseline in BASELINES]
        lines.append(f"| {name} | {median:.2f} | {' | '.join(ratios)} |")
    return lines


def format_growth(growth: Mapping[str, Sequence[Mapping[str, float]]]) -> list[str]:
    lines = ["| | processor, s | times the first |", "| --- | --- | --- |"]
    for name, rows in growth.items():
        for row in rows:
            times = row["processor"] / rows[0]["processor"]
            lines.append(f"| {row['number']} {name} | {row['processor']:.1f} | {times:.1f} |")
    return lines


def format_report(report: Mapping[str, Any]) -> str:
    """Command, machine and tables in Markdown."""
    values = report["arguments"]
    return "\n".join(
        [
            f"{values['num_clips']} clips of {values['num_frames']} frames ({WIDTH} x {HEIGHT}, mp4 and PNG), "
            f"{values['num_tokens']} tokens a sentence, {NUM_BEAMS} beams, "
            f"{report['num_parameters'] / 1e6:,.0f} million parameters",
            f"in all, medians of {values['num_rounds']} round(s), on {report['machine']}:",
            "",
            f"    {command_line('inference.py', values)}",
            "",
            *format_ways(report["seconds_per_clip"]),
            "",
            "The default way with more clips, and with longer ones (half as many clips as above):",
            "",
            *format_growth(report["growth"]),
        ]
    )


def main(argv: Sequence[str] | None = None) -> int:
    return run_benchmark(
        argv, BenchmarkArguments, "From video files to sentences.", measure, format_report, TABLE_START
    )


if __name__ == "__main__":
    sys.exit(main())
