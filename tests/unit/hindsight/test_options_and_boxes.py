"""Requests are checked before any work is done for them, and told what was expected."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from hindsight.artifact import Artifact
from hindsight.boxes import check_boxes
from hindsight.errors import BoxesError, OptionError
from hindsight.options import DetectOptions

HW = (100, 200)


def test_without_overrides_the_models_defaults_hold(tiny_artifact: Artifact) -> None:
    defaults = tiny_artifact.manifest.defaults
    options = DetectOptions.resolve(tiny_artifact.manifest, score_threshold=None, classes=None)
    assert options == DetectOptions(
        defaults.class_threshold, defaults.score_threshold, defaults.iou_weight, defaults.nms_threshold
    )


def test_overrides_take_effect(tiny_artifact: Artifact) -> None:
    options = DetectOptions.resolve(
        tiny_artifact.manifest, score_threshold=np.float32(0.25), iou_weight=0, nms_threshold="1",
        classes=["blue", "red", "blue"], max_detections=np.int64(3),
    )  # fmt: skip
    assert (options.score_threshold, options.iou_weight, options.nms_threshold) == (0.25, 0.0, 1.0)
    assert options.classes == ("blue", "red")
    assert options.max_detections == 3


@pytest.mark.parametrize("name", ["class_threshold", "score_threshold", "iou_weight", "nms_threshold"])
@pytest.mark.parametrize("value", [-0.01, 1.01, float("nan"), float("inf"), "half", True, [0.5], b"1"])
def test_a_threshold_out_of_range_names_field_range_and_value(
    tiny_artifact: Artifact, name: str, value: Any
) -> None:
    with pytest.raises(OptionError, match=name) as raised:
        DetectOptions.resolve(tiny_artifact.manifest, **{name: value})
    assert repr(value) in str(raised.value)


def test_an_nms_threshold_of_zero_is_refused(tiny_artifact: Artifact) -> None:
    with pytest.raises(OptionError, match="nms_threshold must be a number above 0, up to 1, got 0"):
        DetectOptions.resolve(tiny_artifact.manifest, nms_threshold=0)


@pytest.mark.parametrize("value", [0, -1, 21, 1.5, "3", True])
def test_max_detections_can_only_lower_the_models(tiny_artifact: Artifact, value: Any) -> None:
    with pytest.raises(OptionError, match=r"max_detections must be a whole number in 1\.\.20"):
        DetectOptions.resolve(tiny_artifact.manifest, max_detections=value)


@pytest.mark.parametrize("value", [["rad"], "rad", ["red", "rad"]])
def test_an_unknown_class_names_its_nearest(tiny_artifact: Artifact, value: Any) -> None:
    with pytest.raises(OptionError, match=r"no 'rad' \(did you mean 'red'\?\)"):
        DetectOptions.resolve(tiny_artifact.manifest, classes=value)


@pytest.mark.parametrize("value", [[], (), 3, ""])
def test_classes_must_name_something(tiny_artifact: Artifact, value: Any) -> None:
    with pytest.raises(OptionError, match="classes"):
        DetectOptions.resolve(tiny_artifact.manifest, classes=value)


def test_an_unknown_option_names_its_nearest(tiny_artifact: Artifact) -> None:
    with pytest.raises(OptionError, match="did you mean 'score_threshold'"):
        DetectOptions.resolve(tiny_artifact.manifest, score_treshold=0.5)


def test_good_boxes_come_back_as_float32() -> None:
    boxes = check_boxes([[0, 0, 200, 100], [1.5, 2, 3, 4]], HW, max_boxes=2)
    assert boxes.dtype == np.float32
    assert boxes.tolist() == [[0, 0, 200, 100], [1.5, 2, 3, 4]]


def test_a_rounding_error_at_the_edge_is_clipped() -> None:
    assert check_boxes([[-0.5, -1, 200.6, 101]], HW, max_boxes=1).tolist() == [[0, 0, 200, 100]]


@pytest.mark.parametrize("empty", [[], np.zeros((0, 4)), ()])
def test_no_boxes_are_fine(empty: Any) -> None:
    assert check_boxes(empty, HW, max_boxes=1).shape == (0, 4)


@pytest.mark.parametrize(
    ("boxes", "message"),
    [
        ([1, 2, 3, 4], r"shape \[n, 4\], got \[4\]"),
        ([[1, 2, 3]], r"got \[1, 3\]"),
        ([[1, 2, 3, 4], [1, 2, 3]], "list of"),
        ([["a", 2, 3, 4]], "list of"),
        ([[None, 2, 3, 4]], "not finite|list of"),
        ({"x": 1}, "list of"),
        ("text", "list of"),
        ([[[1, 2, 3, 4]]], "shape"),
        ([[0, 0, float("nan"), 5]], "box 0 .* not finite"),
        ([[0, 0, float("inf"), 5]], "box 0 .* not finite"),
        ([[0, 0, 5, 5], [9, 0, 5, 5]], "box 1 .* inverted"),
        ([[0, 5, 5, 5]], "box 0 .* empty or inverted"),
        ([[0, 0, 250, 50]], "box 0 .* leaves the image, which is 200 x 100"),
        ([[-20, 0, 50, 50]], "leaves the image"),
        ([[200.2, 0, 200.8, 50]], "lies outside the image"),
        ([[10**400, 0, 1, 1]], "list of"),
    ],
)
def test_bad_boxes_are_named(boxes: Any, message: str) -> None:
    with pytest.raises(BoxesError, match=message):
        check_boxes(boxes, HW, max_boxes=10)


def test_too_many_boxes_are_refused_before_they_are_looked_at() -> None:
    with pytest.raises(BoxesError, match="10000 boxes; at most 100"):
        check_boxes([["not even numbers"]] * 10_000, HW, max_boxes=100)
