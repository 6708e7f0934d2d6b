"""Stage 2 from cached features: the same training, nothing computed twice, and never a stale feature."""

import copy
import importlib.util
import json
import multiprocessing
import os
import re
import shutil
import signal
import statistics
import sys
import time
from pathlib import Path
from typing import Any

import datasets
import numpy as np
import pytest
import torch
from random_inputs import random_generator
from safetensors.torch import load_file
from test_distributed_training import logged
from tiny_corpus import WITHOUT_EVALUATION, corpus, error_of, flags, language_model, stage2_flags, trained_model
from tiny_models import draw_batch_norm_statistics, tiny_model
from transformers import AutoTokenizer
from two_processes import command_in_two_processes
from video_files import counting_frames, write_video

from modeling_flallm import FLaLLMForTranslation, FLaLLMVisionModel
from processing.modality_video_slt import VideoModality
from train_scripts.arguments.data_arguments import (
    AugmentationArguments,
    DataArguments,
    FeatureCacheArguments,
    VideoArguments,
)
from train_scripts.arguments.training_arguments import FLaLLMTrainingArguments
from train_scripts.clips import feature_cache, feature_fingerprints
from train_scripts.clips.augmentation import ClipAugmentation
from train_scripts.clips.collators import TranslationCollator
from train_scripts.clips.data import SignClipDataset
from train_scripts.clips.feature_cache import CachedClipDataset, FeatureCache
from train_scripts.clips.feature_fingerprints import ContentDigests
from train_scripts.clips.splits import load_split
from train_scripts.runs.training import build_processor, encoding_settings
from train_scripts.stages import llm_fine_tuning

pytestmark = pytest.mark.slow

ROOT = Path(__file__).resolve().parent.parent
WITHOUT_AUGMENTATION = {"random_crop": False, "frame_jitter": False}
STRONG = {"brightness": 0.5, "speed": 0.3, "horizontal_flip": 0.5}
VIDEO = {"frame_size": 36, "crop_size": 32}
TABLE_END = "<!-- end of what the benchmark writes -->"


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


# Training


@pytest.mark.parametrize(
    "batches",
    [
        {"per_device_train_batch_size": 4},
        {"per_device_train_batch_size": 2, "gradient_accumulation_steps": 2},
        {"per_device_train_batch_size": 3, "train_sampling_strategy": "group_by_length"},
        {"max_frames_per_batch": 60},
    ],
    ids=["batches", "accumulated", "grouped", "by frames"],
)
def test_training_from_the_cache_is_training_through_the_encoder(batches, tmp_path, capsys):
    values = {
        **WITHOUT_AUGMENTATION, **batches, "max_steps": 20, "learning_rate": 0.001, "word_presence_loss_weight": 1.0,
        "label_smoothing": 0.1, "eval_on_start": True, "eval_strategy": "steps", "eval_steps": 10,
        "save_strategy": "no", "load_best_model_at_end": False, "generation_config": trained_model(),
    }  # fmt: skip
    cached = {"cache_features": True, "features_dtype": "float32", "feature_cache_dir": tmp_path / "cache"}
    llm_fine_tuning.train(stage2_flags(tmp_path / "encoder", **values))
    llm_fine_tuning.train(stage2_flags(tmp_path / "cached", **values, **cached))
    (losses, evaluations), (cached_losses, cached_evaluations) = (logged(tmp_path / n) for n in ("encoder", "cached"))
    assert len(losses) == 20 and len(evaluations) == len(cached_evaluations) == 4 and len(set(losses)) > 10
    assert cached_losses == pytest.approx(losses, abs=1e-3)
    # Of the same weights: after steps that differ by rounding another word may win.
    assert cached_evaluations[0] == evaluations[0] and evaluations[-1]["eval_chrf"] > 0
    assert re.search(
        r"12 training clips: 0 features from the cache, 12 computed in [\d.]+ s\.", capsys.readouterr().out
    )
    stage1, final = (load_file(folder / "model.safetensors") for folder in (trained_model(), tmp_path / "cached"))
    encoder = [name for name in stage1 if name.startswith("vision_model.")]
    assert encoder and all(torch.equal(stage1[name], final[name]) for name in encoder)


