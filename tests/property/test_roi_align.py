"""Multi-level RoI-Align: the operator and its differentiable twin against the definition."""

from __future__ import annotations

import pytest
import torch
import torchvision
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from model.ops import multilevel_roi_align, multilevel_roi_align_reference, pool_ragged, roi_levels
from tests.property.pyramid import STRIDES, degenerate_boxes, feature_maps, rois

CONVENTIONS = [(False, 2), (True, 2), (False, 0), (True, 0)]


@settings(max_examples=25, deadline=None)
@given(rois(), st.sampled_from(CONVENTIONS))
def test_it_pools_what_the_definition_pools(boxes: Tensor, convention: tuple[bool, int]) -> None:
    aligned, ratio = convention
    if ratio == 0:  # one sample a feature pixel: keep the slow reference affordable
        boxes = torch.cat([boxes[..., :2], torch.minimum(boxes[..., 2:], boxes[..., :2] + 64)], dim=-1)
    features = feature_maps(2)
    found = multilevel_roi_align(features, boxes, STRIDES, 2, ratio, aligned)
    expected = multilevel_roi_align_reference(features, boxes, STRIDES, 2, ratio, aligned)
    torch.testing.assert_close(found, expected, atol=2e-5, rtol=1e-4)


@pytest.mark.parametrize(("aligned", "ratio"), CONVENTIONS)
def test_degenerate_boxes(aligned: bool, ratio: int) -> None:
    boxes = degenerate_boxes(96, 64)[None]
    features = feature_maps(1)
    found = multilevel_roi_align(features, boxes, STRIDES, 7, ratio, aligned)
    expected = multilevel_roi_align_reference(features, boxes, STRIDES, 7, ratio, aligned)
    assert found.isfinite().all()
    torch.testing.assert_close(found, expected, atol=2e-5, rtol=1e-4)
    assert torch.equal(found[2:4], torch.zeros_like(found[2:4]))


