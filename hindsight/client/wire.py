"""What is sent to a server, and what its answers mean. Nothing here waits."""

from __future__ import annotations

import io
import json
import math
import os
import secrets
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypedDict
from urllib.parse import quote, urlencode

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from hindsight.api import read_image
from hindsight.client.http import Answer
from hindsight.client.retry import retry_after
from hindsight.detections import Detections, Rescored
from hindsight.errors import (
    BoxesError,
    HindsightError,
    ImageTooLarge,
    OptionError,
    ServiceError,
    UnsupportedImage,
    errors_by_code,
)
from hindsight.picture import ImageLike, address_problem

__all__ = [
    "Facts",
    "Options",
    "Upload",
    "asks_for_key",
    "detections_of",
    "document_of",
    "encoded",
    "error_of",
    "facts_of",
    "image_upload",
    "images_upload",
    "problem_error",
    "rescore_upload",
    "rescored_of",
    "target_of",
    "wait_of",
]

_MOST_BYTES = 2**28  # of a file: far more than a server takes, and a device may have no end

Boxes = Sequence[Sequence[float]] | NDArray[Any]
Document = Mapping[str, Any]


class Options(TypedDict, total=False):
    """Those of Detector.detect, and the name of a model or NAME@VERSION. None: the model's default."""

    class_threshold: float | None
    score_threshold: float | None
    iou_weight: float | None
    nms_threshold: float | None
    classes: Sequence[str] | str | None
    max_detections: int | None
    tile: int | None
    overlap: float | None
    whole: bool | None
    model: str | None


@dataclass(frozen=True)
class Upload:
    """A request's body."""

    content_type: str
    body: bytes


@dataclass(frozen=True)
class Facts:
    """What an answer does not say of its model. None: the server does not say either."""

    class_names: tuple[str, ...]
    has_localization: bool | None
    has_masks: bool | None


def encoded(image: ImageLike) -> bytes:
    """A path's or bytes' file as it is, an array or Pillow image as PNG. Raises ImageError."""
    if isinstance(image, bytes | bytearray | memoryview):
        return bytes(image)
    if isinstance(image, str | os.PathLike):
        problem = address_problem(image)
        if problem is not None:
            raise UnsupportedImage(problem)
        try:
            with Path(image).open("rb") as file:
                content = file.read(_MOST_BYTES + 1)
        except (OSError, ValueError) as error:  # ValueError: a name with a null byte
            raise UnsupportedImage(
                f"{image}: cannot be read ({getattr(error, 'strerror', None) or error})"
            ) from error
        if len(content) > _MOST_BYTES:
            raise ImageTooLarge(f"{image}: more than {_MOST_BYTES} bytes are not sent")
        return content
    if not isinstance(image, np.ndarray | Image.Image):
        raise UnsupportedImage(
            f"expected a path, bytes, an array or a Pillow image, got {type(image).__name__}"
        )
    stream = io.BytesIO()
    Image.fromarray(read_image(image)).save(stream, "PNG", compress_level=1)
    return stream.getvalue()


def target_of(path: str, model: str | None, options: Mapping[str, Any] | None = None) -> str:
    """`path` with its query. Raises OptionError for an option that would change the answer's form."""
    given = {name: value for name, value in (options or {}).items() if value is not None}
    for name in ("format", "annotate"):
        if name in given:
            raise OptionError(
                f"the client answers Detections and takes no {name}: they have to_coco(), to_yolo(), plot()"
            )
    query = {name: _query_value(value) for name, value in given.items()}
    if model is not None:
        query = {"model": model, **query}
    return path + (f"?{urlencode(query, doseq=True, quote_via=quote)}" if query else "")


def _query_value(value: Any) -> Any:
    return list(value) if isinstance(value, list | tuple | set | frozenset) else value


def image_upload(image: bytes) -> Upload:
    """One image."""
    return Upload("application/octet-stream", image)


def images_upload(images: Sequence[bytes]) -> Upload:
    """Several; they are answered as `results`."""
    part = 'name="image"; filename="image"'
    return _multipart([(part, "application/octet-stream", image) for image in images])


def rescore_upload(image: bytes, boxes: Boxes) -> Upload:
    """An image and boxes. Raises BoxesError."""
    try:
        text = json.dumps(np.asarray(boxes, np.float64).tolist(), allow_nan=False)
    except (TypeError, ValueError):
        raise BoxesError("boxes must be a list of [x1, y1, x2, y2], all finite numbers") from None
    return _multipart(
        [
            ('name="image"; filename="image"', "application/octet-stream", image),
            ('name="boxes"', "application/json", text.encode()),
        ]
    )


