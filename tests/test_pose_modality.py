"""Poses as a modality: data sets, parts, times, names, and what cards say."""

import csv
import json

import datasets
import numpy as np
import pytest
import torch
from pose_sources import moving
from test_pose_extractor import naively
from test_pose_files import random_poses, with_scores

from processing import MODALITIES, PoseFeatureExtractor, Poses, write_poses
from processing.modalities_slt import modality_of_input
from processing.modality_poses_slt import PoseModality
from train_scripts.arguments.data_arguments import AugmentationArguments, DatasetArguments, VideoArguments
from train_scripts.clips.augmentation import ClipAugmentation
from train_scripts.clips.data import ClipDataset
from train_scripts.clips.splits import load_split

LENGTHS = [30, 12, 8]


@pytest.fixture
def modality() -> PoseModality:
    return PoseModality(PoseFeatureExtractor())


def write_folder(root, rows: list[dict], suffix: str = ".safetensors", **stated) -> list[Poses]:
    """A data set whose split `train` has these rows, each with poses of its own file."""
    folder = root / "train"
    (folder / "poses").mkdir(parents=True)
    written = []
    for row, length in zip(rows, LENGTHS, strict=False):
        poses = random_poses(length, unseen=0, **stated)
        write_poses(folder / row["poses"], poses)
        written.append(poses)
    with (folder / "metadata.csv").open("w", newline="") as file:
        table = csv.DictWriter(file, list(rows[0]))
        table.writeheader()
        table.writerows(rows)
    return written


def load(root, split: str = "train") -> datasets.Dataset:
    return load_split(DatasetArguments([str(root)]), split)


def test_it_is_found_by_its_names(modality):
    assert PoseModality in MODALITIES and modality_of_input("pose_values") is PoseModality
    assert PoseModality.is_read_by(PoseFeatureExtractor())
    part = PoseModality.build_part(VideoArguments(0.5, max_num_frames=7))
    assert (part.frame_sampling_rate, part.max_num_frames, part.keep_aspect_ratio) == (0.5, 7, True)
    assert PoseModality.split_file_name("a/clips.npz#clip_1") == ("a/clips.npz", "#clip_1")
    with pytest.raises(ValueError, match=r"poses must be in a file of .pose, .safetensors, .npz, .npy, .pkl, .pic"):
        PoseModality.split_file_name("clip.mp4")


@pytest.mark.parametrize("suffix", [".safetensors", ".npz", ".pose"])
def test_folders_with_poses(suffix, modality, tmp_path):
    rows = [{"poses": f"poses/{index}{suffix}", "text": f"sentence {index}"} for index in range(3)]
    written = write_folder(tmp_path, rows, frames_per_second=25.0, width=640.0, height=480.0)
    clips = ClipDataset(load(tmp_path), modality)
    assert clips.longest_lengths() == LENGTHS
    for clip, poses in zip(clips, written, strict=True):
        np.testing.assert_array_equal(clip["poses"][..., :2], poses.keypoints)
        np.testing.assert_array_equal(clip["poses"][..., 2], poses.scores)
    batch = modality.collate(list(clips))
    assert batch["pose_values"].shape == (3, 30, 69, 3) and batch["pose_attention_mask"].sum(1).tolist() == LENGTHS
    np.testing.assert_allclose(batch["pose_values"][2, :8], naively(written[2].keypoints, written[2].scores), atol=1e-4)


def test_poses_beside_videos(modality, tmp_path):
    """A model reads the clips of its own modality; the table may have both."""
    rows = [{"poses": "poses/a.npz", "file_name": "a.mp4", "text": "it rains"}]
    write_folder(tmp_path, rows)
    (tmp_path / "train" / "a.mp4").write_bytes(b"a video")
    clips = load(tmp_path)
    assert {"poses", "video"} <= set(clips.column_names)
    assert len(ClipDataset(clips, modality)[0]["poses"]) == 30


def test_parts_of_files(modality, tmp_path):
    rows = [
        {"poses": "poses/long.npz", "text": "it rains", "start": "0.2", "end": "0.6"},
        {"poses": "poses/long.npz", "text": "it snows", "start": "0.6", "end": ""},
    ]
    write_folder(tmp_path, rows[:1], frames_per_second=25.0)
    (tmp_path / "train" / "metadata.csv").write_text(
        "poses,text,start,end\nposes/long.npz,it rains,0.2,0.6\nposes/long.npz,it snows,0.6,1.2\n"
    )
    dataset = load(tmp_path)
    clips = ClipDataset(dataset, modality)
    whole = modality.part.read(f"{tmp_path}/train/poses/long.npz")
    assert clips.longest_lengths() == [10, 15]
    assert torch.equal(clips[0]["poses"], whole[5:15]) and torch.equal(clips[1]["poses"], whole[15:30])
    assert modality.count(dataset[0]) == 10 and modality.rate(dataset[0]) == 25


def test_arrays_in_a_table(modality, tmp_path):
    folder = tmp_path / "train"
    folder.mkdir(parents=True)
    frames = with_scores(moving(4)).round(2)
    row = {"poses": frames.tolist(), "text": "it rains"}
    (folder / "metadata.jsonl").write_text(json.dumps(row) + "\n")
    clips = ClipDataset(load(tmp_path), modality)
    np.testing.assert_allclose(clips[0]["poses"], frames, rtol=1e-5)
    assert clips.longest_lengths() == [4]


