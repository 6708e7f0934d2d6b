"""The project's shape: which package may import which, what no file may contain, and that named commands exist."""

import ast
import importlib
import inspect
import os
import re
import shutil
import subprocess
import sys
import tomllib
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from functools import cache
from pathlib import Path

import pytest

import modeling_flallm
from modeling_flallm.systems import SYSTEMS
from train_scripts.__main__ import find_command
from train_scripts.arguments.commands import COMMANDS

ROOT = Path(__file__).resolve().parent.parent
SCRIPTS = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["scripts"]
MAINS = [*SCRIPTS.values(), *(f"train_scripts.{command.module}:main" for command in COMMANDS.values())]

FORBIDDEN_IMPORTS = {"pickle", "cPickle", "cloudpickle", "dill", "joblib", "shelve", "marshal"}
SCRIPTS_FOLDER = ROOT / "train_scripts"
THE_ONE_UNPICKLER = ROOT / "processing" / "plain_pickle_slt.py"
MAY_NOT_IMPORT = {
    "modeling_flallm": {"processing", "train_scripts", "spaces_demo", "benchmarks", "tests"},
    "processing": {"modeling_flallm", "train_scripts", "spaces_demo", "benchmarks", "tests"},
    "exported_runner": {"modeling_flallm", "processing", "train_scripts", "spaces_demo", "benchmarks", "tests"},
    "train_scripts": {"spaces_demo", "benchmarks", "tests"},
    "spaces_demo": {"train_scripts", "benchmarks", "tests"},
}
GENERATED = r"\..*|__pycache__|build|dist|site|outputs|runs|quickstart(_llava_slt|_uni_sign)?_output"
REMOTE_CODE_PACKAGES = ("modeling_flallm", "processing")


@cache
def repository_files() -> list[Path]:
    """All files that git tracks or would add; without git, all outside hidden and generated folders."""
    if (ROOT / ".git").exists() and shutil.which("git"):
        # safe.directory lets root test a checkout that belongs to somebody else
        command = ["git", "-c", "safe.directory=*", "ls-files", "-z", "--cached", "--others", "--exclude-standard"]
        listing = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True).stdout
        names = [name for name in listing.split("\0") if name]
    else:
        names = [str(path.relative_to(ROOT)) for path in ROOT.rglob("*")]
        names = [
            name
            for name in names
            if not re.fullmatch(GENERATED, Path(name).parts[0])
            and not any(part.startswith(".") or part == "__pycache__" for part in Path(name).parts)
        ]
    return sorted({path for name in names if (path := ROOT / name).is_file()})


def python_files(folder: str = ".") -> list[Path]:
    return [path for path in repository_files() if path.suffix == ".py" and path.is_relative_to(ROOT / folder)]


def syntax_nodes(path: Path) -> Iterator[ast.AST]:
    return ast.walk(ast.parse(path.read_text(encoding="utf-8"), filename=str(path)))


