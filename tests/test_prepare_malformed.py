"""
500 malformed inputs through `flallm prepare`, new ones in each run: none ends the command with anything but its report,
none is lost without a line in it, and nothing is written outside of the output folder.
"""

import csv
import gzip
import io
import os
import random
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from test_prepare_dataset import command, pictures, report_of, rows_of, snapshot
from video_files import counting_frames, write_audio, write_video

from train_scripts.clips.clip_folders import read_metadata
from train_scripts.commands.prepare_dataset import main
from train_scripts.corpora.corpus_schema import SPLITS

pytestmark = pytest.mark.usefixtures("one_worker_is_this_process")

NUM_INPUTS = 500
NUM_RUNS = 20
GOOD_TEXT = "es regnet im norden"


class Inputs:
    """Makers of broken files in one raw corpus; each takes the path for its file, and may choose another."""

    def __init__(self, folder: Path, clips: Path):
        self.folder = folder
        self.whole = (clips / "whole.mp4").read_bytes()
        self.by_suffix = {path.suffix: path.read_bytes() for path in sorted(clips.iterdir())}
        self.audio = (clips / "audio.m4a").read_bytes()

    def truncated(self, path: Path) -> Path:
        path.write_bytes(self.whole[: random.randrange(1, len(self.whole))])
        return path

    def truncated_at_the_front(self, path: Path) -> Path:
        path.write_bytes(self.whole[random.randrange(1, len(self.whole)) :])
        return path

    def zero_bytes(self, path: Path) -> Path:
        path.write_bytes(b"\0" * random.choice([0, 0, 1, 100, 5000]))
        return path

    def flipped_bytes(self, path: Path) -> Path:
        content = bytearray(self.whole)
        for _ in range(random.choice([1, 10, 200])):
            content[random.randrange(len(content))] = random.randrange(256)
        path.write_bytes(content)
        return path

    def random_bytes(self, path: Path) -> Path:
        path.write_bytes(random.choice([b"", b"\0\0\0\x20ftypisom", b"\x1aE\xdf\xa3"]) + random.randbytes(900))
        return path

    def wrong_container(self, path: Path) -> Path:
        path.write_bytes(random.choice([*self.by_suffix.values(), self.audio, gzip.compress(self.whole)]))
        return path

    def text_file(self, path: Path) -> Path:
        path.write_text(random.choice(["not a video", "#EXTM3U\n/etc/passwd\n", "ffconcat version 1.0\nfile '/x'\n"]))
        return path

    def picture_as_video(self, path: Path) -> Path:
        Image.new("RGB", (32, 32)).save(path, format=random.choice(["PNG", "JPEG", "GIF"]))
        return path

    def not_there(self, path: Path) -> Path:
        return path

    def folder_without_pictures(self, path: Path) -> Path:
        path.mkdir()
        (path / "notes.txt").write_text("nothing")
        return path

    def symlink_loop(self, path: Path) -> Path:
        path.symlink_to(path.name)
        return path

    def link_to_the_outside(self, path: Path) -> Path:
        path.symlink_to(self.folder.parent / random.choice(["secret.txt", "nothing", "..", "secrets"]))
        return path

    def pipe(self, path: Path) -> Path:
        os.mkfifo(path)
        return path

    def strange_picture_sizes(self, path: Path) -> Path:
        path.mkdir()
        for index in range(3):
            size = random.choice([(1, 1), (1, 90), (33, 17), (20, 20), (16, 31)])
            Image.new("RGB", size, (random.randrange(256),) * 3).save(path / f"{index}.png")
        return path

    def size_of_nothing(self, path: Path) -> Path:
        """A PNG whose header says 0 x 0, or far too much."""
        path.mkdir()
        file = io.BytesIO()
        Image.new("RGB", (20, 20)).save(file, format="PNG")
        content = bytearray(file.getvalue())
        content[16:24] = random.choice([b"\0" * 8, b"\0\0\xff\xff" * 2, b"\x7f\xff\xff\xff" * 2, b"\0\0\0\0\0\0\0\x14"])
        (path / "0.png").write_bytes(content)
        return path

    def broken_pictures(self, path: Path) -> Path:
        pictures(path, counting_frames(3, 32, 32))
        victim = path / f"images000{random.randint(1, 3)}.png"
        content = victim.read_bytes()
        choices = [b"", content[: random.randrange(len(content))], b"text", random.randbytes(80)]
        victim.write_bytes(random.choice(choices))
        return path

    def pictures_that_lead_nowhere(self, path: Path) -> Path:
        pictures(path, counting_frames(2, 32, 32))
        (path / "images0003.png").symlink_to(random.choice(["images0003.png", "gone.png", "/dev/null", ".."]))
        return path

    @classmethod
    def makers(cls) -> list[Callable[["Inputs", Path], Path]]:
        return [value for name, value in vars(cls).items() if callable(value) and name not in ("__init__", "makers")]


