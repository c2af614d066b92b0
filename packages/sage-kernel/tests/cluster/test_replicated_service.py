"""Replicas of a service on a cluster of threads, which fail as they are told to."""

from __future__ import annotations

import gc
import sys
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

sys.path.insert(0, str(Path(__file__).parent))  # importlib mode leaves it out

from cluster_processes import until

from sage.common.core.background import in_background
from sage.common.service import (
    BaseService,
    Replication,
    ServiceClosedError,
    ServiceMethodNotFoundError,
)
from sage.kernel.runtime.cluster.cluster import Need, Node
from sage.kernel.runtime.cluster.errors import (
    PlacementError,
    PoisonCallError,
    RemoteError,
    ReplicaDiedError,
)
from sage.kernel.runtime.cluster.fake_cluster import FakeCluster, FakeRemote, Fault
from sage.kernel.runtime.cluster.mail.carriage import RemoteTraceback
from sage.kernel.runtime.cluster.placement import Placement
from sage.kernel.runtime.cluster.replicas import start_up
from sage.kernel.runtime.cluster.replicas.replica import Call
from sage.kernel.runtime.cluster.replicas.replicated_service import (
    ReplicaSettings,
    ReplicatedService,
)
from sage.kernel.runtime.cluster.replicas.supervision import Supervision
from sage.kernel.runtime.service import ServiceFactory, ServiceManager

QUICK = Supervision(delays=(0.0, 0.001), most_deaths=100, poison_from=100)


class OddError(Exception):
    """An error that has what cannot be sent."""

    retryable = True

    def __init__(self, *, number: int) -> None:
        super().__init__(f"odd {number}")
        self.lock = threading.Lock()


class Doubler(BaseService):
    """Doubles numbers, and does some things that services do."""

    max_concurrency = None
    capacity = 16

    @classmethod
    def replication(cls, **_: Any) -> Replication:
        return Replication(replayable=True)

    def __init__(self, *, broken: bool = False) -> None:
        self.broken = broken
        self.waiting: list[Future[int]] = []
        self.cancelled = threading.Event()

    def setup(self) -> None:
        if self.broken:
            raise LookupError("no weights")

    def double(self, number: int) -> int:
        return 2 * number

    def fail(self, number: int) -> None:
        error = ValueError("a bad number", number)
        error.add_note("told by the service")
        raise error

    def fail_oddly(self, number: int) -> None:
        raise OddError(number=number)

    def lock(self) -> Any:
        return threading.Lock()

    def wait(self) -> Any:
        raise AssertionError("its twin is called")

    def wait_async(self) -> Future[int]:
        future: Future[int] = Future()
        future.add_done_callback(lambda done: self.cancelled.set())
        self.waiting.append(future)
        return future

    async def later(self, number: int) -> int:
        return number

    def where(self) -> int:
        return id(self)

    def through(self, number: int) -> Any:
        """Asks another service."""
        return self.call_service("local", number, method="triple")


class Local(BaseService):
    """A service that stays here."""

    def triple(self, number: int) -> int:
        return 3 * number


class Lone(Doubler):
    """A service whose calls may not be made twice."""

    @classmethod
    def replication(cls, **_: Any) -> Replication:
        return Replication()


@contextmanager
def served(
    cluster: FakeCluster,
    *,
    count: int = 1,
    service: type[BaseService] = Doubler,
    supervision: Supervision = QUICK,
    **kwargs: Any,
) -> Iterator[ServiceManager]:
    manager = ServiceManager()
    manager.register("local", ServiceFactory(service_class=Local))
    manager.register("doubler", replicated(cluster, count, service, supervision, **kwargs))
    try:
        manager.start()
        yield manager
    finally:
        manager.close()
        cluster.close()


