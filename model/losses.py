"""Loss terms: scalars that keep their graph even when there is nothing to learn from (DDP needs that)."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor


def binary_entropy(targets: Tensor) -> Tensor:
    """Floor of binary cross-entropy against soft targets: what the best prediction still costs."""
    t = targets.clamp(1e-7, 1 - 1e-7)
    return -(t * t.log() + (1 - t) * (1 - t).log())


def soft_bce(logits: Float[Tensor, " N"], targets: Float[Tensor, " N"]) -> Tensor:
    """DIR Eq. (9): mean BCE against soft targets, in float32; 0 with a graph for N = 0."""
    if not len(logits):
        return logits.float().sum() * 0
    return F.binary_cross_entropy_with_logits(logits.float(), targets.float())


def excess_bce(logits: Float[Tensor, " N"], targets: Float[Tensor, " N"]) -> Tensor:
    """`soft_bce` above the entropy of the targets: the same gradients, and 0 for a perfect prediction."""
    floor = binary_entropy(targets).mean() if len(targets) else targets.sum()
    return soft_bce(logits, targets) - floor


def l1(deltas: Tensor, targets: Tensor, weights: Tensor, denominator: float) -> Tensor:
    """sum(weights * |deltas - targets|) / denominator in float32: [N, 4], [N, 4], [N] -> scalar.

    DRCNN Eq. (4).
    """
    distance = (deltas.float() - targets.float()).abs().sum(dim=-1)
    return (distance * weights).sum() / max(denominator, 1.0)


def cross_entropy(logits: Float[Tensor, "N classes"], labels: Tensor) -> Tensor:
    """Mean softmax cross-entropy (DRCNN Eq. (3)) in float32; 0 with a graph for N = 0."""
    if not len(logits):
        return logits.float().sum() * 0
    return F.cross_entropy(logits.float(), labels)


def iou_logit(purity_logits: Tensor, integrity_logits: Tensor) -> Tensor:
    """DIR Eq. (5) in logits: logit(IoU) = -logaddexp(-a, -b).

    For 1 / (1/P + 1/I - 1) has odds 1 / (exp(-a) + exp(-b)). Exact, and finite in float16 where forming 1/P
    or log(0) is not.
    """
    return -torch.logaddexp(-_wide(purity_logits), -_wide(integrity_logits))


def _wide(values: Tensor) -> Tensor:
    """At least float32; float64 stays, so that gradients can be checked."""
    return values if values.dtype == torch.float64 else values.float()