def test_a_second_run_never_calls_the_encoder(encoded_clips, tmp_path, capsys):
    values = {
        **WITHOUT_AUGMENTATION, "cache_features": True, "feature_cache_dir": tmp_path / "cache", "num_train_epochs": 2,
    }  # fmt: skip
    for name, extra in {"first": {}, "second": {}, "with LoRA": {"lora": True, "lora_rank": 2}}.items():
        arguments = stage2_flags(tmp_path / name, **values, **extra, seed=len(name))
        encoded_clips.clear()
        capsys.readouterr()
        llm_fine_tuning.train(arguments)
        computed = 12 if name == "first" else 0
        assert sum(encoded_clips) == (18 if name == "first" else 0)
        printed = capsys.readouterr().out
        assert f"12 training clips: {12 - computed} features from the cache, {computed} computed in " in printed
        assert f"They are in {tmp_path / 'cache'}." in printed
        assert "have no effect" not in printed
    model = FLaLLMForTranslation.from_pretrained(tmp_path / "second").eval()
    pixels = torch.randn(1, 12, 3, 32, 32)
    assert model.generate(pixel_values_videos=pixels, max_length=8).shape[1] > 1
    assert sum(encoded_clips) == 1


def test_bf16_training_from_the_cache_starts_as_through_the_encoder(tmp_path):
    values = {**WITHOUT_EVALUATION, **WITHOUT_AUGMENTATION, "max_steps": 3, "bf16": True, "learning_rate": 0.001}
    cached = {"cache_features": True, "features_dtype": "bfloat16", "feature_cache_dir": tmp_path / "cache"}
    llm_fine_tuning.train(stage2_flags(tmp_path / "encoder", **values))
    llm_fine_tuning.train(stage2_flags(tmp_path / "cached", **values, **cached))
    for path in (tmp_path / "cache").glob("*/settings.json"):
        assert json.loads(path.read_text())["precision"] == "bfloat16"
    assert logged(tmp_path / "cached")[0] == pytest.approx(logged(tmp_path / "encoder")[0], rel=0.02)


def test_the_card_and_the_log_say_how_clips_were_augmented(tmp_path, capsys):
    values = {**WITHOUT_EVALUATION, "max_steps": 1, "speed": 0.2, "cache_features": True}
    values["feature_cache_dir"] = tmp_path / "cache"
    for views, on_card in ((None, "none, clips not augmented"), (2, 2)):
        folder = tmp_path / str(views)
        llm_fine_tuning.train(stage2_flags(folder, **values, **({} if views is None else {"feature_views": views})))
        settings = json.loads((folder / "training_run.json").read_text(encoding="utf-8"))["settings"]
        found = {setting["name"]: setting["value"] for setting in settings}
        assert found["feature_views"] == on_card
        assert (found["speed"], found["random_crop"]) == ((0.0, False) if views is None else (0.2, True))
        unused = (
            "Features are kept of clips without augmentation: --random_crop, --speed, --frame_jitter have no effect. "
            "With --feature_views several augmented versions of each clip are kept.\n"
        )
        printed = capsys.readouterr().out
        assert (unused in printed) == (views is None)
        assert ("12 training clips in 2 views: 0 features from the cache, 24 computed" in printed) == (views == 2)


# Keys


class Case:
    """A few clips, a model and settings; each test changes one."""

    def __init__(self, folder: Path):
        self.cache = folder / "cache"
        self.corpus = folder / "corpus"
        shutil.copytree(corpus() / "dev", self.corpus / "train")
        self.model = tiny_model()
        self.model.freeze_visual_encoder()
        self.tokenizer = AutoTokenizer.from_pretrained(language_model())
        self.video: dict[str, Any] = dict(VIDEO)
        self.augmentation: dict[str, Any] | None = None
        self.arguments: dict[str, Any] = {}
        self.training: dict[str, Any] = {"bf16": False}  # on every machine
        self.views = 1
        self.keeps_decoded_videos = False
        self.processor = build_processor(VideoArguments(**self.video), self.tokenizer)
        self.split: datasets.Dataset | None = None

    def dataset(self) -> SignClipDataset:
        split = load_split(DataArguments([str(self.corpus)]), "train") if self.split is None else self.split
        augmentation = None
        if self.augmentation is not None:
            augmentation = ClipAugmentation(AugmentationArguments(**self.augmentation), VideoArguments(**self.video))
        on_device = self.training.get("preprocess_on_device", False)
        return SignClipDataset(
            split,
            self.processor,
            augmentation=augmentation,
            keep_decoded_videos=self.keeps_decoded_videos,
            preprocess_on_device=on_device,
        )

    def run(self) -> CachedClipDataset:
        arguments = FeatureCacheArguments(
            cache_features=True, feature_cache_dir=str(self.cache), **{"features_dtype": "float32", **self.arguments}
        )
        training = FLaLLMTrainingArguments(
            output_dir=str(self.cache.parent / "run"), use_cpu=True, disable_tqdm=True, report_to="none",
            per_device_eval_batch_size=2, **self.training,
        )  # fmt: skip
        settings = encoding_settings(training)
        self.feature_cache = FeatureCache(self.model.vision_model, self.processor.modality, arguments, settings)
        return self.feature_cache.clips(self.dataset(), "test", self.views)

    @torch.no_grad()
    def features_through_the_encoder(self) -> list[torch.Tensor]:
        """Of the clips without augmentation, one by one."""
        collator = TranslationCollator(self.processor)
        dataset = self.dataset()
        inputs = [collator.clip_inputs([dataset[index]]) for index in range(len(dataset))]
        return [self.model.vision_model(**each).last_hidden_state[0] for each in inputs]


