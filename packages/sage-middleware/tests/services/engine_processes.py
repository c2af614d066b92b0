"""The processes of vLLM's engines that this process has started."""

from __future__ import annotations

import os
from pathlib import Path


def engine_processes() -> list[int]:
    """Return their ids; those of engines, which have workers as children."""
    tasks = Path(f"/proc/{os.getpid()}/task").glob("*/children")
    children = [int(child) for task in tasks for child in task.read_text().split()]
    return [pid for pid in children if "VLLM" in Path(f"/proc/{pid}/comm").read_text()]
