"""What an evaluation says of groups of clips and of the model: as text, as rows of the card, as bars of a picture."""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from .controls import SHUFFLED, TITLE_OF_CONTROL

MOST_ROWS = 12  # of a group that are printed; ours
# The keys of scores.json that the report is made of.
REPORTED = (
    "by_signer",
    "by_length",
    "by_unseen_words",
    "by_unseen_sentence",
    "controls",
    "content_words",
    "variety",
)
TITLE_OF_KIND = {"embedding": "Cosine of embeddings by", "learned": "Learned metric"}
TITLE_OF_UNSEEN = {
    "by_unseen_words": ("by words that training never had", {"none": "none", "some": "one or more"}),
    "by_unseen_sentence": (
        "by sentence",
        {"seen": "sentence of the training split", "unseen": "new sentence"},
    ),
}


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
    if "by_length" in scores:
        unit = scores["by_length"]["unit"]
        groups.append(_group(f"by {unit}s of the reference", scores["by_length"]["groups"].items()))
    for name, (title, titles) in TITLE_OF_UNSEEN.items():
        if name in scores:
            groups.append(_group(title, ((titles[key], scores[name][key]) for key in titles if key in scores[name])))
    return groups


def _group(title: str, parts: Iterable[tuple[str, dict[str, Any]]]) -> Group:
    return Group(title, tuple((name, part["bleu4"], part["num_segments"]) for name, part in parts))


def sentences_of(scores: dict[str, Any]) -> list[str]:
    """Return what else the evaluation found, in plain sentences."""
    sentences = controls_of(scores)
    if "content_words" in scores:
        sentences.append(_content(scores["content_words"]))
    for name, values in scores.get("model_scores", {}).items():
        sentences.append(f"{TITLE_OF_KIND[values['kind']]} {name}: {values['score']:.4f}")
    if "variety" in scores:
        sentences.append(_variety(scores["variety"]))
    return sentences


def _content(content: dict[str, Any]) -> str:
    signature = content["signatures"].get("bleu4", "no clip has any")
    return f"Content words alone: BLEU-4 {content['bleu4']:.2f}, chrF {content['chrf']:.2f} ({signature})"


def controls_of(scores: dict[str, Any]) -> list[str]:
    """Return what the model scores without its clips, in plain sentences."""
    controls, sentences = scores.get("controls", {}), []
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
