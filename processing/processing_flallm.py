# Copyright 2026 The FLaLLM authors. Licensed under the Apache License, Version 2.0.
"""Turns videos and sentences into the inputs of FLaLLM, and token ids back into sentences."""

import unicodedata
from typing import Any

import numpy as np
import torch
from transformers.feature_extraction_utils import BatchFeature

from .modalities_slt import OneModalityProcessor

TARGET_TEXT_ARGUMENTS = ("padding", "truncation", "max_length", "pad_to_multiple_of", "add_special_tokens")
# Processors of transformers also take arguments in these groups, as in `videos_kwargs={"fps": 5}`.
ARGUMENT_GROUPS = ("common_kwargs", "text_kwargs", "videos_kwargs")
OTHER_INPUTS = ("images", "audio")
IGNORED_LABEL = -100


class FLaLLMProcessor(OneModalityProcessor):
    """Combines a reader of clips with the tokenizer of the language model, any of transformers.

    Videos are read by a `video_processor`, ready-made visual features by a `feature_extractor`: pass one of the two.

    Sentences are **target** text: they are tokenised with the tokenizer's `text_target`, so that a multilingual
    tokenizer puts its `tgt_lang` code where its model expects it. The tokenizer must itself end a sentence with its
    end token, as those of pretrained models do.

    Sentences are first normalised to Unicode NFKC: on loading, the tokenizers of mBART and others lose the normaliser
    they were trained with, and would turn decomposed umlauts or full-width letters into unknown tokens.

    Example: `processor(videos=["clip.mp4"], text_target=["it rains in the north"], return_tensors="pt")`
    """

    def __init__(self, video_processor=None, tokenizer=None, feature_extractor=None):
        super().__init__(tokenizer, video_processor=video_processor, feature_extractor=feature_extractor)
        if tokenizer.pad_token_id is None:
            raise ValueError("The tokenizer needs a padding token: set `tokenizer.pad_token`.")

    @property
    def model_input_names(self) -> list[str]:
        return [*self.modality.part.model_input_names, "labels"]

    def __call__(
        self,
        videos: Any = None,
        text: None = None,
        text_target: str | list[str] | tuple[str, ...] | None = None,
        visual_features: Any = None,
        return_tensors: str | None = None,
        **kwargs,
    ) -> BatchFeature:
        """Process videos, their sentences, or both.

        Returns `pixel_values_videos` (batch, frames, 3, height, width) and `pixel_attention_mask` (batch, frames) with
        `videos`, `visual_features` (batch, features, feature_size) and `visual_attention_mask` (batch, features) with
        `visual_features`, and `labels` (batch, tokens), padded with -100, with `text_target`, the sentences. Other
        arguments go to what reads the clips (`start`, `end`, `frame_sampling_rate`, ...; `max_num_features`) or to the
        tokenizer (`padding`, `truncation`, `max_length`, `pad_to_multiple_of`, `add_special_tokens`). Raises
        `ValueError` if neither is given, for clips of another modality, for `text`, which is the prompt of models that
        read one, for an empty sentence and for more or fewer sentences than videos, `TypeError` for unknown
        arguments."""
        if text is not None:
            raise ValueError(
                "`text` is the prompt of a model that reads one, and FLa-LLM reads none. Pass the sentences as "
                "`text_target`."
            )
        clips = self.take_clips(kwargs, videos=videos, visual_features=visual_features)
        if clips is None and text_target is None:
            raise ValueError(f"Pass `{self.modality.argument}`, `text_target` (their sentences), or both; got neither.")
        kwargs = ungrouped_arguments(kwargs)
        return_tensors = kwargs.pop("return_tensors", return_tensors)
        text_arguments = {name: kwargs.pop(name) for name in TARGET_TEXT_ARGUMENTS if name in kwargs}
        if text_target is None and text_arguments:
            raise ValueError(f"`{next(iter(text_arguments))}` goes with `text_target`, which was not given.")
        if clips is None and kwargs:
            raise TypeError(f"Unknown arguments for `text_target` alone: {sorted(kwargs)}.")
        sentences = None if text_target is None else normalised_sentences(text_target)
        if clips is not None and sentences is not None:
            check_one_sentence_per_video(len(clips), len(sentences))
        data = {} if clips is None else dict(self.modality.part(clips, **kwargs))
        if sentences is not None:
            data["labels"] = self._labels(sentences, **text_arguments)
        return BatchFeature(data, tensor_type=return_tensors, skip_tensor_conversion=self.skip_tensor_conversion)

    def _labels(self, sentences: list[str], padding: bool | str = True, **text_arguments) -> torch.Tensor:
        """Tokenise target sentences to int64 labels (batch, tokens), -100 at padded positions."""
        encoded = self.tokenizer(
            text_target=sentences,
            padding=padding,
            padding_side="right",
            return_attention_mask=True,
            return_tensors="pt",
            **text_arguments,
        )
        return encoded["input_ids"].masked_fill(encoded["attention_mask"] == 0, IGNORED_LABEL)

    def batch_decode(
        self,
        token_ids: Any,
        skip_special_tokens: bool = True,
        clean_up_tokenization_spaces: bool = False,
        **kwargs,
    ) -> list[str]:
        """Return the sentences of token ids (batch, tokens): generated ones, or labels with -100."""
        return [self.decode(ids, skip_special_tokens, clean_up_tokenization_spaces, **kwargs) for ids in token_ids]

    def decode(
        self,
        token_ids: Any,
        skip_special_tokens: bool = True,
        clean_up_tokenization_spaces: bool = False,
        **kwargs,
    ) -> str:
        """Return the sentence of one sequence of token ids (tokens,), in which -100 counts as padding."""
        token_ids = np.asarray(token_ids.cpu() if isinstance(token_ids, torch.Tensor) else token_ids)
        token_ids = np.where(token_ids == IGNORED_LABEL, self.tokenizer.pad_token_id, token_ids)
        if skip_special_tokens:
            # mBART tokenizers trimmed with older versions of transformers load with language codes that are not special
            # tokens, and would end every sentence in "de_DE"
            language_codes = list(getattr(self.tokenizer, "lang_code_to_id", {}).values())
            token_ids = token_ids[~np.isin(token_ids, language_codes)]
        return self.tokenizer.decode(
            token_ids.astype(int).tolist(),
            skip_special_tokens=skip_special_tokens,
            clean_up_tokenization_spaces=clean_up_tokenization_spaces,
            **kwargs,
        )


