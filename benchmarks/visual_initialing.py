"""
Stage 1 switch by switch, beside a plain baseline written in the usual way of the field: one PNG file per frame, resized
by PIL, all frames of a clip, padded clips through torchvision's ResNet-18 at 224 px in float32 and NCHW, SGD not fused.

    python benchmarks/visual_initialing.py --output_dir outputs/visual_initialing --compile True

Weights are random and clips are drawn. This measures an optimiser step with Light-T at the paper's size: reading,
forward, backward, SGD; on a CPU as processor time of one thread, which other load on the machine hardly affects, on a
GPU as wall-clock time. The ways take turns within one run. The tables of docs/visual-initialing-speed.md and its
figures (.json) are written at the end; `--report_only True` writes them again from existing results. A small run, in
under a minute:

    python benchmarks/visual_initialing.py --output_dir outputs/tiny --report outputs/tiny/page.md --num_clips 2 \
        --num_frames 16 --num_rounds 1 --matrix_size 512 --frames_per_call 1
"""

import copy
import ctypes
import dataclasses
import statistics
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torchvision
from benchmark_parts import DOCS, HEIGHT, WIDTH, Corpus, command_line, make_corpus, processor_name, run_benchmark
from decode_and_preprocess import FrameByFrame
from torch import nn
from torch.nn.utils.fusion import fuse_conv_bn_eval
from torch.nn.utils.rnn import pad_sequence
from torch.utils.flop_counter import FlopCounterMode

from modeling_flallm import FLaLLMForTranslation, FLaLLMVisionConfig, FLaLLMVisionModel
from train_scripts.arguments.data_arguments import AugmentationArguments, DataArguments, VideoArguments
from train_scripts.arguments.stage_arguments import VisualInitialingArguments
from train_scripts.clips.augmentation import ClipAugmentation
from train_scripts.clips.collators import TranslationCollator
from train_scripts.clips.data import SignClipDataset
from train_scripts.clips.splits import load_split
from train_scripts.machine.machine import computes_in_bfloat16, default_device
from train_scripts.runs.tokenizers import train_tokenizer
from train_scripts.runs.training import build_processor
from train_scripts.stages.visual_initialing import build_model

PAGE = DOCS / "visual-initialing-speed.md"
TABLE_START = "<!-- written by benchmarks/visual_initialing.py -->"
VOCABULARY_SIZE = 2454  # of mBART, trimmed to PHOENIX14T
# Frames of the shortest to the longest of eight random training clips of PHOENIX14T, means over many draws; the paper
# trains on eight clips a step. 40 % of such a batch is padding. (From the frame counts that CorrNet publishes.)
LENGTHS_IN_BATCH = (54, 75, 91, 106, 120, 136, 157, 194)
LEARNING_RATE = 1e-4
MULTIPLES = (1, 2, 4)
Inputs = dict[str, torch.Tensor]


@dataclass
class BenchmarkArguments:
    """How much is measured."""

    output_dir: str = field(default="outputs/visual_initialing", metadata={"help": "Folder of clips and results."})
    report: str = field(default=str(PAGE), metadata={"help": "Page to write; figures land beside it."})
    report_only: bool = field(default=False, metadata={"help": "Measure nothing, report what there is."})
    num_clips: int = field(default=8, metadata={"help": "Clips of a step."})
    num_frames: int = field(default=40, metadata={"help": "Frames of the longest clip."})
    num_rounds: int = field(default=2, metadata={"help": "Turns of all ways."})
    frames_per_chunk: int = field(default=8, metadata={"help": "Of the way with the CNN in chunks."})
    frames_per_call: list[int] = field(
        default_factory=lambda: [2, 8, 32, 64], metadata={"help": "Frames of a call of the CNN without gradient."}
    )
    matrix_size: int = field(default=2048, metadata={"help": "Rows and columns of the multiplied matrices."})
    compile: bool = field(default=False, metadata={"help": "Also compile the CNN (torch.compile), in minutes."})
    seed: int = field(default=0, metadata={"help": "Seed of clips and weights."})

    def __post_init__(self):
        counts = ("num_clips", "num_frames", "num_rounds", "frames_per_chunk", "matrix_size")
        if min(*(getattr(self, name) for name in counts), *self.frames_per_call) < 1:
            names = ", ".join(f"--{name}" for name in counts)
            raise ValueError(f"{names} and --frames_per_call must be 1 or more.")


