"""`flallm evaluate` and `flallm translate`: their output and scores, and bad files among good ones."""

import csv
import io
import json
import os
import shutil
import unicodedata
from collections import Counter
from pathlib import Path

import numpy as np
import pysubs2
import pytest
import torch
from random_inputs import random_generator
from signing_pictures import signing
from test_data import video_folder
from tiny_corpus import corpus, error_of, flags, language_model, trained_llava_slt, trained_model
from transformers import AutoConfig, AutoTokenizer
from video_files import counting_frames, cut, write_audio, write_video

from modeling_flallm import FLaLLMForTranslation
from modeling_flallm.choice_slt import best_candidates, chrf_utility
from train_scripts.arguments.data_arguments import DataArguments
from train_scripts.arguments.evaluation_arguments import GenerationArguments
from train_scripts.clips.splits import load_split
from train_scripts.commands import evaluate_model, translate
from train_scripts.machine.machine import default_device
from train_scripts.machine.process_pool import most_workers
from train_scripts.runs.trained_models import load_trained
from train_scripts.runs.trainers import FLaLLMTrainer
from train_scripts.runs.video_translation import build_translator
from train_scripts.scores.breakdown import breakdown
from train_scripts.scores.candidates import oracle_texts
from train_scripts.scores.content_words import function_words_of
from train_scripts.scores.controls import drawn_clips
from train_scripts.scores.diversity import diversity_scores
from train_scripts.scores.metrics import TITLE_OF_SCORE, scores_by_signer, translation_scores
from train_scripts.scores.report import format_report

pytestmark = pytest.mark.slow

REAL_VIDEOS = Path(__file__).resolve().parents[2] / "shared" / "videos"


def clips(count: int = 6) -> list[Path]:
    return sorted((corpus() / "test").glob("*.mp4"))[:count]


def one_by_one(paths: list[Path], **options) -> list[str]:
    """Translations as a user of the saved folder makes them, each clip alone."""
    model, processor = load_trained(str(trained_model()))
    sentences = []
    for path in paths:
        inputs = processor(videos=str(path), return_tensors="pt", **options)
        sentences += processor.batch_decode(model.generate(**inputs))
    return sentences


# Evaluate


def evaluation_flags(output_dir: Path, **values) -> list[str]:
    defaults = {
        "model": trained_model(),
        "dataset": corpus(),
        "output_dir": output_dir,
        "batch_size": 4,
        "device": "cpu",
        "disable_tqdm": True,
        "max_control_clips": 0,
    }
    return flags(**{**defaults, **values})


def run_evaluation(output_dir: Path, **values) -> tuple[dict, list[dict]]:
    assert evaluate_model.main(evaluation_flags(output_dir, **values)) == 0
    scores = json.loads((output_dir / "scores.json").read_text(encoding="utf-8"))
    lines = (output_dir / "predictions.jsonl").read_text(encoding="utf-8").splitlines()
    return scores, [json.loads(line) for line in lines]


def test_scores_and_predictions_of_a_split(tmp_path, capsys):
    scores, rows = run_evaluation(tmp_path / "scores", max_control_clips=4)
    split = load_split(DataArguments(dataset=str(corpus())), "test")
    assert [row["file_name"] for row in rows] == [Path(video["path"]).name for video in split["video"]]
    assert [row["reference"] for row in rows] == split["text"]
    predictions = [row["prediction"] for row in rows]
    assert predictions == one_by_one(clips()) and len(set(predictions)) > 1
    by_signer = scores_by_signer(predictions, split["text"], split["signer"])
    training = load_split(DataArguments(dataset=str(corpus())), "train")["text"]
    words = function_words_of(split["text"], training)
    details = breakdown(predictions, split["text"], words, split["signer"], training)
    controls = scores.pop("controls")
    assert controls.keys() == {"noise", "frozen", "shuffled"}
    assert [controls[name]["num_segments"] for name in ("noise", "frozen", "shuffled")] == [4, 4, 6]
    with_clips = translation_scores(*([side[n] for n in drawn_clips(6, 4)] for side in (predictions, split["text"])))
    assert controls["noise"]["with_the_clip"]["bleu4"] == with_clips["bleu4"]
    assert controls["noise"]["with_the_clip"] == controls["frozen"]["with_the_clip"]
    assert scores == translation_scores(predictions, split["text"]) | details and by_signer.items() <= details.items()
    assert {signer: of_signer["num_segments"] for signer, of_signer in by_signer["by_signer"].items()} == Counter(
        split["signer"]
    )
    assert scores["num_segments"] == 6 and set(TITLE_OF_SCORE) <= scores.keys()
    assert "tok:13a" in scores["signatures"]["bleu4"]
    assert scores["confidence_intervals"]["bleu4"].keys() >= {"low", "high"}
    output = capsys.readouterr().out
    assert scores["signatures"]["bleu4"] in output and "6 segments" in output
    assert format_report(scores | {"controls": controls}) in output
    assert output.startswith("Computing in float32 on a processor with")
    assert {path.name for path in (tmp_path / "scores").iterdir()} == {"scores.json", "scores.png", "predictions.jsonl"}


