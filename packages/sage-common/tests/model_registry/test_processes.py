"""Several processes at one registry at once."""

from __future__ import annotations

from typing import TYPE_CHECKING

from hub_faults import Fault, Hold
from registry_process import MODEL, answer_of

from sage.common.model_registry import vllm_registry

if TYPE_CHECKING:
    from pathlib import Path

    from local_hub import LocalHub
    from registry_process import Registry


def test_eight_download_four_models(
    hub: LocalHub, registry: Registry, root: Path, files: dict[str, bytes]
) -> None:
    ids = [f"owner/name-{n}" for n in range(4)]
    for model_id in ids:
        hub.add_model(model_id, files)
    processes = [registry.start("download_model", model_id) for model_id in ids * 2]
    for process in processes:
        assert "result" in answer_of(process)
    assert [model.model_id for model in vllm_registry.list_models(root=root)] == ids
    assert all(vllm_registry.verify_model(model_id, root=root).ok for model_id in ids)
    assert hub.fetched() == dict.fromkeys(files, 4)  # the second of each waited and saw the first


def test_a_waiting_process_says_so(
    hub: LocalHub, registry: Registry, root: Path, files: dict[str, bytes]
) -> None:
    hub.add_model(MODEL, files)
    hold = Hold(1)
    hub.faults = [Fault("get", hold, path="tokenizer.json", times=1)]
    first = registry.start("download_model", MODEL)
    assert hold.held.wait(60)
    second = registry.start("download_model", MODEL)
    line = ""
    while "waiting for it" not in line:
        line = second.stderr.readline()
        assert line, "it ended without waiting"
    hold.release.set()
    assert answer_of(first)["commit"] == answer_of(second)["commit"]
    assert hub.fetched() == dict.fromkeys(files, 1)


def test_delete_during_a_download_leaves_the_download_alone(
    hub: LocalHub, registry: Registry, root: Path, files: dict[str, bytes]
) -> None:
    old = hub.add_model(MODEL, files)
    registry.download()
    hub.add_model(MODEL, {**files, "config.json": b'{"n": 2}'})
    hold = Hold(1)
    hub.faults = [Fault("get", hold, path="config.json", times=1)]
    process = registry.start("download_model", MODEL)
    assert hold.held.wait(60)
    plan = vllm_registry.delete_model(MODEL, root=root)
    assert [model.commit for model in plan.models] == [old]
    assert plan.leftovers == ()
    assert vllm_registry.plan_prune(root=root).leftovers == ()  # it is being worked on
    hold.release.set()
    answer = answer_of(process)
    (model,) = vllm_registry.list_models(root=root)
    assert model.commit == answer["commit"] != old
    assert vllm_registry.verify_model(MODEL, root=root).ok


def test_of_two_that_delete_the_same_one_does(source: Path, registry: Registry, root: Path) -> None:
    vllm_registry.import_model(MODEL, source, root=root)
    processes = [registry.start("delete_model", MODEL) for _ in range(2)]
    answers = [answer_of(process) for process in processes]
    assert sorted("result" in answer for answer in answers) == [False, True]
    (loser,) = (answer for answer in answers if "error" in answer)
    assert loser["error"] == "ModelNotFoundError"
    assert vllm_registry.list_models(root=root) == []


def test_a_plan_made_before_another_deleted_it_removes_nothing(source: Path, root: Path) -> None:
    vllm_registry.import_model(MODEL, source, root=root)
    plan = vllm_registry.plan_deletion(MODEL, root=root)
    vllm_registry.delete_model(MODEL, root=root)
    assert plan.execute() == ()
