"""Pipelines in processes of their own, in a terminal or in a pipe."""

from __future__ import annotations

import codecs
import fcntl
import os
import pty
import re
import select
import struct
import subprocess
import sys
import termios
import textwrap
import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest

TIMEOUT = 40.0  # seconds: on a busy machine it lasts some until Python has begun
ROWS = 24
_TOKEN = re.compile(r"\x1b\[([0-9;?]*)([A-Za-z])|([^\x1b]+)")
_OF_A_TERMINAL = ("COLUMNS", "LINES", "NO_COLOR", "TERM")


def plain() -> dict[str, str]:
    """This process's environment, without what it may have of a terminal."""
    return {key: value for key, value in os.environ.items() if key not in _OF_A_TERMINAL}


def command(program: str) -> list[str]:
    return [sys.executable, "-c", textwrap.dedent(program)]


class Terminal:
    """A program whose streams are a terminal; also what such a terminal shows."""

    def __init__(self, program: str, columns: int, *, stdout: Any = None, **extra: str) -> None:
        self._master, slave = pty.openpty()
        fcntl.ioctl(slave, termios.TIOCSWINSZ, struct.pack("HHHH", ROWS, columns, 0, 0))
        self.process = subprocess.Popen(
            command(program),
            env={**plain(), "TERM": "xterm-256color", **extra},
            stdin=slave,
            stdout=stdout or slave,
            stderr=slave,
            text=True,
            start_new_session=True,
            preexec_fn=lambda: fcntl.ioctl(0, termios.TIOCSCTTY, 0),
        )
        os.close(slave)
        self._text = codecs.getincrementaldecoder("utf-8")()  # a letter may come in two reads
        self.raw = ""

    def read_until(self, pattern: str) -> None:
        """Return when such a text was written; colours are no part of it."""
        end = time.monotonic() + TIMEOUT
        while not re.search(pattern, "\n".join(self.drawn)):
            assert time.monotonic() < end, f"no {pattern!r} within {TIMEOUT} s:\n{self.raw}"
            assert self._read(), f"it ended without {pattern!r}:\n{self.raw}"

    def press_ctrl_c(self) -> None:
        os.write(self._master, b"\x03")

    def finish(self) -> int:
        while self._read():
            pass
        os.close(self._master)
        return self.process.wait(timeout=TIMEOUT)

    @property
    def drawn(self) -> list[str]:
        """All lines that were ever written, without colours."""
        return re.split(r"[\r\n]+", re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", self.raw))

    @property
    def screen(self) -> list[str]:
        """What is left on the screen, as a terminal obeys what it was sent."""
        lines, row, column = [""], 0, 0
        for arguments, code, text in _TOKEN.findall(self.raw):
            if code == "A":
                row = max(0, row - int(arguments or 1))
            elif code == "K":
                assert arguments == "2"
                lines[row] = ""
            else:
                assert code in ("", "m", "h", "l"), code
            for char in text:
                if char == "\r":
                    column = 0
                elif char == "\n":
                    row += 1
                    lines += [""] * (row + 1 - len(lines))
                else:
                    lines[row] = lines[row].ljust(column)
                    lines[row] = lines[row][:column] + char + lines[row][column + 1 :]
                    column += 1
        return [line.rstrip() for line in lines if line.strip()]

    @property
    def cursor_is_visible(self) -> bool:
        return self.raw.rfind("\x1b[?25h") >= self.raw.rfind("\x1b[?25l")

    def _read(self) -> bool:
        ready, _, _ = select.select([self._master], [], [], TIMEOUT)
        assert ready, f"silent for {TIMEOUT} s:\n{self.raw}"
        try:
            data = os.read(self._master, 65536)
        except OSError:  # how Linux says that the other side of a terminal is closed
            return False
        self.raw += self._text.decode(data)
        return bool(data)


@pytest.fixture
def in_terminal() -> Iterator[Callable[..., Terminal]]:
    started: list[Terminal] = []

    def start(program: str, columns: int = 100, **extra: Any) -> Terminal:
        started.append(Terminal(program, columns, **extra))
        return started[-1]

    yield start
    for terminal in started:
        terminal.process.kill()
        terminal.process.wait()
        if terminal.process.stdout is not None:
            terminal.process.stdout.close()


@pytest.fixture
def in_pipe() -> Callable[..., subprocess.CompletedProcess[str]]:
    def run(program: str, **extra: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            command(program),
            env={**plain(), **extra},
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            check=False,
            timeout=TIMEOUT,
        )

    return run
