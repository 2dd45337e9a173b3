"""What is at a path, and whether it has splits."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from hindsight.datasets import DatasetError, default_split, format_of
from tests.unit.training.data_sets import (
    coco_document,
    voc_object,
    write_coco,
    write_image,
    write_voc,
    write_yolo,
)


def test_formats_are_told_apart(tmp_path: Path) -> None:
    voc = write_voc(tmp_path / "voc", {"a": [voc_object("ant", 1, 1, 9, 9)]})
    yolo = write_yolo(tmp_path / "yolo", {"a": []})
    (tmp_path / "coco").mkdir()
    coco = write_coco(tmp_path / "coco", coco_document())
    assert [format_of(path) for path in (voc, yolo, yolo / "data.yaml", coco)] == [
        "voc",
        "yolo",
        "yolo",
        "coco",
    ]
    (voc / "data.yaml").write_text("meta: of another tool")
    assert format_of(voc) == "voc"


def test_only_what_has_splits_gets_one_by_default(tmp_path: Path) -> None:
    voc = write_voc(tmp_path / "voc", {"a": [voc_object("ant", 1, 1, 9, 9)]})
    yolo = write_yolo(tmp_path / "yolo", {"a": []})
    flat = tmp_path / "flat"
    write_image(flat / "images" / "a.png")
    (flat / "classes.txt").write_text("ant\n")
    (tmp_path / "coco").mkdir()
    coco = write_coco(tmp_path / "coco", coco_document())
    assert [default_split(path, "val") for path in (voc, yolo, flat, coco)] == ["val", "val", None, None]


def test_a_folder_that_is_none_names_what_could_be_meant(tmp_path: Path) -> None:
    (tmp_path / "coco").mkdir()
    write_coco(tmp_path / "coco", coco_document())
    with pytest.raises(DatasetError, match=r"expected a Pascal VOC folder .*\(in this folder: set\.json\)"):
        format_of(tmp_path / "coco")
    with pytest.raises(DatasetError, match="no such file or folder"):
        format_of(tmp_path / "nowhere")


def test_reading_data_sets_needs_no_torch() -> None:
    script = "import sys, hindsight.datasets, hindsight.audit.command; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", script], check=False).returncode == 0
