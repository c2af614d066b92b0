"""What a RayEnvironment accepts, and what it refuses before there is a cluster."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from sage.common.service import BaseService, Replication
from sage.kernel.api import NoClusterError, RayEnvironment
from sage.kernel.api.ray_config import replica_settings
from sage.kernel.runtime.cluster.cluster import Need, Node
from sage.kernel.runtime.cluster.placement import Placement
from sage.kernel.runtime.cluster.ray_connection import RayConnection, reason_of


class Several(BaseService):
    @classmethod
    def replication(cls) -> Replication:
        return Replication(gpus=2)


class Lone(BaseService):
    """Keeps what it is told."""


@pytest.mark.parametrize(
    ("config", "said"),
    [
        ({"adress": "auto"}, "unknown configuration 'adress'; did you mean 'address'"),
        ({"address": "ray://head:10001"}, "not 'ray://head:10001'; .* `ray job submit`"),
        ({"services": ["chat"]}, r"services takes a mapping, not \['chat'\]"),
        ({"services": {"chat": 4}}, r"services\['chat'\] takes a mapping such as"),
        ({"services": {"chat": {"replica": 4}}}, "unknown key 'replica' in .* 'replicas'"),
        ({"services": {"chat": {"replicas": -1}}}, "takes a number from 1 on, .* not -1"),
        ({"services": {"chat": {"replicas": (3, 2)}}}, r"not \(3, 2\)"),
        ({"services": {"chat": {"replicas": True}}}, "not True"),
        ({"services": {"chat": {"gpus": "one"}}}, r"\['gpus'\] takes a number .* not 'one'"),
        ({"services": {"chat": {"health_timeout": 0}}}, "above 0, not 0"),
        ({"services": {"chat": {"max_in_flight": 1.5}}}, "not 1.5"),
        ({"services": {"chat": {"gpus": 1.5}}}, "a number that is whole or below 1, not 1.5"),
        ({"services": {"chat": {"gpus": float("nan")}}}, "not nan"),
        ({"services": {"chat": {"cpus": -1}}}, "a number from 0 on, not -1"),
        ({"workers": {"resources": {"GPU": 1}}}, r"\['GPU'\] is asked for by 'gpus', beside"),
        ({"workers": {"resources": {"ssd": "one"}}}, r"\['ssd'\] takes a number .* not 'one'"),
        ({"address": ""}, "'host:port' or None, not ''"),
        ({"address": "http://head:8265"}, "sent into it by `ray job submit`"),
        ({"runtime_env": "."}, "runtime_env takes a mapping or None, not '.'"),
        ({"grows": "yes"}, "grows takes True or False, not 'yes'"),
        ({"workers": {"cpu": 1}}, "unknown key 'cpu' in workers; did you mean 'cpus'"),
        ({"channel_capacity": 0}, "channel_capacity must be"),
    ],
)
def test_what_is_not_valid_is_named_with_the_way_out(config: dict[str, Any], said: str) -> None:
    with pytest.raises(ValueError, match=said):
        RayEnvironment("label", config)


def test_a_service_that_is_one_alone_is_not_replicated() -> None:
    env = RayEnvironment("label", {"services": {"memory": {"replicas": 2}}})
    with pytest.raises(ValueError, match="Lone keeps what it is told"):
        env.register_service("memory", Lone)
    env = RayEnvironment("label", {"services": {"memory": {"replicas": 0}}})
    env.register_service("memory", Lone)


def test_a_service_that_is_configured_has_to_be_there(tmp_path: Path) -> None:
    env = RayEnvironment("label", {"services": {"chatt": {"replicas": 2}}})
    env.register_service("chat", Lone)
    env.from_collection([1]).sink(print)
    with pytest.raises(ValueError, match="'chatt', which is not registered; did you mean 'chat'"):
        env.submit(checkpoint=tmp_path / "run")


def test_what_a_replica_takes() -> None:
    nodes = [Node(name="a", cpus=8, gpus=4), Node(name="b", cpus=6)]
    said = Several.replication()
    assert said is not None

    def settings(**given: Any) -> Any:
        config = RayEnvironment("label", {"services": {"s": given}}).config
        return replica_settings("s", config, said)

    assert (settings().least, settings().most) == (1, None)  # all, since it takes GPUs
    assert (settings(replicas=3).least, settings(replicas=3).most) == (3, 3)
    assert (settings(replicas=(2, 5)).least, settings(replicas=(2, 5)).most) == (2, 5)
    assert str(settings().need(said, Placement(nodes))) == "2 GPUs and 1 CPU"
    assert str(settings().need(said, Placement(nodes[1:]))) == "6 CPUs"  # no machine has a GPU
    assert (
        str(settings().need(said, Placement(nodes[1:], grows=True))) == "2 GPUs and 1 CPU"
    )  # it waits
    assert str(settings(gpus=0, cpus=2).need(said, Placement(nodes))) == "2 CPUs"
    worker = Need(cpus=2)
    with_workers = Placement(nodes[1:], operators=2, worker=worker)
    assert str(settings().need(said, with_workers)) == "2 CPUs"  # two workers have the others
    of_two = [nodes[1], nodes[1]]
    assert str(settings().need(said, Placement(of_two, operators=2, worker=worker))) == "4 CPUs"
    assert settings(health_timeout=5).supervision.health_timeout == 5


@pytest.mark.timeout(240)
def test_where_there_is_no_cluster_is_said_at_once() -> None:
    # In a process of its own: this one may belong to the cluster of another test.
    addresses = ("127.0.0.1:9", "no-such-host.invalid:6379", "head:port", "head")
    program = f"""
