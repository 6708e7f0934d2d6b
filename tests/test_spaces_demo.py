"""The Space: its real server, called by Gradio's client as by a browser."""

import asyncio
import html
import http.client
import inspect
import json
import os
import re
import shutil
import socket
import subprocess
import sys
import tempfile
import threading
import time
from multiprocessing.reduction import ForkingPickler
from pathlib import Path
from types import SimpleNamespace

import av
import httpx
import numpy as np
import pysubs2
import pytest
from mini_hub import MiniHub, connect
from space_app import TEXTS, assert_they_say, clips, long_video  # makes the Space's modules known, too
from tiny_corpus import trained_model
from two_processes import unused_port
from video_files import counting_frames, cut, write_audio, write_video

from modeling_flallm.clip_translation_slt import ClipTranslation
from train_scripts.commands import push_to_hub

# isort: split
import app
import gradio as gr
import uploads
from decoding import VideoProblem
from gradio_client import Client, handle_file
from gradio_client.exceptions import AppError
from transformers import pipeline
from translating import Result, Step, Translator
from turns import Visitors

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
def translator(forked_workers):
    translator = app.load_translator(str(trained_model()), None)
    yield translator
    translator.reader.close()


@pytest.fixture(scope="module")
def demo(translator, tmp_path_factory):
    facts = app.read_model_facts(str(trained_model()))
    examples = tmp_path_factory.mktemp("examples")
    for name in ("example.mp4", "private.txt"):
        shutil.copy(clips()[0], examples / name)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("EXAMPLES_FOLDER", str(examples))
        patch.setenv("GRADIO_TEMP_DIR", str(tmp_path_factory.mktemp("sent")))
        page = app.Page(translator, facts)
        demo = app.launch(page, app.find_examples(), prevent_thread_lock=True, server_name="127.0.0.1", quiet=True)
        yield demo
        demo.close()


@pytest.fixture
def page(demo) -> app.Page:
    return next(function.fn.__self__ for function in demo.fns.values() if inspect.ismethod(function.fn))


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


@pytest.mark.slow
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
        assert_they_say((line.plaintext for line in captions), answer["text"])
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


REQUEST = SimpleNamespace(client=SimpleNamespace(host="127.0.0.1"), headers={})


@pytest.mark.slow
def test_the_finished_sentences_of_a_long_video_stay_and_stopping_keeps_them(page, tmp_path):
    run = page._translate(str(long_video(tmp_path / "talk.mp4")), 0, None, True, 1, "no", "en", REQUEST)
    sentence, shown = "", ["", None, None]
    for shown in run:
        if shown[2] is not None and (sentence := shown[2].pieces and shown[2].pieces[0]["translation_text"]):
            break
    assert sentence and sentence in html.unescape(shown[0]) and "<progress" in shown[0]
    run.close()
    assert [turns.served for turns in (page.translator._reading, page.translator._writing)] == [[], []]
    result, picture, _, srt, vtt, *_ = page._stopped("en", shown[2])
    assert f"{TEXTS['en']['stopped']} This took" in result and "<progress" not in result
    # None, if the untrained model wrote dots alone; captions break a word that is longer than a line.
    first_words = re.findall(r"\w+", sentence)[:1]
    for text in (result, picture, srt, vtt):
        assert all(word in "".join(html.unescape(text).split()) for word in first_words)
    result, picture, _, srt, *_ = page._stopped("en", None)
    assert TEXTS["en"]["stopped"] in result and 'role="alert"' in result and (picture, srt) == ("", "")


def test_the_sliders_end_at_the_next_tenth_of_a_second(page, tmp_path):
    for times, expected in (([0, 40, 2062], 2.2), ([0, 1000, 2000], 3.0)):
        path = write_video(tmp_path / f"{times[-1]}.mp4", counting_frames(3), times_in_milliseconds=times)
        end = page._look(str(path), "en", REQUEST)[1]
        assert end["value"] == end["maximum"] == pytest.approx(expected) and end["maximum"] >= page.translator.look(
            str(path)
        )


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


@pytest.mark.parametrize("language", ["en", "de"])
def test_a_part_too_short_for_a_picture_gets_a_sentence(client, clip, language):
    for start, end in ((0, 1e-9), (0.1, 0.1 + 1e-9), (0, 1e-300), (seconds_of(clip) - 1e-6, 0)):
        text = error_for(client, clip, start=start, end=end, language=language)
        assert text == TEXTS[language]["error_too_short"]


