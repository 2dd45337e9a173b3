"""roi_align.cu on the host grid: every type and layout against the torch operator over thousands of boxes."""

from __future__ import annotations

from collections.abc import Sequence

import pytest
import torch
from torch import Tensor

from model.ops import launchers, multilevel_roi_align, multilevel_roi_align_reference
from tests.property.pyramid import degenerate_boxes
from tests.unit.kernels.conftest import HostGrid

STRIDES = [4, 8, 16]
MAPS = [(32, 48), (16, 24), (8, 12)]  # of a 128 x 192 image
TYPES = [
    (torch.float32, torch.float32),
    (torch.float16, torch.float32),
    (torch.float16, torch.float16),
    (torch.bfloat16, torch.float32),
    (torch.bfloat16, torch.bfloat16),
]
CONVENTIONS = [(False, 2), (True, 2), (False, 0), (True, 0), (True, 3)]
# relative and absolute: rounding of the result's own type, then of the sums
TOLERANCE = {torch.float32: (1e-4, 2e-5), torch.float16: (1e-3, 1e-4), torch.bfloat16: (8e-3, 1e-3)}
NAN, INFINITE = float("nan"), float("inf")


def feature_maps(
    dtype: torch.dtype, *, channels: int = 16, channels_last: bool = True, batch: int = 2
) -> list[Tensor]:
    generator = torch.Generator().manual_seed(channels)
    layout = torch.channels_last if channels_last else torch.contiguous_format
    return [
        torch.randn(batch, channels, h, w, generator=generator).to(dtype).to(memory_format=layout)
        for h, w in MAPS
    ]


def some_boxes(seed: int, count: int, batch: int = 2) -> Tensor:
    """Of every size and aspect, inside and outside the image; half of them on a grid of a quarter pixel."""
    generator = torch.Generator().manual_seed(seed)
    corner = torch.rand(batch, count, 2, generator=generator) * torch.tensor([260.0, 190.0]) - 30
    wh = torch.exp(torch.rand(batch, count, 2, generator=generator) * 5.5)
    boxes = torch.cat([corner, corner + wh], dim=-1)
    boxes[:, ::2] = (boxes[:, ::2] * 4).round() / 4
    return boxes


def pooled(
    grid: HostGrid,
    features: Sequence[Tensor],
    boxes: Tensor,
    size: int,
    ratio: int,
    aligned: bool,
    out: torch.dtype = torch.float32,
) -> Tensor:
    return launchers.roi_align(features, boxes, STRIDES, size, ratio, aligned, grid.queue, out)


def assert_pools_as_torch(found: Tensor, features: Sequence[Tensor], boxes: Tensor, *how: int) -> None:
    """Against float32 of the same maps: the tolerance is that of the result's own rounding."""
    size, ratio, aligned = how
    wide = [feature.float() for feature in features]
    expected = multilevel_roi_align(wide, boxes, STRIDES, size, ratio, bool(aligned))
    relative, absolute = TOLERANCE[found.dtype]
    torch.testing.assert_close(found.float(), expected, rtol=relative, atol=absolute)


@pytest.mark.parametrize(("aligned", "ratio"), CONVENTIONS)
@pytest.mark.parametrize("channels_last", [True, False], ids=["vector", "strided"])
@pytest.mark.parametrize(("dtype", "out"), TYPES)
def test_every_type_and_layout(
    grid: HostGrid, dtype: torch.dtype, out: torch.dtype, channels_last: bool, aligned: bool, ratio: int
) -> None:
    features = feature_maps(dtype, channels_last=channels_last)
    boxes = some_boxes(ratio, 60)
    grid.order = 2 + ratio
    found = pooled(grid, features, boxes, 7, ratio, aligned, out)
    if out == dtype:  # what the operator asks for
        own = launchers.roi_align(features, boxes, STRIDES, 7, ratio, aligned, grid.queue)
        assert own.dtype == dtype and torch.equal(own, found)
    assert found.dtype == out and ("vector" in grid.launched[0]) == channels_last
    assert_pools_as_torch(found, features, boxes, 7, ratio, aligned)


@pytest.mark.parametrize("channels_last", [True, False], ids=["vector", "strided"])
def test_a_thousand_boxes(grid: HostGrid, channels_last: bool) -> None:
    features = feature_maps(torch.float32, channels=4, channels_last=channels_last)
    for seed, (aligned, ratio) in enumerate(CONVENTIONS):
        boxes = some_boxes(seed, 100)
        found = pooled(grid, features, boxes, 2, ratio, aligned)
        assert_pools_as_torch(found, features, boxes, 2, ratio, aligned)


@pytest.mark.parametrize(
    ("dtype", "channels", "size", "kernel"),
    [
        (torch.float32, 256, 7, "vector"),  # 4 slices
        (torch.float16, 72, 7, "vector"),  # the second slice is not full
        (torch.float16, 80, 14, "vector"),  # slices of 64 would not fit in shared memory
        (torch.bfloat16, 8, 28, "vector"),  # one thread a bin
        (torch.float32, 8, 56, "strided"),  # nothing can be staged
        (torch.float16, 20, 7, "strided"),  # 20 channels are no whole number of 16 bytes
        (torch.float32, 70, 1, "strided"),
    ],
)
def test_channels_and_sizes(
    grid: HostGrid, dtype: torch.dtype, channels: int, size: int, kernel: str
) -> None:
    features, boxes = feature_maps(dtype, channels=channels), some_boxes(3, 4)
    found = pooled(grid, features, boxes, size, 2, False)
    assert kernel in grid.launched[0]
    assert_pools_as_torch(found, features, boxes, size, 2, False)


