"""How a trained model generates sentences by default."""

from typing import Any

from transformers import GenerationConfig, PreTrainedModel, PreTrainedTokenizerBase

from ..languages.target_languages import language_ids

MOST_TOKENS = 150  # sltbaselines' limit; the prompt of a prompted model does not count


def set_generation_defaults(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, num_beams: int) -> None:
    """
    Beam search, whatever the language model was saved with, because chat models sample. An encoder-decoder starts as
    in training.
    """
    most = model.get_max_num_tokens()
    model.generation_config = GenerationConfig(
        pad_token_id=tokenizer.pad_token_id,
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
        num_beams=num_beams,
        # Not as max_new_tokens, which would override --generation_max_length.
        max_length=min(MOST_TOKENS, most or MOST_TOKENS),
        **({} if model.is_prompted else _start_of_sentences(model, tokenizer)),
    )


def _start_of_sentences(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase) -> dict[str, Any]:
    """
    mBART moves the language code from the end of the labels to the front, NLLB has it first in the labels, and others
    have none: this looks at the labels of a real sentence to decide.
    """
    labels = tokenizer(text_target="a", return_tensors="pt")["input_ids"]
    first_label = int(labels[0, 0])
    return {
        "decoder_start_token_id": int(model.prepare_decoder_input_ids_from_labels(labels)[0, 0]),
        "forced_bos_token_id": first_label if first_label in language_ids(tokenizer).values() else None,
    }
