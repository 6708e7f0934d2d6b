"""
SpaMo's recipe (preset `spamo_llm_fine_tuning`) at its real size, from random weights: how fast its frozen encoders make
features, how long a training step from cached features takes, and the peak memory of both.

    python benchmarks/spamo_at_real_size.py --device cuda

Prints one line for each. CLIP ViT-L/14 at two scales and VideoMAE-L see every frame of 224 (448) pixels; Flan-T5-XL is
trained with low-rank adapters, a temporal module and the visual-text alignment, 16 clips at a time. A run with other
sizes, which takes seconds on a CPU:

    python benchmarks/spamo_at_real_size.py --device cpu --size tiny --num_clips 2 --num_frames 20 --num_steps 1
"""

import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from benchmark_parts import check_counts, processor_name
from peak_memory import peak_resident_bytes
from peft import LoraConfig, get_peft_model
from transformers import CLIPVisionConfig, PreTrainedConfig, T5Config, VideoMAEConfig

from modeling_flallm import (
    FLaLLMConfig,
    FLaLLMForTranslation,
    PretrainedVisionConfig,
    SideBySideConfig,
    TemporalConfig,
)
from train_scripts.arguments.command_line import run_command
from train_scripts.arguments.dataclass_parser import parse_arguments, read_yaml

PRESET = "spamo_llm_fine_tuning"
WORDS_OF_SENTENCE, WORDS_OF_PROMPT = 30, 8
# width, layers, heads and feed-forward width of the image and of the video model, and those of the text model
SIZES: dict[str, tuple[tuple[int, int, int, int], tuple[int, int, int, int]]] = {
    "real": ((1024, 24, 16, 4096), (2048, 24, 32, 5120)),
    "tiny": ((32, 2, 2, 64), (32, 2, 2, 64)),
}


@dataclass
class BenchmarkArguments:
    """How much is measured."""

    device: str = field(default="cuda", metadata={"help": "cuda or cpu."})
    size: str = field(default="real", metadata={"help": f"Of all models: {', '.join(SIZES)}."})
    num_clips: int = field(default=16, metadata={"help": "Clips of a training step."})
    num_frames: int = field(default=116, metadata={"help": "Frames of each clip (PHOENIX14T: 116 on average)."})
    num_steps: int = field(default=5, metadata={"help": "Steps that are measured, after one that is not."})
    seed: int = field(default=0, metadata={"help": "Seed of weights and clips."})

    def __post_init__(self):
        check_counts(self, "num_clips", "num_frames", "num_steps")
        if self.size not in SIZES:
            raise ValueError(f"--size must be {' or '.join(SIZES)}, got {self.size!r}.")


def encoder_config(size: str, recipe: dict[str, Any]) -> TemporalConfig:
    width, layers, heads, feed_forward = SIZES[size][0]
    shape = {
        "hidden_size": width,
        "num_hidden_layers": layers,
        "num_attention_heads": heads,
        "intermediate_size": feed_forward,
        "image_size": recipe["crop_size"],
    }
    images = PretrainedVisionConfig(
        backbone_config=CLIPVisionConfig(patch_size=14, **shape), scales=recipe["vision_scales"]
    )
    windows = PretrainedVisionConfig(
        backbone_config=VideoMAEConfig(patch_size=16, **shape), window_stride=recipe["vision_window_stride"]
    )
    return TemporalConfig(
        encoder_config=SideBySideConfig(encoder_configs=[images, windows]),
        projection_size=recipe["projection_size"],
        temporal_blocks=recipe["temporal_blocks"],
        temporal_norm=recipe["temporal_norm"],
    )


