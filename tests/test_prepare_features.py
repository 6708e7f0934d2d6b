"""`flallm prepare --corpus features`: the layouts of the field, their rates, what is refused, and times of words."""

import contextlib
import gzip
import json
import re
import sys
from pathlib import Path

import datasets
import numpy as np
import pytest
import torch
from mini_hub import MiniHub, connect
from prepared_folders import problems_of, report_of, rows_of, table
from safetensors import safe_open
from safetensors.torch import save_file
from tiny_corpus import error_of, flags, language_model, make_talkative
from tiny_models import tiny_text_config
from torch.testing import assert_close
from transformers import AutoProcessor, AutoTokenizer, pipeline

from modeling_flallm import FLaLLMConfig, FLaLLMForTranslation, VisualFeaturesConfig
from processing import FLaLLMProcessor, VisualFeatureExtractor
from processing.modality_features_slt import VisualFeaturesModality
from train_scripts.arguments.data_arguments import DataArguments
from train_scripts.clips.collators import TranslationCollator
from train_scripts.clips.data import SignClipDataset
from train_scripts.clips.splits import load_split
from train_scripts.commands import inspect_dataset
from train_scripts.commands import translate as translate_command
from train_scripts.commands.prepare_dataset import main
from train_scripts.corpora import feature_sources
from train_scripts.corpora.corpus_schema import FEATURE_COLUMNS
from train_scripts.corpora.prepared_videos import ClipError

pytestmark = pytest.mark.usefixtures("one_worker_is_this_process")

WIDTH = 6


def array(length: int = 5, width: int = WIDTH, dtype: str = "float32") -> np.ndarray:
    return np.random.standard_normal((length, width)).astype(dtype)


def save(path: Path, values: np.ndarray) -> np.ndarray:
    path.parent.mkdir(parents=True, exist_ok=True)
    np.save(path, values)
    return values


def hdf5(path: Path, arrays: dict[str, np.ndarray], **attributes) -> None:
    h5py = pytest.importorskip("h5py")
    path.parent.mkdir(parents=True, exist_ok=True)
    with h5py.File(path, "w") as file:
        for name, values in arrays.items():
            file[name] = values
        file.attrs.update(attributes)


@pytest.fixture
def source(tmp_path) -> Path:
    (tmp_path / "raw").mkdir()
    return tmp_path / "raw"


def command(source: Path, **values) -> list[str]:
    rate = {"features_per_second": 25} if "features_per_second" not in values else {}
    given = {"corpus": "features", "source": source, "output_dir": source.parent / "prepared", "num_workers": 1}
    given = {**given, **rate, **values}
    return flags(**{name: value for name, value in given.items() if value is not None})


def prepare(source: Path, expected: int = 0, **values) -> Path:
    """-> the prepared folder"""
    assert main(command(source, **values)) == expected
    return source.parent / "prepared"


def features_in(folder: Path, row: dict[str, str], split: str = "train") -> tuple[torch.Tensor, dict[str, str]]:
    with safe_open(folder / split / row["visual_features"], framework="pt") as file:
        assert list(file.keys()) == ["features"]
        return file.get_tensor("features"), file.metadata()


def assert_holds(folder: Path, expected: dict[str, np.ndarray], split: str = "train") -> None:
    """The rows of a split have these names and features, to the bit and in this precision."""
    rows = {row["name"]: row for row in rows_of(folder, split)}
    assert set(rows) == set(expected)
    for name, values in expected.items():
        assert_close(features_in(folder, rows[name], split)[0], torch.from_numpy(values), rtol=0, atol=0)


# What is written


def test_one_schema_that_training_loads(source):
    first = save(source / "features" / "a.npy", array(50, dtype="float16"))
    save(source / "features" / "b.npy", array(10, dtype="float16"))
    table(source, "file,text,split,signer,gloss\na,es regnet,train,S1,REGEN\nb.mp4,die sonne scheint,dev,,\n")
    folder = prepare(source, features_per_second=12.5, sign_language="gsg", spoken_language="de")
    (row,) = rows_of(folder)
    assert tuple(row) == FEATURE_COLUMNS
    assert row == {
        "visual_features": "a.safetensors",
        "text": "es regnet",
        "start": "",
        "end": "",
        "name": "a",
        "signer": "S1",
        "gloss": "REGEN",
        "sign_language": "gsg",
        "spoken_language": "de",
        "duration_in_seconds": "4.0",
        "num_features": "50",
        "features_per_second": "12.5",
    }
    values, metadata = features_in(folder, row)
    assert values.dtype == torch.float16 and torch.equal(values, torch.from_numpy(first))
    assert metadata == {"features_per_second": "12.5", "source": "features/a.npy"}
    assert_holds(folder, {"b": np.load(source / "features" / "b.npy")}, "validation")
    split = load_split(DataArguments(dataset=str(folder)), "train")
    assert split["features_per_second"] == [12.5] and split["num_features"] == [50.0]
    clip = VisualFeaturesModality(VisualFeatureExtractor(WIDTH)).read(split[0])
    assert clip.rate == 12.5 and torch.equal(clip.values, torch.from_numpy(first).float())
    report = (folder / "report.txt").read_text()
    assert "Visual features: 2 written." in report
    assert "the features have 6 values: train with --visual_features_size 6" in report
    card = (folder / "README.md").read_text()
    assert "Visual features of German Sign Language with sentences in German" in card and "- video" not in card


