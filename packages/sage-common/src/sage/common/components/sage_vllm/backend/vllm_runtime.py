"""VLLMRuntime: an engine of vLLM's, and the calls on it that an engine loop needs."""

from __future__ import annotations

import gc
import threading
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import InvalidStateError
from contextlib import nullcontext, suppress
from multiprocessing import connection
from pathlib import Path
from traceback import extract_tb
from typing import Any, get_args

from sage.common.components.sage_vllm.backend.inline_patches import (
    one_at_a_time,
    process_groups_kept,
)
from sage.common.components.sage_vllm.backend.inline_setup import BUILD_LOCK, inline_runtimes
from sage.common.components.sage_vllm.backend.scheduler_load import LoadRecorder, SchedulerLoad
from sage.common.components.sage_vllm.backend.scoring.scoring_renderer import ScoringRenderer
from sage.common.components.sage_vllm.backend.vllm_renderer import VLLMRenderer
from sage.common.components.sage_vllm.backend.vllm_types import (
    EngineCoreClient,
    LLMEngine,
    VLLMClasses,
)
from sage.common.components.sage_vllm.engine_contract import EngineSpec, Role
from sage.common.components.sage_vllm.errors import EngineStartError, InvalidRequestError
from sage.common.components.sage_vllm.host.socket_folder import SocketFolder
from sage.common.components.sage_vllm.planning.sentence_pooling import vector_length


class VLLMRuntime:
    """A built ``LLMEngine`` and the few calls on it that an engine loop needs.

    ``renderer`` may be used by any thread, ``load`` read and ``interrupt`` called by any; all else
    belongs to the thread that built it.
    """

    def __init__(
        self,
        spec: EngineSpec,
        engine: LLMEngine,
        *,
        inline: bool,
        sockets: SocketFolder,
        on_death: Callable[[], None],
    ) -> None:
        vllm = _classes()
        self._processes = [] if inline else engine.engine_core.resources.engine_manager.processes
        if inline:
            inline_runtimes.add(id(self))
        else:
            _watch(self._processes, engine.engine_core, on_death)
        renderer = ScoringRenderer if spec.role is Role.SCORE else VLLMRenderer
        tool_parser = spec.arguments.get("tool_call_parser")
        self.renderer: VLLMRenderer = renderer(spec.model_id, engine, vllm, tool_parser=tool_parser)
        self._model_id = spec.model_id
        self._inline = inline
        self._sockets = sockets
        self._engine = engine
        self._recorder = engine.logger_manager or LoadRecorder()
        self._refusals = vllm.refusals
        self._adapters_loaded: set[int] = set()

    @property
    def load(self) -> SchedulerLoad:
        """The scheduler's figures as of the last step."""
        load: SchedulerLoad = self._recorder.load
        return load

    def add(
        self, request_id: str, engine_input: Any, params: Any, arguments: Mapping[str, Any]
    ) -> None:
        """Hand a rendered request to the engine; raises InvalidRequestError."""
        if (adapter := arguments.get("lora_request")) is not None:
            self._load_adapter(adapter)
        try:
            if "reasoning" in arguments:
                engine_input, arguments = self._knowing(request_id, engine_input, params, arguments)
            self._engine.add_request(request_id, engine_input, params, **arguments)
        except self._refusals as error:
            raise InvalidRequestError(self._model_id, str(error), **_way_out(error)) from error

    def _knowing(
        self, request_id: str, engine_input: Any, params: Any, arguments: Mapping[str, Any]
    ) -> tuple[Any, dict[str, Any]]:
        """Return a request that says whether its prompt has all the thinking already.

        ``add_request`` has no argument for that. Without it, the engine judges by the prompt alone
        from when on the text must keep to a schema.
        """
        others = dict(arguments)
        ended, kwargs = others.pop("reasoning")
        request = self._engine.input_processor.process_inputs(
            request_id,
            engine_input,
            params,
            supported_tasks=self._engine.get_supported_tasks(),
            **others,
        )
        request.reasoning_ended, request.reasoning_parser_kwargs = ended, kwargs
        return request, {}

    def _load_adapter(self, adapter: Any) -> None:
        """Load a LoRA adapter that is new to this engine.

        The step would load it too, but what is wrong with its files would be the engine's end.
        """
        from vllm.v1.engine.exceptions import EngineDeadError

        if adapter.lora_int_id in self._adapters_loaded:
            return
        try:
            with one_at_a_time if self._inline else nullcontext():
                self._engine.add_lora(adapter)
        except EngineDeadError:
            raise
        except Exception as error:
            name = adapter.lora_name.partition("@")[0]
            raise InvalidRequestError(
                self._model_id,
                f"the adapter {name!r} does not load on {self._model_id!r}: {error}",
            ) from error
        self._adapters_loaded.add(adapter.lora_int_id)

    def abort(self, *request_ids: str) -> None:
        """Drop requests and free their KV cache."""
        self._engine.abort_request(request_ids)

    def step(self) -> list[Any]:
        """Run one step; return the outputs of the requests that it finished."""
        with one_at_a_time if self._inline else nullcontext():
            return self._engine.step()

    def interrupt(self) -> None:
        """Make a ``step`` raise that waits for an engine process which does not answer."""
        if not self._inline and (engine := self._engine) is not None:
            _fail_all_waits(engine.engine_core)

    def shut_down(self) -> None:
        """Free the engine: its memory, its process, vLLM's process groups."""
        from vllm import envs
        from vllm.distributed import parallel_state

        with BUILD_LOCK:
            inline_runtimes.discard(id(self))
            if not inline_runtimes:
                envs.disable_envs_cache()  # an engine of vLLM's own would have our settings
            with process_groups_kept(parallel_state) if inline_runtimes else nullcontext():
                self._engine.engine_core.shutdown()
        if not self._inline:
            _close_sockets(self._engine.engine_core)
        for process in self._processes:
            process.join(timeout=5)  # vLLM does not wait for one that it had to kill
        self._sockets.remove()
        self._engine = None  # type: ignore[assignment]  # nothing is called after this
        gc.collect()


