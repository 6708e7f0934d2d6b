"""`flallm prepare`: its output, its report of missing files, and kills."""

import contextlib
import csv
import errno
import itertools
import json
import os
import random
import re
import shutil
import signal
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path

import av
import datasets
import numpy as np
import pytest
import raw_corpora
import yaml
from filelock import FileLock
from mini_hub import MiniHub, connect
from PIL import Image
from pool_tasks import EndsItsProcess
from prepared_folders import problems_of, report_of, rows_of
from tiny_corpus import error_of, flags, stage1_flags
from video_files import counting_frames, cut, frame_numbers, write_audio, write_video

from modeling_flallm.own_processing import VideoDecodingError, decode_video
from train_scripts.arguments.data_arguments import DataArguments
from train_scripts.clips.splits import load_split
from train_scripts.commands import evaluate_model, prepare_dataset
from train_scripts.commands.prepare_dataset import main
from train_scripts.corpora import planned_videos, video_encoding
from train_scripts.corpora.corpus_schema import COLUMNS, SPLITS, Problem, RawClip, RawCorpus
from train_scripts.corpora.planned_videos import plan_tasks
from train_scripts.corpora.prepared_videos import VideoTask, run_tasks
from train_scripts.corpora.video_encoding import encode_pictures, list_pictures, measure_video
from train_scripts.machine.process_pool import MOST_WORKERS
from train_scripts.stages import visual_initialing

pytestmark = pytest.mark.usefixtures("one_worker_is_this_process")

ROOT = Path(__file__).resolve().parent.parent
LONG_VIDEO_IN_SECONDS = 3600
NUM_SEGMENTS = 300
MOST_EXTRA_MEMORY_IN_MIB = 40


@pytest.fixture
def source(tmp_path) -> Path:
    (tmp_path / "raw").mkdir()
    return tmp_path / "raw"


@pytest.fixture
def prepare(tmp_path, monkeypatch):
    """-> the exit status, for a corpus that a test has assembled"""

    def prepare(clips: list[RawClip], output: str = "prepared", problems=(), **values) -> int:
        corpus = RawCorpus(list(clips), list(problems), "gsg", "de", 25.0, {"train": 5, "test": 2})
        monkeypatch.setattr(prepare_dataset, "read_corpus", lambda *_: corpus)
        return main(command(tmp_path / "raw", tmp_path / output, **values))

    return prepare


def command(source: Path, output_dir: Path, **values) -> list[str]:
    return flags(**{"corpus": "table", "source": source, "output_dir": output_dir, "num_workers": 1, **values})


def smooth_frames(num_frames: int, height: int, width: int) -> np.ndarray:
    """Random colour gradients that move: content in which a wrong or broken frame shows. uint8 (n, height, width, 3)"""
    rows, columns, times = np.meshgrid(
        np.linspace(0, 3, height), np.linspace(0, 3, width), np.arange(num_frames) / 5, indexing="ij"
    )
    phases = np.random.uniform(0, 6, 3)
    channels = [128 + 90 * np.sin(rows + columns * (1 + phase) / 3 + times + phase) for phase in phases]
    return np.stack(channels, axis=-1).transpose(2, 0, 1, 3).astype(np.uint8)


def pictures(folder: Path, frames: np.ndarray, suffix: str = "png") -> Path:
    folder.mkdir(parents=True)
    for index, frame in enumerate(frames, 1):
        Image.fromarray(frame).save(folder / f"images{index:04}.{suffix}")
    return folder


def video(path: Path, num_frames: int = 8, **values) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    return write_video(path, counting_frames(num_frames), **values)


def clip(name: str, path: Path, split: str = "train", text: str = "es regnet", **values) -> RawClip:
    return RawClip(name=name, split=split, text=text, video=path, **values)


def snapshot(folder: Path, without: str | None = None) -> dict[str, bytes | str | None]:
    """Everything in a folder: content of files, targets of links."""
    found: dict[str, bytes | str | None] = {}
    for parent, folders, files in os.walk(folder):
        if without in folders:
            folders.remove(without)
        for name in folders + files:
            path = Path(parent, name)
            is_file = not path.is_symlink() and path.is_file()
            found[str(path)] = path.read_bytes() if is_file else os.readlink(path) if path.is_symlink() else None
    return found


# Encoding


@pytest.mark.parametrize("size", [(48, 64), (47, 65), (16, 17), (260, 210)])
def test_pictures_become_exactly_their_frames(tmp_path, size):
    frames = smooth_frames(random.randint(2, 12), *size)
    folder = pictures(tmp_path / "frames", frames)
    rate = random.choice([25.0, 30.0, 50.0, 29.97])
    length = encode_pictures(list_pictures(folder), tmp_path / "clip.mp4", rate, quality=18)
    decoded = decode_video(tmp_path / "clip.mp4")
    assert decoded.num_source_frames == len(frames) == length.num_frames == len(decoded.frames)
    assert tuple(decoded.frames.shape[2:]) == size
    assert decoded.fps == pytest.approx(rate, rel=1e-3)
    assert length.duration_in_seconds == pytest.approx(len(frames) / rate, rel=1e-3)
    assert measure_video(tmp_path / "clip.mp4") == length
    differences = np.abs(decoded.frames.permute(0, 2, 3, 1).numpy().astype(int) - frames)
    assert differences.mean(axis=(1, 2, 3)).max() < 6


