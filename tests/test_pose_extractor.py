"""The normalisation of poses against a naive loop, and the part of the processor around it."""

import itertools
import math
import random

import numpy as np
import pytest
import torch
from pose_sources import HEIGHT, WIDTH, moving
from test_pose_files import random_poses
from tiny_tokenizers import make_plain_tokenizer
from transformers import AutoFeatureExtractor, AutoProcessor

from processing import FLaLLMProcessor, LlavaSltProcessor, PoseFeatureExtractor, Poses, write_poses
from processing.pose_normalisation_slt import normalised_poses, smoothed_poses

# As the description of Uni-Sign lists them.
BODY = [0, 3, 4, 5, 6, 7, 8, 9, 10]
LEFT = list(range(91, 112))
RIGHT = list(range(112, 133))
FACE = [23, 25, 27, 29, 31, 33, 35, 37, 39, 83, 84, 85, 86, 87, 88, 89, 90, 53]
THRESHOLD = 0.3


def naively(keypoints: np.ndarray, scores: np.ndarray) -> np.ndarray:
    """Uni-Sign's normalisation in plain loops: `(frames, 133, 2)` and `(frames, 133)` -> `(frames, 69, 3)`."""
    num_frames = len(keypoints)
    result = np.zeros((num_frames, 69, 3))
    xs, ys = [], []
    for frame in range(num_frames):
        for point in BODY:
            if scores[frame, point] > THRESHOLD:
                xs.append(keypoints[frame, point, 0])
                ys.append(keypoints[frame, point, 1])
    if len(xs) < 4:
        return result
    scale = max(max(xs) - min(xs), max(ys) - min(ys))
    if scale == 0:
        return result
    left, top = (min(xs) + max(xs) - scale) / 2, (min(ys) + max(ys) - scale) / 2
    for frame in range(num_frames):
        place = 0
        for points, origin in ((BODY, None), (LEFT, 91), (RIGHT, 112), (FACE, 53)):
            for point in points:
                x, y = keypoints[frame, point]
                if origin is None:
                    x, y = 2 * (x - left) / scale - 1, 2 * (y - top) / scale - 1
                else:
                    x = (x - keypoints[frame, origin, 0]) / scale
                    y = (y - keypoints[frame, origin, 1]) / scale
                if scores[frame, point] > THRESHOLD:
                    result[frame, place] = [min(max(v, -1), 1) for v in (x, y, scores[frame, point])]
                place += 1
    return result


def as_values(keypoints: np.ndarray, scores: np.ndarray) -> torch.Tensor:
    return torch.tensor(np.concatenate([keypoints, scores[..., None]], -1), dtype=torch.float32)


def test_normalisation_is_that_of_a_naive_loop():
    for _ in range(5):
        num_frames = random.randint(1, 12)
        keypoints = np.random.randn(num_frames, 133, 2) * random.uniform(0.1, 300) + random.uniform(-500, 500)
        scores = np.random.uniform(0.01, 1.3, (num_frames, 133))  # detectors give scores above 1, too
        found = normalised_poses(as_values(keypoints, scores), THRESHOLD)
        np.testing.assert_allclose(found, naively(keypoints, scores), atol=1e-4)


def test_the_square_around_the_body_maps_to_one():
    values = normalised_poses(as_values(moving(5), np.full((5, 133), 0.9)), THRESHOLD)
    body = values[:, :9, :2]
    assert body.amax() == 1 and body.amin() == -1 and (values[..., 2] == torch.tensor(0.9)).all()
    wider = 0 if np.ptp(moving(5)[:, BODY, 0]) > np.ptp(moving(5)[:, BODY, 1]) else 1
    narrower = body[..., 1 - wider]
    assert body[..., wider].amax() == 1 and math.isclose(-narrower.amin(), narrower.amax(), abs_tol=1e-5)
    assert not values[:, [9, 30, 68], :2].any()  # the origins of hands and face


