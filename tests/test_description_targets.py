"""Descriptions on their way from the store to the batch: each frame keeps its own, whatever is taken of a clip."""

import shutil
from pathlib import Path

import pytest
import torch
from test_description_store import ORIGIN
from tiny_corpus import SIZE_IN_PIXELS, corpus, language_model
from tiny_models import error_texts, tiny_vision_model
from torch.testing import assert_close
from transformers import AutoTokenizer
from video_files import counting_frames, frame_numbers, write_video

from processing import MODALITIES, FLaLLMProcessor
from train_scripts.arguments.data_arguments import (
    AugmentationArguments,
    DataArguments,
    FeatureCacheArguments,
    VideoArguments,
)
from train_scripts.arguments.description_arguments import DescriptionArguments
from train_scripts.arguments.training_arguments import FLaLLMTrainingArguments
from train_scripts.clips.augmentation import ClipAugmentation, MiddleFrames
from train_scripts.clips.collators import TranslationCollator
from train_scripts.clips.data import SignClipDataset
from train_scripts.clips.description_folder import ClipToDescribe, DescriptionFolder
from train_scripts.clips.description_store import ClipDescriptions, read_descriptions
from train_scripts.clips.description_targets import DescriptionScale, DescriptionTargets
from train_scripts.clips.feature_cache import FeatureCache
from train_scripts.clips.splits import load_split
from train_scripts.runs.training import build_processor, encoding_settings
from train_scripts.runs.training_clips import Splits, open_splits, prepare_clips, with_descriptions

VIDEOS = MODALITIES[0]
WIDTH = ORIGIN.width
AS_THEY_ARE = DescriptionScale(torch.zeros(WIDTH), 1.0)
NUM_FRAMES = 30
VIDEO = VideoArguments(frame_size=36, crop_size=SIZE_IN_PIXELS, frame_sampling_rate=0.25)
IN_TIME = AugmentationArguments(speed=0.6, frame_drop=0.3)  # in space, frames of one brightness stay as they are
TABLE = "file_name,text,start,end\na.mp4,one,,\nb.mp4,two,0.2,0.8\nc.mp4,three,,0.6\nd.mp4,four,,\n"


@pytest.fixture(scope="module")
def processor() -> FLaLLMProcessor:
    return build_processor(VIDEO, AutoTokenizer.from_pretrained(language_model()))


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    """A video folder whose frames show their number, with parts of files."""
    folder = tmp_path_factory.mktemp("clips")
    for split in ("train", "dev"):
        (folder / split).mkdir()
        (folder / split / "metadata.csv").write_text(TABLE)
        for name in ("a", "b", "c", "d"):
            write_video(folder / split / f"{name}.mp4", counting_frames(NUM_FRAMES), fps=25)
    return folder


@pytest.fixture(scope="module")
def store(folder, tmp_path_factory) -> Path:
    """Descriptions of the clips of both splits but the last one of each."""
    path = tmp_path_factory.mktemp("store")
    store = DescriptionFolder(path, ORIGIN)
    for split in ("train", "dev"):
        clips = load_split(DataArguments(dataset=str(folder)), split)
        places = store.clips_of(split, clips, VIDEOS, split)[:-1]
        for place in places:
            make = every_fourth_frame if place.index == 0 else random_descriptions
            store.write(place, "content", make(length_of(clips[place.index])))
        store.write_table(split, places)
    store.finish(["me/corpus"])
    return path


def length_of(row: dict) -> int:
    lengths = []
    VIDEOS(None).read(row, lambda length, rate: lengths.append(length) or [0])
    return lengths[0]


def random_descriptions(num_frames: int) -> ClipDescriptions:
    """Of segments with gaps between them, before the first and after the last; sometimes of none."""
    count = int(torch.randint(0, 4, ()))
    bounds = torch.randperm(num_frames + 1)[: 2 * count].sort().values.view(count, 2)
    return ClipDescriptions(torch.randn(count, WIDTH), bounds, ["text"] * count, num_frames)


def every_fourth_frame(num_frames: int) -> ClipDescriptions:
    """Each valid until the next one."""
    bounds = torch.tensor([[first, min(first + 4, num_frames)] for first in range(0, num_frames, 4)])
    return ClipDescriptions(torch.randn(len(bounds), WIDTH), bounds, ["text"] * len(bounds), num_frames)


def by_hand(found: ClipDescriptions, frames: list[int]) -> tuple[torch.Tensor, torch.Tensor]:
    """What `DescriptionTargets.of_clip` gives, frame by frame."""
    embeddings, mask = torch.zeros(len(frames), WIDTH), [0] * len(frames)
    for row, frame in enumerate(frames):
        for description, (first, end) in enumerate(found.frames.tolist()):
            if first <= frame < end:
                embeddings[row], mask[row] = found.embeddings[description], 1
    return embeddings, torch.tensor(mask)


