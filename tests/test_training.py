"""Both stages: which weights are trained, at which learning rates, and which flags reach the model."""

import copy
import filecmp
from pathlib import Path

import pytest
import torch
from peft import LoraConfig, get_peft_model
from safetensors.torch import load_file
from tiny_corpus import (
    FAST,
    WITHOUT_EVALUATION,
    build_stage1,
    build_stage2,
    copy_of_weights,
    language_model,
    load,
    log_of,
    moved,
    save_text_model,
    stage1_flags,
    stage2_flags,
    trained_model,
)
from tiny_models import TEXT_MODELS, TINY_MODELS, tiny_contrastive_model, tiny_text_config, tiny_vision_config
from transformers import CONFIG_MAPPING, AutoModelForSeq2SeqLM, AutoTokenizer, PreTrainedConfig

from modeling_flallm import FLaLLMConfig, FLaLLMForTranslation, FLaLLMVisionModel
from processing import FLaLLMProcessor
from train_scripts.arguments.data_arguments import VideoArguments
from train_scripts.arguments.training_arguments import FLaLLMTrainingArguments
from train_scripts.runs import trainers as trainers_file
from train_scripts.runs import training
from train_scripts.stages import llm_fine_tuning, visual_initialing
from train_scripts.stages.llm_fine_tuning import LLMFineTuningArguments

pytestmark = pytest.mark.slow

# What is trained


def test_two_steps_of_stage_1_train_every_parameter(trainers, tmp_path):
    visual_initialing.train(stage1_flags(tmp_path / "run", max_steps=2, **WITHOUT_EVALUATION, **FAST))
    (trainer,) = trainers
    names = {name for name, parameter in trainer.model.named_parameters() if parameter.requires_grad}
    assert names == dict(trainer.model.named_parameters()).keys()
    assert {name.split(".")[0] for name in names} == {"vision_model", "adapter", "text_model", "word_presence_head"}
    after = copy_of_weights(trainer.model)
    assert names <= moved(trainer.weights_before, after)
    assert "vision_model.backbone.bn1.running_mean" in moved(trainer.weights_before, after)


def test_stage_2_leaves_the_visual_encoder_as_stage_1_did(trainers, tmp_path):
    llm_fine_tuning.train(stage2_flags(tmp_path / "run", max_steps=3, **WITHOUT_EVALUATION, **FAST))
    (trainer,) = trainers
    stage1, final = load_file(trained_model() / "model.safetensors"), load_file(tmp_path / "run" / "model.safetensors")
    encoder = {name for name in final if name.startswith("vision_model.")}
    assert encoder and any(name.endswith("running_var") for name in encoder)
    assert encoder == {name for name in stage1 if name.startswith("vision_model.")}
    for name in encoder:
        assert torch.equal(stage1[name], final[name]), name
    trained = {name for name, parameter in trainer.model.named_parameters() if parameter.requires_grad}
    assert trained == {name for name, _ in trainer.model.named_parameters() if not name.startswith("vision_model.")}
    assert trained <= moved(trainer.weights_before, copy_of_weights(trainer.model))
    assert not torch.equal(trainer.weights_before["adapter.first.weight"], stage1["adapter.first.weight"])
    pretrained = AutoModelForSeq2SeqLM.from_pretrained(language_model()).state_dict()
    for name, value in pretrained.items():
        assert torch.equal(trainer.weights_before[f"text_model.{name}"], value), name


def test_stage_2_with_the_visual_encoder_trained(trainers, tmp_path):
    llm_fine_tuning.train(
        stage2_flags(tmp_path / "run", max_steps=2, freeze_visual_encoder=False, **WITHOUT_EVALUATION, **FAST)
    )
    (trainer,) = trainers
    names = {name for name, _ in trainer.model.named_parameters()}
    after = copy_of_weights(trainer.model)
    assert names <= moved(trainer.weights_before, after)
    assert "vision_model.backbone.bn1.running_mean" in moved(trainer.weights_before, after)


