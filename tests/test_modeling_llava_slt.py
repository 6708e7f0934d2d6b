"""LLaVA-SLT's translation model: padding, caches, generation, freezing, saving, wrong input."""

import copy
import inspect
import logging
import math

import pytest
import torch
import transformers
from packaging.version import Version
from tiny_corpus import copy_of_weights
from tiny_models import (
    END,
    PAD,
    VIDEO,
    VIDEO_TOKEN,
    error_texts,
    every_language_model,
    loss_and_gradients,
    random_prompts,
    state_of,
    tiny_config,
    tiny_contrastive_model,
    tiny_language_model_config,
    tiny_llava_slt,
    tiny_text_config,
)
from torch.testing import assert_close
from transformers import AutoModelForCausalLM, DynamicCache, GenerationConfig, LlamaForCausalLM, Qwen2Config, ViTConfig
from transformers.modeling_layers import GradientCheckpointingLayer

from modeling_flallm import (
    FLaLLMForTranslation,
    LlavaSltConfig,
    LlavaSltForTranslation,
    LlavaSltVisualEncoder,
)

PROMPT = ("input_ids", "attention_mask")
# Names of the cache: of the installed transformers, and from before 5.24, which is accepted until 5.40.
CACHE_NAMES = {"cache", "past_key_values"} & set(inspect.signature(LlamaForCausalLM.forward).parameters)
if Version(transformers.__version__) < Version("5.40"):
    CACHE_NAMES.add("past_key_values")
every_cache_name = pytest.mark.parametrize(
    "cache_name",
    [
        pytest.param(name, marks=pytest.mark.filterwarnings(f"ignore:`{name}` is deprecated"))
        for name in sorted(CACHE_NAMES)
    ],
)


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


def num_new_tokens(arguments: dict[str, torch.Tensor]) -> int:
    """Tokens that a language model gets in one pass, as ids or as embeddings."""
    ids, embeddings = arguments.get("input_ids"), arguments.get("inputs_embeds")
    return (ids if embeddings is None else embeddings).shape[1]


def without_end(tokens: torch.Tensor) -> list[int]:
    """Tokens of one sequence up to its end token."""
    tokens = tokens.tolist()
    return tokens[: tokens.index(END) + 1] if END in tokens else tokens


def exact_model(name: str) -> LlavaSltForTranslation:
    """In double precision, so that rounding decides no close race of two tokens. That of XGLM overflows in double."""
    model = tiny_llava_slt(name)
    return model if name == "xglm" else model.double()


# ------------------------------------------------------------------------------------------ translation


@every_language_model
def test_a_row_does_not_depend_on_its_batch(name):
    model, batch = exact_model(name), random_prompts([9, 4, 7])
    with torch.no_grad():
        logits = model(**batch).logits
        for row in range(3):
            alone = model(**row_of(batch, row)).logits[0]
            assert_close(logits[row, -len(alone) :], alone, atol=1e-4, rtol=1e-4)
    assert (logits[0, -1] - logits[1, -1]).abs().max() > 1e-2


@every_language_model
def test_generation_is_that_of_each_row_alone_with_and_without_cache(name):
    """Token by token, without cache and padding, the largest logit gives the same sentences."""
    model, batch = exact_model(name), random_prompts([9, 4])
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


def best_without_cache(
    model: LlavaSltForTranslation, prompt: dict[str, torch.Tensor], num_beams: int, length: int
) -> list[int]:
    """The first tokens of a beam search for one clip, in which each pass starts again from the video."""
    beams: list[tuple[list[int], float]] = [([], 0.0)]
    for _ in range(length):
        longer = []
        for tokens, score in beams:
            input_ids = torch.cat([prompt["input_ids"], torch.tensor([tokens], dtype=torch.long)], 1)
            with torch.no_grad():
                logits = model(input_ids, **{name: prompt[name] for name in VIDEO}, use_cache=False).logits[0, -1]
            scores = logits.log_softmax(0)
            scores[[VIDEO_TOKEN, END]] = -torch.inf
            longer += [
                ([*tokens, token], score + float(scores[token])) for token in scores.topk(num_beams).indices.tolist()
            ]
        beams = sorted(longer, key=lambda beam: -beam[1])[:num_beams]
    return beams[0][0]


