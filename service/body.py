"""Request bodies: read with limits while they stream in, then taken apart into images.

Nothing here decodes pixels. A body is refused as soon as it passes the limit, so it is never held whole.
"""

import asyncio
import base64
import binascii
import json
from contextlib import AbstractContextManager
from dataclasses import dataclass
from types import TracebackType
from typing import Any

from starlette.requests import ClientDisconnect, Request

from hindsight.errors import BoxesError, HindsightError, ImageTooLarge
from service.errors import (
    BadBody,
    BodyTimeout,
    BodyTooLarge,
    Busy,
    ClientDisconnected,
    TooManyImages,
    UnsupportedBody,
)
from service.multipart import parse_multipart
from service.settings import Settings

# curl --data-binary calls everything it sends a form; a body of that type that is no image fails in
# decoding, clearly.
_FORM_TYPE = "application/x-www-form-urlencoded"
_RAW_TYPES = {"", "application/octet-stream", _FORM_TYPE}
_STRIPPED = (b"\0", b"\n", b"\r")  # by curl -d
_NO_IMAGE_WITHOUT = 500  # bytes; the headers of every format that is read have some of those three

_RATE_GRACE = 5.0  # seconds, before a body's rate is looked at

_SPARE_COMMAS = 100_000  # room for honest mistakes, which get a more precise answer

Item = bytes | HindsightError
"""An encoded image, or why this one cannot be had (its neighbours may be fine)."""


@dataclass(frozen=True)
class Images:
    """The images of a body in order. `many`: answer a list, even of one."""

    items: list[Item]
    many: bool


class BodyBudget:
    """Bytes of all bodies that are held at this moment."""

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._held = 0

    def lease(self) -> "BodyLease":
        return BodyLease(self)

    def take(self, count: int) -> None:
        if self._held + count > self._limit:
            raise Busy("the server holds as many request bodies as it may; retry in 1 s", retry_after=1.0)
        self._held += count

    def give(self, count: int) -> None:
        self._held -= count


class BodyLease(AbstractContextManager["BodyLease"]):
    """One request's share of the budget, given back when its body is no longer needed."""

    def __init__(self, budget: BodyBudget) -> None:
        self._budget = budget
        self._count = 0

    def take(self, count: int) -> None:
        self._budget.take(count)
        self._count += count

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._budget.give(self._count)
        self._count = 0


async def read_body(
    request: Request, settings: Settings, lease: BodyLease, encodings: tuple[str, ...] = ("identity",)
) -> bytes:
    """The whole body as it was sent. encodings: the Content-Encodings that the caller undoes. Raises
    BodyTooLarge (from Content-Length before a byte is read, or while streaming), BodyTimeout,
    UnsupportedBody for other encodings, ClientDisconnected, Busy.
    """
    limit = settings.max_body_bytes
    if request.headers.get("content-encoding", "identity").lower() not in encodings:
        raise UnsupportedBody("the body is compressed (Content-Encoding); send it as it is")
    declared = request.headers.get("content-length", "")
    if declared.isdecimal() and int(declared) > limit:
        raise BodyTooLarge(f"the body has {declared} bytes; at most {limit} are accepted")
    body = bytearray()  # not a list of pieces: of one byte each, they would take forty times their size
    start = asyncio.get_running_loop().time()
    try:
        async with asyncio.timeout(_time_for(0, settings)) as patience:
            async for chunk in request.stream():
                if len(body) + len(chunk) > limit:
                    raise BodyTooLarge(f"the body has more than {limit} bytes")
                lease.take(len(chunk))
                body += chunk
                patience.reschedule(start + _time_for(len(body), settings))
    except TimeoutError:
        waited = asyncio.get_running_loop().time() - start
        raise BodyTimeout(f"only {len(body)} bytes of the body came within {waited:.1f} s") from None
    except ClientDisconnect:
        raise ClientDisconnected("the client left before its body was complete") from None
    return bytes(body)


def _time_for(size: int, settings: Settings) -> float:
    """Seconds within which more than `size` bytes must have come."""
    if settings.min_body_rate == 0:
        return settings.body_timeout
    return min(settings.body_timeout, _RATE_GRACE + size / settings.min_body_rate)


def media_type(content_type: str) -> str:
    """`image/jpeg` of `image/jpeg; q=1`, in lower case."""
    return content_type.partition(";")[0].strip().lower()


def parse_images(content_type: str, body: bytes, settings: Settings) -> Images:
    """The images of a raw, multipart or JSON body. Raises BadBody, TooManyImages, UnsupportedBody."""
    kind = media_type(content_type)
    if kind in _RAW_TYPES or kind.startswith("image/"):
        binary = kind == _FORM_TYPE and len(body) > _NO_IMAGE_WITHOUT and not body.isascii()
        if binary and not any(byte in body for byte in _STRIPPED):
            raise BadBody(
                f"the body's {len(body)} bytes hold no line break and no zero, so this is no image any more: "
                "curl -d takes them out; send it with --data-binary"
            )
        return Images([body], many=False)
    if kind == "multipart/form-data":
        fields = parse_multipart(content_type, body, {"image": settings.max_images})
        images = fields["image"]
        if not images:
            raise BadBody("the multipart body has no field `image`")
        return Images(list(images), many=len(images) > 1)
    if kind == "application/json":
        _check_commas(body, 2 * settings.max_images)
        return _images_of_json(parse_json_object(body, {"image", "images"}), settings)
    raise UnsupportedBody(f"content type {kind!r}; expected image/*, application/octet-stream, {_STRUCTURED}")


