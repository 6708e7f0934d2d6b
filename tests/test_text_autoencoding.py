"""Text autoencoding: what is learned and what is scored, what is saved, and that the scores are right."""

import json
import random
import re
from pathlib import Path

import numpy as np
import pytest
import torch
from huggingface_hub import ModelCard
from tiny_corpus import error_of, flags
from tiny_models import tiny_language_model_config, tiny_text_config
from transformers import AutoModel, AutoModelForCausalLM, AutoModelForSeq2SeqLM, AutoTokenizer, EvalPrediction

from modeling_flallm.own_processing import FLaLLMProcessor, FLaLLMVideoProcessor
from train_scripts.arguments.dataclass_parser import parse_arguments
from train_scripts.arguments.diffslt_stage_arguments import TextAutoencodingArguments
from train_scripts.arguments.stage_arguments import SentenceArguments
from train_scripts.hub.hub_folder import read_model_folder
from train_scripts.runs.tokenizers import train_tokenizer
from train_scripts.stages import text_autoencoding
from train_scripts.stages.text_autoencoding import (
    EXACT_MATCHES,
    AutoencodingTrainingArguments,
    Sentences,
    build_model,
    build_reconstruction_scores,
    collate,
)

SIZES = {"num_latents": 2, "latent_size": 6, "autoencoder_layers": 1, "autoencoder_heads": 4}
WORDS = ["rain", "sun", "wind", "snow", "falls", "shines", "today", "tomorrow", "in", "the", "north", "south"]


def random_sentences(count: int) -> list[str]:
    found: dict[str, None] = {}
    while len(found) < count:
        found[" ".join(random.choices(WORDS, k=random.randint(2, 6)))] = None
    return list(found)


@pytest.fixture(scope="module")
def language_model(tmp_path_factory) -> Path:
    """Folder of a tiny BART with random weights and a tokenizer for `WORDS`."""
    folder = tmp_path_factory.mktemp("language_model")
    tokenizer = train_tokenizer([" ".join(WORDS)] * 3, max_vocabulary_size=80)
    tokenizer.save_pretrained(folder)
    ids = {f"{name}_token_id": getattr(tokenizer, f"{name}_token_id") for name in ("pad", "bos", "eos")}
    start = {"decoder_start_token_id": tokenizer.eos_token_id, "forced_eos_token_id": None}
    config = tiny_text_config("bart", vocab_size=len(tokenizer), **ids, **start)
    AutoModelForSeq2SeqLM.from_config(config).save_pretrained(folder)
    return folder


def processor_of(language_model: Path) -> FLaLLMProcessor:
    tokenizer = AutoTokenizer.from_pretrained(language_model)
    return FLaLLMProcessor(video_processor=FLaLLMVideoProcessor(), tokenizer=tokenizer)


def write_lines(path: Path, lines: list[str]) -> Path:
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")
    return path


def run_flags(output_dir: Path, language_model: Path, **values) -> list[str]:
    defaults = {
        "text_model_name_or_path": language_model,
        "output_dir": output_dir,
        "per_device_train_batch_size": 8,
        "generation_max_length": 12,
        "use_cpu": True,
        "bf16": False,  # on every machine
        "disable_tqdm": True,
        "report_to": "none",
        "optim": "adamw_torch",
        **SIZES,
    }
    return flags(**{**defaults, **values})


# ------------------------------------------------------------------------------------------ text


def test_labels_are_those_of_the_processor_and_long_sentences_are_left_out(language_model):
    processor, lines = processor_of(language_model), random_sentences(40)
    lengths = [int((row != -100).sum()) for row in processor(text_target=lines)["labels"]]
    most = sorted(lengths)[20]
    sentences = Sentences(lines, processor, most)
    kept = [line for line, length in zip(lines, lengths, strict=True) if length <= most]
    assert sentences.texts == kept and sentences.num_left_out == 40 - len(kept)
    batch = collate([sentences[index] for index in range(len(kept))])
    assert torch.equal(batch["labels"], processor(text_target=kept)["labels"])
    message = f"No sentence has at most --max_tokens 1 tokens; the shortest has {min(lengths)}. Raise it."
    with pytest.raises(ValueError, match=re.escape(message)):
        Sentences(lines, processor, 1)


def test_scores_of_sentences_that_came_back_or_did_not(language_model):
    processor = processor_of(language_model)
    references = ["rain falls in the north", "sun shines today", "snow tomorrow", "wind in the south today"]
    scores = build_reconstruction_scores(processor, references, "en")
    labels = processor(text_target=references)["labels"].numpy()

    def score(written: list[str]) -> dict[str, float]:
        return scores(EvalPrediction(processor(text_target=written)["labels"].numpy(), labels))

    perfect = score(references)
    assert perfect[EXACT_MATCHES] == 100 and perfect["bleu4"] == pytest.approx(100)
    worse = score([references[0], "sun falls today", references[2], "wind in the south"])
    assert worse[EXACT_MATCHES] == 50 and 0 < worse["bleu4"] < 100


@pytest.mark.parametrize("is_frozen", [True, False])
def test_what_is_trained(language_model, is_frozen):
    arguments = TextAutoencodingArguments(str(language_model), freeze_text_model=is_frozen, latent_noise=0.1, **SIZES)
    model, processor = build_model(arguments)
    is_trained = {name.split(".")[0]: parameter.requires_grad for name, parameter in model.named_parameters()}
    assert is_trained == {"text_model": not is_frozen, "compression": True, "reconstruction": True}
    config = model.config
    assert (config.num_latents, config.latent_size, config.latent_noise) == (2, 6, 0.1)
    assert model.generation_config.num_beams == 1
    assert model.generation_config.decoder_start_token_id == processor.tokenizer.eos_token_id


