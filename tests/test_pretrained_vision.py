"""Image and video models of transformers as sign encoders: the same properties for every family."""

import copy
import json

import numpy
import pytest
import torch
from PIL import Image
from tiny_models import (
    assert_gradients_close,
    error_texts,
    gradients_of,
    state_of,
    tiny_language_model_config,
    tiny_text_config,
    with_garbage_in_the_padding,
)
from tiny_vision_models import (
    CONFIGS,
    HALVES,
    NUM_PATCHES,
    NUM_PREFIX_TOKENS,
    SIZE_IN_PIXELS,
    SIZES,
    TWO_SIDED,
    UNEVEN,
    VIDEO_MODELS,
    encoder_of,
    every_model,
    every_video_model,
    needs_traceable_configurations,
    save_vision_model,
)
from torch import nn
from torch.testing import assert_close
from transformers import (
    AutoModel,
    BertConfig,
    CLIPImageProcessor,
    ResNetConfig,
    Siglip2Config,
    Siglip2TextConfig,
    Siglip2VisionConfig,
    VideoMAEConfig,
    ViTConfig,
    ViTImageProcessor,
    Wav2Vec2Config,
)
from without_our_packages import run_without_our_packages

from modeling_flallm.backbone_slt import run_backbone
from modeling_flallm.configuration_encoder_pretrained_slt import PretrainedVisionConfig
from modeling_flallm.encoder_pretrained_slt import PretrainedVisionEncoder, resized
from modeling_flallm.encoders_slt import load_sign_encoder
from modeling_flallm.pretrained_vision_slt import load_pretrained_vision
from modeling_flallm.sign_encoder_slt import num_tokens_after

LENGTHS = [7, 4, 1]
# Batch norm, the only statistics of these families, makes the pass of a chunk differ in training.
WITH_BATCH_NORM = ("resnet",)
USUAL_POOLING = {
    **dict.fromkeys(["vit", "beit", "deit", "timesformer", "vivit"], "class"),
    **dict.fromkeys(["swin", "videomae", "vjepa2"], "mean"),
}


def clips(lengths=LENGTHS, size: int = SIZE_IN_PIXELS) -> dict[str, torch.Tensor]:
    mask = torch.arange(max(lengths))[None] < torch.tensor(lengths)[:, None]
    pixels = torch.randn(len(lengths), max(lengths), 3, size, size) * mask[..., None, None, None]
    return {"pixel_values_videos": pixels, "pixel_attention_mask": mask.long()}


def loss_of(encoder: PretrainedVisionEncoder, batch: dict[str, torch.Tensor]) -> torch.Tensor:
    hidden = encoder(**batch).last_hidden_state
    return (hidden * torch.linspace(-1, 1, hidden.numel()).view_as(hidden)).sum()


