"""What the quickstarts say about the remaining time, each signer, and a failing step."""

import subprocess
import sys
from types import SimpleNamespace

import pytest

from train_scripts.commands import quickstart, quickstart_llava_slt
from train_scripts.commands.quickstart import QuickstartArguments, TimeLeft, print_signers, seconds_of_steps
from train_scripts.commands.quickstart_llava_slt import LlavaSltQuickstartArguments


@pytest.fixture
def clock(monkeypatch) -> SimpleNamespace:
    """`seconds` are those since the beginning."""
    now = SimpleNamespace(seconds=0.0)
    fake = SimpleNamespace(monotonic=lambda: 1e4 + now.seconds, sleep=lambda seconds: None)
    monkeypatch.setattr(quickstart, "time", fake)
    return now


def test_what_is_done_says_how_long_the_rest_takes(clock):
    time_left = TimeLeft({"first": 10, "second": 30})
    assert time_left.seconds_left() is None
    clock.seconds = 10.0
    time_left.tell(0.5)  # 5 of 40
    assert time_left.seconds_left() == pytest.approx(70)
    time_left.begin("second")
    clock.seconds = 30.0
    time_left.tell(1 / 3)  # 20 of 40
    assert time_left.seconds_left() == pytest.approx(30)
    time_left.on_step_end(None, SimpleNamespace(global_step=3, max_steps=3), None)
    assert time_left.seconds_left() == 0


def test_a_line_now_and_then_and_the_first_within_a_minute(clock, capsys):
    time_left = TimeLeft({"first": 10, "second": 30})
    for second in range(1, 101):
        clock.seconds = float(second)
        time_left.tell(second / 100)
    lines = capsys.readouterr().out.splitlines()
    assert lines == ["about 6 min left", "about 6 min left", "about 5 min left"]  # after 30, 60 and 90 of 400 seconds
    clock.seconds = 395.0
    time_left.begin("second")
    time_left.tell(295 / 300)
    assert capsys.readouterr().out == "about 5 s left\n"


@pytest.mark.parametrize(
    ("module", "kind"), [(quickstart, QuickstartArguments), (quickstart_llava_slt, LlavaSltQuickstartArguments)]
)
def test_each_size_makes_the_steps_longer_that_it_counts_for(module, kind):
    usual = seconds_of_steps(module.WORK, kind())
    assert usual == {step: seconds for step, (seconds, _) in module.WORK.items()}
    longer = seconds_of_steps(module.WORK, kind(num_train_clips=3 * kind().num_train_clips, stage2_epochs=1))
    assert longer["corpus"] == pytest.approx(3 * usual["corpus"])
    assert longer["stage 2"] == pytest.approx(3 * usual["stage 2"] / kind().stage2_epochs)
    assert longer["test"] == usual["test"]


def test_the_signers_of_a_test_are_printed_in_one_line(capsys):
    print_signers({"by_signer": {"b": {"bleu4": 35.355, "num_segments": 2}, "a": {"bleu4": 100.0, "num_segments": 1}}})
    assert capsys.readouterr().out == "Test signers by BLEU-4, worst first: b 35.35, a 100.00\n"


def test_a_corpus_that_cannot_be_rendered_ends_the_run(tmp_path, clock, monkeypatch):
    command = [sys.executable, "-c", "raise SystemExit(3)"]
    started = subprocess.Popen(command)
    started.wait()
    monkeypatch.setattr(quickstart.subprocess, "Popen", lambda command: started)
    arguments = QuickstartArguments(output_dir=str(tmp_path))
    with pytest.raises(ValueError, match=r"^the corpus could not be rendered: see above \(exit status 3\)$"):
        quickstart.make_corpus(arguments, quickstart.Folders(tmp_path), TimeLeft({"corpus": 1}))


@pytest.mark.parametrize(("given", "expected"), [(None, "3000"), ("7", "7")])
def test_waiting_threads_sleep_soon_unless_the_user_says_otherwise(monkeypatch, given, expected):
    monkeypatch.delenv("GOMP_SPINCOUNT", raising=False)
    if given is not None:
        monkeypatch.setenv("GOMP_SPINCOUNT", given)
    code = "import sys, train_scripts, os; assert 'torch' not in sys.modules; print(os.environ['GOMP_SPINCOUNT'])"
    printed = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert printed.strip() == expected
