"""`FLaLLMVideoProcessor`: sampling, sizes, padding, batches of mixed kinds, settings and their errors, saving."""

import re

import numpy as np
import pytest
import torch
from torchvision.transforms.v2 import functional as tvF
from transformers import AutoVideoProcessor
from video_files import counting_frames, write_pictures, write_video

from processing import FLaLLMVideoProcessor, VideoDecodingError, decode_video, video_processing_slt


@pytest.fixture
def processor() -> FLaLLMVideoProcessor:
    return FLaLLMVideoProcessor(size={"height": 36, "width": 36}, crop_size={"height": 32, "width": 32})


def random_clip(num_frames: int, height: int = 40, width: int = 48) -> torch.Tensor:
    return torch.randint(0, 256, (num_frames, 3, height, width), dtype=torch.uint8)


def raises(text: str, error: type = ValueError):
    return pytest.raises(error, match=re.escape(text))


def test_defaults_are_those_of_the_paper():
    output = FLaLLMVideoProcessor()(random_clip(8), return_tensors="pt")
    assert output["pixel_values_videos"].shape == (1, 2, 3, 224, 224)
    assert output["pixel_values_videos"].dtype == torch.float32
    assert output["pixel_attention_mask"].dtype == torch.int64


def test_pixels_equal_resize_crop_and_normalise_by_hand(processor):
    clip = random_clip(9)
    frames = tvF.center_crop(tvF.resize(clip[::4], [36, 36], antialias=True), [32, 32]).float() / 255
    expected = tvF.normalize(frames, [0.485, 0.456, 0.406], [0.229, 0.224, 0.225])
    output = processor(clip, return_tensors="pt")
    torch.testing.assert_close(output["pixel_values_videos"][0], expected, atol=1e-5, rtol=0)


def test_padding_is_zero_and_the_mask_marks_it(processor):
    clips = [random_clip(8), random_clip(40, 30, 60), random_clip(1, 64, 20)]
    output = processor(clips, return_tensors="pt")
    pixels, mask = output["pixel_values_videos"], output["pixel_attention_mask"]
    assert pixels.shape == (3, 10, 3, 32, 32)
    assert mask.tolist() == [[1] * 2 + [0] * 8, [1] * 10, [1] + [0] * 9]
    assert pixels[mask == 0].eq(0).all()
    assert pixels[mask == 1].abs().amax(dim=(1, 2, 3)).gt(0).all()


def test_decoded_frames_are_not_decoded_again(processor, monkeypatch):
    clips = [random_clip(12), random_clip(5, 33, 50)]
    expected = processor(clips, do_sample_frames=False, return_tensors="pt")
    cropped = processor([clip[..., :32, :32] for clip in clips], do_sample_frames=False, do_resize=False)
    monkeypatch.setattr(video_processing_slt, "decode_video", None)
    output = processor.preprocess_frames(clips)
    for name, values in expected.items():
        assert torch.equal(output[name], values)
    output = processor.preprocess_frames(
        [clip[..., :32, :32] for clip in clips], do_resize=False, do_center_crop=False, return_tensors=None
    )
    assert torch.equal(output["pixel_values_videos"], cropped["pixel_values_videos"])
    for wrong in (clips[0].float(), clips[0][0], clips[0][:, :1], clips[0][:0]):
        shape = tuple(wrong.shape)
        with raises(f"of shape (frames, 3, height, width), got {wrong.dtype} of shape {shape}. Pass videos of"):
            processor.preprocess_frames([wrong])


def test_batch_equals_single_and_repeats_exactly(processor):
    clips = [random_clip(12), random_clip(5, 33, 50), random_clip(12)]
    batch = processor(clips, return_tensors="pt")["pixel_values_videos"]
    assert torch.equal(batch, processor(tuple(clips), return_tensors="pt")["pixel_values_videos"])
    for clip, pixels in zip(clips, batch, strict=True):
        single = processor(clip, return_tensors="pt")["pixel_values_videos"][0]
        torch.testing.assert_close(pixels[: len(single)], single, atol=1e-6, rtol=0)


def test_a_file_its_bytes_and_its_frames_give_the_same_pixels_in_one_batch(processor, tmp_path):
    path = write_video(tmp_path / "clip.mp4", counting_frames(20))
    frames = decode_video(path).frames
    folder = write_pictures(tmp_path / "frames", frames.permute(0, 2, 3, 1).numpy())
    column = {"path": None, "bytes": path.read_bytes()}
    videos = [path, str(path), path.read_bytes(), column, frames, frames.permute(0, 2, 3, 1).numpy(), folder]
    videos += [list(frames), sorted(folder.iterdir(), key=lambda file: int(file.stem[5:]))]
    pixels = processor(videos, return_tensors="pt")["pixel_values_videos"]
    assert pixels.shape[:2] == (9, 5)
    for kind, video in enumerate(pixels):
        assert torch.equal(video, pixels[0]), kind


