"""Scores of recognition: glosses as a signer made them, in their order, in place of a sentence that means the same."""

from collections.abc import Sequence

from .sign_language_translation_score.sign_language_translation_score import comparable

TITLE_OF_RECOGNITION = {"wer": "word error rate", "accuracy": "accuracy"}


def recognition_scores(
    predictions: Sequence[str], references: Sequence[str], lowercase: bool = False
) -> dict[str, float]:
    """Score recognised glosses, which white space separates, against the true ones.

    Returns `wer`, the word error rate: insertions, deletions and substitutions of all clips over their number of
    glosses, times 100; and `accuracy`, the percentage of clips of which all glosses are right. Both sides are
    normalised first (`comparable`). Raises ValueError for different numbers of them, and without any gloss.

        >>> recognition_scores(["HAUS REGEN", "KOMMEN"], ["HAUS REGEN", "MORGEN KOMMEN"])
        {'wer': 25.0, 'accuracy': 50.0}
    """
    if len(predictions) != len(references):
        raise ValueError(f"Each prediction needs a reference, got {len(predictions)} and {len(references)}.")
    pairs = [
        tuple(comparable(text.lower() if lowercase else text).split() for text in pair)
        for pair in zip(predictions, references, strict=True)
    ]
    num_glosses = sum(len(true) for _, true in pairs)
    if num_glosses == 0:
        raise ValueError("The references hold no gloss.")
    errors = [edit_distance(recognised, true) for recognised, true in pairs]
    return {"wer": 100 * sum(errors) / num_glosses, "accuracy": 100 * errors.count(0) / len(errors)}


def edit_distance(first: Sequence[str], second: Sequence[str]) -> int:
    """Return the smallest number of insertions, deletions and substitutions that make one sequence of the other."""
    row = list(range(len(second) + 1))
    for index, item in enumerate(first):
        diagonal, row[0] = row[0], index + 1
        for place, other in enumerate(second):
            diagonal, row[place + 1] = (
                row[place + 1],
                min(row[place] + 1, row[place + 1] + 1, diagonal + (item != other)),
            )
    return row[-1]
