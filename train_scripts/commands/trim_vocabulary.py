"""
Cut an encoder-decoder checkpoint and its tokenizer to the tokens that your sentences need.

    flallm trim-vocabulary --text_model_name_or_path facebook/mbart-large-cc25 --text_file train.txt \
        --target_language de_DE --output_dir mbart_trimmed

What stays: the tokens of the sentences and of what you add (`--keep` words or sentences, `--keep_text_file`); special
tokens, language codes, masks and sentinels; bytes and single characters, so that a word that was never seen can still
be spelled (letters only of the writing systems of the text). On these the new model gives the logits of the old one,
and the new tokenizer cuts the text as the old one did. For tokenizers of the `tokenizers` library with a Unigram or
BPE model: mBART, mBART-50, NLLB, T5, mT5, BART and those of `pretrain_language_model.py`. On a CPU, small:

    flallm trim-vocabulary --text_model_name_or_path language_model --dataset corpus --output_dir language_model_trimmed
"""

import copy
import json
import re
import sys
import unicodedata
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict, dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any, TypeVar

import torch
from transformers import (
    AutoConfig,
    AutoModelForSeq2SeqLM,
    AutoTokenizer,
    GenerationConfig,
    PreTrainedConfig,
    PreTrainedModel,
    PreTrainedTokenizerBase,
)

from modeling_flallm.language_kind_slt import is_encoder_decoder
from modeling_flallm.loading_slt import load_whole

from ..arguments.command_arguments import TrimArguments
from ..arguments.command_line import run_command
from ..arguments.commands import COMMANDS
from ..arguments.data_arguments import DatasetArguments
from ..arguments.flag_values import check_new_folder
from ..clips.splits import load_split
from ..hub.hub_names import check_model_names
from ..hub.model_card import write_base_card
from ..languages.target_languages import language_ids
from ..machine.atomic_files import write_folder, write_json
from ..runs.damaged_models import reading_model
from ..runs.training import load_tokenizer
from ..stages.pretrain_language_model import read_sentences

MAPPING_FILE = "trimmed_vocabulary.json"
# Sentinels of T5, mT5's with a space in front, which are no special tokens there; and the bytes of byte fallback.
SENTINEL_OR_BYTE = re.compile(r"▁?<extra_id_\d+>|<0x[0-9A-F]{2}>")
TOKEN_ID_FIELD = re.compile(r"(.*_)?token_ids?|(begin_)?suppress_tokens|(bad|force)_words_ids")

SPECIAL = "special tokens, language codes, masks, sentinels and bytes"
IN_TEXT = "used by the text"
ADDED = "used by what you add"
CHARACTER = "single characters, with which other words are spelled"
PART = "parts from which byte-pair encoding builds the others"


Configuration = TypeVar("Configuration", PreTrainedConfig, GenerationConfig)


@dataclass
class UnknownCharacter:
    """A character that does not come back from the tokenizer, and the first sentence with it."""

    character: str
    count: int
    example: str


@dataclass
class TrimReport:
    """What was kept and saved. Parameters and bytes are those of the whole model, tied weights counted once."""

    vocabulary_size_before: int
    vocabulary_size_after: int
    tokens_kept: dict[str, int]
    parameters_before: int
    parameters_after: int
    bytes_before: int
    bytes_after: int
    unknown_characters: list[UnknownCharacter]


def read_text(arguments: TrimArguments) -> tuple[list[str], list[str]]:
    """
    Sentences of the text, and what is kept besides, in Unicode normal form NFKC as `FLaLLMProcessor` brings them to.

    Raises:
        FileNotFoundError, ValueError: for a file or data set as `read_sentences` and `load_split` say.
    """
    sentences = [sentence for path in arguments.text_file for sentence in read_sentences(path)]
    if arguments.dataset is not None:
        data = DatasetArguments(dataset=arguments.dataset, text_column=arguments.text_column)
        for split in arguments.split:
            sentences += map(str, load_split(data, split)[arguments.text_column])
    added = [*arguments.keep, *(line for path in arguments.keep_text_file for line in read_sentences(path))]
    return [unicodedata.normalize("NFKC", text) for text in sentences], [
        # Also as it stands within a sentence: BART's tokens hold the space in front of a word.
        space + unicodedata.normalize("NFKC", text)
        for text in added
        for space in ("", " ")
    ]


