"""
Stage 2 with and without cached features, beside a plain baseline written in the usual way of the field: one PNG file
per frame, resized by PIL, ResNet-18 at 224 px in float32 and NCHW for every clip in every epoch, AdamW not fused.

    python benchmarks/feature_cache.py --output_dir outputs/feature_cache

Weights are random, clips are drawn, and all ways train the same language model on the same sentences. This measures the
processor time of one thread for an optimiser step: reading, encoding, forward, backward, AdamW. The tables of
docs/feature-cache.md and its figures (.json) are written at the end; `--report_only True` writes them again from
existing results. A small run, in under a minute:

    python benchmarks/feature_cache.py --output_dir outputs/tiny --report outputs/tiny/page.md --sizes tiny \
        --num_clips 2 --num_frames 68 --num_steps 1
"""

import shutil
import statistics
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
import torchvision
from benchmark_parts import (
    DOCS,
    HEIGHT,
    WIDTH,
    Corpus,
    check_counts,
    command_line,
    make_corpus,
    processor_name,
    run_benchmark,
)
from decode_and_preprocess import FrameByFrame
from numpy.random import default_rng
from torch import nn
from transformers import MBartConfig

from modeling_flallm import FLaLLMConfig, FLaLLMForTranslation, FLaLLMVisionConfig
from modeling_flallm.own_processing import FLaLLMProcessor
from train_scripts.arguments.data_arguments import DataArguments, FeatureStoreArguments, VideoArguments
from train_scripts.clips.augmentation import NO_AUGMENTATION, ClipAugmentation
from train_scripts.clips.collators import CACHED_FEATURES, TranslationCollator
from train_scripts.clips.data import SignClipDataset
from train_scripts.clips.feature_cache import EncodingSettings, FeatureCache
from train_scripts.clips.splits import load_split
from train_scripts.runs.tokenizers import train_tokenizer
from train_scripts.runs.training import build_processor

PAGE = DOCS / "feature-cache.md"
TABLE_START = "<!-- written by benchmarks/feature_cache.py -->"
LEARNING_RATE = 1e-5
# layers on either side, width, feed-forward width, heads, vocabulary
TEXT_MODELS = {
    "tiny": (1, 32, 64, 2, 400),
    "small": (2, 192, 384, 4, 400),  # of the quickstart
    "12+12 layers": (12, 1024, 4096, 16, 24000),  # mBART-large with a trimmed vocabulary
}
Inputs = dict[str, torch.Tensor]


@dataclass
class BenchmarkArguments:
    """How much is measured."""

    output_dir: str = field(default="outputs/feature_cache", metadata={"help": "Folder of clips and results."})
    report: str = field(default=str(PAGE), metadata={"help": "Page to write; figures land beside it."})
    report_only: bool = field(default=False, metadata={"help": "Measure nothing, report what there is."})
    sizes: list[str] = field(
        default_factory=lambda: ["small", "12+12 layers"],
        metadata={"help": f"Language models: {', '.join(TEXT_MODELS)}."},
    )
    num_clips: int = field(default=4, metadata={"help": "Clips of a step, and of the corpus."})
    num_frames: int = field(default=86, metadata={"help": "Frames of each clip."})
    num_steps: int = field(default=2, metadata={"help": "Steps of each way."})
    seed: int = field(default=0, metadata={"help": "Seed of clips and weights."})

    def __post_init__(self):
        unknown = [size for size in self.sizes if size not in TEXT_MODELS]
        if unknown:
            raise ValueError(f"--sizes must be of {', '.join(map(repr, TEXT_MODELS))}, got {unknown[0]!r}.")
        check_counts(self, "num_clips", "num_frames", "num_steps")


class PlainEncoder(nn.Module):
    """ResNet-18 on every frame of a clip, then K5 P2 K5 P2: `(frames, 3, 224, 224)` -> `(tokens, 512)`."""

    def __init__(self):
        super().__init__()
        self.backbone = torchvision.models.resnet18(weights=None)
        self.backbone.fc = nn.Identity()
        blocks = [nn.Conv1d(512, 512, 5), nn.BatchNorm1d(512), nn.ReLU(), nn.MaxPool1d(2)]
        again = [nn.Conv1d(512, 512, 5), nn.BatchNorm1d(512), nn.ReLU(), nn.MaxPool1d(2)]
        self.temporal = nn.Sequential(*blocks, *again)

    @torch.no_grad()
    def forward(self, frames: torch.Tensor) -> torch.Tensor:
        return self.temporal(self.backbone(frames).T[None])[0].T


