"""The benchmark of latency: its page from given figures, its last line, and a tiny run in a process of its own."""

import json

import numpy as np
import pytest
from benchmark_modules import load_benchmark, read_page
from tiny_corpus import error_of


@pytest.fixture(scope="module")
def benchmark():
    return load_benchmark("latency")


@pytest.fixture(scope="module")
def process():
    return load_benchmark("latency_process")


def row(**values):
    part = {"decode": 0.125, "encode": 1.0, "write": 0.5}
    slow = {"decode": 0.125, "encode": 2.0, "write": 0.875}
    live = {"first_word": 0.25, "sentence": 1.5, "final": 2.0, "late": 0.01}
    measured = {"cold": {"load": 3.0, "translate": 2.0}, "warm": [part, slow, part], "stream": [live, live]}
    return {"model": "paper_sized", "runtime": "torch", "cores": 2, **measured, **values}


def report(*rows):
    values = {
        "models": ["paper_sized"],
        "runtimes": ["torch", "exported"],
        "cores": [1, 2],
        "num_frames": 165,
        "num_tokens": 20,
        "num_rounds": 3,
        "seed": 0,
    }
    return {"arguments": values, "machine": "a CPU", "num_parameters": {"paper_sized": 393e6}, "rows": list(rows)}


def test_page_holds_exactly_what_its_figures_say(benchmark):
    if not benchmark.PAGE.with_suffix(".json").is_file():
        marks = f"{benchmark.TABLE_START}\n{load_benchmark('benchmark_parts').TABLE_END}"
        assert marks in benchmark.PAGE.read_text(encoding="utf-8"), "a table without figures"
        return
    block, figures = read_page(benchmark)
    assert block == benchmark.format_report(figures).strip()
    assert {(each["model"], each["runtime"], each["cores"]) for each in figures["rows"]} == {
        (model, runtime, cores) for model in benchmark.MODELS for runtime in benchmark.RUNTIMES for cores in (1, 2)
    }


def test_figures_are_medians_and_warm_is_the_sum_of_its_parts(benchmark):
    line = "| paper_sized, torch | 2 | 5.00 | 1.62 | 3.00 | 0.12 | 1.00 | 0.50 | 0.25 | 1.50 | 2.00 |"
    assert benchmark.format_row(row()) == line
    text = benchmark.format_report(report(row()))
    assert line in text and "The clip lasts 6.6 s (165 frames" in text and "393 million parameters, 5 beams" in text


def test_a_runtime_that_does_not_stream_has_no_figures_of_streams(benchmark):
    exported = row(runtime="exported", stream=[])
    assert (
        benchmark.format_row(exported)
        == "| paper_sized, exported | 2 | 5.00 | 1.62 | 3.00 | 0.12 | 1.00 | 0.50 |  |  |  |"
    )
    assert "paper_sized_exported_final_seconds" not in benchmark.summary(report(row(), exported))


def test_the_figures_of_a_gpu_are_on_the_page(benchmark):
    figures = json.loads(benchmark.PAGE.with_name("latency-gpu.json").read_text(encoding="utf-8"))
    page = benchmark.PAGE.read_text(encoding="utf-8")
    assert figures["arguments"]["device"] == "cuda" and figures["machine"].partition(" beside")[0] in page
    assert all(benchmark.format_row(each) in page for each in figures["rows"]) and len(figures["rows"]) == 2


def update(piece=0, end=6.0, **values):
    return {"piece": piece, "signing_start": 1.0, "signing_end": end, "translation_text": "word", **values}


def test_live_figures_are_those_of_the_text_that_became_final(process):
    arrived = [
        (5.0, update(end=5.5, score=-1.0)),  # of a part of the clip
        (7.25, update(translation_text="")),
        (7.5, update()),
        (8.0, update(score=-1.0)),
        (8.5, update(score=-1.0, is_final=True)),
    ]
    expected = {"first_word": 0.5, "sentence": 1.0, "final": 1.5}
    assert process.seconds_until_final(arrived, last_frame=7.0) == expected


