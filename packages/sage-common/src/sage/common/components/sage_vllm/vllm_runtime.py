"""VLLMRuntime: all that is said to vLLM itself. The only module that imports vllm.

Everything but ``sampling_params``, ``pooling_params`` and ``render`` belongs to one thread, the
one that called ``build``.
"""

from __future__ import annotations

import gc
import logging
import os
import threading
import time
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, nullcontext
from dataclasses import fields
from multiprocessing import connection
from typing import Any, Literal

from sage.common.components.sage_vllm.cpu_defaults import cpu_defaults
from sage.common.components.sage_vllm.engine import EngineInfo, EngineSpec, Prompt
from sage.common.components.sage_vllm.errors import (
    EngineStartError,
    InvalidRequestError,
    VLLMNotInstalledError,
)
from sage.common.components.sage_vllm.lifeline import HOST_VARIABLE
from sage.common.components.sage_vllm.malloc_tuning import MALLOC_ENVIRONMENT, tune_malloc
from sage.common.components.sage_vllm.sampling_options import DEFAULT_MAX_TOKENS
from sage.common.core.errors import nearest

_OURS = ("model", "runner", "convert", "served_model_name")  # set from the EngineSpec
_BUILD_LOCK = threading.Lock()  # building reads settings from the process's environment
_inline_runtimes: set[int] = set()  # guarded by _BUILD_LOCK; they share torch's process groups


class VLLMRuntime:
    """A built ``LLMEngine`` and the few calls on it that an engine loop needs."""

    def __init__(self, spec: EngineSpec, engine: Any, *, inline: bool) -> None:
        from vllm import PoolingParams, SamplingParams
        from vllm.exceptions import VLLMClientError
        from vllm.renderers import ChatParams
        from vllm.renderers.chat_utils import ChatTemplateResolutionError
        from vllm.renderers.inputs.preprocess import parse_model_prompt
        from vllm.sampling_params import RequestOutputKind

        if inline:
            _inline_runtimes.add(id(self))
        else:
            _watch_engine_processes(engine.engine_core)
        self._model_id = spec.model_id
        self._engine = engine
        self._renderer = engine.renderer
        self._SamplingParams = SamplingParams
        self._PoolingParams = PoolingParams
        self._refusals = (VLLMClientError, ValueError, TypeError)
        self._no_chat_template = ChatTemplateResolutionError
        self._parse_prompt = parse_model_prompt
        self._final_only = RequestOutputKind.FINAL_ONLY
        self._chat_params = ChatParams(
            chat_template_kwargs={"add_generation_prompt": True, "tokenize": False}
        )
        self._model_defaults = {
            "max_tokens": DEFAULT_MAX_TOKENS,
            **engine.model_config.get_diff_sampling_param(),
        }

    # -- any thread -----------------------------------------------------------------------------

    def sampling_params(self, options: Mapping[str, Any]) -> Any:
        """Return vLLM's SamplingParams: the model's own defaults under the given options."""
        try:
            return self._SamplingParams(
                **{**self._model_defaults, **options}, output_kind=self._final_only
            )
        except self._refusals as error:
            raise InvalidRequestError(self._model_id, f"bad sampling options: {error}") from error

    def pooling_params(self, *, normalize: bool) -> Any:
        """Return vLLM's PoolingParams for an embedding."""
        return self._PoolingParams(task="embed", use_activation=normalize)

    def render(self, prompt: Prompt) -> Any:
        """Apply the chat template if it is a conversation, tokenise, check the length."""
        try:
            if isinstance(prompt, str):
                parsed = self._parse_prompt(self._engine.model_config, prompt)
                return self._renderer.render_cmpl([parsed])[0]
            _, rendered = self._renderer.render_chat([list(prompt)], self._chat_params)
            return rendered[0]
        except self._no_chat_template as error:
            raise InvalidRequestError(
                self._model_id,
                f"{self._model_id!r} has no chat template, so it takes no conversations; pass a "
                f"plain string, or use an instruction-tuned model",
            ) from error
        except self._refusals as error:
            raise InvalidRequestError(self._model_id, str(error)) from error

    # -- the thread that built it ---------------------------------------------------------------

    def add(self, request_id: str, engine_input: Any, params: Any) -> None:
        """Hand a rendered request to the engine; raises InvalidRequestError."""
        try:
            self._engine.add_request(request_id, engine_input, params)
        except self._refusals as error:
            raise InvalidRequestError(self._model_id, str(error)) from error

    def abort(self, *request_ids: str) -> None:
        """Drop requests and free their KV cache."""
        self._engine.abort_request(request_ids)

    def step(self) -> list[Any]:
        """Run one step; return the outputs of the requests that it finished."""
        outputs: list[Any] = self._engine.step()
        return outputs

    def shut_down(self) -> None:
        """Free the engine: its memory, its process, vLLM's process groups."""
        self._renderer.shutdown()
        with _BUILD_LOCK:
            _inline_runtimes.discard(id(self))
            with _process_groups_kept() if _inline_runtimes else nullcontext():
                self._engine.engine_core.shutdown()
        self._engine = self._renderer = None
        gc.collect()


