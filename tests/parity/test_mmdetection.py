"""A converted mmdetection detector gives what its own conventions give, and each of them matters.

mmdetection does not build here: `mmdetection_reference.py` says what it is compared with instead.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import Tensor

from benchmarks.detector_facts import differences, run_ours
from model.config import DetectorConfig
from model.convert import Conventions, convert
from model.detector import TwoStageDetector
from tests.parity.mmdetection_reference import Reference, detector_shapes, random_state

HEIGHT, WIDTH = 128, 160
MEANS, STDS = (0.05, -0.1, 0.1, 0.0), ((0.12, 0.08, 0.25, 0.15),) * 4


def photo(seed: int) -> Tensor:
    """Smooth colours of many scales, so that maps differ from place to place."""
    generator = torch.Generator().manual_seed(seed)
    picture = torch.zeros(3, HEIGHT, WIDTH)
    for cells in (3, 8, 20):
        noise = torch.rand(1, 3, cells, cells, generator=generator)
        picture += torch.nn.functional.interpolate(noise, (HEIGHT, WIDTH), mode="bilinear")[0]
    return (picture / picture.max() * 255).to(torch.uint8).permute(1, 2, 0)


IMAGES = [photo(1), photo(2)]

CASES: dict[str, tuple[int | None, bool, Conventions]] = {
    "faster": (None, True, Conventions()),
    "faster, one box for all classes": (None, False, Conventions()),
    "faster, caffe": (None, True, Conventions(caffe=True)),
    "faster, other means and stds": (None, True, Conventions(delta_means=MEANS, delta_stds=STDS)),
    "cascade": (3, False, Conventions()),
}


def reference(case: str) -> Reference:
    """Calibrated on the first image, so that scores and boxes differ from proposal to proposal."""
    stages, class_specific, conventions = CASES[case]
    state = random_state(detector_shapes(stages, class_specific=class_specific))
    detector = Reference(
        state,
        caffe=conventions.caffe,
        means=conventions.delta_means,
        stds=conventions.delta_stds,
        calibrate=True,
    )
    detector.detect(IMAGES[0])
    return detector


def unlike(ours: TwoStageDetector, expected: list[dict[str, Tensor]]) -> list[str]:
    """Detections of IMAGES without a partner within 1e-3 px and 1e-4."""
    got = run_ours(ours, [image.numpy() for image in IMAGES[: len(expected)]])
    found = []
    for row, theirs in enumerate(expected):
        # `differences` expects torchvision's labels, which count from 1
        found += differences({**theirs, "labels": theirs["labels"] + 1}, got, row)[2]
    return found


@pytest.mark.parametrize("case", CASES)
def test_same_detections_as_the_reference(case: str) -> None:
    theirs = reference(case)
    expected = [theirs.detect(image) for image in IMAGES]
    assert min(len(e["boxes"]) for e in expected) >= 20, "too few detections to prove anything"
    assert all(len(e["labels"].unique()) > 1 for e in expected)
    ours = convert(theirs.state, CASES[case][2]).detector
    assert unlike(ours, expected) == []
    alone = unlike(ours, expected[:1])
    assert alone == []


Change = Callable[[DetectorConfig], DetectorConfig]
CHANGES: dict[str, Change] = {
    "anchors rounded to whole pixels": lambda c: replace(c, rpn=replace(c.rpn, anchors_rounded=True)),
    "RoI-Align not aligned": lambda c: replace(c, pooling=replace(c.pooling, aligned=False)),
    "RoI-Align samples twice a bin": lambda c: replace(c, pooling=replace(c.pooling, sampling_ratio=2)),
    "scores averaged as probabilities": lambda c: replace(c, head=replace(c.head, average="probabilities")),
    "deltas in other stds": lambda c: replace(c, head=replace(c.head, stds=((0.1,) * 4,) * 4)),
    "pixels less another mean": lambda c: replace(c, backbone=replace(c.backbone, mean=(0.4, 0.4, 0.4))),
    "batch norms with another epsilon": lambda c: replace(c, backbone=replace(c.backbone, norm_eps=1e-2)),
}


@pytest.fixture(scope="module")
def cascade() -> tuple[TwoStageDetector, list[dict[str, Tensor]]]:
    theirs = reference("cascade")
    return convert(theirs.state).detector, [theirs.detect(IMAGES[0])]


@pytest.mark.parametrize("change", CHANGES)
def test_each_convention_changes_the_detections(
    cascade: tuple[TwoStageDetector, list[dict[str, Tensor]]], change: str
) -> None:
    ours, expected = cascade
    other = TwoStageDetector(CHANGES[change](ours.config))
    other.load_state_dict(ours.state_dict())
    assert len(unlike(other.eval(), expected)) > 5


def test_channels_the_other_way_round_change_the_detections(
    cascade: tuple[TwoStageDetector, list[dict[str, Tensor]]],
) -> None:
    ours, expected = cascade
    flipped = [np.ascontiguousarray(IMAGES[0].numpy()[..., ::-1])]
    got = run_ours(ours, flipped)
    assert len(differences({**expected[0], "labels": expected[0]["labels"] + 1}, got, 0)[2]) > 5
