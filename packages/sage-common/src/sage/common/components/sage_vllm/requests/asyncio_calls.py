"""AsyncioCalls: a service's calls for coroutines."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future
from typing import Any

from sage.common.components.sage_vllm.requests.result_types import (
    EmbedResult,
    GenerateResult,
    ProcessPayload,
)
from sage.common.components.sage_vllm.requests.scoring.scoring_results import (
    ClassifyResult,
    RerankResult,
    ScoreResult,
)
from sage.common.components.sage_vllm.requests.text_stream import AsyncTextStream
from sage.common.core import awaiting


class AsyncioCalls:
    """The part of a VLLMService for asyncio: what takes long runs on threads, not on the loop.

    Any number of coroutines, event loops and threads may call at once::

        async with VLLMService({"model_id": "sage/demo-chat"}) as service:
            question = {"role": "user", "content": "What is the capital of France?"}
            (result,) = await service.agenerate([question])

    Cancelling an await aborts its call in the engine: ``task.cancel()``, ``asyncio.timeout``, a
    TaskGroup that fails, and an event loop that ends. Errors are raised at the await.
    """

    generate_async: Callable[..., Future[list[GenerateResult]]]
    embed_async: Callable[..., Future[EmbedResult]]
    score_async: Callable[..., Future[ScoreResult]]
    rerank_async: Callable[..., Future[RerankResult]]
    classify_async: Callable[..., Future[ClassifyResult]]
    reward_async: Callable[..., Future[ScoreResult]]
    process_async: Callable[..., Future[Any]]
    _start_stream: Callable[..., Future[list[GenerateResult]]]

    async def agenerate(self, prompts: Any, **options: Any) -> list[GenerateResult]:
        """Generate a text per prompt, as ``generate`` does, without blocking the event loop."""
        return await awaiting.call(self.generate_async, prompts, **options)

    def astream(self, prompt: Any, **options: Any) -> AsyncTextStream:
        """Generate one text piece by piece, as ``stream`` does, for ``async for``.

        The generation begins when the first piece is asked for, and errors are raised there::

            async for piece in service.astream("What is the capital of France?"):
                print(piece, end="")
        """
        return AsyncTextStream(lambda on_text: self._start_stream(on_text, prompt, **options))

    async def aembed(self, texts: str | Sequence[str], **options: Any) -> EmbedResult:
        """Embed texts, as ``embed`` does, without blocking the event loop."""
        return await awaiting.call(self.embed_async, texts, **options)

    async def ascore(
        self, query: str | Sequence[str], texts: str | Sequence[str], **options: Any
    ) -> ScoreResult:
        """Score texts, as ``score`` does, without blocking the event loop."""
        return await awaiting.call(self.score_async, query, texts, **options)

    async def arerank(
        self, query: str, texts: Sequence[str], top_n: int | None = None, **options: Any
    ) -> RerankResult:
        """Rerank texts, as ``rerank`` does, without blocking the event loop."""
        return await awaiting.call(self.rerank_async, query, texts, top_n, **options)

    async def aclassify(self, texts: Any, **options: Any) -> ClassifyResult:
        """Classify texts, as ``classify`` does, without blocking the event loop."""
        return await awaiting.call(self.classify_async, texts, **options)

    async def areward(self, conversations: Any, **options: Any) -> ScoreResult:
        """Reward conversations, as ``reward`` does, without blocking the event loop."""
        return await awaiting.call(self.reward_async, conversations, **options)

    async def aprocess(self, payload: ProcessPayload | Mapping[str, Any]) -> Any:
        """Run a task, as ``process`` does, without blocking the event loop.

        Cancelling the await aborts the work of an engine; a task on models goes on to its end.
        """
        return await awaiting.call(self.process_async, payload)
