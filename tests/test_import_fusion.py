"""`flallm import-checkpoint` of Uni-Sign's files with the branch that reads pictures of the hands."""

import json

import pytest
import test_import_uni_sign
import torch
from test_import_uni_sign import Published, command_line, save

from modeling_flallm import UniSignForTranslation
from modeling_flallm.prior_guided_fusion_slt import PriorGuidedFusion
from processing import FLaLLMProcessor
from train_scripts.commands import import_checkpoint
from train_scripts.runs.imported_fusion import find_fusion, in_our_shape

# Theirs for each of our names.
NAMES = {
    "backbone.features.": "rgb_support_backbone.0.",
    "projection.": "rgb_proj.",
    "coordinate_code.frequencies": "fusion_pose_rgb_DA.pe_layer.positional_encoding_gaussian_matrix",
    "map_attention.query.": "fusion_pose_rgb_DA.attention.q_proj.",
    "map_attention.key.": "fusion_pose_rgb_DA.attention.k_proj.",
    "map_attention.value.": "fusion_pose_rgb_DA.attention.v_proj.",
    "map_attention.output.": "fusion_pose_rgb_DA.attention.out_proj.",
    "deformable_attention.query.": "fusion_pose_rgb_DA.to_q.",
    "deformable_attention.key.": "fusion_pose_rgb_DA.to_k.",
    "deformable_attention.value.": "fusion_pose_rgb_DA.to_v.",
    "deformable_attention.output.": "fusion_pose_rgb_DA.to_out.",
    "deformable_attention.offsets.": "fusion_pose_rgb_DA.to_offsets.",
    "deformable_attention.position_bias.0.": "fusion_pose_rgb_DA.rel_pos_bias.mlp.0.0.",
    "deformable_attention.position_bias.2.": "fusion_pose_rgb_DA.rel_pos_bias.mlp.1.0.",
    "deformable_attention.position_bias.4.": "fusion_pose_rgb_DA.rel_pos_bias.mlp.2.",
    "gate.hidden.": "fusion_gate.0.",
    "gate.output.": "fusion_gate.2.",
}


def published_fusion(width: int = 8, backbone: str = "rgb_support_backbone.0.") -> dict[str, torch.Tensor]:
    """A new fusion by their names; their convolutions of the attention are over pictures of one row."""
    weights = {}
    for name, value in PriorGuidedFusion(width).state_dict().items():
        ours = next(each for each in NAMES if name.startswith(each))
        theirs = backbone if ours.startswith("backbone.") else NAMES[ours]
        is_convolution = ours.startswith("deformable_attention") and value.ndim == 3
        weights[theirs + name.removeprefix(ours)] = value[..., None] if is_convolution else value
    return weights


def opened(weights: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    return {**weights, "fusion_gate.2.bias": torch.ones(1)}


def closed(weights: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    gate = {f"fusion_gate.2.{name}": torch.zeros_like(weights[f"fusion_gate.2.{name}"]) for name in ("weight", "bias")}
    return {**weights, **gate}


@pytest.mark.parametrize(
    "backbone", ["rgb_support_backbone.0.", "rgb_support_backbone.features.", "rgb_support_backbone."]
)
def test_every_weight_finds_its_name(backbone):
    weights = opened(published_fusion(16, backbone))
    names, reason = find_fusion({**weights, "part_para": torch.zeros(1)})
    assert reason is None and names.keys() == weights.keys()
    ours = {name: in_our_shape(name, weights[key]) for key, name in names.items()}
    assert PriorGuidedFusion(16).load_state_dict(ours, strict=True)


@pytest.mark.slow
def test_an_open_gate_keeps_the_branch_and_a_closed_one_drops_it_without_a_loss(tmp_path, monkeypatch):
    monkeypatch.setattr(test_import_uni_sign, "WIDTHS", [4, 8])
    published = Published().eval()
    fusion = published_fusion()
    models, reports = {}, {}
    for kind, change in {"open": opened, "closed": closed}.items():
        (tmp_path / kind).mkdir()
        path = save(tmp_path / kind, {**published.weights(), **change(fusion)})
        assert import_checkpoint.main(command_line(path)) == 0
        folder = path.parent / "imported"
        models[kind] = UniSignForTranslation.from_pretrained(folder)
        reports[kind] = json.loads((folder / "import_report.json").read_text())
        extractor = FLaLLMProcessor.from_pretrained(folder).feature_extractor
        assert extractor.hand_crops is (kind == "open")
    assert fusion.keys() <= reports["open"]["targets"].keys()
    for name, value in models["open"].vision_model.fusion.state_dict().items():
        ours = next(each for each in NAMES if name.startswith(each))
        assert torch.equal(value, opened(fusion)[NAMES[ours] + name.removeprefix(ours)].view_as(value)), name
    assert models["closed"].vision_model.fusion is None
    reasons = {reports["closed"]["left_out"][key] for key in fusion}
    assert len(reasons) == 1 and "whose gate is closed for every input" in reasons.pop()


def test_a_branch_with_other_names_or_shapes_is_left_out_with_the_reason():
    weights = opened(published_fusion(16))
    for changed, expected in (
        (
            {**weights, "fusion_pose_rgb_DA.other.weight": torch.ones(1)},
            "does not know fusion_pose_rgb_DA.other.weight",
        ),
        ({**weights, "fusion_gate.0.weight": torch.ones(16, 16, 1)}, "gate.hidden.weight is (16, 16, 1) instead of"),
        ({key: value for key, value in weights.items() if key != "rgb_proj.bias"}, "projection.bias is missing"),
        ({**weights, "rgb_proj.weight": torch.ones(12, 1280, 1, 1)}, "its width is 12"),
    ):
        names, reason = find_fusion(changed)
        assert names == {} and expected in reason, reason
    assert find_fusion({"part_para": torch.zeros(1)}) == ({}, None)
