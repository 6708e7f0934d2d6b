"""Checkpoints of GFSLT-VLP and sltbaselines: the contents of their files, and their weights under our names."""

import argparse
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch

# Their prefix -> ours. The numbers are indices in their nn.Sequential of K5 P2 K5 P2: convolution, BatchNorm, ReLU,
# pooling, and the same again.
PREFIXES = {
    "backbone.conv_2d.resnet.": "vision_model.backbone.",
    "backbone.conv_1d.temporal_conv.0.": "vision_model.temporal_module.blocks.0.convolution.",
    "backbone.conv_1d.temporal_conv.1.": "vision_model.temporal_module.blocks.0.norm.",
    "backbone.conv_1d.temporal_conv.4.": "vision_model.temporal_module.blocks.2.convolution.",
    "backbone.conv_1d.temporal_conv.5.": "vision_model.temporal_module.blocks.2.norm.",
    "sign_emb.src_emb.": "adapter.first.",
    "sign_emb.bn_ac.0.": "adapter.norm.",
    "mbart.": "text_model.",
}
LEFT_OUT_PREFIXES = {
    "model_txt.": "text encoder of C2RL's contrastive loss, not part of translation",
    "logit_scale": "temperature of C2RL's contrastive loss, not part of translation",
}
TRAINING_STATE = ("optimizer", "lr_scheduler", "epoch", "args")
WORD_EMBEDDINGS = "text_model.model.shared.weight"
TIED_WEIGHTS = (
    "text_model.model.encoder.embed_tokens.weight",
    "text_model.model.decoder.embed_tokens.weight",
    "text_model.lm_head.weight",
)
BATCH_NORM_EPSILON = 1e-5  # torch's default, which neither repository changes
# Both repositories, train_slt.py (--resize, --input-size), configs/ (data.max_length) and evaluate()
FRAME_SIZE, CROP_SIZE, MAX_NUM_FRAMES, NUM_BEAMS = 256, 224, 300, 4


@dataclass
class Checkpoint:
    """Weights by the names of `gloss_free_model`, the pixel sizes, and whatever else the file holds."""

    weights: dict[str, torch.Tensor]
    frame_size: int = FRAME_SIZE
    crop_size: int = CROP_SIZE
    training_state: list[str] = field(default_factory=list)


@dataclass
class Conversion:
    """Weights by our names, and for each key of the checkpoint its targets, or the reason why it has none."""

    weights: dict[str, torch.Tensor] = field(default_factory=dict)
    targets: dict[str, list[str]] = field(default_factory=dict)
    left_out: dict[str, str] = field(default_factory=dict)

    def drop(self, name: str, reason: str) -> None:
        """Remove one of our weights; the key that filled it is listed as left out."""
        source = self._source_of(name)
        self.left_out[source] = reason
        del self.targets[source], self.weights[name]

    def redirect(self, name: str, targets: Sequence[str]) -> None:
        """Record that the key that filled `name`, which is not one of our weights after all, went into `targets`."""
        self.targets[self._source_of(name)] = list(targets)
        del self.weights[name]

    def _source_of(self, name: str) -> str:
        return next(source for source, targets in self.targets.items() if targets == [name])


def read_checkpoint(path: Path) -> Checkpoint:
    """
    Raises:
        ValueError, OSError: if the file does not exist, is damaged, or is not the checkpoint of a translation model.
    """
    weights, entries = load_weights(path)
    if any("model_images." in name for name in weights):
        raise ValueError(
            f"{path} comes from the visual-language pre-training (train_vlp.py), which has no adapter and no trained "
            "decoder. Import a checkpoint written by train_slt.py."
        )
    if unknown := sorted(map(str, set(entries) - set(TRAINING_STATE))):
        raise ValueError(f"{path} holds unknown entries: {', '.join(unknown)}.")
    return Checkpoint(weights, *_pixel_sizes(entries.get("args")), list(entries))


def load_weights(path: Path) -> tuple[dict[str, torch.Tensor], dict[str, Any]]:
    """
    The weights of a file of torch.save by their names, and what else it holds.

    Raises:
        ValueError, OSError: if the file does not exist, is damaged, or holds anything that could run code.
    """
    content = _load(path)
    if not isinstance(content, Mapping):
        raise ValueError(f"{path} holds a {type(content).__name__}, expected a dictionary with the weights as 'model'.")
    entries = dict(content) if "model" in content else {"model": content}
    weights = entries.pop("model")
    if not _are_weights_by_name(weights):
        raise ValueError(f"{path} holds no weights by name: expected them under its key 'model'.")
    if all(name.startswith("module.") for name in weights):  # saved from within DistributedDataParallel
        weights = {name.removeprefix("module."): weight for name, weight in weights.items()}
    return dict(weights), entries


