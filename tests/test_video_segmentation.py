"""`split_at_rests` and `read_segments`: where a long video is cut, and that its parts are read once and one by one."""

import math
import re
from pathlib import Path

import numpy as np
import pytest
import torch
from signing_pictures import FRAMES_PER_SECOND, signing
from video_files import counting_frames, cut, write_audio, write_pictures, write_video

from processing import FLaLLMVideoProcessor, VideoDecodingError, VideoSegment, decode_video
from processing import video_file_frames_slt as decoding

THREE_SENTENCES = [("sign", 2.4), ("rest", 0.6), ("sign", 3.2), ("rest", 0.8), ("sign", 2.0)]
BOUNDARIES = [2.7, 6.6]
DURATION = 9.0


def split(frames: np.ndarray | Path, **lengths: float) -> list[VideoSegment]:
    source_fps = FRAMES_PER_SECOND if isinstance(frames, np.ndarray) else None
    return FLaLLMVideoProcessor().split_at_rests(frames, source_fps=source_fps, **lengths)


def check_three_sentences(segments: list[VideoSegment], duration: float = DURATION) -> None:
    assert [segment.cut for segment in segments] == ["rest"] * 3
    assert [segment.caption_start for segment in segments[1:]] == pytest.approx(BOUNDARIES, abs=0.15)
    assert [segment.caption_end for segment in segments[:-1]] == [segment.caption_start for segment in segments[1:]]
    assert segments[0].caption_start == pytest.approx(0, abs=0.05)
    assert segments[-1].caption_end == pytest.approx(duration, abs=0.1)


# Cuts


def test_a_video_is_cut_in_the_middle_of_its_rests():
    segments = split(signing(THREE_SENTENCES))
    check_three_sentences(segments)
    assert segments[1].start == pytest.approx(3.0 - 0.1, abs=0.13)
    assert segments[1].end == pytest.approx(6.2 + 0.1, abs=0.13)
    for segment in segments:
        assert segment.caption_start <= segment.start < segment.end <= segment.caption_end


@pytest.mark.parametrize("noise", [0.0, 5.0])
def test_noise_of_the_camera_is_no_motion(noise):
    check_three_sentences(split(signing(THREE_SENTENCES, noise)))


def test_a_lamp_that_goes_on_is_no_motion():
    frames = signing(THREE_SENTENCES)
    frames[65:] += 25  # in the first rest
    check_three_sentences(split(frames))


def test_one_sentence_gives_one_segment():
    for plan in ([("sign", 3.0)], [("rest", 0.5), ("sign", 2.0), ("rest", 0.7)]):
        frames = signing(plan)
        (segment,) = split(frames)
        assert (segment.caption_start, segment.caption_end) == (0.0, pytest.approx(len(frames) / 25, abs=0.05))


def test_a_hand_that_is_held_up_is_no_rest_but_one_that_is_lowered_for_as_long_is():
    held = signing([("rest", 0.2), ("move", 1.5), ("hold", 0.3), ("move", 1.5), ("rest", 0.2)])
    assert len(split(held)) == 1
    assert len(split(signing([("sign", 1.8), ("rest", 0.3), ("sign", 1.8)]))) == 2


def test_a_change_of_the_picture_between_two_rests_is_no_motion():
    """As where two films meet."""
    first, second = signing([("sign", 2.0), ("rest", 0.2)]), signing([("rest", 0.2), ("sign", 2.0)])
    segments = split(np.concatenate([first, 255 - second]))
    assert [segment.caption_start for segment in segments] == pytest.approx([0, 2.2], abs=0.15)


def test_films_that_are_joined_without_a_pause():
    first, second = signing([("sign", 2.0)]), signing([("sign", 3.0)])[:, :, 2:]
    second = np.concatenate([second, second[:, :, -2:]], axis=2)  # another place of the camera
    segments = split(np.concatenate([first, first[-1:], second[:1], second]))
    assert [segment.caption_start for segment in segments] == pytest.approx([0, 2.04], abs=0.15)


def test_a_file_that_holds_each_frame_twice():
    """As if a slow camera's pictures were written at a higher rate."""
    check_three_sentences(split(signing(THREE_SENTENCES)[::2].repeat(2, axis=0)))
    assert len(split(signing([("sign", 4.0)])[::2].repeat(2, axis=0))) == 1


def test_time_in_which_nobody_moves_is_left_out():
    plan = [("rest", 4.0), ("sign", 2.0), ("rest", 6.0), ("sign", 3.0), ("rest", 5.0)]
    first, second = split(signing(plan))
    assert (first.caption_start, first.caption_end) == pytest.approx((3.5, 6.5), abs=0.15)
    assert (second.caption_start, second.caption_end) == pytest.approx((11.5, 15.5), abs=0.15)
    assert len(split(signing(plan), idle_seconds=7.0)) == 2
    assert split(signing(plan), idle_seconds=7.0)[0].caption_start == 0


