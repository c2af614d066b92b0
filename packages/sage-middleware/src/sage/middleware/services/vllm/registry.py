"""register_vllm_service: one line that gives an environment a vLLM service."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Protocol, TypeVar, overload

from sage.common.components.sage_vllm.driver.shared_engine import SharedEngine
from sage.common.components.sage_vllm.engine_contract import EngineFactory
from sage.common.components.sage_vllm.service import VLLMService, VLLMServiceConfig
from sage.common.core.keywords import checks_keywords
from sage.common.service import BaseService
from sage.kernel.runtime.service import ServiceFactory

_S = TypeVar("_S", bound=BaseService)


class ServiceRegistrar(Protocol):
    """What an environment must be able to do: LocalEnvironment is one."""

    def register_service(self, name: str, service: _S, /) -> _S:
        """Register a service that is open."""
        ...

    def register_service_factory(self, name: str, factory: ServiceFactory) -> ServiceFactory:
        """Register a service by its factory."""
        ...


@overload
def register_vllm_service(
    env: ServiceRegistrar,
    service_name: str = ...,
    config: VLLMServiceConfig | Mapping[str, Any] | None = ...,
    *,
    service: None = ...,
    engine_factory: EngineFactory = ...,
) -> ServiceFactory: ...


@overload
def register_vllm_service(env: ServiceRegistrar, service_name: str = ..., *, service: _S) -> _S: ...


@checks_keywords
def register_vllm_service(
    env: ServiceRegistrar,
    service_name: str = "vllm_service",
    config: VLLMServiceConfig | Mapping[str, Any] | None = None,
    *,
    service: BaseService | None = None,
    engine_factory: EngineFactory = SharedEngine,
) -> ServiceFactory | BaseService:
    """Register a VLLMService with an environment; its model loads when the environment starts.

    Args:
        env: the environment.
        service_name: what operators call it by; theirs is ``"vllm_service"`` too, by default.
        config: a VLLMServiceConfig or a dict that its ``from_dict`` takes, such as
            ``{"model_id": "org/name", "sampling": {"max_tokens": 128}}``; it is checked here and
            now.
        service: an open service instead, which the environment borrows: it is not loaded again,
            and stays open when the environment closes.
        engine_factory: what builds the engines; ``EchoEngine`` is one for tests.

    Raises:
        ValueError: a configuration that is not valid, or a name that is taken.
        TypeError: the configuration or the service in the name's place.
        RuntimeError: the service is not open.
    """
    _check_name(service_name)
    if service is not None:
        if config is not None:
            raise ValueError("pass config= or service=, not both: an open service has its config")
        return env.register_service(service_name, service)
    if config is None:
        raise ValueError("no config given: pass config={'model_id': 'org/name'}")
    if not isinstance(config, VLLMServiceConfig):
        config = VLLMServiceConfig.from_dict(config)
    factory = ServiceFactory(
        service_class=VLLMService, args=(config,), kwargs={"engine_factory": engine_factory}
    )
    return env.register_service_factory(service_name, factory)


def _check_name(name: object) -> None:
    if not isinstance(name, str):
        keyword = "service" if isinstance(name, BaseService) else "config"
        raise TypeError(
            f"the second argument is the name to register the service by, not {name!r}; "
            f"write register_vllm_service(env, {keyword}=...)"
        )
