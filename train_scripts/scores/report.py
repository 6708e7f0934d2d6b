"""What an evaluation says of groups of clips and of the model: as text, as rows of the card, as bars of a picture."""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from .controls import SHUFFLED, TITLE_OF_CONTROL

MOST_ROWS = 12  # of a group that are printed; ours
# The keys of scores.json that the report is made of.
REPORTED = ("by_signer", "controls", "variety")


@dataclass(frozen=True)
class Group:
    """BLEU-4 of parts of the clips: `rows` of what they are, their score and their number."""

    title: str
    rows: tuple[tuple[str, float, int], ...]


def groups_of(scores: dict[str, Any]) -> list[Group]:
    """Return the groups that an evaluation has scored, as far as there are any."""
    groups = []
    if "by_signer" in scores:
        groups.append(_group("by signer, worst first", scores["by_signer"].items()))
    return groups


def _group(title: str, parts: Iterable[tuple[str, dict[str, Any]]]) -> Group:
    return Group(title, tuple((name, part["bleu4"], part["num_segments"]) for name, part in parts))


def sentences_of(scores: dict[str, Any]) -> list[str]:
    """Return what else the evaluation found, in plain sentences."""
    return _controls(scores.get("controls", {})) + ([_variety(scores["variety"])] if "variety" in scores else [])


def _controls(controls: dict[str, dict[str, Any]]) -> list[str]:
    sentences = []
    without = [name for name in controls if name != SHUFFLED]
    if without:
        scores = " and ".join(f"{controls[name]['bleu4']:.2f} BLEU-4 ({TITLE_OF_CONTROL[name]})" for name in without)
        of_model, count = controls[without[0]]["with_the_clip"]["bleu4"], controls[without[0]]["num_segments"]
        sentences.append(f"Without the clip the model scores {scores}; with it {of_model:.2f} ({count} clips).")
    if SHUFFLED in controls:
        sentences.append(f"Its translations of other clips score {controls[SHUFFLED]['bleu4']:.2f} BLEU-4.")
    return sentences


def _variety(variety: dict[str, Any]) -> str:
    share = 100 * variety["most_frequent_prediction"]
    return (
        f"Different translations: {variety['num_different_predictions']}, of {variety['num_different_references']} "
        f"different references. The most frequent one is {share:.1f} % of all: {variety['most_frequent_text']!r}"
    )


def format_report(scores: dict[str, Any]) -> str:
    """Return groups and sentences as a text of several lines, of a group at most the first rows."""
    lines = []
    for group in groups_of(scores):
        shown, width = group.rows[:MOST_ROWS], max(len(name) for name, *_ in group.rows[:MOST_ROWS])
        lines += [f"BLEU-4 {group.title}"]
        lines += [f"  {name:<{width}}  {bleu4:>6.2f}  ({count} clips)" for name, bleu4, count in shown]
        lines += [f"  and {len(group.rows) - MOST_ROWS} more in scores.json"] if len(group.rows) > MOST_ROWS else []
    return "\n".join([*lines, *sentences_of(scores)])
