"""
`pipeline("sign-language-translation")`: sign language videos of any kind in, sentences out, with scores and with the
seconds of the video that each word was read from.

This file imports nothing of ours: it lies beside the weights on the Hub and works with whatever model and processor the
pipeline was built with.
"""

import copy
import inspect
import math
import re
import unicodedata
from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch.utils.data import Dataset, IterableDataset
from transformers import GenerationConfig, GenerationMixin, Pipeline, PreTrainedModel
from transformers.image_utils import is_pil_image

# The first frame is repeated so many times in front of a clip with `temporal_padding="replicate"`.
REPLICATED_FRAMES_IN_FRONT = 8
TIME_TOLERANCE_IN_SECONDS = 1e-3  # that of the video processor
PICTURE_SUFFIXES = (".png", ".jpg", ".jpeg", ".bmp", ".webp", ".tif", ".tiff", ".ppm", ".pgm")
VIDEO_KEYS = ("video", "start", "end", "source_fps")
READY_CLIP_KEYS = ("pixel_values_videos", "video_metadata", "start", "end", "caption_start", "caption_end")
# Parts of a piece that is too long for the model overlap by so much of their length.
OVERLAP_OF_PARTS = 0.2
SET_BY_THE_PIPELINE = {
    "output_scores": "return_scores",
    "output_attentions": "return_attention",
    "return_dict_in_generate": "return_scores",
}
# Chinese and Japanese put no spaces between words: there, each character counts as a word.
CHARACTERS = "\u3005-\u3007\u3040-\u30ff\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff\U00020000-\U0003ffff"
PIECES_OF_TEXT = re.compile(f"[{CHARACTERS}]|[^\\s{CHARACTERS}]+")
INCOMPLETE_CHARACTER = "\ufffd"


@dataclass(frozen=True)
class NumberedVideo:
    """One of several inputs, with its place among them for the error texts."""

    index: int
    video: Any


class NumberedVideos(Dataset):
    """A data set of videos as one of `NumberedVideo`, still read one by one."""

    def __init__(self, videos: Dataset):
        self.videos = videos

    def __len__(self) -> int:
        return len(self.videos)

    def __getitem__(self, index: int) -> NumberedVideo:
        return NumberedVideo(index, self.videos[index])


@dataclass(frozen=True)
class ClipTimes:
    """Seconds in the file of each sampled frame `(frames,)`, and where the part that was read starts and ends."""

    frame_seconds: np.ndarray
    start: float
    end: float

    def at(self, positions: np.ndarray) -> np.ndarray:
        """Seconds at positions counted in sampled frames, fractions included; outside the clip, its start or end."""
        num_frames = len(self.frame_seconds)
        first, last = self.frame_seconds[0], self.frame_seconds[-1]
        step = (last - first) / (num_frames - 1) if num_frames > 1 else self.end - self.start
        seconds = np.interp(positions, np.arange(num_frames), self.frame_seconds)
        seconds = seconds + step * (np.minimum(positions, 0) + np.maximum(positions - (num_frames - 1), 0))
        return seconds.clip(self.start, self.end)


