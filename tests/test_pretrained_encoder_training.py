"""Training with image and video models of transformers by flags: what moves, resuming, what is saved, cards, errors."""

import shutil
import tempfile
from pathlib import Path

import pytest
import torch
from random_inputs import built_once
from safetensors.torch import load_file
from tiny_corpus import (
    WITHOUT_EVALUATION,
    contrastive_flags,
    corpus,
    error_of,
    language_model,
    log_of,
    stage1_flags,
    stage2_flags,
    tuning_flags,
)
from tiny_vision_models import save_vision_model
from transformers import AutoModelForImageTextToText, AutoModelForSeq2SeqLM

from modeling_flallm import SignLanguageTranslationPipeline
from modeling_flallm.encoders_slt import load_sign_encoder
from processing import FLaLLMProcessor, LlavaSltProcessor
from train_scripts.arguments.data_arguments import VideoArguments
from train_scripts.stages import (
    llm_fine_tuning,
    visual_contrastive_pretraining,
    visual_initialing,
    visual_language_tuning,
)

WITHOUT_AUGMENTATION = {"random_crop": False, "frame_jitter": False}
FOLDER = tempfile.TemporaryDirectory(prefix="flallm-vision-models-")
TWO_STEPS = {**WITHOUT_EVALUATION, "max_steps": 2, "learning_rate": 0.01, "lr_scheduler_type": "constant"}
TWO_STEPS |= {"warmup_steps": 0}


@built_once
def vision_model(name: str) -> Path:
    """A folder as on the Hub, with a card that names a licence."""
    folder = Path(FOLDER.name) / name
    save_vision_model(name, folder)
    (folder / "README.md").write_text("---\nlicense: cc-by-nc-4.0\n---\n", encoding="utf-8")
    return folder


def names(*of_models: str) -> list[Path]:
    return [vision_model(name) for name in of_models]


# Stage -> its command, its flags, the class and processor of the folder it leaves, where its encoder begins.
STAGES = {
    "visual_initialing": (visual_initialing, stage1_flags),
    "llm_fine_tuning": (llm_fine_tuning, stage2_flags),
    "visual_language_tuning": (visual_language_tuning, tuning_flags),
    "visual_contrastive_pretraining": (visual_contrastive_pretraining, contrastive_flags),
}
TRANSLATING = [name for name in STAGES if name != "visual_contrastive_pretraining"]


def train(stage: str, folder: Path, **values) -> dict[str, torch.Tensor]:
    """The saved weights."""
    module, stage_flags = STAGES[stage]
    module.train(stage_flags(folder, **{**TWO_STEPS, "vision_model_name_or_path": names("vit"), **values}))
    return load_file(folder / "model.safetensors")


def backbones_of(folder: Path) -> list[dict[str, torch.Tensor]]:
    """The weights of each image or video model in a saved folder."""
    encoder = load_sign_encoder(str(folder), "")
    found = [module.pretrained_backbone for module in encoder.modules() if hasattr(module, "pretrained_backbone")]
    return [backbone.state_dict() for backbone in found if backbone is not None]


def weights_of(name: str) -> dict[str, torch.Tensor]:
    return load_sign_encoder(str(vision_model(name)), "").backbone.state_dict()


def changed(before: dict[str, torch.Tensor], after: dict[str, torch.Tensor]) -> set[str]:
    assert before.keys() == after.keys()
    return {name for name, value in before.items() if not torch.equal(value, after[name])}


def translate(folder: Path, stage: str) -> str:
    is_prompted = stage == "visual_language_tuning"
    model = (AutoModelForImageTextToText if is_prompted else AutoModelForSeq2SeqLM).from_pretrained(folder)
    processor = (LlavaSltProcessor if is_prompted else FLaLLMProcessor).from_pretrained(folder)
    pipeline = SignLanguageTranslationPipeline(model=model, processor=processor)
    return pipeline(str(sorted((corpus() / "test").glob("*.mp4"))[0]), max_new_tokens=4)["translation_text"]


# ------------------------------------------------------------------------------------------ what is trained


@pytest.mark.slow
@pytest.mark.parametrize("stage", STAGES)
@pytest.mark.parametrize("models", [("vit",), ("dinov2", "vit")], ids="+".join)
def test_a_frozen_model_stays_as_it_is(stage, models, tmp_path):
    train(stage, tmp_path, vision_model_name_or_path=names(*models))
    saved = backbones_of(tmp_path)
    assert len(saved) == len(models)
    for name, weights in zip(models, saved, strict=True):
        assert not changed(weights_of(name), weights)
    card = (tmp_path / "README.md").read_text(encoding="utf-8")
    for name in models:
        assert name in card and "frozen" in card and "cc-by-nc-4.0" in card
    if stage in TRANSLATING:
        assert isinstance(translate(tmp_path, stage), str)
    assert str(FOLDER.name) not in "".join(path.read_text(encoding="utf-8") for path in tmp_path.glob("*.json"))


