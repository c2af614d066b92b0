"""A registry with the demo model, trained once for all tests that need it."""

from __future__ import annotations

import os
import pickle
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

FIRST_QUESTION = "What is the capital of France?"


@pytest.fixture(scope="session")
def first_run(
    made_once: Callable[..., Path],
) -> tuple[Path, subprocess.CompletedProcess[str]]:
    """What the first command of the quick start says to someone who has no model, and its registry.

    It trains in a process of its own, so that the memory is given back.
    """

    def run(folder: Path) -> None:
        program = "from sage.tools.cli.main import main; main()"
        done = subprocess.run(
            [sys.executable, "-c", program, "llm", "run", "--prompt", FIRST_QUESTION],
            env={**os.environ, "SAGE_VLLM_MODEL_ROOT": str(folder / "registry")},
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            check=False,
        )
        (folder / "done").write_bytes(pickle.dumps(done))

    folder = made_once("first", run)
    return folder / "registry", pickle.loads((folder / "done").read_bytes())


@pytest.fixture(scope="session")
def demo_root(first_run: tuple[Path, subprocess.CompletedProcess[str]]) -> Path:
    """The registry that the first run leaves."""
    root, done = first_run
    assert done.returncode == 0, done.stderr
    return root
