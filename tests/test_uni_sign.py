"""Uni-Sign: its configuration and model, both of its stages from the command line, and recognition as text."""

import functools
import json
import random
from pathlib import Path

import pytest
import torch
from pose_corpus import SENTENCES, pose_corpus
from tiny_corpus import RUN, causal_language_model, error_of, flags, language_model, log_of
from tiny_models import error_texts, random_pose_batch, tiny_config, tiny_text_config, tiny_uni_sign
from torch.testing import assert_close
from transformers import AutoModelForSeq2SeqLM, AutoTokenizer, pipeline
from without_our_packages import run_without_our_packages

from modeling_flallm import (
    FLaLLMConfig,
    FLaLLMForTranslation,
    UniSignConfig,
    UniSignForTranslation,
    UniSignPoseConfig,
)
from processing import FLaLLMProcessor, PoseFeatureExtractor
from train_scripts.commands import evaluate_model
from train_scripts.scores.recognition import edit_distance, recognition_scores
from train_scripts.stages import llm_fine_tuning, pose_pretraining, unified_fine_tuning, visual_language_tuning

SIZES = {"pose_widths": [8, 16], "pose_temporal_layers": 1, "pose_temporal_kernel_size": 3}
POSES = {"dataset": None, "frame_sampling_rate": 1.0, "num_beams": 1}
PROMPT = "Translate sign language video to {spoken_language}: "


def on_poses(**values):
    return {**RUN, **POSES, "dataset": pose_corpus(), **values}


# ------------------------------------------------------------------------------------------ configuration and model


def test_the_defaults_are_uni_signs():
    config = UniSignConfig()
    with torch.device("meta"):
        model = UniSignForTranslation(config)
    num_parameters = sum(parameter.numel() for parameter in model.parameters())
    if model.text_model.lm_head.weight is model.text_model.shared.weight:  # as transformers builds a new mT5
        num_parameters += model.text_model.lm_head.weight.numel()
    assert round(num_parameters / 1e6, 2) == 587.75  # as the published code logs it
    assert round(sum(parameter.numel() for parameter in model.adapter.parameters()) / 1e6, 2) == 0.79
    assert isinstance(config.vision_config, UniSignPoseConfig) and config.text_config.model_type == "mt5"
    assert (config.has_prompt, config.label_smoothing, model.main_input_name) == (True, 0.2, "pose_values")


def test_parts_without_a_model_type_are_uni_signs():
    values = {"d_model": 32, "d_kv": 8, "d_ff": 48, "num_layers": 1, "num_heads": 4, "vocab_size": 40}
    config = UniSignConfig(vision_config={"spatial_widths": [4, 8]}, text_config=values)
    assert (config.vision_config.hidden_size, config.text_config.model_type) == (32, "mt5")
    again = UniSignConfig.from_dict(config.to_dict())
    assert again.to_dict() == config.to_dict()
    with error_texts("The text model of FLa-LLM must be an encoder-decoder"):
        UniSignConfig(text_config=config)
    with error_texts("The text model of FLa-LLM must be an encoder-decoder"):
        FLaLLMConfig(text_config=config)


def test_the_linear_layer_starts_as_described():
    config = UniSignConfig(vision_config=UniSignPoseConfig(), text_config=tiny_text_config("mt5"))
    adapter = UniSignForTranslation(config).adapter
    assert 0.019 < adapter.first.weight.std() < 0.021 and not adapter.first.bias.any()
    tokens = torch.randn(3, 1024)
    assert_close(adapter(tokens), tokens @ adapter.first.weight.T + adapter.first.bias)


@pytest.mark.parametrize("text", ["mt5", "mbart"])
def test_it_trains_writes_and_loads(text, tmp_path):
    model = tiny_uni_sign(text)
    batch = {**random_pose_batch([9, 5, 2]), "prompt_ids": torch.randint(4, 30, (3, 4))}
    expected = model(**batch).logits
    inputs = {name: value for name, value in batch.items() if name != "labels"}
    assert len(model.generate(**inputs, num_beams=2, max_new_tokens=3)) == 3
    with error_texts("This model reads a prompt before the visual tokens"):
        model.generate(**random_pose_batch([9]))
    model.save_pretrained(tmp_path)
    for auto_class in (UniSignForTranslation, AutoModelForSeq2SeqLM):
        loaded = auto_class.from_pretrained(tmp_path)
        assert type(loaded) is UniSignForTranslation
        assert_close(loaded(**batch).logits, expected, atol=1e-5, rtol=1e-5)
    model.train()(**batch).loss.backward()
    assert all(parameter.grad is not None for parameter in model.parameters())


LOAD_WITHOUT_US = """
import sys
import torch
from transformers import AutoModelForSeq2SeqLM

folder = sys.argv[1]
model = AutoModelForSeq2SeqLM.from_pretrained(folder, trust_remote_code=True).eval()
torch.save(model(**torch.load(folder + "/batch.pt", weights_only=True)).logits, folder + "/logits.pt")
"""


