"""The numbers in hindsight/audit/judge.py: a logistic regression on wrong boxes planted among annotations.

    python -m benchmarks.audit_fit BCCD:val:MODEL DEEPPCB/trainval.json::pcb:.15

A source is DATA:SPLIT:MODEL, and :SHARE where the model's training held out that share of the images: then
only those are used. MODEL must not have learned from the images (of BCCD: one that was trained on the train
split; what `cells` says of the validation split, from which it learned, looks too good). Features of an
annotation are the terms of the formula. Never fitted on what benchmarks/audit.py measures.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Annotated

import numpy as np
import typer
from numpy.typing import NDArray

from benchmarks.audit import draw_of, see, sizes_of
from benchmarks.audit_plants import Plant, plant
from hindsight import load
from hindsight.artifact import find_artifact
from hindsight.audit.dataset import AuditSet
from hindsight.audit.judge import OwnBox, judge
from hindsight.audit.run import Asked, open_for_audit
from training.data.holdout import held_out

_RIDGE = 0.3
_STEPS = 40
TERMS = ("constant", "u", "t", "z", "own box", "w", "s", "s v")
Array = NDArray[np.float64]


def features(dataset: AuditSet, model: str, draws: Sequence[Sequence[Plant]]) -> tuple[Array, Array]:
    """[n, 7] the TERMS of every annotation in every draw, and [n] whether it was planted."""
    rows: list[tuple[float, ...]] = []
    planted: list[bool] = []
    own = [[[each for each in draw if each.image == i] for draw in draws] for i in range(len(dataset.images))]
    with load(model, threads=1) as detector:
        seen = [
            see(detector, image, [(draw, each) for draw, some in enumerate(here) for each in some])
            for image, here in zip(dataset.images, own, strict=True)
        ]
    for draw in range(len(draws)):
        drawn = [draw_of(seen[i], image, draw, own[i][draw]) for i, image in enumerate(dataset.images)]
        sizes = sizes_of(dataset, [boxes for _, boxes in drawn])
        for index, (image, (examined, boxes)) in enumerate(zip(dataset.images, drawn, strict=True)):
            wrong = {each.row for each in own[index][draw]}
            for row, said in enumerate(judge(examined, boxes, image.labels, sizes)):
                if said.verdict != "not judged":
                    oddness = sizes[int(image.labels[row])].oddness(boxes[row])
                    steadiness = float(examined.opinions.steadiness[row])
                    rows.append((said.iou, steadiness, oddness, *_own_terms(said.own)))
                    planted.append(row in wrong)
    return np.array(rows), np.array(planted, np.float64)


def _own_terms(own: OwnBox | None) -> tuple[float, float, float, float]:
    return (0.0, 0.0, 0.0, 0.0) if own is None else (1.0, own.iou, own.score, own.score * own.overlap)


def fit(values: Array, targets: Array) -> Array:
    """[k + 1] the constant and the coefficients of a ridge logistic regression, by Newton's method."""
    mean, spread = values.mean(axis=0), values.std(axis=0) + 1e-9  # every annotation may have an own box
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
    sources: Annotated[list[str], typer.Argument(help="DATA:SPLIT:MODEL[:SHARE] each.")],
    images: Annotated[int, typer.Option(min=1, help="Of each source, at most.")] = 120,
    draws: Annotated[int, typer.Option(min=1, help="Of 50 planted boxes, a source.")] = 12,
) -> None:
    """Fit, and print the coefficients of TERMS: for each source alone and for all together."""
    found = []
    typer.echo(", ".join(TERMS))
    for source in sources:
        data, split, model, *shares = source.split(":")
        dataset = open_for_audit(Asked(Path(data), Path("."), split=split or None), find_artifact(model))
        known = [image for image in dataset.images if all(held_out(image.path, float(x)) for x in shares)]
        dataset = replace(dataset, images=tuple(known[:images]))
        planted = [plant(dataset.images, 50, 1000 + draw) for draw in range(draws)]
        found.append(features(dataset, model, planted))
        typer.echo(f"{source}: {fit(*found[-1]).round(2).tolist()}")
    together = [np.concatenate(part) for part in zip(*found, strict=True)]
    typer.echo(f"together: {fit(*together).round(2).tolist()}")


if __name__ == "__main__":
    typer.run(main)
