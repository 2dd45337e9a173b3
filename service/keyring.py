"""The keys a running server knows: found in constant time, read again when their file changes."""

import asyncio
import hmac
import logging
import stat
from datetime import UTC, datetime
from pathlib import Path

from service.errors import KeyRequired
from service.keys import ROLES, Key, KeysError, digest_of, read_keys
from service.logs import log
from service.metrics import Metrics
from service.ratelimit import RateLimits

_LOOK_SECONDS = 1.0


class KeyRing:
    """Keys of one file. A file that is broken, or gone, changes nothing but the log and a metric."""

    def __init__(self, path: Path, metrics: Metrics) -> None:
        """Raises KeysError."""
        self.path = path
        self.limits = RateLimits()
        self._metrics = metrics
        self._stamp = _stamp_of(path)
        self._adopt(read_keys(path))

    def find(self, presented: str) -> Key:
        """The key that was presented. Raises KeyRequired, with its `reason`.

        Every key is compared, in constant time, whatever came: how long it takes says neither which key was
        nearest nor how much of it was right.
        """
        digest = digest_of(presented)
        found: Key | None = None
        for key in self._keys:
            if hmac.compare_digest(key.digest, digest):
                found = key
        if found is None:
            raise KeyRequired("this server does not know the API key", reason="unknown")
        if found.has_expired(datetime.now(UTC)):
            raise KeyRequired(f"the API key {found.name!r} has expired", reason="expired")
        return found

    def has_role(self, role: str) -> bool:
        return any(key.role == role for key in self._keys)

    def reload(self) -> None:
        """Read the file again, now."""
        self._stamp = _stamp_of(self.path)
        try:
            keys = read_keys(self.path)
        except KeysError as error:
            self._metrics.key_reloads.labels("failed").inc()
            log(
                logging.ERROR,
                "the keys file is broken: the keys read before stay in force, revoked ones too",
                reason=str(error),
                keys=len(self._keys),
            )
            return
        self._metrics.key_reloads.labels("done").inc()
        self.warn_of_writers()
        self._adopt(keys)
        log(logging.INFO, "keys read", file=str(self.path), keys=len(keys))

    def warn_of_writers(self) -> None:
        """Say if anybody on this machine may write the file, and so make keys."""
        try:
            mode = self.path.stat().st_mode
        except OSError:  # gone since it was read; the next look says so
            return
        if mode & stat.S_IWOTH:
            log(logging.WARNING, "the keys file may be written by everybody: chmod o-w", file=str(self.path))

    async def watch(self) -> None:
        """Read the file again whenever it changes; runs until cancelled."""
        while True:
            await asyncio.sleep(_LOOK_SECONDS)
            # In a thread: a network disk that hangs must not stop the server.
            if await asyncio.to_thread(_stamp_of, self.path) != self._stamp:
                self.reload()

    def _adopt(self, keys: list[Key]) -> None:
        self._keys = keys
        self.limits.keep_only({key.name for key in keys})
        for role in ROLES:
            self._metrics.keys.labels(role).set(sum(key.role == role for key in keys))


def _stamp_of(path: Path) -> tuple[int, int, int] | None:
    """What changes when the file does; None while there is none."""
    try:
        status = path.stat()
    except OSError:
        return None
    return status.st_mtime_ns, status.st_size, status.st_ino
