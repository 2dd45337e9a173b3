"""Inference never waits for the device, and moves nothing to or from it: what a CUDA graph can capture.

Run on torch's device `meta`, where tensors have shapes and no values, so whatever asks for a value fails; and
as a device of its own it shows each tensor that would travel between host and GPU.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from model import zoo
from model.config import BackboneConfig, LocalizationConfig, NmsConfig, RpnConfig
from model.detector import TwoStageDetector
from tests.unit.model.toys import toy_config, toy_detector

HEIGHT, WIDTH = 64, 96
OF_VALUES = (
    "_local_scalar_dense",
    "nonzero",
    "masked_select",
    "unique",
    "bincount",
    "equal",
    "is_nonzero",
    "repeat_interleave",
)


class NoTravel(TorchDispatchMode):
    """Refuses operators whose result has a shape that values decide, and tensors that change the device.

    A CPU scalar beside a tensor is a kernel's argument: that is no copy.
    """

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        name = func.name().split("::")[1].split(".")[0]
        given = [leaf for leaf in tree_leaves((args, kwargs)) if isinstance(leaf, Tensor)]
        if any(name.startswith(refused) for refused in OF_VALUES):
            raise AssertionError(f"{name} waits for values")
        if name in ("index", "index_put") and any(part.dtype == torch.bool for part in given[1:]):
            raise AssertionError(f"{name} by a mask has a shape that waits for values")
        if name.startswith("lift"):
            raise AssertionError("a tensor of Python's numbers copies them to the device")
        try:
            result = func(*args, **(kwargs or {}))
        except NotImplementedError as error:  # `meta` has no values to give away
            raise AssertionError(f"{name} copies from the device: {error}") from error
        made = [leaf for leaf in tree_leaves(result) if isinstance(leaf, Tensor)]
        devices = {part.device.type for part in (*(p for p in given if p.dim()), *made)}
        if len(devices) > 1:
            raise AssertionError(f"{name} copies between {devices}")
        return result


@contextmanager
def captured() -> Iterator[None]:
    with torch.no_grad(), NoTravel():
        yield


def run(detector: TwoStageDetector) -> None:
    """Both operations on two images, everything on `meta`."""
    on_meta = detector.to("meta")
    with torch.device("meta"):
        images = torch.zeros(2, HEIGHT, WIDTH, 3, dtype=torch.uint8)
        sizes, boxes = torch.zeros(2, 2, dtype=torch.long), torch.zeros(2, 5, 4)
        threshold, counts, limit = torch.zeros(2), torch.zeros(2, dtype=torch.long), torch.zeros(1)
    with captured():
        output = on_meta(images, sizes, threshold, threshold, threshold, limit)
        assert output.boxes.shape == (2, detector.config.max_detections, 4)
        if on_meta.can_rescore:
            on_meta.rescore(images, sizes, boxes, counts)


def small(name: str) -> TwoStageDetector:
    """A detector of the zoo on a backbone that builds in no time."""
    config = zoo.MODELS[name](3)
    backbone = BackboneConfig("test_efficientnet", min_level=3, fpn_channels=16, frozen_levels=0)
    rpn = RpnConfig(anchor_sizes=(16, 32, 64, 128), pre_nms_test=60, post_nms_test=40)
    head = replace(config.head, width=16, offset_width=16)
    localization = config.localization and replace(config.localization, width=16, boxes_at_inference=20)
    return TwoStageDetector(
        replace(config, backbone=backbone, rpn=rpn, head=head, localization=localization, max_detections=20)
    ).eval()


@pytest.mark.parametrize("name", zoo.MODELS)
def test_no_detector_of_the_zoo(name: str) -> None:
    run(small(name))


@pytest.mark.parametrize("agnostic", [False, True])
@pytest.mark.parametrize("kind", ["hard", "soft_linear", "soft_gaussian", "iou_guided"])
def test_no_kind_of_suppression(kind: str, agnostic: bool) -> None:
    run(toy_detector(nms=NmsConfig(kind, class_agnostic=agnostic)))


def test_no_localization_head() -> None:
    for localization in (
        LocalizationConfig(width=16, combination="geometric"),
        LocalizationConfig(width=16, kind="iou_control"),
        LocalizationConfig(width=16, train_features="proposal", test_features="proposal", jitter_per_truth=0),
    ):
        run(toy_detector(localization=localization))


def test_no_deformable_convolution() -> None:
    backbone = BackboneConfig("resnet50", min_level=3, fpn_channels=8, deformable="v2")
    run(TwoStageDetector(toy_config(backbone=backbone)).eval())


@pytest.mark.parametrize(
    ("call", "reason"),
    [
        (lambda x: x[x > 0], "nonzero|mask"),
        (torch.nonzero, "waits for values"),
        (lambda x: float(x.sum()), "waits for values"),
        (lambda x: x * x.new_tensor([1.0, 2.0, 3.0]), "copies"),
        (lambda x: x + torch.ones(3).to(x.device), "copies"),
        (lambda x: x.cpu(), "copies"),
        (lambda x: x[torch.tensor([0, 1])], "copies"),
    ],
    ids=["mask", "nonzero", "item", "new_tensor", "to the device", "from the device", "rows by a list"],
)
def test_what_is_looked_for_is_found(call: Callable[[Tensor], Any], reason: str) -> None:
    with captured(), pytest.raises(AssertionError, match=reason):
        call(torch.zeros(3, device="meta"))
