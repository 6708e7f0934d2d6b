# Copyright 2026 The FLaLLM authors. Licensed under the Apache License, Version 2.0.
"""Poses as models read them: smoothed over time, 69 points, measured from the body and from the origin of each part."""

import math

import torch

from .pose_layouts_slt import LEAST_POINTS, LEAST_WEIGHT, MIRRORED_POINTS, ORIGINS, PARTS, REACH_IN_DEVIATIONS


def smoothed_poses(poses: torch.Tensor, deviation_in_frames: float, score_threshold: float) -> torch.Tensor:
    """
    Average each point over neighbouring frames, so that it shakes less, and fill short gaps: a Gaussian over time, in
    which frames weigh as much as the square of the point's score. Ours; Uni-Sign reads what the detector wrote.

    Args:
        poses: `(frames, 133, 3)`, x, y and score.
        deviation_in_frames: standard deviation of the Gaussian.
        score_threshold: frames in which the point has this score or less do not count.

    Returns:
        New poses. A point that is hardly seen around a frame, less than 0.05 in all, is 0 there.
    """
    reach = math.ceil(REACH_IN_DEVIATIONS * deviation_in_frames)
    scores = poses[..., 2:]
    weights = scores.square().where(scores > score_threshold, 0.0)
    padded = torch.nn.functional.pad(torch.cat([poses * weights, weights], -1), (0, 0, 0, 0, reach, reach))
    sums = torch.zeros_like(padded[: len(poses)])
    for offset in range(-reach, reach + 1):
        share = math.exp(-((offset / deviation_in_frames) ** 2) / 2)
        sums.add_(padded[reach + offset :][: len(poses)], alpha=share)
    total = sums[..., 3:]
    return (sums[..., :3] / total.clamp(min=LEAST_WEIGHT)).where(total >= LEAST_WEIGHT, 0.0)


def body_box(poses: torch.Tensor, score_threshold: float) -> tuple[torch.Tensor, torch.Tensor]:
    """
    The square around all that is seen of the body over a clip.

    Args:
        poses: `(..., frames, 133, 3)`, x, y and score; `...` are clips.
        score_threshold: points with a higher score are seen.

    Returns:
        Its centre `(..., 2)` and its side `(...)`, both 0 where fewer than four points are seen, or all of them at one
        place.
    """
    body = poses[..., list(PARTS["body"]), :].flatten(-3, -2)
    places, seen = body[..., :2], body[..., 2:] > score_threshold
    least = places.where(seen, torch.inf).amin(-2)
    most = places.where(seen, -torch.inf).amax(-2)
    side = (most - least).amax(-1)
    has_box = (seen.sum((-2, -1)) >= LEAST_POINTS) & (side > 0)
    return ((least + most) / 2).where(has_box[..., None], 0.0), side.where(has_box, 0.0)


def mirrored_poses(poses: torch.Tensor) -> torch.Tensor:
    """
    Poses `(frames, 133, 3)` of a mirrored signer: x changes its sign, and left and right change places. Points that are
    not seen stay 0.
    """
    return poses[:, list(MIRRORED_POINTS)] * torch.tensor([-1.0, 1.0, 1.0])


def normalised_poses(poses: torch.Tensor, score_threshold: float) -> torch.Tensor:
    """
    Normalise the poses of clips as Uni-Sign does (arXiv 2501.15187 and its code's behaviour).

    The square around the body over all frames of a clip maps to [-1, 1]. Hands and face are measured from their origin
    in the same frame, the wrists and the tip of the nose, in units of the side of that square. All channels are clipped
    to [-1, 1], and points that are not seen are 0 in all of them. Without a square, everything is 0.

    Ours: an origin with score 0 has no place. The body's point at the same place stands in for it or, without that, the
    mean of what is seen of the part.

    Args:
        poses: `(..., frames, 133, 3)`, x, y and score, in a unit that is the same for x and y; `...` are clips. Frames
            in which nothing is seen, such as padding, change no other frame.
        score_threshold: points with a higher score are seen.

    Returns:
        `(..., frames, 69, 3)`, the points in the order of `PARTS`.
    """
    centre, side = body_box(poses, score_threshold)
    centre, side = centre[..., None, None, :], side[..., None, None, None]
    parts = []
    for name, points in PARTS.items():
        part = poses[..., list(points), :]
        seen = part[..., 2:] > score_threshold
        if name == "body":
            places = (part[..., :2] - centre) / (side / 2)
        else:
            places = (part[..., :2] - _origin(poses, part, seen, *ORIGINS[name])) / side
        values = torch.cat([places, part[..., 2:]], -1).clamp(-1, 1)
        parts.append(values.where(seen & (side > 0), 0.0))
    return torch.cat(parts, -2)


def _origin(poses: torch.Tensor, part: torch.Tensor, seen: torch.Tensor, point: int, of_body: int) -> torch.Tensor:
    """The place of the origin of a part in each frame, `(..., frames, 1, 2)`."""
    mean = (part[..., :2] * seen).sum(-2, keepdim=True) / seen.sum(-2, keepdim=True).clamp(min=1)
    own, body = poses[..., point, None, :], poses[..., of_body, None, :]
    return torch.where(own[..., 2:] > 0, own[..., :2], torch.where(body[..., 2:] > 0, body[..., :2], mean))
