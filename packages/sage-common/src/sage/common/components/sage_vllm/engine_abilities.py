"""What an engine, or the factory that makes engines, may do besides: looked for, never required."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Protocol, runtime_checkable

from sage.common.components.sage_vllm.engine_contract import EngineSpec


@runtime_checkable
class SharesDevice(Protocol):
    """What an engine factory may do besides: have several engines share one device."""

    def share_device(self, main: EngineSpec, *others: EngineSpec) -> tuple[EngineSpec, ...]:
        """Return them with arguments by which all fit; raises as building them does."""
        ...


@dataclass(frozen=True, kw_only=True)
class DeviceMemory:
    """What engines are loaded into, in bytes: ``free`` now, and ``total``."""

    free: int
    total: int
    is_gpu: bool = False


@runtime_checkable
class PlansEngines(Protocol):
    """What an engine factory may do besides: tell what an engine would hold, without loading it."""

    def device_memory(self) -> DeviceMemory | None:
        """Return the memory that engines are loaded into; None where nobody can tell."""
        ...

    def taken_memory(self) -> int:
        """Return the bytes of it that engines in this process have; 0 where nobody can tell."""
        ...

    def plan(self, spec: EngineSpec) -> tuple[EngineSpec, int]:
        """Return ``spec`` with what makes it the same engine each time, and the bytes it will hold.

        Raises InsufficientMemoryError where it exceeds ``spec.memory_limit``, and BrokenModelError.
        """
        ...


@runtime_checkable
class ReportsDeath(Protocol):
    """What an engine that is built again when it dies may do besides: say that it died."""

    def on_death(self, told: Callable[[], None]) -> None:
        """Have ``told`` called at each death, before the engine is built again; not for long.

        By then ``state`` is "recovering", and requests in flight wait for the next engine.
        """
        ...


@runtime_checkable
class ChecksOptions(Protocol):
    """What an engine may do besides: look at a generation's options before there is a prompt."""

    def check_options(self, options: Mapping[str, Any]) -> None:
        """Raise InvalidRequestError for options that no prompt could have; as of Engine.submit."""
        ...


@runtime_checkable
class PlacesReplicas(Protocol):
    """What an engine factory may do besides: give replicas processors or devices of their own."""

    def replica_specs(self, spec: EngineSpec) -> list[EngineSpec]:
        """Return a spec for each of ``spec.replicas``; raises InvalidOptionError."""
        ...
