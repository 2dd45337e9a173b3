"""Deformable RoI pooling: both forms against the definition, gradients against differences."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from model.ops import (
    deform_pool_ragged,
    deform_roi_pool,
    deform_roi_pool_reference,
    multilevel_roi_align,
    roi_levels,
)
from tests.property.pyramid import STRIDES, feature_maps, rois

SIDE = 2


@st.composite
def moved_boxes(draw: st.DrawFn) -> tuple[Tensor, Tensor]:
    """Boxes [2, N, 4] of every level, also empty and outside the image; offsets [2, N, 2, s, s] of them."""
    boxes = draw(rois())
    reach = draw(st.sampled_from([0.0, 1.0, 20.0, 300.0]))
    generator = torch.Generator().manual_seed(draw(st.integers(0, 2**20)))
    offsets = reach * torch.randn(2, boxes.shape[1], 2, SIDE, SIDE, generator=generator)
    return boxes, offsets


@settings(max_examples=25, deadline=None)
@given(moved_boxes(), st.sampled_from([1, 2, 4]), st.booleans())
def test_both_forms_pool_what_the_definition_pools(
    moved: tuple[Tensor, Tensor], samples: int, aligned: bool
) -> None:
    boxes, offsets = moved
    features = feature_maps(2)
    expected = deform_roi_pool_reference(features, boxes, offsets, STRIDES, samples, aligned)
    fixed = deform_roi_pool(features, boxes, offsets, STRIDES, samples, aligned)
    ragged = deform_pool_ragged(features, list(boxes), offsets.flatten(0, 1), STRIDES, samples, aligned)
    torch.testing.assert_close(fixed, expected, atol=1e-4, rtol=1e-4)
    torch.testing.assert_close(ragged, expected, atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("aligned", [False, True])
def test_bins_that_stay_are_roi_aligns(aligned: bool) -> None:
    boxes = torch.tensor([[[3.0, 5.0, 40.0, 50.0], [10.0, 10.0, 11.0, 12.0], [-90.0, -80.0, 300.0, 290.0]]])
    features, still = feature_maps(1), torch.zeros(1, 3, 2, 7, 7)
    found = deform_roi_pool(features, boxes, still, STRIDES, 2, aligned)
    torch.testing.assert_close(
        found, multilevel_roi_align(features, boxes, STRIDES, 7, 2, aligned), atol=2e-5, rtol=1e-4
    )


def test_bins_that_all_move_alike_are_those_of_the_moved_box() -> None:
    box, move = torch.tensor([[[20.0, 12.0, 50.0, 41.0]]]), torch.tensor([9.0, -5.0])
    features = feature_maps(1)
    found = deform_roi_pool(features, box, move[:, None, None].expand(1, 1, 2, 7, 7), STRIDES, 2, False)
    elsewhere = multilevel_roi_align(features, box + move.repeat(2), STRIDES, 7, 2, False)
    torch.testing.assert_close(found, elsewhere, atol=2e-5, rtol=1e-4)


def test_an_offset_moves_one_bin_along_its_axis_and_never_changes_the_level() -> None:
    """Each level says which it is, and grows by one a feature pixel to the right."""
    features = [100.0 * i + torch.arange(64.0).expand(1, 1, 64, 64) for i in range(3)]
    box = torch.tensor([[[64.0, 64.0, 192.0, 192.0]]])  # of side 128: the second level, stride 8
    offsets = torch.zeros(1, 1, 2, 2, 2)
    still = deform_roi_pool(features, box, offsets, STRIDES, 1, True)[0, 0]
    assert still.tolist() == [[111.5, 119.5], [111.5, 119.5]]
    offsets[0, 0, :, 1, 0] = torch.tensor([80.0, 40.0])  # (dx, dy) of the lower left bin
    moved = deform_roi_pool(features, box, offsets, STRIDES, 1, True)[0, 0]
    assert moved.tolist() == [[111.5, 119.5], [121.5, 119.5]]


def test_no_boxes_at_all() -> None:
    features = [f.requires_grad_() for f in feature_maps(2)]
    none = torch.zeros(0, 2, 3, 3, requires_grad=True)
    pooled = deform_pool_ragged(features, [torch.zeros(0, 4)] * 2, none, STRIDES, 2, False)
    assert pooled.shape == (0, 2, 3, 3)
    pooled.sum().backward()
    assert none.grad is not None and all(f.grad is not None for f in features)
    fixed = deform_roi_pool(
        feature_maps(2), torch.zeros(2, 0, 4), torch.zeros(2, 0, 2, 3, 3), STRIDES, 2, False
    )
    assert fixed.shape == (0, 2, 3, 3)


def test_gradients_are_those_of_differences() -> None:
    """In features and offsets, in float64; boxes on two levels and in two images."""
    whole = feature_maps(2, channels=1, dtype=torch.float64)[:2]
    features = [f[..., :6, :7].clone().requires_grad_() for f in whole]
    boxes = [torch.tensor([[7.3, 5.1, 20.2, 18.4]]), torch.tensor([[-90.0, -73.3, 60.0, 50.7]])]
    assert roi_levels(torch.cat(boxes), STRIDES[:2]).tolist() == [0, 1]
    generator = torch.Generator().manual_seed(4)
    offsets = 3 * torch.randn(2, 2, SIDE, SIDE, generator=generator, dtype=torch.float64)

    def pool(offsets: Tensor, *maps: Tensor) -> Tensor:
        return deform_pool_ragged(maps, boxes, offsets, STRIDES[:2], 2, False)

    assert torch.autograd.gradcheck(pool, (offsets.requires_grad_(), *features))


def test_half_precision_features_are_summed_in_float32() -> None:
    features = [f.half() for f in feature_maps(1)]
    boxes = torch.tensor([[[3.0, 5.0, 40.0, 50.0]]])
    offsets = torch.ones(1, 1, 2, SIDE, SIDE)
    wide = [f.float() for f in features]
    fixed = deform_roi_pool(features, boxes, offsets, STRIDES, 2, False)
    assert fixed.dtype == torch.float16  # one level holds it all: rounded once
    assert torch.equal(fixed, deform_roi_pool(wide, boxes, offsets, STRIDES, 2, False).half())
    ragged = deform_pool_ragged(features, list(boxes), offsets[0], STRIDES, 2, False)
    assert torch.equal(ragged, deform_pool_ragged(wide, list(boxes), offsets[0], STRIDES, 2, False))
