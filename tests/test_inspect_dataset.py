"""`flallm inspect`: figures, leaks, broken inputs as findings, and a page that is safe, whole and readable."""

import csv
import json
import random
import re
import shutil
from html.parser import HTMLParser
from pathlib import Path

import datasets
import numpy as np
import pytest
from pool_tasks import LethalFile
from tiny_checkpoints import checkpoint
from tiny_corpus import corpus, error_of, flags, language_model, text_of_language_model
from video_files import cut, write_video

from train_scripts.commands import inspect_dataset
from train_scripts.commands.inspect_dataset import InspectArguments, corpus_of_splits
from train_scripts.corpora.inspected_clips import Clip, Corpus, measure_clips
from train_scripts.corpora.inspection_page import _draw_histogram

pytestmark = pytest.mark.usefixtures("one_worker_is_this_process")

FRAMES = 10


def write_clip(path: Path, num_frames: int = FRAMES) -> Path:
    """Random pictures: no two clips are alike."""
    return write_video(path, np.random.randint(0, 256, (num_frames, 32, 48, 3), dtype=np.uint8))


def write_split(folder: Path, rows: list[dict], make_clips: bool = True) -> Path:
    folder.mkdir(parents=True)
    with (folder / "metadata.csv").open("w", encoding="utf-8", newline="") as file:
        writer = csv.DictWriter(file, list(dict.fromkeys(name for row in rows for name in row)))
        writer.writeheader()
        writer.writerows(rows)
    for name in {row["file_name"] for row in rows} if make_clips else ():
        write_clip(folder / name)
    return folder


def inspect(dataset: Path, output_dir: Path, **values) -> dict:
    argv = flags(dataset=dataset, output_dir=output_dir, num_workers=1, **values)
    return inspect_dataset.run(argv)


def lines(problems: list[dict]) -> list[str]:
    return [f"{problem['where']}: {problem['what']}" for problem in problems]


def test_a_good_corpus(tmp_path, capsys):
    output_dir = tmp_path / "out"
    argv = flags(dataset=corpus(), output_dir=output_dir, num_workers=1, tokenizer_name_or_path=language_model())
    assert inspect_dataset.main(argv) == 0
    report = json.loads((output_dir / "inspection.json").read_text())
    assert {name: split["clips"] for name, split in report["splits"].items()} == {
        "train": 12,
        "validation": 6,
        "test": 6,
    }
    assert report["errors"] == []
    tables = [path.read_text(encoding="utf-8").splitlines() for path in corpus().glob("*/metadata.csv")]
    sentences = [row["text"] for table in tables for row in csv.DictReader(table)]
    assert set("".join(sentences)) <= set(text_of_language_model().read_text(encoding="utf-8"))
    assert report["tokenizer"]["unknown_characters"] == []
    train = report["splits"]["train"]
    assert train["readable_clips"] == 12 and train["resolutions"] == {"32x32": 12} and train["unseen_words"] == 0
    assert report["tokenizer"]["tokens"]["train"]["min"] > train["words"]["min"]
    assert "Splits\n" in capsys.readouterr().out


def test_characters_that_the_tokenizer_does_not_have(tmp_path):
    write_split(
        tmp_path / "data" / "train", [{"file_name": "a.mp4", "text": "the жук"}, {"file_name": "b.mp4", "text": "жук"}]
    )
    report = inspect(tmp_path / "data", tmp_path / "out", tokenizer_name_or_path=str(language_model()))
    assert report["tokenizer"]["unknown_characters"] == ["ж", "к", "у"]


def test_a_tokenizer_of_many_languages(tmp_path):
    report = inspect(corpus(), tmp_path / "out", tokenizer_name_or_path=str(checkpoint("mbart")))
    assert report["tokenizer"]["tokens"]["train"]["min"] > report["splits"]["train"]["words"]["min"]


