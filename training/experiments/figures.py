"""Figures of the claims: every comparison with its interval, and two in the style of the papers' own.

Colours mean the same everywhere: green supported, red contradicted, grey open.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from training.evaluation.localization import pearson
from training.evaluation.plots import pyplot
from training.experiments.bootstrap import CONTRADICTED, DROPPED, INCONCLUSIVE, SUPPORTED, Estimate
from training.experiments.judging import CONFIDENCES, population
from training.experiments.regression import OWN, SAME, Moved
from training.experiments.results import ClaimResult, Finding
from training.experiments.table import RowTable

COLOURS = {SUPPORTED: "#2b8a5a", CONTRADICTED: "#b5382e", INCONCLUSIVE: "#7a7f85", DROPPED: "#c3c7cb"}
_BLUE, _ORANGE = "#1f6fb2", "#d9822b"
_DPI = 130
_ROW = 0.36  # inches a line of text takes
_MAX_POINTS = 4000
_SCATTERED = ("class score", "foresight IoU", "hindsight IoU", "hindsight P&I")
_IN_POINTS = ("AP", "AP75", "AP90")  # shown as the papers print them


def draw_claim(path: Path, result: ClaimResult) -> None:
    """A column a metric: the systems' values above, the comparisons' differences below."""
    plt = pyplot()
    metrics = [metric for metric in result.systems if any(f.metric == metric for f in result.findings)]
    rows = [len(result.systems[metrics[0]]), len(result.claim.comparisons)]
    # columns with the first one's rows need no names of their own
    first = list(result.systems[metrics[0]])
    named = [metric == metrics[0] or list(result.systems[metric]) != first for metric in metrics]
    figure, axes = plt.subplots(
        2,
        len(metrics),
        figsize=(3.5 * len(metrics) + 3.4 * sum(named), 2.2 + _ROW * sum(rows)),
        height_ratios=rows,
        layout="constrained",
        squeeze=False,
    )
    for column, metric in enumerate(metrics):
        own = [finding for finding in result.findings if finding.metric == metric]
        _values(axes[0, column], metric, result.systems[metric], named=named[column])
        _differences(axes[1, column], metric, own, named=named[column])
    images, seeds = result.about["images"]["test"], len(result.about["seeds"])
    figure.suptitle(
        f"Claim {result.claim.number}: {result.claim.title}\n"
        f"{result.data}, {images} test images, {seeds} seed{'s' * (seeds != 1)}",
        fontsize=11,
    )
    figure.supxlabel("bars: 95 % intervals; small dots: seeds; diamonds: the paper", fontsize=8)
    _save(figure, path)


def draw_scatter(path: Path, table: RowTable, title: str) -> None:
    """Four confidences over the true IoU of the same boxes, as in the paper's figure of correlations."""
    plt = pyplot()
    row, label, true_iou = population(table)
    shown = np.arange(len(row))
    if len(shown) > _MAX_POINTS:  # a denser cloud shows no more; the correlations are of all rows
        shown = np.random.default_rng(0).choice(len(shown), _MAX_POINTS, replace=False)
    figure, axes = plt.subplots(1, 4, figsize=(14, 4), sharex=True, sharey=True, layout="constrained")
    for axis, name in zip(axes, _SCATTERED, strict=True):
        confidence = CONFIDENCES[name](table)
        values = table.class_scores[row, label].astype(np.float64) if confidence is None else confidence[row]
        r = pearson(values, true_iou)
        axis.scatter(true_iou[shown], values[shown], s=6, alpha=0.3, color=_BLUE, linewidths=0)
        axis.plot([0.5, 1], [0.5, 1], color=COLOURS[INCONCLUSIVE], linestyle="--", linewidth=1)
        axis.set(xlim=(0.5, 1), ylim=(0, 1.02), xlabel="true IoU", title=name)
        axis.text(0.04, 0.04, f"r = {'n/a' if r is None else f'{r:.3f}'}", transform=axis.transAxes)
        axis.grid(alpha=0.25)
    axes[0].set_ylabel("confidence")
    figure.suptitle(f"{title}, n = {len(row)}")
    _save(figure, path)


