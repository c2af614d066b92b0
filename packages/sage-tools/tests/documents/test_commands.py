"""What the documents say that one can type is what the command line takes."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import typer
from page_samples import DOCS, ROOT

from sage.tools.cli.main import app

PAGES = [
    *sorted(page for page in DOCS.rglob("*.md") if page.name != "cli.md"),  # which is generated
    ROOT / "README.md",
    ROOT / "dev-notes" / "DEV_COMMANDS.md",
    ROOT / "tools" / "install" / "VLLM_INSTALLATION_GUIDE.md",
]
BLOCK = re.compile(r"^```(?:sh|bash)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
CODE = re.compile(r"`(?:\.venv/bin/)?(sage [^`]+)`")


def commands_of(page: Path) -> Iterator[str]:
    """All commands of a page, in blocks and in sentences."""
    text = page.read_text(encoding="utf-8")
    for block in BLOCK.findall(text):
        for line in block.replace("\\\n", " ").splitlines():
            before, sage, rest = line.partition("sage llm")
            if sage and re.fullmatch(r"(.*[|($] ?)?", before):
                yield re.split(r" [|>#] ?|\)", sage + rest)[0]
    yield from CODE.findall(BLOCK.sub("", text))


def wrong(command: str) -> str:
    """What is wrong with a command; empty if nothing is."""
    words = re.sub(r'"[^"]*"', "TEXT", re.sub(r"[\[\]]", " ", command)).split()[1:]
    found: Any = typer.main.get_command(app)
    while words and hasattr(found, "commands"):
        if words[0].startswith("-"):
            break
        if words[0] not in found.commands:
            return f"no command {words[0]!r}"
        found = found.commands[words.pop(0)]
    words = words[: words.index("--")] if "--" in words else words
    known = {option for param in found.params for option in param.opts} | {"--help", "-h"}
    unknown = [word for word in words if word.startswith("-") and word.split("=")[0] not in known]
    return f"no option {unknown[0]!r}" if unknown else ""


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_every_command_and_flag_exists(page: Path) -> None:
    found = [(command, problem) for command in commands_of(page) if (problem := wrong(command))]
    assert found == []


def test_it_looks_at_what_the_documents_have() -> None:
    commands = [command for page in PAGES for command in commands_of(page)]
    assert len(commands) > 80
    assert "sage llm start [MODEL] [--port 8000] [--background]" in map(str.strip, commands)
    assert wrong("sage llm modl show") == "no command 'modl'"
    assert wrong("sage llm run [--jsn]") == "no option '--jsn'"
