"""The Space with a model of poses: what is read, drawn and refused, and what happens to a video."""

import contextlib
import io
import os
import sys
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import av
import numpy as np
import pytest
from gradio_client import Client, handle_file
from gradio_client.exceptions import AppError
from tiny_pose_models import made_poses, pose_file, pose_pipeline

from modeling_flallm import SignLanguageTranslationPipeline
from processing import read_poses, write_poses

sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "spaces_demo"))

from decoding import VideoFacts, VideoProblem, VideoReader  # noqa: E402
from films import as_mp4  # noqa: E402
from texts import TEXTS  # noqa: E402
from translating import Step, Translator  # noqa: E402

SENTENCE = [("sign", 2.4)]
LONG = [("sign", 2.4), ("rest", 0.6), ("sign", 3.2)]


@pytest.fixture(scope="module")
def translator() -> SignLanguageTranslationPipeline:
    return pose_pipeline()


@pytest.fixture(scope="module")
def model(translator, tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("space") / "model"
    translator.save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def reader(model, forked_workers):
    reader = VideoReader(str(model), None, trust_remote_code=True)
    yield reader
    reader.close()


def problem_of(call, *arguments) -> str:
    with pytest.raises(VideoProblem) as caught:
        call(*arguments)
    return caught.value.name


def frames_of(film: bytes) -> list[av.VideoFrame]:
    with av.open(io.BytesIO(film)) as container:
        return list(container.decode(video=0))


def test_a_film_shows_each_picture_at_its_second_and_lasts_as_long_as_the_clip():
    pictures = [(0.0, np.full((33, 47, 3), 255, np.uint8)), (1.0, np.zeros((33, 47, 3), np.uint8))]
    film = as_mp4(pictures, 3.5)
    first, second, *_ = frames_of(film)
    assert (first.time, second.time) == (0, 1) and (first.width, first.height) == (48, 34)
    assert first.to_ndarray(format="gray").mean() > 200 > 50 > second.to_ndarray(format="gray").mean()
    with av.open(io.BytesIO(film)) as container:
        assert container.duration / av.time_base == pytest.approx(3.5, abs=0.01)


@pytest.mark.slow
def test_what_a_reading_process_makes_of_a_file(reader, translator, tmp_path):
    clip = str(pose_file(tmp_path / "clip.pose", LONG))
    assert reader.look(clip) == VideoFacts(pytest.approx(6.2))
    modality = translator.processor.modality
    values, metadata = modality.open(clip, 1.0, 2.0)
    part = reader.read(clip, 1.0, 2.0)
    assert np.array_equal(part["pose_values"], modality.prepare([values])["pose_values"][0])
    assert part["video_metadata"] == metadata and part["start"] == 1.0
    assert [piece["start"] for piece in reader.split_at_rests(clip, None, None)] == [
        segment.start for segment in modality.split_at_rests(clip)
    ]
    thumbnails = reader.thumbnails(clip, 1.0, 3.0, 5, 48)
    assert [second for second, _ in thumbnails] == pytest.approx([1.0, 1.4, 1.8, 2.2, 2.6])
    assert {picture.shape for _, picture in thumbnails} == {(48, 64, 3)}
    film = frames_of(reader.film(clip))
    assert len(film) == 155 + 1 and film[-1].time == pytest.approx(6.2, abs=0.01)
    assert not reader.takes_videos()


@pytest.mark.slow
def test_what_is_wrong_with_a_file(reader, tmp_path):
    files = {name: tmp_path / f"{name}.npz" for name in ("error_damaged_poses", "error_no_times", "error_too_long")}
    files["error_damaged_poses"].write_bytes(np.random.bytes(2000))
    pose_file(files["error_no_times"], SENTENCE, rate=None)
    write_poses(files["error_too_long"], replace(made_poses(SENTENCE), frames_per_second=0.02))
    files["error_no_pose_file"] = tmp_path / "poses.pkl"
    files["error_no_pose_file"].write_bytes(b"\x80\x04}.")  # an empty dictionary
    assert {name: problem_of(reader.look, str(path)) for name, path in files.items()} == {name: name for name in files}
    for call in ((reader.look,), (reader.read, None, None), (reader.film,)):
        assert problem_of(call[0], "http://127.0.0.1:1/clip.mp4", *call[1:]) == "error_no_pose_file"
    assert problem_of(reader.look, "http://127.0.0.1:1/clip.pose") == "error_damaged_poses"
    assert problem_of(reader.poses_of_video, str(files["error_no_pose_file"])) == "error_no_pose_or_video_file"


def made_reader(error: Exception | None = None) -> SimpleNamespace:
    """A reader with an extractor, which finds the poses of `SENTENCE` in every video."""
    poses = made_poses(SENTENCE, extractor="made up 1.0")

    def poses_of_video(path: str) -> dict:
        assert Path(path).exists()
        if error is not None:
            raise error
        return vars(poses)

    return SimpleNamespace(takes_videos=lambda: True, poses_of_video=poses_of_video, poses=poses)


def test_the_poses_of_a_video_are_kept_and_the_video_is_deleted(translator, tmp_path):
    reader = made_reader()
    video = tmp_path / "talk.mp4"
    video.touch()
    page = Translator(translator, reader)
    assert page.is_video(str(video)) and not page.is_video("clip.POSE")
    step, path = page.extract_poses(str(video), tmp_path / "made")
    assert isinstance(step, Step) and step.name == "progress_extracting" and not video.exists()
    poses = read_poses(path)
    assert Path(path) == tmp_path / "made" / "talk.npz" and poses.extractor == "made up 1.0"
    assert np.array_equal(poses.keypoints, reader.poses.keypoints) and poses.frames_per_second == 25


def test_a_video_whose_poses_cannot_be_found_is_deleted_too(translator, tmp_path):
    video = tmp_path / "talk.mp4"
    video.touch()
    page = Translator(translator, made_reader(VideoProblem("error_damaged")))
    with pytest.raises(VideoProblem):
        list(page.extract_poses(str(video), tmp_path / "made"))
    assert not video.exists() and not (tmp_path / "made").exists()


@pytest.fixture(scope="module")
def address(model, tmp_path_factory, forked_workers):
    with space_of_poses(model, tmp_path_factory.mktemp("page")) as address:
        yield address


@contextlib.contextmanager
def space_of_poses(model: Path, folder: Path, poses_of_video: Callable[[str], dict] | None = None) -> Iterator[str]:
    """The address of a Space in this process, which takes videos if it is given what finds the poses in them."""
    (folder / "examples").mkdir()
    pose_file(folder / "examples" / "example.npz", SENTENCE)
    (folder / "examples" / "example.mp4").touch()
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("GRADIO_ANALYTICS_ENABLED", "False")
        patch.setenv("GRADIO_TEMP_DIR", str(folder / "sent"))
        patch.setenv("EXAMPLES_FOLDER", str(folder / "examples"))
        import app

        translator = app.load_translator(str(model), None)
        if poses_of_video is not None:
            translator.takes_videos, translator.reader.poses_of_video = True, poses_of_video
        page = app.Page(translator, app.read_model_facts(str(model), None))
        examples = app.find_examples(page.reads_poses)
        assert [Path(path).name for path in examples] == ["example.npz"]
        demo = app.launch(page, examples, prevent_thread_lock=True, server_name="127.0.0.1", quiet=True)
        yield demo.local_url
        demo.close()
        translator.reader.close()


@pytest.mark.slow
def test_a_program_sends_poses(address, translator, tmp_path):
    client = Client(address, verbose=False)
    clip = pose_file(tmp_path / "clip.pose", LONG)
    answer = client.predict(handle_file(str(clip)), 0.4, 2.0, False, "en", api_name="/translate")
    assert answer["text"] == translator(str(clip), start=0.4, end=2.0)["translation_text"] != ""
    answer = client.predict(handle_file(str(clip)), 0, 0, True, "en", api_name="/translate")
    expected = [each["translation_text"] for each in translator.translate_long(str(clip))]
    assert [sentence["text"] for sentence in answer["sentences"]] == expected and len(expected) == 2
    assert answer["srt"].count("-->") == 2
    untimed = pose_file(tmp_path / "untimed.npz", SENTENCE, rate=None)
    with pytest.raises(AppError, match=TEXTS["de"]["error_no_times"][:30]):
        client.predict(handle_file(str(untimed)), 0, 0, False, "de", api_name="/translate")


@contextlib.contextmanager
def page_of_browser(address: str, *flags: str, **options) -> Iterator:
    playwright = pytest.importorskip("playwright.sync_api")
    chromium = next((path for path in ("/usr/bin/chromium", "/usr/bin/google-chrome") if os.path.exists(path)), None)
    if chromium is None:
        pytest.skip("there is no browser")
    with playwright.sync_playwright() as driver:
        browser = driver.chromium.launch(executable_path=chromium, args=["--no-sandbox", *flags])
        page = browser.new_page(**options)
        page.goto(address)
        yield page
        browser.close()


WAIT_FOR_SKELETON = "document.querySelector('#signed-video video')?.duration > 0"


@pytest.mark.slow
def test_a_visitor_sees_the_skeleton_and_its_captions(address, tmp_path):
    clip = pose_file(tmp_path / "clip.pose", LONG)
    with page_of_browser(address, viewport={"width": 390, "height": 800}, locale="de") as page:
        page.wait_for_selector(f"text={TEXTS['de']['poses_label']}", timeout=60_000)
        assert page.get_by_text(TEXTS["de"]["camera_heading"]).count() == 0  # no program here finds poses in videos
        page.set_input_files("input[type=file]", str(clip))
        page.wait_for_function(WAIT_FOR_SKELETON, timeout=60_000)
        video = page.locator("#signed-video video")
        assert video.evaluate("video => video.duration") == pytest.approx(6.2, abs=0.05)
        page.get_by_role("checkbox", name=TEXTS["de"]["long_label"]).check()
        page.get_by_role("button", name=TEXTS["de"]["translate_button"], exact=True).click()
        page.wait_for_function("document.querySelectorAll('.timeline button[data-seconds]').length > 1", timeout=60_000)
        page.wait_for_function("document.querySelector('#signed-video track.captions')", timeout=60_000)
        assert page.evaluate("document.documentElement.scrollWidth") <= 390


@pytest.mark.slow
@pytest.mark.usefixtures("forked_workers")
def test_the_poses_of_a_recording_are_translated_and_the_recording_is_deleted(model, tmp_path):
    texts, recorded = TEXTS["en"], []

    def poses_of_video(path: str) -> dict:
        with av.open(path) as container:
            recorded.append((Path(path), sum(1 for _ in container.decode(video=0))))
        return vars(made_poses(SENTENCE, extractor="made up 1.0"))

    flags = ("--use-fake-device-for-media-stream", "--use-fake-ui-for-media-stream")
    with space_of_poses(model, tmp_path, poses_of_video) as address, page_of_browser(address, *flags) as page:
        page.get_by_role("button", name=texts["camera_heading"]).click()
        page.get_by_role("button", name="Capture from camera").click()
        page.get_by_role("button", name="Click to Access Webcam").click()
        record = page.get_by_role("button", name="start recording")
        record.click()
        record.get_by_title("stop recording").wait_for(timeout=60_000)
        page.wait_for_timeout(2000)
        record.click()
        page.wait_for_function(WAIT_FOR_SKELETON, timeout=60_000)
        assert page.locator("#signed-video video").evaluate("video => video.duration") == pytest.approx(2.4, abs=0.05)
        page.get_by_role("button", name="Capture from camera").wait_for()  # ready for the next recording
        page.get_by_role("button", name=texts["translate_button"], exact=True).click()
        page.wait_for_function("document.querySelector('#signed-video track.captions')", timeout=60_000)
        if "FLALLM_SCREENSHOTS" in os.environ:
            page.screenshot(path=Path(os.environ["FLALLM_SCREENSHOTS"]) / "camera_for_poses.png", full_page=True)
    (path, num_frames), *others = recorded
    assert num_frames and not others
    assert not path.exists() and not list(tmp_path.rglob(f"*{path.suffix}"))
