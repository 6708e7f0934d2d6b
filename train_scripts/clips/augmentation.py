"""Training augmentation of one clip: drawn once for all of its frames, and reproducible by seed, epoch and clip."""

import math
from typing import Any

import torch
from torch.nn import functional
from torchvision.transforms import InterpolationMode, v2

from modeling_flallm.own_processing import FLaLLMProcessor, SampleIndices, random_numbers_of

from ..arguments.data_arguments import AugmentationArguments, VideoArguments
from .pose_augmentation import augmented_poses

LONGEST_SEED = 2**63
LEAST_BLUR = 0.1  # torchvision wants more than none
PATCHES_OF_BACKGROUND = (4, 4)
NO_AUGMENTATION = AugmentationArguments(random_crop=False, frame_jitter=False)
# By flag; which of them a modality heeds is in its `space_augmentations`.
IN_SPACE = (
    "rotation_degrees", "translation", "brightness", "contrast", "saturation", "hue", "invert", "blur",
    "random_background", "horizontal_flip", "scale", "joint_noise", "hand_drop",
)  # fmt: skip


class BlendedPicture(v2.Transform):
    """
    Blend all frames of a clip with one picture of random soft colours, which takes up to half. Where a static picture
    is added, motion is what still tells signs apart (Background Erasing, https://arxiv.org/abs/2009.05769, which adds a
    frame of the same video; a picture of no video is ours).
    """

    def transform(self, inpt: torch.Tensor, params: dict[str, Any]) -> torch.Tensor:
        coarse = torch.rand(1, 3, *PATCHES_OF_BACKGROUND)
        picture = 255 * functional.interpolate(coarse, inpt.shape[-2:], mode="bilinear").to(inpt.device)
        return torch.lerp(inpt.float(), picture, 0.5 * torch.rand(()).item()).round().to(inpt.dtype)


class ClipAugmentation:
    """
    Temporal and spatial augmentation as sltbaselines describes it (rotation and shift each with probability 0.5, random
    crop), with size, colour, blur, background, speed and frame drop added (ours).
    """

    def __init__(self, augmentation: AugmentationArguments, video: VideoArguments):
        self.arguments = augmentation
        self.max_num_frames = video.max_num_frames
        self.spatial = self._spatial_transform(augmentation, video)

    @staticmethod
    def _spatial_transform(augmentation: AugmentationArguments, video: VideoArguments) -> v2.Transform:
        """uint8 `(frames, 3, height, width)` of any size -> uint8 `(frames, 3, crop_size, crop_size)`."""
        bilinear = {"interpolation": InterpolationMode.BILINEAR}
        crop = v2.RandomCrop if augmentation.random_crop else v2.CenterCrop
        transforms: list[v2.Transform] = [
            v2.Resize((video.frame_size, video.frame_size), antialias=True),
        ]
        if augmentation.rotation_degrees:
            transforms.append(v2.RandomApply([v2.RandomRotation(augmentation.rotation_degrees, **bilinear)], p=0.5))
        if augmentation.translation:
            shift = (augmentation.translation, augmentation.translation)
            transforms.append(v2.RandomApply([v2.RandomAffine(0, translate=shift, **bilinear)], p=0.5))
        if augmentation.scale:
            sizes = (1 - augmentation.scale, 1 + augmentation.scale)
            transforms.append(v2.RandomAffine(0, scale=sizes, **bilinear))
        transforms.append(crop((video.crop_size, video.crop_size)))
        if augmentation.random_background:
            transforms.append(v2.RandomApply([BlendedPicture()], p=augmentation.random_background))
        colour = (augmentation.brightness, augmentation.contrast, augmentation.saturation, augmentation.hue)
        if any(colour):
            transforms.append(v2.ColorJitter(*colour))
        if augmentation.invert:
            transforms.append(v2.RandomInvert(augmentation.invert))
        if augmentation.blur:
            size = 2 * math.ceil(2 * augmentation.blur) + 1
            transforms.append(v2.GaussianBlur(size, (LEAST_BLUR, max(LEAST_BLUR, augmentation.blur))))
        if augmentation.horizontal_flip:
            transforms.append(v2.RandomHorizontalFlip(augmentation.horizontal_flip))
        return v2.Compose(transforms)

    def apply_spatial(self, frames: torch.Tensor, seed: int) -> torch.Tensor:
        """Apply `spatial` with the random draws of a seed, which are made on the CPU wherever the frames are."""
        with random_numbers_of(seed):
            return self.spatial(frames)

    def apply_to_poses(self, poses: torch.Tensor, seed: int, body_size: float) -> tuple[torch.Tensor, bool]:
        """See `Augmentation.apply_to_poses`."""
        with random_numbers_of(seed):
            return augmented_poses(poses, self.arguments, body_size)

    def longest_length(self, num_sampled: int, num_frames: int) -> int:
        """The maximum number of indices that `sample_frame_indices` can return for a clip."""
        slowest = 1 - self.arguments.speed
        most = max(num_frames, num_sampled)  # of a slow clip frames are repeated
        longest = math.ceil(num_sampled / slowest) if slowest > 0 else most
        return min(longest, most, self.max_num_frames or most)

    def sample_frame_indices(self, num_sampled: int, num_frames: int) -> list[int]:
        """
        Indices of the frames of a training clip, in order.

        Args:
            num_sampled (`int`): how many frames evaluation takes of this clip.
            num_frames (`int`): how many frames the clip has.
        """
        speed = 1 + self.arguments.speed * (2 * torch.rand(()).item() - 1)
        most = max(num_frames, num_sampled)  # of a slow clip frames are repeated
        count = min(max(round(num_sampled / speed), 1), most, self.max_num_frames or most)
        phase = torch.rand(count) if self.arguments.frame_jitter else torch.full((count,), 0.5)
        indices = ((torch.arange(count) + phase) * num_frames / count).long().clamp(max=num_frames - 1)
        kept = indices[torch.rand(count) >= self.arguments.frame_drop]
        return (kept if len(kept) else indices[:1]).tolist()


class MiddleFrames:
    """
    Training clips without any augmentation: as in evaluation, but with the middle frame of each sampling interval in
    place of its first, as `ClipAugmentation` takes them.
    """

    arguments = NO_AUGMENTATION

    @staticmethod
    def instead_of(sample: SampleIndices) -> SampleIndices:
        """The middle frames for the first ones."""

        def sample_middle(length: int, rate: float | None) -> list[int]:
            count = len(sample(length, rate))
            return ((torch.arange(count) + 0.5) * length / count).long().clamp(max=length - 1).tolist()

        return sample_middle


def item_seed(seed: int, epoch: int, index: int) -> int:
    """A seed for one clip or sentence in one epoch, whatever process or worker loads it."""
    return hash((seed, epoch, index)) % LONGEST_SEED


def tell_unused_in_space(augmentation: AugmentationArguments, processor: FLaLLMProcessor) -> None:
    """Print which flags have no effect on clips of the processor's modality."""
    modality = processor.modality
    unused = [name for name in IN_SPACE if getattr(augmentation, name) and name not in modality.space_augmentations]
    if unused:
        names, verb = ", ".join(f"--{name}" for name in unused), "has" if len(unused) == 1 else "have"
        print(f"{names} {verb} no effect on {modality.words.clips}.")
