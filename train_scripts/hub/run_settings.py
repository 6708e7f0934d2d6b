"""
The settings of a training run, each next to its value in the paper's recipe.

Where a value of a recipe comes from, its preset says in `sources`.
"""

import dataclasses
from enum import Enum
from typing import Any

from transformers import PreTrainedConfig

from modeling_flallm.systems import Recipe, Stage, System

from ..arguments.data_arguments import SENTENCE, DataArguments
from ..arguments.dataclass_parser import read_sources, read_yaml
from ..arguments.encoder_arguments import ENCODER_ROWS
from ..arguments.training_arguments import FLaLLMTrainingArguments

# Among the arguments that also cover paths and logging, those that affect what is learned or chosen.
TRAINING_SETTINGS = (
    "num_train_epochs",
    "max_steps",
    "optim",
    "optim_args",
    "learning_rate",
    "adapter_learning_rate",
    "bias_learning_rate",
    "lr_scheduler_type",
    "lr_scheduler_kwargs",
    "warmup_steps",
    "weight_decay",
    "adam_beta1",
    "adam_beta2",
    "adam_epsilon",
    "max_grad_norm",
    "neftune_noise_alpha",
    "train_sampling_strategy",
    "max_frames_per_batch",
    "frames_per_chunk",
    "seed",
    "metric_for_best_model",
    "early_stopping_patience",
    "generation_max_length",
)
VISION_SETTINGS = (
    "backbone",
    "backbone_width",
    "temporal_blocks",
    "temporal_padding",
    "temporal_norm",
    "subtract_mean_frame",
    "visual_hidden_size",
)
WORD_SETTINGS = (
    "word_window_size",
    "word_window_stride",
    "word_hidden_size",
    "word_layers",
    "word_attention_heads",
    "word_feed_forward_size",
)


