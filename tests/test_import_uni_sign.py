"""`flallm import-checkpoint` of Uni-Sign's files: same logits as layers written out, every key accounted for."""

import copy
import json
from pathlib import Path

import pytest
import torch
from pose_corpus import pose_corpus
from tiny_checkpoints import checkpoint
from tiny_corpus import RUN, error_of, flags
from tiny_models import draw_batch_norm_statistics
from torch import nn
from torch.testing import assert_close
from transformers import AutoModelForSeq2SeqLM, AutoTokenizer
from uni_sign_layers import PublishedPoseModel

from modeling_flallm import UniSignForTranslation
from processing import FLaLLMProcessor
from train_scripts.commands import import_checkpoint
from train_scripts.stages import unified_fine_tuning

WIDTHS, NUM_TEMPORAL, KERNEL = [4, 6], 2, 3
PICTURES = ("rgb_support_backbone.0.weight", "rgb_proj.weight", "fusion_pose_rgb_DA.q.weight", "fusion_gate.0.weight")
NEVER_READ = ("fusion_pose_rgb_linear.weight", "fusion_pose_rgb_linear.bias")


class Published(nn.Module):
    """As the files name it: the pose model and `mt5_model`."""

    def __init__(self):
        super().__init__()
        self.mt5_model = AutoModelForSeq2SeqLM.from_pretrained(checkpoint("mt5"))
        self.pose_model = PublishedPoseModel(WIDTHS, NUM_TEMPORAL, KERNEL, self.mt5_model.config.d_model)
        for parameter in self.pose_model.parameters():
            if parameter.ndim > 1:
                nn.init.normal_(parameter, std=0.3)
        draw_batch_norm_statistics(self)

    def weights(self) -> dict[str, torch.Tensor]:
        weights = {name.removeprefix("pose_model."): value for name, value in self.state_dict().items()}
        return copy.deepcopy(weights)

    def forward(self, poses: torch.Tensor, prompt_ids: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
        prompt = self.mt5_model.get_input_embeddings()(prompt_ids)
        return self.mt5_model(inputs_embeds=torch.cat([prompt, self.pose_model(poses)], 1), labels=labels).logits


@pytest.fixture(scope="module")
def published() -> Published:
    return Published().eval()


def command_line(path: Path, **values) -> list[str]:
    shared = {"checkpoint": path, "source": "uni_sign", "text_model_name_or_path": checkpoint("mt5")}
    return flags(**{**shared, "spoken_language": "zh", "output_dir": path.parent / "imported", **values})


def save(folder: Path, weights: dict[str, torch.Tensor], **entries) -> Path:
    torch.save({"model": weights, **entries}, folder / "best.pth")
    return folder / "best.pth"


def with_pictures(weights: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    return {**weights, **{name: torch.randn(2, 2) for name in (*PICTURES, *NEVER_READ)}}


def test_it_computes_what_the_published_layers_compute(published, tmp_path):
    weights = with_pictures(published.weights())
    path = save(tmp_path, weights, epoch=3)
    assert import_checkpoint.main(command_line(path)) == 0
    folder = tmp_path / "imported"
    model, processor = UniSignForTranslation.from_pretrained(folder), FLaLLMProcessor.from_pretrained(folder)
    config = model.config.vision_config
    assert (config.spatial_widths, config.temporal_layers, config.temporal_kernel_size) == (WIDTHS, 2, 3)
    model, published = model.double(), published.double()  # rounding is not what is compared
    clips = [torch.rand(length, 69, 3, dtype=torch.float64) * 2 - 1 for length in (9, 4, 1)]
    labels = processor(text_target=["a b", "c", "b"], return_tensors="pt")["labels"]
    prompt = processor(num_visual_tokens=[9, 4, 1], return_tensors="pt")
    mask = torch.arange(9)[None] < torch.tensor([[9], [4], [1]])
    padded = nn.utils.rnn.pad_sequence(clips, batch_first=True)
    logits = model(pose_values=padded, pose_attention_mask=mask.long(), labels=labels, **prompt).logits
    for row, clip in enumerate(clips):
        expected = published(clip[None], prompt["prompt_ids"][row : row + 1], labels[row : row + 1])
        assert_close(logits[row : row + 1], expected, atol=1e-6, rtol=1e-6)
    assert not torch.equal(model.text_model.lm_head.weight, model.text_model.shared.weight)

    report = json.loads((folder / "import_report.json").read_text())
    assert report["targets"].keys() | report["left_out"].keys() == {*weights, "epoch"}
    assert not report["targets"].keys() & report["left_out"].keys()
    filled = [name for names in report["targets"].values() for name in names]
    assert len(filled) == len(set(filled))
    assert all(report["left_out"][name].endswith("never read") for name in NEVER_READ)
    assert all("pictures of the hands" in report["left_out"][name] for name in PICTURES)
    right = {name for name in weights if ".right." in name}
    assert right and all(report["left_out"][name].startswith("equal to ") for name in right)
    assert report["left_out"].keys() == right | {*NEVER_READ, *PICTURES, "epoch"} | {
        "mt5_model.encoder.embed_tokens.weight",
        "mt5_model.decoder.embed_tokens.weight",
    }


def test_it_reads_poses_and_is_fine_tuned(published, tmp_path):
    path = save(tmp_path, {f"module.{name}": value.bfloat16() for name, value in published.weights().items()})
    assert import_checkpoint.main(command_line(path)) == 0
    folder = tmp_path / "imported"
    processor = FLaLLMProcessor.from_pretrained(folder)
    extractor = processor.feature_extractor
    assert (extractor.keep_aspect_ratio, extractor.max_num_frames, extractor.score_threshold) == (False, 256, 0.3)
    assert processor.prompt == "Translate sign language video to {spoken_language}: "
    text = processor.tokenizer.decode(processor(num_visual_tokens=[3])["prompt_ids"][0])
    assert processor.spoken_language == "Chinese" and text.endswith("</s>")
    model = UniSignForTranslation.from_pretrained(folder)
    assert model.dtype == torch.float32 and model.generation_config.num_beams == 4
    clip = str(pose_corpus() / "test/poses/0.safetensors")
    inputs = processor(poses=clip, return_tensors="pt")
    assert inputs["pose_values"].shape == (1, 16, 69, 3)
    assert len(model.generate(**inputs, max_new_tokens=3)) == 1
    run = {**RUN, "num_beams": 1, "max_steps": 1, "dataset": pose_corpus()}
    unified_fine_tuning.train(flags(**run, model_name_or_path=folder, output_dir=tmp_path / "fine_tuned"))
    tuned = UniSignForTranslation.from_pretrained(tmp_path / "fine_tuned")
    assert not torch.equal(tuned.text_model.lm_head.weight, model.text_model.lm_head.weight)


def test_what_does_not_fit_is_refused(published, tmp_path, capsys):
    whole = published.weights()

    def error(change=None, **values) -> str:
        weights = copy.deepcopy(whole)
        if change is not None:
            change(weights)
        return error_of(import_checkpoint.main, command_line(save(tmp_path, weights), **values), capsys)

    right = "gcn_modules.right.layer1_0.gcn.conv.weight"
    assert error(lambda weights: weights.update({right: weights[right] + 1})).startswith(
        f"{right} differs from {right.replace('right', 'left')}. Both hands share their weights"
    )
    assert "cannot express these keys of the checkpoint: gcn_modules.body.layer0_0.attention" in error(
        lambda weights: weights.update({"gcn_modules.body.layer0_0.attention": torch.ones(1)})
    )
    name = "vision_model.parts.face.temporal_blocks.1.graph_convolution.adjacency"
    assert error(lambda weights: weights.pop("fusion_gcn_modules.face_all.layer0_1.gcn.A")) == (
        f"The checkpoint does not fit FLaLLM: {name} is missing."
    )
    assert "is no checkpoint of Uni-Sign: it has no weight part_para." in error(
        lambda weights: weights.pop("part_para")
    )
    assert error(text_model_name_or_path=checkpoint("t5")).endswith(
        "must hold an mT5, like these checkpoints, got 't5'."
    )
    other = tmp_path / "other"
    text_model = AutoModelForSeq2SeqLM.from_pretrained(checkpoint("mt5"))
    text_model.resize_token_embeddings(text_model.config.vocab_size + 3)
    text_model.save_pretrained(other)
    AutoTokenizer.from_pretrained(checkpoint("mt5")).save_pretrained(other)
    assert "Name the text model that the checkpoint was trained with." in error(text_model_name_or_path=other)
    argv = command_line(save(tmp_path, whole))
    del argv[argv.index("--spoken_language") : argv.index("--spoken_language") + 2]
    assert error_of(import_checkpoint.main, argv, capsys).startswith("--spoken_language is required")
    assert not (tmp_path / "imported").exists()
