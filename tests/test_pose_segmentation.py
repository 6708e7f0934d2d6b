"""Where poses of a long clip are cut into sentences: the rests of the hands, whatever the detector gets wrong."""

import re

import numpy as np
import pytest
from signing_poses import FRAMES_PER_SECOND, signing_poses

from processing.pose_segmentation_slt import measure_pose_motion
from processing.segmentation_slt import SegmentLengths, VideoSegment, split_motion

THREE_SENTENCES = [("sign", 2.4), ("rest", 0.6), ("sign", 3.2), ("rest", 0.8), ("sign", 2.0)]
BOUNDARIES = [2.7, 6.6]
LEFT_HAND, RIGHT_HAND = slice(91, 112), slice(112, 133)


def split(
    poses: tuple[np.ndarray, np.ndarray], rate: float = FRAMES_PER_SECOND, start: float = 0.0
) -> list[VideoSegment]:
    motion = measure_pose_motion(*poses, rate, start, 0.3, "'clip.pose'")
    return split_motion(motion, SegmentLengths())


def check_three_sentences(segments: list[VideoSegment], start: float = 0.0) -> None:
    assert [segment.cut for segment in segments] == ["rest"] * 3
    assert [segment.caption_start - start for segment in segments[1:]] == pytest.approx(BOUNDARIES, abs=0.15)
    assert [segment.caption_end for segment in segments[:-1]] == [segment.caption_start for segment in segments[1:]]
    assert segments[0].caption_start == pytest.approx(start)
    assert segments[-1].caption_end == pytest.approx(start + 9, abs=0.1)


def without(poses: tuple[np.ndarray, np.ndarray], frames: slice | np.ndarray, *points: slice | int) -> tuple:
    keypoints, scores = poses
    for part in points:
        scores[frames, part] = 0
    return np.where(scores[..., None] > 0, keypoints, 0), scores


@pytest.mark.parametrize("rate", [12.5, 15, 29.97, 50, 60])
def test_poses_are_cut_in_the_middle_of_their_rests_at_any_rate(rate):
    segments = split(signing_poses(THREE_SENTENCES, rate), rate)
    check_three_sentences(segments)
    assert segments[1].start == pytest.approx(3.0 - 0.1, abs=0.13)
    assert segments[1].end == pytest.approx(6.2 + 0.1, abs=0.13)


def test_seconds_count_from_the_beginning_of_the_file():
    check_three_sentences(split(signing_poses(THREE_SENTENCES), start=7.0), start=7.0)


@pytest.mark.parametrize("jitter", [0.0, 3.0, 5.0])
def test_jitter_of_the_detector_is_no_motion(jitter):
    check_three_sentences(split(signing_poses(THREE_SENTENCES, jitter=jitter)))


def test_the_unit_does_not_matter_and_neither_does_the_place():
    keypoints, scores = signing_poses(THREE_SENTENCES)
    assert split((keypoints * 3 + 500, scores)) == split((keypoints, scores))


def test_a_camera_that_is_moved_is_no_motion():
    keypoints, scores = signing_poses(THREE_SENTENCES)
    for second, shift in ((2.6, 300), (6.5, -200)):  # in a rest
        keypoints[round(second * FRAMES_PER_SECOND) :] += shift
    check_three_sentences(split((keypoints, scores)))


def test_a_hand_below_the_picture_rests():
    first, second = split(signing_poses([("sign", 2.4), ("away", 0.6), ("sign", 3.0)]))
    assert first.caption_end == second.caption_start == pytest.approx(2.7, abs=0.1)
    assert second.cut == "rest"


def test_a_hand_that_is_lost_for_a_moment_does_not_rest():
    poses = signing_poses(THREE_SENTENCES)
    frames = np.concatenate([np.arange(first, first + 5) for first in range(20, 210, 40)])
    check_three_sentences(split(without(poses, frames, RIGHT_HAND, 10)))


def test_hands_that_are_taken_for_each_other_do_not_move():
    keypoints, scores = signing_poses(THREE_SENTENCES)
    for frame in range(20, len(keypoints), 23):
        keypoints[frame, LEFT_HAND], keypoints[frame, RIGHT_HAND] = (
            keypoints[frame, RIGHT_HAND].copy(),
            keypoints[frame, LEFT_HAND].copy(),
        )
        keypoints[frame, [9, 10]] = keypoints[frame, [10, 9]]
    check_three_sentences(split((keypoints, scores)))


def test_the_wrist_of_the_hand_stands_in_for_that_of_the_body():
    check_three_sentences(split(without(signing_poses(THREE_SENTENCES), slice(None), 9, 10)))
    check_three_sentences(split(without(signing_poses(THREE_SENTENCES), slice(None), LEFT_HAND, RIGHT_HAND)))


def test_fingerspelling_is_no_rest():
    (segment,) = split(signing_poses([("move", 2.4), ("spell", 3.0), ("move", 2.0)]))
    assert (segment.start, segment.end) == pytest.approx((0, 7.4), abs=0.15)


def test_a_hand_held_up_for_a_moment_does_not_rest(monkeypatch):
    # At this speed the circling hand comes up before the hold; at others it may go down, as it does before a rest.
    monkeypatch.setattr(np.random, "uniform", lambda low, high: 1.0)
    assert len(split(signing_poses([("move", 2.0), ("hold", 0.3), ("move", 2.0)]))) == 1


def test_idle_time_is_left_out_and_nobody_moves():
    first, second = split(signing_poses([("sign", 2.4), ("rest", 5.0), ("sign", 3.2)]))
    assert second.caption_start - first.caption_end == pytest.approx(4.0, abs=0.3)
    for kind in ("rest", "away"):
        assert split(signing_poses([(kind, 5.0)])) == []
    assert split(signing_poses([("rest", 1 / FRAMES_PER_SECOND)])) == []


def test_without_shoulders_there_is_no_measure():
    with pytest.raises(ValueError, match=re.escape("'clip.pose' never shows both shoulders")):
        split(without(signing_poses(THREE_SENTENCES), slice(None), 5))
