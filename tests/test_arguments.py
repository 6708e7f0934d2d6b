"""Arguments: YAML with flags on top, one sentence for each mistake, and presets that their commands take."""

import dataclasses
import importlib.util
import math
from dataclasses import dataclass, field
from pathlib import Path

import pytest
import torch
import yaml
from tiny_corpus import error_of, flags
from transformers import HfArgumentParser, Seq2SeqTrainingArguments
from transformers.hf_argparser import string_to_bool

from processing.processing_llava_slt import DEFAULT_PROMPT
from train_scripts.arguments.command_arguments import AdaptationArguments
from train_scripts.arguments.commands import COMMANDS
from train_scripts.arguments.data_arguments import (
    AugmentationArguments,
    DataArguments,
    DatasetArguments,
    FeatureCacheArguments,
    FineTuningVideoArguments,
    VideoArguments,
)
from train_scripts.arguments.dataclass_parser import (
    CONFIG_FOLDER,
    DataclassParser,
    parse_arguments,
    preset_names,
    read_sources,
    read_yaml,
)
from train_scripts.arguments.described_stage_arguments import (
    MultimodalPretrainingArguments,
    TranslationFineTuningArguments,
)
from train_scripts.arguments.description_arguments import DescriberArguments, DescriptionArguments
from train_scripts.arguments.diffslt_stage_arguments import LatentDiffusionArguments, TextAutoencodingArguments
from train_scripts.arguments.flag_values import RANGES, check_new_folder
from train_scripts.arguments.serving_arguments import ServeArguments
from train_scripts.arguments.stage_arguments import (
    PROMPT,
    DenoisingArguments,
    SentenceArguments,
    UnifiedFineTuningArguments,
)
from train_scripts.arguments.training_arguments import FLaLLMTrainingArguments
from train_scripts.arguments.training_defaults import COMMON_TRAINER_FLAGS
from train_scripts.arguments.training_flags import CHOICES, REFUSED
from train_scripts.commands import (
    calibrate,
    evaluate_model,
    inspect_dataset,
    prepare_dataset,
    quickstart,
    quickstart_llava_slt,
    quickstart_uni_sign,
    translate,
)
from train_scripts.runs.resuming import check_run
from train_scripts.scores.metrics import TITLE_OF_SCORE
from train_scripts.stages import (
    latent_diffusion,
    linguistic_pretraining,
    llm_fine_tuning,
    multimodal_pretraining,
    pose_pretraining,
    pose_rgb_pretraining,
    pretrain_language_model,
    text_autoencoding,
    translation_fine_tuning,
    unified_fine_tuning,
    visual_contrastive_pretraining,
    visual_initialing,
    visual_language_tuning,
)

