"""PlansOnDevice: what engines of vLLM take of the device that they share."""

from __future__ import annotations

from sage.common.components.sage_vllm.backend import device_memory, engine_build
from sage.common.components.sage_vllm.engine_abilities import DeviceMemory
from sage.common.components.sage_vllm.engine_contract import EngineSpec


class PlansOnDevice:
    """The part of a factory of engines that looks at the device; see engine_abilities."""

    @staticmethod
    def share_device(main: EngineSpec, *others: EngineSpec) -> tuple[EngineSpec, ...]:
        """Return them with arguments by which all fit; see SharesDevice."""
        return device_memory.share_device(main, *others)

    @staticmethod
    def device_memory() -> DeviceMemory | None:
        """Return the memory that engines are loaded into; see PlansEngines."""
        return device_memory.device_memory()

    @staticmethod
    def taken_memory() -> int:
        """Return the bytes of it that this process has; see PlansEngines."""
        return device_memory.taken_memory()

    @staticmethod
    def plan(spec: EngineSpec) -> tuple[EngineSpec, int]:
        """Return what an engine will be, and the bytes it will hold; see PlansEngines."""
        return engine_build.plan(spec)

    @staticmethod
    def replica_specs(spec: EngineSpec) -> list[EngineSpec]:
        """Return a spec for each replica; see PlacesReplicas."""
        return device_memory.replica_specs(spec)
