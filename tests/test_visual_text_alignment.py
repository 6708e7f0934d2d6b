"""SpaMo's visual-text alignment: the contrast of clips and sentences in the loss, and the warm-up with it alone."""

import json
import math

import pytest
import torch
from safetensors.torch import load_file
from test_distributed_training import logged
from tiny_corpus import WITHOUT_EVALUATION, build_stage2, copy_of_weights, error_of, load, log_of, stage2_flags
from tiny_models import (
    END,
    PAD,
    START,
    error_texts,
    every_text_model,
    gradients_of,
    random_batch,
    tiny_config,
    tiny_model,
    tiny_text_config,
    tiny_vision_model,
    visual_features_of,
)
from torch import nn
from torch.testing import assert_close
from transformers import AutoModelForSeq2SeqLM
from two_processes import command_in_two_processes, in_two_processes

from modeling_flallm import FLaLLMConfig, FLaLLMForTranslation, FLaLLMVisionModel, losses_slt
from modeling_flallm.losses_slt import symmetric_contrast
from train_scripts.stages import llm_fine_tuning

ALIGNED = {"visual_text_alignment_weight": 2.0}


def random_embeddings(num_clips: int = 5, width: int = 6) -> tuple[torch.Tensor, torch.Tensor]:
    return tuple(nn.functional.normalize(torch.randn(num_clips, width), dim=-1) for _ in range(2))


def features_batch(model: FLaLLMForTranslation, lengths=(9, 5, 7, 8)) -> dict[str, torch.Tensor]:
    """Visual features, garbage in their padding, and labels that are all different."""
    batch = random_batch(list(lengths))
    features = visual_features_of(model, batch)
    padding = features["visual_attention_mask"][..., None] == 0
    features["visual_features"] = (features["visual_features"] + padding * 1e3).detach()
    return {**features, "labels": batch["labels"]}


def alignment_by_hand(model: FLaLLMForTranslation, batch: dict[str, torch.Tensor]) -> list[torch.Tensor]:
    """The loss of each clip, in a plain loop."""
    clips, sentences = [], []
    table = model.text_model.get_input_embeddings().weight.detach()
    special = {PAD, START, END, 0}
    for features, mask, labels in zip(
        batch["visual_features"], batch["visual_attention_mask"], batch["labels"], strict=True
    ):
        clip = model.adapter(features[mask == 1]).mean(0)
        words = [int(label) for label in labels if int(label) != -100 and int(label) not in special]
        sentence = torch.stack([table[word] for word in words]).mean(0)
        clips.append(clip / clip.norm())
        sentences.append(sentence / sentence.norm())
    scale = model.visual_text_alignment.logit_scale.exp()
    logits = torch.stack([torch.stack([scale * clip @ sentence for sentence in sentences]) for clip in clips])
    own = logits.diagonal()
    return list((logits.logsumexp(1) - own + logits.logsumexp(0) - own) / 2)


# ------------------------------------------------------------------------------------------ the loss


@every_text_model
def test_the_loss_equals_a_plain_loop(text):
    model = tiny_model(text, label_smoothing=0.1, **ALIGNED)
    batch = features_batch(model)
    num_labels = (batch["labels"] != -100).sum(1)
    losses = torch.stack(alignment_by_hand(model, batch))
    mean = (losses * num_labels).sum() / num_labels.sum()
    assert model(**batch).loss.isfinite()
    model.train()
    with_alignment = model(**batch).loss
    model.config.visual_text_alignment_weight = 0
    assert_close(with_alignment, model(**batch).loss + 2 * mean, atol=1e-4, rtol=1e-4)
    model.is_warming_up = True
    output = model(**batch)
    assert_close(output.loss, mean, atol=1e-4, rtol=1e-4)
    assert output.logits is None


def test_the_loss_of_evaluation_has_no_alignment():
    model = tiny_model("t5", **ALIGNED)
    batch = features_batch(model)
    aligned = model(**batch)
    model.config.visual_text_alignment_weight = 0
    assert torch.equal(aligned.loss, model(**batch).loss)
    model.is_warming_up = True  # an evaluation during the warm-up is that of the whole model
    assert torch.equal(aligned.loss, model(**batch).loss)