def _multipart(parts: Sequence[tuple[str, str, bytes]]) -> Upload:
    boundary = secrets.token_hex(16)
    pieces: list[bytes] = []
    for disposition, content_type, content in parts:
        head = f"--{boundary}\r\nContent-Disposition: form-data; {disposition}\r\n"
        pieces += [f"{head}Content-Type: {content_type}\r\n\r\n".encode(), content, b"\r\n"]
    return Upload(
        f"multipart/form-data; boundary={boundary}", b"".join([*pieces, f"--{boundary}--\r\n".encode()])
    )


def document_of(url: str, answer: Answer) -> dict[str, Any]:
    """The JSON object of a good answer. Raises what a bad one says."""
    document = _json_of(answer)
    if answer.status == 200 and isinstance(document, dict):
        return document
    raise error_of(url, answer)


def asks_for_key(answer: Answer) -> bool:
    """Whether it is a server of ours that says so."""
    document = _json_of(answer)
    return answer.status == 401 and isinstance(document, dict) and document.get("code") == "key-required"


def error_of(url: str, answer: Answer) -> HindsightError:
    """The error that an answer stands for."""
    if answer.status in range(300, 400):
        where = answer.headers.get("location", "")
        return ServiceError(
            f"{url} redirects to {where!r}, and redirects are not followed, because they would take the "
            "images and the key along: give the client that address if it is right",
            status=answer.status,
        )
    document = _json_of(answer)
    problem = document if isinstance(document, dict) else {}
    return problem_error(url, problem, answer.status, retry_after(answer.headers))


def problem_error(
    url: str, problem: Document, status: int | None = None, wait: float | None = None
) -> HindsightError:
    """The error of a problem object: an answer's, or that of one image among many."""
    if status is None:
        given = problem.get("status")
        status, wait = given if isinstance(given, int) else None, wait_of(problem)
    detail = problem.get("detail") or problem.get("title") or f"{url} answered with HTTP status {status}"
    kind = errors_by_code().get(str(problem.get("code")), ServiceError)
    if kind is not ServiceError and kind is not HindsightError:
        return kind(str(detail))
    return ServiceError(str(detail), status=status, retry_after=wait)


def wait_of(problem: Document) -> float | None:
    """Seconds that a problem object asks to wait; None where it does not say."""
    milliseconds = problem.get("retry_after_ms")
    if not isinstance(milliseconds, int | float) or not 0 <= milliseconds < math.inf:
        return None
    return milliseconds / 1000


def _json_of(answer: Answer) -> object:
    try:
        return json.loads(answer.body)
    except (ValueError, RecursionError):
        return None


def facts_of(models: Sequence[Document]) -> dict[tuple[str, str], Facts]:
    """By name and version, from the answer of /models."""
    found = {}
    for entry in models:
        names = tuple(info["name"] for info in entry["classes"])
        found[entry["name"], entry["version"]] = Facts(
            names, entry.get("has_localization"), entry.get("has_masks")
        )
        for other in entry["versions"]:
            key = entry["name"], other["version"]
            if other["classes"] is not None and key not in found:
                found[key] = Facts(
                    tuple(other["classes"]), other.get("has_localization"), other.get("has_masks")
                )
    return found


def detections_of(document: Document, facts: Facts) -> Detections:
    """Raises ValueError where it is no answer of that model's."""
    image = document["image"]
    return Detections.from_records(
        document["detections"],
        facts.class_names,
        (image["height"], image["width"]),
        has_localization=facts.has_localization,
        has_masks=facts.has_masks,
    )


def rescored_of(document: Document, facts: Facts) -> Rescored:
    """Raises ValueError, KeyError where it is no answer of that model's."""
    rows, names = document["results"], facts.class_names

    def column(key: str) -> NDArray[np.float32]:
        return np.array([row[key] for row in rows], np.float32)

    def judged(key: str) -> NDArray[np.float32] | None:
        return None if any(row[key] is None for row in rows) else column(key)

    class_scores = np.array([[row["class_scores"][name] for name in names] for row in rows], np.float32)
    return Rescored(
        column("iou"),
        judged("purity"),
        judged("integrity"),
        class_scores.reshape(-1, len(names)),
        names,
    )
