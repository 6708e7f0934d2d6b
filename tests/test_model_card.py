"""The model card: valid for the Hub, true to the run, without facts of the machine, and safe for what people wrote."""

import dataclasses
import getpass
import json
import os
import platform
import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from huggingface_hub import EvalResult, ModelCard, metadata_load
from huggingface_hub.utils import validate_repo_id
from random_inputs import built_once
from tiny_corpus import FOLDER, corpus, error_of, flags, language_model, stage1_flags, stage2_flags, trained_model
from tiny_models import tiny_model

from modeling_flallm.own_processing import PoseFeatureExtractor, PoseModality, VisualFeaturesModality
from processing import VisualFeatureExtractor
from train_scripts.arguments import training_arguments as arguments_file
from train_scripts.arguments.data_arguments import AugmentationArguments, DataArguments, VideoArguments
from train_scripts.arguments.dataclass_parser import parse_arguments, read_sources
from train_scripts.arguments.training_arguments import FLaLLMTrainingArguments
from train_scripts.clips.splits import load_split
from train_scripts.commands import evaluate_model
from train_scripts.hub import model_card
from train_scripts.hub.model_card import add_scores, named_card, render, write_base_card, write_model_card
from train_scripts.hub.run_settings import deviations
from train_scripts.hub.training_run import TrainingRun, base_ids, describe_run, read_run
from train_scripts.languages.languages import check_sign_language, check_spoken_language, language_name
from train_scripts.machine.atomic_files import write_text
from train_scripts.runs.trainers import FLaLLMTrainer
from train_scripts.scores.breakdown import breakdown
from train_scripts.scores.content_words import FunctionWords
from train_scripts.scores.metrics import TITLE_OF_SCORE, translation_scores
from train_scripts.scores.report import sentences_of
from train_scripts.stages import llm_fine_tuning, visual_initialing

STAGES = {
    "visual_initialing": visual_initialing.VisualInitialingArguments,
    "llm_fine_tuning": llm_fine_tuning.LLMFineTuningArguments,
}
LANGUAGES = {"spoken_language": "de_DE", "sign_language": "gsg"}
SECRET = "folder-nobody-may-know"
# Those of the Hub's tasks that take a video or give a translation.
HUB_TASKS = {"video-text-to-text", "video-classification", "any-to-any", "translation", "automatic-speech-recognition"}


