"""Waiting until a server answers, and showing meanwhile what it is at."""

from __future__ import annotations

import os
import re
import signal
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from sage.common.model_registry.vllm_registry import format_seconds
from sage.tools.cli.errors import CommandError
from sage.tools.cli.servers.figures import health
from sage.tools.cli.servers.launch import Launched
from sage.tools.cli.servers.log import last_lines
from sage.tools.cli.terminal.download_display import clip
from sage.tools.cli.terminal.output import is_rich, write_note
from sage.tools.cli.terminal.status_line import status_line

_LOOK_EVERY = 0.2
_PLAIN_EVERY = 10.0
_TAIL = 20
_CAUSE_WITHIN = 500
_LONGEST_CAUSE = 300
_PROCESS = re.compile(r"^\(\w+ pid=\d+\) ")
_SAID = re.compile(r"(?:\(\w+ pid=\d+\) )?INFO [\d-]+ [\d:]+ \[[^\]]*\] (.*\w.*)")
_CAUSE = re.compile(
    r"(?:\(\w+ pid=\d+\) )?(?:ERROR [\d-]+ [\d:]+ \[[^\]]*\] )?([\w.]*(?:Error|Exception): .+)"
)
_SPINNER = "⠋⠙⠹⠸⠼⠴⠦⠧⠇⠏"


def wait_until_ready(server: Launched, *, timeout: float, quiet: bool) -> None:
    """Return when the server answers; raises CommandError where it ends or takes longer."""
    facts = server.record.facts
    log = None if facts["log"] is None else Path(facts["log"])
    began = time.monotonic()
    with _display(f"Starting {facts['name']}", log, quiet=quiet) as show:
        while health(facts["host"], facts["port"]) != "ready":
            waited = time.monotonic() - began
            if server.process.has_ended(_LOOK_EVERY):
                break
            if waited > timeout:
                raise CommandError(
                    f"The server did not answer within {timeout:g} s and was ended.",
                    f"Give it longer with --timeout.{_see(log)}",
                )
            show(waited)
        else:
            return
    raise _ended(server, log)  # only now that the display is off the screen


def _ended(server: Launched, log: Path | None) -> CommandError:
    # Not reaped yet: with its id, its children can be told from others.
    end = os.waitid(os.P_PID, server.popen.pid, os.WEXITED | os.WNOWAIT)
    how = "ended"
    if end is not None:
        was_killed = end.si_code != os.CLD_EXITED
        how = signal.Signals(end.si_status).name if was_killed else f"exit code {end.si_status}"
    cause = ""
    if log is not None:
        for line in last_lines(log, _TAIL):
            write_note(f"  | {line}")
        cause = _cause(last_lines(log, _CAUSE_WITHIN))
    return CommandError(
        f"The server ended while it started ({how}){cause and f': {cause}'}",
        f"What it said last is shown above.{_see(log)}",
    )


def _cause(lines: list[str]) -> str:
    """Return the last error in a log that is not about another one; empty if there is none."""
    cause = ""
    for line, following in zip(lines, [*lines[1:], ""], strict=False):
        match = _CAUSE.fullmatch(line)
        if match is not None and "initialization failed" not in line:
            # Pydantic says on the next line what it found.
            found = match[1] if " validation error" not in line else _PROCESS.sub("", following)
            cause = clip(found.partition(" [type=")[0].strip(), _LONGEST_CAUSE)
    return cause


def _see(log: Path | None) -> str:
    return "" if log is None else f" All of its log: {log}"


@contextmanager
def _display(heading: str, log: Path | None, *, quiet: bool) -> Iterator[Callable[[float], None]]:
    """Return what to call with the seconds waited, again and again."""
    if quiet:
        yield lambda _: None
    elif log is not None and is_rich(sys.stderr):
        with status_line(quiet=quiet) as show:
            yield lambda waited: show(f"{_turn(waited)} {heading}: {_phase(log)}")
    else:
        yield _PlainLines(heading, log)


def _turn(waited: float) -> str:
    """Return a sign that something goes on, and for how long."""
    return f"{_SPINNER[int(waited / _LOOK_EVERY) % len(_SPINNER)]} {format_seconds(waited)}"


class _PlainLines:
    """A line at the start, and one now and then."""

    def __init__(self, heading: str, log: Path | None) -> None:
        self._heading = heading
        self._log = log
        self._next = _PLAIN_EVERY
        write_note(f"{heading} ...")

    def __call__(self, waited: float) -> None:
        if waited >= self._next:
            self._next += _PLAIN_EVERY
            phase = "" if self._log is None else f": {_phase(self._log)}"
            write_note(f"{self._heading} ... {format_seconds(waited)}{phase}")


def _phase(log: Path) -> str:
    """Return what the server said last that is information."""
    said = [match[1] for line in last_lines(log, 50) if (match := _SAID.fullmatch(line))]
    return said[-1].strip() if said else "starting Python"
