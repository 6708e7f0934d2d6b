"""Data sets in shards in a folder, Parquet and WebDataset: the clips of a folder of videos, streamed too."""

import csv
import io
import itertools
import json
import tarfile
from pathlib import Path

import datasets
import numpy as np
import pytest
import torch
from random_inputs import random_generator
from tiny_corpus import corpus, error_of, log_of, stage1_flags, trained_model

from modeling_flallm import FLaLLMProcessor
from train_scripts.arguments.data_arguments import DataArguments
from train_scripts.arguments.training_arguments import FLaLLMTrainingArguments
from train_scripts.clips.clip_folders import read_metadata
from train_scripts.clips.data import SignClipDataset
from train_scripts.clips.hub_data_sets import is_clip_folder, open_on_hub
from train_scripts.clips.splits import load_split, split_names
from train_scripts.clips.streaming import StreamedClipDataset, open_streams
from train_scripts.commands import translate
from train_scripts.stages import visual_initialing

CLIPS_OF_A_SHARD = 5
FORMATS = ("parquet", "tar", "tar with json")
every_format = pytest.mark.parametrize("kind", FORMATS)


@pytest.fixture(autouse=True)
def own_cache(tmp_path, monkeypatch):
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")


def rows_of(split: str) -> list[tuple[str, bytes, str]]:
    folder = corpus() / split
    return [
        (Path(row["file_name"]).stem, (folder / row["file_name"]).read_bytes(), row["text"])
        for row in read_metadata(folder, "text")
    ]


def write_shards(folder: Path, kind: str) -> Path:
    """The tiny corpus in shards: videos and sentences."""
    folder.mkdir()
    for split, name in (("train", "train"), ("dev", "validation"), ("test", "test")):
        rows = rows_of(split)
        for first in range(0, len(rows), CLIPS_OF_A_SHARD):
            write = {"parquet": write_parquet, "tar": write_tar, "tar with json": write_tar_with_json}[kind]
            write(folder / f"{name}-{first:05d}.{kind.split()[0]}", rows[first : first + CLIPS_OF_A_SHARD])
    return folder


def write_parquet(path: Path, rows: list[tuple[str, bytes, str]]) -> None:
    videos = [{"bytes": content, "path": f"{key}.mp4"} for key, content, _ in rows]
    columns = datasets.Features({"video": datasets.Video(decode=False), "text": datasets.Value("string")})
    values = {"video": videos, "text": [text for *_, text in rows]}
    datasets.Dataset.from_dict(values, features=columns).to_parquet(path)


def write_tar(path: Path, rows: list[tuple[str, bytes, str]]) -> None:
    with tarfile.open(path, "w") as archive:
        for key, content, text in rows:
            add(archive, f"{key}.mp4", content)
            add(archive, f"{key}.txt", text.encode())


def write_tar_with_json(path: Path, rows: list[tuple[str, bytes, str]]) -> None:
    with tarfile.open(path, "w") as archive:
        for key, content, text in rows:
            add(archive, f"{key}.mp4", content)
            add(archive, f"{key}.json", json.dumps({"text": text, "signer": f"{key} signs"}).encode())


def add(archive: tarfile.TarFile, name: str, data: bytes) -> None:
    facts = tarfile.TarInfo(name)
    facts.size = len(data)
    archive.addfile(facts, io.BytesIO(data))


def items_of(name: Path, split: str) -> list[dict]:
    processor = FLaLLMProcessor.from_pretrained(trained_model())
    return list(SignClipDataset(load_split(DataArguments([str(name)]), split), processor))


@every_format
def test_shards_hold_the_clips_of_a_folder(kind, tmp_path):
    folder = write_shards(tmp_path / "shards", kind)
    assert not is_clip_folder(str(folder)) and is_clip_folder(str(corpus()))
    assert sorted(split_names(str(folder))) == ["test", "train", "validation"]
    for split in ("train", "dev", "test"):
        found, expected = items_of(folder, split), items_of(corpus(), split)
        assert [item["text"] for item in found] == [item["text"] for item in expected]
        for one, other in zip(found, expected, strict=True):
            assert one.keys() == other.keys()
            tensors = [name for name, value in other.items() if isinstance(value, torch.Tensor)]
            assert tensors and all(torch.equal(one[name], other[name]) for name in tensors)


@pytest.mark.parametrize("streaming", [False, True])
def test_what_a_json_file_says_is_columns(streaming, tmp_path):
    rows = open_on_hub(str(write_shards(tmp_path / "shards", "tar with json")), "test", streaming)
    rows = list(rows.select_columns(["text", "signer"]))
    assert rows == [{"text": text, "signer": f"{key} signs"} for key, _, text in rows_of("test")]


