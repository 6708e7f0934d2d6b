"""README.md and docs/: links and anchors lead somewhere, and the commands, flags and imports that they show exist."""

import ast
import contextlib
import importlib
import io
import re
import shlex
import tomllib
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from urllib.parse import unquote

import pytest
import yaml

from train_scripts.__main__ import find_command
from train_scripts.arguments.commands import ALL_FLAGS, COMMANDS, HELP_FLAGS

ROOT = Path(__file__).resolve().parent.parent
DOCS = ROOT / "docs"
PAGES = sorted(DOCS.glob("*.md"))
READ_BY_USERS = [ROOT / "README.md", *PAGES]
TEXTS = [*READ_BY_USERS, ROOT / "CONTRIBUTING.md"]
SITE = yaml.safe_load((ROOT / "mkdocs.yml").read_text(encoding="utf-8"))
PRESETS = {path.stem for path in (ROOT / "train_scripts" / "configs").glob("*.yaml")}

FENCE = re.compile(r"^( *)```(\w*)\n(.*?)^\1```", re.MULTILINE | re.DOTALL)
# Flags of other commands that our pages name.
FLAGS_OF_OTHERS = {"--nproc_per_node", "--torch-backend", "--logdir"}
# A trainer's flag with a value, or one of ours, in running text.
FLAG = re.compile(r"(?<![\w-])--[a-z][\w-]*")


def names_of(paths: list[Path]) -> list[str]:
    return [str(path.relative_to(ROOT)) for path in paths]


def text_of(path: Path) -> str:
    return path.read_text(encoding="utf-8")


def blocks(text: str, language: str) -> list[str]:
    return [match[3] for match in FENCE.finditer(text) if match[2] == language]


def without_code(text: str) -> str:
    return re.sub(r"`[^`\n]+`", "", FENCE.sub("", text))


def anchors(path: Path) -> set[str]:
    """Those of a page's headings, as GitHub and MkDocs make them."""
    headings = re.findall(r"^#{1,6} +(.+?) *$", FENCE.sub("", text_of(path)), re.MULTILINE)
    return {re.sub(r"\s", "-", re.sub(r"[^\w\s-]", "", heading.lower())) for heading in headings}


def links(path: Path) -> list[str]:
    """The targets of a page's links and pictures that lead to files of ours."""
    targets = re.findall(r"\]\(([^()\s]+)\)", without_code(text_of(path)))
    return [target for target in targets if not re.match(r"[a-z]+:", target)]


def broken(path: Path, target: str) -> str | None:
    """What is wrong with a link, if anything is."""
    name, _, anchor = unquote(target).partition("#")
    file = (path.parent / name).resolve() if name else path
    if not file.is_file():
        return f"{target}: there is no {file.name}"
    if path in PAGES and not file.is_relative_to(DOCS):
        return f"{target} leads out of docs/, so the site does not have it"
    if anchor and anchor not in anchors(file):
        return f"{target}: {file.name} has no heading for #{anchor}"
    return None


@pytest.mark.parametrize("path", TEXTS, ids=names_of(TEXTS))
def test_links_lead_somewhere(path):
    assert [problem for target in links(path) if (problem := broken(path, target))] == []


def test_the_search_for_links_finds_them():
    assert len(links(ROOT / "README.md")) > 20
    assert any("#" in target for path in PAGES for target in links(path))
    readme, page = ROOT / "README.md", DOCS / "index.md"
    assert broken(readme, "docs/no-such-page.md") == "docs/no-such-page.md: there is no no-such-page.md"
    assert (
        broken(page, "speed.md#no-such-heading")
        == "speed.md#no-such-heading: speed.md has no heading for #no-such-heading"
    )
    assert broken(page, "../README.md") == "../README.md leads out of docs/, so the site does not have it"
    assert broken(page, "speed.md#which-processor-a-figure-needs") is None


def pages_in(nav: list | str | dict) -> Iterator[str]:
    if isinstance(nav, str):
        yield nav
    else:
        for part in nav.values() if isinstance(nav, dict) else nav:
            yield from pages_in(part)


