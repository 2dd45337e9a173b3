"""Evaluation: average precision, and how well the scores tell how well the boxes lie."""

from training.evaluation.average_precision import ClassMetrics, Metrics, evaluate_predictions
from training.evaluation.localization import LocalizationRows, kept_rows, localization_report
from training.evaluation.predict import predict_artifact, predict_checkpoint, run_checkpoint, validate
from training.evaluation.predictions import ImagePredictions
from training.evaluation.report import write_report
from training.evaluation.run import Evaluation, evaluate_artifact, evaluate_checkpoint

__all__ = [
    "ClassMetrics",
    "Evaluation",
    "ImagePredictions",
    "LocalizationRows",
    "Metrics",
    "evaluate_artifact",
    "evaluate_checkpoint",
    "evaluate_predictions",
    "kept_rows",
    "localization_report",
    "predict_artifact",
    "predict_checkpoint",
    "run_checkpoint",
    "validate",
    "write_report",
]
