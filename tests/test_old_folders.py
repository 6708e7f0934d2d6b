"""
Folders that were saved before encoders, adapters and language models became parts with a contract still load and give
the same numbers. `old_folders/` holds them, written at commit 7ff939e on transformers 5.24: random weights, and in
`expected.json` what they answered to the inputs below. Never write these folders anew.
"""

import json
import math
from pathlib import Path

import pytest
import torch
from peft import PeftModel
from torch.testing import assert_close
from transformers import AutoConfig, AutoModel, AutoProcessor

from modeling_flallm import (
    FLaLLMForTranslation,
    FLaLLMVisionModel,
    LlavaSltForContrastivePreTraining,
    LlavaSltForTranslation,
    LlavaSltVisualEncoder,
)

FOLDERS = Path(__file__).resolve().parent / "old_folders"
LABELS = torch.tensor([[8, 12, 13, 1], [9, 14, 1, -100]])
WORD_IDS = torch.tensor([[0, 3, -100], [6, 1, 2]])
MODELS = {
    "flallm": FLaLLMForTranslation,
    "flallm_vision": FLaLLMVisionModel,
    "llava_slt": LlavaSltForTranslation,
    "llava_slt_contrastive": LlavaSltForContrastivePreTraining,
    "llava_slt_visual": LlavaSltVisualEncoder,
}
PROMPT = ("input_ids", "attention_mask", "labels")


def wave(*shape: int, rate: float = 0.37) -> torch.Tensor:
    """The same numbers from -1 to 1 everywhere."""
    return torch.arange(math.prod(shape)).mul(rate).sin().view(shape)


def clips() -> dict[str, torch.Tensor]:
    mask = torch.tensor([[1] * 6, [1] * 4 + [0] * 2])
    return {"pixel_values_videos": wave(2, 6, 3, 16, 16), "pixel_attention_mask": mask}


def expected_of(folder: str) -> dict:
    return json.loads((FOLDERS / folder / "expected.json").read_text(encoding="utf-8"))


def inputs_of(name: str) -> dict[str, torch.Tensor]:
    """Further inputs of a model of this kind, beside the clips."""
    if name == "flallm":
        return {"labels": LABELS}
    if name == "llava_slt":
        answers = expected_of(name)
        return {"logits_to_keep": 0, **{part: torch.tensor(answers[part]) for part in PROMPT}}
    if name == "llava_slt_contrastive":
        return {"sentence_embeddings": wave(2, 6), "word_ids": WORD_IDS}
    return {}


def assert_answers(output: dict, expected: dict) -> None:
    asked = set(expected) - {*PROMPT, "token_ids"}
    assert asked and asked <= set(output)
    for name in asked:
        assert_close(output[name].double(), torch.tensor(expected[name]).double(), atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("name", MODELS)
@torch.no_grad()
def test_an_old_folder_gives_the_numbers_that_it_gave(name):
    model = MODELS[name].from_pretrained(FOLDERS / name)
    assert_answers(model(**clips(), **inputs_of(name)), expected_of(name))


@pytest.mark.parametrize("name", MODELS)
def test_auto_classes_find_what_an_old_folder_holds(name):
    assert AutoConfig.from_pretrained(FOLDERS / name).model_type == name
    assert type(AutoModel.from_pretrained(FOLDERS / name)) is MODELS[name]


@pytest.mark.parametrize("name", ["flallm", "llava_slt"])
@torch.no_grad()
def test_an_old_low_rank_adapter_fits(name):
    model = PeftModel.from_pretrained(MODELS[name].from_pretrained(FOLDERS / name), str(FOLDERS / f"{name}_lora"))
    assert_answers(model(**clips(), **inputs_of(name)), expected_of(f"{name}_lora"))


@pytest.mark.parametrize("name", ["flallm", "llava_slt"])
def test_an_old_folder_with_its_processor_writes_the_same_sentence(name):
    processor = AutoProcessor.from_pretrained(FOLDERS / name)
    clip = (128 + 100 * wave(6, 16, 16, 3, rate=0.11)).round().byte().numpy()
    token_ids = MODELS[name].from_pretrained(FOLDERS / name).generate(**processor(videos=[clip], return_tensors="pt"))
    assert token_ids[0].tolist() == expected_of(name)["token_ids"]


@pytest.mark.parametrize(
    ("whole", "part"),
    [
        ("flallm", FLaLLMVisionModel),
        ("llava_slt", LlavaSltVisualEncoder),
        ("llava_slt_contrastive", LlavaSltVisualEncoder),
    ],
)
def test_the_encoder_loads_alone_from_an_old_folder(whole, part):
    encoder = part.from_pretrained(FOLDERS / whole)
    weights = MODELS[whole].from_pretrained(FOLDERS / whole).vision_model.state_dict()
    assert_close(dict(encoder.state_dict()), dict(weights), atol=0, rtol=0)


def test_a_calibration_in_an_old_config_json_is_read():
    calibration = AutoConfig.from_pretrained(FOLDERS / "flallm").confidence_calibration
    assert calibration["slope"] == 1.5 and len(calibration["mean_features"]) == 8


def test_a_calibration_in_an_old_config_json_moves_into_its_file_when_the_model_is_saved(tmp_path):
    model = FLaLLMForTranslation.from_pretrained(FOLDERS / "flallm")
    model.save_pretrained(tmp_path)
    assert "confidence_calibration" not in json.loads((tmp_path / "config.json").read_text(encoding="utf-8"))
    loaded = FLaLLMForTranslation.from_pretrained(tmp_path)
    old = json.loads((FOLDERS / "flallm" / "config.json").read_text(encoding="utf-8"))
    assert loaded.config.confidence_calibration == model.config.confidence_calibration == old["confidence_calibration"]


def test_an_old_folder_without_a_calibration_is_not_calibrated():
    assert LlavaSltForTranslation.from_pretrained(FOLDERS / "llava_slt").config.confidence_calibration is None