def test_first_clips_of_another_split(tmp_path):
    scores, rows = run_evaluation(tmp_path / "scores", split="dev", max_clips=2)
    assert scores["num_segments"] == 2
    assert [row["file_name"] for row in rows] == ["dev_00000.mp4", "dev_00001.mp4"]


def test_references_are_raw(tmp_path):
    sentences = ["  Ünï\u0301 ＦＵＬＬ  width ", "NA"]
    table = "file_name,text\n" + "".join(f"{n}.mp4,{text}\n" for n, text in zip("ab", sentences, strict=True))
    folder = video_folder(tmp_path / "corpus", table, split="test")
    _, rows = run_evaluation(tmp_path / "scores", dataset=folder)
    assert [row["reference"] for row in rows] == sentences


def test_the_signature_tells_what_was_done_to_the_sentences(tmp_path):
    plain, plain_rows = run_evaluation(tmp_path / "plain", max_clips=3)
    scores, rows = run_evaluation(tmp_path / "scores", max_clips=3, append_period=True, lowercase=True)
    signature = scores["signatures"]["bleu4"]
    assert "period" in signature and "case:lc" in signature
    assert "period" not in plain["signatures"]["bleu4"] and "case:mixed" in plain["signatures"]["bleu4"]
    assert rows == plain_rows
    assert scores["bleu1"] > plain["bleu1"]


def test_candidates_are_kept_chosen_and_compared(tmp_path, monkeypatch):
    """Sampled, and stopped after four of six clips: going on gives what an evaluation in one go gives."""
    monkeypatch.setattr(evaluate_model, "BATCHES_BETWEEN_WRITES", 1)
    values = {"batch_size": 4, "num_candidates": 5, "choose_by": "chrf", "seed": 3}
    scores, rows = run_evaluation(tmp_path / "whole", **values)
    predict, num_calls = FLaLLMTrainer.predict, iter(range(1))
    with monkeypatch.context() as patch, pytest.raises(StopIteration):
        patch.setattr(FLaLLMTrainer, "predict", lambda *given, **how: (next(num_calls), predict(*given, **how))[1])
        evaluate_model.run_evaluation(evaluation_flags(tmp_path / "stopped", **values))
    assert run_evaluation(tmp_path / "stopped", **values) == (scores, rows)
    candidates = [row["candidates"] for row in rows]
    assert all(len(texts) == 5 for texts in candidates) and max(len(set(texts)) for texts in candidates) > 1
    predictions, references = [row["prediction"] for row in rows], [row["reference"] for row in rows]
    assert predictions == [texts[best_candidates(texts, chrf_utility)[0][0]] for texts in candidates]
    assert scores["bleu4"] == translation_scores(predictions, references)["bleu4"] == scores["choice"]["mbr"]["bleu4"]
    single = translation_scores([texts[0] for texts in candidates], references)
    assert scores["choice"]["single"] == {"bleu4": single["bleu4"], "chrf": single["chrf"]}
    assert (scores["choice"]["num_candidates"], scores["choice"]["choose_by"]) == (5, "chrf")
    oracle = translation_scores(oracle_texts(candidates, references), references)
    assert scores["choice"]["oracle"] == {"bleu4": oracle["bleu4"], "chrf": oracle["chrf"]}
    assert scores["diversity"] == diversity_scores(candidates)


def test_japanese_is_scored_by_character(tmp_path):
    scores, _ = run_evaluation(tmp_path / "scores", max_clips=2, spoken_language="ja")
    assert "tok:char" in scores["signatures"]["bleu4"]


@pytest.fixture
def interrupted(tmp_path, monkeypatch) -> Path:
    """The output folder of an evaluation that was stopped after four of six clips."""
    monkeypatch.setattr(evaluate_model, "BATCHES_BETWEEN_WRITES", 1)
    predict, num_calls = FLaLLMTrainer.predict, iter(range(2))

    def predict_twice(self, dataset):
        if next(num_calls, None) is None:
            raise KeyboardInterrupt
        return predict(self, dataset)

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(FLaLLMTrainer, "predict", predict_twice)
        evaluate_model.run_evaluation(evaluation_flags(tmp_path / "scores", batch_size=2))
    return tmp_path / "scores"


