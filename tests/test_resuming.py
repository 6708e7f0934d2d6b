"""Resumed runs: only complete checkpoints, early stopping that continues, and warnings about other settings."""

import json
import random
import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from tiny_corpus import error_of, log_of, stage1_flags
from transformers import TrainerCallback

from train_scripts.runs import training
from train_scripts.runs.resuming import check_checkpoint
from train_scripts.stages import visual_initialing

pytestmark = pytest.mark.slow

ADVICE = (
    "A run cannot resume from there as if it had not stopped. Name an earlier checkpoint with "
    "--resume_from_checkpoint, or train again in another folder."
)
RUN = {"max_train_clips": 2, "max_evaluation_clips": 1, "generation_num_beams": 1}


class At(TrainerCallback):
    """Does something at the end of a step."""

    def __init__(self, step: int, act):
        self.step, self.act = step, act

    def on_step_end(self, args, state, control, **kwargs):
        if state.global_step == self.step:
            self.act()


def scores_in_turn(monkeypatch: pytest.MonkeyPatch, *bleu4: float) -> None:
    scores = list(bleu4)

    def build_compute_metrics(*_, **__):
        return lambda _: {"bleu4": scores.pop(0) if len(scores) > 1 else scores[0], "chrf": random.random()}

    monkeypatch.setattr(training, "build_compute_metrics", build_compute_metrics)


@pytest.fixture(scope="module")
def run(tmp_path_factory) -> Path:
    """Two epochs of one step, with a checkpoint of each."""
    folder = tmp_path_factory.mktemp("run") / "run"
    visual_initialing.train(stage1_flags(folder, num_train_epochs=2, **RUN))
    return folder


@pytest.fixture
def copied(run, tmp_path) -> Path:
    shutil.copytree(run / "checkpoint-1", tmp_path / "run" / "checkpoint-1")
    return tmp_path / "run" / "checkpoint-1"


def resume(folder: Path, **values) -> list[str]:
    return stage1_flags(folder, **{"resume_from_checkpoint": "last", "num_train_epochs": 2, **RUN, **values})


def test_early_stopping_goes_on_counting(monkeypatch, tmp_path):
    values = {**RUN, "num_train_epochs": 9, "early_stopping_patience": 3, "save_total_limit": 9}
    scores_in_turn(monkeypatch, 20.0, 30.0, 10.0, 29.0, 28.0)
    visual_initialing.train(stage1_flags(tmp_path / "whole", **values))
    assert len(log_of(tmp_path / "whole", "loss")) == 5
    for stopped_at, others in ((4, [28.0]), (5, [])):
        folder = tmp_path / f"resumed-{stopped_at}"
        for step in (2, stopped_at):  # the best, and the last
            shutil.copytree(tmp_path / "whole" / f"checkpoint-{step}", folder / f"checkpoint-{step}")
        scores_in_turn(monkeypatch, *others, 27.0)
        visual_initialing.train(stage1_flags(folder, **values, resume_from_checkpoint="last"))
        assert len(log_of(folder, "loss")) == 5
        whole, resumed = (load_file(path / "model.safetensors") for path in (tmp_path / "whole", folder))
        assert all(torch.equal(whole[name], resumed[name]) for name in whole)


FILES = ("optimizer.pt", "scheduler.pt", "rng_state.pth", "trainer_state.json", "model.safetensors")


@pytest.mark.parametrize("name", FILES)
def test_checkpoints_without_a_file_are_refused(name, copied, monkeypatch, capsys):
    monkeypatch.setattr(training, "open_splits", lambda *_: pytest.fail("data is read"))
    (copied / name).unlink()
    why = " (was it saved with --save_only_model True?)" if name == "optimizer.pt" else ""
    missing = f"{copied} has no {name}" if name.startswith("model") else f"{copied / name} is missing{why}"
    assert error_of(visual_initialing.main, resume(copied.parent), capsys) == f"{missing}. {ADVICE}"


