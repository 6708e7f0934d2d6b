"""The processes that read the frames of streams: the same tasks as here, what is sent, and what happens if one dies."""

import asyncio
import functools
import itertools
import multiprocessing
import sys
import threading
from concurrent.futures import Future
from types import SimpleNamespace

import numpy as np
import psutil
import pytest
from signing_pictures import FRAMES_PER_SECOND, signing
from signing_poses import signing_poses
from test_pipeline import make_pipeline
from tiny_pose_models import pose_pipeline

for package in ("fastapi", "pebble", "prometheus_client"):
    pytest.importorskip(package)

from serving_parts import FrameReadersHere, as_picture, message  # noqa: E402

from train_scripts.serving import frame_readers  # noqa: E402
from train_scripts.serving.frame_readers import FrameLimits, FrameReaders, Reading, ReadingProcess, StreamReaders  # noqa: E402
from train_scripts.serving.problems import Problem  # noqa: E402

PLAN = [("rest", 0.6), ("sign", 1.4), ("rest", 1.2), ("sign", 1.8), ("rest", 1.0)]
LIMITS = FrameLimits(max_frame_rate=30.0, max_frame_pixels=100 * 100)


def pictures():
    """A processor, frames, and the same as messages."""
    frames = signing(PLAN)
    return make_pipeline().processor, frames, [as_picture(frame) for frame in frames]


def poses():
    keypoints, scores = signing_poses(PLAN)
    frames = np.concatenate([keypoints, scores[..., None]], axis=-1).astype("<f4")
    return pose_pipeline().processor, frames, [frame.tobytes() for frame in frames]


def messages_of(contents):
    return [message(number / FRAMES_PER_SECOND, content) for number, content in enumerate(contents)]


def tasks_here(processor, frames, batches):
    """Of frames that come in batches of these sizes: of each, the sentences that ended, and the last one."""
    clip, numbers = processor.modality.live(), iter(range(len(frames)))
    for size in batches:
        tasks = []
        for number in itertools.islice(numbers, size):
            tasks += clip.take(frames[number], number / FRAMES_PER_SECOND)
        yield [task for index, task in enumerate(tasks) if task.is_final or index == len(tasks) - 1]
    yield list(clip.end())


async def tasks_there(stream, messages, batches):
    messages = iter(messages)
    found = [await stream.read(list(itertools.islice(messages, size))) for size in batches]
    return [*found, await stream.read([], is_end=True)]


def assert_same_tasks(found, expected, modality):
    clip = modality.live()
    for of_batch, expected_of_batch in zip(found, expected, strict=True):
        for task, other in zip(of_batch, expected_of_batch, strict=True):
            assert (task.segment, task.is_final, task.is_still) == (other.segment, other.is_final, other.is_still)
            assert task.numbers == other.numbers
            if task.part is not None:
                assert task.part.metadata == other.part.metadata
                assert clip.values(task.part).equal(clip.values(other.part))


def batches_of(frames, seed):
    sizes = np.random.default_rng(seed).integers(1, 12, len(frames))
    return [int(size) for size in sizes[: int(np.searchsorted(np.cumsum(sizes), len(frames))) + 1]]


@pytest.mark.parametrize("make", [pictures, poses])
def test_the_tasks_are_those_of_the_clip(make, seed):
    processor, frames, contents = make()
    batches = batches_of(frames, seed)
    readers = FrameReadersHere(processor.modality, "", LIMITS, 1)
    found = asyncio.run(tasks_there(readers.open(), messages_of(contents), batches))
    readers.close()
    expected = list(tasks_here(processor, frames, batches))
    assert sum(task.is_final for tasks in expected for task in tasks) == 2
    assert_same_tasks(found, expected, processor.modality)


def test_a_picture_is_sent_once():
    processor, frames, contents = pictures()
    readers, sent = StreamReaders(processor.modality, LIMITS), []
    for content in messages_of(contents):
        (found,) = readers.answers([Reading(1, [content])])
        sent += [number for each in found for number in each.frames]
        assert all(not each.task.part.frames for each in found if each.task.part is not None)
    assert len(sent) == len(set(sent)) > 0


