"""Workload: requests on their way, and their deadlines."""

from __future__ import annotations

from sage.common.components.sage_vllm.driver.engine_request import EngineRequest, to_generation
from sage.common.components.sage_vllm.driver.workload import Workload


def request(name: str, deadline: float | None = None) -> EngineRequest:
    return EngineRequest(name, {}, None, to_generation, deadline=deadline)


def test_all_that_is_on_its_way_is_counted_and_cleared() -> None:
    work = Workload()
    work.arrived.append(request("a"))
    work.texts.append(request("b"))
    work.replays.append(request("c"))
    work.in_flight["d"] = request("d")
    assert len(work) == 4
    assert sorted(each.id for each in work.clear()) == ["a", "b", "c", "d"]
    assert len(work) == 0


def test_requests_expire_in_the_order_of_their_deadlines_and_once() -> None:
    work = Workload()
    soon, later, never = request("soon", 1), request("later", 2), request("never")
    for each in (later, never, soon):
        work.in_flight[each.id] = each
        work.watch_deadline(each)
    assert soon.deadline is not None
    assert later.deadline is not None
    assert work.take_expired(soon.deadline - 0.5) == []
    assert work.take_expired(soon.deadline) == [soon]
    assert work.take_expired(soon.deadline) == []
    assert work.take_expired(later.deadline + 100) == [later]


def test_a_request_that_is_done_does_not_expire() -> None:
    work = Workload()
    done = request("done", 1)
    work.in_flight[done.id] = done
    work.watch_deadline(done)
    del work.in_flight[done.id]
    assert done.deadline is not None
    assert work.take_expired(done.deadline + 1) == []