STAGE1 = (
    visual_initialing.VisualInitialingArguments,
    DataArguments,
    VideoArguments,
    AugmentationArguments,
    FLaLLMTrainingArguments,
)
STAGE2 = (llm_fine_tuning.LLMFineTuningArguments, *STAGE1[1:], FeatureCacheArguments)
LANGUAGE_MODEL = (
    pretrain_language_model.LanguageModelArguments,
    pretrain_language_model.LanguageModelTrainingArguments,
)
LINGUISTIC = (
    linguistic_pretraining.CausalLanguageModelArguments,
    linguistic_pretraining.TextArguments,
    DenoisingArguments,
    linguistic_pretraining.LinguisticTrainingArguments,
)
AUTOENCODING = (
    TextAutoencodingArguments,
    SentenceArguments,
    text_autoencoding.AutoencodingTrainingArguments,
)
CONTRASTIVE = (
    visual_contrastive_pretraining.VisualContrastivePretrainingArguments,
    *STAGE1[1:-1],
    visual_contrastive_pretraining.ContrastiveTrainingArguments,
)
TUNING = (
    visual_language_tuning.VisualLanguageTuningArguments,
    *STAGE1[1:-1],
    visual_language_tuning.ConnectorTrainingArguments,
    FeatureCacheArguments,
)
POSES = (pose_pretraining.PosePretrainingArguments, *STAGE1[1:])
FINE_TUNING = (
    UnifiedFineTuningArguments,
    DataArguments,
    FineTuningVideoArguments,
    *STAGE1[3:],
)
RGB = (pose_rgb_pretraining.PoseRgbPretrainingArguments, *FINE_TUNING[1:])
DESCRIBED = (
    MultimodalPretrainingArguments,
    DescriptionArguments,
    *STAGE1[1:-1],
    multimodal_pretraining.DescribedTrainingArguments,
)
TRANSLATION = (TranslationFineTuningArguments, *FINE_TUNING[1:])
DIFFUSION = (LatentDiffusionArguments, *FINE_TUNING[1:], FeatureCacheArguments)
EVALUATION = (evaluate_model.EvaluationArguments, DatasetArguments, evaluate_model.GenerationArguments)
REQUIRED = {
    STAGE1: {"dataset": "d", "tokenizer_name_or_path": "t", "output_dir": "o"},
    STAGE2: {"dataset": "d", "vision_model_name_or_path": "v", "text_model_name_or_path": "t", "output_dir": "o"},
    LANGUAGE_MODEL: {"text_file": "t", "output_dir": "o"},
    LINGUISTIC: {"text_file": "t", "output_dir": "o"},
    CONTRASTIVE: {"dataset": "d", "text_model_name_or_path": "t", "output_dir": "o"},
    TUNING: {"dataset": "d", "vision_model_name_or_path": "v", "text_model_name_or_path": "t", "output_dir": "o"},
    POSES: {"dataset": "d", "text_model_name_or_path": "t", "output_dir": "o"},
    FINE_TUNING: {"dataset": "d", "model_name_or_path": "m", "output_dir": "o"},
    RGB: {"dataset": "d", "model_name_or_path": "m", "output_dir": "o"},
    DESCRIBED: {"dataset": "d", "text_model_name_or_path": "t", "output_dir": "o"},
    TRANSLATION: {"dataset": "d", "model_name_or_path": "m", "output_dir": "o"},
    AUTOENCODING: {"text_file": "f", "text_model_name_or_path": "t", "output_dir": "o"},
    DIFFUSION: {"dataset": "d", "vision_model_name_or_path": "v", "text_model_name_or_path": "t", "output_dir": "o"},
    EVALUATION: {"dataset": "d", "model": "m", "output_dir": "o"},
}
TYPES_OF_COMMAND = {
    visual_initialing: STAGE1,
    llm_fine_tuning: STAGE2,
    pretrain_language_model: LANGUAGE_MODEL,
    linguistic_pretraining: LINGUISTIC,
    visual_contrastive_pretraining: CONTRASTIVE,
    visual_language_tuning: TUNING,
    pose_pretraining: POSES,
    pose_rgb_pretraining: RGB,
    unified_fine_tuning: FINE_TUNING,
    multimodal_pretraining: DESCRIBED,
    translation_fine_tuning: TRANSLATION,
    text_autoencoding: AUTOENCODING,
    latent_diffusion: DIFFUSION,
    evaluate_model: EVALUATION,
}
TRAINING_COMMANDS = [command for command in TYPES_OF_COMMAND if command is not evaluate_model]
TYPES_OF_PRESET = {
    "pose_pretraining": POSES,
    "pose_rgb_pretraining": RGB,
    "unified_fine_tuning": FINE_TUNING,
    "multimodal_pretraining": DESCRIBED,
    "translation_fine_tuning": TRANSLATION,
    "text_autoencoding": AUTOENCODING,
    "latent_diffusion": DIFFUSION,
    "visual_initialing": STAGE1,
    "llm_fine_tuning": STAGE2,
    "language_model": LANGUAGE_MODEL,
    "linguistic_pretraining": LINGUISTIC,
    "visual_contrastive_pretraining": CONTRASTIVE,
    "visual_language_tuning": TUNING,
}
OTHER_TYPES = (
    (calibrate.CalibrationArguments, quickstart.QuickstartArguments, quickstart_llava_slt.LlavaSltQuickstartArguments),
    (inspect_dataset.InspectArguments, prepare_dataset.PrepareArguments, AdaptationArguments),
    (quickstart_uni_sign.UniSignQuickstartArguments, DescriberArguments, ServeArguments),
)


@dataclass
class Sizes:
    width: int = field(default=3, metadata={"help": "Width."})
    rate: float = field(default=0.5, metadata={"help": "Rate, 10 % of it."})
    is_wide: bool = field(default=True, metadata={"help": "Wide."})
    is_high: bool = field(default=False, metadata={"help": "High."})
    blocks: list[str] = field(default_factory=lambda: ["K5"], metadata={"help": "Blocks."})
    name: str | None = field(default=None, metadata={"help": "Name."})


def parse_sizes(*argv: str) -> Sizes:
    return parse_arguments((Sizes,), argv, "Sizes.")[0]


def write_yaml(folder: Path, text: str) -> str:
    path = folder / "sizes.yaml"
    path.write_text(text, encoding="utf-8")
    return str(path)


def message(capsys, *argv: str) -> str:
    """The one line on stderr with which the parser exits with status 2."""
    return error_of(lambda argv: parse_sizes(*argv), argv, capsys)


