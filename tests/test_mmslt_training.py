"""Both stages of MMSLT from the command line on a tiny corpus with made-up descriptions, and mistakes."""

import json
from pathlib import Path

import pytest
import torch
from random_inputs import built_once
from safetensors.torch import load_file
from test_description_store import ORIGIN
from tiny_corpus import (
    FOLDER,
    RUN,
    VIDEO,
    causal_language_model,
    corpus,
    error_of,
    flags,
    language_model,
    moved,
    trained_model,
)
from transformers import AutoModel, AutoModelForSeq2SeqLM, AutoProcessor, pipeline

from modeling_flallm import MmsltForPreTraining, MmsltForTranslation
from processing import MODALITIES, FLaLLMVideoProcessor
from train_scripts.arguments.data_arguments import DatasetArguments
from train_scripts.clips.description_folder import DescriptionFolder
from train_scripts.clips.description_store import ClipDescriptions
from train_scripts.clips.splits import load_split
from train_scripts.commands import translate
from train_scripts.hub.hub_folder import read_model_folder
from train_scripts.runs.trained_models import load_trained
from train_scripts.stages import multimodal_pretraining, translation_fine_tuning

SIZES = {
    "backbone_width": 8,
    "visual_hidden_size": 24,
    "mapper_hidden_size": 16,
    "adapter_hidden_size": 20,
    "temporal_blocks": ["K5", "P2"],
    "memory_bank_size": 5,
}


