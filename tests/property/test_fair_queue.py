"""The order in which images run: nobody is forgotten, nobody waits for more than one turn of each other."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass

from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from service.scheduler import FairQueue


@dataclass(eq=False)
class Image:
    client: str
    request: int
    bucket: str = "one"
    seconds: float = 1.0


class QueueMachine(RuleBasedStateMachine):
    """Requests come, images are taken or leave, in any order: the queue holds exactly what it should."""

    def __init__(self) -> None:
        super().__init__()
        self.queue: FairQueue[Image] = FairQueue()
        self.held: list[Image] = []
        self.requests = 0

    @rule(
        client=st.sampled_from("abc"),
        images=st.lists(st.tuples(st.sampled_from("xy"), st.sampled_from([0.1, 1.0, 7.0])), min_size=1),
    )
    def request(self, client: str, images: list[tuple[str, float]]) -> None:
        self.requests += 1
        for bucket, seconds in images:
            image = Image(client, self.requests, bucket, seconds)
            self.queue.add(image)
            self.held.append(image)

    @rule(bucket=st.sampled_from(["x", "y", None]))
    def take(self, bucket: str | None) -> None:
        fitting = [image for image in self.held if bucket in (None, image.bucket)]
        taken = self.queue.take(bucket)
        assert (taken is None) == (not fitting)
        if taken is not None:
            assert taken in fitting
            same = [image for image in fitting if image.request == taken.request]
            assert taken is same[0], "the images of a request run in their order"
            self.held.remove(taken)

    @precondition(lambda self: self.held)
    @rule(data=st.data())
    def leave(self, data: st.DataObject) -> None:
        gone = data.draw(st.sampled_from(self.held))
        self.queue.remove(gone)
        self.held.remove(gone)

    @invariant()
    def holds_what_it_should(self) -> None:
        assert len(self.queue) == len(self.held)
        assert set(self.queue) == set(self.held)
        assert all(image in self.queue for image in self.held)


TestQueueMachine = QueueMachine.TestCase
TestQueueMachine.settings = settings(max_examples=60, stateful_step_count=30, deadline=None)

LOADS = st.lists(
    st.tuples(st.sampled_from("abc"), st.integers(1, 10)), min_size=1, max_size=6
)  # requests: client, images


def filled(loads: list[tuple[str, int]]) -> FairQueue[Image]:
    queue: FairQueue[Image] = FairQueue()
    for request, (client, count) in enumerate(loads):
        for _ in range(count):
            queue.add(Image(client, request))
    return queue


@settings(deadline=None)
@given(LOADS, st.integers(0, 30))
def test_one_image_of_a_new_client_waits_for_one_of_each_other_client(
    loads: list[tuple[str, int]], before: int
) -> None:
    queue = filled(loads)
    for _ in range(before):
        queue.take()
    queue.add(Image("new", 99))
    ahead: Counter[str] = Counter()
    while (image := queue.take()) is not None and image.client != "new":
        ahead[image.client] += 1
    assert all(count <= 1 for count in ahead.values()), ahead


@settings(deadline=None)
@given(LOADS, st.integers(0, 30))
def test_one_image_waits_for_one_of_each_other_request_of_its_client(
    loads: list[tuple[str, int]], before: int
) -> None:
    queue = filled([("a", count) for _, count in loads])
    for _ in range(before):
        queue.take()
    queue.add(Image("a", 99))
    ahead: Counter[int] = Counter()
    while (image := queue.take()) is not None and image.request != 99:
        ahead[image.request] += 1
    assert all(count <= 1 for count in ahead.values()), ahead


@settings(deadline=None)
@given(LOADS)
def test_newcomers_without_end_do_not_starve_those_who_are_there(loads: list[tuple[str, int]]) -> None:
    """One single image comes for each that runs: a queue that favours the new would never get to the old."""
    queue = filled([("a", count) for _, count in loads])
    old, turns = sum(count for _, count in loads), 0
    most = old * max(count for _, count in loads)  # a round of all who wait for each image of the longest
    while old:
        image = queue.take()
        assert image is not None
        old -= image.request < 100
        turns += 1
        queue.add(Image("a", 100 + turns))
        assert turns <= most


@settings(deadline=None)
@given(
    st.lists(st.sampled_from([0.1, 0.5, 1.0, 3.0]), min_size=2, max_size=4),
    st.integers(1, 60),
)
def test_clients_that_always_have_work_receive_the_same_seconds(costs: list[float], turns: int) -> None:
    queue: FairQueue[Image] = FairQueue()
    for client, seconds in enumerate(costs):
        for _ in range(turns):
            queue.add(Image(str(client), client, seconds=seconds))
    received = Counter({str(client): 0.0 for client in range(len(costs))})
    for _ in range(turns):
        image = queue.take()
        assert image is not None
        received[image.client] += image.seconds
    assert max(received.values()) - min(received.values()) <= max(costs) + 1e-9
