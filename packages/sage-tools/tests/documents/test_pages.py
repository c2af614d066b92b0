"""The pages are true: their samples run, and print what the pages say."""

from __future__ import annotations

import re
import tomllib
from typing import TYPE_CHECKING

import pytest
from local_hub import LocalHub
from page_samples import DOCS, ROOT, run, samples_of

from sage.common.components.sage_vllm.testing.tiny_model import write_tiny_model

if TYPE_CHECKING:
    from pathlib import Path

BY_THEMSELVES = (
    "checkpoints.md", "coming_from_isage.md", "files.md", "memory.md", "model_pool.md",
    "operations.md", "operators.md", "pictures.md", "pipelines.md", "scoring.md", "testing.md",
    "thinking.md",
    "tools.md",
)  # fmt: skip
ELSEWHERE = (
    "asyncio.md", "fine_tuning_a_model.md", "index.md", "quick_start.md", "rag.md",
    "terminal.md", "middleware/tools/vllm_service.md",
)  # fmt: skip
READMES = sorted(ROOT.glob("packages/*/README.md"))
INSTALLING = r"(git clone|cd|make|python3? -m venv|\.|pip install|pip wheel|export) "


@pytest.mark.parametrize("page", BY_THEMSELVES)
def test_what_needs_nothing(page: str, tmp_path: Path) -> None:
    run(DOCS / page, tmp_path, {"PYTHONWARNINGS": "error,ignore::ResourceWarning"})


@pytest.mark.parametrize("readme", READMES, ids=lambda path: path.parent.name)
def test_the_readme_of_a_package(readme: Path, tmp_path: Path) -> None:
    run(readme, tmp_path, {"PYTHONWARNINGS": "error,ignore::ResourceWarning"})


def test_the_result_cache(tmp_path: Path) -> None:
    run(DOCS / "result_cache.md", tmp_path, {})  # vLLM itself warns of much


def test_models(tmp_path: Path) -> None:
    model = write_tiny_model(tmp_path / "my-model")
    with LocalHub() as hub:
        hub.add_model("sage/tiny-chat", {file.name: file.read_bytes() for file in model.iterdir()})
        environment = hub.environment(tmp_path / "home")
        root = str(tmp_path / "models")
        run(DOCS / "models.md", tmp_path, {**environment, "SAGE_VLLM_MODEL_ROOT": root})


def test_more_than_one_machine(tmp_path: Path) -> None:
    run(DOCS / "cluster.md", tmp_path, {"RAY_ADDRESS": "local"})


def test_a_backend_is_found_by_its_entry_point(tmp_path: Path, without_tuning: Path) -> None:
    page = DOCS / "fine_tuning.md"
    (project,) = (sample.code for sample in samples_of(page) if sample.language == "toml")
    # What installing the page's package would leave beside it.
    package = tomllib.loads(project)["project"]
    installed = tmp_path / f"{package['name'].replace('-', '_')}-{package['version']}.dist-info"
    installed.mkdir()
    (installed / "METADATA").write_text(f"Name: {package['name']}\nVersion: {package['version']}\n")
    with (installed / "entry_points.txt").open("w") as file:
        for group, backends in package["entry-points"].items():
            file.write(f"[{group}]\n" + "".join(f"{k} = {v}\n" for k, v in backends.items()))
    run(page, tmp_path, {"PYTHONPATH": str(without_tuning)})


def test_an_evaluation(tmp_path: Path) -> None:
    run(DOCS / "evaluation.md", tmp_path, {"HF_HOME": str(tmp_path / "home")})


def test_no_sample_is_left_out() -> None:
    run_above = {*BY_THEMSELVES, *ELSEWHERE, "models.md", "fine_tuning.md", "result_cache.md"}
    run_above |= {"evaluation.md", "cluster.md"}
    guide = ROOT / "tools/install/VLLM_INSTALLATION_GUIDE.md"
    for page in (*DOCS.rglob("*.md"), guide):
        text = page.read_text(encoding="utf-8")
        languages = set(re.findall(r"^```(\w+)", text, re.MULTILINE))
        assert languages <= {"python", "bash", "toml", "text", "sh"}, page
        if languages & {"python", "bash"} and page != guide:
            assert str(page.relative_to(DOCS)) in run_above
        for block in re.findall(r"^```sh\n(.*?)^```$", text, re.MULTILINE | re.DOTALL):
            lines = block.replace("\\\n", "").splitlines()
            assert [line for line in lines if not re.match(INSTALLING, line)] == [], page
