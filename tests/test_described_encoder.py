"""The sign encoder with a description mapper: its tokens and its loss, alone and with others, padding, processes."""

import pytest
import torch
from described_processes import gradients_of_a_part
from test_combined_encoders import batch_for, every_system, model_of, pretrained
from test_combined_encoders import drawn as drawn_weights
from test_pretrained_vision import clips
from tiny_models import (
    assert_gradients_close,
    error_texts,
    gradients_of,
    random_pose_batch,
    state_of,
    tiny_pose_encoder,
    tiny_vision_config,
    video_of,
    with_garbage_in_the_padding,
)
from tiny_vision_models import needs_traceable_configurations
from torch.testing import assert_close
from two_processes import in_two_processes

from modeling_flallm import DescribedConfig, DescribedEncoder, FLaLLMVisionConfig, FLaLLMVisionModel
from modeling_flallm.configuration_encoder_combined_slt import SideBySideConfig, TemporalConfig
from modeling_flallm.encoder_described_slt import described_encoder_of
from modeling_flallm.encoders_slt import (
    build_sign_encoder,
    load_sign_encoder,
    put_in_front_of_a_mapper,
    put_in_front_of_time,
)
from modeling_flallm.losses_slt import mean_over_processes
from modeling_flallm.sign_encoder_slt import num_tokens_after

LENGTHS = [9, 5, 2]
WIDTH = 6  # of a description
FRAMES = {"temporal_blocks": [], "hidden_size": 64}


def described(config, **values) -> DescribedConfig:
    return DescribedConfig(encoder_config=config, **{"description_size": WIDTH, "mapper_hidden_size": 10, **values})


CONFIGS = {
    "frames": lambda: described(tiny_vision_config(**FRAMES)),
    "frames and time": lambda: described(tiny_vision_config(temporal_blocks=["K5", "P2"])),
    "padded by the ends": lambda: described(
        tiny_vision_config(temporal_blocks=["K5", "P2", "K5", "P2"], temporal_padding="replicate")
    ),
    "image model": lambda: described(pretrained("vit")),
    "video model": lambda: described(pretrained("videomae", window_stride=2)),
    "patches": lambda: described(pretrained("dinov2", pooling="patches")),
    "in front of time": lambda: TemporalConfig(
        encoder_config=described(tiny_vision_config(**FRAMES)), temporal_blocks=["K5", "P2"], hidden_size=16
    ),
    "side by side": lambda: SideBySideConfig(
        encoder_configs=[pretrained("vit"), described(pretrained("videomae", window_stride=3))]
    ),
}
every_encoder = pytest.mark.parametrize("name", CONFIGS)


def encoder_of(name: str):
    """In evaluation mode."""
    return drawn_weights(build_sign_encoder(CONFIGS[name]()))


def descriptions_of(mask: torch.Tensor, width: int = WIDTH) -> dict[str, torch.Tensor]:
    """Of two of three real frames."""
    is_described = mask.bool() & (torch.rand(mask.shape) < 0.67)
    is_described[:, 0] = True
    embeddings = torch.randn(*mask.shape, width) * is_described[..., None]
    return {"description_embeddings": embeddings, "description_attention_mask": is_described.long()}


def described_clips(lengths=LENGTHS) -> dict[str, torch.Tensor]:
    batch = clips(lengths)
    return {**batch, **descriptions_of(batch["pixel_attention_mask"])}