def draw_regression(path: Path, records: dict[str, list[Moved]], title: str) -> None:
    """How often regression changes the IoU by how much, a line an epoch: early light, late dark."""
    plt = pyplot()
    figure, axes = plt.subplots(1, 2, figsize=(11, 4.4), sharex=True, layout="constrained")
    edges = np.linspace(-0.5, 0.5, 41)
    for axis, kind, name in zip(
        axes, (SAME, OWN), ("the same proposals at every epoch", "the detector's own positives"), strict=True
    ):
        epochs = records[kind]
        for number in _chosen(len(epochs)):
            change = epochs[number].change
            if not len(change):
                continue
            share = np.histogram(np.clip(change, -0.5, 0.5), edges)[0] / len(change)
            colour = plt.get_cmap("viridis_r")((number + 1) / len(epochs))
            axis.stairs(share, edges, color=colour, linewidth=1.8, label=f"epoch {number + 1}")
        axis.axvline(0, color=COLOURS[INCONCLUSIVE], linewidth=1)
        axis.set(xlabel="change of IoU by regression", title=name)
        axis.grid(alpha=0.25)
        if axis.has_data() and any(len(epoch.change) for epoch in epochs):
            axis.legend(frameon=False, fontsize=9)
    axes[0].set_ylabel("share of proposals")
    figure.suptitle(title)
    _save(figure, path)


def _values(axis: Any, metric: str, systems: dict[str, Estimate], *, named: bool) -> None:
    scale = 100 if metric in _IN_POINTS else 1
    for height, (name, value) in enumerate(systems.items()):
        _interval(axis, height, value, scale, _ORANGE if name == "class score" else _BLUE)
    _lines_of(axis, list(systems), named)
    axis.set_title(metric, fontsize=10)


def _differences(axis: Any, metric: str, findings: Sequence[Finding], *, named: bool) -> None:
    scale = 100 if metric in _IN_POINTS else 1
    axis.axvline(0, color="black", linewidth=1)
    for height, finding in enumerate(findings):
        _interval(axis, height, finding.difference, scale, COLOURS[finding.verdict])
        if finding.expected is not None:
            axis.plot(
                finding.expected * scale, height, marker="D", color="white", markeredgecolor="black", ms=5
            )
        axis.annotate(
            finding.verdict,
            (1, height),
            xycoords=("axes fraction", "data"),
            xytext=(-3, 6),
            textcoords="offset points",
            ha="right",
            fontsize=7,
            color=COLOURS[CONTRADICTED if finding.verdict == CONTRADICTED else INCONCLUSIVE],
        )
    _lines_of(axis, [f"{f.comparison}  {f.better} > {f.worse}" for f in findings], named)
    axis.set_xlabel(f"difference in {metric}" + (" (points)" if scale == 100 else ""))


def _interval(axis: Any, height: int, value: Estimate, scale: float, colour: str) -> None:
    if value.value is None:
        return
    if value.low is not None and value.high is not None:
        axis.plot([value.low * scale, value.high * scale], [height] * 2, color=colour, linewidth=3, alpha=0.6)
    axis.plot(value.value * scale, height, "o", color=colour, ms=7)
    for seed in value.per_seed:
        if seed is not None:
            axis.plot(seed * scale, height, "o", color="black", ms=2.2)


def _lines_of(axis: Any, names: Sequence[str], named: bool) -> None:
    axis.set_yticks(range(len(names)), names if named else [""] * len(names), fontsize=9)
    axis.set_ylim(len(names) - 0.4, -0.6)
    axis.grid(axis="x", alpha=0.25)
    for side in ("top", "right", "left"):
        axis.spines[side].set_visible(False)
    axis.tick_params(axis="y", length=0)


def _chosen(epochs: int, most: int = 6) -> list[int]:
    """Up to `most` epochs, the first and the last among them."""
    return sorted({round(index) for index in np.linspace(0, epochs - 1, min(most, epochs))})


def _save(figure: Any, path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=_DPI)
    pyplot().close(figure)