@pytest.mark.parametrize("name", ["pose", "Keypoints", "POSES"])
def test_other_names_of_the_column(name, modality, tmp_path):
    write_folder(tmp_path, [{"poses": "poses/a.npz", "text": "it rains"}])
    (tmp_path / "train" / "metadata.csv").write_text(f"{name},text\nposes/a.npz,it rains\n")
    assert len(ClipDataset(load(tmp_path), modality)) == 1


def test_augmented_lengths_are_never_above_the_longest(modality, tmp_path):
    write_folder(tmp_path, [{"poses": f"poses/{index}.npz", "text": "x"} for index in range(3)])
    video = VideoArguments(1.0, max_num_frames=20)
    modality = PoseModality(PoseModality.build_part(video))
    augmentation = ClipAugmentation(AugmentationArguments(speed=0.5, frame_drop=0.1, joint_noise=0.01), video)
    clips = ClipDataset(load(tmp_path), modality, augmentation)
    for epoch in range(10):
        clips.set_epoch(epoch)
        lengths = [modality.length_of(clip) for clip in clips]
        assert all(length <= most for length, most in zip(lengths, clips.longest_lengths(), strict=True))


def test_clips_to_translate(modality, tmp_path):
    poses = random_poses(50, frames_per_second=20.0)
    write_poses(tmp_path / "clip.pose", poses)
    values, metadata = modality.open(str(tmp_path / "clip.pose"), 0.5, 2.0)
    assert torch.equal(values, modality.part.read(poses)[10:40])
    assert metadata == {
        "fps": 20.0,
        "total_num_frames": 30,
        "frames_indices": list(range(30)),
        "duration": 1.5,
        "start_in_seconds": 0.5,
    }
    prepared = modality.prepare([values, values[:7]])
    assert prepared["pose_values"].shape == (2, 30, 69, 3) and prepared["pose_attention_mask"].sum() == 37
    without_times = modality.open(Poses(poses.keypoints, poses.scores))[1]
    assert without_times["fps"] is None and without_times["duration"] is None
    assert modality.open(Poses(poses.keypoints, poses.scores), 1.0, rate=10.0)[1]["total_num_frames"] == 40


def test_one_clip_and_several(modality):
    poses, array = random_poses(4), with_scores(moving(4))
    for clip in (poses, "clip.pose", array, torch.tensor(array), array.tolist(), array.reshape(4, -1)):
        assert modality.is_one(clip) and len(modality.as_list(clip)) == 1
    for clips in ([poses, poses], ["a.pose", "b.pose"], (array, array), np.stack([array, array])):
        assert not modality.is_one(clips) and len(modality.as_list(clips)) == 2
    with pytest.raises(ValueError, match="`poses` is empty; pass the poses of at least one clip."):
        modality.as_list([])


def test_columns_on_the_hub():
    PoseModality.check_column(datasets.Array3D((None, 133, 3), "float32"), "me/x")
    with pytest.raises(ValueError, match="The column poses of the data set me/x names files, which are read from"):
        PoseModality.check_column(datasets.Value("string"), "me/x")
    with pytest.raises(ValueError, match="must hold arrays of numbers .datasets.Array3D, or lists of lists of lists"):
        PoseModality.check_column(datasets.Array2D((None, 258), "float32"), "me/x")


def test_the_extractor_of_the_training_clips_is_learned(tmp_path, monkeypatch):
    told: list[str] = []
    monkeypatch.setattr("processing.modality_poses_slt.logger.warning_once", told.append)
    names = {"a.npz": "rtmlib rtmw-x", "b.safetensors": "rtmlib rtmw-x", "c.npz": None, "d.npz": "mediapipe 0.10.21"}
    for name, extractor in names.items():
        write_poses(tmp_path / name, random_poses(extractor=extractor))
    write_poses(tmp_path / "e.pose", random_poses())
    paths = {name[0]: str(tmp_path / name) for name in (*names, "e.pose")}
    modality = PoseModality(PoseFeatureExtractor())
    modality.learn_origin(paths[key] for key in "ce")
    assert modality.part.extractor is None
    modality.learn_origin(paths[key] for key in "abce")
    assert modality.part.extractor == "rtmlib rtmw-x" and not told
    modality.learn_origin(paths[key] for key in "abcd")
    assert modality.part.extractor == "rtmlib rtmw-x" and "hold poses of mediapipe 0.10.21, rtmlib rtmw-x;" in told[0]
    modality.learn_origin([paths["d"]])
    assert modality.part.extractor == "mediapipe 0.10.21" and "the model knows those of rtmlib rtmw-x." in told[1]


def test_what_cards_say():
    limits = PoseModality.limits({"frame_sampling_rate": 1, "horizontal_flip": 0.5})
    assert limits[0].startswith("It sees 69 points of the body, the hands and the face in every frame, not")
    assert any("mirrored with probability 0.5" in limit for limit in limits)
    assert "a fraction of 0.5 of the frames" in PoseModality.limits({"frame_sampling_rate": 0.5})[0]


def test_ten_thousand_frames_are_thinned(modality, tmp_path):
    write_poses(tmp_path / "long.safetensors", random_poses(10_000, frames_per_second=50.0))
    batch = modality.part([str(tmp_path / "long.safetensors")], return_tensors="pt")
    assert batch["pose_values"].shape == (1, 256, 69, 3) and torch.isfinite(batch["pose_values"]).all()


def test_two_frames_are_enough(modality):
    assert modality.part(with_scores(moving(2)))["pose_values"].shape == (1, 2, 69, 3)