class Machine:
    """The accelerator if there is one, else one thread of the CPU, and how to measure time and memory there."""

    def __init__(self):
        has_accelerator = torch.accelerator.is_available()
        self.device = torch.accelerator.current_accelerator() if has_accelerator else torch.device("cpu")
        torch.set_num_threads(1)

    @property
    def description(self) -> str:
        if self.device.type == "cuda":
            return f"{torch.cuda.get_device_name()}, torch {torch.__version__}"
        return f"one thread of {processor_name()}, torch {torch.__version__}"

    def seconds_of(self, work: Callable[[], Any]) -> float:
        before = self._now()
        work()
        return self._now() - before

    def _now(self) -> float:
        if self.device.type == "cpu":
            return time.process_time()
        torch.accelerator.synchronize()
        return time.perf_counter()

    def gigabytes_of(self, work: Callable[[], Any]) -> float | None:
        """Peak memory of the work beyond what was allocated before; `None` if it cannot be measured."""
        if self.device.type != "cpu":
            torch.accelerator.reset_peak_memory_stats()
            before = torch.accelerator.memory_allocated()
            work()
            return (torch.accelerator.max_memory_allocated() - before) / 1e9
        reset = Path("/proc/self/clear_refs")
        if not reset.is_file():
            return None
        with suppress(OSError):
            ctypes.CDLL("libc.so.6").malloc_trim(0)  # memory that is free but kept would not count when reused
        reset.write_text("5")  # resets the peak of the resident memory
        before = resident_gigabytes("VmRSS")
        work()
        return resident_gigabytes("VmHWM") - before


def resident_gigabytes(name: str) -> float:
    lines = Path("/proc/self/status").read_text(encoding="utf-8").splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith(name)) * 1024 / 1e9


def lengths_of_clips(num_clips: int, num_frames: int) -> list[int]:
    """From the longest to the shortest, spread as in a batch of PHOENIX14T; all are scaled by one factor."""
    places = np.linspace(1, 0, num_clips)
    lengths = np.interp(places, np.linspace(0, 1, len(LENGTHS_IN_BATCH)), LENGTHS_IN_BATCH)
    return [max(round(num_frames * length / LENGTHS_IN_BATCH[-1]), 1) for length in lengths]


def corpus_of(lengths: Sequence[int], arguments: BenchmarkArguments) -> Corpus:
    folder = Path(arguments.output_dir) / "-".join(map(str, lengths))
    return make_corpus(folder, lengths, np.random.default_rng([arguments.seed, *lengths]))


class PlainModel(nn.Module):
    """torchvision's ResNet-18 on every frame, padding included, then K5 P2 K5 P2 and Light-T."""

    def __init__(self, translator: FLaLLMForTranslation):
        super().__init__()
        self.backbone = torchvision.models.resnet18(weights=None)
        self.backbone.fc = nn.Identity()
        blocks = [nn.Conv1d(512, 512, 5, padding=2), nn.BatchNorm1d(512), nn.ReLU(), nn.MaxPool1d(2)]
        self.temporal = nn.Sequential(*blocks, *copy.deepcopy(blocks))
        self.translator = translator
        translator.vision_model.requires_grad_(False)  # replaced by the one above

    def forward(self, frames: torch.Tensor, labels: torch.Tensor) -> Any:
        """`frames` are `(batch, frames, 3, height, width)`, padded with zeros."""
        features = self.backbone(frames.flatten(0, 1)).view(*frames.shape[:2], -1)
        tokens = self.temporal(features.transpose(1, 2)).transpose(1, 2)
        return self.translator(visual_features=tokens, labels=labels)


@dataclass(frozen=True)
class Way:
    """How a step is done. What is off is done in the usual way."""

    title: str
    plain: bool = False
    frame_sampling_rate: float = 0.25
    bf16: bool = computes_in_bfloat16(default_device())
    channels_last: bool = True
    packed: bool = True
    fused: bool = True
    frames_per_chunk: int | None = None
    gradient_checkpointing: bool = False
    compiled: bool = False


