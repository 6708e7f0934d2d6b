"""
Stage 1 in float32 at the sizes of sltbaselines (https://github.com/ozgemercanoglu/sltbaselines), beside a step written
like that code: PNG files opened, rotated, shifted, resized and normalised frame by frame; 16 to 19 repeated frames more
of each clip through ResNet-18 at 224 px in NCHW; K5 P2 K5 P2; mBART of 3+3 layers and width 1024; SGD not fused.

    python benchmarks/stage1_beside_sltbaselines.py --output_dir outputs/stage1_beside_sltbaselines

It is for processors without bfloat16, which most machines have. Other processors behave like them with

    ONEDNN_MAX_CPU_ISA=AVX2 ATEN_CPU_CAPABILITY=avx2 MKL_ENABLE_INSTRUCTIONS=AVX2 python benchmarks/...

Both sides read the same frames of the same clips, each in its own process with one thread. They take turns, and ratios
are of the processor time of neighbouring turns. Frames are those of the clips; repeated ones are not counted. The table
of docs/speed.md and its figures (.json) are written at the end; `--report_only True` writes them again. A small run:

    python benchmarks/stage1_beside_sltbaselines.py --output_dir outputs/tiny --report outputs/tiny/page.md \
        --lengths 8 12 --num_rounds 1
"""

import multiprocessing
import random
import statistics
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from benchmark_parts import DOCS, Corpus, command_line, make_corpus, processor_name, run_benchmark
from PIL import Image
from torchvision import transforms
from torchvision.models import resnet18
from torchvision.transforms import functional
from transformers import MBartConfig

from train_scripts.arguments.data_arguments import DataArguments
from train_scripts.arguments.dataclass_parser import flags, parse_arguments
from train_scripts.arguments.stage_arguments import VisualInitialingArguments
from train_scripts.arguments.training_arguments import TRAINING_ARGUMENTS
from train_scripts.clips.augmentation import ClipAugmentation
from train_scripts.clips.collators import TranslationCollator
from train_scripts.clips.data import SignClipDataset
from train_scripts.clips.splits import load_split
from train_scripts.machine.machine import prepare_machine
from train_scripts.runs.tokenizers import train_tokenizer
from train_scripts.runs.trainers import FLaLLMTrainer
from train_scripts.runs.training import prepare_visual_encoder
from train_scripts.stages.visual_initialing import build_model

sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "tests"))
from sltbaselines_layers import GlossFreeModel  # noqa: E402

PAGE = DOCS / "speed.md"
TABLE_START = "<!-- written by benchmarks/stage1_beside_sltbaselines.py -->"
VOCABULARY_SIZE = 2454  # of mBART, trimmed to PHOENIX14T
OURS, THEIRS = "ours", "sltbaselines"
RESIZED, CROPPED, SHIFT_IN_PIXELS, ROTATION_IN_DEGREES = 256, 224, 10, 30
LABEL_SMOOTHING = 0.2


@dataclass
class BenchmarkArguments:
    """How much is measured."""

    output_dir: str = field(
        default="outputs/stage1_beside_sltbaselines", metadata={"help": "Folder of clips and results."}
    )
    report: str = field(default=str(PAGE), metadata={"help": "Page to write; figures land beside it."})
    report_only: bool = field(default=False, metadata={"help": "Measure nothing, report what there is."})
    lengths: list[int] = field(default_factory=lambda: [75, 136], metadata={"help": "Frames of the clips of a step."})
    num_rounds: int = field(default=5, metadata={"help": "Turns of both sides."})
    seed: int = field(default=0, metadata={"help": "Seed of clips, weights and augmentation."})

    def __post_init__(self):
        if min(self.num_rounds, *self.lengths) < 1:
            raise ValueError("--num_rounds and --lengths must be 1 or more.")


def our_step(corpus: Corpus, folder: Path) -> Callable[[int], None]:
    """A step of `flallm train visual-initialing --config sltbaselines_visual_initialing` on all clips."""
    prepare_machine(torch.device("cpu"), num_threads=1)
    train_tokenizer(corpus.sentences, 400).save_pretrained(folder / "tokenizer")
    arguments, _, video, augmentation, training = parse_arguments(
        (VisualInitialingArguments, *TRAINING_ARGUMENTS),
        flags(
            config="sltbaselines_visual_initialing",
            dataset=corpus.folder,
            tokenizer_name_or_path=folder / "tokenizer",
            imagenet_weights=False,
            bf16=False,
            use_cpu=True,
            output_dir=folder / "run",
        ),
        description="",
    )
    model, processor = build_model(arguments, video)
    model.text_model.resize_token_embeddings(VOCABULARY_SIZE, mean_resizing=False)
    prepare_visual_encoder(model.train(), training)
    split = load_split(DataArguments([str(corpus.folder)]), "train")
    clips = SignClipDataset(split, processor, augmentation=ClipAugmentation(augmentation, video))
    collator = TranslationCollator(processor)
    optimizer = FLaLLMTrainer(
        model=model, args=training, train_dataset=clips, eval_dataset=clips, processing_class=processor
    ).create_optimizer()

    def step(epoch: int) -> None:
        clips.set_epoch(epoch)
        model(**collator([clips[index] for index in range(len(clips))])).loss.backward()
        optimizer.step()
        optimizer.zero_grad()

    return step


