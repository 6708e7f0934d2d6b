"""A run goes on with more or fewer processes: each step keeps its clips."""

import json
import re
from pathlib import Path
from types import SimpleNamespace

import pytest
from test_distributed_training import STAGE_1, logged
from test_resuming import stage_that_one_process_ends
from tiny_corpus import error_of, stage1_flags
from two_processes import in_two_processes, unused_port

from train_scripts.runs.other_processes import keep_clips_of_a_step
from train_scripts.stages import visual_initialing


def checkpoint_of(folder: Path, num_processes: int, batch_size: int, accumulation: int = 1, **others) -> Path:
    values = {
        "num_processes": num_processes,
        "per_device_train_batch_size": batch_size,
        "gradient_accumulation_steps": accumulation,
    }
    (folder / "training_arguments.json").write_text(json.dumps(values | others), encoding="utf-8")
    return folder


def training_of(num_processes: int, batch_size: int, accumulation: int = 1) -> SimpleNamespace:
    return SimpleNamespace(
        world_size=num_processes,
        process_index=0,
        per_device_train_batch_size=batch_size,
        gradient_accumulation_steps=accumulation,
    )


@pytest.mark.parametrize(
    ("before", "now", "accumulation"),
    [
        ((4, 8), (2, 8), 2),
        ((4, 8), (1, 8), 4),
        ((4, 8), (2, 16), 1),
        ((2, 4, 4), (8, 4), 1),
        ((3, 4, 2), (2, 6, 5), 2),
        ((2, 4, 3), (2, 4, 7), 7),  # as many processes: the run's own business
    ],
)
def test_gradients_are_accumulated_to_as_many_clips(before, now, accumulation, tmp_path, capsys):
    training = training_of(*now)
    keep_clips_of_a_step(training, checkpoint_of(tmp_path, *before))
    assert training.gradient_accumulation_steps == accumulation
    told = f"The run goes on with {now[0]} process(es) in place of {before[0]}. Gradients of {accumulation} batch(es) "
    assert capsys.readouterr().out.startswith(told if before[0] != now[0] else "")


@pytest.mark.parametrize(
    ("before", "now", "message"),
    [
        (
            (2, 4), (4, 4), "8 clips in a step, by 2 process(es). 4 process(es) with 4 clips each cannot make as "
            "many. Pass a --per_device_train_batch_size of 1, 2.",
        ),
        (
            (2, 6), (1, 8), "1 process(es) with 8 clips each cannot make as many. Pass a --per_device_train_batch_size "
            "of 1, 2, 3, 4, 6, 12.",
        ),
        (
            (2, 4), (3, 4), "3 process(es) with 4 clips each cannot make as many. Use a number of processes that "
            "divides 8.",
        ),
    ],
)  # fmt: skip
def test_other_numbers_of_clips_are_refused(before, now, message, tmp_path):
    training = training_of(*now)
    with pytest.raises(ValueError, match=re.escape(message)):
        keep_clips_of_a_step(training, checkpoint_of(tmp_path, *before))


@pytest.mark.parametrize("flag", ["streaming", "max_frames_per_batch"])
def test_clips_that_are_shared_out_by_processes_are_refused(flag, tmp_path):
    with pytest.raises(ValueError) as error:
        keep_clips_of_a_step(training_of(1, 8), checkpoint_of(tmp_path, 2, 4, **{flag: 100}))
    assert str(error.value) == (
        f"{tmp_path} was trained by 2 process(es) with --{flag}, which shares out the clips by the number of processes."
        " Go on with as many, not with 1, or train again in another folder."
    )


def test_a_checkpoint_of_an_earlier_version_goes_on_with_as_many(tmp_path):
    training = training_of(2, 4)
    keep_clips_of_a_step(training, tmp_path)
    assert training.gradient_accumulation_steps == 1


def test_damaged_settings(tmp_path):
    (tmp_path / "training_arguments.json").write_text("{", encoding="utf-8")
    with pytest.raises(
        ValueError, match=r"training_arguments.json is damaged \(Expecting .*\)\. Resume from an earlier"
    ):
        keep_clips_of_a_step(training_of(2, 4), tmp_path)


@pytest.mark.slow
def test_two_processes_begin_and_one_goes_on(tmp_path, capsys):
    """One of two is told to end after the second of six steps."""
    values = {
        **STAGE_1, "max_train_clips": 12, "num_train_epochs": 2, "save_strategy": "epoch", "generation_num_beams": 1,
        "max_evaluation_clips": 2, "resume_from_checkpoint": "auto",
    }  # fmt: skip
    visual_initialing.train(stage1_flags(tmp_path / "whole", **values, per_device_train_batch_size=4))
    argv = stage1_flags(tmp_path / "run", **values, per_device_train_batch_size=2)
    in_two_processes(stage_that_one_process_ends, argv, unused_port())
    assert [path.name for path in (tmp_path / "run").glob("checkpoint-*")] == ["checkpoint-2"]
    fitting = stage1_flags(tmp_path / "run", **values, per_device_train_batch_size=3)
    assert "clips in a step, by 2 process(es)." in error_of(visual_initialing.main, fitting, capsys)
    assert visual_initialing.main(stage1_flags(tmp_path / "run", **values, per_device_train_batch_size=4)) == 0
    told = capsys.readouterr().out
    assert "The run goes on with 1 process(es) in place of 2. Gradients of 1 batch(es) make a step, which keeps" in told
    losses, expected = (logged(tmp_path / name)[0] for name in ("run", "whole"))
    assert len(losses) == 6 and losses[:2] == pytest.approx(expected[:2], rel=1e-4)
    assert losses == pytest.approx(expected, rel=1e-2)
