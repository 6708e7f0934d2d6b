"""Training augmentation: one draw a clip, flip off, frames in order and never none."""

import random

import pytest
import torch

from processing import FLaLLMVideoProcessor
from processing.modality_video_slt import VideoModality
from train_scripts.arguments.data_arguments import AugmentationArguments, VideoArguments
from train_scripts.clips.augmentation import NO_AUGMENTATION, ClipAugmentation, MiddleFrames, item_seed
from train_scripts.clips.data import ClipReader

VIDEO = VideoArguments(frame_size=40, crop_size=32)
STRONG = {
    "rotation_degrees": 30.0,
    "translation": 0.2,
    "brightness": 0.5,
    "contrast": 0.5,
    "saturation": 0.5,
    "hue": 0.3,
    "invert": 0.5,
    "blur": 2.0,
    "random_background": 0.5,
    "scale": 0.2,
    "horizontal_flip": 0.5,
}
STILL = {"random_crop": False, "frame_jitter": False}


def augment(video: VideoArguments = VIDEO, **values) -> ClipAugmentation:
    return ClipAugmentation(AugmentationArguments(**values), video)


def random_picture(height: int = 50, width: int = 44) -> torch.Tensor:
    return torch.randint(0, 256, (3, height, width), dtype=torch.uint8)


def test_one_draw_for_all_frames_of_a_clip():
    augmentation = augment(**STRONG)
    outcomes = []
    for _ in range(8):
        frames = augmentation.spatial(random_picture()[None].repeat(5, 1, 1, 1))
        assert torch.equal(frames, frames[:1].expand_as(frames))
        outcomes.append(frames[0])
    picture = random_picture()[None]
    draws = [augmentation.spatial(picture) for _ in range(8)]
    assert any(not torch.equal(draws[0], draw) for draw in draws[1:])


def test_inverted_colours_are_the_opposite():
    picture = random_picture(40, 40)[None]
    plain = augment(random_crop=False).spatial(picture)
    assert torch.equal(augment(random_crop=False, invert=1.0).spatial(picture), 255 - plain)


def test_a_random_background_takes_up_to_half_and_keeps_what_moves():
    frames = torch.stack([random_picture(40, 40) for _ in range(4)])
    plain = augment(random_crop=False).spatial(frames).float()
    shares = []
    for _ in range(50):
        blended = augment(random_crop=False, random_background=1.0).spatial(frames).float()
        moving, before = blended - blended.mean(0), plain - plain.mean(0)
        share = (moving * before).sum() / before.square().sum()
        assert (moving - share * before).abs().max() <= 2, "the picture is not the same in all frames"
        shares.append(share.item())
    assert 0.49 <= min(shares) < 0.7 and 0.8 < max(shares) <= 1.01


def test_scale_makes_the_picture_larger_and_smaller():
    picture = torch.zeros(1, 3, 40, 40, dtype=torch.uint8)
    picture[..., 15:25, 15:25] = 255
    areas = [(augment(random_crop=False, scale=0.3).spatial(picture) > 127).sum().item() / 300 for _ in range(60)]
    assert 0.4 < min(areas) < 0.8 and 1.25 < max(areas) < 1.8


def test_blur_lowers_contrast_between_neighbours_only():
    picture = random_picture(40, 40)[None]
    plain = augment(random_crop=False).spatial(picture).float()
    draws = [augment(random_crop=False, blur=3.0).spatial(picture).float() for _ in range(30)]
    contrasts = [(drawn.diff(dim=-1).abs().mean() / plain.diff(dim=-1).abs().mean()).item() for drawn in draws]
    assert min(contrasts) < 0.3 and max(contrasts) > 0.4 and max(contrasts) <= 1
    assert all(abs(drawn.mean() - plain.mean()) < 8 for drawn in draws)


@pytest.mark.parametrize("size", [(50, 44), (32, 32), (20, 90)])
def test_output_size_and_dtype(size):
    frames = augment(**STRONG).spatial(torch.stack([random_picture(*size) for _ in range(3)]))
    assert frames.shape == (3, 3, 32, 32) and frames.dtype == torch.uint8


def test_nothing_is_flipped_by_default():
    assert AugmentationArguments().horizontal_flip == 0
    picture = random_picture(40, 40)[None]  # the size of frames, so that only the crop can change them
    crops = picture.unfold(2, 32, 1).unfold(3, 32, 1)[0].permute(1, 2, 0, 3, 4).flatten(0, 1)
    for _ in range(30):
        drawn = augment().spatial(picture)[0]
        assert (crops == drawn).flatten(1).all(1).any()
    flipped = [augment(horizontal_flip=1.0, random_crop=False).spatial(picture)[0] for _ in range(2)]
    centre = augment(random_crop=False).spatial(picture)[0]
    for drawn in flipped:
        assert torch.equal(drawn, centre.flip(-1))


