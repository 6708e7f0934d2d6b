"""A damaged model folder gives a one-line error that names the file, in every command that loads models."""

import json
import shutil
import struct
from pathlib import Path

import pytest
import torch
from tiny_corpus import causal_language_model, corpus, error_of, flags, language_model, trained_model

from train_scripts.commands import calibrate, evaluate_model, translate, trim_vocabulary
from train_scripts.runs.damaged_models import damage_in, reading_model
from train_scripts.stages import (
    linguistic_pretraining,
    llm_fine_tuning,
    visual_contrastive_pretraining,
    visual_initialing,
    visual_language_tuning,
)

ADVICE = "). Copy or download it again, or train the model again."


def header(content: bytes, length: int | None = None) -> bytes:
    return struct.pack("<Q", len(content) if length is None else length) + content


def entry(**values) -> bytes:
    return json.dumps({"x": {"dtype": "F32", "shape": [2], "data_offsets": [0, 8], **values}}).encode()


HOSTILE_WEIGHTS = {
    "empty": b"",
    "seven bytes": b"\0" * 7,
    "header of 2**63 bytes": header(b"{}", 2**63),
    "header longer than the file": header(b"{}", 1000),
    "no JSON": header(b"{x"),
    "no dictionary": header(b"[]"),
    "not UTF-8": header(b"\xff\xfe"),
    "deep": header(b"[" * 10_000),
    "a web page": b"<!DOCTYPE html><html><body>404</body></html>",
    "a Git LFS pointer": b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 1\n",
    "unknown dtype": header(entry(dtype="F31")) + b"\0" * 8,
    "negative shape": header(entry(shape=[-2])) + b"\0" * 8,
    "shape that overflows": header(entry(shape=[2**62, 2**62])) + b"\0" * 8,
    "offsets backwards": header(entry(data_offsets=[8, 0])) + b"\0" * 8,
    "offsets beyond the end": header(entry(data_offsets=[0, 80])) + b"\0" * 8,
    "hole": header(entry(data_offsets=[8, 16])) + b"\0" * 16,
    "size that is not its shape's": header(entry(shape=[3])) + b"\0" * 8,
}


@pytest.fixture
def model(tmp_path) -> Path:
    return Path(shutil.copytree(trained_model(), tmp_path / "model"))


def translating(model: Path) -> list[str]:
    return ["--model", str(model), "--device", "cpu", str(sorted((corpus() / "test").glob("*.mp4"))[0])]


@pytest.mark.parametrize("content", HOSTILE_WEIGHTS.values(), ids=HOSTILE_WEIGHTS)
def test_weights_that_cannot_be_read(content, model, capsys):
    path = model / "model.safetensors"
    path.write_bytes(content)
    error = error_of(translate.main, translating(model), capsys)
    assert error.startswith(f"{path} is damaged (") and error.endswith(ADVICE)


def test_weights_that_end_early(model, capsys):
    path = model / "model.safetensors"
    path.write_bytes(path.read_bytes()[:-100])
    assert error_of(translate.main, translating(model), capsys).startswith(f"{path} is damaged (")


@pytest.mark.parametrize("name", ["config.json", "generation_config.json", "tokenizer.json", "tokenizer_config.json"])
@pytest.mark.parametrize("content", [b"", b"{", b"\xff\xfe", b"\xef\xbb\xbf{}", b"[" * 100_000, b"null"])
def test_json_that_cannot_be_read(name, content, model, capsys):
    if name == "tokenizer.json" and content == b"null":
        content = b"nul"  # only configurations are known to be dictionaries
    path = model / name
    assert path.is_file()
    path.write_bytes(content)
    error = error_of(translate.main, translating(model), capsys)
    assert f"{path} is damaged (" in error and error.endswith(ADVICE)


def test_whole_files_with_content_that_cannot_be(model, capsys):
    text = (model / "config.json").read_text()
    config = json.loads(text)
    config["vision_config"]["hidden_size"] *= 2
    (model / "config.json").write_text(json.dumps(config))
    error = error_of(translate.main, translating(model), capsys)
    assert error.startswith(f"{str(model)!r} is no complete FLaLLMForTranslation. ") and len(error) < 800
    (model / "config.json").write_text(text)
    (model / "tokenizer.json").write_text('{"version": "1.0"}')
    assert error_of(translate.main, translating(model), capsys).startswith(f"{str(model)!r} cannot be loaded: ")


COMMANDS = {
    "evaluate": (
        evaluate_model,
        trained_model,
        lambda model, folder: {"model": model, "dataset": corpus(), "output_dir": folder, "device": "cpu"},
    ),
    "calibrate": (
        calibrate,
        trained_model,
        lambda model, folder: {"model": model, "dataset": corpus()},
    ),
    "trim": (
        trim_vocabulary,
        language_model,
        lambda model, folder: {"text_model_name_or_path": model, "dataset": corpus(), "output_dir": folder},
    ),
    "stage 2": (
        llm_fine_tuning,
        trained_model,
        lambda model, folder: {
            "dataset": corpus(),
            "vision_model_name_or_path": model,
            "text_model_name_or_path": language_model(),
            "output_dir": folder,
            "use_cpu": True,
        },
    ),
    "linguistic": (
        linguistic_pretraining,
        causal_language_model,
        lambda model, folder: {
            "text_file": corpus() / "text_only.txt",
            "text_model_name_or_path": model,
            "output_dir": folder,
            "use_cpu": True,
        },
    ),
    "contrastive": (
        visual_contrastive_pretraining,
        causal_language_model,
        lambda model, folder: {
            "dataset": corpus(),
            "text_model_name_or_path": model,
            "output_dir": folder,
            "use_cpu": True,
        },
    ),
    "tuning": (
        visual_language_tuning,
        causal_language_model,
        lambda model, folder: {
            "dataset": corpus(),
            "vision_model_name_or_path": trained_model(),
            "text_model_name_or_path": model,
            "output_dir": folder,
            "use_cpu": True,
        },
    ),
}


@pytest.mark.parametrize("name", COMMANDS)
def test_every_command_names_the_damaged_file(name, tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(calibrate, "LEAST_CLIPS", 1)  # the corpus is smaller than what it needs
    command, make, arguments = COMMANDS[name]
    for file, content in (("model.safetensors", b"\0" * 9), ("config.json", b"{")):
        folder = Path(shutil.copytree(make(), tmp_path / file.partition(".")[0]))
        (folder / file).write_bytes(content)
        error = error_of(command.main, flags(**arguments(folder, tmp_path / "out")), capsys)
        assert f"{folder / file} is damaged (" in error
        assert not (tmp_path / "out").exists() or not any((tmp_path / "out").iterdir())


def test_a_tokenizer_for_stage_1(tmp_path, capsys):
    folder = Path(shutil.copytree(language_model(), tmp_path / "model"))
    (folder / "tokenizer.json").write_bytes(b"")
    argv = flags(dataset=corpus(), tokenizer_name_or_path=folder, output_dir=tmp_path / "out", use_cpu=True)
    assert f"{folder / 'tokenizer.json'} is damaged (" in error_of(visual_initialing.main, argv, capsys)


def test_what_is_not_of_the_files_is_let_through(model):
    assert damage_in(model) is None and damage_in(model / "missing") is None and damage_in("somebody/model") is None
    for error in (torch.OutOfMemoryError("CUDA out of memory"), TypeError("of a library"), KeyboardInterrupt()):
        with pytest.raises(type(error)) as caught, reading_model(model):
            raise error
        assert caught.value is error
