"""What transformers expects of every model: the essential tests of its mixins, run on all of ours."""

import copy
import inspect

import pytest
import torch
from tiny_models import random_batch, random_prompts, tiny_llava_slt, tiny_model, video_of
from torch.testing import assert_close
from transformers import AutoConfig, AutoModel, AutoModelForSeq2SeqLM
from transformers_contract import MODELS, NOT_RUN, TRANSLATORS, inference_inputs, loss_of

every_model = pytest.mark.parametrize("case", MODELS.values(), ids=MODELS.keys())
every_translator = pytest.mark.parametrize("case", TRANSLATORS.values(), ids=TRANSLATORS.keys())
LENGTHS = [12, 9, 7]


def test_every_exception_has_a_reason():
    assert all(reason for reason in NOT_RUN.values())


# ------------------------------------------------------------------------------------------ loading and saving


@every_model
def test_it_is_saved_and_loaded_equal(case, tmp_path):
    model, inputs = case.make(), inference_inputs(case.make_inputs(LENGTHS))
    model.save_pretrained(tmp_path)
    for load in (type(model), AutoModel):
        loaded = load.from_pretrained(tmp_path)
        assert type(loaded) is type(model) and not loaded.training
        assert torch.equal(loaded(**inputs)[case.output], model(**inputs)[case.output])


@every_model
def test_its_configuration_is_saved_and_loaded_equal(case, tmp_path):
    config = case.make().config
    config.save_pretrained(tmp_path)
    loaded = AutoConfig.from_pretrained(tmp_path)
    assert type(loaded) is type(config)
    without = ("_name_or_path", "transformers_version", "architectures", "auto_map")
    first, second = ({k: v for k, v in each.to_dict().items() if k not in without} for each in (config, loaded))
    assert first == second
    assert type(config).from_dict(config.to_dict()).to_dict().keys() >= first.keys()


@every_model
def test_it_loads_in_another_precision(case, tmp_path):
    model, inputs = case.make(), inference_inputs(case.make_inputs(LENGTHS))
    model.save_pretrained(tmp_path)
    loaded = type(model).from_pretrained(tmp_path, dtype=torch.bfloat16)
    assert {value.dtype for value in loaded.parameters()} == {torch.bfloat16}
    output = loaded(**inputs)[case.output]
    assert output.isfinite().all() and output.shape == model(**inputs)[case.output].shape


def has_attention_of_torch(model: torch.nn.Module, child: str) -> bool:
    return any(isinstance(module, torch.nn.MultiheadAttention) for module in model.get_submodule(child).modules())


@every_model
@pytest.mark.parametrize("place", ["cpu", "disk"])
def test_it_loads_with_a_device_map(case, place, tmp_path):
    model, inputs = case.make(), inference_inputs(case.make_inputs(LENGTHS))
    model.save_pretrained(tmp_path / "model")
    children = [name for name, child in model.named_children() if next(child.parameters(), None) is not None]
    device_map = (
        {name: "cpu" for name in children}
        | {name: "cpu" for name, _ in model.named_parameters(recurse=False)}
        | {name: "cpu" for name, _ in model.named_buffers(recurse=False)}
    )
    device_map[next(name for name in children if not has_attention_of_torch(model, name))] = place
    loaded = type(model).from_pretrained(
        tmp_path / "model", device_map=device_map, offload_folder=tmp_path / "offloaded"
    )
    assert_close(loaded(**inputs)[case.output], model(**inputs)[case.output])


@every_model
def test_the_modules_that_must_stay_whole_are_there(case):
    model = case.make()
    classes = {type(module).__name__ for module in model.modules()}
    assert model._no_split_modules and classes & set(model._no_split_modules)


@every_model
def test_it_is_built_without_memory(case):
    model = case.make()
    with torch.device("meta"):
        on_meta = type(model)(copy.deepcopy(model.config))
    assert all(value.is_meta for value in on_meta.parameters())
    shapes, expected = ({k: v.shape for k, v in each.state_dict().items()} for each in (on_meta, model))
    assert shapes == expected


# ------------------------------------------------------------------------------------------ the forward pass


@every_model
def test_the_main_input_is_an_argument_and_labels_are_found(case):
    model = case.make()
    names = list(inspect.signature(model.forward).parameters)
    if case is TRANSLATORS["UniSignForTranslation"]:  # by name, as the inputs of any sign encoder but that of frames
        names = [*model.vision_model.input_names, *names]
    assert model.main_input_name == names[0]
    assert set(case.make_inputs(LENGTHS)) <= set(names)


