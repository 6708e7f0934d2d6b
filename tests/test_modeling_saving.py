"""FLa-LLM saved and loaded with every kind of text model, and stage 2 put together from its parts."""

import json
import logging
import re
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from tiny_models import (
    TEXT_MODELS,
    VIDEO_TOKEN,
    VOCABULARY_SIZE,
    every_text_model,
    random_batch,
    state_of,
    tiny_config,
    tiny_contrastive_model,
    tiny_llava_slt,
    tiny_model,
    tiny_text_config,
    tiny_vision_model,
    video_of,
)
from torch import nn
from torch.testing import assert_close
from transformers import AutoConfig, AutoModel, AutoModelForSeq2SeqLM, GPT2Config, GPT2LMHeadModel

from modeling_flallm import FLaLLMConfig, FLaLLMForTranslation, LlavaSltForTranslation, LlavaSltVisualEncoder

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
        "Expected {!r} to hold a sign encoder (a folder or Hub id with the config.json of one, of a model that has "
        "one, or of an image or video model of transformers)"
    )
    reasons = {
        "empty": ", but it has no config.json that names a model type.",
        "missing": ", but it cannot be read: ",
        "text": ", got model type 'bart'. That is neither a sign encoder nor an image or video model: its model "
        "BartModel takes `input_ids`. Train stage 1 of FLa-LLM first "
        "(flallm train visual-initialing), or name its output folder.",
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
        "'gpt2', which is not one."
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
    with pytest.raises(ValueError, match=re.escape("got model type 'flallm', which is not one.")):
        FLaLLMForTranslation.from_vision_text_pretrained(str(tmp_path / "stage1"), str(tmp_path / "stage1"))


def test_stage_two_builds_one_text_model(tmp_path, monkeypatch):
    """Without a second, random one: for mBART-large that would be 2.4 GB more."""
    save_text_model("mbart", tmp_path / "language_model")
    tiny_model().save_pretrained(tmp_path / "stage1")
    numbers = []
    made = torch.nn.Parameter.__new__

    def note(cls, data=None, requires_grad=True):
        numbers.append(0 if data is None or data.is_meta else data.numel())
        return made(cls, data, requires_grad)

    monkeypatch.setattr(torch.nn.Parameter, "__new__", note)
    model = FLaLLMForTranslation.from_vision_text_pretrained(tmp_path / "stage1", tmp_path / "language_model")
    assert not any(value.is_meta for value in state_of(model).values())
    assert sum(numbers) <= 1.1 * sum(value.numel() for value in state_of(model).values())


@pytest.mark.parametrize("norm", [False, True])
def test_the_new_adapter_of_stage_two_starts_as_any(norm, tmp_path):
    save_text_model("t5", tmp_path / "language_model")
    tiny_vision_model().save_pretrained(tmp_path / "stage1")
    model = FLaLLMForTranslation.from_vision_text_pretrained(
        tmp_path / "stage1", tmp_path / "language_model", adapter_norm=norm, adapter_hidden_size=256
    )
    weight = model.adapter.first.weight
    assert weight.std().item() == pytest.approx((2 / sum(weight.shape)) ** 0.5, rel=0.1)  # Xavier
    assert not model.adapter.first.bias.any()
    assert not norm or (model.adapter.norm.weight == 1).all()


# ------------------------------------------------------------------------------------------ what is not whole


def edit_weights(folder: Path, **changed: torch.Tensor | None) -> Path:
    """Of a saved model: weights that get another value, or are taken out (None)."""
    weights = load_file(folder / "model.safetensors")
    for name, value in changed.items():
        weights.pop(name, None)
        if value is not None:
            weights[name] = value
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
    return folder


def refused(folder: Path, text: str):
    return pytest.raises(ValueError, match=f"^{re.escape(text.format(folder=folder))}$")


NOT_WHOLE = (
    "'{folder}' is no complete FLaLLMForTranslation. Of its weights, PROBLEM; they would be random. config.json "
    "and weights must come from the same model: copy or download both again."
)


def test_missing_weights_are_named(tmp_path):
    tiny_model().save_pretrained(tmp_path)
    edit_weights(tmp_path, **{"adapter.first.weight": None})
    with refused(tmp_path, NOT_WHOLE.replace("PROBLEM", "adapter.first.weight is missing")):
        FLaLLMForTranslation.from_pretrained(tmp_path)
    with refused(tmp_path, NOT_WHOLE.replace("PROBLEM", "adapter.first.weight is missing")):
        AutoModelForSeq2SeqLM.from_pretrained(tmp_path)


def test_of_many_missing_weights_some_are_named(tmp_path):
    model = tiny_model()
    model.save_pretrained(tmp_path)
    names = sorted(name for name in model.state_dict() if name.startswith("vision_model.backbone.layer1."))
    edit_weights(tmp_path, **dict.fromkeys(names))
    text = f"{', '.join(names[:5])} and {len(names) - 5} more are missing"
    with refused(tmp_path, NOT_WHOLE.replace("PROBLEM", text)):
        FLaLLMForTranslation.from_pretrained(tmp_path)


def test_weights_of_another_shape_are_named(tmp_path):
    tiny_model().save_pretrained(tmp_path)
    edit_weights(tmp_path, **{"adapter.first.weight": torch.zeros(2, 3)})
    text = "adapter.first.weight (shape [2, 3] instead of [20, 24]) is of another shape"
    with refused(tmp_path, NOT_WHOLE.replace("PROBLEM", text)):
        FLaLLMForTranslation.from_pretrained(tmp_path)
    FLaLLMForTranslation.from_pretrained(tmp_path, ignore_mismatched_sizes=True)  # who asks for it


@pytest.mark.parametrize("whole", [tiny_model, tiny_llava_slt, tiny_contrastive_model])
def test_weights_that_the_model_does_not_have_are_named(whole, tmp_path, caplog, monkeypatch):
    model = whole()
    model.save_pretrained(tmp_path)
    names = {"adapter.third.weight", "connector.third.weight", "text_model.third.weight", "third.weight"}
    edit_weights(tmp_path, **{name: torch.zeros(2) for name in names})
    monkeypatch.setattr(logging.getLogger("transformers"), "propagate", True)
    _, info = type(model).from_pretrained(tmp_path, output_loading_info=True)
    assert info["unexpected_keys"] == names
    assert all(name in caplog.text for name in names) and "UNEXPECTED" in caplog.text


def test_a_missing_file_of_several_is_named(tmp_path):
    tiny_model().save_pretrained(tmp_path, max_shard_size="60KB")
    files = sorted(tmp_path.glob("model-*.safetensors"))
    files[1].unlink()
    text = (
        f"Of the {len(files)} weights files that {{folder}}/model.safetensors.index.json names, {files[1].name} is "
        "missing. Copy or download the folder again."
    )
    with refused(tmp_path, text):
        FLaLLMForTranslation.from_pretrained(tmp_path)


@pytest.mark.parametrize("content", ["[]", "{}", '{"weight_map": 3}', '{"weight_map": {"a": 1}}', "{", "[" * 100_000])
def test_an_index_that_is_none_is_named(content, tmp_path):
    tiny_model().save_pretrained(tmp_path, max_shard_size="60KB")
    (tmp_path / "model.safetensors.index.json").write_text(content)
    text = (
        "{folder}/model.safetensors.index.json is not a weights index: expected a JSON object with a `weight_map` from "
        "weights to file names. Copy or download it again."
    )
    with refused(tmp_path, text):
        FLaLLMForTranslation.from_pretrained(tmp_path)


@pytest.mark.parametrize("name", ["/etc/passwd", "../model.safetensors"])
def test_an_index_names_files_beside_it(name, tmp_path):
    tiny_model().save_pretrained(tmp_path, max_shard_size="60KB")
    (tmp_path / "model.safetensors.index.json").write_text(json.dumps({"weight_map": {"adapter.first.weight": name}}))
    with refused(tmp_path, f"{{folder}}/model.safetensors.index.json must name files in its own folder, got {name!r}."):
        FLaLLMForTranslation.from_pretrained(tmp_path)


@pytest.mark.parametrize("content", [b"", b"\x10", b"\xff" * 8 + b"{}", (8).to_bytes(8, "little") + b"{" * 8])
def test_a_damaged_file_of_weights_is_named(content, tmp_path):
    tiny_model().save_pretrained(tmp_path, max_shard_size="60KB")
    damaged = sorted(tmp_path.glob("model-*.safetensors"))[1]
    damaged.write_bytes(content)
    with pytest.raises(
        ValueError, match=f"^{re.escape(str(damaged))} cannot be read as weights in safetensors format: "
    ):
        FLaLLMForTranslation.from_pretrained(tmp_path)


def test_adapters_without_their_base_are_refused(tmp_path):
    (tmp_path / "adapter_config.json").write_text(json.dumps({"base_model_name_or_path": "/gone"}))
    text = (
        "'{folder}' holds adapters without their base model, and that is not at '/gone', which "
        "adapter_config.json names. Load the base model and then `PeftModel.from_pretrained(model, folder)`."
    )
    with refused(tmp_path, text):
        FLaLLMForTranslation.from_pretrained(tmp_path)


@pytest.mark.parametrize("part", ["vision", "text"])
def test_stage_two_refuses_parts_that_are_not_whole(part, tmp_path):
    tiny_model().save_pretrained(tmp_path / "vision")
    save_text_model("mbart", tmp_path / "text")
    name = {"vision": "vision_model.backbone.conv1.weight", "text": "model.shared.weight"}[part]
    edit_weights(tmp_path / part, **{name: None})
    with pytest.raises(ValueError, match="is no complete .* Of its weights, .* missing; they would be random"):
        FLaLLMForTranslation.from_vision_text_pretrained(tmp_path / "vision", tmp_path / "text")


@pytest.mark.parametrize("part", ["vision", "text"])
def test_stage_three_of_llava_slt_refuses_parts_that_are_not_whole(part, tmp_path):
    tiny_contrastive_model().save_pretrained(tmp_path / "vision")
    tiny_llava_slt().language_model.save_pretrained(tmp_path / "text")
    name = {"vision": "vision_model.word_level.norm.weight", "text": "model.norm.weight"}[part]
    edit_weights(tmp_path / part, **{name: None})
    with pytest.raises(ValueError, match="is no complete .* Of its weights, .* missing; they would be random"):
        LlavaSltForTranslation.from_vision_text_pretrained(tmp_path / "vision", tmp_path / "text", VIDEO_TOKEN)


@pytest.mark.parametrize("whole", [tiny_contrastive_model, tiny_llava_slt], ids=["contrastive", "translation"])
def test_the_visual_encoder_alone_is_read_from_a_whole_model(whole, tmp_path):
    model = whole()
    model.save_pretrained(tmp_path)
    encoder, info = LlavaSltVisualEncoder.from_pretrained(tmp_path, output_loading_info=True)
    assert not info["unexpected_keys"]
    assert_close(state_of(encoder), state_of(model.vision_model), atol=0, rtol=0)


def test_stage_three_of_llava_slt_saves_no_path_of_this_machine(tmp_path):
    tiny_contrastive_model().save_pretrained(tmp_path / "vision")
    tiny_llava_slt().language_model.save_pretrained(tmp_path / "text")
    parts = str(tmp_path / "vision"), str(tmp_path / "text")
    LlavaSltForTranslation.from_vision_text_pretrained(*parts, VIDEO_TOKEN).save_pretrained(tmp_path / "whole")
    assert str(tmp_path) not in (tmp_path / "whole" / "config.json").read_text(encoding="utf-8")
