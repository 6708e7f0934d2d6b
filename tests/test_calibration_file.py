"""The file of a calibration: saved and loaded with a model, here and on the Hub, and never that of other weights."""

import json
import re
import shutil
from pathlib import Path

import huggingface_hub
import pytest
import torch
import transformers
from mini_hub import MiniHub, connect
from peft import LoraConfig, get_peft_model
from test_push_to_hub import REPO_ID, WAYS
from tiny_corpus import WITHOUT_EVALUATION, flags, stage1_flags, trained_model
from tiny_models import tiny_llava_slt, tiny_model
from transformers import AutoConfig, AutoModel, AutoModelForSeq2SeqLM, pipeline
from without_our_packages import run_without_our_packages

from modeling_flallm import FLaLLMForTranslation
from modeling_flallm.calibration_slt import CALIBRATION_FILE
from train_scripts.commands import push_to_hub
from train_scripts.runs.trained_models import load_trained
from train_scripts.stages import visual_initialing

pytestmark = pytest.mark.slow

CURVE = {"slope": 2.5, "intercept": -1}
OTHER_CURVE = {"slope": 0.5, "intercept": 0.25}


@pytest.fixture
def hub(monkeypatch, tmp_path):
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path / "hub_cache"))
    with MiniHub() as hub:
        connect(monkeypatch, hub.url, hub.token)
        yield hub


@pytest.fixture
def folder(tmp_path) -> Path:
    """A model with its processor, calibrated."""
    folder = shutil.copytree(trained_model(), tmp_path / "model")
    write(folder, CURVE)
    return folder


def write(folder: Path, calibration: dict | None) -> None:
    (folder / CALIBRATION_FILE).write_text(json.dumps(calibration), encoding="utf-8")


def files_of(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir() if path.is_file()}


def on_hub(hub: MiniHub, revision: str = "main") -> dict | None | str:
    """What the calibration file says."""
    file = hub.repository(REPO_ID).files(revision).get(CALIBRATION_FILE)
    return "no file" if file is None else json.loads(file.content)


# In a folder


@pytest.mark.parametrize("make", [tiny_model, tiny_llava_slt])
def test_a_calibration_is_saved_and_loaded_with_the_model(make, tmp_path):
    model = make()
    width = model.config.vision_config.hidden_size
    calibration = {**CURVE, "mean_features": torch.rand(width).tolist(), "largest_distance": 0.2}
    model.config.confidence_calibration = calibration
    model.save_pretrained(tmp_path)
    assert "mean_features" not in (tmp_path / "config.json").read_text(encoding="utf-8")
    assert model.config.confidence_calibration == calibration
    loaded, loading_info = type(model).from_pretrained(tmp_path, output_loading_info=True)
    assert not loading_info["missing_keys"]
    for again in (loaded, type(model).from_pretrained(str(tmp_path)), AutoModel.from_pretrained(tmp_path)):
        assert again.config.confidence_calibration == calibration


def test_a_model_without_the_file_is_not_calibrated(tmp_path):
    tiny_model().save_pretrained(tmp_path)
    assert not (tmp_path / CALIBRATION_FILE).exists()
    assert FLaLLMForTranslation.from_pretrained(tmp_path).config.confidence_calibration is None


def test_the_pipeline_reads_the_file(folder):
    assert pipeline("sign-language-translation", folder).model.config.confidence_calibration == CURVE


def test_the_file_counts_and_not_what_config_json_still_says(folder):
    config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    (folder / "config.json").write_text(json.dumps({**config, "confidence_calibration": OTHER_CURVE}))
    assert FLaLLMForTranslation.from_pretrained(folder).config.confidence_calibration == CURVE
    write(folder, None)
    assert FLaLLMForTranslation.from_pretrained(folder).config.confidence_calibration is None


def test_a_calibration_that_is_passed_counts_and_not_the_file(folder):
    for given in (None, OTHER_CURVE):
        model = FLaLLMForTranslation.from_pretrained(folder, confidence_calibration=given)
        assert model.config.confidence_calibration == given


def test_a_subfolder(tmp_path):
    model = tiny_model(confidence_calibration=CURVE)
    model.save_pretrained(tmp_path / "inner")
    loaded = FLaLLMForTranslation.from_pretrained(tmp_path, subfolder="inner")
    assert loaded.config.confidence_calibration == CURVE


