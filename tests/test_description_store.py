"""The store of descriptions: keys of clips, verified files, what joins a data set, folders and the Hub."""

import dataclasses
import json
import re
import shutil
from pathlib import Path
from typing import Any

import datasets
import pytest
import torch
from mini_hub import MiniHub, connect
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from torch.testing import assert_close

from processing import MODALITIES
from train_scripts.clips.description_folder import DescriptionFolder
from train_scripts.clips.description_store import (
    ClipDescriptions,
    OriginOfDescriptions,
    clip_keys,
    description_facts,
    description_width,
    join_descriptions,
    read_descriptions,
)

VIDEOS = MODALITIES[0]
ORIGIN = OriginOfDescriptions(
    describer="me/describer",
    describer_revision="abc",
    describer_license="apache-2.0",
    describer_fingerprint="1" * 64,
    column=None,
    prompt="What does the person do?",
    stride=4,
    segment_frames=None,
    max_new_tokens=256,
    quantization=None,
    text_encoder="me/encoder",
    text_encoder_revision=None,
    text_encoder_license="mit",
    text_encoder_fingerprint="2" * 64,
    dtype="float32",
    pooling="cls",
    is_normalized=False,
    width=8,
    embeddings_dtype="float32",
)
ODD_TEXTS = ['Beide Hände: "flach"\n', "両手\u2028\x00", ""]


def split_of(*paths: str | None, **columns: Any) -> datasets.Dataset:
    videos = [{"path": path, "bytes": b"" if path is None else None} for path in paths]
    dataset = datasets.Dataset.from_dict({"video": videos, "text": ["x"] * len(paths), **columns})
    return dataset.cast_column("video", datasets.Video(decode=False))


def described(num_descriptions: int = 3) -> ClipDescriptions:
    frames = torch.tensor([[0, 4], [4, 8], [10, 11]])[:num_descriptions]
    return ClipDescriptions(torch.randn(num_descriptions, 8), frames, ODD_TEXTS[:num_descriptions], 12)


def make_store(folder: Path, origin: OriginOfDescriptions = ORIGIN, **splits: datasets.Dataset) -> Path:
    """Descriptions of all clips of these splits."""
    store = DescriptionFolder(folder, origin)
    for name, clips in (splits or {"train": split_of("/x/train/a.mp4", "/x/train/b/c.mp4")}).items():
        places = store.clips_of(name, clips, VIDEOS, name)
        for place in places:
            store.write(place, "content", described())
        store.write_table(name, places)
    store.finish(["me/corpus"])
    return folder


def test_what_is_written_is_read(tmp_path):
    store = DescriptionFolder(tmp_path / "store", ORIGIN)
    place, empty = store.clips_of("train", split_of("/x/train/a b.mp4", "/x/train/c.mp4"), VIDEOS, "train")
    written = described()
    store.write(place, "content", written)
    store.write(empty, "content", ClipDescriptions(torch.zeros(0, 8), torch.zeros(0, 2, dtype=torch.long), [], 5))
    assert place.path == tmp_path / "store" / "train" / "a_b.safetensors"
    found = read_descriptions(place.path)
    assert_close(found.embeddings, written.embeddings, rtol=0, atol=0)
    assert torch.equal(found.frames, written.frames)
    assert (found.texts, found.num_frames) == (ODD_TEXTS, 12)
    assert read_descriptions(empty.path).embeddings.shape == (0, 8)
    with safe_open(place.path, framework="pt") as file:
        header = file.metadata()
    assert header["clip"] == "a b.mp4" and header["describer"] == "me/describer" and header["pooling"] == "cls"
    assert header["prompt"] == ORIGIN.prompt and header["text_encoder_fingerprint"] == "2" * 64
    half = DescriptionFolder(tmp_path / "half", dataclasses.replace(ORIGIN, embeddings_dtype="float16"))
    (place,) = half.clips_of("train", split_of("a.mp4"), VIDEOS, "train")
    half.write(place, "content", written)
    assert load_file(place.path)["embeddings"].dtype == torch.float16
    assert read_descriptions(place.path).embeddings.dtype == torch.float32


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"embeddings": torch.full((3, 8), torch.nan)}, "embeddings are not finite"),
        ({"frames": torch.tensor([[0, 4], [3, 8], [10, 11]])}, "its frames do not rise"),
        ({"frames": torch.tensor([[0, 4], [4, 4], [10, 11]])}, "its frames do not rise"),
        ({"frames": torch.tensor([[0, 4], [4, 8], [10, 13]])}, "its frames 0 to 13 are not inside the 12 frames of"),
        ({"frames": torch.tensor([[-1, 4], [4, 8], [10, 11]])}, "its frames -1 to 11 are not inside the 12 frames of"),
        ({"embeddings": torch.zeros(3, 1)}, "embeddings have the width 1, not 8"),
        ({"texts": ["x"]}, "frames are torch.int64 (3, 2) and embeddings (3, 8) for 1 texts"),
        ({"embeddings": torch.zeros(2, 8)}, "frames are torch.int64 (3, 2) and embeddings (2, 8) for 3 texts"),
        ({"embeddings": torch.zeros(8)}, "embeddings are torch.float32 (8,), not numbers (descriptions, width)"),
    ],
)
def test_what_would_be_refused_is_not_written(change, message, tmp_path):
    store = DescriptionFolder(tmp_path / "store", ORIGIN)
    (place,) = store.clips_of("train", split_of("a.mp4"), VIDEOS, "train")
    with pytest.raises(ValueError, match=re.escape(f"The descriptions of 'a.mp4' cannot be kept: {message}")):
        store.write(place, "content", dataclasses.replace(described(), **change))
    assert not place.path.exists()


def cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-7])


def flip_a_bit(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(content)


def without_texts(path: Path) -> None:
    save_file(load_file(path), path, {"num_frames": "12", "digest": ""})


def change_a_text(path: Path) -> None:
    with safe_open(path, framework="pt") as file:
        header = file.metadata()
    save_file(load_file(path), path, {**header, "texts": json.dumps(["other", *ODD_TEXTS[1:]])})


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (cut, ""),
        (flip_a_bit, "but its content is not what was written."),
        (without_texts, "but: it has no 'texts'."),
        (change_a_text, "but its content is not what was written."),
        (Path.unlink, "No such file"),
    ],
)
def test_damage_is_noticed_and_named(damage, message, tmp_path):
    store = DescriptionFolder(tmp_path / "store", ORIGIN)
    (place,) = store.clips_of("train", split_of("a.mp4"), VIDEOS, "train")
    store.write(place, "content", described())
    assert store.holds(place, "content") and not store.holds(place, "other content")
    damage(place.path)
    assert not store.holds(place, "content")
    with pytest.raises(ValueError, match=re.escape(f"{place.path} must hold the descriptions of a clip, but")) as error:
        read_descriptions(place.path)
    assert message in str(error.value)
    assert str(error.value).endswith("Remove it and run `flallm describe` again, or download a.safetensors again.")


def test_keys_do_not_depend_on_where_the_data_set_is():
    here = split_of("/data/train/corpus/train/a.mp4", "/data/train/corpus/train/day 1/a.mp4")
    there = split_of("relative/train/a.mp4", "C:\\corpus\\Train\\day 1\\a.mp4")
    assert clip_keys(here, VIDEOS, "train") == clip_keys(there, VIDEOS, "train") == ["a.mp4", "day 1/a.mp4"]
    assert clip_keys(split_of("/x/dev/a.mp4"), VIDEOS, "validation") == ["a.mp4"]
    assert clip_keys(split_of("/x/dev/a.mp4"), VIDEOS, "dev[:10]") == ["a.mp4"]
    assert clip_keys(split_of("/x/test/ä.mp4"), VIDEOS, "test") == clip_keys(
        split_of("/x/test/a\u0308.mp4"), VIDEOS, "test"
    )
    assert clip_keys(split_of("/elsewhere/a.mp4", "b.mp4"), VIDEOS, "train") == ["a.mp4", "b.mp4"]


