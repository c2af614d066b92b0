"""Building an engine: plan, check, prepare, start."""

from __future__ import annotations

import logging
import signal
import time
from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import fields, replace
from typing import Any, Literal

from sage.common.components.sage_vllm.backend.answer_text import make_texts_of_answers_alone
from sage.common.components.sage_vllm.backend.chat.parser_choice import (
    check_tool_parser,
    choose_reasoning_parser,
)
from sage.common.components.sage_vllm.backend.cpu_kernels import (
    kernel_priorities,
    register_cpu_kernels,
)
from sage.common.components.sage_vllm.backend.device_memory import part_of, replicas_beside
from sage.common.components.sage_vllm.backend.engine_process import tied_processes
from sage.common.components.sage_vllm.backend.inline_patches import (
    look_at_models_here,
    mend_adapters_on_the_cpu,
    one_at_a_time,
)
from sage.common.components.sage_vllm.backend.inline_setup import (
    BUILD_LOCK,
    inline_runtimes,
    prepare_for_inline,
)
from sage.common.components.sage_vllm.backend.scheduler_load import LoadRecorder
from sage.common.components.sage_vllm.backend.vllm_device import (
    import_vllm,
    vllm_device,
    without_ray,
)
from sage.common.components.sage_vllm.backend.vllm_runtime import VLLMRuntime, prove, reason_of
from sage.common.components.sage_vllm.backend.vllm_types import LLMEngine, VllmConfig
from sage.common.components.sage_vllm.engine_contract import (
    EngineInfo,
    EngineSpec,
    Role,
)
from sage.common.components.sage_vllm.errors import EngineStartError, InvalidOptionError
from sage.common.components.sage_vllm.host.engine_environment import (
    engine_environment,
    environment,
    quiet_build,
)
from sage.common.components.sage_vllm.host.malloc_tuning import tune_malloc
from sage.common.components.sage_vllm.host.mapped_memory import take_first_blocks
from sage.common.components.sage_vllm.host.memory_tracker import have_memory_tracker
from sage.common.components.sage_vllm.host.socket_folder import SocketFolder
from sage.common.components.sage_vllm.host.usable_cores import usable_cores
from sage.common.components.sage_vllm.planning.engine_plan import EnginePlan, plan_engine
from sage.common.components.sage_vllm.planning.model_files import read_config
from sage.common.core.errors import nearest

logger = logging.getLogger(__name__)

Mode = Literal["inline", "process"]

_OURS = ("model", "runner", "convert", "served_model_name")  # set from the EngineSpec


def build(
    spec: EngineSpec, on_death: Callable[[], None] = lambda: None
) -> tuple[VLLMRuntime, EngineInfo]:
    """Build an engine on this thread.

    ``on_death`` is called, from another thread, when a process of the engine ends, in the end also
    when it is shut down. This thread, which steps the engine, has SIGINT blocked from here on.

    Raises:
        VLLMNotInstalledError, EngineStartError: vLLM cannot be imported, or refuses.
        InvalidOptionError: an engine option that does not exist, or not here.
        EngineError: what ``EnginePlan.check`` raises.
    """
    began = time.perf_counter()
    with BUILD_LOCK:
        import_vllm(spec.model_id)
        with quiet_build(), without_ray():
            with environment(spec.variables):
                device = vllm_device()
            plan = plan_engine(spec, device)
            if plan.device.kind == "cpu":
                register_cpu_kernels()
            engine_args = _engine_args(plan)
            plan.check(_known_types())
            mode = _mode(plan)
            _prepare(plan, mode)
            engine, runtime = _run(plan, mode, engine_args, on_death)
    made = prove(plan.spec, runtime)
    info = _info(plan, mode, runtime, engine.vllm_config, made, time.perf_counter() - began)
    plan.say_length(info.max_model_len)
    return runtime, info


def _run(
    plan: EnginePlan, mode: Mode, engine_args: Any, on_death: Callable[[], None]
) -> tuple[LLMEngine, VLLMRuntime]:
    """Start vLLM's engine with a folder for its sockets, which goes with it."""
    sockets = SocketFolder()
    try:
        engine = _start(plan, mode, engine_args, sockets)
        return engine, VLLMRuntime(
            plan.spec, engine, inline=mode == "inline", sockets=sockets, on_death=on_death
        )
    except BaseException:
        sockets.remove()
        raise


