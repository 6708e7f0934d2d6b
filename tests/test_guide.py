"""Every command of docs/fine-tune-your-sign-language.md, in its order, on a corpus of a few tiny clips."""

import csv
import json
import re
import shlex
import shutil
from pathlib import Path

import pytest
from mini_hub import MiniHub, connect
from tiny_checkpoints import checkpoint
from tiny_corpus import LIGHT_TRANSFORMER, WITHOUT_EVALUATION, corpus, flags

from train_scripts.__main__ import find_command, main

pytestmark = pytest.mark.slow

ROOT = Path(__file__).resolve().parent.parent
GUIDE = (ROOT / "docs" / "fine-tune-your-sign-language.md").read_text(encoding="utf-8")
TINY_RUN = {"max_steps": 2, "frame_size": 36, "crop_size": 32, "adapter_hidden_size": 20, "generation_max_length": 12}
TINY_RUN |= {"use_cpu": True, "disable_tqdm": True, "report_to": "none", **WITHOUT_EVALUATION}
# Added to the guide's own flags: sizes that a test can afford, and no download of ImageNet weights.
ADDED = {
    "train visual-initialing": {**TINY_RUN, **LIGHT_TRANSFORMER, "imagenet_weights": False},
    "train llm-fine-tuning": TINY_RUN,
    "evaluate": {"device": "cpu", "disable_tqdm": True, "generation_max_length": 12},
    "translate": {"device": "cpu"},
}


def commands() -> list[list[str]]:
    blocks = re.findall(r"^```bash\n(.*?)^```", GUIDE, re.MULTILINE | re.DOTALL)
    lines = "".join(blocks).replace("\\\n", " ").splitlines()
    return [words for line in lines if (words := shlex.split(line, comments=True))]


def make_recordings(folder: Path) -> None:
    """Videos and a spreadsheet, as the guide shows them."""
    (folder / "videos").mkdir(parents=True)
    rows = []
    for split, of_corpus in (("train", "train"), ("validation", "dev"), ("test", "test")):
        with (corpus() / of_corpus / "metadata.csv").open(encoding="utf-8", newline="") as file:
            for row in csv.DictReader(file):
                name = f"videos/{len(rows):04}.mp4"
                shutil.copy(corpus() / of_corpus / row["file_name"], folder / name)
                text = " ".join(row["text"].split()[:4])  # the tiny language model spells it letter by letter
                rows.append({"file": name, "text": text, "split": split, "signer": row["signer"]})
    with (folder / "sentences.csv").open("w", encoding="utf-8", newline="") as file:
        writer = csv.DictWriter(file, list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)


def name_of(words: list[str]) -> str:
    program, *following = words
    command, _ = find_command(following)
    assert program == "flallm" and command is not None, words
    return command.name


def run(words: list[str]) -> None:
    assert main([*words[1:], *flags(**ADDED.get(name_of(words), {}))]) == 0, words


def test_every_command_of_the_guide(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    make_recordings(tmp_path / "my_recordings")
    shutil.copytree(checkpoint("mbart"), tmp_path / "facebook" / "mbart-large-cc25")
    assert {"prepare", "inspect", "trim-vocabulary", "push"} <= {name_of(words) for words in commands()}
    with MiniHub() as hub:
        connect(monkeypatch, hub.url, hub.token)
        for words in commands():
            run(words)
        sent = hub.repository("me/flallm-isg").files()
    assert (tmp_path / "inspection" / "inspection.html").is_file()
    assert json.loads((tmp_path / "test_scores" / "scores.json").read_text(encoding="utf-8"))["signatures"]
    assert (tmp_path / "translations.csv").read_text(encoding="utf-8").count("\n") == 1 + 24
    card = sent["README.md"].content.decode()
    assert "Irish Sign Language" in card and "test" in card.split("## Scores")[1]
