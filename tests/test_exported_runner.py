"""The program that runs exported models, part by part against what it stands for: torchvision, the processors and
`generate` of transformers. No model is exported here."""

import ast
import importlib
import itertools
import random
import re
from collections.abc import Iterator

import numpy as np
import pytest
import torch
from random_inputs import random_generator
from test_pose_files import random_poses
from tiny_models import PAD, START, VIDEO_TOKEN, every_text_model, tiny_diffslt, tiny_llava_slt, tiny_model
from torchvision.transforms.v2 import functional
from transformers.image_utils import SizeDict
from transformers.modeling_outputs import BaseModelOutput
from video_files import write_video

from exported_runner.pixels import FramePreparation, centre_crop, resized
from exported_runner.search import Generation, generate, top
from modeling_flallm.language_encoder_decoder_slt import FLaLLMEncoderOutput
from processing import MODALITIES, FLaLLMVideoProcessor, PoseFeatureExtractor, Poses
from train_scripts.runs.exported_folder import copy_runner, runner_of
from train_scripts.runs.exported_settings import generation_settings


def error_texts(text: str):
    return pytest.raises(ValueError, match=re.escape(text))


# ------------------------------------------------------------------------------------------ no torch


def imported_packages(source: str) -> Iterator[str]:
    for node in ast.walk(ast.parse(source)):
        names = [node.module or ""] if isinstance(node, ast.ImportFrom) and not node.level else []
        names += [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
        yield from (name.split(".")[0] for name in names)


def test_all_files_beside_an_exported_model_do_without_torch(tmp_path):
    copy_runner(tmp_path / "flallm_runner")
    files = {path.name: set(imported_packages(path.read_text())) for path in (tmp_path / "flallm_runner").iterdir()}
    assert {"translator.py", "video_file_frames_slt.py", "pose_files_slt.py", "sampling_slt.py"} <= set(files)
    heavy = {"torch", "torchvision", "transformers", "PIL", "datasets"}
    assert {name: packages & heavy for name, packages in files.items() if packages & heavy} == {}


def test_every_file_that_is_imported_is_copied(tmp_path):
    copy_runner(tmp_path / "flallm_runner")
    names = {path.stem for path in (tmp_path / "flallm_runner").iterdir()}
    for path in (tmp_path / "flallm_runner").iterdir():
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.ImportFrom) and node.level:
                assert node.level == 1 and (node.module is None or node.module in names), path.name


# ------------------------------------------------------------------------------------------ frames


@pytest.mark.parametrize("resample", ["bilinear", "bicubic"])
def test_frames_are_resized_to_the_bit_as_torchvision_does(resample):
    generator = random_generator()
    for _ in range(12):
        old, new = generator.integers(5, 300, 2), generator.integers(5, 150, 2)
        frame = generator.integers(0, 256, (3, *old), dtype=np.uint8)
        mode = functional.InterpolationMode(resample)
        expected = functional.resize(torch.from_numpy(frame), new.tolist(), interpolation=mode, antialias=True)
        assert np.array_equal(resized(frame, tuple(new.tolist()), resample), expected.numpy())


def test_frames_larger_than_a_block_and_of_the_same_size():
    frame = random_generator().integers(0, 256, (3, 720, 1280), dtype=np.uint8)
    expected = functional.resize(torch.from_numpy(frame), [256, 256], antialias=True)
    assert np.array_equal(resized(frame, (256, 256), "bilinear"), expected.numpy())
    assert resized(frame, (720, 1280), "bilinear") is frame


@pytest.mark.parametrize(("height", "width"), [(20, 30), (21, 31), (40, 25), (50, 51)])
def test_the_middle_is_cropped_as_by_the_processor(height, width):
    frames = random_generator().integers(0, 256, (2, 3, 33, 40), dtype=np.uint8)
    size = SizeDict(height=height, width=width)
    expected = FLaLLMVideoProcessor().center_crop(torch.from_numpy(frames), size)
    assert np.array_equal(centre_crop(frames, height, width), expected.numpy())


