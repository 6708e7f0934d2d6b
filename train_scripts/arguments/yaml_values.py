"""
YAML as people expect it: the core schema of YAML 1.2, where `no`, `on`, dates and times of day are text, `1e-4` is a
number and `010` is ten. PyYAML reads YAML 1.1.
"""

import re
from typing import Any

import yaml


class _CoreSchemaLoader(yaml.SafeLoader):
    """Builds only what JSON has."""

    # Without the resolvers for YAML 1.1, which the parent class has.
    yaml_implicit_resolvers: dict[str, list[tuple[str, re.Pattern]]] = {}

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        names = [key.value for key, _ in node.value]
        twice = next((key for key, _ in node.value if names.count(key.value) > 1), None)
        if twice is not None:
            raise yaml.constructor.ConstructorError(
                None, None, f"{twice.value!r} is given more than once", twice.start_mark
            )
        return super().construct_mapping(node, deep)

    def construct_integer(self, node: yaml.ScalarNode) -> int:
        base = {"0o": 8, "0x": 16}.get(node.value[:2], 10)
        return int(node.value, base)


# https://yaml.org/spec/1.2.2/#1032-tag-resolution; PyYAML looks up numbers by their first characters.
for _name, _pattern, _first in (
    ("null", r"null|Null|NULL|~|", ["n", "N", "~", ""]),
    ("bool", r"true|True|TRUE|false|False|FALSE", list("tTfF")),
    ("int", r"[-+]?[0-9]+|0o[0-7]+|0x[0-9a-fA-F]+", list("-+0123456789")),
    (
        "float",
        r"[-+]?(\.[0-9]+|[0-9]+(\.[0-9]*)?)([eE][-+]?[0-9]+)?|[-+]?(\.inf|\.Inf|\.INF)|\.nan|\.NaN|\.NAN",
        list("-+.0123456789"),
    ),
):
    _CoreSchemaLoader.add_implicit_resolver(f"tag:yaml.org,2002:{_name}", re.compile(rf"^(?:{_pattern})$"), _first)
_CoreSchemaLoader.add_constructor("tag:yaml.org,2002:int", _CoreSchemaLoader.construct_integer)


class _TextLoader(_CoreSchemaLoader):
    """Keeps each scalar as it is written."""

    yaml_implicit_resolvers: dict[str, list[tuple[str, re.Pattern]]] = {}


def load_yaml(text: str, as_text: bool = False) -> Any:
    """
    Args:
        as_text: keep numbers, true, false and null as they are written: a name such as 007 keeps its zeros.

    Raises:
        yaml.YAMLError: for text that is not YAML, or a key that is given twice.
    """
    return yaml.load(text, Loader=_TextLoader if as_text else _CoreSchemaLoader)  # noqa: S506 (both are SafeLoaders)
