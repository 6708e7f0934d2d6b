"""`decode_video`: every kind of input, time, orientation, and the text of each error."""

import http.server
import io
import re
import threading
import zlib
from pathlib import Path

import av
import numpy as np
import pytest
import torch
from PIL import Image
from video_files import (
    counting_frames,
    cut,
    frame_numbers,
    unseekable,
    write_audio,
    write_pictures,
    write_video,
)

from processing import VideoDecodingError, decode_video, video_download_slt, video_file_frames_slt

RECORDED_CLIPS = Path(__file__).resolve().parents[2] / "shared" / "videos"


@pytest.fixture
def noise() -> np.ndarray:
    seed = np.random.SeedSequence().entropy
    print(f"noise seed {seed}")
    return np.random.default_rng(seed).integers(0, 256, (12, 24, 32, 3), dtype=np.uint8)


@pytest.fixture
def clip(tmp_path) -> Path:
    return write_video(tmp_path / "clip.mp4", counting_frames(50))


def raises(text: str):
    return pytest.raises(VideoDecodingError, match=re.escape(text))


@pytest.mark.parametrize("suffix", ["mp4", "mov", "webm", "avi", "ts"])
def test_containers_give_every_frame_in_order(tmp_path, suffix):
    path = write_video(tmp_path / f"clip.{suffix}", counting_frames(20))
    video = decode_video(path)
    assert video.frames.dtype == torch.uint8 and video.frames.shape == (20, 3, 48, 64)
    assert frame_numbers(video.frames, 20) == list(range(20))
    assert video.fps == pytest.approx(25) and video.duration_in_seconds == pytest.approx(0.8)
    assert np.diff(video.timestamps) == pytest.approx([0.04] * 19)


def test_avi_with_reordered_frames_comes_out_in_display_order(tmp_path):
    path = write_video(tmp_path / "clip.avi", counting_frames(20), codec="libx264")
    assert frame_numbers(decode_video(path).frames, 20) == list(range(20))


def test_webm_states_no_frame_count(tmp_path):
    path = write_video(tmp_path / "clip.webm", counting_frames(15))
    with av.open(str(path)) as container:
        assert container.streams.video[0].frames == 0
    assert len(decode_video(path).frames) == 15


def test_lossless_file_gives_the_exact_pixels(tmp_path, noise):
    path = write_video(tmp_path / "clip.mkv", noise, pixel_format="bgr0")
    assert torch.equal(decode_video(path).frames, torch.from_numpy(noise).permute(0, 3, 1, 2))


def test_every_kind_of_array_and_picture_gives_the_same_frames(tmp_path, noise):
    expected = torch.from_numpy(noise).permute(0, 3, 1, 2)
    folder = write_pictures(tmp_path / "frames", noise)
    rgba = np.concatenate([noise, np.full_like(noise[..., :1], 7)], axis=-1)
    videos = {
        "array": noise,
        "read-only array": np.frombuffer(noise.tobytes(), np.uint8).reshape(noise.shape),
        "channels first": np.ascontiguousarray(noise.transpose(0, 3, 1, 2)),
        "tensor": expected,
        "rgba": rgba,
        "16 bit": noise.astype(np.uint16) * 257,
        "floats": noise.astype(np.float32) / 255,
        "double tensor": expected.double() / 255,
        "pictures": [Image.fromarray(frame) for frame in noise],
        "rgba pictures": [Image.fromarray(frame) for frame in rgba],
        "arrays": list(noise),
        "tuple of tensors": tuple(expected),
        "folder": folder,
        "folder name": str(folder),
        "picture paths": [folder / f"frame{k}.png" for k in range(1, 13)],
    }
    for kind, video in videos.items():
        decoded = decode_video(video)
        assert torch.equal(decoded.frames, expected), kind
        assert decoded.fps is None and decoded.timestamps is None, kind


def test_grey_frames_become_rgb(noise):
    grey = noise[..., 0]
    expected = torch.from_numpy(grey)[:, None].expand(-1, 3, -1, -1)
    pictures_16_bit = [Image.fromarray(frame.astype(np.uint16) * 257) for frame in grey]
    for video in (grey, grey[..., None], grey[:, None], list(grey), [Image.fromarray(frame) for frame in grey]):
        assert torch.equal(decode_video(video).frames, expected)
    assert torch.equal(decode_video(pictures_16_bit).frames, expected)


