"""A data set of bright tiles with every kind of label mistake, and `hindsight audit` run on it.

The tiny model of factories.py finds a tile exactly; with an integrity of 1 its predicted IoU is the share of
the annotated box that is tile. So every verdict but `cut` comes about as it does with a real model.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from importlib.metadata import EntryPoint
from pathlib import Path

import pytest

from hindsight import cli
from tests.factories import encode, tiles_image

SIZE = (160, 96)  # width, height
RED = (32, 0, 64, 32)
GREEN = (96, 64, 128, 96)
# annotations by image: class and box, with the verdict that each should get
TILES: dict[str, list[tuple[str, tuple[int, int, int, int], str]]] = {
    "fine": [("red", RED, "fine"), ("green", GREEN, "fine")],
    "loose": [("red", (16, 0, 80, 48), "loose"), ("green", GREEN, "fine")],
    "swapped": [("green", RED, "wrong class"), ("green", GREEN, "fine")],
    "ghost": [("red", RED, "fine"), ("green", GREEN, "fine"), ("blue", (0, 60, 30, 90), "no object")],
    "twice": [("red", RED, "fine"), ("red", RED, "duplicate"), ("green", GREEN, "fine")],
    "lacking": [("red", RED, "fine")],
}
SUSPICIOUS = sum(verdict != "fine" for rows in TILES.values() for _, _, verdict in rows)
ANNOTATIONS = sum(len(rows) for rows in TILES.values())


def write_tiles_voc(root: Path, names: Sequence[str] = tuple(TILES)) -> Path:
    """As a Pascal VOC folder."""
    for folder in ("JPEGImages", "Annotations"):
        (root / folder).mkdir(parents=True)
    for name in names:
        (root / "JPEGImages" / f"{name}.png").write_bytes(encode(tiles_image()))
        objects = "".join(
            f"<object><name>{label}</name><bndbox><xmin>{x1 + 1}</xmin><ymin>{y1 + 1}</ymin><xmax>{x2}</xmax>"
            f"<ymax>{y2}</ymax></bndbox></object>\n"
            for label, (x1, y1, x2, y2), _ in TILES[name]
        )
        (root / "Annotations" / f"{name}.xml").write_text(f"<annotation>\n{objects}</annotation>\n")
    return root


def write_tiles_yolo(root: Path) -> Path:
    """As a YOLO folder."""
    for folder in ("images", "labels"):
        (root / folder).mkdir(parents=True)
    classes = ["red", "green", "blue"]
    for name, rows in TILES.items():
        (root / "images" / f"{name}.png").write_bytes(encode(tiles_image()))
        lines = (
            f"{classes.index(label)} {(x1 + x2) / 320} {(y1 + y2) / 192} {(x2 - x1) / 160} {(y2 - y1) / 96}\n"
            for label, (x1, y1, x2, y2), _ in rows
        )
        (root / "labels" / f"{name}.txt").write_text("".join(lines))
    (root / "data.yaml").write_text("train: images\nnames: [red, green, blue]\n")
    return root


def call_audit(*arguments: str) -> int:
    """`hindsight audit ARGUMENTS` -> its exit status, also where the metadata do not know it yet."""
    others = [entry for entry in cli.entry_points(group="hindsight.commands") if entry.name != "audit"]
    ours = EntryPoint("audit", "hindsight.audit.command:audit", "hindsight.commands")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(cli, "entry_points", lambda group: [*others, ours])
        patch.setattr(sys, "argv", ["hindsight", "audit", *arguments])
        with pytest.raises(SystemExit) as ended:
            cli.main()
    return int(ended.value.code or 0)