def test_the_shortest_part_has_captions(client, clip):
    answer = translate(client, clip, start=0.1, end=0.12)
    assert answer["sentences"] and answer["srt"] and answer["vtt"]


def test_a_fault_behind_the_translation_gets_a_sentence_too(client, clip, page, monkeypatch):
    monkeypatch.setattr(page, "_captions_of", lambda result: 1 / 0)
    assert error_for(client, clip) == TEXTS["en"]["error_ours"]


@pytest.mark.parametrize(("start", "end"), [(float("nan"), 1.0), (0.0, float("nan")), (float("inf"), 1.0), (0.0, -1.0)])
def test_times_that_are_no_part_of_a_video(translator, clip, start, end):
    with pytest.raises(VideoProblem) as caught:
        list(translator.translate(str(clip), start, end, is_long=False))
    assert caught.value.name in ("error_times", "error_times_outside")


def test_a_prompt_counts_in_the_length_of_a_video():
    """A video that just fits without its prompt is too long, and the visitor gets a message."""

    def check(num_tokens: int) -> None:
        if num_tokens > 10:
            raise ValueError

    vision_model = SimpleNamespace(get_num_tokens=lambda num_frames: num_frames, get_min_num_frames=lambda: 1)
    for prompt, longest in (({}, 10), ({"num_prompt_tokens": 3}, 7)):
        translation = ClipTranslation()
        modality = SimpleNamespace(input_names=("pixel_values_videos", "pixel_attention_mask"))
        translation.processor = SimpleNamespace(modality=modality, **prompt)
        names = ("input_ids",) if prompt else ()
        translation.model = SimpleNamespace(vision_model=vision_model, check_num_tokens=check, prompt_input_names=names)
        translator = Translator(translation, reader=None)
        translator._check_length({"pixel_values_videos": [0] * longest}, 2.0)
        with pytest.raises(VideoProblem) as caught:
            translator._check_length({"pixel_values_videos": [0] * (longest + 1)}, 2.0)
        assert caught.value.name == "error_too_long_for_one"
        with pytest.raises(VideoProblem) as caught:
            translator._check_length({"pixel_values_videos": []}, 2.0)
        assert caught.value.name == "error_too_short"


def test_a_video_that_is_slow_to_read_keeps_nobody_waiting(translator, clip, monkeypatch):
    slow, is_read, read = str(clip), threading.Event(), translator.reader.read
    monkeypatch.setattr(
        translator.reader, "read", lambda path, *part: (path != slow or is_read.wait(30)) and read(path, *part)
    )
    other = next(path for path in clips() if path != clip)
    answers = []
    thread = threading.Thread(target=lambda: answers.extend(translator.translate(slow, None, None, False, "slow")))
    thread.start()
    try:
        *_, result = translator.translate(str(other), None, None, is_long=False, visitor="fast")
        assert isinstance(result, Result) and not any(isinstance(step, Result) for step in answers)
    finally:
        is_read.set()
        thread.join()
    assert isinstance(answers[-1], Result)


@pytest.mark.slow
def test_between_the_sentences_of_a_long_video_others_have_their_turn(translator, clip, tmp_path, monkeypatch):
    path, read, steps = str(long_video(tmp_path / "long.mp4")), translator.reader.read, []

    def read_slowly(name: str, *part):
        time.sleep(0.4 * (name == path))
        return read(name, *part)

    monkeypatch.setattr(translator.reader, "read", read_slowly)
    thread = threading.Thread(target=lambda: steps.extend(translator.translate(path, None, None, True, "long")))
    thread.start()
    try:
        while not any(step.name == "progress_piece" for step in steps if isinstance(step, Step)):
            time.sleep(0.01)
        *_, result = translator.translate(str(clip), None, None, is_long=False, visitor="short")
        assert isinstance(result, Result) and not isinstance(steps[-1], Result)
    finally:
        thread.join()
    assert isinstance(steps[-1], Result) and len(steps[-1].pieces) > 2


def test_who_waits_is_told_how_many_come_first(translator, clip, monkeypatch):
    monkeypatch.setattr("translating.SECONDS_BETWEEN_REPORTS", 0.01)
    with translator._writing.join("another"):
        steps = translator.translate(str(clip), None, None, is_long=False, visitor="me")
        while (step := next(steps)).name != "progress_waiting":
            pass
        assert step.values == {"number": 1} and next(steps).name == "progress_waiting"
    *_, result = steps
    assert isinstance(result, Result)
    assert all(turns.waiting == turns.served == [] for turns in (translator._reading, translator._writing))