@pytest.mark.parametrize("torn", ["", '{"file_name": "test_0', "\ufffd"])
def test_an_evaluation_goes_on_where_it_was_stopped(interrupted, tmp_path, torn, monkeypatch, capsys):
    kept = interrupted / "predictions.unfinished.jsonl"
    assert [path.name for path in interrupted.iterdir()] == [kept.name]
    assert len(kept.read_text(encoding="utf-8").splitlines()) == 5
    with kept.open("ab") as file:
        file.write(torn.encode()[:-1])
    predict, sizes = FLaLLMTrainer.predict, []
    monkeypatch.setattr(FLaLLMTrainer, "predict", lambda self, part: sizes.append(len(part)) or predict(self, part))
    result = run_evaluation(interrupted, batch_size=2)
    assert sizes == [2]
    assert f"Resuming after 4 of 6 clips, which {kept} holds." in capsys.readouterr().out
    assert {path.name for path in interrupted.iterdir()} == {"scores.json", "scores.png", "predictions.jsonl"}
    assert result == run_evaluation(tmp_path / "whole")


def test_predictions_are_kept_where_scoring_fails(tmp_path, monkeypatch, capsys):
    with monkeypatch.context() as patch:
        patch.setattr(evaluate_model, "write_results", lambda *arguments: (_ for _ in ()).throw(OSError("disk full")))
        assert error_of(evaluate_model.main, evaluation_flags(tmp_path / "scores"), capsys) == "disk full"
    monkeypatch.setattr(FLaLLMTrainer, "predict", None)
    _, rows = run_evaluation(tmp_path / "scores")
    assert len(rows) == 6


def test_a_stopped_evaluation_with_other_settings_or_clips_is_not_mixed_in(interrupted, tmp_path, capsys):
    kept = interrupted / "predictions.unfinished.jsonl"
    before = kept.read_bytes()
    cure = "To go on with it, give the command as it was; else name a new --output_dir, or delete this file."
    holds = f"{kept} holds predictions of an evaluation that has not ended,"
    argv = evaluation_flags(interrupted, split="dev", num_beams=2)
    settings = "with other settings (num_beams, split)"
    assert error_of(evaluate_model.main, argv, capsys) == f"{holds} {settings}. {cure}"
    lines = kept.read_text(encoding="utf-8").splitlines(keepends=True)
    kept.write_text("".join([lines[0], *lines[2:]]), encoding="utf-8")
    clips = "of other clips (it has test_00001.mp4, now test_00000.mp4)"
    assert error_of(evaluate_model.main, evaluation_flags(interrupted), capsys) == f"{holds} {clips}. {cure}"
    for content in (b"", b"[1]\n", b"\xff\n", before.replace(b"{", b"", 1)):
        kept.write_bytes(content)
        assert error_of(evaluate_model.main, evaluation_flags(interrupted), capsys) == (
            f"{kept} cannot be read as predictions of an evaluation. Delete it to start over."
        )
    kept.write_bytes(before)
    run_evaluation(interrupted, lowercase=True)
    message = f"--output_dir {interrupted} is not empty. Name a new folder, or remove this one."
    assert error_of(evaluate_model.main, evaluation_flags(interrupted), capsys) == message


def test_an_evaluation_of_another_model_in_the_same_folder_is_not_gone_on_with(tmp_path, monkeypatch, capsys):
    model = shutil.copytree(trained_model(), tmp_path / "model")
    kept = tmp_path / "scores" / "predictions.unfinished.jsonl"
    with monkeypatch.context() as patch:
        patch.setattr(evaluate_model, "write_results", lambda *arguments: (_ for _ in ()).throw(OSError("disk full")))
        argv = evaluation_flags(tmp_path / "scores", model=model, max_clips=1)
        assert error_of(evaluate_model.main, argv, capsys) == "disk full"
    (weights,) = model.glob("*.safetensors")
    os.utime(weights, (0, 0))
    assert error_of(evaluate_model.main, argv, capsys).startswith(
        f"{kept} holds predictions of an evaluation that has not ended, with other settings (weights)."
    )


def test_a_model_saved_with_several_sentences_for_each_clip(tmp_path):
    model = shutil.copytree(trained_model(), tmp_path / "model")
    generation = json.loads((model / "generation_config.json").read_text(encoding="utf-8"))
    for number in (1, 2):
        generation |= {"num_beams": 2, "num_return_sequences": number}
        (model / "generation_config.json").write_text(json.dumps(generation), encoding="utf-8")
        run_evaluation(tmp_path / f"scores {number}", model=model, max_clips=3)
    assert len({(tmp_path / f"scores {number}" / "scores.json").read_bytes() for number in (1, 2)}) == 1


