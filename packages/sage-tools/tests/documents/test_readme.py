"""The README's pipeline runs as it stands, and the README stays short."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[4]


def test_the_readme_is_one_screen_and_its_pipeline_answers(demo_root: Path) -> None:
    readme = (ROOT / "README.md").read_text()
    assert len(readme.splitlines()) <= 60
    (snippet,) = re.findall(r"```python\n(.*?)```", readme, re.DOTALL)
    assert len(snippet.splitlines()) <= 22
    done = subprocess.run(
        [sys.executable, "-c", snippet],
        env={**os.environ, "SAGE_VLLM_MODEL_ROOT": str(demo_root)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert "Paris" in done.stdout
    assert "cold" in done.stdout.lower()


def test_what_the_readme_points_to_is_there() -> None:
    readme = (ROOT / "README.md").read_text()
    paths = [p for p in re.findall(r"`([\w./-]+)`", readme) if "/" in p and not p.startswith(".")]
    assert paths
    assert [p for p in paths if not (ROOT / p).exists()] == []
