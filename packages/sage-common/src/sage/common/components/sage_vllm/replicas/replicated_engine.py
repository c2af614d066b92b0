"""ReplicatedEngine: several engines of one model that look like one."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Collection, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import replace
from functools import partial
from typing import Any

from sage.common.components.sage_vllm.engine_abilities import PlacesReplicas, ReportsDeath
from sage.common.components.sage_vllm.engine_contract import (
    Classification,
    Embedding,
    Engine,
    EngineFactory,
    EngineInfo,
    EngineSpec,
    EngineState,
    Generation,
    Likelihood,
    OnText,
    Prompt,
    TextPair,
)
from sage.common.components.sage_vllm.engine_stats import EngineStats
from sage.common.components.sage_vllm.errors import EngineClosedError, EngineDeadError
from sage.common.components.sage_vllm.replicas.first_of_equals import FirstOfEquals
from sage.common.components.sage_vllm.replicas.prompt_prefix import prefix_of
from sage.common.components.sage_vllm.replicas.replica_call import ReplicaCall
from sage.common.core.background import in_background
from sage.common.replicas.router import PrefixRouter, Router

logger = logging.getLogger(__name__)

_SERVES: tuple[EngineState, ...] = ("ready", "recovering", "failed")  # the best one of any counts
_MOST_DEATHS = 2  # in which a call was: with one more, it may be what kills them


class ReplicatedEngine(FirstOfEquals):
    """Engines that serve one model together; see the Engine protocol.

    A call goes where the router says. If its engine dies, it moves to another one that is ready,
    once: a call that was in two deaths stays with its engine, which finds out whether the call is
    what kills it (see driver.ReplayQueue). A stream whose caller has seen text stays too.

    Args:
        engines: at least one, all alike.
        router: chooses the engine of each call.
    """

    def __init__(self, engines: Sequence[Engine], router: Router | None = None) -> None:
        self._engines = list(engines)
        self._router = router or PrefixRouter()
        self._lock = threading.Lock()  # guards calls, and what is in them
        self._calls: list[dict[ReplicaCall, None]] = [{} for _ in self._engines]
        self._closed = False
        for number, engine in enumerate(self._engines):
            if isinstance(engine, ReportsDeath):
                engine.on_death(partial(self._move_all, number))

    @property
    def info(self) -> EngineInfo:
        """What was built: the first engine's, with batch and memory of all of them."""
        infos = [engine.info for engine in self._engines]
        return replace(
            infos[0],
            max_batch_size=sum(info.max_batch_size for info in infos),
            memory_bytes=sum(info.memory_bytes for info in infos),
            start_seconds=sum(info.start_seconds for info in infos),
        )

    @property
    def state(self) -> EngineState:
        """Ready while all of the engines are, degraded while some are."""
        if self._closed:
            return "closed"
        states = self.replica_states
        best: EngineState = next((state for state in _SERVES if state in states), "closed")
        return "degraded" if best == "ready" and set(states) != {"ready"} else best

    @property
    def replica_states(self) -> list[EngineState]:
        """The state of each engine."""
        return [engine.state for engine in self._engines]

    # -- calls ------------------------------------------------------------------------------------

    def submit(
        self, prompt: Prompt, options: Mapping[str, Any], on_text: OnText | None = None
    ) -> Future[Generation]:
        """Start a generation; see Engine.submit."""
        deadline = options.get("deadline")

        def start(engine: Engine, waited: float, deliver: OnText | None) -> Future[Generation]:
            left = options if deadline is None else {**options, "deadline": deadline - waited}
            return engine.submit(prompt, left, deliver)

        return self._begin(ReplicaCall(start, prefix_of(prompt), on_text))

    def embed(self, text: str, **options: Any) -> Future[Embedding]:
        """Start an embedding; see Engine.embed. Texts share no work, so the load alone decides."""
        return self._begin(ReplicaCall(lambda engine, *_: engine.embed(text, **options), "", None))

    def classify(
        self,
        given: Prompt | TextPair,
        *,
        activation: bool,
        truncate: bool = False,
        chat_template: str | None = None,
    ) -> Future[Classification]:
        """Start reading what the model's head says; see Engine.classify. The load alone decides."""
        options: dict[str, Any] = {
            "activation": activation,
            "truncate": truncate,
            "chat_template": chat_template,
        }
        call = ReplicaCall(lambda engine, *_: engine.classify(given, **options), "", None)
        return self._begin(call)

    def read_likelihood(
        self, prompt: Prompt, continuations: Sequence[str], **options: Any
    ) -> Future[Likelihood]:
        """Start reading how likely each text is to follow a prompt; see Engine.read_likelihood."""

        def start(engine: Engine, *_: Any) -> Future[Likelihood]:
            return engine.read_likelihood(prompt, continuations, **options)

        return self._begin(ReplicaCall(start, prefix_of(prompt), None))

    def count_tokens(self, prompt: Prompt, **options: Any) -> int:
        """Return how many tokens a prompt has; see Engine.count_tokens."""
        number = self._router.route("", self._loads())
        return self._engines[number or 0].count_tokens(prompt, **options)

    def _begin(self, call: ReplicaCall) -> Future[Any]:
        call.future.add_done_callback(lambda done: self._pass_cancel(call, done))
        self._start(call)
        return call.future

    def _pass_cancel(self, call: ReplicaCall, done: Future[Any]) -> None:
        if done.cancelled():
            with self._lock:
                attempt = call.attempt
            if attempt is not None:
                attempt.cancel()

    def _loads(self, without: Collection[int] = ()) -> list[int | None]:
        """Return the calls in flight of each engine that is ready; of none, of those that recover.

        Engines with the numbers ``without`` are left out.
        """
        states = self.replica_states
        with self._lock:
            counts = [len(calls) for calls in self._calls]
        for usable in ("ready", "recovering"):
            loads = [
                count if state == usable and number not in without else None
                for number, (count, state) in enumerate(zip(counts, states, strict=True))
            ]
            if any(load is not None for load in loads):
                return loads
        return [None] * len(self._engines)

    def _start(self, call: ReplicaCall) -> None:
        """Start a call on the engine that the router chooses, or another if that one ends."""
        ended: list[int] = []
        while True:
            number = self._router.route(call.prefix, self._loads(ended))
            try:
                # Where none is left, the first one says why.
                self._start_on(number or 0, call, before=None)
            except (EngineDeadError, EngineClosedError):
                if self._closed or number is None:
                    raise
                ended.append(number)
            else:
                return

    def _start_on(self, number: int, call: ReplicaCall, before: Future[Any] | None) -> bool:
        """Start a call on an engine, unless it was settled since ``before`` was its attempt."""
        attempt = call.start(self._engines[number])
        with self._lock:
            stale = call.attempt is not before or call.future.cancelled()
            if not stale:
                for calls in self._calls:
                    calls.pop(call, None)
                self._calls[number][call] = None
                call.attempt = attempt
        if stale:
            attempt.cancel()
            return False
        attempt.add_done_callback(lambda done: self._settle(number, call, done))
        return True

    def _settle(self, number: int, call: ReplicaCall, attempt: Future[Any]) -> None:
        with self._lock:
            if call.attempt is not attempt:
                return  # the call has moved on
            del self._calls[number][call]
            call.attempt = None
        if attempt.cancelled():
            call.future.cancel()
        error = None if attempt.cancelled() else attempt.exception()
        if isinstance(error, EngineDeadError) and self._may_move(call, _MOST_DEATHS):
            call.deaths += 1
            in_background(self._start_again, call, error)  # not on the thread of an engine
        elif call.future.set_running_or_notify_cancel():
            if error is not None:
                call.future.set_exception(error)
            else:
                call.future.set_result(self._result(number, call, attempt.result()))

    def _result(self, number: int, call: ReplicaCall, result: Any) -> Any:
        """Return a result as it looks to the caller: engines number their requests alike."""
        if not isinstance(result, Generation):
            return result
        latency = time.perf_counter() - call.began if call.deaths else result.latency
        return replace(result, request_id=f"{result.request_id}.{number}", latency=latency)

    # -- deaths -----------------------------------------------------------------------------------

    def _may_move(self, call: ReplicaCall, most_deaths: int) -> bool:
        can_begin_anew = not call.has_text and call.deaths < most_deaths
        return can_begin_anew and not self._closed and not call.future.cancelled()

    def _move_all(self, number: int) -> None:
        """Move the calls of an engine that died; those that cannot be moved wait for it."""
        with self._lock:
            calls = [call for call in self._calls[number] if self._may_move(call, 1)]
        if calls:
            in_background(self._move, number, calls)

    def _move(self, number: int, calls: Sequence[ReplicaCall]) -> None:
        for call in calls:
            loads = self._loads([number])
            other = self._router.route(call.prefix, loads)
            if other is None or self._engines[other].state != "ready":
                continue
            before = call.attempt
            if before is None:
                continue
            call.deaths += 1
            try:
                if self._start_on(other, call, before):
                    before.cancel()
            except Exception as error:  # noqa: BLE001 - it is replayed where it is
                logger.warning("a request of a dead replica waits for it: %s", error)

    def _start_again(self, call: ReplicaCall, error: BaseException) -> None:
        """Start a call whose engine was given up on another one."""
        try:
            self._start(call)
        except Exception:  # noqa: BLE001 - the first error says more
            if call.future.set_running_or_notify_cancel():
                call.future.set_exception(error)

    # -- as a whole -------------------------------------------------------------------------------

    def stats(self) -> EngineStats:
        """Return the counters of all engines together; see ``combined``."""
        return combined([engine.stats() for engine in self._engines])

    def close(self, *, drain: bool = False) -> None:
        """Close all engines, side by side; see Engine.close."""
        self._closed = not drain
        with ThreadPoolExecutor(len(self._engines), "sage-replica-close") as threads:
            list(threads.map(lambda engine: engine.close(drain=drain), self._engines))
        self._closed = True


