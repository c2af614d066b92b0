"""TextStream and AsyncTextStream: a generated text, piece by piece."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import AsyncIterator, Callable, Iterator
from concurrent.futures import Future
from queue import SimpleQueue
from typing import NoReturn, Self

from sage.common.components.sage_vllm.engine_contract import OnText, Reasoning
from sage.common.components.sage_vllm.requests.result_types import GenerateResult
from sage.common.core import awaiting


class TextStream(Iterator[str]):
    """Yields a text as it is generated; afterwards ``result`` is what ``generate`` returns for it.

    Iterating raises what went wrong. Closing it, or dropping it, aborts the generation. What the
    model thinks is not part of the text: ``reasoning`` has what came of it so far, and ``pieces``
    yields both as they come.
    """

    def __init__(
        self, pieces: SimpleQueue[str | None], future: Future[list[GenerateResult]]
    ) -> None:
        self._pieces = pieces
        self._future = future
        self.reasoning = ""
        future.add_done_callback(lambda _: pieces.put(None))  # not self: that would keep it alive

    @classmethod
    def begun(cls, start: Callable[[OnText], Future[list[GenerateResult]]]) -> Self:
        """Start a generation, by what is given a function that accepts its pieces."""
        pieces: SimpleQueue[str | None] = SimpleQueue()
        return cls(pieces, start(pieces.put))

    def __next__(self) -> str:
        while isinstance(piece := self._next_piece(), Reasoning):
            pass
        if piece is None:
            raise StopIteration
        return piece

    def pieces(self) -> Iterator[str]:
        """Yield all that is left, thinking too: pieces that are instances of ``Reasoning``."""
        while (piece := self._next_piece()) is not None:
            yield piece

    def _next_piece(self) -> str | None:
        piece = self._pieces.get()
        if isinstance(piece, Reasoning):
            self.reasoning += piece
        if piece is None:
            self._pieces.put(None)  # for whoever asks again
            if not self._future.cancelled():
                self._future.result()
        return piece

    @property
    def result(self) -> GenerateResult:
        """The whole result, waited for; raises CancelledError if the stream was closed first."""
        return self._future.result()[0]

    def close(self) -> None:
        """Abort what is not generated yet. Idempotent."""
        self._future.cancel()

    def __reduce__(self) -> NoReturn:
        """Refuse to be sent: what its reader has had is known here alone."""
        raise TypeError(
            "a stream stays in the process that began it; a function in a worker, or a service on "
            "a cluster, calls generate()"
        )

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def __del__(self) -> None:
        self.close()


class AsyncTextStream(AsyncIterator[str]):
    """Yields a text as it is generated, for ``async for``; ``reasoning`` is what the model thought.

    The generation begins when the first piece, or the result, is awaited; that raises what is wrong
    with the prompt. Cancelling such an await, closing the stream, or dropping it, aborts the
    generation. A reader that is slow holds up nothing: what it has not read waits in memory, which
    is one text at most.

    Args:
        start: starts the generation, given a function that accepts its pieces.
    """

    def __init__(self, start: Callable[[OnText], Future[list[GenerateResult]]]) -> None:
        self._start = start
        self.reasoning = ""
        self._pieces: deque[str | None] = deque()
        self._news = asyncio.Event()
        self._future: Future[list[GenerateResult]] | None = None

    async def __anext__(self) -> str:
        while isinstance(piece := await self._next_piece(), Reasoning):
            pass
        if piece is None:
            raise StopAsyncIteration
        return piece

    async def pieces(self) -> AsyncIterator[str]:
        """Yield all that is left, thinking too: pieces that are instances of ``Reasoning``."""
        while (piece := await self._next_piece()) is not None:
            yield piece

    async def _next_piece(self) -> str | None:
        future = self._begun()
        try:
            while not self._pieces:
                self._news.clear()
                await self._news.wait()
        except BaseException:  # cancelled, or its event loop has ended
            future.cancel()
            raise
        piece = self._pieces.popleft()
        if isinstance(piece, Reasoning):
            self.reasoning += piece
        if piece is None:
            self._add(None)  # for whoever asks again
            if not future.cancelled():
                future.result()
        return piece

    async def result(self) -> GenerateResult:
        """Return the whole result; raises concurrent.futures.CancelledError if closed before."""
        return (await awaiting.result_of(self._begun()))[0]

    async def aclose(self) -> None:
        """Abort what is not generated yet. Idempotent."""
        if self._future is None:
            self._future = Future()
            self._add(None)
        self._future.cancel()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.aclose()

    def __del__(self) -> None:
        if self._future is not None:
            self._future.cancel()

    def _begun(self) -> Future[list[GenerateResult]]:
        if self._future is None:
            add = awaiting.on_loop(self._add)
            self._future = awaiting.started_in_thread(self._start, add)
            self._future.add_done_callback(lambda _: add(None))
        return self._future

    def _add(self, piece: str | None) -> None:
        self._pieces.append(piece)
        self._news.set()
