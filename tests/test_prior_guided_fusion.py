"""Uni-Sign's prior-guided fusion: hand crops in some frames refine the pose features of the hands."""

import math
import re

import pytest
import torch
import torch.distributed as distributed
from tiny_models import tiny_uni_sign
from torch import nn
from torchvision.ops import StochasticDepth
from two_processes import in_two_processes

from modeling_flallm import UniSignPoseConfig, UniSignPoseEncoder
from modeling_flallm.prior_guided_fusion_slt import (
    INITIAL_GATE,
    LARGEST_OFFSET,
    NUM_HEADS,
    DeformableAttention,
    PriorGuidedFusion,
)

WIDTH, JOINTS = 32, 21
CROPS = ("hand_pixel_values", "hand_frame_indices", "hand_crop_keypoints")


def fusion_encoder(**values) -> UniSignPoseEncoder:
    """Small in all but the network of the crops."""
    config = UniSignPoseConfig(spatial_widths=[8, WIDTH], temporal_layers=1, rgb_fusion=True, **values)
    return UniSignPoseEncoder(config).eval()


def pose_batch(lengths: list[int], frame_indices: list[list[list[int]]], size: int = 32) -> dict[str, torch.Tensor]:
    """Random poses of clips of these lengths, with hand crops of these frames: `(batch, 2, crops)`."""
    mask = torch.arange(max(lengths))[None] < torch.tensor(lengths)[:, None]
    indices = torch.tensor(frame_indices)
    poses = torch.rand(*mask.shape, 69, 3) * 2 - 1
    return {
        "pose_values": poses * mask[..., None, None],
        "pose_attention_mask": mask.long(),
        "hand_pixel_values": torch.randn(*indices.shape, 3, size, size),
        "hand_frame_indices": indices,
        "hand_crop_keypoints": torch.rand(*indices.shape, JOINTS, 2),
    }


def two_clips() -> dict[str, torch.Tensor]:
    return pose_batch([7, 4], [[[0, 3, -1], [1, 2, 6]], [[-1, -1, -1], [3, -1, -1]]])


