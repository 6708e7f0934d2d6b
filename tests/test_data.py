"""Video folders with their mistakes, the items of the data set, and the batches of the collator."""

import json
import random
import re
import resource
import shutil
import unicodedata
from pathlib import Path

import datasets
import pytest
import torch
from tiny_corpus import NUM_CLIPS, SIZE_IN_PIXELS, corpus, flags, language_model, trained_model
from tiny_corpus import error_of as error_of_command
from torch.utils.data import DataLoader
from transformers import AutoTokenizer
from two_processes import in_another_process
from video_files import counting_frames, frame_numbers, write_packets, write_video

from processing import FLaLLMProcessor, VideoDecodingError
from processing.modality_video_slt import frames_and_seconds
from train_scripts.arguments.data_arguments import AugmentationArguments, DataArguments, VideoArguments
from train_scripts.clips.augmentation import ClipAugmentation
from train_scripts.clips.collators import FramePreprocessor, TranslationCollator
from train_scripts.clips.data import SignClipDataset
from train_scripts.clips.splits import load_split, load_training_split
from train_scripts.commands import evaluate_model
from train_scripts.corpora.data_set_columns import say_unused, with_texts
from train_scripts.runs.training import build_processor

VIDEO = VideoArguments(frame_size=36, crop_size=SIZE_IN_PIXELS, frame_sampling_rate=0.25)
STRONG = AugmentationArguments(
    rotation_degrees=20, translation=0.1, brightness=0.3, contrast=0.3, saturation=0.3, speed=0.3, frame_drop=0.2
)


@pytest.fixture(scope="module")
def processor() -> FLaLLMProcessor:
    return build_processor(VIDEO, AutoTokenizer.from_pretrained(language_model()))


def clips() -> list[Path]:
    return sorted((corpus() / "train").glob("*.mp4"))


def video_folder(
    folder: Path, metadata: str | bytes, files: tuple[str, ...] = ("a.mp4", "b.mp4"), split="train", name="metadata.csv"
) -> Path:
    """A video folder of one split; its files are the first clips of the corpus, in this order."""
    split_folder = folder / split
    split_folder.mkdir(parents=True)
    for file, clip in zip(files, clips(), strict=False):
        (split_folder / file).parent.mkdir(exist_ok=True)
        shutil.copy(clip, split_folder / file)
    (split_folder / name).write_bytes(metadata if isinstance(metadata, bytes) else metadata.encode())
    return folder


def load(folder: Path, split: str = "train", max_clips: int | None = None, **values):
    return load_split(DataArguments(dataset=str(folder), **values), split, max_clips)


def rows(folder: Path, split: str = "train", column: str = "text", **values) -> list[tuple[str, str]]:
    dataset = load(folder, split, text_column=column, **values)
    return [(Path(row["video"]["path"]).name, row[column]) for row in dataset]


def error_of(folder: Path, split: str = "train", kind: type[Exception] = ValueError, **values) -> str:
    with pytest.raises(kind) as error:
        load(folder, split, **values)
    assert type(error.value) is kind
    return str(error.value)


def test_the_generated_corpus():
    for split, count in NUM_CLIPS.items():
        dataset = load(corpus(), split)
        assert len(dataset) == count
        assert set(dataset.column_names) == {"video", "text", "gloss", "signer", "handedness"}
        assert dataset[0]["video"]["bytes"] is None and Path(dataset[0]["video"]["path"]).is_file()


def test_clips_come_in_the_order_of_the_metadata(tmp_path):
    folder = video_folder(tmp_path, "file_name,text\nb.mp4,second\na.mp4,first\n")
    assert rows(folder) == [("b.mp4", "second"), ("a.mp4", "first")]


def test_dev_and_validation_are_the_same():
    assert rows(corpus(), "dev") == rows(corpus(), "validation")


@pytest.mark.parametrize("name", ["validation", "valid", "val", "dev"])
def test_names_of_the_validation_folder(name, tmp_path):
    folder = video_folder(tmp_path, "file_name,text\na.mp4,x\n", split=name)
    assert rows(folder, "validation") == [("a.mp4", "x")]


def test_sentences_stay_as_they_are_written(tmp_path):
    sentences = ["NA", "null", "007", "1e3", "nan", 'a, "b"', " it  rains ", "Ünï\u0301", "true"]
    lines = [json.dumps({"file_name": f"{index}.mp4", "text": text}) for index, text in enumerate(sentences)]
    files = tuple(f"{index}.mp4" for index in range(len(sentences)))
    folder = video_folder(tmp_path / "jsonl", "\n".join(lines), files, name="metadata.jsonl")
    assert [text for _, text in rows(folder)] == sentences
    quoted = ['"' + text.replace('"', '""') + '"' for text in sentences]
    table = "file_name,text\n" + "".join(f"{file},{text}\n" for file, text in zip(files, quoted, strict=True))
    folder = video_folder(tmp_path / "csv", table, files)
    assert [text for _, text in rows(folder)] == sentences
    plain = [f"{file},{text}\n" for file, text in zip(files, sentences, strict=True) if "," not in text]
    folder = video_folder(tmp_path / "unquoted", "file_name,text\n" + "".join(plain), files)
    assert [text for _, text in rows(folder)] == [text for text in sentences if "," not in text]