@every_language_model
@pytest.mark.parametrize("num_beams", [1, 3], ids=["greedy", "beams"])
def test_a_cache_saves_work_and_changes_no_sentence(name, num_beams):
    model, batch = exact_model(name), random_prompts([9, 4])
    num_tokens: list[int] = []
    hook = model.language_model.register_forward_pre_hook(
        lambda module, arguments, named: num_tokens.append(num_new_tokens(named)), with_kwargs=True
    )
    settings = {"num_beams": num_beams, "max_new_tokens": 5, "suppress_tokens": [END]}
    written = model.generate(**batch, **settings)
    assert num_tokens == [batch["input_ids"].shape[1], 1, 1, 1, 1]
    hook.remove()
    assert written.tolist() == [best_without_cache(model, row_of(batch, row), num_beams, 5) for row in range(2)]
    assert torch.equal(model.generate(**batch, **settings, use_cache=False), written)


@every_language_model
@every_cache_name
def test_a_forward_pass_goes_on_from_a_cache(name, cache_name):
    """A prompt, then two tokens, then one."""
    model, batch = exact_model(name), random_prompts([9, 4], answer_lengths=[3, 3])
    prompt = {key: value[:, :-3] if key in PROMPT else value for key, value in batch.items() if key != "labels"}
    cache = {cache_name: DynamicCache(config=model.language_model.config)}
    with torch.no_grad():
        expected = model(**{key: value for key, value in batch.items() if key != "labels"}, use_cache=False).logits
        logits = [model(**prompt, **cache, use_cache=True).logits]
        for tokens, mask in (
            (batch["input_ids"][:, -3:-1], batch["attention_mask"][:, :-1]),
            (batch["input_ids"][:, -1:], batch["attention_mask"]),
        ):
            logits.append(model(input_ids=tokens, attention_mask=mask, **cache, use_cache=True).logits)
    assert cache[cache_name].get_seq_length() == batch["input_ids"].shape[1]
    is_real = batch["attention_mask"].bool()
    assert_close(torch.cat(logits, 1)[is_real], expected[is_real], atol=1e-4, rtol=1e-4)


@every_cache_name
def test_tokens_in_a_cache_count_for_learned_positions(cache_name):
    model, prompt = tiny_llava_slt("gpt2"), random_prompts([117])
    cache = {cache_name: DynamicCache(config=model.language_model.config)}
    with torch.no_grad():
        assert model(**prompt, **cache, use_cache=True).logits.shape[1] == 63
        assert model(input_ids=torch.tensor([[5]]), **cache, use_cache=True).logits.shape[1] == 1
        with error_texts("Prompt, video and sentence have 65 tokens, but the language model 'gpt2' takes at most 64."):
            model(input_ids=torch.tensor([[5]]), **cache, use_cache=True)


@every_language_model
def test_beams_do_not_depend_on_the_batch_and_encode_each_video_once(name, monkeypatch):
    model, batch = exact_model(name), random_prompts([5, 9])
    num_clips = []
    forward = LlavaSltVisualEncoder.forward

    def counted(self, **clips):
        num_clips.append(len(clips["pixel_values_videos"]))
        return forward(self, **clips)

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


