"""The files that `save_pretrained` writes for LLaVA-SLT, which load with and without our packages."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from saved_python_files import PROCESSOR_FILES, check_imports, python_files
from test_pipeline_llava_slt import TASK, make_processor
from tiny_models import VIDEO_TOKEN, random_batch, tiny_contrastive_model, tiny_llava_slt
from torch.testing import assert_close
from transformers import AutoConfig, AutoModel, AutoModelForImageTextToText, AutoProcessor, pipeline
from video_files import write_video
from without_our_packages import run_without_our_packages

from modeling_flallm import (
    LlavaSltConfig,
    LlavaSltForContrastivePreTraining,
    LlavaSltForTranslation,
    LlavaSltVisualEncoder,
    SignLanguageTranslationPipeline,
)
from processing import LlavaSltProcessor

ROOT = Path(__file__).resolve().parent.parent
ENCODER_FILES = {  # its frame level can be any encoder
    "adapter_slt.py",
    "backbone_slt.py",
    "batch_norm_slt.py",
    "calibration_slt.py",
    "configuration_encoder_combined_slt.py",
    "configuration_encoder_described_slt.py",
    "configuration_encoder_frames_slt.py",
    "configuration_encoder_poses_slt.py",
    "configuration_encoder_pretrained_slt.py",
    "configuration_encoder_two_levels_slt.py",
    "configuration_encoder_words_slt.py",
    "configuration_features_slt.py",
    "configuration_flallm.py",
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
    "hub_card_slt.py",
    "loading_slt.py",
    "losses_slt.py",
    "pretrained_vision_slt.py",
    "prior_guided_fusion_slt.py",
    "sign_encoder_slt.py",
    "systems.py",
}
WITH_AN_ENCODER = ENCODER_FILES | {"configuration_llava_slt.py"}
CONTRASTIVE_FILES = WITH_AN_ENCODER | {"modeling_llava_slt_contrastive.py"}
MODEL_FILES = WITH_AN_ENCODER | {
    "choice_slt.py",
    "clip_translation_slt.py",
    "confidence_slt.py",
    "dataset_rows_slt.py",
    "handedness_slt.py",
    "hub_export_slt.py",
    "language_kind_slt.py",
    "linear_layers_slt.py",
    "language_prompted_slt.py",
    "long_videos_slt.py",
    "modeling_llava_slt.py",
    "pipeline_inputs_slt.py",
    "pipeline_slt.py",
    "streaming_slt.py",
    "translation_model_slt.py",
    "word_evidence_slt.py",
}
PROMPTED_PROCESSOR_FILES = PROCESSOR_FILES | {
    "chat_template_slt.py",
    "processing_llava_slt.py",
}

LOAD_EVERYTHING = """
import json, sys
import torch
from transformers import AutoConfig, AutoModel, AutoModelForImageTextToText, AutoProcessor, pipeline

folder, visual, contrastive, clip = sys.argv[1:]
trust = {"trust_remote_code": True}
processor = AutoProcessor.from_pretrained(folder, **trust)
inputs = processor(videos=clip, return_tensors="pt")

def sentence(model):
    return processor.batch_decode(model.eval().generate(**inputs, num_beams=2))[0]

