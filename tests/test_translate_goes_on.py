"""flallm translate keeps finished work after kills, Ctrl-C, too little memory and broken files."""

import csv
import io
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pysubs2
import pytest
import torch
from signing_pictures import signing
from tiny_corpus import corpus, error_of, trained_llava_slt, trained_model
from video_files import write_video

from modeling_flallm import SignLanguageTranslationPipeline
from modeling_flallm.calibration_slt import CALIBRATION_FILE
from train_scripts.commands import translate
from train_scripts.runs import translation_results, translation_streams, video_translation
from train_scripts.runs.quantization import load_to_translate
from train_scripts.runs.trained_models import load_trained
from train_scripts.runs.translation_results import journal_path

pytestmark = pytest.mark.slow

ROOT = Path(__file__).resolve().parent.parent
MODEL = ["--device", "cpu", "--dtype", "float32"]
PLAN = [("sign", 2.0), ("rest", 1.0), ("sign", 2.0), ("rest", 1.0), ("sign", 2.0)]


@pytest.fixture
def videos(tmp_path) -> list[Path]:
    sources = sorted((corpus() / "test").glob("*.mp4"))
    (tmp_path / "videos").mkdir()
    return [Path(shutil.copy(sources[n % 4], tmp_path / "videos" / f"{n}.mp4")) for n in range(6)]


@pytest.fixture
def talk(tmp_path) -> Path:
    """Three sentences."""
    (tmp_path / "talks").mkdir()
    return write_video(tmp_path / "talks" / "talk.mp4", signing(PLAN))


def command(*arguments, model=None) -> list[str]:
    return ["--model", str(model or trained_model()), *MODEL, *map(str, arguments)]


def run(capsys, *arguments, status: int = 0, model=None) -> tuple[str, str]:
    """-> standard output and standard error, without progress bars"""
    argv = command(*arguments, model=model)
    capsys.readouterr()  # of the model, which the first test makes
    assert translate.main(argv) == status
    output, errors = capsys.readouterr()
    return output, "\n".join(line.rpartition("\r")[2] for line in errors.splitlines())


def stop_after(monkeypatch, number: int, error: BaseException, name: str = "_write") -> None:
    """The function of video_translation.py raises after this many calls."""
    original, calls = getattr(video_translation, name), []

    def stopping(*arguments):
        calls.append(1)
        if len(calls) > number:
            raise error
        return original(*arguments)

    monkeypatch.setattr(video_translation, name, stopping)


# Tables


@pytest.mark.parametrize("format_name", ["text", "jsonl", "csv"])
def test_the_same_command_goes_on_where_it_was_stopped(format_name, videos, tmp_path, capsys, monkeypatch):
    expected, _ = run(capsys, *videos, "--format", format_name)
    path = tmp_path / "out.txt"
    wanted = (*videos, "--format", format_name, "--batch_size", 1, "--output", path)
    with monkeypatch.context() as patch:
        stop_after(patch, 4, KeyboardInterrupt())
        _, errors = run(capsys, *wanted, status=130)
    assert errors.endswith("Stopped. With --output, running the same command again resumes after what is finished.")
    assert not path.exists()  # never half of it under its name
    settings, *entries = map(json.loads, journal_path(path).read_text(encoding="utf-8").splitlines())
    assert settings["settings"]["--model"] == str(trained_model()) and len(entries) == 4
    with monkeypatch.context() as patch:
        stop_after(patch, 2, AssertionError("only two are left"))
        _, errors = run(capsys, *wanted)
    assert f"Resuming: 4 of 6 video(s) are finished, see {journal_path(path)}." in errors.splitlines()
    assert path.read_text(encoding="utf-8") == expected
    assert not journal_path(path).exists()


def test_a_line_that_was_torn_off_is_translated_again(videos, tmp_path, capsys, monkeypatch):
    expected, _ = run(capsys, *videos)
    path = tmp_path / "out.txt"
    with monkeypatch.context() as patch:
        stop_after(patch, 3, KeyboardInterrupt())
        run(capsys, *videos, "--batch_size", 1, "--output", path, status=130)
    content = journal_path(path).read_bytes()
    journal_path(path).write_bytes(content[:-20])
    with monkeypatch.context() as patch:
        stop_after(patch, 2, KeyboardInterrupt())
        _, errors = run(capsys, *videos, "--batch_size", 1, "--output", path, status=130)
    assert "Resuming: 2 of 6 video(s) are finished" in errors
    _, errors = run(capsys, *videos, "--output", path)
    assert "Resuming: 4 of 6 video(s) are finished" in errors
    assert path.read_text(encoding="utf-8") == expected


