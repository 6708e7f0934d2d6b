"""Crops of the hands: which frames, where, and their pixels."""

import math
import re
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
import torch
from video_files import counting_frames, frame_numbers, write_video

from processing import poses_of_videos_slt
from processing.feature_extraction_poses_slt import PoseFeatureExtractor
from processing.hand_crops_slt import (
    CROP_SIZE,
    FINGERTIPS,
    HAND_CROP_NAMES,
    HandCrops,
    frames_to_crop,
    pad_hand_crops,
    read_hand_crops,
)
from processing.modality_poses_slt import PoseModality
from processing.pose_files_slt import write_poses
from processing.pose_layouts_slt import LEFT_HAND, RIGHT_HAND
from processing.poses_slt import Poses
from train_scripts.arguments.data_arguments import AugmentationArguments, DataArguments, VideoArguments
from train_scripts.clips.augmentation import ClipAugmentation
from train_scripts.clips.data import ClipDataset
from train_scripts.clips.splits import load_split

LEFT, RIGHT = list(LEFT_HAND), list(RIGHT_HAND)
MEAN, STD = torch.tensor([0.485, 0.456, 0.406]), torch.tensor([0.229, 0.224, 0.225])


def scores_of(num_frames: int, **hands: float) -> np.ndarray:
    scores = np.full((num_frames, 133), 0.9, np.float32)
    for name, score in hands.items():
        scores[:, {"left": LEFT, "right": RIGHT}[name]] = score
    return scores


def poses_with_hands(num_frames: int, left: tuple, right: tuple, extent: int = 20, **facts) -> Poses:
    """Both hands fill squares of this extent, centred at these places, in every frame."""
    keypoints = np.zeros((num_frames, 133, 2), np.float32)
    spread = np.stack([np.linspace(-0.5, 0.5, 21), np.linspace(0.5, -0.5, 21)], 1) * extent
    for points, centre in ((LEFT, left), (RIGHT, right)):
        keypoints[:, points] = np.float32(centre) + spread
    scores = np.zeros((num_frames, 133), np.float32)
    scores[:, LEFT + RIGHT] = 0.9
    return Poses(keypoints, scores, **facts)


def picture_of_coordinates(height: int = 60, width: int = 80) -> torch.Tensor:
    """One frame whose red channel is x + 100 and green y + 100, so that a crop says where it was."""
    rows, columns = torch.meshgrid(torch.arange(height), torch.arange(width), indexing="ij")
    return torch.stack([columns + 100, rows + 100, torch.zeros_like(rows)]).to(torch.uint8)[None]


def crops_of(poses: Poses, video=None, chosen=None, **options) -> HandCrops:
    video = picture_of_coordinates() if video is None else video
    return read_hand_crops(video, poses, range(len(poses)), chosen or ([0], [0]), **options)


# Which frames


@pytest.mark.parametrize("seed", [None, 7])
@pytest.mark.parametrize("num_frames", [1, 10, 11, 256])
def test_a_tenth_of_the_frames_rounded_up_is_cropped_each_once_and_in_order(num_frames, seed):
    for frames in frames_to_crop(np.random.rand(num_frames, 133).astype(np.float32) * 0.3 + 0.5, seed):
        assert len(frames) == math.ceil(num_frames / 10)
        assert frames == sorted(set(frames)) and frames[0] >= 0 and frames[-1] < num_frames


def test_only_frames_that_show_the_hand_are_cropped():
    scores = scores_of(40, left=0.29)
    for frame in (3, 17, 31):
        scores[frame, LEFT] = 0.31
    left, right = frames_to_crop(scores)
    assert left[0] in (3, 17, 31) and len(left) == 1 and len(right) == 4
    assert frames_to_crop(scores_of(5, left=0.29, right=0.0), seed=1) == ([], [])


def test_a_seed_draws_the_same_frames_and_another_seed_others():
    scores = np.random.rand(200, 133).astype(np.float32) * 0.3 + 0.5
    assert frames_to_crop(scores, 1) == frames_to_crop(scores, 1)
    assert frames_to_crop(scores, 1) != frames_to_crop(scores, 2)
    left, right = frames_to_crop(scores, 1)
    assert left != right


