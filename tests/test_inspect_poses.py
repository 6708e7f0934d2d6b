"""`flallm inspect` of poses, alone and beside videos: figures of the hands, pictures, broken files, and the Hub."""

import base64
import csv
import io
import json
import re
import shutil
from pathlib import Path

import datasets
import numpy as np
import pytest
from PIL import Image
from tiny_corpus import flags
from video_files import write_video

from modeling_flallm.own_processing import Poses, pose_files
from processing.pose_pictures_slt import LEFT_HAND_COLOUR, RIGHT_HAND_COLOUR
from train_scripts.commands import inspect_dataset
from train_scripts.commands.inspect_dataset import InspectArguments, corpus_of_splits
from train_scripts.corpora.inspected_clips import measure_clips
from train_scripts.corpora.inspected_poses import moving_hand

pytestmark = pytest.mark.usefixtures("one_worker_is_this_process")

WIDTH, HEIGHT = 640.0, 360.0


def poses(num_frames: int = 10, moving: str = "right", unseen: tuple[str, ...] = (), **facts) -> Poses:
    """One hand goes to and fro; the points of the others are still but for a little noise."""
    keypoints = np.random.uniform(100, 300, (1, 133, 2)).repeat(num_frames, 0)
    keypoints += np.random.uniform(-0.1, 0.1, keypoints.shape)
    places = {"left": (slice(91, 112), 9), "right": (slice(112, 133), 10)}
    scores = np.ones((num_frames, 133))
    for hand in places[moving]:
        keypoints[:, hand] += np.sin(np.arange(num_frames)).reshape(-1, *[1] * (keypoints[:, hand].ndim - 1)) * 50
    for hand in unseen:
        scores[:, places[hand][0]] = 0
    stated = {"frames_per_second": 25.0, "width": WIDTH, "height": HEIGHT, "extractor": "mediapipe 0.10.21", **facts}
    return Poses(keypoints.astype(np.float32), scores.astype(np.float32), **stated)


def write_split(folder: Path, clips: dict[str, Poses], **columns: list) -> Path:
    folder.mkdir(parents=True)
    for name, values in clips.items():
        pose_files.write_poses(folder / name, values)
    rows = [{"poses": name, "text": f"{folder.name} {name}"} for name in clips]
    write_table(folder, [{**row, **{key: columns[key][index] for key in columns}} for index, row in enumerate(rows)])
    return folder


def write_table(folder: Path, rows: list[dict]) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / "metadata.csv").open("w", encoding="utf-8", newline="") as file:
        writer = csv.DictWriter(file, list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)


def inspect(dataset: Path, output_dir: Path, **values) -> dict:
    return inspect_dataset.run(flags(dataset=dataset, output_dir=output_dir, num_workers=1, **values))


def lines(problems: list[dict]) -> list[str]:
    return [f"{problem['where']}: {problem['what']}" for problem in problems]


def pictures_of(page: str) -> list[np.ndarray]:
    found = re.findall(r'data:image/png;base64,([^"]+)"', page)
    return [np.array(Image.open(io.BytesIO(base64.b64decode(content))).convert("RGB")) for content in found]


