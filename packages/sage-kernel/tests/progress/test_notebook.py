"""What a notebook shows of runs and records, asked of a real kernel."""

from __future__ import annotations

import warnings
from typing import Any

import pytest

with warnings.catch_warnings():  # the packages' own
    warnings.simplefilter("ignore")
    import nbformat
    from nbclient import NotebookClient

PIPELINE = """
import time
from functools import partial
from sage.kernel.api import CollectSink, LocalEnvironment

def invert(x):
    time.sleep(0.001)
    return {"number": x, "<inverse>": 1 / (x % 100), "vector": [0.5] * 300}

failed = []
env = LocalEnvironment("squares")
stream = env.from_collection(range(1000), name="read")
stream = stream.map(invert, name="in<ver>t", on_error=partial(CollectSink, failed))
records = stream.collect(progress=True)
"""
CELLS = [PIPELINE, "records", "env.metrics()", "failed[0]"]


@pytest.fixture(scope="module")
def outputs(tmp_path_factory: pytest.TempPathFactory) -> list[list[dict[str, Any]]]:
    """What each of the cells shows."""
    notebook = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(c) for c in CELLS])
    folder = {"metadata": {"path": str(tmp_path_factory.mktemp("notebook"))}}
    NotebookClient(notebook, timeout=60, kernel_name="python3", resources=folder).execute()
    return [cell.outputs for cell in notebook.cells]


def shown(outputs: list[dict[str, Any]]) -> tuple[str, str]:
    """The HTML and the text of the one thing that a cell shows."""
    (output,) = outputs
    return output["data"]["text/html"], output["data"]["text/plain"]


def test_a_run_is_one_table_that_says_in_the_end_what_became_of_it(
    outputs: list[list[dict[str, Any]]],
) -> None:
    html, text = shown(outputs[0])
    assert text.startswith("squares: ended after ")
    assert "1,000 read, 990 written, 10 dead-lettered" in text
    assert text in html
    assert html.count("<tr>") == 4  # the names of the columns, and three operators
    assert "in&lt;ver&gt;t" in html


def test_collected_records_are_a_table_of_the_first(outputs: list[list[dict[str, Any]]]) -> None:
    html, text = shown(outputs[1])
    assert "990 records, the first 20:" in html
    assert html.count("<tr>") == 21
    assert "<th>number</th><th>&lt;inverse&gt;</th><th>vector</th>" in html
    assert "[0.5, 0.5, 0.5, 0.5, 0.5, 0.5, ...]" in html
    assert text.splitlines()[:2] == [
        "990 records, the first 20:",
        "{'<inverse>': 1.0, 'number': 1, 'vector': [0.5, 0.5, 0.5, 0.5, 0.5, 0.5, ...]}",
    ]
    assert len(text.splitlines()) == 21


def test_metrics_and_failed_records_are_tables(outputs: list[list[dict[str, Any]]]) -> None:
    html, _ = shown(outputs[2])
    assert "squares: ended, 1,000 of 1,000 done, " in html
    assert html.count("<tr>") == 4
    html, _ = shown(outputs[3])
    assert "ZeroDivisionError: division by zero" in html