def text_config(size: str) -> PreTrainedConfig:
    """Flan-T5-XL's."""
    width, layers, heads, feed_forward = SIZES[size][1]
    return T5Config(
        d_model=width,
        d_kv=max(width // heads, 1),
        d_ff=feed_forward,
        num_layers=layers,
        num_decoder_layers=layers,
        num_heads=heads,
        feed_forward_proj="gated-gelu",
        tie_word_embeddings=False,
        decoder_start_token_id=0,
    )


def build_model(size: str, recipe: dict[str, Any], device: torch.device) -> torch.nn.Module:
    """Encoder and text model in the precision of autocast; what is trained in float32."""
    config = FLaLLMConfig(
        vision_config=encoder_config(size, recipe),
        text_config=text_config(size),
        adapter_hidden_size=recipe["adapter_hidden_size"],
        adapter_activation=recipe["adapter_activation"],
        label_smoothing=recipe["label_smoothing"],
        visual_text_alignment_weight=recipe["visual_text_alignment_weight"],
        has_prompt=True,
    )
    with device:
        model = FLaLLMForTranslation(config)
    model.vision_model.encoder.freeze()
    model.vision_model.encoder.to(torch.bfloat16)
    model.text_model.to(torch.bfloat16)
    lora = LoraConfig(r=recipe["lora_rank"], lora_alpha=recipe["lora_alpha"], lora_dropout=recipe["lora_dropout"])
    for name, value in model.get_lora_settings().items():
        setattr(lora, name, value)
    return get_peft_model(model, lora)


def seconds_of(work: Callable[[], Any], num_times: int, device: torch.device) -> float:
    """Of one time, after one that is not measured."""
    work()
    _wait(device)
    started = time.perf_counter()
    for _ in range(num_times):
        work()
    _wait(device)
    return (time.perf_counter() - started) / num_times


def _wait(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize()


def start_measuring_memory(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats()


def peak_gib(device: torch.device) -> float:
    used = torch.cuda.max_memory_allocated() if device.type == "cuda" else peak_resident_bytes()
    return used / 2**30


def measure(arguments: BenchmarkArguments) -> None:
    torch.manual_seed(arguments.seed)
    device, recipe = torch.device(arguments.device), read_yaml(PRESET)
    model = build_model(arguments.size, recipe, device)
    name = torch.cuda.get_device_name() if device.type == "cuda" else processor_name()
    millions = sum(parameter.numel() for parameter in model.parameters()) / 1e6
    trained = sum(parameter.numel() for parameter in model.parameters() if parameter.requires_grad) / 1e6
    print(f"{name}, torch {torch.__version__}: {millions:,.0f} million parameters, {trained:,.1f} of them trained")
    features = _measure_features(model.base_model.model.vision_model, arguments, recipe, device)
    _measure_training(model, features, arguments, recipe, device)


def _measure_features(
    encoder: torch.nn.Module, arguments: BenchmarkArguments, recipe: dict[str, Any], device: torch.device
) -> torch.Tensor:
    """-> features of one clip `(1, features, width)`"""
    size = recipe["crop_size"] * max(recipe["vision_scales"])
    frames = torch.randn(1, arguments.num_frames, 3, size, size, device=device, dtype=torch.bfloat16)
    start_measuring_memory(device)
    with torch.no_grad():
        seconds = seconds_of(lambda: encoder.compute_features(pixel_values_videos=frames), arguments.num_steps, device)
        features = encoder.compute_features(pixel_values_videos=frames).last_hidden_state
    rate = arguments.num_frames / seconds
    print(f"features: {rate:,.1f} frames/s, {1 / seconds:,.2f} clips/s, peak {peak_gib(device):.1f} GiB")
    return features


def _measure_training(
    model: torch.nn.Module,
    features: torch.Tensor,
    arguments: BenchmarkArguments,
    recipe: dict[str, Any],
    device: torch.device,
) -> None:
    many = arguments.num_clips
    batch = {
        "visual_features": features.float().expand(many, -1, -1),
        "prompt_ids": torch.randint(3, 1000, (many, WORDS_OF_PROMPT), device=device),
        "labels": torch.randint(3, 1000, (many, WORDS_OF_SENTENCE), device=device),
    }
    trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
    optimizer = torch.optim.AdamW(trained, lr=recipe["learning_rate"], fused=True)
    model.train()

    def step() -> None:
        with torch.autocast(device.type, torch.bfloat16):
            loss = model(**batch).loss
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        if not loss.isfinite():
            raise ValueError("The loss is not finite.")

    start_measuring_memory(device)
    seconds = seconds_of(step, arguments.num_steps, device)
    rate = many / seconds
    print(f"training: {seconds:.3f} s a step of {many} clips, {rate:,.1f} clips/s, peak {peak_gib(device):.1f} GiB")


def main(argv: Sequence[str] | None = None) -> int:
    def run(given: Sequence[str]) -> None:
        (arguments,) = parse_arguments((BenchmarkArguments,), given, description=__doc__)
        measure(arguments)

    return run_command(run, argv)


if __name__ == "__main__":
    sys.exit(main())
