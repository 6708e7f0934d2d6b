"""Which kind of language model a configuration of transformers describes. Commands check this before they load one."""

from transformers import PreTrainedConfig


def is_encoder_decoder(text_config: PreTrainedConfig) -> bool:
    """Whether the text model reads with an encoder, such as mBART or T5; otherwise it is decoder-only."""
    return text_config.is_encoder_decoder


__all__ = ["is_encoder_decoder"]
