"""From samples to verdicts, and their files: JSON with everything, CSV with a line a comparison."""

from __future__ import annotations

import csv
import io
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from hindsight.overlap import Array
from training.experiments.bootstrap import CONFIDENCE, Estimate, pooled, verdict
from training.experiments.claims import Claim
from training.experiments.files import write_json, write_text

HalfWidths = Mapping[str, Mapping[str, float | None]]  # comparison -> metric
SeedSamples = Mapping[str, Mapping[str, Array]]  # metric -> system -> [S, 1 + R]
_COLUMNS = ("comparison", "metric", "better", "worse", "difference", "low", "high", "half_width")
_DIGITS = 6


@dataclass(frozen=True)
class Finding:
    """One comparison in one metric."""

    comparison: str
    metric: str
    better: str
    worse: str
    difference: Estimate
    expected: float | None
    pilot_half_width: float | None
    verdict: str


@dataclass(frozen=True)
class ClaimResult:
    """A claim on one data set; `systems`: metric -> system -> its value."""

    claim: Claim
    data: str
    about: Mapping[str, Any]  # images, seeds, recipes, versions
    systems: dict[str, dict[str, Estimate]]
    findings: tuple[Finding, ...]


def decide(
    claim: Claim, data: str, samples: SeedSamples, pilot: HalfWidths, about: Mapping[str, Any]
) -> ClaimResult:
    """Every comparison of the claim with its interval and verdict."""
    findings = []
    for comparison in claim.comparisons:
        for metric, expected in comparison.expected.items():
            own = samples[metric]
            difference = pooled(own[comparison.better] - own[comparison.worse])
            width = pilot.get(comparison.id, {}).get(metric)
            findings.append(
                Finding(
                    comparison.id,
                    metric,
                    comparison.better,
                    comparison.worse,
                    difference,
                    expected,
                    width,
                    verdict(difference, expected, width),
                )
            )
    systems = {
        metric: {name: pooled(values) for name, values in own.items()} for metric, own in samples.items()
    }
    return ClaimResult(claim, data, about, systems, tuple(findings))


def half_widths(result: ClaimResult) -> dict[str, dict[str, float | None]]:
    """What a pilot tells, and nothing else of it.

    None where its systems did not differ on any resample: a host that finds nothing says nothing of widths.
    """
    found: dict[str, dict[str, float | None]] = {}
    for finding in result.findings:
        found.setdefault(finding.comparison, {})[finding.metric] = (
            _round(finding.difference.half_width) or None
        )
    return found


def write_result(folder: Path, result: ClaimResult) -> list[Path]:
    """folder/CLAIM/DATA.json and .csv"""
    base = folder / result.claim.name / result.data
    paths = [base.with_name(f"{result.data}.json"), base.with_name(f"{result.data}.csv")]
    write_json(paths[0], to_json(result))
    write_text(paths[1], to_csv(result))
    return paths


def to_json(result: ClaimResult) -> dict[str, Any]:
    """Plain JSON values."""
    return {
        "claim": result.claim.number,
        "name": result.claim.name,
        "title": result.claim.title,
        "data": result.data,
        "confidence": CONFIDENCE,
        **result.about,
        "comparisons": [
            {
                "comparison": finding.comparison,
                "metric": finding.metric,
                "better": finding.better,
                "worse": finding.worse,
                **_estimate(finding.difference, "difference"),
                "half_width": _round(finding.difference.half_width),
                "expected": finding.expected,
                "pilot_half_width": _round(finding.pilot_half_width),
                "verdict": finding.verdict,
            }
            for finding in result.findings
        ],
        "systems": {
            metric: {name: _estimate(value, "value") for name, value in own.items()}
            for metric, own in result.systems.items()
        },
    }


def to_csv(result: ClaimResult) -> str:
    """A line a comparison, with the difference of each seed."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    seeds = result.about["seeds"]
    writer.writerow(
        (*_COLUMNS, "expected", "pilot_half_width", "verdict", *(f"difference_seed{seed}" for seed in seeds))
    )
    for row in to_json(result)["comparisons"]:
        shown = [row[name] for name in (*_COLUMNS, "expected", "pilot_half_width", "verdict")]
        writer.writerow("" if value is None else value for value in (*shown, *row["per_seed"]))
    return text.getvalue()


def _estimate(value: Estimate, name: str) -> dict[str, Any]:
    return {
        name: _round(value.value),
        "low": _round(value.low),
        "high": _round(value.high),
        "per_seed": [_round(one) for one in value.per_seed],
    }


def _round(value: float | None) -> float | None:
    return None if value is None else round(value, _DIGITS)