def test_higher_quality_is_closer_and_larger(tmp_path):
    frames = np.random.randint(0, 256, (4, 32, 32, 3)).astype(np.uint8)
    folder = pictures(tmp_path / "frames", frames.repeat(4, axis=1).repeat(4, axis=2))
    sizes, errors = [], []
    for quality in (0, 18, 35):
        path = tmp_path / f"{quality}.mp4"
        encode_pictures(list_pictures(folder), path, 25, quality)
        decoded = decode_video(path).frames.permute(0, 2, 3, 1).numpy().astype(int)
        sizes.append(path.stat().st_size)
        errors.append(np.abs(decoded - frames.repeat(4, axis=1).repeat(4, axis=2)).mean())
    assert sizes == sorted(sizes, reverse=True) and errors == sorted(errors)


def test_pictures_are_ordered_by_their_numbers(tmp_path):
    frames = counting_frames(12)
    (tmp_path / "frames").mkdir()
    for index, frame in enumerate(frames):
        Image.fromarray(frame).save(tmp_path / "frames" / f"frame{index + 1}.png")
    encode_pictures(list_pictures(tmp_path / "frames"), tmp_path / "clip.mp4", 25, 18)
    assert frame_numbers(decode_video(tmp_path / "clip.mp4").frames, 12) == list(range(12))


def test_an_encoded_video_that_differs_is_not_taken(tmp_path, monkeypatch):
    folder = pictures(tmp_path / "frames", counting_frames(5))
    original = video_encoding._mean_colours
    calls = itertools.count()
    monkeypatch.setattr(
        video_encoding, "_mean_colours", lambda frame: original(frame) if next(calls) < 5 else 255 - original(frame)
    )
    with pytest.raises(VideoDecodingError, match=r"^Frame \d of the encoded video differs from its picture by \d+ of"):
        encode_pictures(list_pictures(folder), tmp_path / "clip.mp4", 25, 18)


# The folder that comes out


def test_one_schema_that_training_and_datasets_load(prepare, source, tmp_path, capsys):
    clips = [
        clip("a", pictures(source / "a", smooth_frames(7, 32, 40)), signer="Signer01", gloss="REGEN"),
        clip("b", video(source / "b.mp4", 9), text='er sagt: "nein, NA", 7', signer="Signer02", gloss="NEIN"),
        clip("c", video(source / "c.webm", 6), "validation", signer="Signer01", gloss="WIND"),
        clip("d", video(source / "d.mov", 5), "test", signer="Signer03", gloss="WIND"),
    ]
    assert prepare(clips) == 0
    folder = tmp_path / "prepared"
    row, other = rows_of(folder)
    assert tuple(row) == COLUMNS
    assert row == {
        "file_name": "a.mp4",
        "text": "es regnet",
        "start": "",
        "end": "",
        "name": "a",
        "signer": "Signer01",
        "gloss": "REGEN",
        "sign_language": "gsg",
        "spoken_language": "de",
        "duration_in_seconds": "0.28",
        "num_frames": "7",
    }
    assert other["text"] == 'er sagt: "nein, NA", 7' and other["num_frames"] == "9"
    loaded = datasets.load_dataset("videofolder", data_dir=str(folder))
    assert set(loaded) == set(SPLITS)
    for split in SPLITS:
        ours = load_split(DataArguments(dataset=str(folder)), split)
        theirs = loaded[split].cast_column("video", datasets.Video(decode=False))
        assert ours["text"] == list(theirs["text"]) == [c.text for c in clips if c.split == split]
        assert [int(number) for number in ours["num_frames"]] == list(theirs["num_frames"])
        for video_of_ours, video_of_theirs in zip(ours["video"], theirs["video"], strict=True):
            assert os.path.samefile(video_of_ours["path"], video_of_theirs["path"])
    card = yaml.safe_load((folder / "README.md").read_text(encoding="utf-8").split("---")[1])
    assert card == {"language": ["de"], "tags": ["sign-language-translation", "gsg", "video"]}
    assert (folder / "report.txt").read_text() in capsys.readouterr().out


def test_whole_videos_are_linked_and_never_written_to(prepare, source, tmp_path):
    path = video(source / "b.mp4")
    before = snapshot(source)
    assert prepare([clip("b", path)]) == 0
    assert os.path.samefile(path, tmp_path / "prepared" / "train" / "b.mp4")
    assert report_of(tmp_path / "prepared")["videos"] == {"linked": 1}
    assert "replace them, never edit them" in (tmp_path / "prepared" / "report.txt").read_text()
    assert prepare([clip("b", path)]) == 0
    shutil.rmtree(tmp_path / "prepared")
    assert snapshot(source) == before


def test_videos_are_copied_where_they_cannot_be_linked(prepare, source, tmp_path, monkeypatch):
    def refuse(*_):
        raise OSError("Invalid cross-device link")

    monkeypatch.setattr(os, "link", refuse)
    path = video(source / "b.mp4")
    assert prepare([clip("b", path)]) == 0
    copied = tmp_path / "prepared" / "train" / "b.mp4"
    assert copied.read_bytes() == path.read_bytes() and not os.path.samefile(path, copied)
    assert report_of(tmp_path / "prepared")["videos"] == {"copied": 1}


