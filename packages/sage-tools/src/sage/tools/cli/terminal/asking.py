"""Asking whoever sits at the terminal before something is done that cannot be undone."""

from __future__ import annotations

import sys
from collections.abc import Callable

import typer

from sage.tools.cli.terminal.output import write_note


def ask(
    question: str, *, does: str, otherwise: str, show: Callable[[], object] | None = None
) -> None:
    """Return if the answer is yes; else say ``otherwise`` and end with the code 1.

    ``show`` prints what is asked about. Where nobody sits, it is a usage error, which tells what
    the command ``does``.
    """
    if not sys.stdin.isatty():
        raise typer.BadParameter(f"this {does} and nobody can be asked: add --yes")
    if show is not None:
        show()
    sys.stderr.write(f"{question} [y/N] ")
    sys.stderr.flush()
    if sys.stdin.readline().strip().lower() not in ("y", "yes"):
        write_note(otherwise)
        raise typer.Exit(1)