def prove(spec: EngineSpec, runtime: VLLMRuntime) -> int:
    """Have a new engine do its work once: some models load that vLLM cannot run.

    Returns how many numbers it makes of a text. Raises EngineStartError, and shuts the engine down
    before.
    """
    renderer = runtime.renderer
    embeds = spec.role is Role.EMBED
    try:
        runtime.add("proof", renderer.render_tokens([0]), renderer.proof_params(), {})
        while not (outputs := runtime.step()):
            pass
    except Exception as error:
        runtime.shut_down()
        reason = f"it loads and does not {spec.role}: {reason_of(error)}"
        raise EngineStartError(spec.model_id, reason) from error
    made = 0 if spec.role is Role.GENERATE else outputs[0].outputs.data.shape[-1]
    length = vector_length(spec.model_id, spec.path) if embeds else None
    if length is not None and length != made:
        runtime.shut_down()
        reason = f"vLLM makes vectors of {made} numbers, and its last module of {length}"
        raise EngineStartError(spec.model_id, reason)
    return made


def reason_of(error: Exception) -> str:
    """Return what an error says; of one of pydantic's, what it found, not how to look it up."""
    from pydantic import ValidationError

    if isinstance(error, ValidationError):
        return "; ".join(detail["msg"] for detail in error.errors())
    if str(error) and not isinstance(error, AssertionError | LookupError):
        return str(error)
    where = extract_tb(error.__traceback__)[-1]  # a missing key alone says nothing
    said = f"{type(error).__name__} {error}".rstrip()
    return f"{said} in {Path(where.filename).name}, at `{where.line}`"


def _classes() -> VLLMClasses:
    from vllm import PoolingParams, SamplingParams
    from vllm.config.lora import MaxLoRARanks
    from vllm.exceptions import VLLMClientError
    from vllm.lora.request import LoRARequest
    from vllm.multimodal.media import ImageMediaIO
    from vllm.renderers import ChatParams
    from vllm.renderers.chat_utils import ChatTemplateResolutionError
    from vllm.renderers.hf import HfRenderer, resolve_chat_template, safe_apply_chat_template
    from vllm.renderers.inputs.preprocess import parse_model_prompt
    from vllm.sampling_params import (
        RepetitionDetectionParams,
        RequestOutputKind,
        StructuredOutputsParams,
    )

    class SharedPoolingParams(PoolingParams):  # type: ignore[misc]  # vLLM's classes are Any here
        """Parameters of many requests; copying them for each is 2 % of an embedding's time."""

        def clone(self) -> SharedPoolingParams:
            return self

    return VLLMClasses(
        ChatParams=ChatParams,
        ChatTemplateResolutionError=ChatTemplateResolutionError,
        HfRenderer=HfRenderer,
        ImageMediaIO=ImageMediaIO,
        LoRARequest=LoRARequest,
        lora_ranks=get_args(MaxLoRARanks),
        RepetitionDetectionParams=RepetitionDetectionParams,
        RequestOutputKind=RequestOutputKind,
        SamplingParams=SamplingParams,
        SharedPoolingParams=SharedPoolingParams,
        StructuredOutputsParams=StructuredOutputsParams,
        parse_model_prompt=parse_model_prompt,
        resolve_chat_template=resolve_chat_template,
        safe_apply_chat_template=safe_apply_chat_template,
        refusals=(VLLMClientError, ValueError, TypeError),
    )


def _way_out(error: Exception) -> dict[str, Any]:
    """Return what an engine is to be configured with to take what vLLM has refused."""
    if getattr(error, "parameter", None) not in ("logprobs", "prompt_logprobs"):
        return {}
    value = getattr(error, "value", None)
    return {"hint": "configure it with", "option": "engine.max_logprobs", "value": value}


def _close_sockets(client: EngineCoreClient) -> None:
    """Close what vLLM's client leaves open after its shutdown: its ZeroMQ context."""
    client.output_queue_thread.join(timeout=5)
    if not client.output_queue_thread.is_alive():
        client.ctx.destroy(linger=0)


def _watch(
    processes: Sequence[Any], client: EngineCoreClient, on_death: Callable[[], None]
) -> None:
    """Make ``step`` raise when an engine process dies, and say so to an engine that is idle.

    vLLM's synchronous client waits for outputs without limit; its own monitor only notes that the
    process is gone.
    """

    def watch() -> None:
        connection.wait([process.sentinel for process in processes])
        _fail_all_waits(client)
        on_death()

    threading.Thread(target=watch, name="sage-engine-watch", daemon=True).start()


def _fail_all_waits(client: EngineCoreClient) -> None:
    """End what vLLM's client waits for: outputs of steps, and results of calls."""
    from vllm.v1.engine.exceptions import EngineDeadError

    client.outputs_queue.put(EngineDeadError())
    for future in list(client.utility_results.values()):
        with suppress(InvalidStateError):  # it has come meanwhile
            future.set_exception(EngineDeadError())
