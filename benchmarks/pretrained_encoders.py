"""
Two training steps of FLa-LLM's stage 2 with image and video models of transformers in their real sizes, on a CPU.

    python benchmarks/pretrained_encoders.py --output_dir outputs/pretrained_encoders

Each row is one process: random weights in the shape of the named model, one random clip, a linear layer and a temporal
module behind the encoder, and a text model in the shape of Flan-T5 base with low-rank adapters, all in float32. Written
are the seconds of the second step, which includes the optimiser's, and the peak resident memory of the process. The
table of docs/pretrained-encoders.md and its figures (.json) are written at the end; `--report_only True` writes them
again.
"""

import json
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
import transformers
from benchmark_parts import DOCS, measure_and_report, processor_name
from peak_memory import peak_resident_bytes
from peft import LoraConfig, get_peft_model
from transformers import CLIPVisionConfig, Dinov2Config, PreTrainedConfig, T5Config, VideoMAEConfig

from modeling_flallm import FLaLLMConfig, FLaLLMForTranslation
from modeling_flallm.configuration_encoder_combined_slt import TemporalConfig
from modeling_flallm.configuration_encoder_pretrained_slt import PretrainedVisionConfig
from train_scripts.arguments.command_line import run_command
from train_scripts.arguments.dataclass_parser import parse_arguments

PAGE = DOCS / "pretrained-encoders.md"
TABLE_START = "<!-- written by benchmarks/pretrained_encoders.py -->"
GIGABYTE = 1e9
NUM_STEPS = 2
LABELS_OF_SENTENCE = 20
IMAGE_SIZE = 224
TEXT_MODEL = {  # google/flan-t5-base
    "d_model": 768,
    "d_kv": 64,
    "d_ff": 2048,
    "num_layers": 12,
    "num_heads": 12,
    "vocab_size": 32128,
    "feed_forward_proj": "gated-gelu",
    "tie_word_embeddings": False,
    "decoder_start_token_id": 0,
}
SHAPES: dict[str, Callable[[], PreTrainedConfig]] = {
    "facebook/dinov2-small": lambda: Dinov2Config(
        hidden_size=384, num_attention_heads=6, num_hidden_layers=12, patch_size=14, image_size=518
    ),
    "openai/clip-vit-large-patch14": lambda: CLIPVisionConfig(
        hidden_size=1024,
        intermediate_size=4096,
        num_attention_heads=16,
        num_hidden_layers=24,
        patch_size=14,
        projection_dim=768,
    ),
    "MCG-NJU/videomae-base": lambda: VideoMAEConfig(),
}


@dataclass(frozen=True)
class Row:
    """A model, whether it is trained, and if so the frames that go through it at a time."""

    shape: str
    is_trained: bool = False
    frames_per_chunk: int = 16


ROWS = (
    Row("facebook/dinov2-small"),
    Row("facebook/dinov2-small", is_trained=True, frames_per_chunk=4),
    Row("openai/clip-vit-large-patch14"),
    Row("openai/clip-vit-large-patch14", is_trained=True, frames_per_chunk=4),
    Row("MCG-NJU/videomae-base"),
    Row("MCG-NJU/videomae-base", is_trained=True),
)


@dataclass
class BenchmarkArguments:
    """What is measured."""

    output_dir: str = field(default="outputs/pretrained_encoders", metadata={"help": "Folder of the results."})
    report: str = field(default=str(PAGE), metadata={"help": "Page to write; figures land beside it."})
    report_only: bool = field(default=False, metadata={"help": "Measure nothing, report what there is."})
    num_frames: int = field(default=16, metadata={"help": "Frames of the clip."})
    measure_row: int | None = field(
        default=None, metadata={"help": "Only this row, in this process; prints its figures."}
    )

    def __post_init__(self):
        if self.num_frames < 1:
            raise ValueError(f"--num_frames must be 1 or more, got {self.num_frames}.")