@pytest.fixture
def case(tmp_path: Path) -> Case:
    return Case(tmp_path)


def features_of(dataset: CachedClipDataset) -> list[torch.Tensor]:
    return [dataset[index]["cached_features"] for index in range(len(dataset))]


def assert_close(features: list[torch.Tensor], others: list[torch.Tensor], **tolerance: float) -> None:
    for one, other in zip(features, others, strict=True):
        rounding = 1e-5 * max(1.0, other.abs().max().item())
        torch.testing.assert_close(one.float(), other, **{"atol": 3 * rounding, "rtol": 1e-4, **tolerance})


def change_weight(case: Case) -> None:
    case.model.vision_model.backbone.layer3[0].conv2.weight.data[0, 0, 0, 0] += 0.5


def change_buffers(case: Case) -> None:
    draw_batch_norm_statistics(case.model.vision_model)


def change_mean(case: Case) -> None:
    case.processor.video_processor.image_mean = [0.4, 0.5, 0.6]


def change_sampling(case: Case) -> None:
    case.processor.video_processor.frame_sampling_rate = 0.5


def change_crop(case: Case) -> None:
    case.processor.video_processor.crop_size = {"height": 28, "width": 28}


def change_dtype(case: Case) -> None:
    case.arguments["features_dtype"] = "float16"


def change_precision(case: Case) -> None:
    case.training["bf16"] = True


def run_and_count(case: Case, encoded_clips: list[int]) -> tuple[list[torch.Tensor], int]:
    """The features, and how many clips went through the encoder for them."""
    encoded_clips.clear()
    dataset = case.run()
    return features_of(dataset), sum(encoded_clips)


def test_the_same_again_computes_nothing(case, encoded_clips):
    features, num_computed = run_and_count(case, encoded_clips)
    assert num_computed == 6
    assert_close(features, case.features_through_the_encoder())
    case.model = copy.deepcopy(case.model)
    others, num_computed = run_and_count(case, encoded_clips)
    assert num_computed == 0
    assert all(torch.equal(*pair) for pair in zip(features, others, strict=True))


@pytest.mark.parametrize(
    ("change", "tolerance"),
    [
        (change_weight, {}),
        (change_buffers, {}),
        (change_mean, {}),
        (change_sampling, {}),
        (change_crop, {}),
        (change_dtype, {"atol": 0.01, "rtol": 0.01}),
        (change_precision, {"atol": 0.5, "rtol": 0.1}),
    ],
)
def test_another_encoder_or_setting_makes_new_features(case, encoded_clips, change, tolerance):
    case.run()
    change(case)
    after, num_computed = run_and_count(case, encoded_clips)
    assert num_computed == 6
    assert_close(after, case.features_through_the_encoder(), **tolerance)


def test_another_configuration_makes_new_features(case, encoded_clips):
    case.run()
    case.model.vision_model.config.temporal_padding = "replicate"
    assert run_and_count(case, encoded_clips)[1] == 6


def test_another_augmentation_makes_new_features(case, encoded_clips):
    counts = []
    for augmentation in (None, STRONG, STRONG, {**STRONG, "brightness": 0.4}):
        case.augmentation = augmentation
        counts.append(run_and_count(case, encoded_clips)[1])
    assert counts == [6, 6, 0, 6]


@pytest.mark.parametrize("what", ["fingerprint_of_code", "version"])
def test_other_code_or_libraries_make_new_features(case, encoded_clips, what, monkeypatch):
    case.run()
    monkeypatch.setattr(feature_fingerprints, what, lambda *arguments: "another one")
    assert run_and_count(case, encoded_clips)[1] == 6


def test_the_fingerprint_of_the_code_is_of_files_that_make_features(monkeypatch):
    read: list[str] = []
    monkeypatch.setattr(feature_fingerprints, "_what_code_does", lambda path: read.append(path.name) or "")
    feature_fingerprints.fingerprint_of_code.__wrapped__()
    assert {
        "video_processing_slt.py", "video_decoding_slt.py", "encoder_frames_slt.py", "augmentation.py",
        "data.py", "collators.py", "feature_cache.py", "feature_store.py", "modality_video_slt.py",
    } <= set(read)  # fmt: skip


