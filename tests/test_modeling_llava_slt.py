"""LLaVA-SLT: padding, caches, generation, freezing, saving, contrastive pretraining, wrong input."""

import copy
import inspect
import math
import re
from datetime import timedelta

import pytest
import torch
import torch.distributed as distributed
from test_visual_encoder import state_of, with_garbage_in_the_padding
from tiny_corpus import copy_of_weights
from tiny_models import (
    END,
    PAD,
    VIDEO_TOKEN,
    every_language_model,
    let_windows_mix,
    random_batch,
    random_prompts,
    tiny_config,
    tiny_contrastive_model,
    tiny_language_model_config,
    tiny_llava_slt,
    tiny_text_config,
    tiny_visual_config,
)
from torch.testing import assert_close
from transformers import AutoModelForCausalLM, GenerationConfig, Qwen2Config, ViTConfig
from transformers.modeling_layers import GradientCheckpointingLayer

from modeling_flallm import (
    FLaLLMForTranslation,
    LlavaSltConfig,
    LlavaSltForContrastivePreTraining,
    LlavaSltForTranslation,
    LlavaSltVisualConfig,
    LlavaSltVisualEncoder,
)

VIDEO = ("pixel_values_videos", "pixel_attention_mask")
PROMPT = ("input_ids", "attention_mask")


def row_of(batch: dict[str, torch.Tensor], row: int) -> dict[str, torch.Tensor]:
    """One row of a batch without any padding."""
    real_tokens, real_frames = batch["attention_mask"][row].bool(), batch["pixel_attention_mask"][row].bool()
    names = [name for name in (*PROMPT, "labels") if name in batch]
    alone = {name: batch[name][row : row + 1, real_tokens] for name in names}
    return alone | {name: batch[name][row : row + 1, real_frames] for name in VIDEO}