@pytest.mark.slow
@pytest.mark.parametrize("models", [("videomae",), ("vit", "videomae")], ids="+".join)
@pytest.mark.parametrize("stage", ["llm_fine_tuning", "visual_language_tuning", "visual_initialing"])
def test_video_models_are_trained_too(stage, models, tmp_path):
    values = {"vision_model_name_or_path": names(*models), "vision_window_stride": 3, "freeze_visual_encoder": False}
    if stage == "visual_language_tuning":
        del values["freeze_visual_encoder"]
    train(stage, tmp_path, **values)
    for name, weights in zip(models, backbones_of(tmp_path), strict=True):
        moved = changed(weights_of(name), weights)
        assert bool(moved) == (stage != "visual_language_tuning")
    assert isinstance(translate(tmp_path, stage), str)


@pytest.mark.slow
@pytest.mark.parametrize("stage", ["llm_fine_tuning", "visual_initialing", "visual_contrastive_pretraining"])
def test_a_model_that_is_not_frozen_is_trained_in_full(stage, tmp_path):
    train(stage, tmp_path, freeze_visual_encoder=False)
    before, (after,) = weights_of("vit"), backbones_of(tmp_path)
    unused = {name for name in before if "mask_token" in name or "pooler" in name}
    assert changed(before, after) >= {name for name in before if name.endswith("weight")} - unused
    assert "trained" in (tmp_path / "README.md").read_text(encoding="utf-8")


@pytest.mark.slow
@pytest.mark.parametrize(
    ("stage", "values"),
    [("llm_fine_tuning", {"lora": False}), ("llm_fine_tuning", {"lora": True}), ("visual_initialing", {})],
    ids=["stage 2", "stage 2 with text adapters", "stage 1"],
)
def test_low_rank_adapters_change_the_linear_layers_alone_and_are_merged(stage, values, tmp_path):
    values = {**values, "vision_lora": True, "lora_rank": 2, "vision_model_name_or_path": names("vit", "videomae")}
    saved = train(stage, tmp_path, **values)
    assert not any("lora" in name or "modules_to_save" in name for name in saved)
    for name, weights in zip(("vit", "videomae"), backbones_of(tmp_path), strict=True):
        moved = changed(weights_of(name), weights)
        assert moved and all(weights[each].ndim == 2 and each.endswith("weight") for each in moved)
    card = (tmp_path / "README.md").read_text(encoding="utf-8")
    assert "trained with low-rank adapters (LoRA)" in card
    assert isinstance(translate(tmp_path, stage), str)


@pytest.mark.slow
@pytest.mark.parametrize("training", ["frozen", "adapters", "full"])
def test_a_run_goes_on_where_it_stopped(training, tmp_path):
    """After a step the run is the same as one without a stop, as far as its losses and weights show."""
    values = {
        "frozen": {},
        "adapters": {"vision_lora": True, "lora_rank": 2, "lora_dropout": 0.0},
        "full": {"freeze_visual_encoder": False},
    }[training]
    values |= {"save_strategy": "steps", "save_steps": 1, "max_steps": 3}
    whole = train("llm_fine_tuning", tmp_path / "whole", **values)
    shutil.copytree(tmp_path / "whole" / "checkpoint-2", tmp_path / "stopped" / "checkpoint-2")
    resumed = train("llm_fine_tuning", tmp_path / "stopped", **values, resume_from_checkpoint=True)
    assert whole.keys() == resumed.keys()
    for name, value in whole.items():
        torch.testing.assert_close(resumed[name], value, atol=1e-5, rtol=1e-4, msg=lambda text, name=name: name + text)
    assert log_of(tmp_path / "stopped", "loss")[-1] == pytest.approx(log_of(tmp_path / "whole", "loss")[-1], abs=1e-4)


@pytest.mark.slow
@pytest.mark.parametrize("training", ["adapters", "full"])
def test_the_best_checkpoint_is_what_is_saved(training, tmp_path):
    """The second of two steps is so large that the first is better."""
    values = {"adapters": {"vision_lora": True, "lora_rank": 2}, "full": {"freeze_visual_encoder": False}}[training]
    values |= {
        "eval_strategy": "steps",
        "eval_steps": 1,
        "save_strategy": "steps",
        "save_steps": 1,
        "load_best_model_at_end": True,
        "metric_for_best_model": "loss",
        "predict_with_generate": False,
        "learning_rate": 0.5,
    }
    train("llm_fine_tuning", tmp_path, **values)
    losses = log_of(tmp_path, "eval_loss")
    assert len(losses) >= 3  # of two steps, and of the saved model
    assert losses[-1] == pytest.approx(min(losses[:2]), abs=1e-4)


