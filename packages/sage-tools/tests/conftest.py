"""A registry with the demo model, trained once for all tests that need it."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest


@pytest.fixture(scope="session")
def demo_root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Train in a process of its own, so that its memory is given back."""
    root = tmp_path_factory.mktemp("demo-registry")
    program = (
        "import sys; from sage.tools.demo_model import ensure_demo_model; "
        "ensure_demo_model(sys.argv[1])"
    )
    subprocess.run([sys.executable, "-c", program, str(root)], check=True)
    return root
