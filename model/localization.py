"""The DIR head: a second look at the final box ("hindsight") that says how good it is."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from model import boxes as box_ops
from model import losses
from model.heads.shared import TwoFC
from model.structures import Quality


class LocalizationHead(nn.Module):
    """Two branches, purity and integrity, on the features of the regressed box (DIR §3.4).

    The IoU follows from the two: DIR Eq. (8).
    """

    def __init__(self, in_features: int, width: int) -> None:
        super().__init__()
        self.purity = nn.Sequential(TwoFC(in_features, width), _logit(width))
        self.integrity = nn.Sequential(TwoFC(in_features, width), _logit(width))

    def logits(self, pooled: Tensor) -> tuple[Tensor, Tensor]:
        """[N, ch, s, s] -> purity logits [N], integrity logits [N]"""
        return self.purity(pooled).squeeze(1), self.integrity(pooled).squeeze(1)

    def forward(self, pooled: Tensor) -> Quality:
        """[N, ch, s, s] -> probabilities [N] each"""
        purity, integrity = self.logits(pooled)
        iou = losses.iou_logit(purity, integrity)
        return Quality(torch.sigmoid(iou), torch.sigmoid(purity.float()), torch.sigmoid(integrity.float()))

    def losses(self, pooled: Tensor, boxes: Tensor, truths: Tensor) -> dict[str, Tensor]:
        """DIR Eq. (9): three BCE terms against the qualities of detached `boxes` [N, 4] to `truths` [N, 4].

        The entropy of the soft targets, which no prediction can undercut, is taken off: gradients are the
        paper's, and the number shown reaches 0 for a perfect head.
        """
        purity, integrity = self.logits(pooled)
        iou_t, purity_t, integrity_t = box_ops.paired_quality(boxes.detach(), truths.detach())
        pairs = {
            "purity": (purity, purity_t),
            "integrity": (integrity, integrity_t),
            "iou": (losses.iou_logit(purity, integrity), iou_t),
        }
        return {
            name: losses.soft_bce(logit, wished) - _floor(wished) for name, (logit, wished) in pairs.items()
        }


def _floor(wished: Tensor) -> Tensor:
    return losses.binary_entropy(wished).mean() if len(wished) else wished.sum()


def _logit(width: int) -> nn.Linear:
    layer = nn.Linear(width, 1)
    nn.init.normal_(layer.weight, std=0.01)
    nn.init.zeros_(layer.bias)
    return layer


def fuse(class_scores: Tensor, ious: Tensor, iou_weight: Tensor) -> Tensor:
    """Confidence that ranks boxes: class^(1 - w) * IoU^w.

    w = .5 is the geometric mean sqrt(class * IoU) of DIR §3.4, 0 the class score alone.
    class_scores [B, D, C], ious [B, D], iou_weight [B] -> [B, D, C].
    """
    weight = iou_weight.reshape(-1, 1, 1)
    return class_scores.pow(1 - weight) * ious[..., None].pow(weight)
