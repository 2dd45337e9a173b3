"""The data set under audit: numbers, places, signatures."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pytest

from hindsight.audit.classes import NOT_JUDGED
from hindsight.audit.dataset import set_name
from hindsight.datasets import DatasetError
from tests.unit.audit.sets import opened, voc_audit_set
from tests.unit.training.data_sets import coco_document, write_coco, write_yolo


def test_voc_annotations_are_numbered_through_bad_ones_too(tmp_path: Path) -> None:
    dataset = voc_audit_set(tmp_path / "ants")
    assert [image.ids.tolist() for image in dataset.images] == [[1, 2], [4]]
    assert [image.name for image in dataset.images] == ["JPEGImages/a.png", "JPEGImages/b.png"]
    assert [str(problem).rpartition("/")[2] for problem in dataset.bad_entries] == [
        "b.xml:7: object 1 (ant): empty box (9, 9, 9, 9): no width or no height"
    ]
    source, line, entry = dataset.images[1].place(0)
    assert (source.name, line, entry) == ("b.xml", 17, "object 2 (bee)")


def test_a_difficult_object_is_not_judged(tmp_path: Path) -> None:
    assert voc_audit_set(tmp_path / "ants").images[1].labels.tolist() == [NOT_JUDGED]


def test_coco_keeps_its_ids_and_finds_lines(tmp_path: Path) -> None:
    path = write_coco(tmp_path, coco_document())
    dataset = opened(path)
    assert [image.ids.tolist() for image in dataset.images] == [[1], [2, 3]]
    assert [image.image_id for image in dataset.images] == [5, 9]
    _, line, entry = dataset.images[1].place(0)
    assert entry == "annotation 2"
    assert line is not None and path.read_text().splitlines()[line].strip() == '"id": 2,'


def test_classes_are_told_to_the_model(tmp_path: Path) -> None:
    dataset = opened(write_coco(tmp_path, coco_document()), labels=(NOT_JUDGED, 7))
    assert [image.labels.tolist() for image in dataset.images] == [[7], [NOT_JUDGED, NOT_JUDGED]]
    assert dataset.data_class(7) == 1


def test_a_signature_changes_with_the_file_and_with_the_boxes(tmp_path: Path) -> None:
    root = write_yolo(tmp_path / "set", {"a": ["0 .5 .5 .2 .2"], "b": ["1 .5 .5 .2 .2"]})
    first = [image.signature for image in opened(root).images]
    assert first == [image.signature for image in opened(root).images]
    (root / "labels" / "train" / "a.txt").write_text("0 .5 .5 .2 .3\n")
    second = [image.signature for image in opened(root).images]
    assert (first[0] != second[0], first[1] == second[1]) == (True, True)
    os.utime(root / "images" / "train" / "b.png", ns=(1, 1))
    third = [image.signature for image in opened(root).images]
    assert (second[0] == third[0], second[1] != third[1]) == (True, True)


def test_bad_images_are_told_from_bad_entries(tmp_path: Path) -> None:
    root = write_yolo(tmp_path / "set", {"a": ["0 .5 .5 .2 .2", "9 .5 .5 .2 .2"], "b": []})
    (root / "images" / "train" / "b.png").write_text("no image")
    dataset = opened(root)
    assert len(dataset.images) == 1
    assert [problem.message for problem in dataset.bad_entries] == [
        "line 2: unknown class: 9 is none of 0..1"
    ]
    (bad,) = dataset.bad_images
    assert "is not an image" in bad.message
    (root / "images" / "train" / "a.png").unlink()
    with pytest.raises(DatasetError, match="no usable image"):
        opened(root)


def test_sets_have_the_name_a_person_would_say(tmp_path: Path) -> None:
    root = write_yolo(tmp_path / "ants", {"a": []})
    assert set_name(root) == set_name(root / "data.yaml") == "ants"
    assert set_name(write_coco(tmp_path, coco_document())) == "set"


def test_boxes_are_as_training_sees_them(tmp_path: Path) -> None:
    dataset = opened(write_coco(tmp_path, coco_document()))
    np.testing.assert_array_equal(dataset.images[0].boxes, [[4, 6, 14, 18]])
