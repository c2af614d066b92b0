"""ReplayQueue: what is replayed together and what alone, and which request kills."""

from __future__ import annotations

from sage.common.components.sage_vllm.driver.engine_request import EngineRequest, to_generation
from sage.common.replicas.replay_queue import ReplayQueue


def requests(*names: str) -> dict[str, EngineRequest]:
    return {name: EngineRequest(name, {}, None, to_generation) for name in names}


def take_all(queue: ReplayQueue[EngineRequest]) -> dict[str, EngineRequest]:
    """Take what may go in flight together."""
    in_flight: dict[str, EngineRequest] = {}
    while queue and (request := queue.take(in_flight.values())):
        in_flight[request.id] = request
    return in_flight


def test_after_a_first_crash_all_go_together_in_their_order() -> None:
    queue: ReplayQueue[EngineRequest] = ReplayQueue()
    in_flight = requests("a", "b", "c")
    assert queue.put_back(in_flight) is None
    assert in_flight == {}
    assert list(take_all(queue)) == ["a", "b", "c"]
    assert len(queue) == 0


def test_what_came_meanwhile_goes_behind_those_that_crashed() -> None:
    queue: ReplayQueue[EngineRequest] = ReplayQueue()
    queue.put_back(requests("a", "b"))
    queue.append(requests("new")["new"])
    assert list(take_all(queue)) == ["a", "b", "new"]


def test_after_a_second_crash_each_goes_alone() -> None:
    queue: ReplayQueue[EngineRequest] = ReplayQueue()
    queue.put_back(requests("a", "b"))
    queue.put_back(take_all(queue))
    assert list(take_all(queue)) == ["a"]
    assert list(take_all(queue)) == ["b"]


def test_a_suspect_goes_beside_no_request_that_has_not_crashed() -> None:
    queue: ReplayQueue[EngineRequest] = ReplayQueue()
    queue.put_back(requests("a", "b"))
    queue.put_back(take_all(queue))
    assert queue.take(requests("fresh").values()) is None


def test_one_that_crashes_alone_is_poison_and_the_others_go_together() -> None:
    queue: ReplayQueue[EngineRequest] = ReplayQueue()
    queue.put_back(requests("a", "poison", "b", "c"))
    queue.put_back(take_all(queue))
    assert list(take_all(queue)) == ["a"]  # and it is done
    alone = take_all(queue)
    poison = queue.put_back(alone)
    assert poison is not None
    assert poison.id == "poison"
    assert list(take_all(queue)) == ["b", "c"]


def test_a_single_request_is_not_given_up_for_its_first_crash() -> None:
    queue: ReplayQueue[EngineRequest] = ReplayQueue()
    assert queue.put_back(requests("a")) is None
    found = queue.put_back(take_all(queue))
    assert found is not None
    assert found.id == "a"


def test_clearing_returns_all_that_waited() -> None:
    queue: ReplayQueue[EngineRequest] = ReplayQueue()
    queue.put_back(requests("a", "b"))
    assert [request.id for request in queue.clear()] == ["a", "b"]
    assert len(queue) == 0


def test_a_queue_may_want_more_crashes_before_it_gives_a_request_up() -> None:
    queue: ReplayQueue[EngineRequest] = ReplayQueue(poison_from=3)
    assert queue.put_back(requests("a")) is None
    assert queue.put_back(take_all(queue)) is None
    found = queue.put_back(take_all(queue))
    assert found is not None
    assert found.id == "a"
