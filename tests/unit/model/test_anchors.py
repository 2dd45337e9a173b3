"""Anchors against torchvision's generator, and where ours departs from it on purpose."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor
from torchvision.models.detection.anchor_utils import AnchorGenerator
from torchvision.models.detection.image_list import ImageList

from model.anchors import cell_anchors, pyramid_anchors

SIZES, RATIOS, STRIDES = (32.0, 64.0, 128.0), (0.5, 1.0, 2.0), [8, 16, 32]


def ours(image_hw: tuple[int, int], levels: list[tuple[int, int]], *, from_image: bool) -> list[Tensor]:
    cells = [cell_anchors([size], RATIOS, rounded=True) for size in SIZES]
    return pyramid_anchors(cells, levels, STRIDES, image_hw, stride_from_image=from_image)


@pytest.mark.parametrize("image_hw", [(64, 96), (480, 608), (100, 75), (33, 70), (32, 32)])
def test_anchors_are_torchvisions(image_hw: tuple[int, int]) -> None:
    height, width = image_hw
    levels = [(-(-height // s), -(-width // s)) for s in STRIDES]
    generator = AnchorGenerator(tuple((int(s),) for s in SIZES), (RATIOS,) * 3)
    features = [torch.zeros(1, 1, h, w) for h, w in levels]
    expected = generator(ImageList(torch.zeros(1, 3, height, width), [image_hw]), features)[0]
    assert torch.equal(torch.cat(ours(image_hw, levels, from_image=True)), expected)


def test_the_nominal_stride_counts_unless_torchvisions_is_asked_for() -> None:
    level = [(8, 10), (4, 5), (3, 3)]  # 32-pixel cells of a 64-pixel image: torchvision would step 21
    nominal, image = (ours((64, 80), level, from_image=flag)[2] for flag in (False, True))
    centres = (nominal[:, :2] + nominal[:, 2:]) / 2
    assert centres[0::3].tolist() == [[x * 32.0, y * 32.0] for y in range(3) for x in range(3)]
    assert float(image[-1, 0] - image[0, 0]) != float(nominal[-1, 0] - nominal[0, 0])


def test_a_cell_has_one_anchor_a_ratio_of_the_same_area() -> None:
    cell = cell_anchors([40.0], RATIOS, rounded=False)
    wh = cell[:, 2:] - cell[:, :2]
    torch.testing.assert_close(wh.prod(dim=1), torch.full((3,), 1600.0))
    torch.testing.assert_close(wh[:, 1] / wh[:, 0], torch.tensor(RATIOS))
    torch.testing.assert_close(cell[:, :2], -cell[:, 2:])


def test_rounding_snaps_corners_to_pixels() -> None:
    rounded, exact = (cell_anchors([32.0], RATIOS, rounded=flag) for flag in (True, False))
    assert torch.equal(rounded, exact.round()) and not torch.equal(rounded, exact)
