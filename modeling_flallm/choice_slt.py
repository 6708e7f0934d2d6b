"""
Choosing among several candidate translations of a clip: minimum Bayes risk takes the one that agrees best with all of
them.
"""

import importlib
import math
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from transformers import AutoModel, AutoTokenizer
from transformers.utils import ModelOutput

from .language_kind_slt import is_encoder_decoder
from .word_evidence_slt import PIECES_OF_TEXT

TOLERANCE, SMALLEST_UTILITY = 1e-6, 1e-12  # of rounding; of which there is a logarithm
DEFAULT_UTILITY = "bleu"  # ours, after latent diffusion for language
# Hypotheses and references, in pairs -> how well each pair agrees, 0 to 1.
Utility = Callable[[list[str], list[str]], Sequence[float]]


@dataclass
class ChosenOutput(ModelOutput):
    """
    What `generate` returns with `num_candidates` and `return_dict_in_generate`.

    Args:
        sequences (`torch.LongTensor` of shape `(batch * num_return_sequences, length)`):
            The chosen sequences, best first for each clip.
        sequences_scores (`torch.FloatTensor` of shape `(batch * num_return_sequences,)`):
            Natural logarithm of the expected utility of each, at most 0.
    """

    sequences: torch.LongTensor | None = None
    sequences_scores: torch.FloatTensor | None = None


@dataclass(frozen=True)
class CandidateChoice:
    """
    Minimum Bayes risk: the candidates with the highest expected utility, which is the mean of their utility with every
    candidate of the clip as the reference, themselves included. Equal texts have the utility 1. In the mean, the
    sentences of a beam search are weighted by their probabilities, which are scaled to a sum of 1 (Kumar and Byrne
    2004); samples all count the same (Eikema and Aziz 2020).

    Args:
        num_candidates: sequences that were generated for each clip.
        num_chosen: how many of them to keep. They differ in text as far as the candidates do.
        utility: see `utility_named`.
        tokenizer: its `batch_decode` gives the texts that are compared.
        length_penalty: that of the beam search that wrote the candidates; None for samples.
    """

    num_candidates: int
    num_chosen: int
    utility: Utility
    tokenizer: Any
    length_penalty: float | None = None

    def __post_init__(self):
        if self.tokenizer is None:
            raise ValueError(
                "`num_candidates` compares candidates as texts: pass `tokenizer`, the model's tokenizer or processor."
            )
        if not isinstance(self.num_candidates, int) or self.num_candidates < 1:
            raise ValueError(f"`num_candidates` must be a whole number from 1, got {self.num_candidates!r}.")
        if self.num_chosen > self.num_candidates:
            raise ValueError(
                f"`num_return_sequences` must be at most `num_candidates`, got {self.num_chosen} of "
                f"{self.num_candidates}."
            )

    def __call__(self, output: Any) -> torch.Tensor | ChosenOutput:
        """
        -> of a generated tensor `(batch * num_candidates, length)` the chosen rows; of an output of `generate`, a
        `ChosenOutput`.
        """
        sequences = output if isinstance(output, torch.Tensor) else output.sequences
        texts = self.tokenizer.batch_decode(sequences, skip_special_tokens=True)
        weights = None if self.length_penalty is None else self._weights(output)
        rows, scores = [], []
        for first in range(0, len(texts), self.num_candidates):
            of_clip = slice(first, first + self.num_candidates)
            of_beams = None if weights is None else weights[of_clip]
            for index, expected in best_candidates(texts[of_clip], self.utility, self.num_chosen, of_beams):
                rows.append(first + index)
                scores.append(math.log(expected))
        chosen = sequences[torch.tensor(rows, device=sequences.device)]
        if isinstance(output, torch.Tensor):
            return chosen
        return ChosenOutput(sequences=chosen, sequences_scores=torch.tensor(scores, device=sequences.device))

    def _weights(self, output: Any) -> list[float]:
        """The probability of each sentence of a beam search, scaled to a sum of 1 over those of its clip."""
        lengths = (output.beam_indices >= 0).sum(1)  # of what was generated
        log_probabilities = output.sequences_scores.double() * lengths**self.length_penalty
        return log_probabilities.unflatten(0, (-1, self.num_candidates)).softmax(1).flatten().tolist()


def best_candidates(
    texts: Sequence[str], utility: Utility, num_chosen: int = 1, weights: Sequence[float] | None = None
) -> list[tuple[int, float]]:
    """
    -> index and expected utility of the best candidates, best first. Each stands for a different text; only if there
    are too few, the best texts come again. Neither texts nor utilities depend on the order of the candidates: of
    several with the same utility, the first in the order of the alphabet is taken. By default all `weights` are equal.
    """
    counts = Counter(texts)
    expected = expected_utilities(counts if weights is None else _sums(texts, weights), utility)
    ranked = sorted(expected, key=lambda text: (-expected[text], text))
    copies = [(copy, rank) for rank, text in enumerate(ranked) for copy in range(counts[text])]
    places = {text: [index for index, other in enumerate(texts) if other == text] for text in ranked}
    chosen = sorted((rank, copy) for copy, rank in sorted(copies)[:num_chosen])
    return [(places[ranked[rank]][copy], expected[ranked[rank]]) for rank, copy in chosen]


def _sums(texts: Sequence[str], weights: Sequence[float]) -> dict[str, float]:
    sums = dict.fromkeys(texts, 0.0)
    for text, weight in zip(texts, weights, strict=True):
        sums[text] += weight
    return sums


