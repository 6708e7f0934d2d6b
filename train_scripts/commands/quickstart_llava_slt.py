"""
A small run of all of LLaVA-SLT: corpus, the three stages, calibration, scores, pictures and a translated clip.

    flallm quickstart llava-slt --output_dir quickstart_llava_slt_output

`make quickstart-llava-slt` sets up the environment and calls this. Everything is written to the output folder. The
corpus is that of `quickstart.py`; the language model is a small Llama, which stage 1 makes from the text of the corpus
alone. Stage 3 trains only the connector.
"""

import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from ..arguments.command_line import START_ANEW, run_command
from ..arguments.commands import COMMANDS
from ..arguments.dataclass_parser import flags
from ..arguments.quickstart_arguments import LlavaSltQuickstartArguments
from ..stages import linguistic_pretraining, visual_contrastive_pretraining, visual_language_tuning
from .quickstart import (
    CORPUS,
    TimeLeft,
    calibrate_model,
    make_corpus,
    print_scores,
    run_steps,
    show_results,
    test_model,
)

# Like `WORK` of the other quickstart.
WORK = {
    "corpus": (20, ["num_train_clips"]),
    "stage 1": (80, ["num_text_only_sentences", "language_model_epochs"]),
    "stage 2": (190, ["num_train_clips", "stage2_epochs"]),
    "stage 3": (60, ["num_train_clips", "stage3_epochs"]),
    "calibration": (3, ["num_dev_clips"]),
    "test": (10, ["num_test_clips"]),
}


@dataclass
class Folders:
    """Where each part of the run is written."""

    output: Path

    def __post_init__(self):
        self.corpus = self.output / "corpus"
        self.test_clips = self.corpus / "test"
        self.stage1 = self.output / "stage1"
        self.stage2 = self.output / "stage2"
        self.features = self.output / "features"
        self.model = self.output / "model"
        self.test = self.output / "test"


def train_stage1(arguments: LlavaSltQuickstartArguments, folders: Folders, time_left: TimeLeft) -> dict[str, float]:
    return linguistic_pretraining.train(
        flags(
            config="quickstart_llava_slt_linguistic_pretraining",
            text_file=folders.corpus / "text_only.txt",
            spoken_language=CORPUS["spoken_language"],
            num_train_epochs=arguments.language_model_epochs,
            seed=arguments.seed,
            output_dir=folders.stage1,
        ),
        [time_left],
    )


def train_stage2(arguments: LlavaSltQuickstartArguments, folders: Folders, time_left: TimeLeft) -> dict[str, float]:
    return visual_contrastive_pretraining.train(
        flags(
            config="quickstart_llava_slt_visual_contrastive_pretraining",
            dataset=folders.corpus,
            text_model_name_or_path=folders.stage1,
            also_measure_on="test",
            num_train_epochs=arguments.stage2_epochs,
            seed=arguments.seed,
            output_dir=folders.stage2,
            **CORPUS,
        ),
        [time_left],
    )


def train_stage3(arguments: LlavaSltQuickstartArguments, folders: Folders, time_left: TimeLeft) -> dict[str, float]:
    return visual_language_tuning.train(
        flags(
            config="quickstart_llava_slt_visual_language_tuning",
            dataset=folders.corpus,
            vision_model_name_or_path=folders.stage2,
            text_model_name_or_path=folders.stage1,
            num_train_epochs=arguments.stage3_epochs,
            seed=arguments.seed,
            feature_cache_dir=folders.features,
            output_dir=folders.model,
            **CORPUS,
        ),
        [time_left],
    )


def run(argv: Sequence[str] | None = None) -> None:
    (arguments,) = COMMANDS["quickstart llava-slt"].parse(argv)
    folders = Folders(Path(arguments.output_dir))
    steps = {
        "corpus": make_corpus,
        "stage 1": train_stage1,
        "stage 2": train_stage2,
        "stage 3": train_stage3,
        "calibration": calibrate_model,
    }
    durations = run_steps(steps, arguments, folders, WORK)
    print("\n=== test", flush=True)
    scores, rows = test_model(folders.model, folders, folders.test)
    print_scores({"stage 3": scores})
    show_results(scores, rows, {"stage 2": folders.stage2, "stage 3": folders.model}, folders, durations)


def main(argv: Sequence[str] | None = None) -> int:
    return run_command(run, argv, START_ANEW)


if __name__ == "__main__":
    sys.exit(main())
