"""`python -m flallm_runner clip.mp4 ...` in an exported folder prints the sentence of each clip."""

import sys

from . import load


def main(clips: list[str]) -> int:
    """Print a line for each clip; returns 1 if one of them could not be translated, and 2 without clips."""
    if not clips:
        print("usage: python -m flallm_runner CLIP ...", file=sys.stderr)
        return 2
    translator, num_failed = load(), 0
    for clip in clips:
        try:
            print(f"{clip}\t{translator(clip)['translation_text']}", flush=True)
        except ValueError as error:
            num_failed += 1
            print(f"{clip}: {error}", file=sys.stderr)
    return int(num_failed > 0)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
