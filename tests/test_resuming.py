"""Resumed runs: only complete checkpoints, early stopping that continues, and warnings about other settings."""

import json
import os
import random
import re
import shutil
import signal
import time
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from tiny_corpus import error_of, log_of, stage1_flags
from transformers import TrainerCallback
from two_processes import as_process, in_two_processes, unused_port

from train_scripts.arguments.training_arguments import FLaLLMTrainingArguments
from train_scripts.hub.training_run import longest_clip_of_training
from train_scripts.runs import text_trainer, training
from train_scripts.runs.resuming import check_checkpoint, check_run
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
    arguments = json.loads((copied / "training_arguments.json").read_text(encoding="utf-8"))
    (copied / "training_arguments.json").write_text(json.dumps(arguments | {"num_processes": 2}), encoding="utf-8")
    with pytest.raises(ValueError, match=r"rng_state_1\.pth is missing"):
        check_checkpoint(copied)
    shutil.copy(copied / "rng_state_0.pth", copied / "rng_state_1.pth")
    for num_processes in (1, 2, 3):  # another number can go on, too
        check_checkpoint(copied, num_processes)


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


@pytest.mark.parametrize(("saved", "expected"), [('{"visual_tokens": 999}', 999), (None, None)])
def test_the_longest_clip_of_the_part_before_the_checkpoint_counts(saved, expected, copied):
    """A checkpoint of an earlier version does not say it."""
    path = copied / "longest_clip.json"
    assert 1 < json.loads(path.read_text(encoding="utf-8"))["visual_tokens"] < 999
    path.unlink() if saved is None else path.write_text(saved, encoding="utf-8")
    visual_initialing.train(resume(copied.parent))
    assert longest_clip_of_training(str(copied.parent)) == expected


# The newest checkpoint that is whole, or a new run


def equal_weights(first: Path, second: Path) -> bool:
    weights, others = (load_file(folder / "model.safetensors") for folder in (first, second))
    return weights.keys() == others.keys() and all(torch.equal(weights[name], others[name]) for name in weights)


