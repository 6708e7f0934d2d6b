"""`from_vision_text_pretrained` of both systems: options of `from_pretrained` for each of the two parts."""

from pathlib import Path

import pytest
import torch
from mini_hub import MiniHub, connect
from tiny_models import (
    VIDEO_TOKEN,
    random_batch,
    random_prompts,
    tiny_language_model_config,
    tiny_llava_slt,
    tiny_model,
    tiny_text_config,
    video_of,
)
from transformers import AutoModelForCausalLM, AutoModelForSeq2SeqLM, PreTrainedModel

from modeling_flallm import FLaLLMForTranslation, LlavaSltForTranslation

# System -> class, its parts' names, further arguments.
SYSTEMS = {
    "FLa-LLM": (FLaLLMForTranslation, "text_model", "adapter", ()),
    "LLaVA-SLT": (LlavaSltForTranslation, "language_model", "connector", (VIDEO_TOKEN,)),
}


def make_text_model(system: str) -> PreTrainedModel:
    if system == "FLa-LLM":
        return AutoModelForSeq2SeqLM.from_config(tiny_text_config("mbart"))
    return AutoModelForCausalLM.from_config(tiny_language_model_config("llama"))


def save_vision_model(system: str, folder: Path) -> str:
    (tiny_model() if system == "FLa-LLM" else tiny_llava_slt()).save_pretrained(folder)
    return str(folder)


def files_of(model: PreTrainedModel, folder: Path) -> dict[str, bytes]:
    model.save_pretrained(folder)
    return {path.name: path.read_bytes() for path in folder.iterdir()}


@pytest.mark.parametrize("system", SYSTEMS)
def test_each_part_takes_options_of_from_pretrained(system, tmp_path):
    model_class, text_model, new_part, arguments = SYSTEMS[system]
    vision = save_vision_model(system, tmp_path / "vision")
    make_text_model(system).save_pretrained(tmp_path / "text")
    model = model_class.from_vision_text_pretrained(
        vision,
        str(tmp_path / "text"),
        *arguments,
        text_dtype=torch.bfloat16,
        text_device_map={"": "cpu"},
        text_attn_implementation="eager",
        vision_dtype=torch.float64,
        label_smoothing=0.3,
    )
    dtypes = {name.split(".")[0]: value.dtype for name, value in model.named_parameters()}
    assert dtypes == {"vision_model": torch.float64, text_model: torch.bfloat16, new_part: torch.bfloat16}
    assert getattr(model, text_model).config._attn_implementation == "eager"
    assert model.config.label_smoothing == 0.3
    inputs = video_of(random_batch([8, 5])) if system == "FLa-LLM" else random_prompts([8, 5])
    assert model(**inputs).logits.isfinite().all()
    with pytest.raises(ValueError, match="the value needs to be a device name"):
        model_class.from_vision_text_pretrained(vision, str(tmp_path / "text"), *arguments, text_device_map="elsewhere")


@pytest.mark.parametrize("system", SYSTEMS)
def test_a_part_is_read_at_its_revision_with_its_token(system, tmp_path, monkeypatch):
    model_class, text_model, _, arguments = SYSTEMS[system]
    vision = save_vision_model(system, tmp_path / "vision")
    name_on_hub = f"me/text-of-{system}"
    first, second = make_text_model(system), make_text_model(system)
    with MiniHub() as hub:
        repository = hub.create_repository(name_on_hub, private=True)
        commits = []
        for index, model in enumerate((first, second)):
            for name, content in files_of(model, tmp_path / f"text{index}").items():
                commit = repository.change_file(name, content)
            commits.append(commit)
        connect(monkeypatch, hub.url, token=None)
        load = model_class.from_vision_text_pretrained
        with pytest.raises(ValueError, match=f"Expected {name_on_hub!r} to be a "):
            load(vision, name_on_hub, *arguments)
        for model, revision in ((first, commits[0]), (second, "main")):
            loaded = load(vision, name_on_hub, *arguments, text_revision=revision, text_token=hub.token)
            expected = model.get_input_embeddings().weight
            assert torch.equal(getattr(loaded, text_model).get_input_embeddings().weight, expected)


@pytest.mark.parametrize("system", SYSTEMS)
def test_an_unknown_option_is_refused(system, tmp_path):
    model_class, _, _, arguments = SYSTEMS[system]
    vision = save_vision_model(system, tmp_path / "vision")
    make_text_model(system).save_pretrained(tmp_path / "text")
    with pytest.raises(TypeError, match="text_revison|revison"):
        model_class.from_vision_text_pretrained(vision, str(tmp_path / "text"), *arguments, text_revison="main")
