"""HTC's semantic branch: what kind of place is this? One map for the whole image, added to every RoI.

Chen et al., "Hybrid Task Cascade for Instance Segmentation", 2019.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor, nn

from model import losses
from model.config import SemanticConfig
from model.structures import Target

IGNORED = 255  # label of a pixel that belongs to no class


class SemanticBranch(nn.Module):
    """All levels of the pyramid, the pooled one included, summed at one stride; then convolutions."""

    def __init__(self, in_channels: int, config: SemanticConfig, strides: Sequence[int]) -> None:
        """`strides` of the levels without the pooled one."""
        super().__init__()
        self.config = config
        self.level = list(strides).index(config.stride)
        self.lateral = nn.ModuleList(nn.Conv2d(in_channels, in_channels, 1) for _ in range(len(strides) + 1))
        widths = [in_channels, *[config.channels] * config.convs]
        self.convs = nn.ModuleList(
            nn.Conv2d(before, config.channels, 3, padding=1) for before in widths[: config.convs]
        )
        # RoI features are summed, so these have the pyramid's width
        self.embedding = nn.Conv2d(widths[-1], in_channels, 1)
        self.logits = nn.Conv2d(widths[-1], config.classes, 1)
        for layer in [*self.lateral, *self.convs, self.embedding, self.logits]:
            assert isinstance(layer, nn.Conv2d) and layer.bias is not None
            nn.init.kaiming_normal_(layer.weight, mode="fan_out", nonlinearity="relu")
            nn.init.zeros_(layer.bias)

    def forward(
        self, pyramid: Sequence[Tensor]
    ) -> tuple[Float[Tensor, "B ch h w"], Float[Tensor, "B classes h w"]]:
        """Features for the RoIs and logits of the classes, both at the configured stride."""
        levels = [*pyramid, F.max_pool2d(pyramid[-1], kernel_size=1, stride=2)]
        size = levels[self.level].shape[-2:]
        x = F.relu(self.lateral[self.level](levels[self.level]))
        for index, (lateral, level) in enumerate(zip(self.lateral, levels, strict=True)):
            if index != self.level:
                resized = F.interpolate(level, size=size, mode="bilinear", align_corners=True)
                x = x + F.relu(lateral(resized))
        for conv in self.convs:
            x = F.relu(conv(x))
        return F.relu(self.embedding(x)), self.logits(x)


def semantic_loss(logits: Float[Tensor, "B classes h w"], targets: Sequence[Target], stride: int) -> Tensor:
    """Mean cross-entropy over the cells that have a class, in float32; 0 with a graph where none has.

    Raises ValueError for truth without a semantic map, or with a class that the branch lacks.
    """
    wished = semantic_targets(targets, stride, logits.shape[-2:])
    counted = wished != IGNORED
    worst = int(wished[counted].max()) if bool(counted.any()) else 0
    if worst >= logits.shape[1]:
        raise ValueError(f"the semantic map holds class {worst}, the branch knows {logits.shape[1]}")
    summed = F.cross_entropy(logits.float(), wished, ignore_index=IGNORED, reduction="sum")
    return summed / losses.mean_over_processes(float(counted.sum()), logits.device)


def semantic_targets(targets: Sequence[Target], stride: int, hw: Sequence[int]) -> Int[Tensor, "B h w"]:
    """The class at each cell's centre; IGNORED beyond an image's valid area."""
    parts = []
    for target in targets:
        if target.semantic is None:
            raise ValueError(
                "the semantic branch learns from a map of classes, which this ground truth lacks: give one, "
                "set semantic.loss_weight = 0, or build the detector without the branch"
            )
        cells = target.semantic[stride // 2 :: stride, stride // 2 :: stride].long()
        missing = (0, hw[1] - cells.shape[1], 0, hw[0] - cells.shape[0])
        parts.append(F.pad(cells, missing, value=IGNORED))
    return torch.stack(parts)