def test_training_says_nothing_of_unused_columns(source, capsys):
    save(source / "a.npy", array())
    table(source, "file,text\na,x\n")
    folder = prepare(source)
    load_split(DataArguments(dataset=str(folder)), "train")
    assert "unused columns" not in capsys.readouterr().err


def test_parts_of_long_features_are_cut(source):
    whole = save(source / "talk.npy", np.arange(100, dtype=np.float32)[:, None].repeat(WIDTH, 1))
    table(source, "file,text,start,end\ntalk,a,0,1\ntalk,b,1.02,2.5\ntalk,c,3,5\ntalk,d,9,10\n")
    folder = prepare(source, expected=1, features_per_second=25)
    names = [row["name"] for row in rows_of(folder)]
    assert names == ["talk-0-1", "talk-1.02-2.5", "talk-3-5"]
    parts = [whole[:25], whole[26:63], whole[75:]]
    assert_holds(folder, dict(zip(names, parts, strict=True)))
    assert [(row["start"], row["end"]) for row in rows_of(folder)] == [("0.0", "1.0"), ("1.02", "2.5"), ("3.0", "5.0")]
    problems = problems_of(folder)
    assert problems["talk-3-5"] == "is kept, but the array of features ends 1.00 seconds before the clip does."
    assert problems["talk-9-10"] == "'talk.npy' has no feature from 9 to 10.0 s: it has 100."


def test_an_interrupted_run_goes_on(source, capsys):
    first, second = (save(source / f"{name}.npy", array()) for name in "ab")
    table(source, "file,text\na,x\nb,y\n")
    folder = prepare(source)
    made = (folder / "train" / "a.safetensors").stat()
    second = save(source / "b.npy", array(7))
    capsys.readouterr()
    prepare(source)
    assert "Resuming: 1 of 2 clips are already finished." in capsys.readouterr().out
    assert (folder / "train" / "a.safetensors").stat().st_mtime_ns == made.st_mtime_ns
    assert_holds(folder, {"a": first, "b": second})
    assert error_of(main, command(source, features_per_second=30), capsys).startswith(
        f"--output_dir {folder} was made with features_per_second 25.0, not 30.0."
    )


def test_a_rate_that_changes_in_the_table_is_written_anew(source):
    save(source / "a.npy", array(30))
    for rate in (10, 15):
        table(source, f"file,text,features_per_second\na,x,{rate}\n")
        folder = prepare(source, features_per_second=None)
        assert rows_of(folder)[0]["duration_in_seconds"] == str(30 / rate)
        assert features_in(folder, rows_of(folder)[0])[1]["features_per_second"] == str(rate)


# Layouts


def test_i3d_features_of_how2sign(source):
    columns = "id signs_file signs_offset signs_length signs_type signs_lang translation translation_lang signer_id"
    header = columns.replace(" ", "\t")
    expected = {}
    for split, name in (("train", "--7E2sU6zP4_10-5-rgb_front"), ("val", "-d5dN54tH2E_0-1-rgb_front")):
        expected[split] = {name: save(source / split / f"{name}.npy", array(width=1024))}
        line = f'{name}\t/home/them/i3d/{split}/{name}.npy\t0\t123\ti3d\tasl\tHe says "no".\ten\t5'
        table(source, f"{header}\n{line}\n", f"cvpr23.fairseq.i3d.{split}.how2sign.tsv")
    folder = prepare(source, features_per_second=12.5)
    assert_holds(folder, expected["train"])
    assert_holds(folder, expected["val"], "validation")
    (row,) = rows_of(folder)
    assert (row["text"], row["signer"], row["sign_language"]) == ('He says "no".', "5", "ase")
    (note, _) = sorted(report_of(folder)["notes"], key=lambda note: "val" not in note)[:2]
    assert note.startswith("cvpr23.fairseq.i3d.val.how2sign.tsv is read as the sentences of How2Sign's I3D features")