@pytest.mark.parametrize("channels_last", [True, False], ids=["vector", "strided"])
@pytest.mark.parametrize(("aligned", "ratio"), CONVENTIONS)
def test_degenerate_boxes(grid: HostGrid, channels_last: bool, aligned: bool, ratio: int) -> None:
    more = torch.tensor(
        [
            [30.0, 30.0, 10.0, 10.0],  # inverted
            [30.0, 10.0, 10.0, 40.0],
            [0.0, 20.0, 900.0, 22.0],  # more samples along x than the table of taps holds
            [56.0, 56.0, 168.0, 168.0],  # on the border of two levels
        ]
    )
    boxes = torch.cat([degenerate_boxes(192, 128), more])[None]
    features = feature_maps(torch.float32, channels=8, channels_last=channels_last, batch=1)
    found = pooled(grid, features, boxes, 3, ratio, aligned)
    # torchvision fails on the inverted ones; the definition gives them zeros
    expected = multilevel_roi_align_reference(features, boxes, STRIDES, 3, ratio, aligned)
    torch.testing.assert_close(found, expected, atol=2e-5, rtol=1e-4)
    assert not found[2:4].any()


@pytest.mark.parametrize(("aligned", "ratio"), CONVENTIONS)
def test_boxes_that_are_no_boxes_pool_zeros_and_hang_nothing(
    grid: HostGrid, aligned: bool, ratio: int
) -> None:
    boxes = torch.tensor(
        [
            [NAN, 0.0, 10.0, 10.0],
            [0.0, 0.0, 10.0, NAN],
            [-INFINITE, 0.0, INFINITE, 10.0],
            [0.0, 0.0, INFINITE, INFINITE],
            [-1e30, -1e30, 1e30, 1e30],
        ]
    )[None]
    features = feature_maps(torch.float32, channels=4, batch=1)
    assert not pooled(grid, features, boxes, 7, ratio, aligned).any()


def test_a_box_of_a_billion_samples_reads_only_the_map(grid: HostGrid) -> None:
    features = [torch.ones(1, 4, *size) for size in MAPS]
    boxes = torch.tensor([[[-4e5, -4e5, 4e5, 4e5]]])
    found = pooled(grid, features, boxes, 7, 0, True)
    side = 8e5 / 16 / 7  # of the middle bin, which alone sees the map of the coarsest level
    assert found[0, 0, 3, 3].item() == pytest.approx((8 + 1) * (12 + 1) / side**2, rel=0.05)
    assert int(found.count_nonzero()) == 4


def test_infinite_pixels_elsewhere_do_not_leak_into_zeros(grid: HostGrid) -> None:
    features = [torch.full((1, 4, *size), INFINITE).to(memory_format=torch.channels_last) for size in MAPS]
    outside = torch.tensor([[[500.0, 500.0, 520.0, 530.0]]])
    assert not pooled(grid, features, outside, 7, 2, False).any()


def test_one_level_and_levels_of_differing_layout(grid: HostGrid) -> None:
    boxes = some_boxes(5, 20)
    mixed = feature_maps(torch.float32, channels=8)
    mixed[1] = mixed[1].contiguous()
    assert_pools_as_torch(pooled(grid, mixed, boxes, 3, 2, False), mixed, boxes, 3, 2, False)
    found = launchers.roi_align(mixed[:1], boxes, STRIDES[:1], 3, 2, False, grid.queue)
    expected = multilevel_roi_align(mixed[:1], boxes, STRIDES[:1], 3, 2, False)
    torch.testing.assert_close(found, expected, atol=2e-5, rtol=1e-4)


def test_views_into_larger_maps_are_read_where_they_lie(grid: HostGrid) -> None:
    wide = feature_maps(torch.float32, channels=24)
    boxes = some_boxes(6, 20)
    for first, kernel in [(8, "vector"), (3, "strided")]:  # 3 channels in: not at a multiple of 16 bytes
        features = [feature[:, first : first + 8] for feature in wide]
        assert_pools_as_torch(pooled(grid, features, boxes, 3, 2, True), features, boxes, 3, 2, True)
        assert kernel in grid.launched[-1]


def test_other_types_are_converted(grid: HostGrid) -> None:
    features, boxes = feature_maps(torch.float64, channels=4), some_boxes(1, 6)
    assert_pools_as_torch(pooled(grid, features, boxes, 3, 2, False), features, boxes, 3, 2, False)


def test_nothing_to_pool_launches_nothing(grid: HostGrid) -> None:
    assert pooled(grid, feature_maps(torch.float32), torch.zeros(2, 0, 4), 7, 2, False).shape == (0, 16, 7, 7)
    empty = [torch.zeros(2, 4, 0, 0)] * 3
    assert not pooled(grid, empty, some_boxes(1, 3), 7, 2, False).any()
    assert not grid.launched


def test_what_the_kernel_cannot_take_is_refused(grid: HostGrid) -> None:
    boxes, features = some_boxes(1, 3), feature_maps(torch.float16)
    with pytest.raises(ValueError, match="1 to 8 feature levels"):
        launchers.roi_align(features * 3, boxes, STRIDES * 3, 7, 2, False, grid.queue)
    with pytest.raises(ValueError, match="expected level 0"):
        pooled(grid, features, boxes[:1], 7, 2, False)
    with pytest.raises(ValueError, match="for the result"):
        pooled(grid, features, boxes, 7, 2, False, torch.bfloat16)
    large = torch.empty(2, 4, 2**16, 2**16, device="meta")
    with pytest.raises(ValueError, match="more elements an image"):
        launchers.roi_align([large], boxes.to("meta"), [4], 7, 2, False, grid.queue)