def test_figures_of_words_and_signers(tmp_path):
    texts = {"train": ["rain in the north", "rain rain"], "dev": ["snow in the north"]}
    for split, sentences in texts.items():
        rows = [
            {"file_name": f"{k} a:b.mp4", "text": text, "signer": f"s{k}", "spoken_language": "en"}
            for k, text in enumerate(sentences)
        ]
        write_split(tmp_path / "data" / split, rows)
    report = inspect(tmp_path / "data", tmp_path / "out")
    train, validation = report["splits"]["train"], report["splits"]["validation"]
    assert (train["vocabulary"], train["singletons"], train["words"]["max"]) == (4, 3, 4)
    assert (validation["unseen_words"], validation["unseen_word_rate"]) == (1, 0.25)
    assert train["frames"]["max"] == FRAMES and train["resolutions"] == {"48x32": 2}
    assert train["duration_in_seconds"]["mean"] == pytest.approx(FRAMES / 25)
    assert train["signers"] == {"s0": 1, "s1": 1} and train["spoken_languages"] == {"en": 2}
    assert report["leakage"][0]["same_signers"] == ["s0"]
    assert lines(report["warnings"]) == ["test: there is no such split"]


@pytest.mark.parametrize(("language", "length"), [("zh", 5), ("th", 5), ("ko", 5), ("de", 2)])
def test_languages_without_spaces_are_counted_by_character(tmp_path, language, length):
    write_split(tmp_path / "data" / "train", [{"file_name": "a.mp4", "text": "ab cde"}])
    report = inspect(tmp_path / "data", tmp_path / "out", spoken_language=language)
    assert report["splits"]["train"]["words"]["max"] == length


def test_leaks_are_said(tmp_path, capsys):
    data = tmp_path / "data"
    for split in ("train", "dev", "test"):
        write_split(data / split, [{"file_name": f"{split}{k}.mp4", "text": f"{split} {k}"} for k in range(2)])
    shutil.copy(data / "train" / "train0.mp4", data / "test" / "test1.mp4")
    shutil.copy(data / "train" / "train0.mp4", data / "train" / "train1.mp4")
    text = (data / "dev" / "metadata.csv").read_text().replace("dev 0", "train 0")
    (data / "dev" / "metadata.csv").write_text(text)
    assert inspect_dataset.main(flags(dataset=data, output_dir=tmp_path / "out", num_workers=1)) == 0
    output = capsys.readouterr().out
    assert "Problem: LEAKAGE: 1 of 2 clips of test are also in train. Scores on test would be too good." in output
    assert "Warning: 1 of 2 sentences of validation also occur in train." in output
    assert "Warning: 1 clip(s) of train are copies of another." in output
    report = json.loads((tmp_path / "out" / "inspection.json").read_text())
    pairs = {tuple(pair["splits"]): pair for pair in report["leakage"]}
    assert pairs["train", "test"]["same_clips"] == [["test, row 2 (test1.mp4)", "train, row 1 (train0.mp4)"]]
    assert pairs["train", "validation"]["same_sentences"] == 1


def test_two_forms_of_a_sentence_are_the_same(tmp_path):
    """Train has them decomposed, with a non-breaking space and a soft hyphen."""
    train = ["Scho\u0308ne\u00a0Gru\u0308ße", "Schöne  Grü\u00adße"]
    for split, sentences in (("train", train), ("dev", ["Schöne Grüße"])):
        rows = [{"file_name": f"{split}{k}.mp4", "text": text} for k, text in enumerate(sentences)]
        write_split(tmp_path / "data" / split, rows)
    report = inspect(tmp_path / "data", tmp_path / "out")
    assert report["leakage"][0]["same_sentences"] == 1
    assert report["splits"]["train"]["repeated_sentences"] == 1
    assert (report["splits"]["train"]["vocabulary"], report["splits"]["validation"]["unseen_words"]) == (2, 0)


def test_parts_of_one_file(tmp_path):
    rows = [
        {"file_name": "long.mp4", "text": "one", "start": 0, "end": 0.4},
        {"file_name": "long.mp4", "text": "two", "start": 0.4, "end": 0.8},
        {"file_name": "long.mp4", "text": "three", "start": 0.4, "end": 0.8},
        {"file_name": "long.mp4", "text": "four", "start": 99, "end": ""},
        {"file_name": "long.mp4", "text": "five", "start": "soon", "end": ""},
    ]
    folder = write_split(tmp_path / "data" / "train", rows, make_clips=False)
    write_clip(folder / "long.mp4", 20)
    report = inspect(tmp_path / "data", tmp_path / "out")
    train = report["splits"]["train"]
    assert train["frames"]["min"] == 10 and train["readable_clips"] == 4 and train["repeated_clips"] == 1
    same, number, beyond = sorted(lines(report["errors"]), key=lambda line: ("same" not in line, "beyond" in line))
    assert same == "train, row 3 (long.mp4): names the same part of a file as row 2"
    assert number == "train, row 5 (long.mp4): start is not a number of seconds: 'soon'"
    assert beyond.startswith("train, row 4 (long.mp4): `start`=99 seconds lies beyond the end of ")


