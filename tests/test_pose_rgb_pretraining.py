"""Uni-Sign's second stage, from the command line: a model of poses learns to see the hands, and is used."""

import json
import shutil
from pathlib import Path

import datasets
import numpy as np
import pytest
import torch
from pose_corpus import HEIGHT, WIDTH, pose_corpus
from test_uni_sign import on_poses, pretrain
from tiny_corpus import flags, language_model, log_of
from tiny_models import error_texts, tiny_uni_sign
from transformers import AutoTokenizer, pipeline
from video_files import write_video

from modeling_flallm import UniSignForTranslation
from processing import FLaLLMProcessor, PoseFeatureExtractor, poses_of_videos_slt, read_poses
from train_scripts.commands import evaluate_model
from train_scripts.stages import pose_rgb_pretraining, unified_fine_tuning


@pytest.fixture(scope="module")
def corpus(tmp_path_factory) -> Path:
    """The tiny corpus of poses, with a video beside each: noise, at the rate and of the size of the poses."""
    folder = tmp_path_factory.mktemp("both") / "corpus"
    shutil.copytree(pose_corpus(), folder)
    random = np.random.default_rng(3)
    for table in folder.glob("*/metadata.jsonl"):
        rows = [json.loads(line) for line in table.read_text().splitlines()]
        for index, row in enumerate(rows):
            num_frames = len(read_poses(table.parent / row["poses"]))
            frames = random.integers(0, 256, (num_frames, int(HEIGHT), int(WIDTH), 3), dtype=np.uint8)
            write_video(table.parent / f"{index}.mp4", frames, fps=12)
            row["file_name"] = f"{index}.mp4"
        table.write_text("\n".join(map(json.dumps, rows)))
    return folder


def train_with_hands(model: Path, corpus: Path, folder: Path, **values) -> Path:
    arguments = on_poses(model_name_or_path=model, output_dir=folder, **{"max_steps": 2, **values})
    pose_rgb_pretraining.train(flags(**{**arguments, "dataset": corpus}))
    return folder


@pytest.fixture(scope="module")
def pretrained(tmp_path_factory) -> Path:
    return pretrain(tmp_path_factory.mktemp("pretrained") / "model", max_steps=2)


@pytest.mark.slow
def test_all_three_stages(pretrained, corpus, tmp_path, monkeypatch):
    folder = train_with_hands(pretrained, corpus, tmp_path / "rgb", max_steps=4, learning_rate=1e-3)
    losses = log_of(folder, "loss")
    assert len(losses) == 4 and all(np.isfinite(losses))
    before, after = (UniSignForTranslation.from_pretrained(each) for each in (pretrained, folder))
    assert not before.config.vision_config.rgb_fusion and after.config.vision_config.rgb_fusion
    for name, value in before.named_parameters():
        assert not torch.equal(value, after.get_parameter(name)), name
    norm = after.vision_model.fusion.backbone.features[0][1]
    assert norm.num_batches_tracked > 0  # the pixels were seen
    assert FLaLLMProcessor.from_pretrained(folder).feature_extractor.hand_crops
    card = (folder / "README.md").read_text()
    assert "prior-guided fusion" in card and "starts half open" in card

    run = {"device": "cpu", "disable_tqdm": True, "split": "test"}
    predictions = []
    for name in ("one", "two"):  # the frames to crop are chosen, not drawn
        assert evaluate_model.main(flags(model=folder, dataset=corpus, output_dir=tmp_path / name, **run)) == 0
        predictions.append((tmp_path / name / "predictions.jsonl").read_text())
    assert predictions[0] == predictions[1]

    fine_tuned = tmp_path / "fine_tuned"
    arguments = on_poses(model_name_or_path=folder, output_dir=fine_tuned, max_steps=2)
    unified_fine_tuning.train(flags(**{**arguments, "dataset": corpus}))
    assert UniSignForTranslation.from_pretrained(fine_tuned).vision_model.fusion is not None

    with (corpus / "test" / "metadata.jsonl").open() as table:
        row = json.loads(next(table))
    poses = read_poses(corpus / "test" / row["poses"])
    monkeypatch.setattr(poses_of_videos_slt, "extract_poses", lambda *arguments: poses)
    poses_of_videos_slt._kept.clear()
    translator = pipeline("sign-language-translation", model=str(fine_tuned))
    seen = []
    forward = translator.model.vision_model.fusion.forward
    monkeypatch.setattr(translator.model.vision_model.fusion, "forward", lambda *a: seen.append(a) or forward(*a))
    answer = translator(str(corpus / "test" / row["file_name"]))
    assert isinstance(answer["translation_text"], str) and len(seen) == 1
    assert int((seen[0][3] >= 0).sum()) == 4  # two of sixteen frames, of each hand
    assert isinstance(translator(str(corpus / "test" / row["poses"]))["translation_text"], str)
    assert not (seen.pop()[3] >= 0).any()

    both = {"poses": str(corpus / "test" / row["poses"]), "video": str(corpus / "test" / row["file_name"])}
    assert translator(both) == answer and len(seen) == 2
    data_set = datasets.Dataset.from_list([{**both, "text": row["text"]}]).cast_column("video", datasets.Video())
    assert list(translator(data_set)) == [answer] and len(seen) == 3
    for crops in seen[1:]:
        assert torch.equal(crops[2], seen[0][2]) and torch.equal(crops[3], seen[0][3])


@pytest.mark.slow
def test_training_goes_on_with_the_fusion_that_is_there(pretrained, corpus, tmp_path):
    first = train_with_hands(pretrained, corpus, tmp_path / "first")
    second = train_with_hands(first, corpus, tmp_path / "second", max_steps=1, learning_rate=1e-7)
    one, two = (UniSignForTranslation.from_pretrained(each).vision_model.fusion for each in (first, second))
    for name, value in one.named_parameters():
        assert torch.allclose(value, two.get_parameter(name), atol=1e-5), name


def test_poses_without_videos_are_refused(tmp_path):
    model = tiny_uni_sign()
    model.save_pretrained(tmp_path / "model")
    tokenizer = AutoTokenizer.from_pretrained(language_model())
    extractor = PoseFeatureExtractor()
    FLaLLMProcessor(feature_extractor=extractor, tokenizer=tokenizer, prompt="p").save_pretrained(tmp_path / "model")
    with error_texts("the data set needs the column `video` beside `poses`"):
        train_with_hands(tmp_path / "model", pose_corpus(), tmp_path / "new")
