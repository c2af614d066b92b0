from __future__ import annotations

import io
import re
import time

import pytest

from sage.tools.demo_model.progress import TrainingProgress


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def shown(stream: io.StringIO) -> str:
    progress = TrainingProgress(stream=stream)
    for step in range(1, 201):
        progress.update(step, 200)
    progress.finish("all well")
    return stream.getvalue()


def test_few_lines_off_a_terminal() -> None:
    began = time.monotonic()
    lines = shown(io.StringIO()).splitlines()
    assert len(lines) == 6
    told = re.fullmatch(r"Trained the demo model in (\d+) s: all well", lines[-1])
    assert told is not None
    assert int(told[1]) <= round(time.monotonic() - began)


def test_one_moving_line_on_a_terminal(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("NO_COLOR", raising=False)
    assert shown(Terminal()).count("\n") == 1


def test_nothing_moves_with_no_color(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NO_COLOR", "1")
    assert "\r" not in shown(Terminal())
