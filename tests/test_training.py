"""Both stages: what is trained, what is chosen, what is saved, and what a user's mistake looks like."""

import io
import json
import random
import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import sentencepiece
import test_processing
import torch
from accelerate.utils import compare_versions
from peft import PeftModel
from safetensors.torch import load_file
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from test_data import video_folder
from test_distributed_training import TORCHRUN, logged, run_in_two_processes
from tiny_corpus import (
    LIGHT_TRANSFORMER,
    WITHOUT_EVALUATION,
    copy_of_weights,
    corpus,
    error_of,
    language_model,
    make_talkative,
    stage1_flags,
    stage2_flags,
    trained_model,
)
from tiny_models import tiny_text_config
from transformers import AutoModelForSeq2SeqLM, AutoTokenizer, BertConfig, GPT2Config, M2M100Tokenizer
from transformers.trainer_utils import get_last_checkpoint

from modeling_flallm import FLaLLMForTranslation, FLaLLMVisionModel
from processing import FLaLLMProcessor
from train_scripts import llm_fine_tuning, training, visual_initialing
from train_scripts.arguments import FLaLLMTrainingArguments, VideoArguments
from train_scripts.llm_fine_tuning import LLMFineTuningArguments
from train_scripts.samplers import FrameBudgetBatchSampler
from train_scripts.target_languages import set_target_language
from train_scripts.training import load_tokenizer
from train_scripts.visual_initialing import VisualInitialingArguments

FAST = {"learning_rate": 0.02, "word_presence_loss_weight": 1.0}
FAST_TWICE = {**WITHOUT_EVALUATION, "num_train_epochs": 2, "speed": 0.2, "learning_rate": 0.003}
ONE_STEP_AN_EPOCH = {"max_train_clips": 2, "max_evaluation_clips": 1}


def clips_of_split(split: str = "test", count: int = 4) -> list[str]:
    return [str(path) for path in sorted((corpus() / split).glob("*.mp4"))[:count]]


@torch.no_grad()
def translate(model: torch.nn.Module, processor: FLaLLMProcessor) -> list[str]:
    inputs = processor(videos=clips_of_split(), return_tensors="pt")
    return processor.batch_decode(model.eval().generate(**inputs, min_length=5, max_length=12))


@torch.no_grad()
def logits_of(model: torch.nn.Module, processor: FLaLLMProcessor) -> torch.Tensor:
    inputs = processor(videos=clips_of_split(), text=["this is it"] * 4, return_tensors="pt")
    return model.eval()(**inputs).logits


def load(folder: Path) -> tuple[FLaLLMForTranslation, FLaLLMProcessor]:
    model, information = FLaLLMForTranslation.from_pretrained(folder, output_loading_info=True)
    assert not information["missing_keys"] and not information["unexpected_keys"]
    return model.eval(), FLaLLMProcessor.from_pretrained(folder)


def moved(before: dict[str, torch.Tensor], after: dict[str, torch.Tensor]) -> set[str]:
    return {name for name, value in before.items() if not torch.equal(value, after[name])}


def log_of(folder: Path, name: str) -> list[float]:
    history = json.loads((folder / "trainer_state.json").read_text(encoding="utf-8"))["log_history"]
    return [row[name] for row in history if name in row]


# What is trained


@pytest.fixture
def trainers(monkeypatch: pytest.MonkeyPatch) -> list[training.FLaLLMTrainer]:
    """The Trainers of the commands that a test runs, each with the weights and buffers that it started from."""
    made: list[training.FLaLLMTrainer] = []

    class RecordedTrainer(training.FLaLLMTrainer):
        def __init__(self, *arguments: Any, **named_arguments: Any):
            super().__init__(*arguments, **named_arguments)
            self.weights_before = copy_of_weights(self.model)
            made.append(self)

    monkeypatch.setattr(training, "FLaLLMTrainer", RecordedTrainer)
    return made


def test_two_steps_of_stage_1_train_every_parameter(trainers, tmp_path):
    visual_initialing.train(stage1_flags(tmp_path / "run", max_steps=2, **WITHOUT_EVALUATION, **FAST))
    (trainer,) = trainers
    names = {name for name, parameter in trainer.model.named_parameters() if parameter.requires_grad}
    assert names == dict(trainer.model.named_parameters()).keys()
    assert {name.split(".")[0] for name in names} == {"vision_model", "adapter", "text_model", "word_presence_head"}
    after = copy_of_weights(trainer.model)
    assert names <= moved(trainer.weights_before, after)
    assert "vision_model.backbone.bn1.running_mean" in moved(trainer.weights_before, after)


def test_stage_2_leaves_the_visual_encoder_as_stage_1_did(trainers, tmp_path):
    llm_fine_tuning.train(stage2_flags(tmp_path / "run", max_steps=3, **WITHOUT_EVALUATION, **FAST))
    (trainer,) = trainers
    stage1, final = load_file(trained_model() / "model.safetensors"), load_file(tmp_path / "run" / "model.safetensors")
    encoder = {name for name in final if name.startswith("vision_model.")}
    assert encoder and any(name.endswith("running_var") for name in encoder)
    assert encoder == {name for name in stage1 if name.startswith("vision_model.")}
    for name in encoder:
        assert torch.equal(stage1[name], final[name]), name
    trained = {name for name, parameter in trainer.model.named_parameters() if parameter.requires_grad}
    assert trained == {name for name, _ in trainer.model.named_parameters() if not name.startswith("vision_model.")}
    assert trained <= moved(trainer.weights_before, copy_of_weights(trainer.model))
    assert not torch.equal(trainer.weights_before["adapter.first.weight"], stage1["adapter.first.weight"])
    pretrained = AutoModelForSeq2SeqLM.from_pretrained(language_model()).state_dict()
    for name, value in pretrained.items():
        assert torch.equal(trainer.weights_before[f"text_model.{name}"], value), name


