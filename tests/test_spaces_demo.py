"""The Space: its real server, asked by Gradio's client as a browser asks it."""

import importlib.util
import os
import re
import shutil
import socket
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from tiny_corpus import corpus, trained_model
from video_files import write_audio

os.environ["GRADIO_ANALYTICS_ENABLED"] = "False"

import gradio as gr  # noqa: E402
from gradio_client import Client, handle_file  # noqa: E402
from gradio_client.exceptions import AppError  # noqa: E402
from transformers import pipeline  # noqa: E402

FOLDER = Path(__file__).resolve().parent.parent / "spaces_demo"

RUN_WITHOUT_OUR_PACKAGES = """
import runpy, sys

class Refuse:
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] in ("modeling_flallm", "processing", "train_scripts"):
            raise ModuleNotFoundError(name)

sys.meta_path.insert(0, Refuse())
runpy.run_path("app.py", run_name="__main__")
"""


def load_app():
    """By path, as the Space runs it."""
    spec = importlib.util.spec_from_file_location("app", FOLDER / "app.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


app = load_app()


@pytest.fixture(scope="module")
def demo():
    folder = str(trained_model())
    demo = app.build_demo(app.load_translator(folder, None), "me/flallm-tiny")
    demo.launch(prevent_thread_lock=True, server_name="127.0.0.1", quiet=True, **app.LIMITS)
    yield demo
    demo.close()


@pytest.fixture(scope="module")
def client(demo) -> Client:
    return Client(demo.local_url, verbose=False)


@pytest.fixture
def clip() -> Path:
    clips = sorted((corpus() / "test").glob("*.mp4"))
    return clips[np.random.randint(len(clips))]


def translate(client: Client, path: Path) -> tuple[str, list]:
    text, words = client.predict(handle_file(str(path)), api_name="/translate")
    return text, words["data"]


def error_for(client: Client, path: Path) -> str:
    with pytest.raises(AppError) as caught:
        translate(client, path)
    return str(caught.value)


def test_an_upload_gives_what_the_pipeline_gives(client, clip):
    text, words = translate(client, clip)
    expected = pipeline("sign-language-translation", str(trained_model()))(str(clip), return_timestamps=True)
    assert text == expected["translation_text"] != ""
    assert words == [[word["word"], round(word["start"], 2), round(word["end"], 2)] for word in expected["words"]]


def test_a_file_that_is_no_video(client, tmp_path):
    path = tmp_path / "broken clip.mp4"
    path.write_bytes(np.random.bytes(2000))
    message = error_for(client, path)
    assert re.match(r"'?broken.clip\.mp4'? ", message)
    assert "/" not in message and "Traceback" not in message


def test_a_file_with_nothing_to_see(client, tmp_path):
    message = error_for(client, write_audio(tmp_path / "speech.mp4"))
    assert "speech.mp4" in message and "/" not in message and "Traceback" not in message


def test_no_video(client):
    with pytest.raises(AppError, match=re.escape("Upload or record a video first.")):
        client.predict(None, api_name="/translate")


def test_a_file_that_is_too_large(client, tmp_path):
    path = tmp_path / "long.mp4"
    with open(path, "wb") as file:
        file.truncate(51 * 2**20)
    with pytest.raises((ValueError, AppError)) as caught:
        translate(client, path)
    assert "size" in str(caught.value).lower()


def test_the_page_says_what_it_is_and_does_not_mirror_the_signer(demo):
    components = {component["type"]: component["props"] for component in demo.config["components"]}
    text = components["markdown"]["value"]
    assert "me/flallm-tiny" in text and "makes mistakes" in text and "does harm" in text
    assert components["video"]["sources"] == ["upload", "webcam"]
    webcam = components["video"]["webcam_options"]
    assert webcam["mirror"] is False and webcam["constraints"]["audio"] is False
    (video,) = [block for block in demo.blocks.values() if isinstance(block, gr.Video)]
    assert video.format is None and video.include_audio  # else the ffmpeg command is needed


def test_without_a_model():
    with pytest.raises(SystemExit, match=re.escape("MODEL_ID is not set: name a model such as me/flallm-phoenix")):
        app.load_translator(None, None)


def unused_port() -> int:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return listener.getsockname()[1]


def wait_for(port: int, process: subprocess.Popen, seconds: float = 300.0) -> None:
    """Until the process listens."""
    deadline = time.monotonic() + seconds
    while process.poll() is None and time.monotonic() < deadline:
        with socket.socket() as caller:
            if caller.connect_ex(("127.0.0.1", port)) == 0:
                return
        time.sleep(0.5)
    pytest.fail("the Space does not start")


@pytest.mark.slow
def test_the_space_runs_where_nothing_of_ours_is_installed(clip, tmp_path):
    shutil.copy(FOLDER / "app.py", tmp_path)
    port = unused_port()
    environment = {"MODEL_ID": str(trained_model()), "GRADIO_SERVER_PORT": str(port), "HF_HOME": str(tmp_path / "home")}
    with subprocess.Popen(
        [sys.executable, "-c", RUN_WITHOUT_OUR_PACKAGES], cwd=tmp_path, env={**os.environ, **environment}
    ) as process:
        try:
            wait_for(port, process)
            text, words = translate(Client(f"http://127.0.0.1:{port}", verbose=False), clip)
        finally:
            process.terminate()
    assert text == pipeline("sign-language-translation", str(trained_model()))(str(clip))["translation_text"]
    assert words