@pytest.mark.parametrize("name", ["metadata.csv", "metadata.jsonl"])
def test_byte_order_mark(name, tmp_path):
    csv, jsonl = "file_name,text\na.mp4,x\n", '{"file_name": "a.mp4", "text": "x"}\n\n'
    content = (csv if name.endswith("csv") else jsonl).encode("utf-8-sig")
    assert rows(video_folder(tmp_path, content, name=name)) == [("a.mp4", "x")]


@pytest.mark.parametrize("files", [("train_0.mp4", "test_1.mp4"), ("dev/x.mp4", "train/y.mp4"), ("A.MP4", "b.Mp4")])
def test_names_of_clips_mean_nothing(files, tmp_path):
    table = "file_name,text\n" + "".join(f"{file},{file}\n" for file in files)
    assert rows(video_folder(tmp_path, table, files, split="dev"), "dev") == [(Path(f).name, f) for f in files]


def test_folders_whose_names_are_glob_patterns(tmp_path):
    folder = video_folder(tmp_path / "corp[1]us *", "file_name,text\na.mp4,x\n")
    assert rows(folder) == [("a.mp4", "x")]


def test_clips_that_the_metadata_does_not_name_are_left_out(tmp_path):
    assert rows(video_folder(tmp_path, "file_name,text\nb.mp4,x\n")) == [("b.mp4", "x")]


def test_another_text_column(tmp_path):
    folder = video_folder(tmp_path, "file_name,text,translation\na.mp4,x,y\n")
    assert rows(folder, column="translation") == [("a.mp4", "y")]


def test_first_clips_only():
    first = rows(corpus())[:5]
    assert [(Path(row["video"]["path"]).name, row["text"]) for row in load(corpus(), max_clips=5)] == first
    assert len(load(corpus(), max_clips=500)) == NUM_CLIPS["train"]
    for count in (0, -3):
        expected = f"The number of clips to use must be 1 or more, got {count}."
        assert error_of(corpus(), max_clips=count) == expected


def test_unknown_split():
    assert error_of(corpus(), "exam", FileNotFoundError) == (
        f"{corpus()} must hold a folder for the split 'exam', it has ['dev', 'test', 'train']."
    )


def test_missing_data_set(tmp_path):
    for name in (str(tmp_path / "missing"), "no-such-data-set"):
        with pytest.raises(FileNotFoundError) as error:
            load_split(DataArguments(dataset=name), "train")
        assert str(error.value).startswith(f"--dataset {name!r} is neither a local folder nor a data set on the Hub: ")


def test_missing_metadata(tmp_path):
    folder = video_folder(tmp_path, "", name="notes.txt")
    assert error_of(folder, kind=FileNotFoundError) == (
        f"{tmp_path / 'train'} must hold metadata.csv with the columns file_name,text."
    )


@pytest.mark.parametrize(
    ("table", "expected"),
    [
        (
            "file_name,sentence\na.mp4,x\n",
            "{path} must have the column 'text', got ['file_name', 'sentence']. Pass --text_column.",
        ),
        ("file,text\na.mp4,x\n", "{path} must have the column 'file_name', got ['file', 'text']."),
        ("file_name,text\n", "{path} names no video."),
        ("", "{path} names no video."),
        (
            "file_name,text\na.mp4,x\n./a.mp4,y\nb.mp4,z\n",
            "{path} names 'a.mp4' more than once. Every clip needs its own file, or its own part of a file in "
            "the columns start and end (seconds).",
        ),
        (
            "file_name,text\na.mp4,x\nb.mp4,it rains, it pours\n",
            "{path}: row 2 has more values than the header. Put commas in double quotes.",
        ),
        ("file_name,text\na.mp4,x\n,y\n", "{path}: row 2 has no file_name."),
        (
            'file_name,text\na.mp4,"x\n',
            "{path} cannot be read: unexpected end of data.",
        ),
        (
            b"file_name,text\na.mp4,\xe4\n",
            "{path} is not UTF-8 text: 'utf-8' codec can't decode byte 0xe4 in position 21: invalid continuation byte. "
            "Save it as UTF-8.",
        ),
        (
            "file_name,text\na.mp4,x\nb.mp4,  \n",
            "1 sentence(s) of {folder} (train) are empty, the first in row 1 (counted from 0). Every clip needs its "
            "sentence.",
        ),
        (
            "file_name,text\na.mp4,\nb.mp4\n",
            "2 sentence(s) of {folder} (train) are empty, the first in row 0 (counted from 0). Every clip needs its "
            "sentence.",
        ),
    ],
)
def test_mistakes_in_metadata(table, expected, tmp_path):
    folder = video_folder(tmp_path, table)
    assert error_of(folder) == expected.format(path=folder / "train" / "metadata.csv", folder=folder)