def cut_off(checkpoint: Path) -> None:
    """As a kill leaves it: without the last file, and with half of another."""
    (checkpoint / "trainer_state.json").unlink()
    content = (checkpoint / "optimizer.pt").read_bytes()
    (checkpoint / "optimizer.pt").write_bytes(content[: len(content) // 2])


@pytest.mark.parametrize("wanted", ["last", "auto"])
def test_a_checkpoint_that_was_cut_off_gives_way_to_the_one_before(wanted, run, tmp_path, capsys):
    folder = tmp_path / "run"
    for step in (1, 2):
        shutil.copytree(run / f"checkpoint-{step}", folder / f"checkpoint-{step}")
    cut_off(folder / "checkpoint-2")
    visual_initialing.train(resume(folder, resume_from_checkpoint=wanted))
    assert (
        f"warning: {folder / 'checkpoint-2' / 'trainer_state.json'} is missing. The run resumes from "
        f"{folder / 'checkpoint-1'}.\n"
    ) in capsys.readouterr().out
    assert equal_weights(folder, run) and equal_weights(folder / "checkpoint-2", run / "checkpoint-2")
    assert longest_clip_of_training(str(folder)) == longest_clip_of_training(str(run)) > 1


def test_one_command_starts_a_run_and_goes_on_with_it(run, tmp_path, monkeypatch, capsys):
    argv = resume(tmp_path / "run", resume_from_checkpoint="auto")
    with monkeypatch.context() as patch:  # killed before the first checkpoint, and within it
        patch.setattr(text_trainer.Trainer, "train", stopped)
        assert visual_initialing.main(argv) == 130
    assert [path.name for path in (tmp_path / "run").iterdir()] == ["training_arguments.json"]
    check_run(FLaLLMTrainingArguments(output_dir=str(tmp_path / "run")))  # nothing is lost if it begins again
    shutil.copytree(run / "checkpoint-1", tmp_path / "run" / "checkpoint-1")
    cut_off(tmp_path / "run" / "checkpoint-1")
    assert visual_initialing.main(argv) == 0
    text = capsys.readouterr().out
    assert f"{tmp_path / 'run' / 'checkpoint-1' / 'trainer_state.json'} is missing. The run starts from" in text
    assert equal_weights(tmp_path / "run", run)
    assert visual_initialing.main(argv) == 0  # has ended, and is evaluated again
    assert equal_weights(tmp_path / "run", run)


def stopped(*_, **__):
    raise KeyboardInterrupt


@pytest.mark.parametrize("length", [0, 200])
def test_a_kill_while_the_first_checkpoint_is_finished_is_no_obstacle(length, copied):
    """The Trainer writes its last file in place, so that a part of it can be there."""
    content = (copied / "trainer_state.json").read_bytes()
    (copied / "trainer_state.json").write_bytes(content[:length])
    training = FLaLLMTrainingArguments(output_dir=str(copied.parent), resume_from_checkpoint="auto")
    check_run(training)
    assert training.resume_from_checkpoint is None
    training = FLaLLMTrainingArguments(output_dir=str(copied.parent), resume_from_checkpoint="last")
    with pytest.raises(ValueError, match=f"^{re.escape(str(copied / 'trainer_state.json'))} is damaged"):
        check_run(training)


def test_what_a_kill_left_of_a_deleted_checkpoint_goes(run, tmp_path):
    folder = tmp_path / "run"
    for step in (1, 2):
        shutil.copytree(run / f"checkpoint-{step}", folder / f"checkpoint-{step}")
    shutil.copytree(run / "checkpoint-1", folder / "checkpoint-3")
    for step in (1, 3):  # 3 was being written
        (folder / f"checkpoint-{step}" / "training_arguments.json").unlink()
        (folder / f"checkpoint-{step}" / "trainer_state.json").unlink()
    shutil.copytree(run / "checkpoint-1", folder / "checkpoint-0")
    (folder / "checkpoint-0" / "tokenizer_config.json").unlink(missing_ok=True)
    arguments = FLaLLMTrainingArguments(output_dir=str(folder), resume_from_checkpoint="auto", use_cpu=True)
    check_run(arguments)
    assert arguments.resume_from_checkpoint == str(folder / "checkpoint-2")
    assert sorted(path.name for path in folder.iterdir()) == ["checkpoint-0", "checkpoint-2", "checkpoint-3"]


def test_auto_leaves_alone_what_no_run_has_left(copied, capsys):
    folder = copied.parent.parent / "mine"
    folder.mkdir()
    (folder / "notes.txt").write_text("mine", encoding="utf-8")
    argv = resume(folder, resume_from_checkpoint="auto")
    assert error_of(visual_initialing.main, argv, capsys).startswith(f"--output_dir {folder} is not empty")
    (copied / "optimizer.pt").unlink()  # a checkpoint that was written to its end
    text = error_of(visual_initialing.main, resume(copied.parent, resume_from_checkpoint="auto"), capsys)
    assert text == f"{copied / 'optimizer.pt'} is missing (was it saved with --save_only_model True?). {ADVICE}"


# SIGTERM

TWO_STEPS_AN_EPOCH = {**RUN, "num_train_epochs": 2, "max_train_clips": 6, "light_dropout": 0.2, "speed": 0.2}


def training_that_meets(step: int, act, monkeypatch: pytest.MonkeyPatch) -> None:
    original = visual_initialing.run_training

    def run_training(*arguments, callbacks=(), **options):
        return original(*arguments, callbacks=[At(step, act)], **options)

    monkeypatch.setattr(visual_initialing, "run_training", run_training)


@pytest.mark.parametrize("step", [1, 2])
def test_sigterm_leaves_a_checkpoint_and_the_same_command_goes_on(step, tmp_path, monkeypatch, capfd):
    values = {**TWO_STEPS_AN_EPOCH, "resume_from_checkpoint": "auto"}
    visual_initialing.train(stage1_flags(tmp_path / "whole", **values))
    argv = stage1_flags(tmp_path / "run", **values)
    with monkeypatch.context() as patch:
        training_that_meets(step, lambda: os.kill(os.getpid(), signal.SIGTERM), patch)
        assert visual_initialing.main(argv) == 143
    text = capfd.readouterr().err
    assert "SIGTERM: a checkpoint is saved after this step, then the training ends." in text
    assert text.strip().splitlines()[-1] == (
        "Stopped. Run the same command with --resume_from_checkpoint auto to go on from its last checkpoint, or from "
        "the beginning if there is none."
    )
    assert {path.name for path in (tmp_path / "run").iterdir()} == {f"checkpoint-{step}", "training_arguments.json"}
    assert signal.getsignal(signal.SIGTERM) == signal.SIG_DFL
    assert visual_initialing.main(argv) == 0
    assert equal_weights(tmp_path / "run", tmp_path / "whole")
    assert log_of(tmp_path / "run", "loss") == log_of(tmp_path / "whole", "loss")


def test_a_second_sigterm_ends_at_once(tmp_path, monkeypatch):
    def twice():
        os.kill(os.getpid(), signal.SIGTERM)
        os.kill(os.getpid(), signal.SIGTERM)
        pytest.fail("goes on")

    training_that_meets(1, twice, monkeypatch)
    assert visual_initialing.main(stage1_flags(tmp_path / "run", **TWO_STEPS_AN_EPOCH)) == 143
    assert not list((tmp_path / "run").glob("checkpoint-*"))


def stage_that_one_process_ends(rank: int, argv: list[str], port: int) -> None:
    as_process(rank, port)
    with pytest.MonkeyPatch.context() as patch:
        training_that_meets(2, lambda: rank == 1 and os.kill(os.getpid(), signal.SIGTERM), patch)
        assert visual_initialing.main(argv) == 143


def test_sigterm_of_one_process_ends_all_after_the_same_step(tmp_path):
    argv = stage1_flags(tmp_path / "run", **{**TWO_STEPS_AN_EPOCH, "max_train_clips": 12})
    in_two_processes(stage_that_one_process_ends, argv, unused_port())
    checkpoint = tmp_path / "run" / "checkpoint-2"
    check_checkpoint(checkpoint, num_processes=2)
    assert [path.name for path in (tmp_path / "run").glob("checkpoint-*")] == ["checkpoint-2"]


def stage_in_which_one_process_freezes(rank: int, argv: list[str], port: int) -> None:
    as_process(rank, port)
    with pytest.MonkeyPatch.context() as patch:
        training_that_meets(1, lambda: rank == 1 and time.sleep(12), patch)
        with pytest.raises(RuntimeError, match="[Tt]imed out|[Tt]imeout|closed by peer|reset by peer"):
            visual_initialing.main(argv)


def test_a_frozen_process_ends_the_others_after_the_timeout(tmp_path):
    values = {**TWO_STEPS_AN_EPOCH, "max_train_clips": 12, "ddp_timeout": 5}
    began = time.monotonic()
    in_two_processes(stage_in_which_one_process_freezes, stage1_flags(tmp_path / "run", **values), unused_port())
    assert time.monotonic() - began < 120


def test_an_evaluation_leaves_the_random_numbers_of_the_training_alone(tmp_path):
    """Resumed from the last step of an epoch, which is saved before the epoch's evaluation."""
    values = {
        **TWO_STEPS_AN_EPOCH, "save_strategy": "steps", "save_steps": 2, "eval_strategy": "epoch",
        "load_best_model_at_end": False,
    }  # fmt: skip
    visual_initialing.train(stage1_flags(tmp_path / "whole", **values))
    shutil.copytree(tmp_path / "whole" / "checkpoint-2", tmp_path / "run" / "checkpoint-2")
    visual_initialing.train(stage1_flags(tmp_path / "run", **values, resume_from_checkpoint="last"))
    assert equal_weights(tmp_path / "run", tmp_path / "whole")


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

    training_that_meets(2, interrupt, monkeypatch)
    argv = stage1_flags(tmp_path / "run", num_train_epochs=3, **RUN)
    assert visual_initialing.main(argv) == 130
    text = capsys.readouterr().err
    assert "Traceback" not in text and "--resume_from_checkpoint auto" in text.strip().splitlines()[-1]
    monkeypatch.undo()
    assert visual_initialing.main([*argv, "--resume_from_checkpoint", "auto"]) == 0
    assert json.loads((tmp_path / "run" / "trainer_state.json").read_text(encoding="utf-8"))["global_step"] == 3


def test_checkpoints_hold_no_pickled_arguments(run):
    assert not list(run.rglob("training_args.bin"))
    saved = json.loads((run / "checkpoint-1" / "training_arguments.json").read_text(encoding="utf-8"))
    assert saved["temporal_padding"] == "zero" and saved["data"]["source"] == "corpus"