def test_parts_of_a_file_and_clips_without_a_name_have_keys_of_their_own():
    parts = split_of(*3 * ["/x/train/a.mp4"], start=[None, 1.5, 10000.125], end=[1.5, 10000.125, None])
    assert clip_keys(parts, VIDEOS, "train") == ["a.mp4#0.0-1.5", "a.mp4#1.5-10000.125", "a.mp4#10000.125-"]
    nameless = split_of(None, "a.mp4", None, "x/a.mp4")
    assert clip_keys(nameless, VIDEOS, "train") == ["clip_000000", "a.mp4_000001", "clip_000002", "a.mp4_000003"]
    assert clip_keys(split_of(None), VIDEOS, "train") == ["clip_000000"]
    for slice_of_a_split in (split_of(None), split_of("a.mp4", "x/a.mp4")):
        with pytest.raises(ValueError, match=re.escape("Clips of 'train[3:]' have no file name, or the same one: ")):
            clip_keys(slice_of_a_split, VIDEOS, "train[3:]")


def test_splits_that_are_described_one_after_the_other_are_all_counted(tmp_path):
    store = make_store(tmp_path / "store")
    make_store(store, test=split_of("/x/test/a.mp4"))
    assert description_facts(str(store))["clips"] == {"train": 2, "test": 1}
    card = (store / "README.md").read_text(encoding="utf-8")
    assert "| train | 2 |" in card and "| test | 1 |" in card


def test_a_split_gets_the_files_of_its_clips(tmp_path, capsys):
    store = make_store(tmp_path / "store", validation=split_of("/x/dev/a.mp4", "/x/dev/b.mp4"))
    split = split_of("/y/dev/b.mp4", "/y/dev/new.mp4", "/y/dev/a.mp4", descriptions=["a", "b", "c"])
    joined = join_descriptions(split, VIDEOS, str(store), "dev")
    assert capsys.readouterr().out == f"1 of 3 dev clips have no descriptions in {store}.\n"
    assert joined["descriptions"] == [
        str(store / "validation" / "b.safetensors"),
        None,
        str(store / "validation" / "a.safetensors"),
    ]
    assert joined["text"] == split["text"]
    assert description_width(str(store)) == 8
    assert description_facts(str(store))["clips"] == {"validation": 2}


def test_a_store_of_other_clips_is_refused(tmp_path):
    store = make_store(tmp_path / "store")
    with pytest.raises(
        ValueError, match=re.escape(f"--descriptions {store} describes none of the 1 clips of the")
    ) as error:
        join_descriptions(split_of("/x/train/other.mp4"), VIDEOS, str(store), "train")
    assert "The first of them is 'other.mp4'; described are 'a.mp4', 'b/c.mp4'." in str(error.value)
    with pytest.raises(ValueError, match=re.escape("must describe the split 'test', it describes ['train'].")):
        join_descriptions(split_of("/x/test/a.mp4"), VIDEOS, str(store), "test")
    with pytest.raises(FileNotFoundError, match=re.escape(f"{tmp_path} must be a store of descriptions, but has no")):
        description_width(str(tmp_path))
    with pytest.raises(FileNotFoundError, match=re.escape("'./none' is neither a local folder nor a data set on the")):
        description_width("./none")


def test_a_file_of_another_store_or_a_damaged_one_is_refused(tmp_path):
    store = make_store(tmp_path / "store")
    other = make_store(tmp_path / "other", dataclasses.replace(ORIGIN, width=8, prompt="Another question"))
    split = split_of("/x/train/a.mp4")
    path = store / "train" / "a.safetensors"
    shutil.copy(other / "train" / "a.safetensors", path)
    with pytest.raises(ValueError, match=re.escape(f"{path} must be of the store {store}, with the fingerprint")):
        join_descriptions(split, VIDEOS, str(store), "train")
    path.write_bytes(b"")
    with pytest.raises(ValueError, match=re.escape(f"{path} is missing or damaged.")):
        join_descriptions(split, VIDEOS, str(store), "train")


def test_a_table_cannot_name_files_outside_of_the_store(tmp_path):
    store = make_store(tmp_path / "store")
    (store / "train" / "metadata.csv").write_text("clip,descriptions\na.mp4,../../secret.safetensors\n")
    with pytest.raises(ValueError, match=re.escape("'../../secret.safetensors' would leave")):
        join_descriptions(split_of("/x/train/a.mp4"), VIDEOS, str(store), "train")


