"""Stage 1 switch by switch: the page from its figures, the ways, and (slow) a tiny end-to-end run."""

import json
import random
import re
from functools import partial

import pytest
import torch
from benchmark_modules import load_benchmark, read_page
from tiny_corpus import VIDEO, error_of
from tiny_models import random_batch, tiny_vision_model
from torch.testing import assert_close

SMALL_LIGHT_TRANSFORMER = {
    "light_hidden_size": 32, "light_feed_forward_size": 32, "light_layers": 1, "light_attention_heads": 2,
}  # fmt: skip


@pytest.fixture(scope="module")
def benchmark():
    return load_benchmark("visual_initialing")


def test_page_holds_exactly_what_its_figures_say(benchmark):
    block, report = read_page(benchmark)
    assert block == benchmark.format_report(report).strip()
    assert set(report["ways"]) >= set(benchmark.ways_of(benchmark.BenchmarkArguments()))


def test_ratios_are_of_neighbours(benchmark):
    plain = {"num_frames": 80, "num_clips": 4, "seconds": [10.0, 20.0, 5.0]}
    ours = {"num_frames": 20, "num_clips": 4, "seconds": [1.0, 1.0, 1.0]}
    assert benchmark.ratio(ours, plain, "num_frames") == pytest.approx(2.5)
    assert benchmark.ratio(ours, plain, "num_clips") == pytest.approx(10.0)
    assert benchmark.rate(plain, "num_frames") == pytest.approx(8.0)


def test_lengths_are_spread_as_in_a_batch_of_phoenix14t(benchmark):
    assert benchmark.lengths_of_clips(8, 194) == sorted(benchmark.LENGTHS_IN_BATCH, reverse=True)
    longest = random.randrange(500, 2000)
    lengths = benchmark.lengths_of_clips(8, longest)
    assert max(lengths) == longest
    assert 1 - sum(lengths) / (longest * 8) == pytest.approx(0.40, abs=3e-3)
    assert benchmark.lengths_of_clips(2, longest) == [longest, round(longest * 54 / 194)]
    assert benchmark.lengths_of_clips(1, longest) == [longest]


def test_switches_change_how_but_not_what(benchmark):
    batch = random_batch([7, 4])
    pixels, mask = batch["pixel_values_videos"], batch["pixel_attention_mask"]
    encoder = tiny_vision_model()
    with torch.no_grad():
        expected = encoder._encode_frames(pixels, mask.bool())
        for encoded in (
            benchmark.encode_padding_too(encoder, pixels, mask.bool()),
            benchmark.encode_in_nchw(encoder, pixels, mask.nonzero()),
            benchmark.folded(encoder.backbone)(pixels[mask.bool()]),
        ):
            assert_close(encoded, expected, atol=1e-3, rtol=1e-3)
    assert len(benchmark.folded(encoder.backbone).state_dict()) < len(encoder.backbone.state_dict())


@pytest.mark.parametrize(
    ("argv", "text"),
    [
        (["--report_only", "True"], "holds no results. Run without --report_only first."),
        (["--num_rounds", "0"], "--matrix_size and --frames_per_call must be 1 or more."),
        (["--frames_per_call", "4", "0"], "--matrix_size and --frames_per_call must be 1 or more."),
    ],
)
def test_mistakes_are_said_in_one_sentence(benchmark, tmp_path, capsys, argv, text):
    assert text in error_of(benchmark.main, ["--output_dir", str(tmp_path), *argv], capsys)


@pytest.mark.slow
def test_end_to_end_in_tiny(benchmark, tmp_path, monkeypatch):
    monkeypatch.setattr(benchmark, "MULTIPLES", (1, 2))
    for name, sizes in (("VisualInitialingArguments", SMALL_LIGHT_TRANSFORMER), ("VideoArguments", VIDEO)):
        monkeypatch.setattr(benchmark, name, partial(getattr(benchmark, name), **sizes))
    of_plain = load_benchmark("decode_and_preprocess")
    for name, size in {"FRAME_SIZE": 36, "CROP_SIZE": 32, "MARGIN": 2}.items():
        monkeypatch.setattr(of_plain, name, size)
    every_way = benchmark.ways_of(benchmark.BenchmarkArguments())
    some = {name: every_way[name] for name in ("plain", "plain quarter", "all frames", "ours", "padded")}
    monkeypatch.setattr(benchmark, "ways_of", lambda arguments: some)
    page = tmp_path / "page.md"
    argv = ["--output_dir", str(tmp_path / "run"), "--report", str(page)]
    sizes = ["--num_clips", "2", "--num_frames", "16", "--num_rounds", "1", "--matrix_size", "64"]
    assert benchmark.main([*argv, *sizes, "--frames_per_call", "1"]) == 0
    report = json.loads(page.with_suffix(".json").read_text())
    ways = report["ways"]
    assert ways["plain"]["num_frames"] == ways["all frames"]["num_frames"] == 20
    assert ways["ours"]["num_frames"] == ways["plain quarter"]["num_frames"] == 5
    assert all(min(way["seconds"]) > 0 for way in ways.values())
    assert [row["num_frames"] for row in report["growth"]] == [4, 4, 8, 8]
    before = page.read_text()
    assert re.search(r"With all frames ours trains \*\*\d+\.\d times\*\* the frames", before)
    page.write_text("Words before.\n" + before)
    assert benchmark.main([*argv, "--report_only", "True"]) == 0
    assert page.read_text() == "Words before.\n" + before
