"""Lists that grow as work is finished: torn lines, changed settings, and a fresh start."""

import re

import pytest

from train_scripts.machine.kept_lines import KeptLines, append_lines, read_lines, state_of_file


@pytest.mark.parametrize("torn", [b'{"file": "clip', b"\xff\xfe", b'\n{"a"', b""])
def test_a_torn_line_counts_for_nothing_and_costs_no_other(tmp_path, torn):
    path = tmp_path / "lines.jsonl"
    append_lines(path, [1, {"file": "a\udcff.mp4"}])
    with path.open("ab") as file:
        file.write(torn)
    append_lines(path, ["after", [2]])
    assert list(read_lines(path)) == [1, {"file": "a\udcff.mp4"}, "after", [2]]
    assert path.read_bytes().endswith(b"\n")


def test_the_file_begins_with_its_first_line_and_is_gone_on_with(tmp_path):
    path = tmp_path / "folder" / "lines.jsonl"
    kept = KeptLines(path, {"model": "a"}, "results")
    assert kept.lines == [] and not path.parent.exists()
    kept.append({"row": 1}, {"row": 2})
    again = KeptLines(path, {"model": "a"}, "results")
    assert again.lines == [{"row": 1}, {"row": 2}] and again.changed_settings() == {}
    again.append({"row": 3})
    assert KeptLines(path, {}, "results").lines[-1] == {"row": 3}
    again.delete()
    again.delete()
    assert not path.exists()


def test_changed_settings_are_those_that_came_went_or_differ(tmp_path):
    path = tmp_path / "lines.jsonl"
    KeptLines(path, {"same": (1, 2), "other": 1, "gone": True}, "results").append(0)
    kept = KeptLines(path, {"same": [1, 2], "other": 2, "new": "x"}, "results")
    assert kept.changed_settings() == {"other": (1, 2), "new": (None, "x"), "gone": (True, None)}
    kept.forget()
    kept.append("anew")
    assert KeptLines(path, {"same": [1, 2], "other": 2, "new": "x"}, "results").changed_settings() == {}
    assert list(read_lines(path))[1:] == ["anew"]


@pytest.mark.parametrize("content", [b"", b"\n1\n", b"[1]\n", b'{"settings": 3}\n', b'{"setti', b"\xff\n"])
def test_settings_that_cannot_be_read_are_named(tmp_path, content):
    path = tmp_path / "lines.jsonl"
    path.write_bytes(content)
    with pytest.raises(ValueError, match=re.escape(f"{path} cannot be read as results. Delete it to start over.")):
        KeptLines(path, {}, "results")


def test_the_state_of_a_file_changes_with_it(tmp_path):
    path = tmp_path / "clip.mp4"
    assert state_of_file(path) is None
    path.write_bytes(b"1")
    before = state_of_file(path)
    path.write_bytes(b"12")
    assert before is not None and state_of_file(path) != before
