"""The public names: which package offers which, and that users are shown no other way in."""

from __future__ import annotations

import importlib
import re
import subprocess
import sys
from pathlib import Path

import pytest

TESTS = Path(__file__).parent
PACKAGES = TESTS.parents[1]
TOP = TESTS.parents[2]
DOORS: dict[str, list[str]] = {
    line.split()[0]: line.split()[1:]
    for line in (TESTS / "public_names.txt").read_text().splitlines()
    if line and not line.startswith("#")
}
SHOWN = [
    TOP / "README.md",
    *sorted(TOP.glob("docs-public/docs_src/**/*.md")),
    *sorted(TOP.glob("tools/install/*.md")),
    *sorted(TOP.glob("packages/*/README.md")),
    *sorted(TOP.glob("examples/**/*.py")),
    *sorted(TOP.glob("examples/**/*.ipynb")),
]
# Where modules of the kernel meet each other, and no user.
INTERNAL = {"sage.kernel.graph", "sage.kernel.runtime.checkpoint"}
IMPORTED = re.compile(r"(?:from|import) (sage\.[\w.]+)")
HEAVY = {"vllm", "torch", "transformers", "ray", "lancedb", "openai", "pyarrow"}

PROGRAM = """
import importlib, sys
for door in sys.argv[1:]:
    module = importlib.import_module(door)
    for name in module.__all__:
        getattr(module, name)
print(*sys.modules)
"""


def test_each_door_is_listed() -> None:
    found = set()
    for path in PACKAGES.glob("*/src/sage/**/__init__.py"):
        if "__all__" in path.read_text():
            found.add(".".join(path.parent.parts[path.parts.index("src") + 1 :]))
    assert found == set(DOORS) | INTERNAL


@pytest.mark.parametrize("door", DOORS)
def test_the_public_names_are_those_listed(door: str) -> None:
    module = importlib.import_module(door)
    assert module.__all__ == sorted(module.__all__)
    # A name comes or goes here too, so that whoever changes what users see does it knowingly.
    assert module.__all__ == sorted(DOORS[door])
    assert set(module.__all__) <= set(dir(module))
    for name in module.__all__:
        assert getattr(module, name) is not None
    with pytest.raises(AttributeError, match="nothing_of_this_name"):
        _ = module.nothing_of_this_name


def test_no_name_loads_an_engine_or_a_store() -> None:
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM, *DOORS],
        capture_output=True, text=True, check=False, timeout=60,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert HEAVY & set(done.stdout.split()) == set()


@pytest.mark.parametrize("path", SHOWN, ids=lambda path: str(path.relative_to(TOP)))
def test_documents_and_examples_use_doors_alone(path: Path) -> None:
    text = path.read_text()
    assert set(IMPORTED.findall(text)) <= set(DOORS)
