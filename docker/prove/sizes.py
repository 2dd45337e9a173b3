"""What a folder weighs, and what in it."""

from __future__ import annotations

import csv
import os
from collections import defaultdict
from importlib.metadata import distributions
from pathlib import Path

__all__ = ["bytecode_size", "packages_by_size", "tree_size"]


def tree_size(root: Path) -> int:
    """Bytes of all files, each counted once however many names it has; links and folders are nothing."""
    seen: set[tuple[int, int]] = set()
    total = 0
    for folder, _, names in os.walk(root):
        for name in names:
            status = os.lstat(os.path.join(folder, name))
            if os.path.islink(os.path.join(folder, name)) or (status.st_dev, status.st_ino) in seen:
                continue
            seen.add((status.st_dev, status.st_ino))
            total += status.st_size
    return total


def bytecode_size(root: Path) -> int:
    """Bytes of compiled Python below `root`."""
    return sum(path.stat().st_size for path in root.rglob("*.pyc"))


def packages_by_size(site: Path) -> dict[str, tuple[str, int]]:
    """Distribution -> (version, bytes of its files with their bytecode), the largest first."""
    sizes: dict[str, tuple[str, int]] = {}
    for distribution in distributions(path=[str(site)]):
        record = distribution.read_text("RECORD") or ""
        files = {(site / row[0]).resolve() for row in csv.reader(record.splitlines()) if row}
        caches: dict[Path, set[str]] = defaultdict(set)
        for file in files:
            if file.suffix == ".py":
                caches[file.parent / "__pycache__"].add(file.stem)
        for cache, stems in caches.items():
            if cache.is_dir():
                files |= {path for path in cache.iterdir() if path.name.partition(".")[0] in stems}
        total = sum(file.stat().st_size for file in files if file.is_file())
        sizes[distribution.metadata["Name"]] = (distribution.version, total)
    return dict(sorted(sizes.items(), key=lambda item: -item[1][1]))
