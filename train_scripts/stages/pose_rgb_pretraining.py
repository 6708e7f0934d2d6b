"""
Uni-Sign's second pretraining: a model that was pretrained on poses also learns to see the hands, through a new
prior-guided fusion (https://arxiv.org/abs/2501.15187). All of it is trained.

    flallm train pose-rgb-pretraining --config uni_sign_pose_rgb_pretraining --dataset csl_news/ \
        --model_name_or_path pretrained --spoken_language zh --output_dir pretrained_rgb

The data set has the columns `poses` and `video`, of the same clips. `--model_name_or_path` is a whole model of
`flallm train pose-pretraining`, or one of this stage, whose fusion is then trained on.
"""

import sys
from collections.abc import Sequence

from transformers import TrainerCallback

from modeling_flallm import UniSignForTranslation
from modeling_flallm.own_processing import FLaLLMProcessor

from ..arguments.command_line import GO_ON_TRAINING, run_command
from ..arguments.commands import COMMANDS
from ..arguments.data_arguments import FineTuningVideoArguments
from ..arguments.stage_arguments import PoseRgbPretrainingArguments
from ..runs.fine_tuned_models import load_to_fine_tune, run_fine_tuning

COMMAND = COMMANDS["train pose-rgb-pretraining"]


def build_model(
    arguments: PoseRgbPretrainingArguments, video: FineTuningVideoArguments, spoken_language: str | None = None
) -> tuple[UniSignForTranslation, FLaLLMProcessor]:
    """
    The pretrained model with a new fusion, unless it has one, and its processor, which now also gives hand crops.

    Args:
        spoken_language: as for `load_to_fine_tune`.

    Raises:
        ValueError: as `load_to_fine_tune`, and for a model with a sign encoder that does not read poses.
    """
    model, processor = load_to_fine_tune(arguments, video, spoken_language)
    encoder = model.vision_model
    if not hasattr(encoder, "add_fusion"):
        raise ValueError(
            f"--model_name_or_path {arguments.model_name_or_path!r} must have a pose encoder to which a fusion can be "
            f"added, got {type(encoder).__name__}."
        )
    if encoder.fusion is None:
        encoder.add_fusion()
        if arguments.imagenet_weights:
            encoder.load_imagenet_weights()
    processor.modality.part.hand_crops = True
    return model, processor


def train(argv: Sequence[str] | None = None, callbacks: Sequence[TrainerCallback] = ()) -> dict[str, float]:
    """Pretrain from command-line arguments, with additional callbacks; returns the scores on the evaluation split."""
    return run_fine_tuning(COMMAND, build_model, argv, callbacks)


def main(argv: Sequence[str] | None = None) -> int:
    return run_command(train, argv, GO_ON_TRAINING)


if __name__ == "__main__":
    sys.exit(main())
