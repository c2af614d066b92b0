"""Records `make demo` in a terminal, and draws what it leaves on the screen as an SVG.

    python tools/docs/demo_picture.py

Everything in the picture is what the command wrote, but for its own line at the top. The SVG loads
no fonts: each piece of text has its width, whatever monospaced font the reader has.
"""

from __future__ import annotations

import fcntl
import io
import os
import pty
import re
import struct
import subprocess
import sys
import termios
from pathlib import Path

from rich.console import Console
from rich.text import Text

ROOT = Path(__file__).parents[2]
PICTURE = ROOT / "docs-public" / "docs_src" / "demo.svg"
COMMAND = ["make", "demo"]
COLUMNS = 84
FORMAT = """\
<svg class="rich-terminal" viewBox="0 0 {width} {height}" xmlns="http://www.w3.org/2000/svg">
<title>What make demo prints</title>
<style>
.{unique_id}-matrix {{
    font-family: ui-monospace, Menlo, Consolas, "DejaVu Sans Mono", monospace;
    font-size: {char_height}px; line-height: {line_height}px;
}}
.{unique_id}-title {{ font-size: 18px; font-weight: bold; font-family: system-ui, sans-serif }}
{styles}
</style>
<defs>
<clipPath id="{unique_id}-clip-terminal">
<rect x="0" y="0" width="{terminal_width}" height="{terminal_height}"/>
</clipPath>
{lines}
</defs>
{chrome}
<g transform="translate({terminal_x}, {terminal_y})" clip-path="url(#{unique_id}-clip-terminal)">
{backgrounds}
<g class="{unique_id}-matrix">
{matrix}
</g>
</g>
</svg>
"""


def recorded(command: list[str]) -> str:
    """Return all that a command writes to a terminal; raises if it fails."""
    master, slave = pty.openpty()
    fcntl.ioctl(slave, termios.TIOCSWINSZ, struct.pack("HHHH", 50, COLUMNS, 0, 0))
    environment = {**os.environ, "TERM": "xterm-256color", "COLORTERM": "truecolor"}
    environment.pop("NO_COLOR", None)
    process = subprocess.Popen(
        command, cwd=ROOT, env=environment, stdin=slave, stdout=slave, stderr=slave
    )
    os.close(slave)
    written = b""
    while True:
        try:
            data = os.read(master, 1 << 16)
        except OSError:  # how Linux says that the other side of a terminal is closed
            break
        written += data
        sys.stderr.buffer.write(data)
    os.close(master)
    if process.wait():
        raise SystemExit(f"{' '.join(command)} ended with status {process.returncode}")
    return written.decode()


def screen(written: str) -> str:
    """Return what is left of it: of a line that was drawn again and again, the last."""
    lines = written.replace("\r\n", "\n").split("\n")
    left = (re.split(r"\x1b\[2K|\r", line)[-1] for line in lines)
    return "\n".join(re.sub(r"\x1b\[\?25[hl]", "", line) for line in left).strip("\n")


def picture(text: str, command: list[str]) -> str:
    """Return the SVG of a terminal with a command and what it wrote."""
    console = Console(
        record=True, width=COLUMNS, file=io.StringIO(), force_terminal=True, highlight=False
    )
    console.print(Text(f"$ {' '.join(command)}", style="bold"))
    console.print(Text.from_ansi(text))
    drawn = console.export_svg(title=" ".join(command), code_format=FORMAT, unique_id="demo")
    return "\n".join(line.rstrip() for line in drawn.splitlines() if line.strip()) + "\n"


if __name__ == "__main__":
    subprocess.run(["make", "--quiet", "setup"], cwd=ROOT, check=True)  # which is no part of it
    PICTURE.write_text(picture(screen(recorded(COMMAND)), COMMAND), encoding="utf-8")