def replicated(
    cluster: FakeCluster,
    count: int,
    service: type[BaseService] = Doubler,
    supervision: Supervision = QUICK,
    **kwargs: Any,
) -> ServiceFactory:
    factory = ServiceFactory(service_class=service, kwargs=kwargs)
    replication = service.replication(**kwargs)
    settings = ReplicaSettings(least=count, most=count, supervision=supervision)
    return ServiceFactory(
        service_class=ReplicatedService,
        args=(factory, replication, settings, lambda *_: (cluster, Placement(cluster.nodes()))),
    )


# -- calls ----------------------------------------------------------------------------------------


def test_calls_are_answered_by_the_replicas() -> None:
    with served(FakeCluster(), count=3) as manager:
        futures = [manager.call_service_async("doubler", n, method="double") for n in range(100)]
        assert [future.result(10) for future in futures] == [2 * n for n in range(100)]
        assert manager.call_service("doubler", 4, method="double") == 8
        assert manager.capacity("doubler") == 3 * 16


def test_calls_spread_over_all_replicas() -> None:
    with served(FakeCluster(), count=4) as manager:
        waiting = [manager.call_service_async("doubler", method="wait") for _ in range(40)]
        service: Any = manager._running["doubler"].service
        assert [replica.in_flight for replica in service.replica_states] == [10] * 4
        for future in waiting:
            future.cancel()
        until(lambda: all(not r.in_flight for r in service.replica_states))


def all_calls() -> list[Call]:
    """Return the calls that are in memory."""
    # Not by isinstance(): it asks all that is there for a class, and a proxy may raise.
    return [each for each in gc.get_objects() if type(each) is Call]


def test_who_has_an_answer_does_not_keep_the_call() -> None:
    gc.collect()
    others = all_calls()  # which another test has left
    gc.disable()
    try:
        with served(FakeCluster(), count=2) as manager:
            calls = [manager.call_service_async("doubler", n, method="double") for n in range(100)]
            assert [call.result(10) for call in calls] == [2 * n for n in range(100)]
            until(lambda: all(each in others for each in all_calls()))
    finally:
        gc.enable()


def test_errors_arrive_with_type_attributes_notes_and_traceback() -> None:
    with served(FakeCluster()) as manager:
        with pytest.raises(ValueError, match="a bad number") as caught:
            manager.call_service("doubler", 3, method="fail")
        assert caught.value.args == ("a bad number", 3)
        assert caught.value.__notes__ == ["told by the service"]
        assert isinstance(caught.value.__cause__, RemoteTraceback)
        assert 'error.add_note("told by the service")' not in str(caught.value)
        assert "in fail" in str(caught.value.__cause__)


def test_an_error_that_cannot_be_brought_over_is_told_in_words() -> None:
    with served(FakeCluster()) as manager, pytest.raises(RemoteError) as caught:
        manager.call_service("doubler", 3, method="fail_oddly")
    assert caught.value.type_name.endswith("OddError")
    assert caught.value.text == "odd 3"
    assert caught.value.retryable


def test_what_cannot_be_sent_is_the_error_of_its_call() -> None:
    with served(FakeCluster()) as manager:
        with pytest.raises(TypeError, match="pickle") as caught:
            manager.call_service("doubler", threading.Lock(), method="double")
        assert caught.value.__notes__[0] == (
            "doubler.double() runs in another process, and args[0] (lock) cannot be sent there"
        )
        with pytest.raises(TypeError, match="pickle") as caught:
            manager.call_service("doubler", method="lock")
        assert "the result of doubler.lock() could not be sent" in str(caught.value.__notes__)
        assert manager.call_service("doubler", 4, method="double") == 8


def test_an_unknown_method_names_the_service_s_own() -> None:
    with served(FakeCluster()) as manager:
        with pytest.raises(ServiceMethodNotFoundError, match="did you mean 'double'") as caught:
            manager.call_service("doubler", method="duble")
        assert {"double", "wait"} <= {*caught.value.methods}
        assert not [each for each in caught.value.methods if each.endswith("_async")]
        with pytest.raises(TypeError, match=r"later\(\) of service 'doubler' is `async def`"):
            manager.call_service("doubler", 1, method="later")
        with pytest.raises(NotImplementedError, match="Doubler defines no process"):
            manager.call_service("doubler", 1)