@built_once
def run_folder(stage: str) -> Path:
    """Folder of a run of one step; tests copy it before they change anything."""
    folder = Path(FOLDER.name) / SECRET / stage
    values = {"max_steps": 1, "max_train_clips": 8, "max_evaluation_clips": 3, **LANGUAGES}
    if stage == "visual_initialing":
        visual_initialing.train(stage1_flags(folder, model_license="cc-by-4.0", **values))
    else:
        lora = {"lora": stage == "lora"}
        stage1 = run_folder("visual_initialing")
        llm_fine_tuning.train(stage2_flags(folder, vision_model_name_or_path=stage1, **lora, **values))
    return folder


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A copy of card and record of stage 1."""
    for name in ("README.md", "training_run.json"):
        shutil.copy(run_folder("visual_initialing") / name, tmp_path)
    return tmp_path


@built_once
def encoder_of_the_paper() -> torch.nn.Module:
    return tiny_model("mbart", {"hidden_size": 512, "backbone_width": 64})


def record_of(stage: str, model: Any = None, **values: Any) -> TrainingRun:
    """The record of a run without running it; `config` names a preset."""
    needed = {
        "visual_initialing": {"tokenizer_name_or_path": language_model()},
        "llm_fine_tuning": {
            "vision_model_name_or_path": trained_model(),
            "text_model_name_or_path": language_model(),
        },
    }[stage]
    run = {"dataset": corpus(), "output_dir": Path(FOLDER.name) / "not_written", "use_cpu": True, **needed}
    types = (STAGES[stage], DataArguments, VideoArguments, AugmentationArguments, FLaLLMTrainingArguments)
    arguments = parse_arguments(types, flags(**{"config": f"paper_{stage}", **run, **values}), description="")
    splits = {name: load_split(arguments[1], name) for name in ("train", "dev")}
    return describe_run(*arguments, splits, model or encoder_of_the_paper())


def deviations_of(run: TrainingRun) -> dict[str, Any]:
    return {setting["name"]: setting["value"] for setting in deviations(run.settings)}


def some_scores(**values: Any) -> dict[str, Any]:
    return translation_scores(["am tag regnet es", "b c d e f"], ["am tag regnet es", "b c d e g"], **values)


def card_of(folder: Path) -> str:
    return (folder / "README.md").read_text(encoding="utf-8")


def check_for_the_hub(text: str) -> dict[str, Any]:
    """Check the front matter as the Hub does, and return it."""
    card = ModelCard(text)
    data = yaml.safe_load(re.match(r"---\n(.*?)\n---\n", text, re.DOTALL)[1])
    assert card.data.to_dict() == data
    assert all(re.fullmatch("[a-z]{2,3}", language) for language in data.get("language", []))
    assert all(isinstance(tag, str) and tag for tag in data["tags"]) and len(set(data["tags"])) == len(data["tags"])
    assert data["pipeline_tag"] in HUB_TASKS
    for name in [*data.get("datasets", []), *data.get("base_model", [])]:
        validate_repo_id(name)
    for index in data.get("model-index", []):
        assert index["name"] and index["results"]
        for result in index["results"]:
            assert result["task"]["type"] in HUB_TASKS
            assert result["dataset"]["name"] and re.fullmatch(r"[\w./-]+", result["dataset"]["type"])
            for metric in result["metrics"]:
                assert isinstance(metric["type"], str) and isinstance(metric["value"], int | float)
    assert "None" not in text and "{{" not in text and "{%" not in text
    return data


# What the card says


def test_the_card_names_what_made_the_clips():
    """Of poses their extractor, of features their encoder, as far as the processor has learned it."""
    run = record_of("visual_initialing")
    run.modality = "poses"
    run.data["made_with"] = PoseModality(PoseFeatureExtractor(extractor="rtmlib 0.0.13 rtmw")).origin()
    told = "The poses were made with **rtmlib 0.0.13 rtmw**. Those of another tool differ, and are translated worse."
    assert told in render(run)
    run.data["made_with"] = PoseModality(PoseFeatureExtractor()).origin()
    assert "were made with" not in render(run)
    assert VisualFeaturesModality(VisualFeatureExtractor(8, encoder_name="DINOv2")).origin() == "DINOv2"


@pytest.mark.parametrize("stage", ["visual_initialing", "llm_fine_tuning", "lora"])
def test_the_card_of_a_run_is_valid_for_the_hub(stage):
    data = check_for_the_hub(card_of(run_folder(stage)))
    assert metadata_load(run_folder(stage) / "README.md") == data
    assert data["language"] == ["de"] and "gsg" in data["tags"] and "llava-slt" not in data["tags"]
    assert data["library_name"] == "transformers"
    assert data.get("license") == ("cc-by-4.0" if stage == "visual_initialing" else None)
    assert "datasets" not in data and "base_model" not in data  # all of them are folders here


@pytest.mark.parametrize("stage", ["visual_initialing", "llm_fine_tuning"])
def test_the_card_says_what_the_run_was(stage):
    folder, text = run_folder(stage), card_of(run_folder(stage))
    assert "# From German Sign Language (`gsg`) to German (`de_DE`)" in text
    assert f"stage {list(STAGES).index(stage) + 1}** of 2" in text
    assert "| train | 8 |" in text and "| validation | 3 |" in text
    history = json.loads((folder / "trainer_state.json").read_text(encoding="utf-8"))
    assert f"{history['epoch']:.1f} epochs, {history['global_step']} steps of 4 clips" in text
    run = read_run(folder)
    assert run.training["seconds"] > 0 and run.training["peak_memory_in_gib"] > 0
    assert run.training["precision"] == "float32" and ", in float32; peak memory" in text
    assert f"torch {run.training['versions']['torch']}" in text
    assert ("**Stage 1**, which made the video encoder" in text) == (stage == "llm_fine_tuning")


@pytest.mark.parametrize("stage", ["visual_initialing", "llm_fine_tuning", "lora"])
def test_the_card_says_how_to_use_the_model_and_when_not_to(stage):
    text = card_of(run_folder(stage))
    for line in (
        f'AutoModelForSeq2SeqLM.from_pretrained("{stage}", trust_remote_code=True)',
        f'AutoProcessor.from_pretrained("{stage}", trust_remote_code=True)',
        f'pipeline("sign-language-translation", model="{stage}", trust_remote_code=True)',
        "**Do not use it where a mistake can hurt somebody**",
        "**It does not replace an interpreter.**",
        "@inproceedings{chen-etal-2024-factorized,",
    ):
        assert line in text, line


def test_the_python_in_the_card_is_python():
    for block in re.findall(r"```python\n(.*?)```", card_of(run_folder("visual_initialing")), re.DOTALL):
        compile(block, "README.md", "exec")


def test_what_stands_for_the_paper_recipe_deviates_in_nothing():
    assert deviations_of(record_of("visual_initialing")) == {}
    assert list(deviations_of(record_of("llm_fine_tuning"))) == ["text_model"]  # a tiny one


@pytest.mark.parametrize("has_bfloat16", [True, False])
def test_the_precision_that_the_machine_chooses_is_no_deviation(has_bfloat16, monkeypatch):
    monkeypatch.setattr(arguments_file, "computes_in_bfloat16", lambda device: has_bfloat16)
    assert deviations_of(record_of("visual_initialing")) == {}


@pytest.mark.parametrize(
    ("stage", "name", "value"),
    [
        ("visual_initialing", "word_presence_loss_weight", 10.0),
        ("visual_initialing", "imagenet_weights", False),
        ("visual_initialing", "backbone_width", 16),
        ("visual_initialing", "frame_sampling_rate", 0.5),
        ("visual_initialing", "horizontal_flip", 0.5),
        ("visual_initialing", "optim", "adamw_torch"),
        ("visual_initialing", "max_train_clips", 5),
        ("llm_fine_tuning", "freeze_visual_encoder", False),
        ("llm_fine_tuning", "adapter_learning_rate", 0.01),
        ("llm_fine_tuning", "early_stopping_patience", 3),
    ],
)
def test_one_changed_flag_is_one_more_deviation(stage, name, value):
    before, run = deviations_of(record_of(stage)), record_of(stage, **{name: value})
    assert deviations_of(run) == {**before, name: value}
    listed = re.findall(r"^- `(\w+)` is \*\*", model_card.render(run), re.MULTILINE)
    assert sorted(listed) == sorted([*before, name])


def test_the_source_of_the_recipe_is_not_that_of_a_changed_value():
    source = read_sources("paper_visual_initialing")["backbone_width"]
    text = model_card.render(record_of("visual_initialing", backbone_width=16))
    assert f"- `backbone_width` is **16**; in the recipe: 64 ({source})." in text
    assert re.search(r"^\| setting \| this model \| .* \| where the recipe's value is from \|$", text, re.MULTILINE)
    assert f"| `backbone_width` | 16 | 64 | {source} |" in text


def test_no_setting_of_a_preset_is_without_its_source():
    sources = read_sources("paper_visual_initialing")
    settings = {setting["name"]: setting for setting in record_of("visual_initialing").settings}
    shown = settings.keys() & sources.keys()
    assert len(shown) > 25 and {name: settings[name]["source"] for name in shown} == {
        name: sources[name] for name in shown
    }
    assert settings["clips_per_step"]["source"] == sources["per_device_train_batch_size"]


@pytest.mark.parametrize("values", [{"seed": 7}, {"logging_steps": 3}, {"optim": "adamw_torch_fused"}])
def test_what_does_not_change_the_recipe_is_no_deviation(values):
    assert deviations_of(record_of("llm_fine_tuning", **values)).keys() == {"text_model"}


def test_the_batch_counts_over_accumulation():
    split = {"per_device_train_batch_size": 4, "gradient_accumulation_steps": 2}
    assert deviations_of(record_of("visual_initialing", **split)) == {}
    split["gradient_accumulation_steps"] = 3
    assert deviations_of(record_of("visual_initialing", **split)) == {"clips_per_step": 12}


def test_stage_2_tells_how_stage_1_deviated():
    run = record_of("llm_fine_tuning", vision_model_name_or_path=run_folder("visual_initialing"))
    stage1 = read_run(run_folder("visual_initialing"))
    assert run.stage1["is_whole"] and run.stage1["deviations"] == deviations(stage1.settings)
    assert run.stage1["training"]["seconds"] == stage1.training["seconds"]


def test_stage_2_on_an_encoder_without_a_record_compares_its_architecture():
    narrow = tiny_model("mbart", {"hidden_size": 512, "backbone_width": 8})
    run = record_of("llm_fine_tuning", model=narrow)
    assert [setting["name"] for setting in run.stage1["deviations"]] == ["backbone_width"]
    assert "Only its architecture is known here" in model_card.render(run)


@pytest.mark.parametrize("stage", STAGES)
def test_sltbaselines_is_cited_where_its_recipe_is_followed(stage):
    for preset in ("paper", "sltbaselines"):
        text = model_card.render(record_of(stage, config=f"{preset}_{stage}"))
        assert ("@article{sincan2025gloss," in text) == (preset == "sltbaselines")


def test_ids_of_the_hub_are_named_and_folders_are_not():
    run = record_of("llm_fine_tuning", text_model_name_or_path="facebook/mbart-large-cc25")
    run.data["hub_id"] = "somebody/signs"
    data = check_for_the_hub(model_card.render(run))
    assert data["base_model"] == ["facebook/mbart-large-cc25"] and data["datasets"] == ["somebody/signs"]


def test_a_model_that_was_cut_or_trained_further_names_what_it_was_made_from(tmp_path):
    once, twice = tmp_path / "cut", tmp_path / "cut_again"
    for folder, base in ((once, "facebook/mbart-large-cc25"), (twice, str(once))):
        shutil.copytree(language_model(), folder)
        write_base_card(folder, base, "cut to fewer tokens")
    run = record_of("llm_fine_tuning", text_model_name_or_path=twice)
    text = model_card.render(run)
    assert check_for_the_hub(text)["base_model"] == ["facebook/mbart-large-cc25"]
    assert "- Text model: `cut_again, made from facebook/mbart-large-cc25`." in text
    assert str(tmp_path) not in text
    card = (twice / "README.md").read_text(encoding="utf-8")
    assert ModelCard(card).data.to_dict() == {
        "library_name": "transformers",
        "base_model": ["facebook/mbart-large-cc25"],
    }
    assert card.endswith("\n# cut_again\n\nfacebook/mbart-large-cc25, cut to fewer tokens.\n")


def test_a_card_that_is_there_or_has_nothing_to_say_is_not_written(tmp_path):
    write_base_card(tmp_path, str(language_model()), "cut")
    assert not (tmp_path / "README.md").exists()
    for front_matter in ("base_model: [/home/me/model, 7]", "base_model: {", "[1]", ""):
        text = f"---\n{front_matter}\n---\nBy hand"
        (tmp_path / "README.md").write_text(text, encoding="utf-8")
        write_base_card(tmp_path, "facebook/mbart-large-cc25", "cut")
        assert (tmp_path / "README.md").read_text(encoding="utf-8") == text
        assert base_ids(str(tmp_path)) == []


def test_a_code_for_local_use_is_said_to_be_no_registered_language():
    text = model_card.render(record_of("visual_initialing", sign_language="qsl"))
    assert "**`qsl` is no registered sign language.**" in text
    assert "no registered sign language" not in card_of(run_folder("visual_initialing"))


def test_without_languages_the_card_invents_none():
    data = check_for_the_hub(model_card.render(record_of("visual_initialing")))
    assert "language" not in data and "license" not in data
    assert "model-index" not in data  # and no scores before there are any


def test_the_target_language_of_the_tokenizer_stands_in():
    run = record_of("visual_initialing", target_language="deu_Latn")
    assert ModelCard(model_card.render(run)).data.language == ["deu"]


@pytest.mark.parametrize("stage", ["visual_initialing", "llm_fine_tuning", "lora"])
def test_nothing_of_the_machine_leaks(stage):
    folder = run_folder(stage)
    private = [SECRET, FOLDER.name, str(Path.home()), str(Path.cwd()), platform.node(), f"/{getpass.getuser()}"]
    for name in ("README.md", "training_run.json"):
        text = (folder / name).read_text(encoding="utf-8")
        assert [part for part in private if part in text] == []


def test_a_name_cannot_break_the_card():
    name = "signs | <!-- flallm:scores:end -->\n---\n`x`"
    run = record_of("visual_initialing", dataset_name=name)
    text = model_card.render(run)
    check_for_the_hub(text)
    assert "**signs !-- flallm:scores:end -- --- x**" in text
    assert len(model_card.SECTION.findall(text)) == 3


# Scores


def test_the_trainings_scores_and_signatures_go_through_the_model_index():
    folder = run_folder("visual_initialing")
    trained = json.loads((folder / "eval_results.json").read_text(encoding="utf-8"))
    signatures = some_scores(language="de_DE", num_resamples=0)["signatures"]
    results = {result.metric_name: result for result in ModelCard.load(folder / "README.md").data.eval_results}
    assert results.keys() == set(TITLE_OF_SCORE.values())
    for name, title in TITLE_OF_SCORE.items():
        result = results[title]
        assert result.metric_value == round(trained[f"eval_{name}"], 2)
        assert result.metric_args == {"signature": signatures[name], "num_beams": 2}
        assert (result.dataset_name, result.dataset_split) == ("corpus", "validation")
        assert f"| {title} | {trained[f'eval_{name}']:.2f} | not computed |" in card_of(folder)


def test_added_scores_go_through_the_model_index(folder):
    scores = some_scores(lowercase=True)
    words = FunctionWords((), "references", "13a")
    scores |= breakdown(["a b c d", "a | d"], ["a b c d", "a b c e"], words, ["signer|1", "2"])
    add_scores(folder, scores, DataArguments(dataset=str(corpus())), "test", num_beams=3)
    check_for_the_hub(card_of(folder))
    assert (
        "| by signer, worst first | BLEU-4 | clips |\n|---|---|---|\n| 2 | 0.00 | 1 |\n| signer\\|1 | 100.00 | 1 |\n"
    ) in card_of(folder)
    assert all(f"\n- {sentence}\n" in card_of(folder) for sentence in sentences_of(scores))
    results = ModelCard.load(folder / "README.md").data.eval_results
    tested = {result.metric_name: result for result in results if result.dataset_split == "test"}
    assert len(results) == 2 * len(TITLE_OF_SCORE) and tested.keys() == set(TITLE_OF_SCORE.values())
    for name, title in TITLE_OF_SCORE.items():
        interval = scores["confidence_intervals"][name]
        assert tested[title].metric_value == round(scores[name], 2)
        assert tested[title].metric_args == {
            "signature": scores["signatures"][name],
            "num_beams": 3,
            "confidence_interval_95": [round(interval["low"], 2), round(interval["high"], 2)],
        }
        signature = scores["signatures"][name].replace("|", r"\|")
        row = f"| {title} | {scores[name]:.2f} | {interval['low']:.2f} to {interval['high']:.2f} | `{signature}` |"
        assert row in card_of(folder)
    assert tested["BLEU-4"].dataset_args == {"num_clips": 2}


def test_scores_of_a_choice_among_candidates_say_so(folder):
    scores = some_scores() | {"choice": {"num_candidates": 20, "choose_by": "bleu"}}
    add_scores(folder, scores, DataArguments(dataset=str(corpus())), "test", num_beams=1)
    assert "**corpus, test**: 2 clips, the best of 20 candidates by minimum Bayes risk." in card_of(folder)
    results = ModelCard.load(folder / "README.md").data.eval_results
    assert [result.metric_args.get("num_candidates") for result in results].count(20) == len(TITLE_OF_SCORE)


def test_adding_the_same_scores_twice_changes_nothing(folder):
    data = DataArguments(dataset=str(corpus()))
    add_scores(folder, some_scores(), data, "test", num_beams=3)
    once = [(folder / name).read_bytes() for name in ("README.md", "training_run.json")]
    add_scores(folder, some_scores(), data, "test", num_beams=3)
    assert [(folder / name).read_bytes() for name in ("README.md", "training_run.json")] == once


def test_scores_of_the_same_split_are_replaced_and_others_kept(folder):
    corpus_data = DataArguments(dataset=str(corpus()))
    add_scores(folder, some_scores(), corpus_data, "test", num_beams=3)
    add_scores(folder, some_scores(lowercase=True), corpus_data, "test", num_beams=4)
    add_scores(folder, some_scores(), corpus_data, "dev", num_beams=5)  # the training's "validation"
    add_scores(folder, some_scores(), DataArguments(dataset=str(corpus()), dataset_name="Other"), "test", num_beams=6)
    found = {(entry["dataset"], entry["split"]): entry["num_beams"] for entry in read_run(folder).scores}
    assert found == {("corpus", "test"): 4, ("corpus", "validation"): 5, ("Other", "test"): 6}
    results = ModelCard.load(folder / "README.md").data.eval_results
    of_card = {(result.dataset_name, result.dataset_split): result.metric_args["num_beams"] for result in results}
    assert of_card == found and len(results) == 3 * len(TITLE_OF_SCORE)


def test_the_evaluation_adds_its_scores(tmp_path):
    model = shutil.copytree(run_folder("visual_initialing"), tmp_path / "model")
    argv = flags(
        model=model, dataset=corpus(), output_dir=tmp_path / "scores", add_to_model_card=True,
        max_clips=3, num_beams=1, generation_max_length=6, device="cpu", disable_tqdm=True,
    )  # fmt: skip
    assert evaluate_model.main(argv) == 0
    scores = json.loads((tmp_path / "scores" / "scores.json").read_text(encoding="utf-8"))
    entry = read_run(model).scores[-1]
    assert (entry["dataset"], entry["split"], entry["num_clips"], entry["num_beams"]) == ("corpus", "test", 3, 1)
    assert entry["values"] == {name: scores[name] for name in TITLE_OF_SCORE}
    assert "**corpus, test**: 3 clips, 1 beam." in card_of(model)


def test_the_evaluation_leaves_the_card_alone_by_default(tmp_path):
    model = shutil.copytree(run_folder("visual_initialing"), tmp_path / "model")
    values = {"max_clips": 2, "generation_max_length": 4, "device": "cpu", "disable_tqdm": True}
    argv = flags(model=model, dataset=corpus(), output_dir=tmp_path / "scores", **values)
    assert evaluate_model.main(argv) == 0
    assert card_of(model) == card_of(run_folder("visual_initialing"))


def test_scores_need_a_folder_with_a_record(tmp_path, capsys):
    argv = flags(model=trained_model(), dataset=corpus(), output_dir=tmp_path / "scores", add_to_model_card=True)
    assert error_of(evaluate_model.main, argv, capsys) == (
        f"{trained_model()} must be the folder of a trained model with training_run.json in it, from which the model "
        "card is written. There is no such file."
    )
    assert not (tmp_path / "scores").exists()


@pytest.mark.parametrize("number", [0, 1, 2])
def test_a_kill_at_any_file_does_not_make_the_card_one_that_people_changed(number, folder, monkeypatch):
    """The next scores reach the parts without marks, too."""
    data, written = DataArguments(dataset=str(corpus())), []

    def kill(path, text):
        if len(written) == number:
            raise KeyboardInterrupt
        written.append(path)
        write_text(path, text)

    with monkeypatch.context() as patch:
        patch.setattr(model_card, "write_text", kill)
        with pytest.raises(KeyboardInterrupt):
            add_scores(folder, some_scores(), data, "test", num_beams=3)
    add_scores(folder, some_scores(), data, "test", num_beams=4)
    run = read_run(folder)
    assert card_of(folder) == render(run) and run.wrote(card_of(folder)) and run.next_card_digest is None


# What people wrote


def without_what_is_ours(text: str) -> str:
    return model_card.MODEL_INDEX.sub("", model_card.SECTION.sub("", text))


@pytest.mark.parametrize("line_end", ["\n", "\r\n"])
def test_what_is_written_by_hand_stays(folder, line_end):
    text = card_of(folder).replace("license: cc-by-4.0", "license: mit  # we asked everybody\nwidget: [ ]")
    text = text.replace("## What it is for", "## Thanks\n\nTo all who signed — ü, 手.\n\n## What it is for")
    text = text.replace("**corpus**", "**Our *own* corpus**") + "\nThe end, by hand.\n"
    (folder / "README.md").write_bytes(text.replace("\n", line_end).encode())
    add_scores(folder, some_scores(), DataArguments(dataset=str(corpus())), "test", num_beams=3)
    content = (folder / "README.md").read_bytes().decode()
    assert content.count(line_end) == content.count("\n")
    after = content.replace(line_end, "\n")
    assert without_what_is_ours(after) == without_what_is_ours(text)
    assert "**corpus, test**: 2 clips, 3 beams." in after
    splits = {result.dataset_split for result in ModelCard(after).data.eval_results}
    assert splits == {"validation", "test"} and ModelCard(after).data.license == "mit"


def test_results_that_somebody_else_added_stay(folder):
    card = ModelCard.load(folder / "README.md")
    theirs = EvalResult("translation", "their/data", "Theirs", "bleu", 12.5, dataset_split="test")
    card.data.eval_results.append(theirs)
    card.save(folder / "README.md")
    for _ in range(2):
        add_scores(folder, some_scores(), DataArguments(dataset=str(corpus())), "test", num_beams=3)
    results = ModelCard.load(folder / "README.md").data.eval_results
    assert results.count(theirs) == 1 and len(results) == 1 + 2 * len(TITLE_OF_SCORE)


def test_without_its_marks_only_the_front_matter_changes(folder):
    text = re.sub(r"<!-- flallm:.*?-->\n", "", card_of(folder))
    (folder / "README.md").write_text(text, encoding="utf-8")
    add_scores(folder, some_scores(), DataArguments(dataset=str(corpus())), "test", num_beams=3)
    assert without_what_is_ours(card_of(folder)) == without_what_is_ours(text)
    assert {result.dataset_split for result in ModelCard(card_of(folder)).data.eval_results} == {"validation", "test"}


def test_a_front_matter_that_cannot_be_read_is_an_error_and_stays(folder):
    text = card_of(folder).replace("model-index:", "model-index: [1]\nold:")
    (folder / "README.md").write_text(text, encoding="utf-8")
    with pytest.raises(ValueError, match=re.escape("The front matter of README.md cannot be read: ")):
        add_scores(folder, some_scores(), DataArguments(dataset=str(corpus())), "test", num_beams=3)
    assert card_of(folder) == text


def test_a_readme_from_elsewhere_is_left_as_it_is(tmp_path, capsys):
    (tmp_path / "README.md").write_text("---\nlicense: mit\n---\nMine.\n", encoding="utf-8")
    write_model_card(tmp_path, read_run(run_folder("visual_initialing")))
    assert card_of(tmp_path) == "---\nlicense: mit\n---\nMine.\n"
    assert capsys.readouterr().err == f"{tmp_path / 'README.md'} is not from a training run, so it is not changed.\n"


def test_a_new_save_drops_the_scores_of_earlier_weights(folder):
    run = read_run(folder)
    add_scores(folder, some_scores(), DataArguments(dataset=str(corpus())), "test", num_beams=3)
    write_model_card(folder, run)
    assert card_of(folder) == card_of(run_folder("visual_initialing"))
    add_scores(folder, some_scores(), DataArguments(dataset=str(corpus())), "test", num_beams=3)
    (folder / "README.md").write_text(card_of(folder) + "By hand.\n", encoding="utf-8")
    write_model_card(folder, run)
    assert {result.dataset_split for result in ModelCard(card_of(folder)).data.eval_results} == {"validation"}
    assert "corpus, test" not in card_of(folder) and card_of(folder).endswith("By hand.\n")


class Killed(BaseException):
    """While it replaces a file."""


def killed_at(number: int, monkeypatch, act: Callable[[], Any]) -> bool:
    """Whether the act was killed at the file after this many."""
    replace, replaced = os.replace, []

    def kill(source, target):
        if len(replaced) == number:
            raise Killed
        replaced.append(target)
        replace(source, target)

    with monkeypatch.context() as patch:
        patch.setattr(os, "replace", kill)
        try:
            act()
        except Killed:
            return True
    return False


def test_a_card_that_was_killed_is_written_by_the_next_try(tmp_path, monkeypatch):
    run, number = read_run(run_folder("visual_initialing")), 0
    while killed_at(number, monkeypatch, lambda: write_model_card(tmp_path, run)):
        number += 1
    assert number >= 2
    assert card_of(tmp_path) == card_of(run_folder("visual_initialing"))
    assert read_run(tmp_path).card_digest == read_run(run_folder("visual_initialing")).card_digest
    assert sorted(path.name for path in tmp_path.iterdir()) == ["README.md", "training_run.json"]


@pytest.mark.parametrize("number", [0, 1])
def test_what_is_written_by_hand_survives_a_kill_and_old_scores_do_not(number, folder, monkeypatch):
    run = read_run(folder)
    add_scores(folder, some_scores(), DataArguments(dataset=str(corpus())), "test", num_beams=3)
    (folder / "README.md").write_text(card_of(folder) + "By hand.\n", encoding="utf-8")
    assert killed_at(number, monkeypatch, lambda: write_model_card(folder, run))
    assert card_of(folder).endswith("By hand.\n")
    write_model_card(folder, run)
    assert {result.dataset_split for result in ModelCard(card_of(folder)).data.eval_results} == {"validation"}
    assert "corpus, test" not in card_of(folder) and card_of(folder).endswith("By hand.\n")


# Save and push


def test_the_name_of_the_repository_goes_into_how_to_use(folder):
    by_hand = card_of(folder) + "By hand.\n"
    (folder / "README.md").write_text(by_hand, encoding="utf-8")
    files = named_card(folder, "somebody/signs")
    assert set(files) == {"README.md", "training_run.json"}
    text = files["README.md"].decode()
    assert text.count('from_pretrained("somebody/signs", trust_remote_code=True)') == 2
    assert 'model="somebody/signs", trust_remote_code=True)' in text
    assert check_for_the_hub(text)["model-index"][0]["name"] == "signs"
    assert without_what_is_ours(text) == without_what_is_ours(by_hand)
    assert card_of(folder) == by_hand


def test_a_named_card_is_what_the_run_would_have_written(folder):
    run = dataclasses.replace(read_run(folder), model_name="somebody/signs")
    for name, content in named_card(folder, "somebody/signs").items():
        (folder / name).write_bytes(content)
    assert card_of(folder) == model_card.render(run)
    write_model_card(folder, dataclasses.replace(read_run(folder), model_name="another/name"))
    assert "somebody/signs" not in card_of(folder)  # not edited by hand, so it is rewritten


def test_the_card_of_an_adapter_names_its_base_on_the_hub(folder):
    run = dataclasses.replace(read_run(folder), adapter_base="lora_base")
    write_model_card(folder, run)
    assert "base_model" not in check_for_the_hub(card_of(folder))
    text = named_card(folder, "me/adapter", base_model_id="me/base")["README.md"].decode()
    assert check_for_the_hub(text)["base_model"] in ("me/base", ["me/base"])
    assert "lora_base" not in text
    assert 'AutoModelForSeq2SeqLM.from_pretrained("me/base", trust_remote_code=True)' in text
    assert 'PeftModel.from_pretrained(model, "me/adapter")' in text


def trainer_in(folder: Path) -> FLaLLMTrainer:
    arguments = FLaLLMTrainingArguments(
        output_dir=str(folder), use_cpu=True, report_to="none", eval_strategy="no", load_best_model_at_end=False
    )
    trainer = FLaLLMTrainer(model=tiny_model(), args=arguments)
    trainer.training_run = read_run(run_folder("visual_initialing"))
    return trainer


def test_a_push_writes_our_card_with_the_repositorys_name(tmp_path):
    trainer = trainer_in(tmp_path)
    trainer.hub_model_id = "somebody/signs"
    trainer.create_model_card(model_name="signs", tags=["one"], language="xx")  # as `Trainer.push_to_hub` does
    data = check_for_the_hub(card_of(tmp_path))
    assert data["language"] == ["de"] and 'model="somebody/signs"' in card_of(tmp_path)


def test_only_the_main_process_writes(tmp_path, monkeypatch):
    trainer = trainer_in(tmp_path)
    monkeypatch.setattr(trainer, "is_world_process_zero", lambda: False)
    trainer.create_model_card()
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("base_model", [None, "somebody/base", "folder"])
def test_an_adapter_alone_has_a_card_with_its_base(tmp_path, base_model):
    arguments = llm_fine_tuning.LLMFineTuningArguments(
        vision_model_name_or_path=str(trained_model()), text_model_name_or_path=str(language_model()), lora=True
    )
    model, _ = llm_fine_tuning.build_model(arguments, VideoArguments())
    base = str(tmp_path / SECRET / "base") if base_model == "folder" else base_model
    if base_model == "folder":
        Path(base).mkdir(parents=True)
    for _ in range(2):  # PEFT changes a card that it finds
        model_card.save_adapter(model, tmp_path / "adapter", read_run(run_folder("lora")), base)
        text = card_of(tmp_path / "adapter")
        data = check_for_the_hub(text)
        assert data["library_name"] == "peft" and data.get("base_model") == (
            ["somebody/base"] if base_model == "somebody/base" else None
        )
        expected = {None: "the model it was trained on", "folder": "base"}.get(base_model, base_model)
        assert f"They change the model `{expected}`" in text and "pipeline(" not in text and SECRET not in text
    assert (tmp_path / "adapter" / "adapter_model.safetensors").is_file()


def test_what_is_written_by_hand_survives_a_kill_while_an_adapter_is_saved(folder, monkeypatch):
    arguments = llm_fine_tuning.LLMFineTuningArguments(
        vision_model_name_or_path=str(trained_model()), text_model_name_or_path=str(language_model()), lora=True
    )
    model, _ = llm_fine_tuning.build_model(arguments, VideoArguments())
    text = card_of(folder) + "By hand.\n"
    (folder / "README.md").write_text(text, encoding="utf-8")

    def kill(*arguments, **options):
        raise Killed

    with monkeypatch.context() as patch:
        patch.setattr(type(model), "create_or_update_model_card", kill)
        with pytest.raises(Killed):
            model_card.save_adapter(model, folder, read_run(folder))
    assert card_of(folder) == text
    number = 0
    while killed_at(number, monkeypatch, lambda: model_card.save_adapter(model, folder, read_run(folder))):
        assert card_of(folder).endswith("By hand.\n")
        number += 1
    assert number >= 3 and card_of(folder).endswith("By hand.\n")
    assert (folder / "adapter_model.safetensors").is_file() and (folder / "adapter_config.json").is_file()


def test_a_record_is_the_same_after_reading_it_back(folder):
    run = read_run(folder)
    assert dataclasses.asdict(run) == json.loads((folder / "training_run.json").read_text(encoding="utf-8"))
    assert model_card.render(run) == card_of(folder)


@pytest.mark.parametrize("content", ["[]", "{}", '{"stage": 1}', "no json"])
def test_a_record_that_is_none_is_told(tmp_path, content):
    (tmp_path / "training_run.json").write_text(content, encoding="utf-8")
    with pytest.raises(ValueError, match=re.escape(f"{tmp_path / 'training_run.json'} is no record of a training run")):
        read_run(tmp_path)


# Tags of languages

SIGN_LANGUAGE = (
    "--sign_language must be the ISO 639-3 code of a sign language, such as gsg (German), ase (American) or csl "
    "(Chinese)"
)
SPOKEN_LANGUAGE = "--spoken_language must be the tag of a written language, such as de, zh_CN or deu_Latn"


@pytest.mark.parametrize(
    ("name", "tag", "message"),
    [
        ("sign_language", "", f"{SIGN_LANGUAGE}, got ''."),
        ("sign_language", "  ", f"{SIGN_LANGUAGE}, got '  '."),
        ("sign_language", "DGS", f"{SIGN_LANGUAGE}, got 'DGS'."),
        ("sign_language", "de", f"{SIGN_LANGUAGE}, got 'de'."),
        ("sign_language", "dgs", f"{SIGN_LANGUAGE}; 'dgs' is Dogoso, which is not a sign language."),
        ("sign_language", "lsf", f"{SIGN_LANGUAGE}; 'lsf' is not. A language without a code may use qaa to qtz."),
        ("spoken_language", "", f"{SPOKEN_LANGUAGE}, got ''."),
        ("spoken_language", " ", f"{SPOKEN_LANGUAGE}, got ' '."),
        ("spoken_language", "german", f"{SPOKEN_LANGUAGE}, got 'german'."),
        ("spoken_language", "xx", f"{SPOKEN_LANGUAGE}; 'xx' is not the code of any language."),
        (
            "spoken_language",
            "gsg",
            f"{SPOKEN_LANGUAGE}; 'gsg' is German Sign Language. Pass that as --sign_language.",
        ),
        ("dataset_name", " ", "--dataset_name must be a name for readers of the model card, got an empty string."),
        (
            "model_license",
            "MIT License",
            "--model_license must be a licence as the Hub writes it, such as apache-2.0, cc-by-nc-4.0 or other, got "
            "'MIT License'.",
        ),
    ],
)
def test_what_a_card_cannot_name_is_told_before_training(name, tag, message, tmp_path, capsys):
    assert error_of(visual_initialing.main, stage1_flags(tmp_path / "run", **{name: tag}), capsys) == message
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("tag", ["gsg", "ase", "csl", "bfi", "vgt", "sfb", "ils", "qaa", "qtz", None])
def test_sign_languages_that_are_known(tag):
    check_sign_language(tag)


@pytest.mark.parametrize("tag", ["de", "zh_CN", "zh-Hans", "deu_Latn", "jpn_Jpan", "yue", "en_XX", None])
def test_spoken_languages_that_are_known(tag):
    check_spoken_language(tag)


def test_names_of_languages():
    assert language_name("gsg") == "German Sign Language" and language_name("zh_CN") == "Chinese"
    assert language_name("qaa") is None and language_name(None) is None
