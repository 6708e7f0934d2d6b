"""
Many people who sign at once to one server: how long their sentences take, and whether each gets its own.

    python benchmarks/serving.py --quickstart_output quickstart_output

Clips of the quickstart's corpus are streamed at the pace of a camera to `flallm serve`, on this machine, by so many
users at once, each with sentences of its own and a rest after each; then one more asks for a stream. At the end every
final text is compared with the offline translation of the same frames of that user. The table of docs/serving.md and
its figures (.json) are written at the end; `--report_only True` writes them again from existing results. The last line
that it prints is JSON. A small run, in half a minute:

    python benchmarks/serving.py --users 2 --num_sentences 1 --report outputs/serving/page.md
"""

import asyncio
import contextlib
import io
import json
import os
import random
import socket
import statistics
import struct
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import torch
from benchmark_parts import DOCS, check_counts, command_line, processor_name, run_benchmark
from PIL import Image
from seeded_parts import heading
from websockets.asyncio.client import connect

from modeling_flallm import SignLanguageTranslationPipeline
from modeling_flallm.own_processing import decode_video
from train_scripts.arguments.data_arguments import DataArguments
from train_scripts.clips.splits import load_split
from train_scripts.machine.cores import num_cores
from train_scripts.runs.trained_models import load_trained

PAGE = DOCS / "serving.md"
TABLE_START = "<!-- written by benchmarks/serving.py -->"
SECONDS_TO_START = 180
SECONDS_OF_STARTS = 5.0  # in which users begin, one after the other


@dataclass
class BenchmarkArguments:
    """How many users, and what they sign."""

    quickstart_output: str = field(default="quickstart_output", metadata={"help": "Folder of corpus/ and model/."})
    output_dir: str = field(default="outputs/serving", metadata={"help": "Folder of the results."})
    report: str = field(default=str(PAGE), metadata={"help": "Page to write; figures land beside it."})
    report_only: bool = field(default=False, metadata={"help": "Measure nothing, report what there is."})
    users: list[int] = field(default_factory=lambda: [1, 10, 25, 50], metadata={"help": "Users at once, one by one."})
    num_sentences: int = field(default=4, metadata={"help": "Sentences of each user."})
    frame_rate: float = field(default=12.5, metadata={"help": "Frames per second of a camera."})
    rest_seconds: float = field(default=2.0, metadata={"help": "Rest after each sentence."})
    device: str = field(
        default="cpu", metadata={"help": "Of the server and the offline translation.", "choices": ("cpu", "cuda")}
    )
    seed: int = field(default=0, metadata={"help": "Seed of who signs what, and when they begin."})

    def __post_init__(self):
        check_counts(self, "num_sentences")
        if min(self.users) < 1 or not (self.frame_rate > 0 and self.rest_seconds > 0):
            raise ValueError("--users must be 1 or more, and --frame_rate and --rest_seconds above 0.")


@dataclass
class User:
    """Encoded pictures as they are sent, and what comes back, each with the seconds since the first picture."""

    pictures: list[bytes]
    updates: list[tuple[float, dict[str, Any]]] = field(default_factory=list)
    late: float = 0.0


def pictures_of(clips: Sequence[Path], arguments: BenchmarkArguments) -> list[bytes]:
    """Clips, each with a rest after it: its last picture again and again."""
    pictures = []
    for clip in clips:
        video = decode_video(clip)
        num_shown = round(len(video.frames) * arguments.frame_rate / video.fps)
        shown = np.minimum(np.arange(num_shown) * video.fps / arguments.frame_rate, len(video.frames) - 1).astype(int)
        encoded = [_as_jpeg(video.frames[index].permute(1, 2, 0).numpy()) for index in shown]
        pictures += encoded + encoded[-1:] * round(arguments.rest_seconds * arguments.frame_rate)
    return pictures


def _as_jpeg(picture: np.ndarray) -> bytes:
    file = io.BytesIO()
    Image.fromarray(picture).save(file, "JPEG", quality=85)
    return file.getvalue()


def make_users(number: int, arguments: BenchmarkArguments) -> list[User]:
    """Each with other clips than all others, as long as there are enough."""
    folder = Path(arguments.quickstart_output) / "corpus"
    rows = load_split(DataArguments(dataset=[str(folder)]), "train")
    clips = [Path(row["video"]["path"]) for row in rows]
    chosen = random.Random(arguments.seed).sample(clips, min(number * arguments.num_sentences, len(clips)))
    each = [
        [chosen[(user * arguments.num_sentences + k) % len(chosen)] for k in range(arguments.num_sentences)]
        for user in range(number)
    ]
    return [User(pictures_of(of_user, arguments)) for of_user in each]


