"""The picture of docs/tiling.md: one mosaic of test boards, seen at once and in tiles.

python -m benchmarks.tiling_picture --data DEEPPCB --out docs/images/tiling.png
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import numpy as np
import typer
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont

from benchmarks.tiling_figures import hits
from benchmarks.tiling_mosaics import BOARD, SIDE, Mosaic, mosaics
from hindsight.api import Detector, load
from hindsight.detections import Detections
from hindsight.tiling import Tiling

_PANEL, _GAP, _CAPTION = 880, 16, 40  # pixels
_FOUND, _MISSED, _WRONG, _TILE = "#12883a", "#d0161b", "#e07b00", "#7d8fd1"
_MARGIN, _LINE = 12, 7  # pixels of the mosaic, which is then made smaller


def panel(mosaic: Mosaic, found: Detections, caption: str, tiles: NDArray[np.int64] | None) -> Image.Image:
    """Objects found in green, missed in red, wrong boxes in orange; objects that the border clips in none."""
    right, counted = hits(mosaic, found)
    objects = mosaic.boxes[~mosaic.clipped]
    missed = [box for box in objects if not _meets(box, found.boxes[right])]
    # The boards are pale, so that the boxes are seen.
    pale = Image.fromarray((255 - (255 - mosaic.pixels.astype(np.int64)) * 2 // 5).astype(np.uint8))
    draw = ImageDraw.Draw(pale)
    for x1, y1, x2, y2 in [] if tiles is None else tiles.tolist():
        draw.rectangle((x1, y1, x2 - 1, y2 - 1), outline=_TILE, width=3)
    for boxes, colour in (
        (found.boxes[right], _FOUND),
        (found.boxes[counted & ~right], _WRONG),
        (missed, _MISSED),
    ):
        for x1, y1, x2, y2 in boxes:
            place = (x1 - _MARGIN, y1 - _MARGIN, x2 + _MARGIN, y2 + _MARGIN)
            draw.rectangle([float(value) for value in place], outline=colour, width=_LINE)
    framed = Image.new("RGB", (_PANEL, _PANEL + _CAPTION), "white")
    framed.paste(pale.resize((_PANEL, _PANEL), Image.Resampling.LANCZOS), (0, _CAPTION))
    wrong = int((counted & ~right).sum())
    text = f"{caption}: {int(right.sum())} of {len(objects)} defects found, {wrong} wrong"
    ImageDraw.Draw(framed).text((4, 6), text, fill="black", font=ImageFont.load_default(24))
    return framed


def _meets(box: NDArray[np.float32], others: NDArray[np.float32]) -> bool:
    sides = np.minimum(box[2:], others[:, 2:]) - np.maximum(box[:2], others[:, :2])
    return bool((sides > 0).all(axis=1).any())


def drawn(detector: Detector, mosaic: Mosaic) -> Image.Image:
    """Both panels side by side."""
    tiling = Tiling(BOARD, whole=False)
    once = panel(mosaic, detector.detect(mosaic.pixels), "one pass", None)
    tiled = panel(
        mosaic,
        detector.detect(mosaic.pixels, tile=BOARD),
        f"tiles of {BOARD} x {BOARD}",
        tiling.windows((SIDE, SIDE)),
    )
    sheet = Image.new("RGB", (2 * _PANEL + _GAP, _PANEL + _CAPTION), "white")
    sheet.paste(once, (0, 0))
    sheet.paste(tiled, (_PANEL + _GAP, 0))
    return sheet


def main(
    data: Annotated[Path, typer.Option(help="Folder of deeppcb: test.json, images/.")],
    out: Annotated[Path, typer.Option(help="PNG file to write.")],
    number: Annotated[int, typer.Option(help="Which of the test mosaics.")] = 0,
) -> None:
    """Draw."""
    mosaic = list(mosaics(data / "test.json", number + 1, aligned=False))[number]
    with load("pcb", threads=1) as detector:
        drawn(detector, mosaic).quantize(256).save(out, optimize=True)


if __name__ == "__main__":
    typer.run(main)