def test_how2sign_sentences_without_their_times(source):
    """The times are those in the whole video, and each file holds the features of a sentence."""
    values = save(source / "i3d" / "abc_3-8-rgb_front.npy", array(4))
    header = "VIDEO_ID\tVIDEO_NAME\tSENTENCE_ID\tSENTENCE_NAME\tSTART_REALIGNED\tEND_REALIGNED\tSENTENCE"
    line = "abc\tabc-8\tabc_3\tabc_3-8-rgb_front\t20\t22\tAnd then."
    table(source, f"{header}\n{line}\n", "how2sign_realigned_train.csv")
    folder = prepare(source)
    assert_holds(folder, {"abc_3-8-rgb_front": values})
    assert rows_of(folder)[0]["start"] == ""


def test_spamo_features_are_found_by_their_postfix(source):
    names = [f"0{index}April_2010_Thursday_heute-669{index}" for index in range(2)]
    spatial = {name: save(source / "clip" / "train" / f"{name}_s2wrapping.npy", array(width=2048)) for name in names}
    motion = {name: save(source / "mae" / "train" / f"{name}_overlap-8.npy", array(width=1024)) for name in names}
    lines = "".join(f"{name}|{name}/1/*.png|-1|-1|Signer01|REGEN|es regnet\n" for name in names)
    table(source, f"name|video|start|end|speaker|orth|translation\n{lines}", "PHOENIX-2014-T.train.corpus.csv")
    folder = prepare(source, videos=source / "clip")
    assert_holds(folder, spatial)
    assert rows_of(folder)[0]["gloss"] == "REGEN" and rows_of(folder)[0]["spoken_language"] == "de"
    note = "2 clip(s) have features in files of SpaMo's form, with the postfix _s2wrapping"
    assert note in report_of(folder)["notes"]
    folder = prepare(source, videos=source / "mae", output_dir=source.parent / "motion", features_per_second=3.125)
    assert_holds(source.parent / "motion", motion)
    assert main(command(source, output_dir=source.parent / "both")) == 1
    (what,) = {problem for where, problem in problems_of(source.parent / "both").items() if where.endswith("line 2")}
    assert "2 places hold features of" in what and "with --videos" in what


def test_t5_for_slt_has_a_data_set_per_clip(source):
    arrays = {f"video{index}/clip.{index}": array(dtype="float16") for index in range(3)}
    arrays["video0/clip.9"] = array(dtype="float16")
    hdf5(source / "mae" / "YouTubeASL.mae.train.0.h5", dict(list(arrays.items())[:2]))
    hdf5(source / "mae" / "YouTubeASL.mae.train.1.h5", dict(list(arrays.items())[2:]))
    annotation = {f"video{index}": {"clip_order": [], f"clip.{index}": {"translation": "x"}} for index in range(3)}
    table(source, json.dumps(annotation), "YouTubeASL.annotation.train.json")
    folder = prepare(source, expected=1, features_per_second=8)
    unused = arrays.pop("video0/clip.9")
    assert len(unused) and problems_of(folder) == {
        "mae/YouTubeASL.mae.train.1.h5": "no clip is made from 1 of its arrays, such as 'video0/clip.9': no valid "
        "row of YouTubeASL.annotation.train.json names it"
    }
    assert_holds(folder, {name.replace("/", "_"): values for name, values in arrays.items()})
    assert features_in(folder, rows_of(folder)[0])[0].dtype == torch.float16


def test_layers_of_shubert_must_be_chosen(source, capsys):
    layers = np.random.standard_normal((13, 8, 768)).astype(np.float32)
    save(source / "a.npy", layers)
    table(source, "file,text\na,x\n")
    folder = prepare(source, expected=1)
    assert problems_of(folder)["a"] == (
        "'a.npy' has the shape (13, 8, 768). If these are 13 layers, name one with --features_layer, from 0 to 12, or "
        "-1 for the last; otherwise pool each feature to one vector."
    )
    for layer, expected in ((-1, layers[12]), (3, layers[3])):
        output = source.parent / str(layer)
        assert main(command(source, features_layer=layer, output_dir=output)) == 0
        assert_holds(output, {"a": expected})
    assert main(command(source, features_layer=13, output_dir=source.parent / "13")) == 1
    assert "with a layer 13, as --features_layer says, got (13, 8, 768)." in problems_of(source.parent / "13")["a"]