def ungrouped_arguments(arguments: dict[str, Any]) -> dict[str, Any]:
    """Take the arguments of a processor out of the groups that they may have come in, and drop `images` and `audio`
    that are `None`. Raises `ValueError` for other images and audio."""
    ungrouped = {name: value for name, value in arguments.items() if name not in ARGUMENT_GROUPS}
    for group in ARGUMENT_GROUPS:
        ungrouped |= arguments.get(group) or {}
    for name in OTHER_INPUTS:
        if ungrouped.pop(name, None) is not None:
            raise ValueError(f"The model takes videos, got `{name}`. Pass clips, or folders of pictures, as `videos`.")
    return ungrouped


def check_one_sentence_per_video(num_videos: int, num_sentences: int) -> None:
    """Raise `ValueError` unless there are as many sentences as videos."""
    if num_videos != num_sentences:
        raise ValueError(f"Each video needs one sentence, got {num_videos} videos and {num_sentences} sentences.")


def normalised_sentences(text_target: str | list[str] | tuple[str, ...]) -> list[str]:
    """Return one or several sentences normalised to Unicode NFKC. Raises `ValueError` for none and for empty ones."""
    sentences = [text_target] if isinstance(text_target, str) else text_target
    if not isinstance(sentences, (list, tuple)) or not all(isinstance(sentence, str) for sentence in sentences):
        raise ValueError(f"`text_target` must be a sentence or a list of sentences, got {text_target!r}.")
    sentences = [unicodedata.normalize("NFKC", sentence) for sentence in sentences]
    empty = [index for index, sentence in enumerate(sentences) if not sentence.strip()]
    if empty or not sentences:
        raise ValueError(
            f"`text_target` holds empty sentences at index {empty}: a model cannot learn from them. Leave those clips "
            "out."
            if empty
            else "`text_target` is an empty list; pass one sentence per video."
        )
    return sentences
