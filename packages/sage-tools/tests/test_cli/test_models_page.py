"""The page on models is true: its commands and its code run, and print what it says."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from command_line import CommandLine
    from local_hub import LocalHub

PAGE = Path(__file__).parents[4] / "docs-public" / "docs_src" / "models.md"
_BLOCK = re.compile(r"^```(bash|python|text)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
INTERPRETERS = {"bash": ("bash", "-euc"), "python": (sys.executable, "-c")}


def test_the_page_runs(
    sage: CommandLine, hub: LocalHub, files: dict[str, bytes], source: Path
) -> None:
    hub.add_model("sage/tiny-chat", files)
    source.rename(source.with_name("my-model"))
    environment = {
        **sage.environment,
        "PATH": f"{Path(sys.executable).parent}:{sage.environment['PATH']}",
    }
    printed = None
    ran = 0
    for language, text in _BLOCK.findall(PAGE.read_text(encoding="utf-8")):
        if language == "text":
            if printed is not None:
                assert _matches(text, printed), f"expected:\n{text}\nprinted:\n{printed}"
            printed = None
            continue
        done = subprocess.run(
            [*INTERPRETERS[language], text],
            env=environment,
            cwd=source.parent,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=120,
        )
        assert done.returncode == 0, f"{text}\n{done.stderr}"
        printed = done.stdout
        ran += 1
    assert ran == 9


def _matches(expected: str, printed: str) -> bool:
    """Whether they are equal, "..." standing for anything and spaces counting once."""
    pattern = ".*".join(re.escape(" ".join(part.split())) for part in expected.split("..."))
    return re.fullmatch(pattern.replace(r"\ ", " *"), " ".join(printed.split())) is not None