@pytest.mark.parametrize(("pixel_format", "codec"), [("gray", "ffv1"), ("gray16le", "ffv1"), ("bgra", "ffv1")])
def test_grey_16_bit_and_rgba_files_become_rgb(tmp_path, pixel_format, codec):
    path = write_video(tmp_path / "clip.mkv", counting_frames(8), codec=codec, pixel_format=pixel_format)
    video = decode_video(path)
    assert video.frames.shape == (8, 3, 48, 64)
    assert frame_numbers(video.frames, 8) == list(range(8))


def test_every_kind_of_file_gives_the_same_frames(clip, monkeypatch):
    content = clip.read_bytes()
    expected = decode_video(clip).frames
    column_value = type("VideoDecoder", (), {"_hf_encoded": {"path": None, "bytes": content}})()
    monkeypatch.chdir(clip.parent)
    with clip.open("rb") as file:
        videos = [str(clip), clip.name, content, bytearray(content), file, io.BytesIO(content), unseekable(content)]
        videos += [{"path": str(clip), "bytes": None}, {"path": "gone.mp4", "bytes": content}, column_value]
        for video in videos:
            assert torch.equal(decode_video(video).frames, expected), video


@pytest.fixture
def web_address(tmp_path):
    class Quiet(http.server.SimpleHTTPRequestHandler):
        def __init__(self, *arguments):
            super().__init__(*arguments, directory=str(tmp_path))

        def log_message(self, *_):
            pass

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Quiet) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()


def test_web_address(clip, web_address):
    assert torch.equal(decode_video(f"{web_address}/clip.mp4").frames, decode_video(clip).frames)
    with raises(f"'{web_address}/gone.mp4' could not be downloaded: HTTP Error 404"):
        decode_video(f"{web_address}/gone.mp4")


@pytest.fixture
def leading_address():
    """A server that redirects to the address in its path, or answers with as many bytes as the path says."""

    class Leading(http.server.BaseHTTPRequestHandler):
        def do_GET(self):
            if self.path.startswith("/to/"):
                self.send_response(302)
                self.send_header("Location", self.path[4:])
                self.end_headers()
                return
            self.send_response(200)
            if self.path.startswith("/announced/"):
                self.send_header("Content-Length", self.path[11:])
            self.end_headers()
            self.wfile.write(bytes(3000))

        def log_message(self, *_):
            pass

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Leading) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()


@pytest.mark.parametrize("target", ["ftp://127.0.0.1/a.mp4", "file:///etc/hosts", "data:video/mp4;base64,AAAA"])
def test_an_address_leads_to_no_other_kind_of_address(leading_address, target):
    reason = f"it redirects to '{target}', which is not an http(s) address."
    if not target.startswith("ftp"):
        reason = f"HTTP Error 302: Found - Redirection to url '{target}' is not allowed."
    with raises(f"could not be downloaded: {reason}"):
        decode_video(f"{leading_address}/to/{target}")


def test_an_address_of_the_internet_leads_to_no_machine_inside(leading_address, web_address, clip, monkeypatch):
    target = f"{web_address}/clip.mp4"
    assert len(decode_video(f"{leading_address}/to/{target}").frames) == 50  # from inside to inside
    is_inside = video_download_slt._is_inside
    monkeypatch.setattr(video_download_slt, "_is_inside", lambda address: "/to/" not in address and is_inside(address))
    with raises(f"it redirects to '{target}', an address inside the local network."):
        decode_video(f"{leading_address}/to/{target}")


@pytest.mark.parametrize(
    ("address", "inside"),
    [
        ("http://127.0.0.1/a", True),
        ("http://169.254.169.254/latest", True),
        ("http://10.1.2.3/a", True),
        ("http://[::1]:80/a", True),
        ("http://localhost/a", True),
        ("http://[::ffff:127.0.0.1]/a", True),
        ("http://8.8.8.8/a", False),
    ],
)
def test_which_addresses_are_inside(address, inside):
    assert video_download_slt._is_inside(address) == inside


@pytest.mark.parametrize("path", ["endless", "announced/999999"])
def test_a_download_has_a_largest_size(leading_address, monkeypatch, path):
    monkeypatch.setattr(video_download_slt, "LARGEST_DOWNLOAD_IN_BYTES", 2000)
    with raises(f"'{leading_address}/{path}' is larger than 2000 bytes, the most that is downloaded."):
        decode_video(f"{leading_address}/{path}")


def test_a_download_that_breaks_off(leading_address):
    with raises("could not be downloaded: the connection ended after 3000 of 5000 bytes."):
        decode_video(f"{leading_address}/announced/5000")