def test_stage_2_with_the_visual_encoder_trained(trainers, tmp_path):
    llm_fine_tuning.train(
        stage2_flags(tmp_path / "run", max_steps=2, freeze_visual_encoder=False, **WITHOUT_EVALUATION, **FAST)
    )
    (trainer,) = trainers
    names = {name for name, _ in trainer.model.named_parameters()}
    after = copy_of_weights(trainer.model)
    assert names <= moved(trainer.weights_before, after)
    assert "vision_model.backbone.bn1.running_mean" in moved(trainer.weights_before, after)


@pytest.mark.slow
def test_gradient_accumulation_is_one_large_batch(trainers, tmp_path):
    values = {"optim": "sgd", "learning_rate": 0.1, "max_grad_norm": 1e9, "max_steps": 2, "label_smoothing": 0.1}
    for name, batch_size, accumulation in (("whole", 8, 1), ("split", 4, 2), ("single", 1, 8)):
        sizes = {"per_device_train_batch_size": batch_size, "gradient_accumulation_steps": accumulation}
        llm_fine_tuning.train(
            stage2_flags(
                tmp_path / name, word_presence_loss_weight=0.5, **sizes, **values, **WITHOUT_EVALUATION, speed=0.3
            )
        )
    whole, *others = [copy_of_weights(trainer.model) for trainer in trainers]
    assert moved(trainers[0].weights_before, whole)
    for other in others:
        for name, value in whole.items():
            torch.testing.assert_close(other[name], value, atol=1e-5, rtol=0, msg=name)
    losses = log_of(tmp_path / "whole", "loss")
    assert len(losses) == 2
    for name in ("split", "single"):
        assert log_of(tmp_path / name, "loss") == pytest.approx(losses, rel=1e-4)


# Learning rates


def build_stage2(**values):
    arguments = LLMFineTuningArguments(
        vision_model_name_or_path=str(trained_model()), text_model_name_or_path=str(language_model()), **values
    )
    return llm_fine_tuning.build_model(arguments, VideoArguments())


def build_stage1(tokenizer: Path, **values):
    arguments = VisualInitialingArguments(tokenizer_name_or_path=str(tokenizer), **LIGHT_TRANSFORMER, **values)
    return visual_initialing.build_model(arguments, VideoArguments())


def groups_by_name(model: torch.nn.Module, processor: FLaLLMProcessor, folder: Path, **rates) -> dict[str, tuple]:
    """(learning rate, weight decay) of every parameter that the optimizer has, by name."""
    arguments = FLaLLMTrainingArguments(
        output_dir=str(folder), learning_rate=1e-3, weight_decay=0.01, use_cpu=True, report_to="none", **rates,
        eval_strategy="no", load_best_model_at_end=False, optim="adamw_torch",
    )  # fmt: skip
    optimizer = training.FLaLLMTrainer(model=model, args=arguments, processing_class=processor).create_optimizer()
    names = {id(parameter): name for name, parameter in model.named_parameters()}
    found = [
        (names[id(parameter)], (group["lr"], group["weight_decay"]))
        for group in optimizer.param_groups
        for parameter in group["params"]
    ]
    assert len(found) == len(dict(found))
    assert dict(found).keys() == {name for name, parameter in model.named_parameters() if parameter.requires_grad}
    return dict(found)


def test_learning_rates_of_adapter_biases_and_the_rest(tmp_path):
    model, processor = build_stage2(freeze_visual_encoder=False, adapter_norm=True, word_presence_loss_weight=1.0)
    groups = groups_by_name(model, processor, tmp_path, adapter_learning_rate=2e-2, bias_learning_rate=3e-4)
    for name, (learning_rate, _) in groups.items():
        if name.startswith("adapter."):
            assert learning_rate == 2e-2, name
        elif name.startswith("text_model.") and name.endswith("bias"):
            assert learning_rate == 3e-4, name
        else:
            assert learning_rate == 1e-3, name
    assert {rate for rate, _ in groups.values()} == {1e-3, 2e-2, 3e-4}


def test_without_rates_of_their_own_all_have_one(tmp_path):
    groups = groups_by_name(*build_stage2(), tmp_path)
    assert {rate for rate, _ in groups.values()} == {1e-3}
    assert not any(name.startswith("vision_model") for name in groups)


def test_norms_and_biases_do_not_decay(tmp_path):
    model, processor = build_stage2(freeze_visual_encoder=False, adapter_norm=True)
    groups = groups_by_name(model, processor, tmp_path)
    norms = (torch.nn.LayerNorm, torch.nn.modules.batchnorm._BatchNorm)
    of_norms = {
        f"{prefix}.{name}"
        for prefix, module in model.named_modules()
        if isinstance(module, norms)
        for name, _ in module.named_parameters()
    }
    assert any("bn1" in name for name in of_norms) and any("downsample" in name for name in of_norms)
    for name, (_, weight_decay) in groups.items():
        assert weight_decay == (0.0 if name in of_norms or name.endswith("bias") else 0.01), name


def test_learning_rates_with_lora(tmp_path):
    model, processor = build_stage2(lora=True, lora_rank=2, word_presence_loss_weight=1.0)
    groups = groups_by_name(model, processor, tmp_path, adapter_learning_rate=2e-2, bias_learning_rate=3e-4)
    of_adapter = {name for name in groups if ".adapter." in name}
    of_lora = {name for name in groups if ".lora_" in name}
    of_head = {name for name in groups if "word_presence_head" in name}
    assert of_adapter and of_lora and of_head and of_adapter | of_lora | of_head == groups.keys()
    assert {groups[name][0] for name in of_adapter} == {2e-2}
    assert {groups[name][0] for name in of_lora | of_head} == {1e-3}
    assert all(".text_model." in name for name in of_lora)


# Flags that reach the model