def parse_image_and_boxes(
    content_type: str, body: bytes, settings: Settings, max_boxes: int
) -> tuple[bytes, list[Any]]:
    """The image and the boxes of a /rescore body. Raises BadBody, HindsightError of the image,
    UnsupportedBody.
    """
    kind = media_type(content_type)
    if kind == "multipart/form-data":
        fields = parse_multipart(content_type, body, {"image": 1, "boxes": 1})
        if len(fields["image"]) != 1 or len(fields["boxes"]) != 1:
            raise BadBody("the multipart body needs one field `image` and one field `boxes`")
        _check_box_commas(fields["boxes"][0], max_boxes)
        boxes = parse_json(fields["boxes"][0], "field `boxes`")
        item: Item = fields["image"][0]
    elif kind == "application/json":
        _check_box_commas(body, max_boxes)
        document = parse_json_object(body, {"image", "boxes"})
        if set(document) != {"image", "boxes"}:
            raise BadBody(f"the JSON body needs the keys image and boxes, has {sorted(document)}")
        boxes, item = document["boxes"], from_base64(document["image"], settings)
    else:
        raise UnsupportedBody(f"content type {kind!r}; expected {_STRUCTURED}")
    if not isinstance(boxes, list):
        raise BadBody("boxes must be a list of [x1, y1, x2, y2]")
    if isinstance(item, HindsightError):
        raise item
    return item, boxes


_STRUCTURED = "multipart/form-data or application/json"


def _images_of_json(document: dict[str, Any], settings: Settings) -> Images:
    if set(document) == {"image"}:
        return Images([from_base64(document["image"], settings)], many=False)
    if set(document) == {"images"} and isinstance(document["images"], list):
        texts = document["images"]
        if not texts:
            raise BadBody("images is empty; expected at least one")
        if len(texts) > settings.max_images:
            raise TooManyImages(
                f"{len(texts)} images; at most {settings.max_images} are accepted in one request"
            )
        return Images([from_base64(text, settings) for text in texts], many=True)
    raise BadBody('the JSON body must be {"image": base64} or {"images": [base64, ...]}')


def from_base64(text: object, settings: Settings) -> Item:
    """The bytes of a base64 text, whose size is checked first; a `data:` prefix is skipped."""
    if not isinstance(text, str):
        return BadBody(f"expected an image as a base64 string, got {type(text).__name__}")
    if text.startswith("data:"):
        text = text.partition(",")[2]
    elif text[:8].lower().startswith(("http://", "https://")):
        return BadBody("expected an image as a base64 string and no address: this server fetches nothing")
    size = len(text) * 3 // 4
    if size > settings.max_body_bytes:
        return ImageTooLarge(
            f"the image has about {size} bytes; at most {settings.max_body_bytes} are accepted"
        )
    try:
        return base64.b64decode("".join(text.split()), validate=True)
    except (binascii.Error, ValueError) as error:
        return BadBody(f"the image is not base64 ({error})")


def _check_commas(data: bytes, expected: int) -> None:
    """Refuse JSON of far more values than any valid body has (base64 holds no comma), before Python builds
    them all while holding the interpreter lock.
    """
    commas = data.count(b",")
    if commas > expected + _SPARE_COMMAS:
        raise BadBody(f"the JSON holds about {commas} values; a valid body has at most about {expected}")


def _check_box_commas(data: bytes, max_boxes: int) -> None:
    commas = data.count(b",")
    if commas > 4 * max_boxes + _SPARE_COMMAS:
        raise BoxesError(f"about {commas // 4} boxes; at most {max_boxes} are accepted in one request")


def parse_json(data: bytes, what: str = "the body") -> Any:
    """Strict JSON: no NaN, no Infinity. Raises BadBody."""
    try:
        return json.loads(data, parse_constant=_refuse_constant)
    except RecursionError:
        raise BadBody(f"{what} is nested too deeply") from None
    except ValueError as error:
        raise BadBody(f"{what} is not JSON ({error})") from None


def parse_json_object(data: bytes, known: set[str]) -> dict[str, Any]:
    """A JSON object with no other keys than `known`. Raises BadBody."""
    document = parse_json(data)
    if not isinstance(document, dict):
        raise BadBody(f"the JSON body must be an object, got {type(document).__name__}")
    unknown = sorted(set(document) - known)
    if unknown:
        raise BadBody(f"unknown keys {unknown[:5]}; expected {sorted(known)}")
    return document


def _refuse_constant(name: str) -> float:
    raise ValueError(f"{name} is not a number")
