"""Random changes to the coordinates of a pose, which torch's CPU generator draws; ours, Uni-Sign has none."""

import math

import torch

from modeling_flallm.own_processing import mirrored_poses, pose_layouts

from ..arguments.data_arguments import AugmentationArguments

ROTATION_PROBABILITY = 0.5  # that of frames
HANDS = (pose_layouts.LEFT_HAND, pose_layouts.RIGHT_HAND)


def augmented_poses(
    poses: torch.Tensor, arguments: AugmentationArguments, body_size: float
) -> tuple[torch.Tensor, bool]:
    """
    Mirror, turn and stretch a signer, and make the points shake and hands disappear, as a detector does.

    Args:
        poses: `(frames, 133, 3)`, x, y and score before normalisation; points with score 0 are 0.
        body_size: the side of the square around the body, in the unit of the coordinates.

    Returns:
        New poses, in which points that were not seen stay 0, and whether the signer is mirrored.
    """
    is_mirrored = bool(torch.rand(()) < arguments.horizontal_flip)
    if is_mirrored:
        poses = mirrored_poses(poses)
    places, scores = poses[..., :2], poses[..., 2:]
    if arguments.rotation_degrees and torch.rand(()) < ROTATION_PROBABILITY:
        places = places @ _rotation(arguments.rotation_degrees)
    if arguments.scale:
        places = places * (1 + arguments.scale * _evenly(2))
    if arguments.joint_noise:
        places = places + arguments.joint_noise * body_size * torch.randn(places.shape)
    if arguments.hand_drop:
        scores = _without_hands(scores, arguments.hand_drop)
    return torch.cat([places, scores], -1).where(scores > 0, 0.0), is_mirrored


def _evenly(count: int) -> torch.Tensor:
    """From -1 to 1."""
    return 2 * torch.rand(count) - 1


def _rotation(degrees: float) -> torch.Tensor:
    """A matrix for rows x, y that turns by up to this angle. Around which point does not matter: poses are measured
    from the body."""
    angle = math.radians(degrees) * float(_evenly(1))
    return torch.tensor([[math.cos(angle), math.sin(angle)], [-math.sin(angle), math.cos(angle)]])


def _without_hands(scores: torch.Tensor, probability: float) -> torch.Tensor:
    """Each hand may be unseen for some frames in a row, up to the whole clip."""
    scores = scores.clone()
    for hand in HANDS:
        num_frames = len(scores)
        first, last = sorted(torch.randint(num_frames + 1, (2,)).tolist())
        if torch.rand(()) < probability:
            scores[first : max(last, first + 1), hand[0] : hand[-1] + 1] = 0
    return scores