def training_arguments(output_dir: Path, **values) -> FLaLLMTrainingArguments:
    return FLaLLMTrainingArguments(output_dir=str(output_dir), use_cpu=True, report_to=[], **values)


def opened(folder: Path, store: Path | None, tmp_path: Path, **values) -> Splits:
    data = DataArguments(dataset=str(folder), **values)
    splits = open_splits(data, training_arguments(tmp_path))
    return with_descriptions(splits, VIDEOS, data, DescriptionArguments(store and str(store)))


# ------------------------------------------------------------------------------------------ of frames


def test_frames_get_the_description_that_they_lie_in(tmp_path):
    store, place = DescriptionFolder(tmp_path, ORIGIN), ClipToDescribe(0, "clip", tmp_path / "clip.safetensors")
    for _ in range(20):
        found = random_descriptions(NUM_FRAMES)
        store.write(place, "content", found)
        frames = torch.randint(0, NUM_FRAMES, (9,)).sort().values.tolist()
        targets = DescriptionTargets([None, str(place.path)], AS_THEY_ARE)
        of_clip = targets.of_clip(1, frames, NUM_FRAMES)
        embeddings, mask = by_hand(found, frames)
        assert torch.equal(of_clip["description_embeddings"], embeddings)
        assert torch.equal(of_clip["description_attention_mask"], mask)
        empty = targets.of_clip(0, frames, 17)
        assert not any(values.any() for values in empty.values())
        assert [values.shape for values in empty.values()] == [(9, WIDTH), (9,)]


def test_targets_are_scaled_by_the_descriptions_of_the_training_clips(folder, store, processor, tmp_path):
    """So that neither the length of the embeddings nor what all of them share counts."""
    splits = opened(folder, store, tmp_path)
    paths = [path for path in splits.train["descriptions"] if path is not None]
    found = torch.cat([read_descriptions(path).embeddings for path in paths])
    scale = splits.description_scale
    assert_close(scale.mean, found.mean(0))
    assert_close(((found - scale.mean) / scale.spread).square().mean(), torch.tensor(1.0))
    for split in (splits.train, splits.evaluation):
        scaled, plain = (SignClipDataset(split, processor, description_scale=each)[0] for each in (scale, AS_THEY_ARE))
        is_described = plain["description_attention_mask"].bool()
        assert torch.equal(scaled["description_attention_mask"], plain["description_attention_mask"])
        expected = (plain["description_embeddings"] - scale.mean) / scale.spread
        assert_close(scaled["description_embeddings"], expected * is_described[:, None])


def test_without_any_description_nothing_is_scaled():
    scale = DescriptionScale.of([None, None], WIDTH)
    assert not scale.mean.any() and scale.mean.shape == (WIDTH,) and scale.spread == 1


@pytest.mark.parametrize("keep_decoded_videos", [False, True])
@pytest.mark.parametrize("how", ["evaluation", "middle frames", "speed and dropped frames"])
def test_targets_are_those_of_the_frames_in_the_item(how, keep_decoded_videos, folder, store, processor, tmp_path):
    splits = opened(folder, store, tmp_path)
    augmentation = {
        "evaluation": None,
        "middle frames": MiddleFrames(),
        "speed and dropped frames": ClipAugmentation(IN_TIME, VIDEO),
    }[how]
    clips = SignClipDataset(
        splits.train,
        processor,
        description_scale=AS_THEY_ARE,
        augmentation=augmentation,
        keep_decoded_videos=keep_decoded_videos,
    )
    described = 0
    for epoch in range(4):
        clips.set_epoch(epoch)
        for index in range(3):
            item, row = clips[index], clips.dataset[index]
            start = round(25 * (row["start"] or 0))
            frames = [number - start for number in frame_numbers(item["frames"], NUM_FRAMES)]
            embeddings, mask = by_hand(read_descriptions(row["descriptions"]), frames)
            assert torch.equal(item["description_embeddings"], embeddings)
            assert torch.equal(item["description_attention_mask"], mask)
            described += int(mask.sum())
    assert described > 0


def test_a_clip_without_descriptions_has_none_in_any_frame(folder, store, processor, tmp_path, capsys):
    splits = opened(folder, store, tmp_path)
    assert splits.train["descriptions"][-1] is None and len(splits.description_scale.mean) == WIDTH
    assert "1 of 4 train clips have no descriptions" in capsys.readouterr().out
    item = SignClipDataset(splits.train, processor, description_scale=AS_THEY_ARE)[3]
    assert item["description_embeddings"].shape == (len(item["frames"]), WIDTH)
    assert not item["description_embeddings"].any() and not item["description_attention_mask"].any()