@pytest.mark.parametrize(
    ("lines", "expected"),
    [
        ("[1, 2]\n", '{path}: row 1 must be an object, such as {{"file_name": ..., "text": ...}}.'),
        ('{"file_name": "a.mp4", "text": "x"}\n{"text": "y"}\n', "{path}: row 2 has no file_name."),
        (
            '{"file_name": "a.mp4", "text": "x"}\n{"file_name": "b.mp4", "text": null}\n',
            "1 sentence(s) of {folder} (train) are empty, the first in row 1 (counted from 0). Every clip needs its "
            "sentence.",
        ),
        ('{"file_name": 7, "text": "x"}\n', "{path}: row 1: file_name must be a text, got 7."),
        (
            '{"file_name": "a.mp4", "text": "x"}\n{"file_name": "b.mp4", "text": ["y"]}\n',
            "{path}: row 2: text must be a text, got ['y'].",
        ),
        (
            '{"file_name": "a.mp4", "text": "x", "start": [1]}\n',
            "{folder} (train): start must be seconds from the beginning of the video, got [1] in row 0 (counted from "
            "0).",
        ),
        ('{"file_name"\n', "{path} cannot be read: Expecting ':' delimiter: line 2 column 1 (char 13)."),
    ],
)
def test_mistakes_in_json_lines(lines, expected, tmp_path):
    folder = video_folder(tmp_path, lines, name="metadata.jsonl")
    assert error_of(folder) == expected.format(path=folder / "train" / "metadata.jsonl", folder=folder)


def test_json_lines_of_mixed_kinds(tmp_path):
    number = random.randrange(100)
    rows = [
        {"file_name": "a.mp4", "text": number, "signer": number, "gloss": ["RAIN"]},
        {"file_name": "b.mp4", "text": "it rains", "signer": "S2", "gloss": "RAIN"},
    ]
    folder = video_folder(tmp_path, "".join(json.dumps(row) + "\n" for row in rows), name="metadata.jsonl")
    clips = load(folder, "train")
    assert (clips["text"][:], clips["signer"][:]) == ([str(number), "it rains"], [str(number), "S2"])
    assert clips["gloss"][:] == ['["RAIN"]', "RAIN"]


def test_missing_videos(tmp_path):
    names = [f"{index}.mp4" for index in range(7)]
    folder = video_folder(tmp_path, "file_name,text\na.mp4,x\n" + "".join(f"{name},y\n" for name in names))
    assert error_of(folder, kind=FileNotFoundError) == (
        f"{folder / 'train' / 'metadata.csv'} names 7 video(s) that are not there: '0.mp4', '1.mp4', '2.mp4', '3.mp4', "
        "'4.mp4' and 2 more."
    )


# Names of columns, tables and splits


COLUMNS = {
    "as ours": "file_name,text,start,end,signer\n",
    "letter case": "File_Name,TEXT,Start,END,Signer\n",
    "spaces": " file name ,Text, start time ,end-time,signer id\n",
    "full width": "ｆｉｌｅ＿ｎａｍｅ,ｔｅｘｔ,ｓｔａｒｔ,ｅｎｄ,ｓｉｇｎｅｒ\n",
    "other names": "file_name,text,begin,End_Time,Speaker\n",
}


@pytest.mark.parametrize("header", COLUMNS.values(), ids=COLUMNS)
@pytest.mark.parametrize("delimiter", [",", ";", "\t", "sep=;"])
def test_columns_are_understood_however_they_are_written(header, delimiter, tmp_path, capsys):
    table = f"{header}a.mp4,x,0.2,0.8,A\nb.mp4,y,,,B\n".replace(",", delimiter[-1])
    folder = video_folder(tmp_path, f"sep=;\r\n{table}" if delimiter == "sep=;" else table)
    capsys.readouterr()  # the corpus is rendered for the first test that needs it
    clips = load(folder)
    assert [(row["text"], row["start"], row["end"], row["signer"]) for row in clips] == [
        ("x", 0.2, 0.8, "A"), ("y", None, None, "B"),
    ]  # fmt: skip
    assert capsys.readouterr().err == ""


def test_another_text_column_in_any_letter_case(tmp_path):
    folder = video_folder(tmp_path, "file_name,SATZ\na.mp4,x\n")
    assert rows(folder, column="satz") == [("a.mp4", "x")]


def test_columns_that_only_later_rows_have(tmp_path):
    lines = [{"file_name": "a.mp4", "text": "x"}, {"file_name": "b.mp4", "text": "y", "Start": 0.4, "signer": "B"}]
    folder = video_folder(tmp_path, "".join(json.dumps(line) + "\n" for line in lines), name="metadata.jsonl")
    clips = load(folder)
    assert (list(clips["start"]), list(clips["signer"])) == ([None, 0.4], [None, "B"])


def test_columns_that_are_not_used_are_named_once(tmp_path, capsys):
    table = "file_name,text,Hamnosys,gloss,comment,name\na.mp4,x,,g,,n\n"
    folder = video_folder(video_folder(tmp_path, table), table, split="dev")
    capsys.readouterr()
    for split in ("train", "dev", "train"):
        load(folder, split)
    assert capsys.readouterr().err == f"{folder}: unused columns: Hamnosys, comment.\n"


def test_many_columns_and_odd_characters_do_not_fill_the_terminal():
    said = say_unused([f"x{index:03}" for index in range(500)] + ["a\x1b[2J"])
    assert said.startswith("unused columns: a\ufffd[2J, x000, x001") and said.endswith("x018 and 481 more")


