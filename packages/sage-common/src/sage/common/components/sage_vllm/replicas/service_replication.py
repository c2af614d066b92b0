"""ReplicableService: how a VLLMService is several, each in a process of a cluster."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from sage.common.components.sage_vllm.config import VLLMServiceConfig
from sage.common.components.sage_vllm.errors import InvalidInputError
from sage.common.components.sage_vllm.model_settings import ModelSettings
from sage.common.components.sage_vllm.pool.engine_pool import EnginePool
from sage.common.components.sage_vllm.replicas.model_origin import ModelOrigin
from sage.common.components.sage_vllm.replicas.prompt_prefix import prefix_of
from sage.common.components.sage_vllm.requests.text_stream import AsyncTextStream, TextStream
from sage.common.service import BaseService, Replication
from sage.common.service.replication import Scope, Streaming

_OF_EACH: dict[str, Scope] = {
    "stats": "each",
    "health": "each",
    "switch_model": "change",
    "download_model": "change",
    "delete_model": "change",
}
_STREAMS = {
    "stream": Streaming(start="_start_stream", reader=TextStream.begun),
    "astream": Streaming(start="_start_stream", reader=AsyncTextStream),
}
_NOT_FROM_AFAR = {
    "fine_tune": "a training has a process of its own; start it where its data is",
}


class ReplicableService(BaseService):
    """The part of a VLLMService for clusters."""

    _engines: EnginePool

    @classmethod
    def replication(cls, config: VLLMServiceConfig | Mapping[str, Any], **_: Any) -> Replication:
        """Return what each of several such services takes, and where their calls go.

        Each has all GPUs of its largest model. Generations may be made again: nobody has seen the
        text that a dead process had.
        """
        if not isinstance(config, VLLMServiceConfig):
            config = VLLMServiceConfig.from_dict(config)
        return Replication(
            gpus=max(map(_gpus, config.entries().values()), default=1),
            replayable=True,
            prefix=_prefix,
            scope=_scope,
            combine=_by_replica,
            streams=_STREAMS,
            origin=ModelOrigin(config.model_root),
        )

    @property
    def steps_done(self) -> int:  # type: ignore[override]  # the engines count them
        """Steps that all engines made: it stands still while a model is loaded."""
        return sum(entry.totals().steps for entry in self._engines.shown())


def _by_replica(results: list[Any]) -> dict[str, list[Any]]:
    return {"replicas": results}


def _gpus(settings: ModelSettings) -> int:
    engine = settings.engine
    each = engine.get("tensor_parallel_size", 1) * engine.get("pipeline_parallel_size", 1)
    engines = settings.replicas if isinstance(settings.replicas, int) else 1
    return int(each * engines)


def _task(method: str, args: Sequence[Any]) -> str:
    """Return the method that a call comes to: ``process`` has its name in the payload."""
    if method == "process" and args and isinstance(args[0], Mapping):
        return str(args[0].get("task"))
    return method


def _scope(method: str, args: Sequence[Any], _kwargs: Mapping[str, Any]) -> Scope:
    task = _task(method, args)
    if task in _NOT_FROM_AFAR:
        problem = f"{task}() is not for a service on a cluster: {_NOT_FROM_AFAR[task]}"
        hint = "or keep the service in this process, with 'replicas': 0"
        raise InvalidInputError(task, problem, hint=hint)
    return _OF_EACH.get(task, "one")


def _prefix(method: str, args: Sequence[Any], kwargs: Mapping[str, Any]) -> str:
    """Return how a generation's first prompt begins; what is no prompt has no place of its own."""
    if _task(method, args) not in ("generate", *_STREAMS):
        return ""
    prompts = args[0] if args else kwargs.get("prompts", kwargs.get("prompt", ""))
    if isinstance(prompts, Mapping) and method == "process":
        prompts = prompts.get("inputs", "")
    if isinstance(prompts, list) and prompts and not _is_turn(prompts[0]):
        prompts = prompts[0]
    if isinstance(prompts, Mapping):
        prompts = prompts.get("prompt") or prompts.get("messages") or ""
    if isinstance(prompts, str) or (isinstance(prompts, list) and all(map(_is_turn, prompts))):
        return prefix_of(prompts)
    return ""


def _is_turn(value: object) -> bool:
    return isinstance(value, Mapping) and "role" in value and "content" in value