def load_text_model(name_or_path: str) -> PreTrainedModel:
    """
    An encoder-decoder with the data type of its checkpoint.

    Raises:
        ValueError: if it is something else, or cannot be loaded.
    """
    try:
        with reading_model(name_or_path):
            config = AutoConfig.from_pretrained(name_or_path)
            if not is_encoder_decoder(config) or getattr(config, "vocab_size", None) is None:
                raise ValueError(f"its model type is {config.model_type!r}")
            return load_whole(AutoModelForSeq2SeqLM.from_pretrained, name_or_path).eval()
    except (OSError, ValueError) as error:
        raise ValueError(
            f"{name_or_path!r} must hold an encoder-decoder text model (mBART, NLLB, T5, mT5, BART): {error}"
        ) from error


def tokenizer_state(tokenizer: PreTrainedTokenizerBase) -> dict[str, Any]:
    """
    What tokenizer.json holds.

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
    Ids of the tokens that stay, in ascending order, each with the first of the reasons for it.

    Args:
        named_ids: ids that the model's configuration names, such as that of the token with which it starts.
        sentences, added: normalised text, and what is kept besides.
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
    """All languages stay: the classes of transformers would add those that are missing again, at the end."""
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
        return single  # they stand for the 256 bytes
    systems = {_writing_system(character) for character in set("".join(texts))}
    return [character for character in single if _writing_system(character) in {None, *systems}]


def _writing_system(character: str) -> str | None:
    """`"LATIN"`, `"CYRILLIC"`, `"CJK"`, ... for a letter, after its name in Unicode; None for any other character."""
    if not unicodedata.category(character).startswith("L"):
        return None
    return unicodedata.name(character, "").split(" ")[0]


def _merges(state: dict[str, Any]) -> list[tuple[str, str]]:
    return [tuple(merge.split(" ") if isinstance(merge, str) else merge) for merge in state["model"]["merges"]]


def merge_parts(merges: Sequence[tuple[str, str]], pieces: Iterable[str]) -> set[str]:
    """All that byte-pair encoding passes through on its way from single characters to `pieces`."""
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
    """Characters that vanish when a sentence is tokenised and decoded again, the most frequent first."""
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
        new_ids: new id of each old id that stays, in the same order.
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
    """Ids stand in a template under `ids`, and in RobertaProcessing as `["</s>", 2]` under `sep` and `cls`."""
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
        ValueError: if the new tokenizer, loaded anew, is not the old one with other numbers.
    """
    expected, got = old.convert_ids_to_tokens(list(new_ids)), new.convert_ids_to_tokens(list(range(len(new))))
    if expected != got:
        wrong = [token for token, other in zip(expected, got, strict=False) if token != other]
        raise ValueError(
            f"The trimmed {type(new).__name__} should load with {len(expected)} tokens, it has {len(got)}, and "
            f"{len(wrong)} stand elsewhere, such as {wrong[:3]}. Nothing was written."
        )
    for text, old_text_ids, new_text_ids in zip(texts, _token_ids(old, texts), _token_ids(new, texts), strict=True):
        if [new_ids[index] for index in old_text_ids] != new_text_ids:
            raise ValueError(f"The trimmed tokenizer cuts {text!r} unlike the old one. Nothing was written.")


def map_token_ids(values: dict[str, Any], change: Callable[[int], Any]) -> dict[str, Any]:
    """A configuration as a dictionary, with `change` applied to every token id in it, also in nested ones."""
    return {
        name: map_token_ids(value, change)
        if isinstance(value, dict)
        else _map_ids(value, change)
        if TOKEN_ID_FIELD.fullmatch(str(name))
        else value
        for name, value in values.items()
    }


def _map_ids(value: Any, change: Callable[[int], Any]) -> Any:
    if isinstance(value, list | tuple):
        return [_map_ids(item, change) for item in value]
    return value if value is None else change(value)