def expected_utilities(weights: Mapping[str, float], utility: Utility) -> dict[str, float]:
    """
    -> expected utility of each text among candidates that are given as the `weights` of their texts, such as counts.

    Raises:
        ValueError: if `utility` does not return one number from 0 to 1 for each pair.
    """
    texts, total = sorted(weights), sum(weights.values())
    pairs = [(hypothesis, reference) for hypothesis in texts for reference in texts if hypothesis != reference]
    values = utility([pair[0] for pair in pairs], [pair[1] for pair in pairs]) if pairs else []
    if len(values) != len(pairs):
        raise ValueError(f"`choose_by` must return one number for each of {len(pairs)} pairs, got {len(values)}.")
    if not all(-TOLERANCE <= value <= 1 + TOLERANCE for value in map(float, values)):
        raise ValueError("`choose_by` must return numbers from 0 to 1.")
    sums = {text: float(weights[text]) for text in texts}
    for (hypothesis, reference), value in zip(pairs, values, strict=True):
        sums[hypothesis] += weights[reference] * float(value)
    return {text: min(max(each / total, SMALLEST_UTILITY), 1.0) for text, each in sums.items()}


def utility_named(choose_by: str | Utility | None) -> Utility:
    """
    "bleu" (sentence BLEU-4 of sacrebleu with effective order; characters are the words of Chinese and Japanese), "chrf"
    (sacrebleu's chrF), a function of hypotheses and references that returns a number from 0 to 1 for each pair, such as
    an `EmbeddingUtility`, or `None` for the default, "bleu".

    Raises:
        ValueError: for any other name.
    """
    choose_by = DEFAULT_UTILITY if choose_by is None else choose_by
    if callable(choose_by):
        return choose_by
    if choose_by not in UTILITIES:
        raise ValueError(
            f"`choose_by` must be {' or '.join(map(repr, UTILITIES))}, or a function of hypotheses and references, "
            f"such as `EmbeddingUtility(name_or_path)`, got {choose_by!r}."
        )
    return UTILITIES[choose_by]


def bleu_utility(hypotheses: list[str], references: list[str]) -> list[float]:
    """See `utility_named`."""
    metric = _sacrebleu_metrics().BLEU(effective_order=True)
    return _sentence_scores(metric, map(_in_words, hypotheses), map(_in_words, references))


def chrf_utility(hypotheses: list[str], references: list[str]) -> list[float]:
    """See `utility_named`."""
    return _sentence_scores(_sacrebleu_metrics().CHRF(), hypotheses, references)


UTILITIES: dict[str, Utility] = {"bleu": bleu_utility, "chrf": chrf_utility}


class EmbeddingUtility:
    """
    A utility for `choose_by`: the cosine of the embeddings of both sentences, 0 where it is negative. An embedding is
    the mean of the last hidden states of an encoder, of an encoder-decoder those of its encoder (ours).

    Args:
        name_or_path: folder or Hub id of any text encoder of transformers with its tokenizer.
        device: where it computes.
        options: further arguments of `from_pretrained`, such as `revision`, for both.
    """

    def __init__(self, name_or_path: str, device: torch.device | str = "cpu", **options: Any):
        self.tokenizer = AutoTokenizer.from_pretrained(name_or_path, **options)
        if self.tokenizer.pad_token_id is None:
            self.tokenizer.pad_token = self.tokenizer.eos_token
        self.tokenizer.padding_side = "right"  # positions do not then depend on the other texts
        model = AutoModel.from_pretrained(name_or_path, **options)
        model = model.get_encoder() if is_encoder_decoder(model.config) else model
        self.model = model.to(device).eval().requires_grad_(False)

    def __call__(self, hypotheses: list[str], references: list[str]) -> list[float]:
        places = {text: place for place, text in enumerate(dict.fromkeys([*hypotheses, *references]))}
        embeddings = self._embed(list(places))
        first, second = (embeddings[[places[text] for text in texts]] for texts in (hypotheses, references))
        return (first * second).sum(1).clamp(0, 1).tolist()

    @torch.no_grad()
    def _embed(self, texts: list[str]) -> torch.Tensor:
        """-> `(texts, hidden size)`, each of length 1; 0 for a text without tokens."""
        inputs = self.tokenizer(
            texts, padding=True, truncation=True, return_attention_mask=True, return_tensors="pt"
        ).to(self.model.device)
        inputs.pop("token_type_ids", None)
        hidden = self.model(**inputs).last_hidden_state.float()
        mask = inputs["attention_mask"][..., None]
        return torch.nn.functional.normalize((hidden * mask).sum(1), dim=1)


def _in_words(text: str) -> str:
    return " ".join(PIECES_OF_TEXT.findall(text))


def _sentence_scores(metric: Any, hypotheses: Any, references: Any) -> list[float]:
    pairs = zip(hypotheses, references, strict=True)
    return [metric.sentence_score(hypothesis, [reference]).score / 100 for hypothesis, reference in pairs]


def _sacrebleu_metrics() -> Any:
    """Imported here, so that models load where sacrebleu is not installed."""
    try:
        return importlib.import_module("sacrebleu.metrics")
    except ImportError as error:
        raise ImportError(
            "Choosing by BLEU or chrF needs sacrebleu: `pip install sacrebleu`, or pass a function as `choose_by`."
        ) from error


__all__ = ["CandidateChoice", "ChosenOutput", "EmbeddingUtility"]
