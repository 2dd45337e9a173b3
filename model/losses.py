"""Loss terms: scalars that keep their graph even when there is nothing to learn from (DDP needs that)."""

from __future__ import annotations

import torch
import torch.distributed as dist
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor


def mean_over_processes(count: float, device: torch.device) -> Tensor | float:
    """What a sum over this process's rows is divided by so that gradients are those of the global batch.

    Training processes average their gradients; dividing each sum by the mean count instead of its own makes
    that average the global mean. Every process must ask in the same order. Never below 1.
    """
    if not (dist.is_available() and dist.is_initialized()):
        return max(count, 1.0)
    shared = torch.tensor(float(count), device=device)
    dist.all_reduce(shared)
    return (shared / dist.get_world_size()).clamp(min=1.0)


def binary_entropy(targets: Tensor) -> Tensor:
    """Floor of binary cross-entropy against soft targets: what the best prediction still costs."""
    t = targets.clamp(1e-7, 1 - 1e-7)
    return -(t * t.log() + (1 - t) * (1 - t).log())


def soft_bce(logits: Float[Tensor, " N"], targets: Float[Tensor, " N"]) -> Tensor:
    """DIR Eq. (9): mean BCE against soft targets, in float32; 0 with a graph for N = 0."""
    total = F.binary_cross_entropy_with_logits(logits.float(), targets.float(), reduction="sum")
    return total / mean_over_processes(len(logits), logits.device)


def excess_bce(logits: Float[Tensor, " N"], targets: Float[Tensor, " N"]) -> Tensor:
    """`soft_bce` above the entropy of the targets: the same gradients, and 0 for a perfect prediction."""
    floor = binary_entropy(targets).sum() / mean_over_processes(len(targets), logits.device)
    return soft_bce(logits, targets) - floor


def l1(deltas: Tensor, targets: Tensor, weights: Tensor, denominator: float) -> Tensor:
    """sum(weights * |deltas - targets|) / denominator in float32: [N, 4], [N, 4], [N] -> scalar.

    DRCNN Eq. (4).
    """
    distance = (deltas.float() - targets.float()).abs().sum(dim=-1)
    return (distance * weights).sum() / mean_over_processes(denominator, deltas.device)


def cross_entropy(logits: Float[Tensor, "N classes"], labels: Tensor) -> Tensor:
    """Mean softmax cross-entropy (DRCNN Eq. (3)) in float32; 0 with a graph for N = 0."""
    total = F.cross_entropy(logits.float(), labels, reduction="sum")
    return total / mean_over_processes(len(logits), logits.device)


def iou_logit(purity_logits: Tensor, integrity_logits: Tensor) -> Tensor:
    """DIR Eq. (5) in logits: logit(IoU) = -logaddexp(-a, -b).

    For 1 / (1/P + 1/I - 1) has odds 1 / (exp(-a) + exp(-b)). Exact, and finite in float16 where forming 1/P
    or log(0) is not.
    """
    return -torch.logaddexp(-_wide(purity_logits), -_wide(integrity_logits))


def _wide(values: Tensor) -> Tensor:
    """At least float32; float64 stays, so that gradients can be checked."""
    return values if values.dtype == torch.float64 else values.float()