class SignLanguageTranslationPipeline(Pipeline):
    """
    Translate sign language videos with a `FLaLLMForTranslation` and its `FLaLLMProcessor`, or with a
    `LlavaSltForTranslation` and its `LlavaSltProcessor`.

    ```python
    >>> from transformers import pipeline

    >>> translator = pipeline("sign-language-translation", model="quickstart_output/model")
    >>> translator("clip.mp4")
    {'translation_text': 'tonight the doctor will carry a red chair in the village .'}
    ```

    Where this package is not installed, add `trust_remote_code=True`. Every argument of a call may also be given to
    `pipeline(...)`; it then holds for all calls that do not give it themselves. The model is put into evaluation mode.
    It keeps its attention implementation: word evidence comes from a copy that shares its weights.
    """

    _load_processor = True
    _load_tokenizer = False
    _load_image_processor = False
    _load_video_processor = False
    _load_feature_extractor = False
    # transformers' own handling of generation arguments differs between versions: here they go to `generate` as given.
    _pipeline_calls_generate = False

    def __init__(self, *args: Any, **kwargs: Any):
        super().__init__(*args, **kwargs)
        if self.processor is None:
            raise ValueError(
                "The pipeline needs the model's processor. Pass `processor=`, or name a folder or Hub id as `model`."
            )
        self.model.eval()

    def __call__(self, inputs: Any, **kwargs: Any) -> Any:
        """
        Translate one video or several.

        Args:
            inputs:
                One video: a path or http(s) address of a file, a path of a folder of frames, bytes, an open binary
                file, an array or tensor of shape `(frames, height, width, channels)` or
                `(frames, channels, height, width)`, a list of frames (PIL, arrays or picture paths), or what a video
                column of `datasets` holds. Or a dictionary `{"video": ..., "start": ..., "end": ...,
                "source_fps": ...}` of a video and its own values for the arguments below. Or what the processor has
                made of a video already, `{"pixel_values_videos": ..., "video_metadata": ..., "start": ...}`: an array
                or tensor of shape `(frames, 3, height, width)` as the processor gives it, what it says of the video
                with `return_metadata=True` (a plain dictionary will do) and the second at which it began to read (0
                without it). Or several of them: a list,
                tuple or array with one dimension more, a generator or other iterator, or a torch data set such as
                `KeyDataset(dataset, "video")`.
            start (`float`, *optional*):
                Second at which to start in each video. Default: its beginning.
            end (`float`, *optional*):
                Second at which to stop in each video. Default: its end.
            source_fps (`float`, *optional*):
                Frames per second of videos that do not say it: arrays, lists and folders of frames. Without it they
                have no seconds, so no `start`, `end` and `return_timestamps`.
            return_scores (`bool`, *optional*, defaults to `False`):
                Add `"score"`, a natural logarithm: with beams `sequences_scores` of `generate`, the log probability of
                the tokens divided by their number to the power of `length_penalty`; else the mean log probability per
                token. Both count the end token, and both are what `generate` chose by, after temperature and the like.
                With a model whose configuration carries `confidence_calibration`, add `"confidence"` too, from 0 to 1:
                `1 / (1 + exp(-(slope * score + intercept)))` with the slope and the intercept that it names. And
                `"is_familiar"`: whether the video looks like those that this was measured on. If it does not, or if the
                score is below all that were measured, the confidence is 0.
            return_timestamps (`bool`, *optional*, defaults to `False`):
                Add `"words"`, what each word was read from. See below.
            return_attention (`bool`, *optional*, defaults to `False`):
                With `"words"`, add what a heat map needs: `"attention"`, a float32 array of shape `(words, visual
                tokens)`, rows of sum 1, and `"token_times"`, an array of shape `(visual tokens,)`, the seconds of the
                frame in the middle of what each visual token sees.
            spoken_language (`str`, *optional*):
                The language to write, by the English name that training put into the prompt: `"German"`, not `"de"`.
                Only for models that read a prompt (LLaVA-SLT). Default: that of the processor.
            batch_size (`int`, *optional*, defaults to 1):
                Videos that are translated together. They may be of different lengths; the result is the same.
            generate_kwargs (`dict`, *optional*):
                Arguments of `generate`. They may also be given by name: `num_beams=5`, `do_sample=True`,
                `max_new_tokens=40`, `num_return_sequences=3`, ...

        Returns:
            For one video a dictionary with `"translation_text"` and what else was asked for; for a list, tuple or
            array of videos a list of them. An iterator or data set gives an iterable that reads the next videos only
            when their turn comes. With `num_return_sequences` above 1 there is a list of dictionaries, best first with
            beams, in place of each dictionary.

            `"words"` lists, for each word (for each character in Chinese and Japanese; punctuation left out), a
            dictionary with `"word"`, its `"probability"` under the model given the video and the words before it, and
            in seconds of the whole file `"peak"`, where its attention is highest, and `"start"` and `"end"`, around
            the peak, where it is at least half as high. The attention is that of the text model's decoder to the
            visual tokens at the time it writes the word, averaged over heads, layers and the tokens of the word; this
            choice is ours. In a decoder-only model it is the self-attention to the visual tokens of the prompt. It
            shows what the model looked at, which need not be where a sign is.

        Raises:
            ValueError: for a video that cannot be read, is too short or too long, with its name and, among several,
                its index from 0: one bad video ends the call, but an iterator has given the answers before it. For
                `"words"` from a text model that gives no attention weights.
            TypeError: for an unknown argument.
        """
        if isinstance(inputs, IterableDataset) or (isinstance(inputs, Iterator) and not hasattr(inputs, "read")):
            answers = super().__call__((NumberedVideo(*pair) for pair in enumerate(inputs)), **kwargs)
            return (answer for answer in answers)  # transformers' own has no working `next`
        if isinstance(inputs, Dataset):
            return super().__call__(NumberedVideos(inputs), **kwargs)
        if _is_one_video(inputs):
            # transformers takes a bare list for several inputs
            return super().__call__({"video": inputs} if isinstance(inputs, list | tuple) else inputs, **kwargs)
        return super().__call__([NumberedVideo(*pair) for pair in enumerate(inputs)], **kwargs) if len(inputs) else []

    def translate_long(
        self,
        video: Any,
        segments: Sequence[Any] | None = None,
        start: float | None = None,
        end: float | None = None,
        source_fps: float | None = None,
        **arguments: Any,
    ) -> Iterator[dict[str, Any]]:
        """
        Translate a video longer than one sentence piece by piece, in memory that does not grow with its length.

        Args:
            video: One video of any kind that the pipeline takes and that can be read twice.
            segments: The pieces, `(start, end)` in seconds or what `split_at_rests` of the video processor gives, in
                order of time; they may overlap. Default: what `split_at_rests(video, start, end, source_fps)` gives.
            start, end, source_fps: As in a call.
            **arguments: Every other argument of a call.

        Returns:
            An iterator over the answers as `translate_pieces` gives them; nothing where nobody moves. Call
            `split_at_rests` yourself to know their number beforehand.

        Example:

        ```python
        >>> segments = translator.processor.video_processor.split_at_rests("talk.mp4")
        >>> for answer in translator.translate_long("talk.mp4", segments):
        ...     print(f"{answer['piece'] + 1} of {len(segments)}", answer["start"], answer["translation_text"])
        ```
        """
        video_processor = self.processor.video_processor
        if segments is None:
            segments = video_processor.split_at_rests(video, start, end, source_fps)
        elif start is not None or end is not None:
            raise ValueError("`start` and `end` say where to look for segments. With `segments` leave them out.")
        return self.translate_pieces(video_processor.read_segments(video, segments, source_fps), **arguments)

    def translate_pieces(self, pieces: Iterable[dict[str, Any]], **arguments: Any) -> Iterator[dict[str, Any]]:
        """
        Translate the pieces of one long video, and put the sentences together.

        Args:
            pieces: Pieces as `read_segments` of the video processor yields them, in order of time: `{
                "pixel_values_videos": ..., "video_metadata": ..., "start": ..., "end": ..., "caption_start": ...,
                "caption_end": ...}`. Without the last two, `start` and `end` are the times of the caption. The next
                piece is taken when its turn comes.
            **arguments: Arguments of a call but `start`, `end` and `source_fps`.

        Returns:
            An iterator over the answers of a call, each with the `"start"` and `"end"` of its caption in seconds and
            with `"piece"`, the index of its piece. The times rise and do not overlap. Where two pieces overlap, the
            words that the second one says again are taken out of it; its text may then be empty. A piece too short for
            the model goes on with its last frame, one too long for it is translated in overlapping parts, each with an
            answer of its own.
        """
        spans: deque[tuple[int, float, float]] = deque()
        answers = self(self._parts(pieces, spans), **arguments)
        said, said_until = [], -math.inf
        for answer in answers:
            piece, start, end = spans.popleft()
            alternatives = answer if isinstance(answer, list) else [answer]
            if start < said_until:
                alternatives = [_without_repeated_words(alternative, said) for alternative in alternatives]
            span = {"start": round(max(start, said_until), 3), "end": round(end, 3), "piece": piece}
            said, said_until = _folded_words(alternatives[0]["translation_text"]), end
            alternatives = [alternative | span for alternative in alternatives]
            yield alternatives if isinstance(answer, list) else alternatives[0]

    def _parts(
        self, pieces: Iterable[dict[str, Any]], spans: deque[tuple[int, float, float]]
    ) -> Iterator[dict[str, Any]]:
        """Yield clips of lengths that the model takes; to `spans` go the index, start and end of each."""
        earlier = (-math.inf, -math.inf)
        for index, piece in enumerate(pieces):
            missing = [name for name in READY_CLIP_KEYS[:4] if piece.get(name) is None]
            if missing:
                raise ValueError(
                    f"Each piece must be a dictionary with {', '.join(READY_CLIP_KEYS[:4])}, not without {missing}."
                )
            if piece["start"] < earlier[0] or piece["end"] <= earlier[1]:
                raise ValueError(
                    f"Pieces must come in order of time, got {piece['start']:g} to {piece['end']:g} seconds after "
                    f"{earlier[0]:g} to {earlier[1]:g}."
                )
            earlier = (piece["start"], piece["end"])
            num_frames = len(piece["pixel_values_videos"])
            for first, stop in self._spans_that_fit(0, num_frames):
                seconds = np.interp([first, stop], [0, num_frames], earlier).tolist()
                start = piece.get("caption_start", earlier[0]) if first == 0 else seconds[0]
                end = piece.get("caption_end", earlier[1]) if stop == num_frames else seconds[1]
                spans.append((index, start, end))
                yield self._held_at_its_end(_part_of_clip(piece, first, stop))

    def _spans_that_fit(self, first: int, stop: int) -> Iterator[tuple[int, int]]:
        """Halve a span of frames, with an overlap, until the model takes its parts."""
        try:
            self._check_num_tokens(stop - first)
        except ValueError:
            reach = math.ceil((stop - first) * (1 + OVERLAP_OF_PARTS) / 2)
            if reach >= stop - first:
                raise
            yield from self._spans_that_fit(first, first + reach)
            yield from self._spans_that_fit(stop - reach, stop)
        else:
            yield first, stop

    def _held_at_its_end(self, clip: dict[str, Any]) -> dict[str, Any]:
        """Repeat the last frame, hands at rest mostly, until the clip is long enough for the model."""
        pixels, metadata = clip["pixel_values_videos"], clip["video_metadata"]
        num_missing = max(0, self._shortest_clip_in_frames() - len(pixels))
        if num_missing == 0:
            return clip
        indices = list(metadata["frames_indices"])
        pixels = torch.cat([pixels, pixels[-1:].expand(num_missing, -1, -1, -1)])
        metadata = {**metadata, "frames_indices": indices + indices[-1:] * num_missing}
        return {**clip, "pixel_values_videos": pixels, "video_metadata": metadata}

    def save_pretrained(self, save_directory: Any, **kwargs: Any) -> None:
        """Save model and processor; the model brings the file of this pipeline along."""
        self.model.save_pretrained(save_directory, **kwargs)
        self.processor.save_pretrained(save_directory, **kwargs)

    def _sanitize_parameters(self, generate_kwargs: dict[str, Any] | None = None, **kwargs: Any) -> tuple[dict, ...]:
        """Sort the arguments of a call into those of `preprocess`, `_forward` and `postprocess`."""
        names = {"start", "end", "source_fps", "return_scores", "return_timestamps", "return_attention"}
        names.add("spoken_language")
        named = {name: value for name, value in kwargs.items() if name not in names}
        twice = sorted(set(named) & set(generate_kwargs or {}))
        if twice:
            raise ValueError(f"{twice} came both by name and in `generate_kwargs`. Pass each of them once.")
        generation = {**(generate_kwargs or {}), **named}
        _check_generation_arguments(generation)
        flags = {name: kwargs[name] for name in kwargs if name.startswith("return_") and name in names}
        preprocess = {name: kwargs[name] for name in kwargs if name in ("start", "end", "source_fps")}
        for name, value in preprocess.items():
            _check_one_number(name, value)
        evidence = {name: flags[name] for name in ("return_timestamps", "return_attention") if name in flags}
        language = {name: kwargs[name] for name in kwargs if name == "spoken_language"}
        if language and not self._reads_a_prompt:
            raise ValueError(
                "`spoken_language` goes into a prompt, and this model reads none. Choose its language by the "
                "tokenizer's `tgt_lang` and `forced_bos_token_id`."
            )
        return preprocess | evidence, flags | language | generation, evidence

    def preprocess(
        self,
        input_: Any,
        start: float | None = None,
        end: float | None = None,
        source_fps: float | None = None,
        return_timestamps: bool = False,
        return_attention: bool = False,
    ) -> dict[str, list[dict[str, Any]]]:
        """-> one clip: its `pixel_values_videos` `(frames, 3, height, width)`, and its `times` where they are known."""
        video = input_.video if isinstance(input_, NumberedVideo) else input_
        values = {"video": video, "start": start, "end": end, "source_fps": source_fps}
        try:
            if isinstance(video, dict) and "pixel_values_videos" in video:
                clip = self._ready_clip(**values)
            else:
                if isinstance(video, dict) and "video" in video:
                    _check_keys(video)
                    values |= video
                clip = self._read_clip(**values)
            if (return_timestamps or return_attention) and clip["times"] is None:
                raise ValueError(
                    f"{_name(values['video'])} has no frame rate, so its words cannot be given seconds. Pass "
                    "`source_fps`, its frames per second."
                )
        except ValueError as error:
            if isinstance(input_, NumberedVideo):
                raise ValueError(f"Video {input_.index} of the inputs cannot be translated: {error}") from error
            raise
        return {"clips": [clip]}

    def _read_clip(
        self, video: Any, start: float | None, end: float | None, source_fps: float | None
    ) -> dict[str, Any]:
        if not _is_one_video(video):
            raise ValueError(f"Expected one video, got {_name(video)}. Lists of videos cannot be nested.")
        inputs = self.processor(
            videos=video,
            start=start,
            end=end,
            video_metadata=None if source_fps is None else {"fps": source_fps},
            return_metadata=True,
            return_tensors="pt",
        )
        frames = inputs["pixel_values_videos"][0]
        self._check_length(len(frames), _name(video))
        return {"pixel_values_videos": frames, "times": _clip_times(inputs["video_metadata"][0], start)}

    def _ready_clip(
        self, video: dict[str, Any], start: float | None, end: float | None, source_fps: float | None
    ) -> dict[str, Any]:
        unknown = sorted(set(video) - set(READY_CLIP_KEYS))
        if unknown:
            raise ValueError(f"A processed video has the keys {', '.join(READY_CLIP_KEYS)}, got {unknown} too.")
        if any(value is not None for value in (start, end, source_fps)):
            raise ValueError(
                "`start`, `end` and `source_fps` are for reading a video, but this one is processed already."
            )
        pixels = torch.as_tensor(video["pixel_values_videos"])
        if pixels.ndim != 4 or pixels.shape[1] != 3:
            raise ValueError(
                "`pixel_values_videos` of one processed video has the shape (frames, 3, height, width), got "
                f"{tuple(pixels.shape)}. From a batch of the processor take one entry."
            )
        self._check_length(len(pixels), "the processed video")
        metadata = video.get("video_metadata")
        times = None if metadata is None else _clip_times(metadata, video.get("start"))
        return {"pixel_values_videos": pixels, "times": times}

    def _shortest_clip_in_frames(self) -> int:
        get_num_tokens = self.model.vision_model.get_num_tokens
        return next(frames for frames in range(1, 10_000) if get_num_tokens(frames) >= 1)

    def _check_length(self, num_frames: int, name: str) -> None:
        get_num_tokens = self.model.vision_model.get_num_tokens
        if get_num_tokens(num_frames) < 1:
            raise ValueError(
                f"{name} is too short to translate: {num_frames} frame(s) are left after sampling, and the model needs "
                f"at least {self._shortest_clip_in_frames()}. Use a longer part of it, or keep more of its frames "
                "(`frame_sampling_rate` of the video processor)."
            )
        try:
            self._check_num_tokens(num_frames)
        except ValueError as error:
            raise ValueError(f"{name} is too long to translate. {error}") from error

    def _check_num_tokens(self, num_frames: int) -> None:
        """Raise a `ValueError` if so many frames are too many for the text model, its prompt included."""
        num_tokens = self.model.vision_model.get_num_tokens(num_frames)
        if self._reads_a_prompt:
            num_tokens += self.processor.num_prompt_tokens
        self.model.check_num_tokens(num_tokens)

    def _forward(
        self,
        model_inputs: dict[str, list],
        return_scores: bool = False,
        return_timestamps: bool = False,
        return_attention: bool = False,
        spoken_language: str | None = None,
        **generation: Any,
    ) -> dict[str, list[dict[str, Any]]]:
        """Clips, one or a batch -> for each its `times` and the `sequences` that were generated for it."""
        clips = [clip if isinstance(clip, dict) else clip[0] for clip in model_inputs["clips"]]
        vision_output = self.model.vision_model(**_padded([clip["pixel_values_videos"] for clip in clips]))
        inputs = self._text_model_inputs(vision_output, spoken_language)
        output = self._generate(inputs, return_scores, generation)
        parts = {"token_ids": output.sequences}
        if self._reads_a_prompt:
            # The tokens behind a prompt come without one to start from, which those of a decoder have.
            start = torch.full_like(output.sequences[:, :1], self.processor.tokenizer.pad_token_id)
            parts["token_ids"] = torch.cat([start, output.sequences], dim=1)
        if return_scores:
            parts["score"] = self._scores(output, generation)
        if return_timestamps or return_attention:
            replay = self._replay_prompt if self._reads_a_prompt else self._replay
            parts["log_probabilities"], parts["attention"] = replay(parts["token_ids"], **inputs)
        sequences = [{name: part[row] for name, part in parts.items()} for row in range(len(output.sequences))]
        per_clip = len(sequences) // len(clips)
        answers = [
            {
                "sequences": sequences[index * per_clip : (index + 1) * per_clip],
                "mean_features": features,
                **self._visual_tokens(clip),
            }
            for index, (clip, features) in enumerate(zip(clips, mean_visual_features(vision_output), strict=True))
        ]
        return {"answers": answers}

    @property
    def _reads_a_prompt(self) -> bool:
        return not self.model.config.is_encoder_decoder

    def _text_model_inputs(self, vision_output: Any, spoken_language: str | None) -> dict[str, Any]:
        """What `generate` and the replay take: the encoder's outputs, or visual features with their prompts."""
        visual = {
            "visual_features": vision_output.last_hidden_state,
            "visual_attention_mask": vision_output.attention_mask,
        }
        if not self._reads_a_prompt:
            return {"encoder_outputs": self.model.encode(**visual)}
        num_visual_tokens = vision_output.attention_mask.sum(1).tolist()
        prompts = self.processor(num_visual_tokens=num_visual_tokens, spoken_language=spoken_language)
        return visual | {name: prompts[name].to(self.device) for name in ("input_ids", "attention_mask")}

    def _generate(self, inputs: dict[str, Any], return_scores: bool, generation: dict[str, Any]) -> Any:
        wanted = {"return_dict_in_generate": True, "output_scores": return_scores}
        if generation.get("generation_config") is not None:
            config = copy.deepcopy(generation["generation_config"])
            config.update(**wanted)
            wanted = {"generation_config": config}
        if "encoder_outputs" in inputs:
            # `generate` repeats the encoder's outputs for its beams in place.
            encoder_outputs = inputs["encoder_outputs"]
            inputs = {"encoder_outputs": type(encoder_outputs)(**encoder_outputs)}
        return self.model.generate(**{**inputs, **generation, **wanted})

    def _scores(self, output: Any, generation: dict[str, Any]) -> torch.Tensor:
        """-> `(sequences,)`, see `return_scores`."""
        if getattr(output, "sequences_scores", None) is not None:
            return output.sequences_scores
        log_probabilities = self.model.compute_transition_scores(output.sequences, output.scores, normalize_logits=True)
        config = generation.get("generation_config") or self.model.generation_config
        end_token_ids = generation.get("eos_token_id", config.eos_token_id)
        tokens = output.sequences[:, -len(output.scores) :]
        is_end = torch.isin(tokens, torch.tensor([] if end_token_ids is None else end_token_ids, device=tokens.device))
        behind_the_end = is_end.cumsum(1) > is_end.long()
        return log_probabilities.float().masked_fill(behind_the_end, 0).sum(1) / (~behind_the_end).sum(1)

    def _replay(self, sequences: torch.Tensor, encoder_outputs: Any) -> tuple[torch.Tensor, torch.Tensor]:
        """
        Read the sequences `(sequences, length)` once more in one pass, which gives for each token but the first the
        log probability `(sequences, length - 1)` and the attention `(sequences, length - 1, visual tokens)` with which
        it was written, whatever the way of decoding.
        """
        repeats = len(sequences) // len(encoder_outputs.last_hidden_state)
        encoder_outputs = type(encoder_outputs)(
            last_hidden_state=encoder_outputs.last_hidden_state.repeat_interleave(repeats, 0),
            attention_mask=encoder_outputs.attention_mask.repeat_interleave(repeats, 0),
        )
        output = _eager_twin(self.model.text_model)(
            encoder_outputs=encoder_outputs,
            attention_mask=encoder_outputs.attention_mask,
            decoder_input_ids=sequences[:, :-1],
            output_attentions=True,
            use_cache=False,
            return_dict=True,
        )
        log_probabilities = -torch.nn.functional.cross_entropy(
            output.logits.float().transpose(1, 2), sequences[:, 1:], reduction="none"
        )
        attention = torch.stack([layer.float().mean(1) for layer in output.cross_attentions]).mean(0)
        return log_probabilities, attention

    def _replay_prompt(
        self,
        sequences: torch.Tensor,
        input_ids: torch.Tensor,
        attention_mask: torch.Tensor,
        visual_features: torch.Tensor,
        visual_attention_mask: torch.Tensor,
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """The same as `_replay` for a text model that reads prompt and sentence as one text."""
        repeats = len(sequences) // len(input_ids)
        written = sequences[:, 1:]
        prompts = input_ids.repeat_interleave(repeats, 0)
        prompt_mask = attention_mask.repeat_interleave(repeats, 0)
        output = _eager_twin(self.model)(
            input_ids=torch.cat([prompts, written[:, :-1]], 1),
            attention_mask=torch.cat([prompt_mask, torch.ones_like(written[:, :-1])], 1),
            visual_features=visual_features.repeat_interleave(repeats, 0),
            visual_attention_mask=visual_attention_mask.repeat_interleave(repeats, 0),
            output_attentions=True,
            use_cache=False,
        )
        if not output.attentions or any(layer is None for layer in output.attentions):
            raise ValueError(
                f"The text model {self.model.config.text_config.model_type!r} gives no attention weights, so its words "
                "cannot be given seconds. Leave out `return_timestamps` and `return_attention`."
            )
        num_written = written.shape[1]
        log_probabilities = -torch.nn.functional.cross_entropy(
            output.logits[:, -num_written:].float().transpose(1, 2), written, reduction="none"
        )
        attention = torch.stack([layer[:, :, -num_written:].float().mean(1) for layer in output.attentions]).mean(0)
        return log_probabilities, _to_visual_tokens(attention, prompts == self.model.config.video_token_id)

    def _visual_tokens(self, clip: dict[str, Any]) -> dict[str, Any]:
        """
        -> `times` of the clip, `centres` of its visual tokens `(visual tokens,)` in sampled frames, from 0 to the last
        one, and the `spacing` between them. The centre is that of the frames a token sees; convolutions without padding
        shift it, pooling spreads it, and what is repeated in front of a clip lies before 0.
        """
        num_frames = len(clip["pixel_values_videos"])
        centre, spacing = self._centre_and_spacing()
        centres = centre + spacing * np.arange(self.model.vision_model.get_num_tokens(num_frames))
        return {"times": clip["times"], "centres": centres.clip(0, num_frames - 1), "spacing": spacing}

    def _centre_and_spacing(self) -> tuple[float, int]:
        config = self.model.config.vision_config
        if self._reads_a_prompt:
            # Windows lie around the frames 0, stride, ...; the middle of an even one is half a frame behind.
            return (config.word_window_size - 1) % 2 / 2, config.word_window_stride
        centre = -REPLICATED_FRAMES_IN_FRONT if config.temporal_padding == "replicate" else 0
        spacing = 1
        for block in config.temporal_blocks:
            size = int(block[1:])
            if block[0] == "P":
                centre += spacing * (size - 1) / 2
                spacing *= size
            elif config.temporal_padding != "zero":
                centre += spacing * (size - 1) / 2
        return centre, spacing

    def postprocess(
        self, model_outputs: dict[str, Any], return_timestamps: bool = False, return_attention: bool = False
    ) -> dict[str, Any] | list[dict[str, Any]]:
        """Sequences of one clip -> its answer: a dictionary, or a list of them for several sequences."""
        answers = model_outputs["answers"]
        clip = answers[0] if isinstance(answers, list) else answers
        translations = []
        for sequence in clip["sequences"]:
            translation = {"translation_text": self.processor.decode(sequence["token_ids"])}
            if "score" in sequence:
                translation |= self._score_and_confidence(float(sequence["score"]), clip["mean_features"])
            if return_timestamps or return_attention:
                translation |= self._word_evidence(translation["translation_text"], sequence, clip, return_attention)
            translations.append(translation)
        return translations if len(translations) > 1 else translations[0]

    def _score_and_confidence(self, score: float, mean_features: torch.Tensor) -> dict[str, Any]:
        calibration = getattr(self.model.config, "confidence_calibration", None)
        if calibration is None:
            return {"score": score}
        is_familiar = True
        if "mean_features" in calibration:
            center = torch.tensor(calibration["mean_features"], device=mean_features.device)
            is_familiar = bool(visual_distances(mean_features[None], center) <= calibration["largest_distance"])
        # tanh does not overflow
        confidence = (1 + math.tanh((calibration["slope"] * score + calibration["intercept"]) / 2)) / 2
        if not is_familiar or score < calibration.get("lowest_score", -math.inf):
            confidence = 0.0  # nothing like it was measured
        return {"score": score, "confidence": confidence, "is_familiar": is_familiar}

    def _word_evidence(
        self, text: str, sequence: dict[str, Any], clip: dict[str, Any], return_attention: bool
    ) -> dict[str, Any]:
        centres, times = clip["centres"], clip["times"]
        edges = [times.at(centres + side * clip["spacing"] / 2) for side in (-1, 1)]
        token_times = times.at(centres)
        words, rows = [], []
        for word, tokens in self._words(text, sequence["token_ids"].tolist()):
            row = sequence["attention"][tokens].mean(0)[: len(centres)].numpy()
            probability = float(sequence["log_probabilities"][tokens].sum().exp())
            words.append({"word": word, "probability": probability, **_interval(row, token_times, *edges)})
            rows.append(row)
        if not return_attention:
            return {"words": words}
        attention = np.stack(rows) if rows else np.zeros((0, len(centres)), np.float32)
        return {"words": words, "attention": attention, "token_times": token_times}

    def _words(self, text: str, token_ids: list[int]) -> Iterator[tuple[str, list[int]]]:
        """Words of a text, each with the positions of its tokens behind the first token of the sequence."""
        spans = list(self._spans_of_tokens(token_ids))
        for start, end in _spans_of_words(text):
            tokens = [token - 1 for first, last, group in spans if first < end and last > start for token in group]
            if tokens:
                yield text[start:end], [token for token in tokens if token >= 0]

    def _spans_of_tokens(self, token_ids: list[int]) -> Iterator[tuple[int, int, list[int]]]:
        """
        Yield start and end in the decoded text and the positions of the tokens that wrote it: mostly one, several where
        a character is made of several tokens. The text of the first tokens is the beginning of the whole text.
        """
        tokenizer = self.processor.tokenizer
        hidden = {*tokenizer.all_special_ids, *getattr(tokenizer, "lang_code_to_id", {}).values()}
        length, group = 0, []
        for position, token_id in enumerate(token_ids):
            if token_id in hidden:
                continue
            group.append(position)
            new_length = len(self.processor.decode(token_ids[: position + 1]).rstrip(INCOMPLETE_CHARACTER))
            if new_length > length:
                yield length, new_length, group
                length, group = new_length, []


def _is_one_video(inputs: Any) -> bool:
    """Tell one video from several as the processor does: a list of frames is one video, other lists are several."""
    if isinstance(inputs, np.ndarray | torch.Tensor):
        return inputs.ndim != 5
    if not isinstance(inputs, Sequence) or isinstance(inputs, str | bytes | bytearray | memoryview):
        return True
    return len(inputs) > 0 and all(_is_frame(item) for item in inputs)


def _is_frame(item: Any) -> bool:
    if isinstance(item, str | Path):
        return str(item).lower().endswith(PICTURE_SUFFIXES) and not Path(item).is_dir()
    if isinstance(item, np.ndarray | torch.Tensor):
        return item.ndim == 2 or (item.ndim == 3 and (item.shape[0] in (1, 3, 4) or item.shape[-1] in (1, 3, 4)))
    return is_pil_image(item)


def _name(video: Any) -> str:
    """What error texts call a video."""
    if isinstance(video, dict) and "pixel_values_videos" in video:
        return "the processed video"
    if isinstance(video, dict) and video.get("path"):
        video = video["path"]
    if isinstance(video, str | Path):
        return f"'{video}'"
    return f"the video given as {type(video).__name__}"


def _check_generation_arguments(arguments: dict[str, Any]) -> None:
    for name in arguments:
        if name in SET_BY_THE_PIPELINE:
            raise TypeError(f"`{name}` is set by the pipeline. Pass `{SET_BY_THE_PIPELINE[name]}` instead.")
    own = {"inputs", "self", "kwargs"}
    known = (set(vars(GenerationConfig())) | set(inspect.signature(GenerationMixin.generate).parameters)) - own
    unknown = sorted(name for name in arguments if name not in known or name.startswith("_"))
    if unknown:
        raise TypeError(
            f"Unknown arguments {unknown}. Known are start, end, source_fps, return_scores, return_timestamps, "
            "return_attention, batch_size, num_workers, generate_kwargs and the arguments of `generate`, such as "
            "num_beams."
        )


def _check_one_number(name: str, value: Any) -> None:
    if isinstance(value, list | tuple | np.ndarray | torch.Tensor):
        raise ValueError(
            f"`{name}` is one number for all videos, got {type(value).__name__}. For one each, pass the videos as "
            f'dictionaries {{"video": ..., "{name}": ...}}.'
        )


def _check_keys(video: dict[str, Any]) -> None:
    unknown = sorted(set(video) - set(VIDEO_KEYS))
    if unknown:
        raise ValueError(f"A video given as a dictionary has the keys {', '.join(VIDEO_KEYS)}, got {unknown} too.")
    for name in VIDEO_KEYS[1:]:
        _check_one_number(name, video.get(name))


def _clip_times(metadata: Any, start: float | None) -> ClipTimes | None:
    """Times of the frames that were sampled; `None` without a frame rate. Those of the processor count from `start`."""
    fps = metadata["fps"]
    if fps is None:
        return None
    # The processor reads from the first frame at or behind `start`.
    first_frame = max(0, math.ceil(((start or 0.0) - TIME_TOLERANCE_IN_SECONDS) * fps))
    indices = first_frame + np.asarray(metadata["frames_indices"])
    return ClipTimes(indices / fps, first_frame / fps, (first_frame + metadata["total_num_frames"]) / fps)


def _part_of_clip(clip: dict[str, Any], first: int, stop: int) -> dict[str, Any]:
    """The frames from `first` up to but without `stop` of a processed clip."""
    metadata = clip["video_metadata"]
    names = ("fps", "total_num_frames")
    indices = list(metadata["frames_indices"])[first:stop]
    return {
        "pixel_values_videos": torch.as_tensor(clip["pixel_values_videos"])[first:stop],
        "video_metadata": {**{name: metadata[name] for name in names}, "frames_indices": indices},
        "start": clip["start"],
    }


def _padded(clips: list[torch.Tensor]) -> dict[str, torch.Tensor]:
    """Clips `(frames, 3, height, width)` of different lengths to a batch, as the processor pads them."""
    sizes = sorted({tuple(clip.shape[-2:]) for clip in clips})
    if len(sizes) > 1:
        raise ValueError(
            f"The videos of a batch must come out in one size, got (height, width) {sizes}. Pass batch_size=1, or set "
            "`size` of the video processor to a height and a width with do_resize=True."
        )
    lengths = torch.tensor([len(clip) for clip in clips], device=clips[0].device)
    mask = torch.arange(int(lengths.max()), device=lengths.device) < lengths[:, None]
    pixels = torch.nn.utils.rnn.pad_sequence(clips, batch_first=True)
    return {"pixel_values_videos": pixels, "pixel_attention_mask": mask.long()}


def mean_visual_features(vision_output: Any) -> torch.Tensor:
    """Output of the vision model -> the mean visual token of each clip, float32 `(clips, hidden size)`."""
    mask = vision_output.attention_mask[..., None].float()
    return (vision_output.last_hidden_state.float() * mask).sum(1) / mask.sum(1)


def visual_distances(mean_features: torch.Tensor, center: torch.Tensor) -> torch.Tensor:
    """1 - cosine between mean visual tokens `(clips, hidden size)` and one `(hidden size,)`: `(clips,)`, 0 to 2."""
    return 1 - torch.nn.functional.cosine_similarity(mean_features, center[None])


def _eager_twin(model: PreTrainedModel) -> PreTrainedModel:
    """
    A copy with all parameters and buffers shared and attention computed step by step: sdpa and flash attention give no
    attention weights. The model itself stays untouched, also for what runs beside this in another thread.
    """
    shared = {id(tensor): tensor for tensor in [*model.parameters(), *model.buffers()]}
    twin = copy.deepcopy(model, shared)
    for module in twin.modules():
        if isinstance(module, PreTrainedModel):
            module.set_attn_implementation("eager")
    return twin


def _to_visual_tokens(attention: torch.Tensor, is_visual: torch.Tensor) -> torch.Tensor:
    """
    Attention `(sequences, written tokens, tokens)` to all tokens, of which the first are prompts with `is_visual`
    `(sequences, prompt tokens)` -> what of it goes to the visual tokens `(sequences, written tokens, visual tokens)`,
    moved to the front, with rows of sum 1.
    """
    num_visual = int(is_visual.sum(1).max())
    places = (~is_visual).long().argsort(dim=1, stable=True)[:, :num_visual]
    attention = attention.gather(2, places[:, None].expand(-1, attention.shape[1], -1))
    attention = attention * is_visual.gather(1, places)[:, None]
    return attention / attention.sum(2, keepdim=True).clamp(min=torch.finfo(attention.dtype).tiny)


def _spans_of_words(text: str) -> Iterator[tuple[int, int]]:
    """Yield start and end of each word, without the punctuation around it."""
    for piece in PIECES_OF_TEXT.finditer(text):
        start, end = piece.span()
        while start < end and _is_punctuation(text[start]):
            start += 1
        while start < end and _is_punctuation(text[end - 1]):
            end -= 1
        if start < end:
            yield start, end


def _folded_words(text: str) -> list[str]:
    return [text[start:end].casefold() for start, end in _spans_of_words(text)]


def _without_repeated_words(answer: dict[str, Any], said: list[str]) -> dict[str, Any]:
    """Take out of the beginning of an answer the words with which the one before it ended."""
    text = answer["translation_text"]
    words, spans = _folded_words(text), list(_spans_of_words(text))
    lengths = range(min(len(said), len(words)), 0, -1)
    num_repeated = next((length for length in lengths if said[-length:] == words[:length]), 0)
    if num_repeated == 0 or len("".join(words[:num_repeated])) < 2:  # one Chinese character is no evidence
        return answer
    behind = spans[num_repeated][0] if num_repeated < len(spans) else len(text)
    rest = {name: answer[name][num_repeated:] for name in ("words", "attention") if name in answer}
    return answer | {"translation_text": text[behind:]} | rest


def _is_punctuation(character: str) -> bool:
    return unicodedata.category(character).startswith("P")


def _interval(
    attention: np.ndarray, token_times: np.ndarray, token_starts: np.ndarray, token_ends: np.ndarray
) -> dict[str, float]:
    """The visual tokens around the highest one that get at least half of its attention, in seconds."""
    peak = first = last = int(attention.argmax())
    while first > 0 and attention[first - 1] >= attention[peak] / 2:
        first -= 1
    while last < len(attention) - 1 and attention[last + 1] >= attention[peak] / 2:
        last += 1
    seconds = {"start": token_starts[first], "end": token_ends[last], "peak": token_times[peak]}
    return {name: round(float(value), 3) for name, value in seconds.items()}


__all__ = ["SignLanguageTranslationPipeline"]
