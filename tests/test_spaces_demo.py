"""The Space: its real server, asked by Gradio's client as a browser asks it."""

import html
import inspect
import json
import os
import re
import shutil
import socket
import subprocess
import sys
import threading
import time
from multiprocessing.reduction import ForkingPickler
from pathlib import Path

import av
import numpy as np
import pysubs2
import pytest
from space_app import FOLDER, TEXTS, clips, long_video, unused_port  # makes the Space's modules known, too
from tiny_corpus import trained_model
from video_files import counting_frames, cut, write_audio, write_video

# isort: split
import app
import gradio as gr
from decoding import VideoProblem
from gradio_client import Client, handle_file
from gradio_client.exceptions import AppError
from transformers import pipeline
from translating import Result, Step

RUN_WITHOUT_OUR_PACKAGES = """
import runpy, sys

class Refuse:
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] in ("modeling_flallm", "processing", "train_scripts"):
            raise ModuleNotFoundError(name)

sys.meta_path.insert(0, Refuse())
runpy.run_path("app.py", run_name="__main__")
"""


@pytest.fixture(scope="module")
def translator():
    translator = app.load_translator(str(trained_model()), None)
    yield translator
    translator.reader.close()


@pytest.fixture(scope="module")
def demo(translator):
    facts = app.read_model_facts(str(trained_model()))
    demo = app.Page(translator, facts).build(examples=[])
    demo.launch(prevent_thread_lock=True, server_name="127.0.0.1", quiet=True, **app.LAUNCH)
    yield demo
    demo.close()


@pytest.fixture(scope="module")
def client(demo) -> Client:
    return Client(demo.local_url, verbose=False)


@pytest.fixture
def clip() -> Path:
    return clips()[np.random.randint(len(clips()))]


def translate(client: Client, path: Path, **options) -> dict:
    return client.predict(handle_file(str(path)), api_name="/translate", **options)


def error_for(client: Client, path: Path, **options) -> str:
    with pytest.raises(AppError) as caught:
        translate(client, path, **options)
    return str(caught.value)


def seconds_of(path: Path) -> float:
    with av.open(str(path)) as container:
        return container.duration / av.time_base


def test_an_upload_gives_what_the_pipeline_gives(client, clip):
    answer = translate(client, clip)
    best, *others = pipeline("sign-language-translation", str(trained_model()))(
        str(clip), return_timestamps=True, return_scores=True, num_return_sequences=2
    )
    (sentence,) = answer["sentences"]
    assert answer["text"] == sentence["text"] == best["translation_text"] != ""
    assert sentence["words"] == best["words"]
    assert sentence["score"] == pytest.approx(best["score"], abs=1e-4)
    assert [other["text"] for other in answer["alternatives"]] == [other["translation_text"] for other in others]
    assert answer["seconds_taken"] > 0


def test_a_part_of_a_video(client, clip):
    length = seconds_of(clip)
    start, end = np.random.uniform(0, length / 4), np.random.uniform(length / 2, length)
    expected = pipeline("sign-language-translation", str(trained_model()))(str(clip), start=start, end=end)
    (sentence,) = translate(client, clip, start=start, end=end)["sentences"]
    assert sentence["text"] == expected["translation_text"]
    assert (sentence["start"], sentence["end"]) == (pytest.approx(start, abs=1e-3), pytest.approx(end, abs=1e-3))


def test_captions_are_those_of_the_sentence(client, clip):
    answer = translate(client, clip)
    for format_name in ("srt", "vtt"):
        captions = pysubs2.SSAFile.from_string(answer[format_name], format_=format_name)
        assert " ".join(" ".join(line.plaintext.split()) for line in captions) == answer["text"]
        assert captions[0].start == 0 and captions[-1].end == pytest.approx(1000 * seconds_of(clip), abs=50)


