"""Two pictures of the same question: does the score know how well the box lies?"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from hindsight.overlap import Array
from training.evaluation.localization import (
    LocalizationRows,
    expected_calibration_error,
    pearson,
    reliability_bins,
)

_BLUE, _ORANGE, _GREEN, _GREY = "#1f6fb2", "#d9822b", "#2b8a5a", "#7a7f85"
_DPI = 130
_MAX_POINTS = 5000


def draw_reliability(path: Path, rows: LocalizationRows, title: str) -> None:
    """Mean true IoU over predicted IoU in tenths, with the number of boxes in each below."""
    plt = pyplot()
    bins = [row for row in reliability_bins(rows.iou, rows.true_iou) if row["n"]]
    figure, (upper, lower) = plt.subplots(
        2, 1, figsize=(5.2, 6.0), sharex=True, height_ratios=(4, 1), layout="constrained"
    )
    upper.plot([0, 1], [0, 1], color=_GREY, linestyle="--", linewidth=1, label="perfect")
    upper.plot(
        [row["mean_predicted"] for row in bins],
        [row["mean_true"] for row in bins],
        color=_BLUE,
        marker="o",
        linewidth=2,
        label="this model",
    )
    error = expected_calibration_error(rows.iou, rows.true_iou)
    upper.set(xlim=(0, 1), ylim=(0, 1), ylabel="mean true IoU", title=title)
    upper.text(0.03, 0.93, f"calibration error {_shown(error)}   n = {len(rows)}", transform=upper.transAxes)
    upper.legend(loc="lower right", frameon=False)
    upper.grid(alpha=0.25)
    lower.bar([row["from"] + 0.05 for row in bins], [row["n"] for row in bins], width=0.09, color=_BLUE)
    lower.set(xlabel="predicted IoU", ylabel="boxes")
    figure.savefig(path, dpi=_DPI)
    plt.close(figure)


def draw_score_vs_iou(path: Path, rows: LocalizationRows, title: str) -> None:
    """Class score, predicted IoU and fused score, each over the true IoU of the same boxes, side by side."""
    plt = pyplot()
    panels: tuple[tuple[str, Array, str], ...] = (
        ("class score", rows.class_score, _ORANGE),
        ("predicted IoU", rows.iou, _GREEN),
        ("fused score", rows.fused, _BLUE),
    )
    shown = np.arange(len(rows))
    if len(shown) > _MAX_POINTS:  # a denser cloud shows no more; the correlations are of all rows
        shown = np.random.default_rng(0).choice(len(shown), _MAX_POINTS, replace=False)
    figure, axes = plt.subplots(1, 3, figsize=(12.5, 4.6), sharex=True, sharey=True, layout="constrained")
    for axis, (name, values, colour) in zip(axes, panels, strict=True):
        axis.scatter(rows.true_iou[shown], values[shown], s=7, alpha=0.35, color=colour, linewidths=0)
        axis.plot([0.5, 1], [0.5, 1], color=_GREY, linestyle="--", linewidth=1)
        axis.set(xlim=(0.5, 1), ylim=(0, 1.02), xlabel="true IoU", ylabel=name)
        axis.set_title(f"{name}: r = {_shown(pearson(values, rows.true_iou))}")
        axis.tick_params(labelleft=True)
        axis.grid(alpha=0.25)
    figure.suptitle(
        f"{title}, n = {len(rows)}" + (f" ({_MAX_POINTS} drawn)" if len(shown) < len(rows) else "")
    )
    figure.savefig(path, dpi=_DPI)
    plt.close(figure)


def _shown(value: float | None) -> str:
    return "n/a" if value is None else f"{value:.3f}"


def pyplot() -> Any:
    """matplotlib, drawing into files: no display is needed."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    return plt
