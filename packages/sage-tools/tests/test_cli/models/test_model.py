"""`sage llm model` in a pipe: data on stdout, the rest on stderr, and exit codes."""

from __future__ import annotations

import json
import signal
from typing import TYPE_CHECKING

import pytest
from command_line import TOKEN, lines, refused
from hub_faults import Fault, Hold, Status
from model_files import safetensors

from sage.common.model_registry import vllm_registry

if TYPE_CHECKING:
    from pathlib import Path

    from command_line import CommandLine
    from local_hub import LocalHub

MODEL = "owner/name"


@pytest.fixture
def imported(source: Path, root: Path) -> vllm_registry.ModelInfo:
    return vllm_registry.import_model(MODEL, source, tags={"team": "search"}, root=root)


class TestShow:
    def test_of_an_empty_registry_says_what_to_do(self, sage: CommandLine, root: Path) -> None:
        done = sage("llm", "model", "show")
        assert lines(done) == []
        assert "sage llm model download" in done.stderr
        assert json.loads(sage("llm", "model", "show", "--json").stdout) == []
        assert not root.exists()

    def test_lists_the_models(self, sage: CommandLine, imported: vllm_registry.ModelInfo) -> None:
        done = sage("llm", "model", "show")
        header, row = lines(done)
        assert header.split() == ["MODEL", "REVISION", "SIZE", "LAST", "USED", "TAGS"]
        assert row.split() == [
            "owner/name", "local", "600.4", "kB", "just", "now", "text", "300.0K", "team=search",
        ]  # fmt: skip
        assert done.stderr == ""
        for alias in ("list", "ls"):
            assert sage("llm", "model", alias).stdout == done.stdout
        assert lines(sage("llm", "model", "show", "--quiet")) == [MODEL]
        (entry,) = json.loads(sage("llm", "model", "show", "--json").stdout)
        assert entry["path"] == str(imported.path)
        assert entry["tags"]["type"] == "text"

    @pytest.mark.parametrize("how", [[MODEL], ["--model", MODEL], [MODEL, "-m", MODEL]])
    def test_of_one_model_tells_all(
        self, how: list[str], sage: CommandLine, imported: vllm_registry.ModelInfo
    ) -> None:
        text = sage("llm", "model", "show", *how).stdout
        assert f"Commit:     {imported.commit}" in text
        assert "Context:    512 tokens" in text
        assert "Memory:     fits: needs about 720.3 kB; " in text
        assert "200.1 kB  model-00003-of-00003.safetensors" in text

    def test_of_one_model_as_json_and_as_its_path(
        self, sage: CommandLine, imported: vllm_registry.ModelInfo
    ) -> None:
        raw = json.loads(sage("llm", "model", "show", MODEL, "--json").stdout)
        assert raw["files"]["config.json"]["size"] == imported.files["config.json"].size
        assert raw["memory"].startswith("fits")
        assert lines(sage("llm", "model", "show", MODEL, "-q")) == [str(imported.path)]

    def test_of_a_missing_model_names_a_near_one(
        self, sage: CommandLine, imported: vllm_registry.ModelInfo
    ) -> None:
        done = sage("llm", "model", "show", "owner/nam")
        refused(done, "'owner/nam'", "Did you mean owner/name?", "Hint: Use owner/name,")
        assert "--model owner/nam`" not in done.stderr
        done = sage("llm", "model", "show", "zz/qwerty")
        refused(done, "'zz/qwerty'", "sage llm model download --model zz/qwerty")

    def test_of_a_corrupt_manifest_names_the_file(self, sage: CommandLine, root: Path) -> None:
        root.mkdir()
        (root / "metadata.json").write_text("{")
        refused(sage("llm", "model", "show"), str(root / "metadata.json"), "mv ")

    def test_a_reader_that_leaves_early_is_no_error(
        self, sage: CommandLine, root: Path, source: Path
    ) -> None:
        for number in range(20):
            vllm_registry.import_model(f"owner/{number:03}", source, link=True, root=root)
        process = sage.start("llm", "model", "show", "--json")
        assert process.stdout is not None
        assert process.stderr is not None
        process.stdout.close()
        assert process.stderr.read() == ""
        assert process.wait(60) == 0

    def test_control_characters_in_tags_are_shown_not_obeyed(
        self, sage: CommandLine, source: Path, root: Path
    ) -> None:
        vllm_registry.import_model(MODEL, source, tags={"x": "\x1b[2J\nfake"}, root=root)
        for arguments in ([], [MODEL], ["--json"]):
            text = sage("llm", "model", "show", *arguments).stdout
            assert "\x1b" not in text
            assert "\nfake" not in text
        assert r"x=\x1b[2J\nfake" in sage("llm", "model", "show").stdout