def test_gradient_accumulation_is_one_large_batch(trainers, tmp_path):
    values = {"optim": "sgd", "learning_rate": 0.1, "max_grad_norm": 1e9, "max_steps": 2, "label_smoothing": 0.1}
    for name, batch_size, accumulation in (("whole", 8, 1), ("split", 4, 2), ("single", 1, 8)):
        sizes = {"per_device_train_batch_size": batch_size, "gradient_accumulation_steps": accumulation}
        llm_fine_tuning.train(
            stage2_flags(
                tmp_path / name, word_presence_loss_weight=0.5, **sizes, **values, **WITHOUT_EVALUATION, speed=0.3
            )
        )
    whole, *others = [copy_of_weights(trainer.model) for trainer in trainers]
    assert moved(trainers[0].weights_before, whole)
    for other in others:
        for name, value in whole.items():
            torch.testing.assert_close(other[name], value, atol=1e-5, rtol=0, msg=name)
    losses = log_of(tmp_path / "whole", "loss")
    assert len(losses) == 2
    for name in ("split", "single"):
        assert log_of(tmp_path / name, "loss") == pytest.approx(losses, rel=1e-4)


def test_lora_with_the_visual_encoder_trained(trainers, tmp_path):
    llm_fine_tuning.train(
        stage2_flags(
            tmp_path / "run", max_steps=2, lora=True, freeze_visual_encoder=False, **WITHOUT_EVALUATION, **FAST
        )
    )
    stage1 = FLaLLMVisionModel.from_pretrained(_vision_model(tmp_path)).state_dict()
    final = load(tmp_path / "run")[0].vision_model.state_dict()
    names = {name for name in final if not name.endswith("num_batches_tracked")}
    assert names <= moved(stage1, final)


def small_text_config(name: str) -> PreTrainedConfig:
    shared = {"vocab_size": 40, "d_model": 16, "pad_token_id": 1, "decoder_start_token_id": 2}
    for side in ("encoder", "decoder"):
        shared |= {f"{side}_layers": 1, f"{side}_attention_heads": 2, f"{side}_ffn_dim": 24}
    if name == "umt5":
        shared |= {"num_layers": 1, "num_decoder_layers": 1, "num_heads": 2, "d_ff": 24, "d_kv": 8}
    if name == "led":
        shared |= {"attention_window": 4}
    return CONFIG_MAPPING[name](**shared)


@pytest.mark.parametrize(
    "text",
    ["mbart", "t5", "mt5", "m2m_100", "bart", "pegasus", "marian", "umt5", "led", "bigbird_pegasus"],
)
def test_lora_finds_the_linear_layers_of_any_text_model(text):
    config = tiny_text_config(text) if text in TEXT_MODELS else small_text_config(text)
    model = FLaLLMForTranslation(
        FLaLLMConfig(vision_config=tiny_vision_config(), text_config=config, word_presence_loss_weight=1.0)
    )
    head = model.get_output_embeddings()
    expected = {
        f"text_model.{name}"
        for name, module in model.text_model.named_modules()
        if isinstance(module, torch.nn.Linear) and module is not head
    }
    arguments = LLMFineTuningArguments(
        vision_model_name_or_path="a", text_model_name_or_path="b", lora=True, word_presence_loss_weight=1.0
    )
    model.freeze_visual_encoder()
    with_lora = get_peft_model(model, arguments.lora_config(**model.get_lora_settings()))
    found = {name for name, module in with_lora.get_base_model().named_modules() if hasattr(module, "lora_A")}
    assert found == expected
    whole = {name for name, parameter in with_lora.named_parameters() if parameter.requires_grad and "lora" not in name}
    assert {name.removeprefix("base_model.model.").split(".")[0] for name in whole} == {"adapter", "word_presence_head"}


