"""The DIR head: a second look at the final box ("hindsight") that says how good it is."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from model import boxes as box_ops
from model import losses
from model.config import LocalizationConfig
from model.heads.host import Refined, Regressed, Rois
from model.heads.layers import TwoFC, output_layer
from model.sampling import jitter_truths
from model.structures import Quality, Target


def _branch(in_features: int, width: int) -> nn.Sequential:
    return nn.Sequential(TwoFC(in_features, width), output_layer(width, 1, 0.01))


class LocalizationHead(nn.Module):
    """Two branches, purity and integrity, on the features of the regressed box (DIR §3.4).

    The IoU follows from the two: DIR Eq. (8). Foresight (DIR Eq. (6)) reads the proposal's features instead.
    """

    def __init__(self, in_features: int, config: LocalizationConfig) -> None:
        super().__init__()
        self.config = config
        self.purity = _branch(in_features, config.width)
        self.integrity = _branch(in_features, config.width)

    def logits(self, pooled: Tensor) -> tuple[Tensor, Tensor]:
        """[N, ch, s, s] -> purity logits [N], integrity logits [N]"""
        return self.purity(pooled).squeeze(1), self.integrity(pooled).squeeze(1)

    def forward(self, pooled: Tensor) -> Quality:
        """[N, ch, s, s] -> probabilities [N] each; the IoU by the configured combination."""
        purity, integrity = self.logits(pooled)
        p, i = torch.sigmoid(purity.float()), torch.sigmoid(integrity.float())
        rule = self.config.combination
        if rule == "eq5":  # from the logits: exact where the probabilities have lost their digits
            return Quality(torch.sigmoid(losses.iou_logit(purity, integrity)), p, i)
        return Quality(COMBINATIONS[rule](p, i), p, i)

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
        return {name: losses.excess_bce(logit, wished) for name, (logit, wished) in pairs.items()}


class DirectIouHead(nn.Module):
    """One number, the IoU itself: what purity and integrity are compared with (DIR Table 3).

    `branches` = 2 averages two branches' logits, so that the parameters match those of purity and integrity:
    a control that the paper lacks.
    """

    def __init__(self, in_features: int, config: LocalizationConfig, branches: int) -> None:
        super().__init__()
        self.branches = nn.ModuleList(_branch(in_features, config.width) for _ in range(branches))

    def logits(self, pooled: Tensor) -> Tensor:
        """[N, ch, s, s] -> IoU logits [N]"""
        return torch.stack([branch(pooled).squeeze(1) for branch in self.branches]).mean(dim=0)

    def forward(self, pooled: Tensor) -> Quality:
        """[N, ch, s, s] -> IoU [N]; purity and integrity are not known."""
        return Quality(torch.sigmoid(self.logits(pooled).float()), None, None)

    def losses(self, pooled: Tensor, boxes: Tensor, truths: Tensor) -> dict[str, Tensor]:
        """Its one BCE term, as LocalizationHead.losses."""
        wished = box_ops.paired_quality(boxes.detach(), truths.detach())[0]
        return {"iou": losses.excess_bce(self.logits(pooled), wished)}


def build_localization(in_features: int, config: LocalizationConfig) -> LocalizationHead | DirectIouHead:
    """The head of `config.kind`."""
    if config.kind == "purity_integrity":
        return LocalizationHead(in_features, config)
    return DirectIouHead(in_features, config, branches=2 if config.kind == "iou_control" else 1)


def localization_losses(
    head: LocalizationHead | DirectIouHead,
    config: LocalizationConfig,
    rois: Rois,
    regressed: Regressed,
    targets: Sequence[Target],
    image_sizes: Tensor,
) -> dict[str, Tensor]:
    """DIR Eq. (9) on boxes regressed from positives (each keeps its truth) and on jittered truths."""
    boxes, looked_at, truths = [], [], []
    own = (regressed.boxes, regressed.sources, regressed.truths, regressed.from_truth)
    for final, source, truth, from_truth, target, size in zip(*own, targets, image_sizes, strict=True):
        kept = torch.ones_like(from_truth) if config.use_truth_proposals else ~from_truth
        jittered = jitter_truths(target.boxes, config.jitter_per_truth, config.jitter_min_iou, size)
        origins = target.boxes.repeat_interleave(config.jitter_per_truth, dim=0)
        boxes.append(torch.cat([final[kept], jittered]))
        truths.append(torch.cat([truth[kept], origins]))
        looked_at.append(boxes[-1] if config.train_features == "box" else source[kept])
    terms = head.losses(rois.ragged(looked_at), torch.cat(boxes), torch.cat(truths))
    return {name: config.loss_weight * value for name, value in terms.items()}


def look(
    head: LocalizationHead | DirectIouHead, config: LocalizationConfig, rois: Rois, refined: Refined
) -> Quality:
    """What the head says of each final box: [B, D] each. DIR Eq. (7): hindsight reads the final box."""
    seen = refined.boxes if config.test_features == "box" else refined.sources
    shape = refined.boxes.shape[:2]
    quality: Quality = head(rois.fixed(seen))
    purities, integrities = (None if part is None else part.reshape(shape) for part in quality[1:])
    return Quality(quality.ious.reshape(shape), purities, integrities)


def fuse(class_scores: Tensor, ious: Tensor, iou_weight: Tensor) -> Tensor:
    """Confidence that ranks boxes: class^(1 - w) * IoU^w.

    w = .5 is the geometric mean sqrt(class * IoU) of DIR §3.4, 0 the class score alone.
    class_scores [B, D, C], ious [B, D], iou_weight [B] -> [B, D, C].
    """
    weight = iou_weight.reshape(-1, 1, 1)
    return class_scores.pow(1 - weight) * ious[..., None].pow(weight)


# DIR Table 5: other ways from purity and integrity to one number
COMBINATIONS = {
    "geometric": lambda purity, integrity: (purity * integrity).sqrt(),
    "arithmetic": lambda purity, integrity: (purity + integrity) / 2,
    "purity": lambda purity, integrity: purity,
    "integrity": lambda purity, integrity: integrity,
}
