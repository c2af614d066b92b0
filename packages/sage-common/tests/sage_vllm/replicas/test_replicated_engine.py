"""What several engines promise together, on engines that sleep and die on demand."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from concurrent.futures import wait
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

SPEC = EngineSpec(model_id="test/model", path=Path("unused"), role=Role.GENERATE)


def sleeping(count: int, **arguments: float) -> list[SleepingEngine]:
    return [SleepingEngine(SPEC, **arguments) for _ in range(count)]  # type: ignore[arg-type]


@pytest.fixture
def engines() -> Iterator[list[SleepingEngine]]:
    engines = sleeping(4, step_seconds=0.002, rebuild_seconds=0.3)
    yield engines
    for engine in engines:
        engine.close()


def text(generation: Generation) -> str:
    return generation.completions[0].text


def test_it_answers_as_one_engine_does(engines: list[SleepingEngine]) -> None:
    whole = ReplicatedEngine(engines)
    futures = [whole.submit(f"prompt number {n}", {}) for n in range(200)]
    assert [text(future.result(10)) for future in futures] == [
        f"prompt number {n}" for n in range(200)
    ]
    assert len({future.result().request_id for future in futures}) == 200
    stats = whole.stats()
    assert stats.requests_done == 200
    assert stats.in_flight == 0
    assert whole.info.max_batch_size == 4 * engines[0].info.max_batch_size
    assert all(engine.stats().requests_done > 20 for engine in engines)


def test_four_are_nearly_four_times_as_fast() -> None:
    def seconds(count: int) -> float:
        parts = sleeping(count, step_seconds=0.005, max_batch_size=4)
        whole = ReplicatedEngine(parts)
        began = time.perf_counter()
        wait(
            [whole.submit(f"{n} and nine more words to make it ten words", {}) for n in range(320)]
        )
        took = time.perf_counter() - began
        whole.close()
        return took

    assert seconds(1) / seconds(4) > 2.5  # goals are measured in benchmarks/


def test_the_calls_of_a_dead_one_move_to_the_others(engines: list[SleepingEngine]) -> None:
    whole = ReplicatedEngine(engines)
    futures = [whole.submit(f"prompt {n} with some more words to say", {}) for n in range(200)]
    time.sleep(0.02)
    dead = engines[1]
    done_before = dead.stats().requests_done
    dead.die()
    assert whole.state == "degraded"
    assert whole.replica_states.count("recovering") == 1
    texts = [text(future.result(10)) for future in futures]
    assert texts == [f"prompt {n} with some more words to say" for n in range(200)]
    assert sum(engine.stats().requests_done for engine in engines) == 200  # none was done twice
    assert dead.stats().requests_done == done_before


def test_a_dead_one_gets_calls_again_once_it_is_up(engines: list[SleepingEngine]) -> None:
    whole = ReplicatedEngine(engines)
    engines[0].die()
    wait([whole.submit(f"prompt {n}", {}) for n in range(50)])
    assert engines[0].stats().requests_done == 0
    while whole.replica_states[0] != "ready":
        time.sleep(0.01)
    wait([whole.submit(f"prompt {n}", {}) for n in range(50)])
    assert engines[0].stats().requests_done > 0


def test_when_all_are_away_calls_wait(engines: list[SleepingEngine]) -> None:
    whole = ReplicatedEngine(engines)
    for engine in engines:
        engine.die()
    assert whole.state == "recovering"
    assert text(whole.submit("one two", {}).result(10)) == "one two"


def test_a_call_that_was_in_two_deaths_stays_where_it_is(engines: list[SleepingEngine]) -> None:
    whole = ReplicatedEngine(engines)
    future = whole.submit("it kills " * 100, {})
    first = next(engine for engine in engines if engine.stats().in_flight)
    first.die()
    while (second := next((e for e in engines if e.stats().in_flight), first)) is first:
        time.sleep(0.001)
    second.die()
    time.sleep(0.1)
    assert [engine for engine in engines if engine.stats().in_flight] == [second]
    assert len(text(future.result(10)).split()) == 200


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
    future = whole.submit("first second third", {}, pieces.append)
    own = next(engine for engine in parts if engine.stats().in_flight)
    own.die()
    assert text(future.result(10)) == "first second third"
    assert own.stats().requests_done == 1
    assert pieces == ["first "]
    whole.close()


def test_one_that_is_given_up_loses_no_call(engines: list[SleepingEngine]) -> None:
    whole = ReplicatedEngine(engines)
    futures = [whole.submit(f"prompt {n} with some more words to say", {}) for n in range(100)]
    time.sleep(0.01)
    engines[2]._line.close(EngineDeadError("test/model", "it is broken"))
    engines[2]._closed = True
    assert {text(future.result(10)) for future in futures} == {
        f"prompt {n} with some more words to say" for n in range(100)
    }
    assert text(whole.submit("later", {}).result(10)) == "later"


def test_when_all_are_given_up_the_error_says_why(engines: list[SleepingEngine]) -> None:
    whole = ReplicatedEngine(engines)
    future = whole.submit("word " * 400, {})
    for engine in engines:
        engine._line.close(EngineDeadError("test/model", "it is broken"))
        engine._closed = True
    with pytest.raises(EngineDeadError, match="it is broken"):
        future.result(10)
    with pytest.raises((EngineDeadError, EngineClosedError)):
        whole.submit("later", {})


def test_cancelling_reaches_the_engine_that_has_the_call(engines: list[SleepingEngine]) -> None:
    whole = ReplicatedEngine(engines)
    futures = [whole.submit("word " * 500, {}) for _ in range(40)]
    for future in futures:
        assert future.cancel()
    deadline = time.monotonic() + 5
    while whole.stats().in_flight and time.monotonic() < deadline:
        time.sleep(0.01)
    assert whole.stats().in_flight == 0
    assert sum(map(len, whole._calls)) == 0


def test_cancelling_while_calls_move(engines: list[SleepingEngine]) -> None:
    whole = ReplicatedEngine(engines)
    futures = [whole.submit(f"{n} " + "word " * 50, {}) for n in range(200)]
    time.sleep(0.01)
    killer = threading.Thread(target=engines[3].die)
    killer.start()
    cancelled = [future for future in futures[::3] if future.cancel()]
    killer.join()
    kept = [future for future in futures if not future.cancelled()]
    assert len(kept) == 200 - len(cancelled)
    assert all(len(text(future.result(20)).split()) == 51 for future in kept)
    assert sum(map(len, whole._calls)) == 0


def test_a_wrong_prompt_is_refused_at_once_and_forgotten(engines: list[SleepingEngine]) -> None:
    whole = ReplicatedEngine(engines)
    with pytest.raises(InvalidRequestError, match="no words"):
        whole.submit("", {})
    assert sum(map(len, whole._calls)) == 0


def test_embeddings_go_to_whom_has_least_to_do() -> None:
    engines = sleeping(4, step_seconds=0.3, max_batch_size=100)  # none is done before all are asked
    whole = ReplicatedEngine(engines)
    futures = [whole.embed(f"text {n}", normalize=True) for n in range(80)]
    assert [engine.stats().in_flight for engine in engines] == [20] * 4
    vectors = [future.result(10).vector for future in futures]
    alone: Engine = engines[0]
    assert vectors[7] == alone.embed("text 7", normalize=True).result(10).vector
    whole.close()


def test_a_close_that_drains_finishes_all(engines: list[SleepingEngine]) -> None:
    whole = ReplicatedEngine(engines)
    futures = [whole.submit(f"prompt {n}", {}) for n in range(100)]
    whole.close(drain=True)
    assert [text(future.result(0)) for future in futures] == [f"prompt {n}" for n in range(100)]
    assert whole.state == "closed"
    with pytest.raises(EngineClosedError):
        whole.submit("late", {})


def test_a_close_ends_what_is_in_flight(engines: list[SleepingEngine]) -> None:
    whole = ReplicatedEngine(engines)
    futures = [whole.submit("word " * 500, {}) for n in range(20)]
    whole.close()
    for future in futures:
        with pytest.raises(EngineClosedError):
            future.result(5)


def test_a_deadline_counts_from_the_call_wherever_it_is(engines: list[SleepingEngine]) -> None:
    seen: list[float] = []

    class Noting(SleepingEngine):
        def submit(self, prompt, options, on_text=None):  # type: ignore[no-untyped-def]
            seen.append(options["deadline"])
            return super().submit(prompt, options, on_text)

    parts = [Noting(SPEC, step_seconds=0.01) for _ in range(2)]
    whole = ReplicatedEngine(parts)
    future = whole.submit("word " * 30, {"deadline": 100.0})
    time.sleep(0.1)
    next(engine for engine in parts if engine.stats().in_flight).die()
    generation = future.result(10)
    assert seen[0] == pytest.approx(100, abs=0.05)
    assert seen[1] == pytest.approx(99.9, abs=0.05)
    assert generation.latency > 0.1
    whole.close()
