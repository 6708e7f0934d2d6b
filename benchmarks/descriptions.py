"""
What descriptions teach: MMSLT with descriptions, with shuffled ones and without, on the rendered corpus.

    python benchmarks/descriptions.py --seeds 0 1 2 --text_encoder_name_or_path sentence-transformers/all-MiniLM-L6-v2

For each seed: a corpus that describes what hands and body do; the small language model of the quickstart; embeddings of
the descriptions; and three times both stages of MMSLT, from the same weights and with equally many optimiser steps:
with the descriptions, with those of the training clips shuffled (each clip has the ones of another, stretched to its
length: the control), and with weight 0 of the mapper's loss. Scores are of test signers who are in no training clip.
The tables of docs/descriptions-benchmark.md and its figures (.json) are written at the end; `--report_only True` writes
them again from existing results. What an earlier run of the same sizes finished is kept. A small run, in two minutes:

    python benchmarks/descriptions.py --seeds 0 --text_encoder_name_or_path TEXT_ENCODER --output_dir outputs/tiny \
        --report outputs/tiny/page.md --num_train_clips 16 --num_dev_clips 4 --num_test_clips 4 \
        --num_text_only_sentences 100 --language_model_epochs 1 --pretraining_epochs 1 --fine_tuning_epochs 1
"""

import dataclasses
import json
import statistics
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import datasets
import numpy as np
from benchmark_parts import DOCS, command_line, run_benchmark
from seeded_parts import heading, measure_parts

from modeling_flallm.own_processing import MODALITIES
from train_scripts.arguments.corpus_arguments import CorpusArguments
from train_scripts.arguments.data_arguments import DatasetArguments
from train_scripts.arguments.dataclass_parser import flags
from train_scripts.arguments.quickstart_arguments import QuickstartArguments
from train_scripts.clips.description_folder import DescriptionFolder
from train_scripts.clips.description_store import (
    DESCRIPTIONS_COLUMN,
    ClipDescriptions,
    OriginOfDescriptions,
    description_facts,
    join_descriptions,
    read_descriptions,
)
from train_scripts.clips.splits import load_split
from train_scripts.commands import describe_clips
from train_scripts.commands.generate_corpus import SPLITS, generate_corpus
from train_scripts.commands.quickstart import CORPUS, CORPUS_RESOLUTION, TimeLeft, pretrain, test_model
from train_scripts.stages import multimodal_pretraining, translation_fine_tuning

PAGE = DOCS / "descriptions-benchmark.md"
TABLE_START = "<!-- written by benchmarks/descriptions.py -->"
OF_CORPUS = (
    "num_train_clips",
    "num_dev_clips",
    "num_test_clips",
    "num_text_only_sentences",
    "missing_descriptions",
    "wrong_descriptions",
)
SIZES = (*OF_CORPUS, "language_model_epochs", "pretraining_epochs", "fine_tuning_epochs")
VIDEOS = MODALITIES[0]
WITH, SHUFFLED, WITHOUT = "with descriptions", "with shuffled descriptions", "without descriptions"
PRETRAINING, FINE_TUNING = "pretraining", "fine-tuning"


