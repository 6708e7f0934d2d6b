"""`flallm calibrate`: the fit on known answers, what it writes and what it leaves alone, and what it refuses."""

import csv
import importlib.util
import json
import math
import re
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from random_inputs import random_generator
from test_model_card import run_folder
from tiny_corpus import corpus, error_of, flags, language_model, trained_model

from modeling_flallm import FLaLLMConfig, SignLanguageTranslationPipeline
from modeling_flallm.calibration_slt import CALIBRATION_FILE
from modeling_flallm.confidence_slt import visual_distances
from train_scripts.commands import calibrate
from train_scripts.commands.calibrate import (
    LEAST_CLIPS,
    TranslatedSplit,
    cross_validated_confidences,
    fit_calibration,
    fit_platt,
    measure,
)
from train_scripts.runs.trained_models import load_trained

pytestmark = pytest.mark.slow

CURVE = {"slope": 2.5, "intercept": -1}
WRONG = "a sentence that no model writes ."


def draw_scores(count: int) -> torch.Tensor:
    return -torch.rand(count, dtype=torch.double)


def confidences_of(scores: torch.Tensor, slope: float, intercept: float) -> torch.Tensor:
    return torch.sigmoid(slope * scores + intercept)


def translated(scores: torch.Tensor, is_right: torch.Tensor, hidden_size: int = 8) -> TranslatedSplit:
    return TranslatedSplit(scores, is_right, torch.rand(len(scores), hidden_size, dtype=torch.double))


# The fit


@pytest.mark.parametrize(("slope", "intercept"), [(8.0, 4.0), (3.0, 0.5), (20.0, 6.0)])
def test_a_known_curve_is_found_again(slope, intercept):
    scores = draw_scores(20_000)
    expected = confidences_of(scores, slope, intercept)
    found = confidences_of(scores, *fit_platt(scores, torch.rand(20_000) < expected))
    assert (found - expected).abs().max() < 0.06


def test_the_curve_rises_with_the_score_in_any_unit():
    scores = draw_scores(200)
    is_right = torch.rand(200) < confidences_of(scores, 10, 5)
    slope, intercept = fit_platt(scores, is_right)
    assert slope > 0
    of_other_unit = fit_platt(1000 * scores - 7, is_right)
    assert torch.allclose(
        confidences_of(scores, slope, intercept), confidences_of(1000 * scores - 7, *of_other_unit), atol=1e-4
    )


def test_a_score_that_means_the_opposite_gives_the_same_confidence_to_all():
    scores = draw_scores(100)
    slope, intercept = fit_platt(scores, scores < scores.median())
    assert slope == 0
    assert 1 / (1 + math.exp(-intercept)) == pytest.approx(0.5, abs=0.02)


@pytest.mark.parametrize("answer", [True, False])
def test_all_right_and_all_wrong_give_no_certainty(answer):
    scores = draw_scores(60)
    confidences = confidences_of(scores, *fit_platt(scores, torch.full((60,), answer)))
    assert torch.allclose(confidences, torch.full_like(confidences, 61 / 62 if answer else 1 / 62), atol=1e-3)


def test_scores_that_part_right_from_wrong_without_an_error():
    scores = draw_scores(60)
    is_right = scores > -0.5
    slope, intercept = fit_platt(scores, is_right)
    assert 0 < slope < 1e4 and math.isfinite(intercept)
    confidences = confidences_of(scores, slope, intercept)
    assert confidences[is_right].min() > confidences[~is_right].max()
    assert confidences.min() > 0 and confidences.max() < 1