def test_parts_of_one_file_in_two_splits(tmp_path):
    train = [{"file_name": "long.mp4", "text": "one", "start": 0, "end": 0.4}]
    test = [
        {"file_name": "copy.mp4", "text": "two", "start": 0.4, "end": 0.8},
        {"file_name": "copy.mp4", "text": "three", "start": 0.1, "end": 0.6},
        {"file_name": "copy.mp4", "text": "four", "start": "", "end": ""},
    ]
    path = write_clip(write_split(tmp_path / "data" / "train", train, make_clips=False) / "long.mp4", 20)
    shutil.copy(path, write_split(tmp_path / "data" / "test", test, make_clips=False) / "copy.mp4")
    (pair,) = inspect(tmp_path / "data", tmp_path / "out")["leakage"]
    assert [names[0] for names in pair["same_clips"]] == ["test, row 2 (copy.mp4)", "test, row 3 (copy.mp4)"]


def test_what_is_broken_is_named_and_stops_nothing(tmp_path, capsys):
    names = ["good", "cut", "empty", "text", "missing", "silent", "../../outside", "nul\0"]
    rows = [{"file_name": f"{name}.mp4", "text": "" if name == "silent" else name} for name in names]
    train = write_split(tmp_path / "data" / "train", [*rows, {"file_name": "", "text": "no name"}], make_clips=False)
    for name in ("good", "silent", "unnamed"):
        write_clip(train / f"{name}.mp4")
    write_clip(tmp_path / "outside.mp4")
    cut(train / "good.mp4", 0.5, train / "cut.mp4")
    (train / "empty.mp4").touch()
    (train / "text.mp4").write_text("not a video")
    (train / "loop.mp4").symlink_to("loop.mp4")
    output_dir = tmp_path / "out"
    assert inspect_dataset.main(flags(dataset=tmp_path / "data", output_dir=output_dir, num_workers=1)) == 1
    report = json.loads((output_dir / "inspection.json").read_text())
    found = "\n".join(lines(report["errors"]))
    for text in (
        r"row 2 \(cut.mp4\): .* cut off",
        r"row 3 \(empty.mp4\): .* is empty \(0 bytes\)",
        r"row 4 \(text.mp4\): .* is not a video that can be read",
        r"row 5 \(missing.mp4\): there is no such file",
        r"row 6 \(silent.mp4\): the sentence is empty",
        r"row 8 \(nul.*\): (there is no such file|the file name cannot be used)",  # by the version of Python
        r"row 9 \(no file_name\): has no file_name",
    ):
        assert re.search(text, found), (text, found)
    assert report["splits"]["train"]["readable_clips"] == 2
    outside = "'../../outside.mp4' would leave train. Put the file into that folder, and name it from there."
    assert f"train, row 7 (../../outside.mp4): the file name cannot be used: {outside}" in lines(report["errors"])
    assert "train/unnamed.mp4: the metadata does not name this file" in lines(report["warnings"])
    output = capsys.readouterr().out
    assert all(problem["where"].split(" (")[0] in output for problem in report["errors"])
    assert "\0" not in output


@pytest.mark.parametrize(
    ("content", "text"),
    [
        (b"file_name,text\na.mp4,one,two\n", "has more values than the header; put commas in double quotes"),
        ("file_name,text\na.mp4,schön\n".encode("latin-1"), "is not UTF-8 text"),
        (b"file_name,text\n", "metadata.csv has no rows"),
        (b"", "metadata.csv has no rows"),
        (b'file_name,text\na.mp4,"never closed\n', None),
        (b"\xef\xbb\xbffile_name,text\na.mp4,fine\n", None),
        (b"video,sentence\na.mp4,words\n", "has no file_name"),
        (b"\xff\x00 random", ""),
    ],
)
def test_metadata_of_every_kind(tmp_path, content, text):
    if content.endswith(b" random"):
        content += random.randbytes(200)
    folder = tmp_path / "data" / "train"
    folder.mkdir(parents=True)
    write_clip(folder / "a.mp4")
    (folder / "metadata.csv").write_bytes(content)
    found = lines(inspect(tmp_path / "data", tmp_path / "out")["errors"])
    assert not found if text is None else any(text in line for line in found)


