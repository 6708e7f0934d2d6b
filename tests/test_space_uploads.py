"""What the Space deletes of what it was sent."""

import os
import time
from pathlib import Path

import pytest
from space_app import FOLDER  # makes the Space's modules known, too

# isort: split
import app
import uploads

assert FOLDER.is_dir()
HOUR = 3600.0


def files_in(folder: Path) -> set[str]:
    return {str(path.relative_to(folder)) for path in folder.rglob("*") if not path.is_dir()}


@pytest.fixture
def folder(tmp_path) -> Path:
    """As Gradio leaves it: whole uploads in folders of their own, beside these what broke off."""
    for name in ("tmpbroken", "hash/clip.mp4", "hash/.clip.mp4.part", "deep_links/1/state.json", "example/clip.mp4"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_bytes(b"a face")
    (tmp_path / "hash" / "link").symlink_to("nowhere")
    return tmp_path


def sweep_after(monkeypatch, folder: Path, seconds: float) -> set[str]:
    """What is left so many seconds later."""
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


def test_the_page_promises_what_is_done():
    assert app.SECONDS_UNTIL_FILES_ARE_DELETED + 2 * uploads.SECONDS_BETWEEN_SWEEPS <= HOUR
    assert app.MINUTES_UNTIL_FILES_ARE_DELETED == 60