def test_what_is_measured_for_known_confidences():
    is_right = torch.arange(100) < 80
    constant = measure(torch.ones(100), torch.full((100,), 0.8, dtype=torch.double), is_right)
    assert (constant["num_clips"], constant["auroc"]) == (100, 0.5)
    assert constant["share_right"] == pytest.approx(0.8)
    assert constant["brier_score"] == pytest.approx(0.16) == constant["brier_score_of_share"]
    perfect = measure(is_right.double(), is_right.double(), is_right)
    assert (perfect["auroc"], perfect["calibration_error"], perfect["brier_score"]) == (1, 0, 0)
    assert measure(-is_right.double(), is_right.double(), is_right)["auroc"] == 0
    scores = torch.tensor([-3.0, -2.0, -2.0, -1.0])
    of_ties = measure(scores, torch.rand(4, dtype=torch.double), torch.tensor([False, True, False, True]))
    assert of_ties["auroc"] == (0.75 + 1) / 2
    low = torch.full((100,), 0.3, dtype=torch.double)
    assert measure(draw_scores(100), low, torch.ones(100, dtype=torch.bool)) == {
        "num_clips": 100,
        "share_right": 1.0,
        "auroc": None,
        "calibration_error": pytest.approx(0.7),
        "brier_score": pytest.approx(0.49),
        "brier_score_of_share": 0.0,
    }


def test_the_calibration_error_is_small_only_where_confidences_are_true():
    confidences = torch.rand(20_000, dtype=torch.double)
    is_right = torch.rand(20_000, dtype=torch.double) < confidences
    assert measure(confidences, confidences, is_right)["calibration_error"] < 0.03
    assert measure(confidences, confidences / 2, is_right)["calibration_error"] == pytest.approx(0.25, abs=0.03)


def test_no_clip_has_a_say_in_its_own_cross_validated_confidence():
    scores = draw_scores(40)
    is_right = torch.rand(40) < confidences_of(scores, 10, 5)
    before = cross_validated_confidences(scores, is_right)
    changed = is_right.clone()
    changed[3] = ~changed[3]
    after = cross_validated_confidences(scores, changed)
    assert after[3] == before[3]
    assert (after != before).any()


def test_what_a_calibration_holds():
    split = translated(draw_scores(50), torch.rand(50) < 0.5)
    calibration = fit_calibration(split)
    assert calibration["lowest_score"] == split.scores.min()
    assert calibration["highest_score"] == split.scores.max()
    assert calibration["mean_features"] == pytest.approx(split.mean_features.mean(0).tolist(), abs=1e-6)
    distances = visual_distances(split.mean_features, torch.tensor(calibration["mean_features"], dtype=torch.double))
    assert (distances <= calibration["largest_distance"] / 1.5 + 1e-6).double().mean() == pytest.approx(0.95, abs=0.02)
    config = FLaLLMConfig(vision_config={"hidden_size": 8}, confidence_calibration=calibration)
    assert config.confidence_calibration == calibration


def fold_of_one_score() -> tuple[torch.Tensor, torch.Tensor]:
    """Only the last clip has another score: the fold without it has one score."""
    return torch.tensor([-1.0] * 19 + [-2.0], dtype=torch.double), torch.tensor([True] * 10 + [False] * 10)


PARTS = {
    "one score in a fold": fold_of_one_score(),
    "scores apart by rounding": (-1 + 1e-15 * torch.arange(20, dtype=torch.double), torch.arange(20) > 9),
    "one score": (torch.full((20,), -1.0, dtype=torch.double), torch.arange(20) > 9),
    "all right": (torch.linspace(-2, -1, 20, dtype=torch.double), torch.ones(20, dtype=torch.bool)),
    "all wrong": (torch.linspace(-2, -1, 20, dtype=torch.double), torch.zeros(20, dtype=torch.bool)),
    "one kind in a fold": (torch.linspace(-2, -1, 20, dtype=torch.double), torch.arange(20) % 10 == 3),
    "one outlier": (torch.tensor([-1e9] + [-1.0, -1.1] * 10, dtype=torch.double), torch.arange(21) > 9),
    "two clips": (torch.tensor([-1.0, -2.0], dtype=torch.double), torch.tensor([True, False])),
    "one clip": (torch.tensor([-1.0], dtype=torch.double), torch.tensor([True])),
}


