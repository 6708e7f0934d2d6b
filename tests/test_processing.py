"""`FLaLLMProcessor`: targets of several tokenizers, decoding, errors, saving, and loading as remote code."""

import json
import re
import unicodedata
from pathlib import Path

import pytest
import torch
from tiny_tokenizers import SENTENCES, TOKENIZERS, make_plain_tokenizer
from transformers import (
    AutoProcessor,
    AutoTokenizer,
)
from without_our_packages import run_without_our_packages

from processing import FLaLLMProcessor, FLaLLMVideoProcessor

TOKENIZER_FOLDER = Path(__file__).resolve().parents[2] / "shared" / "tokenizer"


@pytest.fixture(params=TOKENIZERS)
def processor(request) -> FLaLLMProcessor:
    return make_processor(TOKENIZERS[request.param]())


def make_processor(tokenizer) -> FLaLLMProcessor:
    video_processor = FLaLLMVideoProcessor(
        size={"height": 20, "width": 20}, crop_size={"height": 16, "width": 16}, frame_sampling_rate=0.5
    )
    return FLaLLMProcessor(video_processor, tokenizer)


@pytest.fixture
def plain() -> FLaLLMProcessor:
    return make_processor(make_plain_tokenizer())


def random_clips(*lengths: int) -> list[torch.Tensor]:
    return [torch.randint(0, 256, (length, 3, 24, 24), dtype=torch.uint8) for length in lengths]


def test_videos_and_text_give_what_the_model_takes(processor):
    output = processor(videos=random_clips(8, 4), text_target=SENTENCES, return_tensors="pt")
    assert list(output) == processor.model_input_names == ["pixel_values_videos", "pixel_attention_mask", "labels"]
    assert output["pixel_values_videos"].shape == (2, 4, 3, 16, 16)
    assert output["pixel_attention_mask"].tolist() == [[1, 1, 1, 1], [1, 1, 0, 0]]
    assert output["labels"].dtype == torch.int64


def test_labels_are_padded_on_the_right_and_decode_to_the_sentences(processor):
    labels = processor(text_target=SENTENCES)["labels"]
    for sentence, row in zip(SENTENCES, labels, strict=True):
        target = processor.tokenizer(text_target=sentence)["input_ids"]
        assert row.tolist() == target + [-100] * (len(row) - len(target))
    assert processor.tokenizer.pad_token_id not in labels
    assert processor.batch_decode(labels) == SENTENCES
    assert processor.batch_decode(labels.tolist()) == processor.batch_decode(labels.numpy()) == SENTENCES
    assert processor.decode(labels[0]) == SENTENCES[0]
    assert processor.tokenizer.eos_token in processor.decode(labels[0], skip_special_tokens=False)


@pytest.mark.parametrize(("kind", "code"), [("mbart", "de_DE"), ("nllb", "deu_Latn")])
def test_a_multilingual_tokenizer_marks_the_target_language(kind, code):
    processor = make_processor(TOKENIZERS[kind]())
    (labels,) = processor(text_target=SENTENCES[0])["labels"].tolist()
    assert processor.tokenizer.convert_tokens_to_ids(code) in (labels[0], labels[-1])


def test_one_input_alone(plain):
    assert list(plain(text_target=SENTENCES[0])) == ["labels"]
    assert list(plain(videos=random_clips(4))) == ["pixel_values_videos", "pixel_attention_mask"]


def test_arguments_reach_their_part(plain):
    output = plain(
        videos=random_clips(8), text_target=SENTENCES[1], frame_sampling_rate=1.0, padding="max_length", max_length=9
    )
    assert output["pixel_values_videos"].shape[1] == 8 and output["labels"].shape == (1, 9)
    assert plain(text_target=SENTENCES[1], truncation=True, max_length=3)["labels"].shape == (1, 3)
    with pytest.raises(TypeError, match=re.escape("Unknown arguments ['frame_rate'] of FLaLLMVideoProcessor.")):
        plain(videos=random_clips(8), frame_rate=1.0)


def test_text_is_brought_to_nfkc(plain):
    tokenizer = make_plain_tokenizer()
    tokenizer.add_tokens(["für"])
    labels = make_processor(tokenizer)(text_target=[unicodedata.normalize("NFD", "für"), "ｆür"])["labels"]
    assert (labels[:, 0] == tokenizer.convert_tokens_to_ids("für")).all()


def test_arguments_in_groups_as_other_processors_take_them(plain):
    clips = random_clips(8)
    expected = plain(
        videos=clips, text_target=SENTENCES[1], frame_sampling_rate=1.0, padding="max_length", max_length=9
    )
    output = plain(
        videos=clips,
        text_target=SENTENCES[1],
        images=None,
        audio=None,
        videos_kwargs={"frame_sampling_rate": 1.0},
        text_kwargs={"padding": "max_length", "max_length": 9},
        common_kwargs={"return_tensors": "np"},
    )
    assert all((output[name] == expected[name].numpy()).all() for name in expected)
    with pytest.raises(ValueError, match=re.escape("The model takes videos, got `images`.")):
        plain(videos=clips, images=clips)


