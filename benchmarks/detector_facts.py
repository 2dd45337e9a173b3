"""The detector against its references: torchvision's detections, and the papers' parameter counts.

    python benchmarks/detector_facts.py --photos FOLDER

Writes benchmarks/results/detector-facts.json. The tests in tests/parity hold the same comparisons.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import torch
import torchvision
import typer
from PIL import Image
from torch import Tensor, nn

from model.complexity import parameters
from model.config import DetectorConfig
from model.convert import convert
from model.detector import TwoStageDetector
from model.structures import DetectorOutput
from model.zoo import config_of
from training.machine import origin

RESULT = Path(__file__).resolve().parent / "results" / "detector-facts.json"
CLASSES = 90  # torchvision's 91 less background
PIXELS, SCORES = 1e-3, 1e-4  # what two detections may differ by and still be the same


def reference_and_ours(
    builder: str = "fasterrcnn_resnet50_fpn",
    proposals: int = 1000,
    spread: float = 1.0,
    least_norm: float = 1.0,
) -> tuple[nn.Module, TwoStageDetector]:
    """torchvision's Faster R-CNN and ours, with the same random weights, spread so that scores differ.

    `spread` scales the output layers; batch norms scale by `least_norm` to 1.
    """
    torch.manual_seed(7)
    theirs = getattr(torchvision.models.detection, builder)(
        weights=None,
        weights_backbone=None,
        min_size=1,
        max_size=10_000,
        box_score_thresh=0.05,
        rpn_post_nms_top_n_test=proposals,
    )
    # torchvision's resize step must leave our tensors alone: both get the same, already resized ones
    theirs.transform.resize = lambda image, target=None: (image, target)
    with torch.no_grad():
        for module in theirs.modules():
            if isinstance(module, nn.BatchNorm2d):
                module.weight.uniform_(least_norm, 1.0)
                module.bias.normal_(0, 0.1)
                module.running_mean.normal_(0, 0.1)
                module.running_var.uniform_(0.8, 1.2)
        # Larger weights would only blow float32 noise up past the limits: the two sum in different orders.
        theirs.rpn.head.cls_logits.weight.normal_(0, 0.05 * spread)
        theirs.rpn.head.bbox_pred.weight.normal_(0, 0.002 * spread)
        theirs.roi_heads.box_predictor.cls_score.weight.normal_(0, 0.05 * spread)
        theirs.roi_heads.box_predictor.bbox_pred.weight.normal_(0, 0.002 * spread)
    ours = convert(theirs.state_dict()).detector
    ours.rpn.config = replace(ours.rpn.config, post_nms_test=proposals)
    return theirs.eval(), ours


def load_photos(folder: Path, count: int) -> list[np.ndarray]:
    """The folder's first photos cut to 320 x 416: one shape, so that they can share a batch."""
    paths = sorted(folder.glob("*.jpg"))[:count]
    if len(paths) < count:
        raise typer.BadParameter(f"{folder} holds {len(paths)} .jpg files, {count} are needed")
    return [np.array(Image.open(p).convert("RGB").resize((416, 320))) for p in paths]


def run_reference(detector: nn.Module, images: Sequence[np.ndarray]) -> list[dict[str, Tensor]]:
    """torchvision's detections, an image each."""
    with torch.no_grad():
        return detector([torch.from_numpy(i).permute(2, 0, 1).float() / 255 for i in images])  # type: ignore[no-any-return]


def run_ours(detector: TwoStageDetector, images: Sequence[np.ndarray]) -> DetectorOutput:
    """Ours at torchvision's thresholds, as one batch."""
    batch = torch.from_numpy(np.stack(images))
    sizes = torch.tensor([batch.shape[1:3]] * len(images))
    fill = torch.ones(len(images))
    with torch.no_grad():
        return detector(batch, sizes, fill * 0.05, fill * 0, fill * 0.5, torch.tensor([0.5]))  # type: ignore[no-any-return]


def differences(theirs: dict[str, Tensor], ours: DetectorOutput, row: int) -> tuple[float, float, list[str]]:
    """(largest pixel difference, largest score difference, what found no partner) of one image.

    Rows are matched: detections within tolerance of a tie may swap rank.
    """
    count = int(ours.num_detections[row])
    boxes, labels, scores = ours.boxes[row, :count], ours.labels[row, :count], ours.scores[row, :count]
    free = torch.ones(count, dtype=torch.bool)
    pixels = score_gap = 0.0
    alone = []
    for box, label, score in zip(theirs["boxes"], theirs["labels"] - 1, theirs["scores"], strict=True):
        distance, gap = (boxes - box).abs().amax(dim=1), (scores - score).abs()
        fits = free & (labels == label) & (distance <= PIXELS) & (gap <= SCORES)
        if fits.any():
            partner = int(fits.nonzero()[0])
            free[partner] = False
            pixels, score_gap = max(pixels, float(distance[partner])), max(score_gap, float(gap[partner]))
        else:
            alone.append(f"theirs only: {label} {score:.5f} {box.tolist()}")
    alone += [f"ours only: {labels[i]} {scores[i]:.5f} {boxes[i].tolist()}" for i in free.nonzero().flatten()]
    return pixels, score_gap, alone


def first_stage(config: DetectorConfig, *, class_specific: bool) -> DetectorConfig:
    """The released code regresses per class at the first stage; we are class-agnostic throughout."""
    return replace(config, head=replace(config.head, class_specific_first=class_specific))


def parameter_table() -> dict[str, dict[str, int]]:
    """R50, 80 classes: under the papers' convention and ours; the localization head's extra apart."""
    rows: dict[str, tuple[str, dict[str, Any]]] = {
        "faster_rcnn": ("faster_rcnn", {}),
        "decoupled_rcnn, one stage": ("decoupled_rcnn", {"stages": 1}),
        "decoupled_rcnn, three stages": ("decoupled_rcnn", {"stages": 3}),
    }
    table = {}
    for label, (name, options) in rows.items():
        config = config_of(name, 80, **options)
        table[label] = {
            "papers_convention": parameters(first_stage(config, class_specific=True)),
            "class_agnostic": parameters(first_stage(config, class_specific=False)),
        }
    flagship = parameters(config_of("hindsight", 80))
    host = table["decoupled_rcnn, three stages"]["class_agnostic"]
    table["hindsight (flagship)"] = {"class_agnostic": flagship, "localization_head_extra": flagship - host}
    return table


def main(
    photos: Annotated[Path, typer.Option(help="A folder of .jpg photos, such as coco_mini/val2017.")],
) -> None:
    """Compare, print and write."""
    theirs, ours = reference_and_ours()
    images = load_photos(photos, 4)
    batches = {}
    for size in range(1, 5):
        expected, got = run_reference(theirs, images[:size]), run_ours(ours, images[:size])
        rows = [differences(e, got, i) for i, e in enumerate(expected)]
        batches[str(size)] = {
            "detections": sum(len(e["boxes"]) for e in expected),
            "unmatched": sum(len(row[2]) for row in rows),
            "max_pixels": max(row[0] for row in rows),
            "max_score": max(row[1] for row in rows),
        }
    result = {
        "torchvision_parity": {"limits": {"pixels": PIXELS, "score": SCORES}, "by_batch_size": batches},
        "parameters_r50_80_classes": parameter_table(),
        **origin("cpu", "torch", "torchvision"),
    }
    RESULT.parent.mkdir(parents=True, exist_ok=True)
    RESULT.write_text(json.dumps(result, indent=2) + "\n")
    typer.echo(json.dumps(result, indent=2))


if __name__ == "__main__":
    typer.run(main)