def test_the_base_of_low_rank_adapters_is_written_without_a_second_model(tmp_path, monkeypatch):
    model, processor = build_stage2(lora=True, lora_rank=2, word_presence_loss_weight=1.0)
    copy.deepcopy(model).unload().save_pretrained(tmp_path / "expected")
    monkeypatch.setattr(copy, "deepcopy", no_copy_of_a_model(copy.deepcopy))
    arguments = FLaLLMTrainingArguments(
        output_dir=str(tmp_path), use_cpu=True, report_to="none", eval_strategy="no", load_best_model_at_end=False
    )
    training.save_lora_base(model, processor, arguments)
    names = {path.name for path in (tmp_path / "expected").iterdir()}
    assert "model.safetensors" in names
    assert not filecmp.cmpfiles(tmp_path / "expected", tmp_path / "lora_base", names, shallow=False)[1]


def no_copy_of_a_model(deepcopy):
    def copied(value, *arguments):
        assert not isinstance(value, torch.nn.Module)
        return deepcopy(value, *arguments)

    return copied


def _vision_model(folder: Path) -> Path:
    FLaLLMForTranslation.from_pretrained(trained_model()).vision_model.save_pretrained(folder / "vision_model")
    return folder / "vision_model"


def test_stage_2_starts_from_a_visual_encoder_alone_too(tmp_path):
    expected = build_stage2()[0].vision_model.state_dict()
    arguments = LLMFineTuningArguments(
        vision_model_name_or_path=str(_vision_model(tmp_path)), text_model_name_or_path=str(language_model())
    )
    model, _ = llm_fine_tuning.build_model(arguments, VideoArguments())
    assert not moved(expected, model.vision_model.state_dict())


# Learning rates


def groups_by_name(model: torch.nn.Module, processor: FLaLLMProcessor, folder: Path, **rates) -> dict[str, tuple]:
    """(learning rate, weight decay) of every parameter that the optimizer has, by name."""
    arguments = FLaLLMTrainingArguments(
        output_dir=str(folder), learning_rate=1e-3, weight_decay=0.01, use_cpu=True, report_to="none", **rates,
        eval_strategy="no", load_best_model_at_end=False, optim="adamw_torch",
    )  # fmt: skip
    optimizer = training.FLaLLMTrainer(model=model, args=arguments, processing_class=processor).create_optimizer()
    names = {id(parameter): name for name, parameter in model.named_parameters()}
    found = [
        (names[id(parameter)], (group["lr"], group["weight_decay"]))
        for group in optimizer.param_groups
        for parameter in group["params"]
    ]
    assert len(found) == len(dict(found))
    assert dict(found).keys() == {name for name, parameter in model.named_parameters() if parameter.requires_grad}
    return dict(found)


def test_learning_rates_of_adapter_biases_and_the_rest(tmp_path):
    model, processor = build_stage2(freeze_visual_encoder=False, adapter_norm=True, word_presence_loss_weight=1.0)
    groups = groups_by_name(model, processor, tmp_path, adapter_learning_rate=2e-2, bias_learning_rate=3e-4)
    for name, (learning_rate, _) in groups.items():
        if name.startswith("adapter."):
            assert learning_rate == 2e-2, name
        elif name.startswith("text_model.") and name.endswith("bias"):
            assert learning_rate == 3e-4, name
        else:
            assert learning_rate == 1e-3, name
    assert {rate for rate, _ in groups.values()} == {1e-3, 2e-2, 3e-4}


def test_without_rates_of_their_own_all_have_one(tmp_path):
    groups = groups_by_name(*build_stage2(), tmp_path)
    assert {rate for rate, _ in groups.values()} == {1e-3}
    assert not any(name.startswith("vision_model") for name in groups)