def test_a_video_that_changed_is_translated_again(videos, tmp_path, capsys, monkeypatch):
    path = tmp_path / "out.txt"
    with monkeypatch.context() as patch:
        stop_after(patch, 5, KeyboardInterrupt())
        run(capsys, *videos, "--batch_size", 1, "--output", path, status=130)
    for video in videos:
        os.utime(video, ns=(1, 1))
    _, errors = run(capsys, *videos, "--output", path)
    assert "Resuming" not in errors and len(path.read_text(encoding="utf-8").splitlines()) == 6


def test_other_settings_are_refused_with_what_to_delete(videos, tmp_path, capsys, monkeypatch):
    path = tmp_path / "out.txt"
    with monkeypatch.context() as patch:
        stop_after(patch, 1, KeyboardInterrupt())
        run(capsys, *videos, "--batch_size", 1, "--output", path, status=130)
    advice = f"Run the original command, or delete {journal_path(path)} to start over."
    for flags, text in (
        (["--num_beams", 3], "--num_beams left out, now it is 3"),
        (["--start", 0.1], "--start left out, now it is 0.1"),
        (["--long"], "--long left out, now it is True"),
    ):
        assert error_of(translate.main, command(*videos, "--output", path, *flags), capsys) == (
            f"--output {path} was begun with {text}. {advice}"
        )
    # What changes nothing of the sentences may be changed.
    run(capsys, *videos, "--output", path, "--batch_size", 4, "--format", "csv", "--num_workers", 2)
    assert len(list(csv.DictReader(io.StringIO(path.read_text(encoding="utf-8"))))) == 6


@pytest.mark.parametrize("content", [b"", b"{}\n", b"no json\n", b'{"settings": 3}\n', b"\xff\n", b"[1]\n"])
def test_a_journal_that_cannot_be_read_is_named(content, videos, tmp_path, capsys):
    path = tmp_path / "out.txt"
    journal_path(path).write_bytes(content)
    assert error_of(translate.main, command(*videos, "--output", path), capsys) == (
        f"{journal_path(path)} cannot be read as what is finished of --output {path}. Delete it to start over."
    )


def test_a_run_that_finished_nothing_is_no_obstacle(videos, tmp_path, capsys, monkeypatch):
    """A typo in --model, or too many beams for the memory: the next command has other settings."""
    path = tmp_path / "out.txt"
    error_of(translate.main, ["--model", str(tmp_path / "no_model"), *map(str, videos), "--output", str(path)], capsys)
    assert not journal_path(path).exists()
    with monkeypatch.context() as patch:
        stop_after(patch, 0, torch.OutOfMemoryError())
        run(capsys, *videos, "--output", path, "--num_beams", 9, status=1)
    assert journal_path(path).exists()
    run(capsys, *videos, "--output", path, "--num_beams", 2)
    assert len(path.read_text(encoding="utf-8").splitlines()) == 6 and not journal_path(path).exists()


@pytest.mark.skipif(sys.platform != "linux", reason="other systems take no such names")
@pytest.mark.parametrize("format_name", ["text", "jsonl", "csv"])
def test_a_name_that_is_no_utf_8(format_name, videos, tmp_path, capsys):
    odd = Path(os.fsdecode(os.fsencode(videos[0].parent) + b"/clip_\xfc.mp4"))
    shutil.copy(videos[0], odd)
    expected, _ = run(capsys, videos[0], "--format", format_name)
    output, _ = run(capsys, odd, "--format", format_name)
    path = tmp_path / "out.txt"
    run(capsys, odd, videos[0], "--format", format_name, "--output", path)
    assert path.read_text(encoding="utf-8") == output + expected.splitlines(keepends=True)[-1]
    assert output.replace("clip_\\\\udcfc", "0").replace("clip_\\udcfc", "0") == expected