def test_every_page_is_in_the_navigation_once():
    assert sorted(pages_in(SITE["nav"])) == [path.name for path in PAGES]


def test_every_page_can_be_reached_from_the_readme():
    seen, to_see = set(), [ROOT / "README.md"]
    while to_see:
        path = to_see.pop()
        seen.add(path)
        targets = {(path.parent / target.partition("#")[0]).resolve() for target in links(path)}
        to_see += [target for target in targets if target.suffix == ".md" and target not in seen]
    assert set(PAGES) - seen - {DOCS / "index.md"} == set()


def test_a_page_has_one_title():
    for path in READ_BY_USERS:
        assert len(re.findall(r"^# ", FENCE.sub("", text_of(path)), re.MULTILINE)) == 1, path.name


def test_the_site_is_strict_and_has_what_its_configuration_names():
    assert SITE["strict"] is True and SITE["docs_dir"] == "docs" and SITE["theme"]["name"] == "material"
    assert set(SITE["validation"]["links"].values()) == set(SITE["validation"]["nav"].values()) == {"warn"}
    extras = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]["optional-dependencies"]
    assert {re.match(r"[a-z-]+", requirement)[0] for requirement in extras["docs"]} == {
        "mkdocs-material",
        "mkdocstrings-python",
    }


def test_the_site_builds(tmp_path):
    """Only if its tools are installed, which no other test needs; the workflow builds it, too."""
    pytest.importorskip("mkdocstrings_handlers.python")
    commands = pytest.importorskip("mkdocs.commands.build")
    load_config = importlib.import_module("mkdocs.config").load_config
    commands.build(load_config(str(ROOT / "mkdocs.yml"), site_dir=str(tmp_path / "site")))
    assert (tmp_path / "site" / "quickstart" / "index.html").is_file()


def command_lines(text: str) -> Iterator[list[str]]:
    """The words behind `flallm` of every command in a page: in blocks, indented lines and code spans."""
    joined = re.sub(r"\\\n\s*", " ", text)
    code = [line for match in FENCE.finditer(joined) if match[2] in ("bash", "") for line in match[3].splitlines()]
    code += re.findall(r"^ {4}(\S.*)$", joined, re.MULTILINE)
    code += re.findall(r"`([^`\n]+)`", FENCE.sub("", joined))
    for line in code:
        if line.strip().startswith("flallm "):
            with contextlib.suppress(ValueError):  # an unclosed quotation mark: not a command
                yield shlex.split(line, comments=True)[1:]


@cache
def flags_of(name: str) -> set[str]:
    """The flags that the longest help of a command shows."""
    command = COMMANDS[name]
    with contextlib.redirect_stdout(io.StringIO()) as output, pytest.raises(SystemExit):
        if command.defaults is None:
            command.show_help()
        importlib.import_module(f"train_scripts.{command.module}").main(["--help-all"])
    return {"--debug", *FLAG.findall(output.getvalue()), *(ALL_FLAGS if command.defaults else ())}


def wrong_parts(words: list[str]) -> Iterator[str]:
    """The parts of a command line that do not exist: its name, a flag, a preset."""
    command, arguments = find_command(words)
    if command is None:
        if words[0] not in ("completion", *HELP_FLAGS):
            yield f"there is no command {words[0]}"
        return
    for word, value in zip(arguments, [*arguments, ""][1:], strict=True):
        if word.startswith("--") and word.partition("=")[0] not in flags_of(command.name):
            yield f"{command.name} has no {word}"
        if word == "--config" and value not in PRESETS and not value.endswith(".yaml"):
            yield f"there is no preset {value}"


@pytest.mark.slow
@pytest.mark.parametrize("path", READ_BY_USERS, ids=names_of(READ_BY_USERS))
def test_commands_and_their_flags_exist(path):
    assert [problem for words in command_lines(text_of(path)) for problem in wrong_parts(words)] == []


