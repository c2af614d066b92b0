"""A registry whose folders are mounts of their own."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from mounts import mounted

from sage.common.model_registry import vllm_registry

MODEL = "acme/tiny"


@pytest.fixture(params=["acme", ".staging", ".trash", "acme/tiny"])
def divided(root: Path, request: pytest.FixtureRequest) -> Iterator[Path]:
    """The root, with one of its folders on another file system."""
    folder = root / request.param
    folder.mkdir(parents=True)
    with mounted("-t", "tmpfs", "-o", "size=8m", "tmpfs", folder=folder):
        yield root


def names(root: Path) -> list[str]:
    """All files under the root but the manifest and locks."""
    found = [path.relative_to(root).as_posix() for path in root.rglob("*") if path.is_file()]
    return sorted(name for name in found if ".lock" not in name and name != "metadata.json")


def test_a_model_is_imported_again_verified_and_deleted(divided: Path, source: Path) -> None:
    first = vllm_registry.import_model(MODEL, source, root=divided)
    again = vllm_registry.import_model(MODEL, source, root=divided)  # the first goes to the trash
    assert (again.commit, again.path) == (first.commit, first.path)
    assert vllm_registry.verify_model(MODEL, root=divided).ok
    here = f"{MODEL}/{again.commit}"
    assert names(divided) == sorted(f"{here}/{path.name}" for path in source.iterdir())
    vllm_registry.delete_model(MODEL, root=divided)
    assert vllm_registry.list_models(root=divided) == []
    assert names(divided) == []


def test_what_a_kill_left_on_the_other_disk_is_pruned(divided: Path, source: Path) -> None:
    model = vllm_registry.import_model(MODEL, source, root=divided)
    half = model.path.with_name(f".{model.path.name}")
    half.mkdir()
    (half / "config.json").write_text("{}")
    assert vllm_registry.plan_prune(root=divided).leftovers == (half,)
    assert vllm_registry.list_models(root=divided) == [model]
    vllm_registry.import_model(MODEL, source, root=divided)  # it is in nobody's way
