"""What an exported model has to know beside its graphs and how to read clips: what to ask, and how to write."""

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
NUM_INFERENCE_STEPS, GUIDANCE_SCALE = "num_inference_steps", "guidance_scale"


def generation_settings(model: PreTrainedModel) -> dict[str, Any]:
    """
    The fields of `Generation` for a model.

    Raises:
        ValueError: for settings that an exported model does not have.
    """
    config: GenerationConfig = model.generation_config
    is_diffusion = model.draws_samples
    _check_idle(config, is_diffusion)
    settings = {
        each.name: value for each in fields(Generation) if (value := getattr(config, each.name, None)) is not None
    }
    if is_diffusion:  # it writes greedily unless it is asked for beams
        settings.pop("num_beams", None)
    eos = settings.get("eos_token_id")
    if eos is None:
        raise ValueError(f"The model has no eos_token_id, with which sentences end. {ADVICE}")
    settings["eos_token_id"] = eos = list(eos) if isinstance(eos, list | tuple) else [eos]
    settings.setdefault("pad_token_id", eos[0])
    if model.is_prompted:
        for name in ("decoder_start_token_id", "forced_bos_token_id"):
            settings.pop(name, None)
        if settings.get("repetition_penalty", 1.0) != 1.0:
            raise ValueError(f"An exported model that continues a prompt has no repetition_penalty. {ADVICE}")
        settings["suppress_tokens"] = [*settings.get("suppress_tokens", ()), model.config.video_token_id]
    else:
        starts = (settings.get("decoder_start_token_id"), config.bos_token_id)
        settings["decoder_start_token_id"] = next((each for each in starts if each is not None), None)
        if not isinstance(settings["decoder_start_token_id"], int):
            raise ValueError(
                "decoder_start_token_id must be one token, with which all sentences start, got "
                f"{settings['decoder_start_token_id']}. {ADVICE}"
            )
    if isinstance(settings.get("forced_eos_token_id"), list):
        raise ValueError(f"forced_eos_token_id must be one token, got {settings['forced_eos_token_id']}. {ADVICE}")
    most = None if model.is_prompted else model.get_max_num_tokens()
    if config.max_new_tokens is not None:
        settings["max_length"] = config.max_new_tokens + (not model.is_prompted)
    elif most is not None and settings.get("max_length") is not None:
        settings["max_length"] = min(settings["max_length"], most)
    return settings


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
