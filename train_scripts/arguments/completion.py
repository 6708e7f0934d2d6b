"""Shell completion scripts for the commands of `flallm`, their flags, and flag values with a fixed set of choices."""

import argparse
import shlex
from collections.abc import Iterator

from .commands import COMMANDS, Command

SHELLS = ("bash", "zsh", "fish")
BASH = """\
# Load it with: eval "$(flallm completion bash)"
_flallm() {{
    local word command="" current="${{COMP_WORDS[COMP_CWORD]}}" candidates=""
    for word in "${{COMP_WORDS[@]:1:COMP_CWORD-1}}"; do command="$command $word"; done
{cases}
    COMPREPLY=($(compgen -W "$candidates" -- "$current"))
}}
complete -o default -F _flallm flallm"""
ZSH = """\
#compdef flallm
# Load it, after compinit, with: eval "$(flallm completion zsh)"
_flallm() {{
    local word command="" current="${{words[CURRENT]}}" candidates=""
    for word in "${{(@)words[2,CURRENT-1]}}"; do command="$command $word"; done
{cases}
    if [[ -n "$candidates" ]]; then compadd -- ${{=candidates}}; else _files; fi
}}
compdef _flallm flallm"""


def completion_script(shell: str) -> str:
    """
    Args:
        shell: one of `SHELLS`.
    """
    if shell == "fish":
        return "\n".join(["# Load it with: flallm completion fish | source", *_fish_lines()])
    template = BASH if shell == "bash" else ZSH
    return template.format(cases="\n".join(_cases()))


def _flags(command: Command) -> list[argparse.Action]:
    actions = command.parser()._actions
    return [action for action in actions if action.option_strings and action.help is not argparse.SUPPRESS]


def _choices(command: Command, action: argparse.Action) -> list[str]:
    return command.presets if action.dest == "config" else [*map(str, action.choices or ())]


def _groups() -> dict[str, list[str]]:
    """First word of commands -> second words: `{"train": ["language-model", ...], "translate": []}`"""
    groups: dict[str, list[str]] = {}
    for name in (*COMMANDS, *(f"completion {shell}" for shell in SHELLS)):
        first, *second = name.split()
        groups.setdefault(first, []).extend(second)
    return groups


def _cases() -> Iterator[str]:
    """Branches of a `case` over the words so far, for both bash and zsh: values of flags, then flags, then commands."""
    by_length = sorted(COMMANDS.items(), key=lambda item: -len(item[0].split()))
    yield '    case "$command|$current" in'
    for name, command in by_length:
        for action in _flags(command):
            if _choices(command, action):
                yield _case(f'" {name}"*" {action.option_strings[-1]}|"*', _choices(command, action))
    for name, command in by_length:
        yield _case(f'" {name}|-"*|" {name} "*"|-"*', [action.option_strings[-1] for action in _flags(command)])
    for first, second in _groups().items():
        if second:
            yield _case(f'" {first}|"*', second)
    yield _case('"|"*', list(_groups()))
    yield "    esac"


def _case(pattern: str, candidates: list[str]) -> str:
    return f"    {pattern}) candidates={shlex.quote(' '.join(candidates))} ;;"


def _fish_lines() -> Iterator[str]:
    for first, second in _groups().items():
        summary = f" -d {shlex.quote(COMMANDS[first].summary.split('. ')[0])}" if first in COMMANDS else ""
        yield f"complete -c flallm -n __fish_use_subcommand -f -a {first}{summary}"
        for word in second:
            condition = shlex.quote(f"__fish_seen_subcommand_from {first}")
            yield f"complete -c flallm -n {condition} -f -a {word}"
    for name, command in COMMANDS.items():
        condition = shlex.quote(" && ".join(f"__fish_seen_subcommand_from {word}" for word in name.split()))
        for action in _flags(command):
            flag = action.option_strings[-1].removeprefix("--")
            values = f" -x -a {shlex.quote(' '.join(_choices(command, action)))}" if _choices(command, action) else ""
            yield f"complete -c flallm -n {condition} -l {flag}{values} -d {shlex.quote(_first_sentence(action))}"


def _first_sentence(action: argparse.Action) -> str:
    return (action.help or "").replace("%%", "%").split(". ")[0].rstrip(".")
