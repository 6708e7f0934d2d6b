"""
Who is understood: the quickstart's presets on several seeds of its own corpus, and on the corpus of another generator,
whose training signers are few and all right-handed (other_signing.py).

    python benchmarks/every_signer.py --seeds 0 1 2 3 4

For each seed and corpus: the language model, both stages, and the scores of each test signer. On the other generator's
corpus, stage 1 is also trained with single settings of the preset undone. Every run has one thread.
The tables of docs/every-signer.md and its figures (.json) are written at the end; `--report_only True` writes them
again from existing results. What an earlier run of the same sizes finished is kept. A small run, in two minutes:

    python benchmarks/every_signer.py --seeds 0 --output_dir outputs/tiny --report outputs/tiny/page.md \
        --num_train_clips 16 --num_dev_clips 30 --num_test_clips 8 --num_text_only_sentences 100 \
        --language_model_epochs 1 --stage1_epochs 1 --stage2_epochs 1
"""

import shutil
import statistics
import sys
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

from benchmark_parts import DOCS, command_line, run_benchmark
from other_signing import OtherCorpusArguments, make_other_corpus
from seeded_parts import heading, measure_parts

from train_scripts.arguments.dataclass_parser import flags
from train_scripts.arguments.quickstart_arguments import QuickstartArguments
from train_scripts.clips.clip_folders import read_metadata
from train_scripts.commands.quickstart import (
    CORPUS,
    WORK,
    Folders,
    make_corpus,
    pretrain,
    run_steps,
    test_model,
    train_stage1,
    train_stage2,
)
from train_scripts.stages import visual_initialing

PAGE = DOCS / "every-signer.md"
TABLE_START = "<!-- written by benchmarks/every_signer.py -->"
OF_CORPUS = ("num_train_clips", "num_dev_clips", "num_test_clips", "num_text_only_sentences")
SIZES = (*OF_CORPUS, "language_model_epochs", "stage1_epochs", "stage2_epochs")
TITLE_OF_CORPUS = {
    "own": "the quickstart's corpus",
    "other": "another generator",
    "busy": "another generator, with something that moves behind every signer",
}
# What is undone in stage 1, on the corpus of the other generator.
VARIANTS = {
    "as it is": {},
    "whole frames": {"subtract_mean_frame": False},
    "batches of 16 clips": {"per_device_train_batch_size": 16, "learning_rate": 0.0014},
    "no changes of looks": {"contrast": 0, "saturation": 0, "invert": 0, "scale": 0, "translation": 0},
    "no mirror": {"horizontal_flip": 0},
}


@dataclass
class BenchmarkArguments(QuickstartArguments):
    """Sizes, which are those of `flallm quickstart`, and where the results go."""

    output_dir: str = field(default="outputs/every_signer", metadata={"help": "Folder of all runs and results."})
    report: str = field(default=str(PAGE), metadata={"help": "Page to write; figures land beside it."})
    report_only: bool = field(default=False, metadata={"help": "Run nothing, report what there is."})
    seeds: list[int] = field(default_factory=lambda: [0, 1, 2, 3, 4], metadata={"help": "Seeds to run now."})
    corpora: list[str] = field(
        default_factory=lambda: list(TITLE_OF_CORPUS), metadata={"help": f"Of {', '.join(TITLE_OF_CORPUS)}."}
    )
    variants: list[str] = field(
        default_factory=lambda: list(VARIANTS),
        metadata={"help": f"Of {', '.join(VARIANTS)}; they need the corpus `other` of the same seed."},
    )

    def __post_init__(self):
        super().__post_init__()
        for name, choices in (("corpora", TITLE_OF_CORPUS), ("variants", VARIANTS)):
            unknown = sorted(set(getattr(self, name)) - set(choices))
            if unknown:
                raise ValueError(f"--{name} takes {', '.join(choices)}, got {', '.join(unknown)}.")

    def folders(self, seed: int, corpus: str) -> Folders:
        return Folders(Path(self.output_dir) / f"seed_{seed}_{corpus}")


def run_quickstart(corpus: str, arguments: BenchmarkArguments, seed: int) -> dict[str, Any]:
    """Both stages of the quickstart on a corpus -> BLEU-4 of the test clips, and of each signer's, with their hand"""
    folders = arguments.folders(seed, corpus)
    shutil.rmtree(folders.output, ignore_errors=True)  # left by a run that was stopped
    sizes = {name: getattr(arguments, name) for name in SIZES}
    of_quickstart = QuickstartArguments(output_dir=str(folders.output), seed=seed, **sizes)
    steps = {
        "corpus": make_corpus if corpus == "own" else partial(_make_other_corpus, corpus == "busy"),
        "language model": pretrain,
        "stage 1": train_stage1,
        "stage 2": train_stage2,
    }
    run_steps(steps, of_quickstart, folders, WORK)
    return _scores(folders.model, folders, folders.test)


