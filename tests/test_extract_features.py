"""`flallm features`: what it puts into the cache and into files, who may read them, and what goes wrong."""

import csv
import json
import re
import shlex
import shutil
from pathlib import Path
from typing import Any

import datasets
import pytest
import torch
from mini_hub import MiniHub, connect
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from tiny_corpus import (
    ADAPTER,
    RUN,
    WITHOUT_EVALUATION,
    contrastive_flags,
    corpus,
    error_of,
    flags,
    language_model,
    stage2_flags,
    trained_model,
    tuning_flags,
)
from tiny_models import tiny_model, tiny_text_config
from torch.testing import assert_close
from transformers import (
    AutoModelForSeq2SeqLM,
    AutoProcessor,
    VideoMAEConfig,
    VideoMAEImageProcessor,
    VideoMAEModel,
    ViTConfig,
    ViTImageProcessor,
    ViTModel,
)
from two_processes import command_in_two_processes

from modeling_flallm import (
    FLaLLMForTranslation,
    FLaLLMVisionConfig,
    FLaLLMVisionModel,
    VisualFeaturesConfig,
    VisualFeaturesEncoder,
)
from processing import VisualFeatureExtractor
from processing.encoder_of_features_slt import EncoderOfFeatures, encoder_of_features
from train_scripts.arguments.data_arguments import EncoderVideoArguments
from train_scripts.arguments.model_arguments import NamedEncoderArguments
from train_scripts.clips.clip_files import file_names
from train_scripts.clips.feature_fingerprints import fingerprint_of_features
from train_scripts.commands import evaluate_model, extract_features, translate
from train_scripts.runs.feature_encoders import FeatureEncoder, load_feature_encoder
from train_scripts.stages import llm_fine_tuning, visual_contrastive_pretraining, visual_language_tuning

pytestmark = pytest.mark.slow

ROOT = Path(__file__).resolve().parent.parent
WIDTH = 24  # of the tiny encoder
ON_CPU = {"dtype": "float32", "device": "cpu", "disable_tqdm": True}


def extraction(folder: Path, **values: Any) -> list[str]:
    defaults = {
        "dataset": corpus(),
        "vision_model_name_or_path": trained_model(),
        "feature_cache_dir": folder / "cache",
    }
    return flags(**{**defaults, **ON_CPU, **values})


def extract(folder: Path, **values: Any) -> Path:
    """-> the data set that was made"""
    output = values.pop("output_dir", folder / "features")
    assert extract_features.main(extraction(folder, output_dir=output, **values)) == 0
    return output


def encoder_of(*names: Any, **video: Any) -> FeatureEncoder:
    return load_feature_encoder(NamedEncoderArguments([str(name) for name in names]), EncoderVideoArguments(**video))


@pytest.fixture(scope="module")
def made(tmp_path_factory) -> Path:
    """A data set of features of the tiny corpus. Tests must not change it."""
    return extract(tmp_path_factory.mktemp("made"), features_dtype="float32")