def test_rows_are_image_after_image_whatever_their_level() -> None:
    """Each image holds one constant per level, so a pooled value says which image and level it came from."""
    levels = [torch.full((3, 1, 256 // stride, 256 // stride), 10.0 * i) for i, stride in enumerate(STRIDES)]
    features = [level + torch.arange(3.0).reshape(3, 1, 1, 1) for level in levels]
    small, middle, large = [8.0, 8.0, 24.0, 24.0], [0.0, 0.0, 150.0, 150.0], [0.0, 0.0, 250.0, 250.0]
    boxes = torch.tensor([[large, small], [small, middle], [middle, large]])
    pooled = multilevel_roi_align(features, boxes, STRIDES, 2, 2, False)
    assert pooled[:, 0, 0, 0].tolist() == [20, 0, 1, 11, 12, 22]
    assert (pooled == pooled[:, :, :1, :1]).all()


@settings(max_examples=60, deadline=None)
@given(st.floats(0.25, 2000), st.floats(0.25, 2000))
def test_the_level_is_torchvisions(width: float, height: float) -> None:
    strides = [4, 8, 16, 32]
    mapper = torchvision.ops.poolers.LevelMapper(2, 5)
    box = torch.tensor([[3.0, 7.0, 3.0 + width, 7.0 + height]])
    assert torch.equal(roi_levels(box, strides), mapper([box]))


@pytest.mark.parametrize(
    ("side", "level"),
    [(0, 0), (1, 0), (111.9, 0), (112, 1), (223.9, 1), (224, 2), (447.9, 2), (448, 3), (9999, 3)],
)
def test_a_box_doubles_its_stride_when_it_doubles_its_side(side: float, level: int) -> None:
    assert roi_levels(torch.tensor([[0.0, 0.0, side, side]]), [4, 8, 16, 32]).tolist() == [level]


def test_levels_without_boxes_and_no_boxes_at_all() -> None:
    features = feature_maps(2)
    assert multilevel_roi_align(features, torch.zeros(2, 0, 4), STRIDES, 7, 2, False).shape == (0, 2, 7, 7)
    one_level = torch.tensor([[[8.0, 8.0, 20.0, 20.0]], [[0.0, 0.0, 9.0, 9.0]]])
    found = multilevel_roi_align(features, one_level, STRIDES, 3, 2, False)
    torch.testing.assert_close(
        found, multilevel_roi_align_reference(features, one_level, STRIDES, 3, 2, False), atol=2e-5, rtol=1e-4
    )


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_narrow_features_are_summed_in_float32_and_written_narrow(dtype: torch.dtype) -> None:
    features = [f.to(dtype) for f in feature_maps(1)]
    boxes = torch.tensor([[[3.0, 5.0, 40.0, 50.0]]])
    how = (boxes, STRIDES, 7, 2, False)
    pooled = multilevel_roi_align(features, *how)
    wide = multilevel_roi_align([f.float() for f in features], *how)
    assert wide.dtype == torch.float32 and not torch.equal(pooled.float(), wide)
    assert torch.equal(pooled, wide.to(dtype))  # rounded once, at the end
    torch.library.opcheck(torch.ops.hindsight.multilevel_roi_align, (features, *how))
    mixed = [features[0].float(), *features[1:]]
    assert multilevel_roi_align(mixed, *how).dtype == torch.float32
    assert pool_ragged(features, [boxes[0]], *how[1:]).dtype == torch.float32  # training


def test_under_autocast_features_go_narrow_from_one_product_to_the_next() -> None:
    convolution = torch.nn.Conv2d(3, 4, 1)
    classifier = torch.nn.Linear(4 * 49, 2)
    boxes = torch.tensor([[[3.0, 5.0, 40.0, 50.0]]])
    with torch.no_grad(), torch.autocast("cpu", torch.bfloat16):
        pooled = multilevel_roi_align([convolution(torch.rand(1, 3, 32, 32))], boxes, [4], 7, 2, False)
        assert pooled.dtype == torch.bfloat16
        # what the classifier made of wide features: it narrows them itself
        assert torch.equal(classifier(pooled.flatten(1)), classifier(pooled.float().flatten(1)))


def ragged() -> list[Tensor]:
    torch.manual_seed(3)
    corner = torch.rand(5, 2) * 60
    boxes = torch.cat(
        [corner, corner + torch.tensor([12.0, 20.0]) * (1 + torch.arange(5.0)[:, None] * 3)], dim=1
    )
    return [boxes[:3], boxes[3:3], boxes[3:]]


@pytest.mark.parametrize(("aligned", "ratio"), CONVENTIONS)
def test_ragged_pooling_equals_the_operator_image_by_image(aligned: bool, ratio: int) -> None:
    features, lists = feature_maps(3), ragged()
    found = pool_ragged(features, lists, STRIDES, 3, ratio, aligned)
    alone = [
        multilevel_roi_align([f[i : i + 1] for f in features], boxes[None], STRIDES, 3, ratio, aligned)
        for i, boxes in enumerate(lists)
    ]
    assert torch.equal(found, torch.cat(alone))


def test_gradients_of_ragged_pooling_are_those_of_a_linear_map() -> None:
    """Pooling is linear in the features: <pool(d), y> is <d, gradient of <pool(x), y>> for every d."""
    lists = ragged()
    features = [f.requires_grad_() for f in feature_maps(3, seed=1)]
    pooled = pool_ragged(features, lists, STRIDES, 3, 2, False)
    weights = torch.randn(pooled.shape, generator=torch.Generator().manual_seed(2))
    gradients = torch.autograd.grad((pooled * weights).sum(), features)
    used = roi_levels(torch.cat(lists), STRIDES).unique().tolist()
    assert [bool(g.any()) for g in gradients] == [level in used for level in range(3)]
    for seed in range(3):
        step = feature_maps(3, seed=10 + seed)
        moved = (pool_ragged(step, lists, STRIDES, 3, 2, False) * weights).sum()
        predicted = sum((g * d).sum() for g, d in zip(gradients, step, strict=True))
        torch.testing.assert_close(predicted, moved, atol=1e-3, rtol=1e-4)


def test_the_operator_is_well_formed() -> None:
    boxes = torch.tensor([[[8.0, 8.0, 20.0, 20.0], [0.0, 0.0, 300.0, 290.0]]])
    torch.library.opcheck(
        torch.ops.hindsight.multilevel_roi_align, (feature_maps(1), boxes, STRIDES, 2, 2, False)
    )


def test_training_through_the_inference_operator_fails_rather_than_learn_nothing() -> None:
    features = [f.requires_grad_() for f in feature_maps(1)]
    pooled = multilevel_roi_align(features, torch.tensor([[[8.0, 8.0, 20.0, 20.0]]]), STRIDES, 2, 2, False)
    with pytest.raises(RuntimeError, match="autograd"):
        pooled.sum().backward()
