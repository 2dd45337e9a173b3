"""Detectors with masks learn four real photos by heart, at toy width: all parts of training work together."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from hindsight.artifact import ResizeRule
from hindsight.masks import paste_mask
from model.config import BackboneConfig, DetectorConfig, PoolingConfig, RpnConfig
from model.detector import TwoStageDetector
from model.structures import Target
from model.zoo import config_of
from training.data import Batch, Dataset, collate, open_dataset, prepare
from training.evaluation.average_precision import evaluate_predictions
from training.evaluation.predict import predict_checkpoint

RULE = ResizeRule(128, 160)
STEPS = 160


def four_photos(data_dir: Path) -> Dataset:
    """The first four of coco_mini with at most three objects, all of them large, and no crowds."""
    whole = open_dataset(data_dir / "coco_mini" / "annotations" / "instances_train2017.json", masks=True)
    fitting = []
    for index, record in enumerate(whole._records):
        height, width = record.image_hw
        large = record.area > 0.04 * height * width
        if 0 < len(large) <= 3 and large.all() and not record.crowd.any():
            fitting.append(index)
    records = [whole._records[index] for index in fitting[:4]]
    used = sorted({int(label) for record in records for label in record.labels})
    renumbered = [
        replace(record, labels=np.array([used.index(label) for label in record.labels], np.int64))
        for record in records
    ]
    assert len(renumbered) == 4
    return Dataset(renumbered, [whole.class_names[label] for label in used])


def toy(name: str, classes: int) -> DetectorConfig:
    """The named detector with its parts at toy width."""
    config = config_of(name, classes)
    assert config.mask is not None and config.localization is not None
    semantic = config.semantic
    if semantic is not None:
        semantic = replace(semantic, classes=classes + 1, convs=1, channels=16)
    stages = config.head.stages
    return replace(
        config,
        backbone=BackboneConfig("test_efficientnet", min_level=3, fpn_channels=32, frozen_levels=0),
        rpn=RpnConfig(anchor_sizes=(16, 32, 64, 128), pre_nms_train=100, post_nms_train=60, post_nms_test=60),
        head=replace(config.head, width=64, batch_per_image=64 if stages == 1 else 32),
        localization=replace(config.localization, width=64),
        mask=replace(
            config.mask,
            convs=1,
            channels=32 if stages == 1 else 16,
            pooling=PoolingConfig(output_size=14 if stages == 1 else 7),
        ),
        semantic=semantic,
        max_detections=20,
    )


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


def learn(config: DetectorConfig, batch: Batch) -> TwoStageDetector:
    torch.manual_seed(0)
    detector = TwoStageDetector(config).train()
    optimiser = torch.optim.AdamW(detector.parameters(), lr=2e-3, weight_decay=0.01)
    for step in range(STEPS):
        rate = 2e-3 * min(1.0, (step + 1) / 20) * (0.1 if step > 0.8 * STEPS else 1.0)
        for group in optimiser.param_groups:
            group["lr"] = rate
        terms = detector.losses(batch.images, batch.image_sizes, batch.targets)
        optimiser.zero_grad()
        torch.stack(list(terms.values())).sum().backward()
        torch.nn.utils.clip_grad_norm_(detector.parameters(), 10.0)
        optimiser.step()
    return detector.eval()


@torch.no_grad()
def mask_ious(detector: TwoStageDetector, batch: Batch) -> list[float]:
    """The overlap of each object's bitmap with the best mask of its class, pasted into the image."""
    fill = torch.ones(len(batch))
    output = detector(
        batch.images, batch.image_sizes, fill * 0.05, fill * 0.3, fill * 0.5, torch.tensor([0.5])
    )
    assert output.masks is not None
    ious = []
    for row, target in enumerate(batch.targets):
        hw = (int(batch.images.shape[1]), int(batch.images.shape[2]))
        count = int(output.num_detections[row])
        pasted = [
            paste_mask(output.masks[row, i].numpy(), output.boxes[row, i].numpy(), hw) for i in range(count)
        ]
        for bitmap, (x1, y1, x2, y2), label in bitmaps(target):
            truth = np.zeros(hw, np.bool_)
            truth[y1:y2, x1:x2] = bitmap.numpy() == 1
            rivals = [m for i, m in enumerate(pasted) if output.labels[row, i] == label]
            ious.append(max(((m & truth).sum() / (m | truth).sum() for m in rivals), default=0.0))
    return ious


@pytest.mark.parametrize("name", ["mask_rcnn_dir", "htc_dir"])
def test_four_photos_are_learnt_by_heart(data_dir: Path, name: str) -> None:
    dataset = four_photos(data_dir)
    batch = collate([prepare(dataset.load(index), RULE) for index in range(4)])
    batch = with_class_maps(batch, len(dataset.class_names))
    detector = learn(toy(name, len(dataset.class_names)), batch)
    metrics = evaluate_predictions(dataset, predict_checkpoint(detector, dataset, RULE))
    assert metrics.ap50 is not None and metrics.ap50 >= 0.9
    ious = mask_ious(detector, batch)
    assert np.mean(ious) >= 0.8 and min(ious) >= 0.6
