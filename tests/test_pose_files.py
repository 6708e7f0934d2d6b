"""Poses of every source come back at the same places; people, parts and times."""

import itertools
import json
import random
import re
import struct
from pathlib import Path

import numpy as np
import pose_sources
import pytest
import torch
from pose_sources import FACE, HEIGHT, LEFT, MIDDLE, RIGHT, WIDTH, component, figure, mediapipe, moving, write_pose
from safetensors.numpy import save_file

from processing import Poses, read_poses, write_poses
from processing.pose_files_slt import POSE_SUFFIXES, is_pose_file, pose_facts
from processing.pose_layouts_slt import (
    BODY_NAMES,
    LAYOUTS,
    MEDIAPIPE_FACE,
    MIRRORED_POINTS,
    PARTS,
    POINTS_OF_PARTS,
)

ALL = set(range(133))
BODY = set(range(23))
FRAMES = 6
FRACTIONS = np.array([WIDTH, HEIGHT])
SHARED = Path(__file__).resolve().parents[2] / "shared" / "landmarks" / "isl_10_words.npz"


def random_poses(num_frames: int = 12, unseen: float = 0.1, **stated) -> Poses:
    """With about a tenth of the points unseen."""
    scores = np.random.rand(num_frames, 133).astype(np.float32)
    scores[np.random.rand(num_frames, 133) < unseen] = 0
    keypoints = (np.random.rand(num_frames, 133, 2) * FRACTIONS).astype(np.float32) * (scores > 0)[..., None]
    return Poses(keypoints, scores, **stated)


def with_scores(frames: np.ndarray, score: float = 0.8) -> np.ndarray:
    return np.concatenate([frames, np.full((*frames.shape[:-1], 1), score)], -1)


def check_places(poses: Poses, expected: np.ndarray, found: set[int], tolerance: float = 1e-3) -> None:
    """The points that the source has are at their places, all others unseen."""
    seen = sorted(found)
    assert poses.keypoints.dtype == poses.scores.dtype == np.float32
    np.testing.assert_allclose(poses.keypoints[:, seen], expected[:, seen], atol=tolerance)
    assert (poses.scores[:, seen] > 0.5).all()
    unseen = sorted(ALL - found)
    assert not poses.scores[:, unseen].any() and not poses.keypoints[:, unseen].any()


BODIES = with_scores(moving(FRAMES))[:, None, :23]

# The layout


def test_parts_are_those_of_uni_sign():
    assert {name: len(points) for name, points in PARTS.items()} == {
        "body": 9,
        "left_hand": 21,
        "right_hand": 21,
        "face": 18,
    }
    assert list(POINTS_OF_PARTS) == [
        *(0, *range(3, 11)),
        *range(91, 112),
        *range(112, 133),
        *(*range(23, 40, 2), *range(83, 91), 53),
    ]


def test_mirrored_points_are_where_a_mirror_shows_them():
    mirrored = figure()[list(MIRRORED_POINTS)]
    np.testing.assert_allclose(mirrored, figure() * [-1, 1] + [2 * MIDDLE, 0])
    assert sorted(MIRRORED_POINTS) == list(range(133))


def test_names_of_the_body():
    assert list(BODY_NAMES) == pose_sources.BODY_NAMES
    assert all(figure()[index][0] > MIDDLE for index, name in enumerate(BODY_NAMES) if name.startswith("left"))


def test_the_face_mesh_has_a_point_for_each_of_ours():
    assert len(set(MEDIAPIPE_FACE)) == 68 and max(MEDIAPIPE_FACE) < 468
    assert {mesh: MEDIAPIPE_FACE.index(mesh) for mesh in pose_sources.MESH} == pose_sources.MESH


# Sources


@pytest.mark.parametrize("suffix", [".safetensors", ".npz"])
def test_own_files_hold_everything(suffix, tmp_path):
    poses = random_poses(frames_per_second=29.97, width=1280.0, height=720.0, extractor="rtmlib 0.0.13 rtmw-x")
    write_poses(tmp_path / f"clip{suffix}", poses)
    read = read_poses(tmp_path / f"clip{suffix}")
    np.testing.assert_array_equal(read.keypoints, poses.keypoints)
    np.testing.assert_array_equal(read.scores, poses.scores)
    assert {**vars(read), "keypoints": 0, "scores": 0} == {**vars(poses), "keypoints": 0, "scores": 0}


