"""`flallm poses`: files of poses, data sets with one more column, what is resumed, and what is listed as broken."""

import csv
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from pose_stand_ins import SquareExtractor, frames_with_people, in_this_process
from tiny_corpus import error_of
from video_files import write_video

from processing import pose_extraction_slt, read_poses
from train_scripts.arguments.data_arguments import DatasetArguments
from train_scripts.clips import pose_tasks
from train_scripts.clips.pose_folder import pose_names
from train_scripts.clips.splits import load_split
from train_scripts.commands import extract_poses

ONE_PERSON = [[(4, 8)], [(8, 8)], [(12, 8)], [(16, 8)]]


def forget_extractors() -> None:
    pose_extraction_slt._load.cache_clear()
    pose_tasks.quiet_extractor.cache_clear()


@pytest.fixture(autouse=True)
def extractors(monkeypatch) -> list[SquareExtractor]:
    """Those that were loaded; the workers are this process."""
    loaded: list[SquareExtractor] = []

    class Recorded(SquareExtractor):
        def __init__(self, **settings):
            super().__init__(**settings)
            loaded.append(self)

    monkeypatch.setattr(pose_extraction_slt, "EXTRACTORS", {"rtmlib": Recorded})
    monkeypatch.setattr(pose_extraction_slt, "_first_installed", lambda: "rtmlib")
    monkeypatch.setattr(pose_tasks, "run_in_processes", in_this_process)
    forget_extractors()
    yield loaded
    forget_extractors()


@pytest.fixture
def clips(tmp_path) -> Path:
    folder = tmp_path / "clips"
    (folder / "more").mkdir(parents=True)
    for name in ("one.mp4", "more/two.mp4"):
        write_video(folder / name, frames_with_people(ONE_PERSON))
    (folder / "notes.txt").write_text("not a video")
    return folder


