"""How models look on the command line: as table rows, in detail, and as JSON."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Any

from sage.common.model_registry.vllm_registry import ModelInfo, format_bytes
from sage.tools.cli.machine.machine_memory import Memory, verdict
from sage.tools.cli.terminal.output import write_data
from sage.tools.cli.terminal.table import Column, write_table
from sage.tools.cli.terminal.wrapping import write_fields

_ALL_OF_IT = "`sage llm run --estimate` counts the rest"
_COLUMNS = (
    Column(title="MODEL", priority=9),
    Column(title="REVISION", priority=3),
    Column(title="SIZE", priority=8, right=True),
    Column(title="LAST USED", priority=2),
    Column(title="TAGS", priority=1),
)


def write_models(models: Sequence[ModelInfo]) -> None:
    """Print a table of models."""
    now = datetime.now(tz=UTC)
    rows = [
        (
            model.model_id,
            short_revision(model.revision),
            format_bytes(model.size_bytes),
            ago(model.last_used, now),
            tags_text(model),
        )
        for model in models
    ]
    write_table(_COLUMNS, rows)


def write_details(model: ModelInfo, memory: Memory) -> None:
    """Print all that is known of one model."""
    tags = dict(model.tags)
    lines = [
        ("Model", model.model_id),
        ("Revision", ", ".join((model.revision, *model.aliases))),
        ("Commit", model.commit),
        ("Path", str(model.path)),
        ("Size", f"{format_bytes(model.size_bytes)} in {len(model.files)} files"),
        ("Last used", model.last_used.astimezone().strftime("%Y-%m-%d %H:%M")),
        ("Source", model.source),
        ("Type", str(tags.pop("type", "text"))),
        ("Parameters", format_count(int(tags.pop("parameters", 0)))),
        ("Dtype", str(tags.pop("dtype", "unknown"))),
        ("Context", f"{tags['context_length']} tokens" if "context_length" in tags else "unknown"),
        ("Tags", ", ".join(f"{k}={v}" for k, v in tags.items() if k != "context_length") or "none"),
        ("Memory", f"{verdict(weight_bytes(model), memory)} (by the weights alone; {_ALL_OF_IT})"),
    ]
    write_fields(lines, column=12)
    write_data("Files:")
    for path, record in sorted(model.files.items()):
        write_data(f"  {format_bytes(record.size):>9}  {path}")


def model_json(model: ModelInfo, *, files: bool = False) -> dict[str, Any]:
    """Return a model as JSON; the path is absolute."""
    raw = {
        **model.to_json(),
        "path": str(model.path),
        "aliases": list(model.aliases),
        "source": model.source,
    }
    if not files:
        del raw["files"]
    return raw


def weight_bytes(model: ModelInfo) -> int:
    """Bytes of weights: what has to fit the memory before anything else does."""
    weights = (".safetensors", ".bin", ".pt", ".pth", ".gguf")
    return sum(record.size for path, record in model.files.items() if path.endswith(weights))


def tags_text(model: ModelInfo) -> str:
    """Return the tags in a table's cell: what it is, how large, and the user's own."""
    tags = dict(model.tags)
    parts = [str(tags.pop("type", ""))]
    if count := tags.pop("parameters", None):
        parts.append(format_count(int(count)))
    own = (
        f"{key}={value}" for key, value in tags.items() if key not in ("dtype", "context_length")
    )
    return " ".join((*parts, *own))


def format_count(count: int) -> str:
    """1_500_000_000 -> "1.5B", as the names of models have it."""
    for size, unit in ((10**9, "B"), (10**6, "M"), (10**3, "K")):
        if count >= size:
            return f"{count / size:.1f}{unit}"
    return str(count) if count else "unknown"


def short_revision(revision: str) -> str:
    """Return a commit by its first digits, as git shows it."""
    return revision[:8] if len(revision) == 40 else revision


def ago(moment: datetime, now: datetime) -> str:
    """Return how long ago a moment was: ``3 hours ago``."""
    seconds = (now - moment).total_seconds()
    for size, unit in ((86_400, "day"), (3_600, "hour"), (60, "minute")):
        if seconds >= size:
            count = int(seconds // size)
            return f"{count} {unit}{'s' if count > 1 else ''} ago"
    return "just now"
