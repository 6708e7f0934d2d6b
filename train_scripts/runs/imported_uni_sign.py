"""
Checkpoints that the authors of Uni-Sign published: their weights under our names, and the configuration that the shapes
of the weights show.

The names of the keys are facts of the files; nothing here is taken from the code that wrote them, which has no licence.
"""

import copy
import re
from collections.abc import Mapping
from pathlib import Path

import torch
from transformers import MT5Config, PreTrainedConfig

from modeling_flallm import UniSignConfig, UniSignPoseConfig

from .damaged_models import read_config
from .imported_weights import Conversion, load_weights

# Their name of a part -> ours. Both hands share one set of weights, which the files hold twice.
PARTS = {"body": "body", "left": "hand", "right": "hand", "face_all": "face"}
BLOCKS = {
    r"gcn_modules\.(?P<part>\w+)\.layer(?P<index>\d+)_0\.": "spatial_blocks",
    r"fusion_gcn_modules\.(?P<part>\w+)\.layer0_(?P<index>\d+)\.": "temporal_blocks",
}
LAYERS = {
    "gcn.A": "graph_convolution.adjacency",
    "gcn.conv.": "graph_convolution.",
    "gcn.bn.": "norm.",
    "tcn.0.": "temporal_convolution.",
    "tcn.1.": "temporal_norm.",
    "residual.0.": "shortcut.",
    "residual.1.": "shortcut_norm.",
}
OTHER_PREFIXES = {"pose_proj.": "adapter.first.", "mt5_model.": "text_model."}
NEVER_READ = "exists in the published files and is never read"
OF_PICTURES = "of the branch that reads pictures of the hands, which this model does not have: it reads poses alone"
LEFT_OUT_PREFIXES = {
    "fusion_pose_rgb_linear.": NEVER_READ,
    "rgb_support_backbone.": OF_PICTURES,
    "rgb_proj.": OF_PICTURES,
    "fusion_pose_rgb_DA.": OF_PICTURES,
    "fusion_gate.": OF_PICTURES,
}
NUM_PARTITIONS = 2
WORDS = "text_model.shared.weight"
TIED_WEIGHTS = (
    "text_model.encoder.embed_tokens.weight",
    "text_model.decoder.embed_tokens.weight",
    "text_model.lm_head.weight",
)


def read_uni_sign_checkpoint(path: Path) -> tuple[dict[str, torch.Tensor], list[str]]:
    """
    The weights of a published file, and the names of what else it holds.

    Raises:
        ValueError, OSError: if the file does not exist, is damaged, or is no checkpoint of Uni-Sign.
    """
    weights, entries = load_weights(path)
    missing = [name for name in ("part_para", "pose_proj.weight", "mt5_model.shared.weight") if name not in weights]
    if missing:
        raise ValueError(f"{path} is no checkpoint of Uni-Sign: it has no weight {', '.join(missing)}.")
    return weights, sorted(map(str, entries))


def convert_uni_sign(weights: Mapping[str, torch.Tensor], others: list[str]) -> Conversion:
    """
    The weights under our names, in float32.

    Args:
        others: entries of the file beside the weights.

    Raises:
        ValueError: for keys that our model cannot express, and hands that do not share their weights.
    """
    conversion = Conversion(left_out={name: "state of the training run" for name in others})
    unknown = []
    for source, weight in weights.items():
        reason = next((text for start, text in LEFT_OUT_PREFIXES.items() if source.startswith(start)), None)
        target = None if reason is not None else _target_of(source)
        if reason is not None:
            conversion.left_out[source] = reason
        elif target is None:
            unknown.append(source)
        elif target in conversion.weights:
            _compare_hands(source, _as_ours(target, weight), conversion)
        else:
            conversion.targets[source] = [target]
            conversion.weights[target] = _as_ours(target, weight)
    if unknown:
        raise ValueError(f"FLaLLM cannot express these keys of the checkpoint: {', '.join(sorted(unknown))}.")
    for name in TIED_WEIGHTS:
        if name in conversion.weights and torch.equal(conversion.weights[name], conversion.weights[WORDS]):
            conversion.drop(name, "equal to mt5_model.shared.weight, with which it is tied")
    return conversion


def _target_of(source: str) -> str | None:
    """Our name of one of their weights, `None` if there is none."""
    if source == "part_para":
        return "vision_model.token_bias"
    for theirs, ours in OTHER_PREFIXES.items():
        if source.startswith(theirs):
            return ours + source.removeprefix(theirs)
    projection = re.fullmatch(r"proj_linear\.(\w+)\.(weight|bias)", source)
    if projection is not None and projection[1] in PARTS:
        return f"vision_model.parts.{PARTS[projection[1]]}.projection.{projection[2]}"
    for pattern, blocks in BLOCKS.items():
        block = re.match(pattern, source)
        if block is None or block["part"] not in PARTS:
            continue
        rest = source.removeprefix(block[0])
        for theirs, ours in LAYERS.items():
            if rest.startswith(theirs):
                layer = ours + rest.removeprefix(theirs)
                return f"vision_model.parts.{PARTS[block['part']]}.{blocks}.{block['index']}.{layer}"
    return None


