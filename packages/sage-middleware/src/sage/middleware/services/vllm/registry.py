"""register_vllm_service: one line that gives an environment a vLLM service."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Protocol

from sage.common.components.sage_vllm.driver.vllm_engine import VLLMEngine
from sage.common.components.sage_vllm.engine_contract import EngineFactory
from sage.common.components.sage_vllm.service import VLLMService, VLLMServiceConfig
from sage.kernel.runtime.service import ServiceFactory


class ServiceRegistrar(Protocol):
    """What an environment must be able to do: LocalEnvironment is one."""

    def register_service_factory(self, name: str, factory: ServiceFactory) -> ServiceFactory:
        """Register a service by its factory."""
        ...


def register_vllm_service(
    env: ServiceRegistrar,
    service_name: str = "vllm_service",
    config: VLLMServiceConfig | Mapping[str, Any] | None = None,
    *,
    engine_factory: EngineFactory = VLLMEngine,
) -> ServiceFactory:
    """Register a VLLMService with an environment; its model loads when the environment starts.

    ``config`` is a VLLMServiceConfig or a dict that its ``from_dict`` takes, such as
    ``{"model_id": "org/name", "sampling": {"max_tokens": 128}}``; it is checked here and now.
    Raises ValueError for a configuration that is not valid or a name that is taken.
    """
    if config is None:
        raise ValueError("no config given: pass config={'model_id': 'org/name'}")
    if not isinstance(config, VLLMServiceConfig):
        config = VLLMServiceConfig.from_dict(config)
    factory = ServiceFactory(
        service_class=VLLMService, args=(config,), kwargs={"engine_factory": engine_factory}
    )
    return env.register_service_factory(service_name, factory)