@dataclass
class BenchmarkArguments:
    """Sizes, and where the results go."""

    output_dir: str = field(default="outputs/descriptions", metadata={"help": "Folder of all runs and results."})
    report: str = field(default=str(PAGE), metadata={"help": "Page to write; figures land beside it."})
    report_only: bool = field(default=False, metadata={"help": "Run nothing, report what there is."})
    seeds: list[int] = field(default_factory=lambda: [0, 1, 2], metadata={"help": "A corpus and a run for each."})
    text_encoder_name_or_path: str = field(
        default="sentence-transformers/all-MiniLM-L6-v2",
        metadata={"help": "Folder or Hub id of the text encoder that embeds the descriptions."},
    )
    num_train_clips: int = field(default=QuickstartArguments.num_train_clips, metadata={"help": "Training clips."})
    num_dev_clips: int = field(default=QuickstartArguments.num_dev_clips, metadata={"help": "Dev clips."})
    num_test_clips: int = field(default=QuickstartArguments.num_test_clips, metadata={"help": "Test clips."})
    num_text_only_sentences: int = field(
        default=QuickstartArguments.num_text_only_sentences, metadata={"help": "Sentences for the language model."}
    )
    missing_descriptions: float = field(default=0.0, metadata={"help": "Share of the descriptions to leave out."})
    wrong_descriptions: float = field(default=0.0, metadata={"help": "Share of the descriptions of other frames."})
    language_model_epochs: float = field(
        default=QuickstartArguments.language_model_epochs, metadata={"help": "Epochs of the language model."}
    )
    pretraining_epochs: float = field(default=8, metadata={"help": "Epochs of the pretraining."})
    fine_tuning_epochs: float = field(default=6, metadata={"help": "Epochs of the fine-tuning."})

    def folders(self, seed: int) -> "Folders":
        return Folders(Path(self.output_dir) / f"seed_{seed}")


@dataclass
class Folders:
    """Where each part of a seed is written."""

    output: Path

    def __post_init__(self):
        self.corpus = self.output / "corpus"
        self.language_model = self.output / "language_model"

    def descriptions(self, variant: str) -> Path:
        """The store that a variant trains with; without them, the true ones at weight 0."""
        return self.output / ("shuffled" if variant == SHUFFLED else "descriptions")

    def model(self, stage: str, variant: str) -> Path:
        return self.output / f"{stage} {variant}".replace(" ", "_").replace("-", "_")


def render(arguments: BenchmarkArguments, seed: int) -> dict[str, Any]:
    sizes = {name: getattr(arguments, name) for name in OF_CORPUS}
    folder = str(arguments.folders(seed).corpus)
    generate_corpus(
        CorpusArguments(output_dir=folder, seed=seed, resolution=CORPUS_RESOLUTION, descriptions=True, **sizes)
    )
    return {}


def train_language_model(arguments: BenchmarkArguments, seed: int) -> dict[str, Any]:
    epochs = arguments.language_model_epochs
    of_quickstart = QuickstartArguments(output_dir="", seed=seed, language_model_epochs=epochs)
    pretrain(of_quickstart, arguments.folders(seed), TimeLeft({"language model": 1}))
    return {}


def embed(arguments: BenchmarkArguments, seed: int) -> dict[str, Any]:
    """The store of descriptions -> how many the training clips have"""
    folders = arguments.folders(seed)
    store = folders.descriptions(WITH)
    describe_clips.run(
        flags(
            dataset=folders.corpus,
            description_column=DESCRIPTIONS_COLUMN,
            text_encoder_name_or_path=arguments.text_encoder_name_or_path,
            output_dir=store,
            disable_tqdm=True,
        )
    )
    _, clips = described_clips(folders.corpus, store, "train")
    return {"num_descriptions": sum(len(clip.texts) for clip in clips)}


def described_clips(corpus: Path, store: Path, split: str) -> tuple[datasets.Dataset, list[ClipDescriptions]]:
    """The rows of a split, and what the store says of each"""
    rows = load_split(DatasetArguments([str(corpus)]), split)
    paths = join_descriptions(rows, VIDEOS, str(store), split)[DESCRIPTIONS_COLUMN]
    return rows, [read_descriptions(path) for path in paths]