def test_parts_of_a_long_video_share_its_file(prepare, source, tmp_path):
    path = video(source / "long.mp4", 100)
    parts = [(0.0, 0.8), (0.8, 2.0), (1.0, 4.0), (3.6, None)]
    clips = [clip(f"part {k}", path, start=start, end=end) for k, (start, end) in enumerate(parts)]
    clips += [clip("beyond", path, start=9.0, end=10.0), clip("late", path, start=3.0, end=6.0)]
    clips += [clip("backwards", path, start=2.0, end=1.0), clip("no number", path, start=float("nan"), end=1.0)]
    assert prepare(clips) == 1
    folder = tmp_path / "prepared"
    rows = rows_of(folder)
    assert [path.name for path in (folder / "train").iterdir() if path.suffix == ".mp4"] == ["long.mp4"]
    assert {row["file_name"] for row in rows} == {"long.mp4"}
    assert load_split(DataArguments(dataset=str(folder)), "train").num_rows == len(rows)
    assert datasets.load_dataset("videofolder", data_dir=str(folder))["train"].num_rows == len(rows)
    assert [(row["start"], row["end"], row["num_frames"]) for row in rows] == [
        ("0.0", "0.8", "20"),
        ("0.8", "2.0", "30"),
        ("1.0", "4.0", "75"),
        ("3.6", "", "10"),
        ("3.0", "6.0", "25"),
    ]
    problems = problems_of(folder)
    assert problems.keys() == {"beyond", "late", "backwards", "no number"}
    assert "`start`=9 seconds lies beyond the end" in problems["beyond"]
    assert problems["late"] == "is kept, but the video ends 2.00 seconds before the clip does."
    assert "`start` must lie before `end`, got start=2.0 and end=1.0 seconds." in problems["backwards"]


# The report


def test_every_clip_is_a_row_or_a_problem(prepare, source, tmp_path, capsys):
    whole = video(source / "whole.mp4")
    (source / "empty").mkdir()
    (source / "nothing.mp4").touch()
    (source / "text.mp4").write_text("not a video")
    broken = pictures(source / "broken", counting_frames(4))
    (broken / "images0002.png").write_bytes((broken / "images0001.png").read_bytes()[:60])
    sizes = pictures(source / "sizes", counting_frames(4))
    Image.fromarray(counting_frames(1, 20, 20)[0]).save(sizes / "images0003.png")
    hole = pictures(source / "hole", counting_frames(4))
    (hole / "images0005.png").symlink_to(source / "not there.png")
    os.mkfifo(source / "pipe.mp4")
    faults = {
        "missing": (source / "missing.mp4", "There is no video file"),
        "empty": (source / "empty", "holds no frames: expected pictures"),
        "nothing": (source / "nothing.mp4", "is empty (0 bytes). Copy, download or record it again."),
        "text": (source / "text.mp4", "is not a video that can be read"),
        "audio": (write_audio(source / "audio.mp4"), "has no video track (only: audio)"),
        "cut": (
            cut(video(source / "long.mp4", 60, movflags="faststart"), 0.7, source / "cut.mp4"),
            "damaged or cut off",
        ),
        "broken": (broken, "is not a readable picture"),
        "sizes": (sizes, "All frames of a video must have the same size"),
        "hole": (hole, "is not a file, or is a broken link"),
        "pipe": (source / "pipe.mp4", "is neither a file nor a folder."),
        "nul\0": (source / "nul\0.mp4", "null"),  # Python 3.13 says "character", others "byte"
        "long": (source / f"{'n' * 300}.mp4", "File name too long"),
    }
    clips = [clip(name, path) for name, (path, _) in faults.items()] + [
        clip("whole", whole),
        clip("again", whole),
        clip("silent", video(source / "silent.mp4"), text=" \n"),
        clip("bytes", video(source / "bytes.mp4"), text="caf\udce9"),
        clip("nul", video(source / "nul.mp4"), text="a\0b"),
        clip("elsewhere", video(source / "elsewhere.mp4"), split="extra"),
        clip("tested", video(source / "tested.mp4"), split="test"),
    ]
    assert prepare(clips, problems=[Problem("clips.csv line 7", "has two values too many.")]) == 1
    folder = tmp_path / "prepared"
    expected = {name.replace("\0", "\\x00"): text for name, (_, text) in faults.items()} | {
        "again": "is listed twice: an earlier line names the same video and the same part of it.",
        "silent": "has no sentence.",
        "bytes": "the sentence contains NUL bytes or bytes that are not UTF-8 text.",
        "nul": "the sentence contains NUL bytes or bytes that are not UTF-8 text.",
        "elsewhere": "the split must be one of train, validation, test, got 'extra'.",
        "clips.csv line 7": "has two values too many.",
    }
    problems = problems_of(folder)
    assert problems.keys() == expected.keys()
    for name, text in expected.items():
        assert text in problems[name] and str(tmp_path) not in problems[name], name
    assert [row["name"] for row in rows_of(folder)] == ["whole"]
    assert not (folder / "validation").exists()
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == f"table from {source}" and lines[1] == "German Sign Language -> German"
    left_out = len(faults) + 4
    read = left_out + 1
    why = "could be read than the corpus's paper counts; its files have 1 problem(s), listed below"
    left = f"{left_out} left out for the reasons below"
    assert f"train                5{read:>10}         1   {read - 5} more {why}; {left}" in lines
    assert f"test                 2         1         1   1 fewer {why}" in lines
    assert f"{len(expected)} problem(s):" in lines
    assert sorted(path.name for path in (folder / "train").iterdir()) == ["metadata.csv", "whole.mp4"]


def test_a_full_disk_ends_the_run(prepare, source, tmp_path, monkeypatch, capsys):
    def refuse(*_):
        raise OSError(errno.ENOSPC, "No space left on device")

    clips = [clip(name, video(source / f"{name}.mp4")) for name in "ab"]
    monkeypatch.setattr(shutil, "copyfile", refuse)
    monkeypatch.setattr(os, "link", refuse)
    assert prepare(clips) == 2
    assert capsys.readouterr().err.endswith(
        "error: [Errno 28] No space left on device. The disk is full: make room and run the same command again.\n"
    )
    monkeypatch.undo()
    assert not (tmp_path / "prepared" / "report.txt").exists()