@pytest.mark.parametrize(
    ("columns", "expected"),
    [
        ("start_frame", "has a column 'start_frame', which is not recognised and may be the start of each clip. "),
        ("data_Split_2", "has a column 'data_Split_2', which is not recognised and may be the split of each clip. "),
        ("start,stop", "has a column 'stop', which is not recognised and may be the end of each clip. "),
        ("Text", "must have the columns"),
        ("Signer,SIGNER", "must have the columns signer once each, got ['file_name', 'text', 'Signer', 'SIGNER']."),
    ],
)
def test_columns_that_may_be_splits_or_times_stop_the_command(columns, expected, tmp_path):
    values = ",".join("1" for _ in columns.split(","))
    folder = video_folder(tmp_path, f"file_name,text,{columns}\na.mp4,x,{values}\n")
    if columns == "Text":
        assert rows(folder) == [("a.mp4", "x")]  # the exact name counts
    else:
        assert error_of(folder).startswith(f"{folder / 'train' / 'metadata.csv'} {expected}")


@pytest.mark.parametrize("column", ["split", "Split", "subset", "Data Split"])
def test_rows_of_other_splits_are_no_training_clips(column, tmp_path):
    table = f"file_name,text,{column}\na.mp4,x,Train\nb.mp4,y,{{}}\n"
    for number, (value, is_right) in enumerate(
        {"training": True, "": True, "test": False, "Dev": False, "2": False}.items()
    ):
        folder = video_folder(tmp_path / str(number), table.format(value))
        if is_right:
            assert len(load(folder)) == 2
        else:
            assert error_of(folder) == (
                f"{folder / 'train' / 'metadata.csv'}: row 2: its column split says {value!r}, but it is read as a "
                "clip of train. Move the clip to its own split, or remove the column."
            )


@pytest.mark.parametrize(
    ("name", "split"), [("Train", "train"), ("DEV", "dev"), ("Val", "validation"), ("testing", "test")]
)
def test_splits_are_found_in_any_letter_case(name, split, tmp_path):
    folder = video_folder(tmp_path, "file_name,text\na.mp4,x\n", split=name, name="Metadata.CSV")
    assert rows(folder, split) == [("a.mp4", "x")]


def test_several_folders_or_tables_for_one_split(tmp_path):
    folder = tmp_path
    for name in ("dev", "valid"):
        video_folder(folder, f"file_name,text\na.mp4,{name}\n", split=name)
    assert rows(folder, "dev") == [("a.mp4", "dev")] and rows(folder, "valid") == [("a.mp4", "valid")]
    assert error_of(folder, "validation") == (
        f"{folder} has several folders for the split 'validation': dev, valid. Leave one of them."
    )
    (folder / "dev" / "metadata.jsonl").write_text("{}")
    assert error_of(folder, "dev") == f"{folder / 'dev'} has metadata.csv and metadata.jsonl. Leave one of them."


@pytest.mark.parametrize(("on_disk", "in_table"), [("NFC", "NFD"), ("NFD", "NFC")])
def test_names_of_files_in_either_unicode_form(on_disk, in_table, tmp_path):
    name = "grüße.mp4"
    table = f"file_name,text\n{unicodedata.normalize(in_table, name)},x\n"
    folder = video_folder(tmp_path, table, files=(unicodedata.normalize(on_disk, name),))
    assert rows(folder) == [(unicodedata.normalize(on_disk, name), "x")]


@pytest.mark.parametrize("start", ["1e18", "99999999999"])
def test_seconds_that_no_video_has(start, tmp_path):
    folder = video_folder(tmp_path, f"file_name,text,start\na.mp4,x,{start}\n")
    assert error_of(folder) == (
        f"{folder} (train): start must be seconds from the beginning of the video, got {start!r} in row 0 (counted "
        "from 0)."
    )


def test_names_of_classes_are_texts_and_dictionaries_are_none():
    kinds = datasets.Features(
        signer=datasets.ClassLabel(names=["Anna", "Ben"]),
        text=datasets.Value("int64"),
        both={"de": datasets.Value("string")},
    )
    clips = datasets.Dataset.from_dict({"signer": [1, None, 0], "text": [7, 8, 9], "both": [{"de": "x"}] * 3}, kinds)
    texts = with_texts(clips, ("signer", "text"), "corpus")
    assert (list(texts["signer"]), list(texts["text"])) == (["Ben", None, "Anna"], ["7", "8", "9"])
    with pytest.raises(
        ValueError, match=re.escape("corpus: the column both must hold text, got {'de': Value('string')}.")
    ):
        with_texts(clips, ("both",), "corpus")


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("{outside}/secret.mp4", "'{outside}/secret.mp4' would leave {train}. "),
        ("../../outside/secret.mp4", "'../../outside/secret.mp4' would leave {train}. "),
        ("a/../../../outside/secret.mp4", "'a/../../../outside/secret.mp4' would leave {train}. "),
        ("..\\\\outside\\\\secret.mp4", "'..\\\\\\\\outside\\\\\\\\secret.mp4' would leave {train}. "),
        ("C:\\\\secret.mp4", "'C:\\\\\\\\secret.mp4' would leave {train}. "),
        ("link.mp4", "{train}/link.mp4 is a link to {outside}/secret.mp4, outside its folder. "),
        ("folder/secret.mp4", "{train}/folder/secret.mp4 is a link to {outside}/secret.mp4, outside its folder. "),
    ],
)
@pytest.mark.parametrize("metadata", ["metadata.csv", "metadata.jsonl"])
def test_only_what_lies_inside_the_folder_is_read(metadata, name, expected, tmp_path):
    outside, train = tmp_path / "outside", tmp_path / "data" / "train"
    outside.mkdir()
    shutil.copy(clips()[0], outside / "secret.mp4")
    name = name.format(outside=outside)
    table = f"file_name,text\na.mp4,x\n{name},y\n"
    if metadata == "metadata.jsonl":
        table = "".join(json.dumps({"file_name": each, "text": "x"}) + "\n" for each in ("a.mp4", name))
    folder = video_folder(tmp_path / "data", table, name=metadata)
    (train / "link.mp4").symlink_to(outside / "secret.mp4")
    (train / "folder").symlink_to(outside)
    text = error_of(folder)
    assert text.startswith(f"{train / metadata}: row 2: {expected.format(outside=outside, train=train)}"), text


