"""What goes to a process and comes from it: batches of numbered messages.

To the process go calls, some of them for answers in pieces, cancels of them, and answers to what it
asked; from it come results, pieces before them, and what it asks of the services here.
"""

from __future__ import annotations

from collections import deque
from typing import Literal

Kind = Literal["call", "stream", "cancel", "answer", "result", "piece", "ask", "unask"]

Message = tuple[Kind, int, bytes]
"""Its kind, the number of the call or question that it is about, and what is said."""

_MOST_BYTES = 8 << 20  # of one batch, unless a single message has more


def take_batch(waiting: deque[Message]) -> list[Message]:
    """Take the messages of the next batch off a queue: all, or as many as go at once."""
    batch: list[Message] = []
    size = 0
    while waiting and (not batch or size + len(waiting[0][2]) <= _MOST_BYTES):
        batch.append(waiting.popleft())
        size += len(batch[-1][2])
    return batch
