"""Hindsight: object detection that gives each box a second opinion: purity, integrity, IoU.

>>> import hindsight
>>> detector = hindsight.load("cells")
>>> for row in detector.detect("blood.jpg").to_records():
...     print(row["label"], row["score"], row["iou"])
"""

from hindsight.api import Detector, load
from hindsight.artifact import Artifact, find_artifact, list_artifacts, load_artifact
from hindsight.client import AsyncClient, Client
from hindsight.detections import Detections, Rescored
from hindsight.errors import HindsightError
from hindsight.options import DetectOptions
from hindsight.preprocess import ImageLimits
from hindsight.version import __version__

__all__ = [
    "Artifact",
    "AsyncClient",
    "Client",
    "DetectOptions",
    "Detections",
    "Detector",
    "HindsightError",
    "ImageLimits",
    "Rescored",
    "__version__",
    "find_artifact",
    "list_artifacts",
    "load",
    "load_artifact",
]
