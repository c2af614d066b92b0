"""Names of earlier SAGE: each says the new way, to Python and on the page."""

from __future__ import annotations

import importlib
import importlib.util
import subprocess
import sys
from pathlib import Path

import pytest

from sage.common.core.old_names import OLD_NAMES
from sage.kernel.api import LocalEnvironment

PAGE = Path(__file__).parents[4] / "docs-public" / "docs_src" / "coming_from_isage.md"
MODULES = [old for old in OLD_NAMES if old.startswith("sage.")]
METHODS = [old for old in OLD_NAMES if "." in old and old not in MODULES]
NAMES = [old for old in OLD_NAMES if "." not in old]
DOORS = ["sage.kernel.api", "sage.common.core.functions", "sage.libs.io", "sage.libs.rag"]


def raised(program: str) -> str:
    """Run a program as its own process, with nothing of SAGE imported; return its last line."""
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=False, timeout=60
    )
    assert done.returncode == 1
    return done.stderr.strip().splitlines()[-1]


@pytest.mark.parametrize("old", MODULES)
@pytest.mark.parametrize("below", ["", ".of.old"])
def test_a_module_that_is_no_more_says_the_new_way(old: str, below: str) -> None:
    importlib.import_module("sage.kernel.api")
    name = old.rstrip(".") + below
    if old.endswith(".") and not below:
        importlib.import_module(name)  # it is there; what was below it is not
        return
    with pytest.raises(ModuleNotFoundError) as caught:
        importlib.import_module(name)
    assert str(caught.value).endswith(f"is of an earlier SAGE; now: {OLD_NAMES[old]}")
    assert caught.value.name is not None
    assert name.startswith(caught.value.name)


@pytest.mark.parametrize("old", NAMES)
@pytest.mark.parametrize("door", DOORS)
def test_a_name_that_is_no_more_says_the_new_way_at_any_door(old: str, door: str) -> None:
    with pytest.raises(ImportError) as caught:
        exec(f"from {door} import {old}")
    assert str(caught.value) == f"{door}.{old} is of an earlier SAGE; now: {OLD_NAMES[old]}"


@pytest.mark.parametrize("old", METHODS)
def test_a_method_that_is_no_more_says_the_new_way(old: str) -> None:
    env = LocalEnvironment("old")
    objects = {"LocalEnvironment": env, "DataStream": env.from_collection([1])}
    owner, name = old.split(".")
    with pytest.raises(AttributeError) as caught:
        getattr(objects[owner], name)
    assert str(caught.value).endswith(f"which is of an earlier SAGE; now: {OLD_NAMES[old]}")


@pytest.mark.parametrize(
    ("program", "old"),
    [
        ("from sage.core.api.local_environment import LocalEnvironment", "sage.core"),
        ("import sage.core", "sage.core"),
        ("from sage.common.core.functions.map_function import MapFunction",
         "sage.common.core.functions."),
        ("from sage.kernel.api.remote_environment import RemoteEnvironment",
         "sage.kernel.api.remote_environment"),
        ("from sage.libs.rag.promptor import QAPromptor", "sage.libs.rag.promptor"),
    ],
)  # fmt: skip
def test_the_first_line_of_an_old_program_says_it(program: str, old: str) -> None:
    line = raised(program)
    assert line.startswith("ModuleNotFoundError: ")
    assert line.endswith(OLD_NAMES[old])


def test_other_names_are_missing_as_any_other() -> None:
    env = LocalEnvironment("new")
    assert not hasattr(env, "submitt")
    assert not hasattr(importlib.import_module("sage.kernel.api"), "LocalEnvironmnt")
    assert importlib.util.find_spec("sage.kernel.nothing") is None
    assert importlib.util.find_spec("sage.nothing") is None
    line = raised("from sage.kernel.api import LocalEnvironment; LocalEnvironment().submitt()")
    assert line.endswith("no attribute 'submitt'. Did you mean: 'submit'?")


def table(kinds: list[str]) -> str:
    rows = [f"| `{old.rstrip('.')}` | {OLD_NAMES[old]} |" for old in kinds]
    return "\n".join(["| earlier | now |", "|---|---|", *rows])


@pytest.mark.parametrize("kinds", [MODULES, NAMES, METHODS], ids=["modules", "names", "methods"])
def test_the_page_has_the_table(kinds: list[str]) -> None:
    assert f"\n\n{table(kinds)}\n\n" in PAGE.read_text()
