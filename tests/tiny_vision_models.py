"""Tiny random image and video models of transformers, as configurations and as folders with their own processors."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import (
    AutoModel,
    BaseImageProcessor,
    BeitConfig,
    BitImageProcessor,
    CLIPConfig,
    CLIPImageProcessor,
    CLIPTextConfig,
    CLIPVisionConfig,
    ConvNextConfig,
    ConvNextImageProcessor,
    ConvNextV2Config,
    DeiTConfig,
    DeiTImageProcessor,
    Dinov2Config,
    Dinov2WithRegistersConfig,
    DINOv3ViTConfig,
    PreTrainedConfig,
    PreTrainedModel,
    ResNetConfig,
    SiglipConfig,
    SiglipImageProcessor,
    SiglipTextConfig,
    SiglipVisionConfig,
    SwinConfig,
    TimesformerConfig,
    VideoMAEConfig,
    VideoMAEImageProcessor,
    ViTConfig,
    ViTImageProcessor,
    VivitConfig,
    VivitImageProcessor,
    VJEPA2Config,
    VJEPA2VideoProcessor,
)

from modeling_flallm.configuration_encoder_pretrained_slt import PretrainedVisionConfig
from modeling_flallm.encoder_pretrained_slt import PretrainedVisionEncoder

SIZE_IN_PIXELS = 32
NUM_PATCHES = 16  # of 8 x 8 pixels
TRANSFORMER = {"hidden_size": 24, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 32}
OF_PATCHES = {**TRANSFORMER, "image_size": SIZE_IN_PIXELS, "patch_size": 8}
TEXT_SIDE = {**TRANSFORMER, "vocab_size": 20, "max_position_embeddings": 8}
CONVOLUTIONAL = {"hidden_sizes": [8, 16, 24], "depths": [1, 1, 1]}
VIDEO = {**OF_PATCHES, "num_frames": 4, "tubelet_size": 2}

IMAGE_MODELS: dict[str, Callable[[], PreTrainedConfig]] = {
    "vit": lambda: ViTConfig(**OF_PATCHES),
    "dinov2": lambda: Dinov2Config(**OF_PATCHES, mlp_ratio=2),
    "dinov2_with_registers": lambda: Dinov2WithRegistersConfig(**OF_PATCHES, num_register_tokens=4),
    "dinov3_vit": lambda: DINOv3ViTConfig(**OF_PATCHES, num_register_tokens=4, pos_embed_rescale=None),
    "clip_vision_model": lambda: CLIPVisionConfig(**OF_PATCHES),
    "siglip_vision_model": lambda: SiglipVisionConfig(**OF_PATCHES),
    "convnext": lambda: ConvNextConfig(**CONVOLUTIONAL, num_stages=3),
    "convnextv2": lambda: ConvNextV2Config(**CONVOLUTIONAL, num_stages=3),
    "swin": lambda: SwinConfig(
        image_size=SIZE_IN_PIXELS,
        patch_size=4,
        embed_dim=12,
        depths=[1, 1],
        num_heads=[2, 2],
        window_size=4,
        drop_path_rate=0,
    ),
    "resnet": lambda: ResNetConfig(embedding_size=8, layer_type="basic", **CONVOLUTIONAL),
    "beit": lambda: BeitConfig(
        **OF_PATCHES, use_relative_position_bias=True, layer_scale_init_value=0.1, drop_path_rate=0
    ),
    "deit": lambda: DeiTConfig(**OF_PATCHES),
}
VIDEO_MODELS: dict[str, Callable[[], PreTrainedConfig]] = {
    "videomae": lambda: VideoMAEConfig(**VIDEO),
    "vjepa2": lambda: VJEPA2Config(
        crop_size=SIZE_IN_PIXELS,
        patch_size=8,
        frames_per_clip=4,
        tubelet_size=2,
        hidden_size=24,
        num_attention_heads=2,
        num_hidden_layers=2,
        mlp_ratio=2,
        pred_hidden_size=12,
        pred_num_attention_heads=2,
        pred_num_hidden_layers=1,
    ),
    "timesformer": lambda: TimesformerConfig(**OF_PATCHES, num_frames=4),
    "vivit": lambda: VivitConfig(**{**VIDEO, "tubelet_size": [2, 8, 8]}),
}
CONFIGS = {**IMAGE_MODELS, **VIDEO_MODELS}
# Class and register tokens in front of the patches.
NUM_PREFIX_TOKENS = {
    "vit": 1,
    "dinov2": 1,
    "dinov2_with_registers": 5,
    "dinov3_vit": 5,
    "clip_vision_model": 1,
    "beit": 1,
    "deit": 2,
    "timesformer": 1,
    "vivit": 1,
}
# Both sides of models of images and text.
TWO_SIDED: dict[str, Callable[[], PreTrainedConfig]] = {
    "clip": lambda: CLIPConfig(
        text_config=CLIPTextConfig(**TEXT_SIDE).to_dict(), vision_config=CLIPVisionConfig(**OF_PATCHES).to_dict()
    ),
    "siglip": lambda: SiglipConfig(
        text_config=SiglipTextConfig(**TEXT_SIDE).to_dict(), vision_config=SiglipVisionConfig(**OF_PATCHES).to_dict()
    ),
}
SIZES = {"size": {"height": SIZE_IN_PIXELS, "width": SIZE_IN_PIXELS}}
SHORTEST_EDGE = {"size": {"shortest_edge": 36}, "crop_size": {"height": SIZE_IN_PIXELS, "width": SIZE_IN_PIXELS}}
HALVES = {"image_mean": [0.5, 0.5, 0.5], "image_std": [0.5, 0.5, 0.5]}
UNEVEN = {"image_mean": [0.48, 0.46, 0.41], "image_std": [0.27, 0.26, 0.28]}
PROCESSORS: dict[str, Callable[[], BaseImageProcessor]] = {
    "clip_vision_model": lambda: CLIPImageProcessor(**SHORTEST_EDGE, **UNEVEN),
    "clip": lambda: CLIPImageProcessor(**SHORTEST_EDGE, **UNEVEN),
    "dinov2": lambda: BitImageProcessor(**SHORTEST_EDGE, **UNEVEN),
    "siglip_vision_model": lambda: SiglipImageProcessor(**SIZES, **HALVES),
    "siglip": lambda: SiglipImageProcessor(**SIZES, **HALVES),
    "convnext": lambda: ConvNextImageProcessor(size={"shortest_edge": SIZE_IN_PIXELS}, **UNEVEN),
    "deit": lambda: DeiTImageProcessor(**SHORTEST_EDGE, **UNEVEN),
    "videomae": lambda: VideoMAEImageProcessor(**SHORTEST_EDGE, **UNEVEN),
    "vjepa2": lambda: VJEPA2VideoProcessor(**SHORTEST_EDGE, **UNEVEN),
    "vivit": lambda: VivitImageProcessor(**SHORTEST_EDGE, **HALVES),
}

every_image_model = pytest.mark.parametrize("name", IMAGE_MODELS)
every_video_model = pytest.mark.parametrize("name", VIDEO_MODELS)
needs_traceable_configurations = pytest.mark.skipif(
    torch.__version__.startswith("2.7."), reason="torch 2.7 cannot trace transformers' configurations"
)
every_model = pytest.mark.parametrize("name", CONFIGS)


def encoder_of(name: str, **values: Any) -> PretrainedVisionEncoder:
    """In evaluation mode, with weights that make outputs differ clearly from frame to frame."""
    values = {"image_size": [SIZE_IN_PIXELS, SIZE_IN_PIXELS], **values}
    encoder = PretrainedVisionEncoder(PretrainedVisionConfig(backbone_config=CONFIGS[name](), **values))
    draw_weights(encoder)
    return encoder.eval()


def draw_weights(model: torch.nn.Module) -> None:
    for parameter in model.parameters():
        if parameter.ndim > 1:
            torch.nn.init.normal_(parameter, std=0.2)
    for name, buffer in model.named_buffers():
        if name.endswith("running_var"):
            buffer.uniform_(0.5, 1.5)


def save_vision_model(name: str, folder: Path, with_processor: bool = True) -> PreTrainedModel:
    """A random model of this kind with its own image or video processor, as on the Hub."""
    config = {**CONFIGS, **TWO_SIDED}[name]()
    model = AutoModel.from_config(config).eval()
    draw_weights(model)
    model.save_pretrained(folder)
    if with_processor:
        processor = PROCESSORS.get(name, lambda: ViTImageProcessor(**SIZES, **HALVES))()
        processor.save_pretrained(folder)
    return model
