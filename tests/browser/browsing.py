"""What the page's tests share: starting the real server, handing the page files, watching its conduct."""

from __future__ import annotations

import base64
import io
import os
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import httpx
from PIL import Image
from playwright.sync_api import ConsoleMessage, Locator, Page, expect

REPOSITORY = Path(__file__).resolve().parents[2]
SERVE = [sys.executable, "-m", "service"]
START_SECONDS = 120
RECORD_VIOLATIONS = """
    window.violations = [];
    document.addEventListener("securitypolicyviolation", (event) => {
        window.violations.push(`${event.violatedDirective}: ${event.blockedURI}`);
    });
"""


@contextmanager
def running_server(log: Path, port: int | None = None, **settings: str) -> Iterator[str]:
    """`hindsight serve` with HINDSIGHT_* `settings` on `port` or a free one; its address once it is ready."""
    if port is None:
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            port = free.getsockname()[1]
    own = {"HINDSIGHT_PORT": str(port), "OMP_NUM_THREADS": "1"}
    patient = {"HINDSIGHT_MAX_QUEUE_SECONDS": "60"}  # a slow machine is no reason for a 503 in the console
    environment = os.environ | patient | settings | own
    with log.open("wb") as output:
        process = subprocess.Popen(
            SERVE, cwd=REPOSITORY, env=environment, stdout=output, stderr=subprocess.STDOUT
        )
    address = f"http://127.0.0.1:{port}/"
    try:
        deadline = time.monotonic() + START_SECONDS
        while not _is_ready(address):
            assert process.poll() is None, f"the server stopped:\n{log.read_text()}"
            assert time.monotonic() < deadline, f"not ready after {START_SECONDS} s:\n{log.read_text()}"
            time.sleep(0.1)
        yield address
    finally:
        process.terminate()
        process.wait(timeout=30)


def _is_ready(address: str) -> bool:
    try:
        return httpx.get(f"{address}readyz", timeout=5).status_code == httpx.codes.OK
    except httpx.TransportError:
        return False


@dataclass
class Watch:
    """What a page did that it should not have; `allowed` are parts of console errors that a test expects."""

    address: str
    allowed: list[str] = field(default_factory=list)
    errors: list[str] = field(default_factory=list)
    foreign: list[str] = field(default_factory=list)
    detections: list[str] = field(default_factory=list)

    def attach(self, page: Page) -> None:
        page.on("console", self._console)
        page.on("pageerror", lambda error: self.errors.append(str(error)))
        page.on("request", lambda request: self._request(request.url))
        page.add_init_script(RECORD_VIOLATIONS)

    def allow_failed_requests(self) -> None:
        """Chromium itself writes one line to the console for each answer that is an HTTP error."""
        self.allowed.append("Failed to load resource")

    def _console(self, message: ConsoleMessage) -> None:
        if message.type == "error":
            self.errors.append(message.text)

    def _request(self, url: str) -> None:
        if not url.startswith((self.address, "blob:", "data:")):
            self.foreign.append(url)
        if urlsplit(url).path == "/detect":
            self.detections.append(url)

    def check(self, page: Page) -> None:
        unexpected = [error for error in self.errors if not any(part in error for part in self.allowed)]
        assert unexpected == []
        assert self.foreign == []
        assert page.evaluate("window.violations") == []


OpenPage = Callable[..., tuple[Page, Watch]]


Upload = tuple[str, bytes, str]
"""Name, content and type of a file."""


def pick(page: Page, name: str, content: bytes, kind: str = "image/png") -> None:
    """Choose a file with the button."""
    pick_all(page, [(name, content, kind)])


def pick_all(page: Page, files: Sequence[Upload]) -> None:
    """Choose several files with the button, at once."""
    page.locator("#file").set_input_files(
        [{"name": name, "mimeType": kind, "buffer": content} for name, content, kind in files]
    )