@pytest.mark.parametrize("content", ["", "[]", "{}", '{"width": 8}', 100_000 * "["])
def test_facts_that_cannot_be_read(content, tmp_path):
    store = make_store(tmp_path / "store")
    (store / "descriptions.json").write_text(content)
    with pytest.raises(ValueError, match=re.escape(f"{store / 'descriptions.json'} cannot be read: ")):
        description_facts(str(store))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            {"describer": "me/other", "describer_fingerprint": "3" * 64},
            "describer 'me/describer' (fingerprint 111111111111), not 'me/other' (fingerprint 333333333333)",
        ),
        (
            {"text_encoder": "me/other", "text_encoder_fingerprint": "3" * 64},
            "text_encoder 'me/encoder' (fingerprint 222222222222), not 'me/other' (fingerprint 333333333333)",
        ),
        ({"prompt": "And now?"}, "prompt 'What does the person do?', not 'And now?'"),
        ({"stride": 1}, "stride 4, not 1"),
        ({"segment_frames": 16}, "segment_frames None, not 16"),
        ({"quantization": "int4"}, "quantization None, not 'int4'"),
        ({"dtype": "bfloat16"}, "dtype 'float32', not 'bfloat16'"),
        ({"pooling": "mean"}, "pooling 'cls', not 'mean'"),
        ({"is_normalized": True}, "is_normalized False, not True"),
        ({"embeddings_dtype": "float16"}, "embeddings_dtype 'float32', not 'float16'"),
    ],
)
def test_a_store_of_another_origin_is_refused_and_unchanged(change, message, tmp_path):
    store = make_store(tmp_path / "store")
    before = (store / "descriptions.json").read_bytes()
    expected = f"--output_dir {store} was made with {message}. Go on with the same, or name another folder."
    with pytest.raises(ValueError, match=re.escape(expected)):
        DescriptionFolder(store, dataclasses.replace(ORIGIN, **change))
    assert (store / "descriptions.json").read_bytes() == before
    DescriptionFolder(store, dataclasses.replace(ORIGIN, describer="copied/describer"))  # the same model


def test_another_folder_is_not_written_to(tmp_path):
    (tmp_path / "notes.txt").touch()
    with pytest.raises(ValueError, match=re.escape(f"--output_dir {tmp_path} is not empty.")):
        DescriptionFolder(tmp_path, ORIGIN)


def test_the_card_says_who_described_and_under_which_licences(tmp_path):
    card = (make_store(tmp_path / "store") / "README.md").read_text(encoding="utf-8")
    assert card.startswith("---\nlicense:\n- apache-2.0\n- mit\nsource_datasets:\n- me/corpus\ntags:\n")
    assert "A model wrote them: `me/describer` (commit abc, licence apache-2.0), asked about one of 4 frames." in card
    assert "> What does the person do?\n" in card and "| train | 2 |" in card
    assert "The embeddings are of `me/encoder` (licence mit), with cls pooling." in card
    people = dataclasses.replace(
        ORIGIN, describer=None, describer_license=None, column="notes", prompt=None, stride=None
    )
    card = (make_store(tmp_path / "people", people) / "README.md").read_text(encoding="utf-8")
    assert "The texts are from the column `notes` of the data set." in card and "A model wrote" not in card


def test_a_store_on_the_hub(tmp_path, monkeypatch):
    train, test = split_of("/x/train/a.mp4"), split_of("/x/test/a.mp4")
    store = make_store(tmp_path / "store", train=train, test=test)
    files = {path.relative_to(store).as_posix(): path.read_bytes() for path in store.rglob("*") if path.is_file()}
    with MiniHub() as hub:
        hub.create_repository("me/descriptions", "datasets", files=files)
        connect(monkeypatch, hub.url, hub.token)
        assert description_width("me/descriptions") == 8
        (path,) = join_descriptions(train, VIDEOS, "me/descriptions", "train")["descriptions"]
        with pytest.raises(FileNotFoundError, match="'me/nothing' is neither a local folder nor a data set on the Hub"):
            description_width("me/nothing")
    assert read_descriptions(path).texts == ODD_TEXTS
    assert not (Path(path).parents[1] / "test").exists()  # other splits are not downloaded
