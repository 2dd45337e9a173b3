"""The figures of one row: its inference on its training run's checkpoint."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from hindsight.artifact import ResizeRule
from model.checkpoint import CheckpointError, load_checkpoint
from model.complexity import trained_parameters
from model.detector import TwoStageDetector
from training.data.dataset import Dataset
from training.evaluation.average_precision import Metrics, evaluate_predictions
from training.evaluation.localization import pearson
from training.evaluation.predict import Progress, run_checkpoint
from training.published.recipes import with_inference
from training.published.rows import Inference
from training.trained_for import classes_and_resize

_AP = {
    "AP": "ap",
    "AP50": "ap50",
    "AP60": "ap60",
    "AP70": "ap70",
    "AP75": "ap75",
    "AP80": "ap80",
    "AP90": "ap90",
    "APs": "ap_small",
    "APm": "ap_medium",
    "APl": "ap_large",
}


def measure(
    checkpoint: Path,
    inference: Inference,
    test: Dataset,
    *,
    correlation: bool = False,
    batch_size: int = 4,
    device: str = "cpu",
    progress: Progress | None = None,
) -> dict[str, float | None]:
    """AP at every threshold (percent), params (millions) and, if asked for, the Pearson correlation.

    The correlation is of the confidence with the true IoU: of the predicted IoU, or of the class score where
    there is no localization head. Raises CheckpointError, RecipeError.
    """
    detector, rule = _detector(checkpoint, inference)
    has_head = detector.localization is not None
    weight = inference.iou_weight if has_head else 0.0
    run = run_checkpoint(
        detector.to(device),
        test,
        rule,
        batch_size,
        (weight,),
        with_rows=correlation,
        partial_rows=True,
        class_threshold=inference.class_threshold,
        progress=progress,
    )
    figures = _percent(evaluate_predictions(test, run.predictions[weight]))
    figures["params"] = trained_parameters(detector) / 1e6
    if correlation:
        rows = run.rows
        confidence = None if rows is None else rows.iou if has_head else rows.class_score
        figures["pearson"] = (
            None if rows is None or confidence is None else pearson(confidence, rows.true_iou)
        )
    return figures


def _detector(checkpoint: Path, inference: Inference) -> tuple[TwoStageDetector, ResizeRule]:
    trained, extra = load_checkpoint(checkpoint)
    detector = TwoStageDetector(with_inference(trained.config, inference))
    try:
        detector.load_state_dict(trained.state_dict())
    except RuntimeError as error:
        raise CheckpointError(
            f"{checkpoint} can't be run with {dict(inference.detector)}: {error}"
        ) from error
    return detector.eval(), classes_and_resize(checkpoint, extra)[1]


def _percent(metrics: Metrics) -> dict[str, float | None]:
    values = {name: getattr(metrics, field) for name, field in _AP.items()}
    return {
        name: None if value is None else float(np.round(100 * value, 4)) for name, value in values.items()
    }