@pytest.mark.parametrize("trained", [trained_model, pytest.param(trained_llava_slt, marks=pytest.mark.slow)])
def test_a_text_model_whose_config_names_another_padding_than_the_tokenizer(trained, tmp_path):
    """The Trainer fills up sentences as the tokenizer pads: by the config it would write that token behind each."""
    model = shutil.copytree(trained(), tmp_path / "model")
    generation = json.loads((model / "generation_config.json").read_text(encoding="utf-8"))
    longer = json.dumps({**generation, "max_length": 30})  # than the sentences of this evaluation: it fills them up
    (model / "generation_config.json").write_text(longer, encoding="utf-8")
    tokenizer = AutoTokenizer.from_pretrained(model)
    visible = tokenizer("this", add_special_tokens=False)["input_ids"][-1]
    config = json.loads((model / "config.json").read_text(encoding="utf-8"))
    config["text_config"]["pad_token_id"] = visible
    (model / "config.json").write_text(json.dumps(config), encoding="utf-8")
    assert AutoConfig.from_pretrained(model).pad_token_id == visible != tokenizer.pad_token_id
    by_config = run_evaluation(tmp_path / "config", model=model, generation_max_length=12)
    assert by_config == run_evaluation(tmp_path / "tokenizer", model=trained(), generation_max_length=12)


def test_one_clip_whose_prediction_is_empty(tmp_path, monkeypatch):
    monkeypatch.setattr("processing.FLaLLMProcessor.batch_decode", lambda self, ids, **options: [""] * len(ids))
    scores, rows = run_evaluation(tmp_path / "scores", max_clips=1)
    assert (scores["num_segments"], scores["num_empty_predictions"], scores["bleu4"]) == (1, 1, 0.0)
    assert rows[0]["prediction"] == ""


def test_scores_do_not_depend_on_the_unicode_form_of_the_references(tmp_path):
    """The tiny model writes the first sentence in another form than the table."""
    (clip,) = clips(1)
    (sentence,) = one_by_one([clip])
    sentence = f"{sentence} für"
    for form in ("NFC", "NFD"):
        folder = tmp_path / form / "test"
        folder.mkdir(parents=True)
        shutil.copy(clip, folder)
        text = unicodedata.normalize(form, sentence).replace(" ", "\u00a0" if form == "NFD" else " ")
        (folder / "metadata.csv").write_text(f'file_name,text\n{clip.name},"{text}"\n', encoding="utf-8")
    results = [run_evaluation(tmp_path / f"{form} scores", dataset=tmp_path / form) for form in ("NFC", "NFD")]
    assert results[0][0] == results[1][0] and results[0][1] != results[1][1]


@pytest.mark.parametrize("nothing", ["\u200b", "\ufeff\u00ad"])
def test_a_sentence_that_nobody_sees_is_reported_before_the_work(nothing, tmp_path, capsys):
    folder = video_folder(tmp_path / "corpus", f"file_name,text\na.mp4,rain\nb.mp4,{nothing}\n", split="test")
    error = error_of(evaluate_model.main, evaluation_flags(tmp_path / "scores", dataset=folder), capsys)
    assert error.startswith(f"1 sentence(s) of {folder} (test) are empty, the first in row 1 (counted from 0).")


@pytest.mark.parametrize(
    ("name", "value", "expected"),
    [
        ("batch_size", 0, "--batch_size must be 1 or more, got 0."),
        ("num_beams", 0, "--num_beams must be from 1 to 100, got 0."),
        ("num_candidates", 0, "--num_candidates must be from 1 to 1000, got 0."),
        ("choose_by", "chrf", "--choose_by chooses among candidates: pass --num_candidates, how many to write."),
        ("num_workers", 0, f"--num_workers must be from 1 to {most_workers()}, got 0."),
        ("generation_max_length", 1, "--generation_max_length must be from 2 to 10000, got 1."),
        ("device", "cuda:7", "--device must be {devices}, got 'cuda:7'. Of several GPUs, CUDA_VISIBLE_DEVICES chooses "
            "one, and torchrun uses all."),
        ("learning_rate", 1, "unknown flag 'learning_rate'. See --help for all of them."),
        ("predict_with_generate", False, "unknown flag 'predict_with_generate'. See --help for all of them."),
    ],
)  # fmt: skip
def test_flags_that_an_evaluation_cannot_have_are_refused_before_the_work(name, value, expected, tmp_path, capsys):
    devices = " or ".join(dict.fromkeys((default_device().type, "cpu")))
    error = error_of(evaluate_model.main, evaluation_flags(tmp_path / "scores", **{name: value}), capsys)
    assert error == expected.replace("{devices}", devices)
    assert not (tmp_path / "scores").exists()


def test_flags_of_an_evaluation_reach_the_trainer(tmp_path):
    generation = GenerationArguments(
        batch_size=3, num_beams=2, generation_max_length=7, num_workers=1, num_threads=1, device="cpu",
        preprocess_on_device=True, disable_tqdm=True,
    )  # fmt: skip
    run = evaluate_model.run_arguments(str(tmp_path / "scores"), generation)
    assert (run.eval_batch_size, run.generation_num_beams, run.generation_max_length) == (3, 2, 7)
    assert (run.dataloader_num_workers, run.num_threads, run.device.type) == (1, 1, "cpu")
    assert run.preprocess_on_device and run.disable_tqdm and run.output_dir == str(tmp_path / "scores")
    assert run.predict_with_generate and run.eval_strategy == "no" and not run.bf16


