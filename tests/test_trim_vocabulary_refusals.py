"""What trimming rejects: models, tokenizers, configurations, texts and folders that do not fit."""

import json
import re
from pathlib import Path

import pytest
from tiny_checkpoints import (
    checkpoint,
    load,
    save_with_tokenizer,
    text,
    train_sentencepiece,
    trim_flags,
    trimmed,
    write_lines,
)
from tiny_corpus import error_of, flags
from tiny_models import tiny_model
from tokenizers import Tokenizer, models, normalizers
from transformers import (
    AutoModelForSeq2SeqLM,
    AutoTokenizer,
    BertTokenizer,
    GPT2Config,
    GPT2LMHeadModel,
    M2M100Tokenizer,
    PreTrainedTokenizerFast,
)

from modeling_flallm import light_transformer_config
from train_scripts.commands import trim_vocabulary
from train_scripts.runs.trimmed_tokenizers import check_trimmed_tokenizer


def test_an_output_folder_in_use_is_refused(tmp_path, capsys):
    (tmp_path / "notes.txt").write_text("mine")
    message = error_of(trim_vocabulary.main, trim_flags("mbart", tmp_path), capsys)
    assert message == f"--output_dir {tmp_path} is not empty. Name a new folder, or remove this one."
    assert [path.name for path in tmp_path.iterdir()] == ["notes.txt"]


def test_text_is_required(tmp_path, capsys):
    file = write_lines("empty.txt", ["", "  "])
    message = error_of(trim_vocabulary.main, trim_flags("mbart", tmp_path / "out", text_file=file), capsys)
    assert message == f"{file} has no sentence. It must hold one per line."
    argv = flags(text_model_name_or_path=checkpoint("mbart"), output_dir=tmp_path / "out")
    message = error_of(trim_vocabulary.main, argv, capsys)
    assert message == "There is no text to trim to. Pass --text_file, --dataset, or both."
    assert error_of(trim_vocabulary.main, argv[2:], capsys) == "`--text_model_name_or_path` is required."
    assert error_of(trim_vocabulary.main, argv[:2], capsys) == "`--output_dir` is required."
    assert not (tmp_path / "out").exists()


def test_an_unknown_language_is_refused(tmp_path, capsys):
    message = error_of(trim_vocabulary.main, trim_flags("mbart", tmp_path, target_language="de"), capsys)
    assert message.startswith("--target_language de is not one of the tokenizer's languages: ar_AR, cs_CZ, de_DE, ")


def refusal(folder: Path, tmp_path: Path, capsys, **values) -> str:
    argv = trim_flags("mbart", tmp_path / "out", text_model_name_or_path=folder, **values)
    message = error_of(trim_vocabulary.main, argv, capsys)
    assert not (tmp_path / "out").exists()
    return message


def test_other_models_are_refused(tmp_path, capsys):
    tokenizer = AutoTokenizer.from_pretrained(checkpoint("mbart"))
    gpt2 = GPT2LMHeadModel(GPT2Config(vocab_size=len(tokenizer), n_embd=16, n_layer=1, n_head=2))
    for name, model in (("gpt2", gpt2), ("flallm", tiny_model())):
        folder = save_with_tokenizer(model, tokenizer, tmp_path / name)
        assert refusal(folder, tmp_path, capsys) == (
            f"{str(folder)!r} must hold an encoder-decoder text model (mBART, NLLB, T5, mT5, BART): its model type is "
            f"{name!r}"
        )