@pytest.mark.parametrize(
    "values",
    [
        {"size": {"height": 40, "width": 44}, "crop_size": {"height": 32, "width": 32}},
        {"size": {"shortest_edge": 40}, "crop_size": {"height": 32, "width": 32}},
        {"size": {"height": 32, "width": 32}, "do_center_crop": False},
        {"crop_size": {"height": 32, "width": 32}, "do_resize": False},
        {"size": {"height": 32, "width": 32}, "do_center_crop": False, "do_normalize": False},
        {"size": {"height": 32, "width": 32}, "do_center_crop": False, "do_normalize": False, "do_rescale": False},
        {"size": {"height": 32, "width": 32}, "do_center_crop": False, "do_rescale": False, "resample": 3},
    ],
)
def test_frames_are_prepared_as_by_the_processor(values):
    processor = FLaLLMVideoProcessor(**values, frame_sampling_rate=1.0)
    frames = random_generator().integers(0, 256, (5, 47, 61, 3), dtype=np.uint8)
    expected = processor(frames, return_tensors="pt")["pixel_values_videos"][0].numpy()
    preparation = FramePreparation(clip_settings(processor))
    got = preparation.normalised(np.stack([preparation.resized(frame.transpose(2, 0, 1)) for frame in frames]))
    assert got.dtype == np.float32
    np.testing.assert_allclose(got, expected, atol=1e-6)
    if processor.do_normalize:
        assert np.array_equal(got, expected)


def clip_settings(part) -> dict:
    """Of the processor's part that reads clips."""
    (modality,) = (each(part) for each in MODALITIES if each.is_read_by(part))
    return {"modality": modality.argument, **modality.exported_settings()}


@pytest.mark.parametrize(
    ("values", "text"),
    [
        ({"resample": 0}, "resizes frames with bilinear or bicubic interpolation, and this one with nearest."),
        ({"do_center_crop": False, "do_resize": False}, "needs frames of one size. Set do_resize=True and `size`"),
        ({"do_center_crop": False, "size": {"shortest_edge": 32}}, "needs frames of one size."),
        ({"size": {"longest_edge": 32}}, "to a height and a width, or to a shortest edge, got {'longest_edge': 32}."),
    ],
)
def test_what_cannot_be_done_to_frames_is_said_at_export(values, text):
    with error_texts(text):
        clip_settings(FLaLLMVideoProcessor(**values))


# ------------------------------------------------------------------------------------------ poses and files


@pytest.fixture
def clips(tmp_path):
    """The readers of clips as they are in an exported folder."""
    copy_runner(tmp_path / "flallm_runner")
    with runner_of(tmp_path) as runner:
        yield importlib.import_module(f"{runner.__name__}.clips")


@pytest.mark.parametrize(
    "values",
    [
        {},
        {"frame_sampling_rate": 0.5, "max_num_frames": 4, "score_threshold": 0.6},
        {"smoothing_seconds": 0.1},
        {"keep_aspect_ratio": False, "smoothing_seconds": 0.05},
    ],
)
def test_poses_are_prepared_as_by_the_feature_extractor(values, clips):
    extractor = PoseFeatureExtractor(**values)
    read = clips.reader_of(clip_settings(extractor))
    whole = random_poses(9)
    keypoints, scores = whole.keypoints, whole.scores
    for shown in (1.0, 0.4, 0.02):  # of the points
        seen = scores * (np.random.rand(*scores.shape) < shown)
        if not seen.any():
            continue
        poses = Poses(keypoints * (seen[..., None] > 0), seen.astype(np.float32), 25.0, 640.0, 480.0)
        np.testing.assert_allclose(
            read(poses, None, None), extractor(poses, return_tensors="np")["pose_values"][0], atol=2e-6
        )


