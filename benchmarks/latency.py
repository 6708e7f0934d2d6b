"""
How long a sentence takes: a clip of 6.6 seconds as a file, and frame by frame as from a camera.

    python benchmarks/latency.py

Weights are random, and the signer is drawn. Models with random weights never stop, so each sentence gets the same
number of tokens. Each row is a process of its own, on so many cores: from its start to the first sentence (cold), then
the seconds of each part when all is warm, then the stream, with frames that come at 25 per second. Exported models run
in onnxruntime, which cannot be told to do without AVX-512, and do not stream. The page docs/latency.md and its figures
are written at the end; `--report_only True` writes them again from existing results. The last line that it prints is
JSON. A small run, in half a minute:

    python benchmarks/latency.py --output_dir outputs/tiny_latency --report outputs/tiny_latency/page.md \
        --models small --runtimes torch --cores 1 --num_frames 50 --num_tokens 3 --num_rounds 1
"""

import copy
import json
import os
import shutil
import statistics
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from benchmark_parts import (
    DOCS,
    HEIGHT,
    WIDTH,
    check_counts,
    command_line,
    processor_name,
    run_benchmark,
    write_mp4,
)
from feature_cache import TEXT_MODELS
from latency_process import FRAMES_PER_SECOND, RUNTIMES
from numpy.random import Generator, default_rng
from transformers import MBartConfig, pipeline

from modeling_flallm import FLaLLMConfig, FLaLLMForTranslation, FLaLLMVisionConfig
from train_scripts.arguments.data_arguments import VideoArguments
from train_scripts.arguments.flag_values import DTYPES
from train_scripts.commands.export_model import export
from train_scripts.rendered_corpus.signers import create_signer
from train_scripts.rendered_corpus.signing_language import SIGNS_BY_GLOSS
from train_scripts.rendered_corpus.signing_renderer import plan_hands, render_clip
from train_scripts.runs.tokenizers import train_tokenizer
from train_scripts.runs.training import build_processor

PAGE = DOCS / "latency.md"
TABLE_START = "<!-- written by benchmarks/latency.py -->"
DEVICES = ("cpu", "cuda")
PROCESS = Path(__file__).with_name("latency_process.py")
# Most processors have no AVX-512: one that has behaves like one without.
AS_MOST_PROCESSORS = {
    "ONEDNN_MAX_CPU_ISA": "AVX2",
    "ATEN_CPU_CAPABILITY": "avx2",
    "MKL_ENABLE_INSTRUCTIONS": "AVX2",
}


@dataclass(frozen=True)
class ModelSize:
    """A key of `TEXT_MODELS`, the rest of the model, its beams, and the pixels of a frame before and after the crop."""

    title: str
    text_model: str
    vision: dict[str, Any]
    num_beams: int
    frame_size: int
    crop_size: int


MODELS = {
    # As the presets: paper_llm_fine_tuning.yaml and quickstart_llm_fine_tuning.yaml.
    "paper_sized": ModelSize(
        "paper-sized: ResNet-18 at 224 px, mBART-large", "12+12 layers", {"hidden_size": 512}, 5, 256, 224
    ),
    "small": ModelSize(
        "of the quickstart, at 64 px",
        "small",
        {"hidden_size": 192, "backbone_width": 16, "subtract_mean_frame": True},
        4,
        72,
        64,
    ),
}


@dataclass
class BenchmarkArguments:
    """How much is measured."""

    output_dir: str = field(default="outputs/latency", metadata={"help": "Folder of the clip, models and results."})
    report: str = field(default=str(PAGE), metadata={"help": "Page to write; figures land beside it."})
    report_only: bool = field(default=False, metadata={"help": "Measure nothing, report what there is."})
    models: list[str] = field(default_factory=lambda: list(MODELS), metadata={"help": f"Of {', '.join(MODELS)}."})
    runtimes: list[str] = field(
        default_factory=lambda: list(RUNTIMES),
        metadata={"help": f"Of {', '.join(RUNTIMES)}, which needs flallm[export]."},
    )
    cores: list[int] = field(default_factory=lambda: [1, 2], metadata={"help": "Cores of each process."})
    device: str = field(default="cpu", metadata={"help": "Of models in torch.", "choices": DEVICES})
    dtype: str = field(default="float32", metadata={"help": "Precision of models in torch.", "choices": DTYPES})
    num_frames: int = field(default=165, metadata={"help": "Frames of the clip, 25 per second."})
    num_tokens: int = field(default=20, metadata={"help": "Tokens of a sentence."})
    num_rounds: int = field(default=3, metadata={"help": "Warm sentences, and streams, of each process."})
    seed: int = field(default=0, metadata={"help": "Seed of clip and weights."})

    def __post_init__(self):
        for flag, names, known in (("--models", self.models, MODELS), ("--runtimes", self.runtimes, RUNTIMES)):
            unknown = [name for name in names if name not in known]
            if unknown:
                raise ValueError(f"{flag} must be of {', '.join(map(repr, known))}, got {unknown[0]!r}.")
        if min(self.cores) < 1:
            raise ValueError(f"--cores must be 1 or more, got {min(self.cores)}.")
        check_counts(self, "num_frames", "num_tokens", "num_rounds")
        if self.device != "cpu" and self.runtimes != ["torch"]:
            raise ValueError(f"--device {self.device} is for models in torch alone: pass --runtimes torch.")


