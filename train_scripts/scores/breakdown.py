"""The scores of parts of an evaluation, which one number over all clips hides."""

from collections.abc import Sequence
from typing import Any

from .metrics import comparable, scores_by_signer, variety_scores


def breakdown(
    predictions: Sequence[str], references: Sequence[str], signers: Sequence[str | None] | None = None, **options
) -> dict[str, Any]:
    """Return what `flallm evaluate` adds to the scores of all clips: those of `scores_by_signer`, where the `signers`
    are known, and as `variety` those of `variety_scores` with `num_different_references`. `options` are those of
    `translation_scores`."""
    variety = variety_scores(predictions) | {"num_different_references": len(set(map(comparable, references)))}
    return {
        **({} if signers is None else scores_by_signer(predictions, references, signers, **options)),
        "variety": variety,
    }
