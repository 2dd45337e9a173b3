"""batched_nms.cu and iou_guided_nms.cu on the host grid, bit for bit against the torch operators."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from model.ops import batched_nms, batched_nms_reference, iou_guided_nms, iou_guided_nms_reference, launchers
from tests.unit.kernels.conftest import HostGrid
from tests.unit.kernels.lists import ABSENT, NAN, THRESHOLDS, Case, coarse, crowd, degenerate


def kept(grid: HostGrid, case: Case, threshold: float) -> Tensor:
    return launchers.batched_nms(*case, torch.tensor([threshold]), grid.queue)


def guided(grid: HostGrid, case: Case, ious: Tensor, threshold: float) -> tuple[Tensor, Tensor]:
    return launchers.iou_guided_nms(*case, ious, torch.tensor([threshold]), grid.queue)


def some_ious(seed: int, boxes: Tensor, levels: int) -> Tensor:
    """Few levels: many ties."""
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(0, levels, boxes.shape[:2], generator=generator) / levels


@pytest.mark.parametrize("threshold", THRESHOLDS)
@pytest.mark.parametrize("make", [crowd, coarse])
def test_thousands_of_lists_are_suppressed_as_in_torch(
    grid: HostGrid, make: object, threshold: float
) -> None:
    for seed, (groups, classes, count) in enumerate(
        [(40, 8, 7), (8, 5, 40), (1, 3, 64), (1, 3, 65), (1, 2, 200)]
    ):
        case = make(seed, groups, classes, count)  # type: ignore[operator]
        grid.order = seed
        limit = torch.tensor([threshold])
        assert torch.equal(kept(grid, case, threshold), batched_nms(*case, limit))
        ious = some_ious(seed, case[0], 6)
        found, expected = guided(grid, case, ious, threshold), iou_guided_nms(*case, ious, limit)
        assert torch.equal(found[0], expected[0]) and torch.equal(found[1], expected[1])


@pytest.mark.parametrize("name", degenerate())
def test_degenerate_lists(grid: HostGrid, name: str) -> None:
    case = degenerate()[name]
    for order, threshold in enumerate(THRESHOLDS):
        grid.order = order
        limit = torch.tensor([threshold])
        assert torch.equal(kept(grid, case, threshold), batched_nms(*case, limit))
        if not case[1].isnan().any():
            ious = some_ious(order, case[0], 9)
            found, expected = guided(grid, case, ious, threshold), iou_guided_nms(*case, ious, limit)
            assert torch.equal(found[0], expected[0]) and torch.equal(found[1], expected[1])


def test_inverted_boxes_are_empty_as_in_the_definition(grid: HostGrid) -> None:
    boxes, scores = crowd(3, 4, 3, 24)
    boxes[:, ::3] = boxes[:, ::3].flip(-1)
    found = kept(grid, (boxes, scores), 0.4)
    assert torch.equal(found, batched_nms_reference(boxes, scores, float(torch.tensor(0.4))))
    ious = some_ious(1, boxes, 50)
    keep, taken = iou_guided_nms_reference(boxes, scores, ious, float(torch.tensor(0.4)))
    found, best = guided(grid, (boxes, scores), ious, 0.4)
    assert torch.equal(found, keep) and torch.equal(best, taken)


def test_a_negative_threshold_leaves_the_best_alone(grid: HostGrid) -> None:
    boxes, scores = crowd(5, 2, 3, 80)
    keep = kept(grid, (boxes, scores), -0.5)
    assert torch.equal(keep.sum(-1), torch.ones(2, 3, dtype=torch.long))
    assert torch.equal(keep.int().argmax(-1), scores.argmax(-1))


def test_a_box_of_nan_class_score_is_absent_and_lends_its_cluster_nothing(grid: HostGrid) -> None:
    boxes = torch.tensor([[[0.0, 0.0, 10.0, 10.0]] * 3])
    scores = torch.tensor([[[0.2, NAN, 0.6]]])
    keep, taken = guided(grid, (boxes, scores), torch.tensor([[0.9, 0.8, 0.7]]), 0.5)
    assert keep.tolist() == [[[True, False, False]]]
    assert taken.tolist() == [[[pytest.approx(0.6), ABSENT, ABSENT]]]


def test_a_predicted_iou_of_nan_ranks_first_as_torch_sorts(grid: HostGrid) -> None:
    case = crowd(6, 2, 2, 50)
    ious = some_ious(6, case[0], 50)
    ious[:, [4, 9]] = NAN
    found, expected = guided(grid, case, ious, 0.3), iou_guided_nms(*case, ious, torch.tensor([0.3]))
    assert torch.equal(found[0], expected[0]) and torch.equal(found[1], expected[1])


@pytest.mark.parametrize(
    ("count", "present"),
    [(4000, 4000), (4097, 4097), (4097, 300)],
    ids=["4000 in shared memory", "in the workspace", "sparse enough for shared memory"],
)
def test_long_lists(grid: HostGrid, count: int, present: int) -> None:
    boxes, scores = crowd(7, 1, 1, count, side=400.0)
    scores = torch.rand(1, 1, count, generator=torch.Generator().manual_seed(1))
    scores[..., torch.randperm(count, generator=torch.Generator().manual_seed(2))[present:]] = ABSENT
    grid.order = 1
    assert torch.equal(kept(grid, (boxes, scores), 0.5), batched_nms(boxes, scores, torch.tensor([0.5])))


def test_rows_that_lie_anywhere_in_memory(grid: HostGrid) -> None:
    """Views whose data begin between two multiples of 16 bytes, or do not lie in order."""
    boxes, scores = crowd(8, 2, 3, 30)
    shifted = torch.cat([torch.zeros(1), boxes.flatten()])[1:].view(boxes.shape)
    turned = scores.transpose(1, 2).contiguous().transpose(1, 2)
    assert shifted.data_ptr() % 16 and not turned.is_contiguous()
    assert torch.equal(kept(grid, (shifted, turned), 0.5), kept(grid, (boxes, scores), 0.5))


def test_lists_without_rows_launch_nothing(grid: HostGrid) -> None:
    for shape in [(0, 3, 5), (2, 0, 5), (2, 3, 0)]:
        case = torch.zeros(shape[0], shape[2], 4), torch.zeros(shape)
        assert kept(grid, case, 0.5).shape == shape
        assert guided(grid, case, torch.zeros(shape[0], shape[2]), 0.5)[1].shape == shape
    assert not grid.launched


def test_shapes_that_do_not_fit_are_refused_before_a_kernel_reads_past_them(grid: HostGrid) -> None:
    boxes, scores = crowd(1, 2, 3, 8)
    with pytest.raises(ValueError, match=r"expected boxes \[2, 8, 4\]"):
        kept(grid, (boxes[:1], scores), 0.5)
    with pytest.raises(ValueError, match=r"expected ious \[2, 8\]"):
        guided(grid, (boxes, scores), torch.zeros(2, 9), 0.5)
