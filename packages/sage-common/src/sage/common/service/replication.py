"""Replication: what a service says of being several copies in several processes."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future
from dataclasses import dataclass, field
from typing import Any, Literal

Scope = Literal["one", "each", "change"]
"""Whether any one copy answers a call; or each has to be asked; or each is changed by it."""


def _one(_method: str, _args: Sequence[Any], _kwargs: Mapping[str, Any]) -> Scope:
    return "one"


def _no_prefix(_method: str, _args: Sequence[Any], _kwargs: Mapping[str, Any]) -> str:
    return ""


OnPiece = Callable[[Any], None]
"""Accepts a piece of an answer, on any thread; it must not wait."""


class NotHereYet(Exception):  # noqa: N818 - the call is made again, nobody else hears of it
    """A call of a copy needs ``what``, which is to be brought from its origin first.

    The copy's host then calls ``bring`` on a thread of its own, and the method once more. The
    method itself cannot wait for it: calls come one after the other, and the origin's answers too.
    """

    def __init__(self, what: str, bring: Callable[[], None]) -> None:
        super().__init__(what)
        self.bring = bring


@dataclass(frozen=True, kw_only=True)
class Streaming:
    """How a method whose answer comes in pieces is called in another process.

    Args:
        start: the name of the method that is called there. It is given an OnPiece, then the
            arguments, and returns a Future, which is done after the last piece; cancelling it ends
            the work.
        reader: makes what the caller gets, here. It is given what starts the call, which is given
            an OnPiece and returns the Future.
    """

    start: str
    reader: Callable[[Callable[[OnPiece], Future[Any]]], Any]


@dataclass(frozen=True, kw_only=True)
class Replication:
    """How a service is run as several copies, as ``BaseService.replication`` returns it.

    ``prefix`` and ``scope`` are given a call: the method's name, its positional arguments and its
    keyword arguments.

    Args:
        gpus: GPUs that one copy takes, all of one machine.
        cpus: processors that one copy takes.
        replayable: whether a call may be made again on another copy when the one that had it died,
            perhaps after it had done it. It may where a call changes nothing outside of its copy.
        prefix: what calls have in common that are best answered by the same copy; ``""`` is
            nothing.
        scope: whether the call is for any one copy (``"one"``), or for each, since it tells about
            it (``"each"``) or changes it (``"change"``). What fails to change one changes none.
            It raises to refuse a call.
        combine: makes one result of those of all copies.
        streams: the methods whose answers come in pieces, by their names. Such a call is made
            again only if its caller has had no piece yet.
        origin: an object that stays in the process that has the pipeline. Copies call its methods
            by ``self.ctx.call_origin("method", ...)``, which returns a Future: so they get what is
            there alone, such as files. Each such call runs on a thread of its own.
    """

    gpus: float = 0
    cpus: float = 1
    replayable: bool = False
    prefix: Callable[[str, Sequence[Any], Mapping[str, Any]], str] = _no_prefix
    scope: Callable[[str, Sequence[Any], Mapping[str, Any]], Scope] = _one
    combine: Callable[[list[Any]], Any] = list
    streams: Mapping[str, Streaming] = field(default_factory=dict)
    origin: object = None

    def __post_init__(self) -> None:
        """Raise TypeError for ``streams`` that say no way to start and to read them."""
        streams = self.streams
        if not isinstance(streams, Mapping) or not all(
            isinstance(each, Streaming) for each in streams.values()
        ):
            raise TypeError(
                f"streams takes a mapping of names of methods to Streaming, not {streams!r}"
            )
