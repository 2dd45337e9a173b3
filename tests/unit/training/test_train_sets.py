"""What `hindsight train` makes of its data options before the first step."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.unit.training.data_sets import voc_object, write_image, write_voc, write_yolo
from training.train_sets import open_sets


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Three images: a and b to train on, c to validate on; trainval holds all."""
    root = write_voc(tmp_path / "voc", {name: [voc_object("cell", 4, 4, 20, 20)] for name in "abc"})
    lists = root / "ImageSets" / "Main"
    for split, names in {"train": "ab", "val": "c", "trainval": "abc"}.items():
        (lists / f"{split}.txt").write_text("".join(f"{name}\n" for name in names))
    return root


def test_a_split_apart_is_validated_on(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    training, validation = open_sets(folder, None, None, None, None, None, skip_bad=False)
    assert validation is not None
    assert (len(training), len(validation)) == (2, 1)
    assert "are trained on" not in capsys.readouterr().err


def test_training_on_trainval_goes_without_validation_and_says_so(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    training, validation = open_sets(folder, None, "trainval", None, None, None, skip_bad=False)
    assert (len(training), validation) == (3, None)
    told = capsys.readouterr().err
    assert "1 of the 1 validation images are trained on: training without validation" in told


def test_a_validation_set_asked_for_is_kept_with_a_warning(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    _, validation = open_sets(folder, None, "trainval", None, None, "val", skip_bad=False)
    assert validation is not None
    assert "warning: 1 of the 1 validation images are trained on" in capsys.readouterr().err


def test_a_yolo_folder_is_split_as_its_yaml_file_says(tmp_path: Path) -> None:
    root = write_yolo(tmp_path / "set", {"a": ["0 .5 .5 .2 .2"]})
    write_image(root / "images" / "val" / "v.png")
    (root / "data.yaml").write_text((root / "data.yaml").read_text() + "val: images/val\n")
    training, validation = open_sets(root, None, None, None, None, None, False)
    assert validation is not None
    assert [training.annotations(0).path.name, validation.annotations(0).path.name] == ["a.png", "v.png"]


def test_a_yolo_folder_in_one_piece_goes_without_validation(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write_image(tmp_path / "images" / "a.png")
    (tmp_path / "classes.txt").write_text("ant\n")
    training, validation = open_sets(tmp_path, None, None, None, None, None, False)
    assert (len(training), validation) == (1, None)
    assert "training without validation" in capsys.readouterr().err
