"""Compare two evaluations of the same clips: is the difference more than chance?

    flallm compare test_scores_a test_scores_b

Takes what `flallm evaluate` wrote: two folders, or two files predictions.jsonl. Both must hold the same clips with the
same references, scored in the same way.
"""

import json
import re
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..arguments.command_line import run_command
from ..arguments.commands import COMMANDS
from ..arguments.flag_values import check_new_folder
from ..machine.atomic_files import write_json
from ..scores.comparison import compare_systems, format_comparison
from ..scores.content_words import FunctionWords

COMPARED_COLUMNS = ("file_name", "start", "end", "reference", "signer")
PREDICTIONS, SCORES = "predictions.jsonl", "scores.json"


@dataclass(frozen=True)
class Evaluation:
    """What `flallm evaluate` wrote; `scores` is empty where scores.json is not beside the predictions."""

    path: Path
    rows: list[dict[str, Any]]
    scores: dict[str, Any]

    @property
    def signatures(self) -> dict[str, str]:
        content = self.scores.get("content_words", {}).get("signatures", {})
        return {**self.scores["signatures"], **{f"content words, {name}": text for name, text in content.items()}}


def read_evaluation(path: Path) -> Evaluation:
    """Read a folder of an evaluation or its predictions.jsonl; raises ValueError for a path that is neither."""
    predictions = path / PREDICTIONS if path.is_dir() else path
    if not predictions.is_file():
        raise ValueError(f"{path} must be the folder of an evaluation with {PREDICTIONS} in it, or such a file.")
    scores = predictions.with_name(SCORES)
    try:
        rows = [json.loads(line) for line in predictions.read_text(encoding="utf-8").splitlines()]
        texts = [row[name] for row in rows for name in ("prediction", "reference")]
        values = json.loads(scores.read_text(encoding="utf-8")) if scores.is_file() else {}
        if not texts or not all(isinstance(text, str) for text in texts) or not isinstance(values, dict):
            raise ValueError("no clips with texts")
    except (ValueError, KeyError, TypeError) as error:
        raise ValueError(
            f"{path} is not what flallm evaluate writes: each line of {PREDICTIONS} must be JSON with prediction and "
            f"reference, got {type(error).__name__}: {error}."
        ) from error
    return Evaluation(path, rows, values)


def check_same(first: Evaluation, second: Evaluation) -> None:
    """Raise ValueError naming the first difference between the clips, references or signatures of two evaluations."""
    names = f"{first.path} and {second.path}"
    if len(first.rows) != len(second.rows):
        raise ValueError(
            f"{names} must hold the same clips, got {len(first.rows)} and {len(second.rows)}. Evaluate both on the "
            "same split."
        )
    for number, (row, other) in enumerate(zip(first.rows, second.rows, strict=True)):
        for name in COMPARED_COLUMNS:
            if name in {*row} & {*other} and row[name] != other[name]:
                raise ValueError(
                    f"{names} must hold the same clips in the same order: {name} of clip {number} (counted from 0) is "
                    f"{row[name]!r} in the first and {other[name]!r} in the second."
                )
    if not (first.scores and second.scores):
        return
    ours, theirs = first.signatures, second.signatures
    for name in (*ours, *theirs):
        if ours.get(name) != theirs.get(name):
            raise ValueError(
                f"{names} must be scored in the same way: the signature of {name} is {ours.get(name)} in the first and "
                f"{theirs.get(name)} in the second. Evaluate them again with the same flags and the same version."
            )


def options_of(scores: dict[str, Any]) -> dict[str, Any]:
    """The options of `compare_systems` with which an evaluation was scored, from its signatures."""
    signature = scores["signatures"]["bleu4"]
    options = {
        "tokenize": re.search(r"\|tok:(\w+)", signature)[1],
        "lowercase": "|case:lc" in signature,
        "append_period": "|period:appended" in signature,
    }
    content = scores.get("content_words")
    if content is None or not content["signatures"]:
        return options
    source = re.search(r"\|content:(\w+)", content["signatures"]["bleu4"])[1]
    return {**options, "function_words": FunctionWords(tuple(content["function_words"]), source, options["tokenize"])}


def compare(argv: Sequence[str] | None = None) -> dict[str, Any]:
    """Print the comparison; with --output_dir, write comparison.json."""
    (arguments,) = COMMANDS["compare"].parse(argv)
    if arguments.output_dir is not None:
        check_new_folder(Path(arguments.output_dir))
    first, second = read_evaluation(arguments.first), read_evaluation(arguments.second)
    check_same(first, second)
    scores = first.scores or second.scores
    if not scores:
        raise ValueError(f"{first.path} or {second.path} must have its {SCORES} beside it, which says how to score.")
    signers = [row.get("signer") or other.get("signer") for row, other in zip(first.rows, second.rows, strict=True)]
    comparison = compare_systems(
        [row["prediction"] for row in first.rows],
        [row["prediction"] for row in second.rows],
        [row["reference"] for row in first.rows],
        signers=signers,
        **options_of(scores),
    )
    print(f"first: {first.path}\nsecond: {second.path}\n{format_comparison(comparison)}")
    if arguments.output_dir is not None:
        Path(arguments.output_dir).mkdir(parents=True, exist_ok=True)
        write_json(Path(arguments.output_dir) / "comparison.json", comparison)
    return comparison


def main(argv: Sequence[str] | None = None) -> int:
    return run_command(compare, argv)


if __name__ == "__main__":
    sys.exit(main())
