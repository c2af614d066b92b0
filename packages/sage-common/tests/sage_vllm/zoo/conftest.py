"""The zoo, written once for all tests of it."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

HERE = Path(__file__).parent
if str(HERE) not in sys.path:  # importlib mode leaves it out
    sys.path.insert(0, str(HERE))


@pytest.fixture(scope="session")
def zoo(made_once: Callable[..., Path]) -> Path:
    """The folder with all models of the zoo, and with what transformers makes of the prompts."""
    # Models this small are faster on one core, and do not wait for another one that is busy.
    settings = {"OMP_NUM_THREADS": "1", "TRANSFORMERS_VERBOSITY": "error", "HF_HUB_OFFLINE": "1"}

    def write(folder: Path) -> None:
        subprocess.run(
            [sys.executable, HERE / "write_zoo.py", folder],
            env={**os.environ, **settings},
            check=True,
            timeout=300,
        )

    return made_once("zoo", write)