def test_norms_and_biases_do_not_decay(tmp_path):
    model, processor = build_stage2(freeze_visual_encoder=False, adapter_norm=True)
    groups = groups_by_name(model, processor, tmp_path)
    norms = (torch.nn.LayerNorm, torch.nn.modules.batchnorm._BatchNorm)
    of_norms = {
        f"{prefix}.{name}"
        for prefix, module in model.named_modules()
        if isinstance(module, norms)
        for name, _ in module.named_parameters()
    }
    assert any("bn1" in name for name in of_norms) and any("downsample" in name for name in of_norms)
    for name, (_, weight_decay) in groups.items():
        assert weight_decay == (0.0 if name in of_norms or name.endswith("bias") else 0.01), name


def test_learning_rates_with_lora(tmp_path):
    model, processor = build_stage2(lora=True, lora_rank=2, word_presence_loss_weight=1.0)
    groups = groups_by_name(model, processor, tmp_path, adapter_learning_rate=2e-2, bias_learning_rate=3e-4)
    of_adapter = {name for name in groups if ".adapter." in name}
    of_lora = {name for name in groups if ".lora_" in name}
    of_head = {name for name in groups if "word_presence_head" in name}
    assert of_adapter and of_lora and of_head and of_adapter | of_lora | of_head == groups.keys()
    assert {groups[name][0] for name in of_adapter} == {2e-2}
    assert {groups[name][0] for name in of_lora | of_head} == {1e-3}
    assert all(".text_model." in name for name in of_lora)


RATES = {"learning_rate": 1e-3, "adapter_learning_rate": 2e-2, "bias_learning_rate": 3e-4}


def rate_by_name(name: str, system: str) -> float:
    """The rule of earlier versions, by the names of the parameters; LLaVA-SLT has no rate for biases."""
    if system == "llava_slt":
        return RATES["adapter_learning_rate"] if "connector." in name else RATES["learning_rate"]
    if "adapter." in name and "text_model." not in name:
        return RATES["adapter_learning_rate"]
    is_bias = "text_model." in name and name.endswith(".bias")
    return RATES["bias_learning_rate"] if is_bias else RATES["learning_rate"]


def groups_in_order(optimizer: torch.optim.Optimizer, model: torch.nn.Module) -> list[tuple]:
    names = {id(parameter): name for name, parameter in model.named_parameters()}
    groups = optimizer.param_groups
    return [(each["lr"], each["weight_decay"], [names[id(value)] for value in each["params"]]) for each in groups]


@pytest.mark.parametrize("with_lora", [False, True])
@pytest.mark.parametrize(
    ("system", "text_model"),
    [*(("flallm", name) for name in TEXT_MODELS), *(("llava_slt", name) for name in ("gpt2", "opt", "qwen2", "llama"))],
)
def test_parameter_groups_are_those_of_earlier_versions(system, text_model, with_lora, tmp_path):
    """An optimiser's saved state has its parameters by their place."""
    options = {"word_presence_loss_weight": 1.0} if system == "flallm" else {}
    model = TINY_MODELS[system](text_model, **options)
    if with_lora:
        model = get_peft_model(model, LoraConfig(r=2, **model.get_lora_settings()))
    arguments = FLaLLMTrainingArguments(
        output_dir=str(tmp_path), weight_decay=0.01, use_cpu=True, report_to="none", optim="adamw_torch",
        eval_strategy="no", load_best_model_at_end=False, **RATES,
    )  # fmt: skip
    trainer = training.trainer_class_of(model)(model=model, args=arguments)
    decaying = set(trainer.get_decay_parameter_names(model))
    expected: dict[tuple[float, float], list[str]] = {}
    for name, parameter in model.named_parameters():
        if parameter.requires_grad:
            weight_decay = 0.01 if name in decaying and parameter.ndim > 1 else 0.0
            expected.setdefault((rate_by_name(name, system), weight_decay), []).append(name)
    groups = groups_in_order(trainer.create_optimizer(), model)
    assert groups == [(*values, names) for values, names in expected.items()]
    assert RATES["adapter_learning_rate"] in {rate for rate, *_ in groups}


