"""Where the replicas of a model run."""

from __future__ import annotations

from typing import Any

import pytest

from sage.common.components.sage_vllm.errors import InvalidOptionError
from sage.common.components.sage_vllm.planning.device import Device
from sage.common.components.sage_vllm.planning.replica_places import replica_places

GPUS = Device(kind="gpu", numbers=("0", "1", "2", "3"))
NODES = [[0, 1, 2, 3], [4, 5, 6]]


def bound(replicas: Any, nodes: list[list[int]] = NODES) -> list[str]:
    found = replica_places(replicas, Device(kind="cpu"), 1, nodes)
    return [place["VLLM_CPU_OMP_THREADS_BIND"] for place in found]


def test_on_a_cpu_auto_is_a_replica_for_each_node() -> None:
    assert bound("auto") == ["0,1,2,3", "4,5,6"]
    assert bound(2) == ["0,1,2,3", "4,5,6"]
    assert bound("auto", [[0, 1]]) == ["0,1"]


def test_other_numbers_cut_the_processors_into_parts() -> None:
    assert bound(3) == ["0,1", "2,3", "4,5,6"]
    assert bound(7) == list("0123456")


def test_more_replicas_than_processors_are_refused() -> None:
    with pytest.raises(InvalidOptionError, match="8 replicas need a processor each, and 7"):
        bound(8)


def test_each_replica_has_gpus_of_its_own() -> None:
    name = "CUDA_VISIBLE_DEVICES"
    assert replica_places("auto", GPUS, 1, []) == [{name: number} for number in "0123"]
    assert replica_places("auto", GPUS, 2, []) == [{name: "0,1"}, {name: "2,3"}]
    assert replica_places(3, GPUS, 1, []) == [{name: number} for number in "012"]
    chosen = Device(kind="gpu", numbers=("5", "GPU-8a"))
    assert replica_places(2, chosen, 1, []) == [{name: "5"}, {name: "GPU-8a"}]


@pytest.mark.parametrize(("replicas", "each"), [(5, 1), (3, 2), ("auto", 8)])
def test_more_gpus_than_there_are_is_an_error(replicas: Any, each: int) -> None:
    with pytest.raises(InvalidOptionError, match="4 devices that are visible"):
        replica_places(replicas, GPUS, each, [])