@contextlib.contextmanager
def running_server(num_users: int, arguments: BenchmarkArguments) -> Iterator[tuple[str, psutil.Process]]:
    """The host and port of a server that takes so many streams, and its process."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    command = [sys.executable, "-m", "train_scripts", "serve", "--model", f"{arguments.quickstart_output}/model"]
    command += ["--port", str(port), "--max_streams", str(num_users), "--device", arguments.device]
    command += ["--dtype", "float32"]
    python_path = os.pathsep.join([str(DOCS.parent), os.environ.get("PYTHONPATH", "")])
    with subprocess.Popen(command, env=os.environ | {"PYTHONPATH": python_path}) as process:
        try:
            _wait_until_ready(f"http://127.0.0.1:{port}/health", process)
            yield f"127.0.0.1:{port}", psutil.Process(process.pid)
        finally:
            process.terminate()


def _wait_until_ready(address: str, process: subprocess.Popen) -> None:
    deadline = time.monotonic() + SECONDS_TO_START
    while time.monotonic() < deadline and process.poll() is None:
        with contextlib.suppress(OSError), urllib.request.urlopen(address):
            return
        time.sleep(0.2)
    raise RuntimeError("The server did not start: see above.")


async def stream(user: User, pause: float, address: str, frame_rate: float) -> None:
    """Sign at the pace of a camera after a pause, and keep what comes back."""
    await asyncio.sleep(pause)
    async with connect(f"ws://{address}/stream", compression=None) as websocket:
        began = time.monotonic()

        async def send() -> None:
            for index, picture in enumerate(user.pictures):
                second = index / frame_rate
                await asyncio.sleep(max(0.0, began + second - time.monotonic()))
                await websocket.send(struct.pack(">d", second) + picture)
                user.late = max(user.late, time.monotonic() - began - second)
            await websocket.send(json.dumps({"type": "finish"}))

        sending = asyncio.create_task(send())
        async for message in websocket:
            update = json.loads(message)
            user.updates.append((time.monotonic() - began, update))
        await sending


async def ask_for_one_more(address: str, wait: float) -> dict[str, Any]:
    """What the server says to one user too many."""
    await asyncio.sleep(wait)
    async with connect(f"ws://{address}/stream") as websocket:
        answer = json.loads(await websocket.recv())
        await websocket.wait_closed()
        return {"answer": answer, "code": websocket.close_code}


async def stream_all(users: Sequence[User], address: str, arguments: BenchmarkArguments) -> dict[str, Any]:
    """All users, and one more while they sign -> what that one is told"""
    generator = random.Random(arguments.seed)
    pauses = [generator.uniform(0, SECONDS_OF_STARTS) for _ in users]
    one_more = asyncio.create_task(ask_for_one_more(address, SECONDS_OF_STARTS + 1))
    streams = (stream(*each, address, arguments.frame_rate) for each in zip(users, pauses, strict=True))
    await asyncio.gather(*streams)
    return await one_more


def texts_offline(
    user: User, translator: SignLanguageTranslationPipeline, frame_rate: float
) -> Iterator[tuple[str, str]]:
    """Each final text, and what the pipeline says of the same frames."""
    frames = np.stack([np.asarray(Image.open(io.BytesIO(picture)).convert("RGB")) for picture in user.pictures])
    for _, update in user.updates:
        if update.get("is_final") and update["translation_text"]:
            part = {"video": frames, "source_fps": frame_rate}
            answer = translator({**part, "start": update["signing_start"], "end": update["signing_end"]})
            yield update["translation_text"], answer["translation_text"]


def latencies(user: User) -> dict[str, list[float]]:
    """
    Seconds from the last frame of each sentence to its final text, and from its first frame to its first word, as far
    as they have any text.
    """
    texts = [(second, update) for second, update in user.updates if update.get("translation_text")]
    first: dict[int, float] = {}
    for second, update in texts:
        first.setdefault(update["piece"], second - update["signing_start"])
    return {
        "final": [second - update["signing_end"] for second, update in texts if update["is_final"]],
        "first_word": list(first.values()),
    }


def seconds_busy(processes: Sequence[psutil.Process]) -> float:
    """How long these have computed so far."""
    return sum(sum(process.cpu_times()[:2]) for process in processes)


def measure(arguments: BenchmarkArguments) -> dict[str, Any]:
    model, processor = load_trained(f"{arguments.quickstart_output}/model", dtype=torch.float32)
    translator = SignLanguageTranslationPipeline(model=model, processor=processor, device=arguments.device)
    rows = []
    for number in arguments.users:
        users = make_users(number, arguments)
        with running_server(number, arguments) as (address, server):
            measured = {"cores": [server, *server.children(recursive=True)], "client_cores": [psutil.Process()]}
            began, busy = time.monotonic(), {name: seconds_busy(each) for name, each in measured.items()}
            one_more = asyncio.run(stream_all(users, address, arguments))
            seconds = time.monotonic() - began
            cores = {name: (seconds_busy(each) - busy[name]) / seconds for name, each in measured.items()}
        pairs = [pair for user in users for pair in texts_offline(user, translator, arguments.frame_rate)]
        found = [latencies(user) for user in users]
        rows.append(
            {
                "users": number,
                "sentences": len(pairs),
                "mix_ups": sum(text != offline for text, offline in pairs),
                "unfinished": sum(not user.updates or user.updates[-1][1]["type"] != "finished" for user in users),
                "final": sorted(second for each in found for second in each["final"]),
                "first_word": sorted(second for each in found for second in each["first_word"]),
                "late": max(user.late for user in users),
                **cores,
                "one_more": one_more,
            }
        )
        print(format_row(rows[-1]), flush=True)
    names = ("users", "num_sentences", "frame_rate", "rest_seconds", "device", "seed")
    gpu = f"{torch.cuda.get_device_name()} beside " if arguments.device == "cuda" else ""
    return {
        "arguments": {name: getattr(arguments, name) for name in names},
        "machine": f"{gpu}{processor_name()}, {num_cores()} cores, torch {torch.__version__}",
        "rows": rows,
    }


def percentile_95(seconds: Sequence[float]) -> float:
    return float(np.percentile(seconds, 95))


def format_row(row: Mapping[str, Any]) -> str:
    final, first_word = row["final"], row["first_word"]
    seconds = [statistics.median(final), percentile_95(final), max(final)]
    seconds += [statistics.median(first_word), percentile_95(first_word), row["late"], row["cores"]]
    is_told = row["one_more"]["answer"]["type"] == "wait" and row["one_more"]["code"] == 1013
    cells = [str(row["users"]), str(row["sentences"]), str(row["mix_ups"]), *(f"{second:.2f}" for second in seconds)]
    return f"| {' | '.join([*cells, 'told to wait' if is_told else 'NOT told to wait'])} |"


def format_report(report: Mapping[str, Any]) -> str:
    names = ["users", "sentences", "mix-ups", "final", "p95", "worst", "first word", "p95", "late", "cores", "one more"]
    lines = [f"On {report['machine']}:", "", f"    {command_line('serving.py', report['arguments'])}", ""]
    return "\n".join([*lines, *heading(*names), *map(format_row, report["rows"])])


def summary(report: Mapping[str, Any]) -> dict[str, Any]:
    """What the last line says, of the most users."""
    row = max(report["rows"], key=lambda each: each["users"])
    return {
        **{name: row[name] for name in ("users", "sentences", "mix_ups", "unfinished")},
        "final_median_seconds": round(statistics.median(row["final"]), 3),
        "final_p95_seconds": round(percentile_95(row["final"]), 3),
        "final_worst_seconds": round(max(row["final"]), 3),
        "first_word_median_seconds": round(statistics.median(row["first_word"]), 3),
        "cores": round(row["cores"], 2),
        "client_cores": round(row["client_cores"], 2),
        "one_more": row["one_more"],
    }


def main(argv: Sequence[str] | None = None) -> int:
    reported: dict[str, Any] = {}

    def format_and_keep(report: Mapping[str, Any]) -> str:
        reported.update(report)
        return format_report(report)

    status = run_benchmark(argv, BenchmarkArguments, __doc__, measure, format_and_keep, TABLE_START)
    if reported:
        print(json.dumps(summary(reported)))
    return status


if __name__ == "__main__":
    sys.exit(main())