def test_a_long_video_is_translated_piece_by_piece(client, translator, tmp_path):
    path = long_video(tmp_path / "long.mp4", 3)
    expected = [piece for piece in translator.pipeline.translate_long(str(path)) if piece["translation_text"]]
    answer = translate(client, path, is_long=True)
    assert [(sentence["text"], sentence["start"], sentence["end"]) for sentence in answer["sentences"]] == [
        (piece["translation_text"], piece["start"], piece["end"]) for piece in expected
    ]
    times = [second for sentence in answer["sentences"] for second in (sentence["start"], sentence["end"])]
    assert times == sorted(times) and times[-1] <= seconds_of(path) + 0.05


def test_steps_grow_to_the_sentence(translator, clip):
    *steps, result = translator.translate(str(clip), None, None, is_long=False)
    assert isinstance(result, Result) and all(isinstance(step, Step) for step in steps)
    assert [step.name for step in steps[:3]] == ["progress_reading", "progress_watching", "progress_writing"]
    shares = [step.done for step in steps]
    assert shares == sorted(shares) and shares[0] >= 0 and shares[-1] < 1
    assert steps[-1].sentence == result.pieces[0]["translation_text"]
    assert len({step.sentence for step in steps}) > 3
    assert 0 < len(result.thumbnails) <= 10


def test_whoever_stops_asking_stops_the_translation(translator, clip):
    before = set(threading.enumerate())
    steps = translator.translate(str(clip), None, None, is_long=False)
    while next(steps).name != "progress_writing":
        pass
    started = set(threading.enumerate()) - before  # among them perhaps some of other tests
    steps.close()
    assert not any(thread.is_alive() for thread in started if thread.name.endswith("(run)"))


def test_no_translation_goes_on_for_ever(translator, clip, monkeypatch):
    monkeypatch.setattr("translating.SECONDS_TO_WRITE_ONE_SENTENCE", 0)
    with pytest.raises(VideoProblem) as caught:
        list(translator.translate(str(clip), None, None, is_long=False))
    assert caught.value.name == "error_took_too_long"


@pytest.mark.parametrize("language", ["en", "de"])
def test_bad_files(client, clip, tmp_path, language):
    noise, empty = tmp_path / "broken clip.mp4", tmp_path / "empty.mp4"
    noise.write_bytes(bytes(16) + np.random.bytes(2000))
    empty.touch()
    names = {
        "error_no_video_file": noise,
        "error_empty_file": empty,
        "error_no_picture": write_audio(tmp_path / "speech.mp4"),
        "error_damaged": cut(clip, 0.4, tmp_path / "cut.mp4"),
    }
    for name, path in names.items():
        assert error_for(client, path, language=language) == TEXTS[language][name]


def test_bad_times(client, clip):
    assert error_for(client, clip, start=0.2, end=0.1) == (
        "“From second” (0.2) must be smaller than “To second” (0.1)."
    )
    assert error_for(client, clip, start=0.2, end=0.1, language="de") == (
        "„Von Sekunde“ (0,2) muss kleiner sein als „Bis Sekunde“ (0,1)."
    )
    duration = f"{seconds_of(clip):.1f}"
    for language, values in {
        "en": {"start": "1000.0", "duration": duration},
        "de": {"start": "1000,0", "duration": duration.replace(".", ",")},
    }.items():
        expected = TEXTS[language]["error_times_outside"].format(**values)
        assert error_for(client, clip, start=1000, language=language) == expected


def test_a_video_too_long_for_one_sentence(client, tmp_path):
    path = write_video(tmp_path / "slow.mp4", counting_frames(2), times_in_milliseconds=[0, 70_000])
    assert error_for(client, path).startswith("This is too long for one sentence: ")


def test_no_video(client):
    with pytest.raises(AppError, match=re.escape(TEXTS["en"]["error_no_video"])):
        client.predict(None, api_name="/translate")


