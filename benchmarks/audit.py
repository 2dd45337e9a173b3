"""Does the audit find wrong boxes? Plants 50 among a data set's annotations and counts how many of the first
50 are planted, for several rankings.

    python -m benchmarks.audit --data BCCD --split test --model cells

What counts as found is a planted box, nothing else: a box that was wrong before lowers the precision, so it
is a lower bound; the result lists those that the audit ranked so, for whoever wants to look. As many are
planted as are looked at, so precision and recall of the first 50 are one number. Rankings:

    audit             as `hindsight audit` ranks annotations
    predicted IoU     the localization head alone, lowest first; like the audit's the mean of four views
    detector IoU      IoU with the best box of the same class of a plain detector (iou_weight 0), lowest first
    class score       of the annotated class, lowest first

Every draw plants other boxes. An image is looked at once, with the planted boxes of all draws among its own:
what the model says of a box does not depend on the others. Writes benchmarks/results/audit-NAME.json.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from statistics import mean
from typing import Annotated, Any

import numpy as np
import typer
from numpy.typing import NDArray

from benchmarks.audit_plants import BANDS, KINDS, LEAST, MOST, Plant, plant
from benchmarks.turns import RESULTS, write
from hindsight import load
from hindsight.api import Detector, read_image
from hindsight.artifact import find_artifact
from hindsight.audit.dataset import AuditImage, AuditSet
from hindsight.audit.examine import Examined, Opinions, examine
from hindsight.audit.judge import judge
from hindsight.audit.run import Asked, open_for_audit
from hindsight.audit.sizes import UsualSize, usual_sizes
from hindsight.overlap import pairwise_iou
from training.machine import origin

FIRST = 50
_PLAIN = {"iou_weight": 0.0, "class_threshold": 0.05, "score_threshold": 0.05}


@dataclass(frozen=True, eq=False)
class Seen:
    """An image as the model saw it: every box that any draw needs, and the plain detector's."""

    examined: Examined  # opinions on the image's own boxes, then on all that are planted in it
    plain_boxes: NDArray[np.float32]
    plain_labels: NDArray[np.int64]
    rows: dict[tuple[int, int], int]  # (draw, annotation's row) -> row of the planted box in the opinions


Sizes = Mapping[int, UsualSize]
Ranking = Callable[[Examined, Seen, AuditImage, NDArray[np.float32], Sizes], NDArray[np.float64]]


def by_audit(
    examined: Examined, seen: Seen, image: AuditImage, boxes: NDArray[np.float32], sizes: Sizes
) -> NDArray[np.float64]:
    return np.array([said.suspicion for said in judge(examined, boxes, image.labels, sizes)])


def by_predicted_iou(
    examined: Examined, seen: Seen, image: AuditImage, boxes: NDArray[np.float32], sizes: Sizes
) -> NDArray[np.float64]:
    return 1.0 - examined.opinions.ious.astype(np.float64)


def by_detector(
    examined: Examined, seen: Seen, image: AuditImage, boxes: NDArray[np.float32], sizes: Sizes
) -> NDArray[np.float64]:
    same = seen.plain_labels[None] == image.labels[:, None]
    return 1.0 - np.where(same, pairwise_iou(boxes, seen.plain_boxes), 0.0).max(axis=1, initial=0.0)


def by_class_score(
    examined: Examined, seen: Seen, image: AuditImage, boxes: NDArray[np.float32], sizes: Sizes
) -> NDArray[np.float64]:
    return 1.0 - examined.opinions.own_scores.astype(np.float64)


RANKINGS: dict[str, Ranking] = {
    "audit": by_audit,
    "predicted IoU": by_predicted_iou,
    "detector IoU": by_detector,
    "class score": by_class_score,
}


def see(detector: Detector, image: AuditImage, planted: Sequence[tuple[int, Plant]]) -> Seen:
    """`planted`: (draw, box) in this image."""
    pixels = read_image(image.path)
    boxes = np.concatenate([image.boxes, *(each.box[None] for _, each in planted)])
    rows = {(draw, each.row): len(image) + place for place, (draw, each) in enumerate(planted)}
    labels = np.concatenate([image.labels, [image.labels[each.row] for _, each in planted]]).astype(np.int64)
    examined = examine(detector, pixels, boxes, labels)
    plain = detector.detect(pixels, **_PLAIN)
    return Seen(examined, plain.boxes, plain.labels, rows)


def draw_of(
    seen: Seen, image: AuditImage, draw: int, planted: Sequence[Plant]
) -> tuple[Examined, NDArray[np.float32]]:
    """What the audit would have of the image in one draw, and the boxes it would see."""
    rows = np.arange(len(image))
    boxes = image.boxes.copy()
    for each in planted:
        rows[each.row] = seen.rows[draw, each.row]
        boxes[each.row] = each.box
    columns = {
        name: None if column is None else column[rows]
        for name, column in vars(seen.examined.opinions).items()
    }
    return replace(seen.examined, opinions=Opinions(**columns)), boxes


def sizes_of(dataset: AuditSet, boxes: Sequence[NDArray[np.float32]]) -> Sizes:
    """As the audit has them, of a draw: with its planted boxes."""
    labels = [image.labels for image in dataset.images]
    return usual_sizes(zip(boxes, labels, strict=True))


