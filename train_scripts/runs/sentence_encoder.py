"""Sentence embeddings from a frozen text encoder: any model of transformers, or a sentence-transformers folder."""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from transformers import AutoModel, AutoTokenizer, PreTrainedModel, PreTrainedTokenizerBase
from transformers.utils import cached_file

from modeling_flallm.language_kind_slt import is_encoder_decoder

from .damaged_models import read_model, reading_model

# The list of modules, in order, that sentence-transformers writes next to a model.
MODULES_FILE = "modules.json"
OLD_POOLING_PREFIX = "pooling_mode_"
POOLINGS = {"cls": "cls", "cls_token": "cls", "mean": "mean", "mean_tokens": "mean", "lasttoken": "lasttoken"}


@dataclass
class SentenceEncoder:
    """
    Text model, tokenizer, and how the vectors of a sentence's tokens are pooled into one.

    Args:
        pooling: mean, cls (the first token) or lasttoken; padding never counts.
        is_normalized: whether each vector is scaled to length 1.
    """

    model: PreTrainedModel
    tokenizer: PreTrainedTokenizerBase
    pooling: str = "mean"
    is_normalized: bool = False

    @torch.no_grad()
    def __call__(self, sentences: Sequence[str], batch_size: int = 64) -> torch.Tensor:
        """-> `(sentences, width)`, float32, on the CPU"""
        by_length = sorted(range(len(sentences)), key=lambda index: len(sentences[index]))
        embeddings: list[torch.Tensor] = [torch.empty(0)] * len(sentences)
        for first in range(0, len(sentences), batch_size):
            rows = by_length[first : first + batch_size]
            for row, embedding in zip(rows, self._encode([sentences[row] for row in rows]), strict=True):
                embeddings[row] = embedding
        return torch.stack(embeddings)

    def _encode(self, sentences: list[str]) -> torch.Tensor:
        inputs = self.tokenizer(
            sentences, padding=True, truncation=True, return_attention_mask=True, return_tensors="pt"
        ).to(self.model.device)
        inputs.pop("token_type_ids", None)
        hidden = self.model(**inputs).last_hidden_state.float()
        mask = inputs["attention_mask"]
        if self.pooling == "mean":
            pooled = (hidden * mask[..., None]).sum(1) / mask.sum(1, keepdim=True).clamp(min=1)
        else:
            position = torch.zeros_like(mask[:, 0]) if self.pooling == "cls" else mask.sum(1) - 1
            pooled = hidden[torch.arange(len(hidden)), position]
        return (torch.nn.functional.normalize(pooled, dim=-1) if self.is_normalized else pooled).cpu()


def load_sentence_encoder(
    name_or_path: str, device: torch.device | str = "cpu", pooling: str | None = None
) -> SentenceEncoder:
    """
    A model of transformers is pooled by the mean over its last hidden states (for an encoder-decoder, those of its
    encoder), a sentence-transformers model as its modules define, unless `pooling` says otherwise.

    Raises:
        ValueError: if there is no such model, it has no hidden states, or one of its modules is not supported here.
    """
    own_pooling, is_normalized = _read_modules(name_or_path)
    try:
        with reading_model(name_or_path):
            tokenizer = AutoTokenizer.from_pretrained(name_or_path)
        model = read_model(AutoModel, name_or_path, dtype="auto", unneeded=r"(^|\.)pooler\.")
    except (OSError, ValueError) as error:
        raise ValueError(f"{name_or_path!r} has no text encoder that can be loaded: {error}") from error
    if is_encoder_decoder(model.config):
        model = model.get_encoder()
    if tokenizer.pad_token_id is None:
        tokenizer.pad_token = tokenizer.eos_token
    tokenizer.padding_side = "right"  # where pooling looks for the last token
    return SentenceEncoder(
        model.to(device).eval().requires_grad_(False), tokenizer, pooling or own_pooling, is_normalized
    )


def _read_modules(name_or_path: str) -> tuple[str, bool]:
    """-> pooling, and whether a normalisation follows"""
    modules = _read_json(name_or_path, MODULES_FILE)
    if modules is None:
        return "mean", False
    kinds = [module["type"].rpartition(".")[2] for module in modules]
    unknown = [kind for kind in kinds if kind not in ("Transformer", "Pooling", "Normalize")]
    if unknown or kinds[:2] != ["Transformer", "Pooling"]:
        raise ValueError(
            f"{name_or_path!r} has the modules {', '.join(kinds)}; supported are Transformer, Pooling and Normalize. "
            "Name another text encoder."
        )
    return _pooling_of(_read_json(name_or_path, f"{modules[1]['path']}/config.json") or {}, name_or_path), (
        "Normalize" in kinds
    )


def _pooling_of(config: dict[str, Any], name_or_path: str) -> str:
    """Older versions store true or false for each kind of pooling, newer ones its name."""
    wanted = [
        name.removeprefix(OLD_POOLING_PREFIX)
        for name, value in config.items()
        if name.startswith(OLD_POOLING_PREFIX) and value is True
    ] or [config.get("pooling_mode", "mean")]
    if len(wanted) != 1 or wanted[0] not in POOLINGS:
        raise ValueError(
            f"{name_or_path!r} pools its tokens by {', '.join(wanted)}; supported are cls, lasttoken and mean, one of "
            "them."
        )
    return POOLINGS[wanted[0]]


def _read_json(name_or_path: str, file_name: str) -> Any:
    """The content of a file in a folder or Hub repository; `None` if there is none."""
    try:
        path = cached_file(name_or_path, file_name)
    except OSError:
        return None
    return None if path is None else json.loads(Path(path).read_text(encoding="utf-8"))