@pytest.mark.parametrize("name", PARTS)
def test_every_part_of_a_fit_is_finite(name):
    scores, is_right = PARTS[name]
    slope, intercept = fit_platt(scores, is_right)
    assert slope >= 0 and math.isfinite(slope) and math.isfinite(intercept)
    confidences = cross_validated_confidences(scores, is_right)
    assert ((confidences >= 0) & (confidences <= 1)).all()
    measures = measure(scores, confidences, is_right)
    assert all(value is None or math.isfinite(value) for value in measures.values())


def test_a_fold_of_one_score_gives_the_share_that_was_right_in_it():
    scores, is_right = fold_of_one_score()
    assert cross_validated_confidences(scores, is_right)[[9, 19]].tolist() == pytest.approx([10 / 20, 10 / 20])
    assert fit_platt(scores[:19], is_right[:19]) == (0.0, pytest.approx(math.log(11 / 10)))


def test_clips_that_all_look_the_same_are_familiar():
    split = translated(draw_scores(40), torch.rand(40) < 0.5)
    split.mean_features[:] = 1e-5 * torch.rand(8)
    calibration = fit_calibration(split)
    center = torch.tensor(calibration["mean_features"], dtype=torch.double)
    assert (visual_distances(split.mean_features, center) <= calibration["largest_distance"]).all()


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
@pytest.mark.parametrize("spoiled", ["scores", "mean_features"])
def test_what_is_no_number_is_not_measured(value, spoiled):
    values = {"scores": draw_scores(30), "mean_features": torch.rand(30, 8, dtype=torch.double)}
    values[spoiled][7:9] = value
    message = (
        "The model gives 2 of 30 clips a score or a look that is no finite number; clip 7 (counted from 0) has the "
        f"score {values['scores'][7]}. Its weights seem broken, as by a training that diverged, so nothing can be "
        "measured, and nothing was written."
    )
    with pytest.raises(ValueError, match=re.escape(message)):
        TranslatedSplit(is_right=torch.rand(30) < 0.5, **values)


def test_one_spoiled_clip_does_not_make_everything_familiar():
    split = translated(draw_scores(60), torch.rand(60) < 0.5)
    distances = [fit_calibration(split)["largest_distance"]]
    split.mean_features[5] *= torch.tensor([-1.0, 1.0] * 4)
    distances.append(fit_calibration(split)["largest_distance"])
    assert distances[1] < 2 * distances[0]


def test_too_few_clips_and_scores_that_are_all_the_same():
    few = translated(draw_scores(LEAST_CLIPS - 1), torch.rand(LEAST_CLIPS - 1) < 0.5)
    message = (
        "At least 20 clips are needed to measure how sure the model is, and 200 or more are better. But the split has "
        "19. Use a larger split (--split) that the model has not trained on."
    )
    with pytest.raises(ValueError, match=re.escape(message)):
        fit_calibration(few)
    message = (
        "All 30 clips got the same score, -0.2500, so it says nothing about which translations are right. The model "
        "seems to write the same whatever it sees: train it longer first."
    )
    with pytest.raises(ValueError, match=re.escape(message)):
        fit_calibration(translated(torch.full((30,), -0.25, dtype=torch.double), torch.rand(30) < 0.5))


# The command