def test_who_leaves_while_waiting_gives_the_place_back(translator, clip, monkeypatch):
    monkeypatch.setattr("translating.SECONDS_BETWEEN_REPORTS", 0.01)
    with translator._writing.join("another"):
        steps = translator.translate(str(clip), None, None, is_long=False, visitor="me")
        while next(steps).name != "progress_waiting":
            pass
        steps.close()
        assert translator._writing.waiting == translator._reading.served == []


@pytest.mark.parametrize("language", ["en", "de"])
def test_too_many_of_one_visitor_and_of_all(client, clip, page, monkeypatch, language):
    monkeypatch.setattr(page, "visitors", Visitors(most=100, most_of_one=0))
    assert error_for(client, clip, language=language) == TEXTS[language]["error_too_many_of_yours"].format(limit=0)
    monkeypatch.setattr(page, "visitors", Visitors(most=0, most_of_one=10))
    assert error_for(client, clip, language=language) == TEXTS[language]["error_too_many"]


def run_of(demo: gr.Blocks, name: str, *data) -> httpx.Response:
    """The page's answer from one of its functions."""
    (number,) = [number for number, function in demo.fns.items() if getattr(function.fn, "__name__", "") == name]
    body = {"data": data, "fn_index": number, "session_hash": "a visit"}
    return httpx.post(f"{demo.local_url}gradio_api/run/predict", json=body)


def test_the_page_speaks_german_with_examples_from_anywhere(demo, tmp_path, monkeypatch):
    # Files in the folder for temporary files and in the working directory need no permission.
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    monkeypatch.chdir(tmp_path)
    answer = run_of(demo, "_speak", "de", None)
    assert answer.status_code == 200, answer.text
    assert TEXTS["de"]["translate_button"] in answer.text


def test_of_the_folder_with_examples_nothing_else_is_served(demo, tmp_path, monkeypatch):
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    (example,) = demo.allowed_paths
    assert httpx.get(f"{demo.local_url}gradio_api/file={example}").status_code == 200
    private = Path(example).with_name("private.txt")
    assert private.is_file()
    assert httpx.get(f"{demo.local_url}gradio_api/file={private}").status_code == 403


def break_off_an_upload(address: str) -> None:
    """Half of a file, then nothing more, as a phone does that leaves its network."""
    host, port = address.removeprefix("http://").strip("/").split(":")
    head = b'--x\r\nContent-Disposition: form-data; name="files"; filename="clip.mp4"\r\n\r\n'
    with socket.create_connection((host, int(port))) as connection:
        connection.sendall(
            b"POST /gradio_api/upload HTTP/1.1\r\nHost: here\r\nContent-Length: 1000000\r\n"
            b"Content-Type: multipart/form-data; boundary=x\r\n\r\n" + head + bytes(200_000)
        )
        time.sleep(0.3)


def send_files(demo: gr.Blocks, *sizes: int, **options) -> httpx.Response:
    files = [("files", (f"clip{number}.mp4", bytes(size))) for number, size in enumerate(sizes)]
    return httpx.post(f"{demo.local_url}gradio_api/upload", files=files, **options)


@pytest.mark.parametrize("language", ["en", "de"])
def test_uploads_have_limits_of_which_a_visitor_is_told(demo, monkeypatch, language):
    megabytes, header = app.LARGEST_FILE_IN_MEGABYTES, {"Accept-Language": language}
    connection = http.client.HTTPConnection(demo.local_url.removeprefix("http://").strip("/"))
    connection.request("POST", "/gradio_api/upload", headers={"Content-Length": str(2**30), **header})
    answer = connection.getresponse()
    expected = TEXTS[language]["error_too_large_file"].format(megabytes=megabytes)
    assert (answer.status, answer.read().decode()) == (413, expected)
    with monkeypatch.context() as patch:
        patch.setattr(uploads, "MOST_BYTES_OF_ALL_UPLOADS", -1)
        answer = send_files(demo, 10, headers=header)
        assert (answer.status_code, answer.text) == (503, TEXTS[language]["error_too_many"])
    with monkeypatch.context() as patch:
        patch.setattr(uploads, "MOST_UPLOADS_OF_ONE_VISITOR", 0)
        answer = send_files(demo, 10, headers=header)
        assert (answer.status_code, answer.text) == (429, TEXTS[language]["error_too_many_of_yours"].format(limit=0))
    assert send_files(demo, 10, headers=header).status_code == 200