def first_places(
    dataset: AuditSet, seen: Sequence[Seen], draw: int, planted: Sequence[Plant], ranking: Ranking, first: int
) -> list[tuple[int, int]]:
    """(image, row) of the `first` most suspicious annotations."""
    by_image: dict[int, list[Plant]] = defaultdict(list)
    for each in planted:
        by_image[each.image].append(each)
    drawn = [draw_of(seen[i], image, draw, by_image[i]) for i, image in enumerate(dataset.images)]
    sizes = sizes_of(dataset, [boxes for _, boxes in drawn])
    ranked: list[tuple[float, int, int]] = []
    for index, (image, (examined, boxes)) in enumerate(zip(dataset.images, drawn, strict=True)):
        values = ranking(examined, seen[index], image, boxes, sizes)
        ranked += [(-float(values[row]), index, int(row)) for row in np.flatnonzero(image.labels >= 0)]
    return [(index, row) for _, index, row in sorted(ranked)[:first]]


def figures(draws: Sequence[Sequence[Plant]], firsts: Sequence[Sequence[tuple[int, int]]]) -> dict[str, Any]:
    """Of one ranking over all draws: the share found, overall, by band of IoU and by kind."""
    found = [
        [(each.image, each.row) in set(first) for each in planted]
        for planted, first in zip(draws, firsts, strict=True)
    ]

    def share(wanted: Callable[[Plant], bool]) -> dict[str, Any]:
        hits = [
            [hit for hit, each in zip(row, planted, strict=True) if wanted(each)]
            for row, planted in zip(found, draws, strict=True)
        ]
        shares = [round(sum(row) / len(row), 4) for row in hits if row]
        return {
            "planted": sum(len(row) for row in hits),
            "mean": round(mean(shares), 4),
            "lowest": min(shares),
            "highest": max(shares),
            "draws": shares,
        }

    return {
        "found": share(lambda each: True),
        "by_iou": {
            f"{low:g}-{high:g}": share(lambda each, a=low, b=high: a <= each.iou < b) for low, high in BANDS
        },
        "by_kind": {kind: share(lambda each, k=kind: each.kind == k) for kind in KINDS},
    }


def main(
    data: Annotated[Path, typer.Option(help="A data set as hindsight audit takes it.")],
    split: Annotated[str, typer.Option(help="Of it; empty for a COCO file, which is one.")] = "test",
    model: Annotated[str, typer.Option(help="Name or folder of the model.")] = "cells",
    draws: Annotated[int, typer.Option(min=1)] = 5,
    count: Annotated[int, typer.Option(min=1, help="Boxes planted a draw.")] = FIRST,
    images: Annotated[int | None, typer.Option(min=1, help="The first so many images alone.")] = None,
    first_seed: Annotated[int, typer.Option(help="Of the first draw.")] = 0,
    out: Annotated[Path | None, typer.Option(help="Result file. (default: benchmarks/results)")] = None,
) -> None:
    """Plant, look, rank, count."""
    artifact = find_artifact(model)
    dataset = open_for_audit(Asked(data, Path("."), split=split or None), artifact)
    dataset = replace(dataset, images=dataset.images[:images])
    planted = [plant(dataset.images, count, first_seed + draw) for draw in range(draws)]
    with (
        load(model, threads=1) as detector,
        typer.progressbar(list(enumerate(dataset.images)), label="looking") as images,
    ):
        seen = [
            see(
                detector,
                image,
                [(draw, p) for draw, own in enumerate(planted) for p in own if p.image == index],
            )
            for index, image in images
        ]
    results = {}
    unplanted: Counter[tuple[int, int]] = Counter()
    for name, ranking in RANKINGS.items():
        firsts = [first_places(dataset, seen, draw, own, ranking, count) for draw, own in enumerate(planted)]
        results[name] = figures(planted, firsts)
        if name == "audit":
            for own, first in zip(planted, firsts, strict=True):
                unplanted.update(set(first) - {(each.image, each.row) for each in own})
        typer.echo(f"{name:14} {results[name]['found']}")
    ious = [each.iou for own in planted for each in own]
    write(
        out or RESULTS / f"audit-{dataset.name}.json",
        {
            "what": (
                f"{count} wrong boxes planted among the annotations, {draws} draws; the share of the first "
                f"{count} of each ranking that is planted (precision and recall at once)"
            ),
            "data": {
                "name": dataset.name,
                "split": split or None,
                "images": len(dataset.images),
                "annotations": dataset.annotation_count,
            },
            "model": artifact.identity,
            "planted": {
                "a_draw": count,
                "kinds": list(KINDS),
                "iou_with_the_original": {
                    "range": [LEAST, MOST],
                    "mean": round(mean(ious), 4),
                    "drawn": "evenly",
                },
            },
            "rankings": results,
            "unplanted_among_the_first": [
                {
                    "image": dataset.images[index].name,
                    "annotation": int(dataset.images[index].ids[row]),
                    "draws": times,
                }
                for (index, row), times in unplanted.most_common()
            ],
            **origin("cpu", "numpy", "onnxruntime"),
        },
    )


if __name__ == "__main__":
    typer.run(main)
