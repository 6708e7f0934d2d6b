"""Tiny tokenizers of every kind, of the words of two sentences."""

import io
import json
from collections.abc import Callable
from pathlib import Path

import sentencepiece
from tiny_corpus import language_model
from tokenizers import Tokenizer, models, pre_tokenizers, processors
from transformers import (
    AutoTokenizer,
    M2M100Tokenizer,
    MBartTokenizer,
    NllbTokenizer,
    PreTrainedTokenizerFast,
    T5Tokenizer,
)

SENTENCES = ["the rain comes", "wind in the north today"]
WORDS = sorted({word for sentence in SENTENCES for word in sentence.split()})


def unigram_vocabulary(specials: list[str]) -> list[tuple[str, float]]:
    letters = sorted({letter for word in WORDS for letter in word})
    return (
        [(token, 0.0) for token in specials] + [(f"▁{w}", -1.0) for w in WORDS] + [(x, -5.0) for x in ["▁", *letters]]
    )


def make_plain_tokenizer() -> PreTrainedTokenizerFast:
    vocabulary = {token: index for index, token in enumerate(["<pad>", "</s>", "<unk>", *WORDS])}
    tokenizer = Tokenizer(models.WordLevel(vocabulary, unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    tokenizer.post_processor = processors.TemplateProcessing("$A </s>", special_tokens=[("</s>", 1)])
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, pad_token="<pad>", eos_token="</s>", unk_token="<unk>", padding_side="left"
    )


def make_mbart_tokenizer() -> MBartTokenizer:
    vocabulary = unigram_vocabulary(["<s>", "<pad>", "</s>", "<unk>"])
    return MBartTokenizer(vocab=vocabulary, src_lang="en_XX", tgt_lang="de_DE")


def make_nllb_tokenizer() -> NllbTokenizer:
    merges = [(f"▁{word}"[:end], word[end - 1]) for word in WORDS for end in range(1, len(word) + 1)]
    pieces = ["<s>", "<pad>", "</s>", "<unk>", "▁", *{letter for word in WORDS for letter in word}]
    pieces += [left + right for left, right in merges if left + right not in pieces]
    vocabulary = {piece: index for index, piece in enumerate(dict.fromkeys(pieces))}
    return NllbTokenizer(vocab=vocabulary, merges=list(dict.fromkeys(merges)), src_lang="eng_Latn", tgt_lang="deu_Latn")


def make_t5_tokenizer() -> T5Tokenizer:
    return T5Tokenizer(vocab=unigram_vocabulary(["<pad>", "</s>", "<unk>"]), extra_ids=0)


TOKENIZERS = {
    "plain": make_plain_tokenizer,
    "mbart": make_mbart_tokenizer,
    "nllb": make_nllb_tokenizer,
    "t5": make_t5_tokenizer,
}


def make_m2m100_tokenizer(folder: Path) -> M2M100Tokenizer:
    content = io.BytesIO()
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(SENTENCES * 5), model_writer=content, vocab_size=40, minloglevel=2,
        hard_vocab_limit=False, bos_id=-1, eos_id=-1, pad_id=-1,
    )  # fmt: skip
    model = sentencepiece.SentencePieceProcessor(model_proto=content.getvalue())
    pieces = ["<s>", "<pad>", "</s>", "<unk>", *[model.id_to_piece(index) for index in range(model.get_piece_size())]]
    vocabulary = {piece: index for index, piece in enumerate(dict.fromkeys(pieces))}
    (folder / "spm.model").write_bytes(content.getvalue())
    (folder / "vocab.json").write_text(json.dumps(vocabulary), encoding="utf-8")
    return M2M100Tokenizer(str(folder / "vocab.json"), str(folder / "spm.model"), src_lang="en", tgt_lang="de")


MAKE_TOKENIZER: dict[str, Callable] = {
    **{name: lambda _, make=make: make() for name, make in TOKENIZERS.items()},
    "m2m_100": make_m2m100_tokenizer,
    "our own": lambda _: AutoTokenizer.from_pretrained(language_model()),
}
LANGUAGE_COMES_FIRST = ("nllb", "m2m_100")
