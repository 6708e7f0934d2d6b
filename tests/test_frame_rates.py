"""Clips slower or faster than those that a model was trained on: sampled as these were, wherever clips are sampled."""

import importlib
import itertools
import json
import random
import re

import numpy as np
import pytest
from test_exported_runner import clip_settings
from test_pose_files import random_poses
from tiny_corpus import load, stage1_flags, stage2_flags
from video_files import counting_frames, write_video

from processing import MODALITIES, FLaLLMVideoProcessor, PoseFeatureExtractor, write_poses
from processing.sampling_slt import fraction_as_in_training, slowest_and_fastest
from train_scripts.runs.exported_folder import copy_runner, runner_of
from train_scripts.stages import llm_fine_tuning, visual_initialing

SMALL = {"size": {"height": 36, "width": 36}, "crop_size": {"height": 32, "width": 32}}
TRAINED_AT_25 = {"training_fps": [25.0, 25.0]}


def test_only_other_frame_rates_are_sampled_otherwise():
    rates = [None, 22.8, 24, 25, 27, 29.97, 32.9]
    assert {fraction_as_in_training(0.25, rate, [25, 30]) for rate in rates} == {0.25}
    assert fraction_as_in_training(0.25, 60, None) == 0.25
    assert fraction_as_in_training(0.25, 60, [25, 30]) == pytest.approx(0.125)
    assert fraction_as_in_training(0.25, 12.5, [25, 30]) == pytest.approx(0.5)
    assert fraction_as_in_training(1.0, 12.5, [25, 30]) == pytest.approx(2.0)


def test_the_rates_that_are_known():
    assert slowest_and_fastest([None, 25, 29.97003, 24.0]) == [24.0, 29.97]
    assert slowest_and_fastest([None]) is None


@pytest.mark.parametrize("processor", [FLaLLMVideoProcessor, PoseFeatureExtractor])
@pytest.mark.parametrize("given", [[25], [30, 25], [0, 25], [24, 25, 30]])
def test_rates_that_make_no_sense_are_refused(processor, given):
    text = "`training_fps` must be the frame rates of the slowest and the fastest training clip, or None, got "
    with pytest.raises(ValueError, match=re.escape(f"{text}{given}.")):
        processor(training_fps=given)


def test_a_clip_has_as_many_frames_as_one_of_a_rate_in_training():
    for rate, seconds in itertools.product([10, 15, 50, 60, 120], [1, 4]):
        processor = FLaLLMVideoProcessor(frame_sampling_rate=0.25, max_num_frames=None, **TRAINED_AT_25)
        indices = processor.sample_frame_indices(rate * seconds, rate)
        expected = processor.sample_frame_indices(25 * seconds, 25)
        assert len(indices) == len(expected)
        differences = np.array(indices) / rate - np.array(expected) / 25
        assert np.abs(differences).max() <= 1 / min(rate, 25)
        extractor = PoseFeatureExtractor(0.25, None, **TRAINED_AT_25)
        assert extractor.sample_frame_indices(rate * seconds, fps=rate) == indices


def test_frames_are_repeated_where_there_are_too_few():
    processor = FLaLLMVideoProcessor(frame_sampling_rate=1.0, **TRAINED_AT_25)
    assert processor.sample_frame_indices(4, 12.5) == [0, 0, 1, 1, 2, 2, 3, 3]
    assert FLaLLMVideoProcessor(frame_sampling_rate=1.0).sample_frame_indices(4, 12.5) == [0, 1, 2, 3]
    frames = counting_frames(4)
    kept = FLaLLMVideoProcessor(frame_sampling_rate=1.0, **SMALL, **TRAINED_AT_25)(
        frames, video_metadata={"fps": 12.5}, return_tensors="pt"
    )["pixel_values_videos"][0]
    assert len(kept) == 8 and (kept[::2] == kept[1::2]).all() and len(kept.unique(dim=0)) == 4


def test_what_a_call_asks_for_is_what_it_gets(tmp_path):
    processor = FLaLLMVideoProcessor(frame_sampling_rate=0.25, **SMALL, **TRAINED_AT_25)
    path = write_video(tmp_path / "clip.mp4", counting_frames(100), fps=50)

    def num_frames(**given) -> int:
        return processor(path, return_tensors="pt", **given)["pixel_values_videos"].shape[1]

    assert num_frames() == 13  # of 2 seconds
    assert num_frames(frame_sampling_rate=0.25) == 25 and num_frames(fps=10) == 20
    assert num_frames(training_fps=None) == 25 and num_frames(training_fps=[50, 50]) == 25


def test_a_processor_keeps_them(tmp_path):
    for processor in (FLaLLMVideoProcessor(training_fps=[24.0, 30.0]), PoseFeatureExtractor(training_fps=[24.0, 30.0])):
        processor.save_pretrained(tmp_path)
        assert type(processor).from_pretrained(tmp_path).training_fps == [24.0, 30.0]


