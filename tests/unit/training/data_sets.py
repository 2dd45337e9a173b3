"""Small data sets written for one test each."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image


def write_image(path: Path, width: int = 64, height: int = 48, seed: int = 0) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    pixels = np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(path)


def voc_object(name: str, x1: float, y1: float, x2: float, y2: float, difficult: int = 0) -> str:
    corners = zip(("xmin", "ymin", "xmax", "ymax"), (x1, y1, x2, y2), strict=True)
    bounds = "".join(f"      <{tag}>{value}</{tag}>\n" for tag, value in corners)
    head = f"    <name>{name}</name>\n    <difficult>{difficult}</difficult>\n"
    return f"  <object>\n{head}    <bndbox>\n{bounds}    </bndbox>\n  </object>\n"


def write_voc(
    root: Path, entries: dict[str, Sequence[str]], size_wh: tuple[int, int] = (64, 48), split: str = "train"
) -> Path:
    """A VOC folder: image name -> its <object> elements."""
    (root / "Annotations").mkdir(parents=True)
    (root / "ImageSets" / "Main").mkdir(parents=True)
    for seed, (name, objects) in enumerate(entries.items()):
        write_image(root / "JPEGImages" / f"{name}.png", *size_wh, seed=seed)
        width, height = size_wh
        size = f"  <size><width>{width}</width><height>{height}</height><depth>3</depth></size>\n"
        text = f"<annotation>\n  <filename>{name}.png</filename>\n{size}{''.join(objects)}</annotation>\n"
        (root / "Annotations" / f"{name}.xml").write_text(text)
    (root / "ImageSets" / "Main" / f"{split}.txt").write_text("".join(f"{name}\n" for name in entries))
    return root


def coco_document() -> dict[str, Any]:
    """Two images of 64x48, categories 3 and 17, three boxes of which one is a crowd."""
    return {
        "images": [
            {"id": 5, "file_name": "a.png", "width": 64, "height": 48},
            {"id": 9, "file_name": "b.png", "width": 64, "height": 48},
        ],
        "categories": [{"id": 17, "name": "dog"}, {"id": 3, "name": "cat"}],
        "annotations": [
            {"id": 1, "image_id": 5, "category_id": 17, "bbox": [4, 6, 10, 12], "area": 70.0, "iscrowd": 0},
            {"id": 2, "image_id": 9, "category_id": 3, "bbox": [0, 0, 64, 48], "iscrowd": 0},
            {"id": 3, "image_id": 9, "category_id": 3, "bbox": [20.5, 8, 30, 10], "area": 250, "iscrowd": 1},
        ],
    }


def write_coco(folder: Path, document: dict[str, Any]) -> Path:
    for seed, name in enumerate(("a.png", "b.png")):
        write_image(folder / "images" / name, seed=seed)
    path = folder / "set.json"
    path.write_text(json.dumps(document, indent=1))
    return path


def write_yolo(
    root: Path,
    entries: dict[str, Sequence[str]],
    names: Sequence[str] = ("ant", "bee"),
    size_wh: tuple[int, int] = (64, 48),
    split: str = "train",
) -> Path:
    """A YOLO folder in Ultralytics' layout: image name -> the lines of its label file."""
    for seed, (name, lines) in enumerate(entries.items()):
        write_image(root / "images" / split / f"{name}.png", *size_wh, seed=seed)
        labels = root / "labels" / split / f"{name}.txt"
        labels.parent.mkdir(parents=True, exist_ok=True)
        labels.write_text("".join(f"{line}\n" for line in lines))
    listed = "".join(f"  {number}: {name}\n" for number, name in enumerate(names))
    (root / "data.yaml").write_text(f"{split}: images/{split}\nnames:\n{listed}")
    return root
