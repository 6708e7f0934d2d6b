# Copyright 2026 The FLaLLM authors. Licensed under the Apache License, Version 2.0.
"""Turns videos, prompts and sentences into the inputs of LLaVA-SLT, and token ids back into sentences."""

from collections.abc import Sequence
from functools import partial
from typing import Any

import torch
from transformers import AddedToken
from transformers.feature_extraction_utils import BatchFeature

from .chat_template_slt import PLAIN_CHAT_TEMPLATE, render_chat, with_text_contents
from .processing_flallm import (
    DEFAULT_SPOKEN_LANGUAGE,
    IGNORED_LABEL,
    FLaLLMProcessor,
    check_one_sentence_per_video,
    normalised_sentences,
    ungrouped_arguments,
)

DEFAULT_PROMPT = "Translate this sign language video into {spoken_language}."

# What to do where a prompt does not hold its video once: one of ours, and one that was passed as `text`.
OWN_PROMPT_ADVICE = "`prompt` must not hold it, and the chat template must keep what the user says."
GIVEN_PROMPT_ADVICE = "Write it into `text`, or leave `text` out: the processor then writes its own prompt."


class LlavaSltProcessor(FLaLLMProcessor):
    """Combines a reader of clips with the tokenizer of a decoder-only language model, any of transformers.

    Videos are read by a `video_processor`, ready-made visual features by a `feature_extractor`: pass one of the two.

    The prompt has one placeholder token per word-like token of the video, then the instruction, in the tokenizer's chat
    template if it has one. The sentence, normalised to Unicode NFKC, and the tokenizer's end token follow. Rows are
    padded on the left.

    `word_window_stride` must be that of the model's visual encoder, and 1 for visual features; `token_steps` takes its
    place for encoders that count otherwise, see `set_token_steps`. `prompt` is the
    instruction, in which `{spoken_language}` stands for the English name of `spoken_language`, the language of the
    sentences: a tag such as "de" or a name such as "German". The paper's prompt is not known to us; this one is ours.
    The placeholder `video_token` is added to the tokenizer if it lacks it, and a tokenizer without a padding token pads
    with its end token.

    Example: `processor(videos=["clip.mp4"], text_target=["it rains in the north"], return_tensors="pt")`
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
        token_steps: list[list[int | None]] | None = None,
    ):
        if tokenizer.eos_token_id is None:
            raise ValueError("The tokenizer needs an end token: set `tokenizer.eos_token`.")
        if word_window_stride < 1:
            raise ValueError(f"`word_window_stride` must be 1 or more, got {word_window_stride}.")
        if tokenizer.pad_token_id is None:
            tokenizer.pad_token = tokenizer.eos_token
        tokenizer.add_tokens([AddedToken(video_token, special=True, normalized=False)], special_tokens=True)
        super().__init__(video_processor, tokenizer, feature_extractor, prompt, spoken_language)
        # Saved beside the tokenizer, from which it comes.
        self.chat_template = chat_template or tokenizer.chat_template
        self.word_window_stride = word_window_stride
        self.token_steps = token_steps
        self.video_token = video_token
        self._around_own_video(self.spoken_language)  # raises if the prompt cannot work

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
        text_target: str | list[str] | tuple[str, ...] | None = None,
        num_visual_tokens: Sequence[int] | None = None,
        spoken_language: str | Sequence[str | None] | None = None,
        visual_features: Any = None,
        add_special_tokens: bool = True,
        return_tensors: str | None = None,
        **kwargs,
    ) -> BatchFeature:
        """Process videos and their prompts, with or without their sentences.

        Returns `input_ids` and `attention_mask` (batch, tokens), padded on the left: the prompt, followed with
        `text_target` by the sentence and its end; then also `labels` (batch, tokens), -100 outside the sentence. With
        `videos`, also `pixel_values_videos` (batch, frames, 3, height, width) and `pixel_attention_mask` (batch,
        frames); with `visual_features`, also these (batch, features, feature_size) and `visual_attention_mask` (batch,
        features). `num_visual_tokens`, in place of clips, is the number of word-like tokens of each.

        `text` is the prompt of each video, as `apply_chat_template` makes it, with the placeholder `video_token`
        once, where the video goes; `add_special_tokens=False` leaves out what the tokenizer puts in front of a text.
        Default: the processor's own prompt, in which `spoken_language` names the language of all sentences, or of each
        of them, by tag or by name (None: the processor's own). Other arguments go to what reads the clips (`start`,
        `end`, `frame_sampling_rate`, ...; `max_num_features`).

        Raises `ValueError` for no input or both clips and `num_visual_tokens`, for clips of another modality, a prompt
        without the placeholder, an empty sentence or one with the placeholder, and unless there are as many prompts,
        sentences and languages as videos, `TypeError` for unknown arguments."""
        kwargs = ungrouped_arguments(kwargs)
        return_tensors = kwargs.pop("return_tensors", return_tensors)
        if kwargs.pop("padding", True) not in (True, "longest"):
            raise ValueError("Rows are padded on the left to the longest of them: leave `padding` out.")
        clips = self.take_clips(kwargs, videos=videos, visual_features=visual_features)
        modality = self.modality
        num_inputs = (clips is not None) + (num_visual_tokens is not None)
        if num_inputs == 2 or (num_inputs == 0 and text is None):
            raise ValueError(f"Pass either `{modality.argument}` or, for cached features, `num_visual_tokens`.")
        if clips is None and kwargs:
            raise TypeError(f"Unknown arguments without `{modality.argument}`: {sorted(kwargs)}.")
        data = {}
        if clips is not None:
            data = dict(modality.part(clips, **kwargs))
            lengths = [int(torch.as_tensor(mask).sum()) for mask in data[modality.input_names[1]]]
            num_visual_tokens = [self.get_num_visual_tokens(length) for length in lengths]
        if text is None:
            prompts = self._own_prompts(num_visual_tokens, spoken_language)
        else:
            prompts = self._given_prompts(text, num_visual_tokens, spoken_language, add_special_tokens)
        data |= self._token_ids(prompts, text_target)
        return BatchFeature(data, tensor_type=return_tensors, skip_tensor_conversion=self.skip_tensor_conversion)

    def apply_chat_template(
        self,
        conversation: list[dict[str, Any]] | list[list[dict[str, Any]]],
        chat_template: str | None = None,
        tokenize: bool = False,
        return_dict: bool = False,
        return_tensors: str | None = None,
        processor_kwargs: dict[str, Any] | None = None,
        **kwargs,
    ) -> str | list[str] | torch.Tensor | BatchFeature:
        """Turn one or several conversations into prompts, and with `tokenize` into what the model takes.

        The content of a message is a text, or parts: `{"type": "text", "text": ...}` and `{"type": "video"}`, with
        the clip under `video`, `path` or `url` if `tokenize` should read it. Default of `chat_template`: that of the
        processor, which is the tokenizer's, or a plain one if it has none. With `tokenize` returns `input_ids`, or
        with `return_dict` all of `__call__`, to which `processor_kwargs` go (`text_target`, `fps`, ...). Other
        arguments are those of transformers, such as `add_generation_prompt`. Raises `ValueError` for a template that
        has an error or does not end, and as `__call__`.

        Example: `processor.apply_chat_template([{"role": "user", "content": [{"type": "video", "path": "clip.mp4"},
        {"type": "text", "text": "Translate."}]}], add_generation_prompt=True, tokenize=True, return_dict=True)`"""
        arguments = {**(processor_kwargs or {}), "return_tensors": return_tensors}
        if self.video_processor is not None:
            for name in sorted(kwargs.keys() & self.video_processor.valid_kwargs.__annotations__.keys()):
                arguments[name] = kwargs.pop(name)
        render = partial(super().apply_chat_template, conversation, tokenize=False, **kwargs)
        text = render_chat(render, self._chat_template(chat_template))
        if not tokenize:
            return text
        # A chat template writes the special tokens itself.
        has_template = chat_template is not None or self.chat_template is not None
        arguments.setdefault("add_special_tokens", not has_template)
        inputs = self(videos=_videos_of(conversation) or None, text=text, **arguments)
        return inputs if return_dict else inputs["input_ids"]

    def _chat_template(self, chat_template: str | None = None) -> str:
        """The given one, or else the processor's own; a tokenizer's takes only text messages."""
        template = self.chat_template if chat_template is None else chat_template
        if template is None:
            return with_text_contents(PLAIN_CHAT_TEMPLATE, self.video_token)
        if template == self.tokenizer.chat_template:
            return with_text_contents(self.tokenizer.get_chat_template(), self.video_token)
        return template

    def get_num_visual_tokens(self, num_frames: int) -> int:
        """Number of placeholders in the prompt of a clip with this many frames after sampling."""
        if self.token_steps is None:
            return (num_frames + self.word_window_stride - 1) // self.word_window_stride
        num_tokens = num_frames
        for add, divide, multiply, least in self.token_steps:
            num_tokens = (num_tokens + add) // divide
            num_tokens = (num_tokens if least is None else max(num_tokens, least)) * multiply
        return num_tokens

    def set_token_steps(self, token_steps: Sequence[Sequence[int | None]]) -> None:
        """Count visual tokens as the model's sign encoder does, by its `get_token_steps`."""
        steps = [list(step) for step in token_steps if list(step[:3]) != [0, 1, 1]]
        stride = steps[0][1] if steps else 1
        if steps in ([], [[stride - 1, stride, 1, None]]):  # word-like windows, as always
            self.word_window_stride, self.token_steps = stride, None
        else:
            self.token_steps = steps

    @property
    def num_prompt_tokens(self) -> int:
        """Number of tokens of the prompt without the video."""
        return sum(map(len, self._around_own_video(self.spoken_language)))

    def _token_ids(
        self, prompts: list[list[int]], text_target: str | list[str] | tuple[str, ...] | None
    ) -> dict[str, torch.Tensor]:
        if text_target is None:
            return _padded_on_the_left(prompts, [[] for _ in prompts], self.tokenizer.pad_token_id, with_labels=False)
        sentences = normalised_sentences(text_target)
        check_one_sentence_per_video(len(prompts), len(sentences))
        for sentence in sentences:
            if self.video_token in sentence:
                raise ValueError(
                    f"The sentence {sentence!r} holds the placeholder {self.video_token!r}. Take it out, or choose "
                    "another `video_token`."
                )
        token_ids = self.tokenizer(sentences, add_special_tokens=False)["input_ids"]
        answers = [[*sentence, self.tokenizer.eos_token_id] for sentence in token_ids]
        return _padded_on_the_left(prompts, answers, self.tokenizer.pad_token_id, with_labels=True)

    def _given_prompts(
        self,
        text: str | list[str] | tuple[str, ...],
        num_visual_tokens: Sequence[int] | None,
        spoken_language: str | Sequence[str | None] | None,
        add_special_tokens: bool,
    ) -> list[list[int]]:
        if spoken_language is not None:
            raise ValueError(
                "`spoken_language` is for the processor's own prompt. Write the language into `text` instead."
            )
        texts = [text] if isinstance(text, str) else text
        if not isinstance(texts, list | tuple) or not texts or not all(isinstance(each, str) for each in texts):
            raise ValueError(f"`text` must be a prompt or a list of prompts, got {text!r}.")
        token_ids = [self._prompt_token_ids(each, add_special_tokens) for each in texts]
        if num_visual_tokens is None:
            num_placeholders = [ids.count(self.video_token_id) for ids in token_ids]
            if any(num_placeholders):
                raise ValueError(f"The prompts hold {sum(num_placeholders)} placeholders, but there are no `videos`.")
            return token_ids
        if len(texts) != len(num_visual_tokens):
            raise ValueError(
                f"Each video needs one prompt, got {len(num_visual_tokens)} videos and {len(texts)} prompts."
            )
        return [
            self._with_video(*self._around_the_video(ids, GIVEN_PROMPT_ADVICE), count)
            for ids, count in zip(token_ids, num_visual_tokens, strict=True)
        ]

    def _own_prompts(
        self, num_visual_tokens: Sequence[int], spoken_language: str | Sequence[str | None] | None
    ) -> list[list[int]]:
        languages = self._language_names(len(num_visual_tokens), spoken_language)
        around = {language: self._around_own_video(language) for language in set(languages)}
        return [
            self._with_video(*around[language], count)
            for language, count in zip(languages, num_visual_tokens, strict=True)
        ]

    def _with_video(self, before: list[int], behind: list[int], num_visual_tokens: int) -> list[int]:
        return [*before, *[self.video_token_id] * int(num_visual_tokens), *behind]

    def _around_own_video(self, spoken_language: str) -> tuple[list[int], list[int]]:
        """Token ids before and after the video in the processor's own prompt."""
        instruction = self.prompt.replace("{spoken_language}", spoken_language)
        content = [{"type": "video"}, {"type": "text", "text": instruction}]
        text = self.apply_chat_template([{"role": "user", "content": content}], add_generation_prompt=True)
        token_ids = self._prompt_token_ids(text, add_special_tokens=self.chat_template is None)
        return self._around_the_video(token_ids, OWN_PROMPT_ADVICE)

    def _around_the_video(self, token_ids: list[int], advice: str) -> tuple[list[int], list[int]]:
        if token_ids.count(self.video_token_id) != 1:
            raise ValueError(
                f"The prompt must hold the placeholder {self.video_token!r} once, where the video goes; it holds it "
                f"{token_ids.count(self.video_token_id)} times. {advice}"
            )
        place = token_ids.index(self.video_token_id)
        return token_ids[:place], token_ids[place + 1 :]

    def _prompt_token_ids(self, prompt: str, add_special_tokens: bool) -> list[int]:
        token_ids = self._tokenized(prompt)
        start = self._starting_tokens() if add_special_tokens else []
        return token_ids if token_ids[: len(start)] == start else start + token_ids

    def _tokenized(self, text: str) -> list[int]:
        return self.tokenizer(text, add_special_tokens=False)["input_ids"]

    def _starting_tokens(self) -> list[int]:
        """The special tokens that the tokenizer itself puts in front of a text."""
        with_special_tokens = self.tokenizer("a")["input_ids"]
        return with_special_tokens[: with_special_tokens.index(self._tokenized("a")[0])]


def _videos_of(conversation: list[dict[str, Any]] | list[list[dict[str, Any]]]) -> list[Any]:
    """The clips in the messages of one or several conversations, in their order."""
    is_batched = bool(conversation) and isinstance(conversation[0], list | tuple)
    messages = [message for each in conversation for message in each] if is_batched else conversation
    contents = [message["content"] for message in messages if not isinstance(message["content"], str)]
    parts = [part for content in contents for part in content if part["type"] == "video"]
    return [part[name] for part in parts for name in ("video", "path", "url") if part.get(name) is not None]


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
