"""What opening the page takes in a real Chromium: first paint, controls that answer, first boxes; bytes.

    python -m benchmarks.page_load [--runs 15]    measures, writes the result and the figures on docs/page.md
    python -m benchmarks.page_load --check        fails if the page is not what the result says

The server is `hindsight serve` as it starts by itself, with `cells`, warm, and on this machine. Each run is a
browser without a cache; the first is not counted. Needs Chromium ($CHROMIUM, or on the PATH).
"""

from __future__ import annotations

import json
import os
import statistics
import sys
from pathlib import Path
from typing import Any

from playwright.sync_api import Browser, Page, Request

from benchmarks.readme import RESULTS, ROOT, keep_page, table
from benchmarks.servers import hindsight_server
from benchmarks.serving_page import origin
from benchmarks.turns import facts, write
from tests.browser.chromium import launched_chromium

PAGE = ROOT / "docs" / "page.md"
BLOCK = "page load"
RESULT = RESULTS / "page-load.json"
RUNS = 15
MODEL = "cells"
PATIENCE_MS = 60_000

# window.firstBoxes: milliseconds from the navigation until the frame with the first boxes has been made.
WATCH = """new MutationObserver((changes, observer) => {
    if (!document.querySelector("#boxes .detections g")) return;
    observer.disconnect();
    requestAnimationFrame(() => setTimeout(() => { window.firstBoxes = performance.now(); }));
}).observe(document, { childList: true, subtree: true });"""

# When each thing was there, in milliseconds from the navigation. The resources up to the first boxes say what
# these were waited for.
TIMES = """(() => {
    const [navigation] = performance.getEntriesByType("navigation");
    const resources = performance.getEntriesByType("resource");
    const end = (test) => Math.max(...resources.filter(({ name }) => test(new URL(name).pathname))
        .map(({ responseEnd }) => responseEnd));
    const first = (test) => Math.min(...resources.filter(({ name }) => test(new URL(name).pathname))
        .map(({ responseEnd }) => responseEnd));
    const interactive = navigation.domContentLoadedEventEnd;
    const early = resources.filter(({ startTime }) => startTime < interactive);
    return {
        first_paint: performance.getEntriesByName("first-contentful-paint")[0].startTime,
        interactive,
        first_boxes: window.firstBoxes,
        html: navigation.responseEnd,
        modules: Math.max(...early.filter(({ name }) => name.endsWith(".js"))
            .map(({ responseEnd }) => responseEnd)),
        models: end((path) => path === "/models"),
        sample: first((path) => path.includes("/samples/")),
        answer: first((path) => path === "/detect"),
    };
})()"""

FIGURES = {
    "first_paint": "first paint",
    "interactive": "controls answer",
    "first_boxes": "first boxes",
}
STEPS = {
    "html": "the HTML is here",
    "modules": "its scripts are here",
    "interactive": "they have run: controls answer",
    "models": "the list of models is here",
    "sample": "the first sample is here",
    "answer": "its detections are here",
    "first_boxes": "its boxes are drawn",
}


def measure(browser: Browser, url: str, runs: int) -> dict[str, dict[str, float]]:
    """Median and worst milliseconds of each of STEPS and FIGURES."""
    seen: list[dict[str, float]] = []
    for run in range(runs + 1):
        page = _fresh(browser)
        page.add_init_script(WATCH)
        page.goto(url)
        page.wait_for_function("() => window.firstBoxes")
        if run:
            seen.append(page.evaluate(TIMES))
        page.wait_for_load_state("networkidle")  # the next one finds the server idle
        page.context.close()
    return {
        name: {
            "median_ms": round(statistics.median(times[name] for times in seen), 1),
            "worst_ms": round(max(times[name] for times in seen), 1),
        }
        for name in {**STEPS, **FIGURES}
    }


def bytes_sent(browser: Browser, url: str) -> dict[str, int]:
    """Bytes of the answers' bodies as they are sent, and the number of requests, until nothing more comes."""
    page = _fresh(browser)
    finished: list[Request] = []
    page.on("requestfinished", lambda request: finished.append(request))  # noqa: PLW0108  # playwright marks the function
    page.goto(url)
    page.wait_for_load_state("networkidle")
    sizes = {"images": 0, "besides_images": 0, "requests": 0}
    for request in finished:
        response = request.response()
        if response is None or not request.url.startswith(url):
            continue
        is_image = response.headers.get("content-type", "").startswith("image/")
        sizes["images" if is_image else "besides_images"] += request.sizes()["responseBodySize"]
        sizes["requests"] += 1
    page.context.close()
    return sizes


def _fresh(browser: Browser) -> Page:
    page = browser.new_context(viewport={"width": 1280, "height": 800}).new_page()
    page.set_default_timeout(PATIENCE_MS)
    return page


def run(runs: int) -> dict[str, Any]:
    """The result."""
    load = os.getloadavg()[0]
    with hindsight_server("--model", MODEL) as server, launched_chromium() as browser:
        url = f"{server.url}/"
        sent = bytes_sent(browser, url)
        times = measure(browser, url, runs)
        version = browser.version
    return {
        "model": MODEL,
        "chromium": version,
        "runs": runs,
        "milliseconds": times,
        "bytes": sent,
        **facts(["onnxruntime", "fastapi", "uvicorn"], load),
    }


def block(result: dict[str, Any]) -> str:
    """The figures, and what the time to the first boxes consists of."""
    times, sent = result["milliseconds"], result["bytes"]
    rows = [
        [said, f"{times[name]['median_ms']:.0f}", f"{times[name]['worst_ms']:.0f}"]
        for name, said in FIGURES.items()
    ]
    steps = ", ".join(f"{said} at {times[name]['median_ms']:.0f}" for name, said in STEPS.items())
    return (
        f"{table(['opening the page', 'median, ms', 'worst, ms'], rows)}\n\n"
        f"{result['runs']} runs without a cache, browser and server on one machine, "
        f"model `{result['model']}`; "
        f"{sent['besides_images'] / 1000:.0f} kB besides images, in {sent['requests']} requests with them. "
        f"The medians in order, in ms: {steps}.\n\n"
        f"Chromium {result['chromium']}; {origin(result)} (`python -m benchmarks.page_load`)"
    )


def blocks(result: Path = RESULT) -> dict[str, str]:
    """For keep_page."""
    measured = json.loads(result.read_text(encoding="utf-8")) if result.is_file() else None
    return {BLOCK: "Not measured yet." if measured is None else block(measured)}


def main(arguments: list[str]) -> int:
    if "--check" not in arguments:
        runs = int(arguments[arguments.index("--runs") + 1]) if "--runs" in arguments else RUNS
        write(RESULT, run(runs))
    return keep_page(PAGE, blocks, "python -m benchmarks.page_load", arguments)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