def test_place_and_size_in_the_picture_do_not_matter():
    keypoints, scores = moving(5), np.random.rand(5, 133)
    one = normalised_poses(as_values(keypoints, scores), THRESHOLD)
    other = normalised_poses(as_values(keypoints * 0.37 + [81, -30], scores), THRESHOLD)
    torch.testing.assert_close(one, other, atol=1e-4, rtol=0)


@pytest.mark.parametrize("num_seen", [0, 3])
def test_too_few_points_of_the_body_are_nothing(num_seen):
    scores = np.full((1, 133), 0.9)
    scores[0, BODY[num_seen:]] = 0.2
    assert not normalised_poses(as_values(moving(1), scores), THRESHOLD).any()
    scores[0, BODY[:4]] = 0.9
    assert normalised_poses(as_values(moving(1), scores), THRESHOLD).any()


def test_a_body_at_one_place_is_nothing():
    keypoints = moving(2)
    keypoints[:, BODY] = 7.0
    assert not normalised_poses(as_values(keypoints, np.ones((2, 133))), THRESHOLD).any()


def test_unseen_points_are_zero_in_all_channels():
    scores = np.random.rand(4, 133)
    values = normalised_poses(as_values(moving(4), scores), THRESHOLD)
    seen = scores[:, BODY + LEFT + RIGHT + FACE] > THRESHOLD
    assert ((values != 0).any(-1).numpy() == seen).all() and not values[~torch.tensor(seen)].any()


def test_clips_of_a_batch_are_normalised_each_for_itself():
    """As alone, to the bit, whatever is beside them: longer clips, and one without a body."""
    clips = [as_values(moving(length) * length, np.random.rand(length, 133)) for length in (3, 9, 1, 6)]
    clips[3][:, BODY, 2] = 0
    batch = PoseFeatureExtractor(score_threshold=THRESHOLD).pad(clips)
    for row, clip in enumerate(clips):
        assert batch["pose_attention_mask"][row].sum() == len(clip)
        assert torch.equal(batch["pose_values"][row, : len(clip)], normalised_poses(clip, THRESHOLD))
        assert not batch["pose_values"][row, len(clip) :].any()


def test_the_body_stands_in_for_an_origin_without_a_place():
    """The figure's hands begin at the wrists of its body, and its nose is elsewhere than the tip of its nose."""
    whole = normalised_poses(as_values(moving(3), np.ones((3, 133))), THRESHOLD)
    keypoints, scores = moving(3), np.ones((3, 133))
    keypoints[:, [91, 112]], scores[:, [91, 112]] = 0, 0
    values = normalised_poses(as_values(keypoints, scores), THRESHOLD)
    assert not values[:, [9, 30]].any()
    others = [index for index in range(69) if index not in (9, 30)]
    torch.testing.assert_close(values[:, others], whole[:, others])
    scores[:, [53, 0]] = 0
    face = normalised_poses(as_values(keypoints, scores), THRESHOLD)[:, 51:68]
    torch.testing.assert_close(face[..., :2].mean(1), torch.zeros(3, 2), atol=1e-5, rtol=0)
    shift = face - whole[:, 51:68]
    torch.testing.assert_close(shift, shift[:, :1].expand_as(shift), atol=1e-5, rtol=0)


# The part of the processor


def test_batches_are_padded_after_normalisation(tmp_path):
    clips = [random_poses(length, unseen=0) for length in (7, 3)]
    write_poses(tmp_path / "clip.npz", clips[1])
    batch = PoseFeatureExtractor()([clips[0], str(tmp_path / "clip.npz")], return_tensors="pt")
    assert batch["pose_values"].shape == (2, 7, 69, 3) and batch["pose_values"].dtype == torch.float32
    assert batch["pose_attention_mask"].tolist() == [[1] * 7, [1] * 3 + [0] * 4]
    assert batch["pose_attention_mask"].dtype == torch.int64 and not batch["pose_values"][1, 3:].any()
    alone = PoseFeatureExtractor()(clips[1], return_tensors="pt")["pose_values"][0]
    assert torch.equal(batch["pose_values"][1, :3], alone)
    np.testing.assert_allclose(alone, naively(clips[1].keypoints, clips[1].scores), atol=1e-4)


