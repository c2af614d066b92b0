"""Writes the reference of the command line from the commands themselves.

    python tools/docs/cli_reference.py

What stands above the marker in the page is written by hand and kept. A test compares the page with
what this makes.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import typer

from sage.tools.cli.main import app

PAGE = Path(__file__).parents[2] / "docs-public" / "docs_src" / "cli.md"
MARKER = "<!-- From here on made by tools/docs/cli_reference.py -->\n"


def written(page: str) -> str:
    """Return the page with everything below the marker made anew."""
    by_hand, marker, _ = page.partition(MARKER)
    if not marker:
        raise ValueError(f"{PAGE} has lost its marker: {MARKER.strip()}")
    sage = typer.main.get_command(app)
    root = sage.make_context("sage", [], resilient_parsing=True)
    contexts = list(_contexts(root))
    index = "\n".join(_index_row(context) for context in contexts)
    table = f"| command | does |\n|---|---|\n{index}\n"
    return "\n".join([by_hand + marker, table, *map(_section, contexts)])


def _contexts(context: Any) -> Iterator[Any]:
    """Return the contexts of all commands that the help shows, and of groups that do something."""
    commands = getattr(context.command, "commands", None)
    does_something = context.parent is not None and context.command.params
    if commands is None or does_something:
        yield context
    if commands is None:
        return
    for name in context.command.list_commands(context):
        command = commands[name]
        if not command.hidden:
            yield from _contexts(command.context_class(command, context, info_name=name))


def _index_row(context: Any) -> str:
    anchor = context.command_path.replace(" ", "-")
    summary = _cell(_paragraphs(context.command.help)[0])
    return f"| [`{context.command_path}`](#{anchor}) | {summary} |"


def _section(context: Any) -> str:
    usage = " ".join([context.command_path, *context.command.collect_usage_pieces(context)])
    text = "\n\n".join(map(_escaped, _paragraphs(context.command.help)))
    lines = [f"## {context.command_path}", "", text, "", "```text", usage, "```", ""]
    records = [param.get_help_record(context) for param in context.command.params]
    rows = [f"| `{name}` | {_cell(text)} |" for name, text in filter(None, records)]
    return "\n".join([*lines, "| argument or option | meaning |", "|---|---|", *rows, ""])


def _paragraphs(text: str | None) -> list[str]:
    return [" ".join(part.split()) for part in (text or "").replace("\b", "").split("\n\n")]


def _cell(text: str) -> str:
    return _escaped(text).replace("|", "\\|")


def _escaped(text: str) -> str:
    """Keep Markdown from taking a placeholder for a tag; code is left as it is."""
    parts = text.split("`")
    parts[::2] = [part.replace("<", "&lt;").replace("*", "\\*") for part in parts[::2]]
    return "`".join(parts)


if __name__ == "__main__":
    PAGE.write_text(written(PAGE.read_text(encoding="utf-8")), encoding="utf-8")
