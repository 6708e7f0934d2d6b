"""--left_handed of translate and evaluate: how it is read, which way is translated, and what the outputs say."""

import csv
import io
import json

import pytest
from test_evaluate_and_translate import clips, run_translate
from tiny_corpus import corpus, error_of, flags, load, trained_model

from modeling_flallm import SignLanguageTranslationPipeline
from train_scripts.arguments.commands import COMMANDS
from train_scripts.commands import evaluate_model


def test_the_flag_alone_is_true_and_takes_no_video_as_its_value(capsys):
    def read(*argv: str) -> tuple:
        arguments, _ = COMMANDS["translate"].parse(["--model", "model", *argv])
        return arguments.videos, arguments.left_handed

    assert read("clip.mp4") == (["clip.mp4"], False)
    assert read("--left_handed", "clip.mp4") == (["clip.mp4"], True)
    assert read("--left-handed", "auto", "clip.mp4") == (["clip.mp4"], "auto")
    assert read("clip.mp4", "--left_handed=AUTO") == (["clip.mp4"], "auto")
    assert read("clip.mp4", "--left_handed", "False") == (["clip.mp4"], False)
    argv = ["--model", "m", "--dataset", "d", "--output_dir", "o", "--left_handed", "left"]
    expected = "argument --left_handed: must be True, False or auto, got 'left'"
    assert error_of(COMMANDS["evaluate"].parse, argv, capsys).startswith(expected)


@pytest.mark.slow
def test_translate_says_which_hand_it_took(capsys):
    few = [str(clip) for clip in clips(3)]
    model, processor = load(trained_model())
    translator = SignLanguageTranslationPipeline(model=model, processor=processor, device="cpu")
    for value in (True, "auto"):
        expected = translator(few, left_handed=value)
        output, _ = run_translate(capsys, *few, "--left_handed", value, "--format", "jsonl")
        rows = [json.loads(line) for line in output.splitlines()]
        assert [(row["text"], row["left_handed"]) for row in rows] == [
            (answer["translation_text"], answer["left_handed"]) for answer in expected
        ]
        output, _ = run_translate(capsys, *few, "--left_handed", value, "--format", "csv")
        rows = list(csv.DictReader(io.StringIO(output)))
        assert [row["left_handed"] for row in rows] == [str(answer["left_handed"]) for answer in expected]
    output, _ = run_translate(capsys, few[0], "--format", "jsonl")
    assert "left_handed" not in json.loads(output)


@pytest.mark.slow
def test_evaluate_scores_what_is_translated_in_a_mirror(tmp_path):
    values = {"model": trained_model(), "dataset": corpus(), "split": "test", "max_clips": 3, "disable_tqdm": True}
    scores, rows = evaluate_model.run_evaluation(flags(output_dir=tmp_path, left_handed=True, **values))
    model, processor = load(trained_model())
    translator = SignLanguageTranslationPipeline(model=model, processor=processor, device="cpu")
    answers = translator([str(clip) for clip in clips(3)], left_handed=True)
    assert [row["prediction"] for row in rows] == [answer["translation_text"] for answer in answers]
    assert scores["left_handed"] is True
    assert json.loads((tmp_path / "scores.json").read_text())["left_handed"] is True
