"""ModelSettings: what a configuration says of one model of a service."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from typing import Any, Literal, Self, get_args

from sage.common.components.sage_vllm.engine_contract import EngineMode, Role
from sage.common.components.sage_vllm.errors import InvalidOptionError
from sage.common.components.sage_vllm.requests.sampling_options import (
    check_own_options,
    check_sampling_options,
)
from sage.common.core.errors import nearest


@dataclass(frozen=True, kw_only=True)
class ModelSettings:
    """One model of a service, by whatever name the service has for it.

    - ``model_id``, ``revision``: the model, from the registry.
    - ``role``: ``"generate"``, ``"embed"`` or ``"score"``; None takes what the registry says of
      the model. Those that score have a head: rerankers, classifiers and reward models.
    - ``engine``: its engine's options, as of VLLMServiceConfig.
    - ``engine_mode``: as of VLLMServiceConfig; None takes the service's.
    - ``sampling``: defaults for its generations, which override the service's.
    - ``replicas``: how many engines serve it together, each with a part of the processors or with
      GPUs of its own, in processes; ``"auto"``: one for each GPU (or group of
      ``tensor_parallel_size``), on a CPU one for each NUMA node.
    - ``pin``: once it is loaded it is never unloaded.
    - ``preload``: it is loaded when the service opens, not at its first call.
    - ``keep_alive``: seconds without a call after which it is unloaded; None keeps it until
      another model needs its place.
    """

    model_id: str
    revision: str | None = None
    role: Role | None = None
    engine: Mapping[str, Any] = field(default_factory=dict)
    engine_mode: EngineMode | None = None
    sampling: Mapping[str, Any] = field(default_factory=dict)
    replicas: int | Literal["auto"] = 1
    pin: bool = False
    preload: bool = False
    keep_alive: float | None = None

    @classmethod
    def named(cls, name: str, given: object) -> Self:
        """Make the settings of the entry ``name`` of ``models``; raises InvalidOptionError."""
        if isinstance(given, cls):
            given.check(name)
            return given
        where = f"models.{name}"
        if isinstance(given, str):
            given = {"model_id": given}
        if not isinstance(given, Mapping):
            problem = f"{where} must be a mapping such as {{'model_id': 'org/name'}}, not {given!r}"
            raise InvalidOptionError(where, given, problem)
        known = [each.name for each in fields(cls)]
        for key, value in given.items():
            if key not in known:
                problem = f"unknown key {key!r} in {where}"
                raise InvalidOptionError(f"{where}.{key}", value, problem, hint=nearest(key, known))
        if "model_id" not in given:
            problem = f"{where} names no model"
            raise InvalidOptionError(where, given, problem, hint="add 'model_id': 'org/name'")
        role = given.get("role")
        if role is not None and role not in list(Role):
            hint = nearest(str(role), [each.value for each in Role])
            problem = f"unknown role {role!r} in {where}"
            raise InvalidOptionError(f"{where}.role", role, problem, hint=hint)
        settings = cls(**{**given, "role": None if role is None else Role(role)})
        settings.check(name)
        return settings

    def check(self, name: str) -> None:
        """Raise InvalidOptionError for what the entry ``name`` of ``models`` cannot be."""
        where = f"models.{name}"

        def refuse(key: str, what: str, hint: str | None = None) -> InvalidOptionError:
            value = getattr(self, key)
            problem = f"{where}.{key} must be {what}, not {value!r}"
            return InvalidOptionError(f"{where}.{key}", value, problem, hint=hint)

        if not isinstance(self.model_id, str) or not self.model_id:
            raise refuse("model_id", "the id of a model, such as 'org/name'")
        for key in ("engine", "sampling"):
            if not isinstance(getattr(self, key), Mapping):
                raise refuse(key, "a mapping")
        for key in ("pin", "preload"):
            if not isinstance(getattr(self, key), bool):
                raise refuse(key, "True or False")
        modes = list(get_args(EngineMode))
        if self.engine_mode is not None and self.engine_mode not in modes:
            raise refuse("engine_mode", f"one of {', '.join(modes)}")
        check_replicas(self.replicas, f"{where}.replicas")
        if self.keep_alive is not None:
            if not is_seconds(self.keep_alive):
                raise refuse("keep_alive", "seconds, 0 or more")
            if self.pin:
                problem = (
                    f"{where} has both pin and keep_alive, and a pinned model is never unloaded"
                )
                hint = "give one of them"
                raise InvalidOptionError(f"{where}.keep_alive", self.keep_alive, problem, hint=hint)
        check_sampling_defaults(self.sampling, f"{where}.sampling")


def check_sampling_defaults(sampling: Mapping[str, Any], where: str) -> None:
    """Raise InvalidOptionError for an option that cannot be a default of generations."""
    check_sampling_options(sampling, where)
    if "model" in sampling:
        problem = f"{where} cannot choose the model"
        hint = "pass model= with a call, in its options or to the operator"
        raise InvalidOptionError(f"{where}.model", sampling["model"], problem, hint=hint)
    check_own_options(sampling, where)


def check_replicas(value: object, where: str) -> None:
    """Raise InvalidOptionError for what is no number of replicas."""
    is_number = isinstance(value, int) and not isinstance(value, bool) and value >= 1
    if value != "auto" and not is_number:
        problem = f"{where} must be a whole number, 1 or more, or 'auto', not {value!r}"
        raise InvalidOptionError(where, value, problem)


def is_seconds(value: object) -> bool:
    """Whether a value is a number of seconds, 0 or more."""
    return isinstance(value, int | float) and not isinstance(value, bool) and value >= 0
