"""Ready-made visual features instead of videos: files and arrays, both systems, from a data set to a sentence."""

import dataclasses
import json
import re
import shutil
from pathlib import Path

import datasets
import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from tiny_corpus import (
    ADAPTER,
    FAST,
    LIGHT_TRANSFORMER,
    RUN,
    WITHOUT_EVALUATION,
    causal_language_model,
    contrastive_flags,
    copy_of_weights,
    corpus,
    error_of,
    flags,
    language_model,
    log_of,
    make_talkative,
    moved,
)
from tiny_models import VIDEO_TOKEN, tiny_language_model_config, tiny_model, tiny_text_config
from torch.testing import assert_close
from transformers import AutoModel, AutoProcessor, AutoTokenizer, pipeline
from without_our_packages import run_without_our_packages

from modeling_flallm import (
    FLaLLMConfig,
    FLaLLMForTranslation,
    LlavaSltConfig,
    LlavaSltForTranslation,
    VisualFeaturesConfig,
    VisualFeaturesEncoder,
)
from processing import FLaLLMProcessor, FLaLLMVideoProcessor, LlavaSltProcessor, VisualFeatureExtractor
from train_scripts.arguments.data_arguments import AugmentationArguments, DataArguments, VideoArguments
from train_scripts.clips.augmentation import ClipAugmentation
from train_scripts.clips.collators import TranslationCollator
from train_scripts.clips.data import SignClipDataset
from train_scripts.clips.splits import load_split, load_training_split
from train_scripts.clips.streaming import StreamedClip, StreamedClipDataset
from train_scripts.commands import evaluate_model, translate
from train_scripts.hub.model_card import render
from train_scripts.hub.training_run import TrainingRun, read_run
from train_scripts.stages import (
    llm_fine_tuning,
    visual_contrastive_pretraining,
    visual_initialing,
    visual_language_tuning,
)

WIDTH = 6
SUFFIXES = (".npy", ".npz", ".safetensors")
RUN_ON_FEATURES = {**RUN, "visual_features_size": WIDTH}


def save_features(path: Path, features: np.ndarray, name: str = "features") -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    if path.suffix == ".npy":
        np.save(path, features)
    elif path.suffix == ".npz":
        np.savez(path, **{name: features})
    else:
        save_file({name: torch.from_numpy(features)}, path)
    return path


def random_features(length: int | None = None, width: int = WIDTH) -> np.ndarray:
    length = length or int(np.random.randint(3, 12))
    return np.random.standard_normal((length, width)).astype(np.float32)


def sentences(split: str) -> list[str]:
    return [row["text"] for row in load_split(DataArguments(dataset=str(corpus())), split)]


def features_folder(folder: Path, suffixes=SUFFIXES, splits=("train", "dev", "test"), column="visual_features") -> Path:
    """The sentences of the tiny corpus, each with a file of features."""
    for split in splits:
        rows = []
        for index, text in enumerate(sentences(split)):
            name = f"features/{index}{suffixes[index % len(suffixes)]}"
            save_features(folder / split / name, random_features())
            rows.append({column: name, "text": text})
        lines = "\n".join(json.dumps(row) for row in rows)
        (folder / split / "metadata.jsonl").write_text(lines, encoding="utf-8")
    return folder


@pytest.fixture
def processor() -> FLaLLMProcessor:
    tokenizer = AutoTokenizer.from_pretrained(language_model())
    return FLaLLMProcessor(feature_extractor=VisualFeatureExtractor(WIDTH), tokenizer=tokenizer)


def load(folder: Path, split: str = "train", **values):
    return load_split(DataArguments(dataset=str(folder), **values), split)


def error_texts(text: str):
    return pytest.raises(ValueError, match=re.escape(text))


# Files and arrays


@pytest.mark.parametrize("suffix", SUFFIXES)
@pytest.mark.parametrize("dtype", ["float16", "float32", "float64"])
def test_files_of_every_kind_are_read(suffix, dtype, tmp_path):
    features = random_features().astype(dtype)
    path = save_features(tmp_path / f"clip{suffix}", features)
    extractor = VisualFeatureExtractor(WIDTH)
    assert_close(extractor.read(path), torch.from_numpy(features).float(), rtol=0, atol=0)
    assert extractor.count(str(path)) == len(features)


