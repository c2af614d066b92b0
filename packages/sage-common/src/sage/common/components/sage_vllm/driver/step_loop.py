"""StepLoop: what a driver does with an engine that runs: receive, add, step, complete, expire."""

from __future__ import annotations

import time
from itertools import islice
from typing import Any

from sage.common.components.sage_vllm.backend.vllm_renderer import VLLMRenderer
from sage.common.components.sage_vllm.backend.vllm_runtime import VLLMRuntime
from sage.common.components.sage_vllm.driver.engine_request import EngineRequest
from sage.common.components.sage_vllm.driver.engine_tally import EngineTally
from sage.common.components.sage_vllm.driver.inbox import Cancelled, End, EngineDied, Inbox
from sage.common.components.sage_vllm.driver.workload import Workload
from sage.common.components.sage_vllm.engine_contract import EngineInfo
from sage.common.components.sage_vllm.errors import (
    EngineClosedError,
    EngineDeadError,
    InvalidRequestError,
)

_HANDOVER_SECONDS = 50e-6  # for a stream's reader to wake up and take the GIL from the driver


class StepLoop:
    """Serves the requests of an inbox with one engine, on the thread that built it.

    All requests in the engine are batched together, whichever thread they came from. What is in
    flight when the engine dies stays in the workload, for the loop of the next one.

    Args:
        runtime: the engine.
        number: the engine's number; that an earlier one has died is no news.
        renderer: tokenises texts.
        inbox, work, tally: the driver's, whichever engine serves.
    """

    def __init__(
        self,
        runtime: VLLMRuntime,
        number: int,
        renderer: VLLMRenderer,
        info: EngineInfo,
        inbox: Inbox,
        work: Workload,
        tally: EngineTally,
    ) -> None:
        self._runtime = runtime
        self._number = number
        self._renderer = renderer
        self._most_in_flight = 2 * info.max_batch_size  # keeps the engine busy
        self._model_id = info.model_id
        self._inbox = inbox
        self._work = work
        self._tally = tally

    def serve(self) -> None:
        """Serve until the inbox says that it is to end; raises what the engine died of."""
        while self._receive():
            self._add()
            if self._work.in_flight:
                outputs = self._step()
                self._complete(outputs)
                self._expire()

    # -- receive ----------------------------------------------------------------------------------

    def _receive(self) -> bool:
        """Take what is in the inbox, waiting only while idle; return False at the end."""
        work = self._work
        while True:
            idle = not len(work)
            if idle and self._inbox.end_if_drained(EngineClosedError(self._model_id)):
                return False
            command = self._inbox.take(wait=idle)
            match command:
                case None:
                    return True
                case EngineRequest():
                    work.arrived.append(command)
                case Cancelled(request_id):
                    if work.in_flight.pop(request_id, None) is not None:
                        self._runtime.abort(request_id)
                case EngineDied(runtime_number):
                    if runtime_number == self._number:
                        raise RuntimeError("its process ended")
                case End.NOW:
                    return False

    # -- add --------------------------------------------------------------------------------------

    def _add(self) -> None:
        """Hand requests to the engine: first those of an engine that died, then those that came."""
        work = self._work
        while work.replays and (request := work.replays.take(work.in_flight.values())):
            self._add_one(request)
        while work.arrived:
            request = work.arrived.popleft()
            if request.is_text:
                work.texts.append(request)
            elif work.replays:
                work.replays.append(request)
            else:
                self._add_one(request)
        if work.texts and not work.replays:
            self._add_texts()

    def _add_texts(self) -> None:
        """Add texts up to what keeps the engine busy: the tokenising of the others can wait."""
        waiting = self._work.texts
        while waiting and waiting[0].unwanted:
            waiting.popleft()
        room = max(0, self._most_in_flight - len(self._work.in_flight))
        texts = [(request.input, request.truncate) for request in islice(waiting, room)]
        if not texts:
            return
        for rendered in self._renderer.render_texts(texts):
            request = waiting.popleft()  # not before: one that kills may be before it
            if isinstance(rendered, Exception):
                request.fail(rendered)
            else:
                request.input, request.truncated = rendered.input, rendered.truncated
                request.params = rendered.params(request.params)
                self._add_one(request)

    def _add_one(self, request: EngineRequest) -> None:
        if request.unwanted:
            return
        in_flight = self._work.in_flight
        in_flight[request.id] = request  # before it is added: that may be what kills
        try:
            self._runtime.add(request.id, request.input, request.params, request.arguments)
        except InvalidRequestError as error:
            del in_flight[request.id]
            request.fail(error)
        else:
            self._work.watch_deadline(request)

    # -- step, complete, expire -------------------------------------------------------------------

    def _step(self) -> list[Any]:
        began = time.perf_counter()
        outputs = self._runtime.step()
        seconds = time.perf_counter() - began
        finished = sum(output.finished for output in outputs)
        self._tally.add_step(self._runtime.load.running + finished, seconds)
        return outputs

    def _complete(self, outputs: list[Any]) -> None:
        first_texts = False
        for output in outputs:
            request = self._work.in_flight.get(output.request_id)
            if request is None:
                continue  # cancelled while its last step ran
            if request.incremental:
                had_text = bool(request.text)
                if not request.note(output):
                    self._give_up_stream(request, finished=output.finished)
                    continue
                first_texts |= not output.finished and bool(request.text) and not had_text
            if output.finished:
                self._succeed(request, output)
        if first_texts:  # else their readers would wait for the next step to let go of the GIL
            time.sleep(_HANDOVER_SECONDS)

    def _expire(self) -> None:
        for request in self._work.take_expired(time.perf_counter()):
            self._runtime.abort(request.id)
            self._succeed(request, None)

    def _give_up_stream(self, request: EngineRequest, *, finished: bool) -> None:
        if not finished:
            self._runtime.abort(request.id)
        del self._work.in_flight[request.id]
        reason = "it could not repeat the text that it had streamed"
        request.fail(EngineDeadError(self._model_id, reason))

    def _succeed(self, request: EngineRequest, output: Any) -> None:
        try:
            result, prompt_tokens, completion_tokens = request.to_result(request, output)
        except InvalidRequestError as error:
            del self._work.in_flight[request.id]
            request.fail(error)
            return
        del self._work.in_flight[request.id]  # not before there is a result to settle it with
        latency = time.perf_counter() - request.started
        self._tally.add_result(prompt_tokens, completion_tokens, latency)
        request.succeed(result)