import time
import ray
from sage.kernel.api import NoClusterError, RayEnvironment

for address in {addresses}:
    env = RayEnvironment("label", {{"address": address}})
    env.from_collection([1]).map(abs, parallelism=2).sink(print)
    began = time.monotonic()
    try:
        env.submit()
    except NoClusterError as error:
        assert time.monotonic() - began < 60  # Ray itself tries for two minutes
        print(error)
"""
    said = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=False, timeout=200
    )
    assert said.returncode == 0, said.stderr
    errors = [line for line in said.stdout.splitlines() if line.startswith("cannot join")]
    for address, error in zip(addresses, errors, strict=True):
        assert f"at '{address}'" in error
        assert "ray start" in error or "say 'host:port' or 'auto'" in error


def test_settings_that_would_have_no_effect_are_refused() -> None:
    joined = RayConnection.__new__(RayConnection)
    joined.address, joined.init, joined.users = "head:6379", {"num_cpus": 2}, 1
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(RayConnection, "shared", joined)
        assert RayConnection.get(None, {}) is joined
        assert RayConnection.get(None, {"num_cpus": 2}) is joined
        with pytest.raises(NoClusterError, match="give both the same 'ray_init' and 'runtime_env'"):
            RayConnection.get(None, {"runtime_env": {"working_dir": "."}})
        patch.setattr(RayConnection, "_process", 1)
        with pytest.raises(
            NoClusterError, match=r"forked from one that had .* start it by 'spawn'"
        ):
            RayConnection.get(None, {})


def test_what_ray_says_of_each_death_is_left_out() -> None:
    said = "The actor died.\n\tpid: 7\nIts process ended. Some common causes include: (1) no memory"
    assert reason_of(RuntimeError(said)) == "Its process ended."


WITHOUT_RAY = """
import ray
from types import SimpleNamespace
from sage.kernel.api import NoClusterError, RayEnvironment
from sage.kernel.runtime.cluster.cluster import Need
from sage.kernel.runtime.cluster.ray_cluster import _RayRemote

remote = _RayRemote(SimpleNamespace(closed=False), b"", Need())
print(remote.call("setup").exception())
remote.kill()
env = RayEnvironment("misspelt", {"address": "local", "runtime_env": {"workdir": "."}})
try:
    env.from_collection([1]).map(abs, parallelism=2).collect()
except ValueError as error:
    print(error)
assert not ray.is_initialized()
"""


def test_no_cluster_is_started_by_the_way() -> None:
    done = subprocess.run(
        [sys.executable, "-c", WITHOUT_RAY],
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )
    assert done.returncode == 0, done.stderr
    left, misspelt = done.stdout.splitlines()
    assert left == "a process of the cluster died: the program has left the cluster"
    assert misspelt == "unknown key 'workdir' in runtime_env; did you mean 'working_dir'?"


def test_ray_is_loaded_by_nothing_but_a_run() -> None:
    program = (
        "import sys; from sage.kernel.api import RayEnvironment; env = RayEnvironment('x'); "
        "env.from_collection([1, 2]).map(abs).sink(print); env.submit(); "
        "assert 'ray' not in sys.modules"
    )
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=False, timeout=60
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.split() == ["1", "2"]
