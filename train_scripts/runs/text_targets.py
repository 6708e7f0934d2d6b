"""Targets for a visual encoder: sentence and word embeddings from a frozen text encoder and a language model."""

from collections.abc import Callable, Sequence

import torch
from torch.nn.utils.rnn import pad_sequence
from transformers import (
    AutoModelForCausalLM,
    PreTrainedTokenizerBase,
)

from modeling_flallm.language_kind_slt import is_encoder_decoder
from modeling_flallm.systems import titles

from ..arguments.described_stage_arguments import MultimodalPretrainingArguments
from ..arguments.stage_arguments import VisualContrastivePretrainingArguments
from ..clips.collators import IGNORED_LABEL
from ..scores.metrics import comparable
from .damaged_models import read_config, read_model
from .sentence_encoder import load_sentence_encoder

# Share of the mean variance: whitened directions never get longer than this allows.
WHITENING_RIDGE = 0.1


class SentenceTargets:
    """
    The embeddings that clips are contrasted with, computed once for all sentences.

    Args:
        training_texts: the sentences of the training split; `other_texts`: those of the splits that are evaluated.
        encode: sentences -> `(sentences, width)`.
    """

    def __init__(
        self,
        training_texts: Sequence[str],
        other_texts: Sequence[str],
        encode: Callable[[list[str]], torch.Tensor],
    ):
        training_texts = list(dict.fromkeys(map(normal_form, training_texts)))
        self._texts = list(dict.fromkeys([*training_texts, *map(normal_form, other_texts)]))
        self._num_training_texts = len(training_texts)
        self._embeddings = encode(self._texts)
        self._row_of_text = {text: row for row, text in enumerate(self._texts)}

    @property
    def width(self) -> int:
        return self._embeddings.shape[1]

    def inputs_of(self, texts: Sequence[str]) -> dict[str, torch.Tensor]:
        """What the model takes of the sentences of a batch."""
        return {"sentence_embeddings": self.embeddings_of(texts)}

    def embeddings_of(self, texts: Sequence[str]) -> torch.Tensor:
        """-> `(texts, width)`"""
        return self._embeddings[self._rows_of(texts)]

    def _rows_of(self, texts: Sequence[str]) -> list[int]:
        return [self._row_of_text[normal_form(text)] for text in texts]


class TextTargets(SentenceTargets):
    """
    What a visual encoder with word-like tokens is contrasted with: sentences and the words in them.

    Sentence embeddings are centred by subtracting the mean over the training sentences. Embeddings from language models
    lie in a narrow cone, where all sentences are similar, and contrastive learning would have to unlearn that first
    (ours).

    Args:
        training_texts: their mean is the centre, and their tokens are the word targets.
        other_texts: those of the splits that are evaluated.
        tokenizer: of the language model.
        encode: sentences -> `(sentences, width)`.
    """

    def __init__(
        self,
        training_texts: Sequence[str],
        other_texts: Sequence[str],
        tokenizer: PreTrainedTokenizerBase,
        encode: Callable[[list[str]], torch.Tensor],
    ):
        super().__init__(training_texts, other_texts, encode)
        self._embeddings = self._embeddings - self._embeddings[: self._num_training_texts].mean(0)
        token_ids = [list(dict.fromkeys(ids)) for ids in tokenizer(self._texts, add_special_tokens=False)["input_ids"]]
        self.token_ids = sorted({token_id for ids in token_ids[: self._num_training_texts] for token_id in ids})
        row_of_token = {token_id: row for row, token_id in enumerate(self.token_ids)}
        self._words = [
            torch.tensor([row_of_token[token_id] for token_id in ids if token_id in row_of_token], dtype=torch.long)
            for ids in token_ids
        ]

    def inputs_of(self, texts: Sequence[str]) -> dict[str, torch.Tensor]:
        return {**super().inputs_of(texts), "word_ids": self.word_ids_of(texts)}

    def word_ids_of(self, texts: Sequence[str]) -> torch.Tensor:
        """
        -> `(texts, words)`: each distinct token of a sentence once, as its index in `token_ids`, and -100 for padding.
        Tokens that do not occur in training are left out.
        """
        words = [self._words[row] for row in self._rows_of(texts)]
        return pad_sequence(words, batch_first=True, padding_value=IGNORED_LABEL)


def normal_form(text: str) -> str:
    return comparable(str(text))


def load_sentence_targets(
    arguments: MultimodalPretrainingArguments,
    training_texts: Sequence[str],
    other_texts: Sequence[str],
    tokenizer: PreTrainedTokenizerBase,
    device: torch.device,
) -> SentenceTargets:
    """
    Args:
        tokenizer: of the language model, in the language that it writes, for its own encoder.

    Raises:
        ValueError: if there is no such text encoder, or it is not as wide as the language model.
    """
    own, name = arguments.text_model_name_or_path, arguments.text_encoder_name_or_path
    encoder = load_sentence_encoder(name or own, device)
    width, expected = encoder.model.config.hidden_size, read_config(own).hidden_size
    if width != expected:
        raise ValueError(
            f"--text_encoder_name_or_path {name!r} embeds sentences in {width} numbers, and the language model "
            f"{own!r} has the width {expected}, in which both are compared. Name an encoder of that width, or leave it "
            "out for the language model's own."
        )
    if name is None:
        encoder.tokenizer = tokenizer
    return SentenceTargets(training_texts, other_texts, encoder)


def load_text_targets(
    arguments: VisualContrastivePretrainingArguments,
    training_texts: Sequence[str],
    other_texts: Sequence[str],
    tokenizer: PreTrainedTokenizerBase,
    device: torch.device,
) -> TextTargets:
    """
    Raises:
        ValueError: if there is no such text encoder.
    """
    encoder = load_sentence_encoder(arguments.text_encoder_name_or_path or arguments.text_model_name_or_path, device)
    return TextTargets(training_texts, other_texts, tokenizer, encoder)


def load_word_targets(name_or_path: str, token_ids: list[int]) -> torch.Tensor:
    """
    Token embeddings of a language model, whitened -> `(token ids, width)`.

    Raises:
        ValueError: if it is not a causal language model.
    """
    try:
        config = read_config(name_or_path)
        if is_encoder_decoder(config):
            raise ValueError(
                f"{config.model_type!r} is an encoder-decoder, for {titles(is_prompted=False)}. Name a decoder-only "
                "language model."
            )
        model = read_model(AutoModelForCausalLM, name_or_path, dtype="auto")
    except (OSError, ValueError) as error:
        raise ValueError(f"{name_or_path!r} has no causal language model that can be loaded: {error}") from error
    return whiten(model.get_input_embeddings().weight.detach()[token_ids].float())


def whiten(embeddings: torch.Tensor) -> torch.Tensor:
    """
    `(rows, width)` without what all rows share: centred, with high-variance directions scaled down to the length of the
    others (ZCA, with a ridge for directions that hardly vary).

    Token embeddings of words with similar use are nearly identical, and no cosine could tell "fish" from "boat". This
    is a fixed linear map, so anything aligned with its output is one linear map away from the embeddings (ours).
    """
    centred = embeddings - embeddings.mean(0)
    variances, directions = torch.linalg.eigh(centred.T @ centred / len(centred))
    scales = (variances.clamp(min=0) + WHITENING_RIDGE * variances.mean()).clamp(min=1e-12) ** -0.5
    return centred @ (directions * scales) @ directions.T
