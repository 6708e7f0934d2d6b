"""What an exported model has to know beside its graphs and how to read clips: what to ask, and how to write."""

import copy
from dataclasses import fields
from typing import Any

from transformers import GenerationConfig, PreTrainedModel

from exported_runner.search import Generation
from modeling_flallm.own_processing import FLaLLMProcessor

ADVICE = "Change that in the model's generation_config.json, or use the model itself."
# Settings of `generate` that change nothing at these values, or that only say what is returned.
IDLE_VALUES: dict[str, tuple[Any, ...]] = {
    "do_sample": (False,),
    "num_return_sequences": (1,),
    "num_beam_groups": (1,),
    "diversity_penalty": (0.0,),
    "penalty_alpha": (),
    "sequence_bias": (),
    "bad_words_ids": (),
    "begin_suppress_tokens": (),
    "encoder_repetition_penalty": (1.0,),
    "encoder_no_repeat_ngram_size": (0,),
    "exponential_decay_length_penalty": (),
    "remove_invalid_values": (False,),
    "renormalize_logits": (False,),
    "stop_strings": (),
    "watermarking_config": (),
    "dola_layers": (),
    "constraints": (),
    "force_words_ids": (),
    "max_time": (),
}
USUAL_NEW_TOKENS = 20  # of transformers
NUM_INFERENCE_STEPS, GUIDANCE_SCALE = "num_inference_steps", "guidance_scale"


def generation_settings(model: PreTrainedModel) -> dict[str, Any]:
    """
    The fields of `Generation` for a model.

    Raises:
        ValueError: for settings that an exported model does not have.
    """
    config = _settings_of_generate(model)
    _check_idle(config, model.draws_samples)
    names = [each.name for each in fields(Generation)]
    settings = {name: value for name in names if (value := getattr(config, name, None)) is not None}
    eos = settings.get("eos_token_id")
    if eos is None:
        raise ValueError(f"The model has no eos_token_id, with which sentences end. {ADVICE}")
    settings["eos_token_id"] = eos = list(eos) if isinstance(eos, list | tuple) else [eos]
    settings.setdefault("pad_token_id", eos[0])
    if isinstance(settings.get("forced_eos_token_id"), list):
        raise ValueError(f"forced_eos_token_id must be one token, got {settings['forced_eos_token_id']}. {ADVICE}")
    num_first = int(not model.is_prompted)
    for name in ("max", "min"):
        new_tokens = getattr(config, f"{name}_new_tokens")
        if new_tokens is not None:
            settings[f"{name}_length"] = new_tokens + num_first
    settings.setdefault("max_length", USUAL_NEW_TOKENS + num_first)
    return _for_prompts(model, settings) if model.is_prompted else _for_decoder(model, settings, config.bos_token_id)


def _settings_of_generate(model: PreTrainedModel) -> GenerationConfig:
    """The model's; where its text model is the one that generates, that fills what they leave open."""
    config = copy.deepcopy(model.generation_config)
    if model.draws_samples:
        config.update(**model.get_text_model().generation_config.to_dict(), defaults_only=True)
    return config


def _for_prompts(model: PreTrainedModel, settings: dict[str, Any]) -> dict[str, Any]:
    """Settings of a model that continues a prompt, which never writes the placeholder of its video."""
    settings.pop("decoder_start_token_id", None)
    if settings.get("repetition_penalty", 1.0) != 1.0 or "forced_bos_token_id" in settings:
        raise ValueError(
            "An exported model that continues a prompt has neither repetition_penalty nor forced_bos_token_id. "
            f"{ADVICE}"
        )
    return {**settings, "suppress_tokens": [*settings.get("suppress_tokens", ()), model.config.video_token_id]}


def _for_decoder(model: PreTrainedModel, settings: dict[str, Any], bos_token_id: int | None) -> dict[str, Any]:
    """Settings of an encoder-decoder, whose decoder begins with one token, and has places for so many."""
    start = settings.get("decoder_start_token_id", bos_token_id)
    if not isinstance(start, int):
        raise ValueError(
            f"decoder_start_token_id must be one token, with which all sentences start, got {start}. {ADVICE}"
        )
    most = model.get_max_num_tokens()
    max_length = settings["max_length"] if most is None else min(settings["max_length"], most)
    return {**settings, "decoder_start_token_id": start, "max_length": max_length}


def _check_idle(config: GenerationConfig, is_diffusion: bool) -> None:
    idle = dict(IDLE_VALUES) | ({} if is_diffusion else {GUIDANCE_SCALE: (1, 1.0)})
    for name, values in idle.items():
        value = getattr(config, name, None)
        if value is not None and value not in values:
            raise ValueError(f"An exported model cannot write with {name}={value!r}. {ADVICE}")


def prompt_settings(model: PreTrainedModel, processor: FLaLLMProcessor) -> dict[str, Any]:
    """The prompt that a model reads, with a place for the spoken language: nothing for a model without one."""
    if not model.prompt_input_names:
        return {}
    prompt: dict[str, Any] = {"text": processor.prompt, "spoken_language": processor.spoken_language}
    if model.is_prompted:
        content = [{"type": "video"}, {"type": "text", "text": processor.prompt}]
        prompt["text"] = processor.apply_chat_template(
            [{"role": "user", "content": content}], add_generation_prompt=True
        )
        prompt["video_token_id"] = model.config.video_token_id
    return {"prompt": prompt}