def test_a_cancelled_call_is_cancelled_there() -> None:
    cluster = FakeCluster()
    with served(cluster) as manager:
        future = manager.call_service_async("doubler", method="wait")
        service = cluster.remotes[0].hosted._running.service
        until(lambda: service.waiting)
        assert future.cancel()
        assert service.cancelled.wait(20)
        until(lambda: not cluster.remotes[0].hosted._calls)


def test_a_replica_calls_services_that_stay_here_and_itself() -> None:
    with served(FakeCluster(), count=2) as manager:
        futures = [manager.call_service_async("doubler", n, method="through") for n in range(20)]
        assert [future.result(10) for future in futures] == [3 * n for n in range(20)]


def test_calls_after_the_end_and_those_in_flight_say_so() -> None:
    with served(FakeCluster()) as manager:
        future = manager.call_service_async("doubler", method="wait")
        manager.close()
        with pytest.raises(ServiceClosedError):
            future.result(5)
        with pytest.raises(ServiceClosedError):
            manager.call_service("doubler", 1, method="double")


def test_what_results_follow_from_is_what_the_replicas_say() -> None:
    with served(FakeCluster(), count=2, service=Dated) as manager:
        assert manager.identities() == {"doubler": {"version": "there"}}
    manager = ServiceManager()
    manager.register("doubler", replicated(FakeCluster(), 2, Dated))
    assert manager.identities() == {"doubler": {"version": "here"}}


class Dated(Doubler):
    """A service that knows more of itself when it is open."""

    def checkpoint_identity(self) -> dict[str, Any]:
        return {"version": "there" if self.accepts_calls else "here"}


def test_nothing_is_left_of_it() -> None:
    before = threading.active_count()
    cluster = FakeCluster()
    with served(cluster, count=3) as manager:
        manager.call_service("doubler", 1, method="double")
    assert all(remote.dead for remote in cluster.remotes)
    until(lambda: threading.active_count() <= before)


# -- starting -------------------------------------------------------------------------------------


def test_an_error_of_setup_is_raised_with_its_type_and_says_where() -> None:
    cluster = FakeCluster(nodes=[Node(name="node-7", cpus=4)])
    with (
        pytest.raises(LookupError, match="no weights") as caught,
        served(cluster, count=2, broken=True),
    ):
        pass
    assert "while starting service 'doubler' on node-7" in caught.value.__notes__
    until(lambda: all(remote.dead for remote in cluster.remotes))


def test_what_no_machine_can_hold_is_refused_before_anything_starts() -> None:
    cluster = FakeCluster(nodes=[Node(name="a", cpus=4, gpus=2), Node(name="b", cpus=4)])
    room = Placement(cluster.nodes())
    with pytest.raises(PlacementError, match=r"4 GPUs and 1 CPU of one machine, and no .* b: 4 C"):
        room.take("service 'x'", Need(gpus=4), 1, 1)
    with pytest.raises(PlacementError, match=r"2 are asked for.*has room for 1"):
        room.take("service 'x'", Need(gpus=2), 2, 2)
    room.take("service 'x'", Need(gpus=1), 2, 8)
    with pytest.raises(PlacementError):
        room.take("service 'y'", Need(gpus=1), 1, 1)
    assert room.take("service 'z'", Need(cpus=3), 1, None) == 1  # b: two of a's four are taken


@pytest.mark.parametrize(
    ("cpus", "wanted", "given"),
    [
        (3, [3, 2], [2, 1]),
        (2, [8, 8], [1, 1]),
        (8, [3, 2], [3, 2]),
        (3, [8], [8]),  # alone it may wait for others to leave
        (4, [1, 4, 2], [1, 2, 1]),
    ],
)
def test_each_operator_gets_a_worker_before_one_gets_all(
    cpus: int, wanted: list[int], given: list[int]
) -> None:
    room = Placement([Node(name="a", cpus=cpus)], operators=len(wanted))
    assert [room.take_for_workers("operator", Need(cpus=1), most) for most in wanted] == given


