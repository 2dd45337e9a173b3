"""Talk to a running `hindsight serve` from Python, with the library's own types and errors and no further
dependency.

>>> client = hindsight.Client("http://localhost:8000")
>>> client.detect("blood.jpg", score_threshold=0.5)
"""

from __future__ import annotations

import http.client
import io
import json
import os
import secrets
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import quote, urlencode, urlsplit

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from hindsight.api import ImageLike, read_image
from hindsight.detections import Detections, Rescored
from hindsight.errors import (
    BoxesError,
    HindsightError,
    OptionError,
    ServiceError,
    UnsupportedImage,
    errors_by_code,
)

__all__ = ["Client"]


@dataclass(frozen=True)
class _Answer:
    status: int
    headers: Mapping[str, str]
    body: bytes


class Client:
    """A server's address. Safe to share between threads: every call opens its own connection.

    url: such as http://localhost:8000. model: which of the server's models; None for its default. timeout:
    seconds of silence on the line. api_key: for a server that asks for one.
    """

    def __init__(
        self, url: str, *, model: str | None = None, timeout: float = 60.0, api_key: str | None = None
    ) -> None:
        parts = urlsplit(url)
        try:
            host, port = parts.hostname, parts.port
        except ValueError as error:
            raise OptionError(f"url {url!r} is not valid ({error})") from None
        if parts.scheme not in ("http", "https") or not host:
            raise OptionError(f"url must look like http://localhost:8000, got {url!r}")
        self.url = url
        self.model = model
        self._host, self._port, self._prefix = host, port, parts.path.rstrip("/")
        self._kind = http.client.HTTPSConnection if parts.scheme == "https" else http.client.HTTPConnection
        self._timeout = timeout
        self._headers = {"Accept": "application/json"}
        if api_key is not None:
            if not (api_key.isascii() and api_key.isprintable() and api_key.strip()):
                raise OptionError("api_key must be one line of ASCII characters")
            self._headers["Authorization"] = f"Bearer {api_key.strip()}"
        self._class_names: dict[tuple[str, str], tuple[str, ...]] = {}

    def detect(self, image: ImageLike, **options: Any) -> Detections:
        """As Detector.detect. A path's or bytes' file is sent as it is; an array or Pillow image as PNG.

        Raises what the server's answer says, by the classes of hindsight.errors; ServiceError where it could
        not answer.
        """
        query = {name: _query_value(value) for name, value in options.items() if value is not None}
        document = self._post("/detect", query, "application/octet-stream", _encoded(image))
        rows = document["detections"]

        def column(key: str) -> NDArray[np.float32] | None:
            # A model without a localization head answers null in every row. Without rows the two cases look
            # alike: no values either way.
            if any(row[key] is None for row in rows):
                return None
            return np.array([row[key] for row in rows], np.float32)

        return Detections(
            np.array([row["box"] for row in rows], np.float32).reshape(-1, 4),
            np.array([row["label_id"] for row in rows], np.int64),
            np.array([row["score"] for row in rows], np.float32),
            np.array([row["class_score"] for row in rows], np.float32),
            column("iou"),
            column("purity"),
            column("integrity"),
            self._names_of(document["model"], document["version"]),
            (document["image"]["height"], document["image"]["width"]),
        )

    def rescore(self, image: ImageLike, boxes: Sequence[Sequence[float]] | NDArray[Any]) -> Rescored:
        """As Detector.rescore: [n, 4] xyxy in pixels of the upright image."""
        try:
            text = json.dumps(np.asarray(boxes, np.float64).tolist(), allow_nan=False)
        except (TypeError, ValueError):
            raise BoxesError("boxes must be a list of [x1, y1, x2, y2], all finite numbers") from None
        boundary = secrets.token_hex(16)
        body = b"".join(
            [
                _part(
                    boundary, 'name="image"; filename="image"', "application/octet-stream", _encoded(image)
                ),
                _part(boundary, 'name="boxes"', "application/json", text.encode()),
                f"--{boundary}--\r\n".encode(),
            ]
        )
        document = self._post("/rescore", {}, f"multipart/form-data; boundary={boundary}", body)
        rows, names = document["results"], self._names_of(document["model"], document["version"])

        def column(key: str) -> NDArray[np.float32]:
            return np.array([row[key] for row in rows], np.float32)

        class_scores = np.array([[row["class_scores"][name] for name in names] for row in rows], np.float32)
        return Rescored(
            column("iou"), column("purity"), column("integrity"), class_scores.reshape(-1, len(names)), names
        )

    def models(self) -> list[dict[str, Any]]:
        """What the server says of each of its models: name, version, classes, defaults, metrics, ..."""
        return list(self._request("GET", "/models", {}, {}, None)["models"])

    def _names_of(self, model: str, version: str) -> tuple[str, ...]:
        """Class names in label order. Asked for anew with each version that answers for the first time."""
        if (model, version) not in self._class_names:
            for entry in self.models():
                names = tuple(info["name"] for info in entry["classes"])
                self._class_names[entry["name"], entry["version"]] = names
                for other in entry["versions"]:
                    if other["classes"] is not None:
                        self._class_names[entry["name"], other["version"]] = tuple(other["classes"])
        try:
            return self._class_names[model, version]
        except KeyError:
            raise ServiceError(
                f"{self.url}: {model} {version} was unloaded before its class names could be asked for; retry"
            ) from None

    def _post(self, path: str, query: dict[str, Any], content_type: str, body: bytes) -> dict[str, Any]:
        chosen = {"model": self.model, **query} if self.model is not None else query
        return self._request("POST", path, chosen, {"Content-Type": content_type}, body)

    def _request(
        self, method: str, path: str, query: dict[str, Any], headers: dict[str, str], body: bytes | None
    ) -> dict[str, Any]:
        target = self._prefix + path + (f"?{urlencode(query, doseq=True, quote_via=quote)}" if query else "")
        answer = self._exchange(method, target, {**self._headers, **headers}, body)
        try:
            document = json.loads(answer.body)
        except ValueError:
            document = None
        if answer.status == http.HTTPStatus.OK and isinstance(document, dict):
            return document
        raise _error_of(self.url, answer, document)

    def _exchange(self, method: str, target: str, headers: dict[str, str], body: bytes | None) -> _Answer:
        connection = self._kind(self._host, self._port, timeout=self._timeout)
        try:
            try:
                connection.request(method, target, body, headers)
            except (BrokenPipeError, ConnectionResetError):
                # A server may refuse a large body before it has read it all; its answer then waits to be
                # read.
                if connection.sock is None:
                    raise
            response = connection.getresponse()
            return _Answer(
                response.status, {key.lower(): value for key, value in response.getheaders()}, response.read()
            )
        except (OSError, http.client.HTTPException) as error:
            raise ServiceError(
                f"no answer from {self.url} ({error or type(error).__name__}): "
                "is `hindsight serve` running there?"
            ) from error
        finally:
            connection.close()