CODE = '''"""Module."""
import math


class Half:
    """Class."""

    def of(self, value):
        """Function."""
        if value < 0:
            raise ValueError(f"must be positive, got {value}")
        return value / 2  # a half
'''


@pytest.mark.parametrize(
    ("old", "new", "is_the_same"),
    [
        ("# a half", "# one of two", True),
        ('"""Function."""', '"""Half of a value."""\n        # with a comment', True),
        ('    """Class."""\n\n', "", True),
        ('"""Module."""', '"""Modules."""\n', True),
        ("must be positive", "must not be negative", True),
        ("value / 2", "(value) / 2", True),
        ("value / 2", "value / 3", False),
        ("value < 0", "value <= 0", False),
        ("            raise", "            return 0\n            raise", False),
    ],
)
def test_words_about_the_code_keep_the_features(old, new, is_the_same, tmp_path):
    assert old in CODE
    (tmp_path / "old.py").write_text(CODE)
    (tmp_path / "new.py").write_text(CODE.replace(old, new))
    one, other = (feature_fingerprints._what_code_does(tmp_path / name) for name in ("old.py", "new.py"))
    assert (one == other) == is_the_same, (one, other)


def test_only_what_changed_of_the_clips_is_computed(case, encoded_clips):
    case.run()
    first, second, *_ = sorted((case.corpus / "train").glob("*.mp4"))
    write_video(first, random_generator().integers(0, 256, (30, 40, 40, 3), np.uint8))
    features, num_computed = run_and_count(case, encoded_clips)
    assert num_computed == 1
    assert_close(features, case.features_through_the_encoder())
    os.utime(second)  # touched only
    case.corpus = case.corpus.rename(case.corpus.with_name("moved"))
    assert run_and_count(case, encoded_clips)[1] == 0


def test_a_part_of_a_file_has_features_of_its_own(case, encoded_clips):
    split = load_split(DataArguments([str(case.corpus)]), "train").select([0, 0, 0]).select_columns(["video", "text"])
    counts = []
    for starts, ends in (
        ([0.0, 0.0, 0.1], [0.5, 0.9, None]),
        ([0.0, 0.0, 0.1], [0.5, 0.9, 1.0]),
        ([0.0, 0.2, 0.1], [0.5, 0.9, 1.0]),
    ):
        case.split = split
        for name, values in (("start", starts), ("end", ends)):
            case.split = case.split.add_column(name, values, feature=datasets.Value("float64"))
        features, num_computed = run_and_count(case, encoded_clips)
        assert_close(features, case.features_through_the_encoder())
        counts.append(num_computed)
    assert counts == [3, 1, 1]


def test_embedded_bytes_are_known_by_their_content(case, encoded_clips):
    case.run()
    split = load_split(DataArguments([str(case.corpus)]), "train")
    videos = [{"path": "x.mp4", "bytes": Path(row["video"]["path"]).read_bytes()} for row in split]
    case.split = split.remove_columns("video").add_column("video", videos, feature=datasets.Video(decode=False))
    features, num_computed = run_and_count(case, encoded_clips)
    assert num_computed == 0
    assert_close(features, case.features_through_the_encoder())


def digests_of(folder: Path, files: list[Path]) -> list[str]:
    videos = [{"path": str(path), "bytes": None} for path in files]
    clips = datasets.Dataset.from_dict({"video": videos}, datasets.Features(video=datasets.Video(decode=False)))
    return ContentDigests(folder).of_clips(clips, VideoModality(None))


def test_contents_are_read_once_and_again_after_every_change(tmp_path, monkeypatch):
    path, folder = tmp_path / "a.mp4", tmp_path / "digests"
    path.write_bytes(b"first")
    time.sleep(0.02)  # the clock of the file system ticks in between
    (digest,) = digests_of(folder, [path])
    assert "a.mp4" not in "".join(file.read_text() for file in folder.iterdir())  # it might change within this tick
    monkeypatch.setattr(feature_fingerprints, "YOUNGEST_TRUSTED_FILE_IN_SECONDS", 0)
    assert digests_of(folder, [path, path]) == [digest, digest]
    reads: list[Path] = []
    read = feature_fingerprints.digest_of_file
    monkeypatch.setattr(feature_fingerprints, "digest_of_file", lambda path: reads.append(path) or read(path))
    assert digests_of(folder, [path]) == [digest] and not reads
    status = path.stat()
    path.write_bytes(b"other")
    os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns))  # same path, size and time
    time.sleep(0.02)
    assert path.stat().st_mtime_ns == status.st_mtime_ns and path.stat().st_size == status.st_size
    (changed,) = digests_of(folder, [path])
    assert changed != digest and len(reads) == 1
    (memory,) = folder.iterdir()
    for damaged in ("{", "[1]", "[]", '"text"', '{"a.mp4": 3}'):
        memory.write_text(damaged)
        assert digests_of(folder, [path]) == [changed]


