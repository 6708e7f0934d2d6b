"""
Captions while a person signs: the browser sends pictures of its camera over a WebSocket, and sentences come back.

**Messages.** The browser first sends `{"language", "left_handed"}`; then pictures, each as 8 bytes, a big-endian
float64 with the seconds since the start, and a JPEG; and in the end any text. It gets a message for each update of a
`StreamingTranslator`; when no more pictures come `{"captions": {"txt", "srt", "vtt"}}`; and last of all `{"problem"}`,
a sentence, if something went wrong. Pictures are kept until their sentence is written, and nowhere but in memory.
"""

import asyncio
import contextlib
import io
import os
import queue
import struct
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any
from urllib.parse import urlsplit

import results
from decoding import VideoProblem
from PIL import Image
from starlette.routing import WebSocketRoute
from starlette.websockets import WebSocket, WebSocketDisconnect
from texts import DEFAULT_LANGUAGE, LANGUAGES, TEXTS
from translating import HANDS, Translator
from turns import Visitors, visitor_of

PATH = "/live"
MOST_CAMERAS = 10
MOST_MINUTES = 30
SECONDS_WITHOUT_A_PICTURE = 30
LARGEST_PICTURE_IN_BYTES, LARGEST_SIDE_IN_PIXELS = 500_000, 1280
MOST_PICTURES_A_SECOND = 30
MOST_PICTURES_WAITING = 60  # more are left out
SECONDS_BETWEEN_REPORTS = 0.05

TRANSCRIPTS = ("txt", "srt", "vtt")
STAGE = """<div class="live-stage"><video class="live-picture" muted playsinline></video>
<p class="live-caption" dir="auto" aria-hidden="true"></p></div>
<p class="live-status" role="status"></p><ol class="live-sentences" role="log"></ol>"""

Send = Callable[[dict[str, Any]], None]


class LiveCaptions:
    """
    Translates the cameras of several visitors.

    Args:
        sentence_for: what to tell a visitor of an error, in a language.
    """

    def __init__(self, translator: Translator, visitors: Visitors, sentence_for: Callable[[Exception, str], str]):
        self.translator, self.visitors, self.sentence_for = translator, visitors, sentence_for
        self.cameras = LiveTurns(translator)
        self._num_open = 0

    @staticmethod
    def are_possible(translator: Translator) -> bool:
        """Poses would have to be found in the pictures first, an accelerator that is lent is taken back after each
        call, and models that older versions pushed translate no streams."""
        is_lent = bool(os.environ.get("SPACES_ZERO_GPU"))
        return not translator.reads_poses and not is_lent and hasattr(translator.pipeline, "open_stream")

    def route(self) -> WebSocketRoute:
        return WebSocketRoute(PATH, self._serve)

    async def _serve(self, socket: WebSocket) -> None:
        await socket.accept()
        language = DEFAULT_LANGUAGE
        with contextlib.suppress(WebSocketDisconnect, RuntimeError):  # nobody is there to be told
            try:
                _check_origin(socket)
                wishes = await _in_time(socket.receive_json())
                language = wishes.get("language") if wishes.get("language") in LANGUAGES else language
                visitor = visitor_of(socket)
                with self._one_more(visitor):
                    await self._translate(socket, visitor, language, HANDS.get(wishes.get("left_handed"), False))
            except WebSocketDisconnect:
                return
            except Exception as error:
                await socket.send_json({"problem": self.sentence_for(error, language)})
            await socket.close()

    @contextlib.contextmanager
    def _one_more(self, visitor: str) -> Iterator[None]:
        with self.visitors.one_more(visitor):
            if self._num_open >= MOST_CAMERAS:
                raise VideoProblem("live_error_full", limit=MOST_CAMERAS)
            self._num_open += 1
            try:
                yield
            finally:
                self._num_open -= 1

    async def _translate(self, socket: WebSocket, visitor: str, language: str, left_handed: bool | str) -> None:
        loop = asyncio.get_running_loop()

        def send(message: dict[str, Any]) -> None:
            asyncio.run_coroutine_threadsafe(socket.send_json(message), loop).result()

        pictures: queue.Queue = queue.Queue(MOST_PICTURES_WAITING)
        reading = asyncio.create_task(_receive(socket, pictures))
        hand = {} if left_handed is False else {"left_handed": left_handed}
        with self.cameras.open(visitor, hand) as stream:
            try:
                await asyncio.to_thread(_caption, stream, pictures, reading.done, send, language)
                await reading  # raises what ended it
            finally:
                reading.cancel()


