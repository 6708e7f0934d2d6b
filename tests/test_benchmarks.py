"""Factorised against joint learning: the report from given results, and (slow) a tiny end-to-end run."""

import json
import re
from pathlib import Path

import pytest
import torch
from benchmark_modules import load_benchmark
from safetensors.torch import load_file

TABLE_END = load_benchmark("benchmark_parts").TABLE_END
NUM_STEPS = {"stage1_steps": 4, "stage2_steps": 2}
TINY = {"num_train_clips": 16, "num_dev_clips": 4, "num_test_clips": 4, "num_text_only_sentences": 60, **NUM_STEPS}
TINY |= {"language_model_epochs": 1.0, "evaluation_interval_in_steps": 2}

benchmark = load_benchmark("factorised_against_joint")


def flags(output_dir: Path, report: Path, **values) -> list[str]:
    return benchmark.flags(output_dir=output_dir, report=report, **{**TINY, **values})


def write_result(output_dir: Path, arm: str, seed: int, bleu4: float, dev_curve: list | None = None) -> None:
    folder = output_dir / f"seed_{seed}"
    folder.mkdir(parents=True, exist_ok=True)
    test = {"bleu4": bleu4, "chrf": bleu4 + 1, "rouge_l_mscoco": bleu4 + 2, "signature": "nrefs:1"}
    result = {"arm": arm, "seed": seed, "test": test, "dev_curve": dev_curve or [[2, 1.0], [4, 2.0]]}
    (folder / f"{arm}.json").write_text(json.dumps(result))


def write_sizes(output_dir: Path) -> None:
    output_dir.mkdir(parents=True, exist_ok=True)
    (output_dir / "sizes.json").write_text(json.dumps(benchmark.BenchmarkArguments(**TINY).sizes()))


def table_rows(page: Path) -> dict[tuple[str, str], list[str]]:
    """-> cells by (training, word-presence loss)."""
    lines = [line for line in page.read_text().splitlines() if line.startswith("| ")]
    cells = [[cell.strip() for cell in line.strip("|").split("|")] for line in lines[2:]]
    return {(row[0], row[1]): row for row in cells}


def test_page_holds_exactly_what_its_figures_say():
    page = benchmark.PAGE.read_text(encoding="utf-8")
    block = page.partition(benchmark.TABLE_START)[2].partition(TABLE_END)[0]
    figures = benchmark.PAGE.with_suffix(".json")
    expected = ""
    if figures.is_file():
        expected = benchmark.format_report(json.loads(figures.read_text()), benchmark.PAGE.with_suffix(".png").name)
    assert block.strip() == expected
    assert page.endswith("\n") and page.count(TABLE_END) == 1


def test_compared_arms_have_equal_optimiser_steps():
    arguments = benchmark.BenchmarkArguments(**TINY)
    steps = {name: arm.steps_before(arguments) + arm.own_steps(arguments) for name, arm in benchmark.ARMS.items()}
    of_stage1 = {"stage1", "stage1_without_word_presence", "stage1_whole_frames"}
    assert {steps.pop(name) for name in of_stage1} == {4}
    assert len(steps) == 7 and set(steps.values()) == {6}


def test_report_gives_mean_and_spread_over_seeds_and_paired_differences(tmp_path):
    write_sizes(tmp_path)
    for seed, factorised, joint in [(0, 60.0, 30.0), (1, 70.0, 50.0), (2, 80.0, 10.0)]:
        write_result(tmp_path, "factorised", seed, factorised, [[6, factorised]])
        write_result(tmp_path, "joint", seed, joint)
    write_result(tmp_path, "joint_without_word_presence", 1, 5.0)
    benchmark.run(flags(tmp_path, page := tmp_path / "page.md", report_only=True))
    rows = table_rows(page)
    assert rows["**factorised**: stage 1, then stage 2", "yes"][2:] == [
        "6", "3", "70.0 (60.0 to 80.0)", "71.0 (61.0 to 81.0)", "72.0 (62.0 to 82.0)", "",
    ]  # fmt: skip
    joint = rows["**joint**: the model of stage 2, nothing frozen", "yes"]
    assert (joint[3], joint[4], joint[-1]) == ("3", "30.0 (10.0 to 50.0)", "-40.0 (-70.0 to -20.0)")
    without = rows["joint: the model of stage 2, nothing frozen", "no"]
    assert (without[3], without[-1]) == ("1", "-65.0 (-65.0 to -65.0)")
    assert len(rows) == 3
    assert "16 training clips" in page.read_text() and "Seeds 0, 1, 2;" in page.read_text()
    assert (tmp_path / "page.png").read_bytes().startswith(b"\x89PNG")


def test_report_leaves_the_rest_of_the_page_alone(tmp_path):
    write_sizes(tmp_path)
    write_result(tmp_path, "stage1", 0, 12.3)
    page = tmp_path / "page.md"
    page.write_text(f"# Before\n\n{benchmark.TABLE_START}\nold\n{TABLE_END}\n\nAfter, by hand.\n")
    for bleu4 in (12.3, 45.6):
        write_result(tmp_path, "stage1", 0, bleu4)
        benchmark.run(flags(tmp_path, page, report_only=True))
    text = page.read_text()
    assert text.startswith(f"# Before\n\n{benchmark.TABLE_START}\n") and "45.6" in text
    assert text.endswith(f"{TABLE_END}\n\nAfter, by hand.\n")
    assert "old" not in text and "12.3" not in text


def test_curves_of_arms_on_stage_1_begin_where_it_ends(tmp_path):
    log = [{"step": 2, "eval_bleu4": 5.0}, {"step": 2, "loss": 1.0}, {"step": 2, "eval_bleu4": 6.0}]
    (tmp_path / "trainer_state.json").write_text(json.dumps({"log_history": log}))
    assert benchmark.dev_curve(tmp_path, steps_before=4) == [(6, 6.0)]


