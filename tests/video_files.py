"""Clips made on the fly with PyAV, for every container and every defect, at any size."""

import io
from collections.abc import Callable
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
from PIL import Image

CODECS = {"mp4": "libx264", "mov": "libx264", "webm": "libvpx", "avi": "mpeg4", "mkv": "ffv1", "ts": "libx264"}
CODECS |= {"mpg": "mpeg2video", "flv": "flv", "m2v": "mpeg2video", "wmv": "wmv2"}


def counting_frames(num_frames: int, height: int = 48, width: int = 64) -> np.ndarray:
    """Frames (frames, height, width, 3) of uint8 whose brightness encodes their number, which survives lossy encoding:
    see `frame_numbers`."""
    levels = np.linspace(20, 235, num_frames).astype(np.uint8) if num_frames > 1 else np.array([128], np.uint8)
    return np.broadcast_to(levels[:, None, None, None], (num_frames, height, width, 3)).copy()


def frame_numbers(frames, num_frames: int) -> list[int]:
    """Read the numbers back from decoded `counting_frames`, uint8 (frames, 3, height, width)."""
    levels = np.linspace(20, 235, num_frames)
    means = frames.float().mean(dim=(1, 2, 3)).numpy()
    return np.abs(means[:, None] - levels[None]).argmin(axis=1).tolist()


def write_video(
    path: Path,
    frames: np.ndarray,
    fps: int = 25,
    times_in_milliseconds: list[int] | None = None,
    codec: str | None = None,
    pixel_format: str = "yuv420p",
    frame_format: str = "rgb24",
    rotation: int = 0,
    horizontal_flip: bool = False,
    keyframe_every: int = 12,
    movflags: str | None = None,
    header_only: bool = False,
    live: bool = False,
) -> Path:
    """Write frames (frames, height, width, channels) to the container given by the suffix of `path`.

    `times_in_milliseconds` makes a file of variable frame rate, `rotation` (degrees, counter-clockwise) one from a
    turned phone, `header_only` one without a frame, `live` a webm as a browser streams it: no index, no length."""
    container_options = {"movflags": movflags} if movflags else {"live": "1"} if live else {}
    with av.open(str(path), "w", options=container_options) as container:
        stream = container.add_stream(codec or CODECS[path.suffix[1:]], rate=fps)
        stream.height, stream.width = frames.shape[1:3]
        stream.pix_fmt = pixel_format
        stream.codec_context.gop_size = keyframe_every
        stream.codec_context.thread_count = 1
        if rotation or horizontal_flip:
            stream.set_display_rotation(rotation, hflip=horizontal_flip)
        if times_in_milliseconds is not None:
            stream.codec_context.time_base = Fraction(1, 1000)
        if header_only:
            container.start_encoding()
            return path
        for index, frame in enumerate(frames):
            picture = av.VideoFrame.from_ndarray(np.ascontiguousarray(frame), format=frame_format)
            picture.pts = index if times_in_milliseconds is None else times_in_milliseconds[index]
            container.mux(stream.encode(picture))
        container.mux(stream.encode())
    return path


def write_audio(path: Path) -> Path:
    """Write an mp4 with one second of a tone and no picture."""
    with av.open(str(path), "w") as container:
        stream = container.add_stream("aac", rate=16000)
        stream.layout = "mono"
        tone = np.sin(np.arange(16000) * 0.1, dtype=np.float32)[None]
        for start in range(0, 15000, 1024):
            samples = av.AudioFrame.from_ndarray(
                np.ascontiguousarray(tone[:, start : start + 1024]), format="fltp", layout="mono"
            )
            samples.sample_rate = 16000
            samples.pts = start
            container.mux(stream.encode(samples))
        container.mux(stream.encode())
    return path


def write_packets(
    path: Path,
    frames: np.ndarray,
    picture_begins_at: float = 0.0,
    seconds_of_sound: float = 0.0,
    codec: str | None = None,
    keyframe_every: int = 12,
    keep: Callable[[int], bool] = lambda number: True,
    change_times: Callable[[list[int]], list[int]] | None = None,
) -> Path:
    """Write a file packet by packet: with sound from second 0 on, a picture that begins later, packets left out by
    their number in the order of decoding, or other times, in units of 40 milliseconds (only without reordering)."""
    suffix = path.suffix[1:]
    with av.open(str(path), "w") as container:
        stream = container.add_stream(codec or CODECS[suffix].replace("ffv1", "libx264"), rate=25)
        stream.height, stream.width = frames.shape[1:3]
        stream.pix_fmt = "yuv420p"
        stream.codec_context.gop_size = keyframe_every
        stream.codec_context.thread_count = 1
        if change_times is not None:
            stream.codec_context.max_b_frames = 0
        sound = _tone(container, suffix, seconds_of_sound) if seconds_of_sound else []
        pictures = []
        for index, frame in enumerate(frames):
            picture = av.VideoFrame.from_ndarray(np.ascontiguousarray(frame), format="rgb24")
            picture.pts, picture.time_base = index, Fraction(1, 25)
            pictures += stream.encode(picture)
        pictures += stream.encode()
        if change_times is not None:
            times = change_times([round(packet.pts * packet.time_base * 25) for packet in pictures])
            for number, (packet, time) in enumerate(zip(pictures, times, strict=True)):
                packet.pts = round(time / packet.time_base / 25)
                packet.dts = round((number - 5) / packet.time_base / 25)
        for packet in pictures:
            late = round(picture_begins_at / packet.time_base)
            packet.pts, packet.dts = packet.pts + late, packet.dts + late
        packets = [*sound, *(packet for number, packet in enumerate(pictures) if keep(number))]
        container.mux(sorted(packets, key=lambda packet: packet.dts * packet.time_base))
    return path


def _tone(container: av.container.OutputContainer, suffix: str, seconds: float) -> list[av.Packet]:
    stream = container.add_stream({"webm": "libopus", "mpg": "mp2", "avi": "mp2"}.get(suffix, "aac"), rate=48000)
    stream.layout = "mono"
    stream.codec_context.open()
    packets, size = [], stream.codec_context.frame_size
    sample_format = stream.codec_context.format.name
    for start in range(0, round(seconds * 48000), size):
        tone = np.zeros((1, size), np.int16 if sample_format.startswith("s16") else np.float32)
        samples = av.AudioFrame.from_ndarray(tone, format=sample_format, layout="mono")
        samples.sample_rate, samples.pts, samples.time_base = 48000, start, Fraction(1, 48000)
        packets += stream.encode(samples)
    return packets + stream.encode()


def joined(target: Path, *paths: Path) -> Path:
    """Recordings joined byte by byte, so that their times start again."""
    target.write_bytes(b"".join(path.read_bytes() for path in paths))
    return target


def write_pictures(folder: Path, frames: np.ndarray) -> Path:
    """Write frames as frame1.png ... frame12.png: numbers without leading zeros, so that plain sorting is wrong."""
    folder.mkdir()
    for index, frame in enumerate(frames):
        Image.fromarray(frame).save(folder / f"frame{index + 1}.png")
    return folder


def cut(path: Path, fraction: float, target: Path) -> Path:
    """Copy the first part of a file, as a broken download leaves it."""
    content = path.read_bytes()
    target.write_bytes(content[: int(len(content) * fraction)])
    return target


def unseekable(content: bytes) -> io.RawIOBase:
    """A binary stream that can only be read forwards, as from a network."""

    class Stream(io.BytesIO):
        def seekable(self) -> bool:
            return False

        def seek(self, *_):
            raise io.UnsupportedOperation("seek")

    return Stream(content)
