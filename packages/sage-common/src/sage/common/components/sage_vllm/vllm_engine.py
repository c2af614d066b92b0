"""VLLMEngine: one thread that builds a vLLM engine, steps it, and completes Futures.

What is said to vLLM itself is in vllm_runtime.
"""

from __future__ import annotations

import atexit
import logging
import signal
import threading
import time
from collections.abc import Callable, Mapping
from concurrent.futures import Future
from itertools import count
from queue import Empty, SimpleQueue
from typing import Any

from sage.common.components.sage_vllm import vllm_runtime
from sage.common.components.sage_vllm.engine import (
    Completion,
    Embedding,
    EngineInfo,
    EngineSpec,
    EngineStats,
    Generation,
    Prompt,
)
from sage.common.components.sage_vllm.errors import (
    EngineClosedError,
    EngineDeadError,
    EngineError,
    InvalidRequestError,
)

logger = logging.getLogger(__name__)


class _Request:
    """One request, from a caller's submit to its Future's result."""

    __slots__ = ("future", "id", "input", "params", "started", "to_result")

    def __init__(
        self, request_id: str, engine_input: Any, params: Any, to_result: Callable[..., Any]
    ) -> None:
        self.id = request_id
        self.input = engine_input
        self.params = params
        self.to_result = to_result
        self.future: Future[Any] = Future()
        self.started = time.perf_counter()


_CLOSE = object()


