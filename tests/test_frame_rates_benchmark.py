"""benchmarks/frame_rates.py: clips at other frame rates, and that docs/frame-rates.md holds its figures."""

import numpy as np
import pytest
import torch
from benchmark_modules import load_benchmark, read_page
from test_pose_files import random_poses
from tiny_corpus import corpus, error_of, load, trained_model
from video_files import counting_frames, frame_numbers, write_video

from processing import decode_video

benchmark = load_benchmark("frame_rates")


def test_the_page_holds_the_figures():
    block, report = read_page(benchmark)
    assert block == benchmark.format_report(report).strip()
    assert [model["reads"] for model in report["models"]] == ["videos", "poses"]
    for model in report["models"]:
        slowest, fastest = model["training_fps"]
        best = max(row["as_in_training"] for row in model["rows"])
        for row in model["rows"]:
            assert row["as_in_training"] > 0.9 * best
            if slowest <= row["frame_rate"] <= fastest:
                assert row["as_in_training"] == row["by_fraction"]


def test_at_each_moment_the_frame_is_shown_that_was_on_screen():
    assert benchmark.places(4, 25, 50).tolist() == [0, 0, 1, 1, 2, 2, 3, 3]
    assert benchmark.places(8, 25, 12.5).tolist() == [0, 2, 4, 6]
    assert benchmark.places(8, 25, 25).tolist() == list(range(8))
    assert benchmark.places(3, 30, 20).tolist() == [0, 1]


def test_videos_and_poses_keep_their_seconds(tmp_path):
    video = decode_video(write_video(tmp_path / "clip.mp4", counting_frames(20)))
    shown = benchmark.at_frame_rate(video, 12.5)
    assert frame_numbers(torch.as_tensor(shown), 20) == list(range(0, 20, 2))
    poses = random_poses(20, frames_per_second=25.0)
    shown = benchmark.at_frame_rate(poses, 50.0)
    assert (len(shown), shown.frames_per_second) == (40, 50.0)
    assert np.array_equal(shown.keypoints[::2], poses.keypoints)


@pytest.mark.slow
def test_all_of_it_in_tiny(tmp_path, capsys):
    (tmp_path / "output").mkdir()
    (tmp_path / "output" / "corpus").symlink_to(corpus())
    argv = ["--outputs", str(tmp_path / "output"), "--output_dir", str(tmp_path / "results"), "--num_clips", "2"]
    argv += ["--report", str(tmp_path / "page.md"), "--frame_rates", "12.5", "25"]
    model, processor = load(trained_model())
    for each in (model, processor):
        each.save_pretrained(tmp_path / "output" / "model")
    assert "does not know the frame rates of its training clips." in error_of(benchmark.main, argv, capsys)
    processor.modality.part.training_fps = [24.0, 30.0]
    processor.save_pretrained(tmp_path / "output" / "model")
    assert benchmark.main(argv) == 0
    page = (tmp_path / "page.md").read_text(encoding="utf-8")
    assert page.count("| videos | 24 to 30 frames per second | 2 | ") == 2


def test_mistakes_are_said_in_one_sentence(tmp_path, capsys):
    argv = ["--output_dir", str(tmp_path)]
    assert error_of(benchmark.main, [*argv, "--num_clips", "0"], capsys) == "--num_clips must be 1 or more."
    text = error_of(benchmark.main, [*argv, "--frame_rates", "25", "0"], capsys)
    assert "--frame_rates must be above 0, got 0." in text