def test_a_leading_axis_of_one_is_dropped_and_told(source):
    values = save(source / "a.npy", np.random.standard_normal((1, 8, 768)).astype(np.float32))
    table(source, "file,text\na,x\n")
    folder = prepare(source)
    assert_holds(folder, {"a": values[0]})
    assert "1 clip(s) had the shape (1, features, width): the leading axis was dropped" in report_of(folder)["notes"]


def test_one_file_of_many_clips(source):
    arrays = {name: array() for name in ("a", "b", "c", "d")}
    np.savez(source / "train.npz", a=arrays["a"])
    save_file({"b": torch.from_numpy(arrays["b"])}, source / "more.safetensors")
    hdf5(source / "groups.h5", {"c/features": arrays["c"], "c/length": np.zeros((1, 1))})
    lists = {"d": {"visual_features": arrays["d"].astype(float).tolist(), "text": "w"}}
    (source / "lists.test.pkl.gz").write_bytes(gzip.compress(pickle_of(lists)))
    table(source, "file,text\na,x\nmore.safetensors#b,y\nc,z\nd,w\n")
    folder = prepare(source)
    assert_holds(folder, {name: arrays[name] for name in "abc"})
    assert_holds(folder, {"d": arrays["d"]}, "test")
    assert features_in(folder, rows_of(folder)[1])[1]["source"] == "more.safetensors"
    notes = report_of(folder)["notes"]
    assert "clips.csv names no split for 3 clip(s): they are put in train" in notes


def pickle_of(value) -> bytes:
    """Protocol 0 by hand: no file of ours may pickle."""

    def parts(value) -> bytes:
        if isinstance(value, dict):
            return b"(" + b"".join(parts(part) for pair in value.items() for part in pair) + b"d"
        if isinstance(value, list):
            return b"(" + b"".join(map(parts, value)) + b"l"
        return f"F{value!r}\n".encode() if isinstance(value, float) else f"V{value}\n".encode()

    return parts(value) + b"."


def test_a_file_of_one_clip_may_be_of_any_kind(source):
    arrays = {name: array() for name in ("a", "b", "c", "d", "e")}
    np.savez(source / "a.npz", features=arrays["a"], length=np.array(5))
    save_file({"anything": torch.from_numpy(arrays["b"])}, source / "b.safetensors")
    hdf5(source / "c.h5", {"visual_features": arrays["c"], "lengths": np.zeros(3)})
    (source / "d.pickle").write_bytes(arrays["d"].dumps())
    save(source / "e.npy", arrays["e"].astype(">f4"))
    table(source, "file,text\na,x\nb,y\nc,z\nd,v\ne.npy,w\n")
    assert_holds(prepare(source), arrays)


def test_rows_take_the_split_of_the_folder_or_file_that_holds_their_features(source):
    expected = {split: {"same": save(source / split / "same.npy", array())} for split in ("train", "dev", "test")}
    other = save(source / "test" / "only.npy", array())
    table(source, "file,text,split\nsame,x,train\nsame,y,val\nsame,z,test\nonly,w,\n")
    folder = prepare(source)
    assert_holds(folder, expected["train"])
    assert_holds(folder, expected["dev"], "validation")
    assert_holds(folder, {**expected["test"], "only": other}, "test")
    assert not [note for note in report_of(folder)["notes"] if "train" in note and "put" in note]


def test_features_of_another_split_are_not_taken(source):
    """Where clips are numbered from 1 in each split, those of another split are of another sentence."""
    first = save(source / "train" / "1.npy", array())
    hdf5(source / "more.test.h5", {"2": array()})
    table(source, "file,text,split\n1,x,train\n1,y,test\n2,z,train\ntrain/1,w,test\n")
    folder = prepare(source, expected=1)
    assert_holds(folder, {"1": first})
    assert_holds(folder, {"train_1": first}, "test")
    problems = problems_of(folder)
    advice = "correct the split, or write the path of its features into the table"
    assert problems["clips.csv, line 3"] == f"train/1.npy is of the split train, but this clip of test: {advice}"
    assert problems["clips.csv, line 4"] == f"more.test.h5 is of the split test, but this clip of train: {advice}"


def test_columns_with_other_names(source):
    values = save(source / "a.npy", array(20))
    table(source, "Datei;Satz;Rate\na;es regnet;12,5\n")
    columns = ["file=Datei", "text=Satz", "features_per_second=Rate"]
    folder = prepare(source, features_per_second=None, columns=columns)
    assert_holds(folder, {"a": values})
    assert rows_of(folder)[0]["features_per_second"] == "12.5"


# Rates