def test_figures_of_poses(tmp_path, capsys):
    clips = {
        "a.safetensors": poses(10),
        "b.npz": poses(30, moving="left", unseen=("left",), extractor=None),
        "c.safetensors": poses(20, moving="left", unseen=("left", "right")),
    }
    write_split(tmp_path / "data" / "train", clips, signer=["S1", "S2", "S2"])
    write_split(tmp_path / "data" / "dev", {"d.safetensors": poses()})
    report = inspect(tmp_path / "data", tmp_path / "out")
    assert report["errors"] == []
    train = report["splits"]["train"]
    assert train["readable_clips"] == 3 and train["resolutions"] == {"640x360": 3}
    assert train["frames"]["max"] == 30 and train["frame_rates"] == {"25.00": 3}
    assert train["hours"] == pytest.approx(60 / 25 / 3600)
    figures = report["poses"]["train"]
    assert figures["extractors"] == {"mediapipe 0.10.21": 2, "not stated": 1}
    assert figures["unseen_hands"] == {"left": pytest.approx(50 / 60), "right": pytest.approx(20 / 60)}
    assert figures["clips_without_hands"] == 1 and figures["clips_of_several_people"] == 0
    assert figures["moving_hands"] == {"left": 2, "right": 1} and figures["left_handed_signers"] == ["S2"]
    assert report["presets"] == []
    output = capsys.readouterr().out
    assert "Warning: 1 of 3 clips of train never show a hand. Nothing can be learned from them" in output
    assert "Warning: the poses of train are of 2 extractors, which see different things." in output
    assert re.search(r"left hand unseen +83\.3% of the frames +0\.0% of the frames", output)
    assert re.search(r"left-handed signers +1 \(S2\) +0", output)
    assert "keep_decoded_videos" not in output


def test_the_page_draws_the_skeleton(tmp_path):
    write_split(tmp_path / "data" / "train", {f"{name}.safetensors": poses() for name in "abcdef"})
    inspect(tmp_path / "data", tmp_path / "out", num_strips=2)
    page = (tmp_path / "out" / "inspection.html").read_text(encoding="utf-8")
    pictures = pictures_of(page)
    assert [picture.shape for picture in pictures] == [(90, 5 * 160, 3)] * 2
    for picture in pictures:
        for colour in (LEFT_HAND_COLOUR, RIGHT_HAND_COLOUR):
            wanted = [int(colour[place : place + 2], 16) for place in (1, 3, 5)]
            assert (np.abs(picture.astype(int) - wanted).max(-1) < 12).sum() > 50
    assert 'alt="The skeleton in frames of train, row 1 (a.safetensors), from first to last"' in page


def test_leaks_and_copies(tmp_path):
    write_split(tmp_path / "data" / "train", {f"{name}.safetensors": poses() for name in "ab"})
    test = write_split(tmp_path / "data" / "test", {f"{name}.safetensors": poses() for name in "cd"})
    shutil.copy(tmp_path / "data" / "train" / "a.safetensors", test / "d.safetensors")
    report = inspect(tmp_path / "data", tmp_path / "out")
    pairs = {tuple(pair["splits"]): pair for pair in report["leakage"]}
    assert pairs["train", "test"]["same_clips"] == [["test, row 2 (d.safetensors)", "train, row 1 (a.safetensors)"]]


def test_parts_of_one_file(tmp_path):
    rows = [
        {"poses": "long.safetensors", "text": "one", "start": 0, "end": 1},
        {"poses": "long.safetensors", "text": "two", "start": 1, "end": 2},
        {"poses": "long.safetensors", "text": "three", "start": 1, "end": 2},
        {"poses": "long.safetensors", "text": "four", "start": 99, "end": ""},
    ]
    write_table(tmp_path / "data" / "train", rows)
    pose_files.write_poses(tmp_path / "data" / "train" / "long.safetensors", poses(60))
    report = inspect(tmp_path / "data", tmp_path / "out")
    assert report["splits"]["train"]["frames"]["min"] == 25 and report["splits"]["train"]["readable_clips"] == 3
    assert lines(report["errors"]) == [
        "train, row 3 (long.safetensors): names the same part of a file as row 2",
        "train, row 4 (long.safetensors): 'long.safetensors' has no frame from 99 to None s: it has 60.",
    ]


