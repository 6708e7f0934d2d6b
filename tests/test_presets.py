"""
The presets: sources of their values, what two of them must have in common, what the papers say of their models, and two
real steps.
"""

import dataclasses
import math
import random
import re
import shutil
from pathlib import Path

import pytest
import torch
from tiny_models import tiny_model, tiny_vision_config
from torch import nn

from modeling_flallm import FLaLLMConfig, FLaLLMVisionConfig, FLaLLMVisionModel
from modeling_flallm.systems import SYSTEMS
from train_scripts.arguments.corpus_arguments import CorpusArguments
from train_scripts.arguments.data_arguments import AugmentationArguments, DataArguments, VideoArguments
from train_scripts.arguments.dataclass_parser import parse_arguments, preset_names, read_sources, read_yaml
from train_scripts.arguments.training_arguments import FLaLLMTrainingArguments
from train_scripts.commands.generate_corpus import generate_corpus
from train_scripts.runs.tokenizers import train_tokenizer
from train_scripts.runs.trainers import FLaLLMTrainer
from train_scripts.stages import llm_fine_tuning, visual_initialing

PRESETS = ("paper", "sltbaselines")
STAGES = {
    "visual_initialing": visual_initialing.VisualInitialingArguments,
    "llm_fine_tuning": llm_fine_tuning.LLMFineTuningArguments,
}
WITHOUT_EVALUATION = ("--eval_strategy", "no", "--load_best_model_at_end", "False")  # the Trainer wants no data then
SOURCE = re.compile(
    r"paper, (section \d\.\d|abstract)|sltbaselines, [\w./-]+|(SpaMo|Uni-Sign|MMSLT|LD4LG), (paper|code)|ours: \S+"
)
RECIPES = sorted(name for name in preset_names() if not name.startswith("quickstart"))
# Of the stages that read videos, each with the one that goes on from its checkpoint.
STAGES_OF_VIDEOS = [
    (first, second)
    for system in SYSTEMS.values()
    for stage in system.stages
    for second in system.presets
    for first in system.presets
    if stage.vision_stage is not None
    and second.endswith(f"_{stage.name}")
    and first == second.replace(stage.name, stage.vision_stage)
]
# Of mBART's vocabulary, trimmed to the target language of PHOENIX14T by the authors' earlier work, GFSLT-VLP.
PHOENIX14T_VOCABULARY_SIZE = 2454


@pytest.fixture(scope="module")
def folders(tmp_path_factory) -> dict[str, Path]:
    """What the commands take: a tiny stage-1 checkpoint and a tiny language model with its tokenizer."""
    root = tmp_path_factory.mktemp("presets")
    tokenizer = train_tokenizer(["am tag regnet es", "morgen scheint die sonne"], max_vocabulary_size=40)
    model = tiny_model("mbart")
    model.save_pretrained(root / "stage1")
    model.text_model.save_pretrained(root / "language_model")
    tokenizer.save_pretrained(root / "language_model")
    return {"root": root, "stage1": root / "stage1", "language_model": root / "language_model"}


def parse(preset: str, stage: str, folders: dict[str, Path], *flags: str):
    """-> stage, data, video, augmentation and training arguments of `<preset>_<stage>`."""
    inputs = {
        "visual_initialing": {"tokenizer_name_or_path": folders["language_model"]},
        "llm_fine_tuning": {
            "vision_model_name_or_path": folders["stage1"],
            "text_model_name_or_path": folders["language_model"],
        },
    }[stage]
    needed = {"config": f"{preset}_{stage}", "dataset": "corpus", "output_dir": folders["root"] / "new", **inputs}
    argv = [text for name, value in needed.items() for text in (f"--{name}", str(value))]
    types = (STAGES[stage], DataArguments, VideoArguments, AugmentationArguments, FLaLLMTrainingArguments)
    return parse_arguments(types, [*argv, *flags], description="")


def optimizer_of(model: nn.Module, training: FLaLLMTrainingArguments) -> torch.optim.Optimizer:
    return FLaLLMTrainer(model=model, args=training).create_optimizer()


