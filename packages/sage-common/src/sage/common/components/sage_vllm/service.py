"""VLLMService: vLLM as a service inside the pipeline's process."""

from __future__ import annotations

from collections.abc import Mapping
from concurrent.futures import Future
from typing import Any

from sage.common.components.sage_vllm.config import VLLMServiceConfig
from sage.common.components.sage_vllm.driver.shared_engine import SharedEngine
from sage.common.components.sage_vllm.engine_contract import EngineFactory, OnText
from sage.common.components.sage_vllm.errors import InvalidInputError
from sage.common.components.sage_vllm.host.home_process import HomeProcess
from sage.common.components.sage_vllm.pool.engine_pool import EnginePool
from sage.common.components.sage_vllm.pool.model_calls import start_count, start_generation
from sage.common.components.sage_vllm.replicas.service_replication import ReplicableService
from sage.common.components.sage_vllm.requests.asyncio_calls import AsyncioCalls
from sage.common.components.sage_vllm.requests.gather import wait_for
from sage.common.components.sage_vllm.requests.prompt_reader import PromptReader
from sage.common.components.sage_vllm.requests.result_types import (
    GenerateResult,
    ProcessPayload,
)
from sage.common.components.sage_vllm.requests.sampling_options import check_on_error
from sage.common.components.sage_vllm.requests.text_stream import TextStream
from sage.common.components.sage_vllm.service_identity import service_identity
from sage.common.components.sage_vllm.service_record import ServiceRecord
from sage.common.components.sage_vllm.tasks.dispatch import start_task, tasks_of
from sage.common.components.sage_vllm.tasks.embedding_calls import EmbeddingCalls
from sage.common.components.sage_vllm.tasks.fine_tuning_calls import FineTuningCalls
from sage.common.components.sage_vllm.tasks.logprob_calls import LogprobCalls
from sage.common.components.sage_vllm.tasks.option_checks import OptionChecks
from sage.common.components.sage_vllm.tasks.registry_calls import RegistryCalls
from sage.common.components.sage_vllm.tasks.scoring_calls import ScoringCalls
from sage.common.core.futures import errors_in_future
from sage.common.service import ServiceClosedError

__all__ = ["VLLMService", "VLLMServiceConfig"]