def test_videos_are_read_as_by_the_processor(clips, tmp_path):
    frames = random_generator().integers(0, 256, (23, 48, 64, 3), dtype=np.uint8)
    times = list(itertools.accumulate(random.choices([20, 40, 90, 400], k=23)))
    turned = write_video(tmp_path / "turned.mp4", frames, rotation=90)
    uneven = write_video(tmp_path / "uneven.mkv", frames, times_in_milliseconds=times)
    sizes = {"size": {"height": 40, "width": 36}, "crop_size": {"height": 32, "width": 32}}
    for settings in ({"frame_sampling_rate": 0.5}, {"frame_sampling_rate": None, "fps": 10, "max_num_frames": 6}):
        processor = FLaLLMVideoProcessor(**sizes, **settings)
        read = clips.reader_of(clip_settings(processor))
        for path, part in itertools.product((turned, uneven), ({}, {"start": 0.1, "end": 0.6})):
            expected = processor(str(path), return_tensors="np", **part)["pixel_values_videos"][0]
            assert np.array_equal(read(path, part.get("start"), part.get("end")), expected)


def test_clips_that_are_none(clips):
    sizes = {"size": {"height": 32, "width": 32}, "do_center_crop": False}
    read = clips.reader_of(clip_settings(FLaLLMVideoProcessor(**sizes)))
    with error_texts("There is no file 'nothing.mp4'."):
        read("nothing.mp4", None, None)
    with error_texts("must be uint8 of the shape (frames, height, width, 3), got float64 (2, 8, 8, 3)."):
        read(np.zeros((2, 8, 8, 3)), None, None)
    with error_texts("`start` and `end` are seconds of a file, and an array has none."):
        read(np.zeros((2, 8, 8, 3), np.uint8), 1.0, None)


# ------------------------------------------------------------------------------------------ search


class ModelAsDecoder:
    """The decoder of a model in torch, which reads all tokens again in each step."""

    def __init__(self, model, states: torch.Tensor):
        self.model, self.states = model, states
        self.tokens = torch.full((len(states), 1), START)

    def first(self) -> np.ndarray:
        with torch.no_grad():
            output = self.model.text_model(
                encoder_outputs=BaseModelOutput(self.states), decoder_input_ids=self.tokens, use_cache=False
            )
        return output.logits[:, -1].numpy()

    def next(self, token_ids: np.ndarray) -> np.ndarray:
        self.tokens = torch.cat([self.tokens, torch.from_numpy(token_ids)[:, None]], 1)
        return self.first()

    def reorder(self, rows: np.ndarray) -> None:
        self.tokens, self.states = self.tokens[rows], self.states[rows]


def with_tuples(values: dict) -> dict:
    return {name: tuple(value) if isinstance(value, list) else value for name, value in values.items()}


WAYS = [
    {},
    {"num_beams": 3},
    {"num_beams": 4, "length_penalty": 2.0, "early_stopping": True},
    {"num_beams": 4, "length_penalty": 0.5, "early_stopping": "never"},
    {"num_beams": 2, "length_penalty": -1.0, "early_stopping": "never"},
    {"num_beams": 3, "length_penalty": 0.0, "min_length": 5},
    {"no_repeat_ngram_size": 1},
    {"num_beams": 3, "no_repeat_ngram_size": 2},
    {"repetition_penalty": 1.7},
    {"num_beams": 3, "repetition_penalty": 0.6},
    {"num_beams": 3, "forced_bos_token_id": 7, "forced_eos_token_id": 3},
    {"min_length": 4, "suppress_tokens": [5, 6, 11]},
    {"num_beams": 3, "eos_token_id": [3, 9, 14]},
    {"num_beams": 5, "max_length": 3},
]