def ways_of(arguments: BenchmarkArguments) -> dict[str, Way]:
    ours = Way("**ours**, a quarter of the frames")
    plain = Way("plain baseline, all frames", plain=True, frame_sampling_rate=1.0, bf16=False, fused=False)
    chunk = arguments.frames_per_chunk
    ways = {
        "plain": plain,
        "plain quarter": dataclasses.replace(
            plain, title="plain baseline, a quarter of the frames", frame_sampling_rate=0.25
        ),
        "all frames": dataclasses.replace(ours, title="**ours**, all frames", frame_sampling_rate=1.0),
        "chunks": dataclasses.replace(
            ours,
            title=f"ours, all frames, `--frames_per_chunk {chunk}`",
            frame_sampling_rate=1.0,
            frames_per_chunk=chunk,
        ),
        "checkpointing": dataclasses.replace(
            ours,
            title="ours, all frames, `--gradient_checkpointing True`",
            frame_sampling_rate=1.0,
            gradient_checkpointing=True,
        ),
        "ours": ours,
        "fp32": dataclasses.replace(ours, title="ours, a quarter, without `--bf16 True`", bf16=False),
        "nchw": dataclasses.replace(ours, title="ours, a quarter, NCHW", channels_last=False),
        "padded": dataclasses.replace(ours, title="ours, a quarter, padding through the CNN", packed=False),
        "not fused": dataclasses.replace(ours, title="ours, a quarter, SGD not fused", fused=False),
    }
    if arguments.compile:
        ways["compiled"] = dataclasses.replace(ours, title="ours, a quarter, CNN compiled", compiled=True)
    return ways


class Stage1:
    """A step of the optimiser on one batch, in one way, with its own model."""

    def __init__(self, way: Way, corpus: Corpus, machine: Machine, seed: int):
        self.way = way
        self.corpus = corpus
        self.machine = machine
        torch.manual_seed(seed)
        folder = corpus.folder / "tokenizer"
        train_tokenizer(corpus.sentences, 400).save_pretrained(folder)
        video = VideoArguments(frame_sampling_rate=way.frame_sampling_rate)
        translator, _ = build_model(VisualInitialingArguments(tokenizer_name_or_path=str(folder)), video)
        translator.text_model.resize_token_embeddings(VOCABULARY_SIZE, mean_resizing=False)
        self.model = (PlainModel(translator) if way.plain else set_up(translator, way)).to(machine.device).train()
        self.processor = build_processor(video, train_tokenizer(corpus.sentences, 400))
        self.inputs_of = self._plain_inputs() if way.plain else self._our_inputs(video)
        trained = [parameter for parameter in self.model.parameters() if parameter.requires_grad]
        self.optimizer = torch.optim.SGD(trained, lr=LEARNING_RATE, momentum=0.9, fused=way.fused)

    def _plain_inputs(self) -> Callable[[Sequence[int]], Inputs]:
        read = FrameByFrame(self.way.frame_sampling_rate)

        def inputs_of(numbers: Sequence[int]) -> Inputs:
            frames = [read((Path(), self.corpus.pictures[number])) for number in numbers]
            labels = self.processor(text_target=[self.corpus.sentences[number] for number in numbers])["labels"]
            return {"frames": pad_sequence(frames, batch_first=True), "labels": labels}

        return inputs_of

    def _our_inputs(self, video: VideoArguments) -> Callable[[Sequence[int]], Inputs]:
        clips = SignClipDataset(
            load_split(DataArguments([str(self.corpus.folder)]), "train"),
            self.processor,
            augmentation=ClipAugmentation(AugmentationArguments(), video),
        )
        collator = TranslationCollator(self.processor)
        return lambda numbers: collator([clips[number] for number in numbers])

    @property
    def num_frames(self) -> int:
        """Frames of the step without padding."""
        sample = FrameByFrame(self.way.frame_sampling_rate).sample
        return sum(len(sample(len(pictures))) for pictures in self.corpus.pictures)

    def read(self, num_clips: int) -> Inputs:
        return {name: value.to(self.machine.device) for name, value in self.inputs_of(range(num_clips)).items()}

    def step(self, num_clips: int) -> None:
        inputs = self.read(num_clips)
        with torch.autocast(self.machine.device.type, torch.bfloat16, enabled=self.way.bf16):
            loss = self.model(**inputs).loss
        loss.backward()
        self.optimizer.step()
        self.optimizer.zero_grad()

    def warm_up(self) -> None:
        self.step(1)

    def run(self) -> None:
        self.step(len(self.corpus.pictures))

    def only_read(self) -> None:
        self.read(len(self.corpus.pictures))