def test_without_anything_there_are_the_defaults():
    assert parse_sizes() == Sizes()


def test_yaml_sets_and_flags_win(tmp_path):
    config = write_yaml(tmp_path, "width: 7\nrate: 1e-3\nis_wide: false\nblocks: [K3, P2]\nname: ä b\n")
    assert parse_sizes("--config", config) == Sizes(7, 1e-3, False, False, ["K3", "P2"], "ä b")
    for argv in (["--config", config, "--width", "9"], ["--width", "9", "--config", config], [f"--config={config}"]):
        assert parse_sizes(*argv).width == (9 if "9" in argv else 7)
    sizes = parse_sizes("--config", config, "--blocks", "K5", "--is_wide", "True", "--rate", "2")
    assert (sizes.width, sizes.blocks, sizes.is_wide, sizes.rate) == (7, ["K5"], True, 2.0)


@pytest.mark.parametrize(
    "text", ["no", "No", "on", "off", "yes", "y", "007", "1.10", "1e4", "2024-01-01", "12:30", "1_0"]
)
def test_text_in_yaml_stays_as_it_is_written(text, tmp_path):
    """YAML 1.1 reads booleans, numbers, dates and times of day there."""
    config = write_yaml(tmp_path, f"name: {text}\nblocks: [{text}, K5]\n")
    assert parse_sizes("--config", config) == Sizes(name=text, blocks=[text, "K5"])


def test_no_is_a_language_and_a_strategy(tmp_path):
    config = write_yaml(tmp_path, "spoken_language: no\neval_strategy: no\nsave_strategy: no\n")
    argv = ["--config", config, *flags(**REQUIRED[STAGE1], use_cpu=True, load_best_model_at_end=False)]
    _, data, *_, training = parse_arguments(STAGE1, argv, "Stage 1.")
    assert (data.spoken_language, training.eval_strategy, training.save_strategy) == ("no", "no", "no")


@pytest.mark.parametrize(
    ("text", "value"), [("010", 10), ("-3", -3), ("+3", 3), ("0x1F", 31), ("0o17", 15), ("1_0", 10)]
)
def test_whole_numbers_in_yaml(text, value, tmp_path):
    assert parse_sizes("--config", write_yaml(tmp_path, f"width: {text}\n")).width == value


@pytest.mark.parametrize(
    ("text", "value"), [("1e-4", 1e-4), ("1E3", 1000), (".5", 0.5), ("-5.", -5), (".inf", math.inf), ("2", 2)]
)
def test_numbers_in_yaml(text, value, tmp_path):
    assert parse_sizes("--config", write_yaml(tmp_path, f"rate: {text}\n")).rate == value


@pytest.mark.parametrize("text", ["true", "True", "TRUE", "yes", "'true'"])
def test_true_in_yaml(text, tmp_path):
    assert parse_sizes("--config", write_yaml(tmp_path, f"is_high: {text}\n")).is_high is True


def test_a_byte_order_mark_in_yaml(tmp_path):
    assert parse_sizes("--config", write_yaml(tmp_path, "\ufeffwidth: 5\n")).width == 5


def test_keys_in_yaml_that_are_given_twice(tmp_path, capsys):
    config = write_yaml(tmp_path, "width: 3\nrate: 1\nwidth: 4\n")
    assert "'width' is given more than once" in _whole_message(capsys, config)
    config = write_yaml(tmp_path, "width: [3, 4]\n")
    assert message(capsys, "--config", config) == f"{config}: width takes one value, got a list of 2."
    assert message(capsys, "--config", write_yaml(tmp_path, "is_wide: on\n")).startswith(
        "argument --is_wide: must be True or False, got 'on'"
    )


def _whole_message(capsys, config: str) -> str:
    with pytest.raises(SystemExit):
        parse_sizes("--config", config)
    return capsys.readouterr().err


@pytest.mark.parametrize(
    ("text", "sources"),
    [
        ("sources: {width: a book}", {"width": "a book"}),
        ("sources:\n  width: 'ours: wide'", {"width": "ours: wide"}),
        ("sources:", {}),
        ("", {}),
    ],
)
def test_sources_in_yaml_set_nothing(text, sources, tmp_path):
    config = write_yaml(tmp_path, f"width: 7  # paper: a comment, as presets had it\n{text}\n")
    assert parse_sizes("--config", config) == Sizes(width=7)
    assert read_yaml(config) == {"width": 7} and read_yaml(config, as_text=True) == {"width": "7"}
    assert read_sources(config) == sources