@pytest.mark.parametrize("way", WAYS, ids=str)
def test_search_gives_the_tokens_of_transformers(way):
    model = tiny_model()
    model.generation_config.update(max_length=12, forced_eos_token_id=None)
    model.generation_config.update(**way)
    for _ in range(3):
        states = torch.randn(4, 6, 32)
        settings = Generation(**with_tuples(generation_settings(model)))
        got = generate(ModelAsDecoder(model, states), len(states), settings)
        mask = torch.ones(states.shape[:2], dtype=torch.long)
        encoded = FLaLLMEncoderOutput(last_hidden_state=states, attention_mask=mask)
        expected = model.generate(encoder_outputs=encoded)
        longest = max(got.shape[1], expected.shape[1])
        got = np.pad(got, ((0, 0), (0, longest - got.shape[1])), constant_values=PAD)
        expected = torch.nn.functional.pad(expected, (0, longest - expected.shape[1]), value=PAD)
        assert got.tolist() == expected.tolist()


@every_text_model
def test_every_kind_of_text_model_has_settings(text):
    model = tiny_model(text)
    model.generation_config.max_length = None
    settings = generation_settings(model)
    assert settings["decoder_start_token_id"] == START and settings["eos_token_id"] == [3]
    assert settings["max_length"] == 21  # 20 new tokens, as transformers without a length
    model.generation_config.update(max_new_tokens=5, min_new_tokens=2)
    settings = generation_settings(model)
    assert (settings["max_length"], settings["min_length"]) == (6, 3)


def test_a_model_that_continues_a_prompt_counts_new_tokens_alone():
    model = tiny_llava_slt()
    model.generation_config.update(max_new_tokens=5, decoder_start_token_id=2)
    settings = generation_settings(model)
    assert settings["max_length"] == 5 and settings["suppress_tokens"] == [VIDEO_TOKEN]
    assert "decoder_start_token_id" not in settings
    model.generation_config.repetition_penalty = 1.2
    with error_texts("that continues a prompt has neither repetition_penalty nor forced_bos_token_id."):
        generation_settings(model)


def test_diffslt_takes_from_its_text_model_what_it_leaves_open():
    model = tiny_diffslt()
    model.generation_config.update(forced_eos_token_id=None, num_beams=2)
    model.text_model.generation_config.update(forced_eos_token_id=3, no_repeat_ngram_size=4)
    settings = generation_settings(model)
    assert (settings["forced_eos_token_id"], settings["no_repeat_ngram_size"], settings["num_beams"]) == (3, 4, 2)


def test_the_highest_values_come_first():
    values = random_generator().standard_normal((5, 30)).astype(np.float32)
    for count in (1, 7, 30):
        assert top(values, count).tolist() == torch.from_numpy(values).topk(count)[1].tolist()


def test_settings_of_one_call():
    settings = Generation(pad_token_id=1, eos_token_id=(3,), decoder_start_token_id=2)
    changed = settings.changed({"max_new_tokens": 5, "min_new_tokens": 2, "num_beams": 4})
    assert (changed.max_length, changed.min_length, changed.num_beams) == (6, 3, 4)
    assert settings.changed({}) == settings
    with pytest.raises(TypeError, match="An exported model has no generation settings temperature, top_k. It has max_"):
        settings.changed({"top_k": 5, "temperature": 1.0})
    with error_texts("`num_beams` must be 1 or more, and `max_length` must leave room for one token, got 0 and 20."):
        settings.changed({"num_beams": 0})


@pytest.mark.parametrize(
    ("values", "text"),
    [
        ({"do_sample": True}, "An exported model cannot write with do_sample=True. Change that in the model's gener"),
        ({"bad_words_ids": [[5]]}, "An exported model cannot write with bad_words_ids=[[5]]."),
        ({"guidance_scale": 1.5}, "An exported model cannot write with guidance_scale=1.5."),
        ({"eos_token_id": None}, "The model has no eos_token_id, with which sentences end."),
        ({"decoder_start_token_id": [2, 2]}, "decoder_start_token_id must be one token, with which all sentences st"),
        ({"forced_eos_token_id": [3, 4]}, "forced_eos_token_id must be one token, got [3, 4]."),
    ],
)
def test_settings_that_an_exported_model_does_not_have(values, text):
    model = tiny_model()
    model.generation_config.update(**values)
    with error_texts(text):
        generation_settings(model)
