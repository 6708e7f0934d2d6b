"""`flallm prepare` with poses: alone or beside videos, from the files of others, cut, with their rate."""

import gzip
import json
import os
from pathlib import Path

import datasets
import numpy as np
import pytest
import torch
from mini_hub import MiniHub, connect
from prepared_folders import problems_of, report_of, rows_of, table
from raw_corpora import plain_pickle
from tiny_corpus import error_of, flags, language_model
from torch.testing import assert_close
from transformers import AutoTokenizer
from video_files import write_video

from modeling_flallm.own_processing import FLaLLMProcessor, PoseFeatureExtractor, PoseModality, Poses, pose_files
from train_scripts.arguments.data_arguments import DataArguments
from train_scripts.clips.data import SignClipDataset
from train_scripts.clips.splits import load_split
from train_scripts.clips.streaming import StreamedClip, StreamedClipDataset
from train_scripts.commands.prepare_dataset import main
from train_scripts.corpora.corpus_schema import COLUMNS, POSE_COLUMNS

pytestmark = pytest.mark.usefixtures("one_worker_is_this_process")

RATE, WIDTH, HEIGHT = 25.0, 640.0, 360.0
SIZE = np.array([WIDTH, HEIGHT], np.float32)


def poses(num_frames: int = 10, **facts) -> Poses:
    """Random ones, all of whose points are seen."""
    keypoints = np.random.uniform(10, 350, (num_frames, 133, 2)).astype(np.float32)
    scores = np.random.uniform(0.4, 1, (num_frames, 133)).astype(np.float32)
    stated = {"frames_per_second": RATE, "width": WIDTH, "height": HEIGHT, "extractor": "rtmlib 0.0.13 rtmw", **facts}
    return Poses(keypoints, scores, **stated)


def save(path: Path, values: Poses | None = None) -> Poses:
    values = poses() if values is None else values
    path.parent.mkdir(parents=True, exist_ok=True)
    pose_files.write_poses(path, values)
    return values


def save_openpose(folder: Path, values: Poses) -> None:
    """A JSON file for each frame, as OpenPose writes them: face and hands only, of one person."""
    folder.mkdir(parents=True)
    parts = {"face": range(23, 91), "hand_left": range(91, 112), "hand_right": range(112, 133)}
    for frame in range(len(values)):
        points = np.concatenate([values.keypoints[frame], values.scores[frame][:, None]], 1)
        person = {f"{part}_keypoints_2d": points[list(places)].ravel().tolist() for part, places in parts.items()}
        person["face_keypoints_2d"] += [0.0] * 6  # the pupils
        person["pose_keypoints_2d"] = [0.0] * 75
        text = json.dumps({"version": 1.3, "people": [person]})
        (folder / f"clip_{frame:012d}_keypoints.json").write_text(text)


@pytest.fixture
def source(tmp_path) -> Path:
    (tmp_path / "raw").mkdir()
    return tmp_path / "raw"


def command(source: Path, **values) -> list[str]:
    given = {"corpus": "poses", "source": source, "output_dir": source.parent / "prepared", "num_workers": 1, **values}
    return flags(**{name: value for name, value in given.items() if value is not None})


def prepare(source: Path, expected: int = 0, **values) -> Path:
    """-> the prepared folder"""
    assert main(command(source, **values)) == expected
    return source.parent / "prepared"


def poses_in(folder: Path, row: dict[str, str], split: str = "train") -> Poses:
    return pose_files.read_poses(folder / split / row["poses"])


def assert_same(found: Poses, expected: Poses, points: slice = slice(None)) -> None:
    assert_close(found.keypoints[:, points], expected.keypoints[:, points])
    assert_close(found.scores[:, points], expected.scores[:, points])


# What is written


