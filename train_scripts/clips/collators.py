"""Turns items of the data sets into the batches that the models take."""

from typing import Any

import torch
from torch.nn.utils.rnn import pad_sequence
from transformers.image_utils import SizeDict

from modeling_flallm.own_processing import FLaLLMProcessor, Modality, padded_in_time, pixel_values

from .augmentation import ClipAugmentation, MiddleFrames
from .description_targets import padded_descriptions

IGNORED_LABEL = -100
CACHED_FEATURES = "cached_features"  # of an item in place of its clip: what the sign encoder made of it
NUM_TOKENS = "num_visual_tokens"  # of such an item: how many the encoder makes of these features


class TranslationCollator:
    """
    Items of `SignClipDataset` -> what `FLaLLMForTranslation` takes, padded; of items that hold `cached_features`
    `(tokens, hidden size)` instead of a clip, `visual_features` and their mask.

    With `preprocess_on_device` the frames of each clip stay uint8 and come with the seeds of their augmentation:
    `FramePreprocessor` turns them into pixel values on the model's device.
    """

    def __init__(self, processor: FLaLLMProcessor, preprocess_on_device: bool = False):
        self.processor = processor
        self.preprocess_on_device = preprocess_on_device

    def __call__(self, items: list[dict[str, Any]]) -> dict[str, Any]:
        # Text first: the Trainer reads the batch size from the first tensor.
        text_inputs = self.text_inputs(items)
        if CACHED_FEATURES in items[0]:
            features, mask = padded_in_time([item[CACHED_FEATURES] for item in items])
            return {**text_inputs, "visual_features": features, "visual_attention_mask": mask}
        return {**text_inputs, **self.clip_inputs(items)}

    def text_inputs(self, items: list[dict[str, Any]]) -> dict[str, torch.Tensor]:
        """Of what `SignClipDataset.sentence_of` gives for each clip."""
        texts, target_languages = ([item[name] for item in items] for name in ("text", "target_language"))
        named = None if self.processor.prompt is None else [item["spoken_language"] for item in items]
        inputs = dict(self.processor(text_target=texts, spoken_language=named))
        if set(target_languages) != {getattr(self.processor.tokenizer, "tgt_lang", None)}:
            inputs["labels"] = self._labels(texts, target_languages)
        return inputs

    def clip_inputs(self, items: list[dict[str, Any]]) -> dict[str, Any]:
        """From what `ClipReader` returns for each clip."""
        return {**self.processor.modality.collate(items, self.preprocess_on_device), **padded_descriptions(items)}

    def _labels(self, texts: list[str], languages: list[str | None]) -> torch.Tensor:
        """-> `(batch, tokens)`, each sentence with the code of its language."""
        tokenizer = self.processor.tokenizer
        usual = getattr(tokenizer, "tgt_lang", None)
        labels: list[torch.Tensor] = [torch.empty(0)] * len(texts)
        try:
            for language in dict.fromkeys(languages):
                tokenizer.tgt_lang = language
                rows = [row for row, other in enumerate(languages) if other == language]
                of_language = self.processor(text_target=[texts[row] for row in rows])["labels"]
                for row, values in zip(rows, of_language, strict=True):
                    labels[row] = values[values != IGNORED_LABEL]
        finally:
            tokenizer.tgt_lang = usual
        return pad_sequence(labels, batch_first=True, padding_value=IGNORED_LABEL)


class PromptedTranslationCollator(TranslationCollator):
    """
    Like `TranslationCollator`, for `LlavaSltForTranslation`: prompt and sentence are one row of `input_ids`, padded on
    the left, and the prompt names the language of the sentence if the data set specifies it.
    """

    def text_inputs(self, items: list[dict[str, Any]]) -> dict[str, torch.Tensor]:
        inputs = self.processor(
            text_target=[item["text"] for item in items],
            num_visual_tokens=[self._num_visual_tokens(item) for item in items],
            spoken_language=[item["spoken_language"] for item in items],
            return_tensors="pt",
        )
        return dict(inputs)

    def _num_visual_tokens(self, item: dict[str, Any]) -> int:
        if CACHED_FEATURES in item:
            return item[NUM_TOKENS]
        return self.processor.get_num_visual_tokens(self.processor.modality.length_of(item))


class FramePreprocessor:
    """
    Resize, augment, crop and normalise the uint8 frames of a batch on the device that holds them, with the same random
    draws and results as in the loading processes.
    """

    def __init__(self, modality: Modality, augmentation: ClipAugmentation | MiddleFrames | None = None):
        self.modality = modality
        self.augmentation = augmentation

    def __call__(self, frames: list[torch.Tensor], spatial_seeds: list[int | None]) -> dict[str, torch.Tensor]:
        """
        Args:
            frames: of each clip, uint8 `(frames, 3, height, width)`.
            spatial_seeds: of each clip, or `None` for all at evaluation.
        """
        if spatial_seeds[0] is None:
            return pixel_values(self.modality.part, self._resized(frames), resize=False, crop=True)
        drawn = [self.augmentation.apply_spatial(*pair) for pair in zip(frames, spatial_seeds, strict=True)]
        return pixel_values(self.modality.part, drawn, resize=False)

    def _resized(self, frames: list[torch.Tensor]) -> list[torch.Tensor]:
        """All frames of a clip at once, where the processor handles them one by one."""
        video_processor = self.modality.part
        size = SizeDict(**dict(video_processor.size))
        return [video_processor.resize(clip, size=size, resample=video_processor.resample) for clip in frames]