def strange_name(index: int) -> str:
    """A file name that is legal here and difficult elsewhere; its number makes it unique."""
    pieces = [
        "a b",
        "a:b",
        "..",
        "C:",
        "CON",
        "é",
        "我",
        "\\",
        "~",
        "$(id)",
        "-rf",
        "'",
        '"',
        ";",
        "%2e%2e",
        "\u202e",
        "*?",
    ]
    return f"{''.join(random.choices(pieces, k=random.randint(1, 4)))}{index}"


def broken_path(name: str) -> str:
    """A path that no table of a corpus should contain."""
    return random.choice(
        [f"../{name}", f"../../../../tmp/{name}", f"/etc/{name}", f"a/../../{name}", f"..\\{name}", f"C:\\{name}"]
        + [f"{name}\0.mp4", "", ".", "..", "/", f"{'x' * 300}{name}", f"file:///etc/{name}", f"concat:{name}|{name}"]
    )  # fmt: skip


def broken_line(path: str) -> bytes:
    """A line of a CSV file that a program or a person has spoiled."""
    text = f'{path},"{GOOD_TEXT}",train'.encode("utf-8", "surrogateescape")
    return random.choice(
        [
            text[: random.randrange(1, text.rindex(b'"'))],
            text.replace(b'",', b","),  # an unclosed quotation mark
            text.replace(b"regnet", b'reg"net'),
            text + b",one,two,three",
            text.replace(b"norden", b"norden \xe4\xf6\xfc"),  # Latin-1 in a UTF-8 file
            text.replace(b"norden", b"nor\0den"),
            text.replace(b"norden", "größe".encode("utf-16-le")),
            text.replace(GOOD_TEXT.encode(), b""),
            b"\xef\xbb\xbf" + text,
            b'"' * random.choice([1, 3, 4, 5]),  # two of them are an empty line
            random.randbytes(30).replace(b"\n", b"").replace(b"\r", b"") + b",x",
        ]
    )


def write_corpus(folder: Path, clips: Path, first: int, count: int) -> tuple[list[str], set[str]]:
    """-> for each line after the header a name that its clip or its problem would have, and the clips that are whole"""
    folder.mkdir()
    inputs, whole = Inputs(folder, clips), set()
    makers = random.sample(Inputs.makers(), len(Inputs.makers()))
    lines = {"header": random.choice([b"", b"\xef\xbb\xbf"]) + b"file,text,split"}
    for index in range(first, first + count):
        kind = random.random()
        name = strange_name(index)
        if kind < 0.7:
            path = makers[index % len(makers)](inputs, folder / f"{name}.mp4")
            lines[name] = csv_line(path.name, GOOD_TEXT, random.choice(SPLITS))
        elif kind < 0.85:
            lines[name] = csv_line(broken_path(name), GOOD_TEXT, "train")
        else:
            (folder / f"line{index}.mp4").write_bytes(inputs.whole)
            lines[f"line{index}"] = broken_line(f"line{index}.mp4")
        if index % 10 == 0:
            (folder / f"whole{index}.mp4").write_bytes(inputs.whole)
            lines[f"whole{index}"] = csv_line(f"whole{index}.mp4", GOOD_TEXT, "train")
            whole.add(f"whole{index}")
    (folder / "clips.csv").write_bytes(random.choice([b"\n", b"\r\n"]).join(lines.values()))
    return list(lines)[1:], whole


def csv_line(*values: str) -> bytes:
    file = io.StringIO()
    csv.writer(file, lineterminator="").writerow(values)
    return file.getvalue().encode("utf-8", "surrogateescape")