def test_one_video_against_a_batch(processor, tmp_path):
    clip = random_clip(8)
    folder = write_pictures(tmp_path / "frames", clip.permute(0, 2, 3, 1).numpy())
    pictures = [str(folder / f"frame{k}.png") for k in range(1, 9)]
    for one in (clip, list(clip), clip.numpy(), pictures, str(folder), [clip], [pictures], clip[None]):
        assert processor(one, return_tensors="pt")["pixel_values_videos"].shape == (1, 2, 3, 32, 32)
    for two in ([clip, clip], torch.stack([clip, clip]), [pictures, pictures], [folder, list(clip)]):
        assert processor(two, return_tensors="pt")["pixel_values_videos"].shape == (2, 2, 3, 32, 32)


@pytest.mark.parametrize(
    ("settings", "expected"),
    [
        ({}, [0, 4, 8]),
        ({"frame_sampling_rate": 1}, list(range(10))),
        ({"frame_sampling_rate": 0.5}, [0, 2, 4, 6, 8]),
        ({"frame_sampling_rate": 0.3}, [0, 3, 6]),
        ({"frame_sampling_rate": 0.001}, [0]),
        ({"frame_sampling_rate": 1.0, "max_num_frames": 5}, [0, 2, 4, 6, 8]),
        ({"frame_sampling_rate": 1.0, "max_num_frames": 1}, [0]),
        ({"frame_sampling_rate": None}, list(range(10))),
        ({"fps": 5}, [0, 5]),
        ({"fps": 12.5}, [0, 2, 4, 6, 8]),
        ({"fps": 60}, list(range(10))),
    ],
)
def test_sampled_frames(settings, expected):
    processor = FLaLLMVideoProcessor(**settings)
    assert processor.sample_frame_indices(10, 25.0) == expected
    clip = random_clip(10)
    metadata = {"total_num_frames": 10, "fps": 25.0}
    plain = {"do_resize": False, "do_center_crop": False, "do_normalize": False, "do_rescale": False}
    frames = processor(clip, video_metadata=metadata, **plain)["pixel_values_videos"][0]
    assert torch.equal(frames, clip[expected])


@pytest.mark.parametrize("rate", [0.1, 0.25, 0.3, 0.7, 1.0])
def test_sampling_keeps_the_fraction_and_the_spacing_at_every_length(rate):
    processor = FLaLLMVideoProcessor(frame_sampling_rate=rate, max_num_frames=None)
    for num_frames in range(1, 200):
        indices = processor.sample_frame_indices(num_frames)
        assert abs(len(indices) - num_frames * rate) < 1 and indices[0] == 0 and indices[-1] < num_frames
        assert {after - before for before, after in zip(indices, indices[1:], strict=False)} <= {
            int(1 / rate),
            int(np.ceil(1 / rate)),
        }


def test_sampling_is_not_off_by_one_through_rounding():
    processor = FLaLLMVideoProcessor(frame_sampling_rate=0.07)
    assert 100 * 0.07 > 7 and len(processor.sample_frame_indices(100)) == 7


def test_the_cap_is_on_unless_switched_off():
    assert len(FLaLLMVideoProcessor().sample_frame_indices(4000)) == 300
    assert len(FLaLLMVideoProcessor(max_num_frames=None).sample_frame_indices(4000)) == 1000


def test_a_call_overrides_the_instance(processor):
    clip, metadata = random_clip(20), [{"total_num_frames": 20, "fps": 20}]
    assert processor(clip, frame_sampling_rate=1.0)["pixel_values_videos"].shape[1] == 20
    assert processor(clip, fps=2, video_metadata=metadata)["pixel_values_videos"].shape[1] == 2
    assert processor(clip, frame_sampling_rate=1.0, max_num_frames=7)["pixel_values_videos"].shape[1] == 7
    assert processor(clip, do_sample_frames=False)["pixel_values_videos"].shape[1] == 20
    at_fps = FLaLLMVideoProcessor(fps=2, size=32, crop_size=32)
    assert at_fps(clip, frame_sampling_rate=0.5)["pixel_values_videos"].shape[1] == 10


