"""Languages of the tokenizers, and generation that starts as training does."""

import re
from pathlib import Path

import pytest
import torch
from tiny_corpus import (
    build_stage1,
    save_text_model,
    trained_model,
)
from tiny_tokenizers import LANGUAGE_COMES_FIRST, MAKE_TOKENIZER, SENTENCES
from transformers import AutoTokenizer

from modeling_flallm import FLaLLMForTranslation
from processing import FLaLLMProcessor
from train_scripts.arguments.data_arguments import VideoArguments
from train_scripts.arguments.stage_arguments import LLMFineTuningArguments
from train_scripts.languages.target_languages import set_target_language
from train_scripts.runs.tokenizers import load_tokenizer
from train_scripts.stages import llm_fine_tuning

LANGUAGE = {"mbart": "fr_XX", "nllb": "fra_Latn", "m2m_100": "fr"}


@pytest.fixture(params=MAKE_TOKENIZER)
def kind_and_tokenizer(request, tmp_path) -> tuple[str, Path]:
    MAKE_TOKENIZER[request.param](tmp_path).save_pretrained(tmp_path / "tokenizer")
    return request.param, tmp_path / "tokenizer"


def assert_generation_starts_as_training(kind: str, model: FLaLLMForTranslation, processor: FLaLLMProcessor) -> None:
    labels = processor(text_target=SENTENCES)["labels"]
    decoder_input_ids = model.prepare_decoder_input_ids_from_labels(labels)
    settings = model.generation_config
    assert decoder_input_ids[:, 0].tolist() == [settings.decoder_start_token_id] * len(labels)
    features = torch.randn(2, 9, model.config.vision_config.hidden_size)
    generated = model.eval().generate(visual_features=features, min_new_tokens=4, max_new_tokens=6)
    assert generated[:, 0].tolist() == [settings.decoder_start_token_id] * 2
    code = processor.tokenizer.convert_tokens_to_ids(
        {"m2m_100": "__fr__"}.get(kind, LANGUAGE.get(kind, processor.tokenizer.eos_token))
    )
    if kind in LANGUAGE_COMES_FIRST:
        assert settings.forced_bos_token_id == code
        assert generated[:, 1].tolist() == decoder_input_ids[:, 1].tolist() == [code] * 2
    else:
        assert settings.forced_bos_token_id is None
    if kind == "mbart":
        assert settings.decoder_start_token_id == code
    assert settings.eos_token_id == processor.tokenizer.eos_token_id and settings.eos_token_id in labels[0]
    assert settings.pad_token_id == processor.tokenizer.pad_token_id


def test_stage_1_generates_as_it_was_trained(kind_and_tokenizer):
    kind, tokenizer = kind_and_tokenizer
    model, processor = build_stage1(tokenizer, target_language=LANGUAGE.get(kind))
    assert_generation_starts_as_training(kind, model, processor)


@pytest.mark.parametrize(
    ("kind", "text_model"),
    [
        ("mbart", "mbart"),
        ("nllb", "m2m_100"),
        ("m2m_100", "m2m_100"),
        ("t5", "t5"),
        ("t5", "mt5"),
        ("our own", "mbart"),
    ],
)
def test_stage_2_generates_as_it_was_trained(kind, text_model, tmp_path):
    folder = save_text_model(tmp_path / "text_model", text_model, MAKE_TOKENIZER[kind](tmp_path))
    arguments = LLMFineTuningArguments(
        vision_model_name_or_path=str(trained_model()),
        text_model_name_or_path=str(folder),
        target_language=LANGUAGE.get(kind),
    )
    assert_generation_starts_as_training(kind, *llm_fine_tuning.build_model(arguments, VideoArguments()))


def test_target_language_is_written_and_saved(kind_and_tokenizer, tmp_path):
    kind, folder = kind_and_tokenizer
    tokenizer = load_tokenizer(str(folder), LANGUAGE.get(kind))
    if kind in LANGUAGE:
        assert tokenizer.tgt_lang == tokenizer.src_lang == LANGUAGE[kind]
        tokenizer.save_pretrained(tmp_path / "again")
        again = AutoTokenizer.from_pretrained(tmp_path / "again")
        sentence = SENTENCES[0]
        assert again(text_target=sentence)["input_ids"] == tokenizer(text_target=sentence)["input_ids"]


@pytest.mark.parametrize("kind", MAKE_TOKENIZER)
def test_mistaken_target_languages(kind, tmp_path):
    tokenizer = MAKE_TOKENIZER[kind](tmp_path)
    if kind not in LANGUAGE:
        set_target_language(tokenizer, None)
        with pytest.raises(ValueError) as error:
            set_target_language(tokenizer, "de_DE")
        assert str(error.value) == "--target_language de_DE: the tokenizer has no languages. Leave it out."
        return
    with pytest.raises(ValueError) as error:
        set_target_language(tokenizer, None)
    assert str(error.value) == (
        "The tokenizer writes several languages: choose one with --target_language, for example de_DE (mBART) or "
        "deu_Latn (NLLB)."
    )
    for wrong in ("xx_YY", "rain", "<mask>"):
        with pytest.raises(ValueError) as error:
            set_target_language(tokenizer, wrong)
        text = str(error.value)
        assert text.startswith(f"--target_language {wrong} is not one of the tokenizer's languages: ")
        assert LANGUAGE[kind] in re.split(r"[ ,.]+", text)
