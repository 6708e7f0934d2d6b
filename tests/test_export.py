"""The files that `save_pretrained` writes: weights, names for the Auto classes, and the Python files they need."""

import json
from pathlib import Path

import pytest
import torch
from saved_python_files import PROCESSOR_FILES, check_imports, python_files
from tiny_corpus import language_model, trained_model
from tiny_models import random_batch, tiny_model, tiny_vision_model
from transformers import AutoConfig, AutoModel, AutoModelForSeq2SeqLM, AutoProcessor, AutoVideoProcessor, pipeline
from without_our_packages import run_without_our_packages

from modeling_flallm import FLaLLMConfig, FLaLLMForTranslation, FLaLLMVisionModel, SignLanguageTranslationPipeline
from processing import FLaLLMProcessor, FLaLLMVideoProcessor

ROOT = Path(__file__).resolve().parent.parent
MODEL_FILES = {
    "adapter_slt.py",
    "backbone_slt.py",
    "batch_norm_slt.py",
    "calibration_slt.py",
    "choice_slt.py",
    "clip_translation_slt.py",
    "confidence_slt.py",
    "configuration_encoder_combined_slt.py",
    "configuration_encoder_described_slt.py",
    "configuration_encoder_frames_slt.py",
    "configuration_encoder_poses_slt.py",
    "configuration_encoder_pretrained_slt.py",
    "configuration_encoder_two_levels_slt.py",
    "configuration_encoder_words_slt.py",
    "configuration_features_slt.py",
    "configuration_flallm.py",
    "dataset_rows_slt.py",
    "encoder_combined_slt.py",
    "encoder_described_slt.py",
    "encoder_features_slt.py",
    "encoder_frames_slt.py",
    "encoder_poses_slt.py",
    "encoder_pretrained_slt.py",
    "encoder_registry_slt.py",
    "encoder_two_levels_slt.py",
    "encoder_words_slt.py",
    "encoders_slt.py",
    "handedness_slt.py",
    "hub_card_slt.py",
    "hub_export_slt.py",
    "language_encoder_decoder_slt.py",
    "language_kind_slt.py",
    "linear_layers_slt.py",
    "loading_slt.py",
    "long_videos_slt.py",
    "losses_slt.py",
    "modeling_flallm.py",
    "pipeline_inputs_slt.py",
    "pipeline_slt.py",
    "pretrained_vision_slt.py",
    "prior_guided_fusion_slt.py",
    "sign_encoder_slt.py",
    "streaming_slt.py",
    "systems.py",
    "translation_model_slt.py",
    "word_evidence_slt.py",
}


def read_json(path: Path) -> dict:
    return json.loads(path.read_text(encoding="utf-8"))


@pytest.fixture
def saved(tmp_path) -> tuple[FLaLLMForTranslation, Path]:
    model = tiny_model(word_presence_loss_weight=1.0)
    model.save_pretrained(tmp_path / "model", max_shard_size="20KB")
    return model, tmp_path / "model"


def test_a_saved_model_carries_the_python_files_it_needs_and_no_others(saved):
    _, folder = saved
    assert python_files(folder) == MODEL_FILES
    for name in MODEL_FILES:
        assert (folder / name).read_bytes() == (ROOT / "modeling_flallm" / name).read_bytes()


def test_saved_python_files_import_only_each_other_and_common_libraries(saved, tmp_path):
    _, folder = saved
    FLaLLMProcessor.from_pretrained(trained_model()).save_pretrained(folder)
    assert python_files(folder) == MODEL_FILES | PROCESSOR_FILES
    check_imports(folder)


def test_weights_are_sharded_safetensors_and_load_equal(saved):
    model, folder = saved
    shards = sorted(folder.glob("*.safetensors"))
    assert len(shards) > 2 and {*read_json(folder / "model.safetensors.index.json")["weight_map"].values()} == {
        shard.name for shard in shards
    }
    assert not [path for path in folder.iterdir() if path.suffix in (".bin", ".pt", ".pkl")]
    inputs = random_batch([9, 5])
    loaded = FLaLLMForTranslation.from_pretrained(folder)
    torch.testing.assert_close(loaded(**inputs).logits, model(**inputs).logits)


def test_the_configuration_names_the_auto_classes_and_the_pipeline(saved):
    _, folder = saved
    config = read_json(folder / "config.json")
    assert config["auto_map"] == {
        "AutoConfig": "configuration_flallm.FLaLLMConfig",
        "AutoModel": "modeling_flallm.FLaLLMForTranslation",
        "AutoModelForSeq2SeqLM": "modeling_flallm.FLaLLMForTranslation",
    }
    pipelines = config["custom_pipelines"]
    assert pipelines.keys() == {"sign-language-translation"}
    assert pipelines["sign-language-translation"]["impl"] == "pipeline_slt.SignLanguageTranslationPipeline"