class VLLMService(
    AsyncioCalls,
    EmbeddingCalls,
    ScoringCalls,
    LogprobCalls,
    OptionChecks,
    RegistryCalls,
    FineTuningCalls,
    ReplicableService,
):
    """Generates, embeds, scores and classifies with models of the registry; thread-safe.

    Calls from any number of threads and pipelines are batched together by the engine. Use it
    through an environment's ``call_service``, or by itself as a context manager::

        with VLLMService({"model_id": "sage/demo-chat"}) as service:
            print(service.generate([{"role": "user", "content": "Who are you?"}])[0]["text"])
    """

    max_concurrency = None

    def __init__(
        self,
        config: VLLMServiceConfig | Mapping[str, Any],
        *,
        engine_factory: EngineFactory = SharedEngine,
    ) -> None:
        if not isinstance(config, VLLMServiceConfig):
            config = VLLMServiceConfig.from_dict(config)
        self.config = config
        self._engines = EnginePool(config, engine_factory)
        self._record = ServiceRecord(config, self._engines)
        self._home = HomeProcess()
        engines = self._engines
        self._prompts = PromptReader(
            engines.sampling, engines.adapters, engines.caches, config.media_policy()
        )

    # -- lifecycle ------------------------------------------------------------------------------

    def setup(self) -> None:
        """Load the configured models; raises ModelNotFoundError, EngineError or ValueError."""
        self._home = HomeProcess()
        self._record.open(self.ctx.name)
        self._engines.models.call_origin = self.ctx.call_origin
        self._engines.open()
        self._record.tell()

    def stop(self) -> None:
        """End calls in flight with EngineClosedError and free the engines."""
        self.cleanup()

    def cleanup(self) -> None:
        """Free the engines and everything they hold; in a fork of their process, do nothing."""
        if not self._home.is_this():
            return
        try:
            self._engines.close()
        finally:
            self._record.close()

    def checkpoint_identity(self) -> dict[str, Any]:
        """Return the models, their commits and the sampling; another of them makes other texts."""
        return service_identity(self.config)

    @property
    def capacity(self) -> int | None:  # type: ignore[override]  # known only once an engine is up
        """Calls in flight that keep the engines busy: one batch at work and the next one ready."""
        return 2 * largest if (largest := self._engines.largest_batch()) else None

    # -- tasks ------------------------------------------------------------------------------------

    def generate(self, prompts: Any, **options: Any) -> list[GenerateResult]:
        """Generate a text per prompt and wait for all of them.

        Args:
            prompts: a string, a conversation (a list of ``{"role", "content"}``), token ids (a
                list of whole numbers), ``{"prompt", "messages" or "prompt_token_ids": ...,
                "options": {...}}``, or a list of these. A string is continued. A message's content
                is a text, or a list of parts: ``{"type": "text", "text": ...}``, ``{"type":
                "image", "image": a path, bytes or a PIL image}``, ``{"type": "image_url",
                "image_url": {"url": ...}}``.
            options: sampling options by vLLM's names, such as ``max_tokens``, ``temperature``,
                ``stop``, ``seed``, ``n``, ``logprobs`` or ``prompt_logprobs``; what the text must
                be: ``json_schema`` (a dict or a class), ``json_object`` (True), ``choice`` (a list
                of strings), ``regex``, ``grammar`` or ``structural_tag``;
                ``deadline``, seconds after which the text so far is the result; ``priority``, of
                which lower ones go first; ``lora``, the id of an adapter; ``model``, the name of
                one of the service's; of conversations also ``thinking``, ``template_options``,
                ``chat_template``, ``continue_final_message``, ``tools`` and ``tool_choice``. An
                item's own options override them. ``on_error="return"`` puts ``{"error": {"type",
                "message"}}`` in the slot of a prompt that failed; by default the first error
                aborts the other prompts and is raised.

        Returns:
            A dict per prompt, see GenerateResult: ``text``, ``finish_reason``, ``tokens_used``,
            ``latency`` in seconds, ``model_id``, ``request_id``; of a model that thinks also
            ``reasoning``; with ``tools`` also ``tool_calls``; with ``json_schema`` or
            ``json_object`` also ``parsed``, None if the text was cut off; with ``logprobs`` a list
            of ``{"token", "token_id", "logprob", "top"}``, and ``prompt_logprobs`` likewise; with
            ``n`` above 1 ``choices``, a dict of text and these for each.

        Raises:
            ValueError: a prompt, its length, or an option is not valid; it says which.
            PoisonRequestError: the engine died of this prompt each time.
            EngineClosedError, EngineDeadError: the service ended before the generation did.
        """
        results: list[GenerateResult] = wait_for(self.generate_async(prompts, **options))
        return results

    @errors_in_future
    def generate_async(
        self, prompts: Any, *, on_error: str = "raise", **options: Any
    ) -> Future[list[GenerateResult]]:
        """Generate, and return a Future of the results; cancelling it aborts the generation."""
        check_on_error(on_error)
        self._check_open()
        items = self._prompts.read(prompts, options)
        return start_generation(self._engines, items, return_errors=on_error == "return")

    def stream(self, prompt: Any, **options: Any) -> TextStream:
        """Generate one text and yield it piece by piece; ``astream`` does so for ``async for``.

        Takes one prompt and the options of ``generate``; ``n`` must be 1. The stream's ``result``
        is what ``generate`` returns for the prompt; closing the stream, or dropping it, aborts
        the generation.
        """
        return TextStream.begun(lambda on_text: self._start_stream(on_text, prompt, **options))

    def _start_stream(
        self, on_text: OnText, prompt: Any, **options: Any
    ) -> Future[list[GenerateResult]]:
        self._check_open()
        items = self._prompts.read(prompt, options)
        if len(items) != 1:
            hint = "call stream() once for each, or generate() for all"
            problem = f"a stream has one prompt, not {len(items)}"
            raise InvalidInputError(prompt, problem, hint=hint)
        return start_generation(self._engines, items, on_text=on_text)

    def count_tokens(
        self,
        prompts: Any,
        *,
        role: str | None = None,
        chat_template: str | None = None,
        model: str | None = None,
    ) -> list[int]:
        """Return how many tokens each prompt has, in the shapes that ``generate`` accepts.

        Options of an item count as for ``generate``: its tools are part of what the model sees.
        ``model`` says for which model, or ``role``, ``"generate"``, ``"embed"`` or ``"score"``: the
        text model, or the only one, unless given. Tokens that the model adds are counted.
        """
        self._check_open()
        entry = self._engines.table.counting(model, role)
        counts: list[int] = wait_for(
            start_count(entry, self._prompts.parse(prompts), chat_template)
        )
        return counts

    def stats(self) -> dict[str, Any]:
        """Return the counters of the engines since they were loaded, as plain data.

        Those of the text engine are at the top, those of the embedding and of the scoring engine,
        if any, under ``embedding`` and ``scoring``, those of each model by name under ``models``.
        """
        self._check_open()
        return self._engines.stats()

    def health(self) -> dict[str, Any]:
        """Return ``state``, a ServiceState, each engine's, and the latest error; never raises."""
        return self._engines.health()

    # -- the generic entry point ------------------------------------------------------------------

    def process(self, payload: ProcessPayload | Mapping[str, Any]) -> Any:
        """Run ``{"task": ..., "inputs": ..., "options": {...}}`` and return the task's result.

        Tasks: ``generate``, ``embed``, ``score``, ``rerank``, ``classify``, ``reward``,
        ``loglikelihood``, ``beam_search`` and ``fine_tune``, whose inputs are the method's first
        argument; with arguments as options alone ``fine_tune_jobs``, ``cancel_fine_tune``,
        ``show_models``, ``download_model``, ``delete_model``, ``switch_model``, ``stats``,
        ``health``. Raises ValueError for others.
        """
        return wait_for(self.process_async(payload))

    @errors_in_future
    def process_async(self, payload: ProcessPayload | Mapping[str, Any]) -> Future[Any]:
        """Start a task and return a Future of its result."""
        if self._closed:
            raise ServiceClosedError(self.ctx.name)
        return start_task(payload, tasks_of(self))

    def _check_open(self) -> None:
        if not self._opened:
            raise ServiceClosedError(self.ctx.name, "it has not been opened yet")
        self._home.check(self.ctx.name)
