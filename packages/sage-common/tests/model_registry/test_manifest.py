"""The manifest under attack: killed writers, strange contents, a root that cannot be written."""

from __future__ import annotations

import errno
import json
import subprocess
import sys
from typing import TYPE_CHECKING, Any

import pytest

from sage.common.model_registry import vllm_registry as registry

if TYPE_CHECKING:
    from pathlib import Path

KILLED_AT_EVERY_LINE = """
import os, signal, sys
from pathlib import Path

from sage.common.core import durable_files
from sage.common.model_registry import manifest, vllm_registry
import filelock  # imported before counting lines

WRITERS = ("write_manifest", "locked_manifest", "editing_manifest", "write_whole", "sync_path")
FILES = (manifest.__file__, durable_files.__file__)
root, source = Path(sys.argv[1]), Path(sys.argv[2])
vllm_registry.import_model("owner/first", source, root=root)
before = (root / "metadata.json").read_bytes()
kills = 0
for step in range(1, 10_000):
    pid = os.fork()
    if pid == 0:
        seen = 0

        def trace(frame, event, _):
            global seen
            if frame.f_code.co_filename not in FILES:
                return None
            if event == "line" and frame.f_code.co_name in WRITERS:
                seen += 1
                if seen == step:
                    os.kill(os.getpid(), signal.SIGKILL)
            return trace

        sys.settrace(trace)
        vllm_registry.touch_model("owner/first", root=root)
        os._exit(0)
    _, status = os.waitpid(pid, 0)
    models = vllm_registry.list_models(root=root)  # raises if it is unreadable
    assert [model.model_id for model in models] == ["owner/first"], (step, models)
    if not os.WIFSIGNALED(status):
        break
    kills += 1
assert (root / "metadata.json").read_bytes() != before
print(kills)
"""


def test_killed_at_every_step_of_a_write_it_is_whole(source: Path, root: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-c", KILLED_AT_EVERY_LINE, str(root), str(source)],
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert done.returncode == 0, done.stderr
    assert int(done.stdout) > 15
    assert {path.name for path in root.glob("*.json*")} == {"metadata.json", "metadata.json.lock"}


@pytest.fixture
def manifest(source: Path, root: Path) -> Path:
    registry.import_model("owner/name", source, root=root)
    return root / "metadata.json"


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"not json",
        b'{"version": 1, "models": [',
        b"[]",
        b"null",
        b'{"models": []}',
        b'{"version": "one", "models": []}',
        b'{"version": 1, "models": [{}]}',
        b'{"version": 1, "models": 7}',
        b"\xff\xfe",
        b"[" * 100_000,
    ],
)
def test_one_that_does_not_parse_is_an_error_never_an_empty_registry(
    content: bytes, manifest: Path, source: Path, root: Path
) -> None:
    manifest.write_bytes(content)
    for use in (
        lambda: registry.list_models(root=root),
        lambda: registry.get_model_path("owner/name", root=root),
        lambda: registry.touch_model("owner/name", root=root),
        lambda: registry.delete_model("owner/name", root=root),
        lambda: registry.import_model("owner/other", source, root=root),
        lambda: registry.plan_prune(root=root),
    ):
        with pytest.raises(registry.ManifestCorruptError) as caught:
            use()
        assert str(manifest) in str(caught.value)
        assert "sage llm model download" in caught.value.hint
    assert manifest.read_bytes() == content


def test_a_folder_in_its_place_is_an_error_with_the_way_out(manifest: Path, root: Path) -> None:
    manifest.unlink()
    manifest.mkdir()
    for use in (registry.list_models, registry.plan_prune):
        with pytest.raises(registry.ManifestCorruptError, match="it is a folder") as caught:
            use(root=root)
        assert f"mv '{manifest}'" in caught.value.hint


def test_a_model_that_is_listed_twice_is_an_error_with_the_way_out(
    manifest: Path, root: Path
) -> None:
    raw = json.loads(manifest.read_text())
    raw["models"] *= 2
    manifest.write_text(json.dumps(raw))
    for use in (registry.list_models, registry.plan_prune):
        with pytest.raises(
            registry.ManifestCorruptError, match=r"it lists owner/name/[0-9a-f]{40} twice"
        ) as caught:
            use(root=root)
        assert f"mv '{manifest}'" in caught.value.hint


def test_one_of_a_newer_version_asks_for_an_upgrade(manifest: Path, root: Path) -> None:
    manifest.write_text('{"version": 2, "models": [], "new": true}')
    with pytest.raises(registry.ManifestVersionError, match="pip install --upgrade"):
        registry.list_models(root=root)


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("path", "/etc"),
        ("path", "../../outside"),
        ("path", "owner/other/" + "0" * 40),
        ("model_id", "../outside"),
        ("commit", "../../outside"),
        ("commit", "main"),
        ("revision", "../x"),
        ("files", {"../../outside": {"size": 1, "sha256": "0"}}),
        ("files", {"/etc/passwd": {"size": 1, "sha256": "0"}}),
        ("files", {"a\x1b[2J": {"size": 1, "sha256": "0"}}),
        ("files", {"config.json": {"size": "1", "sha256": "0"}}),
        ("size_bytes", "many"),
        ("last_used", "yesterday"),
        ("last_used", "2026-01-31T12:00:00"),
        ("tags", []),
    ],
)
def test_tampered_entries_are_refused_and_nothing_outside_is_touched(
    key: str, value: Any, manifest: Path, root: Path, tmp_path: Path
) -> None:
    outside = tmp_path / "outside"
    outside.mkdir()
    (outside / "precious").write_text("kept")
    raw = json.loads(manifest.read_text())
    raw["models"][0][key] = value
    manifest.write_text(json.dumps(raw))
    for use in (registry.delete_model, registry.get_model_path, registry.verify_model):
        with pytest.raises(registry.ManifestCorruptError):
            use("owner/name", root=root)
    assert (outside / "precious").read_text() == "kept"


def test_moved_aside_its_models_can_be_taken_up_again(
    manifest: Path, source: Path, root: Path
) -> None:
    folder = registry.get_model_path("owner/name", root=root)
    manifest.rename(manifest.with_suffix(".bad"))
    assert registry.plan_prune(root=root).leftovers == ()
    assert registry.import_model("owner/name", source, root=root).path == folder


def test_a_root_can_be_moved(manifest: Path, root: Path, tmp_path: Path) -> None:
    moved = root.rename(tmp_path / "moved")
    assert registry.get_model_path("owner/name", root=moved).is_relative_to(moved)
    assert registry.verify_model("owner/name", root=moved).ok


def test_a_read_only_root_can_be_read(manifest: Path, source: Path, read_only: Path) -> None:
    assert registry.get_model_path("owner/name", root=read_only).is_dir()
    assert registry.verify_model("owner/name", root=read_only).ok
    for use in (
        lambda: registry.touch_model("owner/name", root=read_only),
        lambda: registry.delete_model("owner/name", root=read_only),
        lambda: registry.import_model("owner/other", source, root=read_only),
        lambda: registry.plan_prune(root=read_only).execute(),
    ):
        with pytest.raises(registry.RegistryNotWritableError) as caught:
            use()
        assert str(read_only) in str(caught.value)
        assert "SAGE_VLLM_MODEL_ROOT" in caught.value.hint
        assert isinstance(caught.value.__cause__, OSError)
        assert caught.value.__cause__.errno in (errno.EROFS, errno.EACCES)
