"""The output of a run: a complete model, logs, the best checkpoints, a resumed run, LoRA adapters."""

import json
import random
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import PeftModel
from safetensors.torch import load_file
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from tiny_corpus import (
    FAST,
    WITHOUT_EVALUATION,
    copy_of_weights,
    corpus,
    load,
    log_of,
    make_talkative,
    moved,
    stage1_flags,
    stage2_flags,
)
from transformers import AutoModelForSeq2SeqLM

from modeling_flallm import FLaLLMForTranslation
from processing import FLaLLMProcessor
from train_scripts.hub.training_run import longest_clip_of_training
from train_scripts.runs import training
from train_scripts.stages import llm_fine_tuning, visual_initialing

pytestmark = pytest.mark.slow

ONE_STEP_AN_EPOCH = {"max_train_clips": 2, "max_evaluation_clips": 1}


def clips_of_split(split: str = "test", count: int = 4) -> list[str]:
    return [str(path) for path in sorted((corpus() / split).glob("*.mp4"))[:count]]


@torch.no_grad()
def translate(model: torch.nn.Module, processor: FLaLLMProcessor) -> list[str]:
    inputs = processor(videos=clips_of_split(), return_tensors="pt")
    return processor.batch_decode(model.eval().generate(**inputs, min_length=5, max_length=12))


@torch.no_grad()
def logits_of(model: torch.nn.Module, processor: FLaLLMProcessor) -> torch.Tensor:
    inputs = processor(videos=clips_of_split(), text_target=["this is it"] * 4, return_tensors="pt")
    return model.eval()(**inputs).logits


# What a run leaves


@pytest.fixture(scope="module")
def finished(tmp_path_factory) -> Path:
    """Two epochs of stage 1 with TensorBoard."""
    folder = tmp_path_factory.mktemp("stage1") / "run"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(visual_initialing, "build_model", _talkative(visual_initialing.build_model))
        visual_initialing.train(
            stage1_flags(folder, num_train_epochs=2, report_to="tensorboard", light_dropout=0.1, speed=0.2, **FAST)
        )
    return folder


def _talkative(build: Callable) -> Callable:
    def build_talkative(*arguments):
        model, processor = build(*arguments)
        make_talkative(model, processor.tokenizer)
        return model, processor

    return build_talkative


@pytest.mark.parametrize("on_device", [False, True])
def test_the_record_holds_the_longest_clip_that_was_trained_on(on_device, tmp_path):
    options = {**FAST, **WITHOUT_EVALUATION, "speed": 0, "preprocess_on_device": on_device}
    visual_initialing.train(stage1_flags(tmp_path / "run", num_train_epochs=1, **options))
    model, processor = load(tmp_path / "run")
    inputs = processor(videos=clips_of_split("train", 100), return_tensors="pt")
    expected = model.vision_model.get_num_tokens(int(inputs["pixel_attention_mask"].sum(1).max()))
    assert longest_clip_of_training(str(tmp_path / "run")) == expected > 1
    assert longest_clip_of_training(str(tmp_path)) is None


def test_the_folder_of_stage_1_is_a_whole_model(finished, monkeypatch, trainers, tmp_path):
    monkeypatch.setattr(visual_initialing, "build_model", _talkative(visual_initialing.build_model))
    visual_initialing.train(stage1_flags(tmp_path / "run", max_steps=2, **WITHOUT_EVALUATION, **FAST))
    trained = trainers[0].model
    model, processor = load(tmp_path / "run")
    texts = translate(model, processor)
    assert texts == translate(trained, trainers[0].processing_class) and all(texts)
    for name, value in trained.state_dict().items():
        assert torch.equal(model.state_dict()[name], value), name
    assert dict(processor.video_processor.crop_size) == {"height": 32, "width": 32}


def test_no_pickle_is_left_beside_the_model(finished):
    files = [path for path in finished.rglob("*") if path.is_file() and "checkpoint-" not in str(path)]
    names = {path.name for path in files if path.parent == finished}
    assert {"config.json", "model.safetensors", "generation_config.json", "processor_config.json"} <= names
    assert {"tokenizer.json", "training_arguments.json", "trainer_state.json", "eval_results.json"} <= names
    for path in files:
        assert path.suffix not in (".bin", ".pt", ".pth", ".pkl", ".pickle"), path
        assert path.read_bytes()[:1] != b"\x80" and path.read_bytes()[:2] != b"PK", path
    assert not list(finished.rglob("training_args.bin"))
    arguments = json.loads((finished / "training_arguments.json").read_text(encoding="utf-8"))
    assert arguments["learning_rate"] == FAST["learning_rate"]


