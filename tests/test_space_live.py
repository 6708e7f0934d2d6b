"""Captions while a person signs: what comes back over the WebSocket, to several cameras, and to who sends nonsense."""

import contextlib
import io
import json
import struct
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from space_app import TEXTS, Space, clips, space_in_this_process
from tiny_corpus import trained_model
from transformers import pipeline

from modeling_flallm.own_processing import decode_video

websockets = pytest.importorskip("websockets.sync.client")
ConnectionClosed = pytest.importorskip("websockets.exceptions").ConnectionClosed

pytestmark = pytest.mark.slow

FRAMES_PER_SECOND = 12.5
SECONDS_TO_WAIT = 120


@pytest.fixture(scope="module")
def space(tmp_path_factory) -> Iterator[Space]:
    with space_in_this_process(tmp_path_factory.mktemp("space")) as running:
        yield running


@pytest.fixture(autouse=True)
def no_picture_is_left_out(space, monkeypatch):
    import live

    monkeypatch.setattr(live, "MOST_PICTURES_WAITING", 10_000)


@contextlib.contextmanager
def camera(space: Space, left_handed: str = "no", language: str = "en", **options: Any) -> Iterator[Any]:
    address = f"{space.address.replace('http', 'ws', 1)}/live"
    with websockets.connect(address, **options) as socket:
        socket.send(json.dumps({"language": language, "left_handed": left_handed}))
        yield socket


def signing(*numbers: int) -> list[np.ndarray]:
    """Frames of clips with rests before, between and after them."""
    frames = []
    for number in numbers:
        clip = decode_video(str(clips()[number])).frames.permute(0, 2, 3, 1).numpy()
        frames += [clip[0]] * 8 + list(clip) + [clip[-1]] * 25
    return frames


def jpeg(frame: np.ndarray) -> bytes:
    file = io.BytesIO()
    Image.fromarray(frame).save(file, "JPEG", quality=95)
    return file.getvalue()


def send(socket: Any, frames: list[np.ndarray]) -> None:
    for number, frame in enumerate(frames):
        socket.send(struct.pack(">d", number / FRAMES_PER_SECOND) + jpeg(frame))
    socket.send("end")


def answers(socket: Any) -> list[dict[str, Any]]:
    """All messages until the server closes the connection."""
    received = []
    with contextlib.suppress(ConnectionClosed):
        while True:
            received.append(json.loads(socket.recv(SECONDS_TO_WAIT)))
    return received


def finals(received: list[dict[str, Any]]) -> list[str]:
    return [message["text"] for message in received if message.get("is_final") and message["text"]]


def offline(frames: list[np.ndarray], folder: Path) -> list[str]:
    """What the pipeline says to the pictures that the server got, at the same times."""
    translator = pipeline("sign-language-translation", str(trained_model()))
    pictures = [Image.open(io.BytesIO(jpeg(frame))).convert("RGB") for frame in frames]
    stream = translator.translate_stream((n / FRAMES_PER_SECOND, each) for n, each in enumerate(pictures))
    ended = [update for update in stream if update["is_final"] and update["translation_text"]]
    for update in ended:
        part = {"start": update["signing_start"], "end": update["signing_end"], "source_fps": FRAMES_PER_SECOND}
        assert translator(pictures, **part)["translation_text"] == update["translation_text"]
    return [update["translation_text"] for update in ended]


def test_sentences_are_those_of_the_recording(space, tmp_path):
    frames = signing(0, 1)
    with camera(space) as socket:
        send(socket, frames)
        received = answers(socket)
    said = finals(received)
    assert said == offline(frames, tmp_path) and len(said) >= 2
    assert [message["piece"] for message in received[:-1]] == sorted(message["piece"] for message in received[:-1])
    captions = received[-1]["captions"]
    assert captions["txt"].splitlines() == said
    assert captions["vtt"].startswith("WEBVTT") and captions["srt"].count("-->") == len(said)


def test_cameras_of_several_visitors_do_not_mix(space, tmp_path):
    numbers = [0, 2, 3]
    with contextlib.ExitStack() as stack:
        sockets = [stack.enter_context(camera(space)) for _ in numbers]
        shows = [signing(number) for number in numbers]
        for position in range(max(map(len, shows))):
            for socket, frames in zip(sockets, shows, strict=True):
                if position < len(frames):
                    socket.send(struct.pack(">d", position / FRAMES_PER_SECOND) + jpeg(frames[position]))
        for socket in sockets:
            socket.send("end")
        for socket, frames in zip(sockets, shows, strict=True):
            assert finals(answers(socket)) == offline(frames, tmp_path)


@pytest.mark.parametrize("language", ["en", "de"])
def test_one_camera_too_many_is_told_to_wait(space, language, monkeypatch):
    import live

    monkeypatch.setattr(live, "MOST_CAMERAS", 1)
    with camera(space) as first:
        first.send(struct.pack(">d", 0.0) + jpeg(signing(0)[0]))
        with camera(space, language=language) as second:
            assert answers(second) == [{"problem": TEXTS[language]["live_error_full"].format(limit=1)}]
        first.send("end")
        assert answers(first)[-1]["captions"]["txt"] == ""
    with camera(space) as again:
        again.send("end")
        assert "captions" in answers(again)[-1]


@pytest.mark.parametrize(
    "message",
    [
        b"",
        b"12345678",
        struct.pack(">d", 0.0) + b"no picture",
        struct.pack(">d", float("nan")) + b"picture",
        struct.pack(">d", -1.0) + b"picture",
        struct.pack(">d", 1e9) + b"picture",
        bytes(500_001),
    ],
)
def test_what_is_no_picture(space, message):
    with camera(space) as socket:
        socket.send(message)
        with contextlib.suppress(ConnectionClosed):
            socket.send("end")
        assert answers(socket)[-1] == {"problem": TEXTS["en"]["live_error_picture"]}


@pytest.mark.parametrize("kind", ["PNG", "large"])
def test_pictures_are_jpegs_of_the_size_of_a_camera(space, kind):
    file = io.BytesIO()
    size = (1281, 10) if kind == "large" else (10, 10)
    Image.new("RGB", size).save(file, "JPEG" if kind == "large" else kind)
    with camera(space) as socket:
        socket.send(struct.pack(">d", 0.0) + file.getvalue())
        with contextlib.suppress(ConnectionClosed):
            socket.send("end")
        assert answers(socket)[-1] == {"problem": TEXTS["en"]["live_error_picture"]}


def test_a_page_elsewhere_gets_nothing(space):
    address = f"{space.address.replace('http', 'ws', 1)}/live"
    with websockets.connect(address, origin="https://elsewhere.example") as socket:
        assert answers(socket) == [{"problem": TEXTS["en"]["live_error_other_page"]}]


def test_a_camera_that_stops_sending(space, monkeypatch):
    import live

    monkeypatch.setattr(live, "SECONDS_WITHOUT_A_PICTURE", 0.5)
    with camera(space) as socket:
        assert answers(socket)[-1] == {"problem": TEXTS["en"]["live_error_no_pictures"].format(limit=0.5)}


def test_the_time_of_a_camera_ends(space, monkeypatch):
    import live

    monkeypatch.setattr(live, "MOST_MINUTES", 0.5 / 60)
    with camera(space) as socket:
        picture = jpeg(signing(0)[0])
        with contextlib.suppress(ConnectionClosed):
            for number in range(30):
                socket.send(struct.pack(">d", number / 40) + picture)
                time.sleep(0.05)
        assert answers(socket)[-1] == {"problem": TEXTS["en"]["live_error_too_long"].format(limit="0.0")}