@pytest.mark.parametrize("suffix", SUFFIXES[1:])
def test_one_of_several_arrays_of_a_file(suffix, tmp_path):
    arrays = {"a": random_features(3), "b": random_features(4)}
    path = tmp_path / f"clips{suffix}"
    if suffix == ".npz":
        np.savez_compressed(path, **arrays)
    else:
        save_file({name: torch.from_numpy(array) for name, array in arrays.items()}, path)
    extractor = VisualFeatureExtractor(WIDTH)
    assert_close(extractor.read(f"{path}#b"), torch.from_numpy(arrays["b"]))
    assert extractor.count(f"{path}#b") == 4
    with error_texts(f"'{path}' holds 2 arrays: a, b. Name the one that is meant: 'clips{suffix}#a'."):
        extractor.read(path)
    with error_texts(f"'{path}' must hold an array 'c', got a, b."):
        extractor.read(f"{path}#c")


def test_arrays_tensors_and_lists_are_padded_to_a_batch(processor):
    clips = [random_features(3), torch.from_numpy(random_features(5)), random_features(2).tolist()]
    batch = processor(visual_features=clips, return_tensors="pt")
    assert batch["visual_features"].shape == (3, 5, WIDTH) and batch["visual_features"].dtype == torch.float32
    assert batch["visual_attention_mask"].sum(1).tolist() == [3, 5, 2]
    assert_close(batch["visual_features"][0, :3], torch.from_numpy(clips[0]))
    assert not batch["visual_features"][0, 3:].any()
    one = processor(visual_features=clips[0], return_tensors="pt")
    assert one["visual_features"].shape == (1, 3, WIDTH)


def test_the_most_features_are_spread_evenly_over_the_clip():
    extractor = VisualFeatureExtractor(1, max_num_features=4)
    batch = extractor(np.arange(10, dtype=np.float32)[:, None], return_tensors="pt")
    assert batch["visual_features"].flatten().tolist() == [0, 2, 5, 7]
    assert extractor.sample_feature_indices(3) == [0, 1, 2]


@pytest.mark.parametrize(
    ("features", "expected"),
    [
        (np.zeros((2, 3, WIDTH), np.float32), "must have the shape (features, 6), got (2, 3, 6)."),
        (np.zeros(WIDTH, np.float32), "must have the shape (features, 6), got (6,)."),
        (np.zeros((0, WIDTH), np.float32), "holds no feature: its shape is (0, 6)."),
        (np.zeros((4, 5), np.float32), "must have 6 values for each feature, as the model reads them, got the shape ("),
        (np.zeros((WIDTH, 9), np.float32), "(6, 9). It may be transposed."),
        (np.zeros((4, WIDTH), np.int64), "must hold float16, float32 or float64 numbers, got int64."),
        (np.full((4, WIDTH), 1e300), "holds NaN or infinity in 4 of 4 features, first in feature 0 (counted from 0)."),
    ],
)  # fmt: skip
def test_features_that_cannot_be_used(features, expected, tmp_path):
    path = save_features(tmp_path / "clip.npy", features)
    with error_texts(f"'{path}' {expected}" if "transposed" not in expected else expected):
        VisualFeatureExtractor(WIDTH).read(path)


def test_the_first_feature_that_is_no_number_is_named(tmp_path):
    features = random_features(5)
    features[3, 2] = np.nan
    path = save_features(tmp_path / "clip.npz", features)
    with error_texts("holds NaN or infinity in 1 of 5 features, first in feature 3 (counted from 0)."):
        VisualFeatureExtractor(WIDTH).read(path)


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_damaged_files_are_told(suffix, tmp_path):
    path = save_features(tmp_path / f"clip{suffix}", random_features(50))
    path.write_bytes(path.read_bytes()[:200])
    for read in (VisualFeatureExtractor(WIDTH).read, VisualFeatureExtractor(WIDTH).count):
        with error_texts(f"'{path}' cannot be read: "):
            read(path)


