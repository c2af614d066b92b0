"""TextStream: a generated text, piece by piece."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import Future
from queue import SimpleQueue
from typing import Self

from sage.common.components.sage_vllm.requests.result_types import GenerateResult


class TextStream(Iterator[str]):
    """Yields a text as it is generated; afterwards ``result`` is what ``generate`` returns for it.

    Iterating raises what went wrong. Closing it, or dropping it, aborts the generation.
    """

    def __init__(
        self, pieces: SimpleQueue[str | None], future: Future[list[GenerateResult]]
    ) -> None:
        self._pieces = pieces
        self._future = future
        future.add_done_callback(lambda _: pieces.put(None))  # not self: that would keep it alive

    def __next__(self) -> str:
        piece = self._pieces.get()
        if piece is not None:
            return piece
        self._pieces.put(None)  # for whoever asks again
        if not self._future.cancelled():
            self._future.result()
        raise StopIteration

    @property
    def result(self) -> GenerateResult:
        """The whole result, waited for; raises CancelledError if the stream was closed first."""
        return self._future.result()[0]

    def close(self) -> None:
        """Abort what is not generated yet. Idempotent."""
        self._future.cancel()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def __del__(self) -> None:
        self.close()