def test_flags_of_stage_1_reach_the_model():
    model, processor = build_stage1(
        language_model(),
        label_smoothing=0.15,
        word_presence_loss_weight=0.7,
        adapter_hidden_size=0,
        adapter_norm=True,
        adapter_activation="gelu",
        temporal_blocks=["K3", "P2"],
        temporal_padding="replicate",
        temporal_norm="layer_norm",
        light_dropout=0.05,
        num_beams=3,
    )
    config = model.config
    assert (config.label_smoothing, config.word_presence_loss_weight) == (0.15, 0.7)
    assert (config.adapter_hidden_size, config.adapter_norm, config.adapter_activation) == (0, True, "gelu")
    assert list(config.vision_config.temporal_blocks) == ["K3", "P2"]
    assert (config.vision_config.temporal_padding, config.vision_config.temporal_norm) == ("replicate", "layer_norm")
    assert (config.vision_config.backbone_width, config.vision_config.hidden_size) == (4, 24)
    text = config.text_config
    assert (text.d_model, text.encoder_layers, text.decoder_layers, text.encoder_attention_heads) == (16, 1, 1, 2)
    assert (text.encoder_ffn_dim, text.decoder_ffn_dim, text.dropout) == (24, 24, 0.05)
    assert text.vocab_size == len(processor.tokenizer)
    assert model.generation_config.num_beams == 3


def test_flags_of_stage_2_reach_the_model():
    model, _ = build_stage2(label_smoothing=0.05, word_presence_loss_weight=2.0, adapter_hidden_size=9, num_beams=7)
    config = model.config
    assert (config.label_smoothing, config.word_presence_loss_weight, config.adapter_hidden_size) == (0.05, 2.0, 9)
    assert model.generation_config.num_beams == 7
    assert model.vision_model.frozen


def test_flags_of_the_video_reach_the_processor():
    video = VideoArguments(frame_sampling_rate=0.5, max_num_frames=40, frame_size=48, crop_size=36)
    processor = training.build_processor(video, AutoTokenizer.from_pretrained(language_model())).video_processor
    assert (processor.frame_sampling_rate, processor.max_num_frames) == (0.5, 40)
    assert dict(processor.size) == {"height": 48, "width": 48}
    assert dict(processor.crop_size) == {"height": 36, "width": 36}


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


@pytest.mark.parametrize("kind", ["mbart", "t5", "m2m_100", "bart"])
def test_dropout_of_the_text_model(kind, tmp_path):
    arguments = LLMFineTuningArguments(
        vision_model_name_or_path=str(trained_model()),
        text_model_name_or_path=str(save_text_model(tmp_path, kind)),
        text_model_dropout=0.9,
    )
    model, _ = llm_fine_tuning.build_model(arguments, VideoArguments())
    ids = torch.randint(5, 20, (1, 6))

    def logits() -> torch.Tensor:
        with torch.no_grad():
            return model.text_model(input_ids=ids, decoder_input_ids=ids).logits

    model.train()
    assert not torch.equal(logits(), logits())
    model.eval()
    assert torch.equal(logits(), logits())
    config = model.config.text_config
    assert (config.dropout_rate if kind == "t5" else config.dropout) == 0.9


# Languages, and generation that starts as training does


def make_m2m100_tokenizer(folder: Path) -> M2M100Tokenizer:
    content = io.BytesIO()
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(test_processing.SENTENCES * 5), model_writer=content, vocab_size=40, minloglevel=2,
        hard_vocab_limit=False, bos_id=-1, eos_id=-1, pad_id=-1,
    )  # fmt: skip
    model = sentencepiece.SentencePieceProcessor(model_proto=content.getvalue())
    pieces = ["<s>", "<pad>", "</s>", "<unk>", *[model.id_to_piece(index) for index in range(model.get_piece_size())]]
    vocabulary = {piece: index for index, piece in enumerate(dict.fromkeys(pieces))}
    (folder / "spm.model").write_bytes(content.getvalue())
    (folder / "vocab.json").write_text(json.dumps(vocabulary), encoding="utf-8")
    return M2M100Tokenizer(str(folder / "vocab.json"), str(folder / "spm.model"), src_lang="en", tgt_lang="de")


MAKE_TOKENIZER: dict[str, Callable] = {
    **{name: lambda _, make=make: make() for name, make in test_processing.TOKENIZERS.items()},
    "m2m_100": make_m2m100_tokenizer,
    "our own": lambda _: AutoTokenizer.from_pretrained(language_model()),
}
LANGUAGE = {"mbart": "fr_XX", "nllb": "fra_Latn", "m2m_100": "fr"}
LANGUAGE_COMES_FIRST = ("nllb", "m2m_100")


@pytest.fixture(params=MAKE_TOKENIZER)
def kind_and_tokenizer(request, tmp_path) -> tuple[str, Path]:
    MAKE_TOKENIZER[request.param](tmp_path).save_pretrained(tmp_path / "tokenizer")
    return request.param, tmp_path / "tokenizer"


def assert_generation_starts_as_training(kind: str, model: FLaLLMForTranslation, processor: FLaLLMProcessor) -> None:
    labels = processor(text=test_processing.SENTENCES)["labels"]
    decoder_input_ids = model.prepare_decoder_input_ids_from_labels(labels)
    settings = model.generation_config
    assert decoder_input_ids[:, 0].tolist() == [settings.decoder_start_token_id] * len(labels)
    features = torch.randn(2, 9, model.config.vision_config.hidden_size)
    generated = model.eval().generate(visual_features=features, min_new_tokens=4, max_new_tokens=6)
    assert generated[:, 0].tolist() == [settings.decoder_start_token_id] * 2
    code = processor.tokenizer.convert_tokens_to_ids(
        {"m2m_100": "__fr__"}.get(kind, LANGUAGE.get(kind, processor.tokenizer.eos_token))
    )
    if kind in LANGUAGE_COMES_FIRST:
        assert settings.forced_bos_token_id == code
        assert generated[:, 1].tolist() == decoder_input_ids[:, 1].tolist() == [code] * 2
    else:
        assert settings.forced_bos_token_id is None
    if kind == "mbart":
        assert settings.decoder_start_token_id == code
    assert settings.eos_token_id == processor.tokenizer.eos_token_id and settings.eos_token_id in labels[0]
    assert settings.pad_token_id == processor.tokenizer.pad_token_id


def test_stage_1_generates_as_it_was_trained(kind_and_tokenizer):
    kind, tokenizer = kind_and_tokenizer
    model, processor = build_stage1(tokenizer, target_language=LANGUAGE.get(kind))
    assert_generation_starts_as_training(kind, model, processor)


