"""
Prints the installed releases that pyproject.toml does not allow yet, because they have not been tested.

    python tests/untested_versions.py
"""

import tomllib
from collections.abc import Iterator
from importlib.metadata import PackageNotFoundError, version
from itertools import chain
from pathlib import Path

from packaging.requirements import Requirement

PROJECT = Path(__file__).resolve().parent.parent / "pyproject.toml"


def installed_requirements(project: Path) -> Iterator[tuple[Requirement, str]]:
    """What a pyproject.toml asks for, and the installed version; extras that are not installed are passed over."""
    values = tomllib.loads(project.read_text(encoding="utf-8"))["project"]
    for text in chain(values["dependencies"], *values["optional-dependencies"].values()):
        requirement = Requirement(text)
        try:
            yield requirement, version(requirement.name)
        except PackageNotFoundError:
            continue


def untested_versions(project: Path = PROJECT) -> list[str]:
    """One line for each such release, with what pyproject.toml allows."""
    return [
        f"{requirement.name} {number} (allowed: {requirement.specifier})"
        for requirement, number in installed_requirements(project)
        if requirement.name != "flallm" and not requirement.specifier.contains(number, prereleases=True)
    ]


if __name__ == "__main__":
    lines = untested_versions()
    print("Not allowed by pyproject.toml yet, and tried now:", *(lines or ["nothing"]), sep="\n  ")