def test_bad_files_alone_are_tried_again(videos, tmp_path, capsys, monkeypatch):
    expected, _ = run(capsys, *videos)
    good = videos[2].read_bytes()
    videos[2].write_bytes(b"no video")
    path = tmp_path / "out.txt"
    _, errors = run(capsys, *videos, "--output", path, status=1)
    assert (
        errors.splitlines()[-1] == f"Run the same command again to retry these; {journal_path(path)} keeps the others."
    )
    assert len(path.read_text(encoding="utf-8").splitlines()) == 5
    videos[2].write_bytes(good)
    stop_after(monkeypatch, 1, AssertionError("only one is left"))
    run(capsys, *videos, "--output", path)
    assert path.read_text(encoding="utf-8") == expected and not journal_path(path).exists()


def test_a_finished_output_is_nobodys_to_replace(videos, tmp_path, capsys):
    path = tmp_path / "out.txt"
    run(capsys, videos[0], "--output", path)
    before = path.read_bytes()
    assert error_of(translate.main, command(videos[0], "--output", path), capsys) == (
        f"--output {path} already exists. Name a new file, or delete this one."
    )
    assert path.read_bytes() == before


def test_standard_output_gets_each_line_as_soon_as_those_before_it_are_there(videos, capsys, monkeypatch):
    expected, _ = run(capsys, *videos)
    stop_after(monkeypatch, 4, KeyboardInterrupt())
    output, _ = run(capsys, *videos, "--batch_size", 1, status=130)
    assert len(output.splitlines()) == 4 and set(output.splitlines()) < set(expected.splitlines())


def test_only_the_first_of_several_processes_translates(videos, tmp_path, capsys, monkeypatch):
    path = tmp_path / "out.txt"
    monkeypatch.setenv("RANK", "1")
    run(capsys, *videos, "--output", path)
    assert not path.exists() and not journal_path(path).exists()
    monkeypatch.setenv("RANK", "0")
    run(capsys, *videos, "--output", path)
    assert len(path.read_text(encoding="utf-8").splitlines()) == 6


def test_a_video_named_twice_is_translated_once(videos, capsys):
    output, _ = run(capsys, videos[0], videos[0].parent, videos[1])
    assert [line.split("\t")[0] for line in output.splitlines()] == [str(video) for video in videos]


@pytest.mark.skipif(not hasattr(signal, "SIGKILL"), reason="needs SIGKILL")
def test_a_killed_run_leaves_its_sentences(videos, tmp_path, capsys):
    expected, _ = run(capsys, *videos)
    path = tmp_path / "out.txt"
    arguments = command(*videos, "--batch_size", 1, "--output", path)
    slow = (
        "import sys, time\n"
        "from train_scripts.commands import translate\n"
        "from train_scripts.runs import video_translation\n"
        "write = video_translation._write\n"
        "video_translation._write = lambda *arguments: (time.sleep(0.3), write(*arguments))[1]\n"
        "sys.exit(translate.main(sys.argv[1:]))\n"
    )
    process = subprocess.Popen([sys.executable, "-c", slow, *arguments], cwd=ROOT, stderr=subprocess.DEVNULL)
    while not journal_path(path).exists() or journal_path(path).read_text().count("\n") < 3:
        time.sleep(0.05)
        assert process.poll() is None
    process.kill()
    process.wait()
    assert not path.exists()
    _, errors = run(capsys, *videos, "--output", path)
    assert re.search(r"Resuming: [2-6] of 6 video", errors)
    assert path.read_text(encoding="utf-8") == expected


# Too little memory, and unforeseen errors


@pytest.mark.parametrize(
    "error",
    [
        torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 3 GiB."),
        RuntimeError("[enforce fail at alloc_cpu.cpp:121] DefaultCPUAllocator: can't allocate memory: you tried ..."),
        MemoryError(),
        RuntimeError("something of a library"),
    ],
    ids=["cuda", "cpu", "python", "other"],
)
@pytest.mark.parametrize("where", ["encode_clips", "write_sentences"])
def test_what_a_batch_cannot_do_its_clips_do_alone(error, where, videos, capsys, monkeypatch):
    expected, _ = run(capsys, *videos)
    original = getattr(SignLanguageTranslationPipeline, where)

    def only_alone(self, clips, **arguments):
        if len(clips if where == "encode_clips" else clips.num_frames) > 1:
            raise error
        return original(self, clips, **arguments)

    monkeypatch.setattr(SignLanguageTranslationPipeline, where, only_alone)
    output, errors = run(capsys, *videos, "--batch_size", 3)
    assert output == expected and "could not be translated" not in errors


