"""ResNet and ResNeXt as backbones: torchvision's modules and parameter names, so that its checkpoints load.

Batch statistics are always frozen: detection batches are too small to estimate them. Their scale and shift
are trained where the layer is.
"""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor, nn
from torchvision.models.resnet import Bottleneck, ResNet

from model.config import BackboneConfig
from model.deformable import make_deformable


@dataclass(frozen=True)
class ResNetShape:
    """Bottlenecks in each of the four stages, groups of their 3x3, and channels of a group in the first."""

    blocks: tuple[int, int, int, int]
    groups: int = 1
    base_width: int = 64


RESNETS = {
    "resnet50": ResNetShape((3, 4, 6, 3)),
    "resnet101": ResNetShape((3, 4, 23, 3)),
    "resnext101_32x4d": ResNetShape((3, 4, 23, 3), groups=32, base_width=4),
    "resnext101_64x4d": ResNetShape((3, 4, 23, 3), groups=64, base_width=4),
}


class FrozenStatistics(nn.Module):
    """A module whose batch norms stay in evaluation mode whatever `train()` says."""

    def train(self, mode: bool = True) -> FrozenStatistics:
        super().train(mode)
        for module in self.modules():
            if isinstance(module, nn.BatchNorm2d):
                module.eval()
        return self


class ResNetFeatures(FrozenStatistics):
    """C2..C5 of a ResNet or ResNeXt, with deformable convolutions in C3, C4 and C5 on request."""

    def __init__(self, config: BackboneConfig) -> None:
        super().__init__()
        shape = RESNETS[config.name]
        net = ResNet(Bottleneck, list(shape.blocks), groups=shape.groups, width_per_group=shape.base_width)
        self.conv1, self.bn1, self.relu, self.maxpool = net.conv1, net.bn1, net.relu, net.maxpool
        self.layer1, self.layer2, self.layer3, self.layer4 = net.layer1, net.layer2, net.layer3, net.layer4
        self.levels = range(config.min_level, config.max_level + 1)
        self.channels = [256 * 2 ** (level - 2) for level in self.levels]
        if config.stride_in_1x1:
            self._move_stride()
        if config.deformable != "none":
            make_deformable([self.layer2, self.layer3, self.layer4], modulated=config.deformable == "v2")
        stages = [[self.conv1, self.bn1], [self.layer1], [self.layer2], [self.layer3], [self.layer4]]
        for stage in stages[: config.frozen_levels]:
            for module in stage:
                module.requires_grad_(False)

    def _move_stride(self) -> None:
        for stage in (self.layer2, self.layer3, self.layer4):
            stage[0].conv1.stride, stage[0].conv2.stride = (2, 2), (1, 1)

    def forward(self, images: Tensor) -> list[Tensor]:
        x = self.maxpool(self.relu(self.bn1(self.conv1(images))))
        maps: dict[int, Tensor] = {}
        for level, stage in enumerate((self.layer1, self.layer2, self.layer3, self.layer4), start=2):
            x = stage(x)
            maps[level] = x
        return [maps[level] for level in self.levels]
