"""Inputs for a run of each plugin, and what the torch operators make of them."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial

import torch

from export.plugins.python.operator import Tensor, Value
from model.ops import batched_nms, iou_guided_nms, multilevel_roi_align, soft_nms
from tests.unit.kernels.lists import coarse, crowd, degenerate
from tests.unit.kernels.test_host_nms import some_ious
from tests.unit.kernels.test_host_roi_align import CONVENTIONS, STRIDES, TOLERANCE, feature_maps, some_boxes
from tests.unit.plugins.forms import NAMES


@dataclass(frozen=True)
class Case:
    """`inputs` as torch sees them (NCHW); `formats` and `memory` say how they lie in memory."""

    name: str
    values: Mapping[str, Value]
    inputs: Sequence[torch.Tensor]
    formats: Sequence[str]
    expected: Sequence[torch.Tensor]
    kernel: str

    def described(self) -> list[Tensor]:
        return [
            Tensor(NAMES[tensor.dtype], layout, tuple(tensor.shape))
            for tensor, layout in zip(self.inputs, self.formats, strict=True)
        ]

    def described_results(self) -> list[Tensor]:
        return [Tensor(NAMES[each.dtype], "LINEAR", tuple(each.shape)) for each in self.expected]

    def memory(self) -> list[torch.Tensor]:
        return [laid_out(tensor, layout) for tensor, layout in zip(self.inputs, self.formats, strict=True)]

    def check(self, found: Sequence[torch.Tensor]) -> None:
        for got, wanted in zip(found, self.expected, strict=True):
            assert got.dtype == wanted.dtype
            if self.name.startswith("Multi"):
                relative, absolute = TOLERANCE[got.dtype]
                torch.testing.assert_close(got.float(), wanted.float(), rtol=relative, atol=absolute)
            elif self.values.get("method") == "gaussian":
                assert torch.equal(got > -torch.inf, wanted > -torch.inf)
                torch.testing.assert_close(got, wanted, atol=2e-6, rtol=2e-5)
            else:
                assert torch.equal(got, wanted)


def laid_out(tensor: torch.Tensor, layout: str) -> torch.Tensor:
    """The tensor's values as TensorRT keeps them in that format; what pads the channels is rubbish."""
    if layout == "LINEAR":
        return tensor.contiguous()
    batch, channels, height, width = tensor.shape
    padded = -(-channels // 8) * 8 if layout == "HWC8" else channels
    memory = torch.full((batch, height, width, padded), 1e4, dtype=tensor.dtype)
    memory[..., :channels] = tensor.permute(0, 2, 3, 1)
    return memory


def roi_case(
    dtype: torch.dtype, layout: str, channels: int, size: int, aligned: bool, ratio: int, count: int = 40
) -> Case:
    features, boxes = feature_maps(dtype, channels=channels), some_boxes(size + ratio, count)
    expected = multilevel_roi_align(features, boxes, STRIDES, size, ratio, aligned)
    values: dict[str, Value] = {
        "strides": tuple(STRIDES),
        "output_size": size,
        "sampling_ratio": ratio,
        "aligned": int(aligned),
    }
    vector = layout != "LINEAR" and channels * dtype.itemsize % 16 == 0
    short = {torch.float32: "f32", torch.float16: "f16", torch.bfloat16: "bf16"}[dtype]
    return Case(
        f"MultilevelRoiAlign{len(STRIDES)}",
        values,
        [boxes, *features],
        ["LINEAR", *[layout] * len(STRIDES)],
        [expected],
        f"roi_align_{'vector' if vector else 'strided'}_{short}_{short}",
    )


def nms_cases(boxes: torch.Tensor, scores: torch.Tensor, threshold: float, seed: int = 0) -> list[Case]:
    """One case an operator; SoftNms in both its methods. Scores of soft NMS lie in 0..1."""
    limit = torch.tensor([threshold])
    within = torch.where(scores > -torch.inf, scores.clamp(0, 1), -torch.inf)
    cases = [
        Case(
            "BatchedNms", {}, *plain(boxes, scores, limit), [batched_nms(boxes, scores, limit)], "batched_nms"
        )
    ]
    if not scores.isnan().any():
        ious = some_ious(seed, boxes, 6)
        guided = iou_guided_nms(boxes, scores, ious, limit)
        cases.append(Case("IouGuidedNms", {}, *plain(boxes, scores, ious, limit), guided, "iou_guided_nms"))
    for method in ("linear", "gaussian"):
        values: dict[str, Value] = {"method": method, "sigma": 0.5, "min_score": 0.001953125, "steps": 50}
        decayed = soft_nms(boxes, within, limit, method, 0.5, 0.001953125, 50)
        cases.append(Case("SoftNms", values, *plain(boxes, within, limit), [decayed], "soft_nms"))
    return cases


def plain(*tensors: torch.Tensor) -> tuple[list[torch.Tensor], list[str]]:
    return [tensor.contiguous() for tensor in tensors], ["LINEAR"] * len(tensors)


def roi_cases() -> dict[str, Callable[[], Case]]:
    """Every type, layout and convention; channels that need padding; the fast kernel and the other."""
    cases: dict[str, Callable[[], Case]] = {}
    for dtype, layouts in (
        (torch.float32, ("LINEAR", "HWC")),
        (torch.float16, ("LINEAR", "HWC8")),
        (torch.bfloat16, ("LINEAR", "HWC8")),
    ):
        for layout in layouts:
            for (aligned, ratio), (channels, size) in zip(CONVENTIONS, SIZES, strict=True):
                label = f"{NAMES[dtype]} {layout} {channels}x{size} ratio {ratio}" + " aligned" * aligned
                cases[label] = partial(roi_case, dtype, layout, channels, size, aligned, ratio)
    return cases


SIZES = [(16, 7), (72, 7), (12, 5), (13, 3), (16, 14)]


def suppression_lists() -> dict[str, Callable[[], Sequence[Case]]]:
    """Crowds, ties and lists that break suppression."""
    lists: dict[str, Callable[[], Lists]] = {
        "crowd": partial(crowd, 1, 2, 3, 70),
        "coarse": partial(coarse, 2, 2, 5, 40),
        "one": partial(crowd, 3, 1, 1, 1),
        **{name: partial(_degenerate, name) for name in degenerate()},
    }
    return {
        f"{label} {threshold}": partial(_cases_of, make, threshold)
        for label, make in lists.items()
        for threshold in (0.3, 0.7)
    }


Lists = tuple[torch.Tensor, torch.Tensor]  # boxes and scores


def _degenerate(name: str) -> Lists:
    return degenerate()[name]


def _cases_of(make: Callable[[], Lists], threshold: float) -> Sequence[Case]:
    boxes, scores = make()
    return nms_cases(boxes, scores, threshold)
