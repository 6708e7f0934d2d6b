"""Scores for the stage scripts and commands: a thin layer over the `evaluate` module in the folder beside it."""

from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import evaluate
import numpy as np
import torch
from accelerate import PartialState
from sacrebleu.metrics import CHRF
from transformers import EvalPrediction

from .recognition import TITLE_OF_RECOGNITION, recognition_scores
from .sign_language_translation_score.sign_language_translation_score import comparable

SCORE_MODULE_FOLDER = Path(__file__).resolve().parent / "sign_language_translation_score"
TITLE_OF_SCORE = {
    "bleu1": "BLEU-1",
    "bleu2": "BLEU-2",
    "bleu3": "BLEU-3",
    "bleu4": "BLEU-4",
    "chrf": "chrF",
    "rouge_l_mscoco": "ROUGE-L (mscoco)",
}
# How varied the predictions of an evaluation are, as shares of all: a model that ignores its clips writes one sentence.
DIFFERENT, MOST_FREQUENT = "different_predictions", "most_frequent_prediction"


def translation_scores(predictions: Sequence[str], references: Sequence[str], **options) -> dict:
    """Score the predictions against the references, both normalised (`comparable`), once over the whole corpus.

    `options` are those of the module: `language`, `tokenize`, `lowercase`, `append_period`, `num_resamples`, `seed`.
    The result holds `bleu1` to `bleu4`, `chrf` and `rouge_l_mscoco` (0 to 100), `num_segments`,
    `num_empty_predictions`, `signatures` and `confidence_intervals`. Raises TypeError or ValueError naming the segment
    or option that is wrong.

        >>> translation_scores(["am tag regen"], ["am tag regnet es"])["rouge_l_mscoco"]
        55.70776255707762
    """
    score_module = evaluate.load(str(SCORE_MODULE_FOLDER), keep_in_memory=True)
    return score_module.compute(predictions=predictions, references=references, **options)


def more_signed(signature: str, more: str | None) -> str:
    """sacrebleu's signature with what else the score depends on, before the version."""
    return signature if more is None else signature.replace("|version:", f"|{more}|version:")


def scores_by_signer(
    predictions: Sequence[str], references: Sequence[str], signers: Sequence[str | None], **options
) -> dict:
    """Return the BLEU-4 of each signer's clips; a score over all clips can hide a signer who is not understood.

    `signers` names the signer of each clip; clips with none or an empty name count for nobody. `options` are those of
    `translation_scores`. The result holds `by_signer`, which maps each name to `bleu4` and `num_segments`, worst first,
    and `worst_signer_bleu4`; it is empty if no clip has a signer.
    """
    by_signer = scores_of_groups(predictions, references, signers, **options)
    if not by_signer:
        return {}
    by_signer = dict(sorted(by_signer.items(), key=lambda item: (item[1]["bleu4"], item[0])))
    return {"by_signer": by_signer, "worst_signer_bleu4": next(iter(by_signer.values()))["bleu4"]}


def scores_of_groups(
    predictions: Sequence[str], references: Sequence[str], groups: Sequence[str | None], **options
) -> dict[str, dict[str, float]]:
    """Return `bleu4` and `num_segments` of each group of clips, by its name, in the order of their first clips.

    `groups` names the group of each clip; clips with none or an empty name belong to none. `options` are those of
    `translation_scores`; no bootstrap is run.
    """
    texts: dict[str, list[tuple[str, str]]] = {}
    for prediction, reference, group in zip(predictions, references, groups, strict=True):
        if group:
            texts.setdefault(group, []).append((prediction, reference))
    return {group: {"bleu4": _bleu4(pairs, **options), "num_segments": len(pairs)} for group, pairs in texts.items()}


def _bleu4(pairs: Sequence[tuple[str, str]], **options) -> float:
    predictions, references = map(list, zip(*pairs, strict=True))
    return translation_scores(predictions, references, **{**options, "num_resamples": 0})["bleu4"]


def variety_scores(predictions: Sequence[str]) -> dict[str, Any]:
    """Return how varied the predictions are, after `comparable`: a model that has collapsed ignores its clips and
    writes one sentence.

    The result holds `num_different_predictions`; the same as a share of all, `different_predictions`; the most frequent
    prediction as `most_frequent_text`, the first of several; and its share, `most_frequent_prediction`.

        >>> variety_scores(["rain", "rain", "sun", "wind"])["most_frequent_prediction"]
        0.5
    """
    counts = Counter(map(comparable, predictions))
    ((text, count),) = counts.most_common(1)
    return {
        "num_different_predictions": len(counts),
        DIFFERENT: len(counts) / len(predictions),
        MOST_FREQUENT: count / len(predictions),
        "most_frequent_text": text,
    }


def sentence_chrf(prediction: str, reference: str) -> float:
    """Return the chrF, 0 to 100, of one prediction, normalised in the same way as for the other scores."""
    return CHRF().sentence_score(comparable(prediction), [comparable(reference)]).score


def format_scores(scores: dict) -> str:
    """Return the result of `translation_scores` as a table: score, 95 % interval where there is one, signature.

    Scores of recognition, if there are any, follow.
    """
    rows = [("metric", "score", "95 % interval", "signature")]
    for name, title in TITLE_OF_SCORE.items():
        interval = scores["confidence_intervals"].get(name)
        interval_text = f"{interval['low']:.2f} - {interval['high']:.2f}" if interval else "-"
        rows.append((title, f"{scores[name]:.2f}", interval_text, scores["signatures"][name]))
    widths = [max(len(cell) for cell in column) for column in zip(*rows, strict=True)]
    lines = [
        f"{title:<{widths[0]}}  {score:>{widths[1]}}  {interval:>{widths[2]}}  {signature}"
        for title, score, interval, signature in rows
    ]
    summary = f"{scores['num_segments']} segments, {scores['num_empty_predictions']} empty predictions"
    recognition = [f"{title}: {scores[name]:.2f} %" for name, title in TITLE_OF_RECOGNITION.items() if name in scores]
    return "\n".join([*lines, summary, *recognition])


