"""The demo that `make demo` runs, on the model that it trains."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

DEMO = Path(__file__).parents[4] / "examples/service/vllm/vllm_service_demo.py"


def test_the_demo_answers_its_questions(demo_root: Path) -> None:
    done = subprocess.run(
        [sys.executable, str(DEMO), "--prompts", "120"],
        env={**os.environ, "SAGE_VLLM_MODEL_ROOT": str(demo_root), "COLUMNS": "120"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert "Some of 120 answers" in done.stdout
    assert "batch occupancy" in done.stdout
    assert "\x1b" not in done.stdout + done.stderr  # no colour or animation off a terminal
