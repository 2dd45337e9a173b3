"""What a client sees, as JSON: `python -m docker.prove.client URL IMAGE [--many N]`, on its network."""

from __future__ import annotations

import argparse
import http.client
import json
import sys
import time
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

_BOUNDARY = "hindsight-proof"


def ask(url: str, body: bytes, content_type: str) -> dict[str, Any]:
    """POST /detect; -> status, the JSON document, seconds."""
    parts = urlsplit(url)
    connection = http.client.HTTPConnection(parts.hostname or "", parts.port, timeout=60)
    start = time.monotonic()
    connection.request("POST", "/detect", body, {"Content-Type": content_type})
    answer = connection.getresponse()
    document = json.loads(answer.read())
    return {"status": answer.status, "document": document, "seconds": round(time.monotonic() - start, 3)}


def many(image: bytes, count: int) -> bytes:
    """A multipart body with the image so many times."""
    part = f'--{_BOUNDARY}\r\nContent-Disposition: form-data; name="image"; filename="a.jpg"\r\n\r\n'.encode()
    return b"".join(part + image + b"\r\n" for _ in range(count)) + f"--{_BOUNDARY}--\r\n".encode()


def main() -> None:
    """Print the answer."""
    parser = argparse.ArgumentParser()
    parser.add_argument("url")
    parser.add_argument("image", type=Path)
    parser.add_argument("--many", type=int, default=0)
    given = parser.parse_args()
    image = given.image.read_bytes()
    if given.many:
        found = ask(given.url, many(image, given.many), f"multipart/form-data; boundary={_BOUNDARY}")
    else:
        found = ask(given.url, image, "image/jpeg")
    sys.stdout.write(json.dumps(found))


if __name__ == "__main__":
    main()
