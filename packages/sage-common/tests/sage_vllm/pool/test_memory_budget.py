"""A pool in a budget of memory: who is loaded, who makes place, and that no call fails of it."""

from __future__ import annotations

import random
import threading
import time
from collections.abc import Callable
from concurrent.futures import CancelledError, Future
from pathlib import Path
from typing import Any

import pytest

from sage.common.components.sage_vllm.config import VLLMServiceConfig
from sage.common.components.sage_vllm.engine_contract import Engine, Role
from sage.common.components.sage_vllm.errors import EngineClosedError
from sage.common.components.sage_vllm.planning.memory_check import InsufficientMemoryError
from sage.common.components.sage_vllm.pool.engine_pool import EnginePool
from sage.common.components.sage_vllm.service import VLLMService
from sage.common.core.background import in_background

MakePool = Callable[..., EnginePool]
NAMES = {"a": "test/one", "b": "test/other", "c": "test/third", "d": "test/fourth"}


@pytest.fixture
def pool_of(root: Path, measured: Any) -> Any:
    """A function that opens a pool of the models a, b, c and d in a budget of 250 bytes."""
    pools: list[EnginePool] = []

    def make(models: dict[str, Any] | None = None, **settings: Any) -> EnginePool:
        given = {name: {"model_id": NAMES[name], **facts} for name, facts in (models or {}).items()}
        given = given or {name: {"model_id": NAMES[name]} for name in "abc"}
        defaults = {"models": given, "memory_budget": 250, "max_wait": 5.0}
        config = VLLMServiceConfig(model_root=root, **{**defaults, **settings})
        pools.append(EnginePool(config, measured))
        pools[-1].open()
        return pools[-1]

    yield make
    for pool in pools:
        pool.close()
    assert measured.alive == []


def ask(pool: EnginePool, model: str, prompt: str = "hello") -> Future[Any]:
    """Start a call; its result is the model that answers."""

    def start(engine: Engine) -> Future[Any]:
        answered: Future[Any] = Future()
        inner = engine.submit(prompt, {})

        def settle(done: Future[Any]) -> None:
            if not answered.set_running_or_notify_cancel():
                return
            if (error := done.exception()) is not None:
                answered.set_exception(error)
            else:
                answered.set_result(engine.info.model_id)

        inner.add_done_callback(settle)
        return answered

    return pool.call(Role.GENERATE, start, model=model)


def loads(pool: EnginePool) -> dict[str, int]:
    return {entry.name: entry.loads for entry in pool.table.all()}


def states(pool: EnginePool) -> dict[str, str]:
    return {name: state for name, state in pool.health()["models"].items() if state != "unloaded"}


def settled(pool: EnginePool) -> dict[str, str]:
    """Return the states once no model comes or goes: its first calls are answered before that."""
    until(lambda: not {"loading", "unloading"} & {*states(pool).values()})
    return states(pool)


def until(test: Callable[[], bool]) -> None:
    end = time.monotonic() + 60
    while not test():
        if time.monotonic() > end:
            pytest.fail("it did not come to that")
        time.sleep(0.001)


def test_models_share_the_budget_and_the_least_recently_used_makes_place(
    pool_of: Any, measured: Any
) -> None:
    pool = pool_of()
    for name, there in (("a", "a"), ("b", "ab"), ("a", "ab"), ("c", "ac"), ("b", "bc")):
        assert ask(pool, name).result(60) == NAMES[name]
        assert settled(pool) == dict.fromkeys(there, "ready")
        time.sleep(0.06)  # nobody is at work: how long a load lasts makes no difference then
    assert measured.most == 200
    assert loads(pool) == {"a": 1, "b": 2, "c": 1}


