"""The manifest of isage 0.1 and 0.2, in which a model had one revision and no checksums.

::

    {"<model id>": {"path", "revision", "size_bytes", "last_used", "tags"}, ...}

or a list of such entries, each with its ``model_id``. The folders were
``<root>/<owner>__<name>[__<revision>]``, their paths absolute.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Mapping

    from sage.common.model_registry.model_info import Tag


@dataclass(frozen=True, kw_only=True)
class EarlierModel:
    """One model of such a manifest; what cannot be read is left out."""

    model_id: str
    revision: str
    path: Path
    last_used: datetime
    tags: Mapping[str, Tag]

    def folder(self, root: Path) -> Path:
        """Where its files are, also in a registry that was moved since."""
        return self.path if self.path.is_dir() else root / self.path.name


def earlier_models(raw: Any) -> list[EarlierModel] | None:
    """Return a manifest's models, the one used last at the end; None if it is no earlier one."""
    if isinstance(raw, dict) and "version" not in raw:
        entries = [
            {"model_id": key, **entry} if isinstance(entry, dict) else {}
            for key, entry in raw.items()
        ]
    elif isinstance(raw, list) and raw:
        entries = [entry if isinstance(entry, dict) else {} for entry in raw]
    else:
        return None
    if not all(isinstance(each.get(key), str) for each in entries for key in ("model_id", "path")):
        return None
    return sorted(map(_model, entries), key=lambda model: model.last_used)


def _model(entry: Mapping[str, Any]) -> EarlierModel:
    return EarlierModel(
        model_id=entry["model_id"],
        revision=str(entry.get("revision") or "main"),
        path=Path(entry["path"]),
        last_used=_moment(entry.get("last_used")),
        tags=_tags(entry.get("tags")),
    )


def _moment(raw: Any) -> datetime:
    """Read seconds since 1970, or a date in ISO's form; 1970 where it is neither."""
    try:
        if isinstance(raw, str):
            moment = datetime.fromisoformat(raw)
            return moment if moment.tzinfo is not None else moment.replace(tzinfo=UTC)
        return datetime.fromtimestamp(float(raw), tz=UTC)
    except (ValueError, TypeError, OverflowError, OSError):
        return datetime.fromtimestamp(0, tz=UTC)


def _tags(raw: Any) -> dict[str, Tag]:
    """Read a dict of tags, or a list, of which each gets the value "yes"."""
    if isinstance(raw, dict):
        return {str(key): value for key, value in raw.items() if isinstance(value, str | int)}
    return {str(tag): "yes" for tag in raw} if isinstance(raw, list) else {}
