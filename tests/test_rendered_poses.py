"""The keypoints of the rendered signers: where the pictures show them, and with the errors of a detector."""

from dataclasses import replace

import numpy as np
import pytest

from train_scripts.rendered_corpus.rendered_poses import FACE, LEFT_HAND, RIGHT_HAND, Skeleton, pose_clip
from train_scripts.rendered_corpus.signers import Signer, create_signer
from train_scripts.rendered_corpus.signing_renderer import render_clip

RESOLUTION = 128
GLOSSES = ("TEACHER", "BOOK", "BUY", "NOT")
FINGERTIPS = np.array([4, 8, 12, 16, 20])
HANDS = slice(LEFT_HAND.start, RIGHT_HAND.stop)
LOWER_BODY = slice(11, 23)


def draw_signer(seed: int, is_left_handed: bool = False) -> Signer:
    random_generator = np.random.default_rng(seed)
    return create_signer("signer", random_generator.random(), is_left_handed, random_generator)


def in_plain_light(signer: Signer) -> Signer:
    """The signer with the skin's own colour in every pixel that shows it."""
    recordings = (replace(recording, light=(1.0, 1.0, 1.0), shade=0.0, noise=0.0) for recording in signer.recordings)
    return replace(signer, recordings=tuple(recordings))


def poses(signer: Signer, seed: int, errors: float = 0.0, error_seed: int = 1) -> tuple[np.ndarray, np.ndarray]:
    generators = np.random.default_rng(seed), np.random.default_rng(error_seed)
    return pose_clip(GLOSSES, signer, RESOLUTION, generators[0], errors, generators[1])


def share_near_skin(frames: np.ndarray, signer: Signer, frame: np.ndarray, points: np.ndarray) -> float:
    """The share of the points, (points, 2), with skin in the 3 x 3 pixels around them: tips may be on the outline of
    the finger beside them."""
    columns, rows = points.astype(int).T
    around = np.pad(frames, ((0, 0), (1, 1), (1, 1), (0, 0)), mode="edge").astype(int)
    shifts = [(row, column) for row in range(3) for column in range(3)]
    found = np.stack([around[frame, rows + row, columns + column] for row, column in shifts])
    return float(np.mean(np.abs(found - signer.skin_colour).max(axis=-1).min(axis=0) < 30))


@pytest.mark.parametrize("is_left_handed", [False, True])
def test_fingertips_of_the_dominant_hand_are_on_skin(is_left_handed: bool, seed: int):
    signer = in_plain_light(draw_signer(seed, is_left_handed))
    frames = render_clip(GLOSSES, signer, RESOLUTION, np.random.default_rng(seed))
    keypoints, scores = poses(signer, seed)
    dominant = LEFT_HAND if is_left_handed else RIGHT_HAND
    tips, seen = keypoints[:, dominant][:, FINGERTIPS], scores[:, dominant][:, FINGERTIPS] > 0
    frame, finger = np.nonzero(seen)
    points = tips[frame, finger]
    assert seen.mean() > 0.9 and share_near_skin(frames, signer, frame, points) > 0.95
    assert share_near_skin(frames, signer, frame, [RESOLUTION - 1, 0] + points * [-1, 1]) < 0.6


def test_keypoints_are_those_of_the_frames_and_of_every_resolution(seed: int):
    signer = draw_signer(seed)
    frames = render_clip(GLOSSES, signer, RESOLUTION, np.random.default_rng(seed))
    keypoints, scores = poses(signer, seed)
    assert keypoints.shape == (len(frames), 133, 2) and scores.shape == (len(frames), 133)
    assert keypoints.dtype == scores.dtype == np.float32 and set(np.unique(scores)) == {0.0, 1.0}
    twice, _ = pose_clip(GLOSSES, signer, 2 * RESOLUTION, np.random.default_rng(seed))
    np.testing.assert_allclose(twice, 2 * keypoints, rtol=1e-4)


def test_what_the_picture_does_not_show_is_unseen(seed: int):
    keypoints, scores = poses(draw_signer(seed), seed)
    assert not scores[:, LOWER_BODY].any() and scores[:, :11].all() and scores[:, FACE].all()
    assert not keypoints[scores == 0].any()
    seen = keypoints[scores > 0]
    assert seen.min() >= 0 and seen.max() < RESOLUTION


def test_left_and_right_are_the_signers(seed: int):
    keypoints, _ = poses(draw_signer(seed), seed)
    for left, right in ((1, 2), (3, 4), (5, 6), (7, 8), (68, 59)):  # 59 and 68: outer corners of the eyes
        assert (keypoints[:, left, 0] > keypoints[:, right, 0]).all(), (left, right)
    for wrist, hand in ((9, LEFT_HAND), (10, RIGHT_HAND)):
        np.testing.assert_array_equal(keypoints[:, wrist], keypoints[:, hand.start])
    moved = [np.ptp(keypoints[:, wrist], axis=0).max() for wrist in (9, 10)]
    assert moved[1] > moved[0], "the right hand is the dominant one"