def test_a_mistake_in_one_stream_is_told_to_it_alone():
    processor, _, contents = pictures()
    readers = StreamReaders(processor.modality, LIMITS)
    bad, good = readers.answers([Reading(1, [message(0.0, b"no picture")]), Reading(2, [message(0.0, contents[0])])])
    assert isinstance(bad, Problem) and bad.status == 422 and good == []


def test_our_own_mistake_is_told_to_nobody_and_logged_by_the_server(caplog):
    """A reading process may not write a log."""
    readers = StreamReaders(None, LIMITS)
    (found,) = readers.answers([Reading(3, [message(0.0, b"frame")])])
    assert caplog.text == ""
    answer = Future()
    frame_readers.give(answer, found)
    problem = answer.exception()
    assert isinstance(problem, Problem) and problem.status == 500 and "NoneType" not in problem.detail
    assert "Frames could not be read.\nTraceback" in caplog.text and "'NoneType' object has no attr" in caplog.text


def test_closed_streams_are_forgotten():
    processor, _, contents = pictures()
    readers = StreamReaders(processor.modality, LIMITS)
    readers.answers([Reading(number, [message(0.0, contents[0])]) for number in (1, 2)])
    readers.answers([Reading(1, is_closed=True)])
    assert readers._streams.keys() == {2}


def not_started():
    """A reading process without a process, and the other end of its connection."""
    process = ReadingProcess.__new__(ReadingProcess)
    process._connection, theirs = multiprocessing.Pipe()
    process._process = SimpleNamespace(join=lambda: None, is_alive=lambda: True, kill=theirs.close)
    process._changed, process._asked, process._is_closed = threading.Condition(), [], False
    process._thread = threading.Thread(target=process._run)
    return process, theirs


def test_a_process_that_hangs_is_killed_in_the_end(monkeypatch):
    monkeypatch.setattr(frame_readers, "SECONDS_TO_END", 0.1)
    process, theirs = not_started()
    asked = process.ask(Reading(1))
    process._thread.start()
    assert theirs.recv() == [Reading(1)]  # and does not answer
    process.close()
    with pytest.raises(ConnectionError, match="has ended"):
        asked.result(10)


@pytest.mark.parametrize("is_closed", [True, False])
def test_who_waits_for_a_process_that_ends_is_told(is_closed):
    """Closed before it is asked, or gone when it is."""
    process, theirs = not_started()
    cancelled, asked = process.ask(Reading(1)), process.ask(Reading(2))
    cancelled.cancel()
    process._is_closed = is_closed
    theirs.close()
    process._thread.start()
    with pytest.raises(ConnectionError, match="has ended"):
        asked.result(10)
    process._thread.join(10)
    assert not process.is_alive and cancelled.cancelled()
    with pytest.raises(ConnectionError, match="has ended"):
        process.ask(Reading(3)).result(10)


@pytest.mark.slow
def test_processes_share_streams_and_one_that_dies_costs_its_own(tmp_path):
    translator = make_pipeline()
    translator.save_pretrained(tmp_path / "model")
    frames = signing(PLAN)
    messages, batches = messages_of(map(as_picture, frames)), [10] * (len(frames) // 10 + 1)
    readers = FrameReaders(str(tmp_path / "model"), LIMITS, 2)
    try:
        first, second = readers.open(), readers.open()
        assert [process.num_streams for process in readers._processes] == [1, 1]
        for process in readers._processes if sys.platform == "linux" else ():
            limits = psutil.Process(process._process.pid)
            assert limits.rlimit(psutil.RLIMIT_FSIZE) == limits.rlimit(psutil.RLIMIT_CORE) == (0, 0)
        readers._processes[0]._process.kill()
        with pytest.raises(ConnectionError, match="The process that reads the frames of this stream has ended."):
            asyncio.run(first.read(messages))
        first.close()
        check = functools.partial(assert_same_tasks, modality=translator.processor.modality)
        expected = list(tasks_here(translator.processor, frames, batches))
        for stream in (second, readers.open()):
            check(asyncio.run(tasks_there(stream, messages, batches)), expected)
    finally:
        readers.close()