def save_model(name: str, folder: Path, arguments: BenchmarkArguments) -> int:
    """Save a pipeline with random weights -> the number of its parameters"""
    size = MODELS[name]
    torch.manual_seed(arguments.seed)
    words = " ".join(f"w{number}" for number in range(60))
    video = VideoArguments(frame_size=size.frame_size, crop_size=size.crop_size)
    processor = build_processor(video, train_tokenizer([words], 400))
    layers, width, feed_forward, heads, vocabulary = TEXT_MODELS[size.text_model]
    sizes = {"layers": layers, "ffn_dim": feed_forward, "attention_heads": heads}
    text_config = MBartConfig(
        **{f"{side}_{part}": value for side in ("encoder", "decoder") for part, value in sizes.items()},
        d_model=width,
        vocab_size=max(vocabulary, len(processor.tokenizer)),
        pad_token_id=processor.tokenizer.pad_token_id,
        bos_token_id=processor.tokenizer.bos_token_id,
        eos_token_id=processor.tokenizer.eos_token_id,
        decoder_start_token_id=processor.tokenizer.eos_token_id,
    )
    vision_config = FLaLLMVisionConfig(**size.vision, temporal_blocks=["K5"])
    config = FLaLLMConfig(vision_config=vision_config, text_config=text_config, adapter_hidden_size=width)
    model = FLaLLMForTranslation(config).eval()
    num_tokens = arguments.num_tokens
    model.generation_config.update(num_beams=size.num_beams, min_new_tokens=num_tokens, max_new_tokens=num_tokens)
    # So that there are words to see, without a list of suppressed tokens, which real models do not have.
    are_words = torch.zeros(text_config.vocab_size, dtype=torch.bool)
    are_words[: len(processor.tokenizer)] = True
    are_words[processor.tokenizer.all_special_ids] = False
    model.get_text_model().final_logits_bias[:, ~are_words] = -1e4
    pipeline("sign-language-translation", model=model, processor=processor, device="cpu").save_pretrained(folder)
    return sum(parameter.numel() for parameter in model.parameters())


def signed_clip(num_frames: int, generator: Generator) -> np.ndarray:
    """
    -> uint8 `(frames, height, width, 3)`: a drawn signer, who begins and ends with the hands at rest; as many signs as
    fill the time, and these a little faster, so that they end in the last frame.
    """
    signer = create_signer("signer", skin_tone=0.5, is_left_handed=False, random_generator=generator)
    recording = replace(signer.recording, frames_per_second=FRAMES_PER_SECOND, moving_thing=None)
    signer = replace(signer, recordings=(recording,))
    glosses = list(SIGNS_BY_GLOSS)
    num_signs = next(
        number
        for number in range(1, len(glosses))
        if len(plan_hands(glosses[:number], signer, copy.deepcopy(generator))) >= 1.1 * num_frames
    )
    frames = render_clip(glosses[:num_signs], signer, HEIGHT, generator)
    left = (HEIGHT - WIDTH) // 2
    return frames[np.linspace(0, len(frames) - 1, num_frames).round().astype(int), :, left : left + WIDTH]


def measure(arguments: BenchmarkArguments) -> dict[str, Any]:
    output_dir = Path(arguments.output_dir)
    video = output_dir / "clip.mp4"
    write_mp4(video, signed_clip(arguments.num_frames, default_rng(arguments.seed)))
    num_parameters, rows = {}, []
    for name in arguments.models:
        folder = output_dir / name
        num_parameters[name] = save_model(name, folder, arguments)
        for runtime in arguments.runtimes:
            source = folder if runtime == "torch" else export_model(folder, output_dir / f"{name}_exported")
            for cores in arguments.cores:
                measured = measure_process(runtime, source, video, cores, arguments)
                rows.append({"model": name, "runtime": runtime, "cores": cores, **measured})
                print(format_row(rows[-1]), flush=True)
    names = ("models", "runtimes", "cores", "device", "dtype", "num_frames", "num_tokens", "num_rounds", "seed")
    gpu = f"{torch.cuda.get_device_name()} beside " if arguments.device == "cuda" else ""
    return {
        "arguments": {name: getattr(arguments, name) for name in names},
        "machine": f"{gpu}{processor_name()} without AVX-512, torch {torch.__version__}",
        "num_parameters": num_parameters,
        "rows": rows,
    }