def test_a_rate_is_required_before_anything_is_written(source, capsys):
    save(source / "a.npy", array())
    table(source, "file,text\na,x\n")
    error = error_of(main, command(source, features_per_second=None), capsys)
    assert error.startswith(
        "Files such as a.npy do not say how many features they hold per second: pass --features_per_second. It is the "
        "frame rate of the videos, divided by the number of frames from one feature to the next."
    )
    assert not (source.parent / "prepared").exists()


@pytest.mark.parametrize("kind", ["safetensors", "hdf5"])
def test_files_may_state_their_rate(kind, source):
    values, stated = array(10), {"features_per_second": "12.5"}
    if kind == "safetensors":
        save_file({"features": torch.from_numpy(values)}, source / "a.safetensors", {**stated, "encoder": "me/dino"})
    else:
        hdf5(source / "a.hdf5", {"features": values}, **stated)
    table(source, "file,text\na,x\n")
    folder = prepare(source, features_per_second=None)
    (row,) = rows_of(folder)
    assert row["duration_in_seconds"] == "0.8"
    assert features_in(folder, row)[1].get("encoder") == ("me/dino" if kind == "safetensors" else None)
    other = source.parent / "other"
    assert main(command(source, features_per_second=25, output_dir=other)) == 1
    assert problems_of(other)["a"].endswith("says that it holds 12.5 features per second, not 25.")


def test_a_file_that_could_state_its_rate_but_does_not(source):
    save_file({"features": torch.zeros(3, WIDTH)}, source / "a.safetensors")
    table(source, "file,text\na,x\n")
    assert problems_of(prepare(source, expected=1, features_per_second=None)) == {
        "a": "'a.safetensors' does not say how many features it holds per second: --features_per_second."
    }


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        ({"features_per_second": 0}, "--features_per_second must be above 0 and at most 1000, got 0.0."),
        ({"frames_per_second": 25}, "--corpus features is of features, which have no --frames_per_second. Leave"),
        ({"tier": "x"}, "Only ELAN annotations have tiers, got --tier 'x' for a spreadsheet."),
        ({"columns": ["satz=x"]}, "Only the columns file, text, start, end, name, signer, gloss, split, features_per"),
    ],
)  # fmt: skip
def test_flags_that_do_not_fit(values, expected, source, capsys):
    save(source / "a.npy", array())
    table(source, "file,text\na,x\n")
    assert error_of(main, command(source, **values), capsys).startswith(expected)


def test_videos_have_no_features_per_second(source, capsys):
    (source / "a.mp4").write_bytes(b"video")
    table(source, "file,text\na,x\n")
    error = error_of(main, command(source, corpus="table"), capsys)
    assert error == "--corpus table is of videos, which have no --features_per_second. Leave it out."


# What cannot be used


def test_everything_that_is_wrong_is_listed_and_the_rest_prepared(source):
    expected = {"good": save(source / "good.npy", array())}
    wrong = {
        "nan": np.where(np.arange(30).reshape(5, 6) == 20, np.nan, 1.0).astype(np.float32),
        "infinite": np.full((2, WIDTH), np.inf, np.float16),
        "empty": np.zeros((0, WIDTH), np.float32),
        "narrow": array(width=WIDTH - 1),
        "integers": np.zeros((4, WIDTH), np.int64),
        "flat": np.zeros(WIDTH, np.float32),
        "objects": np.array([{"a": 1}], dtype=object),
        "complex": np.zeros((2, WIDTH), np.complex64),
    }
    for name, values in wrong.items():
        save(source / f"{name}.npy", values)
    save(source / "also_good.npy", array())
    (source / "cut.npy").write_bytes((source / "good.npy").read_bytes()[:100])
    np.savez(source / "several.npz", a=array(), b=array())
    hdf5(source / "text.h5", {"features": "words"})
    (source / "broken.h5").write_bytes(b"this is no HDF5 file")
    (source / "arrays.pkl").write_bytes(np.array([[Path("x")]]).dumps())
    (source / "clip.pt").write_bytes(b"PK")
    names = [*wrong, "cut", "several", "text", "broken", "arrays", "clip.pt", "missing", "good", "also_good"]
    table(source, "file,text\n" + "".join(f"{name},x\n" for name in names))
    folder = prepare(source, expected=1)
    assert_holds(folder, {**expected, "also_good": np.load(source / "also_good.npy")})
    assert sorted(path.name for path in (folder / "train").iterdir()) == [
        "also_good.safetensors", "good.safetensors", "metadata.csv",
    ]  # fmt: skip
    problems = problems_of(folder)
    texts = {
        "nan": "'nan.npy' holds NaN or infinity in 1 of 5 features, first in feature 3 (counted from 0).",
        "infinite": "'infinite.npy' holds NaN or infinity in 2 of 2 features",
        "empty": "'empty.npy' holds no feature: its shape is (0, 6).",
        "narrow": "has features of 5 values, but most of this corpus have 6.",
        "integers": "'integers.npy' must hold float16, float32 or float64 numbers, got int64.",
        "flat": "'flat.npy' must have the shape (features, width), got (6,).",
        "objects": "'objects.npy' cannot be read: it holds Python objects, which are never loaded.",
        "complex": "'complex.npy' cannot be read: the visual features given as memmap must hold float16, float32",
        "cut": "'cut.npy' cannot be read: ",
        "several": "'several.npz' holds 2 arrays: a, b. Name the one that is meant: 'several.npz#a'.",
        "text": "'text.h5': the visual features given as ndarray must hold float16, float32 or float64 numbers",
        "broken": "'broken.h5' cannot be read: ",
        "arrays": "arrays.pkl must be a pickle of plain dictionaries, lists, strings and numbers, and arrays of "
        "numbers, but it ",
    }
    for name, text in texts.items():
        assert problems[name].startswith(text), problems[name]
    line = {name: f"clips.csv, line {names.index(name) + 2}" for name in ("clip.pt", "missing")}
    assert problems[line["clip.pt"]] == f"clip.pt: {feature_sources.TORCH_ADVICE}"
    assert problems[line["missing"]] == (
        "there is no file of features 'missing', nor an array of that name in any of them"
    )
    assert set(problems) == {*texts, *line.values()}


