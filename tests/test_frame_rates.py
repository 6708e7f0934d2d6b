"""Clips slower or faster than those that a model was trained on: sampled as these were, wherever clips are sampled."""

import importlib
import itertools
import json
import math
import random
import re

import numpy as np
import pytest
from datasets import Dataset, Video
from test_exported_runner import clip_settings
from test_pipeline import word_tokenizer
from test_pose_files import random_poses
from tiny_corpus import load, stage1_flags, stage2_flags
from tiny_models import tiny_vision_model
from video_files import counting_frames, write_video

from processing import (
    MODALITIES,
    FLaLLMProcessor,
    FLaLLMVideoProcessor,
    PoseFeatureExtractor,
    VisualFeatureExtractor,
    write_poses,
)
from processing.sampling_slt import MOST_REPEATS, fraction_as_in_training, slowest_and_fastest
from train_scripts.arguments.data_arguments import AugmentationArguments, VideoArguments
from train_scripts.clips.augmentation import ClipAugmentation
from train_scripts.clips.data import SignClipDataset
from train_scripts.clips.feature_fingerprints import fingerprint_of_features, key_of
from train_scripts.runs.exported_folder import copy_runner, runner_of
from train_scripts.runs.training_clips import MOST_CLIPS_TO_LOOK_AT, training_fps_of
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


def test_a_very_slow_clip_is_not_repeated_without_a_bound():
    """Of damaged times, or poses that state seconds for a rate, frames would fill the memory."""
    assert fraction_as_in_training(0.25, 0.001, [25, 30]) == pytest.approx(0.25 * MOST_REPEATS)
    assert len(PoseFeatureExtractor(1.0, None, **TRAINED_AT_25).sample_frame_indices(100, fps=0.04)) == 500


def test_the_rates_that_are_known():
    assert slowest_and_fastest([None, 25, 29.97003, 24.0]) == [24.0, 29.97]
    assert slowest_and_fastest([None]) is None and slowest_and_fastest([0.001]) is None
    assert slowest_and_fastest([0.001, 25]) == [25.0, 25.0]
    assert slowest_and_fastest([2.0, 600.0, *[25.0] * 18, *[30.0] * 20]) == [25.0, 30.0]  # single odd ones


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
        processor = FLaLLMVideoProcessor(frame_sampling_rate=1.0, **SMALL, **TRAINED_AT_25)
        expected = processor(str(video), return_tensors="np")["pixel_values_videos"][0]
        got = reader_of(clip_settings(processor))(str(video), None, None)
        assert len(got) == 50  # also of a file with 20 frames
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


def test_rates_of_clips_without_those_that_cannot_be_read(tmp_path):
    modality = modality_of(FLaLLMVideoProcessor())
    paths = [write_video(tmp_path / f"{rate}.mp4", counting_frames(rate), fps=rate) for rate in (24, 30, 25)]
    (tmp_path / "broken.mp4").write_bytes(b"no video")
    paths += [tmp_path / "broken.mp4", tmp_path / "nothing.mp4"]
    assert modality.rates_of(map(row_of, random.sample(paths, len(paths)))) == [24.0, 30.0]
    assert modality.rates_of(map(row_of, paths[3:])) is None


def test_a_file_whose_header_states_another_rate(tmp_path):
    """As browsers write it: in milliseconds, without a length."""
    path = write_video(
        tmp_path / "clip.webm", counting_frames(40), times_in_milliseconds=[40 * k for k in range(40)], live=True
    )
    assert modality_of(FLaLLMVideoProcessor()).rates_of([row_of(path)]) == pytest.approx([25.0, 25.0], abs=0.1)


def test_poses_without_a_rate_say_nothing(tmp_path):
    modality = modality_of(PoseFeatureExtractor())
    assert modality.rates_of([{"poses": np.random.rand(9, 133, 3).astype(np.float32)}]) is None
    write_poses(tmp_path / "clip.safetensors", random_poses(9, frames_per_second=30.0))
    assert modality.rates_of([{"poses": str(tmp_path / "clip.safetensors")}]) == [30.0, 30.0]


