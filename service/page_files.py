"""The files of the page, held in memory and packed: opening it takes two dozen of them, and on a busy machine
each look at the disk would cost it several waits for a thread.
"""

from __future__ import annotations

import gzip
import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from starlette.responses import Response

FOLDER = Path(__file__).resolve().parent / "page"
_TYPES = {".html": "text/html", ".css": "text/css", ".js": "text/javascript"}
_FRESH = "no-cache"  # revalidated by ETag, so an upgraded server never meets an old script


@dataclass(frozen=True)
class PageFile:
    """`plain` and `packed` (gzip) are the same content; `tag` is the plain one's ETag, without quotes."""

    plain: bytes
    packed: bytes
    tag: str
    media_type: str

    def answer(self, headers: Mapping[str, str]) -> Response:
        """The file, or 304 to who has it, for a request with these headers (lower-case names)."""
        takes_gzip = any(
            name.strip() == "gzip" and share.replace(" ", "") not in ("q=0", "q=0.0", "q=0.00", "q=0.000")
            for name, _, share in (
                part.partition(";") for part in headers.get("accept-encoding", "").split(",")
            )
        )
        tag = f'"{self.tag}-gzip"' if takes_gzip else f'"{self.tag}"'
        about = {"Cache-Control": _FRESH, "ETag": tag, "Vary": "Accept-Encoding"}
        known = [part.strip().removeprefix("W/") for part in headers.get("if-none-match", "").split(",")]
        if tag in known or "*" in known:
            return Response(status_code=304, headers=about)
        if takes_gzip:
            return Response(
                self.packed, headers={**about, "Content-Encoding": "gzip"}, media_type=self.media_type
            )
        return Response(self.plain, headers=about, media_type=self.media_type)


@cache
def page_files(folder: Path = FOLDER) -> dict[str, PageFile]:
    """Name -> file, of the HTML, styles and scripts in `folder`, as they are at the first call."""
    return {path.name: _read(path) for path in folder.iterdir() if path.suffix in _TYPES}


def _read(path: Path) -> PageFile:
    plain = path.read_bytes()
    return PageFile(
        plain, gzip.compress(plain, mtime=0), hashlib.sha256(plain).hexdigest()[:16], _TYPES[path.suffix]
    )