def test_a_left_handed_signer_is_the_mirror_image_with_left_and_right_swapped(seed: int):
    signer = draw_signer(seed)
    right, right_scores = poses(signer, seed)
    left, left_scores = poses(replace(signer, is_left_handed=True), seed)
    mirrored = np.where(right_scores[..., None] > 0, [RESOLUTION, 0] + right * [-1, 1], 0)
    pairs = [(LEFT_HAND, RIGHT_HAND), (RIGHT_HAND, LEFT_HAND), ([5, 7, 9, 1, 3], [6, 8, 10, 2, 4])]
    for ours, theirs in pairs:
        np.testing.assert_allclose(left[:, ours], mirrored[:, theirs], atol=1e-3)
        np.testing.assert_array_equal(left_scores[:, ours], right_scores[:, theirs])


def test_points_of_the_face_have_the_order_of_300_w(seed: int):
    keypoints, _ = poses(draw_signer(seed), seed)
    x, y = keypoints[0, FACE].T
    assert (np.diff(x[:17]) > 0).all() and y[8] == y[:17].max(), "the jaw, from the signer's right"
    for first, last in ((17, 21), (22, 26), (31, 35), (48, 54), (60, 64)):
        assert (np.diff(x[first : last + 1]) > 0).all(), (first, last)
    assert y[17:27].max() < y[36:48].min() < y[30] < y[48:].min() < y[8], "brows, eyes, nose, mouth, chin"
    assert (y[49:54] < y[[59, 58, 57, 56, 55]].max()).all() and y[51] < y[57] and y[62] < y[66], "upper lip above lower"
    assert (x[36] < x[39] < x[42] < x[45]) and (y[37] < y[41]) and (y[43] < y[47])
    np.testing.assert_array_equal(keypoints[:, FACE][:, 30], keypoints[:, 0])


def test_errors_grow_in_proportion_and_follow_from_their_seed(seed: int):
    signer = draw_signer(seed)
    true, _ = poses(signer, seed)
    once, scores = poses(signer, seed, 0.001, error_seed=seed)
    twice, _ = poses(signer, seed, 0.002, error_seed=seed)
    seen = scores > 0
    np.testing.assert_allclose((twice - true)[seen], 2 * (once - true)[seen], atol=1e-4)
    assert np.abs(once - true)[seen].max() > 1e-3
    again, _ = poses(signer, seed, 1.0, error_seed=seed)
    np.testing.assert_array_equal(again, poses(signer, seed, 1.0, error_seed=seed)[0])
    assert not np.array_equal(again, poses(signer, seed, 1.0, error_seed=seed + 1)[0])


def test_low_scores_go_with_large_errors_and_fast_hands(seed: int):
    signer = draw_signer(seed)
    true, seen = poses(signer, seed)
    clips = [poses(signer, seed, 1.0, error_seed=number) for number in range(20)]
    hands = np.stack([np.linalg.norm(keypoints - true, axis=-1)[:, HANDS] for keypoints, _ in clips])
    scores = np.stack([scores[:, HANDS] for _, scores in clips])
    is_seen = (scores > 0) & (seen[:, HANDS] > 0)
    errors, scores_seen = hands[is_seen], scores[is_seen]
    assert np.corrcoef(errors, scores_seen)[0, 1] < -0.3
    assert errors[scores_seen < 0.3].mean() > 2 * errors[scores_seen > 0.7].mean()
    skeleton = Skeleton(GLOSSES, signer, RESOLUTION, np.random.default_rng(seed))
    difficulty = skeleton.difficulty()[:, HANDS]
    fast = difficulty > np.quantile(difficulty, 0.9)
    assert scores[:, fast].mean() < scores[:, ~fast].mean() - 0.1


def test_a_detector_drifts_swaps_and_misses_hands_and_drops_frames(seed: int):
    signer = draw_signer(seed)
    true, _ = poses(signer, seed)
    num_dropped = num_swapped = num_missing = 0
    drifts = []
    for number in range(60):
        keypoints, scores = poses(signer, seed, 1.0, error_seed=number)
        dropped = ~scores.any(axis=1)
        num_dropped += dropped.sum()
        left, right = (keypoints[~dropped, hand].mean(axis=1) for hand in (LEFT_HAND, RIGHT_HAND))
        true_left, true_right = (true[~dropped, hand].mean(axis=1) for hand in (LEFT_HAND, RIGHT_HAND))
        kept, crossed = (
            np.linalg.norm(left - one, axis=-1) + np.linalg.norm(right - other, axis=-1)
            for one, other in ((true_left, true_right), (true_right, true_left))
        )
        num_swapped += (crossed < kept).sum()
        num_missing += (scores[~dropped, RIGHT_HAND].max(axis=1) < 0.25).sum()
        nose = keypoints[~dropped, 0] - true[~dropped, 0]
        drifts.append((nose[1:] * nose[:-1]).mean() / (nose**2).mean())
    num_frames = 60 * len(true)
    assert 0 < num_dropped < 0.03 * num_frames
    assert 0 < num_swapped < 0.1 * num_frames
    assert 0 < num_missing < 0.1 * num_frames
    assert 0.2 < np.mean(drifts) < 0.8, "a part of the error stays from frame to frame, and a part does not"
