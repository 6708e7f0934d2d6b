"""
A small run of all of FLa-LLM: corpus, language model, stage 1, stage 2, calibration, scores, pictures and a translated
clip.

    flallm quickstart --output_dir quickstart_output

`make quickstart` sets up the environment and calls this. Everything is written to the output folder.
"""

import math
import os
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from transformers import TrainerCallback

from ..arguments.command_line import START_ANEW, run_command
from ..arguments.commands import COMMANDS
from ..arguments.dataclass_parser import flags
from ..arguments.flag_values import check_new_folder
from ..arguments.quickstart_arguments import QuickstartArguments, QuickstartSizes
from ..machine.atomic_files import unfinished_folder
from ..machine.processes import in_words
from ..runs.pictures import draw_contact_sheet, draw_learning_curves
from ..scores.metrics import TITLE_OF_SCORE
from ..scores.report import controls_of
from ..stages import llm_fine_tuning, pretrain_language_model, visual_initialing
from . import calibrate, evaluate_model

# For the model cards. qsl is not the code of any sign language: ISO 639-3 reserves qaa to qtz for local use.
CORPUS = {"dataset_name": "Invented sign language, rendered", "sign_language": "qsl", "spoken_language": "en"}
# torch's CPU library prepares each operation again for each new number of frames in a batch, and by default forgets it
# after 1024 others, which is a few steps of training.
NUM_KEPT_OPERATIONS = 16384
CORPUS_RESOLUTION = 72
NUM_CONTROL_CLIPS = 30  # that are translated without what they show
SECONDS_BETWEEN_LINES = 30.0
SECONDS_BETWEEN_COUNTS = 0.5
# Seconds of each step with the default sizes, on two cores without bfloat16, and the sizes they scale with: they tell
# which share of the run each step is.
WORK = {
    "corpus": (30, ["num_train_clips"]),
    "language model": (30, ["num_text_only_sentences", "language_model_epochs"]),
    "stage 1": (275, ["num_train_clips", "stage1_epochs"]),
    "stage 2": (95, ["num_train_clips", "stage2_epochs"]),
    "calibration": (3, ["num_dev_clips"]),
    "test": (25, ["num_test_clips"]),
}


@dataclass
class Folders:
    """Where each part of the run is written."""

    output: Path

    def __post_init__(self):
        self.corpus = self.output / "corpus"
        self.test_clips = self.corpus / "test"
        self.language_model = self.output / "language_model"
        self.stage1 = self.output / "stage1"
        self.model = self.output / "model"
        self.test_stage1 = self.output / "test_stage1"
        self.test = self.output / "test_stage2"


class TimeLeft(TrainerCallback):
    """
    Prints how much time a run of several steps has left. In the training steps it is a callback of the Trainer.

    Args:
        work: how long each step takes, in any unit: the work done so far tells how long a unit takes here.
    """

    def __init__(self, work: Mapping[str, float]):
        self.work = dict(work)
        self._began = self._told = time.monotonic()
        self._step, self._share = next(iter(self.work)), 0.0

    def begin(self, step: str) -> None:
        """Marks the steps before it as done."""
        self._step, self._share = step, 0.0

    def tell(self, share: float) -> None:
        """Reports that this share of the step is done, from 0 to 1; prints a line now and then."""
        self._share = share
        now = time.monotonic()
        left = self.seconds_left()
        if left is not None and now - self._told >= SECONDS_BETWEEN_LINES:
            self._told = now
            print(f"about {in_words(left)} left", flush=True)

    def seconds_left(self) -> float | None:
        """`None` before any work is done."""
        names = list(self.work)
        before = sum(self.work[name] for name in names[: names.index(self._step)])
        done = before + self._share * self.work[self._step]
        return (sum(self.work.values()) - done) / done * (time.monotonic() - self._began) if done else None

    def on_step_end(self, args, state, control, **kwargs):
        self.tell(state.global_step / state.max_steps)


