"""
Uni-Sign's pose model written out with loops over points and partitions, under the names of its published checkpoints:
what the pose encoder and the converter are compared with. It shares no code with them.
"""

import torch
from torch import nn

PARTS = {"body": range(0, 9), "left": range(9, 30), "right": range(30, 51), "face_all": range(51, 69)}


class PublishedGraph(nn.Module):
    def __init__(self, num_points: int, before: int, after: int):
        super().__init__()
        self.A = nn.Parameter(torch.rand(2, num_points, num_points))
        self.conv = nn.Conv2d(before, 2 * after, 1)
        self.bn = nn.BatchNorm2d(after)

    def forward(self, hidden: torch.Tensor) -> torch.Tensor:
        """`(batch, channels, frames, points)`."""
        parts = self.conv(hidden).chunk(2, dim=1)
        columns = []
        for point in range(hidden.shape[3]):
            column = 0
            for weights, values in zip(self.A, parts, strict=True):
                for other in range(hidden.shape[3]):
                    column = column + weights[other, point] * values[..., other]
            columns.append(column)
        return torch.relu(self.bn(torch.stack(columns, dim=3)))


class PublishedBlock(nn.Module):
    def __init__(self, num_points: int, before: int, after: int, kernel: int):
        super().__init__()
        self.gcn = PublishedGraph(num_points, before, after)
        if kernel > 1:
            self.tcn = nn.Sequential(
                nn.Conv2d(after, after, (kernel, 1), padding=(kernel // 2, 0)), nn.BatchNorm2d(after)
            )
        if before != after:
            self.residual = nn.Sequential(nn.Conv2d(before, after, 1), nn.BatchNorm2d(after))

    def forward(self, hidden: torch.Tensor) -> torch.Tensor:
        new = self.gcn(hidden)
        new = self.tcn(new) if hasattr(self, "tcn") else new
        return torch.relu(new + (self.residual(hidden) if hasattr(self, "residual") else hidden))


def _chain(num_points: int, widths: list[int], kernel: int, names: list[str]) -> nn.ModuleDict:
    pairs = zip(names, widths, widths[1:], strict=False)
    return nn.ModuleDict({name: PublishedBlock(num_points, before, after, kernel) for name, before, after in pairs})


class PublishedPoseModel(nn.Module):
    """From `(batch, frames, 69, 3)`, all frames real, to the inputs of the text model `(batch, frames, text_size)`."""

    def __init__(self, widths: list[int], num_temporal: int = 3, kernel: int = 5, text_size: int = 32):
        super().__init__()
        spatial, last = [widths[0], *widths], widths[-1]
        spatial_names = [f"layer{index}_0" for index in range(len(widths))]
        temporal_names = [f"layer0_{index}" for index in range(num_temporal)]
        self.proj_linear = nn.ModuleDict({part: nn.Linear(3, widths[0]) for part in PARTS})
        self.gcn_modules = nn.ModuleDict(
            {part: _chain(len(points), spatial, 1, spatial_names) for part, points in PARTS.items()}
        )
        self.fusion_gcn_modules = nn.ModuleDict(
            {
                part: _chain(len(points), [last] * (num_temporal + 1), kernel, temporal_names)
                for part, points in PARTS.items()
            }
        )
        self.part_para = nn.Parameter(torch.randn(4 * last))
        self.pose_proj = nn.Linear(4 * last, text_size)
        for modules in (self.proj_linear, self.gcn_modules, self.fusion_gcn_modules):
            modules["right"] = modules["left"]

    def tokens(self, poses: torch.Tensor) -> torch.Tensor:
        hidden = {}
        for part, points in PARTS.items():
            values = self.proj_linear[part](poses[:, :, list(points)]).permute(0, 3, 1, 2)
            for block in self.gcn_modules[part].values():
                values = block(values)
            hidden[part] = values
        body = hidden["body"].detach()
        joints = {"left": body[..., -2], "right": body[..., -1], "face_all": body[..., 0]}
        tokens = []
        for part, values in hidden.items():
            if part in joints:
                values = values + joints[part][..., None]
            for block in self.fusion_gcn_modules[part].values():
                values = block(values)
            tokens.append(values.mean(3).transpose(1, 2))
        return torch.cat(tokens, dim=2) + self.part_para

    def forward(self, poses: torch.Tensor) -> torch.Tensor:
        return self.pose_proj(self.tokens(poses))
