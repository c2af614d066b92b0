"""VLLMRuntime: all that is said to vLLM itself. In this process only this module imports it."""

from __future__ import annotations

import gc
import signal
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import InvalidStateError
from contextlib import nullcontext, suppress
from dataclasses import fields, replace
from multiprocessing import connection, resource_tracker
from types import SimpleNamespace
from typing import Any, Literal

from sage.common.components.sage_vllm.backend.answer_text import make_texts_of_answers_alone
from sage.common.components.sage_vllm.backend.cpu_kernels import (
    kernel_priorities,
    register_cpu_kernels,
)
from sage.common.components.sage_vllm.backend.engine_process import forked_processes
from sage.common.components.sage_vllm.backend.inline_patches import (
    keep_adapters_off_plain_requests,
    keep_collections_short,
    make_forward_passes_one_at_a_time,
    map_kv_caches,
    one_at_a_time,
    process_groups_kept,
    register_kernels_once,
    take_first_of_kv_cache,
)
from sage.common.components.sage_vllm.backend.scheduler_load import LoadRecorder, SchedulerLoad
from sage.common.components.sage_vllm.backend.vllm_renderer import VLLMRenderer
from sage.common.components.sage_vllm.engine_contract import EngineInfo, EngineSpec
from sage.common.components.sage_vllm.errors import (
    EngineStartError,
    InvalidRequestError,
    VLLMNotInstalledError,
)
from sage.common.components.sage_vllm.fit.cpu_defaults import available_memory, cpu_defaults
from sage.common.components.sage_vllm.fit.gpu_shares import gpu_shares
from sage.common.components.sage_vllm.fit.memory_check import DEFAULT_SHARE
from sage.common.components.sage_vllm.fit.memory_estimate import MemoryEstimate
from sage.common.components.sage_vllm.fit.model_check import check_model
from sage.common.components.sage_vllm.fit.model_files import read_config
from sage.common.components.sage_vllm.fit.sentence_model import embedding_arguments, vector_length
from sage.common.components.sage_vllm.host.engine_environment import (
    engine_environment,
    environment,
    quiet_environment,
    quiet_warnings,
)
from sage.common.components.sage_vllm.host.host_memory import host_memory
from sage.common.components.sage_vllm.host.malloc_tuning import tune_malloc
from sage.common.core.errors import nearest

_OURS = ("model", "runner", "convert", "served_model_name")  # set from the EngineSpec
_BUILD_LOCK = threading.Lock()  # building reads settings from the process's environment
_inline_runtimes: set[int] = set()  # guarded by _BUILD_LOCK; they share torch's process groups
_process_is_shared = False  # guarded by _BUILD_LOCK


class VLLMRuntime:
    """A built ``LLMEngine`` and the few calls on it that an engine loop needs.

    ``renderer`` may be used by any thread, ``load`` read and ``interrupt`` called by any; all else
    belongs to the thread that called ``build``.
    """

    def __init__(
        self, spec: EngineSpec, engine: Any, *, inline: bool, on_death: Callable[[], None]
    ) -> None:
        vllm = _what_is_used_of_vllm()
        self._processes = [] if inline else engine.engine_core.resources.engine_manager.processes
        if inline:
            _inline_runtimes.add(id(self))
        else:
            _watch(self._processes, engine.engine_core, on_death)
        self.renderer = VLLMRenderer(spec.model_id, engine, vllm)
        self._model_id = spec.model_id
        self._inline = inline
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
            self._engine.add_request(request_id, engine_input, params, **arguments)
        except self._refusals as error:
            raise InvalidRequestError(self._model_id, str(error)) from error

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
            raise InvalidRequestError(
                self._model_id,
                f"the adapter {adapter.lora_name!r} does not load on {self._model_id!r}: {error}",
            ) from error
        self._adapters_loaded.add(adapter.lora_int_id)

    def abort(self, *request_ids: str) -> None:
        """Drop requests and free their KV cache."""
        self._engine.abort_request(request_ids)

    def step(self) -> list[Any]:
        """Run one step; return the outputs of the requests that it finished."""
        with one_at_a_time if self._inline else nullcontext():
            outputs: list[Any] = self._engine.step()
        return outputs

    def interrupt(self) -> None:
        """Make a ``step`` raise that waits for an engine process which does not answer."""
        if not self._inline and (engine := self._engine) is not None:
            _fail_all_waits(engine.engine_core)

    def shut_down(self) -> None:
        """Free the engine: its memory, its process, vLLM's process groups."""
        from vllm.distributed import parallel_state

        with _BUILD_LOCK:
            _inline_runtimes.discard(id(self))
            with process_groups_kept(parallel_state) if _inline_runtimes else nullcontext():
                self._engine.engine_core.shutdown()
        if not self._inline:
            _close_sockets(self._engine.engine_core)
        for process in self._processes:
            process.join(timeout=5)  # vLLM does not wait for one that it had to kill
        self._engine = None
        gc.collect()


