"""The README stays short and true, and the first steps lead to an answer from a model."""

from __future__ import annotations

import re
import shutil
import subprocess
from pathlib import Path

import pytest
from local_hub import LocalHub
from page_samples import DOCS, ROOT, run, samples_of

from sage.common.components.sage_vllm.testing.tiny_model import write_tiny_model
from sage.common.model_registry.vllm_registry import list_models

FIRST_QUESTION = "What is the capital of France?"


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


def test_the_terminal_page(environment: dict[str, str], tmp_path: Path) -> None:
    run(DOCS / "terminal.md", tmp_path, environment)


def test_the_way_from_a_server_to_the_service(environment: dict[str, str], tmp_path: Path) -> None:
    run(ROOT / "tools/install/VLLM_INSTALLATION_GUIDE.md", tmp_path, environment)


def test_the_readme_is_one_screen_and_has_the_pipeline_of_the_quick_start() -> None:
    readme = (ROOT / "README.md").read_text()
    assert len(readme.splitlines()) <= 60
    (pipeline,) = re.findall(r"```python\n(.*?)```", readme, re.DOTALL)
    assert len(pipeline.splitlines()) <= 22
    saved = {sample.name: sample.code for sample in samples_of(DOCS / "quick_start.md")}
    assert saved["answers.py"] == pipeline


def test_what_the_readme_points_to_is_there() -> None:
    readme = (ROOT / "README.md").read_text()
    paths = [p for p in re.findall(r"`([\w./-]+)`", readme) if "/" in p and not p.startswith(".")]
    assert paths
    assert [p for p in paths if not (ROOT / p).exists()] == []