def test_a_model_without_parts_has_one_learning_rate(tmp_path):
    arguments = FLaLLMTrainingArguments(
        output_dir=str(tmp_path), use_cpu=True, report_to="none", eval_strategy="no", load_best_model_at_end=False,
        **RATES,
    )  # fmt: skip
    model = tiny_contrastive_model()
    groups = groups_in_order(trainers_file.ClipTrainer(model=model, args=arguments).create_optimizer(), model)
    assert {rate for rate, *_ in groups} == {RATES["learning_rate"]}
    assert {name for *_, names in groups for name in names} == dict(model.named_parameters()).keys()


# Flags that reach the model


def test_flags_of_stage_1_reach_the_model():
    model, processor = build_stage1(
        language_model(),
        label_smoothing=0.15,
        word_presence_loss_weight=0.7,
        adapter_hidden_size=0,
        adapter_norm=True,
        adapter_activation="gelu",
        temporal_blocks=["K3", "P2"],
        temporal_padding="replicate",
        temporal_norm="layer_norm",
        light_dropout=0.05,
        num_beams=3,
    )
    config = model.config
    assert (config.label_smoothing, config.word_presence_loss_weight) == (0.15, 0.7)
    assert (config.adapter_hidden_size, config.adapter_norm, config.adapter_activation) == (0, True, "gelu")
    assert list(config.vision_config.temporal_blocks) == ["K3", "P2"]
    assert (config.vision_config.temporal_padding, config.vision_config.temporal_norm) == ("replicate", "layer_norm")
    assert (config.vision_config.backbone_width, config.vision_config.hidden_size) == (8, 24)
    text = config.text_config
    assert (text.d_model, text.encoder_layers, text.decoder_layers, text.encoder_attention_heads) == (16, 1, 1, 2)
    assert (text.encoder_ffn_dim, text.decoder_ffn_dim, text.dropout) == (24, 24, 0.05)
    assert text.vocab_size == len(processor.tokenizer)
    assert model.generation_config.num_beams == 3


def test_flags_of_stage_2_reach_the_model():
    model, _ = build_stage2(label_smoothing=0.05, word_presence_loss_weight=2.0, adapter_hidden_size=9, num_beams=7)
    config = model.config
    assert (config.label_smoothing, config.word_presence_loss_weight, config.adapter_hidden_size) == (0.05, 2.0, 9)
    assert model.generation_config.num_beams == 7
    assert model.vision_model.frozen


def test_flags_of_the_video_reach_the_processor():
    video = VideoArguments(frame_sampling_rate=0.5, max_num_frames=40, frame_size=48, crop_size=36)
    processor = training.build_processor(video, AutoTokenizer.from_pretrained(language_model())).video_processor
    assert (processor.frame_sampling_rate, processor.max_num_frames) == (0.5, 40)
    assert dict(processor.size) == {"height": 48, "width": 48}
    assert dict(processor.crop_size) == {"height": 36, "width": 36}


@pytest.mark.parametrize("kind", ["mbart", "t5", "m2m_100", "bart"])
def test_dropout_of_the_text_model(kind, tmp_path):
    arguments = LLMFineTuningArguments(
        vision_model_name_or_path=str(trained_model()),
        text_model_name_or_path=str(save_text_model(tmp_path, kind)),
        text_model_dropout=0.9,
    )
    model, _ = llm_fine_tuning.build_model(arguments, VideoArguments())
    ids = torch.randint(5, 20, (1, 6))

    def logits() -> torch.Tensor:
        with torch.no_grad():
            return model.text_model(input_ids=ids, decoder_input_ids=ids).logits

    model.train()
    assert not torch.equal(logits(), logits())
    model.eval()
    assert torch.equal(logits(), logits())
    config = model.config.text_config
    assert (config.dropout_rate if kind == "t5" else config.dropout) == 0.9
