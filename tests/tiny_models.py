"""Tiny random models of every kind that the tests run on, and shared parts of the tests of models."""

import re

import pytest
import torch
from torch.testing import assert_close
from transformers import (
    BartConfig,
    GemmaConfig,
    GPT2Config,
    LlamaConfig,
    M2M100Config,
    MBartConfig,
    MT5Config,
    OPTConfig,
    PreTrainedModel,
    Qwen2Config,
    Qwen3Config,
    T5Config,
    XGLMConfig,
)

from modeling_flallm import (
    DescribedConfig,
    DiffSltAutoencoder,
    DiffSltAutoencoderConfig,
    DiffSltConfig,
    DiffSltForTranslation,
    FLaLLMConfig,
    FLaLLMForTranslation,
    FLaLLMVisionConfig,
    FLaLLMVisionModel,
    LlavaSltConfig,
    LlavaSltContrastiveConfig,
    LlavaSltForContrastivePreTraining,
    LlavaSltForTranslation,
    LlavaSltVisualConfig,
    MmsltConfig,
    MmsltForPreTraining,
    MmsltForTranslation,
    MmsltPreTrainingConfig,
    TemporalConfig,
    UniSignConfig,
    UniSignForTranslation,
    UniSignPoseConfig,
    UniSignPoseEncoder,
)
from modeling_flallm.encoder_two_levels_slt import two_levels_of

TEXT_MODELS = ("mbart", "t5", "mt5", "m2m_100", "bart")
LANGUAGE_MODELS = ("llama", "qwen2", "qwen3", "gemma", "gpt2", "xglm", "opt")
# One with rotary positions and scaled embeddings, and one with learned positions and tied embeddings.
QUICK_LANGUAGE_MODELS = ("gemma", "gpt2")
every_language_model = pytest.mark.parametrize(
    "name",
    [pytest.param(name, marks=() if name in QUICK_LANGUAGE_MODELS else pytest.mark.slow) for name in LANGUAGE_MODELS],
)
VIDEO = ("pixel_values_videos", "pixel_attention_mask")
every_text_model = pytest.mark.parametrize("text", TEXT_MODELS)
VISUAL_ENCODERS = {
    "paper": {},
    "sltbaselines": {"temporal_blocks": ["K5", "P2", "K5", "P2"], "temporal_padding": "replicate"},
    "layer norm, no padding": {
        "temporal_blocks": ["K5", "P2", "K5", "P2"],
        "temporal_padding": "none",
        "temporal_norm": "layer_norm",
        "subtract_mean_frame": True,
    },
    "K3": {"temporal_blocks": ["K3"], "temporal_norm": "layer_norm"},
}
every_visual_encoder = pytest.mark.parametrize("vision", VISUAL_ENCODERS.values(), ids=VISUAL_ENCODERS.keys())
# A text model takes only tokens and their mask from a visual encoder: testing each with one of the others is enough.
every_text_model_and_visual_encoder = pytest.mark.parametrize(
    ("text", "vision"),
    [
        *(pytest.param("mbart", vision, id=f"mbart, {name}") for name, vision in VISUAL_ENCODERS.items()),
        *(pytest.param(text, VISUAL_ENCODERS["layer norm, no padding"], id=text) for text in TEXT_MODELS[1:]),
    ],
)
VOCABULARY_SIZE = 40
VIDEO_TOKEN = VOCABULARY_SIZE - 1
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