def test_faults_of_ours_are_told_without_their_insides(client, clip, translator, monkeypatch):
    def fail(path):
        raise RuntimeError(f"secret {path}")

    monkeypatch.setattr(translator.reader, "look", fail)
    assert error_for(client, clip) == TEXTS["en"]["error_ours"]


def test_a_file_that_is_too_large(client, tmp_path):
    path = tmp_path / "long.mp4"
    with open(path, "wb") as file:
        file.truncate((app.LARGEST_FILE_IN_MEGABYTES + 1) * 2**20)
    with pytest.raises((ValueError, AppError)) as caught:
        translate(client, path)
    assert "size" in str(caught.value).lower()


def test_what_the_card_says_is_there_for_programs(client):
    facts = client.predict(api_name="/about")
    assert facts["model_id"] == trained_model().name
    assert facts["is_card_readable"] is False


def test_the_signer_is_not_mirrored(demo):
    (video,) = [block for block in demo.blocks.values() if isinstance(block, gr.Video)]
    assert video.sources == ["upload", "webcam"]
    assert video.webcam_options.mirror is False and video.webcam_options.constraints["audio"] is False
    assert video.format is None and video.include_audio  # else the ffmpeg command is needed


@pytest.mark.parametrize("language", ["en", "de"])
def test_every_word_of_the_page_is_in_its_language(demo, language):
    """What `_speak` changes, and nothing else, holds words; no placeholder is left open."""
    page = next(
        function.fn.__self__ for function in demo.fns.values() if getattr(function.fn, "__name__", "") == "_speak"
    )
    spoken = page._speak(language, None)[:-2]
    words = " ".join(str(value) for update in spoken for value in update.values())
    for name in ("title", "warning", "translate_button", "long_label", "captions_heading", "api_heading", "privacy"):
        assert TEXTS[language][name].split("{")[0] in words
    assert not re.search(r"{[a-z_]+}", words)


def test_a_low_confidence_looks_different():
    shown = {}
    for level, answer in {
        "sure": {"confidence": 0.9},
        "unsure": {"confidence": 0.6},
        "very_unsure": {"confidence": 0.2},
        "unfamiliar": {"confidence": 0.0, "is_familiar": False, "is_measured": False},
        "unmeasured": {"confidence": 0.0, "is_familiar": True, "is_measured": False},
        "sureness_unknown": {},
    }.items():
        piece = {"translation_text": "<b>rain</b>", "start": 0.0, "end": 1.0, "score": -1.0, "words": [], **answer}
        assert app.results.sureness(piece) == level
        shown[level] = app.results.result_html(Result([piece], [], [], 0.0, 1.0, 2.0), "en")
        assert TEXTS["en"][level] in html.unescape(shown[level]) and "<b>rain" not in shown[level]
        marked = app.results.marked(piece)
        assert (marked == "<b>rain</b>") == (level in ("sure", "sureness_unknown"))
        assert marked.endswith("<b>rain</b>")
        assert ("Of 100 sentences like this one" in shown[level]) == (level in ("sure", "unsure", "very_unsure"))
    assert len(set(shown.values())) == 6


@pytest.mark.parametrize(("confidence", "level"), [(0.9, "sure"), (0.3, "very_unsure")])
def test_a_sentence_surer_than_all_that_were_measured_says_so(confidence, level):
    piece = {"translation_text": "rain", "start": 0.0, "end": 1.0, "score": -0.1, "words": []}
    piece |= {"confidence": confidence, "is_familiar": True, "is_measured": False}
    shown = html.unescape(app.results.result_html(Result([piece], [], [], 0.0, 1.0, 2.0), "en"))
    expected = TEXTS["en"]["sureness_share_of_surest"].format(number=round(100 * confidence))
    assert expected in shown and TEXTS["en"][level] in shown and "sentences like this one" not in shown


def test_of_a_sentence_that_an_earlier_pipeline_scored_below_all_no_share_is_said():
    assert app.results.sureness({"confidence": 0.0, "is_familiar": True}) == "unmeasured"


