"""A model with everything that serves it."""

import sys
from pathlib import Path

import torch
from fastapi import WebSocket

from modeling_flallm import SignLanguageTranslationPipeline

from ..arguments.serving_arguments import ServeArguments
from ..machine.cores import num_cores
from ..machine.machine import default_device, describe_machine, prepare_machine
from ..runs.quantization import load_to_translate
from ..runs.video_translation import build_translator
from .answers import Health
from .clip_requests import ClipOptions, ClipRequests
from .file_readers import FileReaders, Places, ReaderLimits
from .frame_readers import MOST_PROCESSES, FrameLimits, FrameReaders
from .metrics import Metrics
from .model_thread import ModelThread
from .problems import Problem
from .stream_session import StreamSession, refuse


class Server:
    """A model with everything that serves it. `arguments` hold the limits; their `model` is where the files are."""

    def __init__(self, pipeline: SignLanguageTranslationPipeline, arguments: ServeArguments):
        self.pipeline, self.arguments, self.metrics = pipeline, arguments, Metrics()
        self.model = ModelThread(
            pipeline, self.metrics, arguments.max_batch_size, arguments.batch_wait_milliseconds / 1000
        )
        readers = FileReaders(arguments.model, ReaderLimits(arguments.max_clip_seconds, arguments.num_readers))
        clips = Places(arguments.max_waiting_clips, "clips are in work or waiting")
        self.clips = ClipRequests(self.model, readers, clips, self.metrics)
        self.streams = Places(arguments.max_streams, "streams are open")
        self.metrics.watch("streams", lambda: self.streams.num_taken)
        self.frame_readers = FrameReaders(
            arguments.model,
            FrameLimits(arguments.max_frame_rate, arguments.max_frame_pixels),
            min(num_cores(), MOST_PROCESSES),
        )

    def health(self) -> Health:
        arguments = self.arguments
        return Health(
            status="ready" if self.model.is_alive else "failed",
            model=Path(arguments.model).name,
            streams=self.streams.num_taken,
            max_streams=arguments.max_streams,
            clips=self.clips.places.num_taken,
            max_waiting_clips=arguments.max_waiting_clips,
        )

    async def stream(self, websocket: WebSocket, options: ClipOptions) -> None:
        """Serve a stream until its end, or say why it cannot begin."""
        await websocket.accept()
        try:
            with self.streams:
                options.checked(self.pipeline)
                session = StreamSession(
                    websocket, self.model, self.frame_readers, self.arguments, self.metrics, options.of_stream
                )
                self.metrics.requests.labels("/stream", "accepted").inc()
                await session.run()
        except Problem as problem:
            self.metrics.requests.labels("/stream", str(problem.status)).inc()
            self.metrics.errors.labels(problem.kind).inc()
            await refuse(websocket, problem)

    def close(self) -> None:
        self.model.close()
        self.clips.close()
        self.frame_readers.close()


def load_server(arguments: ServeArguments) -> Server:
    """
    The model with everything that serves it, for `build_app`.

    Raises:
        ValueError: if the model cannot be loaded.
    """
    device = torch.device(arguments.device or default_device())
    prepare_machine(device, arguments.num_threads or max(1, num_cores() // 2))
    model, processor = load_to_translate(arguments.model, device, arguments.dtype, arguments.quantization)
    print(describe_machine(device, model.vision_model.dtype), file=sys.stderr)
    return Server(build_translator(model, processor), arguments)