@pytest.fixture(scope="module")
def data(tmp_path_factory) -> Path:
    """All clips of the tiny corpus as one dev split, every second one with the sentence that the tiny model writes."""
    folder = tmp_path_factory.mktemp("data")
    (folder / "dev").mkdir()
    clips = sorted(corpus().glob("*/*.mp4"))
    sentences = [answer["translation_text"] for answer in translator_of(trained_model())(list(map(str, clips)))]
    with (folder / "dev" / "metadata.csv").open("w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["file_name", "text"])
        for index, (clip, sentence) in enumerate(zip(clips, sentences, strict=True)):
            shutil.copy(clip, folder / "dev" / clip.name)
            writer.writerow([clip.name, sentence if index % 2 else WRONG])
    return folder


def translator_of(folder: Path) -> SignLanguageTranslationPipeline:
    model, processor = load_trained(str(folder))
    return SignLanguageTranslationPipeline(model=model, processor=processor, device="cpu")


@pytest.fixture
def model_folder(tmp_path) -> Path:
    """A model like the output of training: the tests' model, with the card and record of a run."""
    shutil.copytree(trained_model(), tmp_path / "model")
    for name in ("README.md", "training_run.json"):
        shutil.copy(run_folder("visual_initialing") / name, tmp_path / "model")
    return tmp_path / "model"


def run(folder: Path, data: Path, **values) -> int:
    return calibrate.main(flags(model=folder, dataset=data, **values))


def contents(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir() if path.is_file()}


def calibration_in(folder: Path) -> dict:
    return json.loads((folder / CALIBRATION_FILE).read_text(encoding="utf-8"))


def test_it_writes_its_file_and_the_card_and_nothing_else(model_folder, data, capsys):
    before = contents(model_folder)
    assert "This has not been measured." in before["README.md"].decode()
    assert run(model_folder, data, also_measure_on="dev") == 0
    after = contents(model_folder)
    changed = {name for name in after if after[name] != before.get(name)}
    assert changed == {CALIBRATION_FILE, "README.md", "training_run.json"}
    assert after.keys() - before.keys() == {CALIBRATION_FILE}
    assert load_trained(str(model_folder))[0].config.confidence_calibration == calibration_in(model_folder)
    output = capsys.readouterr().out
    assert re.search(r"^dev, cross-validated +24 +50% ", output, re.MULTILINE)
    assert f"Right is a chrF of 95 or more. Written into {model_folder / CALIBRATION_FILE}." in output
    card = after["README.md"].decode().split("## How sure it is")[1].split("\n## ")[0]
    assert "| dev, cross-validated | 24 | 50 of 100 |" in card and "| dev | 24 | 50 of 100 |" in card
    assert "chrF is 95 or more" in card and "This has not been measured." not in card


def test_the_pipeline_then_gives_confidences_that_come_from_its_scores(model_folder, data):
    assert run(model_folder, data) == 0
    calibration = load_trained(str(model_folder))[0].config.confidence_calibration
    answers = translator_of(model_folder)(
        [str(path) for path in sorted((data / "dev").glob("*.mp4"))], return_scores=True
    )
    scores = torch.tensor([answer["score"] for answer in answers], dtype=torch.double)
    assert scores.min() == pytest.approx(calibration["lowest_score"], abs=1e-4)
    expected = confidences_of(scores, calibration["slope"], calibration["intercept"]).tolist()
    for answer, confidence in zip(answers, expected, strict=True):
        assert answer["confidence"] in (pytest.approx(confidence, abs=1e-6), 0.0)
    assert sum(answer["confidence"] > 0 for answer in answers) >= len(answers) - 4


def test_what_looks_unlike_the_split_or_scores_below_it_gets_no_confidence(model_folder, data):
    assert run(model_folder, data) == 0
    translator = translator_of(model_folder)
    clips = [str(path) for path in sorted((data / "dev").glob("*.mp4"))]
    calibration = translator.model.config.confidence_calibration
    answers = translator(clips, return_scores=True)
    assert sum(not answer["is_familiar"] for answer in answers) <= 2
    calibration["largest_distance"] = 2.0
    answers = translator(clips, return_scores=True, num_beams=1, num_return_sequences=1)
    assert all(answer["is_familiar"] for answer in answers)
    calibration["lowest_score"] = torch.tensor([answer["score"] for answer in answers]).median().item()
    answers = translator(clips, return_scores=True, num_beams=1)
    is_low = [answer["score"] < calibration["lowest_score"] for answer in answers]
    assert any(is_low) and not all(is_low)
    assert [answer["confidence"] == 0 for answer in answers] == is_low
    calibration["largest_distance"] = -1.0
    answers = translator(clips, return_scores=True)
    assert not any(answer["is_familiar"] or answer["confidence"] for answer in answers)


def test_a_model_saved_with_several_sentences_for_each_video(model_folder, data):
    generation = json.loads((model_folder / "generation_config.json").read_text(encoding="utf-8"))
    generation |= {"num_beams": 2, "num_return_sequences": 2}
    (model_folder / "generation_config.json").write_text(json.dumps(generation), encoding="utf-8")
    assert run(model_folder, data) == 0


def test_a_second_run_gives_the_same(model_folder, data):
    assert run(model_folder, data) == 0
    calibrations = [calibration_in(model_folder)]
    assert run(model_folder, data, batch_size=1) == 0
    calibrations.append(calibration_in(model_folder))
    names = ("slope", "intercept", "lowest_score", "largest_distance")
    for name in names:
        assert calibrations[1][name] == pytest.approx(calibrations[0][name], rel=1e-3, abs=1e-4), name


def test_what_somebody_wrote_into_the_card_stays(model_folder, data):
    card = model_folder / "README.md"
    card.write_text(card.read_text(encoding="utf-8") + "\nA sentence of mine.\n", encoding="utf-8")
    assert run(model_folder, data) == 0
    text = card.read_text(encoding="utf-8")
    assert text.endswith("\nA sentence of mine.\n") and "| dev, cross-validated | 24 |" in text


def test_a_card_without_the_section_is_told(model_folder, data, capsys):
    card = model_folder / "README.md"
    card.write_text("---\nlicense: mit\n---\nMine.\n", encoding="utf-8")
    assert run(model_folder, data) == 0
    assert f"{card} has no section for confidence, so it was not changed." in capsys.readouterr().err
    assert card.read_text(encoding="utf-8").endswith("Mine.\n")


def test_a_model_without_a_record_of_its_training(tmp_path, data, capsys):
    folder = shutil.copytree(trained_model(), tmp_path / "model")
    assert run(folder, data) == 0
    assert f"{folder} holds no training_run.json, so its model card is left as it is." in capsys.readouterr().err
    assert load_trained(str(folder))[0].config.confidence_calibration["slope"] >= 0


def test_a_split_that_is_all_wrong_is_told(model_folder, data, tmp_path, capsys):
    folder = shutil.copytree(data, tmp_path / "data")
    table = folder / "dev" / "metadata.csv"
    names = [line.split(",")[0] for line in table.read_text(encoding="utf-8").splitlines()[1:]]
    table.write_text("file_name,text\n" + "".join(f"{name},{WRONG}\n" for name in names), encoding="utf-8")
    assert run(model_folder, folder) == 0
    output = capsys.readouterr().out
    assert "Every translation of dev is wrong, so the score cannot be told to mean anything" in output
    assert re.search(r"^dev, cross-validated +24 +0% +- ", output, re.MULTILINE)
    assert "| 0 of 100 | not known |" in (model_folder / "README.md").read_text(encoding="utf-8")
    confidence = load_trained(str(model_folder))[0].config.confidence_calibration
    assert 1 / (1 + math.exp(-confidence["intercept"])) == pytest.approx(1 / 26, abs=0.01)


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        (
            {"max_clips": 19},
            "--max_clips must be 20 or more, got 19. At least 20 clips are needed to measure how sure the model is, "
            "and 200 or more are better.",
        ),
        ({"split": "exam"}, "{data} must hold a folder for the split 'exam', it has ['dev']."),
        ({"also_measure_on": "exam"}, "{data} must hold a folder for the split 'exam', it has ['dev']."),
        (
            {"model": "me/flallm-isg"},
            "--model me/flallm-isg is no folder here, and a model on the Hub cannot be written. ",
        ),
        ({"model": "{data}"}, "--model {data} must be the folder of a trained model, with config.json in it."),
        (
            {"model": "{language_model}"},
            "'{language_model}' holds no FLa-LLM or LLaVA-SLT or Uni-Sign or MMSLT or DiffSLT model, but one of type "
            "'mbart'.",
        ),
        ({"least_chrf": 0}, "--least_chrf must be above 0 and at most 100, got 0."),
        ({"batch_size": 0}, "--batch_size must be 1 or more, got 0."),
    ],
)
def test_mistakes_leave_the_folder_as_it_is(values, expected, model_folder, data, capsys):
    names = {"data": data, "language_model": language_model()}
    values = {name: str(value).format(**names) for name, value in values.items()}
    before = contents(model_folder)
    argv = flags(**{"model": model_folder, "dataset": data, **values})
    assert error_of(calibrate.main, argv, capsys).startswith(expected.format(**names))
    assert contents(model_folder) == before