class OneOfTwo:
    """The view of a process in a group of two; `others` is what the other one found."""

    num_processes = 2

    def __init__(self, process_index: int, others: list, monkeypatch: pytest.MonkeyPatch):
        self.process_index = process_index
        self.is_main_process = process_index == 0
        self.found: list = []
        monkeypatch.setattr(feature_fingerprints, "PartialState", lambda: self)
        monkeypatch.setattr(feature_fingerprints, "gather_object", lambda found: [*found, *others] if others else found)


def test_each_content_is_read_by_one_process_only(tmp_path, monkeypatch):
    monkeypatch.setattr(feature_fingerprints, "YOUNGEST_TRUSTED_FILE_IN_SECONDS", 0)
    files = [tmp_path / f"{index}.mp4" for index in range(5)]
    for file in files:
        file.write_bytes(file.name.encode())
    videos = [{"path": str(file), "bytes": None} for file in (*files, files[0], files[1])]
    videos += [{"path": "0.mp4", "bytes": b"in the table"}]
    clips = datasets.Dataset.from_dict({"video": videos}, datasets.Features(video=datasets.Video(decode=False)))
    expected = ContentDigests(tmp_path / "alone").of_clips(clips, VideoModality(None))
    assert len(set(expected)) == 6 and expected[5:7] == expected[:2]
    reads: list[str] = []
    read = feature_fingerprints.digest_of_file
    monkeypatch.setattr(feature_fingerprints, "digest_of_file", lambda path: reads.append(path.name) or read(path))
    found: list[list] = []
    for process_index in (1, 0):
        OneOfTwo(process_index, [], monkeypatch)
        monkeypatch.setattr(feature_fingerprints, "gather_object", lambda mine: found.append(mine) or sum(found, []))
        try:
            digests = ContentDigests(tmp_path / "digests").of_clips(clips, VideoModality(None))
        except KeyError:  # the first one has not got what the second one finds
            assert process_index == 1
    assert digests == expected and sorted(reads) == [file.name for file in files]
    assert {len(each) for each in found} == {3}
    monkeypatch.undo()
    monkeypatch.setattr(feature_fingerprints, "digest_of_file", lambda path: pytest.fail(f"{path} is read again"))
    assert ContentDigests(tmp_path / "digests").of_clips(clips, VideoModality(None)) == expected


@pytest.mark.parametrize("process_index", [0, 1])
def test_what_one_process_cannot_read_all_tell(process_index, tmp_path, monkeypatch):
    files = [tmp_path / "a.mp4", tmp_path / "gone.mp4"]
    files[0].write_bytes(b"a")
    gone = feature_fingerprints.FoundDigest(str(files[1]), error=f"[Errno 2] No such file or directory: '{files[1]}'")
    there = feature_fingerprints.FoundDigest(str(files[0]), "digest")
    OneOfTwo(process_index, [gone] if process_index == 0 else [there], monkeypatch)
    text = f"The video {files[1]} cannot be read: [Errno 2] No such file or directory: '{files[1]}'"
    with pytest.raises(ValueError, match=f"^{re.escape(text)}$"):
        digests_of(tmp_path / "digests", files)


# Files


def age(path: Path, days: float) -> None:
    os.utime(path, times=(time.time() - days * 24 * 3600,) * 2)


def test_features_that_no_run_has_used_are_removed_if_asked(case, capsys):
    others = case.cache / "project"
    others.mkdir(parents=True)
    (others / "settings.json").write_text("{}")
    case.run()
    case.arguments["features_dtype"] = "float16"
    case.run()
    first, second = sorted(
        (path.parent for path in case.cache.glob("*/*.arrow")), key=lambda path: path.stat().st_mtime
    )
    for folder in (first, second, others):
        age(folder / "settings.json", days=40.2)
    for days, left in ((None, {first, second}), (60, {first, second}), (30, {second})):
        case.run()  # uses the second
        capsys.readouterr()
        case.feature_cache.remove_unused(days)
        assert {path.parent for path in case.cache.glob("*/*.arrow")} == left and others.is_dir()
    assert capsys.readouterr().out == f"Removed the features in {first}: no run has used them for 40 days.\n"


