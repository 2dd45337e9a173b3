"""A system at toy width: it learns four real photos by heart, and its graph says what it says in torch."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from benchmarks.systems_list import System
from export.errors import ExportError
from export.to_onnx import Description, export_artifact
from hindsight.artifact import ResizeRule
from hindsight.manifest import Defaults
from model.checkpoint import save_checkpoint
from model.config import BackboneConfig, DetectorConfig, MaskConfig
from model.detector import TwoStageDetector
from model.resnet import RESNETS, ResNetShape
from model.structures import Target
from training.data import Batch, Dataset, collate, open_dataset, prepare
from training.evaluation.average_precision import evaluate_predictions
from training.evaluation.predict import predict_checkpoint

RULE = ResizeRule(128, 160)
STEPS = 160
LEARNT = 0.9  # AP50
_TOY_RESNET = "toy_resnet"


@dataclass(frozen=True)
class Trial:
    """What came of it. `export`: "passed", or why there is no artifact."""

    first_loss: float
    last_loss: float
    ap50: float
    export: str


def four_photos(annotations: Path) -> Dataset:
    """The first four of a COCO file with at most three objects, all of them large, and no crowds."""
    whole = open_dataset(annotations, masks=True)
    fitting = []
    for record in whole.records:
        height, width = record.image_hw
        large = record.area > 0.04 * height * width
        if 0 < len(large) <= 3 and large.all() and not record.crowd.any():
            fitting.append(record)
    used = sorted({int(label) for record in fitting[:4] for label in record.labels})
    renumbered = [
        replace(record, labels=np.array([used.index(label) for label in record.labels], np.int64))
        for record in fitting[:4]
    ]
    return Dataset(renumbered, [whole.class_names[label] for label in used])


def toy(config: DetectorConfig, backbone: str = "test_efficientnet") -> DetectorConfig:
    """`config` with all its parts at toy width."""
    thin = replace(config.backbone, name=backbone, min_level=3, max_level=5, fpn_channels=32, frozen_levels=0)
    rpn = replace(
        config.rpn,
        anchor_sizes=(16, 32, 64, 128),
        pre_nms_train=100,
        pre_nms_test=100,
        post_nms_train=60,
        post_nms_test=60,
    )
    head = replace(config.head, width=64, batch_per_image=64, regression_batch_per_image=64)
    look, mask, semantic = config.localization, config.mask, config.semantic
    return replace(
        config,
        backbone=thin,
        rpn=rpn,
        head=head,
        localization=None if look is None else replace(look, width=64, boxes_at_inference=60),
        mask=None if mask is None else _thin_mask(mask, config.head.stages),
        semantic=None
        if semantic is None
        else replace(semantic, classes=config.num_classes + 1, convs=1, channels=16),
        max_detections=20,
    )


def _thin_mask(mask: MaskConfig, stages: int) -> MaskConfig:
    """Thinner still where every stage has one."""
    if stages == 1:
        return replace(mask, convs=1, channels=32)
    pooling = replace(mask.pooling, output_size=7)
    return replace(mask, convs=1, channels=16, pooling=pooling)


def trial(system: System, photos: Dataset) -> Trial:
    """Train, measure, export. Raises nothing for a system that does not learn: the figures say it."""
    batch = collate([prepare(photos.load(index), RULE) for index in range(len(photos))])
    full = system.config(len(photos.class_names))
    with thin_resnet(full.backbone) as backbone:
        config = toy(full, backbone)
        if config.semantic is not None:
            batch = with_class_maps(batch, config.num_classes)
        detector, losses = learn(config, batch)
        metrics = evaluate_predictions(photos, predict_checkpoint(detector, photos, RULE))
        return Trial(losses[0], losses[-1], metrics.ap50 or 0.0, _export(detector, photos))


def learn(config: DetectorConfig, batch: Batch, steps: int = STEPS) -> tuple[TwoStageDetector, list[float]]:
    """(detector in evaluation mode, the loss of every step)"""
    torch.manual_seed(0)
    detector = TwoStageDetector(config).train()
    optimiser = torch.optim.AdamW(detector.parameters(), lr=2e-3, weight_decay=0.01)
    losses = []
    for step in range(steps):
        rate = 2e-3 * min(1.0, (step + 1) / 20) * (0.1 if step > 0.8 * steps else 1.0)
        for group in optimiser.param_groups:
            group["lr"] = rate
        terms = detector.losses(batch.images, batch.image_sizes, batch.targets)
        total = torch.stack(list(terms.values())).sum()
        optimiser.zero_grad()
        total.backward()
        torch.nn.utils.clip_grad_norm_(detector.parameters(), 10.0)
        optimiser.step()
        losses.append(float(total.detach()))
    return detector.eval(), losses


def with_class_maps(batch: Batch, classes: int) -> Batch:
    """The batch with the map that its masks imply: each pixel's object class, `classes` for background."""
    targets = []
    for target, (height, width) in zip(batch.targets, batch.image_sizes.tolist(), strict=True):
        semantic = torch.full((height, width), classes, dtype=torch.uint8)
        for bitmap, (x1, y1, x2, y2), label in bitmaps(target):
            semantic[y1:y2, x1:x2][bitmap == 1] = label
        targets.append(replace(target, semantic=semantic))
    return replace(batch, targets=targets)


def bitmaps(target: Target) -> Iterator[tuple[Tensor, list[int], int]]:
    """(bitmap, frame, label) of each object."""
    assert target.masks is not None
    frames = target.masks.frames.tolist()
    parts = target.masks.pixels.split([(y2 - y1) * (x2 - x1) for x1, y1, x2, y2 in frames])
    for part, frame, label in zip(parts, frames, target.labels.tolist(), strict=True):
        x1, y1, x2, y2 = frame
        yield part.reshape(y2 - y1, x2 - x1), frame, label


def _export(detector: TwoStageDetector, photos: Dataset) -> str:
    about = Description(
        name="toy",
        version="0",
        description="",
        licence="",
        training_data={},
        defaults=Defaults(class_threshold=0.001, score_threshold=0.0, iou_weight=0.5, nms_threshold=0.5),
    )
    extra = {"class_names": list(photos.class_names), "resize": asdict(RULE)}
    with tempfile.TemporaryDirectory() as folder:
        checkpoint = Path(folder) / "toy.safetensors"
        save_checkpoint(checkpoint, detector, extra)
        try:
            export_artifact(checkpoint, Path(folder) / "toy", about)
        except ExportError as error:
            return str(error)
    return "passed"


@contextmanager
def thin_resnet(backbone: BackboneConfig) -> Iterator[str]:
    """The toy backbone's name: what a ResNet alone can do needs a ResNet, one bottleneck a stage."""
    if backbone.name in ("resnet50", "tf_efficientnet_lite0") and backbone.deformable == "none":
        yield "test_efficientnet"
        return
    groups = min(RESNETS[backbone.name].groups, 2)
    RESNETS[_TOY_RESNET] = ResNetShape((1, 1, 1, 1), groups=groups, base_width=4 if groups > 1 else 16)
    try:
        yield _TOY_RESNET
    finally:
        del RESNETS[_TOY_RESNET]
