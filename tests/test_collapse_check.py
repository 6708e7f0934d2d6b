"""A model that writes one sentence for all clips, or for noise the same as for clips, stops its training."""

import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from tiny_corpus import corpus, error_of, load, log_of, make_seeing, stage1_flags, trained_model
from transformers import TrainerControl, TrainerState

from processing import decode_video
from train_scripts.runs import collapse_check
from train_scripts.runs.collapse_check import ADVICE, CollapseCheck, share_of_most_frequent
from train_scripts.stages import visual_initialing

STILL = {"learning_rate": 1e-12, "max_train_clips": 2, "num_train_epochs": 6}  # the model stays what it is
CLIPS = [f"sentence {index}" for index in range(6)]


class FakeTrainer:
    """Writes these sentences for the clips of its only batch, and for noise in their place."""

    def __init__(self, of_clips: list[str], of_noise: list[str]):
        self.sentences, self.faults = (of_clips, of_noise), []

    def check(self, references: list[str]) -> CollapseCheck:
        check = CollapseCheck(self, references)
        check._sentences_beside_noise = lambda: self.sentences
        check._over_all_processes = lambda *counts: list(counts)
        return check


def evaluate(
    of_clips: list[str], of_noise: list[str], references: list[str] = CLIPS, steps: tuple[int, ...] = (50, 60)
) -> tuple[list[str], list[int]]:
    """-> what the run fails with, and the steps at which it was to stop"""
    trainer = FakeTrainer(of_clips, of_noise)
    check, state, stops = trainer.check(references), TrainerState(max_steps=100), []
    check.on_train_begin(None, state, None)
    for step in steps:
        state.global_step, control = step, TrainerControl()
        check.on_evaluate(None, state, control, {"eval_most_frequent_prediction": share_of_most_frequent(of_clips)})
        stops += [step] if control.should_training_stop else []
    return trainer.faults, stops


def test_one_sentence_for_all_clips():
    (fault,), stops = evaluate(["I, I, I"] * 6, CLIPS)
    assert stops == [60]
    assert fault == (
        "The model has collapsed, and training was stopped at step 60 of 100: in 2 evaluations in a row the model "
        f"wrote one sentence for 100% of the clips, such as 'I, I, I'. {ADVICE}"
    )


def test_the_same_for_noise_as_for_clips():
    (fault,), stops = evaluate(CLIPS, CLIPS)
    assert stops == [60] and "the model wrote the same for noise as for the clip in 6 of 6 clips" in fault


@pytest.mark.parametrize(
    ("of_clips", "of_noise", "references"),
    [
        (CLIPS, CLIPS[::-1], CLIPS),  # it reads the clips
        (["rain"] * 5 + ["snow"], CLIPS, CLIPS),  # 83 % is not nearly all
        (CLIPS, [*CLIPS[:5], "other"], CLIPS),
        (["rain"] * 6, CLIPS, ["Rain"] * 6),  # all clips mean the same
        (["rain"] * 3, ["snow"] * 3, CLIPS[:3]),  # too few clips to tell
    ],
)
def test_what_is_no_collapse(of_clips, of_noise, references):
    assert evaluate(of_clips, of_noise, references) == ([], [])


@pytest.mark.parametrize(("steps", "expected"), [((0, 9), []), ((9, 10), []), ((10, 11), [11]), ((50,), [])])
def test_only_two_evaluations_after_a_tenth_of_the_training_count(steps, expected):
    assert evaluate(["I"] * 6, CLIPS, steps=steps)[1] == expected


def test_evaluations_in_between_start_the_count_again():
    trainer = FakeTrainer(["I"] * 6, CLIPS)
    check, state = trainer.check(CLIPS), TrainerState(max_steps=100, global_step=50)
    check.on_train_begin(None, state, None)
    for share in (1.0, 0.2, 1.0):
        check.on_evaluate(None, state, TrainerControl(), {"eval_most_frequent_prediction": share})
    assert not trainer.faults
    check.on_train_end(None, state, None)  # the evaluation of the best checkpoint, at the end, is not judged
    check.on_evaluate(None, state, TrainerControl(), {"eval_most_frequent_prediction": 1.0})
    assert not trainer.faults


def test_noise_keeps_values_and_lengths_but_no_frame():
    model = SimpleNamespace(vision_model=SimpleNamespace(input_names=("pose_values", "pose_attention_mask")))
    trainer = SimpleNamespace(
        accelerator=SimpleNamespace(unwrap_model=lambda model: model), model=model, args=SimpleNamespace(seed=3)
    )
    poses, mask = torch.randn(2, 7, 69, 3), torch.randint(0, 2, (2, 7))
    state = torch.random.get_rng_state()
    noise = CollapseCheck(trainer, CLIPS)._as_noise({"pose_values": poses, "pose_attention_mask": mask})
    assert torch.equal(torch.random.get_rng_state(), state)
    assert noise["pose_attention_mask"] is mask and noise["pose_values"].shape == poses.shape
    assert torch.equal(noise["pose_values"].flatten(2).sort().values, poses.flatten(2).sort().values)
    assert (noise["pose_values"] != poses).flatten(2).any(-1).all()


