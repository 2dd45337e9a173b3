"""Augmentation: pure functions on a Sample, and the recipe that draws them.

Boxes and shapes live in continuous coordinates ([0, W] x [0, H]), so every geometric function moves them
exactly with the pixels.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageEnhance

from hindsight.artifact import ResizeRule
from hindsight.datasets.shapes import Move, Shape
from training.data.sample import Sample

_Boxes = NDArray[np.float32]

# Full-strength photometric ranges: factors 1 +- x; hue as a fraction of the colour circle.
_BRIGHTNESS, _CONTRAST, _SATURATION, _HUE = 0.4, 0.4, 0.4, 0.05


def hflip(sample: Sample) -> Sample:
    """Mirrors left and right."""
    width = sample.pixels.shape[1]
    x1, y1, x2, y2 = sample.boxes.T
    return replace(
        sample,
        image=sample.pixels[:, ::-1],
        boxes=_boxes(width - x2, y1, width - x1, y2),
        shapes=_moved(sample.shapes, lambda points: _points(width - points[:, 0], points[:, 1])),
        semantic=None if sample.semantic is None else sample.semantic[:, ::-1],
    )


def vflip(sample: Sample) -> Sample:
    """Mirrors top and bottom."""
    height = sample.pixels.shape[0]
    x1, y1, x2, y2 = sample.boxes.T
    return replace(
        sample,
        image=sample.pixels[::-1],
        boxes=_boxes(x1, height - y2, x2, height - y1),
        shapes=_moved(sample.shapes, lambda points: _points(points[:, 0], height - points[:, 1])),
        semantic=None if sample.semantic is None else sample.semantic[::-1],
    )


def rot90(sample: Sample, quarter_turns: int) -> Sample:
    """Turns counter-clockwise by `quarter_turns` x 90 degrees; H and W swap on odd turns."""
    image, boxes, shapes = sample.pixels, sample.boxes, sample.shapes
    for _ in range(quarter_turns % 4):
        width = image.shape[1]
        x1, y1, x2, y2 = boxes.T
        image, boxes = np.rot90(image), _boxes(y1, width - x2, y2, width - x1)
        shapes = _moved(shapes, _quarter_turn(width))
    semantic = None if sample.semantic is None else np.rot90(sample.semantic, quarter_turns % 4)
    return replace(sample, image=image, boxes=boxes, shapes=shapes, semantic=semantic)


def photometric(
    sample: Sample, brightness: float = 1.0, contrast: float = 1.0, saturation: float = 1.0, hue: float = 0.0
) -> Sample:
    """Changes colours in uint8; factors of 1 and a hue shift of 0 (in turns, -0.5..0.5) change nothing."""
    image = Image.fromarray(np.ascontiguousarray(sample.pixels))
    if brightness != 1.0:
        image = ImageEnhance.Brightness(image).enhance(brightness)
    if contrast != 1.0:
        image = ImageEnhance.Contrast(image).enhance(contrast)
    if saturation != 1.0:
        image = ImageEnhance.Color(image).enhance(saturation)
    shift = round(hue * 256) % 256  # PIL's hue is one byte for the whole circle
    if shift:
        hue_band, *rest = image.convert("HSV").split()
        turned = hue_band.point([(value + shift) % 256 for value in range(256)])
        image = Image.merge("HSV", (turned, *rest)).convert("RGB")
    return replace(sample, image=np.asarray(image))


@dataclass(frozen=True)
class Augment:
    """What to draw for each training image. The defaults are the papers': horizontal flips only.

    hflip, vflip: probabilities. rot90: a uniform number of quarter turns. scales: short sides, one drawn
    per image (multi-scale training), with `long_side` as their bound; empty: the rule's own. photometric:
    strength 0..1 of brightness, contrast, saturation and hue changes.
    """

    hflip: float = 0.5
    vflip: float = 0.0
    rot90: bool = False
    scales: tuple[int, ...] = ()
    long_side: int | None = None
    photometric: float = 0.0

    def __post_init__(self) -> None:
        for name in ("hflip", "vflip", "photometric"):
            value = getattr(self, name)
            if not 0.0 <= value <= 1.0:
                raise ValueError(f"{name} must lie in 0..1, got {value}")
        if any(scale < 1 for scale in self.scales):
            raise ValueError(f"scales must be positive short sides in pixels, got {self.scales}")

    def __call__(self, sample: Sample, rng: np.random.Generator) -> Sample:
        """`sample` flipped, turned and recoloured. Every draw is made whatever the settings, so that
        switching one thing on leaves the others' random numbers as they were.
        """
        flip_x, flip_y, turn = rng.random(3)
        factors = rng.uniform(-1.0, 1.0, size=4) * self.photometric
        if flip_x < self.hflip:
            sample = hflip(sample)
        if flip_y < self.vflip:
            sample = vflip(sample)
        if self.rot90:
            sample = rot90(sample, int(turn * 4))
        if self.photometric > 0:
            b, c, s, h = factors
            sample = photometric(
                sample, 1 + _BRIGHTNESS * b, 1 + _CONTRAST * c, 1 + _SATURATION * s, _HUE * h
            )
        return sample

    def resize_rule(self, rule: ResizeRule, rng: np.random.Generator) -> ResizeRule:
        """`rule`, or one drawn from `scales`."""
        if not self.scales:
            return rule
        short_side = self.scales[int(rng.integers(len(self.scales)))]
        return replace(
            rule, short_side=short_side, long_side=max(short_side, self.long_side or rule.long_side)
        )


def _moved(shapes: tuple[Shape, ...] | None, move: Move) -> tuple[Shape, ...] | None:
    return None if shapes is None else tuple(shape.moved(move) for shape in shapes)


def _quarter_turn(width: int) -> Move:
    return lambda points: _points(points[:, 1], width - points[:, 0])


def _points(x: _Boxes, y: _Boxes) -> _Boxes:
    return np.stack([x, y], axis=1).astype(np.float32, copy=False)


def _boxes(x1: _Boxes, y1: _Boxes, x2: _Boxes, y2: _Boxes) -> _Boxes:
    return np.stack([x1, y1, x2, y2], axis=1).astype(np.float32, copy=False)