@pytest.mark.slow
def test_it_loads_without_our_package(tmp_path):
    model = tiny_uni_sign()
    batch = {**random_pose_batch([9, 5, 2]), "prompt_ids": torch.randint(4, 30, (3, 4))}
    model.save_pretrained(tmp_path / "model")
    torch.save(batch, tmp_path / "model" / "batch.pt")
    run_without_our_packages(LOAD_WITHOUT_US, str(tmp_path / "model"), folder=tmp_path)
    logits = torch.load(tmp_path / "model" / "logits.pt", weights_only=True)
    assert_close(logits, model(**batch).logits.detach(), atol=1e-5, rtol=1e-5)


# ------------------------------------------------------------------------------------------ training


def pretrain(folder: Path, **values) -> Path:
    arguments = on_poses(
        text_model_name_or_path=language_model(), output_dir=folder, spoken_language="de", **{**SIZES, **values}
    )
    pose_pretraining.train(flags(**arguments))
    return folder


@pytest.mark.slow
def test_pretraining_then_fine_tuning(tmp_path):
    shared = {"keep_aspect_ratio": False, "max_num_frames": 12, "learning_rate": 1e-3}
    first = pretrain(tmp_path / "pretrained", max_steps=6, **shared)
    losses = log_of(first, "loss")
    assert len(losses) == 6 and losses[-1] < losses[0]
    processor = FLaLLMProcessor.from_pretrained(first)
    assert processor.prompt == PROMPT and processor.spoken_language == "German"
    extractor = processor.feature_extractor
    assert isinstance(extractor, PoseFeatureExtractor)
    assert (extractor.keep_aspect_ratio, extractor.max_num_frames, extractor.extractor) == (False, 12, "made by hand")
    before = UniSignForTranslation.from_pretrained(first)
    assert before.config.vision_config.hidden_size == 64 and before.config.has_prompt
    card = (first / "README.md").read_text()
    assert "[Uni-Sign](https://arxiv.org/abs/2501.15187)" in card and "follows the poses" in card

    fine_tuned = {"model_name_or_path": first, "output_dir": tmp_path / "fine_tuned", "max_steps": 2}
    arguments = on_poses(**fine_tuned, prompt="Glosses in {spoken_language}:", num_beams=3)
    del arguments["frame_sampling_rate"]
    scores = unified_fine_tuning.train(flags(**arguments))
    assert 0 <= scores["eval_bleu4"] <= 100
    after = UniSignForTranslation.from_pretrained(tmp_path / "fine_tuned")
    assert after.generation_config.num_beams == 3
    for name, value in after.named_parameters():
        assert not torch.equal(value, before.get_parameter(name)), name
    processor = FLaLLMProcessor.from_pretrained(tmp_path / "fine_tuned")
    extractor = processor.feature_extractor
    assert (extractor.keep_aspect_ratio, extractor.max_num_frames, extractor.frame_sampling_rate) == (False, 12, 1.0)
    assert (processor.prompt, processor.spoken_language) == ("Glosses in {spoken_language}:", "German")
    card = (tmp_path / "fine_tuned" / "README.md").read_text()
    assert "the pose encoder comes from stage 1" in card
    translator = pipeline("sign-language-translation", model=str(tmp_path / "fine_tuned"))
    assert isinstance(translator(str(pose_corpus() / "test/poses/0.safetensors"))["translation_text"], str)


@pytest.mark.slow
def test_it_learns_to_recognise(tmp_path):
    """Overfits twelve clips of four sentences, and writes the glosses of new clips with the same signs."""
    once = {"per_device_train_batch_size": 12, "word_presence_loss_weight": 1.0, "logging_steps": 50}
    last = {"eval_strategy": "no", "load_best_model_at_end": False, "save_strategy": "no"}
    folder = pretrain(tmp_path / "model", target="gloss", max_steps=220, learning_rate=2e-3, **once, **last)
    scores = json.loads((folder / "eval_results.json").read_text())
    assert scores["eval_accuracy"] >= 75 and scores["eval_wer"] <= 25
    run = {"device": "cpu", "disable_tqdm": True, "target": "gloss", "split": "test"}
    arguments = flags(model=folder, dataset=pose_corpus(), output_dir=tmp_path / "scores", **run)
    assert evaluate_model.main(arguments) == 0
    rows = [json.loads(line) for line in (tmp_path / "scores/predictions.jsonl").read_text().splitlines()]
    assert [row["reference"] for row in rows] == list(SENTENCES)
    scores = json.loads((tmp_path / "scores" / "scores.json").read_text())
    right = [row["prediction"] == row["reference"] for row in rows]
    assert scores["accuracy"] == 100 * sum(right) / 4 >= 75 and scores["wer"] <= 25, rows


