"""Score a file of translations against a file of references: two text files in, a table out.

    python -m train_scripts.commands.score_translations hypotheses.txt references.txt
    python -m train_scripts.commands.score_translations hypotheses.txt references.txt --language zh --json

Both files are UTF-8 with one segment per line, in the same order. Both sides are brought to Unicode normal form NFKC
with single spaces (`norm:nfkc` in the signatures). On such text BLEU and chrF equal those of sacrebleu's command line;
ROUGE-L is the one of the sign language translation literature (mscoco, beta 1.2), not that of the `rouge_score`
package.
"""

import argparse
import json
import sys
from pathlib import Path

from train_scripts.arguments.command_line import CommandParser, run_command
from train_scripts.arguments.flag_values import check_flags
from train_scripts.scores.metrics import comparable, format_scores, translation_scores


def read_segments(path: Path) -> list[str]:
    """Return the lines of a UTF-8 file, with or without byte order mark; raises ValueError naming the file.

    Only line feeds (and carriage returns before them) end a segment, as in sacrebleu: other separators of Unicode occur
    inside sentences.
    """
    if not path.is_file():
        raise ValueError(f"{path} is not a file. Give a text file with one segment per line.")
    content = path.read_bytes()
    try:
        text = content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line_number = content.count(b"\n", 0, error.start) + 1
        raise ValueError(
            f"{path} is not UTF-8: line {line_number} holds byte 0x{content[error.start]:02x}. Convert it, for example "
            f"with `iconv -f ISO-8859-1 -t UTF-8`."
        ) from error
    segments = text.split("\n")
    if segments[-1] == "":
        segments.pop()
    if not segments:
        raise ValueError(f"{path} is empty. Give a text file with one segment per line.")
    return [segment.rstrip() for segment in segments]


def read_parallel_segments(hypotheses_path: Path, references_path: Path) -> tuple[list[str], list[str]]:
    """Return the segments of both files; raises ValueError as `read_segments`, and for unequal or empty lines."""
    hypotheses, references = read_segments(hypotheses_path), read_segments(references_path)
    if len(hypotheses) != len(references):
        raise ValueError(
            f"{hypotheses_path} has {len(hypotheses)} lines and {references_path} has {len(references)}. Both need one "
            f"segment per line, in the same order."
        )
    empty = [number for number, reference in enumerate(references, start=1) if not comparable(reference)]
    if empty:
        raise ValueError(
            f"Line {empty[0]} of {references_path} is empty ({len(empty)} of {len(references)} lines are). Drop these "
            f"lines from both files or restore their text."
        )
    return hypotheses, references


def build_parser() -> argparse.ArgumentParser:
    parser = CommandParser(
        prog="score_translations",
        description="BLEU-1 to BLEU-4, chrF and ROUGE-L (mscoco) of one file against another.",
    )
    parser.add_argument("hypotheses", type=Path, help="translations to score, UTF-8, one per line; lines may be empty")
    parser.add_argument("references", type=Path, help="raw reference sentences, UTF-8, one per line")
    parser.add_argument(
        "--language", help="tag of the written language; zh, ja, ko, th and the like are scored by character"
    )
    parser.add_argument(
        "--tokenize",
        choices=("13a", "intl", "none", "char", "zh"),
        help="tokenizer of sacrebleu (default: by the language)",
    )
    parser.add_argument("--lowercase", action="store_true", help="lower-case both sides")
    parser.add_argument(
        "--append_period",
        "--append-period",
        action="store_true",
        help='append " ." to both sides, as for PHOENIX-2014T',
    )
    parser.add_argument(
        "--num_resamples", "--num-resamples", type=int, default=1000, help="bootstrap resamples, 0 for no intervals"
    )
    parser.add_argument("--seed", type=int, default=12345, help="seed of the bootstrap (default: that of sacrebleu)")
    parser.add_argument("--json", action="store_true", help="print JSON with unrounded scores instead of the table")
    return parser


def score(argv: list[str] | None = None) -> None:
    """Print the scores."""
    options = vars(build_parser().parse_args(argv))
    check_flags(options)
    as_json = options.pop("json")
    hypotheses, references = read_parallel_segments(options.pop("hypotheses"), options.pop("references"))
    scores = translation_scores(hypotheses, references, **options)
    print(json.dumps(scores, indent=2, ensure_ascii=False) if as_json else format_scores(scores))


def main(argv: list[str] | None = None) -> int:
    return run_command(score, argv)


if __name__ == "__main__":
    sys.exit(main())