@pytest.mark.parametrize(
    ("sources", "expected"),
    [
        ("{widht: a book}", "names 'widht', which the file does not set. Did you mean 'width'?"),
        ("{rate: a book}", "names 'rate', which the file does not set. Set it, or remove it there."),
        ("{width: 3}", "must say in words where 'width' is from, got 3."),
        ("{width: }", "must say in words where 'width' is from, got None."),
        ("[width]", "must hold one 'name: where its value is from' a line, got list."),
        ("a book", "must hold one 'name: where its value is from' a line, got str."),
    ],
)
def test_sources_in_yaml_that_do_not_fit_the_values(sources, expected, tmp_path, capsys):
    config = write_yaml(tmp_path, f"width: 7\nsources: {sources}\n")
    assert message(capsys, "--config", config) == f"{config}: sources {expected}"


def test_an_empty_value_in_yaml_leaves_the_default(tmp_path):
    assert parse_sizes("--config", write_yaml(tmp_path, "width:\nname: null\nrate: 2\n")) == Sizes(rate=2.0)


@pytest.mark.parametrize(("text", "value"), [("False", False), ("false", False), ("0", False), ("True", True)])
def test_flags_that_are_true_or_false(text, value):
    assert parse_sizes("--is_wide", text, "--is_high", text) == Sizes(is_wide=value, is_high=value)


def test_a_flag_alone_is_true():
    assert parse_sizes("--is_high").is_high is True


def test_a_switch_is_turned_off_in_one_way(capsys):
    expected = "unknown flag 'no_is_wide'. Write --is_wide False."
    assert message(capsys, "--no_is_wide") == message(capsys, "--no-is-wide") == expected


def test_dashes_do_for_underscores(capsys):
    assert parse_sizes("--is-high", "--is-wide=no") == Sizes(is_high=True, is_wide=False)
    assert parse_sizes("--name", "a-b").name == "a-b"
    assert message(capsys, "--is-hihg") == "unknown flag 'is_hihg'. Did you mean 'is_high'?"


@dataclass
class Places:
    files: list[str] = field(metadata={"help": "Files.", "positional": True})
    fast: bool = field(default=False, metadata={"help": "Fast."})
    form: str = field(default="a", metadata={"help": "Form.", "choices": ("a", "b")})
    folder: Path | None = field(default=None, metadata={"help": "Folder."})


def test_words_without_a_flag(tmp_path, capsys):
    """A switch before it does not take it as its value."""
    for argv in (["--fast", "x", "y"], ["x", "y", "--fast"], ["--fast", "True", "x", "y"], ["--fast=yes", "x", "y"]):
        assert parse_arguments((Places,), argv, "Places.") == (Places(["x", "y"], fast=True),)
    assert parse_arguments((Places,), ["--fast", "False", "x"], "Places.") == (Places(["x"]),)
    config = write_yaml(tmp_path, "folder: 007\nform: b\n")
    (places,) = parse_arguments((Places,), ["x", "--config", config], "Places.")
    assert places == Places(["x"], form="b", folder=Path("007"))
    config = write_yaml(tmp_path, "files: [x]\n")
    expected = f"{config}: unknown key 'files'. See --help for all of them."
    assert error_of(lambda argv: parse_arguments((Places,), argv, "Places."), ["--config", config], capsys) == expected
    error = error_of(lambda argv: parse_arguments((Places,), argv, "Places."), ["x", "--form", "c"], capsys)
    assert error.startswith("argument --form: invalid choice: 'c'")


SAMPLES = {int: "3", float: "0.5", str: "text", string_to_bool: "True"}


def test_the_trainers_flags_are_read_as_transformers_reads_them():
    """By every version of it that is supported: all flags, their defaults, and a value for each."""
    ours = DataclassParser((Seq2SeqTrainingArguments,))
    theirs = HfArgumentParser(Seq2SeqTrainingArguments)
    defaults, expected = (vars(parser.parse_args([])) for parser in (ours, theirs))
    # Both are refused, whatever their value: what argparse makes of their defaults does not matter.
    refused = {"include_num_input_tokens_seen", "debug", "liger_kernel_config", "parallelism_config"}
    assert {name: defaults[name] for name in expected if name not in refused} == {
        name: value for name, value in expected.items() if name not in refused
    }
    assert refused <= {*REFUSED}
    actions = {action.dest: action for action in reversed(theirs._actions)}  # the first of --x and --no_x
    for name in expected.keys() - refused - {"generation_config"}:  # a Path there, which ends as text here
        action = actions[name]
        argv = [f"--{name}", [*action.choices][-1] if action.choices else SAMPLES[action.type]]
        assert vars(ours.parse_args(argv))[name] == vars(theirs.parse_args(argv))[name], name