def test_options_of_the_table_reach_its_reader(tmp_path):
    source = raw_corpora.make_table(tmp_path / "raw", {"train": 2, "test": 1})
    table = source / "clips.csv"
    table.write_text(table.read_text().replace("text", "Satz", 1))
    (source / "notes.csv").write_text("anything\n")
    (tmp_path / "videos").mkdir()
    for folder in sorted(source.glob("signer*")):
        shutil.move(folder, tmp_path / "videos")
    argv = command(
        source,
        tmp_path / "prepared",
        table=table,
        columns=["text=Satz"],
        videos=tmp_path / "videos",
        sign_language="ise",
    )
    assert main(argv) == 0
    rows = rows_of(tmp_path / "prepared") + rows_of(tmp_path / "prepared", "test")
    assert len(rows) == 3 and all(row["text"] for row in rows)
    assert {(row["sign_language"], row["spoken_language"]) for row in rows} == {("ise", "")}


def test_subtitles_and_elan_become_clips(source, tmp_path):
    video(source / "train" / "talk.mp4", 50)
    srt = "1\n00:00:00,500 --> 00:00:01,000\n- <b>Hello</b>.\n\n2\n00:00:01,000 --> 00:00:01,500\n=How?\n"
    (source / "train" / "talk.srt").write_text(srt, encoding="utf-8")
    folder = tmp_path / "prepared"
    assert main(command(source, folder, sign_language="ase")) == 0
    assert [(row["text"], row["start"], row["end"]) for row in rows_of(folder)] == [
        ("- Hello.", "0.5", "1.0"),
        ("=How?", "1.0", "1.5"),
    ]
    assert [row["text"] for row in load_split(DataArguments(dataset=str(folder)), "train")] == ["- Hello.", "=How?"]
    note = (
        "2 cell(s) of metadata.csv begin with =, +, - or @, which spreadsheet programs take for formulas: import these "
        "columns as text"
    )
    assert report_of(folder)["notes"] == [note]
    assert (folder / "report.txt").read_text(encoding="utf-8").endswith(f"\n0 problem(s).\n\nNotes:\n  {note}\n")
    slots = "".join(f'<TIME_SLOT TIME_SLOT_ID="t{time}" TIME_VALUE="{time}"/>' for time in (0, 400, 900))
    tier = (
        '<TIER TIER_ID="{}"><ANNOTATION><ALIGNABLE_ANNOTATION TIME_SLOT_REF1="t{}" TIME_SLOT_REF2="t{}">'
        "<ANNOTATION_VALUE>{}</ANNOTATION_VALUE></ALIGNABLE_ANNOTATION></ANNOTATION></TIER>"
    )
    tiers = tier.format("gloss", 0, 400, "HELLO") + tier.format("text", 400, 900, "Hello.")
    document = f"<ANNOTATION_DOCUMENT><TIME_ORDER>{slots}</TIME_ORDER>{tiers}</ANNOTATION_DOCUMENT>"
    (source / "train" / "talk.eaf").write_text(document, encoding="utf-8")
    options = {"table": source / "train" / "talk.eaf", "tier": "Text"}
    assert main(command(source, tmp_path / "elan", **options)) == 0
    assert [(row["text"], row["start"], row["end"]) for row in rows_of(tmp_path / "elan")] == [("Hello.", "0.4", "0.9")]
    assert report_of(tmp_path / "elan")["notes"] == ["unused tiers: 'gloss'"]


def test_what_is_not_understood_ends_the_command_and_writes_nothing(source, tmp_path, capsys):
    video(source / "a.mp4")
    cases = {
        "file,text,Split\na.mp4,x,sunday\n": "The split of a clip must be one of dev, devel, development, test, "
        "testing, train, training, val, valid, validation, got 'sunday' (clips.csv, line 2). Correct the column, so "
        "that no clip ends up in the wrong split.",
        "file,text,start_ms\na.mp4,x,1\n": f"{source}/clips.csv has a column 'start_ms', which is not recognised and "
        "may be the start of each clip. If it is, rename it to start (seconds from the beginning of the video); "
        "otherwise remove it from the file.",
    }
    for content, text in cases.items():
        (source / "clips.csv").write_text(content)
        assert error_of(main, command(source, tmp_path / "new"), capsys) == text
    text = "--columns must name each of our columns once, got text=a text=b."
    assert error_of(main, command(source, tmp_path / "new", columns=["text=a", "text=b"]), capsys) == text
    assert not (tmp_path / "new").exists()
    (source / "clips.csv").write_text("file,a=b,Split,Comment\na.mp4,x,Test,y\n")
    assert main(command(source, tmp_path / "new", columns=["text=a=b"])) == 0
    assert [row["text"] for row in rows_of(tmp_path / "new", "test")] == ["x"]
    assert "clips.csv has unused columns: Comment" in capsys.readouterr().out


def test_a_start_beyond_all_videos_is_a_problem(source, tmp_path):
    video(source / "a.mp4")
    (source / "clips.csv").write_text("file,text,start\na.mp4,x,1e18\na.mp4,y,9999999\na.mp4,z,0\n")
    assert main(command(source, tmp_path / "prepared")) == 1
    assert [row["text"] for row in rows_of(tmp_path / "prepared")] == ["z"]
    problems = problems_of(tmp_path / "prepared")
    assert problems["clips.csv, line 2"] == "start must be at most 10,000,000 seconds, got '1e18'"
    assert len(problems) == 2 and "OverflowError" not in str(problems)


