"""Our Mask R-CNN with torchvision's weights gives torchvision's boxes and masks, on real photos."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
import torchvision
from torch import Tensor, nn

from benchmarks.detector_facts import CLASSES, PIXELS, SCORES, load_photos, run_ours, run_reference
from model.convert import from_torchvision, load_torchvision
from model.detector import TwoStageDetector
from model.zoo import build, config_of

Pair = tuple[nn.Module, TwoStageDetector]
# the size that torchvision publishes for its 91 classes, background among them; batch norms frozen
PUBLISHED = 44_401_393


@torch.no_grad()
def settle(detector: nn.Module, photos: list[np.ndarray]) -> None:
    """Rescale the output layers on photos: random weights saturate every score, or leave all alike."""
    heads, rpn = detector.roi_heads, detector.rpn.head
    wished = {
        rpn.cls_logits: 2.0,
        rpn.bbox_pred: 0.2,
        heads.box_predictor.cls_score: 2.0,
        heads.box_predictor.bbox_pred: 0.5,
        heads.mask_predictor.mask_fcn_logits: 2.0,
    }
    pending = {}

    def rescale(layer: nn.Module, _: object, output: Tensor) -> Tensor:
        if layer in pending:
            pending.pop(layer).remove()
            factor = wished[layer] / output.std()
            layer.weight.mul_(factor)
            layer.bias.mul_(factor)
            return output * factor
        return output

    pending.update({layer: layer.register_forward_hook(rescale) for layer in wished})
    run_reference(detector, photos)
    assert not pending


@pytest.fixture(scope="module")
def detectors(data_dir: Path) -> Pair:
    """The same random weights in both, spread so that scores and masks differ."""
    torch.manual_seed(7)
    theirs = torchvision.models.detection.maskrcnn_resnet50_fpn(
        weights=None, weights_backbone=None, min_size=1, max_size=10_000, box_score_thresh=0.05
    )
    theirs.transform.resize = lambda image, target=None: (image, target)
    # leave boxes and 28 x 28 masks as the heads give them: the pasting into the image is not the detector's
    theirs.transform.postprocess = lambda detections, sizes, originals: detections
    with torch.no_grad():
        norms = [m for m in theirs.modules() if isinstance(m, nn.BatchNorm2d)]
        assert len(norms) == 53
        for norm in norms:
            norm.weight.uniform_(0.5, 1.0)
            norm.bias.normal_(0, 0.1)
            norm.running_mean.normal_(0, 0.1)  # type: ignore[union-attr]
            norm.running_var.uniform_(0.5, 1.5)  # type: ignore[union-attr]
    settle(theirs.eval(), load_photos(data_dir / "coco_mini" / "val2017", 1))
    ours = build("mask_rcnn", CLASSES)
    load_torchvision(ours, theirs.state_dict())
    return theirs, ours.eval()


@pytest.mark.parametrize("batch", [1, 2])
def test_same_boxes_and_masks_as_torchvision(detectors: Pair, data_dir: Path, batch: int) -> None:
    theirs, ours = detectors
    images = load_photos(data_dir / "coco_mini" / "val2017", batch)
    expected, got = run_reference(theirs, images), run_ours(ours, images)
    assert got.masks is not None and got.masks.shape == (batch, 100, 28, 28)
    for row, detections in enumerate(expected):
        count = int(got.num_detections[row])
        assert count == len(detections["boxes"]) >= 20, "too few detections to prove anything"
        assert detections["masks"].std() > 0.05, "masks too alike to prove anything"
        free = torch.ones(count, dtype=torch.bool)
        for box, label, score, mask in zip(
            detections["boxes"],
            detections["labels"] - 1,
            detections["scores"],
            detections["masks"][:, 0],
            strict=True,
        ):
            fits = free & (got.labels[row, :count] == label)
            fits &= (got.boxes[row, :count] - box).abs().amax(dim=1) <= PIXELS
            fits &= (got.scores[row, :count] - score).abs() <= SCORES
            fits &= (got.masks[row, :count] - mask).abs().amax(dim=(1, 2)) <= SCORES
            assert fits.any(), f"no partner of {label} {box.tolist()}"
            free[int(fits.nonzero()[0])] = False


def test_parameters_are_torchvisions_less_the_rows_for_background(detectors: Pair) -> None:
    theirs, _ = detectors
    norms = sum(p.numel() for m in theirs.modules() if isinstance(m, nn.BatchNorm2d) for p in m.parameters())
    assert sum(p.numel() for p in theirs.parameters()) - norms == PUBLISHED
    with torch.device("meta"):
        ours = TwoStageDetector(config_of("mask_rcnn", CLASSES))
    own_norms = sum(
        p.numel() for m in ours.modules() if isinstance(m, nn.BatchNorm2d) for p in m.parameters()
    )
    unused = 4 * (1024 + 1) + (256 + 1)  # deltas and a mask for background
    assert sum(p.numel() for p in ours.parameters()) - own_norms == PUBLISHED - unused


def test_older_names_of_the_mask_head_are_understood() -> None:
    value = torch.zeros(1)
    converted = from_torchvision(
        {"roi_heads.mask_head.mask_fcn3.weight": value, "roi_heads.mask_head.3.0.bias": value}
    )
    assert set(converted) == {"mask.convs.2.weight", "mask.convs.3.bias"}