@built_once
def descriptions() -> Path:
    """Of all clips but the first of each split, and of all frames but the first of each clip."""
    folder = Path(FOLDER.name) / "descriptions"
    store = DescriptionFolder(folder, ORIGIN)
    data, modality = DatasetArguments(dataset=[str(corpus())]), MODALITIES[0](FLaLLMVideoProcessor())
    for name in ("train", "dev", "test"):
        clips = load_split(data, name)
        places = store.clips_of(name, clips, MODALITIES[0], name)[1:]
        for place in places:
            length = modality.count(clips[place.index])
            frames = torch.tensor([[1, length // 2], [length // 2, length]])
            texts = ["both hands rise", "the left hand falls"]
            store.write(place, "content", ClipDescriptions(torch.randn(2, ORIGIN.width), frames, texts, length))
        store.write_table(name, places)
    store.finish(["corpus"])
    return folder


def pretraining_flags(output_dir: Path, **values) -> list[str]:
    defaults = {
        "dataset": corpus(),
        "descriptions": descriptions(),
        "text_model_name_or_path": language_model(),
        "output_dir": output_dir,
    }
    run = {name: value for name, value in RUN.items() if name != "generation_max_length"}
    given = {**defaults, **run, **VIDEO, **SIZES, **values}
    return flags(**{name: value for name, value in given.items() if value is not None})


def fine_tuning_flags(output_dir: Path, **values) -> list[str]:
    defaults = {"dataset": corpus(), "model_name_or_path": pretrained(), "output_dir": output_dir, "num_beams": 2}
    return flags(**{**defaults, **RUN, **values})


@built_once
def pretrained() -> Path:
    folder = Path(FOLDER.name) / "mmslt_pretrained"
    values = {"max_steps": 3, "learning_rate": 1e-3, "spoken_language": "de"}
    multimodal_pretraining.train(pretraining_flags(folder, **values))
    return folder


@pytest.mark.slow
def test_pretraining_leaves_a_whole_model_that_cannot_translate_yet(tmp_path, capsys):
    folder = pretrained()
    printed = capsys.readouterr().out
    if printed:  # the first test that asks for the folder makes it
        assert "1 of 12 train clips have no descriptions" in printed
        assert "Described are 91.7 of 100 training clips, and in these 9" in printed
        assert "Error of the description mapper: " in printed and "Words that occur" not in printed
    model, information = MmsltForPreTraining.from_pretrained(folder, output_loading_info=True)
    assert not information["missing_keys"] and not information["unexpected_keys"]
    assert model.visual_text_contrast.num_remembered == 12 and model.visual_text_contrast.memory_bank.any(1).all()
    assert model.config.vision_config.encoder_config.description_size == ORIGIN.width
    clips = [str(path) for path in sorted((corpus() / "test").glob("*.mp4"))[:2]]
    inputs = AutoProcessor.from_pretrained(folder)(videos=clips, return_tensors="pt")
    assert AutoModel.from_pretrained(folder)(**inputs).video_embeddings.shape == (2, 32)
    scores = json.loads((folder / "eval_results.json").read_text())
    assert scores["eval_mapper_loss"] > 0 and scores["eval_num_sentences"] <= 6
    card = (folder / "README.md").read_text()
    for text in (
        "[MMSLT](https://arxiv.org/abs/2411.16789). This is the model of **stage 1** of 2:\na video encoder and the",
        "**It cannot\nwrite a sentence.**",
        "written by the model `me/describer` (licence `apache-2.0`) and encoded by `me/encoder`\n",
        "print(model(**inputs).video_embeddings)",
        f"| {scores['eval_mapper_loss']:.4f} |",
    ):
        assert text in card, text
    assert "F1" not in card
    assert "config.json" in read_model_folder(folder, "me/pretrained").files
    with pytest.raises(ValueError, match="is of MMSLT's stage 1 of 2, which cannot translate yet. Name the folder of"):
        load_trained(str(folder))
    arguments = [clips[0], *flags(model=folder)]
    assert "cannot translate yet" in error_of(translate.main, arguments, capsys)


@pytest.mark.slow
def test_fine_tuning_keeps_the_mapper_and_moves_the_rest(tmp_path):
    before = MmsltForPreTraining.from_pretrained(pretrained()).for_translation().state_dict()
    folder = tmp_path / "fine_tuned"
    pixels = {"frame_size": 34, "crop_size": 32, "max_num_frames": 9}
    arguments = fine_tuning_flags(folder, max_steps=2, learning_rate=1e-2, spoken_language="de", **pixels)
    translation_fine_tuning.train(arguments)
    part = AutoProcessor.from_pretrained(folder).video_processor
    assert (part.size["height"], part.crop_size["height"], part.max_num_frames) == (34, 32, 9)
    settings = json.loads((folder / "training_run.json").read_text())["settings"]
    recorded = {setting["name"]: setting["value"] for setting in settings}
    assert (recorded["frame_size"], recorded["crop_size"], recorded["frame_sampling_rate"]) == (34, 32, 0.25)
    model = AutoModelForSeq2SeqLM.from_pretrained(folder)
    assert type(model) is MmsltForTranslation and model.generation_config.num_beams == 2
    unmoved = set(before) - moved(before, model.state_dict())
    mapper = {name for name in before if ".mapper." in name}
    assert len(mapper) == 4 and unmoved - {"text_model.final_logits_bias"} == mapper
    card = (folder / "README.md").read_text()
    assert "the video encoder comes from stage 1, and all of it but the description mapper was fine-tuned" in card
    assert "- In stage 1 it also learned from descriptions of what the signer does, written by the model" in card
    assert "**Stage 1**, which made the video encoder:" in card
    translator = pipeline("sign-language-translation", model=str(folder))
    clip = sorted((corpus() / "test").glob("*.mp4"))[0]
    assert isinstance(translator(str(clip))["translation_text"], str)


@pytest.mark.slow
def test_a_resumed_pretraining_with_adapters_ends_as_the_uninterrupted_one(tmp_path):
    values = {
        "lora": True, "num_train_epochs": 2, "learning_rate": 1e-3, "metric_for_best_model": "loss",
        "save_total_limit": 3, "max_evaluation_clips": 2, "speed": 0.2,
    }  # fmt: skip
    multimodal_pretraining.train(pretraining_flags(tmp_path / "run", **values))
    expected = load_file(tmp_path / "run" / "checkpoint-6" / "adapter_model.safetensors")
    resumed = {**values, "resume_from_checkpoint": tmp_path / "run" / "checkpoint-3"}
    multimodal_pretraining.train(pretraining_flags(tmp_path / "again", **resumed))
    found = load_file(tmp_path / "again" / "checkpoint-6" / "adapter_model.safetensors")
    assert any("memory_bank" in name for name in found) and any("logit_scale" in name for name in found)
    assert found.keys() == expected.keys() and all(torch.equal(found[name], expected[name]) for name in expected)
    before = load_file(tmp_path / "run" / "lora_base" / "model.safetensors")
    after = load_file(tmp_path / "run" / "model.safetensors")
    decoder = {name for name in before if name.startswith("text_model.model.decoder.")}
    assert decoder and not decoder & moved(before, after)


def test_mistakes(tmp_path, capsys):
    for values, expected in (
        ({"descriptions": None}, "`--descriptions` must name what `flallm describe` made of the data set: the "),
        ({"streaming": True, "max_steps": 3}, "--streaming is not for this stage"),
        (
            {"metric_for_best_model": "word_f1"},
            "--metric_for_best_model must be one of loss, recall_at_1, recall_at_5, median_rank, mapper_loss, got",
        ),
        (
            {"metric_for_best_model": "mapper_loss", "mapper_loss_weight": 0},
            "--metric_for_best_model must be one of loss, recall_at_1, recall_at_5, median_rank, got 'mapper_loss'.",
        ),
        ({"text_model_name_or_path": causal_language_model()}, "The text model of FLa-LLM must be an encoder-decoder"),
    ):
        arguments = pretraining_flags(tmp_path / "run", **values)
        assert error_of(multimodal_pretraining.main, arguments, capsys).startswith(expected)
    arguments = fine_tuning_flags(tmp_path / "run", model_name_or_path=trained_model())
    assert error_of(translation_fine_tuning.main, arguments, capsys).endswith(
        "must hold a whole MMSLT model, MmsltForTranslation, got FLaLLMForTranslation."
    )