def test_six_hundred_records_in_rotation_load_a_few_times_and_none_fails(
    root: Path, measured: Any
) -> None:
    models = {name: {"model_id": NAMES[name]} for name in "abc"}
    config = {"models": models, "memory_budget": 250, "model_root": root}
    with VLLMService(config, engine_factory=measured) as service:
        slots = threading.Semaphore(128)
        futures = []
        for number in range(600):
            slots.acquire()
            future = service.generate_async(f"record {number}", model="abc"[number % 3])
            future.add_done_callback(lambda _: slots.release())
            futures.append(future)
        for number, future in enumerate(futures):
            (answer,) = future.result(60)
            assert answer["text"] == f"record {number}"
            assert answer["model_id"] == NAMES["abc"[number % 3]]
        stats = service.stats()["models"]
    assert sum(facts["loads"] for facts in stats.values()) <= 12
    assert measured.most <= 250


def test_calls_in_flight_are_finished_before_their_model_goes(pool_of: Any, measured: Any) -> None:
    pool = pool_of(max_wait=0.2)
    held = [ask(pool, name, "hold this") for name in "ab"]
    until(lambda: len(measured.alive) == 2)
    third = ask(pool, "c")
    until(lambda: "unloading" in states(pool).values())
    going = next(name for name, state in states(pool).items() if state == "unloading")
    late = ask(pool, going)
    assert not third.done()
    for engine in list(measured.alive):
        if engine.spec.model_id == NAMES[going]:
            engine.let_go()
    assert third.result(60) == NAMES["c"]
    assert held["ab".index(going)].result(60) == NAMES[going]
    for engine in list(measured.alive):
        engine.let_go()
    assert late.result(60) == NAMES[going]
    for future in held:
        assert future.result(60)


def test_a_pinned_model_is_never_unloaded(pool_of: Any, measured: Any) -> None:
    pool = pool_of({"a": {"pin": True, "preload": True}, "b": {}, "c": {}, "d": {}}, max_wait=0.0)
    first = measured.alive[0]
    for round_ in range(5):
        for name in "bcd":
            assert ask(pool, name).result(60) == NAMES[name], round_
        assert ask(pool, "a").result(60) == NAMES["a"]
    assert measured.alive[0] is first
    assert loads(pool)["a"] == 1


def test_a_model_larger_than_the_budget_is_refused_when_the_service_opens(
    pool_of: Any, measured: Any
) -> None:
    measured.sizes["test/other"] = 300
    with pytest.raises(InsufficientMemoryError, match="test/other") as error:
        pool_of()
    assert "memory_budget" in str(error.value)
    assert measured.built == []
    measured.sizes["test/other"] = 200  # fits, but not beside what is pinned
    with pytest.raises(InsufficientMemoryError, match="test/other"):
        pool_of({"a": {"pin": True}, "b": {}})
    assert pool_of({"a": {}, "b": {}}).state == "ready"


def test_what_is_larger_takes_the_place_of_two(pool_of: Any, measured: Any) -> None:
    measured.sizes["test/third"] = 220
    pool = pool_of()
    assert [ask(pool, name).result(60) for name in "ab"] == ["test/one", "test/other"]
    assert ask(pool, "c").result(60) == "test/third"
    assert settled(pool) == {"c": "ready"}
    assert measured.most <= 250


def test_what_an_engine_really_takes_counts_while_it_is_loaded(pool_of: Any, measured: Any) -> None:
    planned = measured.taken_memory
    measured.taken_memory = lambda: (
        planned() + 60 * any(engine.spec.model_id == "test/one" for engine in measured.alive)
    )
    pool = pool_of()
    assert ask(pool, "a").result(60) == "test/one"
    assert pool.table.entry("a").bytes == 160
    assert ask(pool, "b").result(60) == "test/other"
    assert settled(pool) == {"b": "ready"}  # 90 bytes were left
    assert pool.table.entry("a").bytes == 100
    assert ask(pool, "a").result(60) == "test/one"
    assert settled(pool) == {"a": "ready", "b": "ready"}
    del measured.taken_memory


