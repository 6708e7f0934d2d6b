"""Uni-Sign's pose encoder, alone, against layers written out with loops, and in all translation models."""

import copy
from pathlib import Path

import pytest
import torch
import torch.distributed as distributed
from tiny_models import (
    VIDEO_TOKEN,
    assert_gradients_close,
    draw_batch_norm_statistics,
    error_texts,
    gradients_of,
    random_pose_batch,
    random_prompts,
    state_of,
    tiny_language_model_config,
    tiny_pose_encoder,
    tiny_text_config,
)
from torch.testing import assert_close
from two_processes import in_two_processes
from uni_sign_layers import PublishedPoseModel
from without_our_packages import run_without_our_packages

from modeling_flallm import (
    FLaLLMConfig,
    FLaLLMForTranslation,
    LlavaSltConfig,
    LlavaSltForTranslation,
    UniSignPoseConfig,
    UniSignPoseEncoder,
)
from modeling_flallm.batch_norm_slt import WarmedUpBatchNorm1d, running_statistics_kept
from modeling_flallm.encoder_poses_slt import skeleton_adjacency
from modeling_flallm.encoders_slt import load_sign_encoder

LENGTHS = [9, 5, 1]
# The published name of a part, ours and, for hands, both.
OUR_PARTS = {"body": "body", "left": "hand", "face_all": "face"}


