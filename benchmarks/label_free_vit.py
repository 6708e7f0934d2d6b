"""
A small ViT that learns from the frames of videos alone, without a label or a sentence.

It sees one frame in changed colours and says where something moves in the clip: how far each pixel of the frame is from
the median frame of its clip, as in arXiv 1612.06370, where objects that move are the labels. The parts of the frame
that it must find are hands and arms. It answers twice: each patch for its own pixels, and the mean of all patches for
the whole frame, so that the mean, which is the feature of the frame, tells where the hands are and how they are formed.
"""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from torch import nn
from torch.nn import functional
from transformers import ViTConfig, ViTImageProcessor, ViTModel

from processing import decode_video

IMAGE_SIZE, PATCH_SIZE = 64, 16
HIDDEN_SIZE, LAYERS, ATTENTION_HEADS = 256, 3, 4
FRAMES_APART = 4  # as `frame_sampling_rate: 0.25` in the quickstart
CLEAR_MOTION = 40.0  # a difference of this many of 255 steps of brightness counts as motion for sure
LEARNING_RATE, WEIGHT_DECAY, WARMUP_SHARE = 1e-3, 0.05, 0.05
FRAMES_OF_STEP = 32
CHANNEL_MIXING, BRIGHTNESS_CHANGE, NOISE = 0.35, 0.25, 0.05


def vit_config() -> ViTConfig:
    """2.6 million parameters: 16 patches, 3 layers."""
    return ViTConfig(
        image_size=IMAGE_SIZE,
        patch_size=PATCH_SIZE,
        hidden_size=HIDDEN_SIZE,
        num_hidden_layers=LAYERS,
        num_attention_heads=ATTENTION_HEADS,
        intermediate_size=4 * HIDDEN_SIZE,
        hidden_dropout_prob=0.0,
        attention_probs_dropout_prob=0.0,
    )


