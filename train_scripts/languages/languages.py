"""Tags of spoken and sign languages: validated, and named with the ISO 639 list that ships with `datasets`."""

import functools
import importlib.util
import json
import re
from pathlib import Path

LOCAL_USE = re.compile(r"q[a-t][a-z]")  # codes that ISO 639-3 reserves for local use: qaa to qtz
SIGN_LANGUAGE_EXAMPLES = "gsg (German), ase (American) or csl (Chinese)"


@functools.cache
def _language_names() -> dict[str, str]:
    """English names by ISO 639-1 code or, where there is none, ISO 639-3 code; empty if the list is missing."""
    package = Path(importlib.util.find_spec("datasets").origin).parent
    path = package / "utils" / "resources" / "languages.json"
    return json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}


def primary_language(tag: str) -> str:
    """`"de_DE"` -> `"de"`, `"deu_Latn"` -> `"deu"`"""
    return re.split("[-_]", tag)[0].lower()


def language_name(tag: str | None) -> str | None:
    """English name of a spoken or sign language, or None if it is not in the list."""
    name = _language_names().get(primary_language(tag)) if tag else None
    return name and name.split(";")[0]


def check_spoken_language(tag: str | None) -> None:
    """
    Raises:
        ValueError: for a tag that is not of the form `de`, `zh_CN` or `deu_Latn`, for two letters that are not an
            ISO 639-1 code, and for the code of a sign language.
    """
    if tag is None:
        return
    expected = "--spoken_language must be the tag of a written language, such as de, zh_CN or deu_Latn"
    if not re.fullmatch(r"[A-Za-z]{2,3}([-_][A-Za-z0-9]+)*", tag):
        raise ValueError(f"{expected}, got {tag!r}.")
    code, name = primary_language(tag), language_name(tag)
    if name is None and len(code) == 2 and _language_names():
        raise ValueError(f"{expected}; {tag!r} is not the code of any language.")
    if name is not None and _is_sign_language(name):
        raise ValueError(f"{expected}; {tag!r} is {name}. Pass that as --sign_language.")


def check_sign_language(tag: str | None) -> None:
    """
    Raises:
        ValueError: for anything but the ISO 639-3 code of a sign language, or a code for local use.
    """
    if tag is None or LOCAL_USE.fullmatch(tag):
        return
    expected = f"--sign_language must be the ISO 639-3 code of a sign language, such as {SIGN_LANGUAGE_EXAMPLES}"
    if not re.fullmatch("[a-z]{3}", tag):
        raise ValueError(f"{expected}, got {tag!r}.")
    name = language_name(tag)
    if name is None and _language_names():
        raise ValueError(f"{expected}; {tag!r} is not. A language without a code may use qaa to qtz.")
    if name is not None and not _is_sign_language(name):
        raise ValueError(f"{expected}; {tag!r} is {name}, which is not a sign language.")


def _is_sign_language(name: str) -> bool:
    return "sign" in name.lower() or "gebarentaal" in name.lower()