@pytest.mark.parametrize("is_warming_up", [False, True])
def test_padding_has_no_influence(is_warming_up):
    model = tiny_model("bart", **ALIGNED).double().train()
    model.is_warming_up = is_warming_up
    batch = features_batch(model)
    expected = model(**batch).loss
    longer = {
        "visual_features": nn.functional.pad(batch["visual_features"], (0, 0, 0, 3), value=-1e3),
        "visual_attention_mask": nn.functional.pad(batch["visual_attention_mask"], (0, 3)),
        "labels": nn.functional.pad(batch["labels"], (0, 4), value=-100),
    }
    assert_close(model(**longer).loss, expected, atol=1e-5, rtol=1e-5)


def test_each_accumulated_batch_is_contrasted_on_its_own_and_counts_by_its_label_tokens():
    model = tiny_model("t5", **ALIGNED).double().train()
    batch = features_batch(model)
    num_labels = (batch["labels"] != -100).sum()
    halves = [{name: values[rows] for name, values in batch.items()} for rows in (slice(0, 2), slice(2, 4))]
    model.is_warming_up = True
    total = sum(model(**half, num_items_in_batch=num_labels).loss for half in halves)
    each = [(model(**half).loss, (half["labels"] != -100).sum()) for half in halves]
    assert_close(total, sum(loss * count for loss, count in each) / num_labels)


def test_the_alignment_trains_the_visual_side_and_the_temperature_alone():
    model = tiny_model("mbart", **ALIGNED).double().train()
    model.is_warming_up = True
    model(**random_batch([9, 5, 7])).loss.backward()
    trained = {name.split(".")[0] for name in gradients_of(model)}
    assert trained == {"vision_model", "adapter", "visual_text_alignment"}
    assert all(gradient.abs().max() > 0 for gradient in gradients_of(model.adapter).values())
    assert model.visual_text_alignment.logit_scale.grad != 0


def test_the_contrast_learns():
    model = tiny_model("t5", **ALIGNED).train()
    model.is_warming_up = True
    batch = features_batch(model)
    optimizer = torch.optim.Adam([*model.adapter.parameters(), *model.visual_text_alignment.parameters()], lr=0.01)
    losses = []
    for _ in range(40):
        optimizer.zero_grad()
        loss = model(**batch).loss
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < losses[0] / 4


def test_equal_sentences_are_not_each_others_negatives():
    clips, sentences = random_embeddings()
    sentences[3] = sentences[1] + 1e-6
    scale = torch.tensor(10.0)
    losses = symmetric_contrast(clips, sentences, scale)
    rest = [0, 1, 2, 4]
    without = symmetric_contrast(clips[rest], sentences[rest], scale)
    assert_close(losses[1], without[1])  # clip 1 is as if clip 3 was not there
    logits = 10 * clips @ sentences.T
    assert_close(losses[0], (logits[0].logsumexp(0) + logits[:, 0].logsumexp(0)) / 2 - logits[0, 0])


def test_a_batch_of_one_clip_has_nothing_to_contrast_which_is_told_once(monkeypatch):
    told = []
    monkeypatch.setattr(losses_slt.logger, "warning_once", told.append)
    model = tiny_model("t5", **ALIGNED).train()
    model.is_warming_up = True
    batch = features_batch(model, (9,))
    loss = model(**batch).loss
    loss.backward()
    assert loss == 0 and all((gradient == 0).all() for gradient in gradients_of(model).values())
    assert told == [
        "The contrast of clips and sentences needs several clips, but a batch has only one: its loss is 0. Use larger "
        "batches (`per_device_train_batch_size`)."
    ]
    same = features_batch(model, (9, 7))
    same["labels"][1] = same["labels"][0]
    assert model(**same).loss == 0


def test_a_sentence_of_special_tokens_alone_gives_no_nan():
    model = tiny_model("t5", **ALIGNED).train()
    batch = features_batch(model)
    batch["labels"][1] = -100
    batch["labels"][1, 0] = END
    loss = model(**batch).loss
    loss.backward()
    assert loss.isfinite() and all(gradient.isfinite().all() for gradient in gradients_of(model).values())


@pytest.mark.parametrize("is_warming_up", [False, True])
def test_the_contrast_is_in_float32_under_autocast(is_warming_up):
    model = tiny_model("t5", **ALIGNED).train()
    model.is_warming_up = is_warming_up
    batch = features_batch(model)
    seen = []
    model.visual_text_alignment.register_forward_hook(lambda module, given, losses: seen.append((given, losses)))
    with torch.autocast("cpu", torch.bfloat16):
        loss = model(**batch).loss
    loss.backward()
    (given, losses) = seen[0]
    assert given[0].dtype == torch.bfloat16 and losses.dtype == torch.float32 and loss.isfinite()
    exact = model.visual_text_alignment(*(each.float() if each.is_floating_point() else each for each in given))
    assert_close(losses, exact, atol=1e-5, rtol=1e-5)