@pytest.mark.parametrize(
    ("values", "text"),
    [
        ({"report_only": True}, "error: --output_dir {folder} holds no results. Run without --report_only first."),
        (
            {"stage1_steps": 5},
            "error: {folder} holds results of --stage1_steps 4. Pass these, or name another folder.",
        ),
    ],
)
def test_what_cannot_be_run_says_why(tmp_path, capsys, values, text):
    write_sizes(tmp_path)
    assert benchmark.main(flags(tmp_path, tmp_path / "page.md", **values)) == 2
    assert capsys.readouterr().err.strip() == text.format(folder=tmp_path)


def test_a_page_without_marks_is_refused(tmp_path):
    write_sizes(tmp_path)
    write_result(tmp_path, "stage1", 0, 1.0)
    (page := tmp_path / "page.md").write_text("# By hand\n")
    with pytest.raises(ValueError, match=re.escape(f"{page} must hold the lines {benchmark.TABLE_START!r}")):
        benchmark.run(flags(tmp_path, page, report_only=True))
    assert page.read_text() == "# By hand\n"


def test_unknown_arm_is_refused(tmp_path, capsys):
    with pytest.raises(SystemExit) as refusal:
        benchmark.run([*flags(tmp_path, tmp_path / "page.md"), "--arms", "stage1", "stage3"])
    assert refusal.value.code == 2
    assert f"--arms takes {', '.join(benchmark.ARMS)}, got stage3." in capsys.readouterr().err


def test_an_arm_needs_the_one_it_starts_from(tmp_path):
    run = benchmark.SeedRun(benchmark.BenchmarkArguments(output_dir=str(tmp_path), **TINY), seed=3)
    expected = f"{tmp_path / 'seed_3' / 'stage1'} does not exist yet. Add stage1 to --arms."
    with pytest.raises(ValueError, match=re.escape(expected)):
        run._run_arm("factorised")


def weights_of(folder: Path, prefix: str) -> torch.Tensor:
    """All weights and buffers below `prefix` of a saved model, flat."""
    tensors = load_file(folder / "model.safetensors")
    return torch.cat([tensors[name].flatten().float() for name in sorted(tensors) if name.startswith(prefix)])


@pytest.fixture(scope="module")
def tiny_run(tmp_path_factory) -> tuple[Path, list[str]]:
    """-> output folder of all arms of one seed, and the arguments that made it."""
    root = tmp_path_factory.mktemp("benchmark")
    argv = [*flags(root / "out", root / "page.md"), "--seeds", "5", "--arms", *benchmark.ARMS]
    benchmark.run(argv)
    return root / "out", argv


@pytest.mark.slow
def test_every_arm_trains_for_its_steps_and_reports(tiny_run):
    output_dir, _ = tiny_run
    arguments = benchmark.BenchmarkArguments(**TINY)
    for name, arm in benchmark.ARMS.items():
        state = json.loads((output_dir / "seed_5" / name / "trainer_state.json").read_text())
        result = json.loads((output_dir / "seed_5" / f"{name}.json").read_text())
        assert state["global_step"] == arm.own_steps(arguments)
        assert result["dev_curve"][-1][0] == arm.steps_before(arguments) + arm.own_steps(arguments)
        assert 0 <= result["test"]["bleu4"] <= 100
    rows = table_rows(output_dir.parent / "page.md")
    assert len(rows) == len(benchmark.ARMS)
    assert {row[2] for row in rows.values()} == {"4", "6"}


@pytest.mark.slow
def test_arms_differ_in_what_they_start_from_and_freeze(tiny_run):
    seed_folder = tiny_run[0] / "seed_5"
    visual = {name: weights_of(seed_folder / name, "vision_model.") for name in benchmark.ARMS}
    untrained = weights_of(seed_folder / "untrained_visual_encoder", "vision_model.")
    assert torch.equal(visual["random_encoder"], untrained)
    assert torch.equal(visual["factorised"], visual["stage1"])
    assert torch.equal(visual["random_language_model"], visual["stage1"])
    assert torch.equal(visual["factorised_without_word_presence"], visual["stage1_without_word_presence"])
    for name in ("stage1", "stage1_alone", "joint", "stage1_without_word_presence"):
        assert not torch.equal(visual[name], untrained), name
    pretrained = weights_of(seed_folder / "language_model", "model.")
    never_trained = weights_of(seed_folder / "untrained_language_model", "model.")
    assert pretrained.shape == never_trained.shape and not torch.equal(pretrained, never_trained)
    configs = {name: json.loads((seed_folder / name / "config.json").read_text()) for name in benchmark.ARMS}
    for name, arm in benchmark.ARMS.items():
        assert (configs[name]["word_presence_loss_weight"] > 0) == arm.uses_word_presence
        assert configs[name]["vision_config"]["subtract_mean_frame"] == (name != "stage1_whole_frames")


@pytest.mark.slow
def test_second_run_trains_only_what_is_missing(tiny_run, monkeypatch):
    output_dir, argv = tiny_run
    seed_folder = output_dir / "seed_5"
    trained = []
    monkeypatch.setattr(benchmark.SeedRun, "_run_arm", lambda run, name: trained.append(name) or results[name])
    results = {name: json.loads((seed_folder / f"{name}.json").read_text()) for name in benchmark.ARMS}
    (seed_folder / "joint.json").unlink()
    benchmark.run(argv)
    assert trained == ["joint"]
    benchmark.run(argv)
    assert trained == ["joint"]
