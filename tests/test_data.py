"""Video folders with their mistakes, the items of the data set, and the batches of the collator."""

import json
import re
import shutil
from pathlib import Path

import pytest
import torch
from tiny_corpus import NUM_CLIPS, SIZE_IN_PIXELS, corpus, language_model
from torch.utils.data import DataLoader
from transformers import AutoTokenizer

from processing import FLaLLMProcessor, VideoDecodingError
from train_scripts.arguments import AugmentationArguments, DataArguments, VideoArguments
from train_scripts.augmentation import ClipAugmentation
from train_scripts.data import SignVideoDataset, TranslationCollator, load_split
from train_scripts.training import build_processor

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
        assert set(dataset.column_names) == {"video", "text", "gloss", "signer"}
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
        assert str(error.value).startswith(f"--dataset {name!r} is no folder here, and no data set on the Hub: ")


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
            "{path} names 'a.mp4' more than once. Every clip needs a file of its own.",
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
        ('{"file_name"\n', "{path} cannot be read: Expecting ':' delimiter: line 2 column 1 (char 13)."),
    ],
)
def test_mistakes_in_json_lines(lines, expected, tmp_path):
    folder = video_folder(tmp_path, lines, name="metadata.jsonl")
    assert error_of(folder) == expected.format(path=folder / "train" / "metadata.jsonl", folder=folder)


def test_missing_videos(tmp_path):
    names = [f"{index}.mp4" for index in range(7)]
    folder = video_folder(tmp_path, "file_name,text\na.mp4,x\n" + "".join(f"{name},y\n" for name in names))
    assert error_of(folder, kind=FileNotFoundError) == (
        f"{folder / 'train' / 'metadata.csv'} names 7 video(s) that are not there: '0.mp4', '1.mp4', '2.mp4', '3.mp4', "
        "'4.mp4' and 2 more."
    )


def make_dataset(processor, split="train", augmentation: AugmentationArguments | None = STRONG, **values):
    augmenting = None if augmentation is None else ClipAugmentation(augmentation, VIDEO)
    return SignVideoDataset(load(corpus(), split), processor, augmentation=augmenting, **values)


def assert_same_items(first, second) -> None:
    assert first["text"] == second["text"] and first["is_cropped"] == second["is_cropped"]
    assert torch.equal(first["frames"], second["frames"])


def test_evaluation_frames_are_what_the_processor_gives_for_the_file(processor):
    dataset = make_dataset(processor, "dev", augmentation=None)
    items = [dataset[index] for index in range(len(dataset))]
    batch = TranslationCollator(processor)(items)
    files = [row["video"]["path"] for row in dataset.dataset]
    expected = processor(videos=files, text=dataset.texts, return_tensors="pt")
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
    dataset = SignVideoDataset(load(folder), processor)
    kept = SignVideoDataset(load(folder), processor, keep_decoded_videos=True)
    for index, (clip, start, end) in enumerate([(clips()[0], 0.4, 0.96), (clips()[1], None, 0.5)]):
        expected = processor(videos=str(clip), text="x", start=start, end=end, return_tensors="pt")
        batch = TranslationCollator(processor)([dataset[index]])
        assert torch.equal(batch["pixel_values_videos"], expected["pixel_values_videos"])
        assert_same_items(dataset[index], kept[index])
        assert len(dataset[index]["frames"]) < len(SignVideoDataset(load(corpus()), processor)[index]["frames"])


@pytest.mark.parametrize("num_workers", [0, 1])
def test_a_broken_video_is_named(num_workers, processor, tmp_path):
    folder = video_folder(tmp_path, "file_name,text\na.mp4,x\nb.mp4,y\n")
    (folder / "train" / "b.mp4").write_bytes(b"no video at all")
    loader = DataLoader(
        SignVideoDataset(load(folder), processor), num_workers=num_workers, collate_fn=TranslationCollator(processor)
    )
    with pytest.raises(VideoDecodingError, match=re.escape(f"'{folder / 'train' / 'b.mp4'}' is not a video")):
        list(loader)


def test_items_of_videos_given_as_bytes(processor):
    from_files = load(corpus(), "dev")
    content = [{"bytes": Path(row["video"]["path"]).read_bytes(), "path": None} for row in from_files]
    from_bytes = from_files.remove_columns("video").add_column("video", content)
    for index in range(2):
        assert_same_items(
            SignVideoDataset(from_bytes, processor)[index], SignVideoDataset(from_files, processor)[index]
        )
