"""A server in this process, for tests, and frames as clients send them."""

import functools
import io
import json
import struct
from collections.abc import Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from multiprocessing.reduction import ForkingPickler
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from fastapi.testclient import TestClient
from PIL import Image
from signing_pictures import FRAMES_PER_SECOND

from modeling_flallm import SignLanguageTranslationPipeline
from train_scripts.arguments.serving_arguments import ServeArguments
from train_scripts.serving import file_readers, frame_readers, server
from train_scripts.serving.app import build_app
from train_scripts.serving.file_readers import ReaderLimits
from train_scripts.serving.frame_readers import FrameLimits, FramesOfStream, Reading, StreamReaders


class ReadersHere:
    """Reads files without processes, which take seconds to start."""

    def __init__(self, model: str, limits: ReaderLimits):
        self.limits = limits

    def read(self, path: Path, start: float | None, end: float | None) -> tuple[np.ndarray, dict[str, Any]]:
        return file_readers._read(path, start, end, self.limits.max_clip_seconds)

    def close(self) -> None:
        pass


class FrameReadersHere:
    """Reads frames in a thread; what it is asked and answers is sent as to a process."""

    num_streams = 0

    def __init__(self, modality: Any, model: str, limits: FrameLimits, number: int):
        self._readers, self._thread = StreamReaders(modality, limits), ThreadPoolExecutor(1)
        self._num_opened = 0

    def open(self) -> FramesOfStream:
        self._num_opened += 1
        return FramesOfStream(self, self._num_opened)

    def ask(self, reading: Reading) -> Future[Any]:
        return self._thread.submit(self._answer, _sent(reading))

    def _answer(self, reading: Reading) -> Any:
        (found,) = _sent(self._readers.answers([reading]))
        answer: Future[Any] = Future()
        frame_readers.give(answer, found)
        return answer.result()

    def close(self) -> None:
        self._thread.shutdown()


def _sent(message: Any) -> Any:
    """As another process gets it."""
    return ForkingPickler.loads(ForkingPickler.dumps(message))


@contextmanager
def serving(
    pipeline: SignLanguageTranslationPipeline, monkeypatch: pytest.MonkeyPatch, **flags: Any
) -> Iterator[TestClient]:
    """A client of a server with this pipeline; the `server` itself is `client.app.state.server`."""
    monkeypatch.setattr(server, "FileReaders", ReadersHere)
    monkeypatch.setattr(server, "FrameReaders", functools.partial(FrameReadersHere, pipeline.processor.modality))
    monkeypatch.setattr(file_readers, "_processor", pipeline.processor)
    arguments = ServeArguments(model="models/tiny", **flags)
    app = build_app(lambda: server.Server(pipeline, arguments))
    with TestClient(app, raise_server_exceptions=False) as client:
        yield client


def message(second: float, content: bytes) -> bytes:
    return struct.pack(">d", second) + content


def as_picture(frame: np.ndarray, kind: str = "PNG") -> bytes:
    file = io.BytesIO()
    Image.fromarray(frame).save(file, kind)
    return file.getvalue()


def messages_of(frames: np.ndarray, start: float = 0.0) -> Iterator[bytes]:
    """Pictures of a camera, without loss"""
    return (message(start + index / FRAMES_PER_SECOND, as_picture(frame)) for index, frame in enumerate(frames))


def send_all(websocket: Any, messages: Iterable[bytes]) -> None:
    for each in messages:
        websocket.send_bytes(each)
    websocket.send_text(json.dumps({"type": "finish"}))


def answers_until_the_end(websocket: Any) -> list[dict[str, Any]]:
    answers = []
    while not answers or answers[-1]["type"] == "update":
        answers.append(websocket.receive_json())
    return answers


def finals(answers: Iterable[dict[str, Any]]) -> list[dict[str, Any]]:
    return [answer for answer in answers if answer.get("is_final")]
