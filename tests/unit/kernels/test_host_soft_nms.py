"""soft_nms.cu on the host grid against torch: linear bit for bit, gaussian up to its exponential."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from model.ops import launchers, soft_nms
from tests.unit.kernels.conftest import HostGrid
from tests.unit.kernels.lists import ABSENT, Case, coarse, crowd, degenerate


def both(
    grid: HostGrid, case: Case, method: str, steps: int, threshold: float = 0.3, min_score: float = 0.001
) -> tuple[Tensor, Tensor]:
    args = (*case, torch.tensor([threshold]), method, 0.5, min_score, steps)
    return launchers.soft_nms(*args, grid.queue), soft_nms(*args)


def in_range(case: Case) -> Case:
    boxes, scores = case
    return boxes, torch.where(scores > ABSENT, scores.clamp(0, 1), ABSENT)


@pytest.mark.parametrize("threshold", [0.0, 1 / 3, 1.0])
def test_linear_decay_of_a_thousand_lists(grid: HostGrid, threshold: float) -> None:
    for seed, (groups, classes, count) in enumerate([(20, 8, 7), (2, 4, 40), (1, 1, 70)]):
        grid.order = seed
        for make in (crowd, coarse):
            case = in_range(make(seed, groups, classes, count))
            for steps, min_score in [(count // 2, 0.2), (count + 9, 0.0)]:
                found, expected = both(grid, case, "linear", steps, threshold, min_score)
                assert torch.equal(found, expected)


def test_gaussian_decay_of_hundreds_of_lists(grid: HostGrid) -> None:
    for seed, (groups, classes, count) in enumerate([(20, 8, 7), (2, 4, 40), (1, 1, 70)]):
        grid.order = seed
        for steps, min_score in [(count, 0.001), (count // 2, 0.2)]:
            found, expected = both(
                grid, crowd(seed, groups, classes, count), "gaussian", steps, min_score=min_score
            )
            assert torch.equal(found > ABSENT, expected > ABSENT)
            torch.testing.assert_close(found, expected, atol=1e-6, rtol=1e-5)


@pytest.mark.parametrize("name", degenerate())
def test_degenerate_lists(grid: HostGrid, name: str) -> None:
    for order, steps in enumerate([1, 40, 200]):
        grid.order = order
        found, expected = both(grid, degenerate()[name], "linear", steps)
        assert torch.equal(found, expected)
        found, expected = both(grid, degenerate()[name], "gaussian", steps)
        torch.testing.assert_close(found, expected, atol=1e-6, rtol=1e-5)


@pytest.mark.parametrize("count", [4000, 4097], ids=["shared memory", "workspace"])
def test_long_lists(grid: HostGrid, count: int) -> None:
    boxes, _ = crowd(7, 1, 1, count, side=400.0)
    scores = torch.rand(1, 1, count, generator=torch.Generator().manual_seed(1))
    found, expected = both(grid, (boxes, scores), "linear", 60)
    assert torch.equal(found, expected) and int((found > ABSENT).sum()) == 60


def test_no_steps_pick_nothing(grid: HostGrid) -> None:
    found, expected = both(grid, crowd(1, 2, 2, 9), "linear", 0)
    assert torch.equal(found, expected) and not (found > ABSENT).any()


def test_scores_keep_their_type(grid: HostGrid) -> None:
    boxes, scores = crowd(2, 2, 2, 9)
    found = launchers.soft_nms(boxes, scores.half(), torch.tensor([0.3]), "linear", 0.5, 0.001, 9, grid.queue)
    assert found.dtype == torch.float16


def test_an_unknown_method_is_refused(grid: HostGrid) -> None:
    with pytest.raises(ValueError, match="method must be linear or gaussian, got 'cubic'"):
        both(grid, crowd(2, 1, 1, 9), "cubic", 1)
    assert not grid.launched
