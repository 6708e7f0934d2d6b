"""The server's streams: the same updates as a stream of its own, no mix-up, limits, and whose turn it is."""

import itertools
import re
import socket
import subprocess
import sys
import threading
import time
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from signing_pictures import FRAMES_PER_SECOND, signing
from signing_poses import signing_poses
from test_pipeline import NO_SPECIAL_TOKENS, make_pipeline
from tiny_pose_models import pose_pipeline
from video_files import write_video

for package in ("fastapi", "uvicorn", "prometheus_client", "multipart", "pebble"):
    pytest.importorskip(package)

from fastapi import WebSocketDisconnect  # noqa: E402
from serving_parts import (  # noqa: E402
    answers_until_the_end,
    as_picture,
    finals,
    message,
    messages_of,
    send_all,
    serving,
)
from test_serving import metric  # noqa: E402

from modeling_flallm import StreamingTranslator  # noqa: E402
from modeling_flallm.clip_translation_slt import EncodedClips  # noqa: E402
from modeling_flallm.own_processing import Task  # noqa: E402
from modeling_flallm.streaming_slt import Watch  # noqa: E402
from processing.segmentation_slt import VideoSegment  # noqa: E402
from train_scripts.serving.clip_requests import ClipOptions  # noqa: E402
from train_scripts.serving.metrics import Metrics  # noqa: E402
from train_scripts.serving.model_thread import ClipToTranslate, ModelThread, StreamToTranslate, Turn  # noqa: E402

PAGE = Path(__file__).resolve().parent.parent / "docs" / "serving.md"
PLAN = [("rest", 0.6), ("sign", 1.4), ("rest", 1.2), ("sign", 1.8), ("rest", 1.0)]
TIMES = ("start", "end", "signing_start", "signing_end")
FAST = {"max_frame_rate": 10_000.0}  # a test does not wait for a camera


@pytest.fixture
def translator():
    pipeline = make_pipeline()
    pipeline.model.generation_config.update(min_new_tokens=3, **NO_SPECIAL_TOKENS)
    return pipeline


def sentences_of(translator, frames, **arguments):
    """The final updates of a stream of its own."""
    timed = ((index / FRAMES_PER_SECOND, frame) for index, frame in enumerate(frames))
    return finals(translator.translate_stream(timed, return_scores=True, **arguments))


def assert_same_sentences(answers, expected):
    found = finals(answers)
    assert len(found) == len(expected) > 0
    for update, other in zip(found, expected, strict=True):
        assert update["translation_text"] == other["translation_text"]
        assert [update[name] for name in (*TIMES, "piece")] == [other[name] for name in (*TIMES, "piece")]
        assert update["score"] == pytest.approx(other["score"], abs=1e-5)


# The same as a stream of its own


def test_the_updates_are_those_of_a_stream(translator, monkeypatch):
    frames = signing(PLAN)
    with serving(translator, monkeypatch, **FAST) as client, client.websocket_connect("/stream") as websocket:
        send_all(websocket, messages_of(frames))
        answers = answers_until_the_end(websocket)
        assert_same_sentences(answers, sentences_of(translator, frames))
        assert answers[-1] == {"type": "finished"}
        with pytest.raises(WebSocketDisconnect) as closed:
            websocket.receive_json()
        assert closed.value.code == 1000
        assert metric(client, "flallm_frames_total") == len(frames)
        assert metric(client, 'flallm_sentences_total{is_final="true"}') == 2


def test_options_of_a_stream(translator, monkeypatch):
    frames = signing(PLAN[:3])
    address = "/stream?num_beams=2&left_handed=true"
    with serving(translator, monkeypatch, **FAST) as client, client.websocket_connect(address) as websocket:
        send_all(websocket, messages_of(frames))
        expected = sentences_of(translator, frames, num_beams=2, left_handed=True)
        answers = answers_until_the_end(websocket)
        assert_same_sentences(answers, expected)
        assert all(update["left_handed"] is True for update in finals(answers))