def test_nothing_at_all_is_reported_too(prepare, tmp_path, source):
    assert prepare([], problems=[Problem("clips.csv", "is empty.")]) == 1
    assert {path.name for path in (tmp_path / "prepared").iterdir()} == {
        ".preparation",
        "README.md",
        "report.json",
        "report.txt",
    }


# Names


def test_file_names_are_safe_and_keep_clips_apart(prepare, source, tmp_path):
    path = video(source / "clip.mp4", 3)
    names = [
        "../../up",
        "/etc/passwd",
        "a:b",
        "a b",
        "CON",
        "nul.txt",
        "x" * 300,
        "Clip",
        "clip",
        "我们",
        "a/b",
        "a\\b",
    ]
    names += [".hidden", "-rf", "trailing.", "new\nline", "", "~", "$(id)", "caf\udce9", "a\0b", "metadata.csv"]
    names += ["".join(random.choices("aA./\\:*\0\n é", k=random.randint(1, 9))) for _ in range(20)]
    clips = []
    for index, name in enumerate(names):
        clips.append(clip(name, source / f"{index}.mp4"))
        shutil.copy(path, clips[-1].video)
    before = snapshot(tmp_path, without="prepared")
    assert prepare(clips) == 0
    assert snapshot(tmp_path, without="prepared") == before
    rows = rows_of(tmp_path / "prepared")
    files = [row["file_name"] for row in rows]
    assert len({file.casefold() for file in files}) == len(names) == len(files)
    for file in files:
        assert re.fullmatch(r"[A-Za-z0-9_][A-Za-z0-9._-]*\.mp4", file) and len(file) < 100
        assert file.split(".")[0].casefold() not in planned_videos.RESERVED_NAMES
    assert [row["name"] for row in rows][:2] == ["../../up", "/etc/passwd"]
    assert load_split(DataArguments(dataset=str(tmp_path / "prepared")), "train").num_rows == len(names)


def test_large_splits_are_spread_over_folders(source, tmp_path, monkeypatch):
    monkeypatch.setattr(planned_videos, "MOST_FILES_IN_A_FOLDER", 20)
    clips = [clip(f"{index}", source / f"{index}.mp4") for index in range(60)]
    clips += [clip(f"{index}", source / f"{index}.mp4", "test") for index in range(20)]
    tasks = [task for task, _ in plan_tasks(clips, source, tmp_path, (25.0, 18))]
    folders = Counter(Path(task.file_name).parent.name for task in tasks if task.split == "train")
    assert len(folders) > 10 and max(folders.values()) <= 20
    assert all("/" not in task.file_name for task in tasks if task.split == "test")


# Going on


def test_finished_videos_are_kept_and_mended_ones_taken(prepare, source, tmp_path, capsys):
    folder = tmp_path / "prepared"
    whole = pictures(source / "whole", counting_frames(5))
    (source / "later.mp4").write_text("broken")
    clips = [clip("whole", whole), clip("later", source / "later.mp4"), clip("gone", video(source / "gone.mp4"))]
    assert prepare(clips) == 1
    made = (folder / "train" / "whole.mp4").stat()
    (folder / ".preparation" / "half.partial").write_bytes(b"half")
    (folder / ".preparation" / "finished.jsonl").open("a").write('\n{"key": "train/wh')
    (source / "later.mp4").unlink()
    video(source / "later.mp4")
    capsys.readouterr()
    assert prepare(clips[:2]) == 0
    assert "Resuming: 1 of 2 videos are already finished." in capsys.readouterr().out
    again = (folder / "train" / "whole.mp4").stat()
    assert (again.st_ino, again.st_mtime_ns) == (made.st_ino, made.st_mtime_ns)
    assert [row["name"] for row in rows_of(folder)] == ["whole", "later"]
    assert sorted(path.name for path in (folder / "train").iterdir()) == ["later.mp4", "metadata.csv", "whole.mp4"]
    assert not list((folder / ".preparation").glob("*.partial"))


def test_a_video_that_was_changed_is_made_again(prepare, source, tmp_path):
    folder = pictures(source / "a", counting_frames(5))
    assert prepare([clip("a", folder)]) == 0
    Image.fromarray(counting_frames(1)[0]).save(folder / "images0006.png")
    assert prepare([clip("a", folder)]) == 0
    assert rows_of(tmp_path / "prepared")[0]["num_frames"] == "6"
    (tmp_path / "prepared" / "train" / "a.mp4").write_bytes(b"damaged since")
    assert prepare([clip("a", folder)]) == 0
    assert measure_video(tmp_path / "prepared" / "train" / "a.mp4").num_frames == 6


