"""DiffSLT's stage 2 from the command line on a tiny corpus: what is learned and saved, and what works with it."""

import json
from pathlib import Path

import pytest
import torch
from random_inputs import built_once
from safetensors.torch import load_file
from tiny_corpus import FOLDER, RUN, corpus, error_of, flags, language_model, trained_model
from torch.testing import assert_close
from transformers import AutoModelForSeq2SeqLM, AutoTokenizer, pipeline
from without_our_packages import run_without_our_packages

from modeling_flallm import DiffSltAutoencoder, DiffSltConfig, DiffSltForTranslation
from modeling_flallm.sampling_diffslt import SCHEDULERS
from train_scripts.arguments import diffslt_stage_arguments
from train_scripts.commands import evaluate_model
from train_scripts.hub.hub_folder import read_model_folder
from train_scripts.runs.trained_models import load_trained
from train_scripts.stages import latent_diffusion
from train_scripts.stages.latent_diffusion import pseudo_glosses_of

SIZES = {"denoiser_size": 16, "denoiser_layers": 2, "denoiser_heads": 2, "fusion_layers": 1}
CLIPS = ("test_00000.mp4", "test_00001.mp4")


@built_once
def autoencoder() -> Path:
    """A folder like the output of stage 1, with random networks around the latents."""
    folder = Path(FOLDER.name) / "autoencoder"
    sizes = {"num_latents": 3, "latent_size": 8, "autoencoder_layers": 1, "autoencoder_heads": 2}
    DiffSltAutoencoder.from_text_pretrained(str(language_model()), **sizes).save_pretrained(folder)
    AutoTokenizer.from_pretrained(language_model()).save_pretrained(folder)
    return folder


def run_flags(output_dir: Path, **values) -> list[str]:
    defaults = {
        "dataset": corpus(),
        "vision_model_name_or_path": trained_model(),
        "text_model_name_or_path": autoencoder(),
        "output_dir": output_dir,
        "feature_cache_dir": Path(FOLDER.name) / "features",
        "cache_features": True,
        "num_inference_steps": 2,
        "ema_decay": 0.5,
        "learning_rate": 1e-2,
        "spoken_language": "de",
        "max_steps": 4,
        "eval_strategy": "steps",
        "save_strategy": "steps",
        "eval_steps": 2,
        "save_steps": 2,
        "metric_for_best_model": "loss",
    }
    return flags(**{**defaults, **SIZES, **RUN, **values})


@built_once
def diffslt() -> Path:
    folder = Path(FOLDER.name) / "diffslt"
    latent_diffusion.train(run_flags(folder, num_pseudo_glosses=2))
    return folder


@pytest.mark.slow
def test_only_the_denoiser_is_learned_and_its_average_is_saved():
    model, information = DiffSltForTranslation.from_pretrained(diffslt(), output_loading_info=True)
    assert not information["missing_keys"] and not information["unexpected_keys"]
    assert model.config.ema_decay is None and model.generation_config.num_inference_steps == 2
    weights, of_base = load_file(diffslt() / "model.safetensors"), load_file(trained_model() / "model.safetensors")
    of_text = load_file(autoencoder() / "model.safetensors")
    for name in (each for each in of_base if each.startswith("vision_model.")):
        assert torch.equal(weights[name.replace("vision_model.", "vision_model.encoder.", 1)], of_base[name])
    assert all(torch.equal(weights[name], value) for name, value in of_text.items() if name in weights)
    best = json.loads((diffslt() / "trainer_state.json").read_text())["best_model_checkpoint"]
    checkpoint = load_file(Path(best) / "model.safetensors")
    names = [name for name in checkpoint if name.startswith("average.module.")]
    assert names and int(checkpoint["average.n_averaged"]) > 0
    differ = 0
    for name in names:
        own = name.replace("average.module.", "denoiser.", 1)
        assert torch.equal(weights[own], checkpoint[name])
        differ += not torch.equal(checkpoint[own], checkpoint[name])
    assert differ > 0


@pytest.mark.slow
def test_its_card_and_files():
    card = (diffslt() / "README.md").read_text()
    for text in (
        "[DiffSLT](https://arxiv.org/abs/2411.17248)",
        "**stage 2** of 2",
        "The text autoencoder `autoencoder` writes the sentence.",
        "torch torchvision av sentencepiece diffusers`",
        "moon2025diffslt",
        "lovelace2023latent",
    ):
        assert text in card
    assert {"modeling_diffslt.py", "denoiser_diffslt.py", "encoder_two_levels_slt.py"} <= set(
        read_model_folder(diffslt(), "me/diffslt").files
    )


@pytest.mark.slow
def test_it_is_evaluated_with_seeds_of_its_own(tmp_path, monkeypatch):
    values = {"model": diffslt(), "dataset": corpus(), "split": "test", "num_candidates": 3, "disable_tqdm": True}
    drawn, sample, rows = [], DiffSltForTranslation.sample_latents, {}
    monkeypatch.setattr(
        DiffSltForTranslation, "sample_latents", lambda *given: drawn.append(sample(*given)) or drawn[-1]
    )
    latents = {}
    for name, more in {"first": {}, "again": {"batch_size": 1}, "seed": {"seed": 7}}.items():
        scores, rows[name] = evaluate_model.run_evaluation(flags(output_dir=tmp_path / name, **values, **more))
        assert scores["choice"]["num_candidates"] == 3 and "self_bleu" in scores["diversity"]
        latents[name] = torch.cat(drawn)
        drawn.clear()
    assert rows["first"] == rows["again"] and all(len(row["candidates"]) == 3 for row in rows["first"])
    assert_close(latents["first"], latents["again"], atol=1e-4, rtol=1e-4)
    assert (latents["first"] - latents["seed"]).abs().max() > 0.1
    evaluate_model.run_evaluation(flags(output_dir=tmp_path / "plain", **values | {"num_candidates": 1}, seed=7))
    assert_close(torch.cat(drawn), latents["seed"][::3], atol=1e-4, rtol=1e-4)