def named_token_ids(model: PreTrainedModel) -> set[int]:
    """
    Token ids in the configurations of a model.

    Raises:
        ValueError: if one is outside the vocabulary, or stands where it cannot be renumbered.
    """
    if model.generation_config.sequence_bias:
        raise ValueError("generation_config.json holds a `sequence_bias`, which cannot be renumbered. Remove it there.")
    ids: set[int] = set()
    for config in (model.config, model.generation_config):
        map_token_ids(config.to_dict(), ids.add)
    outside = sorted(index for index in ids if not 0 <= index < model.config.vocab_size)
    if outside:
        raise ValueError(
            f"The model's configuration names the token ids {outside}, but its vocabulary has the ids 0 to "
            f"{model.config.vocab_size - 1}. Correct config.json or generation_config.json."
        )
    return ids


def _renumbered(config: Configuration, new_ids: dict[int, int]) -> Configuration:
    config = copy.deepcopy(config)
    values = config.to_dict()
    for name, value in map_token_ids(values, new_ids.__getitem__).items():
        if value != values[name]:
            setattr(config, name, value)
    return config


def trim_model(model: PreTrainedModel, new_ids: dict[int, int]) -> PreTrainedModel:
    """
    A model with the weights of `model`: of those with one entry a token the ones that stay, the others shared with it.
    """
    config = _renumbered(model.config, new_ids)
    config.vocab_size = len(new_ids)
    with torch.device("meta"):
        trimmed = AutoModelForSeq2SeqLM.from_config(config)
    shapes = {name: tensor.shape for name, tensor in _named_tensors(trimmed).items()}
    kept = torch.tensor(list(new_ids))
    # By identity, so that weights are tied where they were: mT5's are not, although its configuration always says so.
    selected: dict[int, torch.Tensor] = {}
    for name, tensor in _named_tensors(model).items():
        if id(tensor) not in selected:
            selected[id(tensor)] = _select(tensor, shapes[name], kept)
        owner, _, attribute = name.rpartition(".")
        setattr(trimmed.get_submodule(owner), attribute, selected[id(tensor)])
    trimmed.generation_config = _renumbered(model.generation_config, new_ids)
    return trimmed.eval()


def _named_tensors(model: PreTrainedModel) -> dict[str, torch.Tensor]:
    """Parameters and buffers, tied ones under each of their names."""
    return {**dict(model.named_parameters(remove_duplicate=False)), **dict(model.named_buffers(remove_duplicate=False))}


def _select(tensor: torch.Tensor, shape: torch.Size, kept: torch.Tensor) -> torch.Tensor:
    """Tensor `(..., old vocabulary, ...)` -> `shape`, in which that one dimension is the new vocabulary's."""
    selected = tensor.detach()
    for dimension, (old_size, new_size) in enumerate(zip(tensor.shape, shape, strict=True)):
        if old_size != new_size:
            selected = selected.index_select(dimension, kept)
    return torch.nn.Parameter(selected) if isinstance(tensor, torch.nn.Parameter) else selected


def _size(model: PreTrainedModel) -> tuple[int, int]:
    """-> number of parameters, and their bytes"""
    parameters = list(model.parameters())
    return sum(p.numel() for p in parameters), sum(p.numel() * p.element_size() for p in parameters)


