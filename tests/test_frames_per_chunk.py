"""The CNN in chunks of frames: the same results and gradients, BatchNorm, memory, the flag, two processes."""

import copy
import re

import pytest
import torch
import torch.distributed as distributed
from tiny_corpus import WITHOUT_EVALUATION, stage1_flags
from tiny_models import random_batch, tiny_vision_model
from torch import nn
from torch.testing import assert_close
from two_processes import in_two_processes

from modeling_flallm import FLaLLMVisionModel
from modeling_flallm.sign_encoder_slt import FRAMES_PER_CHUNK_ON_CPU
from train_scripts.stages import visual_initialing

NUM_FRAMES = (9, 6, 4)


def clips(lengths=NUM_FRAMES, size: int = 48) -> dict[str, torch.Tensor]:
    """Frames large enough that the CNN's last stage has several values per channel in a single frame."""
    batch = random_batch(list(lengths), size=size)
    return {name: batch[name] for name in ("pixel_values_videos", "pixel_attention_mask")}


def copy_with_chunks(model: FLaLLMVisionModel, frames_per_chunk: int | None) -> FLaLLMVisionModel:
    other = copy.deepcopy(model)
    other.frames_per_chunk = frames_per_chunk
    return other


def chunk_sizes(model: FLaLLMVisionModel) -> list[int]:
    """Numbers of frames of the calls of the CNN, as they come."""
    sizes: list[int] = []
    model.backbone.conv1.register_forward_pre_hook(lambda module, inputs: sizes.append(len(inputs[0])))
    return sizes