def tiny_language_model_config(name: str, **values):
    """A 2-layer decoder-only configuration with dropout 0; `name` is one of `LANGUAGE_MODELS`."""
    shared = {"vocab_size": VOCABULARY_SIZE, "pad_token_id": PAD, "bos_token_id": START, "eos_token_id": END, **values}
    if name == "gpt2":
        no_dropout = {"resid_pdrop": 0.0, "embd_pdrop": 0.0, "attn_pdrop": 0.0}
        return GPT2Config(**{"n_embd": 32, "n_layer": 2, "n_head": 4, "n_positions": 64, **no_dropout, **shared})
    sizes = {"max_position_embeddings": 64, "attention_dropout": 0.0}
    if name in ("xglm", "opt"):
        sizes |= {"ffn_dim": 48, "dropout": 0.0, "layerdrop": 0.0}
        if name == "xglm":
            return XGLMConfig(**{"d_model": 32, "num_layers": 2, "attention_heads": 4, **sizes, **shared})
        # Its token embeddings are narrower than the model.
        sizes |= {"hidden_size": 32, "word_embed_proj_dim": 16, "num_hidden_layers": 2, "num_attention_heads": 4}
        return OPTConfig(**{**sizes, **shared})
    sizes |= {"hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2}
    heads = {"num_attention_heads": 4, "num_key_value_heads": 2, "head_dim": 8}
    config_class = {"llama": LlamaConfig, "qwen2": Qwen2Config, "qwen3": Qwen3Config, "gemma": GemmaConfig}[name]
    return config_class(**{**sizes, **heads, **shared})


def tiny_vision_config(**values) -> FLaLLMVisionConfig:
    return FLaLLMVisionConfig(**{"backbone_width": 8, "hidden_size": 24, **values})


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


def tiny_visual_config(**values) -> LlavaSltVisualConfig:
    sizes = {"word_hidden_size": 16, "word_attention_heads": 4, "word_feed_forward_size": 24, "word_window_size": 4}
    return LlavaSltVisualConfig(**{"frame_config": tiny_vision_config(), "dropout": 0.0, **sizes, **values})


def tiny_llava_slt(
    language_model: str = "llama", vision: dict | None = None, vocabulary_size: int = VOCABULARY_SIZE, **values
) -> LlavaSltForTranslation:
    """In evaluation mode, with weights that make outputs differ clearly from input to input."""
    config = LlavaSltConfig(
        vision_config=tiny_visual_config(**(vision or {})),
        text_config=tiny_language_model_config(language_model, vocab_size=vocabulary_size),
        **{"video_token_id": VIDEO_TOKEN, **values},
    )
    model = LlavaSltForTranslation(config)
    draw_batch_norm_statistics(model)
    let_windows_mix(model.vision_model)
    for parameter in [*model.language_model.parameters(), *model.connector.parameters()]:
        if parameter.ndim == 2:
            torch.nn.init.normal_(parameter, std=0.3)
    model.generation_config.max_length = 8
    return model.eval()


def tiny_uni_sign(text: str = "mt5", vision: dict | None = None, **values) -> UniSignForTranslation:
    """In evaluation mode, with weights that make outputs differ clearly from input to input."""
    encoder = tiny_pose_encoder(**(vision or {}))
    model = UniSignForTranslation(
        UniSignConfig(vision_config=encoder.config, text_config=tiny_text_config(text), **values)
    )
    model.vision_model.load_state_dict(encoder.state_dict())
    for parameter in [*model.text_model.parameters(), *model.adapter.parameters()]:
        if parameter.ndim == 2:
            torch.nn.init.normal_(parameter, std=0.3)
    return model.eval()


DESCRIPTION_SIZE = 6


def tiny_described_config(**values) -> TemporalConfig:
    """Of a sign encoder as MMSLT's, with one visual token for two frames; `values` are those of the temporal module."""
    frames = FLaLLMVisionConfig(backbone_width=8, hidden_size=64, temporal_blocks=[])
    described = DescribedConfig(encoder_config=frames, description_size=DESCRIPTION_SIZE, mapper_hidden_size=10)
    return TemporalConfig(encoder_config=described, **{"temporal_blocks": ["K5", "P2"], "hidden_size": 24, **values})


def tiny_mmslt(text: str = "mbart", **values) -> MmsltForTranslation:
    """In evaluation mode, with weights that make outputs differ clearly from input to input."""
    config = MmsltConfig(
        vision_config=tiny_described_config(), text_config=tiny_text_config(text), adapter_hidden_size=20, **values
    )
    return _talkative(MmsltForTranslation(config))


def tiny_mmslt_pretraining(text: str = "mbart", **values) -> MmsltForPreTraining:
    """As `tiny_mmslt`, with a memory of four sentences and what does not run frozen."""
    config = MmsltPreTrainingConfig(
        vision_config=tiny_described_config(),
        text_config=tiny_text_config(text),
        adapter_hidden_size=20,
        **{"memory_bank_size": 4, **values},
    )
    model = _talkative(MmsltForPreTraining(config))
    model.freeze_what_does_not_run()
    return model


def _talkative(model: torch.nn.Module) -> torch.nn.Module:
    draw_batch_norm_statistics(model)
    for parameter in model.text_model.parameters():
        if parameter.ndim == 2:
            torch.nn.init.normal_(parameter, std=0.3)
    return model.eval()


def tiny_diffslt(text: str = "mbart", base: PreTrainedModel | None = None, **values) -> DiffSltForTranslation:
    """In evaluation mode, with weights that make outputs differ clearly from input to input; `base` is trained."""
    encoder = two_levels_of(tiny_model() if base is None else base)
    sizes = {
        "num_latents": 4,
        "latent_size": 8,
        "autoencoder_layers": 1,
        "autoencoder_heads": 4,
        "denoiser_size": 16,
        "denoiser_layers": 2,
        "denoiser_heads": 2,
        "fusion_layers": 1,
    }
    config = DiffSltConfig(vision_config=encoder.config, text_config=tiny_text_config(text), **{**sizes, **values})
    model = DiffSltForTranslation(config)
    model.vision_model = encoder
    for parameter in model.denoiser.parameters():
        if parameter.ndim == 2:
            torch.nn.init.normal_(parameter, std=0.3)
    model.generation_config.num_inference_steps = 3
    model.generation_config._from_model_config = False  # then it is read again
    return _talkative(model)


def tiny_autoencoder(text: str = "mbart", **values) -> DiffSltAutoencoder:
    """In evaluation mode, with weights that make outputs differ clearly from input to input."""
    sizes = {"num_latents": 3, "latent_size": 6, "autoencoder_layers": 2, "autoencoder_heads": 4}
    return _talkative(
        DiffSltAutoencoder(DiffSltAutoencoderConfig(text_config=tiny_text_config(text), **{**sizes, **values}))
    )


# The translation model of each system.
TINY_MODELS = {
    "flallm": tiny_model,
    "llava_slt": tiny_llava_slt,
    "uni_sign": tiny_uni_sign,
    "mmslt": tiny_mmslt,
    "diffslt": tiny_diffslt,
}


def tiny_contrastive_model(vision: dict | None = None, **values) -> LlavaSltForContrastivePreTraining:
    """In evaluation mode; 9 random word targets."""
    sizes = {"sentence_target_size": 12, "word_target_size": 10, "word_vocabulary_size": 9}
    config = LlavaSltContrastiveConfig(vision_config=tiny_visual_config(**(vision or {})), **{**sizes, **values})
    model = LlavaSltForContrastivePreTraining(config)
    draw_batch_norm_statistics(model)
    let_windows_mix(model.vision_model)
    if model.has_word_level:
        model.set_word_targets(torch.randn_like(model.word_targets))
    return model.eval()


def random_prompts(lengths: list[int], answer_lengths: list[int] | None = None, stride: int = 2) -> dict:
    """
    Clips of the given lengths with their prompts, padded on the left; with `answer_lengths` also sentences after the
    prompts, and labels.
    """
    batch = random_batch(lengths)
    del batch["labels"]
    prompts = [
        [START, *[VIDEO_TOKEN] * -(-length // stride), *torch.randint(4, VIDEO_TOKEN, (3,)).tolist()]
        for length in lengths
    ]
    answers = [
        [*torch.randint(4, VIDEO_TOKEN, (length - 1,)).tolist(), END] if length else []
        for length in answer_lengths or [0] * len(lengths)
    ]
    rows = list(zip(prompts, answers, strict=True))
    longest = max(len(prompt) + len(answer) for prompt, answer in rows)
    pads = [longest - len(prompt) - len(answer) for prompt, answer in rows]
    batch["input_ids"] = torch.tensor([[PAD] * pad + p + a for pad, (p, a) in zip(pads, rows, strict=True)])
    batch["attention_mask"] = torch.tensor([[0] * pad + [1] * (longest - pad) for pad in pads])
    if answer_lengths is not None:
        labels = [[-100] * (pad + len(p)) + a for pad, (p, a) in zip(pads, rows, strict=True)]
        batch["labels"] = torch.tensor(labels)
    return batch


def tiny_vision_model(**values) -> FLaLLMVisionModel:
    """In evaluation mode, with BatchNorm statistics that are not the trivial 0 and 1."""
    model = FLaLLMVisionModel(tiny_vision_config(**values))
    draw_batch_norm_statistics(model)
    return model.eval()


def tiny_pose_encoder(**values) -> UniSignPoseEncoder:
    """In evaluation mode, with BatchNorm statistics and adjacency matrices that are not those of a new one."""
    encoder = UniSignPoseEncoder(UniSignPoseConfig(**{"spatial_widths": [4, 8], "temporal_layers": 2, **values}))
    draw_batch_norm_statistics(encoder)
    for name, parameter in encoder.named_parameters():
        if name.endswith(("adjacency", "token_bias", "projection.weight")):
            torch.nn.init.normal_(parameter, std=0.3)
    return encoder.eval()


def let_windows_mix(visual_encoder: torch.nn.Module) -> None:
    """The word level's layers begin as the identity, which would hide errors in them."""
    for layer in visual_encoder.word_level.layers:
        torch.nn.init.normal_(layer.self_attn.out_proj.weight, std=0.3)
        torch.nn.init.normal_(layer.linear2.weight, std=0.3)


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


def random_pose_batch(lengths: list[int], target_length: int = 7) -> dict[str, torch.Tensor]:
    """As `random_batch`, of poses."""
    batch = random_batch(lengths, size=1, target_length=target_length)
    mask = batch["pixel_attention_mask"]
    poses = torch.rand(*mask.shape, 69, 3) * 2 - 1
    return {
        "pose_values": poses * mask[..., None, None],
        "pose_attention_mask": mask,
        "labels": batch["labels"],
    }


def video_of(batch: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    return {name: batch[name] for name in VIDEO}


def random_video_batch(**values) -> dict[str, torch.Tensor]:
    """Three clips of unequal lengths that are long enough for every visual encoder here."""
    return random_batch((torch.randperm(12)[:3] + SHORTEST_CLIP_IN_FRAMES).tolist(), **values)


def with_garbage_in_the_padding(batch: dict[str, torch.Tensor], extra_frames: int = 3) -> dict[str, torch.Tensor]:
    """The same clips with more padding, filled with large numbers."""
    pixels, mask = batch["pixel_values_videos"], batch["pixel_attention_mask"]
    pixels = torch.nn.functional.pad(pixels, (0, 0) * 3 + (0, extra_frames))
    mask = torch.nn.functional.pad(mask, (0, extra_frames))
    garbage = 1e4 * torch.randn_like(pixels)
    return {
        "pixel_values_videos": torch.where(mask[..., None, None, None] == 1, pixels, garbage),
        "pixel_attention_mask": mask,
    }


def visual_features_of(model: FLaLLMForTranslation, batch: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    output = model.vision_model(**video_of(batch))
    return {"visual_features": output.last_hidden_state, "visual_attention_mask": output.attention_mask}


def state_of(module: torch.nn.Module) -> dict[str, torch.Tensor]:
    return {name: value.clone() for name, value in module.state_dict().items()}


def gradients_of(model: torch.nn.Module) -> dict[str, torch.Tensor]:
    return {name: parameter.grad.clone() for name, parameter in model.named_parameters() if parameter.grad is not None}


def assert_gradients_close(gradients: dict[str, torch.Tensor], expected: dict[str, torch.Tensor]) -> None:
    """Within 1e-5 of the largest entry of each gradient, or of 1 if that is larger."""
    assert gradients.keys() == expected.keys()
    for name, gradient in expected.items():
        tolerance = 1e-5 * max(1.0, gradient.abs().max().item())
        assert_close(gradients[name], gradient, atol=tolerance, rtol=0, msg=lambda text, name=name: f"{name}: {text}")


def loss_and_gradients(model, batch) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
    loss = model(**batch).loss
    loss.backward()
    return loss.detach(), {name: parameter.grad for name, parameter in model.named_parameters()}


def error_texts(wrong):
    return pytest.raises(ValueError, match=re.escape(wrong))