def test_a_file_of_its_own_goes_before_what_a_json_file_says(tmp_path):
    with tarfile.open(tmp_path / "test-0.tar", "w") as archive:
        for name, data in (("a.mp4", b"v"), ("a.text", b"mine"), ("a.json", b'{"text": "other", "signer": "Ada"}')):
            add(archive, name, data)
    (row,) = open_on_hub(str(tmp_path), "test", streaming=True)
    assert row["signer"] == "Ada" and row["text"] == "mine"


def streamed(name: Path, folder: Path, process_index: int, num_processes: int, count: int) -> list[tuple]:
    """Where the first clips of a process are from, and what they say."""
    training = FLaLLMTrainingArguments(output_dir=str(folder), max_steps=9, use_cpu=True, seed=3)
    training.__class__ = type("Of", (FLaLLMTrainingArguments,), {
        "world_size": property(lambda _: num_processes), "process_index": property(lambda _: process_index),
    })  # fmt: skip
    stream = open_streams(DataArguments([str(name)], streaming=True, shuffle_buffer_size=4), training)
    dataset = StreamedClipDataset(FLaLLMProcessor.from_pretrained(trained_model()))
    clips = itertools.islice(iter(stream), count)
    return [(clip.source, clip.number, dataset[clip]["text"]) for clip in clips]


@every_format
def test_processes_stream_other_clips_in_an_order_that_follows_from_the_seed(kind, tmp_path):
    folder = write_shards(tmp_path / "shards", kind)
    texts = [text for *_, text in rows_of("train")]
    alone = streamed(folder, tmp_path, 0, 1, len(texts))
    assert sorted(text for *_, text in alone) == sorted(texts) != [text for *_, text in alone]
    assert streamed(folder, tmp_path, 0, 1, len(texts)) == alone
    first, second = (streamed(folder, tmp_path, index, 2, 2) for index in range(2))
    assert len({*first, *second}) == 4 and {*first, *second} <= {*alone}


@pytest.mark.slow
@every_format
def test_the_clips_of_shards_are_translated(kind, tmp_path, capsys):
    """As the files of the folder are."""
    folder, files = write_shards(tmp_path / "shards", kind), sorted((corpus() / "test").glob("*.mp4"))
    for name, given in (("shards", ["--dataset", folder]), ("folder", ["--dataset", corpus()]), ("files", files)):
        argv = ["--model", trained_model(), *given, "--output", tmp_path / f"{name}.csv", "--format", "csv"]
        assert translate.main([*map(str, argv), "--device", "cpu", "--batch_size", "1"]) == 0
    rows = {
        name: list(csv.DictReader((tmp_path / f"{name}.csv").open(encoding="utf-8", newline="")))
        for name in ("shards", "folder", "files")
    }
    assert rows["folder"] == rows["files"]
    assert [row["text"] for row in rows["shards"]] == [row["text"] for row in rows["files"]]
    assert len({row["file"] for row in rows["shards"]}) == len(files)
    assert "unused columns" not in capsys.readouterr().err


@pytest.mark.slow
@pytest.mark.parametrize("streaming", [False, True])
@every_format
def test_a_stage_trains_on_shards(kind, streaming, tmp_path, capsys):
    folder = write_shards(tmp_path / "shards", kind)
    values = {"streaming": True, "max_steps": 2} if streaming else {"num_train_epochs": 1}
    argv = stage1_flags(tmp_path / "run", dataset=folder, **values, max_evaluation_clips=2, generation_num_beams=1)
    assert visual_initialing.main(argv) == 0
    assert len(log_of(tmp_path / "run", "loss")) >= 1
    assert "unused columns" not in capsys.readouterr().err


def test_poses_and_features_are_arrays_in_a_tar(tmp_path):
    for name in ("poses.npy", "features.npy"):
        folder = tmp_path / name
        folder.mkdir()
        values = random_generator().normal(size=(7, 133, 3) if name == "poses.npy" else (7, 16)).astype("float32")
        with tarfile.open(folder / "train-0.tar", "w") as archive:
            for key in ("a", "b"):
                buffer = io.BytesIO()
                np.save(buffer, values)
                add(archive, f"{key}.{name}", buffer.getvalue())
                add(archive, f"{key}.txt", key.encode())
        rows = open_on_hub(str(folder), "train")
        column = "poses" if name == "poses.npy" else "visual_features"
        assert rows["text"] == ["a", "b"] and np.allclose(np.array(rows[0][column]), values)


def test_files_of_this_machine_are_not_read_through_a_table(tmp_path, capsys):
    folder = tmp_path / "shards"
    folder.mkdir()
    mine = sorted((corpus() / "train").glob("*.mp4"))[0]
    columns = datasets.Features({"video": datasets.Video(decode=False), "text": datasets.Value("string")})
    values = {"video": [{"bytes": None, "path": str(mine)}], "text": ["a"]}
    datasets.Dataset.from_dict(values, features=columns).to_parquet(folder / "train-0.parquet")
    text = error_of(visual_initialing.main, stage1_flags(tmp_path / "run", dataset=folder), capsys)
    assert f"names {str(mine)!r}, which is not a file of the data set." in text
