"""Downloads when something goes wrong: after each, the registry is as if it had not been tried."""

from __future__ import annotations

import hashlib
import shutil
import signal
from typing import TYPE_CHECKING, Any

import pytest
from local_hub import Body, Cut, Fault, Hold, Status
from model_files import safetensors
from registry_process import MODEL, answer_of

from sage.common.model_registry import vllm_registry

if TYPE_CHECKING:
    from pathlib import Path

    from local_hub import LocalHub
    from registry_process import Registry

SHARD = "model-00002-of-00003.safetensors"
TOKEN = "hf_averysecrettoken"
HUB_IS_DOWN: dict[str, Any] = {"set": {"sage.common.model_registry.transfer:RETRY_DELAYS": []}}


@pytest.fixture
def commit(hub: LocalHub, files: dict[str, bytes]) -> str:
    return hub.add_model(MODEL, files)


def assert_refused(answer: dict[str, Any], error: str, root: Path, *, hint: str) -> None:
    """It failed with this error, says what to do, and lists and leaks nothing."""
    assert answer.get("error") == error, answer
    assert MODEL in answer["text"]
    assert hint in answer["hint"]
    assert "Traceback" not in answer["stderr"]
    assert TOKEN not in answer["text"] + answer["stderr"]
    assert vllm_registry.list_models(root=root) == []


def assert_arrived(answer: dict[str, Any], commit: str, root: Path) -> None:
    assert answer.get("commit") == commit, answer
    assert vllm_registry.verify_model(MODEL, root=root).ok
    assert [model.commit for model in vllm_registry.list_models(root=root)] == [commit]


AGAIN = "sage llm model download --model owner/name"


class TestRefusals:
    def test_no_such_model(self, registry: Registry, root: Path) -> None:
        assert_refused(registry.download(), "HubModelNotFoundError", root, hint="hf auth login")

    def test_no_such_revision(self, commit: str, registry: Registry, root: Path) -> None:
        answer = registry.download(MODEL, "v9")
        assert_refused(answer, "RevisionNotFoundError", root, hint="branch, tag or commit")
        assert "'v9'" in answer["text"]

    def test_gated(self, commit: str, hub: LocalHub, registry: Registry, root: Path) -> None:
        hub.models[MODEL].gated = True
        answer = registry.download()
        assert_refused(answer, "GatedModelError", root, hint=f"{hub.url}/{MODEL}")

    def test_bad_token(self, commit: str, hub: LocalHub, registry: Registry, root: Path) -> None:
        hub.models[MODEL].token = "another"
        answer = registry.download(token=TOKEN)
        assert_refused(answer, "HubAccessError", root, hint="HF_TOKEN")
        registry.environment["HF_TOKEN"] = TOKEN
        assert_refused(registry.download(), "HubAccessError", root, hint="HF_TOKEN")

    def test_down_from_the_start(self, hub: LocalHub, registry: Registry, root: Path) -> None:
        hub.close()
        answer = registry.download(token=TOKEN)
        assert_refused(answer, "HubUnavailableError", root, hint=AGAIN)
        assert "refused" in answer["text"]

    @pytest.mark.parametrize("kind", ["info", "tree"])
    def test_answers_that_are_not_the_hubs(
        self, kind: Any, commit: str, hub: LocalHub, registry: Registry, root: Path
    ) -> None:
        for body in (b"<html>Log in to this network</html>", b'{"unexpected": 1}', b"[[1]]"):
            hub.faults = [Fault(kind, Body(body))]
            assert_refused(registry.download(), "HubUnavailableError", root, hint=AGAIN)


class TestTrouble:
    """What passes is survived; what stays is reported, and a later attempt goes on from there."""

    PASSING: tuple[Any, ...] = (
        pytest.param("info", Status(503), id="503-info"),
        pytest.param("info", Status(429, {"Retry-After": "0"}), id="429-info"),
        pytest.param("tree", Status(503), id="503-tree"),
        pytest.param("head", Status(503), id="503-head"),
        pytest.param("get", Status(503), id="503-get"),
        pytest.param("get", Status(429, {"Retry-After": "0"}), id="429-get"),
        pytest.param("get", Cut(100_000), id="cut"),
        pytest.param("get", Cut(100_000, reset=True), id="reset"),
        pytest.param("get", Hold(100_000), id="stall"),
    )

    @pytest.mark.parametrize(("kind", "action"), PASSING)
    def test_once(
        self,
        kind: Any,
        action: Any,
        commit: str,
        hub: LocalHub,
        registry: Registry,
        root: Path,
    ) -> None:
        path = SHARD if kind in ("head", "get") else None
        hub.faults = [Fault(kind, action, path=path, times=1)]
        assert_arrived(registry.download(), commit, root)
        assert hub.fetched()["config.json"] == 1

    STAYING: tuple[Any, ...] = (
        pytest.param("info", Status(503), "503", id="503-info"),
        pytest.param("head", Status(404), "404", id="404-head"),
        pytest.param("get", Status(503), "503", id="503-get"),
        pytest.param("get", Status(429, {"Retry-After": "0"}), "429", id="429-get"),
        pytest.param("get", Cut(100_000), "RemoteProtocolError", id="cut"),
        pytest.param("get", Cut(100_000, reset=True), "ReadError", id="reset"),
    )

    @pytest.mark.parametrize(("kind", "action", "reason"), STAYING)
    def test_forever(
        self,
        kind: Any,
        action: Any,
        reason: str,
        commit: str,
        hub: LocalHub,
        registry: Registry,
        root: Path,
    ) -> None:
        path = SHARD if kind in ("head", "get") else None
        hub.faults = [Fault(kind, action, path=path)]
        answer = registry.download(**HUB_IS_DOWN)
        assert_refused(answer, "HubUnavailableError", root, hint=AGAIN)
        assert reason in answer["text"]
        hub.faults = []
        before = hub.fetched()
        assert_arrived(registry.download(), commit, root)
        if path:
            assert hub.fetched()[SHARD] == before[SHARD] + 1
            assert hub.fetched()["config.json"] == 1

    def test_silence_ends(self, commit: str, hub: LocalHub, registry: Registry, root: Path) -> None:
        hub.faults = [Fault("tree", Hold(0))]
        limit = {"sage.common.model_registry.hub:SILENCE_LIMIT": 1.0}
        answer = registry.download(set=limit)
        assert_refused(answer, "HubUnavailableError", root, hint=AGAIN)
        assert "nothing was heard for 1 s" in answer["text"]

    def test_the_hub_goes_down_in_the_middle(
        self, commit: str, hub: LocalHub, registry: Registry, root: Path
    ) -> None:
        hold = Hold(1)
        hub.faults = [Fault("get", hold, path="tokenizer.json")]
        process = registry.start("download_model", MODEL, max_workers=1, **HUB_IS_DOWN)
        assert hold.held.wait(60)
        hub.close()
        assert_refused(answer_of(process), "HubUnavailableError", root, hint=AGAIN)