def test_the_language_code_of_a_multilingual_model_is_no_word():
    model = tiny_model("mbart", **ALIGNED).train()
    model.is_warming_up = True
    batch = features_batch(model)
    words = {"labels": torch.tensor([[5, 6, END], [7, 8, END], [9, 10, END], [11, 12, END]])}
    expected = model(**{**batch, **words}).loss
    model.generation_config.forced_bos_token_id = 30
    coded = {"labels": torch.tensor([[5, 6, END, 30], [7, 8, END, 30], [9, 10, END, 30], [11, 12, END, 30]])}
    assert_close(model(**{**batch, **coded}).loss, expected)


# ------------------------------------------------------------------------------------------ several processes


def contrast_of_process(rank: int, clips: torch.Tensor, sentences: torch.Tensor, counts: list[int], folder: str):
    torch.distributed.init_process_group("gloo", f"file://{folder}/meet", rank=rank, world_size=len(counts))
    first = sum(counts[:rank])
    own = clips[first : first + counts[rank]].clone().requires_grad_()
    scale = torch.tensor(10.0, requires_grad=True)
    losses = symmetric_contrast(own, sentences[first : first + counts[rank]], scale)
    weights = torch.arange(1.0, 1 + len(clips))[first : first + counts[rank]]
    (losses * weights).sum().backward()
    torch.save([losses.detach(), own.grad, scale.grad], f"{folder}/{rank}.pt")
    torch.distributed.destroy_process_group()


@pytest.mark.slow
def test_processes_contrast_with_each_others_clips(tmp_path):
    clips, sentences = random_embeddings(5)
    sentences[4] = sentences[0]  # equal sentences of two processes
    whole = clips.clone().requires_grad_()
    scale = torch.tensor(10.0, requires_grad=True)
    expected = symmetric_contrast(whole, sentences, scale)
    (expected * torch.arange(1.0, 6)).sum().backward()
    in_two_processes(contrast_of_process, clips, sentences, [3, 2], str(tmp_path))
    parts = [torch.load(tmp_path / f"{rank}.pt", weights_only=True) for rank in range(2)]
    assert_close(torch.cat([part[0] for part in parts]), expected.detach())
    assert_close(torch.cat([part[1] for part in parts]), whole.grad)
    assert_close(parts[0][2] + parts[1][2], scale.grad)


# ------------------------------------------------------------------------------------------ the model


def test_the_temperature_exists_only_with_its_loss_and_starts_at_clips():
    assert not any("alignment" in name for name in tiny_model().state_dict())
    model = FLaLLMForTranslation(tiny_config(**ALIGNED))
    assert model.visual_text_alignment.logit_scale.item() == pytest.approx(math.log(1 / 0.07))


@pytest.mark.parametrize("value", [-1, math.inf, math.nan])
def test_weights_that_are_no_weights(value):
    with error_texts(f"`visual_text_alignment_weight` must be 0 or more, got {value}."):
        FLaLLMConfig(visual_text_alignment_weight=value)


def test_saved_and_loaded_with_its_temperature_and_put_together_from_parts(tmp_path):
    AutoModelForSeq2SeqLM.from_config(tiny_text_config("t5")).save_pretrained(tmp_path / "text")
    model = FLaLLMForTranslation.from_vision_text_pretrained(tiny_vision_model(), str(tmp_path / "text"), **ALIGNED)
    assert model.visual_text_alignment.logit_scale.item() == pytest.approx(math.log(1 / 0.07))
    model.visual_text_alignment.logit_scale.data.fill_(3.0)
    model.save_pretrained(tmp_path / "model")
    loaded = FLaLLMForTranslation.from_pretrained(tmp_path / "model")
    assert loaded.visual_text_alignment.logit_scale == 3 and loaded.config.visual_text_alignment_weight == 2
    FLaLLMVisionModel.from_pretrained(tmp_path / "model")  # of the whole it takes its part


# ------------------------------------------------------------------------------------------ training


def test_a_warm_up_needs_a_weight_and_an_end(tmp_path, capsys):
    text = error_of(llm_fine_tuning.main, stage2_flags(tmp_path / "a", alignment_warm_up_steps=2), capsys)
    assert text == (
        "--alignment_warm_up_steps 2 needs a --visual_text_alignment_weight above 0: the weight after the warm-up."
    )


