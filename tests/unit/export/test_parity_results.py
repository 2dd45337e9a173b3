"""benchmarks/results/parity-*-cpu.json, which docs/parity.md cites: these models, limits and this shape."""

from __future__ import annotations

import json
from dataclasses import asdict, fields
from pathlib import Path
from typing import Any

import pytest

from export.parity_limits import LIMITS
from export.parity_result import ApDifference, CandidateResult, ParityResult, RunResult
from hindsight.artifact import find_artifact

ROOT = Path(__file__).parents[3]
MODELS = ("cells", "pcb")


def measured(model: str) -> dict[str, Any]:
    document = json.loads((ROOT / "benchmarks" / "results" / f"parity-{model}-cpu.json").read_text())
    assert isinstance(document, dict)
    return document


def names(kind: Any) -> set[str]:
    return {field.name for field in fields(kind)}


@pytest.mark.parametrize("model", MODELS)
def test_they_have_the_shape_that_the_command_writes(model: str) -> None:
    document = measured(model)
    assert set(document) == names(ParityResult) | {"passed"}
    for candidate in document["candidates"]:
        assert set(candidate) == names(CandidateResult) | {"passed", "problems"}
        assert set(candidate["ap"]) == names(ApDifference) | {"difference"}
        assert all(set(run) == names(RunResult) for run in [*candidate["runs"], candidate["rescored"]])


@pytest.mark.parametrize("model", MODELS)
def test_they_are_of_the_shipped_models_and_within_todays_limits(model: str) -> None:
    document = measured(model)
    assert document["model"]["sha256"] == find_artifact(model).manifest.files["model.onnx"]
    assert document["passed"] and len(document["candidates"]) == 3
    for candidate in document["candidates"]:
        limits = LIMITS[candidate["precision"]]
        assert candidate["tolerance"] == asdict(limits.tolerance)
        assert candidate["outliers_allowed"] == limits.outliers
        matched, outliers = (sum(run[name] for run in candidate["runs"]) for name in ("matched", "outliers"))
        # Other photos differ more: a limit that these only just keep would refuse what is right.
        assert outliers <= 0.7 * limits.outliers * matched, candidate["backend"]


@pytest.mark.parametrize("model", MODELS)
def test_the_docs_say_what_was_measured(model: str) -> None:
    document, table = measured(model), (ROOT / "docs" / "parity.md").read_text()
    for candidate in document["candidates"]:
        matched, outliers = (sum(run[name] for run in candidate["runs"]) for name in ("matched", "outliers"))
        precision = candidate["precision"]
        first = f"`{model}`, {document['photos']['count']} photos, " if precision == "fp32" else ""
        (row,) = (
            line for line in table.splitlines() if line.startswith(f"| {first}{precision} | {matched} |")
        )
        assert f"| {outliers} |" in row and f"{candidate['ap']['candidate']:.4f}".removeprefix("0") in row