class TestWrongBytes:
    @pytest.mark.parametrize("wrong", ["bytes", "longer", "shorter"])
    def test_are_never_listed_and_only_they_are_fetched_again(
        self,
        wrong: str,
        commit: str,
        hub: LocalHub,
        registry: Registry,
        root: Path,
        files: dict[str, bytes],
    ) -> None:
        good = files[SHARD]
        body = {"bytes": good[:-1] + b"?", "longer": good + b"?", "shorter": good[:-1]}[wrong]
        hub.faults = [Fault(kind, Body(body), path=SHARD) for kind in ("head", "get")]
        answer = registry.download()
        assert_refused(answer, "IntegrityError", root, hint=AGAIN)
        assert SHARD in answer["text"]
        hub.faults = []
        before = hub.fetched()
        assert_arrived(registry.download(), commit, root)
        assert hub.fetched() - before == {SHARD: 1}

    def test_a_length_that_differs_from_the_announced_one(
        self, commit: str, hub: LocalHub, registry: Registry, root: Path
    ) -> None:
        hub.faults = [Fault("get", Body(b"short"), path=SHARD)]
        answer = registry.download(**HUB_IS_DOWN)
        assert_refused(answer, "HubUnavailableError", root, hint=AGAIN)
        assert "Consistency check failed" in answer["text"]


class TestHostileListings:
    @pytest.mark.parametrize(
        "path",
        ["../../outside", "/tmp/outside", "a/../../b", "a\\..\\b", "C:/x", "\x1b]0;x\x07", ""],
    )
    def test_paths_that_climb_out_are_refused_before_anything_is_written(
        self, path: str, commit: str, hub: LocalHub, registry: Registry, root: Path, tmp_path: Path
    ) -> None:
        entry = {"type": "file", "path": path, "size": 1, "oid": hashlib.sha1(b"").hexdigest()}
        hub.models[MODEL].extra_tree_entries = [entry]
        before = _everything(tmp_path)
        answer = registry.download()
        assert answer["error"] == "InvalidModelIdError", answer
        assert "\x1b" not in answer["text"]
        assert hub.fetched() == {}
        assert _everything(tmp_path) - before <= {tmp_path / "hf-home"}

    def test_a_link_planted_in_staging_is_not_written_through(
        self, commit: str, hub: LocalHub, registry: Registry, root: Path, tmp_path: Path
    ) -> None:
        outside = tmp_path / "outside"
        outside.mkdir()
        staged = root / ".staging" / "owner--name" / commit
        staged.mkdir(parents=True)
        (staged / SHARD).symlink_to(outside / SHARD)
        (staged / ".cache").symlink_to(outside)
        assert_arrived(registry.download(), commit, root)
        assert _everything(outside) == set()

    @pytest.mark.parametrize("folder", [".staging", ".trash"])
    def test_a_link_in_place_of_a_folder_of_ours_is_not_followed(
        self,
        folder: str,
        commit: str,
        registry: Registry,
        source: Path,
        root: Path,
        tmp_path: Path,
    ) -> None:
        vllm_registry.import_model("owner/other", source, root=root)
        outside = tmp_path / "outside"
        outside.mkdir()
        shutil.rmtree(root / folder, ignore_errors=True)
        (root / folder).symlink_to(outside)
        if folder == ".staging":
            answer = registry.download()
        else:
            answer = registry.call("delete_model", "owner/other")
        assert answer["error"] == "RegistryNotWritableError"
        assert "out of it" in answer["text"]
        assert _everything(outside) == set()


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
        process.communicate(timeout=60)
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


def test_a_read_only_root(commit: str, registry: Registry, read_only: Path, hub: LocalHub) -> None:
    answer = registry.download()
    assert answer["error"] == "RegistryNotWritableError"
    assert str(read_only) in answer["text"]
    assert "SAGE_VLLM_MODEL_ROOT" in answer["hint"]
    assert hub.fetched() == {}


def test_a_corrupt_manifest_is_found_before_the_hub_is_asked(
    commit: str, registry: Registry, root: Path, hub: LocalHub
) -> None:
    root.mkdir()
    (root / "metadata.json").write_text("{")
    assert registry.download()["error"] == "ManifestCorruptError"
    assert hub.requests == []


def _everything(folder: Path) -> set[Path]:
    return set(folder.rglob("*"))