def test_one_schema_that_training_loads(source):
    first, second = save(source / "poses" / "a.safetensors"), save(source / "poses" / "b.npz", poses(20))
    table(source, "file,text,split,signer,gloss\na,es regnet,train,S1,REGEN\nb.mp4,die sonne scheint,dev,,\n")
    folder = prepare(source, sign_language="gsg", spoken_language="de")
    (row,) = rows_of(folder)
    assert tuple(row) == POSE_COLUMNS
    assert row == {
        "poses": "a.safetensors",
        "text": "es regnet",
        "name": "a",
        "signer": "S1",
        "gloss": "REGEN",
        "sign_language": "gsg",
        "spoken_language": "de",
        "duration_in_seconds": "0.4",
        "num_frames": "10",
        "frames_per_second": "25.0",
    }
    assert_same(poses_in(folder, row), first)
    assert_same(poses_in(folder, rows_of(folder, "validation")[0], "validation"), second)
    found = poses_in(folder, row)
    assert (found.frames_per_second, found.width, found.height) == (RATE, WIDTH, HEIGHT)
    split = load_split(DataArguments(dataset=str(folder)), "train")
    clip = PoseModality(PoseFeatureExtractor()).read(split[0])
    assert clip.rate == RATE and clip.values.shape == (10, 133, 3)
    assert split["num_frames"] == [10.0]
    report = (folder / "report.txt").read_text()
    assert "Poses: 2 written.\nThe poses were extracted with rtmlib 0.0.13 rtmw (2 clips).\n" in report
    card = (folder / "README.md").read_text()
    assert "Poses of German Sign Language with sentences in German" in card
    assert "The poses were extracted with rtmlib 0.0.13 rtmw (2 clips)." in card and "- video" not in card


def test_training_says_nothing_of_unused_columns(source, capsys):
    save(source / "a.safetensors")
    table(source, "file,text\na,x\n")
    load_split(DataArguments(dataset=str(prepare(source))), "train")
    assert "unused columns" not in capsys.readouterr().err


def test_parts_of_long_poses_are_cut(source):
    whole = save(source / "talk.safetensors", poses(100))
    table(source, "file,text,start,end\ntalk,a,0,1\ntalk,b,1.02,2.5\ntalk,c,3,5\ntalk,d,9,10\n")
    folder = prepare(source, expected=1)
    rows = rows_of(folder)
    assert [row["name"] for row in rows] == ["talk-0-1", "talk-1.02-2.5", "talk-3-5"]
    for row, part in zip(rows, (slice(0, 25), slice(26, 63), slice(75, 100)), strict=True):
        found = poses_in(folder, row)
        assert_close(found.keypoints, whole.keypoints[part])
        assert int(row["num_frames"]) == len(found) == part.stop - part.start
    problems = problems_of(folder)
    assert problems["talk-3-5"] == "is kept, but the file of poses ends 1.00 seconds before the clip does."
    assert problems["talk-9-10"] == "'talk.safetensors' has no frame from 9 to 10.0 s: it has 100."
    # A row without start and end: its file is the clip.
    split = load_split(DataArguments(dataset=str(folder)), "train")
    assert len(PoseModality(PoseFeatureExtractor()).read(split[2]).values) == 25


def test_an_interrupted_run_goes_on(source, capsys):
    first = save(source / "a.safetensors")
    save(source / "b.safetensors")
    table(source, "file,text\na,x\nb,y\n")
    folder = prepare(source)
    made = (folder / "train" / "a.safetensors").stat()
    second = save(source / "b.safetensors", poses(7))
    capsys.readouterr()
    prepare(source)
    assert "Resuming: 1 of 2 clips are already finished." in capsys.readouterr().out
    assert (folder / "train" / "a.safetensors").stat().st_mtime_ns == made.st_mtime_ns
    for row, expected in zip(rows_of(folder), (first, second), strict=True):
        assert_same(poses_in(folder, row), expected)
    assert not list((folder / ".preparation").glob("*partial*"))


@pytest.mark.slow
@pytest.mark.usefixtures("forked_workers")
def test_several_processes_write_the_same(source):
    for name in "abcd":
        save(source / f"{name}.safetensors")
    table(source, "file,text\na,x\nb,y\nc,z\nd,w\n")
    folder = prepare(source)
    other = source.parent / "other"
    assert main(command(source, num_workers=2, output_dir=other)) == 0
    assert rows_of(other) == rows_of(folder)
    for row in rows_of(folder):  # not the files: the entries of a safetensors header come in any order
        assert_same(poses_in(other, row), poses_in(folder, row))


# Sources


def test_folders_of_openpose(source):
    values = poses()
    save_openpose(source / "json" / "clip_1", values)
    save_openpose(source / "json" / "unused", values)
    table(source, "file,text\nclip_1.mp4,x\n")
    folder = prepare(source, expected=1, frames_per_second=30)
    (row,) = rows_of(folder)
    found = poses_in(folder, row)
    assert_same(found, values, slice(23, 133))
    assert found.frames_per_second == 30 and not found.scores[:, :17].any()
    assert problems_of(folder) == {"json/unused": "no clip is made from this file: no valid row of clips.csv names it"}