def _error_of(url: str, answer: _Answer, document: object) -> HindsightError:
    problem = document if isinstance(document, dict) else {}
    detail = (
        problem.get("detail") or problem.get("title") or f"{url} answered with HTTP status {answer.status}"
    )
    kind = errors_by_code().get(str(problem.get("code")), ServiceError)
    if kind is not ServiceError and kind is not HindsightError:
        return kind(str(detail))
    wait = answer.headers.get("retry-after", "")
    return ServiceError(
        str(detail), status=answer.status, retry_after=float(wait) if wait.isdecimal() else None
    )


def _encoded(image: ImageLike) -> bytes:
    if isinstance(image, bytes | bytearray | memoryview):
        return bytes(image)
    if isinstance(image, str | os.PathLike):
        try:
            return Path(image).read_bytes()
        except OSError as error:
            raise UnsupportedImage(f"{image}: cannot be read ({error.strerror})") from error
    stream = io.BytesIO()
    Image.fromarray(read_image(image)).save(stream, "PNG", compress_level=1)
    return stream.getvalue()


def _query_value(value: Any) -> Any:
    return list(value) if isinstance(value, list | tuple | set | frozenset) else value


def _part(boundary: str, disposition: str, content_type: str, content: bytes) -> bytes:
    lines = [
        f"--{boundary}",
        f"Content-Disposition: form-data; {disposition}",
        f"Content-Type: {content_type}",
    ]
    return "\r\n".join([*lines, "", ""]).encode() + content + b"\r\n"
