"""One evaluation from start to end, of a checkpoint or of an artifact."""

from __future__ import annotations

from dataclasses import asdict, dataclass, replace
from typing import Any

from hindsight.artifact import Artifact, ResizeRule
from model.detector import TwoStageDetector
from training.data.dataset import Dataset
from training.evaluation.average_precision import MAX_DETECTIONS, Metrics, evaluate_predictions
from training.evaluation.localization import (
    BEFORE_NMS,
    KEPT,
    LocalizationRows,
    kept_rows,
    localization_report,
)
from training.evaluation.operating_point import OperatingPoint, best_operating_point
from training.evaluation.predict import (
    CLASS_THRESHOLD,
    IOU_WEIGHT,
    NMS_THRESHOLD,
    SCORE_THRESHOLD,
    Progress,
    predict_artifact,
    predict_checkpoint,
    rescore_artifact,
    run_checkpoint,
)
from training.evaluation.predictions import ImagePredictions
from training.evaluation.rescoring import Rescoring


@dataclass(frozen=True, eq=False)
class Evaluation:
    """All that was measured; what needs a localization head is None for a detector without one."""

    kind: str  # "checkpoint" or "artifact"
    iou_weight: float
    metrics: dict[float, Metrics]
    population: str
    rows: LocalizationRows | None  # the population of the correlations
    kept: LocalizationRows | None  # matched kept detections, for the calibration error
    rescoring: dict[str, Any] | None
    boxes_looked_at: dict[str, Any] | None  # what looking at only the D best boxes costs
    operating_point: OperatingPoint | None  # at the chosen iou_weight
    mask_metrics: dict[float, Metrics] | None = None  # where detector and data have masks

    @property
    def main(self) -> Metrics:
        """The metrics at the chosen iou_weight."""
        return self.metrics[self.iou_weight]

    def to_json(self) -> dict[str, Any]:
        """Plain JSON values."""
        localization = None
        if self.rows is not None:
            localization = localization_report(self.rows, self.population, self.kept)
        return {
            "kind": self.kind,
            "settings": {
                "class_threshold": CLASS_THRESHOLD,
                "score_threshold": SCORE_THRESHOLD,
                "nms_threshold": NMS_THRESHOLD,
                "iou_weight": self.iou_weight,
                "max_detections": MAX_DETECTIONS,
            },
            "metrics": self.main.to_json(),
            "by_iou_weight": {f"{weight:g}": metrics.to_json() for weight, metrics in self.metrics.items()},
            **self._masks_to_json(),
            "operating_point": None if self.operating_point is None else asdict(self.operating_point),
            "localization": localization,
            "rescoring": self.rescoring,
            "boxes_looked_at": self.boxes_looked_at,
        }

    def _masks_to_json(self) -> dict[str, Any]:
        if self.mask_metrics is None:
            return {}
        found = {f"{weight:g}": metrics.to_json() for weight, metrics in self.mask_metrics.items()}
        return {"masks_by_iou_weight": found}


def evaluate_checkpoint(
    detector: TwoStageDetector,
    dataset: Dataset,
    rule: ResizeRule,
    *,
    iou_weight: float = IOU_WEIGHT,
    batch_size: int = 4,
    all_boxes: bool = False,
    progress: Progress | None = None,
) -> Evaluation:
    """Evaluates a torch detector; `all_boxes` adds a pass in which the DIR head looks at every box.

    Masks are measured where the detector makes some and the set was opened with them.
    """
    masks = detector.makes_masks and dataset.has_masks
    has_head = detector.localization is not None
    weights = _weights(iou_weight, has_head)
    rescoring = Rescoring(dataset) if _rescores_in_parts(detector) else None
    run = run_checkpoint(
        detector, dataset, rule, batch_size, weights, rescoring=rescoring, masks=masks, progress=progress
    )
    limit_cost = None
    if has_head and all_boxes:
        limit_cost = _cost_of_limit(detector, dataset, rule, iou_weight, batch_size, progress)
    return Evaluation(
        kind="checkpoint",
        iou_weight=iou_weight if has_head else 0.0,
        metrics=_metrics(dataset, run.predictions),
        population=BEFORE_NMS,
        rows=run.rows,
        kept=kept_rows(dataset, run.predictions[iou_weight]) if has_head else None,
        rescoring=None if rescoring is None else rescoring.report(),
        boxes_looked_at=limit_cost,
        operating_point=best_operating_point(dataset, run.predictions[iou_weight if has_head else 0.0]),
        mask_metrics=_metrics(dataset, run.predictions, masks=True) if masks else None,
    )