def test_what_is_broken_is_named_and_stops_nothing(tmp_path):
    train = write_split(tmp_path / "data" / "train", {f"{name}.safetensors": poses() for name in ("good", "cut")})
    rows = [{"poses": f"{name}.safetensors", "text": name} for name in ("good", "cut", "missing")]
    write_table(train, [*rows, {"poses": "../outside.npz", "text": "x"}, {"poses": "a.txt", "text": "y"}])
    (train / "cut.safetensors").write_bytes((train / "good.safetensors").read_bytes()[:500])
    pose_files.write_poses(train / "unnamed.safetensors", poses())
    pose_files.write_poses(tmp_path / "data" / "outside.npz", poses())
    argv = flags(dataset=tmp_path / "data", output_dir=tmp_path / "out", num_workers=1)
    assert inspect_dataset.main(argv) == 1
    report = json.loads((tmp_path / "out" / "inspection.json").read_text())
    found = "\n".join(lines(report["errors"]))
    for text in (
        r"row 2 \(cut.safetensors\): 'cut.safetensors' cannot be read",
        r"row 3 \(missing.safetensors\): there is no such file",
        r"row 4 \(../outside.npz\): the file name cannot be used",
        r"row 5 \(a.txt\): poses must be in a file of ",
    ):
        assert re.search(text, found), (text, found)
    assert "train/unnamed.safetensors: the metadata does not name this file" in lines(report["warnings"])
    assert report["poses"]["train"]["clips"] == 1 and str(tmp_path) not in found


def test_poses_beside_videos(tmp_path):
    train = tmp_path / "data" / "train"
    (train / "poses").mkdir(parents=True)
    write_video(train / "a.mp4", np.random.randint(0, 256, (10, 36, 64, 3), dtype=np.uint8))
    pose_files.write_poses(train / "poses" / "a.safetensors", poses(unseen=("right",)))
    write_table(train, [{"file_name": "a.mp4", "text": "x", "poses": "poses/a.safetensors"}])
    report = inspect(tmp_path / "data", tmp_path / "out")
    assert report["errors"] == [] and report["splits"]["train"]["resolutions"] == {"64x36": 1}
    assert report["poses"]["train"]["unseen_hands"] == {"left": 0.0, "right": 1.0} and len(report["presets"]) == 2
    page = (tmp_path / "out" / "inspection.html").read_text(encoding="utf-8")
    assert len(pictures_of(page)) == 1 and "data:image/jpeg" in page
    write_table(train, [{"file_name": "a.mp4", "text": "x", "poses": "poses/b.safetensors"}])
    report = inspect(tmp_path / "data", tmp_path / "again")
    assert lines(report["errors"]) == ["train, row 1 (a.mp4): there is no such file: poses/b.safetensors"]


def test_arrays_on_the_hub(tmp_path):
    clips = [poses(6), poses(8, unseen=("left", "right"))]
    arrays = [np.concatenate([clip.keypoints, clip.scores[..., None]], -1) for clip in clips]
    features = datasets.Features(
        {"pose": datasets.Array3D((None, 133, 3), "float32"), "text": datasets.Value("string")}
    )
    data = datasets.Dataset.from_dict({"pose": arrays, "text": ["a", "b"]}, features=features)
    arguments = InspectArguments(dataset="me/poses", output_dir=str(tmp_path / "out"), num_workers=1)
    corpus = corpus_of_splits({"train": data}, arguments)
    measure_clips(corpus, 1)
    report = inspect_dataset.build_report(corpus, arguments)
    assert report["errors"] == [] and report["splits"]["train"]["frames"]["max"] == 8
    assert report["poses"]["train"]["clips_without_hands"] == 1
    assert report["splits"]["train"]["resolutions"] == {"not stated": 2}


@pytest.mark.parametrize("hand", ["left", "right"])
def test_the_hand_that_moves_more(hand):
    assert moving_hand(poses(moving=hand)) == hand
    both = poses(moving="left")
    both.keypoints[:, 10] = both.keypoints[:, 9] + 30
    assert moving_hand(both) is None
    unseen = poses(moving="left")
    unseen.scores[:, 9] = 0
    assert moving_hand(unseen) == "right"  # the other wrist is not seen to move at all
    assert moving_hand(poses(1)) is None
