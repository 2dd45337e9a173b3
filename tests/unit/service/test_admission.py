"""Who is admitted, who is refused, and when they are told to come back."""

from __future__ import annotations

import pytest

from service.admission import Admission, Capacity, Slot
from service.callers import Caller
from service.errors import Busy
from service.metrics import Metrics
from service.settings import Settings

EACH = 0.1
IDLE, BUSY = Capacity(1, 0.0), Capacity(1, EACH)


class House:
    """An admission whose clock stands still until it is told."""

    def __init__(self, **settings: float) -> None:
        self.now = 0.0
        self.metrics = Metrics()
        self.admission = Admission(Settings(**settings), self.metrics, lambda: self.now)  # type: ignore[arg-type]

    def admit(self, count: int = 1, client: str = "a", seconds: float = 60.0, **more: Capacity) -> list[Slot]:
        caller = Caller(client, self.now + seconds, seconds)
        return self.admission.admit(count, caller, "tiny", EACH, more.get("capacity", BUSY))

    def refused(self, count: int = 1, client: str = "a", seconds: float = 60.0) -> float:
        """-> seconds until it may return, with those that its answer is held back."""
        with pytest.raises(Busy) as caught:
            self.admit(count, client, seconds)
        assert caught.value.retry_after is not None
        assert 0 <= caught.value.hold < 1
        return caught.value.hold + caught.value.retry_after

    def drops(self, reason: str) -> float:
        return (
            self.metrics.registry.get_sample_value(
                "hindsight_drops_total", {"model": "tiny", "reason": reason}
            )
            or 0.0
        )


def test_the_queue_holds_as_many_seconds_as_it_may() -> None:
    house = House(max_queue_seconds=1.0)
    admitted = 0
    while True:
        try:
            house.admit()
        except Busy:
            break
        admitted += 1
    assert admitted == 10  # 0.1 s run, 0.9 s wait before the tenth
    assert house.drops("overload") == 1


def test_an_idle_server_takes_what_its_estimate_calls_too_much() -> None:
    house = House(max_queue_seconds=0.01)
    assert house.admit(64, seconds=0.05, capacity=IDLE)


def test_what_cannot_be_done_by_its_deadline_is_refused_at_once() -> None:
    house = House()
    house.admit(5)
    assert house.admit(1, "b", seconds=0.31)  # one runs, one turn of a, its own
    house.refused(1, "c", seconds=0.31)
    assert house.drops("deadline") == 1


def test_one_image_waits_for_one_turn_of_a_request_of_many() -> None:
    house = House(max_queue_seconds=0.31)
    house.admit(64, "a")
    assert house.admission.expected_wait("b", EACH, BUSY) == pytest.approx(0.2)
    assert house.admit(1, "b") and house.admit(1, "a")


def test_a_request_of_many_may_wait_as_long_as_its_own_work_takes() -> None:
    house = House(max_queue_seconds=1.0)
    house.admit(32, "a")
    assert house.admit(40, "b")  # 3.3 s of others, 4 s of its own
    house.refused(20, "c")


def test_the_last_places_are_for_single_images_and_then_for_new_clients() -> None:
    house = House(max_queue=16, max_images=16, max_queue_seconds=1000)
    house.admit(4)
    house.admit(4)
    house.refused(2)
    for _ in range(4):
        house.admit()
    house.refused()
    assert house.admit(4, "b")
    house.refused(1, "c")
    assert house.drops("queue_full") == 4


def test_places_and_waiting_work_are_given_back_once() -> None:
    house = House(max_queue=2, max_images=2, max_queue_seconds=1000)
    slots = house.admit(2)
    house.refused(1, "b")
    for slot in slots:
        slot.release()
        slot.release()
    assert house.metrics.registry.get_sample_value("hindsight_queue_depth", {"model": "tiny"}) == 0
    assert house.admission.expected_wait("b", 1, IDLE) == 0
    assert len(house.admit(2, "b")) == 2
    house.refused(1, "c")


def test_clients_that_were_sent_away_are_told_to_come_one_after_the_other() -> None:
    house = House(max_queue_seconds=1.0)
    for _ in range(10):
        house.admit()
    waits = [house.refused() for _ in range(54)]
    assert waits == sorted(waits)
    assert waits[0] == pytest.approx(0.1) and waits[-1] == pytest.approx(5.4)
    by_second = [sum(second < wait <= second + 1 for wait in waits) for second in range(6)]
    assert max(by_second) <= 11, "one second's work returns in each second"


def test_promises_are_forgotten_when_they_are_due_and_never_longer_than_ten_seconds() -> None:
    house = House(max_queue_seconds=1.0)
    for _ in range(10):
        house.admit()
    assert 10 <= max(house.refused() for _ in range(500)) < 11
    house.now = 12.0
    assert house.refused() == pytest.approx(0.1)


def test_two_engines_do_twice_as_much() -> None:
    house = House()
    house.admit(10, "a")
    one, two = (house.admission.expected_wait("a", 1.0, Capacity(engines, 0.2)) for engines in (1, 2))
    assert one == pytest.approx(1.2) and two == pytest.approx(0.6)


def test_places_are_few_even_where_work_is_nothing() -> None:
    admission = Admission(Settings(max_queue=4, max_images=4), Metrics(), lambda: 0.0)
    caller = Caller("a", 60.0, 60.0)
    for client in "abcd":
        admission.admit(1, Caller(client, 60.0, 60.0), "tiny", 0.0, IDLE)
    with pytest.raises(Busy):
        admission.admit(1, caller, "tiny", 0.0, IDLE)


def test_a_request_without_images_leaves_nothing_behind() -> None:
    """Of Label Studio's, where no task has an image that can be read."""
    house = House(max_queue_seconds=0.01)
    assert house.admit(0) == []
    assert house.admit(64, seconds=0.05, capacity=IDLE), "the server is idle"
