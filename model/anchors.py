"""Anchor boxes on a feature pyramid."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor


def cell_anchors(sizes: Sequence[float], ratios: Sequence[float], *, rounded: bool) -> Tensor:
    """[len(sizes) * len(ratios), 4] boxes centred on the origin; ratio = height / width.

    `rounded` snaps corners to whole pixels, as torchvision's generator does; mmdetection's does not.
    """
    size = torch.tensor(sizes, dtype=torch.float32)
    height_factor = torch.tensor(ratios, dtype=torch.float32).sqrt()
    widths = (1 / height_factor[:, None] * size[None, :]).reshape(-1)
    heights = (height_factor[:, None] * size[None, :]).reshape(-1)
    anchors = torch.stack([-widths, -heights, widths, heights], dim=1) / 2
    return anchors.round() if rounded else anchors


def grid_anchors(cell: Tensor, height: int, width: int, stride_hw: tuple[int, int]) -> Tensor:
    """[height * width * A, 4]: `cell` at every position of a level, row by row, anchors innermost."""
    ys = torch.arange(height, device=cell.device, dtype=torch.float32) * stride_hw[0]
    xs = torch.arange(width, device=cell.device, dtype=torch.float32) * stride_hw[1]
    shift_y = ys[:, None].expand(height, width)
    shift_x = xs[None, :].expand(height, width)
    shifts = torch.stack([shift_x, shift_y, shift_x, shift_y], dim=-1).reshape(height * width, 1, 4)
    return (shifts + cell[None]).reshape(-1, 4)


def pyramid_anchors(
    cells: Sequence[Tensor],
    level_hw: Sequence[tuple[int, int]],
    strides: Sequence[int],
    image_hw: tuple[int, int],
    *,
    stride_from_image: bool,
) -> list[Tensor]:
    """Anchors of every level.

    `stride_from_image` reproduces torchvision, whose stride is image side // level side: at the pooled level
    of an image 480 px high that is 60, not 64. Off, the level's nominal stride counts.
    """
    anchors = []
    for cell, (height, width), stride in zip(cells, level_hw, strides, strict=True):
        step = (image_hw[0] // height, image_hw[1] // width) if stride_from_image else (stride, stride)
        anchors.append(grid_anchors(cell, height, width, step))
    return anchors