@pytest.mark.parametrize("suffix", [".npy", ".npz"])
def test_python_objects_are_never_loaded(suffix, tmp_path):
    path = tmp_path / f"clip{suffix}"
    objects = np.array([{"a": 1}], dtype=object)
    np.save(path, objects) if suffix == ".npy" else np.savez(path, features=objects)
    with error_texts(f"'{path}' cannot be read: it holds Python objects, which are never loaded."):
        VisualFeatureExtractor(WIDTH).read(path)


def test_other_files_and_missing_ones(tmp_path):
    extractor = VisualFeatureExtractor(WIDTH)
    with error_texts("Visual features must be in a file of .npy, .npz, .safetensors, got 'clip.mp4'."):
        extractor.read("clip.mp4")
    with error_texts(f"There is no file '{tmp_path / 'clip.npy'}'."):
        extractor.read(tmp_path / "clip.npy")


# Processors and models


def processors(kind: str, width: int = WIDTH):
    if kind == "flallm":
        tokenizer = AutoTokenizer.from_pretrained(language_model())
        return FLaLLMProcessor(feature_extractor=VisualFeatureExtractor(width), tokenizer=tokenizer)
    tokenizer = AutoTokenizer.from_pretrained(causal_language_model())
    return LlavaSltProcessor(feature_extractor=VisualFeatureExtractor(width), tokenizer=tokenizer, word_window_stride=1)


@pytest.mark.parametrize("kind", ["flallm", "llava_slt"])
def test_a_processor_is_saved_with_the_part_that_it_has(kind, tmp_path):
    processors(kind).save_pretrained(tmp_path)
    loaded = AutoProcessor.from_pretrained(tmp_path)
    assert isinstance(loaded.feature_extractor, VisualFeatureExtractor) and loaded.video_processor is None
    assert loaded.feature_extractor.feature_size == WIDTH
    assert "video_processor" not in json.loads((tmp_path / "processor_config.json").read_text())


def test_a_processor_has_one_part_that_reads_clips(processor):
    parts = {"video_processor": FLaLLMVideoProcessor(), "feature_extractor": processor.feature_extractor}
    for given, count in ((parts, 2), ({}, 0)):
        with error_texts(f"A processor needs one of `video_processor`, `feature_extractor`, got {count} of them."):
            FLaLLMProcessor(tokenizer=processor.tokenizer, **given)
    with error_texts("This processor takes `visual_features`, as its model does, got `videos`."):
        processor(videos=["clip.mp4"])


def test_a_prompt_has_one_placeholder_for_each_feature():
    processor = processors("llava_slt")
    batch = processor(visual_features=[random_features(3), random_features(7)], return_tensors="pt")
    assert (batch["input_ids"] == processor.video_token_id).sum(1).tolist() == [3, 7]


def tiny_model_on_features(kind: str):
    vision = VisualFeaturesConfig(hidden_size=WIDTH)
    if kind == "flallm":
        config = FLaLLMConfig(vision_config=vision, text_config=tiny_text_config("mbart"), adapter_hidden_size=20)
        return FLaLLMForTranslation(config).eval()
    text = tiny_language_model_config("llama")
    return LlavaSltForTranslation(
        LlavaSltConfig(vision_config=vision, text_config=text, video_token_id=VIDEO_TOKEN)
    ).eval()


def batch_for(kind: str, lengths: list[int]) -> dict[str, torch.Tensor]:
    batch = VisualFeatureExtractor(WIDTH)([random_features(length) for length in lengths], return_tensors="pt")
    inputs = dict(batch)
    if kind == "llava_slt":
        longest = max(lengths)
        rows = [[1] * (longest - length) + [4] + [VIDEO_TOKEN] * length + [7, 8] for length in lengths]
        inputs["input_ids"] = torch.tensor(rows)
        inputs["attention_mask"] = torch.tensor([[0] * (longest - n) + [1] * (n + 3) for n in lengths])
    else:
        inputs["decoder_input_ids"] = torch.tensor([[2, 5, 6]] * len(lengths))
    return inputs