def test_tensorboard_has_losses_and_scores(finished):
    (folder,) = {path.parent for path in finished.rglob("events.out.tfevents.*")}
    events = EventAccumulator(str(folder)).Reload()
    assert {"train/loss", "train/learning_rate", "eval/loss", "eval/bleu4", "eval/chrf"} <= set(
        events.Tags()["scalars"]
    )
    logged = [event.value for event in events.Scalars("train/loss")]
    assert logged == pytest.approx(log_of(finished, "loss"), rel=1e-5)
    assert len(logged) == 6


def test_scores_of_both_evaluations_are_logged(finished):
    for name in ("bleu1", "bleu2", "bleu3", "bleu4", "chrf", "rouge_l_mscoco", "loss", "num_empty_predictions"):
        assert len(log_of(finished, f"eval_{name}")) == 3  # two epochs, and the best checkpoint at the end
    results = json.loads((finished / "eval_results.json").read_text(encoding="utf-8"))
    assert results["eval_bleu4"] == max(log_of(finished, "eval_bleu4"))


def test_the_longest_generated_sentence(monkeypatch, sentences_of_any_length, trainers, tmp_path):
    def build(*arguments):
        model, processor = _original_build(*arguments)
        silent = [processor.tokenizer.eos_token_id, processor.tokenizer.pad_token_id]
        model.generation_config.bad_words_ids = [[token] for token in silent]  # it never stops by itself
        return model, processor

    _original_build = visual_initialing.build_model
    monkeypatch.setattr(visual_initialing, "build_model", build)
    scores = visual_initialing.train(
        stage1_flags(tmp_path / "run", max_steps=1, **{**WITHOUT_EVALUATION, "generation_max_length": 9})
    )
    assert scores["eval_mean_generated_tokens"] == 9
    assert load(tmp_path / "run")[0].generation_config.max_length == 150


def scores_in_turn(monkeypatch: pytest.MonkeyPatch, *bleu4: float) -> None:
    """Whatever the model generates, the evaluations score these, in turn; the last one from then on."""
    scores = list(bleu4)

    def build_compute_metrics(*_, **__):
        return lambda _: {"bleu4": scores.pop(0) if len(scores) > 1 else scores[0], "chrf": random.random()}

    monkeypatch.setattr(training, "build_compute_metrics", build_compute_metrics)


@pytest.mark.parametrize("best", [0, 1, 2])
def test_the_checkpoint_with_the_best_bleu4_is_saved(best, monkeypatch, tmp_path):
    bleu4 = [random.uniform(1, 50) for _ in range(3)]
    bleu4[best] = 60.0
    scores_in_turn(monkeypatch, *bleu4, -1.0)
    visual_initialing.train(
        stage1_flags(tmp_path / "run", num_train_epochs=3, save_total_limit=3, **FAST, **ONE_STEP_AN_EPOCH)
    )
    final = load_file(tmp_path / "run" / "model.safetensors")
    checkpoints = [load_file(tmp_path / "run" / f"checkpoint-{step}" / "model.safetensors") for step in (1, 2, 3)]
    for index, checkpoint in enumerate(checkpoints):
        assert bool(moved(checkpoint, final)) == (index != best)
    state = json.loads((tmp_path / "run" / "trainer_state.json").read_text(encoding="utf-8"))
    assert state["best_metric"] == 60.0 and Path(state["best_model_checkpoint"]).name == f"checkpoint-{best + 1}"


def test_few_checkpoints_are_kept_and_the_best_among_them(monkeypatch, tmp_path):
    scores_in_turn(monkeypatch, 50.0, 3.0, 2.0, 1.0)
    visual_initialing.train(stage1_flags(tmp_path / "run", num_train_epochs=4, save_total_limit=1, **ONE_STEP_AN_EPOCH))
    assert {path.name for path in (tmp_path / "run").glob("checkpoint-*")} <= {"checkpoint-1", "checkpoint-4"}
    assert (tmp_path / "run" / "checkpoint-1").is_dir()


def test_early_stopping(monkeypatch, tmp_path):
    scores_in_turn(monkeypatch, 20.0, 30.0, 10.0, 29.0, 28.0)
    visual_initialing.train(
        stage1_flags(tmp_path / "run", num_train_epochs=9, early_stopping_patience=2, **ONE_STEP_AN_EPOCH)
    )
    state = json.loads((tmp_path / "run" / "trainer_state.json").read_text(encoding="utf-8"))
    assert (state["global_step"], state["best_metric"]) == (4, 30.0)


