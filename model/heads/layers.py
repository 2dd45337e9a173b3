"""The fully connected layers that second stages are made of."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor, nn


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
