"""
`left_handed="auto"`: how often it finds the hand, and how long it takes beside one way.

    python benchmarks/handedness.py --output_dir outputs/handedness --model MODEL --dataset CORPUS

MODEL was trained with `--mirror_left_handed True` and without random flips, on a corpus with the column `handedness`.
Each clip of the split is also looked at in a mirror, where its signer uses the other hand. Both are done at a glance,
with what the model has learned of the hand, and without that, by how sure it is. Times are processor seconds
of one thread, without reading the clips, of MODEL and of a model of real size with random weights (ResNet-18 at 224 px,
12 layers each in encoder and decoder): pairs of translations, one way and auto, in turn; the ratio is the median of
those of the pairs. The tables of docs/left-handed.md and its figures (.json) are written at the end; `--report_only
True` writes them again from existing results.
"""

import statistics
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from benchmark_parts import DOCS, check_counts, command_line, processor_name, run_benchmark
from feature_cache import TEXT_MODELS, build_model

from modeling_flallm import SignLanguageTranslationPipeline
from train_scripts.arguments.data_arguments import DatasetArguments, VideoArguments
from train_scripts.clips.data import are_left_handed
from train_scripts.clips.splits import load_split
from train_scripts.runs.quantization import load_to_translate
from train_scripts.runs.tokenizers import train_tokenizer
from train_scripts.runs.training import build_processor
from train_scripts.runs.video_translation import build_translator

PAGE = DOCS / "left-handed.md"
TABLE_START = "<!-- written by benchmarks/handedness.py -->"
NUM_BEAMS, NUM_TOKENS = 4, 20
BATCH_SIZES = (1, 8)
AT_A_GLANCE, BY_SURENESS = "at a glance", "by how sure it is"
WAYS = (AT_A_GLANCE, BY_SURENESS)
Clip = dict[str, Any]


@dataclass
class BenchmarkArguments:
    """What is measured."""

    model: str = field(metadata={"help": "Folder of a model that was trained on mirrored clips."})
    dataset: str = field(metadata={"help": "Its corpus, with the column handedness."})
    split: str = field(default="test", metadata={"help": "Split whose signers are looked at."})
    output_dir: str = field(default="outputs/handedness", metadata={"help": "Folder of results."})
    report: str = field(default=str(PAGE), metadata={"help": "Page to write; figures land beside it."})
    report_only: bool = field(default=False, metadata={"help": "Measure nothing, report what there is."})
    size: str = field(
        default="12+12 layers", metadata={"help": f"Language model of the second: {', '.join(TEXT_MODELS)}."}
    )
    num_clips: int = field(default=1000, metadata={"help": "At most so many clips of the split."})
    num_frames: int = field(default=22, metadata={"help": "Frames of a clip that the model of real size looks at."})
    num_rounds: int = field(default=5, metadata={"help": "Pairs of each measurement."})

    def __post_init__(self):
        check_counts(self, "num_clips", "num_frames", "num_rounds")


def find_hands(translator: SignLanguageTranslationPipeline, clips: Sequence[Clip], are_left: Sequence[bool]) -> dict:
    """By hand of the signer, of how many clips, and of how many of these in a mirror, auto finds it."""
    found = {name: {"clips": 0, "found": 0, "found_in_a_mirror": 0} for name in ("right-handed", "left-handed")}
    for clip, is_left in zip(clips, are_left, strict=True):
        counts = found["left-handed" if is_left else "right-handed"]
        mirrored = {**clip, "frames": clip["frames"].flip(-1)}
        margins = [translator.hand_margins([each])[0] for each in (clip, mirrored)]
        counts["clips"] += 1
        counts["found"] += (margins[0] > 0) == is_left
        counts["found_in_a_mirror"] += (margins[1] > 0) != is_left
    return found


def time_pairs(
    translator: SignLanguageTranslationPipeline, batches: Sequence[Sequence[Clip]], **generation: Any
) -> dict[str, float]:
    """Processor seconds of a batch one way, and the ratio of auto to it, medians over `batches`."""

    def seconds(batch: Sequence[Clip], left_handed: bool | str) -> float:
        began = time.process_time()
        translator.write_sentences(translator.encode_clips(batch, left_handed), **generation)
        return time.process_time() - began

    seconds(batches[0], "auto")  # the first one is slower
    pairs = [(seconds(batch, False), seconds(batch, "auto")) for batch in batches]
    return {
        "seconds": statistics.median(one for one, _ in pairs),
        "ratio": statistics.median(auto / one for one, auto in pairs),
        "smallest_ratio": min(auto / one for one, auto in pairs),
        "largest_ratio": max(auto / one for one, auto in pairs),
    }