@pytest.mark.parametrize("noise", [0.0, 1.0, 2.5])
def test_a_video_in_which_nobody_moves_has_no_segment(noise):
    assert split(signing([("rest", 4.0)], noise)) == []
    assert split(signing([("hold", 1.0)], noise)) == []


def test_pieces_that_are_too_short_are_joined_across_the_shorter_rest():
    plan = [("sign", 2.0), ("rest", 0.5), ("sign", 0.8), ("rest", 1.0), ("sign", 2.0)]
    segments = split(signing(plan), shortest_seconds=2.0)
    assert [segment.caption_start for segment in segments] == pytest.approx([0, 3.8], abs=0.15)
    assert len(split(signing(plan), shortest_seconds=0.5)) == 3


def test_signing_without_rest_is_cut_at_little_motion_or_else_with_an_overlap():
    lengths = {"longest_seconds": 5.0, "overlap_seconds": 0.8}
    with_hold = signing([("move", 3.5), ("hold", 0.3), ("move", 4.0)])
    first, second = split(with_hold, **lengths)
    assert second.cut == "minimum"
    assert first.caption_end == second.caption_start == pytest.approx(3.65, abs=0.2)
    without = split(signing([("move", 13.0)]), **lengths)
    assert len(without) > 2 and all(segment.end - segment.start <= 5.0 + 1e-9 for segment in without)
    assert {segment.cut for segment in without[1:]} == {"overlap"}
    for earlier, later in zip(without[:-1], without[1:], strict=True):
        assert earlier.end - later.start == pytest.approx(0.8)


def test_only_the_part_that_was_asked_for():
    frames = signing(THREE_SENTENCES)
    segments = FLaLLMVideoProcessor().split_at_rests(frames, start=1.0, end=8.0, source_fps=25)
    assert (segments[0].caption_start, segments[-1].caption_end) == (1.0, pytest.approx(8.0, abs=0.05))
    assert [segment.caption_start for segment in segments[1:]] == pytest.approx(BOUNDARIES, abs=0.15)


# Files


@pytest.mark.parametrize("name", ["clip.mp4", "clip.webm", "clip.avi", "live.webm", "turned.mp4", "fast.mp4"])
def test_files_of_all_kinds(name, tmp_path):
    frames = signing(THREE_SENTENCES)
    values = {"live": True} if name == "live.webm" else {}
    if name == "turned.mp4":
        frames, values = np.rot90(frames, -1, axes=(1, 2)), {"rotation": 90}
    if name == "fast.mp4":
        frames, values = frames.repeat(2, axis=0), {"fps": 50}
    path = write_video(tmp_path / name, frames, **values)
    check_three_sentences(split(path))
    check_three_sentences(FLaLLMVideoProcessor().split_at_rests(path.read_bytes()))


def test_a_variable_frame_rate(tmp_path):
    """The camera leaves out every other frame while little moves, as phones do."""
    frames = signing(THREE_SENTENCES)
    kept = [k for k in range(len(frames)) if k % 2 == 0 or not 62 <= k < 72]
    times = [40 * k for k in kept]
    check_three_sentences(
        split(write_video(tmp_path / "clip.mkv", frames[kept], codec="libx264", times_in_milliseconds=times))
    )


def test_pictures_and_folders_of_them(tmp_path):
    frames = signing(THREE_SENTENCES)[::2]
    processor = FLaLLMVideoProcessor()
    check_three_sentences(processor.split_at_rests(list(frames), source_fps=12.5))
    check_three_sentences(processor.split_at_rests(str(write_pictures(tmp_path / "frames", frames)), source_fps=12.5))


def test_what_cannot_be_read_gives_the_errors_of_decode_video(tmp_path):
    path = write_video(tmp_path / "clip.mp4", counting_frames(20))
    (tmp_path / "empty.mp4").touch()
    bad = [cut(path, 0.5, tmp_path / "cut.mp4"), tmp_path / "missing.mp4", write_audio(tmp_path / "audio.mp4")]
    for video in [*bad, tmp_path / "empty.mp4", b"nothing", 3, []]:
        with pytest.raises(VideoDecodingError) as expected:
            decode_video(video)
        with pytest.raises(VideoDecodingError, match=re.escape(str(expected.value))):
            FLaLLMVideoProcessor().split_at_rests(video)
    with pytest.raises(VideoDecodingError, match=re.escape("`start`=9 seconds lies beyond the end of")):
        FLaLLMVideoProcessor().split_at_rests(path, start=9)
    message = "the video given as an array of shape (5, 8, 8, 3) has no frame rate, so its frames have no seconds."
    with pytest.raises(VideoDecodingError, match=re.escape(message)):
        FLaLLMVideoProcessor().split_at_rests(np.zeros((5, 8, 8, 3), np.uint8))


