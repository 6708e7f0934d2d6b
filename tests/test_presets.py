"""The presets `paper` and `sltbaselines`: a source for every value, the sizes that they name, and two real steps."""

import math
import random
import re
import shutil
from pathlib import Path

import pytest
import torch
from tiny_models import tiny_model, tiny_vision_config
from torch import nn

from modeling_flallm import FLaLLMVisionConfig, FLaLLMVisionModel
from train_scripts import llm_fine_tuning, visual_initialing
from train_scripts.arguments import (
    CONFIG_FOLDER,
    AugmentationArguments,
    DataArguments,
    FLaLLMTrainingArguments,
    VideoArguments,
    parse_arguments,
)
from train_scripts.generate_corpus import CorpusArguments, generate_corpus
from train_scripts.pretrain_language_model import train_tokenizer
from train_scripts.training import FLaLLMTrainer

PRESETS = ("paper", "sltbaselines")
STAGES = {
    "visual_initialing": visual_initialing.VisualInitialingArguments,
    "llm_fine_tuning": llm_fine_tuning.LLMFineTuningArguments,
}
WITHOUT_EVALUATION = ("--eval_strategy", "no", "--load_best_model_at_end", "False")  # the Trainer wants no data then
SOURCE = re.compile(r"paper, section \d\.\d|sltbaselines, [\w./-]+|ours: \w+")
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


@pytest.mark.parametrize("stage", STAGES)
@pytest.mark.parametrize("preset", PRESETS)
def test_every_value_names_its_source(preset, stage):
    lines = (CONFIG_FOLDER / f"{preset}_{stage}.yaml").read_text(encoding="utf-8").splitlines()
    values = [line for line in lines if re.match(r"\w+:", line)]
    assert len(values) > 20
    assert [line for line in values if not SOURCE.search(line.partition("  # ")[2])] == []


def test_paper_visual_initialing_has_the_papers_values(folders):
    stage, _, video, augmentation, training = parse("paper", "visual_initialing", folders)
    assert (stage.backbone, stage.backbone_width, stage.imagenet_weights) == ("resnet18", 64, True)
    assert (stage.temporal_blocks, stage.temporal_padding, stage.temporal_norm) == (["K5"], "zero", "batch_norm")
    assert (stage.visual_hidden_size, stage.adapter_hidden_size, stage.adapter_norm) == (512, 512, False)
    assert (stage.light_layers, stage.light_attention_heads) == (3, 8)
    assert (stage.light_hidden_size, stage.light_feed_forward_size) == (512, 2048)
    assert (stage.label_smoothing, stage.word_presence_loss_weight, stage.num_beams) == (0.2, 0.0, 5)
    assert (video.frame_sampling_rate, video.max_num_frames, video.crop_size) == (0.25, None, 224)
    assert augmentation.horizontal_flip == 0
    assert (training.optim, training.learning_rate, training.lr_scheduler_type) == ("sgd", 1e-2, "cosine")
    assert (training.per_device_train_batch_size, training.num_train_epochs) == (8, 75)


def test_paper_llm_fine_tuning_has_the_papers_values(folders):
    stage, _, video, _, training = parse("paper", "llm_fine_tuning", folders)
    assert (stage.freeze_visual_encoder, stage.lora, stage.text_model_dropout) == (True, False, None)
    assert (stage.adapter_hidden_size, stage.adapter_norm) == (512, False)
    assert (stage.label_smoothing, stage.word_presence_loss_weight, stage.num_beams) == (0.2, 0.0, 5)
    assert (video.frame_sampling_rate, video.max_num_frames, video.crop_size) == (0.25, None, 224)
    assert (training.learning_rate, training.adapter_learning_rate) == (1e-5, 1e-3)
    assert (training.per_device_train_batch_size, training.lr_scheduler_type) == (16, "cosine")


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
    assert (model.generation_config.num_beams, model.generation_config.max_length) == (5, 150)


