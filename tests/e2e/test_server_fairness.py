"""One image beside requests of sixty-four, over sockets. The same in virtual time, with exact bounds:
tests/unit/service/test_overload.py.
"""

from __future__ import annotations

import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import httpx

from tests.factories import make_tiny_artifact
from tests.server_process import TILES, serving, wait_until

MANY = 64


def test_one_image_does_not_wait_for_sixty_four(tmp_path: Path) -> None:
    tiny = make_tiny_artifact(tmp_path / "tiny")
    words = ("--model", str(tiny.path), "--backend", "sleep:50")
    with (
        serving(tmp_path / "run", *words, max_batch=1, max_queue_seconds=60) as server,
        ThreadPoolExecutor(2) as clients,
    ):

        def post_many() -> tuple[int, float]:
            files = [("image", (f"{number}.png", TILES)) for number in range(MANY)]
            start = time.monotonic()
            answer = httpx.post(f"{server.url}/detect", files=files, timeout=90)
            assert answer.status_code == 200, answer.text
            whole = sum("detections" in result for result in answer.json()["results"])
            return whole, time.monotonic() - start

        large = [clients.submit(post_many) for _ in range(2)]
        wait_until(lambda: server.metric("hindsight_queue_depth") > MANY, "both to be waiting")
        singles = []
        while not any(each.done() for each in large):
            start = time.monotonic()
            answer = server.client.post("/detect", content=TILES)
            if not any(each.done() for each in large):
                assert answer.status_code == 200, answer.text
                singles.append(time.monotonic() - start)
        outcomes = [each.result() for each in large]
    assert [whole for whole, _ in outcomes] == [MANY, MANY]
    # In a plain queue even the first of them would wait for all that came before it.
    assert len(singles) >= 5
    assert sorted(singles)[len(singles) // 2] < min(seconds for _, seconds in outcomes) / 4
