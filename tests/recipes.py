"""A recipe that two cores train in seconds, on images of 64 pixels, as the text of a .toml file."""

from __future__ import annotations

import json
from collections.abc import Mapping

Section = Mapping[str, object]

_DETECTOR: dict[str, Section] = {
    "backbone": {"min_level": 3, "fpn_channels": 8, "frozen_levels": 3},
    "rpn": {
        "anchor_sizes": [16, 32, 64, 128],
        "pre_nms_train": 60,
        "post_nms_train": 30,
        "pre_nms_test": 30,
        "post_nms_test": 20,
    },
    "head": {"width": 16, "batch_per_image": 16},
    "localization": {"width": 16},
}
_RESIZE = {"short_side": 64, "long_side": 64}


def tiny_recipe(
    detector: Mapping[str, Section | None],
    optimisation: Section | None = None,
    *,
    model: str | None = "hindsight",
    backbone: str = "tf_efficientnet_lite0",
) -> str:
    """`detector`: what is laid over the tiny one, section by section; None leaves a section out."""
    names = {"backbone": backbone} if model is None else {"model": model, "backbone": backbone}
    lines = _lines(names)
    for name, section in _DETECTOR.items():
        changes = detector.get(name, {})
        if changes is not None:
            lines += [f"[detector.{name}]", *_lines({**section, **changes})]
    lines += ["[resize]", *_lines(_RESIZE)]
    if optimisation is not None:
        lines += ["[optimisation]", *_lines(optimisation)]
    return "\n".join(lines) + "\n"


def _lines(section: Section) -> list[str]:
    """JSON writes texts, numbers, truth values and lists as TOML does."""
    return [f"{key} = {json.dumps(value)}" for key, value in section.items()]