def test_paper_stage_1_optimizer_is_sgd_with_momentum(folders):
    *_, training = parse("paper", "visual_initialing", folders, *WITHOUT_EVALUATION)
    optimizer = optimizer_of(tiny_model("mbart"), training)
    assert type(optimizer) is torch.optim.SGD
    for group in optimizer.param_groups:
        assert (group["momentum"], group["nesterov"], group["lr"], group["weight_decay"]) == (0.9, False, 1e-2, 0.0)


def test_paper_stage_2_optimizer_is_adam_with_two_learning_rates(folders):
    stage, _, video, _, training = parse("paper", "llm_fine_tuning", folders, *WITHOUT_EVALUATION)
    model, _ = llm_fine_tuning.build_model(stage, video)
    settings = settings_by_parameter(model, optimizer := optimizer_of(model, training))
    assert type(optimizer) is torch.optim.AdamW
    assert {name.split(".")[0] for name in settings} == {"adapter", "text_model"}
    for name, (learning_rate, weight_decay) in settings.items():
        assert (learning_rate, weight_decay) == (1e-3 if name.startswith("adapter") else 1e-5, 0.0), name


def test_sltbaselines_visual_initialing_has_its_values(folders):
    stage, _, video, augmentation, training = parse("sltbaselines", "visual_initialing", folders)
    assert (stage.light_hidden_size, stage.light_feed_forward_size) == (1024, 4096)
    assert (stage.light_layers, stage.light_attention_heads, stage.light_dropout) == (3, 8, 0.1)
    assert (stage.label_smoothing, stage.word_presence_loss_weight, stage.num_beams) == (0.2, 0.0, 4)
    assert (video.frame_sampling_rate, video.max_num_frames) == (1.0, 300)
    assert (video.frame_size, video.crop_size, augmentation.random_crop) == (256, 224, True)
    assert augmentation.rotation_degrees == 30
    assert round(augmentation.translation * video.frame_size) == 10
    assert (training.learning_rate, training.weight_decay, training.num_train_epochs) == (1e-3, 1e-3, 80)
    assert (training.per_device_train_batch_size, training.generation_max_length) == (8, 150)


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
    assert shapes == [(512, 1024, (5,), (0,)), (1024, 1024, (5,), (0,))]
    for num_frames in [1, 2, 3, 4, 5, *random.sample(range(6, 301), 20)]:
        assert model.get_num_tokens(num_frames) == math.ceil(num_frames / 4) + 1


def test_sltbaselines_adapter_is_linear_norm_and_relu(folders):
    stage, _, video, _, _ = parse("sltbaselines", "llm_fine_tuning", folders)
    model, _ = llm_fine_tuning.build_model(stage, video)
    adapter = [getattr(model.adapter, name) for name in ("first", "norm", "activation", "second")]
    assert [type(module) for module in adapter] == [nn.Linear, nn.LayerNorm, nn.ReLU, nn.Identity]
    text_hidden_size = model.config.text_config.d_model
    assert model.adapter.first.weight.shape == (text_hidden_size, tiny_vision_config().hidden_size)
    assert (model.config.text_config.dropout, model.generation_config.num_beams) == (0.3, 4)


def test_sltbaselines_stage_2_optimizer_has_three_parts(folders):
    stage, _, video, _, training = parse("sltbaselines", "llm_fine_tuning", folders, *WITHOUT_EVALUATION)
    model, _ = llm_fine_tuning.build_model(stage, video)
    settings = settings_by_parameter(model, optimizer := optimizer_of(model, training))
    assert {(group["momentum"], group["nesterov"]) for group in optimizer.param_groups} == {(0.9, True)}
    assert {name.split(".")[0] for name in settings} == {"adapter", "text_model"}
    matrices = {name for name, parameter in model.named_parameters() if parameter.ndim > 1}
    for name, (learning_rate, weight_decay) in settings.items():
        assert learning_rate == (5e-5 if name.startswith("adapter") else 1e-3), name
        assert weight_decay == (1e-3 if name in matrices else 0.0), name


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
