"""What is done already, on disk: a line an image, so that a killed audit loses at most the image it was at.

The first line says what the rest was made with. A line counts once it is whole: what a kill left of the last
one is cut off.
"""

from __future__ import annotations

import fcntl
import json
import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, BinaryIO

from hindsight.audit.examine import Examined
from hindsight.errors import OptionError

__all__ = ["FILE", "Journal"]

FILE = "progress.jsonl"
_FORMAT = 2
_OTHER = {"thresholds": "other thresholds"}  # what is no "another ..."


class Journal:
    """The open journal of an audit; one process at a time has it. Close it, or use it as a context.

    earlier: images (by name) that it knew when it was opened.
    """

    def __init__(self, folder: Path, made_with: Mapping[str, Any], *, restart: bool = False) -> None:
        """Go on with the journal of `folder`, or begin one.

        Raises OptionError where another process has it, where it was made with something else (and `restart`
        is not asked for), and where it cannot be written.
        """
        self._path = folder / FILE
        self._made_with = {"format": _FORMAT, **made_with}
        self._places: dict[str, tuple[int, int]] = {}  # signature -> where its line lies, and how long it is
        self._names: dict[str, str] = {}  # image -> signature
        try:
            # Without a buffer: nothing waits in it when the process is killed or the disk is full.
            self._file = self._path.open("ab", buffering=0)
            self._reader: BinaryIO = self._path.open("rb")
        except OSError as error:
            raise OptionError(f"{self._path} cannot be written ({error.strerror})") from error
        try:
            self._lock()
            self._take_over(restart)
        except BaseException:
            self.close()
            raise
        self.earlier: Mapping[str, str] = dict(self._names)

    def __enter__(self) -> Journal:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Let go of the file."""
        self._reader.close()
        self._file.close()

    def __contains__(self, signature: str) -> bool:
        return signature in self._places

    def __len__(self) -> int:
        return len(self._places)

    def read(self, signature: str) -> Examined:
        """What was found. Raises KeyError for an image that is not in it."""
        offset, length = self._places[signature]
        self._reader.seek(offset)
        return Examined.from_json(json.loads(self._reader.read(length)))

    def add(self, signature: str, name: str, examined: Examined) -> None:
        """Keep what was found; a kill does not lose it any more. Raises OptionError for a full disk."""
        self._append({"image": name, "signature": signature, **examined.to_json()}, signature, name)

    def _lock(self) -> None:
        try:
            fcntl.flock(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            raise OptionError(
                f"another audit is writing to {self._path.parent}; wait for it, or take another --out"
            ) from None

    def _take_over(self, restart: bool) -> None:
        if restart:
            self._file.truncate(0)
        lines = self._lines()
        head = next(lines, None)
        if head is None:
            self._refuse_strangers()
            self._file.truncate(0)
            self._append(self._made_with)
            return
        self._check_head(head[2])
        end = head[0] + head[1]
        for offset, length, document in lines:
            signature, name = document.get("signature"), document.get("image")
            if isinstance(signature, str) and isinstance(name, str):
                self._places[signature] = (offset, length)
                self._names[name] = signature
            end = offset + length
        self._file.truncate(end)

    def _refuse_strangers(self) -> None:
        """Raises OptionError where a first line that is none of ours is no rest of one either."""
        self._reader.seek(0)
        line, begin = self._reader.readline(2**20), b'{"format"'
        if line.endswith(b"\n") or line[: len(begin)] != begin[: len(line)]:
            raise OptionError(
                f"{self._path} is no journal of an audit: move it away, give another --out, or --restart to "
                "write over it"
            )

    def _lines(self) -> Iterator[tuple[int, int, dict[str, Any]]]:
        """(offset, length, content) of every whole line, up to the first that is none."""
        self._reader.seek(0)
        offset = 0
        for line in self._reader:
            try:
                document = json.loads(line) if line.endswith(b"\n") else None
            except ValueError:
                document = None
            if not isinstance(document, dict):
                return
            yield offset, len(line), document
            offset += len(line)

    def _check_head(self, head: Mapping[str, Any]) -> None:
        for key, own in self._made_with.items():
            if head.get(key) != own:
                raise OptionError(
                    f"{self._path.parent} holds an audit with {_OTHER.get(key, f'another {key}')} "
                    f"({_shown(head.get(key))}, now {_shown(own)}): --restart begins it anew, another --out "
                    "keeps it"
                )

    def _append(self, document: Mapping[str, Any], signature: str | None = None, name: str = "") -> None:
        line = json.dumps(document, separators=(",", ":"), allow_nan=False).encode() + b"\n"
        offset = os.fstat(self._file.fileno()).st_size
        try:
            left = memoryview(line)
            while left:
                left = left[self._file.write(left) :]
        except OSError as error:
            raise OptionError(f"{self._path} cannot be written ({error.strerror})") from error
        if signature is not None:
            self._places[signature] = (offset, len(line))
            self._names[name] = signature


def _shown(value: object) -> str:
    text = value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
    return text if len(text) <= 120 else f"{text[:117]}..."