@pytest.mark.parametrize("pieces", [[], [0, 1]])
def test_a_clip_of_which_the_stream_makes_no_sentence_or_two_is_refused(process, pieces):
    arrived = [(7.0, update(piece)) for piece in pieces]
    with pytest.raises(RuntimeError, match=f"must find one sentence in the clip, got {len(pieces)}."):
        process.seconds_until_final(arrived, last_frame=7.0)


def test_the_signer_fills_the_clip_and_begins_and_ends_at_rest(benchmark):
    frames = benchmark.signed_clip(50, np.random.default_rng(0)).astype(int)
    assert frames.shape == (50, benchmark.HEIGHT, benchmark.WIDTH, 3)
    steps = np.abs(np.diff(frames, axis=0)).mean((1, 2, 3))
    assert np.abs(frames[0] - frames[-1]).mean() < 0.5 * np.abs(frames[0] - frames[25]).mean()
    assert steps[0] < 0.5 * np.median(steps) and steps[-1] < 0.5 * np.median(steps)


def test_the_last_line_is_that_of_the_most_cores(benchmark):
    summary = benchmark.summary(report(row(cores=1), row(), row(runtime="exported")))
    assert summary["paper_sized_warm_seconds"] == 1.625
    assert summary["paper_sized_cold_seconds"] == 5 and summary["paper_sized_first_word_seconds"] == 0.25
    assert summary["paper_sized_exported_warm_seconds"] == 1.625
    assert summary["clip_seconds"] == 6.6 and summary["cores"] == 2


@pytest.mark.slow
def test_all_of_it_in_tiny(benchmark, tmp_path, capsys):
    argv = ["--output_dir", str(tmp_path / "run"), "--report", str(tmp_path / "page.md"), "--models", "small"]
    argv += ["--runtimes", "torch", "--cores", "1", "--num_frames", "50", "--num_tokens", "3", "--num_rounds", "1"]
    assert benchmark.main(argv) == 0
    summary = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert 0 < summary["small_warm_seconds"] < summary["small_cold_seconds"]
    assert (
        0 < summary["small_first_word_seconds"] <= summary["small_sentence_seconds"] <= summary["small_final_seconds"]
    )
    figures = json.loads((tmp_path / "page.json").read_text(encoding="utf-8"))
    assert benchmark.format_report(figures) in (tmp_path / "page.md").read_text(encoding="utf-8")


@pytest.mark.slow
def test_an_exported_model_in_steps(benchmark, process, tmp_path):
    pytest.importorskip("onnxruntime")
    arguments = benchmark.BenchmarkArguments(output_dir=str(tmp_path), num_tokens=3, num_rounds=2)
    video = tmp_path / "clip.mp4"
    benchmark.write_mp4(video, benchmark.signed_clip(50, np.random.default_rng(0)))
    benchmark.save_model("small", tmp_path / "small", arguments)
    folder = benchmark.export_model(tmp_path / "small", tmp_path / "exported")
    measured = benchmark.measure_process("exported", folder, video, 1, arguments)
    assert measured["stream"] == [] and len(measured["warm"]) == 2
    assert all(seconds > 0 for parts in measured["warm"] for seconds in parts.values())


@pytest.mark.parametrize(
    ("argv", "text"),
    [
        (["--report_only", "True"], "holds no results. Run without --report_only first."),
        (["--num_tokens", "0"], "--num_frames, --num_tokens and --num_rounds must be 1 or more."),
        (["--models", "huge"], "--models must be of 'paper_sized', 'small', got 'huge'."),
        (["--runtimes", "tvm"], "--runtimes must be of 'torch', 'exported', got 'tvm'."),
        (["--cores", "0"], "--cores must be 1 or more, got 0."),
        (["--device", "cuda"], "--device cuda is for models in torch alone: pass --runtimes torch."),
    ],
)
def test_mistakes_are_said_in_one_sentence(benchmark, tmp_path, capsys, argv, text):
    assert text in error_of(benchmark.main, ["--output_dir", str(tmp_path), *argv], capsys)