def position_codes(side: int, width: int) -> torch.Tensor:
    """
    Sines and cosines of the column and the row of each patch, `(side * side, width)`, as in ViTMAE. Positions as small
    as ViT draws them are not noticed beside the content of a patch, and training stands still at first.
    """
    rates = 10000.0 ** -(torch.arange(width // 4) / (width // 4))
    rows, columns = torch.meshgrid(torch.arange(side), torch.arange(side), indexing="ij")
    angles = [where.flatten()[:, None] * rates for where in (columns, rows)]
    return torch.cat([wave(angle) for angle in angles for wave in (torch.sin, torch.cos)], dim=1)


def build_vit(seed: int) -> ViTModel:
    """Random weights."""
    torch.manual_seed(seed)
    vit = ViTModel(vit_config(), add_pooling_layer=False)
    with torch.no_grad():
        vit.embeddings.position_embeddings[0, 1:] = position_codes(IMAGE_SIZE // PATCH_SIZE, HIDDEN_SIZE)
    return vit


def frame_features(vit: ViTModel, pixel_values: torch.Tensor) -> torch.Tensor:
    """`(frames, 3, height, width)` -> the mean of all patches, `(frames, hidden size)`"""
    return vit(pixel_values).last_hidden_state[:, 1:].mean(1)


def normalise(frames: torch.Tensor) -> torch.Tensor:
    """uint8 -> -1 to 1, as `ViTImageProcessor` does by default"""
    return frames.float() / 127.5 - 1


def median_frame(frames: torch.Tensor) -> torch.Tensor:
    """uint8 `(frames, 3, height, width)` -> `(3, height, width)`: what stands still in a clip"""
    return frames.float().median(0).values.byte()


def moving_parts(frames: torch.Tensor, medians: torch.Tensor) -> torch.Tensor:
    """uint8 `(frames, 3, height, width)` twice -> `(frames, height, width)`, from 0 (still) to 1 (moving)"""
    difference = (frames.float() - medians.float()).abs().mean(1)
    return (difference / CLEAR_MOTION).clamp(max=1.0)


def change_colours(pixel_values: torch.Tensor) -> torch.Tensor:
    """
    Permutes and mixes the channels of each frame, changes contrast and brightness, and adds noise. Colours change so
    much because there are few signers to learn from: milder changes are learned faster, but of unknown signers the
    features say less.
    """
    num_frames = len(pixel_values)
    order = torch.rand(num_frames, 3).argsort(1)
    mixing = functional.one_hot(order, 3).float() + CHANNEL_MIXING * torch.randn(num_frames, 3, 3)
    contrast = 0.6 + 0.8 * torch.rand(num_frames, 1, 1, 1)
    brightness = BRIGHTNESS_CHANGE * torch.randn(num_frames, 3, 1, 1)
    noise = NOISE * torch.randn(num_frames, 1, 1, 1).abs() * torch.randn_like(pixel_values)
    return contrast * torch.einsum("fij,fjhw->fihw", mixing, pixel_values) + brightness + noise


def crop_and_flip(*pictures: torch.Tensor) -> list[torch.Tensor]:
    """Crops frames `(frames, ..., height, width)` to the size of the ViT and mirrors half of them, all alike."""
    height, width = pictures[0].shape[-2:]
    cropped: list[list[torch.Tensor]] = [[] for _ in pictures]
    for number in range(len(pictures[0])):
        top, left = (int(torch.randint(size - IMAGE_SIZE + 1, ())) for size in (height, width))
        is_mirrored = bool(torch.rand(()) < 0.5)
        for kept, picture in zip(cropped, pictures, strict=True):
            part = picture[number, ..., top : top + IMAGE_SIZE, left : left + IMAGE_SIZE]
            kept.append(part.flip(-1) if is_mirrored else part)
    return [torch.stack(kept) for kept in cropped]


def crop_centre(frames: torch.Tensor) -> torch.Tensor:
    top, left = ((size - IMAGE_SIZE) // 2 for size in frames.shape[-2:])
    return frames[..., top : top + IMAGE_SIZE, left : left + IMAGE_SIZE]


def patches_of(pictures: torch.Tensor) -> torch.Tensor:
    """`(frames, height, width)` -> `(frames, patches, pixels of a patch)`"""
    rows = pictures.unfold(1, PATCH_SIZE, PATCH_SIZE).unfold(2, PATCH_SIZE, PATCH_SIZE)
    return rows.flatten(3).flatten(1, 2)


class MovingPartsModel(nn.Module):
    """A ViT with both answers to the question what moves; see the head of this file."""

    def __init__(self, vit: ViTModel):
        super().__init__()
        self.vit = vit
        self.answer_of_patch = nn.Linear(HIDDEN_SIZE, PATCH_SIZE**2)
        self.answer_of_frame = nn.Sequential(
            nn.Linear(HIDDEN_SIZE, 3 * HIDDEN_SIZE), nn.GELU(), nn.Linear(3 * HIDDEN_SIZE, IMAGE_SIZE**2)
        )

    def forward(self, pixel_values: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
        """Pixels `(frames, 3, height, width)` and moving parts `(frames, height, width)` -> the loss"""
        patches = self.vit(pixel_values).last_hidden_state[:, 1:]
        of_patches, of_frame = self.answer_of_patch(patches), self.answer_of_frame(patches.mean(1))
        loss = functional.binary_cross_entropy_with_logits
        return loss(of_patches.float(), patches_of(targets)) + loss(of_frame.float(), targets.flatten(1))


def read_frames(files: Sequence[Path], frames_apart: int = FRAMES_APART) -> list[torch.Tensor]:
    """Every so many frames of each video, uint8 `(frames, 3, height, width)`"""
    return [decode_video(file).frames[::frames_apart].clone() for file in files]


def learning_rate_factor(step: int, num_steps: int) -> float:
    """A linear start, then half a cosine."""
    start = max(1, round(num_steps * WARMUP_SHARE))
    return (step + 1) / start if step < start else (1 + np.cos(np.pi * (step - start) / (num_steps - start))) / 2


def pretrain(vit: ViTModel, clips: Sequence[torch.Tensor], num_steps: int, dtype: torch.dtype) -> list[float]:
    """Trains the ViT on the frames of clips -> the loss of each step"""
    model = MovingPartsModel(vit).train()
    optimizer = torch.optim.AdamW(model.parameters(), lr=LEARNING_RATE, weight_decay=WEIGHT_DECAY, fused=True)
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: learning_rate_factor(step, num_steps))
    frames, medians = torch.cat(list(clips)), torch.stack([median_frame(clip) for clip in clips])
    clip_of_frame = torch.arange(len(clips)).repeat_interleave(torch.tensor([len(clip) for clip in clips]))
    losses = []
    for _ in range(num_steps):
        drawn = torch.randint(len(frames), (FRAMES_OF_STEP,))
        seen, still = crop_and_flip(frames[drawn], medians[clip_of_frame[drawn]])
        with torch.autocast("cpu", dtype, enabled=dtype != torch.float32):
            loss = model(change_colours(normalise(seen)), moving_parts(seen, still))
        loss.backward()
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        schedule.step()
        optimizer.zero_grad()
        losses.append(loss.item())
    return losses


def save_vit(vit: ViTModel, folder: Path) -> None:
    """As a folder that `AutoModel` and `AutoImageProcessor` load."""
    vit.eval().save_pretrained(folder)
    ViTImageProcessor(size={"height": IMAGE_SIZE, "width": IMAGE_SIZE}).save_pretrained(folder)
