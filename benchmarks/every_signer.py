"""
Who is understood: the quickstart's presets on several seeds of its own corpus, and on the corpus of another generator,
whose training signers are few and all right-handed (other_signing.py).

    python benchmarks/every_signer.py --seeds 0 1 2 3 4

For each seed and corpus: the language model, both stages, and the scores of each test signer. Every run has one thread.
The tables of docs/every-signer.md and its figures (.json) are written at the end; `--report_only True` writes them
again from existing results. What an earlier run of the same sizes finished is kept. A small run, in two minutes:

    python benchmarks/every_signer.py --seeds 0 --output_dir outputs/tiny --report outputs/tiny/page.md \
        --num_train_clips 16 --num_dev_clips 30 --num_test_clips 8 --num_text_only_sentences 100 \
        --language_model_epochs 1 --stage1_epochs 1 --stage2_epochs 1
"""

import shutil
import statistics
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

from benchmark_parts import DOCS, command_line, run_benchmark
from other_signing import OtherCorpusArguments, make_other_corpus
from seeded_parts import heading, measure_parts

from train_scripts.arguments.quickstart_arguments import QuickstartArguments
from train_scripts.clips.clip_folders import read_metadata
from train_scripts.commands.quickstart import (
    WORK,
    Folders,
    make_corpus,
    pretrain,
    run_steps,
    test_model,
    train_stage1,
    train_stage2,
)

PAGE = DOCS / "every-signer.md"
TABLE_START = "<!-- written by benchmarks/every_signer.py -->"
OF_CORPUS = ("num_train_clips", "num_dev_clips", "num_test_clips", "num_text_only_sentences")
SIZES = (*OF_CORPUS, "language_model_epochs", "stage1_epochs", "stage2_epochs")
TITLE_OF_CORPUS = {
    "own": "the quickstart's corpus",
    "other": "another generator",
    "busy": "another generator, with something that moves behind every signer",
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

    def __post_init__(self):
        super().__post_init__()
        unknown = sorted(set(self.corpora) - set(TITLE_OF_CORPUS))
        if unknown:
            raise ValueError(f"--corpora takes {', '.join(TITLE_OF_CORPUS)}, got {', '.join(unknown)}.")


def run_quickstart(corpus: str, arguments: BenchmarkArguments, seed: int) -> dict[str, Any]:
    """Both stages of the quickstart on a corpus -> BLEU-4 of the test clips, and of each signer's, with their hand"""
    folders = Folders(Path(arguments.output_dir) / f"seed_{seed}_{corpus}")
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
    scores, _ = test_model(folders.model, folders, folders.test)
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
    return measure_parts(arguments, parts, SIZES)


def format_report(results: Mapping[str, Any]) -> str:
    seeds = results["seeds"]
    command = command_line("every_signer.py", {"seeds": list(seeds), **results["sizes"]})
    lines = [f"Each run in one thread of {results['machine']}:", "", f"    {command}"]
    for corpus, title in TITLE_OF_CORPUS.items():
        runs = {seed: of_seed[corpus] for seed, of_seed in seeds.items() if corpus in of_seed}
        if runs:
            lines += ["", f"**{title[0].upper()}{title[1:]}**, BLEU-4 of stage 2:", "", *_table(runs)]
    return "\n".join(lines)


def _table(runs: Mapping[str, Mapping[str, Any]]) -> list[str]:
    lines = heading("seed", "all test clips", "worst signer", "the others", "minutes")
    for seed, run in runs.items():
        (worst, *others) = sorted(run["signers"].items(), key=lambda item: item[1]["bleu4"])
        cells = [seed, f"{run['bleu4']:.2f}", _signer(*worst), ", ".join(_signer(*other) for other in others)]
        lines.append(f"| {' | '.join(cells)} | {run['seconds'] / 60:.1f} |")
    mean = statistics.mean(run["bleu4"] for run in runs.values())
    worst = min(signer["bleu4"] for run in runs.values() for signer in run["signers"].values())
    return [*lines, "", f"Mean of all seeds {mean:.2f}, worst signer of all seeds {worst:.2f}."]


def _signer(name: str, of_signer: Mapping[str, Any]) -> str:
    facts = [of_signer["handedness"] + "-handed"] if of_signer["handedness"] == "left" else []
    facts += ["seen in training"] if of_signer["is_seen"] else []
    in_brackets = f" ({', '.join(facts)})" if facts else ""
    return f"{name}{in_brackets} {of_signer['bleu4']:.2f}"


def main(argv: Sequence[str] | None = None) -> int:
    return run_benchmark(argv, BenchmarkArguments, __doc__, measure, format_report, TABLE_START)


if __name__ == "__main__":
    sys.exit(main())
