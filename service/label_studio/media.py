"""The image a task names: a data URI, or a file under the one folder that the settings allow. Nothing is
fetched.
"""

import os
import stat
from pathlib import Path
from urllib.parse import parse_qs, unquote, urlsplit

from hindsight.errors import HindsightError, ImageTooLarge
from service.body import from_base64
from service.errors import BadBody
from service.settings import Settings

_LOCAL_FILES = "/data/local-files/"
_UPLOADS = ("/data/upload/", "/upload/")
_OPEN_FILE = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
_OPEN_FOLDER = os.O_RDONLY | os.O_NOFOLLOW | os.O_DIRECTORY | os.O_CLOEXEC


def read_image(reference: str, settings: Settings) -> bytes:
    """The encoded image. Takes time: for a thread.

    reference: a `data:` URI in base64; `/data/local-files/?d=PATH`; `/data/upload/PATH`, which is the file
    upload/PATH; or a path, all under settings.media_root. Raises BadBody, ImageTooLarge.
    """
    if reference.startswith("data:"):
        if ";base64," not in reference[:256]:
            raise BadBody("the task's image is a data URI without base64")
        item = from_base64(reference, settings)
        if isinstance(item, HindsightError):
            raise item
        return item
    path = _relative(reference)
    if settings.media_root is None:
        raise BadBody(
            "the task's image is a file, and this server has no folder for images: "
            "set HINDSIGHT_MEDIA_ROOT, or use data URIs"
        )
    return _read_under(settings.media_root, path, settings.max_body_bytes)


def _relative(reference: str) -> str:
    """The path that the reference names; not checked yet."""
    if "://" in reference[:64] or reference.startswith("//"):
        raise BadBody(
            f"the task's image is at {reference[:64]!r}; this server fetches nothing: give its tasks files "
            "under HINDSIGHT_MEDIA_ROOT (Label Studio's local storage or uploads) or data URIs"
        )
    if reference.startswith(_LOCAL_FILES):
        named = parse_qs(urlsplit(reference).query).get("d", [])
        if len(named) != 1:
            raise BadBody(f"the task's image {reference[:64]!r} names no file in ?d=")
        return named[0].lstrip("/")
    for prefix in _UPLOADS:
        if reference.startswith(prefix):
            return "upload/" + unquote(reference.removeprefix(prefix))
    return reference


def _read_under(root: Path, name: str, limit: int) -> bytes:
    """The file `name` under `root`. Links that stay inside are followed; nothing is outside."""
    missing = BadBody(f"there is no image {name[:128]!r} under the server's folder for images")
    try:
        real_root = root.resolve(strict=True)
        inside = (real_root / name).resolve(strict=True).relative_to(real_root)
        with os.fdopen(_open(real_root, inside), "rb") as file:
            status = os.fstat(file.fileno())
            if not stat.S_ISREG(status.st_mode):
                raise missing
            if status.st_size > limit:
                raise ImageTooLarge(
                    f"{name[:128]!r} has {status.st_size} bytes; at most {limit} are accepted"
                )
            data = file.read(limit + 1)
    except (OSError, ValueError, RuntimeError):  # outside, a NUL, a loop of links, no right to read
        raise missing from None
    if len(data) > limit:  # it has grown since
        raise ImageTooLarge(f"{name[:128]!r} has more than {limit} bytes")
    return data


def _open(root: Path, inside: Path) -> int:
    """Step by step and following no link, because a folder on the way may have become one since it was
    resolved. -> a file descriptor.
    """
    *folders, last = inside.parts or (".",)
    descriptor = os.open(root, _OPEN_FOLDER)
    try:
        for folder in folders:
            deeper = os.open(folder, _OPEN_FOLDER, dir_fd=descriptor)
            os.close(descriptor)
            descriptor = deeper
        return os.open(last, _OPEN_FILE, dir_fd=descriptor)
    finally:
        os.close(descriptor)
