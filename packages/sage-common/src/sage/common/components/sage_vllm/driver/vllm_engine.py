"""VLLMEngine: one thread that builds a vLLM engine, steps it, completes Futures, and builds it
again when it dies.

What is said to vLLM itself is in vllm_runtime.
"""

from __future__ import annotations

import atexit
import heapq
import logging
import threading
import time
from collections import deque
from collections.abc import Mapping
from concurrent.futures import Future
from itertools import count, islice
from queue import Empty, SimpleQueue
from typing import Any

from sage.common.components.sage_vllm.backend import vllm_runtime
from sage.common.components.sage_vllm.backend.scheduler_load import SchedulerLoad
from sage.common.components.sage_vllm.backend.vllm_renderer import VLLMRenderer
from sage.common.components.sage_vllm.driver.engine_request import (
    EngineRequest,
    to_embedding,
    to_generation,
)
from sage.common.components.sage_vllm.driver.engine_tally import EngineTally
from sage.common.components.sage_vllm.driver.replay_queue import ReplayQueue
from sage.common.components.sage_vllm.engine_contract import (
    Embedding,
    EngineInfo,
    EngineSpec,
    EngineState,
    EngineStats,
    Generation,
    OnText,
    Prompt,
)
from sage.common.components.sage_vllm.errors import (
    EngineClosedError,
    EngineDeadError,
    EngineError,
    InvalidRequestError,
    PoisonRequestError,
)

logger = logging.getLogger(__name__)

_CLOSE = object()
_DRAIN = object()
_REBUILD_DELAYS = (0.0, 1.0, 5.0)  # seconds before each attempt to build a dead engine again
_FRUITLESS_CRASHES = 6  # so many with no request finished in between, and the engine is given up
_LONGEST_STEP_SECONDS = 10.0  # how long an engine process may keep a close waiting
_HANDOVER_SECONDS = 50e-6  # for a stream's reader to wake up and take the GIL from the driver


class _EngineDied:
    """Said to the driver by whoever watches the engine's process."""

    def __init__(self, runtime_number: int) -> None:
        self.runtime_number = runtime_number


