"""Score a file of translations against a file of references: two text files in, a table out.

    flallm score hypotheses.txt references.txt
    flallm score hypotheses.txt references.txt --spoken_language zh --json

Both files are UTF-8 with one segment per line, in the same order. Both sides are normalised to Unicode form NFKC with
single spaces (`norm:nfkc` in the signatures). On such text BLEU and chrF equal those of sacrebleu's command line;
ROUGE-L is the one of the sign language translation literature (mscoco, beta 1.2), not that of the `rouge_score`
package.
"""

import json
import sys
from collections.abc import Sequence
from pathlib import Path

from ..arguments.command_line import run_command
from ..arguments.commands import COMMANDS
from ..scores.metrics import comparable, format_scores, translation_scores


def read_segments(path: Path) -> list[str]:
    """Return the lines of a UTF-8 file, with or without byte order mark; raises ValueError naming the file.

    Only line feeds (and carriage returns before them) end a segment, as in sacrebleu: other Unicode separators occur
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
    """Return the segments of both files; raises as in `read_segments`, and ValueError for unequal or empty lines."""
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


def score(argv: Sequence[str] | None = None) -> None:
    """Print the scores."""
    (arguments,) = COMMANDS["score"].parse(argv)
    hypotheses, references = read_parallel_segments(arguments.hypotheses, arguments.references)
    scores = translation_scores(
        hypotheses,
        references,
        language=arguments.spoken_language,
        tokenize=arguments.tokenize,
        lowercase=arguments.lowercase,
        append_period=arguments.append_period,
        num_resamples=arguments.num_resamples,
        seed=arguments.seed,
    )
    print(json.dumps(scores, indent=2, ensure_ascii=False) if arguments.json else format_scores(scores))


def main(argv: Sequence[str] | None = None) -> int:
    return run_command(score, argv)


if __name__ == "__main__":
    sys.exit(main())