def build_model(row: Row) -> torch.nn.Module:
    """In training mode, with a gradient for the parts that the row trains and the low-rank adapters."""
    encoder = PretrainedVisionConfig(backbone_config=SHAPES[row.shape](), image_size=IMAGE_SIZE)
    vision = TemporalConfig(encoder_config=encoder, projection_size=768, temporal_blocks=["K5"])
    model = FLaLLMForTranslation(FLaLLMConfig(vision_config=vision, text_config=T5Config(**TEXT_MODEL)))
    if row.is_trained:
        backbone = model.vision_model.encoder.backbone
        # transformers 5.23 renamed it
        getattr(backbone, "activation_checkpointing_enable", backbone.gradient_checkpointing_enable)()
    else:
        model.vision_model.encoder.freeze()
    model.vision_model.frames_per_chunk = row.frames_per_chunk
    return get_peft_model(model, LoraConfig(r=16, **model.get_lora_settings())).train()


def measure_steps(row: Row, num_frames: int) -> dict[str, float]:
    """The seconds of the last step, the peak resident memory in gigabytes and the trained parameters in millions."""
    model = build_model(row)
    trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
    optimizer = torch.optim.AdamW(trained, lr=1e-4)
    pixels = torch.randn(1, num_frames, 3, IMAGE_SIZE, IMAGE_SIZE)
    labels = torch.randint(2, TEXT_MODEL["vocab_size"], (1, LABELS_OF_SENTENCE))
    for _ in range(NUM_STEPS):
        start = time.perf_counter()
        model(pixel_values_videos=pixels, labels=labels).loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        seconds = time.perf_counter() - start
    return {
        "seconds": seconds,
        "gigabytes": peak_resident_bytes() / GIGABYTE,
        "trained": sum(parameter.numel() for parameter in trained) / 1e6,
        "encoder": sum(parameter.numel() for parameter in model.vision_model.encoder.parameters()) / 1e6,
    }


def measure_in_fresh_process(number: int, num_frames: int) -> dict[str, float]:
    command = [sys.executable, __file__, "--measure_row", str(number), "--num_frames", str(num_frames)]
    finished = subprocess.run(command, capture_output=True, text=True, check=False)
    if finished.returncode != 0:
        raise ValueError(f"Measuring row {number} failed:\n{finished.stderr}")
    return json.loads(finished.stdout.splitlines()[-1])


def measure(arguments: BenchmarkArguments) -> dict[str, Any]:
    report = {
        "machine": f"{processor_name()}, {torch.get_num_threads()} threads, torch {torch.__version__}, "
        f"transformers {transformers.__version__}",
        "num_frames": arguments.num_frames,
        "rows": [],
    }
    for number, row in enumerate(ROWS):
        report["rows"].append({**vars(row), **measure_in_fresh_process(number, arguments.num_frames)})
        print(report["rows"][-1], flush=True)
    return report


def format_row(row: Mapping[str, Any]) -> str:
    training = "frozen"
    if row["is_trained"]:
        training = f"trained, gradient checkpointing, {row['frames_per_chunk']} frames per chunk"
    return (
        f"| `{row['shape']}` | {row['encoder']:.0f} M | {training} | {row['trained']:.0f} M | {row['seconds']:.1f} | "
        f"{row['gigabytes']:.1f} GB |"
    )


def format_report(report: Mapping[str, Any]) -> str:
    """The command and a table in Markdown."""
    return "\n".join(
        [
            f"One clip of {report['num_frames']} frames of {IMAGE_SIZE} x {IMAGE_SIZE} pixels in float32, on "
            f"{report['machine']}:",
            "",
            "    python benchmarks/pretrained_encoders.py",
            "",
            "| shape of | weights | encoder | trained weights | seconds per step | peak memory |",
            "| --- | --- | --- | --- | --- | --- |",
            *map(format_row, report["rows"]),
        ]
    )


def run(argv: Sequence[str] | None = None) -> None:
    (arguments,) = parse_arguments((BenchmarkArguments,), argv, description="Steps with pretrained encoders.")
    if arguments.measure_row is not None:
        print(json.dumps(measure_steps(ROWS[arguments.measure_row], arguments.num_frames)))
        return
    measure_and_report(arguments, measure, format_report, TABLE_START)


def main(argv: Sequence[str] | None = None) -> int:
    return run_command(run, argv)


if __name__ == "__main__":
    sys.exit(main())