def export_model(folder: Path, exported: Path) -> Path:
    """As `flallm export` does it, without a model that another run left behind"""
    shutil.rmtree(exported, ignore_errors=True)
    export(["--model", str(folder), "--output_dir", str(exported)])
    return exported


def measure_process(
    runtime: str, folder: Path, video: Path, cores: int, arguments: BenchmarkArguments
) -> dict[str, Any]:
    settings = {"runtime": runtime, "model": str(folder), "video": str(video), "cores": cores}
    settings |= {name: getattr(arguments, name) for name in ("device", "dtype", "num_rounds")}
    settings["started"] = time.time()
    python_path = os.pathsep.join([str(DOCS.parent), os.environ.get("PYTHONPATH", "")])
    done = subprocess.run(
        [sys.executable, str(PROCESS), json.dumps(settings)],
        env=os.environ | AS_MOST_PROCESSORS | {"PYTHONPATH": python_path, "OMP_NUM_THREADS": str(cores)},
        stdout=subprocess.PIPE,
        text=True,
        check=True,
    )
    return json.loads(done.stdout.splitlines()[-1])


def medians(rounds: Sequence[Mapping[str, float]]) -> dict[str, float]:
    return {name: statistics.median(each[name] for each in rounds) for name in (rounds[0] if rounds else ())}


def seconds_of(row: Mapping[str, Any]) -> dict[str, float]:
    """The figures of a row: medians, and `worst_warm`, all in seconds"""
    totals = [sum(parts.values()) for parts in row["warm"]]
    return {
        "cold": sum(row["cold"].values()),
        "load": row["cold"]["load"],
        "warm": statistics.median(totals),
        "worst_warm": max(totals),
        **medians(row["warm"]),
        **medians(row["stream"]),
    }


def format_row(row: Mapping[str, Any]) -> str:
    seconds = seconds_of(row)
    columns = ("cold", "warm", "worst_warm", "decode", "encode", "write", "first_word", "sentence", "final")
    texts = (f"{seconds[name]:.2f}" if name in seconds else "" for name in columns)
    return f"| {row['model']}, {row['runtime']} | {row['cores']} | {' | '.join(texts)} |"


def format_report(report: Mapping[str, Any]) -> str:
    """Command, machine and tables in Markdown."""
    values = report["arguments"]
    length = values["num_frames"] / FRAMES_PER_SECOND
    lines = [f"On {report['machine']}:", "", f"    {command_line('latency.py', values)}", ""]
    for name, number in report["num_parameters"].items():
        size = MODELS[name]
        lines.append(f"- `{name}`: {size.title}, {number / 1e6:,.0f} million parameters, {size.num_beams} beams")
    lines += [
        "",
        f"The clip lasts {length:.1f} s ({values['num_frames']} frames, {WIDTH} x {HEIGHT}, mp4), and a sentence has "
        f"{values['num_tokens']} tokens. Medians of",
        f"{values['num_rounds']} round(s), in seconds:",
        "",
        "| model | cores | cold | warm | worst | decode | encode | write | first word | sentence | final |",
        "| --- | --- | --- | --- | --- | --- | --- | --- | --- | --- | --- |",
        *map(format_row, report["rows"]),
    ]
    return "\n".join(lines)


def summary(report: Mapping[str, Any]) -> dict[str, float]:
    """What the last line says: the figures with the most cores, by model."""
    most = max(report["arguments"]["cores"])
    return {
        f"{row['model']}{'' if row['runtime'] == 'torch' else '_' + row['runtime']}_{name}_seconds": round(seconds, 3)
        for row in report["rows"]
        if row["cores"] == most
        for name, seconds in seconds_of(row).items()
    } | {"clip_seconds": report["arguments"]["num_frames"] / FRAMES_PER_SECOND, "cores": most}


def main(argv: Sequence[str] | None = None) -> int:
    reported: dict[str, Any] = {}

    def format_and_keep(report: Mapping[str, Any]) -> str:
        reported.update(report)
        return format_report(report)

    status = run_benchmark(
        argv, BenchmarkArguments, "How long a sentence takes.", measure, format_and_keep, TABLE_START
    )
    if reported:
        print(json.dumps(summary(reported)))
    return status


if __name__ == "__main__":
    sys.exit(main())
