"""
Adapt a trained model to a new signer from clips alone: no sentences are needed, and no weight is trained.

    flallm adapt --model quickstart_output/model --dataset quickstart_output/corpus --split test --signer signer17 \
        --output_dir model_for_signer17

The clips go through the sign encoder without gradients, and the statistics of its BatchNorm layers are estimated again
(Li et al. 2016, https://arxiv.org/abs/1603.04779). Mean and variance of each layer become `n / (n + N)` of the new
ones plus `N / (n + N)` of the trained ones (Schneider et al. 2020, https://arxiv.org/abs/2006.16971), with n clips and
N from `--prior_clips`. Everything else stays bit-identical. The result is a model folder like any other.

Deviations: n counts clips, whose frames are much alike, where Schneider et al. count images. Statistics are those of
all clips together, not of a batch, so that the size and order of batches change them by rounding alone.
"""

import copy
import sys
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import datasets
import torch
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.utils.data import DataLoader
from tqdm import tqdm
from transformers import PreTrainedModel

from modeling_flallm import SignEncoder
from modeling_flallm.own_processing import FLaLLMProcessor

from ..arguments.command_arguments import AdaptationArguments
from ..arguments.command_line import run_command
from ..arguments.commands import COMMANDS
from ..arguments.data_arguments import DatasetArguments
from ..arguments.flag_values import check_new_folder
from ..clips.data import ClipDataset
from ..clips.splits import load_split
from ..hub.model_card import write_adapted_card
from ..hub.training_run import plain_name, public_name
from ..machine.atomic_files import write_folder
from ..machine.machine import default_device, describe_machine, num_loading_processes, prepare_machine
from ..runs.trained_models import load_trained

# Ours: passes end when no mean and no standard deviation of a channel moves by this share of the standard deviation.
TOLERANCE = 1e-2
MOST_SIGNERS_NAMED = 50


class Moments:
    """Number, mean and variance of the values of each channel, over several batches, in float64."""

    def __init__(self):
        self.count = 0
        self.mean: torch.Tensor | float = 0.0
        self.squares: torch.Tensor | float = 0.0  # sum of squared distances from the mean

    def add(self, values: torch.Tensor) -> None:
        """`(batch, channels, ...)`. Batches are merged about their own means (Chan et al. 1979), which is exact."""
        if not values.numel():
            return
        count = values.numel() // values.shape[1]
        dimensions = [0, *range(2, values.ndim)]
        variance, mean = (each.cpu().double() for each in torch.var_mean(values, dimensions, correction=0))
        distance, total = mean - self.mean, self.count + count
        self.squares = self.squares + variance * count + distance.square() * (self.count * count / total)
        self.mean = self.mean + distance * (count / total)
        self.count = total

    @property
    def variance(self) -> torch.Tensor:
        """Unbiased, as torch keeps it."""
        return self.squares / (self.count - 1)


@dataclass
class NewStatistics:
    """
    Args:
        by_layer: mean and variance `(channels,)` in float64, by the name of the layer in the sign encoder.
        weight: of the new statistics, from 0 to 1.
        num_passes: over the clips.
    """

    by_layer: dict[str, tuple[torch.Tensor, torch.Tensor]]
    weight: float
    num_passes: int


# Statistics


def batch_norm_layers(encoder: SignEncoder) -> dict[str, nn.Module]:
    """The layers that normalise by running statistics, by name."""
    layers = encoder.named_modules()
    return {name: layer for name, layer in layers if isinstance(layer, _BatchNorm) and layer.running_mean is not None}


