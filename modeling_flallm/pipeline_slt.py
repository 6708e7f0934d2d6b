"""
`pipeline("sign-language-translation")`: sign language videos or poses in any form in, sentences out, with scores and,
for each word, the seconds of the video that it was read from.

This file imports no model and no processor: it is stored beside the weights on the Hub and works with those that the
pipeline was built with.
"""

from collections.abc import Iterator
from typing import Any

from torch.utils.data import Dataset, IterableDataset
from transformers import Pipeline

from .calibration_slt import SentWithItsCalibration
from .clip_translation_slt import ClipTranslation
from .dataset_rows_slt import VIDEO_KEYS, is_data_set, undecoded, values_of_row
from .handedness_slt import check_left_handed
from .hub_card_slt import HUB_TASK, SentWithACard
from .long_videos_slt import LongVideoTranslation
from .pipeline_inputs_slt import (
    NumberedVideo,
    NumberedVideos,
    check_generation_arguments,
    check_one_number,
    known_generation_arguments,
    name_of_video,
    numbered,
)
from .streaming_slt import LiveTranslation


class SignLanguageTranslationPipeline(
    SentWithItsCalibration, SentWithACard, ClipTranslation, LongVideoTranslation, LiveTranslation, Pipeline
):
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
    `pipeline(...)`, as the default of all calls. The model is put into evaluation mode. It keeps its attention
    implementation: word evidence comes from a copy that shares its weights.
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
        # Clips are padded by the processor: transformers would refuse batches where its parts pad on different sides.
        self.feature_extractor = None
        self.model.eval()
        self.hub_tags = getattr(self.model, "hub_tags", self.hub_tags)

    def __call__(self, inputs: Any, **kwargs: Any) -> Any:
        """
        Translate one video or several.

        Args:
            inputs:
                One video: a path or http(s) address of a file, a path of a folder of frames, bytes, an open binary
                file, an array or tensor of shape `(frames, height, width, channels)` or
                `(frames, channels, height, width)`, a list of frames (PIL, arrays or picture paths), or a value of a
                video column of `datasets`, decoded or not. Or a dictionary `{"video": ..., "start": ..., "end": ...,
                "source_fps": ...}` of a video and its own values for the arguments below, or a row of a data set, from
                which these are read. Or a video that is already processed, `{"pixel_values_videos": ...,
                "video_metadata": ..., "start": ...}`: an array or tensor of shape `(frames, 3, height, width)` as the
                processor returns it, its metadata from `return_metadata=True` (a plain dictionary will do) and the
                second at which reading started (default: 0). Or several of these: a list, tuple or array with one
                dimension more, a generator or other iterator, a data set of `datasets` with a column `video` (and
                optionally `start` and `end`), streamed or not, or a torch data set such as `KeyDataset(dataset,
                "video")`. Videos of data sets are not decoded by `datasets`. A row that you index yourself,
                `dataset[0]`, is, for which `datasets` needs torchcodec, unless its column was cast to
                `Video(decode=False)`. A model that reads poses or ready-made visual features takes these in place of
                videos: files, arrays, rows and columns called `poses` or `visual_features`, and prepared
                `{"pose_values": ...}`. For one of poses, those of a video file are extracted, if rtmlib or MediaPipe is
                installed.
            start (`float`, *optional*):
                Second at which to start in each video. Default: its beginning.
            end (`float`, *optional*):
                Second at which to stop in each video. Default: its end.
            source_fps (`float`, *optional*):
                Frames per second of videos without a frame rate: arrays, lists and folders of frames. They need it for
                `start`, `end` and `return_timestamps`.
            return_scores (`bool`, *optional*, defaults to `False`):
                Add `"score"`, a natural logarithm: with beams `sequences_scores` of `generate`, the log probability of
                the tokens divided by their number to the power of `length_penalty`; else the mean log probability per
                token. Both count the end token, and both use the probabilities after temperature and the like.
                If the model's configuration has a `confidence_calibration`, also add `"confidence"`, from 0 to 1:
                `1 / (1 + exp(-(slope * score + intercept)))` with its slope and intercept; `"is_familiar"`: whether the
                video looks like those of the calibration; and `"is_measured"`: whether the score is between the lowest
                and the highest of theirs. An unfamiliar video or a lower score has the confidence 0, a higher score
                that of the highest: how often such sentences are correct was never measured. With `num_candidates`, the
                score is the logarithm of the expected utility, for which there is no confidence.
            return_timestamps (`bool`, *optional*, defaults to `False`):
                Add `"words"`, what each word was read from. See below.
            return_attention (`bool`, *optional*, defaults to `False`):
                With `"words"`, add what a heat map needs: `"attention"`, a float32 array of shape `(words, visual
                tokens)`, rows of sum 1 (of an encoder-decoder with a prompt below 1: what went to the prompt is left
                out), and `"token_times"`, an array of shape `(visual tokens,)`, the seconds of the frame at the centre
                of what each visual token sees.
            spoken_language (`str`, *optional*):
                The language to write, by tag (`"de"`) or by English name (`"German"`).
                Only for models that read a prompt (LLaVA-SLT, FLa-LLM with `config.has_prompt`). Default: that of the
                processor.
            left_handed (`bool` or `str`, *optional*, defaults to `False`):
                Mirror the videos of left-handed signers, for a model that learned from right-handed ones: `True` for
                all of them, `"auto"` for those of which the model is surer in a mirror; see `hand_margins` of the
                model. `translate_long` finds that out once for the whole video. Adds `"left_handed"` to the answers,
                whether the video was mirrored. Times and attention are those of the video as it is.
            batch_size (`int`, *optional*, defaults to 1):
                Number of videos translated together. Their lengths may differ; the result is the same.
            generate_kwargs (`dict`, *optional*):
                Arguments of `generate`. They may also be given by name: `num_beams=5`, `do_sample=True`,
                `max_new_tokens=40`, `num_return_sequences=3`, ... `num_candidates=20` writes 20 translations of each
                video and answers with the one that agrees best with all of them, by `choose_by="bleu"` (the default),
                `"chrf"`, or a function such as an `EmbeddingUtility`.

        Returns:
            For one video a dictionary with `"translation_text"` and what else was requested; for a list, tuple or
            array of videos a list of them. An iterator or data set gives an iterable that reads the videos lazily. With
            `num_return_sequences` above 1, each dictionary becomes a list of dictionaries, best first
            with beams; the samples of DiffSLT are in no order.

            `"words"` lists, for each word (for each character in Chinese and Japanese; punctuation left out), a
            dictionary with `"word"`, its `"probability"` under the model given the video and the words before it (of
            DiffSLT: given the latents and the words before it, see `DiffSltForTranslation.replay`), and
            in seconds of the whole file `"peak"`, where its attention is highest, and `"start"` and `"end"`, around
            the peak, where it is at least half as high. The attention is that of the text model's decoder to the
            visual tokens at the time it writes the word, averaged over heads, layers and the tokens of the word; this
            choice is ours. In a decoder-only model it is the self-attention to the visual tokens of the prompt. It
            shows what the model looked at, which need not be where a sign is.

        Raises:
            ValueError: for `left_handed` with videos that cannot be mirrored, such as features; for a video that cannot
                be read, is too short or too long, with its name and, among several,
                its index from 0: one bad video ends the call, but an iterator has given the answers before it; for
                `"words"` from a text model that gives no attention weights.
            TypeError: for an unknown argument.
            ImportError: for rows that `datasets` cannot decode because torchcodec is missing.
        """
        modality = self.processor.modality
        inputs = undecoded(inputs, modality.column_names, modality.more_columns)
        if isinstance(inputs, IterableDataset) or (isinstance(inputs, Iterator) and not hasattr(inputs, "read")):
            answers = super().__call__(numbered(inputs), **kwargs)
            return (answer for answer in answers)  # that of transformers has no working `next`
        if isinstance(inputs, Dataset) or is_data_set(inputs):
            return super().__call__(NumberedVideos(inputs), **kwargs)
        if self._is_one_video(inputs):
            # transformers takes a bare list for several inputs
            return super().__call__({"video": inputs} if isinstance(inputs, list | tuple) else inputs, **kwargs)
        return super().__call__(list(numbered(inputs)), **kwargs) if len(inputs) else []

    def save_pretrained(self, save_directory: Any, **kwargs: Any) -> None:
        """Save model and processor; saving the model includes the file of this pipeline."""
        self.model.save_pretrained(save_directory, **kwargs)
        self.processor.save_pretrained(save_directory, **kwargs)

    def _sanitize_parameters(self, generate_kwargs: dict[str, Any] | None = None, **kwargs: Any) -> tuple[dict, ...]:
        """Sort the arguments of a call into those of `preprocess`, `_forward` and `postprocess`."""

        def given(*names: str) -> dict[str, Any]:
            return {name: kwargs[name] for name in names if name in kwargs}

        reading, evidence = given("start", "end", "source_fps"), given("return_timestamps", "return_attention")
        writing = given("return_scores", "spoken_language", "left_handed")
        check_left_handed(writing.get("left_handed", False))
        named = {name: value for name, value in kwargs.items() if name not in reading | evidence | writing}
        twice = sorted(set(named) & set(generate_kwargs or {}))
        if twice:
            raise ValueError(f"{twice} were passed both by name and in `generate_kwargs`. Pass each of them once.")
        generation = {**(generate_kwargs or {}), **named}
        check_generation_arguments(generation, self.model)
        for name, value in reading.items():
            check_one_number(name, value)
        if "spoken_language" in writing and not self.model.prompt_input_names:
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
        """-> one clip: its `frames` or, if already processed, its `values`, and its `times` if it has any."""
        video = input_.video if isinstance(input_, NumberedVideo) else input_
        values = {"video": video, "start": start, "end": end, "source_fps": source_fps}
        try:
            if self._is_ready(video):
                clip = self._ready_clip(**values)
            else:
                if isinstance(video, dict):
                    values |= self._values_of_row(video)
                clip = self._read_one(**values)
            if (return_timestamps or return_attention) and clip["times"] is None:
                raise ValueError(
                    f"{name_of_video(values['video'])} has no frame rate, so its words cannot be timed. Pass "
                    "`source_fps`, its frames per second."
                )
        except ValueError as error:
            if isinstance(input_, NumberedVideo):
                raise ValueError(f"Video {input_.index} of the inputs cannot be translated: {error}") from error
            raise
        return {"clips": [clip]}

    def _is_ready(self, video: Any) -> bool:
        """Tell a processed video from a row of a data set, which may hold ready-made features under the same name."""
        modality = self.processor.modality
        name = modality.input_names[0]
        return isinstance(video, dict) and name in video and name not in modality.column_names

    def _is_one_video(self, inputs: Any) -> bool:
        """Tell one video from several as the processor does: a list of frames is one video, other lists are several."""
        return self.processor.modality.is_one(inputs)

    def _read_one(self, video: Any, **values: Any) -> dict[str, Any]:
        if not self._is_one_video(video):
            raise ValueError(f"Expected one video, got {name_of_video(video)}. Lists of videos cannot be nested.")
        return self.read_clip(video, **values)

    def _values_of_row(self, row: dict[str, Any]) -> dict[str, Any]:
        """What is read from a row or a handmade dictionary."""
        not_of_a_row = {
            "left_handed",
            "return_scores",
            "return_timestamps",
            "return_attention",
            "batch_size",
            "num_workers",
        }
        modality = self.processor.modality
        arguments = not_of_a_row | known_generation_arguments(self.model)
        values = values_of_row(row, arguments, modality.column_names, modality.has_parts)
        if not self._is_one_video(values["video"]):
            raise ValueError(
                f"`video` of a dictionary must be one video, got {len(values['video'])} of them. From a data set, pass "
                "`dataset.select(range(...))`, not a slice, which is a dictionary of columns. Frames must be "
                "an array, not nested lists."
            )
        for name in VIDEO_KEYS[1:]:
            check_one_number(name, values.get(name))
        return {**values, "video": modality.with_row(values["video"], row)}

    def _forward(
        self,
        model_inputs: dict[str, list],
        return_timestamps: bool = False,
        return_attention: bool = False,
        left_handed: bool | str = False,
        **arguments: Any,
    ) -> dict[str, list[dict[str, Any]]]:
        """Clips, one or a batch -> what `write_sentences` gives for each."""
        clips = [clip if isinstance(clip, dict) else clip[0] for clip in model_inputs["clips"]]
        with_evidence = return_timestamps or return_attention
        encoded = self.encode_clips(clips, left_handed, arguments.get("spoken_language"))
        return {"answers": self.write_sentences(encoded, with_evidence=with_evidence, **arguments)}

    def postprocess(
        self, model_outputs: dict[str, Any], return_timestamps: bool = False, return_attention: bool = False
    ) -> dict[str, Any] | list[dict[str, Any]]:
        """What was written for one clip -> its answer: a dictionary, or a list of them for several sequences."""
        answers = model_outputs["answers"]
        clip = answers[0] if isinstance(answers, list) else answers
        translations = self.answers_of(clip, return_timestamps, return_attention)
        return translations if len(translations) > 1 else translations[0]


__all__ = ["SignLanguageTranslationPipeline"]
