"""
Command lines from dataclasses: each field becomes a flag with the field's type, default and help; YAML files can set
the flags too. Parses them like transformers' HfArgumentParser (tests compare the two), but imports nothing heavy,
accepts dashes for underscores, and treats all switches the same: `--lora`, `--lora True` or `--lora False`.
"""

import argparse
import dataclasses
import difflib
import functools
import json
import sys
import types
import typing
from collections.abc import Sequence
from enum import Enum
from pathlib import Path
from typing import Any

import yaml

from .command_line import CommandParser, underscored, unknown_text
from .flag_values import check_flags
from .yaml_values import load_yaml

CONFIG_FOLDER = Path(__file__).parent.parent / "configs"
SOURCES = "sources"  # of a YAML file: no setting, but a mapping that says where the values of the settings are from
TRUE, FALSE = ("true", "yes", "t", "y", "1"), ("false", "no", "f", "n", "0")
WORDS_OF_NARGS = {None: "{0}", "+": "{0} [{0} ...]", "*": "[{0} ...]"}  # of an argument without dashes, in the usage
METAVARS = {int: "N", float: "X", str: "TEXT", Path: "PATH"}


class DataclassParser(CommandParser):
    """
    A parser with one group of flags per dataclass. Fields with `positional` in their metadata have no dashes.

    Args:
        presets: those that fit the command.
    """

    def __init__(self, dataclass_types: Sequence[type], presets: Sequence[str] = (), **options: Any):
        super().__init__(**options)
        for dataclass_type in dataclass_types:
            self.add_dataclass(dataclass_type)
        or_preset = f", or a preset: {', '.join(presets)}" if presets else ""
        self.add_argument("--config", metavar="FILE", help=f"YAML file with one `flag: value` per line{or_preset}.")
        places = [action for action in self._actions if not action.option_strings]
        words = [WORDS_OF_NARGS[place.nargs].format(place.dest) for place in places]
        self.usage = " ".join(["%(prog)s", *words, "[flags]"])

    def add_dataclass(self, dataclass_type: type) -> None:
        title = (dataclass_type.__doc__ or "").strip().split(". ")[0].split("\n")[0].rstrip(".")
        group = self.add_argument_group(title or None)
        hints = typing.get_type_hints(dataclass_type)
        for field in dataclasses.fields(dataclass_type):
            if field.init:
                dashes = "" if field.metadata.get("positional") else "--"
                group.add_argument(f"{dashes}{field.name}", **argument_options(field, hints[field.name]))

    def parse_known_args(self, args: Sequence[str] | None = None, namespace: Any = None) -> Any:
        args = list(sys.argv[1:] if args is None else args)
        return super().parse_known_args(self._with_values_of_switches(args), namespace)

    def _with_values_of_switches(self, args: list[str]) -> list[str]:
        """Before `clip.mp4`, `--long` means `--long True`: a switch does not take just any word as its value."""
        if all(action.option_strings for action in self._actions):
            return args
        switches = {
            name: action.type for action in self._actions if action.nargs == "?" for name in action.option_strings
        }
        following = [*args, ""][1:]
        return [
            f"{argument}=True" if _is_no_value(word, switches.get(underscored(argument))) else argument
            for argument, word in zip(args, following, strict=True)
        ]


def _is_no_value(word: str, type_of_switch: Any) -> bool:
    """Whether a word behind a switch is not its value; without a type, what it follows is no switch."""
    if type_of_switch is None:
        return False
    try:
        type_of_switch(word)
    except argparse.ArgumentTypeError:
        return True
    return False


def argument_options(field: dataclasses.Field, hint: Any) -> dict[str, Any]:
    """The options that argparse needs for a field of this type."""
    options = _options_of_type(hint)
    if "choices" in field.metadata:
        options["choices"] = [*field.metadata["choices"]]
    if "choices" not in options:
        options.setdefault("metavar", METAVARS.get(options["type"], "True|False"))
    default = field.default if field.default_factory is dataclasses.MISSING else field.default_factory()
    if field.metadata.get("positional"):
        options.pop("metavar", None)
        if default is not dataclasses.MISSING:
            options |= {"nargs": "*", "default": default}
    elif default is dataclasses.MISSING:
        options["required"] = True
    else:
        options["default"] = default
    return {**options, "help": _help(field, default)}


def _options_of_type(hint: Any) -> dict[str, Any]:
    members = typing.get_args(hint) if typing.get_origin(hint) in (typing.Union, types.UnionType) else (hint,)
    members = [member for member in members if member is not types.NoneType]
    choices = next((member for member in members if isinstance(member, type) and issubclass(member, Enum)), None)
    if choices is not None:
        return {"type": str, "choices": [choice.value for choice in choices]}
    if len(members) == 1 and typing.get_origin(members[0]) is list:
        return {"type": typing.get_args(members[0])[0], "nargs": "+"}
    if members == [bool]:
        return {"type": true_or_false, "nargs": "?", "const": True}
    if bool in members:
        words = [word for member in members if member is not bool for word in typing.get_args(member)]
        parse = functools.partial(true_false_or, words)
        return {"type": parse, "nargs": "?", "const": True, "metavar": "|".join(["True", "False", *words])}
    number = next((kind for kind in (float, int, Path) if kind in members and str not in members), None)
    return {"type": number or str}


def true_or_false(text: str) -> bool:
    if text.lower() in (*TRUE, *FALSE):
        return text.lower() in TRUE
    raise argparse.ArgumentTypeError(f"must be True or False, got {text!r}")