@pytest.mark.parametrize("where", ["encode_clips", "write_sentences", "read_clip"])
@pytest.mark.parametrize(
    ("error", "text"),
    [
        (torch.OutOfMemoryError("CUDA out of memory."), "There is not enough memory for it. Try --dtype bfloat16 or"),
        (RuntimeError("something\nof a library"), "RuntimeError: something of a library"),
        (IndexError("list index out of range"), "IndexError: list index out of range"),
    ],
)
def test_one_bad_video_costs_that_video_only(where, error, text, videos, capsys, monkeypatch):
    bad = videos[3]
    bad.write_bytes(sorted((corpus() / "train").glob("*.mp4"))[0].read_bytes())
    expected, _ = run(capsys, *[video for video in videos if video != bad])
    frames = video_translation.build_translator(
        *load_to_translate(str(trained_model()), torch.device("cpu"), "float32")
    ).read_clip(bad)["frames"]
    steps = SignLanguageTranslationPipeline
    original_encode, original_write = steps.encode_clips, steps.write_sentences
    seen = []

    def encode(self, clips, **arguments):
        is_bad = any(torch.equal(clip["frames"], frames) for clip in clips)
        if is_bad and where == "encode_clips":
            raise error
        encoded = original_encode(self, clips, **arguments)
        if is_bad:
            seen.append(encoded)
        return encoded

    def write(self, encoded, **arguments):
        if where == "write_sentences" and any(encoded is each for each in seen):
            raise error
        return original_write(self, encoded, **arguments)

    monkeypatch.setattr(steps, "encode_clips", encode)
    monkeypatch.setattr(steps, "write_sentences", write)
    if where == "read_clip":
        read = type(load_to_translate(str(trained_model()), torch.device("cpu"), "float32")[1].video_processor)
        original = read.__call__
        monkeypatch.setattr(
            read,
            "__call__",
            lambda self, video, *a, **k: (
                (_ for _ in ()).throw(error) if video == str(bad) else original(self, video, *a, **k)
            ),
        )
    output, errors = run(capsys, *videos, "--batch_size", 3, status=1)
    assert output == expected
    assert "1 of 6 file(s) could not be translated:" in errors and f"  {bad}: {text}" in errors


def test_a_traceback_of_a_bad_video_can_be_seen(videos, capsys, monkeypatch):
    stop_after(monkeypatch, 0, RuntimeError("something of a library"))
    _, errors = run(capsys, videos[0], status=1)
    assert "Traceback" not in errors
    _, errors = run(capsys, videos[0], "--debug", status=1)
    assert "Traceback (most recent call last):" in errors


# What a calibrated model reports, and clips that are longer than those it knows


@pytest.fixture(params=["flallm", "llava_slt"])
def calibrated(request, tmp_path) -> Path:
    folder = tmp_path / "model"
    shutil.copytree(trained_model() if request.param == "flallm" else trained_llava_slt(), folder)
    size = load_trained(str(folder))[0].vision_model.config.hidden_size
    calibration = {
        "slope": 1.5,
        "intercept": 0.25,
        "lowest_score": -100.0,
        "mean_features": [1.0] * size,
        "largest_distance": 1.0,
    }
    (folder / CALIBRATION_FILE).write_text(json.dumps(calibration), encoding="utf-8")
    return folder


@pytest.mark.parametrize("num_beams", [1, 3])
def test_a_calibrated_model_says_how_sure_it_is(num_beams, calibrated, videos, capsys):
    model, processor = load_trained(str(calibrated))
    translator = SignLanguageTranslationPipeline(model=model, processor=processor, device="cpu")
    answers = [translator(str(video), return_scores=True, num_beams=num_beams) for video in videos]
    wanted = (*videos, "--batch_size", 3, "--num_beams", num_beams)
    lines = run(capsys, *wanted, "--format", "jsonl", model=calibrated)[0].splitlines()
    for row, video, answer in zip(map(json.loads, lines), videos, answers, strict=True):
        assert list(row) == ["file", "text", "confidence", "familiar", "error"]
        assert (row["file"], row["text"], row["familiar"]) == (
            str(video),
            answer["translation_text"],
            answer["is_familiar"],
        )
        assert row["confidence"] == pytest.approx(answer["confidence"], abs=1e-4)
    videos[1].write_bytes(b"no video")
    output, _ = run(capsys, *wanted, "--format", "csv", model=calibrated, status=1)
    for row, answer in zip(csv.DictReader(io.StringIO(output)), answers, strict=True):
        is_bad = row["file"] == str(videos[1])
        assert list(row) == ["file", "text", "confidence", "familiar", "error"]
        assert row["familiar"] == ("" if is_bad else str(answer["is_familiar"]))
        assert (row["confidence"] == "") == is_bad == bool(row["error"])


