# Copyright 2026 The FLaLLM authors. Licensed under the Apache License, Version 2.0.
"""Turns videos and sentences into the inputs of FLaLLM, and token ids back into sentences."""

import unicodedata
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from transformers.feature_extraction_utils import BatchFeature

from .modalities_slt import OneModalityProcessor
from .spoken_languages_slt import spoken_language_name

TARGET_TEXT_ARGUMENTS = ("padding", "truncation", "max_length", "pad_to_multiple_of", "add_special_tokens")
# Processors of transformers also take arguments in these groups, as in `videos_kwargs={"fps": 5}`.
ARGUMENT_GROUPS = ("common_kwargs", "text_kwargs", "videos_kwargs")
OTHER_INPUTS = ("images", "audio")
IGNORED_LABEL = -100
DEFAULT_SPOKEN_LANGUAGE = "the spoken language"


class FLaLLMProcessor(OneModalityProcessor):
    """Combines a reader of clips with the tokenizer of the language model, any of transformers.

    Videos are read by a `video_processor`, poses and ready-made visual features by a `feature_extractor`: pass one of
    the two.

    Sentences are **target** text: they are tokenised with the tokenizer's `text_target`, so that a multilingual
    tokenizer puts its `tgt_lang` code where its model expects it. The tokenizer must itself end a sentence with its
    end token, as those of pretrained models do.

    Sentences are first normalised to Unicode NFKC: on loading, the tokenizers of mBART and others lose the normaliser
    they were trained with, and would turn decomposed umlauts or full-width letters into unknown tokens.

    `prompt` is for models with `has_prompt` in their configuration, which read it before the visual tokens: SpaMo's is
    "Translate the given sentence into {spoken_language}.", in which `{spoken_language}` stands for the English name of
    `spoken_language`, the language of the sentences: a tag such as "de" or a name such as "German".

    Example: `processor(videos=["clip.mp4"], text_target=["it rains in the north"], return_tensors="pt")`
    """

    def __init__(
        self,
        video_processor=None,
        tokenizer=None,
        feature_extractor=None,
        prompt: str | None = None,
        spoken_language: str = DEFAULT_SPOKEN_LANGUAGE,
    ):
        super().__init__(tokenizer, video_processor=video_processor, feature_extractor=feature_extractor)
        if tokenizer.pad_token_id is None:
            raise ValueError("The tokenizer needs a padding token: set `tokenizer.pad_token`.")
        if not isinstance(prompt, str | None):
            raise ValueError(f"`prompt` must be a text, or None for models that read none, got {prompt!r}.")
        self.prompt = prompt
        self.spoken_language = spoken_language_name(spoken_language)

    @property
    def model_input_names(self) -> list[str]:
        of_prompt = [] if self.prompt is None else ["prompt_ids", "prompt_attention_mask"]
        return [*self.modality.part.model_input_names, *of_prompt, "labels"]

    def __call__(
        self,
        videos: Any = None,
        text: None = None,
        text_target: str | list[str] | tuple[str, ...] | None = None,
        visual_features: Any = None,
        num_visual_tokens: Sequence[int] | None = None,
        spoken_language: str | Sequence[str | None] | None = None,
        return_tensors: str | None = None,
        **kwargs,
    ) -> BatchFeature:
        """Process videos, their sentences, or both.

        Returns `pixel_values_videos` (batch, frames, 3, height, width) and `pixel_attention_mask` (batch, frames) with
        `videos`, `visual_features` (batch, features, feature_size) and `visual_attention_mask` (batch, features) with
        `visual_features`, `pose_values` (batch, frames, 69, 3) and `pose_attention_mask` (batch, frames) with `poses`,
        which is passed by name, and `labels` (batch, tokens), padded with -100, with `text_target`, the sentences. A
        processor with a `prompt` also returns `prompt_ids` and `prompt_attention_mask` (batch, tokens), padded on the
        right, with the tokenizer's special tokens; `spoken_language` names the language in all prompts, or in each of
        them, by tag or by name (None: the processor's own), and `num_visual_tokens`, in place of clips, is the number
        of visual tokens of each, for cached features.

        Other arguments go to what reads the clips (`start`, `end`, `frame_sampling_rate`, ...; `max_num_features`) or
        to the tokenizer for the sentences (`padding`, `truncation`, `max_length`, `pad_to_multiple_of`,
        `add_special_tokens`). Raises `ValueError` if nothing is given, for clips of another modality, for `text`, for
        an empty sentence, for more or fewer sentences or languages than videos, for a language or
        `num_visual_tokens` without a prompt, and for clips and `num_visual_tokens` together, `TypeError` for unknown
        arguments."""
        if text is not None:
            raise ValueError(self._why_no_text())
        clips = self.take_clips(kwargs, videos=videos, visual_features=visual_features)
        if clips is None and text_target is None and (num_visual_tokens is None or self.prompt is None):
            raise ValueError(f"Pass `{self.modality.argument}`, `text_target` (their sentences), or both; got neither.")
        if clips is not None and num_visual_tokens is not None:
            raise ValueError(f"Pass either `{self.modality.argument}` or, for cached features, `num_visual_tokens`.")
        kwargs = ungrouped_arguments(kwargs)
        return_tensors = kwargs.pop("return_tensors", return_tensors)
        text_arguments = {name: kwargs.pop(name) for name in TARGET_TEXT_ARGUMENTS if name in kwargs}
        if text_target is None and text_arguments:
            raise ValueError(f"`{next(iter(text_arguments))}` goes with `text_target`, which was not given.")
        if clips is None and kwargs:
            raise TypeError(f"Unknown arguments for `text_target` alone: {sorted(kwargs)}.")
        sentences = None if text_target is None else normalised_sentences(text_target)
        counted = num_visual_tokens if clips is None else clips
        if counted is not None and sentences is not None:
            check_one_sentence_per_video(len(counted), len(sentences))
        data = {} if clips is None else dict(self.modality.part(clips, **kwargs))
        data |= self._prompt_inputs(len(sentences if counted is None else counted), spoken_language)
        if sentences is not None:
            data["labels"] = self._labels(sentences, **text_arguments)
        return BatchFeature(data, tensor_type=return_tensors, skip_tensor_conversion=self.skip_tensor_conversion)

    def _why_no_text(self) -> str:
        if self.prompt is None:
            return (
                "`text` is the prompt of a model that reads one, and FLa-LLM reads none. Pass the sentences as "
                "`text_target`."
            )
        return "The processor writes its own `prompt`: leave `text` out. Pass the sentences as `text_target`."

    @property
    def num_prompt_tokens(self) -> int:
        """Number of tokens of the prompt, 0 without one."""
        return len(self._prompts([self.spoken_language])["input_ids"][0]) if self.prompt is not None else 0

    def _prompt_inputs(
        self, num_prompts: int, spoken_language: str | Sequence[str | None] | None
    ) -> dict[str, torch.Tensor]:
        """Return `prompt_ids` and `prompt_attention_mask` (batch, tokens), nothing without a prompt."""
        if self.prompt is None:
            if spoken_language is not None:
                raise ValueError(
                    "`spoken_language` goes into a prompt, and this processor has none. Leave it out, or set `prompt`."
                )
            return {}
        languages = self._language_names(num_prompts, spoken_language)
        named = list(dict.fromkeys(languages))  # each prompt is tokenised once, however many clips have it
        encoded = self._prompts(named, padding=True, padding_side="right", return_tensors="pt")
        rows = [named.index(language) for language in languages]
        return {"prompt_ids": encoded["input_ids"][rows], "prompt_attention_mask": encoded["attention_mask"][rows]}

    def _prompts(self, languages: list[str], **options: Any) -> Any:
        """Tokenise the prompt for each of these languages, with the special tokens of the tokenizer."""
        texts = [self.prompt.replace("{spoken_language}", language) for language in languages]
        texts = [unicodedata.normalize("NFKC", text) for text in texts]
        return self.tokenizer(texts, return_attention_mask=True, **options)

    def _language_names(self, num_prompts: int, spoken_language: str | Sequence[str | None] | None) -> list[str]:
        """Return the name of the language for each prompt, the processor's own for None and an empty field."""
        given = spoken_language if isinstance(spoken_language, list | tuple) else [spoken_language] * num_prompts
        if not all(each is None or isinstance(each, str) for each in given):
            raise ValueError(
                "`spoken_language` must be a tag such as 'de', a name such as 'German', or a list with one for each "
                f"video, got {spoken_language!r}."
            )
        if len(given) != num_prompts:
            raise ValueError(
                f"`spoken_language` names one language, or one for each video, got {len(given)} languages and "
                f"{num_prompts} videos."
            )
        return [spoken_language_name(each) if each else self.spoken_language for each in given]

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