@torch.no_grad()
def estimate_statistics(
    encoder: SignEncoder,
    batches: Iterable[dict[str, torch.Tensor]],
    num_clips: int,
    prior_clips: int,
    tolerance: float = TOLERANCE,
) -> NewStatistics:
    """
    The statistics that each BatchNorm layer should have, given those of the layers in front of it; the layers of
    `encoder` have them afterwards.

    Each pass measures what all layers see and sets all of their statistics. A layer is right one pass after those in
    front of it, so there are never more passes than layers, and fewer if nothing moves any more. The layers compute as
    in inference, and padding does not reach them, as in training. A layer that sees fewer than two values, such as
    those for hand crops where no clip has any, keeps its statistics.

    Args:
        encoder: in evaluation mode and float32.
        batches: its inputs by name; iterated over once in each pass, always with the same clips.
        tolerance: 0 for as many passes as there are layers, unless nothing at all moves earlier.
    """
    layers, weight = batch_norm_layers(encoder), num_clips / (num_clips + prior_clips)
    trained = {name: _statistics_of(layer) for name, layer in layers.items()}
    num_passes, largest_change = 0, float("inf")
    while num_passes < len(layers) and largest_change > tolerance:
        moments = _measure(encoder, layers, batches)
        changes = [0.0]
        for name, seen in moments.items():
            if seen.count > 1:
                pairs = zip((seen.mean, seen.variance), trained[name], strict=True)
                changes.append(_set(layers[name], *(weight * new + (1 - weight) * old for new, old in pairs)))
        largest_change = max(changes)
        num_passes += 1
    return NewStatistics({name: _statistics_of(layer) for name, layer in layers.items()}, weight, num_passes)


def _statistics_of(layer: nn.Module) -> tuple[torch.Tensor, torch.Tensor]:
    return layer.running_mean.cpu().double(), layer.running_var.cpu().double()


def _measure(
    encoder: SignEncoder, layers: dict[str, nn.Module], batches: Iterable[dict[str, torch.Tensor]]
) -> dict[str, Moments]:
    """What each layer sees."""
    moments = {name: Moments() for name in layers}

    def add(seen: Moments, layer: nn.Module, inputs: tuple[torch.Tensor, ...]) -> None:
        seen.add(inputs[0].detach())

    hooks = [layer.register_forward_pre_hook(partial(add, moments[name])) for name, layer in layers.items()]
    try:
        for batch in batches:
            encoder(**{name: batch[name].to(encoder.device) for name in encoder.input_names if name in batch})
    finally:
        for hook in hooks:
            hook.remove()
    return moments


def _set(layer: nn.Module, mean: torch.Tensor, variance: torch.Tensor) -> float:
    """-> the largest change of a mean or a standard deviation, in standard deviations before"""
    old_mean, old_variance = _statistics_of(layer)
    layer.running_mean.copy_(mean)
    layer.running_var.copy_(variance)
    new_mean, new_variance = _statistics_of(layer)
    old, new = ((each + layer.eps).sqrt() for each in (old_variance, new_variance))
    return max(((new_mean - old_mean).abs() / old).max().item(), (new / old - 1).abs().max().item())


def adapt(model: PreTrainedModel, batches: Iterable[dict[str, torch.Tensor]], **options: Any) -> NewStatistics:
    """
    Set the statistics of the model's sign encoder, in their dtype; nothing else of the model changes.

    Args:
        options: those of `estimate_statistics`, and the `device` on which to compute.

    Raises:
        ValueError: if what the layers see is not finite.
    """
    encoder = copy.deepcopy(model.vision_model).to(options.pop("device", model.device), torch.float32).eval()
    encoder.choose_memory_format()
    statistics = estimate_statistics(encoder, batches, **options)
    for name, values in statistics.by_layer.items():
        if not all(each.isfinite().all() for each in values):
            raise ValueError(
                f"The layer {name} sees values that are not finite numbers, so it has no statistics. The weights of "
                "the model seem broken, as by a training that diverged, and nothing was written."
            )
    layers = batch_norm_layers(model.vision_model)
    for name, (mean, variance) in statistics.by_layer.items():
        layers[name].running_mean.copy_(mean)
        layers[name].running_var.copy_(variance)
    return statistics


# Clips


def load_clips(arguments: AdaptationArguments) -> datasets.Dataset:
    """
    The clips of the signer, or all of the split.

    Raises:
        FileNotFoundError, ValueError: as `load_split`, and for a signer who has no clips.
    """
    name = f"{arguments.dataset} ({arguments.split})"
    clips = load_split(DatasetArguments([arguments.dataset]), arguments.split, with_sentences=False)
    if arguments.signer is not None:
        clips = clips.select(_rows_of(arguments.signer, clips, name))
    return clips if arguments.max_clips is None else clips.select(range(min(arguments.max_clips, len(clips))))