def test_streams_at_once_are_not_mixed_up(translator, monkeypatch):
    recordings = [signing([("rest", 0.2 * number), *PLAN]) for number in range(1, 4)]
    with serving(translator, monkeypatch, **FAST) as client:
        sockets = [client.websocket_connect("/stream").__enter__() for _ in recordings]
        for of_all in itertools.zip_longest(*map(messages_of, recordings)):
            for websocket, each in zip(sockets, of_all, strict=True):
                if each is not None:
                    websocket.send_bytes(each)
        for websocket in sockets:
            send_all(websocket, [])
        for websocket, frames in zip(sockets, recordings, strict=True):
            assert_same_sentences(answers_until_the_end(websocket), sentences_of(translator, frames))
            websocket.__exit__(None, None, None)


def test_a_stream_of_poses(monkeypatch):
    keypoints, scores = signing_poses(PLAN)
    translator, frames = pose_pipeline(), np.concatenate([keypoints, scores[..., None]], axis=-1)
    with serving(translator, monkeypatch, **FAST) as client, client.websocket_connect("/stream") as websocket:
        poses = [message(n / FRAMES_PER_SECOND, frame.astype("<f4").tobytes()) for n, frame in enumerate(frames)]
        send_all(websocket, poses)
        assert_same_sentences(answers_until_the_end(websocket), sentences_of(translator, frames))


@pytest.mark.parametrize("kind", ["JPEG", "WEBP"])
def test_pictures_with_loss(translator, monkeypatch, kind):
    frames = signing(PLAN[:3])
    pictures = [as_picture(frame, kind) for frame in frames]
    with serving(translator, monkeypatch, **FAST) as client, client.websocket_connect("/stream") as websocket:
        send_all(websocket, (message(n / FRAMES_PER_SECOND, picture) for n, picture in enumerate(pictures)))
        assert len(finals(answers_until_the_end(websocket))) == 1


# Limits


def test_one_stream_too_many_is_told_to_wait(translator, monkeypatch):
    with serving(translator, monkeypatch, max_streams=1, **FAST) as client:
        with client.websocket_connect("/stream") as first:
            with client.websocket_connect("/stream") as second:
                assert second.receive_json() == {
                    "type": "wait",
                    "status": 503,
                    "detail": "The server is busy: 1 streams are open. Try again in 5 seconds.",
                    "retry_after_seconds": 5,
                }
                with pytest.raises(WebSocketDisconnect) as closed:
                    second.receive_json()
                assert closed.value.code == 1013
            assert metric(client, "flallm_streams") == 1
            send_all(first, messages_of(signing(PLAN[:3])))
            assert answers_until_the_end(first)[-1] == {"type": "finished"}
        with client.websocket_connect("/stream") as third:
            send_all(third, [])
            assert answers_until_the_end(third) == [{"type": "finished"}]
        assert metric(client, 'flallm_requests_total{endpoint="/stream",status="503"}') == 1
        assert metric(client, 'flallm_requests_total{endpoint="/stream",status="accepted"}') == 2


def test_who_goes_away_gives_the_place_back(translator, monkeypatch):
    with serving(translator, monkeypatch, max_streams=1, **FAST) as client:
        with client.websocket_connect("/stream") as websocket:
            for each in messages_of(signing(PLAN[:2])):
                websocket.send_bytes(each)
        deadline = time.monotonic() + 30
        while metric(client, "flallm_streams") and time.monotonic() < deadline:
            time.sleep(0.01)
        assert metric(client, "flallm_streams") == 0
        to_read = client.app.state.server.model.frames_to_read
        assert (to_read.frames, to_read.streams) == (0, 0)


PICTURE = as_picture(np.zeros((48, 64, 3), np.uint8))
WRONG = (
    "A message must be a frame (8 bytes with its second, a big-endian float64, and then the picture or pose) or the "
)