def model_of_real_size(arguments: BenchmarkArguments) -> SignLanguageTranslationPipeline:
    tokenizer = train_tokenizer([f"w{number}" for number in range(100)], 400)
    processor = build_processor(VideoArguments(), tokenizer)
    return build_translator(build_model(arguments.size, processor, 0).eval(), processor)


def drawn_clip(num_frames: int) -> Clip:
    frames = torch.randint(0, 256, (num_frames, 3, 224, 224), dtype=torch.uint8)
    return {"frames": frames, "times": None, "metadata": {}}


def measure(arguments: BenchmarkArguments) -> dict[str, Any]:
    torch.set_num_threads(1)
    torch.manual_seed(0)
    trained = build_translator(*load_to_translate(arguments.model, torch.device("cpu"), "float32", None))
    split = load_split(DatasetArguments(dataset=arguments.dataset), arguments.split, arguments.num_clips)
    column = trained.processor.modality.column
    clips = [trained.read_clip(row[column], row.get("start"), row.get("end")) for row in split]
    real = model_of_real_size(arguments)
    real.model.config.handedness_direction = [1.0] * real.model.config.vision_config.hidden_size
    drawn = [drawn_clip(arguments.num_frames) for _ in range(max(BATCH_SIZES))]
    lengths = {"num_beams": NUM_BEAMS, "min_new_tokens": NUM_TOKENS, "max_new_tokens": NUM_TOKENS}
    hands, times = {}, []
    for way in WAYS:
        if way == BY_SURENESS:
            trained.model.config.handedness_direction = real.model.config.handedness_direction = None
        hands[way] = find_hands(trained, clips, are_left_handed(split))
        for size in BATCH_SIZES:
            batches = [clips[:size] for clips in _turned(clips, size, arguments.num_rounds)]
            of_real = [drawn[:size]] * arguments.num_rounds
            names = ("the model", f"ResNet-18 at 224 px, {arguments.size}")
            for name, pairs in zip(
                names, (time_pairs(trained, batches), time_pairs(real, of_real, **lengths)), strict=True
            ):
                times.append({"way": way, "model": name, "batch": size, **pairs})
    given = {name: getattr(arguments, name) for name in ("model", "dataset", "split", "num_rounds")}
    return {"arguments": given, "machine": processor_name(), "hands": hands, "times": times}


def _turned(clips: Sequence[Clip], size: int, num_rounds: int) -> list[list[Clip]]:
    """The clips, beginning with others in every round."""
    starts = [size * turn % len(clips) for turn in range(num_rounds)]
    return [[*clips[start:], *clips[:start]] for start in starts]


def format_report(report: Mapping[str, Any]) -> str:
    """Command, machine and tables in Markdown."""
    lines = [f"On {report['machine']}, one thread, {report['arguments']['num_rounds']} pairs:", ""]
    lines += [f"    {command_line('handedness.py', report['arguments'])}", ""]
    lines += ["| found | signers | clips | hand found | hand found in a mirror |", "| --- | --- | --- | --- | --- |"]
    for way, signers in report["hands"].items():
        for name, counts in signers.items():
            lines.append(f"| {way} | {name} | {counts['clips']} | {counts['found']} | {counts['found_in_a_mirror']} |")
    lines += ["", "| found | model | clips in a batch | one way, s | auto / one way | from | to |"]
    lines.append("| --- | --- | --- | --- | --- | --- | --- |")
    for row in report["times"]:
        ratios = " | ".join(f"{row[name]:.2f}" for name in ("ratio", "smallest_ratio", "largest_ratio"))
        lines.append(f"| {row['way']} | {row['model']} | {row['batch']} | {row['seconds']:.2f} | {ratios} |")
    return "\n".join(lines)


def main(argv: Sequence[str] | None = None) -> int:
    description = "How often auto finds the hand of a signer, and how long it takes."
    return run_benchmark(argv, BenchmarkArguments, description, measure, format_report, TABLE_START)


if __name__ == "__main__":
    sys.exit(main())
