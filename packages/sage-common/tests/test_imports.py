"""What importing loads, asked of a real interpreter: test_layers.py only reads the sources."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

PACKAGES = Path(__file__).parents[2]
HEAVY = {"vllm", "torch", "ray", "lancedb", "openai"}
NEEDS_THEM = {
    "sage.tools.demo_model.training",
    "sage.tuning.training.trainers",
    "sage.common.components.sage_vllm.backend.fork_server",
    "sage.core",  # raises, which is all that it is for
}

PROGRAM = """
import importlib, sys
for name in sys.argv[1:]:
    importlib.import_module(name)
print(*sys.modules)
"""


def modules() -> list[str]:
    names = []
    for source in sorted(PACKAGES.glob("*/src")):
        for path in sorted(source.rglob("*.py")):
            parts = path.relative_to(source).with_suffix("").parts
            names.append(".".join(parts).removesuffix(".__init__"))
    return [name for name in names if name not in NEEDS_THEM]


def test_importing_every_module_loads_no_engine_and_no_store() -> None:
    names = modules()
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM, *names],
        capture_output=True, text=True, check=False, timeout=60,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    loaded = set(done.stdout.split())
    assert len(names) > 150
    assert set(names) <= loaded
    assert HEAVY & loaded == set()
