"""The clean Debian that stands in for a base image that cannot be fetched here."""

from __future__ import annotations

import shutil
import subprocess
from dataclasses import dataclass
from pathlib import Path
from typing import IO

__all__ = ["BASES", "Base", "make_base"]


@dataclass(frozen=True)
class Base:
    """A Debian release and the packages that make it serve as the image; `differs`: from it, in words."""

    suite: str
    packages: tuple[str, ...]
    differs: tuple[str, ...]


_PYTHON = Base(
    suite="bookworm",
    packages=("python3", "python3-venv", "python-is-python3", "ca-certificates", "netbase", "tzdata"),
    differs=(
        "Python is Debian's 3.11 in /usr/bin; the image has the newest 3.11, from source, in /usr/local, "
        "with its own pip and without bytecode of the standard library",
        "the image leaves out documentation and translations: the size of the base is not the image's",
        "the packages are Debian's of today; the image's are those of the day it was built",
    ),
)
BASES = {"python:3.11-slim-bookworm": _PYTHON}
"""The images that can be stood in for. Another release of Debian or Python needs its own row."""


def make_base(base: Base, folder: Path, log: IO[bytes]) -> None:
    """debootstrap into `folder`, from the mirror that it takes by itself. Raises CalledProcessError."""
    command = [
        "debootstrap",
        "--variant=minbase",
        f"--include={','.join(base.packages)}",
        base.suite,
        str(folder),
    ]
    subprocess.run(command, check=True, stdout=log, stderr=log)
    for leftover in ("var/cache/apt", "var/lib/apt/lists", "var/log"):  # images come without these
        shutil.rmtree(folder / leftover)
        (folder / leftover).mkdir()