def test_where_machines_are_added_nothing_is_refused() -> None:
    room = Placement([Node(name="a", cpus=4)], grows=True)
    room.take("service 'x'", Need(gpus=4), 2, 2)
    assert room.take("service 'y'", Need(cpus=1), 1, None) == 4


@pytest.mark.parametrize(
    ("replicas", "operators", "given"),
    [
        ((1, None), 2, 2),  # all that leave each operator a worker
        ((1, None), 0, 4),
        ((2, 2), 2, 2),
        ((1, 8), 1, 3),  # those that wait would take the room of the worker
        ((1, 8), 0, 8),  # they wait for another machine
    ],
)
def test_replicas_leave_each_operator_a_worker(
    replicas: tuple[int, int | None], operators: int, given: int
) -> None:
    room = Placement([Node(name="a", cpus=4)], operators=operators)
    assert room.take("service 'x'", Need(), *replicas) == given
    assert [room.take_for_workers("operator", Need(), 8) >= 1 for _ in range(operators)] == (
        [True] * operators
    )


def test_replicas_that_leave_no_worker_are_refused_with_the_numbers() -> None:
    room = Placement([Node(name="a", cpus=4)], operators=2)
    said = r"4 are asked for.* room for 2 beside 2 x 1 CPU for workers \(machines: a: 4 CPUs\); ask"
    with pytest.raises(PlacementError, match=said):
        room.take("service 'x'", Need(), 4, 4)
    room.take("service 'x'", Need(), 2, 2)
    with pytest.raises(PlacementError, match=r"room for 0 .* taken: 2 x 1 CPU by service 'x'\)"):
        room.take("service 'y'", Need(), 1, 1)


def test_machines_without_processors_that_gpus_need_leave_room_for_workers() -> None:
    room = Placement([Node(name="a", cpus=8), Node(name="b", cpus=2, gpus=2)], operators=1)
    assert room.take("service 'x'", Need(gpus=1), 1, None) == 2
    assert room.take_for_workers("operator", Need(), 8) == 8  # alone there: it may wait for more


def test_what_takes_nothing_cannot_be_all() -> None:
    room = Placement([Node(name="a", cpus=8)])
    with pytest.raises(PlacementError, match="says of none what it takes; give 'replicas' a num"):
        room.take("service 'x'", Need(cpus=0), 1, None)
    assert room.take("service 'x'", Need(cpus=0), 1, 3) == 3


