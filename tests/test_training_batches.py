"""Which clips make a batch, and where their pixels are computed."""

import json
import shutil

import pytest
import torch
from test_data import video_folder
from test_distributed_training import logged
from tiny_corpus import (
    WITHOUT_EVALUATION,
    copy_of_weights,
    corpus,
    error_of,
    log_of,
    stage2_flags,
    trained_model,
)
from two_processes import command_in_two_processes

from processing import FLaLLMProcessor
from train_scripts.clips.samplers import FrameBudgetBatchSampler
from train_scripts.runs import training, training_clips
from train_scripts.stages import llm_fine_tuning

FAST_TWICE = {**WITHOUT_EVALUATION, "num_train_epochs": 2, "speed": 0.2, "learning_rate": 0.003}


@pytest.fixture
def batches(monkeypatch: pytest.MonkeyPatch) -> list[dict[str, torch.Tensor]]:
    """Labels and masks of the frames of every batch that the commands of a test train on."""
    seen: list[dict[str, torch.Tensor]] = []

    class WatchingTrainer(training.FLaLLMTrainer):
        def training_step(self, model, inputs, *arguments, **named_arguments):
            prepared = self._prepare_inputs(dict(inputs))
            seen.append({name: prepared[name].clone() for name in ("labels", "pixel_attention_mask")})
            return super().training_step(model, inputs, *arguments, **named_arguments)

    monkeypatch.setattr(training, "FLaLLMTrainer", WatchingTrainer)
    return seen


def num_frames_of(batch: dict[str, torch.Tensor]) -> list[int]:
    return batch["pixel_attention_mask"].sum(1).tolist()


@pytest.mark.slow
def test_batches_of_clips_of_about_one_length(batches, tmp_path):
    values = {"num_train_epochs": 1, "per_device_train_batch_size": 3, "frame_jitter": False, **WITHOUT_EVALUATION}
    llm_fine_tuning.train(stage2_flags(tmp_path / "run", train_sampling_strategy="group_by_length", **values))
    lengths = [sorted(num_frames_of(batch)) for batch in batches]
    together = sorted(length for batch in lengths for length in batch)
    assert sorted(lengths) == sorted(together[start : start + 3] for start in range(0, 12, 3))


@pytest.mark.slow
def test_batches_of_so_many_frames(batches, tmp_path):
    values = {"num_train_epochs": 3, "max_frames_per_batch": 70, "speed": 0.2, **WITHOUT_EVALUATION}
    llm_fine_tuning.train(stage2_flags(tmp_path / "run", **values))
    assert max(sum(num_frames_of(batch)) for batch in batches) <= 70
    assert len(batches) < 3 * 12
    assert sum(len(batch["labels"]) for batch in batches) == 3 * 12
    state = json.loads((tmp_path / "run" / "trainer_state.json").read_text(encoding="utf-8"))
    assert state["global_step"] == len(batches) and len(batches) % 3 == 0
    card = (tmp_path / "run" / "README.md").read_text(encoding="utf-8")
    assert f"{len(batches)} steps of a varying number of clips." in card and "`max_frames_per_batch` is **70**" in card


def test_too_few_frames_for_a_clip(tmp_path, capsys):
    text = error_of(llm_fine_tuning.main, stage2_flags(tmp_path / "run", max_frames_per_batch=3), capsys)
    assert text.startswith("--max_frames_per_batch 3 is too few for the longest clip, of up to ")