def build_compute_metrics(
    batch_decode: Callable[..., list[str]],
    references: Sequence[str],
    pad_token_id: int,
    are_glosses: bool = False,
    **options,
) -> Callable[[EvalPrediction], dict[str, float]]:
    """Return the `compute_metrics` function of a `Seq2SeqTrainer` with `predict_with_generate=True`.

    `batch_decode(token_ids, skip_special_tokens=True)` is that of a processor or tokenizer; `references` are the raw
    strings of the evaluation dataset, in its order; `options` are those of `translation_scores`, except that no
    bootstrap is run unless `num_resamples` asks for one. The function returns the six scores,
    `num_empty_predictions`, `mean_generated_tokens` (including special tokens, excluding padding), and the shares
    `different_predictions` and `most_frequent_prediction`, all floats; where references `are_glosses`, also those of
    `recognition_scores`. With several processes, each gets the predictions of all of them, in dataset order and
    followed by the repeats that fill the last batch; these are cut off. Raises ValueError for references or options
    that cannot be scored and, when called, if predictions and
    references cannot belong together.
    """
    references = list(references)
    options = {"num_resamples": 0, **options}
    # Stop the run here for a bad reference or option, not at the first evaluation.
    translation_scores(references, references, **options)

    def compute_metrics(evaluation: EvalPrediction) -> dict[str, float]:
        token_ids = generated_token_ids(evaluation.predictions, len(references), pad_token_id)
        if evaluation.label_ids is not None:
            label_ids = without_ignored(evaluation.label_ids[: len(references)], pad_token_id)
            check_dataset_order(batch_decode(label_ids, skip_special_tokens=True), references)
        predictions = batch_decode(token_ids, skip_special_tokens=True)
        scores = translation_scores(predictions, references, **options)
        reported = {name: scores[name] for name in (*TITLE_OF_SCORE, "num_empty_predictions")}
        reported |= recognition_scores(predictions, references) if are_glosses else {}
        reported["mean_generated_tokens"] = np.count_nonzero(token_ids != pad_token_id, axis=1).mean()
        variety = variety_scores(predictions)
        reported |= {name: variety[name] for name in (DIFFERENT, MOST_FREQUENT)}
        return {name: float(score) for name, score in reported.items()}

    return compute_metrics


def without_ignored(token_ids: np.ndarray, pad_token_id: int) -> np.ndarray:
    """Return the token ids with `pad_token_id` where the Trainer or the collator wrote -100."""
    return np.where(token_ids == -100, pad_token_id, token_ids)


def beside_their_clip(token_ids: torch.Tensor, generation: dict[str, Any]) -> torch.Tensor:
    """Return generated ids (clips * candidates, tokens) as (clips, tokens, candidates), or what is not of several
    candidates as it is; `generation` are the arguments of `generate`.

    The Trainer gathers rows and fills up their second dimension: so candidates stay with their clip.
    """
    num_candidates = generation.get("num_return_sequences", 1)
    if num_candidates == 1:
        return token_ids
    return token_ids.unflatten(0, (-1, num_candidates)).transpose(1, 2).contiguous()


def generated_token_ids(predictions: np.ndarray | tuple, num_references: int, pad_token_id: int) -> np.ndarray:
    """Return one row of generated ids per reference, (num_references, tokens), from what the Trainer gathered; of
    several candidates for each, (num_references, tokens, candidates).

    Raises ValueError for anything but generated ids, for too few rows, and for too many in a single process, which
    never repeats a row.
    """
    token_ids = predictions[0] if isinstance(predictions, tuple) else predictions
    if token_ids.ndim not in (2, 3) or not np.issubdtype(token_ids.dtype, np.integer):
        raise ValueError(
            f"Expected generated token ids of shape (sentences, tokens), got {token_ids.dtype} of shape "
            f"{token_ids.shape}. Set predict_with_generate=True."
        )
    may_repeat = PartialState().num_processes > 1
    if len(token_ids) < num_references or (len(token_ids) > num_references and not may_repeat):
        raise ValueError(
            f"Got {len(token_ids)} predictions for {num_references} references. Build compute_metrics from the "
            f"references of the dataset being evaluated."
        )
    return without_ignored(token_ids[:num_references], pad_token_id)


def check_dataset_order(decoded_labels: list[str], references: list[str]) -> None:
    """Raise ValueError if most labels decode to a different reference than the one at their position.

    The labels are not scored. They only reveal a reordered evaluation, such as the one that
    `train_sampling_strategy="group_by_length"` causes, because transformers applies it to the evaluation dataset too.
    """
    labels = [comparable(label) for label in decoded_labels]
    expected = [comparable(reference) for reference in references]
    known = set(expected)
    num_misplaced = sum(
        label != reference and label in known for label, reference in zip(labels, expected, strict=True)
    )
    if num_misplaced > len(expected) / 2:
        raise ValueError(
            f"{num_misplaced} of {len(expected)} labels belong to a different sentence than the reference at the same "
            f"position: the evaluation does not run in dataset order. Give the Trainer a sequential evaluation sampler."
        )