@pytest.mark.parametrize("kind", ["flallm", "llava_slt"])
def test_a_clip_does_not_depend_on_its_neighbours_and_survives_saving(kind, tmp_path):
    model, batch = tiny_model_on_features(kind), batch_for(kind, [3, 8])
    logits = model(**batch).logits
    alone = {
        name: values[:1, :3] if name.startswith("visual") else values[:1, -6:] if kind == "llava_slt" else values[:1]
        for name, values in batch.items()
    }
    assert_close(model(**alone).logits[0, -3:], logits[0, -3:], rtol=0, atol=1e-4)
    model.save_pretrained(tmp_path)
    loaded = type(model).from_pretrained(tmp_path)
    assert isinstance(loaded.vision_model, VisualFeaturesEncoder)
    assert_close(loaded(**batch).logits, logits, rtol=0, atol=0)


def test_the_encoder_returns_what_it_is_given(tmp_path):
    encoder = VisualFeaturesEncoder(VisualFeaturesConfig(hidden_size=WIDTH))
    batch = batch_for("flallm", [3, 8])
    output = encoder(batch["visual_features"], batch["visual_attention_mask"])
    assert torch.equal(output.last_hidden_state, batch["visual_features"])
    assert torch.equal(output.attention_mask, batch["visual_attention_mask"])
    garbage = batch["visual_features"].masked_fill(batch["visual_attention_mask"][..., None] == 0, 1e4)
    assert torch.equal(encoder(garbage, batch["visual_attention_mask"]).last_hidden_state, batch["visual_features"])
    assert encoder.get_num_tokens(7) == 7 and encoder.get_min_num_frames() == 1
    with error_texts("`visual_features` must have the shape (batch, features, 6), got (2, 8, 5)."):
        encoder(batch["visual_features"][..., 1:])
    encoder.half().save_pretrained(tmp_path)
    assert encoder.dtype == torch.float16 and isinstance(AutoModel.from_pretrained(tmp_path), VisualFeaturesEncoder)
    with error_texts("`hidden_size` must be 1 or more, got 0."):
        VisualFeaturesConfig(hidden_size=0)


LOAD_WITHOUT_US = """
import json, sys
from transformers import AutoModel, AutoProcessor, pipeline

folder, clip = sys.argv[1:]
model = AutoModel.from_pretrained(folder, trust_remote_code=True)
processor = AutoProcessor.from_pretrained(folder, trust_remote_code=True)
inputs = processor(visual_features=clip, return_tensors="pt")
generated = processor.batch_decode(model.eval().generate(**inputs))[0]
translator = pipeline("sign-language-translation", folder, trust_remote_code=True)
encoder = type(model.vision_model)
print(json.dumps([generated, translator(clip)["translation_text"], encoder.__name__, encoder.__module__.split(".")[0]]))
"""


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["flallm", "llava_slt"])
def test_a_saved_model_loads_where_the_package_is_not_installed(kind, tmp_path):
    processor, vision = processors(kind), VisualFeaturesConfig(hidden_size=WIDTH)
    size = len(processor.tokenizer)
    if kind == "flallm":
        config = FLaLLMConfig(vision_config=vision, text_config=tiny_text_config("mbart", vocab_size=size))
        model = FLaLLMForTranslation(config)
    else:
        text = tiny_language_model_config("llama", vocab_size=size, max_position_embeddings=256)
        model = LlavaSltForTranslation(
            LlavaSltConfig(vision_config=vision, text_config=text, video_token_id=processor.video_token_id)
        )
    make_talkative(model, processor.tokenizer)
    model.save_pretrained(tmp_path / "model")
    processor.save_pretrained(tmp_path / "model")
    clip = save_features(tmp_path / "clip.npy", random_features())
    inputs = processor(visual_features=str(clip), return_tensors="pt")
    expected = processor.batch_decode(model.eval().generate(**inputs))[0]
    output = run_without_our_packages(LOAD_WITHOUT_US, str(tmp_path / "model"), str(clip), folder=tmp_path)
    answers = json.loads(output.splitlines()[-1])
    assert answers == [expected, expected, "VisualFeaturesEncoder", "transformers_modules"]


# Data sets