def test_a_budget_that_another_program_shrinks_moves_a_model_or_fails_those_who_wait(
    pool_of: Any, measured: Any
) -> None:
    pool = pool_of({"a": {"pin": True}, "b": {}, "c": {}})
    assert ask(pool, "a").result(60)
    measured.others = 120
    assert ask(pool, "b", "hello").exception(60) is not None  # 30 bytes are left, and a stays
    assert ask(pool, "a").result(60) == "test/one"
    assert pool.state == "ready"
    measured.others = 20
    assert ask(pool, "b").result(60) == "test/other"
    measured.others = 50
    assert ask(pool, "c").result(60) == "test/third"  # in the place of b
    assert settled(pool) == {"a": "ready", "c": "ready"}


def test_an_engine_that_finds_less_memory_than_was_planned_moves_another(
    pool_of: Any, measured: Any
) -> None:
    pool = pool_of()
    assert [ask(pool, name).result(60) for name in "ab"]
    measured.sizes["test/third"] = 100
    real = measured.device_memory
    measured.device_memory = lambda: type(real())(free=1000, total=1000)
    measured.free_for = 1  # of a sudden, and the machine says so only to who builds
    assert ask(pool, "c").result(60) == "test/third"
    assert settled(pool) == {"c": "ready"}
    del measured.device_memory


def test_a_model_that_fails_to_load_between_two_that_serve_is_its_callers_alone(
    pool_of: Any, measured: Any
) -> None:
    measured.broken.add("test/other")
    pool = pool_of()
    futures = {name: [ask(pool, name) for _ in range(20)] for name in "abc"}
    for name in "ac":
        assert {future.result(60) for future in futures[name]} == {NAMES[name]}
    for future in futures["b"]:
        with pytest.raises(RuntimeError, match="test/other is broken"):
            future.result(60)
    assert settled(pool) == {"a": "ready", "b": "failed", "c": "ready"}
    assert pool.state == "ready"
    assert "test/other is broken" in pool.health()["last_error"]
    measured.broken.clear()
    assert ask(pool, "b").result(60) == "test/other"


def test_a_model_is_unloaded_when_it_was_idle_for_so_long(pool_of: Any, measured: Any) -> None:
    pool = pool_of({"a": {"keep_alive": 0.2}, "b": {}})
    assert [ask(pool, name).result(60) for name in "ab"]
    time.sleep(0.1)
    used = time.perf_counter()
    assert ask(pool, "a").result(60)
    until(lambda: len(measured.alive) == 1)
    assert time.perf_counter() - used >= 0.2
    assert settled(pool) == {"b": "ready"}
    assert ask(pool, "a").result(60) == "test/one"
    until(lambda: "sage-pool" not in {thread.name for thread in threading.enumerate()})


# -- while calls wait -----------------------------------------------------------------------------


def test_a_deadline_holds_while_a_call_waits_for_its_model(root: Path, measured: Any) -> None:
    models = {name: {"model_id": NAMES[name]} for name in "ab"}
    config = {"models": models, "memory_budget": 250, "model_root": root}
    with VLLMService(config, engine_factory=measured) as service:
        measured.hold("building")
        began = time.perf_counter()
        whole = service.generate_async("without one", model="a")
        some = [{"prompt": "x", "options": {"deadline": 0.1}}, "y"]
        mixed = service.generate_async(some, model="a")
        calls = [
            service.generate_async(["one", "two"], model="a", deadline=0.2, n=2),
            service.generate_async("soon", model="b", deadline=0.1),
        ]
        for future in calls:  # while the model cannot be built
            for answer in future.result(50):
                assert (answer["text"], answer["finish_reason"]) == ("", "deadline")
                assert answer["tokens_used"] == {"prompt": 0, "completion": 0, "total": 0}
        assert calls[0].result()[0]["model_id"] == "test/one"
        assert len(calls[0].result()[0]["choices"]) == 2
        assert time.perf_counter() - began >= 0.2
        stream = service.stream("never", model="a", deadline=0.05)
        assert list(stream) == []
        assert stream.result["finish_reason"] == "deadline"
        assert not whole.done()
        facts = service.stats()["models"]["a"]
        assert (facts["state"], facts["waiting_for_place"]) == ("loading", 3)
        measured.let("building")
        assert whole.result(60)[0]["text"] == "without one"
        assert [answer["finish_reason"] for answer in mixed.result(60)] == ["deadline", "stop"]


