"""The Space for its tests, started in this process or in a separate one, with the tiny trained model."""

import contextlib
import os
import shutil
import sys
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
from tiny_corpus import corpus, trained_model
from two_processes import unused_port
from video_files import cut, write_audio, write_video

from modeling_flallm.own_processing import decode_video
from processing.captions_slt import LONGEST_LINE_IN_CHARACTERS

os.environ["GRADIO_ANALYTICS_ENABLED"] = "False"
FOLDER = Path(__file__).resolve().parent.parent / "spaces_demo"
sys.path.insert(0, str(FOLDER))

import texts  # noqa: E402

TEXTS = texts.TEXTS
NUM_EXAMPLES = 2


def assert_they_say(lines: Iterable[str], sentence: str) -> None:
    """Word for word; of a sentence with a word longer than a line, which captions break, letter for letter."""
    said, words = [word for line in lines for word in line.split()], sentence.split()
    if max(map(len, words), default=0) > LONGEST_LINE_IN_CHARACTERS:
        said, words = ["".join(said)], ["".join(words)]
    assert said == words


def clips() -> list[Path]:
    return sorted((corpus() / "test").glob("*.mp4"))


def bad_files(folder: Path) -> dict[str, Path]:
    """Bad files by the name of the message that a visitor gets."""
    text, empty = folder / "letter.mp4", folder / "empty.mp4"
    text.write_text("this is no video", encoding="utf-8")
    empty.touch()
    return {
        "error_no_video_file": text,
        "error_empty_file": empty,
        "error_no_picture": write_audio(folder / "speech.mp4"),
        "error_damaged": cut(clips()[0], 0.5, folder / "cut.mp4"),
    }


def long_video(path: Path, num_clips: int | None = None) -> Path:
    """The first clips, by default all, one after the other."""
    frames = [decode_video(str(clip)).frames.permute(0, 2, 3, 1).numpy() for clip in clips()[:num_clips]]
    return write_video(path, np.concatenate(frames))


def settings(folder: Path) -> dict[str, str]:
    """Environment variables of a Space that stores uploads in `folder / "sent"`, with two examples."""
    examples = folder / "examples"
    examples.mkdir()
    for clip in clips()[:NUM_EXAMPLES]:
        shutil.copy(clip, examples)
    return {
        "MODEL_ID": str(trained_model()),
        "EXAMPLES_FOLDER": str(examples),
        "GRADIO_TEMP_DIR": str(folder / "sent"),
        "GRADIO_SERVER_PORT": str(unused_port()),
        "GRADIO_ANALYTICS_ENABLED": "False",
    }


@dataclass(frozen=True)
class Space:
    """A running Space: its address, and the folder of the files sent to it."""

    address: str
    sent: Path


@contextlib.contextmanager
def space_in_this_process(folder: Path) -> Iterator[Space]:
    with pytest.MonkeyPatch.context() as patch:
        for name, value in settings(folder).items():
            patch.setenv(name, value)
        import app

        model_id = os.environ["MODEL_ID"]
        translator = app.load_translator(model_id, None)
        page = app.Page(translator, app.read_model_facts(model_id, None))
        demo = app.launch(page, app.find_examples(), prevent_thread_lock=True, server_name="127.0.0.1", quiet=True)
        yield Space(demo.local_url.rstrip("/"), Path(os.environ["GRADIO_TEMP_DIR"]))
        demo.close()
        translator.reader.close()
