"""Keeps what was measured as JSON, of which ``tools/docs/charts.py`` draws the site's charts."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path

CHARTS = Path(__file__).parents[1] / "docs-public" / "docs_src" / "charts"


def write_figures(
    name: str,
    bars: Mapping[str, Sequence[float]],
    *,
    title: str,
    unit: str,
    ours: Sequence[str],
    less_is_better: bool = False,
) -> None:
    """Write the figures of each way, round by round, to ``charts/<name>.json``.

    ``bars`` has the figures by the ways' titles; ``ours`` names those of them that are SAGE's.
    """
    rounds = max(map(len, bars.values()))
    found = {
        "title": title,
        "unit": unit,
        "less_is_better": less_is_better,
        "about": f"{this_machine()}; {datetime.now(UTC):%Y-%m-%d}; rounds: {rounds}",
        "bars": [
            {"label": label, "ours": label in ours, "values": [float(f"{v:.4g}") for v in values]}
            for label, values in bars.items()
        ],
    }
    CHARTS.mkdir(exist_ok=True)
    (CHARTS / f"{name}.json").write_text(json.dumps(found, indent=2) + "\n", encoding="utf-8")


def this_machine() -> str:
    """Return the processor's name and how many of its cores can be used."""
    lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return f"{names[0] if names else 'unknown processor'}, {len(os.sched_getaffinity(0))} cores"