@pytest.mark.parametrize("address", ["file:///etc/hosts", "ftp://host/clip.mp4", "concat://a.mp4"])
def test_other_addresses_are_refused(address):
    with raises(f"Only http:// and https:// addresses are read, got '{address}'."):
        decode_video(address)


@pytest.mark.parametrize("suffix", ["mp4", "webm", "avi", "mkv", "ts"])
@pytest.mark.parametrize(("start", "end"), [(None, 0.6), (0.4, None), (1.6, 2.2), (3.0, 99.0)])
def test_start_and_end_equal_slicing_the_full_decode(tmp_path, suffix, start, end):
    path = write_video(
        tmp_path / f"clip.{suffix}", counting_frames(100), pixel_format="bgr0" if suffix == "mkv" else "yuv420p"
    )
    full, part = decode_video(path), decode_video(path, start=start, end=end)
    inside = [k for k, time in enumerate(full.timestamps) if (start or 0) - 1e-3 <= time < (end or 1e9) - 1e-3]
    assert torch.equal(part.frames, full.frames[inside])
    assert part.timestamps == pytest.approx([full.timestamps[k] for k in inside])


def test_a_part_of_a_long_file_is_found_without_decoding_the_rest(tmp_path, monkeypatch):
    path = write_video(tmp_path / "long.mp4", counting_frames(1500, 16, 16), keyframe_every=25)
    decoded = []
    decode = video_file_frames_slt._decoded
    monkeypatch.setattr(
        video_file_frames_slt, "_decoded", lambda *inputs: (decoded.append(1) or frame for frame in decode(*inputs))
    )
    assert len(decode_video(path, start=50.0, end=50.4).frames) == 10
    assert 10 <= len(decoded) < 100


def test_part_shorter_than_a_frame_gives_the_frame_on_screen(clip):
    part = decode_video(clip, start=0.41, end=0.43)
    assert frame_numbers(part.frames, 50) == [10]


def test_variable_frame_rate_is_uniform_in_time(tmp_path):
    times = [*range(0, 1000, 20), *range(1000, 3000, 200)]  # one second at 50 frames per second, two at 5
    frames = counting_frames(60)
    path = write_video(tmp_path / "clip.mkv", frames, times_in_milliseconds=times, pixel_format="bgr0")
    video = decode_video(path)
    assert video.fps == pytest.approx(50) and len(video.frames) == 141 == video.num_source_frames
    assert video.timestamps == pytest.approx([k / 50 for k in range(141)])
    shown = [np.searchsorted(times, 1000 * seconds + 10, side="right") - 1 for seconds in video.timestamps]
    assert frame_numbers(video.frames, 60) == shown


def test_a_still_picture_stays_on_screen_as_players_show_it(tmp_path):
    times = [*range(0, 1000, 40), *range(9000, 10000, 40)]
    path = write_video(tmp_path / "clip.mkv", counting_frames(50), times_in_milliseconds=times, pixel_format="bgr0")
    whole = decode_video(path)
    shown = [np.searchsorted(times, 40 * k + 20, side="right") - 1 for k in range(250)]
    assert frame_numbers(whole.frames, 50) == shown and whole.duration_in_seconds == pytest.approx(10.0)
    for start, end in ((5.0, 6.0), (1.0, 8.0), (5.0, None), (0.5, 3.0), (8.0, 9.2), (None, 2.0)):
        part = decode_video(path, start=start, end=end)
        first, stop = round((start or 0) * 25 + 0.49), round((end or 10) * 25)
        assert frame_numbers(part.frames, 50) == shown[first:stop], (start, end)
        assert part.timestamps == pytest.approx([k / 25 for k in range(first, stop)])


def test_damaged_time_stamps_do_not_fill_the_memory(tmp_path):
    times = [*range(0, 1000, 40), 2_000_000_000]
    path = write_video(tmp_path / "clip.mkv", counting_frames(26, 16, 16), times_in_milliseconds=times, codec="mpeg4")
    assert len(decode_video(path, transform_frame=lambda frame: frame[:, :1, :1]).frames) <= 20_001


def test_small_jitter_keeps_every_frame(tmp_path):
    times = [round(k * 1000 / 30) for k in range(40)]
    path = write_video(tmp_path / "clip.webm", counting_frames(40), times_in_milliseconds=times)
    assert frame_numbers(decode_video(path).frames, 40) == list(range(40))