def run_variant(variant: str, arguments: BenchmarkArguments, seed: int) -> dict[str, Any]:
    """Stage 1 on the other generator's corpus, with settings undone -> as `run_quickstart`"""
    folders = arguments.folders(seed, "other")
    if not folders.stage1.is_dir():
        raise ValueError(f"{folders.stage1} does not exist yet. Add other to --corpora.")
    model = folders.output / f"stage1_{variant.replace(' ', '_')}" if VARIANTS[variant] else folders.stage1
    if VARIANTS[variant]:
        shutil.rmtree(model, ignore_errors=True)  # left by a run that was stopped
        argv = flags(
            config="quickstart_visual_initialing",
            dataset=folders.corpus,
            tokenizer_name_or_path=folders.language_model,
            num_train_epochs=arguments.stage1_epochs,
            seed=seed,
            output_dir=model,
            **CORPUS,
        )
        visual_initialing.train([*argv, *flags(**VARIANTS[variant])])
    return _scores(model, folders, model.with_name(f"test_{model.name}_alone"))


def _scores(model: Path, folders: Folders, output: Path) -> dict[str, Any]:
    scores, _ = test_model(model, folders, output)
    hands = {row["signer"]: row["handedness"] for row in read_metadata(folders.corpus / "test", "text")}
    seen = {row["signer"] for row in read_metadata(folders.corpus / "train", "text")}
    signers = {
        name: {"bleu4": of_signer["bleu4"], "handedness": hands[name], "is_seen": name in seen}
        for name, of_signer in scores["by_signer"].items()
    }
    return {"bleu4": scores["bleu4"], "signers": signers}


def _make_other_corpus(busy: bool, arguments: QuickstartArguments, folders: Folders, time_left: Any) -> None:
    sizes = {name: getattr(arguments, name) for name in OF_CORPUS}
    make_other_corpus(OtherCorpusArguments(str(folders.corpus), seed=arguments.seed, busy=busy, **sizes))


def measure(arguments: BenchmarkArguments) -> dict[str, Any]:
    parts: dict[str, Callable] = {corpus: partial(run_quickstart, corpus) for corpus in arguments.corpora}
    parts |= {variant: partial(run_variant, variant) for variant in arguments.variants}
    return measure_parts(arguments, parts, SIZES)


def format_report(results: Mapping[str, Any]) -> str:
    seeds = results["seeds"]
    command = command_line("every_signer.py", {"seeds": list(seeds), **results["sizes"]})
    lines = [f"Each run in one thread of {results['machine']}:", "", f"    {command}"]
    for corpus, title in TITLE_OF_CORPUS.items():
        runs = {seed: of_seed[corpus] for seed, of_seed in seeds.items() if corpus in of_seed}
        if runs:
            lines += ["", f"**{title[0].upper()}{title[1:]}**, BLEU-4 of stage 2:", "", *_table("seed", runs)]
            lines += ["", _mean_and_worst(runs.values())]
    for seed, of_seed in seeds.items():
        runs = {variant: of_seed[variant] for variant in VARIANTS if variant in of_seed}
        if runs:
            lines += ["", f"**Stage 1 on the other generator's corpus**, BLEU-4, seed {seed}:", "", *_table("", runs)]
    return "\n".join(lines)


def _table(name: str, runs: Mapping[str, Mapping[str, Any]]) -> list[str]:
    lines = heading(name, "all test clips", "worst signer", "the others", "processor minutes")
    for seed, run in runs.items():
        (worst, *others) = sorted(run["signers"].items(), key=lambda item: item[1]["bleu4"])
        cells = [seed, f"{run['bleu4']:.2f}", _signer(*worst), ", ".join(_signer(*other) for other in others)]
        lines.append(f"| {' | '.join(cells)} | {run['processor_seconds'] / 60:.1f} |")
    return lines


def _mean_and_worst(runs: Collection[Mapping[str, Any]]) -> str:
    mean = statistics.mean(run["bleu4"] for run in runs)
    worst = min(signer["bleu4"] for run in runs for signer in run["signers"].values())
    return f"Mean of all seeds {mean:.2f}, worst signer of all seeds {worst:.2f}."


def _signer(name: str, of_signer: Mapping[str, Any]) -> str:
    facts = [of_signer["handedness"] + "-handed"] if of_signer["handedness"] == "left" else []
    facts += ["seen in training"] if of_signer["is_seen"] else []
    in_brackets = f" ({', '.join(facts)})" if facts else ""
    return f"{name}{in_brackets} {of_signer['bleu4']:.2f}"


def main(argv: Sequence[str] | None = None) -> int:
    return run_benchmark(argv, BenchmarkArguments, __doc__, measure, format_report, TABLE_START)


if __name__ == "__main__":
    sys.exit(main())
