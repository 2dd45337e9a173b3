"""A stand-in for the Hugging Face Hub: the two requests that pulling a model makes, through real sockets."""

from __future__ import annotations

import hashlib
import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit

COMMIT = "0123456789abcdef0123456789abcdef01234567"
TOKEN = "hf_0123456789"


@dataclass
class HubStub:
    """`user/tiny` in one commit. listed: what the list of files says; served: what a download gives."""

    listed: dict[str, int] = field(default_factory=dict)
    served: dict[str, bytes] = field(default_factory=dict)
    revisions: tuple[str, ...] = ("main", "v1")
    private: bool = False
    gated: bool = False
    cut_after: int = 0  # bytes of model.onnx, after which its connection ends
    cuts: int = 0  # how many times that is done
    broken: int = 0  # requests answered with 500
    elsewhere: str = ""  # downloads are redirected to this server
    requests: list[tuple[str, dict[str, str]]] = field(default_factory=list)
    url: str = ""

    def publish(self, folder: Path) -> None:
        """A model folder's files, as they are."""
        for path in sorted(folder.rglob("*")):
            if path.is_file():
                self.put(path.relative_to(folder).as_posix(), path.read_bytes())

    def put(self, name: str, content: bytes, size: int | None = None) -> None:
        self.served[name] = content
        self.listed[name] = len(content) if size is None else size

    @property
    def downloads(self) -> list[str]:
        """The files that were asked for, in order."""
        return [
            path.partition("/resolve/")[2].partition("/")[2]
            for path, _ in self.requests
            if "/resolve/" in path
        ]


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    hub: HubStub

    def do_GET(self) -> None:
        hub = self.hub
        path = unquote(urlsplit(self.path).path)
        if path.startswith(("/api/models/", "/blobs/")) or "/resolve/" in path:  # it asks for news, too
            hub.requests.append((path, {name.lower(): value for name, value in self.headers.items()}))
        if hub.broken:
            hub.broken -= 1
            self._say(500, {"error": "later"})
        elif path.startswith("/blobs/"):
            self._download(path.removeprefix("/blobs/"))
        elif hub.private and self.headers.get("authorization") != f"Bearer {TOKEN}":
            self._say(401, {"error": "Invalid username or password."}, X_Error_Code="RepoNotFound")
        elif hub.gated:
            self._say(403, {"error": "ask"}, X_Error_Code="GatedRepo")
        elif path.startswith("/api/models/"):
            self._list(path.removeprefix("/api/models/"))
        else:
            self._resolve(path.removeprefix("/"))

    def _list(self, path: str) -> None:
        name, _, revision = path.partition("/revision/")
        if name != "user/tiny":
            self._say(404, {"error": "Repository not found"}, X_Error_Code="RepoNotFound")
        elif revision and revision not in (*self.hub.revisions, COMMIT):
            self._say(404, {"error": "Invalid rev id"}, X_Error_Code="RevisionNotFound")
        else:
            siblings = [
                {"rfilename": name, "size": size, "blobId": hashlib.sha1(name.encode()).hexdigest()}
                for name, size in self.hub.listed.items()
            ]
            self._say(200, {"id": "user/tiny", "modelId": "user/tiny", "sha": COMMIT, "siblings": siblings})

    def _resolve(self, path: str) -> None:
        repository, _, rest = path.partition("/resolve/")
        revision, _, name = rest.partition("/")
        if repository != "user/tiny" or revision != COMMIT:
            self._say(404, {"error": "no such revision"}, X_Error_Code="RevisionNotFound")
        elif name not in self.hub.served:
            self._say(404, {"error": "Entry not found"}, X_Error_Code="EntryNotFound")
        elif self.hub.elsewhere:
            self._say(302, {}, Location=f"{self.hub.elsewhere}/blobs/{name}")
        else:
            self._download(name)

    def _download(self, name: str) -> None:
        content = self.hub.served[name]
        start = int(self.headers.get("range", "bytes=0-").removeprefix("bytes=").partition("-")[0])
        body = content[start:]
        self.send_response(206 if start else 200)
        self.send_header("Content-Length", str(len(body)))
        if start:
            self.send_header("Content-Range", f"bytes {start}-{len(content) - 1}/{len(content)}")
        self.end_headers()
        if self.hub.cuts and name == "model.onnx" and len(body) > self.hub.cut_after:
            self.hub.cuts -= 1
            self.wfile.write(body[: self.hub.cut_after])
            self.close_connection = True
        else:
            self.wfile.write(body)

    def _say(self, status: int, document: Any, **headers: str) -> None:
        body = json.dumps(document).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        for name, value in headers.items():
            self.send_header(name.replace("_", "-"), value)
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *arguments: object) -> None:
        """Quiet."""


@contextmanager
def hub_stub() -> Iterator[HubStub]:
    hub = HubStub()
    handler = type("Handler", (_Handler,), {"hub": hub})
    with ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        hub.url = f"http://127.0.0.1:{server.server_address[1]}"
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        try:
            yield hub
        finally:
            server.shutdown()
            thread.join()