def _what_is_used_of_vllm() -> SimpleNamespace:
    from vllm import PoolingParams, SamplingParams
    from vllm.exceptions import VLLMClientError
    from vllm.lora.request import LoRARequest
    from vllm.renderers import ChatParams
    from vllm.renderers.chat_utils import ChatTemplateResolutionError
    from vllm.renderers.hf import HfRenderer, resolve_chat_template
    from vllm.renderers.inputs.preprocess import parse_model_prompt
    from vllm.sampling_params import RequestOutputKind, StructuredOutputsParams

    class SharedPoolingParams(PoolingParams):  # type: ignore[misc]  # vLLM's classes are Any here
        """Parameters of many requests; copying them for each is 2 % of an embedding's time."""

        def clone(self) -> SharedPoolingParams:
            return self

    return SimpleNamespace(
        ChatParams=ChatParams,
        ChatTemplateResolutionError=ChatTemplateResolutionError,
        HfRenderer=HfRenderer,
        LoRARequest=LoRARequest,
        RequestOutputKind=RequestOutputKind,
        SamplingParams=SamplingParams,
        SharedPoolingParams=SharedPoolingParams,
        StructuredOutputsParams=StructuredOutputsParams,
        parse_model_prompt=parse_model_prompt,
        resolve_chat_template=resolve_chat_template,
        refusals=(VLLMClientError, ValueError, TypeError),
    )


def _close_sockets(client: Any) -> None:
    """Close what vLLM's client leaves open after its shutdown: its ZeroMQ context."""
    client.output_queue_thread.join(timeout=5)
    if not client.output_queue_thread.is_alive():
        client.ctx.destroy(linger=0)


def _watch(processes: Sequence[Any], client: Any, on_death: Callable[[], None]) -> None:
    """Make ``step`` raise when an engine process dies, and say so to an engine that is idle.

    vLLM's synchronous client waits for outputs without limit; its own monitor only notes that the
    process is gone.
    """

    def watch() -> None:
        connection.wait([process.sentinel for process in processes])
        _fail_all_waits(client)
        on_death()

    threading.Thread(target=watch, name="sage-engine-watch", daemon=True).start()


def _fail_all_waits(client: Any) -> None:
    """End what vLLM's client waits for: outputs of steps, and results of calls."""
    from vllm.v1.engine.exceptions import EngineDeadError

    client.outputs_queue.put(EngineDeadError())
    for future in list(client.utility_results.values()):
        with suppress(InvalidStateError):  # it has come meanwhile
            future.set_exception(EngineDeadError())


def build(
    spec: EngineSpec, on_death: Callable[[], None] = lambda: None
) -> tuple[VLLMRuntime, EngineInfo]:
    """Build an engine on this thread; raises what check_model does, VLLMNotInstalledError,
    EngineStartError, and ValueError for an engine option that does not exist.

    ``on_death`` is called, from another thread, when a process of the engine ends, in the end also
    when it is shut down. This thread, which steps the engine, has SIGINT blocked from here on.
    """
    began = time.perf_counter()
    with _BUILD_LOCK:
        _import_vllm(spec.model_id)
        from vllm.platforms import current_platform
        from vllm.v1.engine import detokenizer

        make_texts_of_answers_alone(detokenizer)
        on_cpu = current_platform.is_cpu()
        inline = spec.mode == "inline" or (spec.mode == "auto" and on_cpu)
        read_config(spec.model_id, spec.path)  # which the defaults are made from
        arguments = {
            **(cpu_defaults(spec.path, spec.arguments) if on_cpu else {}),
            **spec.arguments,
        }
        engine_args = _engine_args(spec, arguments)
        free, total = _device_memory(current_platform)
        estimate = check_model(
            replace(spec, arguments=arguments),
            device="cpu" if on_cpu else "gpu",
            free=free,
            total=total,
            allow_pickle=spec.allow_pickle,
            known_types=_known_types(),
        )
        if on_cpu and arguments.get("enable_lora"):
            if not inline:
                raise ValueError(
                    f"LoRA adapters for {spec.model_id!r} on a CPU need engine_mode 'inline': in a "
                    f"process of its own, vLLM's engine would apply them to requests that name none"
                )
            from vllm.lora.ops.torch_ops import lora_ops
            from vllm.lora.punica_wrapper import punica_cpu

            keep_adapters_off_plain_requests(lora_ops, punica_cpu)
        if on_cpu and inline:
            tune_malloc()
        if inline:
            _share_process()
        # A terminal sends Ctrl-C to the engine's processes as well. They inherit this thread's
        # mask, so that only the host hears it and shuts them down in order. The first process also
        # starts the resource tracker, which takes the mask away: it has to be there before.
        if not inline:
            resource_tracker.ensure_running()
        signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
        from vllm.v1.engine import utils

        forked = on_cpu and not inline
        with (
            environment(engine_environment(inline=inline, on_cpu=on_cpu)),
            forked_processes(utils) if forked else nullcontext(),
        ):
            engine = _build_engine(spec, engine_args)
        if on_cpu and inline and not _inline_runtimes:  # another one needs the cores to serve
            engine.collective_rpc(take_first_of_kv_cache)
        runtime = VLLMRuntime(spec, engine, inline=inline, on_death=on_death)
    _prove(spec, runtime)
    mode: Literal["inline", "process"] = "inline" if inline else "process"
    config = engine.vllm_config
    return runtime, EngineInfo(
        model_id=spec.model_id,
        mode=mode,
        dtype=str(config.model_config.dtype).removeprefix("torch."),
        max_model_len=config.model_config.max_model_len,
        max_batch_size=config.scheduler_config.max_num_seqs,
        start_seconds=time.perf_counter() - began,
        memory_bytes=_held_bytes(estimate, arguments, None if on_cpu else total),
        chat_templates=runtime.renderer.chat_templates() if spec.role == "generate" else (),
    )


