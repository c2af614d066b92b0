"""The reference of the command line is that of the commands there are."""

from __future__ import annotations

import importlib.util

from page_samples import ROOT

GENERATOR = ROOT / "tools" / "docs" / "cli_reference.py"


def test_the_page_is_what_the_commands_say() -> None:
    spec = importlib.util.spec_from_file_location("cli_reference", GENERATOR)
    assert spec is not None
    assert spec.loader is not None
    generator = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(generator)
    page = generator.PAGE.read_text(encoding="utf-8")
    hint = "commands have changed: run `.venv/bin/python tools/docs/cli_reference.py` and commit"
    assert generator.written(page) == page, hint
