"""Names of folders and of repositories on the Hub: a typo in a path is an immediate error, without asking the Hub."""

import argparse
import random
import re
import socket

import pytest
from tiny_corpus import error_of, flags

from train_scripts.commands import trim_vocabulary
from train_scripts.hub.hub_names import check_model_names, explain_missing_folder, is_hub_id
from train_scripts.stages import llm_fine_tuning


@pytest.fixture
def folders(tmp_path, monkeypatch):
    """The folders stage1 and runs/model, seen from the one that holds them; nothing outside can be reached."""
    (tmp_path / "stage1").mkdir()
    (tmp_path / "runs" / "model").mkdir(parents=True)
    (tmp_path / "runs" / "model" / "model.safetensors").touch()
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(socket, "getaddrinfo", lambda *values, **options: pytest.fail("the network was asked"))
    return tmp_path


def test_folders_that_are_here_and_names_for_the_hub(folders):
    here = ("stage1", "./stage1", "runs/model", "runs/model/", str(folders / "runs"), "../" + folders.name + "/stage1")
    on_hub = ("facebook/mbart-large-cc25", f"me/model-{random.randrange(1000)}", "gpt2", "t5-small")
    assert [explain_missing_folder(name) for name in (*here, *on_hub)] == [None] * 10
    assert [is_hub_id(name) for name in (*here, *on_hub)] == [False] * 6 + [True] * 4
    assert explain_missing_folder("me/model", needs_owner=True) is None


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("./stage2x", "there is no 'stage2x' here. Did you mean 'stage1'?"),
        ("runs/modle", "there is no 'modle' in 'runs'. Did you mean 'runs/model'?"),
        ("{here}/runs/modle/last", "there is no 'modle' in '{here}/runs'. Did you mean '{here}/runs/model'?"),
        ("rnus/model/last", "there is no 'rnus' here. Did you mean 'runs'?"),
        ("runs/qqqqq", "there is no 'qqqqq' in 'runs'. Name a folder, or OWNER/NAME on the Hub."),
        ("C:\\models\\one", "there is no 'C:\\\\models\\\\one' here. Name a folder, or OWNER/NAME on the Hub."),
        ("runs/model/model.safetensors", "'runs/model/model.safetensors' is a file. Name the folder that contains it."),
        ("~/stage1", "'~' is not expanded here. Write '{home}/stage1'."),
    ],
)
def test_typos_in_paths(name, expected, folders, monkeypatch):
    monkeypatch.setenv("HOME", str(folders / "home"))
    values = {"here": folders, "home": folders / "home"}
    assert explain_missing_folder(name.format(**values)) == expected.format(**values)


def test_only_models_of_others_are_on_the_hub_without_an_owner(folders):
    arguments = argparse.Namespace(text_model_name_or_path="stgae1", vision_model_name_or_path=None, other="./none")
    check_model_names(arguments)
    arguments.vision_model_name_or_path = "stgae1"
    expected = (
        "--vision_model_name_or_path 'stgae1' is neither a local folder nor a model on the Hub: there is no 'stgae1' "
        "here. Did you mean 'stage1'?"
    )
    with pytest.raises(ValueError, match=re.escape(expected)):
        check_model_names(arguments)


def test_commands_say_it_before_anything_is_read(folders, capsys):
    values = {"dataset": "unread", "output_dir": "new"}
    paths = {"vision_model_name_or_path": "stage1", "text_model_name_or_path": "runs/modle"}
    expected = "'runs/modle' is neither a local folder nor a model on the Hub: there is no 'modle' in 'runs'. "
    text = error_of(llm_fine_tuning.main, flags(**values, **paths), capsys)
    assert text.startswith(f"--text_model_name_or_path {expected}")
    text = error_of(trim_vocabulary.main, flags(**values, text_model_name_or_path="runs/modle"), capsys)
    assert text.startswith(f"--text_model_name_or_path {expected}")
