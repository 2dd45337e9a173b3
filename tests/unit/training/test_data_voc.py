"""Pascal VOC folders: coordinates, classes, and every way an entry can be bad."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from tests.unit.training.data_sets import voc_object, write_image, write_voc
from training.data import DatasetError, open_dataset

GOOD = voc_object("cell", 1, 1, 64, 48)


def problems(root: Path, **options: object) -> list[str]:
    with pytest.raises(DatasetError) as caught:
        open_dataset(root, **options)  # type: ignore[arg-type]
    return [str(problem).replace(str(root) + "/", "") for problem in caught.value.problems]


def test_one_based_inclusive_corners_become_continuous_coordinates(tmp_path: Path) -> None:
    root = write_voc(tmp_path / "set", {"a": [GOOD, voc_object("cell", 11, 21, 30, 40)]})
    sample = open_dataset(root).annotations(0)
    np.testing.assert_array_equal(sample.boxes, [[0, 0, 64, 48], [10, 20, 30, 40]])
    np.testing.assert_array_equal(sample.area, [64 * 48, 400])


def test_classes_come_sorted_from_the_annotations_or_as_given(tmp_path: Path) -> None:
    objects = [voc_object("zebra", 5, 5, 9, 9), voc_object("ant", 5, 5, 9, 9)]
    root = write_voc(tmp_path / "set", {"a": objects})
    dataset = open_dataset(root)
    assert dataset.class_names == ("ant", "zebra")
    assert dataset.annotations(0).labels.tolist() == [1, 0]
    assert open_dataset(root, class_names=("zebra", "ant")).annotations(0).labels.tolist() == [0, 1]


def test_difficult_objects_are_ignored_regions(tmp_path: Path) -> None:
    root = write_voc(tmp_path / "set", {"a": [GOOD, voc_object("cell", 5, 5, 9, 9, difficult=1)]})
    assert open_dataset(root).annotations(0).crowd.tolist() == [False, True]


def test_a_split_names_its_images_in_its_order(tmp_path: Path) -> None:
    root = write_voc(tmp_path / "set", {"a": [GOOD], "b": [GOOD], "c": [GOOD]})
    (root / "ImageSets" / "Main" / "val.txt").write_text("c  1\n\na -1\n")
    dataset = open_dataset(root, split="val")
    assert [dataset.annotations(i).path.stem for i in range(len(dataset))] == ["c", "a"]
    with pytest.raises(DatasetError, match=r"no split 'test'.*there are: train, val"):
        open_dataset(root, split="test")


@pytest.mark.parametrize(
    ("bad", "line", "message"),
    [
        (voc_object("cell", 9, 5, 9, 8), 7, "empty box"),
        (voc_object("cell", 9, 5, 3, 8), 7, "inverted box"),
        (voc_object("cell", 9, 5, 70, 8), 7, "reaches 6 px outside the 64x48 image"),
        (voc_object("cell", 9, 5, float("nan"), 8), 7, "not a number"),
        (voc_object("cell", 9, 5, 20, 8).replace("<xmin>9<", "<xmin>nine<"), 4, "<xmin> is 'nine'"),
        ("  <object><name>cell</name></object>\n", 4, "<bndbox> is missing"),
        (voc_object("", 9, 5, 20, 8), 4, "<name> is missing"),
    ],
)
def test_a_bad_object_is_named_with_its_line(tmp_path: Path, bad: str, line: int, message: str) -> None:
    root = write_voc(tmp_path / "set", {"a": [bad, GOOD], "b": [GOOD]})
    (found,) = problems(root)
    assert found.startswith(f"Annotations/a.xml:{line}: object 1")
    assert message in found
    kept = open_dataset(root, skip_bad=True)
    assert len(kept.problems) == 1
    assert [len(kept.annotations(i).boxes) for i in range(2)] == [1, 1]


def test_a_box_up_to_one_pixel_outside_is_clipped(tmp_path: Path) -> None:
    root = write_voc(tmp_path / "set", {"a": [voc_object("cell", 0, 0, 65, 49)]})
    np.testing.assert_array_equal(open_dataset(root).annotations(0).boxes, [[0, 0, 64, 48]])


def test_unknown_classes_are_problems_where_the_classes_are_given(tmp_path: Path) -> None:
    root = write_voc(tmp_path / "set", {"a": [GOOD, voc_object("dust", 5, 5, 9, 9)]})
    (found,) = problems(root, class_names=("cell",))
    assert "unknown class 'dust' (known: cell)" in found


def test_bad_images_and_annotation_files_are_listed_and_left_out(tmp_path: Path) -> None:
    root = write_voc(tmp_path / "set", {name: [GOOD] for name in "abcdefg"})
    (root / "JPEGImages" / "a.png").unlink()
    (root / "JPEGImages" / "b.png").write_text("not an image")
    write_image(root / "JPEGImages" / "c.png", width=48, height=64)
    (root / "Annotations" / "d.xml").write_text("<annotation>\n<object>\n</annotation>")
    (root / "Annotations" / "e.xml").unlink()
    (root / "Annotations" / "f.xml").write_text('<!DOCTYPE a [\n<!ENTITY x "y">\n]><a>&x;</a>')
    (root / "ImageSets" / "Main" / "train.txt").write_text("a\nb\nc\nd\ne\nf\ng\ng\n")
    found = problems(root, split="train")
    expected = [
        ("ImageSets/Main/train.txt:8", "g is listed twice (first on line 7)"),
        ("Annotations/d.xml:3", "mismatched tag"),
        ("ImageSets/Main/train.txt:5", "e.xml does not exist"),
        ("Annotations/f.xml:2", "declares the entity 'x'"),
        ("Annotations/a.xml:3", "a.jpg does not exist"),
        ("Annotations/b.xml:3", "is not an image"),
        ("Annotations/c.xml:3", "annotated for an image of 64x48, but c.png is 48x64"),
    ]
    assert len(found) == len(expected)
    for line, (place, message) in zip(found, expected, strict=True):
        assert line.startswith(place) and message in line
    kept = open_dataset(root, split="train", skip_bad=True)
    assert [kept.annotations(i).path.name for i in range(len(kept))] == ["g.png"]
    assert len(kept.problems) == len(expected)


def test_the_report_lists_twenty_and_counts_the_rest(tmp_path: Path) -> None:
    bad = voc_object("cell", 9, 5, 3, 8)
    root = write_voc(tmp_path / "set", {"a": [bad] * 25})
    with pytest.raises(DatasetError) as caught:
        open_dataset(root)
    lines = caught.value.report().splitlines()
    assert lines[0].endswith("25 bad entries (correct them, or go on without them: --skip-bad)")
    assert len(lines) == 22
    assert lines[-1] == "... and 5 more"
    assert "\n" not in str(caught.value)


def test_the_size_is_taken_after_the_exif_orientation(tmp_path: Path) -> None:
    root = write_voc(tmp_path / "set", {"a": [GOOD]})
    (root / "JPEGImages" / "a.png").unlink()
    exif = Image.Exif()
    exif[0x0112] = 6  # stored 48 wide and 64 high, shown 64 wide and 48 high
    Image.new("RGB", (48, 64)).save(root / "JPEGImages" / "a.jpg", exif=exif)
    dataset = open_dataset(root)
    assert dataset.image_hw(0) == (48, 64)
    assert dataset.load(0).pixels.shape == (48, 64, 3)


def test_an_image_that_does_not_decode_is_named(tmp_path: Path) -> None:
    root = write_voc(tmp_path / "set", {"a": [GOOD]})
    file = root / "JPEGImages" / "a.png"
    file.write_bytes(file.read_bytes()[:200])  # the header is sound, the pixels are cut short
    with pytest.raises(DatasetError, match=r"a\.png: the image does not decode"):
        open_dataset(root).load(0)


def test_a_folder_that_is_no_set_says_what_is_expected(tmp_path: Path) -> None:
    with pytest.raises(DatasetError, match="expected a Pascal VOC folder"):
        open_dataset(tmp_path)
    with pytest.raises(DatasetError, match="no such file or folder"):
        open_dataset(tmp_path / "nowhere")


def test_bccd_holds_exactly_two_invalid_boxes(data_dir: Path) -> None:
    found = problems(data_dir / "bccd")
    assert [line.split(" ", 1)[0] for line in found] == [
        "Annotations/BloodImage_00338.xml:163:",
        "Annotations/BloodImage_00343.xml:55:",
    ]
    assert all("empty box" in line for line in found)
    dataset = open_dataset(data_dir / "bccd", skip_bad=True)
    assert dataset.class_names == ("Platelets", "RBC", "WBC")
    assert len(dataset) == 364
    assert sum(len(dataset.annotations(i).boxes) for i in range(364)) == 4886


@pytest.mark.parametrize(("split", "images"), [("train", 205), ("val", 87), ("test", 72)])
def test_bccd_splits_have_their_sizes(data_dir: Path, split: str, images: int) -> None:
    assert len(open_dataset(data_dir / "bccd", split=split, skip_bad=True)) == images