@pytest.mark.slow
def test_a_warm_up_as_long_as_the_run_is_refused(tmp_path, capsys):
    argv = stage2_flags(tmp_path / "a", alignment_warm_up_steps=3, max_steps=3, **ALIGNED, **WITHOUT_EVALUATION)
    text = error_of(llm_fine_tuning.main, argv, capsys)
    assert text == (
        "--alignment_warm_up_steps 3 must be below the 3 steps of the run: the text model would learn nothing. Lower "
        "it, or train for longer."
    )


@pytest.mark.slow
@pytest.mark.parametrize("lora", [False, True], ids=["whole", "LoRA"])
def test_the_warm_up_trains_the_adapter_and_then_everything_also_after_resuming(lora, tmp_path, capsys):
    """Accumulated batches of cached features, in bfloat16, with a prompt and gradient checkpointing."""
    values = {
        "max_steps": 4, "alignment_warm_up_steps": 3, "save_steps": 2, "save_strategy": "steps", "lora": lora,
        "eval_strategy": "no", "load_best_model_at_end": False, "per_device_train_batch_size": 2, "bf16": True,
        "gradient_accumulation_steps": 2, "prompt": "the rain", "gradient_checkpointing": True, "cache_features": True,
        "feature_cache_dir": tmp_path / "cache", "learning_rate": 0.01, **ALIGNED,
    }  # fmt: skip
    llm_fine_tuning.train(stage2_flags(tmp_path / "run", **values))
    printed = capsys.readouterr().out
    assert printed.count("The warm-up ends after 3 steps") == 1
    assert "The loss has a visual-text alignment term with weight 2.0 (SpaMo's)." in printed
    losses = log_of(tmp_path / "run", "loss")
    assert len(losses) == 4 and losses[3] > losses[2]  # the cross entropy joins
    part = "adapter_model.safetensors" if lora else "model.safetensors"
    weights = [load_file(tmp_path / "run" / f"checkpoint-{step}" / part) for step in (2, 4)]
    started, _ = build_stage2(lora=lora, prompt="the rain", **ALIGNED)
    changed = {name for name in weights[0] if not torch.equal(weights[0][name], weights[1][name])}
    assert any("visual_text_alignment.logit_scale" in name for name in changed)
    assert any("text_model" in name for name in changed)  # by the one step behind the warm-up
    if not lora:
        before = copy_of_weights(started)
        names = {name for name in weights[0] if name.startswith("text_model")}
        assert names and not {name for name in names if not torch.equal(weights[0][name], before[name])}
    model, _ = load(tmp_path / "run")
    assert model.visual_text_alignment.logit_scale.item() != pytest.approx(math.log(1 / 0.07), abs=1e-6)
    again = {**values, "resume_from_checkpoint": tmp_path / "run" / "checkpoint-2"}
    llm_fine_tuning.train(stage2_flags(tmp_path / "run", **again))
    assert log_of(tmp_path / "run", "loss") == pytest.approx(losses, rel=1e-3)
    settings = json.loads((tmp_path / "run" / "training_run.json").read_text(encoding="utf-8"))["settings"]
    named = {setting["name"]: setting["value"] for setting in settings}
    expected = {"visual_text_alignment_weight": 2.0, "alignment_warm_up_steps": 3, "prompt": "the rain"}
    assert named | expected == named
    assert "The visual-text alignment is SpaMo's" in (tmp_path / "run" / "README.md").read_text(encoding="utf-8")


@pytest.mark.slow
def test_two_processes_train_as_one(tmp_path):
    values = {
        "max_steps": 4, "alignment_warm_up_steps": 2, "learning_rate": 0.003, "label_smoothing": 0.1,
        "gradient_checkpointing": True, **ALIGNED, **WITHOUT_EVALUATION,
    }  # fmt: skip
    llm_fine_tuning.train(stage2_flags(tmp_path / "one", **values, per_device_train_batch_size=4))
    arguments = stage2_flags(tmp_path / "two", **values, per_device_train_batch_size=2)
    command_in_two_processes("stages.llm_fine_tuning", arguments)
    losses, others = logged(tmp_path / "one")[0], logged(tmp_path / "two")[0]
    assert len(losses) == 4 and others[:2] == pytest.approx(losses[:2], rel=1e-4)
    assert others == pytest.approx(losses, rel=1e-2)