def make_corpus(arguments: QuickstartArguments, folders: Folders, time_left: TimeLeft) -> None:
    """In a separate process, so that its workers do not import what training needs: that would take as long."""
    counts = {name: getattr(arguments, name) for name in ("num_train_clips", "num_dev_clips", "num_test_clips")}
    values = {**counts, "num_text_only_sentences": arguments.num_text_only_sentences, "seed": arguments.seed}
    options = flags(output_dir=folders.corpus, resolution=CORPUS_RESOLUTION, **values)
    rendering = subprocess.Popen([sys.executable, "-m", "train_scripts.commands.generate_corpus", *options])
    while rendering.poll() is None:
        time.sleep(SECONDS_BETWEEN_COUNTS)
        finished = [*folders.corpus.glob("*/*.mp4"), *unfinished_folder(folders.corpus).glob("*/*.mp4")]
        time_left.tell(len(finished) / sum(counts.values()))
    if rendering.returncode != 0:
        raise ValueError(f"the corpus could not be rendered: see above (exit status {rendering.returncode})")


def pretrain(arguments: QuickstartSizes, folders: Any, time_left: TimeLeft) -> None:
    pretrain_language_model.train(
        flags(
            config="quickstart_language_model",
            text_file=folders.corpus / "text_only.txt",
            num_train_epochs=arguments.language_model_epochs,
            seed=arguments.seed,
            output_dir=folders.language_model,
        ),
        [time_left],
    )


def train_stage1(arguments: QuickstartArguments, folders: Folders, time_left: TimeLeft) -> None:
    visual_initialing.train(
        flags(
            config="quickstart_visual_initialing",
            dataset=folders.corpus,
            tokenizer_name_or_path=folders.language_model,
            num_train_epochs=arguments.stage1_epochs,
            seed=arguments.seed,
            output_dir=folders.stage1,
            **CORPUS,
        ),
        [time_left],
    )


def train_stage2(arguments: QuickstartArguments, folders: Folders, time_left: TimeLeft) -> None:
    llm_fine_tuning.train(
        flags(
            config="quickstart_llm_fine_tuning",
            dataset=folders.corpus,
            vision_model_name_or_path=folders.stage1,
            text_model_name_or_path=folders.language_model,
            num_train_epochs=arguments.stage2_epochs,
            seed=arguments.seed,
            output_dir=folders.model,
            **CORPUS,
        ),
        [time_left],
    )


def calibrate_model(arguments: QuickstartArguments, folders: Folders, time_left: TimeLeft) -> None:
    calibrate.run_calibration(
        flags(model=folders.model, dataset=folders.corpus, also_measure_on="test", batch_size=15, **CORPUS)
    )


STEPS = {
    "corpus": make_corpus,
    "language model": pretrain,
    "stage 1": train_stage1,
    "stage 2": train_stage2,
    "calibration": calibrate_model,
}


def test_model(
    model: Path, folders: Folders, output: Path, max_control_clips: int = NUM_CONTROL_CLIPS
) -> tuple[dict[str, Any], list[dict[str, str]]]:
    return evaluate_model.run_evaluation(
        flags(
            model=model,
            dataset=folders.corpus,
            split="test",
            batch_size=50,
            add_to_model_card=True,
            max_control_clips=max_control_clips,
            output_dir=output,
            **CORPUS,
        )
    )


def translate_in_fresh_process(folders: Any, file_name: str) -> str:
    """Uses only the saved folder, as a user of the model would."""
    command = [
        sys.executable,
        "-m",
        "train_scripts.commands.translate",
        "--dtype",
        "float32",
        "--model",
        str(folders.model),
    ]
    clip = folders.test_clips / file_name
    finished = subprocess.run([*command, str(clip)], capture_output=True, text=True, check=False)
    if finished.returncode != 0:
        raise ValueError(f"translating {clip} in a fresh process failed:\n{finished.stderr}")
    return finished.stdout.strip()


def print_scores(scores_of: Mapping[str, dict[str, Any]]) -> None:
    """One column per stage, under its name if there are several."""
    last, width = list(scores_of.values())[-1], 26 if len(scores_of) > 1 else 23
    print(f"\n{last['num_segments']} test clips, signers never seen in training (95 % interval by bootstrap)")
    if len(scores_of) > 1:
        print(f"{'':18}" + "".join(f"{stage:>{width}}" for stage in scores_of))
    for name, title in TITLE_OF_SCORE.items():
        cells = (_score_with_interval(scores, name) for scores in scores_of.values())
        print(f"{title:18}" + "".join(f"{cell:>{width}}" for cell in cells))
    print(f"BLEU-4: {last['signatures']['bleu4']}")