def test_an_evaluation_with_a_generation_config_of_its_own(tmp_path):
    """One that stops each sentence after its first tokens, given as a file, and the same length given as a flag."""
    config = json.loads((trained_model() / "generation_config.json").read_text(encoding="utf-8"))
    (tmp_path / "generation_config.json").write_text(json.dumps({**config, "max_length": 4}), encoding="utf-8")
    _, by_file = run_evaluation(tmp_path / "file", max_clips=2, generation_config=tmp_path / "generation_config.json")
    _, by_flag = run_evaluation(tmp_path / "flag", max_clips=2, generation_max_length=4)
    _, whole = run_evaluation(tmp_path / "whole", max_clips=2)
    assert by_file == by_flag != whole


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        ({"split": "exam"}, "{corpus} must hold a folder for the split 'exam', it has ['dev', 'test', 'train']."),
        (
            {"model": "{language_model}"},
            "'{language_model}' holds no FLa-LLM or LLaVA-SLT or Uni-Sign or MMSLT or DiffSLT model, but one of type "
            "'mbart'.",
        ),
        (
            {"text_column": "sentence"},
            "{corpus}/test/metadata.csv must have the column 'sentence', got ['file_name', 'text', 'gloss', 'signer', "
            "'handedness']. Pass --text_column.",
        ),
    ],
)
def test_mistakes_at_evaluation(values, expected, tmp_path, capsys):
    names = {"corpus": corpus(), "language_model": language_model()}
    values = {name: value.format(**names) for name, value in values.items()}
    assert error_of(evaluate_model.main, evaluation_flags(tmp_path / "scores", **values), capsys) == expected.format(
        **names
    )
    assert not (tmp_path / "scores").exists()


# Translate


def run_translate(capsys, *arguments, status: int = 0) -> tuple[str, str]:
    """-> standard output and standard error"""
    argv = ["--model", str(trained_model()), "--device", "cpu", "--dtype", "float32", *map(str, arguments)]
    capsys.readouterr()  # of the model, which the first test makes
    assert translate.main(argv) == status
    captured = capsys.readouterr()
    return captured.out, captured.err


def test_one_file(capsys):
    (clip,) = clips(1)
    output, errors = run_translate(capsys, clip)
    assert output == f"{clip}\t{one_by_one([clip])[0]}\n"
    assert errors.count("Computing in float32 on a processor with") == 1


def test_many_files_in_batches_are_what_each_is_alone(capsys):
    lengths = {
        len(load_trained(str(trained_model()))[1](videos=str(clip))["pixel_values_videos"][0]) for clip in clips()
    }
    assert len(lengths) > 1
    expected = [f"{clip}\t{sentence}" for clip, sentence in zip(clips(), one_by_one(clips()), strict=True)]
    for batch_size in (1, 4, 8):
        output, _ = run_translate(capsys, *clips(), "--batch_size", batch_size)
        assert output.splitlines() == expected
    backwards, _ = run_translate(capsys, *reversed(clips()))
    assert backwards.splitlines() == expected[::-1]


def test_folders_are_searched_to_the_bottom(tmp_path, capsys):
    for number, name in enumerate(("b.mp4", "a/c.MP4", "a/b/d.webm", "notes.txt", "picture.png")):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(clips()[number], tmp_path / name)
    output, _ = run_translate(capsys, tmp_path, clips()[0])
    named = [line.split("\t")[0] for line in output.splitlines()]
    assert named == [str(tmp_path / name) for name in ("a/b/d.webm", "a/c.MP4", "b.mp4")] + [str(clips()[0])]


def test_formats_and_output_file(tmp_path, capsys):
    sentences = one_by_one(clips(2))
    expected = [{"file": str(c), "text": s, "error": ""} for c, s in zip(clips(2), sentences, strict=True)]
    output, _ = run_translate(capsys, *clips(2), "--format", "jsonl")
    assert [json.loads(line) for line in output.splitlines()] == expected
    output, _ = run_translate(capsys, *clips(2), "--format", "csv")
    assert list(csv.DictReader(io.StringIO(output))) == expected
    for format_name in ("text", "jsonl", "csv"):
        on_screen, _ = run_translate(capsys, *clips(2), "--format", format_name)
        path = tmp_path / f"translations.{format_name}"
        silent, _ = run_translate(capsys, *clips(2), "--format", format_name, "--output", path)
        assert path.read_text(encoding="utf-8") == on_screen and silent == ""