@pytest.mark.parametrize("column", ["visual_features", "features", "Visual-Features"])
def test_a_folder_of_features(column, processor, tmp_path):
    folder = features_folder(tmp_path, splits=("train",), column=column)
    split = load(folder)
    assert set(split.column_names) == {"visual_features", "text"}
    dataset = SignClipDataset(split, processor)
    files = [f"features/{index}{SUFFIXES[index % 3]}" for index in range(len(split))]
    expected = [VisualFeatureExtractor(WIDTH).read(folder / "train" / name) for name in files]
    for item, features in zip(map(dataset.__getitem__, range(len(dataset))), expected, strict=True):
        assert torch.equal(item["features"], features)
    assert dataset.longest_lengths() == [len(features) for features in expected]
    batch = TranslationCollator(processor)([dataset[0], dataset[1]])
    assert batch["visual_attention_mask"].sum(1).tolist() == [len(features) for features in expected[:2]]
    assert batch["labels"].shape[0] == 2


def test_features_beside_videos_serve_models_of_both_kinds(processor, tmp_path):
    folder = tmp_path / "both"
    (folder / "train").mkdir(parents=True)
    videos = sorted((corpus() / "train").glob("*.mp4"))[:2]
    for index, video in enumerate(videos):
        (folder / "train" / video.name).write_bytes(video.read_bytes())
        save_features(folder / "train" / f"{index}.npy", random_features(4 + index))
    lines = [f"{video.name},{index}.npy,a b,0,0.5" for index, video in enumerate(videos)]
    (folder / "train" / "metadata.csv").write_text("\n".join(["file_name,features,text,start,end", *lines]))
    split = load(folder)
    assert set(split.column_names) >= {"video", "visual_features"}
    features = SignClipDataset(split, processor)
    assert [len(features[index]["features"]) for index in range(2)] == [4, 5]
    on_videos = FLaLLMProcessor(video_processor=FLaLLMVideoProcessor(), tokenizer=processor.tokenizer)
    assert SignClipDataset(split, on_videos)[0]["frames"].ndim == 4


@pytest.mark.parametrize(
    ("table", "expected"),
    [
        ("visual_features,text\nclip.pt,a\n", "row 1: visual_features must be in a file of .npy, .npz, .safetensors"),
        ("visual_features,text\n,a\n", "row 1 has no visual_features."),
        ("visual_features,text\n../a.npy,a\n", "row 1: '../a.npy' would leave"),
        ("visual_features,text\na.npy,a\na.npy,b\n", "more than once."),
    ],
)  # fmt: skip
def test_mistakes_in_a_table_of_features(table, expected, tmp_path):
    save_features(tmp_path / "train" / "a.npy", random_features())
    (tmp_path / "train" / "metadata.csv").write_text(table)
    with error_texts(expected):
        load(tmp_path)


def test_a_folder_may_be_named_from_where_one_is(tmp_path, monkeypatch):
    features_folder(tmp_path, splits=("train",))
    monkeypatch.chdir(tmp_path.parent)
    assert len(load(Path(tmp_path.name))) > 0


def test_the_same_name_is_another_folder_elsewhere(tmp_path, monkeypatch):
    """In a notebook, for instance, that changes its folder."""
    for number in (1, 2):
        features_folder(tmp_path / str(number) / "corpus", splits=("train",))
        monkeypatch.chdir(tmp_path / str(number))
        assert len(load(Path("corpus"))) == len(sentences("train"))


def test_missing_files_of_features(tmp_path):
    (tmp_path / "train").mkdir()
    (tmp_path / "train" / "metadata.csv").write_text("visual_features,text\na.npy,a\nb.npz#x,b\n")
    expected = "names 2 file(s) of features that are not there: 'a.npy', 'b.npz'."
    with pytest.raises(FileNotFoundError, match=re.escape(expected)):
        load(tmp_path)


def test_a_data_set_without_what_the_model_reads(processor, tmp_path):
    split = load(features_folder(tmp_path, splits=("train",)))
    on_videos = FLaLLMProcessor(video_processor=FLaLLMVideoProcessor(), tokenizer=processor.tokenizer)
    with error_texts("Pass --visual_features_size to train on visual_features."):
        SignClipDataset(split, on_videos)
    with error_texts("`visual_features` must be a column of the data set, as it is what the model reads, got columns"):
        SignClipDataset(load(corpus()), processor)


