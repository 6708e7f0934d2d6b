"""What a model that was trained on one way of signing learns at the end: to tell it from the other one."""

import itertools
import math

import torch

from modeling_flallm.handedness_slt import direction_of_hands

from .sharded_models import whole_parameters
from .trainers import ClipTrainer

MOST_CLIPS = 500  # ours


def learn_hand(trainer: ClipTrainer) -> None:
    """
    Set the `handedness_direction` of the trained model's configuration from its validation clips, which are all in the
    way of signing that it expects, see `direction_of_hands`.
    """
    model, args = trainer.model, trainer.args
    num_batches = math.ceil(MOST_CLIPS / (args.eval_batch_size * args.world_size))
    differences = []
    with whole_parameters(trainer):
        for batch in itertools.islice(trainer.get_eval_dataloader(), num_batches):
            inputs = trainer._prepare_inputs(batch)
            model.eval()
            clips = {name: inputs[name] for name in model.vision_model.input_names if name in inputs}
            with trainer.compute_loss_context_manager():
                differences.append(trainer.accelerator.gather_for_metrics(model.hand_differences(**clips)).float())
    model.config.handedness_direction = direction_of_hands(torch.cat(differences).cpu())
