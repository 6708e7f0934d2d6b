"""The visual encoder: padding, lengths, BatchNorm statistics, freezing, ImageNet weights, several processes."""

import copy
import re

import pytest
import torch
import torch.distributed as distributed
import torchvision
from tiny_models import (
    SHORTEST_CLIP_IN_FRAMES,
    draw_batch_norm_statistics,
    random_batch,
    state_of,
    tiny_vision_config,
    tiny_vision_model,
    video_of,
    with_garbage_in_the_padding,
)
from torch import nn
from torch.testing import assert_close
from transformers import AutoModel
from two_processes import in_two_processes

from modeling_flallm import FLaLLMVisionConfig, FLaLLMVisionModel
from modeling_flallm.encoder_frames_slt import (
    SynchronizedBatchNorm1d,
    SynchronizedBatchNorm2d,
    TemporalConvolution,
    TemporalPooling,
)

PADDINGS = ("zero", "none", "replicate")
BLOCKS = (["K5"], ["K3"], ["K5", "P2", "K5", "P2"])
NORMS = ("batch_norm", "layer_norm")
every_padding = pytest.mark.parametrize("padding", PADDINGS)
every_blocks = pytest.mark.parametrize("blocks", BLOCKS, ids="-".join)
every_norm = pytest.mark.parametrize("norm", NORMS)


def temporal(blocks, padding="zero", norm="batch_norm") -> dict:
    return {"temporal_blocks": blocks, "temporal_padding": padding, "temporal_norm": norm}


def exact_vision_model(**values) -> FLaLLMVisionModel:
    """In double precision, so that the order of sums makes no difference."""
    return tiny_vision_model(**values).double()


def random_lengths(count: int = 3) -> list[int]:
    """Unequal lengths in random order, long enough for every temporal module."""
    longer = torch.randperm(12)[:count] + SHORTEST_CLIP_IN_FRAMES
    return longer.tolist()


def clips_of(batch: dict[str, torch.Tensor]) -> list[torch.Tensor]:
    """The clips of a batch without their padding, each `(frames, 3, height, width)`."""
    pairs = zip(batch["pixel_values_videos"], batch["pixel_attention_mask"], strict=True)
    return [pixels[mask.bool()] for pixels, mask in pairs]


# ------------------------------------------------------------------------------------------ padding and lengths


@every_padding
@every_blocks
@every_norm
def test_a_clip_does_not_depend_on_its_batch_or_padding(blocks, padding, norm):
    model = exact_vision_model(**temporal(blocks, padding, norm))
    batch = random_batch(random_lengths())
    with torch.no_grad():
        together = model(**with_garbage_in_the_padding(batch))
        for row, clip in enumerate(clips_of(batch)):
            alone = model(clip[None])
            num_tokens = alone.last_hidden_state.shape[1]
            assert alone.attention_mask.tolist() == [[1] * num_tokens]
            assert together.attention_mask[row].nonzero().flatten().tolist() == list(range(num_tokens))
            assert_close(together.last_hidden_state[row, :num_tokens], alone.last_hidden_state[0], atol=1e-4, rtol=0)
            assert (together.last_hidden_state[row, num_tokens:] == 0).all()


# ------------------------------------------------------------------------------------------ what stays still


def test_without_the_mean_frame_only_what_moves_counts():
    values = {"hidden_size": 16}
    model, plain = exact_vision_model(subtract_mean_frame=True, **values), exact_vision_model(**values)
    plain.load_state_dict(model.state_dict())
    batch = video_of(random_batch(random_lengths()))
    batch["pixel_values_videos"] = batch["pixel_values_videos"].double()
    rooms = torch.randn(len(batch["pixel_values_videos"]), 1, *batch["pixel_values_videos"].shape[2:]).double()
    elsewhere = batch | {"pixel_values_videos": batch["pixel_values_videos"] + rooms}
    with torch.no_grad():
        expected = model(**batch).last_hidden_state
        moved = model(**with_garbage_in_the_padding(elsewhere)).last_hidden_state[:, : expected.shape[1]]
        assert_close(moved, expected, atol=1e-6, rtol=0)
        assert (plain(**elsewhere).last_hidden_state - plain(**batch).last_hidden_state).abs().max() > 1e-3
        for row, clip in enumerate(clips_of(batch)):
            by_hand = plain((clip - clip.mean(0))[None]).last_hidden_state[0]
            assert_close(expected[row, : len(by_hand)], by_hand, atol=1e-6, rtol=0)
        model.frames_per_chunk = 3
        assert_close(model(**batch).last_hidden_state, expected, atol=1e-6, rtol=0)


