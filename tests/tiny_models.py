"""Tiny random models of every kind that the tests run on."""

import torch
from transformers import BartConfig, M2M100Config, MBartConfig, MT5Config, T5Config

from modeling_flallm import FLaLLMConfig, FLaLLMForTranslation, FLaLLMVisionConfig, FLaLLMVisionModel

TEXT_MODELS = ("mbart", "t5", "mt5", "m2m_100", "bart")
VOCABULARY_SIZE = 40
PAD, START, END = 1, 2, 3
SHORTEST_CLIP_IN_FRAMES = 16  # for ["K5", "P2", "K5", "P2"] without padding, the longest reach of the tests' modules


def tiny_text_config(name: str, **values):
    """A 2+2-layer text configuration with dropout 0; `name` is mbart, bart, m2m_100, t5 or mt5."""
    shared = {"vocab_size": VOCABULARY_SIZE, "pad_token_id": PAD, "eos_token_id": END, "decoder_start_token_id": START}
    if name in ("t5", "mt5"):
        sizes = {"d_model": 32, "d_kv": 8, "d_ff": 48, "num_layers": 2, "num_decoder_layers": 2, "num_heads": 4}
        return (T5Config if name == "t5" else MT5Config)(**{**sizes, **shared, "dropout_rate": 0.0, **values})
    sizes = {"d_model": 32, "max_position_embeddings": 64, "dropout": 0.0, "attention_dropout": 0.0}
    for side in ("encoder", "decoder"):
        sizes |= {f"{side}_layers": 2, f"{side}_attention_heads": 4, f"{side}_ffn_dim": 48, f"{side}_layerdrop": 0.0}
    config_class = {"mbart": MBartConfig, "bart": BartConfig, "m2m_100": M2M100Config}[name]
    return config_class(**{**sizes, **shared, "bos_token_id": 0, "forced_eos_token_id": END, **values})


def tiny_vision_config(**values) -> FLaLLMVisionConfig:
    return FLaLLMVisionConfig(**{"backbone_width": 4, "hidden_size": 24, **values})


def tiny_config(text: str = "mbart", vision: dict | None = None, **values) -> FLaLLMConfig:
    return FLaLLMConfig(
        vision_config=tiny_vision_config(**(vision or {})),
        text_config=tiny_text_config(text),
        **{"adapter_hidden_size": 20, **values},
    )


def tiny_model(text: str = "mbart", vision: dict | None = None, **values) -> FLaLLMForTranslation:
    """In evaluation mode, with BatchNorm statistics that are not the trivial 0 and 1."""
    model = FLaLLMForTranslation(tiny_config(text, vision, **values))
    draw_batch_norm_statistics(model)
    for parameter in model.text_model.parameters():
        if parameter.ndim == 2:
            torch.nn.init.normal_(parameter, std=0.3)  # so that outputs differ clearly from input to input
    return model.eval()


def tiny_vision_model(**values) -> FLaLLMVisionModel:
    """In evaluation mode, with BatchNorm statistics that are not the trivial 0 and 1."""
    model = FLaLLMVisionModel(tiny_vision_config(**values))
    draw_batch_norm_statistics(model)
    return model.eval()


def draw_batch_norm_statistics(model: torch.nn.Module) -> None:
    for name, buffer in model.named_buffers():
        if name.endswith("running_mean"):
            buffer.normal_(std=0.1)
        elif name.endswith("running_var"):
            buffer.uniform_(0.5, 1.5)


def random_batch(lengths: list[int], size: int = 32, target_length: int = 7) -> dict[str, torch.Tensor]:
    """Clips of the given lengths, padded with zeros; labels of different lengths, ended and padded with -100."""
    pixels = torch.randn(len(lengths), max(lengths), 3, size, size)
    mask = torch.arange(max(lengths))[None] < torch.tensor(lengths)[:, None]
    labels = torch.randint(4, VOCABULARY_SIZE, (len(lengths), target_length))
    for row in range(len(lengths)):
        end = target_length - 1 - row % 3
        labels[row, end] = END
        labels[row, end + 1 :] = -100
    return {
        "pixel_values_videos": pixels * mask[..., None, None, None],
        "pixel_attention_mask": mask.long(),
        "labels": labels,
    }
