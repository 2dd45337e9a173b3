"""Sends mutated requests to a live server and judges every answer, and the server's memory over all."""

from __future__ import annotations

import json
import time
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tests.hostile.request_mutations import Case, make_case
from tests.hostile.vitals import pss_bytes
from tests.hostile.wire import Answer, Wire
from tests.server_process import ServerProcess

WARM_UP = 300
"""Cases before memory is first measured: by then every reader is loaded, the allocator's pools are filled."""
_HEAD_WAIT = 0.5
_MEASURE_EVERY = 500
_SETTLED = 10_000_000


@dataclass
class Report:
    """times in seconds, memory in bytes (PSS of the process tree)."""

    seed: int
    cases: int = 0
    by_status: Counter[str] = field(default_factory=Counter)
    by_kind: Counter[str] = field(default_factory=Counter)
    memory_before: int = 0
    memory_after: int = 0
    memory_most: int = 0
    slowest: tuple[float, int, str] = (0.0, -1, "")
    failures: list[tuple[int, str, str]] = field(default_factory=list)

    def to_json(self) -> dict[str, Any]:
        seconds, index, kind = self.slowest
        return {
            "seed": self.seed,
            "cases": self.cases,
            "answers_by_status": dict(sorted(self.by_status.items())),
            "cases_by_kind": dict(sorted(self.by_kind.items())),
            "memory_mb": {
                "after_warm_up": round(self.memory_before / 1e6, 1),
                "at_the_end": round(self.memory_after / 1e6, 1),
                "most": round(self.memory_most / 1e6, 1),
                "growth": round((self.memory_after - self.memory_before) / 1e6, 1),
            },
            "slowest_answer": {"seconds": round(seconds, 3), "case": index, "kind": kind},
            "failures": [{"case": case, "kind": what, "why": why} for case, what, why in self.failures],
        }


def fuzz(server: ServerProcess, seed: int, cases: range, failed: Path) -> Report:
    """Send every case of `cases`. A failure is a 5xx, no answer to a well-framed request, or an answer that
    is not what it says; its bytes are stored in `failed`.
    """
    report = Report(seed)
    wire: Wire | None = None
    for index in cases:
        case = make_case(seed, index)
        wire = wire or Wire(server.port)
        start = time.monotonic()
        answer = _ask(wire, case)
        seconds = time.monotonic() - start
        why = _wrong(case, answer)
        if why is not None:
            report.failures.append((index, case.kind, why))
            failed.mkdir(parents=True, exist_ok=True)
            (failed / f"seed{seed}-case{index}.http").write_bytes(case.data)
        report.cases += 1
        report.by_kind[case.kind] += 1
        report.by_status["closed" if answer is None else str(answer.status)] += 1
        if case.kind != "head" and seconds > report.slowest[0]:
            report.slowest = (seconds, index, case.kind)
        if case.kind == "head" or answer is None or answer.headers.get("connection") == "close":
            wire.close()
            wire = None
        if report.cases == min(WARM_UP, len(cases)):
            report.memory_before = pss_bytes(server.process.pid)
        if report.cases % _MEASURE_EVERY == 0:
            report.memory_most = max(report.memory_most, pss_bytes(server.process.pid))
    if wire is not None:
        wire.close()
    report.memory_after = _settled_memory(server, report.memory_before + _SETTLED)
    report.memory_most = max(report.memory_most, report.memory_after)
    return report


def _settled_memory(server: ServerProcess, enough: int) -> int:
    """The server gives memory back every few seconds: wait until it holds no more than `enough`, or 50 s."""
    end = time.monotonic() + 50
    while (held := pss_bytes(server.process.pid)) > enough and time.monotonic() < end:
        time.sleep(0.5)
    return held


def _ask(wire: Wire, case: Case) -> Answer | None:
    """None: closed unanswered or, for a broken head (which may ask for more bytes than it has), silent."""
    if case.kind == "head":
        wire.socket.settimeout(_HEAD_WAIT)
    wire.try_send(case.data)  # it may be refused while it is being sent: the answer is there all the same
    try:
        answer = wire.answer()
        while answer is not None and answer.status == 100:
            answer = wire.answer()
    except TimeoutError:
        return None
    return answer


def _wrong(case: Case, answer: Answer | None) -> str | None:
    if answer is None:
        return None if case.kind == "head" else "closed without an answer"
    # A machine that is busy with other things may miss a deadline: documented, and `slowest_answer` tells.
    if answer.status >= 500 and answer.status not in {501, 504}:
        return f"status {answer.status}: {answer.body[:200]!r}"
    content_type = answer.headers.get("content-type", "")
    if answer.status >= 400:
        try:
            answer.problem()
        except (AssertionError, KeyError, ValueError) as error:
            return f"status {answer.status} is no problem document ({error})"
    elif content_type == "application/json":
        try:
            json.loads(answer.body, parse_constant=_refuse)
        except ValueError as error:
            return f"an answer that is no JSON ({error})"
    return None


def _refuse(constant: str) -> float:
    raise ValueError(f"{constant} in an answer")