@every_model
def test_equal_inputs_give_equal_outputs_as_a_tuple_too(case):
    model, inputs = case.make(), case.make_inputs(LENGTHS)
    output, again = model(**inputs), model(**inputs)
    as_tuple = model(**inputs, return_dict=False)
    assert type(as_tuple) is tuple
    values = zip(output.values(), again.values(), as_tuple, strict=True)
    for name, (value, second, third) in zip(output, values, strict=True):
        if torch.is_tensor(value):
            assert torch.equal(value, second) and torch.equal(value, third), name
    model.config.return_dict = False
    assert type(model(**inputs)) is tuple


@every_model
def test_a_row_does_not_depend_on_its_neighbours(case):
    model, inputs = case.make(), inference_inputs(case.make_inputs(LENGTHS))
    together = model(**inputs)[case.output]
    for row, length in enumerate(LENGTHS):
        alone = {name: value[row : row + 1] for name, value in inputs.items()}
        for name in getattr(model, "vision_model", model).input_names:
            if name in alone:  # descriptions are for training alone
                alone[name] = alone[name][:, :length]
        output = model(**alone)[case.output][0]
        assert_close(output, together[row][: len(output)], atol=1e-4, rtol=1e-4)


@every_model
def test_one_step_moves_every_parameter_that_is_trained(case):
    model = case.make().train()
    if case is TRANSLATORS["LlavaSltForTranslation"]:
        model.vision_model.sentence_level.requires_grad_(False)
    before = {name: value.detach().clone() for name, value in model.named_parameters() if value.requires_grad}
    loss_of(model, case.make_inputs([12, 9, 7, 11])).backward()
    with_gradient = {name for name, value in model.named_parameters() if value.grad is not None}
    torch.optim.AdamW(model.parameters(), lr=0.1).step()
    moved = {
        name for name, value in model.named_parameters() if name in before and not torch.equal(value, before[name])
    }
    assert before.keys() == with_gradient
    # A softmax cancels what is added to all of its logits: the gradient of this bias is 0 except for rounding.
    assert {name for name in before.keys() - moved if not name.endswith("importance.bias")} == set()


@every_model
def test_gradient_checkpointing_gives_the_same_gradients(case):
    model, inputs = case.make().train(), case.make_inputs([12, 9, 7, 11])
    with_checkpoints = copy.deepcopy(model)
    with_checkpoints.gradient_checkpointing_enable()
    assert with_checkpoints.is_gradient_checkpointing
    for each in (model, with_checkpoints):
        torch.manual_seed(0)  # for a diffusion's noise
        loss_of(each, inputs).backward()
    # A bias before batch norm has the gradient 0 except for the rounding of others, which are larger.
    largest = max(parameter.grad.abs().max().item() for parameter in model.parameters() if parameter.grad is not None)
    tolerance = {"atol": 1e-5 * max(1.0, largest), "rtol": 1e-4}
    for (name, first), second in zip(model.named_parameters(), with_checkpoints.parameters(), strict=True):
        if first.grad is None:
            assert second.grad is None
            continue
        assert_close(second.grad, first.grad, **tolerance, msg=lambda text, name=name: f"{name}: {text}")


@every_translator
def test_hidden_states_and_attentions(case):
    model, inputs = case.make(), case.make_inputs(LENGTHS)
    model.set_attn_implementation("eager")
    output = model(**inputs, output_hidden_states=True, output_attentions=True)
    sides = ("encoder_", "decoder_", "cross_") if model.config.is_encoder_decoder else ("",)
    for side in sides:
        attentions = output[f"{side}attentions"]
        assert len(attentions) == 2 and all(each.shape[:2] == (3, 4) for each in attentions)
        assert_close(attentions[0].sum(-1).max(), torch.tensor(1.0))
        if side != "cross_":
            states = output[f"{side}hidden_states"]
            assert len(states) == 3 and all(state.shape[::2] == (3, 32) for state in states)
    assert model(**inputs).get(f"{sides[0]}attentions") is None


@every_translator
def test_eager_attention_and_sdpa_are_equal(case, tmp_path):
    model, inputs = case.make(), case.make_inputs(LENGTHS)
    model.save_pretrained(tmp_path)
    outputs = []
    for name in ("eager", "sdpa"):
        loaded = type(model).from_pretrained(tmp_path, attn_implementation=name)
        text_model = getattr(loaded, "text_model", None) or loaded.language_model
        assert text_model.config._attn_implementation == name
        outputs.append(loaded(**inputs).logits)
    assert_close(*outputs, atol=1e-4, rtol=1e-4)


def test_what_has_one_attention_says_so():
    model = tiny_llava_slt()
    model.set_attn_implementation("eager")
    encoder = model.vision_model
    assert encoder.config._attn_implementation == "sdpa" and not encoder._supports_flash_attn
    assert model.language_model.config._attn_implementation == "eager"