def array_features(kind: str):
    if kind == "Array2D":
        return datasets.Array2D((None, WIDTH), "float32")
    return datasets.List(datasets.List(datasets.Value("float32")))


@pytest.mark.parametrize("kind", ["Array2D", "lists"])
def test_arrays_in_the_table_of_a_data_set(kind, processor):
    arrays = [random_features(3), random_features(5)]
    features = datasets.Features({"visual_features": array_features(kind), "text": datasets.Value("string")})
    split = datasets.Dataset.from_dict({"visual_features": arrays, "text": ["a", "b"]}, features=features)
    dataset = SignClipDataset(split, processor)
    for index, array in enumerate(arrays):
        assert torch.equal(dataset[index]["features"], torch.from_numpy(array))
    assert dataset.texts == ["a", "b"] and dataset.longest_lengths() == [3, 5]


def test_a_stream_gives_the_same_items(processor, tmp_path):
    split = load(features_folder(tmp_path, splits=("train",)))
    streamed = StreamedClipDataset(processor)
    whole = SignClipDataset(split, processor)
    for index in range(3):
        item = streamed[StreamedClip(split[index], "x", index, 1)]
        assert torch.equal(item["features"], whole[index]["features"]) and item["text"] == whole[index]["text"]
    with error_texts("x: row 0 (counted from 0) has no visual_features."):
        streamed[StreamedClip({"text": "a"}, "x", 0, 1)]


def test_augmentation_in_time_follows_from_the_seed(processor, tmp_path, seed):
    folder = features_folder(tmp_path, splits=("train",))
    arguments = AugmentationArguments(speed=0.5, frame_drop=0.4)

    def features(seed):
        augmentation = ClipAugmentation(arguments, VideoArguments())
        dataset = SignClipDataset(load(folder), processor, augmentation=augmentation, seed=seed)
        assert all(
            len(dataset[index]["features"]) <= longest for index, longest in enumerate(dataset.longest_lengths())
        )
        return [dataset[index]["features"] for index in range(len(dataset))]

    first, again, other = features(seed), features(seed), features(seed + 1)
    assert all(map(torch.equal, first, again)) and not all(map(torch.equal, first, other))


def test_several_data_sets_keep_the_columns_of_clips_that_all_have(tmp_path):
    one, other = features_folder(tmp_path / "a", splits=("train",)), features_folder(tmp_path / "b", splits=("train",))
    split, sizes = load_training_split(DataArguments(dataset=[str(one), str(other)]))
    assert len(split) == sum(sizes) and "visual_features" in split.column_names
    with error_texts(
        "All of several data sets must have the same columns of clips, got [['visual_features'], ['video']]"
    ):
        load_training_split(DataArguments(dataset=[str(one), str(corpus())]))


# Training and translating


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    return features_folder(tmp_path_factory.mktemp("features"))


def stage1(folder: Path, output_dir: Path, **values) -> list[str]:
    names = ("backbone_width", "visual_hidden_size")
    sizes = {name: value for name, value in {**ADAPTER, **LIGHT_TRANSFORMER}.items() if name not in names}
    return flags(
        **{
            "dataset": folder,
            "tokenizer_name_or_path": language_model(),
            "output_dir": output_dir,
            **RUN_ON_FEATURES,
            **sizes,
            **values,
        }
    )


@pytest.mark.slow
@pytest.mark.parametrize("values", [{}, {"streaming": True, **WITHOUT_EVALUATION}, {"max_frames_per_batch": 30}])
def test_stage_1_learns_from_features(values, folder, tmp_path):
    visual_initialing.train(stage1(folder, tmp_path / "run", max_steps=6, **FAST, **values))
    losses = log_of(tmp_path / "run", "loss")
    assert len(losses) == 6 and losses[-1] < losses[0]
    model = FLaLLMForTranslation.from_pretrained(tmp_path / "run")
    assert isinstance(model.vision_model, VisualFeaturesEncoder)
    assert isinstance(AutoProcessor.from_pretrained(tmp_path / "run").feature_extractor, VisualFeatureExtractor)
    assert_card_is_of_features(tmp_path / "run")


