"""A tiny generated corpus and tiny trained folders, made once per run of the tests. Tests must not change them."""

import csv
import json
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any
from unittest import mock

import pytest
import torch
from random_inputs import built_once, seed_of_run
from tiny_models import tiny_text_config
from transformers import AutoModelForSeq2SeqLM, AutoTokenizer, PreTrainedTokenizerBase

from modeling_flallm import FLaLLMForTranslation
from processing import FLaLLMProcessor
from train_scripts.arguments.data_arguments import VideoArguments
from train_scripts.commands.generate_corpus import CorpusArguments, generate_corpus
from train_scripts.rendered_corpus import signers
from train_scripts.stages import (
    linguistic_pretraining,
    llm_fine_tuning,
    pretrain_language_model,
    visual_contrastive_pretraining,
    visual_initialing,
    visual_language_tuning,
)

FOLDER = tempfile.TemporaryDirectory(prefix="flallm-tiny-corpus-")
NUM_CLIPS = {"train": 12, "dev": 6, "test": 6}
SIZE_IN_PIXELS = 32


def flags(**values: Any) -> list[str]:
    """`flags(lora=True, temporal_blocks=["K5", "P2"])` -> `["--lora", "True", "--temporal_blocks", "K5", "P2"]`"""
    texts: list[str] = []
    for name, value in values.items():
        texts += [f"--{name}", *map(str, value if isinstance(value, list | tuple) else [value])]
    return texts


RUN = {
    "per_device_train_batch_size": 4,
    "per_device_eval_batch_size": 6,
    "logging_steps": 1,
    "generation_max_length": 12,
    "use_cpu": True,
    "bf16": False,  # otherwise it would depend on the machine, and the tests' tolerances with it
    "disable_tqdm": True,
    "report_to": "none",
    "optim": "adamw_torch",
}
ADAPTER = {"adapter_hidden_size": 20, "num_beams": 2, "frame_size": 36, "crop_size": SIZE_IN_PIXELS}
LIGHT_TRANSFORMER = {
    "backbone_width": 8,
    "visual_hidden_size": 24,
    "light_hidden_size": 16,
    "light_feed_forward_size": 24,
    "light_layers": 1,
    "light_attention_heads": 2,
}
VIDEO = {"frame_size": 36, "crop_size": SIZE_IN_PIXELS}
VISUAL_ENCODER = {
    "backbone_width": 8,
    "visual_hidden_size": 24,
    "word_window_size": 4,
    "word_hidden_size": 24,
    "word_layers": 1,
    "word_attention_heads": 2,
    "word_feed_forward_size": 32,
}
WITHOUT_EVALUATION = {"eval_strategy": "no", "save_strategy": "no", "load_best_model_at_end": False}
FAST = {"learning_rate": 0.02, "word_presence_loss_weight": 1.0}


@built_once
def corpus() -> Path:
    """All clips have 25 frames per second, so that tests can count frames."""
    folder = Path(FOLDER.name) / "corpus"
    with mock.patch.object(signers, "FRAME_RATES", (25,)):
        generate_corpus(
            CorpusArguments(
                output_dir=str(folder),
                seed=seed_of_run(),
                **{f"num_{split}_clips": count for split, count in NUM_CLIPS.items()},
                num_signs=16,
                resolution=SIZE_IN_PIXELS,
                num_text_only_sentences=60,
                num_workers=1,
            )
        )
    return folder


@built_once
def text_of_language_model() -> Path:
    """File of the sentences for text alone and of all splits: it has every character of the corpus."""
    tables = [path.read_text(encoding="utf-8").splitlines() for path in sorted(corpus().glob("*/metadata.csv"))]
    lines = (corpus() / "text_only.txt").read_text(encoding="utf-8").splitlines()
    lines += [row["text"] for table in tables for row in csv.DictReader(table)]
    path = Path(FOLDER.name) / "text_of_language_model.txt"
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")
    return path


