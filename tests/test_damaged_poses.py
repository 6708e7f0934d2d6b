"""Damaged and hostile files of poses: an error that names the file, and nothing in them is run."""

import json
import os
import random
import struct
import warnings
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from pose_sources import BODY_NAMES, component, moving, write_openpose, write_pose, write_uni_sign
from raw_corpora import plain_pickle
from safetensors.numpy import save_file
from test_pose_files import random_poses, with_scores

from processing import PoseFeatureExtractor, read_poses, write_poses
from processing.modality_poses_slt import PoseModality
from processing.pose_files_slt import pose_facts

FRAMES = 8
NUM_FILES = 200
# In place of a frame of OpenPose.
BROKEN_FRAMES = [
    "",
    "{",
    "[]",
    '{"people": 3}',
    '{"people": [3]}',
    '{"version": 1.3}',
    json.dumps({"people": [{"pose_keypoints_2d": [1.0] * 74}]}),
    json.dumps({"people": [{"pose_keypoints_2d": ["x"] * 75}]}),
    json.dumps({"people": [{"pose_keypoints_2d": [[1.0, 2.0, 3.0]] * 25}]}),
    json.dumps({"people": [{"face_keypoints_2d": [1.0] * 204}]}),
    "[" * 100_000,
]
FRAME, FRAME_SCORES = [[[0.5, 0.5]] * 133], [[0.9] * 133]
# In place of Uni-Sign's poses.
OTHER_PICKLES = [
    [],
    {},
    "poses",
    {"keypoints": [FRAME]},
    {"keypoints": [FRAME], "scores": []},
    {"keypoints": [], "scores": []},
    {"keypoints": [FRAME], "scores": [[[0.9] * 132]]},
    {"keypoints": [[[[0.5, 0.5]] * 132]], "scores": [[[0.9] * 132]]},
    {"keypoints": [[["x"]]], "scores": [FRAME_SCORES]},
    {"keypoints": [FRAME], "scores": [FRAME_SCORES], "start": 5, "end": 2},
    {"keypoints": [FRAME], "scores": [FRAME_SCORES], "start": "x"},
    {"keypoints": [FRAME], "scores": [[[0.0] * 133]]},
    {"keypoints": [[]], "scores": [[]]},
]


def values(*shape: int) -> np.ndarray:
    return np.asarray(np.random.rand(*shape), np.float32)


def any_array_file(path: Path, suffix: str | None = None, stated: dict | None = None, **arrays: np.ndarray) -> Path:
    """A `.npz` or `.safetensors` file."""
    suffix = suffix or random.choice([".npz", ".safetensors"])
    path = path.with_suffix(suffix)
    if suffix == ".npz":
        np.savez(path, **arrays, **(stated or {}))
    else:
        save_file(arrays, path, {key: str(value) for key, value in (stated or {}).items()})
    return path


def own_file(path: Path, *suffixes: str) -> Path:
    path = path.with_suffix(random.choice(suffixes or (".npz", ".safetensors", ".pose")))
    write_poses(path, random_poses(FRAMES, frames_per_second=25.0, width=640.0, height=480.0))
    return path


