"""Which data a table runs on, found in a folder and held against the papers'."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from hindsight.datasets.problems import DatasetError
from tests.unit.training.data_sets import coco_document, voc_object, write_image, write_voc
from training.data.parts import first_images, joined
from training.published.data import open_data

CAT, DOG = voc_object("cat", 4, 4, 20, 20), voc_object("dog", 8, 8, 30, 30)


def write_coco_folder(root: Path) -> Path:
    for seed, split in enumerate(("train2017", "val2017")):
        document: dict[str, Any] = coco_document()
        for image in document["images"]:
            write_image(root / split / image["file_name"], seed=seed + image["id"])
        (root / "annotations").mkdir(exist_ok=True)
        (root / "annotations" / f"instances_{split}.json").write_text(json.dumps(document))
    return root


def add_split(root: Path, split: str, names: str) -> None:
    (root / "ImageSets" / "Main" / f"{split}.txt").write_text("".join(f"{name}\n" for name in names))


def test_a_coco_folder(tmp_path: Path) -> None:
    data = open_data(write_coco_folder(tmp_path))
    assert (data.layout, len(data.training), len(data.test)) == ("coco", 2, 2)
    assert data.training.records[0].path.parent.name == "train2017"
    assert data.test.records[0].path.parent.name == "val2017"
    assert data.differences("coco-val") == [
        "2 images of train2017, the paper's set has 118287",
        "2 images of val2017, the paper's set has 5000",
    ]
    assert data.differences("coco-test-dev")[-1].startswith("measured on val2017")
    assert data.differences("voc07-test")[0] == "COCO data for a table on VOC"


def test_a_limit_takes_the_first_images(tmp_path: Path) -> None:
    data = open_data(write_coco_folder(tmp_path), limit=1)
    assert (len(data.training), len(data.test)) == (1, 1)
    assert data.training.records[0].image_id == 5
    assert first_images(data.test, 9) is data.test


def test_a_voc_folder_takes_trainval_and_test_if_it_has_them(tmp_path: Path) -> None:
    root = write_voc(tmp_path / "voc", {"a": [CAT], "b": [DOG], "c": [CAT]}, split="train")
    add_split(root, "train", "ab")
    add_split(root, "val", "c")
    data = open_data(root)
    assert (data.layout, data.names, len(data.training), len(data.test)) == ("voc", ("train", "val"), 2, 1)
    add_split(root, "trainval", "abc")
    add_split(root, "test", "c")
    data = open_data(root)
    assert (data.names, len(data.training), len(data.test)) == (("trainval", "test"), 3, 1)
    assert "1 of the 1 test images are trained on" in data.differences("voc07-test")


@pytest.mark.parametrize("inside", ["", "VOCdevkit"])
def test_both_years_of_voc_are_joined(tmp_path: Path, inside: str) -> None:
    """The years' class lists need not agree; image ids, which both count from 1, do not clash."""
    first = write_voc(tmp_path / inside / "VOC2007", {"a": [CAT], "t": [CAT]}, split="trainval")
    add_split(first, "trainval", "a")
    add_split(first, "test", "t")
    write_voc(tmp_path / inside / "VOC2012", {"x": [DOG], "y": [CAT]}, split="trainval")
    data = open_data(tmp_path)
    assert data.names == ("VOC2007 trainval + VOC2012 trainval", "VOC2007 test")
    assert data.training.class_names == data.test.class_names == ("cat", "dog")
    assert [r.image_id for r in data.training.records] == [1, 2, 3]
    assert [int(data.training.annotations(i).labels[0]) for i in range(3)] == [0, 1, 0]


def test_what_is_missing_is_named(tmp_path: Path) -> None:
    with pytest.raises(DatasetError, match=r"expected COCO \(annotations/instances_train2017.json\)"):
        open_data(tmp_path)
    root = write_voc(tmp_path / "voc", {"a": [CAT]}, split="train")
    with pytest.raises(DatasetError, match=r"expected the list test.txt or val.txt"):
        open_data(root)


def test_sets_of_other_classes_are_not_joined(tmp_path: Path) -> None:
    data = open_data(write_coco_folder(tmp_path / "coco"))
    root = write_voc(tmp_path / "voc", {"a": [CAT]}, split="train")
    add_split(root, "val", "a")
    with pytest.raises(ValueError, match="other classes"):
        joined([data.training, open_data(root).training])