def test_weights_without_a_folder_have_no_calibration():
    model = tiny_model()
    loaded = FLaLLMForTranslation.from_pretrained(None, config=model.config, state_dict=model.state_dict())
    assert loaded.config.confidence_calibration is None


def test_a_model_without_calibration_removes_that_of_the_weights_it_replaces(folder):
    model = tiny_model()
    model.save_pretrained(folder, is_main_process=False)
    assert (folder / CALIBRATION_FILE).is_file()
    model.save_pretrained(folder)
    assert not (folder / CALIBRATION_FILE).exists()


def test_saving_the_configuration_alone_leaves_the_file(folder):
    before = files_of(folder)[CALIBRATION_FILE]
    AutoConfig.from_pretrained(folder).save_pretrained(folder)
    assert files_of(folder)[CALIBRATION_FILE] == before


def test_an_adapter_has_the_calibration_of_its_base(folder, tmp_path):
    adapter = tmp_path / "adapter"
    lora = LoraConfig(r=2, target_modules=r"text_model\..*\.q_proj")
    get_peft_model(FLaLLMForTranslation.from_pretrained(folder), lora).save_pretrained(str(adapter))
    assert CALIBRATION_FILE not in files_of(adapter)
    for model_class in (FLaLLMForTranslation, AutoModelForSeq2SeqLM):
        model = model_class.from_pretrained(adapter)
        assert model.config.confidence_calibration == CURVE


def test_an_adapter_that_is_saved_into_the_folder_of_its_base_leaves_the_file(folder, monkeypatch):
    """As transformers saves a model with an adapter: without its config.json."""
    monkeypatch.setattr(transformers.integrations.peft, "check_peft_version", lambda min_version: None)
    model = FLaLLMForTranslation.from_pretrained(folder, confidence_calibration=None)
    model.add_adapter(LoraConfig(r=2, target_modules=r"text_model\..*\.q_proj"))
    model.save_pretrained(folder)
    assert {"adapter_model.safetensors", CALIBRATION_FILE} <= set(files_of(folder))


WHAT_IT_HOLDS = "must hold `slope` and `intercept`, and may hold"
DAMAGES = {
    "empty": ("", "Expecting value: line 1 column 1 (char 0). Copy"),
    "half": ('{"slope": 1.0, "inter', "Unterminated string"),
    "no dictionary": ("[1]", f"{WHAT_IT_HOLDS} `lowest_score`, `highest_score` and, together, `mean_features` and "
                             "`largest_distance`, got [1]. Make it with flallm calibrate. Copy"),
    "half of the values": ('{"slope": 1.0}', WHAT_IT_HOLDS),
    "NaN": ('{"slope": NaN, "intercept": 1}', "`slope` of `confidence_calibration` must be a number of 0 or more"),
    "of another width": (
        json.dumps({**CURVE, "mean_features": [0.5], "largest_distance": 0.1}),
        "`mean_features` of `confidence_calibration` must be a list of 24 numbers",
    ),
    "no text": (b"\xff\xfe\x00", "'utf-8' codec can't decode byte 0xff"),
    "too deep": ("[" * 100_000, "maximum recursion depth exceeded"),
}  # fmt: skip


@pytest.mark.parametrize("name", DAMAGES)
def test_a_damaged_file_is_named(name, folder):
    content, reason = DAMAGES[name]
    path = folder / CALIBRATION_FILE
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    for load in (FLaLLMForTranslation.from_pretrained, load_trained):
        with pytest.raises(ValueError, match=re.escape(reason)) as error:
            load(str(folder))
        assert str(error.value).startswith(f"{path} is no calibration of this model: ")
        assert str(error.value).endswith(
            "Copy or download it again, or run flallm calibrate. Without this file the model loads, but gives no "
            "confidence."
        )


def test_a_calibration_is_saved_and_read_without_our_packages(folder, tmp_path):
    model, processor = load_trained(str(folder))
    model.save_pretrained(tmp_path / "saved")
    processor.save_pretrained(tmp_path / "saved")
    code = """
import json, sys
from transformers import AutoModel, AutoModelForSeq2SeqLM, pipeline
folder, again = sys.argv[1:]
models = [each.from_pretrained(folder, trust_remote_code=True) for each in (AutoModel, AutoModelForSeq2SeqLM)]
models.append(pipeline("sign-language-translation", folder, trust_remote_code=True).model)
models[0].save_pretrained(again)
models.append(AutoModel.from_pretrained(again, trust_remote_code=True))
print(json.dumps([model.config.confidence_calibration for model in models]))
"""
    arguments = (str(tmp_path / "saved"), str(tmp_path / "again"))
    assert json.loads(run_without_our_packages(code, *arguments, folder=tmp_path)) == [CURVE] * 4


