"""The figures of a row: measured with the row's own inference, in the papers' units."""

from __future__ import annotations

import tomllib
from dataclasses import asdict, replace
from pathlib import Path

import numpy as np
import pytest
import torch

from hindsight.artifact import ResizeRule
from hindsight.datasets.records import Record
from model.checkpoint import CheckpointError, load_checkpoint, save_checkpoint
from model.detector import TwoStageDetector
from tests.unit.training.data_sets import write_image
from tests.unit.training.test_reproduce import TOY
from training.data.dataset import Dataset
from training.evaluation.predict import run_checkpoint
from training.published.measure import measure
from training.published.recipes import recipe_for
from training.published.rows import Inference, load_table

RULE = ResizeRule(64, 64)
EVERYTHING = Inference(class_threshold=0.0)


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A random detector with the DIR head."""
    torch.manual_seed(0)
    recipe = recipe_for(load_table("dir:table5").rows[5], tomllib.loads(TOY))
    path = tmp_path_factory.mktemp("measure") / "last.safetensors"
    detector = TwoStageDetector(recipe.detector_config(1))
    save_checkpoint(path, detector, {"class_names": ["thing"], "resize": asdict(RULE)})
    return path


@pytest.fixture(scope="module")
def own_boxes(checkpoint: Path, tmp_path_factory: pytest.TempPathFactory) -> Dataset:
    """Images whose ground truth is what that detector finds there: with the same inference its AP is 100."""
    folder = tmp_path_factory.mktemp("own")
    records = []
    for number in range(1, 4):
        path = folder / f"{number}.png"
        write_image(path, 64, 64, seed=number)
        records.append(record(number, path, np.zeros((0, 4), np.float32)))
    detector, _ = load_checkpoint(checkpoint)
    found = run_checkpoint(detector, Dataset(records, ("thing",)), RULE, 2, (0.5,), class_threshold=0.0)
    boxes = {image.image_id: image.boxes for image in found.predictions[0.5]}
    assert all(len(rows) >= 3 for rows in boxes.values())
    return Dataset([record(r.image_id, r.path, boxes[r.image_id]) for r in records], ("thing",))


def record(image_id: int, path: Path, boxes: np.ndarray[tuple[int, int], np.dtype[np.float32]]) -> Record:
    count = len(boxes)
    area = np.prod(boxes[:, 2:] - boxes[:, :2], axis=1).astype(np.float32)
    labels, crowd = np.zeros(count, np.int64), np.zeros(count, np.bool_)
    return Record(path, image_id, (64, 64), boxes, labels, crowd, area, np.arange(count))


def test_figures_are_in_percent_and_millions(checkpoint: Path, own_boxes: Dataset) -> None:
    figures = measure(checkpoint, EVERYTHING, own_boxes, batch_size=2)
    assert {figures[name] for name in ("AP", "AP50", "AP60", "AP70", "AP75", "AP80", "AP90")} == {100.0}
    detector, _ = load_checkpoint(checkpoint)
    trained = sum(p.numel() for p in detector.parameters() if p.requires_grad)
    assert figures["params"] == pytest.approx(trained / 1e6)
    assert "pearson" not in figures


def test_the_rows_thresholds_are_used(checkpoint: Path, own_boxes: Dataset) -> None:
    assert measure(checkpoint, replace(EVERYTHING, class_threshold=1.0), own_boxes)["AP"] == 0.0


def test_the_rows_detector_settings_are_used(checkpoint: Path, own_boxes: Dataset) -> None:
    by_rule = {
        rule: measure(
            checkpoint,
            replace(EVERYTHING, detector={"localization": {"combination": rule}}),
            own_boxes,
            correlation=True,
        )["pearson"]
        for rule in ("eq5", "purity", "integrity")
    }
    assert all(value is not None and -1 <= value <= 1 for value in by_rule.values())
    assert len(set(by_rule.values())) == 3


def test_settings_that_change_the_weights_are_refused(checkpoint: Path, own_boxes: Dataset) -> None:
    with pytest.raises(CheckpointError, match="can't be run with"):
        measure(checkpoint, replace(EVERYTHING, detector={"localization": {"width": 5}}), own_boxes)
