# Copyright 2026 The FLaLLM authors. Licensed under the Apache License, Version 2.0.
"""Videos, prompts and sentences to what LLaVA-SLT takes, and token ids back to sentences."""

from collections.abc import Sequence
from typing import Any

import torch
from transformers import AddedToken
from transformers.feature_extraction_utils import BatchFeature

from .chat_template_slt import render_chat
from .processing_flallm import IGNORED_LABEL, FLaLLMProcessor, normalised_sentences

# For language models without a chat template (ours, after LLaVA's).
PLAIN_TEMPLATE = "USER: {content} ASSISTANT:"
CONTENT = "{video}\n{prompt}"
DEFAULT_PROMPT = "Translate this sign language video into {spoken_language}."
DEFAULT_SPOKEN_LANGUAGE = "the spoken language"


class LlavaSltProcessor(FLaLLMProcessor):
    """What reads clips, and the tokenizer of a decoder-only language model, any of transformers, in one.

    Videos are read by a `video_processor`, ready-made visual features by a `feature_extractor`: pass one of the two.

    The prompt holds the video as one placeholder token per word-like token of the model, then the instruction, in the
    tokenizer's chat template where it has one. The sentence follows it, in Unicode normal form NFKC, and the
    tokenizer's end token. Rows are padded on the left.

    `word_window_stride` must be that of the model's visual encoder, and 1 for visual features. `prompt` is the
    instruction, in which `{spoken_language}` stands for the language of the sentences, `spoken_language`: any name, as
    in "German". The paper's prompt is not known to us; this one is ours. The placeholder `video_token` is added to the
    tokenizer if it lacks it, and a tokenizer without a padding token pads with its end token.

    Example: `processor(videos=["clip.mp4"], text=["it rains in the north"], return_tensors="pt")`
    """

    def __init__(
        self,
        video_processor=None,
        tokenizer=None,
        feature_extractor=None,
        word_window_stride: int = 2,
        video_token: str = "<video>",
        prompt: str = DEFAULT_PROMPT,
        spoken_language: str = DEFAULT_SPOKEN_LANGUAGE,
        chat_template: str | None = None,
    ):
        if tokenizer.eos_token_id is None:
            raise ValueError("The tokenizer needs an end token: set `tokenizer.eos_token`.")
        if word_window_stride < 1:
            raise ValueError(f"`word_window_stride` must be 1 or more, got {word_window_stride}.")
        if tokenizer.pad_token_id is None:
            tokenizer.pad_token = tokenizer.eos_token
        tokenizer.add_tokens([AddedToken(video_token, special=True, normalized=False)], special_tokens=True)
        super().__init__(video_processor, tokenizer, feature_extractor)
        # Saved beside the tokenizer, whose own it is.
        self.chat_template = chat_template or tokenizer.chat_template
        self.word_window_stride = word_window_stride
        self.video_token = video_token
        self.prompt = prompt
        self.spoken_language = spoken_language
        self._prompt_token_ids(self.spoken_language)  # a prompt that cannot work is told here

    @property
    def model_input_names(self) -> list[str]:
        return [*self.modality.part.model_input_names, "input_ids", "attention_mask", "labels"]

    @property
    def video_token_id(self) -> int:
        """Id of the placeholder."""
        return self.tokenizer.convert_tokens_to_ids(self.video_token)

    def __call__(
        self,
        videos: Any = None,
        text: str | list[str] | tuple[str, ...] | None = None,
        num_visual_tokens: Sequence[int] | None = None,
        spoken_language: str | Sequence[str] | None = None,
        visual_features: Any = None,
        return_tensors: str | None = None,
        **kwargs,
    ) -> BatchFeature:
        """Process videos and their prompts, with their sentences or without.

        Returns `input_ids` and `attention_mask` (batch, tokens), padded on the left: the prompt, and with `text` the
        sentence and its end behind it, and then `labels` (batch, tokens) too, -100 outside the sentence. With `videos`,
        also `pixel_values_videos` (batch, frames, 3, height, width) and `pixel_attention_mask` (batch, frames); with
        `visual_features`, themselves (batch, features, feature_size) and `visual_attention_mask` (batch, features).
        `num_visual_tokens`, in place of `videos`, says how many word-like tokens the features of each clip have.
        `spoken_language` names the language of all sentences, or of each of them, as training did: "German",
        not "de". Other arguments go to the video processor (`start`, `end`, `frame_sampling_rate`, ...).

        Raises `ValueError` for neither or both of `videos` and `num_visual_tokens`, for an empty sentence, one that
        holds the placeholder, and other numbers of sentences or languages than of videos, `TypeError` for unknown
        arguments."""
        clips = self.list_of_clips(videos=videos, visual_features=visual_features)
        modality = self.modality
        if (clips is None) == (num_visual_tokens is None):
            raise ValueError(f"Pass either `{modality.argument}` or, for cached features, `num_visual_tokens`.")
        if clips is None and kwargs:
            raise TypeError(f"Unknown arguments without `{modality.argument}`: {sorted(kwargs)}.")
        data = {}
        if clips is not None:
            data = dict(modality.part(clips, **kwargs))
            lengths = [int(torch.as_tensor(mask).sum()) for mask in data[modality.input_names[1]]]
            num_visual_tokens = [self.get_num_visual_tokens(length) for length in lengths]
        data |= self._token_ids(num_visual_tokens, text, spoken_language)
        return BatchFeature(data, tensor_type=return_tensors, skip_tensor_conversion=self.skip_tensor_conversion)

    def get_num_visual_tokens(self, num_frames: int) -> int:
        """Placeholders in the prompt of a clip of so many frames after sampling."""
        return (num_frames + self.word_window_stride - 1) // self.word_window_stride

    @property
    def num_prompt_tokens(self) -> int:
        """Tokens of the prompt without the video."""
        return sum(map(len, self._prompt_token_ids(self.spoken_language)))

    def _token_ids(
        self,
        num_visual_tokens: Sequence[int],
        text: str | list[str] | tuple[str, ...] | None,
        spoken_language: str | Sequence[str] | None,
    ) -> dict[str, torch.Tensor]:
        prompts = self._prompts(num_visual_tokens, spoken_language)
        if text is None:
            return _padded_on_the_left(prompts, [[] for _ in prompts], self.tokenizer.pad_token_id, with_labels=False)
        sentences = normalised_sentences(text)
        if len(sentences) != len(prompts):
            raise ValueError(
                f"Each video needs one sentence, got {len(prompts)} videos and {len(sentences)} sentences."
            )
        for sentence in sentences:
            if self.video_token in sentence:
                raise ValueError(
                    f"The sentence {sentence!r} holds the placeholder {self.video_token!r}. Take it out, or choose "
                    "another `video_token`."
                )
        token_ids = self.tokenizer(sentences, add_special_tokens=False)["input_ids"]
        answers = [[*sentence, self.tokenizer.eos_token_id] for sentence in token_ids]
        return _padded_on_the_left(prompts, answers, self.tokenizer.pad_token_id, with_labels=True)

    def _prompts(
        self, num_visual_tokens: Sequence[int], spoken_language: str | Sequence[str] | None
    ) -> list[list[int]]:
        num_prompts = len(num_visual_tokens)
        language = self.spoken_language if spoken_language is None else spoken_language
        languages = list(language) if isinstance(language, list | tuple) else [language] * num_prompts
        if not all(isinstance(each, str) for each in languages):
            raise ValueError(
                f"`spoken_language` must be a name such as 'German', or a list of one for each video, got {language!r}."
            )
        if len(languages) != num_prompts:
            raise ValueError(
                f"`spoken_language` names one language, or one for each video, got {len(languages)} languages and "
                f"{num_prompts} videos."
            )
        around = {language: self._prompt_token_ids(language) for language in set(languages)}
        return [
            [*around[language][0], *[self.video_token_id] * int(count), *around[language][1]]
            for language, count in zip(languages, num_visual_tokens, strict=True)
        ]

    def _prompt_token_ids(self, spoken_language: str) -> tuple[list[int], list[int]]:
        """Token ids in front of the video, and behind it."""
        instruction = self.prompt.replace("{spoken_language}", spoken_language)
        content = CONTENT.format(video=self.video_token, prompt=instruction)
        if self.tokenizer.chat_template is None:
            token_ids = self._starting_tokens() + self._tokenized(PLAIN_TEMPLATE.format(content=content))
        else:
            messages = [{"role": "user", "content": content}]
            token_ids = self._tokenized(render_chat(self.tokenizer, messages))
        if token_ids.count(self.video_token_id) != 1:
            raise ValueError(
                f"The prompt must hold the placeholder {self.video_token!r} once, where the video goes; it holds it "
                f"{token_ids.count(self.video_token_id)} times. `prompt` must not hold it, and the chat template must "
                "keep what the user says."
            )
        place = token_ids.index(self.video_token_id)
        return token_ids[:place], token_ids[place + 1 :]

    def _tokenized(self, text: str) -> list[int]:
        return self.tokenizer(text, add_special_tokens=False)["input_ids"]

    def _starting_tokens(self) -> list[int]:
        """The special tokens that the tokenizer itself puts in front of a text."""
        with_special_tokens = self.tokenizer("a")["input_ids"]
        return with_special_tokens[: with_special_tokens.index(self._tokenized("a")[0])]


def _padded_on_the_left(
    prompts: list[list[int]], answers: list[list[int]], pad_token_id: int, with_labels: bool
) -> dict[str, torch.Tensor]:
    longest = max(len(prompt) + len(answer) for prompt, answer in zip(prompts, answers, strict=True))
    names = ("input_ids", "attention_mask", "labels") if with_labels else ("input_ids", "attention_mask")
    rows: dict[str, list[list[int]]] = {name: [] for name in names}
    for prompt, answer in zip(prompts, answers, strict=True):
        num_tokens = len(prompt) + len(answer)
        padding = longest - num_tokens
        rows["input_ids"].append([pad_token_id] * padding + prompt + answer)
        rows["attention_mask"].append([0] * padding + [1] * num_tokens)
        if with_labels:
            rows["labels"].append([IGNORED_LABEL] * (padding + len(prompt)) + answer)
    return {name: torch.tensor(values) for name, values in rows.items()}