def test_mistakes_change_nothing(prepare, source, tmp_path, capsys, monkeypatch):
    clips = [clip("a", video(source / "a.mp4"))]
    prepare(clips)
    monkeypatch.setattr(prepare_dataset, "read_corpus", lambda *_: RawCorpus(clips, [], "gsg", "de"))
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "thesis.txt").write_text("years of work")
    (tmp_path / "file").touch()
    (source / "pictures").mkdir()
    before = snapshot(tmp_path)
    done, other, new = tmp_path / "prepared", tmp_path / "other", tmp_path / "new"
    most = max(MOST_WORKERS, 2 * os.cpu_count())
    cases = [
        (command(source, done, quality=23), f"--output_dir {done} was made with quality 18, not 23. Resume with the "
         "same arguments, or name a new folder."),
        (command(source, done, sign_language="ase"), f"--output_dir {done} was made with sign_language 'gsg', not "
         "'ase'. Resume with the same arguments, or name a new folder."),
        (command(source, other), f"--output_dir {other} is not empty. Name a new folder, or remove this one."),
        (command(source, tmp_path / "file"), f"--output_dir {tmp_path}/file is a file. Name a new or empty folder."),
        (command(source, source / "in"), f"--output_dir {source}/in must be outside --source and must not contain it."),
        (command(source, tmp_path), f"--output_dir {tmp_path} must be outside --source and must not contain it."),
        (command(tmp_path / "no", new), f"--source must be the folder of the raw corpus; there is no {tmp_path}/no."),
        (command(source, new, quality=60), "--quality must be from 0 to 35, got 60."),
        (command(source, new, num_workers=0), f"--num_workers must be from 1 to {most}, got 0."),
            (command(source, new, num_workers=10**9), f"--num_workers must be from 1 to {most}, got {10**9}."),
        (command(source, new, frames_per_second=0), "--frames_per_second must be from 1 to 1000, got 0.0."),
        (command(source, new, push_to_hub="me"), "--push_to_hub must be OWNER/NAME, such as me/phoenix14t, got 'me'."),
        (command(source, new, corpus="phoenix"), "--corpus must be one of csl_daily, features, frame_folders, "
         "gfslt_labels, how2sign, openasl, phoenix14t, poses, table, got 'phoenix'."),
        (command(source, new, dataset_license="My own!"), "--dataset_license must be a licence as the Hub writes it, "
         "such as cc-by-4.0 or other, got 'My own!'."),
    ]  # fmt: skip
    for argv, text in cases:
        assert error_of(main, argv, capsys) == text
    clips.append(clip("b", source / "pictures"))
    text = "Folders of pictures do not contain a frame rate: pass --frames_per_second, such as 25."
    assert error_of(main, command(source, new), capsys) == text
    assert snapshot(tmp_path) == before


def test_two_processes_do_not_work_in_one_folder(prepare, source, tmp_path, capsys):
    clips, folder = [clip("a", video(source / "a.mp4"))], tmp_path / "prepared"
    prepare(clips)
    partial = folder / ".preparation" / f"{'0' * 64}.partial"
    partial.touch()
    with FileLock(folder / ".preparation" / "lock"):
        text = f"Another flallm prepare is using --output_dir {folder}. Wait until it has finished."
        assert error_of(main, command(source, folder), capsys) == text
        assert partial.exists()
    assert main(command(source, folder)) == 0
    assert not partial.exists()


def test_leavings_of_a_killed_process_are_removed(prepare, source, tmp_path, monkeypatch):
    clips, folder = [clip("a", video(source / "a.mp4"))], tmp_path / "prepared"
    prepare(clips)
    places = (folder, folder / "train", folder / ".preparation")
    leavings = [place / ".flallm-0123.partial" for place in places] + [folder / ".preparation" / "1.partial"]
    for leaving in leavings:
        leaving.touch()
    assert prepare(clips) == 0
    assert not any(leaving.exists() for leaving in leavings)

    def killed(tasks, num_workers, cluster):
        (folder / ".preparation" / "of a worker.partial").touch()
        raise KeyboardInterrupt

    monkeypatch.setattr(prepare_dataset, "run_tasks", killed)
    with contextlib.suppress(KeyboardInterrupt):
        prepare([clip("b", video(source / "b.mp4"))])
    assert not list((folder / ".preparation").glob("*.partial"))


def test_a_folder_with_links_in_it_is_not_written_through(prepare, source, tmp_path, capsys):
    clips = [clip("a", video(source / "a.mp4"))]
    prepare(clips)
    shutil.move(tmp_path / "prepared" / "train", tmp_path / "elsewhere")
    (tmp_path / "prepared" / "train").symlink_to(tmp_path / "elsewhere")
    before = snapshot(tmp_path)
    text = f"--output_dir {tmp_path}/prepared holds a link instead of its folder train. Name a new one."
    assert error_of(main, command(source, tmp_path / "prepared"), capsys) == text
    assert snapshot(tmp_path) == before