@pytest.mark.parametrize(
    ("messages", "status", "detail"),
    [
        ([b"1234567"], 422, WRONG),
        ([message(0.0, b"")], 422, WRONG),
        (["hello"], 422, WRONG),
        (['["finish"]'], 422, WRONG),
        ([message(0.0, b"no picture")], 422, "A frame is not a JPEG, WebP or PNG picture, or is damaged."),
        (
            [message(0.0, PICTURE[: len(PICTURE) // 2])],
            422,
            "A frame is not a JPEG, WebP or PNG picture, or is damaged.",
        ),
        ([message(0.0, as_picture(np.zeros((60, 60, 3), np.uint8), "GIF"))], 422, "A frame is not a JPEG, WebP or PNG"),
        ([message(0.0, as_picture(np.zeros((99, 99, 3), np.uint8)))], 413, "A frame may have 9216 pixels at most, got"),
        ([message(0.0, b"0" * 3000)], 413, "A frame may have 2 KB at most. Send it smaller."),
        ([message(-1.0, PICTURE)], 422, "The second of a frame must be a number of 0 or more, got -1.0."),
        ([message(float("nan"), PICTURE)], 422, "The second of a frame must be a number of 0 or more, got nan."),
        ([message(2.0, PICTURE), message(1.0, PICTURE)], 422, "Frames must come in order of time, got one of second 1"),
        ([], 408, "Nothing came for 0.3 seconds, so the stream was closed."),
    ],
)
def test_mistakes_in_a_stream_end_it_and_say_why(translator, monkeypatch, messages, status, detail):
    flags = {"max_frame_pixels": 96 * 96, "max_frame_kilobytes": 2.0, "idle_seconds": 0.3}
    with serving(translator, monkeypatch, **flags) as client, client.websocket_connect("/stream") as websocket:
        for each in messages:
            websocket.send_text(each) if isinstance(each, str) else websocket.send_bytes(each)
        answer = websocket.receive_json()
        assert (answer["type"], answer["status"]) == ("error", status) and answer["detail"].startswith(detail)
        with pytest.raises(WebSocketDisconnect) as closed:
            websocket.receive_json()
        assert closed.value.code == 1008


def test_poses_of_another_size(monkeypatch):
    with serving(pose_pipeline(), monkeypatch) as client:
        for content, detail in ((b"1234", "Got 4 bytes, which 12 does not divide."), (b"\0" * 12 * 7, "7 points")):
            with client.websocket_connect("/stream") as websocket:
                websocket.send_bytes(message(0.0, content))
                answer = websocket.receive_json()
                assert (answer["type"], answer["status"]) == ("error", 422) and detail in answer["detail"]


def test_options_that_the_model_does_not_know(translator, monkeypatch):
    with serving(translator, monkeypatch) as client, client.websocket_connect("/stream?num_beams=99") as websocket:
        answer = websocket.receive_json()
        assert (answer["type"], answer["detail"]) == ("error", "`num_beams` must be from 1 to 16, got 99.")
        assert metric(client, "flallm_streams") == 0


def test_frames_that_come_too_fast_wait(translator, monkeypatch):
    frames = signing([("rest", 2.0)])[:50]
    flags = {"max_frame_rate": 40.0}
    with serving(translator, monkeypatch, **flags) as client, client.websocket_connect("/stream") as websocket:
        began = time.monotonic()
        send_all(websocket, (message(index / 40, as_picture(frame)) for index, frame in enumerate(frames)))
        assert answers_until_the_end(websocket)[-1] == {"type": "finished"}
        assert time.monotonic() - began > 0.2  # of 50 frames, 40 may come at once


def test_frames_much_closer_together_than_a_camera_takes_them_are_left_out(translator, monkeypatch):
    frames = signing(PLAN[:3])
    flags = {"max_frame_rate": 60.0}
    with serving(translator, monkeypatch, **flags) as client, client.websocket_connect("/stream") as websocket:
        noise = [message(index / 25 + 0.001, as_picture(255 - frame)) for index, frame in enumerate(frames)]
        send_all(websocket, itertools.chain.from_iterable(zip(messages_of(frames), noise, strict=True)))
        assert_same_sentences(answers_until_the_end(websocket), sentences_of(translator, frames))


def test_a_mistake_of_ours_ends_the_stream_and_says_nothing_of_it(translator, monkeypatch):
    with serving(translator, monkeypatch, **FAST) as client:
        with pytest.MonkeyPatch.context() as broken, client.websocket_connect("/stream") as websocket:
            broken.setattr(translator, "write_sentences", lambda *_, **__: 1 / 0)
            send_all(websocket, messages_of(signing(PLAN)))
            *_, last = answers_until_the_end(websocket)
            assert last == {
                "type": "error",
                "status": 500,
                "detail": "The server could not translate this. Its log says why.",
            }
        frames = signing(PLAN[:3])
        with client.websocket_connect("/stream") as websocket:
            send_all(websocket, messages_of(frames))
            assert_same_sentences(answers_until_the_end(websocket), sentences_of(translator, frames))


# Whose turn it is


class Stream:
    """Of which only the turn is asked."""

    def __init__(self, turn: Turn | None, **writing):
        self.turn, self.writing = turn, writing

    @property
    def next_task(self):
        segment = VideoSegment(0.0, 1.0, 0.0, 1.0)
        is_final, is_still = self.turn is Turn.ENDED, self.turn is Turn.RESTING
        return None if self.turn is None else Task(segment, None, is_final, is_still)


@pytest.fixture
def model():
    """A thread that has ended, whose choices are asked."""
    thread = ModelThread(None, Metrics(), max_batch_size=3, batch_wait_seconds=0.05)
    thread.close()
    thread._is_closed = False
    return thread


def waiting(model: ModelThread, *streams: Stream) -> list[StreamToTranslate]:
    model._waiting += [StreamToTranslate(stream, lambda: None) for stream in streams]
    return list(model._waiting)


def test_sentences_that_ended_go_before_others_and_rests_before_drafts(model):
    streams = waiting(model, *map(Stream, (Turn.DRAFT, Turn.ENDED, Turn.RESTING, None, Turn.ENDED)))
    draft, ended, resting, nothing, also_ended = streams
    assert [model._choose() for _ in range(3)] == [[ended, also_ended], [resting], [draft, nothing]]


@pytest.mark.parametrize("turn", [Turn.RESTING, Turn.DRAFT])
def test_what_did_not_end_waits_while_frames_are_read_late(model, turn):
    one, other = waiting(model, Stream(turn), Stream(turn))
    model.frames_to_read.frames, model.frames_to_read.streams = 3, 2
    assert model._next_alike() == [] and 0 < model._patience([]) < 1
    other.stream.turn = Turn.ENDED
    assert model._next_alike() == [other]
    other.stream.turn = turn
    model.frames_to_read.frames = 2
    assert model._next_alike() == [one, other]


def test_a_draft_whose_sentence_has_ended_meanwhile_goes_first(model):
    first, second = waiting(model, Stream(Turn.DRAFT), Stream(Turn.DRAFT))
    second.stream.turn = Turn.ENDED
    assert model._choose() == [second]


def test_the_longest_wait_goes_first_and_no_more_than_fit(model):
    streams = waiting(model, *(Stream(Turn.ENDED) for _ in range(5)))
    assert (model._choose(), model._choose()) == (streams[:3], streams[3:])


class Translating:
    """A stream that has these tasks one after the other, each in one part, and keeps what is sent for them."""

    def __init__(self, *turns: Turn, num_beams: int = 3):
        self._turns, self.written, self.writing = list(turns), [], {"num_beams": num_beams}

    def writing_of(self, task):
        return {"num_beams": 1} if task.is_draft else self.writing

    @property
    def has_ended_sentences(self):
        return self._turns[:1] == [Turn.ENDED]

    @property
    def next_task(self):
        return Stream(self._turns[0]).next_task if self._turns else None

    def next_translation(self):
        return self._translation() if self._turns else None

    def _translation(self):
        task = self.next_task
        self._turns.pop(0)
        watch = Watch(self, task, 0)
        written = yield EncodedClips(None, [1], [None], None), watch
        self.written.append((task.is_draft, None if watch.is_stopped else written))


@pytest.fixture
def written(model, monkeypatch):
    """What `write_sentences` is asked for: the number of sentences and the arguments. Meanwhile `model.comes` waits."""
    asked, model.comes = [], []

    def write_sentences(encoded, stopping_criteria=(), **writing):
        asked.append((len(encoded.num_frames), writing))
        waiting(model, *model.comes)
        model.comes = []
        for criterion in stopping_criteria:
            criterion(torch.zeros(1, 1, dtype=torch.long), None)
        return [f"sentence {index}" for index in range(len(encoded.num_frames))]

    def joined(parts):
        return EncodedClips(None, [number for part in parts for number in part.num_frames], [], None)

    monkeypatch.setattr(EncodedClips, "joined", joined)
    model.pipeline = SimpleNamespace(write_sentences=write_sentences)
    return asked


def test_sentences_of_several_streams_are_written_at_once_and_drafts_without_beams(model, written):
    streams = [Translating(turn) for turn in (Turn.ENDED, Turn.DRAFT, Turn.ENDED, Turn.DRAFT)]
    waiting(model, *streams)
    for _ in range(2):
        model._translate(model._choose())
    assert written == [(2, {"num_beams": 3}), (2, {"num_beams": 1})]
    assert [stream.written for stream in streams] == [
        [(False, "sentence 0")],
        [(True, "sentence 0")],
        [(False, "sentence 1")],
        [(True, "sentence 1")],
    ]


@pytest.mark.parametrize("num_beams", [3, 1])
def test_a_draft_that_has_become_a_sentence_is_written_with_beams_and_not_stopped(model, written, num_beams):
    changed, draft = waiting(model, *(Translating(Turn.DRAFT, num_beams=num_beams) for _ in range(2)))
    chosen = model._choose()
    changed.stream._turns[0] = Turn.ENDED  # between the choice and the translation
    model.comes = [Translating(Turn.ENDED)]
    model._translate(chosen)
    assert written == [(1, {"num_beams": num_beams}), (1, {"num_beams": 1})]
    assert (changed.stream.written, draft.stream.written) == ([(False, "sentence 0")], [(True, None)])


def test_drafts_are_stopped_when_a_sentence_ends(model, written):
    drafts = waiting(model, Translating(Turn.DRAFT), Translating(Turn.DRAFT))
    model.comes = [ended] = [Translating(Turn.ENDED)]
    model._translate(model._choose())
    assert [draft.stream.written for draft in drafts] == [[(True, None)]] * 2
    model._translate(model._choose())
    assert ended.written == [(False, "sentence 0")] and len(written) == 2


def test_drafts_that_are_not_encoded_yet_wait_when_a_sentence_ends(model, written, monkeypatch):
    streams = [Translating(Turn.DRAFT), Translating(Turn.DRAFT)]
    first, second = waiting(model, *streams)
    chosen, next_translation, ended = model._choose(), streams[0].next_translation, []

    def with_an_end_meanwhile():
        ended.append(waiting(model, Translating(Turn.ENDED))[-1])
        return next_translation()

    monkeypatch.setattr(streams[0], "next_translation", with_an_end_meanwhile)
    model._translate(chosen)
    assert streams[0].written == [(True, None)] and streams[1].written == [] and written == [(1, {"num_beams": 1})]
    assert model._choose() == ended and second in model._choose()


def test_drafts_are_stopped_when_a_sentence_of_theirs_ends(model, written):
    (first, second) = waiting(model, Translating(Turn.DRAFT, Turn.ENDED), Translating(Turn.DRAFT))
    model._translate(model._choose())
    assert first.stream.written == second.stream.written == [(True, None)]
    model._translate(model._choose())
    assert first.stream.written[-1] == (False, "sentence 0")


def test_only_alike_sentences_are_written_together(model):
    one, other, third = waiting(
        model, Stream(Turn.ENDED, num_beams=1), Stream(Turn.ENDED, num_beams=2), Stream(Turn.ENDED, num_beams=1)
    )
    assert (model._choose(), model._choose()) == ([one, third], [other])


def test_a_clip_waits_for_others_but_not_long_and_not_if_a_stream_waits(model):
    clip = ClipToTranslate({}, False, {})
    model._waiting.append(clip)
    assert model._choose() == [clip] and time.monotonic() - clip.since >= 0.05
    clip = ClipToTranslate({}, False, {})
    model._waiting.append(clip)
    (_, ended) = waiting(model, Stream(Turn.ENDED))
    assert model._choose() == [clip, ended] and time.monotonic() - clip.since < 0.05


def test_a_clip_and_a_stream_with_the_same_options_are_written_together(translator, model):
    options = ClipOptions(num_beams=2)
    model.translate({}, options.left_handed, options.writing)
    stream = StreamingTranslator(translator, schedule=lambda _: None, **options.of_stream)
    assert [each.writing for each in model._waiting] == [stream.writing]


def test_a_stream_with_a_thread_of_its_own_is_unchanged(translator):
    """And one that shares a thread has none."""
    scheduled = []
    frames = signing(PLAN[:3])
    with StreamingTranslator(translator, schedule=scheduled.append) as stream:
        for index, frame in enumerate(frames):
            stream.take(frame, index / FRAMES_PER_SECOND)
        stream.end()
        assert scheduled == [stream] and stream.has_ended_sentences and stream.is_translating
        assert not stream._worker._threads
        while (translation := stream.next_translation()) is not None:
            encoded, _ = next(translation, (None, None))
            while encoded is not None:
                try:
                    encoded, _ = translation.send(translator.write_sentences(encoded, **stream.writing)[0])
                except StopIteration:
                    break
        assert not stream.is_translating
        updates = finals(stream.updates())
    (expected,) = finals(translator.translate_stream((i / FRAMES_PER_SECOND, f) for i, f in enumerate(frames)))
    assert [update["translation_text"] for update in updates] == [expected["translation_text"]]


@pytest.mark.slow
def test_the_example_of_the_page(translator, tmp_path, monkeypatch, capsys):
    """Its client, by a real connection."""
    pytest.importorskip("websockets")
    uvicorn = pytest.importorskip("uvicorn")
    (example,) = re.findall(r"```python\n(.*?)```", PAGE.read_text(encoding="utf-8"), re.DOTALL)
    video = write_video(tmp_path / "clip.mp4", signing(PLAN))
    with serving(translator, monkeypatch, **FAST) as client:
        listener = socket.socket()
        listener.bind(("127.0.0.1", 0))
        app = client.app
        own_lifespan = uvicorn.Server(uvicorn.Config(app, lifespan="off", log_level="warning"))
        thread = threading.Thread(target=own_lifespan.run, kwargs={"sockets": [listener]})
        thread.start()
        example = example.replace("127.0.0.1:8000", f"127.0.0.1:{listener.getsockname()[1]}")
        path = tmp_path / "client.py"
        path.write_text(example.replace('"clip.mp4"', repr(str(video))), encoding="utf-8")
        try:
            run = subprocess.run([sys.executable, path], capture_output=True, text=True, check=True, timeout=120)
        finally:
            own_lifespan.should_exit = True
            thread.join()
        assert len(run.stdout.splitlines()) == 2
