"""The fixtures of ``pytest_plugins = ["sage.libs.testing"]``."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from sage.common.components.sage_vllm import VLLMService
from sage.common.components.sage_vllm.testing import EchoEngine, write_echo_model
from sage.common.model_registry import import_model
from sage.kernel.api import LocalEnvironment
from sage.libs.testing.stub import StubService

_MODEL = "test/echo"


@pytest.fixture
def sage_env() -> Iterator[LocalEnvironment]:
    """Yield an environment that is closed when the test ends, whatever became of it."""
    with LocalEnvironment("test") as env:
        yield env


@pytest.fixture
def echo_service(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Iterator[Callable[..., VLLMService]]:
    """Yield a function that opens a VLLMService on an EchoEngine; closed when the test ends.

    ``answers=`` and ``latency=`` are the engine's. Everything else is configuration of the service,
    such as ``sampling={"max_tokens": 8}``, or ``models={"judge": "any/id"}``, whose ids need not
    exist. Its ``model_id`` and ``embedding_model_id`` are ``"test/echo"``. The registry and the run
    folder are the test's own.
    """
    monkeypatch.setenv("SAGE_RUN_ROOT", str(tmp_path / "sage-run"))
    root, made = tmp_path / "sage-models", set[str]()
    with ExitStack() as stack:

        def open_service(
            *, answers: Any = None, latency: float = 0.0, **config: Any
        ) -> VLLMService:
            for model_id in _ids(config.get("models", {})) - made:
                import_model(model_id, write_echo_model(tmp_path / "sage-echo"), root=root)
                made.add(model_id)
            models = {"model_id": _MODEL, "embedding_model_id": _MODEL, "model_root": root}
            engine = partial(EchoEngine, answers=answers, latency=latency)
            service = VLLMService({**models, **config}, engine_factory=engine)
            return stack.enter_context(service)

        yield open_service


@pytest.fixture
def stub_service() -> Iterator[Callable[..., StubService]]:
    """Yield a function that opens a StubService of the answers given; closed when the test ends."""
    with ExitStack() as stack:

        def open_stub(**answers: Any) -> StubService:
            return stack.enter_context(StubService(**answers))

        yield open_stub


def _ids(models: Mapping[str, Any]) -> set[str]:
    """Return the ids that a configuration's models have, and the one of all services."""
    given = [each["model_id"] if isinstance(each, Mapping) else each for each in models.values()]
    return {_MODEL, *given}
