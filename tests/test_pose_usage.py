"""Whatever works with videos works with poses: the pipeline, long clips, commands, saved models."""

import json
import re
from dataclasses import replace
from pathlib import Path

import datasets
import numpy as np
import pytest
import torch
from huggingface_hub import snapshot_download
from mini_hub import MiniHub, connect
from signing_poses import FRAMES_PER_SECOND
from test_model_card import record_of
from tiny_corpus import flags
from tiny_pose_models import made_poses, pose_file, pose_pipeline, pose_processor
from transformers import pipeline
from transformers.pipelines.pt_utils import KeyDataset
from video_files import counting_frames, write_video
from without_our_packages import run_without_our_packages

import processing.modality_poses_slt as modality_of_poses
import processing.poses_of_videos_slt as poses_of_videos
from modeling_flallm import SignLanguageTranslationPipeline
from modeling_flallm.long_videos_slt import _part_of_clip
from processing import Poses, write_poses
from train_scripts.commands import calibrate, evaluate_model, extract_features, push_to_hub, translate
from train_scripts.hub.model_card import render

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
    with pytest.raises(ValueError, match="has no times"):
        translator(poses, start=0.6)
    in_time = translator(poses, start=0.6, source_fps=FRAMES_PER_SECOND, return_timestamps=True)
    row = {"poses": poses, "start": 0.6, "end": None, "frames_per_second": FRAMES_PER_SECOND}
    assert translator(row, return_timestamps=True) == in_time
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
    translator = pose_pipeline(extractor="mediapipe 0.10.21 holistic")
    translator(str(video))
    assert extracted == [("talk.mp4", "mediapipe", 0.0, None)]


def test_without_an_extractor_a_video_says_what_to_install(translator, video, monkeypatch):
    monkeypatch.setattr("importlib.util.find_spec", lambda name, *others: None)
    with pytest.raises(ValueError, match=re.escape('pip install "flallm[rtmlib]" or pip install "flallm[mediapipe]"')):
        translator(str(video))


# Commands


def corpus_of_poses(folder: Path, num_clips: int) -> Path:
    for split in ("train", "dev", "test"):
        (folder / split / "poses").mkdir(parents=True)
        names = [f"poses/{index}.safetensors" for index in range(num_clips)]
        for name in names:
            pose_file(folder / split / name, [("sign", np.random.uniform(0.8, 1.6))])
        rows = [f"{name},w{4 + index} w5 w6" for index, name in enumerate(names)]
        (folder / split / "metadata.csv").write_text("\n".join(["poses,text", *rows, ""]))
    return folder


def openpose_folder(folder: Path, poses: Poses) -> Path:
    """One file for each frame, with the body's 18 points of OpenPose's COCO layout and both hands."""
    folder.mkdir()
    points = np.concatenate([poses.keypoints, poses.scores[..., None]], axis=-1)
    neck = points[:, [5, 6]].mean(1, keepdims=True)
    order = [0, 6, 8, 10, 5, 7, 9, 12, 14, 16, 11, 13, 15, 2, 1, 4, 3]
    body = np.concatenate([points[:, order[:1]], neck, points[:, order[1:]]], axis=1)
    parts = {"pose": body, "hand_left": points[:, 91:112], "hand_right": points[:, 112:133]}
    for frame in range(len(points)):
        person = {f"{part}_keypoints_2d": values[frame].flatten().tolist() for part, values in parts.items()}
        (folder / f"clip_{frame:012d}_keypoints.json").write_text(json.dumps({"people": [person]}))
    return folder


def test_a_folder_of_openpose_is_a_clip(translator, tmp_path):
    folder = openpose_folder(tmp_path / "clip", made_poses(SENTENCE))
    assert translate.find_videos([str(folder)], model="not needed") == [folder]
    (answer,) = translator.translate_long(str(folder), [(0.5, 2.0)], source_fps=FRAMES_PER_SECOND, **WITH_SCORE)
    alone = translator(str(folder), start=0.5, end=2.0, source_fps=FRAMES_PER_SECOND, **WITH_SCORE)
    assert same(answer, alone)
    assert alone["score"] != translator(str(folder), **WITH_SCORE)["score"]


@pytest.mark.slow
def test_commands_translate_score_calibrate_and_keep_features(translator, talk, tmp_path, capsys):
    data, model = corpus_of_poses(tmp_path / "data", num_clips=20), tmp_path / "model"
    translator.save_pretrained(model)
    files = sorted((data / "test" / "poses").iterdir())
    expected = [translator(str(path))["translation_text"] for path in files]
    on_cpu = {"device": "cpu", "dtype": "float32"}
    table = flags(model=model, format="jsonl", output=tmp_path / "translations.jsonl", **on_cpu)
    assert translate.main([*table, str(data / "test")]) == 0
    rows = [json.loads(line) for line in (tmp_path / "translations.jsonl").read_text().splitlines()]
    assert [row["text"] for row in rows] == expected
    assert translate.main([*flags(model=model, **on_cpu), "--long", "--srt", str(talk)]) == 0
    assert talk.with_suffix(".srt").read_text().count("-->") == 3
    assert translate.main([*flags(model=model, quantization="int8"), str(files[0])]) == 0
    scores = flags(model=model, dataset=data, split="test", output_dir=tmp_path / "scores", disable_tqdm=True)
    assert evaluate_model.main([*scores, "--device", "cpu"]) == 0
    predictions = (tmp_path / "scores" / "predictions.jsonl").read_text().splitlines()
    assert sorted(json.loads(line)["prediction"] for line in predictions) == sorted(expected)
    features = {"dataset": data, "vision_model_name_or_path": model, "feature_cache_dir": tmp_path / "cache"}
    assert extract_features.main(flags(**features, output_dir=tmp_path / "features", **on_cpu)) == 0
    assert len(list((tmp_path / "features" / "test").glob("*.safetensors"))) == 20
    assert list((tmp_path / "cache").rglob("*.arrow"))
    assert calibrate.main(flags(model=model, dataset=data, split="dev", least_chrf=1)) in (0, 2)
    assert "Traceback" not in capsys.readouterr().err