def test_drawn_frames_follow_the_weights():
    """One of 10 frames: their weights are 0, .1, ..., .9 below the best of the least sure fingertips."""
    scores = scores_of(10)
    for frame in range(10):
        scores[frame, LEFT[FINGERTIPS[frame % 5]]] = 0.9 - 0.08 * frame
    scores[0, LEFT] = 0.9
    counts = Counter(frames_to_crop(scores, seed)[0][0] for seed in range(2000))
    assert counts[0] < 5  # 1e-5 of the weight
    shares = np.array([counts[frame] for frame in range(10)]) / 2000
    assert np.allclose(shares, np.arange(10) / 45, atol=0.04)


def test_evaluation_takes_the_least_sure_frame_of_each_run():
    scores = scores_of(30)
    for frame, lowest in ((4, 0.5), (5, 0.4), (12, 0.6), (25, 0.7), (27, 0.2)):
        scores[frame, LEFT[20]] = lowest
    left, right = frames_to_crop(scores)
    assert left == [5, 12, 27]
    assert right == [0, 10, 20]  # all alike: the first of each run
    assert frames_to_crop(scores) == (left, right)


# Where


def test_the_crop_is_a_square_around_the_hand_with_a_margin():
    crops = crops_of(poses_with_hands(1, (30, 20), (50, 40), width=80, height=60))
    assert crops.pixels.shape == (2, 1, 3, CROP_SIZE, CROP_SIZE) and crops.pixels.dtype == torch.uint8
    for side, (x, y) in enumerate([(30, 20), (50, 40)]):
        red, green, _ = crops.pixels[side, 0].float()
        assert red.min() == 100 + x - 12 and red.max() == 100 + x + 11  # 1.2 x 20 = 24 pixels
        assert green.min() == 100 + y - 12 and green.max() == 100 + y + 11


def test_points_in_the_crop_go_from_0_to_1_and_unseen_ones_to_its_middle():
    poses = poses_with_hands(1, (30, 20), (50, 40), width=80, height=60)
    poses.scores[0, LEFT[5]] = 0
    poses.keypoints[0, LEFT[5]] = 0
    points = crops_of(poses).keypoints[:, 0]
    expected = np.stack([np.linspace(-10, 10, 21), np.linspace(10, -10, 21)], 1) / 24 + 0.5
    assert np.allclose(points[1], expected, atol=1e-6)
    expected[5] = 0.5
    assert np.allclose(points[0], expected, atol=1e-6)


def test_all_crops_of_a_clip_have_the_side_of_the_largest_hand():
    poses = poses_with_hands(2, (30, 30), (50, 30), width=80, height=60)
    poses.keypoints[1, RIGHT] = 40 + (poses.keypoints[1, RIGHT] - [50, 30]) * 1.5
    crops = crops_of(poses, picture_of_coordinates().repeat(2, 1, 1, 1), ([0, 1], [0, 1]))
    for side in (0, 1):
        for red in crops.pixels[side, :, 0].float():
            assert red.max() - red.min() == 35  # 1.2 x 30 = 36 pixels