def test_links_within_the_folder_and_of_the_cache_of_the_hub_are_read(tmp_path):
    snapshot = tmp_path / "datasets--me--corpus" / "snapshots" / "0123"
    folder = video_folder(snapshot, "file_name,text\na.mp4,x\nb.mp4,y\n", files=("a.mp4",))
    (snapshot.parent.parent / "blobs").mkdir()
    for path in [folder / "train" / "a.mp4", folder / "train" / "metadata.csv"]:
        path.rename(blob := snapshot.parent.parent / "blobs" / path.stem)
        path.symlink_to(blob)
    (folder / "train" / "b.mp4").symlink_to("a.mp4")
    assert rows(folder) == [("a.mp4", "x"), ("b.mp4", "y")]


@pytest.mark.parametrize("linked", ["metadata.csv", "train"])
def test_tables_and_splits_that_are_links_out_of_the_folder(linked, tmp_path):
    folder = video_folder(tmp_path / "data", "file_name,text\na.mp4,x\n")
    path = folder / "train" if linked == "train" else folder / "train" / linked
    target = path.rename(tmp_path / linked)
    path.symlink_to(target)
    assert error_of(folder) == (f"{path} is a link to {target}, outside its folder. Put the file itself in its place.")


def make_dataset(processor, split="train", augmentation: AugmentationArguments | None = STRONG, **values):
    augmenting = None if augmentation is None else ClipAugmentation(augmentation, VIDEO)
    return SignClipDataset(load(corpus(), split), processor, augmentation=augmenting, **values)


def assert_same_items(first, second) -> None:
    assert first["text"] == second["text"] and first["is_cropped"] == second["is_cropped"]
    assert torch.equal(first["frames"], second["frames"])


def test_evaluation_frames_are_what_the_processor_gives_for_the_file(processor):
    dataset = make_dataset(processor, "dev", augmentation=None)
    items = [dataset[index] for index in range(len(dataset))]
    batch = TranslationCollator(processor)(items)
    files = [row["video"]["path"] for row in dataset.dataset]
    expected = processor(videos=files, text_target=dataset.texts, return_tensors="pt")
    assert set(batch) == set(expected)
    for name, values in expected.items():
        assert torch.equal(batch[name], values), name


def test_training_batches_have_the_final_size(processor):
    dataset = make_dataset(processor)
    items = [dataset[index] for index in range(4)]
    assert all(item["is_cropped"] and item["frames"].dtype == torch.uint8 for item in items)
    batch = TranslationCollator(processor)(items)
    lengths = [len(item["frames"]) for item in items]
    assert batch["pixel_values_videos"].shape == (4, max(lengths), 3, SIZE_IN_PIXELS, SIZE_IN_PIXELS)
    assert batch["pixel_attention_mask"].sum(1).tolist() == lengths
    assert processor.batch_decode(batch["labels"]) == dataset.texts[:4]


@pytest.mark.parametrize("augmentation", [None, STRONG])
def test_decoded_videos_that_are_kept_give_the_same_items(augmentation, processor, seed):
    plain = make_dataset(processor, augmentation=augmentation, seed=seed)
    keeping = make_dataset(processor, augmentation=augmentation, seed=seed, keep_decoded_videos=True)
    for epoch in (0, 1):  # in the second from memory
        plain.set_epoch(epoch)
        keeping.set_epoch(epoch)
        for index in range(4):
            assert_same_items(plain[index], keeping[index])


def test_items_follow_from_seed_epoch_and_index_alone(processor, seed):
    dataset = make_dataset(processor, seed=seed)
    first = dataset[3]
    torch.manual_seed(seed + 1)
    dataset[5]
    before = torch.get_rng_state()
    assert_same_items(dataset[3], first)
    assert torch.equal(torch.get_rng_state(), before), "the augmentation drew from the random numbers of the training"
    assert_same_items(make_dataset(processor, seed=seed)[3], first)
    assert not _same_frames(make_dataset(processor, seed=seed + 1)[3], first)
    dataset.set_epoch(1)
    assert not _same_frames(dataset[3], first)
    dataset.set_epoch(0)
    assert_same_items(dataset[3], first)


def _same_frames(first, second) -> bool:
    return first["frames"].shape == second["frames"].shape and torch.equal(first["frames"], second["frames"])


def items_of_loader(dataset, num_workers: int) -> list[dict]:
    loader = DataLoader(dataset, batch_size=3, num_workers=num_workers, collate_fn=list)
    return [item for batch in loader for item in batch]


