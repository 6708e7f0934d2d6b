"""Augmentation of poses: what each flag does to the figure, from a seed, and what is told of flags without effect."""

import math

import numpy as np
import pytest
import torch
from pose_sources import LEFT, RIGHT, figure, moving
from test_pose_extractor import as_values
from tiny_tokenizers import make_plain_tokenizer

from processing import FLaLLMProcessor, FLaLLMVideoProcessor, PoseFeatureExtractor, VisualFeatureExtractor
from processing.modality_poses_slt import PoseModality
from processing.pose_layouts_slt import PARTS
from processing.pose_normalisation_slt import body_box, normalised_poses
from train_scripts.arguments.data_arguments import AugmentationArguments, VideoArguments
from train_scripts.clips.augmentation import ClipAugmentation, tell_unused_in_space
from train_scripts.clips.data import ClipReader
from train_scripts.clips.pose_augmentation import augmented_poses

FRAMES = 20
SIZE = 100.0
SPACE = {"horizontal_flip": 0.5, "rotation_degrees": 20.0, "scale": 0.2, "joint_noise": 0.01, "hand_drop": 0.5}


def clip(num_frames: int = FRAMES) -> torch.Tensor:
    """The moving figure, with some unseen points."""
    scores = np.random.uniform(0.4, 1, (num_frames, 133))
    scores[np.random.rand(num_frames, 133) < 0.1] = 0
    return as_values(moving(num_frames) * (scores > 0)[..., None], scores)


def augment(poses: torch.Tensor, **flags: float) -> torch.Tensor:
    return augmented_poses(poses, AugmentationArguments(**flags), SIZE)[0]


def test_nothing_changes_by_default():
    poses = clip()
    assert torch.equal(augment(poses), poses)


def test_a_mirrored_signer_swaps_left_and_right():
    poses = as_values(figure()[None], np.linspace(0.5, 1, 133)[None])
    mirrored = augment(poses, horizontal_flip=1.0)
    # A mirror shows this symmetric figure at the same places, with the scores of the other side.
    places = normalised_poses(mirrored, 0.3)[..., :2]
    torch.testing.assert_close(places, normalised_poses(poses, 0.3)[..., :2], atol=1e-5, rtol=0)
    assert torch.equal(mirrored[0, list(LEFT), 2], poses[0, list(RIGHT), 2])
    assert torch.equal(mirrored[0, 9, 2], poses[0, 10, 2]) and torch.equal(mirrored[0, 0, 2], poses[0, 0, 2])
    assert torch.equal(augment(mirrored, horizontal_flip=1.0), poses)
    raised = poses.clone()
    raised[0, list(LEFT), 1] -= 200  # the left hand
    assert torch.equal(augment(raised, horizontal_flip=1.0)[0, list(RIGHT), 1], raised[0, list(LEFT), 1])


def test_flips_have_their_probability():
    poses = clip(1)
    share = np.mean([not torch.equal(augment(poses, horizontal_flip=0.3), poses) for _ in range(1000)])
    assert 0.2 < share < 0.4


def test_rotation_turns_all_frames_by_one_angle_below_the_limit():
    poses = as_values(moving(FRAMES), np.ones((FRAMES, 133)))
    angles = []
    for _ in range(200):
        turned = augment(poses, rotation_degrees=15.0)
        before, after = (each[:, 5, :2] - each[:, 6, :2] for each in (poses, turned))  # from shoulder to shoulder
        angle = torch.rad2deg(torch.atan2(after[:, 1], after[:, 0]) - torch.atan2(before[:, 1], before[:, 0]))
        torch.testing.assert_close(angle, angle[:1].expand(FRAMES), atol=1e-2, rtol=0)
        torch.testing.assert_close(after.norm(dim=-1), before.norm(dim=-1))
        angles.append(float(angle[0]))
    assert max(map(abs, angles)) <= 15.01 and min(angles) < -5 and max(angles) > 5
    assert 0.35 < np.mean([abs(angle) < 1e-3 for angle in angles]) < 0.65


def test_scale_changes_proportions():
    poses = as_values(moving(FRAMES), np.ones((FRAMES, 133)))
    ratios = []
    for _ in range(100):
        stretched = augment(poses, scale=0.2)
        factors = stretched[..., :2] / poses[..., :2]
        torch.testing.assert_close(factors, factors[:1, :1].expand_as(factors))
        assert factors.min() > 0.8 - 1e-6 and factors.max() < 1.2 + 1e-6
        ratios.append(float(factors[0, 0, 0] / factors[0, 0, 1]))
    assert max(ratios) > 1.1 and min(ratios) < 0.9


def test_joint_noise_is_in_units_of_the_body():
    poses = as_values(moving(FRAMES), np.ones((FRAMES, 133)))
    noise = (augment(poses, joint_noise=0.05) - poses)[..., :2]
    assert math.isclose(noise.std(), 0.05 * SIZE, rel_tol=0.05) and abs(noise.mean()) < 0.5
    assert torch.equal(augment(poses, joint_noise=0.05)[..., 2], poses[..., 2])


