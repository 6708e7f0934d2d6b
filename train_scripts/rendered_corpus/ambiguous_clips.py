"""Sentences signed with a homonym, so that they have two right readings and nobody can tell which is meant."""

import itertools
from collections.abc import Sequence

import numpy as np

from .signing_language import HOMONYMS, HOMONYMS_BY_GLOSS, Sign

Glosses = tuple[str, ...]


def make_ambiguous(
    sentences: dict[str, list[Glosses]],
    signs: Sequence[Sign],
    share: float,
    generators: dict[str, np.random.Generator],
) -> dict[str, list[Glosses]]:
    """Returns what is signed for each sentence of each split: the sentence itself, or, for this share of each split and
    at least one, a homonym in place of one sign. No sentence becomes a reading of two clips. A higher share makes
    further clips ambiguous beside those of a lower. Raises ValueError if too few sentences have a second reading."""
    taken = {glosses for each in sentences.values() for glosses in each}
    signed = {}
    for split, of_split in sentences.items():
        ambiguous = _find_ambiguous(of_split, signs, taken, generators[split])
        num_clips = max(1, round(share * len(of_split)))
        if len(ambiguous) < num_clips:
            raise ValueError(
                f"`ambiguous_clips` {share} needs {num_clips} sentences of {split} with a second reading that no other "
                f"clip has, but there are {len(ambiguous)}. Ask for a smaller share."
            )
        chosen = dict(ambiguous[:num_clips])
        signed[split] = [chosen.get(index, glosses) for index, glosses in enumerate(of_split)]
    return signed


def _find_ambiguous(
    sentences: Sequence[Glosses], signs: Sequence[Sign], taken: set[Glosses], generator: np.random.Generator
) -> list[tuple[int, Glosses]]:
    """Returns, in random order, the index of each sentence that can be signed ambiguously, and what is signed then.
    Their further readings are not in `taken`, and are added to it."""
    ambiguous = []
    for index in generator.permutation(len(sentences)).tolist():
        ways = [
            glosses
            for glosses in sign_ambiguously(sentences[index], signs)
            if taken.isdisjoint({*list_readings(glosses)} - {sentences[index]})
        ]
        if ways:
            ambiguous.append((index, ways[generator.integers(len(ways))]))
            taken.update(list_readings(ambiguous[-1][1]))
    return ambiguous


def sign_ambiguously(glosses: Sequence[str], signs: Sequence[Sign]) -> list[Glosses]:
    """Returns the ways to sign a sentence that give it a second reading in words of `signs`: a homonym in place of one
    sign, whose other meaning does not occur in the sentence."""
    known = {sign.gloss for sign in signs}
    usable = [homonym for homonym in HOMONYMS if known.issuperset(homonym.meanings)]
    return [
        (*glosses[:position], homonym.gloss, *glosses[position + 1 :])
        for position, gloss in enumerate(glosses)
        for homonym in usable
        if gloss in homonym.meanings and len(set(homonym.meanings) & set(glosses)) == 1
    ]


def list_readings(glosses: Sequence[str]) -> list[Glosses]:
    """Returns the glosses of every right reading of what is signed, with a meaning in place of each homonym."""
    choices = [HOMONYMS_BY_GLOSS[gloss].meanings if gloss in HOMONYMS_BY_GLOSS else (gloss,) for gloss in glosses]
    return list(itertools.product(*choices))