@pytest.fixture
def data(tmp_path) -> Path:
    """Two splits; in the second, three clips are parts of one video."""
    folder = tmp_path / "data"
    for split in ("train", "test"):
        (folder / split).mkdir(parents=True)
    (folder / "README.md").write_text("---\nlicense: cc-by-4.0\n---\n")
    write_video(folder / "train" / "one.mp4", frames_with_people(ONE_PERSON))
    write_video(folder / "train" / "two.mp4", frames_with_people(ONE_PERSON))
    write_table(
        folder / "train" / "metadata.csv",
        ["file_name", "text", "signer", "session"],
        [["one.mp4", "Ein Satz.", "007", "a"], ["two.mp4", "Noch einer, länger.", "7", "b"]],
    )
    write_video(folder / "test" / "long.mp4", frames_with_people([[(4 + index, 8)] for index in range(40)]), fps=10)
    lines = [
        {"file_name": "long.mp4", "text": text, "start": start, "end": end, "words": ["a", "b"]}
        for text, start, end in (("Eins.", 0.0, 1.0), ("Zwei.", 2.0, 3.0), ("Drei.", 2.5, 3.5))
    ]
    (folder / "test" / "metadata.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    return folder


def write_table(path: Path, columns: list[str], rows: list[list[str]]) -> None:
    with path.open("w", newline="", encoding="utf-8") as file:
        csv.writer(file).writerows([columns, *rows])


def read_table(path: Path) -> list[dict[str, str]]:
    with path.open(newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


def run(*sources: Path, output_dir: Path, **values) -> int:
    flags = [text for name, value in values.items() for text in (f"--{name}", str(value))]
    return extract_poses.main([*map(str, sources), "--output_dir", str(output_dir), *flags])


def files_below(folder: Path) -> list[str]:
    return sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file())


# Videos


def test_videos_and_folders_of_them(clips, tmp_path, capsys, extractors):
    output = tmp_path / "poses"
    extra = write_video(tmp_path / "extra.mp4", frames_with_people(ONE_PERSON))
    assert run(clips, extra, output_dir=output) == 0
    assert files_below(output) == [".poses.jsonl", "extra.safetensors", "more/two.safetensors", "one.safetensors"]
    poses = read_poses(output / "more" / "two.safetensors")
    assert len(poses) == 4 and poses.extractor == SquareExtractor.description and poses.frames_per_second == 25
    assert "3 clips, 12 frames" in capsys.readouterr().out
    assert len(extractors) == 1


def test_other_formats(clips, tmp_path):
    assert run(clips / "one.mp4", output_dir=tmp_path / "poses", format="npz") == 0
    assert len(read_poses(tmp_path / "poses" / "one.npz")) == 4


def test_settings_reach_the_extractor(clips, tmp_path, extractors):
    assert run(clips, output_dir=tmp_path / "poses", extractor="rtmlib", model_file="m.onnx", device="cpu") == 0
    assert extractors[0].settings == {"model_file": "m.onnx", "device": "cpu"}


@pytest.mark.parametrize(
    ("uses_all_cores", "given", "expected"), [(False, {}, 6), (True, {}, 1), (True, {"num_workers": 3}, 3)]
)
def test_number_of_processes(uses_all_cores, given, expected, clips, tmp_path, monkeypatch):
    numbers = []

    def record(function, tasks, num_workers, *others):
        numbers.append(num_workers)
        return in_this_process(function, tasks)

    monkeypatch.setattr(SquareExtractor, "uses_all_cores", uses_all_cores)
    monkeypatch.setattr(pose_tasks, "run_in_processes", record)
    monkeypatch.setattr(extract_poses, "num_cores", lambda: 6)
    assert run(clips, output_dir=tmp_path / "poses", **given) == 0
    assert numbers == [expected]


def test_names_of_pose_files():
    assert pose_names(["a/clip.mp4", "b/clip.mp4"]) == ["a/clip", "b/clip"]
    assert pose_names(["clip.mp4", "Clip.mov", "other.mp4"]) == ["clip.mp4", "Clip.mov", "other"]
    with pytest.raises(ValueError, match="Several videos are named clip.mp4"):
        pose_names(["clip.mp4", "clip.mp4"])


def test_broken_videos_are_listed(clips, tmp_path, capsys):
    (clips / "broken.mp4").write_bytes(b"no video" * 100)
    write_video(clips / "nobody.mp4", frames_with_people([[], []]))
    assert run(clips, output_dir=tmp_path / "poses") == 1
    out, err = capsys.readouterr()
    assert "Left out 2 of 4 videos:" in err and "2 clips" in out
    assert f"{clips / 'broken.mp4'}: '{clips / 'broken.mp4'}' is not a video that can be read" in err
    assert "finds nobody in the 2 frame(s) of" in err
    assert files_below(tmp_path / "poses") == [".poses.jsonl", "more/two.safetensors", "one.safetensors"]
    write_video(clips / "broken.mp4", frames_with_people(ONE_PERSON))
    (clips / "nobody.mp4").unlink()
    assert run(clips, output_dir=tmp_path / "poses") == 0
    assert "Resuming: 2 of 3 videos are already finished." in capsys.readouterr().out
    assert (tmp_path / "poses" / "broken.safetensors").is_file()


def test_mistakes(clips, data, tmp_path, capsys):
    def error(*sources, output_dir=tmp_path / "poses", **values):
        flags = [text for name, value in values.items() for text in (f"--{name}", str(value))]
        return error_of(extract_poses.main, [*map(str, sources), "--output_dir", str(output_dir), *flags], capsys)

    assert "There is no " in error(tmp_path / "missing") and "hf download" in error(tmp_path / "missing")
    (tmp_path / "nothing").mkdir()
    assert "There is no video in" in error(tmp_path / "nothing")
    assert "must be outside" in error(clips, output_dir=clips / "poses")
    assert "must be outside" in error(data, output_dir=tmp_path)
    assert "name one folder for each run" in error(data, clips)
    assert "--videos False leaves the videos of a data set out" in error(clips, videos=False)
    assert "--num_workers must be" in error(clips, num_workers=0)
    assert "--extractor" in error(clips, extractor="openpose")
    assert "is not empty" in error(clips, output_dir=data)
    assert not (tmp_path / "poses").exists()


# Data sets


def test_a_data_set_gets_the_column_of_poses_and_keeps_everything_else(data, tmp_path):
    output = tmp_path / "poses"
    assert run(data, output_dir=output) == 0
    assert read_table(output / "train" / "metadata.csv") == [
        {
            "file_name": "one.mp4",
            "poses": "poses/one.safetensors",
            "text": "Ein Satz.",
            "signer": "007",
            "session": "a",
        },
        {
            "file_name": "two.mp4",
            "poses": "poses/two.safetensors",
            "text": "Noch einer, länger.",
            "signer": "7",
            "session": "b",
        },
    ]
    lines = [json.loads(line) for line in (output / "test" / "metadata.jsonl").read_text().splitlines()]
    expected = [json.loads(line) for line in (data / "test" / "metadata.jsonl").read_text().splitlines()]
    assert lines == [{**line, "poses": "poses/long.safetensors"} for line in expected]
    assert os.path.samefile(output / "train" / "one.mp4", data / "train" / "one.mp4")
    assert (output / "README.md").read_text() == (data / "README.md").read_text()
    for split, num_clips in (("train", 2), ("test", 3)):
        rows = load_split(DatasetArguments([str(output)]), split)
        assert len(rows) == num_clips and {"video", "poses"} <= set(rows.column_names)


def test_only_the_parts_of_long_videos_are_looked_at(data, tmp_path, extractors):
    assert run(data, output_dir=tmp_path / "poses") == 0
    path = tmp_path / "poses" / "test" / "poses" / "long.safetensors"
    part = read_poses(path, 2.5, 3.5)
    assert np.abs(part.keypoints[:, 0, 0] - (4 + np.arange(25, 35))).max() <= 1.5
    seen = read_poses(path).scores.any(1)
    assert len(seen) == 40 and seen[:10].all() and seen[20:35].all()
    assert not seen[12:19].any() and not seen[37:].any()
    assert extractors[0].num_frames < 1 + 4 + 4 + 30


def test_a_data_set_without_its_videos(data, tmp_path):
    output = tmp_path / "poses"
    assert run(data, output_dir=output, videos=False) == 0
    assert files_below(output) == [
        ".poses.jsonl",
        "README.md",
        "test/metadata.jsonl",
        "test/poses/long.safetensors",
        "train/metadata.csv",
        "train/poses/one.safetensors",
        "train/poses/two.safetensors",
    ]
    rows = load_split(DatasetArguments([str(output)]), "train")
    assert "video" not in rows.column_names and rows["signer"] == ["007", "7"]
    assert read_poses(rows["poses"][0]).keypoints.shape == (4, 133, 2)


def test_one_split_alone(data, tmp_path):
    assert run(data / "train", output_dir=tmp_path / "poses", videos=False) == 0
    assert [row["poses"] for row in read_table(tmp_path / "poses" / "metadata.csv")] == [
        "poses/one.safetensors",
        "poses/two.safetensors",
    ]


def test_broken_clips_of_a_data_set_are_left_out(data, tmp_path, capsys):
    (data / "train" / "two.mp4").write_bytes(b"no video" * 100)
    (data / "test" / "long.mp4").write_bytes(b"no video" * 100)
    output = tmp_path / "poses"
    assert run(data, output_dir=output) == 1
    assert "Left out 2 of 3 videos:" in capsys.readouterr().err
    assert [row["file_name"] for row in read_table(output / "train" / "metadata.csv")] == ["one.mp4"]
    assert files_below(output) == [
        ".poses.jsonl",
        "README.md",
        "train/metadata.csv",
        "train/one.mp4",
        "train/poses/one.safetensors",
    ]


def test_data_sets_that_cannot_be_used(data, tmp_path, capsys):
    def error():
        return error_of(extract_poses.main, [str(data), "--output_dir", str(tmp_path / "poses")], capsys)

    write_table(data / "train" / "metadata.csv", ["file_name", "poses", "text"], [["one.mp4", "one.mp4", "Ein Satz."]])
    assert "poses" in error()
    write_table(data / "train" / "metadata.csv", ["file_name", "text"], [["../one.mp4", "Ein Satz."]])
    assert "would leave" in error()
    write_table(data / "train" / "metadata.csv", ["file_name", "satz"], [["one.mp4", "Ein Satz."]])
    assert "must have the column 'text'" in error()
    assert not (tmp_path / "poses").exists()


# Going on


def test_what_is_finished_is_not_done_again(data, tmp_path, capsys, extractors):
    assert run(data, output_dir=tmp_path / "poses") == 0
    (tmp_path / "poses" / "train" / "poses" / "two.safetensors").unlink()
    write_video(data / "train" / "one.mp4", frames_with_people(ONE_PERSON[:2]))
    num_frames = extractors[0].num_frames
    capsys.readouterr()
    assert run(data, output_dir=tmp_path / "poses") == 0
    assert "Resuming: 1 of 3 videos are already finished." in capsys.readouterr().out
    assert extractors[0].num_frames == num_frames + 4 + 2
    assert run(data, output_dir=tmp_path / "poses") == 0
    assert extractors[0].num_frames == num_frames + 4 + 2
    # Other parts of a video are other poses.
    table = data / "test" / "metadata.jsonl"
    table.write_text(table.read_text().replace("3.5", "3.8"))
    assert run(data, output_dir=tmp_path / "poses") == 0
    assert extractors[0].num_frames > num_frames + 4 + 2
    assert read_poses(tmp_path / "poses" / "test" / "poses" / "long.safetensors").scores[37].any()


def test_a_run_goes_on_with_the_same_extractor_and_format(clips, tmp_path, capsys, monkeypatch):
    output = tmp_path / "poses"
    assert run(clips, output_dir=output) == 0
    argv = [str(clips), "--output_dir", str(output)]
    assert "was made with the format 'safetensors', now it is 'npz'" in error_of(
        extract_poses.main, [*argv, "--format", "npz"], capsys
    )
    monkeypatch.setattr(SquareExtractor, "description", "squares 2.0 sha256:ba9876543210")
    forget_extractors()
    assert "was made with the extractor 'squares 1.0" in error_of(extract_poses.main, argv, capsys)


class Killed(BaseException):
    """A kill cleans up nothing."""


def test_a_killed_run_goes_on(data, tmp_path, monkeypatch):
    """Killed at each file that it moves into its place, and run again."""
    output, replace, kills = tmp_path / "poses", os.replace, 0
    while True:
        moved = []

        def killed(source, target, moved=moved):
            if len(moved) == 2:
                raise Killed
            moved.append(target)
            replace(source, target)

        with monkeypatch.context() as patch:
            patch.setattr(os, "replace", killed)
            try:
                assert run(data, output_dir=output, num_workers=1) == 0
                break
            except Killed:
                kills += 1
    assert kills >= 2
    assert not [path for path in output.rglob("*") if path.name.startswith(".flallm")]
    for split, num_clips in (("train", 2), ("test", 3)):
        assert len(load_split(DatasetArguments([str(output)]), split)) == num_clips


SCRIPT = """
import signal, sys, time
signal.signal(signal.SIGINT, signal.default_int_handler)  # programs in the background ignore it
sys.path[:0] = [{tests!r}, {root!r}]
import pose_stand_ins
from processing import pose_extraction_slt
from train_scripts.clips import pose_tasks
from train_scripts.commands import extract_poses

class Slow(pose_stand_ins.SquareExtractor):
    def find_people(self, frame):
        time.sleep(0.3)
        return super().find_people(frame)

pose_extraction_slt.EXTRACTORS = {{"rtmlib": Slow}}
pose_tasks.run_in_processes = pose_stand_ins.in_this_process
sys.exit(extract_poses.main(sys.argv[1:]))
"""


@pytest.mark.slow
@pytest.mark.parametrize(("number", "status"), [(signal.SIGINT, 130), (signal.SIGKILL, -9)])
def test_signals(number, status, clips, tmp_path, capsys):
    """Ctrl-C ends the run with a line on how to go on; no half of a file is left, and the same command goes on."""
    tests = Path(__file__).resolve().parent
    script = SCRIPT.format(tests=str(tests), root=str(tests.parent))
    output = tmp_path / "poses"
    argv = [sys.executable, "-c", script, str(clips), "--output_dir", str(output), "--extractor", "rtmlib"]
    process = subprocess.Popen(argv, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    deadline = time.monotonic() + 60
    while not list(output.rglob("*.safetensors")) and time.monotonic() < deadline:
        time.sleep(0.05)
    time.sleep(0.4)  # in the middle of the second video
    process.send_signal(number)
    _, err = process.communicate(timeout=60)
    assert process.returncode == status
    assert number == signal.SIGKILL or "Stopped. Run the same command again." in err
    assert len(list(output.rglob("*.safetensors"))) == 1
    assert run(clips, output_dir=output, extractor="rtmlib") == 0
    assert "Resuming: 1 of 2 videos are already finished." in capsys.readouterr().out
    assert files_below(output) == [".poses.jsonl", "more/two.safetensors", "one.safetensors"]


def test_what_native_code_writes_is_hidden_and_other_messages_are_not(tmp_path, capfd, monkeypatch):
    class Loud(SquareExtractor):
        def __init__(self, **settings):
            super().__init__(**settings)
            os.write(2, b"loading\n")

        def start_clip(self, frames_per_second):
            os.write(2, b"starting\n")

        def find_people(self, frame):
            os.write(2, b"looking\n")
            return super().find_people(frame)

    monkeypatch.setattr(pose_extraction_slt, "EXTRACTORS", {"rtmlib": Loud})
    forget_extractors()
    real = pose_tasks.extract_poses

    def extract_and_tell(*arguments):
        try:
            return real(*arguments)
        finally:
            os.write(2, b"decoded\n")  # such as a warning of a damaged file

    monkeypatch.setattr(pose_tasks, "extract_poses", extract_and_tell)
    video = write_video(tmp_path / "one.mp4", frames_with_people(ONE_PERSON))
    empty = tmp_path / "empty.mp4"
    empty.write_bytes(b"")
    assert run(video, empty, output_dir=tmp_path / "poses") == 1
    err = capfd.readouterr().err
    assert not any(text in err for text in ("loading", "starting", "looking"))
    assert err.count("decoded") == 2 and "is empty (0 bytes)" in err


def test_others_may_read_the_files(clips, tmp_path):
    """Corpora are shared among the people of a lab, with the permissions that are usual there."""
    assert run(clips / "one.mp4", output_dir=tmp_path / "poses") == 0
    (tmp_path / "usual").write_text("")
    usual = (tmp_path / "usual").stat().st_mode
    assert (tmp_path / "poses" / "one.safetensors").stat().st_mode == usual