def test_own_pose_files(tmp_path):
    poses = random_poses(frames_per_second=25.0, width=1280, height=720, extractor="x")
    write_poses(tmp_path / "clip.pose", poses)
    read = read_poses(tmp_path / "clip.pose")
    np.testing.assert_array_equal(read.keypoints, poses.keypoints)
    np.testing.assert_array_equal(read.scores, poses.scores)
    assert (read.frames_per_second, read.width, read.height, read.extractor) == (25, 1280, 720, None)


@pytest.mark.parametrize("suffix", [".safetensors", ".npz", ".pose"])
def test_what_is_unknown_stays_unknown(suffix, tmp_path):
    write_poses(tmp_path / f"clip{suffix}", random_poses())
    read = read_poses(tmp_path / f"clip{suffix}")
    assert (read.frames_per_second, read.width, read.height, read.extractor) == (None,) * 4


@pytest.mark.parametrize("kind", [np.float16, np.float32, np.float64])
@pytest.mark.parametrize("people", [False, True])
@pytest.mark.parametrize("suffix", [".npy", ".npz", ".safetensors"])
def test_arrays_of_the_whole_body(suffix, people, kind, tmp_path):
    values = with_scores(moving(FRAMES)).astype(kind)
    values = values[:, None] if people else values
    path = tmp_path / f"clip{suffix}"
    if suffix == ".npy":
        np.save(path, values)
    elif suffix == ".npz":
        np.savez(path, anything=values)
    else:
        save_file({"anything": values}, path)
    check_places(read_poses(path), moving(FRAMES), ALL, tolerance=0.5 if kind is np.float16 else 1e-3)


def test_arrays_in_memory():
    frames = moving(FRAMES)
    for source in (with_scores(frames), torch.tensor(with_scores(frames)), with_scores(frames).tolist()):
        check_places(read_poses(source), frames, ALL)
    check_places(read_poses(frames), frames, ALL)  # without scores
    check_places(read_poses(frames.reshape(FRAMES, -1)), frames, ALL)
    row = with_scores(frames).reshape(FRAMES, -1)
    check_places(read_poses(row), frames, ALL)


@pytest.mark.parametrize("channels", [2, 3, 4])
@pytest.mark.parametrize("is_in_rows", [False, True])
def test_mediapipe_with_hands(channels, is_in_rows):
    values, found = mediapipe(moving(FRAMES), channels=channels)
    if is_in_rows:
        values = values.reshape(FRAMES, -1)
    check_places(read_poses(values), moving(FRAMES) / FRACTIONS, found)
    assert found == {*BODY, *LEFT, *RIGHT} - {18, 21}  # it has no small toes


def test_mediapipe_in_rows_of_258_numbers():
    rows = pose_sources.one_row(moving(FRAMES))
    assert rows.shape == (FRAMES, 258)
    poses = read_poses(rows)
    check_places(poses, moving(FRAMES) / FRACTIONS, {*BODY, *LEFT, *RIGHT} - {18, 21})
    assert np.allclose(poses.scores[:, 9], 0.9) and np.allclose(poses.scores[:, 95], 1)


ORDERS = {
    "mediapipe_pose_hands_face": "body left right face",
    "mediapipe_pose_face_hands": "body face left right",
    "mediapipe_face_left_pose_right": "face left body right",
}