def trim_vocabulary(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    output_dir: str | Path,
    sentences: Sequence[str],
    added: Sequence[str] = (),
) -> TrimReport:
    """
    Write model and tokenizer, cut to the tokens of normalised text, into a folder, with the new id of each old one.

    Raises:
        ValueError: for a tokenizer that cannot be trimmed or does not belong to the model. Nothing is written then.
    """
    reasons = choose_tokens(tokenizer, named_token_ids(model), sentences, added)
    new_ids = {old: new for new, old in enumerate(reasons)}
    if max(new_ids) >= model.config.vocab_size:
        raise ValueError(
            f"The tokenizer has token ids up to {max(new_ids)}, the model only {model.config.vocab_size} tokens. They "
            "do not belong together, or the model was not resized after tokens had been added."
        )
    trimmed = trim_model(model, new_ids)
    (parameters_before, bytes_before), (parameters_after, bytes_after) = _size(model), _size(trimmed)
    report = TrimReport(
        vocabulary_size_before=model.config.vocab_size,
        vocabulary_size_after=len(new_ids),
        tokens_kept=dict(Counter(reasons.values()).most_common()),
        parameters_before=parameters_before,
        parameters_after=parameters_after,
        bytes_before=bytes_before,
        bytes_after=bytes_after,
        unknown_characters=unknown_characters(tokenizer, sentences),
    )

    def fill(folder: Path) -> None:
        trimmed.config.save_pretrained(folder)  # the model's type may decide about the tokenizer's class
        save_trimmed_tokenizer(tokenizer, new_ids, folder)
        check_trimmed_tokenizer(tokenizer, AutoTokenizer.from_pretrained(folder), new_ids, [*sentences, *added])
        trimmed.save_pretrained(folder)
        write_json(folder / MAPPING_FILE, {**asdict(report), "new_id_of_old_id": new_ids})

    write_folder(output_dir, fill)
    return report


def format_report(report: TrimReport, most_characters: int = 20) -> str:
    """The report in plain words, a fact a line."""
    before, after = report.vocabulary_size_before, report.vocabulary_size_after
    saved = report.bytes_before - report.bytes_after
    lines = [
        f"Vocabulary: {before:,} -> {after:,} tokens."
        if after < before
        else f"Vocabulary: all {before:,} tokens are needed, there was nothing to drop.",
        *(f"{count:>9,} {reason}" for reason, count in report.tokens_kept.items()),
        f"Parameters: {report.parameters_before:,} -> {report.parameters_after:,}.",
        f"Weights: {report.bytes_before / 1e6:,.2f} -> {report.bytes_after / 1e6:,.2f} MB, which saves "
        f"{saved / 1e6:,.2f} MB or {saved / report.bytes_before:.1%} of the model.",
    ]
    unknown = report.unknown_characters
    if not unknown:
        return "\n".join([*lines, "The tokenizer can spell every character of the text."])
    lines.append(
        f"{len(unknown)} character(s) of the text cannot be spelled, with the old vocabulary as little as with the "
        "new. The model will never write them:"
    )
    lines += [f"  {_described(entry)}" for entry in unknown[:most_characters]]
    if len(unknown) > most_characters:
        lines.append(f"  and {len(unknown) - most_characters} more, in {MAPPING_FILE}")
    return "\n".join(lines)


def _described(entry: UnknownCharacter) -> str:
    name = unicodedata.name(entry.character, "without a name")
    times = "once" if entry.count == 1 else f"{entry.count:,} times"
    return f"{entry.character!r} U+{ord(entry.character):04X} {name}, {times}, first in {entry.example!r}"


def trim(argv: Sequence[str] | None = None) -> TrimReport:
    """Trim from command-line arguments, and print the report."""
    (arguments,) = COMMANDS["trim-vocabulary"].parse(argv)
    check_new_folder(Path(arguments.output_dir))
    check_model_names(arguments)
    sentences, added = read_text(arguments)
    tokenizer = load_tokenizer(arguments.text_model_name_or_path, arguments.target_language)
    model = load_text_model(arguments.text_model_name_or_path)
    report = trim_vocabulary(model, tokenizer, arguments.output_dir, sentences, added)
    change = f"cut to {report.vocabulary_size_after:,} tokens by `flallm trim-vocabulary`"
    write_base_card(Path(arguments.output_dir), arguments.text_model_name_or_path, change)
    print(
        f"{arguments.text_model_name_or_path}, cut to {len(sentences):,} sentences"
        + (" and what you add." if added else ".")
    )
    print(format_report(report))
    print(f"Saved in {arguments.output_dir}, with the new id of each old one in {MAPPING_FILE}.")
    return report


def main(argv: Sequence[str] | None = None) -> int:
    return run_command(trim, argv)


if __name__ == "__main__":
    sys.exit(main())
