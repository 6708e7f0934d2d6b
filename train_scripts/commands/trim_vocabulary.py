"""
Trim an encoder-decoder checkpoint and its tokenizer to the tokens that your sentences need.

    flallm trim-vocabulary --text_model_name_or_path facebook/mbart-large-cc25 --text_file train.txt \
        --target_language de_DE --output_dir mbart_trimmed

What is kept: the tokens of the sentences and of what you add (`--keep` words or sentences, `--keep_text_file`); special
tokens, language codes, masks and sentinels; bytes and single characters, so that unseen words can still be spelled
(letters only of the writing systems of the text). For these the new model returns the logits of the old one, and the
new tokenizer splits the text as the old one did. For tokenizers of the `tokenizers` library with a Unigram or BPE
model: mBART, mBART-50, NLLB, T5, mT5, BART and those of `pretrain_language_model.py`. Small, on a CPU:

    flallm trim-vocabulary --text_model_name_or_path language_model --dataset corpus --output_dir language_model_trimmed
"""

import sys
import unicodedata
from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from transformers import (
    AutoModelForSeq2SeqLM,
    AutoTokenizer,
    PreTrainedModel,
    PreTrainedTokenizerBase,
)

from modeling_flallm.language_kind_slt import is_encoder_decoder

from ..arguments.command_arguments import TrimArguments
from ..arguments.command_line import run_command
from ..arguments.commands import COMMANDS
from ..arguments.data_arguments import DatasetArguments
from ..arguments.flag_values import check_new_folder
from ..clips.splits import load_split
from ..hub.hub_names import check_model_names
from ..hub.model_card import write_base_card
from ..machine.atomic_files import write_folder, write_json
from ..runs.damaged_models import read_config, read_model
from ..runs.text_files import read_sentences
from ..runs.tokenizers import load_tokenizer
from ..runs.trimmed_models import named_token_ids, trim_model
from ..runs.trimmed_tokenizers import (
    UnknownCharacter,
    check_trimmed_tokenizer,
    choose_tokens,
    save_trimmed_tokenizer,
    unknown_characters,
)

MAPPING_FILE = "trimmed_vocabulary.json"


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
    Sentences of the text, and what is kept in addition, NFKC-normalised like `FLaLLMProcessor` does it.

    Raises:
        FileNotFoundError, ValueError: for a file or data set, as in `read_sentences` and `load_split`.
    """
    sentences = [sentence for path in arguments.text_file for sentence in read_sentences(path)]
    if arguments.dataset is not None:
        data = DatasetArguments(dataset=arguments.dataset, text_column=arguments.text_column)
        for split in arguments.split:
            sentences += map(str, load_split(data, split)[arguments.text_column])
    added = [*arguments.keep, *(line for path in arguments.keep_text_file for line in read_sentences(path))]
    return [unicodedata.normalize("NFKC", text) for text in sentences], [
        # Also as it appears within a sentence: BART's tokens include the space before a word.
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
        config = read_config(name_or_path)
        if not is_encoder_decoder(config) or getattr(config, "vocab_size", None) is None:
            raise ValueError(f"its model type is {config.model_type!r}")
        return read_model(AutoModelForSeq2SeqLM, name_or_path).eval()
    except (OSError, ValueError) as error:
        raise ValueError(
            f"{name_or_path!r} must hold an encoder-decoder text model (mBART, NLLB, T5, mT5, BART): {error}"
        ) from error


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
    base: str | None = None,
) -> TrimReport:
    """
    Write model and tokenizer, trimmed to the tokens of normalised text, to a folder, with the new id of each old one.

    Args:
        base: folder or Hub id of the model, which its card then names.

    Raises:
        ValueError: for a tokenizer that cannot be trimmed or does not belong to the model. Then nothing is written.
    """
    reasons = choose_tokens(tokenizer, named_token_ids(model), sentences, added)
    new_ids = {old: new for new, old in enumerate(reasons)}
    if max(new_ids) >= model.config.vocab_size:
        raise ValueError(
            f"The tokenizer has token ids up to {max(new_ids)}, but the model has only {model.config.vocab_size} "
            "tokens. They do not belong together, or the model was not resized after tokens had been added."
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
        trimmed.config.save_pretrained(folder)  # the model type can determine the tokenizer class
        save_trimmed_tokenizer(tokenizer, new_ids, folder)
        check_trimmed_tokenizer(tokenizer, AutoTokenizer.from_pretrained(folder), new_ids, [*sentences, *added])
        trimmed.save_pretrained(folder)
        write_json(folder / MAPPING_FILE, {**asdict(report), "new_id_of_old_id": new_ids})
        if base is not None:
            change = f"cut to {report.vocabulary_size_after:,} tokens by `flallm trim-vocabulary`"
            write_base_card(folder, base, change, name=Path(output_dir).absolute().name)

    write_folder(output_dir, fill)
    return report


def format_report(report: TrimReport, most_characters: int = 20) -> str:
    """The report in plain words, one fact per line."""
    before, after = report.vocabulary_size_before, report.vocabulary_size_after
    saved = report.bytes_before - report.bytes_after
    lines = [
        f"Vocabulary: {before:,} -> {after:,} tokens."
        if after < before
        else f"Vocabulary: all {before:,} tokens are needed, so nothing was dropped.",
        *(f"{count:>9,} {reason}" for reason, count in report.tokens_kept.items()),
        f"Parameters: {report.parameters_before:,} -> {report.parameters_after:,}.",
        f"Weights: {report.bytes_before / 1e6:,.2f} -> {report.bytes_after / 1e6:,.2f} MB, which saves "
        f"{saved / 1e6:,.2f} MB or {saved / report.bytes_before:.1%} of the model.",
    ]
    unknown = report.unknown_characters
    if not unknown:
        return "\n".join([*lines, "The tokenizer can spell every character of the text."])
    lines.append(
        f"{len(unknown)} character(s) of the text cannot be spelled, neither with the old vocabulary nor with the "
        "new one. The model will never write them:"
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
    base = arguments.text_model_name_or_path
    report = trim_vocabulary(model, tokenizer, arguments.output_dir, sentences, added, base)
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