def test_files_without_a_rate_need_one(source, capsys):
    save(source / "a.npz", poses(frames_per_second=None))
    save(source / "b.npz", poses(frames_per_second=50.0))
    table(source, "file,text\na,x\nb,y\n")
    assert error_of(main, command(source), capsys).startswith(
        "Files such as a.npz do not state their frame rate: pass --frames_per_second"
    )
    folder = prepare(source, frames_per_second=20)
    assert [row["frames_per_second"] for row in rows_of(folder)] == ["20.0", "50.0"]


def test_many_clips_in_one_file(source):
    clips = {name: np.random.uniform(1, 9, (5, 133, 3)).astype(np.float32) for name in ("a", "b")}
    np.savez(source / "train.npz", **clips, frames_per_second=25.0)
    table(source, "file,text\na,x\ntrain.npz#b,y\n")
    folder = prepare(source, frames_per_second=25)
    for row, values in zip(rows_of(folder), clips.values(), strict=True):
        assert_close(poses_in(folder, row).keypoints, values[..., :2])


def save_pickle(path: Path, values: Poses, people: int = 1) -> None:
    """As Uni-Sign's: x and y are shares of the picture, each frame has several people."""
    keypoints = [np.stack([frame / SIZE] * people).tolist() for frame in values.keypoints]
    scores = [[frame.tolist()] * people for frame in values.scores]
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(plain_pickle({"keypoints": keypoints, "scores": scores}))


def save_labels(folder: Path, **clips: str) -> None:
    """Label files of Uni-Sign, all of whose clips are for training."""
    entry = {
        key: {"name": f"train/{key}", "video_path": f"{key}.mp4", "text": text, "gloss": text.split()}
        for key, text in clips.items()
    }
    for split, labels in (("train", entry), ("dev", {}), ("test", {})):
        (folder / f"labels.{split}").write_bytes(gzip.compress(plain_pickle(labels)))


def test_pickles_and_labels_of_uni_sign(source):
    values = {"S1_P0": poses(), "S2_P1": poses(6)}
    for name, each in values.items():
        save_pickle(source / "pose_format" / f"{name}.pkl", each)
    save_labels(source, S1_P0="es regnet", S2_P1="die sonne scheint", S3_P0="es schneit")
    folder = prepare(source, expected=1, frames_per_second=30)
    for row, each in zip(rows_of(folder), values.values(), strict=True):
        assert row["gloss"] == row["text"]
        assert_close(poses_in(folder, row).keypoints * SIZE, each.keypoints, rtol=1e-4, atol=1e-2)
    (what,) = problems_of(folder).values()
    assert what == "there is no file of poses 'S3_P0.mp4', nor an array of that name in any of them"
    assert "the poses of 2 clip(s) do not say what extracted them" in report_of(folder)["notes"]


def test_pickles_with_code_run_nothing(source, tmp_path):
    save_pickle(source / "a.pkl", poses())
    attack = b"cposix\nsystem\n(S'touch %s'\ntR." % os.fsencode(tmp_path / "run")
    (source / "b.pkl").write_bytes(attack)
    table(source, "file,text\na,x\nb,y\n")
    folder = prepare(source, expected=1, frames_per_second=30)
    assert "b" in problems_of(folder) and [row["name"] for row in rows_of(folder)] == ["a"]
    assert not (tmp_path / "run").exists()


def test_what_is_damaged_is_left_out_and_told(source):
    save(source / "good.safetensors")
    (source / "cut.safetensors").write_bytes((source / "good.safetensors").read_bytes()[:900])
    save(source / "nobody.npz", Poses(np.zeros((3, 133, 2), np.float32), np.zeros((3, 133), np.float32), RATE))
    np.savez(source / "other.npz", keypoints=np.ones((3, 7, 2)), frames_per_second=25.0)
    table(source, "file,text\ngood,x\ncut,y\nnobody,z\nother,w\nmissing,v\n")
    folder = prepare(source, expected=1)
    assert [row["name"] for row in rows_of(folder)] == ["good"]
    problems = problems_of(folder)
    assert problems["cut"].startswith("'cut.safetensors' cannot be read")
    assert problems["nobody"].startswith("'nobody.npz' shows nobody")
    assert "7 points, which no known layout has" in problems["other"]
    assert problems["clips.csv, line 6"].startswith("there is no file of poses 'missing'")