def test_without_random_crop_it_is_the_centre_as_at_evaluation():
    frames = torch.stack([random_picture() for _ in range(4)])
    processor = FLaLLMVideoProcessor(
        size={"height": 40, "width": 40}, crop_size={"height": 32, "width": 32}, do_normalize=False, do_rescale=False
    )
    expected = processor(frames, do_sample_frames=False, return_tensors="pt")["pixel_values_videos"][0]
    drawn = augment(random_crop=False).spatial(frames)
    assert (drawn.float() - expected.float()).abs().max() <= 1


@pytest.mark.parametrize("values", [{}, {"speed": 0.5}, {"frame_drop": 0.9}, {"speed": 0.9, "frame_drop": 1.0}, STILL])
def test_frame_indices_are_in_order_in_range_and_never_none(values):
    augmentation = augment(**values)
    for _ in range(200):
        num_frames = random.randint(1, 120)
        num_sampled = random.randint(1, num_frames)
        indices = augmentation.sample_frame_indices(num_sampled, num_frames)
        assert indices and indices == sorted(indices) and all(isinstance(index, int) for index in indices)
        assert indices[0] >= 0 and indices[-1] < num_frames


def test_without_temporal_augmentation_frames_are_the_middles_of_their_intervals():
    assert augment(**STILL).sample_frame_indices(5, 50) == [5, 15, 25, 35, 45]
    num_frames = random.randint(20, 100)
    assert augment(**STILL).sample_frame_indices(num_frames, num_frames) == list(range(num_frames))


def test_jitter_takes_one_frame_of_each_interval():
    for _ in range(50):
        indices = augment().sample_frame_indices(10, 100)
        assert [index // 10 for index in indices] == list(range(10))
    assert len({tuple(augment().sample_frame_indices(10, 100)) for _ in range(20)}) > 1


def test_speed_changes_the_number_of_frames_both_ways():
    counts = [len(augment(speed=0.5).sample_frame_indices(60, 300)) for _ in range(100)]
    assert min(counts) < 55 and max(counts) > 65
    assert min(counts) >= 40 and max(counts) <= 120  # 60 / 1.5 and 60 / 0.5


def test_frame_drop_leaves_frames_out():
    counts = [len(augment(frame_drop=0.25).sample_frame_indices(200, 400)) for _ in range(50)]
    assert 140 < sum(counts) / len(counts) < 160
    assert len(augment(frame_drop=1.0).sample_frame_indices(200, 400)) == 1


def test_slow_signing_does_not_exceed_the_most_frames():
    video = VideoArguments(frame_size=40, crop_size=32, max_num_frames=30)
    counts = [len(augment(video, speed=0.5).sample_frame_indices(30, 200)) for _ in range(50)]
    assert max(counts) == 30 and min(counts) < 30


def test_seeds_of_clips():
    seeds = {item_seed(seed, epoch, index) for seed in range(3) for epoch in range(10) for index in range(100)}
    assert len(seeds) == 3000
    assert all(torch.Generator().manual_seed(seed) for seed in seeds)
    assert item_seed(1, 2, 3) == item_seed(1, 2, 3)


@pytest.mark.parametrize("max_num_frames", [None, 7])
def test_clips_without_augmentation_are_the_middle_frames_with_the_pixels_of_evaluation(max_num_frames):
    video = VideoArguments(frame_size=36, crop_size=32, frame_sampling_rate=0.3, max_num_frames=max_num_frames)
    modality = VideoModality(VideoModality.build_part(video))
    readers = [ClipReader(modality, each) for each in (MiddleFrames(), ClipAugmentation(NO_AUGMENTATION, video))]
    for length in [*range(1, 40), int(torch.randint(40, 3000, ()))]:
        frames = torch.randint(0, 256, (length, 3, 30, 40), dtype=torch.uint8)
        one, other = (
            modality.collate([read(lambda sample, frames=frames: frames[sample(len(frames), 25.0)], seed=0)])
            for read in readers
        )
        assert torch.equal(one["pixel_values_videos"], other["pixel_values_videos"])
        assert (
            readers[0].longest_length(length)
            == readers[1].longest_length(length)
            == one["pixel_values_videos"].shape[1]
        )