def _rows_of(signer: str, clips: datasets.Dataset, name: str) -> list[int]:
    if "signer" not in clips.column_names:
        raise ValueError(
            f"--signer needs a column signer, which {name} lacks: it has {clips.column_names}. Leave --signer out if "
            "all of its clips show the same person."
        )
    rows = [row for row, other in enumerate(clips["signer"]) if other == signer]
    if not rows:
        raise ValueError(f"--signer {signer!r} has no clip in {name}, whose signers are {_named(clips['signer'])}.")
    return rows


def _named(signers: Iterable[str | None]) -> str:
    counts = sorted(Counter("without a name" if signer is None else signer for signer in signers).items())
    shown = ", ".join(f"{signer} ({count})" for signer, count in counts[:MOST_SIGNERS_NAMED])
    return shown if len(counts) <= MOST_SIGNERS_NAMED else f"{shown} and {len(counts) - MOST_SIGNERS_NAMED} more"


def _check_encoder(model: PreTrainedModel, name: str) -> None:
    """
    Raises:
        ValueError: for a model without the layers that are adapted.
    """
    if not batch_norm_layers(model.vision_model):
        raise ValueError(
            f"The sign encoder of {name}, {type(model.vision_model).__name__}, has no BatchNorm layers, whose "
            "statistics are what `flallm adapt` estimates again. This model cannot be adapted so."
        )


class Batches:
    """The inputs of the sign encoder, read again in each pass, with a progress bar."""

    def __init__(self, clips: datasets.Dataset, processor: FLaLLMProcessor, batch_size: int, num_workers: int = 0):
        dataset, collate = ClipDataset(clips, processor.modality), processor.modality.collate
        self.loader = DataLoader(dataset, batch_size=batch_size, collate_fn=collate, num_workers=num_workers)

    def __iter__(self) -> Iterator[dict[str, Any]]:
        return iter(tqdm(self.loader, unit="batch", desc="measuring"))


# The command


def run_adaptation(argv: Sequence[str] | None = None) -> NewStatistics:
    """Adapt from command-line arguments."""
    (arguments,) = COMMANDS["adapt"].parse(argv)
    check_new_folder(Path(arguments.output_dir))
    clips = load_clips(arguments)
    # What was measured of the trained model's confidence is not true of the adapted one.
    model, processor = load_trained(arguments.model, confidence_calibration=None)
    _check_encoder(model, arguments.model)
    device = default_device()
    prepare_machine(device, arguments.num_threads)
    print(describe_machine(device, torch.float32), flush=True)
    if arguments.signer is None and len(set(clips["signer"] if "signer" in clips.column_names else ())) > 1:
        print(f"The clips are of several signers: {_named(clips['signer'])}. --signer chooses one.", file=sys.stderr)
    batches = Batches(clips, processor, arguments.batch_size, num_loading_processes(device))
    options = {"num_clips": len(clips), "prior_clips": arguments.prior_clips, "device": device}
    statistics = adapt(model, batches, **options)
    adaptation = _describe(arguments, len(clips), statistics)

    def fill(folder: Path) -> None:
        model.save_pretrained(folder)
        processor.save_pretrained(folder)
        write_adapted_card(folder, Path(arguments.output_dir).absolute().name, model, arguments.model, adaptation)

    write_folder(arguments.output_dir, fill)
    print(
        f"Estimated the statistics of {len(statistics.by_layer)} BatchNorm layers from {len(clips)} clip(s), in "
        f"{statistics.num_passes} pass(es). New ones count {statistics.weight:.2f}, trained ones "
        f"{1 - statistics.weight:.2f}. Written into {arguments.output_dir}.\nThis model has not been scored: evaluate "
        "it, and the model it was made from, on other clips of the same signer."
    )
    return statistics


def _describe(arguments: AdaptationArguments, num_clips: int, statistics: NewStatistics) -> dict[str, Any]:
    """What the model card says."""
    return {
        "base": public_name(arguments.model),
        "data": public_name(arguments.dataset),
        "split": arguments.split,
        "signer": None if arguments.signer is None else plain_name(arguments.signer),
        "num_clips": num_clips,
        "prior_clips": arguments.prior_clips,
        "weight": statistics.weight,
        "num_layers": len(statistics.by_layer),
    }


def main(argv: Sequence[str] | None = None) -> int:
    return run_command(run_adaptation, argv)


if __name__ == "__main__":
    sys.exit(main())
