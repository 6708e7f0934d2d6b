"""Refuses requests that are too large before they are received, or as soon as they become so."""

import contextlib
from collections.abc import Awaitable, Callable
from typing import Any

from starlette.datastructures import Headers
from starlette.requests import ClientDisconnect
from starlette.responses import JSONResponse

from .problems import Problem

BYTES_OF_FIELDS = 64 * 1024
Message = dict[str, Any]


class RequestSizes:
    """ASGI middleware: the server's limit holds for all files of a request together."""

    def __init__(self, app: Callable[..., Awaitable[None]]):
        self.app = app

    async def __call__(
        self,
        scope: Message,
        receive: Callable[[], Awaitable[Message]],
        send: Callable[[Message], Awaitable[None]],
    ) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        server = scope["app"].state.server
        megabytes = server.arguments.max_megabytes
        most = megabytes * 2**20 + BYTES_OF_FIELDS
        size = Headers(scope=scope).get("content-length", "")
        num_bytes = int(size) if size.isdecimal() and int(size) > most else 0

        async def receive_some() -> Message:
            nonlocal num_bytes
            message = await receive()
            num_bytes += len(message.get("body", b""))
            return message if num_bytes <= most else {"type": "http.disconnect"}

        async def send_some(message: Message) -> None:
            if num_bytes <= most:
                await send(message)

        if num_bytes <= most:
            with contextlib.suppress(ClientDisconnect):
                await self.app(scope, receive_some, send_some)
        if num_bytes > most:
            server.metrics.errors.labels("too_large").inc()
            problem = Problem(413, "too_large", f"A request may have {megabytes:g} MB at most.")
            await JSONResponse(problem.content, problem.status)(scope, receive, send)
