"""What the tests of engines share: an engine that is slow for a while."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from typing import Any

import pytest

from sage.common.components.sage_vllm.engine_contract import Role
from sage.common.components.sage_vllm.service import VLLMService


@pytest.fixture
def slow_steps() -> Callable[..., AbstractContextManager[None]]:
    """A function for a block in which each step of a service's text engine lasts longer.

    What is started in the block is still at work at its end, however long the machine took to get
    there; then the engine is as fast as ever.
    """

    @contextmanager
    def slow(service: VLLMService, seconds: float = 0.2) -> Iterator[None]:
        engine: Any = service._engines.engine(Role.GENERATE)
        runtime, over = engine._driver._runtime, threading.Event()
        step = runtime.step

        def later() -> Any:
            over.wait(seconds)
            return step()

        runtime.step = later
        try:
            yield
        finally:
            over.set()
            del runtime.step

    return slow