# ------------------------------------------------------------------------------------------ tokens and their places


@every_padding
@pytest.mark.parametrize("blocks", [*BLOCKS, ["P3"], ["K3", "P2"], ["K1", "P4", "K3"]], ids="-".join)
def test_the_token_count_is_the_real_length(blocks, padding):
    values = {"hidden_size": 8, "backbone_width": 1} if blocks == ["P3"] else {}
    model = tiny_vision_model(**temporal(blocks, padding), **values)
    counts = model.get_num_tokens(torch.arange(1, 41))
    for num_frames in range(1, 41):
        num_tokens = model.get_num_tokens(num_frames)
        assert counts[num_frames - 1] == num_tokens
        features = torch.randn(1, num_frames, model.backbone.num_features)
        if num_tokens < 1:
            with pytest.raises(ValueError, match="too short"):
                model(torch.zeros(1, num_frames, 3, 32, 32))
            continue
        hidden, lengths = model.temporal_module(features, torch.tensor([num_frames]))
        assert hidden.shape == (1, num_tokens, model.config.hidden_size)
        assert lengths.tolist() == [num_tokens]


def test_the_paper_gives_one_token_per_frame_and_sltbaselines_a_quarter():
    paper = tiny_vision_model()
    sltbaselines = tiny_vision_model(**temporal(["K5", "P2", "K5", "P2"], "replicate"))
    for num_frames in range(1, 41):
        assert paper.get_num_tokens(num_frames) == num_frames
        assert sltbaselines.get_num_tokens(num_frames) == -(-num_frames // 4) + 1


def plain_temporal_module(model: FLaLLMVisionModel, clips: list[torch.Tensor]) -> list[torch.Tensor]:
    """
    The temporal module the long way round: clip by clip `(frames, features)`, frames really repeated, and torch's own
    convolution, pooling and norm. Batch norm sees the positions of all clips behind each other.
    """
    if model.config.temporal_padding == "replicate":
        clips = [repeated_at_both_ends(clip, model.config.temporal_stride) for clip in clips]
    clips = [clip.T[None] for clip in clips]  # (1, features, frames)
    for block in model.temporal_module.blocks:
        if isinstance(block, TemporalPooling):
            clips = [nn.functional.max_pool1d(clip, block.factor) for clip in clips]
        else:
            clips = plain_convolution(block, clips)
    return [clip[0].T for clip in clips]


def repeated_at_both_ends(clip: torch.Tensor, stride: int) -> torch.Tensor:
    frames = [clip[0]] * 8 + list(clip)
    while len(frames) < -(-len(clip) // stride) * stride + 16:
        frames.append(clip[-1])
    return torch.stack(frames)


def plain_convolution(block: TemporalConvolution, clips: list[torch.Tensor]) -> list[torch.Tensor]:
    clips = [block.convolution(clip) for clip in clips]
    positions = torch.cat([clip[0].T for clip in clips])
    if isinstance(block.norm, nn.LayerNorm):
        normalised = block.norm(positions)
    else:
        plain = nn.BatchNorm1d(block.norm.num_features, dtype=block.norm.weight.dtype)
        plain.load_state_dict(block.norm.state_dict())
        normalised = plain.train(block.norm.training)(positions)
        block.norm.load_state_dict(plain.state_dict())
    lengths = [clip.shape[2] for clip in clips]
    return [positions.T[None].relu() for positions in normalised.split(lengths)]


@every_padding
@every_blocks
@every_norm
@pytest.mark.parametrize("training", [False, True], ids=["evaluation", "training"])
def test_the_temporal_module_equals_a_plain_one(blocks, padding, norm, training):
    model = exact_vision_model(**temporal(blocks, padding, norm)).train(training)
    plain = copy.deepcopy(model)
    lengths = random_lengths()
    clips = [torch.randn(length, model.backbone.num_features, dtype=torch.double) for length in lengths]
    hidden, num_tokens = model.temporal_module(
        nn.utils.rnn.pad_sequence(clips, batch_first=True), torch.tensor(lengths)
    )
    expected = plain_temporal_module(plain, clips)
    assert num_tokens.tolist() == [len(tokens) for tokens in expected]
    for row, tokens in enumerate(expected):
        assert_close(hidden[row, : len(tokens)], tokens, atol=1e-5, rtol=1e-5)
        assert (hidden[row, len(tokens) :] == 0).all()
    assert_close(state_of(model), state_of(plain), atol=1e-5, rtol=1e-5)


def test_padded_frames_cost_no_cnn_work():
    model = tiny_vision_model()
    batch = random_batch(random_lengths())
    counted = []
    model.backbone.conv1.register_forward_hook(lambda module, inputs, output: counted.append(len(inputs[0])))
    model(**with_garbage_in_the_padding(batch, extra_frames=20))
    assert counted == [int(batch["pixel_attention_mask"].sum())]


@every_padding
@every_blocks
def test_padded_frames_enter_no_batch_norm_statistic(blocks, padding):
    model = exact_vision_model(**temporal(blocks, padding)).train()
    packed = copy.deepcopy(model)
    before = state_of(model)
    batch = random_batch(random_lengths())
    model(**with_garbage_in_the_padding(batch))

    clips = clips_of(batch)
    features = packed.backbone(torch.cat(clips).double()).split([len(clip) for clip in clips])
    plain_temporal_module(packed, list(features))

    assert_close(state_of(model), state_of(packed), atol=1e-5, rtol=1e-5)
    statistics = [name for name in before if "running" in name]
    assert any(name.startswith("temporal_module") for name in statistics)
    assert all((before[name] != model.state_dict()[name]).any() for name in statistics)


def test_a_clip_without_a_mask_is_all_real():
    model = tiny_vision_model()
    pixels = torch.randn(2, 6, 3, 32, 32)
    expected = model(pixels, torch.ones(2, 6, dtype=torch.long))
    for mask in (None, torch.ones(2, 6, dtype=torch.bool)):
        assert_close(model(pixels, mask).last_hidden_state, expected.last_hidden_state, atol=0, rtol=0)


# ------------------------------------------------------------------------------------------ errors


@pytest.mark.parametrize("shape", [(2, 6, 32, 32, 3), (6, 3, 32, 32), (2, 6, 1, 32, 32)])
def test_pixels_of_the_wrong_shape_are_refused(shape):
    message = (
        f"`pixel_values_videos` must have the shape (batch, frames, 3, height, width), got {shape}. FLaLLMProcessor "
        "makes it from videos."
    )
    with pytest.raises(ValueError, match=re.escape(message)):
        tiny_vision_model()(torch.randn(shape))


@pytest.mark.parametrize("dtype", [torch.uint8, torch.int64, torch.bool])
def test_pixels_that_are_no_floating_point_numbers_are_refused(dtype):
    message = (
        f"`pixel_values_videos` must be normalised floating point frames, got {dtype}. FLaLLMProcessor makes them from "
        "videos."
    )
    with pytest.raises(ValueError, match=re.escape(message)):
        tiny_vision_model()(torch.ones(2, 6, 3, 32, 32, dtype=dtype))


@pytest.mark.parametrize("shape", [(2, 5), (3, 6), (6,), (2, 6, 1)])
def test_a_mask_of_the_wrong_shape_is_refused(shape):
    message = f"`pixel_attention_mask` must have the shape (batch, frames) = (2, 6), got {shape}."
    with pytest.raises(ValueError, match=re.escape(message)):
        tiny_vision_model()(torch.randn(2, 6, 3, 32, 32), torch.ones(shape))


@pytest.mark.parametrize("mask", [[1, 0, 1, 1], [0, 1, 1, 1], [1, 1, 0, 1]])
def test_a_mask_with_a_hole_is_refused(mask):
    message = "`pixel_attention_mask` must be 1 up to the end of each clip and 0 after it."
    with pytest.raises(ValueError, match=re.escape(message)):
        tiny_vision_model()(torch.randn(2, 4, 3, 32, 32), torch.tensor([[1, 1, 1, 1], mask]))


@pytest.mark.parametrize(
    ("values", "num_frames", "shortest"),
    [
        (temporal(["K5"], "zero"), 0, 1),
        (temporal(["K5"], "none"), 4, 5),
        (temporal(["K5", "P2", "K5", "P2"], "zero"), 3, 4),
        (temporal(["K5", "P2", "K5", "P2"], "none"), 15, 16),
        (temporal(["K5", "P2", "K5", "P2"], "replicate"), 0, 1),
    ],
)
def test_a_clip_that_is_shorter_than_one_token_is_refused(values, num_frames, shortest):
    message = (
        f"Clip 1 of the batch is too short: it has {num_frames} frames after sampling, and one visual token needs at "
        f"least {shortest}. Use a longer clip or keep more of its frames (`frame_sampling_rate`)."
    )
    model = tiny_vision_model(**values)
    batch = random_batch([shortest, max(num_frames, 1)])
    batch["pixel_attention_mask"][1, num_frames:] = 0
    with pytest.raises(ValueError, match=re.escape(message)):
        model(**video_of(batch))
    assert model(batch["pixel_values_videos"][:1]).attention_mask.tolist() == [[1] * model.get_num_tokens(shortest)]


def test_tokens_of_another_width_than_promised_are_refused():
    message = (
        "`hidden_size` is 24, but without a convolution in `temporal_blocks` ['P2'] the tokens keep the backbone's 64 "
        "channels."
    )
    with pytest.raises(ValueError, match=re.escape(message)):
        FLaLLMVisionModel(tiny_vision_config(temporal_blocks=["P2"]))


# ------------------------------------------------------------------------------------------ freezing and weights


def test_a_frozen_encoder_computes_no_gradient_and_changes_nothing():
    model = tiny_vision_model().train()
    model.freeze()
    before = state_of(model)
    model.train()
    output = model(**video_of(random_batch([9, 7])))
    assert not output.last_hidden_state.requires_grad
    assert not any(module.training for module in model.modules())
    assert not any(parameter.requires_grad for parameter in model.parameters())
    assert_close(state_of(model), before, atol=0, rtol=0)


def test_it_is_saved_and_loaded(tmp_path):
    model = tiny_vision_model(temporal_blocks=["K3", "P2"])
    model.save_pretrained(tmp_path)
    loaded = AutoModel.from_pretrained(tmp_path)
    assert type(loaded) is FLaLLMVisionModel
    assert not loaded.training
    assert_close(state_of(loaded), state_of(model), atol=0, rtol=0)
    batch = video_of(random_batch([8, 5]))
    assert_close(loaded(**batch).last_hidden_state, model(**batch).last_hidden_state, atol=0, rtol=0)


def torchvision_weights(monkeypatch, backbone: str) -> nn.Module:
    """A random torchvision network whose weights replace the ImageNet ones of this backbone."""
    network = torchvision.models.get_model(backbone).eval()
    for name, buffer in network.named_buffers():
        if name.endswith(("running_mean", "running_var")):
            buffer.uniform_(0.5, 1.5)
    weights_class = type(torchvision.models.get_model_weights(backbone).IMAGENET1K_V1)
    monkeypatch.setattr(weights_class, "get_state_dict", lambda self, **kwargs: network.state_dict())
    return network


@pytest.mark.parametrize("backbone", ["resnet18", "resnet34", "resnet50"])
def test_with_imagenet_weights_the_backbone_is_the_network_of_torchvision(monkeypatch, backbone):
    network = torchvision_weights(monkeypatch, backbone)
    model = FLaLLMVisionModel(FLaLLMVisionConfig(backbone=backbone, hidden_size=4)).eval()
    model.load_imagenet_weights()
    network.fc = nn.Identity()
    frames = torch.randn(2, 3, 64, 64)
    with torch.no_grad():
        expected = network(frames)
        assert_close(model.backbone(frames), expected, atol=1e-5, rtol=1e-5)
    assert expected.shape == (2, model.backbone.num_features)


def test_imagenet_weights_need_the_width_of_torchvision(monkeypatch):
    monkeypatch.setattr(torch.hub, "load_state_dict_from_url", None)  # it is not even asked for
    message = "ImageNet weights exist for `backbone_width` 64 only, this model has 8."
    with pytest.raises(ValueError, match=re.escape(message)):
        tiny_vision_model().load_imagenet_weights()


def test_building_a_model_downloads_nothing(monkeypatch):
    def refuse(*arguments, **keywords):
        raise AssertionError("a download was tried")

    monkeypatch.setattr("torch.hub.load_state_dict_from_url", refuse)
    monkeypatch.setattr("torchvision.models._api.load_state_dict_from_url", refuse)
    monkeypatch.setattr("socket.socket.connect", refuse)
    FLaLLMVisionModel(FLaLLMVisionConfig())
    with pytest.raises(AssertionError, match="a download was tried"):
        FLaLLMVisionModel(FLaLLMVisionConfig()).load_imagenet_weights()


def test_fresh_convolutions_are_kaiming_and_norms_are_neutral():
    model = FLaLLMVisionModel(FLaLLMVisionConfig(hidden_size=64))
    weight = model.backbone.layer3[0].conv1.weight
    fan_out = weight.shape[0] * weight.shape[2] * weight.shape[3]
    assert weight.std().item() == pytest.approx((2 / fan_out) ** 0.5, rel=0.05)
    for module in model.modules():
        if isinstance(module, SynchronizedBatchNorm1d | SynchronizedBatchNorm2d):
            assert (module.weight == 1).all() and (module.bias == 0).all()
            assert (module.running_mean == 0).all() and (module.running_var == 1).all()
            assert module.num_batches_tracked == 0


# ------------------------------------------------------------------------------------------ precision, speed, memory


@every_padding
@every_norm
def test_in_bfloat16_it_takes_frames_of_any_precision(padding, norm):
    model = tiny_vision_model(**temporal(["K5", "P2"], padding, norm))
    batch = video_of(random_batch([8, 6]))
    expected = model(**batch).last_hidden_state
    hidden = model.to(torch.bfloat16)(**batch).last_hidden_state
    assert hidden.dtype == torch.bfloat16
    assert (hidden.float() - expected).abs().mean() < 0.05 * expected.abs().mean()


@every_padding
@every_norm
@pytest.mark.parametrize("training", [False, True], ids=["evaluation", "training"])
def test_under_autocast_it_gives_nearly_the_same(padding, norm, training):
    model = tiny_vision_model(**temporal(["K5", "P2"], padding, norm)).train(training)
    batch = video_of(random_batch([8, 6], size=64))
    expected = model(**batch).last_hidden_state
    with torch.autocast("cpu", torch.bfloat16):
        hidden = model(**batch).last_hidden_state
    assert (hidden.float() - expected).abs().mean() < 0.1 * expected.abs().mean()
    if training:
        hidden.float().square().sum().backward()
        assert all(parameter.grad.isfinite().all() for parameter in model.parameters())


def test_checkpointing_changes_neither_gradients_nor_statistics():
    model = tiny_vision_model().train()
    checkpointed = copy.deepcopy(model)
    enable_checkpointing(checkpointed)
    batch = video_of(random_batch([8, 5]))
    forward_calls = []
    checkpointed.backbone.layer1[0].register_forward_pre_hook(lambda *arguments: forward_calls.append(1))
    for encoder in (model, checkpointed):
        encoder(**batch).last_hidden_state.square().sum().backward()
    assert len(forward_calls) == 2  # once more in the backward pass
    for (name, parameter), other in zip(model.named_parameters(), checkpointed.parameters(), strict=True):
        assert_close(other.grad, parameter.grad, atol=0, rtol=0, msg=name)
    assert_close(state_of(checkpointed), state_of(model), atol=0, rtol=0)
    assert checkpointed.backbone.layer1[0].bn1.num_batches_tracked == 1
    assert all(module.momentum == 0.1 for module in checkpointed.modules() if isinstance(module, nn.BatchNorm2d))


def enable_checkpointing(model) -> None:
    """transformers 5.23 renamed it."""
    getattr(model, "activation_checkpointing_enable", model.gradient_checkpointing_enable)()


# The code that it writes finds 0 frames in a clip of 5, and the encoder refuses the clip. torch 2.6 and 2.15 do not.
inductor_counts_frames_wrong = pytest.mark.xfail(
    torch.__version__.startswith("2.14.") and "AVX512" not in torch.backends.cpu.get_cpu_capability(),
    reason="torch 2.14's inductor counts the frames of a clip wrong with AVX2",
    raises=ValueError,
    strict=False,
)


@pytest.mark.parametrize(
    ("backend", "batches"),
    [
        ("eager", [[8, 5]]),
        pytest.param("aot_eager", [[8, 5], [6, 9], [3, 7, 4]], marks=pytest.mark.slow),
        pytest.param("inductor", [[8, 5]], marks=[pytest.mark.slow, inductor_counts_frames_wrong]),
    ],
)
def test_compiled_it_gives_the_same(backend, batches):
    torch.compiler.reset()
    model = tiny_vision_model(**temporal(["K5", "P2"], "replicate"))
    compiled = torch.compile(model, backend=backend)
    with torch.no_grad():
        for lengths in batches:
            batch = video_of(random_batch(lengths))
            expected, output = model(**batch), compiled(**batch)
            assert_close(output.last_hidden_state, expected.last_hidden_state, atol=1e-4, rtol=1e-4)
            assert torch.equal(output.attention_mask, expected.attention_mask)


# ------------------------------------------------------------------------------------------ several processes


def batch_norm_pair(dimensions: int) -> tuple[nn.Module, nn.Module]:
    """Our batch norm and torch's, with the same non-trivial weights."""
    generator = torch.Generator().manual_seed(dimensions)
    ours, plain = {
        1: (SynchronizedBatchNorm1d, nn.BatchNorm1d),
        2: (SynchronizedBatchNorm2d, nn.BatchNorm2d),
    }[dimensions]
    ours, plain = ours(6), plain(6)
    nn.init.uniform_(ours.weight, 0.5, 1.5, generator=generator)
    nn.init.normal_(ours.bias, generator=generator)
    plain.load_state_dict(ours.state_dict())
    return ours, plain


def check_synchronized_batch_norm(rank: int, inputs: dict[int, list[torch.Tensor]], rendezvous: str) -> None:
    """Runs in each of two processes: our norm on this process's part against torch's on the joined batch."""
    torch.set_num_threads(1)
    distributed.init_process_group("gloo", init_method=f"file://{rendezvous}", rank=rank, world_size=2)
    for dtype, tolerance in ((torch.float32, 1e-5), (torch.float64, 1e-11)):
        for dimensions, steps in inputs.items():
            ours, plain = (norm.to(dtype) for norm in batch_norm_pair(dimensions))
            for joined in steps:
                check_one_step(
                    rank, ours, plain, joined.to(dtype, copy=True), sizes=[3, len(joined) - 3], tolerance=tolerance
                )
            ours.eval(), plain.eval()
            joined = joined.to(dtype)
            assert_close(ours(joined), plain(joined), atol=tolerance, rtol=tolerance)
    for dimensions, steps in inputs.items():
        check_one_value(rank, batch_norm_pair(dimensions)[0], torch.linspace(-2, 2, steps[0].shape[1])[None])
    distributed.destroy_process_group()


def check_one_step(
    rank: int, ours: nn.Module, plain: nn.Module, joined: torch.Tensor, sizes: list[int], tolerance: float
) -> None:
    close = {"atol": tolerance, "rtol": tolerance}
    own = joined.split(sizes)[rank].clone().requires_grad_()
    joined.requires_grad_()
    upstream = torch.sin(joined.detach() * 3)  # a gradient from above that varies between positions
    ours.zero_grad(), plain.zero_grad()
    expected, output = plain(joined), ours(own)
    expected.backward(upstream)
    output.backward(upstream.split(sizes)[rank])
    assert_close(output, expected.split(sizes)[rank], **close)
    assert_close(own.grad, joined.grad.split(sizes)[rank], **close)
    for parameter, plain_parameter in zip(ours.parameters(), plain.parameters(), strict=True):
        total = parameter.grad.clone()
        distributed.all_reduce(total)
        assert_close(total, plain_parameter.grad, **close)
    assert_close(ours.state_dict(), plain.state_dict(), **close)


def check_one_value(rank: int, norm: nn.Module, value: torch.Tensor) -> None:
    """One value for each channel in all, which the first process has."""
    value = value[..., None, None] if isinstance(norm, nn.BatchNorm2d) else value
    draw_batch_norm_statistics(norm)
    before = state_of(norm)
    own = value[: 1 - rank].clone().requires_grad_()
    output = norm(own)
    output.sum().backward()
    assert_close(state_of(norm), before, atol=0, rtol=0)
    assert norm.weight.grad is not None
    assert_close(output, norm.eval()(own), atol=0, rtol=0)


@pytest.mark.slow
def test_in_two_processes_batch_norm_is_that_of_the_joined_batch(tmp_path):
    inputs = {
        1: [2 * torch.randn(11, 6) + 0.5, torch.randn(8, 6), torch.randn(3, 6)],
        2: [2 * torch.randn(11, 6, 4, 3) + 0.5, torch.randn(8, 6, 4, 3), torch.randn(3, 6, 4, 3)],
    }
    in_two_processes(check_synchronized_batch_norm, inputs, str(tmp_path / "rendezvous"))


@pytest.mark.parametrize("memory_format", [torch.contiguous_format, torch.channels_last], ids=str)
@pytest.mark.parametrize(("mean", "deviation"), [(0.5, 1.0), (1000.0, 0.5), (-10_000.0, 1.0)])
def test_the_variance_over_processes_is_exact_far_from_zero(mean, deviation, memory_format, monkeypatch):
    monkeypatch.setattr(distributed, "all_reduce", lambda tensor: tensor.mul_(2))  # another process with the same batch
    values = (deviation * torch.randn(16, 4, 28, 28) + mean).to(memory_format=memory_format)
    joined = torch.cat([values, values]).double()
    norm = SynchronizedBatchNorm2d(4, momentum=1.0)
    norm._forward_synchronized(values)
    assert_close(norm.running_mean.double(), joined.mean((0, 2, 3)), atol=1e-3 * deviation, rtol=0)
    assert_close(norm.running_var.double(), joined.var((0, 2, 3)), atol=0, rtol=1e-4)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_batch_norm_over_processes_keeps_nothing_large_but_its_input(dtype, monkeypatch):
    monkeypatch.setattr(distributed, "all_reduce", lambda tensor: None)
    values = torch.randn(4, 8, 16, 16, dtype=dtype, requires_grad=True)
    sizes = {}

    def note(tensor: torch.Tensor) -> torch.Tensor:
        sizes[tensor.data_ptr()] = tensor.numel()
        return tensor

    norm = SynchronizedBatchNorm2d(8)
    with torch.autograd.graph.saved_tensors_hooks(note, lambda tensor: tensor):
        output = norm._forward_synchronized(values)
    del sizes[values.data_ptr()]
    assert max(sizes.values()) == norm.num_features
    assert output.dtype == dtype


@pytest.mark.parametrize("shape", [(1, 6), (1, 6, 1)], ids=str)
def test_one_value_is_normalised_by_the_running_statistics(shape):
    norm, _ = batch_norm_pair(1)
    draw_batch_norm_statistics(norm)
    before = state_of(norm)
    value = torch.randn(shape)
    assert_close(norm(value), norm.eval()(value), atol=0, rtol=0)
    assert_close(state_of(norm), before, atol=0, rtol=0)


@pytest.mark.parametrize("lengths", [[1], [1, 2]], ids=str)
def test_a_clip_of_one_frame_can_be_trained_on(lengths):
    """Its tokens, and frames of 32 pixels at the end of the backbone, are one value for each channel."""
    model = tiny_vision_model().train()
    model(**video_of(random_batch(lengths))).last_hidden_state.square().sum().backward()
    assert all(parameter.grad.isfinite().all() for parameter in model.parameters())
    assert all(value.isfinite().all() for value in state_of(model).values())


def test_in_one_process_batch_norm_is_that_of_torch():
    for dimensions, shape in ((1, (7, 6)), (2, (7, 6, 4, 3))):
        ours, plain = batch_norm_pair(dimensions)
        values = torch.randn(shape)
        assert_close(ours(values), plain(values), atol=0, rtol=0)
        assert_close(ours.state_dict(), plain.state_dict(), atol=0, rtol=0)
