"""Training on mirrored clips of left-handed signers: which clips, what is in them, and what is refused."""

import re

import datasets
import pytest
import torch
from test_hand_crops import folder_with_both
from tiny_corpus import SIZE_IN_PIXELS, corpus, language_model, load, stage1_flags
from transformers import AutoTokenizer

from modeling_flallm.handedness_slt import direction_of_hands
from processing import FLaLLMProcessor, PoseFeatureExtractor, VisualFeatureExtractor
from processing.modality_features_slt import VisualFeaturesModality
from processing.modality_poses_slt import PoseModality
from processing.modality_slt import limit_of_hands
from train_scripts.arguments.data_arguments import AugmentationArguments, DataArguments, VideoArguments
from train_scripts.arguments.training_arguments import FLaLLMTrainingArguments
from train_scripts.clips.augmentation import ClipAugmentation
from train_scripts.clips.data import ClipDataset, SignClipDataset
from train_scripts.clips.feature_cache import check_feature_cache
from train_scripts.clips.splits import load_split
from train_scripts.clips.streaming import StreamedClipDataset, open_streams
from train_scripts.runs.training import build_processor
from train_scripts.stages import visual_initialing

VIDEO = VideoArguments(frame_size=SIZE_IN_PIXELS, crop_size=SIZE_IN_PIXELS, frame_sampling_rate=0.25)


@pytest.fixture(scope="module")
def processor() -> FLaLLMProcessor:
    return build_processor(VIDEO, AutoTokenizer.from_pretrained(language_model()))


def clips_signed_with(*hands: str | None) -> datasets.Dataset:
    split = load_split(DataArguments(dataset=str(corpus())), "train", len(hands))
    hands_of = datasets.Value("string")
    return split.remove_columns("handedness").add_column("handedness", list(hands), feature=hands_of)


def test_only_clips_of_left_handed_signers_are_mirrored(processor):
    split = clips_signed_with("left", "right", " Left", None, "")
    plain = SignClipDataset(split, processor)
    mirrored = SignClipDataset(split, processor, mirror_left_handed=True)
    for index, is_left in enumerate([True, False, True, False, False]):
        frames = plain[index]["frames"]
        assert torch.equal(mirrored[index]["frames"], frames.flip(-1) if is_left else frames)
        assert not torch.equal(frames, frames.flip(-1))


def test_a_random_flip_comes_on_top(processor):
    split = clips_signed_with("left")
    flags = {"random_crop": False, "frame_jitter": False}
    of_flip = [
        SignClipDataset(
            split,
            processor,
            augmentation=ClipAugmentation(AugmentationArguments(horizontal_flip=flip, **flags), VIDEO),
            mirror_left_handed=is_mirrored,
        )[0]["frames"].float()
        for flip, is_mirrored in ((1.0, True), (0.0, False))
    ]
    torch.testing.assert_close(*of_flip, atol=1.5, rtol=0)  # rounded on either side of the mirror


@pytest.mark.parametrize("flip", [0.0, 1.0])
def test_poses_and_hand_crops_are_mirrored_together(flip, tmp_path):
    split = load_split(DataArguments(dataset=str(folder_with_both(tmp_path))), "train")
    modality = PoseModality(PoseFeatureExtractor(hand_crops=True))
    split = split.add_column("handedness", ["left"] * len(split))
    plain = ClipDataset(split, modality)[0]
    arguments = AugmentationArguments(horizontal_flip=flip, frame_jitter=False)
    video = VideoArguments(max_num_frames=None, frame_sampling_rate=1.0)
    augmentation = ClipAugmentation(arguments, video) if flip else None
    item = ClipDataset(split, modality, augmentation, mirror_left_handed=True)[0]
    crops, of_plain = item["hand_crops"], plain["hand_crops"]
    if flip:
        torch.testing.assert_close(item["poses"], plain["poses"])
    else:
        assert torch.equal(item["poses"], modality.mirrored(plain["poses"]))
        for name, values in vars(of_plain.mirrored()).items():
            assert torch.equal(getattr(crops, name), values)


def test_streams_mirror_the_same_clips(processor, tmp_path):
    data = DataArguments(dataset=str(corpus()), streaming=True, mirror_left_handed=True, shuffle_buffer_size=1)
    training = FLaLLMTrainingArguments(output_dir=str(tmp_path), max_steps=1, report_to=[])
    stream = StreamedClipDataset(processor, mirror_left_handed=True)
    (of_corpus,) = open_streams(data, training).streams
    found = set()
    for clip in of_corpus.one_pass(0):
        is_left = clip.row["handedness"] == "left"
        found.add(is_left)
        plain = StreamedClipDataset(processor)[clip]["frames"]
        assert torch.equal(stream[clip]["frames"], plain.flip(-1) if is_left else plain)
    assert found == {True, False}


def test_a_column_that_does_not_say_it_is_refused(processor):
    split = clips_signed_with("right", "both")
    with pytest.raises(
        ValueError, match=re.escape("row 1 (counted from 0): handedness must be left or right, got 'both'.")
    ):
        SignClipDataset(split, processor, mirror_left_handed=True)
    message = (
        "--mirror_left_handed needs a column `handedness` that says left or right of each clip, got columns ['text', "
    )
    with pytest.raises(ValueError, match=re.escape(message)):
        SignClipDataset(split.remove_columns("handedness"), processor, mirror_left_handed=True)


def test_features_are_refused():
    message = "--cache_features cannot be combined with --mirror_left_handed: features are kept of clips as they are."
    with pytest.raises(ValueError, match=re.escape(message)):
        check_feature_cache(DataArguments(dataset="corpus", mirror_left_handed=True))
    message = (
        "ready-made visual features cannot be mirrored: which of their numbers belong to the left and to the right is "
        "not known. Mirror the videos, and make them again."
    )
    with pytest.raises(ValueError, match=re.escape(message)):
        VisualFeaturesModality(VisualFeatureExtractor()).mirrored(torch.zeros(3, 4))


def test_the_card_says_it():
    assert "no training clip was mirrored" in limit_of_hands({})
    text = limit_of_hands({"mirror_left_handed": True, "horizontal_flip": 0.5})
    assert "clips of left-handed signers were mirrored for training and validation" in text
    assert "After that, training clips were mirrored with probability 0.5." in text
    assert "After that" not in limit_of_hands({"mirror_left_handed": True})


@pytest.mark.slow
def test_a_run_learns_to_tell_the_hand_and_the_card_says_so(tmp_path):
    visual_initialing.train(stage1_flags(tmp_path, mirror_left_handed=True))
    model, processor = load(tmp_path)
    direction = torch.tensor(model.config.handedness_direction)
    assert direction.norm() == pytest.approx(1, abs=1e-4)
    clips = SignClipDataset(load_split(DataArguments(dataset=str(corpus())), "dev"), processor, mirror_left_handed=True)
    batch = processor.modality.collate([clips[index] for index in range(len(clips))])
    expected = direction_of_hands(model.hand_differences(**batch))
    torch.testing.assert_close(direction, torch.tensor(expected), atol=0.02, rtol=0)  # trained in lower precision
    assert model.hand_margins(**batch).mean() < 0
    assert (
        "clips of left-handed signers were mirrored for training and validation" in (tmp_path / "README.md").read_text()
    )