def test_uploads_that_are_done_or_broke_off_no_longer_count(demo, monkeypatch):
    monkeypatch.setattr(uploads, "MOST_UPLOADS_OF_ONE_VISITOR", 1)
    for _ in range(2):
        break_off_an_upload(demo.local_url)
        assert send_files(demo, 10).status_code == 200


def test_a_form_that_hides_its_size_is_cut_off():
    async def receive() -> dict:
        return {"type": "http.request", "body": bytes(60), "more_body": True}

    async def ask() -> list[str]:
        some = uploads._ending_after(receive, 150)
        return [(await some())["type"] for _ in range(4)]

    assert asyncio.run(ask()) == ["http.request", "http.request", "http.disconnect", "http.disconnect"]


def test_an_upload_that_broke_off_is_deleted(demo, monkeypatch):
    folder = Path(os.environ["GRADIO_TEMP_DIR"])
    before = set(folder.rglob("*"))
    break_off_an_upload(demo.local_url)
    (left,) = set(folder.rglob("*")) - before
    assert left.parent == folder and left.stat().st_size > 100_000
    later = time.time() + uploads.SECONDS_OF_A_BROKEN_UPLOAD
    with monkeypatch.context() as patch:
        patch.setattr(uploads.time, "time", lambda: later)
        uploads.delete_old_files(folder, app.SECONDS_UNTIL_FILES_ARE_DELETED)
    assert not left.exists()


def test_a_gradio_in_which_the_guard_has_no_effect_starts_no_space(demo, monkeypatch):
    app.check_addresses_are_refused(demo)
    refusal = re.escape(
        f"The Space does not start: Gradio {gr.__version__} would fetch videos from any address that a visitor names. "
        "Install the version of Gradio that the Space's README.md names as sdk_version."
    )
    with monkeypatch.context() as patch, pytest.raises(SystemExit, match=refusal):
        patch.delattr(gr.Video, "async_move_resource_to_block_cache")
        app.check_addresses_are_refused(demo)
    with monkeypatch.context() as patch, pytest.raises(SystemExit, match=refusal):
        patch.delattr(gr.Blocks, "preprocess_data")
        app.check_addresses_are_refused(demo)


def test_without_a_commit_the_newest_one_is_taken_and_named(monkeypatch, caplog, tmp_path):
    with MiniHub() as hub:
        connect(monkeypatch, hub.url, hub.token)
        commit_id = hub.create_repository("me/model", files={"config.json": b"{}"}).commit_id("main")
        assert app.pinned_revision("me/model", None) == commit_id
        assert caplog.messages == [
            f"MODEL_REVISION is not set: this Space runs commit {commit_id} of me/model, weights and code, until it "
            f"restarts, and then the newest one. To keep this commit, set MODEL_REVISION to {commit_id}."
        ]
        assert app.pinned_revision("me/model", "main") == commit_id
        assert caplog.messages[1].startswith("MODEL_REVISION is 'main': ")
        num_requests = len(hub.requests)
        assert app.pinned_revision("me/model", commit_id) == commit_id
        assert app.pinned_revision(str(tmp_path), None) is None
        assert len(hub.requests) == num_requests and len(caplog.messages) == 2
        assert app.pinned_revision("me/typo", None) is None  # loading it says what is wrong


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
    assert video.format is None and video.include_audio  # otherwise the ffmpeg command is needed


@pytest.mark.parametrize("language", ["en", "de"])
def test_every_word_of_the_page_is_in_its_language(page, language):
    """Only what `_speak` changes contains texts, and no placeholder is left unfilled."""
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
    stages = "stage 2 of FLa-LLM, stage 3 of LLaVA-SLT, stage 3 of Uni-Sign, stage 2 of MMSLT or stage 2 of DiffSLT"
    outputs = f"the output of {stages}"
    last = f"which does not translate videos: name {outputs}."
    parts = {
        "llama": "only a language model (llama)",
        "mbart": "only a language model (mbart)",
        "llava_slt_contrastive": "only a visual encoder, the output of stage 2 of LLaVA-SLT",
        "llava_slt_visual": "only a visual encoder, the output of stage 2 of LLaVA-SLT",
        "flallm_vision": "only a visual encoder",
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
    for path in push_to_hub.space_files().values():
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
