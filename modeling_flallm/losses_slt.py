"""The losses that the systems of this package train with: of the sentence, of the words in it, and contrasts."""

import math

import torch
import torch.distributed as distributed
from torch import nn
from transformers import initialization as init
from transformers.utils import logging

from .batch_norm_slt import several_processes

logger = logging.get_logger(__name__)

IGNORED_LABEL = -100
# CLIP's limit: with a larger scale, training is not stable.
LARGEST_LOGIT_SCALE = 100.0
# Two computations of one sentence's embedding differ by less, two sentences by more.
LARGEST_DISTANCE_OF_EQUALS = 1e-3
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


class VisualTextAlignment(nn.Module):
    """
    SpaMo's visual-text alignment (https://arxiv.org/abs/2408.10593): a clip, the mean of its visual tokens as the text
    model reads them, is contrasted with the sentences of the batch, each the mean of the text model's embeddings of its
    tokens, and a sentence with the clips (symmetric InfoNCE with a learned temperature, as in CLIP).

    Unlike SpaMo's code, the means leave out padding and special tokens, all processes contrast with each other's clips,
    and sentences with the same tokens are not each other's negatives.
    """

    def __init__(self):
        super().__init__()
        self.logit_scale = nn.Parameter(torch.empty(()))

    def forward(
        self,
        visual_embeddings: torch.Tensor,
        visual_mask: torch.Tensor,
        text_embeddings: torch.Tensor,
        text_mask: torch.Tensor,
    ) -> torch.Tensor:
        """
        -> the loss of each clip `(batch,)`, from embeddings `(batch, tokens, hidden size)` and masks `(batch, tokens)`,
        in float32 also under autocast. Text embeddings get no gradient.
        """
        clips = mean_of_norm_1(visual_embeddings, visual_mask)
        sentences = mean_of_norm_1(text_embeddings.detach(), text_mask)
        return symmetric_contrast(clips, sentences, self.logit_scale.float().exp().clamp(max=LARGEST_LOGIT_SCALE))


class ContrastsWithSentences:
    """
    Mixin for modules that contrast clips with the frozen embeddings of their sentences: symmetric InfoNCE over the
    global batch with a learned temperature, as in CLIP. A memory adds the sentences of earlier batches to the negatives
    of each clip in training; as the text encoder is frozen, they do not age (ours). Evaluation has no memory, so that
    the losses of a run can be compared. Sentences that occur twice are not each other's negatives.
    """

    def _build_contrast(self, width: int, memory_bank_size: int) -> None:
        self.logit_scale = nn.Parameter(torch.empty(()))
        if memory_bank_size:
            self.register_buffer("memory_bank", torch.empty(memory_bank_size, width))
            self.register_buffer("num_remembered", torch.zeros((), dtype=torch.long))

    def _start_contrast(self, temperature: float) -> None:
        init.constant_(self.logit_scale, -math.log(temperature))
        if hasattr(self, "memory_bank"):
            init.zeros_(self.memory_bank)
            init.zeros_(self.num_remembered)

    def _contrast_scale(self) -> torch.Tensor:
        return self.logit_scale.float().exp().clamp(max=LARGEST_LOGIT_SCALE)

    def _sentence_loss(self, clips: torch.Tensor, sentences: torch.Tensor) -> torch.Tensor:
        """
        Embeddings of norm 1 of this process's clips and of their sentences, both `(clips, width)` -> the mean over the
        clips of all processes, `()`. In training the memory then takes in the sentences.
        """
        earlier = self._remembered() if self.training else None
        losses = symmetric_contrast(clips, sentences, self._contrast_scale(), earlier)
        if self.training:
            self._remember(gather_clips(sentences))
        return gather_clips(losses).mean()

    def _remembered(self) -> torch.Tensor | None:
        if not hasattr(self, "memory_bank"):
            return None
        return self.memory_bank[: min(int(self.num_remembered), len(self.memory_bank))].float()

    @torch.no_grad()
    def _remember(self, sentences: torch.Tensor) -> None:
        """Replace the oldest sentences of the memory with the newest ones of the global batch."""
        if not hasattr(self, "memory_bank"):
            return
        size = len(self.memory_bank)
        sentences = sentences[-size:]
        places = (self.num_remembered + torch.arange(len(sentences), device=sentences.device)) % size
        self.memory_bank[places] = sentences.to(self.memory_bank.dtype)
        self.num_remembered += len(sentences)


