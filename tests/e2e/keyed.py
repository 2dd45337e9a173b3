"""A server with a keys file, and one key of each role."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from service.keys import create_key
from tests.server_process import ServerProcess, serving


@dataclass
class Keyed:
    """slow: a user's key for four images at once, and next to none afterwards."""

    server: ServerProcess
    file: Path
    user: str
    admin: str
    metrics: str
    slow: str

    @property
    def secrets(self) -> list[str]:
        return [self.user, self.admin, self.metrics, self.slow]


@contextmanager
def keyed_server(folder: Path, *arguments: str, **settings: object) -> Iterator[Keyed]:
    """Its own client has the admin key."""
    file = folder / "keys.jsonl"
    keys = {
        "user": create_key(file, "camera", "user"),
        "admin": create_key(file, "chief", "admin"),
        "metrics": create_key(file, "prometheus", "metrics"),
        "slow": create_key(file, "slow", "user", rate=0.01, burst=4),
    }
    with serving(folder, *arguments, keys_file=file, **settings) as server:
        server.client.headers.update(bearer(keys["admin"]))
        yield Keyed(server, file, **keys)


def bearer(key: str) -> dict[str, str]:
    return {"authorization": f"Bearer {key}"}