@pytest.mark.parametrize("step", [2, 3])
def test_a_resumed_run_ends_as_the_uninterrupted_one(step, tmp_path):
    """From the middle of an epoch and from the end of one; with dropout, augmentation and a schedule."""
    values = {
        **FAST, "num_train_epochs": 2, "eval_strategy": "no", "save_strategy": "steps", "save_steps": step,
        "load_best_model_at_end": False, "speed": 0.3, "frame_drop": 0.2, "brightness": 0.2, "light_dropout": 0.2,
        "save_total_limit": 5, "max_train_clips": 6, "per_device_train_batch_size": 2,
    }  # fmt: skip
    visual_initialing.train(stage1_flags(tmp_path / "whole", **values))
    shutil.copytree(tmp_path / "whole" / f"checkpoint-{step}", tmp_path / "resumed" / f"checkpoint-{step}")
    visual_initialing.train(stage1_flags(tmp_path / "resumed", **values, resume_from_checkpoint="last"))
    whole = load_file(tmp_path / "whole" / "model.safetensors")
    resumed = load_file(tmp_path / "resumed" / "model.safetensors")
    assert whole.keys() == resumed.keys() and not moved(whole, resumed)
    assert moved(whole, load_file(tmp_path / "whole" / f"checkpoint-{step}" / "model.safetensors"))
    assert log_of(tmp_path / "resumed", "loss") == log_of(tmp_path / "whole", "loss")


# LoRA


@pytest.fixture(scope="module")
def lora_run(tmp_path_factory) -> tuple[Path, dict[str, Any]]:
    """Folder of a run with LoRA, its model's weights before and after it, and its output before merging."""
    folder = tmp_path_factory.mktemp("lora") / "run"
    kept: dict[str, Any] = {}

    def build(*arguments):
        model, processor = _original_build(*arguments)
        make_talkative(model, processor.tokenizer)
        kept["before"] = copy_of_weights(model)
        return model, processor

    class KeepingTrainer(training.FLaLLMTrainer):
        def save_state(self):
            super().save_state()
            if "after" in kept:  # the adapters are merged by then
                return
            kept["texts"] = translate(self.model, self.processing_class)
            kept["logits"] = logits_of(self.model, self.processing_class)
            kept["after"] = copy_of_weights(self.model)

    _original_build = llm_fine_tuning.build_model
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(llm_fine_tuning, "build_model", build)
        patch.setattr(training, "FLaLLMTrainer", KeepingTrainer)
        llm_fine_tuning.train(stage2_flags(folder, num_train_epochs=2, lora=True, lora_rank=4, bf16=False, **FAST))
    return folder, kept


def test_lora_trains_adapters_only(lora_run):
    _, kept = lora_run
    changed = moved(kept["before"], kept["after"])
    assert changed and all(".lora_" in name or ".modules_to_save." in name for name in changed)
    assert {name for name in kept["after"] if ".lora_" in name} <= changed
    assert any(".adapter.modules_to_save." in name for name in changed)
    assert any(".word_presence_head.modules_to_save." in name for name in changed)
    assert not any("vision_model" in name for name in changed)


def test_the_folder_of_a_lora_run_is_a_plain_model(lora_run):
    folder, kept = lora_run
    model, processor = load(folder)
    assert type(model) is FLaLLMForTranslation
    assert not any("lora" in name for name in model.state_dict())
    torch.testing.assert_close(logits_of(model, processor), kept["logits"], atol=1e-3, rtol=1e-4)
    assert translate(model, processor) == kept["texts"] and all(kept["texts"])


def test_the_lora_adapter_loads_on_its_base(lora_run):
    folder, kept = lora_run
    files = {path.name for path in (folder / "lora_adapter").iterdir()}
    assert {"adapter_model.safetensors", "adapter_config.json"} <= files
    assert not any(name.endswith((".bin", ".pt")) for name in files)
    processor = FLaLLMProcessor.from_pretrained(folder / "lora_adapter")
    of_base = PeftModel.from_pretrained(load(folder / "lora_base")[0], folder / "lora_adapter")
    by_itself = AutoModelForSeq2SeqLM.from_pretrained(folder / "lora_adapter").eval()  # finds the base
    for model in (of_base, by_itself):
        torch.testing.assert_close(logits_of(model, processor), kept["logits"], atol=1e-3, rtol=1e-4)
        assert translate(model, processor) == kept["texts"]


def test_the_base_of_a_lora_run_is_the_model_before_it(lora_run):
    folder, kept = lora_run
    base = load(folder / "lora_base")[0].state_dict()
    assert not any("lora" in name for name in base)
    for name, value in kept["before"].items():
        name = name.removeprefix("base_model.model.").replace(".base_layer.", ".")
        name = name.replace(".modules_to_save.default.", ".")
        if name in base:
            torch.testing.assert_close(base.pop(name), value, msg=name)
    assert not base