def build_model(size: str, processor: FLaLLMProcessor, seed: int) -> FLaLLMForTranslation:
    """A model with random weights, the same for the same seed, and no dropout, so that losses can be compared."""
    torch.manual_seed(seed)
    layers, width, feed_forward, heads, vocabulary = TEXT_MODELS[size]
    tokenizer = processor.tokenizer
    sides = {f"{side}_{name}": value for side in ("encoder", "decoder") for name, value in (
        ("layers", layers), ("ffn_dim", feed_forward), ("attention_heads", heads)
    )}  # fmt: skip
    text_config = MBartConfig(
        **sides,
        d_model=width,
        vocab_size=max(vocabulary, len(tokenizer)),
        dropout=0.0,
        attention_dropout=0.0,
        pad_token_id=tokenizer.pad_token_id,
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
        decoder_start_token_id=tokenizer.eos_token_id,
    )
    vision_config = FLaLLMVisionConfig(hidden_size=512, temporal_blocks=["K5"])
    model = FLaLLMForTranslation(FLaLLMConfig(vision_config=vision_config, text_config=text_config))
    model.freeze_visual_encoder()
    model.vision_model.backbone.to(memory_format=torch.channels_last)
    return model.train()


class Ways:
    """Ways to get the model's inputs for clips by their numbers"""

    def __init__(self, corpus: Corpus, processor: FLaLLMProcessor, output_dir: Path):
        self.corpus = corpus
        self.processor = processor
        self.output_dir = output_dir
        self.collator = TranslationCollator(processor)
        self.plain_encoder = PlainEncoder().eval()
        clips = load_split(DataArguments([str(corpus.folder)]), "train")
        self.clips = SignClipDataset(clips, processor, augmentation=ClipAugmentation(NO_AUGMENTATION, VideoArguments()))

    def plain(self, frame_sampling_rate: float) -> Callable[[Sequence[int]], Inputs]:
        read = FrameByFrame(frame_sampling_rate)

        def inputs_of(numbers: Sequence[int]) -> Inputs:
            features = [self.plain_encoder(read((Path(), self.corpus.pictures[number]))) for number in numbers]
            items = [
                {CACHED_FEATURES: each, **self.clips.sentence_of(number)}
                for each, number in zip(features, numbers, strict=True)
            ]
            return self.collator(items)

        return inputs_of

    def through_the_encoder(self, numbers: Sequence[int]) -> Inputs:
        return self.collator([self.clips[number] for number in numbers])

    def from_the_cache(self, model: FLaLLMForTranslation, bf16: bool) -> Callable[[Sequence[int]], Inputs]:
        """The features are computed first, which is not measured here."""
        folder = self.output_dir / "features"
        precision = "bfloat16" if bf16 else "float32"
        settings = EncodingSettings(torch.device("cpu"), getattr(torch, precision), is_silent=True)
        arguments = FeatureStoreArguments(features_dtype=precision, feature_cache_dir=str(folder))
        cache = FeatureCache(model.vision_model, self.processor.modality, arguments, settings)
        cached = cache.clips(self.clips, "training")
        return lambda numbers: self.collator([cached[number] for number in numbers])


def train(
    model: FLaLLMForTranslation,
    inputs_of: Callable[[Sequence[int]], Inputs],
    numbers: Sequence[int],
    num_steps: int,
    bf16: bool = False,
    fused: bool = True,
) -> tuple[list[float], list[float]]:
    """-> seconds of processor time and losses of the steps, after an uncounted step with one clip"""
    model.set_attn_implementation("eager" if bf16 else "sdpa")
    trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
    optimizer = torch.optim.AdamW(trained, lr=LEARNING_RATE, fused=fused)
    seconds, losses = [], []
    for step in range(num_steps + 1):
        before = time.process_time()
        inputs = inputs_of(numbers[:1] if step == 0 else numbers)
        with torch.autocast("cpu", torch.bfloat16, enabled=bf16):
            loss = model(**inputs).loss
        loss.backward()
        nn.utils.clip_grad_norm_(trained, 1.0)
        optimizer.step()
        optimizer.zero_grad()
        seconds.append(time.process_time() - before)
        losses.append(loss.item())
    return seconds[1:], losses[1:]


