"""`DataCollatorForSignTranslation`: rows of a data set become what each processor makes of them."""

import re

import pytest
import torch
from test_processing_llava_slt import make_processor as make_prompted_processor
from tiny_tokenizers import SENTENCES, make_plain_tokenizer

from processing import (
    DataCollatorForSignTranslation,
    FLaLLMProcessor,
    FLaLLMVideoProcessor,
    LlavaSltProcessor,
    VisualFeatureExtractor,
)


def make_processor() -> FLaLLMProcessor:
    size = {"size": {"height": 20, "width": 20}, "crop_size": {"height": 16, "width": 16}}
    return FLaLLMProcessor(FLaLLMVideoProcessor(**size, frame_sampling_rate=0.5), make_plain_tokenizer())


def random_clip(length: int) -> torch.Tensor:
    return torch.randint(0, 256, (length, 3, 24, 24), dtype=torch.uint8)


@pytest.mark.parametrize("make", [make_processor, make_prompted_processor], ids=["FLa-LLM", "LLaVA-SLT"])
def test_a_batch_is_what_the_processor_makes_of_the_columns(make):
    processor, clips = make(), [random_clip(8), random_clip(4)]
    collate = DataCollatorForSignTranslation(processor, clip_column="clip", text_column="sentence")
    rows = [{"clip": clip, "sentence": text, "signer": 3} for clip, text in zip(clips, SENTENCES, strict=True)]
    expected = processor(videos=clips, text_target=SENTENCES, return_tensors="pt")
    batch = collate(rows)
    assert batch.keys() == expected.keys() and all(torch.equal(batch[name], expected[name]) for name in expected)
    without_sentences = collate([{"clip": clip} for clip in clips])
    assert "labels" not in without_sentences and "pixel_values_videos" in without_sentences


@pytest.mark.parametrize("processor_class", [FLaLLMProcessor, LlavaSltProcessor])
def test_ready_made_features_have_their_own_column(processor_class):
    tokenizer = make_plain_tokenizer()
    processor = processor_class(feature_extractor=VisualFeatureExtractor(5), tokenizer=tokenizer)
    clips = [torch.randn(length, 5).numpy() for length in (7, 3)]
    rows = [{"visual_features": clip, "text": text} for clip, text in zip(clips, SENTENCES, strict=True)]
    batch = DataCollatorForSignTranslation(processor)(rows)
    expected = processor(visual_features=clips, text_target=SENTENCES, return_tensors="pt")
    assert batch.keys() == expected.keys() and all(torch.equal(batch[name], expected[name]) for name in expected)
    assert batch["visual_features"].shape == (2, 7, 5) and batch["visual_attention_mask"].sum(1).tolist() == [7, 3]


def test_a_row_may_be_a_part_of_its_video(monkeypatch):
    clip, processor, seen = random_clip(4), make_processor(), {}
    monkeypatch.setattr(FLaLLMProcessor, "__call__", lambda self, **arguments: seen.update(arguments))
    collate = DataCollatorForSignTranslation(processor)
    collate([{"video": clip, "text": "a", "start": 1.0, "end": 2.5}, {"video": clip, "text": "b", "start": None}])
    assert seen["start"] == [1.0, None] and seen["end"] == [2.5, None] and seen["text_target"] == ["a", "b"]


def test_wrong_rows():
    collate = DataCollatorForSignTranslation(make_processor())
    text = "Each row needs a clip in the column 'video', got the columns ['labels']. Pass `clip_column`, and `remove_"
    with pytest.raises(ValueError, match=re.escape(text)):
        collate([{"labels": [1]}])
    text = "Either all rows of a batch have a sentence in the column 'text', or none; row 1 has none."
    with pytest.raises(ValueError, match=re.escape(text)):
        collate([{"video": random_clip(4), "text": "the rain comes"}, {"video": random_clip(4)}])