def test_a_calibrated_model_says_how_sure_it_is_of_each_sentence(calibrated, talk, tmp_path, capsys):
    model, processor = load_trained(str(calibrated))
    translator = SignLanguageTranslationPipeline(model=model, processor=processor, device="cpu")
    answers = list(translator.translate_long(str(talk), return_scores=True))
    path = tmp_path / "out.csv"
    run(capsys, "--long", talk, "--format", "csv", "--output", path, model=calibrated)
    rows = list(csv.DictReader(io.StringIO(path.read_text(encoding="utf-8"))))
    assert list(rows[0]) == ["file", "start", "end", "text", "confidence", "familiar", "error"]
    for row, answer in zip(rows, answers, strict=True):
        assert (row["text"], row["familiar"]) == (answer["translation_text"], str(answer["is_familiar"]))
        assert float(row["confidence"]) == pytest.approx(answer["confidence"], abs=1e-4)


def test_a_run_does_not_go_on_after_another_calibration(calibrated, videos, tmp_path, capsys, monkeypatch):
    """Else one table would hold confidences of both."""
    path = tmp_path / "out.csv"
    with monkeypatch.context() as patch:
        stop_after(patch, 1, KeyboardInterrupt())
        run(capsys, *videos, "--batch_size", 1, "--output", path, model=calibrated, status=130)
    (calibrated / CALIBRATION_FILE).write_text('{"slope": 1.0, "intercept": 0.5}', encoding="utf-8")
    error = error_of(translate.main, command(*videos, "--output", path, model=calibrated), capsys)
    assert error.startswith(f"--output {path} was begun with model files of ")


def test_clips_longer_than_those_of_the_training_are_reported(talk, videos, capsys, monkeypatch):
    headline = (
        "1 of 2 file(s) are longer than every clip that the model was trained on, so their sentences may be invented. "
        "Add --long to have them split into sentences:"
    )
    model, processor = load_trained(str(trained_model()))
    tokens = [
        model.vision_model.get_num_tokens(len(processor(videos=str(video))["pixel_values_videos"][0]))
        for video in (videos[0], talk)
    ]
    monkeypatch.setattr(translation_streams, "longest_clip_of_training", lambda name: tokens[0])
    assert tokens[0] < tokens[1]
    _, errors = run(capsys, talk, videos[0])
    place = errors.splitlines().index(headline)
    assert re.fullmatch(rf"  {re.escape(str(talk))}: 8\.\d seconds", errors.splitlines()[place + 1])
    assert "longer than" not in run(capsys, "--long", talk)[1]
    monkeypatch.setattr(translation_streams, "longest_clip_of_training", lambda name: tokens[1])
    assert "longer than" not in run(capsys, talk, videos[0])[1]


# Captions


def captions_of(video: Path) -> dict[str, str]:
    paths = {name: video.with_suffix(f".{name}") for name in ("srt", "vtt")}
    return {name: path.read_text(encoding="utf-8") for name, path in paths.items() if path.exists()}


@pytest.mark.parametrize("long", [False, True])
@pytest.mark.parametrize("has_output", [False, True])
def test_finished_captions_are_no_failure(long, has_output, talk, tmp_path, capsys):
    """As left by a run that was killed after them, or between the two."""
    options = ["--srt", "--vtt", *(["--long"] if long else [])]
    run(capsys, talk, *options)
    expected = captions_of(talk)
    assert set(expected) == {"srt", "vtt"}
    options += ["--output", tmp_path / "out.txt"] if has_output else []
    output, errors = run(capsys, talk, *options)
    assert captions_of(talk) == expected
    said = (
        "1 of 1 video(s) already have their captions and are left out. Move these files away to have new ones written."
    )
    assert (said in errors.splitlines()) != has_output and output == ""
    assert not has_output or (tmp_path / "out.txt").read_text(encoding="utf-8").startswith(f"{talk}\t")
    (tmp_path / "out.txt").unlink(missing_ok=True)
    talk.with_suffix(".vtt").unlink()  # as if killed between the two
    run(capsys, talk, *options)
    assert captions_of(talk) == expected


