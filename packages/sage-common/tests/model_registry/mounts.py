"""File systems that a test mounts where it is permitted."""

from __future__ import annotations

import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest


@contextmanager
def mounted(*how: str, folder: Path) -> Iterator[None]:
    """Mount over `folder`; skips the test where that is not permitted."""
    if subprocess.run(["mount", *how, str(folder)], capture_output=True).returncode != 0:
        pytest.skip("mounting needs a privileged user")
    try:
        yield
    finally:
        subprocess.run(["umount", str(folder)], check=True)