def test_transposed_arrays_are_guessed(source):
    for index in range(3):
        save(source / f"{index}.npy", array(WIDTH, 10 + index))
    table(source, "file,text\n0,x\n1,y\n2,z\n")
    problems = problems_of(prepare(source, expected=1))
    hint = "All clips have the same number of features, so their arrays may be transposed."
    assert problems["2"] == f"has features of 12 values, but most of this corpus have 10. {hint}"


def test_features_that_no_row_names_are_problems(source):
    for name in ("a", "b"):
        save(source / f"{name}.npy", array())
    table(source, "file,text\na,x\n")
    assert problems_of(prepare(source, expected=1)) == {
        "b.npy": "no clip is made from this file: no valid row of clips.csv names it"
    }


def test_a_clip_that_is_listed_twice(source):
    save(source / "a.npy", array())
    table(source, "file,text,name\na,x,first\na,y,second\n")
    what = problems_of(prepare(source, expected=1))["second"]
    assert what == "is listed twice: an earlier line names the same array of features and the same part of it."


def test_links_and_paths_that_lead_out_of_the_folder_are_refused(source, tmp_path):
    save(source / "a.npy", array())
    save(tmp_path / "private.npy", array())
    (source / "link.npy").symlink_to(tmp_path / "private.npy")
    table(source, "file,text\na,x\nlink,y\n../private,z\n")
    problems = problems_of(prepare(source, expected=1))
    assert "is a link that leads out of the folder" in problems["link.npy"]
    assert problems["clips.csv, line 3"].startswith("there is no file of features 'link'")
    assert "would leave the folder of the corpus" in problems["clips.csv, line 4"]


def test_hdf5_files_do_not_lead_elsewhere(source, tmp_path):
    h5py = pytest.importorskip("h5py")
    save(source / "a.npy", array())
    hdf5(tmp_path / "private.h5", {"features": array()})
    with h5py.File(source / "links.h5", "w") as file:
        file["b"] = h5py.ExternalLink(str(tmp_path / "private.h5"), "features")
        layout = h5py.VirtualLayout((5, WIDTH), "float32")
        layout[:] = h5py.VirtualSource(str(tmp_path / "private.h5"), "features", (5, WIDTH))
        file.create_virtual_dataset("c", layout)
    table(source, "file,text\na,x\nb,y\nc,z\n")
    problems = problems_of(prepare(source, expected=1))
    assert problems["clips.csv, line 3"].startswith("there is no file of features 'b'")
    assert problems["c"] == "'links.h5' has /c in other files, which are not read. Copy it into this one."


@pytest.mark.parametrize("kind", ["h5", "npz", "safetensors", "npy", "pkl"])
def test_damaged_bytes_cost_their_clip_alone(kind, source):
    path = source / f"a.{kind}"
    if kind == "h5":
        hdf5(path, {"a/b": array(), "c": array()})
    elif kind == "npz":
        np.savez_compressed(path, features=array())
    elif kind == "safetensors":
        safetensors(path, array())
    elif kind == "npy":
        save(path, array())
    else:
        path.write_bytes(pickle_of(array().astype(float).tolist()))
    whole = path.read_bytes()
    for _ in range(100):
        damaged = bytearray(whole)
        for position in np.random.randint(0, min(len(whole), 400), 5):
            damaged[position] = np.random.randint(256)
        path.write_bytes(damaged)
        readers = [feature_sources.arrays_in] if suffix_is_of_several(path) else []
        for read in (*readers, lambda path: feature_sources.read_array(path, None)):
            with contextlib.suppress(ClipError):
                read(path)


