"""Artifacts and images made on the spot, so that everything around a model can be tested without one (and
without torch).

The tiny model (its graphs: tiny_graphs.py) sees the image as tiles of 32 x 32 input pixels. A tile is a
candidate box (cut at the image's edge) of class 0, 1 or 2, by the strongest of the mean red, green and blue
of its pixels:

    class score = that mean / 255           integrity = 0.8
    purity      = the same                  IoU       = DIR Eq. (5) of the two
    score       = class^(1 - w) * IoU^w

A tile is detected if its class score >= class_threshold and its score >= score_threshold and > 0. So a black
image has no detections, and a pure red tile has class score 1, purity 1, integrity .8, IoU .8. rescore.onnx
says the same about any box, from the mean of the pixels in it; its class scores are the means. With masks,
each is the left half of its box.
"""

from __future__ import annotations

import io
from collections.abc import Sequence
from itertools import cycle
from pathlib import Path

import numpy as np
import onnx
from numpy.typing import NDArray
from PIL import Image

from hindsight.artifact import (
    Artifact,
    ClassInfo,
    Defaults,
    Manifest,
    ResizeRule,
    load_artifact,
    write_artifact_manifest,
)
from tests.tiny_graphs import INTEGRITY, TILE, detection_graph, rescore_graph

COLOURS = ("#d62728", "#2ca02c", "#1f77b4", "#9467bd", "#8c564b")


def make_tiny_artifact(
    folder: Path,
    *,
    name: str = "tiny",
    version: str = "1",
    class_names: Sequence[str] = ("red", "green", "blue"),
    localization: bool = True,
    masks: bool = False,
    max_detections: int = 20,
    max_rescore_boxes: int = 100,
    resize: ResizeRule | None = None,
    defaults: Defaults | None = None,
    integrity: float = INTEGRITY,
    training_data: dict[str, str] | None = None,
) -> Artifact:
    """Write a valid artifact into `folder` (made if need be; nothing is appended to its name) and load it.
    Any number of class names; colours repeat. integrity: what the model says of every box.
    """
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "weights.bin").write_bytes(np.array([integrity], np.float32).tobytes())
    onnx.save(detection_graph(localization, max_detections, masks), folder / "model.onnx")
    if localization:
        onnx.save(rescore_graph(len(class_names)), folder / "rescore.onnx")
    (folder / "MODEL_CARD.md").write_text(
        f"# {name}\n\nA made-up model for tests: bright tiles are objects.\n", encoding="utf-8"
    )
    (folder / "samples").mkdir(exist_ok=True)
    (folder / "samples" / "tiles.jpg").write_bytes(encode(tiles_image(), "JPEG", quality=95))
    manifest = Manifest(
        format_version=1,
        name=name,
        version=version,
        description="A made-up model for tests: bright tiles are objects",
        classes=tuple(ClassInfo(label, colour) for label, colour in zip(class_names, cycle(COLOURS))),
        resize=resize or ResizeRule(96, 160, TILE),
        defaults=defaults
        or Defaults(class_threshold=0.05, score_threshold=0.3, iou_weight=0.5, nms_threshold=0.5),
        nms_kind="hard",
        max_detections=max_detections,
        max_rescore_boxes=max_rescore_boxes,
        has_localization=localization,
        has_masks=masks,
        architecture={"name": "tiles"},
        training_data=training_data or {"name": "none"},
        licence="Apache-2.0",
        metrics={"AP": 0.5, "AP50": 0.9, "AP75": 0.6},
        files={},
    )
    write_artifact_manifest(folder, manifest)
    return load_artifact(folder)


def tiles_image(height: int = 96, width: int = 160) -> NDArray[np.uint8]:
    """Black, but for a red tile at tile row 0, column 1 (box [32, 0, 64, 32]) and a green one at row 2,
    column 3 ([96, 64, 128, 96]).

    At the tiny model's default size nothing is resized, so a detector answers exactly those two boxes. Boxes
    scale with height and width.
    """
    image = np.zeros((96, 160, 3), np.uint8)
    image[0:32, 32:64, 0] = 255
    image[64:96, 96:128, 1] = 240
    if (height, width) != (96, 160):
        image = np.asarray(Image.fromarray(image).resize((width, height), Image.Resampling.NEAREST))
    return image


def encode(image: NDArray[np.uint8], format_name: str = "PNG", **options: object) -> bytes:
    """`image` uint8 [H, W, 3] as an encoded file."""
    stream = io.BytesIO()
    Image.fromarray(image).save(stream, format_name, **options)
    return stream.getvalue()