def plan(spec: EngineSpec) -> tuple[EngineSpec, int]:
    """Return ``spec`` with the size that its KV cache would get now, and the bytes it would hold.

    Raises as ``build`` does before it loads anything.
    """
    with BUILD_LOCK:
        import_vllm(spec.model_id)
        device = vllm_device()
        count = replicas_beside(spec, device)
        # What others hold now may be gone by the time: only the limit counts.
        planned = plan_engine(part_of(spec, count), replace(device, free=device.total))
        _engine_args(planned)
        planned.check(_known_types())
        _mode(planned)
    if planned.device.kind == "cpu" and planned.estimate.kv_cache_bytes is not None:
        size = {"kv_cache_memory_bytes": planned.estimate.kv_cache_bytes}
        spec = replace(spec, arguments={**spec.arguments, **size})
    return spec, planned.held_bytes * count


def _mode(plan: EnginePlan) -> Mode:
    asked, on_cpu = plan.spec.mode, plan.device.kind == "cpu"
    mode: Mode = "inline" if asked == "inline" or (asked == "auto" and on_cpu) else "process"
    if on_cpu and mode == "process" and plan.spec.arguments.get("enable_lora"):
        raise InvalidOptionError(
            "engine_mode",
            asked,
            f"LoRA adapters for {plan.spec.model_id!r} on a CPU need engine_mode 'inline': in a "
            f"process of its own, vLLM's engine would apply them to requests that name none",
            option="engine_mode",
            value="inline",
        )
    return mode


def _prepare(plan: EnginePlan, mode: Mode) -> None:
    """Prepare this process and this thread for the engine."""
    from vllm.v1.engine import detokenizer

    make_texts_of_answers_alone(detokenizer)
    on_cpu = plan.device.kind == "cpu"
    if on_cpu:
        from vllm.model_executor.models import registry

        look_at_models_here(registry)
    if on_cpu and plan.spec.arguments.get("enable_lora"):
        from vllm.lora.ops.torch_ops import lora_ops
        from vllm.lora.punica_wrapper import punica_cpu

        mend_adapters_on_the_cpu(lora_ops, punica_cpu)
    if mode == "inline":
        if on_cpu:
            tune_malloc()
            _use_no_more_threads_than_cores()
        prepare_for_inline()
    # A terminal sends Ctrl-C to the engine's processes as well. They inherit this thread's
    # mask, so that only the host hears it and shuts them down in order. The first process also
    # starts the resource tracker, which takes the mask away: it has to be there before.
    if mode == "process":
        have_memory_tracker()
    signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})


def _use_no_more_threads_than_cores() -> None:
    """Hold this thread's OpenMP to what a quota pays for; by itself it looks at cores alone."""
    import torch

    if torch.get_num_threads() > (cores := usable_cores()):
        # vLLM's first engine has made torch.set_num_threads do nothing.
        torch._C.set_num_threads(cores)  # noqa: SLF001


def _start(plan: EnginePlan, mode: Mode, engine_args: Any, sockets: SocketFolder) -> LLMEngine:
    """Start vLLM's engine; raises EngineStartError."""
    from vllm import envs
    from vllm.v1.engine import utils

    on_cpu, inline = plan.device.kind == "cpu", mode == "inline"
    settings = engine_environment(inline=inline, on_cpu=on_cpu)
    with (
        environment(settings | sockets.environment | dict(plan.spec.variables)),
        nullcontext() if inline else tied_processes(utils, forked=on_cpu),
    ):
        envs.disable_envs_cache()  # in which an inline engine keeps the settings of its build
        engine = _build_engine(plan.spec, engine_args)
        if inline_runtimes:
            envs.enable_envs_cache()
    if on_cpu and inline:
        engine.collective_rpc(
            lambda worker: take_first_blocks(worker.model_runner.kv_caches, one_at_a_time)
        )
    return engine