def suffix_is_of_several(path: Path) -> bool:
    return feature_sources.suffix_of(path) in feature_sources.CONTAINER_SUFFIXES


def test_a_folder_of_torch_files_and_an_empty_one(source, capsys):
    table(source, "file,text\na,x\n")
    assert error_of(main, command(source), capsys).startswith("There is no file of features (.npy, .npz, ")
    (source / "a.pt").write_bytes(b"PK")
    assert error_of(main, command(source), capsys) == f"a.pt: {feature_sources.TORCH_ADVICE}"


def test_hdf5_without_its_library(source, capsys, monkeypatch):
    (source / "a.h5").write_bytes(b"")
    table(source, "file,text\na,x\n")
    monkeypatch.setitem(sys.modules, "h5py", None)
    assert error_of(main, command(source), capsys) == 'HDF5 files are read with h5py: pip install "flallm[features]".'


@pytest.mark.parametrize("content", ["[]", '{"video": []}', "{", "\ud800"])
def test_a_json_file_of_another_form(content, source, capsys):
    save(source / "a.npy", array())
    (source / "x.annotation.train.json").write_bytes(content.encode("utf-8", "surrogatepass"))
    error = error_of(main, command(source), capsys)
    assert re.match(".*x.annotation.train.json (must hold|is not a JSON file in UTF-8)", error)


def test_inspect_says_that_it_looks_at_videos_and_poses(source, capsys, tmp_path):
    save(source / "a.npy", array())
    table(source, "file,text\na,x\n")
    folder = prepare(source)
    error = error_of(inspect_dataset.main, flags(dataset=folder, output_dir=tmp_path / "inspection"), capsys)
    assert error == (
        f"{folder} holds ready-made visual features (column visual_features). flallm inspect looks at videos and "
        "poses, and at no other data set."
    )


def test_a_clip_on_the_hub_that_is_a_file_must_be_downloaded():
    error = (
        "The column visual_features of the data set me/x names files, which are read from a folder on disk. Download "
        "it: hf download me/x --repo-type dataset --local-dir FOLDER. Then name that folder."
    )
    with pytest.raises(ValueError, match=f"^{re.escape(error)}$"):
        VisualFeaturesModality.check_column(datasets.Value("string"), "me/x")
    VisualFeaturesModality.check_column(datasets.Array2D((None, WIDTH), "float32"), "me/x")


def test_push_sends_features_too(source, monkeypatch):
    save(source / "a.npy", array())
    table(source, "file,text\na,x\n")
    with MiniHub() as hub:
        connect(monkeypatch, hub.url, hub.token)
        folder = prepare(source, push_to_hub="me/features")
        files = {name: file.content for name, file in hub.repository("me/features", "datasets").files().items()}
    assert files["train/a.safetensors"] == (folder / "train" / "a.safetensors").read_bytes()
    assert {"train/metadata.csv", "README.md", "report.txt"} <= set(files)


# The rate of a clip, from its file to the times of its words


@pytest.fixture(scope="module")
def model_folder(tmp_path_factory) -> Path:
    tokenizer = AutoTokenizer.from_pretrained(language_model())
    text = tiny_text_config("mbart", vocab_size=len(tokenizer))
    model = FLaLLMForTranslation(FLaLLMConfig(vision_config=VisualFeaturesConfig(hidden_size=WIDTH), text_config=text))
    make_talkative(model, tokenizer)
    folder = tmp_path_factory.mktemp("model")
    model.save_pretrained(folder)
    FLaLLMProcessor(feature_extractor=VisualFeatureExtractor(WIDTH), tokenizer=tokenizer).save_pretrained(folder)
    return folder


def safetensors(path: Path, values: np.ndarray, **metadata) -> Path:
    save_file({"features": torch.from_numpy(values)}, path, metadata)
    return path