class TestDownload:
    def test_prints_the_path_and_tells_the_rest_on_stderr(
        self, sage: CommandLine, hub: LocalHub, root: Path, files: dict[str, bytes]
    ) -> None:
        commit = hub.add_model(MODEL, files)
        done = sage("llm", "model", "download", "--model", MODEL, "--tag", "team=search")
        assert lines(done) == [str(root / MODEL / commit)]
        assert done.stderr.splitlines()[0] == "owner/name: asking the hub"
        assert "owner/name (main, 600.4 kB) is complete and verified." in done.stderr
        assert "\r" not in done.stderr
        quiet = sage("llm", "model", "download", MODEL, "--quiet")
        assert (lines(quiet), quiet.stderr) == (lines(done), "")
        raw = json.loads(sage("llm", "model", "download", MODEL, "--json").stdout)
        assert raw["commit"] == commit
        assert raw["tags"]["team"] == "search"

    def test_of_some_files_of_a_revision(
        self, sage: CommandLine, hub: LocalHub, root: Path, files: dict[str, bytes]
    ) -> None:
        hub.add_model(MODEL, files, revision="v2")
        arguments = ("--revision", "v2", "--source", "hub", "--include", "*.json")
        lines(sage("llm", "model", "download", MODEL, *arguments, "--exclude", "tok*"))
        model = vllm_registry.get_model(MODEL, "v2", root=root)
        assert set(model.files) == {"config.json"}

    @pytest.mark.parametrize(
        ("gated", "token", "said"),
        [(True, None, "gated"), (False, "another", "token"), (False, None, "'v9'")],
    )
    def test_refusals(
        self,
        gated: object,
        token: str | None,
        said: str,
        sage: CommandLine,
        hub: LocalHub,
        files: dict[str, bytes],
    ) -> None:
        hub.add_model(MODEL, files)
        hub.models[MODEL].gated, hub.models[MODEL].token = bool(gated), token
        revision = ["--revision", "v9"] if said == "'v9'" else []
        done = sage("llm", "model", "download", MODEL, *revision, HF_TOKEN=TOKEN)
        refused(done, MODEL, said)
        done = sage("llm", "model", "download", MODEL, *revision, HF_TOKEN=TOKEN, SAGE_DEBUG="1")
        assert done.returncode == 1
        assert "Traceback" in done.stderr
        assert TOKEN not in done.stdout + done.stderr

    def test_no_hub(self, sage: CommandLine, hub: LocalHub) -> None:
        hub.close()
        refused(sage("llm", "model", "download", MODEL), MODEL, "HF_ENDPOINT", "download --model")

    def test_hostile_names_are_shown_not_obeyed(
        self, sage: CommandLine, hub: LocalHub, files: dict[str, bytes]
    ) -> None:
        hub.add_model(MODEL, files)
        entry = {"type": "file", "path": "a\x1b]0;owned\x07", "size": 1, "oid": "0" * 40}
        hub.models[MODEL].extra_tree_entries = [entry]
        done = sage("llm", "model", "download", MODEL)
        refused(done, "unprintable", r"\x1b")
        assert "\x1b" not in done.stderr

    def test_interrupted_it_exits_at_once_and_goes_on_later(
        self, sage: CommandLine, hub: LocalHub, root: Path, files: dict[str, bytes]
    ) -> None:
        commit = hub.add_model(MODEL, files)
        hold = Hold(1)
        hub.faults = [Fault("get", hold, path="tokenizer.json", times=1)]
        process = sage.start("llm", "model", "download", MODEL, "--workers", "1")
        assert hold.held.wait(60)
        process.send_signal(signal.SIGINT)
        out, err = process.communicate(timeout=60)  # it does not wait for the file, which is held
        assert (process.returncode, out) == (130, "")
        assert err.endswith("Hint: Run the same command again to go on: complete files are kept.\n")
        assert lines(sage("llm", "model", "show")) == []
        assert lines(sage("llm", "model", "download", MODEL)) == [str(root / MODEL / commit)]
        assert hub.fetched() == {**dict.fromkeys(files, 1), "tokenizer.json": 2}

    def test_a_model_larger_than_the_memory_is_warned_about(
        self, sage: CommandLine, hub: LocalHub, files: dict[str, bytes], tmp_path: Path
    ) -> None:
        hub.add_model(MODEL, files)
        tool = tmp_path / "bin" / "nvidia-smi"  # which asks a GPU for its memory
        tool.parent.mkdir()
        tool.write_text("#!/bin/sh\necho 'Toy, 1.0, [N/A], [N/A]'\n")
        tool.chmod(0o755)
        path = f"{tool.parent}:{sage.environment['PATH']}"
        done = sage("llm", "model", "download", MODEL, PATH=path)
        assert "Warning" not in done.stderr  # a GPU that tells nothing
        tool.write_text("#!/bin/sh\necho 'Toy, 1.0, 1, 1'\n")
        big = {**files, "model.safetensors": safetensors(1_500_000)}
        hub.add_model(MODEL, big)
        done = sage("llm", "model", "download", MODEL, PATH=path)
        assert "more than the GPU has memory (1.0 MB)" in done.stderr
        text = sage("llm", "model", "show", MODEL, PATH=path).stdout
        assert "does not fit this machine" in text