@pytest.mark.parametrize("layout", ORDERS)
@pytest.mark.parametrize("mesh_size", [468, 478])
def test_mediapipe_with_face_needs_the_name_of_its_order(layout, mesh_size, tmp_path):
    values, found = mediapipe(moving(FRAMES), ORDERS[layout], mesh_size)
    np.savez(tmp_path / "clip.npz", landmarks=values)
    with pytest.raises(ValueError, match=f"clip.npz' has {values.shape[1]} points, which several layouts have: .*"):
        read_poses(tmp_path / "clip.npz")
    np.savez(tmp_path / "clip.npz", landmarks=values, layout=layout, width=WIDTH, height=HEIGHT)
    save_file({"landmarks": values}, tmp_path / "clip.safetensors", {"layout": layout})
    poses = read_poses(tmp_path / "clip.npz")
    others = set(FACE) - found  # the rest of the mesh is far away in this test
    in_pixels = np.where(np.isin(range(133), sorted(others))[:, None], 7 * FRACTIONS, moving(FRAMES))
    check_places(poses, in_pixels, found | others, tolerance=1e-2)
    for other in (read_poses(tmp_path / "clip.safetensors"), read_poses(values, layout=layout)):
        np.testing.assert_allclose(other.keypoints * FRACTIONS, poses.keypoints, rtol=1e-5)


def test_openpose_array():
    points = [*pose_sources.indices_of(pose_sources.OPENPOSE_25), *FACE, -1, -1, *LEFT, *RIGHT]
    check_places(read_poses(with_scores(moving(FRAMES))[:, points]), moving(FRAMES), ALL)


@pytest.mark.parametrize("first", [0, 120])
@pytest.mark.parametrize("body", [pose_sources.OPENPOSE_25, pose_sources.OPENPOSE_18])
def test_openpose_folders(body, first, tmp_path):
    folder = pose_sources.write_openpose(tmp_path / "clip", moving(FRAMES), body, first)
    found = ALL - (set(range(17, 23)) if len(body) == 18 else set())
    check_places(read_poses(folder), moving(FRAMES), found)
    assert pose_facts(folder).num_frames == FRAMES


def test_missing_frames_of_openpose_are_unseen(tmp_path):
    folder = pose_sources.write_openpose(tmp_path / "clip", moving(FRAMES))
    (folder / "clip-2_000000000002_keypoints.json").unlink()
    (folder / "clip-2_000000000003_keypoints.json").write_text('{"people": []}')
    poses = read_poses(folder)
    assert len(poses) == FRAMES and not poses.scores[2:4].any()
    check_places(Poses(poses.keypoints[4:], poses.scores[4:]), moving(FRAMES)[4:], ALL)


def test_uni_sign_pickles_of_plain_lists(tmp_path):
    path = pose_sources.write_uni_sign(tmp_path / "clip.pkl", moving(FRAMES))
    check_places(read_poses(path), moving(FRAMES) / FRACTIONS, ALL)
    path = pose_sources.write_uni_sign(tmp_path / "part.pkl", moving(FRAMES), start=1, end=5)
    check_places(read_poses(path), moving(FRAMES)[1:5] / FRACTIONS, ALL)
    assert pose_facts(path).num_frames == 4


def test_uni_sign_pickles_of_arrays(tmp_path):
    """Each array as NumPy writes it, without the marks of a file's begin and end."""
    fractions = moving(FRAMES) / FRACTIONS

    def arrays(values) -> bytes:
        return b"](" + b"".join(np.asarray(value, np.float32).dumps()[2:-1] for value in values) + b"e"

    parts = {"keypoints": arrays(fractions[:, None]), "scores": arrays(np.full((FRAMES, 1, 133), 0.8))}
    names = {name: b"X" + len(name).to_bytes(4, "little") + name.encode() for name in parts}
    path = tmp_path / "clip.pkl"
    path.write_bytes(b"\x80\x02}(" + b"".join(names[name] + part for name, part in parts.items()) + b"u.")
    check_places(read_poses(path), fractions, ALL)


