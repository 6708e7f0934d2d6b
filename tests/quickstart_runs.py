"""A run of either quickstart with tiny sizes, and checks of what both promise."""

import contextlib
import importlib
import io
import json
import re
from collections.abc import Iterator
from pathlib import Path
from subprocess import CompletedProcess
from types import ModuleType, SimpleNamespace
from typing import Any
from unittest import mock

from PIL import Image
from tiny_corpus import flags

from train_scripts.commands import quickstart as first_quickstart

SIZES = {"num_train_clips": 16, "num_dev_clips": 20, "num_test_clips": 12, "num_text_only_sentences": 100}


def printed_by(quickstart: ModuleType, sizes: dict[str, Any], folder: Path) -> str:
    """What a run into the folder prints."""
    printed = io.StringIO()
    with contextlib.redirect_stdout(printed):
        assert quickstart.main(flags(**sizes, output_dir=folder)) == 0
    return printed.getvalue()


@contextlib.contextmanager
def commands_in_this_process() -> Iterator[None]:
    """
    What quickstarts start in processes of their own runs here: importing everything anew takes longer. The tests of one
    of them leave it as it is.
    """

    def run(command: list[str], **_: Any) -> CompletedProcess[str]:
        _, _, module, *arguments = command
        printed = io.StringIO()
        with contextlib.redirect_stdout(printed):
            status = importlib.import_module(module).main(arguments)
        return CompletedProcess(command, status, printed.getvalue(), "")

    def start(command: list[str]) -> SimpleNamespace:
        finished = run([*command, "--num_workers", "1"])
        return SimpleNamespace(poll=lambda: finished.returncode, returncode=finished.returncode)

    with mock.patch.object(first_quickstart, "subprocess", SimpleNamespace(run=run, Popen=start)):
        yield


def check_pictures(folder: Path) -> None:
    for name in ("learning_curves.png", "contact_sheet.png"):
        with Image.open(folder / name) as picture:
            assert picture.format == "PNG" and min(picture.size) > 200, name
            assert len(picture.convert("RGB").getcolors(1 << 24)) > 10, name


def check_printed_results(output: str, clips: Path, test_folder: Path) -> None:
    """`clips` has the test clips, and `test_folder` the scores and the translations, the first ten of which are
    printed."""
    scores = json.loads((test_folder / "scores.json").read_text(encoding="utf-8"))
    assert scores["num_segments"] == SIZES["num_test_clips"]
    # The line of the table; a step of LLaVA-SLT's quickstart prints another one before it.
    line = [line for line in output.splitlines() if line.startswith("BLEU-4 ")][-1]
    assert f" {scores['bleu4']:.2f} [" in line
    assert f"BLEU-4: {scores['signatures']['bleu4']}" in output
    rows = (test_folder / "predictions.jsonl").read_text(encoding="utf-8").splitlines()
    first = [json.loads(row) for row in rows][:10]
    for kind, name in (("reference:  ", "reference"), ("translation:", "prediction")):
        # One line each: a model that has hardly been trained may write line ends.
        assert re.findall(f"    {kind} (.*)", output) == [" ".join(row[name].split()) for row in first]
    clip = clips / first[0]["file_name"]
    assert " ".join(f"in a fresh process: {clip} {first[0]['prediction']}".split()) in " ".join(output.split())


def check_that_nothing_is_overwritten(quickstart: ModuleType, sizes: dict[str, Any], folder: Path, capsys) -> None:
    before = {path: path.stat().st_mtime_ns for path in folder.rglob("*")}
    capsys.readouterr()
    assert quickstart.main(flags(**sizes, output_dir=folder)) == 2
    assert capsys.readouterr().err == (
        f"error: --output_dir {folder} is not empty. Name a new folder, or remove this one.\n"
    )
    assert {path: path.stat().st_mtime_ns for path in folder.rglob("*")} == before
