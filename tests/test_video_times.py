"""The times of `decode_video`: seconds of the file as players count them, joined recordings, and gaps."""

import re
from pathlib import Path

import av
import numpy as np
import pytest
import torch
from video_files import counting_frames, cut, frame_numbers, joined, write_packets, write_video

from processing import FLaLLMVideoProcessor, VideoDecodingError, decode_video
from processing.video_decoding_slt import decode_segments, stream_grey_pictures
from processing.video_packets_slt import rising_times
from train_scripts.corpora.video_encoding import measure_video


def raises(text: str):
    return pytest.raises(VideoDecodingError, match=re.escape(text))


RECORDINGS = np.array([40, 120, 200])


def write_recordings(folder: Path, suffix: str) -> list[Path]:
    frames = [np.full((50, 48, 64, 3), level, np.uint8) for level in RECORDINGS]
    return [write_packets(folder / f"{k}.{suffix}", recording) for k, recording in enumerate(frames)]


def recordings(frames: torch.Tensor) -> list[int]:
    return np.abs(frames.float().mean((1, 2, 3)).numpy()[:, None] - RECORDINGS).argmin(1).tolist()


@pytest.mark.parametrize("suffix", ["mp4", "mov", "mkv", "webm", "ts", "mpg", "flv"])
def test_seconds_count_from_the_beginning_of_the_file(tmp_path, suffix):
    path = write_packets(tmp_path / f"late.{suffix}", counting_frames(75), picture_begins_at=0.8, seconds_of_sound=4.0)
    whole, part = decode_video(path), decode_video(path, start=1.8, end=2.2)
    assert len(whole.frames) == 75 and whole.timestamps[0] == pytest.approx(0.8, abs=0.03)
    inside = [k for k, seconds in enumerate(whole.timestamps) if 1.799 <= seconds < 2.199]
    assert torch.equal(part.frames, whole.frames[inside]) and len(inside) == 10
    assert part.timestamps == pytest.approx([whole.timestamps[k] for k in inside])
    metadata = FLaLLMVideoProcessor()(path, start=1.8, return_metadata=True)["video_metadata"][0]
    assert metadata["start_in_seconds"] == pytest.approx(part.timestamps[0]) == metadata.timestamps[0]
    segments = list(decode_segments(path, [(0.0, 1.0), (1.8, 2.2)]))
    assert torch.equal(segments[1].frames, part.frames) and len(segments[0].frames) in (4, 5)
    assert next(stream_grey_pictures(path, 8))[0] == pytest.approx(0.8, abs=0.03)
    with raises("and `end`=0.5 lies before it. Seconds count from the beginning of the file."):
        decode_video(path, end=0.5)


def test_what_an_encoder_puts_before_the_sound_is_no_beginning(tmp_path):
    path = write_packets(tmp_path / "clip.webm", counting_frames(10), seconds_of_sound=1.0)
    with av.open(str(path)) as container:
        assert container.start_time <= 0
    assert decode_video(path).timestamps[0] == 0


def test_the_picture_ends_where_it_ends_however_long_the_sound(tmp_path):
    path = write_packets(tmp_path / "clip.mp4", counting_frames(25), seconds_of_sound=2.0)
    with raises(f"`start`=1.5 seconds lies beyond the end of '{path}', which lasts 1.00 seconds."):
        decode_video(path, start=1.5)


