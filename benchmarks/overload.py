"""A quick look at a server under overload: more clients than it can serve, each with little patience.

    hindsight serve --backend sleep:100 &
    python -m benchmarks.overload --port 8000 --image photo.jpg

Prints, as percent of the capacity measured first, what clients still got that were there to get it; once with
clients that come back at once, once with clients that honour Retry-After. Then 40 clients leave, and the next
one is timed. To 127.0.0.1 only.
"""

from __future__ import annotations

import argparse
import asyncio
import re
import time
from collections import Counter
from dataclasses import dataclass
from pathlib import Path

_HOST = "127.0.0.1"
_GAVE_UP, _REFUSED, _ANSWERED = 0, 503, 200
_GONE = 40


@dataclass(frozen=True)
class Answer:
    """status: 0 where the client gave up. retry_after: seconds, as the header says."""

    status: int
    retry_after: int
    seconds: float


class Load:
    """One server, one image, clients that open a connection for each request."""

    def __init__(self, port: int, image: bytes, patience: float) -> None:
        self._port = port
        self._patience = patience
        head = f"POST /detect HTTP/1.1\r\nHost: {_HOST}\r\nContent-Length: {len(image)}\r\n\r\n"
        self._request = head.encode() + image

    async def capacity(self, images: int = 30, clients: int = 3) -> float:
        """Answers a second to a few clients that always wait."""
        start = time.perf_counter()

        async def client() -> None:
            for _ in range(images // clients):
                await self.ask(patience=60)

        await asyncio.gather(*(client() for _ in range(clients)))
        return images / (time.perf_counter() - start)

    async def goodput(self, clients: int, seconds: float, *, polite: bool) -> tuple[float, Counter[int]]:
        """Answers a second to clients that were still there, and how often each status came."""
        seen: Counter[int] = Counter()

        async def client() -> None:
            while True:
                answer = await self.ask(self._patience)
                seen[answer.status] += 1
                if polite and answer.status == _REFUSED:
                    await asyncio.sleep(answer.retry_after)

        tasks = [asyncio.create_task(client()) for _ in range(clients)]
        await asyncio.sleep(seconds)
        counted = Counter(seen)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        return counted[_ANSWERED] / seconds, counted

    async def after_leaving(self, leave: int) -> float:
        """Seconds of the next request after so many were sent and abandoned."""
        writers = []
        for _ in range(leave):
            _, writer = await asyncio.open_connection(_HOST, self._port)
            writer.write(self._request)
            writers.append(writer)
        await asyncio.sleep(0.5)
        for writer in writers:
            writer.close()
        return (await self.ask(patience=60)).seconds

    async def ask(self, patience: float) -> Answer:
        """One request on a connection of its own."""
        start = time.perf_counter()
        writer = None
        try:
            async with asyncio.timeout(patience):
                reader, writer = await asyncio.open_connection(_HOST, self._port)
                writer.write(self._request)
                head = (await reader.readuntil(b"\r\n\r\n")).lower()
                await reader.readexactly(_number(head, b"content-length"))
            return Answer(int(head[9:12]), _number(head, b"retry-after"), time.perf_counter() - start)
        except TimeoutError:
            return Answer(_GAVE_UP, 0, patience)
        finally:
            if writer is not None:
                writer.close()


def _number(head: bytes, name: bytes) -> int:
    found = re.search(rb"\r\n" + name + rb": (\d+)", head)
    return int(found[1]) if found else 0


async def measure(load: Load, clients: int, seconds: float) -> None:
    """All scenarios, one line each."""
    capacity = await load.capacity()
    print(f"capacity {capacity:.1f}/s")
    for name, polite in (("come back at once", False), ("honour Retry-After", True)):
        rate, seen = await load.goodput(clients, seconds, polite=polite)
        share = f"{100 * rate / capacity:.0f} % of capacity"
        print(f"{clients} clients that {name}: {share}; by status {dict(seen)}")
        await asyncio.sleep(1)
    print(f"the next after {_GONE} that left: {await load.after_leaving(_GONE):.3f} s")


def main() -> None:
    parser = argparse.ArgumentParser(description="A server under overload.")
    parser.add_argument("--port", type=int, default=8000)
    parser.add_argument("--image", type=Path, required=True)
    parser.add_argument("--clients", type=int, default=64)
    parser.add_argument("--patience", type=float, default=2.0, help="seconds")
    parser.add_argument("--seconds", type=float, default=15.0, help="of each scenario")
    options = parser.parse_args()
    load = Load(options.port, options.image.read_bytes(), options.patience)
    asyncio.run(measure(load, options.clients, options.seconds))


if __name__ == "__main__":
    main()
