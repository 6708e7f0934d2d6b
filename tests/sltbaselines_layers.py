"""
The layers of GFSLT-VLP's and sltbaselines' translation model in plain torch and transformers, with the names in their
checkpoints: the reference for imported checkpoints. Written from the description of the two systems
(ResNet-18 on every frame; Conv1d 5, BatchNorm, ReLU, MaxPool 2, twice; linear layer, norm, ReLU; mBART).
"""

import argparse
import math
from pathlib import Path

import torch
from torch import nn
from torch.nn.utils.rnn import pad_sequence
from torchvision.models.resnet import BasicBlock, ResNet, resnet18
from transformers import MBartConfig, MBartForConditionalGeneration

FRAMES_IN_FRONT = 8
FEATURE_OF_PADDING = 1.0  # they pad features with the id of the padding token; no real token may see it


class GlossFreeModel(nn.Module):
    """Clips `(frames, 3, height, width)` and labels `(batch, length)` -> logits `(batch, length, vocabulary)`."""

    def __init__(self, text_config: MBartConfig, adapter_norm: type[nn.Module], resnet: ResNet):
        super().__init__()
        width = text_config.d_model
        features = resnet.fc.in_features
        resnet.fc = nn.Identity()
        convolutions = nn.Sequential(
            *(nn.Conv1d(features, width, 5), nn.BatchNorm1d(width), nn.ReLU(), nn.MaxPool1d(2)),
            *(nn.Conv1d(width, width, 5), nn.BatchNorm1d(width), nn.ReLU(), nn.MaxPool1d(2)),
        )
        self.backbone = nn.ModuleDict(
            {
                "conv_2d": nn.ModuleDict({"resnet": resnet}),
                "conv_1d": nn.ModuleDict({"temporal_conv": convolutions}),
            }
        )
        self.sign_emb = nn.ModuleDict(
            {"src_emb": nn.Linear(width, width), "bn_ac": nn.Sequential(adapter_norm(width), nn.ReLU())}
        )
        self.mbart = MBartForConditionalGeneration(text_config)
        if not text_config.tie_word_embeddings:  # the transformers of their time shares these two nevertheless
            self.mbart.model.encoder.embed_tokens.weight = self.mbart.model.shared.weight
            self.mbart.model.decoder.embed_tokens.weight = self.mbart.model.shared.weight
        self._draw_weights()

    @torch.no_grad()
    def _draw_weights(self) -> None:
        """Norms and BatchNorm statistics that are not the trivial 0 and 1, and outputs that depend on the input."""
        for name, value in (*self.named_parameters(), *self.named_buffers()):
            if name.endswith("num_batches_tracked"):
                value.fill_(int(torch.randint(1, 1000, ())))
            elif name.endswith("running_var") or (value.ndim == 1 and name.endswith("weight")):
                value.uniform_(0.5, 1.5)
            elif value.ndim == 1 or name.endswith("final_logits_bias"):
                value.normal_(std=0.1)
            elif name.startswith("mbart."):
                value.normal_(std=2 / math.sqrt(value.shape[-1]))

    def forward(self, clips: list[torch.Tensor], labels: torch.Tensor, padding_id: int) -> torch.Tensor:
        lengths = [math.ceil(len(clip) / 4) * 4 + 16 for clip in clips]
        frames = torch.cat([repeat_ends(clip, length) for clip, length in zip(clips, lengths, strict=True)])
        features = self.backbone["conv_2d"]["resnet"](frames).split(lengths)
        features = pad_sequence(features, batch_first=True, padding_value=FEATURE_OF_PADDING)
        tokens = self.backbone["conv_1d"]["temporal_conv"](features.transpose(1, 2)).transpose(1, 2)
        num_tokens = torch.tensor([((length - 4) // 2 - 4) // 2 for length in lengths])
        outputs = self.mbart(
            inputs_embeds=self._adapt(tokens),
            attention_mask=(torch.arange(tokens.shape[1])[None] < num_tokens[:, None]).long(),
            labels=labels,
            decoder_attention_mask=(labels != padding_id).long(),
        )
        return outputs.logits

    def _adapt(self, tokens: torch.Tensor) -> torch.Tensor:
        projected = self.sign_emb["src_emb"](tokens)
        if isinstance(self.sign_emb["bn_ac"][0], nn.BatchNorm1d):  # over the channels, which it expects in the middle
            return self.sign_emb["bn_ac"](projected.transpose(1, 2)).transpose(1, 2)
        return self.sign_emb["bn_ac"](projected)


def narrow_resnet18(width: int) -> ResNet:
    """torchvision's ResNet-18 with `width` channels in its first stage instead of 64: small files, fast tests."""
    resnet = resnet18(weights=None)
    resnet.conv1 = nn.Conv2d(3, width, 7, stride=2, padding=3, bias=False)
    resnet.bn1 = nn.BatchNorm2d(width)
    resnet.inplanes = width
    for index, stride in enumerate((1, 2, 2, 2)):
        setattr(resnet, f"layer{index + 1}", resnet._make_layer(BasicBlock, width * 2**index, 2, stride))
    resnet.fc = nn.Linear(width * 8, 1)
    return resnet


def repeat_ends(clip: torch.Tensor, length: int) -> torch.Tensor:
    """Repeat the first frame eight times in front, and the last one at the end until there are `length` frames."""
    behind = length - len(clip) - FRAMES_IN_FRONT
    return torch.cat([clip[:1].expand(FRAMES_IN_FRONT, -1, -1, -1), clip, clip[-1:].expand(behind, -1, -1, -1)])


def save_checkpoint(model: GlossFreeModel, path: Path, **further_entries) -> dict:
    """A file like their best_checkpoint.pth, optimizer and arguments included; returns its content."""
    optimizer = torch.optim.SGD(model.sign_emb.parameters(), lr=1e-3, momentum=0.9, nesterov=True)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, T_max=80)
    content = {
        "model": model.state_dict(),
        "optimizer": optimizer.state_dict(),
        "lr_scheduler": schedule.state_dict(),
        "epoch": 3,
        "args": argparse.Namespace(lr=1e-3, opt_betas=None, resize=40, input_size=32, config="configs/config1.yaml"),
        **further_entries,
    }
    torch.save(content, path)
    return content
