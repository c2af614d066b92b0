"""Where calls go among equal engines."""

from __future__ import annotations

import random
from collections import Counter

import pytest

from sage.common.components.sage_vllm.replicas.prompt_prefix import PREFIX_CHARACTERS, prefix_of
from sage.common.replicas.router import PrefixRouter


def test_equal_prefixes_meet_on_two_replicas_at_most() -> None:
    router = PrefixRouter()
    for stem in range(50):
        went = {router.route(f"stem {stem}", [0] * 8) for _ in range(20)}
        assert len(went) == 1
        chosen = went.pop()
        assert chosen is not None
        busy = [0] * 8
        busy[chosen] = 1
        second = router.route(f"stem {stem}", busy)
        assert second != chosen
        assert router.route(f"stem {stem}", [1] * 8) == chosen


def test_prefixes_spread_evenly() -> None:
    router = PrefixRouter()
    went = Counter(router.route(f"prompt {n}", [0] * 4) for n in range(4000))
    assert set(went) == {0, 1, 2, 3}
    assert max(went.values()) < 1.15 * min(went.values())


def test_a_replica_that_goes_moves_only_its_own_prefixes() -> None:
    router = PrefixRouter()
    for n in range(300):
        before = router.route(f"prompt {n}", [0] * 5)
        after = router.route(f"prompt {n}", [0, 0, None, 0, 0])
        assert after == before or before == 2
        assert after != 2


def test_a_popular_prefix_spills_over() -> None:
    router = PrefixRouter()
    loads: list[int | None] = [0] * 4
    for _ in range(400):
        chosen = router.route("everybody's prompt", loads)
        assert chosen is not None
        loads[chosen] = (loads[chosen] or 0) + 1
    counts = [load or 0 for load in loads]
    assert sum(counts) == 400
    assert max(counts) <= 1.25 * 100 + 1
    assert min(counts) > 0


def test_without_a_prefix_the_load_alone_decides() -> None:
    assert PrefixRouter().route("", [3, 1, None, 2]) == 1


def test_with_no_replica_there_is_no_number() -> None:
    assert PrefixRouter().route("prompt", [None, None]) is None
    assert PrefixRouter().route("prompt", []) is None


def test_a_full_run_stays_balanced_while_calls_come_and_go() -> None:
    """Half of the calls share one of eight stems; the rest are alone."""
    chance, router = random.Random(5), PrefixRouter()
    in_flight: list[list[int]] = [[] for _ in range(4)]  # when each call of a replica ends
    most = 0.0
    for now in range(4000):
        for calls in in_flight:
            calls[:] = [end for end in calls if end > now]
        stem = f"stem {chance.randrange(8)}" if chance.random() < 0.5 else f"alone {now}"
        chosen = router.route(stem, [len(calls) for calls in in_flight])
        assert chosen is not None
        in_flight[chosen].append(now + chance.randrange(20, 60))
        if now > 200:
            total = sum(map(len, in_flight))
            most = max(most, 4 * max(map(len, in_flight)) / total)
    assert most < 1.6


@pytest.mark.parametrize("length", [10, PREFIX_CHARACTERS, 5000])
def test_the_prefix_of_a_text_is_its_beginning(length: int) -> None:
    assert prefix_of("x" * length) == "x" * min(length, PREFIX_CHARACTERS)


def test_the_prefix_of_a_conversation_is_that_of_its_turns() -> None:
    system = {"role": "system", "content": "s" * 600}
    one = prefix_of([system, {"role": "user", "content": "one"}])
    two = prefix_of([system, {"role": "user", "content": "two"}])
    assert one == two
    assert len(one) == PREFIX_CHARACTERS
    short = {"role": "system", "content": "short"}
    one = prefix_of([short, {"role": "user", "content": "one"}])
    assert one != prefix_of([short, {"role": "user", "content": "two"}])
    assert one != prefix_of([short, {"role": "assistant", "content": "one"}])


def test_half_a_character_has_a_place_too() -> None:
    assert PrefixRouter().route("\ud83d", [0, 0]) in (0, 1)
