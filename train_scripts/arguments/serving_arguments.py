"""Flags of the server. Imports nothing heavy."""

from dataclasses import dataclass, field

from .flag_values import DTYPES, QUANTIZATIONS


@dataclass
class ServeArguments:
    """Which model, where, and how much of it at a time."""

    model: str = field(metadata={"help": "Folder or Hub id of a trained model."})
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