def holistic(**options) -> tuple[list, np.ndarray, set[int]]:
    """Components of MediaPipe as pose-format names them, values in pixels, and the points that they have."""
    order = "body face left right"
    values, found = mediapipe(moving(FRAMES), order)
    values[..., :2] *= FRACTIONS
    values[:, 33:, 3] = 1.0
    hands = [f"{finger}_{joint}" for finger in ("THUMB", "INDEX", "MIDDLE", "RING", "PINKY") for joint in "ABCD"]
    fingers = {"INDEX": "INDEX_FINGER", "MIDDLE": "MIDDLE_FINGER", "RING": "RING_FINGER"}
    joints = {"A": "MCP", "B": "PIP", "C": "DIP", "D": "TIP"}
    thumb = {"A": "CMC", "B": "MCP", "C": "IP", "D": "TIP"}
    names = ["WRIST"]
    for name in hands:
        finger, joint = name.split("_")
        names.append(f"{fingers.get(finger, finger)}_{(thumb if finger == 'THUMB' else joints)[joint]}")
    components = [
        component("POSE_LANDMARKS", [name.upper() for name in pose_sources.MEDIAPIPE_NAMES]),
        component("FACE_LANDMARKS", [str(index) for index in range(468)]),
        component("LEFT_HAND_LANDMARKS", names),
        component("RIGHT_HAND_LANDMARKS", names),
        component("POSE_WORLD_LANDMARKS", [name.upper() for name in pose_sources.MEDIAPIPE_NAMES]),
    ]
    values = np.concatenate([values, np.full((FRAMES, 33, 4), 0.5)], 1)
    return components, values, found


def test_pose_files_of_mediapipe(tmp_path):
    components, values, found = holistic()
    poses = read_poses(write_pose(tmp_path / "clip.pose", components, values[:, None]))
    far = set(FACE) - found
    expected = np.where(np.isin(range(133), sorted(far))[:, None], 7 * FRACTIONS, moving(FRAMES))
    check_places(poses, expected, found | far)
    assert (poses.frames_per_second, poses.width, poses.height) == (25, WIDTH, HEIGHT)


def test_pose_files_with_a_part_of_the_points(tmp_path):
    """As the most common form of pose-format has it: no nose and ears, no legs, and 128 points of the face."""
    components, values, _ = holistic()
    keep = {"POSE_LANDMARKS": ["LEFT_SHOULDER", "RIGHT_SHOULDER", "LEFT_ELBOW", "RIGHT_ELBOW", "LEFT_WRIST"]}
    keep["FACE_LANDMARKS"] = ["152", "13", "14", "33", "263"]
    chosen, reduced, start = [], [], 0
    for each in components[:4]:
        points = keep.get(each.name, each.points)
        chosen.append(component(each.name, points))
        reduced.append(values[:, [start + each.points.index(point) for point in points]])
        start += len(each.points)
    path = write_pose(tmp_path / "clip.pose", chosen, np.concatenate(reduced, 1)[:, None])
    found = {5, 6, 7, 8, 9, *(FACE[index] for index in (8, 62, 66, 36, 45)), *LEFT, *RIGHT}
    check_places(read_poses(path), moving(FRAMES), found)


@pytest.mark.parametrize("number", ["", "_133", "_136"])
def test_pose_files_of_coco_and_alphapose(number, tmp_path):
    separator = "_" if number == "_136" else "-"
    components = [
        component(f"BODY{number}", pose_sources.BODY_NAMES, "XYC"),
        component(f"FACE{number}", [f"face{separator}{index}" for index in range(68)], "XYC"),
        component(f"LEFT_HAND{number}", [f"hand_{index}" for index in range(21)], "XYC"),
        component(f"RIGHT_HAND{number}", [f"hand_{index}" for index in range(21)], "XYC"),
    ]
    path = write_pose(tmp_path / "clip.pose", components, with_scores(moving(FRAMES))[:, None])
    check_places(read_poses(path), moving(FRAMES), ALL)


@pytest.mark.parametrize("part", [(None, None), (0.04, 0.16)])
def test_pose_files_of_version_0_1(part, tmp_path):
    path = write_pose(tmp_path / "clip.pose", [component("BODY", pose_sources.BODY_NAMES, "XYC")], BODIES)
    content = path.read_bytes()
    size = BODIES.size * 4
    header, body = content[4 : -size - 10], content[-size:]
    path.write_bytes(struct.pack("<f", 0.1) + header + struct.pack("<HHH", 25, FRAMES, 1) + body)
    first, last = (1, 4) if part[0] else (0, FRAMES)
    poses = read_poses(path, *part)
    check_places(poses, moving(FRAMES)[first:last], set(BODY))
    assert pose_facts(path).num_frames == FRAMES and poses.frames_per_second == 25