def test_one_of_an_older_release_samples_as_before(tmp_path):
    FLaLLMVideoProcessor(frame_sampling_rate=0.25).save_pretrained(tmp_path)
    (file,) = tmp_path.glob("*.json")
    values = json.loads(file.read_text(encoding="utf-8"))
    values.pop("training_fps", None)
    file.write_text(json.dumps(values), encoding="utf-8")
    assert FLaLLMVideoProcessor.from_pretrained(tmp_path).sample_frame_indices(100, 50) == list(range(0, 100, 4))


@pytest.mark.parametrize("rate", [10.0, 50.0])
def test_poses_of_a_file(rate, tmp_path):
    extractor = PoseFeatureExtractor(0.5, None, **TRAINED_AT_25)
    write_poses(tmp_path / "clip.safetensors", random_poses(round(2 * rate), frames_per_second=rate))
    assert extractor(tmp_path / "clip.safetensors")["pose_values"][0].shape[0] == 25


@pytest.mark.parametrize("rate", [10, 50])
def test_a_live_video(rate):
    processor = FLaLLMVideoProcessor(frame_sampling_rate=0.2, **SMALL, **TRAINED_AT_25)
    live = processor.live()
    for index in range(4 * rate):
        live.add(np.full((40, 48, 3), index, np.uint8), index / rate)
    part = live.part(1.0, 3.0)
    assert len(part.frames) == pytest.approx(10, abs=1)
    assert np.diff(np.array(part.numbers) / rate) == pytest.approx(0.2, abs=0.11)


@pytest.mark.parametrize("rate", [10, 25, 50])
def test_an_exported_model_samples_alike(rate, tmp_path):
    copy_runner(tmp_path / "flallm_runner")
    video = write_video(tmp_path / "clip.mp4", counting_frames(2 * rate), fps=rate)
    write_poses(tmp_path / "clip.safetensors", random_poses(2 * rate, frames_per_second=float(rate)))
    with runner_of(tmp_path) as runner:
        reader_of = importlib.import_module(f"{runner.__name__}.clips").reader_of
        processor = FLaLLMVideoProcessor(frame_sampling_rate=0.25, **SMALL, **TRAINED_AT_25)
        expected = processor(str(video), return_tensors="np")["pixel_values_videos"][0]
        got = reader_of(clip_settings(processor))(str(video), None, None)
        np.testing.assert_allclose(got, expected, atol=1e-6)
        extractor = PoseFeatureExtractor(0.5, None, **TRAINED_AT_25)
        path = str(tmp_path / "clip.safetensors")
        expected = extractor(path, return_tensors="np")["pose_values"][0]
        np.testing.assert_allclose(reader_of(clip_settings(extractor))(path, None, None), expected, atol=2e-6)


# Learning them


def modality_of(part):
    return next(each(part) for each in MODALITIES if each.is_read_by(part))


def row_of(path) -> dict:
    return {"video": {"path": str(path), "bytes": None}}


def test_rates_are_learned_beside_those_that_are_known(tmp_path):
    modality = modality_of(FLaLLMVideoProcessor())
    paths = [write_video(tmp_path / f"{rate}.mp4", counting_frames(rate), fps=rate) for rate in (24, 30, 25)]
    modality.learn_rates(map(row_of, random.sample(paths, 3)))
    assert modality.part.training_fps == [24.0, 30.0]
    (tmp_path / "broken.mp4").write_bytes(b"no video")
    modality.learn_rates([row_of(tmp_path / "broken.mp4"), row_of(tmp_path / "nothing.mp4")])
    assert modality.part.training_fps == [24.0, 30.0]
    modality.learn_rates([row_of(write_video(tmp_path / "fast.mp4", counting_frames(50), fps=50))])
    assert modality.part.training_fps == [24.0, 50.0]


def test_a_file_whose_header_states_another_rate(tmp_path):
    """As browsers write it: in milliseconds, without a length."""
    path = write_video(
        tmp_path / "clip.webm", counting_frames(40), times_in_milliseconds=[40 * k for k in range(40)], live=True
    )
    modality = modality_of(FLaLLMVideoProcessor())
    modality.learn_rates([row_of(path)])
    assert modality.part.training_fps == pytest.approx([25.0, 25.0], abs=0.1)


def test_poses_without_a_rate_say_nothing(tmp_path):
    modality = modality_of(PoseFeatureExtractor())
    modality.learn_rates([{"poses": np.random.rand(9, 133, 3).astype(np.float32)}])
    assert modality.part.training_fps is None
    write_poses(tmp_path / "clip.safetensors", random_poses(9, frames_per_second=30.0))
    modality.learn_rates([{"poses": str(tmp_path / "clip.safetensors")}])
    assert modality.part.training_fps == [30.0, 30.0]


@pytest.mark.slow
@pytest.mark.parametrize("stage", ["visual_initialing", "llm_fine_tuning"])
def test_training_learns_them(stage, tmp_path):
    flags, train = {
        "visual_initialing": (stage1_flags, visual_initialing.train),
        "llm_fine_tuning": (stage2_flags, llm_fine_tuning.train),
    }[stage]
    train(flags(tmp_path / "run", max_steps=1))
    assert load(tmp_path / "run")[1].modality.part.training_fps == [25.0, 25.0]