def test_a_start_that_waits_for_room_says_so(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(start_up, "_TELL_EVERY", 0.01)
    full = True

    def script(_remote: FakeRemote, _method: str) -> Fault:
        return "lost" if full else "none"

    manager = ServiceManager()
    manager.register("doubler", replicated(FakeCluster(script), 2))
    starting = in_background(manager.start)
    told = "doubler: 0 of 2 processes are ready, 2 wait for a machine that has 1 CPU free"
    until(lambda: told in caplog.messages)
    full = False
    starting.result(10)
    assert manager.call_service("doubler", 4, method="double") == 8
    manager.close()


# -- deaths ---------------------------------------------------------------------------------------


def test_calls_of_a_replica_that_dies_are_made_again_on_others() -> None:
    cluster = FakeCluster()
    with served(cluster, count=2) as manager:
        futures = [manager.call_service_async("doubler", method="wait") for _ in range(20)]
        dead, alive = cluster.remotes
        until(lambda: len(dead.hosted._calls) == 10 and len(alive.hosted._calls) == 10)
        dead.die()
        until(lambda: len(cluster.remotes) == 3)
        remotes = cluster.remotes[1:]
        until(lambda: sum(len(remote.hosted._calls) for remote in remotes) == 20)
        for remote in remotes:
            for number, future in enumerate(remote.hosted._running.service.waiting):
                future.set_result(number)
        assert len([future.result(10) for future in futures]) == 20


def test_a_call_that_may_not_be_made_twice_fails_and_may_be_retried() -> None:
    cluster = FakeCluster()
    with served(cluster, service=Lone) as manager:
        future = manager.call_service_async("doubler", method="wait")
        until(lambda: cluster.remotes[0].hosted._calls)
        cluster.remotes[0].die("the machine is gone")
        with pytest.raises(ReplicaDiedError, match="the machine is gone") as caught:
            future.result(10)
        assert caught.value.retryable
        assert manager.call_service("doubler", 2, method="double", timeout=10) == 4


def test_a_call_that_kills_is_found_and_the_others_are_answered() -> None:
    cluster = FakeCluster()
    supervision = Supervision(delays=(0.0,))
    with served(cluster, count=2, service=Killed, supervision=supervision) as manager:
        Killed.cluster = cluster
        futures = [manager.call_service_async("doubler", n, method="double") for n in range(60)]
        outcomes = [future.exception(20) or future.result() for future in futures]
    assert [o for n, o in enumerate(outcomes) if n != 31] == [2 * n for n in range(60) if n != 31]
    assert isinstance(outcomes[31], PoisonCallError)
    assert not outcomes[31].retryable
    assert sum(remote.dead for remote in cluster.remotes) >= 3


class Killed(Doubler):
    """A service whose process ends at the number 31."""

    cluster: FakeCluster

    def double(self, number: int) -> int:
        if number == 31:
            for remote in self.cluster.remotes:
                running = remote.hosted._running
                if running is not None and running.service is self:
                    remote.die("segmentation fault")
            time.sleep(0.05)
        return 2 * number


def test_one_that_dies_and_dies_is_given_up_and_says_why() -> None:
    cluster = FakeCluster()
    supervision = Supervision(delays=(0.0,), most_deaths=3)
    with served(cluster, supervision=supervision) as manager:
        future = manager.call_service_async("doubler", method="wait")
        for number in range(3):
            until(lambda: cluster.remotes[-1].hosted._calls and not cluster.remotes[-1].dead)
            cluster.remotes[-1].die(f"death {number}")
        with pytest.raises(ReplicaDiedError, match="death 2"):
            future.result(10)
        with pytest.raises(ReplicaDiedError, match="death 2"):
            manager.call_service("doubler", 1, method="double")


def test_one_that_hangs_is_replaced_in_time_and_not_heard_any_more(
    held_up: Callable[[], float],
) -> None:
    cluster = FakeCluster()
    supervision = Supervision(health_timeout=1.5, delays=(0.0,))
    with served(cluster, supervision=supervision) as manager:
        hanging = cluster.remotes[-1]
        hanging.hang()
        began = time.monotonic()
        assert manager.call_service("doubler", 2, method="double", timeout=30) == 4
        assert 0.5 < time.monotonic() - began < 1.5 + 2 + held_up()
        assert hanging.dead


def test_one_that_answers_and_makes_no_progress_is_replaced() -> None:
    cluster = FakeCluster()
    supervision = Supervision(health_timeout=4, steps_timeout=0.6, delays=(0.0,))
    with served(cluster, service=Counting, supervision=supervision) as manager:
        idle = cluster.remotes[0]
        time.sleep(1.2)
        assert not idle.dead  # it has nothing to do
        began = time.monotonic()
        future = manager.call_service_async("doubler", method="wait")
        until(lambda: idle.dead)
        assert time.monotonic() - began > 0.5  # since it has something to do, not before
        until(lambda: cluster.remotes[-1].hosted._calls)
        assert not future.done()


class Counting(Doubler):
    """A service that says how far it is: it stands still."""

    steps_done = 7