def test_bad_files_do_not_stop_the_others(tmp_path, capsys):
    good = clips(3)
    text = tmp_path / "text.mp4"
    text.write_text("this is no video", encoding="utf-8")
    truncated = cut(good[0], 0.4, tmp_path / "truncated.mp4")
    audio = write_audio(tmp_path / "audio.mp4")
    missing = tmp_path / "missing.mp4"
    empty = tmp_path / "empty.mp4"
    empty.touch()
    paths = [text, good[0], truncated, good[1], audio, missing, good[2], empty]
    for format_name in ("text", "jsonl"):
        output, errors = run_translate(capsys, *paths, "--batch_size", 3, "--format", format_name, status=1)
        *_, headline, text_line, truncated_line, audio_line, missing_line, empty_line = errors.splitlines()
        assert headline == "5 of 8 file(s) could not be translated:"
        assert text_line == (
            f"  {text}: '{text}' is not a video that can be read (InvalidDataError). Expected mp4, mov, webm, mkv, "
            "avi, ..."
        )
        assert truncated_line.startswith(f"  {truncated}: '{truncated}' is an mp4 or mov file without a readable index")
        assert audio_line == f"  {audio}: '{audio}' has no video track (only: audio). Pass a video file."
        assert missing_line.startswith(f"  {missing}: There is no video file '{missing}'.")
        assert empty_line.startswith(f"  {empty}: '{empty}' is empty (0 bytes).")
    rows = [json.loads(line) for line in output.splitlines()]
    assert [row["file"] for row in rows] == [str(path) for path in paths]
    assert [row["text"] for row in rows if not row["error"]] == one_by_one(good)
    assert all((row["text"] == "") == bool(row["error"]) for row in rows)
    on_screen, _ = run_translate(capsys, text, good[0], status=1)
    assert [line.split("\t")[0] for line in on_screen.splitlines()] == [str(good[0])]


def test_only_bad_files(tmp_path, capsys):
    output, errors = run_translate(capsys, tmp_path / "missing.mp4", status=1)
    assert output == "" and "1 of 1 file(s) could not be translated:" in errors


@pytest.fixture
def demanding_model(tmp_path) -> Path:
    """A model that needs 17 frames for its first token and takes at most 24 tokens."""
    model, processor = load_trained(str(trained_model()))
    model.config.vision_config.temporal_padding = "none"
    model.config.vision_config.temporal_blocks = ["K17"]
    model.config.text_config.max_position_embeddings = 24
    processor.video_processor.frame_sampling_rate = 1.0
    type(model)(model.config).save_pretrained(tmp_path / "model")
    processor.save_pretrained(tmp_path / "model")
    return tmp_path / "model"


@pytest.fixture
def talk(tmp_path) -> Path:
    """Two sentences with a rest in between."""
    (tmp_path / "talks").mkdir()
    return write_video(tmp_path / "talks" / "talk.mp4", signing([("sign", 2.0), ("rest", 1.0), ("sign", 3.0)]))


def test_a_long_video_is_translated_sentence_by_sentence(talk, capsys):
    model, processor = load_trained(str(trained_model()))
    segments = processor.video_processor.split_at_rests(str(talk))
    assert len(segments) == 2
    sentences = [one_by_one([talk], start=segment.start, end=segment.end)[0] for segment in segments]
    output, _ = run_translate(capsys, "--long", talk)
    assert output == f"{talk}\t{' '.join(sentences)}\n"
    row = json.loads(run_translate(capsys, "--long", "--format", "jsonl", talk)[0])
    assert [piece["text"] for piece in row["pieces"]] == sentences
    assert [piece["start"] for piece in row["pieces"]] == pytest.approx([0, 2.5], abs=0.15)
    assert row["text"] == " ".join(sentences) and row["error"] == ""
    rows = list(csv.DictReader(io.StringIO(run_translate(capsys, "--long", "--format", "csv", talk)[0])))
    expected = [{name: str(value) for name, value in piece.items()} for piece in row["pieces"]]
    assert rows == [{"file": str(talk), **piece, "error": ""} for piece in expected]
    row = json.loads(run_translate(capsys, "--long", "--format", "jsonl", "--start", 2.5, talk)[0])
    assert [piece["start"] for piece in row["pieces"]] == pytest.approx([2.5], abs=0.05)


@pytest.mark.parametrize("long", [False, True])
def test_captions_lie_beside_the_video_and_never_replace_a_file(long, talk, capsys):
    options = ["--srt", "--vtt", *(["--long"] if long else [])]
    output, _ = run_translate(capsys, talk, *options)
    captions = {name: pysubs2.load(str(talk.with_suffix(f".{name}"))) for name in ("srt", "vtt")}
    for lines in captions.values():
        assert len(lines) >= (2 if long else 1)
        assert lines[0].start == 0 and lines[-1].end == pytest.approx(6000, abs=50)
    shown = unicodedata.normalize("NFKC", " ".join(line.plaintext for line in captions["srt"]))
    assert "".join(shown.split()) == "".join(unicodedata.normalize("NFKC", output).split("\t")[1].split())
    talk.with_suffix(".vtt").write_text("mine", encoding="utf-8")
    talk.with_suffix(".srt").unlink()
    other = shutil.copy(clips()[0], talk.with_name("other.mp4"))
    output, errors = run_translate(capsys, talk.parent, *options, status=1)
    path = talk.with_suffix(".vtt")
    assert f"  {talk}: {path} already exists. Move it away to have new captions written." in errors.splitlines()
    assert path.read_text(encoding="utf-8") == "mine" and not talk.with_suffix(".srt").exists()
    assert output.startswith(f"{other}\t") and Path(other).with_suffix(".srt").exists()