def settings_by_parameter(model: nn.Module, optimizer: torch.optim.Optimizer) -> dict[str, tuple[float, float]]:
    """-> (learning rate, weight decay) of every trained parameter by its name."""
    name_of = {id(parameter): name for name, parameter in model.named_parameters()}
    return {
        name_of[id(parameter)]: (group["lr"], group["weight_decay"])
        for group in optimizer.param_groups
        for parameter in group["params"]
    }


# ------------------------------------------------------------------------------------------ all presets


@pytest.mark.parametrize("preset", RECIPES)
def test_every_value_names_its_source(preset):
    sources = read_sources(preset)
    assert list(sources) == list(read_yaml(preset))
    assert {name: source for name, source in sources.items() if not SOURCE.match(source)} == {}


@pytest.mark.parametrize(("first", "second"), STAGES_OF_VIDEOS, ids=lambda preset: preset)
def test_the_next_stage_sees_what_the_visual_encoder_was_trained_on(first, second):
    """With another sampling rate or size, the frozen encoder would see unfamiliar inputs."""
    pixels = [field.name for field in dataclasses.fields(VideoArguments)]
    defaults = vars(VideoArguments())
    one, other = ({name: read_yaml(preset).get(name, defaults[name]) for name in pixels} for preset in (first, second))
    assert one == other


@pytest.mark.parametrize("recipe", [*PRESETS, "quickstart"])
def test_both_adapters_of_a_recipe_are_built_alike(recipe):
    first, second = (read_yaml(f"{recipe}_{stage}") for stage in STAGES)
    names = {name for name in first.keys() | second.keys() if name.startswith("adapter_")} - {"adapter_learning_rate"}
    assert names and {name: first.get(name) for name in names} == {name: second.get(name) for name in names}


@pytest.mark.parametrize("preset", RECIPES)
def test_a_value_that_is_said_to_be_of_another_recipe_is_that(preset):
    stages = {stage for stage in STAGES if preset.endswith(stage)} or set(STAGES)
    for recipe, name_of_recipe in (("paper", "FLa-LLM"), ("sltbaselines", "sltbaselines")):
        for name, source in read_sources(preset).items():
            if re.search(rf"; as {name_of_recipe}\b", source):
                theirs = [read_yaml(f"{recipe}_{stage}") for stage in sorted(stages)]
                assert read_yaml(preset)[name] in [values[name] for values in theirs if name in values], name


# ------------------------------------------------------------------------------------------ paper and sltbaselines


def test_light_transformer_of_the_paper_has_25_6_million_parameters(folders):
    """With the word matrix counted at the input and at the output; mBART's tie makes it one of 24.4 million."""
    stage, _, video, _, _ = parse("paper", "visual_initialing", folders, "--imagenet_weights", "False")
    model, _ = visual_initialing.build_model(stage, video)
    light_transformer = model.text_model
    light_transformer.resize_token_embeddings(PHOENIX14T_VOCABULARY_SIZE)
    words = light_transformer.get_output_embeddings().weight
    assert words.shape == (PHOENIX14T_VOCABULARY_SIZE, 512)
    assert words is light_transformer.get_input_embeddings().weight
    assert round(light_transformer.num_parameters() / 1e6, 1) == 24.4
    assert round((light_transformer.num_parameters() + words.numel()) / 1e6, 1) == 25.6


def test_a_configuration_without_values_is_that_of_the_paper(folders):
    """Both name its sizes: the preset with a source for each, the configuration for those who build a model alone."""
    stage, _, video, _, _ = parse("paper", "visual_initialing", folders, "--imagenet_weights", "False")
    config, default = visual_initialing.build_model(stage, video)[0].config.to_dict(), FLaLLMConfig().to_dict()
    for values in (config, default):
        del values["vision_config"]["dtype"]  # of the weights, where there are some
    assert config["vision_config"] == default["vision_config"]
    of_tokenizer = {name for name in config["text_config"] if "token" in name or "vocab" in name}
    differing = {name for name in config["text_config"] if config["text_config"][name] != default["text_config"][name]}
    # The paper names no activation: the command takes that of sltbaselines, the configuration that of mBART.
    assert differing <= of_tokenizer | {"activation_function", "dtype"}
    losses = [name for name in config if name.startswith(("adapter_", "label_", "word_"))]
    assert len(losses) >= 5 and {name: config[name] for name in losses} == {name: default[name] for name in losses}


