"""Detections as a sequence of their boxes: `for box in found`, `found[3]`."""

from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import hindsight
from hindsight.detections import Detections

SCORES = st.floats(0, 1, width=32)


@st.composite
def detections(draw: st.DrawFn) -> Detections:
    n = draw(st.integers(0, 6))

    def column() -> Any:
        return np.array(draw(st.lists(SCORES, min_size=n, max_size=n)), np.float32)

    def judged() -> Any:
        return column() if draw(st.booleans()) else None

    places = st.lists(st.floats(0, 500, width=32), min_size=4, max_size=4)
    boxes = np.array(draw(st.lists(places, min_size=n, max_size=n)), np.float32).reshape(n, 4)
    labels = np.array(draw(st.lists(st.integers(0, 2), min_size=n, max_size=n)), np.int64)
    names = ("red", "green", "blue")
    return Detections(boxes, labels, column(), column(), judged(), judged(), judged(), names, (500, 500))


def columns_of(found: Detections) -> list[Any]:
    """Those of the loop, in the order of Detections' own."""
    rows = list(found)
    names = ("score", "class_score", "iou", "purity", "integrity")
    return [[getattr(row, name) for row in rows] for name in names]


@given(detections())
def test_the_loop_says_what_the_columns_say(found: Detections) -> None:
    rows = list(found)
    assert [row.label_id for row in rows] == found.labels.tolist()
    assert tuple(row.label for row in rows) == found.names
    assert [list(row.box) for row in rows] == found.boxes.tolist()
    columns = (found.scores, found.class_scores, found.ious, found.purities, found.integrities)
    nothing = [None] * len(found)
    assert columns_of(found) == [nothing if column is None else column.tolist() for column in columns]


@given(detections())
def test_one_row_is_had_by_its_number_from_either_end(found: Detections) -> None:
    rows = list(found)
    assert (
        rows == [found[row] for row in range(len(found))] == [found[np.int64(i)] for i in range(len(found))]
    )
    assert rows == [found[row - len(found)] for row in range(len(found))]
    assert list(reversed(found)) == rows[::-1]
    for row in (len(found), -len(found) - 1):
        with pytest.raises(IndexError, match=rf"no row {row}: there are {len(found)}"):
            found[row]


@given(detections())
def test_it_has_the_names_of_the_records(found: Detections) -> None:
    for row, record in zip(found, found.to_records(), strict=True):
        assert dataclasses.asdict(row).keys() == record.keys()
        assert (row.label, row.label_id, list(row.box)) == (
            record["label"], record["label_id"], pytest.approx(record["box"], abs=6e-4)
        )  # fmt: skip


@pytest.mark.parametrize("several", [slice(0, 1), [0], np.array([True]), "0", 0.0])
def test_several_rows_are_for_select(several: Any) -> None:
    one = np.ones(1, np.float32)
    found = Detections(
        np.ones((1, 4), np.float32), np.zeros(1, np.int64), one, one, None, None, None, ("red",), (9, 9)
    )
    with pytest.raises(TypeError, match=r"a row's number, .*select\(\) takes several"):
        found[several]


def test_a_row_cannot_be_changed() -> None:
    row = hindsight.Detection((1.0, 2.0, 3.0, 4.0), "red", 0, 0.5, 0.5, None, None, None)
    with pytest.raises(dataclasses.FrozenInstanceError):
        row.score = 1.0  # type: ignore[misc]
    assert {row: 1}[dataclasses.replace(row)] == 1