@pytest.mark.parametrize("suffix", ["mov", "mkv"])
@pytest.mark.parametrize("rotation", [0, 90, 180, 270])
@pytest.mark.parametrize("horizontal_flip", [False, True])
def test_rotated_and_mirrored_phone_video_is_upright(tmp_path, suffix, rotation, horizontal_flip):
    upright = np.zeros((4, 64, 96, 3), np.uint8)
    upright[:, :32, :48], upright[:, :32, 48:], upright[:, 32:, :48] = (255, 0, 0), (0, 255, 0), (0, 0, 255)
    stored = upright[:, :, ::-1] if horizontal_flip else upright  # the player mirrors last, so undo that first
    stored = np.rot90(stored, -rotation // 90, axes=(1, 2))
    path = write_video(
        tmp_path / f"phone.{suffix}",
        stored,
        codec="libx264",
        rotation=rotation if rotation < 180 else rotation - 360,
        horizontal_flip=horizontal_flip,
    )
    frames = decode_video(path).frames
    assert frames.shape == (4, 3, 64, 96)
    expected = torch.from_numpy(upright).permute(0, 3, 1, 2).float()
    assert (frames.float() - expected).abs().mean() < 12


@pytest.mark.parametrize("suffix", ["mp4", "webm", "avi"])
def test_clip_of_one_frame(tmp_path, suffix):
    video = decode_video(write_video(tmp_path / f"clip.{suffix}", counting_frames(1)))
    assert video.frames.shape == (1, 3, 48, 64) and len(video.timestamps) == 1
    assert video.fps == pytest.approx(25, rel=0.01) or suffix == "webm"


def test_sampler_and_transform_see_what_they_are_promised(clip):
    seen = []

    def every_fourth(num_frames: int, fps: float) -> range:
        seen.append((num_frames, round(fps)))
        return range(0, num_frames, 4)

    video = decode_video(clip, sample_frame_indices=every_fourth, transform_frame=lambda frame: frame[:, :10])
    assert seen == [(50, 25)]
    assert torch.equal(video.frames, decode_video(clip).frames[::4, :, :10])
    assert video.frame_indices == list(range(0, 50, 4)) and video.num_source_frames == 50


def test_start_and_end_of_frames_need_their_rate(noise):
    part = decode_video(noise, start=0.2, end=0.5, fps=10)
    assert torch.equal(part.frames, torch.from_numpy(noise[2:5]).permute(0, 3, 1, 2))
    with raises("`start` and `end` are seconds, but the video given as an array of shape (12, 24, 32, 3) has no frame"):
        decode_video(noise, start=0.2)


@pytest.mark.parametrize(
    ("interval", "text"),
    [
        ({"start": -1}, "`start` must be 0 or more seconds, or None, got -1."),
        ({"end": float("nan")}, "`end` must be 0 or more seconds, or None, got nan."),
        ({"start": "1"}, "`start` must be 0 or more seconds, or None, got '1'."),
        ({"start": 1.0, "end": 1.0}, "`start` must lie before `end`, got start=1.0 and end=1.0 seconds."),
        ({"end": 0}, "`start` must lie before `end`, got start=None and end=0 seconds."),
        ({"start": 2.0}, "`start`=2 seconds lies beyond the end of '{clip}', which lasts 2.00 seconds."),
        ({"start": 700, "end": 800}, "`start`=700 seconds lies beyond the end of '{clip}', which lasts 2.00 seconds."),
    ],
)
def test_bad_intervals(clip, interval, text):
    with raises(text.replace("{clip}", str(clip))):
        decode_video(clip, **interval)


@pytest.mark.parametrize("suffix", ["mkv", "avi", "mp4", "flv"])
def test_a_title_that_is_not_utf_8_is_no_damage(tmp_path, suffix):
    path = tmp_path / f"clip.{suffix}"
    with av.open(str(path), "w") as container:
        container.metadata["title"] = "Gebxxrde"
        stream = container.add_stream("flv" if suffix == "flv" else "mpeg4", rate=25)
        stream.width, stream.height, stream.pix_fmt = 64, 48, "yuv420p"
        for frame in counting_frames(5):
            container.mux(stream.encode(av.VideoFrame.from_ndarray(frame, format="rgb24")))
        container.mux(stream.encode())
    assert b"xx" in path.read_bytes()
    path.write_bytes(path.read_bytes().replace(b"Gebxxrde", b"Geb\xe4\xfcrde"))
    assert len(decode_video(path).frames) == 5


def test_text_named_mp4(tmp_path):
    path = tmp_path / "notes.mp4"
    path.write_text("this is not a video\n" * 50)
    with raises(f"'{path}' is not a video that can be read (InvalidDataError). Expected mp4, mov, webm"):
        decode_video(path)


def test_empty_file(tmp_path):
    (tmp_path / "clip.mp4").touch()
    with raises(f"'{tmp_path / 'clip.mp4'}' is empty (0 bytes)."):
        decode_video(tmp_path / "clip.mp4")


def test_mp4_cut_before_its_index(clip, tmp_path):
    path = cut(clip, 0.6, tmp_path / "cut.mp4")
    with raises(f"'{path}' is an mp4 or mov file without a readable index (`moov`)"):
        decode_video(path)


@pytest.mark.parametrize("within_a_frame", [True, False])
def test_mp4_cut_in_its_data_gives_what_decodes_and_a_warning(tmp_path, caplog, noise, within_a_frame):
    whole = write_video(tmp_path / "whole.mp4", noise, movflags="faststart", keyframe_every=1)
    with av.open(str(whole)) as container:
        ends = [packet.pos + packet.size for packet in container.demux(video=0) if packet.size]
    path = tmp_path / "cut.mp4"
    path.write_bytes(whole.read_bytes()[: ends[6] - (ends[6] - ends[5]) // 2 if within_a_frame else ends[6]])
    frames = decode_video(path).frames
    assert len(frames) in ((6, 7) if within_a_frame else (7,))
    assert f"'{path}' is damaged or cut off: going on with the {len(frames)} frames that were decoded." in caplog.text
    assert torch.equal(frames[:6], decode_video(whole).frames[:6])
    assert caplog.text.count("damaged") == 1


def test_mp4_of_which_nothing_decodes(tmp_path, noise):
    whole = write_video(tmp_path / "whole.mp4", noise, movflags="faststart")
    content = bytearray(whole.read_bytes())
    data = content.index(b"mdat") + 4
    content[data:] = bytes(len(content) - data)
    (tmp_path / "zeros.mp4").write_bytes(content)
    with raises(f"None of the 12 frames of '{tmp_path / 'zeros.mp4'}' could be decoded"):
        decode_video(tmp_path / "zeros.mp4")


def test_unknown_video_format(clip, tmp_path):
    path = tmp_path / "unknown.mp4"
    path.write_bytes(clip.read_bytes().replace(b"avc1", b"zzzz").replace(b"avcC", b"zzzC"))
    with raises(f"'{path}' is in a video format that cannot be decoded. Convert it to H.264, VP9 or AV1."):
        decode_video(path)


def test_a_recording_that_was_streamed_has_no_index_and_still_seeks(tmp_path):
    path = write_video(tmp_path / "live.webm", counting_frames(50), live=True)
    full = decode_video(path)
    assert len(full.frames) == 50
    assert torch.equal(decode_video(path, start=1.6, end=1.8).frames, full.frames[40:45])


def test_video_without_frames(tmp_path):
    path = write_video(tmp_path / "clip.mkv", counting_frames(1), header_only=True)
    with raises(f"'{path}' has a video track without a single frame."):
        decode_video(path)


def test_audio_only(tmp_path):
    path = write_audio(tmp_path / "speech.mp4")
    with raises(f"'{path}' has no video track (only: audio). Pass a video file."):
        decode_video(path)


def test_playlist_cannot_name_another_file(clip):
    playlist = clip.with_name("playlist.mp4")
    playlist.write_text(f"ffconcat version 1.0\nfile {clip.name}\n")
    with raises(f"'{playlist}' is not a video that can be read"):
        decode_video(playlist)


def test_missing_file(tmp_path):
    with raises(f"There is no video file '{tmp_path / 'gone.mp4'}'. Check the path (it is relative to"):
        decode_video(tmp_path / "gone.mp4")


def test_folder_without_frames(tmp_path):
    (tmp_path / "notes.txt").touch()
    with raises(f"The folder '{tmp_path}' holds no frames: expected pictures (.png, .jpg,"):
        decode_video(tmp_path)


def test_unreadable_picture(tmp_path, noise):
    folder = write_pictures(tmp_path / "frames", noise)
    (folder / "frame3.png").write_text("no picture")
    with raises(f"The frame '{folder / 'frame3.png'}' of the folder '{folder}' is not a readable picture"):
        decode_video(folder)


def test_pictures_that_pillow_will_not_read(tmp_path, noise):
    folder = write_pictures(tmp_path / "frames", noise)
    whole = (folder / "frame2.png").read_bytes()
    header = whole.index(b"IHDR")
    bomb = bytearray(whole[: header + 17] + bytes(4) + whole[header + 21 :])
    bomb[header + 4 : header + 12] = (20_000).to_bytes(4, "big") * 2
    bomb[header + 17 : header + 21] = zlib.crc32(bytes(bomb[header : header + 17])).to_bytes(4, "big")
    chunk = bytearray(whole)
    chunk[chunk.index(b"IDAT") : chunk.index(b"IDAT") + 4] = b"\0\xff\0\x01"
    for content in (bytes(bomb), bytes(chunk), whole[:-200], whole[:20], b"", b"GIF89a"):
        (folder / "frame2.png").write_bytes(content)
        with raises(f"The frame '{folder / 'frame2.png'}' of the folder '{folder}' is not a readable picture: "):
            decode_video(folder)
        if content:
            with pytest.raises(VideoDecodingError):
                decode_video(content)


@pytest.mark.parametrize("orientation", range(1, 9))
def test_pictures_of_turned_cameras_are_upright(tmp_path, noise, orientation):
    upright = Image.fromarray(noise[0])
    undo = {2: 0, 3: 3, 4: 1, 5: 5, 6: 2, 7: 6, 8: 4}  # how to turn a picture so that its mark turns it back
    stored = upright.transpose(Image.Transpose(undo[orientation])) if orientation > 1 else upright
    exif = Image.Exif()
    exif[0x0112] = orientation
    stored.save(tmp_path / "frame.png", exif=exif)
    expected = torch.from_numpy(noise[0]).permute(2, 0, 1)[None]
    assert torch.equal(decode_video(tmp_path).frames, expected)
    with Image.open(tmp_path / "frame.png") as picture:
        assert torch.equal(decode_video([picture]).frames, expected)


@pytest.mark.parametrize(
    ("video", "text"),
    [
        (np.zeros((0, 8, 8, 3), np.uint8), "A video needs at least one frame"),
        ([], "A video needs at least one frame, and the video given as a list of 0 frames has none."),
        (np.zeros((4, 8, 8, 2), np.uint8), "with 1, 3 or 4 channels; got (4, 8, 8, 2)."),
        (np.zeros((8, 8, 3), np.uint8), "A single picture is a clip of one frame as array[None]."),
        (np.zeros(8, np.uint8), "An array must have the shape (frames, height, width, channels)"),
        (np.zeros((2, 8, 8, 3), np.int64), "floats (0 to 1), got torch.int64 in the video given as an array of shape"),
        (torch.zeros(2, 3, 8, 8, dtype=torch.int32), "floats (0 to 1), got torch.int32 in the video given as an array"),
        (np.array(["a"]), "floats (0 to 1), got <U1 in"),
        (np.full((2, 8, 8, 3), 255.0), "Float frames must hold values from 0 to 1, got 255 to 255 in"),
        (np.full((2, 8, 8, 3), np.nan), "Float frames must hold values from 0 to 1, got nan to nan in"),
        (torch.full((2, 3, 8, 8), -0.5), "Float frames must hold values from 0 to 1, got -0.5 to -0.5 in"),
        (
            [np.zeros((8, 8, 3), np.uint8), np.zeros((9, 8, 3), np.uint8)],
            "one size; the video given as a list of 2 frames",
        ),
        ([np.zeros((8, 8, 3), np.uint8), None], "Frames must be pictures, picture paths or arrays"),
        (Image.new("RGB", (8, 8)), "got Image. For a clip of one picture pass a list: [picture]."),
        (3, "a list of frames or a folder of frames, got int."),
        (None, "a list of frames or a folder of frames, got NoneType."),
        ({"path": None, "bytes": None}, "needs a 'path' or 'bytes' that is not None, got the keys ['bytes', 'path']."),
        (io.StringIO("text"), "the video given as a file object is open as text; open it in binary mode"),
    ],
)
def test_wrong_input(video, text):
    with raises(text):
        decode_video(video)


@pytest.mark.skipif(not RECORDED_CLIPS.is_dir(), reason="the recorded clips are not here")
@pytest.mark.parametrize(("name", "shape"), [("SOUP", (41, 3, 240, 320)), ("FOOTBALL", (62, 3, 360, 640))])
def test_recorded_clips(name, shape):
    video = decode_video(RECORDED_CLIPS / f"{name}.mp4")
    assert video.frames.shape == shape and video.fps == pytest.approx(29.97)
