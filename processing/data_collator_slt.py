# Copyright 2026 The FLaLLM authors. Licensed under the Apache License, Version 2.0.
"""Collates rows of a data set to the batches that the Trainers of transformers train and evaluate on."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from transformers.feature_extraction_utils import BatchFeature

from .processing_flallm import FLaLLMProcessor

# Optional columns: the part of a video that is the clip, in seconds.
PART_COLUMNS = ("start", "end")
LANGUAGE_COLUMN = "spoken_language"


@dataclass
class DataCollatorForSignTranslation:
    """Collates rows with a clip and its sentence to the padded inputs of a translation model, for `Seq2SeqTrainer`.

    Args:
        processor (`FLaLLMProcessor` or `LlavaSltProcessor`):
            The model's processor.
        clip_column (`str`, *optional*):
            Column of the clips, in any form that the processor takes; of a video column of `datasets`, best
            `Video(decode=False)`. Default: `"video"`, or `"visual_features"` where the processor reads these.
        text_column (`str`, *optional*, defaults to `"text"`):
            Column of the sentences. If all rows lack it, the batch has no labels.

    Rows may have `start` and `end`, the part of a video that is the clip, in seconds, and `spoken_language`, the tag of
    the language that the prompt of a row names, if the processor has a prompt (None: the processor's own). Set the
    Trainer's argument `remove_unused_columns=False`: otherwise it removes the columns of the data set, which the model
    does not know.

    Example: `Seq2SeqTrainer(model, args, data_collator=DataCollatorForSignTranslation(processor), ...)`
    """

    processor: FLaLLMProcessor
    clip_column: str | None = None
    text_column: str = "text"

    def __call__(self, rows: Sequence[dict[str, Any]]) -> BatchFeature:
        """Returns tensors as the processor does with `return_tensors="pt"`. Raises `ValueError` for rows without a
        clip, for sentences in some rows only, and as the processor."""
        modality = self.processor.modality
        clip_column = self.clip_column or modality.column
        if not all(clip_column in row for row in rows):
            raise ValueError(
                f"Each row needs a clip in the column {clip_column!r}, got the columns {_columns(rows)}. Pass "
                "`clip_column`, and `remove_unused_columns=False` to the Trainer's arguments."
            )
        has_sentence = [row.get(self.text_column) is not None for row in rows]
        if any(has_sentence) and not all(has_sentence):
            raise ValueError(
                f"Either all rows of a batch have a sentence in the column {self.text_column!r}, or none; row "
                f"{has_sentence.index(False)} has none. Leave such rows out."
            )
        arguments: dict[str, Any] = {modality.argument: [row[clip_column] for row in rows]}
        if all(has_sentence):
            arguments["text_target"] = [row[self.text_column] for row in rows]
        for name in (*PART_COLUMNS, *([] if self.processor.prompt is None else [LANGUAGE_COLUMN])):
            if any(row.get(name) is not None for row in rows):
                arguments[name] = [row.get(name) for row in rows]
        return self.processor(**arguments, return_tensors="pt")


def _columns(rows: Sequence[dict[str, Any]]) -> list[str]:
    return sorted({name for row in rows for name in row})


__all__ = ["DataCollatorForSignTranslation"]
