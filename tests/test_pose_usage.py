"""Whatever works with videos works with poses: the pipeline, long clips, commands, saved models."""

import re
from pathlib import Path

import datasets
import numpy as np
import pytest
import torch
from signing_poses import FRAMES_PER_SECOND
from tiny_pose_models import made_poses, pose_file, pose_pipeline
from transformers.pipelines.pt_utils import KeyDataset
from video_files import counting_frames, write_video

import processing.poses_of_videos_slt as poses_of_videos
from modeling_flallm import SignLanguageTranslationPipeline
from processing import Poses, write_poses

SENTENCE = [("sign", 2.4)]
LONG = [("sign", 2.4), ("rest", 0.6), ("sign", 3.2), ("rest", 4.0), ("sign", 2.0)]
WITH_SCORE = {"return_scores": True}


@pytest.fixture
def translator() -> SignLanguageTranslationPipeline:
    return pose_pipeline()


@pytest.fixture
def clip(tmp_path) -> Path:
    return pose_file(tmp_path / "clip.safetensors", SENTENCE)


@pytest.fixture
def talk(tmp_path) -> Path:
    return pose_file(tmp_path / "talk.npz", LONG)


def same(answer: dict, expected: dict) -> bool:
    scores = (answer.pop("score"), expected["score"])
    return scores[0] == pytest.approx(scores[1], abs=1e-4) and answer == {**answer, **{
        name: value for name, value in expected.items() if name != "score"
    }}  # fmt: skip


# Inputs


def test_every_form_of_a_clip_gives_the_answer_of_its_file(translator, tmp_path):
    poses = made_poses(SENTENCE)
    array = np.concatenate([poses.keypoints, poses.scores[..., None]], axis=-1)
    for name in ("clip.safetensors", "clip.npz"):
        write_poses(tmp_path / name, poses)
    expected = translator(str(tmp_path / "clip.npz"), **WITH_SCORE)
    assert expected["score"] != translator(made_poses(SENTENCE), **WITH_SCORE)["score"]
    forms = [tmp_path / "clip.safetensors", str(tmp_path / "clip.npz"), poses, array, torch.from_numpy(array)]
    prepared = translator.processor(poses=poses, return_tensors="pt")["pose_values"][0]
    forms += [{"poses": poses}, {"keypoints": str(tmp_path / "clip.npz")}, {"pose_values": prepared}]
    for form in forms:
        assert same(translator(form, **WITH_SCORE), expected)
    for answer in translator(forms[:3], batch_size=2, **WITH_SCORE):
        assert same(answer, expected)


def test_a_part_is_named_by_seconds_also_in_a_row(translator, clip):
    expected = translator(str(clip), start=0.6, end=1.8, **WITH_SCORE)
    assert expected["score"] != translator(str(clip), **WITH_SCORE)["score"]
    assert same(translator({"poses": str(clip), "start": 0.6, "end": 1.8, "text": "a"}, **WITH_SCORE), expected)
    poses = made_poses(SENTENCE, rate=None)
    with pytest.raises(ValueError, match="no frame rate"):
        translator(poses, start=0.6)
    in_time = translator(poses, start=0.6, source_fps=FRAMES_PER_SECOND, return_timestamps=True)
    assert all(0.6 <= word["start"] <= word["peak"] <= word["end"] <= 2.4 for word in in_time["words"])


def test_a_data_set_with_poses_beside_videos(translator, clip, tmp_path):
    other = pose_file(tmp_path / "other.npz", SENTENCE)
    columns = {"poses": [str(clip), str(other)], "start": [0.2, None], "end": [1.4, None], "video": ["none.mp4"] * 2}
    data_set = datasets.Dataset.from_dict(columns)
    expected = [translator(str(clip), start=0.2, end=1.4, **WITH_SCORE), translator(str(other), **WITH_SCORE)]
    for inputs in (data_set, data_set.to_iterable_dataset(), iter(columns["poses"])):
        answers = list(translator(inputs, **WITH_SCORE))
        if not isinstance(inputs, datasets.Dataset | datasets.IterableDataset):
            expected[0] = translator(str(clip), **WITH_SCORE)
        assert all(same(answer, each) for answer, each in zip(answers, expected, strict=True))
    assert len(list(translator(KeyDataset(data_set, "poses")))) == 2


def test_prepared_poses_of_another_shape_are_refused(translator):
    with pytest.raises(ValueError, match=re.escape("must have the shape (frames, 69, 3), got (10, 133, 3).")):
        translator({"pose_values": torch.zeros(10, 133, 3)})


# Words


