"""The picture of docs/audit.md: the report on BCCD's test split, the clear mistakes marked wrong.

python -m benchmarks.audit_picture --data BCCD --out docs/images/audit.png

Runs `hindsight audit` as a user would, and opens its report in Chromium ($CHROMIUM, or on the PATH).
"""

from __future__ import annotations

import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Annotated

import typer

from tests.browser.chromium import launched_chromium

_SIZE = {"width": 1360, "height": 1330}
_CARDS = 8  # those that the picture shows
_CLEAR = ("wrong class", "duplicate")
_PATIENCE_MS = 60_000


def photograph(report: Path, out: Path) -> None:
    """Its first screen."""
    with launched_chromium() as browser:
        page = browser.new_context(viewport=_SIZE).new_page()
        page.set_default_timeout(_PATIENCE_MS)
        page.goto(report.as_uri())
        page.locator(".card").first.wait_for()
        for card in page.locator(".card").all()[:_CARDS]:
            if card.locator(".verdict").inner_text() in _CLEAR:
                card.locator("button.wrong").click()
            picture = card.locator("img").first
            picture.scroll_into_view_if_needed()
            picture.evaluate("image => image.decode()")
        page.evaluate("document.activeElement.blur(); window.scrollTo(0, 0)")
        page.mouse.move(5, _SIZE["height"] // 2)
        page.screenshot(path=out, animations="disabled")


def main(
    data: Annotated[Path, typer.Option(help="The folder of BCCD.")],
    out: Annotated[Path, typer.Option(help="PNG.")] = Path("docs/images/audit.png"),
    split: Annotated[str, typer.Option(help="Of it.")] = "test",
    model: Annotated[str, typer.Option(help="Name or folder of the model.")] = "cells",
) -> None:
    """Audit, open, photograph."""
    with tempfile.TemporaryDirectory() as folder:
        report = Path(folder) / f"audit-{data.name}"
        command = [sys.executable, "-m", "hindsight", "audit", data, "--split", split, "--model", model]
        subprocess.run([*command, "--out", report], check=True)
        photograph(report / "report.html", out)


if __name__ == "__main__":
    typer.run(main)
