"""YOLO folders: layouts, coordinates, and every way an entry can be bad."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from hindsight.datasets import DatasetError
from hindsight.datasets.yolo import label_path
from tests.unit.training.data_sets import write_image, write_yolo
from training.data import open_dataset

GOOD = "0 0.5 0.5 0.25 0.5"


def problems(path: Path, **options: object) -> list[str]:
    with pytest.raises(DatasetError) as caught:
        open_dataset(path, **options)  # type: ignore[arg-type]
    return [str(problem).replace(f"{path}/", "") for problem in caught.value.problems]


def test_shares_of_the_image_become_pixels(tmp_path: Path) -> None:
    root = write_yolo(tmp_path / "set", {"a": [GOOD, "1 .125 .25 .25 .5"]})
    dataset = open_dataset(root)
    assert dataset.class_names == ("ant", "bee")
    sample = dataset.annotations(0)
    np.testing.assert_allclose(sample.boxes, [[24, 12, 40, 36], [0, 0, 16, 24]])
    assert sample.labels.tolist() == [0, 1]
    assert sample.area.tolist() == [16 * 24, 16 * 24]


def test_a_polygon_becomes_the_box_around_it(tmp_path: Path) -> None:
    root = write_yolo(tmp_path / "set", {"a": ["1 0.25 0.5 0.5 0.25 0.75 0.5 0.5 1.0"]})
    np.testing.assert_allclose(open_dataset(root).annotations(0).boxes, [[16, 12, 48, 48]])


def test_an_image_without_a_label_file_shows_nothing(tmp_path: Path) -> None:
    root = write_yolo(tmp_path / "set", {"a": [GOOD], "b": []})
    (root / "labels" / "train" / "b.txt").unlink()
    write_image(root / "images" / "train" / "deeper" / "c.png")
    dataset = open_dataset(root)
    found = [(dataset.annotations(i).path.name, len(dataset.annotations(i).boxes)) for i in range(3)]
    assert found == [("a.png", 1), ("b.png", 0), ("c.png", 0)]


@pytest.mark.parametrize(
    ("image", "labels"),
    [
        ("set/images/train/a.jpg", "set/labels/train/a.txt"),
        ("set/train/images/a.b.png", "set/train/labels/a.b.txt"),
        ("images/old/images/a.jpg", "images/old/labels/a.txt"),
        ("photos/a.jpg", "photos/a.txt"),
    ],
)
def test_labels_lie_where_ultralytics_looks_for_them(image: str, labels: str) -> None:
    assert label_path(Path(image)) == Path(labels)


@pytest.mark.parametrize(
    ("bad", "message"),
    [
        ("2 .5 .5 .1 .1", "line 1: unknown class: 2 is none of 0..1"),
        ("-1 .5 .5 .1 .1", "unknown class: -1"),
        ("0.5 .5 .5 .1 .1", "unknown class: 0.5"),
        ("nan .5 .5 .1 .1", "unknown class: nan"),
        ("ant .5 .5 .1 .1", "expected numbers alone"),
        ("0 .5 .5 .1", "4 numbers; expected 5"),
        ("0 .5 .5 .1 .1 .9", "6 numbers; expected 5"),
        ("0 .5 .5 .1 .1 .9", "a score behind a box makes 6"),
        ("0 .1 .1 .2 .2 .3 .3 .4", "8 numbers; expected 5"),
        ("0 .5 .5 0 .1", "line 1 (ant): empty box"),
        ("0 .5 .5 -.1 .1", "inverted box"),
        ("0 .5 .5 inf .1", "not a number"),
        ("0 .9 .5 .4 .1", "reaches 6.4 px outside the 64x48 image"),
        ("0 320 240 64 48", "outside the 64x48 image"),
    ],
)
def test_a_bad_line_is_named(tmp_path: Path, bad: str, message: str) -> None:
    root = write_yolo(tmp_path / "set", {"a": [bad, GOOD], "b": [GOOD]})
    (found,) = problems(root)
    assert found.startswith("labels/train/a.txt:1: line 1")
    assert message in found
    kept = open_dataset(root, skip_bad=True)
    assert [len(kept.annotations(i).boxes) for i in range(2)] == [1, 1]


def test_labels_without_an_image_and_images_that_are_none_are_problems(tmp_path: Path) -> None:
    root = write_yolo(tmp_path / "set", {"a": [GOOD], "b": [GOOD]})
    (root / "labels" / "train" / "typo.txt").write_text(GOOD)
    (root / "images" / "train" / "b.png").write_text("not an image")
    found = problems(root)
    assert found[0] == "labels/train/typo.txt: no image has this name"
    assert found[1].startswith("labels/train/b.txt: ") and "is not an image" in found[1]


def test_splits_are_the_keys_of_the_yaml_file(tmp_path: Path) -> None:
    root = write_yolo(tmp_path / "set", {"a": [GOOD]})
    write_image(root / "images" / "val" / "v.png")
    text = (root / "data.yaml").read_text()
    (root / "data.yaml").write_text(text + "val: images/val\n")
    assert len(open_dataset(root, split="val")) == 1
    assert len(open_dataset(root)) == 2
    assert len(open_dataset(root / "data.yaml", split="train")) == 1
    with pytest.raises(DatasetError, match=r"no split 'test' \(there are: train, val\)"):
        open_dataset(root, split="test")


def test_a_folder_of_a_split_that_is_not_there(tmp_path: Path) -> None:
    root = write_yolo(tmp_path / "set", {"a": [GOOD]})
    text = (root / "data.yaml").read_text()
    (root / "data.yaml").write_text(text + "test: images/test\n")
    with pytest.raises(DatasetError, match=r"data\.yaml:5: .*images/test does not exist"):
        open_dataset(root, split="test")
    assert problems(root) == [f"data.yaml:5: {root}/images/test does not exist".replace(f"{root}/", "")]
    assert len(open_dataset(root, skip_bad=True)) == 1


@pytest.mark.parametrize("path", ["", "path: /another/machines/folder\n", "path: .\n", "path: ../set\n"])
def test_folders_are_found_from_the_file_or_its_path(tmp_path: Path, path: str) -> None:
    root = write_yolo(tmp_path / "set", {"a": [GOOD]})
    (root / "data.yaml").write_text(path + (root / "data.yaml").read_text())
    assert len(open_dataset(root)) == 1


def test_a_path_that_exists_comes_first(tmp_path: Path) -> None:
    real = write_yolo(tmp_path / "real", {"a": [GOOD], "b": [GOOD]})
    root = write_yolo(tmp_path / "set", {"a": [GOOD]})
    (root / "data.yaml").write_text(f"path: {real}\n" + (root / "data.yaml").read_text())
    assert len(open_dataset(root)) == 2


def test_roboflows_folders_are_found(tmp_path: Path) -> None:
    root = tmp_path / "set"
    write_image(root / "train" / "images" / "a.png")
    (root / "train" / "labels").mkdir()
    (root / "train" / "labels" / "a.txt").write_text(GOOD)
    (root / "data.yaml").write_text("train: ../train/images\nval: ../valid/images\nnc: 1\nnames: ['ant']\n")
    assert len(open_dataset(root, split="train").annotations(0).boxes) == 1


def test_lists_of_images(tmp_path: Path) -> None:
    root = write_yolo(tmp_path / "set", {"a": [GOOD], "b": [GOOD]})
    (root / "list.txt").write_text("./images/train/a.png\n\nimages/train/gone.png\nimages/train/a.png\n")
    (root / "data.yaml").write_text("train: [list.txt]\nnames: [ant]\n")
    found = problems(root)
    assert found == [
        "list.txt:3: image images/train/gone.png does not exist",
        "list.txt:4: images/train/a.png is listed twice (first on line 1)",
    ]
    assert len(open_dataset(root, skip_bad=True)) == 1


def test_a_folder_with_classes_txt(tmp_path: Path) -> None:
    root = write_yolo(tmp_path / "set", {"a": [GOOD]})
    (root / "data.yaml").unlink()
    (root / "classes.txt").write_text("ant\nbee\n\n")
    dataset = open_dataset(root, split="train")
    assert dataset.class_names == ("ant", "bee")
    assert len(dataset.annotations(0).boxes) == 1


def test_a_folder_without_splits(tmp_path: Path) -> None:
    root = tmp_path / "set"
    write_image(root / "images" / "a.png")
    (root / "labels").mkdir()
    (root / "labels" / "a.txt").write_text(GOOD)
    (root / "classes.txt").write_text("ant\n")
    assert len(open_dataset(root).annotations(0).boxes) == 1
    with pytest.raises(DatasetError, match="none: the set is one piece"):
        open_dataset(root, split="train")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("train: images/train\n", "expected the key `names`"),
        ("names: [ant]\n", "expected at least one of the keys train, val, test"),
        ("names: [ant, ant]\ntrain: x\n", r"data\.yaml:1: names: 'ant' is listed twice"),
        ("names: ['']\ntrain: x\n", "none of them empty"),
        ("names: ant\ntrain: x\n", "expected a list, or a mapping"),
        ("names: {0: ant, 2: bee}\ntrain: x\n", "without gaps, got 0, 2"),
        ("names: {one: ant}\ntrain: x\n", "'one' is no class number"),
        ("\nnames: *x\ntrain: x\n", r"data\.yaml:2: an alias"),
        ("names: [ant]\ntrain: {a: b}\n", "train: expected a path"),
        ("names: [ant]\ntrain: images\nkpt_shape: [17, 3]\n", r"data\.yaml:3: labels of poses"),
    ],
)
def test_a_yaml_file_that_says_too_little_is_refused(tmp_path: Path, text: str, message: str) -> None:
    root = write_yolo(tmp_path / "set", {"a": [GOOD]})
    (root / "data.yaml").write_text(text)
    with pytest.raises(DatasetError, match=message):
        open_dataset(root, skip_bad=True)


def test_images_elsewhere_and_masks_are_refused(tmp_path: Path) -> None:
    root = write_yolo(tmp_path / "set", {"a": [GOOD]})
    with pytest.raises(DatasetError, match="leave --images away"):
        open_dataset(root, images=root / "images")
    with pytest.raises(DatasetError, match="of a YOLO folder, boxes only"):
        open_dataset(root, masks=True)


def test_the_same_boxes_in_three_formats_are_the_same(tmp_path: Path, data_dir: Path) -> None:
    """BCCD's test split written as YOLO labels reads as the VOC folder does."""
    voc = open_dataset(data_dir / "bccd", split="test", skip_bad=True)
    root = tmp_path / "yolo"
    (root / "labels").mkdir(parents=True)
    (root / "images").symlink_to((data_dir / "bccd" / "JPEGImages").resolve())
    names = []
    for index in range(len(voc)):
        sample, (height, width) = voc.annotations(index), voc.image_hw(index)
        names.append(f"./images/{sample.path.name}\n")
        rows = []
        for box, label in zip(sample.boxes.astype(np.float64), sample.labels, strict=True):
            x1, y1, x2, y2 = box / [width, height, width, height]
            rows.append(f"{label} {(x1 + x2) / 2:.8f} {(y1 + y2) / 2:.8f} {x2 - x1:.8f} {y2 - y1:.8f}\n")
        (root / "labels" / f"{sample.path.stem}.txt").write_text("".join(rows))
    (root / "test.txt").write_text("".join(names))
    (root / "data.yaml").write_text(f"test: test.txt\nnames: [{', '.join(voc.class_names)}]\n")
    yolo = open_dataset(root, split="test")
    by_name = {yolo.annotations(index).path.name: yolo.annotations(index) for index in range(len(yolo))}
    assert len(by_name) == len(voc) == 72
    for index in range(len(voc)):
        sample = voc.annotations(index)
        np.testing.assert_allclose(by_name[sample.path.name].boxes, sample.boxes, atol=1e-3)
        np.testing.assert_array_equal(by_name[sample.path.name].labels, sample.labels)