def test_items_do_not_depend_on_the_number_of_workers(processor, seed):
    dataset = make_dataset(processor, seed=seed)
    for epoch in (0, 1):
        dataset.set_epoch(epoch)
        expected = [dataset[index] for index in range(len(dataset))]
        for num_workers in (0, 1, 2):
            for item, other in zip(expected, items_of_loader(dataset, num_workers), strict=True):
                assert_same_items(item, other)


def test_workers_that_stay_see_the_next_epoch(processor):
    dataset = make_dataset(processor)
    loader = DataLoader(dataset, batch_size=4, num_workers=1, collate_fn=list, persistent_workers=True)
    for epoch in (0, 1):
        dataset.set_epoch(epoch)
        items = [item for batch in loader for item in batch]
        for index in (0, len(dataset) - 1):
            assert_same_items(items[index], dataset[index])


@pytest.mark.parametrize("name", ["metadata.csv", "metadata.jsonl"])
def test_start_and_end_cut_a_part_of_a_file(name, processor, tmp_path):
    table = "file_name,text,start,end\na.mp4,x,0.4,0.96\nb.mp4,y,,0.5\n"
    lines = (
        '{"file_name": "a.mp4", "text": "x", "start": 0.4, "end": 0.96}\n'
        '{"file_name": "b.mp4", "text": "y", "end": 0.5}\n'
    )
    folder = video_folder(tmp_path, table if name.endswith("csv") else lines, name=name)
    dataset = SignClipDataset(load(folder), processor)
    kept = SignClipDataset(load(folder), processor, keep_decoded_videos=True)
    for index, (clip, start, end) in enumerate([(clips()[0], 0.4, 0.96), (clips()[1], None, 0.5)]):
        expected = processor(videos=str(clip), text_target="x", start=start, end=end, return_tensors="pt")
        batch = TranslationCollator(processor)([dataset[index]])
        assert torch.equal(batch["pixel_values_videos"], expected["pixel_values_videos"])
        assert_same_items(dataset[index], kept[index])
        assert len(dataset[index]["frames"]) < len(SignClipDataset(load(corpus()), processor)[index]["frames"])


@pytest.mark.parametrize("num_workers", [0, 1])
def test_a_broken_video_is_named(num_workers, processor, tmp_path):
    folder = video_folder(tmp_path, "file_name,text\na.mp4,x\nb.mp4,y\n")
    (folder / "train" / "b.mp4").write_bytes(b"no video at all")
    loader = DataLoader(
        SignClipDataset(load(folder), processor), num_workers=num_workers, collate_fn=TranslationCollator(processor)
    )
    with pytest.raises(VideoDecodingError, match=re.escape(f"'{folder / 'train' / 'b.mp4'}' is not a video")):
        list(loader)


@pytest.mark.slow
def test_items_of_videos_given_as_bytes(processor):
    from_files = load(corpus(), "dev")
    content = [{"bytes": Path(row["video"]["path"]).read_bytes(), "path": None} for row in from_files]
    from_bytes = from_files.remove_columns("video").add_column("video", content)
    for index in range(2):
        assert_same_items(SignClipDataset(from_bytes, processor)[index], SignClipDataset(from_files, processor)[index])


# Parts of one long video


def segments(count: int) -> str:
    rows = [f"a.mp4,sentence {index},{0.1 * index:.2f},{0.1 * index + 0.15:.2f}\n" for index in range(count)]
    return "file_name,text,start,end\n" + "".join(rows)


@pytest.mark.slow
@pytest.mark.parametrize("keep_decoded_videos", [False, True])
def test_parts_of_one_file_are_clips_of_their_own(keep_decoded_videos, processor, tmp_path):
    folder = video_folder(tmp_path, segments(4))
    frames = counting_frames(60)
    write_video(folder / "train" / "a.mp4", frames, fps=50)
    dataset = SignClipDataset(load(folder), processor, keep_decoded_videos=keep_decoded_videos)
    assert dataset.texts == [f"sentence {index}" for index in range(4)]
    for _ in range(2):  # the second time from memory
        for index in range(4):
            wanted = [5 * index + shift for shift in processor.video_processor.sample_frame_indices(8)]
            read = frame_numbers(dataset[index]["frames"], 60)
            assert len(read) == len(wanted)
            assert all(abs(found - frame) <= 1 for found, frame in zip(read, wanted, strict=True)), (read, wanted)
    if keep_decoded_videos:
        assert {len(clip.values) for clip in dataset._decoded.values()} <= {7, 8}


@pytest.mark.parametrize(
    ("table", "expected"),
    [
        (
            "file_name,text,start,end\na.mp4,x,1,2\na.mp4,y,2,3\n./a.mp4,z,1.0,2.00\n",
            "{path} names 'a.mp4' more than once. Every clip needs its own file, or its own part of a file in "
            "the columns start and end (seconds).",
        ),
        (
            "file_name,text,start,end\na.mp4,x,0,1\nb.mp4,y,2,1.5\n",
            "{folder} (train): row 1 (counted from 0) ends at 1.5 s, but starts at 2 s. Each part of a video must end "
            "after its start.",
        ),
        (
            "file_name,text,start,end\na.mp4,x,00:01,2\n",
            "{folder} (train): start must be seconds from the beginning of the video, got '00:01' in row 0 (counted "
            "from 0).",
        ),
        (
            "file_name,text,num_frames\na.mp4,x,many\n",
            "{folder} (train): num_frames must be a number of frames, got 'many' in row 0 (counted from 0).",
        ),
    ],
)
def test_mistaken_parts(table, expected, tmp_path):
    folder = video_folder(tmp_path, table)
    assert error_of(folder) == expected.format(path=folder / "train" / "metadata.csv", folder=folder)