class VLLMEngine:
    """A vLLM engine that many threads share; see the Engine protocol.

    vLLM's LLMEngine belongs to one thread, and it is fastest on the thread that built it (OpenMP
    keeps its threads per calling thread). So a driver thread owns it: it takes requests and
    aborts from an inbox between two steps, and all requests in the engine are batched together,
    whichever thread they came from. Tokenising happens on the callers' threads.
    """

    def __init__(self, spec: EngineSpec) -> None:
        self._spec = spec
        self._inbox: SimpleQueue[Any] = SimpleQueue()
        self._in_flight: dict[str, _Request] = {}
        self._ids = count()
        self._lock = threading.Lock()
        self._end: EngineError | None = None  # why no more requests are taken
        self._runtime: vllm_runtime.VLLMRuntime | None = None
        self._requests_done = self._prompt_tokens = self._completion_tokens = 0
        self._steps = self._sequence_steps = 0
        self._busy_seconds = 0.0
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

    @property
    def info(self) -> EngineInfo:
        """What was built."""
        return self._info

    def submit(self, prompt: Prompt, options: Mapping[str, Any]) -> Future[Generation]:
        """Start a generation; see Engine.submit."""
        runtime = self._running()
        params = runtime.sampling_params(options)
        return self._enqueue(runtime.render(prompt), params, _to_generation)

    def embed(self, text: str, *, normalize: bool) -> Future[Embedding]:
        """Start an embedding; see Engine.embed."""
        runtime = self._running()
        params = runtime.pooling_params(normalize=normalize)
        return self._enqueue(runtime.render(text), params, _to_embedding)

    def stats(self) -> EngineStats:
        """Return the counters as of the last step."""
        return EngineStats(
            in_flight=len(self._in_flight),
            requests_done=self._requests_done,
            prompt_tokens=self._prompt_tokens,
            completion_tokens=self._completion_tokens,
            steps=self._steps,
            sequence_steps=self._sequence_steps,
            busy_seconds=self._busy_seconds,
            max_batch_size=self._info.max_batch_size,
        )

    def close(self) -> None:
        """Fail what is in flight with EngineClosedError and free everything. Idempotent."""
        self._inbox.put(_CLOSE)
        if threading.current_thread() is not self._driver:
            self._driver.join()
        atexit.unregister(self.close)

    # -- callers' threads -----------------------------------------------------------------------

    def _running(self) -> vllm_runtime.VLLMRuntime:
        if self._end is not None:
            raise self._end
        assert self._runtime is not None  # noqa: S101 - for the type checker: __init__ waited
        return self._runtime

    def _enqueue(
        self, engine_input: Any, params: Any, to_result: Callable[..., Any]
    ) -> Future[Any]:
        request = _Request(f"r{next(self._ids)}", engine_input, params, to_result)
        with self._lock:  # nothing may enter the inbox after the driver has emptied it
            if self._end is not None:
                raise self._end
            self._inbox.put(request)
        request.future.add_done_callback(
            lambda future: self._inbox.put(request.id) if future.cancelled() else None
        )
        return request.future

    # -- the driver thread ------------------------------------------------------------------------

    def _drive(self) -> None:
        # A terminal sends Ctrl-C to the engine's processes as well. They inherit this thread's
        # mask, so that only the host hears it and shuts them down in order.
        signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
        try:
            runtime, info = vllm_runtime.build(self._spec)
        except BaseException as error:  # noqa: BLE001 - goes to whoever waits in the constructor
            self._end = EngineClosedError(self._spec.model_id)
            self._ready.set_exception(error)
            return
        self._runtime = runtime
        self._ready.set_result(info)
        end: EngineError = EngineClosedError(self._spec.model_id)
        try:
            self._serve(runtime, info.max_batch_size)
        except Exception as error:
            logger.exception("the engine of %s failed", self._spec.model_id)
            end = EngineDeadError(self._spec.model_id, repr(error))
            end.__cause__ = error
        finally:
            unfinished = list(self._in_flight)
            self._fail_all(end)
            self._runtime = None
            if isinstance(end, EngineClosedError):
                runtime.abort(*unfinished)  # an engine process with work left shuts down noisily
            runtime.shut_down()

    def _serve(self, runtime: vllm_runtime.VLLMRuntime, max_batch_size: int) -> None:
        while self._take_commands(runtime):
            if not self._in_flight:
                continue
            began = time.perf_counter()
            self._sequence_steps += min(len(self._in_flight), max_batch_size)
            self._steps += 1
            outputs = runtime.step()
            self._busy_seconds += time.perf_counter() - began
            for output in outputs:
                if output.finished:
                    self._complete(output)

    def _take_commands(self, runtime: vllm_runtime.VLLMRuntime) -> bool:
        """Take what is in the inbox, waiting only while idle; return False at the end."""
        wait = not self._in_flight
        while True:
            try:
                command = self._inbox.get(block=wait)
            except Empty:
                return True
            wait = False
            if command is _CLOSE:
                return False
            if isinstance(command, _Request):
                self._add(runtime, command)
            elif self._in_flight.pop(command, None) is not None:
                runtime.abort(command)

    def _add(self, runtime: vllm_runtime.VLLMRuntime, request: _Request) -> None:
        if request.future.cancelled():
            return
        try:
            runtime.add(request.id, request.input, request.params)
        except InvalidRequestError as error:
            _settle(request.future, error=error)
            return
        self._in_flight[request.id] = request

    def _complete(self, output: Any) -> None:
        request = self._in_flight.pop(output.request_id, None)
        if request is None:
            return  # cancelled while its last step ran
        result, prompt_tokens, completion_tokens = request.to_result(request, output)
        self._requests_done += 1
        self._prompt_tokens += prompt_tokens
        self._completion_tokens += completion_tokens
        _settle(request.future, result=result)

    def _fail_all(self, end: EngineError) -> None:
        with self._lock:
            self._end = end
        requests = list(self._in_flight.values())
        self._in_flight.clear()
        while not self._inbox.empty():
            command = self._inbox.get()
            if isinstance(command, _Request):
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


def _to_generation(request: _Request, output: Any) -> tuple[Generation, int, int]:
    completions = [
        Completion(text=c.text, finish_reason=c.finish_reason, token_count=len(c.token_ids))
        for c in output.outputs
    ]
    generation = Generation(
        request_id=request.id,
        prompt_token_count=len(output.prompt_token_ids),
        completions=completions,
        latency=time.perf_counter() - request.started,
    )
    return generation, generation.prompt_token_count, sum(c.token_count for c in completions)


def _to_embedding(_request: _Request, output: Any) -> tuple[Embedding, int, int]:
    tokens = len(output.prompt_token_ids)
    return Embedding(vector=output.outputs.data.tolist(), token_count=tokens), tokens, 0