# ------------------------------------------------------------------------------------------ runs


def test_a_run_saves_the_best_model_with_its_scores_and_card(language_model, tmp_path, capsys):
    lines = random_sentences(60)
    text, unseen = write_lines(tmp_path / "text.txt", lines), write_lines(tmp_path / "unseen.txt", lines[:9])
    values = {"text_file": text, "evaluation_text_file": unseen, "num_train_epochs": 2, "learning_rate": 0.003}
    others = {"freeze_text_model": False, "spoken_language": "en", "model_license": "mit"}
    scores = text_autoencoding.train(run_flags(tmp_path / "model", language_model, **values, **others))
    printed = capsys.readouterr().out
    assert "51 sentences; 9 are held out. 0 with more than 64 tokens are left out." in printed
    assert f"Held-out sentences: BLEU-4 {scores['eval_bleu4']:.2f}, exact matches in %" in printed
    model = AutoModel.from_pretrained(tmp_path / "model")
    assert model.config.num_latents == 2 and model.generation_config.num_beams == 1
    processor = processor_of(tmp_path / "model")
    labels = processor(text_target=lines[:9])["labels"]
    written = processor.batch_decode(model.generate(labels=labels, max_length=12))
    exact = np.mean([one == other for one, other in zip(written, lines[:9], strict=True)])
    assert scores[f"eval_{EXACT_MATCHES}"] == pytest.approx(100 * exact)
    history = json.loads((tmp_path / "model" / "trainer_state.json").read_text())["log_history"]
    losses = [row["eval_loss"] for row in history if "eval_loss" in row]
    assert len(losses) == 3 and losses[1] < losses[0]
    card = ModelCard.load(tmp_path / "model" / "README.md")
    assert card.data.license == "mit" and card.data.language == ["en"] and "diffslt" in card.data.tags
    for words in ("all of it was trained. 51 sentences", "measured on 9 other sentences", "**stage 1** of 2"):
        assert words in " ".join(card.text.split()), words
    files = read_model_folder(tmp_path / "model", "me/sentences").files  # as flallm push sends them
    assert {"README.md", "config.json", "model.safetensors", "tokenizer.json", "modeling_diffslt_autoencoder.py"} <= {
        *files
    }
    assert b'AutoModel.from_pretrained("me/sentences"' in files["README.md"]


def test_the_presets_keep_the_checkpoint_that_reconstructs_best():
    types = (TextAutoencodingArguments, SentenceArguments, AutoencodingTrainingArguments)
    for preset in ("diffslt_text_autoencoding", "quickstart_diffslt_text_autoencoding"):
        argv = flags(config=preset, text_file="t", text_model_name_or_path="m", output_dir="o", use_cpu=True)
        arguments, _, training = parse_arguments(types, argv, description="")
        assert training.load_best_model_at_end and training.metric_for_best_model == "bleu4"
        assert training.greater_is_better and training.predict_with_generate
    assert arguments.num_latents * arguments.latent_size <= 16 * 32  # small enough to diffuse


def test_mistakes_before_any_training(language_model, tmp_path, capsys):
    text = write_lines(tmp_path / "text.txt", random_sentences(10))
    decoder_only = tmp_path / "decoder_only"
    AutoModelForCausalLM.from_config(tiny_language_model_config("llama")).save_pretrained(decoder_only)
    for values, expected in (
        (
            {"text_model_name_or_path": decoder_only},
            "--text_model_name_or_path must be an encoder-decoder language model, such as mBART, mT5 or BART; "
            f"{decoder_only} is decoder-only (llama), for LLaVA-SLT.",
        ),
        ({"autoencoder_heads": 5}, "`autoencoder_heads` must divide the text model's width, 32, got 5."),
        (
            {"metric_for_best_model": "recall_at_1"},
            "--metric_for_best_model must be one of loss, bleu1, bleu2, bleu3, bleu4, chrf, rouge_l_mscoco, "
            "exact_matches, got 'recall_at_1'.",
        ),
        (
            {"push_to_hub": True},
            "--push_to_hub is not for this stage: the model of stage 2 contains the whole autoencoder. To share it "
            "alone, run flallm push afterwards.",
        ),
    ):
        argv = run_flags(tmp_path / "model", language_model, text_file=text, **values)
        assert error_of(text_autoencoding.main, argv, capsys).endswith(expected)
    assert not (tmp_path / "model").exists()


@pytest.mark.slow
def test_a_resumed_run_goes_on_as_if_it_had_not_stopped(language_model, tmp_path):
    text = write_lines(tmp_path / "text.txt", random_sentences(30))
    values = {"text_file": text, "num_train_epochs": 2, "logging_steps": 1, "latent_noise": 0.3, "save_total_limit": 9}
    steps = {"eval_strategy": "steps", "eval_steps": 2, "save_strategy": "steps", "save_steps": 2}
    losses = []
    for resume in ({}, {"resume_from_checkpoint": tmp_path / "model" / "checkpoint-2"}):
        text_autoencoding.train(run_flags(tmp_path / "model", language_model, **values, **steps, **resume))
        state = json.loads((tmp_path / "model" / "trainer_state.json").read_text())
        losses.append([row["loss"] for row in state["log_history"] if "loss" in row])
    assert losses[0] == losses[1] and len(losses[0]) == 8
