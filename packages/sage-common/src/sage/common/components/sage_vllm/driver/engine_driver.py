"""EngineDriver: the thread that owns an engine, and builds it again when it dies."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable
from concurrent.futures import Future

from sage.common.components.sage_vllm.backend import engine_build
from sage.common.components.sage_vllm.backend.scheduler_load import SchedulerLoad
from sage.common.components.sage_vllm.backend.vllm_renderer import VLLMRenderer
from sage.common.components.sage_vllm.backend.vllm_runtime import VLLMRuntime
from sage.common.components.sage_vllm.driver.engine_tally import EngineTally
from sage.common.components.sage_vllm.driver.inbox import End, EngineDied, Inbox
from sage.common.components.sage_vllm.driver.step_loop import StepLoop
from sage.common.components.sage_vllm.driver.workload import Workload
from sage.common.components.sage_vllm.engine_contract import EngineInfo, EngineSpec, EngineState
from sage.common.components.sage_vllm.engine_stats import EngineStats
from sage.common.components.sage_vllm.errors import (
    EngineClosedError,
    EngineDeadError,
    EngineError,
    PoisonRequestError,
)

logger = logging.getLogger(__name__)

_REBUILD_DELAYS = (0.0, 1.0, 5.0)  # seconds before each attempt to build a dead engine again
_FRUITLESS_CRASHES = 6  # so many with no request finished in between, and the engine is given up
_LONGEST_STEP_SECONDS = 10.0  # how long an engine process may keep a close waiting


class EngineDriver:
    """Owns a vLLM engine, from a thread of its own, and the next one when that engine dies.

    vLLM's LLMEngine belongs to one thread, and it is fastest on the thread that built it (OpenMP
    keeps its threads per calling thread). Callers talk to this thread through ``inbox``; ``ready``
    is done when the first engine is built, or could not be. ``renderer`` is that engine's: it
    fits those that follow.
    """

    def __init__(self, spec: EngineSpec) -> None:
        self.inbox = Inbox()
        self.ready: Future[tuple[VLLMRenderer, EngineInfo]] = Future()
        self._spec = spec
        self._work = Workload()
        self._tally = EngineTally()
        self._closing = threading.Event()
        self._recovering = False
        self.told_of_deaths: list[Callable[[], None]] = []
        self._runtime: VLLMRuntime | None = None
        self._runtime_number = 0
        self._fruitless_crashes = 0
        self._done_at_crash = 0  # requests
        # A daemon, so that a forgotten engine does not hang the interpreter's end.
        self._thread = threading.Thread(
            target=self._run, name=f"sage-engine-{spec.model_id}", daemon=True
        )
        self._thread.start()

    # -- for any thread ---------------------------------------------------------------------------

    @property
    def state(self) -> EngineState:
        """Whether it accepts requests; while it recovers, requests wait."""
        end = self.inbox.ended
        if end is None:
            return "recovering" if self._recovering else "ready"
        return "closed" if isinstance(end, EngineClosedError) else "failed"

    def stats(self, max_batch_size: int) -> EngineStats:
        """Return the counters as of the last step."""
        runtime = self._runtime
        load = SchedulerLoad() if runtime is None else runtime.load
        return self._tally.stats(
            in_flight=len(self._work), max_batch_size=max_batch_size, load=load
        )

    def close(self, *, drain: bool) -> None:
        """End the thread and return when it has ended, with ``drain`` after all that is to do."""
        if not drain:
            self._closing.set()
            if self._recovering:  # its callers need not wait for a build whose engine nobody wants
                self._fail_all(self._closed())
        self.inbox.tell(End.DRAINED if drain else End.NOW)
        if threading.current_thread() is self._thread:
            return
        self._thread.join(None if drain else _LONGEST_STEP_SECONDS)
        if self._thread.is_alive() and (runtime := self._runtime) is not None:
            runtime.interrupt()  # its process does not answer
        self._thread.join()

    # -- its own thread ---------------------------------------------------------------------------

    def _run(self) -> None:
        try:
            runtime, info = self._build()
        except BaseException as error:  # noqa: BLE001 - goes to whoever waits for it
            self.inbox.end(self._closed())
            self.ready.set_exception(error)
            return
        renderer = runtime.renderer
        self.ready.set_result((renderer, info))
        current: VLLMRuntime | None = runtime
        while current is not None:
            try:
                StepLoop(
                    current,
                    self._runtime_number,
                    renderer,
                    info,
                    self.inbox,
                    self._work,
                    self._tally,
                ).serve()
            except Exception as error:
                if not self._closing.is_set():
                    logger.exception("the engine of %s died", self._spec.model_id)
                current = self._recover(current, error)
            else:
                self._finish(current)
                current = None

    def _build(self) -> tuple[VLLMRuntime, EngineInfo]:
        self._runtime_number += 1
        died = EngineDied(self._runtime_number)
        self._runtime, info = engine_build.build(self._spec, on_death=lambda: self.inbox.tell(died))
        return self._runtime, info

    def _recover(self, dead: VLLMRuntime, error: Exception) -> VLLMRuntime | None:
        """Build the engine again and queue what it had; return None when it is given up."""
        self._recovering = True
        self._count_crash()
        poison = self._work.replays.put_back(self._work.in_flight)
        if poison is not None:
            poison.fail(PoisonRequestError(self._spec.model_id, repr(error)))
        for tell in self.told_of_deaths:
            tell()
        try:
            dead.shut_down()
        except Exception:
            logger.exception("what is left of the engine of %s", self._spec.model_id)
        runtime, error = self._build_again(error)
        self._recovering = False
        if runtime is None:
            end: EngineError = self._closed()
            if not self._closing.is_set():
                end = EngineDeadError(self._spec.model_id, repr(error))
                end.__cause__ = error
            self._fail_all(end)
            self._runtime = None
        return runtime

    def _count_crash(self) -> None:
        if self._tally.requests_done > self._done_at_crash:
            self._fruitless_crashes = 0
        self._done_at_crash = self._tally.requests_done
        self._fruitless_crashes += 1

    def _build_again(self, error: Exception) -> tuple[VLLMRuntime | None, Exception]:
        """Return a new engine, or None and the latest error.

        It is attempted several times, unless that is in vain or no longer wanted.
        """
        delays = _REBUILD_DELAYS if self._fruitless_crashes < _FRUITLESS_CRASHES else ()
        for delay in delays:
            if self._closing.wait(delay):
                break
            try:
                runtime, _ = self._build()
            except Exception as again:  # noqa: BLE001 - logged here or raised to callers
                error = again
                logger.warning("building %s again failed: %s", self._spec.model_id, again)
                continue
            self._tally.restarts += 1
            logger.warning("the engine of %s is up again", self._spec.model_id)
            return runtime, error
        return None, error

    def _finish(self, runtime: VLLMRuntime) -> None:
        unfinished = list(self._work.in_flight)
        self._fail_all(self._closed())
        self._runtime = None
        try:
            runtime.abort(*unfinished)  # an engine process with work left shuts down noisily
        finally:
            runtime.shut_down()

    def _fail_all(self, end: EngineError) -> None:
        for request in [*self.inbox.end(end), *self._work.clear()]:
            request.fail(end)

    def _closed(self) -> EngineClosedError:
        return EngineClosedError(self._spec.model_id)
