"""Which tokens a text needs, and a tokenizer that has only those."""

import json
import re
import unicodedata
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

from transformers import (
    PreTrainedTokenizerBase,
)

from ..languages.target_languages import language_ids
from ..machine.atomic_files import write_json

# Sentinels of T5, those of mT5 (with a leading space, not special tokens there), and the bytes of byte fallback.
SENTINEL_OR_BYTE = re.compile(r"▁?<extra_id_\d+>|<0x[0-9A-F]{2}>")
SPECIAL = "special tokens, language codes, masks, sentinels and bytes"
IN_TEXT = "used by the text"
ADDED = "used by what you add"
CHARACTER = "single characters, to spell other words"
PART = "parts from which byte-pair encoding builds the others"


@dataclass
class UnknownCharacter:
    """A character that the tokenizer loses, and the first sentence that contains it."""

    character: str
    count: int
    example: str


def tokenizer_state(tokenizer: PreTrainedTokenizerBase) -> dict[str, Any]:
    """
    The content of tokenizer.json.

    Raises:
        ValueError: for a tokenizer that cannot be trimmed.
    """
    advice = "Those of mBART, mBART-50, NLLB, T5, mT5 and BART can."
    if not tokenizer.is_fast:
        raise ValueError(f"A {type(tokenizer).__name__} has no tokenizer.json and cannot be trimmed. {advice}")
    state = json.loads(tokenizer.backend_tokenizer.to_str())
    if state["model"]["type"] not in ("Unigram", "BPE"):
        raise ValueError(f"A tokenizer with a {state['model']['type']} model cannot be trimmed. {advice}")
    if state["model"].get("continuing_subword_prefix") or state["model"].get("end_of_word_suffix"):
        raise ValueError(f"A tokenizer that marks the insides or ends of words cannot be trimmed. {advice}")
    return state


def choose_tokens(
    tokenizer: PreTrainedTokenizerBase, named_ids: Iterable[int], sentences: Sequence[str], added: Sequence[str]
) -> dict[int, str]:
    """
    Ids of the tokens to keep, in ascending order, each with the first reason that applies.

    Args:
        named_ids: ids in the model's configuration, such as that of the start token.
        sentences, added: normalised text, and what is kept in addition.
    """
    state = tokenizer_state(tokenizer)
    vocabulary = tokenizer.get_vocab()
    chosen = {
        SPECIAL: _special_ids(tokenizer, state, vocabulary) | set(named_ids),
        IN_TEXT: _used_ids(tokenizer, sentences),
        ADDED: _used_ids(tokenizer, added),
        CHARACTER: {vocabulary[piece] for piece in _characters(state, vocabulary, [*sentences, *added])},
    }
    if state["model"]["type"] == "BPE":
        built = set().union(*chosen.values()) - tokenizer.added_tokens_decoder.keys()
        pieces = tokenizer.convert_ids_to_tokens(sorted(built))
        chosen[PART] = {vocabulary[part] for part in merge_parts(_merges(state), pieces) if part in vocabulary}
    reasons: dict[int, str] = {}
    for reason, ids in chosen.items():
        for index in ids:
            reasons.setdefault(index, reason)
    return dict(sorted(reasons.items()))


def _special_ids(tokenizer: PreTrainedTokenizerBase, state: dict[str, Any], vocabulary: dict[str, int]) -> set[int]:
    """All languages are kept: transformers' classes would append missing ones at the end."""
    unknown = state["model"].get("unk_id")
    return {
        *([] if unknown is None else [unknown]),
        *tokenizer.all_special_ids,
        *language_ids(tokenizer).values(),
        *(token["id"] for token in state["added_tokens"]),
        *(index for piece, index in vocabulary.items() if SENTINEL_OR_BYTE.fullmatch(piece)),
    }


def _used_ids(tokenizer: PreTrainedTokenizerBase, texts: Sequence[str]) -> set[int]:
    return {index for ids in _token_ids(tokenizer, texts) for index in ids}


def _token_ids(tokenizer: PreTrainedTokenizerBase, texts: Sequence[str], **options: Any) -> list[list[int]]:
    return tokenizer(text_target=list(texts), **options)["input_ids"] if texts else []


def _characters(state: dict[str, Any], vocabulary: Iterable[str], texts: Iterable[str]) -> list[str]:
    single = [piece for piece in vocabulary if len(piece) == 1]
    if '"ByteLevel"' in json.dumps([state["normalizer"], state["pre_tokenizer"]]):
        return single  # they represent the 256 bytes
    systems = {_writing_system(character) for character in set("".join(texts))}
    return [character for character in single if _writing_system(character) in {None, *systems}]


