"""The page on pipelines is true: its code runs and prints what it says."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

PAGE = Path(__file__).parents[4] / "docs-public" / "docs_src" / "pipelines.md"
TEXT = PAGE.read_text(encoding="utf-8")
_SAMPLE = re.compile(r"^```python\n(.*?)^```\n\n```text\n(.*?)^```$", re.MULTILINE | re.DOTALL)
SAMPLES = _SAMPLE.findall(TEXT)


@pytest.mark.parametrize(("program", "expected"), SAMPLES, ids=range(len(SAMPLES)))
def test_a_sample_prints_what_the_page_says(program: str, expected: str, tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", program],
        cwd=tmp_path,  # where a sample makes its models
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )
    assert done.returncode == 0, done.stderr
    pattern = ".*".join(map(re.escape, expected.split("...")))
    assert re.fullmatch(pattern, done.stdout + done.stderr), done.stdout + done.stderr


def test_every_sample_is_one_that_runs() -> None:
    assert len(SAMPLES) == TEXT.count("```python") == 11


def test_the_pages_it_links_to_are_there() -> None:
    pages = set(re.findall(r"\]\(([\w.]+)\)", TEXT))
    assert pages == {"checkpoints.md", "models.md"}
    assert all((PAGE.parent / page).is_file() for page in pages)
