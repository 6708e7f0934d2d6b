"""What `test_new_modality.py` runs in a process of its own: the shared code on the modality of `keypoints_modality`."""

import json
import sys
from pathlib import Path

import keypoints_modality

keypoints_modality.register()  # before train_scripts is imported, as rows in its lists are

import datasets  # noqa: E402
import numpy as np  # noqa: E402
import torch  # noqa: E402
from tiny_corpus import (  # noqa: E402
    FAST,
    LIGHT_TRANSFORMER,
    RUN,
    WITHOUT_EVALUATION,
    causal_language_model,
    contrastive_flags,
    copy_of_weights,
    flags,
    language_model,
    log_of,
    make_talkative,
    moved,
)
from transformers import AutoModel, AutoProcessor, pipeline  # noqa: E402

from modeling_flallm import FLaLLMForTranslation, LlavaSltForTranslation  # noqa: E402
from processing import DataCollatorForSignTranslation  # noqa: E402
from train_scripts.arguments.data_arguments import DataArguments  # noqa: E402
from train_scripts.clips.data import SignClipDataset  # noqa: E402
from train_scripts.clips.splits import load_split  # noqa: E402
from train_scripts.commands import evaluate_model, translate  # noqa: E402
from train_scripts.commands.calibrate import translate_split  # noqa: E402
from train_scripts.stages import (  # noqa: E402
    llm_fine_tuning,
    visual_contrastive_pretraining,
    visual_initialing,
    visual_language_tuning,
)

NUM_POINTS = 3
SENTENCES = ["the doctor comes tonight .", "a red chair .", "we eat bread in the village .", "she reads ."]
SHARED = {name: value for name, value in RUN.items() if name != "generation_max_length"}


def keypoints(length: int) -> np.ndarray:
    return np.random.standard_normal((length, NUM_POINTS, 2)).astype(np.float32)


def make_corpus(folder: Path) -> Path:
    for split in ("train", "dev", "test"):
        (folder / split).mkdir(parents=True)
        for index in range(len(SENTENCES)):
            with (folder / split / f"{index}.points").open("wb") as file:
                np.save(file, keypoints(8 + 2 * index))
        rows = [{"Landmarks": f"{index}.points", "text": text} for index, text in enumerate(SENTENCES)]
        (folder / split / "metadata.jsonl").write_text("\n".join(map(json.dumps, rows)))
    return folder


def train(folder: Path, data: Path) -> None:
    """Both systems learn from keypoints: from files, a stream and the feature cache."""
    stage1 = flags(
        dataset=data, tokenizer_name_or_path=language_model(), output_dir=folder / "stage1", num_keypoints=NUM_POINTS,
        adapter_hidden_size=20, num_beams=2, max_steps=8, preprocess_on_device=True,
        **{name: value for name, value in LIGHT_TRANSFORMER.items() if name.startswith("light")}, **RUN, **FAST,
    )  # fmt: skip
    visual_initialing.train(stage1)
    losses = log_of(folder / "stage1", "loss")
    assert len(losses) == 8 and losses[-1] < losses[0], losses
    shared = {"dataset": data, "vision_model_name_or_path": folder / "stage1", "max_steps": 2, "num_beams": 2, **RUN}
    cached = {"cache_features": True, "feature_cache_dir": folder / "cache"}
    stage2 = {"text_model_name_or_path": language_model(), "adapter_hidden_size": 20, "output_dir": folder / "stage2"}
    llm_fine_tuning.train(flags(**shared, **stage2, **cached))
    assert list((folder / "cache").rglob("*.arrow"))
    models = [FLaLLMForTranslation.from_pretrained(folder / name) for name in ("stage1", "stage2")]
    before, after = (copy_of_weights(model.vision_model) for model in models)
    assert before and not moved(before, after)
    stage3 = {"text_model_name_or_path": causal_language_model(), "output_dir": folder / "stage3", "streaming": True}
    visual_language_tuning.train(flags(**shared, **stage3, **WITHOUT_EVALUATION))
    encoder = LlavaSltForTranslation.from_pretrained(folder / "stage3").vision_model
    assert not moved(before, copy_of_weights(encoder))
    for name in ("stage1", "stage2", "stage3"):
        card = (folder / name / "README.md").read_text()
        assert "follows the keypoints" in card and "face between them" in card, card
        # The Hub's task is called that, and the prompt is a setting.
        others = [line for line in card.splitlines() if "video-text-to-text" not in line and "| `prompt` |" not in line]
        assert [line for line in others if "video" in line.lower()] == []
        assert 'processor(keypoints="clip.points"' in card


