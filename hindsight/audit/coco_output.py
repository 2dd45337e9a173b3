"""audit.json: the data set as COCO JSON, with what was found added to each annotation.

What the data set says itself stays as it is, ids above all. Added to an annotation: `verdict`, `suspicion`,
`rank` (1 is the most suspicious), `iou`, `purity`, `integrity`, `class_score`, and `suggestion` (the model's
own box for the same object) where there is one. The key `audit` at the end holds the rest: the model, counts,
objects without an annotation, what could not be read.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from hindsight.audit.dataset import AuditSet
from hindsight.audit.findings import Findings
from hindsight.audit.judge import Judged, OwnBox
from hindsight.errors import OptionError
from hindsight.whole_files import whole_file

__all__ = ["BAD_ENTRY", "category_ids", "document", "next_id", "write_json"]

BAD_ENTRY = "bad entry"  # the verdict on what cannot be read, or lies in an image that cannot
_ADDED = frozenset(
    {
        "verdict",
        "suspicion",
        "rank",
        "iou",
        "purity",
        "integrity",
        "class_score",
        "suggestion",
        "duplicate_of",
    }
)
_DECIMALS = 4


def document(dataset: AuditSet, findings: Findings, about: Mapping[str, Any], source: Any) -> dict[str, Any]:
    """The whole of it. source: the parsed COCO file the data set was read from, None for other formats."""
    ranks = {(f.image, f.row): rank for rank, f in enumerate(findings.ranked, start=1) if f.row is not None}
    numbers = category_ids(dataset, source)
    said: dict[int, dict[str, Any]] = {}
    for index, (image, judged) in enumerate(zip(dataset.images, findings.judged, strict=True)):
        for row, each in enumerate(judged or ()):
            found = _found(each, dataset, numbers)
            if (index, row) in ranks:
                found["rank"] = ranks[index, row]
            if each.twin is not None:
                found["duplicate_of"] = int(image.ids[each.twin])
            said[int(image.ids[row])] = found
    whole = _made(dataset, numbers) if source is None else {k: v for k, v in source.items() if k != "audit"}
    entries = whole["annotations"]
    if source is not None and "audit" in source:  # an audit.json: what that audit said is out of date
        entries = [_without_verdict(entry) for entry in entries]
    whole["annotations"] = _with_verdicts(entries, said)
    whole["audit"] = {**about, "missing": _missing(dataset, findings, numbers)}
    return whole


def category_ids(dataset: AuditSet, source: Any) -> tuple[int, ...]:
    """Of each class of the data set: those of its COCO file, else 1, 2, ..."""
    if source is None:
        return tuple(range(1, len(dataset.class_names) + 1))
    by_name: dict[str, int] = {}
    for entry in source["categories"]:
        by_name.setdefault(entry["name"], entry["id"])
    return tuple(by_name[name] for name in dataset.class_names)


def next_id(dataset: AuditSet, source: Any) -> int:
    """The first id that no annotation has: not one that cannot be read either. source: as for `document`."""
    ids = [number for image in dataset.images for number in image.ids.tolist()]
    for entry in [] if source is None else source["annotations"]:
        key = entry.get("id") if isinstance(entry, dict) else None
        if isinstance(key, int):
            ids.append(key)
    return 1 + max(ids, default=0)


def write_json(path: Path, content: Mapping[str, Any]) -> None:
    """All of it or nothing. Raises OptionError where it cannot be written."""
    try:
        # A lone surrogate, of a file's name that is no text, becomes the escape that JSON has for it.
        with (
            whole_file(path) as draft,
            draft.open("w", encoding="utf-8", errors="backslashreplace") as stream,
        ):
            json.dump(content, stream, ensure_ascii=False)
            stream.write("\n")
    except OSError as error:
        raise OptionError(f"{path} cannot be written ({error.strerror})") from error


def _without_verdict(entry: Any) -> Any:
    return {k: v for k, v in entry.items() if k not in _ADDED} if isinstance(entry, dict) else entry


def _with_verdicts(entries: list[Any], said: Mapping[int, Mapping[str, Any]]) -> list[Any]:
    """The first entry of an id is the one that was read."""
    seen: set[Any] = set()
    found = []
    for entry in entries:
        key = entry.get("id") if isinstance(entry, dict) else None
        readable = isinstance(key, int) and key in said and key not in seen
        if readable:
            seen.add(key)
        if isinstance(entry, dict):
            found.append({**entry, **(said[key] if readable else {"verdict": BAD_ENTRY})})  # type: ignore[index]
        else:
            found.append(entry)
    return found


def _made(dataset: AuditSet, numbers: tuple[int, ...]) -> dict[str, Any]:
    """A VOC or YOLO set as COCO has it."""
    images, annotations = [], []
    for image in dataset.images:
        height, width = image.image_hw
        images.append({"id": image.image_id, "file_name": image.name, "width": width, "height": height})
        for row in range(len(image)):
            box = _xywh(image.boxes[row].tolist())
            annotations.append(
                {
                    "id": int(image.ids[row]),
                    "image_id": image.image_id,
                    "category_id": numbers[int(image.classes[row])],
                    "bbox": box,
                    "area": round(box[2] * box[3], _DECIMALS),
                    "iscrowd": int(image.raw.boxes[int(image.rows[row])].crowd),
                }
            )
    categories = [{"id": n, "name": name} for n, name in zip(numbers, dataset.class_names, strict=True)]
    return {"images": images, "annotations": annotations, "categories": categories}


def _found(said: Judged, dataset: AuditSet, numbers: tuple[int, ...]) -> dict[str, Any]:
    found: dict[str, Any] = {
        "verdict": said.verdict,
        "suspicion": _rounded(said.suspicion),
        "iou": _rounded(said.iou),
        "purity": _rounded(said.purity),
        "integrity": _rounded(said.integrity),
        "class_score": _rounded(said.class_score),
    }
    if said.verdict == "not judged":
        found["suspicion"] = found["class_score"] = None
    if said.own is not None:
        found["suggestion"] = _own(said.own, dataset, numbers) | {"overlap": _rounded(said.own.overlap)}
    return found


def _missing(dataset: AuditSet, findings: Findings, numbers: tuple[int, ...]) -> list[dict[str, Any]]:
    return [
        {"image_id": dataset.images[f.image].image_id, **_own(f.said.own, dataset, numbers)}
        for f in findings.ranked
        if f.row is None and f.said.own is not None
    ]


def _own(own: OwnBox, dataset: AuditSet, numbers: tuple[int, ...]) -> dict[str, Any]:
    """category_id: null for a class that the data set does not have."""
    known = own.label in dataset.labels
    return {
        "category_id": numbers[dataset.data_class(own.label)] if known else None,
        "bbox": _xywh(own.box),
        "score": _rounded(own.score),
    }


def _xywh(box: Any) -> list[float]:
    x1, y1, x2, y2 = box
    return [round(float(value), 3) for value in (x1, y1, x2 - x1, y2 - y1)]


def _rounded(value: float | None) -> float | None:
    return None if value is None else round(float(value), _DECIMALS)