def small_split(data: Path, folder: Path, text: str = "") -> Path:
    """The first 19 clips; with a `text`, all clips with this sentence."""
    folder = shutil.copytree(data, folder)
    table = folder / "dev" / "metadata.csv"
    rows = table.read_text(encoding="utf-8").splitlines()
    rows = rows[:20] if not text else [rows[0], *(f"{row.split(',')[0]},{text}" for row in rows[1:])]
    table.write_text("\n".join(rows) + "\n", encoding="utf-8")
    return folder


def test_a_small_split_is_reported_before_the_model_is_loaded(model_folder, data, tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(calibrate, "load_trained", None)
    argv = flags(model=model_folder, dataset=small_split(data, tmp_path / "data"))
    assert error_of(calibrate.main, argv, capsys) == (
        "At least 20 clips are needed to measure how sure the model is, and 200 or more are better. But --split dev "
        "has 19. Use a larger split (--split) that the model has not trained on."
    )


@pytest.mark.parametrize("also", [{}, {"also_measure_on": "dev"}])
def test_a_broken_model_leaves_the_folder_as_it_is(also, model_folder, data, capsys):
    model, _ = load_trained(str(model_folder))
    with torch.no_grad():
        next(model.adapter.parameters()).fill_(math.nan)
    model.save_pretrained(model_folder)
    before = contents(model_folder)
    error = error_of(calibrate.main, flags(model=model_folder, dataset=data, **also), capsys)
    assert error.startswith("The model gives 24 of 24 clips a score or a look that is no finite number; clip 0 ")
    assert contents(model_folder) == before


def test_a_second_split_that_cannot_be_measured_leaves_the_folder_as_it_is(model_folder, data, capsys, monkeypatch):
    splits = iter([translated(draw_scores(24), torch.rand(24) < 0.5, hidden_size=24), OSError("broken")])

    def translate_split(*arguments):
        split = next(splits)
        if isinstance(split, Exception):
            raise split
        return split

    monkeypatch.setattr(calibrate, "translate_split", translate_split)
    before = contents(model_folder)
    assert error_of(calibrate.main, flags(model=model_folder, dataset=data, also_measure_on="dev"), capsys) == "broken"
    assert contents(model_folder) == before


def test_a_translation_in_another_unicode_form_is_right(data, tmp_path, monkeypatch):
    raw, written = "Scho\u0308ne\u00a0Gru\u0308ße，\u00adja！", "Schöne Grüße,ja!"
    answers = [{"translation_text": written, "score": -1.0}] * 24
    folder = str(small_split(data, tmp_path / "data", raw))
    split = calibrate.load_split(calibrate.DatasetArguments(dataset=folder), "dev")
    model, processor = load_trained(str(trained_model()))
    monkeypatch.setattr(calibrate, "SignLanguageTranslationPipeline", lambda **values: lambda *a, **b: answers)
    monkeypatch.setattr(calibrate.torch, "cat", lambda features: torch.zeros(24, 24))
    assert calibrate.translate_split(model, processor, split, "text", 100.0, 8).is_right.all()


def test_a_folder_of_an_earlier_version(model_folder, data, capsys):
    config = json.loads((model_folder / "config.json").read_text(encoding="utf-8"))
    (model_folder / "config.json").write_text(json.dumps({**config, "confidence_calibration": CURVE}))
    (model_folder / "calibration_slt.py").unlink()
    assert load_trained(str(model_folder))[0].config.confidence_calibration == CURVE
    assert run(model_folder, data) == 0
    assert json.loads((model_folder / "config.json").read_text(encoding="utf-8")) == config
    assert load_trained(str(model_folder))[0].config.confidence_calibration == calibration_in(model_folder) != CURVE
    assert (
        f"The Python files in {model_folder} are of an earlier version and do not read {CALIBRATION_FILE}: without the "
        "package flallm, the model gives no confidence. To renew them, load the model and its processor and save both "
        "into a new folder.\n"
    ) in capsys.readouterr().err


def test_a_folder_of_this_version_needs_no_advice(model_folder, data, capsys):
    assert run(model_folder, data) == 0
    assert "earlier version" not in capsys.readouterr().err


def test_a_damaged_calibration_is_replaced(model_folder, data):
    (model_folder / CALIBRATION_FILE).write_text("{", encoding="utf-8")
    assert run(model_folder, data) == 0
    assert load_trained(str(model_folder))[0].config.confidence_calibration == calibration_in(model_folder)


def test_the_model_must_be_named(data, capsys):
    assert error_of(calibrate.main, flags(dataset=data), capsys) == (
        "`--model` must name the folder of a trained model."
    )


def test_a_broken_record_is_told_before_the_work(model_folder, data, capsys):
    (model_folder / "training_run.json").write_text("{}", encoding="utf-8")
    before = contents(model_folder)
    assert "is no record of a training run" in error_of(calibrate.main, flags(model=model_folder, dataset=data), capsys)
    assert contents(model_folder) == before


# The benchmark on untrained videos


def load_benchmark():
    """By path: another installed package may be called `benchmarks`."""
    path = Path(__file__).resolve().parent.parent / "benchmarks" / "confidence_on_untrained_videos.py"
    spec = importlib.util.spec_from_file_location("confidence_on_untrained_videos", path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_unknown_signs_have_forms_that_no_known_sign_has():
    benchmark = load_benchmark()
    signs = benchmark.unknown_signs(random_generator())
    forms = {benchmark._form(sign) for sign in signs.values()}
    assert signs.keys() == benchmark.signing_language.SIGNS_BY_GLOSS.keys()
    assert len(forms) == len(signs)
    assert not forms & {benchmark._form(sign) for sign in benchmark.signing_language.LEXICON}


def test_altered_clips_differ_from_the_clip_and_keep_its_size():
    frames = random_generator().integers(0, 256, (12, 16, 20, 3), dtype=np.uint8)
    kinds = dict(load_benchmark().altered(frames, random_generator()))
    assert np.array_equal(kinds.pop("test clips as they are"), frames)
    for name, clip in kinds.items():
        assert clip.dtype == np.uint8 and clip.shape[1:] == frames.shape[1:], name
        assert clip.shape != frames.shape or not np.array_equal(clip, frames), name
    assert set(load_benchmark().SAME_SENTENCE) <= kinds.keys() | {"test clips as they are"}


def test_the_table_of_the_benchmark_counts_each_kind():
    answers = [
        {"is_right": True, "is_familiar": True, "confidence": 0.9, "by_score": 0.9},
        {"is_right": False, "is_familiar": False, "confidence": 0.0, "by_score": 0.6},
        {"is_right": False, "is_familiar": True, "confidence": 0.1, "by_score": 0.1},
        {"is_right": False, "is_familiar": True, "confidence": 0.6, "by_score": 0.6},
    ]
    *_, row = load_benchmark().format_table({"clips": answers}).splitlines()
    assert row == "| clips | 4 | 25 % | 25 % | 50 % | 25 % | 75 % |"