@pytest.mark.parametrize(
    ("kind", "text_model"),
    [
        ("mbart", "mbart"),
        ("nllb", "m2m_100"),
        ("m2m_100", "m2m_100"),
        ("t5", "t5"),
        ("t5", "mt5"),
        ("our own", "mbart"),
    ],
)
def test_stage_2_generates_as_it_was_trained(kind, text_model, tmp_path):
    folder = save_text_model(tmp_path / "text_model", text_model, MAKE_TOKENIZER[kind](tmp_path))
    arguments = LLMFineTuningArguments(
        vision_model_name_or_path=str(trained_model()),
        text_model_name_or_path=str(folder),
        target_language=LANGUAGE.get(kind),
    )
    assert_generation_starts_as_training(kind, *llm_fine_tuning.build_model(arguments, VideoArguments()))


def test_target_language_is_written_and_saved(kind_and_tokenizer, tmp_path):
    kind, folder = kind_and_tokenizer
    tokenizer = load_tokenizer(str(folder), LANGUAGE.get(kind))
    if kind in LANGUAGE:
        assert tokenizer.tgt_lang == tokenizer.src_lang == LANGUAGE[kind]
        tokenizer.save_pretrained(tmp_path / "again")
        again = AutoTokenizer.from_pretrained(tmp_path / "again")
        sentence = test_processing.SENTENCES[0]
        assert again(text_target=sentence)["input_ids"] == tokenizer(text_target=sentence)["input_ids"]


@pytest.mark.parametrize("kind", MAKE_TOKENIZER)
def test_mistaken_target_languages(kind, tmp_path):
    tokenizer = MAKE_TOKENIZER[kind](tmp_path)
    if kind not in LANGUAGE:
        set_target_language(tokenizer, None)
        with pytest.raises(ValueError) as error:
            set_target_language(tokenizer, "de_DE")
        assert str(error.value) == "--target_language de_DE: the tokenizer has no languages. Leave it out."
        return
    with pytest.raises(ValueError) as error:
        set_target_language(tokenizer, None)
    assert str(error.value) == (
        "The tokenizer writes several languages: name one with --target_language, for example de_DE (mBART) or "
        "deu_Latn (NLLB)."
    )
    for wrong in ("xx_YY", "rain", "<mask>"):
        with pytest.raises(ValueError) as error:
            set_target_language(tokenizer, wrong)
        text = str(error.value)
        assert text.startswith(f"--target_language {wrong} is none of the tokenizer's languages: ")
        assert LANGUAGE[kind] in re.split(r"[ ,.]+", text)


# What a run leaves


@pytest.fixture(scope="module")
def finished(tmp_path_factory) -> Path:
    """Two epochs of stage 1 with TensorBoard."""
    folder = tmp_path_factory.mktemp("stage1") / "run"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(visual_initialing, "build_model", _talkative(visual_initialing.build_model))
        visual_initialing.train(
            stage1_flags(folder, num_train_epochs=2, report_to="tensorboard", light_dropout=0.1, speed=0.2, **FAST)
        )
    return folder


def _talkative(build: Callable) -> Callable:
    def build_talkative(*arguments):
        model, processor = build(*arguments)
        make_talkative(model, processor.tokenizer)
        return model, processor

    return build_talkative


def test_the_folder_of_stage_1_is_a_whole_model(finished, monkeypatch, trainers, tmp_path):
    monkeypatch.setattr(visual_initialing, "build_model", _talkative(visual_initialing.build_model))
    visual_initialing.train(stage1_flags(tmp_path / "run", max_steps=2, **WITHOUT_EVALUATION, **FAST))
    trained = trainers[0].model
    model, processor = load(tmp_path / "run")
    texts = translate(model, processor)
    assert texts == translate(trained, trainers[0].processing_class) and all(texts)
    for name, value in trained.state_dict().items():
        assert torch.equal(model.state_dict()[name], value), name
    assert dict(processor.video_processor.crop_size) == {"height": 32, "width": 32}


def test_no_pickle_is_left_beside_the_model(finished):
    files = [path for path in finished.rglob("*") if path.is_file() and "checkpoint-" not in str(path)]
    names = {path.name for path in files if path.parent == finished}
    assert {"config.json", "model.safetensors", "generation_config.json", "processor_config.json"} <= names
    assert {"tokenizer.json", "training_arguments.json", "trainer_state.json", "eval_results.json"} <= names
    for path in files:
        assert path.suffix not in (".bin", ".pt", ".pth", ".pkl", ".pickle"), path
        assert path.read_bytes()[:1] != b"\x80" and path.read_bytes()[:2] != b"PK", path
    assert not list(finished.rglob("training_args.bin"))
    arguments = json.loads((finished / "training_arguments.json").read_text(encoding="utf-8"))
    assert arguments["learning_rate"] == FAST["learning_rate"]


def test_tensorboard_has_losses_and_scores(finished):
    (folder,) = {path.parent for path in finished.rglob("events.out.tfevents.*")}
    events = EventAccumulator(str(folder)).Reload()
    assert {"train/loss", "train/learning_rate", "eval/loss", "eval/bleu4", "eval/chrf"} <= set(
        events.Tags()["scalars"]
    )
    logged = [event.value for event in events.Scalars("train/loss")]
    assert logged == pytest.approx(log_of(finished, "loss"), rel=1e-5)
    assert len(logged) == 6


def test_scores_of_both_evaluations_are_logged(finished):
    for name in ("bleu1", "bleu2", "bleu3", "bleu4", "chrf", "rouge_l_mscoco", "loss", "num_empty_predictions"):
        assert len(log_of(finished, f"eval_{name}")) == 3  # two epochs, and the best checkpoint at the end
    results = json.loads((finished / "eval_results.json").read_text(encoding="utf-8"))
    assert results["eval_bleu4"] == max(log_of(finished, "eval_bleu4"))


