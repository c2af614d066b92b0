"""Downloads from a hub that behaves: the real client, in processes of its own."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

import pytest
from model_files import safetensors
from registry_process import MODEL

from sage.common.model_registry import vllm_registry

if TYPE_CHECKING:
    from pathlib import Path

    from local_hub import LocalHub
    from registry_process import Registry


def only(root: Path) -> vllm_registry.ModelInfo:
    (model,) = vllm_registry.list_models(root=root)
    return model


def test_it_is_complete_verified_and_recorded(
    hub: LocalHub, registry: Registry, root: Path, files: dict[str, bytes], tmp_path: Path
) -> None:
    files["sub/folder/more [1]*.json"] = b"{}"
    commit = hub.add_model(MODEL, files)
    assert registry.download(tags={"team": "search"})["commit"] == commit
    model = only(root)
    assert (model.revision, model.commit, model.source) == ("main", commit, "hub")
    assert {name: (model.path / name).read_bytes() for name in model.files} == files
    assert model.tags["parameters"] == 450_000
    assert model.tags["team"] == "search"
    assert model.files["config.json"].algorithm == "git_sha1"
    assert model.files["model-00001-of-00003.safetensors"].algorithm == "sha256"
    assert vllm_registry.verify_model(MODEL, root=root).ok
    # Nothing of the client's is left in the model, and nothing outside the root was written.
    assert not (model.path / ".cache").exists()
    assert not any((root / ".staging").glob("*/*"))
    assert not (tmp_path / "hf-home" / "hub").exists()


def test_again_fetches_nothing(hub: LocalHub, registry: Registry, files: dict[str, bytes]) -> None:
    hub.add_model(MODEL, files)
    registry.download()
    before = hub.fetched()
    registry.download()
    assert hub.fetched() == before
    registry.download(force=True)
    assert hub.fetched() == before + before


def test_a_file_removed_by_hand_is_fetched_again(
    hub: LocalHub, registry: Registry, root: Path, files: dict[str, bytes]
) -> None:
    hub.add_model(MODEL, files)
    registry.download()
    (only(root).path / "tokenizer.json").unlink()
    registry.download()
    assert hub.fetched()["tokenizer.json"] == 2
    assert hub.fetched()["config.json"] == 1
    assert vllm_registry.verify_model(MODEL, root=root).ok


def test_two_revisions_coexist_and_share_what_did_not_change(
    hub: LocalHub, registry: Registry, root: Path, files: dict[str, bytes]
) -> None:
    hub.add_model(MODEL, files)
    newer = {**files, "config.json": b'{"n": 2}'}
    hub.add_model(MODEL, newer, revision="v2")
    registry.download()
    registry.download(MODEL, "v2")
    first, second = (
        vllm_registry.get_model_path(MODEL, name, root=root) for name in ("main", "v2")
    )
    assert vllm_registry.get_model_path(MODEL, root=root) == second
    assert (first / "config.json").read_bytes() != (second / "config.json").read_bytes()
    shard = "model-00001-of-00003.safetensors"
    assert (first / shard).samefile(second / shard)
    assert hub.fetched()[shard] == 1
    plan = vllm_registry.plan_deletion(MODEL, "main", root=root)
    assert plan.freed_bytes == len(files["config.json"])  # the rest lives on in v2
    registry.download(MODEL, "main")
    assert vllm_registry.get_model_path(MODEL, root=root) == first


def test_a_name_and_its_commit_are_one_model(
    hub: LocalHub, registry: Registry, root: Path, files: dict[str, bytes]
) -> None:
    commit = hub.add_model(MODEL, files)
    hub.add_model(MODEL, files, revision="v1")
    for revision in ("main", "v1", commit):
        registry.download(MODEL, revision)
    model = only(root)
    assert set(model.names) == {"main", "v1", commit}
    for revision in model.names:
        assert vllm_registry.get_model_path(MODEL, revision, root=root) == model.path


def test_safetensors_are_preferred(
    hub: LocalHub, registry: Registry, root: Path, files: dict[str, bytes]
) -> None:
    others = ("pytorch_model.bin", "tf_model.h5", "onnx/model.onnx", "consolidated.safetensors")
    hub.add_model(MODEL, files | dict.fromkeys(others, b"the same again"))
    registry.download()
    assert set(only(root).files) == set(files)


def test_pickled_weights_need_a_word(hub: LocalHub, registry: Registry, root: Path) -> None:
    hub.add_model(MODEL, {"config.json": b"{}", "pytorch_model.bin": b"pickle"})
    answer = registry.download()
    assert answer["error"] == "PickledWeightsError"
    assert "pytorch_model.bin" in answer["text"]
    assert "--allow-pickle" in answer["hint"]
    assert hub.fetched() == {}
    registry.download(allow_pickle=True)
    assert "pytorch_model.bin" in only(root).files


def test_pickled_left_overs_beside_good_weights_are_left_out(
    hub: LocalHub, registry: Registry, root: Path
) -> None:
    good = {"model.safetensors": safetensors(8), ".cache/notes": b"the repository's own"}
    hub.add_model(MODEL, {**good, "training_args.bin": b"pickle"})
    registry.download()
    model = only(root)
    assert set(model.files) == set(good)
    assert vllm_registry.verify_model(MODEL, root=root).ok


def test_patterns_choose_files_and_later_calls_add_to_them(
    hub: LocalHub, registry: Registry, root: Path, files: dict[str, bytes]
) -> None:
    hub.add_model(MODEL, files)
    registry.download(allow_patterns="*.json", ignore_patterns=["tok*"])
    assert set(only(root).files) == {"config.json"}
    assert "parameters" not in only(root).tags
    registry.download()
    assert set(only(root).files) == set(files)
    assert only(root).tags["parameters"] == 450_000
    assert hub.fetched()["config.json"] == 1
    answer = registry.download(allow_patterns=["*.gguf"])
    assert answer["error"] == "EmptySelectionError"


def test_more_files_than_one_page_of_the_listing(
    hub: LocalHub, registry: Registry, root: Path, files: dict[str, bytes]
) -> None:
    many = {f"extra/{n:03}.txt": b"%d" % n for n in range(220)}
    hub.add_model(MODEL, files | many)
    registry.download()
    assert set(only(root).files) == set(files | many)


def test_a_private_model_needs_its_token(
    hub: LocalHub, registry: Registry, root: Path, files: dict[str, bytes]
) -> None:
    hub.add_model(MODEL, files)
    hub.models[MODEL].token = "hf_secret"
    assert registry.download()["error"] == "HubModelNotFoundError"
    assert "result" in registry.download(token="hf_secret")
    registry.environment["HF_TOKEN"] = "hf_secret"
    assert "result" in registry.download(force=True)
    assert "hf_secret" not in (root / "metadata.json").read_text()


def test_offline_what_is_there_is_served_and_the_rest_explained(
    hub: LocalHub, registry: Registry, files: dict[str, bytes]
) -> None:
    commit = hub.add_model(MODEL, files)
    registry.download()
    registry.environment["HF_HUB_OFFLINE"] = "1"
    asked = len(hub.requests)
    assert registry.download()["commit"] == commit
    answer = registry.download("owner/other")
    assert answer["error"] == "HubUnavailableError"
    assert "HF_HUB_OFFLINE" in answer["hint"]
    assert "import owner/other" in answer["hint"]
    assert len(hub.requests) == asked


def test_ensure_downloads_once_and_then_asks_nobody(
    hub: LocalHub, registry: Registry, root: Path, files: dict[str, bytes]
) -> None:
    hub.add_model(MODEL, files)
    for _ in range(2):
        answer = registry.call("ensure_model_available", MODEL)
        assert str(only(root).path) in answer["result"]
    assert hub.fetched("info") == {"": 1}


def test_progress_is_plain_lines_on_stderr_or_nothing(
    hub: LocalHub, registry: Registry, files: dict[str, bytes]
) -> None:
    hub.add_model(MODEL, files)
    lines = registry.download()["stderr"].splitlines()
    assert lines[0] == "owner/name: asking the hub"
    assert lines[1].startswith("owner/name: downloading 0 B of ")
    assert lines[-1] == "owner/name: complete"
    assert registry.download(progress=False, force=True)["stderr"] == ""


def test_an_embedding_model_is_tagged_as_one(
    hub: LocalHub, registry: Registry, root: Path, files: dict[str, bytes]
) -> None:
    files["config.json"] = json.dumps({"architectures": ["BertModel"]}).encode()
    files["1_Pooling/config.json"] = b"{}"
    hub.add_model(MODEL, files)
    registry.download()
    assert only(root).tags["type"] == "embedding"


class TestModules:
    """An embedding model has modules in folders of their own, with weights of their own."""

    MODULES = json.dumps(
        [
            {"path": "", "type": "sentence_transformers.models.Transformer"},
            {"path": "1_Pooling", "type": "sentence_transformers.models.Pooling"},
            {"path": "2_Dense", "type": "sentence_transformers.models.Dense"},
        ]
    ).encode()

    @pytest.fixture
    def parts(self, files: dict[str, bytes]) -> dict[str, bytes]:
        return {
            **files,
            "modules.json": self.MODULES,
            "1_Pooling/config.json": b"{}",
            "2_Dense/config.json": b"{}",
        }

    def test_a_module_that_is_only_pickled_is_needed(
        self, hub: LocalHub, registry: Registry, root: Path, parts: dict[str, bytes]
    ) -> None:
        pickled = {"2_Dense/pytorch_model.bin": b"pickle", "pytorch_model.bin": b"the same again"}
        hub.add_model(MODEL, {**parts, **pickled})
        answer = registry.download()
        assert answer["error"] == "PickledWeightsError"
        assert "2_Dense/pytorch_model.bin" in answer["text"]
        assert vllm_registry.list_models(root=root) == []
        registry.download(allow_pickle=True)
        assert set(only(root).files) == {*parts, "2_Dense/pytorch_model.bin"}

    def test_safetensors_in_a_folder_do_not_speak_for_the_root(
        self, hub: LocalHub, registry: Registry, root: Path
    ) -> None:
        parts = {
            "config.json": b'{"architectures": ["BertModel"]}',
            "pytorch_model.bin": b"pickle",
            "modules.json": self.MODULES,
            "2_Dense/model.safetensors": safetensors(8),
            "onnx/model.onnx": b"the same again",
            "training_args.bin": b"pickle",
        }
        hub.add_model(MODEL, parts)
        answer = registry.download()
        assert answer["error"] == "PickledWeightsError"
        assert "training_args" not in answer["text"]
        registry.download(allow_pickle=True)
        assert set(only(root).files) == set(parts) - {"onnx/model.onnx"}

    def test_without_a_modules_weights_it_is_not_listed(
        self, hub: LocalHub, registry: Registry, root: Path, parts: dict[str, bytes]
    ) -> None:
        hub.add_model(MODEL, parts)
        answer = registry.download()
        assert answer["error"] == "IncompleteModelError"
        assert "2_Dense/model.safetensors" in answer["text"]
        assert vllm_registry.list_models(root=root) == []

    def test_a_checkpoint_of_a_trainer_is_left_out(
        self, hub: LocalHub, registry: Registry, root: Path, files: dict[str, bytes]
    ) -> None:
        hub.add_model(MODEL, {**files, "checkpoint-5/pytorch_model.bin": b"pickle"})
        registry.download()
        assert set(only(root).files) == set(files)


def test_a_shard_that_the_index_names_is_missing(
    hub: LocalHub, registry: Registry, root: Path, files: dict[str, bytes]
) -> None:
    shards = [name for name in files if name.endswith(".safetensors")]
    index = json.dumps({"weight_map": {f"layer.{n}": name for n, name in enumerate(shards)}})
    hub.add_model(
        MODEL,
        {k: v for k, v in files.items() if k != shards[1]}
        | {"model.safetensors.index.json": index.encode()},
    )
    answer = registry.download()
    assert answer["error"] == "IncompleteModelError"
    assert shards[1] in answer["text"]
    assert vllm_registry.list_models(root=root) == []


class TestGGUF:
    FILES = {  # noqa: RUF012 - read only
        "name-Q4_K_M.gguf": b"4 bits",
        "name-q8_0.gguf": b"8 bits",
        "BF16/name-BF16-00001-of-00002.gguf": b"16 bits",
        "BF16/name-BF16-00002-of-00002.gguf": b"16 bits more",
        "README.md": b"",
    }

    def test_is_refused_before_a_byte_is_fetched(
        self, hub: LocalHub, registry: Registry, root: Path
    ) -> None:
        hub.add_model(MODEL, self.FILES)
        answer = registry.download()
        assert answer["error"] == "GGUFError"
        assert "BF16, Q4_K_M, Q8_0" in answer["text"]
        assert "safetensors" in answer["hint"]
        assert hub.fetched() == {}
        assert vllm_registry.list_models(root=root) == []

    def test_is_fetched_where_its_files_are_named(
        self, hub: LocalHub, registry: Registry, root: Path
    ) -> None:
        hub.add_model(MODEL, self.FILES)
        registry.download(allow_patterns="*Q4_K_M*")
        assert set(only(root).files) == {"name-Q4_K_M.gguf"}

    def test_a_plugin_loads_one_quantisation(
        self, hub: LocalHub, registry: Registry, root: Path, tmp_path: Path
    ) -> None:
        plugin = tmp_path / "plugin" / "vllm_gguf_plugin-0.0.5.dist-info"
        plugin.mkdir(parents=True)
        (plugin / "METADATA").write_text("Name: vllm-gguf-plugin\nVersion: 0.0.5\n")
        (plugin / "entry_points.txt").write_text("[vllm.general_plugins]\ngguf = plugin:register\n")
        registry.environment["PYTHONPATH"] = str(plugin.parent)
        hub.add_model(MODEL, self.FILES)
        assert "several" in registry.download()["text"]
        assert "'Q5_0'" in registry.download(f"{MODEL}:Q5_0")["text"]
        registry.download(f"{MODEL}:Q8_0")
        assert set(only(root).files) == {"name-q8_0.gguf", "README.md"}
        registry.download(f"{MODEL}:bf16")
        model = only(root)
        assert sum(name.startswith("BF16/") for name in model.files) == 2
        assert "name-q8_0.gguf" not in model.files  # one at a time: vLLM loads what is there
        assert model.tags["quantisation"] == "bf16"


def test_a_path_that_climbs_out_names_its_model(hub: LocalHub, registry: Registry) -> None:
    hub.add_model(MODEL, {"config.json": b"{}", "../evil": b"x"})
    answer = registry.download()
    assert answer["error"] == "InvalidModelIdError"
    assert MODEL in answer["text"]


class TestUpdate:
    def test_gets_what_changed_and_keeps_the_old_commit(
        self, hub: LocalHub, registry: Registry, root: Path, files: dict[str, bytes]
    ) -> None:
        old = hub.add_model(MODEL, files)
        registry.download(tags={"team": "search"})
        assert registry.call("update_model", MODEL)["commit"] == old
        name = "model-00002-of-00003.safetensors"
        new = hub.add_model(MODEL, {**files, name: safetensors(400_000, seed=7)})
        assert f"latest='{new}'" in registry.call("check_update", MODEL)["result"]
        assert registry.call("update_model", MODEL)["commit"] == new
        model = vllm_registry.get_model(MODEL, root=root)
        assert (model.revision, model.commit) == ("main", new)
        assert model.tags["parameters"] == 500_000
        assert model.tags["team"] == "search"
        assert vllm_registry.get_model(MODEL, old, root=root).revision == old
        assert hub.fetched()[name] == 2
        assert hub.fetched()["config.json"] == 1

    def test_a_pinned_commit_asks_nobody(
        self, hub: LocalHub, registry: Registry, files: dict[str, bytes]
    ) -> None:
        commit = hub.add_model(MODEL, files)
        registry.download(MODEL, commit)
        asked = len(hub.requests)
        assert registry.call("update_model", MODEL)["commit"] == commit
        assert len(hub.requests) == asked

    def test_an_imported_model_has_nothing_to_update_from(self, source: Path, root: Path) -> None:
        vllm_registry.import_model(MODEL, source, root=root)
        with pytest.raises(vllm_registry.NotFromHubError, match="sage llm model import"):
            vllm_registry.update_model(MODEL, root=root)


class TestRepair:
    def test_fetches_only_the_bad_files(
        self, hub: LocalHub, registry: Registry, root: Path, files: dict[str, bytes]
    ) -> None:
        hub.add_model(MODEL, files)
        registry.download()
        folder = only(root).path
        shards = [f"model-0000{n}-of-00003.safetensors" for n in (1, 2, 3)]
        (folder / shards[0]).write_bytes(files[shards[0]][:-1] + b"?")
        (folder / shards[1]).write_bytes(b"short")
        (folder / "tokenizer.json").unlink()
        before = hub.fetched()
        expected = {shards[0]: "checksum", shards[1]: "size", "tokenizer.json": "missing"}
        assert dict(vllm_registry.verify_model(MODEL, root=root).problems) == expected
        assert "result" in registry.call("repair_model", MODEL)
        assert hub.fetched() - before == dict.fromkeys(expected, 1)
        assert vllm_registry.verify_model(MODEL, root=root).ok

    def test_brings_a_lost_folder_back(
        self, hub: LocalHub, registry: Registry, root: Path, files: dict[str, bytes], tmp_path: Path
    ) -> None:
        hub.add_model(MODEL, files)
        registry.download()
        only(root).path.rename(tmp_path / "elsewhere")
        assert vllm_registry.list_models(root=root) == []
        assert len(vllm_registry.verify_model(MODEL, root=root).problems) == len(files)
        registry.call("repair_model", MODEL)
        assert vllm_registry.verify_model(MODEL, root=root).ok

    def test_a_whole_model_asks_nobody(
        self, hub: LocalHub, registry: Registry, files: dict[str, bytes]
    ) -> None:
        hub.add_model(MODEL, files)
        registry.download()
        asked = len(hub.requests)
        assert "problems={}" in registry.call("repair_model", MODEL)["result"]
        assert len(hub.requests) == asked

    def test_an_imported_model_says_where_to_turn(self, source: Path, root: Path) -> None:
        model = vllm_registry.import_model(MODEL, source, root=root)
        (model.path / "config.json").unlink()
        with pytest.raises(vllm_registry.NotFromHubError, match=r"config\.json"):
            vllm_registry.repair_model(MODEL, root=root)