@pytest.mark.slow
def test_the_pipeline_writes_several_sentences_and_says_where_it_read_each_word():
    model, processor = load_trained(str(diffslt()))
    translate = pipeline("sign-language-translation", model=model, processor=processor)
    clip = str(corpus() / "test" / CLIPS[0])
    answers = translate(clip, num_return_sequences=2, return_scores=True, return_timestamps=True)
    assert len(answers) == 2
    for answer in answers:
        assert answer["score"] <= 0
        assert all(0 <= word["start"] <= word["peak"] <= word["end"] for word in answer["words"])
    assert translate(clip)["translation_text"] == answers[0]["translation_text"]
    chosen = translate(clip, num_candidates=3, choose_by="chrf", num_inference_steps=1, guidance_scale=1.0)
    assert isinstance(chosen["translation_text"], str)


WITHOUT_US = """
import sys
import torch
from transformers import AutoModelForSeq2SeqLM

model = AutoModelForSeq2SeqLM.from_pretrained(sys.argv[1], trust_remote_code=True)
features = torch.load("features.pt", weights_only=True)
print(model.generate(visual_features=features, num_return_sequences=2, max_new_tokens=5).tolist())
"""


@pytest.mark.slow
def test_it_loads_without_our_package(tmp_path):
    model = AutoModelForSeq2SeqLM.from_pretrained(diffslt())
    features = torch.randn(1, 6, model.config.vision_config.hidden_size)
    torch.save(features, tmp_path / "features.pt")
    printed = run_without_our_packages(WITHOUT_US, str(diffslt()), folder=tmp_path)
    expected = model.generate(visual_features=features, num_return_sequences=2, max_new_tokens=5)
    assert json.loads(printed.strip().splitlines()[-1]) == expected.tolist()


@pytest.mark.slow
def test_a_stopped_run_goes_on_as_if_it_had_not_stopped(tmp_path):
    values = {"load_best_model_at_end": False, "predict_with_generate": False, "save_total_limit": 3}
    latent_diffusion.train(run_flags(tmp_path / "whole", **values))
    part = tmp_path / "whole" / "checkpoint-2"
    (tmp_path / "stopped").mkdir()
    part.rename(tmp_path / "stopped" / "checkpoint-2")
    latent_diffusion.train(run_flags(tmp_path / "stopped", resume_from_checkpoint="last", **values))
    whole, stopped = (load_file(tmp_path / name / "model.safetensors") for name in ("whole", "stopped"))
    assert whole.keys() == stopped.keys() and all(torch.equal(whole[name], stopped[name]) for name in whole)


def test_pseudo_glosses_are_the_rarer_words():
    tokenizer = AutoTokenizer.from_pretrained(language_model())
    sentences = ["regen im norden", "regen im süden", "schnee im norden", "wind"]
    glosses = pseudo_glosses_of(sentences, tokenizer, largest_share=0.5)
    ids = {word: tokenizer(text_target=word)["input_ids"] for word in ("im", "wind")}
    assert not set(glosses) & set(tokenizer.all_special_ids)
    counts = {token: sum(token in tokenizer(text_target=each)["input_ids"] for each in sentences) for token in glosses}
    assert glosses == sorted(counts) and all(0 < count <= 2 for count in counts.values())
    assert set(ids["wind"]) & set(glosses)


@pytest.mark.parametrize(
    ("values", "message"),
    [
        (
            {"vision_model_name_or_path": None},
            "`--vision_model_name_or_path` is required: the trained model",
        ),
        ({"text_model_name_or_path": None}, "`--text_model_name_or_path` is required: the text autoencoder."),
        ({"ema_decay": 1.0}, "`--ema_decay` must be at least 0 and below 1, got 1.0."),
        ({"largest_pseudo_gloss_share": 0}, "`--largest_pseudo_gloss_share` must be above 0 and at most 1, got 0.0."),
    ],
)
def test_mistakes_in_the_command_line(values, message, tmp_path, capsys):
    given = {"vision_model_name_or_path": "v", "text_model_name_or_path": "t", "dataset": "d", **values}
    argv = flags(output_dir=tmp_path / "run", **{name: value for name, value in given.items() if value is not None})
    assert message in error_of(latent_diffusion.main, argv, capsys)


def test_the_arguments_know_what_the_model_knows():
    """They cannot import it: that takes seconds."""
    assert diffslt_stage_arguments.SCHEDULERS == SCHEDULERS
    assert DiffSltConfig.num_train_timesteps == diffslt_stage_arguments.NUM_TRAIN_TIMESTEPS


@pytest.mark.slow
def test_folders_that_are_something_else(tmp_path, capsys):
    swapped = run_flags(tmp_path / "one", vision_model_name_or_path=autoencoder())
    assert "is of DiffSLT's stage 1 of 2, which reads no videos." in error_of(latent_diffusion.main, swapped, capsys)
    plain = run_flags(tmp_path / "two", text_model_name_or_path=language_model())
    message = "to hold a text autoencoder, as flallm train text-autoencoding leaves it, got model type 'mbart'."
    assert message in error_of(latent_diffusion.main, plain, capsys)
