"""Placement: which model is loaded next, and which make place for it.

A model keeps its place while it has calls. One that has none makes place for another that waits

- at once, if no engine has had a call for a moment;
- if others are at work, after as long as loading it took: a caller that asks one model again and
  again, and rests in between, would else have it loaded for each question.

Calls that have waited for ``max_wait`` seconds take the place of any model that is not pinned, the
one that was used least recently; its calls in flight are finished first. So no model waits for
ever, and no two take turns more often than that.

Among those that wait, first come those that have waited too long; then the one with the most work
for each second that loading it takes.

The rule knows no clock, no thread and no engine: ``next_step`` is a function of what it is told.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

_QUIET_SECONDS = 0.05  # no calls at all for so long: nobody is about to call again
_SOONEST_SECONDS = 0.001


@dataclass(frozen=True, kw_only=True)
class Standing:
    """What the rule is told of one model; times are in seconds, as of now.

    - ``bytes``: what its engine holds, or would hold.
    - ``resident``: whether it has its place.
    - ``pinned``: whether it must keep it.
    - ``running``: calls that its engine works on.
    - ``waiting``: prompts and texts that wait for it to be loaded; ``waited`` how long the first.
    - ``idle``: how long no call has run; ``placed`` how long it has had its place.
    - ``keep_alive``: how long it may be idle; None for ever.
    - ``load_seconds``: what loading it takes.
    - ``crowded``: loading it found too little memory, whatever its ``bytes`` say: another model has
      to go first.
    """

    name: str
    bytes: int = 0
    resident: bool = False
    pinned: bool = False
    running: int = 0
    waiting: int = 0
    waited: float = 0.0
    idle: float = 0.0
    placed: float = 0.0
    keep_alive: float | None = None
    load_seconds: float = 1.0
    crowded: bool = False


@dataclass(frozen=True, kw_only=True)
class Step:
    """What is to be done: unload the models ``evict``, then load ``load``.

    With ``in_vain`` no place can be made for ``load``, whatever is unloaded. If there is nothing to
    do now, there may be after ``after`` seconds; None unless something happens before.
    """

    load: str | None = None
    evict: tuple[str, ...] = ()
    in_vain: bool = False
    after: float | None = None

    @property
    def acts(self) -> bool:
        """Whether there is something to do now."""
        return self.load is not None or bool(self.evict)


class Placement(Protocol):
    """A rule by which models get their places."""

    def next_step(self, models: Sequence[Standing], room: float) -> Step:
        """Return what is to be done, with so many bytes free for another engine."""
        ...


class FairPlacement:
    """The rule that this module describes."""

    def __init__(self, max_wait: float) -> None:
        self._max_wait = max_wait

    def next_step(self, models: Sequence[Standing], room: float) -> Step:
        """Return what is to be done, with so many bytes free for another engine."""
        later: list[float] = []
        for model in sorted((m for m in models if m.waiting and not m.resident), key=self._turn):
            step = self._place(model, models, room)
            if step.acts:
                return step
            if step.after is not None:
                later.append(step.after)
        for model in models:
            if model.keep_alive is not None and model.resident and not model.running:
                left = model.keep_alive - model.idle
                if left <= 0:
                    return Step(evict=(model.name,))
                later.append(left)
        return Step(after=max(_SOONEST_SECONDS, min(later)) if later else None)

    def _is_late(self, model: Standing) -> bool:
        return model.waited >= self._max_wait

    def _turn(self, model: Standing) -> tuple[bool, float, str]:
        """Return what orders models that wait: lower ones go first."""
        if self._is_late(model):
            return False, -model.waited, model.name
        return True, -model.waiting / max(model.load_seconds, _SOONEST_SECONDS), model.name

    def _place(self, model: Standing, models: Sequence[Standing], room: float) -> Step:
        """Return how the model gets a place, or when it may."""
        if model.bytes <= room and not model.crowded:
            return Step(load=model.name)
        movable = sorted(
            (m for m in models if m.resident and not m.pinned),
            key=lambda each: (each.running > 0, -each.idle, -each.placed, each.name),
        )
        if not movable or room + sum(m.bytes for m in movable) < model.bytes:
            return Step(load=model.name, in_vain=True)
        late = self._is_late(model)
        residents = [m for m in models if m.resident]
        restless = max((_QUIET_SECONDS - m.idle for m in residents), default=0.0)
        busy = restless > 0 or any(m.running for m in residents)
        later = [max(0.0, self._max_wait - model.waited)]
        if restless > 0:
            later.append(restless)
        chosen: list[Standing] = []
        for victim in movable:
            rest = 0.0 if late else _rest_of(victim, busy=busy)
            if victim.running and not late:
                continue
            if rest > 0:
                later.append(rest)
                continue
            chosen.append(victim)
            room += victim.bytes
            if model.bytes <= room:
                return Step(load=model.name, evict=tuple(m.name for m in chosen))
        return Step(after=min(later))


def _rest_of(victim: Standing, *, busy: bool) -> float:
    """Return how many seconds a model without calls keeps its place yet."""
    return (victim.load_seconds if busy else _QUIET_SECONDS) - victim.idle
