"""The training loop with detectors that learn masks and semantic maps, from files to a checkpoint."""

from __future__ import annotations

import csv
from pathlib import Path

import pytest

from hindsight.artifact import ResizeRule
from model.checkpoint import load_checkpoint
from tests.unit.training.data_sets import write_coco
from tests.unit.training.test_data_semantic import write_maps
from tests.unit.training.test_data_shapes import masked_document
from training.data import Augment, open_dataset
from training.loop import LAST, Run, train
from training.recipe import Optimisation, Recipe

TOY: dict[str, dict[str, object]] = {
    "backbone": {"min_level": 3, "fpn_channels": 8, "frozen_levels": 3},
    "rpn": {"anchor_sizes": [16, 32, 64, 128], "pre_nms_train": 40, "post_nms_train": 20},
    "head": {"width": 8, "batch_per_image": 16},
    "mask": {"convs": 1, "channels": 8},
}
SEMANTIC: dict[str, object] = {"classes": 4, "convs": 1, "channels": 8}


@pytest.mark.parametrize("model", ["mask_rcnn", "htc"])
def test_masks_are_learnt_from_files(tmp_path: Path, model: str) -> None:
    path, maps = write_coco(tmp_path, masked_document()), write_maps(tmp_path / "maps")
    htc = model == "htc"
    recipe = Recipe(
        model,
        "tf_efficientnet_lite0",
        {**TOY, "semantic": SEMANTIC} if htc else TOY,
        ResizeRule(64, 96),
        Augment(hflip=1.0, rot90=True),
        Optimisation(epochs=1, batch_size=2, lr=0.001),
    )
    train_set = open_dataset(path, masks=True, semantic=maps if htc else None)
    train(Run(recipe, train_set, tmp_path / "run", workers=0, quiet=True))
    with (tmp_path / "run" / "losses.csv").open() as file:
        (row,) = csv.DictReader(file)
    for name in ("mask_1", "mask_2", "mask_3", "semantic") if htc else ("mask",):
        assert float(row[name]) > 0
    loaded, _ = load_checkpoint(tmp_path / "run" / LAST)
    assert loaded.config == recipe.detector_config(2) and loaded.config.mask is not None
