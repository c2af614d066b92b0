"""AllRecordsFailedError: a run that lets errors pass, but in which nothing else came.

``on_error`` is for some bad records. Where an operator could process none at all, the mistake is
in the pipeline or its input, and a run that ended as if all were well would hide it: from people,
and from whatever looks at the exit status. ADR 15 says where the line is.
"""

from __future__ import annotations

from sage.common.core.errors import SageError

ENOUGH = 10
"""Records that fail a run if all of them failed. Fewer may be bad each by itself: a warning."""


class AllRecordsFailedError(SageError):
    """Each record that came to ``operator`` failed there: ``count`` of them, one by ``first``.

    They were skipped or dead-lettered, and nothing came out.
    """

    def __init__(self, operator: str, count: int, first: BaseException | None) -> None:
        by = "" if first is None else f", the first with {type(first).__name__}: {first}"
        records = "the only record" if count == 1 else f"all {count:,} records"
        super().__init__(f"{records} failed in operator {operator!r}{by}")
        self.operator = operator
        self.count = count
        self.first = first