def _watch_engine_processes(client: Any) -> None:
    """Make ``step`` raise when an engine process dies.

    vLLM's synchronous client waits for outputs without limit; its own monitor only notes that the
    process is gone.
    """
    from vllm.v1.engine.exceptions import EngineDeadError

    processes = client.resources.engine_manager.processes
    outputs = client.outputs_queue

    def watch() -> None:
        connection.wait([process.sentinel for process in processes])
        outputs.put(EngineDeadError())

    threading.Thread(target=watch, name="sage-engine-watch", daemon=True).start()


@contextmanager
def _process_groups_kept() -> Iterator[None]:
    """Keep vLLM from destroying torch's process groups, which other inline engines still need.

    An EngineCore that shuts down always destroys them: it takes itself for the only one in its
    process.
    """
    from vllm.v1.engine import core

    destroy = core.cleanup_dist_env_and_memory
    core.cleanup_dist_env_and_memory = gc.collect
    try:
        yield
    finally:
        core.cleanup_dist_env_and_memory = destroy


def build(spec: EngineSpec) -> tuple[VLLMRuntime, EngineInfo]:
    """Build an engine on this thread; raises VLLMNotInstalledError, EngineStartError, ValueError.

    ``ValueError`` is for an engine option that does not exist.
    """
    began = time.perf_counter()
    with _BUILD_LOCK:
        _import_vllm(spec.model_id)
        from vllm.platforms import current_platform

        on_cpu = current_platform.is_cpu()
        inline = spec.mode == "inline" or (spec.mode == "auto" and on_cpu)
        arguments = {
            **(cpu_defaults(spec.path, spec.arguments) if on_cpu else {}),
            **spec.arguments,
        }
        engine_args = _engine_args(spec, arguments)
        if on_cpu and inline:
            tune_malloc()
        with _environment(_engine_environment(inline=inline, on_cpu=on_cpu)):
            engine = _build_engine(spec, engine_args)
        runtime = VLLMRuntime(spec, engine, inline=inline)
    mode: Literal["inline", "process"] = "inline" if inline else "process"
    config = engine.vllm_config
    return runtime, EngineInfo(
        model_id=spec.model_id,
        mode=mode,
        dtype=str(config.model_config.dtype).removeprefix("torch."),
        max_model_len=config.model_config.max_model_len,
        max_batch_size=config.scheduler_config.max_num_seqs,
        start_seconds=time.perf_counter() - began,
    )


def _import_vllm(model_id: str) -> None:
    # Read by vllm when it is imported; whoever sets them otherwise has the last word.
    os.environ.setdefault("VLLM_LOGGING_LEVEL", "ERROR")
    os.environ.setdefault("VLLM_LOGGING_STREAM", "ext://sys.stderr")
    os.environ.setdefault("VLLM_NO_USAGE_STATS", "1")
    try:
        import vllm  # noqa: F401
    except ImportError as error:
        raise VLLMNotInstalledError(model_id, str(error)) from error
    # What vLLM and torch say of each other at every start helps no user of ours.
    warnings.filterwarnings("ignore", category=FutureWarning, module=r"vllm\.")
    logging.getLogger("torch._library.triton").setLevel(logging.ERROR)


def _engine_args(spec: EngineSpec, arguments: Mapping[str, Any]) -> Any:
    from vllm import EngineArgs

    known = [f.name for f in fields(EngineArgs) if f.name not in _OURS]
    for name in arguments:
        if name not in known:
            hint = "it is set from the model" if name in _OURS else nearest(name, known)
            raise ValueError(f"unknown engine option {name!r}; {hint}")
    purpose = {"runner": "generate"} if spec.role == "generate" else {"runner": "pooling"}
    return EngineArgs(
        model=str(spec.path),
        served_model_name=spec.model_id,
        **{"disable_log_stats": True, "use_tqdm_on_load": False, **purpose, **arguments},
    )


def _build_engine(spec: EngineSpec, engine_args: Any) -> Any:
    from vllm import LLMEngine
    from vllm.usage.usage_lib import UsageContext

    try:
        # The defaults for batch sizes are those of vLLM's offline LLM class.
        return LLMEngine.from_engine_args(engine_args, usage_context=UsageContext.LLM_CLASS)
    except Exception as error:
        raise EngineStartError(spec.model_id, _reason(error)) from error


def _reason(error: Exception) -> str:
    """Return what an error says; of one of pydantic's, what it found, not how to look it up."""
    from pydantic import ValidationError

    if not isinstance(error, ValidationError):
        return str(error)
    return "; ".join(detail["msg"] for detail in error.errors())


def _engine_environment(*, inline: bool, on_cpu: bool) -> dict[str, str]:
    if inline:
        return {"VLLM_ENABLE_V1_MULTIPROCESSING": "0"}
    settings = {"VLLM_ENABLE_V1_MULTIPROCESSING": "1", HOST_VARIABLE: str(os.getpid())}
    return settings | MALLOC_ENVIRONMENT if on_cpu else settings


@contextmanager
def _environment(settings: Mapping[str, str]) -> Iterator[None]:
    before = {name: os.environ.get(name) for name in settings}
    os.environ.update(settings)
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                del os.environ[name]
            else:
                os.environ[name] = value
