"""The kit for tests of pipelines: its fixtures, its stub, and its docstring as it is written."""

from __future__ import annotations

import inspect
import os
import re
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from sage.common.components.sage_vllm import VLLMService
from sage.common.service import ServiceMethodNotFoundError
from sage.kernel.api import LocalEnvironment
from sage.libs import testing
from sage.libs.operators import VLLMEmbeddingOperator, VLLMServiceEmbedder
from sage.libs.testing import StubService

pytest_plugins = ["sage.libs.testing"]


@pytest.fixture
def opened() -> Iterator[list[VLLMService]]:
    """For a service that a test opens: it is closed after it. To be asked for before the kit's."""
    services: list[VLLMService] = []
    yield services
    assert [service.accepts_calls for service in services] == [False]


def test_the_docstring_runs_as_it_is_written(tmp_path: Path) -> None:
    text = inspect.cleandoc(testing.__doc__ or "")
    plugin, sample = re.findall(r"::\n\n((?:    .*\n?|\n)+)", text)
    (tmp_path / "conftest.py").write_text(inspect.cleandoc(plugin))
    (tmp_path / "test_it.py").write_text(inspect.cleandoc(sample))
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", str(tmp_path)],
        cwd=tmp_path,
        env={**os.environ, "HOME": str(tmp_path / "home")},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert "1 passed" in done.stdout
    assert not (tmp_path / "home").exists()  # nothing is left outside the test's folder


def test_services_of_a_test_have_settings_of_their_own_and_are_closed_after_it(
    opened: list[VLLMService],
    sage_env: LocalEnvironment,
    echo_service: Callable[..., VLLMService],
) -> None:
    short = echo_service(sampling={"max_tokens": 1})
    told = echo_service(answers={"one two": "three"}, latency=0.01)
    opened.append(short)
    for name, service in (("short", short), ("told", told)):
        sage_env.register_service(name, service)
    texts = [
        sage_env.call_service(name, "one two", method="generate")[0]["text"]
        for name in ("short", "told")
    ]
    assert texts == ["one", "three"]
    models = {"judge": "any/judge", "last": {"model_id": "any/last", "pin": True}}
    several = echo_service(models=models)
    answers = [several.generate("a", model=name)[0]["model_id"] for name in ("judge", "last")]
    assert answers == ["any/judge", "any/last"]
    (record,) = sage_env.from_collection(["a"]).map(VLLMServiceEmbedder, "told").collect()
    assert len(record["embedding"]) == 8


def test_both_operators_have_names_alike() -> None:
    assert VLLMServiceEmbedder is VLLMEmbeddingOperator


# -- the stub ------------------------------------------------------------------------------------


def test_a_stub_answers_as_it_is_told_and_keeps_its_calls(
    sage_env: LocalEnvironment, stub_service: Callable[..., StubService]
) -> None:
    stub = stub_service(lookup={"tea": 3}.get, refund=PermissionError("ask Ada"), process="done")
    sage_env.register_service("prices", stub)
    prices = sage_env.service("prices")
    assert prices.lookup("tea") == 3
    assert sage_env.call_service("prices", {"task": "all"}) == "done"
    assert sage_env.call_service("prices", "cake", method="lookup", timeout=5) is None
    with pytest.raises(PermissionError, match="ask Ada"):
        prices.refund(amount=3)
    with pytest.raises(ServiceMethodNotFoundError, match="did you mean 'lookup'"):
        prices.lokup("tea")
    assert stub.calls == [
        ("lookup", ("tea",), {}),
        ("process", ({"task": "all"},), {}),
        ("lookup", ("cake",), {}),
        ("refund", (), {"amount": 3}),
    ]


@pytest.mark.parametrize("name", ["close", "setup", "name", "calls", "_hidden"])
def test_a_stub_has_no_method_that_nobody_could_call(name: str) -> None:
    with pytest.raises(ValueError, match=rf"cannot have {name}\(\) for its callers"):
        StubService(**{name: 1})


def test_a_stub_raises_a_class_of_errors_too() -> None:
    stub: Any = StubService(lookup=KeyError)
    with pytest.raises(KeyError):
        stub.lookup("tea")


def test_a_stub_without_a_process_says_so() -> None:
    with StubService(lookup=1) as stub, pytest.raises(NotImplementedError, match="defines no proc"):
        stub.process({})
