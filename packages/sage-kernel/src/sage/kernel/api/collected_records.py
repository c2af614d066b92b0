"""CollectedRecords: a list of records that a notebook shows as a table."""

from __future__ import annotations

from typing import Any

from sage.kernel.runtime.html import brief, html_table

_SHOWN = 20


class CollectedRecords(list[Any]):
    """What ``collect()`` returns: a list, of which IPython and notebooks show the first records."""

    def _repr_html_(self) -> str:
        shown = self[:_SHOWN]
        if not shown or not all(isinstance(record, dict) for record in shown):
            return html_table(["record"], ([record] for record in shown), self._count())
        columns = list(dict.fromkeys(name for record in shown for name in record))
        rows = ([record.get(name, "") for name in columns] for record in shown)
        return html_table([str(name) for name in columns], rows, self._count())

    def _repr_pretty_(self, printer: Any, cycle: bool) -> None:  # noqa: FBT001 - IPython's way
        del cycle  # a record that has this list in it is brief too
        printer.text("\n".join([self._count(), *map(brief, self[:_SHOWN])]))

    def _count(self) -> str:
        count = f"{len(self):,} record{'' if len(self) == 1 else 's'}"
        return f"{count}, the first {_SHOWN}:" if len(self) > _SHOWN else count