def test_a_batch_is_padded_like_its_frames(folder, store, processor, tmp_path):
    splits = opened(folder, store, tmp_path)
    clips = SignClipDataset(splits.train, processor, description_scale=AS_THEY_ARE)
    items = [clips[index] for index in range(4)]
    batch = TranslationCollator(processor)(items)
    num_frames = batch["pixel_values_videos"].shape[1]
    assert batch["description_embeddings"].shape == (4, num_frames, WIDTH)
    assert batch["description_embeddings"].dtype == torch.float32
    assert batch["description_attention_mask"].dtype == torch.int64
    for row, item in enumerate(items):
        length = len(item["frames"])
        for name in ("description_embeddings", "description_attention_mask"):
            assert torch.equal(batch[name][row, :length], item[name]) and not batch[name][row, length:].any()
    on_device = TranslationCollator(processor, preprocess_on_device=True)(items)
    assert torch.equal(on_device["description_embeddings"], batch["description_embeddings"])


def test_without_a_store_batches_are_as_before_whatever_columns_the_data_set_has(folder, processor, tmp_path):
    splits = opened(folder, None, tmp_path)
    assert splits.description_scale is None
    train = splits.train.add_column("descriptions", ["left hand"] * 4)
    clips = SignClipDataset(train, processor)
    batch = TranslationCollator(processor)([clips[0]])
    assert not any("description" in name for name in batch)


def test_descriptions_of_another_version_of_a_clip_are_refused(folder, store, processor, tmp_path):
    shutil.copytree(folder, tmp_path / "cut")
    write_video(tmp_path / "cut" / "train" / "a.mp4", counting_frames(NUM_FRAMES - 4), fps=25)
    splits = opened(tmp_path / "cut", store, tmp_path)
    clips = SignClipDataset(splits.train, processor, description_scale=AS_THEY_ARE)
    with error_texts(
        f"{splits.train['descriptions'][0]} describes a clip of 30 frames, but the clip has 26. Run `flallm describe` "
        "again, or name the store of this data set for --descriptions."
    ):
        clips[0]


# ------------------------------------------------------------------------------------------ of a run


@pytest.mark.parametrize("horizontal_flip", [0.0, 0.5])
def test_both_splits_of_a_run_have_targets_and_mirrored_clips_are_told(
    horizontal_flip, folder, store, processor, tmp_path, capsys
):
    splits, data = opened(folder, store, tmp_path), DataArguments(dataset=str(folder))
    augmentation = ClipAugmentation(AugmentationArguments(horizontal_flip=horizontal_flip), VIDEO)
    capsys.readouterr()
    clips = prepare_clips(splits, processor, data, augmentation, training_arguments(tmp_path))
    for dataset in (clips.train, clips.evaluation):
        assert dataset[0]["description_embeddings"].shape == (len(dataset[0]["frames"]), WIDTH)
    told = (
        "--horizontal_flip 0.5 mirrors clips, but not their descriptions: these speak of the left and the right of the "
        "clip as it is.\n"
    )
    assert capsys.readouterr().out == (told if horizontal_flip else "")
    prepare_clips(opened(folder, None, tmp_path), processor, data, augmentation, training_arguments(tmp_path))
    assert "mirrors" not in capsys.readouterr().out


def test_streams_have_no_descriptions(folder, store, tmp_path):
    data = DataArguments(dataset=str(folder), streaming=True)
    splits = open_splits(data, training_arguments(tmp_path, max_steps=2))
    with error_texts(
        "--descriptions cannot be combined with --streaming: they are looked up by the clips of a split before "
        "training. Leave out --streaming, and download the data set."
    ):
        with_descriptions(splits, VIDEOS, data, DescriptionArguments(str(store)))


def test_of_several_data_sets_it_is_not_known_whose_they_are(folder, store, tmp_path):
    data = DataArguments(dataset=[str(folder), str(corpus())])
    splits = open_splits(data, training_arguments(tmp_path))
    with error_texts(
        "--descriptions names those of one data set, got 2 data sets, whose clips may have the same names. Name one "
        "for --dataset."
    ):
        with_descriptions(splits, VIDEOS, data, DescriptionArguments(str(store)))


def test_a_store_of_another_data_set_is_refused(store, tmp_path):
    with error_texts(f"--descriptions {store} describes none of the"):
        opened(corpus(), store, tmp_path)


def test_features_that_are_kept_have_no_descriptions(folder, store, processor, tmp_path):
    splits, training = opened(folder, store, tmp_path), training_arguments(tmp_path)
    encoder = tiny_vision_model()
    encoder.freeze()
    arguments = FeatureCacheArguments(cache_features=True, feature_cache_dir=str(tmp_path / "cache"))
    cache = FeatureCache(encoder, processor.modality, arguments, encoding_settings(training))
    with error_texts("--descriptions cannot be combined with --cache_features: the frame encoder that learns from"):
        cache.clips(SignClipDataset(splits.train, processor, description_scale=AS_THEY_ARE), "training")
