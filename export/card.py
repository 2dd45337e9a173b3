"""MODEL_CARD.md: what the manifest knows, in words."""

from __future__ import annotations

import json
from typing import Any

from hindsight.artifact import Manifest
from hindsight.purpose import intended_use, limits

_METRICS = ("AP", "AP50", "AP75", "AP90", "APs", "APm", "APl")


def model_card(manifest: Manifest, parity_summary: str) -> str:
    """The card as Markdown. `parity_summary`: one sentence on how near the graphs are to the torch model."""
    defaults = manifest.defaults
    sections = [
        f"# {manifest.name} {manifest.version}",
        manifest.description,
        "## Intended use",
        intended_use(manifest),
        "## Classes",
        "\n".join(f"- {info.name}" for info in manifest.classes),
        "## Training data",
        _facts(manifest.training_data),
        "## Measured",
        _metrics(manifest.metrics),
        "## Limits",
        limits(manifest),
        "## Defaults",
        f"class_threshold {defaults.class_threshold:g}, score_threshold {defaults.score_threshold:g}, "
        f"iou_weight {defaults.iou_weight:g}, nms_threshold {defaults.nms_threshold:g}, "
        f"{manifest.nms_kind} NMS.",
        "## Export",
        parity_summary,
        "## Licence",
        manifest.licence,
    ]
    return "\n\n".join(section for section in sections if section) + "\n"


def _facts(values: dict[str, Any]) -> str:
    if not values:
        return "Not stated."
    return "\n".join(f"- {_words(key)}: {_plain(value)}" for key, value in values.items())


def _metrics(metrics: dict[str, Any]) -> str:
    """A table of the figures everybody asks for, found at the top or one level down; else what there is."""
    rows = {name: metrics[name] for name in _METRICS if isinstance(metrics.get(name), int | float)}
    if not rows:
        nested = [value for value in metrics.values() if isinstance(value, dict) and "AP" in value]
        if nested:
            return _metrics(nested[0])
        return "Not measured." if not metrics else _facts(metrics)
    heads = " | ".join(rows)
    figures = " | ".join(f"{float(value):.3f}" for value in rows.values())
    table = f"| {heads} |\n|{'---|' * len(rows)}\n| {figures} |"
    where = metrics.get("measured_on")
    return f"{table}\n\nOn {where}." if where else table


def _words(key: str) -> str:
    return key.replace("_", " ")


def _plain(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
