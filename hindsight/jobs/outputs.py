"""The whole job as files for other tools, written from its journal, picture by picture.

What one image becomes is decided in hindsight/formats.py; here are the documents around it. Each file is
written whole or not at all.
"""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TextIO

from hindsight.formats import coco_annotation, coco_categories, labelstudio_prediction, yolo_lines
from hindsight.jobs.entries import Entry, Key
from hindsight.jobs.journal import JobError, Journal
from hindsight.whole_files import whole_file

__all__ = ["FORMATS", "Model", "Results", "json_line", "output_names", "record_of", "write_outputs"]

_FILES = {
    "coco": ("detections.json",),
    "jsonl": ("detections.jsonl",),
    "labelstudio": ("labelstudio.json",),
    "yolo": ("labels", "classes.txt"),
}
FORMATS = tuple(_FILES)


@dataclass(frozen=True)
class Model:
    """Who answered: its name, version and class names in label order."""

    name: str
    version: str
    class_names: tuple[str, ...]


@dataclass(frozen=True)
class Results:
    """What there is to write. keys: in order, those of videos as a whole behind their frames. labels: file ->
    its text file in the folder of labels.
    """

    journal: Journal
    keys: Sequence[Key]
    model: Model
    labels: dict[str, Path]

    def heads(self) -> Iterator[Entry]:
        """All entries, without their detections."""
        return (self.journal.entries[key] for key in self.keys)

    def pictures(self) -> Iterator[Entry]:
        """Those of images and frames, without their detections."""
        return (entry for entry in self.heads() if not entry.is_video)


def output_names(format_name: str, file: Path | None) -> tuple[str, ...]:
    """What a job writes beside its journal: `file` alone where one was asked for."""
    return _FILES[format_name] if file is None else (file.name,)


def write_outputs(format_name: str, folder: Path, names: Sequence[str], results: Results) -> list[Path]:
    """Write them; -> which. Raises JobError where that cannot be done, or others' files lie there by now."""
    for name in names:
        if os.path.lexists(folder / name) and name not in results.journal.written:
            raise JobError(
                f"{folder / name} was put there meanwhile, and not by this job: what was detected is kept; "
                "move that file away, then run the same command again"
            )
    for name in names:
        results.journal.note_output(name)
    try:
        if format_name == "yolo":
            _write_yolo(folder / names[0], folder / names[1], results)
        else:
            with _whole(folder / names[0]) as stream:
                _WRITERS[format_name](stream, results)
    except OSError as error:
        raise JobError(
            f"cannot write {folder / names[0]} ({error.strerror}): what was detected is kept; "
            "mend that, then run the same command again"
        ) from error
    return [folder / name for name in names]


def record_of(entry: Entry, model: Model) -> dict[str, Any]:
    """The object of one image, or frame, in JSON lines."""
    record: dict[str, Any] = {"file": entry.file, **_moment(entry)}
    if entry.problem is not None:
        return {**record, "problem": entry.problem.to_json()}
    assert entry.size is not None
    record |= {"model": model.name, "version": model.version}
    record["image"] = {"width": entry.size[0], "height": entry.size[1]}
    record["detections"] = entry.detections
    return record


def json_line(document: object, encoding: str = "utf-8") -> str:
    """Readable in every language that `encoding` has; where it cannot tell something, as file names that are
    no text, that is escaped.
    """
    text = json.dumps(document, ensure_ascii=False, allow_nan=False)
    try:
        text.encode(encoding)
    except UnicodeEncodeError:
        return json.dumps(document, allow_nan=False)
    return text


def _write_jsonl(stream: TextIO, results: Results) -> None:
    for entry in results.heads():
        if entry.is_video and entry.problem is None:
            continue
        stream.write(json_line(record_of(_whole_entry(results, entry), results.model)) + "\n")


def _write_coco(stream: TextIO, results: Results) -> None:
    """As the server's format=coco (service/formats.py), with the files' names, and videos."""
    info = {"description": "hindsight detect", "model": results.model.name, "version": results.model.version}
    videos = {entry.file: number for number, entry in enumerate(_videos(results), 1)}
    stream.write(f'{{"info": {json_line(info)},\n"images": [')
    _write_list(stream, (_coco_image(*each, videos) for each in enumerate(results.pictures())))
    if videos:
        stream.write('],\n"videos": [')
        _write_list(stream, (_coco_video(videos[entry.file], entry) for entry in _videos(results)))
    stream.write(
        f'],\n"categories": {json_line(coco_categories(results.model.class_names))},\n"annotations": ['
    )
    _write_list(stream, _coco_annotations(results))
    stream.write("]}\n")