def true_false_or(words: Sequence[str], text: str) -> bool | str:
    """The value of a switch that may also be one of some words."""
    if text.lower() in words:
        return text.lower()
    try:
        return true_or_false(text)
    except argparse.ArgumentTypeError as error:
        raise argparse.ArgumentTypeError(f"must be True, False or {' or '.join(words)}, got {text!r}") from error


def _help(field: dataclasses.Field, default: Any) -> str:
    text = field.metadata.get("help", "")
    if default is dataclasses.MISSING:
        text += "" if field.metadata.get("positional") or "Required." in text else " Required."
    elif default not in (None, False, "", []) and "Default:" not in text:
        text += f" Default: {' '.join(map(str, default)) if isinstance(default, list) else default}."
    return text.replace("%", "%%")


def parse_arguments(
    dataclass_types: Sequence[type], argv: Sequence[str] | None, description: str, prog: str | None = None
) -> tuple[Any, ...]:
    """
    Instances of the dataclasses, from `--config FILE_OR_PRESET` (YAML, one `name: value` per line) and flags on top.

    Exits with status 2 and a message for an unknown flag, an unknown or mistyped YAML key, a missing or unreadable YAML
    file, a source of a value that the file does not set, or a value out of range.
    """
    argv = list(sys.argv[1:] if argv is None else argv)
    parser = DataclassParser(dataclass_types, description=description, prog=prog)
    config_parser = CommandParser(add_help=False)
    config_parser.add_argument("--config")
    config = config_parser.parse_known_args(argv)[0].config
    fields_of = {each: [field for field in dataclasses.fields(each) if field.init] for each in dataclass_types}
    fields = [field for fields in fields_of.values() for field in fields if "positional" not in field.metadata]
    try:
        from_yaml = _flags_from_yaml(config, {field.name: str(field.type) for field in fields}) if config else []
        values = vars(parser.parse_args(from_yaml + argv))
        check_flags(values)
        return tuple(
            dataclass_type(**{field.name: values[field.name] for field in fields})
            for dataclass_type, fields in fields_of.items()
        )
    except ValueError as error:
        parser.error(str(error))


def flags(**values: Any) -> list[str]:
    """`flags(seed=1, lora=True)` -> `["--seed", "1", "--lora", "True"]`, for a command that calls another."""
    return [text for name, value in values.items() for text in (f"--{name}", str(value))]


def preset_names() -> list[str]:
    return sorted(path.stem for path in CONFIG_FOLDER.glob("*.yaml"))


def _flags_from_yaml(config: str, types: dict[str, str]) -> list[str]:
    values, texts = read_yaml(config), read_yaml(config, as_text=True)
    flags = []
    for (name, value), text in zip(values.items(), texts.values(), strict=True):
        if name not in types:
            raise ValueError(f"{config}: {unknown_text('key', str(name), [*types])}")
        if isinstance(value, list) and "list" not in types[name]:
            raise ValueError(f"{config}: {name} takes one value, got a list of {len(value)}.")
        if value is not None:
            is_text = "str" in types[name] or "Path" in types[name]
            value = text if is_text and not isinstance(value, dict) else value
            flags += [f"--{name}", *map(_as_flag_value, value if isinstance(value, list) else [value])]
    read_sources(config)  # raises where they do not fit the values
    return flags


def _as_flag_value(value: Any) -> str:
    return json.dumps(value) if isinstance(value, dict) else str(value)


def read_yaml(config: str, as_text: bool = False) -> dict[str, Any]:
    """
    Values of a YAML file or preset, or with `as_text` how each is written. Its `sources` are none of them.

    Raises:
        ValueError: if there is none of that name, or it holds no `name: value` lines.
    """
    return {name: value for name, value in _load_file(config, as_text).items() if name != SOURCES}


def read_sources(config: str) -> dict[str, str]:
    """
    Where the values of a YAML file or preset are from, in words by the name of the setting: its `sources`, if any.

    Raises:
        ValueError: as `read_yaml`, and for a source that is no text or is of a setting that the file does not have.
    """
    values = _load_file(config)
    sources = values.pop(SOURCES, None) or {}
    if not isinstance(sources, dict):
        raise ValueError(
            f"{config}: {SOURCES} must hold one 'name: where its value is from' a line, got {type(sources).__name__}."
        )
    for name, source in sources.items():
        if name not in values:
            close = difflib.get_close_matches(str(name), map(str, values), n=1)
            advice = f"Did you mean {close[0]!r}?" if close else "Set it, or remove it there."
            raise ValueError(f"{config}: {SOURCES} names {name!r}, which the file does not set. {advice}")
        if not isinstance(source, str):
            raise ValueError(f"{config}: {SOURCES} must say in words where {name!r} is from, got {source!r}.")
    return sources


def _load_file(config: str, as_text: bool = False) -> dict[str, Any]:
    path = CONFIG_FOLDER / f"{config}.yaml" if config in preset_names() else Path(config)
    if not path.is_file():
        raise ValueError(
            f"--config must be a YAML file or one of the presets {', '.join(preset_names())}; there is no {config!r}."
        )
    try:
        values = load_yaml(path.read_text(encoding="utf-8-sig"), as_text)
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise ValueError(f"{path} is not a YAML file: {error}") from error
    if not isinstance(values, dict):
        raise ValueError(f"{path} must hold one 'name: value' per line, got {type(values).__name__}.")
    return values
