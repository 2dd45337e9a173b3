"""The numbers in hindsight/audit/judge.py: a logistic regression on wrong boxes planted among annotations.

    python -m benchmarks.audit_fit BCCD:val:cells DEEPPCB/trainval.json::pcb --images 120

A source is DATA:SPLIT:MODEL. Features of an annotation are those of the formula: the predicted IoU u, the
score s of the model's own box for it, and s times their IoU v. Never fitted on what benchmarks/audit.py
measures.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Annotated

import numpy as np
import typer
from numpy.typing import NDArray

from benchmarks.audit import draw_of, see
from benchmarks.audit_plants import Plant, plant
from hindsight import load
from hindsight.artifact import find_artifact
from hindsight.audit.dataset import AuditSet
from hindsight.audit.judge import judge
from hindsight.audit.run import Asked, open_for_audit

_RIDGE = 0.3
_STEPS = 40
Array = NDArray[np.float64]


def features(dataset: AuditSet, model: str, draws: Sequence[Sequence[Plant]]) -> tuple[Array, Array]:
    """[n, 3] u, s, s v of every annotation in every draw, and [n] whether it was planted."""
    rows: list[tuple[float, float, float]] = []
    planted: list[bool] = []
    with load(model, threads=1) as detector:
        for index, image in enumerate(dataset.images):
            own = [[each for each in draw if each.image == index] for draw in draws]
            seen = see(detector, image, [(draw, each) for draw, some in enumerate(own) for each in some])
            for draw, some in enumerate(own):
                examined, boxes = draw_of(seen, image, draw, some)
                wrong = {each.row for each in some}
                for row, said in enumerate(judge(examined, boxes, image.labels)):
                    if said.verdict != "not judged":
                        score, overlap = (said.own.score, said.own.overlap) if said.own else (0.0, 0.0)
                        rows.append((said.iou, score, score * overlap))
                        planted.append(row in wrong)
    return np.array(rows), np.array(planted, np.float64)


def fit(values: Array, targets: Array) -> Array:
    """[k + 1] the constant and the coefficients of a ridge logistic regression, by Newton's method."""
    mean, spread = values.mean(axis=0), values.std(axis=0)
    scaled = np.concatenate([(values - mean) / spread, np.ones((len(values), 1))], axis=1)
    ridge = _RIDGE * np.eye(scaled.shape[1])
    ridge[-1, -1] = 0
    weights = np.zeros(scaled.shape[1])
    for _ in range(_STEPS):
        chance = 1 / (1 + np.exp(-scaled @ weights))
        slope = scaled.T @ (chance - targets) + ridge @ weights
        curvature = (scaled.T * (chance * (1 - chance))) @ scaled + ridge
        weights -= np.linalg.solve(curvature, slope)
    coefficients = weights[:-1] / spread
    return np.concatenate([[weights[-1] - coefficients @ mean], coefficients])


def main(
    sources: Annotated[list[str], typer.Argument(help="DATA:SPLIT:MODEL each.")],
    images: Annotated[int, typer.Option(min=1, help="Of each source, at most.")] = 120,
    draws: Annotated[int, typer.Option(min=1, help="Of 50 planted boxes, a source.")] = 12,
) -> None:
    """Fit, and print constant, u, s, s v: for each source alone and for all together."""
    found = []
    for source in sources:
        data, split, model = source.split(":")
        dataset = open_for_audit(Asked(Path(data), Path("."), split=split or None), find_artifact(model))
        dataset = replace(dataset, images=dataset.images[:images])
        planted = [plant(dataset.images, 50, 1000 + draw) for draw in range(draws)]
        found.append(features(dataset, model, planted))
        typer.echo(f"{source}: {fit(*found[-1]).round(2).tolist()}")
    together = [np.concatenate(part) for part in zip(*found, strict=True)]
    typer.echo(f"together: {fit(*together).round(2).tolist()}")


if __name__ == "__main__":
    typer.run(main)