def _coco_image(number: int, entry: Entry, videos: dict[str, int]) -> dict[str, Any]:
    image: dict[str, Any] = {"id": number, "file_name": entry.name}
    if entry.size is not None:
        image["width"], image["height"] = entry.size
    if entry.frame is not None:
        image |= {"video_id": videos[entry.file], "frame_id": entry.frame, "timestamp": entry.timestamp}
    if entry.problem is not None:
        image["problem"] = entry.problem.to_json()
    return image


def _coco_video(number: int, entry: Entry) -> dict[str, Any]:
    problem = {} if entry.problem is None else {"problem": entry.problem.to_json()}
    return {"id": number, "file_name": entry.file, **problem}


def _coco_annotations(results: Results) -> Iterator[dict[str, Any]]:
    count = 0
    for image_id, head in enumerate(results.pictures()):
        for record in _whole_entry(results, head).detections or ():
            count += 1
            yield {"id": count, "image_id": image_id, **coco_annotation(record)}


def _write_labelstudio(stream: TextIO, results: Results) -> None:
    stream.write("[")
    _write_list(stream, _tasks(results))
    stream.write("]\n")


def _tasks(results: Results) -> Iterator[dict[str, Any]]:
    version = f"{results.model.name} {results.model.version}"
    for head in results.pictures():
        if head.size is not None:
            records = _whole_entry(results, head).detections or []
            prediction = labelstudio_prediction(records, *head.size, model_version=version)
            yield {"data": {"image": head.file}, "predictions": [prediction]}


def _write_yolo(labels: Path, classes: Path, results: Results) -> None:
    """A text file an image, in a folder that takes the place of the last one as a whole."""
    draft = labels.with_name(f".{labels.name}.partial")
    shutil.rmtree(draft, ignore_errors=True)
    draft.mkdir()
    taken = {results.labels[head.file] for head in results.pictures() if head.frame is None and head.size}
    for head in results.pictures():
        if head.size is None:
            continue
        name = results.labels[head.file]
        if head.frame is not None:
            name = _of_frame(name, head.frame, taken)
        text = yolo_lines(_whole_entry(results, head).detections or [], *head.size)
        (draft / name).parent.mkdir(parents=True, exist_ok=True)
        (draft / name).write_text(text, encoding="utf-8")
    if labels.exists():
        shutil.rmtree(labels)
    os.replace(draft, labels)
    with _whole(classes) as stream:
        stream.writelines(f"{name}\n" for name in results.model.class_names)


def _of_frame(video: Path, frame: int, taken: set[Path]) -> Path:
    """A name for a frame's labels; an image may be called as a frame would be."""
    stem, count = f"{video.stem}-{frame:06d}", 1
    name = video.with_name(f"{stem}.txt")
    while name in taken:
        count += 1
        name = video.with_name(f"{stem}-{count}.txt")
    return name


def _write_list(stream: TextIO, items: Iterator[dict[str, Any]]) -> None:
    before = "\n"
    for item in items:
        stream.write(before + json_line(item))
        before = ",\n"


def _videos(results: Results) -> Iterator[Entry]:
    return (entry for entry in results.heads() if entry.is_video)


def _whole_entry(results: Results, head: Entry) -> Entry:
    return head if head.problem is not None else results.journal.read(head.key)


def _moment(entry: Entry) -> dict[str, Any]:
    return {} if entry.frame is None else {"frame": entry.frame, "timestamp": entry.timestamp}


@contextmanager
def _whole(path: Path) -> Iterator[TextIO]:
    with whole_file(path) as draft, draft.open("w", encoding="utf-8") as stream:
        yield stream
        stream.flush()
        os.fsync(stream.fileno())


_WRITERS: dict[str, Callable[[TextIO, Results], None]] = {
    "coco": _write_coco,
    "jsonl": _write_jsonl,
    "labelstudio": _write_labelstudio,
}