class VLLMEngine:
    """A vLLM engine that many threads share; see the Engine protocol.

    vLLM's LLMEngine belongs to one thread, and it is fastest on the thread that built it (OpenMP
    keeps its threads per calling thread). So a driver thread owns it: it takes requests and
    aborts from an inbox between two steps, and all requests in the engine are batched together,
    whichever thread they came from. Prompts are tokenised on the callers' threads, and texts to
    embed on the driver: they take it less time all at once than to share cores with their callers.

    An engine that dies is built again on the same thread, and the requests that it had are
    replayed; their callers see a delay. A request that kills it again and again fails alone.
    """

    def __init__(self, spec: EngineSpec) -> None:
        self._spec = spec
        self._inbox: SimpleQueue[Any] = SimpleQueue()
        self._in_flight: dict[str, EngineRequest] = {}
        self._replays = ReplayQueue()
        self._texts: deque[EngineRequest] = deque()  # to be tokenised by the driver
        self._deadlines: list[tuple[float, str]] = []
        self._ids = count()
        self._lock = threading.Lock()
        self._end: EngineError | None = None  # why no more requests are taken
        self._closing = threading.Event()
        self._draining = False
        self._recovering = False
        self._runtime: vllm_runtime.VLLMRuntime | None = None
        self._renderer: VLLMRenderer | None = None  # of the first runtime, and kept by later ones
        self._runtime_number = 0
        self._fruitless_crashes = 0
        self._tally = EngineTally()
        self._ready: Future[EngineInfo] = Future()
        self._driver = threading.Thread(
            target=self._drive, name=f"sage-engine-{spec.model_id}", daemon=True
        )
        self._driver.start()
        # The driver is a daemon, so that a forgotten engine does not hang the interpreter's end.
        atexit.register(self.close)
        try:
            self._info = self._ready.result()
        except Exception:
            self.close()
            raise
        except BaseException:  # a Ctrl-C does not wait for a model to load; it closes after that
            self._inbox.put(_CLOSE)
            atexit.unregister(self.close)
            raise

    @staticmethod
    def share_device(text: EngineSpec, embedding: EngineSpec) -> tuple[EngineSpec, EngineSpec]:
        """Return the two with arguments by which both fit; see SharesDevice."""
        return vllm_runtime.share_device(text, embedding)

    @property
    def info(self) -> EngineInfo:
        """What was built."""
        return self._info

    @property
    def state(self) -> EngineState:
        """Whether it takes requests; while it recovers, requests wait."""
        if self._end is None:
            return "recovering" if self._recovering else "ready"
        return "closed" if isinstance(self._end, EngineClosedError) else "failed"

    def submit(
        self, prompt: Prompt, options: Mapping[str, Any], on_text: OnText | None = None
    ) -> Future[Generation]:
        """Start a generation; see Engine.submit."""
        deadline = options.get("deadline")
        incremental = on_text is not None or deadline is not None
        renderer = self._open_renderer()
        params = renderer.sampling_params(options, incremental=incremental)
        if on_text is not None and params.n > 1:
            raise InvalidRequestError(self._spec.model_id, "a stream has one text: n must be 1")
        request = EngineRequest(
            f"r{next(self._ids)}",
            renderer.render(prompt),
            params,
            to_generation,
            arguments=renderer.request_arguments(options),
            deadline=deadline,
            on_text=on_text,
        )
        return self._enqueue(request)

    def embed(
        self, text: str, *, normalize: bool, dimensions: int | None = None
    ) -> Future[Embedding]:
        """Start an embedding; see Engine.embed."""
        params = self._open_renderer().pooling_params(normalize=normalize, dimensions=dimensions)
        return self._enqueue(EngineRequest(f"r{next(self._ids)}", text, params, to_embedding))

    def count_tokens(self, prompt: Prompt) -> int:
        """Return how many tokens a prompt has; see Engine.count_tokens."""
        return self._open_renderer().count_tokens(prompt)

    def stats(self) -> EngineStats:
        """Return the counters as of the last step."""
        runtime = self._runtime
        load = SchedulerLoad() if runtime is None else runtime.load
        return self._tally.stats(
            in_flight=len(self._in_flight) + len(self._replays) + len(self._texts),
            max_batch_size=self._info.max_batch_size,
            load=load,
        )

    def close(self, *, drain: bool = False) -> None:
        """Free everything, if ``drain`` after what is in flight; see Engine.close."""
        if not drain:
            self._closing.set()
            if self._recovering:  # its callers need not wait for a build whose engine nobody wants
                self._fail_all(EngineClosedError(self._spec.model_id))
        self._inbox.put(_DRAIN if drain else _CLOSE)
        if threading.current_thread() is not self._driver:
            self._join_driver(patient=drain)
        atexit.unregister(self.close)

    def _join_driver(self, *, patient: bool) -> None:
        self._driver.join(None if patient else _LONGEST_STEP_SECONDS)
        if self._driver.is_alive() and (runtime := self._runtime) is not None:
            runtime.interrupt()  # its process does not answer
        self._driver.join()

    # -- callers' threads -----------------------------------------------------------------------

    def _open_renderer(self) -> VLLMRenderer:
        if self._end is not None:
            raise self._end.with_traceback(None)
        assert self._renderer is not None  # noqa: S101 - for the type checker: __init__ waited
        return self._renderer

    def _enqueue(self, request: EngineRequest) -> Future[Any]:
        with self._lock:  # nothing may enter the inbox after the driver has emptied it
            if self._end is not None:
                raise self._end.with_traceback(None)
            self._inbox.put(request)
        request.future.add_done_callback(
            lambda future: self._inbox.put(request.id) if future.cancelled() else None
        )
        return request.future

    # -- the driver thread ------------------------------------------------------------------------

    def _drive(self) -> None:
        try:
            runtime, info = self._build()
        except BaseException as error:  # noqa: BLE001 - goes to whoever waits in the constructor
            self._end = EngineClosedError(self._spec.model_id)
            self._ready.set_exception(error)
            return
        self._max_batch_size = info.max_batch_size
        self._ready.set_result(info)
        current: vllm_runtime.VLLMRuntime | None = runtime
        while current is not None:
            try:
                self._serve(current)
            except Exception as error:
                if not self._closing.is_set():
                    logger.exception("the engine of %s died", self._spec.model_id)
                current = self._recover(current, error)
            else:
                self._finish(current)
                current = None

    def _build(self) -> tuple[vllm_runtime.VLLMRuntime, EngineInfo]:
        self._runtime_number += 1
        died = _EngineDied(self._runtime_number)
        runtime, info = vllm_runtime.build(self._spec, on_death=lambda: self._inbox.put(died))
        self._runtime = runtime
        self._renderer = self._renderer or runtime.renderer
        return runtime, info

    def _serve(self, runtime: vllm_runtime.VLLMRuntime) -> None:
        while self._take_commands(runtime):
            if not self._in_flight:
                continue
            began = time.perf_counter()
            outputs = runtime.step()
            now = time.perf_counter()
            finished = sum(output.finished for output in outputs)
            self._tally.add_step(runtime.load.running + finished, now - began)
            first_texts = False
            for output in outputs:
                if output.finished:
                    self._complete(output)
                else:
                    first_texts |= self._note(runtime, output)
            if first_texts:  # else their readers would wait for the next step to let go of the GIL
                time.sleep(_HANDOVER_SECONDS)
            while self._deadlines and self._deadlines[0][0] <= now:
                self._expire(runtime, heapq.heappop(self._deadlines)[1])

    def _take_commands(self, runtime: vllm_runtime.VLLMRuntime) -> bool:
        """Take what is in the inbox, waiting only while idle; return False at the end."""
        while True:
            self._replay(runtime)
            wait = not self._in_flight and not self._texts
            if wait and self._draining and self._end_if_nothing_came():
                return False
            try:
                command = self._inbox.get(block=wait)
            except Empty:
                if self._texts and not self._replays:
                    self._add_texts(runtime)
                return True
            if isinstance(command, EngineRequest):
                if isinstance(command.input, str):
                    self._texts.append(command)
                elif self._replays:
                    self._replays.append(command)
                else:
                    self._add(runtime, command)
            elif command is _CLOSE:
                return False
            elif command is _DRAIN:
                self._draining = True
            elif isinstance(command, _EngineDied):
                if command.runtime_number == self._runtime_number:
                    raise RuntimeError("its process ended")
            elif self._in_flight.pop(command, None) is not None:
                runtime.abort(command)

    def _end_if_nothing_came(self) -> bool:
        with self._lock:
            if self._inbox.empty():
                self._end = EngineClosedError(self._spec.model_id)
            return self._end is not None

    def _replay(self, runtime: vllm_runtime.VLLMRuntime) -> None:
        while self._replays:
            request = self._replays.take(self._in_flight.values())
            if request is None:
                return
            self._add(runtime, request)

    def _add_texts(self, runtime: vllm_runtime.VLLMRuntime) -> None:
        """Add texts up to what keeps the engine busy: the tokenising of the others can wait."""
        while self._texts and self._texts[0].future.cancelled():
            self._texts.popleft()
        room = max(0, 2 * self._max_batch_size - len(self._in_flight))
        texts = [request.input for request in islice(self._texts, room)]
        if not texts:
            return
        for engine_input in self._open_renderer().render_texts(texts):
            request = self._texts.popleft()  # not before: one that kills may be before it
            if isinstance(engine_input, Exception):
                _settle(request.future, error=engine_input)
            else:
                request.input = engine_input
                self._add(runtime, request)

    def _add(self, runtime: vllm_runtime.VLLMRuntime, request: EngineRequest) -> None:
        if request.future.cancelled():
            return
        self._in_flight[request.id] = request  # before it is added: that may be what kills
        try:
            runtime.add(request.id, request.input, request.params, request.arguments)
        except InvalidRequestError as error:
            del self._in_flight[request.id]
            _settle(request.future, error=error)
            return
        if request.deadline is not None:
            heapq.heappush(self._deadlines, (request.deadline, request.id))

    def _note(self, runtime: vllm_runtime.VLLMRuntime, output: Any) -> bool:
        """Take in an incremental output; return whether a stream's first text was in it."""
        request = self._in_flight.get(output.request_id)
        if request is None:
            return False
        had_text = bool(request.text)
        if not request.note(output):
            runtime.abort(request.id)
            self._give_up_stream(request)
        return not had_text and bool(request.text)

    def _complete(self, output: Any) -> None:
        request = self._in_flight.get(output.request_id)
        if request is None:
            return  # cancelled while its last step ran
        if request.incremental and not request.note(output):
            self._give_up_stream(request)
            return
        self._succeed(request, output)

    def _give_up_stream(self, request: EngineRequest) -> None:
        del self._in_flight[request.id]
        reason = "it could not repeat the text that it had streamed"
        _settle(request.future, error=EngineDeadError(self._spec.model_id, reason))

    def _expire(self, runtime: vllm_runtime.VLLMRuntime, request_id: str) -> None:
        request = self._in_flight.get(request_id)
        if request is not None:
            runtime.abort(request_id)
            self._succeed(request, None)

    def _succeed(self, request: EngineRequest, output: Any) -> None:
        result, prompt_tokens, completion_tokens = request.to_result(request, output)
        del self._in_flight[request.id]  # not before there is a result to settle it with
        self._fruitless_crashes = 0
        latency = time.perf_counter() - request.started
        self._tally.add_result(prompt_tokens, completion_tokens, latency)
        _settle(request.future, result=result)

    def _recover(
        self, dead: vllm_runtime.VLLMRuntime, error: Exception
    ) -> vllm_runtime.VLLMRuntime | None:
        """Build the engine again and queue what it had; return None when it is given up."""
        self._recovering = True
        self._fruitless_crashes += 1
        poison = self._replays.put_back(self._in_flight)
        if poison is not None:
            reason = PoisonRequestError(self._spec.model_id, repr(error))
            _settle(poison.future, error=reason)
        try:
            dead.shut_down()
        except Exception:
            logger.exception("what is left of the engine of %s", self._spec.model_id)
        delays = _REBUILD_DELAYS if self._fruitless_crashes < _FRUITLESS_CRASHES else ()
        for delay in delays:
            if self._closing.wait(delay):
                break
            try:
                runtime, _ = self._build()
            except Exception as again:  # noqa: BLE001 - logged or raised below
                error = again
                logger.warning("building %s again failed: %s", self._spec.model_id, again)
                continue
            self._recovering = False
            self._tally.restarts += 1
            logger.warning("the engine of %s is up again", self._spec.model_id)
            return runtime
        end: EngineError = EngineClosedError(self._spec.model_id)
        if not self._closing.is_set():
            end = EngineDeadError(self._spec.model_id, repr(error))
            end.__cause__ = error
        self._recovering = False
        self._fail_all(end)
        self._runtime = None
        return None

    def _finish(self, runtime: vllm_runtime.VLLMRuntime) -> None:
        unfinished = list(self._in_flight)
        self._fail_all(EngineClosedError(self._spec.model_id))
        self._runtime = None
        try:
            runtime.abort(*unfinished)  # an engine process with work left shuts down noisily
        finally:
            runtime.shut_down()

    def _fail_all(self, end: EngineError) -> None:
        with self._lock:
            self._end = self._end or end
            requests = [*self._in_flight.values(), *self._replays.clear(), *self._texts]
            self._in_flight.clear()
            self._texts.clear()
            while not self._inbox.empty():
                command = self._inbox.get()
                if isinstance(command, EngineRequest):
                    requests.append(command)
        for request in requests:
            _settle(request.future, error=end)


def _settle(future: Future[Any], *, result: Any = None, error: Exception | None = None) -> None:
    """Complete a Future unless its caller has cancelled it."""
    if not future.set_running_or_notify_cancel():
        return
    if error is None:
        future.set_result(result)
    else:
        future.set_exception(error)