def assert_card_is_of_features(folder: Path) -> None:
    card = (folder / "README.md").read_text(encoding="utf-8")
    assert "This model reads ready-made visual features of " in card
    assert 'processor(visual_features="clip.npy", return_tensors="pt")' in card and 'translate("clip.npy")' in card
    # The Hub's task is called that, and the settings stand with their help.
    others = [line for line in card.splitlines() if not re.search(r"video-text-to-text|^[-|] `\w+` ", line)]
    assert [line for line in others if re.search("video|watch|pixels", line)] == []


def test_a_short_card_says_what_the_model_reads():
    features = FLaLLMForTranslation(
        FLaLLMConfig(vision_config=VisualFeaturesConfig(hidden_size=WIDTH), text_config=tiny_text_config("mbart"))
    )
    for model, reads, example in (
        (features, "This model reads ready-made visual features of a sign language", 'translate("clip.npy")'),
        (tiny_model(), "This model watches a video of a sign language", 'translate("clip.mp4")'),
    ):
        card = model._short_card("me/x")
        assert reads in card and example in card and '"sign-language-translation", "me/x"' in card
        assert ("video" in card) == (model is not features)
    assert "This model turns ready-made visual features of a sign" in features.vision_model._short_card("me/x")


def test_a_record_from_before_there_were_features_is_of_videos(tmp_path):
    record = dict.fromkeys(each.name for each in dataclasses.fields(TrainingRun) if each.name != "modality")
    (tmp_path / "training_run.json").write_text(json.dumps(record))
    assert read_run(tmp_path).modality == "video"
    (tmp_path / "training_run.json").write_text(json.dumps({**record, "stage": "visual_initialing", "modality": "x"}))
    with error_texts("training_run.json names the modality 'x', which is none of video, visual_features, poses."):
        render(dataclasses.replace(read_run(tmp_path), settings=[]))


@pytest.mark.slow
def test_stage_2_trains_adapter_and_text_model_and_translates(folder, tmp_path, capsys):
    run = {**RUN_ON_FEATURES, "num_beams": 2, "adapter_hidden_size": 20, "max_steps": 2}
    arguments = flags(dataset=folder, text_model_name_or_path=language_model(), output_dir=tmp_path / "run", **run)
    llm_fine_tuning.train(arguments)
    weights = load_file(tmp_path / "run" / "model.safetensors")
    model = FLaLLMForTranslation.from_pretrained(tmp_path / "run")
    assert "adapter.first.weight" in weights and model.vision_model.main_input_name == "visual_features"
    assert_card_is_of_features(tmp_path / "run")
    translate_and_evaluate(tmp_path / "run", folder, tmp_path, capsys)


@pytest.mark.slow
def test_stage_3_of_llava_slt_trains_the_connector_alone_and_translates(folder, tmp_path, capsys):
    arguments = flags(
        dataset=folder, text_model_name_or_path=causal_language_model(), output_dir=tmp_path / "run",
        **RUN_ON_FEATURES, num_beams=2, max_steps=2,
    )  # fmt: skip
    parsed = visual_language_tuning.VisualLanguageTuningArguments(
        text_model_name_or_path=str(causal_language_model()), visual_features_size=WIDTH
    )
    before = copy_of_weights(visual_language_tuning.build_model(parsed, VideoArguments())[0])
    visual_language_tuning.train(arguments)
    after = copy_of_weights(LlavaSltForTranslation.from_pretrained(tmp_path / "run"))
    assert {name.split(".")[0] for name in moved(before, after)} == {"connector"}
    assert_card_is_of_features(tmp_path / "run")
    translate_and_evaluate(tmp_path / "run", folder, tmp_path, capsys)