@pytest.mark.slow
def test_cached_features_train_the_same(tmp_path):
    values = {**WITHOUT_AUGMENTATION, "temporal_blocks": ["K5"], "projection_size": 16}
    in_cache = {"cache_features": True, "features_dtype": "float32", "feature_cache_dir": tmp_path / "cache"}
    plain = train("llm_fine_tuning", tmp_path / "plain", **values)
    cached = train("llm_fine_tuning", tmp_path / "cached", **values, **in_cache)
    for name, value in plain.items():
        torch.testing.assert_close(cached[name], value, atol=1e-4, rtol=1e-3, msg=lambda text, name=name: name + text)


# ------------------------------------------------------------------------------------------ further flags


@pytest.mark.slow
def test_dtype_and_attention_of_the_loaded_encoder(tmp_path):
    arguments = llm_fine_tuning.LLMFineTuningArguments(
        vision_model_name_or_path=[str(vision_model("vit"))],
        text_model_name_or_path=str(language_model()),
        vision_dtype="bfloat16",
        vision_attn_implementation="eager",
        projection_size=8,
    )
    model, processor = llm_fine_tuning.build_model(arguments, VideoArguments(frame_size=36, crop_size=32))
    backbone = model.vision_model.encoder.backbone
    assert backbone.dtype == torch.bfloat16 and backbone.config._attn_implementation == "eager"
    assert model.vision_model.projection.weight.dtype == torch.float32
    assert processor.video_processor.crop_size == {"height": 32, "width": 32}
    assert processor.video_processor.image_mean == (0.5, 0.5, 0.5)
    train("llm_fine_tuning", tmp_path, vision_dtype="bfloat16", vision_attn_implementation="eager")
    assert isinstance(translate(tmp_path, "llm_fine_tuning"), str)


# ------------------------------------------------------------------------------------------ errors


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        ({"vision_pooling": "max"}, "--vision_pooling must be pooler, class, mean, patches, got 'max'."),
        ({"vision_dtype": "int8"}, "--vision_dtype must be "),
        ({"vision_lora": True, "vision_dtype": "bfloat16"}, "--vision_lora True trains in float32; leave out --visi"),
        ({"vision_scales": [1, 2], "vision_pooling": "patches"}, "`pooling` 'patches' goes with `scales` [1] alone"),
        ({"vision_pooling": "class", "vision_model_name_or_path": "convnext"}, "is nothing that 'convnext' has"),
        ({"vision_model_name_or_path": "/nothing/here"}, "is neither a local folder nor a model on the Hub"),
    ],
    ids=lambda value: "" if isinstance(value, str) else ",".join(value),
)
def test_flags_that_are_refused(values, expected, tmp_path, capsys):
    given = values.get("vision_model_name_or_path", "vit")
    values = {**values, "vision_model_name_or_path": given if "/" in given else vision_model(given)}
    message = error_of(llm_fine_tuning.main, stage2_flags(tmp_path / "run", **TWO_STEPS, **values), capsys)
    assert expected in message


@pytest.mark.parametrize(
    ("values", "flag"),
    [
        ({"vision_pooling": "mean"}, "vision_pooling"),
        ({"vision_scales": [1, 2]}, "vision_scales"),
        ({"vision_dtype": "float16"}, "vision_dtype"),
        ({"vision_lora": True}, "vision_lora"),
        ({"projection_size": 8}, "projection_size"),
    ],
)
def test_flags_of_a_loaded_encoder_without_one(values, flag, tmp_path, capsys):
    message = error_of(visual_initialing.main, stage1_flags(tmp_path / "run", **TWO_STEPS, **values), capsys)
    assert f"--{flag} goes with --vision_model_name_or_path, which is not given." in message


def test_weights_for_the_cnn_with_a_loaded_encoder(tmp_path, capsys):
    values = {"vision_model_name_or_path": vision_model("vit"), "imagenet_weights": True}
    for main, stage_flags in (
        (visual_initialing.main, stage1_flags),
        (visual_contrastive_pretraining.main, contrastive_flags),
    ):
        message = error_of(main, stage_flags(tmp_path / "run", **TWO_STEPS, **values), capsys)
        assert "--imagenet_weights is for a new CNN" in message


def test_low_rank_adapters_need_linear_layers(tmp_path, capsys):
    values = {"vision_model_name_or_path": vision_model("resnet"), "vision_lora": True}
    message = error_of(llm_fine_tuning.main, stage2_flags(tmp_path / "run", **TWO_STEPS, **values), capsys)
    assert "has no image or video model with linear layers, so it cannot get low-rank adapters" in message


def test_llava_slt_pretrains_with_one_token_per_frame(tmp_path, capsys):
    values = {"vision_model_name_or_path": vision_model("videomae")}
    main, stage_flags = visual_contrastive_pretraining.main, contrastive_flags
    message = error_of(main, stage_flags(tmp_path / "run", **TWO_STEPS, **values), capsys)
    assert "`frame_config` must be that of a sign encoder which gives one token per frame of a video" in message