def test_captions_that_were_removed_since_are_written_again(videos, tmp_path, capsys, monkeypatch):
    path = tmp_path / "out.txt"
    with monkeypatch.context() as patch:
        stop_after(patch, 4, KeyboardInterrupt())
        run(capsys, *videos, "--srt", "--batch_size", 1, "--output", path, status=130)
    written = sorted(videos[0].parent.glob("*.srt"))
    assert len(written) == 4
    content = written[0].read_bytes()
    written[0].unlink()
    run(capsys, *videos, "--srt", "--output", path)
    assert len(sorted(videos[0].parent.glob("*.srt"))) == 6 and written[0].read_bytes() == content


def test_half_captions_are_never_left(talk, capsys, monkeypatch):
    original = os.replace

    def stop(source, target):
        if str(target).endswith(".vtt"):
            raise KeyboardInterrupt
        original(source, target)

    with monkeypatch.context() as patch:
        patch.setattr(os, "replace", stop)
        run(capsys, talk, "--srt", "--vtt", "--long", status=130)
    assert sorted(path.name for path in talk.parent.iterdir()) == ["talk.mp4", "talk.srt"]
    assert len(pysubs2.load(str(talk.with_suffix(".srt")))) >= 3
    run(capsys, talk, "--srt", "--vtt", "--long")
    assert set(captions_of(talk)) == {"srt", "vtt"}


def test_two_videos_that_would_share_captions(talk, capsys):
    other = Path(shutil.copy(talk, talk.with_suffix(".mov")))
    output, errors = run(capsys, other, talk, "--srt", status=1)
    assert output.startswith(f"{other}\t") and len(output.splitlines()) == 1
    problem = f"Its captions would be {talk.with_suffix('.srt')}, like those of {other}. Rename one of the two videos."
    assert f"  {talk}: {problem}" in errors.splitlines()


# Long videos


def test_a_long_video_goes_on_within_it(talk, tmp_path, capsys, monkeypatch):
    expected, _ = run(capsys, "--long", talk, "--format", "csv")
    path = tmp_path / "out.csv"
    wanted = ("--long", talk, "--format", "csv", "--output", path)
    add_piece, told = translation_results.Journal.add_piece, []

    def add_and_stop(self, video, piece):
        add_piece(self, video, piece)
        told.append(piece["piece"])
        if len(told) == 2:
            raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(translation_results.Journal, "add_piece", add_and_stop)
        run(capsys, *wanted, status=130)
    assert told == [0, 1] and not path.exists()

    def add_and_tell(self, video, piece):
        add_piece(self, video, piece)
        told.append(piece["piece"])

    monkeypatch.setattr(translation_results.Journal, "add_piece", add_and_tell)
    run(capsys, *wanted)
    assert told == [0, 1, 1, 2]  # of the last one there might have been more to come
    assert path.read_text(encoding="utf-8") == expected


def test_sentences_before_an_error_stay_in_the_table(talk, capsys, monkeypatch):
    whole = list(csv.DictReader(io.StringIO(run(capsys, "--long", talk, "--format", "csv")[0])))
    pieces = video_translation.SignLanguageTranslationPipeline.translate_pieces

    def break_off(self, *arguments, **options):
        answers = pieces(self, *arguments, **options)
        yield next(answers)
        raise torch.OutOfMemoryError("CUDA out of memory.")

    monkeypatch.setattr(video_translation.SignLanguageTranslationPipeline, "translate_pieces", break_off)
    output, errors = run(capsys, "--long", "--srt", talk, "--format", "csv", status=1)
    first, last = csv.DictReader(io.StringIO(output))
    assert first == whole[0]
    assert last["error"].startswith("There is not enough memory for it.") and last["text"] == ""
    assert captions_of(talk) == {}
    (row,) = map(json.loads, run(capsys, "--long", talk, "--format", "jsonl", status=1)[0].splitlines())
    assert [piece["text"] for piece in row["pieces"]] == [whole[0]["text"]] and row["error"]
