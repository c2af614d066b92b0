"""The whole line: a stream, the operator, the service, a real engine; and what can end it."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from sage.common.components.sage_vllm import VLLMService
from sage.common.components.sage_vllm.testing import EchoEngine
from sage.common.model_registry.vllm_registry import ModelNotFoundError
from sage.common.service import ServiceTimeoutError
from sage.kernel.api import LocalEnvironment
from sage.middleware.services.vllm import register_vllm_service

MODEL = "test/tiny-chat"
ENGINE = {"max_num_seqs": 16, "kv_cache_memory_bytes": 64 << 20}


@pytest.fixture
def env(model_root: Path) -> Iterator[LocalEnvironment]:
    """An environment with the service registered; closed at the end."""
    with LocalEnvironment("test") as environment:
        config = {
            "model_id": MODEL,
            "model_root": model_root,
            "engine": ENGINE,
            "sampling": {"temperature": 0, "max_tokens": 8},
        }
        register_vllm_service(environment, config=config)
        yield environment


def test_a_function_reaches_the_service_by_call_service(env: LocalEnvironment) -> None:
    from sage.common.core.functions import MapFunction

    class Ask(MapFunction):
        def execute(self, record: str) -> Any:
            payload = {"task": "generate", "inputs": record}
            by_process = self.call_service("vllm_service", payload)
            by_method = self.call_service("vllm_service", record, method="generate")
            return by_process[0]["text"], by_method[0]["text"]

    out: list[Any] = []
    env.from_collection(["Hello", "there"]).map(Ask).sink(out.append)
    env.submit()
    assert len(out) == 2
    assert all(one == other for one, other in out)


def test_a_call_that_times_out_leaves_nothing_running(env: LocalEnvironment) -> None:
    long = {"max_tokens": 400, "ignore_eos": True}
    with pytest.raises(ServiceTimeoutError, match=r"vllm_service.generate.*0.05 s"):
        env.call_service("vllm_service", ["a", "b"], method="generate", timeout=0.05, **long)
    # A short call behind the aborts sees them done.
    service = env.service("vllm_service")
    service.generate("behind", max_tokens=1)
    assert service.stats()["in_flight"] == 0


def test_a_model_that_is_not_there_stops_submit_before_any_record(model_root: Path) -> None:
    seen: list[int] = []
    env = LocalEnvironment("test")
    register_vllm_service(env, config={"model_id": "test/missing", "model_root": model_root})
    env.from_collection(range(3)).sink(seen.append)
    problem = "'test/missing' is not in the registry.*sage llm model download --model"
    with pytest.raises(ModelNotFoundError, match=problem):
        env.submit()
    assert seen == []


@pytest.mark.parametrize(
    ("config", "says"),
    [(None, "no config"), ({"model": "a/b"}, "'model'.*'model_id'"), ({}, "names no model")],
)
def test_a_bad_configuration_is_refused_when_it_is_registered(config: Any, says: str) -> None:
    with pytest.raises(ValueError, match=says):
        register_vllm_service(LocalEnvironment(), config=config)


def test_an_open_service_is_borrowed_by_one_environment_after_another(model_root: Path) -> None:
    config = {"model_id": "test/echo", "model_root": model_root}
    with VLLMService(config, engine_factory=EchoEngine) as service:
        for question in ("one", "two"):
            with LocalEnvironment() as env:
                assert register_vllm_service(env, service=service) is service
                env.from_collection([question]).sink(
                    lambda text, env=env: env.call_service("vllm_service", text, method="generate")
                )
                env.submit()
        assert service.stats()["requests_done"] == 2
        with pytest.raises(ValueError, match="config= or service=, not both"):
            register_vllm_service(LocalEnvironment(), config=config, service=service)  # type: ignore[call-overload]


def test_what_stands_in_the_names_place_is_named(model_root: Path) -> None:
    wrong: Any = register_vllm_service
    config = {"model_id": "test/echo", "model_root": model_root}
    with pytest.raises(TypeError, match=r"not \{'model_id'.*register_vllm_service\(env, config="):
        wrong(LocalEnvironment(), config)
    service = VLLMService(config, engine_factory=EchoEngine)
    with pytest.raises(TypeError, match=r"register_vllm_service\(env, service=\.\.\.\)"):
        wrong(LocalEnvironment(), service)
    with pytest.raises(RuntimeError, match="'vllm_service' is not open"):
        wrong(LocalEnvironment(), service=service)


def test_the_old_import_path_leads_to_the_same_class() -> None:
    from sage.common.components.sage_vllm.service import VLLMService
    from sage.middleware.components.vllm import service

    assert service.VLLMService is VLLMService
    assert set(service.__all__) == {"VLLMService", "VLLMServiceConfig"}


PIPELINE_WITHOUT_END = """
import itertools, sys
from pathlib import Path
from sage.kernel.api import LocalEnvironment
from sage.libs.operators.vllm_service import VLLMServiceGenerator
from sage.middleware.services.vllm import register_vllm_service

def main():
    root, mode = Path(sys.argv[1]), sys.argv[2]
    env = LocalEnvironment("endless")
    config = {
        "model_id": "test/tiny-chat", "model_root": root, "engine_mode": mode,
        "engine": {"kv_cache_memory_bytes": 64 << 20},
    }
    register_vllm_service(env, config=config)
    prompts = (f"prompt {n}" for n in itertools.count())
    env.from_collection(prompts).map(VLLMServiceGenerator, max_tokens=32).print()
    try:
        print("loading", flush=True)
        env.submit()
    except KeyboardInterrupt:
        return 130

if __name__ == "__main__":
    sys.exit(main())
"""


@pytest.mark.parametrize(
    ("mode", "lines"),
    [("inline", 1), ("inline", 4), ("process", 4)],  # one line: it loads; four: it is at work
)
def test_ctrl_c_ends_a_run_and_its_engine(
    mode: str,
    lines: int,
    model_root: Path,
    tmp_path: Path,
    session_members: Callable[[int], list[str]],
) -> None:
    script = tmp_path / "endless.py"
    script.write_text(PIPELINE_WITHOUT_END)
    with subprocess.Popen(
        [sys.executable, str(script), str(model_root), mode],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,  # a group of its own, as a terminal gives a command
    ) as process:
        assert process.stdout is not None
        for _ in range(lines):
            assert process.stdout.readline()
        os.killpg(process.pid, signal.SIGINT)
        _, said = process.communicate(timeout=300)
    assert process.returncode == 130
    if mode == "inline":  # an engine process reports the work that it was at
        assert "Traceback" not in said
    end = time.monotonic() + 60
    while session_members(process.pid):
        assert time.monotonic() < end  # the system ends a worker when its engine has ended
        time.sleep(0.01)
