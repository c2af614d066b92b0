"""FingerprintedInput: a source that can tell whether its input is the same as in an earlier run."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Protocol, runtime_checkable


@dataclass(frozen=True, kw_only=True)
class InputChange:
    """How an input differs from what it was when a checkpoint was begun.

    Args:
        what: the difference as the rest of a sentence, with the name of what changed:
            ``"in.jsonl has 812 bytes, not 640"``.
        grew: records were added at the end, and nothing else changed. If the last record may
            continue in what was added, it has changed, and this is False.
        first: how many records at the beginning are certainly unchanged. A run that has done no
            more than these can go on: the line that stopped it was mended.
    """

    what: str
    grew: bool = False
    first: int = 0


@runtime_checkable
class FingerprintedInput(Protocol):
    """A source whose input can change between two runs with the same checkpoint.

    A checkpoint counts records. If a line is put before the others, a count names other records
    than before, and some are done twice. So the checkpoint keeps a fingerprint of the input, and
    a run that would go on asks the source whether it still is that input.

    Both methods are called on an instance of its own, which is never set up: before services are
    opened, so that nobody waits for an engine to hear that an input changed.
    """

    def input_fingerprint(self) -> Any:
        """Return what tells this input from any other, as a value that JSON can hold.

        For files: their names, sizes, times and digests. Raises what ``setup()`` would raise for
        an input that is missing.
        """
        ...

    def input_change(self, before: Any) -> InputChange | None:
        """Compare the input with an earlier fingerprint of it; None if it is the same."""
        ...