def _as_ours(target: str, weight: torch.Tensor) -> torch.Tensor:
    """
    In our shape: linear layers are 1 x 1 convolutions there, and what a graph convolution has for each partition is one
    after the other in its first dimension.
    """
    dtype = torch.float32 if weight.is_floating_point() else weight.dtype
    # Copied, because weights that share memory, as in a file of torch.save, would be saved only once.
    weight = weight.to(dtype, copy=True, memory_format=torch.contiguous_format)
    layer, name = target.rsplit(".", 2)[-2:]
    if layer == "shortcut" and name == "weight":
        return weight.flatten(1)
    if layer == "graph_convolution" and name == "weight":
        return weight.flatten(1).unflatten(0, (NUM_PARTITIONS, -1))
    if layer == "graph_convolution" and name == "bias":
        return weight.unflatten(0, (NUM_PARTITIONS, -1))
    return weight.flatten() if name == "token_bias" else weight


def _compare_hands(source: str, weight: torch.Tensor, conversion: Conversion) -> None:
    target = _target_of(source)
    first = next(name for name, targets in conversion.targets.items() if targets == [target])
    if not torch.equal(weight, conversion.weights[target]):
        raise ValueError(
            f"{source} differs from {first}. Both hands share their weights in Uni-Sign, and in our model, which "
            "cannot express such a checkpoint."
        )
    conversion.left_out[source] = f"equal to {first}: both hands share their weights"


def read_uni_sign_config(weights: Mapping[str, torch.Tensor], text_model: str) -> UniSignConfig:
    """
    Args:
        weights: by our names.
        text_model: folder or Hub id of the mT5 that the checkpoint was trained with, for what weights do not show.

    Raises:
        ValueError: if that is no mT5, or one of other sizes.
    """
    blocks = {
        kind: {int(match[1]) for name in weights if (match := re.search(rf"\.body\.{kind}\.(\d+)\.", name))}
        for kind in BLOCKS.values()
    }
    body = "vision_model.parts.body."
    widths = [
        weights[f"{body}spatial_blocks.{index}.norm.weight"].shape[0] for index in sorted(blocks["spatial_blocks"])
    ]
    kernel = weights.get(f"{body}temporal_blocks.0.temporal_convolution.weight")
    return UniSignConfig(
        vision_config=UniSignPoseConfig(
            spatial_widths=widths,
            temporal_layers=len(blocks["temporal_blocks"]),
            temporal_kernel_size=1 if kernel is None else kernel.shape[2],
        ),
        text_config=_read_text_config(weights, text_model),
    )


def _read_text_config(weights: Mapping[str, torch.Tensor], text_model: str) -> PreTrainedConfig:
    try:
        config = copy.deepcopy(read_config(text_model))
    except (OSError, ValueError) as error:
        raise ValueError(f"{text_model} has no readable configuration of a text model: {error}") from error
    if not isinstance(config, MT5Config):
        raise ValueError(f"{text_model} must hold an mT5, like these checkpoints, got {config.model_type!r}.")
    differences = [
        f"{name} is {size} in the checkpoint and {getattr(config, name)} in {text_model}"
        for name, size in _text_sizes(weights).items()
        if getattr(config, name) != size
    ]
    if differences:
        raise ValueError(f"{'; '.join(differences)}. Name the text model that the checkpoint was trained with.")
    return config


def _text_sizes(weights: Mapping[str, torch.Tensor]) -> dict[str, int]:
    vocabulary_size, width = weights[WORDS].shape
    sizes = {"vocab_size": vocabulary_size, "d_model": width}
    for side, name in (("encoder", "num_layers"), ("decoder", "num_decoder_layers")):
        found = (re.match(rf"text_model\.{side}\.block\.(\d+)\.", key) for key in weights)
        sizes[name] = len({match[1] for match in found if match})
    attention = "text_model.encoder.block.0.layer.0.SelfAttention."
    buckets, heads = weights[f"{attention}relative_attention_bias.weight"].shape
    sizes |= {"num_heads": heads, "relative_attention_num_buckets": buckets}
    sizes["d_kv"] = weights[f"{attention}q.weight"].shape[0] // heads
    feed_forward = weights.get("text_model.encoder.block.0.layer.1.DenseReluDense.wo.weight")
    return sizes if feed_forward is None else {**sizes, "d_ff": feed_forward.shape[1]}
