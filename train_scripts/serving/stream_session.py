"""
One stream of a client, by WebSocket: frames come in, updates go out.

The event loop only passes messages on. Frames are decoded and measured in another process, all that came meanwhile
together, and the sentences in them are translated in the thread of the model, when it is their turn.
"""

import asyncio
import contextlib
import json
import logging
import time
from collections import deque
from typing import Any

import anyio
from fastapi import WebSocket, WebSocketDisconnect
from starlette.websockets import WebSocketState

from modeling_flallm import StreamingTranslator
from modeling_flallm.own_processing import Task

from ..arguments.serving_arguments import ServeArguments
from .frame_readers import FrameReaders
from .metrics import Metrics
from .model_thread import ModelThread
from .problems import Problem, internal
from .sent_frames import SECONDS_BEFORE_A_FRAME

logger = logging.getLogger(__name__)

MOST_FRAMES_THAT_WAIT = 32
CLOSED_AS_ASKED, CLOSED_FOR_A_MISTAKE, CLOSED_FOR_AN_ERROR, TRY_AGAIN_LATER = 1000, 1008, 1011, 1013
WHAT_MESSAGES_ARE = (
    "A message must be a frame (8 bytes with its second, a big-endian float64, and then the picture or pose) or the "
    'text {"type": "finish"}.'
)


def largest_message(limits: ServeArguments) -> int:
    """How many bytes a message of a stream may have."""
    return int(limits.max_frame_kilobytes * 1024) + SECONDS_BEFORE_A_FRAME.size


async def refuse(websocket: WebSocket, problem: Problem) -> None:
    """Tell a client why its stream cannot begin or go on, and close it."""
    kind = "error" if problem.retry_after_seconds is None else "wait"
    code = CLOSED_FOR_AN_ERROR if problem.status == 500 else CLOSED_FOR_A_MISTAKE
    with contextlib.suppress(WebSocketDisconnect, RuntimeError):  # it is gone
        await websocket.send_json({"type": kind, "status": problem.status, **problem.content})
        await websocket.close(TRY_AGAIN_LATER if kind == "wait" else code)


class StreamSession:
    """
    Args:
        websocket: accepted.
        readers: they read the frames.
        options: arguments of a call of the pipeline.

    Raises:
        Problem: for options that the model does not know, and clips that cannot be streamed.
    """

    def __init__(
        self,
        websocket: WebSocket,
        model: ModelThread,
        readers: FrameReaders,
        limits: ServeArguments,
        metrics: Metrics,
        options: dict[str, Any],
    ):
        self._websocket, self._limits, self._metrics = websocket, limits, metrics
        self._loop = asyncio.get_running_loop()
        self._to_read = model.frames_to_read
        self._frames: deque[bytes] = deque()
        self._has_frames, self._has_room, self._has_updates = asyncio.Event(), asyncio.Event(), asyncio.Event()
        self._was_translated = asyncio.Event()
        self._is_finished = self._is_ended = False
        self._due = 0.0
        self._num_unread = 0
        try:
            self._stream = StreamingTranslator(
                model.pipeline, schedule=lambda stream: model.schedule(stream, self._wake), **options
            )
        except ValueError as error:
            raise Problem(422, "options", str(error)) from error
        self._reader = readers.open()

    async def run(self) -> None:
        """Until the client finishes or goes away, or something goes wrong, which it is told."""
        problem = None
        self._to_read.streams += 1
        try:
            async with anyio.create_task_group() as tasks:
                for part in (self._receive, self._read, self._send):
                    tasks.start_soon(part)
            await self._tell({"type": "finished"})
            await self._websocket.close(CLOSED_AS_ASKED)
        except* WebSocketDisconnect:
            pass
        except* Problem as group:
            problem = next(iter(group.exceptions))
        except* Exception as group:
            logger.error("A stream failed.", exc_info=group)
            problem = internal()
        finally:
            self._stream.close()
            self._reader.close()
            self._to_read.streams -= 1
            self._to_read.frames -= self._num_unread
        if problem is not None:
            self._metrics.errors.labels(problem.kind).inc()
            await refuse(self._websocket, problem)

    def _wake(self) -> None:
        """From any thread: look for updates."""
        with contextlib.suppress(RuntimeError):  # the loop has ended
            self._loop.call_soon_threadsafe(self._look_for_updates)

    def _look_for_updates(self) -> None:
        self._has_updates.set()
        self._was_translated.set()

    async def _receive(self) -> None:
        while not self._is_finished:
            try:
                message = await asyncio.wait_for(self._websocket.receive(), self._limits.idle_seconds)
            except TimeoutError:
                detail = f"Nothing came for {self._limits.idle_seconds:g} seconds, so the stream was closed."
                raise Problem(408, "idle", detail) from None
            if message["type"] == "websocket.disconnect":
                raise WebSocketDisconnect(message.get("code", CLOSED_AS_ASKED))
            content = message.get("bytes")
            if content is not None:
                await self._take(content)
            elif _is_finish(message.get("text")):
                self._is_finished = True
            else:
                raise Problem(422, "message", WHAT_MESSAGES_ARE)
            self._has_frames.set()

    async def _take(self, content: bytes) -> None:
        if len(content) > largest_message(self._limits):
            raise Problem(
                413, "too_large", f"A frame may have {self._limits.max_frame_kilobytes:g} KB at most. Send it smaller."
            )
        if len(content) <= SECONDS_BEFORE_A_FRAME.size:
            raise Problem(422, "message", WHAT_MESSAGES_ARE)
        await self._keep_the_rate()
        while len(self._frames) >= MOST_FRAMES_THAT_WAIT:
            self._has_room.clear()
            await self._has_room.wait()
        self._frames.append(content)
        self._count_unread(1)

    def _count_unread(self, number: int) -> None:
        self._num_unread += number
        self._to_read.frames += number

    async def _keep_the_rate(self) -> None:
        """Let a frame wait that comes too early; a second of frames may come at once, as after a pause of the net."""
        now = time.monotonic()
        self._due = max(self._due, now - 1.0) + 1 / self._limits.max_frame_rate
        if self._due > now:
            await asyncio.sleep(self._due - now)

    async def _read(self) -> None:
        is_end = False
        while not is_end:
            await self._has_frames.wait()
            self._has_frames.clear()
            frames = list(self._frames)
            self._frames.clear()
            self._has_room.set()
            is_end = self._is_finished
            with self._metrics.time_of("frames"):
                tasks = await self._reader.read(frames, is_end)
            for task in tasks:
                await self._ask_for(task)
            self._count_unread(-len(frames))
            self._metrics.frames.inc(len(frames))
        self._is_ended = True
        self._has_updates.set()

    async def _ask_for(self, task: Task) -> None:
        """Have a sentence translated. If too many that ended wait, no more frames are read meanwhile."""
        while not self._stream.has_room:
            self._was_translated.clear()
            await self._was_translated.wait()
        self._stream.ask_for(task)

    async def _send(self) -> None:
        is_over = False
        while not is_over:
            await self._has_updates.wait()
            self._has_updates.clear()
            is_over = self._is_ended and not self._stream.is_translating
            for update in self._stream.updates():
                self._metrics.sentences.labels(str(update["is_final"]).lower()).inc()
                await self._tell({"type": "update", **update})

    async def _tell(self, message: dict[str, Any]) -> None:
        if self._websocket.client_state is WebSocketState.DISCONNECTED:
            raise WebSocketDisconnect
        await self._websocket.send_json(message)


def _is_finish(text: str | None) -> bool:
    try:
        message = json.loads(text or "")
    except ValueError:
        return False
    return isinstance(message, dict) and message.get("type") == "finish"
