"""Downloads when something goes wrong: after each, the registry is as if it had not been tried."""

from __future__ import annotations

import hashlib
import shutil
from typing import TYPE_CHECKING, Any

import pytest
from hub_faults import Body, Cut, Fault, Hold, Status
from outcome import AGAIN, HUB_IS_DOWN, TOKEN, assert_arrived, assert_refused
from registry_process import MODEL, answer_of

from sage.common.model_registry import vllm_registry

if TYPE_CHECKING:
    from pathlib import Path

    from local_hub import LocalHub
    from registry_process import Registry

SHARD = "model-00002-of-00003.safetensors"


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
        assert "kept" not in answer["text"]  # nothing was fetched

    def test_a_misspelt_id_is_answered_with_what_is_there(
        self, commit: str, hub: LocalHub, registry: Registry
    ) -> None:
        assert registry.download()["commit"] == commit
        for error, problem in (
            ("HubModelNotFoundError", "is not on the hub, or it is private."),
            ("HubUnavailableError", "did not deliver"),
        ):
            answer = registry.download("owner/nmae")
            assert answer["error"] == error
            assert problem in answer["text"]
            assert f"Did you mean {MODEL}, which the registry has?" in answer["text"]
            hub.close()
        assert "did you mean" not in registry.download()["text"].lower()  # itself, of course

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
        if isinstance(action, Hold):
            registry.environment["HF_HUB_DOWNLOAD_TIMEOUT"] = "5"
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
        limit = {"sage.common.model_registry.hub.client:SILENCE_LIMIT": 1.0}
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