def test_paper_model_gives_one_token_per_frame_and_starts_from_imagenet(folders, monkeypatch):
    loaded = []
    monkeypatch.setattr(FLaLLMVisionModel, "load_imagenet_weights", lambda model: loaded.append(model))
    stage, _, video, _, _ = parse("paper", "visual_initialing", folders)
    model, processor = visual_initialing.build_model(stage, video)
    assert loaded == [model.vision_model]
    num_frames = random.randint(1, 500)
    assert model.vision_model.get_num_tokens(num_frames) == num_frames
    assert len(processor.video_processor.sample_frame_indices(4 * num_frames, 25.0)) == num_frames
    adapter = [type(module) for module in (model.adapter.first, model.adapter.activation, model.adapter.second)]
    assert adapter == [nn.Linear, nn.ReLU, nn.Linear]
    assert model.generation_config.num_beams == stage.num_beams > 1


def test_paper_stage_1_optimizer_is_sgd_with_momentum(folders):
    *_, training = parse("paper", "visual_initialing", folders, *WITHOUT_EVALUATION)
    optimizer = optimizer_of(tiny_model("mbart"), training)
    assert type(optimizer) is torch.optim.SGD
    for group in optimizer.param_groups:
        assert (group["lr"], group["weight_decay"]) == (training.learning_rate, training.weight_decay)
        assert f"momentum={group['momentum']}" == training.optim_args and not group["nesterov"]


def test_paper_stage_2_optimizer_is_adam_with_two_learning_rates(folders):
    stage, _, video, _, training = parse("paper", "llm_fine_tuning", folders, *WITHOUT_EVALUATION)
    model, _ = llm_fine_tuning.build_model(stage, video)
    settings = settings_by_parameter(model, optimizer := optimizer_of(model, training))
    assert type(optimizer) is torch.optim.AdamW
    assert {name.split(".")[0] for name in settings} == {"adapter", "text_model"}
    rates = {"adapter": training.adapter_learning_rate, "text_model": training.learning_rate}
    assert rates["adapter"] > rates["text_model"] > 0  # one learns from scratch, the other must not forget
    for name, (learning_rate, weight_decay) in settings.items():
        assert (learning_rate, weight_decay) == (rates[name.split(".")[0]], training.weight_decay), name


@pytest.mark.parametrize("stage", STAGES)
def test_sltbaselines_moves_pictures_by_up_to_ten_pixels(folders, stage):
    """It says so in pixels; our setting is a share of the picture."""
    _, _, video, augmentation, _ = parse("sltbaselines", stage, folders)
    assert round(augmentation.translation * video.frame_size) == 10


def test_sltbaselines_visual_encoder_gives_a_quarter_of_the_frames_and_one_token(folders):
    stage, _, _, _, _ = parse("sltbaselines", "visual_initialing", folders)
    config = FLaLLMVisionConfig(
        backbone=stage.backbone,
        backbone_width=stage.backbone_width,
        hidden_size=stage.visual_hidden_size,
        temporal_blocks=stage.temporal_blocks,
        temporal_padding=stage.temporal_padding,
    )
    model = FLaLLMVisionModel(config)
    convolutions = [module for module in model.modules() if isinstance(module, nn.Conv1d)]
    shapes = [(one.in_channels, one.out_channels, one.kernel_size, one.padding) for one in convolutions]
    width = stage.visual_hidden_size
    assert shapes == [(model.backbone.num_features, width, (5,), (0,)), (width, width, (5,), (0,))]
    for num_frames in [1, 2, 3, 4, 5, *random.sample(range(6, 301), 20)]:
        assert model.get_num_tokens(num_frames) == math.ceil(num_frames / 4) + 1