def test_pose_files_that_state_more_frames_than_they_hold(tmp_path):
    """A count alone must not make a list of a thousand million frames."""
    path = write_pose(tmp_path / "clip.pose", [component("BODY", pose_sources.BODY_NAMES, "XYC")], BODIES)
    content = bytearray(path.read_bytes())
    place = len(content) - BODIES.size * 4 - 6
    content[place : place + 4] = struct.pack("<I", 1_000_000_000)
    path.write_bytes(content)
    with pytest.raises(ValueError, match="clip.pose' states 1000000000 frames, and is too short for them."):
        pose_facts(path)


def test_pose_files_of_openpose(tmp_path):
    from pose_format.utils.openpose import OpenPose_Components

    points = [*pose_sources.indices_of(pose_sources.OPENPOSE_25), *FACE, -1, -1, *LEFT, *RIGHT]
    values = with_scores(moving(FRAMES))[:, None, points]
    check_places(read_poses(write_pose(tmp_path / "clip.pose", OpenPose_Components, values)), moving(FRAMES), ALL)


def test_pose_files_of_openpose_135(tmp_path):
    from pose_format.utils.openpose_135 import OpenPose_Components

    points = [*range(17), -1, -1, *range(17, 23), *LEFT[1:], *RIGHT[1:], *FACE, -1, -1]
    values = with_scores(moving(FRAMES))[:, None, points]
    poses = read_poses(write_pose(tmp_path / "clip.pose", OpenPose_Components, values))
    check_places(poses, moving(FRAMES), ALL)  # its hands begin at the wrists of the body, as those of the figure do


@pytest.mark.skipif(not SHARED.exists(), reason="needs ../shared/landmarks")
def test_recorded_landmarks():
    with np.load(SHARED) as file:
        clips = file["landmarks"]
    poses = read_poses(clips[random.randrange(len(clips))])
    assert len(poses) == 30 and poses.scores[:, [0, 5, 6]].min() > 0.5
    left, right = poses.keypoints[:, 5], poses.keypoints[:, 6]
    assert (left[:, 0] > right[:, 0]).all()  # the signer faces the camera
    assert (poses.keypoints[:, 0, 1] < left[:, 1]).all()


# Unseen points


def test_nan_and_infinity_are_unseen_and_never_at_the_origin():
    values = with_scores(moving(FRAMES))
    values[0, 5, 0], values[1, 6, 1], values[2, 7, 2], values[3, 8, 2] = np.nan, np.inf, np.nan, -1
    values[4, 9] = 1e300, 1e300, 0.9  # no float32
    poses = read_poses(values)
    for frame, point in enumerate(range(5, 10)):
        assert poses.scores[frame, point] == 0 and not poses.keypoints[frame, point].any()
    assert (poses.scores > 0).sum() == FRAMES * 133 - 5 and np.isfinite(poses.keypoints).all()


def test_poses_in_memory_are_cleaned_too():
    keypoints, scores = moving(FRAMES), np.full((FRAMES, 133), 0.8)
    keypoints[1, 5, 0], scores[2, 6] = np.nan, np.inf
    poses = read_poses(Poses(keypoints, scores))
    assert poses.keypoints.dtype == np.float32 and np.isfinite(poses.keypoints).all()
    assert not poses.scores[1, 5] and not poses.scores[2, 6] and (poses.scores > 0).sum() == FRAMES * 133 - 2
    with pytest.raises(ValueError, match="the poses given as Poses must hold keypoints .frames, people, 133, 2. and"):
        read_poses(Poses(keypoints[:, :10], scores[:, :10]))


def test_without_scores_only_the_origin_is_unseen():
    frames = moving(FRAMES)
    frames[2, list(LEFT)] = 0
    poses = read_poses(frames)
    assert (poses.scores[2, list(LEFT)] == 0).all() and poses.scores.sum() == FRAMES * 133 - 21


