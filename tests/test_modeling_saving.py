"""FLa-LLM saved and loaded with every kind of text model, and stage 2 put together from its parts."""

import re
from pathlib import Path

import pytest
import torch
from tiny_models import (
    TEXT_MODELS,
    VOCABULARY_SIZE,
    every_text_model,
    random_batch,
    state_of,
    tiny_config,
    tiny_model,
    tiny_text_config,
    tiny_vision_model,
    video_of,
)
from torch import nn
from torch.testing import assert_close
from transformers import AutoConfig, AutoModel, AutoModelForSeq2SeqLM, GPT2Config, GPT2LMHeadModel

from modeling_flallm import FLaLLMConfig, FLaLLMForTranslation

# ------------------------------------------------------------------------------------------ saving and loading


def assert_same_model(loaded: FLaLLMForTranslation, model: FLaLLMForTranslation, batch: dict) -> None:
    assert type(loaded) is FLaLLMForTranslation
    assert not loaded.training
    assert_close(state_of(loaded), state_of(model), atol=0, rtol=0)
    output, expected = loaded(**batch), model(**batch)
    assert torch.equal(output.logits, expected.logits)
    assert torch.equal(output.loss, expected.loss)
    generation = {**video_of(batch), "num_beams": 2, "max_new_tokens": 4}
    assert torch.equal(loaded.generate(**generation), model.generate(**generation))


@every_text_model
@pytest.mark.parametrize(
    ("dtype", "max_shard_size"),
    [(torch.float32, "5GB"), (torch.bfloat16, "60KB")],
    ids=["one file", "bfloat16 in shards"],
)
def test_it_is_saved_and_loaded(text, dtype, max_shard_size, tmp_path):
    model = tiny_model(text, {"temporal_blocks": ["K3", "P2"]}, word_presence_loss_weight=1).to(dtype)
    model.generation_config.repetition_penalty = 1.7
    model.save_pretrained(tmp_path, max_shard_size=max_shard_size)
    weights = {path.suffix for path in tmp_path.iterdir()} - {".json", ".py"}
    assert weights == {".safetensors"}
    assert (len(list(tmp_path.glob("*.safetensors"))) > 1) == (max_shard_size == "60KB")
    loaded = FLaLLMForTranslation.from_pretrained(tmp_path, dtype=dtype)
    assert {parameter.dtype for parameter in loaded.parameters()} == {dtype}
    assert loaded.generation_config.repetition_penalty == 1.7
    assert_same_model(loaded, model, random_batch([9, 5]))


def test_auto_classes_load_it(tmp_path):
    model = tiny_model("mbart")
    model.save_pretrained(tmp_path)
    assert type(AutoConfig.from_pretrained(tmp_path)) is FLaLLMConfig
    for auto_class in (AutoModel, AutoModelForSeq2SeqLM):
        assert_same_model(auto_class.from_pretrained(tmp_path), model, random_batch([9, 5]))


@pytest.mark.parametrize("implementation", ["eager", "sdpa"])
def test_the_implementation_of_attention_can_be_chosen(implementation, tmp_path):
    model, inputs = tiny_model(), random_batch([9, 5])
    model.save_pretrained(tmp_path)
    loaded = FLaLLMForTranslation.from_pretrained(tmp_path, attn_implementation=implementation)
    assert loaded.text_model.config._attn_implementation == implementation
    torch.testing.assert_close(loaded(**inputs).logits, model(**inputs).logits, atol=1e-5, rtol=1e-4)


@every_text_model
def test_a_saved_precision_is_kept_and_another_can_be_asked_for(text, tmp_path):
    tiny_model(text).to(torch.bfloat16).save_pretrained(tmp_path)
    for asked_for, expected in (("auto", torch.bfloat16), (torch.float32, torch.float32)):
        loaded = FLaLLMForTranslation.from_pretrained(tmp_path, dtype=asked_for)
        assert {parameter.dtype for parameter in loaded.parameters()} == {expected}
        assert loaded(**random_batch([5])).loss.isfinite()


@every_text_model
def test_tied_weights_stay_tied(text, tmp_path):
    model = tiny_model(text)
    model.save_pretrained(tmp_path)
    loaded = FLaLLMForTranslation.from_pretrained(tmp_path)
    for each in (model, loaded):
        embeddings = each.get_input_embeddings().weight
        tied = each.get_output_embeddings().weight.data_ptr() == embeddings.data_ptr()
        assert tied == each.text_model.config.tie_word_embeddings
        for side in (each.text_model.get_encoder(), each.text_model.get_decoder()):
            assert side.embed_tokens.weight.data_ptr() == embeddings.data_ptr()
    assert loaded.num_parameters() == model.num_parameters()
    assert tiny_model("mbart").text_model.config.tie_word_embeddings


