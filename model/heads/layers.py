"""The fully connected layers that second stages are made of."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

POOLED_SIDE = 7


class TwoFC(nn.Module):
    """[N, ch, s, s] -> [N, width]: flatten, FC, ReLU, FC, ReLU."""

    def __init__(self, in_features: int, width: int) -> None:
        super().__init__()
        self.fc1 = nn.Linear(in_features, width)
        self.fc2 = nn.Linear(width, width)
        for layer in (self.fc1, self.fc2):
            nn.init.xavier_uniform_(layer.weight)
            nn.init.zeros_(layer.bias)

    def forward(self, pooled: Tensor) -> Tensor:
        return F.relu(self.fc2(F.relu(self.fc1(pooled.flatten(1)))))


class ConvFC(nn.Module):
    """[N, ch, 7, 7] -> [N, width]: 3x3 convolutions with batch norm and ReLU, flatten, FC, ReLU."""

    def __init__(self, in_features: int, convs: int, width: int) -> None:
        super().__init__()
        channels = in_features // POOLED_SIDE**2
        self.convs = nn.Sequential(*(_ConvNorm(channels) for _ in range(convs)))
        self.fc = nn.Linear(in_features, width)
        nn.init.xavier_uniform_(self.fc.weight)
        nn.init.zeros_(self.fc.bias)

    def forward(self, pooled: Tensor) -> Tensor:
        if not len(pooled):  # batch norm refuses an empty batch; every parameter stays in the graph
            nothing = torch.stack([p.sum() for p in self.parameters()]).sum() * 0
            return pooled.new_zeros(0, self.fc.out_features) + nothing
        return F.relu(self.fc(self.convs(pooled).flatten(1)))


class _ConvNorm(nn.Module):
    def __init__(self, channels: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(channels, channels, 3, padding=1, bias=False)
        nn.init.kaiming_normal_(self.conv.weight, mode="fan_out", nonlinearity="relu")
        self.norm = nn.BatchNorm2d(channels)

    def forward(self, x: Tensor) -> Tensor:
        return F.relu(self.norm(self.conv(x)))


def output_layer(width: int, outputs: int, std: float) -> nn.Linear:
    """A last layer that starts close to saying nothing."""
    layer = nn.Linear(width, outputs)
    nn.init.normal_(layer.weight, std=std)
    nn.init.zeros_(layer.bias)
    return layer


class Classifier(nn.Module):
    """Trunk and C + 1 logits, background last."""

    def __init__(self, in_features: int, width: int, num_classes: int) -> None:
        super().__init__()
        self.trunk = TwoFC(in_features, width)
        self.logits = output_layer(width, num_classes + 1, 0.01)

    def forward(self, pooled: Tensor) -> Tensor:
        """[N, ch, s, s] -> [N, C + 1]"""
        return self.logits(self.trunk(pooled))  # type: ignore[no-any-return]


class Regressor(nn.Module):
    """Trunk and deltas: 4, or 4 * C when class-specific."""

    def __init__(self, in_features: int, width: int, classes: int = 1) -> None:
        super().__init__()
        self.trunk = TwoFC(in_features, width)
        self.deltas = output_layer(width, 4 * classes, 0.001)

    def forward(self, pooled: Tensor) -> Tensor:
        """[N, ch, s, s] -> [N, 4 * classes]"""
        return self.deltas(self.trunk(pooled))  # type: ignore[no-any-return]
