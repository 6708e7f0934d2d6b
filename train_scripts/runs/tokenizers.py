"""Tokenizers of text models: as they were saved, with a target language set, or trained on sentences."""

from collections.abc import Sequence

from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers
from transformers import (
    AutoTokenizer,
    PreTrainedTokenizerBase,
    PreTrainedTokenizerFast,
)

from ..hub.hub_errors import explain_hub_error
from ..languages.target_languages import set_target_language
from .damaged_models import reading_model
from .trained_models import check_is_no_visual_encoder

SPECIAL_TOKENS = {"bos_token": "<s>", "pad_token": "<pad>", "eos_token": "</s>", "unk_token": "<unk>"}
MASK_TOKEN = "<mask>"


def train_tokenizer(sentences: Sequence[str], max_vocabulary_size: int) -> PreTrainedTokenizerFast:
    """Byte-pair encoding over words with spaces kept, NFKC-normalised; labels end with `</s>`."""
    tokenizer = Tokenizer(models.BPE(unk_token=SPECIAL_TOKENS["unk_token"]))
    tokenizer.normalizer = normalizers.NFKC()
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace()
    tokenizer.decoder = decoders.Metaspace()
    specials = [*SPECIAL_TOKENS.values(), MASK_TOKEN]
    trainer = trainers.BpeTrainer(vocab_size=max_vocabulary_size, special_tokens=specials, show_progress=False)
    tokenizer.train_from_iterator(sentences, trainer)
    end = SPECIAL_TOKENS["eos_token"]
    tokenizer.post_processor = processors.TemplateProcessing(
        single=f"$A {end}", special_tokens=[(end, tokenizer.token_to_id(end))]
    )
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, mask_token=MASK_TOKEN, **SPECIAL_TOKENS)


def open_tokenizer(name_or_path: str) -> PreTrainedTokenizerBase:
    """
    The tokenizer of a text model as it was saved.

    Raises:
        ValueError: if there is none.
    """
    check_is_no_visual_encoder(name_or_path)
    try:
        with reading_model(name_or_path):
            return AutoTokenizer.from_pretrained(name_or_path)
    except (OSError, ValueError) as error:
        reason = explain_hub_error(error, name_or_path)
        raise ValueError(f"{name_or_path!r} has no tokenizer that can be loaded: {reason}") from error


def load_tokenizer(name_or_path: str, target_language: str | None) -> PreTrainedTokenizerBase:
    """
    The tokenizer of a text model, set to the language it writes.

    Raises:
        ValueError: if there is none, or for a language as in `set_target_language`.
    """
    tokenizer = open_tokenizer(name_or_path)
    set_target_language(tokenizer, target_language)
    return tokenizer