def truncated(path: Path) -> Path:
    path = own_file(path)
    content = path.read_bytes()
    path.write_bytes(content[: random.randrange(len(content) * 9 // 10)])
    return path


def garbage(path: Path) -> Path:
    path = path.with_suffix(random.choice([".npz", ".safetensors", ".pose", ".npy", ".pkl"]))
    path.write_bytes(random.randbytes(random.randrange(3000)))
    return path


def another_kind_inside(path: Path) -> Path:
    source = own_file(path, ".npz", ".safetensors", ".pose")
    other = random.choice([each for each in (".npz", ".safetensors", ".pose", ".pkl") if each != source.suffix])
    return source.rename(path.with_suffix(other))


def body_component():
    return [component("BODY", BODY_NAMES, "XYC")]


def pose_of_another_version(path: Path) -> Path:
    path = own_file(path, ".pose")
    path.write_bytes(struct.pack("<f", random.uniform(0.4, 50)) + path.read_bytes()[4:])
    return path


def pose_of_nobody(path: Path) -> Path:
    return write_pose(path.with_suffix(".pose"), body_component(), np.zeros((FRAMES, 0, 23, 3)))


def pose_without_frames(path: Path) -> Path:
    return write_pose(path.with_suffix(".pose"), body_component(), np.zeros((0, 1, 23, 3)))


def pose_of_other_components(path: Path) -> Path:
    components = [component("HORSE", [f"leg_{index}" for index in range(4)], "XYC")]
    return write_pose(path.with_suffix(".pose"), components, values(FRAMES, 1, 4, 3))


def pose_without_a_seen_point(path: Path) -> Path:
    frames = np.full((FRAMES, 1, 23, 3), random.choice([0.0, np.nan, np.inf]))
    return write_pose(path.with_suffix(".pose"), body_component(), frames)


def pose_with_a_wrong_rate(path: Path) -> Path:
    rate = random.choice([float("nan"), float("inf"), -5.0])
    return write_pose(path.with_suffix(".pose"), body_component(), values(FRAMES, 1, 23, 3) + 1, fps=rate)


def unknown_number_of_points(path: Path) -> Path:
    return any_array_file(path, poses=values(FRAMES, random.choice([5, 17, 69, 134]), 3))


def unknown_row(path: Path) -> Path:
    return any_array_file(path, poses=values(FRAMES, random.choice([5, 100, 257, 259])))


def ambiguous_layout(path: Path) -> Path:
    return any_array_file(path, poses=values(FRAMES, random.choice([543, 553]), 3))


def unknown_layout(path: Path) -> Path:
    return any_array_file(path, poses=values(FRAMES, 133, 3), stated={"layout": "my layout"})


def layout_of_other_points(path: Path) -> Path:
    return any_array_file(path, poses=values(FRAMES, 133, 3), stated={"layout": "mediapipe_pose_hands"})


def wrong_dimensions(path: Path) -> Path:
    shape = random.choice([(), (133,), (FRAMES, 2, 3, 133, 3), (FRAMES, 133, 7), (FRAMES, 133, 1), (FRAMES, 133, 4)])
    return any_array_file(path, poses=np.array(values(*shape)))


def no_frames(path: Path) -> Path:
    return any_array_file(path, poses=values(0, 133, 3))


def no_people(path: Path) -> Path:
    return any_array_file(path, poses=values(FRAMES, 0, 133, 3))


def nothing_seen(path: Path) -> Path:
    filled = np.full((FRAMES, 133, 3), random.choice([0.0, np.nan, np.inf, -1.0]), np.float32)
    return any_array_file(path, poses=filled)


def other_scores(path: Path) -> Path:
    return any_array_file(path, keypoints=values(FRAMES, 133, 2), scores=values(FRAMES, random.choice([1, 132])))


def wrong_numbers_stated(path: Path) -> Path:
    key = random.choice(["frames_per_second", "width", "height"])
    stated = {"width": 640.0, "height": 480.0, key: random.choice([0.0, -1.0, float("nan"), float("inf"), "many"])}
    return any_array_file(path, poses=values(FRAMES, 133, 3), stated=stated)


def half_a_size(path: Path) -> Path:
    return any_array_file(path, poses=values(FRAMES, 133, 3), stated={random.choice(["width", "height"]): 640.0})


def no_numbers(path: Path) -> Path:
    poses = random.choice([np.full((FRAMES, 133, 3), "x"), np.ones((FRAMES, 133, 3), bool)])
    return any_array_file(path, ".npz", poses=poses)


def several_arrays(path: Path) -> Path:
    return any_array_file(path, one=values(FRAMES, 133, 3), other=values(FRAMES, 133, 3))


def no_arrays(path: Path) -> Path:
    return any_array_file(path, ".npz")


def empty_folder(path: Path) -> Path:
    path.mkdir()
    (path / "readme.txt").write_text("nothing")
    return path


def broken_json(path: Path) -> Path:
    folder = write_openpose(path, moving(FRAMES))
    random.choice(sorted(folder.iterdir())).write_text(random.choice(BROKEN_FRAMES))
    return folder


def several_clips_in_a_folder(path: Path) -> Path:
    folder = write_openpose(path, moving(FRAMES))
    number = random.choice([3, 10**9])
    (folder / f"other_{number}_keypoints.json").write_text('{"people": []}')
    return folder


def frames_of_nobody(path: Path) -> Path:
    path.mkdir()
    for number in range(FRAMES):
        (path / f"clip_{number:012}_keypoints.json").write_text('{"people": []}')
    return path


def pickle_with_code(path: Path, proof: Path) -> Path:
    command = os.fsencode(f"touch {proof}")
    attack = random.choice(
        [
            b"cposix\nsystem\n(S'%s'\ntR.",
            b"\x80\x04\x8c\x05posix\x8c\x06system\x93(S'%s'\ntR.",
            b"(S'%s'\niposix\nsystem\n.",
            b"(cposix\nsystem\nS'%s'\no.",
            b"}(S'keypoints'\ncposix\nsystem\n(S'%s'\ntRS'scores'\n]u.",
        ]
    )
    path = path.with_suffix(random.choice([".pkl", ".pickle"]))
    path.write_bytes(attack % command)
    return path


def array_with_code(path: Path, proof: Path) -> Path:
    """Arrays of Python objects are pickles."""
    path = path.with_suffix(".npy")
    with path.open("wb") as file:
        header = {"descr": "|O", "fortran_order": False, "shape": (FRAMES, 133, 3)}
        np.lib.format.write_array_header_1_0(file, header)
        file.write(os.fsencode(f"cposix\nsystem\n(S'touch {proof}'\ntR."))
    return path


def pickle_of_arrays(path: Path) -> Path:
    """As NumPy writes them: they ask for its functions."""
    path = path.with_suffix(".pkl")
    path.write_bytes(
        b"\x80\x04}\x8c\x09keypoints](cnumpy.core.multiarray\n_reconstruct\ncnumpy\nndarray\nK\x00\x85C\x01b\x87Res."
    )
    return path


def pickle_of_something_else(path: Path) -> Path:
    path = path.with_suffix(".pkl")
    path.write_bytes(plain_pickle(random.choice(OTHER_PICKLES)))
    return path


def truncated_pickle(path: Path) -> Path:
    path = write_uni_sign(path.with_suffix(".pkl"), moving(2))
    content = path.read_bytes()
    path.write_bytes(content[: random.randrange(len(content) - 1)])
    return path


def another_file(path: Path) -> Path:
    path = path.with_suffix(random.choice([".json", ".txt", ".mp4", ""]))
    path.write_text("x")
    return path


def missing_file(path: Path) -> Path:
    return path.with_suffix(random.choice([".pose", ".npz", ".pkl"]))


DAMAGES: list[Callable[..., Path]] = [
    truncated, garbage, another_kind_inside, pose_of_another_version, pose_of_nobody, pose_without_frames,
    pose_of_other_components, pose_without_a_seen_point, pose_with_a_wrong_rate, unknown_number_of_points, unknown_row,
    ambiguous_layout, unknown_layout, layout_of_other_points, wrong_dimensions, no_frames, no_people, nothing_seen,
    other_scores, wrong_numbers_stated, half_a_size, no_numbers, several_arrays, no_arrays, empty_folder, broken_json,
    several_clips_in_a_folder, frames_of_nobody, pickle_of_arrays, pickle_of_something_else, truncated_pickle,
    another_file, missing_file,
]  # fmt: skip
ATTACKS = [pickle_with_code, array_with_code]


@pytest.mark.filterwarnings("error::RuntimeWarning")
def test_two_hundred_damaged_files(tmp_path):
    proof = tmp_path / "proof"
    for number in range(NUM_FILES):
        kind = [*DAMAGES, *ATTACKS][number % len([*DAMAGES, *ATTACKS])]
        path = tmp_path / f"clip_{number}"
        path = kind(path, proof) if kind in ATTACKS else kind(path)
        what = f"{kind.__name__}, {path.name}"
        for read in (read_poses, PoseFeatureExtractor().read, PoseModality(PoseFeatureExtractor()).open):
            with pytest.raises(ValueError) as raised:
                read(str(path))
            message = str(raised.value)
            assert path.name in message and message.endswith((".", "?", ")")), f"{what}: {message}"
        with warnings.catch_warnings():
            try:
                pose_facts(str(path))  # reads no more than it needs: it need not notice
            except ValueError as error:
                assert path.name in str(error), what
        assert not proof.exists(), what


@pytest.mark.parametrize("content", BROKEN_FRAMES, ids=lambda content: content[:20])
def test_frames_that_are_none_of_openpose(content, tmp_path):
    folder = write_openpose(tmp_path / "clip", moving(2))
    path = folder / "clip-2_000000000001_keypoints.json"
    path.write_text(content)
    with pytest.raises(ValueError, match=f"{path.name}' cannot be read as a frame of OpenPose, an object with a list"):
        read_poses(folder)


@pytest.mark.parametrize("content", OTHER_PICKLES, ids=map(str, range(len(OTHER_PICKLES))))
def test_pickles_that_are_none_of_uni_sign(content, tmp_path):
    path = tmp_path / "clip.pkl"
    path.write_bytes(plain_pickle(content))
    with pytest.raises(ValueError, match="clip.pkl' (must hold `keypoints`, a list with|holds no frame|shows nobody)"):
        read_poses(path)


def test_any_byte_may_be_wrong(tmp_path):
    """Poses with a wrong byte are read or refused, and never with NaN."""
    for suffix in (".pose", ".npz", ".safetensors", ".pkl"):
        path = tmp_path / f"clip{suffix}"
        if suffix == ".pkl":
            write_uni_sign(path, moving(1))
        else:
            write_poses(path, random_poses(2, frames_per_second=25.0, width=640.0, height=480.0))
        content = path.read_bytes()
        for _ in range(40):
            damaged = bytearray(content)
            place = random.randrange(min(len(content), random.choice([60, 2500, len(content)])))
            damaged[place] ^= 1 << random.randrange(8)
            path.write_bytes(damaged)
            try:
                poses = read_poses(path)
            except ValueError as error:
                assert path.name in str(error)
            else:
                assert np.isfinite(poses.keypoints).all() and np.isfinite(poses.scores).all()


def test_pickles_of_arrays_say_how_to_convert_them(tmp_path):
    path = pickle_of_arrays(tmp_path / "clip")
    with pytest.raises(ValueError, match="it asks for numpy.core.multiarray._reconstruct, which could.*tolist"):
        read_poses(path)


def test_single_frames_that_are_damaged_are_unseen():
    frames = with_scores(moving(FRAMES))
    frames[random.randrange(FRAMES)] = random.choice([np.nan, np.inf])
    poses = read_poses(frames)
    assert len(poses) == FRAMES and (poses.scores > 0).any(1).sum() == FRAMES - 1
