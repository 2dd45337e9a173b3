"""What the layouts share: renaming key by key, telling the backbone by its shapes, loading, complaining."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from torch import Tensor

from model.checkpoint import CheckpointError
from model.config import STAGE_STDS, DetectorConfig, Stds
from model.detector import TwoStageDetector
from model.resnet import RESNETS

Patterns = Sequence[tuple[str, str]]  # (regular expression for a whole key, ours with \1 ... \9)


@dataclass(frozen=True)
class Conventions:
    """What weights do not tell about the model that they are of.

    `norm_eps`: of the backbone's batch norms; None is the library's 1e-5. torchvision runs its own published
    v1 weights with 0. `caffe` is mmdetection's style of that name: BGR pixels in 0..255 less their mean, and
    bottlenecks that stride in the first 1x1. `boxes_only` leaves a mask head out. `delta_means` and
    `delta_stds` (of each stage) are mmdetection's `target_means` and `target_stds`.
    """

    norm_eps: float | None = None
    caffe: bool = False
    boxes_only: bool = False
    delta_means: Stds = (0.0, 0.0, 0.0, 0.0)
    delta_stds: tuple[Stds, ...] = STAGE_STDS


@dataclass(frozen=True)
class Conversion:
    """The detector in evaluation mode, and the name of the layout it came in."""

    detector: TwoStageDetector
    layout: str


def without_prefix(state: Mapping[str, Tensor]) -> Mapping[str, Tensor]:
    """`state` without the "module." that distributed training puts before every key."""
    prefix = "module."
    if state and all(key.startswith(prefix) for key in state):
        return {key.removeprefix(prefix): value for key, value in state.items()}
    return state


def count(state: Mapping[str, Tensor], template: str) -> int:
    """How many of template % 0, template % 1, ... there are in a row."""
    index = 0
    while template % index in state:
        index += 1
    return index


def resnet_name(state: Mapping[str, Tensor], prefix: str) -> str:
    """The backbone that `prefix`layer1.0... is of. Raises CheckpointError for one that we do not have."""
    blocks = tuple(count(state, f"{prefix}layer{stage}.%d.conv3.weight") for stage in range(1, 5))
    first = state.get(f"{prefix}layer1.0.conv2.weight")
    groups, width = (0, 0) if first is None else (first.shape[0] // first.shape[1], first.shape[1])
    for name, shape in RESNETS.items():
        if (blocks, groups, width) == (shape.blocks, shape.groups, shape.base_width):
            return name
    raise CheckpointError(
        f"unknown backbone: {blocks} bottlenecks in its stages, {groups} groups of {width} channels in the "
        f"first; known: {', '.join(RESNETS)}"
    )


def shape_of(state: Mapping[str, Tensor], key: str) -> tuple[int, ...]:
    """Raises CheckpointError where the weight that tells the model's shape is missing."""
    if key not in state:
        raise CheckpointError(f"weight {key!r} is missing, which tells the model's shape")
    return tuple(state[key].shape)


def per_cell_anchors(rows: int, expected: int) -> None:
    """Raises CheckpointError for another number of anchors than one size and `expected` ratios a position."""
    if rows != expected:
        raise CheckpointError(f"the RPN has {rows} anchors a position: only {expected} can be brought in")


def rename(state: Mapping[str, Tensor], patterns: Patterns) -> tuple[dict[str, Tensor], list[str]]:
    """(weights under our names, keys that no pattern fits)."""
    compiled = [(re.compile(pattern), ours) for pattern, ours in patterns]
    converted: dict[str, Tensor] = {}
    strangers = []
    for key, value in state.items():
        for pattern, ours in compiled:
            found = pattern.fullmatch(key)
            if found:
                converted[found.expand(ours)] = value
                break
        else:
            strangers.append(key)
    return converted, strangers


def assemble(
    config: DetectorConfig, converted: Mapping[str, Tensor], strangers: Sequence[str], layout: str
) -> Conversion:
    """The detector with these weights. Raises CheckpointError with how many do not fit, and the first."""
    detector = TwoStageDetector(config)
    own = detector.state_dict()
    missing = [key for key in own if key not in converted and not key.endswith("num_batches_tracked")]
    unexpected = [*strangers, *(key for key in converted if key not in own)]
    if missing or unexpected:
        raise CheckpointError(
            f"not a whole {layout} detector: {_some(unexpected, 'unexpected')}, {_some(missing, 'missing')}"
        )
    wrong = [key for key, value in converted.items() if value.shape != own[key].shape]
    if wrong:
        key = wrong[0]
        raise CheckpointError(
            f"{len(wrong)} weights of this {layout} detector have another shape than expected, the first: "
            f"{key} is {tuple(converted[key].shape)}, expected {tuple(own[key].shape)}"
        )
    detector.load_state_dict(converted, strict=False)
    return Conversion(detector.eval(), layout)


def _some(keys: Sequence[str], adjective: str) -> str:
    first = f" (first: {', '.join(keys[:3])})" if keys else ""
    return f"{len(keys)} {adjective} keys{first}"


def without_masks(
    state: Mapping[str, Tensor], prefixes: Sequence[str], boxes_only: bool
) -> Mapping[str, Tensor]:
    """`state` less a mask head's weights. Raises CheckpointError unless that was asked for."""
    masks = [key for key in state if key.startswith(tuple(prefixes))]
    if masks and not boxes_only:
        raise CheckpointError(
            f"this detector has a mask head ({len(masks)} weights, first: {masks[0]}), which can't be "
            "brought in: --boxes-only leaves it out"
        )
    return {key: value for key, value in state.items() if not key.startswith(tuple(prefixes))}
