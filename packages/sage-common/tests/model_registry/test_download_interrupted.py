"""Downloads that are killed, and disks that fill up: then the same command again."""

from __future__ import annotations

import signal
from typing import TYPE_CHECKING, Any

import pytest
from hub_faults import Cut, Fault, Hold
from model_files import safetensors
from outcome import assert_arrived, assert_refused
from registry_process import MODEL, answer_of

from sage.common.model_registry import vllm_registry

if TYPE_CHECKING:
    from pathlib import Path

    from local_hub import LocalHub
    from registry_process import Registry

SHARD = "model-00002-of-00003.safetensors"


class TestKilled:
    """SIGKILL during a sharded download, then the same command again."""

    @pytest.mark.parametrize(
        ("kind", "path", "after"),
        [
            ("info", None, 0),
            ("tree", None, 0),
            ("get", "config.json", 0),
            ("get", "model-00001-of-00003.safetensors", 0),
            ("get", SHARD, 150_000),
            ("get", "tokenizer.json", 1),
        ],
    )
    def test_on_the_way(
        self,
        kind: Any,
        path: str | None,
        after: int,
        commit: str,
        hub: LocalHub,
        registry: Registry,
        root: Path,
    ) -> None:
        hold = Hold(after)
        hub.faults = [Fault(kind, hold, path=path, times=1)]
        process = registry.start("download_model", MODEL, max_workers=1)
        assert hold.held.wait(60)
        process.send_signal(signal.SIGKILL)
        process.communicate()
        assert vllm_registry.list_models(root=root) == []
        staged = root / ".staging" / "owner--name" / commit
        complete = {each.name for each in staged.glob("*") if each.is_file()}
        assert_arrived(registry.download(), commit, root)
        for name, count in hub.fetched().items():
            assert count == (2 if name == path else 1), (name, complete)
        assert not any((root / ".staging").glob("*/*"))

    @pytest.mark.parametrize("at", ["check_inside", "with_names_of", "put_last"])
    def test_while_publishing(
        self, at: str, commit: str, hub: LocalHub, registry: Registry, root: Path
    ) -> None:
        registry.environment["SAGE_TEST_KILL_AT"] = at
        process = registry.start("download_model", MODEL)
        process.communicate(timeout=240)
        assert process.returncode == -signal.SIGKILL
        assert vllm_registry.list_models(root=root) == []
        del registry.environment["SAGE_TEST_KILL_AT"]
        before = hub.fetched()
        assert_arrived(registry.download(), commit, root)
        assert hub.fetched() == before  # all of it was there already

    def test_a_cut_file_goes_on_where_it_stopped_within_one_call(
        self, commit: str, hub: LocalHub, registry: Registry, root: Path
    ) -> None:
        hub.faults = [Fault("get", Cut(200_000), path=SHARD, times=1)]
        chunk = {"huggingface_hub.constants:DOWNLOAD_CHUNK_SIZE": 50_000}
        assert_arrived(registry.download(set=chunk), commit, root)
        ranges = [request.range for request in hub.requests if request.path == SHARD]
        assert ranges == [None, None, "bytes=200000-"]  # HEAD, GET, GET


class TestDisk:
    def test_too_small_is_said_before_anything_is_fetched(
        self, hub: LocalHub, registry: Registry, small_disk: Path
    ) -> None:
        hub.add_model(MODEL, {"config.json": b"{}", "model.safetensors": safetensors(3_000_000)})
        registry.root = small_disk / "root"
        answer = registry.download()
        assert_refused(answer, "InsufficientDiskError", registry.root, hint="sage llm model prune")
        assert "3,000,08" in answer["text"]
        assert hub.fetched() == {}

    def test_filled_in_the_middle(
        self, hub: LocalHub, registry: Registry, small_disk: Path
    ) -> None:
        shards = {f"model-{n}.safetensors": safetensors(500_000, seed=n) for n in range(3)}
        commit = hub.add_model(MODEL, shards)
        registry.root = small_disk / "root"
        hold = Hold(0)
        hub.faults = [Fault("get", hold, path="model-1.safetensors", times=1)]
        process = registry.start("download_model", MODEL, max_workers=1)
        assert hold.held.wait(60)
        ballast = small_disk / "ballast"
        ballast.write_bytes(bytes(1_100_000))
        hold.release.set()
        answer = answer_of(process)
        assert_refused(answer, "InsufficientDiskError", registry.root, hint="SAGE_VLLM_MODEL_ROOT")
        ballast.unlink()
        assert_arrived(registry.download(), commit, registry.root)
        assert hub.fetched()["model-0.safetensors"] == 1

    def test_too_small_for_a_copy(self, source: Path, small_disk: Path) -> None:
        (source / "model.safetensors").write_bytes(bytes(3_000_000))
        with pytest.raises(vllm_registry.InsufficientDiskError, match="more bytes"):
            vllm_registry.import_model(MODEL, source, root=small_disk / "root")
        vllm_registry.import_model(MODEL, source, link=True, root=small_disk / "root")

    def test_full_for_the_manifest(self, source: Path, small_disk: Path) -> None:
        root = small_disk / "root"
        vllm_registry.import_model(MODEL, source, root=root)
        before = (root / "metadata.json").read_bytes()
        ballast = small_disk / "ballast"
        with pytest.raises(OSError, match="No space"):
            ballast.write_bytes(bytes(3_000_000))
        with pytest.raises(vllm_registry.InsufficientDiskError):
            vllm_registry.touch_model(MODEL, root=root)
        assert (root / "metadata.json").read_bytes() == before