class LiveTurns:
    """
    One thread translates what all cameras show. Sentences that ended go first, and then the camera that has waited
    longest. Each translation is a turn of the model, which visitors with videos take, too.
    """

    def __init__(self, translator: Translator):
        self._translator = translator
        self._changed = threading.Condition()
        self._waiting: list[tuple[Any, str]] = []
        threading.Thread(target=self._run, name="live", daemon=True).start()

    def open(self, visitor: str, hand: dict[str, Any]) -> Any:
        """A `StreamingTranslator` for the camera of a visitor."""
        pipeline = self._translator.pipeline
        return pipeline.open_stream(schedule=lambda stream: self._add(stream, visitor), return_scores=True, **hand)

    def _add(self, stream: Any, visitor: str) -> None:
        with self._changed:
            self._waiting.append((stream, visitor))
            self._changed.notify_all()

    def _run(self) -> None:
        while True:
            with self._changed:
                self._changed.wait_for(lambda: self._waiting)
                ended = (each for each in self._waiting if each[0].has_ended_sentences)
                stream, visitor = chosen = next(ended, self._waiting[0])
                self._waiting.remove(chosen)
            with self._translator.turn_to_write(visitor):
                has_more = stream.translate_next()
            if has_more:
                self._add(stream, visitor)


async def _in_time(message: Any) -> Any:
    try:
        return await asyncio.wait_for(message, SECONDS_WITHOUT_A_PICTURE)
    except TimeoutError as error:
        raise VideoProblem("live_error_no_pictures", limit=SECONDS_WITHOUT_A_PICTURE) from error


def _check_origin(socket: WebSocket) -> None:
    """Browsers let any page open a WebSocket anywhere, and say which page it is."""
    origin = socket.headers.get("origin")
    if origin is not None and urlsplit(origin).netloc != socket.headers.get("host"):
        raise VideoProblem("live_error_other_page")


async def _receive(socket: WebSocket, pictures: queue.Queue) -> None:
    """Put pictures with their seconds into the queue, until a text comes."""
    began, last = time.monotonic(), -1.0
    while time.monotonic() - began < 60 * MOST_MINUTES:
        message = await _in_time(socket.receive())
        if message["type"] == "websocket.disconnect":
            raise WebSocketDisconnect(message.get("code", 1000))
        if message.get("bytes") is None:
            return
        seconds, picture = _split(message["bytes"])
        if seconds - last >= 1 / MOST_PICTURES_A_SECOND and not pictures.full():
            last = seconds
            pictures.put_nowait((seconds, picture))
    raise VideoProblem("live_error_too_long", limit=MOST_MINUTES)


def _split(message: bytes) -> tuple[float, bytes]:
    if not 8 < len(message) <= LARGEST_PICTURE_IN_BYTES:
        raise VideoProblem("live_error_picture")
    (seconds,) = struct.unpack(">d", message[:8])
    if not 0 <= seconds < 120 * MOST_MINUTES:  # also where it is no number
        raise VideoProblem("live_error_picture")
    return seconds, message[8:]


def _opened(picture: bytes) -> Image.Image:
    try:
        image = Image.open(io.BytesIO(picture), formats=("JPEG",))
        if max(image.size) > LARGEST_SIDE_IN_PIXELS:
            raise VideoProblem("live_error_picture")
        return image.convert("RGB")
    except (OSError, SyntaxError, ValueError) as error:
        raise VideoProblem("live_error_picture") from error


def _caption(stream: Any, pictures: queue.Queue, is_done: Callable[[], bool], send: Send, language: str) -> None:
    """Add pictures to the stream, and send what it says, until no more come."""
    finished: list[dict[str, Any]] = []

    def tell(updates: Any) -> None:
        for update in updates:
            if update["is_final"] and update["translation_text"]:
                finished.append({**update, "translation_text": results.marked(update)})
            send(_message(update, language))

    while not (is_done() and pictures.empty()):
        try:
            seconds, picture = pictures.get(timeout=SECONDS_BETWEEN_REPORTS)
        except queue.Empty:
            tell(stream.updates())
        else:
            tell(stream.add(_opened(picture), seconds))
    tell(stream.finish())
    processor = stream.pipeline.processor
    captions = {name: processor.format_captions(finished, name) for name in ("srt", "vtt")} if finished else {}
    send({"captions": {"txt": "".join(f"{each['translation_text']}\n" for each in finished), **captions}})


def _message(update: dict[str, Any], language: str) -> dict[str, Any]:
    message = {name: update[name] for name in ("piece", "is_final", "signing_start", "signing_end")}
    if not (update["is_final"] and update["translation_text"]):
        return {**message, "text": update["translation_text"], "sureness": ""}
    name = results.sureness(update)
    sureness = "" if name == "sureness_unknown" else f"{results.SIGNS[name]} {TEXTS[language][name]}"
    return {**message, "text": results.marked(update), "sureness": sureness}
