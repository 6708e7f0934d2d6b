"""Stage 3 of LLaVA-SLT: what is trained, what the prompt says, and that every command works on its output."""

import json
import random
import re
import shutil
from pathlib import Path

import pytest
import torch
from huggingface_hub import metadata_load
from peft import PeftModel
from safetensors.torch import load_file
from signing_pictures import signing
from test_distributed_training import logged
from tiny_corpus import (
    WITHOUT_EVALUATION,
    causal_language_model,
    contrastive_model,
    corpus,
    error_of,
    flags,
    language_model,
    trained_llava_slt,
    trained_model,
    tuning_flags,
)
from tiny_models import tiny_llava_slt
from transformers import AutoModelForImageTextToText
from video_files import write_video

from modeling_flallm import LlavaSltForTranslation, SignLanguageTranslationPipeline
from processing import LlavaSltProcessor
from train_scripts.arguments.data_arguments import VideoArguments
from train_scripts.arguments.training_arguments import FLaLLMTrainingArguments
from train_scripts.clips.collators import PromptedTranslationCollator
from train_scripts.commands import calibrate, evaluate_model, push_to_hub, translate
from train_scripts.hub.hub_folder import read_model_folder
from train_scripts.runs import generation_defaults, translation_streams
from train_scripts.runs.quantization import load_to_translate
from train_scripts.runs.trained_models import load_trained
from train_scripts.runs.trainers import LlavaSltTrainer
from train_scripts.stages import visual_language_tuning
from train_scripts.stages.visual_language_tuning import VisualLanguageTuningArguments, build_model

pytestmark = pytest.mark.slow

FAST = {**WITHOUT_EVALUATION, "max_steps": 2, "learning_rate": 0.01}
WITHOUT_AUGMENTATION = {"random_crop": False, "frame_jitter": False}
CONNECTOR = {f"connector.{layer}.{kind}" for layer in ("first", "second") for kind in ("weight", "bias")}


def weights(folder: Path, prefix: str = "") -> dict[str, torch.Tensor]:
    """Parameters and buffers of a saved model whose names begin with `prefix`, without the prefix."""
    state = load_file(folder / "model.safetensors")
    return {name.removeprefix(prefix): value for name, value in state.items() if name.startswith(prefix)}


def assert_same(values: dict[str, torch.Tensor], others: dict[str, torch.Tensor]) -> None:
    assert values.keys() == others.keys() and values
    assert all(torch.equal(value, others[name]) for name, value in values.items())


def clips(count: int = 3) -> list[str]:
    return [str(path) for path in sorted((corpus() / "test").glob("*.mp4"))[:count]]


def sentences_of(folder: Path) -> list[str]:
    lines = (folder / "predictions.jsonl").read_text(encoding="utf-8").splitlines()
    return [json.loads(line)["prediction"] for line in lines]


def tuning_arguments(**values) -> VisualLanguageTuningArguments:
    return VisualLanguageTuningArguments(
        vision_model_name_or_path=str(contrastive_model()),
        text_model_name_or_path=str(causal_language_model()),
        **values,
    )


# What is trained


def test_only_the_connector_changes(tmp_path):
    arguments = tuning_arguments()
    visual_language_tuning.train(tuning_flags(tmp_path / "run", **FAST, weight_decay=0.1))
    folder = tmp_path / "run"
    assert_same(weights(folder, "vision_model."), weights(contrastive_model(), "vision_model."))
    assert_same(weights(folder, "language_model."), weights(causal_language_model()))
    assert any(name.endswith("num_batches_tracked") for name in weights(folder, "vision_model."))
    torch.manual_seed(42)
    untrained, _ = build_model(arguments, VideoArguments())
    assert {f"connector.{name}" for name in weights(folder, "connector.")} == CONNECTOR
    assert weights(folder).keys() == untrained.state_dict().keys() - set(untrained.all_tied_weights_keys)
    trained = {name for name, parameter in untrained.train().named_parameters() if parameter.requires_grad}
    assert trained == CONNECTOR
    assert not untrained.vision_model.training and not untrained.language_model.training


def test_clips_can_be_streamed(tmp_path):
    folder = tmp_path / "run"
    visual_language_tuning.train(tuning_flags(folder, **FAST, streaming=True))
    assert_same(weights(folder, "vision_model."), weights(contrastive_model(), "vision_model."))
    assert_same(weights(folder, "language_model."), weights(causal_language_model()))
    assert "| train | streamed | not known |" in (folder / "README.md").read_text(encoding="utf-8")


