"""Registries of isage 0.1 and 0.2: recognised, and taken over without losing anything."""

from __future__ import annotations

import json
import subprocess
import sys
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from sage.common.model_registry import vllm_registry as registry

if TYPE_CHECKING:
    from local_hub import LocalHub

LAST_USED = datetime(2025, 3, 4, 5, 6, 7, tzinfo=UTC)
KILLED_AT_EVERY_LINE = """
import os, shutil, signal, sys
from pathlib import Path

from sage.common.model_registry import manifest, vllm_registry
from sage.common.model_registry.maintenance import migration
import concurrent.futures.thread, filelock  # imported before counting lines

FILES = (manifest.__file__, migration.__file__)
before, root = Path(sys.argv[1]), Path(sys.argv[2])
kills = 0
for step in range(1, 10_000):
    shutil.rmtree(root, ignore_errors=True)
    shutil.copytree(before, root)
    pid = os.fork()
    if pid == 0:
        seen = 0

        def trace(frame, event, _):
            global seen
            if frame.f_code.co_filename not in FILES:
                return None
            if event == "line":
                seen += 1
                if seen == step:
                    os.kill(os.getpid(), signal.SIGKILL)
            return trace

        sys.settrace(trace)
        vllm_registry.migrate_registry(root=root)
        os._exit(0)
    _, status = os.waitpid(pid, 0)
    vllm_registry.migrate_registry(root=root)
    models = vllm_registry.list_models(root=root)
    assert [model.model_id for model in models] == ["owner/one", "two"], (step, models)
    assert all(vllm_registry.verify_model(each.model_id, root=root).ok for each in models), step
    assert (root / "metadata.json.isage").read_bytes() == (before / "metadata.json").read_bytes()
    if not os.WIFSIGNALED(status):
        break
    kills += 1
print(kills)
"""


def entry(folder: Path, files: dict[str, bytes], **facts: Any) -> dict[str, Any]:
    """Write a model as isage did; returns its entry."""
    folder.mkdir(parents=True)
    for name, content in files.items():
        (folder / name).write_bytes(content)
    return {
        "path": str(folder),
        "revision": None,
        "size_bytes": 1,
        "last_used": LAST_USED.timestamp(),
        "tags": [],
        **facts,
    }


def write(root: Path, manifest: Any) -> bytes:
    (root / "metadata.json").write_text(json.dumps(manifest, indent=2))
    return (root / "metadata.json").read_bytes()


def test_it_is_recognised_and_every_function_names_the_way_out(
    root: Path, files: dict[str, bytes], source: Path
) -> None:
    one = entry(root / "owner__name", files)
    for manifest, count in (
        ({"owner/name": one}, "1 model,"),
        ([{"model_id": "owner/name", **one}], "1 model,"),
        ({}, "0 models"),
    ):
        before = write(root, manifest)
        for call in (
            lambda: registry.list_models(root=root),
            lambda: registry.get_model("owner/name", root=root),
            lambda: registry.import_model("owner/other", source, root=root),
            lambda: registry.delete_model("owner/name", root=root),
        ):
            with pytest.raises(registry.EarlierManifestError) as raised:
                call()
            assert count.rstrip(",") in str(raised.value)
            assert "`sage llm model migrate`" in str(raised.value)
        assert (root / "metadata.json").read_bytes() == before
    for broken in ({"models": []}, {"owner/name": 3}, [1], {"owner/name": {"revision": "main"}}):
        write(root, broken)
        with pytest.raises(registry.ManifestCorruptError) as other:
            registry.list_models(root=root)
        assert not isinstance(other.value, registry.EarlierManifestError)
        assert registry.migrate_registry(root=root).backup is None


def test_models_are_taken_over_as_they_lie_there(root: Path, files: dict[str, bytes]) -> None:
    tagged = entry(root / "owner__name__v1", files, revision="v1", tags=["mine"])
    used_before = LAST_USED.timestamp() - 60
    plain = entry(root / "plain", files, last_used=used_before, tags={"team": "search"})
    before = write(root, {"owner/name": tagged, "plain": plain})
    numbers = {path.stat().st_ino for path in root.glob("*/*.safetensors")}

    done = registry.migrate_registry(root=root)

    assert [model.model_id for model in done.models] == ["plain", "owner/name"]
    assert done.left == {}
    assert done.backup is not None
    assert done.backup.read_bytes() == before
    name = registry.get_model("owner/name", "v1", root=root)
    assert (name.last_used, name.source) == (LAST_USED, "import")
    assert (name.tags["mine"], name.tags["type"]) == ("yes", "text")
    plain_model = registry.get_model("plain", root=root)
    assert plain_model.revision == "main"
    assert plain_model.tags["team"] == "search"
    for model in (name, plain_model):
        assert registry.verify_model(model.model_id, root=root).ok
        assert {path.name for path in model.path.iterdir()} == set(files)
    assert {path.stat().st_ino for path in root.rglob("*.safetensors")} == numbers  # no copies
    assert {path.name for path in root.iterdir() if not path.name.startswith(".")} == {
        *("metadata.json", "metadata.json.lock", "metadata.json.isage", "owner", "plain"),
    }
    assert {path.name for path in (root / "plain").iterdir()} == {plain_model.commit}
    assert registry.migrate_registry(root=root).backup is None  # once is enough


