"""The losses that both systems of this package train with: of the sentence, and of the words in it."""

import torch
from torch import nn

IGNORED_LABEL = -100
# Nearly all words are absent from a sentence. With this start, the loss teaches what is seen, not how rare words are.
WORD_ABSENT_LOGIT = -6.0


def summed_cross_entropy(logits: torch.Tensor, labels: torch.Tensor, label_smoothing: float) -> torch.Tensor:
    """Logits `(batch, length, vocabulary)` and labels `(batch, length)` -> the sum over all labels but -100, `()`."""
    return nn.functional.cross_entropy(
        logits.flatten(0, 1).float(),
        labels.flatten(),
        ignore_index=IGNORED_LABEL,
        label_smoothing=label_smoothing,
        reduction="sum",
    )


def word_scores_of_clips(scores: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
    """
    Scores `(batch, tokens, vocabulary)` of the words that each visual token shows, and the mask `(batch, tokens)` of
    the real ones -> scores `(batch, vocabulary)` of the words that the clip shows.

    A smooth maximum over time: unlike max it trains every visual token that could be the word, not just one.
    """
    return scores.masked_fill(mask[..., None] == 0, torch.finfo(scores.dtype).min).logsumexp(1)


def word_presence_cross_entropy(scores: torch.Tensor, word_ids: torch.Tensor) -> torch.Tensor:
    """
    Scores `(batch, vocabulary)` and the words of each sentence `(batch, words)`, -100 for none -> `(batch,)`: binary
    cross entropy with the set of these words, summed over the vocabulary and divided by the size of the set. So it does
    not shrink with the size of the vocabulary.
    """
    is_word = (word_ids != IGNORED_LABEL).float()
    present = torch.zeros_like(scores).scatter_add(1, word_ids.clamp(min=0), is_word).clamp(max=1)
    cross_entropy = nn.functional.binary_cross_entropy_with_logits(scores, present, reduction="none").sum(1)
    return cross_entropy / present.sum(1).clamp(min=1)
