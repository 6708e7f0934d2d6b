"""Clips without what they show, and the scores of their translations."""

import re
from types import SimpleNamespace

import pytest
import torch

from processing.hand_crops_slt import NO_FRAME, HandCrops
from processing.modality_features_slt import VisualFeaturesModality
from processing.modality_poses_slt import PoseModality
from processing.modality_video_slt import VideoModality
from train_scripts.clips.control_clips import ControlClips
from train_scripts.scores.content_words import FunctionWords
from train_scripts.scores.controls import clips_of_other_sentences, control_scores, drawn_clips
from train_scripts.scores.metrics import translation_scores
from train_scripts.scores.report import format_report

NO_WORDS = FunctionWords((), "references", "13a")
SENTENCES = ["one two three four", "five six seven eight", "one two three nine"]


def items(modality) -> list[dict]:
    if modality is VideoModality:
        clips = [torch.randint(256, (frames, 3, 6, 8), dtype=torch.uint8) for frames in (1, 5)]
        return [{"frames": clip, "spatial_seed": None, "is_cropped": False} for clip in clips]
    if modality is VisualFeaturesModality:
        return [{"features": 3 + 5 * torch.randn(length, 64)} for length in (1, 7)]
    poses = torch.rand(9, 133, 3) * torch.tensor([640.0, 360.0, 1.0])
    crops = HandCrops(
        torch.randint(256, (2, 3, 3, 112, 112), dtype=torch.uint8),
        torch.tensor([[0, 4, 8], [1, NO_FRAME, NO_FRAME]]),
        torch.rand(2, 3, 21, 2),
    )
    return [{"poses": poses, "is_mirrored": False}, {"poses": poses, "is_mirrored": False, "hand_crops": crops}]


def control(modality, item: dict, name: str) -> dict:
    members = {"modality": modality(SimpleNamespace(hand_crops=False)), "__getitem__": lambda self, index: item}
    dataset = type("Clips", (), members)()
    return ControlClips(dataset, name, [7])[0]


@pytest.mark.parametrize("modality", [VideoModality, VisualFeaturesModality, PoseModality])
@pytest.mark.parametrize("name", ["noise", "frozen"])
def test_a_control_differs_from_its_clip_in_what_it_shows_alone(modality, name):
    key = modality.item_key
    for item in items(modality):
        changed = control(modality, item, name)
        assert changed.keys() == item.keys() and changed[key].dtype == item[key].dtype
        assert changed[key].shape == item[key].shape
        others = {name for name in item if not isinstance(item[name], torch.Tensor | HandCrops)}
        assert all(changed[name] == item[name] for name in others)
        assert torch.equal(control(modality, item, name)[key], changed[key])  # from the index alone
        if name == "frozen":
            assert all(torch.equal(value, item[key][0]) for value in changed[key])
        else:
            assert not torch.equal(changed[key], item[key])
            assert changed[key].unique().numel() > 0.5 * min(changed[key].numel(), 256)
        if "hand_crops" in item:
            before, after = item["hand_crops"], changed["hand_crops"]
            assert torch.equal(before.frame_indices, after.frame_indices)
            assert not torch.equal(before.pixels[0], after.pixels[0])
            if name == "frozen":
                assert all(torch.equal(crop, before.pixels[0, 0]) for crop in after.pixels[0])


def test_noise_is_as_large_as_the_clip():
    item = {"features": 3 + 5 * torch.randn(50, 200)}
    noise = control(VisualFeaturesModality, item, "noise")["features"]
    assert noise.mean() == pytest.approx(3, abs=0.5) and noise.std() == pytest.approx(5, rel=0.1)
    (poses, _) = items(PoseModality)
    noise = control(PoseModality, poses, "noise")["poses"]
    assert (noise[..., 2] == 1).all()
    assert (noise[..., :2].amin((0, 1)) >= poses["poses"][..., :2].amin((0, 1))).all()
    assert (noise[..., :2].amax((0, 1)) <= poses["poses"][..., :2].amax((0, 1))).all()


def test_another_control_is_refused():
    with pytest.raises(ValueError, match=re.escape("`control` must be 'noise' or 'frozen', got 'silence'.")):
        ControlClips(None, "silence", [])


def test_control_clips_are_of_every_signer_also_where_signers_take_turns():
    indices = drawn_clips(150, 50)
    assert indices == sorted(set(indices)) == drawn_clips(150, 50) and len(indices) == 50
    assert len({index % 3 for index in indices}) == 3 and len({index // 50 for index in indices}) == 3
    assert drawn_clips(3, 100) == [0, 1, 2] and drawn_clips(5, 0) == []


def test_shuffled_clips_have_another_sentence():
    assert clips_of_other_sentences(["a", "b", "c", "d"]) == [2, 3, 0, 1]
    assert clips_of_other_sentences(["a", "b", "a ", "d"]) == [3, 3, 1, 1]
    assert clips_of_other_sentences(["a", "a"]) == [None, None]


def test_controls_stand_beside_the_score_of_the_same_clips():
    predictions = [SENTENCES[0], SENTENCES[1], SENTENCES[1]]
    scores = control_scores(predictions, SENTENCES, {"noise": [SENTENCES[0]] * 2}, [0, 2], NO_WORDS)
    without = translation_scores([SENTENCES[0]] * 2, [SENTENCES[0], SENTENCES[2]], num_resamples=0)
    with_it = translation_scores([SENTENCES[0], SENTENCES[1]], [SENTENCES[0], SENTENCES[2]], num_resamples=0)
    names = ("bleu4", "chrf", "num_segments")
    assert scores["noise"] == {
        **{name: without[name] for name in names},
        "content_bleu4": without["bleu4"],
        "with_the_clip": {**{name: with_it[name] for name in names}, "content_bleu4": with_it["bleu4"]},
    }
    assert scores["shuffled"]["num_segments"] == 3
    assert format_report({"controls": scores}) == (
        f"Without the clip the model scores {without['bleu4']:.2f} BLEU-4 (noise in its place); with it "
        f"{with_it['bleu4']:.2f} (2 clips).\n"
        f"Its translations of other clips score {scores['shuffled']['bleu4']:.2f} BLEU-4."
    )