def combined(parts: Sequence[EngineStats]) -> EngineStats:
    """Return the statistics of several engines as those of one.

    Counts are summed and shares averaged. ``busy_seconds`` and the percentiles are those of the
    engine that has the most, since the engines work side by side.
    """
    prompt_tokens = sum(part.prompt_tokens for part in parts)
    summed = {
        name: sum(getattr(part, name) for part in parts)
        for name in (
            "in_flight",
            "running",
            "waiting",
            "requests_done",
            "completion_tokens",
            "steps",
            "sequence_steps",
            "restarts",
            "requests_shared",
            "requests_cached",
        )
    }
    hits = sum(part.prefix_cache_hit_rate * part.prompt_tokens for part in parts)
    names = sorted({name for part in parts for name in part.latency_seconds})
    return EngineStats(
        **summed,
        prompt_tokens=prompt_tokens,
        busy_seconds=max(part.busy_seconds for part in parts),
        max_batch_size=max(part.max_batch_size for part in parts),
        kv_cache_usage=sum(part.kv_cache_usage for part in parts) / len(parts),
        prefix_cache_hit_rate=hits / prompt_tokens if prompt_tokens else 0.0,
        latency_seconds={
            name: max(part.latency_seconds.get(name, 0.0) for part in parts) for name in names
        },
    )


def build(factory: EngineFactory, spec: EngineSpec) -> Engine:
    """Build the engine of a spec, or its replicas one after the other; raises what that raises."""
    if spec.replicas == 1:
        return factory(spec)
    if isinstance(factory, PlacesReplicas):
        specs = factory.replica_specs(spec)
    else:
        specs = [replace(spec, replicas=1)] * (1 if spec.replicas == "auto" else spec.replicas)
    engines: list[Engine] = []
    try:
        engines.extend(factory(each) for each in specs)  # those before one that fails are kept
    except BaseException:
        for engine in engines:
            engine.close()
        raise
    return ReplicatedEngine(engines)


def replicas_record(engine: Engine | None) -> dict[str, Any]:
    """Return what there is to say of an engine's replicas; of one alone, nothing."""
    if not isinstance(engine, ReplicatedEngine):
        return {}
    return {"replicas": engine.replica_states}