# On the Hub


@pytest.mark.parametrize("way", WAYS)
def test_the_methods_of_transformers_send_the_calibration_or_replace_it(way, hub, tmp_path):
    calibrated, uncalibrated = tiny_model(confidence_calibration=CURVE), tiny_model()
    WAYS[way](uncalibrated, tmp_path / "saved")
    assert on_hub(hub) == "no file"
    WAYS[way](calibrated, tmp_path / "saved")
    assert on_hub(hub) == CURVE
    assert FLaLLMForTranslation.from_pretrained(REPO_ID).config.confidence_calibration == CURVE
    WAYS[way](uncalibrated, tmp_path / "saved")
    assert on_hub(hub) is None
    assert FLaLLMForTranslation.from_pretrained(REPO_ID).config.confidence_calibration is None
    WAYS[way](calibrated, tmp_path / "saved")
    assert on_hub(hub) == CURVE


def test_a_new_branch_does_not_take_over_the_calibration_of_the_main_one(hub):
    tiny_model(confidence_calibration=CURVE).push_to_hub(REPO_ID)
    tiny_model().push_to_hub(REPO_ID, revision="other")
    assert on_hub(hub) == CURVE and on_hub(hub, "other") is None


def test_the_calibration_is_read_from_the_revision_of_the_model(hub):
    tiny_model(confidence_calibration=CURVE).push_to_hub(REPO_ID)
    first = hub.repository(REPO_ID).commit_id("main")
    tiny_model(confidence_calibration=OTHER_CURVE).push_to_hub(REPO_ID)
    for model_class in (FLaLLMForTranslation, AutoModel):
        for revision, expected in ((first, CURVE), ("main", OTHER_CURVE)):
            model = model_class.from_pretrained(REPO_ID, revision=revision)
            assert model.config.confidence_calibration == expected


def test_options_that_say_where_files_are(hub, tmp_path, monkeypatch):
    tiny_model(confidence_calibration=CURVE).push_to_hub(REPO_ID, private=True)
    monkeypatch.delenv("HF_TOKEN")
    options = {"token": hub.token, "cache_dir": tmp_path / "cache"}
    assert FLaLLMForTranslation.from_pretrained(REPO_ID, **options).config.confidence_calibration == CURVE
    num_requests = len(hub.requests)
    cached = FLaLLMForTranslation.from_pretrained(REPO_ID, local_files_only=True, cache_dir=tmp_path / "cache")
    assert cached.config.confidence_calibration == CURVE and len(hub.requests) == num_requests


def test_a_model_that_an_earlier_version_cached_loads_without_a_connection(hub, tmp_path):
    tiny_model(confidence_calibration=CURVE).push_to_hub(REPO_ID)
    huggingface_hub.snapshot_download(REPO_ID, ignore_patterns=[CALIBRATION_FILE], cache_dir=tmp_path / "cache")
    model = FLaLLMForTranslation.from_pretrained(REPO_ID, local_files_only=True, cache_dir=tmp_path / "cache")
    assert model.config.confidence_calibration is None


def test_flallm_push_sends_the_calibration_and_removes_that_of_other_weights(hub, folder):
    assert push_to_hub.main(flags(model=folder, repo_id=REPO_ID)) == 0
    assert on_hub(hub) == CURVE
    write(folder, None)
    assert push_to_hub.main(flags(model=folder, repo_id=REPO_ID)) == 0
    assert on_hub(hub) is None
    (folder / CALIBRATION_FILE).unlink()
    assert push_to_hub.main(flags(model=folder, repo_id=REPO_ID)) == 0
    assert on_hub(hub) == "no file"


def test_training_that_pushes_removes_the_calibration_of_other_weights(hub, tmp_path):
    hub.create_repository(REPO_ID, files={CALIBRATION_FILE: json.dumps(CURVE).encode()}, private=True)
    values = {"max_steps": 1, "push_to_hub": True, "hub_model_id": REPO_ID, **WITHOUT_EVALUATION}
    visual_initialing.train(stage1_flags(tmp_path / "stage1", **values))
    assert on_hub(hub) == "no file" and "model.safetensors" in hub.repository(REPO_ID).files("main")