def _are_weights_by_name(weights: Any) -> bool:
    if not isinstance(weights, Mapping) or not weights:
        return False
    return all(isinstance(name, str) and torch.is_tensor(weight) for name, weight in weights.items())


def _load(path: Path) -> Any:
    if not path.is_file():
        raise FileNotFoundError(f"--checkpoint {path} is not a file.")
    try:
        # Both repositories save their arguments in the best checkpoint. It is safe to allow a Namespace: it defines
        # no __reduce__ or __setstate__, so creating one only sets attributes, which come from the same restricted
        # unpickler. No function is called, and nothing else is allowed beyond what torch allows.
        with torch.serialization.safe_globals([argparse.Namespace]):
            return torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # torch raises different exceptions depending on the damage
        if asked_for := re.search(r"GLOBAL (\S+)", str(error)):
            raise ValueError(
                f"{path} is refused: loading it would call {asked_for[1]}, which does not belong in a checkpoint "
                "of weights and may run code. If you trust the file, save only its 'model' entry."
            ) from error
        raise ValueError(
            f"{path} cannot be read as a checkpoint of torch.save: it is damaged, cut off or something else."
        ) from error


def _pixel_sizes(arguments: Any) -> tuple[int, int]:
    """-> frame size and crop size; the arguments in their best checkpoint may differ from the defaults."""
    sizes = getattr(arguments, "resize", FRAME_SIZE), getattr(arguments, "input_size", CROP_SIZE)
    if not all(type(size) is int and size > 0 for size in sizes):
        raise ValueError(f"The checkpoint's `args` must give resize and input_size in pixels, got {sizes}.")
    return sizes


def convert(checkpoint: Checkpoint) -> Conversion:
    """
    The checkpoint's weights under our names, in float32.

    Raises:
        ValueError: for keys that our model cannot express.
    """
    conversion = Conversion(left_out={name: "state of the training run" for name in checkpoint.training_state})
    unknown = []
    for source, weight in checkpoint.weights.items():
        prefix = next((prefix for prefix in PREFIXES if source.startswith(prefix)), None)
        reason = next((text for start, text in LEFT_OUT_PREFIXES.items() if source.startswith(start)), None)
        if prefix is not None:
            target = PREFIXES[prefix] + source.removeprefix(prefix)
            conversion.targets[source] = [target]
            # Copied, because weights that share memory, as in a file of torch.save, would be saved only once.
            dtype = torch.float32 if weight.is_floating_point() else weight.dtype
            conversion.weights[target] = weight.to(dtype, copy=True, memory_format=torch.contiguous_format)
        elif reason is not None:
            conversion.left_out[source] = reason
        else:
            unknown.append(source)
    if unknown:
        raise ValueError(f"FLaLLM cannot express these keys of the checkpoint: {', '.join(sorted(unknown))}.")
    _drop_tied_weights(conversion)
    if "adapter.norm.running_mean" in conversion.weights:
        _fold_batch_norm(conversion)
    return conversion


def _drop_tied_weights(conversion: Conversion) -> None:
    """mBART ties one matrix in four places, and a checkpoint holds all four: keep one if they are equal, else all."""
    shared = conversion.weights.get(WORD_EMBEDDINGS)
    copies = [conversion.weights.get(name) for name in TIED_WEIGHTS]
    if shared is None or not all(copy is not None and torch.equal(copy, shared) for copy in copies):
        return
    for name in TIED_WEIGHTS:
        conversion.drop(name, "equal to mbart.model.shared.weight, with which it is tied")


def _fold_batch_norm(conversion: Conversion) -> None:
    """A linear layer and BatchNorm in evaluation form one affine map; in float64 to avoid rounding twice."""
    first, norm = ("adapter.first.weight", "adapter.first.bias"), "adapter.norm."
    names = [*first, *(norm + name for name in ("weight", "bias", "running_mean", "running_var"))]
    weight, bias, gain, shift, mean, variance = (weight_of(conversion.weights, name).double() for name in names)
    scale = gain / torch.sqrt(variance + BATCH_NORM_EPSILON)
    conversion.weights[first[0]] = (scale[:, None] * weight).float()
    conversion.weights[first[1]] = (scale * (bias - mean) + shift).float()
    for name in ("weight", "running_var"):
        conversion.redirect(norm + name, first)
    for name in ("bias", "running_mean"):
        conversion.redirect(norm + name, first[1:])
    if norm + "num_batches_tracked" in conversion.weights:
        conversion.drop(norm + "num_batches_tracked", "the norm is folded into the adapter's linear layer")


def weight_of(weights: Mapping[str, torch.Tensor], name: str) -> torch.Tensor:
    if name not in weights:
        raise ValueError(f"The checkpoint has no weight for {name}: it is not a whole gloss_free_model with sign_proj.")
    return weights[name]