def _score_with_interval(scores: dict[str, Any], name: str) -> str:
    interval = scores["confidence_intervals"][name]
    return f"{scores[name]:.2f} [{interval['low']:.2f}, {interval['high']:.2f}]"


def print_signers(scores: dict[str, Any]) -> None:
    signers = (f"{name} {of_signer['bleu4']:.2f}" for name, of_signer in scores["by_signer"].items())
    print(f"Test signers by BLEU-4, worst first: {', '.join(signers)}")


def print_translations(rows: Sequence[dict[str, str]], count: int = 10) -> None:
    print(f"\n{count} translations beside their references")
    for row in rows[:count]:
        reference, translation = (" ".join(row[name].split()) for name in ("reference", "prediction"))
        print(f"  {row['file_name']}\n    reference:   {reference}\n    translation: {translation}")


def seconds_of_steps(
    work: Mapping[str, tuple[float, Sequence[str]]], arguments: QuickstartArguments
) -> dict[str, float]:
    """`WORK` scaled to these sizes."""
    default = type(arguments)()
    return {
        step: seconds * math.prod(getattr(arguments, name) / getattr(default, name) for name in sizes)
        for step, (seconds, sizes) in work.items()
    }


def run_steps(
    steps: Mapping[str, Callable[[Any, Any, TimeLeft], Any]], arguments: Any, folders: Any, work: Mapping[str, Any]
) -> str:
    """
    Runs the steps one by one, each called with `(arguments, folders, time_left)`; returns how long each took, in words.
    `work` is like `WORK`.
    """
    check_new_folder(folders.output)
    os.environ.setdefault("ONEDNN_PRIMITIVE_CACHE_CAPACITY", str(NUM_KEPT_OPERATIONS))
    seconds: dict[str, float] = {}
    time_left = TimeLeft(seconds_of_steps(work, arguments))
    for name, step in steps.items():
        print(f"\n=== {name}", flush=True)
        started = time.monotonic()
        time_left.begin(name)
        step(arguments, folders, time_left)
        seconds[name] = time.monotonic() - started
    return ", ".join(f"{name} {value:.0f} s" for name, value in seconds.items())


def show_results(
    scores: dict[str, Any], rows: Sequence[dict[str, str]], stages: Mapping[str, Path], folders: Any, durations: str
) -> None:
    """
    Prints the scores of each signer, translations, times and where everything is; draws the learning curves of the
    stages and a test clip.
    """
    print_signers(scores)
    print("\n".join(controls_of(scores)))
    draw_learning_curves(stages, folders.output / "learning_curves.png")
    clip = rows[0]["file_name"]
    draw_contact_sheet(folders.test_clips / clip, rows[0], folders.output / "contact_sheet.png")
    print_translations(rows)
    print(f"\nFrom {folders.model} in a fresh process:\n  {translate_in_fresh_process(folders, clip)}")
    print(f"\n{durations}")
    print(f"Model and processor: {folders.model}. Pictures: learning_curves.png and contact_sheet.png next to it.")


def run(argv: Sequence[str] | None = None) -> None:
    (arguments,) = COMMANDS["quickstart"].parse(argv)
    folders = Folders(Path(arguments.output_dir))
    durations = run_steps(STEPS, arguments, folders, WORK)
    print("\n=== test", flush=True)
    stage1_scores, _ = test_model(folders.stage1, folders, folders.test_stage1, max_control_clips=0)
    stage2_scores, rows = test_model(folders.model, folders, folders.test)
    print_scores({"stage 1": stage1_scores, "stage 2": stage2_scores})
    show_results(stage2_scores, rows, {"stage 1": folders.stage1, "stage 2": folders.model}, folders, durations)


def main(argv: Sequence[str] | None = None) -> int:
    return run_command(run, argv, START_ANEW)


if __name__ == "__main__":
    sys.exit(main())