# Saved models


REMOTE_CODE_SCRIPT = """
import json, sys
from transformers import AutoModel, AutoProcessor, pipeline

folder, clip = sys.argv[1:]
translator = pipeline("sign-language-translation", model=folder, trust_remote_code=True, device="cpu")
answers = [translator(clip, return_scores=True), *translator.translate_long(clip, return_scores=True)]
model = AutoModel.from_pretrained(folder, trust_remote_code=True)
processor = AutoProcessor.from_pretrained(folder, trust_remote_code=True)
tokens = model.eval().generate(**processor(poses=clip, return_tensors="pt"))
print(json.dumps([answers, processor.batch_decode(tokens)]))
"""


@pytest.mark.slow
def test_a_model_of_poses_works_where_nothing_of_ours_is(translator, talk, tmp_path):
    translator.save_pretrained(tmp_path / "model")
    printed = run_without_our_packages(REMOTE_CODE_SCRIPT, str(tmp_path / "model"), str(talk), folder=tmp_path)
    answers, texts = json.loads(printed)
    expected = [translator(str(talk), **WITH_SCORE), *translator.translate_long(str(talk), **WITH_SCORE)]
    assert len(answers) == 4 and texts == [expected[0]["translation_text"]]
    assert all(same(answer, each) for answer, each in zip(answers, expected, strict=True))


def test_the_card_says_what_the_model_sees_and_what_it_does_not(monkeypatch):
    run = record_of("visual_initialing")
    card = render(replace(run, modality="poses", data=run.data | {"made_with": "mediapipe 0.10.21 holistic"}))
    for text in (
        "This model follows the poses of a signer of",
        "The poses were made with **mediapipe 0.10.21 holistic**.",
        'inputs = processor(poses="clip.pose", return_tensors="pt")',
        "torch torchvision av sentencepiece pose-format`",
        "Eyebrows, gaze, cheeks and tongue are lost",
        "no training clip was mirrored",
    ):
        assert text in card
    assert "pixels" not in card and "were made with" not in render(run)


def test_a_model_keeps_whose_poses_it_was_trained_on(clip, tmp_path):
    modality = pose_pipeline().processor.modality
    modality.learn_origin([str(clip)])
    assert modality.origin() is None
    modality.learn_origin([str(pose_file(tmp_path / "made.npz", SENTENCE, extractor="mediapipe 0.10.21"))])
    assert modality.origin() == "mediapipe 0.10.21"


# Hand crops


def test_a_long_video_also_shows_its_hands(video, extracted, monkeypatch):
    """To a model that sees them: each piece with the crops of its part."""
    modality = pose_processor(hand_crops=True).modality
    asked = []

    def read(path, poses, indices, chosen, start, end):
        asked.append((round(start, 1), round(end, 1)))
        return "crops"

    monkeypatch.setattr(modality_of_poses, "read_hand_crops", read)
    pieces = list(modality.read_segments(str(video), [(0.0, 2.0), (3.0, 6.0)]))
    assert [piece["video_metadata"]["hand_crops"] for piece in pieces] == ["crops"] * 2
    assert asked == [(0.0, 2.0), (3.0, 6.0)] and len(extracted) == 1
    whole, part = (_part_of_clip(pieces[0], "pose_values", 0, stop) for stop in (50, 20))
    assert "hand_crops" in whole["video_metadata"] and "hand_crops" not in part["video_metadata"]
    assert len(part["pose_values"]) == len(part["video_metadata"]["frames_indices"]) == 20


# The Hub


def test_a_model_of_poses_is_pushed_and_translates_from_there(translator, clip, tmp_path, monkeypatch):
    translator.save_pretrained(tmp_path / "model")
    (tmp_path / "model" / "README.md").write_text(render(replace(record_of("visual_initialing"), modality="poses")))
    with MiniHub() as hub:
        connect(monkeypatch, hub.url, hub.token)
        assert push_to_hub.main(flags(model=tmp_path / "model", repo_id="me/poses")) == 0
        folder = snapshot_download("me/poses", cache_dir=tmp_path / "cache")
    there = pipeline("sign-language-translation", folder)
    assert same(there(str(clip), **WITH_SCORE), translator(str(clip), **WITH_SCORE))
