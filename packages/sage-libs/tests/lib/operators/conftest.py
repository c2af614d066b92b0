"""Pipelines over the shipped engine without weights: it answers a prompt with its words."""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest

from sage.common.components.sage_vllm.service import VLLMService
from sage.common.components.sage_vllm.testing.echo_engine import EchoEngine
from sage.kernel.api import LocalEnvironment


@pytest.fixture
def environment(model_root: Path) -> Callable[..., LocalEnvironment]:
    """A function that makes an environment with a service on an engine."""

    def make(engine: Any = EchoEngine, service: type[VLLMService] = VLLMService) -> Any:
        env = LocalEnvironment("operators")
        config = {"model_id": "test/echo", "model_root": model_root}
        env.register_service("vllm_service", service, config, engine_factory=engine)
        return env

    return make


@pytest.fixture
def env(environment: Callable[..., LocalEnvironment]) -> LocalEnvironment:
    return environment()


@pytest.fixture
def run() -> Callable[..., list[Any]]:
    """A function that runs records through an operator and returns what comes out."""

    def run_pipeline(
        env: LocalEnvironment, records: Sequence[Any], operator: Any, *args: Any, **kwargs: Any
    ) -> list[Any]:
        out: list[Any] = []
        before = copy.deepcopy(records)
        env.from_collection(records).map(operator, *args, **kwargs).sink(out.append)
        env.submit()
        assert records == before, "a record that came in was changed"
        return out

    return run_pipeline