def _prove(spec: EngineSpec, runtime: VLLMRuntime) -> None:
    """Have a new engine do its work once: some models load that vLLM cannot run.

    Raises EngineStartError, and shuts the engine down before.
    """
    renderer = runtime.renderer
    embeds = spec.role == "embed"
    params = renderer.pooling_params(normalize=True) if embeds else renderer.one_token()
    try:
        runtime.add("proof", renderer.render_tokens([0]), params, {})
        while not (outputs := runtime.step()):
            pass
    except Exception as error:
        runtime.shut_down()
        work = "embed" if embeds else "generate"
        reason = f"it loads and does not {work}: {_reason(error)}"
        raise EngineStartError(spec.model_id, reason) from error
    length = vector_length(spec.model_id, spec.path) if embeds else None
    if length is not None and length != (made := len(outputs[0].outputs.data)):
        runtime.shut_down()
        reason = f"vLLM makes vectors of {made} numbers, and its last module of {length}"
        raise EngineStartError(spec.model_id, reason)


def _share_process() -> None:
    """Prepare this process for inline engines, once."""
    global _process_is_shared
    if _process_is_shared:
        return
    from vllm import forward_context
    from vllm.distributed import parallel_state
    from vllm.platforms import current_platform
    from vllm.utils import gc_utils
    from vllm.v1.engine import core
    from vllm.v1.worker import gpu_model_runner, gpu_worker, utils

    make_forward_passes_one_at_a_time(forward_context, gpu_model_runner.GPUModelRunner)
    register_kernels_once(type(current_platform))
    map_kv_caches(utils)
    keep_collections_short(core, gc_utils, gpu_model_runner, gpu_worker, parallel_state)
    _process_is_shared = True


def share_device(text: EngineSpec, embedding: EngineSpec) -> tuple[EngineSpec, EngineSpec]:
    """Return the two with the shares of a GPU's memory by which both fit; raises as ``build``.

    On a CPU each engine is sized by itself, to a part of what is free.
    """
    with _BUILD_LOCK:
        _import_vllm(text.model_id)
        from vllm.platforms import current_platform

        free, total = _device_memory(current_platform)
    if current_platform.is_cpu() or free is None or total is None:
        return text, embedding
    shares = gpu_shares(text, embedding, free=free, total=total)
    shared = [
        replace(spec, arguments={**spec.arguments, "gpu_memory_utilization": share})
        for spec, share in zip((text, embedding), shares, strict=True)
    ]
    return shared[0], shared[1]


def _device_memory(platform: Any) -> tuple[int | None, int | None]:
    """Return the bytes free and in all on the device, or two None where nobody says."""
    if platform.is_cpu():
        return available_memory(), host_memory().total
    if not platform.is_cuda():
        return None, None
    from vllm.utils.import_utils import import_pynvml

    nvml = import_pynvml()  # CUDA itself would make a context, here where nothing else needs one
    nvml.nvmlInit()
    try:
        handle = nvml.nvmlDeviceGetHandleByIndex(platform.device_id_to_physical_device_id(0))
        memory = nvml.nvmlDeviceGetMemoryInfo(handle)
        return memory.free, memory.total
    finally:
        nvml.nvmlShutdown()