def test_the_help_of_training_names_flags_that_the_trainer_has():
    known = {field.name for field in dataclasses.fields(FLaLLMTrainingArguments)}
    for command in COMMANDS.values():
        if command.defaults is not None:
            assert {*COMMON_TRAINER_FLAGS, *command.defaults.idle_flags, *command.defaults.fixed_flags} <= known


@pytest.mark.parametrize("command", TRAINING_COMMANDS)
def test_the_arguments_of_a_run_have_the_defaults_that_help_shows(command):
    (registered,) = [each for each in COMMANDS.values() if command.__name__ == f"train_scripts.{each.module}"]
    types = TYPES_OF_COMMAND[command]
    assert [type_ for type_ in registered.arguments if type_ is not registered.defaults] == [
        type_ for type_ in types if not issubclass(type_, registered.defaults)
    ]
    (of_run,) = [type_ for type_ in types if issubclass(type_, registered.defaults)]
    of_run = {field.name: (field.default, field.type) for field in dataclasses.fields(of_run)}
    for field_ in dataclasses.fields(registered.defaults):
        assert of_run[field_.name] == (field_.default, field_.type)


def test_facts_that_help_repeats():
    assert PROMPT == DEFAULT_PROMPT


def test_dictionaries_in_yaml_reach_the_trainer(tmp_path):
    config = write_yaml(tmp_path, "gradient_checkpointing_kwargs: {use_reentrant: false}\n")
    argv = ["--config", config, *flags(**REQUIRED[STAGE1])]
    *_, training = parse_arguments(STAGE1, argv, "Stage 1.")
    assert training.gradient_checkpointing_kwargs == {"use_reentrant": False}


def test_unknown_flag(capsys):
    assert message(capsys, "--widht", "3") == "unknown flag 'widht'. Did you mean 'width'?"
    assert message(capsys, "--widht=3") == "unknown flag 'widht'. Did you mean 'width'?"
    assert message(capsys, "--xyzzy", "3") == "unknown flag 'xyzzy'. See --help for all of them."
    assert message(capsys, "--wid", "3") == "unknown flag 'wid'. Did you mean 'width'?"  # no abbreviations
    assert message(capsys, "stray") == "unknown flag 'stray'. See --help for all of them."


def test_unknown_yaml_key(tmp_path, capsys):
    config = write_yaml(tmp_path, "widht: 3\n")
    assert message(capsys, "--config", config) == f"{config}: unknown key 'widht'. Did you mean 'width'?"
    config = write_yaml(tmp_path, "7: 3\n")
    assert message(capsys, "--config", config) == f"{config}: unknown key '7'. See --help for all of them."


def test_mistyped_values(tmp_path, capsys):
    expected = "argument --width: invalid int value: 'wide'"
    assert message(capsys, "--width", "wide") == expected
    assert message(capsys, "--config", write_yaml(tmp_path, "width: wide\n")) == expected
    assert message(capsys, "--is_wide", "maybe") == "argument --is_wide: must be True or False, got 'maybe'"


def test_files_that_are_no_settings(tmp_path, capsys):
    presets = ", ".join(preset_names())
    missing = str(tmp_path / "missing.yaml")
    assert message(capsys, "--config", missing) == (
        f"--config must be a YAML file or one of the presets {presets}; there is no {missing!r}."
    )
    config = write_yaml(tmp_path, "- width\n- 3\n")
    assert message(capsys, "--config", config) == f"{config} must hold one 'name: value' per line, got list."
    config = write_yaml(tmp_path, "")
    assert message(capsys, "--config", config) == f"{config} must hold one 'name: value' per line, got NoneType."
    assert message(capsys, "--config") == "argument --config: expected one argument"
    Path(config).write_bytes(b"name: \xff\n")
    assert message(capsys, "--config", config).startswith(f"{config} is not a YAML file: 'utf-8' codec can't decode")


def test_broken_yaml_names_its_line(tmp_path, capsys):
    config = write_yaml(tmp_path, "width: 3\nblocks: [K5\n")
    with pytest.raises(SystemExit):
        parse_sizes("--config", config)
    text = capsys.readouterr().err
    assert text.startswith(f"error: {config} is not a YAML file: ") and "line 3" in text


