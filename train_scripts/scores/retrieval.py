"""How often videos retrieve their own sentences among all those of a split, and how well their words are predicted."""

import numpy as np
import torch


def retrieval_scores(videos: torch.Tensor, sentences: torch.Tensor, own: torch.Tensor) -> dict[str, float]:
    """
    Video-to-sentence retrieval: `recall_at_1` and `recall_at_5` (percentage of videos whose own sentence ranks first,
    or among the first five), `median_rank`, the chance level of each, and `num_sentences`.

    Args:
        videos: `(clips, width)`, and `sentences`: `(distinct sentences, width)`.
        own: `(clips,)`, row indices into `sentences`.

    Ties count against the video: if all embeddings are identical, nothing is retrieved.
    """
    likeness = torch.nn.functional.normalize(videos, dim=1) @ torch.nn.functional.normalize(sentences, dim=1).T
    ranks = (likeness >= likeness.gather(1, own[:, None])).sum(1).float()
    return {
        "recall_at_1": 100 * (ranks <= 1).float().mean().item(),
        "recall_at_5": 100 * (ranks <= 5).float().mean().item(),
        "median_rank": ranks.median().item(),
        "chance_recall_at_1": 100 / len(sentences),
        "chance_recall_at_5": 100 * min(5 / len(sentences), 1.0),
        "chance_median_rank": (len(sentences) + 1) / 2,
        "num_sentences": float(len(sentences)),
    }


def word_scores(counts: np.ndarray) -> dict[str, float]:
    """
    `word_precision`, `word_recall` and `word_f1` over all clips.

    Args:
        counts: `(clips, 3)`: words that are both in the sentence and predicted, predicted, and in the sentence.
    """
    hits, found, present = (float(count) for count in counts.sum(0))
    return {
        "word_precision": 100 * hits / max(found, 1.0),
        "word_recall": 100 * hits / max(present, 1.0),
        "word_f1": 200 * hits / max(found + present, 1.0),
    }


def format_retrieval(scores: dict[str, float], split: str) -> str:
    """One line of text from scores without a prefix."""
    line = (
        f"{split}: {scores['recall_at_1']:.1f} of 100 videos find their own sentence first among "
        f"{scores['num_sentences']:.0f} (chance {scores['chance_recall_at_1']:.1f}), {scores['recall_at_5']:.1f} among "
        f"the first five (chance {scores['chance_recall_at_5']:.1f}); median place {scores['median_rank']:.0f} (chance "
        f"{scores['chance_median_rank']:.1f})."
    )
    if "word_f1" in scores:
        line += f" Words that occur: F1 {scores['word_f1']:.1f}."
    if "mapper_loss" in scores:
        line += f" Error of the description mapper: {scores['mapper_loss']:.4f}."
    return line