def visual_features_of(model: LlavaSltForTranslation, batch: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """The same batch with the visual encoder's output in place of the pixels."""
    with torch.no_grad():
        output = model.vision_model(**{name: batch[name] for name in VIDEO})
    features = {"visual_features": output.last_hidden_state, "visual_attention_mask": output.attention_mask}
    return {name: value for name, value in batch.items() if name not in VIDEO} | features


def without_end(tokens: torch.Tensor) -> list[int]:
    """Tokens of one sequence up to its end token."""
    tokens = tokens.tolist()
    return tokens[: tokens.index(END) + 1] if END in tokens else tokens


# ------------------------------------------------------------------------------------------ translation


@every_language_model
def test_a_row_does_not_depend_on_its_batch(name):
    model, batch = tiny_llava_slt(name), random_prompts([9, 4, 7])
    with torch.no_grad():
        logits = model(**batch).logits
        for row in range(3):
            alone = model(**row_of(batch, row)).logits[0]
            assert_close(logits[row, -len(alone) :], alone, atol=1e-4, rtol=1e-4)
    assert (logits[0, -1] - logits[1, -1]).abs().max() > 1e-2


@every_language_model
def test_generation_is_that_of_each_row_alone_with_and_without_cache(name):
    """Token by token, without cache and padding, the largest logit gives the same sentences."""
    model, batch = tiny_llava_slt(name), random_prompts([9, 4])
    together = model.generate(**batch, max_new_tokens=5)
    for row in range(2):
        written, alone = [], row_of(batch, row)
        while len(written) < 5 and END not in written:
            tokens = torch.cat([alone["input_ids"], torch.tensor([written], dtype=torch.long)], 1)
            video = {key: alone[key] for key in VIDEO}
            with torch.no_grad():
                logits = model(input_ids=tokens, **video, use_cache=False).logits[0, -1]
            logits[VIDEO_TOKEN] = -torch.inf
            written.append(int(logits.argmax()))
        assert without_end(together[row]) == written


@every_language_model
def test_beams_do_not_depend_on_the_batch_and_encode_each_video_once(name, monkeypatch):
    model, batch = tiny_llava_slt(name), random_prompts([5, 9])
    num_clips = []
    forward = LlavaSltVisualEncoder.forward

    def counted(self, pixels, mask=None):
        num_clips.append(len(pixels))
        return forward(self, pixels, mask)

    monkeypatch.setattr(LlavaSltVisualEncoder, "forward", counted)
    beams = model.generate(**batch, num_beams=3, num_return_sequences=2, max_new_tokens=5)
    assert beams.shape[0] == 4 and num_clips == [2]
    for row in range(2):
        alone = model.generate(**row_of(batch, row), num_beams=3, num_return_sequences=2, max_new_tokens=5)
        assert [*map(without_end, alone)] == [*map(without_end, beams[2 * row : 2 * row + 2])]


def test_scores_of_generation_and_sampling():
    model, batch = tiny_llava_slt("gpt2"), random_prompts([5, 9])
    output = model.generate(**batch, return_dict_in_generate=True, output_scores=True, max_new_tokens=4, min_length=4)
    assert output.sequences.shape == (2, 4) and len(output.scores) == 4
    scores = model.compute_transition_scores(output.sequences, output.scores, normalize_logits=True)
    assert (scores <= 0).all() and scores.isfinite().all()
    sampled = model.generate(**batch, do_sample=True, num_return_sequences=20, max_new_tokens=6, temperature=3.0)
    assert VIDEO_TOKEN not in sampled and len({tuple(row) for row in sampled.tolist()}) > 2


def test_the_placeholder_is_never_written():
    model, batch = tiny_llava_slt("llama"), random_prompts([5, 9])
    with torch.no_grad():
        embeddings = model.language_model.get_output_embeddings()
        embeddings.bias = torch.nn.Parameter(torch.zeros(embeddings.weight.shape[0]))
        embeddings.bias[[VIDEO_TOKEN, END]] = 1e4
    for settings in ({}, {"num_beams": 2}, {"do_sample": True}):
        tokens = model.generate(**batch, **settings, suppress_tokens=[END])
        assert VIDEO_TOKEN not in tokens and END not in tokens


def test_lengths_count_new_tokens_alone():
    model, batch = tiny_llava_slt("qwen2"), random_prompts([9, 5])
    suppress_end = {"suppress_tokens": [END]}
    assert model.generate(**batch, **suppress_end).shape == (2, 8)  # of the model's generation configuration
    assert model.generate(**batch, **suppress_end, max_length=3).shape == (2, 3)
    assert model.generate(**batch, **suppress_end, max_new_tokens=4).shape == (2, 4)
    assert model.generate(**batch, min_length=6).shape[1] >= 6
    config = copy.deepcopy(model.generation_config)
    config.update(max_length=2, suppress_tokens=[END])
    assert model.generate(**batch, generation_config=config).shape == (2, 2)
    assert config.max_length == 2 and model.generation_config.max_length == 8
    silent = GenerationConfig(suppress_tokens=[END])  # says nothing of lengths
    assert model.generate(**batch, generation_config=silent).shape == (2, 8)


def test_generation_takes_the_sentences_out_of_a_training_batch():
    model = tiny_llava_slt("xglm")
    batch = random_prompts([9, 4, 6], answer_lengths=[3, 6, 1])
    for row in range(3):
        alone = row_of(batch, row)
        is_prompt = alone["labels"][0] == -100
        prompt = {name: alone[name][:, is_prompt] for name in PROMPT} | {name: alone[name] for name in VIDEO}
        expected = model.generate(**prompt)[0]
        assert without_end(model.generate(**batch)[row]) == without_end(expected)


def test_the_loss_is_the_shifted_cross_entropy_of_the_sentences():
    model = tiny_llava_slt("gemma", label_smoothing=0.1)
    batch = random_prompts([9, 4, 6], answer_lengths=[3, 6, 2])
    inputs = {name: value for name, value in batch.items() if name != "labels"}
    log_probabilities = model(**inputs).logits[:, :-1].log_softmax(-1)
    is_label = batch["labels"][:, 1:] != -100
    taken = log_probabilities.gather(2, batch["input_ids"][:, 1:, None])[..., 0][is_label]
    output = model(**batch)
    assert_close(output.loss, -taken.mean())
    assert output.logits.shape[1] == 7  # no more than the loss needs: the longest sentence and the token before it
    assert_close(model(**batch, num_items_in_batch=5).loss, -taken.sum() / 5)
    smooth = -log_probabilities[is_label].mean()
    model.freeze_visual_encoder()
    assert_close(model.train()(**batch).loss, -0.9 * taken.mean() + 0.1 * smooth, atol=1e-4, rtol=1e-4)


def test_cached_features_give_the_same_loss_and_tokens_as_pixels():
    model = tiny_llava_slt("qwen3")
    batch = random_prompts([9, 4, 6], answer_lengths=[3, 6, 2])
    cached = visual_features_of(model, batch)
    assert_close(model(**cached).loss, model(**batch).loss)
    assert (model.generate(**cached) == model.generate(**batch)).all()


@every_language_model
def test_saved_and_loaded_models_give_equal_logits(name, tmp_path):
    model, batch = tiny_llava_slt(name), random_prompts([9, 4])
    model.save_pretrained(tmp_path)
    loaded = LlavaSltForTranslation.from_pretrained(tmp_path)
    with torch.no_grad():
        assert_close(loaded(**batch).logits, model(**batch).logits)
    assert loaded.generation_config.max_length == 8


@every_language_model
def test_connector_tuning_changes_nothing_but_the_connector(name):
    model = tiny_llava_slt(name, vision={"dropout": 0.5})
    model.freeze_for_connector_tuning()
    batch = random_prompts([9, 4, 6], answer_lengths=[3, 6, 2])
    before = copy_of_weights(model)
    buffers = {name: value.clone() for name, value in model.named_buffers()}
    trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
    optimizer = torch.optim.AdamW(trained, lr=0.1)
    losses = []
    for _ in range(4):
        model.train()
        losses.append(model(**batch).loss)
        losses[-1].backward()
        optimizer.step()
        optimizer.zero_grad()
    changed = {name for name, value in model.state_dict().items() if not torch.equal(value, before[name])}
    assert changed == {f"connector.{layer}.{part}" for layer in ("first", "second") for part in ("weight", "bias")}
    assert all(torch.equal(value, buffers[name]) for name, value in model.named_buffers())
    assert losses[-1] < losses[0]


@pytest.mark.slow
@pytest.mark.parametrize("device", ["cpu", pytest.param("cuda", marks=pytest.mark.gpu)])
def test_two_steps_at_real_size(device):
    """ResNet-18 at 224 px and a language model of the shape of Qwen2.5-0.5B: 516 million parameters."""
    language_model = Qwen2Config(
        vocab_size=151_936,
        hidden_size=896,
        intermediate_size=4864,
        num_hidden_layers=24,
        num_attention_heads=14,
        num_key_value_heads=2,
        tie_word_embeddings=True,
    )
    model = LlavaSltForTranslation(LlavaSltConfig(text_config=language_model, video_token_id=151_900)).to(device)
    model.freeze_for_connector_tuning()
    model.train()
    assert 0.51e9 < sum(parameter.numel() for parameter in model.parameters()) < 0.52e9
    prompt, sentence = [1, *[151_900] * 8, 2, 3], torch.randint(10, 100_000, (6,)).tolist()
    input_ids = torch.tensor([prompt + sentence], device=device)
    labels = torch.tensor([[-100] * len(prompt) + sentence], device=device)
    batch = {"input_ids": input_ids, "pixel_values_videos": torch.randn(1, 16, 3, 224, 224, device=device)}
    trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
    frozen = sum(parameter.double().sum() for parameter in model.language_model.parameters())
    optimizer = torch.optim.AdamW(trained, lr=1e-3)
    losses = []
    for _ in range(2):
        loss = model(**batch, labels=labels).loss
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        losses.append(float(loss))
    assert all(map(math.isfinite, losses)) and losses[1] != losses[0]
    assert sum(parameter.double().sum() for parameter in model.language_model.parameters()) == frozen
    assert {id(parameter) for parameter in trained} == {id(parameter) for parameter in model.connector.parameters()}


def test_frozen_parts_run_as_in_evaluation():
    model = tiny_llava_slt("gpt2", vision={"dropout": 0.5})
    for module in model.language_model.modules():
        if isinstance(module, torch.nn.Dropout):
            module.p = 0.5
    batch = random_prompts([9, 4], answer_lengths=[3, 6])
    expected = model(**batch).loss
    model.freeze_visual_encoder()
    assert not torch.isclose(model.train()(**batch).loss, expected)
    model.freeze_for_connector_tuning()
    for _ in range(2):
        assert_close(model.train()(**batch).loss, expected)


@pytest.mark.parametrize("name", ["llama", "gpt2"])
def test_gradient_checkpointing_gives_the_same_gradients(name):
    model = tiny_llava_slt(name).train()
    batch = random_prompts([9, 4], answer_lengths=[3, 6])
    state = state_of(model)
    model(**batch).loss.backward()
    expected = {name: value.grad.clone() for name, value in model.named_parameters() if value.grad is not None}
    statistics = state_of(model)
    model.load_state_dict(state)
    model.zero_grad()
    model.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": False})
    model(**batch).loss.backward()
    assert expected.keys() > {"connector.first.weight", "vision_model.word_level.windows.weight"}
    for name, value in model.named_parameters():
        if name in expected:
            assert_close(value.grad, expected[name], atol=1e-4, rtol=1e-3)
    assert_close(state_of(model), statistics)


@pytest.mark.parametrize("name", ["llama", "gpt2"])
def test_frozen_layers_are_checkpointed_and_have_no_dropout(name):
    model = tiny_llava_slt(name)
    for module in model.language_model.modules():
        if isinstance(module, torch.nn.Dropout):
            module.p = 0.5
    batch = random_prompts([9, 4], answer_lengths=[3, 6])
    model.freeze_for_connector_tuning()
    expected = loss_and_gradients(model.train(), batch)[0]
    calls = []
    layer = next(module for module in model.language_model.modules() if isinstance(module, GradientCheckpointingLayer))
    next(layer.children()).register_forward_hook(lambda *_: calls.append(1))
    model.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": False})
    assert_close(loss_and_gradients(model.train(), batch)[0], expected)
    assert len(calls) == 2  # forward, and again on the way back


def test_bfloat16_runs_and_is_close():
    model, batch = tiny_llava_slt("llama"), random_prompts([9, 4], answer_lengths=[3, 6])
    loss = model(**batch).loss
    model = model.to(torch.bfloat16)
    assert_close(model(**batch).loss, loss, atol=0.3, rtol=0.1)
    model.generate(**{name: value for name, value in batch.items() if name != "labels"})


@every_language_model
def test_it_is_put_together_from_stage_2_and_a_language_model(name, tmp_path):
    contrastive = tiny_contrastive_model()
    contrastive.save_pretrained(tmp_path / "stage2")
    language_model = AutoModelForCausalLM.from_config(tiny_language_model_config(name))
    language_model.save_pretrained(tmp_path / "stage1")
    folders = str(tmp_path / "stage2"), str(tmp_path / "stage1")
    model = LlavaSltForTranslation.from_vision_text_pretrained(*folders, video_token_id=VIDEO_TOKEN)
    assert not model.training and model.config.text_config.name_or_path == ""
    assert model.config.text_config._attn_implementation == language_model.config._attn_implementation
    assert_close(state_of(model.vision_model), state_of(contrastive.vision_model))
    assert_close(state_of(model.language_model), state_of(language_model))
    assert {parameter.device.type for parameter in model.parameters()} == {"cpu"}
    embeddings = model.get_input_embeddings()(torch.arange(VIDEO_TOKEN))
    outputs = model.connector(torch.randn(500, 16))
    assert 0.8 < outputs.square().mean().sqrt() / embeddings.square().mean().sqrt() < 1.25
    batch = random_prompts([9, 4])
    model.save_pretrained(tmp_path / "stage3")
    loaded = LlavaSltForTranslation.from_pretrained(tmp_path / "stage3")
    assert_close(loaded(**batch).logits, model(**batch).logits)
    again = LlavaSltForTranslation.from_vision_text_pretrained(
        str(tmp_path / "stage3"), folders[1], video_token_id=VIDEO_TOKEN, connector_hidden_size=7
    )
    assert again.connector.first.out_features == 7


def test_embeddings_grow_where_the_placeholder_has_no_row(tmp_path):
    tiny_contrastive_model().save_pretrained(tmp_path / "stage2")
    language_model = AutoModelForCausalLM.from_config(tiny_language_model_config("llama"))
    language_model.save_pretrained(tmp_path / "stage1")
    model = LlavaSltForTranslation.from_vision_text_pretrained(
        str(tmp_path / "stage2"), str(tmp_path / "stage1"), video_token_id=VIDEO_TOKEN + 1
    )
    assert model.get_input_embeddings().weight.shape[0] == model.config.text_config.vocab_size == VIDEO_TOKEN + 2
    batch = random_prompts([9, 4])
    batch["input_ids"][batch["input_ids"] == VIDEO_TOKEN] = VIDEO_TOKEN + 1
    model.save_pretrained(tmp_path / "stage3")
    assert_close(LlavaSltForTranslation.from_pretrained(tmp_path / "stage3")(**batch).logits, model(**batch).logits)


# ------------------------------------------------------------------------------------------ visual encoder


@pytest.mark.parametrize("window", [(4, 2), (5, 3), (1, 1), (8, 2)], ids=str)
def test_words_do_not_depend_on_padding(window):
    size, stride = window
    model = tiny_contrastive_model(vision={"word_window_size": size, "word_window_stride": stride}).vision_model
    batch = {name: value for name, value in random_batch([9, 1, 6, 7]).items() if name in VIDEO}
    with torch.no_grad():
        together = model(**with_garbage_in_the_padding(batch))
        for row, length in enumerate([9, 1, 6, 7]):
            alone = model(batch["pixel_values_videos"][row : row + 1, :length])
            num_words = model.get_num_tokens(length)
            assert num_words == -(-length // stride) == alone.last_hidden_state.shape[1]
            assert_close(together.last_hidden_state[row, :num_words], alone.last_hidden_state[0], atol=1e-4, rtol=1e-4)
            assert_close(together.pooler_output[row], alone.pooler_output[0], atol=1e-4, rtol=1e-4)
            assert (together.last_hidden_state[row, num_words:] == 0).all()
            assert together.attention_mask[row].sum() == num_words == together.attention_mask[row, :num_words].sum()


def test_the_layers_over_the_windows_begin_as_the_identity():
    with_layers = LlavaSltVisualEncoder(tiny_visual_config())
    without = LlavaSltVisualEncoder(tiny_visual_config(word_layers=0))
    without.load_state_dict(with_layers.state_dict(), strict=False)
    pixels = random_batch([6])["pixel_values_videos"]
    expected = without.eval()(pixels).last_hidden_state
    assert_close(with_layers.eval()(pixels).last_hidden_state, expected)
    let_windows_mix(with_layers)
    assert (with_layers(pixels).last_hidden_state - expected).abs().max() > 1e-3


def test_padded_frames_cost_no_work_and_enter_no_statistic():
    model = tiny_contrastive_model().vision_model.train()
    twin = copy.deepcopy(model)
    batch = {name: value for name, value in random_batch([6, 6]).items() if name in VIDEO}
    num_frames = []
    model.backbone.register_forward_pre_hook(lambda module, inputs: num_frames.append(len(inputs[0])))
    model(**with_garbage_in_the_padding(batch))
    twin(**batch)
    assert num_frames == [12]
    assert_close(state_of(model), state_of(twin))


def test_the_frozen_encoder_stays_as_it_is():
    model = tiny_contrastive_model(vision={"dropout": 0.5}).vision_model
    batch = {name: value for name, value in random_batch([6, 9]).items() if name in VIDEO}
    expected, before = model(**batch), state_of(model)
    model.freeze()
    output = model.train()(**batch)
    assert not output.last_hidden_state.requires_grad and not model.training
    assert_close(output.last_hidden_state, expected.last_hidden_state, atol=1e-4, rtol=1e-4)
    assert all(torch.equal(value, before[name]) for name, value in state_of(model).items())


def test_the_middle_of_a_window_is_where_the_pipeline_says():
    """A frame that changes moves the words whose windows hold it: those around it, at the distance of the stride."""
    sizes = {"word_window_size": 5, "word_window_stride": 2, "word_layers": 0}
    frames = {"backbone_width": 4, "hidden_size": 24, "temporal_blocks": ["K1"]}
    model = tiny_contrastive_model(vision={**sizes, "frame_config": frames}).vision_model
    pixels = random_batch([12])["pixel_values_videos"]
    other = pixels.clone()
    other[:, 6] += 1
    change = (model(other).last_hidden_state - model(pixels).last_hidden_state).abs().sum(2)[0]
    assert (change > 1e-4).nonzero().flatten().tolist() == [2, 3, 4]  # words around the frames 4, 6 and 8


# ------------------------------------------------------------------------------------------ contrastive pretraining


def contrastive_batch(model: LlavaSltForContrastivePreTraining, lengths: list[int]) -> dict[str, torch.Tensor]:
    batch = {name: value for name, value in random_batch(lengths).items() if name in VIDEO}
    batch["sentence_embeddings"] = torch.randn(len(lengths), model.config.sentence_target_size)
    batch["word_ids"] = torch.randint(0, model.config.word_vocabulary_size, (len(lengths), 4))
    batch["word_ids"][0, 2:] = -100
    return batch


def test_the_contrastive_loss_does_not_depend_on_padding():
    model = tiny_contrastive_model()
    batch = contrastive_batch(model, [6, 9, 4])
    output = model(**batch)
    padded = model(**{**batch, **with_garbage_in_the_padding({name: batch[name] for name in VIDEO})})
    batch["word_ids"] = torch.nn.functional.pad(batch["word_ids"], (0, 3), value=-100)
    for other in (padded, model(**batch)):
        assert_close((other.loss, other.word_loss), (output.loss, output.word_loss), atol=1e-4, rtol=1e-4)
    weight = model.config.word_alignment_weight
    assert_close(output.loss, output.sentence_loss + weight * output.word_loss)
    assert_close(output.video_embeddings.norm(dim=1), torch.ones(3))


def test_the_loss_of_sentences_is_the_symmetric_infonce():
    model = tiny_contrastive_model(word_alignment_weight=0.0)
    batch = contrastive_batch(model, [6, 9, 4])
    output = model(**{name: value for name, value in batch.items() if name != "word_ids"})
    logits = output.logits_per_video
    expected = -(logits.log_softmax(0).diag().mean() + logits.log_softmax(1).diag().mean()) / 2
    assert output.word_loss is None
    assert_close(output.loss, expected)
    sentences = torch.nn.functional.normalize(batch["sentence_embeddings"], dim=1)
    assert_close(logits, output.video_embeddings @ sentences.T / 0.07)


def test_the_loss_of_words_is_the_cross_entropy_of_the_set_of_words():
    model = tiny_contrastive_model()
    batch = contrastive_batch(model, [6, 1])
    batch["word_ids"] = torch.tensor([[3, 3, 5], [8, -100, -100]])
    vision_output = model.vision_model(**{name: batch[name] for name in VIDEO})
    expected = 0
    for row, words in enumerate([{3, 5}, {8}]):
        num_words = int(vision_output.attention_mask[row].sum())
        shown = model.word_projection(vision_output.last_hidden_state[row, :num_words])
        cosines = torch.nn.functional.cosine_similarity(shown[:, None], model.word_targets[None], dim=-1)
        scores = (10 * cosines - 6).exp().sum(0).log()
        present = torch.tensor([float(word in words) for word in range(9)])
        loss = torch.nn.functional.binary_cross_entropy_with_logits(scores, present, reduction="sum")
        expected = expected + loss / len(words) / 2
    assert_close(model(**batch).word_loss, expected, atol=1e-4, rtol=1e-4)


def test_bfloat16_leaves_the_contrastive_loss_in_float32():
    model = tiny_contrastive_model(memory_bank_size=3).train()
    batch = contrastive_batch(model, [6, 9, 4])
    expected = loss_after_backward(copy.deepcopy(model), batch)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        loss = loss_after_backward(copy.deepcopy(model), batch)
    assert loss.dtype == torch.float32
    assert_close(loss, expected, atol=0.3, rtol=0.1)
    assert_close(loss_after_backward(model.to(torch.bfloat16), batch), expected, atol=0.3, rtol=0.1)


def loss_after_backward(model: LlavaSltForContrastivePreTraining, batch: dict[str, torch.Tensor]) -> torch.Tensor:
    loss = model(**batch).loss
    loss.backward()
    return loss


def test_a_sentence_that_occurs_twice_is_no_negative():
    model = tiny_contrastive_model(word_alignment_weight=0.0)
    batch = contrastive_batch(model, [6, 9, 4])
    del batch["word_ids"]
    batch["sentence_embeddings"][2] = 3 * batch["sentence_embeddings"][0]  # of another length, but the same
    output = model(**batch)
    logits = output.logits_per_video.clone()
    logits[0, 2] = logits[2, 0] = -torch.inf
    own = torch.arange(3)
    expected = torch.nn.functional.cross_entropy(logits, own) + torch.nn.functional.cross_entropy(logits.T, own)
    assert_close(output.loss, expected / 2)


def test_the_memory_bank_holds_the_newest_sentences_as_negatives(tmp_path):
    model = tiny_contrastive_model(word_alignment_weight=0.0, memory_bank_size=5).train()
    seen = []
    for _ in range(3):
        batch = contrastive_batch(model, [4, 4])
        del batch["word_ids"]
        model(**batch)
        seen.append(torch.nn.functional.normalize(batch["sentence_embeddings"], dim=1))
    newest = torch.cat(seen)[-5:]
    assert all((model.memory_bank - sentence).abs().amax(1).min() < 1e-6 for sentence in newest)
    batch["sentence_embeddings"] = torch.randn(2, 12)
    batch["sentence_embeddings"][1] = newest[0]  # one of the bank: no negative
    model.save_pretrained(tmp_path)
    model = LlavaSltForContrastivePreTraining.from_pretrained(tmp_path)
    output = model(**batch)
    scale = 1 / 0.07
    of_bank = scale * output.video_embeddings @ newest.T
    of_bank[1, 0] = -torch.inf
    logits, own = output.logits_per_video, torch.arange(2)
    loss_of_videos = torch.nn.functional.cross_entropy(torch.cat([logits, of_bank], 1), own)
    assert_close(output.loss, (loss_of_videos + torch.nn.functional.cross_entropy(logits.T, own)) / 2)
    assert_close(model(**batch).loss, output.loss)  # evaluation remembers nothing


@pytest.mark.slow
def test_training_makes_retrieval_better():
    """12 clips in as many colours: after training each one's nearest sentence is its own."""
    model = tiny_contrastive_model(word_vocabulary_size=12).train()
    num_clips = 12
    colors = torch.stack(torch.meshgrid(*[torch.tensor([-1.5, 1.5])] * 3, indexing="ij"), -1).view(8, 3)
    colors = torch.cat([colors, colors[:4] / 3])
    pixels = colors[:, None, :, None, None].expand(num_clips, 4, 3, 16, 16).contiguous()
    batch = {
        "pixel_values_videos": pixels,
        "sentence_embeddings": torch.nn.functional.normalize(torch.randn(num_clips, 12), dim=1),
        "word_ids": torch.arange(num_clips)[:, None],
    }
    optimizer = torch.optim.AdamW(model.parameters(), lr=3e-3)
    losses = []
    for _ in range(80):
        output = model(**batch)
        losses.append((output.sentence_loss.item(), output.word_loss.item()))
        optimizer.zero_grad()
        output.loss.backward()
        optimizer.step()
    nearest = output.logits_per_video.argmax(1)
    assert (nearest == torch.arange(num_clips)).float().mean() >= 0.9
    assert losses[-1][0] < losses[0][0] / 2 and losses[-1][1] < losses[0][1] / 2


def test_videos_alone_give_embeddings_for_retrieval():
    model = tiny_contrastive_model()
    batch = contrastive_batch(model, [6, 9])
    output = model(**{name: batch[name] for name in VIDEO})
    assert output.loss is None
    assert_close(output.video_embeddings, model(**batch).video_embeddings)


def loss_and_gradients(model, batch) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
    loss = model(**batch).loss
    loss.backward()
    return loss.detach(), {name: parameter.grad for name, parameter in model.named_parameters()}


def train_in_process(rank: int, folder: str) -> None:
    """One step with this process's share of the batch, 2 clips or 1; its loss, gradients and bank go to a file."""
    torch.set_num_threads(1)
    distributed.init_process_group(
        "gloo", f"file://{folder}/rendezvous", timeout=timedelta(seconds=60), rank=rank, world_size=2
    )
    model = LlavaSltForContrastivePreTraining.from_pretrained(f"{folder}/model").train()
    batch = torch.load(f"{folder}/batch.pt", weights_only=True)
    own = slice(0, 2) if rank == 0 else slice(2, 3)
    loss, gradients = loss_and_gradients(model, {name: value[own] for name, value in batch.items()})
    for gradient in gradients.values():
        distributed.all_reduce(gradient)
    averaged = {name: gradient / 2 for name, gradient in gradients.items()}
    torch.save({"loss": loss, "gradients": averaged, "bank": model.memory_bank}, f"{folder}/result_{rank}.pt")
    distributed.destroy_process_group()


@pytest.mark.slow
def test_two_processes_train_what_one_would(tmp_path):
    # In float64: gradients of random weights are large, and rounding would tip a ReLU here and there.
    model = tiny_contrastive_model(memory_bank_size=4, word_alignment_weight=1.0).double()
    model.save_pretrained(tmp_path / "model")
    batch = contrastive_batch(model, [6, 6, 4])
    torch.save(batch, tmp_path / "batch.pt")
    torch.multiprocessing.spawn(train_in_process, (str(tmp_path),), nprocs=2)
    loss, gradients = loss_and_gradients(model.train(), batch)
    for rank in range(2):
        result = torch.load(tmp_path / f"result_{rank}.pt", weights_only=True)
        assert_close(result["loss"], loss, atol=1e-5, rtol=1e-5)
        assert_close(result["bank"], model.memory_bank)
        for name, gradient in gradients.items():
            assert_close(result["gradients"][name], gradient, atol=1e-3, rtol=1e-3)


# ------------------------------------------------------------------------------------------ wrong input


def error_texts(wrong):
    return pytest.raises(ValueError, match=re.escape(wrong))


def test_wrong_inputs_of_the_translation_model():
    model, batch = tiny_llava_slt("llama"), random_prompts([9, 4])
    cached = visual_features_of(model, batch)
    prompt = {name: batch[name] for name in PROMPT}
    for call in (model, model.generate):
        with error_texts("Pass exactly one of `pixel_values_videos` and `visual_features`."):
            call(**prompt)
        with error_texts("Pass exactly one of `pixel_values_videos` and `visual_features`."):
            call(**batch, visual_features=cached["visual_features"])
        with error_texts("Each prompt needs one video, got 1 prompts, 2 videos."):
            call(**{**batch, **{name: value[:1] for name, value in prompt.items()}})
        with error_texts("`visual_features` must have the shape (batch, words, 16), got (2, 5, 15)."):
            call(**{**cached, "visual_features": cached["visual_features"][..., 1:]})
        with error_texts("`visual_attention_mask` must have the shape (batch, words) = (2, 5), got (2, 4)."):
            call(**{**cached, "visual_attention_mask": cached["visual_attention_mask"][:, 1:]})
        with error_texts("Pass `input_ids`, the prompt with a placeholder for each word-like token."):
            call(**{name: batch[name] for name in VIDEO})
        fewer = batch["input_ids"].masked_fill(batch["input_ids"] == VIDEO_TOKEN, PAD)
        with error_texts(
            f"Prompt 0 of the batch has 0 placeholders (token {VIDEO_TOKEN}), but its video gives 5 word-like tokens. "
            "LlavaSltProcessor writes one for each, if its `word_window_stride` is the model's, 2, and the prompt is "
            "not truncated."
        ):
            call(**{**batch, "input_ids": fewer})
    num_tokens = batch["input_ids"].shape[1]
    with error_texts(f"`labels` must have a column for each of the {num_tokens} input tokens, got {num_tokens - 1}."):
        model(**batch, labels=batch["input_ids"][:, 1:])


@pytest.mark.parametrize("name", ["gpt2", "opt"])
def test_learned_positions_end(name):
    model = tiny_llava_slt(name)
    too_long, longest = random_prompts([121]), random_prompts([117])
    with error_texts(
        f"Prompt, video and sentence have 65 tokens, but the language model '{name}' takes at most 64. Lower "
        "`max_num_frames` or `frame_sampling_rate` of the video processor or `max_new_tokens`, or cut the video"
    ):
        model(**too_long)
    with error_texts(f"have 66 tokens, but the language model '{name}' takes at most 64."):
        model.generate(**too_long)
    assert model.get_max_num_tokens() == 64
    # 59 placeholders and 4 other tokens leave room for one.
    assert model.generate(**longest, suppress_tokens=[END]).shape == (1, 1)
    assert model.generate(**longest, suppress_tokens=[END], max_new_tokens=9).shape == (1, 1)


@pytest.mark.parametrize("name", ["llama", "xglm"])
def test_other_positions_do_not_end(name):
    model = tiny_llava_slt(name)
    assert model.get_max_num_tokens() is None
    assert model.generate(**random_prompts([121]), suppress_tokens=[END], max_new_tokens=3).shape == (1, 3)


def test_wrong_text_models(tmp_path):
    expected = "The text model of LLaVA-SLT must be a causal language model (Llama, Qwen, Gemma, GPT-2, ...), got "
    with error_texts(expected + "none."):
        LlavaSltConfig(video_token_id=1)
    with error_texts(expected + "model type 'mbart', an encoder-decoder. For these there is FLa-LLM: "):
        LlavaSltConfig(text_config=tiny_text_config("mbart"), video_token_id=1)
    with error_texts(expected + "model type 'nothing', which is none."):
        LlavaSltConfig(text_config={"model_type": "nothing"}, video_token_id=1)
    with error_texts(expected + "model type 'vit', which is none."):
        no_text_model = ViTConfig(vocab_size=40, hidden_size=8)
        LlavaSltForTranslation(LlavaSltConfig(text_config=no_text_model, video_token_id=1))
    for wrong in (40, -1, None):
        with error_texts(
            "`video_token_id` must be the id of the placeholder token, from 0 to 39 (the language model has 40 token "
            f"embeddings), got {wrong}."
        ):
            LlavaSltConfig(text_config=tiny_language_model_config("llama"), video_token_id=wrong)
    tiny_contrastive_model().save_pretrained(tmp_path)
    load = LlavaSltForTranslation.from_vision_text_pretrained
    with error_texts(expected + "model type 'llava_slt_contrastive'"):
        load(str(tmp_path), str(tmp_path), video_token_id=1)
    FLaLLMForTranslation(tiny_config()).text_model.save_pretrained(tmp_path / "mbart")
    with error_texts(expected + "model type 'mbart'"):
        load(str(tmp_path), str(tmp_path / "mbart"), video_token_id=1)
    with error_texts(f"Expected '{tmp_path}/nothing' to hold a visual encoder of LLaVA-SLT (a folder or Hub id"):
        load(f"{tmp_path}/nothing", str(tmp_path), video_token_id=1)
    language_model = tmp_path / "language_model"
    AutoModelForCausalLM.from_config(tiny_language_model_config("llama")).save_pretrained(language_model)
    with error_texts("got model type 'llama'. Train stage 2 first, or name its output folder."):
        load(str(language_model), str(language_model), video_token_id=1)


@pytest.mark.parametrize(
    ("values", "text"),
    [
        (
            {"frame_config": {"temporal_blocks": ["K5", "P2"]}},
            "The frame level must give one token per frame: `temporal_padding` 'zero' and no pooling in "
            "`temporal_blocks`, got 'zero' and ['K5', 'P2'].",
        ),
        ({"frame_config": {"temporal_padding": "none"}}, "got 'none' and ['K5']."),
        ({"word_window_size": 1}, "`word_window_size` 1 is smaller than `word_window_stride` 2"),
        ({"word_window_stride": 0}, "`word_window_stride` must be 1 or more, got 0."),
        ({"word_layers": -1}, "`word_layers` must be 0 or more, got -1."),
        ({"word_attention_heads": 7}, "`word_hidden_size` 512 must be a multiple of `word_attention_heads` 7."),
        ({"dropout": 1.0}, "`dropout` must be at least 0 and below 1, got 1.0."),
    ],
    ids=lambda value: next(iter(value)) if isinstance(value, dict) else "",
)
def test_wrong_visual_configurations(values, text):
    with error_texts(text):
        LlavaSltVisualConfig(**values)


def test_wrong_inputs_of_contrastive_pretraining():
    model = tiny_contrastive_model()
    batch = contrastive_batch(model, [4, 4])
    with error_texts("`sentence_embeddings` must have the shape (batch, sentence_target_size) = (2, 12), got (2, 11)."):
        model(**{**batch, "sentence_embeddings": batch["sentence_embeddings"][:, 1:]})
    with error_texts("The model has a word level: pass `word_ids` beside `sentence_embeddings`."):
        model(**{**batch, "word_ids": None})
    with error_texts("`word_ids` must have the shape (batch, words) with 2 rows, got (1, 4)."):
        model(**{**batch, "word_ids": batch["word_ids"][:1]})
    with error_texts("`word_ids` must be rows of the 9 word targets, or -100 for padding, got 9."):
        model(**{**batch, "word_ids": batch["word_ids"].fill_(9)})
    with error_texts("The word targets must have the shape (9, 10) (word_vocabulary_size, word_target_size), got"):
        model.set_word_targets(torch.zeros(9, 9))
    with error_texts("The model has no word level"):
        tiny_contrastive_model(word_vocabulary_size=0).set_word_targets(torch.zeros(9, 10))


def test_the_visual_encoder_has_the_contract_of_flallm(tmp_path):
    model = LlavaSltVisualEncoder(tiny_visual_config())
    assert model.config.hidden_size == 16
    assert model.get_num_tokens(torch.tensor([1, 2, 5])).tolist() == [1, 1, 3]
    model.frames_per_chunk = 3
    assert model.frame_encoder.frames_per_chunk == 3 == model.frames_per_chunk
    assert model.backbone is model.frame_encoder.backbone
    assert not any(
        parameter.kind is parameter.VAR_KEYWORD for parameter in inspect.signature(model.forward).parameters.values()
    )
    model.save_pretrained(tmp_path)
    assert_close(state_of(LlavaSltVisualEncoder.from_pretrained(tmp_path)), state_of(model))