def measure_size(size: str, ways: Ways, arguments: BenchmarkArguments) -> dict[str, Any]:
    """Clips per second of processor time of each step by way, and the losses of two ways in float32."""
    rates, losses = {}, {}
    for name in (
        "plain, all frames",
        "plain, a quarter of the frames",
        "encoder, fp32",
        "cache, fp32",
        "encoder",
        "cache",
    ):
        model = build_model(size, ways.processor, arguments.seed)
        options = {"bf16": name in ("encoder", "cache"), "fused": not name.startswith("plain")}
        if name.startswith("plain"):
            inputs_of = ways.plain(1.0 if name.endswith("all frames") else VideoArguments().frame_sampling_rate)
        elif name.startswith("encoder"):
            inputs_of = ways.through_the_encoder
        else:
            inputs_of = ways.from_the_cache(model, options["bf16"])
        seconds, losses[name] = train(model, inputs_of, range(arguments.num_clips), arguments.num_steps, **options)
        rates[name] = [arguments.num_clips / value for value in seconds]
        print(f"{size}, {name}: {statistics.median(rates[name]):.2f} clips/s, losses {losses[name]}", flush=True)
    differences = [abs(one - other) for one, other in zip(losses["encoder, fp32"], losses["cache, fp32"], strict=True)]
    num_parameters = sum(parameter.numel() for parameter in model.parameters())
    return {
        "size": size,
        "num_parameters": num_parameters,
        "clips_per_second": rates,
        "losses": losses,
        "largest_difference_of_losses": max(differences),
    }


def measure(arguments: BenchmarkArguments) -> dict[str, Any]:
    torch.set_num_threads(1)
    output_dir = Path(arguments.output_dir)
    shutil.rmtree(output_dir / "features", ignore_errors=True)
    lengths = [arguments.num_frames] * arguments.num_clips
    corpus = make_corpus(output_dir / "corpus", lengths, default_rng(arguments.seed))
    processor = build_processor(VideoArguments(), train_tokenizer(corpus.sentences, 400))
    torch.manual_seed(arguments.seed)
    ways = Ways(corpus, processor, output_dir)
    return {
        "arguments": {name: getattr(arguments, name) for name in ("num_clips", "num_frames", "num_steps", "seed")},
        "machine": f"one thread of {processor_name()}, torch {torch.__version__}",
        "results": [measure_size(size, ways, arguments) for size in arguments.sizes],
    }


def format_result(result: Mapping[str, Any]) -> list[str]:
    medians = {name: statistics.median(values) for name, values in result["clips_per_second"].items()}
    baselines = [medians["plain, all frames"], medians["plain, a quarter of the frames"]]
    titles = {
        "plain, all frames": "plain baseline, all frames",
        "plain, a quarter of the frames": "plain baseline, a quarter of the frames",
        "encoder, fp32": "ours through the encoder, float32",
        "encoder": "ours through the encoder, bfloat16",
        "cache, fp32": "ours from the cache, float32",
        "cache": "**ours from the cache, bfloat16**",
    }
    lines = [
        f"Language model: {result['size']} ({result['num_parameters'] / 1e6:,.0f} million parameters in all).",
        "",
        "| a step of training | clips/s | to the baseline, all frames | to the baseline, a quarter of them |",
        "| --- | --- | --- | --- |",
    ]
    for name, title in titles.items():
        cells = [f"{medians[name]:.2f}", *(f"{medians[name] / baseline:.1f}" for baseline in baselines)]
        lines.append(f"| {title} | {' | '.join(cells)} |")
    difference = result["largest_difference_of_losses"]
    return [*lines, "", f"Largest difference of the losses, cache against encoder in float32: {difference:.1e}.", ""]


def format_report(report: Mapping[str, Any]) -> str:
    """Command, machine and a table for each language model in Markdown."""
    values = report["arguments"]
    lines = [
        f"{values['num_clips']} clips of {values['num_frames']} frames ({WIDTH} x {HEIGHT}, mp4 and PNG) in each step, "
        f"medians of {values['num_steps']} steps, clips per second of processor time, on {report['machine']}:",
        "",
        f"    {command_line('feature_cache.py', values)}",
        "",
    ]
    for result in report["results"]:
        lines += format_result(result)
    return "\n".join(lines).rstrip()


def main(argv: Sequence[str] | None = None) -> int:
    description = "Stage 2 with and without cached features."
    return run_benchmark(argv, BenchmarkArguments, description, measure, format_report, TABLE_START)


if __name__ == "__main__":
    sys.exit(main())
