"""benchmarks/pretrained_encoders.py: its steps in small, and that docs/pretrained-encoders.md holds its figures."""

import json

import pytest
from benchmark_modules import load_benchmark
from tiny_corpus import error_of, flags
from tiny_vision_models import CONFIGS

TABLE_END = load_benchmark("benchmark_parts").TABLE_END
benchmark = load_benchmark("pretrained_encoders")
SMALL_TEXT_MODEL = {"d_model": 16, "d_kv": 8, "d_ff": 24, "num_layers": 1, "num_heads": 2, "vocab_size": 40}


def test_the_page_holds_the_figures():
    block = benchmark.PAGE.read_text(encoding="utf-8").partition(benchmark.TABLE_START)[2].partition(TABLE_END)[0]
    report = json.loads(benchmark.PAGE.with_suffix(".json").read_text(encoding="utf-8"))
    assert block.strip() == benchmark.format_report(report).strip()
    assert {row["shape"] for row in report["rows"]} <= set(benchmark.SHAPES) and report["rows"]


@pytest.mark.parametrize("is_trained", [False, True])
def test_a_row_trains_what_it_says(is_trained, monkeypatch):
    monkeypatch.setitem(benchmark.SHAPES, "videomae", CONFIGS["videomae"])
    monkeypatch.setattr(benchmark, "TEXT_MODEL", {**benchmark.TEXT_MODEL, **SMALL_TEXT_MODEL})
    monkeypatch.setattr(benchmark, "IMAGE_SIZE", 32)
    row = benchmark.Row("videomae", is_trained, frames_per_chunk=4)
    model = benchmark.build_model(row)
    trained = {name for name, parameter in model.named_parameters() if parameter.requires_grad}
    assert any(".encoder.backbone." in name for name in trained) == is_trained
    assert any("lora_" in name for name in trained) and any("temporal_module" in name for name in trained)
    figures = benchmark.measure_steps(row, num_frames=6)
    assert figures["seconds"] > 0 and figures["gigabytes"] > 0.1
    assert (figures["trained"] > figures["encoder"]) or not is_trained


def test_a_clip_without_frames_is_refused(tmp_path, capsys):
    message = error_of(benchmark.main, flags(output_dir=tmp_path, num_frames=0), capsys)
    assert message == "--num_frames must be 1 or more, got 0."


def test_a_row_that_fails_is_named(monkeypatch):
    monkeypatch.setattr(benchmark, "__file__", "nothing.py")
    with pytest.raises(ValueError, match="Measuring row 0 failed:"):
        benchmark.measure_in_fresh_process(0, num_frames=4)