@pytest.fixture
def good_clips(tmp_path) -> Path:
    folder = tmp_path / "good clips"
    folder.mkdir()
    frames = np.random.randint(0, 256, (6, 33, 47, 3)).astype(np.uint8)
    for name in ("whole.mp4", "whole.webm", "whole.mkv", "whole.avi"):
        pixel_format = "yuv444p" if name == "whole.mp4" else "yuv420p" if name != "whole.mkv" else "bgr0"
        write_video(folder / name, frames if name != "whole.avi" else counting_frames(6), pixel_format=pixel_format)
    write_audio(folder / "audio.mp4").rename(folder / "audio.m4a")
    return folder


def test_500_malformed_inputs(tmp_path, good_clips, capsys):
    area = tmp_path / "area"
    area.mkdir()
    (area / "secret.txt").write_text("never to be read or written")
    (area / "secrets").mkdir()
    outcomes: Counter[str] = Counter()
    for run in range(NUM_RUNS):
        raw, prepared = area / f"raw {run}", area / f"prepared {run}"
        count = NUM_INPUTS // NUM_RUNS
        names, whole = write_corpus(raw, good_clips, run * count, count)
        before = snapshot(area, without=prepared.name)
        status = main(command(raw, prepared, frames_per_second=25))
        assert snapshot(area, without=prepared.name) == before
        text = capsys.readouterr()
        assert status == 1, text.err
        assert "Traceback" not in text.err
        check_that_nothing_is_lost(raw, prepared, names, whole)
        outcomes["rows"] += sum(report_of(prepared)["splits"][split]["prepared"] for split in SPLITS)
        outcomes["problems"] += len(report_of(prepared)["problems"])
    print(dict(outcomes))
    assert outcomes["problems"] > NUM_INPUTS * 0.6 and outcomes["rows"] >= NUM_INPUTS // 10


def check_that_nothing_is_lost(raw: Path, prepared: Path, names: list[str], whole: set[str]) -> None:
    """Every line of the table is a row of a split or is in the report, and the next step can read both."""
    rows = [row for split in SPLITS if (prepared / split).is_dir() for row in rows_of(prepared, split)]
    for split in SPLITS:
        if (prepared / split).is_dir():
            assert len(read_metadata(prepared / split, "text")) == report_of(prepared)["splits"][split]["prepared"]
    prepared_names = {row["name"] for row in rows}
    assert whole <= prepared_names
    problems = report_of(prepared)["problems"]
    mentioned = {problem["where"] for problem in problems}
    table = (raw / "clips.csv").read_bytes().splitlines()
    for number, name in enumerate(names, 2):
        assert name in prepared_names or name in mentioned or f"clips.csv, line {number}" in mentioned, (
            name,
            table[number - 1],
        )
    assert len((prepared / "report.txt").read_text(encoding="utf-8").splitlines()) > len(problems)
    for path in prepared.rglob("*"):
        assert not path.is_symlink()
        assert path.resolve().is_relative_to(prepared)
    files = {path for split in SPLITS for path in (prepared / split).rglob("*") if path.is_file()}
    named = {prepared / split / row["file_name"] for split in SPLITS for row in existing_rows(prepared, split)}
    assert files - named <= {prepared / split / "metadata.csv" for split in SPLITS}
    assert not list((prepared / ".preparation").glob("*.partial"))


def existing_rows(prepared: Path, split: str) -> list[dict[str, str]]:
    return rows_of(prepared, split) if (prepared / split).is_dir() else []


@pytest.mark.parametrize("header", ["", "file;text\n", "file,satz\n", "a\0b\n", "\xef\xbb\xbf\n", '"file,text\n'])
def test_a_broken_header_is_a_mistake_that_writes_nothing(tmp_path, capsys, header):
    (tmp_path / "raw").mkdir()
    (tmp_path / "raw" / "clips.csv").write_text(header, encoding="latin-1")
    status = main(command(tmp_path / "raw", tmp_path / "prepared"))
    error = capsys.readouterr().err
    assert status == 2 and error.startswith("error: ") and error.count("\n") == 1
    assert not (tmp_path / "prepared").exists()
    assert os.listdir(tmp_path / "raw") == ["clips.csv"]