@pytest.mark.slow
def test_an_hour_of_video_with_300_parts_takes_no_more_memory_than_one_part(tmp_path):
    """Whole, its frames would take 330 MB."""
    table = "file_name,text,start,end\n" + "".join(f"a.mp4,x,{12 * part},{12 * part + 10}\n" for part in range(300))
    folder = video_folder(tmp_path, table)
    write_video(folder / "train" / "a.mp4", counting_frames(3600 * 2, 96, 160), fps=2)
    in_another_process(write_growth, folder, language_model(), tmp_path / "grown")
    assert int((tmp_path / "grown").read_text()) < 40_000


def write_growth(rank: int, folder: Path, tokenizer: Path, path: Path) -> None:
    """By how many kilobytes the peak memory of this process grows from the sixth part on."""
    dataset = SignClipDataset(load(folder), build_processor(VIDEO, AutoTokenizer.from_pretrained(tokenizer)))
    lengths = [len(dataset[index]["frames"]) for index in range(5)]
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    lengths += [len(dataset[index]["frames"]) for index in range(5, 300)]
    assert set(lengths) <= {5, 6}, set(lengths)
    path.write_text(str(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before))


# Several data sets


def test_several_data_sets_one_after_another(processor, tmp_path):
    first = video_folder(tmp_path / "one", "file_name,text,start,signer\na.mp4,x,0.2,A\nb.mp4,y,,\n")
    lines = '{"file_name": "a.mp4", "text": "z", "num_frames": 12, "spoken_language": "de"}\n'
    second = video_folder(tmp_path / "two", lines, name="metadata.jsonl")
    clips, sizes = load_training_split(DataArguments(dataset=[str(first), str(second)]))
    assert sizes == [2, 1]
    assert [(row["text"], row["start"], row["num_frames"], row["spoken_language"]) for row in clips] == [
        ("x", 0.2, None, None), ("y", None, None, None), ("z", None, 12, "de"),
    ]  # fmt: skip
    assert list(clips["signer"]) == ["A", "", None]
    dataset = SignClipDataset(clips, processor)
    for index, (folder, row) in enumerate([(first, 0), (first, 1), (second, 0)]):
        assert_same_items(dataset[index], SignClipDataset(load(folder), processor)[row])


def test_columns_that_only_one_of_several_data_sets_has_are_named(tmp_path, capsys):
    first = video_folder(tmp_path / "one", "file_name,text,Start,mouthing\na.mp4,x,0.2,m\n")
    second = video_folder(tmp_path / "two", "file_name,TEXT,topic\nb.mp4,y,t\n")
    clips, _ = load_training_split(DataArguments(dataset=[str(first), str(second)]))
    assert [(row["text"], row["start"]) for row in clips] == [("x", 0.2), ("y", None)]
    expected = f"{first}: unused columns: mouthing.\n{second}: unused columns: topic.\n"
    assert capsys.readouterr().err.startswith(expected)


def test_one_data_set_is_loaded_as_it_is():
    arguments = DataArguments(dataset=str(corpus()), max_train_clips=5)
    clips, sizes = load_training_split(arguments)
    assert arguments.dataset == [str(corpus())] and sizes == [5]
    assert clips.column_names == load(corpus()).column_names and list(clips["text"]) == list(load(corpus())["text"])[:5]


def test_the_most_clips_of_each_data_set():
    clips, sizes = load_training_split(DataArguments(dataset=[str(corpus())] * 2, max_train_clips=3))
    assert sizes == [3, 3] and len(clips) == 6


# Lengths


@pytest.mark.parametrize("augmentation", [None, STRONG])
def test_no_clip_is_longer_than_its_longest_length(augmentation, processor):
    dataset = make_dataset(processor, augmentation=augmentation)
    longest = dataset.longest_lengths()
    for epoch in range(4):
        dataset.set_epoch(epoch)
        lengths = [len(dataset[index]["frames"]) for index in range(len(dataset))]
        assert all(length <= most for length, most in zip(lengths, longest, strict=True))
        assert augmentation is not None or lengths == longest


def test_lengths_are_those_of_the_metadata_or_of_the_part(processor, tmp_path):
    parts = ("a.mp4,x,,,400", "a.mp4,y,0.2,0.6,", "a.mp4,z,0.6,,", "b.mp4,w,,0.4,", "b.mp4,v,,,")
    table = "\n".join(["file_name,text,start,end,num_frames", *parts])
    folder = video_folder(tmp_path, table)
    dataset = SignClipDataset(load(folder), processor)
    lengths = dataset.longest_lengths()
    assert lengths[0] == 100  # a quarter of what the metadata says
    for index in range(1, 5):
        assert abs(lengths[index] - len(dataset[index]["frames"])) <= 1