@built_once
def language_model() -> Path:
    """Folder of a tokenizer and a text model, pretrained for a few steps."""
    folder = Path(FOLDER.name) / "language_model"
    sizes = {"hidden_size": 32, "feed_forward_size": 48, "layers": 1, "attention_heads": 2, "dropout": 0.0}
    run = {name: RUN[name] for name in ("use_cpu", "bf16", "disable_tqdm", "report_to", "optim")}
    pretrain_language_model.train(flags(text_file=text_of_language_model(), output_dir=folder, **sizes, **run))
    return folder


def stage1_flags(output_dir: Path, **values: Any) -> list[str]:
    defaults = {"dataset": corpus(), "tokenizer_name_or_path": language_model(), "output_dir": output_dir}
    return flags(**{**defaults, **RUN, **ADAPTER, **LIGHT_TRANSFORMER, **values})


def stage2_flags(output_dir: Path, **values: Any) -> list[str]:
    defaults = {
        "dataset": corpus(),
        "vision_model_name_or_path": trained_model(),
        "text_model_name_or_path": language_model(),
        "output_dir": output_dir,
    }
    return flags(**{**defaults, **RUN, **ADAPTER, **values})


@built_once
def trained_model() -> Path:
    """
    A folder like the output of stage 1, but with large random weights in the text model: it writes a different sentence
    for each clip, as a few steps of training would not.
    """
    folder = Path(FOLDER.name) / "trained_model"
    arguments = visual_initialing.VisualInitialingArguments(
        tokenizer_name_or_path=str(language_model()), adapter_hidden_size=20, num_beams=2, **LIGHT_TRANSFORMER
    )
    model, processor = visual_initialing.build_model(arguments, VideoArguments(frame_size=36, crop_size=SIZE_IN_PIXELS))
    save_talkative(model, processor, folder)
    return folder


def save_talkative(model: torch.nn.Module, processor: FLaLLMProcessor, folder: Path) -> None:
    make_seeing(model, processor, "test")
    model.save_pretrained(folder)
    processor.save_pretrained(folder)


def make_seeing(model: torch.nn.Module, processor: FLaLLMProcessor, split: str) -> None:
    """As `make_talkative`, with three different sentences for the clips of a split, or more."""
    inputs = processor(videos=[str(path) for path in sorted((corpus() / split).glob("*.mp4"))], return_tensors="pt")
    sentences: set[str] = set()
    while len(sentences) < 3:
        make_talkative(model, processor.tokenizer)
        sentences = set(processor.batch_decode(model.eval().generate(**inputs)))


def make_talkative(model: torch.nn.Module, tokenizer: PreTrainedTokenizerBase) -> None:
    """Large weights, and sentences of six to twelve visible tokens."""
    for name, parameter in model.named_parameters():
        if parameter.ndim == 2 and not name.startswith("vision_model."):
            torch.nn.init.normal_(parameter, std=0.5)
    model.generation_config.max_length = 12
    model.generation_config.min_length = 6
    ends = model.generation_config.eos_token_id
    needed = {*(ends if isinstance(ends, list) else [ends]), model.generation_config.forced_bos_token_id}
    texts = tokenizer.batch_decode([[token_id] for token_id in range(len(tokenizer))], skip_special_tokens=True)
    unseen = {token_id for token_id, text in enumerate(texts) if not text.strip()}
    model.generation_config.suppress_tokens = sorted(unseen - needed)


def build_stage1(tokenizer: Path, **values):
    arguments = visual_initialing.VisualInitialingArguments(
        tokenizer_name_or_path=str(tokenizer), **LIGHT_TRANSFORMER, **values
    )
    return visual_initialing.build_model(arguments, VideoArguments())


def build_stage2(**values):
    arguments = llm_fine_tuning.LLMFineTuningArguments(
        vision_model_name_or_path=str(trained_model()), text_model_name_or_path=str(language_model()), **values
    )
    return llm_fine_tuning.build_model(arguments, VideoArguments())


def save_text_model(folder: Path, kind: str, tokenizer=None) -> Path:
    tokenizer = tokenizer or AutoTokenizer.from_pretrained(language_model())
    start = {"mbart": tokenizer.eos_token_id, "bart": tokenizer.eos_token_id, "m2m_100": tokenizer.eos_token_id}
    config = tiny_text_config(
        kind,
        vocab_size=len(tokenizer) + 128,  # M2M100's tokenizer does not count its languages
        pad_token_id=tokenizer.pad_token_id,
        eos_token_id=tokenizer.eos_token_id,
        decoder_start_token_id=start.get(kind, tokenizer.pad_token_id),
    )
    if kind in ("mbart", "bart", "m2m_100"):
        config.bos_token_id, config.forced_eos_token_id = tokenizer.bos_token_id, None
    AutoModelForSeq2SeqLM.from_config(config).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


