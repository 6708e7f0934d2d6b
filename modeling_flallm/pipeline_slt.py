"""
`pipeline("sign-language-translation")`: sign language videos of any kind in, sentences out, with scores and with the
seconds of the video that each word was read from.

It imports no model and no processor: it lies beside the weights on the Hub and works with those that the pipeline was
built with.
"""

import copy
import inspect
import math
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import count
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch.utils.data import Dataset, IterableDataset
from transformers import GenerationConfig, GenerationMixin, Pipeline
from transformers.image_utils import is_pil_image

from .dataset_rows_slt import (
    VIDEO_KEYS,
    is_data_set,
    undecoded,
    values_of_row,
    with_content,
    without_torchcodec,
)
from .hub_card_slt import HUB_TASK, SentWithACard
from .long_videos_slt import PIECE_KEYS, LongVideoTranslation
from .word_evidence_slt import clip_times, visual_token_times, word_evidence

PICTURE_SUFFIXES = (".png", ".jpg", ".jpeg", ".bmp", ".webp", ".tif", ".tiff", ".ppm", ".pgm")
READY_CLIP_KEYS = (*PIECE_KEYS, "caption_start", "caption_end")
SET_BY_THE_PIPELINE = {
    "output_scores": "return_scores",
    "output_attentions": "return_attention",
    "return_dict_in_generate": "return_scores",
}


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
        with without_torchcodec():
            return NumberedVideo(index, self.videos[index])


def _numbered(videos: Iterable[Any]) -> Iterator[NumberedVideo]:
    with without_torchcodec():
        yield from map(NumberedVideo, count(), videos)


