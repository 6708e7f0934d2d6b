"""
The branch of Uni-Sign's published files that reads pictures of the hands: our names of its weights, where they can be
told.

What its keys inside `fusion_pose_rgb_DA` are called is documented nowhere. Those of the deformable attention are taken
to be the names of the public package deformable-attention, whose layers the description of the branch matches, and
those of the attention over the picture the usual ones. If one key has another name, the branch is left out, and the
report says which.
"""

import re
from collections.abc import Mapping

import torch

from modeling_flallm.prior_guided_fusion_slt import PriorGuidedFusion

BACKBONE, PROJECTION, ATTENTION, GATE = "rgb_support_backbone.", "rgb_proj.", "fusion_pose_rgb_DA.", "fusion_gate."
FUSION_PREFIXES = (BACKBONE, PROJECTION, ATTENTION, GATE)
OF_PICTURES = "of the branch that reads pictures of the hands"
CLOSED = (
    f"{OF_PICTURES}, whose gate is closed for every input: it never changed what the published model writes, and this "
    "one, which reads poses alone, writes the same"
)
ATTENTION_NAMES = {
    r"(\w+\.)*\w*gaussian\w*": "coordinate_code.frequencies",
    r"(\w+\.)*q_proj\.": "map_attention.query.",
    r"(\w+\.)*k_proj\.": "map_attention.key.",
    r"(\w+\.)*v_proj\.": "map_attention.value.",
    r"(\w+\.)*out_proj\.": "map_attention.output.",
    r"to_q\.": "deformable_attention.query.",
    r"to_k\.": "deformable_attention.key.",
    r"to_v\.": "deformable_attention.value.",
    r"to_out\.": "deformable_attention.output.",
    r"to_offsets\.": "deformable_attention.offsets.",
    r"rel_pos_bias\.mlp\.0\.0\.": "deformable_attention.position_bias.0.",
    r"rel_pos_bias\.mlp\.1\.0\.": "deformable_attention.position_bias.2.",
    r"rel_pos_bias\.mlp\.2\.": "deformable_attention.position_bias.4.",
}


def find_fusion(weights: Mapping[str, torch.Tensor]) -> tuple[dict[str, str], str | None]:
    """
    Args:
        weights: of the checkpoint, those of `FUSION_PREFIXES` and others.

    Returns:
        For each key of the branch the name of the weight of `PriorGuidedFusion` that it is, or no names and the reason
        why the branch is left out. Nothing is lost by that if its gate is closed.
    """
    keys = [key for key in weights if key.startswith(FUSION_PREFIXES)]
    if not keys:
        return {}, None
    if is_closed(weights):
        return {}, CLOSED
    names = {key: _name_of(key, keys) for key in keys}
    unknown = [key for key, name in names.items() if name is None]
    if unknown:
        return {}, f"{OF_PICTURES}, which is left out, as FLaLLM does not know {unknown[0]}"
    misfit = _first_misfit({name: weights[key] for key, name in names.items()})
    return (names, None) if misfit is None else ({}, f"{OF_PICTURES}, which is left out, as {misfit}")


def is_closed(weights: Mapping[str, torch.Tensor]) -> bool:
    """Whether the gate, a ReLU of the tanh of its last layer, is 0 whatever it sees."""
    last, bias = (weights.get(f"{GATE}2.{name}") for name in ("weight", "bias"))
    return last is not None and bias is not None and not last.any() and bool((bias <= 0).all())


def in_our_shape(name: str, weight: torch.Tensor) -> torch.Tensor:
    """A weight of `find_fusion`: convolutions over joints may have a second dimension of 1 there."""
    is_over_joints = name.startswith(("deformable_attention.", "gate.")) and weight.ndim == 4
    return weight.squeeze(3) if is_over_joints else weight


def _name_of(key: str, keys: list[str]) -> str | None:
    if key.startswith(BACKBONE):
        # Of torchvision's network, of its first child in a list of children, or of that child alone.
        rest = [each.removeprefix(BACKBONE) for each in keys if each.startswith(BACKBONE)]
        whole = next((start for start in ("features.", "0.") if all(each.startswith(start) for each in rest)), "")
        return "backbone.features." + key.removeprefix(BACKBONE).removeprefix(whole)
    if key.startswith(PROJECTION):
        return "projection." + key.removeprefix(PROJECTION)
    if key.startswith(GATE):
        layer, _, name = key.removeprefix(GATE).partition(".")
        return {"0": f"gate.hidden.{name}", "2": f"gate.output.{name}"}.get(layer)
    rest = key.removeprefix(ATTENTION)
    for pattern, ours in ATTENTION_NAMES.items():
        found = re.match(pattern, rest)
        if found is not None:
            return ours + rest[found.end() :]
    return None


def _first_misfit(weights: Mapping[str, torch.Tensor]) -> str | None:
    """What keeps these weights from being all those of a fusion, by our names."""
    width = len(weights.get("projection.weight", ()))
    if width == 0 or width % 8:
        return f"its width is {width}"
    with torch.device("meta"):
        expected = {name: tuple(value.shape) for name, value in PriorGuidedFusion(width).state_dict().items()}
    given = {name: tuple(in_our_shape(name, weight).shape) for name, weight in weights.items()}
    for name in sorted(expected.keys() | given.keys()):
        if name not in given or name not in expected:
            return f"{name} is {'missing' if name in expected else 'unknown'}"
        if given[name] != expected[name]:
            return f"{name} is {given[name]} instead of {expected[name]}"
    return None