def translate_and_evaluate(folder: Path, data: Path, capture: Path) -> None:
    """Pipeline, `flallm translate` and `flallm evaluate` give the same sentences."""
    model, processor = AutoModel.from_pretrained(folder), AutoProcessor.from_pretrained(folder)
    make_talkative(model, processor.tokenizer)
    model.save_pretrained(folder)
    files = [str(data / "test" / f"{index}.points") for index in range(len(SENTENCES))]
    translator = pipeline("sign-language-translation", model=str(folder))
    expected = [answer["translation_text"] for answer in translator(files)]
    arrays = [processor.feature_extractor.read(path).numpy() for path in files]
    assert translator(arrays[1])["translation_text"] == expected[1] != ""
    split = load_split(DataArguments(dataset=[str(data)]), "test")
    assert [answer["translation_text"] for answer in translator(split)] == expected
    measured = translate_split(model.eval(), processor, split, "text", least_chrf=50.0, batch_size=2)
    assert len(measured.scores) == len(SENTENCES) and measured.mean_features.shape[1] == 6
    table = capture / "translations.jsonl"
    arguments = flags(model=folder, format="jsonl", output=table, dtype="float32")
    assert translate.main([*arguments, str(data / "test")]) == 0
    assert [json.loads(line)["text"] for line in table.read_text().splitlines()] == expected
    run = {"device": "cpu", "disable_tqdm": True, "batch_size": RUN["per_device_eval_batch_size"]}
    arguments = flags(model=folder, dataset=data, split="test", output_dir=capture / "scores", **run)
    assert evaluate_model.main(arguments) == 0
    rows = [json.loads(line) for line in (capture / "scores" / "predictions.jsonl").read_text().splitlines()]
    assert [(row["file_name"], row["prediction"]) for row in rows] == [
        (Path(path).name, sentence) for path, sentence in zip(files, expected, strict=True)
    ]


def read_arrays(folder: Path, data: Path) -> None:
    """Arrays in the table of a data set are the same clips as files, also for the collator of other Trainers."""
    processor = AutoProcessor.from_pretrained(folder)
    split = load_split(DataArguments(dataset=[str(data)]), "train")
    files = SignClipDataset(split, processor)
    assert files.longest_lengths() == [4, 5, 6, 7]
    arrays = [processor.feature_extractor.read(row["keypoints"]).numpy() for row in split]
    kinds = datasets.Features(
        keypoints=datasets.Array3D((None, NUM_POINTS, 2), "float32"), text=datasets.Value("string")
    )
    table = datasets.Dataset.from_dict({"keypoints": arrays, "text": SENTENCES}, features=kinds)
    for item, other in zip(map(SignClipDataset(table, processor).__getitem__, range(4)), files, strict=False):
        assert torch.equal(item["points"], other["points"])
    batch = DataCollatorForSignTranslation(processor)([split[0], split[1]])
    assert batch["keypoint_values"].shape == (2, 5, NUM_POINTS, 2) and batch["labels"].shape[0] == 2


def error_of(call, *arguments) -> str:
    try:
        call(*arguments)
    except ValueError as error:
        return str(error)
    raise AssertionError("nothing was raised")


def refuse(folder: Path, data: Path) -> None:
    """Errors name the modality, and what to do."""
    on_videos = flags(
        dataset=data, tokenizer_name_or_path=language_model(), output_dir=folder / "videos", **SHARED, **FAST
    )
    assert "Pass --num_keypoints to train on keypoints." in error_of(visual_initialing.train, on_videos)
    both = [*on_videos, "--num_keypoints", "3", "--visual_features_size", "4"]
    assert "--visual_features_size and --num_keypoints" in error_of(visual_initialing.train, both)
    contrastive = contrastive_flags(folder / "contrastive", dataset=data)
    expected = "For its keypoints go on with stage 3, flallm train visual-language-tuning, with --num_keypoints."
    assert expected in error_of(visual_contrastive_pretraining.train, contrastive)
    processor = AutoProcessor.from_pretrained(folder / "stage1")
    assert "takes `keypoints`, as its model does, got `videos`" in error_of(processor, "clip.mp4")
    (data / "train" / "2.points").unlink()
    expected = "names 1 file(s) of keypoints that are not there: '2.points'."
    try:
        load_split(DataArguments(dataset=[str(data)]), "train")
    except FileNotFoundError as error:
        assert expected in str(error)
    else:
        raise AssertionError("a missing file was not noticed")


def main(folder: Path) -> None:
    data = make_corpus(folder / "corpus")
    train(folder, data)
    for name in ("stage2", "stage3"):
        (folder / f"{name}_results").mkdir()
        translate_and_evaluate(folder / name, data, folder / f"{name}_results")
    read_arrays(folder / "stage1", data)
    refuse(folder, data)
    print("all of it works")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