# People


def two_people(num_frames: int = 30) -> tuple[np.ndarray, np.ndarray]:
    """A signer, and somebody smaller aside, in any order in each frame; and the signer alone."""
    signer = with_scores(moving(num_frames))
    other = with_scores(moving(num_frames) * 0.4 + [620, 300])
    frames = np.stack([signer, other], 1)
    for frame in frames:
        np.random.shuffle(frame)
    return frames, signer


def test_the_signer_has_the_largest_body(caplog_of_people):
    frames, signer = two_people()
    np.testing.assert_allclose(read_poses(frames).keypoints, signer[..., :2], rtol=1e-5)
    (warning,) = caplog_of_people
    assert warning == (
        "the poses given as ndarray shows up to 2 people in a frame, 2 in all. The signer is taken to be the one with "
        "the largest body."
    )


def test_somebody_near_the_camera_for_a_moment_is_not_the_signer(caplog_of_people):
    frames, signer = two_people()
    frames[4] = 0
    frames[4, 0] = with_scores(moving(1) * 3 - [1900, 0])[0]
    poses = read_poses(frames)
    expected = np.where(np.arange(30)[:, None, None] == 4, 0, signer[..., :2])
    np.testing.assert_allclose(poses.keypoints, expected, rtol=1e-5)
    assert not poses.scores[4].any() and "3 in all" in caplog_of_people[0]


def test_a_signer_who_is_missed_is_unseen_and_found_again(caplog_of_people):
    frames, signer = two_people()
    for frame in frames[10:15]:
        frame[np.argmax(frame[:, 5, 1] - frame[:, 0, 1])] = 0  # the larger body
    poses = read_poses(frames)
    assert not poses.scores[10:15].any()
    np.testing.assert_allclose(poses.keypoints[15:], signer[15:, :, :2], rtol=1e-5)


def test_one_person_in_a_list_of_several(caplog_of_people):
    frames = np.zeros((FRAMES, 3, 133, 3))
    for frame, points in zip(frames, with_scores(moving(FRAMES)), strict=True):
        frame[random.randrange(3)] = points
    np.testing.assert_allclose(read_poses(frames).keypoints, moving(FRAMES), rtol=1e-5)
    assert not caplog_of_people


@pytest.fixture
def caplog_of_people(monkeypatch) -> list[str]:
    from processing import pose_signer_slt

    told: list[str] = []
    monkeypatch.setattr(pose_signer_slt, "_warn_once", told.append)
    return told


# Parts and names

SUFFIXES = [".safetensors", ".npz", ".pose"]


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_parts_by_seconds(suffix, tmp_path):
    poses = random_poses(100, frames_per_second=20.0)
    write_poses(tmp_path / f"clip{suffix}", poses)
    path = tmp_path / f"clip{suffix}"
    for start, end, first, last in [(1.0, 2.0, 20, 40), (None, 0.5, 0, 10), (4.5, None, 90, 100), (4.9, 9.0, 98, 100)]:
        for part in (read_poses(path, start, end), read_poses(poses, start, end)):
            np.testing.assert_array_equal(part.keypoints, poses.keypoints[first:last])
            np.testing.assert_array_equal(part.scores, poses.scores[first:last])
    np.testing.assert_array_equal(read_poses(path, 1, 2, frames_per_second=10).scores, poses.scores[10:20])
    with pytest.raises(ValueError, match="has no frame from 5 to 6 s: it has 100."):
        read_poses(path, 5, 6)
    assert pose_facts(path).num_frames == 100 and pose_facts(path).frames_per_second == 20


def test_parts_need_a_frame_rate(tmp_path):
    write_poses(tmp_path / "clip.npz", random_poses())
    with pytest.raises(ValueError, match="clip.npz' has no times: `start` and `end` need `source_fps`, its frames"):
        read_poses(tmp_path / "clip.npz", 0.1, 0.2)


