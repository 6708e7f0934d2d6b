"""Flags of the server. Imports nothing heavy."""

import math
from dataclasses import dataclass, field

from .flag_values import DTYPES, QUANTIZATIONS

LARGEST_PORT = 65535


@dataclass
class ServeArguments:
    """Which model, where, and how much of it at a time."""

    model: str = field(default=None, metadata={"help": "Folder or Hub id of a trained model. Required."})
    host: str = field(default="127.0.0.1", metadata={"help": "Address to listen on: 0.0.0.0 for other machines, too."})
    port: int = field(default=8000, metadata={"help": "Port to listen on."})
    max_streams: int = field(default=50, metadata={"help": "Streams open at a time; the next is told to wait."})
    max_waiting_clips: int = field(default=32, metadata={"help": "Clips in work or waiting; the next is refused."})
    max_batch_size: int = field(default=8, metadata={"help": "Sentences that are written together at most."})
    batch_wait_milliseconds: float = field(
        default=5.0, metadata={"help": "How long a clip waits for others to be translated with it, at most."}
    )
    max_megabytes: float = field(default=100.0, metadata={"help": "Size of all files of a request."})
    max_clip_seconds: float = field(default=60.0, metadata={"help": "Length of what is translated of a file."})
    max_frame_rate: float = field(
        default=30.0, metadata={"help": "Frames per second of a stream; more are read later, not lost."}
    )
    max_frame_kilobytes: float = field(default=512.0, metadata={"help": "Size of an encoded frame of a stream."})
    max_frame_pixels: int = field(default=1920 * 1080, metadata={"help": "Width times height of a frame of a stream."})
    idle_seconds: float = field(default=30.0, metadata={"help": "A stream that sends nothing for so long is closed."})
    num_readers: int = field(default=2, metadata={"help": "Processes that read the files of clips."})
    dtype: str | None = field(
        default=None, metadata={"help": "Precision to compute in. As in `flallm translate`.", "choices": DTYPES}
    )
    quantization: str | None = field(
        default=None,
        metadata={
            "help": "Bits per weight of the language model. As in `flallm translate`.",
            "choices": QUANTIZATIONS,
        },
    )
    num_threads: int | None = field(
        default=None, metadata={"help": "CPU threads of the model. Default: half of the cores; the others read."}
    )
    device: str | None = field(
        default=None, metadata={"help": "Such as cuda or cpu. Default: the accelerator if there is one."}
    )

    def __post_init__(self):
        if self.model is None:
            raise ValueError("--model must name the folder or Hub id of a trained model.")
        if not 0 <= self.port <= LARGEST_PORT:
            raise ValueError(f"--port must be from 0 to {LARGEST_PORT}, got {self.port}.")
        for name in ("max_streams", "max_waiting_clips", "max_batch_size", "max_frame_pixels", "num_readers"):
            if getattr(self, name) < 1:
                raise ValueError(f"--{name} must be 1 or more, got {getattr(self, name)}.")
        above_0 = ("max_megabytes", "max_clip_seconds", "max_frame_rate", "max_frame_kilobytes", "idle_seconds")
        for name in above_0:
            number = getattr(self, name)
            if not (math.isfinite(number) and number > 0):
                raise ValueError(f"--{name} must be above 0, got {number:g}.")
        if not (math.isfinite(self.batch_wait_milliseconds) and self.batch_wait_milliseconds >= 0):
            raise ValueError(f"--batch_wait_milliseconds must be 0 or more, got {self.batch_wait_milliseconds:g}.")
        if self.num_threads is not None and self.num_threads < 1:
            raise ValueError(f"--num_threads must be 1 or more, got {self.num_threads}.")