def _held_bytes(
    estimate: MemoryEstimate, arguments: Mapping[str, Any], gpu_bytes: int | None
) -> int:
    """Return what an engine keeps of its device's memory: on a GPU the share it was given."""
    if estimate.kv_cache_bytes is None and gpu_bytes is not None:
        return int((arguments.get("gpu_memory_utilization") or DEFAULT_SHARE) * gpu_bytes)
    return estimate.weight_bytes + estimate.overhead_bytes + (estimate.kv_cache_bytes or 0)


def _known_types() -> set[str]:
    """Return the model types that vLLM and transformers have code for."""
    from transformers import CONFIG_MAPPING
    from vllm.transformers_utils.config import _CONFIG_REGISTRY

    return {*CONFIG_MAPPING, *_CONFIG_REGISTRY}


def _import_vllm(model_id: str) -> None:
    try:
        with environment(quiet_environment()):
            import vllm  # noqa: F401 - first, so that where both are missing it is the one named
            from transformers.utils.logging import get_logger  # noqa: F401 - reads its level
    except ImportError as error:
        raise VLLMNotInstalledError(model_id, str(error)) from error
    quiet_warnings()


def _engine_args(spec: EngineSpec, arguments: Mapping[str, Any]) -> Any:
    from vllm import EngineArgs

    known = [f.name for f in fields(EngineArgs) if f.name not in _OURS]
    for name in arguments:
        if name not in known:
            hint = "it is set from the model" if name in _OURS else nearest(name, known)
            raise ValueError(f"unknown engine option {name!r}; {hint}")
    if spec.role == "embed":
        added = embedding_arguments(spec.model_id, spec.path, arguments)
        purpose: dict[str, Any] = {"runner": "pooling", **added}
    else:  # with equal priorities, first come, first served as ever
        purpose = {"runner": "generate", "scheduling_policy": "priority"}
    return EngineArgs(
        model=str(spec.path),
        served_model_name=spec.model_id,
        **{"use_tqdm_on_load": False, **_fused_kernels(arguments), **purpose, **arguments},
    )


def _fused_kernels(arguments: Mapping[str, Any]) -> dict[str, Any]:
    """Return the option by which a CPU's engine uses fused norms; a compiler fuses them itself."""
    from vllm.platforms import current_platform

    if not current_platform.is_cpu() or not arguments.get("enforce_eager"):
        return {}
    if "kernel_config" in arguments:  # vLLM refuses this option in two places
        return {}
    register_cpu_kernels()
    return {"ir_op_priority": kernel_priorities()}


def _build_engine(spec: EngineSpec, engine_args: Any) -> Any:
    from pydantic import ValidationError
    from vllm import LLMEngine, ModelRegistry
    from vllm.usage.usage_lib import UsageContext
    from vllm.v1.engine import llm_engine

    statistics = llm_engine.StatLoggerManager
    llm_engine.StatLoggerManager = LoadRecorder
    try:
        # The defaults for batch sizes are those of vLLM's offline LLM class.
        config = engine_args.create_engine_config(UsageContext.LLM_CLASS)
        if "structured_outputs_config" not in spec.arguments:
            # A small model told to write JSON may else go on with blanks to the end of its tokens.
            config.structured_outputs_config.disable_any_whitespace = True
        engine = LLMEngine.from_vllm_config(config, UsageContext.LLM_CLASS)
    except Exception as error:
        classes = read_config(spec.model_id, spec.path).get("architectures") or []
        unknown = [name for name in classes if name not in ModelRegistry.get_supported_archs()]
        # Else vLLM would list all classes that it has code for, a page of them.
        no_code = isinstance(error, ValidationError) and unknown
        reason = f"it has no code for {', '.join(unknown)}" if no_code else _reason(error)
        raise EngineStartError(spec.model_id, reason) from error
    finally:
        llm_engine.StatLoggerManager = statistics
    # From here on only the scheduler's figures are wanted, not those of every single token.
    engine.log_stats = engine.output_processor.log_stats = False
    return engine


def _reason(error: Exception) -> str:
    """Return what an error says; of one of pydantic's, what it found, not how to look it up."""
    from pydantic import ValidationError

    if not isinstance(error, ValidationError):
        return str(error) or type(error).__name__
    return "; ".join(detail["msg"] for detail in error.errors())
