"""Semantic maps: found beside their images, moved with them, refused by name."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from hindsight.artifact import ResizeRule
from hindsight.errors import OptionError
from tests.unit.training.data_sets import coco_document, write_coco
from training.data import DatasetError, collate, open_dataset, prepare
from training.data.transforms import hflip, rot90, vflip
from training.recipe import Recipe
from training.train_command import _extras

W, H = 64, 48


def write_maps(folder: Path) -> Path:
    folder.mkdir()
    for seed, name in enumerate("ab"):
        pixels = np.random.default_rng(seed).integers(0, 4, (H, W), dtype=np.uint8)
        Image.fromarray(pixels).save(folder / f"{name}.png")
    return folder


def test_a_map_moves_with_its_image(tmp_path: Path) -> None:
    maps = write_maps(tmp_path / "maps")
    sample = open_dataset(write_coco(tmp_path, coco_document()), semantic=maps).load(1)
    expected = np.array(Image.open(maps / "b.png"))
    assert sample.semantic is not None
    np.testing.assert_array_equal(sample.semantic, expected)
    moves = ((hflip, np.fliplr), (vflip, np.flipud), (lambda s: rot90(s, 3), lambda a: np.rot90(a, 3)))
    for move, of_array in moves:
        moved = move(sample)
        np.testing.assert_array_equal(moved.semantic, of_array(expected))
        assert moved.semantic.shape == moved.pixels.shape[:2]


def test_a_target_holds_the_map_at_the_inputs_scale(tmp_path: Path) -> None:
    dataset = open_dataset(write_coco(tmp_path, coco_document()), semantic=write_maps(tmp_path / "maps"))
    sample = hflip(dataset.load(0))
    (target,) = collate([prepare(sample, ResizeRule(2 * H, 2 * W))]).targets
    assert sample.semantic is not None and target.semantic is not None
    doubled = sample.semantic.repeat(2, axis=0).repeat(2, axis=1)
    assert torch.equal(target.semantic, torch.from_numpy(doubled))
    (half,) = collate([prepare(sample, ResizeRule(H // 2, W // 2))]).targets
    assert half.semantic is not None and half.semantic.shape == (H // 2, W // 2)
    assert set(half.semantic.unique().tolist()) <= {0, 1, 2, 3}


def test_bad_maps_are_named(tmp_path: Path) -> None:
    maps = write_maps(tmp_path / "maps")
    path = write_coco(tmp_path, coco_document())
    (maps / "a.png").unlink()
    Image.fromarray(np.zeros((H, W + 1), np.uint8)).save(maps / "b.png")
    with pytest.raises(DatasetError) as caught:
        open_dataset(path, semantic=maps)
    missing, wrong = caught.value.problems
    assert str(missing) == f"{maps / 'a.png'}: semantic map of a.png does not exist"
    assert str(wrong) == f"{maps / 'b.png'}: semantic map is 65x48, its image 64x48"
    Image.fromarray(np.zeros((H, W, 3), np.uint8)).save(maps / "b.png")
    (maps / "a.png").write_text("no image")
    with pytest.raises(DatasetError) as caught:
        open_dataset(path, semantic=maps)
    broken, colour = caught.value.problems
    assert "semantic map cannot be read" in broken.message
    assert "has mode RGB, expected one byte a pixel" in colour.message
    with pytest.raises(DatasetError, match="no such folder of semantic maps"):
        open_dataset(path, semantic=tmp_path / "nowhere")


def test_training_asks_for_what_the_detector_learns_from(tmp_path: Path) -> None:
    assert _extras(Recipe("htc"), tmp_path) == {"masks": True, "semantic": tmp_path}
    assert _extras(Recipe("mask_rcnn"), None) == {"masks": True, "semantic": None}
    assert _extras(Recipe("hindsight"), None) == {"masks": False, "semantic": None}
    off = Recipe("htc", detector={"semantic": {"loss_weight": 0.0}})
    assert _extras(off, None) == {"masks": True, "semantic": None}
    with pytest.raises(OptionError, match="htc learns from semantic maps: name their folder with --semantic"):
        _extras(Recipe("htc"), None)
    with pytest.raises(OptionError, match="--semantic makes no sense for mask_rcnn"):
        _extras(Recipe("mask_rcnn"), tmp_path)