def test_what_is_not_whole_is_named_and_left(
    root: Path, files: dict[str, bytes], tmp_path: Path
) -> None:
    pointer = b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 3\n"
    manifest = {
        "owner/good": entry(root / "owner__good", files),
        "owner/lfs": entry(root / "owner__lfs", {**files, "model.safetensors": pointer}),
        "owner/bare": entry(root / "owner__bare", {"config.json": files["config.json"]}),
        "owner/gone": {**entry(tmp_path / "x", files), "path": str(root / "owner__gone")},
        "../climbs": entry(tmp_path / "climbs", files),
    }
    write(root, manifest)
    done = registry.migrate_registry(root=root)
    assert [model.model_id for model in done.models] == ["owner/good"]
    assert set(done.left) == set(manifest) - {"owner/good"}
    assert "Git LFS" in done.left["owner/lfs"]
    assert "model.safetensors" in done.left["owner/bare"]
    assert "not a folder" in done.left["owner/gone"]
    assert (root / "owner__lfs" / "model.safetensors").read_bytes() == pointer
    assert (root / "owner__bare" / "config.json").is_file()
    assert (tmp_path / "climbs" / "config.json").is_file()


def test_a_folder_elsewhere_stays_and_a_moved_registry_is_found(
    root: Path, files: dict[str, bytes], tmp_path: Path
) -> None:
    outside = entry(tmp_path / "outside", files)
    moved = {**entry(root / "owner__moved", files), "path": "/nowhere/models/owner__moved"}
    write(root, {"owner/outside": outside, "owner/moved": moved})
    done = registry.migrate_registry(root=root)
    assert {model.model_id for model in done.models} == {"owner/outside", "owner/moved"}
    assert {path.name for path in (tmp_path / "outside").iterdir()} == set(files)
    registry.delete_model("owner/outside", root=root)
    assert {path.name for path in (tmp_path / "outside").iterdir()} == set(files)


def test_what_the_hubs_client_noted_keeps_its_commit_and_is_checked(
    hub: LocalHub, root: Path, files: dict[str, bytes], tmp_path: Path
) -> None:
    commit = hub.add_model("owner/name", files)
    manifest = {}
    for name in ("whole", "damaged"):
        folder = root / f"owner__{name}__main"
        code = (
            "import sys; from huggingface_hub import snapshot_download; "
            "snapshot_download('owner/name', local_dir=sys.argv[1])"
        )
        subprocess.run(
            [sys.executable, "-c", code, str(folder)],
            env=hub.environment(tmp_path / "hf-home"),
            check=True,
            capture_output=True,
        )
        manifest[f"owner/{name}"] = {"path": str(folder), "revision": "main"}
    shard = root / "owner__damaged__main" / "model-00002-of-00003.safetensors"
    content = bytearray(shard.read_bytes())
    content[-1] ^= 1
    shard.write_bytes(content)
    write(root, manifest)

    done = registry.migrate_registry(root=root)

    (model,) = done.models
    assert (model.model_id, model.commit, model.source) == ("owner/whole", commit, "hub")
    assert shard.name in done.left["owner/damaged"]
    assert shard.read_bytes() == content


def test_killed_at_every_step_it_can_be_started_again(
    files: dict[str, bytes], tmp_path: Path
) -> None:
    before, root = tmp_path / "before", tmp_path / "root"
    manifest = {
        name: {**entry(before / name.replace("/", "__"), files), "path": f"/x/{folder}"}
        for name, folder in (("owner/one", "owner__one"), ("two", "two"))
    }
    write(before, manifest)
    done = subprocess.run(
        [sys.executable, "-c", KILLED_AT_EVERY_LINE, str(before), str(root)],
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert int(done.stdout) > 100