# In a training


@pytest.fixture
def training_of(monkeypatch) -> Any:
    """Makes stage 1 train what a function builds."""
    trained_model()  # by the stage itself
    return lambda build: monkeypatch.setattr(visual_initialing, "build_model", build)


def build_blind(*_: Any) -> tuple[Any, Any]:
    """The adapter has lost its weights: whatever the clip, the text model reads the same."""
    model, processor = build_seeing()
    with torch.no_grad():
        for parameter in model.get_adapter().parameters():
            parameter.zero_()
    return model, processor


def build_seeing(*_: Any) -> tuple[Any, Any]:
    """Different sentences, also after some steps: the statistics of batch norm stay as they are."""
    model, processor = load(trained_model())
    make_seeing(model, processor, "dev")
    model.freeze_visual_encoder()
    return model, processor


def command(folder: Path, **values: Any) -> list[str]:
    return stage1_flags(folder, **{**STILL, "stop_on_collapse": True, **values})


def evaluations(folder: Path) -> list[int]:
    """The steps of the evaluations."""
    history = json.loads((folder / "trainer_state.json").read_text(encoding="utf-8"))["log_history"]
    return [row["step"] for row in history if "eval_loss" in row]


@pytest.mark.slow
def test_a_blind_model_stops_and_is_saved(training_of, tmp_path, capsys):
    training_of(build_blind)
    error = error_of(visual_initialing.main, command(tmp_path / "run"), capsys)
    assert error.startswith(
        "The model has collapsed, and training was stopped at step 2 of 6: in 2 evaluations in a row"
    )
    assert error.endswith(f"{ADVICE} What was trained is saved in {tmp_path / 'run'}.")
    assert evaluations(tmp_path / "run")[:2] == [1, 2] and (tmp_path / "run" / "README.md").is_file()
    lengths = {len(decode_video(path).frames) for path in (corpus() / "dev").glob("*.mp4")}
    most = len(lengths) / 6  # of all it sees, only how long a clip is
    assert max(log_of(tmp_path / "run", "eval_different_predictions")) <= most + 1e-9
    load(tmp_path / "run")


@pytest.mark.slow
def test_a_seeing_model_trains_to_the_end(training_of, tmp_path, capsys):
    training_of(build_seeing)
    visual_initialing.train(command(tmp_path / "run"))
    assert set(evaluations(tmp_path / "run")) == set(range(1, 7))
    assert "the model wrote" not in capsys.readouterr().out
    assert min(log_of(tmp_path / "run", "eval_different_predictions")) > 1 / 6


@pytest.mark.slow
def test_without_the_flag_nothing_stops(training_of, tmp_path):
    training_of(build_blind)
    argv = command(tmp_path / "run", num_train_epochs=3, stop_on_collapse=False)
    visual_initialing.train(argv)
    assert set(evaluations(tmp_path / "run")) == {1, 2, 3}


@pytest.mark.slow
def test_noise_is_made_of_frames_that_the_device_prepares(training_of, monkeypatch, tmp_path, capsys):
    training_of(build_blind)
    monkeypatch.setattr(collapse_check, "LARGEST_SHARE", 1.0)
    monkeypatch.setattr(CollapseCheck, "on_evaluate", _only_noise(CollapseCheck.on_evaluate))
    argv = command(tmp_path / "run", num_train_epochs=2, preprocess_on_device=True)
    assert "the same for noise as for the clip in 6 of 6 clips" in error_of(visual_initialing.main, argv, capsys)


def _only_noise(on_evaluate: Any) -> Any:
    def with_varied_predictions(self: CollapseCheck, *arguments: Any, metrics: dict[str, float], **others: Any) -> None:
        on_evaluate(self, *arguments, metrics={**metrics, "eval_most_frequent_prediction": 0.2}, **others)

    return with_varied_predictions


@pytest.mark.slow
@pytest.mark.parametrize(
    "values", [{"eval_strategy": "no", "load_best_model_at_end": False}, {"predict_with_generate": False}]
)
def test_a_run_without_evaluations_by_generation_is_told_that_it_is_not_checked(values, training_of, tmp_path, capsys):
    training_of(build_blind)
    visual_initialing.train(command(tmp_path / "run", num_train_epochs=1, metric_for_best_model="loss", **values))
    told = "--stop_on_collapse looks at evaluations of what the model generates. This run has none."
    assert told in capsys.readouterr().out
