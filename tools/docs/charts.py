"""Draws a bar chart of each JSON file of figures that the benchmarks wrote.

    python tools/docs/charts.py

A bar is the median over the rounds; the line across its end goes from the least to the greatest.
The pages include the SVGs, and `site.css` gives them the page's colours. Places across are in
percent and texts in pixels, so a narrow screen makes the bars shorter and leaves the texts alone.
"""

from __future__ import annotations

import json
import statistics
from html import escape
from pathlib import Path
from typing import Any

CHARTS = Path(__file__).parents[2] / "docs-public" / "docs_src" / "charts"
TOP, ROW, BAR = 30, 42, 14  # pixels


def drawn(found: dict[str, Any]) -> str:
    """Return the SVG of what a benchmark found, see ``benchmarks/figures.py``."""
    better = statistics.median if found["less_is_better"] else lambda v: -statistics.median(v)
    bars = sorted(found["bars"], key=lambda bar: better(bar["values"]))
    most = max(value for bar in bars for value in bar["values"])
    height = TOP + ROW * len(bars) + 22
    unit = found["unit"] + (", less is better" if found["less_is_better"] else "")
    title = escape(f"{found['title']}, {unit}")
    return "\n".join(
        [
            f'<svg xmlns="http://www.w3.org/2000/svg" class="chart" role="img" width="100%" '
            f'height="{height}" aria-label="{title}">',
            f'<text class="title" x="0" y="14">{title}</text>',
            *(row(bar, TOP + ROW * number, most) for number, bar in enumerate(bars)),
            f'<text class="small" x="0" y="{height - 6}">{escape(found["about"])}</text>',
            "</svg>\n",
        ]
    )


def row(bar: dict[str, Any], top: int, most: float) -> str:
    """Return a bar with its label and its figure above it."""
    kind = " ours" if bar["ours"] else ""
    median = statistics.median(bar["values"])
    middle = top + 18 + BAR / 2
    least, greatest = (f"{100 * end(bar['values']) / most:.1f}%" for end in (min, max))
    tick = 'class="spread" x1="{x}" x2="{x}" y1="{y1:g}" y2="{y2:g}"'
    ends = [tick.format(x=x, y1=middle - 4, y2=middle + 4) for x in (least, greatest)]
    across = f'class="spread" x1="{least}" x2="{greatest}" y1="{middle:g}" y2="{middle:g}"'
    return "\n".join(
        [
            f'<text class="label{kind}" x="0" y="{top + 12}">{escape(bar["label"])}</text>',
            f'<text class="end{kind}" x="100%" y="{top + 12}">{figure(median)}</text>',
            f'<rect class="bar{kind}" x="0" y="{top + 18}" height="{BAR}" rx="2" '
            f'width="{100 * median / most:.1f}%"/>',
            *(f"<line {line}/>" for line in (across, *ends) if least != greatest),
        ]
    )


def figure(value: float) -> str:
    """Return a number with three digits or all those before the point."""
    return f"{value:,.0f}" if value >= 100 else f"{value:#.3g}"


def main() -> None:
    """Draw all charts."""
    for path in sorted(CHARTS.glob("*.json")):
        found = json.loads(path.read_text(encoding="utf-8"))
        path.with_suffix(".svg").write_text(drawn(found), encoding="utf-8")


if __name__ == "__main__":
    main()
