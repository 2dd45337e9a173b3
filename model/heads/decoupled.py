"""Decoupled R-CNN's head: a classifier and a cascade of regressors that share no weight (DRCNN §IV-A)."""

from __future__ import annotations

from torch import Tensor, nn

from model.config import HeadConfig
from model.heads.shared import Classifier, Regressor


class DecoupledHead(nn.Module):
    """`classifier` scores raw proposals; `regressors[k]` corrects the boxes that stage k - 1 left."""

    def __init__(self, in_features: int, config: HeadConfig, num_classes: int) -> None:
        super().__init__()
        self.classifier = Classifier(in_features, config.width, num_classes)
        self.regressors = nn.ModuleList(
            Regressor(
                in_features, config.width, num_classes if config.class_specific_first and stage == 0 else 1
            )
            for stage in range(config.stages)
        )

    def classify(self, pooled: Tensor) -> Tensor:
        """[N, ch, s, s] -> logits [N, C + 1], background last"""
        return self.classifier(pooled)  # type: ignore[no-any-return]

    def regress(self, stage: int, pooled: Tensor) -> Tensor:
        """[N, ch, s, s] -> deltas [N, 4], or [N, 4 * C] at a class-specific first stage"""
        return self.regressors[stage](pooled)  # type: ignore[no-any-return]