@pytest.mark.parametrize("centre, corner", [((2, 3), (0, 0)), ((78, 58), (-1, -1)), ((2, 58), (-1, 0))])
def test_a_hand_at_the_edge_is_padded_with_zeros_and_not_lost(centre, corner):
    crop = crops_of(poses_with_hands(1, centre, (40, 30), width=80, height=60)).pixels[0, 0].float()
    assert not crop[:, corner[0], corner[1]].any()
    red = crop[0]
    x_of = centre[0] + 100
    assert abs(float(red[CROP_SIZE // 2, CROP_SIZE // 2]) - x_of) <= 1.5


def test_a_hand_outside_of_the_picture_gives_a_black_crop():
    crops = crops_of(poses_with_hands(1, (-50, -50), (500, 30), width=80, height=60))
    assert crops.frame_indices.tolist() == [[0], [0]] and not crops.pixels.any()


def test_a_runaway_point_makes_no_crop_larger_than_the_picture():
    poses = poses_with_hands(1, (30, 20), (50, 40), width=80, height=60)
    poses.keypoints[0, LEFT[3]] = 1e9
    crops = crops_of(poses)
    assert crops.pixels.shape[-1] == CROP_SIZE
    assert crops.pixels[1, 0, 0].max() >= 178  # up to the picture's right edge


@pytest.mark.parametrize("unit", ["of another size", "fractions"])
def test_keypoints_of_another_unit_are_brought_to_the_video(unit):
    poses = poses_with_hands(1, (30, 20), (50, 40), width=80, height=60)
    expected = crops_of(poses)
    if unit == "fractions":
        poses = Poses(poses.keypoints / np.float32([80, 60]), poses.scores)
    else:
        poses = Poses(poses.keypoints * 4, poses.scores, width=320, height=240)
    found = crops_of(poses)
    assert torch.equal(found.pixels, expected.pixels)
    assert torch.allclose(found.keypoints, expected.keypoints, atol=1e-5)


# From videos


def test_only_the_wanted_frames_are_decoded_and_each_is_the_right_one(tmp_path, monkeypatch):
    video = write_video(tmp_path / "clip.mkv", counting_frames(40), pixel_format="bgr0")
    poses = poses_with_hands(40, (30, 20), (30, 20), frames_per_second=25.0, width=64, height=48)
    indices = list(range(0, 40, 2))  # the clip has every second pose
    from processing import hand_crops_slt

    decoded = []
    decode = hand_crops_slt.decode_video

    def watch(*arguments, **options):
        decoded.append(decode(*arguments, **options))
        return decoded[-1]

    monkeypatch.setattr(hand_crops_slt, "decode_video", watch)
    crops = read_hand_crops(str(video), poses, indices, ([3, 9], [9, 15, 19]))
    assert decoded[0].frame_indices == [6, 18, 30, 38]
    assert crops.frame_indices.tolist() == [[3, 9, -1], [9, 15, 19]]
    assert frame_numbers(crops.pixels[0, :2], 40) == [6, 18]
    assert frame_numbers(crops.pixels[1], 40) == [18, 30, 38]
    assert not crops.pixels[0, 2].any()


def test_poses_of_a_part_and_of_half_the_rate_find_their_frames(tmp_path):
    video = write_video(tmp_path / "clip.mkv", counting_frames(60), pixel_format="bgr0")
    poses = poses_with_hands(10, (30, 20), (30, 20), frames_per_second=12.5, width=64, height=48)  # 0.8 seconds
    crops = read_hand_crops(str(video), poses, range(10), ([0, 9], [5]), start=0.8, end=1.6)
    numbers = frame_numbers(crops.pixels[0], 60) + frame_numbers(crops.pixels[1, :1], 60)
    assert numbers == [21, 39, 31]


def test_without_a_hand_nothing_is_decoded():
    crops = read_hand_crops("no such file.mp4", poses_with_hands(3, (5, 5), (9, 9)), range(3), ([], []))
    assert crops.frame_indices.shape == (2, 0) and crops.pixels.shape[:2] == (2, 0)


def test_a_video_that_is_not_as_long_as_its_poses_is_refused(tmp_path):
    video = write_video(tmp_path / "clip.mkv", counting_frames(50))
    poses = poses_with_hands(100, (30, 20), (30, 20), frames_per_second=25.0)
    message = "The poses last 4.00 seconds and their video 2.00: hand crops need poses of the same part of the same"
    with pytest.raises(ValueError, match=re.escape(message)):
        read_hand_crops(str(video), poses, range(100), ([0], [0]))


# As a batch


def test_crops_are_normalised_and_padded_to_a_batch():
    one = crops_of(poses_with_hands(1, (30, 20), (50, 40), width=80, height=60))
    none = read_hand_crops(None, poses_with_hands(1, (0, 0), (0, 0)), [0], ([], []))
    two = crops_of(
        poses_with_hands(2, (30, 20), (50, 40), width=80, height=60),
        picture_of_coordinates().repeat(2, 1, 1, 1),
        ([0, 1], [1]),
    )
    batch = pad_hand_crops([one, none, two])
    assert batch["hand_pixel_values"].shape == (3, 2, 2, 3, CROP_SIZE, CROP_SIZE)
    assert batch["hand_pixel_values"].dtype == torch.float32
    assert batch["hand_frame_indices"].tolist() == [[[0, -1], [0, -1]], [[-1, -1], [-1, -1]], [[0, 1], [1, -1]]]
    assert batch["hand_frame_indices"].dtype == torch.int64
    assert torch.equal(batch["hand_crop_keypoints"][2], two.keypoints)
    pixels = batch["hand_pixel_values"][0, 1, 0] * STD[:, None, None] + MEAN[:, None, None]
    assert torch.allclose(pixels * 255, one.pixels[1, 0].float(), atol=1e-3)


def test_a_batch_without_any_hand_has_one_empty_place():
    none = read_hand_crops(None, poses_with_hands(1, (0, 0), (0, 0)), [0], ([], []))
    batch = pad_hand_crops([none, none])
    assert batch["hand_frame_indices"].tolist() == [[[-1], [-1]], [[-1], [-1]]]


# From a data set


def folder_with_both(folder: Path, num_frames: int = 40) -> Path:
    """A split `train` of two clips with poses and videos, whose frames say their numbers."""
    split = folder / "train"
    split.mkdir(parents=True)
    for index in range(2):
        write_video(split / f"{index}.mkv", counting_frames(num_frames), pixel_format="bgr0")
        poses = poses_with_hands(num_frames, (30, 20), (40, 30), 16, frames_per_second=25.0, width=64, height=48)
        poses.keypoints[:, :11] = np.random.rand(11, 2) * [64, 48]  # a body
        poses.scores[:, :11] = 0.9
        poses.scores[:, LEFT + RIGHT] = np.random.rand(num_frames, 42) * 0.3 + 0.5
        write_poses(split / f"{index}.safetensors", poses)
    rows = ["file_name,poses,text", *(f"{index}.mkv,{index}.safetensors,sentence {index}" for index in range(2))]
    (split / "metadata.csv").write_text("\n".join(rows) + "\n")
    return folder


def clips_of(folder: Path, augmentation: ClipAugmentation | None = None, **values) -> ClipDataset:
    modality = PoseModality(PoseFeatureExtractor(hand_crops=True, **values))
    split = load_split(DataArguments(dataset=[str(folder)]), "train")
    return ClipDataset(split, modality, augmentation)


def test_a_data_set_gives_crops_of_the_frames_that_it_gives(tmp_path):
    clips = clips_of(folder_with_both(tmp_path), max_num_frames=10)  # every fourth frame
    first, second = clips[0], clips[1]
    assert first["poses"].shape == (10, 133, 3)
    for crops in (first["hand_crops"], second["hand_crops"]):
        assert crops.frame_indices.shape == (2, 1)
        for side in (0, 1):
            (number,) = frame_numbers(crops.pixels[side], 40)
            assert number == 4 * int(crops.frame_indices[side, 0])
    batch = clips.modality.collate([first, second])
    assert set(batch) == set(clips.modality.input_names)
    assert batch["hand_pixel_values"].shape == (2, 2, 1, 3, CROP_SIZE, CROP_SIZE)


def test_training_draws_other_frames_in_each_epoch_and_evaluation_never(tmp_path):
    folder = folder_with_both(tmp_path)
    video = VideoArguments(max_num_frames=None, frame_sampling_rate=1.0)
    training = clips_of(folder, ClipAugmentation(AugmentationArguments(frame_jitter=False), video))

    def drawn(clips: ClipDataset, epoch: int) -> list:
        clips.set_epoch(epoch)
        return clips[0]["hand_crops"].frame_indices.tolist()

    assert drawn(training, 0) == drawn(training, 0)
    assert len({str(drawn(training, epoch)) for epoch in range(5)}) > 1
    evaluation = clips_of(folder)
    assert len({str(drawn(evaluation, epoch)) for epoch in range(3)}) == 1


def test_a_mirrored_signer_has_mirrored_crops_on_the_other_side(tmp_path):
    """Points of a crop are where the augmented pose has them, and its pixels are those around them."""
    folder = folder_with_both(tmp_path)
    video = VideoArguments(max_num_frames=None, frame_sampling_rate=1.0)
    augmentation = AugmentationArguments(horizontal_flip=0.5, frame_jitter=False)
    clips = clips_of(folder, ClipAugmentation(augmentation, video))
    found = set()
    for epoch in range(12):
        clips.set_epoch(epoch)
        item, crops = clips[0], clips[0]["hand_crops"]
        found.add(item["is_mirrored"])
        for side, points in enumerate((LEFT, RIGHT)):
            for frame, places in zip(crops.frame_indices[side], crops.keypoints[side], strict=True):
                pose = item["poses"][int(frame), points, :2]
                size = float(torch.dist(places[0], places[20]) / torch.dist(pose[0], pose[20]))
                assert torch.allclose(places - places[0], (pose - pose[0]) * size, atol=1e-4)
    assert found == {True, False}


def test_mirroring_crops_twice_changes_nothing():
    poses = poses_with_hands(1, (30, 20), (50, 40), width=80, height=60)
    crops = crops_of(poses)
    mirrored = crops.mirrored()
    assert torch.equal(mirrored.pixels[0, 0], crops.pixels[1, 0].flip(-1))
    assert torch.equal(mirrored.keypoints[1, 0, :, 1], crops.keypoints[0, 0, :, 1])
    for name, value in vars(mirrored.mirrored()).items():
        assert torch.allclose(value.float(), getattr(crops, name).float(), atol=1e-6)


def test_a_data_set_without_videos_is_refused_where_the_model_sees_crops(tmp_path):
    folder = folder_with_both(tmp_path)
    metadata = folder / "train" / "metadata.csv"
    metadata.write_text(metadata.read_text().replace("file_name,", "recording,"))
    message = "the data set needs the column `video` beside `poses`, got columns ['poses', 'recording', 'text']."
    with pytest.raises(ValueError, match=re.escape(message)):
        clips_of(folder)[0]


def test_without_hand_crops_no_video_is_read(tmp_path):
    folder = folder_with_both(tmp_path)
    for video in (folder / "train").glob("*.mkv"):
        video.write_bytes(b"broken")
    split = load_split(DataArguments(dataset=[str(folder)]), "train")
    clips = ClipDataset(split, PoseModality(PoseFeatureExtractor()))
    assert set(clips.modality.collate([clips[0], clips[1]])) == {"pose_values", "pose_attention_mask"}
    with pytest.raises(ValueError):
        clips_of(folder)[0]


def test_the_choice_is_saved_with_the_extractor(tmp_path):
    PoseFeatureExtractor(hand_crops=True).save_pretrained(tmp_path)
    loaded = PoseFeatureExtractor.from_pretrained(tmp_path)
    assert loaded.hand_crops and not PoseFeatureExtractor().hand_crops
    assert PoseModality(loaded).input_names[-3:] == HAND_CROP_NAMES
    assert PoseModality(PoseFeatureExtractor()).input_names == PoseModality.input_names


# Of a video whose poses are extracted


def test_a_video_alone_gives_its_poses_and_its_crops(tmp_path, monkeypatch):
    video = write_video(tmp_path / "clip.mkv", counting_frames(50), pixel_format="bgr0")
    made = poses_with_hands(50, (30, 20), (30, 20), frames_per_second=25.0, width=64, height=48)
    made.scores[:, :11] = 0.9

    def extract(path: Path, extractor: str | None, start: float | None, end: float | None) -> Poses:
        return made.part(round((start or 0) * 25), None if end is None else round(end * 25))

    monkeypatch.setattr(poses_of_videos_slt, "extract_poses", extract)
    poses_of_videos_slt._kept.clear()
    modality = PoseModality(PoseFeatureExtractor(hand_crops=True, max_num_frames=10))
    values, metadata = modality.open(str(video), start=0.8, end=1.6)
    assert len(values) == 10
    crops = metadata["hand_crops"]
    shown = [20 + metadata["frames_indices"][int(frame)] for frame in crops.frame_indices[:, 0]]
    assert frame_numbers(crops.pixels[:, 0], 50) == shown
    poses_alone, of_poses = modality.open(made)
    assert "hand_crops" not in of_poses
    more = modality.prepare_more([metadata, of_poses])
    assert more["hand_frame_indices"].tolist() == [crops.frame_indices.tolist(), [[-1], [-1]]]
    assert PoseModality(PoseFeatureExtractor()).prepare_more([of_poses]) == {}