def test_every_weight_of_the_connector_is_trained(tmp_path):
    visual_language_tuning.train(tuning_flags(tmp_path / "short", **{**FAST, "max_steps": 1, "warmup_steps": 1}))
    visual_language_tuning.train(tuning_flags(tmp_path / "long", **FAST))
    before, after = weights(tmp_path / "short", "connector."), weights(tmp_path / "long", "connector.")
    assert all(not torch.equal(value, after[name]) for name, value in before.items())


def test_lora_also_changes_the_language_model(tmp_path):
    folder = tmp_path / "run"
    visual_language_tuning.train(tuning_flags(folder, **FAST, lora=True, lora_rank=2, adapter_learning_rate=0.02))
    assert_same(weights(folder, "vision_model."), weights(contrastive_model(), "vision_model."))
    merged, before = weights(folder, "language_model."), weights(causal_language_model())
    changed = {name for name, value in before.items() if not torch.equal(value, merged[name])}
    linear = {name for name in before if re.search(r"(_proj)\.weight$", name)}
    assert changed == linear and linear
    model, processor = load_trained(str(folder))
    base = LlavaSltForTranslation.from_pretrained(folder / "lora_base")
    with_adapter = PeftModel.from_pretrained(base, str(folder / "lora_adapter")).eval()
    inputs = processor(videos=clips(), text_target=["this is it"] * 3, return_tensors="pt")
    with torch.no_grad():
        torch.testing.assert_close(with_adapter(**inputs).logits, model(**inputs).logits, atol=1e-4, rtol=1e-3)
    card = (folder / "lora_adapter" / "README.md").read_text(encoding="utf-8")
    assert "from transformers import AutoModelForImageTextToText, AutoProcessor" in card


def test_training_from_the_cache_is_training_through_the_encoder(tmp_path, capsys):
    values = {
        **WITHOUT_AUGMENTATION, "max_steps": 12, "learning_rate": 0.01, "per_device_train_batch_size": 3,
        "eval_on_start": True, "eval_strategy": "steps", "eval_steps": 6, "save_strategy": "no",
        "load_best_model_at_end": False,
    }  # fmt: skip
    cached = {"cache_features": True, "features_dtype": "float32", "feature_cache_dir": tmp_path / "cache"}
    visual_language_tuning.train(tuning_flags(tmp_path / "encoder", **values))
    for name, computed in (("cached", 12), ("again", 0)):
        capsys.readouterr()
        visual_language_tuning.train(tuning_flags(tmp_path / name, **values, **cached))
        expected = f"12 training clips: {12 - computed} features from the cache, {computed} computed in "
        assert expected in capsys.readouterr().out
    losses, evaluations = logged(tmp_path / "encoder")
    assert len(losses) == 12 and len(set(losses)) > 6
    for name in ("cached", "again"):
        others, other_evaluations = logged(tmp_path / name)
        assert others == pytest.approx(losses, abs=1e-3)
        assert len(other_evaluations) == len(evaluations) == 4
        assert other_evaluations[0] == evaluations[0]  # of the same weights: later ones differ by rounding
    views = {**values, **cached, "random_crop": True, "speed": 0.2, "feature_views": 2, "max_steps": 1}
    visual_language_tuning.train(tuning_flags(tmp_path / "views", **{**views, "eval_strategy": "no"}))
    assert "12 training clips in 2 views" in capsys.readouterr().out


def test_a_resumed_run_ends_as_the_uninterrupted_one(tmp_path):
    values = {"num_train_epochs": 2, "learning_rate": 0.01, "speed": 0.2, "max_evaluation_clips": 2}
    visual_language_tuning.train(tuning_flags(tmp_path / "run", **values))
    resumed = {**values, "resume_from_checkpoint": tmp_path / "run" / "checkpoint-3"}
    visual_language_tuning.train(tuning_flags(tmp_path / "again", **resumed))
    assert_same(*(weights(tmp_path / name / "checkpoint-6") for name in ("run", "again")))


# The prompt


@pytest.fixture(scope="module")
def built() -> tuple[LlavaSltForTranslation, LlavaSltProcessor]:
    arguments = tuning_arguments(prompt="Write {spoken_language}:", num_beams=3)
    return build_model(arguments, VideoArguments(frame_size=36, crop_size=32), "de_DE")


def item(text: str, num_frames: int, tag: str | None = None) -> dict:
    frames = torch.randint(256, (num_frames, 3, 32, 32), dtype=torch.uint8)
    return {
        "text": text, "spoken_language": tag, "target_language": None,
        "frames": frames, "spatial_seed": 1, "is_cropped": True,
    }  # fmt: skip