def test_the_longest_generated_sentence(monkeypatch, trainers, tmp_path):
    def build(*arguments):
        model, processor = _original_build(*arguments)
        silent = [processor.tokenizer.eos_token_id, processor.tokenizer.pad_token_id]
        model.generation_config.bad_words_ids = [[token] for token in silent]  # it never stops by itself
        return model, processor

    _original_build = visual_initialing.build_model
    monkeypatch.setattr(visual_initialing, "build_model", build)
    scores = visual_initialing.train(
        stage1_flags(tmp_path / "run", max_steps=1, **{**WITHOUT_EVALUATION, "generation_max_length": 9})
    )
    assert scores["eval_mean_generated_tokens"] == 9
    assert load(tmp_path / "run")[0].generation_config.max_length == 150


def scores_in_turn(monkeypatch: pytest.MonkeyPatch, *bleu4: float) -> None:
    """Whatever the model generates, the evaluations score these, in turn; the last one from then on."""
    scores = list(bleu4)

    def build_compute_metrics(*_, **__):
        return lambda _: {"bleu4": scores.pop(0) if len(scores) > 1 else scores[0], "chrf": random.random()}

    monkeypatch.setattr(training, "build_compute_metrics", build_compute_metrics)


@pytest.mark.parametrize("best", [0, 1, 2])
def test_the_checkpoint_with_the_best_bleu4_is_saved(best, monkeypatch, tmp_path):
    bleu4 = [random.uniform(1, 50) for _ in range(3)]
    bleu4[best] = 60.0
    scores_in_turn(monkeypatch, *bleu4, -1.0)
    visual_initialing.train(
        stage1_flags(tmp_path / "run", num_train_epochs=3, save_total_limit=3, **FAST, **ONE_STEP_AN_EPOCH)
    )
    final = load_file(tmp_path / "run" / "model.safetensors")
    checkpoints = [load_file(tmp_path / "run" / f"checkpoint-{step}" / "model.safetensors") for step in (1, 2, 3)]
    for index, checkpoint in enumerate(checkpoints):
        assert bool(moved(checkpoint, final)) == (index != best)
    state = json.loads((tmp_path / "run" / "trainer_state.json").read_text(encoding="utf-8"))
    assert state["best_metric"] == 60.0 and Path(state["best_model_checkpoint"]).name == f"checkpoint-{best + 1}"


def test_few_checkpoints_are_kept_and_the_best_among_them(monkeypatch, tmp_path):
    scores_in_turn(monkeypatch, 50.0, 3.0, 2.0, 1.0)
    visual_initialing.train(stage1_flags(tmp_path / "run", num_train_epochs=4, save_total_limit=1, **ONE_STEP_AN_EPOCH))
    assert {path.name for path in (tmp_path / "run").glob("checkpoint-*")} <= {"checkpoint-1", "checkpoint-4"}
    assert (tmp_path / "run" / "checkpoint-1").is_dir()


def test_early_stopping(monkeypatch, tmp_path):
    scores_in_turn(monkeypatch, 20.0, 30.0, 10.0, 29.0, 28.0)
    visual_initialing.train(
        stage1_flags(tmp_path / "run", num_train_epochs=9, early_stopping_patience=2, **ONE_STEP_AN_EPOCH)
    )
    state = json.loads((tmp_path / "run" / "trainer_state.json").read_text(encoding="utf-8"))
    assert (state["global_step"], state["best_metric"]) == (4, 30.0)


@pytest.mark.parametrize("step", [2, 3])
@pytest.mark.slow
def test_a_resumed_run_ends_as_the_uninterrupted_one(step, tmp_path):
    """From the middle of an epoch and from the end of one; with dropout, augmentation and a schedule."""
    values = {
        **FAST, "num_train_epochs": 2, "eval_strategy": "no", "save_strategy": "steps", "save_steps": step,
        "load_best_model_at_end": False, "speed": 0.3, "frame_drop": 0.2, "brightness": 0.2, "light_dropout": 0.2,
        "save_total_limit": 5, "max_train_clips": 6, "per_device_train_batch_size": 2,
    }  # fmt: skip
    visual_initialing.train(stage1_flags(tmp_path / "whole", **values))
    shutil.copytree(tmp_path / "whole" / f"checkpoint-{step}", tmp_path / "resumed" / f"checkpoint-{step}")
    visual_initialing.train(stage1_flags(tmp_path / "resumed", **values, resume_from_checkpoint="last"))
    whole = load_file(tmp_path / "whole" / "model.safetensors")
    resumed = load_file(tmp_path / "resumed" / "model.safetensors")
    assert whole.keys() == resumed.keys() and not moved(whole, resumed)
    assert moved(whole, load_file(tmp_path / "whole" / f"checkpoint-{step}" / "model.safetensors"))
    assert log_of(tmp_path / "resumed", "loss") == log_of(tmp_path / "whole", "loss")


# LoRA


@pytest.fixture(scope="module")
def lora_run(tmp_path_factory) -> tuple[Path, dict[str, Any]]:
    """Folder of a run with LoRA, and what its model weighed before and after it and wrote before it was merged."""
    folder = tmp_path_factory.mktemp("lora") / "run"
    kept: dict[str, Any] = {}

    def build(arguments, video):
        model, processor = _original_build(arguments, video)
        make_talkative(model, processor.tokenizer)
        kept["before"] = copy_of_weights(model)
        return model, processor

    class KeepingTrainer(training.FLaLLMTrainer):
        def save_state(self):
            super().save_state()
            kept["texts"] = translate(self.model, self.processing_class)
            kept["logits"] = logits_of(self.model, self.processing_class)
            kept["after"] = copy_of_weights(self.model)

    _original_build = llm_fine_tuning.build_model
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(llm_fine_tuning, "build_model", build)
        patch.setattr(training, "FLaLLMTrainer", KeepingTrainer)
        llm_fine_tuning.train(stage2_flags(folder, num_train_epochs=2, lora=True, lora_rank=4, **FAST))
    return folder, kept


