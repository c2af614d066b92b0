"""A VLLMService on a real Ray cluster, whose machines have registries of their own."""

from __future__ import annotations

import os
import signal
import sys
import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import pytest

HERE = Path(__file__).parent
HUB = HERE.parents[2] / "sage-common" / "tests" / "model_registry"
for folder in (HERE, HUB):  # importlib mode leaves them out, and the replicas import the first
    if str(folder) not in sys.path:
        sys.path.insert(0, str(folder))

from cluster_engines import commit_engine  # noqa: E402 - needs the path above
from local_hub import LocalHub  # noqa: E402 - needs the path above

from sage.common.components.sage_vllm.testing import SleepingEngine, write_echo_model  # noqa: E402
from sage.common.model_registry import (  # noqa: E402
    HubUnavailableError,
    import_model,
    list_models,
    verify_model,
)
from sage.kernel.api import RayEnvironment, ReplicaStatus  # noqa: E402
from sage.libs.operators import VLLMServiceGenerator  # noqa: E402
from sage.middleware.services.vllm import register_vllm_service  # noqa: E402

ROOT = "SAGE_VLLM_MODEL_ROOT"
NOWHERE = "http://127.0.0.1:9"


class Machines:
    """Machines with two processors and a registry each; the first one alone reaches the hub."""

    def __init__(self, folder: Path, hub: LocalHub) -> None:
        from ray.cluster_utils import Cluster

        self.hub = hub
        self.roots = [folder / "first", folder / "second"]
        self._environment = {**hub.environment(folder / "home"), "PYTHONPATH": str(HERE)}
        first = {**self._environment, ROOT: str(self.roots[0])}
        arguments = {"num_cpus": 2, "include_dashboard": False, "env_vars": first}
        self.cluster = Cluster(initialize_head=True, head_node_args=arguments)
        self._both = False

    def add_second(self) -> None:
        if not self._both:
            self._both = True
            second = {**self._environment, ROOT: str(self.roots[1]), "HF_ENDPOINT": NOWHERE}
            self.cluster.add_node(num_cpus=2, env_vars=second)


@pytest.fixture(scope="module")
def machines(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Machines]:
    import ray

    with LocalHub() as hub:
        made = Machines(tmp_path_factory.mktemp("machines"), hub)
        ray.init(address=made.cluster.address, log_to_driver=False, logging_level="ERROR")
        yield made
        ray.shutdown()
        made.cluster.shutdown()


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The registry of the process that has the pipeline."""
    monkeypatch.setenv(ROOT, str(tmp_path / "here"))
    return tmp_path / "here"


def put(model_id: str, folder: Path, root: Path, size: int = 0) -> str:
    write_echo_model(folder)
    (folder / "which.txt").write_text(folder.name)
    (folder / "more.bin").write_bytes(os.urandom(size))
    return import_model(model_id, folder, root=root).commit


def until(condition: Callable[[], Any], seconds: float = 150.0) -> None:
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.01)


def replicas(env: RayEnvironment) -> tuple[ReplicaStatus, ...]:
    return env.metrics().services["vllm_service"]


def both_ready(env: RayEnvironment) -> bool:
    return [each.state for each in replicas(env)] == ["ready"] * 2


def settings(least: int) -> dict[str, Any]:
    return {"services": {"vllm_service": {"replicas": (least, 2), "gpus": 0, "cpus": 2}}}


def test_a_machine_that_comes_late_gets_the_model_and_joins_the_run(
    machines: Machines, here: Path, tmp_path: Path
) -> None:
    commit = put("demo/echo", tmp_path / "v1", here, size=9_000_000)  # several pieces
    texts: list[str] = []
    with RayEnvironment("late", settings(1)) as env:

        def questions() -> Iterator[str]:
            number = 0
            while min(each.finished for each in replicas(env)) < 100:
                yield f"question {number}"
                number += 1

        engine = partial(SleepingEngine, step_seconds=0.01, max_batch_size=16)
        register_vllm_service(env, config={"model_id": "demo/echo"}, engine_factory=engine)
        stream = env.from_source(questions).map(VLLMServiceGenerator, max_tokens=2)
        stream.map(lambda record: record["generated"]).sink(texts.append)
        env.submit(autostop=False)
        until(lambda: len(texts) > 100)
        assert [each.state for each in replicas(env)].count("ready") == 1
        machines.add_second()
        until(lambda: both_ready(env))
        env.wait()
        assert len({each.node for each in replicas(env)}) == 2
        assert not any(each.deaths for each in replicas(env))
    assert texts == [f"question {n}" for n in range(len(texts))]
    for root in machines.roots:
        assert [model.commit for model in list_models(root=root)] == [commit]
        assert verify_model("demo/echo", root=root).ok


def test_a_change_that_one_machine_cannot_make_no_replica_makes(
    machines: Machines, here: Path, tmp_path: Path
) -> None:
    machines.add_second()
    first, other = put("owner/chat", tmp_path / "v1", here), put("owner/x", tmp_path / "x", here)
    newer = write_echo_model(tmp_path / "v2")
    files = {path.name: path.read_bytes() for path in newer.iterdir() if path.is_file()}
    downloaded = machines.hub.add_model("owner/chat", files)
    with RayEnvironment("change", settings(2)) as env:
        config = {"model_id": "owner/chat", "auto_reload": True}
        register_vllm_service(env, config=config, engine_factory=commit_engine)
        chat = env.service("vllm_service")

        def answers() -> set[str]:
            before = [each.finished for each in replicas(env)]
            texts = {chat.generate(f"{n} words")[0]["text"] for n in range(20)}
            assert all(
                a.finished > b and a.state == "ready"
                for a, b in zip(replicas(env), before, strict=True)
            )
            return texts

        assert answers() == {first}
        with pytest.raises(HubUnavailableError):
            chat.download_model("owner/chat")
        assert downloaded in [model.commit for model in list_models(root=machines.roots[0])]
        until(lambda: both_ready(env) and sum(each.deaths for each in replicas(env)) == 1)
        assert answers() == {first}

        chat.switch_model("owner/x")  # which the pipeline's process alone has
        assert answers() == {other}
        process = replicas(env)[1].process
        assert process  # 0 would be all of this session's
        os.kill(process, signal.SIGKILL)
        until(lambda: sum(each.deaths for each in replicas(env)) == 2 and both_ready(env))
        assert answers() == {other}
