"""The errors for a user's mistakes in both stages."""

import shutil

import pytest
from test_data import video_folder
from tiny_corpus import (
    corpus,
    error_of,
    language_model,
    stage1_flags,
    stage2_flags,
)
from transformers import BertConfig, GPT2Config
from transformers.trainer_utils import get_last_checkpoint

from train_scripts.arguments.training_arguments import FLaLLMTrainingArguments
from train_scripts.runs import resuming, trained_models
from train_scripts.stages import llm_fine_tuning, visual_initialing


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
        ({"label_smoothing": 1.0}, "--label_smoothing must be 0 or more and below 1, got 1.0."),
        (
            {"imagenet_weights": True},
            "ImageNet weights exist for `backbone_width` 64 only, this model has 8.",
        ),
        (
            {"metric_for_best_model": "blue4"},
            "--metric_for_best_model must be one of loss, bleu1, bleu2, bleu3, bleu4, chrf, rouge_l_mscoco, got "
            "'blue4'.",
        ),
        (
            {"frame_sampling_rate": 0},
            "--frame_sampling_rate must be above 0 and at most 1, got 0.0.",
        ),
        (
            {"light_hidden_size": 20, "light_attention_heads": 3},
            "--light_hidden_size must be a multiple of --light_attention_heads, got 20 and 3.",
        ),
        ({"max_train_clips": 0}, "--max_train_clips must be 1 or more, got 0."),
        ({"target_language": "de_DE"}, "--target_language de_DE: the tokenizer has no languages. Leave it out."),
        (
            {"resume_from_checkpoint": "last"},
            "--resume_from_checkpoint: {output} holds no checkpoint.",
        ),
        (
            {"resume_from_checkpoint": "nowhere"},
            "--resume_from_checkpoint nowhere is not a folder. Use 'last' for the newest one.",
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
    if name == "missing folder":
        expected = f"--tokenizer_name_or_path {folder!r} is neither a local folder nor a model on the Hub: there is no "
    else:
        expected = f"{folder!r} has no tokenizer that can be loaded: "
    assert text.startswith(expected)


def test_stage_2_from_what_is_no_stage_1(tmp_path, capsys):
    expected = (
        "Expected {!r} to hold a sign encoder (a folder or Hub id with the config.json of one, of a model that has "
        "one, or of an image or video model of transformers), {}"
    )
    folder = str(language_model())
    argv = stage2_flags(tmp_path / "run", vision_model_name_or_path=folder)
    assert error_of(llm_fine_tuning.main, argv, capsys) == expected.format(
        folder,
        "got model type 'mbart'. That is neither a sign encoder nor an image or video model: its model MBartModel "
        "takes `input_ids`. Train stage 1 of FLa-LLM first (flallm train visual-initialing), or name its "
        "output folder.",
    )
    missing = str(tmp_path / "missing")
    argv = stage2_flags(tmp_path / "run", vision_model_name_or_path=missing)
    assert error_of(llm_fine_tuning.main, argv, capsys).startswith(
        f"--vision_model_name_or_path {missing!r} is neither a local folder nor a model on the Hub: there is no "
        "'missing' in "
    )
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
        f"{config.model_type!r}, which is not one."
    )


def test_missing_text_model(tmp_path, capsys):
    missing = str(tmp_path / "missing")
    argv = stage2_flags(tmp_path / "run", text_model_name_or_path=missing)
    assert error_of(llm_fine_tuning.main, argv, capsys).startswith(
        f"--text_model_name_or_path {missing!r} is neither a local folder nor a model on the Hub: there is no "
        "'missing' in "
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


def test_the_newest_checkpoint_is_the_one_to_resume(tmp_path, monkeypatch):
    monkeypatch.setattr(resuming, "check_checkpoint", lambda *_: None)
    for step in (2, 10, 9):
        (tmp_path / f"checkpoint-{step}").mkdir()
    arguments = FLaLLMTrainingArguments(output_dir=str(tmp_path), use_cpu=True)
    older = str(tmp_path / "checkpoint-2")
    for wanted in ("last", "True", "auto", older):
        arguments.resume_from_checkpoint = wanted
        resuming.check_run(arguments)
        expected = older if wanted == older else str(tmp_path / "checkpoint-10")
        assert arguments.resume_from_checkpoint == expected
    assert get_last_checkpoint(str(tmp_path)) == str(tmp_path / "checkpoint-10")


def test_folders_that_hold_no_trained_model(tmp_path):
    with pytest.raises(ValueError) as error:
        trained_models.load_trained(str(language_model()))
    name = repr(str(language_model()))
    expected = f"{name} holds no FLa-LLM or LLaVA-SLT or Uni-Sign or MMSLT or DiffSLT model, but one of type 'mbart'."
    assert str(error.value) == expected
    for folder in (tmp_path, tmp_path / "missing"):
        with pytest.raises(ValueError) as error:
            trained_models.load_trained(str(folder))
        assert str(error.value).startswith(f"{str(folder)!r} ")
