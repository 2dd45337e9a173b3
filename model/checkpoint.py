"""Checkpoints: safetensors with the detector's config as JSON in the header. No pickle anywhere."""

from __future__ import annotations

import json
import os
import types
import typing
from collections.abc import Mapping
from dataclasses import asdict, fields, is_dataclass
from pathlib import Path
from typing import Any, TypeVar

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor

from model.config import DetectorConfig, nearest
from model.detector import TwoStageDetector

FORMAT = "hindsight-checkpoint-1"
T = TypeVar("T")


class CheckpointError(Exception):
    """The file is no checkpoint this version can read; the message says what came and what to do."""


def save_tensors(path: Path, tensors: Mapping[str, Tensor], metadata: Mapping[str, str]) -> None:
    """Write a safetensors file so that a crash leaves either the old file or the new one, never half of
    one."""
    data = save({k: v.detach().cpu().contiguous() for k, v in tensors.items()}, dict(metadata))
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(path.name + ".partial")
    with temporary.open("wb") as file:
        file.write(data)
        file.flush()
        os.fsync(file.fileno())
    temporary.replace(path)


def read_tensors(path: Path) -> tuple[dict[str, Tensor], dict[str, str]]:
    """Tensors and metadata of a safetensors file. Raises CheckpointError if it is missing or not one."""
    if not path.is_file():
        raise CheckpointError(f"no checkpoint at {path}")
    try:
        with safe_open(path, framework="pt") as file:
            return {key: file.get_tensor(key) for key in file.keys()}, dict(file.metadata() or {})  # noqa: SIM118
    except (SafetensorError, OSError) as error:
        raise CheckpointError(f"{path} is not a readable safetensors file: {error}") from error


def save_checkpoint(
    path: Path,
    detector: TwoStageDetector,
    extra: Mapping[str, Any],
    weights: Mapping[str, Tensor] | None = None,
) -> None:
    """Write the detector, its config and `extra` (JSON: class names, resize rule, ...). `weights` instead of
    its own."""
    metadata = {
        "format": FORMAT,
        "config": json.dumps(asdict(detector.config)),
        "extra": json.dumps(dict(extra)),
    }
    save_tensors(path, weights if weights is not None else detector.state_dict(), metadata)


def load_checkpoint(path: Path) -> tuple[TwoStageDetector, dict[str, Any]]:
    """(detector in evaluation mode, extra). Raises CheckpointError."""
    tensors, metadata = read_tensors(path)
    if metadata.get("format") != FORMAT:
        raise CheckpointError(
            f"{path} is not a Hindsight checkpoint: "
            f"its format is {metadata.get('format', 'missing')}, expected {FORMAT}"
        )
    try:
        detector = TwoStageDetector(config_from_dict(DetectorConfig, json.loads(metadata["config"])))
        detector.load_state_dict(tensors)
        extra = json.loads(metadata["extra"])
    except (KeyError, TypeError, ValueError, RuntimeError) as error:
        raise CheckpointError(f"{path} does not fit this version of Hindsight: {error}") from error
    return detector.eval(), extra


def config_from_dict(kind: type[T], values: Mapping[str, Any]) -> T:
    """The dataclass that `asdict` and JSON turned into nested dicts and lists.

    Raises ValueError for a key it lacks, naming the nearest, and for a table where a plain value belongs.
    """
    hints = typing.get_type_hints(kind)
    known = [f.name for f in fields(kind)]  # type: ignore[arg-type]
    for name in values:
        if name not in known:
            raise ValueError(f"{kind.__name__} has no field {name!r}: {nearest(name, known)}")
    return kind(**{name: _restore(name, hints[name], value) for name, value in values.items()})


def _restore(name: str, hint: Any, value: Any) -> Any:
    if isinstance(value, list):
        return tuple(_restore(name, None, v) for v in value)
    if isinstance(value, Mapping):
        options = typing.get_args(hint) if isinstance(hint, types.UnionType) else (hint,)
        for option in options:
            if is_dataclass(option):
                return config_from_dict(option, value)  # type: ignore[arg-type]
        raise ValueError(f"{name} must be a plain value, got a table")
    return value


def load_backbone(detector: TwoStageDetector, path: Path) -> None:
    """Bring ImageNet weights (torchvision's or timm's keys, any float type) into the backbone.

    Only a classifier that detection has no use for may be left over. What deformable convolutions need beside
    ImageNet's weights may be missing as a whole, and stays as it was. Raises CheckpointError naming what does
    not fit.
    """
    tensors, _ = read_tensors(path)
    module = getattr(detector.backbone, "net", detector.backbone)
    wanted = module.state_dict()
    state = {k: v.to(wanted[k].dtype) if k in wanted else v for k, v in tensors.items()}
    try:
        missing, unexpected = module.load_state_dict(with_own_offsets(state, wanted), strict=False)
    except RuntimeError as error:
        raise CheckpointError(f"{path} does not fit {detector.config.backbone.name}: {error}") from error
    missing = [k for k in missing if not k.endswith("num_batches_tracked")]
    strangers = [
        k for k in unexpected if not k.startswith(("fc.", "classifier.", "conv_head.", "bn2.", "head."))
    ]
    if missing or strangers:
        first = (missing or strangers)[0]
        verb = "lacks" if missing else "has the unknown"
        raise CheckpointError(f"{path} {verb} weight {first!r} for backbone {detector.config.backbone.name}")


def with_own_offsets(state: Mapping[str, Tensor], own: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """`state`, completed with `own` offset convolutions where it has none at all: a classifier has none."""
    if any(".conv_offset." in key for key in state):
        return dict(state)
    return {key: value for key, value in own.items() if ".conv_offset." in key} | dict(state)


def round_to_half(detector: TwoStageDetector, min_elements: int = 0) -> TwoStageDetector:
    """Round float32 parameters of more than `min_elements` elements to what float16 can hold, in place."""
    with torch.no_grad():
        for parameter in detector.parameters():
            if parameter.numel() > min_elements:
                parameter.copy_(parameter.half().float())
    return detector
