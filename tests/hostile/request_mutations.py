"""Whole requests gone wrong: images, JSON, multipart, queries and headers, from one random source.

Case `index` of a seed is always the same bytes, so that a failure can be sent again.
"""

from __future__ import annotations

import base64
import json
from dataclasses import dataclass
from random import Random
from typing import Any
from urllib.parse import quote

from tests.hostile.image_mutations import INTERESTING, broken_image, valid_images

_NAMES = (
    "image",
    "images",
    "boxes",
    "model",
    "url",
    "classes",
    "__proto__",
    "",
    "Image",
    "image[]",
    "\0",
    "ü",
)
_TEXTS = (
    "",
    "cells",
    "tiny",
    "../../etc/passwd",
    "http://127.0.0.1:1/x.jpg",
    "file:///etc/passwd",
    "\x1b[31m",
)
_OPTIONS = (
    "model",
    "class_threshold",
    "score_threshold",
    "iou_weight",
    "nms_threshold",
    "classes",
    "max_detections",
    "tile",
    "overlap",
    "whole",
    "format",
    "annotate",
)
_VALUES = (
    *("0", "1", "64", "0.5", "-1", "nan", "inf", "-0", "1e999"),
    *("true", "json", "coco", "yolo", "labelstudio"),
)
_TYPES = (
    "image/jpeg",
    "image/*",
    "application/octet-stream",
    "application/json",
    "application/json; charset=utf-16",
    "multipart/form-data",
    "multipart/form-data; boundary=",
    "multipart/form-data; boundary=b; boundary=c",
    "text/html",
    "",
    "/",
    ";;;",
    "a" * 500,
    "application/x-www-form-urlencoded",
)


@dataclass(frozen=True)
class Case:
    """kind: what was mutated. data: the bytes of the request, as they go on the wire."""

    kind: str
    data: bytes


def make_case(seed: int, index: int) -> Case:
    random = Random(f"{seed}/{index}")
    kind = random.choices(("image", "json", "multipart", "query", "head"), (60, 12, 12, 8, 8))[0]
    if kind == "image":
        name, body = broken_image(random)
        return Case(f"image {name}", _post(random, _path(random, odd=False), random.choice(_TYPES[:3]), body))
    if kind == "json":
        return Case(kind, _post(random, _path(random, odd=False), "application/json", _json_body(random)))
    if kind == "multipart":
        content_type, body = _multipart(random)
        return Case(kind, _post(random, _path(random, odd=False), content_type, body))
    if kind == "query":
        return Case(
            kind, _post(random, _path(random, odd=True), "image/png", random.choice(valid_images())[1])
        )
    return Case(kind, _broken_head(random))


def _post(random: Random, path: str, content_type: str, body: bytes) -> bytes:
    lines = [f"POST {path} HTTP/1.1", "Host: x", f"Content-Type: {content_type}"]
    if random.random() < 0.1:
        chunks, at = [], 0
        while at < len(body):
            size = random.choice((1, 7, 1000, 65_536))
            chunks.append(b"%x\r\n%b\r\n" % (len(body[at : at + size]), body[at : at + size]))
            at += size
        return ("\r\n".join([*lines, "Transfer-Encoding: chunked"]) + "\r\n\r\n").encode() + b"".join(
            [*chunks, b"0\r\n\r\n"]
        )
    return ("\r\n".join([*lines, f"Content-Length: {len(body)}"]) + "\r\n\r\n").encode() + body


def _path(random: Random, *, odd: bool) -> str:
    path = random.choice(("/detect", "/detect", "/rescore"))
    if not odd:
        return path + random.choice(
            ("", "", "?annotate=true", "?format=coco") if path == "/detect" else ("",)
        )
    pairs = []
    for _ in range(random.randrange(6)):
        name = random.choice((*_OPTIONS, *_NAMES))
        value = random.choice((*_VALUES, *_TEXTS, str(random.choice(INTERESTING)), random.randbytes(4).hex()))
        pairs.append(f"{quote(name)}={quote(value)}")
    if random.random() < 0.2:
        pairs.append(random.choice(("%", "%zz", "&&&", "a=b;c=d", "=", "%ff%fe=%00", "a" * 3000)))
    return random.choice(
        (path, path + "/", path + "//x", "/models/tiny/samples/" + quote(random.choice(_TEXTS)))
    ) + ("?" + "&".join(pairs))


