"""Which shapes of an engine a batch runs in."""

from __future__ import annotations

import pytest

from hindsight.engines import Bucket
from hindsight.errors import OptionError
from hindsight.runtime.buckets import Step, plan_batch

BUCKETS = [
    Bucket(batch, height, width)
    for height, width in ((800, 1344), (1344, 800), (800, 1088))
    for batch in (1, 8)
]


@pytest.mark.parametrize(
    ("count", "batches"),
    [
        (1, [(1, 1)]),
        (3, [(1, 1), (1, 1), (1, 1)]),  # 3 executions of 1 cost less than 8 images
        (5, [(8, 5)]),
        (8, [(8, 8)]),
        (9, [(8, 8), (1, 1)]),
        (14, [(8, 8), (8, 6)]),
        (100, [(8, 8)] * 12 + [(1, 1)] * 4),
    ],
)
def test_a_batch_is_cut_and_padded_so_that_it_costs_least(count: int, batches: list[tuple[int, int]]) -> None:
    steps = plan_batch(count, 800, 1088, BUCKETS)
    assert [(BUCKETS[step.bucket].batch, step.count) for step in steps] == batches
    assert [step.first for step in steps] == [sum(size for _, size in batches[:k]) for k in range(len(steps))]
    assert {BUCKETS[step.bucket].width for step in steps} == {1088}


def test_the_smallest_shape_that_holds_the_images_is_taken() -> None:
    shapes = {(480, 640): 1088, (800, 1120): 1344, (800, 1344): 1344, (1056, 800): 800}
    for (height, width), expected in shapes.items():
        (step,) = plan_batch(1, height, width, BUCKETS)
        assert BUCKETS[step.bucket].width == expected


def test_what_fits_nowhere_is_refused_with_what_there_is() -> None:
    with pytest.raises(OptionError, match="no shape for an input of 1344x1344, only for 800x1344, 1344x800"):
        plan_batch(1, 1344, 1344, BUCKETS)


def test_boxes_count_too() -> None:
    buckets = [Bucket(1, 64, 64, boxes=count) for count in (1000, 128)]
    assert plan_batch(1, 64, 64, buckets, boxes=128) == [Step(1, 0, 1)]
    assert plan_batch(1, 64, 64, buckets, boxes=129) == [Step(0, 0, 1)]
    with pytest.raises(OptionError, match="64x64 with 1001 boxes, only for 64x64 with 1000 boxes"):
        plan_batch(1, 64, 64, buckets, boxes=1001)
