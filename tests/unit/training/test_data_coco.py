"""COCO files: ids, crowds, and every way an entry can be bad."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.unit.training.data_sets import coco_document, write_coco
from training.data import DatasetError, open_dataset


def problem(path: Path) -> str:
    with pytest.raises(DatasetError) as caught:
        open_dataset(path)
    (found,) = caught.value.problems
    assert found.file == path
    return str(found).removeprefix(f"{path}:")


def test_labels_follow_the_category_ids_and_boxes_become_corners(tmp_path: Path) -> None:
    dataset = open_dataset(write_coco(tmp_path, coco_document()))
    assert dataset.class_names == ("cat", "dog")
    first, second = dataset.annotations(0), dataset.annotations(1)
    assert (first.image_id, second.image_id) == (5, 9)
    np.testing.assert_array_equal(first.boxes, [[4, 6, 14, 18]])
    assert first.labels.tolist() == [1]
    assert first.area.tolist() == [70]  # as annotated, not the box's
    np.testing.assert_array_equal(second.boxes, [[0, 0, 64, 48], [20.5, 8, 50.5, 18]])
    assert second.crowd.tolist() == [False, True]
    assert second.area.tolist() == [64 * 48, 250]


BAD: list[tuple[str, int, dict[str, Any], str]] = [
    ("annotations", 0, {"bbox": [4, 6, 0, 12]}, "annotation 1: empty box"),
    ("annotations", 0, {"bbox": [4, 6, -3, 12]}, "annotation 1: inverted box"),
    ("annotations", 0, {"bbox": [60, 6, 10, 12]}, "annotation 1: box (60, 6, 70, 18) reaches 6 px outside"),
    ("annotations", 0, {"bbox": [4, 6, 10]}, "annotation 1: bbox is [4, 6, 10], expected"),
    ("annotations", 0, {"bbox": [4, 6, 10, "12"]}, "annotation 1: bbox is"),
    ("annotations", 0, {"bbox": [4, 6, 10, float("nan")]}, "annotation 1: box"),
    ("annotations", 0, {"area": -1}, "annotation 1: area -1 is negative"),
    ("annotations", 1, {"category_id": 99}, "annotation 2: unknown class: category_id 99"),
    ("annotations", 1, {"image_id": 77}, "annotation 2: image_id 77 is not among the images"),
    ("annotations", 2, {"id": 1}, "annotation 1: the id is used twice"),
    ("annotations", 2, {"id": "x"}, "annotation 3 in the list: id is 'x'"),
    ("images", 1, {"file_name": "gone.png"}, "image 9: image"),
    ("images", 1, {"width": 63}, "image 9: annotated for an image of 63x48, but b.png is 64x48"),
    ("images", 1, {"width": "64"}, "image 9: width and height are '64' and 48"),
]


@pytest.mark.parametrize(("section", "index", "change", "message"), BAD)
def test_a_bad_entry_is_named_with_id_and_line(
    tmp_path: Path, section: str, index: int, change: dict[str, Any], message: str
) -> None:
    document = coco_document()
    if section == "images" and "width" in change and isinstance(change["width"], str):
        document["annotations"] = document["annotations"][:1]  # else its boxes have no image either
    document[section][index].update(change)
    path = write_coco(tmp_path, document)
    found = problem(path)
    line, text = found.split(": ", 1)
    assert message in text
    written = path.read_text().splitlines()
    entry = json.dumps(document[section][index], indent=1).splitlines()[1].strip()
    assert written[int(line) - 1].strip() == "{"
    assert written[int(line)].strip() == entry
    assert len(open_dataset(path, skip_bad=True).problems) == 1


def test_duplicate_image_and_category_ids_are_found(tmp_path: Path) -> None:
    document = coco_document()
    document["images"].append({"id": 5, "file_name": "b.png"})
    document["categories"].append({"id": 3, "name": "cow"})
    with pytest.raises(DatasetError) as caught:
        open_dataset(write_coco(tmp_path, document))
    texts = [found.message for found in caught.value.problems]
    assert texts == ["category 3: the id is used twice", "image 5: the id is used twice (first by a.png)"]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ('{"images": [\n  {"id": 1,}\n]}', r"set\.json:2: broken JSON"),
        ('{"images": [], "annotations": []}', "expected a COCO file with the list 'categories'"),
        ("[]", "expected a COCO file with the list 'images'"),
    ],
)
def test_a_file_that_is_no_coco_file_is_refused_even_with_skip_bad(
    tmp_path: Path, text: str, message: str
) -> None:
    path = tmp_path / "set.json"
    path.write_text(text)
    with pytest.raises(DatasetError, match=message):
        open_dataset(path, skip_bad=True)


def test_a_split_makes_no_sense_for_a_file(tmp_path: Path) -> None:
    with pytest.raises(DatasetError, match="one split already"):
        open_dataset(write_coco(tmp_path, coco_document()), split="test")


def test_a_set_of_which_nothing_is_left_is_refused(tmp_path: Path) -> None:
    path = write_coco(tmp_path, coco_document())
    for image in (tmp_path / "images").iterdir():
        image.unlink()
    with pytest.raises(DatasetError, match=r"no usable image \(2 left out as bad\)"):
        open_dataset(path, skip_bad=True)


def test_coco_mini_is_read_whole(data_dir: Path) -> None:
    path = data_dir / "coco_mini" / "annotations" / "instances_val2017.json"
    document = json.loads(path.read_text())
    dataset = open_dataset(path)
    samples = [dataset.annotations(index) for index in range(len(dataset))]
    assert len(dataset.class_names) == 80
    assert sum(len(sample.boxes) for sample in samples) == len(document["annotations"])
    assert sum(int(sample.crowd.sum()) for sample in samples) == 5
    assert {sample.path.parent.name for sample in samples} == {"val2017"}
