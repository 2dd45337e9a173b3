"""API keys and the file they stand in.

A key is 256 random bits, so its plain SHA-256 gives nothing away: there is no list of likely keys to try, and
a slow hash such as bcrypt, made for passwords that people choose, would only let strangers burn our CPU. The
file holds one JSON object a line: a header, then the keys. It never holds a key itself.
"""

import fcntl
import hashlib
import json
import os
import re
import secrets
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Literal, get_args

from hindsight.errors import OptionError

Role = Literal["user", "metrics", "admin"]
ROLES: tuple[Role, ...] = get_args(Role)

_HEADER = {"format": "hindsight-keys", "version": 1}
_PREFIX = "hsk_"  # lets people, and scanners of repositories, see what a string is
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")
_HASH = re.compile(r"sha256:[0-9a-f]{64}")
_FIELDS = {"name", "role", "hash", "created", "expires", "rate", "burst"}


class KeysError(OptionError):
    """A keys file that cannot be read or written, or a key that cannot be made."""

    code = "keys-error"


@dataclass(frozen=True)
class Key:
    """What is known of a key: everything but the key.

    digest: its SHA-256, 32 bytes. rate: images a second it may send, in the long run; None for no limit.
    burst: images it may send at once. expires: an aware time after which it is refused.
    """

    name: str
    role: Role
    digest: bytes
    created: datetime
    expires: datetime | None = None
    rate: float | None = None
    burst: int | None = None

    def has_expired(self, now: datetime) -> bool:
        return self.expires is not None and now >= self.expires

    def to_line(self) -> str:
        document: dict[str, Any] = {
            "name": self.name,
            "role": self.role,
            "hash": f"sha256:{self.digest.hex()}",
            "created": self.created.isoformat(timespec="seconds"),
        }
        if self.expires is not None:
            document["expires"] = self.expires.isoformat(timespec="seconds")
        if self.rate is not None:
            document |= {"rate": self.rate, "burst": self.burst}
        return json.dumps(document)


def digest_of(secret: str) -> bytes:
    """What is stored of a key."""
    return hashlib.sha256(secret.encode("utf-8", "surrogateescape")).digest()


def read_keys(path: Path) -> list[Key]:
    """The keys of a file. Raises KeysError, naming the line, for anything that is not entirely in order."""
    try:
        text = path.read_text(encoding="utf-8")
    except OSError as error:
        raise KeysError(
            f"cannot read the keys file {path} ({error.strerror}); `hindsight keys create` makes one"
        ) from None
    except UnicodeDecodeError:
        raise KeysError(f"the keys file {path} is not UTF-8 text") from None
    lines = text.split("\n")
    if _object(lines[0]) != _HEADER:
        raise KeysError(
            f"{path}:1: expected {json.dumps(_HEADER)}; `hindsight keys create` makes such a file"
        )
    if lines[-1]:
        raise KeysError(f"{path}:{len(lines)}: the last line is cut short")
    keys: list[Key] = []
    for number, line in enumerate(lines[1:], start=2):
        if line.strip():
            key = _key_of(line, f"{path}:{number}")
            for other in keys:
                if key.name == other.name or key.digest == other.digest:
                    raise KeysError(f"{path}:{number}: key {key.name!r} repeats {other.name!r}")
            keys.append(key)
    return keys


def create_key(
    path: Path,
    name: str,
    role: Role,
    *,
    expires: datetime | None = None,
    rate: float | None = None,
    burst: int | None = None,
) -> str:
    """Add a key to the file, which is made if it is not there; -> the key, which nobody can read again.
    Raises KeysError.
    """
    secret = _PREFIX + secrets.token_urlsafe(32)
    created = datetime.now(UTC).replace(microsecond=0)
    if rate is not None and burst is None:
        burst = max(1, round(rate))
    key = _checked(Key(name, role, digest_of(secret), created, expires, rate, burst), "the new key")
    with _locked(path):
        keys = read_keys(path) if path.exists() else []
        if any(other.name == name for other in keys):
            raise KeysError(f"{path} has a key {name!r} already; revoke it first, or choose another name")
        _write(path, [*keys, key])
    return secret


