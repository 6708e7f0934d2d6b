"""The systems' rows: they agree with the classes, commands and presets, and a new system needs nothing else."""

import ast
import json
import subprocess
import sys
from pathlib import Path

import pytest
from huggingface_hub import ModelCard
from tiny_models import TINY_MODELS
from transformers import CONFIG_MAPPING

import modeling_flallm
from modeling_flallm.systems import (
    LANGUAGE_MODEL,
    PRETRAINED_MODEL,
    SYSTEMS,
    TEXT_AUTOENCODER,
    TRANSLATOR,
    VISUAL_ENCODER,
    Recipe,
    Stage,
    System,
    adapter_titles,
    find_stage,
    titles,
)
from train_scripts.__main__ import find_command
from train_scripts.arguments.dataclass_parser import preset_names
from train_scripts.arguments.system_rows import help_of_stage, systems
from train_scripts.commands import push_to_hub
from train_scripts.hub.hub_folder import read_model_folder, replaced_files
from train_scripts.hub.model_card import render
from train_scripts.hub.training_run import TrainingRun
from train_scripts.runs.trained_models import check_is_no_visual_encoder, load_trained

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT / "spaces_demo"))

from model_facts import read_model_facts, why_not_a_translator  # noqa: E402

every_system = pytest.mark.parametrize("system", SYSTEMS.values(), ids=SYSTEMS.keys())
THIRD = System(
    model_type="third_slt",
    title="Third-SLT",
    paper="https://arxiv.org/abs/0000.00000",
    citations=(("", "@article{third2030}"),),
    auto_class="AutoModelForImageTextToText",
    model_class="ThirdSltForTranslation",
    processor_class="LlavaSltProcessor",
    is_prompted=True,
    adapter_title="bridge",
    visual_encoder_types=("third_slt_visual",),
    stages=(
        Stage("hand_pretraining", title="hands alone", command="flallm train hand-pretraining", leaves=VISUAL_ENCODER),
        Stage(
            "joint_training",
            title="everything at once",
            command="flallm train joint-training",
            leaves=TRANSLATOR,
            card="poses go over a bridge to `{text_model}`.",
            note="The paper has no bridge.",
            vision_stage="hand_pretraining",
        ),
    ),
    recipe=Recipe("third", "the recipe of the third"),
    note="The paper is short.",
    tags=("third-slt",),
)


# The rows of today


@every_system
def test_a_row_is_true_of_its_classes(system):
    model = TINY_MODELS[system.model_type]()
    assert type(model) is getattr(modeling_flallm, system.model_class)
    assert model.config.model_type == system.model_type
    other_types = (*system.visual_encoder_types, *system.pretrained_types, *system.text_autoencoder_types)
    assert {*other_types} <= {*CONFIG_MAPPING}
    assert model.is_prompted is system.is_prompted is not model.config.is_encoder_decoder
    assert {model.adapter_name, model.text_model_name} <= {name for name, _ in model.named_children()}
    assert model.translation_auto_class == system.auto_class and model.hub_tags == system.hub_tags
    assert hasattr(modeling_flallm, system.processor_class)


@every_system
def test_a_model_says_how_many_tokens_it_reads(system):
    model = TINY_MODELS[system.model_type]("gpt2" if system.model_type == "llava_slt" else "mbart")
    most = model.get_max_num_input_tokens()
    model.check_num_tokens(most)
    with pytest.raises(ValueError, match="takes at most"):
        model.check_num_tokens(most + 1)


@every_system
def test_a_row_names_stages_commands_and_presets_that_there_are(system):
    for stage in system.stages:
        assert find_stage(stage.name) == (system, stage)
        command, rest = find_command(stage.command.split()[1:])
        assert rest == [] and command.module == f"stages.{stage.name}"
        assert command.summary == help_of_stage(stage.name)
        assert stage.vision_stage in (None, *(each.name for each in system.stages[: system.stages.index(stage)]))
        assert bool(stage.card) == (stage.leaves not in (LANGUAGE_MODEL, TEXT_AUTOENCODER))
    assert system.last_stage.leaves == TRANSLATOR
    assert bool(system.pretrained_types) == (system.stage_that_leaves(PRETRAINED_MODEL) is not None)
    assert bool(system.text_autoencoder_types) == (system.stage_that_leaves(TEXT_AUTOENCODER) is not None)
    assert set(system.presets) <= set(preset_names())


def test_every_preset_is_of_a_row():
    of_rows = {preset for row in SYSTEMS.values() for preset in row.presets}
    assert set(preset_names()) - of_rows == {"quickstart_language_model"}


def test_systems_in_sentences():
    assert titles() == "FLa-LLM or LLaVA-SLT or Uni-Sign or MMSLT or DiffSLT"
    assert (titles(is_prompted=True), titles(is_prompted=False)) == (
        "LLaVA-SLT",
        "FLa-LLM or Uni-Sign or MMSLT or DiffSLT",
    )
    assert adapter_titles() == "the adapter, or LLaVA-SLT's connector"
    with pytest.raises(ValueError, match="The stage must be one of visual_initialing, .*, got 'nothing'"):
        find_stage("nothing")


