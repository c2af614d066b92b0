"""EnvironmentServices: what an environment offers to register services and to call them."""

from __future__ import annotations

from typing import Any, TypeVar, overload

from sage.common.core.context import RuntimeContext
from sage.common.service import BaseService
from sage.kernel.runtime.service import ServiceCallProxy, ServiceFactory, ServiceManager

_S = TypeVar("_S", bound=BaseService)


class EnvironmentServices:
    """The services of an environment."""

    def __init__(self) -> None:
        self.service_manager = ServiceManager()

    @overload
    def register_service(
        self, name: str, service: type[BaseService], /, *args: Any, **kwargs: Any
    ) -> ServiceFactory: ...

    @overload
    def register_service(self, name: str, service: _S, /) -> _S: ...

    def register_service(self, name: str, service: Any, /, *args: Any, **kwargs: Any) -> Any:
        """Register a service by its class and constructor arguments, or one that is open.

        A class is opened by submit(), or by the first call, and closed with the environment;
        returns its ServiceFactory. An open instance is borrowed: it takes calls at once, any number
        of environments share it, none closes it, and it is returned as it is::

            with VLLMService({"model_id": "sage/demo-chat"}) as service:  # loads the model once
                for questions in batches:
                    with LocalEnvironment() as env:
                        env.register_service("vllm_service", service)
                        ...

        Args:
            name: the name to call it by.
            service: the class, or the instance.
            *args: arguments of the class's constructor.
            **kwargs: the same, by name.

        Raises:
            RuntimeError: the instance is not open, or it is too late: a class comes before the
                services open, an instance before the environment closes.
            ValueError: the name is taken.
        """
        if not isinstance(service, BaseService):
            factory = ServiceFactory(service_class=service, args=args, kwargs=kwargs)
            return self.register_service_factory(name, factory)
        if args or kwargs:
            raise TypeError(
                f"service {name!r} is an instance, which has its arguments already; got "
                f"{', '.join([*map(repr, args), *kwargs])}"
            )
        self.service_manager.register_open(name, service)
        return service

    def register_service_factory(self, name: str, factory: ServiceFactory) -> ServiceFactory:
        """Register a service by its factory; submit() opens it."""
        return self.service_manager.register(name, factory)

    def call_service(
        self,
        name: str,
        /,
        *args: Any,
        method: str | None = "process",
        timeout: float | None = None,
        **kwargs: Any,
    ) -> Any:
        """Call a service from outside a pipeline; the first call opens all services.

        It works before, during and after a run, until the environment is closed; submit() with
        autostop closes it after the last record. Then ServiceClosedError says so.

        If another thread is opening them it waits for that, unless the one it calls is open
        already: a service's setup() may wait for a thread that calls an earlier service, but not
        for one that calls a later service or itself.

        Args:
            name: the name that the service is registered by.
            *args: arguments of the method.
            method: the method's name.
            **kwargs: arguments of the method, by name.
            timeout: seconds after which the call is cancelled and ServiceTimeoutError raised; None
                is no limit.
        """
        self._open_services(name)
        return self.service_manager.call_service(
            name, *args, method=method, timeout=timeout, **kwargs
        )

    async def acall_service(self, name: str, /, *args: Any, **kwargs: Any) -> Any:
        """Call a service from a coroutine, as ``call_service`` does, without blocking its loop.

        Services that are not open yet are opened on a thread. Cancelling the await cancels the
        call::

            await env.acall_service("vllm_service", "Hi", method="generate", timeout=30)

        Args:
            name: the name that the service is registered by.
            *args: arguments of the method.
            **kwargs: arguments of the method, by name; ``method`` and ``timeout`` are those of
                ``call_service``.
        """
        from sage.common.core.awaiting import in_thread

        if self._to_open(name):
            await in_thread(self._open_services, name)
        context = RuntimeContext(name=name, services=self.service_manager)
        return await context.acall_service(name, *args, **kwargs)

    def service(self, name: str) -> ServiceCallProxy:
        """Return an object whose methods are the service's; opens all services.

        ``env.service("vllm_service").generate("Hi")`` is ``env.call_service("vllm_service", "Hi",
        method="generate")``.

        Args:
            name: the name that the service is registered by.
        """
        self._open_services(name)
        return self.service_manager.proxy(name)

    def _open_services(self, wanted: str) -> None:
        if self._to_open(wanted):
            self.service_manager.start()

    def _to_open(self, wanted: str) -> bool:
        manager = self.service_manager
        return not (manager.closed or manager.is_open(wanted))  # if closed, the call says so
