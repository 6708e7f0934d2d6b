"""Every writer leaves the old content or the new one: full disks, kills, links, permissions."""

import errno
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from train_scripts.machine import atomic_files
from train_scripts.machine.atomic_files import (
    holds_something,
    open_atomic,
    unfinished_folder,
    write_bytes,
    write_csv,
    write_folder,
    write_json,
    write_json_lines,
    write_text,
)

ROOT = Path(__file__).resolve().parent.parent


def everything_in(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


@pytest.mark.parametrize(
    ("write", "content"),
    [
        (lambda path: write_text(path, "für\nalle\n"), "für\nalle\n".encode()),
        (lambda path: write_text(path, "für\n", newline="\r\n"), "für\r\n".encode()),
        (lambda path: write_text(path, "a\r\nb\n", newline=""), b"a\r\nb\n"),
        (lambda path: write_bytes(path, b"\x00\r\n"), b"\x00\r\n"),
        (lambda path: write_json(path, {"ü": [1]}), '{\n  "ü": [\n    1\n  ]\n}\n'.encode()),
        (lambda path: write_json(path, {"ü": 1}, ensure_ascii=True, indent=None), b'{"\\u00fc": 1}\n'),
        (lambda path: write_json_lines(path, [{"a": "ü"}, {"a": None}]), '{"a": "ü"}\n{"a": null}\n'.encode()),
        (lambda path: write_csv(path, ["a", "b"], [{"a": 'x,"', "b": 1}, {"a": "ü"}]), 'a,b\n"x,""",1\nü,\n'.encode()),
    ],
)
def test_the_content_takes_the_place_of_the_old_one(tmp_path, write, content):
    path = tmp_path / "file"
    write(path)
    assert path.read_bytes() == content
    path.write_bytes(b"old")
    write(path)
    assert path.read_bytes() == content
    assert everything_in(tmp_path) == ["file"]


def test_an_error_while_writing_leaves_the_old_file_and_nothing_else(tmp_path):
    path = tmp_path / "README.md"
    path.write_text("by hand")
    with pytest.raises(ZeroDivisionError), open_atomic(path) as file:
        file.write("half")
        file.flush()
        raise ZeroDivisionError
    assert path.read_text() == "by hand"
    assert everything_in(tmp_path) == ["README.md"]


def test_a_full_disk_leaves_the_old_file_and_is_reported_with_its_name(tmp_path, monkeypatch):
    path = tmp_path / "README.md"
    path.write_text("by hand")

    def full(descriptor):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(atomic_files.os, "fsync", full)
    message = f"[Errno {errno.ENOSPC}] No space left on device: '{path}'"
    with pytest.raises(OSError, match=f"^{re.escape(message)}$"):
        write_text(path, "new")
    assert path.read_text() == "by hand"
    assert everything_in(tmp_path) == ["README.md"]


def test_a_folder_that_is_not_there_is_reported_by_the_name_of_the_file(tmp_path):
    path = tmp_path / "missing" / "scores.json"
    with pytest.raises(FileNotFoundError, match=re.escape(f"No such file or directory: '{path}'")):
        write_json(path, {})


@pytest.mark.skipif(os.name != "posix", reason="needs POSIX permissions")
def test_permissions_stay_and_new_files_get_those_of_the_umask(tmp_path):
    (tmp_path / "old").write_text("")
    (tmp_path / "old").chmod(0o640)
    umask = os.umask(0o027)
    try:
        write_text(tmp_path / "old", "new")
        write_text(tmp_path / "new", "new")
    finally:
        os.umask(umask)
    assert (tmp_path / "old").stat().st_mode & 0o777 == 0o640
    assert (tmp_path / "new").stat().st_mode & 0o777 == 0o640


@pytest.mark.skipif(os.name != "posix", reason="needs links")
def test_what_a_link_names_is_written_and_the_link_stays(tmp_path):
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "elsewhere" / "card.md").write_text("old")
    (tmp_path / "README.md").symlink_to(tmp_path / "elsewhere" / "card.md")
    write_text(tmp_path / "README.md", "new")
    assert (tmp_path / "README.md").is_symlink()
    assert (tmp_path / "elsewhere" / "card.md").read_text() == "new"


@pytest.mark.skipif(not Path("/dev/null").exists(), reason="needs /dev/null")
def test_what_is_no_regular_file_is_written_in_place():
    write_text("/dev/null", "nothing")
    assert not Path("/dev/null").is_file()


def test_a_name_of_255_bytes_can_be_written(tmp_path):
    path = tmp_path / ("x" * 255)
    write_text(path, "new")
    assert path.read_text() == "new"