def set_up(model: FLaLLMForTranslation, way: Way) -> FLaLLMForTranslation:
    encoder = model.vision_model
    if way.channels_last:
        encoder.backbone.to(memory_format=torch.channels_last)
    else:
        encoder._encode_chunk = partial(encode_in_nchw, encoder)
    if not way.packed:
        encoder._encode_frames = partial(encode_padding_too, encoder)
    if way.gradient_checkpointing:
        # transformers 5.23 renamed it
        getattr(model, "activation_checkpointing_enable", model.gradient_checkpointing_enable)()
    if way.compiled:
        encoder.backbone.compile(dynamic=True)
    encoder.frames_per_chunk = way.frames_per_chunk
    return model


def encode_in_nchw(encoder: FLaLLMVisionModel, pixels: torch.Tensor, places: torch.Tensor) -> torch.Tensor:
    return encoder.backbone(pixels[places[:, 0], places[:, 1]])


def encode_padding_too(encoder: FLaLLMVisionModel, pixels: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
    features = encoder._encode_chunk(pixels, torch.ones_like(mask).nonzero())
    return features.view(*mask.shape, -1)[mask]


def measure_ways(corpus: Corpus, arguments: BenchmarkArguments, machine: Machine) -> dict[str, Any]:
    """Seconds of the steps of each way, a value for each round, and the memory of one."""
    steps = {name: Stage1(way, corpus, machine, arguments.seed) for name, way in ways_of(arguments).items()}
    results = {}
    for name, step in steps.items():
        step.warm_up()
        gigabytes = machine.gigabytes_of(step.run)
        facts = {"title": step.way.title, "num_frames": step.num_frames, "num_clips": arguments.num_clips}
        results[name] = {**facts, "gigabytes": gigabytes, "seconds": [], "seconds_of_reading": []}
    for _ in range(arguments.num_rounds):
        for name, step in steps.items():
            results[name]["seconds"].append(machine.seconds_of(step.run))
            results[name]["seconds_of_reading"].append(machine.seconds_of(step.only_read))
            print(f"{step.way.title}: {results[name]['seconds'][-1]:.2f} s", flush=True)
    return results


def folded(backbone: nn.Module) -> nn.Module:
    """A copy in which each BatchNorm is part of the convolution before it, for evaluation."""
    backbone = copy.deepcopy(backbone)
    blocks = [block for index in range(1, 5) for block in getattr(backbone, f"layer{index}")]
    for module in (backbone, *blocks):
        for number in (1, 2):
            if hasattr(module, f"conv{number}"):
                convolution, norm = getattr(module, f"conv{number}"), getattr(module, f"bn{number}")
                setattr(module, f"conv{number}", fuse_conv_bn_eval(convolution, norm))
                setattr(module, f"bn{number}", nn.Identity())
    for block in blocks:
        if block.downsample is not None:
            block.downsample = fuse_conv_bn_eval(*block.downsample)
    return backbone.to(memory_format=torch.channels_last)


def measure_forward(arguments: BenchmarkArguments, machine: Machine) -> dict[str, Any]:
    """The CNN without gradient, beside products of large matrices in the same precision."""
    encoder = FLaLLMVisionModel(FLaLLMVisionConfig()).to(machine.device).eval()
    backbone = encoder.backbone.to(memory_format=torch.channels_last)
    networks = {"as it is": backbone, "BatchNorm folded": folded(backbone)}
    if arguments.compile:
        networks["compiled"] = torch.compile(backbone, dynamic=True)
    crop_size = VideoArguments().crop_size
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        backbone(torch.zeros(1, 3, crop_size, crop_size, device=machine.device))
    rows = [
        forward_row(networks, num_frames, precision, counter.get_total_flops(), arguments, machine)
        for precision in ("bfloat16", "float32")
        for num_frames in arguments.frames_per_call
    ]
    return {"flops_of_a_frame": counter.get_total_flops(), "rows": rows}


@torch.no_grad()
def forward_row(
    networks: Mapping[str, nn.Module],
    num_frames: int,
    precision: str,
    flops_of_a_frame: int,
    arguments: BenchmarkArguments,
    machine: Machine,
) -> dict[str, Any]:
    """GFLOP/s of each network and of the product of matrices, a value for each round."""
    crop_size = VideoArguments().crop_size
    frames = torch.randn(num_frames, 3, crop_size, crop_size, device=machine.device)
    frames = frames.contiguous(memory_format=torch.channels_last)
    matrices = torch.randn(2, arguments.matrix_size, arguments.matrix_size, device=machine.device)
    matrices = matrices.to(getattr(torch, precision))
    work = {"matrices": (lambda: matrices[0] @ matrices[1], 2 * arguments.matrix_size**3)}
    for name, network in networks.items():
        work[name] = (partial(network, frames), flops_of_a_frame * num_frames)
    rates: dict[str, list[float]] = {name: [] for name in work}
    with torch.autocast(machine.device.type, torch.bfloat16, enabled=precision == "bfloat16"):
        for number in range(arguments.num_rounds + 1):
            for name, (call, flops) in work.items():
                seconds = machine.seconds_of(call)
                if number > 0:
                    rates[name].append(flops / seconds / 1e9)
    row = {"precision": precision, "num_frames": num_frames, "gigaflops": rates}
    print(format_forward_row(row, flops_of_a_frame), flush=True)
    return row


def measure_growth(arguments: BenchmarkArguments, machine: Machine) -> list[dict[str, Any]]:
    """A step of ours with more frames in each clip, and with more clips."""
    rows = []
    for multiple in MULTIPLES:
        for kind, num_clips, num_frames in (
            ("frames", 1, multiple * arguments.num_frames),
            ("clips", multiple, arguments.num_frames),
        ):
            corpus = corpus_of([num_frames] * num_clips, arguments)
            step = Stage1(Way(""), corpus, machine, arguments.seed)
            step.warm_up()
            seconds = [machine.seconds_of(step.run) for _ in range(arguments.num_rounds)]
            rows.append({"kind": kind, "multiple": multiple, "num_frames": step.num_frames, "seconds": seconds})
            print(f"{multiple} times the {kind}: {statistics.median(seconds):.2f} s", flush=True)
    return rows


def measure_optimizers(arguments: BenchmarkArguments, machine: Machine) -> dict[str, dict[str, list[float]]]:
    """Milliseconds of a step of each optimiser on as many numbers as stage 1 has, a value for each round."""
    parameters = [nn.Parameter(torch.randn(512, 512, device=machine.device)) for _ in range(100)]
    for parameter in parameters:
        parameter.grad = torch.randn_like(parameter)
    results = {}
    for name, build in (("SGD", partial(torch.optim.SGD, momentum=0.9)), ("AdamW", torch.optim.AdamW)):
        optimizers = {
            form: build(parameters, lr=LEARNING_RATE, fused=form == "fused") for form in ("fused", "not fused")
        }
        results[name] = {form: [] for form in optimizers}
        for number in range(arguments.num_rounds + 1):
            for form, optimizer in optimizers.items():
                seconds = machine.seconds_of(optimizer.step)
                if number > 0:
                    results[name][form].append(seconds * 1e3)
    return results


def measure(arguments: BenchmarkArguments) -> dict[str, Any]:
    machine = Machine()
    lengths = lengths_of_clips(arguments.num_clips, arguments.num_frames)
    names = (
        "num_clips",
        "num_frames",
        "num_rounds",
        "frames_per_chunk",
        "frames_per_call",
        "matrix_size",
        "compile",
        "seed",
    )
    corpus = corpus_of(lengths, arguments)
    return {
        "arguments": {name: getattr(arguments, name) for name in names},
        "machine": machine.description,
        "lengths": lengths,
        "forward": measure_forward(arguments, machine),
        "optimizers": measure_optimizers(arguments, machine),
        "growth": measure_growth(arguments, machine),
        "ways": measure_ways(corpus, arguments, machine),
    }


def rate(way: Mapping[str, Any], unit: str) -> float:
    """Median of `num_frames` or `num_clips` a second."""
    return statistics.median(way[unit] / seconds for seconds in way["seconds"])


def ratio(way: Mapping[str, Any], other: Mapping[str, Any], unit: str) -> float:
    """Median of the rounds' own ratios."""
    pairs = zip(way["seconds"], other["seconds"], strict=True)
    return statistics.median((way[unit] / seconds) / (other[unit] / other_seconds) for seconds, other_seconds in pairs)


def format_ways(ways: Mapping[str, Any]) -> list[str]:
    lines = [
        "| a step of stage 1 | frames/s | to the baseline | clips/s | to the baseline | reading | memory, GB |",
        "| --- | --- | --- | --- | --- | --- | --- |",
    ]
    for way in ways.values():
        cells = [f"{rate(way, 'num_frames'):.1f}", f"{ratio(way, ways['plain'], 'num_frames'):.1f}"]
        cells += [f"{rate(way, 'num_clips'):.2f}", f"{ratio(way, ways['plain'], 'num_clips'):.1f}"]
        pairs = zip(way["seconds_of_reading"], way["seconds"], strict=True)
        cells += [f"{statistics.median(reading / whole for reading, whole in pairs):.0%}"]
        cells += ["unknown" if way["gigabytes"] is None else f"{way['gigabytes']:.2f}"]
        lines.append(f"| {way['title']} | {' | '.join(cells)} |")
    return lines


def format_forward_row(row: Mapping[str, Any], flops_of_a_frame: int) -> str:
    medians = {name: statistics.median(values) for name, values in row["gigaflops"].items()}
    cells = [row["precision"], str(row["num_frames"]), f"{medians.pop('matrices'):,.0f}"]
    for name, values in medians.items():
        pairs = zip(row["gigaflops"][name], row["gigaflops"]["matrices"], strict=True)
        share = statistics.median(own / of_matrices for own, of_matrices in pairs)
        cells.append(f"{values * 1e9 / flops_of_a_frame:.0f} ({share:.0%})")
    return f"| {' | '.join(cells)} |"


def format_forward(forward: Mapping[str, Any]) -> list[str]:
    names = [name for name in forward["rows"][0]["gigaflops"] if name != "matrices"]
    titles = ["precision", "frames a call", "matrices, GFLOP/s", *(f"{name}, frames/s (share)" for name in names)]
    return [
        f"The CNN alone, without gradient, {forward['flops_of_a_frame'] / 1e9:.2f} GFLOP a frame. The share is of the "
        "machine's own rate for products of large matrices in that precision, measured in turns:",
        "",
        f"| {' | '.join(titles)} |",
        f"| {' | '.join(['---'] * len(titles))} |",
        *(format_forward_row(row, forward["flops_of_a_frame"]) for row in forward["rows"]),
    ]


def format_growth(rows: Sequence[Mapping[str, Any]]) -> list[str]:
    lines = ["| a step of ours | frames kept | seconds | milliseconds a frame |", "| --- | --- | --- | --- |"]
    for kind in ("frames", "clips"):
        for row in (row for row in rows if row["kind"] == kind):
            seconds = statistics.median(row["seconds"])
            cells = [f"{row['multiple']} times the {kind}", str(row["num_frames"]), f"{seconds:.2f}"]
            lines.append(f"| {' | '.join(cells)} | {seconds / row['num_frames'] * 1e3:.0f} |")
    return lines


def format_optimizers(optimizers: Mapping[str, Mapping[str, Sequence[float]]]) -> list[str]:
    lines = ["| a step of the optimiser, 26 million numbers | fused, ms | not fused, ms |", "| --- | --- | --- |"]
    for name, forms in optimizers.items():
        cells = [f"{statistics.median(forms[form]):.0f}" for form in ("fused", "not fused")]
        lines.append(f"| {name} | {' | '.join(cells)} |")
    return lines


def format_report(report: Mapping[str, Any]) -> str:
    """Command, machine and tables in Markdown."""
    values, ways = report["arguments"], report["ways"]
    lengths = report["lengths"]
    padding = 1 - sum(lengths) / (max(lengths) * len(lengths))
    frames = ratio(ways["all frames"], ways["plain"], "num_frames")
    clips = [ratio(ways["ours"], ways[name], "num_clips") for name in ("plain", "plain quarter")]
    lines = [
        f"Clips of {', '.join(map(str, lengths))} frames ({WIDTH} x {HEIGHT}, mp4 and PNG) in each step; {padding:.0%} "
        f"of their batch is padding, which counts nowhere as frames. Medians of {values['num_rounds']} rounds on "
        f"{report['machine']}:",
        "",
        f"    {command_line('visual_initialing.py', values)}",
        "",
        f"With all frames ours trains **{frames:.1f} times** the frames a second of the plain baseline. With a quarter "
        f"of the frames it trains **{clips[0]:.1f} times** its clips a second, and {clips[1]:.1f} times those of the "
        "baseline with a quarter.",
        "",
        *format_ways(ways),
        "",
        *format_forward(report["forward"]),
        "",
        *format_growth(report["growth"]),
        "",
        *format_optimizers(report["optimizers"]),
    ]
    return "\n".join(lines)


def main(argv: Sequence[str] | None = None) -> int:
    return run_benchmark(argv, BenchmarkArguments, "Stage 1 switch by switch.", measure, format_report, TABLE_START)


if __name__ == "__main__":
    sys.exit(main())
