"""
Limits what visitors upload and deletes it in time, including files that Gradio has lost track of, because the upload
broke off or an earlier process ended.
"""

import contextlib
import logging
import os
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

from starlette.requests import Request
from starlette.responses import PlainTextResponse
from texts import TEXTS, language_from_header
from turns import visitor_of

logger = logging.getLogger(__name__)

SECONDS_BETWEEN_SWEEPS = 30
SECONDS_OF_A_BROKEN_UPLOAD = 5 * 60
MOST_UPLOADS_OF_ONE_VISITOR = 10  # at the same time
MOST_BYTES_OF_ALL_UPLOADS = 20 * 10**9


def delete_old_files(folder: Path, seconds: float, kept: Iterable[str] = ()) -> None:
    """
    Delete every file in a folder that has not changed for so many seconds, and broken uploads sooner.

    Args:
        kept: paths of files that belong to the page, such as its examples.
    """
    kept, now = set(kept), time.time()
    for parent, _, names in os.walk(folder):
        # Gradio writes an upload beside the folders of complete files, and moves it when it is complete.
        limit = min(seconds, SECONDS_OF_A_BROKEN_UPLOAD) if Path(parent) == folder else seconds
        for name in names:
            path = os.path.join(parent, name)
            if path not in kept:
                _delete_if_older(path, now - limit)


def _delete_if_older(path: str, when: float) -> None:
    try:
        if os.lstat(path).st_ctime <= when:
            os.remove(path)
    except FileNotFoundError:
        pass  # moved or deleted meanwhile
    except OSError:
        logger.exception("%s is old and cannot be deleted.", path)


def keep_deleting(folder: Path, seconds: float, kept: Callable[[], Iterable[str]]) -> None:
    """Delete old files in a thread from now on, first what an earlier process left."""

    def sweep() -> None:
        while True:
            try:
                delete_old_files(folder, seconds, kept())
            except Exception:
                logger.exception("Old files cannot be deleted.")
            time.sleep(SECONDS_BETWEEN_SWEEPS)

    threading.Thread(target=sweep, name="uploads", daemon=True).start()


class UploadLimits:
    """
    ASGI middleware in front of the server: Gradio limits the size of a file, but not the files in a request, the
    requests of a visitor, or the disk space of all uploads.
    """

    def __init__(self, app: Callable[..., Any], folder: Path, most_bytes: int):
        self.app, self.folder, self.most_bytes = app, folder, most_bytes
        self.counts: Counter[str] = Counter()

    async def __call__(self, scope: dict[str, Any], receive: Callable[..., Any], send: Callable[..., Any]) -> None:
        if scope["type"] != "http" or scope["method"] != "POST" or not scope["path"].endswith("/upload"):
            await self.app(scope, receive, send)
            return
        request = Request(scope)
        visitor, problem = visitor_of(request), self._problem(request)
        if problem is not None:
            status, text = problem
            await PlainTextResponse(text, status)(scope, receive, send)
            return
        self.counts[visitor] += 1
        try:
            await self.app(scope, _ending_after(receive, self.most_bytes), send)
        finally:
            self.counts -= Counter({visitor: 1})

    def _problem(self, request: Request) -> tuple[int, str] | None:
        """Status and message for an upload that is refused before it is received."""
        texts = TEXTS[language_from_header(request.headers.get("accept-language"))]
        size = request.headers.get("content-length", "")
        if size.isdecimal() and int(size) > self.most_bytes:
            return 413, texts["error_too_large_file"].format(megabytes=self.most_bytes // 2**20)
        if self.counts[visitor_of(request)] >= MOST_UPLOADS_OF_ONE_VISITOR:
            return 429, texts["error_too_many_of_yours"].format(limit=MOST_UPLOADS_OF_ONE_VISITOR)
        if _size_in_bytes(self.folder) > MOST_BYTES_OF_ALL_UPLOADS:
            return 503, texts["error_too_many"]
        return None


def _ending_after(receive: Callable[..., Any], most_bytes: int) -> Callable[..., Any]:
    """Cut off an upload that gives no size, or a wrong one, as if the visitor had disconnected."""
    num_bytes = 0

    async def receive_some() -> dict[str, Any]:
        nonlocal num_bytes
        message = await receive()
        num_bytes += len(message.get("body", b""))
        return message if num_bytes <= most_bytes else {"type": "http.disconnect"}

    return receive_some


def _size_in_bytes(folder: Path) -> int:
    sizes = 0
    for parent, _, names in os.walk(folder):
        for name in names:
            with contextlib.suppress(FileNotFoundError):  # deleted meanwhile
                sizes += os.lstat(os.path.join(parent, name)).st_size
    return sizes
