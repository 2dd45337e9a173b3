"""How far a runtime may be from the reference, by the precision it computes in."""

from __future__ import annotations

import re
from dataclasses import dataclass, replace

from export.parity import Tolerance
from hindsight.errors import OptionError
from hindsight.runtime import Runtime


@dataclass(frozen=True)
class Limits:
    """outliers: the share of detections that may differ by more than the tolerance."""

    precision: str
    tolerance: Tolerance
    outliers: float


# In the order of their looseness. A rounding difference may fall on a cliff inside the model (a proposal's
# feature level, the last proposal), where no threshold of the output explains it: hence a share of outliers.
# Measured with the shipped models in torch on a CPU (docs/parity.md); tf32 keeps as many bits as fp16, and a
# GPU's fp32 convolutions sum in other orders than a CPU's.
_HALF = Tolerance(pixels=1.0, score=2e-2, iou=2e-2)
LIMITS = {
    "fp32": Limits("fp32", Tolerance(pixels=5e-2, score=5e-4, iou=1e-3), 0.002),
    "tf32": Limits("tf32", _HALF, 0.05),
    "fp16": Limits("fp16", _HALF, 0.05),
    # 4, 9, 9 and 12 % in four sets of photos, without harm to AP
    "bf16": Limits("bf16", Tolerance(pixels=3.0, score=6e-2, iou=5e-2), 0.20),
}


def precision_of(name: str, runtime: Runtime) -> str:
    """What the runtime says it computes in, else what its argument says (`torch:fp16,compile`), else fp32."""
    for said in (getattr(runtime, "precision", None), *re.split("[:,]", name)[1:]):
        if isinstance(said, str) and said in LIMITS:
            return said
    return "fp32"


def looser(first: str, second: str) -> Limits:
    """Two runtimes can agree no better than the rougher of them computes."""
    order = list(LIMITS)
    return LIMITS[max(first, second, key=order.index)]


def with_choices(limits: Limits, tolerance: tuple[float, float] | None, outliers: float | None) -> Limits:
    """`limits` with the user's own (pixels, score) and share in their place."""
    own = limits.tolerance
    if tolerance is not None:
        # As loose in IoU as it is in pixels: both tell how far a box may have moved.
        looseness = max(1.0, tolerance[0] / own.pixels)
        own = Tolerance(tolerance[0], tolerance[1], min(0.1, own.iou * looseness))
    return replace(limits, tolerance=own, outliers=limits.outliers if outliers is None else outliers)


def parse_tolerance(text: str | None) -> tuple[float, float] | None:
    """`PIXELS,SCORE`. Raises OptionError."""
    if text is None:
        return None
    try:
        pixels, score = (float(part) for part in text.split(","))
    except ValueError:
        pixels = score = -1.0
    if not (0 <= pixels < 1e6 and 0 <= score <= 1):
        raise OptionError(f"--tolerance must be PIXELS,SCORE, as in 0.5,0.01; got {text!r}")
    return pixels, score
