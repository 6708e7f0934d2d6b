"""Shared by the visual encoders of both systems: the positions of their tokens, and the masks that callers pass."""

import re

import pytest
import torch
from accelerate import infer_auto_device_map
from tiny_models import tiny_contrastive_model, tiny_llava_slt, tiny_model, tiny_vision_model

from modeling_flallm.sign_encoder_slt import checked_visual_mask


@pytest.mark.parametrize("size, stride", [(1, 1), (3, 2), (4, 2), (5, 3), (8, 2)])
def test_a_word_like_token_lies_in_the_middle_of_the_frames_that_move_it(size, stride):
    vision = {"word_window_size": size, "word_window_stride": stride, "word_layers": 0}
    vision_model = tiny_llava_slt(vision=vision).vision_model
    frames = torch.randn(1, 30, 24, requires_grad=True)
    words, _ = vision_model.word_level(frames, torch.tensor([30]))
    centre, spacing = vision_model.get_centre_and_spacing()
    assert words.shape[1] == vision_model.get_num_tokens(30) and vision_model.get_min_num_frames() == 1
    for index in range(words.shape[1]):
        (gradient,) = torch.autograd.grad((words[0, index] * torch.randn(16)).sum(), frames, retain_graph=True)
        moving = gradient[0].abs().sum(1).nonzero()[:, 0]
        if moving[0] > 0 and moving[-1] < 29:  # else it sees beyond the end of the clip
            assert centre + spacing * index == (moving[0] + moving[-1]) / 2


def test_the_shortest_clip_gives_a_token_and_one_frame_less_is_refused():
    model = tiny_vision_model(temporal_blocks=["K5", "P2", "K3"], temporal_padding="none")
    shortest = model.get_min_num_frames()
    assert model.get_num_tokens(shortest) == 1 and model.get_num_tokens(shortest - 1) == 0
    message = f"it has {shortest - 1} frames after sampling, and one visual token needs at least {shortest}."
    with pytest.raises(ValueError, match=re.escape(message)):
        model(torch.randn(1, shortest - 1, 3, 32, 32))


def test_a_mask_of_visual_features_that_does_not_fit_them_is_refused():
    message = "`visual_attention_mask` must have the shape (batch, features) = (2, 5), got (2, 4)."
    with pytest.raises(ValueError, match=re.escape(message)):
        tiny_model().encode(visual_features=torch.randn(2, 5, 24), visual_attention_mask=torch.ones(2, 4))


def test_the_mask_of_visual_features_is_boolean_and_all_true_where_there_is_none():
    features, mask = torch.randn(2, 5, 3), torch.randint(0, 2, (2, 5))
    assert torch.equal(checked_visual_mask(features, mask, 3), mask == 1)
    assert torch.equal(checked_visual_mask(features, None, 3), torch.ones(2, 5) == 1)


@pytest.mark.parametrize(
    "make",
    [
        tiny_model,
        lambda: tiny_model("t5", {"backbone": "resnet50"}),
        tiny_llava_slt,
        tiny_contrastive_model,
        tiny_vision_model,
        lambda: tiny_llava_slt().vision_model,
    ],
    ids=["FLa-LLM", "ResNet-50", "LLaVA-SLT", "contrastive", "encoder", "encoder of LLaVA-SLT"],
)
def test_no_device_map_splits_what_computes_as_one(make):
    model = make()
    encoder = getattr(model, "vision_model", model)
    size = sum(parameter.numel() * parameter.element_size() for parameter in encoder.parameters())
    for share in (0.1, 0.35, 0.6, 0.9):
        memory = {"cpu": int(share * size), "disk": 10**9}
        device_map = infer_auto_device_map(model, memory, no_split_module_classes=list(model._no_split_modules))
        parts = [name for name in device_map if encoder is model or name.startswith("vision_model.")]
        split = (".layer", ".bn", "blocks", "word_level.")
        assert not [name for name in parts if any(inner in name for inner in split)]
        if encoder is not model:
            assert not parts