def test_half_written_files_of_killed_runs_are_removed(case):
    case.run()
    (folder,) = {path.parent for path in shards(case)}
    old, new, other = folder / ".flallm-1.partial", folder / ".flallm-2.partial", folder / "a.arrow.0.part"
    for path in (old, new, other):
        path.write_bytes(b"half")
    age(old, days=2)
    age(other, days=2)
    case.run()
    case.feature_cache.remove_unused(None)
    assert [path.exists() for path in (old, new, other)] == [False, True, False]


def shards(case: Case) -> list[Path]:
    return sorted(case.cache.glob("*/*.arrow"))


def test_a_stopped_run_goes_on_where_it_was(case, encoded_clips, monkeypatch):
    monkeypatch.setattr(feature_cache, "FEATURES_IN_A_FILE", 2)
    forward = FLaLLMVisionModel.forward

    def stopping_forward(self: FLaLLMVisionModel, *arguments: Any, **named: Any):
        if len(encoded_clips) == 2:
            raise KeyboardInterrupt
        return forward(self, *arguments, **named)

    with monkeypatch.context() as patched:
        patched.setattr(FLaLLMVisionModel, "forward", stopping_forward)
        with pytest.raises(KeyboardInterrupt):
            case.run()
    assert sum(encoded_clips) == 4 and len(shards(case)) == 2
    half = shards(case)[0].with_suffix(".arrow.0.part")  # what is left of a file when the machine stops
    half.write_bytes(shards(case)[0].read_bytes()[:100])
    features, num_computed = run_and_count(case, encoded_clips)
    assert num_computed == 2
    assert_close(features, case.features_through_the_encoder())


