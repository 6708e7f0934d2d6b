"""A command interrupted while writing succeeds when run again: it never rejects its own leftovers."""

import os
import shutil

import pytest
from tiny_corpus import corpus, flags, language_model, trained_model

from train_scripts.commands import evaluate_model, extract_features, generate_corpus, inspect_dataset, trim_vocabulary
from train_scripts.machine import atomic_files

SMALL_CORPUS = {
    "num_train_clips": 2, "num_dev_clips": 1, "num_test_clips": 1, "num_text_only_sentences": 5, "resolution": 32,
    "num_workers": 1,
}  # fmt: skip
COMMANDS = {
    "trim": (trim_vocabulary, lambda: {"text_model_name_or_path": language_model(), "dataset": corpus()}),
    "evaluate": (
        evaluate_model,
        lambda: {
            "model": trained_model(),
            "dataset": corpus(),
            "split": "test",
            "max_clips": 2,
            "device": "cpu",
        },
    ),
    "inspect": (inspect_dataset, lambda: {"dataset": corpus(), "num_workers": 1}),
    "generate": (generate_corpus, lambda: SMALL_CORPUS),
    "features": (
        extract_features,
        lambda: {
            "dataset": corpus(),
            "splits": "test",
            "vision_model_name_or_path": trained_model(),
            "feature_cache_dir": corpus().with_name("feature_cache"),
            "device": "cpu",
        },
    ),
}


class Killed(BaseException):
    """A kill cleans up nothing."""


def main_killed_at(number: int, main, argv, monkeypatch) -> bool:
    """Whether it was killed, while it replaced the file or folder after this many."""
    replace, remove = os.replace, atomic_files._remove
    replaced, killed = [], []

    def kill(source, target):
        if len(replaced) == number:
            killed.append(target)
            raise Killed
        replaced.append(target)
        replace(source, target)

    with monkeypatch.context() as patch:
        patch.setattr(os, "replace", kill)
        patch.setattr(atomic_files, "_remove", lambda path: None if killed else remove(path))
        try:
            assert main(argv) == 0
        except Killed:
            return True
    return False


@pytest.mark.slow
@pytest.mark.usefixtures("one_worker_is_this_process")
@pytest.mark.parametrize("exists", [False, True])
@pytest.mark.parametrize("name", COMMANDS)
def test_the_same_command_ends_well_after_a_kill_at_any_file(name, exists, tmp_path, monkeypatch):
    module, arguments = COMMANDS[name]
    output = tmp_path / "out"
    if exists:
        output.mkdir()
    argv = flags(**arguments(), output_dir=output)
    num_kills = 0
    while main_killed_at(num_kills, module.main, argv, monkeypatch):
        num_kills += 1
    assert num_kills >= 2
    assert not [path for path in tmp_path.rglob("*") if path.name.startswith(".flallm")]
    assert any(output.iterdir())


@pytest.mark.slow
def test_the_card_of_a_trimmed_model_comes_with_it(tmp_path, monkeypatch):
    """Not after it, when the same command finds a folder that is not empty."""
    base = shutil.copytree(language_model(), tmp_path / "base")
    (base / "README.md").write_text("---\nbase_model: facebook/mbart-large-cc25\n---\n", encoding="utf-8")
    output = tmp_path / "trimmed"
    argv = flags(text_model_name_or_path=base, dataset=corpus(), output_dir=output)
    num_kills = 0
    while main_killed_at(num_kills, trim_vocabulary.main, argv, monkeypatch):
        num_kills += 1
    assert num_kills >= 3
    card = (output / "README.md").read_text(encoding="utf-8")
    assert "base_model:\n- facebook/mbart-large-cc25\n" in card and "\n# trimmed\n" in card


@pytest.mark.slow
def test_an_evaluation_that_was_killed_at_the_card_writes_it(tmp_path, monkeypatch):
    model = shutil.copytree(trained_model(), tmp_path / "model")
    values = {"model": model, "output_dir": tmp_path / "out", "add_to_model_card": True}
    argv = flags(**{**COMMANDS["evaluate"][1](), **values})
    added = []

    def kill(*_):
        raise Killed

    monkeypatch.setattr(evaluate_model, "read_run", lambda folder: None)
    monkeypatch.setattr(evaluate_model, "add_scores", kill)
    with pytest.raises(Killed):
        evaluate_model.main(argv)
    monkeypatch.setattr(evaluate_model, "add_scores", lambda folder, *_: added.append(folder))
    assert evaluate_model.main(argv) == 0 and added == [model]
