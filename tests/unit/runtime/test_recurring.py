"""Which shapes are worth what it costs to make them ready."""

from __future__ import annotations

import random
from collections.abc import Iterable

from hindsight.runtime.recurring import RecurringCache


def made_for(keys: Iterable[object], limit: int = 16) -> tuple[int, int, RecurringCache[object]]:
    """Serve the keys: how many values were made and how many lookups found one."""
    cache: RecurringCache[object] = RecurringCache(limit, meetings=2, proof=16)
    made = found = 0
    for key in keys:
        if cache.get(key) is not None:
            found += 1
        elif cache.earns(key):
            made += 1
            while cache.is_full():
                cache.pop_oldest()
            cache.put(key, key)
        assert len(cache) <= limit
    return made, found, cache


def test_a_key_that_comes_once_costs_nothing() -> None:
    assert made_for(range(5000))[:2] == (0, 0)


def test_the_second_time_earns_a_value() -> None:
    assert made_for("aaa")[:2] == (1, 1)


def test_a_hundred_shapes_in_turn_keep_the_first_sixteen() -> None:
    made, found, _ = made_for([*range(100)] * 50)
    assert made == 16 and found == 16 * 48


def test_a_hundred_shapes_at_random_hardly_ever_change_places() -> None:
    rng = random.Random(0)
    made, found, _ = made_for(rng.randrange(100) for _ in range(20_000))
    assert made < 30 and found > 0.14 * 20_000


def test_what_is_frequent_gets_in_and_what_is_no_longer_used_goes() -> None:
    rng = random.Random(1)
    early = [rng.randrange(100) for _ in range(2000)]
    late = ["camera" if rng.random() < 0.5 else rng.randrange(100) for _ in range(500)]
    _, _, cache = made_for(early + late)
    assert cache.get("camera") == "camera"
    made, _, cache = made_for([*"abcdefgh" * 3, *"stuvwxyz" * 20], limit=8)
    assert made == 16 and all(cache.get(key) for key in "stuvwxyz")


def test_no_room_at_all() -> None:
    assert made_for("aaaaaaaaaaaaaaaaaaaa", limit=0)[:2] == (0, 0)
