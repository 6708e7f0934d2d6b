"""Pictures of a run: learning curves, scores, and a contact sheet of a translated clip."""

import itertools
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt
import numpy as np

from modeling_flallm.own_processing import PoseModality, decode_video, draw_poses, read_poses

from ..machine.atomic_files import open_atomic
from ..scores.report import MOST_ROWS, groups_of

LINE_STYLES = ("-", "--", ":", "-.")  # so that colour is not the only difference


def read_log(output_dir: Path) -> list[dict[str, float]]:
    """What the Trainer logged, from `trainer_state.json` of a finished run."""
    return json.loads((output_dir / "trainer_state.json").read_text(encoding="utf-8"))["log_history"]


def draw_learning_curves(runs: Mapping[str, Path], path: Path) -> None:
    """Training loss (left) and BLEU-4 on the evaluation split (right) over the optimiser steps of each run."""
    figure, (loss_axes, score_axes) = plt.subplots(1, 2, figsize=(10, 4), layout="constrained")
    for (name, output_dir), style in zip(runs.items(), itertools.cycle(LINE_STYLES)):
        log = read_log(output_dir)
        losses = [(row["step"], row["loss"]) for row in log if "loss" in row]
        scores = [(row["step"], row["eval_bleu4"]) for row in log if "eval_bleu4" in row]
        if losses:
            loss_axes.plot(*zip(*losses, strict=True), style, label=name)
        if scores:
            score_axes.plot(*zip(*scores, strict=True), style, marker="o", label=name)
    loss_axes.set(xlabel="optimiser steps", ylabel="training loss", yscale="log")
    score_axes.set(xlabel="optimiser steps", ylabel="BLEU-4, evaluation split", ylim=(0, 100))
    for axes in (loss_axes, score_axes):
        axes.grid(alpha=0.3)
        if axes.lines:  # a run can be too short to have logged anything
            axes.legend()
    with open_atomic(path, "wb") as file:
        figure.savefig(file, format="png", dpi=120)
    plt.close(figure)


def draw_scores(scores: Mapping[str, Any], path: Path) -> None:
    """BLEU-4 of an evaluation by parts of its clips, such as signers and lengths, and without what the clips show; a
    dashed line is that of all clips. Of many signers the worst are drawn."""
    groups = [(group.title, group.rows[:MOST_ROWS]) for group in groups_of(scores)]
    controls = scores.get("controls", {})
    rows = tuple((name, control["bleu4"], control["num_segments"]) for name, control in controls.items())
    groups += [("controls: without the clip", rows)] if rows else []
    groups = [group for group in groups if len(group[1]) > 1] or groups  # what is the same for all says little
    figure, axes = plt.subplots(1, len(groups), figsize=(1 + 3 * len(groups), 4), layout="constrained", squeeze=False)
    for (title, parts), ax in zip(groups, axes[0], strict=True):
        names = [f"{name}\n({count} clips)" for name, _, count in parts]
        ax.barh(range(len(parts)), [bleu4 for _, bleu4, _ in parts])
        ax.axvline(scores["bleu4"], color="black", linestyle="--", linewidth=1)
        ax.set(title=title, xlabel="BLEU-4", xlim=(0, 100), yticks=range(len(parts)))
        ax.set_yticklabels(names, fontsize=8)
        ax.title.set_fontsize(9)
        ax.invert_yaxis()
    with open_atomic(path, "wb") as file:
        figure.savefig(file, format="png", dpi=120)
    plt.close(figure)


def draw_contact_sheet(clip: Path, row: Mapping[str, str], path: Path, num_frames: int = 12) -> None:
    """
    Evenly spaced frames of a clip, or its poses, with their times in seconds, its reference and its translation; times
    are in frames where the rate of the poses is unknown.
    """
    frames, rate = _frames_of(clip)
    indices = np.linspace(0, len(frames) - 1, min(num_frames, len(frames))).round().astype(int).tolist()
    columns = min(6, len(indices))
    rows = -(-len(indices) // columns)
    figure, axes = plt.subplots(rows, columns, figsize=(2 * columns, 2.2 * rows + 0.9), squeeze=False)
    for ax in axes.flat:
        ax.axis("off")
    for ax, index in zip(axes.flat, indices, strict=False):
        ax.imshow(frames[index])
        ax.set_title(f"{index / rate:.2f} s" if rate else f"frame {index}", fontsize=9)
    figure.suptitle(f"{row['file_name']}\nreference: {row['reference']}\ntranslation: {row['prediction']}", fontsize=11)
    figure.tight_layout()
    with open_atomic(path, "wb") as file:
        figure.savefig(file, format="png", dpi=120)
    plt.close(figure)


def _frames_of(clip: Path) -> tuple[np.ndarray, float | None]:
    """Pictures of a clip, uint8 `(frames, height, width, 3)`, and their number per second."""
    if not PoseModality.is_file(clip):
        video = decode_video(clip)
        return video.frames.permute(0, 2, 3, 1).numpy(), video.fps
    poses = read_poses(clip)
    return draw_poses(poses.keypoints, poses.scores, poses.width, poses.height), poses.frames_per_second
