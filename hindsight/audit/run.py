"""The whole audit, in order: read, look, judge, write."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Protocol

from hindsight.api import Detector
from hindsight.artifact import Artifact
from hindsight.audit import coco_output, report
from hindsight.audit.classes import map_classes
from hindsight.audit.dataset import AuditImage, AuditSet, open_audit_set, read_set
from hindsight.audit.examine import DETECT_OPTIONS
from hindsight.audit.findings import Findings, judge_all
from hindsight.audit.journal import FILE as JOURNAL
from hindsight.audit.journal import Journal
from hindsight.audit.look import look
from hindsight.audit.pictures import FOLDER, picture_name, remove_others, write_pictures
from hindsight.audit.summary import ClassSummary, summarise
from hindsight.audit.views import VIEWS
from hindsight.datasets import Problem
from hindsight.datasets.yolo_set import image_folders
from hindsight.errors import ArtifactError, OptionError
from hindsight.runtime import open_runtime
from hindsight.version import __version__

__all__ = ["AUDIT", "Asked", "Done", "Listener", "open_for_audit", "run_audit"]

AUDIT = "audit.json"


@dataclass(frozen=True)
class Asked:
    """The options of an audit. renamed: data set's class -> model's class. skipped: classes not judged.
    worst: how many annotations the report lists, and how many objects without one. workers: images looked at
    side by side. views: of each image, see views.VIEWS.
    """

    data: Path
    out: Path
    images: Path | None = None
    split: str | None = None
    renamed: Mapping[str, str] | None = None
    skipped: Sequence[str] = ()
    worst: int = 1000
    workers: int = 1
    views: int = len(VIEWS)
    restart: bool = False


class Listener(Protocol):
    """Is told how far an audit is."""

    def say(self, message: str) -> None:
        """One line."""

    def stage(self, title: str, done: int, total: int) -> None:
        """A stage of `total` images begins, of which some are done."""

    def advance(self) -> None:
        """One image more."""


@dataclass(frozen=True, eq=False)
class Done:
    """What came of it, and where it lies."""

    dataset: AuditSet
    findings: Findings
    summaries: tuple[ClassSummary, ...]
    bad_images: tuple[Problem, ...]
    report: Path
    json: Path


def open_for_audit(asked: Asked, artifact: Artifact) -> AuditSet:
    """The data set, its classes told to the model. Raises DatasetError, OptionError."""
    kind, raw_images, names, problems = read_set(asked.data, images=asked.images, split=asked.split)
    labels = map_classes(names, artifact.manifest.class_names, asked.renamed or {}, asked.skipped)
    if all(label < 0 for label in labels):
        raise OptionError("--skip-class leaves no class to judge")
    return open_audit_set(asked.data, kind, asked.split, raw_images, names, labels, problems)


def run_audit(asked: Asked, artifact: Artifact, listener: Listener) -> Done:
    """Audit, or go on with an audit that was stopped. Raises HindsightError; what was finished stays."""
    artifact.require_rescoring()
    dataset = open_for_audit(asked, artifact)
    _make_folder(asked.out, dataset)
    _check_outputs(asked)
    with _journal(asked, artifact, dataset) as journal:
        images, vanished = _still_there(dataset.images)
        waiting = [image for image in images if image.signature not in journal]
        _say_what_is_known(journal, images, waiting, listener)
        bad = vanished
        if waiting:
            listener.stage("looking", len(images) - len(waiting), len(images))
            with _detector(artifact) as detector:
                bad = vanished + look(
                    waiting, detector, journal, asked.workers, asked.views, listener.advance
                )
        findings = judge_all(dataset, journal, [image for image, _ in bad])
    bad_images = (*dataset.bad_images, *(problem for _, problem in bad))
    summaries = summarise(dataset, findings)
    source = json.loads(asked.data.read_text(encoding="utf-8")) if dataset.format == "coco" else None
    about = _about(asked, artifact, dataset, bad_images)
    _write(asked, artifact, dataset, findings, summaries, bad_images, about, source, listener)
    return Done(
        dataset,
        findings,
        summaries,
        bad_images,
        asked.out / report.FILE,
        asked.out / AUDIT,
    )


def _write(
    asked: Asked,
    artifact: Artifact,
    dataset: AuditSet,
    findings: Findings,
    summaries: Sequence[ClassSummary],
    bad_images: Sequence[Problem],
    about: Mapping[str, Any],
    source: Any,
    listener: Listener,
) -> None:
    """audit.json first, the page last: a page that is there has its pictures."""
    problems = (*bad_images, *dataset.bad_entries)
    whole = {**about, "problems": [str(problem) for problem in problems], "summary": _summary_json(summaries)}
    coco_output.write_json(asked.out / AUDIT, coco_output.document(dataset, findings, whole, source))
    shown = findings.worst(asked.worst)
    frames = report.frames_of(dataset, shown)
    wanted = [(dataset.images[f.image], frame) for f, frame in zip(shown, frames, strict=True)]
    listener.stage("pictures", 0, len({image.signature for image, _ in wanted}))
    write_pictures(asked.out / FOLDER, wanted, asked.workers, listener.advance)
    names = artifact.manifest.class_names
    page = report.content(
        dataset, findings, shown, frames, summaries, problems, about, names, asked.out, source
    )
    report.write_page(asked.out / report.FILE, page)
    remove_others(asked.out / FOLDER, (picture_name(*each) for each in wanted))


def _about(
    asked: Asked, artifact: Artifact, dataset: AuditSet, bad_images: Sequence[Problem]
) -> dict[str, Any]:
    """What page and JSON say of themselves."""
    manifest = artifact.manifest
    return {
        "hindsight": __version__,
        "model": f"{manifest.name} {manifest.version}",
        "date": datetime.now(UTC).date().isoformat(),
        "data": dataset.name,
        "split": asked.split,
        "views": asked.views,
        "image_count": len(dataset.images) + len(dataset.bad_images),
        "bad_images": len(bad_images),
        "classes_of_the_model": {
            name: manifest.class_names[label] if label >= 0 else None
            for name, label in zip(dataset.class_names, dataset.labels, strict=True)
        },
    }


def _summary_json(summaries: Sequence[ClassSummary]) -> list[dict[str, Any]]:
    return [
        {
            "class": summary.name,
            "annotations": summary.annotations,
            "suspicious": summary.suspicious,
            "median_iou": None if summary.median_iou is None else round(summary.median_iou, 4),
            "verdicts": dict(summary.verdicts),
        }
        for summary in summaries
    ]


def _make_folder(out: Path, dataset: AuditSet) -> None:
    """Raises OptionError also where the pictures of the report would become images of the data set."""
    try:
        out.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise OptionError(f"--out {out} must be a folder ({error.strerror})") from error
    if dataset.format == "yolo":
        above = {out.resolve(), *out.resolve().parents}
        if above & (image_folders(dataset.path) | {image.path.parent.resolve() for image in dataset.images}):
            raise OptionError(f"--out {out} lies among the data set's images: choose another place")


def _check_outputs(asked: Asked) -> None:
    """Raises OptionError where something lies that no audit has written here."""
    if asked.restart or (asked.out / JOURNAL).exists():
        return
    for name in (AUDIT, report.FILE):
        if (asked.out / name).exists():
            raise OptionError(
                f"--out: {asked.out / name} is there already and was not written by this audit: "
                "move it away, give another --out, or --restart to write over it"
            )


def _journal(asked: Asked, artifact: Artifact, dataset: AuditSet) -> Journal:
    # Which class is which to the model is part of each image's signature.
    made_with = {
        "data set": f"{dataset.name} ({dataset.format}, {asked.split or 'whole'})",
        "model": artifact.identity,
        "thresholds": dict(DETECT_OPTIONS),
        "number of views": asked.views,
    }
    return Journal(asked.out, made_with, restart=asked.restart)


def _still_there(
    images: Sequence[AuditImage],
) -> tuple[list[AuditImage], list[tuple[AuditImage, Problem]]]:
    found: list[AuditImage] = []
    vanished: list[tuple[AuditImage, Problem]] = []
    for image in images:
        try:
            _ = image.signature
        except OSError as error:
            vanished.append(
                (image, Problem(image.path, None, f"cannot be read ({os.strerror(error.errno or 0)})"))
            )
        else:
            found.append(image)
    return found, vanished


def _say_what_is_known(
    journal: Journal, images: Sequence[AuditImage], waiting: Sequence[AuditImage], listener: Listener
) -> None:
    if not journal.earlier:
        return
    changed = sum(image.name in journal.earlier for image in waiting)
    gone = len(set(journal.earlier) - {image.name for image in images})
    parts = [f"{len(images) - len(waiting)} of {len(images)} images were looked at before"]
    if changed:
        parts.append(f"{changed} changed since and are looked at again")
    if gone:
        parts.append(f"{gone} are no longer in the data set")
    listener.say("; ".join(parts))


@contextmanager
def _detector(artifact: Artifact) -> Iterator[Detector]:
    """One session that every worker runs in its own thread: the weights are in memory once."""
    if not artifact.model_path.is_file():
        raise ArtifactError(f"{artifact.path}: model.onnx went away")
    with Detector(artifact, open_runtime("onnxruntime", artifact, threads=1)) as detector:
        yield detector