def _writing_system(character: str) -> str | None:
    """`"LATIN"`, `"CYRILLIC"`, `"CJK"`, ... for a letter, from its Unicode name; None for any other character."""
    if not unicodedata.category(character).startswith("L"):
        return None
    return unicodedata.name(character, "").split(" ")[0]


def _merges(state: dict[str, Any]) -> list[tuple[str, str]]:
    return [tuple(merge.split(" ") if isinstance(merge, str) else merge) for merge in state["model"]["merges"]]


def merge_parts(merges: Sequence[tuple[str, str]], pieces: Iterable[str]) -> set[str]:
    """All merge results of byte-pair encoding on its way from single characters to `pieces`."""
    rank = {pair: index for index, pair in enumerate(merges)}
    parts: set[str] = set()
    for piece in pieces:
        symbols = list(piece)
        parts.update(symbols)
        while found := [(rank[pair], place) for place, pair in enumerate(pairwise(symbols)) if pair in rank]:
            place = min(found)[1]
            symbols[place : place + 2] = [symbols[place] + symbols[place + 1]]
            parts.add(symbols[place])
    return parts


def unknown_characters(tokenizer: PreTrainedTokenizerBase, sentences: Sequence[str]) -> list[UnknownCharacter]:
    """Characters that are lost when a sentence is tokenised and decoded again, most frequent first."""
    counts: Counter[str] = Counter()
    examples: dict[str, str] = {}
    all_ids = _token_ids(tokenizer, sentences, add_special_tokens=False)
    for sentence, ids in zip(sentences, all_ids, strict=True):
        spelled = tokenizer.decode(ids, skip_special_tokens=True, clean_up_tokenization_spaces=False)
        lost = Counter("".join(sentence.split())) - Counter("".join(spelled.split()))
        counts += lost
        for character in lost:
            examples.setdefault(character, sentence)
    return [UnknownCharacter(character, count, examples[character]) for character, count in counts.most_common()]


def save_trimmed_tokenizer(tokenizer: PreTrainedTokenizerBase, new_ids: dict[int, int], folder: Path) -> None:
    """
    Args:
        new_ids: new id of each old id that is kept, in the same order.
    """
    state = tokenizer_state(tokenizer)
    kept = set(tokenizer.convert_ids_to_tokens(list(new_ids)))
    model = state["model"]
    if model["type"] == "Unigram":
        model["vocab"] = [model["vocab"][old] for old in new_ids if old < len(model["vocab"])]
        if model["unk_id"] is not None:
            model["unk_id"] = new_ids[model["unk_id"]]
    else:
        model["vocab"] = {piece: new_ids[old] for piece, old in model["vocab"].items() if old in new_ids}
        model["merges"] = [list(merge) for merge in _merges(state) if {*merge, "".join(merge)} <= kept]
    for token in state["added_tokens"]:
        token["id"] = new_ids[token["id"]]
    state["post_processor"] = _renumbered_post_processor(state["post_processor"], new_ids)
    tokenizer.save_pretrained(folder)
    write_json(folder / "tokenizer.json", state)


def _renumbered_post_processor(part: Any, new_ids: dict[int, int]) -> Any:
    """Ids are under `ids` in a template, and in RobertaProcessing as `["</s>", 2]` under `sep` and `cls`."""
    if isinstance(part, list):
        return [_renumbered_post_processor(item, new_ids) for item in part]
    if not isinstance(part, dict):
        return part
    renumbered = {name: _renumbered_post_processor(value, new_ids) for name, value in part.items()}
    if "ids" in part:
        renumbered["ids"] = [new_ids[index] for index in part["ids"]]
    for name in {"sep", "cls"} & part.keys():
        renumbered[name] = [part[name][0], new_ids[part[name][1]]]
    return renumbered


def check_trimmed_tokenizer(
    old: PreTrainedTokenizerBase, new: PreTrainedTokenizerBase, new_ids: dict[int, int], texts: Sequence[str]
) -> None:
    """
    Raises:
        ValueError: if the new tokenizer, once reloaded, is not the old one with other ids.
    """
    expected, got = old.convert_ids_to_tokens(list(new_ids)), new.convert_ids_to_tokens(list(range(len(new))))
    if expected != got:
        wrong = [token for token, other in zip(expected, got, strict=False) if token != other]
        raise ValueError(
            f"The trimmed {type(new).__name__} should load with {len(expected)} tokens but has {len(got)}, and "
            f"{len(wrong)} are in other places, such as {wrong[:3]}. Nothing was written."
        )
    for text, old_text_ids, new_text_ids in zip(texts, _token_ids(old, texts), _token_ids(new, texts), strict=True):
        if [new_ids[index] for index in old_text_ids] != new_text_ids:
            raise ValueError(f"The trimmed tokenizer splits {text!r} unlike the old one. Nothing was written.")
