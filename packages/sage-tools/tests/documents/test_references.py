"""What tools make for the pages is what they make of today's commands, classes and figures."""

from __future__ import annotations

import importlib.util
import inspect
import json
import re
import xml.etree.ElementTree as ET
from types import ModuleType

import pytest
from page_samples import DOCS, ROOT

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


def test_the_charts_are_drawn_of_the_figures_beside_them() -> None:
    page = (DOCS / "performance.md").read_text(encoding="utf-8")
    charts = sorted((DOCS / "charts").glob("*.svg"))
    shown = set(re.findall(r'--8<-- "charts/(\w+\.svg)"', page))
    assert {chart.name for chart in charts} >= shown != set()
    for chart in charts:
        found = json.loads(chart.with_suffix(".json").read_text(encoding="utf-8"))
        hint = "run `.venv/bin/python tools/docs/charts.py` and commit"
        assert chart.read_text(encoding="utf-8") == tool("charts").drawn(found), hint


def test_a_chart_shows_the_median_and_the_spread() -> None:
    bars = [
        {"label": "slow & steady", "ours": False, "values": [50.0, 50.0]},
        {"label": "ours", "ours": True, "values": [150.0, 100.0, 200.0]},
    ]
    about = {"title": "Speed", "unit": "tokens/s", "about": "a CPU; rounds: 3"}
    chart = tool("charts").drawn({**about, "less_is_better": False, "bars": bars})
    texts = [text.text for text in ET.fromstring(chart).iter() if text.tag.endswith("}text")]
    assert texts[:3] == ["Speed, tokens/s", "ours", "150"]  # the best first
    assert texts[3:] == ["slow & steady", "50.0", "a CPU; rounds: 3"]
    assert 'width="75.0%"' in chart  # of the greatest of all
    assert 'x1="50.0%" x2="100.0%"' in chart
    assert chart.count("<line") == 3  # of the one that has a spread


def test_the_picture_of_the_demo_loads_nothing() -> None:
    picture = (DOCS / "demo.svg").read_text(encoding="utf-8")
    words = "".join(ET.fromstring(picture).itertext()).replace("\xa0", " ")
    assert "$ make demo" in words
    assert "batch occupancy" in words
    assert re.findall(r"https?://[^\"]+", picture) == ["http://www.w3.org/2000/svg"]