def test_long_videos_that_cannot_be_translated(talk, capsys):
    still = write_video(talk.with_name("still.mp4"), signing([("rest", 3.0)]))
    broken = cut(talk, 0.5, talk.with_name("broken.mp4"))
    output, errors = run_translate(capsys, "--long", "--srt", broken, still, talk, status=1)
    assert [line.split("\t")[0] for line in output.splitlines()] == [str(talk)]
    assert f"  {still}: Nobody moves in {still}: there is nothing to translate." in errors.splitlines()
    assert f"  {broken}: '{broken}' is an mp4 or mov file without a readable index" in errors
    assert sorted(path.name for path in talk.parent.glob("*.srt")) == ["talk.srt"]


def test_clips_that_are_too_short_or_too_long_for_the_model(demanding_model, tmp_path, capsys):
    for name, num_frames in (("short", 16), ("good", 17), ("also_good", 40), ("long", 41)):
        write_video(tmp_path / f"{name}.mp4", counting_frames(num_frames, 32, 32))
    paths = [str(tmp_path / f"{name}.mp4") for name in ("short", "good", "long", "also_good")]
    assert translate.main(["--model", str(demanding_model), "--device", "cpu", "--format", "jsonl", *paths]) == 1
    captured = capsys.readouterr()
    rows = [json.loads(line) for line in captured.out.splitlines()]
    assert [bool(row["error"]) for row in rows] == [True, False, True, False]
    assert rows[0]["error"] == (
        f"'{paths[0]}' is too short to translate: 16 frame(s) are left after sampling, and the model needs at least "
        "17. Use a longer part of it, or keep more of its frames (`frame_sampling_rate` of the video processor)."
    )
    assert rows[2]["error"].startswith(
        f"'{paths[2]}' is too long to translate. The video gives 25 visual tokens, but the text model 'mbart' takes at "
        "most 24."
    )


def test_start_and_end_in_seconds(capsys):
    clip = clips(1)[0]
    for options in ({"start": 0.5}, {"end": 1.0}, {"start": 0.25, "end": 1.25}):
        output, _ = run_translate(capsys, clip, *[text for n, v in options.items() for text in (f"--{n}", v)])
        assert output == f"{clip}\t{one_by_one([clip], **options)[0]}\n"
    _, errors = run_translate(capsys, clip, "--start", 99, status=1)
    assert f"`start`=99 seconds lies beyond the end of '{clip}'" in errors
    for wrong, expected in (
        (["--start", "2", "--end", "1"], "--start must come before --end, got 2 and 1 seconds."),
        (["--start", "-1"], "--start must be 0 or more, got -1.0."),
        (["--end", "nan"], "--end must be 0 or more, got nan."),
        (["--start", "inf"], "--start must be 0 or more, got inf."),
    ):
        assert error_of(translate.main, ["--model", "m", str(clip), *wrong], capsys) == expected


def test_beams(monkeypatch, capsys):
    trained_model()  # whose making generates, too
    used = []
    original = FLaLLMForTranslation.generate

    def generate(self, *arguments, **named_arguments):
        used.append(named_arguments.get("num_beams", self.generation_config.num_beams))
        return original(self, *arguments, **named_arguments)

    monkeypatch.setattr(FLaLLMForTranslation, "generate", generate)
    run_translate(capsys, clips()[0])
    run_translate(capsys, clips()[0], "--num_beams", 3)
    assert used == [2, 3]


def test_the_best_of_several_samples(capsys):
    few = clips(3)
    first, _ = run_translate(capsys, *few, "--num_candidates", 5, "--choose_by", "chrf")
    again, _ = run_translate(capsys, *few, "--num_candidates", 5, "--choose_by", "chrf")
    assert first == again and len(first.splitlines()) == 3
    argv = ["--model", str(trained_model()), str(few[0]), "--num_candidates", "5", "--num_beams", "2"]
    assert error_of(translate.main, argv, capsys).startswith("5 candidates need 5 beams or more, or else sampling")


def test_a_folder_without_videos(tmp_path, capsys):
    (tmp_path / "notes.txt").touch()
    _, errors = run_translate(capsys, tmp_path, status=2)
    left_out = f"Left out 1 file(s) in {tmp_path} that are not videos: notes.txt\n"
    assert errors == f"{left_out}error: There is no video in {tmp_path}.\n"