class TestDelete:
    def test_asks_first_and_refuses_where_nobody_can_answer(
        self, sage: CommandLine, imported: vllm_registry.ModelInfo
    ) -> None:
        refused(sage("llm", "model", "delete", MODEL), "--yes", code=2)
        assert imported.path.is_dir()

    def test_shows_what_goes_without_doing_it(
        self, sage: CommandLine, imported: vllm_registry.ModelInfo
    ) -> None:
        done = sage("llm", "model", "delete", MODEL, "--dry-run")
        assert lines(done) == ["model     owner/name local (600.4 kB)", "frees     600.4 kB"]
        raw = json.loads(sage("llm", "model", "delete", MODEL, "-n", "--json").stdout)
        assert raw["deleted"] is False
        assert raw["freed_bytes"] == imported.size_bytes
        assert imported.path.is_dir()

    @pytest.mark.parametrize("verb", ["delete", "rm"])
    def test_does_it_when_told(
        self, verb: str, sage: CommandLine, imported: vllm_registry.ModelInfo
    ) -> None:
        done = sage("llm", "model", verb, "--model", MODEL, "--yes", "--json")
        assert json.loads(done.stdout)["deleted"] is True
        assert done.stderr == ""
        assert not imported.path.exists()
        refused(sage("llm", "model", verb, MODEL, "--yes"), MODEL, "sage llm model show")

    def test_of_one_revision(
        self, sage: CommandLine, imported: vllm_registry.ModelInfo, source: Path, root: Path
    ) -> None:
        (source / "tokenizer.json").write_text("{ }")
        vllm_registry.import_model(MODEL, source, revision="v2", root=root)
        lines(sage("llm", "model", "delete", MODEL, "--revision", "v2", "-y", "-q"))
        assert lines(sage("llm", "model", "show", "-q")) == [MODEL]
        assert imported.path.is_dir()