def translate_and_evaluate(model_folder: Path, folder: Path, tmp_path: Path, capsys) -> None:
    """Pipeline, flallm translate and flallm evaluate give the same sentences, from files and from arrays."""
    model = AutoModel.from_pretrained(model_folder)
    processor = AutoProcessor.from_pretrained(model_folder)
    make_talkative(model, processor.tokenizer)
    model.save_pretrained(model_folder)
    files = [str(path) for path in (folder / "test" / "features").iterdir()]
    files.sort(key=lambda path: int(Path(path).stem))
    translator = pipeline("sign-language-translation", model=str(model_folder))
    expected = [answer["translation_text"] for answer in translator(files)]
    arrays = [processor.feature_extractor.read(path).numpy() for path in files]
    assert translator(arrays[0])["translation_text"] == expected[0]
    assert [answer["translation_text"] for answer in translator(load(folder, "test"))] == expected
    words = translator(arrays[0], return_timestamps=True, source_fps=5.0)["words"]
    assert all(0 <= word["start"] <= word["end"] <= len(arrays[0]) / 5 for word in words)

    capsys.readouterr()
    assert translate.main(["--model", str(model_folder), *files, "--format", "jsonl", "--dtype", "float32"]) == 0
    lines = [json.loads(line) for line in capsys.readouterr().out.splitlines() if line.startswith("{")]
    assert {line["file"]: line["text"] for line in lines} == dict(zip(files, expected, strict=True))
    beside_videos = Path(shutil.copytree(folder / "test", tmp_path / "beside_videos"))
    (beside_videos / "clip.mp4").write_bytes(b"this is no video, and nobody reads it")
    capsys.readouterr()
    assert translate.main(["--model", str(model_folder), str(beside_videos), "--format", "jsonl"]) == 0
    output = capsys.readouterr()
    found = {json.loads(line)["file"] for line in output.out.splitlines() if line.startswith("{")}
    assert found == {str(path) for path in (beside_videos / "features").iterdir()}
    assert f"in {beside_videos} that are not ready-made visual features: clip.mp4, " in output.err
    run = {"device": "cpu", "disable_tqdm": True, "batch_size": RUN["per_device_eval_batch_size"]}
    evaluation = flags(model=model_folder, dataset=folder, split="test", output_dir=tmp_path / "scores", **run)
    assert evaluate_model.main(evaluation) == 0
    rows = [json.loads(line) for line in (tmp_path / "scores" / "predictions.jsonl").read_text().splitlines()]
    assert [row["prediction"] for row in rows] == expected
    assert [row["file_name"] for row in rows] == [Path(path).name for path in files]


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        ({"imagenet_weights": True}, "--imagenet_weights is for a visual encoder; with --visual_features_size"),
        ({"visual_features_size": 9}, "must have 9 values for each feature, as the model reads them, got the shape"),
    ],
)  # fmt: skip
def test_mistakes_are_told(values, expected, folder, tmp_path, capsys):
    arguments = stage1(folder, tmp_path / "run", max_steps=1, **WITHOUT_EVALUATION, **values)
    assert expected in error_of(visual_initialing.main, arguments, capsys)


def test_features_are_not_cached_again(folder, tmp_path, capsys):
    arguments = flags(
        dataset=folder, text_model_name_or_path=language_model(), output_dir=tmp_path / "run", **RUN_ON_FEATURES,
        cache_features=True, feature_cache_dir=tmp_path / "cache",
    )  # fmt: skip
    expected = "--cache_features keeps what a visual encoder makes of videos, but this model reads ready-made visual "
    assert expected in error_of(llm_fine_tuning.main, arguments, capsys)


def test_contrastive_pretraining_needs_videos(folder, tmp_path, capsys):
    error = error_of(visual_contrastive_pretraining.main, contrastive_flags(tmp_path / "run", dataset=folder), capsys)
    assert error.startswith("Visual contrastive pretraining trains a visual encoder on videos; the data set has none")


def test_a_start_of_stage_2_is_named_once(capsys, tmp_path):
    arguments = flags(
        dataset="x", text_model_name_or_path="y", output_dir=tmp_path / "run", visual_features_size=4,
        vision_model_name_or_path="z",
    )  # fmt: skip
    assert error_of(llm_fine_tuning.main, arguments, capsys).endswith("`--pose_encoder` for poses; got both.")
