"""The C++ plugins at work: attach, shapes, enqueue, kernels on the host grid, against the torch operators."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

import pytest
import torch

from tests.unit.kernels.lists import crowd
from tests.unit.plugins.cases import Case, nms_cases, roi_case, roi_cases, suppression_lists
from tests.unit.plugins.forms import CppForm


def run(
    cpp: CppForm, case: Case, memory: Sequence[torch.Tensor] | None = None
) -> tuple[list[torch.Tensor], str]:
    """Results and the kernel that ran."""
    inputs = case.memory() if memory is None else memory
    found = [torch.full_like(each, True if each.dtype == torch.bool else 77) for each in case.expected]
    # as an engine does: by way of the stored fields
    made = cpp.make(case.name, cpp.make(case.name, case.values).values())
    addresses = [[each.data_ptr() for each in group] for group in (inputs, found)]
    return found, made.run(case.described(), case.described_results(), *addresses)


@pytest.mark.parametrize("label", roi_cases())
def test_roi_align(cpp: CppForm, label: str) -> None:
    case = roi_cases()[label]()
    found, kernel = run(cpp, case)
    assert kernel == case.kernel
    case.check(found)


@pytest.mark.parametrize("label", suppression_lists())
def test_suppression(cpp: CppForm, label: str) -> None:
    for case in suppression_lists()[label]():
        found, kernel = run(cpp, case)
        assert kernel == case.kernel
        case.check(found)


def test_long_lists_use_the_workspace(cpp: CppForm) -> None:
    boxes, scores = crowd(5, 1, 2, 4200, side=4000.0)
    for case in nms_cases(boxes, scores, 0.5):
        if case.values.get("method") != "gaussian":
            case.check(run(cpp, case)[0])


def test_no_boxes_no_launch(cpp: CppForm) -> None:
    for case in [
        roi_case(torch.float16, "HWC8", 16, 7, False, 2, count=0),
        *nms_cases(*crowd(0, 2, 3, 0), 0.5),
    ]:
        found, kernel = run(cpp, case)
        assert kernel == "" and all(each.numel() == 0 for each in found)


def test_addresses_that_a_kernel_cannot_read_are_refused(cpp: CppForm) -> None:
    for case, name in [
        (roi_case(torch.float32, "HWC", 16, 3, False, 2), "rois"),
        (nms_cases(*crowd(0, 1, 2, 9), 0.5)[0], "boxes"),
    ]:
        shifted = torch.empty(case.inputs[0].numel() + 1)[1:]
        with pytest.raises(
            ValueError, match=f"{case.name}: {name} lies at an address that is no multiple of 16"
        ):
            run(cpp, case, [shifted, *case.memory()[1:]])


def test_shapes_that_disagree_at_run_time_are_refused(cpp: CppForm) -> None:
    case = nms_cases(*crowd(0, 1, 2, 9), 0.5)[0]
    wrong = dataclasses.replace(case, inputs=[case.inputs[0][:, :5], *case.inputs[1:]])
    with pytest.raises(ValueError, match=r"boxes \[1, 5, 4\] and scores \[1, 2, 9\] disagree"):
        run(cpp, wrong)
    case = roi_case(torch.float32, "HWC", 16, 3, False, 2)
    wrong = dataclasses.replace(case, inputs=[*case.inputs[:2], case.inputs[2][:, :8], case.inputs[3]])
    with pytest.raises(ValueError, match=r"feature_1 is \[2, 8, 16, 24\]"):
        run(cpp, wrong)


def test_a_missing_attribute_and_one_of_another_kind_are_refused(cpp: CppForm) -> None:
    values = roi_case(torch.float32, "HWC", 4, 3, False, 2, count=1).values
    with pytest.raises(ValueError, match="MultilevelRoiAlign3: the node lacks the attribute 'aligned'"):
        cpp.make("MultilevelRoiAlign3", {key: value for key, value in values.items() if key != "aligned"})
    with pytest.raises(ValueError, match="expected attribute 'output_size' to be an integer"):
        cpp.make("MultilevelRoiAlign3", {**values, "output_size": 7.5})
    with pytest.raises(ValueError, match="expected attribute 'strides' to be a list of integers"):
        cpp.make("MultilevelRoiAlign3", {**values, "strides": "4, 8, 16"})