def test_clips_of_every_data_set_are_looked_at(tmp_path):
    modality = modality_of(FLaLLMVideoProcessor())
    fast = row_of(write_video(tmp_path / "fast.mp4", counting_frames(30), fps=30))
    slow = row_of(write_video(tmp_path / "slow.mp4", counting_frames(24), fps=24))
    clips, looks = [fast] * 900 + [slow] * 20, []

    class Clips:
        def __getitem__(self, index: int) -> dict:
            looks.append(index)
            return clips[index]

    assert training_fps_of(Clips(), [900, 0, 20], modality) == [24.0, 30.0]
    assert len(looks) == MOST_CLIPS_TO_LOOK_AT + 20 and looks[-20:] == list(range(900, 920))
    modality.part.training_fps = [25.0, 25.0]
    assert training_fps_of(Clips(), [900, 0, 20], modality) is None  # those of the first training stay
    assert training_fps_of(Clips(), [920], modality_of(VisualFeatureExtractor(8))) is None


def test_the_longest_length_of_a_slow_clip(tmp_path):
    """Also of an augmentation, which otherwise takes each frame once at most."""
    path = write_video(tmp_path / "clip.mp4", counting_frames(20), fps=10)
    tokenizer = word_tokenizer()
    for fraction, jitter in itertools.product([0.25, 1.0], [False, True]):
        part = FLaLLMVideoProcessor(frame_sampling_rate=fraction, max_num_frames=None, **SMALL, **TRAINED_AT_25)
        processor = FLaLLMProcessor(video_processor=part, tokenizer=tokenizer)
        rows = Dataset.from_list([{"video": str(path), "text": "a"}]).cast_column("video", Video(decode=False))
        arguments = AugmentationArguments(frame_jitter=jitter, speed=0.2 if jitter else 0.0)
        augmentation = ClipAugmentation(arguments, VideoArguments(frame_size=36, crop_size=32, max_num_frames=None))
        for kind in (None, augmentation):
            clips = SignClipDataset(rows, processor, augmentation=kind)
            (longest,) = clips.longest_lengths()
            lengths = {len(clips.clip_of(0, seed)["frames"]) for seed in range(8)}
            assert max(lengths) <= longest <= math.ceil(math.ceil(50 * fraction) / 0.8)
            assert max(lengths) >= math.floor(50 * fraction / (1.2 if kind else 1))


def test_features_of_a_taught_processor_are_those_of_the_same_encoder(tmp_path):
    encoder, part = tiny_vision_model(), FLaLLMVideoProcessor()
    before = fingerprint_of_features(encoder, modality_of(part))
    part.training_fps = [25.0, 25.0]
    assert fingerprint_of_features(encoder, modality_of(part)) == before
    usual, fast = (row_of(write_video(tmp_path / f"{rate}.mp4", counting_frames(rate), fps=rate)) for rate in (25, 50))
    tempos = [modality_of(part).tempo(row) for row in (usual, fast)]
    assert tempos == [1.0, pytest.approx(0.5)]
    keys = [key_of("digest", None, None, 0, tempo) for tempo in tempos]
    assert keys[0] == key_of("digest", None, None, 0) != keys[1]
    assert modality_of(FLaLLMVideoProcessor()).tempo(fast) == 1.0
    assert modality_of(VisualFeatureExtractor(8)).tempo({}) == 1.0
    part.frame_sampling_rate = 0.5
    assert fingerprint_of_features(encoder, modality_of(part)) != before


@pytest.mark.slow
@pytest.mark.parametrize("stage", ["visual_initialing", "streamed", "llm_fine_tuning"])
def test_training_learns_them_at_its_end(stage, tmp_path):
    flags, train, more = {
        "visual_initialing": (stage1_flags, visual_initialing.train, {}),
        "streamed": (stage1_flags, visual_initialing.train, {"streaming": True}),
        "llm_fine_tuning": (stage2_flags, llm_fine_tuning.train, {}),
    }[stage]
    train(flags(tmp_path / "run", max_steps=1, **more))
    assert load(tmp_path / "run")[1].modality.part.training_fps == [25.0, 25.0]