def test_the_prompt_names_the_language_of_each_sentence(built):
    _, processor = built
    first, second, third = random.sample((corpus() / "text_only.txt").read_text(encoding="utf-8").splitlines(), 3)
    items = [item(first, 5), item(second, 8, "fr"), item(third, 3, "xyz_Latn")]
    batch = PromptedTranslationCollator(processor)(items)
    texts = processor.tokenizer.batch_decode(batch["input_ids"])
    for text, language in zip(texts, ("German", "French", "xyz_Latn"), strict=True):
        expected = processor.tokenizer.decode(
            processor.tokenizer(f"Write {language}:", add_special_tokens=False)["input_ids"]
        )
        assert expected in text
    assert processor.batch_decode(batch["labels"]) == [each["text"] for each in items]
    num_placeholders = (batch["input_ids"] == processor.video_token_id).sum(1).tolist()
    assert num_placeholders == [built[0].vision_model.get_num_tokens(len(each["frames"])) for each in items]


def test_features_and_frames_give_the_same_text(built):
    model, processor = built
    items = [item("ein Satz", 5), item("noch ein Satz", 8)]
    lengths = [model.vision_model.get_num_tokens(len(each["frames"])) for each in items]
    cached = [
        {**each, "cached_features": torch.randn(length, 24), "num_visual_tokens": length}
        for each, length in zip(items, lengths, strict=True)
    ]
    collator = PromptedTranslationCollator(processor)
    of_frames, of_features = collator(items), collator(cached)
    for name in ("input_ids", "attention_mask", "labels"):
        assert torch.equal(of_frames[name], of_features[name])
    with torch.no_grad():
        loss = model(**of_features).loss
    assert loss.isfinite() and "pixel_values_videos" not in of_features


def test_the_connector_has_a_learning_rate_of_its_own(tmp_path):
    model, _ = build_model(tuning_arguments(lora=True), VideoArguments())
    training = FLaLLMTrainingArguments(
        output_dir=str(tmp_path), use_cpu=True, learning_rate=0.001, adapter_learning_rate=0.002,
        eval_strategy="no", save_strategy="no", load_best_model_at_end=False, report_to="none",
    )  # fmt: skip
    optimizer = LlavaSltTrainer(model=model, args=training).create_optimizer()
    rates = {id(each): group["lr"] for group in optimizer.param_groups for each in group["params"]}
    names = {id(parameter): name for name, parameter in model.named_parameters() if parameter.requires_grad}
    assert rates.keys() == names.keys()
    assert {names[each] for each in rates if rates[each] == 0.002} == {
        name for name in names.values() if "connector." in name
    }
    assert sum("lora_" in name for name in names.values()) == len(names) - len(CONNECTOR) > 0


def test_the_second_name_of_tied_embeddings_is_not_missed(tmp_path, monkeypatch):
    model = tiny_llava_slt("gpt2")
    training = FLaLLMTrainingArguments(output_dir=str(tmp_path), use_cpu=True, report_to="none", **WITHOUT_EVALUATION)
    trainer = LlavaSltTrainer(model=model, args=training)
    warnings = []
    monkeypatch.setattr("transformers.trainer.logger.warning", warnings.append)
    saved = {name: value for name, value in model.state_dict().items() if name not in model.all_tied_weights_keys}
    assert len(saved) == len(model.state_dict()) - 1
    trainer._issue_warnings_after_load(model.load_state_dict(saved, strict=False))
    assert not warnings
    del saved["connector.first.bias"]
    with pytest.raises(ValueError, match="^it lacks connector.first.bias$"):
        trainer._issue_warnings_after_load(model.load_state_dict(saved, strict=False))


def test_flags_reach_model_and_processor(built):
    model, processor = built
    config = model.generation_config
    assert (config.num_beams, config.max_length) == (3, generation_defaults.MOST_TOKENS) and not config.do_sample
    assert config.eos_token_id == processor.tokenizer.eos_token_id
    assert (processor.prompt, processor.spoken_language) == ("Write {spoken_language}:", "German")
    assert processor.word_window_stride == model.config.vision_config.word_window_stride


# The commands on the folder


def evaluate(folder: Path, dataset: Path, output: Path, **values) -> list[str]:
    arguments = {
        "model": folder, "dataset": dataset, "device": "cpu", "disable_tqdm": True, "output_dir": output,
        "batch_size": 4, **values,
    }  # fmt: skip
    assert evaluate_model.main(flags(**arguments)) == 0
    return sentences_of(output)