def test_sltbaselines_adapter_is_linear_norm_and_relu(folders):
    stage, _, video, _, _ = parse("sltbaselines", "llm_fine_tuning", folders)
    model, _ = llm_fine_tuning.build_model(stage, video)
    adapter = [getattr(model.adapter, name) for name in ("first", "norm", "activation", "second")]
    assert [type(module) for module in adapter] == [nn.Linear, nn.LayerNorm, nn.ReLU, nn.Identity]
    text_hidden_size = model.config.text_config.d_model
    assert model.adapter.first.weight.shape == (text_hidden_size, tiny_vision_config().hidden_size)
    assert (model.config.text_config.dropout, model.generation_config.num_beams) == (
        stage.text_model_dropout,
        stage.num_beams,
    )


def test_sltbaselines_stage_2_optimizer_has_three_parts(folders):
    stage, _, video, _, training = parse("sltbaselines", "llm_fine_tuning", folders, *WITHOUT_EVALUATION)
    model, _ = llm_fine_tuning.build_model(stage, video)
    settings = settings_by_parameter(model, optimizer := optimizer_of(model, training))
    arguments = {f"momentum={group['momentum']},nesterov={group['nesterov']}" for group in optimizer.param_groups}
    assert arguments == {training.optim_args}
    assert {name.split(".")[0] for name in settings} == {"adapter", "text_model"}
    assert training.weight_decay > 0 and training.adapter_learning_rate != training.learning_rate
    matrices = {name for name, parameter in model.named_parameters() if parameter.ndim > 1}
    for name, (learning_rate, weight_decay) in settings.items():
        of_adapter = name.startswith("adapter")
        assert learning_rate == (training.adapter_learning_rate if of_adapter else training.learning_rate), name
        assert weight_decay == (training.weight_decay if name in matrices else 0.0), name


@pytest.fixture(scope="module")
def corpus(tmp_path_factory) -> Path:
    sizes = {"num_train_clips": 4, "num_dev_clips": 1, "num_test_clips": 1, "num_text_only_sentences": 1}
    return generate_corpus(
        CorpusArguments(str(tmp_path_factory.mktemp("corpus") / "corpus"), resolution=64, num_workers=1, **sizes)
    )


def train_two_steps_of_paper(folders: dict[str, Path], corpus: Path, output_dir: Path, *flags: str) -> None:
    """Two optimiser steps of two clips each at 224 px, with everything else as the preset has it."""
    values = {
        "config": "paper_visual_initialing",
        "dataset": corpus,
        "tokenizer_name_or_path": folders["language_model"],
        "output_dir": output_dir,
        "imagenet_weights": False,
        "per_device_train_batch_size": 2,
        "max_steps": 2,
        "logging_steps": 1,
        "eval_strategy": "no",
        "save_strategy": "no",
        "load_best_model_at_end": False,
        "generation_max_length": 8,
        "dataloader_num_workers": 0,
        "report_to": "none",
    }
    argv = [text for name, value in values.items() for text in (f"--{name}", str(value))]
    scores = visual_initialing.train([*argv, *flags])
    assert math.isfinite(scores["eval_loss"]) and 0 <= scores["eval_bleu4"] <= 100


@pytest.mark.slow
def test_paper_trains_two_steps_on_cpu(folders, corpus, tmp_path, capsys):
    train_two_steps_of_paper(folders, corpus, tmp_path / "stage1", "--use_cpu", "True")
    losses = [float(loss) for loss in re.findall(r"'loss': '?([\d.]+)", capsys.readouterr().out)]
    assert len(losses) == 2 and all(math.isfinite(loss) and loss > 0 for loss in losses)
    shutil.rmtree(tmp_path / "stage1")  # 140 megabytes


@pytest.mark.gpu
@pytest.mark.slow
@pytest.mark.parametrize("bf16", [False, True])
def test_paper_trains_two_steps_on_a_gpu(folders, corpus, tmp_path, bf16):
    torch.cuda.reset_peak_memory_stats()
    train_two_steps_of_paper(folders, corpus, tmp_path / "stage1", "--bf16", str(bf16))
    assert torch.cuda.max_memory_allocated() > 36e6 * 4  # at least the weights in fp32
    shutil.rmtree(tmp_path / "stage1")