def shuffle(arguments: BenchmarkArguments, seed: int) -> dict[str, Any]:
    """The store in which each training clip has the descriptions of another; those of the other splits stay."""
    folders = arguments.folders(seed)
    facts = description_facts(str(folders.descriptions(WITH)))
    origin = OriginOfDescriptions(**{name: value for name, value in facts.items() if name != "clips"})
    folder = DescriptionFolder(folders.descriptions(SHUFFLED), origin)
    order = np.random.default_rng(seed).permutation(arguments.num_train_clips)
    for split in SPLITS:
        rows, clips = described_clips(folders.corpus, folders.descriptions(WITH), split)
        if split == "train":
            donor_of = dict(zip(order, np.roll(order, 1), strict=True))
            clips = [with_those_of(clip, clips[donor_of[number]]) for number, clip in enumerate(clips)]
        places = folder.clips_of(split, rows, VIDEOS, split)
        for place, clip in zip(places, clips, strict=True):
            folder.write(place, SHUFFLED, clip)
        folder.write_table(split, places)
    folder.finish([str(folders.corpus)])
    return {}


def with_those_of(clip: ClipDescriptions, donor: ClipDescriptions) -> ClipDescriptions:
    """The clip with the donor's descriptions in its own frames, stretched or squeezed to as many as it had."""
    if not donor.texts:
        return dataclasses.replace(donor, num_frames=clip.num_frames)
    taken = [number * len(donor.texts) // len(clip.texts) for number in range(len(clip.texts))]
    return dataclasses.replace(clip, embeddings=donor.embeddings[taken], texts=[donor.texts[each] for each in taken])


def pretrain_variant(variant: str, arguments: BenchmarkArguments, seed: int) -> dict[str, Any]:
    """Stage 1 -> retrieval and the mapper's loss, on the dev clips"""
    folders = arguments.folders(seed)
    output = folders.model(PRETRAINING, variant)
    off = {"mapper_loss_weight": 0} if variant == WITHOUT else {}
    scores = multimodal_pretraining.train(
        flags(
            config="quickstart_mmslt_multimodal_pretraining",
            dataset=folders.corpus,
            descriptions=folders.descriptions(variant),
            text_model_name_or_path=folders.language_model,
            num_train_epochs=arguments.pretraining_epochs,
            disable_tqdm=True,
            seed=seed,
            output_dir=output,
            **CORPUS,
            **off,
        )
    )
    found = {name: scores[f"eval_{name}"] for name in ("recall_at_1", "recall_at_5", "median_rank")}
    return {**found, "mapper_loss": scores.get("eval_mapper_loss"), "num_steps": num_steps(output)}


def fine_tune_variant(variant: str, arguments: BenchmarkArguments, seed: int) -> dict[str, Any]:
    """Stage 2 -> BLEU-4 on the test clips, with its interval, and that of each signer"""
    folders = arguments.folders(seed)
    output = folders.model(FINE_TUNING, variant)
    translation_fine_tuning.train(
        flags(
            config="quickstart_mmslt_translation_fine_tuning",
            dataset=folders.corpus,
            model_name_or_path=folders.model(PRETRAINING, variant),
            num_train_epochs=arguments.fine_tuning_epochs,
            disable_tqdm=True,
            seed=seed,
            output_dir=output,
            **CORPUS,
        )
    )
    scores, _ = test_model(output, folders, output.with_name(f"test_{output.name}"))
    interval = scores["confidence_intervals"]["bleu4"]
    return {
        "bleu4": scores["bleu4"],
        "interval": [interval["low"], interval["high"]],
        "worst_bleu4": scores["worst_signer_bleu4"],
        "by_signer": {signer: of_signer["bleu4"] for signer, of_signer in sorted(scores["by_signer"].items())},
        "num_steps": num_steps(output),
    }


def num_steps(model: Path) -> int:
    """Of the optimiser."""
    return json.loads((model / "trainer_state.json").read_text(encoding="utf-8"))["global_step"]


VARIANTS = (WITH, SHUFFLED, WITHOUT)
PARTS: dict[str, Callable[[BenchmarkArguments, int], dict[str, Any]]] = {
    "corpus": render,
    "language model": train_language_model,
    "descriptions": embed,
    "shuffling": shuffle,
    **{
        f"{stage}, {variant}": partial(run, variant)
        for variant in VARIANTS
        for stage, run in ((PRETRAINING, pretrain_variant), (FINE_TUNING, fine_tune_variant))
    },
}


def measure(arguments: BenchmarkArguments) -> dict[str, Any]:
    return measure_parts(arguments, PARTS, SIZES)


def format_report(results: Mapping[str, Any]) -> str:
    """Command, machine and the tables in Markdown."""
    seeds, runs = list(results["seeds"]), list(results["seeds"].values())
    command = command_line("descriptions.py", {"seeds": [int(seed) for seed in seeds], **results["sizes"]})
    lines = [f"In one thread of {results['machine']}; seeds {', '.join(seeds)}:", "", f"    {command}"]
    tables = (scores_table, signers_table, pretraining_table)
    return "\n\n".join(["\n".join(lines), *("\n".join(table(seeds, runs)) for table in tables)])


def scores_table(seeds: Sequence[str], runs: Sequence[Mapping[str, Any]]) -> list[str]:
    lines = heading(
        "BLEU-4, test clips (worst signer)", *(f"seed {seed}" for seed in seeds), "mean", "mean of the worst signers"
    )
    for variant in VARIANTS:
        scores = [run[f"{FINE_TUNING}, {variant}"] for run in runs]
        cells = [
            f"{each['bleu4']:.2f} [{each['interval'][0]:.2f}, {each['interval'][1]:.2f}] ({each['worst_bleu4']:.2f})"
            for each in scores
        ]
        cells += [f"{statistics.mean(each[name] for each in scores):.2f}" for name in ("bleu4", "worst_bleu4")]
        lines.append(f"| {variant} | {' | '.join(cells)} |")
    return lines


def signers_table(seeds: Sequence[str], runs: Sequence[Mapping[str, Any]]) -> list[str]:
    lines = heading("BLEU-4 of each test signer", *VARIANTS)
    for seed, run in zip(seeds, runs, strict=True):
        of_variants = [run[f"{FINE_TUNING}, {variant}"]["by_signer"] for variant in VARIANTS]
        for signer in of_variants[0]:
            cells = " | ".join(f"{of_variant[signer]:.2f}" for of_variant in of_variants)
            lines.append(f"| seed {seed}, {signer} | {cells} |")
    return lines


def pretraining_table(seeds: Sequence[str], runs: Sequence[Mapping[str, Any]]) -> list[str]:
    lines = heading(
        "pretraining, dev clips, mean of the seeds",
        "error of the mapper (of the mean embedding: 1)",
        "sentence found first",
        "among the first 5",
        "optimiser steps of both stages",
        "minutes of the processor, both stages",
    )
    for variant in VARIANTS:
        scores = [run[f"{PRETRAINING}, {variant}"] for run in runs]
        tuned = [run[f"{FINE_TUNING}, {variant}"] for run in runs]
        recalls = (f"{statistics.mean(each[f'recall_at_{rank}'] for each in scores):.1f}" for rank in (1, 5))
        steps = {one["num_steps"] + other["num_steps"] for one, other in zip(scores, tuned, strict=True)}
        minutes = statistics.mean(
            (one["processor_seconds"] + other["processor_seconds"]) / 60
            for one, other in zip(scores, tuned, strict=True)
        )
        cells = [error_of_mapper(variant, runs), *recalls, "/".join(map(str, sorted(steps))), f"{minutes:.1f}"]
        lines.append(f"| {variant} | {' | '.join(cells)} |")
    return lines


def error_of_mapper(variant: str, runs: Sequence[Mapping[str, Any]]) -> str:
    """Of the true descriptions of the dev clips; nothing where the mapper is not taught."""
    losses = [run[f"{PRETRAINING}, {variant}"]["mapper_loss"] for run in runs]
    return "" if None in losses else f"{statistics.mean(losses):.2f}"


def main(argv: Sequence[str] | None = None) -> int:
    description = "MMSLT with descriptions, with shuffled ones and without."
    return run_benchmark(argv, BenchmarkArguments, description, measure, format_report, TABLE_START)


if __name__ == "__main__":
    sys.exit(main())
