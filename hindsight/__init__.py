"""Hindsight: object detection that gives each box a second opinion: purity, integrity, IoU.

>>> import hindsight
>>> detector = hindsight.load("cells")
>>> for each in detector.detect("blood.jpg"):
...     print(each.label, each.score, each.iou)
"""

from typing import TYPE_CHECKING, Any

from hindsight.api import Detector, load
from hindsight.artifact import Artifact, find_artifact, list_artifacts, load_artifact
from hindsight.detection import Detection
from hindsight.detections import Detections, Rescored
from hindsight.errors import HindsightError
from hindsight.options import DetectOptions
from hindsight.preprocess import ImageLimits
from hindsight.version import __version__

if TYPE_CHECKING:
    from hindsight.client import AsyncClient, Client

__all__ = [
    "Artifact",
    "AsyncClient",
    "Client",
    "DetectOptions",
    "Detection",
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


def __getattr__(name: str) -> Any:
    """The clients once they are asked for: asyncio, ssl and h11 are a tenth of what the import would take."""
    if name in ("AsyncClient", "Client"):
        import hindsight.client

        return getattr(hindsight.client, name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