# ------------------------------------------------------------------------------------------ embeddings and parts


@every_translator
def test_embeddings_are_resized_replaced_and_tied(case, tmp_path):
    model, inputs = case.make(), case.make_inputs(LENGTHS)
    before = model(**inputs).logits
    size = model.get_input_embeddings().weight.shape[0]
    model.resize_token_embeddings(size + 5)
    assert model.get_input_embeddings().weight.shape[0] == size + 5 == model.config.get_text_config().vocab_size
    after = model(**inputs).logits
    assert after.shape[-1] == size + 5
    assert_close(after[..., :size], before, atol=1e-5, rtol=1e-5)
    model.save_pretrained(tmp_path)
    assert_close(type(model).from_pretrained(tmp_path)(**inputs).logits, after)
    embeddings = torch.nn.Embedding(size + 5, 32)
    model.set_input_embeddings(embeddings)
    assert model.get_input_embeddings() is embeddings


def test_tied_weights_are_one_after_loading(tmp_path):
    model = tiny_model("bart")
    assert model.get_input_embeddings().weight is model.get_output_embeddings().weight
    model.save_pretrained(tmp_path)
    loaded = AutoModelForSeq2SeqLM.from_pretrained(tmp_path)
    assert loaded.get_input_embeddings().weight is loaded.get_output_embeddings().weight
    assert loaded.all_tied_weights_keys


def test_the_parts_have_the_names_of_transformers():
    model, prompted = tiny_model(), tiny_llava_slt()
    assert model.get_encoder() is model.text_model.get_encoder() is not model
    assert model.get_decoder() is model.text_model.get_decoder()
    assert prompted.get_decoder() is prompted.language_model
    for each in (model, prompted):
        assert each.get_encoder("video") is each.vision_model


@every_translator
def test_video_features_are_what_the_text_model_reads(case):
    model, inputs = case.make(), inference_inputs(case.make_inputs(LENGTHS))
    clip = {name: inputs[name] for name in model.vision_model.input_names if name in inputs}
    features = model.get_video_features(**clip)
    expected = model.vision_model(**clip)
    assert torch.equal(features.last_hidden_state, expected.last_hidden_state)
    assert torch.equal(features.attention_mask, expected.attention_mask)
    assert features.pooler_output.shape == (*features.attention_mask.shape, 32)
    if not model.config.is_encoder_decoder:
        embeddings = model.embed_prompt(inputs["input_ids"], **clip)
        in_prompt = embeddings[inputs["input_ids"] == model.config.video_token_id]
        assert_close(in_prompt, features.pooler_output[features.attention_mask == 1])
    elif not model.prompt_input_names:
        output = model.get_encoder()(inputs_embeds=features.pooler_output, attention_mask=features.attention_mask)
        assert_close(output.last_hidden_state, model.encode(**clip).last_hidden_state)
    assert type(model.get_video_features(**clip, return_dict=False)) is tuple


@every_translator
def test_padding_is_that_of_the_text_model_also_of_an_old_configuration(case):
    config = case.make().config
    assert config.pad_token_id == 1 and "pad_token_id" not in config.to_dict()
    config.pad_token_id = 0
    assert config.text_config.pad_token_id == 0
    config.text_config.pad_token_id, config.text_config.eos_token_id = None, [5, 6]
    assert config.pad_token_id == 5


# ------------------------------------------------------------------------------------------ a plain forward pass


def test_a_forward_pass_without_labels_gives_the_first_position():
    model, batch = tiny_model(), random_batch(LENGTHS)
    logits = model(**video_of(batch)).logits
    start = torch.full((3, 1), model.generation_config.decoder_start_token_id)
    assert torch.equal(logits, model(**video_of(batch), decoder_input_ids=start).logits)
    generated = model.generate(**video_of(batch), max_new_tokens=1, output_logits=True, return_dict_in_generate=True)
    assert_close(logits[:, -1], generated.logits[0])


def test_a_text_model_without_a_first_token_is_explained():
    model = tiny_model()
    for config in (model.generation_config, model.config.text_config):
        config.decoder_start_token_id = config.bos_token_id = None
    with pytest.raises(ValueError, match="Pass `labels` or `decoder_input_ids`, or set `generation_config.decoder_"):
        model(**video_of(random_batch(LENGTHS)))


def test_arguments_that_are_none_are_as_if_they_were_not_given():
    model, batch = tiny_model(), random_batch(LENGTHS)
    names = ("input_ids", "attention_mask", "inputs_embeds", "decoder_inputs_embeds", "output_attentions")
    output = model(**batch, **dict.fromkeys(names), return_dict=None)
    assert torch.equal(output.loss, model(**batch).loss)