@pytest.mark.parametrize(
    ("inputs", "text"),
    [
        ({"text": SENTENCES}, "FLa-LLM reads none. Pass the sentences as `text_target`."),
        ({}, "Pass `videos`, `text_target` (their sentences), or both; got neither."),
        (
            {"text_target": ["rain", " \u00a0", ""]},
            "`text_target` holds empty sentences at index [1, 2]: a model cannot learn from",
        ),
        ({"text_target": []}, "`text_target` is an empty list; pass one sentence per video."),
        (
            {"text_target": ["rain", None]},
            "`text_target` must be a sentence or a list of sentences, got ['rain', None].",
        ),
        ({"text_target": SENTENCES, "videos": 3}, "Each video needs one sentence, got 3 videos and 2 sentences."),
    ],
)
def test_wrong_input(plain, inputs, text):
    if "videos" in inputs:
        inputs = {**inputs, "videos": random_clips(*[4] * inputs["videos"])}
    with pytest.raises(ValueError, match=re.escape(text)):
        plain(**inputs)


def test_text_arguments_without_text_are_refused(plain):
    with pytest.raises(ValueError, match=re.escape("`max_length` goes with `text_target`, which was not given.")):
        plain(videos=random_clips(4), max_length=5)


def test_a_tokenizer_without_padding_is_refused():
    tokenizer = make_plain_tokenizer()
    tokenizer.pad_token = None
    with pytest.raises(ValueError, match=re.escape("The tokenizer needs a padding token: set `tokenizer.pad_token`.")):
        make_processor(tokenizer)


def test_save_and_load(processor, tmp_path):
    processor.save_pretrained(tmp_path)
    clips = random_clips(8, 6)
    expected = processor(videos=clips, text_target=SENTENCES)
    for loaded in (FLaLLMProcessor.from_pretrained(tmp_path), AutoProcessor.from_pretrained(tmp_path)):
        assert type(loaded) is FLaLLMProcessor and type(loaded.video_processor) is FLaLLMVideoProcessor
        output = loaded(videos=clips, text_target=SENTENCES)
        assert all(torch.equal(output[name], expected[name]) for name in expected)
    assert json.loads((tmp_path / "processor_config.json").read_text())["auto_map"] == {
        "AutoProcessor": "processing_flallm.FLaLLMProcessor"
    }


@pytest.mark.slow
def test_loads_as_remote_code_without_the_package(plain, tmp_path):
    plain.save_pretrained(tmp_path / "saved")
    code = f"""
import torch
from transformers import AutoProcessor, AutoVideoProcessor
folder = {str(tmp_path / "saved")!r}
processor = AutoProcessor.from_pretrained(folder, trust_remote_code=True)
video_processor = AutoVideoProcessor.from_pretrained(folder, trust_remote_code=True, max_num_frames=2)
clip = torch.arange(8 * 3 * 24 * 24).remainder(251).to(torch.uint8).view(8, 3, 24, 24)
output = processor(videos=clip, text_target="the rain comes", return_tensors="pt")
print(type(processor).__module__, output["pixel_values_videos"].sum().item(), processor.batch_decode(output["labels"]))
print(video_processor(clip)["pixel_values_videos"].shape)
processor.save_pretrained(folder + "-again")
AutoProcessor.from_pretrained(folder + "-again", trust_remote_code=True)
"""
    printed = run_without_our_packages(code, folder=tmp_path)
    clip = torch.arange(8 * 3 * 24 * 24).remainder(251).to(torch.uint8).view(8, 3, 24, 24)
    pixels = plain(videos=clip)["pixel_values_videos"]
    first, second = printed.splitlines()
    module, pixel_sum, sentences = first.split(" ", 2)
    assert module.startswith("transformers_modules.")
    assert float(pixel_sum) == pytest.approx(pixels.sum().item(), rel=1e-4)
    assert sentences == "['the rain comes']" and second == "torch.Size([1, 2, 3, 16, 16])"


@pytest.mark.skipif(not TOKENIZER_FOLDER.is_dir(), reason="the sentencepiece model is not here")
def test_real_sentencepiece_model_round_trips_german():
    tokenizer = AutoTokenizer.from_pretrained(TOKENIZER_FOLDER, src_lang="de_DE", tgt_lang="de_DE")
    sentences = ["am tag schneit es überall", "der wind weht mäßig"]
    processor = make_processor(tokenizer)
    decomposed = [unicodedata.normalize("NFD", sentence) for sentence in sentences]
    assert processor.batch_decode(processor(text_target=decomposed)["labels"]) == sentences