class TestCare:
    def test_verify_finds_and_repair_mends(
        self, sage: CommandLine, hub: LocalHub, root: Path, files: dict[str, bytes]
    ) -> None:
        hub.add_model(MODEL, files)
        lines(sage("llm", "model", "download", MODEL, "-q"))
        assert lines(sage("llm", "model", "verify")) == ["owner/name main: 5 files, all right"]
        (vllm_registry.get_model_path(MODEL, root=root) / "config.json").write_text("damaged")
        done = sage("llm", "model", "verify", MODEL)
        assert done.returncode == 1
        assert done.stdout == "owner/name main: config.json: size\n"
        assert done.stderr == "Hint: `sage llm model repair owner/name --revision main`\n"
        (report,) = json.loads(sage("llm", "model", "verify", "--json").stdout)
        assert report["problems"] == {"config.json": "size"}
        assert lines(sage("llm", "model", "repair", MODEL)) == ["config.json: size, fetched again"]
        assert lines(sage("llm", "model", "verify", "-q")) == []
        done = sage("llm", "model", "repair", MODEL)
        assert (lines(done), done.stderr) == ([], "owner/name is whole, nothing to repair.\n")

    @pytest.mark.parametrize(
        ("model_id", "said"),
        [
            (MODEL, "sage llm model import owner/name <folder> --revision local"),
            ("sage/demo-chat", "sage llm model delete sage/demo-chat --yes"),
        ],
    )
    def test_verify_says_how_what_is_not_from_the_hub_is_mended(
        self, model_id: str, said: str, sage: CommandLine, source: Path, root: Path
    ) -> None:
        model = vllm_registry.import_model(model_id, source, root=root)
        (model.path / "config.json").write_text("damaged")
        done = sage("llm", "model", "verify")
        assert done.returncode == 1
        assert said in done.stderr
        assert "repair" not in done.stderr

    def test_update_tells_and_gets_what_is_new(
        self, sage: CommandLine, hub: LocalHub, source: Path, root: Path, files: dict[str, bytes]
    ) -> None:
        vllm_registry.import_model("owner/imported", source, root=root)  # left alone
        old = hub.add_model(MODEL, files)[:8]
        lines(sage("llm", "model", "download", MODEL, "-q"))
        assert lines(sage("llm", "model", "update")) == ["owner/name main: current"]
        new = hub.add_model(MODEL, {**files, "tokenizer.json": b"{ }"})[:8]
        change = [f"owner/name main: {old} -> {new}"]
        assert lines(sage("llm", "model", "update", "--check")) == change
        done = sage("llm", "model", "update", MODEL)
        assert lines(done) == change
        assert f"sage llm model delete owner/name --revision {old}" in done.stderr
        (entry,) = json.loads(sage("llm", "model", "update", MODEL, "--json").stdout)
        assert (entry["outdated"], entry["commit"][:8]) == (False, new)
        refused(sage("llm", "model", "update", "owner/imported"), "imported from a folder")

    def test_prune_removes_left_overs(
        self, sage: CommandLine, hub: LocalHub, root: Path, files: dict[str, bytes]
    ) -> None:
        done = sage("llm", "model", "prune")
        assert (lines(done), done.stderr) == ([], "Nothing to prune.\n")
        commit = hub.add_model(MODEL, files)
        hub.faults = [Fault("get", Status(404), path="tokenizer.json")]
        refused(sage("llm", "model", "download", MODEL), "404")
        staged = root / ".staging" / "owner--name" / commit
        assert str(staged) in sage("llm", "model", "prune", "--dry-run").stdout
        refused(sage("llm", "model", "prune"), "--yes", code=2)
        raw = json.loads(sage("llm", "model", "prune", "--yes", "--json").stdout)
        assert raw["leftovers"] == [str(staged)]
        assert not staged.exists()

    def test_prune_takes_an_age(self, sage: CommandLine, imported: vllm_registry.ModelInfo) -> None:
        lines(sage("llm", "model", "prune", "--unused-days", "1", "--yes"))
        assert imported.path.is_dir()
        lines(sage("llm", "model", "prune", "--unused-days", "0", "--yes"))
        assert not imported.path.exists()

    def test_import_copies_or_links(self, sage: CommandLine, source: Path, root: Path) -> None:
        (path,) = lines(sage("llm", "model", "import", MODEL, str(source), "--tag", "a=b"))
        assert path == str(vllm_registry.get_model_path(MODEL, root=root))
        done = sage("llm", "model", "import", "owner/linked", str(source), "--link", "--json")
        assert json.loads(done.stdout)["source"] == "import"
        missing = sage("llm", "model", "import", MODEL, str(source / "nowhere"))
        refused(missing, MODEL, "nowhere", "config.json")
        swapped = sage("llm", "model", "import", str(source), MODEL)
        refused(swapped, f"sage llm model import {MODEL} {source}", code=2)


def test_a_doubtful_model_is_what_the_user_says(
    sage: CommandLine, root: Path, source: Path
) -> None:
    (source / "config.json").write_text('{"architectures": ["GPT2Model"]}')
    importing = ("llm", "model", "import", MODEL, str(source))
    sage(*importing)
    assert vllm_registry.get_model(MODEL, root=root).tags["type"] == "embedding"
    refused(sage("llm", "run", MODEL, "--prompt", "Hello"), "generates no text", "--as text")
    sage(*importing, "--as", "text")
    assert vllm_registry.get_model(MODEL, root=root).tags["type"] == "text"
    wrong = sage(*importing, "--as", "txt")
    assert wrong.returncode == 2
    assert "'txt' is none of text, embedding" in wrong.stderr