@every_text_model
@pytest.mark.parametrize("vocabulary_size", [VOCABULARY_SIZE + 9, VOCABULARY_SIZE - 9])
def test_the_embeddings_can_be_resized(text, vocabulary_size, tmp_path):
    model = tiny_model(text)
    model.resize_token_embeddings(vocabulary_size)
    batch = random_batch([9, 5])
    batch["labels"].clamp_(max=vocabulary_size - 1)
    assert model(**batch).logits.shape[-1] == vocabulary_size
    assert model.config.text_config.vocab_size == vocabulary_size
    if hasattr(model.text_model, "final_logits_bias"):
        assert model.text_model.final_logits_bias.shape == (1, vocabulary_size)
    model.save_pretrained(tmp_path)
    assert_same_model(FLaLLMForTranslation.from_pretrained(tmp_path), model, batch)


def test_the_embeddings_cannot_be_resized_under_a_word_presence_head():
    message = (
        "The word-presence head is bound to the vocabulary. Build the model with `word_presence_loss_weight=0`, or "
        "with a text model whose embeddings have been resized."
    )
    with pytest.raises(ValueError, match=re.escape(message)):
        tiny_model(word_presence_loss_weight=1).resize_token_embeddings(50)


@every_text_model
def test_two_models_from_one_configuration_share_nothing(text):
    config = tiny_config(text)
    before = config.to_json_string()
    first, second = FLaLLMForTranslation(config).eval(), FLaLLMForTranslation(config).eval()
    first.resize_token_embeddings(VOCABULARY_SIZE + 5)
    first.set_attn_implementation("eager")
    first.config.vision_config.hidden_size = 1
    assert second.config.text_config.vocab_size == VOCABULARY_SIZE
    assert second.config._attn_implementation != "eager"
    assert second(**random_batch([5])).logits.shape[-1] == VOCABULARY_SIZE
    assert config.to_json_string() == before
    addresses = [{parameter.data_ptr() for parameter in each.parameters()} for each in (first, second)]
    assert not addresses[0] & addresses[1]


# ------------------------------------------------------------------------------------------ from stage 1 to stage 2


def save_text_model(text: str, folder: Path, **values) -> nn.Module:
    model = AutoModelForSeq2SeqLM.from_config(tiny_text_config(text, **values))
    for parameter in model.parameters():
        nn.init.normal_(parameter, std=0.3)
    model.generation_config.num_beams = 3
    model.save_pretrained(folder)
    return model.eval()


@pytest.mark.parametrize("text", ["t5", "mt5"])
def test_output_embeddings_of_their_own_stay_so(text, tmp_path):
    """Those of mT5 and T5 v1.1: transformers ties by configuration only where a checkpoint does not hold both."""
    tiny_vision_model().save_pretrained(tmp_path / "stage1")
    text_model = AutoModelForSeq2SeqLM.from_config(tiny_text_config(text, tie_word_embeddings=False)).eval()
    text_model.lm_head.weight = torch.nn.Parameter(torch.randn_like(text_model.lm_head.weight))
    text_model.save_pretrained(tmp_path / "text")
    model = FLaLLMForTranslation.from_vision_text_pretrained(str(tmp_path / "stage1"), str(tmp_path / "text"))
    model.save_pretrained(tmp_path / "stage2")
    for each in (model, FLaLLMForTranslation.from_pretrained(tmp_path / "stage2")):
        assert_close(state_of(each.text_model), state_of(text_model), atol=0, rtol=0)
        assert each.get_output_embeddings().weight is not each.get_input_embeddings().weight


@pytest.mark.parametrize(
    ("stage_one", "text"), [("visual encoder", "mbart"), *(("whole model", text) for text in TEXT_MODELS)]
)
def test_stage_two_starts_from_both_checkpoints(stage_one, text, tmp_path):
    first_stage = tiny_model("mbart", {"temporal_blocks": ["K3", "P2"]}, word_presence_loss_weight=1)
    saved = first_stage if stage_one == "whole model" else first_stage.vision_model
    saved.save_pretrained(tmp_path / "stage1")
    text_model = save_text_model(text, tmp_path / "text", vocab_size=55)

    model = FLaLLMForTranslation.from_vision_text_pretrained(
        str(tmp_path / "stage1"), str(tmp_path / "text"), label_smoothing=0.1, adapter_hidden_size=28
    )
    assert_close(state_of(model.vision_model), state_of(first_stage.vision_model), atol=0, rtol=0)
    assert_close(state_of(model.text_model), state_of(text_model), atol=0, rtol=0)
    assert model.adapter.first.weight.shape == (28, 24)
    assert model.adapter.first.weight.flatten()[0] != first_stage.adapter.first.weight.flatten()[0]
    assert (model.config.label_smoothing, model.config.word_presence_loss_weight) == (0.1, 0)
    assert list(model.config.vision_config.temporal_blocks) == ["K3", "P2"]
    assert model.config.text_config.vocab_size == 55
    assert model.generation_config.num_beams == 3

    model.eval().save_pretrained(tmp_path / "stage2")
    assert_same_model(FLaLLMForTranslation.from_pretrained(tmp_path / "stage2"), model, random_batch([9, 5]))