def gradients(model: FLaLLMVisionModel, batch: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    model.zero_grad()
    model(**batch).last_hidden_state.square().sum().backward()
    return {name: parameter.grad.clone() for name, parameter in model.named_parameters()}


def saved_bytes(model: FLaLLMVisionModel, batch: dict[str, torch.Tensor]) -> int:
    """Bytes that a forward pass keeps for the backward pass, besides weights and pixels."""
    known = {each.data_ptr() for each in (*model.parameters(), *batch.values())}
    kept: dict[int, torch.Tensor] = {}

    def keep(tensor: torch.Tensor) -> torch.Tensor:
        kept.setdefault(tensor.untyped_storage().data_ptr(), tensor)
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        model(**batch)
    return sum(tensor.untyped_storage().nbytes() for pointer, tensor in kept.items() if pointer not in known)


# ------------------------------------------------------------------------------------------ the same results


@pytest.mark.parametrize("frames_per_chunk", [1, 4, 7, 18, 19, 1000])
def test_without_training_chunks_change_nothing(frames_per_chunk):
    model = tiny_vision_model().double()
    batch = clips()
    with torch.no_grad():
        expected = model(**batch)
        chunked = copy_with_chunks(model, frames_per_chunk)
        sizes = chunk_sizes(chunked)
        output = chunked(**batch)
    assert_close(output.last_hidden_state, expected.last_hidden_state, atol=1e-4, rtol=1e-4)
    assert torch.equal(output.attention_mask, expected.attention_mask)
    assert sum(sizes) == sum(NUM_FRAMES)  # padding costs nothing
    assert max(sizes) <= frames_per_chunk and max(sizes) - min(sizes) <= 1


def test_a_frozen_encoder_in_training_changes_nothing():
    model = tiny_vision_model()
    model.freeze()
    batch = clips()
    chunked = copy_with_chunks(model, 5).train()
    before = copy.deepcopy(chunked.state_dict())
    output = chunked(**batch).last_hidden_state
    assert not output.requires_grad
    assert_close(output, model(**batch).last_hidden_state, atol=1e-4, rtol=1e-4)
    assert_close(chunked.state_dict(), before, atol=0, rtol=0)


@pytest.mark.parametrize("size_of_stage_checkpoints", ["whole chunks", "stages within chunks"])
def test_gradients_are_the_same_where_statistics_are(size_of_stage_checkpoints):
    model = tiny_vision_model().double().train()  # rounding would tip a ReLU here and there
    for module in model.backbone.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.eval()
    batch = clips()
    expected = gradients(model, batch)
    chunked = copy_with_chunks(model, 4)
    if size_of_stage_checkpoints == "stages within chunks":
        # transformers 5.23 renamed it
        getattr(chunked, "activation_checkpointing_enable", chunked.gradient_checkpointing_enable)()
    sizes = chunk_sizes(chunked)
    for (name, gradient), other in zip(expected.items(), gradients(chunked, batch).values(), strict=True):
        assert (other - gradient).norm() <= 1e-4 * gradient.norm() + 1e-6, name
    assert sum(sizes) == 2 * sum(NUM_FRAMES)  # each frame once more, in the backward pass


def test_by_default_only_a_pass_without_gradient_is_in_chunks():
    model = tiny_vision_model(backbone_width=1, hidden_size=4)
    sizes = chunk_sizes(model)
    batch = clips([FRAMES_PER_CHUNK_ON_CPU, 3], size=32)
    num_frames = FRAMES_PER_CHUNK_ON_CPU + 3
    with torch.no_grad():
        model(**batch)
        model.train()(**batch)
    model.eval()(**batch)
    assert sizes == [-(-num_frames // 2), num_frames // 2, num_frames, num_frames]


@pytest.mark.parametrize("frames_per_chunk", [0, -3])
def test_chunks_of_no_frames_are_refused(frames_per_chunk):
    model = copy_with_chunks(tiny_vision_model(), frames_per_chunk)
    with pytest.raises(ValueError, match=re.escape(f"`frames_per_chunk` must be 1 or more, got {frames_per_chunk}.")):
        model(**clips())


# ------------------------------------------------------------------------------------------ training


def test_in_training_batch_norm_sees_each_chunk_once_and_chunks_mix_the_clips():
    model = tiny_vision_model().double().train()
    batch = clips()
    chunked = copy_with_chunks(model, 7)
    num_chunks = 3
    frames = batch["pixel_values_videos"][batch["pixel_attention_mask"].bool()].double()
    expected = torch.empty(len(frames), model.backbone.num_features, dtype=torch.double)
    with torch.no_grad():
        for index in range(num_chunks):
            expected[index::num_chunks] = model.backbone(frames[index::num_chunks])
    features = []
    chunked.temporal_module.register_forward_pre_hook(lambda module, inputs: features.append(inputs[0]))
    gradients(chunked, batch)
    assert_close(features[0][batch["pixel_attention_mask"].bool()], expected, atol=1e-4, rtol=1e-4)
    assert_close(chunked.backbone.state_dict(), model.backbone.state_dict(), atol=1e-4, rtol=1e-4)
    assert chunked.backbone.layer2[0].bn1.num_batches_tracked == num_chunks
    assert all(module.momentum == 0.1 for module in chunked.modules() if isinstance(module, nn.BatchNorm2d))


def test_nothing_of_the_cnn_is_kept_for_the_backward_pass():
    model = tiny_vision_model().train()
    batch = clips([12, 12])
    whole = saved_bytes(model, batch)
    chunked = saved_bytes(copy_with_chunks(model, 6), batch)
    frames = batch["pixel_values_videos"].nbytes
    assert whole > 2 * frames  # what convolutions, norms and the copy of the frames need
    assert chunked < 0.1 * frames


def test_the_flag_sets_it_and_a_training_uses_it(tmp_path, monkeypatch):
    sizes: list[int] = []
    encode_chunk = FLaLLMVisionModel._encode_chunk

    def watch(self, pixels, places):
        sizes.append(len(places))
        assert self.frames_per_chunk == 30
        return encode_chunk(self, pixels, places)

    monkeypatch.setattr(FLaLLMVisionModel, "_encode_chunk", watch)
    visual_initialing.train(stage1_flags(tmp_path / "run", frames_per_chunk=30, max_steps=2, **WITHOUT_EVALUATION))
    assert max(sizes) <= 30 and len(sizes) > 2 * 2
    assert "`frames_per_chunk` is **30**" in (tmp_path / "run" / "README.md").read_text(encoding="utf-8")


# ------------------------------------------------------------------------------------------ several processes


def check_two_processes(rank: int, seed: int, batches: list[dict], rendezvous: str) -> None:
    """In each of two processes; the second has fewer frames than there are chunks. Against both batches joined."""
    torch.set_num_threads(1)
    torch.manual_seed(seed)
    # Not passed: its buffers would be shared. In float64, because large gradients of many frames may cancel.
    model = copy_with_chunks(tiny_vision_model(), 4).train().double()
    batches = [{**batch, "pixel_values_videos": batch["pixel_values_videos"].double()} for batch in batches]
    frames = [batch["pixel_values_videos"][batch["pixel_attention_mask"].bool()] for batch in batches]
    num_chunks = -(-len(frames[0]) // model.frames_per_chunk)
    assert len(frames[1]) < num_chunks
    joined = copy.deepcopy(model)
    expected = joined_chunks(joined, frames, num_chunks, rank)
    distributed.init_process_group("gloo", init_method=f"file://{rendezvous}", rank=rank, world_size=2)
    features = model._encode_frames(*(batches[rank][name] for name in batches[rank]))
    features.square().sum().backward()
    assert_close(features, expected, atol=1e-3, rtol=1e-3)
    assert model.backbone.bn1.num_batches_tracked == num_chunks
    for (name, parameter), other in zip(model.backbone.named_parameters(), joined.backbone.parameters(), strict=True):
        distributed.all_reduce(parameter.grad)
        assert (parameter.grad - other.grad).norm() <= 1e-2 * other.grad.norm() + 1e-4, name
    assert_close(model.backbone.state_dict(), joined.backbone.state_dict(), atol=1e-3, rtol=1e-3)
    distributed.destroy_process_group()


def joined_chunks(model: FLaLLMVisionModel, frames: list[torch.Tensor], num_chunks: int, rank: int) -> torch.Tensor:
    """Features of this process's frames, where each chunk is that of both; leaves gradients of all in `model`."""
    features = torch.empty(len(frames[rank]), model.backbone.num_features, dtype=frames[rank].dtype)
    for index in range(num_chunks):
        parts = [own[index::num_chunks] for own in frames]
        encoded = model.backbone(torch.cat(parts))
        encoded.square().sum().backward()
        features[index::num_chunks] = encoded.detach().split([len(part) for part in parts])[rank]
    return features


@pytest.mark.slow
def test_two_processes_have_the_chunks_of_one(tmp_path):
    seed = int(torch.randint(2**31, ()))
    batches = [clips([9, 8]), clips([3])]
    in_two_processes(check_two_processes, seed, batches, str(tmp_path / "rendezvous"))
