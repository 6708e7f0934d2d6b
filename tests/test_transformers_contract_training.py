"""External code trains and evaluates our models: transformers' own Trainer with our collator, and peft."""

import runpy
import sys
from pathlib import Path

import pytest
import torch
from peft import LoraConfig, get_peft_model
from tiny_corpus import corpus, trained_llava_slt, trained_model
from tiny_models import random_batch, random_prompts, tiny_llava_slt, tiny_model, video_of
from transformers import AutoModel, AutoProcessor, TrainerState

SCRIPT = Path(__file__).resolve().parent.parent / "docs" / "train_without_our_scripts.py"
FOLDERS = {"FLa-LLM": trained_model, "LLaVA-SLT": trained_llava_slt}


def test_the_script_needs_nothing_of_train_scripts():
    text = SCRIPT.read_text(encoding="utf-8")
    assert "train_scripts" not in text.split('"""', 2)[2] and "tests" not in text


@pytest.mark.slow
@pytest.mark.parametrize("system", FOLDERS)
def test_the_trainer_of_transformers_trains_and_evaluates(system, tmp_path, monkeypatch):
    monkeypatch.setenv("ACCELERATE_USE_CPU", "true")
    folder, output_dir = FOLDERS[system](), tmp_path / "fine_tuned"
    monkeypatch.setattr(sys, "argv", [str(SCRIPT), str(folder), str(corpus()), str(output_dir)])
    runpy.run_path(str(SCRIPT))
    last = max(output_dir.glob("checkpoint-*"), key=lambda path: int(path.name.rpartition("-")[2]))
    log = TrainerState.load_from_json(str(last / "trainer_state.json")).log_history
    evaluations = [entry for entry in log if "eval_loss" in entry]
    # The checkpoint of the last step is written before the third.
    assert len(evaluations) == 2 and all(entry["eval_bleu"] >= 0 for entry in evaluations)
    assert evaluations[-1]["eval_loss"] < evaluations[0]["eval_loss"]
    before, model = AutoModel.from_pretrained(folder), AutoModel.from_pretrained(output_dir)
    assert all(
        torch.equal(value, dict(before.vision_model.named_parameters())[name])
        for name, value in model.vision_model.named_parameters()
    )
    processor = AutoProcessor.from_pretrained(output_dir)
    clip = sorted((corpus() / "test").glob("*.mp4"))[0]
    assert len(processor.batch_decode(model.generate(**processor(videos=str(clip), return_tensors="pt")))) == 1


@pytest.mark.parametrize(
    ("make", "inputs", "task_type"),
    [
        (tiny_model, random_batch, "SEQ_2_SEQ_LM"),
        (tiny_llava_slt, lambda lengths: random_prompts(lengths, answer_lengths=[3, 5]), "CAUSAL_LM"),
    ],
    ids=["FLa-LLM", "LLaVA-SLT"],
)
def test_peft_wraps_a_model_by_its_task_type(make, inputs, task_type):
    model, batch = make(), inputs([9, 6])
    expected = model(**batch).loss
    config = LoraConfig(task_type=task_type, target_modules=["q_proj", "v_proj"], r=2)
    adapted = get_peft_model(model, config)
    loss = adapted(**batch).loss
    torch.testing.assert_close(loss, expected)
    loss.backward()
    trained = [name for name, value in adapted.named_parameters() if value.requires_grad]
    assert trained and all("lora_" in name for name in trained)
    prompt = random_prompts([9, 6]) if task_type == "CAUSAL_LM" else video_of(batch)
    assert len(adapted.generate(**prompt, max_new_tokens=3)) == 2
