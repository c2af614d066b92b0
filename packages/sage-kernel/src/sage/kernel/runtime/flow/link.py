"""Link: the way into an operator, and the types of what goes along it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

Push = Callable[[Any], None]
"""Hands a record to an operator, and returns when that has room for the next one."""

Finish = Callable[[], None]
"""Tells an operator that no record follows."""

States = dict[str, Any]
"""What the durable sinks have delivered, by sink."""

Mark = Callable[[int, States], None]
"""Tells an operator that all records before a position passed, with the states of the sinks."""


def no_mark(position: int, states: States) -> None:
    """Drop a mark: the run keeps no checkpoint."""


@dataclass(frozen=True, slots=True)
class Link:
    """The way into an operator, from one replica of the operator before it."""

    push: Push
    finish: Finish
    mark: Mark = no_mark
