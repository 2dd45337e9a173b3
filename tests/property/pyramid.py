"""A pyramid and boxes to pool from it, for the tests of every pooling operator."""

from __future__ import annotations

import torch
from hypothesis import strategies as st
from torch import Tensor

STRIDES = [4, 8, 16]
MAPS = [(16, 24), (8, 12), (4, 6)]  # of a 64 x 96 image


def feature_maps(
    batch: int, channels: int = 2, seed: int = 0, dtype: torch.dtype = torch.float32
) -> list[Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return [torch.randn(batch, channels, h, w, generator=generator, dtype=dtype) for h, w in MAPS]


@st.composite
def rois(draw: st.DrawFn) -> Tensor:
    """[2, N, 4] on a grid of 1/4 pixel, from empty to far larger than the image and wholly outside it."""
    count = draw(st.integers(1, 3))
    corner = st.integers(-40, 440)
    side = st.one_of(st.integers(0, 4), st.integers(8, 400), st.integers(1600, 2400))
    cells = draw(st.lists(st.tuples(corner, corner, side, side), min_size=2 * count, max_size=2 * count))
    rows = [[x / 4, y / 4, (x + w) / 4, (y + h) / 4] for x, y, w, h in cells]
    return torch.tensor(rows).reshape(2, count, 4)


def degenerate_boxes(width: float, height: float) -> Tensor:
    """[7, 4], none of them inverted. The third and the fourth pool zeros. The image's size in pixels."""
    return torch.tensor(
        [
            [10.0, 10.0, 10.0, 10.0],  # a point
            [10.0, 10.0, 30.0, 10.0],  # a line
            [500.0, 500.0, 520.0, 530.0],  # outside the map
            [-90.0, -90.0, -40.0, -60.0],
            [0.0, 0.0, width, height],  # the image
            [8.0, 8.0, 8.125, 8.125],  # tiny
            [-300.0, -300.0, 400.0, 400.0],  # huge
        ]
    )