def test_evaluation_translates_as_the_command_does(tmp_path, capsys):
    predictions = evaluate(trained_llava_slt(), corpus(), tmp_path / "scores")
    assert len(set(predictions)) >= 3
    capsys.readouterr()
    arguments = ["--model", str(trained_llava_slt()), "--format", "jsonl", "--batch_size", "2", "--device", "cpu"]
    assert translate.main([*arguments, "--dtype", "float32", str(corpus() / "test")]) == 0
    lines = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert [line["text"] for line in lines] == predictions


@pytest.mark.parametrize("long", [False, True])
def test_a_language_to_write(long, tmp_path, monkeypatch, capsys):
    """The command uses the same prompt as the pipeline, with the name of the tag's language."""
    loaded = []

    def load(*values):
        loaded.append(load_to_translate(*values))
        return loaded[-1]

    monkeypatch.setattr(translation_streams, "load_to_translate", load)
    talk = write_video(tmp_path / "talk.mp4", signing([("sign", 1.0), ("rest", 1.0), ("sign", 1.0)]))
    arguments = ["--model", str(trained_llava_slt()), "--device", "cpu", "--dtype", "float32", str(talk)]
    capsys.readouterr()
    assert translate.main([*arguments, "--spoken_language", "de", *["--long"] * long]) == 0
    text = capsys.readouterr().out.removeprefix(f"{talk}\t").removesuffix("\n")
    model, processor = loaded[0]
    prompt = processor.tokenizer.decode(processor(num_visual_tokens=[1])["input_ids"][0])
    assert processor.spoken_language == "German" and "erman" in prompt  # the tiny tokenizer has no capital G
    translator = SignLanguageTranslationPipeline(model=model, processor=load_trained(str(trained_llava_slt()))[1])
    asked = {"spoken_language": "German"}
    answers = translator.translate_long(str(talk), **asked) if long else [translator(str(talk), **asked)]
    assert text == " ".join(answer["translation_text"] for answer in answers if answer["translation_text"])


def test_languages_that_cannot_be_written(capsys):
    model, processor = load_trained(str(trained_model()))
    with pytest.raises(ValueError) as refusal:
        SignLanguageTranslationPipeline(model=model, processor=processor, spoken_language="German")
    arguments = ["--model", str(trained_model()), "--device", "cpu", str(corpus() / "test"), "--spoken_language"]
    assert error_of(translate.main, [*arguments, "de"], capsys) == str(refusal.value)
    assert error_of(translate.main, [*arguments, "German"], capsys) == (
        "--spoken_language must be the tag of a written language, such as de, zh_CN or deu_Latn, got 'German'."
    )


def test_no_word_of_the_reference_reaches_the_translation(tmp_path):
    """Prompt and sentence are one row in training: in evaluation the sentence must not be there."""
    other = shutil.copytree(corpus() / "test", tmp_path / "other" / "test").parent
    table = other / "test" / "metadata.csv"
    header, *rows = table.read_text(encoding="utf-8").splitlines()
    column = header.split(",").index("text")
    changed = [",".join([*cells[:column], "Q Z", *cells[column + 1 :]]) for cells in (row.split(",") for row in rows)]
    table.write_text("\n".join([header, *changed]) + "\n", encoding="utf-8")
    same = [evaluate(trained_llava_slt(), folder, tmp_path / name) for name, folder in (("a", corpus()), ("b", other))]
    assert same[0] == same[1] and any(same[0])


def test_calibration_works_on_the_folder(tmp_path, capsys):
    folder = shutil.copytree(trained_llava_slt(), tmp_path / "model")
    both = tmp_path / "corpus" / "dev"
    shutil.copytree(corpus() / "train", both)
    header, *rows = (both / "metadata.csv").read_text(encoding="utf-8").splitlines()
    for path in sorted(both.glob("*.mp4")):
        shutil.copy(path, both / f"again_{path.name}")
    rows += [f"again_{row}" for row in rows]
    (both / "metadata.csv").write_text("\n".join([header, *rows]) + "\n", encoding="utf-8")
    assert calibrate.main(flags(model=folder, dataset=both.parent, batch_size=4)) == 0
    calibration = load_trained(str(folder))[0].config.confidence_calibration
    assert calibration["slope"] >= 0 and len(calibration["mean_features"]) == 24
    assert re.search(r"dev, cross-validated +24 ", capsys.readouterr().out)