def test_start_and_end_for_all_or_for_each(processor, tmp_path):
    path = write_video(tmp_path / "clip.mp4", counting_frames(50))
    frames = decode_video(path).frames
    output = processor([path, path], start=0.4, end=[0.8, None], frame_sampling_rate=1.0)
    assert output["pixel_attention_mask"].sum(dim=1).tolist() == [10, 40]
    expected = processor([frames[10:20], frames[10:]], frame_sampling_rate=1.0)
    assert torch.equal(output["pixel_values_videos"], expected["pixel_values_videos"])
    with raises("`start` needs one entry per video, got 1 for 2 videos."):
        processor([path, path], start=[0.4])


def test_metadata_tells_what_was_sampled(processor, tmp_path):
    path = write_video(tmp_path / "clip.webm", counting_frames(20))
    metadata = processor(path, return_metadata=True, return_tensors="pt")["video_metadata"][0]
    assert metadata.frames_indices == [0, 4, 8, 12, 16] and metadata.total_num_frames == 20
    assert metadata.fps == pytest.approx(25)


def test_prepared_clips_pass_through_untouched_but_for_normalisation(processor):
    clips = [random_clip(5, 64, 64), random_clip(3, 64, 64)]
    flags = {"do_sample_frames": False, "do_resize": False, "do_center_crop": False}
    output = processor(clips, return_tensors="pt", **flags)["pixel_values_videos"]
    assert output.shape == (2, 5, 3, 64, 64)
    mean, std = torch.tensor(processor.image_mean), torch.tensor(processor.image_std)
    restored = (output * std[:, None, None] + mean[:, None, None]).mul(255).round()
    assert torch.equal(restored[0], clips[0].float()) and torch.equal(restored[1, :3], clips[1].float())


def test_numpy_output(processor):
    output = processor(random_clip(8), return_tensors="np")
    assert isinstance(output["pixel_values_videos"], np.ndarray) and isinstance(
        output["pixel_attention_mask"], np.ndarray
    )


@pytest.mark.parametrize(
    ("settings", "text"),
    [
        (
            {"frame_sampling_rate": 0},
            "`frame_sampling_rate` is the fraction of frames to keep, above 0 and up to 1, got 0.",
        ),
        ({"frame_sampling_rate": 25.0}, "`frame_sampling_rate` is the fraction of frames to keep, above 0 and up to 1"),
        ({"max_num_frames": 0}, "`max_num_frames` must be at least 1, or None for no limit, got 0."),
        ({"fps": -1}, "`fps` is the number of frames per second to keep, above 0, got -1."),
    ],
)
def test_settings_out_of_range(processor, settings, text):
    with raises(text):
        FLaLLMVideoProcessor(**settings)
    with raises(text):
        processor(random_clip(4), **settings)


@pytest.mark.parametrize(
    ("arguments", "text", "error"),
    [
        ({"frame_sampling_rate": 0.5, "fps": 5}, "`frame_sampling_rate` and `fps` exclude each other", ValueError),
        ({"fps": 5}, "Sampling at fps=5 needs the frame rate of the source, which arrays and", VideoDecodingError),
        ({"num_frames": 4}, "`num_frames` is not used by FLaLLMVideoProcessor: clips keep their own", ValueError),
        ({"frames": 4}, "Unknown arguments ['frames'] of FLaLLMVideoProcessor. Known: crop_size,", TypeError),
        (
            {"do_resize": False, "do_center_crop": False},
            "videos of a batch must have one size, got (height, width) [(4",
            ValueError,
        ),
    ],
)
def test_calls_that_cannot_be_right(processor, arguments, text, error):
    with raises(text, error):
        processor([random_clip(4), random_clip(4, 41, 48)], **arguments)


def test_no_videos(processor):
    with raises("`videos` is empty; pass at least one video."):
        processor([])


def test_saved_settings_come_back(processor, tmp_path):
    processor = FLaLLMVideoProcessor(frame_sampling_rate=0.5, max_num_frames=None, size={"height": 20, "width": 24})
    processor.save_pretrained(tmp_path)
    for loaded in (FLaLLMVideoProcessor.from_pretrained(tmp_path), AutoVideoProcessor.from_pretrained(tmp_path)):
        assert type(loaded) is FLaLLMVideoProcessor
        assert loaded.to_dict() == processor.to_dict()
        assert (loaded.frame_sampling_rate, loaded.max_num_frames) == (0.5, None)
    assert AutoVideoProcessor.from_pretrained(tmp_path, fps=10).fps == 10
    assert (tmp_path / "video_processing_slt.py").exists() and (tmp_path / "video_decoding_slt.py").exists()
