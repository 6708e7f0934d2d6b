"""
The steps from a video to its sentence: read the clip, encode it, write the sentence. The pipeline runs them one after
the other, `flallm translate` reads and encodes the next clips while it writes, and the Space uses the pipeline.
"""

import copy
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch

from .confidence_slt import confidence_of, mean_visual_features
from .dataset_rows_slt import with_content
from .handedness_slt import AUTO, mean_log_probabilities
from .long_videos_slt import TIMES_OF_A_PIECE
from .pipeline_inputs_slt import name_of_video
from .word_evidence_slt import clip_times, visual_token_times, word_evidence

KEYS_BESIDE_READY_VALUES = (*TIMES_OF_A_PIECE, "caption_start", "caption_end")


class ClipLengthError(ValueError):
    """A clip that the model cannot translate; `reason` is "too_short" or "too_long"."""

    def __init__(self, text: str, reason: str):
        super().__init__(text)
        self.reason = reason


@dataclass(frozen=True)
class EncodedClips:
    """
    Encoded clips: the visual encoder's output `vision_output` with the visual tokens, the frames and `ClipTimes` of
    each clip, the `features` of which it made the tokens, and which clips were mirrored as of a left-handed signer, if
    that was a question.
    """

    vision_output: Any
    num_frames: list[int]
    times: list[Any]
    features: Any
    are_left_handed: list[bool] | None = None