def test_other_tokenizers_are_refused(tmp_path, capsys):
    spm = tmp_path / "spm"
    spm.mkdir()
    train_sentencepiece(spm, "sentencepiece.bpe.model", model_type="bpe")
    (spm / "vocab.json").write_text(json.dumps({"<s>": 0, "<pad>": 1, "</s>": 2, "<unk>": 3, "▁": 4}))
    slow = M2M100Tokenizer(str(spm / "vocab.json"), str(spm / "sentencepiece.bpe.model"))
    word_pieces = BertTokenizer(vocab={"[PAD]": 0, "[UNK]": 1, "[CLS]": 2, "[SEP]": 3, "[MASK]": 4, "a": 5})
    ends = Tokenizer(models.BPE(vocab={"<unk>": 0, "a</w>": 1}, merges=[], end_of_word_suffix="</w>"))
    suffix = PreTrainedTokenizerFast(tokenizer_object=ends, unk_token="<unk>", pad_token="<unk>", eos_token="<unk>")
    model = AutoModelForSeq2SeqLM.from_config(light_transformer_config(vocab_size=200, d_model=16, encoder_layers=1))
    advice = "Those of mBART, mBART-50, NLLB, T5, mT5 and BART can."
    for name, tokenizer, language_, expected in (
        ("m2m", slow, "de", f"A M2M100Tokenizer has no tokenizer.json and cannot be trimmed. {advice}"),
        ("bert", word_pieces, None, f"A tokenizer with a WordPiece model cannot be trimmed. {advice}"),
        ("suffix", suffix, None, f"A tokenizer that marks the insides or ends of words cannot be trimmed. {advice}"),
    ):
        folder = save_with_tokenizer(model, tokenizer, tmp_path / name)
        argv = flags(text_model_name_or_path=folder, output_dir=tmp_path / "out", text_file=write_lines("a.txt", ["a"]))
        argv += flags(target_language=language_) if language_ else []
        assert error_of(trim_vocabulary.main, argv, capsys) == expected
        assert not (tmp_path / "out").exists()


def test_configurations_that_do_not_fit_are_refused(tmp_path, capsys):
    model, tokenizer = load(checkpoint("mbart"))
    size = model.config.vocab_size
    model.generation_config.sequence_bias = [[[5], 1.0]]
    expected = "generation_config.json has a `sequence_bias`, which cannot be renumbered. Remove it there."
    assert refusal(save_with_tokenizer(model, tokenizer, tmp_path / "bias"), tmp_path, capsys) == expected
    model.generation_config.sequence_bias = None
    model.generation_config.forced_bos_token_id = size + 3
    message = refusal(save_with_tokenizer(model, tokenizer, tmp_path / "outside"), tmp_path, capsys)
    assert message == (
        f"The model's configuration names the token ids [{size + 3}], but its vocabulary has the ids 0 to {size - 1}. "
        "Correct config.json or generation_config.json."
    )


def test_a_tokenizer_with_more_tokens_than_the_model_is_refused(tmp_path, capsys):
    model, tokenizer = load(checkpoint("mbart"))
    size = len(tokenizer)
    tokenizer.add_tokens(["<new>", "<newer>"])
    assert refusal(save_with_tokenizer(model, tokenizer, tmp_path / "old"), tmp_path, capsys) == (
        f"The tokenizer has token ids up to {size + 1}, but the model has only {size} tokens. They do not belong "
        "together, or the model was not resized after tokens had been added."
    )


def test_a_tokenizer_that_changes_on_loading_is_noticed():
    old, new = (AutoTokenizer.from_pretrained(folder) for folder in (checkpoint("mbart"), trimmed("mbart").folder))
    new_ids = trimmed("mbart").new_ids
    old.src_lang = old.tgt_lang = "de_DE"
    check_trimmed_tokenizer(old, new, new_ids, text())
    with pytest.raises(ValueError, match=re.escape("The trimmed tokenizer splits 'Ω' unlike the old one.")):
        new.backend_tokenizer.normalizer = normalizers.Replace("Ω", "a")
        check_trimmed_tokenizer(old, new, new_ids, ["Ω"])
    new.add_tokens(["<new>"])
    with pytest.raises(ValueError, match=re.escape(f"should load with {len(new_ids)} tokens but has {len(new)}, and")):
        check_trimmed_tokenizer(old, new, new_ids, text())