def test_a_model_of_another_system_is_refused(tmp_path):
    model = FLaLLMForTranslation(tiny_config())
    model.save_pretrained(tmp_path)
    processor = FLaLLMProcessor(
        feature_extractor=PoseFeatureExtractor(), tokenizer=AutoTokenizer.from_pretrained(language_model())
    )
    processor.save_pretrained(tmp_path)
    with error_texts("must hold a whole Uni-Sign model, UniSignForTranslation, got FLaLLMForTranslation."):
        unified_fine_tuning.train(flags(**on_poses(model_name_or_path=tmp_path, output_dir=tmp_path / "new")))


def test_flags_that_are_missing_or_wrong_are_named(tmp_path, capsys):
    new = on_poses(output_dir=tmp_path / "new")
    text_model = {"text_model_name_or_path": language_model()}
    for main, values, text in (
        (pose_pretraining.main, {}, "`--text_model_name_or_path` is required."),
        (unified_fine_tuning.main, {}, "`--model_name_or_path` is required: the whole model that is fine-tuned."),
        (pose_pretraining.main, {**text_model, "prompt": " "}, "--prompt must be a text, got an empty one."),
        (pose_pretraining.main, {**text_model, "target": "word"}, "argument --target: invalid choice: 'word'"),
    ):
        assert text in error_of(main, flags(**new, **values), capsys)


def test_recognition_is_scored():
    assert recognition_scores(["A B", "C"], ["A B", "D C"]) == {"wer": 25.0, "accuracy": 50.0}
    assert recognition_scores(["a  b"], ["A B"]) == {"wer": 100.0, "accuracy": 0.0}
    assert recognition_scores(["a  b"], ["A B"], lowercase=True) == {"wer": 0.0, "accuracy": 100.0}
    assert recognition_scores([""], ["A B"]) == {"wer": 100.0, "accuracy": 0.0}
    with error_texts("Each prediction needs a reference, got 1 and 2."):
        recognition_scores(["A"], ["A", "B"])
    with error_texts("The references hold no gloss."):
        recognition_scores(["A"], [" "])


@pytest.mark.slow
@pytest.mark.parametrize(
    ("given", "wanted", "greater"), [(None, "wer", False), ("eval_wer", "wer", False), ("accuracy", "accuracy", True)]
)
def test_recognition_chooses_the_best_checkpoint(given, wanted, greater, tmp_path):
    named = {} if given is None else {"metric_for_best_model": given}
    folder = pretrain(tmp_path / "model", target="gloss", max_steps=2, eval_strategy="steps", eval_steps=1,
                      save_strategy="steps", save_steps=1, **named)  # fmt: skip
    state = json.loads((folder / "trainer_state.json").read_text())
    scores = [row[f"eval_{wanted}"] for row in state["log_history"] if f"eval_{wanted}" in row][:2]
    assert state["best_metric"] == (max(scores) if greater else min(scores))
    settings = json.loads((folder / "training_run.json").read_text())["settings"]
    values = {setting["name"]: setting["value"] for setting in settings}
    assert (values["target"], values["metric_for_best_model"]) == ("gloss", given or wanted)
    assert "pose_encoder" not in values and values["pose_widths"] == [8, 16]


def test_the_edit_distance_is_the_shortest_of_all_ways():
    """Against the definition, by recursion over the last items."""

    @functools.cache
    def naive(first, second):
        if not first or not second:
            return len(first) + len(second)
        ways = (naive(first[:-1], second) + 1, naive(first, second[:-1]) + 1)
        return min(*ways, naive(first[:-1], second[:-1]) + (first[-1] != second[-1]))

    for _ in range(50):
        first, second = ("".join(random.choices("ABC", k=random.randint(0, 6))) for _ in range(2))
        assert edit_distance(list(first), list(second)) == naive(first, second), (first, second)


# ------------------------------------------------------------------------------------------ poses in other systems


@pytest.mark.slow
def test_other_systems_take_poses(tmp_path):
    shared = on_poses(pose_encoder="uni_sign", **SIZES, max_steps=2)
    flallm = {"text_model_name_or_path": language_model(), "adapter_hidden_size": 20, "output_dir": tmp_path / "f"}
    llm_fine_tuning.train(flags(**shared, **flallm))
    llava = {"text_model_name_or_path": causal_language_model(), "output_dir": tmp_path / "l"}
    visual_language_tuning.train(flags(**shared, **llava))
    for name in "fl":
        assert json.loads((tmp_path / name / "config.json").read_text())["vision_config"]["spatial_widths"] == [8, 16]
        translator = pipeline("sign-language-translation", model=str(tmp_path / name))
        assert isinstance(translator(str(pose_corpus() / "test/poses/0.safetensors"))["translation_text"], str)
