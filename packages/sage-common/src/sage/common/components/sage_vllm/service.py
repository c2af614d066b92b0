"""VLLMService: vLLM as a service inside the pipeline's process."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import Any

from sage.common.components.sage_vllm.config import VLLMServiceConfig
from sage.common.components.sage_vllm.engine import (
    Embedding,
    Engine,
    EngineFactory,
    EngineSpec,
    Generation,
)
from sage.common.components.sage_vllm.errors import EngineError, ModelInUseError
from sage.common.components.sage_vllm.gather import gather
from sage.common.components.sage_vllm.inputs import PromptItem, parse_prompts, parse_texts
from sage.common.components.sage_vllm.results import (
    embedding_result,
    generation_results,
    model_record,
)
from sage.common.components.sage_vllm.sampling_options import check_sampling_options
from sage.common.components.sage_vllm.vllm_engine import VLLMEngine
from sage.common.core.errors import nearest
from sage.common.model_registry import vllm_registry
from sage.common.service import BaseService, ServiceClosedError

__all__ = ["VLLMService", "VLLMServiceConfig"]

_ON_ERROR = ("raise", "return")


class VLLMService(BaseService):
    """Generates and embeds with models of the registry; thread-safe.

    Calls from any number of threads and pipelines are batched together by the engine. Use it
    through an environment's ``call_service``, or by itself as a context manager::

        with VLLMService({"model_id": "sage/demo-chat"}) as service:
            print(service.generate("What is the capital of France?")[0]["text"])
    """

    max_concurrency = None

    def __init__(
        self,
        config: VLLMServiceConfig | Mapping[str, Any],
        *,
        engine_factory: EngineFactory = VLLMEngine,
    ) -> None:
        if not isinstance(config, VLLMServiceConfig):
            config = VLLMServiceConfig.from_dict(config)
        self.config = config
        self._engine_factory = engine_factory
        self._text_engine: Engine | None = None
        self._embedding_engine: Engine | None = None
        self._embedding_lock = threading.Lock()
        self._loaded: set[Path] = set()
        # Downloads and the like run here, so that they never hold up generation.
        self._management = ThreadPoolExecutor(2, thread_name_prefix="sage-vllm-management")

    # -- lifecycle ------------------------------------------------------------------------------

    def setup(self) -> None:
        """Load the configured models; raises ModelNotFoundError, EngineError or ValueError."""
        config = self.config
        self._text_engine = self._load(
            config.model_id, config.revision, role="generate", arguments=config.engine
        )
        if config.embedding_model_id is not None:
            self._embedding()

    def stop(self) -> None:
        """End calls in flight with EngineClosedError and free the engines."""
        self.cleanup()

    def cleanup(self) -> None:
        """Free the engines and everything they hold."""
        self._management.shutdown(wait=False, cancel_futures=True)
        with self._embedding_lock:
            engines = (self._text_engine, self._embedding_engine)
        for engine in engines:
            if engine is not None:
                engine.close()

    @property
    def capacity(self) -> int | None:  # type: ignore[override]  # known only once an engine is up
        """Calls in flight that keep the engine busy: one batch at work and the next one ready."""
        return None if self._text_engine is None else 2 * self._text_engine.info.max_batch_size

    # -- tasks ------------------------------------------------------------------------------------

    def generate(self, prompts: Any, **options: Any) -> list[dict[str, Any]]:
        """Generate a text per prompt and wait for all of them.

        Args:
            prompts: a string, a conversation (a list of ``{"role", "content"}``), ``{"prompt" or
                "messages": ..., "options": {...}}``, or a list of these.
            options: sampling options by vLLM's names, such as ``max_tokens`` or ``temperature``;
                an item's own options go before them. ``on_error="return"`` puts ``{"error":
                {"type", "message"}}`` in the slot of a prompt that failed; by default the first
                error aborts the other prompts and is raised.

        Returns:
            A dict per prompt: ``text``, ``finish_reason`` (``"stop"`` or ``"length"``),
            ``tokens_used`` (``prompt``, ``completion``, ``total``), ``latency`` in seconds,
            ``model_id``, ``request_id``; with ``n`` above 1 also ``choices``.

        Raises:
            ValueError: a prompt, its length, or an option is not valid; it says which.
            EngineClosedError, EngineDeadError: the service ended before the generation did.
        """
        results: list[dict[str, Any]] = self._wait(self.generate_async(prompts, **options))
        return results

    def generate_async(
        self, prompts: Any, *, on_error: str = "raise", **options: Any
    ) -> Future[list[dict[str, Any]]]:
        """Do the same without waiting; cancelling the Future aborts the generation."""
        if on_error not in _ON_ERROR:
            raise ValueError(f"unknown on_error {on_error!r}; valid: {', '.join(_ON_ERROR)}")
        engine = self._text()
        return_errors = on_error == "return"
        futures: list[Future[Generation]] = []
        try:
            futures.extend(  # one by one: those before one that raises are in the list
                self._submit(engine, item, options, return_errors=return_errors)
                for item in parse_prompts(prompts)
            )
        except BaseException:
            for future in futures:
                future.cancel()
            raise
        model_id = engine.info.model_id
        return gather(futures, partial(generation_results, model_id), return_errors=return_errors)

    def embed(self, texts: str | Sequence[str], **options: Any) -> dict[str, Any]:
        """Embed texts.

        Args:
            texts: a string or a list of strings.
            options: ``normalize`` (True by default) scales each vector to length 1.

        Returns:
            ``vectors`` (a list of floats per text), ``dim``, ``model_id``, ``tokens_used``
            (``prompt``, ``total``) and ``latency``, seconds from the call to the last vector.

        Raises:
            ValueError: a text or an option is not valid.
        """
        result: dict[str, Any] = self._wait(self.embed_async(texts, **options))
        return result

    def embed_async(
        self, texts: str | Sequence[str], *, normalize: bool = True
    ) -> Future[dict[str, Any]]:
        """Do the same without waiting; cancelling the Future aborts the embedding."""
        began = time.perf_counter()
        checked = parse_texts(texts)
        engine = self._embedding()
        futures = [engine.embed(text, normalize=normalize) for text in checked]

        def combine(embeddings: list[Embedding]) -> dict[str, Any]:
            latency = time.perf_counter() - began
            return embedding_result(engine.info.model_id, embeddings, latency)

        return gather(futures, combine)

    def show_models(self) -> list[dict[str, Any]]:
        """Return the registry's models as plain data."""
        return [model_record(m) for m in vllm_registry.list_models(root=self.config.model_root)]

    def download_model(self, model_id: str, revision: str | None = None) -> dict[str, Any]:
        """Download a model into the registry; returns its record."""
        root = self.config.model_root
        model = vllm_registry.download_model(model_id, revision, progress=False, root=root)
        return model_record(model)

    def delete_model(self, model_id: str, revision: str | None = None) -> dict[str, Any]:
        """Delete a model, or one revision of it; returns ``freed_bytes`` and the records.

        Raises ModelInUseError for a model that is loaded, and as the registry's delete_model.
        """
        root = self.config.model_root
        plan = vllm_registry.plan_deletion(model_id, revision, root=root)
        if any(model.path in self._loaded for model in plan.models):
            raise ModelInUseError(model_id)
        done = vllm_registry.delete_model(model_id, revision, root=root)
        return {"freed_bytes": done.freed_bytes, "models": [model_record(m) for m in done.models]}

    def stats(self) -> dict[str, Any]:
        """Return the text engine's counters since it was loaded, as plain data."""
        engine = self._text()
        stats = engine.stats()
        return {
            "model_id": engine.info.model_id,
            "engine": asdict(engine.info),
            **asdict(stats),
            "mean_batch_size": stats.mean_batch_size,
            "batch_occupancy": stats.batch_occupancy,
            "tokens_per_second": stats.tokens_per_second,
        }

    # -- the generic entry point ------------------------------------------------------------------

    def process(self, payload: Mapping[str, Any]) -> Any:
        """Run ``{"task": ..., "inputs": ..., "options": {...}}`` and return the task's result.

        Tasks are ``generate`` and ``embed``, whose inputs are the prompts or texts, and
        ``show_models``, ``download_model``, ``delete_model`` and ``stats``, whose options are the
        method's arguments. Raises ValueError for an unknown task, naming the nearest one.
        """
        return self._wait(self.process_async(payload))

    def process_async(self, payload: Mapping[str, Any]) -> Future[Any]:
        """Do the same without waiting."""
        if not isinstance(payload, Mapping) or not set(payload) <= {"task", "inputs", "options"}:
            raise ValueError(
                f"the payload must be {{'task': ..., 'inputs': ..., 'options': {{...}}}}, "
                f"not {payload!r}"
            )
        task, options = payload.get("task"), payload.get("options") or {}
        if not isinstance(options, Mapping):
            raise ValueError(f"'options' must be a mapping, not {options!r}")
        in_engine: dict[str, Callable[..., Future[Any]]] = {
            "generate": self.generate_async,
            "embed": self.embed_async,
        }
        management: dict[str, Callable[..., Any]] = {
            "show_models": self.show_models,
            "download_model": self.download_model,
            "delete_model": self.delete_model,
            "stats": self.stats,
        }
        if task in in_engine:
            if "inputs" not in payload:
                raise ValueError(f"task {task!r} needs 'inputs'")
            return in_engine[task](payload["inputs"], **options)
        if task in management:
            return self._management.submit(management[task], **options)
        hint = nearest(str(task), [*in_engine, *management])
        raise ValueError(f"unknown task {task!r}; {hint}")

    # -- inside -----------------------------------------------------------------------------------

    def _load(
        self, model_id: str, revision: str | None, *, role: Any, arguments: Mapping[str, Any]
    ) -> Engine:
        root = self.config.model_root
        if self.config.auto_download:
            vllm_registry.ensure_model_available(model_id, revision, progress=False, root=root)
        try:
            model = vllm_registry.touch_model(model_id, revision, root=root)
        except vllm_registry.RegistryNotWritableError:  # a shared registry may be read-only
            model = vllm_registry.get_model(model_id, revision, root=root)
        self.logger.info("loading %s from %s", model_id, model.path)
        self._loaded.add(model.path)
        engine = self._engine_factory(
            EngineSpec(
                model_id=model_id,
                path=model.path,
                role=role,
                mode=self.config.engine_mode,
                arguments=arguments,
            )
        )
        self.logger.info("loaded %s in %.1f s", model_id, engine.info.start_seconds)
        return engine

    def _text(self) -> Engine:
        if self._text_engine is None:
            raise ServiceClosedError(self.ctx.name, "it has not been opened yet")
        return self._text_engine

    def _embedding(self) -> Engine:
        """Return the embedding engine, built on the first call if it is only the fallback."""
        self._text()
        with self._embedding_lock:
            if self._embedding_engine is None:
                config = self.config
                if config.embedding_model_id is None:
                    self.logger.warning(
                        "no embedding_model_id is configured: embedding with the text model %s, "
                        "converted, which is slower and less accurate than an embedding model",
                        config.model_id,
                    )
                self._embedding_engine = self._load(
                    config.embedding_model_id or config.model_id,
                    config.embedding_revision if config.embedding_model_id else config.revision,
                    role="embed",
                    arguments=config.embedding_engine,
                )
            return self._embedding_engine

    def _submit(
        self,
        engine: Engine,
        item: PromptItem,
        options: Mapping[str, Any],
        *,
        return_errors: bool,
    ) -> Future[Generation]:
        own = {**options, **item.options}
        check_sampling_options(own, "the options of generate")
        try:
            return engine.submit(item.prompt, {**self.config.sampling, **own})
        except (EngineError, ValueError) as error:
            if not return_errors:
                raise
            failed: Future[Generation] = Future()
            failed.set_exception(error)
            return failed

    @staticmethod
    def _wait(future: Future[Any]) -> Any:
        try:
            return future.result()
        except BaseException:
            future.cancel()  # a Ctrl-C of the caller must not leave the engine at work
            raise