def test_the_folder_can_be_pushed_and_loads_by_auto_class(tmp_path, capsys):
    arguments = flags(model=trained_llava_slt(), repo_id="me/llava-slt", dry_run=True)
    assert push_to_hub.main(arguments) == 0
    printed = capsys.readouterr().out
    for name in ("modeling_llava_slt.py", "processing_llava_slt.py", "encoder_words_slt.py", "tokenizer.json"):
        assert name in printed
    assert read_model_folder(trained_llava_slt(), "me/llava-slt").auto_class == "AutoModelForImageTextToText"
    assert isinstance(AutoModelForImageTextToText.from_pretrained(trained_llava_slt()), LlavaSltForTranslation)
    encoder = read_model_folder(contrastive_model(), "me/encoder")
    assert encoder.auto_class == "AutoModel" and "video_preprocessor_config.json" in encoder.files


def test_the_card_names_the_paper_the_stages_and_what_is_ours(tmp_path):
    visual_language_tuning.train(tuning_flags(tmp_path / "run", **FAST, spoken_language="en", sign_language="qsl"))
    card = (tmp_path / "run" / "README.md").read_text(encoding="utf-8")
    assert "The method is [LLaVA-SLT](https://arxiv.org/abs/2412.16524). This is the model of **stage 3** of 3" in card
    assert "only it was trained here." in card and "arXiv:2412.16524" in card
    assert "The makers of this program know only the abstract of the paper" in card
    assert "**Stage 2**, which made the video encoder" in card and "the paper's recipe" not in card
    assert " settings differ from this program's recipe.\n" in card
    assert "- `word_hidden_size` is **24**; in the recipe: 512 (ours: not given)." in card
    assert "- `num_beams` is **2**; in the recipe: 5 (ours: not given; as FLa-LLM)." in card
    assert "- Vision model: `contrastive_model`." in card and "- Text model: `causal_language_model`." in card
    assert "AutoModelForImageTextToText.from_pretrained(" in card and str(tmp_path) not in card
    assert {"flallm", "llava-slt"} <= set(metadata_load(tmp_path / "run" / "README.md")["tags"])


# Mistakes


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        ({"vision_model_name_or_path": causal_language_model}, "takes `input_ids`. Train stage 2 first,"),
        ({"text_model_name_or_path": language_model}, "got model type 'mbart'"),
        (
            {"text_model_name_or_path": contrastive_model},
            "holds a visual encoder of LLaVA-SLT, as its stage 2 leaves it, and no language model. Name the folder of "
            "stage 1 (are two folders swapped?).",
        ),
        (
            {"text_model_name_or_path": lambda: "/nowhere/at/all"},
            "--text_model_name_or_path '/nowhere/at/all' is neither a local folder nor a model on the Hub: there is no "
            "'nowhere' in '/'. Name a folder, or OWNER/NAME on the Hub.",
        ),
        ({"prompt": lambda: "What is <video>?"}, "The prompt must hold the placeholder '<video>' once"),
        ({"metric_for_best_model": lambda: "recall_at_1"}, "--metric_for_best_model must be one of loss, bleu1, "),
        (
            {"cache_features": lambda: True, "streaming": lambda: True, "max_steps": lambda: 1},
            "--cache_features cannot be combined with --streaming: a stream keeps nothing. Leave out one of the two.",
        ),
    ],
    ids=["language model as encoder", "mBART", "swapped", "nothing", "prompt", "score", "stream"],
)
def test_mistakes(values, expected, tmp_path, capsys):
    arguments = tuning_flags(tmp_path / "run", **{name: value() for name, value in values.items()})
    assert expected in error_of(visual_language_tuning.main, arguments, capsys)


def test_missing_arguments(capsys):
    error = error_of(visual_language_tuning.main, ["--dataset", "x", "--output_dir", "y"], capsys)
    assert (
        error == "`--vision_model_name_or_path` is required, or in its place `--visual_features_size` for ready-made "
        "visual features or `--pose_encoder` for poses; got neither."
    )


def test_a_stage_2_folder_does_not_translate(capsys, tmp_path):
    arguments = flags(model=contrastive_model(), dataset=corpus(), output_dir=tmp_path / "out", device="cpu")
    assert error_of(evaluate_model.main, arguments, capsys) == (
        f"{str(contrastive_model())!r} is of LLaVA-SLT's stage 2 of 3, which cannot translate yet. Name the folder of "
        "stage 3, which flallm train visual-language-tuning makes."
    )


def test_a_stage_1_folder_does_not_translate(capsys):
    arguments = ["--model", str(causal_language_model()), str(corpus() / "test")]
    assert error_of(translate.main, arguments, capsys) == (
        f"{str(causal_language_model())!r} holds a language model (llama) without a visual encoder, as LLaVA-SLT's "
        "stage 1 of 3 leaves it, which cannot translate yet. Name the folder of stage 3, which "
        "flallm train visual-language-tuning makes."
    )