@pytest.mark.slow
@pytest.mark.usefixtures("forked_workers")
def test_a_killed_run_goes_on_where_it_was(tmp_path, capsys):
    source = raw_corpora.make_frame_folders(
        tmp_path / "raw", {"train": 16, "validation": 2, "test": 2}, frame_size=(160, 200), num_frames=(30, 40)
    )
    argv = command(source, tmp_path / "prepared", corpus="frame_folders", frames_per_second=25)
    module = [sys.executable, "-m", "train_scripts.commands.prepare_dataset", *argv]
    finished = tmp_path / "prepared" / ".preparation" / "finished.jsonl"
    process = subprocess.Popen([*module, "--num_workers", "2"], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    deadline = time.monotonic() + 180
    while not (finished.exists() and len(finished.read_text().split("\n")) > 3):
        assert process.poll() is None and time.monotonic() < deadline
        time.sleep(0.02)
    workers = worker_ids(process.pid)
    os.kill(process.pid, signal.SIGKILL)
    process.wait()
    while any(is_alive(worker) for worker in workers):  # they notice by themselves
        assert time.monotonic() < deadline
        time.sleep(0.05)
    assert workers and not list(tmp_path.glob("prepared/*/metadata.csv"))
    done = {path: path.stat().st_mtime_ns for path in tmp_path.glob("prepared/*/*.mp4")}
    assert 3 <= len(done) < 20
    for path in done:
        assert measure_video(path).num_frames >= 30
    kept = {json.loads(line)["key"] for line in finished.read_text().split("\n") if line.endswith("}")}
    assert main(argv) == 0
    assert f"Resuming: {len(kept)} of 20 videos are already finished." in capsys.readouterr().out
    for path, changed in done.items():
        assert path.stat().st_mtime_ns == changed or f"{path.parent.name}/{path.name}" not in kept
    assert [report_of(tmp_path / "prepared")["splits"][split]["prepared"] for split in SPLITS] == [16, 2, 2]
    for split in SPLITS:
        for row in rows_of(tmp_path / "prepared", split):
            folder = source / split / row["name"].removeprefix(f"{split}_")
            assert int(row["num_frames"]) == len(list(folder.iterdir()))


def worker_ids(parent: int) -> list[int]:
    return [int(name) for name in Path(f"/proc/{parent}/task/{parent}/children").read_text().split()]


def is_alive(process: int) -> bool:
    try:
        return Path(f"/proc/{process}/stat").read_text().rsplit(")", 1)[1].split()[0] != "Z"
    except FileNotFoundError:
        return False


@pytest.mark.slow
@pytest.mark.usefixtures("forked_workers")
def test_a_video_that_ends_its_process_costs_itself_only(source, tmp_path):
    (tmp_path / "train").mkdir()
    paths = [EndsItsProcess(), *(video(source / f"{index}.mp4") for index in range(2))]
    tasks = [
        VideoTask("train", path, f"{index}.mp4", tmp_path / "train", tmp_path, ((None, None),), None)
        for index, path in enumerate(paths)
    ]
    outcomes = {task.file_name: outcome for task, outcome in run_tasks(tasks, num_workers=2)}
    assert outcomes["0.mp4"].how is None
    assert outcomes["0.mp4"].lengths == ["decoding it failed: its process ended with exit status 1."]
    assert [outcomes[f"{index}.mp4"].how for index in (1, 2)] == ["linked", "linked"]


@pytest.mark.parametrize("gone", ["train", "work"])
def test_an_output_folder_that_is_removed_is_no_fault_of_a_clip(gone, source, tmp_path):
    for name in {"train", "work"} - {gone}:
        (tmp_path / name).mkdir()
    path = video(source / "a.mp4")
    task = VideoTask("train", path, "a.mp4", tmp_path / "train", tmp_path / "work", ((None, None),), None)
    text = f"[Errno 2] The folder was removed while it was filled: '{tmp_path / gone}'"
    with pytest.raises(FileNotFoundError, match=f"^{re.escape(text)}$"):
        list(run_tasks([task], num_workers=1))


@pytest.mark.slow
def test_a_script_without_a_main_guard_can_prepare(source, tmp_path):
    names = ", ".join(
        f"{name}={str(value)!r}" for name, value in (("source", source), ("output_dir", tmp_path / "new"))
    )
    video(source / "a.mp4")
    (source / "clips.csv").write_text("file,text,split\na.mp4,hello,train\n")
    script = tmp_path / "script.py"
    script.write_text(
        f"import sys\nsys.path[:0] = [{str(ROOT)!r}]\n"
        "from train_scripts.commands.prepare_dataset import PrepareArguments, prepare\n"
        f'print(prepare(PrepareArguments("table", {names}, num_workers=2)).as_text())\n'
    )
    result = subprocess.run([sys.executable, str(script)], capture_output=True, text=True)
    assert result.returncode == 0, result.stderr
    assert result.stdout.count("0 problem(s).") == 1 and (tmp_path / "new" / "train" / "metadata.csv").is_file()


# Large and long


def long_preparation(folder: Path, seconds: int, segments: int) -> list[str]:
    """The arguments of the preparation of a video in parts."""
    folder.mkdir()
    (folder / "raw").mkdir()
    write_long_video(folder / "raw" / "long.mp4", seconds)
    with (folder / "raw" / "clips.csv").open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["file", "text", "split", "start", "end"])
        length = seconds / segments
        for index in range(segments):
            writer.writerow(["long.mp4", f"sentence {index}", "train", index * length, (index + 1) * length])
    return command(folder / "raw", folder / "prepared")