def test_nobody_loads_a_model_that_nobody_waits_for_any_more(pool_of: Any, measured: Any) -> None:
    pool = pool_of({"a": {}, "b": {}, "c": {}}, max_wait=60.0)
    held = [ask(pool, name, "hold this") for name in "ab"]
    until(lambda: len(measured.alive) == 2)
    waiting = [ask(pool, "c") for _ in range(5)]
    assert states(pool)["c"] == "waiting"
    assert all(future.cancel() for future in waiting)
    for engine in list(measured.alive):
        engine.let_go()
    assert [future.result(60) for future in held]
    time.sleep(0.1)
    assert loads(pool)["c"] == 0
    assert settled(pool) == {"a": "ready", "b": "ready"}
    until(lambda: "sage-pool" not in {thread.name for thread in threading.enumerate()})


def test_two_hundred_callers_over_four_models_with_random_cancels_leave_nothing_behind(
    root: Path, measured: Any
) -> None:
    models = {name: {"model_id": model_id} for name, model_id in NAMES.items()}
    config = {"models": models, "memory_budget": 250, "model_root": root, "max_wait": 0.05}
    answered = [0]
    lock = threading.Lock()
    failures: list[BaseException] = []

    with VLLMService(config, engine_factory=measured) as service:

        def caller(number: int) -> None:
            chance = random.Random(number)
            for turn in range(10):
                model = chance.choice("abcd")
                future = service.generate_async(f"{number} {turn}", model=model)
                if chance.random() < 0.3:
                    time.sleep(chance.random() * 0.01)
                    future.cancel()
                try:
                    (answer,) = future.result(60)
                except CancelledError:
                    continue
                except BaseException as error:  # noqa: BLE001 - any at all is a failure
                    failures.append(error)
                    return
                with lock:
                    answered[0] += 1
                if (answer["text"], answer["model_id"]) != (f"{number} {turn}", NAMES[model]):
                    failures.append(AssertionError(answer))

        threads = [threading.Thread(target=caller, args=(n,)) for n in range(200)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(120)
        assert failures == []
        assert answered[0] > 1000
        entries = service._engines.table.all()
        until(lambda: all(entry.slot.demand().running == 0 for entry in entries))
        assert all(entry.slot.demand().waiting == 0 for entry in entries)
        assert all(not entry.slot._waiting and not entry.slot._expiring for entry in entries)
    assert measured.most <= 250
    assert measured.alive == []


# -- switching, closing ---------------------------------------------------------------------------


def test_an_entry_is_switched_by_its_name_and_the_others_are_not_disturbed(
    pool_of: Any, measured: Any
) -> None:
    pool = pool_of({"a": {}, "b": {}}, memory_budget=350)
    assert [ask(pool, name).result(60) for name in "ab"] == ["test/one", "test/other"]
    pool.switch("test/third", name="b")
    assert [ask(pool, name).result(60) for name in "ab"] == ["test/one", "test/third"]
    measured.broken.add("test/fourth")
    with pytest.raises(RuntimeError, match="test/fourth is broken"):
        pool.switch("test/fourth", name="b")
    assert [ask(pool, name).result(60) for name in "ab"] == ["test/one", "test/third"]
    assert pool.state == "ready"


def test_a_switch_in_a_full_budget_takes_turns_and_goes_back_when_it_fails(
    pool_of: Any, measured: Any
) -> None:
    pool = pool_of({"a": {}, "b": {}})
    assert [ask(pool, name).result(60) for name in "ab"] == ["test/one", "test/other"]
    pool.switch("test/third", name="b")
    assert ask(pool, "b").result(60) == "test/third"
    assert measured.most == 200
    measured.broken.add("test/fourth")
    with pytest.raises(RuntimeError, match="test/fourth is broken"):
        pool.switch("test/fourth", name="b")
    assert [ask(pool, name).result(60) for name in "ab"] == ["test/one", "test/third"]
    measured.sizes["test/fourth"] = 300
    with pytest.raises(InsufficientMemoryError, match="test/fourth"):
        pool.switch("test/fourth", name="b")
    assert settled(pool) == {"a": "ready", "b": "ready"}


def test_an_entry_that_is_not_loaded_is_switched_for_its_next_call(
    pool_of: Any, measured: Any
) -> None:
    pool = pool_of({"a": {}, "b": {}})
    pool.switch("test/third", name="b")
    assert measured.built == []
    assert ask(pool, "b").result(60) == "test/third"


def test_an_entry_may_be_switched_while_it_makes_place(pool_of: Any, measured: Any) -> None:
    pool = pool_of(max_wait=0.1)
    held = [ask(pool, name, "hold this") for name in "ab"]
    until(lambda: len(measured.alive) == 2)
    third = ask(pool, "c")
    until(lambda: "unloading" in states(pool).values())
    going = next(name for name, state in states(pool).items() if state == "unloading")
    switching = in_background(pool.switch, "test/fourth", name=going)
    late = ask(pool, going)
    for engine in list(measured.alive):
        engine.let_go()
    assert third.result(60) == "test/third"
    switching.result(60)
    assert late.result(60) in ("test/fourth", NAMES[going])
    assert ask(pool, going).result(60) == "test/fourth"
    assert [future.result(60) for future in held]


def test_when_a_pinned_model_is_lost_the_others_serve_and_are_loaded(
    pool_of: Any, measured: Any
) -> None:
    pool = pool_of({"a": {"pin": True, "preload": True}, "b": {}}, memory_budget=200)
    measured.others = 100  # no room for two
    measured.broken |= {"test/one", "test/third"}
    with pytest.raises(RuntimeError, match="test/third is broken"):
        pool.switch("test/third", name="a")
    assert pool.state == "failed"
    with pytest.raises(RuntimeError, match="test/one is broken"):
        ask(pool, "a")
    assert ask(pool, "b").result(60) == "test/other"
    pool.switch("test/fourth", name="b")
    assert ask(pool, "b").result(60) == "test/fourth"
    assert pool.state == "failed"


@pytest.mark.parametrize("phase", ["building", "draining"])
def test_closing_while_a_model_is_loaded_or_makes_place(
    pool_of: Any, measured: Any, phase: str
) -> None:
    pool = pool_of(max_wait=0.0)
    held = [ask(pool, name, "hold this") for name in "ab"]
    until(lambda: len(measured.alive) == 2)
    if phase == "building":
        for engine in list(measured.alive):
            engine.let_go()
        assert [future.result(60) for future in held]
    measured.hold(phase)
    waiting = ask(pool, "c")
    measured.until(phase)
    closing = in_background(pool.close)
    until(lambda: pool.state == "closed")
    with pytest.raises(EngineClosedError):
        waiting.result(60)
    measured.let(phase)
    closing.result(60)
    assert measured.alive == []
    assert all(future.done() for future in held)
    with pytest.raises(EngineClosedError):
        ask(pool, "a")
    until(lambda: "sage-pool" not in {thread.name for thread in threading.enumerate()})


def test_closing_at_any_moment_leaves_no_engine_and_no_caller(root: Path, measured: Any) -> None:
    for seed in range(20):
        chance = random.Random(seed)
        models = {name: {"model_id": model_id} for name, model_id in NAMES.items()}
        config = {"models": models, "memory_budget": 250, "model_root": root, "max_wait": 0.01}
        service = VLLMService(config, engine_factory=measured)
        service.open()
        futures = [service.generate_async("hi", model=chance.choice("abcd")) for _ in range(40)]
        time.sleep(chance.random() * 0.03)
        service.close()
        for future in futures:
            error = future.exception(60)
            assert error is None or isinstance(error, EngineClosedError)
        assert measured.alive == []
