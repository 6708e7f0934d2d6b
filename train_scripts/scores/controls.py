"""Scores without the clip: what a model guesses from the language alone."""

import random
from collections.abc import Mapping, Sequence
from typing import Any

from .content_words import FunctionWords
from .metrics import comparable, translation_scores

SHUFFLED = "shuffled"
TITLE_OF_CONTROL = {"noise": "noise in its place", "frozen": "its first frame frozen"}


def drawn_clips(num_clips: int, most: int) -> list[int]:
    """Return the indices of at most so many clips, always the same: drawn, because in data sets signers often take
    turns or follow each other."""
    return sorted(random.Random(0).sample(range(num_clips), min(num_clips, most)))


def clips_of_other_sentences(references: Sequence[str]) -> list[int | None]:
    """Return for each clip the index of another one with another sentence; None where all sentences are the same.

    It is the next one after half of all clips, because neighbours may be from one video and on one topic.
    """
    sentences = list(map(comparable, references))
    number = len(sentences)

    def other_than(index: int) -> int | None:
        others = ((index + number // 2 + step) % number for step in range(number))
        return next((other for other in others if sentences[other] != sentences[index]), None)

    return list(map(other_than, range(number)))


def control_scores(
    predictions: Sequence[str],
    references: Sequence[str],
    texts_of_controls: Mapping[str, Sequence[str]],
    indices: Sequence[int],
    function_words: FunctionWords,
    **options: Any,
) -> dict[str, dict[str, Any]]:
    """Return `bleu4`, `chrf`, `num_segments` and `content_bleu4`, that of content words, of each control, and under
    `with_the_clip` the same scores of the model on the same clips.

    `texts_of_controls` are the model's translations of the clips at `indices` without what they show, by the name of
    the control. `shuffled` is added, which needs no model: the reference of each clip against the translation of
    another clip. `options` are those of `translation_scores`.
    """
    of_controls = {name: ([*indices], list(texts)) for name, texts in texts_of_controls.items()}
    others = clips_of_other_sentences(references)
    shuffled = [index for index, other in enumerate(others) if other is not None]
    if shuffled:
        of_controls[SHUFFLED] = (shuffled, [predictions[others[index]] for index in shuffled])

    def scores_of(texts: Sequence[str], clips: Sequence[int]) -> dict[str, Any]:
        of_clips = [references[index] for index in clips]
        scores = translation_scores(texts, of_clips, **{**options, "num_resamples": 0})
        content = function_words.scores(texts, of_clips, **options)
        return {
            **{name: scores[name] for name in ("bleu4", "chrf", "num_segments")},
            "content_bleu4": content["bleu4"],
        }

    return {
        name: scores_of(texts, clips) | {"with_the_clip": scores_of([predictions[index] for index in clips], clips)}
        for name, (clips, texts) in of_controls.items()
    }