def test_asked_for_new_tokens_go_before_the_saved_length_without_a_warning(caplog, monkeypatch):
    monkeypatch.setattr(logging.getLogger("transformers"), "propagate", True)
    model, batch = tiny_llava_slt("qwen2"), random_prompts([9, 5])
    assert model.generate(**batch, suppress_tokens=[END], max_new_tokens=4).shape == (2, 4)
    config = GenerationConfig(suppress_tokens=[END], max_new_tokens=3)
    assert model.generate(**batch, generation_config=config).shape == (2, 3)
    assert model.generate(**batch, suppress_tokens=[END], max_new_tokens=4, max_length=3).shape == (2, 4)
    assert "max_length" not in caplog.text
    model.generation_config.max_new_tokens = 6
    assert model.generate(**batch, suppress_tokens=[END], max_new_tokens=4).shape == (2, 4)
    assert model.generate(**batch, suppress_tokens=[END]).shape == (2, 6)


def test_generation_takes_the_sentences_out_of_a_training_batch():
    model = exact_model("xglm")
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
    optimizer = torch.optim.AdamW(trained, lr=0.02)
    losses = []
    for _ in range(8):
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


# ------------------------------------------------------------------------------------------ wrong input


def test_wrong_inputs_of_the_translation_model():
    model, batch = tiny_llava_slt("llama"), random_prompts([9, 4])
    cached = visual_features_of(model, batch)
    prompt = {name: batch[name] for name in PROMPT}
    embeddings = model.embed_prompt(**{name: value for name, value in batch.items() if name != "attention_mask"})
    for video in ("pixel_values_videos", "visual_features"):
        with error_texts("Pass the video, or `inputs_embeds` that already contain it, not both."):
            model(inputs_embeds=embeddings, **{video: {**batch, **cached}[video]})
    for call in (model, model.generate):
        with error_texts("Pass exactly one of `pixel_values_videos` and `visual_features`."):
            call(**prompt)
        with error_texts("Pass exactly one of `pixel_values_videos` and `visual_features`."):
            call(**batch, visual_features=cached["visual_features"])
        with error_texts("Each prompt needs one video, got 1 prompts, 2 videos."):
            call(**{**batch, **{name: value[:1] for name, value in prompt.items()}})
        with error_texts("`visual_features` must have the shape (batch, features, 16), got (2, 5, 15)."):
            call(**{**cached, "visual_features": cached["visual_features"][..., 1:]})
        with error_texts("`visual_attention_mask` must have the shape (batch, features) = (2, 5), got (2, 4)."):
            call(**{**cached, "visual_attention_mask": cached["visual_attention_mask"][:, 1:]})
        with error_texts("Pass `input_ids`, the prompt with a placeholder for each word-like token."):
            call(**{name: batch[name] for name in VIDEO})
        fewer = batch["input_ids"].masked_fill(batch["input_ids"] == VIDEO_TOKEN, PAD)
        with error_texts(
            f"Prompt 0 of the batch has 0 placeholders (token {VIDEO_TOKEN}), but its video gives 5 visual tokens. "
            "LlavaSltProcessor writes one for each: let it count as the model does, "
            "`processor.set_token_steps(model.vision_model.get_token_steps())`, and do not truncate the prompt."
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
    with error_texts(expected + "model type 'mbart', an encoder-decoder. Use FLa-LLM for these: "):
        LlavaSltConfig(text_config=tiny_text_config("mbart"), video_token_id=1)
    with error_texts(expected + "model type 'nothing', which is not one."):
        LlavaSltConfig(text_config={"model_type": "nothing"}, video_token_id=1)
    with error_texts(expected + "model type 'vit', which is not one."):
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
    with error_texts(f"Expected '{tmp_path}/nothing' to hold a sign encoder (a folder or Hub id"):
        load(f"{tmp_path}/nothing", str(tmp_path), video_token_id=1)
    language_model = tmp_path / "language_model"
    AutoModelForCausalLM.from_config(tiny_language_model_config("llama")).save_pretrained(language_model)
    with error_texts(
        "got model type 'llama'. That is neither a sign encoder nor an image or video model: its model LlamaModel "
        "takes `input_ids`. Train stage 2 first, or name its output folder."
    ):
        load(str(language_model), str(language_model), video_token_id=1)