def drop(page: Page, event: str, *files: Upload) -> None:
    """Hand the page files as the event `drop`, `dragover` or `paste` does."""
    page.evaluate(
        """([event, files]) => {
            const transfer = new DataTransfer();
            for (const [name, content, kind] of files) {
                const bytes = Uint8Array.from(atob(content), (character) => character.charCodeAt(0));
                transfer.items.add(new File([bytes], name, { type: kind }));
            }
            const options = { bubbles: true, cancelable: true };
            document.body.dispatchEvent(event === "paste"
                ? new ClipboardEvent(event, { ...options, clipboardData: transfer })
                : new DragEvent(event, { ...options, dataTransfer: transfer }));
        }""",
        [event, [[name, base64.b64encode(content).decode(), kind] for name, content, kind in files]],
    )


def tile(page: Page, name: str) -> Locator:
    """The button of an image in the filmstrip."""
    return page.locator(f'#film .tile[data-file="{name}"]')


def states(page: Page) -> dict[str, str]:
    """Name of each image in the filmstrip -> its state, in order."""
    return {
        name: state
        for name, state in page.evaluate(
            """[...document.querySelectorAll("#film li")]
                .map((item) => [item.querySelector(".tile").dataset.file, item.dataset.state])"""
        )
    }


def wait_for_all(page: Page, state: str = "done") -> None:
    """Until every image in the filmstrip has this state."""
    page.wait_for_function(
        """(state) => { const items = [...document.querySelectorAll("#film li")];
            return items.length > 0 && items.every((item) => item.dataset.state === state); }""",
        arg=state,
    )


def box(page: Page, index: int) -> Locator:
    """A box on the stage, by its index in the server's answer."""
    return page.locator(f'#boxes .detections g[data-index="{index}"]')


def shown_boxes(page: Page, stage: str = "boxes") -> dict[int, list[float]]:
    """Index of each box that is on a stage -> its xyxy in image pixels."""
    return {
        int(index): xyxy
        for index, xyxy in page.evaluate(
            """(stage) => [...document.querySelectorAll(`#${stage} .detections g:not(.off)`)].map((group) => {
                const {x, y, width, height} = group.querySelector(".edge").getBBox();
                return [group.dataset.index, [x, y, x + width, y + height]];
            })""",
            stage,
        )
    }


def pixel_at(page: Page, x: float, y: float, stage: str = "boxes") -> tuple[int, int, int]:
    """RGB on screen where a stage shows the point (x, y) of its image."""
    left, top = page.evaluate(
        """([stage, x, y]) => {
            const at = new DOMPoint(x, y).matrixTransform(document.getElementById(stage).getScreenCTM());
            return [at.x, at.y];
        }""",
        [stage, x, y],
    )
    shot = page.screenshot(clip={"x": round(left), "y": round(top), "width": 1, "height": 1})
    with Image.open(io.BytesIO(shot)) as image:
        red, green, blue = image.convert("RGB").resize((1, 1)).tobytes()
    return red, green, blue


def set_slider(page: Page, name: str, value: float) -> None:
    page.locator(f"#{name}").fill(str(value))


def wait_for_count(page: Page, shown: int, total: int) -> None:
    expect(page.locator("#count")).to_have_text(f"{shown} of {total} shown")


def table_rows(page: Page) -> list[list[str]]:
    """The text of every cell, row by row, as shown."""
    return page.evaluate(
        """[...document.querySelectorAll("#table tbody tr")]
            .map((row) => [...row.children].map((cell) => cell.textContent))"""
    )


def answer_for(server: str, image: bytes, **query: object) -> list[dict[str, Any]]:
    """The detections that POST /detect gives for the bytes of an image."""
    headers = {"content-type": "image/jpeg"}
    response = httpx.post(f"{server}detect", params=query, content=image, headers=headers)
    return response.raise_for_status().json()["detections"]


def sample(server: str, name: str = "board.jpg", model: str = "tiny") -> bytes:
    return httpx.get(f"{server}models/{model}/samples/{name}").raise_for_status().content