class ClipTranslation:
    """Mixin for `SignLanguageTranslationPipeline`: its steps, for programs that run them separately."""

    def read_clip(
        self, video: Any, start: float | None = None, end: float | None = None, source_fps: float | None = None
    ) -> dict[str, Any]:
        """
        Read one video in any form that a call takes, except a dictionary of a video and its arguments.

        Returns:
            `frames`, uint8 `(frames, 3, height, width)`, sampled, resized and cropped, or what `open` of another
            modality gives; their `times`, and the `metadata` that the modality gives.

        Raises:
            VideoDecodingError: for a video that cannot be read.
            ClipLengthError: for one that is too short or too long for the model.
        """
        name = name_of_video(video)
        frames, metadata = self.processor.modality.open(with_content(video), start, end, source_fps)
        self.check_length(len(frames), name)
        return {"frames": frames, "times": clip_times(metadata, start), "metadata": metadata}

    def _ready_clip(
        self, video: dict[str, Any], start: float | None, end: float | None, source_fps: float | None
    ) -> dict[str, Any]:
        """Check a video that is already processed, and return it as a clip: its `values`, `times` and `metadata`."""
        modality = self.processor.modality
        values_name = modality.input_names[0]
        keys = (values_name, *KEYS_BESIDE_READY_VALUES)
        unknown = sorted(set(video) - set(keys))
        if unknown:
            raise ValueError(f"A processed video takes only the keys {', '.join(keys)}, got {unknown}.")
        if any(value is not None for value in (start, end, source_fps)):
            raise ValueError(
                "`start`, `end` and `source_fps` apply when a video is read, but this one is already processed."
            )
        values = torch.as_tensor(video[values_name])
        if not _has_shape(values, modality.prepared_shape):
            raise ValueError(
                f"`{values_name}` of one processed video must have the shape "
                f"({', '.join(map(str, modality.prepared_shape))}), got {tuple(values.shape)}. Of a batch from the "
                "processor, pass one entry."
            )
        self.check_length(len(values), "the processed video")
        metadata = video.get("video_metadata")
        times = None if metadata is None else clip_times(metadata, video.get("start"))
        return {"values": values, "times": times, "metadata": metadata or {}}

    def check_length(self, num_frames: int, name: str) -> None:
        """
        Raises:
            ClipLengthError: if a clip with this many frames after sampling is too short or too long for the model.
        """
        vision_model = self.model.vision_model
        if vision_model.get_num_tokens(num_frames) < 1:
            raise ClipLengthError(
                f"{name} is too short to translate: {num_frames} frame(s) are left after sampling, and the model needs "
                f"at least {vision_model.get_min_num_frames()}. Use a longer part of it, or keep more of its frames "
                "(`frame_sampling_rate` of the video processor).",
                reason="too_short",
            )
        try:
            self._check_num_tokens(num_frames)
        except ValueError as error:
            raise ClipLengthError(f"{name} is too long to translate. {error}", reason="too_long") from error

    def _check_num_tokens(self, num_frames: int) -> None:
        """Raise a `ValueError` if this many frames, and a prompt if there is one, are too long for the text model."""
        num_tokens = self.model.vision_model.get_num_tokens(num_frames)
        if self.model.prompt_input_names:
            num_tokens += self.processor.num_prompt_tokens
        self.model.check_num_tokens(num_tokens)

    @torch.no_grad()
    def encode_clips(
        self,
        clips: list[dict[str, Any]],
        left_handed: bool | str = False,
        spoken_language: str | None = None,
    ) -> EncodedClips:
        """
        Run clips from `read_clip` through the visual encoder. Their frames must all have the same size.

        Args:
            left_handed: as in a call. With "auto", a model with a prompt also needs the `spoken_language`.
        """
        inputs, num_frames = self._inputs_of(clips), [_num_frames(clip) for clip in clips]
        are_left_handed = None
        if left_handed is False:
            features = self.model.vision_model.compute_features(**inputs)
        else:
            prompts = self._prompts(num_frames, spoken_language) if left_handed == AUTO else {}
            features, hands = self.model.features_as_right_handed(inputs, left_handed, prompts)
            are_left_handed = hands.tolist()
        output = self.model.vision_model.encode_features(features.last_hidden_state, features.attention_mask)
        return EncodedClips(output, num_frames, [clip["times"] for clip in clips], features, are_left_handed)

    @torch.no_grad()
    def encode_frames(self, frames: torch.Tensor) -> torch.Tensor:
        """
        Some frames of a clip, as `read_clip` gives them, each by itself: `(frames, width)`, for `encode_over_time`.
        Only for encoders with `encodes_frames_alone`.
        """
        values = self._encoder_inputs([frames])[self.processor.modality.input_names[0]][0]
        return self.model.vision_model.encode_frames(values)

    @torch.no_grad()
    def encode_over_time(self, frame_features: torch.Tensor, times: Any) -> EncodedClips:
        """A clip whose frames went through `encode_frames`, `(frames, width)`, and their `ClipTimes`."""
        vision_model = self.model.vision_model
        features = vision_model.encode_over_time(frame_features[None])
        output = vision_model.encode_features(features.last_hidden_state, features.attention_mask)
        return EncodedClips(output, [len(frame_features)], [times], features)

    @torch.no_grad()
    def hand_margins(self, clips: list[dict[str, Any]], spoken_language: str | None = None) -> list[float]:
        """How much surer the model is of each clip from `read_clip` in a mirror, see `hand_margins` of the model."""
        prompts = self._prompts([_num_frames(clip) for clip in clips], spoken_language)
        return self.model.hand_margins(**self._inputs_of(clips), **prompts).tolist()

    def _prompts(self, num_frames: list[int], spoken_language: str | None) -> dict[str, torch.Tensor]:
        if not self.model.prompt_input_names:
            return {}
        num_visual_tokens = [self.model.vision_model.get_num_tokens(length) for length in num_frames]
        prompts = self.processor(num_visual_tokens=num_visual_tokens, spoken_language=spoken_language)
        return {name: prompts[name].to(self.device) for name in self.model.prompt_input_names}

    def _inputs_of(self, clips: list[dict[str, Any]]) -> dict[str, torch.Tensor]:
        """The visual encoder's inputs, on the device of the model."""
        frames = [clip["frames"] if "frames" in clip else clip["values"] for clip in clips]
        _check_one_size(frames)
        if all("frames" in clip for clip in clips):
            inputs = self._encoder_inputs(frames)
        else:
            names = self.processor.modality.input_names[:2]
            values = [
                self._encoder_inputs([each])[names[0]][0] if "frames" in clip else each.to(self.device)
                for clip, each in zip(clips, frames, strict=True)
            ]
            inputs = dict(zip(names, _padded(values), strict=True))
        return inputs | self._more_inputs(clips)

    def _encoder_inputs(self, frames: list[torch.Tensor]) -> dict[str, torch.Tensor]:
        """Normalise on the model's device: moving uint8 frames there takes a quarter of the bytes."""
        frames = [each.to(self.device) for each in frames]
        return self.processor.modality.prepare(frames)

    def _more_inputs(self, clips: list[dict[str, Any]]) -> dict[str, torch.Tensor]:
        more = self.processor.modality.prepare_more([clip.get("metadata", {}) for clip in clips])
        return {name: values.to(self.device) for name, values in more.items()}

    @torch.no_grad()
    def write_sentences(
        self,
        encoded: EncodedClips,
        return_scores: bool = False,
        with_evidence: bool = False,
        spoken_language: str | None = None,
        **generation: Any,
    ) -> list[dict[str, Any]]:
        """
        Generate the sentences of encoded clips; `generation` are arguments of `generate`.

        Returns:
            For each clip a dictionary with its generated `sequences`, `mean_features`, `num_frames`, `times`,
            `is_choice`, whether these were chosen among candidates, and `left_handed`, for `answers_of`.
        """
        inputs = self._text_model_inputs(encoded, spoken_language)
        is_choice = generation.get("num_candidates") is not None
        if is_choice:
            generation = {"tokenizer": self.processor.tokenizer, **generation}
        output = self._generate(inputs, return_scores, generation)
        parts = {"token_ids": output.sequences}
        if self.model.is_prompted:
            # The tokens generated after a prompt lack the start token that a decoder's sequences have.
            start = torch.full_like(output.sequences[:, :1], self.processor.tokenizer.pad_token_id)
            parts["token_ids"] = torch.cat([start, output.sequences], dim=1)
        if return_scores:
            parts["score"] = self._scores(output, generation)
        if with_evidence:
            parts["log_probabilities"], parts["attention"] = self.model.replay(parts["token_ids"], **inputs)
        sequences = [{name: part[row] for name, part in parts.items()} for row in range(len(output.sequences))]
        per_clip = len(sequences) // len(encoded.num_frames)
        mean_features = mean_visual_features(encoded.vision_output)
        return [
            {
                "sequences": sequences[index * per_clip : (index + 1) * per_clip],
                "mean_features": mean_features[index],
                "num_frames": num_frames,
                "times": times,
                "is_choice": is_choice,
            }
            | ({} if encoded.are_left_handed is None else {"left_handed": encoded.are_left_handed[index]})
            for index, (num_frames, times) in enumerate(zip(encoded.num_frames, encoded.times, strict=True))
        ]

    def _text_model_inputs(self, encoded: EncodedClips, spoken_language: str | None) -> dict[str, Any]:
        """The inputs of `generate` and `replay`: the encoder's outputs, or visual features with their prompts."""
        inputs = {
            "visual_features": encoded.features.last_hidden_state,
            "visual_attention_mask": encoded.features.attention_mask,
        }
        inputs |= self._prompts(encoded.num_frames, spoken_language)
        return inputs if self.model.is_prompted else {"encoder_outputs": self.model.encode(**inputs)}

    def _generate(self, inputs: dict[str, Any], return_scores: bool, generation: dict[str, Any]) -> Any:
        wanted = {"return_dict_in_generate": True, "output_scores": return_scores}
        if generation.get("generation_config") is not None:
            config = copy.deepcopy(generation["generation_config"])
            config.update(**wanted)
            wanted = {"generation_config": config}
        if "encoder_outputs" in inputs:
            # `generate` expands the encoder's outputs for its beams in place.
            encoder_outputs = inputs["encoder_outputs"]
            inputs = {"encoder_outputs": type(encoder_outputs)(**encoder_outputs)}
        return self.model.generate(**{**inputs, **generation, **wanted})

    def _scores(self, output: Any, generation: dict[str, Any]) -> torch.Tensor:
        """-> `(sequences,)`, see `return_scores`."""
        if getattr(output, "sequences_scores", None) is not None:
            return output.sequences_scores
        # `generate` takes from the model's generation config what the given one leaves unset.
        configs = [generation.get("generation_config") or self.model.generation_config, self.model.generation_config]
        of_configs = [config.eos_token_id for config in configs if config.eos_token_id is not None]
        end_token_ids = generation.get("eos_token_id", next(iter(of_configs), None))
        return mean_log_probabilities(self.model, output, end_token_ids)

    def answers_of(
        self, clip: dict[str, Any], return_timestamps: bool = False, return_attention: bool = False
    ) -> list[dict[str, Any]]:
        """The answers of a call for one clip from `write_sentences`, one for each of its sequences."""
        translations = []
        for sequence in clip["sequences"]:
            translation = {"translation_text": self.processor.decode(sequence["token_ids"])}
            if "left_handed" in clip:
                translation["left_handed"] = clip["left_handed"]
            if "score" in sequence:
                score = float(sequence["score"])
                is_utility = clip["is_choice"]  # while the calibration measured log probabilities
                scores = {"score": score} if is_utility else self._score_and_confidence(score, clip["mean_features"])
                translation |= scores
            if return_timestamps or return_attention:
                times = visual_token_times(self.model.vision_model, clip["num_frames"], clip["times"])
                words, attention = word_evidence(translation["translation_text"], sequence, times, self.processor)
                translation["words"] = words
                if return_attention:
                    translation |= {"attention": attention, "token_times": times.middles}
            translations.append(translation)
        return translations

    def _score_and_confidence(self, score: float, mean_features: torch.Tensor) -> dict[str, Any]:
        calibration = getattr(self.model.config, "confidence_calibration", None)
        return {"score": score} | ({} if calibration is None else confidence_of(score, mean_features, calibration))


