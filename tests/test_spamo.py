"""
SpaMo's recipe with tiny models: features of image and video models of transformers by name, a training that finds them
all, and the same on ready-made features.
"""

import dataclasses
import importlib
import json
import re
import runpy
import shlex
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from mini_hub import MiniHub, connect
from safetensors.torch import load_file
from test_extract_features import header_of, rows_of
from tiny_corpus import (
    ADAPTER,
    LIGHT_TRANSFORMER,
    RUN,
    WITHOUT_EVALUATION,
    causal_language_model,
    copy_of_weights,
    corpus,
    error_of,
    flags,
    language_model,
    log_of,
    moved,
    save_text_model,
    stage1_flags,
)
from tiny_vision_models import save_vision_model
from transformers import AutoModel, AutoProcessor, CLIPVisionModel, VideoMAEModel

from modeling_flallm import FLaLLMForTranslation, LlavaSltForTranslation, TemporalEncoder
from modeling_flallm.encoder_pretrained_slt import PretrainedVisionEncoder
from modeling_flallm.pretrained_vision_slt import load_pretrained_vision, source_of
from train_scripts.__main__ import find_command
from train_scripts.arguments.data_arguments import EncoderVideoArguments, VideoArguments
from train_scripts.arguments.model_arguments import NamedEncoderArguments
from train_scripts.clips.feature_fingerprints import fingerprint_of_features
from train_scripts.commands import evaluate_model, extract_features, translate
from train_scripts.runs.feature_encoders import FeatureEncoder, load_feature_encoder
from train_scripts.stages import llm_fine_tuning, visual_initialing, visual_language_tuning

PAGE = Path(__file__).resolve().parent.parent / "docs" / "image-and-video-models.md"
WIDTH = 24 * 2 + 24  # two scales of the image model, and the video model
HOW = {"vision_scales": [1, 2], "vision_window_stride": 2}
PIXELS = {"frame_sampling_rate": 1.0, "max_num_frames": 512, "frame_size": 224, "crop_size": 224}  # as in the preset
BEHIND = {"temporal_blocks": ["K5", "P2", "K5", "P2"], "projection_size": 12}
ON_CPU = {"dtype": "float32", "device": "cpu", "disable_tqdm": True}


@pytest.fixture(scope="module")
def models(tmp_path_factory) -> list[str]:
    """Folders of a whole CLIP and of a video model, each with its processor and its card."""
    folder = tmp_path_factory.mktemp("models")
    image, video = folder / "tiny-clip", folder / "tiny-videomae"
    save_vision_model("clip", image)
    (image / "README.md").write_text("---\nlicense: mit\n---\n", encoding="utf-8")
    save_vision_model("videomae", video)
    (video / "README.md").write_text("---\nlicense: other\nlicense_name: research\n---\n", encoding="utf-8")
    return [str(image), str(video)]


@pytest.fixture(scope="module")
def cache(models, tmp_path_factory) -> Path:
    """The cache after `flallm features`, and beside it the data set of features that the command wrote."""
    folder = tmp_path_factory.mktemp("features") / "cache"
    argv = flags(
        dataset=corpus(), vision_model_name_or_path=models, **HOW, **PIXELS, **ON_CPU,
        feature_cache_dir=folder, output_dir=folder.parent / "corpus",
    )  # fmt: skip
    assert extract_features.main(argv) == 0
    return folder