def revoke_key(path: Path, name: str) -> None:
    """Take a key out of the file. Raises KeysError."""
    with _locked(path):
        keys = read_keys(path)
        left = [key for key in keys if key.name != name]
        if len(left) == len(keys):
            names = ", ".join(key.name for key in keys) or "none"
            raise KeysError(f"{path} has no key {name!r}; it has: {names}")
        _write(path, left)


def _object(line: str) -> object:
    try:
        return json.loads(line)
    except (ValueError, RecursionError):
        return None


def _key_of(line: str, where: str) -> Key:
    document = _object(line)
    if not isinstance(document, dict):
        raise KeysError(f"{where}: expected a JSON object")
    unknown = sorted(set(document) - _FIELDS)
    missing = sorted({"name", "role", "hash", "created"} - set(document))
    if unknown or missing:
        raise KeysError(f"{where}: " + (f"unknown {unknown}" if unknown else f"{missing} missing"))
    if not isinstance(document["hash"], str) or not _HASH.fullmatch(document["hash"]):
        raise KeysError(f"{where}: hash must be sha256: and 64 hexadecimal digits")
    key = Key(
        document["name"],
        document["role"],
        bytes.fromhex(document["hash"].removeprefix("sha256:")),
        _time(document["created"], where),
        _time(document["expires"], where) if "expires" in document else None,
        document.get("rate"),
        document.get("burst"),
    )
    return _checked(key, where)


def _checked(key: Key, where: str) -> Key:
    if not isinstance(key.name, str) or not _NAME.fullmatch(key.name):
        raise KeysError(f"{where}: a name has 1 to 64 letters, digits, dots, dashes or underscores")
    if key.role not in ROLES:
        raise KeysError(f"{where}: role must be one of {', '.join(ROLES)}, got {key.role!r}")
    if (key.rate is None) != (key.burst is None):
        raise KeysError(f"{where}: rate and burst go together")
    if key.rate is not None and not (type(key.rate) in (int, float) and 0 < key.rate < 1e9):
        raise KeysError(f"{where}: rate must be a number of images a second above 0, got {key.rate!r}")
    if key.burst is not None and not (type(key.burst) is int and 0 < key.burst < 1e9):
        raise KeysError(f"{where}: burst must be a whole number of images above 0, got {key.burst!r}")
    return key


def _time(value: object, where: str) -> datetime:
    try:
        time = datetime.fromisoformat(str(value))
    except ValueError:
        time = None
    if time is None or time.tzinfo is None:
        raise KeysError(f"{where}: {value!r} is not a time with its zone, such as 2027-01-31T00:00:00+00:00")
    return time


@contextmanager
def _locked(path: Path) -> Iterator[None]:
    """Two commands at once must not lose each other's key."""
    try:
        folder = os.open(path.parent, os.O_RDONLY)
    except OSError as error:
        raise KeysError(f"cannot open the folder of {path}: {error.strerror}") from None
    try:
        fcntl.flock(folder, fcntl.LOCK_EX)
        yield
    finally:
        os.close(folder)


def _write(path: Path, keys: list[Key]) -> None:
    """Replace the file in one step, so that a server never reads half of it; only its owner may read it."""
    text = "\n".join([json.dumps(_HEADER), *(key.to_line() for key in keys), ""])
    temporary = None
    try:
        mode = path.stat().st_mode & 0o777 if path.exists() else 0o600
        handle, temporary = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
        with os.fdopen(handle, "w", encoding="utf-8") as stream:
            stream.write(text)
            stream.flush()
            os.fchmod(stream.fileno(), mode)
            os.fsync(stream.fileno())
        Path(temporary).replace(path)
    except OSError as error:
        if temporary is not None:
            Path(temporary).unlink(missing_ok=True)
        raise KeysError(f"cannot write the keys file {path}: {error.strerror}") from None
