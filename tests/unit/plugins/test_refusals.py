"""Wrong attributes, shapes and types: both forms refuse them, in the same words."""

from __future__ import annotations

import pytest

from export.plugins.python.operator import Value
from tests.unit.plugins.forms import Form
from tests.unit.plugins.test_contract import values_for

REFUSALS: dict[str, tuple[str, dict[str, Value], str]] = {
    "strides": ("MultilevelRoiAlign2", {"strides": (4, 8, 16)}, "expected 2 positive strides"),
    "doubling": ("MultilevelRoiAlign2", {"strides": (4, 16)}, "expected strides that double"),
    "negative stride": ("MultilevelRoiAlign1", {"strides": (-4,)}, "expected 1 positive strides"),
    "output_size": ("MultilevelRoiAlign1", {"output_size": 0}, "expected output_size of 1 or more, got 0"),
    "sampling": (
        "MultilevelRoiAlign1",
        {"sampling_ratio": -1},
        "expected sampling_ratio of 0 or more, got -1",
    ),
    "aligned": ("MultilevelRoiAlign1", {"aligned": 2}, "expected aligned to be 0 or 1, got 2"),
    "method": ("SoftNms", {"method": "cubic"}, "expected method to be linear or gaussian, got 'cubic'"),
    "sigma": ("SoftNms", {"sigma": 0.0}, "expected sigma above 0, got 0"),
    "steps": ("SoftNms", {"steps": -1}, "expected steps of 0 or more, got -1"),
}


@pytest.mark.parametrize("case", REFUSALS)
def test_wrong_attributes_are_refused_in_so_many_words(form: Form, case: str) -> None:
    name, wrong, message = REFUSALS[case]
    with pytest.raises(ValueError, match=f"^{name}: {message}"):
        form.make(name, {**values_for(name), **wrong})


SHAPES: dict[str, tuple[str, list[list[int]], str]] = {
    "rois": ("MultilevelRoiAlign1", [[2, 9], [2, 3, 8, 8]], r"expected rois \[B, N, 4\], got 2 dimensions"),
    "not four": ("MultilevelRoiAlign1", [[2, 9, 5], [2, 3, 8, 8]], "the last size of rois to be 4, got 5"),
    "images": (
        "MultilevelRoiAlign1",
        [[3, 9, 4], [2, 3, 8, 8]],
        "images of rois and feature_0 differ: 3 and 2",
    ),
    "channels": (
        "MultilevelRoiAlign2",
        [[2, 9, 4], [2, 3, 8, 8], [2, 4, 4, 4]],
        "channels of feature_0 and feature_1 differ: 3 and 4",
    ),
    "counts": ("BatchedNms", [[2, 9, 4], [2, 3, 8], [1]], "counts of boxes and scores differ: 9 and 8"),
    "groups": ("SoftNms", [[2, 9, 4], [1, 3, 9], [1]], "groups of boxes and scores differ: 2 and 1"),
    "threshold": ("BatchedNms", [[2, 9, 4], [2, 3, 9], [2]], "the size of threshold to be 1, got 2"),
    "scalar": ("BatchedNms", [[2, 9, 4], [2, 3, 9], []], r"expected threshold \[1\], got 0 dimensions"),
    "ious": (
        "IouGuidedNms",
        [[2, 9, 4], [2, 3, 9], [2, 7], [1]],
        "counts of boxes and ious differ: 9 and 7",
    ),
}


@pytest.mark.parametrize("case", SHAPES)
def test_wrong_shapes_are_refused_in_so_many_words(form: Form, case: str) -> None:
    name, shapes, message = SHAPES[case]
    with pytest.raises(ValueError, match=f"^{name}: .*{message}"):
        form.make(name, values_for(name)).output_shapes(shapes)


@pytest.mark.parametrize(
    ("name", "types", "message"),
    [
        ("MultilevelRoiAlign1", ["HALF", "HALF"], "expected rois of type FLOAT, got HALF"),
        ("MultilevelRoiAlign2", ["FLOAT", "HALF", "FLOAT"], "expected maps of one type"),
        ("MultilevelRoiAlign1", ["FLOAT", "INT32"], "expected maps of one type"),
        ("MultilevelRoiAlign1", ["FLOAT"], "expected 2 inputs"),
        ("BatchedNms", ["FLOAT", "HALF", "FLOAT"], "expected scores of type FLOAT, got HALF"),
        ("IouGuidedNms", ["FLOAT"] * 3, "expected 4 inputs"),
    ],
)
def test_wrong_types_are_refused_in_so_many_words(
    form: Form, name: str, types: list[str], message: str
) -> None:
    with pytest.raises(ValueError, match=f"^{name}: {message}"):
        form.make(name, values_for(name)).output_types(types)