def test_lengths_of_videos_without_a_length_in_their_header(processor, tmp_path):
    folder = video_folder(tmp_path, "file_name,text\nc.webm,x\n")
    write_video(folder / "train" / "c.webm", counting_frames(40), live=True)
    dataset = SignClipDataset(load(folder), processor)
    assert dataset.longest_lengths() == [len(dataset[0]["frames"])] == [10]


def test_lengths_of_what_is_no_video(processor, tmp_path):
    folder = video_folder(tmp_path, "file_name,text\na.mp4,x\n")
    (folder / "train" / "a.mp4").write_bytes(b"no video at all")
    with pytest.raises(VideoDecodingError, match=re.escape(f"'{folder / 'train' / 'a.mp4'}' is not a video")):
        SignClipDataset(load(folder), processor).longest_lengths()


def test_scores_of_parts_name_them(tmp_path, capsys):
    folder = video_folder(
        tmp_path / "c", "file_name,text,start,end\na.mp4,x,,0.5\na.mp4,y,0.5,\nb.mp4,z,,\n", split="test"
    )
    values = {"model": trained_model(), "dataset": folder, "device": "cpu", "disable_tqdm": True}
    for name, on_device in (("cpu", False), ("device", True)):
        argv = flags(**values, output_dir=tmp_path / name, preprocess_on_device=on_device)
        assert evaluate_model.main(argv) == 0
    text = (tmp_path / "cpu" / "predictions.jsonl").read_text(encoding="utf-8")
    assert text == (tmp_path / "device" / "predictions.jsonl").read_text(encoding="utf-8")
    clips = [json.loads(line) for line in text.splitlines()]
    assert [(clip["file_name"], clip.get("start"), clip.get("end"), clip["reference"]) for clip in clips] == [
        ("a.mp4", None, 0.5, "x"), ("a.mp4", 0.5, None, "y"), ("b.mp4", None, None, "z"),
    ]  # fmt: skip
    argv = flags(**{**values, "dataset": [folder, folder]}, output_dir=tmp_path / "two")
    expected = "--dataset: one data set is scored at a time, got 2. Score them in turn."
    assert error_of_command(evaluate_model.main, argv, capsys) == expected


# Pixels made where the model is


@pytest.mark.parametrize("augmentation", [None, STRONG])
def test_frames_of_the_device_are_those_of_the_loading_processes(augmentation, processor, seed):
    batches = []
    for preprocess_on_device in (False, True):
        values = {"seed": seed, "preprocess_on_device": preprocess_on_device}
        dataset = make_dataset(processor, augmentation=augmentation, **values)
        dataset.set_epoch(2)
        items = [dataset[index] for index in range(5)]
        batches.append(TranslationCollator(processor, preprocess_on_device)(items))
    expected, raw = batches
    assert next(iter(raw)) == "labels" and all(clip.dtype == torch.uint8 for clip in raw["frames"])
    augmenting = None if augmentation is None else ClipAugmentation(augmentation, VIDEO)
    state = torch.get_rng_state()
    pixels = FramePreprocessor(processor.modality, augmenting)(raw["frames"], raw["spatial_seeds"])
    assert torch.equal(torch.get_rng_state(), state)
    assert {*pixels, "labels"} == set(expected)
    assert torch.equal(raw["labels"], expected["labels"])
    for name, values in pixels.items():
        torch.testing.assert_close(values, expected[name], atol=1e-5, rtol=0)


@pytest.mark.gpu
@pytest.mark.parametrize("augmentation", [None, STRONG])
def test_frames_made_on_a_gpu(augmentation, processor, seed):
    dataset = make_dataset(processor, augmentation=augmentation, preprocess_on_device=True, seed=seed)
    raw = TranslationCollator(processor, True)([dataset[index] for index in range(5)])
    preprocess = FramePreprocessor(
        processor.modality, None if augmentation is None else ClipAugmentation(augmentation, VIDEO)
    )
    expected = preprocess(raw["frames"], raw["spatial_seeds"])["pixel_values_videos"]
    state = torch.cuda.get_rng_state()
    made = preprocess([clip.cuda() for clip in raw["frames"]], raw["spatial_seeds"])["pixel_values_videos"]
    assert made.is_cuda and torch.equal(torch.cuda.get_rng_state(), state)
    # Two levels of 255 through a standard deviation of 0.225: a GPU rounds otherwise, in resizing and in augmenting
    assert (made.cpu() - expected).abs().quantile(0.99) < 2.1 / 255 / 0.225


@pytest.mark.parametrize("name", ["clip.m3u8", "clip.mp4"])
def test_counting_frames_follows_no_playlist(tmp_path, name):
    clip = write_video(tmp_path / "secret.ts", counting_frames(10))
    (tmp_path / name).write_text(f"#EXTM3U\n#EXT-X-TARGETDURATION:5\n#EXTINF:5,\n{clip}\n#EXT-X-ENDLIST\n")
    with pytest.raises(VideoDecodingError, match="is not a video that can be read"):
        frames_and_seconds(str(tmp_path / name))


@pytest.mark.parametrize("suffix", ["mp4", "webm", "mkv"])
def test_frames_are_counted_of_the_picture_however_long_the_sound(tmp_path, suffix):
    path = write_packets(tmp_path / f"clip.{suffix}", counting_frames(50), seconds_of_sound=5.0)
    num_frames, seconds = frames_and_seconds(str(path))
    assert num_frames == 50 and seconds == pytest.approx(2.0, abs=0.05)
