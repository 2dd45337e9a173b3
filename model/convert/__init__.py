"""Other libraries' detectors as ours. Weights are rearranged, not recomputed: the detections are the same."""

from __future__ import annotations

from collections.abc import Mapping

from torch import Tensor

from model.checkpoint import CheckpointError
from model.convert import mmdetection, torchvision
from model.convert.layout import Conventions, Conversion, without_prefix
from model.convert.torchvision import from_torchvision, load_torchvision

__all__ = [
    "LAYOUTS",
    "Conventions",
    "Conversion",
    "convert",
    "from_torchvision",
    "load_torchvision",
]

# what is known: who tells it by its keys, and who converts it
LAYOUTS = {
    "torchvision v1/v2 (Faster and Mask R-CNN with ResNet-50 and FPN)": (
        torchvision.recognises,
        torchvision.convert,
    ),
    "mmdetection 2/3 (Faster, Mask and Cascade R-CNN with ResNet and FPN)": (
        mmdetection.recognises,
        mmdetection.convert,
    ),
}


def convert(state: Mapping[str, Tensor], conventions: Conventions | None = None) -> Conversion:
    """A detector of another library, told by its keys. Raises CheckpointError naming what is wrong."""
    state = without_prefix(state)
    for recognises, convert_layout in LAYOUTS.values():
        if recognises(state):
            try:
                return convert_layout(state, conventions or Conventions())
            except ValueError as error:  # a detector that our config can't describe
                raise CheckpointError(str(error)) from error
    first = ", ".join(repr(key) for key in list(state)[:3]) or "none"
    raise CheckpointError(
        f"{len(state)} weights of an unknown layout (first: {first}); tried: {'; '.join(LAYOUTS)}"
    )