class SignLanguageTranslationPipeline(SentWithACard, LongVideoTranslation, Pipeline):
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

    hub_task = HUB_TASK
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
        self.hub_tags = getattr(self.model, "hub_tags", self.hub_tags)

    def __call__(self, inputs: Any, **kwargs: Any) -> Any:
        """
        Translate one video or several.

        Args:
            inputs:
                One video: a path or http(s) address of a file, a path of a folder of frames, bytes, an open binary
                file, an array or tensor of shape `(frames, height, width, channels)` or
                `(frames, channels, height, width)`, a list of frames (PIL, arrays or picture paths), or what a video
                column of `datasets` holds, decoded or not. Or a dictionary `{"video": ..., "start": ..., "end": ...,
                "source_fps": ...}` of a video and its own values for the arguments below, or a row of a data set, of
                which these are read. Or what the processor has made of a video already, `{"pixel_values_videos": ...,
                "video_metadata": ..., "start": ...}`: an array or tensor of shape `(frames, 3, height, width)` as the
                processor gives it, what it says of the video with `return_metadata=True` (a plain dictionary will do)
                and the second at which it began to read (0 without it). Or several of them: a list, tuple or array with
                one dimension more, a generator or other iterator, a data set of `datasets` with a column `video` (and
                `start` and `end`, where it has them), streamed or not, or a torch data set such as
                `KeyDataset(dataset, "video")`. The videos of data sets are not decoded by `datasets`. A row taken out
                by hand, `dataset[0]`, is, for which `datasets` needs torchcodec, unless its column was cast to
                `Video(decode=False)`.
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
                `"is_familiar"`: whether the video looks like those that this was measured on, and `"is_measured"`:
                whether the score lies between the lowest and the highest of theirs. The confidence of an unfamiliar
                video and of a lower score is 0, that of a higher score the one of the highest: how often such
                sentences are right was never measured.
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
            ImportError: for rows that `datasets` would decode while they are read, but without torchcodec cannot.
        """
        inputs = undecoded(inputs)
        if isinstance(inputs, IterableDataset) or (isinstance(inputs, Iterator) and not hasattr(inputs, "read")):
            answers = super().__call__(_numbered(inputs), **kwargs)
            return (answer for answer in answers)  # transformers' own has no working `next`
        if isinstance(inputs, Dataset) or is_data_set(inputs):
            return super().__call__(NumberedVideos(inputs), **kwargs)
        if _is_one_video(inputs):
            # transformers takes a bare list for several inputs
            return super().__call__({"video": inputs} if isinstance(inputs, list | tuple) else inputs, **kwargs)
        return super().__call__(list(_numbered(inputs)), **kwargs) if len(inputs) else []

    def save_pretrained(self, save_directory: Any, **kwargs: Any) -> None:
        """Save model and processor; the model brings the file of this pipeline along."""
        self.model.save_pretrained(save_directory, **kwargs)
        self.processor.save_pretrained(save_directory, **kwargs)

    def _sanitize_parameters(self, generate_kwargs: dict[str, Any] | None = None, **kwargs: Any) -> tuple[dict, ...]:
        """Sort the arguments of a call into those of `preprocess`, `_forward` and `postprocess`."""

        def given(*names: str) -> dict[str, Any]:
            return {name: kwargs[name] for name in names if name in kwargs}

        reading, evidence = given("start", "end", "source_fps"), given("return_timestamps", "return_attention")
        writing = given("return_scores", "spoken_language")
        named = {name: value for name, value in kwargs.items() if name not in reading | evidence | writing}
        twice = sorted(set(named) & set(generate_kwargs or {}))
        if twice:
            raise ValueError(f"{twice} came both by name and in `generate_kwargs`. Pass each of them once.")
        generation = {**(generate_kwargs or {}), **named}
        _check_generation_arguments(generation)
        for name, value in reading.items():
            _check_one_number(name, value)
        if "spoken_language" in writing and not self._reads_a_prompt:
            raise ValueError(
                "`spoken_language` goes into a prompt, and this model reads none. Choose its language by the "
                "tokenizer's `tgt_lang` and `forced_bos_token_id`."
            )
        return reading | evidence, evidence | writing | generation, evidence

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
                if isinstance(video, dict):
                    values |= _values_of_row(video)
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
            videos=with_content(video),
            start=start,
            end=end,
            video_metadata=None if source_fps is None else {"fps": source_fps},
            return_metadata=True,
            return_tensors="pt",
        )
        frames = inputs["pixel_values_videos"][0]
        self._check_length(len(frames), _name(video))
        return {"pixel_values_videos": frames, "times": clip_times(inputs["video_metadata"][0], start)}

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
        times = None if metadata is None else clip_times(metadata, video.get("start"))
        return {"pixel_values_videos": pixels, "times": times}

    def _check_length(self, num_frames: int, name: str) -> None:
        vision_model = self.model.vision_model
        if vision_model.get_num_tokens(num_frames) < 1:
            raise ValueError(
                f"{name} is too short to translate: {num_frames} frame(s) are left after sampling, and the model needs "
                f"at least {vision_model.get_min_num_frames()}. Use a longer part of it, or keep more of its frames "
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
        """
        Clips, one or a batch -> for each the `sequences` that were generated for it, and its `mean_features`,
        `num_frames` and `times`.
        """
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
            parts["log_probabilities"], parts["attention"] = self.model.replay(parts["token_ids"], **inputs)
        sequences = [{name: part[row] for name, part in parts.items()} for row in range(len(output.sequences))]
        per_clip = len(sequences) // len(clips)
        answers = [
            {
                "sequences": sequences[index * per_clip : (index + 1) * per_clip],
                "mean_features": features,
                "num_frames": len(clip["pixel_values_videos"]),
                "times": clip["times"],
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
        # `generate` takes from the model's configuration what a given one leaves open.
        configs = [generation.get("generation_config") or self.model.generation_config, self.model.generation_config]
        of_configs = [config.eos_token_id for config in configs if config.eos_token_id is not None]
        end_token_ids = generation.get("eos_token_id", next(iter(of_configs), None))
        tokens = output.sequences[:, -len(output.scores) :]
        is_end = torch.isin(tokens, torch.tensor([] if end_token_ids is None else end_token_ids, device=tokens.device))
        behind_the_end = is_end.cumsum(1) > is_end.long()
        return log_probabilities.float().masked_fill(behind_the_end, 0).sum(1) / (~behind_the_end).sum(1)

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
                times = visual_token_times(self.model.vision_model, clip["num_frames"], clip["times"])
                words, attention = word_evidence(translation["translation_text"], sequence, times, self.processor)
                translation["words"] = words
                if return_attention:
                    translation |= {"attention": attention, "token_times": times.middles}
            translations.append(translation)
        return translations if len(translations) > 1 else translations[0]

    def _score_and_confidence(self, score: float, mean_features: torch.Tensor) -> dict[str, Any]:
        calibration = getattr(self.model.config, "confidence_calibration", None)
        if calibration is None:
            return {"score": score}
        lowest, highest = calibration.get("lowest_score", -math.inf), calibration.get("highest_score", math.inf)
        is_measured = lowest <= score <= highest
        is_familiar = True
        if "mean_features" in calibration:
            center = torch.tensor(calibration["mean_features"], device=mean_features.device)
            is_familiar = bool(visual_distances(mean_features[None], center) <= calibration["largest_distance"])
        confidence = 0.0
        if is_familiar and score >= lowest:
            logit = calibration["slope"] * min(score, highest) + calibration["intercept"]
            confidence = (1 + math.tanh(logit / 2)) / 2  # tanh does not overflow
        return {"score": score, "confidence": confidence, "is_familiar": is_familiar, "is_measured": is_measured}


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
    video = getattr(video, "_hf_encoded", video)
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
    known = _known_generation_arguments()
    unknown = sorted(name for name in arguments if name not in known)
    if unknown:
        raise TypeError(
            f"Unknown arguments {unknown}. Known are start, end, source_fps, return_scores, return_timestamps, "
            "return_attention, spoken_language, batch_size, num_workers, generate_kwargs and the arguments of "
            "`generate`, such as num_beams."
        )


def _known_generation_arguments() -> set[str]:
    own = {"inputs", "self", "kwargs"}
    known = (set(vars(GenerationConfig())) | set(inspect.signature(GenerationMixin.generate).parameters)) - own
    return {name for name in known if not name.startswith("_")}


def _check_one_number(name: str, value: Any) -> None:
    if isinstance(value, list | tuple | np.ndarray | torch.Tensor):
        raise ValueError(
            f"`{name}` is one number for all videos, got {type(value).__name__}. For one each, pass the videos as "
            f'dictionaries {{"video": ..., "{name}": ...}}.'
        )


def _values_of_row(row: dict[str, Any]) -> dict[str, Any]:
    """What is read of a row or of a dictionary made by hand."""
    not_of_a_row = {"return_scores", "return_timestamps", "return_attention", "batch_size", "num_workers"}
    values = values_of_row(row, not_of_a_row | _known_generation_arguments())
    if not _is_one_video(values["video"]):
        raise ValueError(
            f"`video` of a dictionary must be one video, got {len(values['video'])} of them. Of a data set pass "
            "`dataset.select(range(...))`, not a slice, which is a dictionary of columns. Frames must be "
            "an array, not nested lists."
        )
    for name in VIDEO_KEYS[1:]:
        _check_one_number(name, values.get(name))
    return values


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


__all__ = ["SignLanguageTranslationPipeline"]