def test_metadata_in_json_lines(tmp_path):
    folder = tmp_path / "data" / "train"
    folder.mkdir(parents=True)
    write_clip(folder / "a.mp4")
    (folder / "metadata.jsonl").write_text('{"file_name": "a.mp4", "text": "one \\ud800"}\n[1]\nnot json\n')
    report = inspect(tmp_path / "data", tmp_path / "out")
    assert report["splits"]["train"]["readable_clips"] == 1
    assert {line.split(" (")[0] for line in lines(report["errors"])} == {"train, row 2", "train, row 3"}


class PageReader(HTMLParser):
    """Collects tags with their attributes."""

    def __init__(self):
        super().__init__()
        self.tags: list[tuple[str, dict]] = []

    def handle_starttag(self, tag, attributes):
        self.tags.append((tag, dict(attributes)))

    def of(self, *names: str) -> list[dict]:
        return [attributes for tag, attributes in self.tags if tag in names]


def test_a_picture_of_the_page_is_the_same_each_time():
    values = {"train": [1.0, 2.0, 2.0, 5.0], "dev": [3.0]}
    assert _draw_histogram("frames", values) == _draw_histogram("frames", values)


def test_the_page_is_safe_whole_and_readable(tmp_path):
    evil = "<script>alert(1)</script>\"'&<img src=x onerror=alert(2)>"
    rows = [{"file_name": "<b>bold.mp4", "text": evil, "signer": evil, "sign_language": evil}]
    write_split(tmp_path / "data" / "train", rows)
    write_split(tmp_path / "data" / "test", [{"file_name": "<u>.mp4", "text": evil, "signer": evil}], make_clips=False)
    inspect(tmp_path / "data", tmp_path / "out")
    page = (tmp_path / "out" / "inspection.html").read_text()
    reader = PageReader()
    reader.feed(page)
    assert "&lt;script&gt;alert(1)&lt;/script&gt;" in page
    assert not reader.of("script", "b", "u", "link", "iframe")
    assert all(picture["src"].startswith("data:image/") and picture["alt"] for picture in reader.of("img"))
    assert len(reader.of("img")) == 5  # four histograms, one strip
    assert not re.search(r"(src|href|url)\s*[=(]\s*[\"']?\s*(https?:)?//", page)
    assert all(header["scope"] in ("row", "col") for header in reader.of("th"))
    assert len(reader.of("h1")) == 1 and reader.of("html")[0]["lang"] == "en" and reader.of("title")


def test_a_data_set_of_the_hub(tmp_path):
    path = write_clip(tmp_path / "a.mp4")
    videos = [{"path": None, "bytes": path.read_bytes()}, {"path": None, "bytes": b"broken"}]
    dataset = datasets.Dataset.from_dict({"video": videos, "text": ["one", None]})
    dataset = dataset.cast_column("video", datasets.Video(decode=False))
    found = corpus_of_splits({"train": dataset}, InspectArguments("owner/name"))
    measure_clips(found, num_workers=1)
    assert [clip.measured.num_frames for clip in found.clips] == [FRAMES, 0]
    assert "row 2 (video 2): the video given as 6 bytes is not a video" in "\n".join(lines(map(vars, found.errors)))
    error = "`video` or `poses` must be a column of the data set, got columns ['text']."
    with pytest.raises(ValueError, match=re.escape(error)):
        corpus_of_splits({"train": dataset.remove_columns("video")}, InspectArguments("owner/name"))