def test_words_get_their_seconds(translator, clip):
    answer = translator(str(clip), start=0.4, return_timestamps=True, return_attention=True)
    assert answer["words"] and len(answer["token_times"]) == round(2.0 * FRAMES_PER_SECOND)
    assert answer["token_times"][0] == pytest.approx(0.4) and answer["token_times"][-1] < 2.4
    for word in answer["words"]:
        assert 0.4 <= word["start"] <= word["peak"] <= word["end"] <= 2.4


# Long clips


def test_a_long_clip_is_translated_sentence_by_sentence(translator, talk):
    segments = translator.processor.modality.split_at_rests(str(talk))
    answers = list(translator.translate_long(str(talk), **WITH_SCORE))
    assert len(answers) == len(segments) == 3
    assert [answer["start"] for answer in answers] == pytest.approx([0, 2.7, 9.7], abs=0.3)
    for segment, answer in zip(segments, answers, strict=True):
        alone = translator(str(talk), start=segment.start, end=segment.end, **WITH_SCORE)
        assert same(answer, alone)
    parts = [(0.5, 1.5), (3.0, 4.0)]
    chosen = list(translator.translate_long({"poses": str(talk)}, parts, batch_size=2, **WITH_SCORE))
    assert [(answer["start"], answer["end"]) for answer in chosen] == parts
    assert same(chosen[1], translator(str(talk), start=3.0, end=4.0, **WITH_SCORE))


def test_words_of_a_long_clip_have_the_seconds_of_the_file(translator, talk):
    *_, last = translator.translate_long(str(talk), return_timestamps=True)
    assert last["words"]
    assert all(last["start"] - 0.1 <= word["start"] <= word["end"] <= last["end"] + 0.1 for word in last["words"])


def test_only_the_part_of_a_long_clip_that_was_asked_for(translator, talk):
    (answer,) = translator.translate_long(str(talk), start=3.0, end=6.2)
    assert (answer["start"], answer["end"]) == pytest.approx((3.0, 6.2), abs=0.1)


def test_poses_without_a_frame_rate_have_no_rests(translator):
    poses = made_poses(LONG, rate=None)
    with pytest.raises(ValueError, match="rests are found by their seconds. Pass `source_fps`."):
        translator.translate_long(poses)
    assert len(list(translator.translate_long(poses, source_fps=FRAMES_PER_SECOND))) == 3


# Videos


@pytest.fixture
def extracted(monkeypatch) -> list[tuple]:
    """What an extractor that is made up was asked for: it finds the poses of `LONG` in every video."""
    calls, poses = [], made_poses(LONG)

    def extract(video: Path, extractor: str | None, start: float | None, end: float | None) -> Poses:
        calls.append((video.name, extractor, start, end))
        first = round((start or 0) * FRAMES_PER_SECOND)
        last = None if end is None else round(end * FRAMES_PER_SECOND)
        return made_part(poses, first, last)

    monkeypatch.setattr(poses_of_videos, "extract_poses", extract)
    poses_of_videos._kept.clear()
    return calls


def made_part(poses: Poses, first: int, last: int | None) -> Poses:
    part = slice(first, last)
    return Poses(**{**vars(poses), "keypoints": poses.keypoints[part], "scores": poses.scores[part]})


@pytest.fixture
def video(tmp_path) -> Path:
    return write_video(tmp_path / "talk.mp4", counting_frames(10))


def test_a_video_is_read_by_its_poses_which_are_extracted_once(translator, video, extracted):
    segments = translator.processor.modality.split_at_rests(str(video), start=1.0)
    answers = list(translator.translate_long(str(video), segments, **WITH_SCORE))
    assert len(answers) == 3 and extracted == [("talk.mp4", None, 1.0, None)]
    alone = translator({"video": {"path": str(video), "bytes": None}, "start": 3.2, "end": 6.0}, **WITH_SCORE)
    assert same(alone, translator(str(video), start=3.2, end=6.0, **WITH_SCORE)) and len(extracted) == 1
    assert answers[-1]["end"] == pytest.approx(12.2, abs=0.1)
    translator(str(video))
    assert extracted[1:] == [("talk.mp4", None, 0.0, None)]


def test_a_video_is_read_by_the_extractor_of_the_training(video, extracted):
    translator = pose_pipeline(settings={"extractor": "mediapipe 0.10.21 holistic"})
    translator(str(video))
    assert extracted == [("talk.mp4", "mediapipe", 0.0, None)]


def test_without_an_extractor_a_video_says_what_to_install(translator, video, monkeypatch):
    monkeypatch.setattr("importlib.util.find_spec", lambda name, *others: None)
    with pytest.raises(ValueError, match=re.escape('pip install "flallm[rtmlib]" or pip install "flallm[mediapipe]"')):
        translator(str(video))