def test_several_people_and_extractors_are_told(source):
    both = np.stack([poses().keypoints, poses().keypoints + 5], 1)
    np.savez(source / "a.npz", keypoints=both, scores=np.ones(both.shape[:3]), frames_per_second=25.0)
    save(source / "b.npz")
    table(source, "file,text\na,x\nb,y\n")
    folder = prepare(source)
    notes = report_of(folder)["notes"]
    assert "1 clip(s) show several people: kept are the poses of the one whose body is the largest" in notes
    assert any(note.startswith("the poses are of several extractors") for note in notes)
    assert report_of(folder)["extractors"] == {"rtmlib 0.0.13 rtmw": 1}


# Beside videos


def video(path: Path, num_frames: int = 10) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    return write_video(path, np.random.randint(0, 256, (num_frames, 36, 64, 3), dtype=np.uint8))


def test_poses_beside_videos(source):
    video(source / "a.mp4")
    video(source / "long.mp4", 50)
    table(source, "file,text,start,end\na.mp4,x,,\nlong.mp4,y,0,1\nlong.mp4,z,1,2\n")
    whole = {"a": save(source.parent / "poses" / "a.npz"), "long": poses(50, frames_per_second=None, width=None)}
    whole["long"] = Poses(whole["long"].keypoints / 360, whole["long"].scores)
    save(source.parent / "poses" / "long.npz", whole["long"])
    folder = prepare(source, corpus="table", poses=source.parent / "poses")
    rows = rows_of(folder)
    assert tuple(rows[0]) == (*COLUMNS, "poses")
    assert [row["poses"] for row in rows] == ["poses/a.safetensors", *["poses/long.safetensors"] * 2]
    assert [row["start"] for row in rows] == ["", "0.0", "1.0"]
    assert_same(poses_in(folder, rows[0]), whole["a"])
    found = poses_in(folder, rows[1])  # what its file does not say, the video does
    assert (found.frames_per_second, found.width, found.height, len(found)) == (25, 64, 36, 50)
    assert_close(found.keypoints, whole["long"].keypoints * np.array([64, 36], np.float32))
    split = load_split(DataArguments(dataset=str(folder)), "train")
    modality = PoseModality(PoseFeatureExtractor())
    assert_close(modality.read(split[2]).values[..., :2].numpy(), found.keypoints[25:])
    assert modality.count(split[2]) == 25
    assert "Videos: 2 linked." in (folder / "report.txt").read_text()
    assert "`poses` names a file with the poses of the whole video" in (folder / "README.md").read_text()


def test_clips_without_poses_or_with_those_of_another_video_are_left_out(source):
    for name in "abc":
        video(source / f"{name}.mp4", 50)
    table(source, "file,text\na.mp4,x\nb.mp4,y\nc.mp4,z\n")
    save(source.parent / "poses" / "a.npz", poses(50))
    save(source.parent / "poses" / "b.npz", poses(10))
    save(source.parent / "poses" / "d.npz")
    folder = prepare(source, expected=1, corpus="table", poses=source.parent / "poses")
    assert [row["name"] for row in rows_of(folder)] == ["a"]
    problems = problems_of(folder)
    assert "holds poses of 0.40 seconds, but the video lasts 2.00." in problems["b"]
    assert problems["train c"] == "there are no poses that are called 'c.mp4' or 'c'"
    assert problems["d.npz"].startswith("no clip is made from this file")


def test_poses_of_folders_of_pictures_have_their_rate(source):
    pytest.importorskip("PIL")
    from PIL import Image

    for frame in range(5):
        (source / "clip").mkdir(exist_ok=True)
        Image.new("RGB", (64, 36), (frame * 40, 0, 0)).save(source / "clip" / f"{frame}.png")
    table(source, "file,text\nclip,x\n")
    save(source.parent / "poses" / "clip.npz", poses(5, frames_per_second=None, width=None, height=None))
    folder = prepare(source, corpus="frame_folders", poses=source.parent / "poses", frames_per_second=10)
    found = poses_in(folder, rows_of(folder)[0])
    assert (found.frames_per_second, found.width, found.height) == (10, 64, 36)


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        ({"poses": "."}, "--poses goes beside videos, but --corpus poses is of poses."),
        ({"features_per_second": 5}, "--corpus poses is of poses, which have no --features_per_second. Leave it out."),
        ({"corpus": "table", "poses": "nowhere"}, "--poses must be the folder of the poses; there is no nowhere."),
    ],
)
def test_mistakes(values, expected, source, capsys):
    save(source / "a.safetensors")
    video(source / "v.mp4")
    table(source, f"file,text\n{'v.mp4' if 'corpus' in values else 'a'},x\n")
    assert error_of(main, command(source, **values), capsys) == expected


