"""register_memory_service: one line that gives an environment a vector memory."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from sage.common.core.keywords import checks_keywords
from sage.kernel.runtime.service import ServiceFactory
from sage.middleware.components.memory import VDBMemoryService, VDBMemoryServiceConfig
from sage.middleware.services.vllm.registry import ServiceRegistrar


@checks_keywords
def register_memory_service(
    env: ServiceRegistrar,
    service_name: str = "memory",
    config: VDBMemoryServiceConfig | Mapping[str, Any] | None = None,
    *,
    embedder: Any = None,
) -> ServiceFactory:
    """Register a VDBMemoryService with an environment; it opens when the environment starts.

    A service that embeds is registered before this one.

    Args:
        env: the environment.
        service_name: what functions call it by.
        config: a VDBMemoryServiceConfig or a dict that its ``from_dict`` takes, such as
            ``{"folder": "memory", "embedding_service": "vllm_service"}``; it is checked here and
            now.
        embedder: anything that VDBMemoryCollection takes.

    Raises:
        ValueError: a configuration that is not valid, or a name that is taken.
    """
    if config is None:
        raise ValueError("no config given: pass config={'folder': 'path/to/memory'}")
    if not isinstance(config, VDBMemoryServiceConfig):
        config = VDBMemoryServiceConfig.from_dict(config)
    factory = ServiceFactory(
        service_class=VDBMemoryService, args=(config,), kwargs={"embedder": embedder}
    )
    return env.register_service_factory(service_name, factory)