def evaluate_artifact(
    artifact: Artifact,
    dataset: Dataset,
    *,
    iou_weight: float = IOU_WEIGHT,
    batch_size: int = 4,
    threads: int | None = None,
    progress: Progress | None = None,
) -> Evaluation:
    """Evaluates an exported model. Its graph ranks inside, so each iou_weight takes a pass."""
    has_head = artifact.manifest.has_localization
    masks = artifact.manifest.has_masks and dataset.has_masks
    predictions = {
        weight: predict_artifact(
            artifact,
            dataset,
            batch_size,
            iou_weight=weight,
            threads=threads,
            masks=masks,
            progress=progress,
        )
        for weight in _weights(iou_weight, has_head)
    }
    kept = kept_rows(dataset, predictions[iou_weight]) if has_head else None
    rescoring = None
    if artifact.rescore_path is not None:
        rescoring = rescore_artifact(artifact, dataset, batch_size, threads=threads, progress=progress)
    return Evaluation(
        kind="artifact",
        iou_weight=iou_weight if has_head else 0.0,
        metrics=_metrics(dataset, predictions),
        population=KEPT,
        rows=kept,
        kept=kept,
        rescoring=rescoring,
        boxes_looked_at=None,
        operating_point=best_operating_point(dataset, predictions[iou_weight if has_head else 0.0]),
        mask_metrics=_metrics(dataset, predictions, masks=True) if masks else None,
    )


def checkpoint_passes(detector: TwoStageDetector, all_boxes: bool) -> int:
    """How often evaluate_checkpoint goes through the set: what a progress bar needs to know beforehand."""
    return 1 + int(all_boxes and detector.config.localization is not None)


def _rescores_in_parts(detector: TwoStageDetector) -> bool:
    """Whether it judges any box, and tells purity and integrity of it."""
    config = detector.config.localization
    return config is not None and detector.can_rescore and config.kind == "purity_integrity"


def artifact_passes(artifact: Artifact, iou_weight: float) -> int:
    """How often evaluate_artifact goes through the set."""
    return len(_weights(iou_weight, artifact.manifest.has_localization)) + int(
        artifact.rescore_path is not None
    )


def _weights(iou_weight: float, has_head: bool) -> list[float]:
    """The class score alone and DIR's geometric mean stand beside whatever was asked for."""
    return sorted({0.0, IOU_WEIGHT, iou_weight}) if has_head else [0.0]


def _metrics(
    dataset: Dataset, predictions: dict[float, list[ImagePredictions]], *, masks: bool = False
) -> dict[float, Metrics]:
    return {
        weight: evaluate_predictions(dataset, images, masks=masks) for weight, images in predictions.items()
    }


def _cost_of_limit(
    detector: TwoStageDetector,
    dataset: Dataset,
    rule: ResizeRule,
    iou_weight: float,
    batch_size: int,
    progress: Progress | None,
) -> dict[str, Any]:
    """AP with the localization head on all boxes instead of the D of highest class score."""
    config = detector.config
    assert config.localization is not None
    unlimited = replace(config.localization, boxes_at_inference=config.rpn.post_nms_test)
    detector.config = replace(config, localization=unlimited)
    try:
        images = predict_checkpoint(
            detector, dataset, rule, batch_size, iou_weight=iou_weight, progress=progress
        )
    finally:
        detector.config = config
    return {
        "limit": config.localization.boxes_at_inference,
        "all": config.rpn.post_nms_test,
        "metrics_with_all": evaluate_predictions(dataset, images).to_json(),
    }