# Ready data sets


def test_pushed_files_are_those_of_the_data_set(source, monkeypatch):
    video(source / "a.mp4")
    save(source.parent / "poses" / "a.npz")
    table(source, "file,text\na.mp4,x\n")
    with MiniHub() as hub:
        connect(monkeypatch, hub.url, hub.token)
        prepare(source, corpus="table", poses=source.parent / "poses", push_to_hub="me/poses")
        names = set(hub.repository("me/poses", "datasets").files()) - {".gitattributes"}
    assert names == {
        "README.md", "report.txt", "report.json", "train/metadata.csv", "train/a.mp4", "train/poses/a.safetensors"
    }  # fmt: skip


@pytest.fixture(scope="module")
def processor() -> FLaLLMProcessor:
    tokenizer = AutoTokenizer.from_pretrained(language_model())
    return FLaLLMProcessor(feature_extractor=PoseFeatureExtractor(max_num_frames=8), tokenizer=tokenizer)


ARRAYS = {
    "Array3D": datasets.Array3D((None, 133, 3), "float32"),
    "lists": datasets.List(datasets.List(datasets.List(datasets.Value("float32")))),
}


@pytest.mark.parametrize("kind", ARRAYS)
def test_a_column_of_arrays(kind, processor):
    """As data sets on the Hub may have it, with a column for the frame rate."""
    arrays = [np.random.uniform(1, 9, (length, 133, 3)).astype(np.float32) for length in (4, 30)]
    columns = {"poses": arrays, "text": ["a", "b"], "start": [None, 0.2], "frames_per_second": [25.0, 25.0]}
    features = {"text": datasets.Value("string"), "start": datasets.Value("float64")}
    features |= {"poses": ARRAYS[kind], "frames_per_second": datasets.Value("float64")}
    data = datasets.Dataset.from_dict(columns, features=datasets.Features(features))
    PoseModality.check_column(data.features["poses"], "me/poses")
    dataset = SignClipDataset(data, processor)
    assert dataset.longest_lengths() == [4, 8]
    assert_close(dataset[0]["poses"].numpy(), arrays[0])
    assert_close(dataset[1]["poses"].numpy(), arrays[1][5:][[0, 3, 6, 9, 12, 15, 18, 21]])
    streamed = StreamedClipDataset(processor)
    for index in range(2):
        item = streamed[StreamedClip(dataset.dataset[index], "me/poses", index, 1)]
        assert torch.equal(item["poses"], dataset[index]["poses"])


def test_a_column_of_names_of_files_must_be_downloaded():
    with pytest.raises(
        ValueError, match="The column poses of the data set me/poses names files, which are read from a"
    ):
        PoseModality.check_column(datasets.Value("string"), "me/poses")


def test_the_rate_of_a_file_is_not_that_of_a_column(source):
    """The column may be of the videos beside the poses."""
    save(source / "a.npz", poses(30))
    save(source / "b.npz", poses(30, frames_per_second=None))
    modality = PoseModality(PoseFeatureExtractor())
    for name, expected in (("a", 25), ("b", 10)):
        row = {"poses": str(source / f"{name}.npz"), "start": 1.0, "end": None, "frames_per_second": 10.0}
        assert modality.rate(row) == modality.read(row).rate == expected
        assert modality.count(row) == len(modality.read(row).values) == 30 - expected


def test_lengths_come_from_the_table_for_samplers(source, processor, monkeypatch):
    for name, length in (("a", 5), ("b", 30)):
        save(source / f"{name}.safetensors", poses(length))
    table(source, "file,text\na,x\nb,y\n")
    split = load_split(DataArguments(dataset=str(prepare(source))), "train")
    monkeypatch.setattr(PoseModality, "count", lambda *_: pytest.fail("a file was opened to count its frames"))
    assert SignClipDataset(split, processor).longest_lengths() == [5, 8]