def test_files_of_this_machine_that_a_data_set_of_the_hub_names_are_not_read(tmp_path):
    path = write_clip(tmp_path / "a.mp4")
    dataset = datasets.Dataset.from_dict({"video": [str(path)], "text": ["one"]})
    found = corpus_of_splits({"train": dataset}, InspectArguments("owner/name"))
    measure_clips(found, num_workers=1)
    assert [clip.measured.content_hash for clip in found.clips] == [""]
    assert lines(map(vars, found.errors)) == [
        f"train, row 1 (video 1): the row names {str(path)!r}, which is not a file of the data set. Its videos must "
        "be in it, or their bytes in its table."
    ]


def test_columns_are_understood_or_named(tmp_path):
    rows = [{"File Name": "a.mp4", "TEXT": "one", "Begin": 0.1, "Speaker": "A", "topic": "t", "Split": "dev"}]
    train = write_split(tmp_path / "data" / "Train", rows, make_clips=False)
    write_clip(train / "a.mp4")
    odd = write_split(tmp_path / "data" / "test", [{"file_name": "b.mp4", "text": "two", "start_frame": 3}])
    report = inspect(tmp_path / "data", tmp_path / "out")
    assert (train.name, odd.name) == ("Train", "test") and report["splits"]["train"]["signers"] == {"A": 1}
    assert report["splits"]["train"]["frames"]["max"] < FRAMES
    assert lines(report["errors"]) == [
        "train, row 1 (a.mp4): its column split says 'dev', but it is read as a clip of train. Move the clip to its "
        "own split, or remove the column.",
        "test/metadata.csv: has a column 'start_frame', which is not recognised and may be the start of each clip. If "
        "it is, rename it to start (seconds from the beginning of the video); otherwise remove it from the file.",
    ]
    assert "train/metadata.csv: unused columns: topic" in lines(report["warnings"])


@pytest.mark.slow
@pytest.mark.usefixtures("forked_workers")
def test_a_file_that_ends_its_process_costs_itself_only(tmp_path):
    names = ["good.mp4", "killer.mp4", "better.mp4"]
    paths = [LethalFile(tmp_path / name) if "killer" in name else write_clip(tmp_path / name) for name in names]
    found = Corpus([Clip("train", row, path.name, "text", path) for row, path in enumerate(paths, 1)])
    measure_clips(found, num_workers=2)
    assert [clip.measured.num_frames for clip in found.clips] == [FRAMES, 0, FRAMES]
    assert lines(map(vars, found.errors)) == [
        "train, row 2 (killer.mp4): decoding it failed: its process ended with exit status 1"
    ]


def test_a_row_of_the_hub_without_a_video_and_a_part_that_no_clock_shows(tmp_path):
    videos = [None, {"path": None, "bytes": write_clip(tmp_path / "a.mp4").read_bytes()}]
    rows = {"video": videos, "text": ["one", "two"], "start": [None, 1e300], "end": [None, 2e300]}
    dataset = datasets.Dataset.from_dict(rows).cast_column("video", datasets.Video(decode=False))
    found = corpus_of_splits({"train": dataset}, InspectArguments("owner/name"))
    measure_clips(found, num_workers=1)
    texts = lines(map(vars, found.errors))
    assert texts[0] == "train, row 1 (video 1): has no video"
    assert len(texts) == 2 and texts[1].startswith("train, row 2 (video 2): ")


def test_mistakes_are_said_in_one_sentence(tmp_path, capsys):
    def error(**values) -> str:
        return error_of(inspect_dataset.main, flags(**{"output_dir": tmp_path / "out", **values}), capsys)

    empty = tmp_path / "empty"
    empty.mkdir()
    assert error(dataset=empty) == (
        f"{empty} must hold folders train, dev or validation, and test, each with metadata.csv."
    )
    assert error(dataset=corpus(), output_dir=corpus()).startswith(f"--output_dir {corpus()} is not empty.")
    for value in (0, -1, 10**9):
        assert error(dataset=corpus(), num_workers=value).startswith("--num_workers must be from 1 to ")
    assert error(dataset=corpus(), num_strips=-1) == "--num_strips must be 0 or more, got -1."
    assert "is neither a local folder nor a data set on the Hub" in error(dataset=tmp_path / "nowhere")
    text = error(dataset=tmp_path / "nowhere", tokenizer_name_or_path=empty)  # before the data set is read
    assert text.startswith(f"{str(empty)!r} has no tokenizer that can be loaded: ")