def in_double(batch: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    return {name: values.double() if values.is_floating_point() else values for name, values in batch.items()}


def without_descriptions(batch: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    return {name: values for name, values in batch.items() if not name.startswith("description")}


def loss_of(encoder, batch) -> torch.Tensor:
    return encoder(**batch).losses["description_mapper"]


def loss_by_hand(encoder: DescribedEncoder, batch: dict[str, torch.Tensor]) -> torch.Tensor:
    """The frame nearest to the centre of each token, one after the other."""
    output = encoder(**without_descriptions(batch))
    predictions = output.last_hidden_state[..., -WIDTH:]
    centre, spacing = encoder.get_centre_and_spacing()
    lengths = next(values for name, values in batch.items() if name in encoder.input_names[1:2]).sum(1).tolist()
    errors = []
    for clip, length in enumerate(lengths):
        for token in range(int(output.attention_mask[clip].sum())):
            distances = [abs(frame - centre - spacing * token) for frame in range(length)]
            nearest = next(frame for frame, each in enumerate(distances) if each < min(distances) + 1e-5)
            if batch["description_attention_mask"][clip, nearest]:
                target = batch["description_embeddings"][clip, nearest]
                errors.append((predictions[clip, token] - target).square().mean())
    return encoder.config.mapper_loss_weight * torch.stack(errors).mean()


# ------------------------------------------------------------------------------------------ properties of all


@every_encoder
def test_neither_tokens_nor_loss_depend_on_padding_and_tokens_not_on_neighbours(name):
    encoder, batch = encoder_of(name).double(), in_double(described_clips())
    mask = batch["description_attention_mask"]
    together = encoder(**batch)
    garbage = with_garbage_in_the_padding(batch)
    longer = garbage["pixel_attention_mask"].shape[1] - mask.shape[1]
    is_described = torch.nn.functional.pad(mask, (0, longer))
    embeddings = torch.nn.functional.pad(batch["description_embeddings"], (0, 0, 0, longer))
    noise = 1e30 * torch.randn_like(embeddings)  # its square is infinite in float32
    garbage |= {
        "description_embeddings": torch.where(is_described[..., None] == 1, embeddings, noise),
        "description_attention_mask": torch.where(garbage["pixel_attention_mask"] == 1, is_described, 1),
    }
    output = encoder(**garbage)
    tokens = output.last_hidden_state.split(together.last_hidden_state.shape[1], dim=1)
    assert_close(tokens[0], together.last_hidden_state, atol=1e-4, rtol=1e-4)
    assert not any(each.any() for each in tokens[1:])
    assert_close(output.losses, together.losses, atol=1e-5, rtol=1e-4)
    for index, length in enumerate(LENGTHS):
        alone = encoder(batch["pixel_values_videos"][index : index + 1, :length]).last_hidden_state[0]
        assert_close(together.last_hidden_state[index, : len(alone)], alone, atol=1e-4, rtol=1e-4)
        assert not together.last_hidden_state[index, len(alone) :].any()
        assert together.attention_mask[index].sum() == len(alone) == encoder.get_num_tokens(length)


def test_garbage_in_the_padding_gives_no_gradient_that_is_no_number():
    encoder, batch = encoder_of("frames"), described_clips()
    expected = gradients_after(encoder, batch)
    is_described = batch["description_attention_mask"][..., None] == 1
    noise = 1e30 * torch.randn_like(batch["description_embeddings"])
    noise[0, 0, 0] = torch.inf
    batch["description_embeddings"] = torch.where(is_described, batch["description_embeddings"], noise)
    assert_gradients_close(gradients_after(encoder, batch), expected)


def gradients_after(encoder, batch) -> dict[str, torch.Tensor]:
    encoder.zero_grad()
    loss_of(encoder, batch).backward()
    return gradients_of(encoder)


@every_encoder
def test_descriptions_change_no_token_and_without_them_there_is_no_loss(name):
    encoder, batch = encoder_of(name), described_clips()
    with_them, without = encoder(**batch), encoder(**without_descriptions(batch))
    assert torch.equal(with_them.last_hidden_state, without.last_hidden_state)
    assert with_them.losses.keys() == {"description_mapper"} and without.losses is None


@every_encoder
def test_the_number_of_tokens_and_features_is_that_of_the_formula(name):
    encoder = encoder_of(name)
    for length in range(encoder.get_min_num_frames(), 11):
        batch = described_clips([length])
        num_tokens = encoder(**batch).last_hidden_state.shape[1]
        features = encoder.compute_features(**batch).last_hidden_state
        assert num_tokens == encoder.get_num_tokens(length) == num_tokens_after(encoder.get_token_steps(), length)
        assert features.shape[1:] == (encoder.get_num_features(length), encoder.features_size)
        assert num_tokens_after(encoder.get_token_steps_of_features(), features.shape[1]) == num_tokens


@every_encoder
def test_forward_is_features_then_tokens(name):
    encoder, batch = encoder_of(name), described_clips()
    features = encoder.compute_features(**batch)
    tokens = encoder.encode_features(features.last_hidden_state, features.attention_mask)
    expected = encoder(**batch)
    assert_close(tokens.last_hidden_state, expected.last_hidden_state)
    assert torch.equal(tokens.attention_mask, expected.attention_mask) and tokens.losses is None


@every_encoder
def test_frozen_means_neither_weights_nor_buffers_change_and_nothing_is_to_be_learnt(name):
    encoder = encoder_of(name)
    encoder.freeze()
    before = state_of(encoder)
    output = encoder.train()(**described_clips())
    assert not output.last_hidden_state.requires_grad and output.losses is None
    assert not any(module.training for module in encoder.modules()) and encoder.features_are_frozen
    assert_close(state_of(encoder), before, atol=0, rtol=0)


@every_encoder
def test_a_saved_encoder_gives_the_same(name, tmp_path):
    encoder, batch = encoder_of(name), described_clips()
    encoder.save_pretrained(tmp_path)
    for loaded in (type(encoder).from_pretrained(tmp_path), load_sign_encoder(str(tmp_path), "")):
        assert_close(state_of(loaded), state_of(encoder), atol=0, rtol=0)
        output, expected = loaded(**batch), encoder(**batch)
        assert_close(output.last_hidden_state, expected.last_hidden_state, atol=0, rtol=0)
        assert_close(output.losses, expected.losses, atol=0, rtol=0)


@pytest.mark.slow
@needs_traceable_configurations
@pytest.mark.parametrize("name", ["frames", "in front of time"])
def test_inference_can_be_exported(name):
    encoder, batch = encoder_of(name), clips(LENGTHS)
    with torch.no_grad():
        expected = encoder(**batch)
        output = torch.export.export(encoder, (), batch).module()(**batch)
    assert_close(output.last_hidden_state, expected.last_hidden_state, atol=1e-4, rtol=1e-4)
    assert torch.equal(output.attention_mask, expected.attention_mask)


# ------------------------------------------------------------------------------------------ tokens and loss


def test_a_token_is_that_of_the_encoder_and_the_prediction():
    encoder, batch = encoder_of("frames"), clips(LENGTHS)
    tokens = encoder.encoder(**batch).last_hidden_state
    mapper = encoder.mapper
    predictions = mapper.second(torch.relu(mapper.first(tokens))) * batch["pixel_attention_mask"][..., None]
    assert_close(encoder(**batch).last_hidden_state, torch.cat([tokens, predictions], dim=2))
    assert encoder.config.hidden_size == 64 + WIDTH


@pytest.mark.parametrize("name", ["frames", "frames and time", "padded by the ends", "video model", "patches"])
def test_the_loss_equals_a_plain_loop(name):
    encoder, batch = encoder_of(name), described_clips([11, 7, 2])
    assert_close(loss_of(encoder, batch), loss_by_hand(encoder, batch), atol=1e-5, rtol=1e-5)


def test_the_loss_of_poses():
    config = described(tiny_pose_encoder().config)
    encoder = drawn_weights(DescribedEncoder(config))
    batch = {name: values for name, values in random_pose_batch(LENGTHS).items() if name != "labels"}
    batch |= descriptions_of(batch["pose_attention_mask"])
    assert encoder.main_input_name == "pose_values"
    assert_close(loss_of(encoder, batch), loss_by_hand(encoder, batch), atol=1e-5, rtol=1e-5)
    loss_of(encoder.train(), batch).backward()
    assert gradients_of(encoder.encoder)


def test_encoders_around_it_pass_the_loss_on():
    batch = described_clips()
    for name in ("in front of time", "side by side"):
        encoder = encoder_of(name)
        inner = described_encoder_of(encoder)
        assert encoder.input_names == inner.input_names and inner in encoder.parts
        assert_close(loss_of(encoder, batch), loss_of(inner, batch))


def test_the_losses_of_encoders_side_by_side_are_added():
    config = SideBySideConfig(encoder_configs=[CONFIGS["video model"](), CONFIGS["image model"]()])
    encoder, batch = drawn_weights(build_sign_encoder(config)), described_clips()
    assert_close(loss_of(encoder, batch), sum(loss_of(part, batch) for part in encoder.parts))


def test_what_an_encoder_does_not_take_is_refused():
    for name in ("frames", "side by side"):
        with pytest.raises((TypeError, ValueError), match="descriptions"):
            encoder_of(name)(**clips(LENGTHS), descriptions=torch.randn(3, 9, WIDTH))


def test_all_real_frames_are_described_without_a_mask():
    encoder, batch = encoder_of("frames and time"), described_clips()
    embeddings = torch.randn_like(batch["description_embeddings"])
    whole = {**clips(LENGTHS), "description_embeddings": embeddings}
    everywhere = {**whole, "description_attention_mask": whole["pixel_attention_mask"]}
    assert_close(loss_of(encoder, whole), loss_of(encoder, everywhere), atol=0, rtol=0)


def test_without_a_described_frame_the_loss_is_0_and_has_a_gradient_of_0():
    encoder, batch = encoder_of("frames").train(), described_clips()
    batch["description_attention_mask"].zero_()
    loss = loss_of(encoder, batch)
    loss.backward()
    gradients = gradients_of(encoder)
    assert loss == 0 and gradients.keys() == dict(encoder.named_parameters()).keys()
    assert not any(gradient.any() for gradient in gradients.values())


def test_the_weight_scales_the_loss():
    encoder, batch = encoder_of("frames"), described_clips()
    loss = loss_of(encoder, batch)
    encoder.config.mapper_loss_weight = 0.3
    assert_close(loss_of(encoder, batch), 3 * loss)


def test_the_loss_is_in_float32_under_autocast():
    encoder, batch = encoder_of("frames"), described_clips()
    with torch.autocast("cpu", torch.bfloat16):
        loss = loss_of(encoder, batch)
    assert loss.dtype == torch.float32
    assert_close(loss, loss_of(encoder, batch), rtol=0.1, atol=0.01)


@pytest.mark.parametrize("name", ["description_embeddings", "description_attention_mask"])
def test_descriptions_of_another_shape_are_refused(name):
    encoder, batch = encoder_of("frames"), described_clips()
    expected = {
        "description_embeddings": "`description_embeddings` must have the shape (batch, frames, description_size) = "
        "(3, 9, 6), got (3, 8, 6).",
        "description_attention_mask": "`description_attention_mask` must have the shape (batch, frames) = (3, 9), got "
        "(3, 8).",
    }
    with error_texts(expected[name]):
        encoder(**{**batch, name: batch[name][:, :8]})


# ------------------------------------------------------------------------------------------ training


def test_the_gradient_reaches_the_backbone_through_the_mapper():
    encoder = encoder_of("frames").train()
    gradients = gradients_after(encoder, described_clips())
    assert gradients.keys() == dict(encoder.named_parameters()).keys()
    assert gradients["encoder.backbone.conv1.weight"].any() and gradients["mapper.first.weight"].any()


def test_with_the_mapper_frozen_the_rest_is_trained_also_through_it():
    encoder = encoder_of("in front of time").train()
    mapper = described_encoder_of(encoder).mapper
    described_encoder_of(encoder).freeze_mapper()
    before, config = state_of(mapper), encoder.config.to_dict()
    encoder.eval().train()
    gradients = gradients_after(encoder, described_clips())
    assert gradients["encoder.encoder.backbone.conv1.weight"].any()
    encoder.zero_grad()
    encoder(**clips(LENGTHS)).last_hidden_state.square().sum().backward()
    trained = gradients_of(encoder)
    assert not any(".mapper." in name for name in trained)
    assert trained.keys() == {name for name, _ in encoder.named_parameters() if ".mapper." not in name}
    assert_close(state_of(mapper), before, atol=0, rtol=0)
    assert encoder.config.to_dict() == config and not encoder.frozen


def test_the_mapper_is_trained_while_the_encoder_in_front_is_frozen():
    encoder = encoder_of("frames")
    encoder.encoder.freeze()
    assert encoder.features_are_frozen and encoder.features_encoder is encoder.encoder and not encoder.frozen
    gradients = gradients_after(encoder.train(), described_clips())
    assert {name.split(".")[0] for name in gradients} == {"mapper"}


def test_the_mapper_learns():
    encoder, batch = encoder_of("frames").train(), described_clips()
    optimizer = torch.optim.AdamW(encoder.parameters(), lr=0.01)
    losses = []
    for _ in range(15):
        losses.append(loss_of(encoder, batch))
        optimizer.zero_grad()
        losses[-1].backward()
        optimizer.step()
    assert losses[-1] < 0.5 * losses[0]


@every_system
def test_models_add_the_loss_and_translate_without_descriptions(system):
    encoder = encoder_of("in front of time")
    model = model_of(system, encoder)
    model.config.label_smoothing = 0.0
    batch = batch_for(system, model)
    targets = descriptions_of(batch["pixel_attention_mask"])
    loss = loss_of(model.vision_model, {**video_of(batch), **targets})
    assert_close(model(**batch, **targets).loss, model(**batch).loss + loss)
    written = model.generate(**batch, max_new_tokens=4)
    assert torch.equal(model.generate(**batch, **targets, max_new_tokens=4), written)
    model.vision_model.freeze()
    assert_close(model(**batch, **targets).loss, model(**batch).loss)


@every_system
def test_each_accumulated_batch_counts_by_its_label_tokens(system):
    model = model_of(system, encoder_of("in front of time")).double()
    model.config.label_smoothing = 0.0
    batch = batch_for(system, model, [8, 6, 6, 8])
    batch |= descriptions_of(batch["pixel_attention_mask"])
    batch = in_double(batch)
    num_labels = (batch["labels"] != -100).sum()
    parts = [{name: values[rows] for name, values in batch.items()} for rows in (slice(0, 1), slice(1, 4))]
    total = sum(model(**part, num_items_in_batch=num_labels).loss for part in parts)
    each = [(model(**part).loss, (part["labels"] != -100).sum()) for part in parts]
    assert_close(total, sum(loss * count for loss, count in each) / num_labels)


def test_equal_parts_accumulate_to_the_loss_and_gradient_of_the_whole():
    encoder, batch = encoder_of("frames").double(), described_clips([6, 6])
    mask = batch["description_attention_mask"]
    mask[1] = mask[0]
    batch = in_double(batch)
    expected = gradients_after(encoder, batch)
    encoder.zero_grad()
    for row in range(2):
        (loss_of(encoder, {name: values[row : row + 1] for name, values in batch.items()}) / 2).backward()
    assert_gradients_close(gradients_of(encoder), expected)


# ------------------------------------------------------------------------------------------ several processes


@pytest.mark.slow
def test_two_processes_have_the_loss_and_gradient_of_one(tmp_path):
    encoder, batch = encoder_of("frames").double(), in_double(described_clips())
    batch["description_attention_mask"][0] = 0
    encoder.save_pretrained(tmp_path)
    expected = gradients_after(encoder.train(), batch)
    loss = loss_of(encoder, batch)
    in_two_processes(gradients_of_a_part, str(tmp_path), batch)
    for rank in range(2):
        of_process, gradients = torch.load(tmp_path / f"{rank}.pt", weights_only=True)
        assert_close(of_process, loss.detach(), atol=1e-5, rtol=1e-4)
        assert_gradients_close(gradients, expected)


def test_the_mean_is_over_what_the_mask_leaves():
    values, mask = torch.randn(3, 5), torch.randint(0, 2, (3, 5))
    mask[0, 0] = 1
    assert_close(mean_over_processes(values, mask), values[mask == 1].mean())
    assert mean_over_processes(values, torch.zeros(3, 5)) == 0


# ------------------------------------------------------------------------------------------ put together


def test_of_a_loaded_encoder():
    frames = drawn_weights(FLaLLMVisionModel(tiny_vision_config(**FRAMES)))
    encoder = put_in_front_of_a_mapper(frames, description_size=WIDTH)
    whole = put_in_front_of_time(encoder, temporal_blocks=["K5", "P2", "K5", "P2"], hidden_size=16)
    assert whole.encoder.encoder is frames and not any(value.is_meta for value in whole.state_dict().values())
    assert described_encoder_of(whole) is described_encoder_of(encoder) is encoder
    assert encoder.mapper.first.weight.shape == (1024, 64) and encoder.mapper.first.weight.std() > 0.01
    assert not encoder.mapper.second.bias.any() and whole(**clips(LENGTHS[:2])).last_hidden_state.shape[2] == 16


def test_an_encoder_without_a_mapper_has_no_described_part():
    assert described_encoder_of(FLaLLMVisionModel(tiny_vision_config())) is None


def test_sizes_of_the_paper():
    config = DescribedConfig(encoder_config=FLaLLMVisionConfig(temporal_blocks=[]))
    assert (config.hidden_size, config.mapper_hidden_size, config.mapper_loss_weight) == (512 + 768, 1024, 0.1)
    assert TemporalConfig(encoder_config=config, hidden_size=1024).width_before_time == 1280


def test_frames_are_those_of_the_encoder_in_front():
    config = described(pretrained("vit"))
    assert config.frame_settings == config.encoder_config.frame_settings
    assert config.features_size == config.encoder_config.hidden_size


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        ({"description_size": 0}, "`description_size` must be 1 or more, got 0."),
        ({"mapper_hidden_size": 0}, "`mapper_hidden_size` must be 1 or more, got 0."),
        ({"mapper_loss_weight": -0.1}, "`mapper_loss_weight` must be 0 or more, got -0.1."),
        ({"encoder_config": {"model_type": "bert"}}, "`vision_config` must be that of a sign encoder, got model type"),
    ],
)
def test_values_that_are_none(values, expected):
    with error_texts(expected):
        DescribedConfig(**{"encoder_config": tiny_vision_config(), **values})
