"""Detectors with masks learn four real photos by heart, at toy width: all parts of training work together."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from benchmarks.systems_trial import RULE, bitmaps, four_photos, learn, toy, with_class_maps
from hindsight.masks import paste_mask
from model.detector import TwoStageDetector
from model.zoo import config_of
from training.data import Batch, collate, prepare
from training.evaluation.average_precision import evaluate_predictions
from training.evaluation.predict import predict_checkpoint


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
    dataset = four_photos(data_dir / "coco_mini" / "annotations" / "instances_train2017.json")
    classes = len(dataset.class_names)
    batch = with_class_maps(collate([prepare(dataset.load(index), RULE) for index in range(4)]), classes)
    detector, _ = learn(toy(config_of(name, classes)), batch)
    metrics = evaluate_predictions(dataset, predict_checkpoint(detector, dataset, RULE))
    assert metrics.ap50 is not None and metrics.ap50 >= 0.9
    ious = mask_ious(detector, batch)
    assert np.mean(ious) >= 0.8 and min(ious) >= 0.6
