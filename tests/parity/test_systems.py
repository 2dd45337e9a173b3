"""The systems of `make systems`: all of them take steps, some of them are tried from photo to graph.

`make systems` tries all of them, which takes half an hour, and writes docs/systems.md.
"""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from benchmarks.systems import RESULT, is_green, key, page
from benchmarks.systems_list import SYSTEMS, System
from benchmarks.systems_trial import LEARNT, four_photos, learn, thin_resnet, toy, trial, with_class_maps
from benchmarks.systems_trial import RULE as SIZE
from training.data import Batch, Dataset, collate, prepare
from training.published.rows import load_table

# one of each kind that no other test takes from training to a graph
TRIED = (
    "Hosts: cascade_rcnn_dir",
    "Hosts: double_head",
    "Backbones: DCN v2 + DIR",
    "DIR: foresight IoU",
    "NMS: soft-NMS, linear",
    "Decoupled R-CNN: cascade + Double-Head",
)


@pytest.fixture(scope="module")
def photos(data_dir: Path) -> Dataset:
    return four_photos(data_dir / "coco_mini" / "annotations" / "instances_train2017.json")


@pytest.fixture(scope="module")
def batch(photos: Dataset) -> Batch:
    whole = collate([prepare(photos.load(index), SIZE) for index in range(len(photos))])
    return with_class_maps(whole, len(photos.class_names))


def test_names_are_unique_and_published_rows_exist() -> None:
    assert len({key(system) for system in SYSTEMS}) == len(SYSTEMS)
    assert set(TRIED) <= {key(system) for system in SYSTEMS}
    for system in SYSTEMS:
        if system.published is not None:
            table, label = system.published
            (row,) = (r for r in load_table(table).rows if r.label == label)
            assert row.expected["params"] and row.expected["GFLOPs"]


@pytest.mark.parametrize("system", SYSTEMS, ids=key)
def test_every_system_takes_steps(system: System, photos: Dataset, batch: Batch) -> None:
    full = system.config(len(photos.class_names))
    with thin_resnet(full.backbone) as backbone:
        detector, losses = learn(toy(full, backbone), batch, steps=3)
    assert np.isfinite(losses).all() and len(set(losses)) == 3
    assert all(p.isfinite().all() for p in detector.parameters())


@pytest.mark.parametrize("system", [s for s in SYSTEMS if key(s) in TRIED], ids=key)
def test_four_photos_are_learnt_by_heart_and_the_graph_agrees(system: System, photos: Dataset) -> None:
    done = trial(system, photos)
    assert done.ap50 >= LEARNT
    assert done.export == "passed"


def test_the_page_is_that_of_the_committed_run_and_every_row_is_green() -> None:
    result = json.loads(RESULT.read_text())
    assert (RESULT.parents[2] / "docs" / "systems.md").read_text() == page(result)
    assert set(result["systems"]) == {key(system) for system in SYSTEMS}
    assert [name for name, row in result["systems"].items() if not is_green(row)] == []