@every_text_model
def test_the_word_presence_head_of_stage_two_starts_from_the_token_embeddings(text, tmp_path):
    tiny_model("mbart").save_pretrained(tmp_path / "stage1")
    embeddings = save_text_model(text, tmp_path / "text").get_input_embeddings().weight
    model = FLaLLMForTranslation.from_vision_text_pretrained(
        str(tmp_path / "stage1"), str(tmp_path / "text"), word_presence_loss_weight=1
    )
    assert_close(model.word_presence_head.weight, 4 * embeddings / embeddings.norm(dim=1, keepdim=True))
    assert model.word_presence_head.weight.data_ptr() != model.get_input_embeddings().weight.data_ptr()


@every_text_model
def test_stage_two_is_in_single_precision_whatever_its_parts_were_saved_in(text, tmp_path):
    tiny_model("mbart").to(torch.bfloat16).save_pretrained(tmp_path / "stage1")
    AutoModelForSeq2SeqLM.from_config(tiny_text_config(text)).to(torch.bfloat16).save_pretrained(tmp_path / "text")
    model = FLaLLMForTranslation.from_vision_text_pretrained(str(tmp_path / "stage1"), str(tmp_path / "text"))
    assert {parameter.dtype for parameter in model.parameters()} == {torch.float32}
    model(**random_batch([9, 5])).loss.backward()
    model.save_pretrained(tmp_path / "stage2")
    assert_same_model(FLaLLMForTranslation.from_pretrained(tmp_path / "stage2"), model.eval(), random_batch([9, 5]))


def test_stage_two_needs_a_stage_one_checkpoint(tmp_path):
    save_text_model("bart", tmp_path / "text")
    (tmp_path / "empty").mkdir()
    expected = (
        "Expected {!r} to be a stage-1 checkpoint (a folder or Hub id with a config.json of model type 'flallm' or "
        "'flallm_vision')"
    )
    reasons = {
        "empty": ", but it has no config.json that names a model type.",
        "missing": ", but it cannot be read: ",
        "text": ", got model type 'bart'. Train stage 1 of FLa-LLM first "
        "(flallm-visual-initialing), or name its output folder.",
    }
    for folder, reason in reasons.items():
        name = str(tmp_path / folder)
        with pytest.raises(ValueError, match=re.escape(expected.format(name) + reason)):
            FLaLLMForTranslation.from_vision_text_pretrained(name, str(tmp_path / "text"))


def test_stage_two_needs_an_encoder_decoder(tmp_path):
    tiny_model().save_pretrained(tmp_path / "stage1")
    config = GPT2Config(n_layer=1, n_embd=8, n_head=2, vocab_size=20, n_positions=8)
    GPT2LMHeadModel(config).save_pretrained(tmp_path / "gpt2")
    message = (
        "The text model of FLa-LLM must be an encoder-decoder (mBART, NLLB/M2M100, mT5/T5, BART, ...), got model type "
        "'gpt2', which is none."
    )
    with pytest.raises(ValueError, match=re.escape(message)):
        FLaLLMForTranslation.from_vision_text_pretrained(str(tmp_path / "stage1"), str(tmp_path / "gpt2"))


def test_stage_two_needs_a_text_model(tmp_path):
    tiny_model().save_pretrained(tmp_path / "stage1")
    (tmp_path / "empty").mkdir()
    reasons = {
        "missing": ", but it cannot be read: ",
        "empty": ", but it has no config.json that names a model type.",
    }
    for folder, reason in reasons.items():
        name = str(tmp_path / folder)
        message = f"Expected {name!r} to be a text model (a folder or Hub id of an encoder-decoder)" + reason
        with pytest.raises(ValueError, match=re.escape(message)):
            FLaLLMForTranslation.from_vision_text_pretrained(str(tmp_path / "stage1"), name)


def test_stage_two_refuses_a_flallm_checkpoint_as_text_model(tmp_path):
    tiny_model().save_pretrained(tmp_path / "stage1")
    with pytest.raises(ValueError, match=re.escape("got model type 'flallm', which is none.")):
        FLaLLMForTranslation.from_vision_text_pretrained(str(tmp_path / "stage1"), str(tmp_path / "stage1"))