def imported_modules(path: Path) -> list[str]:
    """Full names of what a file imports, at the top or inside functions; relative ones keep their leading dots."""
    names = []
    for node in syntax_nodes(path):
        if isinstance(node, ast.Import):
            names += [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            names.append("." * node.level + (node.module or ""))
    return names


def problems_in(paths: list[Path], find: Callable[[Path], Iterable[str]]) -> list[str]:
    """`file: problem` for everything that `find(path)` yields; the paths must not be empty, so that no test is idle."""
    assert paths, "no files to look at"
    return [f"{path.relative_to(ROOT)}: {problem}" for path in paths for problem in find(path)]


@pytest.mark.parametrize("package", MAY_NOT_IMPORT)
def test_packages_import_only_what_the_design_allows(package):
    if not (ROOT / package).is_dir():
        pytest.skip(f"{package} does not exist yet")

    def forbidden(path):
        return [name for name in imported_modules(path) if name.split(".")[0] in MAY_NOT_IMPORT[package]]

    assert problems_in(python_files(package), forbidden) == []


# From the lowest to the highest: a room imports only rooms listed before it.
ROOMS = (
    "machine",
    "languages",
    "scores",
    "corpora",
    "rendered_corpus",
    "arguments",
    "hub",
    "clips",
    "runs",
    "serving",
    "stages",
    "commands",
)


def modules_of_train_scripts() -> dict[str, Path]:
    """`room.module` -> its file."""
    return {
        f"{path.parent.name}.{path.stem}": path
        for path in python_files("train_scripts")
        if path.parent != SCRIPTS_FOLDER
    }


def arrows_of(path: Path) -> Iterator[str]:
    """`room.module` for each module of train_scripts that a file imports, at the top or inside a function."""
    for node in syntax_nodes(path):
        if not isinstance(node, ast.ImportFrom):
            continue
        where = (node.module or "").split(".")
        if node.level == 0 and where[0] == "train_scripts":
            where = where[1:]
        elif node.level == 1:
            where = [path.parent.name, *filter(None, where)]
        elif node.level != 2:
            continue
        if len(where) > 1:
            yield f"{where[0]}.{where[1]}"
        else:
            yield from (f"{where[0]}.{alias.name}" for alias in node.names)


def test_rooms_of_train_scripts_import_only_rooms_below_them():
    modules = modules_of_train_scripts()
    folders = {path.parent.name for path in modules.values()} - {"sign_language_translation_score"}
    assert folders == set(ROOMS) and len(ROOMS) < 13  # and `configs`, which holds no Python
    heights = {room: height for height, room in enumerate(ROOMS)}

    def upward(path):
        if path.parent.name in heights:
            for arrow in arrows_of(path):
                if heights[arrow.split(".")[0]] > heights[path.parent.name]:
                    yield arrow

    assert problems_in(list(modules.values()), upward) == []


def test_files_of_train_scripts_are_short():
    """Longer files had more than one duty each. Those that are still longer should be split."""
    lengths = {name: len(path.read_text().splitlines()) for name, path in modules_of_train_scripts().items()}
    still_longer = {"hub.training_run", "clips.data", "clips.feature_cache"}
    assert {name for name, length in lengths.items() if length > 450} <= still_longer


# They run commands one after the other, by the functions that everybody can call.
RUN_OTHER_COMMANDS = ("commands.quickstart", "commands.quickstart_llava_slt", "commands.quickstart_uni_sign")


def test_commands_and_stages_share_what_is_in_the_rooms_below_them():
    def beside(path):
        if path.parent.name in ("commands", "stages"):
            yield from (arrow for arrow in arrows_of(path) if arrow.split(".")[0] in ("commands", "stages"))

    paths = {name: path for name, path in modules_of_train_scripts().items() if name not in RUN_OTHER_COMMANDS}
    assert problems_in(list(paths.values()), beside) == []


def test_no_module_of_train_scripts_imports_itself_by_a_detour():
    arrows = {name: set(arrows_of(path)) for name, path in modules_of_train_scripts().items()}
    assert sum(map(len, arrows.values())) > 100
    while arrows:
        leaves = {name for name, targets in arrows.items() if not targets & set(arrows)}
        assert leaves, f"these import each other: {sorted(arrows)}"
        arrows = {name: targets for name, targets in arrows.items() if name not in leaves}


def test_configurations_import_no_model():
    paths = [path for path in python_files("modeling_flallm") if path.name.startswith("configuration_")]

    def model_imports(path):
        return [name for name in imported_modules(path) if name.lstrip(".").split(".")[-1].startswith("modeling_")]

    assert problems_in(paths, model_imports) == []


@pytest.mark.parametrize("package", REMOTE_CODE_PACKAGES)
def test_remote_code_uses_only_same_folder_relative_imports(package):
    """The Hub gets these files flattened: `from .x import y` still works there, nothing else that names us does."""

    def unportable(path):
        for name in imported_modules(path):
            is_relative = name.startswith(".")
            if (is_relative and not re.fullmatch(r"\.\w+", name)) or name.split(".")[0] == package:
                yield name

    assert problems_in(python_files(package), unportable) == []


def test_remote_code_is_flat_with_unique_names():
    paths = [path for package in REMOTE_CODE_PACKAGES for path in python_files(package)]
    nested = [path for path in paths if path.parent.parent != ROOT]
    counts = Counter(path.name for path in paths if path.name != "__init__.py")
    assert {path.parent.name for path in paths} == set(REMOTE_CODE_PACKAGES)
    assert nested == []
    assert [name for name, count in counts.items() if count > 1] == []


def unsafe_call(node: ast.Call) -> str | None:
    """What is unsafe in a call: eval, exec, a checked load without its check, pickled arrays; None where nothing is."""
    keywords = {keyword.arg: ast.unparse(keyword.value) for keyword in node.keywords}
    function = ast.unparse(node.func)
    if function in {"eval", "exec", "builtins.eval", "builtins.exec"}:
        return f"{function}()"
    if function == "torch.load" and keywords.get("weights_only") != "True":
        return "torch.load() without weights_only=True"
    if keywords.get("allow_pickle", "False") != "False":
        return f"{function}(allow_pickle={keywords['allow_pickle']})"
    if keywords.get("type") == "bool":
        return f"{function}(type=bool), which reads 'False' as True"
    return None


def unsafe_import(node: ast.AST) -> str | None:
    """What is unsafe in an import: a module that unpickles, or `load` imported from torch, which hides its calls."""
    if isinstance(node, ast.Import):
        found = [alias.name for alias in node.names if alias.name.split(".")[0] in FORBIDDEN_IMPORTS]
        return f"import {found[0]}" if found else None
    if isinstance(node, ast.ImportFrom) and not node.level:
        takes_load = node.module == "torch" and "load" in {alias.name for alias in node.names}
        if takes_load or node.module.split(".")[0] in FORBIDDEN_IMPORTS:
            return f"from {node.module} import"
    return None


def unsafe_code(nodes: Iterator[ast.AST]) -> list[str]:
    found = (unsafe_call(node) if isinstance(node, ast.Call) else unsafe_import(node) for node in nodes)
    return [problem for problem in found if problem]


# A model knows its own system. All others read the rows of modeling_flallm/systems.py, or facts of the model's class.
KNOWS_ITS_SYSTEM = re.compile(r"(adapter|configuration|encoder|language|modeling|visual_encoder)_\w+\.py|systems\.py")
NAMES_OF_SYSTEMS = {
    name
    for system in SYSTEMS.values()
    for name in (system.model_type, system.title, *system.visual_encoder_types, *system.pretrained_types)
}
NAMES_OF_STAGES = {stage.name for system in SYSTEMS.values() for stage in system.stages}
MODEL_CLASSES = [getattr(modeling_flallm, system.model_class) for system in SYSTEMS.values()]
PARTS_OF_SYSTEMS = {name for model in MODEL_CLASSES for name in (model.adapter_name, model.text_model_name)}


@cache
def classes_of_systems() -> frozenset[str]:
    """Models, configurations and processors."""
    paths = [
        path
        for package in REMOTE_CODE_PACKAGES
        for path in python_files(package)
        if KNOWS_ITS_SYSTEM.fullmatch(path.name) or path.name.startswith("processing_")
    ]
    rows = {"System", "Stage", "Recipe"}
    nodes = (node for path in paths for node in syntax_nodes(path))
    return frozenset(node.name for node in nodes if isinstance(node, ast.ClassDef)) - rows


def names_a_system(node: ast.AST, names: Iterable[str] = NAMES_OF_SYSTEMS) -> bool:
    """A literal, or a tuple, list or set with one in it."""
    if isinstance(node, ast.Tuple | ast.List | ast.Set):
        return any(names_a_system(each, names) for each in node.elts)
    return isinstance(node, ast.Constant) and isinstance(node.value, str) and node.value in names


def is_a_model_type(node: ast.AST) -> bool:
    """`model_type`, `config.model_type`, `config["model_type"]` and what `config.get("model_type")` gives."""
    if isinstance(node, ast.Call):
        return any(isinstance(each, ast.Constant) and each.value == "model_type" for each in node.args)
    if isinstance(node, ast.Subscript):
        return isinstance(node.slice, ast.Constant) and node.slice.value == "model_type"
    return (isinstance(node, ast.Attribute) and node.attr == "model_type") or (
        isinstance(node, ast.Name) and node.id == "model_type"
    )


def branch_on_a_system(node: ast.AST) -> str | None:
    """Code that asks which system a model belongs to, without its row; None for everything else."""
    found = False
    if isinstance(node, ast.Attribute):
        found = node.attr == "is_encoder_decoder"
    elif isinstance(node, ast.Call):
        function = ast.unparse(node.func)
        literals = {each.value for each in node.args if isinstance(each, ast.Constant)}
        if function in ("getattr", "hasattr"):
            found = bool(literals & ({"is_encoder_decoder"} | PARTS_OF_SYSTEMS))
        elif function in ("isinstance", "issubclass"):
            names = {ast.unparse(each).split(".")[-1] for each in ast.walk(node.args[1])}
            found = bool(names & classes_of_systems())
    elif isinstance(node, ast.Compare):
        sides = [node.left, *node.comparators]
        is_equality = any(isinstance(operator, ast.Eq | ast.NotEq) for operator in node.ops)
        is_named = any(names_a_system(side, NAMES_OF_SYSTEMS | NAMES_OF_STAGES) for side in sides)
        found = is_named or (is_equality and any(map(is_a_model_type, sides)))
    elif isinstance(node, ast.Dict):
        found = any(names_a_system(key) for key in node.keys if key is not None)
    elif isinstance(node, ast.Tuple | ast.List | ast.Set):
        found = names_a_system(node)
    elif isinstance(node, ast.MatchValue):
        found = names_a_system(node.value)
    elif isinstance(node, ast.Subscript):
        found = names_a_system(node.slice)
    return ast.unparse(node) if found else None


def test_only_models_and_their_rows_know_a_system_by_name():
    packages = (*REMOTE_CODE_PACKAGES, "train_scripts", "spaces_demo", "benchmarks")
    paths = [path for each in packages for path in python_files(each) if not KNOWS_ITS_SYSTEM.fullmatch(path.name)]

    def branches(path):
        return filter(None, map(branch_on_a_system, syntax_nodes(path)))

    assert len(paths) > 100 and problems_in(paths, branches) == []


@pytest.mark.parametrize(
    "source",
    [
        "if config.is_encoder_decoder: pass",
        "getattr(model.config, 'is_encoder_decoder', False)",
        "config.model_type == other",
        "config.get('model_type') != wanted",
        "config['model_type'] == wanted",
        "name in ('flallm', 'mbart')",
        "stage.method == 'LLaVA-SLT'",
        "run.stage != 'visual_initialing'",
        "{'llava_slt': 1}",
        "TYPES = ['flallm_vision']",
        "table['flallm']",
        "match name:\n    case 'flallm': pass",
        "isinstance(model, LlavaSltForTranslation)",
        "isinstance(model, (int, modeling_flallm.FLaLLMForTranslation))",
        "isinstance(processor, LlavaSltProcessor)",
        "hasattr(model, 'language_model')",
    ],
)
def test_the_search_for_branches_on_a_system_finds_it(source):
    assert len([each for node in ast.walk(ast.parse(source)) if (each := branch_on_a_system(node))]) >= 1


@pytest.mark.parametrize(
    "source",
    [
        "model.is_prompted",
        "getattr(model, model.text_model_name)",
        "config.get('model_type') in SYSTEMS",
        "model_type is None",
        "isinstance(model, PreTrainedModel)",
        "'flallm' + name",
        "{'User-Agent': 'flallm'}",
        "hasattr(model, 'hf_device_map')",
    ],
)
def test_the_search_for_branches_on_a_system_lets_others_be(source):
    assert [each for node in ast.walk(ast.parse(source)) if (each := branch_on_a_system(node))] == []


def test_the_template_of_the_model_card_names_no_system():
    template = (SCRIPTS_FOLDER / "hub" / "model_card_template.md").read_text(encoding="utf-8")
    names = (NAMES_OF_SYSTEMS | NAMES_OF_STAGES) - {"flallm"}  # the first word of the template's marks
    assert [name for name in names if re.search(rf"\b{re.escape(name)}\b", template)] == []


def test_one_function_opens_videos_to_read_them():
    """It alone knows the formats and protocols that are allowed; writing is another matter."""
    opener = ROOT / "processing" / "video_container_slt.py"
    packages = (*REMOTE_CODE_PACKAGES, "train_scripts", "spaces_demo", "benchmarks")

    def other_openings(path):
        for node in syntax_nodes(path):
            if (
                isinstance(node, ast.ImportFrom)
                and node.module == "av"
                and "open" in {name.name for name in node.names}
            ):
                yield "from av import open"
            elif isinstance(node, ast.Call) and ast.unparse(node.func) in {"av.open", "av.container.open"}:
                arguments = [ast.unparse(value) for value in (*node.args[1:], *(word.value for word in node.keywords))]
                if "'w'" not in arguments and path != opener:
                    yield ast.unparse(node)

    assert problems_in([path for package in packages for path in python_files(package)], other_openings) == []


def test_no_file_unpickles_evaluates_or_parses_flags_as_bool():
    def unsafe(path):
        found = unsafe_code(syntax_nodes(path))
        return [problem for problem in found if (path, problem) != (THE_ONE_UNPICKLER, "import pickle")]

    assert problems_in(python_files(), unsafe) == []


@pytest.mark.parametrize(
    "source",
    [
        "import pickle",
        "from marshal import loads",
        "from torch import load",
        "def f():\n    return eval('1')",
        "torch.load(path)",
        "torch.load(path, weights_only=False)",
        "numpy.load(path, allow_pickle=True)",
        "parser.add_argument('--flag', type=bool)",
    ],
)
def test_the_search_for_unsafe_code_finds_it(source):
    assert len(unsafe_code(ast.walk(ast.parse(source)))) == 1


@pytest.mark.parametrize("source", ["model.eval()", "torch.load(path, weights_only=True)", "numpy.load(path)"])
def test_the_search_for_unsafe_code_lets_safe_code_be(source):
    assert unsafe_code(ast.walk(ast.parse(source))) == []


@pytest.mark.parametrize("main", MAINS)
def test_a_command_can_be_called_as_a_console_script_does(main):
    """Without arguments, and returning an exit status."""
    module, function = main.split(":")
    inspect.signature(getattr(importlib.import_module(module), function)).bind()


def make_targets() -> set[str]:
    return set(re.findall(r"^([a-z][a-z-]*):", (ROOT / "Makefile").read_text(), flags=re.MULTILINE))


@pytest.mark.parametrize("name", ["README.md", "CONTRIBUTING.md"])
def test_documented_make_targets_exist(name):
    """Looks inside code blocks and code spans only: prose may say "make sure"."""
    code = re.findall(r"```.*?```|`[^`\n]+`", (ROOT / name).read_text(encoding="utf-8"), flags=re.DOTALL)
    named = {target for part in code for target in re.findall(r"\bmake ([a-z][a-z-]*)", part)}
    assert "test" in named
    assert named - make_targets() == set()


def test_makefile_runs_only_what_exists():
    text = (ROOT / "Makefile").read_text()
    commands = re.findall(r"-m train_scripts (.*)", text)
    files = re.findall(r"\b(benchmarks/\w+\.py)\b", text)
    assert commands and files
    assert [words for words in commands if find_command(words.split())[0] is None] == []
    assert [name for name in files if not (ROOT / name).is_file()] == []


def test_no_file_names_a_machine_path_or_a_package_registry():
    patterns = [
        r"(?<![\w.~-])/(?:work|farm|root)/",
        r"\bpypi\.org\b",
        r"\bpythonhosted\.org\b",
        r"\bdownload\.pytorch\.org\b",
    ]
    assert re.search(patterns[0], "see /" + "work/main") and not re.search(patterns[0], "net/" + "work/")

    def matches(path):
        text = path.read_bytes().decode("utf-8", errors="ignore")
        return [match.group() for pattern in patterns for match in re.finditer(pattern, text)]

    assert problems_in(repository_files(), matches) == []


@pytest.mark.parametrize("users_is_imported_first", [True, False])
@pytest.mark.slow
def test_a_users_own_processing_folder_does_not_hide_ours(tmp_path, users_is_imported_first):
    (tmp_path / "processing").mkdir()
    (tmp_path / "processing" / "__init__.py").write_text("OWNER = 'the user'\n")
    users_import = "import processing; assert processing.OWNER == 'the user'\n" if users_is_imported_first else ""
    code = users_import + (
        "import inspect\n"
        "import train_scripts.commands.translate\n"
        "from modeling_flallm.own_processing import FLaLLMProcessor\n"
        "print(inspect.getfile(FLaLLMProcessor))\n"
    )
    run = subprocess.run(
        [sys.executable, "-c", code],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert run.returncode == 0, run.stderr
    assert Path(run.stdout.splitlines()[-1]) == ROOT / "processing" / "processing_flallm.py"