def _json_value(random: Random, depth: int = 0) -> Any:
    pick = random.randrange(12 if depth < 4 else 8)
    if pick < 2:
        return random.choice((None, True, False, 0, -1, 1e308, -1e-308, 10**30, 2**53 + 1))
    if pick < 4:
        return random.choice((*_TEXTS, "\ud800", "a" * 3000))
    if pick < 6:
        return base64.b64encode(broken_image(random)[1]).decode()
    if pick < 8:
        return [random.uniform(-10, 200) for _ in range(random.choice((0, 3, 4, 4, 4, 5)))]
    if pick < 10:
        return [_json_value(random, depth + 1) for _ in range(random.randrange(5))]
    return {random.choice(_NAMES): _json_value(random, depth + 1) for _ in range(random.randrange(4))}


def _json_body(random: Random) -> bytes:
    image = base64.b64encode(random.choice(valid_images())[1]).decode()
    documents: tuple[Any, ...] = (
        {"image": image, "boxes": [_json_value(random) for _ in range(3)]},
        {"image": _json_value(random)},
        {"images": [image, _json_value(random)]},
        {"image": image, "boxes": _json_value(random)},
        _json_value(random),
    )
    text = json.dumps(random.choice(documents), ensure_ascii=random.random() < 0.8)
    if random.random() < 0.2:
        text = text.replace("]", random.choice(("", "],]", ", NaN]", ", 1e999]", ", " + "9" * 5000 + "]")), 1)
    if random.random() < 0.1:
        text = random.choice(("[", '{"image":', '{"boxes":[')) * random.choice((10, 5000)) + text
    coding = random.choice(("utf-8", "utf-8", "utf-8", "utf-16", "utf-32", "utf-8-sig"))
    data = text.encode(coding, "surrogatepass")
    if random.random() < 0.3 and data:
        changed = bytearray(data)
        changed[random.randrange(len(data))] = random.randrange(256)
        data = bytes(changed)
    return data[: random.randrange(len(data) + 1)] if random.random() < 0.1 else data


def _multipart(random: Random) -> tuple[str, bytes]:
    boundary = random.choice(
        ("b", "----------------------------1", "a b", "x" * 70, "x" * 400, "b--", "'()+_,-./:=?")
    )
    end = random.choice(("\r\n", "\r\n", "\r\n", "\n", "\r"))
    parts = []
    for _ in range(random.choice((0, 1, 1, 2, 3, 20))):
        name = random.choice(("image", "image", "boxes", *_NAMES))
        disposition = random.choice(
            (
                f'form-data; name="{name}"',
                f'form-data; name="{name}"; filename="../../x\\"; name=\\"boxes"',
                f"form-data; name*=utf-8''{quote(name)}",
                f"form-data; name={name}",
                f'attachment; name="{name}"',
                "form-data",
            )
        )
        head = f"--{boundary}{end}Content-Disposition: {disposition}{end}"
        head += random.choice(
            ("", f"Content-Type: a/b{end}", f"X: {'a' * 9000}{end}", f"X: y{end}" * 50, f": {end}")
        )
        content = random.choice(
            (
                random.choice(valid_images())[1],
                broken_image(random)[1],
                _json_body(random),
                b"[[0,0,9,9]]",
                b"",
            )
        )
        parts.append((head + end).encode("utf-8", "surrogateescape") + content + end.encode())
    closing = random.choice((f"--{boundary}--{end}", f"--{boundary}--{end}", f"--{boundary}", "", "--"))
    body = b"".join(parts) + closing.encode()
    if random.random() < 0.2 and body:
        changed = bytearray(body)
        changed[random.randrange(len(body))] ^= 1 << random.randrange(8)
        body = bytes(changed)
    quoted = f'"{boundary}"' if random.random() < 0.5 else boundary
    given = random.choice((f"multipart/form-data; boundary={quoted}",) * 8 + _TYPES[5:8])
    return given, body


def _broken_head(random: Random) -> bytes:
    """A request whose own bytes are wrong: after it, the connection may be at its end."""
    body = random.choice(valid_images())[1]
    data = bytearray(_post(random, "/detect", random.choice(_TYPES), body))
    end = data.index(b"\r\n\r\n") + 4
    for _ in range(random.choice((1, 1, 3))):
        pick, at = random.randrange(4), random.randrange(end)
        if pick == 0:
            data[at] = random.randrange(256)
        elif pick == 1:
            del data[at : at + random.choice((1, 2, 9))]
        elif pick == 2:
            data[at:at] = random.choice(
                (b"\r\n", b"\n", b"\0", b":", b"Host: y\r\n", b"\r\nContent-Length: 3\r\n")
            )
        else:
            data[at:at] = random.choice(
                (b"Expect: 100-continue\r\n", b"Upgrade: h2c\r\nConnection: upgrade\r\n")
            )
        end = max(1, min(end, len(data)))
    return bytes(data)
