"""The choice among the candidate translations of an evaluation, and what the best possible choice would score."""

from collections.abc import Sequence
from typing import Any

import torch
from sacrebleu.metrics import BLEU, CHRF

from modeling_flallm.choice_slt import UTILITIES, EmbeddingUtility, Utility, best_candidates, utility_named

from .metrics import translation_scores
from .sign_language_translation_score.sign_language_translation_score import comparable, resolve_tokenizer

TITLE_OF_CHOICE = {
    "single": "first candidate",
    "mbr": "chosen (scored above)",
    "oracle": "oracle (knows the reference; no score of the model)",
}
TITLE_WITHOUT_CHOICE = {"single": "best beam (scored above)"}
TITLE_OF_DIVERSITY = {
    "self_bleu": "self-BLEU",
    "distinct_1": "distinct-1",
    "distinct_2": "distinct-2",
    "different_sentences": "different sentences for each clip",
}


def utility_of_flag(choose_by: str | None, device: torch.device | str = "cpu") -> Utility:
    """Return what `--choose_by` names: bleu, chrf, or a text encoder by folder or Hub id; bleu for `None`.

    Raises ValueError for a text encoder that cannot be loaded.
    """
    if choose_by is None or choose_by in UTILITIES:
        return utility_named(choose_by)
    try:
        return EmbeddingUtility(choose_by, device)
    except (OSError, ValueError) as error:
        raise ValueError(
            f"--choose_by must be {', '.join(UTILITIES)}, or the folder or Hub id of a text encoder, got "
            f"{choose_by!r}: {error}"
        ) from error


def best_texts(candidates_of_clips: Sequence[Sequence[str]], utility: Utility) -> list[str]:
    """Return the candidate of each clip that `generate(num_candidates=)` would choose."""
    return [candidates[best_candidates(candidates, utility)[0][0]] for candidates in candidates_of_clips]


def oracle_texts(
    candidates_of_clips: Sequence[Sequence[str]],
    references: Sequence[str],
    language: str | None = None,
    lowercase: bool = False,
) -> list[str]:
    """Return the candidate of each clip with the highest sentence BLEU-4, of several with the same the one with the
    highest chrF. Nobody can choose so without the reference: its scores say what the candidates hold."""
    metrics = [
        BLEU(lowercase=lowercase, effective_order=True, tokenize=resolve_tokenizer(None, language), force=True),
        CHRF(lowercase=lowercase),
    ]

    def closest(candidates: Sequence[str], reference: str) -> str:
        scores = [
            [metric.sentence_score(comparable(text), [comparable(reference)]).score for metric in metrics]
            for text in candidates
        ]
        return candidates[scores.index(max(scores))]

    return list(map(closest, candidates_of_clips, references))


def choice_scores(
    candidates_of_clips: Sequence[Sequence[str]],
    chosen: Sequence[str] | None,
    references: Sequence[str],
    **options: Any,
) -> dict[str, dict[str, float]]:
    """Return `bleu4` and `chrf` of the first candidates (`single`), of those that were `chosen` by minimum Bayes risk
    (`mbr`), if any were, and of the `oracle`. `options` are those of `translation_scores`."""
    texts = {
        "single": [candidates[0] for candidates in candidates_of_clips],
        **({} if chosen is None else {"mbr": chosen}),
        "oracle": oracle_texts(
            candidates_of_clips, references, options.get("language"), options.get("lowercase", False)
        ),
    }
    scores = {
        name: translation_scores(each, references, **{**options, "num_resamples": 0}) for name, each in texts.items()
    }
    return {name: {"bleu4": of_choice["bleu4"], "chrf": of_choice["chrf"]} for name, of_choice in scores.items()}


def format_choice(scores: dict[str, Any]) -> str:
    """Return the `choice` and the `diversity` of an evaluation as two tables."""
    width = max(map(len, TITLE_OF_CHOICE.values()))
    titles = TITLE_OF_CHOICE if "mbr" in scores["choice"] else {**TITLE_OF_CHOICE, **TITLE_WITHOUT_CHOICE}
    rows = [(title, scores["choice"][name]) for name, title in titles.items() if name in scores["choice"]]
    lines = [f"{'candidates':<{width}}  BLEU-4    chrF"]
    lines += [f"{title:<{width}}  {values['bleu4']:>6.2f}  {values['chrf']:>6.2f}" for title, values in rows]
    diversity = [
        f"{title} {scores['diversity'][name]:.2f}"
        for name, title in TITLE_OF_DIVERSITY.items()
        if name in scores["diversity"]
    ]
    return "\n".join([*lines, ", ".join(diversity)])