@pytest.fixture
def computed(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The model type of each pass through an image or video model."""
    types: list[str] = []
    forward = PretrainedVisionEncoder.forward

    def counting_forward(self: PretrainedVisionEncoder, *args: Any, **named: Any) -> Any:
        types.append(self.config.backbone_config.model_type)
        return forward(self, *args, **named)

    monkeypatch.setattr(PretrainedVisionEncoder, "forward", counting_forward)
    return types


def encoder_of(*names: str | Path, video: dict[str, Any] | None = None, **how: Any) -> FeatureEncoder:
    which = NamedEncoderArguments([str(name) for name in names], **how)
    return load_feature_encoder(which, EncoderVideoArguments(**(video or {})))


def fingerprint_of(source: FeatureEncoder) -> str:
    return fingerprint_of_features(source.encoder, source.modality)


def spamo_flags(models: list[str], cache: Path, output_dir: Path, **values: Any) -> list[str]:
    """The preset, with tiny models and few steps in place of its own."""
    text_model = save_text_model(output_dir.parent / "flan-t5", "t5")
    tiny = {"per_device_train_batch_size": 4, "max_steps": 4, "alignment_warm_up_steps": 2, "projection_size": 12}
    return flags(
        config="spamo_llm_fine_tuning", dataset=corpus(), text_model_name_or_path=text_model, spoken_language="de",
        vision_model_name_or_path=models, vision_window_stride=2, feature_cache_dir=cache, output_dir=output_dir,
        **{**RUN, "adapter_hidden_size": 20, "num_beams": 2, "lora_rank": 2, **tiny, **values},
    )  # fmt: skip


@pytest.mark.slow
def test_the_recipe_from_features_to_translations(models, cache, computed, tmp_path, capsys):
    folder = tmp_path / "run"
    assert llm_fine_tuning.main(spamo_flags(models, cache, folder, logging_steps=1)) == 0
    printed = capsys.readouterr().out
    assert "12 training clips: 12 features from the cache, 0 computed in " in printed
    assert "6 evaluation clips: 6 features from the cache, 0 computed in " in printed
    assert computed == []
    assert len(log_of(folder, "loss")) == 4

    model = FLaLLMForTranslation.from_pretrained(folder)
    encoders = model.vision_model.encoder.encoders
    for name, encoder, model_class in zip(models, encoders, (CLIPVisionModel, VideoMAEModel), strict=True):
        theirs = model_class.from_pretrained(name).state_dict()
        ours = encoder.backbone.state_dict()
        assert ours and moved(ours, theirs) == set()
    assert model.config.visual_text_alignment_weight == 0.1
    assert model.config.vision_config.projection_size == 12
    assert AutoProcessor.from_pretrained(folder).prompt == "Translate this sentence into {spoken_language}."
    card = (folder / "README.md").read_text(encoding="utf-8")
    for name, license_name in (("tiny-clip", "mit"), ("tiny-videomae", "research")):
        assert f"`{name}`, which was **frozen** here. Its licence is `{license_name}`." in card

    clip = sorted((corpus() / "test").glob("*.mp4"))[0]
    assert translate.main(["--model", str(folder), str(clip), "--device", "cpu", "--dtype", "float32"]) == 0
    scores = flags(model=folder, dataset=corpus(), output_dir=tmp_path / "scores", device="cpu", disable_tqdm=True)
    assert evaluate_model.main(scores) == 0
    assert len((tmp_path / "scores" / "predictions.jsonl").read_text().splitlines()) == 6
    assert set(computed) == {"clip_vision_model", "videomae"}

    # The temporal module is trained; the features are those of the frozen models in front of it.
    trained = encoder_of(folder)
    assert trained.encoder.features_size == WIDTH != trained.encoder.config.hidden_size
    assert fingerprint_of(trained) == fingerprint_of(encoder_of(*models, video=PIXELS, **HOW))


def test_the_folder_of_features_names_both_models(cache, models):
    folder = cache.parent / "corpus"
    facts = json.loads((folder / "features.json").read_text(encoding="utf-8"))
    assert facts["encoder"] == "tiny-clip + tiny-videomae" and facts["hidden_size"] == WIDTH
    assert facts["encoder_fingerprint"] == fingerprint_of(encoder_of(*models, video=PIXELS, **HOW))
    assert facts["clip_settings"]["crop_size"] == {"height": 64, "width": 64}  # the larger of two scales
    card = (folder / "README.md").read_text(encoding="utf-8")
    assert card.startswith("---\nlicense:\n- mit\n- other\n") and f"--visual_features_size {WIDTH}" in card
    row = rows_of(folder / "test")[0]
    features = load_file(folder / "test" / row["visual_features"])["features"]
    assert features.shape == (int(row["num_features"]), WIDTH)
    assert float(row["features_per_second"]) == 25  # one for each frame
    assert header_of(folder / "test" / row["visual_features"])["encoder"] == "tiny-clip + tiny-videomae"


def test_the_fingerprint_says_nothing_of_names(models, tmp_path):
    renamed = tmp_path / "another name"
    shutil.copytree(models[0], renamed)
    (renamed / "README.md").unlink()
    usual = fingerprint_of(encoder_of(models[0]))
    assert fingerprint_of(encoder_of(renamed)) == usual
    assert fingerprint_of(encoder_of(models[0], vision_pooling="mean")) != usual
    assert fingerprint_of(encoder_of(models[0], video={"frame_sampling_rate": 0.5})) != usual
    assert fingerprint_of(encoder_of(models[1])) != usual


def test_where_weights_come_from(models, tmp_path, monkeypatch):
    assert source_of(models[0], {}) == {"name": "tiny-clip", "license": "mit"}
    assert source_of(models[1], {}) == {"name": "tiny-videomae", "license": "other", "license_name": "research"}
    shutil.copy(Path(models[0]) / "config.json", tmp_path)
    monkeypatch.chdir(tmp_path.parent)
    for card in (None, "---\nlicense: [\n---\n", "no metadata"):
        if card is not None:
            (tmp_path / "README.md").write_text(card, encoding="utf-8")
        assert source_of(tmp_path.name, {}) == {"name": tmp_path.name}
    (tmp_path / "README.md").write_text("---\nlicense:\n- mit\n- cc0-1.0\n---\n", encoding="utf-8")
    assert source_of(str(tmp_path), {})["license"] == "mit and cc0-1.0"


def test_the_commit_of_a_model_of_images_and_text_is_known(models, monkeypatch):
    files = {path.name: path.read_bytes() for path in Path(models[0]).iterdir()}
    with MiniHub() as hub:
        hub.create_repository("me/clip", files=files)
        connect(monkeypatch, hub.url, hub.token)
        source = load_pretrained_vision("me/clip").pretrained_source
        assert source == encoder_of("me/clip").encoder.pretrained_source
    assert source["name"] == "me/clip" and source["license"] == "mit"
    assert re.fullmatch("[0-9a-f]{40}", source["revision"])


# The same on ready-made features


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["FLa-LLM", "LLaVA-SLT"])
def test_new_layers_learn_behind_ready_made_features(kind, cache, tmp_path, capsys):
    folder = cache.parent / "corpus"
    run = {**RUN, **WITHOUT_EVALUATION, "max_steps": 2, "num_beams": 2, "visual_features_size": WIDTH, **BEHIND}
    values = {"dataset": folder, "output_dir": tmp_path / "run", **run}
    if kind == "FLa-LLM":
        argv = flags(text_model_name_or_path=language_model(), adapter_hidden_size=20, **values)
        stage, model_class = llm_fine_tuning, FLaLLMForTranslation
    else:
        argv = flags(text_model_name_or_path=causal_language_model(), **values)
        stage, model_class = visual_language_tuning, LlavaSltForTranslation
    before = {}
    build = stage.build_model

    def remembering_build(*args: Any) -> Any:
        model, processor = build(*args)
        before.update(copy_of_weights(model.vision_model))
        return model, processor

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(stage, "build_model", remembering_build)
        stage.train(argv)
    model = model_class.from_pretrained(tmp_path / "run").eval()
    changed = {name.split(".")[0] for name in moved(before, copy_of_weights(model.vision_model))}
    assert changed == {"projection", "temporal_module"}

    processor = AutoProcessor.from_pretrained(tmp_path / "run")
    assert processor.feature_extractor.feature_size == WIDTH and processor.feature_extractor.encoder is not None
    clips = [load_file(path)["features"].float() for path in sorted((folder / "test").glob("*.safetensors"))[:2]]
    padded = processor.feature_extractor.pad(clips)
    with torch.no_grad():
        tokens = model.vision_model(padded["visual_features"], padded["visual_attention_mask"])
        alone = model.vision_model(clips[0][None]).last_hidden_state[0]
    assert tokens.last_hidden_state.shape[2] == 12
    num_tokens = [model.vision_model.get_num_tokens(len(clip)) for clip in clips]
    assert tokens.attention_mask.sum(1).tolist() == num_tokens == [len(clip) // 2 // 2 for clip in clips]
    torch.testing.assert_close(tokens.last_hidden_state[0, : num_tokens[0]], alone, atol=1e-4, rtol=1e-4)
    path = sorted((folder / "test").glob("*.safetensors"))[0]
    assert translate.main(["--model", str(tmp_path / "run"), str(path), "--device", "cpu", "--dtype", "float32"]) == 0
    assert isinstance(AutoModel.from_pretrained(tmp_path / "run"), model_class)


def test_features_behind_which_layers_are_trained_are_not_cached_again(cache, tmp_path, capsys):
    argv = flags(
        dataset=cache.parent / "corpus", text_model_name_or_path=language_model(), output_dir=tmp_path / "run",
        **RUN, visual_features_size=WIDTH, **BEHIND, cache_features=True, feature_cache_dir=tmp_path / "cache",
    )  # fmt: skip
    expected = "--cache_features keeps what a visual encoder makes of videos, but this model reads ready-made visual "
    assert expected in error_of(llm_fine_tuning.main, argv, capsys)


def test_a_linear_layer_alone_and_nothing_behind_features():
    def encoder(**values: Any) -> torch.nn.Module:
        arguments = llm_fine_tuning.LLMFineTuningArguments(
            text_model_name_or_path=str(language_model()), visual_features_size=5, **values
        )
        model, processor = llm_fine_tuning.build_model(arguments, VideoArguments())
        assert processor.feature_extractor.feature_size == 5
        return model.vision_model

    assert list(dict(encoder(projection_size=3).named_parameters())) == ["projection.weight", "projection.bias"]
    assert encoder(temporal_blocks=["K5"], visual_hidden_size=4).config.hidden_size == 4
    assert list(encoder().parameters()) == []


# The page


@pytest.fixture
def page(models, tmp_path, monkeypatch) -> str:
    """The text of the page, whose names are those of tiny models and data sets in the current folder."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("train_scripts.clips.feature_cache.HF_HOME", str(tmp_path / "home"))
    save_text_model(tmp_path / "flan-t5", "t5")
    for name in ("my_corpus", "phoenix14t"):
        shutil.copytree(corpus(), name)
    shutil.copy(sorted((corpus() / "test").glob("*.mp4"))[0], "clip.mp4")
    text = PAGE.read_text(encoding="utf-8").replace("\\\n", " ")
    for name, tiny in {
        "facebook/dinov2-small": models[0],
        "openai/clip-vit-large-patch14": models[0],
        "MCG-NJU/videomae-large": models[1],
        "google/flan-t5-base": "flan-t5",
        "google/flan-t5-xl": "flan-t5",
        "visual_features_size 3072": f"visual_features_size {WIDTH}",
        "hidden_size=48, num_hidden_layers=2": "hidden_size=8, num_hidden_layers=1",
    }.items():
        assert name in text
        text = text.replace(name, tiny)
    return text


@pytest.mark.slow
def test_the_commands_of_the_page_work(page, models, capsys):
    run = {**RUN, **WITHOUT_EVALUATION, "max_steps": 2, "adapter_hidden_size": 20, "lora_rank": 2}
    light = {name: value for name, value in LIGHT_TRANSFORMER.items() if name != "backbone_width"}
    added = {
        "features": ON_CPU,
        "train visual-initialing": {**run, **light},
        "train llm-fine-tuning": run,
        "evaluate": {"device": "cpu", "disable_tqdm": True},
        "translate": {"device": "cpu"},
        "push": {"dry_run": True},
    }
    lines = [shlex.split(line)[1:] for line in page.splitlines() if line.startswith("flallm ")]
    done = []
    for words in lines:
        command, arguments = find_command(words)
        tiny = dict(added[command.name])
        if "--config" in arguments:  # the names of the preset
            tiny["vision_model_name_or_path"] = models
        if "--prompt" in arguments or "--config" in arguments:
            tiny["alignment_warm_up_steps"] = 1
        module = importlib.import_module(f"train_scripts.{command.module}")
        assert module.main([*arguments, *flags(**tiny)]) == 0, words
        done.append(command.name)
    stage2 = "train llm-fine-tuning"
    expected = [stage2, "train visual-initialing", "features", stage2, "evaluate", "translate", "push", stage2]
    assert done == expected
    assert "12 training clips: 12 features from the cache, 0 computed in " in capsys.readouterr().out
    for name in ("dinov2_model", "spamo", "spamo_on_features"):
        assert json.loads(Path(name, "config.json").read_text())["vision_config"]["model_type"] == "temporal_slt"


@pytest.mark.slow
def test_the_python_of_the_page_works(page):
    blocks = re.findall(r"```python\n(.*?)```", page, re.DOTALL)
    assert len(blocks) == 2
    for block in blocks:
        Path("block.py").write_text(block, encoding="utf-8")
        assert isinstance(runpy.run_path("block.py")["model"].vision_model, TemporalEncoder)


# Mistakes


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        ({"vision_pooling": "max"}, "--vision_pooling must be pooler, class, mean, patches, got 'max'."),
        ({"vision_dtype": "int8"}, "--vision_dtype must be float32, bfloat16, float16, got 'int8'."),
        ({"vision_pooling": "patches"}, "`pooling` 'patches' goes with `scales` [1] alone, got [1, 2]."),
    ],
)
def test_mistakes_of_features(values, expected, models, tmp_path, capsys):
    argv = flags(
        dataset=corpus(), vision_model_name_or_path=models[0], feature_cache_dir=tmp_path, **{**HOW, **ON_CPU, **values}
    )
    assert expected in error_of(extract_features.main, argv, capsys)


def test_layers_behind_nothing(tmp_path, capsys):
    expected = "--projection_size goes with --vision_model_name_or_path, which is not given."
    values = {"dataset": corpus(), "output_dir": tmp_path / "run", "text_model_name_or_path": language_model()}
    assert error_of(llm_fine_tuning.main, flags(**values, **ADAPTER, projection_size=8), capsys) == expected
    of_features = stage1_flags(tmp_path / "run", visual_features_size=4, projection_size=8)
    assert error_of(visual_initialing.main, of_features, capsys) == expected


def test_help_names_the_flags_of_the_encoder(capsys):
    with pytest.raises(SystemExit):
        extract_features.main(["--help"])
    text = capsys.readouterr().out
    names = set(re.findall(r"--vision_\w+", text))
    assert names == {f"--{field.name}" for field in dataclasses.fields(NamedEncoderArguments)}
    assert "--projection_size" not in text
