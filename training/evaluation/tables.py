"""An evaluation as tables for the terminal."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from rich.table import Table

from training.evaluation.average_precision import Metrics
from training.evaluation.run import Evaluation

_COLUMNS = (
    ("AP", "ap"),
    ("AP50", "ap50"),
    ("AP75", "ap75"),
    ("AP90", "ap90"),
    ("APs", "ap_small"),
    ("APm", "ap_medium"),
    ("APl", "ap_large"),
)
_CORRELATIONS = (
    ("class score", "class_score_vs_true_iou"),
    ("predicted IoU", "predicted_iou_vs_true_iou"),
    ("fused score", "fused_score_vs_true_iou"),
    ("purity (vs true purity)", "predicted_purity_vs_true_purity"),
    ("integrity (vs true integrity)", "predicted_integrity_vs_true_integrity"),
)


def tables(evaluation: Evaluation) -> Iterator[Table]:
    """Average precision per iou_weight, per class, and how well scores follow the true IoU."""
    yield _precision_table(evaluation)
    if evaluation.mask_metrics is not None:
        yield _mask_table(evaluation)
    yield _class_table(evaluation)
    if evaluation.rows is not None:
        yield _localization_table(evaluation)
    if evaluation.rescoring is not None:
        yield _rescoring_table(evaluation)


def _precision_table(evaluation: Evaluation) -> Table:
    main = evaluation.main
    table = _by_weight(f"{main.images} images, {main.objects} objects", evaluation.metrics)
    if evaluation.boxes_looked_at is not None:
        wide = evaluation.boxes_looked_at["metrics_with_all"]
        title = f"{evaluation.iou_weight:g}, all {evaluation.boxes_looked_at['all']} boxes"
        table.add_row(title, *(_shown(wide[name]) for _, name in _COLUMNS))
    return table


def _mask_table(evaluation: Evaluation) -> Table:
    assert evaluation.mask_metrics is not None
    return _by_weight("Masks", evaluation.mask_metrics)


def _by_weight(title: str, found: Mapping[float, Metrics]) -> Table:
    table = Table(title=title)
    table.add_column("iou_weight")
    for column, _ in _COLUMNS:
        table.add_column(column, justify="right")
    for weight, metrics in found.items():
        meaning = " (class score only)" if weight == 0 else ""
        table.add_row(f"{weight:g}{meaning}", *(_shown(getattr(metrics, name)) for _, name in _COLUMNS))
    return table


def _class_table(evaluation: Evaluation) -> Table:
    table = Table(title=f"Per class, iou_weight {evaluation.iou_weight:g}")
    table.add_column("class")
    for title in ("objects", "AP", "AP50"):
        table.add_column(title, justify="right")
    for row in evaluation.main.per_class:
        table.add_row(row.name, str(row.objects), _shown(row.ap), _shown(row.ap50))
    point = evaluation.operating_point
    if point is not None:
        table.caption = (
            f"best F1 {point.f1:.3f} at score_threshold {point.score_threshold:.2f}: "
            f"precision {point.precision:.3f}, recall {point.recall:.3f}"
        )
    return table


def _localization_table(evaluation: Evaluation) -> Table:
    report = evaluation.to_json()["localization"]
    table = Table(
        title="How well scores follow the true IoU", caption=f"{report['n']} rows: {report['population']}"
    )
    table.add_column("score")
    table.add_column("Pearson", justify="right")
    for title, name in _CORRELATIONS:
        table.add_row(title, _shown(report["pearson"][name]))
    table.add_section()
    table.add_row("mean absolute IoU error", _shown(report["mean_absolute_error"]["iou"]))
    table.add_row("calibration error (kept)", _shown(report["calibration"]["expected_calibration_error"]))
    return table


def _rescoring_table(evaluation: Evaluation) -> Table:
    assert evaluation.rescoring is not None
    table = Table(
        title="Rescoring given boxes", caption=f"{evaluation.rescoring['n']} jittered ground truths"
    )
    for title in ("true IoU", "n", "mean abs. error", "bias"):
        table.add_column(title, justify="right")
    for row in evaluation.rescoring["error_per_iou_decile"]:
        if row["n"]:
            error, bias = _shown(row["mean_absolute_error"]), _shown(row["bias"])
            table.add_row(f"{row['from']:.1f}-{row['to']:.1f}", str(row["n"]), error, bias)
    return table


def _shown(value: float | None) -> str:
    return "-" if value is None else f"{value:.3f}"
