"""The registry without a hub: import, list, path, touch, delete, and its errors."""

from __future__ import annotations

import os
import pickle
import subprocess
import sys
from pathlib import Path

import pytest
from model_files import safetensors

from sage.common.model_registry import errors, weight_errors
from sage.common.model_registry import vllm_registry as registry


def test_a_root_not_used_yet_is_an_empty_registry(root: Path) -> None:
    assert registry.list_models(root=root) == []
    assert not root.exists()


def test_importing_the_registry_loads_nothing_heavy() -> None:
    code = (
        "import sys, sage.common.model_registry.vllm_registry\n"
        "heavy = {'huggingface_hub', 'vllm', 'torch', 'numpy', 'filelock', 'rich'}\n"
        "assert not heavy & set(sys.modules), heavy & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], check=True, timeout=60)


def test_the_root_comes_from_the_environment_at_each_call(
    source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("first", "second"):
        monkeypatch.setenv("SAGE_VLLM_MODEL_ROOT", str(tmp_path / name))
        assert registry.list_models() == []
        model = registry.import_model("owner/name", source)
        assert model.path.is_relative_to(tmp_path / name)


def test_the_default_root_is_in_the_home_folder(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("SAGE_VLLM_MODEL_ROOT")
    assert registry.registry_root() == Path.home() / ".sage/models/vllm"


class TestImport:
    def test_copies_the_files_and_reads_what_the_model_is(self, source: Path, root: Path) -> None:
        (source / "sub").mkdir()
        (source / "sub" / "extra.json").write_text("{}")
        (source / ".git").mkdir()
        (source / ".git" / "HEAD").write_text("not part of the model")
        model = registry.import_model("owner/name", source, tags={"team": "search"}, root=root)
        assert registry.list_models(root=root) == [model]
        assert model.path == root / "owner/name" / model.commit
        assert (model.path / "sub" / "extra.json").read_text() == "{}"
        assert ".git/HEAD" not in model.files
        assert model.size_bytes == sum(path.stat().st_size for path in _files(model.path))
        assert dict(model.tags) == {
            "type": "text",
            "parameters": 450_000,
            "dtype": "bfloat16",
            "context_length": 512,
            "team": "search",
        }

    def test_links_leave_the_files_where_they_are(self, source: Path, root: Path) -> None:
        model = registry.import_model("owner/name", source, link=True, root=root)
        assert (model.path / "config.json").resolve() == source / "config.json"
        registry.delete_model("owner/name", root=root)
        assert (source / "config.json").is_file()
        assert not model.path.exists()

    def test_pointers_of_git_lfs_are_refused(self, source: Path, root: Path) -> None:
        pointer = (
            "version https://git-lfs.github.com/spec/v1\noid sha256:" + "0" * 64 + "\nsize 9\n"
        )
        (source / "model-00002-of-00003.safetensors").write_text(pointer)
        with pytest.raises(registry.InvalidModelFolderError, match="00002-of-00003") as caught:
            registry.import_model("owner/name", source, root=root)
        assert "git lfs pull" in caught.value.hint
        assert registry.list_models(root=root) == []

    def test_weights_that_its_files_name_and_that_are_missing_are_refused(
        self, source: Path, root: Path
    ) -> None:
        (source / "modules.json").write_text(
            '[{"path": "", "type": "x.Transformer"}, {"path": "2_Dense", "type": "x.Dense"}]'
        )
        with pytest.raises(registry.IncompleteModelError, match=r"2_Dense/model\.safetensors"):
            registry.import_model("owner/name", source, root=root)
        (source / "modules.json").unlink()
        for path in source.glob("*.safetensors"):
            path.unlink()
        with pytest.raises(registry.IncompleteModelError, match=r"lacks model\.safetensors"):
            registry.import_model("owner/name", source, root=root)
        assert registry.list_models(root=root) == []

    def test_links_into_the_registry_are_refused(
        self, source: Path, root: Path, tmp_path: Path
    ) -> None:
        model = registry.import_model("owner/name", source, root=root)
        indirect = tmp_path / "indirect"
        indirect.mkdir()
        for path in model.path.iterdir():
            (indirect / path.name).symlink_to(path)
        alias = tmp_path / "alias"
        alias.symlink_to(root)
        for model_id in ("owner/name", "owner/other"):
            for folder in (model.path, indirect, alias / model.path.relative_to(root)):
                with pytest.raises(registry.InvalidModelFolderError, match="without --link"):
                    registry.import_model(model_id, folder, link=True, root=root)
        assert registry.list_models(root=root) == [model]
        assert registry.verify_model("owner/name", root=root).ok

    def test_a_model_of_the_registry_can_be_copied_and_one_of_links_linked_again(
        self, source: Path, root: Path
    ) -> None:
        copied = registry.import_model("owner/name", source, root=root)
        registry.import_model("owner/name", copied.path, root=root)
        linked = registry.import_model("owner/linked", source, link=True, root=root)
        registry.import_model("owner/linked", linked.path, link=True, root=root)
        for model_id in ("owner/name", "owner/linked"):
            assert registry.verify_model(model_id, root=root).ok
        assert (linked.path / "config.json").resolve() == source / "config.json"

    @pytest.mark.parametrize("link", [False, True])
    def test_folders_that_are_links_are_followed(
        self, source: Path, root: Path, tmp_path: Path, *, link: bool
    ) -> None:
        elsewhere = tmp_path / "elsewhere"
        (elsewhere / "deep").mkdir(parents=True)
        (elsewhere / "config.json").write_text('{"word_embedding_dimension": 8}')
        (elsewhere / "deep" / "file").write_text("")
        (source / "1_Pooling").symlink_to(elsewhere)
        (source / "again").symlink_to(elsewhere)
        model = registry.import_model("owner/name", source, link=link, root=root)
        assert {"1_Pooling/config.json", "1_Pooling/deep/file", "again/deep/file"} < set(
            model.files
        )
        assert model.tags["type"] == "embedding"
        assert registry.verify_model("owner/name", root=root).ok

    @pytest.mark.parametrize("link", [False, True])
    @pytest.mark.parametrize(
        ("target", "reason"),
        [
            (".", "is a link back to a folder that it is in"),
            ("..", "is a link back to a folder that it is in"),
            ("a", "/to' in it is a link back to a folder that it is in"),
            ("missing", "'trap' in it is a link to missing, not there"),
            ("trap", "'trap' in it is a link to trap, not there"),
            (os.devnull, "'trap' in it is neither a file nor a folder"),
        ],
    )
    def test_links_that_lead_nowhere_or_in_circles_are_named(
        self, source: Path, root: Path, target: str, reason: str, *, link: bool
    ) -> None:
        for one, other in ("ab", "ba"):
            (source / one).mkdir()
            if target == "a":
                (source / one / "to").symlink_to(source / other)
        (source / "trap").symlink_to(target)
        with pytest.raises(registry.InvalidModelFolderError, match=reason):
            registry.import_model("owner/name", source, link=link, root=root)
        assert not root.exists()

    def test_the_same_files_again_are_the_same_commit(self, source: Path, root: Path) -> None:
        first = registry.import_model("owner/name", source, root=root)
        again = registry.import_model("owner/name", source, revision="v2", root=root)
        assert again.commit == first.commit
        assert again.names == ("v2", "local", first.commit)
        assert len(registry.list_models(root=root)) == 1

    def test_changed_files_are_a_new_commit_and_take_the_name_over(
        self, source: Path, root: Path
    ) -> None:
        first = registry.import_model("owner/name", source, root=root)
        (source / "tokenizer.json").write_text('{"changed": true}')
        second = registry.import_model("owner/name", source, root=root)
        assert registry.get_model_path("owner/name", "local", root=root) == second.path
        assert registry.get_model_path("owner/name", first.commit, root=root) == first.path

    @pytest.mark.parametrize("make", ["nothing", "file", "empty"])
    def test_refuses_what_is_no_model(self, make: str, tmp_path: Path, root: Path) -> None:
        folder = tmp_path / "folder"
        if make == "file":
            folder.write_text("")
        elif make == "empty":
            folder.mkdir()
        with pytest.raises(registry.InvalidModelFolderError, match=r"owner/name.*folder"):
            registry.import_model("owner/name", folder, root=root)
        assert not root.exists()

    def test_embedding_models_are_known_by_their_layout(self, source: Path, root: Path) -> None:
        (source / "modules.json").write_text("[]")
        (source / "sentence_bert_config.json").write_text('{"max_seq_length": 256}')
        tags = registry.import_model("owner/name", source, root=root).tags
        assert tags["type"] == "embedding"
        assert tags["context_length"] == 256

    def test_files_that_make_no_sense_tell_nothing(self, source: Path, root: Path) -> None:
        (source / "config.json").write_text("[not json")
        for path in source.glob("*.safetensors"):
            path.write_bytes(b"\xff" * 100)
        assert dict(registry.import_model("owner/name", source, root=root).tags) == {"type": "text"}


class TestLookup:
    @pytest.fixture
    def two(self, source: Path, root: Path) -> tuple[registry.ModelInfo, registry.ModelInfo]:
        first = registry.import_model("owner/name", source, revision="v1", root=root)
        (source / "model-00001-of-00003.safetensors").write_bytes(safetensors(300_000, seed=9))
        second = registry.import_model("owner/name", source, revision="v2", root=root)
        return first, second

    def test_without_a_revision_the_one_asked_for_last(
        self, two: tuple[registry.ModelInfo, registry.ModelInfo], root: Path
    ) -> None:
        first, second = two
        assert registry.get_model_path("owner/name", root=root) == second.path
        registry.touch_model("owner/name", "v1", root=root)
        assert registry.get_model_path("owner/name", root=root) == first.path

    def test_by_name_commit_or_its_first_digits(
        self, two: tuple[registry.ModelInfo, registry.ModelInfo], root: Path
    ) -> None:
        for model in two:
            for revision in (model.revision, model.commit, model.commit[:7]):
                assert registry.get_model_path("owner/name", revision, root=root) == model.path

    def test_touch_notes_when_it_was_used(
        self, two: tuple[registry.ModelInfo, registry.ModelInfo], root: Path
    ) -> None:
        touched = registry.touch_model("owner/name", root=root)
        assert touched.last_used > two[1].last_used
        assert registry.get_model("owner/name", root=root).last_used == touched.last_used

    def test_a_missing_model_says_how_to_get_it_and_what_is_near(
        self, two: tuple[registry.ModelInfo, registry.ModelInfo], root: Path
    ) -> None:
        with pytest.raises(registry.ModelNotFoundError) as caught:
            registry.get_model_path("Owner/nam", root=root)
        assert "Use owner/name, or get another one: `sage llm model download" in caught.value.hint
        assert "--model Owner/nam" not in str(caught.value)
        assert caught.value.near == ("owner/name",)
        assert "Did you mean owner/name?" in str(caught.value)
        with pytest.raises(registry.ModelNotFoundError) as far:
            registry.get_model_path("other/thing", root=root)
        assert "sage llm model download --model other/thing" in str(far.value)

    def test_a_missing_revision_names_those_that_are_there(
        self, two: tuple[registry.ModelInfo, registry.ModelInfo], root: Path
    ) -> None:
        with pytest.raises(registry.RevisionNotFoundError, match="v1, v2") as caught:
            registry.get_model_path("owner/name", "v3", root=root)
        assert "--revision v3" in caught.value.hint

    def test_touching_a_missing_model_creates_no_registry(self, root: Path) -> None:
        with pytest.raises(registry.ModelNotFoundError):
            registry.touch_model("owner/name", root=root)
        assert not root.exists()

    def test_a_model_whose_folder_is_gone_is_not_listed(
        self, two: tuple[registry.ModelInfo, registry.ModelInfo], root: Path, tmp_path: Path
    ) -> None:
        two[0].path.rename(tmp_path / "elsewhere")
        assert [model.revision for model in registry.list_models(root=root)] == ["v2"]
        with pytest.raises(registry.RevisionNotFoundError):
            registry.get_model_path("owner/name", "v1", root=root)

    def test_deleting_one_revision_leaves_the_other(
        self, two: tuple[registry.ModelInfo, registry.ModelInfo], root: Path
    ) -> None:
        first, second = two
        plan = registry.delete_model("owner/name", "v2", root=root)
        assert plan.models == (second,)
        assert plan.freed_bytes == second.size_bytes
        assert not second.path.exists()
        assert registry.list_models(root=root) == [first]

    def test_deleting_all_leaves_no_folder_of_it(
        self, two: tuple[registry.ModelInfo, registry.ModelInfo], root: Path
    ) -> None:
        plan = registry.plan_deletion("owner/name", root=root)
        assert all(model.path.is_dir() for model in plan.models)
        plan.execute()
        assert registry.list_models(root=root) == []
        assert not (root / "owner").exists()
        assert not any((root / ".trash").iterdir())
        with pytest.raises(registry.ModelNotFoundError):
            registry.delete_model("owner/name", root=root)

    def test_a_link_that_leads_out_of_the_root_is_not_followed(
        self, two: tuple[registry.ModelInfo, registry.ModelInfo], root: Path, tmp_path: Path
    ) -> None:
        outside = tmp_path / "outside"
        (root / "owner").rename(outside)
        (root / "owner").symlink_to(outside)
        with pytest.raises(registry.RegistryNotWritableError, match="out of it"):
            registry.delete_model("owner/name", root=root)
        assert len(_files(outside)) == 10


@pytest.mark.parametrize(
    "model_id",
    [
        "",
        ".",
        "..",
        "../escape",
        "a/..",
        "/etc/passwd",
        "a/b/c",
        "a//b",
        "a b",
        "a\x1b[31m",
        "a\n",
        "-rf",
        ".locks",
        "a--b/c",
        "metadata.json",
        "a" * 97,
        "owner/" + "0" * 40,
        "näme",
    ],
)
def test_ids_that_may_not_become_a_path(model_id: str, source: Path, root: Path) -> None:
    for use in (
        lambda: registry.get_model_path(model_id, root=root),
        lambda: registry.import_model(model_id, source, root=root),
        lambda: registry.delete_model(model_id, root=root),
        lambda: registry.download_model(model_id, progress=False, root=root),
    ):
        with pytest.raises(registry.InvalidModelIdError):
            use()
    assert not root.exists()


@pytest.mark.parametrize("revision", ["", "..", "a/../b", "-x", "a b", "a\0", "refs//x"])
def test_revisions_that_are_none(revision: str, source: Path, root: Path) -> None:
    with pytest.raises(registry.InvalidModelIdError, match="revision"):
        registry.import_model("owner/name", source, revision=revision, root=root)


ERRORS = [
    errors.InvalidModelIdError("a b", "why"),
    errors.ModelNotFoundError("owner/name", root=Path("/r"), near=("owner/nome",)),
    errors.HubModelNotFoundError("owner/name"),
    errors.RevisionNotFoundError("owner/name", "v1", known=("main",)),
    errors.InvalidModelFolderError("owner/name", Path("/f"), "why"),
    errors.EmptySelectionError("owner/name", files_in_repository=3),
    errors.NotFromHubError("owner/name", "cannot be updated"),
    weight_errors.PickledWeightsError("owner/name", ("a.bin", "b.bin", "c.bin", "d.bin")),
    weight_errors.GGUFError("owner/name", ("Q4_K_M",), wanted=None, supported=False),
    weight_errors.GGUFError("owner/name", ("Q4_K_M", "Q8_0"), wanted="Q5_0", supported=True),
    weight_errors.IncompleteModelError("owner/name", ("a",), where="its repository"),
    weight_errors.IntegrityError("owner/name", ("a",)),
    errors.ManifestCorruptError(Path("/m"), "why"),
    errors.EarlierManifestError(Path("/m"), 2),
    errors.ManifestVersionError(Path("/m"), 2, supported=1),
    errors.EarlierManifestError(Path("/m"), 2),
    errors.HubAccessError("owner/name"),
    errors.GatedModelError("owner/name"),
    errors.HubUnavailableError("owner/name", "why"),
    errors.InsufficientDiskError("owner/name", Path("/r"), needed=5, free=3),
    errors.RegistryNotWritableError(Path("/r"), "why"),
]


@pytest.mark.parametrize("error", ERRORS, ids=lambda error: type(error).__name__)
def test_errors_carry_their_facts_through_pickle(error: errors.ModelRegistryError) -> None:
    copy = pickle.loads(pickle.dumps(error))
    assert type(copy) is type(error)
    assert str(copy) == str(error) == f"{error.problem} {error.hint}"
    assert vars(copy) == vars(error)


def test_every_error_is_in_the_table_above_and_public() -> None:
    every = {
        each
        for each in (*vars(errors).values(), *vars(weight_errors).values())
        if isinstance(each, type) and issubclass(each, errors.ModelRegistryError)
    }
    assert every == {type(error) for error in ERRORS} | {errors.ModelRegistryError}
    assert {each.__name__ for each in every} <= set(registry.__all__)


def test_models_pickle(source: Path, root: Path) -> None:
    model = registry.import_model("owner/name", source, root=root)
    assert pickle.loads(pickle.dumps(model)) == model


def _files(folder: Path) -> list[Path]:
    return [Path(base) / name for base, _, names in os.walk(folder) for name in names]