def test_dropped_hands_are_unseen_for_a_part_of_the_clip():
    poses = as_values(moving(FRAMES), np.ones((FRAMES, 133)))
    lengths, dropped = [], []
    for _ in range(300):
        changed = augment(poses, hand_drop=0.5)
        for hand in (LEFT, RIGHT):
            gone = ~(changed[:, list(hand)] != 0).flatten(1).any(1)
            assert torch.equal(changed[~gone][:, list(hand)], poses[~gone][:, list(hand)])
            steps = int((gone.int().diff() != 0).sum())
            assert steps <= 2  # one part
            dropped.append(bool(gone.any()))
            lengths += [int(gone.sum())] if gone.any() else []
        others = [point for point in range(133) if point not in (*LEFT, *RIGHT)]
        assert torch.equal(changed[:, others], poses[:, others])
    assert 0.4 < np.mean(dropped) < 0.6 and min(lengths) < 4 and max(lengths) > FRAMES - 4


def test_unseen_points_stay_unseen():
    for _ in range(20):
        poses = clip()
        changed = augment(poses, **SPACE)
        assert not changed[changed[..., 2] == 0].any() and torch.isfinite(changed).all()
        assert ((changed[..., 2] > 0).sum(1) <= (poses[..., 2] > 0).sum(1)).all()


def test_draws_come_from_the_seed():
    modality = PoseModality(PoseFeatureExtractor())
    poses = clip(40)
    augmentation = ClipAugmentation(AugmentationArguments(**SPACE, speed=0.3, frame_drop=0.2), VideoArguments(1.0))
    reader = ClipReader(modality, augmentation)

    def read(sample):
        return poses[sample(len(poses), None)]

    state = torch.get_rng_state()
    one, same, other = (reader(read, seed)["poses"] for seed in (7, 7, 8))
    assert torch.equal(torch.get_rng_state(), state)
    assert torch.equal(one, same) and (one.shape != other.shape or not torch.equal(one, other))
    batch = modality.collate([{"poses": one}, {"poses": other}])
    assert batch["pose_values"].shape[2:] == (69, 3) and torch.isfinite(batch["pose_values"]).all()
    assert torch.equal(ClipReader(modality)(read, 7)["poses"], poses)


def test_noise_is_measured_on_the_clip():
    """Of a picture twice as large, the model sees the same."""
    modality = PoseModality(PoseFeatureExtractor())
    augmentation = ClipAugmentation(AugmentationArguments(joint_noise=0.05), VideoArguments(1.0))
    values = []
    for factor in (1.0, 2.0):
        poses = as_values(moving(FRAMES) * factor, np.ones((FRAMES, 133)))
        item = modality.item(lambda sample, poses=poses: poses[sample(len(poses), None)], augmentation, seed=3)
        values.append(modality.collate([item])["pose_values"])
    torch.testing.assert_close(*values, atol=1e-4, rtol=0)
    assert body_box(as_values(moving(1), np.ones((1, 133))), 0.3)[1] > 0


PARTS_OF_PROCESSORS = {
    "videos": {"video_processor": FLaLLMVideoProcessor()},
    "ready-made visual features": {"feature_extractor": VisualFeatureExtractor(4)},
    "poses": {"feature_extractor": PoseFeatureExtractor()},
}


@pytest.mark.parametrize(
    ("clips", "flags", "printed"),
    [
        ("videos", {"brightness": 0.1, "horizontal_flip": 0.5}, ""),
        ("videos", {"joint_noise": 0.1, "hand_drop": 0.1}, "--joint_noise, --hand_drop have no effect on videos.\n"),
        ("poses", SPACE, ""),
        ("poses", {"brightness": 0.1, **SPACE}, "--brightness has no effect on poses.\n"),
        (
            "ready-made visual features",
            {"translation": 0.1, "joint_noise": 0.1},
            "--translation, --joint_noise have no effect on ready-made visual features.\n",
        ),
    ],
)
def test_flags_without_effect_are_told(clips, flags, printed, capsys):
    processor = FLaLLMProcessor(tokenizer=make_plain_tokenizer(), **PARTS_OF_PROCESSORS[clips])
    tell_unused_in_space(AugmentationArguments(**flags), processor)
    assert capsys.readouterr().out == printed


def test_the_parts_are_not_mixed_by_a_mirror():
    """The mirrored body, hands and face are those of the same model inputs."""
    poses = clip()
    for part in PARTS.values():
        only = torch.zeros_like(poses)
        only[:, list(part)] = poses[:, list(part)]
        mirrored = augment(only, horizontal_flip=1.0)
        count = (mirrored[..., 2] > 0).sum()
        if part in (PARTS["body"], PARTS["face"]):
            assert (mirrored[:, list(part), 2] > 0).sum() == count
