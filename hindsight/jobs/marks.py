"""Which annotated pictures and videos are ours to write over: those that say which file they were drawn from.

A job may be run again, after a kill too, so it finds pictures of its own in its way, and perhaps others' of
the same name. What it draws therefore bears a mark, as EXIF's Software or a video's comment: a digest of the
source's path, so that nobody reads from a picture where its source lies.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import stat
from collections.abc import Mapping
from pathlib import Path

from hindsight.errors import OptionError

__all__ = ["clear_way", "mark_of", "may_write"]

# Bytes at either end of a file: JPEG and PNG bear the mark in front, WebP and MP4 behind.
_LOOKED_AT = 16 * 1024


def mark_of(file: str) -> str:
    """What is drawn from `file` says of itself."""
    return f"hindsight detect {hashlib.sha256(os.fsencode(os.path.abspath(file))).hexdigest()[:16]}"


def may_write(target: Path, file: str) -> bool:
    """Whether there is nothing at `target`, or what was drawn from `file` before."""
    try:
        if not stat.S_ISREG(target.lstat().st_mode):  # a link is somebody's too; a pipe would never be read
            return False
        with target.open("rb") as stream:
            ends = stream.read(_LOOKED_AT)
            stream.seek(max(0, os.fstat(stream.fileno()).st_size - _LOOKED_AT))
            ends += stream.read(_LOOKED_AT)
    except FileNotFoundError:
        return True
    except OSError:
        return False
    return mark_of(file).encode() in ends


def clear_way(targets: Mapping[Path, Path], drawn: Mapping[str, str]) -> None:
    """Raises OptionError where something lies at a target, by its source, that is not ours. drawn: what this
    job has drawn before, target -> source. Where it drew another file than it will now, because names have
    shifted, that picture is removed.
    """
    others, ours = [], []
    for source, target in targets.items():
        owner = drawn.get(str(target))
        if owner == str(source) or may_write(target, str(source)):
            continue
        if owner is not None and may_write(target, owner):
            ours.append(target)
        else:
            others.append((source, target))
    if others:
        source, target = others[0]
        more = f", nor are {len(others) - 1:,} more" if len(others) > 1 else ""
        raise OptionError(
            f"--annotate: {target} is there already and was not drawn from {source}{more}: "
            "move it away, or give another place"
        )
    for target in ours:
        with contextlib.suppress(OSError):  # writing there will tell
            target.unlink()