def poses_of(batch: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    return {name: batch[name] for name in UniSignPoseEncoder.input_names}


def with_garbage(batch: dict[str, torch.Tensor], more_frames: int = 3) -> dict[str, torch.Tensor]:
    values = torch.nn.functional.pad(batch["pose_values"], (0, 0, 0, 0, 0, more_frames))
    mask = torch.nn.functional.pad(batch["pose_attention_mask"], (0, more_frames))
    garbage = 1e4 * torch.randn_like(values)
    return {"pose_values": torch.where(mask[..., None, None] == 1, values, garbage), "pose_attention_mask": mask}


# ------------------------------------------------------------------------------------------ what it computes


def test_it_has_as_many_parameters_as_described():
    encoder = UniSignPoseEncoder(UniSignPoseConfig())
    assert sum(parameter.numel() for parameter in encoder.parameters()) == 4_558_888
    assert encoder.config.hidden_size == 1024


@pytest.mark.parametrize("part", ["body", "hand", "face"])
def test_the_adjacency_starts_from_the_skeleton(part):
    itself, neighbours = skeleton_adjacency(part)
    assert torch.equal(itself, torch.diag(itself.diagonal())) and not neighbours.diagonal().any()
    assert_close((itself + neighbours).sum(0), torch.ones(len(itself)))
    lines = [(int(first), int(second)) for first, second in neighbours.nonzero() if first < second]
    trees = {"body": 8, "hand": 20, "face": 8 + 8 + 17}
    assert len(lines) == trees[part]
    degrees = torch.tensor([1 + sum(point in line for line in lines) for point in range(len(itself))])
    assert_close(itself.diagonal(), 1 / degrees)
    if part == "hand":
        assert {first for first, second in lines if second % 4 == 1} == {0}  # the fingers begin at the wrist
        assert (3, 4) in lines and (4, 5) not in lines and (0, 17) in lines


def test_it_is_equal_to_layers_written_out():
    published = PublishedPoseModel([4, 6], num_temporal=2, kernel=3).double().eval()
    draw_batch_norm_statistics(published)
    encoder = UniSignPoseEncoder(UniSignPoseConfig(spatial_widths=[4, 6], temporal_layers=2, temporal_kernel_size=3))
    encoder = encoder.double().eval()
    copy_by_hand(published, encoder)
    batch = random_pose_batch(LENGTHS)
    poses = batch["pose_values"].double()
    tokens = encoder(poses, batch["pose_attention_mask"]).last_hidden_state
    for row, length in enumerate(LENGTHS):
        expected = published.tokens(poses[row : row + 1, :length])[0]
        assert_close(tokens[row, :length], expected, atol=1e-9, rtol=1e-9)
    weights = torch.randn_like(tokens)
    (weights * tokens).sum().backward()
    for row, length in enumerate(LENGTHS):
        (weights[row : row + 1, :length] * published.tokens(poses[row : row + 1, :length])).sum().backward()
    for name, ours in OUR_PARTS.items():
        assert_close(encoder.parts[ours].projection.weight.grad, published.proj_linear[name].weight.grad)
        for block, layer in zip(encoder.parts[ours].spatial_blocks, published.gcn_modules[name].values(), strict=True):
            assert_close(block.graph_convolution.adjacency.grad, layer.gcn.A.grad)


def copy_by_hand(published: PublishedPoseModel, encoder: UniSignPoseEncoder) -> None:
    def copy(target: torch.nn.Module, source: torch.nn.Module) -> None:
        target.load_state_dict(
            {name: value.reshape(target.state_dict()[name].shape) for name, value in source.state_dict().items()}
        )

    for name, ours in OUR_PARTS.items():
        part = encoder.parts[ours]
        copy(part.projection, published.proj_linear[name])
        for blocks, layers in (
            (part.spatial_blocks, published.gcn_modules[name]),
            (part.temporal_blocks, published.fusion_gcn_modules[name]),
        ):
            for block, layer in zip(blocks, layers.values(), strict=True):
                graph = {"adjacency": layer.gcn.A, "weight": layer.gcn.conv.weight, "bias": layer.gcn.conv.bias}
                for key, value in graph.items():
                    target = getattr(block.graph_convolution, key)
                    target.data.copy_(value.reshape(target.shape))
                copy(block.norm, layer.gcn.bn)
                if block.temporal_convolution is not None:
                    copy(block.temporal_convolution, layer.tcn[0])
                    copy(block.temporal_norm, layer.tcn[1])
                if block.shortcut is not None:
                    copy(block.shortcut, layer.residual[0])
                    copy(block.shortcut_norm, layer.residual[1])
    encoder.token_bias.data.copy_(published.part_para)


def test_the_body_reaches_hands_and_face_without_a_gradient():
    encoder = tiny_pose_encoder(temporal_layers=0)
    width = encoder.config.spatial_widths[-1]
    poses = torch.rand(1, 4, 69, 3, requires_grad=True)
    tokens = encoder(poses).last_hidden_state
    (gradient,) = torch.autograd.grad(tokens[..., width:].square().sum(), poses)
    assert not gradient[:, :, :9].any() and gradient[:, :, 9:].any()
    for block in encoder.parts["body"].spatial_blocks:  # no lines: each point of the body sees itself alone
        block.graph_convolution.adjacency.data.copy_(torch.stack([torch.eye(9), torch.zeros(9, 9)]))
    changed = {}
    for name, point in {"nose": 0, "left wrist": 7, "right wrist": 8}.items():
        moved = torch.rand(1, 4, 69, 3).repeat(50, 1, 1, 1)  # to many places, as ReLU may hide a few
        moved[1:, :, point] = 4 * torch.randn(49, 1, 3)
        states = encoder(moved).last_hidden_state
        difference = (states[1:] - states[:1]).abs().sum((0, 1)).split(width)
        changed[name] = [bool(each.sum() > 1e-4) for each in difference]
    assert changed == {
        "nose": [True, False, False, True],
        "left wrist": [True, True, False, False],
        "right wrist": [True, False, True, False],
    }


# ------------------------------------------------------------------------------------------ properties of all encoders


def test_a_clip_does_not_depend_on_its_neighbours_or_padding():
    encoder, batch = tiny_pose_encoder(), poses_of(random_pose_batch(LENGTHS))
    together = encoder(**batch)
    garbage = encoder(**with_garbage(batch))
    assert_close(garbage.last_hidden_state[:, : max(LENGTHS)], together.last_hidden_state, atol=1e-5, rtol=1e-5)
    for row, length in enumerate(LENGTHS):
        alone = encoder(batch["pose_values"][row : row + 1, :length]).last_hidden_state[0]
        assert_close(together.last_hidden_state[row, :length], alone, atol=1e-5, rtol=1e-5)
        assert not together.last_hidden_state[row, length:].any()
        assert together.attention_mask[row].sum() == length == encoder.get_num_tokens(length)


def test_padding_enters_neither_statistics_nor_gradients():
    encoder, batch = tiny_pose_encoder().double(), poses_of(random_pose_batch(LENGTHS))
    batch = {name: value.double() if value.is_floating_point() else value for name, value in batch.items()}
    encoder.train()
    before, results = state_of(encoder), []
    for inputs in (batch, with_garbage(batch)):
        encoder.load_state_dict(before)
        encoder.zero_grad()
        encoder(**inputs).last_hidden_state.square().sum().backward()
        results.append((state_of(encoder), gradients_of(encoder)))
    assert_close(results[0][0], results[1][0])
    assert any(not torch.equal(before[name], value) for name, value in results[0][0].items())
    assert_gradients_close(results[1][1], results[0][1])


def train_a_part_of_the_batch(rank: int, folder: Path) -> None:
    """Runs in each of two processes: the first clip, or the others, against the step of one process with all."""
    torch.set_num_threads(1)
    distributed.init_process_group("gloo", init_method=f"file://{folder}/rendezvous", rank=rank, world_size=2)
    weights, batch, expected = torch.load(folder / "given.pt", weights_only=True)
    encoder = tiny_pose_encoder().double()
    encoder.load_state_dict(weights)
    part = slice(0, 1) if rank == 0 else slice(1, None)
    length = int(batch["pose_attention_mask"][part].sum(1).max())
    own = {name: value[part, :length] for name, value in batch.items()}
    encoder.train()(**own).last_hidden_state.square().sum().backward()
    gradients = gradients_of(encoder)
    for gradient in gradients.values():
        distributed.all_reduce(gradient)
    assert_gradients_close(gradients, expected["gradients"])
    assert_close(encoder.state_dict(), expected["state"])
    distributed.destroy_process_group()


@pytest.mark.slow
def test_two_processes_train_as_one(tmp_path):
    encoder, batch = tiny_pose_encoder().double(), poses_of(random_pose_batch(LENGTHS))
    batch["pose_values"] = batch["pose_values"].double()
    whole = copy.deepcopy(encoder).train()
    whole(**batch).last_hidden_state.square().sum().backward()
    expected = {"gradients": gradients_of(whole), "state": state_of(whole)}
    torch.save((encoder.state_dict(), batch, expected), tmp_path / "given.pt")
    in_two_processes(train_a_part_of_the_batch, tmp_path)


def test_it_is_frozen_whole():
    encoder = tiny_pose_encoder()
    encoder.freeze()
    before = state_of(encoder)
    output = encoder.train()(**poses_of(random_pose_batch(LENGTHS))).last_hidden_state
    assert not output.requires_grad and encoder.features_are_frozen
    assert_close(state_of(encoder), before, atol=0, rtol=0)


def test_it_is_saved_and_loaded_equal(tmp_path):
    encoder, batch = tiny_pose_encoder(), poses_of(random_pose_batch(LENGTHS))
    encoder.save_pretrained(tmp_path)
    for loaded in (UniSignPoseEncoder.from_pretrained(tmp_path), load_sign_encoder(str(tmp_path), "")):
        assert_close(loaded(**batch).last_hidden_state, encoder(**batch).last_hidden_state, atol=0, rtol=0)


def test_running_statistics_begin_with_the_first_batches():
    """As a plain mean, until the moving average counts a batch more; then as torch's, also after loading."""
    norm, plain = WarmedUpBatchNorm1d(3), torch.nn.BatchNorm1d(3)
    batches = [torch.randn(20, 3) * 1e-3 + 5 for _ in range(13)]
    for count, batch in enumerate(batches, start=1):
        norm(batch)
        if count <= 10:
            assert_close(norm.running_mean, torch.stack(batches[:count]).mean((0, 1)))
            assert_close(norm.running_var, torch.stack([each.var(0) for each in batches[:count]]).mean(0))
            plain.load_state_dict(norm.state_dict())
        else:
            plain(batch)
            assert_close(norm.state_dict(), plain.state_dict())
    assert norm.momentum == 0.1
    again = WarmedUpBatchNorm1d(3)
    again.load_state_dict(norm.state_dict())
    again(batches[0]), plain(batches[0])
    assert_close(again.state_dict(), plain.state_dict())
    kept = state_of(new := WarmedUpBatchNorm1d(3))
    with running_statistics_kept(new):
        new(batches[0])
    assert_close(state_of(new), kept, atol=0, rtol=0)


def test_a_new_one_starts_as_described():
    encoder = UniSignPoseEncoder(UniSignPoseConfig())
    for name, part in encoder.parts.items():
        assert 0.27 < part.projection.weight.std() < 0.4 and not part.projection.bias.any()
        for block in [*part.spatial_blocks, *part.temporal_blocks]:
            assert_close(block.graph_convolution.adjacency.data, skeleton_adjacency(name))
            layers = [block.graph_convolution.weight[0], block.graph_convolution.weight[1]]
            layers += [each.weight for each in (block.temporal_convolution, block.shortcut) if each is not None]
            for weight in layers:
                assert_close(weight.std().item() * (3 * weight[0].numel()) ** 0.5, 1.0, atol=0.1, rtol=0)
    assert not encoder.token_bias.any()


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_it_runs_in_half_precision(dtype):
    encoder, batch = tiny_pose_encoder(), poses_of(random_pose_batch(LENGTHS))
    expected = encoder(**batch).last_hidden_state
    halved = encoder.to(dtype)(**batch).last_hidden_state
    assert halved.dtype == dtype
    assert_close(halved.float(), expected, atol=0.1 * expected.abs().max().item(), rtol=0)


def test_it_trains_under_autocast():
    encoder, batch = tiny_pose_encoder().train(), poses_of(random_pose_batch(LENGTHS))
    with torch.autocast("cpu", torch.bfloat16):
        encoder(**batch).last_hidden_state.float().square().mean().backward()
    assert all(value.isfinite().all() for value in gradients_of(encoder).values())
    assert gradients_of(encoder).keys() == {name for name, _ in encoder.named_parameters()}


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
def test_an_exported_one_takes_clips_of_other_lengths():
    encoder = tiny_pose_encoder()
    dimensions = {0: torch.export.Dim.DYNAMIC, 1: torch.export.Dim.DYNAMIC}
    shapes = dict.fromkeys(UniSignPoseEncoder.input_names, dimensions)
    with torch.no_grad():
        first, others = (poses_of(random_pose_batch(lengths)) for lengths in ([12, 9], [16, 6, 1]))
        program = torch.export.export(encoder, (), first, strict=False, dynamic_shapes=shapes)
        assert_close(program.module()(**others)[0], encoder(**others)[0], atol=1e-5, rtol=1e-5)


# ------------------------------------------------------------------------------------------ what it refuses


def test_wrong_inputs_are_refused():
    encoder, mask = tiny_pose_encoder(), torch.ones(2, 5, dtype=torch.long)
    expected = "`pose_values` must be floating point of the shape (batch, frames, 69, 3), got torch.float32 (2, 5, 133,"
    with error_texts(expected):
        encoder(torch.randn(2, 5, 133, 3))
    with error_texts("got torch.int64 (2, 5, 69, 3). PoseFeatureExtractor makes it from poses."):
        encoder(torch.ones(2, 5, 69, 3, dtype=torch.long))
    with error_texts("`pose_attention_mask` must have the shape (batch, frames) = (2, 6), got (2, 5)."):
        encoder(torch.randn(2, 6, 69, 3), mask)
    mask[1, 2] = 0
    with error_texts("`pose_attention_mask` must be 1 up to the end of each clip and 0 after it."):
        encoder(torch.randn(2, 5, 69, 3), mask)
    mask[1] = 0
    with error_texts("Clip 1 of the batch is too short: it has 0 frames after sampling"):
        encoder(torch.randn(2, 5, 69, 3), mask)


@pytest.mark.parametrize(
    ("values", "text"),
    [
        ({"spatial_widths": []}, "`spatial_widths` must be one or more numbers of channels, each 1 or more, got []."),
        ({"spatial_widths": [8, 0]}, "each 1 or more, got [8, 0]."),
        ({"temporal_layers": -1}, "`temporal_layers` must be 0 or more, got -1."),
        ({"temporal_kernel_size": 4}, "`temporal_kernel_size` must be an odd number, got 4."),
    ],
)
def test_wrong_sizes_are_refused(values, text):
    with error_texts(text):
        UniSignPoseConfig(**values)


def test_the_width_of_a_token_follows_the_widths():
    config = UniSignPoseConfig(spatial_widths=[8, 16], hidden_size=3)
    assert config.hidden_size == 64
    assert UniSignPoseConfig.from_dict(config.to_dict()).to_dict() == config.to_dict()


# ------------------------------------------------------------------------------------------ in translation models


def flallm_on_poses():
    config = FLaLLMConfig(vision_config=tiny_pose_encoder().config, text_config=tiny_text_config("mt5"))
    return FLaLLMForTranslation(config).eval(), random_pose_batch(LENGTHS)


def llava_slt_on_poses():
    text = tiny_language_model_config("llama")
    config = LlavaSltConfig(
        vision_config=tiny_pose_encoder().config, text_config=text, video_token_id=VIDEO_TOKEN, connector_hidden_size=16
    )
    prompts = random_prompts(LENGTHS, answer_lengths=[4] * len(LENGTHS), stride=1)
    texts = {name: prompts[name] for name in ("input_ids", "attention_mask", "labels")}
    return LlavaSltForTranslation(config).eval(), poses_of(random_pose_batch(LENGTHS)) | texts


every_system = pytest.mark.parametrize("make", [flallm_on_poses, llava_slt_on_poses])


@every_system
def test_a_translation_model_trains_writes_and_loads(make, tmp_path):
    model, batch = make()
    expected = model(**batch).logits
    assert model.generate(**batch, max_new_tokens=3).shape[0] == len(LENGTHS)
    model.save_pretrained(tmp_path)
    assert_close(type(model).from_pretrained(tmp_path)(**batch).logits, expected, atol=1e-5, rtol=1e-5)
    encoder = load_sign_encoder(str(tmp_path), "")
    assert_close(state_of(encoder), state_of(model.vision_model), atol=0, rtol=0)
    model.train()(**batch).loss.backward()
    gradients = gradients_of(model.vision_model)
    assert gradients.keys() == {name for name, _ in model.vision_model.named_parameters()}
    with error_texts("The sign encoder of this model, UniSignPoseEncoder, takes `pose_values` and `pose_attention_"):
        model(pixel_values_videos=torch.randn(3, 5, 3, 8, 8), labels=batch["labels"])


LOAD_WITHOUT_US = """
import sys
import torch
from transformers import AutoModel

folder = sys.argv[1]
encoder = AutoModel.from_pretrained(folder, trust_remote_code=True).eval()
torch.save(encoder(**torch.load(folder + "/clips.pt", weights_only=True)).last_hidden_state, folder + "/hidden.pt")
"""


@pytest.mark.slow
def test_it_loads_without_our_package(tmp_path):
    encoder, batch = tiny_pose_encoder(), poses_of(random_pose_batch(LENGTHS))
    encoder.save_pretrained(tmp_path / "encoder")
    torch.save(batch, tmp_path / "encoder" / "clips.pt")
    run_without_our_packages(LOAD_WITHOUT_US, str(tmp_path / "encoder"), folder=tmp_path)
    hidden = torch.load(tmp_path / "encoder" / "hidden.pt", weights_only=True)
    assert_close(hidden, encoder(**batch).last_hidden_state.detach(), atol=1e-5, rtol=1e-5)
