"""`sage llm run --score` and `--classify`: a line for each text, and what is refused."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from command_line import lines, refused

from sage.common.model_registry import vllm_registry

if TYPE_CHECKING:
    from command_line import CommandLine

sys.path.append(str(Path(__file__).parents[4] / "sage-common/tests/sage_vllm/scoring"))
from head_models import write_bert

CHAT, RERANKER, MOOD = "test/tiny-chat", "test/reranker", "test/mood"


@pytest.fixture
def root(tmp_path: Path, model_root: Path) -> Path:
    chat = vllm_registry.get_model_path(CHAT, root=model_root)
    vllm_registry.import_model(CHAT, chat, link=True, root=tmp_path / "registry")
    for name, classes in ((RERANKER, 1), (MOOD, 3)):
        folder = tmp_path / name
        folder.mkdir(parents=True)
        write_bert(folder, classes)
        vllm_registry.import_model(name, folder, root=tmp_path / "registry")
    return tmp_path / "registry"


class TestScores:
    def test_each_text_gets_a_line(self, sage: CommandLine) -> None:
        options = ["--dtype", "float32", "--quiet"]
        typed = "ban dar\n\nfat kin\n"
        done = sage("llm", "run", RERANKER, "--score", "ban", *options, typed=typed)
        records = [json.loads(line) for line in lines(done)]
        assert [record["text"] for record in records] == ["ban dar", "fat kin"]
        assert all(0 < record["score"] < 1 for record in records)
        whole = sage("llm", "run", RERANKER, "--score", "ban", *options, "--json", typed=typed)
        scores = json.loads(whole.stdout)["scores"]
        assert scores == pytest.approx([record["score"] for record in records], abs=1e-4)

    def test_a_classifier_and_a_text_model_name_classes(self, sage: CommandLine) -> None:
        done = sage("llm", "run", MOOD, "--classify", "-p", "ban dar", "--quiet")
        (record,) = map(json.loads, lines(done))
        assert record["label"] in ("negative", "neutral", "positive")
        labels = ["--classify", "--labels", "good, bad", "--max-model-len", "256"]
        done = sage("llm", "run", CHAT, *labels, "-p", "what a day", "--quiet")
        (record,) = map(json.loads, lines(done))
        assert record["label"] in ("good", "bad")

    def test_each_line_of_a_file_gets_its_score(self, sage: CommandLine, tmp_path: Path) -> None:
        source, output = tmp_path / "in.jsonl", tmp_path / "out.jsonl"
        source.write_text('{"id": 1, "text": "ban dar"}\n{"id": 2}\n"fat kin"\n')
        files = ["-i", str(source), "-o", str(output), "--quiet"]
        done = sage("llm", "run", RERANKER, "--score", "ban", *files)
        refused(done, "1 of 3 records failed")
        written = [json.loads(line) for line in output.read_text().splitlines()]
        assert [sorted(each) for each in written] == [["id", "score", "text"], ["score", "text"]]
        assert all(0 < each["score"] < 1 for each in written)
        (failed,) = map(json.loads, Path(f"{output}.failed").read_text().splitlines())
        assert (failed["record"]["line"], failed["operator"]) == (2, "score")
        again = sage("llm", "run", RERANKER, "--score", "ban", "--retry-failed", *files)
        refused(again, "1 of 3 records failed")
        other = sage("llm", "run", RERANKER, "--score", "dar", *files)
        refused(other, "it was made with another query", "--overwrite")

    def test_what_such_a_model_needs_is_told_without_being_asked_for(
        self, sage: CommandLine
    ) -> None:
        shown = lines(sage("llm", "run", MOOD, "--estimate"))
        assert shown[0] == f"Model:    {MOOD}"
        assert any("none, as it reads a text all at once" in line for line in shown)


class TestRefused:
    @pytest.mark.parametrize(
        ("options", "said"),
        [
            (["--score", "q"], "no prompt"),
            (["-p", "a", "--score", " "], "--score needs a query"),
            (["-p", "a", "--labels", "x,y"], "--labels are for --classify"),
            (["-p", "a", "--score", "q", "--classify"], "--score and --classify"),
            (["-p", "a", "--classify", "--embed"], "--embed and --classify"),
            (["-p", "a", "--classify", "-t", "0"], "sampling"),
            (["-p", "a", "--score", "q", "--system", "s"], "--system"),
            (["--classify", "--labels", "x", "-p", "a"], "two or more that differ"),
            (["--classify", "--lora", "x/y", "-p", "a"], "--lora"),
        ],
    )
    def test_wrong_use_is_code_2_before_anything_is_loaded(
        self, options: list[str], said: str, sage: CommandLine
    ) -> None:
        done = sage("llm", "run", CHAT, *options)
        refused(done, said, code=2)
        assert "Loading" not in done.stderr

    def test_a_model_says_what_it_is(self, sage: CommandLine) -> None:
        refused(sage("llm", "run", CHAT, "--score", "q", "-p", "a"), "is a text model", "labels=")
        refused(sage("llm", "run", MOOD, "-p", "a"), "classification model", "--classify")
        refused(sage("llm", "run", MOOD, "--score", "q", "-p", "a"), "tells 3 classes apart")
