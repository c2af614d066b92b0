"""VLLMServiceConfig: everything that a VLLMService can be told."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields, replace
from pathlib import Path
from typing import Any, Literal, Self, get_args

from sage.common.components.sage_vllm.cache.cache_settings import CacheSettings
from sage.common.components.sage_vllm.engine_contract import EngineMode, Role
from sage.common.components.sage_vllm.errors import InvalidOptionError, InvalidOptionTypeError
from sage.common.components.sage_vllm.model_settings import (
    ModelSettings,
    check_replicas,
    check_sampling_defaults,
    is_seconds,
)
from sage.common.components.sage_vllm.planning.memory_share import MemoryShare, memory_share
from sage.common.components.sage_vllm.requests.media.media_policy import (
    DEFAULT_MAX_PIXELS,
    MediaPolicy,
)
from sage.common.components.sage_vllm.requests.sampling_options import SAMPLING_OPTIONS
from sage.common.core.errors import nearest
from sage.common.core.local_path import local_path

_ALIASES = {"engine_kwargs": "engine", "sampling_defaults": "sampling"}
_MAPPINGS = {
    "config": "{'model_id': 'org/name'}",
    "engine": "{'max_model_len': 2048}",
    "embedding_engine": "{'max_model_len': 512}",
    "scoring_engine": "{'max_model_len': 512}",
    "models": "{'judge': {'model_id': 'org/name'}}",
    "sampling": "{'max_tokens': 64}",
}
"""What has to be a mapping, with an example of it."""


@dataclass(frozen=True, kw_only=True)
class VLLMServiceConfig:
    """Configuration of a VLLMService.

    - ``model_id``, ``revision``: the text model, from the registry; None for a service that only
      embeds.
    - ``embedding_model_id``, ``embedding_revision``: the embedding model; without one the text
      model is converted for embedding.
    - ``scoring_model_id``, ``scoring_revision``: a model with a head that scores pairs of texts,
      classifies texts or rewards conversations; see the role ``"score"`` of ModelSettings.
    - ``engine``: arguments of vLLM's EngineArgs, such as ``max_model_len``, ``dtype``,
      ``gpu_memory_utilization``, ``tensor_parallel_size``, ``kv_cache_memory_bytes``.
    - ``embedding_engine``, ``scoring_engine``: the same for the other two, which share none of
      ``engine``.
    - ``engine_mode``: ``"inline"`` runs the engine in this process (starts in seconds),
      ``"process"`` in one of its own, ``"auto"`` inline on the CPU and a process on a GPU.
    - ``replicas``: how many engines serve ``model_id`` together; see ModelSettings.
    - ``sampling``: defaults for every generation; a call's own options go first, the model's own
      generation_config.json last.
    - ``auto_download``: fetch a model that is not in the registry, instead of raising.
    - ``auto_reload``: when ``download_model`` has brought another revision of a model that is
      loaded, switch to it.
    - ``allow_pickle``: load pickled weights, which can run any code when they are loaded.
    - ``model_root``: the registry's root; None is the usual one.
    - ``cache``: a folder that keeps answers which are determined, at a temperature of 0 or with a
      ``seed``; an equal request is answered from it, in later programs too. Or a mapping of
      ``folder``, ``max_bytes`` and ``ttl``, see CacheSettings.
    - ``media_roots``: folders below which the pictures of prompts may lie; ``file:`` addresses need
      one, and where there are any, paths must lie there too.
    - ``allow_media_hosts``: hosts that pictures may be fetched from; none unless named.
    - ``max_pixels``: of a picture; it is read from the header, before anything is decoded.

    Any number of models share one budget of memory, each under a name that calls choose it by:

    - ``models``: names, and for each what ModelSettings says, as a mapping: ``{"judge":
      {"model_id": "org/name"}}``. ``model_id`` is the entry ``"text"`` of the same table, loaded
      when the service opens and never unloaded, ``embedding_model_id`` the entry ``"embedding"``,
      and ``scoring_model_id`` the entry ``"scoring"``.
    - ``on_demand``: a call may also choose any model of the registry, by its id.
    - ``memory_budget``: what all engines may hold together: bytes, a text such as ``"16GB"``, or a
      share of the memory above 0 and at most 1; None is what is free, less a reserve.
    - ``max_wait``: seconds that calls wait for their model at most, before one that has calls
      makes place for it.
    """

    model_id: str | None = None
    revision: str | None = None
    embedding_model_id: str | None = None
    embedding_revision: str | None = None
    scoring_model_id: str | None = None
    scoring_revision: str | None = None
    engine: Mapping[str, Any] = field(default_factory=dict)
    embedding_engine: Mapping[str, Any] = field(default_factory=dict)
    scoring_engine: Mapping[str, Any] = field(default_factory=dict)
    engine_mode: EngineMode = "auto"
    replicas: int | Literal["auto"] = 1
    sampling: Mapping[str, Any] = field(default_factory=dict)
    auto_download: bool = False
    auto_reload: bool = False
    allow_pickle: bool = False
    model_root: Path | None = None
    media_roots: Sequence[str | Path] = ()
    allow_media_hosts: Sequence[str] = ()
    max_pixels: int = DEFAULT_MAX_PIXELS
    models: Mapping[str, ModelSettings | Mapping[str, Any] | str] = field(default_factory=dict)
    on_demand: bool = False
    memory_budget: float | str | None = None
    cache: str | os.PathLike[str] | Mapping[str, Any] | None = None
    max_wait: float = 30.0

    def __post_init__(self) -> None:
        if self._names_no_model():
            problem = "the configuration names no model"
            raise InvalidOptionError("model_id", None, problem, hint="add 'model_id': 'org/name'")
        for name in (role.model_option for role in Role):
            value = getattr(self, name)
            if value is not None and (not isinstance(value, str) or not value):
                problem = f"{name} must name a model, such as 'org/name', not {value!r}"
                raise InvalidOptionError(name, value, problem)
        for name in (*(role.option for role in Role), "sampling", "models"):
            _check_mapping(name, getattr(self, name))
        if self.engine_mode not in get_args(EngineMode):
            mode = self.engine_mode
            hint = nearest(str(mode), list(get_args(EngineMode)))
            raise InvalidOptionError(
                "engine_mode", mode, f"unknown engine_mode {mode!r}", hint=hint
            )
        check_replicas(self.replicas, "replicas")
        check_sampling_defaults(self.sampling, "sampling")
        if not is_seconds(self.max_wait):
            problem = f"max_wait must be seconds, 0 or more, not {self.max_wait!r}"
            raise InvalidOptionError("max_wait", self.max_wait, problem)
        memory_share(self.memory_budget)
        if self.model_root is not None and not str(self.model_root).startswith("~"):
            # A copy of the service on a cluster has another working directory.
            object.__setattr__(self, "model_root", local_path(self.model_root).absolute())
        if self.cache is not None:
            CacheSettings.of(self.cache)
        self.media_policy()
        self.entries()

    def _names_no_model(self) -> bool:
        named = any(getattr(self, role.model_option) is not None for role in Role)
        return not named and not self.models and not self.on_demand

    @property
    def budget(self) -> MemoryShare | None:
        """``memory_budget``, read; None where it is what is free."""
        return memory_share(self.memory_budget)

    def media_policy(self) -> MediaPolicy:
        """Return which pictures may be read; raises InvalidOptionError."""
        return MediaPolicy.of(self.media_roots, self.allow_media_hosts, self.max_pixels)

    def entries(self) -> dict[str, ModelSettings]:
        """Return what is said of each model by its name; raises InvalidOptionError.

        ``model_id``, ``embedding_model_id`` and ``scoring_model_id`` are the first: ``"text"``,
        ``"embedding"`` and ``"scoring"``.
        """
        own = {
            Role.GENERATE: (self.model_id, self.revision, self.engine),
            Role.EMBED: (self.embedding_model_id, self.embedding_revision, self.embedding_engine),
            Role.SCORE: (self.scoring_model_id, self.scoring_revision, self.scoring_engine),
        }
        found = {
            role.label: ModelSettings(
                model_id=model_id,
                revision=revision,
                role=role,
                engine=engine,
                replicas=self.replicas if role is Role.GENERATE else 1,
                pin=True,
                preload=True,
            )
            for role, (model_id, revision, engine) in own.items()
            if model_id is not None
        }
        roles = {role.label: role for role in Role}
        for name, given in self.models.items():
            if not isinstance(name, str) or not name:
                problem = f"models are named by texts, not {name!r}"
                raise InvalidOptionError("models", name, problem)
            if name in found:
                option = roles[name].model_option
                problem = f"models.{name} and {option} are the same entry, and both are given"
                raise InvalidOptionError(f"models.{name}", given, problem, hint="give one of them")
            found[name] = settings = ModelSettings.named(name, given)
            if name in roles:
                if settings.role is not None and settings.role is not roles[name]:
                    does = settings.role.value
                    problem = f"models.{name} cannot {does}: its name is that of another role"
                    hint = "give it another name"
                    raise InvalidOptionError(f"models.{name}.role", does, problem, hint=hint)
                found[name] = replace(settings, role=roles[name])
        return found

    @classmethod
    def from_dict(cls, config: Mapping[str, Any]) -> Self:
        """Make a configuration from a dict with the fields as keys.

        ``engine_kwargs``, ``sampling_defaults`` and a top-level ``tensor_parallel_size`` are taken
        too. Raises InvalidOptionError, for an unknown key with the nearest one as its hint.
        """
        _check_mapping("config", config)
        for alias, key in _ALIASES.items():
            if alias in config and key in config:
                problem = f"{key!r} and its alias {alias!r} are both given"
                raise InvalidOptionError(alias, config[alias], problem, hint="give one of them")
        values = {_ALIASES.get(key, key): value for key, value in config.items()}
        if "tensor_parallel_size" in values:
            _check_mapping("engine", values.get("engine", {}))
            parallel = {"tensor_parallel_size": values.pop("tensor_parallel_size")}
            values["engine"] = {**parallel, **values.get("engine", {})}
        known = [f.name for f in fields(cls)]
        for key, value in values.items():
            if key not in known:
                problem = f"unknown configuration key {key!r}"
                raise InvalidOptionError(key, value, problem, hint=_place_of(key, value, known))
        return cls(**values)


def _check_mapping(name: str, value: object) -> None:
    if not isinstance(value, Mapping):
        problem = f"{name} must be a mapping, not {value!r}"
        raise InvalidOptionTypeError(name, value, problem, hint=f"pass {name}={_MAPPINGS[name]}")


def _place_of(key: str, value: object, known: list[str]) -> str:
    """Return what an unknown key was meant to be: a key like it, or an option within one."""
    # {"model": "org/name"} wants the key for one model.
    hint = nearest(key, known if isinstance(value, Mapping) else sorted({*known} - {"models"}))
    inside = f"{{{key!r}: {value!r}}}"
    if key in SAMPLING_OPTIONS and key != "model":
        return f"it belongs in 'sampling': {inside}"
    if hint.startswith("valid"):
        return f"if it is an option of vLLM's engine, it belongs in 'engine': {inside}; {hint}"
    return hint