def _has_shape(values: torch.Tensor, shape: Sequence[str | int]) -> bool:
    """Whether values have so many dimensions, of these sizes where they are numbers."""
    return values.ndim == len(shape) and all(
        size == expected for size, expected in zip(values.shape, shape, strict=True) if isinstance(expected, int)
    )


def _num_frames(clip: dict[str, Any]) -> int:
    return len(clip["frames"] if "frames" in clip else clip["values"])


def _check_one_size(clips: list[torch.Tensor]) -> None:
    sizes = sorted({tuple(clip.shape[2:]) for clip in clips})
    if len(sizes) > 1:
        raise ValueError(
            f"The processed videos of a batch must have one size, got (height, width) {sizes}. Pass batch_size=1, or "
            "set `size` of the video processor to a height and a width with do_resize=True."
        )


def _padded(clips: list[torch.Tensor]) -> tuple[torch.Tensor, torch.Tensor]:
    """Pad clips `(frames, ...)` of different lengths to a batch with its mask, as the processor does."""
    lengths = torch.tensor([len(clip) for clip in clips], device=clips[0].device)
    mask = torch.arange(int(lengths.max()), device=lengths.device) < lengths[:, None]
    return torch.nn.utils.rnn.pad_sequence(clips, batch_first=True), mask.long()


__all__ = ["ClipLengthError", "ClipTranslation", "EncodedClips"]