def mean_of_norm_1(embeddings: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
    """The mean of the embeddings `(batch, tokens, width)` in the mask `(batch, tokens)`, scaled: `(batch, width)`."""
    total = embeddings.float().masked_fill(mask[..., None] == 0, 0.0).sum(1)
    return nn.functional.normalize(total, dim=-1)


def symmetric_contrast(
    clips: torch.Tensor, sentences: torch.Tensor, scale: torch.Tensor, earlier: torch.Tensor | None = None
) -> torch.Tensor:
    """
    Embeddings of norm 1 of this process's clips and of their sentences, both `(clips, width)` -> `(clips,)`: how badly
    each clip finds its sentence among those of all processes and the `earlier` ones `(sentences, width)`, and its
    sentence the clip, on average. Equal sentences are not each other's negatives. In training with one clip alone it is
    0, which is reported once.
    """
    all_clips, all_sentences = gather_clips(clips), gather_clips(sentences)
    candidates = all_sentences if earlier is None else torch.cat([all_sentences, earlier])
    if len(candidates) == 1 and clips.requires_grad:
        logger.warning_once(
            "The contrast of clips and sentences needs several clips, but a batch has only one: its loss is 0. Use "
            "larger batches (`per_device_train_batch_size`)."
        )
    own = _places_of_own_rows(clips)
    distances = torch.cdist(sentences, candidates, compute_mode="donot_use_mm_for_euclid_dist")
    is_same_sentence = (distances < LARGEST_DISTANCE_OF_EQUALS).scatter(1, own[:, None], False)
    losses = [
        nn.functional.cross_entropy(
            (scale * float32_product(each, others)).masked_fill(is_same_sentence[:, : len(others)], -torch.inf),
            own,
            reduction="none",
        )
        for each, others in ((clips, candidates), (sentences, all_clips))
    ]
    return (losses[0] + losses[1]) / 2


def _places_of_own_rows(rows: torch.Tensor) -> torch.Tensor:
    """Where `gather_clips` puts the rows of this process: `(rows,)`."""
    if not several_processes():
        return torch.arange(len(rows), device=rows.device)
    rank = distributed.get_rank()
    ranks = gather_clips(torch.full((len(rows),), rank, device=rows.device))
    return (ranks == rank).nonzero()[:, 0]


def float32_product(left: torch.Tensor, right: torch.Tensor) -> torch.Tensor:
    """`left @ right.T` in float32, even under autocast: bfloat16 cannot tell two cosines near 0.99 apart."""
    with torch.autocast(left.device.type, enabled=False):
        return left.float() @ right.float().T


class _GatherClips(torch.autograd.Function):
    """
    Concatenate the rows of all processes, `(clips of this process, ...)` -> `(clips of all, ...)`. Every process
    computes the same loss from them, and the gradients of all are summed: averaged over the processes, as
    DistributedDataParallel does, the gradient of the weights is that of one process with all clips.
    """

    @staticmethod
    def forward(ctx, rows: torch.Tensor, counts: list[int]) -> torch.Tensor:
        ctx.rank, ctx.counts = distributed.get_rank(), counts
        padded = rows.new_zeros(max(counts), *rows.shape[1:])
        padded[: len(rows)] = rows
        gathered = [torch.empty_like(padded) for _ in counts]
        distributed.all_gather(gathered, padded)
        return torch.cat([part[:count] for part, count in zip(gathered, counts, strict=True)])

    @staticmethod
    def backward(ctx, gradient: torch.Tensor) -> tuple[torch.Tensor, None]:
        gradient = gradient.clone(memory_format=torch.contiguous_format)
        distributed.all_reduce(gradient)
        return gradient.split(ctx.counts)[ctx.rank], None


def gather_clips(rows: torch.Tensor) -> torch.Tensor:
    """Rows `(clips, ...)` of this process -> those of all, in the order of the processes. Gradients flow to all."""
    if not several_processes():
        return rows
    counts = [torch.empty(1, dtype=torch.long, device=rows.device) for _ in range(distributed.get_world_size())]
    distributed.all_gather(counts, torch.tensor([len(rows)], device=rows.device))
    return _GatherClips.apply(rows, [int(count) for count in counts])


def mean_over_processes(values: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
    """
    The mean `()` of the values `(clips, length)` in the mask `(clips, length)`, over the clips of all processes; 0 if
    the mask is 0 everywhere. Every process must call it.
    """
    sums = torch.stack([values.masked_fill(mask == 0, 0).sum(1), mask.sum(1).to(values.dtype)], dim=1)
    total, count = gather_clips(sums).sum(0)
    return total / count.clamp(min=1)