def gradients(encoder: PretrainedVisionEncoder, batch: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    encoder.zero_grad()
    loss_of(encoder, batch).backward()
    return gradients_of(encoder)


# ------------------------------------------------------------------------------------------ tokens and padding


@every_model
def test_a_clip_does_not_depend_on_its_neighbours_or_padding(name):
    encoder = encoder_of(name)
    batch = clips()
    with torch.no_grad():
        together = encoder(**batch)
        garbage = encoder(**with_garbage_in_the_padding(batch))
        for index, length in enumerate(LENGTHS):
            alone = encoder(batch["pixel_values_videos"][index : index + 1, :length]).last_hidden_state[0]
            tokens = together.last_hidden_state[index, : len(alone)]
            assert tokens.std() > 1e-3
            assert_close(tokens, alone, atol=1e-4, rtol=1e-4)
            assert not together.last_hidden_state[index, len(alone) :].any()
            assert together.attention_mask[index].sum() == len(alone) == encoder.get_num_tokens(length)
    assert_close(garbage.last_hidden_state, together.last_hidden_state, atol=1e-4, rtol=1e-4)
    assert not torch.allclose(together.last_hidden_state[0, 0], together.last_hidden_state[1, 0], atol=1e-3)


@pytest.mark.parametrize("pooling", ["mean", "patches"])
@pytest.mark.parametrize(("window_size", "window_stride"), [(4, 2), (4, 4), (4, 1), (4, 3), (2, 5)])
def test_the_number_of_tokens_is_that_of_the_formula(window_size, window_stride, pooling):
    encoder = encoder_of("videomae", window_size=window_size, window_stride=window_stride, pooling=pooling)
    lengths = torch.arange(1, 15)
    expected = [encoder(torch.randn(1, length, 3, 32, 32)).last_hidden_state.shape[1] for length in lengths.tolist()]
    assert encoder.get_num_tokens(lengths).tolist() == expected
    assert [num_tokens_after(encoder.get_token_steps(), length) for length in lengths.tolist()] == expected
    assert encoder.get_min_num_frames() == 1
    # Every frame is in a window, unless the stride leaves a gap between two windows.
    per_window = encoder.config.tokens_per_window
    for length, tokens in zip(lengths.tolist(), expected, strict=True):
        starts = [window * window_stride for window in range(tokens // per_window)]
        assert starts[-1] < length
        seen = {frame for start in starts for frame in range(start, start + window_size)}
        between = {frame for frame in range(starts[-1]) if window_stride > window_size}
        assert set(range(length)) - between <= seen or length - 1 < starts[-1] + window_stride


def seen_by_backbone(encoder: PretrainedVisionEncoder) -> list[torch.Tensor]:
    seen: list[torch.Tensor] = []
    encoder.backbone.register_forward_pre_hook(
        lambda module, args, kwargs: seen.append(kwargs["pixel_values"].detach().clone()), with_kwargs=True
    )
    return seen


def test_windows_see_these_frames_and_repeat_the_last_one():
    encoder = encoder_of("videomae", window_stride=3)
    seen = seen_by_backbone(encoder)
    batch = clips([6, 5])
    numbers = torch.arange(12.0).view(2, 6) + 1
    batch["pixel_values_videos"][:] = numbers[..., None, None, None]
    encoder(**batch)
    assert seen[0][:, :, 0, 0, 0].tolist() == [[1, 2, 3, 4], [4, 5, 6, 6], [7, 8, 9, 10], [10, 11, 11, 11]]


@pytest.mark.parametrize(("size", "stride", "first"), [(4, 2, 1.5), (4, 4, 1.5), (2, 1, 0.5)])
def test_places_of_windows_in_time(size, stride, first):
    encoder = encoder_of("videomae", window_size=size, window_stride=stride)
    assert encoder.get_centre_and_spacing() == (first, stride)
    assert encoder_of("vit").get_centre_and_spacing() == (0, 1)


def test_places_of_patches_are_around_their_window():
    encoder = encoder_of("videomae", window_stride=4, pooling="patches")
    centre, spacing = encoder.get_centre_and_spacing()
    per_window = encoder.config.tokens_per_window
    assert per_window == 2 * NUM_PATCHES and spacing == 4 / per_window
    times = centre + spacing * torch.arange(2 * per_window, dtype=torch.double)
    assert_close(times[:per_window].mean().item(), 1.5)
    assert_close(times[per_window:].mean().item(), 5.5)


@every_video_model
def test_every_frame_of_a_window_matters(name):
    encoder = encoder_of(name)
    pixels = torch.randn(1, 4, 3, 32, 32)
    expected = encoder(pixels).last_hidden_state[0, 0]
    for frame in range(4):
        other = pixels.clone()
        other[:, frame] = 0
        assert not torch.allclose(encoder(other).last_hidden_state[0, 0], expected, atol=1e-4)


# ------------------------------------------------------------------------------------------ pooling


@every_model
def test_each_pooling_of_each_family(name):
    config = PretrainedVisionConfig(backbone_config=CONFIGS[name]())
    assert config.pooling == USUAL_POOLING.get(name, "pooler")
    num_prefix = NUM_PREFIX_TOKENS.get(name, 0)
    assert config.num_prefix_tokens == num_prefix
    pixels = torch.randn(1, config.window_size, 3, 32, 32)
    for pooling in ("pooler", "class", "mean", "patches"):
        has_it = num_prefix if pooling == "class" else name not in ("videomae", "vjepa2", "timesformer")
        if pooling in ("pooler", "class") and not has_it:
            with error_texts(f"`pooling` {pooling!r} is nothing that {name!r} has: it has "):
                PretrainedVisionConfig(backbone_config=CONFIGS[name](), pooling=pooling)
            continue
        encoder = encoder_of(name, pooling=pooling)
        with torch.no_grad():
            output = run_backbone(encoder.backbone, pixels)
            states = output.last_hidden_state
            states = states.flatten(2).mT if states.ndim == 4 else states
            expected = {
                "class": states[:, :1],
                "mean": states[:, num_prefix:].mean(1, keepdim=True),
                "patches": states[:, num_prefix:],
            }
            expected = output.pooler_output.view(1, 1, -1) if pooling == "pooler" else expected[pooling]
            tokens = encoder(pixels).last_hidden_state[:, : encoder.config.tokens_per_window]
        assert_close(tokens, expected, atol=1e-4, rtol=1e-4)
        assert encoder.config.hidden_size == expected.shape[2]
        assert encoder.config.tokens_per_window == expected.shape[1]


def test_few_patches_are_not_taken_for_class_and_register_tokens():
    """Five tokens in front of four patches."""
    config = CONFIGS["dinov2_with_registers"]()
    config.image_size = 16
    config = PretrainedVisionConfig(backbone_config=config, pooling="patches")
    assert (config.num_prefix_tokens, config.tokens_per_window) == (5, 4)


def test_looking_at_a_model_leaves_nothing_in_the_caches_of_transformers():
    """BEiT's positions of the first run are those of all later models of this size."""
    config = CONFIGS["beit"]()
    config.image_size = 40
    PretrainedVisionConfig(backbone_config=config)
    assert AutoModel.from_config(config).eval()(torch.randn(1, 3, 40, 40)).last_hidden_state.isfinite().all()


def test_weights_that_are_not_used_are_not_made():
    assert encoder_of("vit").backbone.pooler is None
    assert encoder_of("vit", pooling="pooler").backbone.pooler is not None


# ------------------------------------------------------------------------------------------ freezing, saving, dtypes


@every_model
def test_frozen_means_neither_weights_nor_buffers_change(name):
    encoder = encoder_of(name)
    encoder.freeze()
    before = state_of(encoder)
    encoder.train()
    output = encoder(**clips()).last_hidden_state
    assert not output.requires_grad and not any(module.training for module in encoder.modules())
    assert not any(parameter.requires_grad for parameter in encoder.parameters())
    assert_close(state_of(encoder), before, atol=0, rtol=0)


@every_model
def test_a_saved_encoder_gives_the_same(name, tmp_path):
    encoder = encoder_of(name, window_stride=2 if name in VIDEO_MODELS else 1)
    encoder.save_pretrained(tmp_path)
    for loaded in (PretrainedVisionEncoder.from_pretrained(tmp_path), load_sign_encoder(str(tmp_path), "")):
        assert_close(state_of(loaded), state_of(encoder), atol=0, rtol=0)
        batch = clips()
        assert_close(loaded(**batch).last_hidden_state, encoder(**batch).last_hidden_state, atol=0, rtol=0)
        assert loaded.config.to_dict().keys() == encoder.config.to_dict().keys()


LOAD_WITHOUT_US = """
import sys
import torch
from transformers import AutoModel

folder = sys.argv[1]
encoder = AutoModel.from_pretrained(folder, trust_remote_code=True).eval()
torch.save(encoder(torch.load(folder + "/pixels.pt", weights_only=True)).last_hidden_state, folder + "/tokens.pt")
print(type(encoder).__name__)
"""


@pytest.mark.slow
@pytest.mark.parametrize("name", ["dinov2_with_registers", "vjepa2"])
def test_it_loads_without_our_package(name, tmp_path):
    encoder = encoder_of(name)
    folder = tmp_path / "encoder"
    encoder.save_pretrained(folder)
    pixels = clips([6])["pixel_values_videos"]
    torch.save(pixels, folder / "pixels.pt")
    printed = run_without_our_packages(LOAD_WITHOUT_US, str(folder), folder=tmp_path)
    assert printed.strip().splitlines()[-1] == "PretrainedVisionEncoder"
    expected = encoder(pixels).last_hidden_state
    assert_close(torch.load(folder / "tokens.pt", weights_only=True), expected.detach(), atol=1e-5, rtol=1e-4)


@every_model
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision(name, dtype):
    encoder = encoder_of(name)
    batch = clips()
    expected = encoder(**batch).last_hidden_state
    output = copy.deepcopy(encoder).to(dtype)(**batch).last_hidden_state
    assert output.dtype == dtype
    assert (output.float() - expected).norm() < 0.1 * expected.norm()


@pytest.mark.parametrize("name", ["vit", "clip_vision_model", "siglip_vision_model", "dinov2", "videomae", "vjepa2"])
def test_the_attention_implementation_reaches_the_backbone(name, tmp_path):
    save_vision_model(name, tmp_path)
    batch = clips()
    outputs = []
    for implementation in ("eager", "sdpa"):
        encoder = load_pretrained_vision(str(tmp_path), attn_implementation=implementation)
        assert encoder.backbone.config._attn_implementation == implementation
        outputs.append(encoder(**batch).last_hidden_state)
        encoder.save_pretrained(tmp_path / "ours")
        again = PretrainedVisionEncoder.from_pretrained(tmp_path / "ours", attn_implementation=implementation)
        assert again.backbone.config._attn_implementation == implementation
    assert_close(*outputs, atol=1e-4, rtol=1e-4)


# ------------------------------------------------------------------------------------------ memory


@every_model
def test_chunks_change_neither_outputs_nor_gradients(name):
    encoder = encoder_of(name).double()
    batch = clips()
    expected, expected_output = gradients(encoder, batch), encoder(**batch).last_hidden_state
    sizes: list[int] = []
    encoder.backbone.register_forward_pre_hook(
        lambda module, args, kwargs: sizes.append(len(kwargs[module.main_input_name])), with_kwargs=True
    )
    encoder.frames_per_chunk = 9
    assert_close(encoder(**batch).last_hidden_state, expected_output)
    assert max(sizes) <= max(9 // encoder.config.window_size, 1) and len(sizes) > 1
    assert_gradients_close(gradients(encoder, batch), expected)


def test_batch_norm_counts_each_chunk_once():
    encoder = encoder_of("resnet").train()
    norm = next(module for module in encoder.modules() if isinstance(module, nn.BatchNorm2d))
    encoder.frames_per_chunk = 4
    batch = clips([8])
    reference = copy.deepcopy(encoder)
    with torch.no_grad():
        reference(**batch)
    loss_of(encoder, batch).backward()
    assert norm.num_batches_tracked == 2 and norm.momentum == 0.1
    assert_close(state_of(encoder), state_of(reference))


def test_a_pass_without_gradients_on_a_cpu_is_in_chunks():
    encoder = encoder_of("vit")
    seen = seen_by_backbone(encoder)
    with torch.no_grad():
        encoder(**clips([40]))
    encoder(**clips([40]))
    assert [len(each) for each in seen] == [32, 8, 40]


@every_model
def test_gradient_checkpointing_changes_no_gradient(name):
    encoder = encoder_of(name).double().train()
    batch = clips()
    expected = gradients(encoder, batch)
    if not encoder.backbone.supports_gradient_checkpointing:
        with pytest.raises(ValueError, match="not (support|compatible with) gradient checkpointing"):
            getattr(encoder, "activation_checkpointing_enable", encoder.gradient_checkpointing_enable)()
        return
    getattr(encoder, "activation_checkpointing_enable", encoder.gradient_checkpointing_enable)()
    calls: list[int] = []

    def counted(function):
        def call(*args, **kwargs):
            calls.append(1)
            return function(*args, **kwargs)

        return call

    for module in encoder.modules():
        if getattr(module, "gradient_checkpointing", False):
            module._gradient_checkpointing_func = counted(module._gradient_checkpointing_func)
    assert_gradients_close(gradients(encoder, batch), expected)
    assert calls


@every_model
@pytest.mark.slow
@needs_traceable_configurations
def test_inference_can_be_exported(name):
    encoder = encoder_of(name)
    batch = clips()
    batch["pixel_attention_mask"][1, 2:] = 0
    expected = encoder(**batch)
    with torch.no_grad():
        exported = torch.export.export(encoder, (), batch)
        output = exported.module()(**batch)
    assert_close(output.last_hidden_state, expected.last_hidden_state, atol=1e-4, rtol=1e-4)
    assert torch.equal(output.attention_mask, expected.attention_mask)


# ------------------------------------------------------------------------------------------ sizes and colours


@pytest.mark.parametrize("name", ["vit", "dinov2", "clip_vision_model", "siglip_vision_model", "beit", "deit"])
def test_positions_are_interpolated_for_another_image_size(name):
    encoder = encoder_of(name, image_size=[48, 40], pooling="patches")
    assert encoder.config.tokens_per_window == 6 * 5
    pixels = torch.randn(1, 2, 3, 48, 40)
    expected = encoder.backbone(pixel_values=pixels[0], interpolate_pos_encoding=True).last_hidden_state
    output = encoder(pixels).last_hidden_state.view(2, 30, -1)
    assert_close(output, expected[:, encoder.config.num_prefix_tokens :])


def test_frames_are_renormalised_for_the_model():
    own, received = UNEVEN, HALVES
    values = {"image_mean": own["image_mean"], "image_std": own["image_std"]}
    encoder = encoder_of("vit", **values)
    other = copy.deepcopy(encoder)
    other.config.input_mean, other.config.input_std = received["image_mean"], received["image_std"]
    colours = torch.rand(1, 3, 3, 32, 32)

    def normalised(settings):
        mean, std = (torch.tensor(settings[name])[:, None, None] for name in ("image_mean", "image_std"))
        return (colours - mean) / std

    assert_close(other(normalised(received)).last_hidden_state, encoder(normalised(own)).last_hidden_state)
    assert not torch.allclose(other(normalised(own))[0], encoder(normalised(own))[0], atol=1e-3)


def test_frames_of_another_size_are_resized():
    encoder = encoder_of("vit")
    pixels = torch.randn(1, 2, 3, 50, 44)
    small = nn.functional.interpolate(pixels[0], size=(32, 32), mode="bicubic", antialias=True)[None]
    assert_close(encoder(pixels).last_hidden_state, encoder(small).last_hidden_state)
    assert resized(small, 32, 32) is small


def test_scales_are_the_mean_over_tiles():
    encoder = encoder_of("vit", scales=[1, 2])
    assert encoder.config.hidden_size == 48 and encoder.config.frame_settings["size"] == 64
    pixels = torch.randn(1, 1, 3, 64, 64)
    small = nn.functional.interpolate(pixels[0], size=(32, 32), mode="bicubic", antialias=True)

    def class_token(image):
        return encoder.backbone(pixel_values=image).last_hidden_state[:, 0]

    tiles = [pixels[0, :, :, top : top + 32, left : left + 32] for top in (0, 32) for left in (0, 32)]
    expected = torch.cat([class_token(small), torch.stack([class_token(tile) for tile in tiles]).mean(0)], dim=1)
    assert_close(encoder(pixels).last_hidden_state[0], expected, atol=1e-5, rtol=1e-4)


# ------------------------------------------------------------------------------------------ by name


@pytest.mark.parametrize("name", [*CONFIGS, *TWO_SIDED])
def test_a_folder_loads_by_name(name, tmp_path):
    model = save_vision_model(name, tmp_path)
    encoder = load_sign_encoder(str(tmp_path), "")
    assert not encoder.training and not encoder.frozen
    backbone = getattr(model, "vision_model", model) if name in TWO_SIDED else model
    expected = {key: value for key, value in state_of(backbone).items() if key in state_of(encoder.backbone)}
    assert_close(state_of(encoder.backbone), expected, atol=0, rtol=0)
    file_name = "video_preprocessor_config.json" if name == "vjepa2" else "preprocessor_config.json"
    processor = json.loads((tmp_path / file_name).read_text(encoding="utf-8"))
    assert encoder.config.image_size == [SIZE_IN_PIXELS, SIZE_IN_PIXELS]
    assert encoder.config.image_mean == processor["image_mean"] and encoder.config.image_std == processor["image_std"]
    assert encoder.pretrained_source == {"name": tmp_path.name}
    assert encoder(**clips()).last_hidden_state.isfinite().all()


def test_the_frames_are_those_of_its_own_processor(tmp_path):
    """A picture as the processor prepares it, resized and cropped, is what the model would have seen."""
    model = save_vision_model("clip_vision_model", tmp_path)
    encoder = load_pretrained_vision(str(tmp_path))
    picture = numpy.random.default_rng(0).integers(0, 256, (36, 36, 3), dtype=numpy.uint8)
    pixels = CLIPImageProcessor.from_pretrained(tmp_path)(Image.fromarray(picture), return_tensors="pt")["pixel_values"]
    assert pixels.shape[-2:] == (32, 32)
    assert_close(encoder(pixels[None]).last_hidden_state[0], model(pixel_values=pixels).pooler_output)
    assert encoder.config.frame_settings == {"size": 32, **{name: list(value) for name, value in UNEVEN.items()}}


@pytest.mark.parametrize(
    ("processor", "expected"),
    [
        ({**SIZES, **HALVES, "do_normalize": False}, ([32, 32], [0.0] * 3, [1.0] * 3)),
        ({"size": {"height": 24, "width": 40}, **HALVES}, ([24, 40], [0.5] * 3, [0.5] * 3)),
        ({"size": {"shortest_edge": 40}, **HALVES}, ([40, 40], [0.5] * 3, [0.5] * 3)),
    ],
    ids=["not normalised", "height and width", "shortest edge"],
)
def test_sizes_and_colours_of_a_processor(processor, expected, tmp_path):
    save_vision_model("vit", tmp_path, with_processor=False)
    ViTImageProcessor(**processor).save_pretrained(tmp_path)
    config = load_pretrained_vision(str(tmp_path)).config
    assert (config.image_size, config.image_mean, config.image_std) == expected


def test_where_the_weights_come_from(tmp_path):
    save_vision_model("vit", tmp_path / "model")
    (tmp_path / "model" / "README.md").write_text("---\nlicense: apache-2.0\n---\n", encoding="utf-8")
    encoder = load_pretrained_vision(str(tmp_path / "model"))
    assert encoder.pretrained_source == {"name": "model", "license": "apache-2.0"}
    assert str(tmp_path) not in json.dumps(encoder.config.to_dict())


def test_options_of_image_and_of_video_models(tmp_path):
    for name in ("vit", "videomae"):
        save_vision_model(name, tmp_path / name)
    options = {"image_values": {"scales": [1, 2]}, "video_values": {"window_stride": 3}}
    encoder = load_sign_encoder([str(tmp_path / "vit"), str(tmp_path / "videomae")], "", options)
    image, video = encoder.config.encoder_configs
    assert image.scales == [1, 2] and video.scales == [1] and video.window_stride == 3 and image.window_stride == 1
    assert image.hidden_size + video.hidden_size == encoder.config.hidden_size == 48 + 24


def test_the_dtype_of_the_loaded_weights(tmp_path):
    save_vision_model("vit", tmp_path)
    assert load_sign_encoder(str(tmp_path), "", dtype=torch.bfloat16).dtype == torch.bfloat16
    AutoModel.from_pretrained(tmp_path, dtype=torch.bfloat16).save_pretrained(tmp_path)
    assert load_sign_encoder(str(tmp_path), "").dtype == torch.float32


# ------------------------------------------------------------------------------------------ timm


@pytest.fixture
def timm_folder(tmp_path):
    pytest.importorskip("timm")
    from transformers import TimmWrapperConfig, TimmWrapperImageProcessor, TimmWrapperModel

    def save(architecture: str, **model_args):
        values = {
            "architecture": architecture,
            "model_args": {"img_size": 32, **model_args} if "vit" in architecture else model_args,
            "pretrained_cfg": {
                "input_size": [3, 32, 32],
                "mean": [0.1, 0.2, 0.3],
                "std": [0.4, 0.5, 0.6],
                "crop_pct": 0.9,
            },
        }
        config = TimmWrapperConfig.from_dict({**values, "num_classes": 0})
        model = TimmWrapperModel(config).eval()
        model.save_pretrained(tmp_path / "timm")
        TimmWrapperImageProcessor(pretrained_cfg=values["pretrained_cfg"]).save_pretrained(tmp_path / "timm")
        return tmp_path / "timm", model

    return save


@pytest.mark.parametrize(
    ("architecture", "values", "num_prefix"),
    [
        ("vit_tiny_patch16_224", {"embed_dim": 24, "depth": 1, "num_heads": 2, "patch_size": 8}, 1),
        ("vit_small_patch14_reg4_dinov2", {"embed_dim": 24, "depth": 1, "num_heads": 2, "patch_size": 8}, 5),
        ("resnet10t", {}, 0),
    ],
)
def test_models_of_timm(architecture, values, num_prefix, timm_folder, tmp_path):
    folder, model = timm_folder(architecture, **values)
    encoder = load_sign_encoder(str(folder), "")
    assert encoder.config.num_prefix_tokens == num_prefix and encoder.config.pooling == "pooler"
    assert (encoder.config.image_size, encoder.config.image_mean) == ([32, 32], [0.1, 0.2, 0.3])
    batch = clips()
    tokens = encoder(**batch).last_hidden_state
    assert_close(tokens[0], model(pixel_values=batch["pixel_values_videos"][0]).pooler_output, atol=1e-4, rtol=1e-4)
    encoder.save_pretrained(tmp_path / "ours")
    loaded = PretrainedVisionEncoder.from_pretrained(tmp_path / "ours")
    assert_close(loaded(**batch).last_hidden_state, tokens)
    encoder.freeze()
    before = state_of(encoder)
    encoder.train()(**batch)
    assert_close(state_of(encoder), before, atol=0, rtol=0)


# ------------------------------------------------------------------------------------------ errors


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        ({}, "`backbone_config` must be the configuration of an image or video model of transformers, got none."),
        ({"backbone_config": {"model_type": "nothing"}}, "got model type 'nothing', which transformers does not know."),
        ({"backbone_config": BertConfig()}, "got model type 'bert': BertModel takes `input_ids`."),
        ({"backbone_config": Wav2Vec2Config()}, "got model type 'wav2vec2': Wav2Vec2Model takes `input_values`."),
        (
            {"backbone_config": ViTConfig(), "pooling": "max"},
            "`pooling` must be one of pooler, class, mean, p",
        ),
        (
            {"backbone_config": ResNetConfig(), "pooling": "class"},
            "`pooling` 'class' is nothing that 'resnet' has: it has pooler, mean, patches.",
        ),
        (
            {"backbone_config": ViTConfig(), "window_size": 4},
            "`window_size` 4 is for video models; 'vit' sees one image at a time. Leave it out.",
        ),
        (
            {"backbone_config": ViTConfig(), "pooling": "patches", "scales": [1, 2]},
            "`pooling` 'patches' goes with `scales` [1] alone, got [1, 2].",
        ),
        ({"backbone_config": ViTConfig(), "scales": []}, "`scales` must be whole numbers from 1 up"),
        ({"backbone_config": VideoMAEConfig(), "window_stride": -1}, "`window_stride` must be 1 or more, got -1."),
        (
            {"backbone_config": ViTConfig(), "image_size": [224]},
            "`image_size` must be a height and a width",
        ),
        (
            {"backbone_config": ViTConfig(), "image_std": [0.5, 0, 0.5]},
            "`image_std` must be above 0, got [0.5, 0,",
        ),
        (
            {"backbone_config": Siglip2VisionConfig()},
            "that needs pixels alone, got model type 'siglip2_vision_model': Siglip2VisionModel also needs "
            "`pixel_attention_mask` and `spatial_shapes`.",
        ),
    ],
)
def test_configurations_that_are_refused(values, expected):
    with error_texts(expected):
        PretrainedVisionConfig(**values)


def test_siglip_2_of_any_size_is_refused_by_name(tmp_path):
    sizes = {"hidden_size": 24, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 32}
    config = Siglip2Config(
        text_config=Siglip2TextConfig(**sizes, vocab_size=20).to_dict(),
        vision_config=Siglip2VisionConfig(**sizes, patch_size=8, num_patches=16).to_dict(),
    )
    AutoModel.from_config(config).save_pretrained(tmp_path)
    ViTImageProcessor(**SIZES, **HALVES).save_pretrained(tmp_path)
    with error_texts("Siglip2VisionModel also needs `pixel_attention_mask` and `spatial_shapes`"):
        load_sign_encoder(str(tmp_path), "")


def test_a_model_that_does_not_exist(tmp_path):
    with error_texts(f"Expected {str(tmp_path / 'nothing')!r} to hold a sign encoder"):
        load_sign_encoder(str(tmp_path / "nothing"), "")


@pytest.mark.parametrize(
    ("config", "expected"),
    [
        (tiny_text_config("t5"), "got model type 't5'. That is neither a sign encoder nor an image or video model"),
        (tiny_language_model_config("llama"), "got model type 'llama'. That is neither a sign encoder nor"),
        (
            Wav2Vec2Config(hidden_size=24, num_hidden_layers=1, num_attention_heads=2, intermediate_size=32),
            "got model type 'wav2vec2'. That is neither a sign encoder nor an image or video model: its model "
            "Wav2Vec2Model takes `input_values`. Take another.",
        ),
    ],
    ids=["encoder-decoder", "decoder-only", "audio"],
)
def test_models_of_another_kind(config, expected, tmp_path):
    config.save_pretrained(tmp_path)
    with error_texts(expected):
        load_sign_encoder(str(tmp_path), "Take another.")


def test_a_folder_without_a_processor(tmp_path):
    save_vision_model("vit", tmp_path, with_processor=False)
    with error_texts(f"{str(tmp_path)!r} has no image processor (preprocessor_config.json), which says how large"):
        load_sign_encoder(str(tmp_path), "")


def test_incomplete_weights(tmp_path):
    model = save_vision_model("vit", tmp_path)
    state = state_of(model)
    removed = next(name for name in state if "layernorm" in name or "query" in name or "q_proj" in name)
    del state[removed]
    model.save_pretrained(tmp_path, state_dict=state)
    with error_texts("is no complete ViTModel. Of its weights, "):
        load_sign_encoder(str(tmp_path), "")


def test_inputs_that_are_refused():
    encoder = encoder_of("vit")
    with error_texts("`pixel_values_videos` must have the shape (batch, frames, 3, height, width), got (2, 3, 32, 32)"):
        encoder(torch.randn(2, 3, 32, 32))
    with error_texts("Clip 1 of the batch is too short: it has 0 frames after sampling"):
        encoder(torch.randn(2, 2, 3, 32, 32), torch.tensor([[1, 1], [0, 0]]))
    encoder.frames_per_chunk = 0
    with error_texts("`frames_per_chunk` must be 1 or more, got 0."):
        encoder(torch.randn(1, 2, 3, 32, 32))