@pytest.mark.parametrize(
    ("command", "without", "expected"),
    [
        (visual_initialing, "dataset", "the following arguments are required: --dataset"),
        (
            visual_initialing,
            "tokenizer_name_or_path",
            "`--tokenizer_name_or_path` must name the tokenizer of the LLM of stage 2.",
        ),
        (visual_initialing, "output_dir", "`--output_dir` must name a new or empty folder."),
        (llm_fine_tuning, "dataset", "the following arguments are required: --dataset"),
        (
            llm_fine_tuning,
            "vision_model_name_or_path",
            "`--vision_model_name_or_path` is required, or in its place `--visual_features_size` for ready-made "
            "visual features or `--pose_encoder` for poses; got neither.",
        ),
        (llm_fine_tuning, "text_model_name_or_path", "`--text_model_name_or_path` is required."),
        (pretrain_language_model, "text_file", "`--text_file` must name a text file with one sentence per line."),
        (pretrain_language_model, "output_dir", "`--output_dir` must name a new or empty folder."),
        (text_autoencoding, "text_model_name_or_path", "`--text_model_name_or_path` is required."),
        (text_autoencoding, "text_file", "`--text_file` or `--dataset` must name the text to learn from."),
        (evaluate_model, "model", "`--model` must name a trained model."),
        (evaluate_model, "output_dir", "`--output_dir` must name a new or empty folder."),
    ],
)
def test_required_arguments(command, without, expected, capsys):
    types = TYPES_OF_COMMAND[command]
    given = {name: value for name, value in REQUIRED[types].items() if name != without}
    assert error_of(command.main, flags(**given), capsys) == expected


def test_translate_needs_a_model_and_a_video(capsys):
    for argv in ([], ["clip.mp4"]):
        with pytest.raises(SystemExit) as exit_:
            translate.main(argv)
        assert exit_.value.code == 2
        *_, last = capsys.readouterr().err.strip().splitlines()
        assert "the following arguments are required: " in last and "--model" in last
    expected = "Name either videos, or by --dataset a data set of them."
    for argv in ([], ["clip.mp4", "--dataset", "corpus"]):
        assert error_of(translate.main, ["--model", "m", *argv], capsys) == expected


@pytest.mark.parametrize("flag", ["--start 1", "--end 2", "--long", "--srt", "--vtt"])
def test_of_a_data_set_clips_are_translated_as_they_are(flag, capsys):
    expected = (
        f"{flag.split()[0]} is for video files: the rows of a data set say what each of its clips is, a sentence."
    )
    argv = ["--model", "m", "--dataset", "corpus", *flag.split()]
    assert error_of(translate.main, argv, capsys) == expected


def test_output_folder_that_is_in_use(tmp_path):
    (tmp_path / "notes.txt").write_text("mine", encoding="utf-8")
    arguments = FLaLLMTrainingArguments(output_dir=str(tmp_path), use_cpu=True)
    with pytest.raises(ValueError) as error:
        check_run(arguments)
    assert str(error.value) == (
        f"--output_dir {tmp_path} is not empty. Name a new folder, or remove this one. To resume the run that "
        "wrote it, pass --resume_from_checkpoint auto."
    )
    with pytest.raises(ValueError) as error:
        check_new_folder(tmp_path / "notes.txt")
    assert str(error.value) == f"--output_dir {tmp_path / 'notes.txt'} is a file. Name a new or empty folder."
    (tmp_path / "notes.txt").unlink()
    check_new_folder(tmp_path)
    check_new_folder(tmp_path / "new")
    assert not (tmp_path / "new").exists()


@pytest.mark.parametrize("command", TYPES_OF_COMMAND)
def test_every_command_leaves_a_folder_in_use_alone(command, tmp_path, capsys):
    types = TYPES_OF_COMMAND[command]
    (tmp_path / "notes.txt").write_text("mine", encoding="utf-8")
    on_a_cpu = {"use_cpu": True} if command in TRAINING_COMMANDS else {"device": "cpu"}
    argv = flags(**{**REQUIRED[types], "output_dir": tmp_path}, **on_a_cpu)
    assert error_of(command.main, argv, capsys).startswith(f"--output_dir {tmp_path} is not empty. Name a new folder")
    argv = flags(**{**REQUIRED[types], "output_dir": tmp_path / "notes.txt"}, **on_a_cpu)
    assert error_of(command.main, argv, capsys) == (
        f"--output_dir {tmp_path / 'notes.txt'} is a file. Name a new or empty folder."
    )
    assert [path.name for path in tmp_path.iterdir()] == ["notes.txt"]