@pytest.mark.parametrize("damage", ["empty", "half", "nonsense", "one byte"])
@pytest.mark.parametrize("name", FILES)
def test_damaged_checkpoints_are_refused(name, damage, copied, monkeypatch, capsys):
    monkeypatch.setattr(training, "open_splits", lambda *_: pytest.fail("data is read"))
    content = bytearray((copied / name).read_bytes())
    if damage == "one byte":
        if not name.endswith((".pt", ".pth")):
            pytest.skip("no checksums")
        content[len(content) // 2] ^= 255
    others = {"empty": b"", "half": bytes(content[: len(content) // 2]), "nonsense": b"\x80\x04nonsense" * 50}
    (copied / name).write_bytes(others.get(damage, bytes(content)))
    try:
        check_checkpoint(copied)
        assert damage == "one byte", "that byte is in no tensor"
        return
    except ValueError as error:
        assert str(error).startswith(f"{copied / name} is damaged (") and str(error).endswith(f"). {ADVICE}")
    text = error_of(visual_initialing.main, resume(copied.parent), capsys)
    assert text.startswith(f"{copied / name} is damaged (")


@pytest.mark.parametrize("content", ["[]", "{}", '{"global_step": "many"}', '{"nonsense": 1}'])
def test_states_that_say_nothing_are_refused(content, copied):
    (copied / "trainer_state.json").write_text(content, encoding="utf-8")
    with pytest.raises(ValueError) as error:
        check_checkpoint(copied)
    assert str(error.value).startswith(f"{copied / 'trainer_state.json'} is damaged (")


def test_a_checkpoint_of_more_processes(copied):
    (copied / "rng_state.pth").rename(copied / "rng_state_0.pth")
    with pytest.raises(ValueError) as error:
        check_checkpoint(copied)
    assert str(error.value) == (
        f"{copied / 'rng_state.pth'} is missing (the checkpoint is from a run with a different number of processes). "
        f"{ADVICE}"
    )
    with pytest.raises(ValueError):
        check_checkpoint(copied, num_processes=2)
    shutil.copy(copied / "rng_state_0.pth", copied / "rng_state_1.pth")
    check_checkpoint(copied, num_processes=2)


@pytest.mark.parametrize("change", ["fewer", "more"])
def test_checkpoints_of_other_weights_are_refused(change, copied, capsys):
    weights = load_file(copied / "model.safetensors")
    lost = random.choice([name for name in weights if name.endswith((".weight", ".bias", ".running_var"))])
    changed = {**weights, "more": torch.zeros(1)} if change == "more" else weights.copy()
    changed.pop(lost) if change == "fewer" else None
    save_file(changed, copied / "model.safetensors", metadata={"format": "pt"})
    text = error_of(visual_initialing.main, resume(copied.parent), capsys)
    assert text.startswith(f"{copied / 'model.safetensors'} does not fit this run: it ")
    assert (lost if change == "fewer" else "more") in text
    assert text.endswith("Resume with the settings that the run began with, or train again in another folder.")


@pytest.mark.parametrize(
    ("values", "file"), [({"light_hidden_size": 32}, "model.safetensors"), ({"bias_learning_rate": 1}, "optimizer.pt")]
)
def test_a_run_with_other_settings_that_do_not_fit(values, file, copied, capsys):
    text = error_of(visual_initialing.main, resume(copied.parent, **values), capsys)
    assert text.startswith(f"{copied / file} does not fit this run: ")


def test_other_settings_are_reported(copied, capsys):
    visual_initialing.train(resume(copied.parent, learning_rate=0.25, temporal_padding="replicate", speed=0.1))
    (line,) = [line for line in capsys.readouterr().out.splitlines() if line.startswith("Settings that have changed")]
    assert line.startswith(f"Settings that have changed since {copied}: ")
    for change in ("learning_rate: 5e-05 -> 0.25", "temporal_padding: zero -> replicate", "speed: 0.0 -> 0.1"):
        assert change in line
    assert line.count("->") == 3


def test_the_same_settings_are_not_reported(copied, capsys):
    visual_initialing.train(resume(copied.parent))
    assert "Settings that have changed" not in capsys.readouterr().out


# What is deleted while a run goes on


def test_an_output_folder_that_is_removed_during_the_training(tmp_path, capsys):
    folder = tmp_path / "run"
    argv = stage1_flags(folder, num_train_epochs=3, **RUN)
    remove = At(2, lambda: shutil.rmtree(folder))
    status = visual_initialing.run_command(lambda argv: visual_initialing.train(argv, [remove]), argv)
    output = capsys.readouterr()
    assert status == 2
    fault = f"--output_dir {folder} was deleted during training, at step 2. Earlier checkpoints and logs are lost."
    assert f"warning: {fault}" in output.out
    assert output.err.strip().splitlines()[-1].startswith(f"error: {fault} ")
    assert (folder / "model.safetensors").is_file() and (folder / "README.md").is_file()


def test_a_best_checkpoint_that_is_removed(monkeypatch, tmp_path, capsys):
    folder = tmp_path / "run"
    scores_in_turn(monkeypatch, 30.0, 10.0)
    remove = At(3, lambda: shutil.rmtree(folder / "checkpoint-1"))
    with pytest.raises(ValueError) as error:
        visual_initialing.train(stage1_flags(folder, num_train_epochs=3, **RUN), [remove])
    assert str(error.value) == (
        f"The best checkpoint, {folder / 'checkpoint-1'}, is gone: the saved model is that of the last step. What was "
        f"trained is saved in {folder}."
    )
    final, last = (load_file(path / "model.safetensors") for path in (folder, folder / "checkpoint-3"))
    assert all(torch.equal(final[name], last[name]) for name in last)


def test_ctrl_c_says_how_to_go_on(tmp_path, monkeypatch, capsys):
    def interrupt():
        raise KeyboardInterrupt

    original = visual_initialing.run_training

    def run_training(*arguments, callbacks=(), **options):
        return original(*arguments, callbacks=[At(2, interrupt)], **options)

    monkeypatch.setattr(visual_initialing, "run_training", run_training)
    argv = stage1_flags(tmp_path / "run", num_train_epochs=3, **RUN)
    assert visual_initialing.main(argv) == 130
    text = capsys.readouterr().err
    assert "Traceback" not in text and "--resume_from_checkpoint last" in text.strip().splitlines()[-1]
    monkeypatch.undo()
    assert visual_initialing.main([*argv, "--resume_from_checkpoint", "last"]) == 0
    assert json.loads((tmp_path / "run" / "trainer_state.json").read_text(encoding="utf-8"))["global_step"] == 3


def test_checkpoints_hold_no_pickled_arguments(run):
    assert not list(run.rglob("training_args.bin"))
    saved = json.loads((run / "checkpoint-1" / "training_arguments.json").read_text(encoding="utf-8"))
    assert saved["temporal_padding"] == "zero" and saved["data"]["source"] == "corpus"