@pytest.mark.parametrize("damage", ["a bit", "half", "empty"])
def test_a_damaged_file_is_told_and_made_again(damage, case, encoded_clips, monkeypatch, capsys):
    monkeypatch.setattr(feature_cache, "FEATURES_IN_A_FILE", 2)
    case.run()
    path = shards(case)[1]
    content = bytearray(path.read_bytes())
    content[random_generator().integers(len(content))] ^= 1
    path.write_bytes({"a bit": bytes(content), "half": bytes(content[: len(content) // 2]), "empty": b""}[damage])
    capsys.readouterr()
    features, num_computed = run_and_count(case, encoded_clips)
    printed = capsys.readouterr().out
    assert f"{path} is damaged: it is removed, and its features are computed again.\n" in printed
    assert "6 test clips: 4 features from the cache, 2 computed in " in printed
    assert num_computed == 2
    assert_close(features, case.features_through_the_encoder())
    assert run_and_count(case, encoded_clips)[1] == 0


def test_features_wait_on_the_disk(case, monkeypatch):
    monkeypatch.setattr(feature_cache, "FEATURES_IN_A_FILE", 1)
    dataset = case.run()
    open_files = len(os.listdir("/proc/self/fd")) if Path("/proc/self/fd").is_dir() else 0
    features = features_of(dataset)
    assert not open_files or len(os.listdir("/proc/self/fd")) == open_files  # a corpus has more files than may be open
    in_another_process = copy.copy(dataset.store)
    assert dataset.store._columns and not in_another_process._columns
    assert torch.equal(in_another_process[dataset.keys[0][0]], features[0])


def test_two_processes_at_once_share_a_cache(case, encoded_clips, monkeypatch):
    monkeypatch.setattr(feature_cache, "FEATURES_IN_A_FILE", 1)
    context = multiprocessing.get_context("fork")
    processes = [context.Process(target=case.run) for _ in range(2)]
    for process in processes:
        process.start()
    for process in processes:
        process.join(60)
    assert [process.exitcode for process in processes] == [0, 0]
    features, num_computed = run_and_count(case, encoded_clips)
    assert num_computed == 0
    assert_close(features, case.features_through_the_encoder())


def test_two_processes_of_one_training_share_the_work(tmp_path):
    values = {
        **WITHOUT_AUGMENTATION, "num_train_epochs": 3, "learning_rate": 0.003, "save_strategy": "no",
        "load_best_model_at_end": False, "per_device_eval_batch_size": 2, "generation_config": trained_model(),
        "cache_features": True, "features_dtype": "float32",
    }  # fmt: skip
    for name, batch_size in (("one", 4), ("two", 2)):
        cache = {"feature_cache_dir": tmp_path / f"cache of {name}", "per_device_train_batch_size": batch_size}
        arguments = stage2_flags(tmp_path / name, **values, **cache)
        if name == "one":
            llm_fine_tuning.train(arguments)
        else:
            command_in_two_processes("stages.llm_fine_tuning", arguments)
    losses, evaluations = logged(tmp_path / "one")
    other_losses, other_evaluations = logged(tmp_path / "two")
    assert len(losses) == 9 and other_losses == pytest.approx(losses, rel=1e-3)
    assert other_evaluations == evaluations
    counts = [len(list((tmp_path / f"cache of {name}").glob("*/*.arrow"))) for name in ("one", "two")]
    assert counts[0] == 2 and counts[1] > 2  # each process wrote files of its own


# Views


def test_views_differ_and_come_back(case, encoded_clips):
    case.augmentation, case.views = dict(STRONG), 3
    dataset = case.run()
    assert sum(encoded_clips) == 18 and len(dataset) == 6
    by_epoch = []
    for epoch in range(7):
        dataset.set_epoch(epoch)
        by_epoch.append(features_of(dataset))
    for epoch, features in enumerate(by_epoch):
        assert all(torch.equal(*pair) for pair in zip(features, by_epoch[epoch % 3], strict=True))
    pairs = [(one, other) for view in (1, 2) for one, other in zip(by_epoch[0], by_epoch[view], strict=True)]
    assert sum(one.shape == other.shape and torch.equal(one, other) for one, other in pairs) <= 1
    case.views = 4  # one more
    assert run_and_count(case, encoded_clips)[1] == 6


def test_workers_and_the_device_give_the_same_views(case, encoded_clips):
    case.augmentation, case.views = dict(STRONG), 2
    runs = []
    for training in ({}, {"dataloader_num_workers": 2}, {"preprocess_on_device": True}):
        case.training, case.cache = {"bf16": False, **training}, case.cache.with_name(f"cache {len(runs)}")
        dataset = case.run()
        dataset.set_epoch(1)
        runs.append(features_of(dataset))
    assert sum(encoded_clips) == 3 * 12
    for others in runs[1:]:
        assert_close(others, runs[0])


def test_decoded_videos_are_kept_for_the_views_only(case, monkeypatch):
    case.augmentation, case.views = dict(STRONG), 3
    expected = features_of(case.run())
    shutil.rmtree(case.cache)
    case.keeps_decoded_videos = True
    decoded: list[dict[str, Any]] = []
    read = VideoModality.read
    monkeypatch.setattr(VideoModality, "read", lambda self, row, *a: decoded.append(row) or read(self, row, *a))
    dataset = case.run()
    assert len(decoded) == 6
    assert_close(features_of(dataset), expected)
    dataset.clips.clip_of(0, seed=0)
    assert len(decoded) == 7  # nothing was held in memory


def test_a_loading_process_takes_the_view_of_the_epoch(case):
    case.augmentation, case.views = dict(STRONG), 2
    dataset = case.run()
    loader = torch.utils.data.DataLoader(dataset, batch_size=None, num_workers=1, persistent_workers=True)
    for epoch in range(3):
        dataset.set_epoch(epoch)
        loaded = [item["cached_features"] for item in loader]
        assert all(torch.equal(*pair) for pair in zip(loaded, features_of(dataset), strict=True))


# Mistakes


@pytest.mark.parametrize(
    ("values", "message"),
    [
        (
            {"cache_features": True, "freeze_visual_encoder": False},
            "--cache_features needs a frozen visual encoder: with --freeze_visual_encoder False the features change in "
            "every step. Leave out one of the two.",
        ),
        (
            {"cache_features": True, "streaming": True, "max_steps": 2},
            "--cache_features cannot be combined with --streaming: a stream keeps nothing. Leave out one of the two.",
        ),
        (
            {"cache_features": True, "feature_views": 3, **WITHOUT_AUGMENTATION},
            "--feature_views 3 needs augmentation, but all of it is off: the views of a clip would be the same. Leave "
            "out --feature_views.",
        ),
        ({"cache_features": True, "feature_views": 0}, "--feature_views must be 1 or more, got 0."),
        ({"cache_features": True, "feature_cache_days": 0}, "--feature_cache_days must be 1 or more, got 0."),
        (
            {"feature_views": 2},
            "--feature_views needs --cache_features True: without it every epoch draws new ones.",
        ),
        (
            {"cache_features": True, "features_dtype": "int8"},
            "--features_dtype must be float16, bfloat16, float32, got 'int8'.",
        ),
    ],
)
def test_flags_that_make_no_sense(values, message, tmp_path, capsys):
    assert error_of(llm_fine_tuning.main, stage2_flags(tmp_path / "run", **values), capsys) == message
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("num_workers", [0, 1])
def test_a_broken_clip_is_named(num_workers, case):
    broken = sorted((case.corpus / "train").glob("*.mp4"))[2]
    broken.write_bytes(b"no video")
    case.training["dataloader_num_workers"] = num_workers
    row = [Path(clip["video"]["path"]).name for clip in load_split(DataArguments([str(case.corpus)]), "train")]
    name = f"clip {row.index(broken.name)} (counted from 0, {broken}): "
    with pytest.raises(ValueError, match=re.escape(name)):
        case.run()


def test_a_dead_loading_process_is_told(case, monkeypatch):
    case.training["dataloader_num_workers"] = 1
    dead = lambda *_: os.kill(os.getpid(), signal.SIGSEGV)  # noqa: E731
    monkeypatch.setattr(SignClipDataset, "clip_of", dead)
    text = "A process that decodes clips died, either from a file that crashes the decoder or for lack of memory. "
    with pytest.raises(ValueError, match=re.escape(text)):
        case.run()


def test_a_short_clip_is_named(case):
    case.model = tiny_model(vision={"temporal_blocks": ["K5", "P2"], "temporal_padding": "none"})
    case.model.freeze_visual_encoder()
    short = sorted((case.corpus / "train").glob("*.mp4"))[0]
    write_video(short, counting_frames(8))
    message = (
        f", {short}): it is too short: the encoder makes no visual token from 2 frames after sampling. Use a "
        "longer clip or a larger --frame_sampling_rate."
    )
    with pytest.raises(ValueError, match=re.escape(message)):
        case.run()


def test_features_that_do_not_fit_are_not_kept(case):
    case.arguments["features_dtype"] = "float16"
    with torch.no_grad():
        for parameter in case.model.vision_model.temporal_module.parameters():
            parameter.fill_(1e4)
    with pytest.raises(ValueError, match=r"not finite in float16. Try --features_dtype bfloat16 or float32."):
        case.run()
    assert not shards(case)
    case.arguments["features_dtype"] = "bfloat16"
    assert all(features.dtype == torch.bfloat16 for features in features_of(case.run()))


# The benchmark and its page


@pytest.fixture
def benchmark(monkeypatch: pytest.MonkeyPatch):
    """By path, with its neighbours importable, as when it is run."""
    monkeypatch.syspath_prepend(ROOT / "benchmarks")
    path = ROOT / "benchmarks" / "feature_cache.py"
    spec = importlib.util.spec_from_file_location("benchmark_of_feature_cache", path)
    module = importlib.util.module_from_spec(spec)
    monkeypatch.setitem(sys.modules, spec.name, module)
    spec.loader.exec_module(module)
    return module


def test_the_page_holds_what_its_figures_say(benchmark):
    page = benchmark.PAGE.read_text(encoding="utf-8")
    block = page.partition(benchmark.TABLE_START)[2].partition(TABLE_END)[0]
    report = json.loads(benchmark.PAGE.with_suffix(".json").read_text(encoding="utf-8"))
    assert block.strip() == benchmark.format_report(report)
    assert page.count(TABLE_END) == 1


def test_the_benchmark_gives_ratios_of_medians(benchmark):
    rates = {
        "plain, all frames": [0.5, 1.0, 9.0],
        "plain, a quarter of the frames": [2.0],
        "encoder, fp32": [3.0],
        "cache, fp32": [8.0],
        "encoder": [4.0],
        "cache": [10.0],
    }
    result = {"size": "small", "num_parameters": 2e6, "clips_per_second": rates, "largest_difference_of_losses": 2e-5}
    lines = benchmark.format_result(result)
    assert "| **ours from the cache, bfloat16** | 10.00 | 10.0 | 5.0 |" in lines
    assert "| plain baseline, all frames | 1.00 | 1.0 | 0.5 |" in lines
    assert lines[-2].endswith("in float32: 2.0e-05.")


def test_the_benchmark_in_tiny(benchmark, tmp_path):
    page = tmp_path / "page.md"
    values = {"output_dir": tmp_path / "output", "report": page, "sizes": "tiny", "num_clips": 1, "num_frames": 68}
    assert benchmark.main(flags(**values, num_steps=1)) == 0
    (result,) = json.loads(page.with_suffix(".json").read_text(encoding="utf-8"))["results"]
    assert result["largest_difference_of_losses"] < 1e-3
    assert statistics.median(result["clips_per_second"]["cache"]) > 5 * result["clips_per_second"]["encoder"][0]
    assert page.read_text(encoding="utf-8").count("| ours from the cache, float32 |") == 1


def test_the_benchmark_refuses_unknown_sizes(benchmark, capsys):
    message = "--sizes must be of 'tiny', 'small', '12+12 layers', got 'huge'."
    assert error_of(benchmark.main, flags(sizes="huge"), capsys) == message