@pytest.fixture
def encoded_clips(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Numbers of clips of each pass through the encoder."""
    counts: list[int] = []
    forward = FLaLLMVisionModel.forward

    def counting_forward(self: FLaLLMVisionModel, pixel_values_videos: torch.Tensor, *others: Any, **named: Any):
        counts.append(len(pixel_values_videos))
        return forward(self, pixel_values_videos, *others, **named)

    monkeypatch.setattr(FLaLLMVisionModel, "forward", counting_forward)
    return counts


def header_of(path: Path) -> dict[str, str]:
    with safe_open(path, framework="pt") as file:
        return file.metadata()


def rows_of(folder: Path) -> list[dict[str, str]]:
    with (folder / "metadata.csv").open(encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


def another_encoder(folder: Path) -> Path:
    """The trained model with another weight."""
    shutil.copytree(trained_model(), folder)
    weights = load_file(folder / "model.safetensors")
    name = next(name for name in weights if name.startswith("vision_model.") and weights[name].ndim == 4)
    save_file({**weights, name: weights[name] + 0.1}, folder / "model.safetensors", {"format": "pt"})
    return folder


# The cache


@pytest.mark.parametrize("kind", ["FLa-LLM", pytest.param("LLaVA-SLT", marks=pytest.mark.slow)])
def test_a_training_finds_every_feature(kind, encoded_clips, tmp_path, capsys):
    values = {**WITHOUT_EVALUATION, "max_steps": 1, "cache_features": True, "feature_cache_dir": tmp_path / "cache"}
    if kind == "FLa-LLM":
        encoder, train, argv = trained_model(), llm_fine_tuning.train, stage2_flags(tmp_path / "run", **values)
    else:
        encoder = tmp_path / "encoder"
        visual_contrastive_pretraining.train(contrastive_flags(encoder, **WITHOUT_EVALUATION, max_steps=1))
        argv = tuning_flags(tmp_path / "run", vision_model_name_or_path=encoder, **values)
        train = visual_language_tuning.train
    encoded_clips.clear()
    assert extract_features.main(extraction(tmp_path, vision_model_name_or_path=encoder)) == 0
    printed = capsys.readouterr().out
    assert "12 train clips: 0 features from the cache, 12 computed in " in printed
    assert re.search(rf"\n24 clips, \d+ features, [\d.]+ seconds: {tmp_path}/cache/[0-9a-f]+\n$", printed)
    encoded_clips.clear()
    train(argv)
    printed = capsys.readouterr().out
    assert "12 training clips: 12 features from the cache, 0 computed in " in printed
    assert "6 evaluation clips: 6 features from the cache, 0 computed in " in printed
    assert extract_features.main(extraction(tmp_path, vision_model_name_or_path=encoder)) == 0
    assert encoded_clips == []


def test_chosen_splits_of_several_data_sets(tmp_path, capsys):
    others = tmp_path / "others"
    shutil.copytree(corpus() / "test", others / "test")
    folder = extract(tmp_path, dataset=[corpus(), others], splits=["test"])
    rows, once = (
        rows_of(folder / "test"),
        rows_of(extract(tmp_path, splits=["test"], output_dir=tmp_path / "once") / "test"),
    )
    assert [path.name for path in folder.iterdir() if path.is_dir()] == ["test"]
    assert [row["text"] for row in rows] == 2 * [row["text"] for row in once]
    assert len({row["visual_features"] for row in rows}) == 12
    for row, other in zip(rows, 2 * once, strict=True):
        one, other = (
            load_file(path / "test" / row["visual_features"])
            for path, row in ((folder, row), (tmp_path / "once", other))
        )
        assert torch.equal(one["features"], other["features"])
    assert "They are in" in capsys.readouterr().out


@pytest.fixture(scope="module")
def foundation_models(tmp_path_factory) -> list[Path]:
    """Folders of a tiny image model and a tiny video model of transformers, with their processors."""
    sizes = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 16}
    image = ViTModel(ViTConfig(**sizes, image_size=32, patch_size=16))
    video = VideoMAEModel(VideoMAEConfig(**sizes, image_size=32, patch_size=16, num_frames=4, tubelet_size=2))
    folder = tmp_path_factory.mktemp("foundation models")
    size = {"height": 32, "width": 32}
    for name, model, processor in (
        ("image", image, ViTImageProcessor(size=size)),
        ("video", video, VideoMAEImageProcessor(size={"shortest_edge": 32}, crop_size=size)),
    ):
        model.save_pretrained(folder / name)
        processor.save_pretrained(folder / name)
    return [folder / "image", folder / "video"]


@pytest.mark.parametrize("num_models", [1, pytest.param(2, marks=pytest.mark.slow)])
def test_image_and_video_models_of_transformers_by_name(num_models, foundation_models, tmp_path, capsys):
    names = foundation_models[:num_models]
    clips = {"frame_size": 36, "crop_size": 32, "frame_sampling_rate": 0.5}
    folder = extract(tmp_path, vision_model_name_or_path=names, **clips)
    facts = json.loads((folder / "features.json").read_text(encoding="utf-8"))
    assert facts["encoder"] == " + ".join(["image", "video"][:num_models]) and facts["hidden_size"] == 16 * num_models
    assert facts["clip_settings"]["image_mean"] == [0.5, 0.5, 0.5] and facts["features_per_second"] > 1
    capsys.readouterr()
    values = {**WITHOUT_EVALUATION, "max_steps": 1, "cache_features": True, "feature_cache_dir": tmp_path / "cache"}
    behind = {"temporal_blocks": ["K5", "P2"], "projection_size": 8}  # trained, while the encoder stays as it is
    llm_fine_tuning.train(stage2_flags(tmp_path / "run", vision_model_name_or_path=names, **clips, **behind, **values))
    assert "12 training clips: 12 features from the cache, 0 computed in " in capsys.readouterr().out


def test_a_model_with_layers_behind_its_frozen_encoder_gives_the_features_of_that(foundation_models, tmp_path):
    (image, _), run = foundation_models, tmp_path / "run"
    clips = {"frame_size": 36, "crop_size": 32, "frame_sampling_rate": 0.5}
    behind = {"temporal_blocks": ["K5", "P2"], "projection_size": 8}
    llm_fine_tuning.train(
        stage2_flags(run, vision_model_name_or_path=image, **clips, **behind, **WITHOUT_EVALUATION, max_steps=1)
    )
    alone, whole = encoder_of(image, **clips), encoder_of(run)
    assert fingerprint_of_features(alone.encoder, alone.modality) == fingerprint_of_features(
        whole.encoder, whole.modality
    )


# The files


def test_files_hold_what_the_encoder_makes(made):
    model = FLaLLMForTranslation.from_pretrained(trained_model()).eval()
    processor = AutoProcessor.from_pretrained(trained_model())
    videos = sorted((corpus() / "test").glob("*.mp4"))
    files = sorted((made / "test").glob("*.safetensors"))
    assert [path.stem for path in files] == [path.stem for path in videos]
    for video, path in zip(videos, files, strict=True):
        with torch.no_grad():
            inputs = processor(videos=str(video), return_tensors="pt")
            expected = model.vision_model(**inputs).last_hidden_state[0]
        features = load_file(path)["features"]
        assert features.dtype == torch.float32
        assert_close(features, expected, atol=1e-4, rtol=1e-4)


def test_each_file_says_what_made_it(made, tmp_path):
    source = encoder_of(trained_model())
    fingerprint = fingerprint_of_features(source.encoder, source.modality)
    facts = json.loads((made / "features.json").read_text(encoding="utf-8"))
    path = made / "test" / rows_of(made / "test")[0]["visual_features"]
    header = header_of(path)
    assert header.keys() == {"encoder", "encoder_fingerprint", "hidden_size", "features_per_second", "clip"}
    assert header["encoder"] == facts["encoder"] == trained_model().name
    assert header["encoder_fingerprint"] == facts["encoder_fingerprint"] == fingerprint
    assert header["hidden_size"] == str(facts["hidden_size"]) == str(WIDTH)
    assert facts["clips"] == {"train": 12, "validation": 6, "test": 6} and facts["precision"] == "float32"
    assert facts["clip_settings"]["frame_sampling_rate"] == 0.25
    assert facts["features_per_second"] == pytest.approx(25 * 0.25, rel=0.05)  # of videos with 25 frames per second
    texts = [file.read_text(encoding="utf-8") for file in made.rglob("*.*") if file.suffix in (".json", ".md", ".csv")]
    assert len(texts) == 5 and not [text for text in texts if str(trained_model().parent) in text]
    half = extract(tmp_path, splits=["test"])
    assert load_file(half / "test" / path.name)["features"].dtype == torch.float16
    assert header_of(half / "test" / path.name)["clip"] == header["clip"]


def test_the_table_has_every_text_and_number_of_the_source(made):
    for split, folder in (("train", "train"), ("validation", "dev"), ("test", "test")):
        for row, source in zip(rows_of(made / split), rows_of(corpus() / folder), strict=True):
            assert {name: row[name] for name in source if name != "file_name"} == {
                name: value for name, value in source.items() if name != "file_name"
            }
            features = load_file(made / split / row["visual_features"])["features"]
            assert features.shape == (int(row["num_features"]), WIDTH)
            seconds = len(features) / float(row["features_per_second"])
            assert float(header_of(made / split / row["visual_features"])["features_per_second"]) == float(
                row["features_per_second"]
            )
            assert 0.2 < seconds < 20


def test_parts_of_a_file_are_clips_with_features_of_their_own(tmp_path):
    folder = tmp_path / "parts" / "train"
    folder.mkdir(parents=True)
    video = sorted((corpus() / "train").glob("*.mp4"))[0]
    shutil.copy(video, folder / "a b.mp4")
    (folder / "metadata.csv").write_text("file_name,text,start,end,signer\na b.mp4,x,0,0.4,1\na b.mp4,y,0.4,1.2,2\n")
    rows = rows_of(extract(tmp_path, dataset=folder.parent) / "train")
    assert [row["visual_features"] for row in rows] == ["a_b_000000.safetensors", "a_b_000001.safetensors"]
    assert [(row["start"], row["end"], row["signer"]) for row in rows] == [("0.0", "0.4", "1"), ("0.4", "1.2", "2")]
    assert [int(row["num_features"]) for row in rows] == [3, 5]  # of 10 and 20 frames, a quarter of them


def test_names_of_files():
    paths = ["/x/a.mp4", "b/A.mp4", "c.mp4", None, "ä ö.mov", "...", "x" * 400 + ".mp4"]
    names = file_names(paths)
    assert names[:3] == ["a_000000.safetensors", "A_000001.safetensors", "c.safetensors"]
    assert names[4] == "ä_ö.safetensors" and len(names[6]) < 255
    assert len({name.casefold() for name in names}) == len(paths)
    assert not [name for name in names if name.startswith(".") or "/" in name]
    assert len(set(file_names(["a.mp4", "a.mov", "a_000000.mp4"]))) == 3


def test_a_data_set_with_videos_in_its_table(tmp_path, monkeypatch):
    features = datasets.Features(
        video=datasets.Video(decode=False),
        text=datasets.Value("string"),
        signer=datasets.ClassLabel(names=["Anna", "Ben"]),
        raw=datasets.Value("binary"),
        words=datasets.List(datasets.Value("string")),
    )
    videos = [{"path": None, "bytes": path.read_bytes()} for path in sorted((corpus() / "test").glob("*.mp4"))[:2]]
    rows = {"video": videos, "text": ["x, y", 'z "z"'], "signer": [1, 0], "raw": [b"", b""], "words": [["a"], []]}
    split = datasets.Dataset.from_dict(rows, features)
    monkeypatch.setattr(datasets, "get_dataset_split_names", lambda name: ["train"])
    monkeypatch.setattr(datasets, "load_dataset", lambda name, split, **options: rows_by_split[split])
    rows_by_split = {"train": split}
    table = rows_of(extract(tmp_path, dataset="me/corpus") / "train")
    assert [row["visual_features"] for row in table] == ["clip_000000.safetensors", "clip_000001.safetensors"]
    assert [row["text"] for row in table] == ["x, y", 'z "z"'] and [row["signer"] for row in table] == ["Ben", "Anna"]
    assert not {"raw", "words", "video"} & set(table[0])
    card = (tmp_path / "features" / "README.md").read_text(encoding="utf-8")
    assert "source_datasets:\n- me/corpus\n" in card


# Training and translating with them


@pytest.fixture(scope="module")
def model_on_features(made, tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("model") / "model"
    llm_fine_tuning.train(on_features(made, folder))
    return folder


def on_features(dataset: Path | list[Path], folder: Path, **values: Any) -> list[str]:
    defaults = {"dataset": dataset, "text_model_name_or_path": language_model(), "output_dir": folder}
    run = {"visual_features_size": WIDTH, "max_steps": 1, **WITHOUT_EVALUATION}
    return flags(**{**defaults, **RUN, **ADAPTER, **run, **values})


def test_a_model_keeps_whose_features_it_was_trained_on(made, model_on_features, tmp_path, capsys):
    extractor = AutoProcessor.from_pretrained(model_on_features).feature_extractor
    assert extractor.encoder == encoder_of_features(next((made / "train").glob("*.safetensors")))
    assert extractor.encoder.name == trained_model().name
    clip = sorted((made / "test").glob("*.safetensors"))[0]
    assert translate.main([str(clip), *flags(model=model_on_features, device="cpu", dtype="float32")]) == 0
    argv = flags(model=model_on_features, dataset=made, output_dir=tmp_path / "scores", device="cpu")
    assert evaluate_model.main(argv) == 0
    assert len((tmp_path / "scores" / "predictions.jsonl").read_text().splitlines()) == 6
    assert capsys.readouterr().out


def test_features_of_another_encoder_are_refused(made, model_on_features, tmp_path, capsys):
    other = extract(tmp_path, vision_model_name_or_path=another_encoder(tmp_path / "other"), features_dtype="float32")
    clip = sorted((other / "test").glob("*.safetensors"))[0]
    expected, found = (encoder_of_features(path) for path in ((made / "test" / clip.name), clip))
    assert found.name == "other" and found.fingerprint != expected.fingerprint
    text = (
        f"'{clip}' holds features of other (fingerprint {found.fingerprint[:12]}), but the model was trained on those "
        f"of {trained_model().name} (fingerprint {expected.fingerprint[:12]}). Compute them with that encoder and its "
        "settings."
    )
    processor = AutoProcessor.from_pretrained(model_on_features)
    with pytest.raises(ValueError, match=re.escape(text)):
        processor(visual_features=str(clip))
    assert translate.main([str(clip), *flags(model=model_on_features, device="cpu")]) == 1
    assert f"holds features of {found}" in capsys.readouterr().err
    argv = flags(model=model_on_features, dataset=other, output_dir=tmp_path / "scores", device="cpu")
    assert error_of(evaluate_model.main, argv, capsys) == text


def test_a_mixture_of_encoders_is_refused(made, tmp_path, capsys):
    other = extract(tmp_path, vision_model_name_or_path=another_encoder(tmp_path / "other"), splits=["train"])
    error = error_of(llm_fine_tuning.main, on_features([made, other], tmp_path / "run"), capsys)
    assert re.fullmatch(
        r"'.*\.safetensors' holds features of other \(fingerprint \w{12}\), but other training clips hold those of "
        rf"{trained_model().name} \(fingerprint \w{{12}}\)\. Train on the features of one encoder\.",
        error,
    )


def test_files_that_do_not_say_what_made_them_are_accepted(model_on_features, tmp_path):
    extractor = AutoProcessor.from_pretrained(model_on_features).feature_extractor
    features = torch.randn(3, WIDTH)
    save_file({"features": features}, tmp_path / "a.safetensors")
    for source in (tmp_path / "a.safetensors", features, features.numpy()):
        assert torch.equal(extractor.read(source), features)
    accepting = VisualFeatureExtractor(WIDTH)
    save_file({"features": features}, tmp_path / "b.safetensors", {"encoder_fingerprint": "1" * 64})
    assert torch.equal(accepting.read(tmp_path / "b.safetensors"), features) and accepting.encoder is None
    nameless = f"an encoder without a name (fingerprint {'1' * 12})"
    with pytest.raises(ValueError, match=re.escape(f"holds features of {nameless}, but the model was trained on")):
        extractor.read(f"{tmp_path / 'b.safetensors'}#features")
    assert encoder_of_features(tmp_path / "b.safetensors") == EncoderOfFeatures(None, "1" * 64)


# The fingerprint


def test_the_fingerprint_is_that_of_encoder_and_clips(tmp_path):
    def fingerprint(name: Path, **video: Any) -> str:
        source = encoder_of(name, **video)
        return fingerprint_of_features(source.encoder, source.modality)

    usual = fingerprint(trained_model())
    encoder = FLaLLMVisionModel.from_pretrained(trained_model())
    encoder.save_pretrained(tmp_path / "encoder alone")  # says other things of itself
    size = {"frame_size": 36, "crop_size": 32}
    assert fingerprint(tmp_path / "encoder alone", **size) == usual
    assert fingerprint(tmp_path / "encoder alone", **size, frame_sampling_rate=0.5) != usual
    assert fingerprint(tmp_path / "encoder alone", **size, max_num_frames=4) != usual
    assert fingerprint(another_encoder(tmp_path / "other")) != usual


# Interruptions


def test_an_interrupted_run_goes_on(encoded_clips, tmp_path, capsys):
    folder = extract(tmp_path)
    names = sorted(path.relative_to(folder) for path in folder.rglob("*.safetensors"))
    state = {name: (folder / name).stat().st_mtime_ns for name in names}
    (folder / names[0]).unlink()
    (folder / names[1]).write_bytes((folder / names[1]).read_bytes()[:40])
    (folder / "README.md").unlink()
    (folder / "test" / "metadata.csv").unlink()
    (folder / "test" / ".flallm-0123456789abcdef.partial").touch()
    encoded_clips.clear()
    extract(tmp_path)
    assert encoded_clips == []
    after = {name: (folder / name).stat().st_mtime_ns for name in names}
    assert {name for name in names if after[name] != state[name]} == set(names[:2])
    assert load_file(folder / names[1])["features"].shape[1] == WIDTH
    assert len(rows_of(folder / "test")) == 6 and (folder / "README.md").is_file()
    assert not list(folder.rglob(".flallm-*"))


def test_a_video_that_changed_gets_another_file(tmp_path):
    source = tmp_path / "source"
    shutil.copytree(corpus() / "test", source / "test")
    folder = extract(tmp_path, dataset=source)
    first, second, *_ = sorted((source / "test").glob("*.mp4"))
    before = header_of(folder / "test" / f"{first.stem}.safetensors")["clip"]
    shutil.copy(second, first)
    extract(tmp_path, dataset=source)
    header = header_of(folder / "test" / f"{first.stem}.safetensors")
    assert before != header["clip"] == header_of(folder / "test" / f"{second.stem}.safetensors")["clip"]


def test_folders_that_cannot_be_gone_on_with(made, tmp_path, capsys):
    facts = json.loads((made / "features.json").read_text(encoding="utf-8"))
    folder = tmp_path / "folder"
    shutil.copytree(made, folder)
    other = another_encoder(tmp_path / "other")
    error = error_of(
        extract_features.main, extraction(tmp_path, vision_model_name_or_path=other, output_dir=folder), capsys
    )
    assert error.startswith(
        f"--output_dir {folder} holds features of {trained_model().name} (fingerprint "
        f"{facts['encoder_fingerprint'][:12]}), not of other (fingerprint "
    )
    error = error_of(extract_features.main, extraction(tmp_path, output_dir=folder, features_dtype="float16"), capsys)
    assert error == (
        f"--output_dir {folder} was made with --features_dtype float32, not float16. Go on with the same, or name "
        "another folder."
    )
    save_file({"features": torch.ones(1, 1)}, folder / "test" / rows_of(made / "test")[0]["visual_features"],
              {"encoder": "x", "encoder_fingerprint": "0" * 64})  # fmt: skip
    error = error_of(extract_features.main, extraction(tmp_path, output_dir=folder, features_dtype="float32"), capsys)
    assert "holds features of x (fingerprint 000000000000), not of " in error
    (folder / "features.json").write_text("{")
    error = error_of(extract_features.main, extraction(tmp_path, output_dir=folder), capsys)
    assert error.startswith(f"{folder / 'features.json'} cannot be read: ")
    (folder / "features.json").unlink()
    error = error_of(extract_features.main, extraction(tmp_path, output_dir=folder), capsys)
    assert error == f"--output_dir {folder} is not empty. Name a new folder, or remove this one."


# Broken clips


@pytest.mark.parametrize("num_workers", [None, 1])
def test_broken_clips_are_listed_and_left_out(num_workers, tmp_path, capsys):
    source = tmp_path / "source"
    shutil.copytree(corpus() / "test", source / "test")
    first, second, third, *_ = sorted((source / "test").glob("*.mp4"))
    first.write_bytes(b"no video")
    second.write_bytes(b"no video")  # the same content: decoded once
    third.write_bytes(third.read_bytes()[:200])
    values = {} if num_workers is None else {"num_workers": num_workers}
    argv = extraction(tmp_path, dataset=source, output_dir=tmp_path / "features", **values)
    assert extract_features.main(argv) == 1
    output, errors = capsys.readouterr()
    assert re.search(r"\n3 clips, \d+ features, ", output)
    assert "6 test clips: 0 features from the cache, 3 computed in " in output
    assert "Left out 3 broken clip(s):\n" in errors
    for path in (first, second, third):
        row = [row["file_name"] for row in rows_of(source / "test")].index(path.name)
        assert f"\n  {source} (test): clip {row} (counted from 0, {path}): " in errors
    rows = rows_of(tmp_path / "features" / "test")
    assert len(rows) == 3 and not {path.stem for path in (first, second, third)} & {
        Path(row["visual_features"]).stem for row in rows
    }
    shutil.copy(sorted((corpus() / "test").glob("*.mp4"))[0], first)  # repaired
    assert extract_features.main(argv) == 1
    assert len(rows_of(tmp_path / "features" / "test")) == 4


def test_short_clips_and_features_that_do_not_fit_are_listed(tmp_path, capsys):
    torch.manual_seed(0)
    encoder = tiny_model(vision={"temporal_blocks": ["K5", "P2"], "temporal_padding": "none"}).vision_model
    encoder.save_pretrained(tmp_path / "encoder")
    source = tmp_path / "source" / "train"
    source.mkdir(parents=True)
    shutil.copy(sorted((corpus() / "train").glob("*.mp4"))[0], source / "a.mp4")
    (source / "metadata.csv").write_text("file_name,text,start,end\na.mp4,x,0,0.2\na.mp4,y,,\n")
    size = {"frame_size": 36, "crop_size": 32, "frame_sampling_rate": 1, "splits": ["train"]}
    values = {**size, "vision_model_name_or_path": tmp_path / "encoder", "dataset": source.parent}
    assert extract_features.main(extraction(tmp_path, **values)) == 1
    output, errors = capsys.readouterr()
    assert (
        "(train): clip 0 (counted from 0, " in errors and "it is too short: the encoder makes no visual token" in errors
    )
    assert "\n1 clips, " in output
    with torch.no_grad():
        for parameter in encoder.temporal_module.parameters():
            parameter.fill_(1e4)
    encoder.save_pretrained(tmp_path / "encoder")
    assert extract_features.main(extraction(tmp_path, **values)) == 1
    output, errors = capsys.readouterr()
    assert "its features are not finite in float16. Try --features_dtype bfloat16 or float32." in errors
    assert "\n0 clips, 0 features, " in output


# Encoders


def test_an_encoder_on_the_hub_is_named_with_its_commit_and_licence(tmp_path, monkeypatch):
    files = {path.name: path.read_bytes() for path in trained_model().iterdir() if path.is_file()}
    files["README.md"] = b"---\nlicense: cc-by-nc-4.0\n---\n# A model\n"
    with MiniHub() as hub:
        hub.create_repository("me/stage1", files=files)
        connect(monkeypatch, hub.url, hub.token)
        source = encoder_of("me/stage1")
    assert source.name == "me/stage1" and re.fullmatch("[0-9a-f]{40}", source.revision)
    assert source.license == "cc-by-nc-4.0"


def test_the_card_has_the_licence_of_the_encoder(tmp_path):
    encoder = tmp_path / "encoder"
    shutil.copytree(trained_model(), encoder)
    (encoder / "README.md").write_text("---\nlicense: mit\n---\n", encoding="utf-8")
    card = (extract(tmp_path, vision_model_name_or_path=encoder, splits=["test"]) / "README.md").read_text()
    assert card.startswith("---\nlicense: mit\n") and "| test | 6 |" in card and "--visual_features_size 24" in card
    (encoder / "README.md").write_text("---\nlicense: [\n---\n", encoding="utf-8")
    assert encoder_of(encoder).license is None


def test_encoders_that_cannot_be_used(tmp_path, capsys):
    def error(**values: Any) -> str:
        return error_of(extract_features.main, extraction(tmp_path, **values), capsys)

    features = tmp_path / "on_features"
    VisualFeaturesEncoder(VisualFeaturesConfig(hidden_size=WIDTH)).save_pretrained(features)
    assert error(vision_model_name_or_path=features) == (
        f"'{features}' takes ready-made visual features and computes none. Name a sign encoder, a trained model that "
        "has one, or an image or video model of transformers."
    )
    text = tmp_path / "text"
    AutoModelForSeq2SeqLM.from_config(tiny_text_config("mbart")).save_pretrained(text)
    assert "got model type 'mbart'" in error(vision_model_name_or_path=text)
    assert "is neither a local folder nor a model on the Hub" in error(vision_model_name_or_path=tmp_path / "nothing")
    assert error(frame_size=100, crop_size=80) == (
        f"--frame_size cannot be combined with '{trained_model()}': clips are prepared by the processor that was saved "
        "with it, as it was trained. Leave the flag out."
    )


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"crop_size": 300}, "--crop_size must be at most --frame_size, got 300 of 256 pixels."),
        ({"frame_sampling_rate": 2}, "--frame_sampling_rate must be above 0 and at most 1, got 2.0."),
        ({"features_dtype": "int8"}, "--features_dtype must be float16, bfloat16, float32, got 'int8'."),
        ({"batch_size": 0}, "--batch_size must be 1 or more, got 0."),
        ({"splits": ["trial"]}, "must hold a folder for the split 'trial', it has"),
        ({"dataset": "no/data/set"}, "--dataset 'no/data/set' is neither a local folder nor a data set on the Hub: "),
    ],
)
def test_flags_that_make_no_sense(values, message, tmp_path, capsys):
    assert message in error_of(extract_features.main, extraction(tmp_path, **values), capsys)


def test_a_folder_without_splits(tmp_path, capsys):
    error = error_of(extract_features.main, extraction(tmp_path, dataset=tmp_path), capsys)
    assert error == f"{tmp_path} must hold a folder for each split, each with metadata.csv."
    for name in ("dev", "validation"):
        shutil.copytree(corpus() / "dev", tmp_path / name)
    error = error_of(extract_features.main, extraction(tmp_path, dataset=tmp_path), capsys)
    assert error == f"{tmp_path} has several splits for 'validation'. Choose with --splits."


# Several processes, and the page


def test_two_processes_share_the_clips(made, tmp_path):
    folder = tmp_path / "features"
    argv = extraction(tmp_path, output_dir=folder, features_dtype="float32", batch_size=2)
    if not torch.accelerator.is_available():  # then nobody needs to name the CPU
        place = argv.index("--device")
        del argv[place : place + 2]
    command_in_two_processes("commands.extract_features", argv)
    for split in ("train", "validation", "test"):
        rows, others = rows_of(folder / split), rows_of(made / split)
        assert rows == others
        for row in rows:
            one, other = (load_file(path / split / row["visual_features"])["features"] for path in (folder, made))
            assert_close(one, other, atol=1e-4, rtol=1e-4)
    assert json.loads((folder / "features.json").read_text()) == json.loads((made / "features.json").read_text())
    shards = [path for path in (tmp_path / "cache").glob("*/*.arrow")]
    assert len(shards) > 3  # each process wrote files of its own


def test_the_commands_of_the_page_work(foundation_models, tmp_path, monkeypatch):
    """As they are written, with tiny models for those that they name."""
    page = (ROOT / "docs" / "feature-extraction.md").read_text(encoding="utf-8").replace("\\\n", " ")
    lines = [shlex.split(line)[1:] for line in page.splitlines() if line.startswith("flallm ")]
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("train_scripts.clips.feature_cache.HF_HOME", str(tmp_path / "home"))
    shutil.copytree(corpus(), "phoenix14t")
    shutil.copytree(trained_model(), "stage1")
    (tmp_path / "phoenix14t_features" / "test").mkdir(parents=True)
    shutil.rmtree("phoenix14t_features")
    first = sorted((corpus() / "test").glob("*.mp4"))[0].stem
    tiny = {
        "facebook/dinov2-small": str(foundation_models[0]),
        "facebook/mbart-large-cc25": str(language_model()),
        "512": str(WIDTH),
        "0001.safetensors": f"{first}.safetensors",
    }
    training = flags(**{**RUN, **ADAPTER, **WITHOUT_EVALUATION, "max_steps": 1, "bf16": False})
    mains = {"features": extract_features.main, "evaluate": evaluate_model.main, "translate": translate.main}
    done = []
    for name, *words in lines:
        words = [tiny.get(word, word) for word in words]
        words = [word.replace("0001.safetensors", tiny["0001.safetensors"]) for word in words]
        if name == "train":
            stage, *words = words
            skipped = {"--config": 2, "--target_language": 2}
            for flag, count in skipped.items():
                if flag in words:
                    del words[words.index(flag) : words.index(flag) + count]
            assert stage == "llm-fine-tuning" and llm_fine_tuning.main([*words, *training]) == 0
        else:
            assert mains[name]([*words, "--device", "cpu"]) == 0
        done.append(name)
    assert done == ["features", "train", "features", "features", "train", "evaluate", "translate"]
    assert (
        FLaLLMVisionConfig.model_type
        == json.loads(Path("stage2/config.json").read_text())["vision_config"]["model_type"]
    )