def test_a_folder_of_camcorders_phones_and_macos(tmp_path, capsys):
    videos = [
        "00001.MTS",
        "a.m2ts",
        "b.wmv",
        "c.FLV",
        "d.3gp",
        "e.ogv",
        "f.mxf",
        "g.DV",
        "h.vob",
        "sub/i.QT",
        "sub/j.ts",
    ]
    others = ["app/index.ts", "go.mod", "notes.txt", "sub/photo.JPG"]
    hidden = ["._a.mp4", ".DS_Store", "__MACOSX/b.mp4", "__MACOSX/._b.mp4", ".trash/c.mp4"]
    for name in [*videos, *others, *hidden]:
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_bytes(b"export {};" if name in others else b"G\0")
    assert translate.find_videos([str(tmp_path)], "no model is needed") == sorted(tmp_path / name for name in videos)
    named = ", ".join(str(Path(name)) for name in others)
    assert capsys.readouterr().err == f"Left out 4 file(s) in {tmp_path} that are not videos: {named}\n"


def test_a_folder_that_is_no_model(tmp_path, capsys):
    for folder, expected in (
        (
            language_model(),
            f"{str(language_model())!r} holds no FLa-LLM or LLaVA-SLT or Uni-Sign or MMSLT or DiffSLT model, but one "
            "of type 'mbart'.",
        ),
        (
            tmp_path / "missing",
            f"{str(tmp_path / 'missing')!r} cannot be loaded as a FLa-LLM or LLaVA-SLT or Uni-Sign or MMSLT or DiffSLT "
            "model with its processor: ",
        ),
    ):
        assert error_of(translate.main, ["--model", str(folder), str(clips()[0])], capsys).startswith(expected)


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (
            ["--output", "{folder}/old.txt"],
            "--output {folder}/old.txt already exists. Name a new file, or delete this one.",
        ),
        (["--output", "{folder}/no/new.txt"], "--output {folder}/no/new.txt: there is no folder {folder}/no"),
        (["--batch_size", "0"], "--batch_size must be 1 or more, got 0"),
        (["--device", "toaster"], "--device toaster cannot be used here; leave it out for {device}"),
        (["--num_beams", "0"], "--num_beams must be from 1 to 100, got 0."),
        (["--num_beams", "-3"], "--num_beams must be from 1 to 100, got -3."),
        (["--num_beams", "1000000"], "--num_beams must be from 1 to 100, got 1000000."),
        (["--num_beam", "3"], "unknown flag 'num_beam'. Did you mean 'num_beams'?"),
        (["--outptu=x.csv"], "unknown flag 'outptu'. Did you mean 'output'?"),
        (["--start", "soon"], "argument --start: invalid float value: 'soon'"),
        (["--format", "xml"], "argument --format: invalid choice: 'xml'"),
    ],
)
def test_mistakes_on_the_command_line_are_found_before_any_work(arguments, expected, tmp_path, capsys):
    (tmp_path / "old.txt").write_text("mine", encoding="utf-8")
    default_device = "cuda" if torch.cuda.is_available() else "cpu"
    arguments = [argument.format(folder=tmp_path) for argument in arguments]
    error = error_of(translate.main, ["clip.mp4", "--model", str(trained_model()), *arguments], capsys)
    assert error.startswith(expected.format(folder=tmp_path, device=default_device))
    assert (tmp_path / "old.txt").read_text(encoding="utf-8") == "mine"


@pytest.mark.skipif(not REAL_VIDEOS.is_dir(), reason="the recorded clips are not part of the repository")
def test_recorded_clips(capsys):
    paths = sorted(REAL_VIDEOS.glob("*.mp4"))
    assert len(paths) == 2
    output, _ = run_translate(capsys, REAL_VIDEOS)
    lines = output.splitlines()
    assert [line.split("\t")[0] for line in lines] == [str(path) for path in paths]
    assert all(line.split("\t")[1] for line in lines)


def test_grey_and_turned_videos_of_other_sizes(tmp_path, capsys):
    frames = random_generator().integers(0, 256, (30, 90, 50, 3), dtype=np.uint8)
    paths = [
        write_video(tmp_path / "turned.mp4", frames, rotation=90),
        write_video(tmp_path / "one_frame.mp4", frames[:1]),
        write_video(tmp_path / "browser.webm", frames[:, :48], live=True),
    ]
    output, _ = run_translate(capsys, *paths)
    assert output.splitlines() == [f"{path}\t{s}" for path, s in zip(paths, one_by_one(paths), strict=True)]


def test_the_model_is_left_in_evaluation_mode_and_without_gradients():
    model, processor = load_trained(str(trained_model()))
    assert not any(module.training for module in model.modules())
    before = {name: value.clone() for name, value in model.state_dict().items()}
    clip = torch.randint(0, 256, (5, 3, 32, 32), dtype=torch.uint8)
    translator = build_translator(model, processor)
    encoded = translator.encode_clips([{"frames": clip, "times": None}])
    assert not encoded.vision_output.last_hidden_state.requires_grad
    assert len(translator.write_sentences(encoded)) == 1
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