@pytest.mark.slow
def test_a_budget_of_frames_resumes_as_it_would_have_gone_on(tmp_path):
    values = {
        "num_train_epochs": 2, "max_frames_per_batch": 70, "save_strategy": "steps", "save_steps": 2,
        "eval_strategy": "no", "load_best_model_at_end": False, "save_total_limit": 100, "speed": 0.2,
        "dataset_weights": [1, 2], "dataset": [corpus(), corpus()], "max_train_clips": 6,
    }  # fmt: skip
    llm_fine_tuning.train(stage2_flags(tmp_path / "whole", **values))
    num_steps = len(log_of(tmp_path / "whole", "loss"))
    for step in (2, num_steps // 2 // 2 * 2 + 2):  # within the first epoch and within the second
        shutil.copytree(tmp_path / "whole" / f"checkpoint-{step}", tmp_path / f"run{step}" / f"checkpoint-{step}")
        llm_fine_tuning.train(stage2_flags(tmp_path / f"run{step}", resume_from_checkpoint="last", **values))
        assert log_of(tmp_path / f"run{step}", "loss") == log_of(tmp_path / "whole", "loss")


def test_weights_of_data_sets_reach_the_batches(batches, tmp_path):
    folders = [video_folder(tmp_path / name, f"file_name,text\na.mp4,{name}\nb.mp4,{name}\n") for name in ("ba", "bi")]
    video_folder(tmp_path / "ba", "file_name,text\na.mp4,ba\n", split="dev")
    values = {"num_train_epochs": 2, "dataset": folders, "dataset_weights": [3, 1]}
    llm_fine_tuning.train(stage2_flags(tmp_path / "run", **values, per_device_train_batch_size=4))
    tokenizer = FLaLLMProcessor.from_pretrained(tmp_path / "run").tokenizer
    first_labels = [tuple(tokenizer(text_target=name)["input_ids"]) for name in ("ba", "bi")]
    drawn = [tuple(value for value in row.tolist() if value != -100) for batch in batches for row in batch["labels"]]
    assert [drawn.count(labels) for labels in first_labels] == [6, 2]
    run = json.loads((tmp_path / "run" / "training_run.json").read_text(encoding="utf-8"))
    assert run["data"]["name"] == "ba" and run["data"]["other_sources"] == ["bi"]
    assert run["scores"][0]["num_clips"] == 1 and run["data"]["splits"]["train"]["num_clips"] == 4


@pytest.mark.slow
def test_pixels_made_on_the_device_train_as_those_of_the_loading_processes(trainers, tmp_path):
    values = {"num_train_epochs": 1, "rotation_degrees": 20, "brightness": 0.2, "speed": 0.2, "generation_num_beams": 1}
    for name, on_device in (("cpu", False), ("device", True)):
        llm_fine_tuning.train(
            stage2_flags(tmp_path / name, **values, preprocess_on_device=on_device, generation_config=trained_model())
        )
    assert log_of(tmp_path / "device", "loss") == pytest.approx(log_of(tmp_path / "cpu", "loss"), rel=1e-5)
    assert log_of(tmp_path / "device", "eval_chrf") == log_of(tmp_path / "cpu", "eval_chrf")
    first, second = [copy_of_weights(trainer.model) for trainer in trainers]
    for name, value in first.items():
        torch.testing.assert_close(second[name], value, atol=1e-6, rtol=1e-4, msg=name)


@pytest.mark.slow
@pytest.mark.parametrize(
    "values",
    [
        pytest.param({"dataset_weights": [2, 1], "preprocess_on_device": True}, id="weights and device"),
        pytest.param({"train_sampling_strategy": "group_by_length"}, id="by length"),
    ],
)
def test_two_processes_draw_as_one(values, tmp_path):
    values = {**FAST_TWICE, "dataset": [corpus(), corpus()], **values}
    llm_fine_tuning.train(stage2_flags(tmp_path / "one", **values, per_device_train_batch_size=4))
    command_in_two_processes(
        "stages.llm_fine_tuning", stage2_flags(tmp_path / "two", **values, per_device_train_batch_size=2)
    )
    assert logged(tmp_path / "two")[0] == pytest.approx(logged(tmp_path / "one")[0], rel=1e-3)


@pytest.mark.slow
def test_two_processes_with_a_budget_of_frames(tmp_path, monkeypatch):
    """Each takes every other batch of one process, so that two of its batches make one step of theirs."""
    numbers_of_batches = []

    class CountedSampler(FrameBudgetBatchSampler):
        def __init__(self, *arguments):
            super().__init__(*arguments)
            numbers_of_batches.append(self.num_batches)

    monkeypatch.setattr(training_clips, "FrameBudgetBatchSampler", CountedSampler)
    values = {**FAST_TWICE, "max_frames_per_batch": 70}
    command_in_two_processes("stages.llm_fine_tuning", stage2_flags(tmp_path / "two", **values))
    llm_fine_tuning.train(stage2_flags(tmp_path / "one", **values, gradient_accumulation_steps=2))
    losses, other_losses = logged(tmp_path / "one")[0], logged(tmp_path / "two")[0]
    assert len(losses) == len(other_losses) >= 4
    if numbers_of_batches[0] % 2 == 0:  # otherwise two processes have one more, and split another batch
        assert other_losses == pytest.approx(losses, rel=1e-3)
