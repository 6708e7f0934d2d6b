"""A hand that signs: pictures whose rests are known."""

import numpy as np

FRAMES_PER_SECOND = 25
HEIGHT, WIDTH = 48, 64
REST = (0.9, 0.5)


def signing(plan: list[tuple[str, float]], noise: float = 1.0) -> np.ndarray:
    """
    uint8 `(frames, 48, 64, 3)`, 25 frames per second, that follow a plan of actions and their seconds: "sign" (the hand
    comes up from below, moves about and goes down again), "move" (it stays up and moves), "hold" (it is still, up) or
    "rest" (it is still, down).
    """
    positions = np.concatenate([_positions(kind, round(seconds * FRAMES_PER_SECOND)) for kind, seconds in plan])
    rows, columns = np.mgrid[0:HEIGHT, 0:WIDTH]
    frames = np.full((len(positions), HEIGHT, WIDTH), 90.0)
    frames += np.random.normal(0, noise, frames.shape)
    for frame, (height, lateral) in zip(frames, positions, strict=True):
        distance = np.hypot(rows - height * HEIGHT, columns - lateral * WIDTH)
        frame += 130 * np.clip(6 - distance, 0, 1)
    return frames.clip(0, 255).astype(np.uint8)[..., None].repeat(3, 3)


def _positions(kind: str, num_frames: int) -> np.ndarray:
    """-> height and lateral place of the hand `(frames, 2)`, as fractions of the picture"""
    if kind in ("rest", "hold"):
        return np.tile(REST if kind == "rest" else (0.35, 0.7), (num_frames, 1))
    turn = 3 * np.pi * np.arange(num_frames) / FRAMES_PER_SECOND * np.random.uniform(0.9, 1.1)
    radius = 3.4  # in pixels: a circle, so that the hand is never slow
    raised = np.stack([0.35 + radius / HEIGHT * np.sin(turn), 0.5 + radius / WIDTH * np.cos(turn)], axis=1)
    if kind == "move":
        return raised
    progress = np.minimum(np.arange(num_frames), np.arange(num_frames)[::-1])[:, None] / (0.25 * FRAMES_PER_SECOND)
    height = np.clip(progress, 0, 1)
    return np.array(REST) + (raised - REST) * height
