"""Which uploads the Space deletes."""

import os
import time
from pathlib import Path

import pytest
from space_app import FOLDER  # makes the Space's modules known, too

# isort: split
import app
import decoding
import translating
import uploads

HOUR = 3600.0


def files_in(folder: Path) -> set[str]:
    return {str(path.relative_to(folder)) for path in folder.rglob("*") if not path.is_dir()}


@pytest.fixture
def folder(tmp_path) -> Path:
    """The folder as Gradio leaves it: complete uploads in their own folders, broken ones beside these."""
    for name in ("tmpbroken", "hash/clip.mp4", "hash/.clip.mp4.part", "deep_links/1/state.json", "example/clip.mp4"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_bytes(b"a face")
    (tmp_path / "hash" / "link").symlink_to("nowhere")
    return tmp_path


def sweep_after(monkeypatch, folder: Path, seconds: float) -> set[str]:
    """The files that are left after this many seconds."""
    now = time.time()
    with monkeypatch.context() as patch:
        patch.setattr(uploads.time, "time", lambda: now + seconds)
        kept = [str(folder / "example" / "clip.mp4")]
        uploads.delete_old_files(folder, app.SECONDS_UNTIL_FILES_ARE_DELETED, kept)
    return files_in(folder)


def test_everything_old_goes_but_what_belongs_to_the_page(folder, monkeypatch):
    everything = files_in(folder)
    assert sweep_after(monkeypatch, folder, 60) == everything
    assert sweep_after(monkeypatch, folder, 6 * 60) == everything - {"tmpbroken"}
    assert sweep_after(monkeypatch, folder, HOUR - 2 * uploads.SECONDS_BETWEEN_SWEEPS - 5) == everything - {"tmpbroken"}
    assert sweep_after(monkeypatch, folder, HOUR - uploads.SECONDS_BETWEEN_SWEEPS) == {"example/clip.mp4"}


def test_an_upload_that_goes_on_stays(folder, monkeypatch):
    path, now = folder / "tmpslow", time.time()
    path.write_bytes(b"begun")
    monkeypatch.setattr(uploads.time, "time", lambda: now + 200)
    uploads.delete_old_files(folder, HOUR)
    assert path.exists()


def test_a_file_that_cannot_be_deleted_stops_nothing(folder, monkeypatch, caplog):
    remove = os.remove

    def refuse(path):
        if path.endswith("state.json"):
            raise PermissionError("no")
        remove(path)

    monkeypatch.setattr(uploads.os, "remove", refuse)
    assert sweep_after(monkeypatch, folder, HOUR) == {"deep_links/1/state.json", "example/clip.mp4"}
    assert "state.json is old and cannot be deleted." in caplog.text


def test_what_an_earlier_process_left_goes_at_once(folder):
    uploads.keep_deleting(folder, -1.0, lambda: [])
    deadline = time.monotonic() + 10
    while files_in(folder) and time.monotonic() < deadline:
        time.sleep(0.05)
    assert files_in(folder) == set()


# The sentences about files in README.md of the Space; those on the page say the same in other words. With each, whether
# its numbers are those of the program, and the test that holds it.
PROMISES = {
    "| file | 300 MB |": (app.LARGEST_FILE_IN_MEGABYTES == 300, "test_a_file_that_is_too_large"),
    "| video | 30 minutes, 4096 x 2304 pixels; 60 seconds for one sentence |": (
        (decoding.LONGEST_VIDEO_IN_SECONDS, translating.LONGEST_SENTENCE_IN_SECONDS) == (30 * 60, 60)
        and (decoding.LARGEST_WIDTH_IN_PIXELS, decoding.LARGEST_HEIGHT_IN_PIXELS) == (4096, 2304),
        "test_a_video_too_long_for_one_sentence",
    ),
    "| time | 2 minutes to write one sentence, an hour for a long video |": (
        (translating.SECONDS_TO_WRITE_ONE_SENTENCE, translating.SECONDS_FOR_A_LONG_VIDEO) == (2 * 60, HOUR),
        "test_no_translation_goes_on_for_ever",
    ),
    "| waiting | 100 videos, 10 of them from one address |": (
        (app.MOST_WAITING, app.MOST_WAITING_OF_ONE_VISITOR) == (100, 10),
        "test_one_visitor_cannot_fill_the_queue",
    ),
    "| uploads | 10 at a time from one address; none while 20 GB wait to be deleted |": (
        (uploads.MOST_UPLOADS_OF_ONE_VISITOR, uploads.MOST_BYTES_OF_ALL_UPLOADS) == (10, 20e9),
        "test_uploads_have_limits_of_which_a_visitor_is_told",
    ),
    "uploaded files are deleted after 60 minutes at the latest": (
        app.MINUTES_UNTIL_FILES_ARE_DELETED == 60
        and app.SECONDS_UNTIL_FILES_ARE_DELETED + 2 * uploads.SECONDS_BETWEEN_SWEEPS <= HOUR,
        "test_nothing_that_was_sent_is_kept",
    ),
    "uploads that broke off after 6": (
        uploads.SECONDS_OF_A_BROKEN_UPLOAD + 2 * uploads.SECONDS_BETWEEN_SWEEPS <= 6 * 60,
        "test_an_upload_that_broke_off_is_deleted",
    ),
    "What an earlier process left is deleted at the start, by its age.": (
        True,
        "test_what_an_earlier_process_left_goes_at_once",
    ),
    "Only what was uploaded and the examples can be read": (
        True,
        "test_of_the_folder_with_examples_nothing_else_is_served",
    ),
    "addresses and paths are refused": (True, "test_only_what_was_uploaded_can_be_read"),
    "Each video is decoded in a separate process with limits of time and memory": (
        True,
        "test_killed_readers_are_replaced",
    ),
}


@pytest.mark.parametrize("promise", PROMISES)
def test_what_is_promised_about_files_is_so(promise):
    is_so, test = PROMISES[promise]
    assert is_so and promise in " ".join((FOLDER / "README.md").read_text(encoding="utf-8").split())
    tests = "\n".join(path.read_text(encoding="utf-8") for path in Path(__file__).parent.glob("test_space*.py"))
    assert f"def {test}(" in tests
