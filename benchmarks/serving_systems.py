"""The servers that benchmarks/serving.py compares, each with what it needs to run."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from pathlib import Path

from benchmarks.servers import ROOT, Running, hindsight_server, peer_server
from hindsight.artifact import find_artifact
from hindsight.bench.photos import folder_photos
from hindsight.bench.requests import Body, Request, detect_requests

OURS, FASTAPI, LITSERVE = "Hindsight", "FastAPI", "LitServe"
PACKAGES = ("numpy", "pillow", "onnxruntime", "fastapi", "starlette", "uvicorn", "httptools", "uvloop")
_LITSERVE = "litserve>=0.2.10"


@dataclass(frozen=True)
class System:
    """`start(model, backend)` is the server, `body` the form in which it takes a photo."""

    name: str
    start: Callable[[str, str], AbstractContextManager[Running]]
    body: Body

    def requests(self, server: Running, model: str) -> list[Request]:
        photo = folder_photos(find_artifact(model).samples[0].parent)[:1]
        return detect_requests(server.address, photo, body=self.body)


def systems_with(litserve: str) -> list[System]:
    def ours(model: str, backend: str) -> AbstractContextManager[Running]:
        return hindsight_server("--model", model, "--backend", backend)

    def fastapi(model: str, backend: str) -> AbstractContextManager[Running]:
        return peer_server([sys.executable, "-m", "benchmarks.serving_peers", "fastapi"], model, backend)

    def lit(model: str, backend: str) -> AbstractContextManager[Running]:
        return peer_server([litserve, "-m", "benchmarks.serving_litserve"], model, backend)

    return [System(OURS, ours, "raw"), System(FASTAPI, fastapi, "raw"), System(LITSERVE, lit, "multipart")]


@contextmanager
def litserve_python(given: Path | None) -> Iterator[Path]:
    """A Python with litserve beside exactly the packages that serve ours; the given one, or a new one for as
    long as the block lasts.
    """
    if given is not None:
        yield given.absolute()
        return
    with tempfile.TemporaryDirectory(prefix="litserve-") as folder:
        python = Path(folder) / "bin" / "python"
        own = Path(sys.executable).parent / "uv"
        uv = str(own) if own.exists() else shutil.which("uv")
        pins = ["-r", str(ROOT / "requirements" / "serve.txt"), _LITSERVE]
        subprocess.run([sys.executable, "-m", "venv", *(["--without-pip"] if uv else []), folder], check=True)
        installer = (
            [uv, "pip", "install", "--python", str(python)] if uv else [python, "-m", "pip", "install"]
        )
        subprocess.run([*installer, "--quiet", *pins], check=True)
        yield python


def versions_of(python: Path) -> dict[str, str]:
    """Of the peer's environment."""
    names = ("litserve", *PACKAGES)
    code = f"import importlib.metadata as m, json; print(json.dumps({{n: m.version(n) for n in {names!r}}}))"
    done = subprocess.run([str(python), "-c", code], check=True, capture_output=True, text=True)
    found: dict[str, str] = json.loads(done.stdout)
    return found
