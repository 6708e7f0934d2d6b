"""
The Space's captions while a person signs: a real browser whose camera shows sentences one after another.

    python benchmarks/live_captions.py --model quickstart_output/model --corpus quickstart_output/corpus

The browser's camera shows clips of the test split with the hands at rest between them. It sends its pictures to a Space
on this machine, which runs in a process of its own. What the browser sends and gets is written down: when the caption
of each sentence is final, counted from when the last picture with signing was sent, and whether it is what the pipeline
says to the recording of the same pictures, and to the clip's own file. The table of docs/demo.md and its figures
(.json) are written at the end. Needs Chromium and playwright.
"""

import io
import json
import os
import shutil
import struct
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import av
import numpy as np
from benchmark_parts import DOCS, check_counts, command_line, processor_name, run_benchmark
from PIL import Image
from playwright.sync_api import Page, sync_playwright
from transformers import pipeline

import modeling_flallm  # noqa: F401
from modeling_flallm.own_processing import decode_video
from train_scripts.machine.cores import num_cores

PAGE = DOCS / "demo.md"
FIGURES = "live-captions.json"
TABLE_START = "<!-- written by benchmarks/live_captions.py -->"
SPACE = Path(__file__).resolve().parent.parent / "spaces_demo"
WIDTH_IN_PIXELS, HEIGHT_IN_PIXELS = 320, 320
FRAMES_PER_SECOND = 25
SECONDS_OF_REST = 2.0
SECONDS_TO_START, SECONDS_TO_WRITE = 120, 60
BROWSERS = ("chromium", "chromium-browser", "google-chrome")


@dataclass
class BenchmarkArguments:
    """Which model sees which clips."""

    model: str = field(default="quickstart_output/model", metadata={"help": "Folder of a trained model."})
    corpus: str = field(default="quickstart_output/corpus", metadata={"help": "Its corpus, with a split `test`."})
    num_sentences: int = field(default=3, metadata={"help": "Clips that the camera shows one after another."})
    num_films: int = field(default=3, metadata={"help": "How often, each time with the next clips."})
    output_dir: str = field(default="outputs/live_captions", metadata={"help": "Folder of films and results."})
    report: str = field(default=str(PAGE), metadata={"help": "Page to write; figures land beside it."})
    report_only: bool = field(default=False, metadata={"help": "Show nothing, report what there is."})

    def __post_init__(self):
        check_counts(self, "num_sentences", "num_films")


@dataclass
class Conversation:
    """What went over the WebSocket, with the seconds of a clock of this machine: pictures, and messages."""

    pictures: list[tuple[float, float, bytes]] = field(default_factory=list)  # when, its own second, JPEG
    messages: list[tuple[float, dict[str, Any]]] = field(default_factory=list)

    def sent(self, payload: bytes | str) -> None:
        if isinstance(payload, bytes):
            self.pictures.append((time.monotonic(), *struct.unpack(">d", payload[:8]), payload[8:]))

    def received(self, payload: str) -> None:
        self.messages.append((time.monotonic(), json.loads(payload)))


def write_film(path: Path, clips: Sequence[Path]) -> float:
    """Clips with rests before, between and after them, as a browser's camera reads them; returns their seconds."""
    with av.open(str(path), "w", format="yuv4mpegpipe") as film:
        stream = film.add_stream("wrapped_avframe", rate=FRAMES_PER_SECOND)
        stream.width, stream.height, stream.pix_fmt = WIDTH_IN_PIXELS, HEIGHT_IN_PIXELS, "yuv420p"
        frames = list(frames_of_film(clips))
        for picture in frames:
            film.mux(stream.encode(av.VideoFrame.from_ndarray(picture, format="rgb24").reformat(format="yuv420p")))
        film.mux(stream.encode())
    return len(frames) / FRAMES_PER_SECOND


def frames_of_film(clips: Sequence[Path]) -> Any:
    rest = round(SECONDS_OF_REST * FRAMES_PER_SECOND)
    for clip in clips:
        decoded = decode_video(str(clip))
        seconds = np.arange(round(len(decoded.frames) / decoded.fps * FRAMES_PER_SECOND)) / FRAMES_PER_SECOND
        frames = decoded.frames.permute(0, 2, 3, 1).numpy()
        frames = frames[np.minimum((seconds * decoded.fps).astype(int), len(frames) - 1)]
        pictures = [np.asarray(Image.fromarray(each).resize((WIDTH_IN_PIXELS, HEIGHT_IN_PIXELS))) for each in frames]
        yield from [pictures[0]] * rest
        yield from pictures
        yield from [pictures[-1]] * rest


def measure(arguments: BenchmarkArguments) -> Mapping[str, Any]:
    folder = Path(arguments.output_dir)
    folder.mkdir(parents=True, exist_ok=True)
    clips = sorted((Path(arguments.corpus) / "test").glob("*.mp4"))
    needed = arguments.num_sentences * arguments.num_films
    if len(clips) < needed:
        raise ValueError(f"{arguments.corpus} has {len(clips)} clips in `test`, and {needed} are needed.")
    translator = pipeline("sign-language-translation", arguments.model)
    sentences = []
    for number in range(arguments.num_films):
        shown = clips[number * arguments.num_sentences :][: arguments.num_sentences]
        seconds = write_film(folder / "camera.y4m", shown)
        sentences += captions_of(translator, shown, show(arguments.model, folder, seconds), number)
    return {
        "command": command_line(
            "live_captions.py", {name: getattr(arguments, name) for name in ("num_sentences", "num_films")}
        ),
        "processor": processor_name(),
        "cores": num_cores(),
        "sentences": sentences,
    }


