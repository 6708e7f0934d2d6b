"""
A small run of Uni-Sign: a corpus of poses, language model, pretraining on poses, calibration, scores, pictures and a
translated clip.

    flallm quickstart uni-sign --output_dir quickstart_uni_sign_output

`make quickstart-uni-sign` sets up the environment and calls this. Everything is written to the output folder. The
corpus is that of `quickstart.py`, but instead of videos it has the poses that an imagined detector would find in them;
`--pose_errors` sets how badly. Pretraining on poses is all the training: fine-tuning for a data set comes after
pretraining on another one.
"""

import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from ..arguments.command_line import START_ANEW, run_command
from ..arguments.commands import COMMANDS
from ..arguments.corpus_arguments import CorpusArguments
from ..arguments.dataclass_parser import flags
from ..arguments.quickstart_arguments import UniSignQuickstartArguments
from ..stages import pose_pretraining, pretrain_language_model
from .generate_corpus import POSES_FOLDER, generate_corpus
from .quickstart import (
    CORPUS,
    CORPUS_RESOLUTION,
    TimeLeft,
    calibrate_model,
    print_scores,
    run_steps,
    show_results,
    test_model,
)

# Like `WORK` of the other quickstart.
WORK = {
    "corpus": (5, ["num_train_clips"]),
    "language model": (10, ["num_text_only_sentences", "language_model_epochs"]),
    "pose pretraining": (60, ["num_train_clips", "pretraining_epochs"]),
    "calibration": (2, ["num_dev_clips"]),
    "test": (4, ["num_test_clips"]),
}


@dataclass
class Folders:
    """Where each part of the run is written."""

    output: Path

    def __post_init__(self):
        self.corpus = self.output / "corpus"
        self.test_clips = self.corpus / "test" / POSES_FOLDER
        self.language_model = self.output / "language_model"
        self.model = self.output / "model"
        self.test = self.output / "test"


def make_corpus(arguments: UniSignQuickstartArguments, folders: Folders, time_left: TimeLeft) -> None:
    """In this process: without pictures, other ones would take longer to start than the poses take."""
    generate_corpus(
        CorpusArguments(
            output_dir=str(folders.corpus),
            seed=arguments.seed,
            num_train_clips=arguments.num_train_clips,
            num_dev_clips=arguments.num_dev_clips,
            num_test_clips=arguments.num_test_clips,
            num_text_only_sentences=arguments.num_text_only_sentences,
            resolution=CORPUS_RESOLUTION,
            videos=False,
            poses=True,
            pose_errors=arguments.pose_errors,
            num_workers=1,
        )
    )


def pretrain(arguments: UniSignQuickstartArguments, folders: Folders, time_left: TimeLeft) -> None:
    """
    The language model of `quickstart.py`, but half of it, which takes a third of the time in both trainings, without
    dropout, with which few epochs on poses understand less, and with sentences in their own order: a model that has
    learned to restore shuffled ones takes less notice of the order of the signs.
    """
    pretrain_language_model.train(
        flags(
            config="quickstart_language_model",
            hidden_size=128,
            feed_forward_size=256,
            layers=1,
            dropout=0.0,
            shuffle_probability=0.0,
            text_file=folders.corpus / "text_only.txt",
            num_train_epochs=arguments.language_model_epochs,
            seed=arguments.seed,
            output_dir=folders.language_model,
        ),
        [time_left],
    )


def train_on_poses(arguments: UniSignQuickstartArguments, folders: Folders, time_left: TimeLeft) -> dict[str, float]:
    """In float32 on every processor: in layers this small bfloat16 saves no time, and it rounds the coordinates."""
    return pose_pretraining.train(
        flags(
            config="quickstart_uni_sign_pose_pretraining",
            dataset=folders.corpus,
            text_model_name_or_path=folders.language_model,
            num_train_epochs=arguments.pretraining_epochs,
            bf16=False,
            seed=arguments.seed,
            output_dir=folders.model,
            **CORPUS,
        ),
        [time_left],
    )


def run(argv: Sequence[str] | None = None) -> None:
    (arguments,) = COMMANDS["quickstart uni-sign"].parse(argv)
    folders = Folders(Path(arguments.output_dir))
    steps = {
        "corpus": make_corpus,
        "language model": pretrain,
        "pose pretraining": train_on_poses,
        "calibration": calibrate_model,
    }
    durations = run_steps(steps, arguments, folders, WORK)
    print("\n=== test", flush=True)
    scores, rows = test_model(folders.model, folders, folders.test)
    print_scores({"pose pretraining": scores})
    show_results(scores, rows, {"pose pretraining": folders.model}, folders, durations)


def main(argv: Sequence[str] | None = None) -> int:
    return run_command(run, argv, START_ANEW)


if __name__ == "__main__":
    sys.exit(main())
