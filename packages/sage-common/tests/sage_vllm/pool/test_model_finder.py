"""Which commit of a model a replica has, and where from, for two machines that are two roots."""

from __future__ import annotations

from concurrent.futures import Future
from pathlib import Path
from typing import Any

import pytest

from sage.common.components.sage_vllm.config import VLLMServiceConfig
from sage.common.components.sage_vllm.pool.model_finder import ModelFinder
from sage.common.components.sage_vllm.replicas.model_origin import ModelOrigin
from sage.common.components.sage_vllm.testing.echo_engine import write_echo_model
from sage.common.core.background import in_background
from sage.common.model_registry import (
    ModelNotFoundError,
    delete_model,
    get_model,
    import_model,
    list_models,
)

MODEL = "demo/echo"


class Machines:
    """The registry of the pipeline's process, and a machine with another one for each replica."""

    def __init__(self, folder: Path) -> None:
        self.here = folder / "here"
        self._folder = folder
        self.origin = ModelOrigin(self.here)

    def root(self, name: str) -> Path:
        return self._folder / name

    def finder(self, name: str) -> ModelFinder:
        found = ModelFinder(VLLMServiceConfig(model_id=MODEL, model_root=self.root(name)))
        found.call_origin = self._call
        return found

    def put(self, root: Path, version: int) -> str:
        """Put a version of the model into a registry; returns its commit."""
        folder = write_echo_model(self._folder / f"v{version}")
        (folder / "version.txt").write_text(str(version))
        return import_model(MODEL, folder, root=root).commit

    def _call(self, method: str, *args: Any) -> Future[Any]:
        return in_background(getattr(self.origin, method), *args)


@pytest.fixture
def machines(tmp_path: Path) -> Machines:
    return Machines(tmp_path)


def test_one_that_is_missing_is_copied_from_here(machines: Machines) -> None:
    commit = machines.put(machines.here, 1)
    found = machines.finder("a").get(MODEL, None)
    assert found.commit == commit
    assert found == get_model(MODEL, root=machines.root("a"))


def test_another_commit_there_gives_way_to_the_one_here(machines: Machines) -> None:
    commit = machines.put(machines.here, 1)
    other = machines.put(machines.root("a"), 2)
    finder = machines.finder("a")
    assert finder.get(MODEL, None).commit == commit != other
    assert len(list_models(root=machines.root("a"))) == 2


def test_what_is_not_here_is_what_the_first_replica_has(machines: Machines) -> None:
    first, second = machines.put(machines.root("a"), 1), machines.put(machines.root("b"), 1)
    machines.put(machines.root("b"), 2)  # asked for last, so what it would take by itself
    assert first == second
    assert machines.finder("a").get(MODEL, None).commit == first
    assert machines.finder("b").get(MODEL, None).commit == first


def test_a_commit_stays_that_of_the_run(machines: Machines) -> None:
    commit = machines.put(machines.here, 1)
    machines.finder("a").get(MODEL, None)
    machines.put(machines.here, 2)
    machines.put(machines.root("a"), 2)
    assert machines.finder("a").get(MODEL, None).commit == commit
    assert machines.finder("b").get(MODEL, None).commit == commit


def test_a_call_to_all_replicas_may_bring_another_commit(machines: Machines) -> None:
    commit, finder = machines.put(machines.here, 1), machines.finder("a")
    assert finder.get(MODEL, None).commit == commit
    new = machines.put(machines.root("a"), 2)
    finder.choose(MODEL, None, new)
    assert finder.get(MODEL, None).commit == new
    assert machines.finder("a").get(MODEL, None).commit == commit  # one that begins anew


def test_a_root_means_the_same_in_another_working_directory() -> None:
    def root(given: str) -> Path | None:
        return VLLMServiceConfig.from_dict({"model_id": MODEL, "model_root": given}).model_root

    assert root("models") == Path.cwd() / "models"
    assert str(root("~/models")) == "~/models"  # that of the machine that it is on


def test_one_that_nobody_has_names_both_registries(machines: Machines) -> None:
    with pytest.raises(ModelNotFoundError) as caught:
        machines.finder("a").get(MODEL, None)
    assert f"machine's registry at {machines.root('a')} nor in" in caught.value.problem
    assert f"pipeline's process at {machines.here}." in caught.value.problem


def test_a_revision_that_nobody_has_is_no_other_one(machines: Machines) -> None:
    machines.put(machines.here, 1)
    machines.put(machines.root("a"), 1)
    with pytest.raises(ModelNotFoundError, match="revision 'v2', is neither"):
        machines.finder("a").get(MODEL, "v2")


def test_a_commit_that_only_a_replica_had_names_that(machines: Machines) -> None:
    commit = machines.put(machines.root("a"), 1)
    machines.finder("a").get(MODEL, None)
    delete_model(MODEL, root=machines.root("a"))
    with pytest.raises(ModelNotFoundError, match=f"at the other replicas' commit {commit}"):
        machines.finder("b").get(MODEL, None)