def test_lora_trains_adapters_only(lora_run):
    _, kept = lora_run
    changed = moved(kept["before"], kept["after"])
    assert changed and all(".lora_" in name or ".modules_to_save." in name for name in changed)
    assert {name for name in kept["after"] if ".lora_" in name} <= changed
    assert any(".adapter.modules_to_save." in name for name in changed)
    assert any(".word_presence_head.modules_to_save." in name for name in changed)
    assert not any("vision_model" in name for name in changed)


def test_the_folder_of_a_lora_run_is_a_plain_model(lora_run):
    folder, kept = lora_run
    model, processor = load(folder)
    assert type(model) is FLaLLMForTranslation
    assert not any("lora" in name for name in model.state_dict())
    torch.testing.assert_close(logits_of(model, processor), kept["logits"], atol=1e-3, rtol=1e-4)
    assert translate(model, processor) == kept["texts"] and all(kept["texts"])


def test_the_lora_adapter_loads_on_its_base(lora_run):
    folder, kept = lora_run
    files = {path.name for path in (folder / "lora_adapter").iterdir()}
    assert {"adapter_model.safetensors", "adapter_config.json"} <= files
    assert not any(name.endswith((".bin", ".pt")) for name in files)
    processor = FLaLLMProcessor.from_pretrained(folder / "lora_adapter")
    models = [PeftModel.from_pretrained(load(folder / "lora_base")[0], folder / "lora_adapter")]
    if compare_versions("transformers", ">=", "5.18"):  # 5.17 leaves out what is trained whole, and only warns
        models.append(AutoModelForSeq2SeqLM.from_pretrained(folder / "lora_adapter").eval())  # finds the base by itself
    for model in models:
        torch.testing.assert_close(logits_of(model, processor), kept["logits"], atol=1e-3, rtol=1e-4)
        assert translate(model, processor) == kept["texts"]


def test_the_base_of_a_lora_run_is_the_model_before_it(lora_run):
    folder, kept = lora_run
    base = load(folder / "lora_base")[0].state_dict()
    assert not any("lora" in name for name in base)
    for name, value in kept["before"].items():
        name = name.removeprefix("base_model.model.").replace(".base_layer.", ".")
        name = name.replace(".modules_to_save.default.", ".")
        if name in base:
            torch.testing.assert_close(base.pop(name), value, msg=name)
    assert not base


def test_lora_with_the_visual_encoder_trained(trainers, tmp_path):
    llm_fine_tuning.train(
        stage2_flags(
            tmp_path / "run", max_steps=2, lora=True, freeze_visual_encoder=False, **WITHOUT_EVALUATION, **FAST
        )
    )
    stage1 = FLaLLMVisionModel.from_pretrained(_vision_model(tmp_path)).state_dict()
    final = load(tmp_path / "run")[0].vision_model.state_dict()
    names = {name for name in final if not name.endswith("num_batches_tracked")}
    assert names <= moved(stage1, final)


def _vision_model(folder: Path) -> Path:
    FLaLLMForTranslation.from_pretrained(trained_model()).vision_model.save_pretrained(folder / "vision_model")
    return folder / "vision_model"


def test_stage_2_starts_from_a_visual_encoder_alone_too(tmp_path):
    expected = build_stage2()[0].vision_model.state_dict()
    arguments = LLMFineTuningArguments(
        vision_model_name_or_path=str(_vision_model(tmp_path)), text_model_name_or_path=str(language_model())
    )
    model, _ = llm_fine_tuning.build_model(arguments, VideoArguments())
    assert not moved(expected, model.vision_model.state_dict())


# Mistakes


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        (
            {"temporal_padding": "sideways"},
            "Validation error for field 'temporal_padding': TypeError: Field 'temporal_padding' expected one of "
            "('zero', 'none', 'replicate'), got sideways",
        ),
        (
            {"temporal_blocks": ["K5", "X3"]},
            "`temporal_blocks` takes 'K' with an odd kernel size (convolution) and 'P' with a factor (pooling), for "
            "example ['K5', 'P2'], got 'X3' in ['K5', 'X3'].",
        ),
        ({"backbone": "resnet99"}, "`backbone` must be one of resnet18, resnet34, resnet50, got 'resnet99'."),
        ({"label_smoothing": 1.0}, "`label_smoothing` must be at least 0 and below 1, got 1.0."),
        (
            {"imagenet_weights": True},
            "ImageNet weights exist for `backbone_width` 64 only, this model has 4.",
        ),
        (
            {"metric_for_best_model": "blue4"},
            "--metric_for_best_model must be one of loss, bleu1, bleu2, bleu3, bleu4, chrf, rouge_l_mscoco, got "
            "'blue4'.",
        ),
        (
            {"frame_sampling_rate": 0},
            "`frame_sampling_rate` is the fraction of frames to keep, above 0 and up to 1, got 0.0.",
        ),
        ({"max_train_clips": 0}, "The number of clips to use must be 1 or more, got 0."),
        ({"target_language": "de_DE"}, "--target_language de_DE: the tokenizer has no languages. Leave it out."),
        (
            {"resume_from_checkpoint": "last"},
            "--resume_from_checkpoint: {output} holds no checkpoint.",
        ),
        (
            {"resume_from_checkpoint": "nowhere"},
            "--resume_from_checkpoint nowhere is no folder. 'last' takes the newest of the run.",
        ),
    ],
)
def test_mistakes_in_stage_1(values, expected, tmp_path, capsys):
    output = tmp_path / "run"
    text = error_of(visual_initialing.main, stage1_flags(output, **values), capsys)
    assert text == expected.format(output=output)


@pytest.mark.parametrize("name", ["empty folder", "missing folder", "no-such-tokenizer"])
def test_tokenizers_that_are_none(name, tmp_path, capsys):
    (tmp_path / "empty folder").mkdir()
    folder = str(tmp_path / name) if "folder" in name else name
    text = error_of(visual_initialing.main, stage1_flags(tmp_path / "run", tokenizer_name_or_path=folder), capsys)
    assert text.startswith(f"{folder!r} holds no tokenizer that can be loaded: ")


