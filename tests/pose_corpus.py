"""A tiny corpus of poses with sentences and glosses, made once per run of the tests. Tests must not change it."""

import functools
import json
import tempfile
from pathlib import Path

import numpy as np

from processing import Poses, write_poses

FOLDER = tempfile.TemporaryDirectory(prefix="flallm-pose-corpus-")
NUM_POINTS = 133
# Each sign moves one of the hands to a place of its own.
SIGNS = {"haus": ("left", -80.0), "regen": ("right", -80.0), "kommen": ("left", 40.0), "morgen": ("right", 40.0)}
SENTENCES = {
    "haus regen": "das haus im regen .",
    "morgen regen": "morgen regnet es .",
    "kommen": "er kommt .",
    "morgen kommen": "morgen kommt er .",
}
FRAMES_PER_SIGN = 8
WIDTH, HEIGHT = 320.0, 240.0


def resting_signer() -> np.ndarray:
    """`(133, 2)`: a signer whose hands are spread out in front of the belly, and the face above."""
    points = np.zeros((NUM_POINTS, 2))
    body = [(0, -70), (5, -75), (-5, -75), (12, -72), (-12, -72), (30, -30), (-30, -30), (40, 10), (-40, 10)]
    body += [(25, 40), (-25, 40), (18, 60), (-18, 60), (18, 90), (-18, 90), (18, 115), (-18, 115)]
    points[:17] = body
    points[17:23] = points[[15, 15, 15, 16, 16, 16]]
    angles = np.linspace(0, 2 * np.pi, 68)
    points[23:91] = np.stack([14 * np.cos(angles), 18 * np.sin(angles) - 70], -1)
    points[53] = (0, -68)
    for first, wrist in ((91, 9), (112, 10)):
        fingers = np.arange(21)
        points[first : first + 21] = points[wrist] + np.stack([fingers % 4 * 2.0, fingers // 4 * 3.0], -1)
        points[first] = points[wrist]
    return points + (WIDTH / 2, HEIGHT / 2)


def signed(glosses: str, random: np.random.Generator) -> Poses:
    frames = []
    for gloss in glosses.split():
        hand, height = SIGNS[gloss]
        first, wrist = (91, 9) if hand == "left" else (112, 10)
        for step in range(FRAMES_PER_SIGN):
            points = resting_signer()
            lift = height * np.sin(np.pi * (step + 1) / (FRAMES_PER_SIGN + 1))
            points[[wrist, *range(first, first + 21)], 1] += lift
            frames.append(points + random.normal(0, 0.5, points.shape))
    keypoints = np.array(frames, np.float32)
    scores = np.full(keypoints.shape[:2], 0.9, np.float32)
    return Poses(keypoints, scores, frames_per_second=12.0, width=WIDTH, height=HEIGHT, extractor="made by hand")


@functools.cache
def pose_corpus() -> Path:
    folder = Path(FOLDER.name) / "corpus"
    random = np.random.default_rng(5)
    for split, repeats in {"train": 3, "dev": 1, "test": 1}.items():
        (folder / split / "poses").mkdir(parents=True)
        rows = []
        for index, (gloss, text) in enumerate(list(SENTENCES.items()) * repeats):
            name = f"poses/{index}.safetensors"
            write_poses(folder / split / name, signed(gloss, random))
            rows.append({"poses": name, "text": text, "gloss": gloss, "signer": "S1"})
        (folder / split / "metadata.jsonl").write_text("\n".join(map(json.dumps, rows)))
    return folder