def show(model: str, folder: Path, seconds: float) -> Conversation:
    """The film, to a Space with this model."""
    browser_path = next(filter(None, map(shutil.which, BROWSERS)), None)
    if browser_path is None:
        raise ValueError(f"None of {', '.join(BROWSERS)} is installed.")
    environment = os.environ | {"MODEL_ID": model, "GRADIO_ANALYTICS_ENABLED": "False"}
    environment |= {"GRADIO_TEMP_DIR": str(folder / "uploads"), "PYTHONUNBUFFERED": "1"}
    flags = ["--no-sandbox", "--use-fake-ui-for-media-stream", "--use-fake-device-for-media-stream"]
    flags.append(f"--use-file-for-fake-video-capture={folder / 'camera.y4m'}")
    with (
        subprocess.Popen([sys.executable, SPACE / "app.py"], env=environment, stdout=subprocess.PIPE, text=True) as app,
        sync_playwright() as playwright,
    ):
        try:
            address = next(line.split()[-1] for line in app.stdout if "http://" in line)
            browser = playwright.chromium.launch(executable_path=browser_path, args=flags)
            page = browser.new_context(locale="en-GB").new_page()
            conversation = listen(page)
            page.goto(address, timeout=1000 * SECONDS_TO_START)
            page.get_by_role("button", name="Captions while you sign").click(timeout=1000 * SECONDS_TO_START)
            page.get_by_role("button", name="Start the camera").click()
            page.get_by_text("You can sign now.").wait_for()
            page.wait_for_timeout(1000 * seconds)  # then the film would begin again
            page.get_by_role("button", name="Stop and keep the text").click()
            page.get_by_text("Done. You can save the text.").wait_for(timeout=1000 * SECONDS_TO_WRITE)
            browser.close()
        finally:
            app.terminate()
    return conversation


def listen(page: Page) -> Conversation:
    conversation = Conversation()

    def opened(socket: Any) -> None:
        socket.on("framesent", conversation.sent)
        socket.on("framereceived", conversation.received)

    page.on("websocket", opened)
    return conversation


def captions_of(translator: Any, clips: Sequence[Path], conversation: Conversation, film: int) -> list[dict[str, Any]]:
    """Each caption beside what the pipeline says to the recording, and to the clip whose turn it was."""
    seconds = [second for _, second, _ in conversation.pictures]
    stream = translator.translate_stream(
        (second, Image.open(io.BytesIO(picture)).convert("RGB")) for _, second, picture in conversation.pictures
    )
    recorded = [update["translation_text"] for update in stream if update["is_final"] and update["translation_text"]]
    finals = [(when, each) for when, each in conversation.messages if each.get("is_final") and each["text"]]
    rows = []
    for number, clip in enumerate(clips):
        row = {"film": film, "clip": clip.name, "offline": translator(str(clip))["translation_text"]}
        if number < len(finals):
            when, caption = finals[number]
            last = max(index for index, second in enumerate(seconds) if second <= caption["signing_end"])
            first_words = min(at for at, each in conversation.messages if each.get("piece") == caption["piece"])
            began = min(at for at, second, _ in conversation.pictures if second >= caption["signing_start"])
            row |= {
                "caption": caption["text"].removeprefix("(?) "),
                "recorded": recorded[number] if number < len(recorded) else None,
                "seconds_after_the_end": round(when - conversation.pictures[last][0], 3),
                "seconds_until_first_words": round(first_words - began, 3),
            }
        rows.append(row)
    for _, extra in finals[len(clips) :]:
        rows.append({"film": film, "clip": None, "caption": extra["text"]})
    return rows


def format_report(results: Mapping[str, Any]) -> str:
    rows = results["sentences"]
    shown = [row for row in rows if row["clip"] is not None]
    captions = [row for row in shown if "caption" in row]
    waits = sorted(row["seconds_after_the_end"] for row in captions)
    first = sorted(row["seconds_until_first_words"] for row in captions)
    lines = [
        f"On {results['processor']}, {results['cores']} core(s), which the browser shares:",
        "",
        f"    {results['command']}",
        "",
        "| sentences shown | captions | invented ones | as the recording | as the clip's file | seconds from the last "
        "sign to the final caption: median, worst | seconds from the first sign to the first words: median, worst |",
        "| --- | --- | --- | --- | --- | --- | --- |",
        f"| {len(shown)} | {len(captions)} | {len(rows) - len(shown)} | "
        f"{sum(row['caption'] == row['recorded'] for row in captions)} | "
        f"{sum(row['caption'] == row['offline'] for row in captions)} | {_median_and_worst(waits)} | "
        f"{_median_and_worst(first)} |",
    ]
    return "\n".join(lines)


def _median_and_worst(seconds: Sequence[float]) -> str:
    return f"{np.median(seconds):.2f}, {max(seconds):.2f}" if seconds else "-"


def main(argv: Sequence[str] | None = None) -> int:
    return run_benchmark(argv, BenchmarkArguments, __doc__, measure, format_report, TABLE_START, figures=FIGURES)


if __name__ == "__main__":
    sys.exit(main())