def test_stage_2_from_what_is_no_stage_1(tmp_path, capsys):
    expected = (
        "Expected {!r} to be a stage-1 checkpoint (a folder or Hub id with a config.json of model type 'flallm' or "
        "'flallm_vision'), {}"
    )
    folder = str(language_model())
    argv = stage2_flags(tmp_path / "run", vision_model_name_or_path=folder)
    assert error_of(llm_fine_tuning.main, argv, capsys) == expected.format(
        folder,
        "got model type 'mbart'. Train stage 1 of FLa-LLM first (flallm-visual-initialing), or name its output folder.",
    )
    missing = str(tmp_path / "missing")
    argv = stage2_flags(tmp_path / "run", vision_model_name_or_path=missing)
    assert error_of(llm_fine_tuning.main, argv, capsys).startswith(expected.format(missing, "but it cannot be read: "))
    (tmp_path / "empty").mkdir()
    argv = stage2_flags(tmp_path / "run", vision_model_name_or_path=tmp_path / "empty")
    text = error_of(llm_fine_tuning.main, argv, capsys)
    assert text.startswith(expected.format(str(tmp_path / "empty"), "but it "))


@pytest.mark.parametrize("config", [GPT2Config(n_embd=8, n_layer=1, n_head=1), BertConfig(hidden_size=8)])
def test_text_models_that_are_no_encoder_decoder(config, tmp_path, capsys):
    config.save_pretrained(tmp_path / "text_model")
    argv = stage2_flags(tmp_path / "run", text_model_name_or_path=tmp_path / "text_model")
    assert error_of(llm_fine_tuning.main, argv, capsys) == (
        "The text model of FLa-LLM must be an encoder-decoder (mBART, NLLB/M2M100, mT5/T5, BART, ...), got model type "
        f"{config.model_type!r}, which is none."
    )


def test_missing_text_model(tmp_path, capsys):
    missing = str(tmp_path / "missing")
    argv = stage2_flags(tmp_path / "run", text_model_name_or_path=missing)
    assert error_of(llm_fine_tuning.main, argv, capsys).startswith(
        f"Expected {missing!r} to be a text model (a folder or Hub id of an encoder-decoder), but it cannot be read: "
    )


@pytest.mark.parametrize("num_workers", [0, 1])
def test_a_broken_video_in_the_training_split(num_workers, tmp_path, capsys):
    folder = video_folder(tmp_path / "corpus", "file_name,text\na.mp4,x\nb.mp4,y\n")
    shutil.copytree(corpus() / "dev", folder / "dev")
    (folder / "train" / "b.mp4").write_bytes(b"no video at all")
    argv = stage1_flags(tmp_path / "run", dataset=folder, dataloader_num_workers=num_workers, max_steps=2)
    text = error_of(visual_initialing.main, argv, capsys)
    assert text == (
        f"'{folder / 'train' / 'b.mp4'}' is not a video that can be read (InvalidDataError). Expected mp4, mov, webm, "
        "mkv, avi, ..."
    )


def test_the_newest_checkpoint_is_the_one_to_resume(tmp_path):
    for step in (2, 10, 9):
        (tmp_path / f"checkpoint-{step}").mkdir()
    arguments = FLaLLMTrainingArguments(output_dir=str(tmp_path), use_cpu=True)
    assert training.checkpoint_to_resume(arguments) is None
    for wanted in ("last", "True"):
        arguments.resume_from_checkpoint = wanted
        assert training.checkpoint_to_resume(arguments) == str(tmp_path / "checkpoint-10")
    arguments.resume_from_checkpoint = str(tmp_path / "checkpoint-2")
    assert training.checkpoint_to_resume(arguments) == str(tmp_path / "checkpoint-2")
    assert get_last_checkpoint(str(tmp_path)) == str(tmp_path / "checkpoint-10")


def test_folders_that_hold_no_trained_model(tmp_path):
    with pytest.raises(ValueError) as error:
        training.load_trained(str(language_model()))
    expected = f"{str(language_model())!r} holds no FLa-LLM or LLaVA-SLT model, but one of type 'mbart'."
    assert str(error.value) == expected
    for folder in (tmp_path, tmp_path / "missing"):
        with pytest.raises(ValueError) as error:
            training.load_trained(str(folder))
        assert str(error.value).startswith(f"{str(folder)!r} ")


# Which clips make a batch, and where their pixels are made


@pytest.fixture
def batches(monkeypatch: pytest.MonkeyPatch) -> list[dict[str, torch.Tensor]]:
    """Labels and masks of the frames of every batch that the commands of a test train on."""
    seen: list[dict[str, torch.Tensor]] = []

    class WatchingTrainer(training.FLaLLMTrainer):
        def training_step(self, model, inputs, *arguments, **named_arguments):
            prepared = self._prepare_inputs(dict(inputs))
            seen.append({name: prepared[name].clone() for name in ("labels", "pixel_attention_mask")})
            return super().training_step(model, inputs, *arguments, **named_arguments)

    monkeypatch.setattr(training, "FLaLLMTrainer", WatchingTrainer)
    return seen


def num_frames_of(batch: dict[str, torch.Tensor]) -> list[int]:
    return batch["pixel_attention_mask"].sum(1).tolist()


@pytest.mark.slow
def test_batches_of_clips_of_about_one_length(batches, tmp_path):
    values = {"num_train_epochs": 1, "per_device_train_batch_size": 3, "frame_jitter": False, **WITHOUT_EVALUATION}
    llm_fine_tuning.train(stage2_flags(tmp_path / "run", train_sampling_strategy="group_by_length", **values))
    lengths = [sorted(num_frames_of(batch)) for batch in batches]
    together = sorted(length for batch in lengths for length in batch)
    assert sorted(lengths) == sorted(together[start : start + 3] for start in range(0, 12, 3))


