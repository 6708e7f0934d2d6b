"""Scores of several translations of a clip where several sentences are right: see `flallm generate-corpus`."""

from collections.abc import Sequence

from .sign_language_translation_score.sign_language_translation_score import comparable


def score_readings(
    candidates_of_clips: Sequence[Sequence[str]], readings_of_clips: Sequence[Sequence[str]]
) -> dict[str, dict[str, float]]:
    """Score the candidates of each clip against all its right readings, after `comparable`.

    Returns, under `ambiguous` for clips with several readings and under `others` for clips with one, as far as there
    are such clips: `precision`, the percentage of candidates that are a right reading, repeated ones included;
    `coverage`, the percentage of right readings that are among the candidates; and `num_clips`. Raises ValueError for
    different numbers of clips, and for a clip without candidates or readings.

        >>> score_readings([["a", "b", "c", "a"], ["d", "e"]], [["a", "b"], ["d"]])["ambiguous"]
        {'precision': 75.0, 'coverage': 100.0, 'num_clips': 1}
    """
    if len(candidates_of_clips) != len(readings_of_clips):
        raise ValueError(
            f"Each clip needs candidates and readings, got {len(candidates_of_clips)} and {len(readings_of_clips)}."
        )
    clips = [
        ([comparable(text) for text in candidates], {comparable(text) for text in readings})
        for candidates, readings in zip(candidates_of_clips, readings_of_clips, strict=True)
    ]
    for index, (candidates, readings) in enumerate(clips):
        if not (candidates and readings):
            raise ValueError(
                f"Each clip needs at least one candidate and one reading, but clip {index} has {len(candidates)} and "
                f"{len(readings)}."
            )
    kinds = {
        "ambiguous": [clip for clip in clips if len(clip[1]) > 1],
        "others": [clip for clip in clips if len(clip[1]) == 1],
    }
    return {kind: _precision_and_coverage(chosen) for kind, chosen in kinds.items() if chosen}


def _precision_and_coverage(clips: Sequence[tuple[list[str], set[str]]]) -> dict[str, float]:
    right = sum(text in readings for candidates, readings in clips for text in candidates)
    found = sum(len(readings.intersection(candidates)) for candidates, readings in clips)
    return {
        "precision": 100 * right / sum(len(candidates) for candidates, _ in clips),
        "coverage": 100 * found / sum(len(readings) for _, readings in clips),
        "num_clips": len(clips),
    }