model = AutoModelForImageTextToText.from_pretrained(folder, **trust)
AutoModel.from_pretrained(folder, **trust).save_pretrained("again")
processor.save_pretrained("again")
translator = pipeline("sign-language-translation", folder, **trust)
ours = [AutoConfig.from_pretrained(folder, **trust), processor, processor.video_processor, model, translator]
encoders = [AutoModel.from_pretrained(each, **trust) for each in (visual, contrastive)]
pixels = torch.load("pixels.pt", weights_only=True)
torch.save([encoders[0](pixels).pooler_output, encoders[1](pixels).video_embeddings], "embeddings.pt")
print(json.dumps({
    "classes": [type(each).__name__ for each in [*ours, *encoders]],
    "packages": sorted({type(each).__module__.split(".")[0] for each in [*ours, *encoders]}),
    "sentences": [
        sentence(model),
        sentence(AutoModel.from_pretrained(folder, **trust)),
        sentence(AutoModelForImageTextToText.from_pretrained("again", **trust)),
        translator(clip, num_beams=2)["translation_text"],
        pipeline(model="again", **trust)(clip, num_beams=2, return_timestamps=True)["translation_text"],
    ],
}))
"""


def read_config(folder: Path) -> dict:
    return json.loads((folder / "config.json").read_text(encoding="utf-8"))


@pytest.fixture
def saved(tmp_path) -> tuple[LlavaSltForTranslation, Path]:
    model = tiny_llava_slt("qwen2")
    model.save_pretrained(tmp_path / "model")
    make_processor(spoken_language="German").save_pretrained(tmp_path / "model")
    return model, tmp_path / "model"


def test_a_saved_folder_carries_the_python_files_it_needs_and_no_others(saved):
    _, folder = saved
    assert python_files(folder) == MODEL_FILES | PROMPTED_PROCESSOR_FILES
    for path in folder.glob("*.py"):
        package = "modeling_flallm" if path.name in MODEL_FILES else "processing"
        assert path.read_bytes() == (ROOT / package / path.name).read_bytes()
    check_imports(folder)


def test_the_configuration_names_the_auto_classes_and_the_pipeline(saved):
    model, folder = saved
    config = read_config(folder)
    assert config["auto_map"] == {
        "AutoConfig": "configuration_llava_slt.LlavaSltConfig",
        "AutoModel": "modeling_llava_slt.LlavaSltForTranslation",
        "AutoModelForImageTextToText": "modeling_llava_slt.LlavaSltForTranslation",
    }
    assert config["custom_pipelines"] == {
        TASK: {
            "impl": "pipeline_slt.SignLanguageTranslationPipeline",
            "pt": ["AutoModelForImageTextToText"],
            "type": "multimodal",
        }
    }
    assert not hasattr(model.config, "custom_pipelines") and not hasattr(model.config, "auto_map")
    assert not hasattr(LlavaSltConfig.from_pretrained(folder), "custom_pipelines")


@pytest.mark.parametrize("trust_remote_code", [None, True])
def test_the_installed_package_is_used_where_there_is_one(saved, trust_remote_code):
    _, folder = saved
    trust = {"trust_remote_code": trust_remote_code}
    assert type(AutoConfig.from_pretrained(folder, **trust)) is LlavaSltConfig
    assert type(AutoModel.from_pretrained(folder, **trust)) is LlavaSltForTranslation
    assert type(AutoModelForImageTextToText.from_pretrained(folder, **trust)) is LlavaSltForTranslation
    assert type(AutoProcessor.from_pretrained(folder, **trust)) is LlavaSltProcessor


def test_the_installed_pipeline_needs_no_trust(saved):
    model, folder = saved
    translator = pipeline(TASK, model=str(folder))
    assert type(translator) is SignLanguageTranslationPipeline
    assert type(translator.model) is LlavaSltForTranslation and translator.processor.spoken_language == "German"


def test_the_visual_side_is_saved_alone(tmp_path):
    for model, class_, file_name, files in (
        (
            tiny_contrastive_model(memory_bank_size=3),
            LlavaSltForContrastivePreTraining,
            "modeling_llava_slt_contrastive",
            CONTRASTIVE_FILES,
        ),
        (tiny_contrastive_model().vision_model, LlavaSltVisualEncoder, "encoder_words_slt", ENCODER_FILES),
    ):
        folder = tmp_path / class_.__name__
        model.save_pretrained(folder)
        assert python_files(folder) == files
        assert read_config(folder)["auto_map"]["AutoModel"] == f"{file_name}.{class_.__name__}"
        loaded = AutoModel.from_pretrained(folder)
        assert type(loaded) is class_
        assert all(torch.equal(value, loaded.state_dict()[name]) for name, value in model.state_dict().items())


@pytest.mark.slow
def test_everything_loads_where_nothing_of_ours_is(saved, tmp_path):
    model, folder = saved
    contrastive = tiny_contrastive_model()
    contrastive.save_pretrained(tmp_path / "contrastive")
    contrastive.vision_model.save_pretrained(tmp_path / "visual")
    pixels = random_batch([6, 6])["pixel_values_videos"]
    torch.save(pixels, tmp_path / "pixels.pt")
    clip = tmp_path / "clip.mp4"
    write_video(clip, np.random.randint(0, 256, (20, 36, 36, 3), dtype=np.uint8))
    found = json.loads(
        run_without_our_packages(
            LOAD_EVERYTHING,
            *map(str, (folder, tmp_path / "visual", tmp_path / "contrastive", clip)),
            folder=tmp_path,
        ).splitlines()[-1]
    )
    assert found["classes"] == [
        "LlavaSltConfig",
        "LlavaSltProcessor",
        "FLaLLMVideoProcessor",
        "LlavaSltForTranslation",
        "SignLanguageTranslationPipeline",
        "LlavaSltVisualEncoder",
        "LlavaSltForContrastivePreTraining",
    ]
    assert found["packages"] == ["transformers_modules"]
    processor = LlavaSltProcessor.from_pretrained(folder)
    assert processor.video_token_id == VIDEO_TOKEN
    expected = processor.batch_decode(model.generate(**processor(videos=str(clip), return_tensors="pt"), num_beams=2))
    assert found["sentences"] == expected * 5
    assert python_files(tmp_path / "again") == MODEL_FILES | PROMPTED_PROCESSOR_FILES
    for name in ("auto_map", "custom_pipelines", "architectures"):
        assert read_config(folder)[name] == read_config(tmp_path / "again")[name]
    embeddings = torch.load(tmp_path / "embeddings.pt", weights_only=True)
    assert_close(embeddings[0], contrastive.vision_model(pixels).pooler_output, atol=1e-4, rtol=1e-4)
    assert_close(embeddings[1], contrastive(pixels).video_embeddings, atol=1e-4, rtol=1e-4)