@pytest.mark.slow
def test_batches_of_so_many_frames(batches, tmp_path):
    values = {"num_train_epochs": 3, "max_frames_per_batch": 70, "speed": 0.2, **WITHOUT_EVALUATION}
    llm_fine_tuning.train(stage2_flags(tmp_path / "run", **values))
    assert max(sum(num_frames_of(batch)) for batch in batches) <= 70
    assert len(batches) < 3 * 12
    assert sum(len(batch["labels"]) for batch in batches) == 3 * 12
    state = json.loads((tmp_path / "run" / "trainer_state.json").read_text(encoding="utf-8"))
    assert state["global_step"] == len(batches) and len(batches) % 3 == 0
    card = (tmp_path / "run" / "README.md").read_text(encoding="utf-8")
    assert f"{len(batches)} steps of a varying number of clips." in card and "`max_frames_per_batch` is **70**" in card


def test_too_few_frames_for_a_clip(tmp_path, capsys):
    text = error_of(llm_fine_tuning.main, stage2_flags(tmp_path / "run", max_frames_per_batch=3), capsys)
    assert text.startswith("--max_frames_per_batch 3 is too few for the longest clip, of up to ")


@pytest.mark.slow
def test_a_budget_of_frames_resumes_as_it_would_have_gone_on(tmp_path):
    values = {
        "num_train_epochs": 2, "max_frames_per_batch": 70, "save_strategy": "steps", "save_steps": 2,
        "eval_strategy": "no", "load_best_model_at_end": False, "save_total_limit": 100, "speed": 0.2,
        "dataset_weights": [1, 2], "dataset": [corpus(), corpus()], "max_train_clips": 6,
    }  # fmt: skip
    llm_fine_tuning.train(stage2_flags(tmp_path / "whole", **values))
    num_steps = len(log_of(tmp_path / "whole", "loss"))
    for step in (2, num_steps // 2 // 2 * 2 + 2):  # within the first epoch and within the second
        shutil.copytree(tmp_path / "whole" / f"checkpoint-{step}", tmp_path / f"run{step}" / f"checkpoint-{step}")
        llm_fine_tuning.train(stage2_flags(tmp_path / f"run{step}", resume_from_checkpoint="last", **values))
        assert log_of(tmp_path / f"run{step}", "loss") == log_of(tmp_path / "whole", "loss")


def test_weights_of_data_sets_reach_the_batches(batches, tmp_path):
    folders = [video_folder(tmp_path / name, f"file_name,text\na.mp4,{name}\nb.mp4,{name}\n") for name in ("ba", "bi")]
    video_folder(tmp_path / "ba", "file_name,text\na.mp4,ba\n", split="dev")
    values = {"num_train_epochs": 2, "dataset": folders, "dataset_weights": [3, 1]}
    llm_fine_tuning.train(stage2_flags(tmp_path / "run", **values, per_device_train_batch_size=4))
    tokenizer = FLaLLMProcessor.from_pretrained(tmp_path / "run").tokenizer
    first_labels = [tuple(tokenizer(text_target=name)["input_ids"]) for name in ("ba", "bi")]
    drawn = [tuple(value for value in row.tolist() if value != -100) for batch in batches for row in batch["labels"]]
    assert [drawn.count(labels) for labels in first_labels] == [6, 2]
    run = json.loads((tmp_path / "run" / "training_run.json").read_text(encoding="utf-8"))
    assert run["data"]["name"] == "ba" and run["data"]["other_sources"] == ["bi"]
    assert run["scores"][0]["num_clips"] == 1 and run["data"]["splits"]["train"]["num_clips"] == 4


@pytest.mark.slow
def test_pixels_made_on_the_device_train_as_those_of_the_loading_processes(trainers, tmp_path):
    values = {"num_train_epochs": 1, "rotation_degrees": 20, "brightness": 0.2, "speed": 0.2, "generation_num_beams": 1}
    for name, on_device in (("cpu", False), ("device", True)):
        llm_fine_tuning.train(
            stage2_flags(tmp_path / name, **values, preprocess_on_device=on_device, generation_config=trained_model())
        )
    assert log_of(tmp_path / "device", "loss") == pytest.approx(log_of(tmp_path / "cpu", "loss"), rel=1e-5)
    assert log_of(tmp_path / "device", "eval_chrf") == log_of(tmp_path / "cpu", "eval_chrf")
    first, second = [copy_of_weights(trainer.model) for trainer in trainers]
    for name, value in first.items():
        torch.testing.assert_close(second[name], value, atol=1e-6, rtol=1e-4, msg=name)


@pytest.mark.slow
@pytest.mark.parametrize(
    "values",
    [
        pytest.param({"dataset_weights": [2, 1], "preprocess_on_device": True}, id="weights and device"),
        pytest.param({"train_sampling_strategy": "group_by_length"}, id="by length"),
    ],
)
def test_two_processes_draw_as_one(values, tmp_path):
    values = {**FAST_TWICE, "dataset": [corpus(), corpus()], **values}
    llm_fine_tuning.train(stage2_flags(tmp_path / "one", **values, per_device_train_batch_size=4))
    run_in_two_processes(
        TORCHRUN, "llm_fine_tuning", stage2_flags(tmp_path / "two", **values, per_device_train_batch_size=2)
    )
    assert logged(tmp_path / "two")[0] == pytest.approx(logged(tmp_path / "one")[0], rel=1e-3)


@pytest.mark.slow
def test_two_processes_with_a_budget_of_frames(tmp_path, monkeypatch):
    """Each takes every other batch of one process, so that two of its batches make one step of theirs."""
    numbers_of_batches = []

    class CountedSampler(FrameBudgetBatchSampler):
        def __init__(self, *arguments):
            super().__init__(*arguments)
            numbers_of_batches.append(self.num_batches)

    monkeypatch.setattr(training, "FrameBudgetBatchSampler", CountedSampler)
    values = {**FAST_TWICE, "max_frames_per_batch": 70}
    run_in_two_processes(TORCHRUN, "llm_fine_tuning", stage2_flags(tmp_path / "two", **values))
    llm_fine_tuning.train(stage2_flags(tmp_path / "one", **values, gradient_accumulation_steps=2))
    losses, other_losses = logged(tmp_path / "one")[0], logged(tmp_path / "two")[0]
    assert len(losses) == len(other_losses) >= 4
    if numbers_of_batches[0] % 2 == 0:  # else two processes have one more, and split another batch
        assert other_losses == pytest.approx(losses, rel=1e-3)
