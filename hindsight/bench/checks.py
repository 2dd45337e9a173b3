"""Limits that a measurement has to keep, for scripts that want an exit status."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from hindsight.bench.samples import percentile, with_failures
from hindsight.bench.session import Measured
from hindsight.errors import OptionError

__all__ = ["Check", "Limits", "Quantity", "check", "parse_quantity"]


@dataclass(frozen=True)
class Quantity:
    """A number as it is, or a share."""

    value: float
    is_share: bool


@dataclass(frozen=True)
class Limits:
    """max_p99: milliseconds, over ALL requests; one without a good answer is slower than any limit.
    min_goodput: a second, or a share of the capacity that a preset measured. max_errors: requests without a
    good answer, or their share.
    """

    max_p99: float | None = None
    min_goodput: Quantity | None = None
    max_errors: Quantity | None = None


@dataclass(frozen=True)
class Check:
    """One limit: what was asked and what came."""

    text: str
    kept: bool


def parse_quantity(option: str, text: str | None) -> Quantity | None:
    """ "12", "12.5" or "80%". Raises OptionError."""
    if text is None:
        return None
    is_share = text.strip().endswith("%")
    try:
        value = float(text.strip().removesuffix("%"))
    except ValueError:
        value = -1.0
    if not 0 <= value < float("inf"):
        raise OptionError(f"{option} takes a number or a percentage, as in 12 or 80%; got {text!r}")
    return Quantity(value / 100 if is_share else value, is_share)


def check(limits: Limits, measured: Sequence[Measured]) -> list[Check]:
    """The limits against what is judged of a measurement, taken together. Nothing measured keeps none."""
    judged = [each for each in measured if each.judged]
    samples = [sample for each in judged for sample in each.counted]
    checks = []
    if limits.max_p99 is not None:
        p99 = percentile(with_failures(samples), 99) if samples else float("inf")
        shown = f"{p99:.1f} ms" if p99 < float("inf") else "a request without a good answer"
        checks.append(Check(f"p99 of all requests <= {limits.max_p99:g} ms: {shown}", p99 <= limits.max_p99))
    if limits.min_goodput is not None:
        checks.append(_goodput(limits.min_goodput, judged, measured))
    if limits.max_errors is not None:
        bad = sum(not sample.is_good for sample in samples)
        share = bad / len(samples) if samples else 1.0
        wanted = limits.max_errors
        kept = share <= wanted.value if wanted.is_share else bad <= wanted.value
        limit = f"{wanted.value:.4g}" if not wanted.is_share else f"{wanted.value:.2%}"
        checks.append(
            Check(f"requests without a good answer <= {limit}: {bad} ({share:.2%})", kept and bool(samples))
        )
    return checks


def _goodput(wanted: Quantity, judged: Sequence[Measured], measured: Sequence[Measured]) -> Check:
    goodput = min((each.summary.goodput for each in judged), default=0.0)
    if not wanted.is_share:
        return Check(f"goodput >= {wanted.value:g} a second: {goodput:.2f} a second", goodput >= wanted.value)
    capacities = [
        each.facts["capacity_per_second"] for each in measured if "capacity_per_second" in each.facts
    ]
    if not capacities:
        return Check(f"goodput >= {wanted.value:.0%} of the capacity, which was not measured", False)
    share = goodput / capacities[0]
    return Check(f"goodput >= {wanted.value:.0%} of the capacity: {share:.1%}", share >= wanted.value)