def test_time_stamps_that_lie_years_ahead_take_no_memory():
    frames = np.zeros((4, 8, 8, 3), np.uint8)
    with pytest.raises(VideoDecodingError, match=re.escape("The time stamps of the video span more than 24 hours.")):
        FLaLLMVideoProcessor().split_at_rests(frames, source_fps=1e-9)


def test_lengths_that_make_no_sense_are_refused():
    frames = signing([("sign", 2.0)])
    with pytest.raises(ValueError, match=re.escape("`idle_seconds` must be a number of seconds above 0, got -1.")):
        split(frames, idle_seconds=-1)
    with pytest.raises(ValueError, match=re.escape("`rest_seconds` must be 0 or more seconds, got nan.")):
        split(frames, rest_seconds=float("nan"))
    message = (
        "`longest_seconds` must be at least twice `shortest_seconds` and `overlap_seconds`, got longest_seconds=1.5"
    )
    with pytest.raises(ValueError, match=re.escape(message)):
        split(frames, longest_seconds=1.5)


# Reading


@pytest.fixture
def processor() -> FLaLLMVideoProcessor:
    size = {"height": 36, "width": 36}
    return FLaLLMVideoProcessor(size=size, crop_size={"height": 32, "width": 32}, frame_sampling_rate=0.5)


SEGMENTS = [(0.0, 1.3), (1.3, 2.52), (2.0, 4.0), (3.97, 4.9), (6.1, 7.0)]


@pytest.mark.parametrize("name", ["clip.mp4", "clip.webm", "live.webm", "clip.avi", "clip.ts", "variable.mkv"])
def test_each_part_is_what_the_processor_reads_alone(name, processor, tmp_path):
    frames = np.random.randint(0, 256, (180, 6, 8, 3), np.uint8).repeat(6, 1).repeat(6, 2)
    values = {"live": True} if name == "live.webm" else {}
    if name == "variable.mkv":
        values = {"codec": "libx264", "times_in_milliseconds": np.random.randint(25, 55, 180).cumsum().tolist()}
    path = write_video(tmp_path / name, frames, **values)
    pieces = processor.read_segments(path, SEGMENTS)
    for (start, end), piece in zip(SEGMENTS, pieces, strict=True):
        alone = processor(path, start=start, end=end, return_metadata=True, return_tensors="pt")
        torch.testing.assert_close(piece["pixel_values_videos"], alone["pixel_values_videos"][0], rtol=0, atol=0)
        assert piece["start"] == piece["caption_start"] == start and piece["end"] == piece["caption_end"] == end
        for key in ("frames_indices", "total_num_frames", "fps", "duration"):
            assert piece["video_metadata"][key] == alone["video_metadata"][0][key]


def test_parts_of_arrays_and_pictures(processor):
    frames = np.random.randint(0, 256, (180, 8, 8, 3), np.uint8)
    for video in (frames, list(frames)):
        pieces = list(processor.read_segments(video, SEGMENTS, source_fps=25))
        for (start, end), piece in zip(SEGMENTS, pieces, strict=True):
            expected = processor(frames[math.ceil(start * 25) : math.ceil(end * 25)], return_tensors="pt")
            torch.testing.assert_close(piece["pixel_values_videos"], expected["pixel_values_videos"][0])


def test_a_file_is_decoded_once_and_only_as_far_as_its_parts_are_taken(processor, tmp_path, monkeypatch):
    path = write_video(tmp_path / "clip.mp4", counting_frames(300), keyframe_every=1000)
    decoded, original = [], decoding._decoded

    def count(*arguments):
        for frame in original(*arguments):
            decoded.append(frame.pts)
            yield frame

    monkeypatch.setattr(decoding, "_decoded", count)
    parts = [(start, start + 0.5) for start in np.arange(0, 10, 0.5).tolist()]
    pieces = processor.read_segments(path, parts)
    next(pieces)
    assert len(decoded) < 30
    assert sum(1 for _ in pieces) == len(parts) - 1
    assert len(decoded) == len(set(decoded)) <= 300


def test_parts_that_cannot_be_read(processor, tmp_path):
    path = write_video(tmp_path / "clip.mp4", counting_frames(50))
    message = "The parts of a video must come in order of time, got 1 to 2 before 0 to 1 seconds."
    with pytest.raises(VideoDecodingError, match=re.escape(message)):
        list(processor.read_segments(path, [(1, 2), (0, 1)]))
    with pytest.raises(VideoDecodingError, match=re.escape("`start`=5 seconds lies beyond the end of")):
        list(processor.read_segments(path, [(0, 1), (5, 6)]))
    with pytest.raises(VideoDecodingError, match=re.escape("`start` must lie before `end`, got start=1 and end=1")):
        list(processor.read_segments(path, [(1, 1)]))
    assert list(processor.read_segments(path, [])) == []
