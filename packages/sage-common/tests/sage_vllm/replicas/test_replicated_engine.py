"""What several engines promise together, on engines that sleep and die on demand."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import wait
from contextlib import ExitStack, contextmanager
from pathlib import Path

import pytest

from sage.common.components.sage_vllm.engine_contract import Engine, EngineSpec, Generation, Role
from sage.common.components.sage_vllm.errors import (
    EngineClosedError,
    EngineDeadError,
    InvalidRequestError,
)
from sage.common.components.sage_vllm.replicas.replicated_engine import ReplicatedEngine
from sage.common.components.sage_vllm.testing import SleepingEngine

AWAY = 600.0  # seconds, from which an engine comes back when a test says so
LIMIT = 60  # seconds, for what comes soon where nothing else is at work
SPEC = EngineSpec(model_id="test/model", path=Path("unused"), role=Role.GENERATE)


def sleeping(count: int, **arguments: float) -> list[SleepingEngine]:
    return [SleepingEngine(SPEC, **arguments) for _ in range(count)]  # type: ignore[arg-type]


@pytest.fixture
def engines() -> Iterator[list[SleepingEngine]]:
    engines = sleeping(4, step_seconds=0.002, rebuild_seconds=AWAY)
    yield engines
    for engine in engines:
        engine.close()


@pytest.fixture
def slow() -> Iterator[list[SleepingEngine]]:
    """Engines that are at work on a long text as long as a test lasts."""
    engines = sleeping(4, step_seconds=0.2)
    yield engines
    for engine in engines:
        engine.close()


@contextmanager
def held(engines: Sequence[SleepingEngine]) -> Iterator[None]:
    """Have no engine end a step meanwhile: what is in flight stays so."""
    with ExitStack() as stack:
        for engine in engines:
            stack.enter_context(engine._steps.finishing)
        yield


def until(condition: Callable[[], object]) -> None:
    end = time.monotonic() + LIMIT
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.001)


def text(generation: Generation) -> str:
    return generation.completions[0].text


def test_it_answers_as_one_engine_does(engines: list[SleepingEngine]) -> None:
    whole = ReplicatedEngine(engines)
    futures = [whole.submit(f"prompt number {n}", {}) for n in range(200)]
    assert [text(future.result(LIMIT)) for future in futures] == [
        f"prompt number {n}" for n in range(200)
    ]
    assert len({future.result().request_id for future in futures}) == 200
    stats = whole.stats()
    assert stats.requests_done == 200
    assert stats.in_flight == 0
    assert whole.info.max_batch_size == 4 * engines[0].info.max_batch_size
    assert all(engine.stats().requests_done > 20 for engine in engines)


def test_four_are_nearly_four_times_as_fast() -> None:
    parts = sleeping(4, step_seconds=0.005, max_batch_size=4)
    (one,) = sleeping(1, step_seconds=0.005, max_batch_size=4)
    four = ReplicatedEngine(parts)
    prompts = [f"{n} and nine more words to make it ten words" for n in range(320)]
    futures = []
    for prompt in prompts:
        futures.append(four.submit(prompt, {}))
        one.submit(prompt, {})
    # Side by side: a machine that is busy or stands still for a while holds up both.
    wait(futures)
    done = one.stats().requests_done
    four.close()
    one.close()
    assert all(future.exception() is None for future in futures)
    assert done < len(prompts) / 2.5  # goals are measured in benchmarks/


def test_the_calls_of_a_dead_one_move_to_the_others(engines: list[SleepingEngine]) -> None:
    whole = ReplicatedEngine(engines)
    dead = engines[1]
    with held(engines):
        futures = [whole.submit(f"prompt {n} with some more words to say", {}) for n in range(200)]
    until(lambda: dead.stats().requests_done)
    dead.die()
    done_before = dead.stats().requests_done
    assert whole.state == "degraded"
    assert whole.replica_states.count("recovering") == 1
    texts = [text(future.result(LIMIT)) for future in futures]
    assert texts == [f"prompt {n} with some more words to say" for n in range(200)]
    assert sum(engine.stats().requests_done for engine in engines) == 200  # none was done twice
    assert dead.stats().requests_done == done_before


def test_a_dead_one_gets_calls_again_once_it_is_up(engines: list[SleepingEngine]) -> None:
    whole = ReplicatedEngine(engines)
    engines[0].die()
    wait([whole.submit(f"prompt {n}", {}) for n in range(50)])
    assert engines[0].stats().requests_done == 0
    assert whole.replica_states[0] == "recovering"
    engines[0].come_back()
    assert whole.replica_states[0] == "ready"
    wait([whole.submit(f"prompt {n}", {}) for n in range(50)])
    assert engines[0].stats().requests_done > 0


def test_when_all_are_away_calls_wait(engines: list[SleepingEngine]) -> None:
    whole = ReplicatedEngine(engines)
    for engine in engines:
        engine.die()
    assert whole.state == "recovering"
    future = whole.submit("one two", {})
    time.sleep(0.05)
    assert not future.done()
    for engine in engines:
        engine.come_back()
    assert text(future.result(LIMIT)) == "one two"


def test_a_call_that_was_in_two_deaths_stays_where_it_is(engines: list[SleepingEngine]) -> None:
    whole = ReplicatedEngine(engines)

    def at_work() -> list[SleepingEngine]:
        return [engine for engine in engines if engine.stats().in_flight]

    with held(engines):
        future = whole.submit("it kills " * 100, {})
        (first,) = at_work()
        first.die()
        until(lambda: at_work() and first not in at_work())
        (second,) = at_work()
        second.die()
    time.sleep(0.1)
    assert at_work() == [second]
    second.come_back()
    assert len(text(future.result(LIMIT)).split()) == 200


def test_a_stream_whose_text_was_seen_waits_for_its_own_engine() -> None:
    class Streaming(SleepingEngine):
        """Gives out the first word at once, and then nothing until it is done."""

        def submit(self, prompt, options, on_text=None):  # type: ignore[no-untyped-def]
            if on_text is not None:
                on_text("first ")
            return super().submit(prompt, options, None)

    parts = [Streaming(SPEC, step_seconds=0.01, rebuild_seconds=0.2) for _ in range(2)]
    whole = ReplicatedEngine(parts)
    pieces: list[str] = []
    with held(parts):
        future = whole.submit("first second third", {}, pieces.append)
        own = next(engine for engine in parts if engine.stats().in_flight)
        own.die()
    assert text(future.result(LIMIT)) == "first second third"
    assert own.stats().requests_done == 1
    assert pieces == ["first "]
    whole.close()


def test_one_that_is_given_up_loses_no_call(engines: list[SleepingEngine]) -> None:
    whole = ReplicatedEngine(engines)
    futures = [whole.submit(f"prompt {n} with some more words to say", {}) for n in range(100)]
    time.sleep(0.01)
    engines[2]._line.close(EngineDeadError("test/model", "it is broken"))
    engines[2]._closed = True
    assert {text(future.result(LIMIT)) for future in futures} == {
        f"prompt {n} with some more words to say" for n in range(100)
    }
    assert text(whole.submit("later", {}).result(LIMIT)) == "later"


def test_when_all_are_given_up_the_error_says_why(slow: list[SleepingEngine]) -> None:
    whole = ReplicatedEngine(slow)
    future = whole.submit("word " * 400, {})
    for engine in slow:
        engine._line.close(EngineDeadError("test/model", "it is broken"))
        engine._closed = True
    with pytest.raises(EngineDeadError, match="it is broken"):
        future.result(LIMIT)
    with pytest.raises((EngineDeadError, EngineClosedError)):
        whole.submit("later", {})


def test_cancelling_reaches_the_engine_that_has_the_call(slow: list[SleepingEngine]) -> None:
    whole = ReplicatedEngine(slow)
    futures = [whole.submit("word " * 500, {}) for _ in range(40)]
    for future in futures:
        assert future.cancel()
    until(lambda: whole.stats().in_flight == 0)
    assert sum(map(len, whole._calls)) == 0


def test_cancelling_while_calls_move(engines: list[SleepingEngine]) -> None:
    whole = ReplicatedEngine(engines)
    futures = [whole.submit(f"{n} " + "word " * 50, {}) for n in range(200)]
    time.sleep(0.01)
    killer = threading.Thread(target=engines[3].die)
    killer.start()
    cancelled = [future for future in futures[::3] if future.cancel()]
    killer.join()
    engines[3].come_back()
    kept = [future for future in futures if not future.cancelled()]
    assert len(kept) == 200 - len(cancelled)
    assert all(len(text(future.result(LIMIT)).split()) == 51 for future in kept)
    until(lambda: sum(map(len, whole._calls)) == 0)  # a call that moved when it was cancelled, too


def test_a_wrong_prompt_is_refused_at_once_and_forgotten(engines: list[SleepingEngine]) -> None:
    whole = ReplicatedEngine(engines)
    with pytest.raises(InvalidRequestError, match="no words"):
        whole.submit("", {})
    assert sum(map(len, whole._calls)) == 0


def test_embeddings_go_to_whom_has_least_to_do() -> None:
    engines = sleeping(4, max_batch_size=100)
    whole = ReplicatedEngine(engines)
    with held(engines):
        futures = [whole.embed(f"text {n}", normalize=True) for n in range(80)]
        assert [engine.stats().in_flight for engine in engines] == [20] * 4
    vectors = [future.result(LIMIT).vector for future in futures]
    alone: Engine = engines[0]
    assert vectors[7] == alone.embed("text 7", normalize=True).result(LIMIT).vector
    whole.close()


def test_a_close_that_drains_finishes_all(engines: list[SleepingEngine]) -> None:
    whole = ReplicatedEngine(engines)
    futures = [whole.submit(f"prompt {n}", {}) for n in range(100)]
    whole.close(drain=True)
    assert [text(future.result(0)) for future in futures] == [f"prompt {n}" for n in range(100)]
    assert whole.state == "closed"
    with pytest.raises(EngineClosedError):
        whole.submit("late", {})


def test_a_close_ends_what_is_in_flight(slow: list[SleepingEngine]) -> None:
    whole = ReplicatedEngine(slow)
    futures = [whole.submit("word " * 500, {}) for n in range(20)]
    whole.close()
    for future in futures:
        with pytest.raises(EngineClosedError):
            future.result(LIMIT)


def test_a_deadline_counts_from_the_call_wherever_it_is() -> None:
    seen: list[tuple[float, float]] = []

    class Noting(SleepingEngine):
        def submit(self, prompt, options, on_text=None):  # type: ignore[no-untyped-def]
            seen.append((options["deadline"], time.perf_counter()))
            return super().submit(prompt, options, on_text)

    parts = [Noting(SPEC, step_seconds=0.01) for _ in range(2)]
    whole = ReplicatedEngine(parts)
    with held(parts):
        before = time.perf_counter()
        future = whole.submit("word " * 30, {"deadline": 100.0})
        after = time.perf_counter()
        time.sleep(0.1)
        died = time.perf_counter()
        next(engine for engine in parts if engine.stats().in_flight).die()
    generation = future.result(LIMIT)
    (first, first_at), (second, second_at) = seen
    a_bit = 1e-6  # for rounding
    assert 100 - (first_at - before) - a_bit <= first <= 100
    assert 100 - (second_at - before) - a_bit <= second <= 100 - (died - after) + a_bit
    assert generation.latency > 0.1
    whole.close()
