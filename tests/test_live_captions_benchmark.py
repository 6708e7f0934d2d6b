"""benchmarks/live_captions.py: what it measures of a conversation, and that docs/demo.md holds its figures."""

import io
import struct
from pathlib import Path
from typing import Any

import pytest
from benchmark_modules import load_benchmark, read_page
from PIL import Image
from tiny_corpus import corpus

pytest.importorskip("playwright.sync_api")
benchmark = load_benchmark("live_captions")


def test_the_page_holds_the_figures():
    block, report = read_page(benchmark)
    assert block == benchmark.format_report(report).strip()
    assert len(report["sentences"]) >= 3


class Translator:
    """Says of each picture how wide it is, and of a file its name."""

    def __call__(self, path: str) -> dict[str, str]:
        return {"translation_text": Path(path).stem}

    def translate_stream(self, frames: Any) -> Any:
        for number, (_, picture) in enumerate(frames):
            yield {"is_final": True, "translation_text": f"width {picture.width} of {number}"}


def picture(seconds: float) -> bytes:
    file = io.BytesIO()
    Image.new("RGB", (16, 16)).save(file, "JPEG")
    return struct.pack(">d", seconds) + file.getvalue()


def caption(piece: int, text: str, start: float, end: float, is_final: bool = True) -> str:
    message = {"piece": piece, "text": text, "is_final": is_final, "signing_start": start, "signing_end": end}
    return benchmark.json.dumps(message)


def test_waits_count_from_the_last_picture_with_signing(monkeypatch):
    now = iter([10.0, 10.2, 10.5, 11.0, 11.25, 12.0, 13.0])
    monkeypatch.setattr(benchmark.time, "monotonic", lambda: next(now))
    conversation = benchmark.Conversation()
    conversation.sent("{}")  # the wishes: no picture
    conversation.sent(picture(0.0))  # at 10.0
    conversation.received(caption(0, "wid", 0.0, 1.0, is_final=False))  # at 10.2
    conversation.sent(picture(1.0))  # at 10.5
    conversation.sent(picture(2.0))  # at 11.0
    conversation.received(caption(0, "(?) width 16 of 0", 0.0, 1.0))  # at 11.25
    conversation.received(caption(1, "b", 2.0, 2.0))  # at 12.0
    conversation.received(caption(2, "invented", 2.0, 2.0))  # at 13.0
    rows = benchmark.captions_of(Translator(), [Path("a.mp4"), Path("b.mp4")], conversation, 0)
    first, second, invented = rows
    assert first["caption"] == first["recorded"] == "width 16 of 0" and first["offline"] == "a"
    assert (first["seconds_after_the_end"], first["seconds_until_first_words"]) == (0.75, 0.2)
    assert (second["caption"], second["offline"], second["seconds_after_the_end"]) == ("b", "b", 1.0)
    assert invented == {"film": 0, "clip": None, "caption": "invented"}
    shown = benchmark.format_report({"processor": "P", "cores": 2, "command": "c", "sentences": rows})
    assert shown.splitlines()[-1] == "| 2 | 2 | 1 | 1 | 1 | 0.88, 1.00 | 0.60, 1.00 |"


@pytest.mark.slow
def test_the_camera_sees_clips_between_rests(tmp_path):
    clips = sorted((corpus() / "test").glob("*.mp4"))[:2]
    seconds = benchmark.write_film(tmp_path / "camera.y4m", clips)
    with benchmark.av.open(str(tmp_path / "camera.y4m")) as film:
        pictures = [frame.to_ndarray(format="rgb24") for frame in film.decode(video=0)]
    assert len(pictures) == round(seconds * benchmark.FRAMES_PER_SECOND)
    assert pictures[0].shape == (benchmark.HEIGHT_IN_PIXELS, benchmark.WIDTH_IN_PIXELS, 3)
    rest = round(benchmark.SECONDS_OF_REST * benchmark.FRAMES_PER_SECOND)
    moves = [bool((one != other).any()) for one, other in zip(pictures, pictures[1:], strict=False)]
    assert not any(moves[: rest - 1]) and not any(moves[-rest + 1 :]) and any(moves)
