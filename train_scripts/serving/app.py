"""The endpoints of the server, as a FastAPI application."""

import asyncio
import logging
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Annotated, Any, Literal

from fastapi import FastAPI, File, Form, Query, Request, Response, UploadFile, WebSocket
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse, PlainTextResponse
from prometheus_client import CONTENT_TYPE_LATEST
from starlette.exceptions import HTTPException

from .answers import RESPONSES, Error, Health, OneOfABatch, Translation
from .clip_requests import ClipOptions
from .problems import Problem, internal
from .request_sizes import RequestSizes
from .server import Server

logger = logging.getLogger(__name__)

DESCRIPTION = """
Translates sign language to text. Send a clip of one sentence to `/translate`, several to `/translate-batch`, or a live
camera to the WebSocket `/stream`: binary messages of 8 bytes with the second of a frame (a big-endian float64) and a
JPEG, WebP or PNG picture; the text `{"type": "finish"}` at the end. It answers with JSON: `update`, `finished`, `error`
and `wait`. The translations are those of a machine, and can be wrong.
"""

Start = Annotated[float | None, Form(description="Second at which to start. Default: the beginning.", examples=[0.0])]
End = Annotated[float | None, Form(description="Second at which to stop. Default: the end.", examples=[4.5])]
NumBeams = Annotated[int | None, Form(description="Beams. Default: as the model was saved.", examples=[4])]
LeftHanded = Annotated[
    Literal["false", "true", "auto"], Form(description="Whether the signer is left-handed; `auto` finds out.")
]
SpokenLanguage = Annotated[
    str | None, Form(description="Tag of the language to write, for models that read a prompt.", examples=["de"])
]
ANSWERS: dict[str, Any] = {"responses": RESPONSES, "response_model_exclude_none": True}
HANDS: dict[str, bool | Literal["auto"]] = {"false": False, "true": True, "auto": "auto"}


def build_app(load: Callable[[], Server]) -> FastAPI:
    """
    The application. `load` is called once, when it starts, and what it gives is closed when it ends.
    """

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        app.state.server = server = await asyncio.to_thread(load)
        try:
            yield
        finally:
            await asyncio.to_thread(server.close)

    app = FastAPI(title="FLaLLM", description=DESCRIPTION, lifespan=lifespan)
    app.add_middleware(RequestSizes)
    app.middleware("http")(_count)
    _add_error_answers(app)
    _add_translation(app)
    _add_operations(app)
    return app


def _server_of(connection: Request | WebSocket) -> Server:
    return connection.app.state.server


def _add_translation(app: FastAPI) -> None:
    @app.post("/translate", **ANSWERS, summary="Translate one clip")
    async def translate(
        request: Request,
        file: Annotated[UploadFile, File(description="A clip of one sentence.")],
        start: Start = None,
        end: End = None,
        num_beams: NumBeams = None,
        left_handed: LeftHanded = "false",
        spoken_language: SpokenLanguage = None,
    ) -> Translation:
        server = _server_of(request)
        options = ClipOptions(start, end, num_beams, HANDS[left_handed], spoken_language).checked(server.pipeline)
        return Translation(**await server.clips.translate(file, options))

    @app.post("/translate-batch", **ANSWERS, summary="Translate several clips")
    async def translate_batch(
        request: Request,
        files: Annotated[list[UploadFile], File(description="Clips of one sentence each.")],
        num_beams: NumBeams = None,
        left_handed: LeftHanded = "false",
        spoken_language: SpokenLanguage = None,
    ) -> list[OneOfABatch]:
        """A bad file costs only itself: each has its own result, in the order in which they were sent."""
        server = _server_of(request)
        options = ClipOptions(None, None, num_beams, HANDS[left_handed], spoken_language).checked(server.pipeline)
        answers = await server.clips.translate_all(files, options)
        return [_one_of_a_batch(file, answer, server) for file, answer in zip(files, answers, strict=True)]

    @app.websocket("/stream")
    async def stream(
        websocket: WebSocket,
        num_beams: Annotated[int | None, Query()] = None,
        left_handed: Annotated[Literal["false", "true", "auto"], Query()] = "false",
        spoken_language: Annotated[str | None, Query()] = None,
    ) -> None:
        options = ClipOptions(None, None, num_beams, HANDS[left_handed], spoken_language)
        await _server_of(websocket).stream(websocket, options)


def _one_of_a_batch(file: UploadFile, answer: dict[str, Any] | Problem, server: Server) -> OneOfABatch:
    name = Path(file.filename or "").name
    if isinstance(answer, Problem):
        server.metrics.errors.labels(answer.kind).inc()
        return OneOfABatch(file=name, error=Error(**answer.content))
    return OneOfABatch(file=name, translation=Translation(**answer))


def _add_operations(app: FastAPI) -> None:
    @app.get("/health", summary="Liveness and readiness", responses={503: {"model": Health}})
    async def health(request: Request, response: Response) -> Health:
        """200 from when the model is loaded until it fails."""
        state = _server_of(request).health()
        response.status_code = 200 if state.status == "ready" else 503
        return state

    @app.get("/metrics", summary="Metrics for Prometheus", response_class=PlainTextResponse)
    async def metrics(request: Request) -> Response:
        return Response(_server_of(request).metrics.text(), media_type=CONTENT_TYPE_LATEST)


async def _count(request: Request, call_next: Callable[[Request], Any]) -> Response:
    response = await call_next(request)
    route = request.scope.get("route")
    endpoint = getattr(route, "path", "other")  # so that invented paths do not fill the metrics
    _server_of(request).metrics.requests.labels(endpoint, str(response.status_code)).inc()
    return response


def _add_error_answers(app: FastAPI) -> None:
    """All errors as `Error` describes them, with nothing of our own."""

    def answer(request: Request, problem: Problem) -> JSONResponse:
        _server_of(request).metrics.errors.labels(problem.kind).inc()
        return JSONResponse(problem.content, problem.status, headers=problem.headers)

    @app.exception_handler(Problem)
    async def of_problem(request: Request, problem: Problem) -> JSONResponse:
        return answer(request, problem)

    @app.exception_handler(RequestValidationError)
    async def of_fields(request: Request, error: RequestValidationError) -> JSONResponse:
        wrong = "; ".join(f"`{each['loc'][-1]}`: {each['msg']}" for each in error.errors())
        return answer(request, Problem(422, "options", f"The request has wrong fields: {wrong}."))

    @app.exception_handler(HTTPException)
    async def of_http(request: Request, error: HTTPException) -> JSONResponse:
        return answer(request, Problem(error.status_code, "http", f"{error.detail}. See /docs for what there is."))

    @app.exception_handler(Exception)
    async def of_ours(request: Request, error: Exception) -> JSONResponse:
        logger.error("A request failed.", exc_info=error)
        return answer(request, internal())