def test_one_of_several_arrays_in_a_file(tmp_path):
    clips = {f"clip_{index}": with_scores(moving(FRAMES + index)) for index in range(3)}
    np.savez(tmp_path / "clips.npz", **clips, frames_per_second=25.0)
    save_file(clips, tmp_path / "clips.safetensors", {"frames_per_second": "25"})
    for suffix, index in itertools.product((".npz", ".safetensors"), range(3)):
        source = f"{tmp_path}/clips{suffix}#clip_{index}"
        assert len(read_poses(source)) == pose_facts(source).num_frames == FRAMES + index
        assert pose_facts(source).frames_per_second == 25
    with pytest.raises(ValueError, match=re.escape("Name the one that is meant: 'clips.npz#clip_0'.")):
        read_poses(tmp_path / "clips.npz")
    with pytest.raises(ValueError, match="must hold an array 'clip_7', got clip_0, clip_1, clip_2."):
        read_poses(f"{tmp_path}/clips.npz#clip_7")


def test_fractions_become_pixels_where_the_size_is_known(tmp_path):
    values, found = mediapipe(moving(FRAMES))
    np.savez(tmp_path / "clip.npz", poses=values, width=WIDTH, height=HEIGHT)
    check_places(read_poses(tmp_path / "clip.npz"), moving(FRAMES), found)


def test_normalised_pose_files_keep_their_unit(tmp_path):
    """pose-format can measure poses from the shoulders, and leaves the size of the picture as it was."""
    frames = (moving(FRAMES) - [MIDDLE, 240]) / 240
    write_poses(tmp_path / "clip.pose", Poses(*as_arrays(frames), 25.0, WIDTH, HEIGHT))
    read = read_poses(tmp_path / "clip.pose")
    for poses in (read, read_poses(read)):
        check_places(poses, frames, ALL, tolerance=1e-5)


def as_arrays(frames: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    return frames.astype(np.float32), np.ones(frames.shape[:2], np.float32)


def test_facts_are_read_without_the_poses(tmp_path, monkeypatch):
    poses = random_poses(frames_per_second=25.0, extractor="x")
    for suffix in SUFFIXES:
        write_poses(tmp_path / f"clip{suffix}", poses)
    for name in ("ArrayFile", "PoseFormatFile"):
        monkeypatch.setattr(f"processing.pose_files_slt.{name}.people", None)
    for suffix in SUFFIXES:
        facts = pose_facts(tmp_path / f"clip{suffix}")
        assert (facts.num_frames, facts.frames_per_second) == (12, 25)


def test_names_of_files():
    for suffix in POSE_SUFFIXES:
        assert is_pose_file(f"a/clip{suffix.upper()}") and not is_pose_file(f"a/.clip{suffix}")
    assert is_pose_file("clips.npz#clip_1") and not is_pose_file("clip.mp4") and not is_pose_file("metadata.csv")


def test_pose_format_is_an_extra(tmp_path, monkeypatch):
    write_poses(tmp_path / "clip.pose", random_poses())
    monkeypatch.setitem(__import__("sys").modules, "pose_format", None)
    with pytest.raises(ValueError, match=re.escape('pip install "flallm[poses]"')):
        read_poses(tmp_path / "clip.pose")


def test_other_files_are_not_written(tmp_path):
    with pytest.raises(ValueError, match="are written to a file of .safetensors, .npz or .pose, got '.*clip.json'."):
        write_poses(tmp_path / "clip.json", random_poses())


def test_layouts_have_each_point_once():
    for layout in LAYOUTS:
        sources = [source for source in layout.sources() if source >= 0]
        assert len(set(sources)) == len(sources) and max(sources) < layout.num_points


def test_openpose_json_that_is_no_frame(tmp_path):
    folder = pose_sources.write_openpose(tmp_path / "clip", moving(2))
    path = folder / "clip-2_000000000001_keypoints.json"
    path.write_text(json.dumps({"people": [{"pose_keypoints_2d": [1.0] * 60}]}))
    with pytest.raises(ValueError, match="must be a list of 75 or 54 numbers, got .60,."):
        read_poses(folder)
