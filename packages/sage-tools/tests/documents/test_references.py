"""The generated references say what the commands, classes and methods say themselves."""

from __future__ import annotations

import importlib.util
import inspect
from types import ModuleType

import pytest
from page_samples import ROOT

from sage.kernel.api import LocalEnvironment

TOOLS = ROOT / "tools" / "docs"


def tool(name: str) -> ModuleType:
    spec = importlib.util.spec_from_file_location(name, TOOLS / f"{name}.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.mark.parametrize("name", ["cli_reference", "operator_reference"])
def test_the_page_is_what_its_generator_writes(name: str) -> None:
    generator = tool(name)
    page = generator.PAGE.read_text(encoding="utf-8")
    hint = f"run `.venv/bin/python tools/docs/{name}.py` and commit {generator.PAGE.name}"
    assert generator.written(page) == page, hint


def test_every_public_method_of_an_environment_is_on_the_page() -> None:
    page = tool("operator_reference").PAGE.read_text(encoding="utf-8")
    methods = inspect.getmembers(LocalEnvironment, inspect.isfunction)
    public = {name for name, _ in methods if not name.startswith("_")}
    assert {name for name in public if f"### env.{name}\n" not in page} == {
        "register_service_factory",  # what the other two are made of
    }


def undocumented(records: int, name: str) -> None:
    """Do something.

    Args:
        records: how many.
    """


def test_a_parameter_without_a_description_is_refused() -> None:
    with pytest.raises(ValueError, match="undocumented does not describe 'name'"):
        tool("operator_reference").section(undocumented)
