"""Running `sage` as a user does: in a process of its own, in a pipe or in a terminal."""

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
import time
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

SAGE = (sys.executable, "-c", "from sage.tools.cli.main import main; main()")
TIMEOUT = 300.0
TOKEN = "hf_averysecrettoken"
_CONTROL = re.compile(r"\x1b\[[0-9;?]*[A-Za-z]")


class CommandLine:
    """`sage` with one environment; a context manager that leaves no process behind."""

    def __init__(self, environment: Mapping[str, str], program: tuple[str, ...] = SAGE) -> None:
        self._program = program
        # Commands see what a user's do, not how the tests run, or what an engine in them has set.
        self.environment = {
            name: value
            for name, value in environment.items()
            if name != "PYTHONUNBUFFERED" and not name.startswith("VLLM_")
        }
        self._started: list[subprocess.Popen[Any]] = []

    def __enter__(self) -> CommandLine:
        return self

    def __exit__(self, *_: object) -> None:
        for process in self._started:
            process.kill()
            process.wait()
            for stream in (process.stdin, process.stdout, process.stderr):
                if stream is not None:
                    stream.close()

    def __call__(
        self, *arguments: str, typed: str | None = None, **extra: str
    ) -> subprocess.CompletedProcess[str]:
        """Run a command with pipes for all of its streams; `typed` comes in by stdin."""
        process = self.start(*arguments, reads=typed is not None, **extra)
        out, err = process.communicate(typed, timeout=TIMEOUT)
        return subprocess.CompletedProcess(arguments, process.returncode, out, err)

    def start(self, *arguments: str, reads: bool = False, **extra: str) -> subprocess.Popen[str]:
        """Start a command with pipes for all of its streams; stdin is empty unless it `reads`."""
        process = subprocess.Popen(
            [*self._program, *arguments],
            env={**self.environment, **extra},
            stdin=subprocess.PIPE if reads else subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        self._started.append(process)
        return process

    def terminal(self, *arguments: str, columns: int = 100, **extra: str) -> Terminal:
        """Start a command in a terminal of its own."""
        terminal = Terminal([*self._program, *arguments], {**self.environment, **extra}, columns)
        self._started.append(terminal.process)
        return terminal


class Terminal:
    """A process whose three streams are one terminal."""

    def __init__(self, command: list[str], environment: Mapping[str, str], columns: int) -> None:
        self._master, slave = pty.openpty()
        fcntl.ioctl(slave, termios.TIOCSWINSZ, struct.pack("HHHH", 24, columns, 0, 0))
        self.process = subprocess.Popen(
            command,
            env={**environment, "TERM": "xterm-256color"},
            stdin=slave,
            stdout=slave,
            stderr=slave,
            start_new_session=True,
            preexec_fn=lambda: fcntl.ioctl(0, termios.TIOCSCTTY, 0),
        )
        os.close(slave)
        self.raw = ""
        self._decoder = codecs.getincrementaldecoder("utf-8")()
        self._seen = 0

    def read_until(self, text: str) -> str:
        """Read until `text` was printed; returns all that was printed so far."""
        while text not in self.raw:
            assert self._read(), f"it ended without {text!r}:\n{self.raw}"
        return self.raw

    def read_next(self, text: str) -> str:
        """Read until `text` was printed once more; returns what was printed since the last time."""
        while (end := self.raw.find(text, self._seen)) < 0:
            assert self._read(), f"it ended without another {text!r}:\n{self.raw}"
        part = self.raw[self._seen : end + len(text)]
        self._seen = end + len(text)
        return _CONTROL.sub("", part).replace("\r\n", "\n")

    def read_more(self, count: int) -> None:
        """Read until so many more characters were printed."""
        end = len(self.raw) + count
        while len(self.raw) < end:
            assert self._read(), f"it ended too soon:\n{self.raw}"

    def hang_up(self) -> None:
        """Close the terminal, as its window would."""
        os.close(self._master)

    def type(self, text: str) -> None:
        """Type, as a user would; "\\x03" is Ctrl-C."""
        os.write(self._master, text.encode())

    def finish(self) -> int:
        """Read to the end; returns the exit code."""
        while self._read():
            pass
        os.close(self._master)
        return self.process.wait(timeout=TIMEOUT)

    @property
    def text(self) -> str:
        """All that was printed, without what moves the cursor or colours."""
        return _CONTROL.sub("", self.raw).replace("\r\n", "\n")

    @property
    def frames(self) -> list[str]:
        """What was on the screen, one after the other, where a display draws over itself."""
        return [_CONTROL.sub("", part).replace("\r", "") for part in self.raw.split("\x1b[J")]

    def _read(self) -> bool:
        ready, _, _ = select.select([self._master], [], [], TIMEOUT)
        assert ready, f"silent for {TIMEOUT} s:\n{self.raw}"
        try:
            data = os.read(self._master, 65536)
        except OSError:  # how Linux says that the other side of a terminal is closed
            return False
        self.raw += self._decoder.decode(data)
        return bool(data)


def wait_for_the_end(left: Callable[[], list[str]]) -> None:
    """Wait until no process is left: the kernel ends some a moment after their command."""
    limit = time.monotonic() + 60
    while still := left():
        assert time.monotonic() < limit, still
        time.sleep(0.05)


def lines(done: subprocess.CompletedProcess[str]) -> list[str]:
    assert done.returncode == 0, done.stderr
    assert "\x1b" not in done.stdout + done.stderr
    return done.stdout.splitlines()


def refused(done: subprocess.CompletedProcess[str], *said: str, code: int = 1) -> None:
    """It failed with this code, an error, a hint, and not a word on stdout."""
    assert (done.returncode, done.stdout) == (code, ""), done.stderr
    error, hint = done.stderr.splitlines()[-2:]
    assert error.startswith("Error: " if code == 1 else "Usage error: ")
    assert hint.startswith("Hint: ")
    for text in said:
        assert text in f"{error}\n{hint}"
    assert "Traceback" not in done.stderr
    assert TOKEN not in done.stderr