def test_a_folder_is_whole_or_not_there(tmp_path):
    folder = tmp_path / "below" / "model"

    def fill(unfinished):
        (unfinished / "config.json").write_text("{}")
        assert not folder.exists()
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        write_folder(folder, fill)
    assert everything_in(tmp_path / "below") == []
    write_folder(folder, lambda unfinished: write_text(unfinished / "config.json", "{}"))
    assert everything_in(folder) == ["config.json"]


def test_leavings_of_a_killed_run_are_no_obstacle(tmp_path):
    folder = tmp_path / "model"
    unfinished_folder(folder).mkdir()
    (unfinished_folder(folder) / "half.safetensors").write_text("half a model")
    write_folder(folder, lambda unfinished: write_text(unfinished / "config.json", "{}"))
    assert everything_in(folder) == ["config.json"]
    assert everything_in(tmp_path) == ["model"]


def test_an_empty_folder_stays_the_folder_that_it_is(tmp_path):
    """It may be a mounted disk, somebody's working directory, or one with other permissions."""
    folder = tmp_path / "model"
    folder.mkdir(mode=0o750)
    (folder / ".flallm-0123.partial").write_text("half a file")
    (folder / ".flallm-4567.partial").mkdir()
    before = folder.stat()

    def fill(unfinished):
        assert unfinished.is_relative_to(folder)
        write_text(unfinished / "config.json", "{}")

    write_folder(folder, fill)
    assert everything_in(folder) == ["config.json"]
    assert (folder.stat().st_ino, folder.stat().st_mode) == (before.st_ino, before.st_mode)


def test_a_run_that_was_killed_while_it_filled_an_empty_folder(tmp_path):
    folder = tmp_path / "corpus"
    (folder / "train").mkdir(parents=True)
    (folder / "train" / "old.mp4").touch()
    (folder / ".flallm-folder.partial").mkdir()
    (folder / "mine.txt").write_text("put there since")
    assert not holds_something(folder)

    def fill(unfinished):
        (unfinished / "train").mkdir()
        write_text(unfinished / "train" / "new.mp4", "")

    write_folder(folder, fill)
    assert everything_in(folder) == ["mine.txt", "train"] and everything_in(folder / "train") == ["new.mp4"]
    assert holds_something(folder)


def test_a_folder_that_holds_something_is_not_replaced(tmp_path):
    (tmp_path / "model").mkdir()
    (tmp_path / "model" / "thesis.txt").write_text("years of work")
    message = f"{tmp_path / 'model'} must be a new or empty folder, but it is not empty."
    with pytest.raises(ValueError, match=re.escape(message)):
        write_folder(tmp_path / "model", lambda unfinished: None)
    assert everything_in(tmp_path) == ["model"]
    assert (tmp_path / "model" / "thesis.txt").read_text() == "years of work"


@pytest.mark.skipif(not hasattr(signal, "SIGKILL"), reason="needs SIGKILL")
def test_a_kill_at_any_time_leaves_whole_files(tmp_path):
    path = tmp_path / "README.md"
    path.write_text("0" * 100_000)
    code = (
        "import itertools, sys\n"
        "from train_scripts.machine.atomic_files import write_text\n"
        "for number in itertools.count():\n"
        "    write_text(sys.argv[1], str(number % 10) * 100_000)\n"
        "    print(flush=True)\n"
    )
    for milliseconds in (0, 3, 7):
        process = subprocess.Popen([sys.executable, "-c", code, str(path)], cwd=ROOT, stdout=subprocess.PIPE)
        process.stdout.readline()
        time.sleep(milliseconds / 1000)
        process.kill()
        process.communicate()
        content = path.read_text()
        assert len(content) == 100_000 and len(set(content)) == 1


def test_no_file_of_ours_is_written_any_other_way():
    """
    Except lists that grow as videos are finished, whose last line may be torn, and what the Space makes for one visitor
    in a new folder, whose path nobody has before it is whole.
    """
    direct = re.compile(r"""\.write_text\(|\.write_bytes\(|open\([^)\n]*["'][wax][+b]*["']""")
    found = [
        f"{path.name}: {line.strip()}"
        for folder in ("train_scripts", "spaces_demo")
        for path in sorted((ROOT / folder).rglob("*.py"))
        for line in path.read_text(encoding="utf-8").splitlines()
        if direct.search(line) and path.name != "atomic_files.py"
    ]
    assert found == [
        'kept_lines.py: with path.open("a+b") as file:',
        "app.py: film.write_bytes(content)",
        'films.py: with av.open(content, "w", format="mp4") as container:',
        'translating.py: with poses.open("wb") as file:',
    ]