@pytest.mark.parametrize(("language", "mark"), [("en", "."), ("de", ",")])
def test_numbers_are_written_as_in_the_language(language, mark):
    score, seconds_taken = -np.random.uniform(1, 2), np.random.uniform(1, 9)
    piece = {"translation_text": "rain", "start": 0.0, "end": 1.0, "score": -1.0, "words": []}
    other = {"translation_text": "snow", "score": score}
    shown = app.results.result_html(Result([piece], [other], [], 0.0, 1.0, seconds_taken), language)
    assert f"<td>{score:.2f}</td>".replace(".", mark) in shown
    assert f" {seconds_taken:.1f} ".replace(".", mark) in shown


def test_without_a_model():
    with pytest.raises(SystemExit, match=re.escape("MODEL_ID is not set: name a model such as me/flallm-phoenix")):
        app.load_translator(None, None)


def test_folders_from_which_nothing_translates(tmp_path):
    last = "which translates no videos: name what stage 3 of LLaVA-SLT or stage 2 of FLa-LLM has made."
    parts = {
        "llama": "a language model alone (llama)",
        "mbart": "a language model alone (mbart)",
        "llava_slt_contrastive": "a visual encoder alone, as stage 2 of LLaVA-SLT leaves it",
        "llava_slt_visual": "a visual encoder alone, as stage 2 of LLaVA-SLT leaves it",
        "vit": "a model of type 'vit'",
    }
    for model_type, part in parts.items():
        (tmp_path / "config.json").write_text(json.dumps({"model_type": model_type}), encoding="utf-8")
        with pytest.raises(SystemExit, match=re.escape(f"MODEL_ID {str(tmp_path)!r} holds {part}, {last}")):
            app.load_translator(str(tmp_path), None)
    (tmp_path / "config.json").unlink()
    with pytest.raises(SystemExit, match=re.escape(f"MODEL_ID {str(tmp_path)!r} cannot be loaded: ")):
        app.load_translator(str(tmp_path), None)


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
    for path in FOLDER.glob("*.py"):
        shutil.copy(path, tmp_path)
    port = unused_port()
    environment = {"MODEL_ID": str(trained_model()), "GRADIO_SERVER_PORT": str(port), "HF_HOME": str(tmp_path / "home")}
    long = long_video(tmp_path / "long.mp4", 2)
    with subprocess.Popen(
        [sys.executable, "-c", RUN_WITHOUT_OUR_PACKAGES], cwd=tmp_path, env={**os.environ, **environment}
    ) as process:
        try:
            wait_for(port, process)
            client = Client(f"http://127.0.0.1:{port}", verbose=False)
            answer, pieces = translate(client, clip), translate(client, long, is_long=True)
        finally:
            process.terminate()
    assert answer["text"] == pipeline("sign-language-translation", str(trained_model()))(str(clip))["translation_text"]
    assert answer["sentences"][0]["words"]
    assert pieces["sentences"]


@pytest.mark.slow
def test_an_accelerator_that_is_lent_is_asked_for_each_call(clip, monkeypatch):
    """What `spaces.GPU` decorates must be a generator function, and gets nothing that cannot go to another process."""
    lent = []

    def lend(function):
        assert inspect.isgeneratorfunction(function)

        def call(*arguments):
            lent.append(function.__name__)
            ForkingPickler.dumps(arguments)
            yield from function(*arguments)

        return call

    monkeypatch.setattr("translating.on_accelerator", lend)
    monkeypatch.setenv("SPACES_ZERO_GPU", "1")
    translator = app.load_translator(str(trained_model()), None)
    try:
        *_, result = translator.translate(str(clip), None, None, is_long=False)
        *_, pieces = translator.translate(str(clip), None, None, is_long=True)
    finally:
        translator.reader.close()
    assert lent == ["write", "write_pieces"]
    assert result.pieces[0]["translation_text"] and isinstance(pieces, Result)
