"""Runs the samples of a page: what it says they print is what they have to print."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

ROOT = Path(__file__).parents[4]
DOCS = ROOT / "docs-public" / "docs_src"

_SAMPLE = re.compile(
    r'^```(python|bash|toml)(?: title="(.+?)")?\n(.*?)^```$\n?(?:\n```text\n(.*?)^```$)?',
    re.MULTILINE | re.DOTALL,
)
_END = "-- end of a sample --\n"
_STILL_RUNNING = re.compile(r"^\w+: \d+%, .+ \| .+\n", re.MULTILINE)
"""How far a run is, which is told of one that lasts: a page shows the quick ones alone."""


@dataclass(frozen=True)
class Sample:
    """A program, or with a name a file; ``printed`` is None where the page does not say."""

    language: str
    name: str
    code: str
    printed: str | None


def samples_of(page: Path) -> list[Sample]:
    """All blocks of a page that are run, and the files that it has one save."""
    text = page.read_text(encoding="utf-8")
    samples = [
        Sample(language, name, code, printed or None)
        for language, name, code, printed in _SAMPLE.findall(text)
    ]
    assert len(samples) == len(re.findall(r"^```(?:python|bash|toml)", text, re.MULTILINE)) > 0
    return samples


def run(
    page: Path, folder: Path, environment: Mapping[str, str], *, one_program: bool = False
) -> None:
    """Run the samples of a page in a folder, each in a process of its own.

    With ``one_program`` they share their variables, and files are left out. A page shows all that
    Python prints, and of a command only its data: the notes on standard error are for whoever
    waits.
    """
    samples = samples_of(page)
    if one_program:
        programs = [sample for sample in samples if not sample.name]
        _run_as_one(programs, folder, environment)
        return
    for sample in samples:
        if sample.name:
            (folder / sample.name).write_text(sample.code)
            continue
        interpreter = (sys.executable, "-c") if sample.language == "python" else ("bash", "-euc")
        done = _process([*interpreter, sample.code], folder, environment)
        assert done.returncode == 0, f"{sample.code}\n{done.stderr}"
        told = _STILL_RUNNING.sub("", done.stderr) if sample.language == "python" else ""
        _compare(sample, done.stdout + told)


def _run_as_one(samples: Sequence[Sample], folder: Path, environment: Mapping[str, str]) -> None:
    program = "".join(f"{s.code}print({_END!r}, end='', flush=True)\n" for s in samples)
    done = _process([sys.executable, "-c", program], folder, environment)
    printed = done.stdout.split(_END)
    assert done.returncode == 0, f"{samples[len(printed) - 1].code}\n{done.stderr}"
    for sample, said in zip(samples, printed, strict=False):
        _compare(sample, said)


def _process(
    command: list[str], folder: Path, environment: Mapping[str, str]
) -> subprocess.CompletedProcess[str]:
    path = f"{Path(sys.executable).parent}:{os.environ['PATH']}"  # for `sage` and `python`
    return subprocess.run(
        command,
        env={**os.environ, **environment, "PATH": path},
        cwd=folder,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        check=False,
        timeout=500,
    )


def _compare(sample: Sample, printed: str) -> None:
    """They are equal, "..." standing for anything and blanks counting once."""
    if sample.printed is None:
        return
    pattern = ".*".join(re.escape(" ".join(part.split())) for part in sample.printed.split("..."))
    equal = re.fullmatch(pattern.replace(r"\ ", " *"), " ".join(printed.split()))
    assert equal, f"{sample.code}\nshould print:\n{sample.printed}\nprinted:\n{printed}"
