"""Translating with a language model in 8 or 4 bits, whose visual encoder and adapter stay as they are."""

import copy
import importlib.util
import re
from pathlib import Path

import pytest
import torch
from tiny_corpus import corpus, trained_model
from tiny_models import tiny_llava_slt, tiny_model, tiny_text_config, tiny_vision_config
from transformers import AutoModelForSeq2SeqLM, BitsAndBytesConfig, pipeline

from modeling_flallm import FLaLLMConfig, FLaLLMForTranslation, LlavaSltForTranslation
from modeling_flallm.hub_export_slt import leave_unquantized
from train_scripts.commands import evaluate_model, translate
from train_scripts.runs.quantization import fastest_dtype, load_to_translate, quantize_on_cpu
from train_scripts.runs.trained_models import load_trained

CPU = torch.device("cpu")
TEXT_MODELS = ("mbart", "t5", "m2m_100")
SPARED = FLaLLMForTranslation.unquantized_modules


def linear_layers_of_text_model(model: torch.nn.Module) -> set[str]:
    """All but the output layer."""
    head = model.get_output_embeddings()
    return {
        name
        for name, module in model.named_modules()
        if isinstance(module, torch.nn.Linear) and name.startswith("text_model.") and module is not head
    }


def changed_layers(model: torch.nn.Module, original: torch.nn.Module) -> set[str]:
    """Modules of another class, or with a weight of another class."""
    originals = dict(original.named_modules())
    changed = set()
    for name, module in model.named_modules():
        if name in originals:
            other = originals[name]
            same_weight = type(getattr(module, "weight", None)) is type(getattr(other, "weight", None))
            if type(module) is not type(other) or not same_weight:
                changed.add(name)
    return changed


def features() -> torch.Tensor:
    return torch.randn(2, 9, 24)


@pytest.mark.parametrize("text", TEXT_MODELS)
def test_dynamic_int8_on_cpu_changes_the_language_models_linear_layers_alone(text):
    original = tiny_model(text)
    for parameter in original.text_model.parameters():
        parameter.data *= 0.5 if parameter.ndim == 2 else 1.0  # else attention is all or nothing, and rounding flips it
    model = copy.deepcopy(original)
    quantize_on_cpu(model)
    assert changed_layers(model, original) == linear_layers_of_text_model(original)
    clip, tokens = features(), torch.randint(4, 40, (2, 5))
    with torch.no_grad():
        logits = [each(visual_features=clip, decoder_input_ids=tokens).logits for each in (model, original)]
    error = (logits[0] - logits[1]).norm() / logits[1].norm()
    assert 0 < error < 0.1  # rounding, and no more than that
    assert model.generate(visual_features=clip, max_new_tokens=5, num_beams=2).shape[0] == 2


def test_dynamic_int8_cannot_be_saved(tmp_path):
    model = tiny_model()
    quantize_on_cpu(model)
    with pytest.raises(NotImplementedError, match="A model with torch's dynamic int8 layers cannot be saved."):
        model.save_pretrained(tmp_path)
    assert not any(tmp_path.iterdir())


def test_dtype_and_int8_of_a_trained_model():
    plain, _ = load_to_translate(str(trained_model()), CPU, "float32")
    assert plain.dtype == torch.float32 and not plain.training
    low, _ = load_to_translate(str(trained_model()), CPU, "bfloat16")
    assert {parameter.dtype for parameter in low.parameters()} == {torch.bfloat16}
    int8, _ = load_to_translate(str(trained_model()), CPU, "bfloat16", "int8")
    assert int8.vision_model.dtype == torch.bfloat16 and int8.adapter.first.weight.dtype == torch.float32
    by_default, _ = load_to_translate(str(trained_model()), CPU)
    assert by_default.dtype == fastest_dtype(CPU)
    assert fastest_dtype(torch.device("meta")) == torch.float32


