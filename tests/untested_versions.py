"""
Prints the installed releases that pyproject.toml does not allow yet, because they have not been tested.

    python tests/untested_versions.py
"""

import tomllib
from importlib.metadata import version
from itertools import chain
from pathlib import Path

from packaging.requirements import Requirement

PROJECT = Path(__file__).resolve().parent.parent / "pyproject.toml"


def untested_versions() -> list[str]:
    """One line for each such release, with what pyproject.toml allows."""
    project = tomllib.loads(PROJECT.read_text(encoding="utf-8"))["project"]
    texts = chain(project["dependencies"], *project["optional-dependencies"].values())
    requirements = [requirement for requirement in map(Requirement, texts) if requirement.name != "flallm"]
    installed = [(requirement, version(requirement.name)) for requirement in requirements]
    return [
        f"{requirement.name} {number} (allowed: {requirement.specifier})"
        for requirement, number in installed
        if not requirement.specifier.contains(number, prereleases=True)
    ]


if __name__ == "__main__":
    lines = untested_versions()
    print("Not allowed by pyproject.toml yet, and tried now:", *(lines or ["nothing"]), sep="\n  ")
