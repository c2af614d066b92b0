"""The example notebook runs as it stands, in a real kernel, and shows what it promises."""

from __future__ import annotations

import json
import re
import warnings
from pathlib import Path
from typing import Any

import pytest
from page_samples import ROOT

with warnings.catch_warnings():  # the packages' own
    warnings.simplefilter("ignore")
    import nbformat
    from nbclient import NotebookClient

NOTEBOOK = ROOT / "examples/notebooks/first_pipeline.ipynb"
MOST_LINES = 40  # that a cell prints


def test_the_first_pipeline(
    demo_root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SAGE_VLLM_MODEL_ROOT", str(demo_root))
    monkeypatch.setenv("IPYTHONDIR", str(tmp_path / "ipython"))  # its history is nobody else's
    notebook = nbformat.read(NOTEBOOK, as_version=4)
    folder = {"metadata": {"path": str(tmp_path)}}
    NotebookClient(notebook, timeout=500, kernel_name="python3", resources=folder).execute()
    asked, run, answers, metrics, good, bad, closed = (
        cell.outputs for cell in notebook.cells if cell.cell_type == "code"
    )
    (printed,) = asked  # nothing else, of vLLM or torch, on standard error
    assert printed["text"] == "The capital of France is Paris.\n"
    (progress,) = run
    assert re.match("questions: ended after .*: 1,000 read", progress["data"]["text/plain"])
    assert "1,000 records, the first 20:" in html(answers)
    assert "<th>question</th><th>answer</th>" in html(answers)
    assert "questions: ended, 1,000 of 1,000 done" in html(metrics)
    assert "cold" in html(good)
    assert "the record has no field &#x27;question&#x27;" in html(bad)
    assert closed == []
    assert max(map(lines, (asked, run, answers, metrics, good, bad))) <= MOST_LINES


def test_it_is_kept_as_it_was_run() -> None:
    """So that whoever looks at it in the repository sees what it shows."""
    cells = json.loads(NOTEBOOK.read_text())["cells"]
    shown = [bool(cell["outputs"]) for cell in cells if cell["cell_type"] == "code"]
    assert shown == [True] * 6 + [False]


def html(outputs: list[dict[str, Any]]) -> str:
    (output,) = outputs
    return str(output["data"]["text/html"])


def lines(outputs: list[dict[str, Any]]) -> int:
    texts = [each.get("text") or each["data"]["text/plain"] for each in outputs]
    return sum(len(text.splitlines()) for text in texts)