def test_commands_translate_and_score_in_int8(tmp_path, capsys):
    clips = [str(path) for path in sorted((corpus() / "test").glob("*.mp4"))]
    argv = ["--model", str(trained_model()), "--device", "cpu", "--quantization", "int8", "--dtype", "float32"]
    assert translate.main([*argv, *clips]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert [line.split("\t")[0] for line in lines] == clips
    values = {"model": trained_model(), "dataset": corpus(), "output_dir": tmp_path / "scores"}
    values |= {"quantization": "int8", "device": "cpu", "disable_tqdm": True}
    assert evaluate_model.main([text for name, value in values.items() for text in (f"--{name}", str(value))]) == 0
    predictions = (tmp_path / "scores" / "predictions.jsonl").read_text(encoding="utf-8")
    assert len(predictions.splitlines()) == len(clips)


def test_a_missing_package_is_named(monkeypatch, capsys):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    argv = ["--model", str(trained_model()), "--device", "cpu", "--quantization", "int4", str(corpus())]
    assert translate.main(argv) == 2
    assert capsys.readouterr().err.splitlines()[-1] == (
        "error: --quantization int4 needs the package bitsandbytes here, which is not installed. Run "
        '`pip install "flallm[quantization]"`, or leave the flag out.'
    )


def test_skipped_modules_are_added_to_a_copy():
    config = BitsAndBytesConfig(load_in_8bit=True, llm_int8_skip_modules=["fc1"])
    spared = leave_unquantized(config, SPARED)
    assert spared.llm_int8_skip_modules == ["fc1", *SPARED]
    assert config.llm_int8_skip_modules == ["fc1"]
    assert leave_unquantized({"load_in_4bit": True}, ["adapter"]).llm_int8_skip_modules == ["adapter"]


def test_a_config_that_cannot_spare_modules_is_refused():
    class Everything:
        """The config of a method that cannot skip modules."""

    with pytest.raises(ValueError, match=re.escape("Everything cannot skip modules, and quantizing")):
        leave_unquantized(Everything(), SPARED)
    for model_class in (FLaLLMForTranslation, LlavaSltForTranslation):
        with pytest.raises(ValueError, match=re.escape("Everything cannot skip modules, and quantizing")):
            model_class.from_pretrained("any/model", quantization_config=Everything())


@pytest.mark.parametrize("build", [tiny_model, tiny_llava_slt], ids=["FLa-LLM", "LLaVA-SLT"])
def test_all_that_is_not_the_language_model_is_spared(build):
    model = build()
    others = {name for name, _ in model.named_children()} - {"text_model", "language_model"}
    assert others and others <= {*model.unquantized_modules}


def bitsandbytes_config(bits: int) -> BitsAndBytesConfig:
    pytest.importorskip("bitsandbytes")
    return BitsAndBytesConfig(load_in_8bit=bits == 8, load_in_4bit=bits == 4)


def torchao_config():
    quantization = pytest.importorskip("torchao.quantization")
    from transformers import TorchAoConfig

    return TorchAoConfig(quantization.Int8WeightOnlyConfig())


@pytest.fixture
def folder(tmp_path) -> Path:
    """A model of widths that 4-bit layers can be cut into, with its processor."""
    _, processor = load_trained(str(trained_model()))
    sizes = {"d_model": 64, "encoder_ffn_dim": 128, "decoder_ffn_dim": 128, "vocab_size": len(processor.tokenizer)}
    config = FLaLLMConfig(vision_config=tiny_vision_config(), text_config=tiny_text_config("mbart", **sizes))
    FLaLLMForTranslation(config).save_pretrained(tmp_path / "original")
    processor.save_pretrained(tmp_path / "original")
    return tmp_path / "original"


CONFIGS = {
    "bitsandbytes 8": lambda: bitsandbytes_config(8),
    "bitsandbytes 4": lambda: bitsandbytes_config(4),
    "torchao 8": torchao_config,
}


@pytest.mark.parametrize("name", CONFIGS)
def test_quantization_configs_of_transformers(name, folder, tmp_path):
    config = CONFIGS[name]()
    original, _ = load_trained(str(folder))
    model = FLaLLMForTranslation.from_pretrained(folder, quantization_config=config)
    assert changed_layers(model, original) == linear_layers_of_text_model(original)
    if name != "torchao 8":  # which gives the number of bytes as if nothing were quantized
        assert model.text_model.get_memory_footprint() < original.text_model.get_memory_footprint()
    clip = features()
    settings = {"visual_features": clip, "max_new_tokens": 6}
    expected = model.generate(**settings)
    model.save_pretrained(tmp_path / "quantized")
    for auto_class in (FLaLLMForTranslation, AutoModelForSeq2SeqLM):
        again = auto_class.from_pretrained(tmp_path / "quantized")
        assert changed_layers(again, original) == linear_layers_of_text_model(original)
        assert torch.equal(again.generate(**settings), expected)


def test_pipeline_takes_a_quantization_config(folder):
    config = bitsandbytes_config(4)
    original, _ = load_trained(str(folder))
    translator = pipeline("sign-language-translation", model=str(folder), model_kwargs={"quantization_config": config})
    assert changed_layers(translator.model, original) == linear_layers_of_text_model(original)
    clip = sorted((corpus() / "test").glob("*.mp4"))[0]
    assert isinstance(translator(str(clip), max_new_tokens=6)["translation_text"], str)
    loaded, _ = load_to_translate(str(folder), CPU, "float32", "int4")
    assert changed_layers(loaded, original) == linear_layers_of_text_model(original)


@pytest.mark.parametrize("num_beams", [1, 3])
def test_a_static_cache_gives_the_same_tokens(num_beams):
    model, clip = tiny_model().double(), features().double()  # rounding must not decide between close tokens
    settings = {"num_beams": num_beams, "min_new_tokens": 6, "max_new_tokens": 6}
    expected = model.generate(visual_features=clip, **settings)
    assert torch.equal(model.generate(visual_features=clip, cache_implementation="static", **settings), expected)


def test_beams_share_one_pass_of_the_encoder_and_one_of_its_keys():
    model, calls = tiny_model(), []
    encoder, decoder = model.text_model.get_encoder(), model.text_model.get_decoder()
    for name, module in (("encoder", encoder), ("keys", decoder.layers[0].encoder_attn.k_proj)):
        module.register_forward_hook(lambda *arguments, name=name: calls.append(name))
    model.generate(visual_features=features(), num_beams=4, min_new_tokens=6, max_new_tokens=6)
    assert calls == ["encoder", "keys"]