def test_early_stopping_without_evaluation(capsys):
    argv = flags(
        **REQUIRED[STAGE1], early_stopping_patience=2, eval_strategy="no", load_best_model_at_end=False, use_cpu=True
    )
    assert error_of(visual_initialing.main, argv, capsys) == (
        "--early_stopping_patience needs evaluations: set --eval_strategy to steps or epoch."
    )


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        (
            {"dataset": ["a", "b"], "dataset_weights": [1, 2, 3]},
            "--dataset_weights must be one number for each data set, got 3 for 2 data set(s).",
        ),
        (
            {"dataset": ["a", "b"], "dataset_weights": [1, 0]},
            "--dataset_weights must be above 0, got 0.0. Leave out data sets you do not want.",
        ),
        (
            {"dataset": ["a", "b"], "dataset_weights": ["nan", 1]},
            "--dataset_weights must be above 0, got nan. Leave out data sets you do not want.",
        ),
        ({"max_frames_per_batch": 0}, "--max_frames_per_batch must be 1 or more, got 0."),
    ],
)
def test_mistaken_mixtures_and_budgets(values, expected, capsys):
    argv = flags(**{**REQUIRED[STAGE1], **values}, use_cpu=True)
    assert error_of(visual_initialing.main, argv, capsys) == expected


def test_several_data_sets_in_a_yaml_file(tmp_path):
    path = tmp_path / "run.yaml"
    path.write_text("dataset: [a, b/c]\ndataset_weights: [2, 0.5]\n", encoding="utf-8")
    given = {name: value for name, value in REQUIRED[STAGE1].items() if name != "dataset"}
    instances = parse_arguments(STAGE1, ["--config", str(path), *flags(**given, use_cpu=True)], "Several.")
    (data,) = [instance for instance in instances if isinstance(instance, DataArguments)]
    assert data.dataset == ["a", "b/c"] and data.dataset_weights == [2, 0.5]
    assert DataArguments(dataset="a") == DataArguments(dataset=["a"])


@pytest.mark.parametrize("name", preset_names())
def test_every_preset_is_taken_by_the_command_that_its_name_ends_in(name):
    (kind,) = [kind for kind in TYPES_OF_PRESET if name.endswith(kind)]
    types = TYPES_OF_PRESET[kind]
    instances = parse_arguments(types, ["--config", name, *flags(**REQUIRED[types], use_cpu=True)], "A preset.")
    parsed = {key: value for instance in instances for key, value in vars(instance).items()}
    settings = yaml.safe_load((CONFIG_FOLDER / f"{name}.yaml").read_text(encoding="utf-8"))
    assert settings
    for key, value in settings.items():
        if not isinstance(value, list | dict | None | bool) and key not in ("warmup_steps",):
            assert type(parsed[key])(value) == parsed[key], key


def test_defaults_of_training_fit_each_other():
    """The best model can only be loaded if it is saved whenever it is scored, and its score is logged."""
    training = FLaLLMTrainingArguments(output_dir="o", use_cpu=True)
    assert training.load_best_model_at_end and training.predict_with_generate
    assert training.eval_strategy == training.save_strategy != "no"
    assert training.metric_for_best_model in TITLE_OF_SCORE and training.greater_is_better
    assert [name for name in training.report_to if importlib.util.find_spec(name) is None] == []
    assert training.dataloader_pin_memory == torch.accelerator.is_available()
    assert not FLaLLMTrainingArguments(output_dir="o", use_cpu=True, metric_for_best_model="loss").greater_is_better


@pytest.mark.parametrize(
    ("name", "value", "allowed"),
    [
        ("translation", 4, "from 0 to 1, got 4.0."),
        ("translation", -0.1, "from 0 to 1, got -0.1."),
        ("translation", "nan", "from 0 to 1, got nan."),
        ("rotation_degrees", 360, "from 0 to 180, got 360.0."),
        ("brightness", -1, "0 or more, got -1.0."),
        ("contrast", "inf", "0 or more, got inf."),
        ("speed", 1, "0 or more and below 1, got 1.0."),
        ("frame_drop", 1.5, "from 0 to 1, got 1.5."),
        ("horizontal_flip", 2, "from 0 to 1, got 2.0."),
        ("frame_sampling_rate", 0, "above 0 and at most 1, got 0.0."),
        ("frame_sampling_rate", 25, "above 0 and at most 1, got 25.0."),
        ("max_num_frames", 0, "1 or more, got 0."),
        ("crop_size", 0, "1 or more, got 0."),
        ("num_beams", 10**6, "from 1 to 100, got 1000000."),
        ("num_beams", 0, "from 1 to 100, got 0."),
        ("num_beams", -1, "from 1 to 100, got -1."),
        ("generation_num_beams", 10**6, "from 1 to 100, got 1000000."),
        ("generation_max_length", 10**9, "from 2 to 10000, got 1000000000."),
        ("generation_max_length", 0, "from 2 to 10000, got 0."),
        ("learning_rate", -1e-4, "0 or more, got -0.0001."),
        ("learning_rate", "nan", "0 or more, got nan."),
        ("num_train_epochs", -1, "above 0, got -1.0."),
        ("per_device_train_batch_size", 0, "1 or more, got 0."),
        ("gradient_accumulation_steps", 0, "1 or more, got 0."),
        ("seed", -1, "from 0 to 4294967295, got -1."),
        ("label_smoothing", 1, "0 or more and below 1, got 1.0."),
        ("light_attention_heads", 0, "1 or more, got 0."),
        ("light_dropout", -0.5, "0 or more and below 1, got -0.5."),
        ("dataloader_num_workers", -1, "0 or more, got -1."),
        ("eval_strategy", "sometimes", "one of no, steps, epoch, got 'sometimes'."),
        ("save_strategy", "sometimes", "one of no, steps, epoch, best, got 'sometimes'."),
    ],
)
@pytest.mark.parametrize("form", ["flag", "flag=value", "yaml"])
def test_every_value_out_of_range_names_its_flag(name, value, allowed, form, tmp_path, capsys):
    argv = flags(**REQUIRED[STAGE1], use_cpu=True)
    if form == "yaml":
        (tmp_path / "run.yaml").write_text(f"{name}: {'.' * (value in ('nan', 'inf'))}{value}\n", encoding="utf-8")
        argv += ["--config", str(tmp_path / "run.yaml")]
    else:
        argv += [f"--{name}", str(value)] if form == "flag" else [f"--{name}={value}"]
    assert error_of(visual_initialing.main, argv, capsys) == f"--{name} must be {allowed}"


