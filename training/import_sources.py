"""Where `hindsight import` reads from: torchvision's published detectors by name, or a file of weights."""

from __future__ import annotations

import pickle
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import Tensor

from hindsight.errors import HindsightError
from model.checkpoint import FORMAT, CheckpointError, read_tensors

PREFIX = "torchvision:"
# builder -> (its weights, epsilon of its batch norms: torchvision runs its first weights with 0)
TORCHVISION = {
    "fasterrcnn_resnet50_fpn": ("FasterRCNN_ResNet50_FPN_Weights", 0.0),
    "fasterrcnn_resnet50_fpn_v2": ("FasterRCNN_ResNet50_FPN_V2_Weights", None),
    "maskrcnn_resnet50_fpn": ("MaskRCNN_ResNet50_FPN_Weights", 0.0),
    "maskrcnn_resnet50_fpn_v2": ("MaskRCNN_ResNet50_FPN_V2_Weights", None),
}
KNOWN = ", ".join(PREFIX + name for name in TORCHVISION)


class SourceError(HindsightError):
    """The source can't be read; the message says what it should be."""


@dataclass(frozen=True)
class Source:
    """A state dict, and what came along: class names (without background) and the batch norms' epsilon."""

    name: str
    state: Mapping[str, Tensor]
    class_names: tuple[str, ...] | None = None
    norm_eps: float | None = None


def read_source(source: str) -> Source:
    """`torchvision:NAME` or a file. Raises SourceError, CheckpointError."""
    if source.startswith(PREFIX):
        return _published(source.removeprefix(PREFIX))
    path = Path(source)
    if not path.is_file():
        raise SourceError(f"unknown source {source!r}: expected a file of weights, or one of {KNOWN}")
    return _safetensors(path) if path.suffix == ".safetensors" else _pickled(path)


def _published(name: str) -> Source:
    if name not in TORCHVISION:
        raise SourceError(f"unknown source {PREFIX + name!r}: known are {KNOWN}, or a file of weights")
    from torchvision.models import detection

    weights_name, norm_eps = TORCHVISION[name]
    weights = getattr(detection, weights_name).DEFAULT
    try:
        state = weights.get_state_dict(progress=True, check_hash=True, weights_only=True)
    except Exception as error:  # torchvision lets every network error through as its own
        raise SourceError(
            f"could not fetch the weights of {name} ({type(error).__name__}): give a file of them instead"
        ) from error
    return Source(PREFIX + name, state, categories(weights.meta["categories"]), norm_eps)


def categories(published: Sequence[str]) -> tuple[str, ...]:
    """torchvision's list without background; its several "N/A", numbers without a class, told apart."""
    return tuple(
        f"unused {index}" if name == "N/A" else name for index, name in enumerate(published) if index > 0
    )


def _safetensors(path: Path) -> Source:
    tensors, metadata = read_tensors(path)
    if metadata.get("format") == FORMAT:
        raise CheckpointError(f"{path} is a Hindsight checkpoint already")
    return Source(path.name, tensors)


def _pickled(path: Path) -> Source:
    """A .pth file, of tensors and plain values only: nothing else is ever unpickled."""
    import torch

    try:
        loaded = torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        raise CheckpointError(
            f"{path} holds more than tensors and plain values, or is no file of weights; Hindsight never "
            "unpickles anything else: where you trust the file, save its state_dict as .safetensors"
        ) from error
    except Exception as error:  # bytes that are no pickle at all fail in as many ways as there are bytes
        raise CheckpointError(
            f"{path} is not a readable file of weights ({type(error).__name__}: {error})"
        ) from error
    return Source(path.name, _state_of(path, loaded), _class_names(loaded))


def _state_of(path: Path, loaded: object) -> dict[str, Tensor]:
    """The weights themselves: mmdetection keeps them in "state_dict", torchvision's training in "model"."""
    if isinstance(loaded, dict):
        for key in ("state_dict", "model"):
            if isinstance(loaded.get(key), dict):
                loaded = loaded[key]
                break
    if not isinstance(loaded, dict):
        raise CheckpointError(f"{path} holds no weights by name, but a {type(loaded).__name__}")
    state = {key: value for key, value in loaded.items() if isinstance(value, Tensor)}
    if not state:
        raise CheckpointError(f"{path} holds no weights by name")
    return state


def _class_names(loaded: Any) -> tuple[str, ...] | None:
    """What mmdetection notes: meta.CLASSES (2) or meta.dataset_meta.classes (3)."""
    meta = loaded.get("meta") if isinstance(loaded, dict) else None
    if not isinstance(meta, dict):
        return None
    inner = meta.get("dataset_meta")
    for place in (meta, inner if isinstance(inner, dict) else {}):
        for key in ("CLASSES", "classes"):
            names = place.get(key)
            if isinstance(names, list | tuple) and names and all(isinstance(name, str) for name in names):
                return tuple(names)
    return None