def test_lengths_come_from_the_table_and_batches_from_the_files(source, model_folder):
    lengths = {"a": 12, "b": 7}
    for name, length in lengths.items():
        save(source / f"{name}.npy", array(length))
    table(source, "file,text\na,x\nb,y\n")
    folder = prepare(source)
    processor = AutoProcessor.from_pretrained(model_folder)
    clips = SignClipDataset(load_split(DataArguments(dataset=str(folder)), "train"), processor)
    batch = TranslationCollator(processor)([clips[0], clips[1]])
    assert batch["visual_attention_mask"].sum(1).tolist() == [*lengths.values()]
    for path in (folder / "train").glob("*.safetensors"):
        path.unlink()
    assert clips.longest_lengths() == [*lengths.values()]


def test_words_are_timed_by_the_rate_of_the_file(model_folder, tmp_path):
    values = array(40)
    path = str(safetensors(tmp_path / "a.safetensors", values, features_per_second="12.5"))
    translate = pipeline("sign-language-translation", model=str(model_folder))
    timed = translate(path, return_timestamps=True)
    assert timed == translate(values, source_fps=12.5, return_timestamps=True)
    assert max(word["end"] for word in timed["words"]) <= 40 / 12.5
    row = {"visual_features": values, "features_per_second": 12.5, "start": 3.0, "end": 6.2}
    assert translate(row, return_timestamps=True) == timed
    assert translate({**row, "source_fps": 25.0}, return_timestamps=True) == translate(
        path, source_fps=25.0, return_timestamps=True
    )
    part = translate(path, start=1.6, return_timestamps=True)
    assert part == translate(values[20:], source_fps=12.5, return_timestamps=True) | {
        "words": [
            {**word, **{name: round(word[name] + 1.6, 3) for name in ("start", "end", "peak")}}
            for word in translate(values[20:], source_fps=12.5, return_timestamps=True)["words"]
        ]
    }
    with pytest.raises(ValueError, match="has no frame rate, so its words cannot be timed"):
        translate(str(safetensors(tmp_path / "b.safetensors", values)), return_timestamps=True)


def test_captions_last_as_long_as_the_features(model_folder, tmp_path, capsys):
    path = safetensors(tmp_path / "a.safetensors", array(40), features_per_second="12.5")
    assert translate_command.main(["--model", str(model_folder), str(path), "--vtt", "--dtype", "float32"]) == 0
    assert "00:00:00.000 --> 00:00:03.200" in path.with_suffix(".vtt").read_text()


def test_features_without_a_rate_have_no_captions(model_folder, tmp_path, capsys):
    path = safetensors(tmp_path / "a.safetensors", array(40))
    assert translate_command.main(["--model", str(model_folder), str(path), "--vtt", "--dtype", "float32"]) == 1
    assert f"{path} does not say how long it lasts, so its captions have no times." in capsys.readouterr().err
    assert not path.with_suffix(".vtt").exists()


@pytest.mark.parametrize("stated", ["0", "-1", "fast", "nan", "inf"])
def test_a_rate_must_be_a_positive_number(stated, tmp_path):
    path = safetensors(tmp_path / "a.safetensors", array(), features_per_second=stated)
    modality = VisualFeaturesModality(VisualFeatureExtractor(WIDTH))
    error = f"features_per_second of '{path}' must be a positive number, got '{stated}'."
    with pytest.raises(ValueError, match=f"^{re.escape(error)}$"):
        modality.open(str(path))
    with pytest.raises(ValueError, match=f"^{re.escape(error)}$"):
        modality.read({"visual_features": str(path)})


def test_the_column_comes_before_the_file(tmp_path):
    path = str(safetensors(tmp_path / "a.safetensors", array(), features_per_second="12.5"))
    modality = VisualFeaturesModality(VisualFeatureExtractor(WIDTH))
    assert modality.read({"visual_features": path}).rate == 12.5
    assert modality.read({"visual_features": path, "features_per_second": 25.0}).rate == 25.0
    assert modality.read({"visual_features": array()}).rate is None


def test_a_table_with_a_rate_that_is_none(tmp_path):
    save(tmp_path / "train" / "a.npy", array())
    table(tmp_path / "train", "visual_features,text,features_per_second\na.npy,x,fast\n", "metadata.csv")
    error = "features_per_second must be a number of features per second, got 'fast' in row 0"
    with pytest.raises(ValueError, match=error):
        load_split(DataArguments(dataset=str(tmp_path)), "train")


@pytest.mark.slow
@pytest.mark.usefixtures("forked_workers")
def test_several_processes_write_the_same(source):
    arrays = {f"clip{index}": array() for index in range(6)}
    (source / "all.pkl").write_bytes(
        pickle_of({name: values.astype(float).tolist() for name, values in arrays.items()})
    )
    table(source, "file,text\n" + "".join(f"{name},x\n" for name in arrays))
    assert_holds(prepare(source, num_workers=2), arrays)