@pytest.mark.parametrize("name", ["lr_scheduler_type", "optim", "logging_strategy", "hub_strategy"])
def test_unknown_choices_of_the_trainer_name_their_flag(name, capsys):
    error = error_of(visual_initialing.main, flags(**{**REQUIRED[STAGE1], name: "wild"}, use_cpu=True), capsys)
    # argparse knows the choices of some of them
    assert error.startswith((f"--{name} must be one of ", f"argument --{name}")) and "'wild'" in error


def test_every_range_is_of_a_flag_that_some_command_has():
    types = {type_ for types in (*REQUIRED, *OTHER_TYPES) for type_ in types}
    known = {field.name: field.default for type_ in types for field in dataclasses.fields(type_)}
    of_argparse = {"start", "end", "num_beams", "batch_size", "num_threads", "num_workers", "num_processes"}
    of_argparse |= {"num_resamples"}
    assert set(RANGES) - set(known) - of_argparse == set()
    assert set(CHOICES) - set(known) == set()
    numbers = {name: value for name, value in known.items() if isinstance(value, int | float) and name in RANGES}
    assert [name for name, value in numbers.items() if value not in RANGES[name]] == []


def test_a_crop_larger_than_the_frame(capsys):
    argv = flags(**REQUIRED[STAGE1], frame_size=200, crop_size=224, use_cpu=True)
    assert error_of(visual_initialing.main, argv, capsys) == (
        "--crop_size must be at most --frame_size, got 224 of 200 pixels."
    )


def test_no_is_a_word_in_yaml(tmp_path):
    """YAML 1.1 reads it as a boolean, and a run that evaluates nevertheless would not warn."""
    path = tmp_path / "run.yaml"
    path.write_text(
        "eval_strategy: no\nsave_strategy: no\nload_best_model_at_end: false\nspoken_language: no\nrandom_crop: no\n"
        "frame_jitter: True\n",
        encoding="utf-8",
    )
    instances = parse_arguments(STAGE1, ["--config", str(path), *flags(**REQUIRED[STAGE1], use_cpu=True)], "A run.")
    values = {key: value for instance in instances for key, value in vars(instance).items()}
    assert values["eval_strategy"] == values["save_strategy"] == "no"
    assert (values["spoken_language"], values["load_best_model_at_end"]) == ("no", False)
    assert (values["random_crop"], values["frame_jitter"]) == (False, True)


@pytest.mark.parametrize(
    ("argv", "expected"),
    [
        (["--learning_rat", "1"], "unknown flag 'learning_rat'. Did you mean 'learning_rate'?"),
        (["--learning_rat=1"], "unknown flag 'learning_rat'. Did you mean 'learning_rate'?"),
        (["--learning_rate", "fast"], "argument --learning_rate: invalid float value: 'fast'"),
        (["--max_num_frames=2.5"], "argument --max_num_frames: invalid int value: '2.5'"),
        (["--num_beams", ""], "argument --num_beams: invalid int value: ''"),
    ],
)
def test_unknown_and_mistyped_flags(argv, expected, capsys):
    assert error_of(visual_initialing.main, [*flags(**REQUIRED[STAGE1], use_cpu=True), *argv], capsys) == expected