def deviations(settings: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Settings whose value differs from the paper's preset; the seed does not count."""
    return [setting for setting in settings if setting["value"] != setting["paper"] and setting["name"] != "seed"]


def settings_beside_recipe(all_arguments: tuple[Any, ...], preset: str) -> list[dict[str, Any]]:
    """Every argument that shapes the model, beside the value that the paper's preset gives it."""
    paper, sources = read_yaml(preset), read_sources(preset)
    settings = [
        _setting(
            argument.name,
            _plain(argument.name, getattr(arguments, argument.name)),
            _plain(argument.name, paper.get(argument.name, _default(argument))),
            sources.get(argument.name, "ours: the default, the recipe does not set it"),
            _first_sentence(argument.metadata.get("help", "")),
        )
        for arguments in all_arguments
        for argument in dataclasses.fields(arguments)
        if _is_setting(arguments, argument.name)
    ]
    return [*settings, _clips_per_step(all_arguments[-1], paper, sources)]


def _setting(name: str, value: Any, paper: Any, source: str, meaning: str = "") -> dict[str, Any]:
    return {"name": name, "value": value, "paper": paper, "source": source, "meaning": meaning}


def _clips_per_step(
    training: FLaLLMTrainingArguments, paper: dict[str, Any], sources: dict[str, str]
) -> dict[str, Any]:
    name = "per_device_train_batch_size"
    num_clips = training.train_batch_size * training.gradient_accumulation_steps * training.world_size
    return _setting(
        "clips_per_step",
        num_clips if training.max_frames_per_batch is None else "a varying number of",
        paper[name] * paper.get("gradient_accumulation_steps", 1),
        sources[name],
        "Clips of one step of the optimiser, over all devices.",
    )


def _is_setting(arguments: Any, name: str) -> bool:
    if isinstance(arguments, DataArguments):
        streamed = ("streaming", "shuffle_buffer_size") if arguments.streaming else ()
        recognition = () if arguments.target == SENTENCE else ("target",)
        mirrored = ("mirror_left_handed",) if arguments.mirror_left_handed else ()
        return name in ("max_train_clips", "dataset_weights", *recognition, *mirrored, *streamed)
    if isinstance(arguments, FLaLLMTrainingArguments):
        is_overridden = name == "num_train_epochs" and arguments.max_steps > 0
        return name in TRAINING_SETTINGS and not is_overridden
    if name.startswith("lora_"):
        return getattr(arguments, "lora", False) or getattr(arguments, "vision_lora", False)
    if _is_of_other_clips(arguments, name):
        return False
    return name not in ("target_language", "also_measure_on") and not name.endswith("_name_or_path")


def _is_of_other_clips(arguments: Any, name: str) -> bool:
    """Whether a setting is of the encoder for a kind of clips that the run does not read."""
    rows = [row for row in ENCODER_ROWS if getattr(arguments, row.flag, row) is None]
    return any(name != row.flag and name in {each.name for each in dataclasses.fields(row)} for row in rows)


def _default(argument: dataclasses.Field) -> Any:
    has_factory = argument.default_factory is not dataclasses.MISSING
    return argument.default_factory() if has_factory else argument.default


def _plain(name: str, value: Any) -> Any:
    """The value as JSON stores it. A fused optimiser computes the same as the one without that word in its name."""
    value = value.value if isinstance(value, Enum) else value
    return value.removesuffix("_fused") if name == "optim" else value


def _first_sentence(text: str) -> str:
    return text.split(". ")[0].removesuffix(".") + "." if text else ""


def _share_kept(settings: list[dict[str, Any]], preset: str) -> float:
    values = {setting["name"]: setting["value"] for setting in settings}
    wanted = {name: value for name, value in read_yaml(preset).items() if name in values}
    return sum(values[name] == value for name, value in wanted.items()) / len(wanted)


def recipe_followed(system: System, stage: Stage, settings: list[dict[str, Any]]) -> Recipe:
    """The recipe of which most of the settings are; the system's own, if no other has more."""
    others = [each for each in system.other_recipes if each.stages is None or stage.name in each.stages]
    return max((system.recipe, *others), key=lambda each: _share_kept(settings, f"{each.prefix}_{stage.name}"))


def text_model_setting(config: PreTrainedConfig, paper: str, source: str) -> dict[str, Any]:
    layers = "+".join(str(_num_layers(config, side)) for side in ("encoder", "decoder"))
    return _setting(
        "text_model",
        f"{config.model_type}, {layers} layers, width {config.hidden_size}",
        paper,
        source,
        "The pretrained language model.",
    )


def _num_layers(config: PreTrainedConfig, side: str) -> int | str:
    """T5 calls the encoder's `num_layers`, and the decoder's `num_decoder_layers`."""
    names = (f"{side}_layers", f"num_{side}_layers", "num_layers")
    return next((getattr(config, name) for name in names if hasattr(config, name)), "unknown")


def settings_of_encoder(vision_config: PreTrainedConfig, preset: str) -> list[dict[str, Any]]:
    """What a visual encoder shows by itself, where nothing is known of its training."""
    paper, sources = read_yaml(preset), read_sources(preset)
    values = _vision_values(vision_config)
    return [_setting(name, value, paper[name], sources[name]) for name, value in values.items() if name in paper]


def _vision_values(vision_config: PreTrainedConfig) -> dict[str, Any]:
    """The values in the visual encoder's configuration, by the names of the arguments that set them."""
    words = {name: getattr(vision_config, name) for name in WORD_SETTINGS if hasattr(vision_config, name)}
    frames = getattr(vision_config, "frame_config", vision_config)
    names = {name: name.removeprefix("visual_") for name in VISION_SETTINGS}
    values = {name: getattr(frames, theirs) for name, theirs in names.items() if hasattr(frames, theirs)}
    blocks = {"temporal_blocks": list(values["temporal_blocks"])} if "temporal_blocks" in values else {}
    return {**values, **blocks, **words}
