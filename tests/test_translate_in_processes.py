"""flallm translate --num_processes: the same output as one process writes, whatever happens to the others."""

import shutil
from pathlib import Path

import pytest
from pool_tasks import EndsItsReceiver
from test_translate_goes_on import command, run
from tiny_corpus import corpus, error_of, trained_model

from train_scripts.arguments.translation_arguments import TranslateArguments
from train_scripts.commands import translate
from train_scripts.runs import translation_streams
from train_scripts.runs.translation_results import Journal, journal_path
from train_scripts.runs.translation_streams import translate_in_processes

pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("forked_workers")]


@pytest.fixture
def videos(tmp_path) -> Path:
    """Five clips, one of which is none, in a folder."""
    folder = tmp_path / "videos"
    folder.mkdir()
    for number, source in enumerate(sorted((corpus() / "test").glob("*.mp4"))[:4]):
        shutil.copy(source, folder / f"{number}.mp4")
    (folder / "2.mp4").write_bytes(b"no video")
    shutil.copy(folder / "1.mp4", folder / "4.mp4")
    return folder


@pytest.mark.parametrize("flags", [("--format", "csv"), ("--format", "jsonl", "--long", "--vtt")])
def test_two_processes_write_what_one_writes(flags, videos, tmp_path, capsys):
    written = []
    for number in ("1", "2"):
        output = tmp_path / f"by {number}"
        _, errors = run(
            capsys, videos, "--output", output, "--batch_size", 1, *flags, "--num_processes", number, status=1
        )
        assert f"1 of 5 file(s) could not be translated:\n  {videos / '2.mp4'}: " in errors
        assert errors.count("Computing in float32") == (1 if number == "1" else 0)  # the workers say it themselves
        captions = {path.name: path.read_bytes() for path in videos.glob("*.vtt")}
        written.append((output.read_bytes(), captions))
        for path in videos.glob("*.vtt"):
            path.unlink()
    assert written[0] == written[1] and written[0][0].count(b"\n") >= 5
    assert len(written[0][1]) == (4 if "--vtt" in flags else 0)


def test_a_video_that_ends_its_process_costs_itself_only(videos):
    arguments = TranslateArguments(str(trained_model()), [str(videos)], batch_size=1, num_processes=2, device="cpu")
    paths = [videos / "0.mp4", EndsItsReceiver(), videos / "1.mp4", videos / "3.mp4"]
    found = sorted(translate_in_processes(arguments, paths, None, False), key=lambda each: each.position)
    assert [each.file for each in found] == list(map(str, paths)) and [each.position for each in found] == [0, 1, 2, 3]
    assert found[1].error == "Translating it failed: its process ended with exit status 1."
    assert all(each.text and not each.error for each in found if each.position != 1)


def test_a_stopped_run_goes_on(videos, tmp_path, capsys, monkeypatch):
    arguments = (videos, "--output", tmp_path / "out.txt", "--num_processes", 2, "--batch_size", 1)
    add, added = Journal.add, []

    def stopping(journal, translation):
        add(journal, translation)
        added.append(translation.file)
        if len(added) == 2:
            raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(Journal, "add", stopping)
        assert translate.main(command(*arguments)) == 130
    assert journal_path(tmp_path / "out.txt").is_file() and not (tmp_path / "out.txt").exists()
    asked = []
    original = translation_streams.run_in_processes

    def watched(function, tasks, **options):
        asked.extend(str(video) for task in tasks for _, video in task)
        return original(function, tasks, **options)

    monkeypatch.setattr(translation_streams, "run_in_processes", watched)
    run(capsys, *arguments, status=1)
    broken = str(videos / "2.mp4")
    assert sorted(asked) == sorted({str(path) for path in videos.iterdir()} - ({*added} - {broken}))
    lines = (tmp_path / "out.txt").read_text(encoding="utf-8").splitlines()
    assert [line.split("\t")[0] for line in lines] == [str(videos / f"{number}.mp4") for number in (0, 1, 3, 4)]


def test_a_mistake_in_a_process_is_told_as_in_one(videos, capsys):
    mistake = ("--spoken_language", "de")
    texts = [error_of(translate.main, command(videos, *mistake, "--num_processes", n), capsys) for n in (1, 2)]
    assert texts[0] == texts[1]


def test_number_of_processes(capsys):
    text = error_of(translate.main, command("clip.mp4", "--num_processes", 0), capsys)
    assert text.startswith("--num_processes must be ")
