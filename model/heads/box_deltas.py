"""What a host's deltas do to boxes, and what they cost. All hosts share this, and so read a config alike."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from model import boxes as box_ops
from model import losses
from model.config import HeadConfig


def deltas_of_class(deltas: Tensor, labels: Tensor) -> Tensor:
    """[N, 4] or [N, 4 * C] -> [N, 4], the class's own when regression is class-specific."""
    if deltas.shape[-1] == 4:
        return deltas
    per_class: Tensor = deltas.unflatten(-1, (-1, 4))
    return per_class.gather(1, labels.reshape(-1, 1, 1).expand(-1, 1, 4)).squeeze(1)


def split_like(flat: Tensor, lists: Sequence[Tensor]) -> list[Tensor]:
    """[sum n_i, X] -> one tensor per image, of the lengths of `lists`."""
    return list(flat.split([len(part) for part in lists]))


def clip_lists(boxes: Sequence[Tensor], image_sizes: Tensor) -> list[Tensor]:
    """Each image's boxes cut at its valid area."""
    return [box_ops.clip(part[None], size[None])[0] for part, size in zip(boxes, image_sizes, strict=True)]


def decode(boxes: Tensor, deltas: Tensor, config: HeadConfig, stage: int = 0) -> Tensor:
    """boxes [..., 4] moved by the deltas [..., 4] of a stage, 0 the first; not clipped."""
    return box_ops.decode(boxes, deltas, config.stds[stage], shrink_limited=config.shrink_limited)


def decode_rows(
    boxes: Tensor, deltas: Tensor, config: HeadConfig, image_sizes: Tensor, stage: int = 0
) -> Tensor:
    """boxes [B, D, 4] by deltas [B, D, 4] -> [B, D, 4], or by [B, D, 4 * C] -> [B, D, C, 4]; clipped."""
    if deltas.shape[-1] != 4:
        deltas = deltas.unflatten(-1, (-1, 4))
        boxes = boxes[:, :, None].expand_as(deltas)
    return box_ops.clip(decode(boxes, deltas, config, stage), image_sizes)


@torch.no_grad()
def decode_lists(
    boxes: Sequence[Tensor], deltas: Tensor, config: HeadConfig, image_sizes: Tensor, stage: int = 0
) -> list[Tensor]:
    """One list of boxes [n_i, 4] per image by deltas [sum n_i, 4]: likewise, clipped and detached."""
    moved = decode(torch.cat(list(boxes)), deltas, config, stage)
    return clip_lists(split_like(moved, boxes), image_sizes)


def box_loss(
    boxes: Tensor, deltas: Tensor, truths: Tensor, config: HeadConfig, denominator: float, stage: int = 0
) -> Tensor:
    """L1 of the deltas that carry boxes onto truths, [P, 4] each, times the config's `loss_weight` or 1."""
    wished = box_ops.encode(boxes, truths, config.stds[stage])
    weight = config.loss_weight if config.loss_weight is not None else 1.0
    return weight * losses.l1(deltas, wished, torch.ones_like(boxes[:, 0]), denominator)
