"""VLLMEmbedding: vectors from a VLLMService, a registered one or one of its own."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import cached_property, partial
from pathlib import Path
from typing import Any, ClassVar, Protocol

from sage.common.components.sage_embedding.embedding_model import EmbeddingModel
from sage.common.components.sage_vllm.driver.shared_engine import SharedEngine
from sage.common.components.sage_vllm.engine_contract import EngineFactory
from sage.common.components.sage_vllm.planning.text_prompts import read_text_prompts
from sage.common.components.sage_vllm.service import VLLMService, VLLMServiceConfig
from sage.common.service import ServiceMethodNotFoundError


class CallsServices(Protocol):
    """What has a ``call_service``: an environment, a function, a service, ``ctx.services``."""

    def call_service(self, name: str, /, *args: Any, **kwargs: Any) -> Any:
        """Call a service's method and wait for its result."""
        ...


class VLLMEmbedding(EmbeddingModel):
    """Embeds with vLLM, in one of two ways.

    - ``call_service=``: a ``call_service`` or an object that has one. The vectors come from
      ``method="embed"`` of the service ``service_name``, which stays its environment's.
    - ``config=`` or ``model_id=``: a VLLMService of its own, loaded at once, closed by
      ``close()``. ``config`` is what a VLLMService takes; ``model_id`` alone is the
      embedding model.

    ``model`` names the one of the service's models that embeds, where there are several.
    ``normalize`` scales each vector to length 1; with ``truncate`` the beginning of a text that is
    too long is embedded; ``timeout`` is for a call of a registered service, in seconds.

    Raises what the service raises, and ValueError unless exactly one of the ways is chosen.
    """

    method_name: ClassVar[str] = "vllm"

    def __init__(
        self,
        *,
        call_service: Callable[..., Any] | CallsServices | None = None,
        service_name: str = "vllm_service",
        config: VLLMServiceConfig | Mapping[str, Any] | None = None,
        model_id: str | None = None,
        model: str | None = None,
        engine_factory: EngineFactory = SharedEngine,
        normalize: bool = True,
        truncate: bool = False,
        timeout: float | None = None,
    ) -> None:
        ways = {"call_service": call_service, "config": config, "model_id": model_id}
        given = [name for name, value in ways.items() if value is not None]
        if len(given) != 1:
            raise ValueError(
                "the 'vllm' embedding method takes exactly one of call_service= (with "
                "service_name=), config= and model_id=, not " + (" and ".join(given) or "none")
            )
        chosen = {} if model is None else {"model": model}
        options: dict[str, Any] = {"normalize": normalize, **chosen}
        if truncate:
            options["truncate"] = True  # a service of another kind may not know it
        self._service: VLLMService | None = None
        if call_service is not None:
            call: Any = getattr(call_service, "call_service", call_service)
            self._models: Callable[..., Any] = partial(
                call, service_name, method="show_models", timeout=timeout
            )
            self._ask: Callable[..., Any] = partial(
                call, service_name, method="embed", timeout=timeout, **options
            )
            return
        own = {"embedding_model_id": model_id} if config is None else config
        self._service = VLLMService(own, engine_factory=engine_factory)
        self._service.open()
        self._ask = partial(self._service.embed, **options)
        self._models = self._service.show_models

    @property
    def identity(self) -> str:
        """The model and its commit."""
        model = self._served
        return f"vllm {model['model_id']}@{model['commit']}" if model else "vllm"

    @property
    def prompts(self) -> Mapping[str, str]:
        """The model's own; none if one of them is its default, which stands before all texts."""
        if self._served is None:
            return {}
        found = read_text_prompts(self._served["model_id"], Path(self._served["path"]))
        return {} if found.default else found.by_name

    @cached_property
    def _served(self) -> Mapping[str, Any] | None:
        """The registry's entry of the model that embeds; None if it has none."""
        model_id = self._ask(["which model"]).get("model_id")
        try:
            entries = [one for one in self._models() if one["model_id"] == model_id]
        except ServiceMethodNotFoundError:  # a service that embeds and is no VLLMService
            return None
        return entries[-1] if entries else None

    def _embed(self, texts: list[str]) -> list[list[float]]:
        vectors: list[list[float]] = self._ask(texts)["vectors"]
        return vectors

    def _release(self) -> None:
        if self._service is not None:
            self._service.close()