def test_the_square_is_that_of_the_frames_kept():
    poses = random_poses(100, unseen=0)
    every_fourth = PoseFeatureExtractor(frame_sampling_rate=0.25)(poses, return_tensors="pt")["pose_values"][0]
    expected = naively(poses.keypoints[::4], poses.scores[::4])
    np.testing.assert_allclose(every_fourth, expected, atol=1e-4)


def test_long_clips_are_thinned_evenly():
    extractor = PoseFeatureExtractor(max_num_frames=5)
    assert extractor.sample_frame_indices(12) == [0, 2, 4, 7, 9]
    assert extractor.sample_frame_indices(4) == [0, 1, 2, 3]
    assert PoseFeatureExtractor().sample_frame_indices(300) == [index * 300 // 256 for index in range(256)]
    assert PoseFeatureExtractor(max_num_frames=None).sample_frame_indices(300) == list(range(300))
    assert extractor.sample_frame_indices(12, max_num_frames=2) == [0, 6]
    poses = random_poses(60, frames_per_second=20.0)
    part = PoseFeatureExtractor()(poses, start=1.0, end=2.0, return_tensors="pt")["pose_values"]
    assert part.shape == (1, 20, 69, 3)


def test_the_aspect_ratio_is_kept_or_lost():
    poses = random_poses(4, width=float(WIDTH), height=float(HEIGHT))
    fractions = Poses(poses.keypoints / np.array([WIDTH, HEIGHT], np.float32), poses.scores)
    kept = PoseFeatureExtractor().read(poses)
    lost = PoseFeatureExtractor(keep_aspect_ratio=False)
    np.testing.assert_array_equal(kept[..., :2], poses.keypoints)
    torch.testing.assert_close(lost.read(poses), lost.read(fractions))
    torch.testing.assert_close(PoseFeatureExtractor().read(fractions), lost.read(fractions))
    with pytest.raises(ValueError, match="holds pixels of a picture of unknown size, and the model reads"):
        lost.read(Poses(poses.keypoints, poses.scores))


def test_points_are_averaged_over_neighbouring_frames():
    """Against loops; the points that are too rarely seen around a frame are 0."""
    poses = random_poses(40, unseen=0.5)
    values = as_values(poses.keypoints, poses.scores)
    values[:20, 7] = 0
    smoothed = smoothed_poses(values, 1.3, THRESHOLD)
    assert smoothed.shape == values.shape and smoothed.dtype == torch.float32
    for frame, point in itertools.product(range(40), (0, 7, 95, 130)):
        weights = [
            math.exp(-(((other - frame) / 1.3) ** 2) / 2) * float(values[other, point, 2]) ** 2
            if abs(other - frame) <= 4 and values[other, point, 2] > THRESHOLD
            else 0.0
            for other in range(40)
        ]
        expected = torch.zeros(3, dtype=torch.float64)
        if sum(weights) >= 0.05:
            expected = sum(weight * values[other, point].double() for other, weight in enumerate(weights)) / sum(
                weights
            )
        torch.testing.assert_close(smoothed[frame, point].double(), expected, atol=2e-3, rtol=1e-4)
    assert not smoothed[:16, 7].any()


def test_smoothing_calms_points_and_fills_gaps():
    keypoints, scores = moving(50).astype(np.float32), np.ones((50, 133), np.float32)
    shaking = keypoints + np.random.normal(size=keypoints.shape).astype(np.float32)
    scores[20:22, 91:112] = 0
    poses = Poses(shaking, scores, frames_per_second=50.0)
    calm = PoseFeatureExtractor(smoothing_seconds=0.04).read(poses)
    inside = slice(8, 42)
    errors = [np.abs(each - keypoints)[inside].mean() for each in (shaking, calm[..., :2].numpy())]
    assert errors[1] < 0.6 * errors[0]
    assert (calm[20:22, 91:112, 2] > 0.9).all()


def test_smoothing_is_in_seconds(monkeypatch):
    from processing import feature_extraction_poses_slt

    told: list[str] = []
    monkeypatch.setattr(feature_extraction_poses_slt.logger, "warning_once", told.append)
    extractor = PoseFeatureExtractor(smoothing_seconds=0.1)
    poses = random_poses(30)
    keypoints, scores = poses.keypoints, poses.scores
    for rate in (10.0, 50.0, None):
        expected = smoothed_poses(as_values(keypoints, scores), 0.1 * (rate or 25), THRESHOLD)
        assert torch.equal(extractor.read(Poses(keypoints, scores, frames_per_second=rate)), expected)
    assert told == ["Poses that state no frame rate are smoothed as if they had 25 frames per second."]


def test_poses_of_another_extractor_are_told(monkeypatch):
    from processing import feature_extraction_poses_slt

    told: list[str] = []
    monkeypatch.setattr(feature_extraction_poses_slt.logger, "warning_once", told.append)
    extractor = PoseFeatureExtractor(extractor="rtmlib rtmw-x")
    for other in (None, "rtmlib rtmw-x", "mediapipe 0.10.21"):
        extractor.read(random_poses(extractor=other))
    PoseFeatureExtractor().read(random_poses(extractor="mediapipe 0.10.21"))
    (warning,) = told
    assert warning == (
        "The clips hold poses of mediapipe 0.10.21, but the model was trained on those of rtmlib rtmw-x. Expect worse "
        "translations."
    )


def test_settings_are_saved(tmp_path):
    settings = {"frame_sampling_rate": 0.5, "max_num_frames": 64, "score_threshold": 0.1, "keep_aspect_ratio": False}
    settings["smoothing_seconds"] = 0.05
    PoseFeatureExtractor(**settings, extractor="x").save_pretrained(tmp_path)
    loaded = AutoFeatureExtractor.from_pretrained(tmp_path)
    assert type(loaded) is PoseFeatureExtractor
    assert {name: getattr(loaded, name) for name in settings} == settings and loaded.extractor == "x"


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"frame_sampling_rate": 0}, "`frame_sampling_rate` must be above 0 and up to 1, got 0."),
        ({"max_num_frames": 0}, "`max_num_frames` must be 1 or more, or None for no limit, got 0."),
        ({"smoothing_seconds": 1.5}, "`smoothing_seconds` must be from 0 to 1, got 1.5."),
        ({"score_threshold": 1.0}, "`score_threshold` must be from 0 to below 1, got 1.0."),
    ],
)
def test_wrong_settings(settings, message):
    with pytest.raises(ValueError, match=message):
        PoseFeatureExtractor(**settings)


@pytest.mark.parametrize("processor_class", [FLaLLMProcessor, LlavaSltProcessor])
def test_processors_take_poses(processor_class, tmp_path):
    processor = processor_class(feature_extractor=PoseFeatureExtractor(), tokenizer=make_plain_tokenizer())
    processor.save_pretrained(tmp_path)
    loaded = AutoProcessor.from_pretrained(tmp_path)
    assert type(loaded.feature_extractor) is PoseFeatureExtractor and loaded.modality.column == "poses"
    poses = [random_poses(5), random_poses(3)]
    batch = loaded(poses=poses, text_target=["it rains", "it snows"], return_tensors="pt")
    assert batch["pose_values"].shape == (2, 5, 69, 3) and len(batch["labels"]) == 2
    with pytest.raises(ValueError, match="This processor takes `poses`, as its model does, got `videos`."):
        loaded(videos=["clip.mp4"], text_target=["it rains"])
