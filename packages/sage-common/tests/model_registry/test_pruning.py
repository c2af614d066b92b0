"""Clean-up of what nobody needs."""

from __future__ import annotations

import json
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING

import pytest
from hub_faults import Fault, Status
from registry_process import MODEL

from sage.common.model_registry import vllm_registry

if TYPE_CHECKING:
    from pathlib import Path

    from local_hub import LocalHub
    from registry_process import Registry


@pytest.fixture
def model(source: Path, root: Path) -> vllm_registry.ModelInfo:
    return vllm_registry.import_model(MODEL, source, root=root)


def test_a_clean_registry_has_nothing_to_prune(model: vllm_registry.ModelInfo, root: Path) -> None:
    plan = vllm_registry.plan_prune(root=root)
    assert (plan.models, plan.leftovers, plan.freed_bytes) == ((), (), 0)


def test_an_interrupted_download(
    hub: LocalHub, registry: Registry, root: Path, files: dict[str, bytes]
) -> None:
    commit = hub.add_model(MODEL, files)
    hub.faults = [Fault("get", Status(404), path="tokenizer.json")]
    assert registry.download()["error"] == "HubUnavailableError"
    plan = vllm_registry.plan_prune(root=root)
    assert plan.leftovers == (root / ".staging" / "owner--name" / commit,)
    assert plan.freed_bytes > 900_000
    assert vllm_registry.plan_deletion(MODEL, root=root).leftovers == plan.leftovers
    plan.execute()
    assert vllm_registry.plan_prune(root=root).leftovers == ()
    with pytest.raises(vllm_registry.ModelNotFoundError):
        vllm_registry.plan_deletion(MODEL, root=root)


def test_folders_that_no_record_names(
    model: vllm_registry.ModelInfo, root: Path, source: Path
) -> None:
    # A repository may hold a folder that is named like a commit: it is part of its model.
    (source / ("a" * 40)).mkdir()
    (source / ("a" * 40) / "file").write_text("kept")
    vllm_registry.import_model("single", source, root=root)
    unlisted = root / "owner" / "name" / ("b" * 40)
    trash = root / ".trash" / "half-deleted"
    for folder in (unlisted, trash):
        folder.mkdir(parents=True)
        (folder / "file").write_bytes(bytes(1000))
    plan = vllm_registry.plan_prune(root=root)
    assert set(plan.leftovers) == {unlisted, trash}
    assert plan.freed_bytes == 2000
    plan.execute()
    assert not unlisted.exists()
    assert not trash.exists()
    assert [each.model_id for each in vllm_registry.list_models(root=root)] == [MODEL, "single"]
    assert vllm_registry.verify_model("single", root=root).ok


def test_records_whose_folder_is_gone(
    model: vllm_registry.ModelInfo, root: Path, tmp_path: Path
) -> None:
    model.path.rename(tmp_path / "elsewhere")
    plan = vllm_registry.plan_prune(root=root)
    assert plan.models == (model,)
    plan.execute()
    assert json.loads((root / "metadata.json").read_text())["models"] == []


def test_models_not_used_for_long(model: vllm_registry.ModelInfo, root: Path, source: Path) -> None:
    vllm_registry.import_model("owner/recent", source, root=root)
    raw = json.loads((root / "metadata.json").read_text())
    raw["models"][0]["last_used"] = (datetime.now(tz=UTC) - timedelta(days=40)).isoformat()
    (root / "metadata.json").write_text(json.dumps(raw))
    assert vllm_registry.plan_prune(root=root).models == ()
    assert vllm_registry.plan_prune(unused_days=60, root=root).models == ()
    plan = vllm_registry.plan_prune(unused_days=30, root=root)
    assert [each.model_id for each in plan.models] == [MODEL]
    plan.execute()
    assert [each.model_id for each in vllm_registry.list_models(root=root)] == ["owner/recent"]


def test_a_negative_age_is_refused(root: Path) -> None:
    with pytest.raises(ValueError, match="-1"):
        vllm_registry.plan_prune(unused_days=-1, root=root)