# ------------------------------------------------------------------------------------------ export

needs_export = pytest.mark.skipif(
    not hasattr(torch.compiler, "is_exporting"), reason="torch says from 2.7 on whether it exports"
)


@needs_export
@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
@every_model
def test_inference_is_exported(case):
    model, inputs = case.make(), inference_inputs(case.make_inputs(LENGTHS))
    if case.is_translator:
        inputs["use_cache"] = False
    if case.is_translator and model.config.is_encoder_decoder:
        inputs["decoder_input_ids"] = torch.randint(4, 30, (3, 5))
    with torch.no_grad():
        expected = model(**inputs)[case.output]
        program = torch.export.export(model, (), inputs, strict=False)
        assert_close(program.module()(**inputs)[case.output], expected, atol=1e-5, rtol=1e-5)


@needs_export
@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
def test_an_exported_encoder_takes_clips_of_other_lengths():
    model = tiny_llava_slt().vision_model
    dimensions = {0: torch.export.Dim.DYNAMIC, 1: torch.export.Dim.DYNAMIC}
    shapes = dict.fromkeys(("pixel_values_videos", "pixel_attention_mask"), dimensions)
    with torch.no_grad():
        program = torch.export.export(model, (), video_of(random_batch([12, 9])), strict=False, dynamic_shapes=shapes)
        others = video_of(random_batch([16, 6, 11]))
        assert_close(program.module()(**others)[0], model(**others)[0], atol=1e-5, rtol=1e-5)


# ------------------------------------------------------------------------------------------ generation


def generation_inputs(case, lengths=LENGTHS) -> dict[str, torch.Tensor]:
    return (
        random_prompts(lengths)
        if case is TRANSLATORS["LlavaSltForTranslation"]
        else inference_inputs(case.make_inputs(lengths))
    )


@every_translator
@pytest.mark.parametrize(
    "way",
    [
        {"do_sample": False},
        {"num_beams": 3},
        {"num_beams": 4, "num_return_sequences": 2},
        {"do_sample": True, "num_return_sequences": 3},
        {"do_sample": True, "num_beams": 2, "top_k": 5},
    ],
    ids=["greedy", "beams", "several", "sampling", "sampling with beams"],
)
def test_every_way_to_generate(case, way):
    model, inputs = case.make(), generation_inputs(case)
    ids = model.generate(**inputs, **way, max_new_tokens=5, min_new_tokens=5)
    num_tokens = 6 if model.config.is_encoder_decoder else 5
    assert ids.shape == (3 * way.get("num_return_sequences", 1), num_tokens)
    output = model.generate(
        **inputs, **way, max_new_tokens=4, return_dict_in_generate=True, output_scores=True, output_hidden_states=True
    )
    assert len(output.scores) <= 4 and output.scores[0].shape[-1] == 40


@every_translator
@pytest.mark.parametrize("num_beams", [1, 3])
def test_the_cache_changes_nothing(case, num_beams):
    model, inputs = case.make(), generation_inputs(case)
    with_cache, without = (
        model.generate(**inputs, num_beams=num_beams, max_new_tokens=6, use_cache=use) for use in (True, False)
    )
    assert torch.equal(with_cache, without)


@every_translator
def test_generate_is_the_greedy_choice_of_forward(case):
    model, inputs = case.make(), generation_inputs(case)
    output = model.generate(
        **inputs, max_new_tokens=3, min_new_tokens=3, output_logits=True, return_dict_in_generate=True
    )
    if model.config.is_encoder_decoder:
        logits = model(**inputs, decoder_input_ids=output.sequences[:, :-1]).logits
    else:
        ids = torch.cat([inputs["input_ids"], output.sequences[:, :-1]], dim=1)
        mask = torch.cat([inputs["attention_mask"], torch.ones_like(output.sequences[:, :-1])], dim=1)
        logits = model(**{**inputs, "input_ids": ids, "attention_mask": mask}).logits[:, -3:]
    for step in range(3):
        assert_close(output.logits[step], logits[:, step], atol=1e-4, rtol=1e-4)


@every_translator
def test_a_generation_config_is_saved_and_used(case, tmp_path):
    model, inputs = case.make(), generation_inputs(case)
    model.generation_config.update(num_beams=2, max_length=4, length_penalty=0.5)
    model.save_pretrained(tmp_path)
    loaded = type(model).from_pretrained(tmp_path)
    assert loaded.generation_config.num_beams == 2
    assert torch.equal(loaded.generate(**inputs), model.generate(**inputs))
    assert loaded.generate(**inputs).shape[1] <= 4
