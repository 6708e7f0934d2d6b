"""
The command `flallm`, also as `python -m train_scripts`: finds the subcommand and runs its module.

    flallm --help
    flallm translate --help
    flallm train visual-initialing --config paper_visual_initialing ...

To use several devices, start the modules directly: `torchrun -m train_scripts.stages.visual_initialing ...`.
"""

import importlib
import sys
from collections.abc import Sequence

from .arguments.command_line import DEBUG_HELP, MISTAKE_OF_THE_USER, run_command, unknown_text
from .arguments.commands import COMMANDS, EXIT_STATUSES, HELP_FLAGS, Command
from .arguments.completion import SHELLS, completion_script

USAGE = "usage: flallm COMMAND [flags]\n       flallm COMMAND --help"
SECTIONS = {
    "Start": ("quickstart", "quickstart llava-slt", "quickstart uni-sign", "translate", "serve"),
    "Data": ("prepare", "inspect", "features", "describe", "poses", "generate-corpus", "trim-vocabulary"),
    "Training": tuple(name for name in COMMANDS if name.startswith("train ")),
    "Results": ("evaluate", "compare", "score", "calibrate", "adapt", "export", "push", "import-checkpoint"),
}


def overview(sections: dict[str, Sequence[str]] = SECTIONS) -> str:
    """What `flallm --help` prints."""
    lines = ["FLaLLM: gloss-free sign language translation.", "", USAGE]
    for title, names in sections.items():
        lines += ["", f"{title}:"]
        lines += [f"  {name:38}{COMMANDS[name].summary.split('. ')[0].rstrip('.')}" for name in names]
    if sections is SECTIONS:
        lines += [f"  {'completion ' + '|'.join(SHELLS):38}Print what makes a shell complete these commands and flags"]
    return "\n".join([*lines, "", EXIT_STATUSES, DEBUG_HELP])


def find_command(words: Sequence[str]) -> tuple[Command | None, list[str]]:
    """The command named by the first words (two words if there is such a command), and the remaining words."""
    for length in (2, 1):
        command = COMMANDS.get(" ".join(words[:length]))
        if command is not None:
            return command, list(words[length:])
    return None, list(words)


def main(argv: Sequence[str] | None = None) -> int:
    words = list(sys.argv[1:] if argv is None else argv)
    command, rest = find_command(words)
    if command is None:
        return _without_command(words)
    if any(flag in rest for flag in HELP_FLAGS):
        command.show_help()
    return run_command(lambda given: _run(command, given), rest)


def _run(command: Command, argv: Sequence[str]) -> int:
    if command.defaults is None:
        command.parse(argv)  # report mistakes before spending seconds on imports
    return importlib.import_module(f"train_scripts.{command.module}").main(argv)


def _without_command(words: Sequence[str]) -> int:
    first, second = (*words, "", "")[:2]
    if first in HELP_FLAGS:
        print(overview())
        return 0
    if first == "train" and second in HELP_FLAGS:
        print(overview({"Training": SECTIONS["Training"]}))
        return 0
    if first == "completion" and second in SHELLS:
        print(completion_script(second))
        return 0
    print(f"error: {_what_is_wrong(first, second)}", file=sys.stderr)
    return MISTAKE_OF_THE_USER


def _what_is_wrong(first: str, second: str) -> str:
    if not first:
        return "name a command: see flallm --help."
    if first == "completion":
        return f"flallm completion must be followed by one of {', '.join(SHELLS)}, got {second!r}."
    if first == "train":
        stages = [name.removeprefix("train ") for name in SECTIONS["Training"]]
        return unknown_text("training", second, stages) if second else f"name a training: {', '.join(stages)}."
    return unknown_text("command", first, [*dict.fromkeys(name.split()[0] for name in COMMANDS), "completion"])


if __name__ == "__main__":
    sys.exit(main())