@pytest.mark.slow
def test_the_search_for_commands_finds_what_is_wrong():
    page = (
        "`flallm no-such`\n\n```bash\nflallm score a b --jason\nflallm calibrate --config papr \\\n  --modle x\n```\n"
    )
    assert [problem for words in command_lines(page) for problem in wrong_parts(words)] == [
        "score has no --jason",
        "there is no preset papr",
        "calibrate has no --modle",
        "there is no command no-such",
    ]


@pytest.mark.slow
@pytest.mark.parametrize("path", READ_BY_USERS, ids=names_of(READ_BY_USERS))
def test_flags_in_running_text_exist(path):
    """In code spans that begin with a flag, and at the beginning of a table's cell."""
    known = {flag for command in COMMANDS for flag in flags_of(command)} | FLAGS_OF_OTHERS
    known |= {flag for benchmark in (ROOT / "benchmarks").glob("*.py") for flag in benchmark_flags(benchmark)}
    spans = re.findall(r"`(--[^`\n]+)`", FENCE.sub("", text_of(path)))
    named = {flag for span in spans for flag in FLAG.findall(span)}
    assert named - known == set()


def benchmark_flags(path: Path) -> set[str]:
    """A field of a dataclass or an argument of a parser, as it is written in the file."""
    return {
        f"--{name}"
        for name in re.findall(r"^    (\w+): |\"--(\w+)\"", text_of(path), re.MULTILINE)
        for name in name
        if name
    }


@pytest.mark.parametrize("path", READ_BY_USERS, ids=names_of(READ_BY_USERS))
def test_python_blocks_parse_and_import_what_exists(path):
    for block in blocks(text_of(path), "python"):
        for node in ast.walk(ast.parse(block)):
            if isinstance(node, ast.Import):
                for alias in node.names:
                    importlib.import_module(alias.name)
            elif isinstance(node, ast.ImportFrom):
                module = importlib.import_module(node.module)
                missing = [alias.name for alias in node.names if not hasattr(module, alias.name)]
                assert missing == [], f"{node.module} has no {missing}"


def test_the_python_api_shows_what_exists():
    shown = re.findall(
        r"^::: (\w+)\.(\w+)\n(?: +options:\n +members: \[(.*)\])?", text_of(DOCS / "python-api.md"), re.M
    )
    assert len(shown) > 8
    for package, name, members in shown:
        shown_class = getattr(importlib.import_module(package), name)
        assert [member for member in members.split(", ") if member and not hasattr(shown_class, member)] == [], name


def modules_and_files(text: str) -> set[str]:
    """Modules of train_scripts and scripts of benchmarks that a page names, as paths."""
    modules = re.findall(r"\btrain_scripts(?:\.[a-z_]+)+", text)
    return {name.replace(".", "/") + ".py" for name in modules} | set(re.findall(r"\bbenchmarks/\w+\.py\b", text))


def test_named_modules_and_scripts_exist():
    named = {name for path in READ_BY_USERS for name in modules_and_files(text_of(path))}
    assert len(named) > 20
    assert [name for name in sorted(named) if not (ROOT / name).exists() and not (ROOT / name[:-3]).is_dir()] == []


def test_named_make_targets_exist():
    targets = set(re.findall(r"^([a-z][a-z-]*):", text_of(ROOT / "Makefile"), re.MULTILINE))
    code = [part for path in READ_BY_USERS for part in re.findall(r"```.*?```|`[^`\n]+`", text_of(path), re.DOTALL)]
    named = {target for part in code for target in re.findall(r"\bmake ([a-z][a-z-]*)", part)}
    assert {"quickstart", "demo", "site"} <= named <= targets


def test_every_command_and_preset_is_documented():
    commands, configuration = text_of(DOCS / "commands.md"), text_of(DOCS / "configuration.md")
    assert [name for name in COMMANDS if f"| `flallm {name}` |" not in commands] == []
    assert [preset for preset in sorted(PRESETS) if f"`{preset}`" not in configuration] == []


def test_the_readme_stays_short():
    """One screen: what it is, one command, one table of further pages; everything else is a page of docs/."""
    assert len(text_of(ROOT / "README.md").splitlines()) < 135
