"""
Uni-Sign's fine-tuning: all of a pretrained model, for one data set and one task (https://arxiv.org/abs/2501.15187).

    flallm train unified-fine-tuning --config uni_sign_unified_fine_tuning --dataset csl_daily/ \
        --model_name_or_path pretrained --spoken_language zh --output_dir fine_tuned

`--model_name_or_path` is a whole model: of `flallm train pose-pretraining`, of an earlier fine-tuning, or Uni-Sign's
published weights, imported with `flallm import-checkpoint`. With `--target gloss` the model learns to write the glosses
of a clip, or the one gloss of an isolated sign, and evaluation also reports word error rate and accuracy.
"""

import sys
from collections.abc import Sequence

from transformers import TrainerCallback

from ..arguments.command_line import GO_ON_TRAINING, run_command
from ..arguments.commands import COMMANDS
from ..runs.fine_tuned_models import load_to_fine_tune, run_fine_tuning

COMMAND = COMMANDS["train unified-fine-tuning"]


def train(argv: Sequence[str] | None = None, callbacks: Sequence[TrainerCallback] = ()) -> dict[str, float]:
    """Fine-tune from command-line arguments, with additional callbacks; returns the scores on the evaluation split."""
    return run_fine_tuning(COMMAND, load_to_fine_tune, argv, callbacks)


def main(argv: Sequence[str] | None = None) -> int:
    return run_command(train, argv, GO_ON_TRAINING)


if __name__ == "__main__":
    sys.exit(main())