def memory_of_preparations(*preparations: list[str]) -> tuple[list[int], str]:
    """
    -> peak resident memory in MiB of the processes in which videos are prepared, after each of these preparations, and
    the output
    """
    code = (
        "import json, resource, sys; from train_scripts.commands.prepare_dataset import main\n"
        "for argv in json.loads(sys.argv[1]):\n"
        "    assert main(argv) == 0\n"
        "    print(resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss, file=sys.stderr)"
    )
    result = subprocess.run(
        [sys.executable, "-c", code, json.dumps(preparations)], capture_output=True, text=True, check=False
    )
    assert result.returncode == 0, result.stdout + result.stderr
    return [int(line) // 1024 for line in result.stderr.splitlines() if line.isdecimal()], result.stdout


def write_long_video(path: Path, seconds: int, frames_per_second: int = 4) -> None:
    """Of 52 x 52 pixels; whole in memory, an hour of it would be 111 MiB."""
    base = np.random.randint(0, 255, (52, 52, 3)).astype(np.uint8)
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx264", rate=frames_per_second, options={"preset": "ultrafast"})
        stream.width = stream.height = 52
        stream.pix_fmt = "yuv420p"
        stream.codec_context.thread_count = 1
        for index in range(seconds * frames_per_second):
            frame = av.VideoFrame.from_ndarray(np.roll(base, index, axis=1), format="rgb24")
            container.mux(stream.encode(frame))
        container.mux(stream.encode())


@pytest.mark.slow
def test_an_hour_in_300_parts_takes_no_more_memory_than_a_minute(tmp_path):
    (short, long), output = memory_of_preparations(
        long_preparation(tmp_path / "short", 60, 5),
        long_preparation(tmp_path / "long", LONG_VIDEO_IN_SECONDS, NUM_SEGMENTS),
    )
    print(f"peak resident memory: {short} MiB for a minute, {long} MiB for an hour")
    assert long - short < MOST_EXTRA_MEMORY_IN_MIB
    rows = rows_of(tmp_path / "long" / "prepared")
    assert len(rows) == NUM_SEGMENTS and {row["file_name"] for row in rows} == {"long.mp4"}
    assert {row["num_frames"] for row in rows} == {"48"}
    assert f"{NUM_SEGMENTS:>10}{NUM_SEGMENTS:>10}" in output


# The Hub


def test_push_sends_the_data_set_and_nothing_else(prepare, source, tmp_path, monkeypatch, capsys):
    clips = [
        clip("a", pictures(source / "a", counting_frames(4))),
        clip("b", video(source / "b.mp4"), "validation"),
        clip("c", video(source / "c.mp4"), "test"),
        clip("d", source / "missing.mp4", "test"),
    ]
    with MiniHub() as hub:
        connect(monkeypatch, hub.url, hub.token)
        assert prepare(clips, push_to_hub="me/weather", dataset_license="cc-by-nc-sa-4.0") == 1
        repository = hub.repository("me/weather", "datasets")
        files = {name: file.content for name, file in repository.files().items() if name != ".gitattributes"}
    folder = tmp_path / "prepared"
    names = ["README.md", "report.json", "report.txt"]
    names += [f"{split}/{file}" for split, file in zip(SPLITS, ("a.mp4", "b.mp4", "c.mp4"), strict=True)]
    names += [f"{split}/metadata.csv" for split in SPLITS]
    assert files == {name: (folder / name).read_bytes() for name in names}
    assert repository.private
    assert yaml.safe_load(files["README.md"].decode().split("---")[1])["license"] == "cc-by-nc-sa-4.0"
    assert capsys.readouterr().out.endswith(f"\nSent to {hub.url}/datasets/me/weather.\n")


@pytest.mark.parametrize("name", ["../secret.mp4", "linked.mp4", ".env"])
def test_push_sends_nothing_from_outside_the_data_set(prepare, source, tmp_path, monkeypatch, name):
    (tmp_path / "secret.mp4").write_bytes(b"not for others")
    assert prepare([clip("a", video(source / "a.mp4"))]) == 0
    train = tmp_path / "prepared" / "train"
    (train / "linked.mp4").symlink_to(tmp_path / "secret.mp4")
    table = (train / "metadata.csv").read_text(encoding="utf-8")
    (train / "metadata.csv").write_text(table.replace("a.mp4", name), encoding="utf-8")
    with MiniHub() as hub:
        connect(monkeypatch, hub.url, hub.token)
        with pytest.raises(ValueError, match="would leave|outside its folder|Hidden files are neither read nor sent"):
            prepare_dataset.push(tmp_path / "prepared", report=None, arguments=None)
        assert hub.requests == []


def test_a_public_repository_is_not_filled_by_accident(prepare, source, tmp_path, monkeypatch, capsys):
    with MiniHub() as hub:
        connect(monkeypatch, hub.url, hub.token)
        hub.create_repository("me/weather", "datasets")
        assert prepare([clip("b", video(source / "b.mp4"))], push_to_hub="me/weather") == 2
        assert hub.uploads() == []
    assert "me/weather exists and is public: everybody would see what is sent." in capsys.readouterr().err


# From raw to scores

CORPORA = {
    "phoenix14t": (raw_corpora.make_phoenix14t, "gsg", "de", 0),
    "csl_daily": (raw_corpora.make_csl_daily, "csl", "zh", 1),
    "how2sign": (raw_corpora.make_how2sign, "ase", "en", 1),
    "openasl": (raw_corpora.make_openasl, "ase", "en", 1),
}


@pytest.mark.slow
@pytest.mark.parametrize("kind", CORPORA)
def test_raw_corpus_to_scores(kind, tmp_path):
    make, sign_language, spoken_language, status = CORPORA[kind]
    source = make(tmp_path / "raw", frame_size=(48, 40))
    folder = tmp_path / "prepared"
    assert main(command(source, folder, corpus=kind)) == status
    report = report_of(folder)
    assert [report["splits"][split]["prepared"] for split in SPLITS] == [*raw_corpora.NUM_CLIPS.values()]
    assert bool(report["problems"]) == bool(status)
    loaded = datasets.load_dataset("videofolder", data_dir=str(folder))
    for split in SPLITS:
        assert loaded[split].num_rows == raw_corpora.NUM_CLIPS[split]
        assert {(row["sign_language"], row["spoken_language"]) for row in rows_of(folder, split)} == {
            (sign_language, spoken_language)
        }
    stage1 = stage1_flags(
        tmp_path / "stage1", dataset=folder, max_steps=2, per_device_train_batch_size=2, spoken_language=spoken_language
    )
    assert visual_initialing.main(stage1) == 0
    evaluation = flags(
        model=tmp_path / "stage1",
        dataset=folder,
        output_dir=tmp_path / "scores",
        spoken_language=spoken_language,
        device="cpu",
        disable_tqdm=True,
    )
    assert evaluate_model.main(evaluation) == 0
    scores = json.loads((tmp_path / "scores" / "scores.json").read_text())
    assert scores["num_segments"] == raw_corpora.NUM_CLIPS["test"]
    assert ("tok:char" if spoken_language == "zh" else "tok:13a") in scores["signatures"]["bleu4"]