def test_saving_leaves_the_model_in_memory_as_it_was(tmp_path):
    model = tiny_model()
    before = model.config.to_dict()
    model.save_pretrained(tmp_path)
    assert model.config.to_dict() == before


def test_where_the_pipeline_lies_is_no_property_of_the_installed_package(saved):
    """Else `pipeline(task, model=folder)` would ask for trust in code that it does not need."""
    _, folder = saved
    assert not hasattr(FLaLLMConfig.from_pretrained(folder), "custom_pipelines")


def test_names_of_another_repository_do_not_survive_saving(tmp_path):
    model = tiny_model()
    model.config.auto_map = {"AutoModel": "somebody/else--modeling_other.Other", "AutoModelForCausalLM": "x--y.Z"}
    model.save_pretrained(tmp_path)
    assert "--" not in json.dumps(read_json(tmp_path / "config.json")["auto_map"])
    assert "AutoModelForCausalLM" not in read_json(tmp_path / "config.json")["auto_map"]


def test_the_visual_encoder_alone_is_saved_and_loads_with_auto_model(tmp_path):
    model = tiny_vision_model()
    model.save_pretrained(tmp_path)
    assert python_files(tmp_path) == {
        "batch_norm_slt.py",
        "configuration_encoder_frames_slt.py",
        "encoder_frames_slt.py",
        "hub_card_slt.py",
        "loading_slt.py",
        "sign_encoder_slt.py",
        "systems.py",
    }
    assert read_json(tmp_path / "config.json")["auto_map"]["AutoModel"] == "encoder_frames_slt.FLaLLMVisionModel"
    loaded = AutoModel.from_pretrained(tmp_path)
    assert type(loaded) is FLaLLMVisionModel
    pixels = random_batch([6])["pixel_values_videos"]
    torch.testing.assert_close(loaded(pixels).last_hidden_state, model(pixels).last_hidden_state)


@pytest.mark.parametrize("trust_remote_code", [None, True])
def test_the_installed_package_is_used_where_there_is_one(trust_remote_code):
    folder, trust = trained_model(), {"trust_remote_code": trust_remote_code}
    assert type(AutoConfig.from_pretrained(folder, **trust)) is FLaLLMConfig
    assert type(AutoModel.from_pretrained(folder, **trust)) is FLaLLMForTranslation
    assert type(AutoModelForSeq2SeqLM.from_pretrained(folder, **trust)) is FLaLLMForTranslation
    assert type(AutoProcessor.from_pretrained(folder, **trust)) is FLaLLMProcessor
    assert type(AutoVideoProcessor.from_pretrained(folder, **trust)) is FLaLLMVideoProcessor


def test_the_installed_pipeline_needs_no_trust():
    assert type(pipeline("sign-language-translation", model=str(trained_model()))) is SignLanguageTranslationPipeline


def test_a_saved_folder_holds_no_path_of_this_machine(tmp_path):
    """The paths of the models that it was made from must not be shared."""
    model = FLaLLMForTranslation.from_vision_text_pretrained(str(trained_model()), str(language_model()))
    model.save_pretrained(tmp_path)
    FLaLLMProcessor.from_pretrained(trained_model()).save_pretrained(tmp_path)
    texts = {path.name: path.read_text(encoding="utf-8") for path in tmp_path.iterdir() if path.suffix == ".json"}
    assert "config.json" in texts and "tokenizer_config.json" in texts
    assert [name for name, text in texts.items() if str(trained_model().parent) in text] == []


@pytest.mark.slow
def test_what_is_saved_from_remote_code_is_whole_again(saved, tmp_path):
    """Fine-tune a model from the Hub without our package, save it, and load the result."""
    model, folder = saved
    inputs = random_batch([9, 5])
    torch.save(inputs, tmp_path / "inputs.pt")
    code = """
import sys, torch
from transformers import AutoModel, AutoModelForSeq2SeqLM
inputs = torch.load("inputs.pt", weights_only=True)
AutoModelForSeq2SeqLM.from_pretrained(sys.argv[1], trust_remote_code=True).save_pretrained("again")
model = AutoModel.from_pretrained("again", trust_remote_code=True)
assert type(model).__module__.startswith("transformers_modules."), type(model)
torch.save(model(**inputs).logits, "logits.pt")
"""
    run_without_our_packages(code, str(folder), folder=tmp_path)
    assert python_files(tmp_path / "again") == MODEL_FILES
    first, second = (read_json(path / "config.json") for path in (folder, tmp_path / "again"))
    for key in ("auto_map", "custom_pipelines", "architectures", "model_type"):
        assert first[key] == second[key]
    logits = torch.load(tmp_path / "logits.pt", weights_only=True)
    torch.testing.assert_close(logits, model(**inputs).logits)