def their_step(corpus: Corpus, folder: Path) -> Callable[[int], None]:
    """The same step with the layers and the data loading of sltbaselines."""
    torch.set_num_threads(1)
    config = text_config()
    model = GlossFreeModel(config, torch.nn.LayerNorm, resnet18(weights=None)).train()
    tokenizer = train_tokenizer(corpus.sentences, 400)
    labels = tokenizer(corpus.sentences, padding=True, return_tensors="pt")["input_ids"]
    optimizer = torch.optim.SGD(
        model.parameters(), lr=1e-3, momentum=0.9, nesterov=True, weight_decay=1e-3, fused=False
    )
    loss_function = torch.nn.CrossEntropyLoss(ignore_index=config.pad_token_id, label_smoothing=LABEL_SMOOTHING)

    def step(epoch: int) -> None:
        draws = random.Random(epoch)
        logits = model([read_frame_by_frame(paths, draws) for paths in corpus.pictures], labels, config.pad_token_id)
        loss_function(logits.flatten(0, 1), labels.flatten()).backward()
        optimizer.step()
        optimizer.zero_grad()

    return step


def text_config() -> MBartConfig:
    layers = {"encoder_layers": 3, "decoder_layers": 3, "encoder_attention_heads": 8, "decoder_attention_heads": 8}
    return MBartConfig(
        vocab_size=VOCABULARY_SIZE, d_model=1024, encoder_ffn_dim=4096, decoder_ffn_dim=4096, dropout=0.1, **layers
    )


def read_frame_by_frame(paths: Sequence[Path], draws: random.Random) -> torch.Tensor:
    """-> float32 `(frames, 3, 224, 224)`; each frame opened, turned, shifted, resized and normalised on its own"""
    normalize = transforms.Compose(
        [transforms.ToTensor(), transforms.Normalize([0.485, 0.456, 0.406], [0.229, 0.224, 0.225])]
    )
    angle = draws.uniform(-ROTATION_IN_DEGREES, ROTATION_IN_DEGREES) if draws.random() < 0.5 else None
    shift = [draws.randint(-SHIFT_IN_PIXELS, SHIFT_IN_PIXELS) for _ in range(2)] if draws.random() < 0.5 else None
    left, top = (draws.randint(0, RESIZED - CROPPED) for _ in range(2))
    frames = []
    for path in paths:
        picture = Image.open(path).convert("RGB")
        if angle is not None:
            picture = picture.rotate(angle)
        if shift is not None:
            picture = functional.affine(picture, 0.0, shift, 1.0, [0.0, 0.0])
        picture = normalize(picture.resize((RESIZED, RESIZED)))
        frames.append(picture[:, top : top + CROPPED, left : left + CROPPED])
    return torch.stack(frames)


def _serve(side: str, corpus: Corpus, folder: Path, seed: int, connection: Any) -> None:
    """Runs in a separate process: answers each epoch number with the processor seconds of a step."""
    torch.manual_seed(seed)
    step = {OURS: our_step, THEIRS: their_step}[side](corpus, folder)
    while (epoch := connection.recv()) is not None:
        before = time.process_time()
        step(epoch)
        connection.send(time.process_time() - before)


def measure(arguments: BenchmarkArguments) -> dict[str, Any]:
    """Processor seconds of the steps of both sides, a value for each round."""
    folder = Path(arguments.output_dir)
    corpus = make_corpus(folder / "corpus", arguments.lengths, np.random.default_rng(arguments.seed))
    context = multiprocessing.get_context("spawn")
    connections, processes = {}, []
    for side in (OURS, THEIRS):
        connections[side], theirs = context.Pipe()
        processes.append(
            context.Process(target=_serve, args=(side, corpus, folder, arguments.seed, theirs), daemon=True)
        )
        processes[-1].start()
    seconds: dict[str, list[float]] = {OURS: [], THEIRS: []}
    for epoch in range(-1, arguments.num_rounds):  # the first warms up
        for side, connection in connections.items():
            connection.send(epoch)
            taken = connection.recv()
            print(f"{side}: {taken:.2f} s", flush=True)
            if epoch >= 0:
                seconds[side].append(taken)
    for connection in connections.values():
        connection.send(None)
    for process in processes:
        process.join()
    return {
        "machine": f"{processor_name()}, torch {torch.__version__}, {torch.backends.cpu.get_cpu_capability()}",
        "lengths": arguments.lengths,
        "num_rounds": arguments.num_rounds,
        "seed": arguments.seed,
        "seconds": seconds,
    }


def format_report(results: Mapping[str, Any]) -> str:
    num_frames, lengths = sum(results["lengths"]), " and ".join(map(str, results["lengths"]))
    sizes = {name: results[name] for name in ("lengths", "num_rounds", "seed")}
    ratios = [
        theirs / ours for ours, theirs in zip(*(results["seconds"][side] for side in (OURS, THEIRS)), strict=True)
    ]
    rates = {side: num_frames / statistics.median(results["seconds"][side]) for side in (OURS, THEIRS)}
    return "\n".join(
        [
            f"One thread of {results['machine']}, float32, clips of {lengths} frames:",
            "",
            f"    {command_line('stage1_beside_sltbaselines.py', sizes)}",
            "",
            "| | frames/s |",
            "| --- | --- |",
            f"| a step as sltbaselines does it | {rates[THEIRS]:.2f} |",
            f"| ours | {rates[OURS]:.2f} |",
            "",
            f"**{statistics.median(ratios):.2f} times** the frames a second; in single rounds {min(ratios):.2f} to "
            f"{max(ratios):.2f} times.",
        ]
    )


def main(argv: Sequence[str] | None = None) -> int:
    return run_benchmark(
        argv,
        BenchmarkArguments,
        "Stage 1 in float32 beside a step as sltbaselines does it.",
        measure,
        format_report,
        TABLE_START,
    )


if __name__ == "__main__":
    sys.exit(main())
