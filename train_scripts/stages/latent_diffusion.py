"""
DiffSLT's stage 2, latent diffusion: a denoiser learns to make the latents of a sentence out of noise, guided by what a
trained translation model sees in the clip (https://arxiv.org/abs/2411.17248). That model and the text autoencoder are
frozen.

    flallm train latent-diffusion --config diffslt_latent_diffusion --dataset phoenix14t/ \
        --vision_model_name_or_path stage2 --text_model_name_or_path autoencoder --output_dir diffslt

The trained model may be of any system. With `--num_pseudo_glosses 8` words that are predicted from the clip guide the
denoiser, too (DiffSLT-P). With `--cache_features True` each clip goes through the trained model once, for all epochs
and all later runs. A small run on a CPU, continuing the examples of `llm_fine_tuning.py` and `text_autoencoding.py`:

    flallm train latent-diffusion --config quickstart_diffslt_latent_diffusion --dataset corpus \
        --vision_model_name_or_path stage2 --text_model_name_or_path autoencoder --output_dir diffslt
"""

import sys
from collections import Counter
from collections.abc import Sequence

import torch
from torch.distributed.tensor.experimental import implicit_replication
from transformers import PreTrainedModel, PreTrainedTokenizerBase, TrainerCallback

from modeling_flallm import DiffSltForTranslation
from modeling_flallm.encoder_two_levels_slt import two_levels_of
from modeling_flallm.own_processing import FLaLLMProcessor

from ..arguments.command_line import GO_ON_TRAINING, run_command
from ..arguments.commands import COMMANDS
from ..arguments.data_arguments import DataArguments, FineTuningVideoArguments
from ..arguments.diffslt_stage_arguments import LatentDiffusionArguments
from ..arguments.sharding_flags import zero_stage
from ..arguments.training_arguments import FLaLLMTrainingArguments
from ..clips.splits import load_training_split
from ..runs.damaged_models import reading_model
from ..runs.generation_defaults import set_generation_defaults
from ..runs.tokenizers import open_tokenizer
from ..runs.trained_models import load_trained
from ..runs.training import run_training

COMMAND = COMMANDS["train latent-diffusion"]


class FollowTheAverage(TrainerCallback):
    """Takes the weights after each step into the average, with which the model is evaluated and saved."""

    def on_step_end(self, args, state, control, model=None, **kwargs):
        with implicit_replication():  # of the number of steps, beside weights that FSDP has split
            model.update_average()

    def on_train_end(self, args, state, control, model=None, **kwargs):
        model.keep_average()


def pseudo_glosses_of(sentences: Sequence[str], tokenizer: PreTrainedTokenizerBase, largest_share: float) -> list[int]:
    """The token ids of the sentences, without special ones and those in more than this share of the sentences."""
    counts = Counter(token for sentence in sentences for token in set(tokenizer(text_target=sentence)["input_ids"]))
    special = set(tokenizer.all_special_ids)
    most = largest_share * len(sentences)
    return sorted(token for token, count in counts.items() if token not in special and count <= most)


def build_model(
    arguments: LatentDiffusionArguments, video: FineTuningVideoArguments, sentences: Sequence[str] | None = None
) -> tuple[PreTrainedModel, FLaLLMProcessor]:
    """
    The new denoiser between the trained parts, which are frozen, and the processor: clips are prepared as for the
    trained model, except for the flags that are given, and sentences as for the text autoencoder.

    Args:
        sentences: those of the training split, for pseudo-glosses.
    """
    trained, of_trained = load_trained(arguments.vision_model_name_or_path, dtype=torch.get_default_dtype())
    prompt_ids = None
    if trained.prompt_input_names and not trained.is_prompted:
        prompt_ids = of_trained(num_visual_tokens=[1])["prompt_ids"][0]
    modality = of_trained.modality
    modality.change_part(video.given(), trained.vision_model.config)
    tokenizer = open_tokenizer(arguments.text_model_name_or_path)
    glosses = []
    if arguments.num_pseudo_glosses:
        glosses = pseudo_glosses_of(sentences, tokenizer, arguments.largest_pseudo_gloss_share)
        if not glosses:
            raise ValueError(
                "--num_pseudo_glosses: no word of the training sentences occurs in at most "
                f"{arguments.largest_pseudo_gloss_share:.0%} of them. Raise --largest_pseudo_gloss_share."
            )
    with reading_model(arguments.text_model_name_or_path):
        model = DiffSltForTranslation.from_vision_text_pretrained(
            two_levels_of(trained, prompt_ids),
            arguments.text_model_name_or_path,
            denoiser_size=arguments.denoiser_size,
            denoiser_layers=arguments.denoiser_layers,
            denoiser_heads=arguments.denoiser_heads,
            denoiser_dropout=arguments.denoiser_dropout,
            fusion_layers=arguments.fusion_layers,
            guidance_dropout=arguments.guidance_dropout,
            self_conditioning_probability=arguments.self_conditioning_probability,
            ema_decay=arguments.ema_decay,
            scheduler=arguments.scheduler,
            pseudo_gloss_ids=glosses,
            num_pseudo_glosses=arguments.num_pseudo_glosses or DiffSltForTranslation.config_class.num_pseudo_glosses,
            pseudo_gloss_weight=arguments.pseudo_gloss_weight,
        )
    model.get_scheduler()  # without diffusers, before the clips are encoded
    model.freeze_pretrained_parts()
    set_generation_defaults(model, tokenizer, arguments.num_beams)
    model.generation_config.num_inference_steps = arguments.num_inference_steps
    model.generation_config.guidance_scale = arguments.guidance_scale
    return model, FLaLLMProcessor(**{modality.slot: modality.part}, tokenizer=tokenizer)


def training_sentences(arguments: LatentDiffusionArguments, data: DataArguments) -> list[str] | None:
    """
    Those of the training split, if pseudo-glosses are taken from them.

    Raises:
        ValueError: for pseudo-glosses from a stream.
    """
    if not arguments.num_pseudo_glosses:
        return None
    if data.streaming:
        raise ValueError(
            "--num_pseudo_glosses cannot be combined with --streaming: the words come from all training sentences. "
            "Leave out one of the two."
        )
    return load_training_split(data)[0][data.text_column]


def train(argv: Sequence[str] | None = None, callbacks: Sequence[TrainerCallback] = ()) -> dict[str, float]:
    """Stage 2 from command-line arguments, with additional callbacks; returns the scores on the evaluation split."""
    arguments, data, video, augmentation, training, features = COMMAND.parse(argv, FLaLLMTrainingArguments)
    if zero_stage(training) == 3:
        raise ValueError(
            "ZeRO-3 cannot be combined with this stage: the denoiser's weights are averaged in each process, where "
            "ZeRO-3 leaves none of them. Use ZeRO-2 or --fsdp."
        )
    return run_training(
        lambda: build_model(arguments, video, training_sentences(arguments, data)),
        arguments,
        data,
        video.completed(),
        augmentation,
        training,
        features,
        [FollowTheAverage(), *callbacks],
    )


def main(argv: Sequence[str] | None = None) -> int:
    return run_command(train, argv, GO_ON_TRAINING)


if __name__ == "__main__":
    sys.exit(main())