@pytest.mark.parametrize("suffix", ["ts", "webm", "mkv", "mpg", "avi"])
def test_joined_recordings_are_read_to_their_end(tmp_path, caplog, suffix):
    count = 2 if suffix in ("webm", "mkv") else 3
    path = joined(tmp_path / f"joined.{suffix}", *write_recordings(tmp_path, suffix)[:count])
    whole = decode_video(path)
    assert recordings(whole.frames) == [k // 50 for k in range(50 * count)]
    assert np.diff(whole.timestamps) == pytest.approx([0.04] * (50 * count - 1))
    seconds = [second for second, _ in stream_grey_pictures(path, 8)]
    assert len(seconds) == 50 * count and np.diff(seconds).min() > 0
    for start, end in ((0.5, 1.0), (1.5, 2.5), (2.6, 3.0), (3.6, 4.4), (3.0, None)):
        part = decode_video(path, start=start, end=end)
        inside = [k for k, second in enumerate(whole.timestamps) if start - 1e-3 <= second < (end or 9) - 1e-3]
        assert recordings(part.frames) == recordings(whole.frames[inside])
        assert part.timestamps == pytest.approx([whole.timestamps[k] for k in inside])
    assert measure_video(path).num_frames == 50 * count
    assert FLaLLMVideoProcessor().split_at_rests(path) == [] and caplog.text == ""


@pytest.mark.parametrize(("suffix", "num_read"), [("webm", 2), ("mkv", 2), ("mp4", 1), ("mov", 1)])
def test_recordings_that_cannot_be_reached_are_said(tmp_path, caplog, suffix, num_read):
    path = joined(tmp_path / f"joined.{suffix}", *write_recordings(tmp_path, suffix))
    assert recordings(decode_video(path).frames) == [k // 50 for k in range(50 * num_read)]
    assert f"{str(path)!r} holds {3 - num_read} more recording(s) after what can be read" in caplog.text
    with pytest.raises(VideoDecodingError, match="not all of its frames can be decoded"):
        measure_video(path)


def test_times_rise_over_new_beginnings_reordering_and_single_wrong_ones():
    reordered = [0, 160, 80, 40, 120, 320, 240, 200, 280, 360]
    keys = [k == 0 for k in range(10)]
    assert rising_times(reordered, keys, 1000) == reordered
    twice = rising_times(reordered * 2, keys * 2, 1000)
    assert twice[:10] == reordered and twice[10:] == [time + 400 for time in reordered]
    steady = list(range(0, 4000, 40))
    for wrong in (90_000, -90_000):
        damaged = [*steady[:30], wrong, *steady[31:]]
        assert rising_times(damaged, [True] * 100, 1000) == steady
    still = [*range(0, 400, 40), *range(90_000, 90_400, 40)]
    assert rising_times(still, [k == 0 for k in range(20)], 1000) == still
    assert rising_times([*steady, *steady[5:]], [False] * 195, 1000)[100:] == [time + 3800 for time in steady[5:]]


@pytest.mark.parametrize("suffix", ["mkv", "ts"])
def test_times_that_run_back_now_and_then_lose_no_frame(tmp_path, suffix):
    def swapped(times: list[int]) -> list[int]:
        return [time + (1 if time % 10 == 3 else -1 if time % 10 == 4 else 0) for time in times]

    path = write_packets(tmp_path / f"swapped.{suffix}", counting_frames(40), change_times=swapped)
    with av.open(str(path)) as container:
        times = [packet.pts for packet in container.demux(video=0) if packet.size]
    assert times != sorted(times)
    video = decode_video(path)
    assert frame_numbers(video.frames, 40) == list(range(40))
    assert video.timestamps == pytest.approx([k / 25 for k in range(40)], abs=2e-3)
    seconds = [second for second, _ in stream_grey_pictures(path, 8)]
    assert len(seconds) == 40 and np.diff(seconds).min() > 0


@pytest.mark.parametrize("codec", ["mpeg2video"])
def test_pictures_without_any_times(tmp_path, codec):
    path = tmp_path / "raw.m2v"
    with av.open(str(path), "w", format="mpeg2video") as container:
        stream = container.add_stream(codec, rate=25)
        stream.height, stream.width, stream.pix_fmt = 48, 64, "yuv420p"
        for index, frame in enumerate(counting_frames(60)):
            picture = av.VideoFrame.from_ndarray(frame, format="rgb24")
            picture.pts = index
            container.mux(stream.encode(picture))
        container.mux(stream.encode())
    whole, part = decode_video(path), decode_video(path, start=1.6, end=2.0)
    assert len(whole.frames) == 60 and whole.timestamps[0] == 0
    assert torch.equal(part.frames, whole.frames[40:50])


def test_avi_with_reordered_frames_is_found_by_its_seconds(tmp_path):
    path = tmp_path / "clip.avi"
    with av.open(str(path), "w") as container:
        stream = container.add_stream("mpeg4", rate=25)
        stream.height, stream.width, stream.pix_fmt = 48, 64, "yuv420p"
        stream.bit_rate, stream.codec_context.max_b_frames = 4_000_000, 2
        for index, frame in enumerate(counting_frames(60)):
            picture = av.VideoFrame.from_ndarray(frame, format="rgb24")
            picture.pts = index
            container.mux(stream.encode(picture))
        container.mux(stream.encode())
    whole, part = decode_video(path), decode_video(path, start=1.6, end=2.0)
    assert np.abs(np.array(frame_numbers(whole.frames, 60)) - np.arange(60)).max() <= 1  # mpeg4 loses a little
    assert whole.timestamps[0] == 0
    assert torch.equal(part.frames, whole.frames[40:50])


def damaged(name: Path, num_frames: int, missing: str) -> str:
    return (
        f"{str(name)!r} is damaged or cut off: going on with the {num_frames} frames that were decoded. Missing "
        f"frames: {missing}."
    )


@pytest.mark.parametrize("suffix", ["mkv", "mp4", "ts"])
def test_what_is_missing_at_the_beginning_is_left_out_and_reported(tmp_path, caplog, suffix):
    path = write_packets(
        tmp_path / f"nokey.{suffix}", counting_frames(50), keyframe_every=25, keep=lambda number: number >= 10
    )
    video = decode_video(path)
    numbers = frame_numbers(video.frames, 50)
    assert numbers == list(range(25, 50))
    assert video.timestamps[0] == pytest.approx(0.6, abs=0.1)
    assert "is damaged or cut off: going on with the 25 frames that were decoded. Missing frames: 1" in caplog.text
    with pytest.raises(VideoDecodingError, match="not all of its frames can be decoded"):
        measure_video(path)
    with raises(f"frames of '{path}' could be decoded"):
        decode_video(path, end=0.2)


def test_what_is_missing_in_the_middle_is_held_and_reported(tmp_path, caplog):
    noise = np.random.randint(256, size=(30, 48, 64, 3), dtype=np.uint8)
    path = write_video(tmp_path / "clip.mp4", noise, keyframe_every=1)
    whole = decode_video(path)
    with av.open(str(path)) as container:
        places = [(packet.pos, packet.size) for packet in container.demux(video=0) if packet.size]
    content = bytearray(path.read_bytes())
    for position, size in places[10:14]:
        content[position : position + size] = bytes(size)
    path.write_bytes(content)
    video = decode_video(path)
    expected = [*range(10), 9, 9, 9, 9, *range(14, 30)]
    assert torch.equal(video.frames, whole.frames[expected])
    assert damaged(path, 30, "4 (seconds 0.40 to 0.56)") in caplog.text
    caplog.clear()
    assert len(decode_video(path, start=0.8).frames) == 10
    # Older releases of torchvision let libav speak for itself, on import.
    assert [record for record in caplog.records if not record.name.startswith("libav")] == []
    with raises(f"None of the 3 frames of '{path}' could be decoded"):
        decode_video(path, start=0.4, end=0.52)


@pytest.mark.parametrize("suffix", ["mkv", "webm", "avi", "mp4"])
def test_what_is_missing_at_the_end_is_reported(tmp_path, caplog, suffix):
    whole = write_video(
        tmp_path / f"whole.{suffix}",
        np.random.randint(256, size=(50, 48, 64, 3), dtype=np.uint8),
        codec="libx264" if suffix == "mkv" else None,
        movflags="faststart" if suffix == "mp4" else None,
    )
    assert measure_video(whole).num_frames == 50
    path = cut(whole, 0.6, tmp_path / f"cut.{suffix}")
    video = decode_video(path)
    assert len(video.frames) < 40
    assert f"going on with the {len(video.frames)} frames that were decoded. Missing frames: " in caplog.text
    with pytest.raises(VideoDecodingError, match="not all of its frames can be decoded"):
        measure_video(path)


def test_a_flag_of_damage_is_none_where_every_frame_decodes(tmp_path, caplog):
    paths = [write_packets(tmp_path / f"{k}.ts", counting_frames(50)) for k in range(2)]
    path = joined(tmp_path / "joined.ts", *paths)
    with av.open(str(path)) as container:
        assert any(packet.is_corrupt for packet in container.demux(video=0))
    assert measure_video(path).num_frames == 100 and caplog.text == ""


def test_a_long_still_picture_is_said_and_is_no_damage(tmp_path, caplog):
    times = [*range(0, 400, 40), *range(2000, 2400, 40)]
    path = write_video(tmp_path / "still.mkv", counting_frames(20), times_in_milliseconds=times, pixel_format="bgr0")
    assert measure_video(path).num_frames == 60
    text = f"{str(path)!r} holds no new picture from second 0.36 to 2.00: the one before stays on screen."
    assert text in caplog.text


@pytest.mark.parametrize("suffix", ["mp4", "mkv"])
@pytest.mark.parametrize("is_first_default", [True, False])
def test_the_track_that_players_show_is_read(tmp_path, suffix, is_first_default):
    path = tmp_path / f"two.{suffix}"
    with av.open(str(path), "w") as container:
        streams = []
        for side in (32, 64):
            stream = container.add_stream("libx264", rate=25)
            stream.width = stream.height = side
            stream.pix_fmt = "yuv420p"
            streams.append(stream)
        default = streams[0] if is_first_default else streams[1]
        default.disposition = av.stream.Disposition.default
        for index in range(10):
            for stream in streams:
                pixels = np.full((stream.height, stream.width, 3), 100, np.uint8)
                picture = av.VideoFrame.from_ndarray(pixels, format="rgb24")
                picture.pts = index
                container.mux(stream.encode(picture))
        for stream in streams:
            container.mux(stream.encode())
    assert decode_video(path).frames.shape[-1] == (32 if is_first_default else 64)
