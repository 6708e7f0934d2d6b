"""The one list of video and picture files, which everything uses."""

import pytest

from processing.video_files_slt import PICTURE_SUFFIXES, VIDEO_SUFFIXES, is_picture_file, is_video_file
from train_scripts.corpora.corpus_files import FilesBelow


@pytest.mark.parametrize("suffix", sorted(VIDEO_SUFFIXES))
def test_videos_in_any_letter_case(suffix):
    assert is_video_file(f"folder.d/clip{suffix}") and is_video_file(f"CLIP{suffix.upper()}")
    assert not is_picture_file(f"clip{suffix}")


@pytest.mark.parametrize("suffix", PICTURE_SUFFIXES)
def test_pictures_in_any_letter_case(suffix):
    assert is_picture_file(f"frame{suffix}") and is_picture_file(f"FRAME{suffix.upper()}")
    assert not is_video_file(f"frame{suffix}")


@pytest.mark.parametrize("name", ["._clip.mp4", ".clip.mp4", "__MACOSX/clip.mp4", "clip", "mp4", ".mp4", "clip.mp4.gz"])
def test_hidden_and_other_files_are_no_videos(name):
    assert not is_video_file(name)
    assert not is_picture_file(name.replace("mp4", "png"))


def test_a_ts_file_is_a_video_unless_it_holds_text(tmp_path):
    content = {"index.ts": b"export const a = 1;\n", "tape.TS": b"G@\x00\x10" + bytes(184), "empty.ts": b""}
    for name, text in content.items():
        (tmp_path / name).write_bytes(text)
    assert [name for name in content if is_video_file(tmp_path / name)] == ["tape.TS", "empty.ts"]
    assert is_video_file(tmp_path / "not_there.ts")


def test_raw_corpora_find_every_kind_of_video_and_nothing_of_macos(tmp_path):
    for name in ("a.MTS", "b.wmv", "._b.wmv", "notes.txt", "__MACOSX/c.mp4"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_bytes(b"\0")
    assert sorted(path.name for path in FilesBelow(tmp_path).clips()) == ["a.MTS", "b.wmv"]