def test_the_rows_import_nothing_and_help_needs_no_torch():
    tree = ast.parse((ROOT / "modeling_flallm" / "systems.py").read_text(encoding="utf-8"))
    imports = [node for node in ast.walk(tree) if isinstance(node, ast.Import | ast.ImportFrom)]
    assert [node.module for node in imports] == ["dataclasses"]
    code = (
        "import sys; from train_scripts.arguments.system_rows import help_of_stage, systems\n"
        "assert help_of_stage('visual_initialing').startswith('Stage 1 of FLa-LLM: ')\n"
        "assert not {'torch', 'transformers', 'modeling_flallm'} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=True)
    assert systems is sys.modules["modeling_flallm.systems"] and systems.SYSTEMS is SYSTEMS


# One more row


@pytest.fixture
def third(monkeypatch) -> System:
    monkeypatch.setitem(SYSTEMS, THIRD.model_type, THIRD)
    return THIRD


def card_of_third() -> str:
    names = ("crop_size", "frame_sampling_rate", "horizontal_flip")
    settings = [{"name": name, "value": 1, "paper": 1, "source": "paper", "meaning": ""} for name in names]
    data = {"name": "signs", "source": "signs", "hub_id": None, "splits": {"train": {"num_clips": 8, "num_signers": 2}}}
    training = {"num_parameters": 10, "num_trained_parameters": 5}
    languages = {"spoken_language": "de", "sign_language": "gsg", "license": "mit"}
    return render(
        TrainingRun(
            stage="joint_training",
            model_name="me/third",
            data=data,
            base_models={"text_model": "gpt2"},
            base_model_ids=[],
            settings=settings,
            recipe="third",
            stage1={"is_whole": True, "deviations": [], "training": {}},
            training=training,
            **languages,
        )
    )


def test_a_new_row_has_a_model_card(third):
    card = card_of_third()
    for text in (
        "The method is [Third-SLT](https://arxiv.org/abs/0000.00000). This is the model of **stage 2** of 2:\n"
        "poses go over a bridge to `gpt2`.\n",
        'AutoModelForImageTextToText.from_pretrained("me/third", trust_remote_code=True)',
        "The paper is short.\nThe paper has no bridge.\n",
        "No setting differs from the recipe of the third.",
        "**Stage 1**, which made the video encoder: No known setting differs",
        "@article{third2030}",
    ):
        assert text in card, text
    assert "FLa-LLM" not in card and "LLaVA" not in card
    assert "third-slt" in ModelCard(card).data.tags


def test_a_new_row_has_help_texts(third):
    assert help_of_stage("joint_training") == "Stage 2 of Third-SLT: everything at once."
    assert (
        titles() == "FLa-LLM or LLaVA-SLT or Uni-Sign or MMSLT or DiffSLT or Third-SLT"
        and titles(is_prompted=True) == "LLaVA-SLT or Third-SLT"
    )
    assert adapter_titles().endswith(", or Third-SLT's bridge")


def test_the_space_knows_a_new_row(third, tmp_path):
    assert why_not_a_translator("third_slt") is None
    assert why_not_a_translator("third_slt_visual") == (
        "only a visual encoder, the output of stage 1 of Third-SLT, which does not translate videos: name the output "
        "of stage 2 of FLa-LLM, stage 3 of LLaVA-SLT, stage 3 of Uni-Sign, stage 2 of MMSLT, stage 2 of DiffSLT or "
        "stage 2 of Third-SLT"
    )
    assert why_not_a_translator("mmslt_pretraining").startswith(
        "only a pretrained model, the output of stage 1 of MMSLT, which does not translate videos: name the output of"
    )
    (tmp_path / "README.md").write_text(card_of_third(), encoding="utf-8")
    facts = read_model_facts(str(tmp_path))
    assert (facts.sign_language_tag, facts.spoken_language, facts.datasets) == ("gsg", "German", ("signs",))
    assert facts.num_training_clips == 8 and facts.license == "mit"


def test_a_text_autoencoder_is_no_translator(tmp_path):
    reads_no_videos = "only a text autoencoder, the output of stage 1 of DiffSLT, which does not translate videos"
    assert why_not_a_translator("diffslt_autoencoder").startswith(reads_no_videos)
    (tmp_path / "config.json").write_text('{"model_type": "diffslt_autoencoder"}', encoding="utf-8")
    with pytest.raises(ValueError, match="DiffSLT's stage 1 of 2, which reads no videos. Name the folder of stage 2,"):
        load_trained(str(tmp_path))


def test_errors_and_pushes_know_a_new_row(third, tmp_path):
    def write_config(**values):
        (tmp_path / "config.json").write_text(json.dumps(values), encoding="utf-8")

    write_config(model_type="third_slt_visual")
    with pytest.raises(ValueError, match="Third-SLT's stage 1 of 2, .* which flallm train joint-training makes"):
        load_trained(str(tmp_path))
    with pytest.raises(ValueError, match="holds a visual encoder of Third-SLT, as its stage 1 leaves it"):
        check_is_no_visual_encoder(str(tmp_path))
    with pytest.raises(ValueError, match="video_preprocessor_config.json is missing"):
        read_model_folder(tmp_path, "me/third")
    write_config(model_type="third_slt")
    with pytest.raises(
        ValueError, match="names no Python file for AutoConfig, AutoModel, AutoModelForImageTextToText "
    ):
        read_model_folder(tmp_path, "me/third")
    assert replaced_files(["modeling_third_slt.py", "mine.py", "losses_slt.py"], []) == [
        "losses_slt.py",
        "modeling_third_slt.py",
    ]


def test_a_space_is_sent_with_the_rows():
    files = push_to_hub.space_files()
    assert files["systems.py"] == ROOT / "modeling_flallm" / "systems.py"
    assert {"app.py", "model_facts.py", "README.md"} <= files.keys()