@built_once
def causal_language_model() -> Path:
    """The output of stage 1 of LLaVA-SLT after a few steps."""
    folder = Path(FOLDER.name) / "causal_language_model"
    sizes = {"hidden_size": 32, "feed_forward_size": 48, "layers": 1, "attention_heads": 2, "max_vocabulary_size": 200}
    run = {name: RUN[name] for name in ("use_cpu", "bf16", "disable_tqdm", "report_to", "optim")}
    text_file = text_of_language_model()
    linguistic_pretraining.train(
        flags(text_file=text_file, output_dir=folder, block_size=64, max_steps=3, **sizes, **run, **WITHOUT_EVALUATION)
    )
    return folder


def contrastive_flags(output_dir: Path, **values: Any) -> list[str]:
    defaults = {"dataset": corpus(), "text_model_name_or_path": causal_language_model(), "output_dir": output_dir}
    return flags(**{**defaults, **RUN, **VIDEO, **VISUAL_ENCODER, **values})


def tuning_flags(output_dir: Path, **values: Any) -> list[str]:
    defaults = {
        "dataset": corpus(),
        "vision_model_name_or_path": contrastive_model(),
        "text_model_name_or_path": causal_language_model(),
        "output_dir": output_dir,
        "num_beams": 2,
    }
    return flags(**{**defaults, **RUN, **VIDEO, **values})


@built_once
def contrastive_model() -> Path:
    """The output of stage 2 of LLaVA-SLT after two steps."""
    folder = Path(FOLDER.name) / "contrastive_model"
    visual_contrastive_pretraining.train(contrastive_flags(folder, max_steps=2, **WITHOUT_EVALUATION))
    return folder


@built_once
def trained_llava_slt() -> Path:
    """Like `trained_model`, for stage 3 of LLaVA-SLT: it writes a different sentence for each clip."""
    folder = Path(FOLDER.name) / "trained_llava_slt"
    arguments = visual_language_tuning.VisualLanguageTuningArguments(
        vision_model_name_or_path=str(contrastive_model()),
        text_model_name_or_path=str(causal_language_model()),
        num_beams=2,
    )
    model, processor = visual_language_tuning.build_model(arguments, VideoArguments(**VIDEO))
    save_talkative(model, processor, folder)
    return folder


def copy_of_weights(model: torch.nn.Module) -> dict[str, torch.Tensor]:
    """Parameters and buffers by name."""
    return {name: value.detach().clone() for name, value in model.state_dict().items()}


def load(folder: Path) -> tuple[FLaLLMForTranslation, FLaLLMProcessor]:
    model, information = FLaLLMForTranslation.from_pretrained(folder, output_loading_info=True)
    assert not information["missing_keys"] and not information["unexpected_keys"]
    return model.eval(), FLaLLMProcessor.from_pretrained(folder)


def moved(before: dict[str, torch.Tensor], after: dict[str, torch.Tensor]) -> set[str]:
    return {name for name, value in before.items() if not torch.equal(value, after[name])}


def log_of(folder: Path, name: str) -> list[float]:
    history = json.loads((folder / "trainer_state.json").read_text(encoding="utf-8"))["log_history"]
    return [row[name] for row in history if name in row]


def error_of(main: Any, argv: Sequence[str], capsys: pytest.CaptureFixture[str]) -> str:
    """The error of a command that must fail with status 2: its last line on stderr, without a traceback."""
    capsys.readouterr()
    try:
        status = main(argv)
    except SystemExit as exit_:
        status = exit_.code
    text = capsys.readouterr().err
    assert status == 2, text
    assert "Traceback" not in text and "usage:" not in text
    *_, last = text.strip().splitlines()
    assert last.startswith("error: ")
    return last.removeprefix("error: ")