def pose_alone(batch: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    return {name: value for name, value in batch.items() if name not in CROPS}


def fusion_inputs(crops: int = 3) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    return torch.randn(crops, JOINTS, WIDTH), torch.randn(crops, 3, 64, 64), torch.rand(crops, JOINTS, 2)


def fusion() -> PriorGuidedFusion:
    return fusion_encoder().fusion


def gradients(module: nn.Module) -> dict[str, float]:
    return {
        name: 0.0 if parameter.grad is None else float(parameter.grad.abs().max())
        for name, parameter in module.named_parameters()
    }


# The gate


def test_a_gate_that_starts_as_published_never_opens():
    module = fusion()
    with torch.no_grad():
        for parameter in module.gate.parameters():
            parameter.zero_()
    joints, crops, places = fusion_inputs()
    fused = module.fuse(joints, crops, places)
    assert torch.equal(fused, joints)
    (fused * torch.randn_like(fused)).sum().backward()
    assert set(gradients(module).values()) == {0.0}


def test_our_gate_starts_open_and_every_weight_learns():
    module = fusion()
    joints, crops, places = fusion_inputs()
    gate = module.gate(joints, torch.zeros_like(joints))
    assert gate.shape == (3, JOINTS, 1) and (gate > 0).all() and (gate < 1).all()
    assert float(gate.detach().mean()) == pytest.approx(INITIAL_GATE, abs=0.15)
    fused = module.fuse(joints, crops, places)
    (fused * torch.randn_like(fused)).sum().backward()
    untouched = [name for name, size in gradients(module).items() if size == 0.0]
    # A softmax does not change when all its inputs grow by the same number.
    assert set(untouched) <= {"map_attention.key.bias", "deformable_attention.position_bias.4.bias"}


@pytest.mark.slow
@pytest.mark.parametrize("starts_open", [True, False])
def test_what_only_the_pixels_show_is_learned_if_the_gate_starts_open(starts_open):
    """All poses are the same; the hand is light or dark."""
    encoder = fusion_encoder().train()
    if not starts_open:
        for parameter in encoder.fusion.gate.parameters():
            nn.init.zeros_(parameter)
    head = nn.Linear(encoder.config.hidden_size, 2)
    optimizer = torch.optim.AdamW([*encoder.parameters(), *head.parameters()], lr=3e-3)
    is_light = torch.arange(8) % 2
    batch = pose_batch([4] * 8, [[[1], [2]]] * 8)
    batch["pose_values"] = batch["pose_values"][:1].expand(8, -1, -1, -1).contiguous()
    batch["hand_crop_keypoints"] = batch["hand_crop_keypoints"][:1].expand(8, -1, -1, -1, -1)
    for _ in range(40):
        shade = (2 * is_light - 1.0)[:, None, None, None, None, None]
        batch["hand_pixel_values"] = shade + 0.2 * torch.randn(8, 2, 1, 3, 32, 32)
        loss = nn.functional.cross_entropy(head(encoder(**batch).last_hidden_state.mean(1)), is_light)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    assert (loss < 0.1) if starts_open else (loss > 0.69)  # ln 2 is chance


# The deformable attention, against loops


def naive_sample(feature_map: torch.Tensor, x: float, y: float) -> torch.Tensor:
    """`(channels, height, width)` at x and y from 0 to 1, between the centres of the cells, bilinear."""
    _, height, width = feature_map.shape
    column, row = (min(max(at * size - 0.5, 0.0), size - 1.0) for at, size in ((x, width), (y, height)))
    left, top = math.floor(column), math.floor(row)
    right, bottom = min(left + 1, width - 1), min(top + 1, height - 1)
    a, b = column - left, row - top
    above = (1 - a) * feature_map[:, top, left] + a * feature_map[:, top, right]
    below = (1 - a) * feature_map[:, bottom, left] + a * feature_map[:, bottom, right]
    return (1 - b) * above + b * below


def naive_attention(layer: DeformableAttention, joints: torch.Tensor, feature_map: torch.Tensor, places: torch.Tensor):
    """One crop: `(joints, width)`, `(width, height, width)`, `(joints, 2)` -> `(joints, width)`, in loops."""
    size = WIDTH // NUM_HEADS
    height, width = feature_map.shape[1:]
    attended = torch.zeros(len(joints), WIDTH)
    for group in range(NUM_HEADS):
        part = slice(group * size, (group + 1) * size)
        to_query, to_key, to_value = (each.weight[part, :, 0] for each in (layer.query, layer.key, layer.value))
        queries = [to_query @ joint[part] for joint in joints]
        keys, values, looked_at = [], [], []
        for query, place in zip(queries, places, strict=True):
            hidden = nn.functional.gelu(layer.offsets[0].weight[:, 0, 0] * query + layer.offsets[0].bias)
            offset = LARGEST_OFFSET * torch.tanh(layer.offsets[2].weight[:, :, 0] @ hidden)
            x, y = float(place[0] + offset[0] / width), float(place[1] + offset[1] / height)
            seen = naive_sample(feature_map[part], x, y)
            keys.append(to_key @ seen)
            values.append(to_value @ seen)
            looked_at.append((x, y))
        for index, (query, place) in enumerate(zip(queries, places, strict=True)):
            scores = []
            for key, (x, y) in zip(keys, looked_at, strict=True):
                way = [2 * (float(place[0]) - x), 2 * (float(place[1]) - y)]
                way = torch.tensor([math.copysign(math.log(1 + abs(each)), each) for each in way])
                scores.append(query @ key / math.sqrt(size) + layer.position_bias(way)[0])
            weights = torch.stack(scores).softmax(0)
            attended[index, part] = sum(weight * value for weight, value in zip(weights, values, strict=True))
    return attended @ layer.output.weight[:, :, 0].T + layer.output.bias


@torch.no_grad()
def test_the_deformable_attention_is_what_loops_over_joints_and_groups_give():
    layer = DeformableAttention(WIDTH)
    for parameter in layer.parameters():
        parameter.copy_(torch.randn_like(parameter) * 0.5)
    joints, feature_map, places = torch.randn(2, JOINTS, WIDTH), torch.randn(2, WIDTH, 4, 3), torch.rand(2, JOINTS, 2)
    places[0, :3] = torch.tensor([[0.0, 0.0], [1.0, 1.0], [0.0, 1.0]])  # the corners, beyond the cells' centres
    found = layer(joints, feature_map, places)
    expected = torch.stack([naive_attention(layer, *each) for each in zip(joints, feature_map, places, strict=True)])
    assert torch.allclose(found, expected, atol=1e-4), (found - expected).abs().max()


@torch.no_grad()
def test_no_joint_looks_further_than_two_thirds_of_a_cell_from_its_place():
    layer = DeformableAttention(WIDTH)
    for parameter in layer.offsets.parameters():
        parameter.copy_(torch.randn_like(parameter) * 10)
    joints, feature_map, places = torch.randn(1, JOINTS, WIDTH), torch.randn(1, WIDTH, 4, 4), torch.rand(1, JOINTS, 2)
    looked_at = layer._looked_at(layer.query(joints.transpose(1, 2)), feature_map, places)
    distance = (looked_at - places[:, None]).abs().max()
    assert 0.9 * LARGEST_OFFSET / 4 < distance <= LARGEST_OFFSET / 4 + 1e-6


# In the encoder


@torch.no_grad()
def test_crops_change_tokens_near_their_frames_and_no_others():
    encoder = fusion_encoder()
    for name, parameter in encoder.fusion.named_parameters():
        if not name.startswith("backbone."):
            parameter.add_(torch.randn_like(parameter) * 0.1)
    batch = pose_batch([9, 6], [[[4], [-1]], [[-1], [-1]]])
    with_crops, alone = encoder(**batch).last_hidden_state, encoder(**pose_alone(batch)).last_hidden_state
    changed = (with_crops != alone).any(2)
    assert torch.equal(changed[0].nonzero()[:, 0], torch.arange(2, 7))  # the kernel over time sees five frames
    assert not changed[1].any()
    _, left, right, _ = (with_crops != alone)[0, 4].split(WIDTH)
    assert left.any() and not right.any()


@torch.no_grad()
def test_a_clip_with_crops_depends_on_no_other_clip_and_no_padding():
    encoder, batch = fusion_encoder(), two_clips()
    together = encoder(**batch).last_hidden_state
    for index, length in enumerate(batch["pose_attention_mask"].sum(1).tolist()):
        num_crops = int((batch["hand_frame_indices"][index] >= 0).sum(1).max())
        alone = {name: value[index : index + 1] for name, value in batch.items()}
        alone = {name: value[:, :, :num_crops] if name in CROPS else value[:, :length] for name, value in alone.items()}
        tokens = encoder(**alone).last_hidden_state
        assert torch.allclose(together[index, :length], tokens[0], atol=1e-5)
    assert not together[1, 4:].any()


def test_padding_enters_no_batch_norm_of_the_crops():
    encoder, batch = fusion_encoder().train(), two_clips()
    norm = encoder.fusion.backbone.features[0][1]
    encoder(**batch)
    expected = norm.running_mean.clone()
    norm.reset_running_stats()
    is_padding = batch["hand_frame_indices"] < 0
    batch["hand_pixel_values"][is_padding] = 1000.0
    encoder(**batch)
    assert torch.allclose(norm.running_mean, expected, atol=1e-6)


def gradients_of_processes(rank: int, num_processes: int, folder: str, batch: dict[str, torch.Tensor]) -> None:
    """Save the gradients of a batch of two clips, of which each of two processes has one."""
    torch.set_num_threads(1)
    if num_processes > 1:
        distributed.init_process_group("gloo", f"file://{folder}/meeting", rank=rank, world_size=num_processes)
        batch = {name: values[rank : rank + 1] for name, values in batch.items()}
    encoder = fusion_encoder()
    encoder.load_state_dict(torch.load(f"{folder}/weights.pt", weights_only=True))
    encoder.train()
    for module in encoder.modules():
        if isinstance(module, StochasticDepth):  # drawn by each process
            module.p = 0.0
    model = nn.parallel.DistributedDataParallel(encoder) if num_processes > 1 else encoder
    loss = model(**batch).last_hidden_state.square().sum() / 100 * num_processes
    loss.backward()
    if rank == 0:
        kept = {name: parameter.grad for name, parameter in encoder.named_parameters()}
        torch.save(kept, f"{folder}/gradients_{num_processes}.pt")
    if num_processes > 1:
        distributed.barrier()
        distributed.destroy_process_group()


@pytest.mark.slow
def test_a_process_whose_clips_show_no_hand_does_not_stop_the_others(tmp_path):
    torch.save(fusion_encoder().state_dict(), tmp_path / "weights.pt")
    batch = pose_batch([5, 5], [[[0, 3], [1, -1]], [[-1, -1], [-1, -1]]], size=64)
    gradients_of_processes(0, 1, str(tmp_path), batch)
    in_two_processes(gradients_of_processes, 2, str(tmp_path), batch)
    one, two = (torch.load(tmp_path / f"gradients_{number}.pt", weights_only=True) for number in (1, 2))
    compared = [name for name, gradient in one.items() if gradient.abs().max() > 1e-2]
    assert sum(name.startswith("fusion.") for name in compared) > 10
    for name in compared:
        assert torch.allclose(two[name], one[name], rtol=1e-2, atol=float(one[name].abs().max()) * 1e-2), name


def test_clips_without_any_hand_are_those_of_the_pose_alone():
    encoder = fusion_encoder().train()
    batch = pose_batch([5, 3], [[[-1], [-1]], [[-1], [-1]]])
    before = encoder.fusion.backbone.features[0][1].running_mean.clone()
    tokens = encoder(**batch).last_hidden_state
    assert torch.equal(encoder.fusion.backbone.features[0][1].running_mean, before)
    encoder.eval()
    assert torch.equal(encoder(**batch).last_hidden_state, encoder(**pose_alone(batch)).last_hidden_state)
    tokens.sum().backward()


@torch.no_grad()
def test_without_shapes_that_depend_on_the_data_it_computes_the_same():
    module, hands, batch = fusion(), torch.randn(2, 11, JOINTS, WIDTH), two_clips()
    crops = [batch[name] for name in CROPS]
    first_frames = torch.tensor([0, 7])
    expected = module(hands, first_frames, *crops)
    frames = crops[1] + first_frames[:, None, None]
    found = module._replace_all(hands, frames, crops[1] >= 0, crops[0], crops[2])
    assert (expected != hands).flatten(2).any(2).sum() == 6
    assert torch.allclose(found, expected, atol=1e-6)


@pytest.mark.slow
@torch.no_grad()
def test_it_can_be_exported():
    encoder, batch = fusion_encoder(), two_clips()
    exported = torch.export.export(encoder, (), kwargs=batch, strict=False).module()
    other = pose_batch([6, 7], [[[5, 0, -1], [-1, -1, -1]], [[6, 2, 4], [1, -1, -1]]])
    expected = encoder(**other).last_hidden_state
    assert torch.allclose(exported(**other).last_hidden_state, expected, atol=1e-5)


def test_long_clips_keep_their_frames_in_bfloat16():
    """Indices above 256 would be rounded in bfloat16, and places in the crop to 1/256."""
    encoder = fusion_encoder().to(torch.bfloat16)
    batch = pose_batch([300], [[[259], [-1]]])
    with torch.no_grad():
        with_crop, alone = encoder(**batch).last_hidden_state, encoder(**pose_alone(batch)).last_hidden_state
    assert with_crop.dtype == torch.bfloat16
    changed = (with_crop != alone).any(2)[0].nonzero()[:, 0].tolist()
    assert 259 in changed and set(changed) <= set(range(257, 262))


@torch.no_grad()
def test_places_stay_exact_under_autocast(monkeypatch):
    module, seen = fusion(), {}
    sample = nn.functional.grid_sample

    def watch(values, grid, **options):
        seen["dtypes"] = (values.dtype, grid.dtype)
        return sample(values, grid, **options)

    monkeypatch.setattr(nn.functional, "grid_sample", watch)
    joints, crops, places = fusion_inputs()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        found = module.fuse(joints, crops, places)
        code = module.coordinate_code(places)
    assert seen["dtypes"] == (torch.float32, torch.float32)
    assert torch.equal(code, module.coordinate_code(places))
    assert torch.allclose(found, module.fuse(joints, crops, places), atol=0.1)


def test_saving_and_loading_keep_the_random_frequencies(tmp_path):
    encoder, batch = fusion_encoder(), two_clips()
    encoder.save_pretrained(tmp_path)
    loaded = UniSignPoseEncoder.from_pretrained(tmp_path)
    assert torch.equal(loaded.fusion.coordinate_code.frequencies, encoder.fusion.coordinate_code.frequencies)
    with torch.no_grad():
        assert torch.equal(loaded(**batch).last_hidden_state, encoder(**batch).last_hidden_state)


def test_the_weights_of_a_new_fusion_are_those_of_the_description():
    module = UniSignPoseEncoder(UniSignPoseConfig(rgb_fusion=True)).fusion
    shapes = {name: tuple(value.shape) for name, value in module.state_dict().items() if "backbone." not in name}
    assert shapes["projection.weight"] == (256, 1280, 1, 1)
    assert shapes["coordinate_code.frequencies"] == (2, 128)
    assert shapes["deformable_attention.query.weight"] == (256, 32, 1)
    assert shapes["deformable_attention.offsets.0.weight"] == (32, 1, 1)
    assert shapes["deformable_attention.offsets.2.weight"] == (2, 32, 1)
    assert shapes["gate.hidden.weight"] == (256, 512, 1) and shapes["gate.output.weight"] == (1, 256, 1)
    assert sum(value.numel() for value in module.backbone.parameters()) == 4_007_548  # torchvision, without classifier
    depthwise = module.backbone.features[2][0].block[1][0].weight  # kernels of 3 x 3; torchvision counts 96 groups
    assert float(depthwise.detach().std()) == pytest.approx(math.sqrt(2 / (96 * 9)), rel=0.1)
    query = module.deformable_attention.query.weight
    assert float(query.detach().std()) == pytest.approx(1 / math.sqrt(3 * 32), rel=0.1)
    assert float(module.map_attention.query.weight.detach().std()) == pytest.approx(0.02, rel=0.1)
    assert float(module.coordinate_code.frequencies.std()) == pytest.approx(1.0, abs=0.3)
    assert float(module.gate.output.bias.detach()) == pytest.approx(math.atanh(INITIAL_GATE))


def test_a_trained_encoder_gets_a_new_fusion_and_keeps_its_weights(tmp_path):
    encoder = UniSignPoseEncoder(UniSignPoseConfig(spatial_widths=[8, WIDTH], temporal_layers=1)).eval()
    before, batch = {name: value.clone() for name, value in encoder.state_dict().items()}, two_clips()
    alone = encoder(**pose_alone(batch)).last_hidden_state
    encoder.add_fusion()
    encoder.eval()
    assert all(torch.equal(encoder.state_dict()[name], value) for name, value in before.items())
    assert torch.equal(encoder(**pose_alone(batch)).last_hidden_state, alone)
    assert float(encoder.fusion.gate.output.bias.detach()) == pytest.approx(math.atanh(INITIAL_GATE))
    encoder.save_pretrained(tmp_path)
    loaded = UniSignPoseEncoder.from_pretrained(tmp_path)
    assert loaded.config.rgb_fusion and loaded.input_names == encoder.input_names
    found = loaded(**batch).last_hidden_state
    assert torch.equal(found, encoder(**batch).last_hidden_state) and not torch.equal(found, alone)
    with pytest.raises(ValueError, match="has a prior-guided fusion already"):
        encoder.add_fusion()


def test_the_fusion_changes_no_initial_value_of_the_pose_encoder():
    encoders = []
    for rgb_fusion in (False, True):
        torch.manual_seed(0)
        encoders.append(UniSignPoseEncoder(UniSignPoseConfig(rgb_fusion=rgb_fusion)))
    for name, value in encoders[0].named_parameters():
        found, expected = encoders[1].get_parameter(name).detach().std(), value.detach().std()
        assert torch.allclose(found, expected, rtol=0.25, atol=2e-3), name


def test_an_encoder_without_fusion_has_none_of_its_weights():
    encoder = UniSignPoseEncoder(UniSignPoseConfig(spatial_widths=[8], temporal_layers=0))
    assert encoder.input_names == ("pose_values", "pose_attention_mask")
    assert not any(name.startswith("fusion.") for name in encoder.state_dict())
    assert fusion_encoder().input_names == (*encoder.input_names, *CROPS)


@pytest.mark.parametrize(
    "changes, message",
    [
        (
            {"hand_frame_indices": torch.tensor([[[0], [1]], [[4], [-1]]])},
            "`hand_frame_indices` must be below the number of frames of each clip, got 4 for clip 1 of the batch, "
            "which has 4.",
        ),
        (
            {"hand_frame_indices": torch.tensor([[[0], [1]], [[3], [-1]]]).bfloat16()},
            "`hand_frame_indices` must be int64 of the shape (batch, hands, crops) = (2, 2, 1), got torch.bfloat16 "
            "(2, 2, 1).",
        ),
        (
            {"hand_pixel_values": torch.zeros(2, 2, 1, 32, 32, 3)},
            "`hand_pixel_values` must have the shape (batch, hands, crops, 3, height, width) = (2, 2, crops, 3, "
            "height, width), got (2, 2, 1, 32, 32, 3).",
        ),
        (
            {"hand_pixel_values": torch.zeros(2, 2, 1, 3, 32, 32, dtype=torch.uint8)},
            "`hand_pixel_values` must be normalised floating point crops, got torch.uint8.",
        ),
        (
            {"hand_crop_keypoints": torch.zeros(2, 2, 1, 20, 2)},
            "`hand_crop_keypoints` must have the shape (batch, hands, crops, joints, 2) = (2, 2, 1, 21, 2), got (2, 2, "
            "1, 20, 2).",
        ),
        (
            {"hand_crop_keypoints": None},
            "Hand crops are `hand_pixel_values`, `hand_frame_indices`, `hand_crop_keypoints`, got only "
            "`hand_pixel_values` and `hand_frame_indices`.",
        ),
    ],
)
def test_crops_that_do_not_fit_are_refused(changes, message):
    batch = pose_batch([5, 4], [[[0], [1]], [[3], [-1]]])
    with pytest.raises(ValueError, match=re.escape(message)):
        fusion_encoder()(**batch | changes)


def test_an_encoder_without_fusion_refuses_crops():
    encoder = UniSignPoseEncoder(UniSignPoseConfig(spatial_widths=[8], temporal_layers=0))
    message = "This encoder takes no hand crops, as `rgb_fusion` is off, got `hand_pixel_values`."
    with pytest.raises(ValueError, match=re.escape(message)):
        encoder(**two_clips())
    with pytest.raises(ValueError, match="`rgb_fusion` is off"):
        encoder.load_imagenet_weights()


def test_a_width_that_the_heads_cannot_share_is_refused():
    message = "the last of `spatial_widths` must be a multiple of 8, as its attention has 8 heads, got 12."
    with pytest.raises(ValueError, match=re.escape(message)):
        UniSignPoseConfig(spatial_widths=[12], rgb_fusion=True)
    UniSignPoseConfig(spatial_widths=[12])


# In a whole model


def test_a_whole_model_takes_crops_in_training_and_generation():
    model = tiny_uni_sign(vision={"spatial_widths": [8, WIDTH], "rgb_fusion": True})
    batch = {**two_clips(), "prompt_ids": torch.randint(4, 30, (2, 3))}
    assert len(model.generate(**batch, num_beams=2, max_new_tokens=3)) == 2
    labels = torch.randint(4, 30, (2, 5))
    loss = model(**batch, labels=labels).loss
    assert loss != model(**pose_alone(batch), labels=labels).loss
    loss.backward()
    assert all(parameter.grad is not None for parameter in model.vision_model.fusion.gate.parameters())
