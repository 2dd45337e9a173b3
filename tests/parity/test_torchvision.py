"""Our baseline with torchvision's weights gives torchvision's detections, on real photos."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
import torchvision
from PIL import Image
from torch import Tensor

from model.convert import load_torchvision
from model.structures import DetectorOutput
from model.zoo import build

PIXELS, SCORES = 1e-3, 1e-4
CLASSES = 90  # torchvision's 91 less background


@pytest.fixture(scope="module")
def detectors() -> tuple[torch.nn.Module, torch.nn.Module]:
    """The same random weights in both; spread so that scores differ and boxes move."""
    torch.manual_seed(7)
    theirs = torchvision.models.detection.fasterrcnn_resnet50_fpn(
        weights=None,
        weights_backbone=None,
        min_size=1,
        max_size=10_000,
        box_score_thresh=0.05,
        image_mean=None,
    )
    # torchvision's resize step must leave our tensors alone: both get the same, already resized ones
    theirs.transform.resize = lambda image, target=None: (image, target)  # type: ignore[method-assign,assignment]
    with torch.no_grad():
        # random batch statistics and wide predictors: untrained weights would score everything alike
        for module in theirs.modules():
            if isinstance(module, torchvision.ops.FrozenBatchNorm2d):
                module.weight.uniform_(0.5, 1.0)
                module.bias.normal_(0, 0.1)
                module.running_mean.normal_(0, 0.1)
                module.running_var.uniform_(0.5, 1.5)
        theirs.rpn.head.cls_logits.weight.normal_(0, 0.05)
        theirs.rpn.head.bbox_pred.weight.normal_(0, 0.002)
        theirs.roi_heads.box_predictor.cls_score.weight.normal_(0, 0.05)
        theirs.roi_heads.box_predictor.bbox_pred.weight.normal_(0, 0.002)
    ours = build("faster_rcnn", CLASSES)
    load_torchvision(ours, theirs.state_dict())
    return theirs.eval(), ours.eval()


def photos(folder: Path, count: int) -> list[np.ndarray]:
    """Photos of coco_mini cut to 320 x 416: one shape, so that they can share a batch."""
    paths = sorted((folder / "coco_mini" / "val2017").glob("*.jpg"))[:count]
    assert len(paths) == count
    return [np.array(Image.open(p).convert("RGB").resize((416, 320))) for p in paths]


def run_theirs(detector: torch.nn.Module, images: list[np.ndarray]) -> list[dict[str, Tensor]]:
    tensors = [torch.from_numpy(i).permute(2, 0, 1).float() / 255 for i in images]
    with torch.no_grad():
        return detector(tensors)  # type: ignore[no-any-return]


def run_ours(detector: torch.nn.Module, images: list[np.ndarray]) -> DetectorOutput:
    batch = torch.from_numpy(np.stack(images))
    size = torch.tensor([batch.shape[1:3]] * len(images))
    fill = torch.ones(len(images))
    with torch.no_grad():
        return detector(batch, size, fill * 0.05, fill * 0, fill * 0.5, torch.tensor([0.5]))  # type: ignore[no-any-return]


def unmatched(theirs: dict[str, Tensor], ours: DetectorOutput, row: int) -> list[str]:
    """What one side has and the other lacks. Rows are matched: detections within tolerance may swap rank."""
    count = int(ours.num_detections[row])
    boxes, labels = ours.boxes[row, :count], ours.labels[row, :count]
    scores = ours.scores[row, :count]
    free = torch.ones(count, dtype=torch.bool)
    problems = []
    for box, label, score in zip(theirs["boxes"], theirs["labels"] - 1, theirs["scores"], strict=True):
        fits = (
            free
            & (labels == label)
            & ((boxes - box).abs().amax(dim=1) <= PIXELS)
            & ((scores - score).abs() <= SCORES)
        )
        if fits.any():
            free[int(fits.nonzero()[0])] = False
        else:
            problems.append(f"theirs only: {label} {score:.5f} {box.tolist()}")
    problems += [
        f"ours only: {labels[i]} {scores[i]:.5f} {boxes[i].tolist()}" for i in free.nonzero().flatten()
    ]
    return problems


@pytest.mark.parametrize("batch", [1, 2, 3, 4])
def test_same_detections_as_torchvision(
    detectors: tuple[torch.nn.Module, torch.nn.Module], data_dir: Path, batch: int
) -> None:
    theirs, ours = detectors
    images = photos(data_dir, batch)
    expected, got = run_theirs(theirs, images), run_ours(ours, images)
    for row, detections in enumerate(expected):
        assert len(detections["boxes"]) >= 20, "too few detections to prove anything"
        assert unmatched(detections, got, row) == []
