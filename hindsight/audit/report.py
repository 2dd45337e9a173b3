"""report.html: one page without a server and without the network, its pictures in a folder beside it."""

from __future__ import annotations

import base64
import hashlib
import html
import json
import os
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any
from urllib.parse import quote

from hindsight.audit.coco_output import category_ids, next_id
from hindsight.audit.dataset import AuditImage, AuditSet
from hindsight.audit.findings import Finding, Findings
from hindsight.audit.judge import VERDICTS, Judged
from hindsight.audit.pictures import FOLDER, Frame, frame_around, picture_name
from hindsight.audit.reasons import reason
from hindsight.audit.summary import MISSING, ClassSummary
from hindsight.datasets import Problem
from hindsight.errors import OptionError
from hindsight.whole_files import whole_file

__all__ = ["FILE", "content", "frames_of", "write_page"]

FILE = "report.html"
_PAGE = Path(__file__).parent / "page"
_SCRIPTS = ("marks.js", "overview.js", "cards.js", "main.js")  # one scope, in this order
_MOST_PROBLEMS = 200
_FIELD = re.compile(r"\{\{(\w+)\}\}")


def frames_of(dataset: AuditSet, shown: Sequence[Finding]) -> list[Frame]:
    """What the picture of each finding shows."""
    frames = []
    for finding in shown:
        image = dataset.images[finding.image]
        boxes: list[Sequence[float]] = []
        if finding.row is not None:
            boxes.append(image.boxes[finding.row].tolist())
        if finding.said.own is not None:
            boxes.append(finding.said.own.box)
        if isinstance(finding.said, Judged) and finding.said.twin is not None:
            boxes.append(image.boxes[finding.said.twin].tolist())
        frames.append(frame_around(boxes, image.image_hw))
    return frames


def content(
    dataset: AuditSet,
    findings: Findings,
    shown: Sequence[Finding],
    frames: Sequence[Frame],
    summaries: Sequence[ClassSummary],
    problems: Sequence[Problem],
    about: Mapping[str, Any],
    model_names: Sequence[str],
    folder: Path,
    source: Any,
) -> dict[str, Any]:
    """What the page shows, as JSON values. shown: of findings.ranked, in its order, one of `frames` each.
    folder: where the page will be.
    """
    used = sorted({finding.image for finding in shown})
    place = {index: number for number, index in enumerate(used)}
    numbers = category_ids(dataset, source)
    return {
        **about,
        "verdicts": [*VERDICTS[:-2], MISSING, "fine"],
        "categories": [{"id": n, "name": name} for n, name in zip(numbers, dataset.class_names, strict=True)],
        "modelClasses": list(model_names),
        "images": [_image(dataset.images[index], folder) for index in used],
        "items": [
            {**_item(dataset, finding, frame, model_names, numbers), "image": place[finding.image]}
            for finding, frame in zip(shown, frames, strict=True)
        ],
        "classes": [
            {
                "name": summary.name,
                "annotations": summary.annotations,
                "suspicious": summary.suspicious,
                "verdicts": dict(summary.verdicts),
                "medianIou": _rounded(summary.median_iou),
                "histogram": summary.histogram,
            }
            for summary in summaries
        ],
        "ranked": len(findings.ranked),
        "nextId": next_id(dataset, source),
        "problems": [str(problem) for problem in problems[:_MOST_PROBLEMS]],
        "problemCount": len(problems),
    }


def write_page(path: Path, values: Mapping[str, Any]) -> None:
    """All of it or nothing. Raises OptionError where it cannot be written."""
    style = (_PAGE / "report.css").read_text(encoding="utf-8")
    parts = [(_PAGE / name).read_text(encoding="utf-8") for name in _SCRIPTS]
    script = '"use strict";\n(() => {\n' + "\n".join(parts) + "\n})();\n"
    data = json.dumps(values, ensure_ascii=False, allow_nan=False, separators=(",", ":"))
    # Only what is written here runs or styles the page, whatever a class or a file is called.
    policy = (
        f"default-src 'none'; script-src '{_digest(script)}'; style-src '{_digest(style)}'; "
        "img-src 'self' file:; base-uri 'none'; form-action 'none'"
    )
    page = (_PAGE / "report.html").read_text(encoding="utf-8")
    fields = {
        "policy": html.escape(policy),
        "title": html.escape(str(values["data"])),
        "style": style,
        "data": data.replace("<", "\\u003c"),
        "script": script,
    }
    page = _FIELD.sub(lambda field: fields[field[1]], page)
    try:
        with whole_file(path) as draft:
            draft.write_text(
                page, encoding="utf-8", errors="backslashreplace"
            )  # as in coco_output.write_json
    except OSError as error:
        raise OptionError(f"{path} cannot be written ({error.strerror})") from error


def _digest(text: str) -> str:
    return "sha256-" + base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()


def _image(image: AuditImage, folder: Path) -> dict[str, Any]:
    """href: the whole image, from the page."""
    height, width = image.image_hw
    relative = os.path.relpath(image.path.resolve(), folder.resolve())
    return {
        "id": image.image_id,
        "name": image.name,
        "width": width,
        "height": height,
        "href": quote(os.fsencode(Path(relative).as_posix())),
    }


def _item(
    dataset: AuditSet, finding: Finding, frame: Frame, model_names: Sequence[str], numbers: Sequence[int]
) -> dict[str, Any]:
    image, said = dataset.images[finding.image], finding.said
    item: dict[str, Any] = {
        "picture": f"{FOLDER}/{picture_name(image, frame)}",
        "frame": list(frame),
        "suspicion": _rounded(said.suspicion),
        "own": None if said.own is None else _box(said.own.box),
        "ownLabel": None if said.own is None else model_names[said.own.label],
        "ownScore": None if said.own is None else _rounded(said.own.score),
    }
    if finding.row is None or not isinstance(said, Judged):
        data_class = dataset.data_class(said.own.label) if said.own is not None else 0
        return item | {
            "verdict": MISSING,
            "id": None,
            "class": data_class,
            "category": numbers[data_class],
            "reason": reason(said, model_names, "", None),
            "box": None,
            "where": None,
            "numbers": {"score": item["ownScore"]},
        }
    source, line, entry = image.place(finding.row)
    own_class = int(image.classes[finding.row])
    twin = None if said.twin is None else int(image.ids[said.twin])
    return item | {
        "verdict": said.verdict,
        "id": int(image.ids[finding.row]),
        "class": own_class,
        "category": numbers[own_class],
        "reason": reason(said, model_names, model_names[int(image.labels[finding.row])], twin),
        "box": _box(image.boxes[finding.row].tolist()),
        "twin": None if said.twin is None else _box(image.boxes[said.twin].tolist()),
        "where": f"{_shown(source, dataset.path)}{'' if line is None else f':{line}'}, {entry}",
        "numbers": {
            "iou": _rounded(said.iou),
            "purity": _rounded(said.purity),
            "integrity": _rounded(said.integrity),
            "class score": _rounded(said.class_score),
        },
    }


def _shown(source: Path, root: Path) -> str:
    try:
        return source.relative_to(root if root.is_dir() else root.parent).as_posix()
    except ValueError:
        return source.as_posix()


def _box(box: Sequence[float]) -> list[float]:
    return [round(float(value), 2) for value in box]


def _rounded(value: float | None) -> float | None:
    return None if value is None else round(float(value), 4)
