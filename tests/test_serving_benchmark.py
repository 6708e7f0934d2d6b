"""benchmarks/serving.py: what it counts, and that docs/serving.md holds its figures."""

import json
from pathlib import Path

import numpy as np
import pytest
from benchmark_modules import load_benchmark, read_page
from tiny_corpus import corpus, trained_model

for package in ("websockets", "psutil", "fastapi", "uvicorn", "prometheus_client", "multipart", "pebble"):
    pytest.importorskip(package)

benchmark = load_benchmark("serving")


def test_the_page_holds_the_figures():
    block, report = read_page(benchmark)
    assert block == benchmark.format_report(report).strip()
    for row in report["rows"]:
        assert (row["mix_ups"], row["unfinished"]) == (0, 0)
        assert row["one_more"]["answer"]["type"] == "wait" and row["one_more"]["code"] == 1013
        assert len(row["final"]) == row["sentences"] >= row["users"]
    assert max(row["users"] for row in report["rows"]) >= 50


def test_latencies_count_from_the_frames_of_a_sentence():
    def update(piece, text, start, end, is_final):
        return {
            "type": "update",
            "piece": piece,
            "translation_text": text,
            "signing_start": start,
            "signing_end": end,
            "is_final": is_final,
        }

    updates = [
        (1.5, update(0, "", 1.0, 1.2, False)),
        (2.0, update(0, "a", 1.0, 1.8, False)),
        (2.5, update(0, "a b", 1.0, 2.2, False)),
        (4.0, update(0, "a c", 1.0, 3.0, True)),
        (9.5, update(1, "d", 5.0, 8.0, True)),
        (9.6, update(2, "", 9.0, 9.5, True)),
        (9.7, {"type": "finished"}),
    ]
    found = benchmark.latencies(benchmark.User([], updates))
    assert found == {"final": pytest.approx([1.0, 1.5]), "first_word": pytest.approx([1.0, 4.5])}


def row(users: int, **values):
    told = {"answer": {"type": "wait"}, "code": 1013}
    times = {"final": list(np.arange(1, 101) / 100), "first_word": [2.0, 3.0], "late": 0.01}
    times |= {"cores": 1.25, "client_cores": 0.25}
    return {"users": users, "sentences": 100, "mix_ups": 0, "unfinished": 0, **times, "one_more": told, **values}


def test_rows_of_the_table():
    cells = "| 50 | 100 | 0 | 0.51 | 0.95 | 1.00 | 2.50 | 2.95 | 0.01 | 1.25 |"
    assert benchmark.format_row(row(50)) == f"{cells} told to wait |"
    refused = {"answer": {"type": "update"}, "code": 1000}
    assert benchmark.format_row(row(50, one_more=refused)) == f"{cells} NOT told to wait |"
    summary = benchmark.summary({"rows": [row(50), row(1)]})
    assert (summary["users"], summary["final_p95_seconds"], summary["mix_ups"]) == (50, 0.95, 0)
    assert (summary["cores"], summary["client_cores"]) == (1.25, 0.25)


def test_each_user_signs_something_else():
    folder = corpus()
    output = Path(folder).parent
    arguments = benchmark.BenchmarkArguments(quickstart_output=str(output), num_sentences=1, rest_seconds=1.0)
    users = benchmark.make_users(3, arguments)
    assert len({tuple(user.pictures) for user in users}) == 3
    for user in users:
        assert user.pictures[-13:] == user.pictures[-1:] * 13  # the clip's last one, and 12 of the rest


@pytest.mark.parametrize("values", [{"users": [0]}, {"frame_rate": 0.0}, {"rest_seconds": -1.0}, {"num_sentences": 0}])
def test_impossible_arguments(values):
    with pytest.raises(ValueError, match="must be 1 or more"):
        benchmark.BenchmarkArguments(**values)


@pytest.mark.slow
def test_a_small_run(tmp_path, capsys):
    """The tiny model, as of a quickstart: two users, of whom nobody gets the text of the other."""
    output = tmp_path / "quickstart_output"
    output.mkdir()
    (output / "corpus").symlink_to(corpus())
    (output / "model").symlink_to(trained_model())
    argv = ["--quickstart_output", output, "--output_dir", tmp_path / "out", "--report", tmp_path / "page.md"]
    argv += ["--users", "2", "--num_sentences", "1"]
    assert benchmark.main([str(word) for word in argv]) == 0
    summary = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert (summary["users"], summary["mix_ups"], summary["unfinished"]) == (2, 0, 0)
    assert summary["one_more"]["code"] == 1013