def _info(
    plan: EnginePlan,
    mode: Mode,
    runtime: VLLMRuntime,
    config: VllmConfig,
    made: int,
    seconds: float,
) -> EngineInfo:
    from vllm import __version__

    spec = plan.spec
    return EngineInfo(
        model_id=spec.model_id,
        mode=mode,
        dtype=str(config.model_config.dtype).removeprefix("torch."),
        max_model_len=config.model_config.max_model_len,
        model_max_len=plan.estimate.model_max_len,
        max_batch_size=config.scheduler_config.max_num_seqs,
        start_seconds=seconds,
        memory_bytes=plan.held_bytes,
        modalities=runtime.renderer.images.modalities,
        chat_templates=() if spec.role is Role.EMBED else runtime.renderer.chat_templates(),
        chat_marks=runtime.renderer.chat_marks() if spec.role is Role.GENERATE else None,
        prompts=plan.prompts.by_name,
        default_prompt=plan.prompts.default,
        classes=runtime.renderer.classes(made),
        quantization=config.model_config.quantization,
        version=__version__,
        device=config.device_config.device_type,
    )


def _known_types() -> set[str]:
    """Return the model types that vLLM and transformers have code for."""
    from transformers import CONFIG_MAPPING
    from vllm.transformers_utils.config import _CONFIG_REGISTRY

    return {*CONFIG_MAPPING, *_CONFIG_REGISTRY}


def _engine_args(plan: EnginePlan) -> Any:
    """Return vLLM's EngineArgs; raises InvalidOptionError for an option that they do not have."""
    from vllm import EngineArgs

    spec = plan.spec
    arguments = dict(spec.arguments)
    check_tool_parser(arguments.pop("tool_call_parser", None))
    known = [f.name for f in fields(EngineArgs) if f.name not in _OURS]
    for name, value in arguments.items():
        if name not in known:
            hint = "it is set from the model" if name in _OURS else nearest(name, known)
            problem = f"unknown engine option {name!r}"
            raise InvalidOptionError(name, value, problem, hint=hint)
    purpose: dict[str, Any] = {"runner": "pooling"}
    if spec.role is Role.GENERATE:  # with equal priorities, first come, first served as ever
        purpose = {"runner": "generate", "scheduling_policy": "priority"}
    return EngineArgs(
        model=str(spec.path),
        served_model_name=spec.model_id,
        **{"use_tqdm_on_load": False, **_fused_kernels(plan), **purpose, **arguments},
    )


def _fused_kernels(plan: EnginePlan) -> dict[str, Any]:
    """Return the option by which a CPU's engine uses fused norms; a compiler fuses them itself."""
    if plan.device.kind != "cpu" or not plan.spec.arguments.get("enforce_eager"):
        return {}
    if "kernel_config" in plan.spec.arguments:  # vLLM refuses this option in two places
        return {}
    return {"ir_op_priority": kernel_priorities()}


def _build_engine(spec: EngineSpec, engine_args: Any) -> LLMEngine:
    from pydantic import ValidationError
    from vllm import ModelRegistry
    from vllm.usage.usage_lib import UsageContext
    from vllm.v1.engine import llm_engine

    statistics = llm_engine.StatLoggerManager
    llm_engine.StatLoggerManager = LoadRecorder
    try:
        # The defaults for batch sizes are those of vLLM's offline LLM class.
        config = engine_args.create_engine_config(UsageContext.LLM_CLASS)
        # Otherwise a small model that writes JSON may add blanks until its tokens run out.
        compact = "structured_outputs_config" not in spec.arguments
        model = config.model_config
        if compact and model.hf_config is model.hf_text_config:
            config.structured_outputs_config.disable_any_whitespace = True
        if spec.role is Role.GENERATE and "reasoning_parser" not in spec.arguments:
            choose_reasoning_parser(config)
        # A model of several parts checks copies of the configuration while it loads, and vLLM's
        # check refuses this beside a backend that is chosen per request. An inline engine reads it
        # afterwards.
        built = llm_engine.LLMEngine.from_vllm_config(config, UsageContext.LLM_CLASS)
        if compact:
            built.vllm_config.structured_outputs_config.disable_any_whitespace = True
    except Exception as error:
        classes = read_config(spec.model_id, spec.path).get("architectures") or []
        unknown = [name for name in classes if name not in ModelRegistry.get_supported_archs()]
        # Otherwise vLLM would list all classes that it has code for, a page of them.
        no_code = isinstance(error, ValidationError) and unknown
        reason = f"it has no code for {', '.join(unknown)}" if no_code else reason_of(error)
        raise EngineStartError(spec.model_id, reason) from error
    finally:
        llm_engine.StatLoggerManager = statistics
    # From here on only the scheduler's figures are wanted, not those of every single token.
    built.log_stats = built.output_processor.log_stats = False
    engine: LLMEngine = built
    return engine
