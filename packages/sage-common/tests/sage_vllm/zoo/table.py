"""Measures the whole zoo and writes the table of the page on models: `make zoo`.

Each model is loaded in a process of its own, so that the memory it takes can be told: the peak of
the process, beside what was estimated before it was loaded.
"""

from __future__ import annotations

import multiprocessing
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

HERE = Path(__file__).parent
sys.path.insert(0, str(HERE))

from measured import FLOAT32, TextRow, VectorRow, embedded, generated  # noqa: E402
from zoo_models import ENCODERS, PROMPTS, TEXT, variants  # noqa: E402

from sage.common.components.sage_vllm.engine_contract import EngineSpec  # noqa: E402
from sage.common.components.sage_vllm.planning.memory_estimate import estimate_memory  # noqa: E402
from sage.common.model_registry import get_model  # noqa: E402

PAGE = HERE.parents[4] / "docs-public" / "docs_src" / "model_zoo.md"
BEGIN, END = "<!-- make zoo writes what follows -->", "<!-- to here -->"


@dataclass(frozen=True)
class Measured:
    """What a process found: a row, and its memory in bytes."""

    row: Any
    estimated: int
    peak: int


def _in_process(function: Any, *args: Any) -> Measured:
    with multiprocessing.get_context("spawn").Pool(1) as pool:
        return pool.apply(_measure, (function, *args))


def _measure(function: Any, *args: Any) -> Measured:
    with tempfile.TemporaryDirectory() as folder:
        row = function(*args, Path(folder))
        status = Path("/proc/self/status").read_text()
        peak = int(status.partition("VmHWM:")[2].split()[0]) * 1024
        model = get_model("zoo/model", root=folder)
        spec = EngineSpec(
            model_id="zoo/model",
            path=model.path,
            role="generate" if isinstance(row, TextRow) else "embed",
            mode="inline",
            arguments=FLOAT32,
            allow_pickle=False,
        )
        estimate = estimate_memory(spec, "cpu")
        kv_cache = 0 if estimate.kv_bytes == 0 else FLOAT32["kv_cache_memory_bytes"]
        total = estimate.weight_bytes + estimate.overhead_bytes + kv_cache
    return Measured(row, total, peak)


def _least_cosine(folders: list[Path], root: Path) -> VectorRow:
    rows = [embedded(folder, root) for folder in folders]
    return min(rows, key=lambda row: row.least_cosine)


def main() -> None:
    """Measure, and write the table into the page."""
    lines = ["| text model | equal answers | estimated / taken |", "|---|---|---|"]
    with tempfile.TemporaryDirectory() as name:
        zoo = Path(name)
        subprocess.run([sys.executable, HERE / "write_zoo.py", zoo], check=True)
        for model, species in TEXT.items():
            if species.refused:
                lines.append(f"| {model} | refused on a CPU | |")
                continue
            found = _in_process(generated, zoo / model)
            row: TextRow = found.row
            ties = f", {row.near_ties} near a tie" if row.near_ties else ""
            lines.append(
                f"| {model} | {row.equal} of {len(PROMPTS)}{ties} "
                f"| {found.estimated / found.peak:.2f} |"
            )
        lines += ["", "| embedding model | least cosine | estimated / taken |", "|---|---|---|"]
        for model, species in ENCODERS.items():
            if species.refused:
                lines.append(f"| {model} | refused | |")
                continue
            # One process for all its variants: they take the same memory.
            found = _in_process(_least_cosine, [zoo / variant for variant, _, _ in variants(model)])
            lines.append(
                f"| {model} | {found.row.least_cosine:.6f} | {found.estimated / found.peak:.2f} |"
            )
    before, _, rest = PAGE.read_text().partition(BEGIN)
    after = rest.partition(END)[2]
    PAGE.write_text(before + "\n".join([BEGIN, "", *lines, "", END]) + after)
    print("\n".join(lines))


if __name__ == "__main__":
    main()
